"""How much a queue may hold, and who waits for room in it: messages and bytes, granted in the order of asking.

Room that is granted belongs to whoever asked, from that moment on, although his task goes on only later: nobody can
take it meanwhile, and if he is cancelled he gives it back, and the next in line gets it.  Nobody overtakes: a small
message waits behind a large one, and a new one behind whoever has been granted room but has not gone on yet.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

__all__ = ["Room"]


class Room:
    """Room for ``max_messages`` messages and ``max_bytes`` bytes."""

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self.messages = 0
        self.bytes = 0
        self._line: OrderedDict[asyncio.Future[None], int] = OrderedDict()  # sizes
        self._granted = 0  # those who are about to go on
        self._until_empty: set[asyncio.Future[None]] = set()

    def missing(self, size: int) -> tuple[int, int]:
        """How many messages and bytes would have to go for one more message; nothing above 0 when it fits."""
        return self.messages + 1 - self._max_messages, self.bytes + size - self._max_bytes

    def fits(self, size: int) -> bool:
        """Whether there is room for one more message of that size."""
        messages, bytes_ = self.missing(size)
        return messages <= 0 and bytes_ <= 0

    def is_free(self, size: int) -> bool:
        """Whether ``wait`` would not wait."""
        return not self._line and not self._granted and self.fits(size)

    def take(self, size: int) -> None:
        """Take it, whether it is there or not."""
        self.messages += 1
        self.bytes += size

    def give_back(self, *sizes: int) -> None:
        """These messages are gone."""
        self.messages -= len(sizes)
        self.bytes -= sum(sizes)
        self._grant()

    async def wait(self, size: int) -> None:
        """Take room for a message of that size, once there is, in turn. Cancelled or refused, nothing is taken."""
        if self.is_free(size):
            self.take(size)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line[turn] = size
        try:
            await turn
        except BaseException:
            if self._line.pop(turn, None) is not None:
                self._grant()  # whoever is behind may need less
            elif not turn.cancelled() and turn.exception() is None:
                self._granted -= 1
                self.give_back(size)
            raise
        self._granted -= 1
        self._grant()  # there may have been room for whoever came meanwhile, and only let this one go first

    async def wait_until_empty(self) -> None:
        """Wait until nothing is held, and nobody waits for room. It can be cancelled."""
        while self.messages or self._line:
            empty: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._until_empty.add(empty)
            try:
                await empty
            finally:
                self._until_empty.discard(empty)

    def refuse(self, error: type[Exception]) -> None:
        """Raise ``error`` to everybody who waits here."""
        for future in (*self._line, *self._until_empty):
            if not future.done():
                future.set_exception(error())
        self._line.clear()

    def _grant(self) -> None:
        while self._line:
            turn, size = next(iter(self._line.items()))
            if not self.fits(size):
                break
            del self._line[turn]
            if not turn.done():  # else it was cancelled, and notices by itself
                self.take(size)
                self._granted += 1
                turn.set_result(None)
        if not self.messages and not self._line:
            for empty in self._until_empty:
                if not empty.done():
                    empty.set_result(None)
