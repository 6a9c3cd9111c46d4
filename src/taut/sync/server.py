"""``serve`` for threads: one thread for each connection, and one that accepts them."""

from __future__ import annotations

import errno
import http
import inspect
import os
import re
import selectors
import socket
import ssl as ssl_module
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias

from ..connection.filtering import Filter
from ..errors import ConnectionClosed
from ..listener import Listener
from ..options import CONNECTION_OPTIONS
from ..protocol.proxy_protocol import ProxyHeader
from ..protocol.session import valid_close_code
from ..server.authentication.checks import is_coroutine_function
from ..server.handshake import plain_response
from ..server.listening import bind_all, bind_unix, port_of, printable
from ..server.serving import serve as Settings
from ..server.trust import Proxied
from ..subprotocols import Subprotocol
from ..types import DeflateOptions, Request, Response
from .accepting import Accepting
from .connection import Connection
from .filtering import Filtered
from .refusing import Refusals

__all__ = ["Handler", "Server", "ServerConnection", "serve", "unix_serve"]

_RETRY = 1.0
"""Pause of a listener after the process has run out of file descriptors, memory or threads (seconds)."""
_LOOK = 1.0
"""A signal that arrives just before a wait does not end it, so no wait of the accepting thread is longer (seconds)."""

_OPTIONS = (CONNECTION_OPTIONS - {"cancel_on_close"}) | {
    "backlog",
    "logger",
    "max_connections",
    "max_head",
    "max_headers",
    "open_timeout",
    "proxy_protocol",
    "reuse_port",
    "server_header",
    "trusted_proxies",
}
"""The options of ``serve`` beside those in its signature."""


class ServerConnection(Connection):
    """What a handler is given: see ``Connection``."""

    def __init__(self, server: Server, sock: socket.socket) -> None:
        super().__init__(server.options, server.logger)
        self.server = server
        self.principal: Any = None  # who is at the other end, once a hook has authenticated that
        self.proxied: Proxied | None = None  # what trusted proxies have said
        self.tls: ssl_module.SSLObject | None = None
        self._sock = sock

    @property
    def proxy_header(self) -> ProxyHeader | None:
        """What a proxy has said in the PROXY protocol; None without."""
        return None if self.proxied is None else self.proxied.header

    def _address(self, name: str) -> Any:
        address = super()._address(name)
        if self.proxied is not None and address is not None:
            said = self.proxied.remote if name == "peername" else self.proxied.local
            return address if said is None else said
        return address

    def choose_codec(self) -> None:
        """The subprotocol is agreed on: decode as it says from now on, if it says anything."""
        codec = self.server.codec
        if self.subprotocol is not None:
            codec = self.server.subprotocols.codecs.get(self.subprotocol, codec)
        if codec is not None:
            self.message_filter = Filter(codec)
            self.__class__ = FilteredServerConnection  # pyright: ignore[reportAttributeAccessIssue]

    def respond(self, status: http.HTTPStatus | int, text: str = "") -> Response:
        """A plain-text HTTP response, for ``process_request`` to refuse or answer a request with."""
        return plain_response(status, text)


class FilteredServerConnection(Filtered, ServerConnection):
    """One that receives and sends values."""


Handler: TypeAlias = Callable[[ServerConnection], object]
ProcessRequest: TypeAlias = Callable[[ServerConnection, Request], Response | None]
ProcessResponse: TypeAlias = Callable[[ServerConnection, Request, Response], Response | None]
SelectSubprotocol: TypeAlias = Callable[[ServerConnection, Sequence[str]], str | None]


class Server:
    """A server that listens. ``serve_forever`` makes it accept; as a context manager it is shut down at the end."""

    def __init__(self, handler: Handler, settings: Settings, sockets: Sequence[socket.socket]) -> None:
        self.handler = handler
        self.options = settings.options
        self.logger = settings.logger
        self.ssl = settings.ssl
        self.origins = settings.origins
        self.subprotocols = settings.subprotocols
        self.select_subprotocol: Any = settings.select_subprotocol
        self.codec = settings.codec
        self.process_request: Any = settings.process_request
        self.process_response: Any = settings.process_response
        self.deflate = settings.deflate
        self.server_header = settings.server_header
        self.open_timeout = settings.open_timeout
        self.max_head = settings.max_head
        self.max_headers = settings.max_headers
        self.proxy_protocol = settings.proxy_protocol
        self.trusted_proxies = settings.trusted_proxies
        self.max_connections = settings.limits.max_connections
        self._sockets = tuple(sockets)
        self._alarm = socket.socketpair()
        self._lock = threading.Lock()
        self._closing = False
        self._accepting = 0  # threads in serve_forever
        self._threads: set[threading.Thread] = set()
        self._connections: set[ServerConnection] = set()
        for sock in sockets:
            sock.setblocking(False)
            sock.listen(settings.backlog)
            self.logger.info("server listening on %s", printable(sock))

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The listening sockets; empty once the server is shut down."""
        return () if self._closing else self._sockets

    @property
    def port(self) -> int:
        """The port that the first socket listens on; raises ``ValueError`` where there is none."""
        return port_of(self.sockets)

    @property
    def connections(self) -> set[ServerConnection]:
        """The connections that are open."""
        with self._lock:
            return {connection for connection in self._connections if connection.state.name == "OPEN"}

    def is_serving(self) -> bool:
        """Whether the server has not been shut down."""
        return not self._closing

    # -- accepting ---------------------------------------------------------------------------------------------

    def serve_forever(self) -> None:
        """Accept connections, each in a thread of its own, until ``shutdown`` is called from another thread.

        Ctrl-C ends it with ``KeyboardInterrupt``; the end of the ``with`` block shuts the server down then.
        """
        with self._lock:
            if self._closing:
                return
            self._accepting += 1
        try:
            self._accept_forever()
        finally:
            with self._lock:
                self._accepting -= 1
                self._silence_alarm()

    def _accept_forever(self) -> None:
        with selectors.DefaultSelector() as selector:
            with self._lock:
                if self._closing:
                    return
                for sock in (*self._sockets, self._alarm[0]):
                    selector.register(sock, selectors.EVENT_READ)
            refusals = Refusals(selector)
            try:
                while not self._closing:
                    for key, _ in selector.select(_LOOK):
                        self._ready(key.fileobj, refusals)
                    refusals.expire()
            finally:
                refusals.close()

    def _ready(self, sock: Any, refusals: Refusals) -> None:
        if sock in refusals:
            refusals.readable(sock)
        elif sock is not self._alarm[0] and not self._accept(sock, refusals):
            time.sleep(_RETRY)

    def _silence_alarm(self) -> None:
        """Close the end of the alarm that ``serve_forever`` listens to, once that is over."""
        if self._closing and not self._accepting:
            self._alarm[0].close()

    def _accept(self, listening: Any, refusals: Refusals) -> bool:
        """Accept one connection; False if the process has too little of something."""
        try:
            sock, _ = listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return True
        except OSError as exc:
            if self._closing:
                return True
            if exc.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            self.logger.error("no connection can be accepted for %g s: %s", _RETRY, exc)
            return False
        thread = threading.Thread(target=self._serve, args=(sock,), name="taut-sync connection", daemon=True)
        # Under the lock, so that whoever waits for the threads finds none that has not begun.
        with self._lock:
            is_full = self.max_connections is not None and len(self._threads) >= self.max_connections
            if not is_full:
                try:
                    thread.start()
                except RuntimeError as exc:
                    sock.close()
                    self.logger.error("no connection can be accepted for %g s: %s", _RETRY, exc)
                    return False
                self._threads.add(thread)
        if is_full:
            refusals.refuse(sock, "max_connections", secure=self.ssl is not None)
        return True

    # -- one connection, in its thread -------------------------------------------------------------------------

    def _serve(self, sock: socket.socket) -> None:
        try:
            if sock.family in (socket.AF_INET, socket.AF_INET6):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = ServerConnection(self, sock)
            with self._lock:
                self._connections.add(connection)
            try:
                if Accepting(self, sock, connection).run():
                    self._handle(connection)
            finally:
                with self._lock:
                    self._connections.discard(connection)
        finally:
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _handle(self, connection: ServerConnection) -> None:
        code, reason = 1000, ""
        try:
            self.handler(connection)
        except BaseException as exc:
            # That ends its own connection, and nothing else.
            if not (isinstance(exc, ConnectionClosed) and connection.session.phase_name != "OPEN"):
                self.logger.error("connection handler failed", exc_info=exc, extra=connection.log_fields())
            code, reason = 1011, "the handler failed"
        connection.close(code, reason)

    # -- the end -----------------------------------------------------------------------------------------------

    def shutdown(self, close_connections: bool = True, code: int = 1001, reason: str = "") -> None:
        """Stop accepting, refuse handshakes in flight with 503, close all connections with ``code``, and wait.

        ``close_connections``: False lets connections end by themselves. ``code``, ``reason``: for their Close frames.
        A handler that has not returned ``close_timeout`` after its connection is closed is logged, and left alone: a
        thread cannot be ended from outside. May be called from any thread, a handler's included, and again.
        """
        if not valid_close_code(code):
            raise ValueError(f"code must be 1000-1003, 1007-1014 or 3000-4999, not {code}")
        with self._lock:
            first, self._closing = not self._closing, True
            threads = self._threads - {threading.current_thread()}
            connections = list(self._connections)
        if first:
            self._alarm[1].close()  # which makes the other end readable
            for sock in self._sockets:
                sock.close()
        if close_connections:
            for connection in connections:
                connection.begin_close(code, reason)
        limit = self.options.close_timeout
        deadline = None if limit is None or not close_connections else time.monotonic() + 2 * limit
        for thread in threads:
            thread.join(None if deadline is None else max(deadline - time.monotonic(), 0.0))
        left = sum(thread.is_alive() for thread in threads)
        if left:
            self.logger.error("%d handlers go on although their connections are closed", left)
        with self._lock:
            self._silence_alarm()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.shutdown()


def serve(
    handler: Handler,
    host: str | Sequence[str] | None = None,
    port: int | None = None,
    *,
    sock: socket.socket | None = None,
    path: str | os.PathLike[str] | None = None,
    ssl: ssl_module.SSLContext | None = None,
    origins: Sequence[str | re.Pattern[str] | None] | None = None,
    subprotocols: Sequence[str | Subprotocol[Any]] | None = None,
    select_subprotocol: SelectSubprotocol | None = None,
    codec: Subprotocol[Any] | None = None,
    compression: str | DeflateOptions | None = "deflate",
    process_request: ProcessRequest | None = None,
    process_response: ProcessResponse | None = None,
    **options: Any,
) -> Server:
    """Listen for WebSocket connections: ``with serve(handler, host, port) as server: server.serve_forever()``.

    ``handler``: a function called with each connection, in a thread of its own; the connection is closed with 1000 when
    it returns and with 1011 when it raises. The hooks are plain functions as well, called in that thread. All other
    options are those of ``taut.serve``, but for ``cancel_on_close``, since a thread cannot be cancelled, and for those
    that limit connections and handshakes, of which there is ``max_connections``: one more is answered with 503.

    Raises ``TypeError`` or ``ValueError`` for a wrong argument, ``OSError`` when listening fails.
    """
    given: Any = handler
    if isinstance(given, type | Listener) or not callable(given) or inspect.iscoroutinefunction(given):
        raise TypeError(f"handler must be a function that is not a coroutine function, not {handler!r}")
    untyped: Any = given
    hooks: dict[str, Any] = {
        "process_request": process_request,
        "process_response": process_response,
        "select_subprotocol": select_subprotocol,
    }
    for name, hook in hooks.items():
        if is_coroutine_function(hook):
            raise TypeError(f"{name} must be a function that is not a coroutine function, or None, not {hook!r}")
    # What is not seen to here must not be accepted in silence: a limit on connections, for example.
    if unknown := options.keys() - _OPTIONS:
        raise TypeError(f"unexpected option {min(unknown)}; known are {', '.join(sorted(_OPTIONS))}")
    settings = Settings(
        untyped,  # never called by it: it only checks, and keeps
        host,
        port,
        sock=sock,
        path=path,
        ssl=ssl,
        origins=origins,
        subprotocols=subprotocols,
        codec=codec,
        compression=compression,
        **hooks,
        **options,
    )
    sockets = _bind(settings)
    try:
        return Server(handler, settings, sockets)
    except BaseException:
        for each in sockets:
            each.close()
        raise


def unix_serve(handler: Handler, path: str | os.PathLike[str], **options: Any) -> Server:
    """Listen on a Unix socket; a stale socket file is replaced. The rest is as for ``serve``."""
    return serve(handler, path=path, **options)


def _bind(settings: Settings) -> list[socket.socket]:
    if settings.sockets:
        return list(settings.sockets)
    if settings.path is not None:
        return [bind_unix(settings.path)]
    host, port = settings.host, settings.port or 0
    found: list[Any] = []
    for each in [host] if host is None or isinstance(host, str) else host:
        found += socket.getaddrinfo(each or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return bind_all(found, bool(settings.reuse_port))
