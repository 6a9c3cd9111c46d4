"""How the end of one side becomes the end of the other.

==================================  ==================================================================================
one side                            the other side
==================================  ==================================================================================
a Close frame is received           a Close frame with the same code and reason, or without a code if there was none
the upstream is lost, or broke the  to the client: 1014 (bad gateway)
protocol
the client is lost                  to the upstream: no Close frame, once what came before has arrived; it sees 1006
the client broke the protocol or    to the upstream: 1011
a limit
the proxy closes                    to the upstream: 1001 (going away)
==================================  ==================================================================================

The codes of a Close frame that this side sent because the peer broke the protocol (1002, 1007, 1009) are about that
peer, and would tell the other one that it had been wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ProtocolError
from ..types import CloseCode, CloseInfo, Initiator

__all__ = ["Ending", "ending_for_client", "ending_for_upstream"]


@dataclass(frozen=True, slots=True)
class Ending:
    """What to end a connection with. ``code``: 1005 for a Close frame without one, None for no Close frame at all."""

    code: int | None
    reason: str = ""


_GOING_AWAY = Ending(CloseCode.GOING_AWAY, "the proxy is closing")
_LOST_UPSTREAM = Ending(CloseCode.BAD_GATEWAY, "the connection to the upstream was lost")
_NO_CLOSE_FRAME = Ending(None)


def ending_for_upstream(client: CloseInfo) -> Ending:
    """How to end the upstream's connection, given how the client's has ended."""
    if client.initiator is Initiator.REMOTE:
        return Ending(client.code, client.reason)
    if _was_lost(client):
        return _NO_CLOSE_FRAME
    if isinstance(client.cause, ProtocolError):
        return Ending(CloseCode.INTERNAL_ERROR, f"the client's connection failed: {client.cause}")
    return _GOING_AWAY


def ending_for_client(upstream: CloseInfo) -> Ending:
    """How to end the client's connection, given how the upstream's has ended."""
    if upstream.initiator is Initiator.REMOTE:
        return Ending(upstream.code, upstream.reason)
    if _was_lost(upstream):
        return _LOST_UPSTREAM
    return Ending(CloseCode.BAD_GATEWAY, f"the upstream's connection failed: {upstream.cause or upstream}")


def _was_lost(info: CloseInfo) -> bool:
    """Whether the network ended it, or the peer gave no sign of life any more."""
    if info.initiator is Initiator.NETWORK:
        return True
    if isinstance(info.cause, ProtocolError):
        return info.cause.code == CloseCode.INTERNAL_ERROR  # of keepalive
    return info.code == CloseCode.ABNORMAL_CLOSURE
