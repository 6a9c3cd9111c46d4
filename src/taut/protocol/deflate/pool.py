"""How many connections may own a live zlib context.

A compressor takes 30 to 220 KiB and a decompressor 11 to 45, which an idle connection must not keep.  Neither is
needed to keep a connection correct: a sender may start afresh at any message (RFC 7692, section 7.2.1), and a
decompressor can be made anew from its window, the last 2**bits bytes that came out of it.  So a pool, one for each
event loop, remembers which connections used theirs last, and takes it from the one that used it longest ago
whenever there are more than ``size``.

Only contexts between two flushes are ever taken: a decompressor in the middle of a message is not in the pool.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

__all__ = ["ContextOwner", "ContextPool"]


class ContextOwner(Protocol):
    """A connection's end of the pool: what is asked of it when others were more active."""

    def release_compressor(self) -> None: ...

    def park_decompressor(self) -> None: ...


class ContextPool:
    """The live contexts of one event loop: at most ``size`` compressors and as many decompressors (default 64)."""

    __slots__ = ("_compressors", "_decompressors", "size")

    def __init__(self, size: int = 64) -> None:
        self.size = size
        # Least recently used first.
        self._compressors: OrderedDict[ContextOwner, None] = OrderedDict()
        self._decompressors: OrderedDict[ContextOwner, None] = OrderedDict()

    @property
    def compressors(self) -> int:
        """How many compressors are alive."""
        return len(self._compressors)

    @property
    def decompressors(self) -> int:
        """How many decompressors are alive between two messages."""
        return len(self._decompressors)

    def used_compressor(self, owner: ContextOwner) -> None:
        """Note that ``owner`` has compressed; the one that did so longest ago may lose its compressor."""
        owners = self._compressors
        owners[owner] = None
        owners.move_to_end(owner)
        if len(owners) > self.size:
            owners.popitem(last=False)[0].release_compressor()

    def used_decompressor(self, owner: ContextOwner) -> None:
        """Note that ``owner`` has completed a message; the one that did so longest ago may be parked."""
        owners = self._decompressors
        owners[owner] = None
        owners.move_to_end(owner)
        if len(owners) > self.size:
            owners.popitem(last=False)[0].park_decompressor()

    def forget_compressor(self, owner: ContextOwner) -> None:
        """Note that ``owner`` has no compressor any more."""
        self._compressors.pop(owner, None)

    def forget_decompressor(self, owner: ContextOwner) -> None:
        """Note that ``owner`` has no decompressor any more, or one that must not be parked now."""
        self._decompressors.pop(owner, None)

    def clear(self) -> None:
        """Give back every live context; the connections go on as after having been idle."""
        while self._compressors:
            self._compressors.popitem()[0].release_compressor()
        while self._decompressors:
            self._decompressors.popitem()[0].park_decompressor()
