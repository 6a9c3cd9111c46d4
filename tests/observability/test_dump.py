"""A look at all connections of a server: as a text, and by real signals to real processes."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import threading
from typing import Any
from unittest import mock

import pytest
from network import Driver
from peers import TEXT

import taut
from taut.observability import dump_connections, dump_on_signal


async def chat(ws: taut.ServerConnection, **parameters: str) -> None:
    await ws.recv()
    await stuck(asyncio.Event())


async def stuck(event: asyncio.Event) -> None:
    await event.wait()


def shown(line: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in line.split()[1:])


async def test_a_line_for_each_connection(tcp: Driver) -> None:
    router = taut.Router()
    router.add("/chat/{room}", chat, name="chat")
    async with tcp.serve(router) as server:
        assert re.fullmatch(
            r"taut server in process \d+: ready, 0 connections, 0 handshakes\n", dump_connections(server)
        )
        async with tcp.opened(server, target="/chat/a?token=sesame") as peer:
            peer.send(TEXT, b"one")
            peer.send(TEXT, b"waits")
            (connection,) = server.connections
            while not connection.stats.unread:
                await asyncio.sleep(0.001)
            first, line = dump_connections(server).splitlines()
            assert first.endswith("ready, 1 connections, 0 handshakes")
            assert line.startswith(f"{connection.id} ")
            assert "sesame" not in line
            told = shown(line)
            assert re.fullmatch(r"\d+\.\ds", told.pop("age"))
            assert re.fullmatch(r"\d+\.\ds", told.pop("silent"))
            host, port = peer.transport.get_extra_info("sockname")
            assert told.pop("handler").startswith(f"chat:{chat.__code__.co_firstlineno + 2}>stuck:")
            assert told == {
                "state": "OPEN",
                "remote": f"{host}:{port}",
                "path": "/chat/a",
                "route": "chat",
                "received": "2/20B",
                "sent": "0/0B",
                "unread": "5B",
                "unsent": "0B",
            }
        (task,) = [each.handler_task for each in server.connections_open]
        while server.connections:
            await asyncio.sleep(0.001)
        told = shown(dump_connections(server).splitlines()[1])
        assert (told["state"], told["closing"]) == ("CLOSED", "1006")
        task.cancel()  # type: ignore[union-attr]


async def test_the_text_is_bounded(tcp: Driver) -> None:
    class Silent(taut.Listener):
        pass

    long = "/" + "x" * 5000
    async with tcp.serve(Silent) as server, tcp.opened(server, target=long), tcp.opened(server), tcp.opened(server):
        lines = dump_connections(server, limit=2).splitlines()
        assert lines[0].endswith(" 3 connections, 0 handshakes")
        assert lines[3:] == ["... and 1 more"]
        assert len(lines[1]) < 400
        assert "handler=" not in lines[1]
        assert len(dump_connections(server, limit=None).splitlines()) == 4


async def deep(ws: taut.ServerConnection, level: int = 10) -> None:
    await (deep(ws, level - 1) if level else ws.recv())


async def test_a_deep_stack_is_cut(tcp: Driver) -> None:
    async with tcp.connected(deep) as (server, ws):
        await (await ws.ping())
        told = shown(dump_connections(server).splitlines()[1])
        line = deep.__code__.co_firstlineno + 1
        assert told["handler"] == f"deep:{line}>...>deep:{line}>deep:{line}>deep:{line}"


PROGRAM = """
import asyncio, logging, sys, taut
from taut.observability import dump_on_signal

async def chat(ws):
    async for message in ws:
        await ws.send(message)

async def main():
    async with taut.serve(chat, "127.0.0.1", 0) as server:
        dump_on_signal(server{arguments})
        print(server.port, flush=True)
        await server.serve_forever()

logging.basicConfig(format="logged %(message)s")
{run}
"""
RUN = {"uvloop": "import uvloop; uvloop.run(main())"}


@pytest.mark.parametrize("arguments", ["", ", logger=logging.getLogger('dump')"])
async def test_a_signal_to_a_process(loop_name: str, arguments: str) -> None:
    program = PROGRAM.format(arguments=arguments, run=RUN.get(loop_name, "asyncio.run(main())"))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "dev", "-W", "error", "-c", program), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        port = int(await process.stdout.readline())
        async with taut.connect(f"ws://127.0.0.1:{port}/room") as ws:
            for _ in range(2):
                process.send_signal(signal.SIGUSR1)
                first, line = [(await process.stderr.readline()).decode() for _ in range(2)]
                assert first.endswith(f"process {process.pid}: ready, 1 connections, 0 handshakes\n")
                assert first.startswith("logged " if arguments else "taut server")
                assert shown(line)["path"] == "/room"
            await ws.send("alive")
            assert await ws.recv() == "alive"
    finally:
        process.kill()
        await process.communicate()


async def test_what_the_signal_did_before_is_put_back(tcp: Driver, capsys: pytest.CaptureFixture[str]) -> None:
    def before(number: int, frame: object) -> None:
        pass

    former = signal.signal(signal.SIGUSR2, before)
    try:
        async with tcp.serve(chat) as server:
            undo = dump_on_signal(server, signal.SIGUSR2)
            signal.raise_signal(signal.SIGUSR2)
            text = ""
            while not text:
                await asyncio.sleep(0.001)
                text = capsys.readouterr().err
            assert text.startswith("taut server in process")
            undo()
            assert signal.getsignal(signal.SIGUSR2) is before
    finally:
        signal.signal(signal.SIGUSR2, former)


async def test_wrong_arguments(tcp: Driver) -> None:
    with pytest.raises(TypeError, match="server must be"):
        dump_connections(1)  # type: ignore[arg-type]
    async with tcp.serve(chat) as server:
        wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
            ({"limit": 0}, ValueError, "limit must be"),
            ({"limit": 1.5}, TypeError, "limit must be"),
            ({"limit": True}, TypeError, "limit must be"),
            ({"signal": 0}, ValueError, "signal must be"),
            ({"signal": "SIGUSR1"}, ValueError, "signal must be"),
            ({"logger": "dump"}, TypeError, "logger must be"),
        ]
        for arguments, kind, text in wrong:
            with pytest.raises(kind, match=text):
                dump_on_signal(server, **arguments)
        failures: list[BaseException] = []

        def elsewhere() -> None:
            try:
                dump_on_signal(server)
            except RuntimeError as exc:
                failures.append(exc)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert "main thread" in str(failures[0])
        elsewhere_than_unix = mock.patch("taut.observability.dump.signals", mock.Mock(spec=["signal"]))
        with elsewhere_than_unix, pytest.raises(RuntimeError, match="no SIGUSR1"):
            dump_on_signal(server)
