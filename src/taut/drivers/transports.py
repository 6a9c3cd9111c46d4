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
from typing import Protocol, cast

import aiofastnet

from .sockets import SocketTransport

__all__ = ["Accepting", "connect_transport", "listen", "watches_descriptors"]

_ACCEPTS = 64
"""Connections accepted for one readiness event, so that a flood of them does not starve the others."""
_RETRY = 1.0
"""Pause of a listener after the process has run out of file descriptors or memory (seconds)."""

ProtocolFactory = Callable[[], asyncio.Protocol]


class Accepting(Protocol):
    """Something that accepts connections until it is closed."""

    def close(self) -> None: ...


def watches_descriptors(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether ``add_reader`` and ``add_writer`` are there: not on the proactor of Windows."""
    proactor: type[asyncio.AbstractEventLoop] | None = getattr(asyncio, "ProactorEventLoop", None)
    return proactor is None or not isinstance(loop, proactor)


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
        transport, _ = await aiofastnet.create_connection(
            loop, lambda: protocol, sock=sock, ssl=ssl, server_hostname=server_hostname
        )
    elif watches_descriptors(loop):
        transport = cast(asyncio.Transport, SocketTransport(loop, sock, protocol))
    else:
        transport, _ = await loop.create_connection(lambda: protocol, sock=sock)
    return transport


async def listen(
    loop: asyncio.AbstractEventLoop,
    factory: ProtocolFactory,
    sock: socket.socket,
    ssl: ssl_module.SSLContext | None,
    *,
    backlog: int,
    tls_timeout: float | None,
) -> Accepting:
    """Accept connections on a bound socket, each with a protocol of its own from ``factory``."""
    sock.setblocking(False)
    sock.listen(backlog)
    if ssl is not None:
        return await aiofastnet.create_server(
            loop, factory, sock=sock, ssl=ssl, backlog=backlog, ssl_handshake_timeout=tls_timeout
        )
    if watches_descriptors(loop):
        return _Acceptor(loop, factory, sock)
    return await loop.create_server(factory, sock=sock, backlog=backlog)


class _Acceptor:
    """Accepts plain connections on one listening socket."""

    def __init__(self, loop: asyncio.AbstractEventLoop, factory: ProtocolFactory, sock: socket.socket) -> None:
        self._loop = loop
        self._factory = factory
        self._sock = sock
        self._fd = sock.fileno()
        self._is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6)
        self._pause: asyncio.TimerHandle | None = None
        loop.add_reader(self._fd, self._accept)

    def close(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._fd = -1
            self._sock.close()
        if self._pause is not None:
            self._pause.cancel()

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            if self._fd < 0:
                return
            try:
                sock, _ = self._sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                if exc.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                self._loop.call_exception_handler(
                    {"message": f"no connection can be accepted for {_RETRY} s", "exception": exc}
                )
                self._loop.remove_reader(self._fd)
                self._pause = self._loop.call_later(_RETRY, self._resume)
                return
            sock.setblocking(False)
            if self._is_tcp:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            SocketTransport(self._loop, sock, self._factory())

    def _resume(self) -> None:
        self._pause = None
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._accept)
