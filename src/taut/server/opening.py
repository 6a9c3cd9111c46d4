"""The opening handshake of one connection, on the server's side (RFC 6455, 4.2).

Drives ``ServerHandshake`` over a transport: reads a request within limits of size and time, lets the hooks of the
server have their say, and answers it; with 101 the connection takes over the transport, with anything else the
transport is closed once the answer has left.  This object is gone once the connection is open.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, cast

from ..errors import InvalidHandshake, InvalidMessage, OpenTimeout
from ..listener import Listener
from ..protocol.handshake import refusal
from ..protocol.http1 import encode_response
from ..types import Response
from .connection import Handler
from .handshake import ServerHandshake
from .middleware import shake_hands
from .routing import Match, finish_answer
from .terms import RouteRules
from .trust import Proxied, TrustedProxies, proxied_by_request

if TYPE_CHECKING:
    from .server import Server

__all__ = ["Opening"]

_LINGER = 1.0
"""How long a refused peer may take to read the answer (seconds)."""


class Opening(asyncio.Protocol):
    """A connection that is not open yet."""

    __slots__ = (
        "_answered",
        "_begun_at",
        "_deadline",
        "_early",
        "_handshake",
        "_reading",
        "_rules",
        "_started",
        "_task",
        "connection",
        "server",
        "transport",
    )

    transport: asyncio.Transport

    def __init__(self, server: Server) -> None:
        self.server = server
        self._handshake = ServerHandshake(server)
        self._rules: RouteRules | None = None
        self._reading = True
        self._task: asyncio.Task[None] | None = None
        self._early = b""
        self._answered = False
        self._deadline: asyncio.TimerHandle | None = None
        self._begun_at: float | None = None
        self._started = 0.0
        self.connection = server.new_connection()

    def go_on_from(self, begun_at: float, proxied: Proxied | None) -> None:
        """The connection began earlier, on the loop's clock, and this is known of it; before ``connection_made``."""
        self._begun_at = begun_at
        self.connection.proxied = proxied

    # -- from the transport ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = self.connection.transport = cast(asyncio.Transport, transport)
        self.server.openings.add(self)
        timeout, loop = self.server.open_timeout, self.server.loop
        now = loop.time()
        begun_at = now if self._begun_at is None else self._begun_at
        self._started = time.monotonic() - (now - begun_at)  # the clock of uvloop is too coarse to measure with
        if timeout is not None:
            self._deadline = loop.call_at(begun_at + timeout, self._timed_out, timeout)

    def data_received(self, data: bytes) -> None:
        if not self._reading:
            if not self._answered:
                self._early += data  # a transport may still deliver what it had read before it was paused
            return
        try:
            if not self._handshake.feed(data):
                return
        except InvalidMessage as exc:
            self.refuse(exc)
            return
        self._reading = False
        self.transport.pause_reading()
        if self.server.draining and self._asks_for_websocket():
            self._turn_away()
            return
        trusted = self.server.trusted_proxies
        if trusted is not None and not self._look_behind_proxies(trusted):
            return
        self._negotiate()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._answered:
            self.server.tally.failed += 1
            if self.connection.watcher is not None:
                self.connection.watcher.tell("on_failed", exc)
        self._answered = True
        self._forget_deadline()
        self._cancel_hook()
        self.connection.transport = None
        self.server.admission.leave(self.connection.admitted)
        self.server.admission.leave_shared(self.connection)
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

    def _look_behind_proxies(self, trusted: TrustedProxies) -> bool:
        """Take note of what the headers of trusted proxies say; False if the request was refused for it."""
        connection, request = self.connection, self._handshake.request
        peer = self.transport.get_extra_info("peername")
        try:
            connection.proxied = proxied_by_request(connection.proxied, request.headers, peer, trusted)
            if connection.proxied is not None and connection.admitted is None:
                connection.admitted = self.server.admission.enter(connection.proxied.remote)
        except InvalidHandshake as exc:
            self.refuse(exc)
            return False
        return True

    # -- the negotiation ---------------------------------------------------------------------------------------

    def _negotiate(self) -> None:
        """Without hooks of the server nothing has to be waited for, except where a route has one."""
        self.connection.record_handshake(self._handshake.request)
        loop = self.server.loop
        if self.server.has_hooks:
            self._task = loop.create_task(self._negotiate_with_hooks(self._answer_on_server))
            return
        try:
            response = self._route()
            if response is None and self._asks_route():
                self._task = loop.create_task(self._negotiate_with_hooks(self._answer_on_route))
            else:
                self._respond(response or self._accept())
        except InvalidHandshake as exc:
            self.refuse(exc)
        except Exception as exc:
            self._failed(exc)

    async def _negotiate_with_hooks(self, answer: Callable[[], Awaitable[Response]]) -> None:
        try:
            self._respond(await answer())
        except InvalidHandshake as exc:
            self.refuse(exc)
        except Exception as exc:
            self._failed(exc)

    async def _answer_on_server(self) -> Response:
        """The answer, with what the server has to say: its middleware, its hooks, then the route."""
        hooks = self.server.handshake_hooks
        return await shake_hands(hooks, self.connection, self._handshake.request, self._answer_within)

    async def _answer_within(self) -> Response:
        server, connection, request = self.server, self.connection, self._handshake.request
        response: Response | None = None
        if server.process_request is not None:
            answer = server.process_request(connection, request)
            response = await answer if inspect.isawaitable(answer) else answer
        if response is None:
            response = self._route()
        if response is None:
            response = await (self._answer_on_route() if self._asks_route() else self._accept_shared())
        if server.process_response is not None:
            revised = server.process_response(connection, request, response)
            revised = await revised if inspect.isawaitable(revised) else revised
            response = response if revised is None else revised
        return response

    # -- the route ---------------------------------------------------------------------------------------------

    def _route(self) -> Response | None:
        """Find the route, if there is a router; the response if no route is for this request."""
        connection, server = self.connection, self.server
        if server.router is None:
            return None
        host = None if connection.proxied is None else connection.proxied.host
        found = server.router.find(self._handshake.request, host)
        if isinstance(found, Response):
            return found
        connection.match = found
        if found.route.methods is None:
            self._rules = server.rules_of(found.route)
            connection.options = self._rules.options
        return None

    def _asks_route(self) -> bool:
        """Whether the route has code of its own that answers the request, or may."""
        match = self.connection.match
        if match is None:
            return False
        if match.route.methods is not None or match.route.terms.process_request is not None:
            return True
        return bool(self.server.passage(match.route).handshake_hooks)

    async def _answer_on_route(self) -> Response:
        """The answer of the route, with its middleware around it."""
        hooks = self.server.passage(cast("Match", self.connection.match).route).handshake_hooks
        return await shake_hands(hooks, self.connection, self._handshake.request, self._answer_of_route)

    async def _answer_of_route(self) -> Response:
        match, request = cast("Match", self.connection.match), self._handshake.request
        if match.route.methods is None:
            hook = match.route.terms.process_request
            ruling = None if hook is None else hook(self.connection, request)
            return (await ruling if inspect.isawaitable(ruling) else ruling) or await self._accept_shared()
        answer = match.route.target(self.connection, request, **match.parameters)
        answer = await answer if inspect.isawaitable(answer) else answer
        return finish_answer(request, answer)

    async def _accept_shared(self) -> Response:
        """Accept, unless there are too many on the servers that share their limits."""
        response = self._accept()
        if (sharing := self.server.admission.sharing) is not None:
            await sharing.open(self.connection)
        return response

    def _accept(self) -> Response:
        secure, host = self.transport.get_extra_info("sslcontext") is not None, None
        if (proxied := self.connection.proxied) is not None:
            secure, host = proxied.secure_or(secure), proxied.host
        response = self._handshake.accept(
            self.connection, self.server.contexts, secure=secure, host=host, now=time.monotonic(), rules=self._rules
        )
        self.connection.subprotocol = self._handshake.subprotocol
        return response

    def _respond(self, response: Response) -> None:
        connection, server, session = self.connection, self.server, self._handshake.session
        if response.status_code != 101:
            self._refuse_with(response)
            return
        if self._answered or self.transport.is_closing():
            return
        if session is None:
            self._failed(RuntimeError("a hook answered 101 by itself, which is not its part: let the server accept"))
            return
        if server.draining or server.closing.done():
            self._turn_away()
            return
        head = encode_response(response)  # before anything is final: what a hook has made of it may be wrong
        server.admission.open(connection)
        self._answered = True
        self._forget_deadline()
        self._task = None
        server.opening_done(self)
        if connection.watcher is not None:
            connection.watcher.tell("on_response", response)
        self.transport.write(head)
        server.connections_open.add(connection)
        server.count_changed()
        server.tally.accepted += 1
        server.tally.handshake_times.observe(time.monotonic() - self._started)
        match = connection.match
        target = cast("Handler | type[Listener]", server.handler if match is None else match.route.target)
        passage = server.passage(connection.route)
        if (message_filter := passage.filter_for(connection.subprotocol)) is not None:
            connection.pass_through(message_filter)
        connection.begin(self.transport, session, passage.around(target))
        early = self._handshake.remaining + self._early
        if early:
            connection.feed(early)
        if not connection.read_paused:  # what came early may be more than it takes unread
            self.transport.resume_reading()

    # -- refusing ----------------------------------------------------------------------------------------------

    def refuse(self, exc: InvalidHandshake) -> None:
        """Answer with the HTTP response that ``exc`` calls for, unless the answer is given already."""
        if self._answered:
            return
        logger = self.server.logger
        if logger.isEnabledFor(logging.INFO):
            logger.info("opening handshake refused: %s", exc, extra=self.connection.log_fields())
        self._refuse_with(refusal(exc))

    def turn_away(self) -> None:
        """The server is draining: answer with 503 if it is known that this is about WebSocket, else when it is."""
        if not self._reading and not self._answered and self._asks_for_websocket():
            self._turn_away()

    def _asks_for_websocket(self) -> bool:
        """Whether the complete request is for WebSocket; a health check is not, and is answered as ever."""
        return "websocket" in self._handshake.request.headers.get("Upgrade", "").lower()

    def _turn_away(self) -> None:
        exc, plan = InvalidMessage("the server is shutting down", status=503), self.server.plan
        self.server.logger.info("opening handshake refused: %s", exc)
        response = refusal(exc)
        if plan is not None:
            response.headers["Retry-After"] = plan.retry_header()
        self._refuse_with(response)

    def _failed(self, exc: Exception) -> None:
        self.server.logger.error("opening handshake failed", exc_info=exc, extra=self.connection.log_fields())
        self._refuse_with(refusal(InvalidMessage("internal error", status=500)))

    def _refuse_with(self, response: Response) -> None:
        self._reading = False
        self._early = b""
        if not self._answered:
            if self.connection.watcher is not None:
                self.connection.watcher.tell("on_response", response)
            self.server.tally.answered[response.status_code] += 1
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
