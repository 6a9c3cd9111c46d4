"""Signals: a server in a process of its own is asked to end, as supervisors and users ask."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from network import Driver

import taut

PROGRAM = """
import asyncio, signal, sys, time
import taut

async def handler(ws):
    if ws.request.path == "/deaf":
        await asyncio.sleep(1000)
    async for message in ws:
        await ws.send(message)

async def main():
    previous = signal.signal(signal.SIGTERM, lambda *_: print("not mine", flush=True))
    before = signal.getsignal(signal.SIGINT)
    async with taut.serve(handler, "127.0.0.1", 0, close_timeout=5) as server:
        print(server.port, flush=True)
        number = await server.serve_until_signal(drain=float(sys.argv[2]), spread=float(sys.argv[3]))
    assert signal.getsignal(signal.SIGINT) is before
    print(signal.Signals(number).name, flush=True)
    signal.raise_signal(signal.SIGTERM)

if sys.argv[1] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main(), debug=sys.argv[1] == "debug")
"""


class Process:
    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port

    def connect(self, path: str = "/") -> taut.connect:
        return taut.connect(f"ws://127.0.0.1:{self.port}{path}")

    async def end(self) -> str:
        """What it says until its end, which is no failure."""
        out, err = await asyncio.wait_for(self.process.communicate(), 30)
        assert (self.process.returncode, err) == (0, b"")
        return out.decode()


@asynccontextmanager
async def served(loop_name: str, drain: float, spread: float = 0) -> AsyncGenerator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", "-c", PROGRAM, loop_name, str(drain), str(spread)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        yield Process(process, int(await process.stdout.readline()))
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains(loop_name: str, number: signal.Signals) -> None:
    async with served(loop_name, 20, 0.2) as server:
        clients = [await server.connect() for _ in range(5)]
        server.process.send_signal(number)
        for ws in clients:
            with pytest.raises(taut.ConnectionClosedError) as caught:
                await ws.recv()
            assert caught.value.code == 1012
            assert "retry-after=" in caught.value.reason
        assert await server.end() == f"{number.name}\nnot mine\n"


async def test_a_second_signal_closes_at_once(loop_name: str) -> None:
    async with served(loop_name, 1000, 1000) as server:
        clients = [await server.connect() for _ in range(5)]
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(taut.InvalidStatus, match="503"):
            while True:
                clients.append(await server.connect())
        server.process.send_signal(signal.SIGINT)
        for ws in clients:
            await ws.wait_closed()
            assert ws.close_code == 1012
        assert await server.end() == "SIGTERM\nnot mine\n"


async def test_a_third_signal_drops_what_is_left(loop_name: str) -> None:
    async with served(loop_name, 1000, 1000) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(  # who does not answer Close frames
            b"GET /deaf HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(taut.InvalidStatus, match="503"):
            while True:
                await (await server.connect()).close()
        server.process.send_signal(signal.SIGTERM)
        assert (await reader.readexactly(2))[0] == 0x88
        begun = asyncio.get_running_loop().time()
        server.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(ConnectionError):
            await reader.read()
        assert asyncio.get_running_loop().time() - begun < 4  # and not ``close_timeout``
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        assert await server.end() == "SIGTERM\nnot mine\n"


async def echo(ws: taut.ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


async def test_handlers_are_put_back_whatever_ends_it(tcp: Driver) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)]
    async with tcp.serve(echo) as server:
        serving = asyncio.create_task(server.serve_until_signal([signal.SIGUSR2]))
        await asyncio.sleep(0)
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before[:2]
        assert signal.getsignal(signal.SIGUSR2) != before[2]
        server.close()
        assert await serving is None
    async with tcp.serve(echo) as server:
        serving = asyncio.create_task(server.serve_until_signal([signal.SIGUSR2]))
        await asyncio.sleep(0)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        assert not server.is_serving()
    async with tcp.serve(echo) as server, tcp.connect(server) as ws:
        serving = asyncio.create_task(server.serve_until_signal([signal.SIGUSR2], drain=1000, spread=1000))
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGUSR2)
        while not server.draining:
            await asyncio.sleep(0.001)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        await ws.wait_closed()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)] == before


def test_it_is_for_the_main_thread() -> None:
    raised: list[BaseException] = []

    async def main() -> None:
        async with taut.serve(echo, "127.0.0.1", 0) as server:
            with pytest.raises(RuntimeError, match="signals can be handled only in the main thread") as caught:
                await server.serve_until_signal()
            raised.append(caught.value)
            assert server.ready

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    thread.join(30)
    assert len(raised) == 1


@pytest.mark.parametrize(
    ("options", "error", "what"),
    [
        ({"signals": signal.SIGTERM}, TypeError, "signals must be an iterable of signals, not"),
        ({"signals": []}, ValueError, "signals must hold at least one signal"),
        ({"signals": [4711]}, ValueError, "signals must hold only signals, not 4711"),
        ({"drain": -1}, ValueError, "timeout must be a number of at least 0, not -1"),
        ({"signals": [signal.SIGKILL]}, OSError, "Invalid argument"),
    ],
)
async def test_wrong_arguments(tcp: Driver, options: dict[str, Any], error: Any, what: str) -> None:
    async with tcp.serve(echo) as server:
        with pytest.raises(error, match=what):
            await server.serve_until_signal(**options)
        assert server.ready
