"""Routes of a proxy: which requests go where, and what is changed about them on the way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from ..options import check_number, check_text
from .balancing import check_balance
from .headers import HeaderRules
from .health import HealthCheck
from .paths import is_below
from .upstreams import Upstream, as_upstream

__all__ = ["Route", "as_routes", "find_route"]

_NO_RULES = HeaderRules()
_host = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z._~-]+)(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Route:
    """What is below ``path`` goes to one of these upstreams.

    ``to``: an upstream, or a sequence of them, each a URI or an ``Upstream``. ``path``: "/chat" stands for /chat and
    all below it, "/" (the default) for everything; the longest that fits counts.

    ``strip_prefix``: leave ``path`` out of what the upstream is asked for. ``rewrite``: a regular expression and what
    replaces its matches in the path, after that, as ``re.sub`` has it; the query stays as it is.
    ``host``: the Host header, "preserve" for the client's, "upstream" for that of the URI, or any other to send.
    ``request_headers``, ``response_headers``: what is changed about headers on their way.

    ``balance``: "least_connections", "round_robin", "address" for the same upstream for the same client, or
    "cookie:NAME" for the same value of that cookie. ``tries`` (2): how many upstreams are dialled for one client.
    ``pause`` (1 s): for how long an upstream is left alone after a failed dial; doubled by each further failure, up to
    32 times. ``health``: a ``HealthCheck``; None for none.

    Raises ``TypeError`` or ``ValueError`` for a wrong argument.
    """

    to: str | Upstream | Sequence[str | Upstream]
    path: str = "/"
    strip_prefix: bool = field(default=False, kw_only=True)
    rewrite: tuple[str | re.Pattern[str], str] | None = field(default=None, kw_only=True)
    host: str = field(default="preserve", kw_only=True)
    request_headers: HeaderRules = field(default=_NO_RULES, kw_only=True)
    response_headers: HeaderRules = field(default=_NO_RULES, kw_only=True)
    balance: str = field(default="least_connections", kw_only=True)
    tries: int = field(default=2, kw_only=True)
    pause: float = field(default=1.0, kw_only=True)
    health: HealthCheck | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self.upstreams()
        check_text("path", self.path)
        if not re.fullmatch(r"/[!-\"$->@-~]*", self.path) or (self.path != "/" and self.path.endswith("/")):
            raise ValueError(
                f'path must be "/", or begin with / and not end with it, percent-encoded, not {self.path!r}'
            )
        if not isinstance(self.strip_prefix, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"strip_prefix must be True or False, not {self.strip_prefix!r}")
        self.rewriting()
        check_text("host", self.host)
        if not _host.fullmatch(self.host):
            raise ValueError(
                f'host must be "preserve", "upstream", or a host with or without a port, not {self.host!r}'
            )
        for name in ("request_headers", "response_headers"):
            if not isinstance(value := getattr(self, name), HeaderRules):
                raise TypeError(f"{name} must be HeaderRules, not {value!r}")
        check_balance(self.balance)
        if isinstance(self.tries, bool) or not isinstance(self.tries, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"tries must be a whole number, at least 1, not {self.tries!r}")
        if self.tries < 1:
            raise ValueError(f"tries must be a whole number, at least 1, not {self.tries!r}")
        check_number("pause", self.pause, above=0)
        if self.health is not None and not isinstance(self.health, HealthCheck):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"health must be a HealthCheck or None, not {self.health!r}")

    def upstreams(self) -> tuple[Upstream, ...]:
        """Where it goes."""
        given: Any = (self.to,) if isinstance(self.to, str | Upstream) else self.to
        if not isinstance(given, Sequence):
            raise TypeError(f"to must be a URI, an Upstream, or a sequence of these, not {given!r}")
        upstreams = tuple(as_upstream(each) for each in cast("Sequence[object]", given))
        if not upstreams:
            raise ValueError("to must name at least one upstream")
        return upstreams

    def rewriting(self) -> tuple[re.Pattern[str], str] | None:
        """``rewrite``, ready for use."""
        if self.rewrite is None:
            return None
        given: Any = self.rewrite
        parts = cast("tuple[object, ...]", given) if isinstance(given, tuple) else ()
        if len(parts) != 2 or not isinstance(parts[0], str | re.Pattern) or not isinstance(parts[1], str):
            raise TypeError(f"rewrite must be a tuple of a regular expression and a replacement, not {given!r}")
        try:
            pattern: re.Pattern[str] = re.compile(cast("str", parts[0]))
            pattern.sub(parts[1], "")
        except (re.error, IndexError) as exc:
            raise ValueError(f"rewrite: {given!r} cannot be used: {exc}") from None
        return pattern, parts[1]


def as_routes(given: object) -> tuple[Route, ...]:
    """What a proxy was given: routes, or where everything goes. The longest paths come first."""
    if isinstance(given, Route):
        return (given,)
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        items = cast("Sequence[object]", given)
        routes = [each for each in items if isinstance(each, Route)]
        if routes:
            if len(routes) != len(items):
                raise TypeError(f"to must hold routes only, or upstreams only, not {given!r}")
            paths = [route.path for route in routes]
            for path in paths:
                if paths.count(path) > 1:
                    raise ValueError(f"two routes have the path {path!r}")
            return tuple(sorted(routes, key=lambda route: -len(route.path)))
    return (Route(cast("str", given)),)


def find_route(routes: Sequence[Any], path: str) -> Any:
    """The first of these whose ``path`` that of a request is below, or None."""
    return next((each for each in routes if is_below(path, each.path)), None)
