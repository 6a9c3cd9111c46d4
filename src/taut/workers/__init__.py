"""Several processes that serve at one address: ``taut.workers.run``, which is what ``taut serve`` does."""

from __future__ import annotations

from .loading import StartError
from .run import run

__all__ = ["StartError", "run"]
