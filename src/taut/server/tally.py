"""What a server has done so far: ``ServerStats``, and the counters that it is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ServerStats", "Tally"]


@dataclass(frozen=True, slots=True)
class ServerStats:
    """Counters of one server. ``connections``, ``handshakes``: there now; all others: since it was started.

    What became of opening handshakes, each counted once: ``accepted``, a connection was opened; ``refused``, by the
    status of the answer; ``timed_out``; ``failed``, the client left, or its TLS was broken.  ``rejected``: connections
    that were not let in, by the name of the limit, before any handshake.  ``rate_exceeded``: connections that were
    closed over their ``rate_limits``.
    """

    connections: int
    handshakes: int
    accepted: int
    refused: Mapping[int, int]
    timed_out: int
    failed: int
    rejected: Mapping[str, int]
    rate_exceeded: int


class Tally:
    """Counters of one server."""

    __slots__ = ("accepted", "answered", "failed", "rate_exceeded")

    def __init__(self) -> None:
        self.accepted = 0
        self.answered: Counter[int] = Counter()
        self.failed = 0
        self.rate_exceeded = 0
