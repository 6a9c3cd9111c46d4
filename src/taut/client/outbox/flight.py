"""What was sent and is to be acknowledged: the entries in flight, and those that were until the line dropped.

An entry is kept here from its first sending until it is acknowledged, or dropped while it waits to be sent again; an
acknowledgement of the first sending that comes late ends it all the same.  Entries are sent in the order of their
serial numbers, and so they are kept, together and by key.
"""

from __future__ import annotations

import enum
from collections import OrderedDict, deque
from collections.abc import Hashable
from dataclasses import dataclass

from ...types import Data

__all__ = ["Entry", "Flight", "Stage"]


class Stage(enum.Enum):
    """Where an entry stands."""

    WAITING = "waiting"
    """To be sent, for the first time or again."""
    IN_FLIGHT = "in flight"
    """Sent, and to be acknowledged."""
    ENDED = "ended"
    """Sent and done, acknowledged, or dropped."""


@dataclass(slots=True, eq=False)
class Entry:
    """A message on its way, of ``size`` bytes; ``key`` will acknowledge it; ``serial``: its place among all."""

    message: Data
    size: int
    key: Hashable | None
    serial: int = 0
    stage: Stage = Stage.WAITING
    tried: bool = False
    """Sent at least once, and to be acknowledged."""


class Flight:
    """The entries that were sent at least once and are to be acknowledged."""

    def __init__(self) -> None:
        self.count = 0  # of those in flight
        self._entries: OrderedDict[int, Entry] = OrderedDict()  # by serial
        self._by_key: dict[Hashable, deque[Entry]] = {}

    def add(self, entry: Entry) -> None:
        """``entry`` was sent, for the first time or again."""
        entry.stage = Stage.IN_FLIGHT
        self.count += 1
        if not entry.tried:
            entry.tried = True
            self._entries[entry.serial] = entry
            self._by_key.setdefault(entry.key, deque()).append(entry)

    def acknowledged(self, key: Hashable, cumulative: bool) -> list[Entry]:
        """The entries that ``key`` acknowledges, oldest first: the oldest of that key, or all up to the last of it."""
        known = self._by_key.get(key)
        if known is None:
            return []
        if not cumulative:
            return [known[0]]
        last = known[-1]
        found: list[Entry] = []
        for entry in self._entries.values():
            found.append(entry)
            if entry is last:
                break
        return found

    def forget(self, entry: Entry) -> None:
        """``entry`` is acknowledged, or dropped."""
        del self._entries[entry.serial]
        same = self._by_key[entry.key]
        same.remove(entry)
        if not same:
            del self._by_key[entry.key]
        if entry.stage is Stage.IN_FLIGHT:
            self.count -= 1

    def entries(self) -> list[Entry]:
        """Those in flight, in the order in which they were sent."""
        return [entry for entry in self._entries.values() if entry.stage is Stage.IN_FLIGHT]

    def rewind(self) -> list[Entry]:
        """Those in flight, in order; they wait again."""
        again = self.entries()
        for entry in again:
            entry.stage = Stage.WAITING
        self.count = 0
        return again
