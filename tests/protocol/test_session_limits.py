"""Limits: of frames, messages, inflated messages, fragments, and of what waits to be read. All are exact."""

from __future__ import annotations

import tracemalloc
import zlib

import pytest
from protocol.wire import (
    BINARY,
    CLOSE,
    CONT,
    KEY,
    PING,
    PONG,
    RSV1,
    TEXT,
    Frame,
    answers,
    both_roles,
    close_payload,
    deflater,
    failed_with,
    feed,
    frame,
    head,
    new_session,
    peer_key,
    taken,
    xor,
)

from taut.errors import PayloadTooBig
from taut.protocol.session import Session

ANY = 1 << 62
HUGE = [(1 << 16) + 1, 1 << 31, 1 << 32, (1 << 32) + 1, (1 << 63) - 1]


def too_big(session: Session, size: int, limit: int, option: str = "max_size") -> None:
    """Check that the session was failed with 1009 over this."""
    assert failed_with(session, 1009) == f"{size} bytes are over the limit of {limit} ({option})"
    assert isinstance(session.cause, PayloadTooBig)
    assert (session.cause.size, session.cause.limit, session.cause.option) == (size, limit, option)


def split(payload: bytes, count: int) -> list[bytes]:
    size = -(-len(payload) // count)
    return [payload[i * size : (i + 1) * size] for i in range(count)]


# ---- max_size ----


@both_roles
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("limit", [1, 2, 125, 126, 1000, 65536])
def test_max_size_is_exact(client: bool, opcode: int, limit: int) -> None:
    session = new_session(client, max_size=limit)
    feed(session, (opcode, b"a" * limit))
    assert [len(each) for each in taken(session)] == [limit]
    feed(session, (opcode, b"a" * (limit + 1)))
    too_big(session, limit + 1, limit)
    assert taken(session) == []


@both_roles
@pytest.mark.parametrize("count", [2, 3, 7])
def test_max_size_is_exact_over_fragments(client: bool, count: int) -> None:
    limit = 1000
    for size in [limit, limit + 1]:
        session = new_session(client, max_size=limit)
        parts = split(b"a" * size, count)
        for i, part in enumerate(parts):
            feed(session, (BINARY if i == 0 else CONT, part, False))
        if size == limit:
            feed(session, (CONT, b""))
            assert taken(session) == [b"a" * limit]
        else:
            too_big(session, limit + 1, limit)


@both_roles
def test_max_size_counts_bytes_and_not_characters(client: bool) -> None:
    session = new_session(client, max_size=9)
    feed(session, (TEXT, "€€€".encode()))
    assert taken(session) == ["€€€"]
    feed(session, (TEXT, "€€€!".encode()))
    too_big(session, 10, 9)


@both_roles
@pytest.mark.parametrize("length", HUGE)
def test_a_declared_length_is_refused_at_once(client: bool, length: int) -> None:
    session = new_session(client, max_size=1 << 16)
    session.receive_data(head(BINARY, length, key=peer_key(session)))
    too_big(session, length, 1 << 16)


@both_roles
@pytest.mark.parametrize("length", HUGE)
def test_a_declared_length_of_a_fragment_is_refused_at_once(client: bool, length: int) -> None:
    session = new_session(client, max_size=1 << 16)
    feed(session, (BINARY, b"abc", False))
    session.receive_data(head(CONT, length, key=peer_key(session)))
    too_big(session, 3 + length, 1 << 16)


@pytest.mark.parametrize("length", [1 << 40, (1 << 63) - 1])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_declared_length_reserves_no_memory(opcode: int, length: int) -> None:
    """Without a limit memory follows what arrives."""
    session = new_session(max_size=None)
    session.receive_data(head(opcode, length, key=KEY))
    for offset in range(0, 100_000, 1000):
        session.receive_data(xor(b"a" * 1000, KEY))
        assert session.phase_name == "OPEN", offset
    assert taken(session) == []
    session.receive_eof()


def test_without_a_limit_fragments_may_add_up() -> None:
    session = new_session(max_size=None, max_fragments=None)
    feed(session, (BINARY, b"ab", False))
    session.receive_data(head(CONT, (1 << 63) - 1, key=KEY))
    assert session.phase_name == "OPEN"


@both_roles
def test_what_came_before_a_message_that_is_too_big_is_delivered_and_answered(client: bool) -> None:
    session = new_session(client, max_size=10)
    feed(session, (TEXT, b"small"), (PING, b"p"), (TEXT, b"much too big"))
    assert session.take() == "small"
    session.send("answer")
    session.drained()
    assert answers(session) == [
        (PONG, b"p"),
        (TEXT, b"answer"),
        (CLOSE, close_payload(1009, "12 bytes are over the limit of 10 (max_size)")),
    ]


def test_control_frames_do_not_count_against_max_size() -> None:
    session = new_session(max_size=1)
    feed(session, (BINARY, b"", False), (PING, bytes(125)), (CONT, b"x"))
    assert taken(session) == [b"x"]
    assert answers(session) == [(PONG, bytes(125))]


# ---- max_frame_size ----


@both_roles
def test_max_frame_size_is_exact(client: bool) -> None:
    session = new_session(client, max_frame_size=100)
    feed(session, (BINARY, bytes(100), False), (CONT, bytes(100), False), (CONT, bytes(100)), (TEXT, bytes(100)))
    assert [len(each) for each in taken(session)] == [300, 100]
    session.receive_data(head(BINARY, 101, key=peer_key(session)))
    too_big(session, 101, 100, "max_frame_size")


@both_roles
def test_max_frame_size_applies_to_continuations_and_compressed_frames(client: bool) -> None:
    session = new_session(client, max_frame_size=100)
    feed(session, (BINARY, b"", False))
    session.receive_data(head(CONT, 101, key=peer_key(session)))
    too_big(session, 101, 100, "max_frame_size")
    session = new_session(client, deflate=True, max_frame_size=100)
    session.receive_data(head(BINARY, 101, rsv=RSV1, key=peer_key(session)))
    too_big(session, 101, 100, "max_frame_size")


# ---- max_fragments ----


@both_roles
@pytest.mark.parametrize("limit", [1, 2, 10])
def test_max_fragments_is_exact(client: bool, limit: int) -> None:
    session = new_session(client, max_fragments=limit)
    for _ in range(2):
        for i in range(limit):
            feed(session, (BINARY if i == 0 else CONT, b"x", i == limit - 1), (PING, b""))
    assert taken(session) == [b"x" * limit] * 2
    assert len(answers(session)) == 2 * limit
    for i in range(limit + 1):
        assert session.phase_name == "OPEN"
        feed(session, (BINARY if i == 0 else CONT, b"", False))
    assert failed_with(session, 1009) == f"a message has more than {limit} fragments (max_fragments)"


def test_a_flood_of_empty_fragments_is_ended() -> None:
    session = new_session()
    start, empty = frame(TEXT, b"", fin=False, key=KEY), frame(CONT, b"", fin=False, key=KEY)
    session.receive_data(start + empty * (1 << 20))
    assert failed_with(session, 1009) == f"a message has more than {1 << 14} fragments (max_fragments)"


# ---- inflated messages ----


def compressed(session: Session, opcode: int, payload: bytes, frames: int = 1) -> bytes:
    """A message of the peer, compressed once and cut into frames."""
    parts = split(deflater()(payload), frames)
    return b"".join(
        frame(CONT if i else opcode, part, fin=i == frames - 1, rsv=0 if i else RSV1, key=peer_key(session))
        for i, part in enumerate(parts)
    )


@both_roles
@pytest.mark.parametrize("limit", [1, 2, 127, 128, 1000, 70_000])
@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("step", [1 << 20, 3])
def test_max_size_is_exact_for_inflated_messages(client: bool, limit: int, frames: int, step: int) -> None:
    for size in [limit, limit + 1]:
        payload = bytes(i * i % 251 for i in range(size))
        session = new_session(client, deflate=True, max_size=limit)
        data = compressed(session, BINARY, payload, frames)
        for start in range(0, len(data), step):
            session.receive_data(data[start : start + step])
        if size == limit:
            assert taken(session) == [payload]
        else:
            too_big(session, limit + 1, limit)


@both_roles
def test_the_compressed_size_does_not_count(client: bool) -> None:
    """What is incompressible grows a little, and is still a message of its own size."""
    payload = bytes(zlib.crc32(bytes([i & 255, i >> 8])) & 255 for i in range(1000))
    session = new_session(client, deflate=True, max_size=1000)
    data = compressed(session, BINARY, payload)
    assert len(data) > 1000 + 8
    session.receive_data(data)
    assert taken(session) == [payload]


def test_the_limit_starts_again_with_each_message() -> None:
    session = new_session(deflate=True, max_size=100)
    compress = deflater()
    for _ in range(5):
        feed(session, Frame(BINARY, compress(bytes(100)), rsv=RSV1), (BINARY, bytes(100)))
    assert [len(each) for each in taken(session)] == [100] * 10


@pytest.mark.parametrize("step", [100_000, 7])
def test_a_bomb_is_bounded(step: int) -> None:
    """64 MiB in 64 KiB: no more is inflated than the limit and one byte."""
    session = new_session(deflate=True, max_size=1 << 16, read_limit=ANY)
    data = compressed(session, BINARY, bytes(1 << 26))
    assert len(data) < 1 << 17
    tracemalloc.start()
    try:
        for start in range(0, len(data), step):
            session.receive_data(data[start : start + step])
            if session.phase_name != "OPEN":
                break
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    too_big(session, (1 << 16) + 1, 1 << 16)
    assert peak < 1 << 20


@both_roles
@pytest.mark.parametrize("fin", [False, True])
def test_compressed_data_that_is_corrupt(client: bool, fin: bool) -> None:
    session = new_session(client, deflate=True)
    feed(session, Frame(BINARY, b"\xff" * 20, fin=fin, rsv=RSV1))
    assert failed_with(session, 1007).startswith("compressed data is corrupt")


@pytest.mark.parametrize("frames", [1, 3])
def test_an_inflated_message_of_any_size_without_a_limit(frames: int) -> None:
    session = new_session(deflate=True, max_size=None)
    session.receive_data(compressed(session, BINARY, bytes(3 << 20), frames))
    assert taken(session) == [bytes(3 << 20)]


# ---- read_limit ----


@both_roles
def test_reading_stops_at_the_read_limit(client: bool) -> None:
    session = new_session(client, read_limit=1000)
    messages = [frame(BINARY, bytes([i]) * 300, key=peer_key(session)) for i in range(10)]
    data = b"".join(messages)
    received = []
    while data:
        used = session.receive_data(data)
        assert used % len(messages[0]) == 0
        assert 0 < used <= 4 * len(messages[0])
        data = data[used:]
        assert session.unread <= 1000 + 300
        if data:
            assert session.receive_data(data) == 0
        received += taken(session)
    assert received == [bytes([i]) * 300 for i in range(10)]


@both_roles
def test_a_frame_that_has_begun_is_read_to_its_end(client: bool) -> None:
    session = new_session(client, read_limit=100)
    first, second = (frame(BINARY, bytes(300), key=peer_key(session)) for _ in range(2))
    data = first + second
    assert session.receive_data(data[:50]) == 50
    assert session.receive_data(data[50:]) == len(first) - 50
    assert len(session) == 1


def test_a_head_that_is_cut_off_waits_with_the_rest() -> None:
    session = new_session(read_limit=100)
    data = frame(BINARY, bytes(200), key=KEY) + frame(TEXT, b"next", key=KEY)
    assert session.receive_data(data[:3]) == 3
    assert session.receive_data(data[3:]) == 208 - 3
    assert session.receive_data(data[208:211]) == 0
    assert taken(session) == [bytes(200)]
    assert session.receive_data(data[208:]) == len(data) - 208
    assert taken(session) == ["next"]


@pytest.mark.parametrize("payload", [b"", b"x"])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_flood_of_tiny_messages_reaches_the_read_limit(opcode: int, payload: bytes) -> None:
    session = new_session()
    data = frame(opcode, payload, key=KEY) * 100_000
    assert session.receive_data(data) < len(data)
    assert len(session) <= session.options.read_limit // 16
    assert session.unread == len(session) * len(payload)


@both_roles
def test_a_violation_behind_the_read_limit_waits_its_turn(client: bool) -> None:
    session = new_session(client, read_limit=100)
    message, violation = (frame(op, data, key=peer_key(session)) for op, data in [(BINARY, bytes(100)), (CONT, b"")])
    assert session.receive_data(message + violation) == len(message)
    assert (session.phase_name, taken(session)) == ("OPEN", [bytes(100)])
    session.receive_data(violation)
    failed_with(session, 1002)


def test_unread_is_the_memory_of_the_messages() -> None:
    session = new_session()
    feed(session, (TEXT, b"abc"), (TEXT, "ab€".encode()), (TEXT, "𝄞".encode()), (BINARY, b"12345"))
    assert session.unread == 3 + 3 * 2 + 4 + 5
    session.take()
    assert session.unread == 15
