"""Limits that several servers keep together, counted in Redis."""

from __future__ import annotations

from .ledger import Ledger
from .limits import RedisLimits
from .sharing import Sharing

__all__ = ["Ledger", "RedisLimits", "Sharing"]
