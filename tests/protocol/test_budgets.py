"""Budgets: how fast a peer may send, by the clock of whoever reads."""

from __future__ import annotations

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
    failed_with,
    feed,
    new_session,
    sent,
    taken,
)

from taut.errors import RateExceeded
from taut.protocol.budgets import NAMES
from taut.protocol.session import Session
from taut.types import ConnectionOptions, RateLimits

SMALL = b"x" * 63
LARGE = b"x" * 64


def exceeded(session: Session, budget: str, rate: float) -> None:
    """Check that the session was failed with 1008 over this budget."""
    assert failed_with(session, 1008) == f"more than {rate:g} {budget} per second (rate_limits)"
    assert isinstance(session.cause, RateExceeded)
    assert (session.cause.budget, session.cause.rate, session.cause.code) == (budget, rate, 1008)


def test_the_budgets_are_those_of_the_record() -> None:
    assert {*NAMES, "burst"} == set(RateLimits.__dataclass_fields__)
    assert ConnectionOptions().rate_limits == RateLimits()


@both_roles
def test_a_burst_of_messages_is_exact(client: bool) -> None:
    """So many pass, whole or fragmented; one more does not, and what came before it is delivered."""
    session = new_session(client, rate_limits=RateLimits(messages=10, burst=2))
    feed(session, *[(BINARY, b"")] * 18, (TEXT, b"a", False), (CONT, b"b", False), (CONT, b"c"), (BINARY, b"last"))
    assert session.phase_name == "OPEN"
    feed(session, (BINARY, b"one too many"))
    assert session.phase_name == "FAILING"
    assert taken(session) == [b""] * 18 + ["abc", b"last"]
    session.drained()
    exceeded(session, "messages", 10)


@both_roles
def test_time_fills_the_bucket_and_no_further_than_the_burst(client: bool) -> None:
    session = new_session(client, rate_limits=RateLimits(messages=10, burst=2), now=100.0)
    feed(session, *[(BINARY, b"")] * 20, now=100.5)
    feed(session, *[(BINARY, b"")] * 5, now=101.0)
    feed(session, *[(BINARY, b"")] * 10, now=102.0)
    feed(session, *[(BINARY, b"")] * 20, now=1000.0)
    assert len(taken(session)) == 55
    assert session.phase_name == "OPEN"
    feed(session, *[(BINARY, b"")] * 2, now=1000.15)
    assert len(taken(session)) == 1
    session.drained()
    exceeded(session, "messages", 10)


def test_a_clock_that_stands_still_fills_nothing() -> None:
    session = new_session(rate_limits=RateLimits(messages=1, burst=2), now=5.0)
    for now in (5.0, 5.0, 4.0):
        feed(session, (BINARY, b""), now=now)
    assert len(taken(session)) == 2
    session.drained()
    exceeded(session, "messages", 1)


@both_roles
def test_bytes_are_counted_as_they_are_received(client: bool) -> None:
    """Heads included: 2 bytes, and 4 of a client's masking key."""
    size = 8 if client else 12
    session = new_session(client, rate_limits=RateLimits(bytes=10 * size, burst=1))
    feed(session, *[(BINARY, b"123456")] * 9)
    feed(session, (PING, b"123456"))
    assert session.phase_name == "OPEN"
    assert answers(session) == [(PONG, b"123456")]
    assert len(taken(session)) == 9
    feed(session, (BINARY, b""))
    session.drained()
    exceeded(session, "bytes", 10 * size)


def test_a_frame_larger_than_the_burst_is_refused_at_its_head() -> None:
    session = new_session(rate_limits=RateLimits(bytes=100, burst=1))
    feed(session, (BINARY, b"x" * 95))
    session.drained()
    exceeded(session, "bytes", 100)


@both_roles
@pytest.mark.parametrize("opcode", [PING, PONG])
def test_control_frames_have_a_budget_by_default(client: bool, opcode: int) -> None:
    session = new_session(client)
    feed(session, *[(opcode, b"x")] * 10_000, (BINARY, b"before"))
    assert session.phase_name == "OPEN"
    assert len(sent(session)) == (10_000 if opcode == PING else 0)
    feed(session, (opcode, b"x"), (BINARY, b"behind"))
    assert taken(session) == [b"before"]
    session.drained()
    exceeded(session, "control_frames", 2000)


def test_a_close_frame_counts_as_a_control_frame_and_messages_do_not() -> None:
    session = new_session(rate_limits=RateLimits(control_frames=1, burst=1))
    feed(session, *[(BINARY, b"")] * 100, (CLOSE, b""))
    assert len(taken(session)) == 100
    session.drained()
    assert session.close_info.ok  # type: ignore[union-attr]


@both_roles
def test_small_fragments_have_a_budget_by_default(client: bool) -> None:
    session = new_session(client, max_fragments=None)
    feed(session, (BINARY, b"", False), *[(CONT, b"", False)] * 49_999)
    assert session.phase_name == "OPEN"
    feed(session, (CONT, b"", False))
    session.drained()
    exceeded(session, "small_fragments", 10_000)


@both_roles
def test_fragments_of_some_size_and_whole_messages_are_not_small_fragments(client: bool) -> None:
    session = new_session(client, rate_limits=RateLimits(small_fragments=1, burst=3))
    feed(session, *[(BINARY, b"")] * 100)
    for _ in range(100):
        feed(session, (BINARY, LARGE, False), (CONT, LARGE, False), (CONT, LARGE))
    assert len(taken(session)) == 200
    feed(session, (BINARY, SMALL, False), (CONT, SMALL, False), (CONT, SMALL))
    assert taken(session) == [SMALL * 3]
    feed(session, (BINARY, SMALL, False))
    session.drained()
    exceeded(session, "small_fragments", 1)


@both_roles
def test_without_limits_nothing_is_counted(client: bool) -> None:
    limits = RateLimits(control_frames=None, small_fragments=None)
    session = new_session(client, max_fragments=None, rate_limits=limits)
    feed(session, *[(PONG, b"x")] * 20_000, (BINARY, b"", False), *[(CONT, b"", False)] * 60_000, (CONT, b"x"))
    assert taken(session) == [b"x"]
    assert session.phase_name == "OPEN"


def test_however_slow_one_at_a_time_is_possible() -> None:
    session = new_session(rate_limits=RateLimits(messages=0.01, burst=0.1), now=1.0)
    feed(session, (BINARY, b""), now=1.0)
    feed(session, (BINARY, b""), now=102.0)
    assert len(taken(session)) == 2
    feed(session, (BINARY, b""), now=150.0)
    session.drained()
    exceeded(session, "messages", 0.01)
