"""One peer's deflate stream, inflated piece by piece.

An inflater is a zlib context and the window that goes with it: the last bytes that came out.  The window is kept
beside the context for two reasons.  A context can be dropped between messages and made anew from it, so that an idle
connection keeps 4 KiB (at 12 bits) instead of 11 to 45.  And a deflate stream may end (BFINAL) anywhere in a message
while the window lives on (RFC 7692, sections 7.2.3.4 and 7.2.3.5), where zlib insists on a new context.

A context costs microseconds, and the end of a stream two bytes.  So none is made before there is something to inflate,
and streams that follow each other in one piece are paid for: by the pieces, and by their size.
"""

from __future__ import annotations

from taut.errors import ProtocolError
from taut.protocol.deflate.backends import Decompressor, decompression_errors, new_decompressor
from taut.types import BytesLike

__all__ = ["Inflater"]

# What a sync flush ends with, an empty block without compression: removed from the end of each message by the
# sender and put back by the receiver (sections 7.2.1 and 7.2.2).
_TAIL = b"\x00\x00\xff\xff"
_EMPTY_BLOCK = b"\x00" + _TAIL
_SAVED_STREAMS = 64
"""The most streams that are paid for in advance, and what a peer begins with."""
_STREAM_SIZE = 256
"""The compressed bytes that pay for one more stream."""


class Inflater:
    """A decompressor and its window (2**window_bits bytes), empty at first."""

    __slots__ = ("_context", "_stream_ended", "_streams", "_window", "_window_bits", "_window_size")

    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits
        self._window_size = 1 << window_bits
        self._window = bytearray()  # at most two windows long, so that it is cut once in a while only
        self._context: Decompressor | None = None
        self._stream_ended = False  # within the message
        self._streams = _SAVED_STREAMS

    def inflate(self, payload: BytesLike, max_length: int, final: bool) -> bytes:
        """Inflate ``payload`` to at most ``max_length`` bytes (0: no limit), dropping what would come after them.

        ``final``: whether the message ends here.  Raises ``ProtocolError`` with 1007 for data that is not deflate, with
        1008 for a flood of streams.
        """
        data = b"".join((payload, _TAIL)) if final else payload
        self._streams = min(self._streams, _SAVED_STREAMS) + 1 + len(data) // _STREAM_SIZE
        if self._stream_ended and self._context is None and _is_nothing(data, final):
            return b""
        try:
            context = self._context or self._new_context()
            inflated = context.decompress(data, max_length)
            self._remember(inflated)
            if context.eof:
                inflated += self._next_streams(context, max_length, len(inflated), final)
        except decompression_errors as exc:
            raise ProtocolError(f"compressed data is corrupt: {exc}", 1007) from exc
        return inflated

    def end_message(self) -> None:
        """Stand ready for the next message, whose data begins a block."""
        if self._stream_ended:
            # A sender may leave out the byte that 7.2.3.4 puts after a final block; then the tail, which may have been
            # inflated after it, is only the beginning of an empty block.
            self._stream_ended = False
            self._context = None

    def park(self) -> None:
        """Give the context back, between two messages, and keep the window."""
        self._context = None
        self._window = self._window[-self._window_size :]

    def forget(self) -> None:
        """Begin the next message without a context and without a window."""
        self._stream_ended = False
        self._context = None
        self._window.clear()

    def _new_context(self) -> Decompressor:
        self._context = new_decompressor(self._window_bits, bytes(self._window[-self._window_size :]))
        return self._context

    def _next_streams(self, context: Decompressor, max_length: int, size: int, final: bool) -> bytes:
        """Inflate what follows a final block; ``size`` bytes came out before it."""
        parts: list[bytes] = []
        while context.eof:
            rest = context.unused_data
            self._context = None
            self._stream_ended = True
            if _is_nothing(rest, final) or (max_length and size >= max_length):
                break
            if self._streams == 0:
                raise ProtocolError("a flood of final blocks in compressed data", 1008)
            self._streams -= 1
            context = self._new_context()
            parts.append(context.decompress(rest, max_length - size if max_length else 0))
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


def _is_nothing(data: BytesLike, final: bool) -> bool:
    """Whether there is nothing to inflate in what follows a final block."""
    return not data or data == _EMPTY_BLOCK or (final and data == _TAIL)
