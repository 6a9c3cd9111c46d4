"""Pings and pongs (RFC 6455, 5.5.2 and 5.5.3), and how a silent peer is given up."""

from __future__ import annotations

import pytest
from protocol.wire import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    answers,
    both_roles,
    close_payload,
    failed_with,
    feed,
    new_session,
    peer_key,
    taken,
)
from protocol.wire import (
    frame as bare_frame,
)

from taut.protocol.session import Session

PAYLOADS = [b"", b"x", bytes(range(125))]


def started(**options: object) -> Session:
    """A session at 100 s that pings after 10 s of silence and gives up 5 s later."""
    return new_session(now=100.0, **{"ping_interval": 10.0, "ping_timeout": 5.0, **options})


def tick(session: Session, now: float, **conditions: float) -> list[bytes]:
    """Let the time be ``now`` and return the payloads of the pings that are sent."""
    session.tick(now, **conditions)
    if session.phase_name != "OPEN":
        return []
    frames = answers(session)
    assert all(opcode == PING for opcode, _ in frames)
    return [payload for _, payload in frames]


# ---- 5.5.2: pings are answered ----


@both_roles
@pytest.mark.parametrize("payload", PAYLOADS)
def test_5_5_2_a_ping_is_answered_by_a_pong(client: bool, payload: bytes) -> None:
    session = new_session(client)
    feed(session, (PING, payload))
    assert answers(session) == [(PONG, payload)]
    assert taken(session) == []


@both_roles
def test_5_5_2_a_ping_after_a_close_frame_is_not_answered(client: bool) -> None:
    session = new_session(client)
    feed(session, (CLOSE, b""), (PING, b"x"))
    assert answers(session) == [(CLOSE, b"")]


@both_roles
def test_5_5_2_pings_are_answered_while_messages_are_unread(client: bool) -> None:
    session = new_session(client)
    feed(session, *((TEXT, b"unread") for _ in range(1000)), (PING, b"still here?"))
    assert answers(session) == [(PONG, b"still here?")]


@both_roles
def test_5_5_3_only_the_latest_ping_is_answered_while_output_is_blocked(client: bool) -> None:
    session = new_session(client)
    feed(session, (PING, b"0"))
    session.block_output(True)
    assert answers(session) == [(PONG, b"0")]
    feed(session, (PING, b"1"), (PING, b"2"))
    feed(session, (PING, b"3"))
    assert answers(session) == []
    session.block_output(False)
    assert answers(session) == [(PONG, b"3")]
    session.block_output(False)
    assert answers(session) == []
    feed(session, (PING, b"4"))
    assert answers(session) == [(PONG, b"4")]


def test_5_5_3_a_flood_of_pings_piles_nothing_up() -> None:
    session = new_session()
    session.block_output(True)
    feed(session, *((PING, b"%d" % i) for i in range(10_000)))
    session.block_output(False)
    assert answers(session) == [(PONG, b"9999")]


@both_roles
def test_a_ping_that_waited_is_not_answered_after_a_close_frame(client: bool) -> None:
    session = new_session(client)
    session.block_output(True)
    feed(session, (PING, b"1"))
    session.close()
    session.block_output(False)
    assert answers(session) == [(CLOSE, close_payload(1000))]


@both_roles
def test_5_5_3_an_unsolicited_pong_needs_no_answer(client: bool) -> None:
    session = new_session(client)
    feed(session, (PONG, b""), (PONG, b"never asked"))
    assert (answers(session), session.take_events()) == ([], [])


# ---- pings of this side ----


@both_roles
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_ping_and_its_round_trip(client: bool, payload: bytes) -> None:
    session = new_session(client)
    session.ping(payload, 10.0)
    assert answers(session) == [(PING, payload)]
    feed(session, (PONG, payload), now=10.25)
    assert session.take_events() == [(PONG, payload, 0.25)]
    assert session.latency == 0.25
    assert session.take_events() == []


def test_5_5_3_a_pong_answers_the_pings_sent_before_too() -> None:
    session = new_session()
    for i in range(4):
        session.ping(b"%d" % i, float(i))
    feed(session, (PONG, b"2"), now=10.0)
    assert session.take_events() == [(PONG, b"0", 10.0), (PONG, b"1", 9.0), (PONG, b"2", 8.0)]
    assert session.latency == 8.0
    feed(session, (PONG, b"1"), (PONG, b"3"), now=11.0)
    assert session.take_events() == [(PONG, b"3", 8.0)]


def test_a_pong_of_another_payload_answers_nothing() -> None:
    session = new_session()
    session.ping(b"a", 0.0)
    feed(session, (PONG, b""), (PONG, b"b"), (PONG, b"aa"))
    assert session.take_events() == []
    feed(session, (PONG, b"a"), now=1.0)
    assert session.take_events() == [(PONG, b"a", 1.0)]


def test_a_payload_is_in_use_until_its_pong() -> None:
    session = new_session()
    session.ping(b"a", 0.0)
    with pytest.raises(ValueError, match="a ping with the payload b'a' is already waiting"):
        session.ping(b"a", 1.0)
    feed(session, (PONG, b"a"), now=2.0)
    session.ping(b"a", 3.0)
    feed(session, (PONG, b"a"), now=4.5)
    assert session.take_events() == [(PONG, b"a", 2.0), (PONG, b"a", 1.5)]
    assert answers(session) == [(PING, b"a")] * 2


@pytest.mark.parametrize("name", ["ping", "pong"])
def test_5_5_this_side_sends_no_control_frame_over_125_bytes(name: str) -> None:
    session = new_session()
    with pytest.raises(ValueError, match=f"a {name} carries at most 125 bytes, not 126"):
        session.ping(bytes(126), 0.0) if name == "ping" else session.pong(bytes(126))
    assert answers(session) == []
    feed(session, (PONG, bytes(125)))
    assert session.take_events() == []


@both_roles
def test_an_unsolicited_pong_of_this_side(client: bool) -> None:
    session = new_session(client)
    session.pong(b"heartbeat")
    assert answers(session) == [(PONG, b"heartbeat")]


def test_control_frames_are_told_when_they_are_observed() -> None:
    session = new_session()
    session.observe_control(True)
    session.ping(b"ours", 1.0)
    feed(session, (PING, b"a"), (PONG, b"b"), (PONG, b"ours"), now=3.0)
    assert session.take_events() == [(PING, b"a", -1.0), (PONG, b"b", -1.0), (PONG, b"ours", 2.0)]
    session.observe_control(False)
    feed(session, (PING, b"a"), (PONG, b"b"))
    assert session.take_events() == []


# ---- keepalive ----


def test_a_silent_peer_is_pinged_and_then_given_up() -> None:
    session = started()
    assert session.next_deadline() == 110.0
    assert tick(session, 109.9) == []
    (payload,) = tick(session, 110.0)
    assert session.next_deadline() == 115.0
    assert tick(session, 114.9) == []
    session.tick(115.0)
    assert failed_with(session, 1011) == "no sign of life for 15 s after a ping"
    assert session.next_deadline() is None
    session.tick(200.0)
    assert (answers(session), len(payload)) == ([], 8)


def test_a_pong_keeps_the_connection_and_tells_the_round_trip() -> None:
    session = started()
    (first,) = tick(session, 110.0)
    feed(session, (PONG, first), now=110.5)
    assert session.latency == 0.5
    assert tick(session, 111.0) == []
    assert session.next_deadline() == 121.0
    assert tick(session, 120.9) == []
    (second,) = tick(session, 121.0)
    assert second != first


@pytest.mark.parametrize("part", [1, 3, 7])
def test_any_byte_proves_that_the_peer_is_alive(part: int) -> None:
    """A large message that takes long: its bytes are a sign of life, and nobody has to receive it."""
    session = started()
    data = bare_frame(BINARY, bytes(1000), key=peer_key(session))
    assert len(tick(session, 110.0)) == 1
    for i in range(20):
        session.receive_data(data[i * part : (i + 1) * part])
        assert tick(session, 114.0 + 5 * i) == []
    assert session.phase_name == "OPEN"
    assert len(tick(session, 300.0)) == 1


def test_nothing_is_no_sign_of_life() -> None:
    session = started()
    assert len(tick(session, 110.0)) == 1
    session.receive_data(b"")
    session.tick(115.0)
    assert session.phase_name == "CLOSED"


def test_strict_pongs_insist_on_a_pong() -> None:
    session = started(strict_pongs=True)
    feed(session, (TEXT, b"alive"), (PING, b""), now=109.0)
    session.take_output()
    (payload,) = tick(session, 110.0)
    feed(session, (TEXT, b"alive"), now=112.0)
    assert tick(session, 114.0) == []
    feed(session, (PONG, payload), now=114.0)
    assert tick(session, 115.0) == []
    (payload,) = tick(session, 125.0)
    feed(session, (TEXT, b"alive"), (TEXT, b"alive"), now=129.0)
    session.tick(130.0)
    failed_with(session, 1011)


def test_no_deadline_runs_while_reading_is_paused() -> None:
    session = started()
    for now in range(101, 200):
        assert tick(session, float(now), paused=True) == []
    assert session.next_deadline() == 209.0
    assert len(tick(session, 209.0)) == 1
    assert tick(session, 214.0, paused=True) == []
    assert tick(session, 223.9) == []
    assert len(tick(session, 224.0)) == 1


def test_no_deadline_runs_while_the_program_stalls() -> None:
    session = started()
    assert tick(session, 130.0, stalled=25.0) == []
    assert session.next_deadline() == 135.0
    assert len(tick(session, 135.0)) == 1
    assert tick(session, 180.0, stalled=41.0) == []
    assert session.next_deadline() == 181.0
    session.tick(181.0)
    assert session.phase_name == "CLOSED"


def test_a_sweep_may_ping_early_by_its_slack() -> None:
    session = started()
    assert tick(session, 108.9, slack=1.0) == []
    assert len(tick(session, 109.0, slack=1.0)) == 1
    assert tick(session, 113.9, slack=1.0) == []
    assert session.phase_name == "OPEN"
    session.tick(114.0, 1.0)
    assert session.phase_name == "CLOSED"


def test_without_an_interval_there_are_no_deadlines() -> None:
    session = started(ping_interval=None)
    assert session.next_deadline() is None
    assert tick(session, 1e9) == []


def test_without_a_timeout_nobody_is_given_up() -> None:
    session = started(ping_timeout=None)
    assert len(tick(session, 110.0)) == 1
    assert session.next_deadline() is None
    assert tick(session, 1e9) == []
    feed(session, (TEXT, b"back"))
    assert tick(session, 1e9 + 1) == []
    assert session.next_deadline() == 1e9 + 11
    assert len(tick(session, 1e9 + 11)) == 1


def test_keepalive_ends_with_the_connection() -> None:
    session = started()
    session.close()
    session.take_output()
    assert session.next_deadline() is None
    session.tick(1e9)
    assert (session.phase_name, answers(session)) == ("CLOSE_SENT", [])


def test_messages_before_the_peer_was_given_up_can_be_taken() -> None:
    session = started()
    feed(session, (TEXT, b"last words"), now=100.0)
    assert tick(session, 101.0) == []
    assert len(tick(session, 111.0)) == 1
    session.tick(116.0)
    failed_with(session, 1011)
    assert taken(session) == ["last words"]


def test_keepalive_payloads_differ_from_those_that_wait() -> None:
    session = started()
    session.ping(b"taut\0\0\0\1", 100.0)
    session.take_output()
    assert tick(session, 110.0) == [b"taut\0\0\0\2"]
    feed(session, (PONG, b"taut\0\0\0\2"), now=111.0)
    assert [payload for _, payload, _ in session.take_events()] == [b"taut\0\0\0\1", b"taut\0\0\0\2"]


def test_a_peer_that_never_pongs_but_lives_costs_no_memory() -> None:
    session = started()
    pings = []
    now = 100.0
    for _ in range(1000):
        now += 10.0
        pings += tick(session, now)
        feed(session, (TEXT, b"alive"))
        assert tick(session, now) == []
        session.take()
    assert len(set(pings)) == 1000
    feed(session, (PONG, pings[-1]), now=now)
    assert len(session.take_events()) == 1
