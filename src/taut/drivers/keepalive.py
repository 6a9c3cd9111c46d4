"""One sweep per event loop keeps all of its connections alive: no task and no timer per connection.

Connections are grouped by how often they want to be looked at, an eighth of their shortest interval rounded down to a
power of two, so that a loop has a handful of timers however many connections it has, and none while it has none.  A
sweep that runs late tells the sessions by how much: while the program itself was stalled, no deadline runs.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Protocol

from ..types import ConnectionOptions
from .loops import LoopState

__all__ = ["unwatch", "watch"]

_SHORTEST = 1 / 256
_LONGEST = 2.0


class Watched(Protocol):
    """What a sweep needs of a connection."""

    def keepalive_tick(self, now: float, slack: float, stalled: float) -> None: ...


class _Group:
    """The connections of a loop that are looked at every ``period`` seconds. Without members it does not exist."""

    def __init__(self, loop: asyncio.AbstractEventLoop, period: float) -> None:
        self.loop = loop
        self.period = period
        self.members: set[Watched] = set()
        self.due = time.monotonic() + period
        self.timer = loop.call_later(period, self._sweep)

    def _sweep(self) -> None:
        now = time.monotonic()
        late = now - self.due
        stalled = late if late > self.period else 0.0
        self.due = now + self.period
        self.timer = self.loop.call_later(self.period, self._sweep)
        for connection in list(self.members):
            try:
                connection.keepalive_tick(now, self.period, stalled)
            except Exception as exc:  # one connection must not cost the others their keepalive
                self.loop.call_exception_handler({"message": "keepalive failed", "exception": exc})


def _period(options: ConnectionOptions) -> float | None:
    """How often a connection wants to be looked at, None for never."""
    pings = (options.ping_interval, options.ping_timeout) if options.ping_interval is not None else ()
    times = [t for t in (*pings, options.idle_timeout, options.max_lifetime) if t is not None]
    return min(max(2.0 ** math.floor(math.log2(min(times) / 8)), _SHORTEST), _LONGEST) if times else None


def _groups(loop: asyncio.AbstractEventLoop) -> dict[float, _Group]:
    state = LoopState.of(loop)
    if state.keepalive is None:
        state.keepalive = {}
    groups: dict[float, _Group] = state.keepalive
    return groups


def watch(loop: asyncio.AbstractEventLoop, connection: Watched, options: ConnectionOptions) -> None:
    """Call ``connection.keepalive_tick(now, slack, stalled)`` from time to time, if ``options`` ask for anything."""
    groups, period = _groups(loop), _period(options)
    if period is None:
        return
    if period not in groups:
        groups[period] = _Group(loop, period)
    groups[period].members.add(connection)


def unwatch(loop: asyncio.AbstractEventLoop, connection: Watched, options: ConnectionOptions) -> None:
    """Undo ``watch``; harmless when it was not called."""
    groups, period = _groups(loop), _period(options)
    if period is not None and (group := groups.get(period)) is not None:
        group.members.discard(connection)
        if not group.members:
            group.timer.cancel()
            del groups[period]
