"""Receiving: one at a time, whole or in parts, and cancelled at will without losing anything."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from network import Driver
from peers import BINARY, CONT, TEXT

import taut


async def echo(ws: Any) -> None:
    async for message in ws:
        await ws.send(message)


@pytest.mark.parametrize("way", ["recv", "anext", "recv(decode)", "recv_streaming"])
async def test_two_tasks_must_not_receive_at_once(driver: Driver, way: str) -> None:
    def receive(ws: Any) -> Any:
        match way:
            case "recv":
                return ws.recv()
            case "anext":
                return anext(aiter(ws))
            case "recv(decode)":
                return ws.recv(decode=True)
            case _:
                return anext(ws.recv_streaming())

    async with driver.connected(echo) as (_, ws):
        first = asyncio.ensure_future(ws.recv())
        await asyncio.sleep(0)
        with pytest.raises(taut.ConcurrencyError) as caught:
            await receive(ws)
        assert caught.value.operation == "recv"
        await ws.send("for the first")
        assert await first == "for the first"
        await ws.send("for whoever comes next")
        assert await receive(ws) == "for whoever comes next"


async def test_two_receives_made_together_do_not_share_a_message(driver: Driver) -> None:
    async with driver.connected(echo) as (_, ws):
        waiting = asyncio.gather(ws.recv(), ws.recv(), return_exceptions=True)
        await asyncio.sleep(0)
        await ws.send("only one")
        outcome = await waiting
        assert outcome[0] == "only one"
        assert isinstance(outcome[1], taut.ConcurrencyError)


async def test_cancelling_a_receive_loses_nothing(driver: Driver) -> None:
    """Whatever interrupts a receive, and whenever, every message arrives exactly once."""
    count = 2000
    chance = random.Random(7)

    async def send(ws: Any) -> None:
        for i in range(count):
            await ws.send(str(i))
            if i % 7 == 0:
                await asyncio.sleep(0)

    async with driver.connected(send) as (_, ws):
        received: list[str] = []
        interrupted = 0
        while len(received) < count:
            way = chance.randrange(4)
            try:
                if way == 0:
                    received.append(await asyncio.wait_for(ws.recv(), 0))
                elif way == 1:
                    async with asyncio.timeout(chance.choice([0, 1e-6, 1e-4])):
                        received.append(await ws.recv())
                elif way == 2:
                    task = asyncio.ensure_future(ws.recv())
                    for _ in range(chance.randrange(4)):
                        await asyncio.sleep(0)
                    task.cancel()
                    received.append(await task)
                else:
                    received.append(await ws.recv())
            except (TimeoutError, asyncio.CancelledError):
                interrupted += 1
        assert received == [str(i) for i in range(count)]
        assert interrupted > 10


async def test_a_receive_cancelled_as_its_message_arrives_gives_it_to_the_next(driver: Driver) -> None:
    async with driver.serve(echo, compression=None) as server, driver.opened(server) as peer:
        peer.send(TEXT, b"warm")
        assert (await peer.frame()).payload == b"warm"
        await peer.close()
    async with driver.connected(echo) as (_, ws):
        task = asyncio.ensure_future(ws.recv())
        await ws.send("precious")
        while not ws.stats.messages_received:
            await asyncio.sleep(0)
        task.cancel()
        outcome = await asyncio.gather(task, return_exceptions=True)
        if outcome != ["precious"]:
            assert isinstance(outcome[0], asyncio.CancelledError)
            assert await ws.recv() == "precious"
        await ws.send("next")
        assert await ws.recv() == "next"


async def test_waiting_ends_when_the_connection_does(driver: Driver) -> None:
    released = asyncio.Event()

    async def handler(ws: Any) -> None:
        await released.wait()

    async with driver.connected(handler) as (_, ws):
        waiting = asyncio.ensure_future(ws.recv())
        await asyncio.sleep(0)
        released.set()
        with pytest.raises(taut.ConnectionClosedOK) as caught:
            await waiting
        assert caught.value.code == 1000


@pytest.mark.parametrize("size", [0, 10, 100_000, 3 << 20])
async def test_a_message_is_received_in_parts(driver: Driver, size: int) -> None:
    message = "\u20ac" * (size // 3)
    async with driver.connected(echo, max_size=None) as (_, ws):
        await ws.send(message)
        parts = [part async for part in ws.recv_streaming()]
        assert all(isinstance(part, str) for part in parts)
        assert "".join(parts) == message
        await ws.send(b"whole")
        assert await ws.recv() == b"whole"
        await ws.send(b"again")
        assert b"".join([part async for part in ws.recv_streaming()]) == b"again"


async def test_a_part_is_given_before_the_message_is_complete(driver: Driver) -> None:
    parts: list[Any] = []
    more = asyncio.Event()

    async def handler(ws: Any) -> None:
        async for part in ws.recv_streaming():
            parts.append(part)
            more.set()
        await ws.send("end")

    async with driver.serve(handler, compression=None) as server, driver.opened(server) as peer:
        peer.send(TEXT, "one \u20ac".encode()[:-1], fin=False)
        await more.wait()
        assert parts == ["one "]
        more.clear()
        peer.send(CONT, "\u20ac".encode()[-1:] + b" two", fin=False)
        await more.wait()
        assert parts == ["one ", "\u20ac two"]
        peer.send(CONT, b"")
        assert (await peer.frame()).payload == b"end"
        assert "".join(parts) == "one \u20ac two"
        assert (await peer.frame()).code == 1000


async def test_a_message_that_is_given_up_half_way_does_not_reach_the_next_receive(driver: Driver) -> None:
    async def handler(ws: Any) -> None:
        async for _ in ws.recv_streaming():
            break
        await ws.send("enough")
        async for message in ws:
            await ws.send(message)

    async with driver.serve(handler, compression=None) as server, driver.opened(server) as peer:
        peer.send(BINARY, b"first", fin=False)
        assert (await peer.frame()).payload == b"enough"
        peer.send(CONT, b"unwanted", fin=False)
        peer.send(CONT, b"rest")
        peer.send(TEXT, b"wanted")
        assert (await peer.frame()).payload == b"wanted"
        await peer.close()


async def test_streaming_that_is_cancelled_before_a_part_was_taken_loses_nothing(driver: Driver) -> None:
    async with driver.connected(echo) as (_, ws):
        for message in ("x" * 10, b"y" * 500_000):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(ws.recv_streaming()), 0.001)
            await ws.send(message)
            assert await ws.recv() == message


async def test_the_loop_turns_while_messages_keep_coming(driver: Driver) -> None:
    """A handler that is fed without ever having to wait does not starve the others."""
    turns = 0
    done = False

    async def turn() -> None:
        nonlocal turns
        while not done:
            turns += 1
            await asyncio.sleep(0)

    async def handler(ws: Any) -> None:
        nonlocal done
        async for _ in ws:
            pass
        done = True

    async with driver.connected(handler, compression=None, read_limit=1 << 20) as (server, ws):
        turning = asyncio.create_task(turn())
        for _ in range(20_000):
            ws.send_nowait("m")
        await ws.close()
        await turning
        assert turns > 20
