"""One look at an upstream: can it be connected to, does it answer?"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress

from ..client.dialling.dial import dial
from ..client.dialling.tls import context_for_loop
from ..client.dialling.turns import Deadline
from ..errors import DialError, InvalidStatus
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
    reader, writer = await _connect(backend)
    try:
        return None if kind == "tcp" else await _probe_http(backend, path, reader, writer)
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


async def _connect(backend: Backend) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A byte stream to the upstream, with TLS for wss."""
    uri, options = backend.uri, backend.options
    async with Deadline(None) as deadline:
        dialled = await dial(uri, options, deadline, [])
    dialled.settled()
    try:
        if backend.upstream.proxy_protocol:
            await asyncio.get_running_loop().sock_sendall(dialled.sock, encode_proxy_header(None, None))
        ssl = (options.ssl or await context_for_loop()) if uri.secure else None
        hostname = (options.server_hostname or uri.host) if uri.secure else None
        return await asyncio.open_connection(sock=dialled.sock, ssl=ssl, server_hostname=hostname, limit=_LONGEST_LINE)
    except BaseException:
        dialled.sock.close()
        raise


async def _probe_http(
    backend: Backend, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> str | None:
    head = f"GET {path} HTTP/1.1\r\nHost: {backend.uri.host_header}\r\nUser-Agent: taut\r\nConnection: close\r\n\r\n"
    writer.write(head.encode())
    try:
        line = await reader.readuntil(b"\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        raise DialError(f"GET {path} is not answered in HTTP") from None
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
