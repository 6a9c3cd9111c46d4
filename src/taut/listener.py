"""The callback API: synchronous, without a task per connection; the fastest path there is."""

from __future__ import annotations

from .connection import Connection
from .types import CloseInfo, Data

__all__ = ["Listener"]


class Listener:
    """Subclass it, override what matters, and pass the class to ``serve``: one instance is made for each connection.

    Callbacks run inside the read from the network, so they must not block; they answer with ``ws.send_nowait``.  A
    callback that raises closes its connection with 1011 and is logged.  Callbacks that are not overridden cost nothing.
    """

    def on_open(self, ws: Connection) -> None:
        """The opening handshake is complete."""

    def on_message(self, ws: Connection, message: Data) -> None:
        """A message has arrived: str for Text, bytes for Binary."""

    def on_ping(self, ws: Connection, data: bytes) -> None:
        """A Ping has arrived; its Pong has been sent already."""

    def on_pong(self, ws: Connection, data: bytes) -> None:
        """A Pong has arrived that answers no ``ws.ping()``."""

    def on_drain(self, ws: Connection) -> None:
        """What had to wait has left: after ``send_nowait`` returned ``BUFFERED`` or ``DROPPED``, go on sending."""

    def on_close(self, ws: Connection, info: CloseInfo) -> None:
        """The connection is gone; ``info`` tells who closed it, with what, and why. Called exactly once."""
