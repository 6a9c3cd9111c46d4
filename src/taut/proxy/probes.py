"""One look at an upstream: can it be connected to, does it answer?"""

from __future__ import annotations

import asyncio
import re
from typing import cast

from ..client.dialling.dial import dial
from ..client.dialling.tls import context_for_loop
from ..client.dialling.turns import Deadline
from ..drivers.transports import connect_transport
from ..errors import InvalidStatus
from ..protocol.proxy_protocol import encode_proxy_header
from ..types import Headers
from .dialling import open_upstream
from .upstreams import Backend

__all__ = ["probe"]

_LONGEST_LINE = 8192
_status_line = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: .*)?\r?\n", re.DOTALL)


async def probe(backend: Backend, kind: str, path: str) -> str | None:
    """What is wrong with the upstream; None if nothing is. Takes as long as it takes. Raises what fails."""
    if kind == "websocket":
        return await _probe_websocket(backend, path)
    headers = ("Host: " + backend.uri.host_header, "User-Agent: taut", "Connection: close")
    request = "\r\n".join((f"GET {path} HTTP/1.1", *headers, "\r\n"))
    stream = _Stream(asyncio.get_running_loop())
    try:
        await _connect(backend, stream)
        return None if kind == "tcp" else _judge(path, await stream.line_after(request.encode()))
    finally:
        await stream.end()


class _Stream(asyncio.Protocol):
    """A connection of which the first line is read."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.transport: asyncio.Transport | None = None
        self._line: asyncio.Future[bytes] = loop.create_future()
        self._lost: asyncio.Future[None] = loop.create_future()
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._line.done():
            self._received += data
            line, end, _ = self._received.partition(b"\n")
            if end or len(line) > _LONGEST_LINE:
                self._line.set_result(line + end)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._line.done():
            self._line.set_result(self._received)
        self._lost.set_result(None)

    async def line_after(self, request: bytes) -> bytes:
        """The first line of the answer, or what there is of it."""
        assert self.transport is not None  # connect_transport has returned
        self.transport.write(request)
        return await self._line

    async def end(self) -> None:
        """Drop the connection, if there is one."""
        if self.transport is not None:
            self.transport.abort()
            await asyncio.shield(self._lost)


async def _connect(backend: Backend, stream: _Stream) -> None:
    """Connect to the upstream, with TLS for wss."""
    uri, options = backend.uri, backend.options
    loop = asyncio.get_running_loop()
    async with Deadline(None) as deadline:
        dialled = await dial(uri, options, deadline, [])
    dialled.settled()
    try:
        if backend.upstream.proxy_protocol:
            await loop.sock_sendall(dialled.sock, encode_proxy_header(None, None))
        ssl = (options.ssl or await context_for_loop()) if uri.secure else None
        hostname = (options.server_hostname or uri.host) if uri.secure else None
        stream.transport = await connect_transport(loop, stream, dialled.sock, ssl, hostname)
    except BaseException:
        if stream.transport is None:
            dialled.sock.close()
        raise


def _judge(path: str, line: bytes) -> str | None:
    """What is wrong with this answer."""
    found = _status_line.fullmatch(line)
    if found is None:
        return f"GET {path} is not answered in HTTP"
    status = int(found[1])
    return None if 200 <= status < 400 else f"GET {path} is answered with {status}"


async def _probe_websocket(backend: Backend, path: str) -> str | None:
    headers = Headers([("Host", backend.uri.host_header)])
    try:
        connection = await open_upstream(backend, path, headers, (), (None, None))
    except InvalidStatus as exc:
        return f"the handshake for {path} is answered with {exc.response.status_code}"
    try:
        await connection.close()
    finally:
        connection.abort()
    return None
