"""Turns: how many connections may be CONNECTING to one address at a time, and a deadline that allows for the wait.

RFC 6455, 4.1, allows a client one connection in the state CONNECTING for an IP address and port; the next one waits
until it is open or has failed.  ``Turns`` holds the lines of an event loop, one for each address, first come, first
served.  A turn is taken before the TCP connection is begun and given back when the opening handshake is over, however
it ended: a turn that is never given back stops everyone behind it.  Whoever waits in a line holds no other turn that
somebody waits for without doing anything about it, so there is no deadlock.

A line may be long, and that says nothing about the server.  ``Deadline`` is the time for one opening, and its clock
stands still while each of the attempts that are running, one for each address, only waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Generator, Hashable
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TypeAlias
from weakref import WeakKeyDictionary

__all__ = ["Deadline", "Turn", "Turns", "turns_of"]


class Deadline:
    """The time for one opening: like ``asyncio.timeout``, but its clock can stand still.

    ``timeout``: seconds, None for no limit. Raises ``TimeoutError`` at the end of the block when the time is over.
    """

    def __init__(self, timeout: float | None) -> None:
        self._timeout = asyncio.timeout(timeout)
        self._attempting = 0
        self._waiting = 0
        self._left: float | None = None  # what is left, while the clock stands still

    async def __aenter__(self) -> Deadline:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._timeout.__aexit__(exc_type, exc, tb)

    @contextmanager
    def attempting(self) -> Generator[None, None, None]:
        """Around each of the attempts that are made at the same time."""
        self._attempting += 1
        self._adjust()
        try:
            yield
        finally:
            self._attempting -= 1
            self._adjust()

    @contextmanager
    def waiting(self) -> Generator[None, None, None]:
        """Around what is not to count; the clock stands still while every attempt is in here."""
        self._waiting += 1
        self._adjust()
        try:
            yield
        finally:
            self._waiting -= 1
            self._adjust()

    def _adjust(self) -> None:
        """Stop the clock, or let it go on with the time that was left."""
        still = 0 < self._waiting >= self._attempting
        when = self._timeout.when()
        if self._timeout.expired():
            return  # too late to change it
        if still and self._left is None and when is not None:
            self._left = when - asyncio.get_running_loop().time()
            self._timeout.reschedule(None)
        elif not still and self._left is not None:
            self._timeout.reschedule(asyncio.get_running_loop().time() + self._left)
            self._left = None


class Turn:
    """The right to be CONNECTING to an address."""

    __slots__ = ("_address", "_turns")

    def __init__(self, turns: Turns, address: Hashable) -> None:
        self._turns: Turns | None = turns
        self._address = address

    def give_back(self) -> None:
        """Let the next one have it; again is as good as once."""
        turns, self._turns = self._turns, None
        if turns is not None:
            turns.release(self._address)


_Waiter: TypeAlias = "tuple[int, asyncio.Future[None]]"  # how many may be CONNECTING, itself included


@dataclass(slots=True)
class _Line:
    """Who is CONNECTING to an address, and who waits."""

    taken: int = 0
    waiters: deque[_Waiter] = field(default_factory=deque[_Waiter])


class Turns:
    """The turns of one event loop."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, _Line] = {}

    @property
    def busy(self) -> bool:
        """Whether anybody has a turn or waits for one."""
        return bool(self._lines)

    async def take(self, address: Hashable, limit: int | None, deadline: Deadline) -> Turn:
        """Wait for a turn: until fewer than ``limit`` have one (None: at once, but it counts for those who wait).

        If cancelled, nothing is taken.
        """
        line = self._lines.setdefault(address, _Line())
        if limit is None or (not line.waiters and line.taken < limit):
            line.taken += 1
            return Turn(self, address)
        waiter: _Waiter = limit, asyncio.get_running_loop().create_future()
        line.waiters.append(waiter)
        try:
            with deadline.waiting():
                await waiter[1]
        except BaseException:
            if waiter in line.waiters:
                line.waiters.remove(waiter)
                self._admit(address, line)  # those behind may have a higher limit
            elif not waiter[1].cancelled():  # the turn came together with the cancellation
                self.release(address)
            raise
        return Turn(self, address)

    def release(self, address: Hashable) -> None:
        """Take back a turn for this address."""
        line = self._lines[address]
        line.taken -= 1
        self._admit(address, line)

    def _admit(self, address: Hashable, line: _Line) -> None:
        while line.waiters and line.taken < line.waiters[0][0]:
            _, waiter = line.waiters.popleft()
            if not waiter.cancelled():
                line.taken += 1
                waiter.set_result(None)
        if not line.taken and not line.waiters:
            del self._lines[address]


_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, Turns] = WeakKeyDictionary()


def turns_of(loop: asyncio.AbstractEventLoop) -> Turns:
    """The turns of this event loop."""
    return _turns.setdefault(loop, Turns())
