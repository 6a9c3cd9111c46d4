"""Who gets which connection of a pool, and who waits for one.

``take`` gives the best connection at once, unless somebody waits already: those who wait are served strictly in the
order in which they came.  ``serve`` gives what has become free to those who wait; whoever makes something free calls
it, so that between two turns of the event loop nobody waits while there is a connection to give.

A connection is counted as used from the moment it is given to somebody who waits, before that task runs again; one that
is cancelled in between gives it back.  That is what must never happen: a connection that is given to nobody.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Literal, TypeAlias

from ...connection import Stats
from ...errors import PoolTimeout
from ..opening import ClientConnection
from .slots import Pooled, Slot

__all__ = ["Checkout", "Checkouts", "Strategy"]

Strategy: TypeAlias = Literal["least_loaded", "round_robin"]


def _load(pooled: Pooled) -> tuple[int, int, int]:
    return pooled.users, pooled.connection.unsent, pooled.chosen


def _age(pooled: Pooled) -> int:
    return pooled.chosen


class Checkouts:
    """The line of those who want a connection.

    ``slots``: where connections are; ``refusal``: why there will be none, as an exception to raise, or None;
    ``timed_out``: the exception for who waited that long.
    """

    def __init__(
        self,
        slots: Callable[[], Sequence[Slot]],
        *,
        strategy: Strategy,
        exclusive: bool,
        refusal: Callable[[], Exception | None],
        timed_out: Callable[[float], PoolTimeout],
    ) -> None:
        self._slots = slots
        self._rank: Callable[[Pooled], tuple[int, int, int] | int] = _load if strategy == "least_loaded" else _age
        self._exclusive = exclusive
        self._refusal = refusal
        self._timed_out = timed_out
        self._line: OrderedDict[asyncio.Future[Pooled], None] = OrderedDict()
        self.count = 0
        self.in_use = 0
        self.timeouts = 0
        self.wait_total = 0.0
        self.wait_max = 0.0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._line)

    async def take(self, timeout: float | None) -> Pooled:
        """A connection, which is counted as used until ``give_back``; ``timeout`` in seconds, None for no limit."""
        if (refusal := self._refusal()) is not None:
            raise refusal
        if not self._line and (pooled := self._choose()) is not None:
            return pooled
        if timeout is not None and timeout <= 0:
            self.timeouts += 1
            raise self._timed_out(timeout)
        return await self._wait(timeout)

    async def _wait(self, timeout: float | None) -> Pooled:
        loop = asyncio.get_running_loop()
        begun = time.monotonic()  # a loop's clock may stand still within a turn
        future: asyncio.Future[Pooled] = loop.create_future()
        self._line[future] = None
        timer = None if timeout is None else loop.call_later(timeout, self._time_out, future, timeout)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.give_back(future.result())
            raise
        finally:
            self._line.pop(future, None)
            if timer is not None:
                timer.cancel()
            waited = time.monotonic() - begun
            self.wait_total += waited
            self.wait_max = max(self.wait_max, waited)

    def _time_out(self, future: asyncio.Future[Pooled], timeout: float) -> None:
        if not future.done():
            self.timeouts += 1
            future.set_exception(self._timed_out(timeout))
            del self._line[future]

    def give_back(self, pooled: Pooled) -> None:
        """A user of that connection has left."""
        self.in_use -= 1
        pooled.slot.release(pooled)
        self.serve()

    def serve(self) -> None:
        """Give what is free to those who wait; if there will be nothing any more, tell them."""
        while self._line:
            future = next(iter(self._line))
            if future.done():  # cancelled; its task has not run yet
                del self._line[future]
            elif (refusal := self._refusal()) is not None:
                del self._line[future]
                future.set_exception(refusal)
            elif (pooled := self._choose()) is not None:
                del self._line[future]
                future.set_result(pooled)
            else:
                return

    def _choose(self) -> Pooled | None:
        """The best connection that is free, now counted as used."""
        free = [each for slot in self._slots() if (each := slot.usable) and not (self._exclusive and each.users)]
        if not free:
            return None
        best = min(free, key=self._rank)
        self.count += 1
        self.in_use += 1
        best.users += 1
        best.chosen = self.count
        return best


class Checkout:
    """What ``Pool.connection`` returns, to be used once: ``async with`` it."""

    def __init__(self, line: Checkouts, timeout: float | None, broken_off: Callable[[Pooled], None] | None) -> None:
        self._line = line
        self._timeout = timeout
        self._broken_off = broken_off
        self._entered = False
        self._pooled: Pooled | None = None
        self._before: object = None

    async def __aenter__(self) -> ClientConnection:
        if self._entered:
            raise RuntimeError("what Pool.connection() returns is for one `async with` only: call it again")
        self._entered = True
        self._pooled = await self._line.take(self._timeout)
        if self._broken_off is not None:
            self._before = _traffic(self._pooled.connection.stats)
        return self._pooled.connection

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        pooled, self._pooled = self._pooled, None
        if pooled is None:
            return
        try:
            if exc_type is not None and self._broken_off is not None and pooled.usable:
                self._leave_in_the_middle(pooled, self._broken_off)
        finally:
            self._line.give_back(pooled)

    def _leave_in_the_middle(self, pooled: Pooled, broken_off: Callable[[Pooled], None]) -> None:
        # Nothing sent and nothing received: there is no request that could be half done.
        if _traffic(pooled.connection.stats) != self._before:
            broken_off(pooled)


def _traffic(stats: Stats) -> tuple[int, ...]:
    return (
        stats.messages_sent,
        stats.bytes_sent,
        stats.messages_received,
        stats.unread,
    )  # no pings: they are not the user's
