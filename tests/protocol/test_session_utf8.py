"""Text messages are UTF-8 (RFC 6455, 5.6 and 8.1), and fail at the first byte that makes it impossible."""

from __future__ import annotations

import pytest
from protocol.wire import (
    BINARY,
    CONT,
    KEY,
    PING,
    PONG,
    RSV1,
    TEXT,
    Frame,
    answers,
    both_roles,
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

INVALID = "invalid UTF-8 in a text message"
UNFINISHED = "a text message ends in the middle of a UTF-8 sequence"
GOOD = "κόσμε".encode()

# The shortest prefixes that nothing can make well-formed again (RFC 3629, 4; Unicode, table 3-7).
IMPOSSIBLE = {
    "a continuation first": b"\x80",
    "the last continuation first": b"\xbf",
    "an overlong lead": b"\xc0",
    "another overlong lead": b"\xc1",
    "a lead without continuation": b"\xc3(",
    "an overlong form of three bytes": b"\xe0\x9f",
    "three bytes cut short": b"\xe2\x82a",
    "the first surrogate": b"\xed\xa0",
    "the last surrogate": b"\xed\xbf",
    "an overlong form of four bytes": b"\xf0\x8f",
    "beyond U+10FFFF": b"\xf4\x90",
    "four bytes cut short": b"\xf0\x9f\x98a",
    "a lead of five bytes": b"\xf8",
    "a lead of six bytes": b"\xfc",
    "fe": b"\xfe",
    "ff": b"\xff",
    "a lead after a lead": b"\xc3\xc3",
}
# At the edges of what is allowed, and around the widths that the kernels work in.
VALID = ["\x00", "\x7f", "\x80", "߿", "ࠀ", "\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff"]
PREFIXES = [b"", GOOD, b"a" * 15, b"a" * 64 + GOOD, GOOD * 30, "𝄞".encode() * 17, b"a" * 257]

impossible = pytest.mark.parametrize("bad", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())


@both_roles
@pytest.mark.parametrize("text", [*VALID, "".join(VALID), "".join(VALID) * 50])
def test_5_6_well_formed_text(client: bool, text: str) -> None:
    session = new_session(client)
    feed(session, (TEXT, text.encode()))
    data = frame(TEXT, text.encode(), key=peer_key(session))
    for octet in data:
        session.receive_data(bytes([octet]))
    assert taken(session) == [text, text]


@both_roles
@impossible
def test_8_1_invalid_text_in_one_piece(client: bool, bad: bytes) -> None:
    for prefix in PREFIXES:
        session = new_session(client)
        feed(session, (TEXT, prefix + bad + b"the rest"))
        assert failed_with(session, 1007) == INVALID
        assert taken(session) == []


@both_roles
@impossible
def test_8_1_invalid_text_fails_at_the_first_impossible_byte_of_a_frame(client: bool, bad: bytes) -> None:
    for prefix in PREFIXES:
        session = new_session(client)
        payload = prefix + bad
        key = peer_key(session)
        session.receive_data(head(TEXT, len(payload) + 1000, key=key))
        wire = payload if key is None else xor(payload, key)
        session.receive_data(wire[:-1])
        assert session.phase_name == "OPEN"
        session.receive_data(wire[-1:])
        assert failed_with(session, 1007) == INVALID


@both_roles
@impossible
def test_8_1_invalid_text_fails_at_the_first_impossible_byte_across_fragments(client: bool, bad: bytes) -> None:
    for prefix in PREFIXES:
        session = new_session(client)
        payload = prefix + bad
        for i in range(len(payload) - 1):
            feed(session, (TEXT if i == 0 else CONT, payload[i : i + 1], False))
        assert session.phase_name == "OPEN"
        feed(session, (TEXT if len(payload) == 1 else CONT, payload[-1:], False))
        assert failed_with(session, 1007) == INVALID


@impossible
def test_8_1_invalid_text_that_was_compressed(bad: bytes) -> None:
    compress = deflater()
    session = new_session(deflate=True)
    feed(session, Frame(TEXT, compress(b"good"), rsv=RSV1), Frame(TEXT, compress(GOOD + bad + b"rest"), rsv=RSV1))
    session.drained()
    assert taken(session) == ["good"]
    assert session.close_info is not None
    assert (session.close_info.code, session.close_info.reason) == (1007, INVALID)


@impossible
def test_8_1_invalid_text_in_a_compressed_fragment_fails_at_once(bad: bytes) -> None:
    session = new_session(deflate=True)
    feed(session, Frame(TEXT, deflater()(GOOD + bad, False), fin=False, rsv=RSV1))
    assert failed_with(session, 1007) == INVALID


@both_roles
@pytest.mark.parametrize("character", ["é", "€", "𝄞"])
@pytest.mark.parametrize("start", [b"", b"a" * 70, GOOD * 20])
def test_5_6_text_does_not_end_inside_a_character(client: bool, character: str, start: bytes) -> None:
    octets = character.encode()
    for size in range(1, len(octets)):
        cut = octets[:size]
        in_one_frame = new_session(client)
        feed(in_one_frame, (TEXT, start + cut))
        assert failed_with(in_one_frame, 1007) == INVALID
        in_pieces = new_session(client)
        data = frame(TEXT, start + cut, key=peer_key(in_pieces))
        in_pieces.receive_data(data[:-1])
        in_pieces.receive_data(data[-1:])
        assert failed_with(in_pieces, 1007) == (UNFINISHED if len(start + cut) > 1 else INVALID)
        in_fragments = new_session(client)
        feed(in_fragments, (TEXT, start + cut, False))
        assert in_fragments.phase_name == "OPEN"
        feed(in_fragments, (CONT, b""))
        assert failed_with(in_fragments, 1007) == UNFINISHED


@both_roles
@pytest.mark.parametrize("character", ["é", "€", "𝄞"])
def test_5_6_a_character_may_be_spread_over_fragments(client: bool, character: str) -> None:
    octets = f"<{character}>".encode()
    session = new_session(client)
    for i in range(len(octets)):
        feed(session, (TEXT if i == 0 else CONT, octets[i : i + 1], False), (PING, b"."))
    feed(session, (CONT, b""))
    assert taken(session) == [f"<{character}>"]
    assert answers(session) == [(PONG, b".")] * len(octets)


def test_5_6_binary_messages_are_not_checked() -> None:
    session = new_session()
    every = bytes(range(256)) * 3
    feed(session, (BINARY, every), (BINARY, every, False), (CONT, every))
    assert taken(session) == [every, every * 2]


@pytest.mark.parametrize("place", range(0, 300, 7))
@pytest.mark.parametrize("cut", [1, 8, 64, 299])
def test_a_character_that_is_not_ascii_anywhere_in_a_frame_cut_anywhere(place: int, cut: int) -> None:
    """An ASCII text of known length is read into its final place, and has to leave it in the middle."""
    text = "a" * place + "€" + "b" * (300 - place)
    session = new_session()
    data = frame(TEXT, text.encode(), key=KEY)
    session.receive_data(data[: 8 + cut])
    session.receive_data(data[8 + cut :])
    assert taken(session) == [text]
