"""The compression contexts that all connections of an event loop share."""

from __future__ import annotations

import asyncio

from ..protocol.deflate import ContextPool
from .loops import LoopState

__all__ = ["contexts_of"]


def contexts_of(loop: asyncio.AbstractEventLoop) -> ContextPool:
    """The pool of that loop, made when first asked for."""
    state = LoopState.of(loop)
    if state.compressors is None:
        state.compressors = ContextPool()
    pool: ContextPool = state.compressors
    return pool
