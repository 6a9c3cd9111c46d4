"""``serve``: what a server is to do, checked before anything happens, and the start of it."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import socket
import ssl as ssl_module
from collections.abc import Callable, Generator, Iterable, Sequence
from types import TracebackType
from typing import Any

from .._version import __version__
from ..connection.watching import check_events
from ..events import Events
from ..listener import Listener
from ..options import check_count, check_deflate, check_number, check_sequence, check_ssl, connection_options
from ..subprotocols import Subprotocol, check_codec, check_subprotocols
from ..types import ConnectionOptions, DeflateOptions
from .admission import Limits
from .connection import Handler, check_handler
from .listening import AddressInfo, bind_all, bind_unix, check_address
from .middleware import Layer, check_middleware
from .routing import Router
from .server import Server
from .shared import RedisLimits
from .terms import (
    Origins,
    ProcessRequest,
    ProcessResponse,
    SelectSubprotocol,
    check_hook,
    check_origins,
)
from .trust import Trusted, TrustedProxies, check_proxy_protocol
from .users import UserKey

__all__ = ["serve", "unix_serve"]

_SERVER_HEADER = f"taut/{__version__}"


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
        several = None if isinstance(sock, socket.socket) else check_sequence("sock", sock, (socket.socket,))
        self.sockets: tuple[socket.socket, ...] = (sock,) if isinstance(sock, socket.socket) else several or ()
        check_address(host, port, sock, path)
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
