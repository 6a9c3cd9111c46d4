from __future__ import annotations

import re
import signal
import socket
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

FRAME = re.compile(r"    (\w+) -> (\w+) +([A-Z]+) +(.*?) +payload +(\d+), on the wire +(\d+) bytes")


def frames(out: str, heading: str) -> list[tuple[str, str, str, str, int, int]]:
    """The frames printed below a heading: from, to, opcode, marks, payload and wire size."""
    found = []
    lines = iter(out.splitlines())
    next(line for line in lines if line.startswith(heading))
    for line in lines:
        if (match := FRAME.fullmatch(line)) is None:
            break
        way, opcode, marks = match.group(1, 2), match[3], match[4]
        found.append((*way, opcode, marks, int(match[5]), int(match[6])))
    return found


@pytest.fixture
def printed(run: Any, loop: str) -> str:
    status, out, err = run("demo", "--once", "--port", "0", loop)
    assert (status, err) == (0, "")
    return str(out)


def test_shows_the_frames_of_the_echo(printed: str) -> None:
    c, s = "client", "server"
    assert "extensions agreed: permessage-deflate" in printed
    assert frames(printed, "  text: 'héllo, wörld', 14 bytes") == [
        (c, s, "TEXT", "FIN masked", 14, 20),
        (s, c, "TEXT", "FIN", 14, 16),
    ]
    assert frames(printed, "  binary: 32 bytes: 00 01 02") == [
        (c, s, "BINARY", "FIN masked", 32, 38),
        (s, c, "BINARY", "FIN", 32, 34),
    ]
    assert frames(printed, "  in three fragments: 'once upon a time', 16 bytes") == [
        (c, s, "TEXT", "masked", 5, 11),
        (c, s, "CONT", "masked", 5, 11),
        (c, s, "CONT", "FIN masked", 6, 12),
        (s, c, "TEXT", "FIN", 16, 18),
    ]
    assert re.search(r"^  ping: round trip \d+\.\d{3} ms", printed, re.MULTILINE)
    assert frames(printed, "  ping: ") == [(c, s, "PING", "FIN masked", 4, 10), (s, c, "PONG", "FIN", 4, 6)]
    assert frames(printed, "  close: closed by this side: 1000 (normal closure) that was all") == [
        (c, s, "CLOSE", "FIN masked", 14, 20),
        (s, c, "CLOSE", "FIN", 2, 4),
    ]


def test_shows_what_compression_does(printed: str) -> None:
    sent, received = frames(printed, "  compressible text: ")
    assert (sent[3], received[3]) == ("FIN masked compressed", "FIN compressed")
    assert 0 < sent[4] < 400
    assert sent[5] == sent[4] + (6 if sent[4] < 126 else 8)
    sent, received = frames(printed, "  the same, sent uncompressed: ")
    assert sent[3:] == ("FIN masked", 4160, 4168)
    assert received[3] == "FIN compressed"


def test_shows_the_frames_of_the_chat(printed: str) -> None:
    for name in ("ann", "bob"):
        assert f"  {name} received 'ann: hello, bob', 15 bytes" in printed
        assert f"  {name} received 'bob: hello, ann', 15 bytes" in printed
    shown = frames(printed, "  bob received 'bob: hello, ann'")
    assert sorted(shown) == sorted(
        [("server", "ann", "TEXT", "FIN", 22, 24)] * 2
        + [("server", "bob", "TEXT", "FIN", 22, 24)]
        + [(name, "server", "TEXT", "FIN masked", 15, 21) for name in ("ann", "bob")]
        + [("server", name, "TEXT", "FIN", 15, 17) for name in ("ann", "bob")] * 2
    )
    assert "  close: ann 1000, bob 1000\n" in printed
    assert "refused: /nowhere is answered with HTTP 404" in printed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serves_until_interrupted(start: Any, loop: str, number: int) -> None:
    demo = start("demo", "--port", "0", loop)
    uri = demo.wait_for(r" connect (ws://127\.0\.0\.1:\d+)/$")[1]
    demo.wait_for(r" connect ws://127\.0\.0\.1:\d+/chat ")
    with connect(f"{uri}/?query=1") as echo, connect(f"{uri}/chat") as ann, connect(f"{uri}/chat") as bob:
        echo.send("hello")
        assert echo.recv(timeout=30) == "hello"
        assert ann.recv(timeout=30) == "someone joined, 1 here"
        assert ann.recv(timeout=30) == bob.recv(timeout=30) == "someone joined, 2 here"
        ann.send(b"\x01")
        assert ann.recv(timeout=30) == bob.recv(timeout=30) == b"\x01"
        with pytest.raises(InvalidStatus) as refused:
            connect(f"{uri}/chats")
        assert refused.value.response.status_code == 404
        demo.interrupt(number)
        for ws in (echo, ann, bob):
            with pytest.raises(ConnectionClosed):
                ws.recv(timeout=30)
            assert ws.close_code == 1001
    assert demo.finish() == (0, "closing\n", "")


def test_the_command_it_prints_works(start: Any, run: Any) -> None:
    demo = start("demo", "--port", "0")
    words = demo.wait_for(r"^  (.+ connect ws://\S+/)$")[1].split()
    assert run(*words[1:], command=words[:1], text="hello\n")[:2] == (0, "hello\n")


def test_an_interrupt_at_any_time_ends_it_well(start: Any, loop: str) -> None:
    demo = start("demo", "--port", "0", loop)
    demo.wait_for("^taut ")
    demo.interrupt()
    status, _, err = demo.finish()
    assert (status, err) == (0, "")


def test_a_port_that_is_taken_is_one_line(run: Any, loop: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, out, err = run("demo", "--port", str(port), loop)
    assert (status, out) == (1, "")
    assert err == f"taut demo: cannot listen on 127.0.0.1:{port}: Address already in use; choose another with --port\n"
