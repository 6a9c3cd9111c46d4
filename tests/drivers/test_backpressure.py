"""Whoever reads slowly slows the sender down: memory stays bounded on both sides, and nothing is lost."""

from __future__ import annotations

import asyncio
from typing import Any

from network import Driver
from peers import TEXT

import taut

# The most that may be on its way between two ends without either of them counting it: buffers of sockets and of TLS.
IN_TRANSIT = 16 << 20


async def test_a_reader_that_stops_makes_send_wait_with_bounded_memory(driver: Driver) -> None:
    message = b"x" * 50_000
    limit = 120_000
    sent = 0
    most_unsent = 0
    stalled = asyncio.Event()

    async def handler(ws: Any) -> None:
        nonlocal sent, most_unsent
        while sent < 800:
            sending = asyncio.ensure_future(ws.send(message))
            done, _ = await asyncio.wait([sending], timeout=None if stalled.is_set() else 0.2)
            most_unsent = max(most_unsent, ws.stats.unsent)
            if not done:
                stalled.set()
                await sending
            sent += 1

    async with driver.serve(handler, compression=None, write_limit=limit) as server, driver.opened(server) as peer:
        peer.transport.pause_reading()
        await stalled.wait()
        assert sent * len(message) < IN_TRANSIT
        peer.transport.resume_reading()
        total = 0
        while (frame := await peer.frame()).opcode != 8:
            assert frame.payload == message
            total += 1
        assert total == 800
        # One message more than the limit at the most, and the frame heads.
        assert limit < most_unsent <= limit + len(message) + 100
        peer.send(8, frame.payload)
        await peer.read_to_end()


async def test_a_handler_that_stops_makes_its_connection_pause_reading(driver: Driver) -> None:
    """Reading pauses at the limit of unread bytes, resumes, and nothing is lost."""
    limit = 50_000
    count = 4000
    gate = asyncio.Event()
    served: asyncio.Queue[Any] = asyncio.Queue()
    received: list[Any] = []

    async def handler(ws: Any) -> None:
        served.put_nowait(ws)
        await gate.wait()
        async for message in ws:
            received.append(message)

    async with driver.serve(handler, compression=None, read_limit=limit) as server, driver.opened(server) as peer:
        there = await served.get()
        flooding = asyncio.create_task(peer.flood(peer.encode(TEXT, b"0123456789" * 1000), count))
        while not there.read_paused:
            await asyncio.sleep(0.001)
        # The sender is stopped too: all that is under way stays as it is.
        done, _ = await asyncio.wait([flooding], timeout=0.2)
        assert not done
        assert limit <= there.stats.unread <= limit + 10_000 + 1000
        gate.set()
        await flooding
        async with asyncio.timeout(5):  # and nothing of the pause stands in the way of the end
            await peer.close()
        assert received == ["0123456789" * 1000] * count


async def test_the_read_limit_holds_for_compressed_messages(driver: Driver) -> None:
    """Unread messages are counted by what they hold, not by what came over the network."""
    limit = 200_000
    size = 100_000
    gate = asyncio.Event()
    served: asyncio.Queue[Any] = asyncio.Queue()
    received = 0

    async def handler(ws: Any) -> None:
        nonlocal received
        served.put_nowait(ws)
        await gate.wait()
        async for message in ws:
            assert message == "a" * size
            received += 1

    async with driver.connected(handler, server={"read_limit": limit}) as (_, ws):
        there = await served.get()
        for _ in range(200):
            await ws.send("a" * size)
        while not there.read_paused:
            await asyncio.sleep(0.001)
        assert there.stats.unread <= limit + size + 1000
        gate.set()
        await ws.close()
        await there.wait_closed()
        assert received == 200


async def test_a_slow_echo_loses_nothing_in_either_direction(driver: Driver) -> None:
    count, size = 300, 20_000

    async def echo(ws: Any) -> None:
        async for message in ws:
            await ws.send(message)

    options = {"read_limit": 30_000, "write_limit": 30_000, "compression": None}
    async with driver.connected(echo, **options) as (_, ws):

        async def send() -> None:
            for i in range(count):
                await ws.send(bytes([i & 0xFF]) * size)

        sending = asyncio.create_task(send())
        for i in range(count):
            if i % 50 == 0:
                await asyncio.sleep(0.01)
            assert await ws.recv() == bytes([i & 0xFF]) * size
        await sending


async def test_sends_that_wait_end_with_the_connection(driver: Driver) -> None:
    outcome: asyncio.Queue[Any] = asyncio.Queue()

    async def handler(ws: Any) -> None:
        tasks = [asyncio.ensure_future(ws.send(b"x" * 1_000_000)) for _ in range(30)]
        outcome.put_nowait(await asyncio.gather(*tasks, return_exceptions=True))

    async with driver.serve(handler, compression=None) as server, driver.opened(server) as peer:
        peer.transport.pause_reading()
        await asyncio.sleep(0.05)
        peer.transport.abort()
        results = await outcome.get()
        assert results
        # The first may have left, as far as the network took them.
        assert {type(each) for each in results} <= {taut.ConnectionClosedError, type(None)}
        assert type(results[-1]) is taut.ConnectionClosedError


async def test_send_nowait_gives_up_a_peer_that_does_not_read(driver: Driver) -> None:
    limit = 1 << 20
    ended: asyncio.Queue[Any] = asyncio.Queue()

    async def handler(ws: Any) -> None:
        most = 0
        try:
            for _ in range(10_000):
                ws.send_nowait(b"x" * 10_000)
                most = max(most, ws.stats.unsent)
                await asyncio.sleep(0)
        except taut.ConnectionClosedError as exc:
            ended.put_nowait((most, exc.info))

    async with driver.serve(handler, compression=None, outbox_limit=limit) as server, driver.opened(server) as peer:
        peer.transport.pause_reading()
        most, info = await ended.get()
        assert limit < most <= limit + 10_000 + 1000
        assert info.code == 1008
        assert info.initiator is taut.Initiator.LOCAL
        assert "outbox_limit" in info.reason


async def test_pongs_do_not_pile_up_for_a_peer_that_does_not_read(driver: Driver) -> None:
    """Only the last of many pings needs an answer (RFC 6455, 5.5.3)."""
    served: asyncio.Queue[Any] = asyncio.Queue()

    async def handler(ws: Any) -> None:
        served.put_nowait(ws)
        await ws.wait_closed()

    async with driver.serve(handler, compression=None) as server, driver.opened(server) as peer:
        there = await served.get()
        peer.transport.pause_reading()
        while not there.write_paused:
            while not there.write_paused:
                there.send_nowait(b"x" * 1_000_000)
            # Until the network has taken all that it will, and news from the peer does not change that.
            peer.write(peer.encode(9, b"first"))
            await asyncio.sleep(0.05)
        before = there.stats.unsent
        for i in range(2000):
            peer.write(peer.encode(9, b"%0125d" % i))
        peer.write(peer.encode(TEXT, b"end"))
        while not there.stats.messages_received:
            await asyncio.sleep(0.001)
        assert there.stats.unsent <= before
        peer.transport.resume_reading()
        last = b"%0125d" % 1999
        frames = [await peer.frame()]
        while frames[-1].payload != last:
            frames.append(await peer.frame())
        assert [frame.payload for frame in frames if frame.opcode == 10 and frame.payload != b"first"] == [last]
