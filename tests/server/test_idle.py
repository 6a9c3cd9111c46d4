"""Connections that are idle for too long, or too old."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from network import Driver
from peers import BINARY, CLOSE, CONT, PING, TEXT

import taut
import taut.sync
from taut.connection.deadlines import Deadlines
from taut.types import ConnectionOptions


async def echo(ws: taut.ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


def closed(ws: taut.Connection) -> tuple[taut.Initiator, int, str, bool]:
    info = ws.close_info
    assert info is not None
    return info.initiator, info.code, info.reason, info.clean


async def test_an_idle_connection_is_closed(tcp: Driver) -> None:
    ended: list[bool] = []

    async def handler(ws: taut.ServerConnection) -> None:
        async for _ in ws:
            pass
        ended.append(True)  # 1001 is no error

    async with (
        tcp.serve(handler, idle_timeout=0.2, ping_interval=0.05) as server,
        tcp.connect(server) as ws,
    ):
        begun = time.monotonic()
        await ws.wait_closed()
        assert time.monotonic() - begun >= 0.2
        assert closed(ws) == (taut.Initiator.REMOTE, 1001, "idle for 0.2 s", True)
        await server.wait_for_connections(at_most=0)
        assert ended == [True]


async def test_a_client_may_be_the_one_who_is_strict(tcp: Driver) -> None:
    async with tcp.connected(echo, client={"idle_timeout": 0.1, "ping_interval": None}) as (_, ws):
        await ws.wait_closed()
        assert closed(ws) == (taut.Initiator.LOCAL, 1001, "idle for 0.1 s", True)


@pytest.mark.parametrize("direction", ["received", "sent"])
async def test_messages_keep_a_connection_open(tcp: Driver, direction: str) -> None:
    async def handler(ws: taut.ServerConnection) -> None:
        async for message in ws:
            if direction == "received":
                await ws.send(message)
            else:
                for _ in range(20):
                    await asyncio.sleep(0.05)
                    await ws.send("tick")

    async with tcp.serve(handler, idle_timeout=0.4) as server, tcp.connect(server) as ws:
        begun = time.monotonic()
        if direction == "sent":
            await ws.send("go")
        for _ in range(20):
            if direction == "received":
                await asyncio.sleep(0.05)
                await ws.send("tick")
            await ws.recv()
        assert time.monotonic() - begun > 0.8
        assert ws.state is taut.State.OPEN
        await ws.wait_closed()
        assert ws.close_code == 1001


async def test_pings_do_not(tcp: Driver) -> None:
    async with tcp.serve(echo, idle_timeout=0.2) as server, tcp.opened(server) as peer:
        for _ in range(1000):
            peer.send(PING, b"here")
            frame = await peer.frame()
            if frame.opcode == CLOSE:
                break
            await asyncio.sleep(0.01)
        assert frame.payload == b"\x03\xe9idle for 0.2 s"
        await server.wait_for_connections(at_most=1)


async def test_a_message_on_its_way_is_activity(tcp: Driver) -> None:
    async with tcp.serve(echo, idle_timeout=0.3) as server, tcp.opened(server) as peer:
        begun = time.monotonic()
        peer.send(TEXT, b"0", fin=False)
        for _ in range(16):
            await asyncio.sleep(0.05)
            peer.send(CONT, b"0", fin=False)
        peer.send(CONT)
        assert (await peer.frame()).payload == b"0" * 17
        assert time.monotonic() - begun > 0.7
        peer.send(BINARY, b"1", fin=False)  # of which nothing more comes
        assert (await peer.frame()).opcode == CLOSE


async def test_a_busy_handler_is_not_idle(tcp: Driver) -> None:
    done = asyncio.Event()

    async def handler(ws: taut.ServerConnection) -> None:
        await ws.recv()
        await done.wait()
        await ws.send(await ws.recv())
        await ws.wait_closed()

    async with tcp.serve(handler, idle_timeout=0.1) as server, tcp.connect(server) as ws:
        await ws.send("work")
        await ws.send("and wait your turn")
        await asyncio.sleep(0.5)
        assert ws.state is taut.State.OPEN
        done.set()
        assert await ws.recv() == "and wait your turn"
        await ws.wait_closed()


async def test_an_old_connection_is_closed_however_busy_it_is(tcp: Driver) -> None:
    async def close(ws: taut.ClientConnection) -> float:
        begun = time.monotonic()
        with pytest.raises(taut.ConnectionClosedOK):
            while True:
                await ws.send("busy")
                await ws.recv()
        assert closed(ws) == (taut.Initiator.REMOTE, 1001, "maximum lifetime of 0.5 s", True)
        return time.monotonic() - begun

    async with tcp.serve(echo, max_lifetime=0.5, ping_interval=None) as server:
        clients = [await tcp.connect(server) for _ in range(5)]
        assert min(await asyncio.gather(*map(close, clients))) >= 0.4


def test_those_opened_together_do_not_end_together() -> None:
    options = ConnectionOptions(max_lifetime=100)

    def end() -> float:
        deadlines = Deadlines(options, 1000.0, 1000.0)
        return deadlines._ends_at  # pyright: ignore[reportPrivateUsage]

    ends = [end() for _ in range(200)]
    assert 1090 <= min(ends) < 1093
    assert 1097 < max(ends) <= 1100


async def test_nothing_is_watched_unless_it_is_asked_for(tcp: Driver) -> None:
    loop = asyncio.get_running_loop()
    async with tcp.connected(echo, ping_interval=None):
        # asyncio's own loop shows its timers; there is none of a sweep.
        assert not [timer for timer in getattr(loop, "_scheduled", ()) if "_sweep" in repr(timer)]


def test_the_blocking_api() -> None:
    def handler(ws: taut.sync.ServerConnection) -> None:
        for message in ws:
            ws.send(message)

    with taut.sync.serve(handler, "127.0.0.1", 0, idle_timeout=0.2) as server:
        threading.Thread(target=server.serve_forever).start()
        with taut.sync.connect(f"ws://127.0.0.1:{server.port}/") as ws:
            for _ in range(10):
                time.sleep(0.05)
                ws.send("tick")
                assert ws.recv() == "tick"
            ws.wait_closed(10)
            assert (ws.close_code, ws.close_reason) == (1001, "idle for 0.2 s")
        with taut.sync.connect(f"ws://127.0.0.1:{server.port}/", max_lifetime=0.1) as ws:
            ws.wait_closed(10)
            assert (ws.close_code, ws.close_reason) == (1001, "maximum lifetime of 0.1 s")


@pytest.mark.parametrize("name", ["idle_timeout", "max_lifetime"])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        ("1", TypeError),
        (True, TypeError),
        (float("nan"), ValueError),
    ],
)
def test_wrong_arguments(name: str, value: Any, error: Any) -> None:
    with pytest.raises(error, match=f"{name} must be a number above 0 or None, not {value!r}"):
        taut.serve(echo, "127.0.0.1", 0, **{name: value})
