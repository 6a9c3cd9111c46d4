"""A WebSocket connection as its user sees it."""

from __future__ import annotations

from .connection import Connection
from .facts import Stats

__all__ = ["Connection", "Stats"]
