"""The one thread that works for all blocking connections of a process while no call is in progress.

It runs an event loop.  There connections are opened, with the same code as those of asyncio; there the keepalive sweep
runs; and there the sockets of connections are watched that nobody is reading from.  Which these are is not tracked
call by call: ``BlockingDriver.survey`` says it whenever a connection is looked at, which is when its calls ask for it,
when its socket has news, when one of its deadlines has passed, and, while it is in use, ten times a second.

The thread starts with the first opening and ends a moment after the last connection.  ``_lock`` guards who is there;
everything else happens on the loop.  At the exit of the interpreter what is still open is dropped.  In a forked child
there is no such thread: the parent's connections are closed there, without a word to the peer, and the next opening
starts a thread of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar, cast

from .blocking import GONE, LOOK_AGAIN, WATCH_INPUT, WATCH_OUTPUT, BlockingDriver
from .keepalive import unwatch, watch
from .waiting import Keeper, immortal

__all__ = ["Background", "background", "connections_kept"]

_SWEEP = 0.1
"""How often a connection in use is looked at (seconds)."""
_LINGER = 0.5
"""How long the thread stays when it has nothing to do (seconds)."""
_EXIT = 2.0
"""How long the exit of the interpreter waits for it (seconds)."""

T = TypeVar("T")


class Background:
    """The thread, its loop, and the connections it looks after."""

    def __init__(self) -> None:
        self.loop = asyncio.SelectorEventLoop()
        self.loop.slow_callback_duration = math.inf  # they wait for busy connections: nothing to warn of in debug mode
        self.keeper = Keeper()
        self.users = 0
        self.thread = threading.Thread(target=self._run, name="taut-sync", daemon=True)
        self._kept: dict[BlockingDriver, _Kept] = {}
        self._in_use: set[BlockingDriver] = set()
        self._exiting = False
        self._sweep_timer: asyncio.TimerHandle | None = None

    def _run(self) -> None:
        if hasattr(signal, "pthread_sigmask"):
            # A signal must interrupt the main thread, which may be waiting in a call, and not this one.
            signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        asyncio.set_event_loop(self.loop)
        self.loop.add_reader(self.keeper.sock, self._called)
        try:
            self.loop.run_forever()
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self.loop.run_until_complete(asyncio.wait(tasks, timeout=_EXIT))
        finally:
            self.loop.remove_reader(self.keeper.sock)
            self.keeper.close()
            self.loop.close()

    # -- openings ----------------------------------------------------------------------------------------------

    def run(self, coroutine: Coroutine[Any, Any, T], discard: Callable[[T], object]) -> T:
        """Run ``coroutine`` on the loop and wait for its result.

        An exception that a signal handler raises meanwhile (Ctrl-C) cancels it; a result that came too late for it is
        handed to ``discard``.
        """
        call = _Call(self.loop, coroutine, discard)
        try:
            self.loop.call_soon_threadsafe(call.start)
            # In turns, because a signal that arrives just before a wait does not end it.
            while not call.done.wait(1.0):
                pass
            return call.result()
        except BaseException:
            self.loop.call_soon_threadsafe(call.abandon)
            raise

    def release(self) -> None:
        """Undo ``background()``."""
        with _state.lock:
            self.users -= 1
            if self.users == 0 and not self.loop.is_closed():
                self.loop.call_soon_threadsafe(self.loop.call_later, _LINGER, self._stop_if_idle)

    def _stop_if_idle(self) -> None:
        with _state.lock:
            if self.users == 0:
                if _state.current is self:
                    _state.current = None
                self.loop.stop()

    @property
    def kept(self) -> int:
        """How many connections it looks after."""
        return len(self._kept)

    # -- connections -------------------------------------------------------------------------------------------

    def _called(self) -> None:
        for connection in cast("Sequence[BlockingDriver]", self.keeper.take()):
            self._look(connection)

    def _sweep(self) -> None:
        self._sweep_timer = None
        connections, self._in_use = self._in_use, set()
        for connection in connections:
            self._look(connection)

    def _look(self, connection: BlockingDriver) -> None:
        """Do, and watch, what is due for this connection."""
        wishes, when = connection.survey(time.monotonic())
        kept = self._kept.get(connection)
        if kept is None:
            if connection.is_gone:
                return
            kept = self._kept[connection] = _Kept(self.loop, connection, self._look)
            watch(self.loop, connection, connection.session.options)
        kept.update(bool(wishes & WATCH_INPUT), bool(wishes & WATCH_OUTPUT), when)
        if wishes & LOOK_AGAIN:
            self._in_use.add(connection)
            if self._sweep_timer is None:
                self._sweep_timer = self.loop.call_later(_SWEEP, self._sweep)
        if wishes & GONE:
            self._end(connection)

    def _end(self, connection: BlockingDriver) -> None:
        """Nobody uses the connection any more."""
        del self._kept[connection]
        self._in_use.discard(connection)
        unwatch(self.loop, connection, connection.session.options)
        try:
            connection.finish()
        except Exception as exc:
            self.loop.call_exception_handler({"message": "a connection could not be closed", "exception": exc})
        if self._exiting and not self._kept:
            self.loop.stop()
        self.release()

    # -- the end of the process --------------------------------------------------------------------------------

    def drop_all(self) -> None:
        """The interpreter exits: end what is open, with a word to the peers, and then the thread."""
        self.loop.call_soon_threadsafe(self._drop_all)
        self.thread.join(_EXIT)

    def _drop_all(self) -> None:
        self._called()  # so that those opened a moment ago are known
        for connection in list(self._kept):
            connection.go_away()
        self._exiting = True
        self.loop.call_later(_EXIT / 2 if self._kept else 0.0, self.loop.stop)

    def forget(self) -> None:
        """The process was forked, and this is the child: all of this is the parent's."""
        immortal(self)
        for connection in {*self._kept, *cast("Sequence[BlockingDriver]", self.keeper.called)}:
            connection.forget()
        self.keeper.close()


class _Kept:
    """What the loop does for one connection."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, connection: BlockingDriver, look: Callable[[BlockingDriver], None]
    ) -> None:
        self._loop = loop
        self._connection = connection
        self._look = look
        self._fd = connection.descriptor
        self._reading = self._writing = False
        self._timer: asyncio.TimerHandle | None = None

    def update(self, read: bool, write: bool, when: float | None) -> None:
        if read != self._reading:
            self._reading = read
            if read:
                self._loop.add_reader(self._fd, self._readable)
            else:
                self._loop.remove_reader(self._fd)
        if write != self._writing:
            self._writing = write
            if write:
                self._loop.add_writer(self._fd, self._writable)
            else:
                self._loop.remove_writer(self._fd)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if when is None else self._loop.call_at(when, self._look, self._connection)

    def _readable(self) -> None:
        if not self._connection.input_ready():
            self._look(self._connection)

    def _writable(self) -> None:
        if not self._connection.output_ready():
            self._look(self._connection)


class _Call(Generic[T]):
    """A coroutine that another thread waits for. Everything but the wait happens on the loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T], discard: Callable[[T], object]
    ) -> None:
        self.done = threading.Event()
        self._loop = loop
        self._coroutine = coroutine
        self._discard = discard
        self._wanted = True
        self._task: asyncio.Task[T] | None = None

    def start(self) -> None:
        self._task = self._loop.create_task(self._coroutine)
        self._task.add_done_callback(self._completed)

    def _completed(self, task: asyncio.Task[T]) -> None:
        if not self._wanted:
            self._throw_away(task)
        self.done.set()

    def abandon(self) -> None:
        """The caller was interrupted, or has been given the exception that the coroutine raised."""
        self._wanted = False
        task = self._task
        if task is None:
            self._coroutine.close()
        elif task.done():
            self._throw_away(task)
        else:
            task.cancel()

    def _throw_away(self, task: asyncio.Task[T]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._discard(task.result())

    def result(self) -> T:
        assert self._task is not None  # it is done
        try:
            return self._task.result()
        finally:
            self._task = None if self._task.exception() is not None else self._task


class _State:
    """Which thread there is."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a signal handler may open a connection
        self.current: Background | None = None
        self.exiting = False


_state = _State()


def background() -> Background:
    """The thread of this process, started if there is none; it stays until ``release``."""
    with _state.lock:
        if _state.exiting:
            raise RuntimeError("no connection can be opened while the interpreter exits")
        if _state.current is None:
            _state.current = Background()
            _state.current.thread.start()
        _state.current.users += 1
        return _state.current


def connections_kept() -> int:
    """How many connections there is something to do for; for tests."""
    current = _state.current
    return 0 if current is None else current.kept


def _exit() -> None:
    with _state.lock:
        current, _state.current = _state.current, None
        _state.exiting = True
    if current is not None:
        current.drop_all()


def _forked() -> None:
    current = _state.current
    _state.lock = threading.RLock()
    _state.current = None
    if current is not None:
        current.forget()


atexit.register(_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
