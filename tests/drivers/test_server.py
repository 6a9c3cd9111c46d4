"""The server: its end, its time limits, and what it refuses."""

from __future__ import annotations

import asyncio
import http
from typing import Any

import pytest
from network import Driver
from peers import TEXT

import taut


async def echo(ws: Any) -> None:
    async for message in ws:
        await ws.send(message)


async def idle(ws: Any) -> None:
    await ws.wait_closed()


async def test_closing_the_server_closes_connections_with_1001(driver: Driver) -> None:
    finished: list[int] = []

    async def handler(ws: Any) -> None:
        await ws.wait_closed()
        finished.append(ws.close_code)

    async with driver.serve(handler) as server:
        clients = [await driver.connect(server) for _ in range(5)]
        assert server.is_serving()
        server.close()
        assert not server.is_serving()
        assert server.sockets == ()
        with pytest.raises(ValueError, match="the server does not listen on a port"):
            print(server.port)
        await server.wait_closed()
        assert finished == [1001] * 5
        for client in clients:
            await client.wait_closed()
            assert (client.close_code, client.close_info.initiator) == (1001, taut.Initiator.REMOTE)
        assert server.connections == set()


async def test_the_close_code_can_be_chosen(driver: Driver) -> None:
    async with driver.connected(idle) as (server, ws):
        server.close(code=1012, reason="new version")
        await ws.wait_closed()
        assert (ws.close_code, ws.close_reason) == (1012, "new version")


async def test_connections_may_be_left_to_end_by_themselves(driver: Driver) -> None:
    async with driver.connected(echo) as (server, ws):
        server.close(close_connections=False)
        closed = asyncio.create_task(server.wait_closed())
        for _ in range(3):
            await ws.send("still here")
            assert await ws.recv() == "still here"
        assert not closed.done()
        await ws.close()
        await closed
        assert ws.close_code == 1000


async def test_no_connection_is_accepted_any_more(driver: Driver) -> None:
    async with driver.serve(echo) as server:
        connecting = driver.connect(server)
        server.close()
        await server.wait_closed()
        with pytest.raises((OSError, taut.InvalidHandshake)):
            await connecting


async def test_a_handshake_in_flight_is_answered_with_503(driver: Driver) -> None:
    async with driver.serve(echo) as server, driver.peer(server) as early, driver.peer(server) as late:
        early.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        while len(server.openings) < 2:
            await asyncio.sleep(0.001)
        server.close()
        for peer in (early, late):
            response = (await peer.read_to_end()).decode()
            assert response.startswith("HTTP/1.1 503 "), response
            peer.transport.close()
        await server.wait_closed()


async def test_a_request_that_is_being_decided_is_answered_with_503(driver: Driver) -> None:
    asked, gate = asyncio.Event(), asyncio.Event()

    async def process_request(ws: Any, request: Any) -> None:
        asked.set()
        await gate.wait()

    async with driver.serve(echo, process_request=process_request) as server:
        opening = asyncio.ensure_future(driver.connect(server).open())
        await asked.wait()
        server.close()
        gate.set()
        with pytest.raises(taut.InvalidStatus) as caught:
            await opening
        assert caught.value.response.status_code == 503
        await server.wait_closed()


async def test_closing_waits_for_handlers_and_cancels_those_that_do_not_end(driver: Driver) -> None:
    ended: list[str] = []

    async def stubborn(ws: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async with driver.serve(stubborn, close_timeout=0.1) as server:
        ws = await driver.connect(server)
        server.close()
        await server.wait_closed()
        assert ended == ["cancelled"]
        await ws.wait_closed()
        assert ws.close_code == 1001


async def test_serve_forever_ends_with_the_server(driver: Driver) -> None:
    async with driver.connected(idle) as (server, ws):
        forever = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0)
        server.close()
        await forever
        assert ws.close_code == 1001
    async with driver.connected(idle) as (server, ws):
        forever = asyncio.create_task(server.serve_forever())
        await asyncio.sleep(0)
        forever.cancel()
        with pytest.raises(asyncio.CancelledError):
            await forever
        await ws.wait_closed()
        assert ws.close_code == 1001


async def test_closing_while_messages_fly(driver: Driver) -> None:
    async def chat(ws: Any) -> str:
        try:
            while True:
                await ws.send("x" * 1000)
                await ws.recv()
        except taut.ConnectionClosed as exc:
            return f"{exc.code} {exc.info.clean}"

    async with driver.serve(echo) as server:
        clients = [await driver.connect(server) for _ in range(10)]
        chatting = [asyncio.create_task(chat(ws)) for ws in clients]
        await asyncio.sleep(0.02)
        server.close()
        await server.wait_closed()
        assert await asyncio.gather(*chatting) == ["1001 True"] * 10


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nHost: localhost\r\n"])
async def test_a_client_that_is_slow_with_its_request_is_cut_off(driver: Driver, sent: bytes) -> None:
    async with driver.serve(echo, open_timeout=0.1) as server, driver.peer(server) as peer:
        peer.write(sent)
        response = (await peer.read_to_end()).decode()
        assert response.startswith("HTTP/1.1 408 "), response
        peer.transport.close()
        while server.openings:
            await asyncio.sleep(0.001)


async def test_a_client_that_drips_its_request_is_cut_off(driver: Driver) -> None:
    async with driver.serve(echo, open_timeout=0.2) as server, driver.peer(server) as peer:

        async def drip() -> None:
            peer.write(b"GET / HTTP/1.1\r\n")
            while not peer.eof:
                peer.write(b"X-Drip: 1\r\n")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        response = (await peer.read_to_end()).decode()
        assert response.startswith("HTTP/1.1 408 "), response
        await dripping


async def test_a_hook_that_does_not_decide_in_time_is_cut_off(driver: Driver) -> None:
    cancelled = asyncio.Event()

    async def process_request(ws: Any, request: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with driver.serve(echo, open_timeout=0.1, process_request=process_request) as server:
        with pytest.raises(taut.InvalidStatus) as caught:
            await driver.connect(server)
        assert caught.value.response.status_code == 408
        await cancelled.wait()


async def test_a_client_that_leaves_during_the_handshake_is_forgotten(driver: Driver) -> None:
    async with driver.serve(echo) as server:
        async with driver.peer(server) as peer:
            peer.write(b"GET / HTTP/1.1\r\n")
            while not server.openings:
                await asyncio.sleep(0.001)
        while server.openings:
            await asyncio.sleep(0.001)
        async with driver.connect(server) as ws:
            await ws.send("others are served")
            assert await ws.recv() == "others are served"


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_hooks_answer_or_refuse_requests(driver: Driver, asynchronous: bool) -> None:
    def decide(ws: Any, request: Any) -> Any:
        if request.path == "/health":
            return ws.respond(http.HTTPStatus.OK, "healthy\n")
        return None

    async def decide_later(ws: Any, request: Any) -> Any:
        await asyncio.sleep(0)
        return decide(ws, request)

    def decorate(ws: Any, request: Any, response: Any) -> None:
        response.headers["X-Decorated"] = "yes"

    hook = decide_later if asynchronous else decide
    async with driver.serve(echo, process_request=hook, process_response=decorate) as server:
        with pytest.raises(taut.InvalidStatus) as caught:
            await driver.connect(server, "/health")
        response = caught.value.response
        assert (response.status_code, response.body) == (200, b"healthy\n")
        assert response.headers["X-Decorated"] == "yes"
        async with driver.connect(server, "/chat") as ws:
            assert ws.response.headers["X-Decorated"] == "yes"
            await ws.send("hello")
            assert await ws.recv() == "hello"


async def test_messages_sent_while_a_hook_decides_are_not_lost(driver: Driver) -> None:
    gate = asyncio.Event()

    async def process_request(ws: Any, request: Any) -> None:
        await gate.wait()

    async with (
        driver.serve(echo, compression=None, process_request=process_request) as server,
        driver.peer(server) as peer,
    ):
        opening = asyncio.create_task(peer.request())
        await asyncio.sleep(0.01)
        for i in range(5):
            peer.send(TEXT, f"early {i}".encode())
            await asyncio.sleep(0.002)
        gate.set()
        assert (await opening).startswith("HTTP/1.1 101 ")
        assert [(await peer.frame()).payload for _ in range(5)] == [f"early {i}".encode() for i in range(5)]
        await peer.close()


async def test_a_failing_hook_is_a_500_and_logged(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    def process_request(ws: Any, request: Any) -> None:
        raise KeyError("hook")

    async with driver.serve(echo, process_request=process_request) as server:
        with pytest.raises(taut.InvalidStatus) as caught:
            await driver.connect(server)
        assert caught.value.response.status_code == 500
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], KeyError)


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_response_that_cannot_be_sent_is_a_500(driver: Driver, asynchronous: bool) -> None:
    def spoil(ws: Any, request: Any, response: Any) -> None:
        response.headers["X-Spoilt"] = "a\r\nb"

    async def spoil_later(ws: Any, request: Any, response: Any) -> None:
        await asyncio.sleep(0)
        spoil(ws, request, response)

    async with driver.serve(echo, process_response=spoil_later if asynchronous else spoil) as server:
        with pytest.raises(taut.InvalidStatus) as caught:
            await driver.connect(server)
        assert caught.value.response.status_code == 500


async def test_a_server_that_does_not_answer_is_not_waited_for(driver: Driver) -> None:
    async with driver.raw_serve() as raw:
        opening = asyncio.ensure_future(raw.connect(open_timeout=0.1).open())
        peer = await raw.accept()
        with pytest.raises(taut.OpenTimeout) as caught:
            await opening
        assert caught.value.timeout == 0.1
        assert isinstance(caught.value, TimeoutError)
        await peer.read_to_end()


async def test_a_cancelled_connect_leaves_nothing_open(driver: Driver) -> None:
    async with driver.raw_serve() as raw:
        opening = asyncio.ensure_future(raw.connect().open())
        peer = await raw.accept()
        await peer.read_head()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await peer.read_to_end()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x00\x01\x02",
    ],
)
async def test_an_answer_that_is_no_acceptance_fails_the_handshake(driver: Driver, answer: bytes) -> None:
    async with driver.raw_serve() as raw:
        opening = asyncio.ensure_future(raw.connect().open())
        peer = await raw.accept()
        await peer.read_head()
        if answer:
            peer.write(answer)
        else:
            peer.transport.close()
        with pytest.raises(taut.InvalidHandshake) as caught:
            await opening
        assert caught.value.request is not None
        await peer.read_to_end()
