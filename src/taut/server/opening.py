"""The opening handshake of one connection, on the server's side (RFC 6455, 4.2).

Drives ``protocol.handshake`` over a transport: reads a request within limits of size and time, lets the hooks of the
server have their say, and answers it; with 101 the connection takes over the transport, with anything else the
transport is closed once the answer has left.  This object is gone once the connection is open.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, cast

from ..errors import InvalidHandshake, InvalidMessage, OpenTimeout
from ..protocol import deflate
from ..protocol.handshake import (
    accept_response,
    check_origin,
    check_request,
    extension_lines,
    offered_subprotocols,
    refusal,
    select_subprotocol,
)
from ..protocol.http1 import RequestReader, encode_response
from ..protocol.session import Session
from ..types import Request, Response

if TYPE_CHECKING:
    from .server import Server

__all__ = ["Opening"]

_LINGER = 1.0
"""How long a refused peer may take to read the answer (seconds)."""


class Opening(asyncio.Protocol):
    """A connection that is not open yet."""

    __slots__ = (
        "_answered",
        "_deadline",
        "_early",
        "_reader",
        "_session",
        "_task",
        "connection",
        "server",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, server: Server) -> None:
        self.server = server
        self._reader: RequestReader | None = server.request_reader()
        self._task: asyncio.Task[None] | None = None
        self._early = b""
        self._answered = False
        self._session: Session | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self.connection = server.new_connection()

    # -- from the transport ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = self.connection.transport = cast(asyncio.Transport, transport)
        self.server.openings.add(self)
        timeout = self.server.open_timeout
        if timeout is not None:
            self._deadline = self.server.loop.call_later(timeout, self._timed_out, timeout)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        if reader is None:
            if not self._answered:
                self._early += data  # a transport may still deliver what it had read before it was paused
            return
        try:
            if not reader.feed(data):
                return
        except InvalidMessage as exc:
            self.refuse(exc)
            return
        self._reader = None
        self.transport.pause_reading()
        if self.server.has_hooks:
            self._task = self.server.loop.create_task(self._negotiate_with_hooks(reader))
        else:
            self._negotiate(reader)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._answered = True
        self._forget_deadline()
        self._cancel_hook()
        self.connection.transport = None
        self.server.opening_done(self)

    def _timed_out(self, timeout: float) -> None:
        self._deadline = None
        self.refuse(OpenTimeout(timeout))

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _cancel_hook(self) -> None:
        """Nothing depends on a hook that is still deciding any more."""
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    # -- the negotiation ---------------------------------------------------------------------------------------

    def _negotiate(self, reader: RequestReader) -> None:
        """Without hooks, nothing has to be waited for."""
        request = reader.request
        self.connection.record_handshake(request)
        try:
            key, subprotocol = self._check(request)
            self._respond(request, self._accept(request, key, subprotocol), reader.remaining)
        except InvalidHandshake as exc:
            self.refuse(exc)
        except Exception as exc:
            self._failed(exc)

    async def _negotiate_with_hooks(self, reader: RequestReader) -> None:
        request = reader.request
        self.connection.record_handshake(request)
        server = self.server
        try:
            response: Response | None = None
            if server.process_request is not None:
                answer = server.process_request(self.connection, request)
                response = await answer if inspect.isawaitable(answer) else answer
            if response is None:
                key, subprotocol = self._check(request)
                response = self._accept(request, key, subprotocol)
            if server.process_response is not None:
                revised = server.process_response(self.connection, request, response)
                revised = await revised if inspect.isawaitable(revised) else revised
                response = response if revised is None else revised
            self._respond(request, response, reader.remaining)
        except InvalidHandshake as exc:
            self.refuse(exc)
        except Exception as exc:
            self._failed(exc)

    def _check(self, request: Request) -> tuple[str, str | None]:
        """Everything that can refuse a request, in the order in which the answers make sense."""
        server = self.server
        key = check_request(request)
        check_origin(request, server.origins, secure=self.transport.get_extra_info("sslcontext") is not None)
        if server.select_subprotocol is not None:
            return key, server.select_subprotocol(self.connection, offered_subprotocols(request))
        if not server.subprotocols:
            return key, None
        return key, select_subprotocol(offered_subprotocols(request), server.subprotocols)

    def _accept(self, request: Request, key: str, subprotocol: str | None) -> Response:
        server = self.server
        codec = None
        extensions = None
        if server.deflate is not None:
            agreed = deflate.accept(extension_lines(request.headers), server.deflate)
            if agreed is not None:
                parameters, extensions = agreed
                codec = deflate.Deflate(parameters, server.deflate, server=True, pool=server.contexts)
        response = accept_response(
            request, key, subprotocol=subprotocol, extensions=extensions, server_header=server.server_header
        )
        self.connection.subprotocol = subprotocol
        self._session = Session(self.connection.options, client=False, deflate=codec, now=time.monotonic())
        return response

    def _respond(self, request: Request, response: Response, remaining: bytes) -> None:
        connection, server = self.connection, self.server
        if response.status_code != 101:
            self._refuse_with(response)
            return
        if self._answered or self.transport.is_closing():
            return
        if self._session is None:
            self._failed(RuntimeError("process_request answered 101, which is not its part: return None to accept"))
            return
        if not server.is_serving():
            self.refuse(InvalidMessage("the server is shutting down", status=503))
            return
        head = encode_response(response)  # before anything is final: what a hook has made of it may be wrong
        self._answered = True
        self._forget_deadline()
        self._task = None
        server.opening_done(self)
        self.transport.write(head)
        server.connections_open.add(connection)
        connection.begin(self.transport, self._session, server.handler)
        if remaining or self._early:
            connection.feed(remaining + self._early)
        if not connection.read_paused:  # what came early may be more than it takes unread
            self.transport.resume_reading()

    # -- refusing ----------------------------------------------------------------------------------------------

    def refuse(self, exc: InvalidHandshake) -> None:
        """Answer with the HTTP response that ``exc`` calls for, unless the answer is given already."""
        if self._answered:
            return
        self.server.logger.info("opening handshake refused: %s", exc)
        self._refuse_with(refusal(exc))

    def _failed(self, exc: Exception) -> None:
        self.server.logger.error("opening handshake failed", exc_info=exc)
        self._refuse_with(refusal(InvalidMessage("internal error", status=500)))

    def _refuse_with(self, response: Response) -> None:
        self._reader = None
        self._early = b""
        self._answered = True
        self._forget_deadline()
        self._cancel_hook()
        if self.transport.is_closing():
            return
        self.transport.write(encode_response(response))
        # Closing with unread input would reset the connection, and the peer might lose the answer.
        self._deadline = self.server.loop.call_later(_LINGER, self.transport.abort)
        self.transport.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()
