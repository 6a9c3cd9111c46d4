"""Turns to be CONNECTING, and the clock that stands still meanwhile."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from taut.client.dialling.turns import Deadline, Turn, Turns, turns_of

HERE, THERE = ("127.0.0.1", 80), ("127.0.0.1", 81)


async def _settle() -> None:
    """Let everything run that can run without time passing."""
    for _ in range(5):
        await asyncio.sleep(0)


class _Line:
    """Tasks that take a turn each, and note when they have it."""

    def __init__(self, limit: int | None = 1, deadline: Deadline | None = None) -> None:
        self.turns = Turns()
        self.limit = limit
        self.deadline = deadline or Deadline(None)
        self.admitted: list[str] = []
        self.held: dict[str, Turn] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def come(self, name: str, address: object = HERE, limit: int | None = -1) -> asyncio.Task[None]:
        async def take() -> None:
            number = self.limit if limit == -1 else limit
            self.held[name] = await self.turns.take(address, number, self.deadline)
            self.admitted.append(name)

        self.tasks[name] = asyncio.create_task(take())
        return self.tasks[name]

    async def leave(self, *names: str) -> None:
        for name in names:
            self.held.pop(name).give_back()
            await _settle()


# -- turns -------------------------------------------------------------------------------------------------------------


async def test_one_at_a_time_in_order() -> None:
    async with Deadline(None) as deadline:
        line = _Line(deadline=deadline)
        for name in "abc":
            line.come(name)
        await _settle()
        assert line.admitted == ["a"]
        await line.leave("a")
        assert line.admitted == ["a", "b"]
        line.come("d")
        await _settle()
        assert line.admitted == ["a", "b"]
        await line.leave("b", "c", "d")
        assert line.admitted == ["a", "b", "c", "d"]
        assert not line.turns.busy


async def test_each_address_has_its_own_line() -> None:
    async with Deadline(None) as deadline:
        line = _Line(deadline=deadline)
        line.come("a", HERE)
        line.come("b", THERE)
        line.come("c", THERE)
        await _settle()
        assert line.admitted == ["a", "b"]
        await line.leave("b", "c", "a")
        assert not line.turns.busy


async def test_a_turn_is_given_back_once() -> None:
    async with Deadline(None) as deadline:
        line = _Line(deadline=deadline)
        for name in "abc":
            line.come(name)
        await _settle()
        turn = line.held["a"]
        turn.give_back()
        turn.give_back()
        await _settle()
        turn.give_back()
        await _settle()
        assert line.admitted == ["a", "b"]
        await line.leave("b", "c")
        assert not line.turns.busy


async def test_limits() -> None:
    async with Deadline(None) as deadline:
        line = _Line(2, deadline)
        for name in "abcd":
            line.come(name)
        await _settle()
        assert line.admitted == ["a", "b"]
        line.come("e", limit=None)
        await _settle()
        assert line.admitted == ["a", "b", "e"], "without a limit nobody waits"
        await line.leave("a")
        assert line.admitted == ["a", "b", "e"], "but is counted"
        await line.leave("b")
        assert line.admitted == ["a", "b", "e", "c"]
        await line.leave("e", "c", "d")
        assert not line.turns.busy


async def test_cancelled_while_waiting() -> None:
    async with Deadline(None) as deadline:
        line = _Line(deadline=deadline)
        for name in "abc":
            line.come(name)
        await _settle()
        line.tasks["b"].cancel()
        await _settle()
        assert line.tasks["b"].cancelled()
        await line.leave("a")
        assert line.admitted == ["a", "c"]
        await line.leave("c")
        assert not line.turns.busy


async def test_who_waits_behind_a_cancelled_one_with_a_lower_limit() -> None:
    async with Deadline(None) as deadline:
        line = _Line(deadline=deadline)
        line.come("a")
        line.come("b", limit=1)
        line.come("c", limit=2)
        await _settle()
        assert line.admitted == ["a"]
        line.tasks["b"].cancel()
        await _settle()
        assert line.admitted == ["a", "c"]
        await line.leave("a", "c")
        assert not line.turns.busy


@pytest.mark.parametrize("first", ["turn", "cancellation"])
async def test_the_turn_and_the_cancellation_meet(first: str) -> None:
    async with Deadline(None) as deadline:
        line = _Line(deadline=deadline)
        for name in "abc":
            line.come(name)
        await _settle()
        if first == "turn":
            line.held.pop("a").give_back()
            line.tasks["b"].cancel()
        else:
            line.tasks["b"].cancel()
            line.held.pop("a").give_back()
        await _settle()
        assert line.tasks["b"].cancelled()
        assert line.admitted == ["a", "c"]
        await line.leave("c")
        assert not line.turns.busy


async def test_one_for_each_loop() -> None:
    loop = asyncio.get_running_loop()
    assert turns_of(loop) is turns_of(loop)
    other = asyncio.new_event_loop()
    assert turns_of(other) is not turns_of(loop)
    gone = weakref.ref(turns_of(other))
    other.close()
    del other
    gc.collect()
    assert gone() is None


# -- the deadline ------------------------------------------------------------------------------------------------------


async def test_a_deadline_is_a_timeout() -> None:
    begun = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        async with Deadline(0.05):
            await asyncio.Event().wait()
    assert 0.04 < asyncio.get_running_loop().time() - begun < 5


async def test_a_deadline_passes_on_what_is_raised() -> None:
    with pytest.raises(LookupError):
        async with Deadline(10):
            raise LookupError


async def test_waiting_does_not_count() -> None:
    loop = asyncio.get_running_loop()
    async with Deadline(0.1) as deadline:
        with deadline.waiting():
            await asyncio.sleep(0.2)
        await asyncio.sleep(0.01)
        with deadline.attempting(), deadline.waiting():
            await asyncio.sleep(0.2)
        await asyncio.sleep(0.01)
    begun = loop.time()
    with pytest.raises(TimeoutError):
        async with Deadline(0.1) as deadline:
            with deadline.waiting():
                await asyncio.sleep(0.2)
            await asyncio.Event().wait()
    assert 0.29 < loop.time() - begun < 5


async def test_what_was_left_is_left() -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(TimeoutError):
        async with Deadline(1.0) as deadline:
            for _ in range(20):  # a little at a time
                await asyncio.sleep(0.03)
                with deadline.waiting():
                    pass
            await asyncio.sleep(30)
    assert 0.9 < loop.time() - begun < 5


async def test_the_clock_runs_while_anybody_does_something() -> None:
    async def wait(deadline: Deadline) -> None:
        with deadline.attempting(), deadline.waiting():
            await asyncio.Event().wait()

    async def work(deadline: Deadline) -> None:
        with deadline.attempting():
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        async with Deadline(0.05) as deadline, asyncio.TaskGroup() as group:
            group.create_task(wait(deadline))
            group.create_task(work(deadline))


async def test_the_clock_stands_still_while_everybody_waits() -> None:
    async def wait(deadline: Deadline) -> None:
        with deadline.attempting(), deadline.waiting():
            await asyncio.sleep(0.2)

    async with Deadline(0.1) as deadline, asyncio.TaskGroup() as group:
        group.create_task(wait(deadline))
        group.create_task(wait(deadline))


async def test_the_clock_goes_on_when_one_of_them_has_its_turn() -> None:
    async def wait(deadline: Deadline, seconds: float) -> None:
        with deadline.attempting():
            with deadline.waiting():
                await asyncio.sleep(seconds)
            await asyncio.Event().wait()

    begun = asyncio.get_running_loop().time()
    with pytest.raises(TimeoutError):
        async with Deadline(0.05) as deadline, asyncio.TaskGroup() as group:
            group.create_task(wait(deadline, 0.1))
            group.create_task(wait(deadline, 30.0))
    assert 0.14 < asyncio.get_running_loop().time() - begun < 5


async def test_no_limit_of_time() -> None:
    async with Deadline(None) as deadline:
        with deadline.attempting(), deadline.waiting():
            await asyncio.sleep(0)


async def test_too_late_while_waiting() -> None:
    """The time is over in the same turn of the loop in which the waiting begins or ends."""
    with pytest.raises(TimeoutError):
        async with Deadline(0.0) as deadline:
            with deadline.attempting():
                try:
                    await asyncio.Event().wait()
                finally:
                    with deadline.waiting():
                        pass


async def test_time_spent_in_a_line_does_not_count() -> None:
    line = _Line()
    loop = asyncio.get_running_loop()
    first = await line.turns.take(HERE, 1, Deadline(None))
    loop.call_later(0.2, first.give_back)
    async with Deadline(0.1) as deadline:
        second = await line.turns.take(HERE, 1, deadline)
    second.give_back()
    assert not line.turns.busy
