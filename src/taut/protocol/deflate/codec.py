"""The codec of one connection: messages to frame payloads and back (RFC 7692, sections 7.2.1 and 7.2.2).

``Deflate`` owns nothing until a message is compressed in its direction.  What it owns from then on is lent by the
loop's ``ContextPool`` and may be asked back after any message:

  outbound   A compressor that was taken back is simply replaced by a new one, which refers to nothing sent before.
             Every fragment ends in a flush, so this is sound even within a message.
  inbound    A decompressor that is taken back leaves its window behind; the next message makes a new one from it.
             Within a message it stays.

Without context takeover a direction's context ends with each message and leaves nothing behind.
"""

from __future__ import annotations

import zlib

from taut.errors import PayloadTooBig
from taut.protocol.deflate.backends import Compressor, new_compressor
from taut.protocol.deflate.inflater import Inflater
from taut.protocol.deflate.negotiation import DeflateParameters
from taut.protocol.deflate.pool import ContextPool
from taut.types import BytesLike, DeflateOptions

__all__ = ["Deflate", "compress_message"]

_NEVER = (1 << 31) - 1
"""A threshold for who wants nothing compressed: 2 GiB, which is as much as every platform can count."""
# An empty block without compression, less the tail (section 7.2.3.6).
_EMPTY_MESSAGE = b"\x00"


def compress_message(payload: BytesLike, window_bits: int, options: DeflateOptions) -> bytes:
    """A whole message as the payload of a frame, for any connection whose agreed window is at least this large.

    It refers to nothing sent before, but becomes part of the receiver's window: a connection that sends it calls
    ``Deflate.restart``.  ``window_bits``: 8 to 15.
    """
    if not payload:
        return _EMPTY_MESSAGE
    compressor = new_compressor(window_bits, options.level, options.mem_level)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


class Deflate:
    """The compressor and the decompressor of a connection, as far as it needs them.

    ``parameters``: what was agreed.  ``options``: level, mem_level and threshold of this side.  ``server``: whether
    this side is the server.  ``pool``: the event loop's.
    """

    __slots__ = (
        "_compressor",
        "_inbound_bits",
        "_inbound_takeover",
        "_inflater",
        "_outbound_bits",
        "_outbound_takeover",
        "_pool",
        "after_deflate",
        "after_inflate",
        "before_deflate",
        "before_inflate",
        "options",
        "parameters",
        "threshold",
    )

    def __init__(
        self, parameters: DeflateParameters, options: DeflateOptions, *, server: bool, pool: ContextPool
    ) -> None:
        self.parameters = parameters
        self.options = options
        self.threshold = options.threshold
        """From how many bytes on a message is compressed unless it is said otherwise."""
        from_server = parameters.server_max_window_bits, not parameters.server_no_context_takeover
        from_client = parameters.client_max_window_bits, not parameters.client_no_context_takeover
        self._outbound_bits, self._outbound_takeover = from_server if server else from_client
        self._inbound_bits, self._inbound_takeover = from_client if server else from_server
        self._pool = pool
        self._compressor: Compressor | None = None
        self._inflater: Inflater | None = None
        self.before_deflate = self.after_deflate = 0
        """Bytes of messages that were sent compressed, and what was made of them."""
        self.before_inflate = self.after_inflate = 0
        """Bytes of compressed messages that were received, and what was made of them."""

    @property
    def window_bits(self) -> int:
        """The window (bits) that this side may compress with."""
        return self._outbound_bits

    def enable(self, wanted: bool) -> None:
        """Whether messages are compressed that nobody has said anything about."""
        self.threshold = self.options.threshold if wanted else _NEVER

    def compress(self, payload: BytesLike) -> bytes:
        """A whole message as the payload of a frame."""
        if not payload:
            self.after_deflate += 1
            return _EMPTY_MESSAGE
        compressed = self._flush(payload, final=True)[:-4]
        self._count_deflate(len(payload), len(compressed))
        return compressed

    def compress_part(self, payload: BytesLike, final: bool) -> bytes:
        """A fragment of a message as the payload of a frame; the receiver can inflate it at once."""
        if not payload:
            if final and not self._outbound_takeover:
                self.restart()
            self.after_deflate += final
            return _EMPTY_MESSAGE if final else b""
        compressed = self._flush(payload, final)
        if final:
            compressed = compressed[:-4]
        self._count_deflate(len(payload), len(compressed))
        return compressed

    def _count_deflate(self, before: int, after: int) -> None:
        self.before_deflate += before
        self.after_deflate += after

    def _flush(self, payload: BytesLike, final: bool) -> bytes:
        compressor = self._compressor
        if compressor is None:
            compressor = new_compressor(self._outbound_bits, self.options.level, self.options.mem_level)
        # Held again only once it has given all it took: after an exception (MemoryError) the next message must not
        # begin with the rest of this one.
        self._compressor = None
        compressed = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
        if self._outbound_takeover or not final:
            self._compressor = compressor
            self._pool.used_compressor(self)
        else:
            self._pool.forget_compressor(self)
        return compressed

    def decompress(self, payload: BytesLike, limit: int | None, final: bool) -> bytes:
        """Inflate a frame's payload, or a piece of it.

        ``limit``: the bytes that the message may still grow by, None for no limit.  ``final``: whether the message
        ends here.

        Raises ``PayloadTooBig`` when more would come out, having inflated one byte more than ``limit`` and no
        further (which zlib holds twice for a moment); ``ProtocolError`` with 1007 for corrupt data, since such a
        payload is not what its frame declares it to be (RFC 6455, section 7.4.1).  The connection is to be failed
        after either.
        """
        inflater = self._inflater
        if inflater is None:
            inflater = self._inflater = Inflater(self._inbound_bits)
        inflated = inflater.inflate(payload, 0 if limit is None else limit + 1, final)
        self.before_inflate += len(payload)
        self.after_inflate += len(inflated)
        if limit is not None and len(inflated) > limit:
            raise PayloadTooBig(len(inflated), limit)
        if not final:
            self._pool.forget_decompressor(self)
        elif self._inbound_takeover:
            inflater.end_message()
            self._pool.used_decompressor(self)
        else:
            inflater.forget()
        return inflated

    def passed_by(self, before: int, after: int) -> None:
        """A message of so many bytes was sent compressed to so many, but not by this compressor."""
        self._count_deflate(before, after)
        self.restart()

    def restart(self) -> None:
        """Begin afresh with the next message: the receiver's window holds what did not pass through here."""
        self._compressor = None
        self._pool.forget_compressor(self)

    def release_compressor(self) -> None:
        """Give the compressor back to the pool, which asks for it."""
        self._compressor = None

    def park_decompressor(self) -> None:
        """Give the decompressor back to the pool, which asks for it, and keep its window."""
        if self._inflater is not None:
            self._inflater.park()

    def close(self) -> None:
        """Give everything back: the connection has ended."""
        self._pool.forget_compressor(self)
        self._pool.forget_decompressor(self)
        self._compressor = self._inflater = None
