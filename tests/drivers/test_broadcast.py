"""One message for many connections, without waiting for any of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from network import Driver

import taut


async def idle(ws: Any) -> None:
    await ws.wait_closed()


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_everyone_receives_it(driver: Driver, compression: str | None) -> None:
    async with driver.serve(idle, compression=compression) as server, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(driver.connect(server, compression=compression)) for _ in range(10)]
        for message in ("text \u20ac", b"bytes", "x" * 200_000, b"", bytearray(b"array")):
            taut.broadcast(server.connections, message)
            for client in clients:
                assert await client.recv() == message
        taut.broadcast(server.connections, b"as text", text=True)
        assert [await client.recv() for client in clients] == ["as text"] * 10


async def test_it_keeps_its_place_among_other_messages(driver: Driver) -> None:
    async def handler(ws: Any) -> None:
        async for message in ws:
            await ws.send(f"before {message}")
            taut.broadcast([ws], f"{message}")
            await ws.send(f"after {message}")

    async with driver.connected(handler) as (_, ws):
        for i in range(50):
            await ws.send(str(i))
        for i in range(50):
            assert [await ws.recv() for _ in range(3)] == [f"before {i}", str(i), f"after {i}"]


async def test_a_stalled_client_stays_within_its_limit_and_disturbs_nobody(driver: Driver) -> None:
    limit = 1 << 20
    message = b"x" * 50_000
    served: asyncio.Queue[Any] = asyncio.Queue()

    async def handler(ws: Any) -> None:
        served.put_nowait(ws)
        await ws.wait_closed()

    async with (
        driver.serve(handler, compression=None, outbox_limit=limit) as server,
        driver.opened(server) as stalled,
        driver.connect(server, compression=None) as healthy,
    ):
        one, two = await served.get(), await served.get()
        stalled.transport.pause_reading()
        most = 0
        for _ in range(1000):
            taut.broadcast([one, two], message)
            most = max(most, one.stats.unsent)
            assert await healthy.recv() == message
            if one.close_info is not None:
                break
        assert one.close_info is not None
        assert (one.close_info.code, one.close_info.initiator) == (1008, taut.Initiator.LOCAL)
        assert most <= limit + len(message) + 200
        # After that nothing more is sent to it.
        sent = one.stats.bytes_sent
        for _ in range(10):
            taut.broadcast([one, two], message)
            assert await healthy.recv() == message
        assert one.stats.bytes_sent == sent
        with pytest.raises(taut.ConnectionClosedError):
            one.send_nowait("x")


async def test_it_waits_for_a_fragmented_message(driver: Driver) -> None:
    gate = asyncio.Event()

    async def parts() -> AsyncIterator[str]:
        yield "one "
        await gate.wait()
        yield "two"

    served: asyncio.Queue[Any] = asyncio.Queue()

    async def handler(ws: Any) -> None:
        served.put_nowait(ws)
        await ws.send(parts())
        await ws.wait_closed()

    async with driver.connected(handler) as (server, ws):
        there = await served.get()
        while not there.fragmenting:
            await asyncio.sleep(0)
        waiting = taut.broadcast(server.connections, "not missed", raise_exceptions=True)
        assert waiting == taut.BroadcastResult(sent=0, buffered=1, dropped=0)
        gate.set()
        assert await ws.recv() == "one two"
        sent = taut.broadcast(server.connections, "at once", raise_exceptions=True)
        assert sent == taut.BroadcastResult(sent=1, buffered=0, dropped=0)
        assert [await ws.recv() for _ in range(2)] == ["not missed", "at once"]


async def test_connections_that_are_closing_are_passed_over(driver: Driver) -> None:
    async with driver.connected(idle) as (server, ws):
        connections = server.connections
        await ws.close()
        taut.broadcast(connections, "nobody", raise_exceptions=True)
        taut.broadcast([ws], "nobody", raise_exceptions=True)


@pytest.mark.parametrize("message", [None, 1, ["a"], {"a": 1}])
async def test_what_is_no_message_is_refused(driver: Driver, message: Any) -> None:
    async with driver.connected(idle) as (server, _):
        with pytest.raises(TypeError):
            taut.broadcast(server.connections, message)


async def test_clients_may_broadcast_too(driver: Driver) -> None:
    async def echo(ws: Any) -> None:
        async for message in ws:
            await ws.send(message)

    async with driver.serve(echo) as server, driver.connect(server) as one, driver.connect(server) as two:
        taut.broadcast([one, two], "from the clients")
        assert await one.recv() == await two.recv() == "from the clients"
