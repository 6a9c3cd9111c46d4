"""The session as a whole: its table of transitions, what it is made of, and its counters."""

from __future__ import annotations

import itertools

import pytest
from protocol.wire import (
    BINARY,
    CLOSE,
    CONT,
    KEY,
    PING,
    TEXT,
    answers,
    both_roles,
    close_payload,
    feed,
    frame,
    new_session,
    taken,
)

from taut.errors import ConnectionClosed, ProtocolError
from taut.protocol import session as module
from taut.protocol.frames import MaskPool
from taut.protocol.session import EVENTS, PHASES, TRANSITIONS, Session
from taut.types import ConnectionOptions, Initiator

# What brings a new session to each phase, and what each event of the table is, seen from outside.
REACH = {
    "OPEN": [],
    "CLOSE_SENT": ["close"],
    "CLOSE_RECEIVED": ["message", "peer closes"],
    "FAILING": ["message", "peer breaks"],
    "CLOSED": ["close", "peer closes"],
}
STEPS = {
    "message": lambda session: feed(session, (BINARY, b"x")),
    "close": lambda session: session.close(),
    "peer closes": lambda session: feed(session, (CLOSE, close_payload(1000))),
    "peer breaks": lambda session: feed(session, (CONT, b"")),
    "drained": lambda session: session.drained(),
    "eof": lambda session: session.receive_eof(),
}
STEP_OF_EVENT = dict(zip(EVENTS, ["close", "peer closes", "peer breaks", "drained", "eof"], strict=True))


def in_phase(phase: str, client: bool = False) -> Session:
    session = new_session(client)
    for step in REACH[phase]:
        STEPS[step](session)
    assert session.phase_name == phase
    return session


# ---- the table ----


def test_transitions_are_total() -> None:
    assert sorted(TRANSITIONS) == list(range(len(PHASES)))
    assert {len(row) for row in TRANSITIONS.values()} == {len(EVENTS)}
    assert set(itertools.chain(*TRANSITIONS.values())) <= set(range(len(PHASES)))


def test_transitions_never_lead_back() -> None:
    rank = {"OPEN": 0, "CLOSE_SENT": 1, "CLOSE_RECEIVED": 1, "FAILING": 1, "CLOSED": 2}
    for phase, row in TRANSITIONS.items():
        for target in row:
            assert target == phase or rank[PHASES[target]] > rank[PHASES[phase]]


def test_transitions_reach_every_phase_from_open() -> None:
    seen, ahead = set(), {0}
    while ahead:
        seen |= ahead
        ahead = {target for phase in ahead for target in TRANSITIONS[phase]} - seen
    assert seen == set(range(len(PHASES)))


@both_roles
@pytest.mark.parametrize(("row", "column"), list(itertools.product(range(len(PHASES)), range(len(EVENTS)))))
def test_session_follows_the_table(client: bool, row: int, column: int) -> None:
    """With messages still unread, so that what ends the connection has to wait for them where it may."""
    session = in_phase(PHASES[row], client)
    if PHASES[row] == "OPEN":
        STEPS["message"](session)
    STEPS[STEP_OF_EVENT[EVENTS[column]]](session)
    assert session.phase_name == PHASES[TRANSITIONS[row][column]]


@pytest.mark.parametrize("step", STEPS)
def test_closed_is_final(step: str) -> None:
    session = in_phase("CLOSED")
    before = session.close_info, session.take_output(), len(session)
    STEPS[step](session)
    assert (session.close_info, before[1] + session.take_output(), len(session)) == before


def test_a_failure_after_the_end_changes_nothing() -> None:
    session = in_phase("CLOSED")
    info = session.close_info
    session.take_output()
    session.fail(ProtocolError("too late", 1008))
    assert session.close_info == info
    assert session.take_output() == b""


def test_a_failure_while_the_peer_closes_completes_its_closing_handshake() -> None:
    session = in_phase("CLOSE_RECEIVED")
    session.fail(ProtocolError("too late", 1008))
    assert answers(session) == [(CLOSE, close_payload(1000))]
    info = session.close_info
    assert info is not None
    assert (info.initiator, info.code, info.clean, info.cause) == (Initiator.REMOTE, 1000, True, None)


# ---- what it is made of ----


def test_a_client_needs_masks() -> None:
    with pytest.raises(ValueError, match="masks"):
        Session(ConnectionOptions(), client=True)


def test_attributes() -> None:
    options = ConnectionOptions(max_size=7)
    session = Session(options, client=True, masks=MaskPool(bytes))
    assert session.is_client
    assert session.options is options
    assert session.deflate is None
    assert session.close_info is None
    assert (session.close_received, session.close_sent, session.cause) == (None, None, None)
    assert (session.phase_name, len(session), session.unread) == ("OPEN", 0, 0)
    assert session.take_output() == b""
    assert session.take_events() == []
    assert session.take() is None


def test_nothing_but_errors_and_types_is_imported() -> None:
    assert not {"asyncio", "socket", "ssl", "threading", "time", "random", "os"} & set(vars(module))


# ---- counters ----


def test_counters() -> None:
    session = new_session()
    data = b"".join([frame(TEXT, b"abc", key=KEY), frame(PING, b"", key=KEY), frame(BINARY, b"d", fin=False, key=KEY)])
    session.receive_data(data)
    assert (session.messages_received, session.bytes_received) == (1, len(data))
    feed(session, (CONT, b"e"))
    assert session.messages_received == 2
    session.send("hello")
    session.send(b"x" * 1000, compress=False)
    assert (session.messages_sent, session.bytes_sent) == (2, 1005)
    session.send_fragment(b"ab", text=False, first=True, final=False)
    assert session.messages_sent == 2
    session.send_fragment(b"c", text=False, first=False, final=True)
    assert (session.messages_sent, session.bytes_sent) == (3, 1008)


def test_only_used_bytes_are_counted() -> None:
    session = new_session(read_limit=10)
    first, second = frame(BINARY, bytes(10), key=KEY), frame(BINARY, bytes(20), key=KEY)
    used = session.receive_data(first + second)
    assert (used, session.bytes_received) == (len(first), len(first))
    taken(session)
    assert session.receive_data(second) == len(second)
    assert session.bytes_received == len(first + second)


def test_what_cannot_be_sent_is_not_counted() -> None:
    session = new_session()
    for wrong in [3, None, ["a"], {"a": 1}, "\ud800"]:
        with pytest.raises((TypeError, UnicodeEncodeError)):
            session.send(wrong)  # type: ignore[arg-type]
    session.close()
    with pytest.raises(ConnectionClosed):
        session.send("x")
    assert (session.messages_sent, len(answers(session))) == (0, 1)
