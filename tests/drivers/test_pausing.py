"""Reading that the program stops and resumes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from network import Driver

import taut

CHUNK = "x" * 10_000


async def idle(ws: taut.ServerConnection) -> None:
    await ws.wait_closed()


async def echo(ws: taut.ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


class Paused:
    """A handler that waits for ``gate`` with reading paused, and then counts messages to the end."""

    def __init__(self) -> None:
        self.paused, self.gate = asyncio.Event(), asyncio.Event()
        self.received = 0

    async def __call__(self, ws: taut.ServerConnection) -> None:
        ws.pause_reading()
        self.paused.set()
        await self.gate.wait()
        ws.resume_reading()
        async for _ in ws:
            self.received += 1


async def test_a_peer_has_to_wait(driver: Driver) -> None:
    handler = Paused()
    # Far less than ``read_limit`` would let in.
    async with driver.connected(handler, compression=None, server={"read_limit": 1 << 30}, max_size=None) as (
        server,
        ws,
    ):
        await handler.paused.wait()
        total = 0
        while not ws.write_paused:
            ws.send_nowait(CHUNK)
            total += 1
            if not total % 50:
                await asyncio.sleep(0.001)
            assert total < 4000, "the peer was never made to wait"
        (served,) = server.connections
        assert served.stats.messages_received < total
        handler.gate.set()
        await ws.drain()
        await ws.close()
        await server.wait_for_connections(at_most=0)
        assert handler.received == total


async def test_the_silence_is_not_taken_for_death(driver: Driver) -> None:
    handler = Paused()
    times = {"ping_interval": 0.05, "ping_timeout": 0.05}
    async with driver.connected(handler, server=times, client={"ping_interval": None}) as (server, ws):
        await handler.paused.wait()
        await asyncio.sleep(0.5)
        (served,) = server.connections
        assert served.state is ws.state is taut.State.OPEN
        handler.gate.set()
        await ws.send("still there")
        await ws.close()
        await server.wait_for_connections(at_most=0)
        assert handler.received == 1


async def test_closing_reads_on(driver: Driver) -> None:
    async def handler(ws: taut.ServerConnection) -> None:
        ws.pause_reading()
        await ws.close(4000)
        assert ws.close_info is not None
        ended.append(ws.close_info.clean)
        ws.pause_reading()
        ws.resume_reading()

    ended: list[bool] = []
    async with driver.connected(handler) as (server, ws):
        await ws.wait_closed()
        await server.wait_for_connections(at_most=0)
        assert (ws.close_code, ended) == (4000, [True])


async def test_aborting_while_paused(driver: Driver) -> None:
    async with driver.connected(idle) as (_, ws):
        ws.pause_reading()
        ws.abort()
        await ws.wait_closed()
        ws.resume_reading()
        assert ws.close_code == 1006


async def test_a_close_frame_is_seen_after_resuming(driver: Driver) -> None:
    async with driver.connected(idle) as (server, ws):
        await ws.send("hello")
        ws.pause_reading()
        (served,) = server.connections
        closing = asyncio.create_task(served.close(4001))
        await asyncio.sleep(0.05)
        assert ws.state is taut.State.OPEN
        ws.resume_reading()
        await closing
        await ws.wait_closed()
        assert ws.close_code == 4001


async def test_what_has_been_read_is_still_received(driver: Driver) -> None:
    async with driver.connected(echo, read_limit=1 << 20) as (_, ws):
        for number in range(10):
            await ws.send(str(number))
        while ws.stats.messages_received < 10:
            await asyncio.sleep(0.001)
        ws.pause_reading()
        await ws.send("late")
        assert [await ws.recv() for _ in range(10)] == [str(number) for number in range(10)]
        receiving = asyncio.ensure_future(ws.recv())
        await asyncio.sleep(0.02)
        assert not receiving.done()
        ws.resume_reading()
        assert await receiving == "late"


@pytest.mark.parametrize("read_limit", [1, 1000, 1 << 18])
async def test_pausing_and_backpressure_together(driver: Driver, read_limit: int) -> None:
    """Paused for two reasons, it reads on only when both are gone, whichever is the last to go."""
    total = 60

    async def handler(ws: taut.ServerConnection) -> None:
        for number in range(total):
            await ws.send(f"{number}".zfill(500))
        await ws.wait_closed()

    async with driver.connected(handler, client={"read_limit": read_limit}) as (_, ws):
        for number in range(total):
            if number % 3 == 0:
                ws.pause_reading()
                ws.loop.call_soon(ws.resume_reading)
            elif number % 3 == 1:
                ws.pause_reading()
                ws.resume_reading()
            assert await ws.recv() == f"{number}".zfill(500)


async def test_a_listener_may_pause(driver: Driver) -> None:
    seen: list[Any] = []
    news = asyncio.Event()

    class Slow(taut.Listener):
        def on_open(self, ws: taut.Connection) -> None:
            ws.pause_reading()
            asyncio.get_running_loop().call_later(0.02, ws.resume_reading)

        def on_message(self, ws: taut.Connection, message: taut.Data) -> None:
            seen.append(message)
            ws.pause_reading()
            ws.loop.call_soon(ws.resume_reading)
            news.set()

    async with driver.connected(Slow) as (_, ws):
        for number in range(50):
            await ws.send(str(number))
        while len(seen) < 50:
            news.clear()
            await news.wait()
        assert seen == [str(number) for number in range(50)]
