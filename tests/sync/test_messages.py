"""Messages of all kinds, both ways, over every transport."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from network import server_context
from peers import BINARY, CLOSE, CONT, PING, PONG, TEXT, close_payload
from threads import RawServer, asyncio_server, echo, trusting, until

import taut
import taut.sync
from taut import ConnectionClosedError, ConnectionClosedOK


@pytest.fixture(params=["deflate", None])
def ws(request: pytest.FixtureRequest, transport: str, directory: str) -> Iterator[taut.sync.ClientConnection]:
    """A client of a server that echoes, compressed or not."""
    options: dict[str, Any] = {"compression": request.param, "max_size": None}
    match transport:
        case "unix":
            path = f"{directory}/s"
            with asyncio_server(echo, path=path, **options), taut.sync.unix_connect(path, **options) as connection:
                yield connection
        case "tls":
            with asyncio_server(echo, "127.0.0.1", 0, ssl=server_context(), **options) as server:
                port = server.sockets[0].getsockname()[1]
                with taut.sync.connect(f"wss://127.0.0.1:{port}", ssl=trusting(), **options) as connection:
                    yield connection
        case _:
            with asyncio_server(echo, "127.0.0.1", 0, **options) as server:
                port = server.sockets[0].getsockname()[1]
                with taut.sync.connect(f"ws://127.0.0.1:{port}", **options) as connection:
                    yield connection


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 3_000_000])
def test_text_and_binary_of_all_sizes(ws: taut.sync.ClientConnection, size: int) -> None:
    for message in ("é" * (size // 2), bytes(range(256)) * (size // 256) + b"x" * (size % 256)):
        ws.send(message)
        assert ws.recv() == message


def test_many_in_flight(ws: taut.sync.ClientConnection) -> None:
    for i in range(300):
        ws.send(f"message {i}")
    assert [ws.recv() for _ in range(300)] == [f"message {i}" for i in range(300)]
    assert ws.stats.messages_received == ws.stats.messages_sent == 300


def test_what_a_message_may_be(ws: taut.sync.ClientConnection) -> None:
    for message in (b"one", bytearray(b"one"), memoryview(b"one")):
        ws.send(message)
        assert ws.recv() == b"one"
    ws.send(b"text", text=True)
    assert ws.recv() == "text"
    ws.send("binary", text=False)
    assert ws.recv() == b"binary"
    for wrong in (1, None, {"a": "b"}, object()):
        with pytest.raises(TypeError, match="a message must"):
            ws.send(wrong)  # type: ignore[arg-type]


def test_decode(ws: taut.sync.ClientConnection) -> None:
    ws.send("é")
    assert ws.recv(decode=False) == "é".encode()
    ws.send("é".encode())
    assert ws.recv(decode=True) == "é"


def test_fragments(ws: taut.sync.ClientConnection) -> None:
    ws.send(["one ", "two ", "three"])
    assert ws.recv() == "one two three"
    ws.send(part for part in (b"a", bytearray(b"b"), memoryview(b"c")))
    assert ws.recv() == b"abc"
    ws.send(["text as binary"], text=False)
    assert ws.recv() == b"text as binary"
    ws.send([])
    ws.send("after nothing")
    assert ws.recv() == "after nothing"


def test_a_large_message_in_parts(ws: taut.sync.ClientConnection) -> None:
    message = "aé€" * 200_000
    ws.send(message)
    parts = list(ws.recv_streaming())
    assert "".join(part for part in parts if isinstance(part, str)) == message
    ws.send("next")
    assert list(ws.recv_streaming(decode=False))[-1] == b"next"


def test_facts(ws: taut.sync.ClientConnection) -> None:
    assert ws.state is taut.State.OPEN
    assert ws.id == ws.id
    assert ws.request is not None
    assert ws.response is not None
    assert ws.response.status_code == 101
    assert ws.subprotocol is None
    assert ws.close_info is ws.close_code is ws.close_reason is None
    assert ws.latency == 0.0
    assert ws.ping().wait(20) == ws.latency > 0
    ws.close()
    assert ws.closed
    assert ws.remote_address is ws.local_address is None
    assert ws.close_code == 1000
    assert "CLOSED" in repr(ws)


# ---- with a peer made of raw bytes ----


def test_iteration_ends_with_the_connection(raw: RawServer) -> None:
    with raw.connected() as (ws, peer):
        peer.send(TEXT, b"one")
        peer.send(BINARY, b"two")
        peer.send(CLOSE, close_payload(1000))
        assert list(ws) == ["one", b"two"]
        assert peer.frame().opcode == CLOSE


def test_iteration_raises_when_it_ends_badly(raw: RawServer) -> None:
    with raw.connected() as (ws, peer):
        peer.send(TEXT, b"one")
        peer.send(CLOSE, close_payload(1011))
        messages = iter(ws)
        assert next(messages) == "one"
        with pytest.raises(ConnectionClosedError) as caught:
            next(messages)
        assert caught.value.code == 1011


def test_messages_behind_the_response(raw: RawServer) -> None:
    with raw.connected(behind=b"\x81\x05early\x89\x01?") as (ws, peer):
        assert ws.recv() == "early"
        assert peer.frame().opcode == PONG


def test_control_frames_between_fragments(raw: RawServer) -> None:
    with raw.connected() as (ws, peer):
        peer.send(TEXT, b"one ", fin=False)
        peer.send(PING, b"?")
        peer.send(CONT, b"two")
        assert ws.recv() == "one two"
        assert peer.frame().payload == b"?"
        ws.pong(b"heartbeat")
        assert peer.frame().payload == b"heartbeat"


def test_frames_of_a_client_are_masked(raw: RawServer) -> None:
    with raw.connected(compression=None) as (ws, peer):
        ws.send("whole")
        ws.send(["in ", "parts"])
        frames = [peer.frame() for _ in range(3)]
        assert all(frame.masked for frame in frames)
        assert [(frame.opcode, frame.payload, frame.fin) for frame in frames] == [
            (TEXT, b"whole", True),
            (TEXT, b"in ", False),
            (CONT, b"parts", True),
        ]


def test_what_the_peer_breaks_is_told(raw: RawServer) -> None:
    with raw.connected() as (ws, peer):
        peer.send(TEXT, b"before")
        peer.send(TEXT, b"\xff")
        assert ws.recv() == "before"
        with pytest.raises(ConnectionClosedError) as caught:
            ws.recv()
        assert caught.value.code == 1007
        assert peer.frame().code == 1007
        with pytest.raises(ConnectionClosedError):
            ws.send("after")


def test_messages_taken_after_the_loss(raw: RawServer) -> None:
    with raw.connected() as (ws, peer):
        for i in range(100):
            peer.send(TEXT, str(i).encode())
        peer.sock.close()
        until(lambda: ws.closed, "the loss")
        assert [ws.recv() for _ in range(100)] == [str(i) for i in range(100)]
        with pytest.raises(ConnectionClosedError) as caught:
            ws.recv()
        assert caught.value.code == 1006


def test_parts_as_they_come(raw: RawServer) -> None:
    with raw.connected() as (ws, peer):
        peer.send(TEXT, b"one", fin=False)
        parts = ws.recv_streaming()
        assert next(parts) == "one"
        peer.send(CONT, b"two", fin=False)
        assert next(parts) == "two"
        with pytest.raises(TimeoutError):
            next(ws.recv_streaming(timeout=0.01))
        peer.send(CONT, b"three")
        assert list(ws.recv_streaming()) == ["three"]


def test_a_message_given_up_in_the_middle(raw: RawServer) -> None:
    with raw.connected() as (ws, peer):
        peer.send(TEXT, b"one", fin=False)
        assert next(ws.recv_streaming()) == "one"
        peer.send(CONT, b"two")
        peer.send(TEXT, b"next")
        assert ws.recv() == "next"


def test_the_end_in_order(raw: RawServer) -> None:
    with raw.connected() as (ws, peer):
        peer.send(TEXT, b"last")
        peer.send(CLOSE, close_payload(1000))
        until(lambda: ws.stats.messages_received == 1, "the message")
        ws.send("answer")  # before our Close frame, which waits for the message to be taken
        assert ws.recv() == "last"
        with pytest.raises(ConnectionClosedOK):
            ws.recv()
        assert [peer.frame().opcode for _ in range(2)] == [TEXT, CLOSE]
