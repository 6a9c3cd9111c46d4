"""``Pool``: ready connections to one server, for many tasks to share or to take in turns.

A pool is a list of slots (``slots``), each of which keeps one connection, and a line of those who want one
(``checkouts``).  This module decides which slots there are: it starts them, replaces one whose connection is too old or
cannot be trusted any more, changes their number, and retires them all at the end.  A slot is never repaired: it is
retired, to close in its own time, and another takes its place.

Slots tell of every change by one call, ``_changed``, which looks at everything again; there is nothing to keep in step.
What must never happen: a slot whose task nobody waits for, and somebody who waits while nothing can come.
"""

from __future__ import annotations

import asyncio
import contextvars
from dataclasses import dataclass
from types import TracebackType
from typing import Self, Unpack

from ...errors import ConnectError, PoolClosed, PoolTimeout, ReconnectFailed
from ...options import check_count, check_number
from ...protocol.session import valid_close_code
from ...types import Sendable
from ..endpoints import Endpoint, Endpoints, Factory
from ..opening import ClientConnection
from ..options import PooledArguments
from ..reconnection import ReconnectPolicy
from .checkouts import Checkout, Checkouts, Strategy
from .slots import Pooled, Setup, Slot, SlotOptions, SlotState, Tally

__all__ = ["Pool", "PoolStats"]

_POLICY = ReconnectPolicy(retry_first=True)


@dataclass(frozen=True, slots=True)
class PoolStats:
    """A pool at one moment, and what it has counted so far.

    Now: ``size``, of which ``ready``, ``connecting`` (setup included), ``backing_off`` and ``given_up`` (the policy
    allows no other attempt); ``in_use``: checkouts that have not been given back; ``waiting``: tasks that wait for one.
    So far: connections that became ready (``opened``) and of these ended (``closed``); attempts that ``failed``, in
    setup too; ``checkouts``, ``timeouts``; ``wait_total`` and ``wait_max`` (seconds) of checkouts that had to wait.
    """

    size: int
    ready: int
    connecting: int
    backing_off: int
    given_up: int
    in_use: int
    waiting: int
    opened: int
    failed: int
    closed: int
    checkouts: int
    timeouts: int
    wait_total: float
    wait_max: float


class Pool:
    """Ready connections: ``async with Pool(uri) as pool``, then ``async with pool.connection() as ws``.

    ``uri_or_factory``: a URI, ``connect(...)``, or a function that gives one of these for every attempt, called with
    the number of the attempt (from 1, again from 1 after a good connection was lost); it may be a coroutine function.
    ``size`` (8): how many connections. ``min_ready`` (1): how many must be ready before the pool has started.

    ``setup``: a function or coroutine function that is called with each new connection, and must succeed before
    anybody else gets it; ``setup_timeout`` (10 s, None for no limit). When it fails, the connection is closed with 1011
    and the attempt has failed. ``policy``: when to connect again; setup's own exceptions are retried unless
    ``classify`` says otherwise, and so is a connection that this side closed. With ``retry_first=False`` an attempt
    that fails before there was any connection is the last of its slot.

    ``checkout``: "least_loaded" (the fewest users, then the fewest unsent bytes) or "round_robin". ``exclusive``
    (False): one user at a time for each connection; ``reset_on_error`` (as ``exclusive``): a connection whose user
    leaves by an exception is replaced, if anything was sent or received meanwhile. ``max_lifetime`` (seconds, None):
    connections are replaced at this age, or up to a fifth earlier, one at a time. ``drain_timeout`` (10 s, None for no
    limit): how long the users of a connection may stay once it is to be closed.

    All options of ``connect`` are accepted by name, except ``sock``. Raises ``TypeError`` or ``ValueError`` for a wrong
    argument, at once. Connections are kept alive by their own keepalive; received messages that nobody takes hold back
    everything behind them, as on any connection.
    """

    def __init__(
        self,
        uri_or_factory: Endpoint | Factory,
        *,
        size: int = 8,
        min_ready: int = 1,
        setup: Setup | None = None,
        setup_timeout: float | None = 10.0,
        checkout: Strategy = "least_loaded",
        exclusive: bool = False,
        reset_on_error: bool | None = None,
        max_lifetime: float | None = None,
        drain_timeout: float | None = 10.0,
        policy: ReconnectPolicy = _POLICY,
        **options: Unpack[PooledArguments],
    ) -> None:
        check_count("size", size, least=1)
        check_count("min_ready", min_ready, least=0)
        if min_ready > size:
            raise ValueError(f"min_ready must be at most size ({size}), not {min_ready}")
        _check_choices(checkout, exclusive, reset_on_error, setup, policy)
        check_number("setup_timeout", setup_timeout, above=0, optional=True)
        check_number("max_lifetime", max_lifetime, above=0, optional=True)
        check_number("drain_timeout", drain_timeout, least=0, optional=True)
        endpoints = Endpoints(uri_or_factory, options)
        if endpoints.settings.sock is not None:
            raise ValueError("sock cannot be given to a pool: it opens more than one connection")
        self._size = size
        self._min_ready = min_ready
        self._logger = endpoints.settings.logger
        self._drain_timeout = drain_timeout
        self._slot_options = SlotOptions(
            endpoints=endpoints,
            setup=setup,
            setup_timeout=setup_timeout,
            policy=policy,
            max_lifetime=max_lifetime,
            logger=self._logger,
        )
        self._resets = exclusive if reset_on_error is None else reset_on_error
        self._slots: list[Slot] = []
        self._running: dict[asyncio.Task[None], Slot] = {}
        self._renewal: tuple[Slot, Slot] | None = None
        self._news: asyncio.Future[None] | None = None
        self._context = contextvars.copy_context()
        self._started = False
        self._closing = False
        self._tally = Tally()
        self._line = Checkouts(
            lambda: self._slots,
            strategy=checkout,
            exclusive=exclusive,
            refusal=self._refusal,
            timed_out=self._timed_out,
        )

    # -- starting ------------------------------------------------------------------------------------------------

    async def start(self) -> Self:
        """Open the connections, and wait until ``min_ready`` of them are ready; the others go on in the background.

        With the policy that is the default, that is for as long as the server cannot be reached. Raises the last
        ``ConnectError`` when the policy allows no more attempts, and ``PoolClosed`` when the pool is closed meanwhile.
        When it fails or is cancelled, nothing stays open.
        """
        if self._closing:
            raise PoolClosed
        if self._started:
            raise RuntimeError("the pool has been started already")
        self._started = True
        self._context = contextvars.copy_context()  # slots are made by users as well, and live longer than these
        self._slots = [self._new_slot() for _ in range(self._size)]
        try:
            await self._become_ready()
        except Exception:
            await self.close(timeout=0)
            raise
        except BaseException:
            await self._abort()
            raise
        return self

    async def _become_ready(self) -> None:
        loop = asyncio.get_running_loop()
        while sum(slot.usable is not None for slot in self._slots) < self._min_ready:
            if self._closing:
                raise PoolClosed
            failures = [slot.failure for slot in self._slots if slot.failure is not None]
            if len(self._slots) - len(failures) < self._min_ready:
                raise _first_cause(failures[-1])
            self._news = loop.create_future()
            await self._news

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    # -- using ---------------------------------------------------------------------------------------------------

    def connection(self, *, timeout: float | None = None) -> Checkout:
        """A connection for the time of a block: ``async with pool.connection() as ws``.

        ``timeout`` (seconds, None for no limit): how long to wait for one, in the order of the calls; 0 not to wait.
        Entering raises ``PoolTimeout`` after that time, ``PoolClosed`` once the pool is closing, ``ReconnectFailed``
        when there will be no connection any more; cancelling it loses nothing. The connection may end at any time:
        what is done with it raises ``ConnectionClosed`` then.
        """
        check_number("timeout", timeout, least=0, optional=True)
        return Checkout(self._line, timeout, self._broken_off if self._resets else None)

    async def send(self, message: Sendable, *, timeout: float | None = None) -> None:
        """Send a message on whichever connection ``connection`` gives; see there, and ``Connection.send``."""
        async with self.connection(timeout=timeout) as connection:
            await connection.send(message)

    @property
    def connections(self) -> tuple[ClientConnection, ...]:
        """The connections that are ready, in use or not."""
        return tuple(pooled.connection for slot in self._slots if (pooled := slot.usable) is not None)

    @property
    def size(self) -> int:
        """How many connections there are to be; ``resize`` changes it."""
        return self._size

    @property
    def stats(self) -> PoolStats:
        """The state of the pool, and its counters."""
        states = [slot.state for slot in self._slots]
        tally, line = self._tally, self._line
        return PoolStats(
            size=self._size,
            ready=len(self.connections),
            connecting=states.count(SlotState.CONNECTING),
            backing_off=states.count(SlotState.BACKING_OFF),
            given_up=states.count(SlotState.FAILED),
            in_use=line.in_use,
            waiting=line.waiting,
            opened=tally.opened,
            failed=tally.failed,
            closed=tally.closed,
            checkouts=line.count,
            timeouts=line.timeouts,
            wait_total=line.wait_total,
            wait_max=line.wait_max,
        )

    def __repr__(self) -> str:
        return f"<Pool {len(self.connections)}/{self._size} ready, {self._line.in_use} in use>"

    # -- changing ------------------------------------------------------------------------------------------------

    def resize(self, size: int) -> None:
        """Have ``size`` connections from now on; connections that were given up get a fresh start.

        Returns at once. Those that are too many go without waiting if they are not ready, else when their users have
        left, after ``drain_timeout`` at the latest; those with the fewest users go first.
        Raises ``PoolClosed`` once the pool is closing.
        """
        check_count("size", size, least=1)
        if self._closing:
            raise PoolClosed
        self._size = size
        self._min_ready = min(self._min_ready, size)
        if not self._started:
            return
        busiest_first = sorted(self._slots, key=_usefulness, reverse=True)
        kept = {slot for slot in busiest_first[:size] if slot.state is not SlotState.FAILED}
        for slot in self._slots:
            if slot not in kept:
                self._retire(slot, "the pool became smaller")
        self._slots = [slot for slot in self._slots if slot in kept]
        self._slots += [self._new_slot() for _ in range(size - len(self._slots))]
        self._changed()

    def _new_slot(self) -> Slot:
        slot = Slot(self._slot_options, self._tally, self._changed, self._context.copy())
        self._running[slot.task] = slot
        slot.task.add_done_callback(self._running.pop)
        return slot

    def _retire(self, slot: Slot, reason: str, code: int = 1000) -> None:
        slot.retire(code, reason, self._drain_timeout)

    def _broken_off(self, pooled: Pooled) -> None:
        """A user left in the middle of something: nobody else may get what is left of it."""
        self._logger.info("pool: a connection is replaced, its user left by an exception")
        self._replace(pooled.slot, self._new_slot(), "a request was broken off", 1001)

    def _replace(self, old: Slot, new: Slot, reason: str, code: int = 1000) -> None:
        self._slots[self._slots.index(old)] = new
        self._retire(old, reason, code)

    def _changed(self) -> None:
        """Something about a slot has changed."""
        if self._started and not self._closing:
            self._renew()
        self._line.serve()
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _renew(self) -> None:
        """Replace connections that are too old, each once its successor is ready, one after the other."""
        if self._renewal is not None:
            old, new = self._renewal
            if old not in self._slots:
                self._retire(new, "not needed any more")
            elif new.failure is not None:
                old.prolong()
            elif new.usable is not None or old.usable is None:
                self._replace(old, new, "max_lifetime")
            else:
                return
            self._renewal = None
        due = next((slot for slot in self._slots if slot.due and slot.usable is not None), None)
        if due is not None:
            self._renewal = due, self._new_slot()

    def _refusal(self) -> Exception | None:
        """Why there will be no connection."""
        if self._closing:
            return PoolClosed()
        if not self._started:
            return RuntimeError("the pool has not been started: use `async with`, or await pool.start()")
        failures = [slot.failure for slot in self._slots if slot.failure is not None]
        if len(failures) < len(self._slots):
            return None
        failure = ReconnectFailed(failures[-1].problem, failures[-1].reason)
        failure.attempts = failures[-1].attempts
        return failure

    def _timed_out(self, timeout: float) -> PoolTimeout:
        errors = [slot.last_error for slot in self._slots if slot.usable is None and slot.last_error is not None]
        return PoolTimeout(
            timeout,
            size=self._size,
            ready=len(self.connections),
            in_use=self._line.in_use,
            waiting=self._line.waiting,
            last_error=errors[-1] if errors else None,
        )

    # -- ending --------------------------------------------------------------------------------------------------

    async def drain(self, timeout: float | None = None) -> None:
        """Close the pool once its users have left: ``close`` with 1000."""
        await self.close(timeout=timeout)

    async def close(self, code: int = 1000, reason: str = "", *, timeout: float | None = None) -> None:
        """Close the pool, and wait until everything is closed.

        Nothing is given any more, and who waits is told so by ``PoolClosed``. Users have ``timeout`` seconds to leave
        (None: ``drain_timeout``; ``math.inf``: no limit); then every connection is closed with ``code`` and ``reason``,
        which takes ``close_timeout`` at most. Calling it again can only shorten the time. When it is cancelled, all
        that is left is dropped without a closing handshake. Raises ``ValueError`` for a code that cannot be sent,
        ``RuntimeError`` in ``setup``.
        """
        check_number("timeout", timeout, least=0, optional=True)
        if not valid_close_code(code):
            raise ValueError(f"close code must be 1000-1003, 1007-1014 or 3000-4999, not {code}")
        if asyncio.current_task() in self._running:
            raise RuntimeError("a pool cannot be closed by its setup, or by what gives the URI: it waits for them")
        seconds = self._drain_timeout if timeout is None else timeout
        self._closing = True
        cut_off = self._tally.cut_off
        for slot in tuple(self._running.values()):
            slot.retire(code, reason, seconds)
        self._changed()
        try:
            while self._running:
                await asyncio.wait(tuple(self._running))
        except asyncio.CancelledError:
            await self._abort()
            raise
        if self._tally.cut_off > cut_off:
            self._logger.warning("pool: closed while %d users were left", self._tally.cut_off - cut_off)

    async def _abort(self) -> None:
        """Drop everything."""
        self._closing = True
        self._changed()
        for slot in tuple(self._running.values()):
            slot.abort()
        if self._running:
            await asyncio.wait(tuple(self._running))


def _usefulness(slot: Slot) -> tuple[bool, int, bool]:
    """What is worth keeping comes last: a connection with users, one that is ready, one that is about to be."""
    pooled = slot.usable
    return pooled is not None, 0 if pooled is None else pooled.users, slot.state is SlotState.CONNECTING


def _first_cause(failure: ReconnectFailed) -> ConnectError:
    reason = failure.reason
    return reason if isinstance(reason, ConnectError) else failure


def _check_choices(checkout: object, exclusive: object, reset_on_error: object, setup: object, policy: object) -> None:
    if checkout not in ("least_loaded", "round_robin"):
        raise ValueError(f'checkout must be "least_loaded" or "round_robin", not {checkout!r}')
    if not isinstance(exclusive, bool):
        raise TypeError(f"exclusive must be True or False, not {exclusive!r}")
    if reset_on_error is not None and not isinstance(reset_on_error, bool):
        raise TypeError(f"reset_on_error must be True, False or None, not {reset_on_error!r}")
    if setup is not None and not callable(setup):
        raise TypeError(f"setup must be a function or None, not {setup!r}")
    if not isinstance(policy, ReconnectPolicy):
        raise TypeError(f"policy must be a taut.ReconnectPolicy, not {policy!r}")
