"""Taking what was unread when the connection was lost tried to resume reading, from a transport that was gone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from network import Driver
from peers import TEXT

import taut


async def test_reading_is_not_resumed(driver: Driver) -> None:
    received: list[str] = []
    done = asyncio.Event()

    async def handler(ws: Any) -> None:
        while not ws.read_paused:
            await asyncio.sleep(0)
        ws.abort()
        await ws.wait_closed()
        while len(ws.session):
            received.append(await ws.recv())
        with pytest.raises(taut.ConnectionClosedError):
            await ws.recv()
        for _ in range(5):
            await asyncio.sleep(0)  # for what was scheduled meanwhile; a failure there is a complaint of the loop
        done.set()

    async with driver.serve(handler, compression=None, read_limit=1000) as server, driver.opened(server) as peer:
        peer.write(b"".join(peer.encode(TEXT, b"x" * 400) for _ in range(10)))
        await done.wait()
        assert received
