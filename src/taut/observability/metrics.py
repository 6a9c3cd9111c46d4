"""Metrics for Prometheus: ``PrometheusMetrics`` in a registry of its client, ``expose`` for a snapshot as text.

Both read a server when they are asked, and write with the client's own writer.  They need the extra ``metrics``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from taut import MissingExtra, Server

from .snapshots import FAMILIES, Family, Snapshot, merge, snapshot

if TYPE_CHECKING:
    from types import ModuleType

    from prometheus_client import CollectorRegistry, Metric

__all__ = ["PrometheusMetrics", "expose", "exposition", "registry_exposition"]


def prometheus(feature: str) -> tuple[ModuleType, ModuleType]:
    """The client's metrics and its writers, whose absence is told to whoever asked for ``feature``."""
    try:
        from prometheus_client import core, exposition  # noqa: PLC0415
    except ImportError:
        raise MissingExtra(feature, "metrics") from None
    return core, exposition


class PrometheusMetrics:
    """Metrics of one server or more, in a registry of ``prometheus_client``; of several, their sum.

    ``registry``: by default ``prometheus_client.REGISTRY``.  Nothing is counted for it: servers are read when they are
    asked, from any thread.  Raises ``TypeError`` for what is no ``taut.Server``, ``ValueError`` without any, and when
    the registry has metrics of these names, ``MissingExtra`` without ``prometheus_client``.
    """

    def __init__(self, *servers: Server, registry: CollectorRegistry | None = None) -> None:
        self._core, _ = prometheus("PrometheusMetrics")
        if not servers:
            raise ValueError("servers must hold at least one taut.Server")
        for server in servers:
            if not isinstance(server, Server):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"servers must be instances of taut.Server, not {server!r}")
        self._servers = servers
        self._registry: CollectorRegistry = self._core.REGISTRY if registry is None else registry
        self._registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """The metrics without values: what the registry holds names against each other with."""
        for family in FAMILIES.values():
            yield _metric(self._core, family, [])

    def collect(self) -> Iterator[Metric]:
        """The metrics; the registry calls it."""
        return _metrics(self._core, merge(snapshot(server) for server in self._servers))

    def close(self) -> None:
        """Take the metrics out of the registry."""
        self._registry.unregister(self)


def expose(taken: Snapshot) -> bytes:
    """A snapshot as the text that Prometheus reads. Raises ``MissingExtra`` without ``prometheus_client``."""
    return exposition("expose", taken, "")[0]


def exposition(feature: str, taken: Snapshot, accept: str) -> tuple[bytes, str]:
    """The text and its Content-Type, in the format that a request with this Accept header wants."""
    core, writers = prometheus(feature)

    class Taken:
        def collect(self) -> Iterator[Metric]:
            return _metrics(core, taken)

    registry = core.CollectorRegistry(auto_describe=False)
    registry.register(Taken())
    return _written(writers, registry, accept)


def registry_exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The same of a registry."""
    return _written(prometheus("metrics_routes")[1], registry, accept)


def _written(writers: ModuleType, registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    write, content_type = writers.choose_encoder(accept)
    return write(registry), content_type


def _metrics(core: ModuleType, taken: Snapshot) -> Iterator[Metric]:
    for name, samples in taken["metrics"].items():
        if name in FAMILIES:
            yield _metric(core, FAMILIES[name], samples)


def _metric(core: ModuleType, family: Family, samples: list[list[Any]]) -> Metric:
    kinds = {
        "counter": core.CounterMetricFamily,
        "gauge": core.GaugeMetricFamily,
        "histogram": core.HistogramMetricFamily,
    }
    metric: Any = kinds[family.kind](family.name, family.text, labels=family.labels)
    for labels, value in samples:
        if family.kind == "histogram":
            metric.add_metric(labels, _buckets(value["bounds"], value["counts"]), value["sum"])
        else:
            metric.add_metric(labels, value)
    return metric  # type: ignore[no-any-return]


def _buckets(bounds: list[float], counts: list[int]) -> list[tuple[str, int]]:
    """How many values were at most as large as each bound."""
    return list(zip([*map(repr, bounds), "+Inf"], itertools.accumulate(counts), strict=True))
