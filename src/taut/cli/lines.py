"""The standard input, cut into messages: lines, blocks, or one whole.

It is read in a thread of its own, because a terminal, a pipe and a file must all work, and no event loop can wait for a
file.  The thread is a daemon: when the connection ends while it waits for input, the process ends all the same.  It
reads at most ``_AHEAD`` pieces ahead of what has been sent.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TypeAlias

__all__ = ["Cut", "StandardInput", "blocks", "lines", "whole"]

_AHEAD = 64
_BLOCK = 1 << 16

Cut: TypeAlias = Callable[[int], Iterator[bytes]]
"""Reads a descriptor to its end."""


def lines(descriptor: int) -> Iterator[bytes]:
    """The lines, without their ends (LF or CR LF)."""
    # A stream of its own: the thread may hold the lock of sys.stdin when the interpreter ends.
    with open(descriptor, "rb", closefd=False) as stream:
        for line in stream:
            yield line.removesuffix(b"\n").removesuffix(b"\r")


def blocks(descriptor: int) -> Iterator[bytes]:
    """What can be read at once, at most 64 KiB."""
    while block := os.read(descriptor, _BLOCK):
        yield block


def whole(descriptor: int) -> Iterator[bytes]:
    """Everything; nothing at all if there is nothing to read."""
    with open(descriptor, "rb", closefd=False) as stream:
        if content := stream.read():
            yield content


class StandardInput:
    """The pieces of stdin, as ``cut`` makes them."""

    def __init__(self, cut: Cut, *, typed: bool) -> None:
        self.typed = typed
        self._cut = cut
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | OSError | None] = asyncio.Queue()
        self._room = threading.Semaphore(_AHEAD)
        threading.Thread(target=self._read, name="taut-stdin", daemon=True).start()

    async def next(self) -> bytes | None:
        """The next piece, None at the end of the input. Raises ``OSError`` when it cannot be read."""
        piece = await self._queue.get()
        self._room.release()
        if isinstance(piece, OSError):
            raise piece
        return piece

    def _read(self) -> None:
        try:
            try:
                for piece in self._cut(sys.stdin.fileno()):
                    self._put(piece)
                self._put(None)
            except OSError as exc:
                self._put(exc)
        except RuntimeError:
            pass  # the loop is closed: nobody wants another piece

    def _put(self, piece: bytes | OSError | None) -> None:
        self._room.acquire()
        self._loop.call_soon_threadsafe(self._queue.put_nowait, piece)
