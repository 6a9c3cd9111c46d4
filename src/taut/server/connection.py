"""A connection on the server's side: who serves it, and what becomes of it when that fails."""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import Callable, Coroutine, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeAlias

from ..connection import Connection
from ..connection.filtering import Filter, Filtered
from ..errors import ConnectionClosed
from ..listener import Listener
from ..protocol.http1 import RequestReader, encode_request
from ..protocol.proxy_protocol import ProxyHeader
from ..protocol.session import Session
from ..types import ConnectionOptions, Opcode, Request, Response, State
from .handshake import plain_response
from .trust import Proxied
from .users import UserKey

if TYPE_CHECKING:
    from .routing import Match, Route
    from .server import Server

__all__ = ["Handler", "ServerConnection", "check_handler"]

Handler: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]
"""A coroutine function that is called with the connection, and with the parameters of its route by name."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class ServerConnection(Connection):
    """What a handler is given: see ``Connection``."""

    __slots__ = (
        "_failures",
        "_head",
        "_listener",
        "_locals",
        "_task",
        "admitted",
        "match",
        "principal",
        "proxied",
        "server",
        "shares",
        "user",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, options: ConnectionOptions, logger: logging.Logger, server: Server
    ) -> None:
        super().__init__(loop, options, logger)
        self.server = server
        self.principal: Any = None  # who is at the other end, once a hook has authenticated that
        self.proxied: Proxied | None = None  # what trusted proxies have said
        self.match: Match | None = None  # what the router has found
        self.admitted: bytes | None = None  # what ``server.admission`` counts it under, by its address
        self.user: UserKey | None = None  # and by its user
        self.shares: tuple[str, ...] = ()  # what it has taken of the limits that are shared with other servers
        self._head: bytes | None = None
        self._listener: Listener | None = None
        self._task: asyncio.Task[Any] | None = None
        self._locals: SimpleNamespace | None = None
        self._failures: list[Exception] | None = None  # of a listener, for the middleware around it

    @property
    def request(self) -> Request | None:
        """The request of the opening handshake: path, headers."""
        if self._request is None and self._head is not None:
            # An idle connection keeps the bytes of its request, not the objects made of them.
            reader = RequestReader(max_head=len(self._head), max_headers=1 << 16, max_line=len(self._head))
            reader.feed(self._head)
            return reader.request
        return self._request

    def _target(self) -> str | None:
        if self._request is None and self._head is not None:
            return self._head.split(b" ", 2)[1].decode("latin-1")  # it was parsed before
        return super()._target()

    @property
    def proxy_header(self) -> ProxyHeader | None:
        """What a proxy has said in the PROXY protocol; None without."""
        return None if self.proxied is None else self.proxied.header

    @property
    def route(self) -> Route | None:
        """The route of the ``Router`` that serves this connection; None without."""
        return None if self.match is None else self.match.route

    @property
    def path_parameters(self) -> Mapping[str, Any]:
        """The parameters of the route's path and host, converted."""
        return _NOTHING if self.match is None else self.match.parameters

    @property
    def locals(self) -> Any:
        """What hooks, middleware and the handler keep with the connection: a namespace, made when first asked for."""
        if self._locals is None:
            self._locals = SimpleNamespace()
        return self._locals

    def _address(self, name: str) -> Any:
        if self.proxied is not None and self.transport is not None:
            said = self.proxied.remote if name == "peername" else self.proxied.local
            if said is not None:
                return said
        return super()._address(name)

    def respond(self, status: http.HTTPStatus | int, text: str = "") -> Response:
        """A plain-text HTTP response, for ``process_request`` to refuse or answer a request with."""
        return plain_response(status, text)

    def pass_through(self, message_filter: Filter) -> None:
        """Let messages pass through this from now on; only before the connection is open."""
        self.message_filter = message_filter
        self.__class__ = FilteredServerConnection  # pyright: ignore[reportAttributeAccessIssue]

    # -- serving -----------------------------------------------------------------------------------------------

    def begin(self, transport: asyncio.Transport, session: Session, handler: Handler | type[Listener]) -> None:
        """The handshake is done: open the connection and hand it over."""
        if self._request is not None:
            self._head, self._request = encode_request(self._request), None
        try:
            if isinstance(handler, type):
                self._begin_listener(transport, session, handler)
            else:
                self.open(transport, session)
                parameters = self.path_parameters
                self._task = self.loop.create_task(handler(self, **parameters) if parameters else handler(self))
                self._task.add_done_callback(self._handler_done)
        except Exception as exc:
            self._handler_failed(exc)

    def _begin_listener(self, transport: asyncio.Transport, session: Session, kind: type[Listener]) -> None:
        try:
            listener = self._listener = kind()
        except Exception:
            self.open(transport, session)
            raise
        session.observe_control(_hears_control(kind))
        self.open(transport, session, self._taking(listener.on_message))
        listener.on_open(self)

    async def attend(self, kind: type[Listener]) -> None:
        """Let a listener have the connection, which is open, until it is closed; raises what a callback raised."""
        listener = kind()
        failures = self._failures = []
        try:
            self.session.observe_control(_hears_control(kind))
            try:
                listener.on_open(self)
            except Exception as exc:
                self._handler_failed(exc)
            else:
                self.listen(self._taking(listener.on_message))
            if self.closed:
                listener.on_close(self, self._ending_info())
            else:
                self._listener = listener
                await self.wait_closed()
        finally:
            self._failures = None  # whoever cancels the task is not told of them any more
        if failures:
            raise failures[0]

    def _handler_done(self, task: asyncio.Task[Any]) -> None:
        self._task = None
        if task.cancelled():
            self._start_close(1001, "the handler was cancelled")
        elif (exc := task.exception()) is not None:
            self._handler_failed(exc)
        else:
            self._start_close()
        if self.closed:
            self.server.connection_done(self)

    def _handler_failed(self, exc: BaseException) -> None:
        """A handler or a callback raised: that ends its own connection, and nothing else."""
        if self._failures is not None and isinstance(exc, Exception):
            self._failures.append(exc)
        elif not (isinstance(exc, ConnectionClosed) and self.session.phase_name != "OPEN"):
            self._report(exc)
        self._start_close(1011, "the handler failed")

    def _report(self, failure: BaseException) -> None:
        self.logger.error("connection handler failed", exc_info=failure, extra=self.log_fields())

    def _control_events(self, events: list[tuple[int, bytes, float]]) -> None:
        super()._control_events(events)
        for _, _, round_trip in events:
            if round_trip >= 0:
                self.server.tally.round_trips.observe(round_trip)
        if self._listener is None:
            return
        try:
            for opcode, payload, round_trip in events:
                if opcode == Opcode.PING:
                    self._listener.on_ping(self, payload)
                elif round_trip < 0:
                    self._listener.on_pong(self, payload)
        except Exception as exc:
            self._handler_failed(exc)

    def begin_close(self, code: int, reason: str) -> None:
        """What ``close`` does, without waiting for the end."""
        self._start_close(code, reason)

    def _writable(self) -> None:
        super()._writable()
        if self._listener is not None and self.state is State.OPEN and not self._is_behind:
            try:
                self._listener.on_drain(self)
            except Exception as exc:
                self._handler_failed(exc)

    def _lost(self, exc: BaseException | None) -> None:
        super()._lost(exc)
        self.server.admission.closed(self)
        listener, self._listener = self._listener, None
        if listener is not None:
            try:
                listener.on_close(self, self._ending_info())
            except Exception as failure:
                self._report(failure)
        self.server.passage(self.route).tell_closed(self, self._ending_info())
        if self._task is None:
            self.server.connection_done(self)
        elif self.options.cancel_on_close and listener is None:
            self._task.cancel()

    @property
    def handler_task(self) -> asyncio.Task[Any] | None:
        """The task that runs the handler; None once it has returned, and for a ``Listener`` without middleware."""
        return self._task

    def cancel_handler(self) -> None:
        """End a handler that has not noticed that its connection is gone."""
        if self._task is not None:
            self._task.cancel()


class FilteredServerConnection(Filtered, ServerConnection):
    """A connection on the server's side whose messages are decoded, or pass through hooks."""

    __slots__ = ()


def _hears_control(kind: type[Listener]) -> bool:
    return kind.on_ping is not Listener.on_ping or kind.on_pong is not Listener.on_pong


def check_handler(handler: Handler | type[Listener]) -> Handler | type[Listener]:
    """Refuse what cannot serve connections."""
    if isinstance(handler, type):
        if issubclass(handler, Listener):
            return handler
        raise TypeError(
            f"handler must be a coroutine function or a subclass of taut.Listener, not the class {handler!r}"
        )
    if isinstance(handler, Listener):
        raise TypeError(f"handler must be the class {type(handler).__name__} itself: one instance is made a connection")
    if not callable(handler):
        raise TypeError(f"handler must be a coroutine function or a subclass of taut.Listener, not {handler!r}")
    return handler
