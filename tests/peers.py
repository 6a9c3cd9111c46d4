"""A peer made of raw bytes: everything that a well-behaved implementation would not do, it can.

It reads and writes frames one by one, on either side of a connection, over any transport of asyncio.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import zlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


@dataclass(frozen=True)
class Frame:
    """A frame as received, unmasked."""

    opcode: int
    payload: bytes
    fin: bool = True
    rsv1: bool = False
    masked: bool = False

    @property
    def code(self) -> int:
        """The code of a Close frame."""
        return int.from_bytes(self.payload[:2], "big")


def xor(data: bytes, key: bytes) -> bytes:
    """Mask or unmask (RFC 6455, 5.3)."""
    pad = (key * (len(data) // 4 + 1))[: len(data)]
    return (int.from_bytes(data, "big") ^ int.from_bytes(pad, "big")).to_bytes(len(data), "big")


def head(opcode: int, length: int, *, fin: bool = True, rsv: int = 0, key: bytes | None = None) -> bytes:
    """The head of a frame, whatever it declares."""
    first = bytes([(0x80 if fin else 0) | rsv | opcode])
    bit = 0 if key is None else 0x80
    if length < 126:
        size = bytes([bit | length])
    elif length < 1 << 16:
        size = bytes([bit | 126]) + length.to_bytes(2, "big")
    else:
        size = bytes([bit | 127]) + length.to_bytes(8, "big")
    return first + size + (key or b"")


def close_payload(code: int, reason: str = "") -> bytes:
    return code.to_bytes(2, "big") + reason.encode()


def deflated(payload: bytes) -> bytes:
    """A message as permessage-deflate sends it (RFC 7692, 7.2.1)."""
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Peer(asyncio.Protocol):
    """One end of a connection. ``client`` tells which: clients mask what they send."""

    def __init__(self, *, client: bool) -> None:
        self.client = client
        self.received = bytearray()
        self.total = 0
        self.eof = False
        self.transport: Any = None
        self.made = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()
        self._news = asyncio.Event()
        self._lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.made.set()

    def data_received(self, data: bytes) -> None:
        self.received += data
        self.total += len(data)
        self._news.set()

    def eof_received(self) -> bool:
        self.eof = True
        self._news.set()
        # TLS has no half-closed connections.
        return self.transport.get_extra_info("ssl_object") is None

    def connection_lost(self, exc: Exception | None) -> None:
        self.eof = True
        self._news.set()
        self._lost.set()
        self.writable.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    # -- bytes -------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        self.transport.write(data)

    async def flood(self, data: bytes, times: int) -> None:
        """Write that often, as fast as the other side takes it; stop when it is gone."""
        for _ in range(times):
            if self._lost.is_set() or self.transport.is_closing():
                return
            self.transport.write(data)
            await self.writable.wait()

    async def until(self, size: int) -> None:
        """Wait until that many bytes are there; EOFError if they will not come."""
        while len(self.received) < size:
            if self.eof:
                raise EOFError(f"the stream ended after {bytes(self.received)!r}")
            self._news.clear()
            await self._news.wait()

    async def read(self, size: int) -> bytes:
        await self.until(size)
        data = bytes(self.received[:size])
        del self.received[:size]
        return data

    async def read_head(self) -> str:
        """An HTTP head, with the blank line that ends it."""
        while b"\r\n\r\n" not in self.received:
            await self.until(len(self.received) + 1)
        return (await self.read(self.received.index(b"\r\n\r\n") + 4)).decode()

    async def read_to_end(self) -> bytes:
        """Everything until the other side ends the stream."""
        while not self.eof:
            self._news.clear()
            await self._news.wait()
        return bytes(self.received)

    async def lost(self) -> None:
        """Wait until the connection is gone for good."""
        await self._lost.wait()

    async def drop(self) -> None:
        """End the connection at once, if there is one."""
        if self.transport is not None and not self._lost.is_set():
            self.transport.abort()
            await self.lost()

    # -- handshakes --------------------------------------------------------------------------------------------

    async def request(self, path: str = "/", headers: Iterable[tuple[str, str]] = ()) -> str:
        """Open as a client, and return the head of the response."""
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {path} HTTP/1.1",
            "Host: localhost",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
            *(f"{name}: {value}" for name, value in headers),
        ]
        self.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        return await self.read_head()

    async def respond(self, headers: Iterable[tuple[str, str]] = (), behind: bytes = b"") -> str:
        """Accept as a server, with ``behind`` in the same write, and return the head of the request."""
        request = await self.read_head()
        key = next(line[18:].strip() for line in request.split("\r\n") if line.lower().startswith("sec-websocket-key"))
        accept = base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()).decode()
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept}",
            *(f"{name}: {value}" for name, value in headers),
        ]
        self.write(("\r\n".join(lines) + "\r\n\r\n").encode() + behind)
        return request

    # -- frames ------------------------------------------------------------------------------------------------

    def encode(self, opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
        """A frame with this payload, masked as the role demands."""
        key = os.urandom(4) if self.client else None
        return head(opcode, len(payload), fin=fin, rsv=rsv, key=key) + (xor(payload, key) if key else payload)

    def send(self, opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> None:
        self.write(self.encode(opcode, payload, fin=fin, rsv=rsv))

    async def frame(self) -> Frame:
        """The next frame."""
        first, second = await self.read(2)
        length = second & 0x7F
        if length == 126:
            length = int.from_bytes(await self.read(2), "big")
        elif length == 127:
            length = int.from_bytes(await self.read(8), "big")
        key = await self.read(4) if second & 0x80 else b""
        payload = await self.read(length)
        if key:
            payload = xor(payload, key)
        return Frame(first & 0x0F, payload, bool(first & 0x80), bool(first & 0x40), bool(key))

    async def frames_until_close(self) -> list[Frame]:
        """Every frame up to the Close frame, which is the last one here."""
        frames = [await self.frame()]
        while frames[-1].opcode != CLOSE:
            frames.append(await self.frame())
        return frames

    async def close(self, code: int = 1000) -> None:
        """Complete a closing handshake that this side begins, and wait for the end."""
        self.send(CLOSE, close_payload(code))
        await self.frames_until_close()
        await self.read_to_end()
        self.transport.close()
        await self.lost()


@asynccontextmanager
async def gone_after(peer: Peer) -> AsyncIterator[Peer]:
    """At the end of the block the peer is gone, whatever became of it."""
    try:
        yield peer
    finally:
        await peer.drop()
