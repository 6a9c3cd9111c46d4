"""Middleware: layers around the opening handshake, the handler and the messages of connections.

Like the skins of an onion: the outermost layer, the server's first, sees a request first and its response last, and so
with the life of a connection, and with messages.  Only the methods that a layer overrides are ever called, and they are
looked up once for each route (``Passage``), not for each connection, so a server without middleware runs none of this.

A layer calls ``call_next`` at most once.  Whatever goes wrong within reaches it as an exception, except for refused
handshakes: those are responses like any other.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, ClassVar, TypeAlias, cast

from ..connection.filtering import DROP, Drop, Filter
from ..errors import InvalidHandshake
from ..listener import Listener
from ..options import check_sequence
from ..protocol.handshake import refusal
from ..subprotocols import Offer, Subprotocol
from ..types import CloseInfo, Request, Response
from .connection import Handler, ServerConnection

__all__ = ["HandshakeHook", "Layer", "Middleware", "Passage", "check_middleware", "handshake_hooks", "shake_hands"]

ConnectionHook: TypeAlias = Callable[[ServerConnection, Callable[[], Awaitable[None]]], Awaitable[None]]
HandshakeHook: TypeAlias = Callable[[ServerConnection, Request, Callable[[], Awaitable[Response]]], Awaitable[Response]]


class Middleware:
    """A layer around connections: subclass it, override what matters, and pass an object to ``middleware``.

    One object serves every connection; what belongs to one goes to ``ws.locals``. ``DROP``: what a message hook returns
    for a message that goes no further.
    """

    DROP: ClassVar[Drop] = DROP

    async def handshake(
        self, ws: ServerConnection, request: Request, call_next: Callable[[], Awaitable[Response]]
    ) -> Response:
        """Answer an opening handshake, before anything is accepted.

        ``await call_next()`` gives the response of what is within: 101, or a refusal. Return it, changed or not, or
        another one without calling it, ``ws.respond(403)`` for example. ``InvalidHandshake`` that is raised is answered
        as what it says, anything else with 500.
        """
        return await call_next()

    async def connection(self, ws: ServerConnection, call_next: Callable[[], Awaitable[None]]) -> None:
        """Run around the life of an open connection.

        ``await call_next()`` runs the handler, or the ``Listener`` from ``on_open`` to ``on_close``, and raises what
        that raises. The connection is closed, or is closed with 1000, when this returns; with 1011 when it raises.
        """
        await call_next()

    def message_in(self, ws: ServerConnection, message: Any) -> Any:
        """Take a message, or a decoded value, that has arrived, and return what the handler gets, or ``DROP``.

        Raise ``MessageRejected`` to close the connection with a code; anything else closes it with 1011, and is logged.
        """
        return message

    def message_out(self, ws: ServerConnection, message: Any) -> Any:
        """Take what the handler sends, and return what leaves, or ``DROP``; what it raises reaches the handler."""
        return message

    def closed(self, ws: ServerConnection, info: CloseInfo) -> None:
        """The connection is gone, whether its handler has noticed or not. Called exactly once; must not block."""


Layer: TypeAlias = Middleware | ConnectionHook
"""What ``middleware`` takes: a coroutine function is a layer that has nothing but ``connection``."""


class _Around(Middleware):
    """A layer that is a coroutine function."""

    def __init__(self, function: ConnectionHook) -> None:
        self._function = function

    async def connection(self, ws: ServerConnection, call_next: Callable[[], Awaitable[None]]) -> None:
        await self._function(ws, call_next)


def check_middleware(value: object) -> tuple[Middleware, ...]:
    """The layers that the option stands for, the outermost first, none for None. Raises ``TypeError``."""
    layers: Sequence[object] = check_sequence("middleware", value, (object,)) or ()
    return tuple(_layer(each) for each in layers)


def _layer(given: object) -> Middleware:
    if isinstance(given, Middleware):
        return given
    asynchronous = callable(given) and (
        inspect.iscoroutinefunction(given) or inspect.iscoroutinefunction(type(given).__call__)
    )
    if isinstance(given, type) or not asynchronous:
        raise TypeError(
            f"middleware must hold taut.Middleware objects, or coroutine functions of ws and call_next, not {given!r}"
        )
    return _Around(cast("ConnectionHook", given))


def _overriding(layers: Sequence[Middleware], name: str) -> tuple[Any, ...]:
    """The methods of this name of the layers that have one of their own."""
    return tuple(getattr(each, name) for each in layers if getattr(type(each), name) is not getattr(Middleware, name))


# -- around the handshake --------------------------------------------------------------------------------------


def handshake_hooks(layers: Sequence[Middleware]) -> tuple[HandshakeHook, ...]:
    """Those of the layers that have something to do around the handshake."""
    return _overriding(layers, "handshake")


async def shake_hands(
    hooks: Sequence[HandshakeHook],
    ws: ServerConnection,
    request: Request,
    answer: Callable[[], Awaitable[Response]],
) -> Response:
    """What the hooks make of the response that ``answer`` gives."""
    for hook in reversed(hooks):
        answer = functools.partial(_ask, hook, ws, request, _Answered(answer, ws))
    return await answer()


async def _ask(
    hook: HandshakeHook, ws: ServerConnection, request: Request, call_next: Callable[[], Awaitable[Response]]
) -> Response:
    response = await hook(ws, request, call_next)
    if not isinstance(response, Response):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"handshake() of a middleware must return a Response, not {response!r}")
    return response


class _Once:
    """Refuses to be called again."""

    called = False

    def begin(self) -> None:
        if self.called:
            raise RuntimeError("a middleware has called call_next twice")
        self.called = True


class _Answered(_Once):
    """``call_next`` of a handshake: refusals are responses."""

    def __init__(self, answer: Callable[[], Awaitable[Response]], ws: ServerConnection) -> None:
        self._answer = answer
        self._ws = ws

    async def __call__(self) -> Response:
        self.begin()
        try:
            return await self._answer()
        except InvalidHandshake as exc:
            self._ws.logger.info("opening handshake refused: %s", exc)
            return refusal(exc)


# -- around the connection -------------------------------------------------------------------------------------


class _Served(_Once):
    """``call_next`` of a connection."""

    def __init__(self, serve: Callable[[], Awaitable[None]]) -> None:
        self._serve = serve

    async def __call__(self) -> None:
        self.begin()
        await self._serve()


def _surrounded(hooks: Sequence[ConnectionHook], target: Handler | type[Listener]) -> Handler:
    """A handler that runs the hooks around ``target``."""

    async def handler(ws: ServerConnection, **parameters: Any) -> None:
        async def innermost() -> None:
            if isinstance(target, type):
                await ws.attend(target)
            else:
                await target(ws, **parameters)

        await _within(hooks, ws, innermost)

    return handler


def _within(
    hooks: Sequence[ConnectionHook], ws: ServerConnection, innermost: Callable[[], Coroutine[Any, Any, None]]
) -> Awaitable[None]:
    hook, *others = hooks
    inner = innermost if not others else lambda: _within(others, ws, innermost)
    return hook(ws, _Served(inner))


class Passage:
    """What the connections of one route, or of a server without a router, pass through.

    ``outer``: the layers of the server; ``layers``: those of the route. ``handshake_hooks``: what the latter have to do
    around the handshake; what the former have to do goes around the routing as well.
    """

    def __init__(
        self,
        outer: Sequence[Middleware],
        layers: Sequence[Middleware],
        subprotocols: Offer,
        codec: Subprotocol[Any] | None,
    ) -> None:
        self.handshake_hooks = handshake_hooks(layers)
        every = (*outer, *layers)
        self._hooks: tuple[ConnectionHook, ...] = _overriding(every, "connection")
        self._closed = tuple(reversed(_overriding(every, "closed")))
        incoming = _overriding(every, "message_in")
        outgoing = tuple(reversed(_overriding(every, "message_out")))
        self._filters = {name: Filter(each, incoming, outgoing) for name, each in subprotocols.codecs.items()}
        needed = codec is not None or incoming or outgoing
        self._filter = Filter(codec, incoming, outgoing) if needed else None

    def around(self, target: Handler | type[Listener]) -> Handler | type[Listener]:
        """``target`` with what runs around it, itself if there is nothing."""
        return _surrounded(self._hooks, target) if self._hooks else target

    def tell_closed(self, ws: ServerConnection, info: CloseInfo) -> None:
        """Let the layers know that the connection is gone."""
        for hook in self._closed:
            try:
                hook(ws, info)
            except Exception as exc:
                ws.logger.error("middleware failed", exc_info=exc)

    def filter_for(self, subprotocol: str | None) -> Filter | None:
        """What stands between the wire and the handler, once this subprotocol is agreed on; None for nothing."""
        return self._filter if subprotocol is None else self._filters.get(subprotocol, self._filter)
