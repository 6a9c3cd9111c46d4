"""Giving up a streamed message emptied the inbox without reading on, and the next ``recv`` waited for ever."""

from __future__ import annotations

import asyncio
from typing import Any

from network import Driver
from peers import BINARY, CONT, TEXT


async def test_the_message_behind_it_arrives(driver: Driver) -> None:
    received: list[Any] = []

    async def handler(ws: Any) -> None:
        async for part in ws.recv_streaming():
            received.append(bytes(part[:1]))
            while not ws.read_paused:
                await asyncio.sleep(0)
            break
        received.append(await ws.recv())

    async with driver.serve(handler, compression=None, read_limit=1000) as server, driver.opened(server) as peer:
        peer.send(BINARY, b"a" * 100, fin=False)
        for _ in range(50):
            peer.send(CONT, b"b" * 1000, fin=False)
        peer.send(CONT, b"c")
        peer.send(TEXT, b"after")
        await peer.frames_until_close()
        assert received == [b"a", "after"]
