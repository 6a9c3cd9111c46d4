"""How connections end without a complete closing handshake (RFC 6455, 7.1.5, 7.1.7), and what ``close_info`` says."""

from __future__ import annotations

from protocol.wire import (
    CLOSE,
    CONT,
    PING,
    TEXT,
    answers,
    both_roles,
    close_payload,
    failed_with,
    feed,
    new_session,
    taken,
)

from taut.errors import ProtocolError
from taut.protocol.session import Session
from taut.types import CloseInfo, Initiator


def info(session: Session) -> CloseInfo:
    assert session.close_info is not None
    return session.close_info


# ---- 7.1.7: fail the connection ----


@both_roles
def test_7_1_7_nothing_is_processed_after_a_failure(client: bool) -> None:
    session = new_session(client)
    used = feed(session, (CONT, b""), (TEXT, b"late"), (PING, b"late"), (CLOSE, close_payload(1000)))
    assert used == session.bytes_received
    feed(session, (CLOSE, close_payload(1000)))
    assert taken(session) == []
    failed_with(session, 1002)
    assert (session.close_received, info(session).clean) == (None, False)


@both_roles
def test_7_1_7_a_violation_after_our_close_frame_sends_no_second_one(client: bool) -> None:
    session = new_session(client)
    session.close(1000)
    session.take_output()
    feed(session, (CONT, b""))
    assert (session.phase_name, answers(session)) == ("CLOSED", [])
    assert (info(session).initiator, info(session).code, info(session).clean) == (Initiator.LOCAL, 1002, False)
    assert isinstance(info(session).cause, ProtocolError)


def test_fail_ends_the_connection_with_messages_unread() -> None:
    session = new_session()
    feed(session, (TEXT, b"unread"))
    exc = ProtocolError("too slow", 1008)
    session.fail(exc)
    assert failed_with(session, 1008) == "too slow"
    assert info(session) == CloseInfo(Initiator.LOCAL, 1008, "too slow", clean=False, cause=exc)
    assert session.cause is exc
    assert taken(session) == ["unread"]


def test_the_first_failure_is_the_one_that_counts() -> None:
    session = new_session()
    feed(session, (TEXT, b"unread"), (CONT, b""))
    session.fail(ProtocolError("another", 1008))
    failed_with(session, 1002)


# ---- the end of the byte stream ----


@both_roles
def test_7_1_5_without_a_close_frame_the_code_is_1006(client: bool) -> None:
    session = new_session(client)
    session.receive_eof()
    assert session.phase_name == "CLOSED"
    assert info(session) == CloseInfo(Initiator.NETWORK, 1006, "", clean=False)
    assert answers(session) == []


def test_the_cause_of_a_lost_connection_is_kept() -> None:
    session = new_session()
    cause = ConnectionResetError("gone")
    session.receive_eof(cause)
    session.receive_eof(OSError("again"))
    assert info(session) == CloseInfo(Initiator.NETWORK, 1006, "", clean=False, cause=cause)


def test_the_end_of_bytes_before_the_peer_has_closed() -> None:
    session = new_session()
    session.close(1001, "ours")
    session.receive_eof()
    assert info(session) == CloseInfo(Initiator.LOCAL, 1006, "", clean=False)


def test_the_end_of_bytes_before_our_answer_to_a_close_frame() -> None:
    session = new_session()
    feed(session, (TEXT, b"unread"), (CLOSE, close_payload(1001, "theirs")))
    session.receive_eof()
    assert info(session) == CloseInfo(Initiator.REMOTE, 1001, "theirs", clean=False)
    session.drained()
    assert (answers(session), taken(session)) == ([], ["unread"])


def test_the_end_of_bytes_before_our_close_frame_for_a_violation() -> None:
    session = new_session()
    feed(session, (TEXT, b"unread"), (CONT, b""))
    session.receive_eof(OSError("gone"))
    assert (info(session).initiator, info(session).code, info(session).clean) == (Initiator.LOCAL, 1002, False)
    assert isinstance(info(session).cause, ProtocolError)
    assert answers(session) == []


def test_the_end_of_bytes_after_a_clean_close_changes_nothing() -> None:
    session = new_session()
    feed(session, (CLOSE, close_payload(1000)))
    before = info(session)
    session.receive_eof(OSError("gone"))
    assert info(session) == before


def test_a_byte_stream_that_this_side_drops() -> None:
    session = new_session()
    session.give_up()
    assert session.close_info is None
    session.receive_eof()
    assert info(session) == CloseInfo(Initiator.LOCAL, 1006, "", clean=False)


def test_who_ended_the_connection_does_not_change() -> None:
    session = new_session()
    feed(session, (TEXT, b"unread"), (CLOSE, close_payload(1001)))
    session.give_up()
    session.receive_eof()
    assert info(session) == CloseInfo(Initiator.REMOTE, 1001, "", clean=False)
