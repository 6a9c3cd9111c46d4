"""Frames sent together with the request could exceed the read limit; then reading went on all the same.

What came next was taken before what had been set aside, or piled up behind it without a limit.
"""

from __future__ import annotations

import asyncio
from typing import Any

from network import Driver
from peers import TEXT


async def test_they_are_received_in_order_and_within_the_limit(driver: Driver) -> None:
    received: list[str] = []
    connections: list[Any] = []
    proceed = asyncio.Event()

    async def handler(ws: Any) -> None:
        connections.append(ws)
        await proceed.wait()
        received.extend([(await ws.recv())[:2] for _ in range(80)])

    async with driver.serve(handler, compression=None, read_limit=1000) as server, driver.peer(server) as peer:
        frames = [peer.encode(TEXT, b"%02d" % i + b"x" * 300) for i in range(80)]
        write = peer.write
        peer.write = lambda data: write(data + b"".join(frames[:40]))  # type: ignore[method-assign]
        await peer.request()
        write(b"".join(frames[40:]))
        (ws,) = connections
        while not ws.read_paused:
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        assert not ws.transport.is_reading()
        proceed.set()
        await peer.frames_until_close()
        assert received == [f"{i:02d}" for i in range(80)]
