"""Traces for OpenTelemetry: a span for each opening handshake and connection, and for messages if that is asked for.

``Tracing`` is an ``Events``, so it goes wherever these go, and sees a connection from its first step.  The trace of a
handshake travels in the headers of its request (W3C Trace Context): a client adds them, a server reads them.  Messages
have no headers.  What an application sends may have a place for such a context, an object of JSON for example; only it
knows where: ``inject`` and ``processing`` are for both ends of that.

The span of a connection is open as long as the connection is, and a span is exported when it ends.  So it is a trace of
its own kind, a child of the handshake, and everything else about the connection is a child of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, MutableMapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

from taut import CloseInfo, Events, Frame, Headers, MissingExtra, Request, Response, ServerConnection

if TYPE_CHECKING:
    from types import ModuleType

    from opentelemetry.trace import Span, TracerProvider

__all__ = ["Tracing"]


class _Setter:
    """Writes a context into the headers of a request."""

    def set(self, carrier: Headers, key: str, value: str) -> None:
        carrier[key] = value


class _Getter:
    """Reads a context from headers."""

    def get(self, carrier: Headers, key: str) -> list[str] | None:
        return list(carrier.get_all(key)) or None

    def keys(self, carrier: Headers) -> list[str]:
        return list(carrier)


class Tracing(Events):
    """Spans for opening handshakes and connections: for ``events`` of ``connect`` or ``serve``, one for all.

    ``messages``: a span for each message as well. ``provider``: a ``TracerProvider``, by default the global one. Raises
    ``MissingExtra`` without ``opentelemetry-api``.
    """

    def __init__(self, *, messages: bool = False, provider: TracerProvider | None = None) -> None:
        try:
            from opentelemetry import propagate, trace  # noqa: PLC0415
        except ImportError:
            raise MissingExtra("Tracing", "otel") from None
        self._trace: ModuleType = trace
        self._propagate: ModuleType = propagate
        self._tracer = trace.get_tracer("taut", tracer_provider=provider)
        self._handshakes: dict[Any, Span] = {}
        self._connections: dict[Any, Span] = {}
        if messages:
            # Only then are frames noted at all.
            self.on_message_received = self._message_received  # type: ignore[method-assign]
            self.on_message_sent = self._message_sent  # type: ignore[method-assign]

    # -- for programs ------------------------------------------------------------------------------------------

    def span(self, ws: Any) -> Span:
        """The span of an open connection; one that records nothing where there is none."""
        span = self._connections.get(ws)
        return cast("Span", self._trace.INVALID_SPAN) if span is None else span

    def handler(self, handler: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Decorate a handler, so that what it does is in the trace of its connection."""

        @functools.wraps(handler)
        async def traced(ws: ServerConnection, *args: Any, **kwargs: Any) -> Any:
            with self._trace.use_span(self.span(ws)):
                return await handler(ws, *args, **kwargs)

        return traced

    def inject(self, carrier: MutableMapping[str, Any]) -> None:
        """Write the current context into part of a message that is about to be sent: ``traceparent`` and its like."""
        self._propagate.inject(carrier)

    def processing(
        self, ws: Any, carrier: MutableMapping[str, Any] | None = None, name: str = "process message"
    ) -> AbstractContextManager[Span]:
        """A span for what is done with a message, current within a ``with`` block.

        ``carrier``: what the sender's ``inject`` has written into, so that the span belongs to the sender's trace, and
        is linked to the connection; None: it is a child of the connection.
        """
        connection, kind = self.span(ws), self._trace.SpanKind.CONSUMER
        if carrier is None:
            context, links = self._trace.set_span_in_context(connection), None
        else:
            context, links = self._propagate.extract(carrier), [self._trace.Link(connection.get_span_context())]
        return self._tracer.start_as_current_span(name, context=context, kind=kind, links=links)

    # -- the handshake -----------------------------------------------------------------------------------------

    def on_connecting(self, ws: Any, request: Request) -> None:
        """A client begins: its span is a child of what is current, and the request carries it."""
        span = self._tracer.start_span("GET", kind=self._trace.SpanKind.CLIENT, attributes=_of_request(request))
        host, _, port = request.headers.get("Host", "").rpartition(":")
        span.set_attribute("server.address", (host if port.isdecimal() else f"{host}:{port}").strip(":"))
        self._handshakes[ws] = span
        self._propagate.inject(request.headers, context=self._trace.set_span_in_context(span), setter=_Setter())

    def on_dialled(self, ws: Any, address: str, elapsed: float) -> None:
        """The server is reached."""
        self._handshakes[ws].set_attribute("network.peer.address", address)
        self._handshakes[ws].add_event("dialled", {"elapsed": elapsed})

    def on_tls(self, ws: Any, elapsed: float) -> None:
        """TLS is done."""
        self._handshakes[ws].add_event("tls", {"elapsed": elapsed})

    def on_request(self, ws: Any, request: Request) -> None:
        """A server has read the request: its span is a child of the client's."""
        if ws in self._handshakes:
            return  # of a client: it was begun with the connection
        context = self._propagate.extract(request.headers, getter=_Getter())
        self._handshakes[ws] = span = self._tracer.start_span(
            "GET", context=context, kind=self._trace.SpanKind.SERVER, attributes=_of_request(request)
        )
        address = cast(object, ws.remote_address)
        if isinstance(address, tuple):
            host, port = cast("tuple[Any, Any]", address[:2])
            span.set_attributes({"client.address": str(host), "network.peer.port": int(port)})

    def on_response(self, ws: Any, response: Response) -> None:
        """The handshake is over."""
        span = self._handshakes.get(ws)
        if span is None:
            return
        span.set_attribute("http.response.status_code", response.status_code)
        if (route := getattr(ws, "route", None)) is not None:
            span.set_attribute("http.route", str(route.path))
            span.update_name(f"GET {route.path}")
        if response.status_code >= 500:
            self._failed(span, str(response.status_code))
        if response.status_code != 101:
            del self._handshakes[ws]
            span.end()

    def on_failed(self, ws: Any, error: BaseException | None) -> None:
        """No connection came of it."""
        span = self._handshakes.pop(ws, None)
        if span is not None:
            if (response := getattr(error, "response", None)) is not None:
                span.set_attribute("http.response.status_code", response.status_code)
            self._failed(span, "the client left" if error is None else type(error).__qualname__)
            span.end()

    # -- the connection ----------------------------------------------------------------------------------------

    def on_open(self, ws: Any) -> None:
        """The connection is open."""
        handshake = self._handshakes.pop(ws)
        handshake.end()
        kind = self._trace.SpanKind.INTERNAL
        context = self._trace.set_span_in_context(handshake)
        self._connections[ws] = span = self._tracer.start_span("websocket connection", context=context, kind=kind)
        span.set_attribute("websocket.connection_id", str(ws.id))
        if ws.subprotocol is not None:
            span.set_attribute("websocket.subprotocol", ws.subprotocol)

    def on_close(self, ws: Any, info: CloseInfo) -> None:
        """The connection is gone."""
        span, stats = self._connections.pop(ws), ws.stats
        span.set_attributes(
            {
                "websocket.close_code": info.code,
                "websocket.close_initiator": info.initiator.value,
                "websocket.close_clean": info.clean,
                "websocket.messages_received": stats.messages_received,
                "websocket.messages_sent": stats.messages_sent,
                "websocket.bytes_received": stats.bytes_received,
                "websocket.bytes_sent": stats.bytes_sent,
            }
        )
        if not info.clean or info.code == 1011:
            self._failed(span, str(info.code))
        span.end()

    # -- messages ----------------------------------------------------------------------------------------------

    def _message_received(self, ws: Any, message: Frame) -> None:
        self._message(ws, "receive message", self._trace.SpanKind.CONSUMER, message)

    def _message_sent(self, ws: Any, message: Frame) -> None:
        self._message(ws, "send message", self._trace.SpanKind.PRODUCER, message)

    def _message(self, ws: Any, name: str, kind: Any, message: Frame) -> None:
        """A span without duration: it tells that there was a message, and how large."""
        attributes: dict[str, Any] = {
            "websocket.opcode": message.opcode.name.lower(),
            "messaging.message.body.size": message.length,
            "websocket.frames": message.frames,
        }
        context = self._trace.set_span_in_context(self.span(ws))
        self._tracer.start_span(name, context=context, kind=kind, attributes=attributes).end()

    def _failed(self, span: Span, error: str) -> None:
        span.set_attribute("error.type", error)
        span.set_status(self._trace.StatusCode.ERROR)


def _of_request(request: Request) -> dict[str, Any]:
    """What the semantic conventions for HTTP ask for; no query, as there may be secrets in it."""
    attributes = {
        "http.request.method": "GET",
        "url.path": request.path.partition("?")[0],
        "network.protocol.name": "websocket",
    }
    if agent := request.headers.get("User-Agent"):
        attributes["user_agent.original"] = agent
    return attributes
