"""The state of a server as plain data: taken at one moment, added up over processes, shown by ``metrics``.

A snapshot is made of dicts, lists, str and numbers only, so that it travels as JSON.  Nothing is counted for it: it
reads what sessions and the server count anyway.  Counters in it never go backwards while the server lives; ``retired``
keeps those of a process that is gone, so that sums over processes do not either.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from taut import Server, ServerConnection

__all__ = ["FAMILIES", "Family", "Snapshot", "merge", "retired", "snapshot"]

Snapshot: TypeAlias = dict[str, Any]
"""What ``snapshot`` gives: ``version``, and ``metrics``, by name a list of samples ``[label values, value]``."""

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: its name without a suffix, what it is, what its labels are called."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[str, ...] = ()


_UPSTREAM = ("path", "upstream")

FAMILIES = {
    family.name: family
    for family in (
        Family("taut_ready", "gauge", "Servers that take new connections."),
        Family("taut_connections", "gauge", "Connections that are open.", ("route",)),
        Family("taut_handshakes_in_progress", "gauge", "Connections that are not open yet."),
        Family("taut_handshakes", "counter", "Opening handshakes, by what became of them.", ("outcome",)),
        Family("taut_handshake_responses", "counter", "Requests answered with another status than 101.", ("status",)),
        Family("taut_connections_rejected", "counter", "Connections that were not let in, by limit.", ("limit",)),
        Family("taut_connections_closed", "counter", "Connections that ended.", ("initiator", "code")),
        Family("taut_rate_exceeded", "counter", "Connections that were closed over their rate limits."),
        Family("taut_messages_received", "counter", "Messages received.", ("route",)),
        Family("taut_messages_sent", "counter", "Messages sent.", ("route",)),
        Family("taut_received_bytes", "counter", "Bytes received after opening handshakes.", ("route",)),
        Family("taut_sent_bytes", "counter", "Payload bytes of frames sent.", ("route",)),
        Family("taut_before_deflate_bytes", "counter", "Bytes of messages sent compressed, before.", ("route",)),
        Family("taut_after_deflate_bytes", "counter", "Bytes of messages sent compressed, after.", ("route",)),
        Family("taut_before_inflate_bytes", "counter", "Bytes of compressed messages received, before.", ("route",)),
        Family("taut_after_inflate_bytes", "counter", "Bytes of compressed messages received, after.", ("route",)),
        Family("taut_messages_waiting", "gauge", "Messages that wait because peers do not read.", ("route",)),
        Family("taut_messages_dropped", "counter", "Messages dropped, by policy.", ("route", "policy")),
        Family("taut_dropped_bytes", "counter", "Bytes of messages dropped.", ("route",)),
        Family("taut_messages_conflated", "counter", "Messages replaced by a later one of the same key.", ("route",)),
        Family("taut_stalled_seconds", "counter", "Time for which peers took less than was sent.", ("route",)),
        Family("taut_unread_bytes", "gauge", "Bytes of messages received and not yet taken.", ("route",)),
        Family("taut_unsent_bytes", "gauge", "Bytes that have not left yet.", ("route",)),
        Family("taut_handshake_duration_seconds", "histogram", "How long opening handshakes took, TLS included."),
        Family("taut_workers", "gauge", "Worker processes that serve."),
        Family("taut_worker_exits", "counter", "Worker processes that ended although nobody told them to."),
        Family("taut_ping_round_trip_seconds", "histogram", "Round trips of pings."),
        Family("taut_upstream_available", "gauge", "Upstreams that would be dialled.", _UPSTREAM),
        Family("taut_upstream_connections", "gauge", "Connections to upstreams that are open.", _UPSTREAM),
        Family("taut_upstream_connections_opened", "counter", "Connections to upstreams opened.", _UPSTREAM),
        Family("taut_upstream_dials_failed", "counter", "Upstreams dialled in vain.", _UPSTREAM),
        Family("taut_upstream_handshakes_refused", "counter", "Handshakes that upstreams refused.", _UPSTREAM),
        Family("taut_upstream_messages", "counter", "Messages of connections that ended.", (*_UPSTREAM, "direction")),
        Family("taut_upstream_bytes", "counter", "Bytes of connections that ended.", (*_UPSTREAM, "direction")),
    )
}
_OF_CONNECTIONS = {
    "taut_messages_received": "messages_received",
    "taut_messages_sent": "messages_sent",
    "taut_received_bytes": "bytes_received",
    "taut_sent_bytes": "bytes_sent",
    "taut_before_deflate_bytes": "bytes_before_deflate",
    "taut_after_deflate_bytes": "bytes_after_deflate",
    "taut_before_inflate_bytes": "bytes_before_inflate",
    "taut_after_inflate_bytes": "bytes_after_inflate",
    "taut_messages_waiting": "messages_waiting",
    "taut_dropped_bytes": "bytes_dropped",
    "taut_messages_conflated": "messages_conflated",
    "taut_stalled_seconds": "stalled",
    "taut_unread_bytes": "unread",
    "taut_unsent_bytes": "unsent",
}
"""What is added up over connections, and what ``ws.stats`` calls it."""


_DROPS = {"drop_oldest": "dropped_oldest", "drop_newest": "dropped_newest", "at_end": "dropped_at_end"}
"""The same of messages that were dropped, by the policy that did it."""


def snapshot(server: Server) -> Snapshot:
    """What there is to know of a server now, as plain data; from any thread.

    Raises ``TypeError`` for anything but a ``taut.Server``.
    """
    if not isinstance(server, Server):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"server must be a taut.Server, not {server!r}")
    tally = server.tally
    with tally.lock:
        connections = server.connections_open.copy()
        closed = tally.closed.copy()
        moved = {route: counts.copy() for route, counts in tally.moved.items()}
    stats = server.stats
    open_by_route = _add_open(connections, moved)
    ended: Counter[tuple[str, str]] = Counter()
    for (initiator, code), count in closed.items():
        ended[initiator, _code_label(initiator, code)] += count
    outcomes = {
        "accepted": stats.accepted,
        "refused": sum(count for status, count in stats.refused.items() if status >= 400),
        "answered": sum(count for status, count in stats.refused.items() if status < 400),
        "timed_out": stats.timed_out,
        "failed": stats.failed,
        "rejected": server.admission.turned_away,  # those over other limits are refused, and counted there
    }
    metrics: dict[str, list[list[Any]]] = {
        "taut_ready": [[[], int(server.ready)]],
        "taut_connections": _samples(open_by_route),
        "taut_handshakes_in_progress": [[[], stats.handshakes]],
        "taut_handshakes": _samples(outcomes),
        "taut_handshake_responses": _samples(stats.refused),
        "taut_connections_rejected": _samples(stats.rejected),
        "taut_connections_closed": [[list(labels), count] for labels, count in ended.items()],
        "taut_rate_exceeded": [[[], stats.rate_exceeded]],
        "taut_handshake_duration_seconds": [[[], _histogram(tally.handshake_times)]],
        "taut_ping_round_trip_seconds": [[[], _histogram(tally.round_trips)]],
    }
    for name, counted in _OF_CONNECTIONS.items():
        metrics[name] = [[[route], counts[counted]] for route, counts in moved.items()]
    metrics["taut_messages_dropped"] = [
        [[route, policy], counts[counted]] for route, counts in moved.items() for policy, counted in _DROPS.items()
    ]
    return {"version": _VERSION, "metrics": metrics | server.more_samples()}


def _add_open(connections: Iterable[ServerConnection], moved: dict[str, Counter[str]]) -> Counter[str]:
    """Add what open connections have counted to ``moved``, and count them by route."""
    routes: Counter[str] = Counter()
    for connection in connections:
        if connection.state.name == "CONNECTING":
            continue
        route = "" if connection.route is None else connection.route.name
        routes[route] += 1
        counts, stats = moved.setdefault(route, Counter()), connection.stats
        for counted in (*_OF_CONNECTIONS.values(), *_DROPS.values()):
            counts[counted] += getattr(stats, counted)
    for route in moved:
        routes.setdefault(route, 0)  # a gauge that was there goes to zero, it does not go away
    return routes


def _code_label(initiator: str, code: int) -> str:
    """The close code; of what peers choose freely only the range: they must not make up series without end."""
    return f"{code // 1000}xxx" if initiator == "remote" and code >= 3000 else str(code)


def _samples(counts: Mapping[Any, int]) -> list[list[Any]]:
    return [[[str(label)], count] for label, count in counts.items()]


def _histogram(histogram: Any) -> dict[str, Any]:
    return {"bounds": list(histogram.bounds), "counts": list(histogram.counts), "sum": histogram.sum}


def merge(snapshots: Iterable[Snapshot]) -> Snapshot:
    """The sum of snapshots: of several servers, or of the processes of one.

    Raises ``ValueError`` for one that another version of taut has made, whose metrics cannot be added to these.
    """
    sums: dict[str, dict[tuple[str, ...], Any]] = {}
    for each in snapshots:
        if each.get("version") != _VERSION:
            raise ValueError(f"a snapshot must be of version {_VERSION}, not {each.get('version')!r}")
        for name, samples in each["metrics"].items():
            if name not in FAMILIES:
                continue  # of a process that runs a newer taut
            family = sums.setdefault(name, {})
            for labels, value in samples:
                key = tuple(labels)
                family[key] = _sum(name, family[key], value) if key in family else value
    metrics = {name: [[list(labels), value] for labels, value in family.items()] for name, family in sums.items()}
    return {"version": _VERSION, "metrics": metrics}


def _sum(name: str, one: Any, other: Any) -> Any:
    if FAMILIES[name].kind != "histogram":
        return one + other
    if one["bounds"] != other["bounds"]:
        raise ValueError(f"snapshots have different bounds for {name}")
    counts = list(map(operator.add, one["counts"], other["counts"]))
    return {"bounds": one["bounds"], "counts": counts, "sum": one["sum"] + other["sum"]}


def retired(last: Snapshot) -> Snapshot:
    """What remains of the last snapshot of a process that is gone: what it has counted, not what it held."""
    kept = {
        name: samples
        for name, samples in last["metrics"].items()
        if name in FAMILIES and FAMILIES[name].kind != "gauge"
    }
    return {"version": last["version"], "metrics": kept}
