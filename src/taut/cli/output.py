"""Writing to stdout and stderr without holding up the event loop.

A reader that pauses, a pager for example, fills the pipe, and the next write waits.  It must not wait in the thread of
the event loop, or nobody would answer the server's pings: what does not fit is written by a thread, a daemon, so that
the process can end while it waits.  One task writes to stdout at a time, so the order is that of the calls.
"""

from __future__ import annotations

import asyncio
import os
import select
import stat
import sys
import threading
from contextlib import suppress

__all__ = ["Streams"]


class Streams:
    """Where messages and notes go while there is no prompt."""

    def __init__(self) -> None:
        self._descriptor = sys.stdout.fileno()
        self._never_waits = stat.S_ISREG(os.fstat(self._descriptor).st_mode)

    async def show(self, text: str) -> None:
        """Print text on stdout, with a line end. Raises ``BrokenPipeError`` when nobody reads it any more."""
        await self.write(f"{text}\n".encode(sys.stdout.encoding, "backslashreplace"))

    def note(self, text: str) -> None:
        """Print one line on stderr."""
        print(f"{text}\n", end="", file=sys.stderr, flush=True)

    async def write(self, data: bytes) -> None:
        """Write to stdout. When it is cancelled, a part may be written, now or later."""
        rest = memoryview(data)
        while rest and (self._never_waits or self._has_room()):
            # A pipe with room takes this much without waiting.
            rest = rest[os.write(self._descriptor, rest if self._never_waits else rest[: select.PIPE_BUF]) :]
        if rest:
            await self._write_in_thread(rest)

    def _has_room(self) -> bool:
        return bool(select.select([], [self._descriptor], [], 0)[1])

    async def _write_in_thread(self, rest: memoryview) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def tell(problem: OSError | None) -> None:
            if done.done():
                return
            if problem is None:
                done.set_result(None)
            else:
                done.set_exception(problem)

        def write() -> None:
            problem: OSError | None = None
            left = rest
            try:
                while left:
                    left = left[os.write(self._descriptor, left) :]
            except OSError as exc:
                problem = exc
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(tell, problem)

        threading.Thread(target=write, name="taut-stdout", daemon=True).start()
        await done
