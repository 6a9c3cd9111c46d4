"""Emptying a server: who is refused meanwhile, in what order connections close, and what holds at the deadline."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from typing import Any

import pytest
from network import Driver
from peers import CLOSE, TEXT, Peer

import taut
from taut.client.reconnection import retry_after
from taut.server.draining import DrainPlan


async def echo(ws: taut.ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


async def sleeper(ws: taut.ServerConnection) -> None:
    await asyncio.Event().wait()


async def plain(peer: Peer, target: str = "/healthz") -> str:
    """The answer to a request that is not for WebSocket."""
    peer.write(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return (await peer.read_to_end()).decode()


async def clients_of(tcp: Driver, server: taut.Server, number: int) -> list[taut.ClientConnection]:
    return [await tcp.connect(server) for _ in range(number)]


async def test_connections_are_closed_with_a_hint_that_the_client_understands(tcp: Driver) -> None:
    async with tcp.serve(echo) as server:
        clients = await clients_of(tcp, server, 8)
        assert server.ready
        await server.drain(10, spread=0.2)
        assert not server.ready
        assert not server.is_serving()
        assert server.connections == set()
        hints = set[float | None]()
        for ws in clients:
            with pytest.raises(taut.ConnectionClosedError) as caught:
                await ws.recv()
            info = caught.value.info
            assert (info.code, info.initiator, info.clean) == (1012, taut.Initiator.REMOTE, True)
            assert re.fullmatch(r"service restart retry-after=[01]\.[0-9]{2}", info.reason)
            hint = retry_after(caught.value)
            assert hint is not None
            assert 0.5 <= hint <= 1.5
            hints.add(hint)
        assert len(hints) > 1


async def test_they_are_closed_evenly(tcp: Driver) -> None:
    async with tcp.serve(echo) as server:
        begun = time.monotonic()
        moments: list[float] = []

        async def wait(ws: taut.ClientConnection) -> None:
            await ws.wait_closed()
            moments.append(time.monotonic() - begun)

        waiting = [asyncio.create_task(wait(ws)) for ws in await clients_of(tcp, server, 20)]
        begun = time.monotonic()
        await server.drain(20, spread=1.0)
        await asyncio.gather(*waiting)
        # One in each twentieth: never two thirds of them within a third of the time, however slow this machine.
        assert moments[0] < 0.6
        assert moments[-1] > 0.9
        assert len({int(moment * 5) for moment in moments}) >= 4


async def test_without_a_spread_a_few_connections_are_closed_at_once(tcp: Driver) -> None:
    plan = DrainPlan(timeout=30.0)
    assert (plan.spread_over(0), plan.spread_over(10), plan.spread_over(10**6)) == (0.0, 0.1, 15.0)
    async with tcp.serve(echo) as server:
        clients = await clients_of(tcp, server, 5)
        begun = time.monotonic()
        await server.drain()
        assert time.monotonic() - begun < 5
        assert all([(await ws.wait_closed(), ws.close_code)[1] == 1012 for ws in clients])


async def test_what_was_sent_before_arrives_before_the_close_frame(tcp: Driver) -> None:
    async def handler(ws: taut.ServerConnection) -> None:
        await ws.recv()
        for number in range(100):
            ws.send_nowait(f"{number}" * 1000)
        asked.set()
        await ws.wait_closed()
        ended.append(ws.close_code)

    asked = asyncio.Event()
    ended: list[int | None] = []
    async with tcp.serve(handler) as server, tcp.connect(server) as ws:
        await ws.send("all of it")
        await asked.wait()
        draining = asyncio.create_task(server.drain(10))
        assert [await ws.recv() for _ in range(100)] == [f"{number}" * 1000 for number in range(100)]
        await draining
        assert ws.close_code == 1012
        assert ended == [1012]


async def test_a_handler_may_finish(tcp: Driver) -> None:
    steps: list[str] = []
    gate = asyncio.Event()

    async def handler(ws: taut.ServerConnection) -> None:
        try:
            await ws.recv()
        except taut.ConnectionClosed as exc:
            steps.append(f"told {exc.code}")
            await gate.wait()
            steps.append("saved")

    async with tcp.serve(handler) as server:
        ws = await tcp.connect(server)
        draining = asyncio.create_task(server.drain(10))
        await ws.wait_closed()
        await asyncio.sleep(0)
        assert not draining.done()
        gate.set()
        await draining
        assert steps == ["told 1012", "saved"]


# -- who is refused ----------------------------------------------------------------------------------------------------


async def test_new_clients_are_answered_with_503(tcp: Driver) -> None:
    def hook(ws: taut.ServerConnection, request: taut.Request) -> taut.Response | None:
        asked.append(request.path)
        return ws.respond(200, f"ready: {ws.server.ready}\n") if request.path == "/healthz" else None

    asked: list[str] = []
    async with tcp.serve(sleeper, process_request=hook) as server:
        ws = await tcp.connect(server)
        async with tcp.peer(server) as early:
            early.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
            while not server.openings:
                await asyncio.sleep(0.001)
            asked.clear()
            draining = asyncio.create_task(server.drain(10, retry_after=40))
            await ws.wait_closed()
            assert server.draining
            assert server.sockets
            with pytest.raises(taut.InvalidStatus) as caught:
                await tcp.connect(server)
            response = caught.value.response
            assert response.status_code == 503
            assert 20 <= int(response.headers["Retry-After"]) <= 60
            early.write(
                b"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            assert (await early.read_head()).startswith("HTTP/1.1 503 ")
            assert asked == []
            async with tcp.peer(server) as probe:
                assert (await plain(probe)).endswith("ready: False\n")
        server.close()
        for connection in list(server.connections_open):
            connection.cancel_handler()
        await draining
        assert server.stats.refused == {503: 2, 200: 1}


async def test_a_request_that_is_being_decided_is_answered_with_503(tcp: Driver) -> None:
    async def hook(ws: taut.ServerConnection, request: taut.Request) -> taut.Response | None:
        asked.set()
        await gate.wait()
        return ws.respond(200, "done\n") if request.path == "/healthz" else None

    asked, gate = asyncio.Event(), asyncio.Event()
    async with tcp.serve(echo, process_request=hook) as server, tcp.peer(server) as probe:
        answer = asyncio.create_task(plain(probe))
        await asked.wait()
        asked.clear()
        opening = asyncio.ensure_future(tcp.connect(server).open())
        await asked.wait()
        draining = asyncio.create_task(server.drain(10))
        with pytest.raises(taut.InvalidStatus, match="503"):
            await opening  # although nobody has decided
        await draining
        assert (await answer).startswith("HTTP/1.1 503 ")  # the server is closed by now


async def test_listening_may_be_left_to_a_successor(tcp: Driver) -> None:
    async with tcp.serve(sleeper, reuse_port=True) as server:
        ws, port = await tcp.connect(server), server.port
        async with taut.serve(echo, "127.0.0.1", port, reuse_port=True):
            # What the kernel has given to the old one before is answered.
            waiting = [asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
            streams = [await each for each in waiting]
            draining = asyncio.create_task(server.drain(10, keep_listening=False))
            await ws.wait_closed()
            assert server.sockets == ()
            assert not server.ready
            for _ in range(20):
                async with taut.connect(f"ws://127.0.0.1:{port}/") as new:
                    await new.send("hello")
                    assert await new.recv() == "hello"
            for _, writer in streams:
                writer.close()
                await writer.wait_closed()
            with pytest.raises(RuntimeError, match="does not listen any more"):
                server.resume()
            server.close()
            for connection in list(server.connections_open):
                connection.cancel_handler()
            await draining


# -- the deadline, and other ends --------------------------------------------------------------------------------------


async def test_what_is_left_at_the_deadline_is_dropped(tcp: Driver, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(ws: taut.ServerConnection) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    ended: list[str] = []
    async with tcp.serve(handler) as server, tcp.opened(server) as silent:  # which does not answer the Close frame
        begun = time.monotonic()
        with caplog.at_level(logging.WARNING, "taut.server"):
            await server.drain(0.3)
        assert 0.3 <= time.monotonic() - begun < 5
        assert ended == ["cancelled"]
        assert (await silent.frame()).opcode == CLOSE
        assert "1 connections or their handlers were not done" in caplog.text


async def test_a_handler_that_will_not_end_does_not_hold_up_the_end(tcp: Driver) -> None:
    async def handler(ws: taut.ServerConnection) -> None:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                refused.append(True)

    gate = asyncio.Event()
    refused: list[bool] = []
    async with tcp.serve(handler) as server:
        await tcp.connect(server)
        begun = time.monotonic()
        await server.drain(0.1)
        assert time.monotonic() - begun < 8  # and not twice ``close_timeout``
        assert refused
        gate.set()
        await server.wait_for_connections(at_most=0)


async def test_close_ends_a_drain_at_once(tcp: Driver) -> None:
    async with tcp.serve(echo) as server:
        clients = await clients_of(tcp, server, 4)
        draining = asyncio.create_task(server.drain(1000, spread=1000))
        await asyncio.sleep(0)
        assert server.draining
        server.close(code=1001)
        await draining
        codes = [(await ws.wait_closed(), ws.close_code)[1] for ws in clients]
        assert codes.count(1001) >= 3  # the first may have had its turn


async def test_a_second_drain_with_less_time_is_over_sooner(tcp: Driver) -> None:
    async with tcp.serve(echo) as server:
        clients = await clients_of(tcp, server, 4)
        first = asyncio.create_task(server.drain(1000, spread=1000))
        await asyncio.sleep(0)
        await server.drain(10, spread=0)
        await first
        assert [(await ws.wait_closed(), ws.close_code)[1] for ws in clients] == [1012] * 4
        await server.drain()  # of a closed server


async def test_connections_that_end_by_themselves_end_the_drain(tcp: Driver) -> None:
    async with tcp.serve(echo) as server:
        clients = await clients_of(tcp, server, 4)
        draining = asyncio.create_task(server.drain(1000, spread=1000))
        await asyncio.sleep(0)
        for ws in clients:
            await ws.close()
        await draining


async def test_a_cancelled_drain_can_be_undone(tcp: Driver) -> None:
    async with tcp.serve(echo) as server, tcp.connect(server) as ws:
        others = await clients_of(tcp, server, 3)
        draining = asyncio.create_task(server.drain(1000, spread=1000))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="draining"):
            server.resume()
        with pytest.raises(RuntimeError, match="draining"):
            server.suspend()
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining
        assert server.draining
        assert not server.ready
        assert server.is_serving()
        with pytest.raises(taut.InvalidStatus, match="503"):
            await tcp.connect(server)
        server.resume()
        assert server.ready
        assert not server.draining
        async with tcp.connect(server) as new:
            await new.send("again")
            assert await new.recv() == "again"
        assert sum(each.state is taut.State.OPEN for each in (ws, *others)) >= 3


async def test_a_drain_of_nobody(tcp: Driver) -> None:
    async with tcp.serve(echo) as server:
        await server.drain()
        assert not server.is_serving()


@pytest.mark.parametrize("transport", ["tls", "unix", "memory"])
async def test_on_other_transports(transport: str, tmp_path: Any) -> None:
    driver = Driver(transport, str(tmp_path))
    async with driver.serve(echo) as server:
        clients = [await driver.connect(server) for _ in range(3)]
        await server.drain(10)
        assert [(await ws.wait_closed(), ws.close_code)[1] for ws in clients] == [1012] * 3


class Echo(taut.Listener):
    closed: list[int]

    def on_message(self, ws: taut.Connection, message: taut.Data) -> None:
        ws.send_nowait(message)

    def on_close(self, ws: taut.Connection, info: taut.CloseInfo) -> None:
        self.closed.append(info.code)


async def test_listeners(tcp: Driver) -> None:
    Echo.closed = []
    async with tcp.serve(Echo) as server, tcp.opened(server) as peer:
        peer.send(TEXT, b"last words")
        assert (await peer.frame()).payload == b"last words"
        draining = asyncio.create_task(server.drain(10, reason="", retry_after=None, code=1001))
        close = await peer.frame()
        assert close.payload == b"\x03\xe9"
        peer.send(CLOSE, close.payload)
        await draining
        assert Echo.closed == [1001]


# -- arguments ---------------------------------------------------------------------------------------------------------


def test_a_reason_and_its_hint_fit_into_a_close_frame() -> None:
    for reason in ("", "x" * 200, "ä" * 200, "\ud800"):
        text = DrainPlan(reason=reason, retry_after=1e6).close_reason()
        assert len(text.encode()) <= 123
        assert re.search(r"(^| )retry-after=[0-9]+\.[0-9]{2}$", text)
    assert DrainPlan(reason="bye", retry_after=None).close_reason() == "bye"
    assert DrainPlan(reason="bye", code=1001).close_reason() == "bye"
    assert DrainPlan(reason="bye", code=1013).close_reason().startswith("bye retry-after=")


@pytest.mark.parametrize(
    ("options", "error", "what"),
    [
        ({"timeout": -1}, ValueError, "timeout must be a number of at least 0, not -1"),
        ({"timeout": None}, TypeError, "timeout must be a number of at least 0, not None"),
        ({"timeout": float("inf")}, ValueError, "timeout must be a finite number, not inf"),
        ({"spread": 31}, ValueError, "spread must not be longer than timeout, 30, not 31"),
        ({"spread": "1"}, TypeError, "spread must be a number of at least 0 or None, not '1'"),
        ({"code": 1006}, ValueError, "code must be 1000-1003, 1007-1014 or 3000-4999, not 1006"),
        ({"reason": b"x"}, TypeError, "reason must be a str, not b'x'"),
        ({"retry_after": -0.1}, ValueError, "retry_after must be a number of at least 0 or None, not -0.1"),
        ({"keep_listening": 1}, TypeError, "keep_listening must be True or False, not 1"),
    ],
)
async def test_wrong_arguments(tcp: Driver, options: Any, error: Any, what: str) -> None:
    async with tcp.serve(echo) as server:
        with pytest.raises(error, match=re.escape(what)):
            await server.drain(**options)
        assert server.ready
