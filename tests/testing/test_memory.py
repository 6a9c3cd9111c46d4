"""What users test their own handlers with."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import taut
from taut.testing import MemoryServer, connected, memory_connect, memory_serve


async def shout(ws: Any) -> None:
    async for message in ws:
        await ws.send(message.upper())


async def test_a_handler_is_tested_in_two_lines() -> None:
    async with connected(shout) as ws:
        await ws.send("hello")
        assert await ws.recv() == "HELLO"


async def test_a_listener_is_tested_in_the_same_way() -> None:
    class Shout(taut.Listener):
        def on_message(self, ws: Any, message: Any) -> None:
            ws.send_nowait(message.upper())

    async with connected(Shout) as ws:
        await ws.send("hello")
        assert await ws.recv() == "HELLO"


async def test_what_the_handler_raises_is_raised_by_the_test() -> None:
    async def handler(ws: Any) -> None:
        await ws.recv()
        raise KeyError("a bug in the handler")

    with pytest.raises(KeyError, match="a bug in the handler"):
        async with connected(handler) as ws:
            await ws.send("x")
            await ws.recv()
    with pytest.raises(KeyError, match="a bug in the handler"):
        async with connected(handler) as ws:
            await ws.send("x")
            await ws.wait_closed()


async def test_what_the_block_raises_comes_first() -> None:
    async def handler(ws: Any) -> None:
        raise KeyError("handler")

    with pytest.raises(ZeroDivisionError):
        async with connected(handler):
            raise ZeroDivisionError


async def test_a_close_that_the_block_did_not_expect_is_raised() -> None:
    async def handler(ws: Any) -> None:
        await ws.close(4000)

    with pytest.raises(taut.ConnectionClosedError) as caught:
        async with connected(handler) as ws:
            await ws.recv()
    assert caught.value.code == 4000


async def test_both_handshakes_are_real() -> None:
    requests: list[taut.Request] = []

    async def handler(ws: Any) -> None:
        requests.append(ws.request)
        await ws.wait_closed()

    async with connected(
        handler,
        "ws://example.com/chat?room=1",
        subprotocols=["one", "two"],
        server={"server_header": "mine"},
        client={"additional_headers": {"Authorization": "Bearer x"}},
    ) as ws:
        assert ws.subprotocol == "one"
        assert ws.response.headers["Server"] == "mine"
        assert "permessage-deflate" in ws.response.headers["Sec-WebSocket-Extensions"]
    (request,) = requests
    assert request.path == "/chat?room=1"
    assert request.headers["Host"] == "example.com"
    assert request.headers["Authorization"] == "Bearer x"


@pytest.mark.parametrize(
    ("uri", "origin", "accepted"),
    [
        ("ws://example.com/", "http://example.com", True),
        ("ws://example.com/", "https://example.com", False),
        ("wss://example.com/", "https://example.com", True),
        ("wss://example.com/", "https://evil.example", False),
    ],
)
async def test_origins_are_checked_as_on_the_network(uri: str, origin: str, accepted: bool) -> None:
    async with memory_serve(shout) as server:
        if accepted:
            async with memory_connect(server, uri, origin=origin) as ws:
                await ws.send("x")
                assert await ws.recv() == "X"
        else:
            with pytest.raises(taut.InvalidStatus) as caught:
                await memory_connect(server, uri, origin=origin)
            assert caught.value.response.status_code == 403


async def test_a_server_has_many_clients() -> None:
    async def chat(ws: Any) -> None:
        async for message in ws:
            taut.broadcast(ws.server.connections, message)

    async with memory_serve(chat) as server:
        assert isinstance(server, MemoryServer)
        clients = [await memory_connect(server, address=f"client {i}") for i in range(5)]
        await clients[0].send("to all")
        assert [await client.recv() for client in clients] == ["to all"] * 5
        assert {ws.remote_address for ws in server.connections} == {f"client {i}" for i in range(5)}
        assert clients[3].local_address == "client 3"
    for client in clients:
        await client.wait_closed()
        assert client.close_code == 1001


async def test_failures_are_kept_in_order(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(ws: Any) -> None:
        raise KeyError(await ws.recv())

    async with memory_serve(handler) as server:
        for name in ("first", "second"):
            async with memory_connect(server) as ws:
                await ws.send(name)
                await ws.wait_closed()
                assert ws.close_code == 1011
        assert [failure.args for failure in server.failures] == [("first",), ("second",)]
    assert len(caplog.records) >= 2


async def test_backpressure_is_real() -> None:
    sent = 0

    async def handler(ws: Any) -> None:
        nonlocal sent
        while True:
            await ws.send(b"x" * 1000)
            sent += 1

    async with (
        memory_serve(handler, capacity=10_000, write_limit=5_000, compression=None) as server,
        memory_connect(server, read_limit=20_000, compression=None) as ws,
    ):
        before = -1
        while sent != before:
            before = sent
            for _ in range(20):
                await asyncio.sleep(0)
        assert 30 <= sent <= 45
        for _ in range(100):
            await ws.recv()
        while sent < 100:
            await asyncio.sleep(0)


async def test_a_closed_server_refuses_connections() -> None:
    async with memory_serve(shout) as server:
        connecting = memory_connect(server)
    with pytest.raises(ConnectionRefusedError):
        await connecting


async def test_a_server_may_be_awaited() -> None:
    server = await memory_serve(shout)
    ws = await memory_connect(server)
    server.close()
    await server.wait_closed()
    await ws.wait_closed()


async def test_wrong_arguments_are_refused_at_once() -> None:
    for wrong in ({"host": "localhost"}, {"port": 1}, {"sock": None}, {"ssl": None}, {"capacity": "1"}):
        with pytest.raises(TypeError, match=next(iter(wrong))):
            memory_serve(shout, **wrong)
    with pytest.raises(ValueError, match="capacity"):
        memory_serve(shout, capacity=0)
    with pytest.raises(TypeError, match="server"):
        memory_connect(object())  # type: ignore[arg-type]
    async with memory_serve(shout) as server:
        with pytest.raises(TypeError, match="sock"):
            memory_connect(server, sock=None)
        with pytest.raises(TypeError, match="unknown"):
            memory_connect(server, unknown=1)
