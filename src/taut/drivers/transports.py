"""Which transport carries a connection: chosen here, and nowhere else.

Measured with an echo of 64-byte messages: on loops that watch file descriptors, plain sockets are fastest and smallest
on our own ``SocketTransport``, on uvloop as on asyncio's loop.  TLS is fastest on every loop with ``aiofastnet``, which
drives OpenSSL directly.  Loops that cannot watch file descriptors (Windows' proactor) use their own transports.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl as ssl_module
from collections.abc import Callable
from typing import Any, Protocol, cast

import aiofastnet

from .sockets import SocketTransport

__all__ = [
    "Accepting",
    "TLSAcceptor",
    "accept_sockets",
    "accept_transports",
    "connect_transport",
    "plain_transport",
    "watches_descriptors",
]

_ACCEPTS = 64
"""Connections accepted for one readiness event, so that a flood of them does not starve the others."""
_RETRY = 1.0
"""Pause of a listener after the process has run out of file descriptors or memory (seconds)."""

_NO_LIMIT = 86400.0
"""The longest TLS handshake that ``aiofastnet`` is asked to wait for (seconds)."""

ProtocolFactory = Callable[[], asyncio.Protocol]
Accepted = Callable[[socket.socket, Any], None]


class Accepting(Protocol):
    """Something that accepts connections until it is closed.

    ``suspend``: accept none until ``resume``; ``RuntimeError`` where that cannot be done. ``finish``: accept those that
    wait already, then close.
    """

    def close(self) -> None: ...
    def suspend(self) -> None: ...
    def resume(self) -> None: ...
    def finish(self) -> None: ...


def watches_descriptors(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether ``add_reader`` and ``add_writer`` are there: not on the proactor of Windows."""
    proactor: type[asyncio.AbstractEventLoop] | None = getattr(asyncio, "ProactorEventLoop", None)
    return proactor is None or not isinstance(loop, proactor)


class _Quiet:
    """An event loop as ``aiofastnet`` is given it.

    That a peer leaves in the middle of the TLS handshake is an everyday event, of which whoever awaits the handshake is
    told; ``aiofastnet`` calls the loop's exception handler as well, which is for mistakes of programs.
    """

    __slots__ = ("_loop", "add_reader", "add_writer", "call_soon", "remove_reader", "remove_writer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # Looked up often enough to be kept.
        self.add_reader, self.remove_reader = loop.add_reader, loop.remove_reader
        self.add_writer, self.remove_writer = loop.add_writer, loop.remove_writer
        self.call_soon = loop.call_soon

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if context.get("exception") is not ConnectionResetError:  # the class: that is how it is reported
            self._loop.call_exception_handler(context)


async def connect_transport(
    loop: asyncio.AbstractEventLoop,
    protocol: asyncio.Protocol,
    sock: socket.socket,
    ssl: ssl_module.SSLContext | None,
    server_hostname: str | None,
) -> asyncio.Transport:
    """A transport for ``protocol`` on a connected socket; with ``ssl``, after the TLS handshake of a client."""
    transport: asyncio.BaseTransport
    if ssl is not None:
        quiet = cast(asyncio.AbstractEventLoop, _Quiet(loop)) if watches_descriptors(loop) else loop
        transport, _ = await aiofastnet.create_connection(
            quiet, lambda: protocol, sock=sock, ssl=ssl, server_hostname=server_hostname
        )
    elif watches_descriptors(loop):
        transport = cast(asyncio.Transport, SocketTransport(loop, sock, protocol))
    else:
        transport, _ = await loop.create_connection(lambda: protocol, sock=sock)
    return transport


def plain_transport(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: asyncio.Protocol
) -> asyncio.Transport:
    """A transport for ``protocol`` on an accepted socket, on a loop that watches descriptors."""
    return cast(asyncio.Transport, SocketTransport(loop, sock, protocol))


class TLSAcceptor:
    """Makes the TLS handshakes of a server on accepted sockets."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ssl: ssl_module.SSLContext) -> None:
        self._loop = cast(asyncio.AbstractEventLoop, _Quiet(loop))
        self._ssl = ssl

    async def shake_hands(self, sock: socket.socket, protocol: asyncio.Protocol, timeout: float | None) -> None:
        """One handshake; ``protocol`` is told when it is done.

        ``timeout``: seconds, None for no limit. Raises ``OSError``, and then the socket is closed; so it is when this
        is cancelled. Returns as well when the connection was lost at the very end and ``protocol`` was told nothing.
        """
        try:
            await aiofastnet.connect_accepted_socket(
                self._loop,
                lambda: protocol,
                sock,
                ssl=self._ssl,
                ssl_handshake_timeout=_NO_LIMIT if timeout is None else timeout,
            )
        except OSError as exc:
            sock.close()
            # Its traceback holds the future that it came through, and that holds it: everything of the handshake would
            # stay until the collector comes, and it comes too late where thousands fail.
            raise exc.with_traceback(None)  # noqa: B904
        except BaseException:
            sock.close()
            raise


def accept_sockets(loop: asyncio.AbstractEventLoop, accepted: Accepted, sock: socket.socket, backlog: int) -> Accepting:
    """Accept connections on a bound socket, on a loop that watches descriptors: ``accepted(sock, address)`` for each.

    The sockets do not block.
    """
    sock.setblocking(False)
    sock.listen(backlog)
    return _Acceptor(loop, accepted, sock)


async def accept_transports(
    loop: asyncio.AbstractEventLoop,
    factory: ProtocolFactory,
    sock: socket.socket,
    ssl: ssl_module.SSLContext | None,
    *,
    backlog: int,
    tls_timeout: float | None,
) -> Accepting:
    """The same for any loop: each connection, after the TLS handshake, has a protocol of its own from ``factory``."""
    sock.setblocking(False)
    sock.listen(backlog)
    if ssl is not None:
        return _Listener(
            await aiofastnet.create_server(
                loop, factory, sock=sock, ssl=ssl, backlog=backlog, ssl_handshake_timeout=tls_timeout
            )
        )
    return _Listener(await loop.create_server(factory, sock=sock, backlog=backlog))


class _Listener:
    """A server of the event loop's own."""

    def __init__(self, server: asyncio.AbstractServer) -> None:
        self._server = server
        self.close = self.finish = server.close

    def suspend(self) -> None:
        raise RuntimeError("this needs an event loop that can watch sockets, which this one cannot")

    resume = suspend


class _Acceptor:
    """Accepts connections on one listening socket."""

    def __init__(self, loop: asyncio.AbstractEventLoop, accepted: Accepted, sock: socket.socket) -> None:
        self._loop = loop
        self._accepted = accepted
        self._sock = sock
        self._fd = sock.fileno()
        self._is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6)
        self._pause: asyncio.TimerHandle | None = None
        loop.add_reader(self._fd, self._accept)

    def close(self) -> None:
        if self._fd >= 0:
            self.suspend()
            self._fd = -1
            self._sock.close()

    def suspend(self) -> None:
        self._loop.remove_reader(self._fd)
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def resume(self) -> None:
        self._loop.add_reader(self._fd, self._accept)

    def finish(self) -> None:
        for _ in range(_ACCEPTS):
            if self._fd < 0 or self._pause is not None or not self._accept():
                break
        self.close()

    def _accept(self) -> bool:
        """Accept what waits; True if there may be more."""
        for _ in range(_ACCEPTS):
            if self._fd < 0:
                return False
            try:
                sock, address = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return False
            except OSError as exc:
                if exc.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                self._loop.call_exception_handler(
                    {"message": f"no connection can be accepted for {_RETRY} s", "exception": exc}
                )
                self._loop.remove_reader(self._fd)
                self._pause = self._loop.call_later(_RETRY, self._resume)
                return False
            sock.setblocking(False)
            if self._is_tcp:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._accepted(sock, address)
        return True

    def _resume(self) -> None:
        self._pause = None
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._accept)
