"""Seeing what a server does: logs as JSON, metrics, traces, health checks, and a dump of all connections.

Each way has a module of its own, and costs nothing until it is used.  They are built on what ``taut`` makes public.
"""

from __future__ import annotations

from .logs import JSONFormatter

__all__ = ["JSONFormatter"]
