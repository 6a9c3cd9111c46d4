"""``taut connect --reconnect``, over connections that are lost."""

from __future__ import annotations

import itertools
import queue
import re
import socket
import struct
from typing import Any

import pytest
from commands import Serve, Terminal
from websockets.sync.server import ServerConnection

ESTABLISHED = r"^connected to "
AGAIN = r"^connected again to "


@pytest.fixture
def told() -> queue.Queue[str]:
    """What the flaky server is told, with the number of the connection."""
    return queue.Queue()


@pytest.fixture
def flaky(server: Serve, told: queue.Queue[str]) -> str:
    """The URI of a server that says what it is told with the number of the connection, and can be told to go away."""
    numbers = itertools.count(1)

    def handler(ws: ServerConnection) -> None:
        number = next(numbers)
        for message in ws:
            told.put(f"{number}: {message}")
            if message == "drop":
                ws.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                ws.socket.close()
                return
            if message == "final":
                ws.close(1008, "enough")
                return
            if message == "bye":
                ws.close(1000)
                return
            ws.send(f"{number}: {message}")

    return server(handler)


def test_it_goes_on_and_tells(start: Any, flaky: str, loop: str) -> None:
    process = start("connect", flaky, loop, "--reconnect")
    process.wait_for_error(ESTABLISHED)
    process.write("one\n")
    process.wait_for("^1: one$")
    for number, farewell in [(2, "drop"), (3, "bye")]:
        process.write(f"{farewell}\n")
        process.wait_for_error(rf"; attempt {number} to connect again in \d+\.\d s$")
        process.wait_for_error(AGAIN)
        process.write("next\n")
        process.wait_for(f"^{number}: next$")
    status, out, err = process.finish()
    assert (status, out) == (0, "")
    assert err.splitlines()[-1] == "closed by this side: 1000 (normal closure)"


def test_what_is_sent_meanwhile_arrives_before_the_end(start: Any, flaky: str, told: Any, loop: str) -> None:
    process = start("connect", flaky, loop, "--reconnect")
    process.wait_for_error(ESTABLISHED)
    process.write("drop\n")
    process.wait_for_error("perhaps lost: unconfirmed$")
    process.write("later\n")
    status, _, err = process.finish()
    assert status == 0
    assert re.search(AGAIN, err, re.MULTILINE)
    assert [told.get(timeout=30) for _ in range(2)] == ["1: drop", "2: later"]


def test_a_final_close_ends_it(start: Any, flaky: str, loop: str) -> None:
    process = start("connect", flaky, loop, "--reconnect", "-x", "final")
    assert process.wait() == 1
    last = process.popen.stderr.read().splitlines()[-1]
    assert last.startswith("taut connect: ")
    assert last.endswith("closed by the peer: 1008 (policy violation) enough")


def test_the_first_connection_has_to_succeed(start: Any, server: Serve, loop: str) -> None:
    process = start("connect", "ws://127.0.0.1:1/", loop, "--reconnect")
    assert process.wait() == 3
    assert process.popen.stderr.read().startswith("taut connect: cannot connect to ws://127.0.0.1:1/: ")
    refusing = server(lambda ws: None, process_request=lambda ws, request: ws.respond(403, ""))
    assert start("connect", refusing, loop, "--reconnect").wait() == 4


def test_wrong_options_are_refused(run: Any) -> None:
    status, _, err = run("connect", "http://x/", "--reconnect")
    assert status == 2
    assert err.startswith("taut connect: 'http://x/' is not a WebSocket URI")


def test_one_answer_over_reconnections(start: Any, flaky: str, loop: str) -> None:
    process = start("connect", flaky, loop, "--reconnect", "--one")
    process.wait_for_error(ESTABLISHED)
    process.write("drop\n")
    process.wait_for_error(AGAIN)
    process.write("hello\n")
    assert process.wait() == 0
    assert process.popen.stdout.read() == "2: hello\n"


def test_it_can_be_interrupted_while_connected(start: Any, flaky: str, loop: str) -> None:
    process = start("connect", flaky, loop, "--reconnect")
    process.wait_for_error(ESTABLISHED)
    process.interrupt()
    assert process.wait() == 130


def test_it_can_be_interrupted_between_connections(start: Any, server: Serve, loop: str) -> None:
    answers: queue.Queue[int] = queue.Queue()

    def refuse_all_but_the_first(ws: ServerConnection, request: Any) -> Any:
        answers.put(1)
        if answers.qsize() == 1:
            return None
        response = ws.respond(503, "")
        response.headers["Retry-After"] = "200"
        return response

    uri = server(lambda ws: None, process_request=refuse_all_but_the_first)
    process = start("connect", uri, loop, "--reconnect")
    process.wait_for_error(r"HTTP 503; attempt 3 to connect again in (199|20[0-9])\.\d s$")
    process.interrupt()
    assert process.wait() == 130


def test_it_can_be_interrupted_while_connecting(start: Any, raw_server: Any, loop: str) -> None:
    process = start("connect", raw_server.uri, loop, "--reconnect")
    raw_server.read_request()
    process.interrupt()
    assert process.wait() == 130
    assert process.popen.stderr.read() == ""


def test_round_trips_are_measured_on_every_connection(start: Any, flaky: str) -> None:
    process = start("connect", flaky, "--reconnect", "--ping=0.01")
    process.wait_for_error(r"^ping: ")
    process.write("drop\n")
    process.wait_for_error(AGAIN)
    process.wait_for_error(r"^ping: ")
    assert process.finish()[0] == 0


def test_at_a_prompt(terminal: Any, flaky: str) -> None:
    instance: Terminal = terminal("connect", flaky, "--reconnect")
    instance.wait_for(r"connected to .*\n>")
    instance.type("drop\r")
    instance.wait_for(r"attempt 2 to connect again")
    instance.wait_for(r"connected again")
    instance.type("hello\r")
    instance.wait_for(r"< 2: hello(?:.|\n)*\n>")
    instance.type("\x04")
    assert instance.finish()[0] == 0
