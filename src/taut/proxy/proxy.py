"""``Proxy``: WebSocket connections to it are connections to its upstreams.

The upstream is dialled while the client's opening handshake waits for its answer (``process_request``), so that the
client is answered what the upstream answers: the subprotocol it chose, its refusal, or that there is none.  What has
been opened for a client then is a ``Leg``.  Until the handler has taken it, it belongs to the task that negotiates the
handshake, and after that to the task of the handler: with the end of its task a leg is dropped, whatever happened.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from ..options import check_count, check_deflate, check_number, connection_options
from ..protocol.handshake import check_origin, check_request, offered_subprotocols
from ..server.connection import ServerConnection
from ..server.handshake import plain_response
from ..types import DeflateOptions, Request, Response
from .answers import Asked, reach
from .headers import Forwards, Peer, headers_for_client
from .health import HealthChecks
from .legs import Leg
from .metrics import upstream_samples
from .paths import climbs, split_target
from .relay import relay
from .routes import Route, as_routes, find_route
from .served import ServedRoute
from .upstreams import Upstream, UpstreamStats

__all__ = ["Proxy"]

_FORWARDS = ("x-forwarded", "forwarded", "both", None)
_UNLIMITED = ("max_size", "max_fragments")


class Proxy:
    """A reverse proxy for WebSocket connections: ``taut.proxy.serve(proxy, ...)``, or routes of a ``taut.Router``.

    ``to``: where everything goes, a URI, an ``Upstream``, or a sequence of these; or a ``Route``, or a sequence of
    routes.

    ``dial_timeout`` (5 s): for opening a connection to an upstream, with everything that belongs to it.
    ``forwards``: how the upstream is told who the client is: "x-forwarded", "forwarded" (RFC 7239), "both", or None.
    ``compression``: with the upstreams, "deflate", None, or ``DeflateOptions``. ``logger``: where to log, by default
    "taut.proxy". ``max_head`` (16384 bytes), ``max_headers`` (128): limits of an upstream's response. Everything in
    ``ConnectionOptions`` is accepted by name as well, for the connections to upstreams; ``max_size`` and
    ``max_fragments`` have no limit by default, because nothing is held but what is on its way.

    Raises ``TypeError`` or ``ValueError`` for a wrong argument.
    """

    def __init__(
        self,
        to: str | Upstream | Route | Sequence[str | Upstream] | Sequence[Route],
        *,
        dial_timeout: float = 5.0,
        forwards: Forwards | None = "x-forwarded",
        compression: str | DeflateOptions | None = "deflate",
        logger: logging.Logger | str | None = None,
        max_head: int = 16384,
        max_headers: int = 128,
        **options: Any,
    ) -> None:
        self.dial_timeout = check_number("dial_timeout", dial_timeout, above=0)
        if forwards not in _FORWARDS:
            raise ValueError(f'forwards must be "x-forwarded", "forwarded", "both" or None, not {forwards!r}')
        self.forwards: Forwards | None = forwards
        check_deflate(compression)
        check_count("max_head", max_head, least=1)
        check_count("max_headers", max_headers, least=1)
        self.logger = logger if isinstance(logger, logging.Logger) else logging.getLogger(logger or "taut.proxy")
        options = dict.fromkeys(_UNLIMITED) | options
        connection_options(options)
        if "cancel_on_close" in options:
            raise TypeError("cancel_on_close is for handlers of a server, which a proxy brings along")
        connecting = options | {
            "compression": compression,
            "connecting_limit": None,
            "logger": logging.getLogger(f"{self.logger.name}.upstream"),
            "max_head": max_head,
            "max_headers": max_headers,
            "max_redirects": 0,
            "open_timeout": self.dial_timeout,
            "user_agent_header": None,
        }
        self._served = [ServedRoute(route, connecting) for route in as_routes(to)]
        checks = [(b, served.route.health) for served in self._served for b in served.balance.backends]
        self._checks = HealthChecks([(b, check) for b, check in checks if check is not None], self.logger)
        self._legs: dict[ServerConnection, Leg] = {}

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes, in the order in which they are looked at: the longest paths first."""
        return tuple(served.route for served in self._served)

    @property
    def stats(self) -> tuple[UpstreamStats, ...]:
        """What is known of every upstream, in the order of the routes."""
        return tuple(backend.stats() for served in self._served for backend in served.balance.backends)

    def samples(self) -> dict[str, list[list[Any]]]:
        """What is known of every upstream, as samples of metrics, by name."""
        return upstream_samples(self._served)

    @property
    def terms(self) -> Mapping[str, Any]:
        """Options for a route of a ``Router``: ``router.add("/feed/{rest:path}", proxy.handler, **proxy.terms)``."""
        hooks = {"process_request": self.process_request, "select_subprotocol": self.select_subprotocol}
        return hooks | {"origins": ["*"]} | dict.fromkeys(_UNLIMITED)

    @property
    def patience(self) -> float:
        """The longest time that a client may have to wait for an answer (seconds), but for its own handshake."""
        return max(served.route.tries for served in self._served) * (self.dial_timeout or 0.0)

    # -- health checks -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the health checks; ``taut.proxy.serve`` does it. Needs a running event loop."""
        self._checks.start()

    async def stop(self) -> None:
        """Stop the health checks, and wait until they have stopped."""
        await self._checks.stop()

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.stop()

    # -- hooks of a server -------------------------------------------------------------------------------------

    async def process_request(self, connection: ServerConnection, request: Request) -> Response | None:
        """Open a connection to an upstream, or answer why there is none."""
        check_request(request)
        peer = _peer_of(connection)
        server = connection.server
        rules = server if connection.route is None else server.rules_of(connection.route)
        host = None if connection.proxied is None else connection.proxied.host
        secure = peer.secure if connection.proxied is None else connection.proxied.secure_or(peer.secure)
        check_origin(request, rules.origins, secure=secure, host=host)
        path, query = split_target(request.path)
        served = None if climbs(path) else find_route(self._served, path)
        if served is None:
            return plain_response(404, "not found\n")
        addresses = connection.remote_address, connection.local_address
        asked = Asked(request, path, query, tuple(offered_subprotocols(request)), peer, addresses, self.forwards)
        task = asyncio.current_task()
        assert task is not None  # a hook that is awaited runs in one
        reached = await reach(served, asked, self.logger)
        if isinstance(reached, Response):
            self.logger.info("%s: answered with %d", path, reached.status_code)
            return reached
        self._legs[connection] = Leg(served, reached, request.path, self.logger)
        task.add_done_callback(lambda _: self._negotiated(connection))
        return None

    def select_subprotocol(self, connection: ServerConnection, offered: Sequence[str]) -> str | None:
        """The subprotocol that the upstream has chosen."""
        leg = self._legs.get(connection)
        return None if leg is None else leg.upstream.subprotocol

    def process_response(self, connection: ServerConnection, request: Request, response: Response) -> None:
        """Pass on headers of the upstream's answer, cookies for example."""
        leg = self._legs.get(connection)
        if leg is None or response.status_code != 101:
            return
        answer = leg.upstream.response
        headers = headers_for_client(answer.headers, answer=False) if answer is not None else response.headers
        leg.served.route.response_headers.apply(headers)
        for name, value in headers.raw_items():
            response.headers.add(name, value)

    async def _serve_leg(self, connection: ServerConnection, leg: Leg) -> None:
        try:
            await relay(connection, leg.upstream)
        finally:
            leg.log(connection)

    def handler(self, connection: ServerConnection, **_: Any) -> Any:
        """Serve a connection whose handshake has been accepted: the parameters of a route do not matter."""
        connection.deliver_parts()
        leg = self._legs.get(connection)
        if leg is None:
            raise RuntimeError("the hooks of the proxy have to be those of the server, or of the route")
        return self._serve_leg(connection, leg)

    def _negotiated(self, connection: ServerConnection) -> None:
        """The opening handshake is over; whose is the leg now?"""
        task = connection.handler_task
        if task is None:
            self._forget(connection)
        else:
            task.add_done_callback(lambda _: self._forget(connection))

    def _forget(self, connection: ServerConnection) -> None:
        leg = self._legs.pop(connection, None)
        if leg is not None:
            leg.end()


def _peer_of(connection: ServerConnection) -> Peer:
    """Who is at the other end of the byte stream, or of the one that the PROXY protocol tells about."""
    transport: Any = connection.transport
    address = transport.get_extra_info("peername")
    secure = transport.get_extra_info("sslcontext") is not None
    proxied = connection.proxied
    if proxied is not None and proxied.header is not None:
        secure = secure or proxied.header.secure is True
        if proxied.header.source is not None:
            address = proxied.header.source
    trusted = connection.server.trusted_proxies
    is_trusted = trusted is not None and address in trusted
    return Peer(address, secure, is_trusted, proxied.forwarding if is_trusted and proxied is not None else None)
