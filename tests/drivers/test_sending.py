"""Sending: whole messages, iterables in fragments, several tasks at once, and what is refused."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from network import Driver
from peers import BINARY, CLOSE, CONT, PING, PONG, TEXT, Frame, close_payload

import taut


async def echo(ws: Any) -> None:
    async for message in ws:
        await ws.send(message)


async def letters() -> AsyncIterator[str]:
    for letter in "abc":
        await asyncio.sleep(0)
        yield letter


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_iterables_are_sent_as_one_message(driver: Driver, compression: str | None) -> None:
    async with driver.connected(echo, compression=compression) as (_, ws):
        for message, expected in [
            (["one"], "one"),
            (["a", "b", "c"], "abc"),
            (iter([b"a", bytearray(b"b"), memoryview(b"c")]), b"abc"),
            ((part for part in ["", "x" * 100_000, ""]), "x" * 100_000),
            (letters(), "abc"),
        ]:
            await ws.send(message)
            assert await ws.recv() == expected
        await ws.send([])  # no fragment, no message
        await ws.send("next")
        assert await ws.recv() == "next"


async def test_fragments_leave_as_they_come(driver: Driver) -> None:
    parts: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def handler(ws: Any) -> None:
        async def given() -> AsyncIterator[bytes]:
            while (part := await parts.get()) is not None:
                yield part

        await ws.send(given())

    async with driver.serve(handler, compression=None) as server, driver.opened(server) as peer:
        parts.put_nowait(b"one")
        parts.put_nowait(b"two")
        assert await peer.frame() == Frame(BINARY, b"one", fin=False)
        parts.put_nowait(b"three")
        assert await peer.frame() == Frame(CONT, b"two", fin=False)
        # Control frames go between the fragments (RFC 6455, 5.4).
        peer.send(PING, b"now")
        assert await peer.frame() == Frame(PONG, b"now")
        ws = next(iter(server.connections))
        pong = await ws.ping(b"ours")
        assert await peer.frame() == Frame(PING, b"ours")
        peer.send(PONG, b"ours")
        assert await pong >= 0
        parts.put_nowait(None)
        assert await peer.frame() == Frame(CONT, b"three")
        assert (await peer.frame()).code == 1000


async def test_other_messages_wait_for_a_fragmented_one(driver: Driver) -> None:
    """Frames of two messages must not mix (RFC 6455, 5.4)."""
    gate = asyncio.Event()

    async def slow() -> AsyncIterator[str]:
        yield "slow 1, "
        yield "slow 2, "
        await gate.wait()
        yield "slow 3"

    async with driver.connected(echo) as (_, ws):
        first = asyncio.create_task(ws.send(slow()))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(ws.send(["quick 1, ", "quick 2"]))
        third = asyncio.create_task(ws.send("whole"))
        await asyncio.sleep(0.01)
        assert not second.done()
        assert not third.done()
        assert ws.send_nowait("in its turn") is taut.SendStatus.BUFFERED
        assert taut.broadcast([ws], "with the others") == taut.BroadcastResult(0, 1, 0)
        assert ws.stats.messages_waiting == 3
        gate.set()
        await asyncio.gather(first, second, third)
        assert await ws.recv() == "slow 1, slow 2, slow 3"
        assert [await ws.recv() for _ in range(4)] == ["whole", "quick 1, quick 2", "in its turn", "with the others"]
        assert ws.send_nowait("now") is taut.SendStatus.SENT
        assert await ws.recv() == "now"


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_concurrent_sends_are_each_whole(driver: Driver, compression: str | None) -> None:
    received: list[Any] = []

    async def collect(ws: Any) -> None:
        async for message in ws:
            received.append(message)

    async def send(ws: Any, letter: str) -> None:
        for size in (1, 1000, 20_000, 100_000):
            await ws.send(letter * size)
            await ws.send([letter * size, letter])

    async with driver.connected(collect, compression=compression) as (_, ws):
        await asyncio.gather(*(send(ws, letter) for letter in "abcdefgh"))
        await ws.close()
    assert len(received) == 64
    for letter in "abcdefgh":
        sizes = [len(message) for message in received if message == letter * len(message)]
        assert sizes == [1, 2, 1000, 1001, 20_000, 20_001, 100_000, 100_001]


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_cancelling_sends_corrupts_nothing(driver: Driver, compression: str | None) -> None:
    """A send that is cancelled has sent its message whole, or nothing of it."""
    received: list[Any] = []
    reading = asyncio.Event()

    async def collect(ws: Any) -> None:
        await reading.wait()
        async for message in ws:
            received.append(message)

    message = random.Random(1).randbytes(250_000)
    limits = {"read_limit": 1 << 16, "write_limit": 1 << 12}
    async with driver.connected(collect, compression=compression, **limits) as (_, ws):
        tasks = [asyncio.create_task(ws.send(bytes([n]) + message)) for n in range(100)]
        await asyncio.sleep(0.02)
        cancelled = [task.cancel() for task in tasks]
        assert any(cancelled)
        await asyncio.gather(*tasks, return_exceptions=True)
        reading.set()
        for n in range(100, 120):
            await ws.send(bytes([n]) + message)
        await ws.close()
    numbers = [message[0] for message in received]
    assert all(data[1:] == message for data in received)
    assert numbers == sorted(set(numbers))
    assert numbers[-20:] == list(range(100, 120))


async def test_a_broken_off_fragmented_message_closes_the_connection(driver: Driver) -> None:
    """What has been begun cannot be taken back; the peer must not wait for the rest for ever."""

    def failing() -> Iterator[str]:
        yield "one"
        yield "two"
        raise KeyError("source")

    async with driver.connected(echo) as (_, ws):
        with pytest.raises(KeyError):
            await ws.send(failing())
        await ws.wait_closed()
        assert ws.close_code == 1011

    def failing_at_once() -> Iterator[str]:
        raise KeyError("source")
        yield ""

    async with driver.connected(echo) as (_, ws):
        with pytest.raises(KeyError):
            await ws.send(failing_at_once())
        await ws.send("nothing had been sent")
        assert await ws.recv() == "nothing had been sent"


@pytest.mark.parametrize("message", [None, 1, {"a": 1}, [1], ["a", b"b"], [b"a", "b"], object()])
async def test_what_is_no_message_is_refused(driver: Driver, message: Any) -> None:
    async with driver.connected(echo) as (_, ws):
        with pytest.raises(TypeError):
            await ws.send(message)
        if not isinstance(message, list) or len(message) < 2:
            await ws.send("still open")
            assert await ws.recv() == "still open"
        with pytest.raises(TypeError):
            ws.send_nowait(message)


async def test_nothing_can_be_sent_once_closing(driver: Driver) -> None:
    async with driver.connected(echo) as (_, ws):
        await ws.close(4000, "bye")
        for attempt in (
            lambda: ws.send("x"),
            lambda: ws.send(b"x" * 100_000),
            lambda: ws.send(["x", "y"]),
            ws.ping,
            ws.pong,
            ws.recv,
        ):
            with pytest.raises(taut.ConnectionClosedError) as caught:
                await attempt()
            assert caught.value.code == 4000
            assert caught.value.reason == "bye"
            assert caught.value.info.initiator is taut.Initiator.LOCAL
        with pytest.raises(taut.ConnectionClosedError):
            ws.send_nowait("x")


async def test_messages_sent_before_the_close_arrive(driver: Driver) -> None:
    async def handler(ws: Any) -> None:
        for i in range(100):
            ws.send_nowait(bytes([i]) * 10_000)

    async with driver.serve(handler, compression=None) as server, driver.opened(server) as peer:
        frames = await peer.frames_until_close()
        assert [frame.payload for frame in frames[:-1]] == [bytes([i]) * 10_000 for i in range(100)]
        assert frames[-1].code == 1000
        peer.send(CLOSE, close_payload(1000))
        await peer.read_to_end()


async def test_text_that_cannot_be_encoded_is_refused_and_harmless(driver: Driver) -> None:
    async with driver.connected(echo) as (_, ws):
        with pytest.raises(UnicodeEncodeError):
            await ws.send("\ud800")
        await ws.send("fine")
        assert await ws.recv() == "fine"


async def test_masks_are_fresh_for_every_frame(driver: Driver) -> None:
    async with driver.raw_serve() as raw:
        opening = asyncio.ensure_future(raw.connect(compression=None).open())
        peer = await raw.accept()
        await peer.respond()
        ws = await opening
        for _ in range(200):
            await ws.send(b"\0" * 4)
        masked = []
        for _ in range(200):
            frame = await peer.read(10)
            assert frame[:2] == bytes([0x80 | BINARY, 0x80 | 4])
            masked.append(frame[2:6])
        assert len(set(masked)) > 195
        await ws.send("text")
        assert await peer.frame() == Frame(TEXT, b"text", masked=True)
        ws.abort()
        await ws.wait_closed()
