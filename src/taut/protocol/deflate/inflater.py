"""One peer's deflate stream, inflated piece by piece.

An inflater is a zlib context and the window that goes with it: the last bytes that came out.  The window is kept
beside the context for two reasons.  A context can be dropped between messages and made anew from it, so that an idle
connection keeps 4 KiB (at 12 bits) instead of 11 to 45.  And a deflate stream may end (BFINAL) anywhere in a message
while the window lives on (RFC 7692, sections 7.2.3.4 and 7.2.3.5), where zlib insists on a new context.
"""

from __future__ import annotations

from taut.errors import ProtocolError
from taut.protocol.deflate.backends import decompression_errors, new_decompressor
from taut.types import BytesLike

__all__ = ["Inflater"]

_MAX_STREAMS = 64
"""Most deflate streams in one piece of payload: each costs a context and a copy of what follows it, for two bytes."""


class Inflater:
    """A decompressor and its window (2**window_bits bytes), going on after ``window``."""

    __slots__ = ("_context", "_stream_ended", "_window", "_window_bits", "_window_size")

    def __init__(self, window_bits: int, window: bytes = b"") -> None:
        self._window_bits = window_bits
        self._window_size = 1 << window_bits
        self._window = bytearray(window)  # at most two windows long, so that it is cut once in a while only
        self._context = new_decompressor(window_bits, window)
        self._stream_ended = False  # within the message

    @property
    def window(self) -> bytes:
        """What a new inflater needs to go on, if this one is between two messages."""
        return bytes(self._window[-self._window_size :])

    def inflate(self, data: BytesLike, max_length: int) -> bytes:
        """Inflate ``data`` to at most ``max_length`` bytes (0: no limit), dropping what would come after them.

        Raises ``ProtocolError`` with 1007 for data that is not deflate, with 1008 for a flood of streams.
        """
        try:
            inflated = self._context.decompress(data, max_length)
            self._remember(inflated)
            if self._context.eof:
                inflated += self._next_streams(max_length, len(inflated))
        except decompression_errors as exc:
            raise ProtocolError(f"compressed data is corrupt: {exc}", 1007) from exc
        return inflated

    def end_message(self) -> None:
        """Stand ready for the next message, whose data begins a block."""
        if self._stream_ended:
            # A sender may leave out the byte that 7.2.3.4 puts after a final block; then the tail, which has been
            # inflated after it, is only the beginning of an empty block.
            self._stream_ended = False
            self._restart()

    def _restart(self) -> None:
        self._context = new_decompressor(self._window_bits, self.window)

    def _next_streams(self, max_length: int, size: int) -> bytes:
        """Inflate what follows a final block; ``size`` bytes came out before it."""
        parts: list[bytes] = []
        while self._context.eof:
            rest = self._context.unused_data
            self._restart()
            self._stream_ended = True
            if not rest or (max_length and size >= max_length):
                break
            if len(parts) == _MAX_STREAMS:
                raise ProtocolError(f"compressed data has more than {_MAX_STREAMS} final blocks in a row", 1008)
            parts.append(self._context.decompress(rest, max_length - size if max_length else 0))
            size += len(parts[-1])
            self._remember(parts[-1])
        return b"".join(parts)

    def _remember(self, inflated: bytes) -> None:
        window, size = self._window, self._window_size
        if len(inflated) >= size:
            window[:] = inflated[-size:]
            return
        window += inflated
        if len(window) > 2 * size:
            del window[:-size]
