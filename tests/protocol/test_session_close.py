"""The closing handshake and its codes: RFC 6455, 5.5.1, 7.1 and 7.4."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from protocol.wire import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    answers,
    both_roles,
    close_payload,
    failed_with,
    feed,
    new_session,
    taken,
    wire,
)

from taut.errors import ConnectionClosedError, ConnectionClosedOK, ProtocolError
from taut.protocol.session import Session, cut_reason, valid_close_code
from taut.types import CloseInfo, Initiator

SENDABLE = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
EDGES = [
    0,
    1,
    999,
    1000,
    1003,
    1004,
    1005,
    1006,
    1007,
    1011,
    1014,
    1015,
    1016,
    1100,
    2000,
    2999,
    3000,
    4999,
    5000,
    65535,
]


def info(session: Session) -> CloseInfo:
    assert session.close_info is not None
    return session.close_info


# ---- codes (7.4) ----


def test_7_4_every_code_is_valid_or_not() -> None:
    assert {code for code in range(-10, 70000) if valid_close_code(code)} == SENDABLE


@both_roles
def test_7_4_every_code_that_a_peer_may_send_is_taken_and_echoed(client: bool) -> None:
    for code in SENDABLE:
        session = new_session(client)
        feed(session, (CLOSE, close_payload(code, "why")))
        assert answers(session) == [(CLOSE, close_payload(code))]
        assert info(session) == CloseInfo(Initiator.REMOTE, code, "why", clean=True)


@both_roles
def test_7_4_no_other_code_is_taken(client: bool) -> None:
    for code in [*range(1100), *range(2990, 3000), *range(5000, 5010), 65535]:
        if code not in SENDABLE:
            session = new_session(client)
            feed(session, (CLOSE, close_payload(code)))
            assert failed_with(session, 1002) == f"invalid close code {code}"


@both_roles
@pytest.mark.parametrize("code", EDGES)
def test_7_4_1_reserved_codes_are_never_sent(client: bool, code: int) -> None:
    session = new_session(client)
    if code in SENDABLE:
        session.close(code)
        assert answers(session) == [(CLOSE, close_payload(code))]
    else:
        with pytest.raises(ValueError, match=f"close code must be 1000-1003, 1007-1014 or 3000-4999, not {code}"):
            session.close(code)
        assert (session.phase_name, answers(session)) == ("OPEN", [])


@pytest.mark.parametrize("wrong", [1 << 40, -(1 << 80), True, 1000.0, "1000", None])
def test_7_4_1_what_is_no_code_is_refused(wrong: object) -> None:
    session = new_session()
    with pytest.raises(ValueError, match=f"not {wrong!r}$"):
        session.close(wrong)  # type: ignore[arg-type]
    assert (session.phase_name, answers(session), session.close_info) == ("OPEN", [], None)


# ---- 5.5.1 and 7.1: the handshake ----


@both_roles
def test_5_5_1_a_close_frame_is_answered_by_a_close_frame(client: bool) -> None:
    session = new_session(client)
    feed(session, (CLOSE, close_payload(1001, "going")))
    assert session.phase_name == "CLOSED"
    assert answers(session) == [(CLOSE, close_payload(1001))]


@both_roles
def test_5_5_1_a_body_has_a_code(client: bool) -> None:
    session = new_session(client)
    feed(session, (CLOSE, b"\x03"))
    assert failed_with(session, 1002) == "a close frame has a payload of 1 byte"


@both_roles
def test_7_1_5_an_empty_close_frame_is_1005_and_echoed_empty(client: bool) -> None:
    session = new_session(client)
    feed(session, (CLOSE, b""))
    assert answers(session) == [(CLOSE, b"")]
    assert session.close_received == session.close_sent == (1005, "")
    assert info(session) == CloseInfo(Initiator.REMOTE, 1005, "", clean=True)
    assert info(session).ok


@both_roles
def test_7_1_5_a_close_frame_without_a_code_may_be_sent(client: bool) -> None:
    session = new_session(client)
    session.close_without_code()
    session.close_without_code()
    session.close(1011)
    assert (session.phase_name, answers(session)) == ("CLOSE_SENT", [(CLOSE, b"")])
    feed(session, (CLOSE, b""))
    assert info(session) == CloseInfo(Initiator.LOCAL, 1005, "", clean=True)


@both_roles
def test_7_1_6_a_reason_is_utf8(client: bool) -> None:
    session = new_session(client)
    feed(session, (CLOSE, close_payload(1000, "ä€𝄞")))
    assert session.close_received == (1000, "ä€𝄞")
    for wrong in [b"\xff", b"ok\xc3", b"\xed\xa0\x80"]:
        session = new_session(client)
        feed(session, (CLOSE, close_payload(1000, wrong)))
        assert failed_with(session, 1007) == "invalid UTF-8 in a close reason"
        assert session.close_received is None


@both_roles
def test_5_5_1_nothing_is_sent_after_a_close_frame(client: bool) -> None:
    session = new_session(client)
    session.close(1000, "bye")
    senders: list[Callable[[], object]] = [
        lambda: session.send("x"),
        lambda: session.send_fragment("x", text=True, first=True, final=True),
        lambda: session.ping(b"", 0.0),
        lambda: session.pong(b""),
    ]
    for send in senders:
        with pytest.raises(ConnectionClosedError) as caught:
            send()
        assert (caught.value.code, caught.value.reason) == (1000, "bye")
    feed(session, (PING, b"not answered"))
    session.close(1001, "again")
    assert answers(session) == [(CLOSE, close_payload(1000, "bye"))]
    feed(session, (CLOSE, close_payload(1000)))
    with pytest.raises(ConnectionClosedOK):
        session.send("x")
    assert answers(session) == []


@both_roles
def test_7_1_2_and_7_1_4_this_side_starts_the_closing_handshake(client: bool) -> None:
    session = new_session(client)
    session.close(4000, "ours")
    assert answers(session) == [(CLOSE, close_payload(4000, "ours"))]
    assert session.phase_name == "CLOSE_SENT"
    assert info(session) == CloseInfo(Initiator.LOCAL, 4000, "ours", clean=False)
    feed(session, (CLOSE, close_payload(4000)))
    assert (session.phase_name, answers(session)) == ("CLOSED", [])
    assert info(session) == CloseInfo(Initiator.LOCAL, 4000, "ours", clean=True)


@both_roles
def test_7_1_3_both_sides_close_at_the_same_time(client: bool) -> None:
    session = new_session(client)
    session.close(1001, "ours")
    session.take_output()
    feed(session, (CLOSE, close_payload(4001, "theirs")))
    assert (session.phase_name, answers(session)) == ("CLOSED", [])
    assert info(session) == CloseInfo(Initiator.LOCAL, 1001, "ours", clean=True)
    assert session.close_received == (4001, "theirs")


@both_roles
def test_1_4_data_after_a_close_frame_is_discarded(client: bool) -> None:
    session = new_session(client)
    used = feed(session, (CLOSE, close_payload(1000)), (TEXT, b"late"), (PING, b"late"), b"\xff" * 20)
    assert used == session.bytes_received
    assert feed(session, b"\xff" * 20, (TEXT, b"later")) == session.bytes_received - used
    assert (taken(session), answers(session)) == ([], [(CLOSE, close_payload(1000))])
    assert info(session).code == 1000


@both_roles
def test_5_4_a_close_frame_in_the_middle_of_a_message(client: bool) -> None:
    session = new_session(client)
    feed(session, (TEXT, b"a", False), (CLOSE, close_payload(1000)))
    assert (taken(session), answers(session)) == ([], [(CLOSE, close_payload(1000))])
    assert info(session).clean


# ---- what came before is delivered, and answered, before the Close frame ----


@both_roles
def test_messages_before_a_close_frame_are_answered_before_it_is(client: bool) -> None:
    session = new_session(client)
    feed(session, (TEXT, b"1"), (PING, b"p"), (TEXT, b"2"), (CLOSE, close_payload(1000, "bye")), (TEXT, b"late"))
    assert (session.phase_name, len(session)) == ("CLOSE_RECEIVED", 2)
    assert info(session) == CloseInfo(Initiator.REMOTE, 1000, "bye", clean=False)
    while (message := session.take()) is not None:
        session.send(f"answer to {message}")
    session.drained()
    assert answers(session) == [
        (PONG, b"p"),
        (TEXT, b"answer to 1"),
        (TEXT, b"answer to 2"),
        (CLOSE, close_payload(1000)),
    ]
    assert session.phase_name == "CLOSED"
    assert info(session) == CloseInfo(Initiator.REMOTE, 1000, "bye", clean=True)


@both_roles
def test_messages_before_a_violation_are_answered_before_the_close_frame(client: bool) -> None:
    session = new_session(client)
    feed(session, (TEXT, b"1"), (PING, b"p"), (TEXT, b"2"), (CONT, b""), (TEXT, b"late"))
    assert (session.phase_name, len(session)) == ("FAILING", 2)
    while (message := session.take()) is not None:
        session.send(f"answer to {message}")
    session.drained()
    reason = "a continuation frame without a message to continue"
    assert answers(session) == [
        (PONG, b"p"),
        (TEXT, b"answer to 1"),
        (TEXT, b"answer to 2"),
        (CLOSE, close_payload(1002, reason)),
    ]
    assert (info(session).code, info(session).reason, info(session).clean) == (1002, reason, False)


@both_roles
@pytest.mark.parametrize("ending", [(CLOSE, close_payload(1000)), (CONT, b"")])
def test_close_completes_what_waits_for_unread_messages(client: bool, ending: tuple[int, bytes]) -> None:
    session = new_session(client)
    feed(session, (TEXT, b"unread"), ending)
    session.close(4000, "not sent: the peer's is answered")
    ((opcode, payload),) = answers(session)
    assert (opcode, payload[:2]) == (CLOSE, close_payload(1000 if ending[0] == CLOSE else 1002))
    assert (session.phase_name, taken(session)) == ("CLOSED", ["unread"])


def test_drained_does_nothing_while_nothing_waits() -> None:
    session = new_session()
    session.drained()
    session.send("open")
    session.close()
    session.drained()
    assert session.phase_name == "CLOSE_SENT"
    assert [opcode for opcode, _ in answers(session)] == [TEXT, CLOSE]


@both_roles
def test_messages_are_received_until_the_peer_closes_too(client: bool) -> None:
    session = new_session(client)
    session.close()
    feed(session, (TEXT, b"on its way"), (BINARY, b"already"), (CLOSE, close_payload(1000)))
    assert taken(session) == ["on its way", b"already"]


@both_roles
def test_the_read_limit_holds_after_our_close_frame(client: bool) -> None:
    session = new_session(client, read_limit=100)
    session.close()
    message, end = (wire(session, each) for each in [(BINARY, bytes(200)), (CLOSE, close_payload(1000))])
    assert session.receive_data(message + end) == len(message)
    assert taken(session) == [bytes(200)]
    session.receive_data(end)
    assert info(session).clean


@both_roles
def test_once_nobody_reads_messages_over_the_read_limit_are_dropped(client: bool) -> None:
    session = new_session(client, read_limit=100)
    session.close()
    session.drop_unread()
    messages = [(BINARY, bytes(80)), (BINARY, bytes(81)), *((BINARY, bytes(82)) for _ in range(50))]
    used = feed(session, *messages, (CLOSE, close_payload(1000)))
    assert used == session.bytes_received
    assert session.phase_name == "CLOSED"
    assert [len(each) for each in taken(session)] == [80, 81]
    assert info(session).clean


# ---- reasons (5.5: at most 123 bytes) ----


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("", ""),
        ("a" * 123, "a" * 123),
        ("a" * 124, "a" * 123),
        ("é" * 61, "é" * 61),
        ("é" * 62, "é" * 61),
        ("a" * 121 + "€", "a" * 121),
        ("a" * 120 + "€", "a" * 120 + "€"),
        ("a" * 120 + "𝄞", "a" * 120),
        ("a" * 119 + "𝄞b", "a" * 119 + "𝄞"),
        ("lone \ud800 surrogate", "lone ? surrogate"),
    ],
)
def test_reasons_are_cut_on_a_character_boundary(reason: str, kept: str) -> None:
    assert cut_reason(reason) == kept
    session = new_session()
    session.close(1000, reason)
    assert session.close_sent == (1000, kept)
    assert answers(session) == [(CLOSE, close_payload(1000, kept))]


def test_the_reason_of_a_failure_is_cut_too() -> None:
    session = new_session()
    session.fail(ProtocolError("ä" * 100, 1008))
    assert failed_with(session, 1008) == "ä" * 61
    assert info(session).reason == "ä" * 100
