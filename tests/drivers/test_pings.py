"""Pings and pongs: round trips, answers without anybody receiving, and keepalive."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from network import Driver
from peers import PING, PONG, TEXT, Frame

import taut


async def idle(ws: Any) -> None:
    await ws.wait_closed()


class Served:
    def __init__(self) -> None:
        self.connections: asyncio.Queue[Any] = asyncio.Queue()

    async def __call__(self, ws: Any) -> None:
        self.connections.put_nowait(ws)
        await ws.wait_closed()


async def test_a_ping_measures_the_round_trip(driver: Driver) -> None:
    async with driver.connected(idle) as (_, ws):
        assert ws.latency == 0
        round_trip = await (await ws.ping())
        assert 0 < round_trip < 30
        assert ws.latency == round_trip
        waiting = [await ws.ping(data) for data in ("text", b"bytes", bytearray(b"array"), b"")]
        for pong in waiting:
            assert 0 <= await pong < 30


async def test_a_pong_answers_the_pings_before_it(driver: Driver) -> None:
    served = Served()
    async with driver.serve(served) as server, driver.opened(server) as peer:
        there = await served.connections.get()
        first, second, third = [await there.ping(data) for data in (b"1", b"2", b"3")]
        assert [await peer.frame() for _ in range(3)] == [Frame(PING, data) for data in (b"1", b"2", b"3")]
        peer.send(PONG, b"unknown")
        peer.send(PONG, b"2")
        assert await first >= await second >= 0
        assert not third.done()
        peer.send(PONG, b"3")
        assert await third >= 0


async def test_wrong_pings_are_refused(driver: Driver) -> None:
    served = Served()
    async with driver.serve(served) as server, driver.opened(server) as peer:
        there = await served.connections.get()
        with pytest.raises(ValueError, match="126"):
            await there.ping(b"x" * 126)
        with pytest.raises(ValueError, match="126"):
            await there.pong(b"x" * 126)
        waiting = await there.ping(b"same")
        with pytest.raises(ValueError, match="same"):
            await there.ping(b"same")
        assert await peer.frame() == Frame(PING, b"same")
        await there.pong(b"unasked")
        assert await peer.frame() == Frame(PONG, b"unasked")
        there.abort()
        with pytest.raises(taut.ConnectionClosedError):
            await waiting


async def test_a_ping_that_nobody_waits_for_any_more_is_forgotten(driver: Driver) -> None:
    async with driver.connected(idle) as (_, ws):
        waiting = await ws.ping(b"cancelled")
        waiting.cancel()
        await (await ws.ping(b"next"))
        await ws.ping(b"never awaited")


async def test_pings_are_answered_while_nobody_receives(driver: Driver) -> None:
    async with driver.serve(idle, compression=None) as server, driver.opened(server) as peer:
        for i in range(100):
            peer.send(TEXT, b"unread " * 100)
            peer.send(PING, str(i).encode())
            assert await peer.frame() == Frame(PONG, str(i).encode())


async def test_keepalive_pings_a_silent_peer_and_is_content_with_any_answer(driver: Driver) -> None:
    served = Served()
    async with driver.serve(served, ping_interval=0.02, ping_timeout=5) as server, driver.opened(server) as peer:
        there = await served.connections.get()
        payloads = set()
        for _ in range(4):
            frame = await peer.frame()
            assert frame.opcode == PING
            payloads.add(frame.payload)
            peer.send(PONG, frame.payload)
        assert len(payloads) == 4
        assert there.latency > 0
        assert there.state is taut.State.OPEN


async def test_keepalive_gives_up_a_peer_that_has_vanished(driver: Driver) -> None:
    served = Served()
    async with driver.serve(served, ping_interval=0.05, ping_timeout=0.05) as server, driver.opened(server) as peer:
        there = await served.connections.get()
        receiving = asyncio.ensure_future(there.recv())
        frames = await peer.frames_until_close()
        assert [frame.opcode for frame in frames[:-1]] == [PING]
        assert frames[-1].code == 1011
        with pytest.raises(taut.ConnectionClosedError) as caught:
            await receiving
        assert caught.value.code == 1011
        await there.wait_closed()
        await peer.read_to_end()


async def test_no_keepalive_if_it_is_switched_off(driver: Driver) -> None:
    served = Served()
    async with (
        driver.serve(served, ping_interval=None) as server,
        driver.connect(server, ping_interval=None) as ws,
    ):
        there = await served.connections.get()
        await (await ws.ping())
        assert there.stats.bytes_sent == 4  # the pong
