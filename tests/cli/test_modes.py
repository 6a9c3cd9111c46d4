"""What ``taut connect`` sends, shows and waits for, by its options, without a prompt."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from commands import RawServer, Serve, Terminal, listen_to, talk
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection

CLOSED = "closed by this side: 1000 (normal closure)"


@pytest.fixture
def received() -> queue.Queue[str | bytes | None]:
    return queue.Queue()


@pytest.fixture
def sink(server: Serve, received: queue.Queue[str | bytes | None]) -> str:
    """The URI of a server that answers nothing, and notes what it receives."""

    def put_all(ws: ServerConnection) -> None:
        for message in ws:
            received.put(message)
        received.put(None)

    return server(put_all)


def everything(received: queue.Queue[str | bytes | None]) -> list[str | bytes]:
    """What has been received on a connection, once it was closed properly."""
    return list(iter(lambda: received.get(timeout=30), None))


# -- the input -------------------------------------------------------------------------------------------------


def test_binary_passes_bytes_through(start: Any, echo_server: str, loop: str) -> None:
    data = bytes(range(256)) * 1200 + b"\n"
    process = start("connect", echo_server, loop, "--binary")
    out, err = process.popen.stdin.buffer, process.popen.stdout.buffer
    threading.Thread(target=lambda: (out.write(data), out.close())).start()
    assert err.read() == data
    assert process.wait() == 0


def test_binary_sends_binary_messages_of_64_kib(start: Any, sink: str, received: Any) -> None:
    data = os.urandom(200_000)
    process = start("connect", sink, "-b")
    process.popen.stdin.buffer.write(data)
    assert process.finish()[0] == 0
    messages = everything(received)
    assert b"".join(messages) == data
    assert {type(message) for message in messages} == {bytes}
    assert max(map(len, messages)) <= 65536


def test_binary_writes_text_as_utf8(start: Any, server: Serve) -> None:
    def both(ws: ServerConnection) -> None:
        ws.send("wörld")
        ws.send(b"\x00\n")
        ws.send("")

    process = start("connect", server(both), "-b")
    assert process.wait() == 0
    assert process.popen.stdout.buffer.read() == "wörld".encode() + b"\x00\n"


def test_binary_is_summarised_on_a_terminal(terminal: Any, server: Serve) -> None:
    instance: Terminal = terminal("connect", server(lambda ws: ws.send(b"\x1b[31m")), "-b")
    instance.wait_for(r"binary, 5 bytes: 1b 5b 33 31 6d\n")
    assert instance.finish()[0] == 0


@pytest.mark.parametrize(("options", "message"), [([], "a\nb\r\n"), (["--binary"], b"a\nb\r\n")])
def test_the_whole_input_is_one_message(start: Any, sink: str, received: Any, options: Any, message: Any) -> None:
    process = start("connect", sink, "--whole", *options)
    process.popen.stdin.buffer.write(b"a\nb\r\n")
    assert process.finish()[0] == 0
    assert everything(received) == [message]


def test_no_input_is_no_message(run: Any, sink: str, received: Any) -> None:
    assert talk(run, sink, "--whole")[0] == 0
    assert everything(received) == []


def test_what_exec_says_goes_first(run: Any, sink: str, received: Any) -> None:
    assert talk(run, sink, "-x", "one", "--exec", "two\n", text="three\n/four\n")[0] == 0
    assert everything(received) == ["one", "two\n", "three", "/four"]


def test_exec_is_binary_as_well(start: Any, sink: str, received: Any) -> None:
    assert start("connect", sink, "-x", "one", "-b").finish()[0] == 0
    assert everything(received) == [b"one"]


def test_an_input_that_cannot_be_read(start: Any, echo_server: str, loop: str, tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    process = start("connect", echo_server, loop, stdin=descriptor)
    os.close(descriptor)
    status, out, err = process.finish()
    assert (status, out) == (1, "")
    assert err.splitlines()[1:] == ["cannot read the input: Bad file descriptor", CLOSED]


# -- one answer ------------------------------------------------------------------------------------------------


def answers(ws: ServerConnection) -> None:
    """Answer each message twice, and stay."""
    for message in ws:
        ws.send(f"{message}!")
        ws.send(f"{message}?")


def test_one_answer_is_printed_and_that_is_all(start: Any, server: Serve, loop: str) -> None:
    process = start("connect", server(answers), loop, "-x", "hello", "-1")
    assert process.wait() == 0  # with stdin open
    assert process.popen.stdout.read() == "hello!\n"
    assert process.popen.stderr.read().splitlines()[1:] == [CLOSED]


def test_as_many_answers_as_asked_for(start: Any, server: Serve) -> None:
    process = start("connect", server(answers), "-x", "a", "-x", "b", "-n", "3", "-q")
    assert process.wait() == 0
    assert process.popen.stdout.read() == "a!\na?\nb!\n"
    assert process.popen.stderr.read() == ""


def test_the_question_may_come_through_a_pipe(start: Any, server: Serve, loop: str) -> None:
    process = start("connect", server(answers), loop, "--one")
    process.write("hello\n")
    assert process.wait() == 0  # with stdin open
    assert process.popen.stdout.read() == "hello!\n"


def test_everything_is_sent_even_if_an_answer_comes_first(start: Any, server: Serve) -> None:
    seen: queue.Queue[str | bytes | None] = queue.Queue()

    def greet(ws: ServerConnection) -> None:
        ws.send("welcome")
        for message in ws:
            seen.put(message)
        seen.put(None)

    process = start("connect", server(greet), "-1", *(option for n in range(100) for option in ("-x", str(n))))
    assert process.wait() == 0
    assert process.popen.stdout.read() == "welcome\n"
    assert [seen.get(timeout=30) for _ in range(101)] == [*map(str, range(100)), None]


def test_on_a_terminal_one_answer_needs_no_input(terminal: Any, server: Serve) -> None:
    instance: Terminal = terminal("connect", server(lambda ws: ws.send("tick")), "-1", "-q")
    status, seen = instance.finish()
    assert (status, seen) == (0, "tick\n")


def test_no_answer_in_time(start: Any, sink: str, loop: str) -> None:
    process = start("connect", sink, loop, "-x", "hello", "-1", "--wait", "0.2", "-q")
    assert process.wait() == 5
    assert process.popen.stderr.read() == "no answer in time\n"


def test_closed_before_the_answer(start: Any, server: Serve) -> None:
    def some(ws: ServerConnection) -> None:
        ws.send(ws.recv())

    process = start("connect", server(some), "-x", "hello", "-n", "2")
    assert process.wait() == 1
    assert process.popen.stdout.read() == "hello\n"
    assert process.popen.stderr.read().splitlines()[-1] == "closed before the answer"


def test_waiting_for_ever(start: Any, raw_server: RawServer, loop: str) -> None:
    process = start("connect", raw_server.uri, loop, "--wait", "0")
    process.popen.stdin.close()
    raw_server.open()
    raw_server.write_frame(0x9, b"are you there?")
    assert raw_server.read_frame() == (0xA, b"are you there?")
    raw_server.write_frame(0x1, b"late")
    process.wait_for("late")
    raw_server.write_frame(0x8, b"\x03\xe8")
    assert raw_server.read_frame() == (0x8, b"\x03\xe8")
    raw_server.sock.close()
    raw_server.stream.close()
    assert process.wait() == 0


def test_staying_for_a_while(start: Any, raw_server: RawServer) -> None:
    process = start("connect", raw_server.uri, "--wait", "0.2")
    process.popen.stdin.close()
    raw_server.open()
    assert raw_server.read_frame() == (0x8, b"\x03\xe8")  # without a Ping before it
    raw_server.write_frame(0x8, b"\x03\xe8")
    raw_server.sock.close()
    raw_server.stream.close()
    assert process.wait() == 0


# -- what is shown ---------------------------------------------------------------------------------------------


def test_json_is_laid_out_and_the_rest_is_not(run: Any, echo_server: str) -> None:
    messages = ['{"a":[1.50,{}]}', "not json", "[1"]
    status, out, _ = talk(run, echo_server, "--json", text="\n".join(messages))
    assert (status, out) == (0, '{\n  "a": [\n    1.50,\n    {}\n  ]\n}\nnot json\n[1\n')


TIME = r"\d\d:\d\d:\d\d\.\d{3}"


def test_timestamps_show_both_directions(run: Any, server: Serve) -> None:
    def answer(ws: ServerConnection) -> None:
        for message in ws:
            ws.send(b"\x00" if message == "two" else message)

    status, out, _ = talk(run, server(answer), "-t", "-n", "2", text="one\ntwo\n")
    lines = out.splitlines()
    assert status == 0
    assert sorted(line[13:] for line in lines) == ["< binary, 1 byte: 00", "< one", "> one", "> two"]
    assert all(re.fullmatch(rf"{TIME} [<>] .*", line) for line in lines)
    assert lines.index(next(x for x in lines if "> one" in x)) < lines.index(next(x for x in lines if "< one" in x))


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True)]
)
def test_colours_are_for_terminals_that_may_have_them(
    terminal: Any, echo_server: str, environment: dict[str, str], coloured: bool
) -> None:
    line = ["connect", echo_server, "-x", '{"a":1}', "-1", "--json", "-t"]
    instance: Terminal = terminal(*line, environment=environment)
    instance.wait_for("closed by")
    status, _ = instance.finish()
    assert status == 0
    raw: Terminal = terminal(*line, "-q", environment=environment)
    while raw._read():
        pass
    assert ("\x1b[" in raw.seen) is coloured
    assert ('\x1b[34m"a"\x1b[0m' in raw.seen) is coloured


def test_round_trips_are_shown(start: Any, raw_server: RawServer, loop: str) -> None:
    process = start("connect", raw_server.uri, loop, "--ping=0.01")
    raw_server.open()
    for _ in range(3):
        opcode, payload = raw_server.read_frame()
        assert opcode == 0x9
        raw_server.write_frame(0xA, payload)
        process.wait_for_error(r"^ping: \d+\.\d\d ms$")
    raw_server.write_frame(0x8, b"\x03\xe8")
    while raw_server.read_frame()[0] != 0x8:
        pass
    raw_server.sock.close()
    raw_server.stream.close()
    assert process.wait() == 0
    rest = process.popen.stderr.read()
    assert re.search(r"^\d pings: least \d+\.\d\d ms, mean \d+\.\d\d ms, most \d+\.\d\d ms$", rest, re.MULTILINE)
    assert process.popen.stdout.read() == ""


def test_quiet_says_nothing_but_errors(start: Any, server: Serve) -> None:
    assert listen_to(start, server(lambda ws: ws.send("hello")), "-q") == (0, "hello\n", [])
    told = ["closed by the peer: 1011 (internal error) oops"]
    assert listen_to(start, server(lambda ws: ws.close(1011, "oops")), "-q") == (1, "", told)


def test_verbose_shows_the_handshake_without_credentials(start: Any, server: Serve) -> None:
    uri = server(lambda ws: None, subprotocols=["v1"])
    status, _, err = listen_to(start, uri.replace("//", "//me:sesame@"), "-v", "-s", "v1", "-H", "X-Token: t")
    assert status == 0
    assert re.fullmatch(r"local address 127\.0\.0\.1:\d+, remote address 127\.0\.0\.1:\d+", err[0])
    assert err[1] == "> GET / HTTP/1.1"
    assert "> Authorization: Basic ***" in err
    assert "> X-Token: t" in err
    assert "< HTTP/1.1 101 Switching Protocols" in err
    assert "< Sec-WebSocket-Protocol: v1" in err
    assert any(line.startswith("subprotocol: v1; extensions: permessage-deflate") for line in err)
    assert not any("sesame" in line or "bWU6" in line for line in err)


def test_verbose_shows_a_refusal(start: Any, server: Serve) -> None:
    uri = server(lambda ws: None, process_request=lambda ws, request: ws.respond(403, "not for you\n"))
    status, _, err = listen_to(start, uri, "-v")
    assert status == 4
    assert "< HTTP/1.1 403 Forbidden" in err
    assert "< not for you" in err
    assert err[-1] == f"taut connect: cannot connect to {uri}: the server answered the handshake with HTTP 403"


def test_verbose_shows_every_attempt(start: Any) -> None:
    status, _, err = listen_to(start, "ws://127.0.0.1:1/", "-v")
    assert status == 3
    assert re.fullmatch(r"failed: 127\.0\.0\.1:1 \(connect, [\d.]+ s\): .*Connection refused", err[0])
    assert len(err) == 2


# -- what reads the output -------------------------------------------------------------------------------------


def test_a_reader_that_pauses_does_not_keep_pings_from_being_answered(
    start: Any, raw_server: RawServer, loop: str
) -> None:
    process = start("connect", raw_server.uri, loop)
    raw_server.open()
    for _ in range(1200):  # more than any pipe holds
        raw_server.sock.sendall(b"\x81\x7e\x00\x80" + b"x" * 128)
    raw_server.write_frame(0x9, b"are you there?")
    assert raw_server.read_frame() == (0xA, b"are you there?")
    raw_server.write_frame(0x8, b"\x03\xe8")
    raw_server.sock.shutdown(socket.SHUT_WR)
    out = process.popen.stdout.read()
    assert out == ("x" * 128 + "\n") * 1200
    assert process.wait() == 0


def test_a_reader_that_pauses_does_not_keep_it_from_being_interrupted(
    start: Any, raw_server: RawServer, loop: str
) -> None:
    process = start("connect", raw_server.uri, loop)
    raw_server.open()
    process.wait_for_error("connected")
    for _ in range(1200):
        raw_server.sock.sendall(b"\x81\x7e\x00\x80" + b"x" * 128)
    raw_server.write_frame(0x9, b"are you there?")
    assert raw_server.read_frame() == (0xA, b"are you there?")
    process.interrupt()
    assert raw_server.read_frame() == (0x8, b"\x03\xe8")
    process.interrupt(signal.SIGTERM)
    assert process.wait() == 130


def test_a_reader_that_pauses_and_goes_away(start: Any, raw_server: RawServer, loop: str) -> None:
    process = start("connect", raw_server.uri, loop)
    raw_server.open()
    for _ in range(1200):
        raw_server.sock.sendall(b"\x81\x7e\x00\x80" + b"x" * 128)
    raw_server.write_frame(0x9, b"are you there?")
    assert raw_server.read_frame() == (0xA, b"are you there?")
    process.popen.stdout.close()
    assert raw_server.read_frame() == (0x8, b"\x03\xe8")
    raw_server.write_frame(0x8, b"\x03\xe8")
    raw_server.sock.shutdown(socket.SHUT_WR)
    assert process.wait() == 128 + signal.SIGPIPE
    assert "Traceback" not in process.popen.stderr.read()


def test_a_message_of_many_pipes_is_written_whole(start: Any, server: Serve, loop: str) -> None:
    text = json.dumps(list(range(200_000)))
    process = start("connect", server(lambda ws: ws.send(text)), loop)
    assert process.popen.stdout.read() == text + "\n"
    assert process.wait() == 0


def test_output_to_a_file(start: Any, echo_server: str, loop: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("w") as file:
        process = start("connect", echo_server, loop, stdout=file)
        process.write("é" * 100_000 + "\n")
        assert process.finish()[0] == 0
    assert path.read_text(encoding="utf-8") == "é" * 100_000 + "\n"


def test_a_closed_stdout(run: Any, echo_server: str, loop: str) -> None:
    command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "taut"]
    status, _, err = talk(run, echo_server, loop, command=command, text="hello\n")
    assert (status, err[-1]) == (0, CLOSED)


def test_the_handler_of_a_server_sees_a_proper_close(start: Any, server: Serve) -> None:
    codes: queue.Queue[int | None] = queue.Queue()

    def handler(ws: ServerConnection) -> None:
        ws.send("one")
        try:
            ws.recv()
        except ConnectionClosed:
            codes.put(ws.close_code)

    assert listen_to(start, server(handler), "-1")[:2] == (0, "one\n")
    assert codes.get(timeout=30) == 1000
