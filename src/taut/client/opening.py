"""The opening handshake of one connection, on the client's side (RFC 6455, 4.1).

Sends the request as soon as there is a transport, reads the response, and checks it.  When it is a 101 that agrees to
what was offered, the connection takes over the transport; ``done`` tells the outcome.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import cast

from ..connection import Connection
from ..errors import InvalidHandshake
from ..protocol import deflate
from ..protocol.frames import MaskPool
from ..protocol.handshake import check_response, extension_lines
from ..protocol.http1 import ResponseReader, encode_request
from ..protocol.session import Session
from ..types import DeflateOptions, Request

__all__ = ["ClientConnection", "Opening"]


class ClientConnection(Connection):
    """What ``connect`` returns: see ``Connection``."""

    __slots__ = ()


class Opening(asyncio.Protocol):
    """A connection that is not open yet."""

    def __init__(
        self,
        connection: ClientConnection,
        request: Request,
        *,
        subprotocols: Sequence[str],
        deflate_options: DeflateOptions | None,
        contexts: deflate.ContextPool,
        masks: MaskPool,
        max_head: int,
        max_headers: int,
    ) -> None:
        self.connection = connection
        self.done: asyncio.Future[None] = connection.loop.create_future()
        self._request = request
        self._subprotocols = subprotocols
        self._deflate = deflate_options
        self._contexts = contexts
        self._masks = masks
        self._reader = ResponseReader(max_head=max_head, max_headers=max_headers)
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.connection.record_handshake(self._request)
        self.transport.write(encode_request(self._request))

    def data_received(self, data: bytes) -> None:
        if self.done.done():
            return
        try:
            if self._reader.feed(data):
                self._finish()
        except InvalidHandshake as exc:
            self._fail(exc)

    def eof_received(self) -> bool:
        if not self.done.done():
            try:
                self._reader.eof()
                self._finish()
            except InvalidHandshake as exc:
                self._fail(exc)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            problem = "the connection was lost before the response was complete"
            failure = InvalidHandshake(problem, request=self._request)
            failure.__cause__ = exc
            self.done.set_exception(failure)

    def _fail(self, exc: InvalidHandshake) -> None:
        exc.request = self._request
        if not self.done.done():
            self.done.set_exception(exc)
        if self.transport is not None:
            self.transport.abort()

    def _finish(self) -> None:
        """The response is complete: check it, and open the connection."""
        response = self._reader.response
        connection = self.connection
        key = self._request.headers["Sec-WebSocket-Key"]
        try:
            connection.subprotocol = check_response(key, response, subprotocols=self._subprotocols)
            parameters = deflate.agree(extension_lines(response.headers), self._deflate)
        except InvalidHandshake as exc:
            exc.response = response
            raise
        codec = None
        if parameters is not None and self._deflate is not None:
            codec = deflate.Deflate(parameters, self._deflate, server=False, pool=self._contexts)
        connection.record_handshake(self._request, response)
        session = Session(connection.options, client=True, masks=self._masks, deflate=codec, now=time.monotonic())
        assert self.transport is not None  # set before any data can arrive
        connection.open(self.transport, session)
        self.done.set_result(None)
        if self._reader.remaining:
            connection.feed(self._reader.remaining)
