"""What arrives on the connections of a session, in order: all of one connection before anything of the next.

``Arrivals`` reads from the connections themselves, one after the other: a connection that has ended stays at the head
of the line until its last message is taken.  Without acknowledgements that is all, and a message is not touched on its
way. With them, ``AcknowledgedArrivals`` reads in a task of its own, so that acknowledgements are noticed although
nobody receives, and keeps what is none for the receiver.

Both are bounded in bytes.  A peer that is not read from is held back by its connection; connections that have ended
with unread messages, one after the other while nobody receives, give up their oldest, which is told.  No message is
lost because a receiver is cancelled: it is taken in the same step in which it is returned.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable

from ...connection import Connection
from ...errors import ConcurrencyError, ConnectionClosed
from ...types import Data
from ..outbox.outbox import Ack

__all__ = ["AcknowledgedArrivals", "Arrivals", "Finished"]

_OVERHEAD = 64
"""What a message takes besides its contents, about (bytes)."""


class Finished(Exception):
    """Nothing more will arrive."""


class Arrivals:
    """``limit``: how many bytes connections that ended may hold; ``discarded(messages)`` is told what exceeds that."""

    def __init__(self, limit: int, discarded: Callable[[tuple[Data, ...]], None]) -> None:
        self._limit = limit
        self._discarded = discarded
        self._line: deque[Connection] = deque()
        self._receiving = False
        self._finished = False
        self._news: asyncio.Future[None] | None = None

    def begin(self, connection: Connection) -> None:
        """This connection is next."""
        self._line.append(connection)
        self._wake()

    async def ended(self, connection: Connection) -> None:
        """The connection is lost; what it has received can still be taken."""
        if self._receiving:
            return  # whoever receives comes to its end himself
        self._line = deque(
            each for each in self._line if each.stats.unread or (each is not connection and not each.closed)
        )
        while len(self._line) > 1 and sum(each.stats.unread for each in self._line) > self._limit:
            await self._discard(self._line.popleft())

    def finish(self) -> None:
        """No other connection will come."""
        self._finished = True
        self._wake()

    async def receive(self) -> Data:
        """The next message. Raises ``Finished``; ``ConcurrencyError`` if another task is receiving."""
        if self._receiving:
            raise ConcurrencyError("recv")
        self._receiving = True
        try:
            while True:
                while self._line:
                    connection = self._line[0]
                    try:
                        return await connection.recv()
                    except ConnectionClosed:
                        self._line.popleft()
                if self._finished:
                    raise Finished
                self._news = asyncio.get_running_loop().create_future()
                await self._news
        finally:
            self._receiving = False
            self._news = None

    async def _discard(self, connection: Connection) -> None:
        messages: list[Data] = []
        try:
            while True:
                messages.append(await connection.recv())
        except ConnectionClosed:
            pass
        finally:
            self._discarded(tuple(messages))

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


class AcknowledgedArrivals:
    """Takes what arrives apart: acknowledgements, which it passes on, and messages, which it keeps for ``receive``.

    ``run`` is the task that does it. ``limit``: how many bytes of messages it keeps before it stops reading.
    """

    def __init__(self, arrivals: Arrivals, ack: Ack, acknowledge: Callable[[Hashable], object], limit: int) -> None:
        self._arrivals = arrivals
        self._ack = ack
        self._acknowledge = acknowledge
        self._limit = limit
        self._inbox: deque[Data] = deque()
        self._size = 0
        self._ended = False
        self._flushing = False
        self._news: asyncio.Future[None] | None = None  # for the receiver
        self._room: asyncio.Future[None] | None = None  # for the task

    async def run(self) -> None:
        """Read until nothing more arrives. Raises what ``Ack.received`` raises."""
        try:
            while True:
                if self._size >= self._limit and not self._flushing:
                    self._room = asyncio.get_running_loop().create_future()
                    await self._room
                    continue
                self._sort(await self._arrivals.receive())
        except Finished:
            self.end()

    def end(self) -> None:
        """The task is over, or never was."""
        self._ended = True
        self._wake()

    def finish(self) -> None:
        """No other connection will come: what has arrived is read to the end, which is not much."""
        self._flushing = True
        self._arrivals.finish()
        self._make_room()

    async def receive(self) -> Data:
        """The next message. Raises ``Finished``; ``ConcurrencyError`` if another task is receiving."""
        if self._news is not None:
            raise ConcurrencyError("recv")
        while not self._inbox:
            if self._ended:
                raise Finished
            self._news = asyncio.get_running_loop().create_future()
            try:
                await self._news
            finally:
                self._news = None
        message = self._inbox.popleft()
        self._size -= len(message) + _OVERHEAD
        if self._size < self._limit:
            self._make_room()
        return message

    def _sort(self, message: Data) -> None:
        key = self._ack.received(message)
        if key is not None:
            self._acknowledge(key)
            if not self._ack.deliver:
                return
        self._inbox.append(message)
        self._size += len(message) + _OVERHEAD
        self._wake()

    def _make_room(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
