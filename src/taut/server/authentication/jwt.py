"""``jwt_auth``: a JSON Web Token in the Authorization header (RFC 7519), with PyJWT.

The algorithms are those that the server names, never those that a token asks for, and all of one kind: were a public
key taken for the secret of an HMAC, everybody could sign (RFC 8725, 2.1).  A key that is known in advance is read once,
when the hook is made.  Whatever is wrong with a token, it is answered alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from ...errors import MissingExtra
from ...options import check_number, check_sequence
from .bearer import AuthorizationHook
from .checks import Check, awaited, check_function, is_coroutine_function, must_wait
from .hooks import is_asynchronous_here

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["JWTCheck", "JWTHook", "jwt_auth"]


class JWTCheck:
    """A check that knows a JSON Web Token: gives its claims, or what the check of the user's makes of them."""

    __slots__ = ("_algorithms", "_check", "_fetch", "_jwt", "_key", "_options")

    def __init__(
        self, jwt: ModuleType, key: Any, algorithms: tuple[str, ...], check: Check | None, **options: Any
    ) -> None:
        self._jwt = jwt
        self._algorithms = algorithms
        self._check = check
        self._options = options
        self._key = None
        self._fetch: Callable[[dict[str, Any]], Any] | None = None
        if callable(getattr(key, "get_signing_key", None)):
            self._fetch = _KeySet(jwt, key)
        elif callable(key):
            check_function("key", key)
            self._fetch = key
        else:
            self._key = _prepared(jwt, key, algorithms)

    def __call__(self, token: str) -> Any:
        """The principal, None for a token that is not accepted, or something to await that gives one of these."""
        try:
            header = self._jwt.get_unverified_header(token)
        except (self._jwt.InvalidTokenError, RecursionError, ValueError):
            return None
        if header.get("alg") not in self._algorithms:
            return None
        if self._fetch is None:
            return self._judge(token, self._key)
        key = self._fetch(header)
        if must_wait("key", key):
            return self._judge_later(token, key, header["alg"])
        return self._judge_with(token, key, header["alg"])

    async def _judge_later(self, token: str, key: Any, algorithm: str) -> Any:
        return await awaited("check", self._judge_with(token, await key, algorithm))

    def _judge_with(self, token: str, key: Any, algorithm: str) -> Any:
        """With a key that is known only now: a wrong one is not the fault of the token."""
        if key is None:
            return None
        if not isinstance(key, self._jwt.PyJWK):
            key = self._jwt.get_algorithm_by_name(algorithm).prepare_key(key)
        return self._judge(token, key)

    def _judge(self, token: str, key: Any) -> Any:
        try:
            claims = self._jwt.decode(token, key, algorithms=self._algorithms, **self._options)
        except (self._jwt.InvalidTokenError, RecursionError, OverflowError, TypeError, ValueError):
            return None  # it raises more than it says for claims of unexpected types
        return claims if self._check is None else self._check(claims)

    @property
    def is_asynchronous(self) -> bool:
        """Whether it gives something to await."""
        return is_coroutine_function(self._fetch) or is_coroutine_function(self._check)


class _KeySet:
    """The keys of an issuer, from a ``jwt.PyJWKClient`` or its like."""

    __slots__ = ("_client", "_jwt")

    def __init__(self, jwt: ModuleType, client: Any) -> None:
        self._jwt = jwt
        self._client = client

    def __call__(self, header: dict[str, Any]) -> Any:
        if "kid" not in header:
            return None
        # The client fetches the keys now and then, and blocks while it does.
        return self._find_later(header["kid"]) if is_asynchronous_here() else self._find(header["kid"])

    async def _find_later(self, kid: str) -> Any:
        return await asyncio.to_thread(self._find, kid)

    def _find(self, kid: str) -> Any:
        try:
            return self._client.get_signing_key(kid)
        except self._jwt.PyJWKClientConnectionError:
            raise
        except self._jwt.PyJWKClientError:
            return None  # no such key


def _prepared(jwt: ModuleType, key: Any, algorithms: tuple[str, ...]) -> Any:
    """The key in the form that the algorithms use; what it is is not for error messages."""
    if isinstance(key, jwt.PyJWK):
        if key.algorithm_name not in algorithms:
            raise ValueError(f"key is for {key.algorithm_name}, which is not among the algorithms")
        return key
    if not key:
        raise ValueError("key must not be empty")
    prepared: Any = None
    for name in algorithms:
        algorithm = jwt.get_algorithm_by_name(name)
        try:
            prepared = algorithm.prepare_key(key)
        except (jwt.PyJWTError, ValueError):
            raise ValueError(f"key cannot be used with {name}") from None
        except TypeError:
            raise TypeError(f"key of type {type(key).__name__} cannot be used with {name}") from None
        if too_short := algorithm.check_key_length(prepared):  # RFC 7518, 3.2 and 3.3
            raise ValueError(f"key cannot be used with {name}: {too_short}")
    return prepared


class JWTHook(AuthorizationHook):
    """Finds a JSON Web Token in ``Authorization: Bearer``."""

    __slots__ = ()

    name = "jwt_auth"


def jwt_auth(
    key: Any,
    algorithms: Sequence[str],
    audience: str | Sequence[str] | None = None,
    issuer: str | Sequence[str] | None = None,
    leeway: float = 0.0,
    *,
    require: Sequence[str] = ("exp",),
    check: Check | None = None,
    realm: str = "",
) -> JWTHook:
    """Let in whoever shows a valid JSON Web Token: for ``process_request`` (RFC 7519, RFC 6750).

    ``key``: the secret or the public key as PyJWT takes it; a function, or coroutine function, that is called with the
    header of a token and returns its key, or None; or a ``jwt.PyJWKClient``. ``algorithms``: those that are accepted.
    ``audience``, ``issuer``: what the token must name, one of them where there are several; None: no audience may be
    named, any issuer may. ``leeway``: seconds by which clocks may differ. ``require``: claims that must be there.
    ``check``: called with the claims, a dict, and returns the principal, as by ``bearer_auth``; without it, the claims
    are the principal. ``realm``: for the challenge. ``check`` of the hook that is returned takes a token, for the hooks
    that find one elsewhere.

    Raises ``TypeError`` or ``ValueError`` for a wrong argument, ``MissingExtra`` without PyJWT.
    """
    try:
        import jwt  # noqa: PLC0415
    except ImportError:
        raise MissingExtra("jwt_auth", "jwt") from None
    accepted = _check_algorithms(jwt, algorithms)
    if check is not None:
        check_function("check", check)
    check_number("leeway", leeway, least=0)
    required = cast("tuple[str, ...]", check_sequence("require", require, (str,)) or ())
    options = {
        "audience": _check_names("audience", audience),
        "issuer": _check_names("issuer", issuer),
        "leeway": leeway,
        "options": {"require": list(required)},
    }
    return JWTHook(JWTCheck(jwt, key, accepted, check, **options), realm)


def _check_names(option: str, value: object) -> Any:
    """Refuse what is no str, nor several. Without any name, no token would be refused for it."""
    if value is None or (isinstance(value, str) and value):
        return value
    if value == "":
        raise ValueError(f"{option} must not be empty")
    names = check_sequence(option, value, (str,))
    if not names:
        raise ValueError(f"{option} must not be empty")
    return list(names)


def _check_algorithms(jwt: ModuleType, value: object) -> tuple[str, ...]:
    names = cast("tuple[str, ...]", check_sequence("algorithms", value, (str,)) or ())
    known = [name for name in jwt.algorithms.get_default_algorithms() if name.lower() != "none"]
    if not names:
        raise ValueError(f"algorithms must hold at least one of {', '.join(known)}")
    for name in names:
        if name not in known:
            raise ValueError(f"algorithms must be among {', '.join(known)}, not {name!r}")
    if len({name.startswith("HS") for name in names}) > 1:
        raise ValueError("algorithms must be all with a secret (HS...) or all with a public key, not both")
    return names
