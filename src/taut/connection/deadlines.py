"""When an open connection has to end whatever its peer does: it was idle for too long, or it is too old.

There is no timer.  The keepalive sweep passes by anyway (``drivers.keepalive``), and compares the counters of the
session with those of the last time; so nothing is done per message, and a connection without such limits has no
``Deadlines`` at all.  The price is precision: activity counts from the sweep that sees it, so that a connection is
never closed early, and at most a quarter of the time late.

Messages are what counts, and not Ping and Pong frames, which keepalive sends without end.  A large message on its way,
in either direction, is activity as long as it moves.  While messages are unread or reading is paused it is this side
that is busy, and the time stands still, as it does while the program itself was stalled.
"""

from __future__ import annotations

import math
import random

from ..protocol.session import Session
from ..types import ConnectionOptions

__all__ = ["Deadlines", "deadlines_of"]

_JITTER = 0.1
"""By how much a connection may end before its ``max_lifetime``, in parts of it."""


class Deadlines:
    """The deadlines of one connection."""

    __slots__ = ("_active_at", "_counted", "_ends_at", "_idle_timeout", "_lifetime")

    def __init__(self, options: ConnectionOptions, opened_at: float, now: float) -> None:
        self._idle_timeout = math.inf if options.idle_timeout is None else options.idle_timeout
        self._active_at = now
        self._counted: tuple[int, ...] = ()
        self._lifetime = options.max_lifetime
        self._ends_at = math.inf
        if self._lifetime is not None:
            self._ends_at = opened_at + self._lifetime * random.uniform(1 - _JITTER, 1)

    def follow(self, before: Deadlines) -> None:
        """Take the place of ``before``: the clocks do not begin anew."""
        self._active_at, self._counted = before._active_at, before._counted
        if self._lifetime == before._lifetime:
            self._ends_at = before._ends_at

    def passed(self, session: Session, unsent: int, paused: bool, now: float, stalled: float) -> str | None:
        """The reason to close a connection with, if a deadline has passed.

        ``unsent`` (bytes); ``paused``: whether nothing is read from the peer; ``now``: of a monotonic clock;
        ``stalled``: for how long the program did nothing since the last time (seconds).
        """
        if session.phase_name != "OPEN":
            return None
        if now >= self._ends_at:
            return f"maximum lifetime of {self._lifetime:g} s"
        arriving = session.bytes_received if session.in_progress else 0
        counted = (session.messages_received, session.messages_sent, unsent, arriving)
        if counted != self._counted or session.unread or paused:
            self._counted = counted
            self._active_at = now
        else:
            self._active_at += stalled
        if now - self._active_at >= self._idle_timeout:
            return f"idle for {self._idle_timeout:g} s"
        return None


def deadlines_of(
    options: ConnectionOptions, opened_at: float, now: float | None = None, before: Deadlines | None = None
) -> Deadlines | None:
    """The deadlines that ``options`` set, None for none; ``before``: those that were set so far."""
    if options.idle_timeout is None and options.max_lifetime is None:
        return None
    deadlines = Deadlines(options, opened_at, opened_at if now is None else now)
    if before is not None:
        deadlines.follow(before)
    return deadlines
