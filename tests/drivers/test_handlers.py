"""What serves a connection: coroutines and listeners, their failures, their cancellation."""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import Any

import pytest
from network import Driver
from peers import PING, PONG, TEXT, Frame

import taut


def failures(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_a_handler_that_raises_ends_its_own_connection_only(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(ws: Any) -> None:
        async for message in ws:
            if message == "raise":
                raise KeyError("the handler's own")
            await ws.send(message)

    async with driver.serve(handler) as server, driver.connect(server) as ws, driver.connect(server) as other:
        await other.send("before")
        await ws.send("raise")
        with pytest.raises(taut.ConnectionClosedError) as caught:
            await ws.recv()
        assert caught.value.code == 1011
        assert await other.recv() == "before"
        await other.send("after")
        assert await other.recv() == "after"
    (record,) = failures(caplog)
    assert record.name == "taut.server"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)
    assert record.exc_info[2] is not None


async def test_a_handler_that_cannot_even_be_called_is_a_failed_handler(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    async def wants_more(ws: Any, path: str) -> None:
        raise AssertionError("never called")

    def raises(ws: Any) -> Any:
        raise KeyError("at once")

    def is_no_coroutine(ws: Any) -> Any:
        return None

    class Unmakeable(taut.Listener):
        def __init__(self) -> None:
            raise KeyError("at once")

    failing: list[tuple[Any, type[Exception]]] = [
        (wants_more, TypeError),
        (raises, KeyError),
        (is_no_coroutine, TypeError),
        (Unmakeable, KeyError),
    ]
    for handler, error in failing:
        caplog.clear()
        async with driver.connected(handler) as (server, ws):
            await ws.wait_closed()
            assert ws.close_code == 1011
        (record,) = failures(caplog)
        assert record.exc_info is not None
        assert isinstance(record.exc_info[1], error)
        assert server.connections_open == set()


async def test_a_handler_that_sees_its_connection_end_has_not_failed(
    driver: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(ws: Any) -> None:
        while True:
            await ws.recv()

    async with driver.connected(handler) as (_, ws):
        await ws.send("x")
        await ws.close(4000)
    async with driver.connected(handler) as (_, ws):
        await ws.send("x")
        ws.abort()
    assert failures(caplog) == []


async def test_handlers_may_be_partials_and_methods(driver: Driver) -> None:
    class Application:
        async def serve(self, greeting: str, ws: Any) -> None:
            await ws.send(greeting)

    async with driver.connected(functools.partial(Application().serve, "hello")) as (_, ws):
        assert await ws.recv() == "hello"


async def test_a_handler_that_returns_closes_normally(driver: Driver) -> None:
    async def handler(ws: Any) -> None:
        await ws.send("bye")

    async with driver.connected(handler) as (_, ws):
        assert [message async for message in ws] == ["bye"]
        assert ws.close_info == taut.CloseInfo(taut.Initiator.REMOTE, 1000, "", clean=True)


async def test_cancel_on_close_ends_a_handler_that_looks_away(driver: Driver) -> None:
    cancelled = asyncio.Event()
    started = asyncio.Event()

    async def handler(ws: Any) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert ws.closed
            cancelled.set()
            raise

    async with driver.connected(handler, server={"cancel_on_close": True}) as (_, ws):
        await started.wait()
        await ws.close()
        await cancelled.wait()


async def test_without_cancel_on_close_the_handler_finishes_what_it_does(driver: Driver) -> None:
    gate, finished = asyncio.Event(), asyncio.Event()

    async def handler(ws: Any) -> None:
        await gate.wait()
        assert ws.closed
        finished.set()

    async with driver.connected(handler) as (server, ws):
        await ws.close()
        gate.set()
        await finished.wait()


class Recorder(taut.Listener):
    """Writes down every callback."""

    calls: asyncio.Queue[Any]

    def on_open(self, ws: Any) -> None:
        self.calls.put_nowait(("open", ws.request.path, ws.state))
        ws.send_nowait("welcome")

    def on_message(self, ws: Any, message: Any) -> None:
        self.calls.put_nowait(("message", message))

    def on_ping(self, ws: Any, data: bytes) -> None:
        self.calls.put_nowait(("ping", data))

    def on_pong(self, ws: Any, data: bytes) -> None:
        self.calls.put_nowait(("pong", data))

    def on_close(self, ws: Any, info: Any) -> None:
        self.calls.put_nowait(("close", info, ws.closed))


async def test_a_listener_is_told_everything_once(driver: Driver) -> None:
    class Listener(Recorder):
        calls = asyncio.Queue()

    calls = Listener.calls
    async with driver.serve(Listener) as server, driver.opened(server, target="/chat?x=1") as peer:
        assert await calls.get() == ("open", "/chat?x=1", taut.State.OPEN)
        assert await peer.frame() == Frame(TEXT, b"welcome")
        peer.send(TEXT, b"hello")
        assert await calls.get() == ("message", "hello")
        peer.send(PING, b"are you there")
        assert await calls.get() == ("ping", b"are you there")
        assert await peer.frame() == Frame(PONG, b"are you there")
        peer.send(PONG, b"unasked")
        assert await calls.get() == ("pong", b"unasked")
        await peer.close(4000)
        info = taut.CloseInfo(taut.Initiator.REMOTE, 4000, "", clean=True)
        assert await calls.get() == ("close", info, True)
    assert calls.empty()


async def test_each_connection_has_a_listener_of_its_own(driver: Driver) -> None:
    class Counter(taut.Listener):
        def __init__(self) -> None:
            self.count = 0

        def on_message(self, ws: Any, message: Any) -> None:
            self.count += 1
            ws.send_nowait(str(self.count))

    async with driver.serve(Counter) as server, driver.connect(server) as one, driver.connect(server) as two:
        for expected in ("1", "2", "3"):
            await one.send("count")
            assert await one.recv() == expected
        await two.send("count")
        assert await two.recv() == "1"


@pytest.mark.parametrize("callback", ["on_open", "on_message", "on_ping", "on_pong"])
async def test_a_callback_that_raises_closes_its_connection(
    driver: Driver, caplog: pytest.LogCaptureFixture, callback: str
) -> None:
    closed: asyncio.Queue[Any] = asyncio.Queue()

    def raises(self: Any, ws: Any, *args: Any) -> None:
        raise KeyError(callback)

    def on_close(self: Any, ws: Any, info: Any) -> None:
        closed.put_nowait(info)

    listener = type("Failing", (taut.Listener,), {callback: raises, "on_close": on_close})
    async with driver.serve(listener) as server, driver.opened(server) as peer:
        peer.send(PING)
        peer.send(PONG)
        peer.send(TEXT)
        assert (await peer.frames_until_close())[-1].code == 1011
        peer.transport.close()
        assert (await closed.get()).initiator is taut.Initiator.LOCAL
    (record,) = failures(caplog)
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


async def test_an_on_close_that_raises_is_logged(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(taut.Listener):
        def on_close(self, ws: Any, info: Any) -> None:
            raise KeyError("on_close")

    async with driver.connected(Failing) as (_, ws):
        await ws.close()
        assert ws.close_code == 1000
    (record,) = failures(caplog)
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


async def test_a_listener_may_close_from_a_callback(driver: Driver) -> None:
    class Leaving(taut.Listener):
        def on_message(self, ws: Any, message: Any) -> None:
            ws.send_nowait("good bye")
            self.closing = asyncio.ensure_future(ws.close(4000, "had enough"))

    async with driver.connected(Leaving) as (_, ws):
        await ws.send("hello")
        assert await ws.recv() == "good bye"
        with pytest.raises(taut.ConnectionClosedError) as caught:
            await ws.recv()
        assert (caught.value.code, caught.value.reason) == (4000, "had enough")


async def test_facts_about_the_connection(driver: Driver) -> None:
    seen: asyncio.Queue[Any] = asyncio.Queue()

    async def handler(ws: Any) -> None:
        seen.put_nowait(ws)
        await ws.wait_closed()

    async with (
        driver.serve(handler, subprotocols=["chat", "superchat"]) as server,
        driver.connect(
            server, "/path?query=1", subprotocols=["superchat", "other"], additional_headers={"X-Token": "abc"}
        ) as ws,
    ):
        there = await seen.get()
        assert there.request.path == ws.request.path == "/path?query=1"
        assert there.request.headers["x-token"] == "abc"
        assert there.subprotocol == ws.subprotocol == "superchat"
        assert ws.response.status_code == 101
        assert ws.response.headers["Sec-WebSocket-Protocol"] == "superchat"
        assert there.id != ws.id
        assert there.id == there.id
        assert there.local_address == ws.remote_address
        assert there.remote_address == ws.local_address
        assert server.connections == {there}
        assert "OPEN" in repr(ws)
        await ws.close()
        assert ws.remote_address is None
        assert "CLOSED" in repr(ws)
