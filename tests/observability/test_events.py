"""Callbacks for every step and frame of a connection."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from network import Driver
from peers import CONT, PING, TEXT, close_payload
from peers import Frame as RawFrame

import taut
import taut.sync

Seen = list[tuple[Any, ...]]


class Recorded(taut.Events):
    """Everything, in order, without what differs from run to run."""

    def __init__(self) -> None:
        self.seen: Seen = []
        self.connections: set[Any] = set()
        self.closed = asyncio.Event()

    def _see(self, ws: Any, *what: Any) -> None:
        self.connections.add(ws)
        self.seen.append(what)

    def on_connecting(self, ws: Any, request: taut.Request) -> None:
        self._see(ws, "connecting", request.path)
        request.headers["X-Trace"] = "abc"

    def on_dialled(self, ws: Any, address: str, elapsed: float) -> None:
        assert 0 <= elapsed < 10
        self._see(ws, "dialled", address)

    def on_tls(self, ws: Any, elapsed: float) -> None:
        assert 0 < elapsed < 10
        self._see(ws, "tls")

    def on_request(self, ws: Any, request: taut.Request) -> None:
        self._see(ws, "request", request.path, ws.state.name)

    def on_response(self, ws: Any, response: taut.Response) -> None:
        self._see(ws, "response", response.status_code)

    def on_failed(self, ws: Any, error: BaseException) -> None:
        self._see(ws, "failed", type(error))

    def on_open(self, ws: Any) -> None:
        self._see(ws, "open", ws.state.name)

    def on_frame_received(self, ws: Any, frame: taut.Frame) -> None:
        self._see(ws, "received", *shown(frame))

    def on_frame_sent(self, ws: Any, frame: taut.Frame) -> None:
        self._see(ws, "sent", *shown(frame))

    def on_message_received(self, ws: Any, message: taut.Frame) -> None:
        self._see(ws, "message received", message.opcode.name, message.length, message.frames, message.compressed)

    def on_message_sent(self, ws: Any, message: taut.Frame) -> None:
        self._see(ws, "message sent", message.opcode.name, message.length, message.frames, message.compressed)

    def on_close(self, ws: Any, info: taut.CloseInfo) -> None:
        self._see(ws, "close", info.code, ws.state.name)
        self.closed.set()


def shown(frame: taut.Frame) -> tuple[Any, ...]:
    return (frame.opcode.name, frame.fin, frame.compressed, frame.length, frame.payload)


async def echo(ws: taut.ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


async def test_every_step_of_a_connection_on_both_sides(tcp: Driver) -> None:
    of_server, of_client = Recorded(), Recorded()
    async with tcp.serve(echo, events=of_server) as server:
        async with tcp.connect(server, "/room", compression=None, events=of_client) as ws:
            await ws.send("héllo")
            assert await ws.recv() == "héllo"
            await (await ws.ping(b"!"))
        await of_server.closed.wait()
    closing = b"\x03\xe8"
    assert of_client.seen == [
        ("connecting", "/room"),
        ("dialled", f"127.0.0.1:{server_port(of_client)}"),
        ("request", "/room", "CONNECTING"),
        ("response", 101),
        ("open", "OPEN"),
        ("sent", "TEXT", True, False, 6, None),
        ("message sent", "TEXT", 6, 1, False),
        ("received", "TEXT", True, False, 6, None),
        ("message received", "TEXT", 6, 1, False),
        ("sent", "PING", True, False, 1, b"!"),
        ("received", "PONG", True, False, 1, b"!"),
        ("sent", "CLOSE", True, False, 2, closing),
        ("received", "CLOSE", True, False, 2, closing),
        ("close", 1000, "CLOSED"),
    ]
    assert of_server.seen == [
        ("request", "/room", "CONNECTING"),
        ("response", 101),
        ("open", "OPEN"),
        ("received", "TEXT", True, False, 6, None),
        ("message received", "TEXT", 6, 1, False),
        ("sent", "TEXT", True, False, 6, None),
        ("message sent", "TEXT", 6, 1, False),
        ("received", "PING", True, False, 1, b"!"),
        ("sent", "PONG", True, False, 1, b"!"),
        ("received", "CLOSE", True, False, 2, closing),
        ("sent", "CLOSE", True, False, 2, closing),
        ("close", 1000, "CLOSED"),
    ]
    (connection,) = of_server.connections
    assert connection.request.headers["X-Trace"] == "abc"
    assert len(of_server.connections) == len(of_client.connections) == 1


def server_port(events: Recorded) -> int:
    (ws,) = events.connections
    return int(ws.request.headers["Host"].rpartition(":")[2])


async def test_frames_of_a_message(tcp: Driver) -> None:
    events = Recorded()

    async def parts() -> AsyncIterator[bytes]:
        for part in (b"ab", b"c", b""):
            yield part

    async def handler(ws: taut.ServerConnection) -> None:
        assert await ws.recv() == "one two"
        await ws.send(parts())

    async with tcp.serve(handler, events=events, compression=None) as server, tcp.opened(server) as peer:
        peer.send(TEXT, b"one", fin=False)
        peer.send(PING, b"in between")
        peer.send(CONT, b" two")
        await peer.frames_until_close()
        peer.write(peer.encode(8, close_payload(1000)))
        await events.closed.wait()
    frames = [seen for seen in events.seen if seen[0] in ("received", "sent") and seen[1] not in ("CLOSE", "PONG")]
    assert frames == [
        ("received", "TEXT", False, False, 3, None),
        ("received", "PING", True, False, 10, b"in between"),
        ("received", "CONT", True, False, 4, None),
        ("sent", "BINARY", False, False, 2, None),
        ("sent", "CONT", False, False, 1, None),
        ("sent", "CONT", True, False, 0, None),
    ]
    assert [seen for seen in events.seen if "message" in seen[0]] == [
        ("message received", "TEXT", 7, 2, False),
        ("message sent", "BINARY", 3, 3, False),
    ]


@pytest.mark.parametrize("size", [1 << 10, 1 << 20])
@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_every_frame_is_told_however_it_travels(tcp: Driver, size: int, compression: str | None) -> None:
    """By copy, by reference, compressed, read straight to where it stays, in a broadcast."""
    of_server, of_client = Recorded(), Recorded()
    options: dict[str, Any] = {"compression": compression, "max_size": None}

    async def handler(ws: taut.ServerConnection) -> None:
        async for message in ws:
            await ws.send(message)
            taut.broadcast([ws], message)
            ws.send_nowait(b"end")

    async with tcp.connected(handler, server={"events": of_server}, client={"events": of_client}, **options) as (_, ws):
        await ws.send("x" * size)
        assert await ws.recv() == await ws.recv() == "x" * size
        assert await ws.recv() == b"end"
    await of_server.closed.wait()

    def told(events: Recorded, what: str) -> Seen:
        return [seen[1:] for seen in events.seen if seen[0] == what and seen[1] != "CLOSE"]

    for way, other in [("sent", "received"), ("message sent", "message received")]:
        assert told(of_server, way) == told(of_client, other)
        assert told(of_client, way) == told(of_server, other)
    assert len(told(of_server, "sent")) == len(told(of_server, "message sent")) == 3
    lengths = [seen[3] for seen in told(of_server, "sent")[:2]]
    assert all(length < size // 10 for length in lengths) if compression else lengths == [size, size]


async def test_a_callback_that_fails_disturbs_nothing(tcp: Driver, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(taut.Events):
        def __getattribute__(self, name: str) -> Any:
            if name.startswith("on_"):
                return lambda ws, *_: 1 / 0
            return super().__getattribute__(name)

        on_frame_received = on_frame_sent = lambda self, ws, frame: None

    async with tcp.connected(echo, server={"events": Broken()}, client={"events": Broken()}) as (_, ws):
        await ws.send("x")
        assert await ws.recv() == "x"
    told = {record.getMessage() for record in caplog.records if record.levelno == logging.ERROR}
    steps = ("dialled", "request", "response", "open", "frame_sent", "frame_received", "message_sent", "close")
    assert {f"on_{step} of Broken failed" for step in steps} <= told
    assert all(record.exc_info for record in caplog.records if record.levelno == logging.ERROR)


async def test_a_callback_may_use_the_connection(tcp: Driver) -> None:
    class Answering(taut.Events):
        def on_message_received(self, ws: Any, message: taut.Frame) -> None:
            ws.send_nowait(f"{message.length} bytes")

        def on_open(self, ws: Any) -> None:
            ws.send_nowait("welcome")

    async def handler(ws: taut.ServerConnection) -> None:
        await ws.wait_closed()

    async with tcp.connected(handler, server={"events": Answering()}) as (_, ws):
        assert await ws.recv() == "welcome"
        await ws.send("12345")
        assert await ws.recv() == "5 bytes"


async def test_frames_are_not_noted_for_who_does_not_ask(tcp: Driver) -> None:
    opened: list[Any] = []

    class Steps(taut.Events):
        def on_open(self, ws: Any) -> None:
            opened.append(ws)

    async with tcp.connected(echo, events=Steps()) as (server, ws):
        await ws.send("x")
        await ws.recv()
        assert ws in opened
        assert ws.session.take_frames() == []
        assert {each.session.take_frames() == [] for each in server.connections} == {True}


async def test_a_handshake_that_fails(tcp: Driver) -> None:
    of_server, of_client = Recorded(), Recorded()
    async with tcp.serve(echo, origins=["https://a.test"], events=of_server) as server:
        with pytest.raises(taut.InvalidStatus):
            await tcp.connect(server, origin="https://b.test", events=of_client)
    assert of_server.seen == [("request", "/", "CONNECTING"), ("response", 403)]
    assert [seen[0] for seen in of_client.seen] == ["connecting", "dialled", "request", "failed"]
    assert of_client.seen[-1] == ("failed", taut.InvalidStatus)


async def test_a_server_that_nobody_reaches(tcp: Driver) -> None:
    events = Recorded()
    with pytest.raises(taut.ConnectRefused):
        await taut.connect("ws://127.0.0.1:1/", events=events)
    assert events.seen == [("connecting", "/"), ("failed", taut.ConnectRefused)]


async def test_a_client_that_leaves_before_it_is_answered(tcp: Driver) -> None:
    events = Recorded()
    begun = asyncio.Event()

    async def never(ws: taut.ServerConnection, request: taut.Request) -> None:
        begun.set()
        await asyncio.sleep(60)

    async with tcp.serve(echo, process_request=never, events=events, open_timeout=0.1) as server:
        async with tcp.peer(server) as peer:
            await peer.made.wait()
        while not events.seen:
            await asyncio.sleep(0.001)
        assert events.seen == [("failed", type(None))]
        async with tcp.peer(server) as peer:
            asking = asyncio.ensure_future(peer.request())
            await begun.wait()
            assert (await asking).startswith("HTTP/1.1 408 ")
    assert events.seen[1:] == [("request", "/", "CONNECTING"), ("response", 408)]


async def test_headers_that_cannot_be_sent_are_not(tcp: Driver, caplog: pytest.LogCaptureFixture) -> None:
    class Wrong(taut.Events):
        def on_connecting(self, ws: Any, request: taut.Request) -> None:
            request.headers["X"] = "a\r\nb"

    async with tcp.connected(echo, client={"events": [Wrong(), Recorded()]}) as (server, ws):
        await ws.send("x")
        assert await ws.recv() == "x"
        (connection,) = server.connections
        assert "X" not in connection.request.headers
    assert "cannot be sent as on_connecting has changed it" in caplog.text


async def test_tls_is_a_step(loop_name: str) -> None:
    tls, events = Driver("tls", ""), Recorded()
    async with tls.serve(echo) as server, tls.connect(server, events=events):
        pass
    assert [seen[0] for seen in events.seen[1:6]] == ["dialled", "tls", "request", "response", "open"]


async def test_a_violation_is_told_by_its_close_frame(tcp: Driver) -> None:
    events = Recorded()
    async with tcp.serve(echo, events=events) as server, tcp.opened(server) as peer:
        peer.write(b"\xff\x80mask")
        frame = await peer.frame()
        assert isinstance(frame, RawFrame)
        assert frame.code == 1002
        await peer.drop()
        await events.closed.wait()
    assert [seen[:2] for seen in events.seen[3:]] == [("sent", "CLOSE"), ("close", 1002)]


@pytest.mark.parametrize("events", [taut.Events, object(), print, [taut.Events(), 1], "x"])
def test_wrong_events(events: Any) -> None:
    for make in (lambda: taut.connect("ws://127.0.0.1/", events=events), lambda: taut.serve(echo, events=events)):
        with pytest.raises(TypeError, match="events must be an instance of a subclass of taut"):
            make()


def test_threads_have_no_loop_to_tell_events_on() -> None:
    with pytest.raises(ValueError, match="events are told on an event loop"):
        taut.sync.connect("ws://127.0.0.1:1/", events=taut.Events())
    with pytest.raises(TypeError, match="unexpected option events"):
        taut.sync.serve(print, "127.0.0.1", 0, events=taut.Events())
