"""The inbox: messages wait in it in order, weigh what they hold, and cost nothing once taken."""

from __future__ import annotations

import itertools

import pytest
from protocol.wire import (
    BINARY,
    TEXT,
    feed,
    new_session,
    taken,
)


@pytest.mark.parametrize("kept", [0, 1, 2, 3, 15, 16, 17, 40])
def test_inbox_keeps_the_order(kept: int) -> None:
    """A ring that grows: with ``kept`` messages always in it, its beginning wanders all around."""
    session = new_session()
    numbers = itertools.count()
    expected = itertools.count()
    for _ in range(kept):
        feed(session, (TEXT, b"%d" % next(numbers)))
    for round_size in [1, 2, 5, 40, 3, 90, 1]:
        for _ in range(round_size):
            feed(session, (TEXT, b"%d" % next(numbers)))
        assert len(session) == kept + round_size
        for _ in range(round_size):
            assert session.take() == str(next(expected))
    assert taken(session) == [str(next(expected)) for _ in range(kept)]
    assert (len(session), session.unread) == (0, 0)


def test_inbox_is_freed_with_its_session() -> None:
    session = new_session()
    feed(session, *((BINARY, bytes(9)) for _ in range(100)))
    assert len(session) == 100
    del session


def test_messages_can_be_taken_after_the_end() -> None:
    session = new_session()
    feed(session, (TEXT, b"a"), (BINARY, b"b"))
    session.receive_eof()
    assert session.phase_name == "CLOSED"
    assert taken(session) == ["a", b"b"]


def test_types_of_messages() -> None:
    session = new_session()
    feed(session, (TEXT, b""), (BINARY, b""), (TEXT, "ü€𝄞".encode()), (BINARY, b"\xff"))
    assert taken(session) == ["", b"", "ü€𝄞", b"\xff"]
