"""``basic_auth``: a user name and a password in the Authorization header (RFC 7617).

Of the passwords that were given, only digests are kept, with a key that this process made.  Digests of equal length are
compared in constant time, and for a user that does not exist one is compared as well: neither the length of a password,
nor how much of it is right, nor whether the user exists shows in the time it takes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from ...types import Request
from .authorization import authorization
from .checks import check_function, is_coroutine_function, judge
from .failures import Failure, Refusal
from .hooks import AnyConnection, Hook, quoted

__all__ = ["BasicHook", "basic_auth"]

Pair = tuple[str, str]

_control = re.compile(r"[\x00-\x1f\x7f]")
_WANTED = "a pair of user name and password, both str, or a sequence of such pairs"


class BasicHook(Hook):
    """Finds a user name and a password, and asks its check whether they belong together."""

    __slots__ = ("_realm", "check")

    name = "basic_auth"

    def __init__(self, check: Callable[[str, str], Any], realm: str) -> None:
        self._realm = quoted("realm", realm)
        self.check = check

    def take(self, connection: AnyConnection, request: Request) -> Pair | Failure:
        given = authorization(request, "basic")
        return given if isinstance(given, Failure) else _decoded(given) or Failure.WRONG

    async def decide(self, connection: AnyConnection, request: Request, taken: Pair | Failure) -> Refusal | None:
        if isinstance(taken, Failure):
            return self.refusal(taken)
        username, password = taken
        failure, _ = await judge(connection, self.name, self.check, username, password, secrets=(password,))
        if failure is not None:
            return self.refusal(failure)
        connection.principal = username
        return None

    def challenge(self, failure: Failure) -> str | None:
        if failure in (Failure.ABSENT, Failure.WRONG):
            return f'Basic realm={self._realm}, charset="UTF-8"'
        return None

    @property
    def is_asynchronous(self) -> bool:
        return is_coroutine_function(self.check)


def _decoded(credentials: str) -> Pair | None:
    """User name and password (RFC 7617, 2); None when malformed."""
    try:
        text = base64.b64decode(credentials, validate=True).decode()
    except ValueError:
        return None
    username, colon, password = unicodedata.normalize("NFC", text).partition(":")
    return (username, password) if colon and not _control.search(text) else None


class _Known:
    """A check against what is known in advance."""

    __slots__ = ("_digests", "_key", "_nobody")

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self._key = secrets.token_bytes(32)
        self._nobody = secrets.token_bytes(32)
        self._digests = {
            unicodedata.normalize("NFC", username): self._digest(unicodedata.normalize("NFC", password))
            for username, password in pairs
        }

    def _digest(self, password: str) -> bytes:
        return hashlib.blake2b(password.encode(), key=self._key, digest_size=32).digest()

    def __call__(self, username: str, password: str) -> bool:
        return hmac.compare_digest(self._digest(password), self._digests.get(username, self._nobody))


def basic_auth(
    realm: str = "",
    credentials: tuple[str, str] | Sequence[tuple[str, str]] | None = None,
    check_credentials: Callable[[str, str], Any] | None = None,
) -> BasicHook:
    """Let in whoever has a user name and the password to it: for ``process_request`` (RFC 7617).

    ``realm``: for the challenge. ``credentials``: a pair of user name and password, or a sequence of such pairs.
    ``check_credentials``: called with both instead, and returns whether they are right; it may be a coroutine function.
    The user name becomes ``ws.principal``.

    Raises ``TypeError`` or ``ValueError`` for a wrong argument.
    """
    if (credentials is None) == (check_credentials is None):
        raise TypeError("one of credentials and check_credentials says who may come in")
    if check_credentials is not None:
        check_function("check_credentials", check_credentials)
        return BasicHook(check_credentials, realm)
    return BasicHook(_Known(_pairs(credentials)), realm)


def _pairs(credentials: object) -> list[Pair]:
    """The pairs of the option; what it holds is not for error messages."""
    if isinstance(credentials, str | bytes) or not isinstance(credentials, Sequence):
        raise TypeError(f"credentials must be {_WANTED}, not {type(credentials).__name__}")
    items = list(cast("Sequence[object]", credentials))
    if len(items) == 2 and isinstance(items[0], str):
        items = [tuple(items)]
    pairs: list[Pair] = []
    for item in items:
        pair = cast("tuple[object, ...]", item)
        if not isinstance(item, tuple | list) or len(pair) != 2:
            raise TypeError(f"credentials must be {_WANTED}; one of them is no pair")
        username, password = pair
        if not isinstance(username, str) or not isinstance(password, str):
            raise TypeError(f"credentials must be {_WANTED}; one of them is not of str")
        if ":" in username or _control.search(username + password):
            raise ValueError("credentials: a user name with a colon, or a control character, cannot be sent")
        pairs.append((username, password))
    if not pairs:
        raise ValueError(f"credentials must be {_WANTED}, not an empty one")
    if len({username for username, _ in pairs}) != len(pairs):
        raise ValueError("credentials: a user name is there twice")
    return pairs
