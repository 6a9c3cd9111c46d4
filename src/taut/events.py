"""``Events``: what happens on connections, step by step, for those who look for a fault or measure.

A connection that nobody watches pays for this with one comparison a frame, in native code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .types import CloseInfo, Opcode, Request, Response

__all__ = ["Events", "Frame"]


@dataclass(frozen=True, slots=True)
class Frame:
    """What there is to know of a frame (RFC 6455, 5.2), or of a whole message.

    ``opcode``: of a message, that of its first frame. ``length``: bytes of payload as they travel, compressed if
    ``compressed``. ``payload``: of control frames only. ``frames``: how many there were, 1 for a frame.
    """

    opcode: Opcode
    fin: bool
    compressed: bool
    length: int
    payload: bytes | None = None
    frames: int = 1


class Events:
    """Callbacks for what happens on connections: a subclass is given to ``connect`` or ``serve`` as ``events``.

    Called on the event loop, with the connection first: one object is for all of them.
    What happens to frames is told soon after it happened, in order; everything else when it happens. An exception is
    logged, and disturbs nothing. Callbacks must not block.
    """

    def on_connecting(self, ws: Any, request: Request) -> None:
        """A client is about to open a connection, or goes where it was redirected to; headers may be added."""

    def on_dialled(self, ws: Any, address: str, elapsed: float) -> None:
        """A client has reached ``address``, over proxies if there are any; ``elapsed``: seconds, with the look-up."""

    def on_tls(self, ws: Any, elapsed: float) -> None:
        """A client has done the TLS handshake, in ``elapsed`` seconds."""

    def on_request(self, ws: Any, request: Request) -> None:
        """The request of the opening handshake is complete: a server has read it, a client sends it."""

    def on_response(self, ws: Any, response: Response) -> None:
        """The request is answered: a server sends this, whatever its status; a client has read one that it accepts."""

    def on_failed(self, ws: Any, error: BaseException | None) -> None:
        """No connection came of it, and nothing more will be told.

        For a client: it was refused, redirected, or cancelled, or has not reached the server. For a server: the client
        left before it was answered.
        """

    def on_open(self, ws: Any) -> None:
        """The connection is open."""

    def on_frame_received(self, ws: Any, frame: Frame) -> None:
        """All of a frame has arrived, and its head was legal."""

    def on_frame_sent(self, ws: Any, frame: Frame) -> None:
        """A frame was handed to the transport, or waits for others to be handed over together."""

    def on_message_received(self, ws: Any, message: Frame) -> None:
        """The last frame of a message has arrived."""

    def on_message_sent(self, ws: Any, message: Frame) -> None:
        """The last frame of a message was sent."""

    def on_close(self, ws: Any, info: CloseInfo) -> None:
        """The connection is gone, the byte stream included; nothing is told of it after this."""
