"""Seeing what a server does: logs as JSON, metrics, traces, health checks, and a dump of all connections.

Each way has a module of its own, and costs nothing until it is used.  They are built on what ``taut`` makes public.
"""

from __future__ import annotations

from .dump import dump_connections, dump_on_signal
from .health import health_routes, metrics_routes
from .logs import JSONFormatter
from .metrics import PrometheusMetrics, expose
from .snapshots import merge, retired, snapshot
from .tracing import Tracing

__all__ = [
    "JSONFormatter",
    "PrometheusMetrics",
    "Tracing",
    "dump_connections",
    "dump_on_signal",
    "expose",
    "health_routes",
    "merge",
    "metrics_routes",
    "retired",
    "snapshot",
]
