"""The awaitables of the drivers against everything that asyncio does with futures and coroutines.

Each test runs on every flavour of loop and task (``handfed``).  ``arrive`` inside a task forces the slow way, in which
a waiting task is resumed by ``call_soon``; ``arrive_soon`` takes the fast one, which resumes it inside the callback.
"""

from __future__ import annotations

import asyncio
import collections.abc
import contextlib
import contextvars
import gc
import inspect
import itertools
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from handfed import FLAVOURS, Handfed, run, turns

from taut import ConcurrencyError, ConnectionClosedError
from taut.drivers.awaitables import Waiter

BUDGET = 512  # operations in a row before the loop turns

pytestmark = pytest.mark.parametrize("flavour", FLAVOURS)
arrivals = pytest.mark.parametrize("arrival", [Handfed.arrive, Handfed.arrive_soon], ids=["in a task", "in a callback"])
Arrival = Callable[..., None]


@pytest.fixture(autouse=True)
def loop_name(flavour: str) -> str:
    """Not the loops and transports of the other tests in this folder."""
    return flavour


async def waiting(coroutine: Any) -> asyncio.Task[Any]:
    """A task that has gone as far as it can."""
    task = asyncio.ensure_future(coroutine)
    await turns(2)
    assert not task.done()
    return task


# ---- resuming ----


@pytest.mark.parametrize("way", ["recv", "anext", "recv(decode)"])
def test_a_waiting_handler_is_resumed_inside_the_callback(flavour: str, way: str) -> None:
    async def scenario() -> None:
        fed = Handfed()
        ways = {"recv": fed.ws.recv, "anext": fed.ws.__anext__, "recv(decode)": lambda: fed.ws.recv(decode=True)}
        receive = ways[way]
        received: list[Any] = []
        moments: list[list[Any]] = []

        async def handler() -> None:
            received.append(await receive())
            received.append(await receive())

        def read(message: str) -> None:
            fed.arrive(message)
            moments.append(list(received))

        task = await waiting(handler())
        fed.loop.call_soon(read, "one")
        fed.loop.call_soon(read, "two")
        await task
        assert moments == [["one"], ["one", "two"]]

    run(scenario, flavour)


def test_a_handler_is_not_resumed_inside_another_task(flavour: str) -> None:
    async def scenario() -> None:
        fed = Handfed()
        task = await waiting(fed.ws.recv())
        fed.arrive("one")
        assert not task.done()
        await turns()
        assert task.done()
        assert await task == "one"

    run(scenario, flavour)


@arrivals
def test_a_handler_stays_in_its_context_and_its_task(flavour: str, arrival: Arrival) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")

    async def scenario() -> None:
        feds = [Handfed(), Handfed()]

        async def handler(fed: Handfed, name: str) -> None:
            me = asyncio.current_task()
            variable.set(name)
            for _ in range(3):
                variable.set(variable.get() + await fed.ws.recv())
                assert asyncio.current_task() is me
                assert fed.loop is asyncio.get_running_loop()
            assert variable.get() == name + "abc"

        tasks = [await waiting(handler(fed, name)) for fed, name in zip(feds, "xy", strict=True)]
        for message, fed in itertools.product("abc", feds):
            arrival(fed, message)
            await turns()
        await asyncio.gather(*tasks)
        assert variable.get() == "nothing"

    run(scenario, flavour)


def test_a_message_may_arrive_in_the_very_context_of_the_handler(flavour: str) -> None:
    """A context cannot be entered twice, as resuming the handler right there would."""

    async def scenario() -> None:
        fed = Handfed()
        context = contextvars.copy_context()
        task = fed.loop.create_task(_recv(fed), context=context)
        await turns(2)
        fed.loop.call_soon(fed.arrive, "one", context=context)
        assert await task == "one"
        assert await _recv_of(fed, "two") == "two"

    run(scenario, flavour)


async def _recv(fed: Handfed) -> Any:
    return await fed.ws.recv()


async def _recv_of(fed: Handfed, message: str) -> Any:
    fed.arrive_soon(message)
    return await fed.ws.recv()


@arrivals
def test_an_exception_of_the_handler_is_its_own(flavour: str, arrival: Arrival) -> None:
    async def scenario() -> None:
        fed = Handfed()

        async def handler() -> None:
            raise ValueError(await fed.ws.recv())

        task = await waiting(handler())
        arrival(fed, "one", "two")
        with pytest.raises(ValueError, match="one"):
            await task
        assert await fed.ws.recv() == "two"

    run(scenario, flavour)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@arrivals
def test_what_stops_the_program_goes_through(flavour: str, kind: type[BaseException], arrival: Arrival) -> None:
    async def scenario() -> None:
        fed = Handfed()

        async def handler() -> None:
            await fed.ws.recv()
            raise kind

        task = await waiting(handler())
        arrival(fed, "one")
        await task

    with pytest.raises(kind):
        run(scenario, flavour)


def test_the_end_resumes_whoever_waits(flavour: str) -> None:
    async def scenario() -> None:
        fed = Handfed()
        task = await waiting(fed.ws.recv())
        fed.wire.close()
        with pytest.raises(ConnectionClosedError):
            await task
        with pytest.raises(ConnectionClosedError):
            await fed.ws.recv()

    run(scenario, flavour)


def test_a_handler_runs_under_a_tracer(flavour: str) -> None:
    """The interpreter asks an awaitable for its next step in other ways while it traces."""

    async def scenario() -> None:
        fed = Handfed()
        received: list[Any] = []

        async def handler() -> None:
            async for message in fed.ws:
                received.append(message)
                await fed.ws.send(message)

        def tracer(*_: Any) -> Any:
            return tracer

        before = sys.gettrace()
        sys.settrace(tracer)
        try:
            task = await waiting(handler())
            fed.arrive_soon("one", "two")
            await turns()
            fed.arrive("three")
            await turns()
            fed.peer.close()
            fed.wire.arrive(fed.peer.take_output())
            await task
        finally:
            sys.settrace(before)
        assert received == ["one", "two", "three"]
        assert fed.left() == ["one", "two", "three"]

    run(scenario, flavour)


# ---- deadlines ----


@pytest.mark.parametrize("first", ["message", "deadline"])
@arrivals
def test_message_and_deadline_in_one_turn(flavour: str, first: str, arrival: Arrival) -> None:
    """Whichever wins, the message is received once."""

    async def scenario() -> None:
        fed = Handfed()
        deadline = asyncio.timeout(None)
        received: list[Any] = []

        async def handler() -> None:
            try:
                async with deadline:
                    received.append(await fed.ws.recv())
            except TimeoutError:
                received.append("late")
            task = asyncio.current_task()
            assert task is not None
            assert not task.cancelling()
            received.append(await fed.ws.recv())

        task = await waiting(handler())
        if first == "message":
            arrival(fed, "one")
        deadline.reschedule(fed.loop.time() - 1)
        if first == "deadline":
            arrival(fed, "one")
        await turns(4)
        fed.arrive("two", "three")
        await task
        assert received in (["one", "two"], ["late", "one"])
        if first == "message" and arrival is Handfed.arrive_soon:
            assert received[0] == "one"
        if first == "deadline" and arrival is Handfed.arrive_soon:
            assert received[0] == "late"

    run(scenario, flavour)


def test_a_deadline_that_has_passed(flavour: str) -> None:
    async def scenario() -> None:
        fed = Handfed()
        for receive in [fed.ws.recv, fed.ws.__anext__, lambda: fed.ws.recv(decode=True)]:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0):
                    await receive()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(receive(), 0)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(receive(), 1e-6)
        fed.arrive("one", "two")
        assert await asyncio.wait_for(fed.ws.recv(), 60) == "one"
        async with asyncio.timeout(60):
            assert await fed.ws.recv() == "two"

    run(scenario, flavour)


# ---- many at once ----


@arrivals
def test_gather(flavour: str, arrival: Arrival) -> None:
    async def scenario() -> None:
        feds = [Handfed() for _ in range(3)]
        gathered = asyncio.gather(*(fed.ws.recv() for fed in feds), turns(), *(fed.ws.send("out") for fed in feds))
        for fed in reversed(feds):
            arrival(fed, f"to {feds.index(fed)}")
        assert await gathered == ["to 0", "to 1", "to 2", None, None, None, None]
        assert [fed.left() for fed in feds] == [["out"]] * 3

    run(scenario, flavour)


def test_cancelling_gather_loses_nothing(flavour: str) -> None:
    async def scenario() -> None:
        feds = [Handfed() for _ in range(3)]
        gathered = asyncio.gather(*(fed.ws.recv() for fed in feds))
        await turns(2)
        gathered.cancel()
        for fed in feds:
            fed.arrive_soon("one")
        with pytest.raises(asyncio.CancelledError):
            await gathered
        assert [await fed.ws.recv() for fed in feds] == ["one"] * 3

    run(scenario, flavour)


@pytest.mark.parametrize("way", ["recv", "anext"])
def test_two_awaitables_are_not_one(flavour: str, way: str) -> None:
    """``gather`` awaits the same object only once, and would give one message to both."""

    async def scenario() -> None:
        fed = Handfed()
        receive = fed.ws.recv if way == "recv" else fed.ws.__anext__
        gathered = asyncio.gather(receive(), receive(), return_exceptions=True)
        await turns(2)
        fed.arrive("one", "two")
        first, second = await gathered
        assert first == "one"
        assert isinstance(second, ConcurrencyError)
        assert await receive() == "two"

    run(scenario, flavour)


@arrivals
def test_a_task_of_it(flavour: str, arrival: Arrival) -> None:
    async def scenario() -> None:
        fed = Handfed()
        for awaitable in (fed.ws.recv(), fed.ws.send("out")):
            assert asyncio.iscoroutine(awaitable)
            assert inspect.isawaitable(awaitable)
            assert isinstance(awaitable, collections.abc.Coroutine)
        task: asyncio.Task[Any] = asyncio.create_task(fed.ws.recv(), name="receiver")
        await turns(2)
        assert "receiver" in repr(task)
        assert task.get_stack() == []
        arrival(fed, "one")
        assert await task == "one"
        assert await asyncio.create_task(fed.ws.send("out")) is None
        assert fed.left() == ["out", "out"]

    run(scenario, flavour)


@arrivals
def test_wait_for_the_first_then_receive_again(flavour: str, arrival: Arrival) -> None:
    """The usual loop around two sources; the task that lost is cancelled, and never awaited."""

    async def scenario() -> None:
        fed = Handfed()
        received: list[Any] = []
        for number in range(20):
            other = asyncio.Event()
            receiver = asyncio.create_task(fed.ws.recv())
            beside = asyncio.create_task(other.wait())
            if number % 2:
                fed.loop.call_soon(other.set)
                await asyncio.wait([receiver, beside], return_when=asyncio.FIRST_COMPLETED)
                if number % 4 == 1:
                    arrival(fed, str(number))
                receiver.cancel()
                if number % 4 == 3:
                    arrival(fed, str(number))
            else:
                arrival(fed, str(number))
                await asyncio.wait([receiver, beside], return_when=asyncio.FIRST_COMPLETED)
                beside.cancel()
                receiver.cancel()
            received.append(await fed.ws.recv() if not receiver.done() or receiver.cancelled() else receiver.result())
        assert received == [str(number) for number in range(20)]

    run(scenario, flavour)


@arrivals
def test_shield(flavour: str, arrival: Arrival) -> None:
    async def scenario() -> None:
        fed = Handfed()
        inner = asyncio.ensure_future(fed.ws.recv())
        outer = await waiting(asyncio.shield(inner))
        outer.cancel()
        await turns(2)
        assert outer.cancelled()
        with pytest.raises(ConcurrencyError):
            await fed.ws.recv()
        arrival(fed, "one", "two")
        assert await inner == "one"
        assert await fed.ws.recv() == "two"

    run(scenario, flavour)


@arrivals
def test_task_group(flavour: str, arrival: Arrival) -> None:
    async def scenario() -> None:
        fed, other = Handfed(), Handfed()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(fed.ws.recv()), group.create_task(other.ws.recv())]
            arrival(fed, "one")
            arrival(other, "one")
        assert [task.result() for task in tasks] == ["one", "one"]

        async def failing() -> None:
            await turns(3)
            raise ValueError

        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(fed.ws.recv())
                group.create_task(failing())
        assert [type(exc) for exc in caught.value.exceptions] == [ValueError]
        arrival(fed, "two")
        assert await fed.ws.recv() == "two"

    run(scenario, flavour)


def test_from_another_thread(flavour: str) -> None:
    async def scenario() -> None:
        fed = Handfed()
        results: list[Any] = []
        done = asyncio.Event()

        def elsewhere() -> None:
            results.append(asyncio.run_coroutine_threadsafe(fed.ws.recv(), fed.loop).result())
            fed.loop.call_soon_threadsafe(done.set)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        fed.arrive("one")
        await done.wait()
        thread.join()
        assert results == ["one"]

    run(scenario, flavour)


# ---- cancellation ----


@pytest.mark.parametrize("point", ["before it starts", "while it waits", "before the message", "behind the message"])
@arrivals
def test_cancelled_at_every_point(flavour: str, point: str, arrival: Arrival) -> None:
    """Either the task has the message, or it is cancelled and the message is still to be had."""

    async def scenario() -> None:
        fed = Handfed()
        arrived: list[str] = []

        def cancel() -> None:
            task.cancel("because")

        task = asyncio.create_task(fed.ws.recv())
        if point != "before it starts":
            await turns(2)
        if point == "behind the message":
            arrival(fed, "one")
            arrived.append("one")
        # In the same turn as the message, and in the same order.
        if arrival is Handfed.arrive:
            cancel()
        else:
            fed.loop.call_soon(cancel)
        if point == "before the message":
            arrival(fed, "one")
            arrived.append("one")
        await turns(4)
        assert task.done()
        if task.cancelled():
            with pytest.raises(asyncio.CancelledError) as caught:
                await task
            assert caught.value.args == ("because",)
        else:
            assert point == "behind the message"
            assert [task.result()] == arrived
            arrived.clear()
        fed.arrive("two")
        for message in [*arrived, "two"]:
            assert await fed.ws.recv() == message

    run(scenario, flavour)


@pytest.mark.parametrize("again", ["at once", "later"])
@arrivals
def test_uncancel(flavour: str, again: str, arrival: Arrival) -> None:
    async def scenario() -> None:
        fed = Handfed()
        reasons: list[Any] = []

        async def stubborn() -> Any:
            while True:
                try:
                    return await fed.ws.recv()
                except asyncio.CancelledError as exc:
                    reasons.append(exc.args[0])
                    task.uncancel()
                    if again == "later":
                        await turns(2)

        task = asyncio.create_task(stubborn())
        for number in range(3):
            await turns(4)
            assert task.cancel(number)
            assert task.cancelling() == 1
        await turns(4)
        arrival(fed, "one")
        assert await task == "one"
        assert reasons == [0, 1, 2]
        assert task.cancelling() == 0

    run(scenario, flavour)


def test_cancelled_while_it_lets_the_loop_turn(flavour: str) -> None:
    async def scenario() -> None:
        fed = Handfed()
        fed.arrive(*(str(number) for number in range(BUDGET * 3)))
        received: list[Any] = []

        async def handler() -> None:
            while True:
                received.append(await fed.ws.recv())

        task = asyncio.create_task(handler())
        await turns()
        assert len(received) in (BUDGET, BUDGET * 2)  # an eager task has begun before the turn
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while len(received) < BUDGET * 3:
            received.append(await fed.ws.recv())
        assert received == [str(number) for number in range(BUDGET * 3)]

        sent = 0

        async def sender() -> None:
            nonlocal sent
            while True:
                sent += 1
                await fed.ws.send(str(sent))

        task = asyncio.create_task(sender())
        await turns()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await fed.ws.send("last")
        assert fed.left() == [*(str(number) for number in range(1, sent + 1)), "last"]

    run(scenario, flavour)


@pytest.mark.parametrize("end", ["in a task", "in a callback", "cancelled"])
def test_nothing_keeps_a_finished_task_alive(flavour: str, end: str) -> None:
    async def scenario() -> None:
        fed = Handfed()
        gc.collect()
        gc.disable()
        try:
            task = await waiting(_recv(fed))
            if end == "cancelled":
                task.cancel()
            elif end == "in a task":
                fed.arrive("one")
            else:
                fed.arrive_soon("one")
            await turns(3)
            assert task.done()
            reference = weakref.ref(task)
            del task
            assert reference() is None
        finally:
            gc.enable()

    run(scenario, flavour)


def test_a_task_of_another_loop_is_refused(flavour: str) -> None:
    """As with a future: RuntimeError, and the connection is none the worse for it."""
    feds: list[Handfed] = []

    async def first() -> None:
        feds.append(Handfed())

    async def second() -> None:
        with pytest.raises(RuntimeError, match="different loop"):
            await feds[0].ws.recv()
        fed = feds.pop()
        fed.arrive("one")
        assert await fed.ws.recv() == "one"

    run(first, flavour)
    run(second, flavour)


# ---- without a task ----


def test_step_by_step(flavour: str) -> None:
    """What a coroutine is made of: send, throw, close."""

    async def scenario() -> None:
        fed = Handfed()
        awaitable = fed.ws.recv()
        waiter = awaitable.send(None)
        assert type(waiter) is Waiter
        assert waiter._asyncio_future_blocking
        assert waiter.get_loop() is fed.loop
        with pytest.raises(KeyError, match="thrown"):
            awaitable.throw(KeyError("thrown"))
        with pytest.raises(KeyError):
            awaitable.throw(KeyError)
        fed.arrive("one")
        with pytest.raises(StopIteration) as caught:
            awaitable.send(None)
        assert caught.value.value == "one"
        awaitable.close()

        sending = fed.ws.send("out")
        with pytest.raises(StopIteration) as caught:
            sending.send(None)
        assert caught.value.value is None
        with pytest.raises(KeyError, match="thrown"):
            sending.throw(KeyError("thrown"))
        sending.close()

    run(scenario, flavour)


def test_a_waiter_keeps_to_the_interface_of_a_future(flavour: str) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        calls: list[Any] = []
        waiter = Waiter(loop)
        assert (waiter.done(), waiter.cancelled()) == (False, False)
        with pytest.raises(asyncio.InvalidStateError):
            waiter.result()
        with pytest.raises(asyncio.InvalidStateError):
            waiter.exception()
        waiter.add_done_callback(calls.append)
        with pytest.raises(RuntimeError, match="one task"):
            waiter.add_done_callback(print)
        assert waiter.remove_done_callback(print) == 0
        assert waiter.remove_done_callback(calls.append) == 1
        waiter.add_done_callback(calls.append)
        assert waiter.cancel("because")
        assert not waiter.cancel()
        assert (waiter.done(), waiter.cancelled(), calls) == (True, True, [])
        await turns()
        assert calls == [waiter]
        with pytest.raises(asyncio.CancelledError, match="because"):
            waiter.result()
        waiter.add_done_callback(calls.append)
        await turns()
        assert calls == [waiter, waiter]

    run(scenario, flavour)


# ---- fairness ----


@contextlib.asynccontextmanager
async def most_per_turn(count: Callable[[], int]) -> Any:
    """How far ``count`` moved, at most, while the loop turned once."""
    steps: list[int] = [0]
    stop = False

    async def ticker() -> None:
        before = count()
        while not stop:
            await turns()
            steps.append(count() - before)
            before = count()

    task = asyncio.create_task(ticker())
    await turns()
    yield steps
    stop = True
    await task


@pytest.mark.parametrize("way", ["receive", "echo", "send"])
def test_a_handler_that_never_waits_lets_the_others_run(flavour: str, way: str) -> None:
    total = BUDGET * 8

    async def scenario() -> None:
        fed = Handfed()
        done = 0

        async def handler() -> None:
            nonlocal done
            if way == "send":
                while done < total:
                    done += 1
                    await fed.ws.send("x")
                return
            async for message in fed.ws:
                done += 1
                if way == "echo":
                    await fed.ws.send(message)

        async with most_per_turn(lambda: done) as steps:
            task = asyncio.create_task(handler())
            if way == "send":
                await task
            else:
                fed.arrive_soon(*["x"] * total)
                while done < total:
                    await turns()
        assert done == total
        assert max(steps) <= BUDGET
        task.cancel()
        await asyncio.wait([task])

    run(scenario, flavour)
