"""A server's connection whose peer has stopped to read, for the tests of slow consumers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from network import Driver
from peers import BINARY, CLOSE, CONT, TEXT, Frame, Peer

import taut

__all__ = ["FILLER", "Stalled", "fill", "messages_of", "small_buffers", "stalled"]

FILLER = bytes(1 << 16)


@dataclass
class Stalled:
    """``ws``: the server's end; ``peer``: the client's, which does not read."""

    server: taut.Server
    ws: Any
    peer: Peer
    fillers: int = 0

    async def rest(self) -> list[Frame]:
        """Read on; every frame behind the fillers up to the Close frame."""
        self.peer.transport.resume_reading()
        frames = await self.peer.frames_until_close()
        self.peer.send(CLOSE, frames[-1].payload)
        await self.peer.read_to_end()
        assert all(frame.payload == FILLER for frame in frames[: self.fillers])
        return frames[self.fillers :]

    async def rest_of_messages(self) -> list[str | bytes]:
        """Close, read on, and tell which messages there were behind the fillers."""
        closing = asyncio.create_task(self.ws.close())
        frames = await self.rest()
        await closing
        assert frames.pop().code == 1000
        return messages_of(frames)


def messages_of(frames: list[Frame]) -> list[str | bytes]:
    """The messages that these frames are; between the fragments of one there is no other (RFC 6455, 5.4)."""
    messages: list[str | bytes] = []
    opcode, parts = 0, b""
    for frame in frames:
        if frame.opcode >= CLOSE:
            assert frame.fin
            continue
        assert (frame.opcode == CONT) == bool(opcode)
        opcode, parts = frame.opcode or opcode, parts + frame.payload
        if frame.fin:
            assert opcode in (TEXT, BINARY)
            messages.append(parts.decode() if opcode == TEXT else parts)
            opcode, parts = 0, b""
    assert not opcode
    return messages


async def fill(ws: Any) -> int:
    """Send until nothing more leaves, whatever happens on the way; return how many fillers that took."""
    count = 0
    while not ws.write_paused:
        while not ws.write_paused:
            ws.send_nowait(FILLER, compress=False)
            count += 1
        await asyncio.sleep(0.02)  # for as long as the network takes more
    return count


def small_buffers(*transports: asyncio.BaseTransport) -> None:
    """Let the network keep little, where there is one."""
    for transport in transports:
        if (sock := transport.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 17)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 17)


@asynccontextmanager
async def stalled(driver: Driver, headers: Iterable[tuple[str, str]] = (), **options: Any) -> AsyncIterator[Stalled]:
    """A connection with room for nothing but what it lets wait."""
    served: asyncio.Queue[Any] = asyncio.Queue()

    async def handler(ws: Any) -> None:
        served.put_nowait(ws)
        await ws.wait_closed()

    # It is resumed at a quarter of the write limit: the network would have to take a lot more for that.
    defaults = {"compression": None, "ping_interval": None, "write_limit": 1 << 17, "outbox_limit": 1 << 20}
    options = defaults | options
    async with driver.serve(handler, **options) as server, driver.opened(server, headers) as peer:
        ws = await served.get()
        small_buffers(ws.transport, peer.transport)
        peer.transport.pause_reading()
        yield Stalled(server, ws, peer, await fill(ws))
