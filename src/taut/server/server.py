"""``serve`` and the server it starts."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import socket
import ssl as ssl_module
from collections.abc import Callable, Generator, Iterable, Sequence
from types import SimpleNamespace, TracebackType
from typing import Any

from .._version import __version__
from ..connection.watching import Watcher, check_events
from ..drivers.contexts import contexts_of
from ..drivers.transports import Accepting, accept_sockets, accept_transports, plain_transport, watches_descriptors
from ..errors import InvalidMessage, RateExceeded
from ..events import Events
from ..listener import Listener
from ..options import check_count, check_deflate, check_number, check_ssl, connection_options
from ..protocol.session import valid_close_code
from ..subprotocols import Subprotocol, check_codec, check_subprotocols
from ..types import ConnectionOptions, DeflateOptions
from .admission import Admission, Limits
from .arriving import Arrivals
from .connection import Handler, ServerConnection, check_handler
from .lifecycle import Lifecycle
from .listening import AddressInfo, bind_all, bind_unix, check_address, port_of, printable
from .middleware import Layer, Passage, check_middleware, handshake_hooks
from .opening import Opening
from .routing import Route, Router
from .shared import RedisLimits
from .tally import ServerStats, Tally
from .terms import (
    Origins,
    ProcessRequest,
    ProcessResponse,
    RouteRules,
    SelectSubprotocol,
    check_hook,
    check_origins,
)
from .trust import Trusted, TrustedProxies, check_proxy_protocol
from .users import UserKey

__all__ = ["Server", "serve", "unix_serve"]

_SERVER_HEADER = f"taut/{__version__}"


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


class serve:  # used like a function, as in the websockets package
    """Start a WebSocket server: ``async with serve(handler, host, port) as server``, or ``server = await serve(...)``.

    ``handler``: a coroutine function called with each connection, which is closed with 1000 when it returns and with
    1011 when it raises; or a ``Listener`` subclass, of which one instance serves each connection; or a ``Router``.
    ``host``, ``port``: where to listen; ``host`` may be a sequence, None means all interfaces; port 0 lets the kernel
    choose. ``sock``: a bound socket, or several, instead; ``path``: a Unix socket instead. ``reuse_port``,
    ``backlog``: of the listening socket. ``ssl``: a server context for wss.

    ``origins``: who may connect from a browser: None for the same origin only, else exact origins, compiled patterns,
    or "*" for any. Requests without Origin always pass. ``subprotocols``: names and ``Subprotocol`` objects, in order
    of preference; ``select_subprotocol(connection, offered)`` decides instead. ``codec``: a ``Subprotocol`` object that
    encodes and decodes where none is agreed on. ``compression``: "deflate", None, or a
    ``DeflateOptions``.
    ``process_request(connection, request)`` may answer with a ``Response`` instead of opening a connection;
    ``process_response(connection, request, response)`` may change the response; both may be coroutine functions.
    ``middleware``: layers around handshakes, handlers and messages, the outermost first: ``Middleware`` objects, or
    coroutine functions of a connection and ``call_next``. ``state``: what the application keeps in ``server.state``,
    an empty namespace by default.
    ``events``: an ``Events``, or several, which are told of every step and frame.
    ``server_header``: the Server header, None for none. ``logger``: where to log, by default "taut.server".

    ``proxy_protocol``: True if every connection begins with the header of the PROXY protocol, which is accepted from
    ``trusted_proxies`` only. ``trusted_proxies``: addresses, networks, or "unix", whose Forwarded and X-Forwarded
    headers are believed as well.

    ``max_connections``, ``max_connections_per_address`` (by the first ``address_prefix`` bits of IPv4 and of IPv6),
    ``max_handshakes`` in flight, ``handshake_rate`` a second (5 seconds' worth may come at once): whoever is over one
    of these is answered with 503, or 429 for the address, and Retry-After, before anything is read; with ``ssl`` just
    closed. None for no limit.

    ``max_connections_per_user``: by the ``principal`` that hooks have set, or what ``user_key(principal)`` makes of it,
    None for one that is not counted. With ``user_policy`` "refuse", one more is answered with 429; with "replace", it
    is opened, and the oldest is closed with 1008. ``shared_limits``: ``RedisLimits`` for several servers together.

    ``open_timeout`` (10 s): for the header of the PROXY protocol, the TLS handshake and the opening handshake together.
    ``max_head`` (16384 bytes), ``max_headers`` (128): limits of the request. ``max_tls_handshakes`` (500): how many
    are in flight at a time, None for any number; others wait. Everything in ``ConnectionOptions`` is accepted by name
    as well: ``max_size``, ``max_frame_size``, ``max_fragments``, ``read_limit``, ``write_limit``, ``outbox_limit``,
    ``overflow``, ``fragment_size``, ``ping_interval``, ``ping_timeout``, ``close_timeout``, ``strict_pongs``,
    ``cancel_on_close``, ``rate_limits``, ``idle_timeout``, ``max_lifetime``.

    Raises ``TypeError`` or ``ValueError`` for a wrong argument, at once; ``OSError`` when listening fails.
    """

    def __init__(
        self,
        handler: Handler | type[Listener] | Router,
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        *,
        sock: socket.socket | Sequence[socket.socket] | None = None,
        path: str | os.PathLike[str] | None = None,
        ssl: ssl_module.SSLContext | None = None,
        origins: Origins | None = None,
        subprotocols: Sequence[str | Subprotocol[Any]] | None = None,
        select_subprotocol: SelectSubprotocol | None = None,
        codec: Subprotocol[Any] | None = None,
        compression: str | DeflateOptions | None = "deflate",
        process_request: ProcessRequest | None = None,
        process_response: ProcessResponse | None = None,
        middleware: Sequence[Layer] | None = None,
        state: Any = None,
        events: Events | Sequence[Events] | None = None,
        server_header: str | None = _SERVER_HEADER,
        logger: logging.Logger | str | None = None,
        open_timeout: float | None = 10.0,
        max_head: int = 16384,
        max_headers: int = 128,
        max_tls_handshakes: int | None = 500,
        max_connections: int | None = None,
        max_connections_per_address: int | None = None,
        max_connections_per_user: int | None = None,
        max_handshakes: int | None = None,
        handshake_rate: float | None = None,
        address_prefix: Sequence[int] = (32, 64),
        user_key: Callable[[Any], UserKey | None] | None = None,
        user_policy: str = "refuse",
        shared_limits: RedisLimits | None = None,
        proxy_protocol: bool = False,
        trusted_proxies: Iterable[Trusted] = (),
        backlog: int = 1024,
        reuse_port: bool | None = None,
        **options: Any,
    ) -> None:
        self.router: Router | None = None
        self.handler: Handler | type[Listener] | None = None
        if isinstance(handler, Router):
            handler.check()
            self.router = handler
        else:
            self.handler = check_handler(handler)
        self.host, self.port, self.path = host, port, path
        check_address(host, port, sock, path)
        self.sockets = (sock,) if isinstance(sock, socket.socket) else tuple(sock or ())
        check_ssl(ssl)
        self.ssl = ssl
        self.origins = check_origins(origins)
        self.subprotocols = check_subprotocols(subprotocols)
        check_hook("select_subprotocol", select_subprotocol)
        check_hook("process_request", process_request)
        check_hook("process_response", process_response)
        self.select_subprotocol = select_subprotocol
        self.deflate = check_deflate(compression)
        self.process_request = process_request
        self.process_response = process_response
        self.codec = check_codec(codec)
        self.middleware = check_middleware(middleware)
        self.state = state
        self.events = check_events(events)
        self.server_header = server_header
        self.logger = logger if isinstance(logger, logging.Logger) else logging.getLogger(logger or "taut.server")
        self.open_timeout = check_number("open_timeout", open_timeout, above=0, optional=True)
        self.max_head = int(check_number("max_head", max_head, above=0) or 0)
        self.max_headers = int(check_number("max_headers", max_headers, above=0) or 0)
        check_count("max_tls_handshakes", max_tls_handshakes, least=1, optional=True)
        self.max_tls_handshakes = max_tls_handshakes
        self.trusted_proxies = TrustedProxies(trusted_proxies)
        self.proxy_protocol = check_proxy_protocol(proxy_protocol, self.trusted_proxies)
        self.limits = Limits(
            max_connections=max_connections,
            max_connections_per_address=max_connections_per_address,
            max_connections_per_user=max_connections_per_user,
            max_handshakes=max_handshakes,
            handshake_rate=handshake_rate,
            address_prefix=address_prefix,
            user_key=user_key,
            user_policy=user_policy,
            shared_limits=shared_limits,
        )
        self.backlog = int(check_number("backlog", backlog, above=0) or 0)
        self.reuse_port = reuse_port
        self.options: ConnectionOptions = connection_options(options)
        self._server: Server | None = None

    def listening_on(self, sockets: Sequence[socket.socket], ssl: ssl_module.SSLContext | None = None) -> serve:
        """The same server on these bound sockets, wherever it was to listen; with this context if there is one."""
        moved = copy.copy(self)
        moved.host, moved.port, moved.path, moved.sockets = None, None, None, tuple(sockets)
        moved.ssl = ssl or self.ssl
        return moved

    async def _start(self) -> Server:
        loop = asyncio.get_running_loop()
        server = self._new_server(loop)
        sockets = await self._bind(loop)
        try:
            await server.start(sockets)
        except BaseException:
            server.close()
            for sock in sockets:
                sock.close()
            raise
        self._server = server
        return server

    def _new_server(self, loop: asyncio.AbstractEventLoop) -> Server:
        return Server(loop, self)

    async def _bind(self, loop: asyncio.AbstractEventLoop) -> list[socket.socket]:
        if self.sockets:
            return list(self.sockets)
        if self.path is not None:
            return [bind_unix(self.path)]
        hosts = [self.host] if self.host is None or isinstance(self.host, str) else list(self.host)
        found: list[AddressInfo] = []
        for host in hosts:
            found += await loop.getaddrinfo(
                host or None, self.port or 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        return bind_all(found, bool(self.reuse_port))

    def __await__(self) -> Generator[Any, None, Server]:
        return self._start().__await__()

    async def __aenter__(self) -> Server:
        return await self._start()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()


def unix_serve(handler: Handler | type[Listener] | Router, path: str | os.PathLike[str], **options: Any) -> serve:
    """Start a server on a Unix socket; a stale socket file is replaced. The rest is as for ``serve``."""
    return serve(handler, path=path, **options)
