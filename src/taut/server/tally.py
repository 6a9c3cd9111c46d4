"""What a server has done so far: ``ServerStats``, and the counters that it is made of.

What a connection has moved is counted by its own session, in native code, and added here once: when it is done.
Whoever wants totals adds those of the connections that are open.  They may ask from another thread, so a connection
leaves the one place and enters the other under ``lock``: no total ever goes backwards.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..connection.facts import add_totals

if TYPE_CHECKING:
    from .connection import ServerConnection

__all__ = ["Histogram", "ServerStats", "Tally"]

_HANDSHAKES = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROUND_TRIPS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


@dataclass(frozen=True, slots=True)
class ServerStats:
    """Counters of one server. ``connections``, ``handshakes``: there now; all others: since it was started.

    What became of opening handshakes, each counted once: ``accepted``, a connection was opened; ``refused``, by the
    status of the answer; ``timed_out``; ``failed``, the client left, or its TLS was broken.  ``rejected``: connections
    that were not let in, by the name of the limit; those over a limit per user, of a route, or shared with other
    servers were told so in a handshake, and are among ``refused`` as well.  ``rate_exceeded``: connections that were
    closed over their ``rate_limits``.

    Of the messages of all connections: ``messages_dropped``, by why: "drop_oldest" and "drop_newest", for a policy,
    "closed", because the connection ended before they had left; ``bytes_dropped``; ``messages_conflated``.
    """

    connections: int
    handshakes: int
    accepted: int
    refused: Mapping[int, int]
    timed_out: int
    failed: int
    rejected: Mapping[str, int]
    rate_exceeded: int
    messages_dropped: Mapping[str, int]
    bytes_dropped: int
    messages_conflated: int


class Histogram:
    """How many values were at most as large as each bound, and not as the one before; the last count: beyond all."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Tally:
    """Counters of one server.

    ``closed``: connections by who ended them and their close code. ``moved``: by the name of the route, "" without, the
    sums of what connections had counted when they were done. ``handshake_times``, ``round_trips``: in seconds.
    """

    __slots__ = (
        "accepted",
        "answered",
        "closed",
        "failed",
        "handshake_times",
        "lock",
        "moved",
        "rate_exceeded",
        "round_trips",
    )

    def __init__(self) -> None:
        self.accepted = 0
        self.answered: Counter[int] = Counter()
        self.failed = 0
        self.rate_exceeded = 0
        self.closed: Counter[tuple[str, int]] = Counter()
        self.moved: dict[str, Counter[str]] = {}
        self.handshake_times = Histogram(_HANDSHAKES)
        self.round_trips = Histogram(_ROUND_TRIPS)
        self.lock = threading.Lock()

    def connection_done(self, connection: ServerConnection) -> None:
        """Take over what a connection has counted; under ``lock``, once."""
        info = connection.close_info
        if info is not None:
            self.closed[info.initiator.value, info.code] += 1
        route = connection.route
        moved = self.moved.setdefault("" if route is None else route.name, Counter())
        moved["connections"] += 1
        add_totals(moved, connection.stats)

    def lost(self, there: Iterable[ServerConnection]) -> Counter[str]:
        """What all connections have lost because their peers did not read, by the names of ``Stats``; under ``lock``.

        ``there``: those that are not done.
        """
        sums: Counter[str] = Counter()
        for moved in self.moved.values():
            sums.update(moved)
        for connection in there:
            if connection.outbox is not None:
                add_totals(sums, connection.stats)
        return sums
