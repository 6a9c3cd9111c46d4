"""The opening of one connection on an asyncio transport, on the client's side.

Sends the request as soon as there is a transport, reads the response, and when that opens a session the connection
takes over the transport; ``done`` tells the outcome.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

from ..connection import Connection
from ..connection.filtering import Filter, Filtered
from ..errors import ConnectError, InvalidHandshake
from ..protocol.deflate import ContextPool
from .dialling.certificates import check_pins
from .handshake import ClientHandshake

__all__ = ["ClientConnection", "Opening"]


class ClientConnection(Connection):
    """What ``connect`` returns: see ``Connection``."""

    __slots__ = ()

    def pass_through(self, message_filter: Filter) -> None:
        """Let messages pass through this from now on; only before the connection is open."""
        self.message_filter = message_filter
        self.__class__ = FilteredClientConnection  # pyright: ignore[reportAttributeAccessIssue]


class FilteredClientConnection(Filtered, ClientConnection):
    """A connection on the client's side whose messages are decoded."""

    __slots__ = ()


class Opening(asyncio.Protocol):
    """A connection that is not open yet. ``pins``: of the server's certificate, empty for any."""

    def __init__(
        self,
        connection: ClientConnection,
        handshake: ClientHandshake,
        contexts: ContextPool,
        pins: frozenset[tuple[str, bytes]] = frozenset(),
    ) -> None:
        self.connection = connection
        self.done: asyncio.Future[None] = connection.loop.create_future()
        self.transport: asyncio.Transport | None = None
        self._handshake = handshake
        self._contexts = contexts
        self._pins = pins

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self._pins:
            tls: Any = transport.get_extra_info("ssl_object")
            try:
                check_pins(tls.getpeercert(binary_form=True) or b"", self._pins)
            except ConnectError as exc:
                self._fail(exc)
                return
        if self.connection.watcher is not None:
            self.connection.watcher.connected(secure=transport.get_extra_info("sslcontext") is not None)
        self.connection.record_handshake(self._handshake.request)
        self.transport.write(self._handshake.request_bytes)

    def data_received(self, data: bytes) -> None:
        if self.done.done():
            return
        try:
            if self._handshake.feed(data):
                self._finish()
        except InvalidHandshake as exc:
            self._fail(exc)

    def eof_received(self) -> bool:
        if not self.done.done():
            try:
                self._handshake.eof()
                self._finish()
            except InvalidHandshake as exc:
                self._fail(exc)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            problem = "the connection was lost before the response was complete"
            failure = InvalidHandshake(problem, request=self._handshake.request)
            failure.__cause__ = exc
            self.done.set_exception(failure)

    def _fail(self, exc: ConnectError) -> None:
        if not self.done.done():
            self.done.set_exception(exc)
        if self.transport is not None:
            self.transport.abort()

    def _finish(self) -> None:
        """The response is complete: check it, and open the connection."""
        handshake, connection = self._handshake, self.connection
        session = handshake.accept(self._contexts, time.monotonic())
        connection.subprotocol = handshake.subprotocol
        connection.record_handshake(handshake.request, handshake.response)
        if (codec := handshake.codec) is not None:
            connection.pass_through(Filter(codec))
        assert self.transport is not None  # set before any data can arrive
        connection.open(self.transport, session)
        self.done.set_result(None)
        if handshake.remaining:
            connection.feed(handshake.remaining)
