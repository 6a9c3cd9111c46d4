"""A relay between clients and a server that records every WebSocket frame it passes on.

It is how the demonstration can say what travelled: the frames are read from the bytes on the wire, not asked of the
library that sent them.  A frame is recorded before its last byte is passed on, so whoever has received an answer finds
both in the record.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from taut.types import Opcode

__all__ = ["Frame", "Tap"]

_FIN, _RSV1, _MASK = 0x80, 0x40, 0x80
_LENGTH_BYTES = {126: 2, 127: 8}


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame as it was on the wire (RFC 6455, 5.2). ``payload`` and ``size`` are bytes, ``size`` with the head.

    ``connection``: the number of its connection, from 1. ``from_client``: its direction. ``compressed``: RSV1, which
    marks the first frame of a compressed message (RFC 7692, 6).
    """

    connection: int
    from_client: bool
    opcode: Opcode
    final: bool
    compressed: bool
    masked: bool
    payload: int
    size: int


class _FrameReader:
    """Cuts one direction of one connection into frames, after the HTTP head of the opening handshake."""

    def __init__(self, connection: int, from_client: bool) -> None:
        self._connection = connection
        self._from_client = from_client
        self._buffer = bytearray()
        self._in_head = True

    def feed(self, data: bytes) -> Iterator[Frame]:
        self._buffer += data
        if self._in_head:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self._in_head = False
            del self._buffer[: end + 4]
        while (frame := self._next()) is not None:
            del self._buffer[: frame.size]
            yield frame

    def _next(self) -> Frame | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        masked = bool(buffer[1] & _MASK)
        payload = buffer[1] & 0x7F
        head = 2
        if payload in _LENGTH_BYTES:
            head += _LENGTH_BYTES[payload]
            payload = int.from_bytes(buffer[2:head])
        head += 4 if masked else 0
        if len(buffer) < head + payload:
            return None
        return Frame(
            self._connection,
            self._from_client,
            Opcode(buffer[0] & 0x0F),
            bool(buffer[0] & _FIN),
            bool(buffer[0] & _RSV1),
            masked,
            payload,
            head + payload,
        )


class Tap:
    """``async with Tap(port) as tap``: what connects to ``tap.port`` reaches ``port``, both on 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self._target = port
        self._server: asyncio.Server | None = None
        self._frames: list[Frame] = []
        self._connections = 0
        self._relays: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Tap:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    def take(self) -> list[Frame]:
        """The frames recorded since the last call, in the order they passed."""
        frames, self._frames = self._frames, []
        return frames

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        relay = asyncio.create_task(self._relay(reader, writer, self._connections))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)
        relay.add_done_callback(lambda _: writer.close())  # also if it was cancelled before it began

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        server_writer: asyncio.StreamWriter | None = None
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
            await asyncio.gather(
                self._pass_on(reader, server_writer, _FrameReader(number, from_client=True)),
                self._pass_on(server_reader, writer, _FrameReader(number, from_client=False)),
            )
        except (OSError, asyncio.CancelledError):
            pass  # the connection is lost, or the demonstration over: both ends are closed below
        finally:
            for end in (writer, server_writer):
                if end is not None:
                    end.close()
                    with suppress(OSError):
                        await end.wait_closed()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, frames: _FrameReader) -> None:
        while data := await reader.read(1 << 16):
            self._frames += frames.feed(data)
            writer.write(data)
            await writer.drain()
        writer.write_eof()
