"""Messages handed over in parts while they arrive, and streams that a reader abandons half way."""

from __future__ import annotations

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
    new_session,
    peer_key,
    taken,
)

from taut.protocol.inbox import Fragment
from taut.protocol.session import Session


def parts(session: Session) -> list[tuple[object, bool]]:
    """All parts there are, taken, as (data, final)."""
    fragments = taken(session)
    assert all(type(each) is Fragment for each in fragments)
    return [(each.data, each.final) for each in fragments]


@both_roles
def test_fragments_are_handed_over_as_they_come(client: bool) -> None:
    session = new_session(client)
    session.stream()
    feed(session, (TEXT, b"a", False))
    assert parts(session) == [("a", False)]
    feed(session, (PING, b"."), (CONT, b"b", False))
    assert parts(session) == [("b", False)]
    feed(session, (CONT, b"c"))
    assert parts(session) == [("c", True)]
    assert answers(session) == [(PONG, b".")]
    assert session.messages_received == 1


@both_roles
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("step", [1, 2, 7, 100])
def test_one_frame_is_handed_over_in_parts(client: bool, opcode: int, step: int) -> None:
    text = "streamed: ä€𝄞 " * 10
    session = new_session(client)
    session.stream()
    data = frame(opcode, text.encode(), key=peer_key(session))
    collected = []
    for start in range(0, len(data), step):
        session.receive_data(data[start : start + step])
        collected += parts(session)
    assert [final for _, final in collected] == [False] * (len(collected) - 1) + [True]
    whole = [part for part, _ in collected]
    if opcode == TEXT:
        assert "".join(whole) == text  # type: ignore[arg-type]
    else:
        assert b"".join(whole) == text.encode()  # type: ignore[arg-type]
    assert len(collected) >= len(text.encode()) // step // 4


def test_what_one_read_brings_is_one_part() -> None:
    session = new_session()
    session.stream()
    feed(session, (BINARY, b"a", False), (CONT, b"b", False), (CONT, b"c", False))
    assert parts(session) == [(b"abc", False)]


@pytest.mark.parametrize(("opcode", "empty"), [(TEXT, ""), (BINARY, b"")])
def test_an_empty_message_is_one_empty_part(opcode: int, empty: object) -> None:
    session = new_session()
    session.stream()
    feed(session, (opcode, b""))
    assert parts(session) == [(empty, True)]
    session.stream()
    feed(session, (opcode, b"", False), (CONT, b"", False))
    assert parts(session) == []
    feed(session, (CONT, b""))
    assert parts(session) == [(empty, True)]


def test_a_character_is_not_cut() -> None:
    session = new_session()
    session.stream()
    feed(session, (TEXT, b"a\xe2", False))
    feed(session, (CONT, b"\x82", False))
    assert parts(session) == [("a", False)]
    feed(session, (CONT, b"\xac", False))
    assert parts(session) == [("€", False)]
    feed(session, (CONT, b"\xf0\x9f", False))
    feed(session, (CONT, b""))
    failed_with(session, 1007)
    assert parts(session) == []


def test_streaming_ends_with_the_message() -> None:
    session = new_session()
    session.stream()
    feed(session, (TEXT, b"streamed"), (TEXT, b"whole"), (BINARY, b"a", False), (CONT, b"b"))
    fragment, *whole = taken(session)
    assert (fragment.data, fragment.final) == ("streamed", True)
    assert whole == ["whole", b"ab"]


@pytest.mark.parametrize("cut", [7, 8, 10, 200, 307])
@pytest.mark.parametrize(("opcode", "character"), [(TEXT, "a"), (TEXT, "é"), (BINARY, "é")])
def test_streaming_may_begin_in_the_middle_of_a_message(cut: int, opcode: int, character: str) -> None:
    text = character * (300 // len(character.encode()))
    data = frame(opcode, text.encode(), key=KEY)
    session = new_session()
    session.receive_data(data[:cut])
    session.stream()
    collected = parts(session)
    session.receive_data(data[cut:])
    collected += parts(session)
    joined = b"".join(part.encode() if isinstance(part, str) else part for part, _ in collected)  # type: ignore[misc]
    assert joined == text.encode()
    assert len(collected) == (1 if cut <= 8 else 2)


def test_streaming_does_not_begin_before_what_is_unread_is_taken() -> None:
    session = new_session()
    feed(session, (TEXT, b"unread"), (TEXT, b"a", False))
    session.stream()
    feed(session, (CONT, b"b", False))
    assert taken(session) == ["unread"]
    session.stream()
    assert parts(session) == [("ab", False)]


@pytest.mark.parametrize("step", [1, 1000])
def test_compressed_messages_are_inflated_as_they_come(step: int) -> None:
    text = "streamed: ä€𝄞 " * 100
    session = new_session(deflate=True)
    session.stream()
    compress = deflater()
    collected = []
    for data in [compress(text.encode()[:901], False), compress(text.encode()[901:])]:
        first = not collected
        wire = frame(TEXT if first else CONT, data, fin=not first, rsv=RSV1 if first else 0, key=KEY)
        for start in range(0, len(wire), step):
            session.receive_data(wire[start : start + step])
            collected += parts(session)
    assert "".join(str(part) for part, _ in collected) == text
    assert [final for _, final in collected].index(True) == len(collected) - 1


def test_max_size_holds_for_messages_that_are_streamed() -> None:
    session = new_session(max_size=10)
    session.stream()
    feed(session, (BINARY, bytes(6), False))
    feed(session, (CONT, bytes(4), False))
    feed(session, (CONT, bytes(1), False))
    session.drained()
    assert parts(session) == [(bytes(6), False), (bytes(4), False)]
    failed_with(session, 1009)


def test_parts_count_against_the_read_limit() -> None:
    session = new_session(read_limit=100)
    session.stream()
    feed(session, (BINARY, bytes(200), False))
    assert session.unread == 200
    assert feed(session, (CONT, bytes(10))) == 0
    assert parts(session) == [(bytes(200), False)]


def test_parts_of_a_frame_that_has_begun_are_kept_beyond_the_read_limit() -> None:
    session = new_session(read_limit=10)
    session.stream()
    data = frame(BINARY, bytes(range(200)), key=KEY)
    for start in range(0, len(data), 20):
        assert session.receive_data(data[start : start + 20]) == len(data[start : start + 20])
    assert b"".join(part for part, _ in parts(session)) == bytes(range(200))  # type: ignore[misc]


@both_roles
@pytest.mark.parametrize("together", [False, True])
def test_a_part_before_a_close_frame_is_delivered_before_it_is_answered(client: bool, together: bool) -> None:
    session = new_session(client)
    session.stream()
    frames = [(TEXT, b"part", False), (CLOSE, close_payload(1000))]
    for group in [frames] if together else [[each] for each in frames]:
        feed(session, *group)
    assert (session.phase_name, answers(session)) == ("CLOSE_RECEIVED", [])
    assert parts(session) == [("part", False)]
    session.drained()
    assert answers(session) == [(CLOSE, close_payload(1000))]


@both_roles
@pytest.mark.parametrize("together", [False, True])
def test_a_part_before_a_violation_is_delivered_before_the_close_frame(client: bool, together: bool) -> None:
    session = new_session(client)
    session.stream()
    frames = [(TEXT, b"part", False), (BINARY, b"")]
    for group in [frames] if together else [[each] for each in frames]:
        feed(session, *group)
    assert (session.phase_name, answers(session)) == ("FAILING", [])
    assert parts(session) == [("part", False)]
    session.drained()
    failed_with(session, 1002)


@pytest.mark.parametrize("together", [False, True])
def test_the_fragments_before_invalid_text_are_delivered(together: bool) -> None:
    session = new_session()
    session.stream()
    frames = [(TEXT, "ä€".encode()[:-1], False), (CONT, b"x", False)]
    for group in [frames] if together else [[each] for each in frames]:
        feed(session, *group)
    assert parts(session) == [("ä", False)]
    session.drained()
    failed_with(session, 1007)


# ---- abandoned streams ----


@pytest.mark.parametrize(("opcode", "whole"), [(TEXT, "abc"), (BINARY, b"abc")])
def test_a_stream_of_which_nothing_was_taken_becomes_a_whole_message(opcode: int, whole: object) -> None:
    session = new_session()
    session.stream()
    feed(session, (opcode, b"a", False))
    feed(session, (CONT, b"b", False))
    session.unstream(False)
    assert len(session) == 0
    feed(session, (CONT, b"c"), (TEXT, b"next"))
    assert taken(session) == [whole, "next"]


def test_a_stream_that_has_ended_and_of_which_nothing_was_taken() -> None:
    session = new_session()
    session.stream()
    feed(session, (TEXT, b"a", False))
    feed(session, (CONT, b"b"), (TEXT, b"next"), (BINARY, b"last"))
    session.unstream(False)
    assert taken(session) == ["ab", "next", b"last"]
    assert session.unread == 0


def test_the_rest_of_a_stream_is_forgotten_if_a_part_was_taken() -> None:
    session = new_session()
    session.stream()
    feed(session, (TEXT, b"a", False))
    feed(session, (CONT, b"b", False))
    assert session.take().data == "a"  # type: ignore[union-attr]
    session.unstream(True)
    assert len(session) == 0
    feed(session, (CONT, b"c", False))
    feed(session, (CONT, b"d"), (TEXT, b"next"))
    assert taken(session) == ["next"]
    assert session.messages_received == 2


def test_the_rest_of_a_stream_that_has_ended_is_forgotten() -> None:
    session = new_session()
    session.stream()
    feed(session, (TEXT, b"a", False))
    feed(session, (CONT, b"b", False))
    feed(session, (CONT, b"c"), (TEXT, b"next"))
    assert session.take().data == "a"  # type: ignore[union-attr]
    session.unstream(True)
    assert taken(session) == ["next"]
    session.stream()
    feed(session, (TEXT, b"streamed", False))
    assert parts(session) == [("streamed", False)]


def test_a_stream_that_has_not_begun() -> None:
    session = new_session()
    session.stream()
    session.unstream(False)
    feed(session, (TEXT, b"whole"))
    assert taken(session) == ["whole"]


def test_a_forgotten_message_still_has_to_be_right() -> None:
    session = new_session(max_size=10)
    session.stream()
    feed(session, (TEXT, b"a", False))
    session.take()
    session.unstream(True)
    feed(session, (CONT, b"\xff", False))
    failed_with(session, 1007)


def test_a_forgotten_message_holds_no_memory() -> None:
    session = new_session(max_size=None)
    session.stream()
    feed(session, (BINARY, b"a", False))
    session.take()
    session.unstream(True)
    for _ in range(100):
        feed(session, (CONT, bytes(10_000), False))
        assert (len(session), session.unread) == (0, 0)
    feed(session, (CONT, b""))
    assert taken(session) == []


def test_streaming_while_the_rest_of_another_message_is_forgotten() -> None:
    session = new_session()
    session.stream()
    feed(session, (BINARY, b"a", False))
    session.take()
    session.unstream(True)
    session.stream()
    feed(session, (CONT, b"b", False))
    feed(session, (CONT, b"c"))
    feed(session, (BINARY, b"next"))
    assert taken(session) == [b"next"]


def test_a_stream_abandoned_inside_a_character_becomes_whole() -> None:
    session = new_session()
    session.stream()
    feed(session, (TEXT, b"a\xe2\x82", False))
    session.unstream(False)
    feed(session, (CONT, b"\xac", False))
    feed(session, (CONT, b"!"))
    assert taken(session) == ["a€!"]


def test_a_compressed_stream_abandoned_in_the_middle() -> None:
    for take in [False, True]:
        session = new_session(deflate=True)
        compress = deflater()
        session.stream()
        feed(session, Frame(TEXT, compress("ä".encode() * 100, False), fin=False, rsv=RSV1))
        if take:
            session.take()
        session.unstream(take)
        feed(session, Frame(CONT, compress(b"rest")), Frame(TEXT, compress(b"rest"), rsv=RSV1))
        assert taken(session) == (["rest"] if take else ["ä" * 100 + "rest", "rest"])


# -- a reader that passes everything on ------------------------------------------------------------------------


@both_roles
def test_what_is_at_hand_at_once_stays_whole(client: bool) -> None:
    session = new_session(client)
    session.stream_all()
    feed(session, (TEXT, b"one"), (BINARY, b""), (TEXT, b"two"))
    assert taken(session) == ["one", b"", "two"]


@both_roles
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_every_long_message_comes_in_parts_whatever_is_untaken(client: bool, opcode: int) -> None:
    session = new_session(client)
    session.stream_all()
    feed(session, (opcode, b"whole"))
    for _ in range(2):
        data = frame(opcode, b"abcdef", key=peer_key(session))
        session.receive_data(data[:-4])
        session.receive_data(data[-4:-1])
        session.receive_data(data[-1:])
    whole, *rest = taken(session)
    assert whole == ("whole" if opcode == TEXT else b"whole")
    assert [(each.data, each.final) for each in rest] == [
        (part if opcode == TEXT else part.encode(), final)
        for part, final in [("ab", False), ("cde", False), ("f", True)] * 2
    ]


@both_roles
def test_a_message_under_way_goes_on_in_parts(client: bool) -> None:
    session = new_session(client)
    feed(session, (TEXT, b"earlier"), (TEXT, "aä".encode()[:2], False))
    session.stream_all()
    assert session.take() == "earlier"
    assert parts(session) == [("a", False)]
    feed(session, (CONT, "ä".encode()[1:], False))
    feed(session, (CONT, b""))
    assert parts(session) == [("ä", False), ("", True)]


@both_roles
def test_a_small_bomb_passed_on_never_holds_more_than_the_limit_and_one_step(client: bool) -> None:
    """A reader that takes parts may do without ``max_size``: what 64 KiB inflate to is not all there at a time."""
    session = new_session(client, deflate=True, max_size=None, read_limit=1 << 16)
    session.stream_all()
    size = 64 << 20
    bomb = deflater()(bytes(size))
    data = frame(BINARY, bomb, rsv=RSV1, key=peer_key(session))
    got, most, final = 0, 0, False
    while data or len(session):
        data = data[session.receive_data(data) :]
        most = max(most, session.unread)
        while (part := session.take()) is not None:
            assert isinstance(part, Fragment)
            assert isinstance(part.data, bytes)
            got += len(part.data)
            final = part.final
    assert (got, final) == (size, True)
    assert session.bytes_received == len(frame(BINARY, bomb, key=peer_key(session)))
    assert 1 << 16 < most < 5 << 20
