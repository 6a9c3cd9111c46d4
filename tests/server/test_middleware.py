"""Middleware: layers around handshakes, handlers, listeners and messages; and state that goes along."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from network import Driver
from peers import TEXT

import taut
from taut.server.middleware import Passage
from taut.subprotocols import Offer

JSON: taut.JSONSubprotocol[Any] = taut.JSONSubprotocol("json.v1")


async def echo(ws: taut.ServerConnection, **_: Any) -> None:
    async for message in ws:
        await ws.send(message)


class Echo(taut.Listener):
    """The same with callbacks."""

    def on_message(self, ws: taut.Connection, message: Any) -> None:
        ws.send_nowait(message)


class Recorder(taut.Middleware):
    """Notes everything that passes."""

    def __init__(self, name: str, events: list[Any]) -> None:
        self.name = name
        self.events = events

    async def handshake(
        self, ws: taut.ServerConnection, request: taut.Request, call_next: Callable[[], Awaitable[taut.Response]]
    ) -> taut.Response:
        self.events.append((self.name, "request", request.path))
        response = await call_next()
        self.events.append((self.name, "response", response.status_code))
        return response

    async def connection(self, ws: taut.ServerConnection, call_next: Callable[[], Awaitable[None]]) -> None:
        self.events.append((self.name, "open", ws.state.name))
        try:
            await call_next()
        finally:
            self.events.append((self.name, "close", ws.state.name))

    def message_in(self, ws: taut.ServerConnection, message: Any) -> Any:
        self.events.append((self.name, "in", message))
        return message

    def message_out(self, ws: taut.ServerConnection, message: Any) -> Any:
        self.events.append((self.name, "out", message))
        return message


# -- the onion ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("handler", [echo, Echo])
async def test_layers_are_around_each_other(tcp: Driver, handler: Any) -> None:
    events: list[Any] = []
    inner = taut.Router(middleware=[Recorder("mounted", events)])
    inner.add("/x/{name}", handler, middleware=[Recorder("route", events)])
    router = taut.Router(middleware=[Recorder("router", events)])
    router.mount("/in", inner)
    layers = ["first", "second", "router", "mounted", "route"]
    outer = [Recorder("first", events), Recorder("second", events)]
    async with tcp.serve(router, middleware=outer) as server, tcp.connect(server, "/in/x/y") as ws:
        await ws.send("a")
        assert await ws.recv() == "a"
    assert [event[0] for event in events if event[1] == "request"] == layers
    assert [event[0] for event in events if event[1] == "response"] == layers[::-1]
    assert [event[0] for event in events if event[1] == "open"] == layers
    assert [event[0] for event in events if event[1] == "in"] == layers
    assert [event[0] for event in events if event[1] == "out"] == layers[::-1]
    assert [event[0] for event in events if event[1] == "close"] == layers[::-1]
    kinds = ["request", "response", "open", "in", "out", "close"]
    assert [event[1] for event in events[::5]] == kinds
    assert {event[2] for event in events} == {"/in/x/y", 101, "OPEN", "a"} | {
        "CLOSED" if handler is Echo else event[2] for event in events if event[1] == "close"
    }


async def test_functions_are_layers(tcp: Driver) -> None:
    events: list[str] = []

    async def timed(ws: taut.ServerConnection, call_next: Callable[[], Awaitable[None]]) -> None:
        events.append("before")
        await call_next()
        events.append("after")

    class Callable_:
        async def __call__(self, ws: taut.ServerConnection, call_next: Callable[[], Awaitable[None]]) -> None:
            events.append("object")
            await call_next()

    async with tcp.connected(echo, server={"middleware": [timed, Callable_()]}) as (server, ws):
        await ws.send("a")
        assert await ws.recv() == "a"
    assert events == ["before", "object", "after"]


async def test_only_what_is_overridden_is_called(tcp: Driver) -> None:
    passage = Passage([taut.Middleware()], [taut.Middleware()], Offer(), None)
    assert passage.around(echo) is echo
    assert passage.around(Echo) is Echo
    assert passage.filter_for(None) is None
    assert passage.handshake_hooks == ()
    async with tcp.connected(Echo, server={"middleware": [taut.Middleware()]}) as (server, ws):
        (served,) = server.connections
        assert type(served) is taut.ServerConnection
        assert served.handler_task is None
        assert not server.has_hooks


async def test_names_that_clients_make_up_are_not_kept(tcp: Driver) -> None:
    router = taut.Router(select_subprotocol=lambda ws, offered: offered[0], middleware=[Recorder("layer", [])])
    router.add("/", echo, subprotocols=[JSON])
    async with tcp.serve(router) as server:
        passage = server.passage(router.routes[0])
        before = len(passage._filters)
        for n in range(3):
            async with tcp.connect(server, subprotocols=[f"made-up-{n}"]) as ws:
                assert ws.subprotocol == f"made-up-{n}"
        assert len(passage._filters) == before
        assert len(server._passages) == 1


# -- the handshake -----------------------------------------------------------------------------------------------------


class Handshake(taut.Middleware):
    """A layer made of one function."""

    def __init__(self, function: Callable[..., Awaitable[Any]]) -> None:
        self.function = function

    async def handshake(self, ws: Any, request: Any, call_next: Any) -> taut.Response:
        response: taut.Response = await self.function(ws, request, call_next)
        return response


async def test_a_layer_may_refuse(tcp: Driver) -> None:
    async def refuse(ws: taut.ServerConnection, request: taut.Request, call_next: Any) -> taut.Response:
        if "X-Key" in request.headers:
            return await call_next()  # type: ignore[no-any-return]
        return ws.respond(403, "no key\n")

    async with tcp.serve(echo, middleware=[Handshake(refuse)]) as server:
        with pytest.raises(taut.InvalidStatus) as caught:
            await tcp.connect(server)
        assert (caught.value.response.status_code, caught.value.response.body) == (403, b"no key\n")
        async with tcp.connect(server, additional_headers={"X-Key": "1"}) as ws:
            await ws.send("a")
            assert await ws.recv() == "a"
        assert server.stats.refused == {403: 1}


async def test_a_layer_sees_the_final_response_and_may_change_it(tcp: Driver) -> None:
    statuses: list[int] = []

    async def mark(ws: taut.ServerConnection, request: taut.Request, call_next: Any) -> taut.Response:
        response: taut.Response = await call_next()
        statuses.append(response.status_code)
        response.headers["X-Served-By"] = "a"
        return response

    def revise(ws: taut.ServerConnection, request: taut.Request, response: taut.Response) -> None:
        response.headers["X-Revised"] = "1"

    router = taut.Router()
    router.add("/", echo, subprotocols=["chat"])
    router.add_http("/healthz", lambda ws, request: "fine\n")
    async with tcp.serve(router, middleware=[Handshake(mark)], process_response=revise) as server:
        async with tcp.connect(server, subprotocols=["chat"]) as ws:
            assert ws.subprotocol == "chat"
            assert ws.response is not None
            assert (ws.response.headers["X-Served-By"], ws.response.headers["X-Revised"]) == ("a", "1")
        for target, origin in (("/missing", None), ("/", "https://elsewhere.example")):
            with pytest.raises(taut.InvalidStatus) as caught:
                await tcp.connect(server, target, origin=origin)
            assert caught.value.response.headers["X-Served-By"] == "a"
        async with tcp.peer(server) as peer:
            peer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = await peer.read_to_end()
            assert b"X-Served-By: a" in answer
            assert answer.endswith(b"fine\n")
        assert statuses == [101, 404, 403, 200]
        assert server.stats.refused == {404: 1, 403: 1, 200: 1}


async def test_an_exception_of_invalid_handshake_is_a_refusal(tcp: Driver, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []

    async def outer(ws: taut.ServerConnection, request: taut.Request, call_next: Any) -> taut.Response:
        response: taut.Response = await call_next()
        seen.append(response.status_code)
        return response

    async def inner(ws: taut.ServerConnection, request: taut.Request, call_next: Any) -> taut.Response:
        raise taut.InvalidMessage("later", status=429)

    caplog.set_level(logging.INFO)
    async with tcp.serve(echo, middleware=[Handshake(outer), Handshake(inner)]) as server:
        with pytest.raises(taut.InvalidStatus) as caught:
            await tcp.connect(server)
        assert caught.value.response.status_code == 429
    assert seen == [429]
    assert "opening handshake refused: later" in caplog.text


async def raising(ws: Any, request: Any, call_next: Any) -> Any:
    raise ZeroDivisionError


async def forgetful(ws: Any, request: Any, call_next: Any) -> Any:
    await call_next()


async def doubling(ws: Any, request: Any, call_next: Any) -> Any:
    await call_next()
    return await call_next()


async def presumptuous(ws: Any, request: Any, call_next: Any) -> Any:
    return taut.Response(101, "Switching Protocols", taut.Headers())


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (raising, "ZeroDivisionError"),
        (forgetful, "handshake() of a middleware must return a Response, not None"),
        (doubling, "a middleware has called call_next twice"),
        (presumptuous, "a hook answered 101 by itself"),
    ],
)
@pytest.mark.parametrize("place", ["server", "route"])
async def test_a_fault_in_a_handshake_is_500_and_logged(
    tcp: Driver, function: Any, error: str, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    layers = [Handshake(function)]
    router = taut.Router()
    router.add("/", echo, middleware=layers if place == "route" else None)
    async with tcp.serve(router, middleware=layers if place == "server" else None) as server:
        with pytest.raises(taut.InvalidStatus) as caught:
            await tcp.connect(server)
        assert caught.value.response.status_code == 500
        assert error not in caught.value.response.body.decode()
        assert not server.connections_open
    assert error in caplog.text


async def test_a_layer_has_as_long_as_a_handshake(tcp: Driver) -> None:
    cancelled = asyncio.Event()

    async def wait(ws: taut.ServerConnection, request: taut.Request, call_next: Any) -> taut.Response:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError("never reached")

    async with tcp.serve(echo, middleware=[Handshake(wait)], open_timeout=0.1) as server:
        with pytest.raises(taut.InvalidStatus) as caught:
            await tcp.connect(server)
        assert caught.value.response.status_code == 408
        await asyncio.wait_for(cancelled.wait(), 10)


async def test_hooks_of_a_route_run_only_there(tcp: Driver) -> None:
    events: list[Any] = []
    router = taut.Router()
    router.add("/with", echo, middleware=[Recorder("layer", events)])
    router.add("/without", echo)
    async with tcp.serve(router) as server:
        async with tcp.connect(server, "/without") as ws:
            (served,) = server.connections
            assert type(served) is taut.ServerConnection
            await ws.send("a")
            assert await ws.recv() == "a"
        assert events == []
        async with tcp.connect(server, "/with") as ws:
            await ws.send("a")
            assert await ws.recv() == "a"
        assert ("layer", "in", "a") in events


async def test_layers_of_a_router_are_around_its_http_routes(tcp: Driver) -> None:
    events: list[Any] = []
    router = taut.Router(middleware=[Recorder("router", events)])
    router.add_http("/healthz", lambda ws, request: "fine\n")
    async with tcp.serve(router) as server, tcp.peer(server) as peer:
        peer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await peer.read_to_end()).endswith(b"fine\n")
    assert events == [("router", "request", "/healthz"), ("router", "response", 200)]


# -- the connection ----------------------------------------------------------------------------------------------------


async def test_a_layer_may_keep_the_handler_from_running(tcp: Driver) -> None:
    async def refuse(ws: taut.ServerConnection, call_next: Any) -> None:
        await ws.close(4003, "not today")

    async with tcp.connected(echo, server={"middleware": [refuse]}) as (server, ws):
        with pytest.raises(taut.ConnectionClosedError, match="4003"):
            await ws.recv()


async def test_a_layer_may_talk_first(tcp: Driver) -> None:
    async def greet(ws: taut.ServerConnection, call_next: Any) -> None:
        await ws.send(f"hello, {await ws.recv()}")
        await call_next()

    for handler in (echo, Echo):
        async with tcp.serve(handler, middleware=[greet]) as server, tcp.opened(server) as peer:
            peer.write(b"".join(peer.encode(TEXT, each) for each in (b"ann", b"a", b"b")))
            assert [(await peer.frame()).payload for _ in range(3)] == [b"hello, ann", b"a", b"b"]
            peer.send(TEXT, b"c")
            assert (await peer.frame()).payload == b"c"
            await peer.close()


async def failing(ws: taut.ServerConnection) -> None:
    raise ZeroDivisionError(await ws.recv())


class FailingToOpen(taut.Listener):
    """Raises in on_open."""

    def on_open(self, ws: taut.Connection) -> None:
        raise ZeroDivisionError


class FailingToTake(taut.Listener):
    """Raises in on_message."""

    def on_message(self, ws: taut.Connection, message: Any) -> None:
        raise ZeroDivisionError(message)


class FailingToBegin(taut.Listener):
    """Cannot be made."""

    def __init__(self) -> None:
        raise ZeroDivisionError


FAILING = [failing, FailingToOpen, FailingToTake, FailingToBegin]


@pytest.mark.parametrize("handler", FAILING)
async def test_a_layer_sees_what_a_handler_raises(tcp: Driver, handler: Any, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Any] = []

    async def watch(ws: taut.ServerConnection, call_next: Any) -> None:
        try:
            await call_next()
        except Exception as exc:
            seen.append((type(exc), ws.state.name))
            raise

    async with tcp.serve(handler, middleware=[watch]) as server, tcp.connect(server) as ws:
        with pytest.raises(taut.ConnectionClosedError) as caught:
            await ws.send("a")
            await ws.recv()
        assert caught.value.code == 1011
    attended = handler in (FailingToOpen, FailingToTake)
    assert seen == [(ZeroDivisionError, "CLOSED" if attended else "OPEN")]
    assert [record.message for record in caplog.records if record.exc_info] == ["connection handler failed"]


@pytest.mark.parametrize("handler", [failing, FailingToBegin])
async def test_a_layer_may_handle_it(tcp: Driver, handler: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def handle(ws: taut.ServerConnection, call_next: Any) -> None:
        try:
            await call_next()
        except ZeroDivisionError:
            await ws.close(4000, "handled")

    async with tcp.serve(handler, middleware=[handle]) as server, tcp.connect(server) as ws:
        with pytest.raises(taut.ConnectionClosedError, match="4000"):
            await ws.send("a")
            await ws.recv()
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_fault_of_a_layer_is_1011_and_logged(tcp: Driver, caplog: pytest.LogCaptureFixture) -> None:
    async def broken(ws: taut.ServerConnection, call_next: Any) -> None:
        raise ZeroDivisionError

    async def double(ws: taut.ServerConnection, call_next: Any) -> None:
        await call_next()
        await call_next()

    async def nothing(ws: taut.ServerConnection) -> None: ...

    for layer, error in ((broken, "ZeroDivisionError"), (double, "a middleware has called call_next twice")):
        async with tcp.serve(nothing, middleware=[layer]) as server, tcp.connect(server) as ws:
            with pytest.raises(taut.ConnectionClosedError) as caught:
                await ws.recv()
            assert caught.value.code == 1011
        assert error in caplog.text


class Following(taut.Listener):
    """Notes its life."""

    events: list[Any]

    def on_open(self, ws: taut.Connection) -> None:
        self.events.append("open")

    def on_message(self, ws: taut.Connection, message: Any) -> None:
        self.events.append(message)

    def on_ping(self, ws: taut.Connection, data: bytes) -> None:
        self.events.append(data)

    def on_close(self, ws: taut.Connection, info: taut.CloseInfo) -> None:
        self.events.append(info.code)


@pytest.mark.parametrize("cancel", [False, True])
async def test_a_layer_is_around_a_listener(tcp: Driver, cancel: bool) -> None:
    events: list[Any] = []
    kind = type("Following", (Following,), {"events": events})

    async def around(ws: taut.ServerConnection, call_next: Any) -> None:
        events.append("before")
        await call_next()
        events.append("after")

    async with tcp.serve(kind, middleware=[around], cancel_on_close=cancel) as server, tcp.connect(server) as ws:
        await (await ws.ping(b"a"))
        await ws.send("b")
    assert events == ["before", "open", b"a", "b", 1000, "after"]


async def test_a_listener_whose_client_has_gone_before_it_came(tcp: Driver) -> None:
    events: list[Any] = []
    kind = type("Following", (Following,), {"events": events})

    async def wait(ws: taut.ServerConnection, call_next: Any) -> None:
        await ws.wait_closed()
        await call_next()
        events.append("after")

    async with tcp.serve(kind, middleware=[wait], read_limit=1000) as server:
        async with tcp.connect(server) as ws:
            await ws.send("a")
            await ws.send("b" * 500)
        while "after" not in events:
            await asyncio.sleep(0.001)
    assert events == ["open", "a", "b" * 500, 1000, "after"]


async def test_a_listener_takes_what_was_too_much_to_read(tcp: Driver) -> None:
    """More than read_limit waits until a layer is done: then reading goes on."""
    go = asyncio.Event()

    async def wait(ws: taut.ServerConnection, call_next: Any) -> None:
        await go.wait()
        await call_next()

    async with tcp.connected(Echo, server={"middleware": [wait], "read_limit": 1000}) as (server, ws):
        sending = [asyncio.create_task(ws.send("x" * 10_000 + str(n))) for n in range(50)]
        (served,) = server.connections
        while not served.read_paused:
            await asyncio.sleep(0.001)
        go.set()
        for n in range(50):
            assert await ws.recv() == "x" * 10_000 + str(n)
        await asyncio.gather(*sending)


async def test_a_layer_that_waits_is_cancelled_if_asked(tcp: Driver) -> None:
    ended = asyncio.Event()

    async def wait(ws: taut.ServerConnection, call_next: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async with tcp.serve(Echo, middleware=[wait], cancel_on_close=True) as server:
        async with tcp.connect(server):
            pass
        await asyncio.wait_for(ended.wait(), 10)


async def test_closing_the_server_with_layers_around_listeners(tcp: Driver) -> None:
    events: list[Any] = []
    async with tcp.serve(Echo, middleware=[Recorder("layer", events)]) as server:
        ws = await tcp.connect(server)
        await ws.send("a")
        assert await ws.recv() == "a"
    assert events[-1] == ("layer", "close", "CLOSED")
    await ws.wait_closed()
    assert ws.close_code == 1001


# -- the end -----------------------------------------------------------------------------------------------------------


class Closing(taut.Middleware):
    """Notes the end."""

    def __init__(self, name: str, events: list[Any]) -> None:
        self.name = name
        self.events = events

    def closed(self, ws: taut.ServerConnection, info: taut.CloseInfo) -> None:
        self.events.append((self.name, info.code, ws.state.name))
        if self.name == "broken":
            raise ZeroDivisionError


async def busy(ws: taut.ServerConnection) -> None:
    await asyncio.sleep(60)


@pytest.mark.parametrize("handler", [echo, Echo, busy])
async def test_layers_are_told_of_the_end(tcp: Driver, handler: Any, caplog: pytest.LogCaptureFixture) -> None:
    events: list[Any] = []
    router = taut.Router(middleware=[Closing("broken", events)])
    router.add("/", handler, middleware=[Closing("inner", events)], cancel_on_close=True)
    async with tcp.serve(router, middleware=[Closing("outer", events)]) as server:
        async with tcp.connect(server) as ws:
            (served,) = server.connections
            assert type(served) is taut.ServerConnection  # nothing is in the way of messages
            await ws.close(4001)
        while len(events) < 3:
            await asyncio.sleep(0.001)
        with pytest.raises(taut.InvalidStatus):
            await tcp.connect(server, "/missing")
    assert events == [("inner", 4001, "CLOSED"), ("broken", 4001, "CLOSED"), ("outer", 4001, "CLOSED")]
    assert [record.message for record in caplog.records if record.exc_info] == ["middleware failed"]


async def test_layers_are_told_of_a_connection_that_is_lost(tcp: Driver) -> None:
    events: list[Any] = []
    async with tcp.serve(echo, middleware=[Closing("layer", events)]) as server:
        ws = await tcp.connect(server)
        ws.abort()
        while not events:
            await asyncio.sleep(0.001)
    assert events == [("layer", 1006, "CLOSED")]


# -- messages ----------------------------------------------------------------------------------------------------------


class Messages(taut.Middleware):
    """Drops, changes, refuses, and fails on, messages."""

    def message_in(self, ws: taut.ServerConnection, message: Any) -> Any:
        match message:
            case "drop":
                return self.DROP
            case "refuse":
                raise taut.MessageRejected("we do not talk like this", 4010)
            case "wrong code":
                raise taut.MessageRejected("1006 is never sent", 1006)
            case "fail":
                raise ZeroDivisionError
        return message

    def message_out(self, ws: taut.ServerConnection, message: Any) -> Any:
        if message == "secret":
            return self.DROP
        return message.upper() if isinstance(message, str) else message


@pytest.mark.parametrize("handler", [echo, Echo])
async def test_messages_are_changed_and_dropped(tcp: Driver, handler: Any) -> None:
    async with tcp.connected(handler, server={"middleware": [Messages()]}) as (server, ws):
        for message in ("drop", "secret", "a", b"b", "drop", "secret", "c"):
            await ws.send(message)
        assert [await ws.recv() for _ in range(3)] == ["A", b"b", "C"]


@pytest.mark.parametrize("handler", [echo, Echo])
@pytest.mark.parametrize(
    ("message", "code", "logged"), [("refuse", 4010, False), ("wrong code", 1011, True), ("fail", 1011, True)]
)
async def test_messages_are_refused(
    tcp: Driver, handler: Any, message: str, code: int, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with tcp.serve(handler, middleware=[Messages()]) as server, tcp.connect(server) as ws:
        for each in ("a", message, "b"):
            await ws.send(each)
        assert await ws.recv() == "A"
        with pytest.raises(taut.ConnectionClosedError) as caught:
            await ws.recv()
        assert caught.value.code == code
        assert caught.value.reason == ("internal error" if logged else "we do not talk like this")
    errors = [record.message for record in caplog.records if record.exc_info]
    assert errors == (["message hook failed"] if logged else [])


async def test_what_message_out_raises_reaches_the_sender(tcp: Driver) -> None:
    class Strict(taut.Middleware):
        def message_out(self, ws: taut.ServerConnection, message: Any) -> Any:
            if message == "bad":
                raise ValueError("bad")
            return message

    async def handler(ws: taut.ServerConnection) -> None:
        for send in (ws.send, ws.send_nowait):
            with pytest.raises(ValueError, match="bad"):
                send("bad")
        await ws.send("good")

    async with tcp.connected(handler, server={"middleware": [Strict()]}) as (server, ws):
        assert await ws.recv() == "good"


async def test_what_a_hook_drops_is_told(tcp: Driver) -> None:
    async def handler(ws: taut.ServerConnection) -> None:
        assert ws.send_nowait("secret") is taut.SendStatus.DROPPED
        assert ws.send_nowait("a") is taut.SendStatus.SENT
        told = taut.broadcast([ws], "secret"), taut.broadcast([ws], "b")
        assert [(each.sent, each.dropped) for each in told] == [(0, 1), (1, 0)]
        await ws.send("done")

    async with tcp.connected(handler, server={"middleware": [Messages()]}) as (server, ws):
        assert [await ws.recv() for _ in range(3)] == ["A", "B", "DONE"]


async def test_hooks_see_values(tcp: Driver) -> None:
    events: list[Any] = []
    options = {"subprotocols": [JSON]}
    async with tcp.connected(echo, server={"middleware": [Recorder("layer", events)]}, **options) as (server, ws):
        for value in ({"a": 1}, None):
            await ws.send(value)
            assert await ws.recv() == value
    assert [event[2] for event in events if event[1] in ("in", "out")] == [{"a": 1}, {"a": 1}, None, None]


async def _send(ws: taut.ServerConnection, message: Any) -> None:
    await ws.send(message)


async def test_fragments_pass_hooks_as_they_are(tcp: Driver) -> None:
    events: list[Any] = []

    async def handler(ws: taut.ServerConnection) -> None:
        go = asyncio.Event()

        async def fragments() -> AsyncIterator[str]:
            yield "a"
            yield "b"
            await go.wait()

        sending = [asyncio.create_task(_send(ws, fragments()))]
        while not ws.fragmenting:
            await asyncio.sleep(0)
        sending.append(asyncio.create_task(_send(ws, "c")))  # waits for its turn, and is not shown twice for it
        await asyncio.sleep(0)
        go.set()
        await asyncio.gather(*sending)
        await ws.send(["d"])
        parts = [part async for part in ws.recv_streaming()]
        await ws.send("".join(map(str, parts)))

    async with tcp.connected(handler, server={"middleware": [Recorder("layer", events)]}) as (server, ws):
        assert [await ws.recv() for _ in range(3)] == ["ab", "c", "d"]
        await ws.send(["e", "f"])
        assert await ws.recv() == "ef"
    seen = [event[1:] for event in events if event[1] in ("in", "out")]
    assert isinstance(seen[0][1], AsyncIterator)
    assert seen[1:] == [("out", "c"), ("out", ["d"]), ("out", "ef")]


async def test_parts_that_are_passed_on_do_not_pass_hooks(tcp: Driver) -> None:
    events: list[Any] = []

    async def handler(ws: taut.ServerConnection) -> None:
        ws.deliver_parts()
        parts = [await ws.recv()]
        while not parts[-1].final:
            parts.append(await ws.recv())
        await ws.send(str(len(b"".join(part.data for part in parts))))

    async with tcp.connected(handler, server={"middleware": [Recorder("layer", events)]}) as (server, ws):
        await ws.send([b"x" * 100_000, b"y"])
        assert await ws.recv() == "100001"
    assert [event for event in events if event[1] == "in"] == []


async def test_recv_with_decode_passes_hooks(tcp: Driver) -> None:
    async def handler(ws: taut.ServerConnection) -> None:
        assert await ws.recv(decode=True) == "a"
        assert await ws.recv(decode=False) == b"b"
        assert await ws.recv(decode=False) == b"c"
        await ws.send("done")

    async with tcp.connected(handler, server={"middleware": [Messages()]}) as (server, ws):
        for message in ("drop", b"a", "b", b"c"):
            await ws.send(message)
        assert await ws.recv() == "DONE"


async def test_broadcast_passes_hooks(tcp: Driver) -> None:
    class Named(taut.Middleware):
        def message_out(self, ws: taut.ServerConnection, message: Any) -> Any:
            assert ws.request is not None
            name = ws.request.path[1:]
            if name == "fails":
                raise ZeroDivisionError
            return self.DROP if name == "nobody" else f"{name}: {message}" if name == "ann" else message

    async with tcp.serve(echo, middleware=[Named()]) as server:
        clients = {name: await tcp.connect(server, f"/{name}") for name in ("ann", "bob", "eve", "nobody", "fails")}
        with pytest.raises(ZeroDivisionError):
            taut.broadcast(server.connections, "hi")
        assert [await clients[name].recv() for name in ("ann", "bob", "eve")] == ["ann: hi", "hi", "hi"]
        for name in ("nobody", "fails"):
            assert clients[name].stats.messages_received == 0
        for ws in clients.values():
            await ws.close()


async def test_receiving_with_hooks_is_cancelled_without_loss(tcp: Driver) -> None:
    got: list[Any] = []

    async def handler(ws: taut.ServerConnection) -> None:
        while len(got) < 20:
            try:
                async with asyncio.timeout(0.001):
                    got.append(await ws.recv())
            except TimeoutError:
                pass
        with pytest.raises(taut.ConcurrencyError):
            await asyncio.gather(ws.recv(), ws.recv())

    async with tcp.connected(handler, server={"middleware": [Messages()]}) as (server, ws):
        for n in range(20):
            await ws.send(str(n))
            await ws.send("drop")
            if n % 3 == 0:
                await asyncio.sleep(0.002)
        while len(got) < 20:
            await asyncio.sleep(0.001)
    assert got == [str(n) for n in range(20)]


# -- state -------------------------------------------------------------------------------------------------------------


async def test_state(tcp: Driver) -> None:
    class Tagging(taut.Middleware):
        async def handshake(self, ws: Any, request: taut.Request, call_next: Any) -> taut.Response:
            ws.locals.path = request.path
            response: taut.Response = await call_next()
            return response

        async def connection(self, ws: taut.ServerConnection, call_next: Any) -> None:
            ws.server.state.count = getattr(ws.server.state, "count", 0) + 1
            await call_next()

    async def handler(ws: taut.ServerConnection) -> None:
        await ws.send(f"{ws.locals.path} {ws.server.state.count}")

    async with tcp.serve(handler, middleware=[Tagging()]) as server:
        for n in range(2):
            async with tcp.connect(server, f"/{n}") as ws:
                assert await ws.recv() == f"/{n} {n + 1}"
        assert server.state.count == 2


async def test_state_of_ones_own(tcp: Driver) -> None:
    class State:
        greeting = "hello"

    async def handler(ws: taut.ServerConnection) -> None:
        assert ws._locals is None  # nothing is made for a connection that keeps nothing
        state: State = ws.server.state
        await ws.send(state.greeting)

    state = State()
    async with tcp.connected(handler, server={"state": state}) as (server, ws):
        assert server.state is state
        assert await ws.recv() == "hello"


# -- wrong arguments ---------------------------------------------------------------------------------------------------


async def test_wrong_arguments() -> None:
    def plain(ws: Any, call_next: Any) -> None: ...

    for wrong in (plain, taut.Middleware, Messages, "abc", 7, None, len):
        for make in (lambda **options: taut.serve(echo, **options), taut.Router):
            with pytest.raises(TypeError, match=r"middleware must hold taut\.Middleware objects"):
                make(middleware=[wrong])
    for wrong in (Messages(), "abc", 7):
        with pytest.raises(TypeError, match="middleware must be a sequence or None"):
            taut.serve(echo, middleware=wrong)  # type: ignore[arg-type]
