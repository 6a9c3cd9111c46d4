"""What has been opened for one client: a connection to an upstream, counted and logged."""

from __future__ import annotations

import logging
import time

from ..client.opening import ClientConnection
from ..server.connection import ServerConnection
from .answers import Reached
from .paths import split_target
from .served import ServedRoute

__all__ = ["Leg"]


class Leg:
    """A connection to an upstream that has been opened for a client."""

    def __init__(self, served: ServedRoute, reached: Reached, target: str, logger: logging.Logger) -> None:
        self.served = served
        self.upstream: ClientConnection = reached.connection
        self._backend = reached.backend
        self._path = split_target(target)[0]  # a query may hold a token
        self._logger = logger
        self._begun = time.monotonic()
        self._backend.connections += 1
        self._backend.opened += 1

    def log(self, client: ServerConnection) -> None:
        """One line about a connection that has ended."""
        up, down = client.stats, self.upstream.stats
        backend = self._backend
        backend.messages_up += up.messages_received
        backend.messages_down += down.messages_received
        backend.bytes_up += up.bytes_received
        backend.bytes_down += down.bytes_received
        self._logger.info(
            "%s to %s: client %s; upstream %s; open for %.3f s, %d messages and %d bytes up, "
            "%d messages and %d bytes down",
            self._path,
            backend.name,
            client.close_info or "still open",
            self.upstream.close_info or "still open",
            time.monotonic() - self._begun,
            up.messages_received,
            up.bytes_received,
            down.messages_received,
            down.bytes_received,
        )

    def end(self) -> None:
        """Nobody needs it any more; as a rule it is closed by now."""
        self._backend.connections -= 1
        self.upstream.abort()
