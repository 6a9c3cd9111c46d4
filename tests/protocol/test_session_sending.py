"""What is sent: whole messages, fragments, compressed or not, by type and by choice (RFC 6455, 6.1)."""

from __future__ import annotations

import array
import zlib

import pytest
from protocol.wire import (
    BINARY,
    CLOSE,
    CONT,
    RSV1,
    TEXT,
    answers,
    both_roles,
    close_payload,
    deflate_for,
    feed,
    head,
    new_session,
    sent,
    taken,
)

from taut.errors import ConnectionClosed, ConnectionClosedError, ConnectionClosedOK
from taut.protocol.deflate import DeflateParameters

TAIL = b"\0\0\xff\xff"
FRESH = DeflateParameters(server_no_context_takeover=True, client_no_context_takeover=True)


def inflater(bits: int = 15) -> zlib._Decompress:
    return zlib.decompressobj(-bits)


# ---- types ----


@both_roles
@pytest.mark.parametrize(
    ("message", "opcode", "payload"),
    [
        ("text ä€𝄞", TEXT, "text ä€𝄞".encode()),
        ("", TEXT, b""),
        (b"bytes", BINARY, b"bytes"),
        (b"", BINARY, b""),
        (bytearray(b"bytearray"), BINARY, b"bytearray"),
        (memoryview(b"..view..")[2:6], BINARY, b"view"),
        (memoryview(array.array("H", [1, 2])), BINARY, array.array("H", [1, 2]).tobytes()),
    ],
)
def test_6_1_a_message_is_sent_by_its_type(client: bool, message: object, opcode: int, payload: bytes) -> None:
    session = new_session(client)
    session.send(message)  # type: ignore[arg-type]
    assert answers(session) == [(opcode, payload)]
    assert session.messages_sent == 1


@both_roles
def test_text_overrides_the_type(client: bool) -> None:
    session = new_session(client)
    session.send("ä".encode(), text=True)
    session.send(bytearray(b"b"), text=True)
    session.send("ä", text=False)
    session.send("c", text=True)
    session.send(b"d", text=False)
    assert answers(session) == [
        (TEXT, "ä".encode()),
        (TEXT, b"b"),
        (BINARY, "ä".encode()),
        (TEXT, b"c"),
        (BINARY, b"d"),
    ]


def test_subclasses_of_str_and_bytes() -> None:
    class Text(str):
        __slots__ = ()

    class Octets(bytes):
        __slots__ = ()

    session = new_session()
    session.send(Text("a"))
    session.send(Octets(b"b"))
    assert answers(session) == [(TEXT, b"a"), (BINARY, b"b")]


@pytest.mark.parametrize("wrong", [1, 1.5, None, ["a"], object()])
def test_other_types_are_refused(wrong: object) -> None:
    session = new_session(deflate=True)
    with pytest.raises(TypeError):
        session.send(wrong)  # type: ignore[arg-type]
    assert answers(session) == []


def test_memory_that_is_not_contiguous_is_refused() -> None:
    session = new_session()
    with pytest.raises(BufferError):
        session.send(memoryview(b"abcdef")[::2])
    assert answers(session) == []


@both_roles
def test_text_that_has_no_utf8_is_refused(client: bool) -> None:
    session = new_session(client)
    with pytest.raises(UnicodeEncodeError):
        session.send("\ud800")
    with pytest.raises(UnicodeEncodeError):
        session.send_fragment("\ud800", text=True, first=True, final=True)
    assert (answers(session), session.messages_sent, session.bytes_sent) == ([], 0, 0)


def test_what_is_sent_is_left_alone() -> None:
    session = new_session(client=True)
    message = bytearray(b"not masked in place")
    session.send(message)
    message += b"; nor held"
    assert answers(session) == [(BINARY, b"not masked in place")]


# ---- the output ----


@both_roles
def test_output_is_kept_in_order_and_taken_whole(client: bool) -> None:
    session = new_session(client)
    expected = []
    for size in [0, 1, 500, 13, 5000, 1, 70_000, 2]:
        session.send(bytes(size))
        expected.append((BINARY, bytes(size)))
    assert answers(session) == expected
    assert session.take_output() == b""
    session.send(b"more")
    assert answers(session) == [(BINARY, b"more")]


# ---- fragments ----


@both_roles
def test_6_1_fragments(client: bool) -> None:
    session = new_session(client)
    session.send_fragment("a", text=True, first=True, final=False)
    session.send_fragment("", text=True, first=False, final=False)
    session.send_fragment("b€", text=True, first=False, final=True)
    session.send_fragment(bytearray(b"c"), text=False, first=True, final=True)
    assert [(each.opcode, each.payload, each.fin, each.rsv) for each in sent(session)] == [
        (TEXT, b"a", False, 0),
        (CONT, b"", False, 0),
        (CONT, "b€".encode(), True, 0),
        (BINARY, b"c", True, 0),
    ]
    assert session.messages_sent == 2


# ---- compression ----


@both_roles
def test_messages_are_compressed_from_the_threshold_on(client: bool) -> None:
    session = new_session(client, deflate=deflate_for(client, threshold=100))
    for size in [99, 100]:
        session.send("a" * size)
        session.send(b"b" * size)
        session.send(bytearray(b"c" * size))
    frames = sent(session)
    assert [each.rsv for each in frames] == [0, 0, 0, RSV1, RSV1, RSV1]
    inflate = inflater()
    assert [inflate.decompress(each.payload + TAIL) for each in frames[3:]] == [b"a" * 100, b"b" * 100, b"c" * 100]
    assert all(len(each.payload) < 20 for each in frames[3:])


@both_roles
@pytest.mark.parametrize("size", [0, 1, 1000])
def test_compression_is_a_choice_for_each_message(client: bool, size: int) -> None:
    session = new_session(client, deflate=True)
    session.send(b"a" * size, compress=True)
    session.send("a" * size, compress=False)
    forced, plain = sent(session)
    assert (forced.rsv, inflater().decompress(forced.payload + TAIL)) == (RSV1, b"a" * size)
    assert (plain.rsv, plain.payload) == (0, b"a" * size)


def test_without_the_extension_nothing_is_compressed() -> None:
    session = new_session()
    session.send(b"a" * 1000, compress=True)
    session.send_fragment(b"a" * 1000, text=False, first=True, final=True, compress=True)
    assert [(each.rsv, len(each.payload)) for each in sent(session)] == [(0, 1000)] * 2


@both_roles
@pytest.mark.parametrize("parameters", [DeflateParameters(), FRESH])
@pytest.mark.parametrize("parts", [["a" * 500, "b" * 500], ["x" * 200, "", "ä" * 300, ""], ["c" * 1000]])
def test_7_2_1_only_the_first_fragment_says_that_a_message_is_compressed(
    client: bool, parameters: DeflateParameters, parts: list[str]
) -> None:
    session = new_session(client, deflate=deflate_for(client, parameters))
    peer = new_session(not client, deflate=deflate_for(not client, parameters))
    for _ in range(2):
        for i, part in enumerate(parts):
            session.send_fragment(part, text=True, first=i == 0, final=i == len(parts) - 1)
        output = session.take_output()
        peer.receive_data(output)
        first = output[0]
        assert first & RSV1 << 4
    assert taken(peer) == ["".join(parts)] * 2


def test_fragments_of_a_message_that_is_not_compressed() -> None:
    session = new_session(deflate=True)
    session.send_fragment(b"a" * 1000, text=False, first=True, final=False, compress=False)
    session.send_fragment(b"b" * 1000, text=False, first=False, final=True)
    assert [(each.rsv, len(each.payload)) for each in sent(session)] == [(0, 1000)] * 2


def test_a_tiny_first_fragment_leaves_the_message_uncompressed() -> None:
    session = new_session(deflate=deflate_for(client=False, threshold=10))
    session.send_fragment(b"a" * 9, text=False, first=True, final=False)
    session.send_fragment(b"b" * 1000, text=False, first=False, final=True)
    session.send_fragment(b"a" * 10, text=False, first=True, final=True)
    session.send_fragment(b"a", text=False, first=True, final=True, compress=True)
    assert [each.rsv for each in sent(session)] == [0, 0, RSV1, RSV1]


def test_bytes_sent_are_those_that_travel() -> None:
    session = new_session(deflate=True)
    session.send(b"a" * 1000)
    (frame,) = sent(session)
    assert session.bytes_sent == len(frame.payload)


# ---- the end ----


@both_roles
def test_sending_on_a_closed_connection_tells_how_it_ended(client: bool) -> None:
    session = new_session(client)
    feed(session, (CLOSE, close_payload(1001, "bye")))
    with pytest.raises(ConnectionClosedOK) as caught:
        session.send("x")
    assert caught.value.info == session.close_info
    lost = new_session(client)
    cause = OSError("gone")
    lost.receive_eof(cause)
    with pytest.raises(ConnectionClosedError) as caught_error:
        lost.send("x")
    assert (caught_error.value.code, caught_error.value.info.cause) == (1006, cause)


def test_a_wrong_type_on_a_closed_connection() -> None:
    session = new_session()
    session.receive_eof()
    with pytest.raises(ConnectionClosed):
        session.send(object())  # type: ignore[arg-type]


def test_a_source_of_keys_that_fails_leaves_the_session_as_it_was() -> None:
    failing = [False]

    def source(size: int) -> bytes:
        if failing[0]:
            raise OSError("no entropy")
        return bytes(4)

    session = new_session(client=True, source=source)
    session.send(b"a")
    failing[0] = True
    with pytest.raises(OSError, match="no entropy"):
        session.send(b"b")
    failing[0] = False
    session.send(b"c")
    assert [payload for _, payload in answers(session)] == [b"a", b"c"]


def test_a_large_message() -> None:
    payload = bytes(range(256)) * (1 << 14)
    session = new_session()
    session.send(payload)
    assert session.take_output() == head(BINARY, 1 << 22) + payload
