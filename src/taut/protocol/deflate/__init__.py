"""permessage-deflate, the compression extension (RFC 7692): its negotiation, its codec, its memory.

``negotiation`` speaks the Sec-WebSocket-Extensions header for both sides, ``codec`` turns messages into frame
payloads and back, ``pool`` bounds how many connections own a live zlib context, ``backends`` chooses the zlib.
"""

from __future__ import annotations

from taut.protocol.deflate.backends import backend
from taut.protocol.deflate.codec import Deflate, compress_message
from taut.protocol.deflate.negotiation import DeflateParameters, accept, agree, offer
from taut.protocol.deflate.pool import ContextPool

__all__ = [
    "ContextPool",
    "Deflate",
    "DeflateParameters",
    "accept",
    "agree",
    "backend",
    "compress_message",
    "offer",
]
