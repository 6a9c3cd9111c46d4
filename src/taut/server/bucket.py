"""A token bucket: so many a second, and a few seconds' worth at once."""

from __future__ import annotations

__all__ = ["BURST", "TokenBucket"]

BURST = 5.0
"""How many seconds' worth may come at once."""


class TokenBucket:
    """Full at first. Times are of any clock that does not go backwards (seconds)."""

    __slots__ = ("_filled_at", "_rate", "_size", "_tokens")

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._tokens = self._size = max(rate * BURST, 1.0)
        self._filled_at = now

    def take(self, now: float) -> bool:
        """Take one token, if there is one."""
        self._tokens = min(self._tokens + (now - self._filled_at) * self._rate, self._size)
        self._filled_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
