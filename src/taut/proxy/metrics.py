"""What is counted for upstreams, as samples of the metrics of a server (``taut.observability.snapshot``)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .served import ServedRoute

__all__ = ["upstream_samples"]

_METRICS = {
    "taut_upstream_available": "available",
    "taut_upstream_connections": "connections",
    "taut_upstream_connections_opened": "opened",
    "taut_upstream_dials_failed": "failed",
    "taut_upstream_handshakes_refused": "refused",
}
_TRAFFIC = {
    "taut_upstream_messages": (("up", "messages_up"), ("down", "messages_down")),
    "taut_upstream_bytes": (("up", "bytes_up"), ("down", "bytes_down")),
}
"""By direction: "up" is to the upstream."""


def upstream_samples(routes: Iterable[ServedRoute]) -> dict[str, list[list[Any]]]:
    """The counters of all upstreams, by metric; an upstream that a route names twice is there once."""
    sums: dict[str, dict[tuple[str, ...], int]] = {name: {} for name in (*_METRICS, *_TRAFFIC)}

    def add(name: str, labels: tuple[str, ...], value: int) -> None:
        sums[name][labels] = sums[name].get(labels, 0) + value

    for route in routes:
        for backend in route.balance.backends:
            stats, labels = backend.stats(), (route.path, backend.name)
            for name, counted in _METRICS.items():
                add(name, labels, int(getattr(stats, counted)))
            for name, directions in _TRAFFIC.items():
                for direction, counted in directions:
                    add(name, (*labels, direction), getattr(stats, counted))
    return {name: [[list(labels), value] for labels, value in samples.items()] for name, samples in sums.items()}
