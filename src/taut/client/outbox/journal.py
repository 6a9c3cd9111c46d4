"""The queue on disk, as the event loop sees it, which itself never waits for the disk.

One thread does all the work on the file, one batch at a time: everything that was asked for while the previous batch
was being written goes into the next, as one transaction (group commit), in the order in which it was asked for.  All
state here belongs to the event loop: the thread is given a batch, and gives back what became of it.

A removal that fails is kept and tried again with the next batch, at the latest on ``close``.  An append that fails is
its caller's; one that is cancelled is taken back, out of the batch that is to be written next, or out of the file.

What must never happen: that the thread or the lock on the file outlives ``close``, or an ``open`` that failed or was
cancelled.  Both wait for the thread in spite of a cancellation, and raise it then.  Without ``close``, the thread ends
when the journal is forgotten, or with the interpreter, after what it was given.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from ...errors import JournalError
from ...types import Data
from .journalfile import JournalFile, Row, Written

__all__ = ["Journal"]

T = TypeVar("T")


class _Batch:
    """What is written at once, and who waits for it."""

    __slots__ = ("appends", "removals", "waiters")

    def __init__(self) -> None:
        self.appends: dict[int, tuple[Data, asyncio.Future[None]]] = {}
        self.removals: list[int] = []
        self.waiters: list[asyncio.Future[None]] = []


class Journal:
    """The messages of a queue, in the file at ``path``."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = JournalFile(os.path.abspath(path))
        self._thread: ThreadPoolExecutor | None = None
        self._loop: asyncio.AbstractEventLoop
        self._process = 0
        self._batch = _Batch()  # to be written next
        self._wanted = False  # something was asked for since the last batch went to the thread
        self._busy = False  # a batch is with the thread, or goes there in this turn of the loop
        self._failure: BaseException | None = None  # why the last removals failed
        self._ended: asyncio.Future[None] | None = None  # close() waits for it

    async def open(self) -> list[Row]:
        """Open the file; what it holds, in order: serial, message, and its size in bytes.

        Raises ``JournalError`` if it cannot be used.  Cancelled, it is closed again first.
        """
        self._process = os.getpid()
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="taut-journal")
        opened: asyncio.Future[list[Row]] = self._loop.create_future()
        self._ask(self._thread, self._file.open, lambda rows, error: _settle(opened, rows, error))
        try:
            return await _outlast(opened)
        except BaseException:
            await self.close()
            raise

    async def append(self, serial: int, message: Data) -> None:
        """Append a message; it is in the file when this returns.

        Raises ``JournalError`` if it could not be written.  Cancelled, it is taken back.
        """
        if self._thread is None or self._ended is not None:
            raise RuntimeError("the journal is not open")
        if self._process != os.getpid():
            raise JournalError(self._file.path, "it was opened by another process, of which this one is a fork")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        batch = self._batch
        batch.appends[serial] = message, done
        self._want()
        try:
            await done
        except asyncio.CancelledError:
            if batch is self._batch:
                del batch.appends[serial]
            else:
                self.remove((serial,))
            raise

    def remove(self, serials: Iterable[int]) -> None:
        """Remove messages, soon; ``flush`` tells when, and whether that succeeded. Nothing once it is closed."""
        if self._thread is not None and self._process == os.getpid():
            self._batch.removals.extend(serials)
            self._want()

    async def flush(self) -> None:
        """Wait until the file has all that was asked for before; ``JournalError`` if not all could be removed."""
        if not self._busy and not self._batch.removals:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._batch.waiters.append(done)
        self._want()
        await done

    async def close(self) -> None:
        """Write what was asked for, close the file, end the thread; if this is cancelled, that is raised after it.

        Raises ``JournalError`` if not all could be removed: those messages will be there again the next time.
        """
        if self._thread is None or self._process != os.getpid():
            return
        if self._ended is None:
            self._ended = asyncio.get_running_loop().create_future()
            self._wanted = self._wanted or bool(self._batch.removals)  # those that failed, for the last time
            self._advance()
        await _outlast(self._ended)
        if self._batch.removals and self._failure is not None:
            raise self._failure

    def _want(self) -> None:
        self._wanted = True
        self._advance()

    def _advance(self) -> None:
        """Go on with what is to be done next, if the thread is free for it."""
        if self._busy or self._thread is None:
            return
        if self._wanted:
            self._busy = True
            self._loop.call_soon(self._write)  # along with what else this turn of the loop brings
        elif self._ended is not None:
            self._busy = True
            self._ask(self._thread, self._file.close, self._close)

    def _write(self) -> None:
        batch, self._batch = self._batch, _Batch()
        self._wanted = False
        appends = [(serial, message) for serial, (message, _) in batch.appends.items()]
        thread = self._thread
        if thread is not None:
            self._ask(
                thread,
                lambda: self._file.write(appends, batch.removals),
                lambda written, error: self._written(batch, written, error),
            )

    def _written(self, batch: _Batch, written: Written | None, error: BaseException | None) -> None:
        refused, failure = (dict.fromkeys(batch.appends, error), error) if written is None else written
        for serial, (_, done) in batch.appends.items():
            _settle(done, None, refused.get(serial))
        for waiter in batch.waiters:
            _settle(waiter, None, failure)
        if failure is not None:
            self._failure = failure
            self._batch.removals[:0] = batch.removals
        self._busy = False
        self._advance()

    def _ask(
        self, thread: ThreadPoolExecutor, work: Callable[[], T], then: Callable[[T | None, BaseException | None], None]
    ) -> None:
        """Have the thread do ``work``, and the loop hear what became of it: the result or the exception."""
        loop = self._loop

        def run() -> None:
            result = error = None
            try:
                result = work()
            except BaseException as raised:
                error = raised
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(then, result, error)

        thread.submit(run)

    def _close(self, _: None, error: BaseException | None) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.shutdown()  # nothing is left for it to do, so that this does not block
        if self._ended is not None:
            _settle(self._ended, None, error)


def _settle(future: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if future.done():  # cancelled
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


async def _outlast(future: asyncio.Future[T]) -> T:
    """The result of ``future``, which is waited for in spite of a cancellation; the latter is raised then."""
    cancelled = None
    while not future.done():
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        future.exception()  # the cancellation is what counts
        raise cancelled
    return future.result()
