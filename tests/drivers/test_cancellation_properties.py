"""Properties that no cancellation may break, whatever is cancelled, and whenever.

Every message that was sent is received, once and in order; and what leaves is always a sequence of whole messages, as
the senders gave them.  Hypothesis draws what happens in each turn of the loop; ``make fuzz`` draws more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from handfed import FLAVOURS, Handfed, messages_of, run, session, turns
from hypothesis import given, settings
from hypothesis import strategies as st

from taut import Connection, ConnectionClosed, ConnectionOptions
from taut.drivers.sockets import SocketTransport

pytestmark = pytest.mark.parametrize("flavour", FLAVOURS)


@pytest.fixture(autouse=True)
def loop_name(flavour: str) -> str:
    """Not the loops and transports of the other tests in this folder."""
    return flavour


# ---- receiving ----


class Reader:
    """Receives in one way or another, for ever; every message it was given is in ``received``."""

    def __init__(self, fed: Handfed, ways: list[str]) -> None:
        self.ws = fed.ws
        self.ways = ways
        self.received: list[Any] = []
        self.inner: asyncio.Task[Any] | None = None
        self.deadline: asyncio.Timeout | None = None
        self.stopping = False
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        number = 0
        while True:
            way = getattr(self, "_" + self.ways[number % len(self.ways)])
            number += 1
            try:
                await way()
            except (asyncio.CancelledError, TimeoutError):
                if self.stopping:
                    return
                while self.task.cancelling():
                    self.task.uncancel()

    async def _recv(self) -> None:
        self.received.append(await self.ws.recv())

    async def _recv_decoded(self) -> None:
        self.received.append(await self.ws.recv(decode=True))

    async def _iterate(self) -> None:
        async for message in self.ws:
            self.received.append(message)

    async def _timeout(self) -> None:
        self.deadline = asyncio.timeout(None)
        try:
            async with self.deadline:
                self.received.append(await self.ws.recv())
        finally:
            self.deadline = None

    async def _wait_for(self) -> None:
        self.received.append(await asyncio.wait_for(self.ws.recv(), 60))

    async def _wait_for_no_time(self) -> None:
        self.received.append(await asyncio.wait_for(self.ws.recv(), 0))

    async def _task(self) -> None:
        """As ``asyncio.wait`` is used: whatever happens, look at the task, cancel it, and leave it to itself."""
        self.inner = asyncio.create_task(self.ws.recv())
        try:
            await asyncio.wait([self.inner])
        finally:
            if self.inner.done() and not self.inner.cancelled():
                self.received.append(self.inner.result())
            else:
                self.inner.cancel()

    async def stop(self) -> None:
        self.stopping = True
        while not self.task.done():  # until 3.11, wait_for may swallow one
            self.task.cancel()
            await turns()

    # What can be done to it.

    def cancel(self) -> None:
        self.task.cancel()

    def cancel_inner(self) -> None:
        if self.inner is not None:
            self.inner.cancel()

    def expire(self) -> None:
        if self.deadline is not None and not self.deadline.expired():
            with contextlib.suppress(RuntimeError):  # it is on its way out already
                self.deadline.reschedule(asyncio.get_running_loop().time() - 1)


WAYS = ["recv", "recv_decoded", "iterate", "timeout", "wait_for", "wait_for_no_time", "task"]
EVENTS = ["arrive", "arrive soon", "burst", "cancel", "cancel soon", "cancel inner", "cancel inner soon", "expire"]


@given(
    ways=st.lists(st.sampled_from(WAYS), min_size=1, max_size=6),
    script=st.lists(st.lists(st.sampled_from(EVENTS), max_size=4), max_size=25),
)
def test_every_message_is_received_once_and_in_order(flavour: str, ways: list[str], script: list[list[str]]) -> None:
    async def scenario() -> None:
        fed = Handfed(read_limit=400)
        # One of these ways never comes to a message, if it does not find it.
        reader = Reader(fed, [*ways, "recv"])
        try:
            await play(fed, reader)
        finally:
            await reader.stop()

    async def play(fed: Handfed, reader: Reader) -> None:
        sent: list[str] = []
        await turns()  # the reader is reading

        def arrive(count: int) -> None:
            messages = [str(len(sent) + number) for number in range(count)]
            sent.extend(messages)
            fed.arrive(*messages)

        for events in script:
            for event in events:
                match event:
                    case "arrive":
                        arrive(1)
                    case "arrive soon":
                        fed.loop.call_soon(arrive, 2)
                    case "burst":
                        arrive(520)
                    case "cancel":
                        reader.cancel()
                    case "cancel soon":
                        fed.loop.call_soon(reader.cancel)
                    case "cancel inner":
                        reader.cancel_inner()
                    case "cancel inner soon":
                        fed.loop.call_soon(reader.cancel_inner)
                    case "expire":
                        reader.expire()
            await turns()
        fed.arrive("end")
        patience = 1000 + 10 * len(sent)
        while len(reader.received) <= len(sent) and (patience := patience - 1):
            await turns()
        assert reader.received == [*sent, "end"]

    run(scenario, flavour, collect=False)


# ---- sending ----


class WirePipe:
    """What leaves through a ``Wire``, taken as slowly as the test likes."""

    def __init__(self, *, compressed: bool, write_limit: int) -> None:
        self.fed = Handfed(compressed=compressed, write_limit=write_limit, outbox_limit=1 << 40)
        self.ws = self.fed.ws
        self.fed.wire.stuck = True

    async def take(self, size: int) -> bytes:
        self.fed.wire.release(size)
        data = bytes(self.fed.wire.left)
        self.fed.wire.left.clear()
        await turns()
        return data

    async def end(self) -> None:
        self.fed.wire.close()
        await turns(2)


class SocketPipe:
    """The same through a socket that holds very little."""

    def __init__(self, *, compressed: bool, write_limit: int) -> None:
        self.loop = asyncio.get_running_loop()
        ours, self.theirs = socket.socketpair()
        for sock in (ours, self.theirs):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        settings = ConnectionOptions(ping_interval=None, write_limit=write_limit, outbox_limit=1 << 40)
        self.ws = Connection(self.loop, settings, logging.getLogger("tests"))
        transport: Any = SocketTransport(self.loop, ours, asyncio.Protocol())
        self.ws.open(transport, session(client=False, compressed=compressed, options=settings))

    async def take(self, size: int) -> bytes:
        await turns()
        try:
            return self.theirs.recv(size)
        except BlockingIOError:
            return b""

    async def end(self) -> None:
        self.theirs.close()
        await self.ws.wait_closed()


def a_message(sender: int, number: int, size: int) -> str | bytes:
    body = f"{sender}:{number}:" + "".join(random.Random(size).choices("ab\u00e9\u20ac", k=size))
    return body if size % 2 else body.encode()


def key(message: str | bytes) -> tuple[int, int]:
    sender, number, _ = (message if isinstance(message, str) else message.decode()).split(":", 2)
    return int(sender), int(number)


async def pieces(message: str | bytes) -> AsyncIterator[Any]:
    third = len(message) // 3
    for piece in (message[:third], message[third : 2 * third], message[2 * third :]):
        await turns()
        yield piece


steps = st.tuples(
    st.integers(0, 2),  # who sends
    st.sampled_from([0, 10, 300, 3001, 20001, 60000]),  # how much
    st.sampled_from(["send", "send", "nowait", "in fragments", "compress", "compress not"]),
    st.sampled_from([None, None, 0, 1, 2, 5]),  # cancelled after so many turns
    st.sampled_from([0, 50, 4000, 100000]),  # how much the peer takes then
)


@pytest.mark.parametrize("pipe", [WirePipe, SocketPipe])
@pytest.mark.parametrize("compressed", [False, True])
@settings(max_examples=settings().max_examples // 3)
@given(script=st.lists(steps, min_size=1, max_size=25), write_limit=st.sampled_from([1, 1000, 65536]))
def test_cancelling_a_send_corrupts_nothing(
    flavour: str, pipe: Callable[..., Any], compressed: bool, script: list[Any], write_limit: int
) -> None:
    """What is cancelled while it waits was sent already, or never is; what is not cancelled is sent."""

    async def scenario() -> None:
        end = pipe(compressed=compressed, write_limit=write_limit)
        ws, peer = end.ws, session(client=True, compressed=compressed)
        given_: dict[tuple[int, int], str | bytes] = {}
        cancelled: set[tuple[int, int]] = set()
        left: list[Any] = []
        tasks: list[asyncio.Task[Any]] = []
        own_tasks: list[list[asyncio.Task[Any]]] = [[], [], []]

        async def send(message: str | bytes, how: str, before: list[asyncio.Task[Any]]) -> None:
            if before:
                await asyncio.wait(before)  # one sender's messages, one after the other
            if how == "in fragments":
                await ws.send(pieces(message))
            elif how == "nowait" and not ws.fragmenting:
                ws.send_nowait(message)
            else:
                await ws.send(message, compress={"compress": True, "compress not": False}.get(how))

        for number, (sender, size, how, patience, taken) in enumerate(script):
            message = a_message(sender, number, size)
            given_[sender, number] = message
            task = asyncio.create_task(send(message, how, own_tasks[sender][:]))
            own_tasks[sender].append(task)
            tasks.append(task)
            # What has begun to leave in fragments cannot be taken back: that ends the connection, and is tested below.
            if patience is not None and how != "in fragments":
                await turns(patience)
                if task.cancel():
                    cancelled.add((sender, number))
            left += messages_of(peer, await end.take(taken))
        while not all(task.done() for task in tasks):
            left += messages_of(peer, await end.take(100000))
        ws.send_nowait("0:-1:")
        while not left or left[-1] != "0:-1:":
            left += messages_of(peer, await end.take(100000))
        left.pop()
        for task, name in zip(tasks, given_, strict=True):
            assert task.cancelled() if name in cancelled else task.exception() is None

        names = [key(message) for message in left]
        assert [given_[name] for name in names] == left
        assert len(set(names)) == len(names)
        assert set(given_) - set(names) <= cancelled
        for sender in range(3):
            own = [number for who, number in names if who == sender]
            assert own == sorted(own)
        await end.end()

    run(scenario, flavour, collect=False)


@pytest.mark.parametrize("compressed", [False, True])
@given(script=st.lists(st.sampled_from(["send", "turn", "take"]), max_size=12), patience=st.integers(0, 12))
def test_cancelling_a_fragmented_send(flavour: str, compressed: bool, script: list[str], patience: int) -> None:
    """Either nothing or all of it has left, and the connection goes on; or the connection is closed with 1011."""

    async def scenario() -> None:
        end = WirePipe(compressed=compressed, write_limit=1)
        ws, peer = end.ws, session(client=True, compressed=compressed)
        left: list[Any] = []
        others: list[asyncio.Task[Any]] = []

        async def fragmented() -> None:
            await ws.send(pieces("f" * 300))

        task = asyncio.create_task(fragmented())
        for number, step in enumerate(["send", *script]):
            if number == patience:
                task.cancel()
            if step == "send":
                others.append(asyncio.create_task(ws.send(f"{number}")))
            elif step == "turn":
                await turns()
            else:
                left += messages_of(peer, await end.take(1000))
        for _ in range(40):
            left += messages_of(peer, await end.take(1000))
        end.fed.wire.arrive(peer.take_output())  # its Close frame, if it was sent one
        assert task.done()
        outcomes = await asyncio.gather(*others, return_exceptions=True)
        sent = [message for message in left if message != "f" * 300]
        if peer.close_received is None:
            assert outcomes == [None] * len(others)
            assert len(sent) == len(others)
            assert len(left) - len(sent) in ([0, 1] if task.cancelled() else [1])
        else:
            assert task.cancelled()
            assert peer.close_received[0] == 1011
            assert "f" * 300 not in left
            assert all(outcome is None or isinstance(outcome, ConnectionClosed) for outcome in outcomes)
            assert len(sent) == outcomes.count(None)
        assert len(set(sent)) == len(sent)
        await end.end()

    run(scenario, flavour, collect=False)


@pytest.mark.parametrize(("parts", "begun"), [(["\ud800", "x"], False), (["x", "\ud800"], True), (["\ud800"], False)])
def test_a_fragment_that_cannot_be_encoded(flavour: str, parts: list[str], begun: bool) -> None:
    """The same choice: nothing has left, or the connection is closed."""

    async def scenario() -> None:
        fed = Handfed()
        with pytest.raises(UnicodeEncodeError):
            await fed.ws.send(parts)
        if not begun:
            await fed.ws.send("next")
            assert fed.left() == ["next"]
        else:
            assert fed.left() == []
            assert fed.peer.close_received == (1011, "a fragmented message was broken off")
            fed.wire.arrive(fed.peer.take_output())
            await fed.ws.wait_closed()

    run(scenario, flavour, collect=False)
