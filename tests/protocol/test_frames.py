"""Frames in memory: masking keys, the output that grows, and messages assembled from whatever a read brings."""

from __future__ import annotations

import random
import struct

import pytest
from protocol.wire import BINARY, CONT, KEY, PING, TEXT, answers, feed, frame, new_session, read_frames, sent, taken

from taut.protocol.frames import MaskPool

# Where an assembly changes its mind: nothing, one byte, its first memory (4096), its growth, what is read directly.
SIZES = [0, 1, 2, 4095, 4096, 4097, 8191, 8192, 8193, 16384, 40_000, 70_000]


# ---- masking keys ----


@pytest.mark.parametrize("size", [4, 5, 6, 7, 8, 4096])
def test_keys_are_cut_from_what_the_source_returns(size: int) -> None:
    asked = []

    def source(wanted: int) -> bytes:
        asked.append(wanted)
        return bytes([len(asked) % 256]) * size

    session = new_session(client=True, source=source)
    for _ in range(size // 4 * 3):
        session.send(b"x")
    keys = [each.key for each in sent(session)]
    assert keys == [bytes([block]) * 4 for block in (1, 2, 3) for _ in range(size // 4)]
    assert len(asked) == 3


@pytest.mark.parametrize("size", [0, 1, 3])
def test_a_source_that_returns_too_little(size: int) -> None:
    session = new_session(client=True, source=lambda _: bytes(size))
    with pytest.raises(ValueError, match="the source of masking keys returned less than 4 bytes"):
        session.send(b"x")
    assert session.take_output() == b""


@pytest.mark.parametrize("wrong", ["text", bytearray(8), 4, None])
def test_a_source_that_returns_no_bytes(wrong: object) -> None:
    session = new_session(client=True, source=lambda _: wrong)  # type: ignore[arg-type,return-value]
    with pytest.raises(TypeError, match="the source of masking keys must return bytes, not "):
        session.send(b"x")
    assert session.take_output() == b""


def test_sessions_may_share_a_pool() -> None:
    numbers = iter(range(1, 1 << 20))
    pool = MaskPool(lambda size: b"".join(struct.pack("!I", next(numbers)) for _ in range(size // 4)))
    sessions = [new_session(client=True) for _ in range(2)]
    sessions = [type(each)(each.options, client=True, masks=pool) for each in sessions]
    for each in sessions * 3:
        each.send(b"x")
    keys = [each.key for session in sessions for each in sent(session)]
    assert sorted(key for key in keys if key is not None) == [struct.pack("!I", i) for i in range(1, 7)]


# ---- the output ----


@pytest.mark.parametrize("client", [False, True])
def test_output_of_many_frames(client: bool) -> None:
    source = random.Random(1)
    session = new_session(client)
    expected = []
    for _ in range(300):
        payload = source.randbytes(source.choice([0, 1, 20, 125, 126, 400, 4000, 70_000]))
        session.send(payload)
        expected.append(payload)
    assert [each.payload for each in read_frames(session.take_output())] == expected


# ---- assembling ----


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["ascii", "latin", "wide", "binary"])
@pytest.mark.parametrize("first_cut", [0, 1, 5000])
def test_a_frame_in_two_reads(size: int, kind: str, first_cut: int) -> None:
    payload = {"ascii": b"a" * size, "latin": "é".encode() * (size // 2), "wide": "𝄞".encode() * (size // 4)}.get(
        kind, bytes(i % 251 for i in range(size))
    )
    data = frame(BINARY if kind == "binary" else TEXT, payload, key=KEY)
    start = len(data) - len(payload)
    session = new_session()
    session.receive_data(data[: start + first_cut])
    session.receive_data(data[start + first_cut :])
    assert taken(session) == [payload if kind == "binary" else payload.decode()]


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 63, 64, 65, 1000, 4096, 16384])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("client", [False, True])
def test_a_frame_in_many_reads(step: int, opcode: int, client: bool) -> None:
    payload = ("ascii " * 50 + "ünïcödé €𝄞" * 100).encode() * 3
    data = frame(opcode, payload, key=None if client else KEY)
    session = new_session(client)
    for start in range(0, len(data), step):
        session.receive_data(data[start : start + step])
    assert taken(session) == [payload.decode() if opcode == TEXT else payload]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_fragments_that_make_the_memory_grow(opcode: int) -> None:
    session = new_session()
    sizes = [size for size in SIZES for _ in range(2)]
    parts = ["€".encode() * (size // 3) for size in sizes]
    for i, part in enumerate(parts):
        feed(session, (opcode if i == 0 else CONT, part, False), (PING, b"%d" % i))
    feed(session, (CONT, b"end"))
    whole = b"".join(parts) + b"end"
    assert taken(session) == [whole.decode() if opcode == TEXT else whole]
    assert len(answers(session)) == len(parts)


def test_messages_do_not_share_memory() -> None:
    """The str or bytes that a message was assembled in is its own."""
    session = new_session()
    messages = []
    for i in range(50):
        data = frame(BINARY, bytes([i]) * 5000, key=KEY) + frame(TEXT, bytes([65 + i % 26]) * 5000, key=KEY)
        session.receive_data(data[:3000])
        session.receive_data(data[3000:8000])
        session.receive_data(data[8000:])
        messages += taken(session)
    for i in range(50):
        assert messages[2 * i] == bytes([i]) * 5000
        assert messages[2 * i + 1] == chr(65 + i % 26) * 5000


def test_a_message_that_was_assembled_is_like_any_other() -> None:
    """It hashes, compares and encodes as if Python itself had made it."""
    text = "a" * 5000
    data = frame(TEXT, text.encode(), key=KEY) + frame(BINARY, text.encode(), key=KEY)
    session = new_session()
    for start in range(0, len(data), 999):
        session.receive_data(data[start : start + 999])
    received = taken(session)
    assert {received[0]: 1}[text] == 1
    assert {received[1]: 1}[text.encode()] == 1
    assert (received[0].isascii(), received[0].encode(), received[0] + "é") == (True, text.encode(), text + "é")


def test_an_unfinished_message_is_freed_with_its_session() -> None:
    for cut in [3, 10, 2000]:
        for opcode in [TEXT, BINARY]:
            session = new_session()
            session.receive_data(frame(opcode, bytes(4000), key=KEY)[:cut])
            session.receive_data(b"x")
            del session
