"""How often a peer takes less than is sent to it: for how long, and how much has piled up.

There is a ``Stall`` from the first time on that a transport is over its limit; other connections have none.  While it
lasts the transport only drains and the outbox only fills, so that looking at both ends of it finds the most there was.
"""

from __future__ import annotations

__all__ = ["Stall"]


class Stall:
    """The time (seconds) and the most bytes of all stalls of a connection, of which one may be going on."""

    __slots__ = ("_peak", "_since", "_total")

    def __init__(self) -> None:
        self._peak = 0
        self._since: float | None = None
        self._total = 0.0

    def begin(self, unsent: int, now: float) -> None:
        """So much is unsent now, and nothing more is taken."""
        self._peak = max(self._peak, unsent)
        if self._since is None:
            self._since = now

    def end(self, unsent: int, now: float) -> None:
        """More is taken, or the connection is lost; so much is unsent still. Without a stall it does nothing."""
        if self._since is not None:
            self._peak, self._total = self.so_far(unsent, now)
            self._since = None

    def so_far(self, unsent: int, now: float) -> tuple[int, float]:
        """The most bytes, and the time, up to now."""
        if self._since is None:
            return self._peak, self._total
        return max(self._peak, unsent), self._total + now - self._since
