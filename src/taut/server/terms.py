"""The terms on which connections are accepted, and those of a route: what it says otherwise than its server."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

from ..options import CONNECTION_OPTIONS, check_count, check_deflate, check_sequence, connection_options
from ..subprotocols import Offer, Subprotocol, check_codec, check_subprotocols
from ..types import ConnectionOptions, DeflateOptions, Request, Response
from .connection import ServerConnection
from .handshake import Rules
from .middleware import Middleware, check_middleware

__all__ = [
    "Origins",
    "ProcessRequest",
    "ProcessResponse",
    "RouteRules",
    "SelectSubprotocol",
    "Terms",
    "check_hook",
    "check_origins",
    "route_terms",
]

ProcessRequest: TypeAlias = Callable[[ServerConnection, Request], Awaitable[Response | None] | Response | None]
ProcessResponse: TypeAlias = Callable[
    [ServerConnection, Request, Response], Awaitable[Response | None] | Response | None
]
SelectSubprotocol: TypeAlias = Callable[[ServerConnection, Sequence[str]], str | None]
Origins: TypeAlias = Sequence[str | re.Pattern[str] | None]

_OWN = frozenset(
    {
        "codec",
        "compression",
        "max_connections",
        "middleware",
        "origins",
        "process_request",
        "select_subprotocol",
        "subprotocols",
    }
)


@dataclass(frozen=True, slots=True)
class RouteRules:
    """What a server asks of requests to one route, and grants them: ``Rules`` with everything filled in."""

    options: ConnectionOptions
    origins: Origins | None
    subprotocols: Offer
    codec: Subprotocol[Any] | None
    select_subprotocol: SelectSubprotocol | None
    deflate: DeflateOptions | None
    server_header: str | None
    max_head: int
    max_headers: int


@dataclass(frozen=True, slots=True)
class Terms:
    """``own``: by the name of an attribute of ``Rules``; ``options``: by the name of a ``ConnectionOptions`` field."""

    own: Mapping[str, Any]
    options: Mapping[str, Any]

    @property
    def process_request(self) -> ProcessRequest | None:
        """The hook of the route."""
        return self.own.get("process_request")

    @property
    def max_connections(self) -> int | None:
        """How many open connections the route may have."""
        return self.own.get("max_connections")

    @property
    def middleware(self) -> tuple[Middleware, ...]:
        """The layers of the route, the outermost first."""
        layers: tuple[Middleware, ...] = self.own.get("middleware", ())
        return layers

    def over(self, base: Terms) -> Terms:
        """These, and those of ``base`` where these say nothing; the middleware of ``base`` is around that of these."""
        own = {**base.own, **self.own}
        if layers := base.middleware + self.middleware:
            own["middleware"] = layers
        return Terms(own, {**base.options, **self.options})

    def rules(self, server: Rules) -> RouteRules:
        """What counts for a route with these terms on ``server``."""
        values = {each.name: getattr(server, each.name) for each in fields(RouteRules)}
        values |= {name: value for name, value in self.own.items() if name in values}
        values["options"] = replace(server.options, **self.options)
        return RouteRules(**values)


def route_terms(given: Mapping[str, Any]) -> Terms:
    """The terms that were given by name. Raises ``TypeError`` or ``ValueError``, naming the option."""
    unknown = given.keys() - _OWN - CONNECTION_OPTIONS
    if unknown:
        known = ", ".join(sorted(_OWN | CONNECTION_OPTIONS))
        raise TypeError(f"unexpected option {min(unknown)}; known are {known}")
    options = {name: given[name] for name in given.keys() & CONNECTION_OPTIONS}
    connection_options(options)
    own: dict[str, Any] = {}
    if "origins" in given:
        own["origins"] = check_origins(given["origins"])
    if "subprotocols" in given:
        own["subprotocols"] = check_subprotocols(given["subprotocols"])
    if "codec" in given:
        own["codec"] = check_codec(given["codec"])
    if "middleware" in given:
        own["middleware"] = check_middleware(given["middleware"])
    if "compression" in given:
        own["deflate"] = check_deflate(given["compression"])
    for name in ("select_subprotocol", "process_request"):
        if name in given:
            check_hook(name, given[name])
            own[name] = given[name]
    if "max_connections" in given:
        check_count("max_connections", given["max_connections"], least=1, optional=True)
        own["max_connections"] = given["max_connections"]
    return Terms(own, options)


def check_origins(value: object) -> Origins | None:
    """``value`` if it is None or a sequence of origins and patterns."""
    origins: Origins | None = check_sequence("origins", value, (str, re.Pattern, type(None)))
    return origins


def check_hook(name: str, value: object) -> None:
    """Refuse what cannot be called, and is not None."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be callable or None, not {value!r}")
