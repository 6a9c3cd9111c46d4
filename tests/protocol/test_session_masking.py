"""Masking (RFC 6455, 5.1, 5.3 and 10.3): clients mask every frame with a fresh key, servers none."""

from __future__ import annotations

import pytest
from protocol.wire import (
    BINARY,
    CLOSE,
    CONT,
    KEY,
    PING,
    PONG,
    TEXT,
    close_payload,
    failed_with,
    feed,
    frame,
    head,
    new_session,
    read_frames,
    sent,
    taken,
    xor,
)

# Each form of length at its edges, and sizes around the widths that the kernels work in.
SIZES = [0, 1, 3, 4, 7, 8, 15, 16, 17, 31, 63, 64, 65, 124, 125, 126, 127, 255, 256, 257, 1000, 65535, 65536, 65537]


# ---- 5.1 and 5.3: masking ----


def test_5_1_a_client_masks_all_frames_that_it_sends() -> None:
    session = new_session(client=True)
    session.send("text")
    session.send(b"")
    session.ping(b"ping", 0.0)
    session.pong(b"pong")
    session.send_fragment(b"a", text=False, first=True, final=False)
    session.send_fragment(b"b", text=False, first=False, final=True)
    feed(session, (PING, b"theirs"))
    session.close(1000, "bye")
    frames = read_frames(session.take_output())
    assert [each.opcode for each in frames] == [TEXT, BINARY, PING, PONG, BINARY, CONT, PONG, CLOSE]
    assert all(each.key is not None for each in frames)


def test_5_1_a_server_masks_no_frame_that_it_sends() -> None:
    session = new_session()
    session.send("text")
    session.ping(b"ping", 0.0)
    session.pong(b"pong")
    session.send_fragment(b"a", text=False, first=True, final=True)
    feed(session, (PING, b"theirs"))
    session.close(1000, "bye")
    assert [each.key for each in read_frames(session.take_output())] == [None] * 6


@pytest.mark.parametrize("opcode", [TEXT, BINARY, CLOSE, PING, PONG])
def test_5_1_a_server_closes_upon_a_frame_that_is_not_masked(opcode: int) -> None:
    session = new_session()
    session.receive_data(frame(opcode, close_payload(1000)))
    assert failed_with(session, 1002) == "a client's frame is not masked"
    assert taken(session) == []


@pytest.mark.parametrize("opcode", [TEXT, BINARY, CLOSE, PING, PONG])
def test_5_1_a_client_closes_upon_a_frame_that_is_masked(opcode: int) -> None:
    session = new_session(client=True)
    session.receive_data(frame(opcode, close_payload(1000), key=KEY))
    assert failed_with(session, 1002) == "a server's frame is masked"
    assert taken(session) == []


def test_5_1_a_masking_key_of_zero_is_still_masking() -> None:
    session = new_session()
    session.receive_data(frame(TEXT, b"hello", key=bytes(4)))
    assert taken(session) == ["hello"]
    client = new_session(client=True)
    client.receive_data(frame(TEXT, b"hello", key=bytes(4)))
    assert failed_with(client, 1002) == "a server's frame is masked"


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_5_3_masking_is_undone(opcode: int, size: int) -> None:
    payload = bytes(ord("a") + i % 26 for i in range(size))
    expected = payload.decode() if opcode == TEXT else payload
    for key in [KEY, b"\x00\x00\x00\x01", b"\xff\xff\xff\xff", b"\x80\x00\x00\x00"]:
        session = new_session()
        session.receive_data(frame(opcode, payload, key=key))
        assert taken(session) == [expected]


@pytest.mark.parametrize("size", [0, 1, 5, 125, 126, 65536])
def test_5_3_masking_does_not_change_the_length(size: int) -> None:
    server, client = new_session(), new_session(client=True)
    server.send(bytes(size))
    client.send(bytes(size))
    assert len(client.take_output()) == len(server.take_output()) + 4


def test_5_3_every_frame_has_a_fresh_key_from_the_source() -> None:
    session = new_session(client=True)  # its source counts
    for _ in range(3):
        session.send(b"same")
    session.ping(b"same", 0.0)
    session.close()
    keys = [each.key for each in sent(session)]
    assert keys == [number.to_bytes(4, "big") for number in range(1, 6)]


def test_10_3_masking_keys_are_what_the_source_gives_and_are_never_used_twice() -> None:
    asked = []

    def source(size: int) -> bytes:
        asked.append(size)
        start = len(asked) << 20
        return b"".join((start + i).to_bytes(4, "big") for i in range(size // 4))

    session = new_session(client=True, source=source)
    count = 5000
    for _ in range(count):
        session.send(b"x")
    keys = [each.key for each in sent(session)]
    given = [((block << 20) + i).to_bytes(4, "big") for block, size in enumerate(asked, 1) for i in range(size // 4)]
    assert keys == given[:count]
    assert len(set(keys)) == count


def test_10_3_no_key_is_drawn_before_it_is_needed() -> None:
    drawn = []

    def source(size: int) -> bytes:
        drawn.append(size)
        return bytes(4)

    session = new_session(client=True, source=source)
    assert drawn == []
    session.send(b"x")
    session.send(b"y")
    assert len(drawn) == 2


def test_10_3_masked_payload_is_what_leaves() -> None:
    session = new_session(client=True, source=lambda size: KEY * (size // 4))
    payload = b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n" * 9
    session.send(payload)
    assert session.take_output() == head(BINARY, len(payload), key=KEY) + xor(payload, KEY)
