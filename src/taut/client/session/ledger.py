"""The books of a session: what has happened so far, and which messages were lost, or may be.

The counters of a connection are added when it is over. A message that was sent on it counts as arrived once the peer is
known to have received it (``Stats.messages_confirmed``); of all others it is not known, and that is reported.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

from ...connection import Stats
from ...types import Data
from ..outbox.outbox import Loss

__all__ = ["Ledger"]


class Ledger:
    """``told`` is called with every ``Loss``, after it was counted and logged."""

    def __init__(self, logger: logging.Logger, told: Callable[[Loss], None]) -> None:
        self._logger = logger
        self._told = told
        self.counts: Counter[str] = Counter()
        """By the names of ``SessionStats``."""
        self.losses: Counter[str] = Counter()
        """Messages, by the kind of ``Loss``."""

    def totals(self, current: Stats | None) -> Counter[str]:
        """The counters, those of the current connection included."""
        counts = self.counts.copy()
        if current is not None:
            _add(counts, current)
        return counts

    def connection_over(self, stats: Stats) -> None:
        """Add up what was on a connection."""
        _add(self.counts, stats)

    def unconfirmed(self, before: Stats, stats: Stats) -> None:
        """Report what may be lost of what was sent on a connection; ``before``: when it was ready to be used."""
        count = stats.messages_sent - max(stats.messages_confirmed, before.messages_sent)
        count += stats.messages_dropped - before.messages_dropped  # they had been taken, and never left
        size = stats.bytes_sent - before.bytes_sent + stats.bytes_dropped - before.bytes_dropped
        if count > 0:
            self.lost(Loss("unconfirmed", count, size))

    def unread(self, messages: tuple[Data, ...]) -> None:
        """Report what arrived, and was given up because nobody received it."""
        if messages:
            self.lost(Loss("unread", len(messages), sum(len(message) for message in messages), messages))

    def lost(self, loss: Loss) -> None:
        """Count it, log it, tell of it."""
        self.losses[loss.kind] += loss.count
        self._logger.warning("session: %d messages %s (%d bytes)", loss.count, loss.kind.replace("_", " "), loss.size)
        self._told(loss)


def _add(counts: Counter[str], stats: Stats) -> None:
    counts["messages_received"] += stats.messages_received
    counts["messages_sent"] += stats.messages_sent
    counts["bytes_received"] += stats.bytes_received
    counts["bytes_sent"] += stats.bytes_sent
