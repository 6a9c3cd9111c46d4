from __future__ import annotations

import os
import pty
import queue
import signal
import socket
import ssl
import struct
import sys
import threading
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
import trustme
from commands import RawServer, Serve, listen_to, talk
from websockets.datastructures import Headers
from websockets.sync.server import ServerConnection

# -- messages --------------------------------------------------------------------------------------------------


def test_sends_piped_lines_and_prints_the_answers(run: Any, echo_server: str, loop: str) -> None:
    text = "hello\n\nwörld\nthe last line has no end"
    status, out, err = talk(run, echo_server, loop, text=text)
    assert (status, out) == (0, text + "\n")
    assert err == [f"connected to {echo_server}", "closed by this side: 1000 (normal closure)"]


def test_sends_a_file(run: Any, echo_server: str, loop: str, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("one\ntwo\n")
    with path.open() as file:
        process = run("connect", echo_server, loop, stdin=file)
    assert process[:2] == (0, "one\ntwo\n")


def test_a_lot_of_input_comes_back_whole_and_in_order(run: Any, echo_server: str, loop: str) -> None:
    text = "".join(f"line {number} {'x' * (number % 97)}\n" for number in range(30_000))
    status, out, _ = talk(run, echo_server, loop, text=text)
    assert status == 0
    assert out == text


def test_a_line_end_is_not_part_of_the_message(run: Any, server: Serve) -> None:
    received: queue.Queue[str | bytes] = queue.Queue()

    def put_all(ws: ServerConnection) -> None:
        for message in ws:
            received.put(message)

    assert talk(run, server(put_all), text="unix\ndos\r\n \r\r\n")[0] == 0
    assert [received.get(timeout=30) for _ in range(3)] == ["unix", "dos", " \r"]


def test_a_line_that_is_not_utf8_is_reported_and_not_sent(start: Any, echo_server: str, loop: str) -> None:
    process = start("connect", echo_server, loop)
    process.popen.stdin.buffer.write(b"a\xff\nb\n")
    status, out, err = process.finish()
    assert (status, out) == (1, "b\n")
    assert err.splitlines()[1] == "not sent, because it is not UTF-8: 2 bytes: 61 ff"


def test_a_binary_message_is_summarised(start: Any, server: Serve) -> None:
    uri = server(lambda ws: ws.send(bytes(range(20))))
    status, out, _ = listen_to(start, uri)
    assert (status, out) == (0, "binary, 20 bytes: 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f ...\n")


def test_answers_are_waited_for_with_a_ping_before_the_close(start: Any, raw_server: RawServer, loop: str) -> None:
    process = start("connect", raw_server.uri, loop)
    process.popen.stdin.write("question\n")
    process.popen.stdin.close()
    raw_server.open()
    assert raw_server.read_frame() == (0x1, b"question")
    opcode, payload = raw_server.read_frame()
    assert opcode == 0x9
    raw_server.write_frame(0x1, b"answer")
    raw_server.write_frame(0xA, payload)
    assert raw_server.read_frame() == (0x8, struct.pack("!H", 1000))
    raw_server.write_frame(0x1, b"afterthought")
    raw_server.write_frame(0x8, struct.pack("!H", 1000))
    raw_server.sock.shutdown(socket.SHUT_WR)
    assert process.wait() == 0
    assert process.popen.stdout.read() == "answer\nafterthought\n"


def test_a_closed_stdin_is_an_empty_one(run: Any, echo_server: str, loop: str) -> None:
    command = ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-m", "taut"]
    status, out, err = talk(run, echo_server, loop, command=command)
    assert (status, out) == (0, "")
    assert err[-1] == "closed by this side: 1000 (normal closure)"


def test_a_reader_of_the_output_that_goes_away(start: Any, echo_server: str, loop: str) -> None:
    process = start("connect", echo_server, loop)
    process.write("one\n")
    assert process.popen.stdout.readline() == "one\n"
    process.popen.stdout.close()
    process.write("two\n")
    assert process.wait() == 128 + signal.SIGPIPE
    assert process.popen.stderr.read() == f"connected to {echo_server}\n"


def test_a_terminal_gets_no_control_characters(start: Any, server: Serve) -> None:
    uri = server(lambda ws: ws.send("\x1b[31mred\x07"))
    master, slave = pty.openpty()
    try:
        process = start("connect", uri, stdout=slave)
        os.close(slave)
        with open(master, "rb", closefd=False) as terminal:
            assert terminal.readline() == b"\\x1b[31mred\\x07\r\n"
        assert process.wait() == 0
    finally:
        os.close(master)


# -- the handshake ---------------------------------------------------------------------------------------------


def test_headers_subprotocol_and_compression_reach_the_server(run: Any, server: Serve) -> None:
    seen = Headers()
    uri = server(
        lambda ws: None,
        subprotocols=["v2"],
        process_request=lambda ws, request: seen.update(request.headers),
    )
    options = ["-H", "X-Token: a: b", "--header", "X-Other:1", "--subprotocol", "v1", "--subprotocol", "v2"]
    status, _, err = talk(run, uri, *options)
    assert status == 0
    assert seen["X-Token"] == "a: b"
    assert seen["X-Other"] == "1"
    assert seen["Sec-WebSocket-Protocol"] == "v1, v2"
    assert seen["Sec-WebSocket-Extensions"].startswith("permessage-deflate")
    assert err[0] == f"connected to {uri}, subprotocol v2"


def test_no_compression_offers_no_extension(run: Any, server: Serve) -> None:
    seen = Headers()
    uri = server(lambda ws: None, process_request=lambda ws, request: seen.update(request.headers))
    assert talk(run, uri, "--no-compression")[0] == 0
    assert "Sec-WebSocket-Key" in seen
    assert "Sec-WebSocket-Extensions" not in seen


def test_insecure_accepts_any_certificate(start: Any, server: Serve, loop: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    uri = server(lambda ws: ws.send("secret"), ssl=context)
    status, out, _ = listen_to(start, uri, "--insecure", loop)
    assert (status, out) == (0, "secret\n")
    status, out, err = listen_to(start, uri, loop)
    assert (status, out) == (3, "")
    assert err[0].startswith(f"taut connect: cannot connect to {uri}: ")
    assert "certificate" in err[0].lower()
    assert len(err) == 1


def test_a_refused_connection_is_one_line_without_the_password(run: Any, loop: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    status, out, err = talk(run, f"ws://me:sesame@127.0.0.1:{port}/", loop)
    assert (status, out) == (3, "")
    refused = f"127.0.0.1:{port} cannot be reached: Connection refused"
    assert err == [f"taut connect: cannot connect to ws://127.0.0.1:{port}/: {refused}"]


def test_a_refused_handshake_is_one_line(run: Any, server: Serve, loop: str) -> None:
    uri = server(lambda ws: None, process_request=lambda ws, request: ws.respond(403, "no"))
    status, out, err = talk(run, uri, loop)
    assert (status, out) == (4, "")
    assert err == [f"taut connect: cannot connect to {uri}: the server answered the handshake with HTTP 403"]


def test_a_server_that_is_none_is_one_line(start: Any, raw_server: RawServer, loop: str) -> None:
    process = start("connect", raw_server.uri, loop)
    raw_server.read_request()
    raw_server.sock.sendall(b"220 mail.example.org ESMTP\r\n")
    raw_server.sock.shutdown(socket.SHUT_WR)
    assert process.wait() == 4
    err = process.popen.stderr.read()
    assert err.startswith(f"taut connect: cannot connect to {raw_server.uri}: ")
    assert err.count("\n") == 1


# -- the end ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "status", "told"),
    [
        ((1000, "bye"), 0, "closed by the peer: 1000 (normal closure) bye"),
        ((1001, ""), 0, "closed by the peer: 1001 (going away)"),
        ((1011, "oops"), 1, "closed by the peer: 1011 (internal error) oops"),
        ((4000, "a\nb\x1b"), 1, "closed by the peer: 4000 (private use) a\\nb\\x1b"),
    ],
)
def test_the_server_closes(start: Any, server: Serve, frame: tuple[int, str], status: int, told: str) -> None:
    assert listen_to(start, server(lambda ws: ws.close(*frame)))[::2] == (status, [ANY, told])


def test_the_server_goes_away(start: Any, raw_server: RawServer, loop: str) -> None:
    process = start("connect", raw_server.uri, loop)
    raw_server.open()
    process.wait_for_error("connected")
    raw_server.write_frame(0x1, b"still here")
    process.wait_for("still here")
    raw_server.stream.close()
    raw_server.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset, do not close
    raw_server.sock.close()
    assert process.wait() == 1
    assert process.popen.stderr.read().startswith("connection lost: 1006 (abnormal closure)")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_closes_properly(start: Any, server: Serve, loop: str, number: int) -> None:
    closed = threading.Event()
    codes: list[int | None] = []

    def handler(ws: ServerConnection) -> None:
        for _ in ws:
            pass
        codes.append(ws.close_code)
        closed.set()

    process = start("connect", server(handler), loop)
    process.wait_for_error("connected")
    process.interrupt(number)
    assert process.wait() == 128 + number
    assert process.popen.stderr.read() == "closed by this side: 1000 (normal closure)\n"
    assert closed.wait(30)
    assert codes == [1000]


def test_a_second_interrupt_does_not_wait_for_the_server(start: Any, raw_server: RawServer, loop: str) -> None:
    process = start("connect", raw_server.uri, loop)
    raw_server.open()
    process.wait_for_error("connected")
    process.interrupt()
    assert raw_server.read_frame() == (0x8, struct.pack("!H", 1000))
    process.interrupt()
    assert process.wait() == 130
    assert "without a completed closing handshake" in process.popen.stderr.read()


def test_an_interrupt_while_connecting(start: Any, raw_server: RawServer, loop: str) -> None:
    process = start("connect", raw_server.uri, loop)
    raw_server.read_request()
    process.interrupt()
    assert process.wait() == 130
    assert process.popen.stderr.read() == ""
