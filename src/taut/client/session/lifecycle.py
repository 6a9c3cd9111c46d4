"""The states of a session, which one may follow which, and how to wait for one.

Everything that moves a session from one state to another goes through ``Lifecycle.enter``, which holds it to the one
table below.  Nobody who waits misses a state that does not last: it is noted when it is entered, not looked at later.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Mapping
from types import MappingProxyType

__all__ = ["TRANSITIONS", "Lifecycle", "SessionState"]


class SessionState(enum.Enum):
    """Where a session stands."""

    CONNECTING = "connecting"
    """A connection is being opened, or set up by ``on_connect``; also before the session is started."""
    OPEN = "open"
    """There is a connection."""
    BACKING_OFF = "backing off"
    """There is none, and the next attempt is not due yet."""
    CLOSING = "closing"
    """The last connection is being closed."""
    CLOSED = "closed"
    """It is over: closed by this side, or given up."""


_S = SessionState
TRANSITIONS: Mapping[SessionState, frozenset[SessionState]] = MappingProxyType(
    {
        _S.CONNECTING: frozenset({_S.OPEN, _S.BACKING_OFF, _S.CLOSING, _S.CLOSED}),
        _S.OPEN: frozenset({_S.BACKING_OFF, _S.CLOSING}),
        _S.BACKING_OFF: frozenset({_S.CONNECTING, _S.CLOSING, _S.CLOSED}),
        _S.CLOSING: frozenset({_S.CLOSED}),
        _S.CLOSED: frozenset(),
    }
)
"""Which states may follow each."""


class Lifecycle:
    """The state of one session; ``entered(old, new)`` is called after every change."""

    __slots__ = ("_entered", "_waiters", "state")

    def __init__(self, entered: Callable[[SessionState, SessionState], None]) -> None:
        self.state = SessionState.CONNECTING
        self._entered = entered
        self._waiters: list[tuple[frozenset[SessionState], asyncio.Future[SessionState]]] = []

    def enter(self, new: SessionState) -> None:
        """Go on to ``new``; to the state that it has already, nothing happens."""
        old = self.state
        if new is old:
            return
        if new not in TRANSITIONS[old]:
            raise RuntimeError(f"a session that is {old.value} cannot become {new.value}")
        self.state = new
        for states, waiter in self._waiters:
            if not waiter.done() and (new in states or new is SessionState.CLOSED):
                waiter.set_result(new)
        self._entered(old, new)

    async def reach(self, states: frozenset[SessionState]) -> SessionState:
        """Wait for one of these states, or for the end, after which no other comes; say which it was."""
        if self.state in states or self.state is SessionState.CLOSED:
            return self.state
        waiter: asyncio.Future[SessionState] = asyncio.get_running_loop().create_future()
        entry = (states, waiter)
        self._waiters.append(entry)
        try:
            return await waiter
        finally:
            self._waiters.remove(entry)
