"""The process above the workers: it starts them, replaces them, and ends with them.

It owns the listening sockets and serves nobody itself, so that nothing a client sends can harm it.  It is driven by
signals and by what happens to workers, a step at a time, on asyncio's own event loop:

- at the start one worker goes first.  Only when it serves do the others follow: an application that cannot be loaded
  says so once, and not once for each worker.  If none ever serves, the supervisor gives up;
- a worker that ends unasked is started again, at once if it had served well for a while, else with a delay that doubles
  up to ``LONGEST_DELAY``; this never ends, for whatever it is may pass;
- SIGHUP replaces worker by worker: the old one is told to drain only when the new one serves on the same sockets.  If
  a new one does not get ready, what is left of the old ones stays;
- SIGTERM and SIGINT drain all workers, a second one lets them close at once, a third one kills them.

What must never happen: a process that outlives the supervisor (each worker holds a lifeline), two workers that serve
the same place for longer than a replacement takes, a worker started after the end has begun.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..server.server import Server
from .binding import Binding
from .child import Child, ChildState
from .loading import LoadError, StartError
from .metrics import Totals, showing
from .notify import Notifier
from .plan import Plan

__all__ = ["FIRST_DELAY", "LONGEST_DELAY", "TRIES", "Supervisor"]

FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
"""How long a worker that keeps ending is waited with, at most (seconds)."""
TRIES = 4
"""How many times the first worker of all is tried."""
_PATIENCE = 5.0
"""How long a reload waits for a worker to leave its sockets (seconds)."""
_WELL = 10.0
"""A worker that has served for this long was well (seconds)."""


class _Slot:
    """The place of one worker: who has it, who is to have it, and how often it has been left lately."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.child: Child | None = None
        self.successor: Child | None = None
        self.failures = 0
        self.timer: asyncio.TimerHandle | None = None


class Supervisor:
    """Workers, as many as the binding has places for."""

    def __init__(self, plan: Plan, binding: Binding, notifier: Notifier, announce: Callable[[], None]) -> None:
        self.logger = logging.getLogger("taut.workers")
        self._plan = plan
        self._binding = binding
        self._notifier = notifier
        self._announce = announce
        self._totals = Totals()
        self._slots = [_Slot(number) for number in range(len(binding.slots))]
        self._children: set[Child] = set()
        self._has_served = False
        self._is_up = False
        self._stopping = False
        self._stops = 0
        self._reloading: asyncio.Task[None] | None = None
        self._reload_again = False

    async def run(self) -> None:
        """Supervise until a signal ends it. Raises ``StartError`` when no worker ever serves."""
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = loop.create_future()
        self._changed = asyncio.Event()
        handled = {
            signal.SIGCHLD: self._look,
            signal.SIGTERM: self.stop,
            signal.SIGINT: self.stop,
            signal.SIGHUP: self.reload,
            signal.SIGUSR1: lambda: self._pass_on(signal.SIGUSR1),
            signal.SIGUSR2: lambda: self._pass_on(signal.SIGHUP),
        }
        for number, action in handled.items():
            loop.add_signal_handler(number, action)
        try:
            async with showing(self._binding.metrics, self._count, lambda: self._is_serving):
                self._start(self._slots[0])
                await self._ended
        finally:
            for number in handled:
                loop.remove_signal_handler(number)
            if self._reloading is not None:
                self._reloading.cancel()
            for slot in self._slots:
                if slot.timer is not None:
                    slot.timer.cancel()
            for child in list(self._children):
                child.close()

    # -- starting ----------------------------------------------------------------------------------------------

    def _spawn(self, slot: _Slot) -> Child:
        self._binding.renew(slot.number)
        child = Child(slot.number, self._plan, self._binding.slots[slot.number], self._child_changed)
        self._children.add(child)
        return child

    def _start(self, slot: _Slot) -> None:
        slot.timer = None
        try:
            slot.child = self._spawn(slot)
        except OSError as exc:
            if not self._has_served:
                self._end_with(StartError(f"no process can be started: {exc}"))
                return
            self.logger.error("worker %d cannot be started: %s", slot.number, exc)
            self._start_later(slot)

    def _start_later(self, slot: _Slot) -> None:
        """Start the next worker of this place, the later the more have failed there in a row."""
        slot.child = None
        slot.failures += 1
        delay = 0.0 if slot.failures == 1 else min(FIRST_DELAY * 2.0 ** (slot.failures - 2), LONGEST_DELAY)
        slot.timer = asyncio.get_running_loop().call_later(delay, self._start, slot)
        if delay:
            self._binding.vacate(slot.number)
            self.logger.warning("worker %d starts again in %g s", slot.number, delay)

    # -- what happens to workers -------------------------------------------------------------------------------

    def _look(self) -> None:
        for child in list(self._children):
            child.look()

    def _child_changed(self, child: Child) -> None:
        self._changed.set()
        slot = self._slots[child.number]
        if child.state is ChildState.SERVING:
            self._serves(slot, child)
        elif child.state is ChildState.ENDING:
            if child is slot.child and not self._stopping:
                self._left(slot, child)  # somebody else has told it to drain
        elif child.state is ChildState.ENDED:
            self._children.discard(child)
            self._totals.ended(child)
            if self._stopping:
                self._end_if_done()
            elif child is slot.child:
                self._left(slot, child)
            elif child is not slot.successor:
                self.logger.info("worker %d (%d), replaced, %s", child.number, child.pid, child.ending)

    def _serves(self, slot: _Slot, child: Child) -> None:
        self.logger.info("worker %d (%d) serves", child.number, child.pid)
        if not self._has_served:
            self._has_served = True
            for other in self._slots[1:]:
                self._start(other)
        if not self._is_up and all(each.child and each.child.state is ChildState.SERVING for each in self._slots):
            self._is_up = True
            self._notifier.ready(self._status())
            self._announce()
            if self._reload_again:
                self.reload()

    def _left(self, slot: _Slot, child: Child) -> None:
        """A worker has ended although nobody told it to."""
        if not self._has_served:
            if child.problem is not None:
                self._end_with(LoadError(child.problem))
                return
            if child.unfit or slot.failures + 1 >= TRIES:
                self._end_with(StartError(f"no worker has ever served, the last one {child.ending}"))
                return
        why = f": {child.problem}" if child.problem else ""
        self.logger.error("worker %d (%d) %s%s", child.number, child.pid, child.ending, why)
        self._totals.exits += 1
        if child.ready_at is not None and asyncio.get_running_loop().time() - child.ready_at >= _WELL:
            slot.failures = 0
        if slot.successor is None:
            self._start_later(slot)
        else:
            slot.child = None  # its successor is on its way

    async def _count(self, _server: Server) -> dict[str, Any]:
        return await self._totals.take(self._children)

    @property
    def _is_serving(self) -> bool:
        """Whether somebody takes new connections."""
        return not self._stopping and any(child.state is ChildState.SERVING for child in self._children)

    def _status(self) -> str:
        serving = sum(child.state is ChildState.SERVING for child in self._children)
        return f"{serving} of {len(self._slots)} workers serve {self._plan.app}"

    # -- signals -----------------------------------------------------------------------------------------------

    def _pass_on(self, number: signal.Signals) -> None:
        for child in self._children:
            child.signal(number)

    def stop(self) -> None:
        """Drain all workers; the second time let them close at once, the third time kill them."""
        self._stops += 1
        if self._stops == 2:
            self._pass_on(signal.SIGQUIT)
        elif self._stops > 2:
            self.logger.warning("killing %d workers", len(self._children))
            for child in self._children:
                child.kill()
        if self._stops > 1:
            return
        self._stopping = True
        self._notifier.stopping()
        self._binding.close()
        for slot in self._slots:
            if slot.timer is not None:
                slot.timer.cancel()
        for child in list(self._children):
            child.drain(replaced=self._binding.inherited)
        self._end_if_done()

    def _end_if_done(self) -> None:
        if not self._children:
            self._end_with(None)

    def _end_with(self, failure: Exception | None) -> None:
        if not self._ended.done():
            if failure is None:
                self._ended.set_result(None)
            else:
                self._ended.set_exception(failure)

    def reload(self) -> None:
        """Replace all workers, one after the other; again afterwards if they are being replaced already."""
        if self._stopping:
            return
        if self._reloading is not None or not self._has_served:
            self._reload_again = True
            return
        self._reload_again = False
        self._reloading = asyncio.get_running_loop().create_task(self._replace_all())
        self._reloading.add_done_callback(self._reloaded)

    def _reloaded(self, task: asyncio.Task[None]) -> None:
        self._reloading = None
        if not task.cancelled() and (failure := task.exception()) is not None:
            self.logger.error("reloading failed", exc_info=failure)
        if self._reload_again:
            self.reload()

    async def _replace_all(self) -> None:
        self.logger.info("reloading %d workers", len(self._slots))
        self._notifier.reloading()
        for slot in self._slots:
            if not await self._replace(slot):
                break
        else:
            self.logger.info("reloaded")
        if not self._stopping:
            self._notifier.ready(self._status())

    async def _wait_until_left(self, child: Child) -> None:
        """Wait until it accepts nothing more, so that whoever comes after a reload finds what is new."""
        with suppress(TimeoutError):  # its event loop is blocked
            async with asyncio.timeout(_PATIENCE):
                while not child.has_left and child.state is not ChildState.ENDED:
                    self._changed.clear()
                    await self._changed.wait()

    async def _replace(self, slot: _Slot) -> bool:
        """Put a new worker in this place: whether it serves."""
        if slot.timer is not None:
            slot.timer.cancel()
            slot.timer = None
        try:
            successor = slot.successor = self._spawn(slot)
        except OSError as exc:
            self.logger.error("the old workers stay: no process can be started: %s", exc)
            return False
        finally:
            if slot.child is None and slot.successor is None:
                self._start_later(slot)
        while successor.state is ChildState.STARTING:
            self._changed.clear()
            await self._changed.wait()
        slot.successor = None
        if self._stopping:
            return False
        if successor.state is not ChildState.SERVING:
            why = f": {successor.problem}" if successor.problem else ""
            self.logger.error("the old workers stay: the new one, %d, %s%s", successor.pid, successor.ending, why)
            if slot.child is None:
                self._start_later(slot)
            return False
        old, slot.child, slot.failures = slot.child, successor, 0
        if old is not None:
            old.drain(replaced=True)
            await self._wait_until_left(old)
        return True
