"""The running server: what it has, what openings ask it for, and how it ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..connection.watching import Watcher
from ..drivers.contexts import contexts_of
from ..drivers.transports import Accepting, accept_sockets, accept_transports, plain_transport, watches_descriptors
from ..errors import InvalidMessage, RateExceeded
from ..protocol.session import valid_close_code
from .admission import Admission
from .arriving import Arrivals
from .connection import ServerConnection
from .lifecycle import Lifecycle
from .listening import port_of, printable
from .middleware import Passage, handshake_hooks
from .opening import Opening
from .routing import Route
from .tally import ServerStats, Tally
from .terms import (
    RouteRules,
)

if TYPE_CHECKING:
    from .serving import serve

__all__ = ["Server"]


class Server(Lifecycle):
    """A running server. ``serve`` makes it; ``async with serve(...) as server`` closes it at the end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, settings: serve) -> None:
        super().__init__(loop)
        self.handler = settings.handler
        self.router = settings.router
        self.options = settings.options
        self.logger = settings.logger
        self.origins = settings.origins
        self.subprotocols = settings.subprotocols
        self.select_subprotocol = settings.select_subprotocol
        self.process_request = settings.process_request
        self.events = settings.events
        self.process_response = settings.process_response
        self.middleware = settings.middleware
        self.handshake_hooks = handshake_hooks(settings.middleware)
        hooks = (settings.process_request, settings.process_response, settings.limits.shared_limits)
        self.has_hooks = bool(self.handshake_hooks) or any(hook is not None for hook in hooks)
        self.codec = settings.codec
        self._state: Any = SimpleNamespace() if settings.state is None else settings.state
        self.deflate = settings.deflate
        self.contexts = contexts_of(loop)
        self.server_header = settings.server_header
        self.patience = settings.options.close_timeout
        """How long handlers may take to return, and then to be cancelled, once their connections are closed."""
        self.open_timeout = settings.open_timeout
        self.max_head = settings.max_head
        self.max_headers = settings.max_headers
        self.trusted_proxies = settings.trusted_proxies or None
        self._rules: dict[Route, RouteRules] = {}
        self._passages: dict[Route | None, Passage] = {}
        self.openings: set[Opening] = set()
        self._no_openings: asyncio.Future[None] | None = None
        self.connections_open: set[ServerConnection] = set()
        self.arrivals = Arrivals(self, settings)
        self.admission = Admission(self, settings)
        self.tally = Tally()
        self._settings = settings
        self._sockets: tuple[socket.socket, ...] = ()
        self._closing: asyncio.Task[None] | None = None
        self._closed: asyncio.Future[None] = loop.create_future()

    # -- what openings need ------------------------------------------------------------------------------------

    def new_opening(self) -> Opening:
        """The protocol for a connection that has just been accepted."""
        return Opening(self)

    def rules_of(self, route: Route) -> RouteRules:
        """What is asked of requests to this route, and granted to them."""
        rules = self._rules.get(route)
        if rules is None:
            rules = self._rules[route] = route.terms.rules(self)
        return rules

    def passage(self, route: Route | None) -> Passage:
        """What connections to this route pass through; None for a server without a router."""
        passage = self._passages.get(route)
        if passage is None:
            rules = self if route is None else self.rules_of(route)
            layers = () if route is None else route.terms.middleware
            passage = self._passages[route] = Passage(self.middleware, layers, rules.subprotocols, rules.codec)
        return passage

    def opening_done(self, opening: Opening) -> None:
        """The connection is open, or it was refused and is gone."""
        self.openings.discard(opening)
        if self._no_openings is not None and not self.openings and not self._no_openings.done():
            self._no_openings.set_result(None)

    def new_connection(self) -> ServerConnection:
        """A connection of this server that is not open yet."""
        connection = ServerConnection(self.loop, self.options, self.logger, self)
        if self.events:
            connection.watcher = Watcher(self.events, connection, self.loop, self.logger)
        return connection

    def connection_done(self, connection: ServerConnection) -> None:
        """The connection is closed and its handler has returned."""
        with self.tally.lock:
            if connection in self.connections_open:
                self.connections_open.remove(connection)
                self.tally.connection_done(connection)
        self.count_changed()
        self.admission.leave(connection.admitted)
        connection.admitted = None
        if isinstance(connection.session.cause, RateExceeded):
            self.tally.rate_exceeded += 1

    # -- running -----------------------------------------------------------------------------------------------

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Accept connections on these sockets; ``serve`` calls it. Raises ``OSError`` when listening fails."""
        self._sockets = tuple(sockets)
        if self.admission.sharing is not None:
            await self.admission.sharing.ledger.start()
        settings = self._settings
        for sock in sockets:
            if watches_descriptors(self.loop):
                through_stages = settings.ssl is not None or settings.proxy_protocol
                accepted = self.admission.guard(self.arrivals.accepted if through_stages else self._accepted)
                self.accept_from(accept_sockets(self.loop, accepted, sock, settings.backlog))
            elif settings.proxy_protocol or self.admission.is_needed:
                what = "proxy_protocol" if settings.proxy_protocol else "a limit on connections"
                raise ValueError(f"{what} needs an event loop that can watch sockets, which this one cannot")
            else:
                self.accept_from(
                    await accept_transports(
                        self.loop,
                        self.new_opening,
                        sock,
                        settings.ssl,
                        backlog=settings.backlog,
                        tls_timeout=settings.open_timeout,
                    )
                )
            self.logger.info("server listening on %s", printable(sock))

    def _accepted(self, sock: socket.socket, address: Any) -> None:
        """A connection that needs nothing before its opening handshake."""
        opening = self.new_opening()
        opening.connection.admitted = self.admission.enter(address)
        plain_transport(self.loop, sock, opening)

    def accept_from(self, accepting: Accepting) -> None:
        """Something accepts connections for this server; it is closed together with it."""
        self.listening.append(accepting)

    @property
    def state(self) -> Any:
        """What the application keeps: the ``state`` that ``serve`` was given, or an empty namespace."""
        return self._state

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening sockets; empty once the server is closed."""
        return self._sockets if self.is_serving() else ()

    @property
    def port(self) -> int:
        """The port that the first socket listens on; raises ``ValueError`` where there is none."""
        return port_of(self.sockets)

    @property
    def connections(self) -> set[ServerConnection]:
        """The connections that are open, for ``broadcast`` for example."""
        return {connection for connection in self.connections_open if connection.state.name == "OPEN"}

    @property
    def handshakes(self) -> int:
        """How many connections are not open yet."""
        return len(self.arrivals) + len(self.openings)

    @property
    def stats(self) -> ServerStats:
        """Counters of connections and handshakes."""
        refused, before = dict(self.tally.answered), self.arrivals.failures
        with self.tally.lock:
            lost = self.tally.lost(self.connections_open)
        return ServerStats(
            connections=len(self.connections_open),
            handshakes=self.handshakes,
            accepted=self.tally.accepted,
            timed_out=refused.pop(408, 0) + before["timeout"],
            refused=refused,
            failed=self.tally.failed + before["header"] + before["tls"],
            rejected=dict(self.admission.rejected),
            rate_exceeded=self.tally.rate_exceeded,
            messages_dropped={
                "drop_oldest": lost["dropped_oldest"],
                "drop_newest": lost["dropped_newest"],
                "closed": lost["dropped_at_end"],
            },
            bytes_dropped=lost["bytes_dropped"],
            messages_conflated=lost["messages_conflated"],
        )

    def more_samples(self) -> dict[str, list[list[Any]]]:
        """Samples of further metrics, by name, of servers that count more than this one."""
        return {}

    def is_serving(self) -> bool:
        """Whether connections are accepted."""
        return self._closing is None and bool(self.listening)

    async def serve_forever(self) -> None:
        """Serve until cancelled, or until the server is closed from elsewhere. Cancelling it closes the server."""
        try:
            await self.wait_closed()
        except asyncio.CancelledError:
            self.close()
            await self.wait_closed()
            raise

    def close(self, close_connections: bool = True, *, code: int = 1001, reason: str = "") -> None:
        """Stop accepting, refuse handshakes in flight with 503, and close all connections with ``code``.

        ``close_connections``: False lets connections end by themselves. ``code``, ``reason``: for their Close frames.
        Handlers that have not returned ``close_timeout`` after their connections are closed are cancelled. Returns at
        once: ``wait_closed`` waits.
        """
        if not valid_close_code(code):
            raise ValueError(f"code must be 1000-1003, 1007-1014 or 3000-4999, not {code}")
        if self._closing is None:
            self.closing.set_result(None)
            self._closing = self.loop.create_task(self._close(close_connections, code, reason))

    async def wait_closed(self) -> None:
        """Wait until the server is closed: no listener, no connection, no handler is left."""
        await asyncio.shield(self._closed)

    async def _close(self, close_connections: bool, code: int, reason: str) -> None:
        for listening in self.listening:
            listening.close()
        for sock in self._sockets:
            sock.close()
        self.admission.close()
        await self.arrivals.close()
        for opening in list(self.openings):
            opening.refuse(InvalidMessage("the server is shutting down", status=503))
        if self.openings:
            self._no_openings = self.loop.create_future()
        connections = list(self.connections_open)
        if close_connections:
            endings = [connection.close(code, reason) for connection in connections]
        else:
            endings = [connection.wait_closed() for connection in connections]
        for failure in await asyncio.gather(*endings, return_exceptions=True):
            if isinstance(failure, Exception):
                self.logger.error("closing a connection failed", exc_info=failure)
        tasks = [task for connection in connections if (task := connection.handler_task) is not None]
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=self.patience)
            for task in pending:
                task.cancel()
            if pending:
                _, pending = await asyncio.wait(pending, timeout=self.patience)
            if pending:
                self.logger.error("%d handlers go on although they were cancelled", len(pending))
        if self._no_openings is not None:
            await self._no_openings
        if self.admission.sharing is not None:
            await self.admission.sharing.ledger.close()
        if not self._closed.done():
            self._closed.set_result(None)
