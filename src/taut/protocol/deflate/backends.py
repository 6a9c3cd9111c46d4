"""Which zlib compresses and which inflates.

The standard library's zlib is always there; zlib-ng and isal are extras, used when installed.  What decides are
figures: one shared core, 64 KiB and 1 KiB of JSON-like text, context takeover, a 12-bit window, microseconds a
message and bytes out; inflating is for the 64 KiB and the 1 KiB that zlib makes of them at level 6.

    ==================  =======  =====  ======  =========  ===========
    backend and level   64 KiB   bytes    size  1 KiB [1]  inflate
    ==================  =======  =====  ======  =========  ===========
    zlib 6, memLevel 5     1017  14860              8.4    66-97  4.1
    zlib 3                  514  16638  +12.0%      6.8
    zlib-ng 6               392  14265   -4.0%      9.2    47     4.2
    zlib-ng 5               351  14364   -3.3%      9.0
    zlib-ng 4               313  14805   -0.4%      8.8
    zlib-ng 3               254  15176   +2.1%      8.6
    isal 1                   77  15832   +6.5%      6.0    44     7.4
    isal 2                   80  15841   +6.6%      6.5
    isal 3                  189  15700   +5.7%      7.8
    ==================  =======  =====  ======  =========  ===========

    [1] by a new compressor; with the context of an equal message before: zlib 3.9, zlib-ng 1.9, isal 2.6

Hence the default level is zlib-ng's 5: a third of the time, and smaller than zlib's 6 on Python source, prose and
hexadecimal digits too (1.4 % larger on a list of short names), where 4 came out larger on more.  With a 15-bit window
it is 2.5 % larger on this text.  Where the user asks for speed, levels 1 to 3, isal is both faster and smaller than
zlib.  zlib-ng inflates: isal is hardly better at 64 KiB and slower at 1 KiB.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Protocol, cast

from taut.types import BytesLike

__all__ = [
    "Backend",
    "Compressor",
    "Decompressor",
    "backend",
    "backends",
    "decompression_errors",
    "new_compressor",
    "new_decompressor",
]

_DEFAULT_LEVEL = -1
_MIN_BITS = 9


class Compressor(Protocol):
    def compress(self, data: BytesLike, /) -> bytes: ...

    def flush(self, mode: int = ..., /) -> bytes: ...


class Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: BytesLike, max_length: int = ..., /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Backend:
    """One implementation of the zlib module's interface.

    ``default_level``: what level -1 means here.  ``levels``: those that it serves at all.  ``min_window_bits``: the
    smallest window that its compressor keeps to.  ``min_mem_level``: below it memory is not saved, only speed lost.
    """

    name: str
    compressobj: Callable[..., Compressor]
    decompressobj: Callable[..., Decompressor]
    error: type[Exception]
    default_level: int
    levels: Container[int]
    min_window_bits: int = 8
    min_mem_level: int = 1

    def new_compressor(self, window_bits: int, level: int, mem_level: int) -> Compressor:
        """A raw deflate compressor that refers back at most 2**window_bits bytes."""
        # No zlib compresses raw deflate with 8 bits, but with 9 zlib and zlib-ng refer back at most 250 bytes: they
        # keep the length of the longest match (258) and a little more of the window free.  isal uses all of it.
        bits = max(window_bits, _MIN_BITS)
        level = self.default_level if level == _DEFAULT_LEVEL else level
        return self.compressobj(level, zlib.DEFLATED, -bits, max(mem_level, self.min_mem_level))

    def new_decompressor(self, window_bits: int, window: BytesLike) -> Decompressor:
        """A raw inflater that goes on after ``window``, the last bytes that came out of its predecessor."""
        # A larger window inflates all that a smaller one does, and 8 bits are not supported everywhere.
        bits = max(window_bits, _MIN_BITS)
        return self.decompressobj(-bits, window) if window else self.decompressobj(-bits)


class _Module(Protocol):
    """What the standard library's ``zlib`` and its replacements have in common."""

    compressobj: Callable[..., Compressor]
    decompressobj: Callable[..., Decompressor]
    error: type[Exception]


def _find() -> dict[str, Backend]:
    """The backends that are installed, by name."""
    found = {
        "zlib": Backend("zlib", zlib.compressobj, zlib.decompressobj, zlib.error, 6, range(10)),
    }
    for name, module_name in (("zlib-ng", "zlib_ng.zlib_ng"), ("isal", "isal.isal_zlib")):
        try:
            module = cast(_Module, importlib.import_module(module_name))
        except ImportError:
            continue
        if name == "zlib-ng":
            found[name] = Backend(
                name, module.compressobj, module.decompressobj, module.error, 5, range(10), min_mem_level=8
            )
        else:
            found[name] = Backend(
                name, module.compressobj, module.decompressobj, module.error, 2, range(1, 4), min_window_bits=9
            )
    return found


backends: dict[str, Backend] = _find()
"""The backends that are installed, by name."""

decompression_errors: tuple[type[Exception], ...] = tuple({each.error for each in backends.values()})
"""What an inflater raises on corrupt data, whichever it is."""


def _compressing(window_bits: int, level: int) -> Backend:
    """The fastest backend installed for a window (bits) and a level."""
    names = ("isal", "zlib-ng") if 1 <= level <= 3 else ("zlib-ng", "isal")
    for name in names:
        candidate = backends.get(name)
        if candidate is None or window_bits < candidate.min_window_bits:
            continue
        if level == _DEFAULT_LEVEL or level in candidate.levels:
            return candidate
    return backends["zlib"]


def backend(level: int = -1, window_bits: int = 12) -> str:
    """The name of what compresses at ``level`` (-1 to 9) with a window of ``window_bits``: zlib, zlib-ng or isal."""
    return _compressing(window_bits, level).name


def new_compressor(window_bits: int, level: int, mem_level: int) -> Compressor:
    """A raw deflate compressor of the fastest backend that is installed."""
    return _compressing(window_bits, level).new_compressor(window_bits, level, mem_level)


def new_decompressor(window_bits: int, window: BytesLike = b"") -> Decompressor:
    """A raw inflater of the fastest backend that is installed, going on after ``window``."""
    return (backends.get("zlib-ng") or backends["zlib"]).new_decompressor(window_bits, window)
