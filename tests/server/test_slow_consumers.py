"""Slow consumers: what happens to messages for a peer that does not read, by policy, with real stalled peers."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from network import Driver
from peers import BINARY, CLOSE, CONT, PING, PONG
from slow import FILLER, messages_of, small_buffers, stalled

import taut
from taut import SendStatus

PAYLOAD = 1000


@pytest.fixture(params=["tcp", "tls", "memory"])
def driver(request: pytest.FixtureRequest) -> Driver:
    return Driver(request.param, "")


def a_message(number: int) -> str:
    return f"{number} ".ljust(PAYLOAD, "x")


def numbers(messages: list[Any]) -> list[int]:
    return [int(message.split(maxsplit=1)[0]) for message in messages]


def accepted(ws: Any) -> int:
    stats = ws.stats
    return stats.messages_sent + stats.messages_waiting + stats.messages_dropped + stats.messages_conflated


async def idle(ws: Any) -> None:
    await ws.wait_closed()


# -- policies --------------------------------------------------------------------------------------------------


async def test_drop_oldest_keeps_the_latest(driver: Driver) -> None:
    async with stalled(driver, overflow="drop_oldest", outbox_limit=300_000) as it:
        room = 300_000 - it.ws.unsent
        most = 0
        for number in range(2000):
            assert it.ws.send_nowait(a_message(number)) is SendStatus.BUFFERED
            most = max(most, it.ws.unsent)
        assert most <= 300_000 + PAYLOAD + 1000  # the limit and one message
        stats = it.ws.stats
        assert stats.messages_dropped == 2000 - stats.messages_waiting
        assert stats.bytes_dropped == stats.messages_dropped * PAYLOAD
        assert room // (PAYLOAD + 300) < stats.messages_waiting <= room // PAYLOAD + 1
        received = numbers(await it.rest_of_messages())
        assert received == list(range(2000 - stats.messages_waiting, 2000))
    assert it.server.stats.messages_dropped == {"drop_oldest": stats.messages_dropped, "drop_newest": 0, "closed": 0}
    assert it.server.stats.bytes_dropped == stats.bytes_dropped


async def test_drop_newest_keeps_the_first(driver: Driver) -> None:
    async with stalled(driver, overflow="drop_newest", outbox_limit=300_000) as it:
        statuses = [it.ws.send_nowait(a_message(number)) for number in range(2000)]
        kept = statuses.count(SendStatus.BUFFERED)
        assert statuses == [SendStatus.BUFFERED] * kept + [SendStatus.DROPPED] * (2000 - kept)
        assert it.ws.stats.messages_waiting == kept
        assert it.ws.stats.messages_dropped == 2000 - kept
        assert numbers(await it.rest_of_messages()) == list(range(kept))
    assert it.server.stats.messages_dropped["drop_newest"] == 2000 - kept


async def test_close_gives_the_peer_up_and_sends_it_nothing_more(driver: Driver) -> None:
    async with stalled(driver, outbox_limit=300_000) as it:
        taken = 0
        with pytest.raises(taut.ConnectionClosedError) as caught:
            while True:
                it.ws.send_nowait(a_message(taken))
                taken += 1
                assert it.ws.unsent <= 300_000 + PAYLOAD + 1000
        assert (caught.value.code, caught.value.info.initiator) == (1008, taut.Initiator.LOCAL)
        assert "outbox_limit" in caught.value.reason
        # What had waited is dropped, and counted.
        assert it.ws.stats.messages_waiting == 0
        assert it.ws.stats.messages_dropped == taken
        with pytest.raises(taut.ConnectionClosedError):
            it.ws.send_nowait("more")
        frames = await it.rest()
        assert [frame.code for frame in frames] == [1008]
    assert it.server.stats.messages_dropped == {"drop_oldest": 0, "drop_newest": 0, "closed": taken}


async def test_wait_refuses_what_cannot_wait(driver: Driver) -> None:
    async with stalled(driver, overflow="wait", outbox_limit=300_000) as it:
        taken = 0
        with pytest.raises(taut.QueueFull) as caught:
            while True:
                it.ws.send_nowait(a_message(taken))
                taken += 1
        assert (caught.value.option, caught.value.limit) == ("outbox_limit", 300_000)
        assert it.ws.stats.messages_dropped == 0
        # A send that waits finds room for itself; it is not done before all has left.
        sending = asyncio.ensure_future(it.ws.send(a_message(taken)))
        await asyncio.sleep(0)
        assert it.ws.stats.messages_waiting == taken + 1
        assert not sending.done()
        assert numbers(await it.rest_of_messages()) == list(range(taken + 1))
        await sending


async def test_the_latest_message_of_a_key_replaces_the_one_that_waits(driver: Driver) -> None:
    async with stalled(driver) as it:
        for price in range(100):
            for symbol in ("AAPL", "MSFT", "NVDA"):
                assert it.ws.send_nowait(f"{symbol} {price}", key=symbol) is SendStatus.BUFFERED
            if price == 50:
                it.ws.send_nowait("news")
        assert it.ws.stats.messages_waiting == 4
        assert it.ws.stats.messages_conflated == 297
        # Each keeps the place of the first.
        assert await it.rest_of_messages() == ["AAPL 99", "MSFT 99", "NVDA 99", "news"]
    assert it.server.stats.messages_conflated == 297


async def test_a_key_is_free_again_once_its_message_has_left(driver: Driver) -> None:
    async with driver.connected(idle) as (server, ws):
        there = next(iter(server.connections))
        for price in range(3):
            assert there.send_nowait(f"{price}", key="same") is SendStatus.SENT
        assert [await ws.recv() for _ in range(3)] == ["0", "1", "2"]


async def test_an_urgent_message_of_a_key_leaves_the_queue_behind(driver: Driver) -> None:
    async with stalled(driver) as it:
        for number in range(3):
            it.ws.send_nowait(a_message(number), key=number)
        it.ws.send_nowait(a_message(1), key=1, urgent=True)
        it.ws.send_nowait(a_message(0), key=0)
        assert it.ws.stats.messages_conflated == 2
        assert numbers(await it.rest_of_messages()) == [1, 0, 2]


async def test_policies_may_differ_from_message_to_message(driver: Driver) -> None:
    """What may be dropped makes room for what may not."""
    async with stalled(driver, outbox_limit=300_000) as it:
        for number in range(1000):
            it.ws.send_nowait(a_message(number), overflow="drop_oldest")
        for number in range(1000, 1010):
            assert it.ws.send_nowait(a_message(number)) is SendStatus.BUFFERED
        assert it.ws.send_nowait(a_message(0), overflow="drop_newest") is SendStatus.DROPPED
        await it.ws.send(a_message(1010), overflow="drop_oldest")
        await it.ws.send(a_message(0), overflow="drop_newest")
        received = numbers(await it.rest_of_messages())
        assert received[-11:] == list(range(1000, 1011))
        assert received == sorted(set(received))
        assert it.ws.stats.messages_dropped == 1013 - len(received)


async def test_what_waits_for_its_sender_is_never_dropped(driver: Driver) -> None:
    async with stalled(driver, outbox_limit=300_000, overflow="drop_oldest") as it:
        senders = [asyncio.ensure_future(it.ws.send(a_message(number))) for number in range(200, 210)]
        for number in range(210, 1000):
            it.ws.send_nowait(a_message(number))
        received = numbers(await it.rest_of_messages())
        assert received[:10] == list(range(200, 210))
        assert received[-1] == 999
        assert len(received) == 800 - it.ws.stats.messages_dropped
        await asyncio.gather(*senders)


async def test_empty_messages_have_a_size(driver: Driver) -> None:
    async with stalled(driver, overflow="drop_newest", outbox_limit=300_000) as it:
        taken = 0
        while it.ws.send_nowait(b"") is SendStatus.BUFFERED:
            taken += 1
        assert taken < 2000
        assert await it.rest_of_messages() == [b""] * taken


# -- who overtakes whom ----------------------------------------------------------------------------------------


async def test_urgent_messages_overtake_those_that_wait(driver: Driver) -> None:
    async with stalled(driver) as it:
        for number in range(5):
            it.ws.send_nowait(f"later {number}")
        for number in range(3):
            it.ws.send_nowait(f"now {number}", urgent=True)
        sending = asyncio.ensure_future(it.ws.send("now 3", urgent=True))
        assert taut.broadcast([it.ws], "now 4", urgent=True) == taut.BroadcastResult(0, 1, 0)
        expected = [f"now {number}" for number in range(5)] + [f"later {number}" for number in range(5)]
        assert await it.rest_of_messages() == expected
        await sending


async def test_a_fragmented_message_takes_its_turn_among_those_that_wait(driver: Driver) -> None:
    async with stalled(driver) as it:
        it.ws.send_nowait("before")
        fragmented = asyncio.ensure_future(it.ws.send(["in ", "its ", "turn"]))
        given_up = asyncio.ensure_future(it.ws.send(["never ", "sent"]))
        await asyncio.sleep(0)
        it.ws.send_nowait("after")
        given_up.cancel()
        await asyncio.wait([given_up])
        it.peer.transport.resume_reading()
        await fragmented
        assert not it.ws.fragmenting
        assert await it.rest_of_messages() == ["before", "in its turn", "after"]


@pytest.mark.parametrize("waits", [True, False])
async def test_control_frames_overtake_a_large_message(driver: Driver, waits: bool) -> None:
    """They may be injected in the middle of a fragmented message, other messages may not (RFC 6455, 5.4)."""
    large = bytes(range(256)) * (1 << 15)
    size = len(FILLER)
    async with stalled(driver, fragment_size=size, outbox_limit=1 << 25) as it:
        if not waits:
            it.peer.transport.resume_reading()
            assert all([(await it.peer.frame()).payload == FILLER for _ in range(it.fillers)])
            it.fillers = 0
        assert it.ws.send_nowait(large) is SendStatus.BUFFERED
        assert it.ws.send_nowait("behind") is SendStatus.BUFFERED
        it.peer.transport.resume_reading()
        begun = [await it.peer.frame() for _ in range(it.fillers + 5)][it.fillers :]
        assert [frame.opcode for frame in begun] == [BINARY, CONT, CONT, CONT, CONT]
        assert it.ws.send_nowait("urgent", urgent=True) is SendStatus.BUFFERED
        pinging = asyncio.ensure_future(it.ws.ping(b"ours"))
        it.peer.send(PING, b"theirs")
        frames = begun
        while not {b"ours", b"theirs"} <= {frame.payload for frame in frames if frame.opcode in (PING, PONG)}:
            frames.append(await it.peer.frame())
        assert not any(frame.fin for frame in frames if frame.opcode in (BINARY, CONT))
        it.peer.send(PONG, b"ours")
        assert await (await pinging) >= 0
        it.fillers = 0
        closing = asyncio.ensure_future(it.ws.close())
        frames += await it.rest()
        await closing
        assert all(len(frame.payload) <= size for frame in frames)
        assert messages_of(frames) == [large, "urgent", "behind"]


async def test_a_large_message_is_whole_without_a_fragment_size(driver: Driver) -> None:
    async with stalled(driver, fragment_size=None, outbox_limit=1 << 25) as it:
        it.ws.send_nowait(bytes(3 << 20))
        closing = asyncio.ensure_future(it.ws.close())
        frames = await it.rest()
        await closing
        assert [(frame.fin, len(frame.payload)) for frame in frames[:-1]] == [(True, 3 << 20)]


async def test_giving_up_cuts_a_large_message_short(driver: Driver) -> None:
    """It has left in part, so it counts as dropped; the Close frame overtakes the rest of it."""
    async with stalled(driver, fragment_size=len(FILLER), outbox_limit=1 << 22) as it:
        sent = it.ws.stats.messages_sent
        it.ws.send_nowait(bytes(1 << 22))
        it.peer.transport.resume_reading()
        for _ in range(it.fillers + 3):
            await it.peer.frame()
        it.peer.transport.pause_reading()
        with pytest.raises(taut.ConnectionClosedError):
            while True:
                it.ws.send_nowait(bytes(1 << 20))
        it.fillers = 0
        frames = await it.rest()
        assert [frame.fin for frame in frames] == [False] * (len(frames) - 1) + [True]
        assert frames[-1].code == 1008
        assert it.ws.stats.messages_sent == sent
        assert it.ws.stats.messages_waiting == 0


# -- broadcast -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest", "close"])
async def test_a_broadcast_holds_nobody_up(driver: Driver, overflow: Any, compression: str | None) -> None:
    limit, size = 300_000, 5000
    headers = [("Sec-WebSocket-Extensions", "permessage-deflate")] if compression else []
    async with (
        stalled(driver, headers, outbox_limit=limit, overflow=overflow, compression=compression) as it,
        driver.connect(it.server, compression=compression) as healthy,
    ):
        while len(it.server.connections) < 2:
            await asyncio.sleep(0)
        everyone = it.server.connections
        results: Counter[str] = Counter()
        for number in range(300):
            message = f"{number} ".ljust(size, "x")
            result = taut.broadcast(everyone, message)
            results.update(sent=result.sent, buffered=result.buffered, dropped=result.dropped)
            assert await healthy.recv() == message
            assert it.ws.unsent <= limit + size + 1000
        stats = it.ws.stats
        if overflow == "close":
            assert it.ws.close_code == 1008
            assert results["dropped"] == 1
            assert results["buffered"] == stats.messages_dropped - 1
        else:
            assert results == {"sent": 300, "buffered": 300 - results["dropped"], "dropped": results["dropped"]}
            dropped = stats.messages_dropped
            assert dropped == (results["dropped"] if overflow == "drop_newest" else 300 - stats.messages_waiting)
            assert dropped > 200


async def test_a_broadcast_tells_what_was_lost_if_asked(driver: Driver) -> None:
    async with stalled(driver, outbox_limit=300_000) as it:
        while taut.broadcast([it.ws], bytes(10_000), overflow="wait").buffered:
            pass
        for overflow, kind in (("wait", taut.QueueFull), ("close", taut.ConnectionClosedError)):
            dropped = it.ws.stats.messages_dropped
            with pytest.raises(ExceptionGroup) as caught:
                taut.broadcast([it.ws], bytes(10_000), overflow=overflow, raise_exceptions=True)
            assert [type(exc) for exc in caught.value.exceptions] == [kind]
            assert it.ws.stats.messages_dropped > dropped


async def test_a_large_broadcast_is_cut_for_each_by_itself(driver: Driver) -> None:
    large = bytes(range(256)) * 4096
    async with (
        stalled(driver, fragment_size=100_000, outbox_limit=1 << 22) as it,
        driver.connect(it.server, compression=None) as healthy,
    ):
        while len(it.server.connections) < 2:
            await asyncio.sleep(0)
        receiving = asyncio.ensure_future(healthy.recv())
        result = taut.broadcast(it.server.connections, large)
        assert result.sent + result.buffered == 2
        assert await receiving == large
        assert await it.rest_of_messages() == [large]


# -- compression -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("takeover", [True, False])
async def test_dropping_never_disturbs_the_compressor(driver: Driver, takeover: bool) -> None:
    """The client must decode everything that leaves: with context takeover, each message refers to those before."""
    compression = taut.DeflateOptions(threshold=0, server_no_context_takeover=not takeover)
    served: asyncio.Queue[Any] = asyncio.Queue()

    async def handler(ws: Any) -> None:
        served.put_nowait(ws)
        await ws.wait_closed()

    def message(number: int) -> str:
        return " ".join(f"{number} {number * number + i}" for i in range(200))

    options = {"outbox_limit": 200_000, "fragment_size": 1000, "read_limit": 1 << 14, "ping_interval": None}
    async with driver.connected(handler, compression=compression, **options) as (_, ws):
        there = await served.get()
        small_buffers(there.transport, ws.transport)
        kept: list[str] = []
        total = 4000
        for number in range(total):
            how = number % 5
            if how == 0:
                there.send_nowait(message(number), overflow="drop_oldest")
            elif how == 1:
                there.send_nowait(message(number), key="same")
            elif how == 2:
                taut.broadcast([there], message(number), overflow="drop_newest")
            elif how == 3:
                there.send_nowait(message(number), overflow="drop_newest", urgent=True)
            else:
                there.send_nowait(message(number).encode(), compress=False, overflow="drop_oldest")
        stats = there.stats
        assert stats.messages_dropped
        assert stats.messages_conflated
        closing = asyncio.ensure_future(there.close())
        async for received in ws:
            kept.append(received if isinstance(received, str) else received.decode())
        await closing
        assert all(each == message(int(each.split(maxsplit=1)[0])) for each in kept)
        assert len(set(kept)) == len(kept) == there.stats.messages_sent
        assert accepted(there) == total


# -- going on, and the end -------------------------------------------------------------------------------------


async def test_drain_waits_until_everything_has_left(driver: Driver) -> None:
    async with stalled(driver) as it:
        for number in range(500):
            it.ws.send_nowait(a_message(number))
        draining = asyncio.ensure_future(it.ws.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        it.peer.transport.resume_reading()
        await draining
        assert it.ws.stats.messages_waiting == 0
        assert it.ws.send_nowait("now") is SendStatus.SENT
        assert len(await it.rest_of_messages()) == 501


async def test_a_listener_is_told_when_to_go_on(driver: Driver) -> None:
    """A producer of callbacks alone: it sends until it is told to stop, and goes on when it is told to."""
    total = 3000
    drained: list[bool] = []

    class Producer(taut.Listener):
        source: Iterator[str]

        def on_open(self, ws: Any) -> None:
            small_buffers(ws.transport)
            self.source = (a_message(number) for number in range(total))
            self.produce(ws)

        def produce(self, ws: Any) -> None:
            for message in self.source:
                if ws.send_nowait(message) is not SendStatus.SENT:
                    return
            ws.send_nowait("that is all")

        def on_drain(self, ws: Any) -> None:
            drained.append(not ws.write_paused and not ws.stats.messages_waiting)
            self.produce(ws)

    async with driver.connected(Producer, compression=None, write_limit=5000, read_limit=5000) as (_, ws):
        received = [await ws.recv() for _ in range(total)]
        assert numbers(received) == list(range(total))
        assert await ws.recv() == "that is all"
    assert drained
    assert all(drained)


async def test_an_on_drain_that_raises_closes_its_connection(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(taut.Listener):
        def on_message(self, ws: Any, message: Any) -> None:
            while ws.send_nowait(bytes(100_000)) is SendStatus.SENT:
                pass

        def on_drain(self, ws: Any) -> None:
            raise KeyError("on_drain")

    async with driver.connected(Failing, compression=None) as (_, ws):
        await ws.send("go")
        async with asyncio.timeout(10):
            with pytest.raises(taut.ConnectionClosedError) as caught:
                while True:
                    await ws.recv()
        assert caught.value.code == 1011
    assert "on_drain" in caplog.text


async def test_close_sends_what_waits(driver: Driver) -> None:
    async with stalled(driver) as it:
        for number in range(100):
            it.ws.send_nowait(a_message(number))
        it.ws.send_nowait(a_message(100), urgent=True)
        assert numbers(await it.rest_of_messages()) == [100, *range(100)]
        assert it.ws.close_info.clean
        assert it.ws.stats.messages_dropped == 0


async def test_what_waits_is_sent_before_the_answer_to_a_close_frame(driver: Driver) -> None:
    async with stalled(driver) as it:
        for number in range(100):
            it.ws.send_nowait(a_message(number))
        it.peer.send(CLOSE, (4000).to_bytes(2, "big"))
        frames = await it.rest()
        assert numbers(messages_of(frames[:-1])) == list(range(100))
        assert frames[-1].code == 4000


async def test_what_waits_when_the_connection_is_lost_is_dropped(driver: Driver) -> None:
    async with stalled(driver) as it:
        sending = asyncio.ensure_future(it.ws.send(a_message(0)))
        fragmented = asyncio.ensure_future(it.ws.send(["one", "two"]))
        await asyncio.sleep(0)
        for number in range(99):
            it.ws.send_nowait(a_message(number))
        total = accepted(it.ws)
        it.ws.abort()
        for task in (sending, fragmented):
            with pytest.raises(taut.ConnectionClosedError):
                await task
        stats = it.ws.stats
        assert (stats.messages_waiting, stats.messages_dropped, stats.unsent) == (0, 100, 0)
        assert accepted(it.ws) == total
        assert it.server.stats.messages_dropped["closed"] == 100


async def test_close_gives_up_in_time(driver: Driver) -> None:
    async with stalled(driver, close_timeout=0.2) as it:
        it.ws.send_nowait("never read")
        async with asyncio.timeout(5):
            await it.ws.close()
        assert it.ws.close_code == 1006


async def test_it_costs_nothing_before_and_little_after(driver: Driver) -> None:
    async with driver.connected(idle) as (server, ws):
        there = next(iter(server.connections))
        await there.send("fine")
        there.send_nowait("fine")
        taut.broadcast([there], "fine")
        assert there.outbox is None
    async with stalled(driver) as it:
        it.ws.send_nowait("waits")
        assert it.ws.outbox is not None


# -- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overflow", ["drop", "", 1, True, b"close", ["close"]])
async def test_a_policy_that_does_not_exist_is_refused(driver: Driver, overflow: Any) -> None:
    """Whether the peer reads or not."""
    async with driver.connected(idle) as (_, ws):
        for call in (ws.send_nowait, ws.send, lambda message, **options: taut.broadcast([ws], message, **options)):
            with pytest.raises(ValueError, match="overflow must be"):
                call("message", overflow=overflow)
    for function in (taut.serve, taut.connect):
        with pytest.raises(ValueError, match="overflow must be"):
            function("ws://localhost" if function is taut.connect else idle, overflow=overflow)


async def test_other_mistakes_are_refused(driver: Driver) -> None:
    async with driver.connected(idle) as (_, ws):
        for call in (ws.send_nowait, ws.send, lambda message, **options: taut.broadcast([ws], message, **options)):
            with pytest.raises(TypeError, match="unhashable"):
                call("message", key=[])
        for options in ({"key": 1}, {"overflow": "close"}):
            with pytest.raises(TypeError, match="overflow and key"):
                await ws.send(["in", "fragments"], **options)
    for size, kind in ((0, ValueError), (-1, ValueError), ("1", TypeError), (1.5, TypeError)):
        with pytest.raises(kind, match="fragment_size must be"):
            taut.serve(idle, fragment_size=size)
