"""One place of a pool: a connection that is opened, kept, and opened again when it ends.

Each slot has one task, and nothing else runs on its behalf.  The task opens a connection, waits for ``setup`` to accept
it, and only then offers it (READY); when the connection ends, or an attempt fails, it waits as the policy says
(BACKING_OFF) and begins again, until the policy says that it is over (FAILED).  ``retire`` ends a slot from outside: an
offered connection is kept until its users have left or were given their time, and is closed with a close code;
whatever else the task was doing is cancelled.  ``abort`` ends it without waiting for anything.

``changed`` is called after every change of state, from the event loop and never from within a call of the pool.  What
must never happen: a connection that was opened here and is neither offered nor closed, and a user of one connection who
is counted as a user of the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import enum
import inspect
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from ...errors import ConnectError, ConnectionClosed, ReconnectFailed, WebSocketException, closed_error
from ...types import Initiator, State
from ..endpoints import Endpoints
from ..opening import ClientConnection
from ..reconnection import Backoff, ReconnectPolicy, is_transient

__all__ = ["Pooled", "Setup", "Slot", "SlotOptions", "SlotState", "Tally"]

Setup: TypeAlias = Callable[[ClientConnection], Awaitable[object] | object]

_SPREAD = 0.2
"""By how much of itself a lifetime may be shorter, so that connections made together do not end together."""


class SlotState(enum.Enum):
    """CONNECTING and BACKING_OFF alternate until READY; FAILED and RETIRED are the end."""

    CONNECTING = enum.auto()
    BACKING_OFF = enum.auto()
    READY = enum.auto()
    FAILED = enum.auto()
    RETIRED = enum.auto()


@dataclass(slots=True)
class Tally:
    """What all slots of a pool count together."""

    opened: int = 0
    failed: int = 0
    closed: int = 0
    cut_off: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotOptions:
    """How the slots of a pool open and keep their connections."""

    endpoints: Endpoints
    setup: Setup | None
    setup_timeout: float | None
    policy: ReconnectPolicy
    max_lifetime: float | None
    logger: logging.Logger


@dataclass(slots=True, eq=False)
class Pooled:
    """A connection that is offered: how many use it now, and when it was last chosen (a count of checkouts)."""

    slot: Slot
    connection: ClientConnection
    users: int = 0
    chosen: int = 0

    @property
    def usable(self) -> bool:
        """Whether it may be given to someone who asks now."""
        return not self.slot.retiring and self.connection.state is State.OPEN


class Slot:
    """See the top of this module."""

    def __init__(
        self, options: SlotOptions, tally: Tally, changed: Callable[[], None], context: contextvars.Context
    ) -> None:
        self.state = SlotState.CONNECTING
        self.pooled: Pooled | None = None
        self.last_error: Exception | None = None
        self.failure: ReconnectFailed | None = None
        """Why this is over, when it is FAILED."""
        self.due = False
        """Whether the connection has reached the end of its lifetime."""
        self._options = options
        self._tally = tally
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._backoff = Backoff(options.policy)
        self._farewell: tuple[int, str] | None = None
        self._forced = False
        self._aborted = False
        self._alarm: asyncio.Timeout | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._lifetime: asyncio.TimerHandle | None = None
        self.task = self._loop.create_task(self._run(), context=context)
        self.task.add_done_callback(self._ended)

    # -- what the pool does with it ------------------------------------------------------------------------------

    @property
    def retiring(self) -> bool:
        """Whether it was told to end."""
        return self._farewell is not None

    @property
    def usable(self) -> Pooled | None:
        """The connection, if it may be given to someone who asks now."""
        return self.pooled if self.pooled is not None and self.pooled.usable else None

    def release(self, pooled: Pooled) -> None:
        """One user of that connection has left."""
        pooled.users -= 1
        if self.retiring and not pooled.users:
            self._wake()

    def retire(self, code: int, reason: str, timeout: float | None) -> None:
        """Offer nothing any more, give users ``timeout`` seconds (None: no limit) to leave, close, and end.

        Of several calls the first sets the code, and the one whose time is up first the end.
        """
        if self._farewell is None:
            self._farewell = code, reason
            if self.pooled is None:
                self.task.cancel()
            else:
                self._wake()
        if timeout is not None and not self.task.done():
            until = self._loop.time() + timeout
            if self._deadline is None or until < self._deadline.when():
                if self._deadline is not None:
                    self._deadline.cancel()
                self._deadline = self._loop.call_at(until, self._force)

    def abort(self) -> None:
        """End without a closing handshake."""
        self._farewell = self._farewell or (1001, "")
        self._aborted = True
        self.task.cancel()

    def prolong(self) -> None:
        """The connection, whose lifetime was over, stays for another one."""
        if self.due:
            self.due = False
            self._limit_lifetime()

    # -- the task ------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        await asyncio.sleep(0)  # a loop may run the first step of a task in the middle of creating it
        try:
            while not self.retiring:
                self._to(SlotState.CONNECTING)
                error, final = await self._once()
                if not self.retiring:
                    await self._back_off(error, final)
        except ReconnectFailed as exc:
            self._options.logger.error("pool: a connection is given up: %s", exc)
            self._fail(exc)
        except Exception as exc:
            # From the policy's classify, for example; nobody awaits this task, so it must not end unseen.
            self._options.logger.exception("pool: a connection is given up")
            self._fail(ReconnectFailed("a hook failed", exc))

    async def _once(self) -> tuple[Exception, bool]:
        """One connection, from its opening to its end: what ended it, and whether that is final."""
        connection = None
        try:
            endpoint = await self._options.endpoints.next(self._backoff.failures + 1)
            connection = await endpoint.open()
            await self._set_up(connection)
        except Exception as exc:
            self._tally.failed += 1
            return exc, self._is_final(exc, setting_up=connection is not None)
        error = await self._hold(connection)
        return error, not self.retiring and self._is_final(error)

    def _is_final(self, exc: Exception, setting_up: bool = False) -> bool:
        policy = self._options.policy
        if not policy.retry_first and not self._tally.opened:
            return True
        by_us = isinstance(exc, ConnectionClosed) and exc.info.initiator is Initiator.LOCAL
        if by_us or (setting_up and not isinstance(exc, WebSocketException | OSError)):
            # What setup raises, or a user who closes a connection, tells nothing about the server.
            return policy.classify is not None and policy.classify(exc) is False
        return not is_transient(exc, policy)

    async def _back_off(self, error: Exception, final: bool) -> None:
        """Wait before the next attempt. Raises ``ReconnectFailed`` when there is none."""
        self.last_error = error
        try:
            if final:
                raise ReconnectFailed("no other attempt is made", error) from error
            delay = self._backoff.after(error)
        except ReconnectFailed as exc:
            exc.attempts = error.attempts if isinstance(error, ConnectError) else ()
            raise
        level = logging.INFO if isinstance(error, ConnectionClosed) else logging.WARNING
        hidden = isinstance(error, WebSocketException | OSError)
        text = "pool: next attempt in %.3f s, after %r"
        self._options.logger.log(level, text, delay, error, exc_info=None if hidden else error)
        if delay > 0:
            self._to(SlotState.BACKING_OFF)
            await asyncio.sleep(delay)

    async def _set_up(self, connection: ClientConnection) -> None:
        """Whatever must succeed before the connection is offered; if it fails, the connection is closed."""
        try:
            if self._options.setup is not None:
                await self._call_setup(self._options.setup, connection)
            if connection.state is not State.OPEN:
                await connection.wait_closed()
                raise _end_of(connection)
        except asyncio.CancelledError:
            if self._farewell is None or self._aborted:
                connection.abort()
            else:
                await self._close(connection, *self._farewell)
            raise
        except Exception:
            await self._close(connection, 1011, "setup failed")
            raise

    async def _call_setup(self, setup: Setup, connection: ClientConnection) -> None:
        seconds = self._options.setup_timeout
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                result = setup(connection)
                if inspect.isawaitable(result):
                    await result
        except TimeoutError as exc:
            if not limit.expired():
                raise
            raise TimeoutError(f"setup did not succeed within {seconds:g} s (setup_timeout)") from exc

    async def _hold(self, connection: ClientConnection) -> ConnectionClosed:
        """Offer the connection until it has ended, or until this slot retires and its users have left."""
        self.pooled = pooled = Pooled(self, connection)
        self._backoff.opened()
        self._tally.opened += 1
        self._limit_lifetime()
        self._to(SlotState.READY)
        try:
            while not connection.closed and not self._may_close(pooled):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None) as self._alarm:
                        await connection.wait_closed()
            if not connection.closed and self._farewell is not None:
                self._tally.cut_off += pooled.users
                await self._close(connection, *self._farewell)
        except asyncio.CancelledError:
            connection.abort()
            raise
        finally:
            self._tally.closed += 1
            self.pooled, self._alarm, self.due = None, None, False
            if self._lifetime is not None:
                self._lifetime.cancel()
        return _end_of(connection)

    async def _close(self, connection: ClientConnection, code: int, reason: str) -> None:
        try:
            await connection.close(code, reason)
        except asyncio.CancelledError:
            connection.abort()
            raise

    def _may_close(self, pooled: Pooled) -> bool:
        return self.retiring and (self._forced or not pooled.users)

    # -- what wakes it -------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        """Let the task that holds a connection look around."""
        alarm, self._alarm = self._alarm, None
        if alarm is not None:
            alarm.reschedule(self._loop.time())

    def _force(self) -> None:
        self._forced = True
        self._wake()

    def _limit_lifetime(self) -> None:
        if self._options.max_lifetime is not None:
            seconds = self._options.max_lifetime * random.uniform(1 - _SPREAD, 1)
            self._lifetime = self._loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        self.due = True
        self._changed()

    def _to(self, state: SlotState) -> None:
        self.state = state
        self._changed()

    def _fail(self, failure: ReconnectFailed) -> None:
        self.failure = failure
        self._to(SlotState.FAILED)

    def _ended(self, _: asyncio.Task[None]) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if self.state is not SlotState.FAILED:
            self.state = SlotState.RETIRED
        self._changed()


def _end_of(connection: ClientConnection) -> ConnectionClosed:
    info = connection.close_info
    assert info is not None  # it is closed
    return closed_error(info)
