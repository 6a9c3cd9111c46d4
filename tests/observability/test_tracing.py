"""Spans as an exporter of OpenTelemetry gets them."""

from __future__ import annotations

import json
import sys
from typing import Any
from unittest import mock

import pytest
from network import Driver
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import taut
from taut.observability import Tracing


class Traced:
    """A ``Tracing`` and what it has exported."""

    def __init__(self, **options: Any) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracing = Tracing(provider=provider, **options)
        self.tracer = provider.get_tracer("test")

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]

    def span(self, name: str, kind: SpanKind | None = None) -> ReadableSpan:
        (span,) = [span for span in self.spans(name) if kind in (None, span.kind)]
        return span

    def is_idle(self) -> bool:
        return not self.tracing._handshakes and not self.tracing._connections


def parent(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id


def identity(span: Any) -> int:
    return int(span.get_span_context().span_id)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


async def echo(ws: taut.ServerConnection, **parameters: Any) -> None:
    async for message in ws:
        await ws.send(message)


async def test_a_trace_goes_from_the_client_to_the_handler(tcp: Driver) -> None:
    traced = Traced()
    router = taut.Router()

    @traced.tracing.handler
    async def chat(ws: taut.ServerConnection, room: str) -> None:
        with traced.tracer.start_as_current_span("work"):
            await ws.send(await ws.recv())
        await ws.wait_closed()

    router.add("/chat/{room}", chat, subprotocols=["chat"])
    async with tcp.serve(router, events=traced.tracing) as server:
        with traced.tracer.start_as_current_span("outer") as outer:
            async with tcp.connect(
                server, "/chat/a?token=sesame", events=traced.tracing, subprotocols=["chat"], compression=None
            ) as ws:
                await ws.send("hello")
                assert await ws.recv() == "hello"
    client = traced.span("GET", SpanKind.CLIENT)
    served = traced.span("GET /chat/{room}", SpanKind.SERVER)
    of_client, of_server = sorted(
        traced.spans("websocket connection"), key=lambda span: parent(span) == identity(served)
    )
    assert parent(client) == identity(outer)
    assert parent(served) == identity(client)
    assert parent(of_client) == identity(client)
    assert parent(of_server) == identity(served)
    assert parent(traced.span("work")) == identity(of_server)
    assert len({span.context.trace_id for span in traced.exporter.get_finished_spans() if span.context}) == 1
    assert attributes(served) == {
        "http.request.method": "GET",
        "url.path": "/chat/a",
        "network.protocol.name": "websocket",
        "user_agent.original": f"taut/{taut.__version__}",
        "client.address": "127.0.0.1",
        "network.peer.port": attributes(served)["network.peer.port"],
        "http.response.status_code": 101,
        "http.route": "/chat/{room}",
    }
    assert attributes(client)["network.peer.address"] == f"127.0.0.1:{server.loop and port_of(client)}"
    assert attributes(client)["server.address"] == "127.0.0.1"
    assert [event.name for event in client.events] == ["dialled"]
    told = attributes(of_server)
    assert told.pop("websocket.connection_id")
    assert told == {
        "websocket.subprotocol": "chat",
        "websocket.close_code": 1000,
        "websocket.close_initiator": "remote",
        "websocket.close_clean": True,
        "websocket.messages_received": 1,
        "websocket.messages_sent": 1,
        "websocket.bytes_received": 11 + 8,
        "websocket.bytes_sent": 5 + 2,
    }
    assert {span.status.status_code for span in traced.exporter.get_finished_spans()} == {StatusCode.UNSET}
    assert "sesame" not in "".join(span.to_json() for span in traced.exporter.get_finished_spans())
    assert traced.spans("receive message") == []
    assert traced.is_idle()


def port_of(span: ReadableSpan) -> str:
    return str(attributes(span)["network.peer.address"]).rpartition(":")[2]


async def test_a_trace_that_came_with_the_request(tcp: Driver) -> None:
    traced = Traced()
    parent_of_all = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with tcp.serve(echo, events=traced.tracing) as server:
        async with tcp.opened(server, [("traceparent", parent_of_all)]) as peer:
            await peer.close()
        async with tcp.opened(server, [("traceparent", "nonsense")]) as peer:
            await peer.close()
    first, second = traced.spans("GET")
    assert parent(first) == 0xB7AD6B7169203331
    assert second.parent is None


async def test_what_fails_is_marked(tcp: Driver) -> None:
    traced = Traced()

    def broken(ws: taut.ServerConnection, request: taut.Request) -> None:
        if request.path == "/broken":
            raise LookupError

    async def handler(ws: taut.ServerConnection) -> None:
        raise LookupError

    options: dict[str, Any] = {"process_request": broken, "events": traced.tracing, "open_timeout": 5}
    async with tcp.serve(handler, **options) as server:
        with pytest.raises(taut.InvalidStatus):
            await tcp.connect(server, "/broken", events=traced.tracing)
        client, served = traced.span("GET", SpanKind.CLIENT), traced.span("GET", SpanKind.SERVER)
        assert client.status.status_code is served.status.status_code is StatusCode.ERROR
        assert attributes(served)["http.response.status_code"] == attributes(client)["http.response.status_code"] == 500
        assert (attributes(served)["error.type"], attributes(client)["error.type"]) == ("500", "InvalidStatus")
        traced.exporter.clear()
        async with tcp.connect(server) as ws:
            await ws.wait_closed()
    connection = traced.span("websocket connection")
    assert attributes(connection)["websocket.close_code"] == 1011
    assert connection.status.status_code is StatusCode.ERROR
    with pytest.raises(taut.ConnectRefused):
        await taut.connect("ws://127.0.0.1:1/", events=traced.tracing)
    assert attributes(traced.spans("GET")[-1])["error.type"] == "ConnectRefused"
    assert traced.is_idle()


async def test_messages_if_asked_for(tcp: Driver) -> None:
    traced = Traced(messages=True)
    async with tcp.serve(echo, events=traced.tracing, compression=None) as server, tcp.connect(server) as ws:
        await ws.send("12345")
        await ws.send([b"1", b"2"])
        assert [await ws.recv(), await ws.recv()] == ["12345", b"12"]
    connection = traced.span("websocket connection")
    received, sent = traced.spans("receive message"), traced.spans("send message")
    assert {parent(span) for span in received + sent} == {identity(connection)}
    assert [attributes(span) for span in received] == [
        {"websocket.opcode": "text", "messaging.message.body.size": 5, "websocket.frames": 1},
        {"websocket.opcode": "binary", "messaging.message.body.size": 2, "websocket.frames": 2},
    ]
    assert [attributes(span)["messaging.message.body.size"] for span in sent] == [5, 2]
    assert {span.kind for span in received} == {SpanKind.CONSUMER}
    assert {span.kind for span in sent} == {SpanKind.PRODUCER}


async def test_a_context_in_the_message_itself(tcp: Driver) -> None:
    traced = Traced()
    tracing = traced.tracing

    async def handler(ws: taut.ServerConnection) -> None:
        async for message in ws:
            order = json.loads(message)
            with tracing.processing(ws, order["trace"], "order"), traced.tracer.start_as_current_span("store"):
                await ws.send("stored")
        with tracing.processing(ws, name="farewell"):
            pass

    async with tcp.serve(handler, events=tracing) as server:
        with traced.tracer.start_as_current_span("outer") as outer:
            context: dict[str, Any] = {}
            tracing.inject(context)
        async with tcp.connect(server) as ws:
            await ws.send(json.dumps({"item": 1, "trace": context}))
            assert await ws.recv() == "stored"
    order, connection = traced.span("order"), traced.span("websocket connection")
    assert order.kind is SpanKind.CONSUMER
    assert parent(order) == identity(outer)
    assert [link.context.span_id for link in order.links] == [identity(connection)]
    assert parent(traced.span("store")) == identity(order)
    assert parent(traced.span("farewell")) == identity(connection)


def test_without_the_extra() -> None:
    with mock.patch.dict(sys.modules, {"opentelemetry": None}), pytest.raises(taut.MissingExtra, match="otel"):
        Tracing()


async def test_without_a_provider_it_is_harmless(tcp: Driver) -> None:
    tracing = Tracing(messages=True)
    async with tcp.connected(tracing.handler(echo), server={"events": tracing}, client={"events": tracing}) as (_, ws):
        await ws.send("x")
        assert await ws.recv() == "x"
        assert not trace.get_current_span().is_recording()
