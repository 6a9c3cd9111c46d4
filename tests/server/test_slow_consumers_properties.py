"""Whatever is sent, dropped, replaced or cut short: every message is counted in exactly one place, and in its order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from handfed import Handfed, messages_of, run
from hypothesis import given
from hypothesis import strategies as st

from taut import BroadcastResult, ConnectionClosed, QueueFull, SendStatus, broadcast

LIMIT = 3000
LARGEST = 2500

steps = st.one_of(
    st.tuples(
        st.sampled_from(["nowait", "send", "broadcast"]),
        st.sampled_from([0, 1, 50, 199, 200, 201, 1000, LARGEST]),  # how much
        st.sampled_from([None, "wait", "close", "drop_oldest", "drop_newest"]),
        st.sampled_from([None, None, "a", "b"]),  # the key
        st.booleans(),  # urgent
        st.sampled_from([None, True, False]),  # compressed
    ),
    st.tuples(st.just("fragments"), st.booleans()),
    st.tuples(st.just("take"), st.sampled_from([1, 50, 300, 1000, 10_000])),
    st.tuples(st.just("turn")),
)


def a_message(number: int, size: int) -> bytes:
    return f"{number:06} ".encode() + bytes((number * i) & 0xFF for i in range(size))


class Scenario:
    """A connection whose peer takes what it is told to, and the books that a test keeps of it."""

    def __init__(self, compressed: bool, default: Any) -> None:
        self.fed = Handfed(
            compressed=compressed, write_limit=100, outbox_limit=LIMIT, overflow=default, fragment_size=200
        )
        self.ws = self.fed.ws
        self.fed.wire.stuck = True
        self.tasks: list[asyncio.Future[Any]] = []
        self.payloads: dict[int, bytes] = {}
        self.accepted = 0  # whole messages
        self.dropped: set[int] = set()  # at once
        self.in_order: list[int] = []  # what has neither a key nor priority
        self.fragmented = 0  # messages of which the last fragment was sent
        self.arrived: list[int] = []
        self.fragmented_arrived = 0

    def fragments(self) -> Iterator[str]:
        yield from ("in ", "fragments")
        self.fragmented += 1

    def send(self, number: int, how: str, size: int, overflow: Any, key: Any, urgent: bool, compress: Any) -> None:
        message = self.payloads[number] = a_message(number, size)
        options = {"overflow": overflow, "key": key, "urgent": urgent}
        try:
            if how == "nowait":
                if self.ws.send_nowait(message, compress=compress, **options) is SendStatus.DROPPED:
                    self.dropped.add(number)
            elif how == "broadcast":
                result = broadcast([self.ws], message, **options)
                assert result.sent + result.buffered + result.dropped == 1
                if result == BroadcastResult(0, 0, 1):
                    self.dropped.add(number)
            else:
                self.tasks.append(asyncio.ensure_future(self.ws.send(message, compress=compress, **options)))
        except (QueueFull, ConnectionClosed):
            self.dropped.add(number)  # it was refused, and is not counted
            return
        self.accepted += 1
        if key is None and not urgent:
            self.in_order.append(number)

    def take(self, size: int) -> None:
        self.fed.wire.release(size)
        data = bytes(self.fed.wire.left)
        self.fed.wire.left.clear()
        for message in messages_of(self.fed.peer, data):
            if message == "in fragments":
                self.fragmented_arrived += 1
            else:
                self.arrived.append(int(message[:6]))
                assert self.payloads[self.arrived[-1]] == message

    def counted(self) -> int:
        stats = self.ws.stats
        return stats.messages_sent + stats.messages_waiting + stats.messages_dropped + stats.messages_conflated


@pytest.mark.parametrize("compressed", [False, True])
@given(
    script=st.lists(steps, max_size=40),
    default=st.sampled_from(["wait", "close", "drop_oldest", "drop_newest"]),
    ending=st.sampled_from(["close", "abort", "fail", "none"]),
)
def test_every_message_is_counted_once(compressed: bool, script: list[Any], default: Any, ending: str) -> None:
    async def scenario() -> None:
        it = Scenario(compressed, default)
        ws = it.ws
        for number, step in enumerate(script):
            match step[0]:
                case "take":
                    it.take(step[1])
                case "turn":
                    await asyncio.sleep(0)
                case "fragments":
                    it.tasks.append(asyncio.ensure_future(ws.send(it.fragments(), urgent=step[1])))
                case how:
                    it.send(number, how, *step[1:])
            if ws.close_info is not None:
                break
            assert it.counted() == it.accepted + it.fragmented
            if not it.tasks:  # what its sender waits for may be beyond the limit
                assert ws.unsent <= LIMIT + LARGEST + 300
        if ending == "abort":
            ws.abort()
        elif ending == "close":
            it.tasks.append(asyncio.ensure_future(ws.close()))
        elif ending == "fail":
            number = 1000
            while ws.close_info is None:
                it.send(number, "nowait", 1000, "close", None, False, None)
                number += 1
        for _ in range(100):
            it.take(10_000)
            await asyncio.sleep(0)
            it.fed.wire.arrive(it.fed.peer.take_output())
        assert ws.stats.messages_waiting == 0
        if ending == "none" and ws.close_info is None:
            assert all(task.done() and task.exception() is None for task in it.tasks)
            assert ws.stats.unsent == 0
        ws.abort()
        await ws.wait_closed()
        await asyncio.gather(*it.tasks, return_exceptions=True)

        assert len(set(it.arrived)) == len(it.arrived)
        assert not it.dropped & set(it.arrived)
        left = set(it.arrived)
        ordered = set(it.in_order)
        assert [n for n in it.arrived if n in ordered] == [n for n in it.in_order if n in left]
        if ending != "abort":  # else the wire has lost some
            stats = ws.stats
            whole = stats.messages_sent - it.fragmented_arrived
            assert whole + stats.messages_dropped + stats.messages_conflated == it.accepted
            assert len(it.arrived) == whole

    run(scenario, "asyncio", collect=False)
