"""Properties of the reader and the writer: they hold for any stream, any split of it into reads, and any garbage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from protocol.streams import (
    Stream,
    blobs,
    encode,
    garbage,
    loose_frames,
    mutations,
    splits,
    streams,
    texts,
)
from protocol.wire import CLOSE, PING, PONG, counting_keys, new_session, read_frames, taken

from taut.protocol.inbox import Fragment
from taut.protocol.session import Session

roles = st.booleans()
LARGE = 1 << 40


@dataclass
class Outcome:
    """All that can be seen of a session once it has read a stream."""

    messages: list[Any]
    output: bytes
    events: list[tuple[int, bytes, float]]
    phase: str
    close_info: tuple[Any, ...] | None
    counters: tuple[int, int]


def outcome(session: Session, chunks: list[bytes], take_at_once: bool) -> Outcome:
    """Feed the chunks as a driver does, which may take messages at once or only at the end."""
    messages: list[Any] = []
    session.observe_control(True)

    def take() -> None:
        messages.extend(taken(session))
        if session.phase_name in ("CLOSE_RECEIVED", "FAILING"):
            session.drained()

    for chunk in chunks:
        rest = chunk
        while rest:
            used = session.receive_data(rest)
            assert 0 <= used <= len(rest)
            if used < len(rest):
                assert len(session) > 0
                assert session.phase_name == "OPEN"
                take()
            elif take_at_once:
                take()
            rest = rest[used:]
    take()
    info = session.close_info
    return Outcome(
        messages,
        session.take_output(),
        session.take_events(),
        session.phase_name,
        None if info is None else (info.initiator, info.code, info.reason, info.clean),
        (session.messages_received, session.bytes_received),
    )


def check_meaning(result: Outcome, stream: Stream) -> None:
    assert result.messages == stream.messages
    assert result.counters[0] == len(stream.messages)
    frames = read_frames(result.output)
    assert [each.payload for each in frames if each.opcode == PONG] == stream.pings
    closing = bool(stream.frames) and stream.frames[-1].opcode == CLOSE
    assert [each.payload for each in frames if each.opcode == CLOSE] == [
        each.payload[:2] for each in stream.frames if each.opcode == CLOSE
    ]
    assert result.phase == ("CLOSED" if closing else "OPEN")


# ---- valid streams ----


@given(st.data(), roles, st.booleans())
def test_property_any_split_of_a_valid_stream_gives_the_same(data: st.DataObject, client: bool, deflate: bool) -> None:
    stream = data.draw(streams(deflate))
    wire = encode(stream.frames, client)
    whole = outcome(new_session(client, deflate=deflate, read_limit=LARGE), [wire], take_at_once=False)
    check_meaning(whole, stream)
    chunks = data.draw(splits(wire))
    for take_at_once in (False, True):
        session = new_session(client, deflate=deflate, read_limit=LARGE)
        assert outcome(session, chunks, take_at_once) == whole


@given(st.data(), roles, st.booleans(), st.integers(1, 3000))
def test_property_the_read_limit_changes_nothing(data: st.DataObject, client: bool, deflate: bool, limit: int) -> None:
    stream = data.draw(streams(deflate))
    wire = encode(stream.frames, client)
    session = new_session(client, deflate=deflate, read_limit=limit)
    check_meaning(outcome(session, data.draw(splits(wire)), data.draw(st.booleans())), stream)


@given(st.data(), roles, st.booleans(), st.integers(0, 500))
def test_property_max_size_is_exact(data: st.DataObject, client: bool, deflate: bool, limit: int) -> None:
    stream = data.draw(streams(deflate, closing=False))
    wire = encode(stream.frames, client)
    session = new_session(client, deflate=deflate, max_size=limit)
    result = outcome(session, data.draw(splits(wire)), data.draw(st.booleans()))
    sizes = [len(each.encode()) if isinstance(each, str) else len(each) for each in stream.messages]
    fitting = next((i for i, size in enumerate(sizes) if size > limit), None)
    assert result.messages == stream.messages[:fitting]
    if fitting is None:
        assert result.phase == "OPEN"
    else:
        assert result.close_info is not None
        assert (result.phase, result.close_info[1]) == ("CLOSED", 1009)


# ---- garbage ----


def check_end(session: Session, result: Outcome) -> None:
    """Whatever came in, what went out is right, and once closed nothing more happens."""
    frames = read_frames(result.output)
    assert {each.opcode for each in frames} <= {PONG, CLOSE}
    assert all(each.fin and each.rsv == 0 and len(each.payload) <= 125 for each in frames)
    assert CLOSE not in [each.opcode for each in frames[:-1]]
    if result.phase == "OPEN":
        assert result.close_info is None
        return
    assert result.phase == "CLOSED"
    assert frames[-1].opcode == CLOSE
    assert result.close_info is not None
    frames[-1].payload[2:].decode()
    before = session.close_info, session.messages_received
    for more in (b"\x81\x05hello", b"\x81\x85\0\0\0\0hello", bytes(100), b"\xff" * 100):
        assert session.receive_data(more) == len(more)
    assert (len(session), session.take_output(), session.take_events()) == (0, b"", [])
    assert (session.close_info, session.messages_received) == before


def verdict(result: Outcome, deflate: bool) -> tuple[Any, ...]:
    """What must not depend on the split: of a failure only the code, and that only as far as it can be told.

    A compressed message that is both too large and not what it should be fails for what is found first.
    """
    code = None if result.close_info is None else result.close_info[1]
    if deflate and code in (1007, 1008, 1009):
        code = 1007
    pongs = [each.payload for each in read_frames(result.output) if each.opcode == PONG]
    return result.messages, pongs, result.phase, code


def check_garbage(data: st.DataObject, wire: bytes, client: bool, deflate: bool) -> None:
    limits = {"max_size": 10_000, "max_fragments": 5, "read_limit": LARGE}
    session = new_session(client, deflate=deflate, **limits)
    whole = outcome(session, [wire], take_at_once=False)
    check_end(session, whole)
    session = new_session(client, deflate=deflate, **limits)
    result = outcome(session, data.draw(splits(wire)), data.draw(st.booleans()))
    check_end(session, result)
    assert verdict(result, deflate) == verdict(whole, deflate)


@given(st.data(), garbage, roles, st.booleans())
def test_property_garbage(data: st.DataObject, wire: bytes, client: bool, deflate: bool) -> None:
    check_garbage(data, wire, client, deflate)


@given(st.data(), roles, st.booleans())
def test_property_frames_in_no_order(data: st.DataObject, client: bool, deflate: bool) -> None:
    check_garbage(data, data.draw(loose_frames(client)), client, deflate)


@given(st.data(), roles, st.booleans())
def test_property_mutations_of_valid_streams(data: st.DataObject, client: bool, deflate: bool) -> None:
    stream = data.draw(streams(deflate))
    check_garbage(data, data.draw(mutations(encode(stream.frames, client))), client, deflate)


@given(st.data(), garbage, roles, st.integers(1, 100))
def test_property_garbage_within_tight_limits(data: st.DataObject, wire: bytes, client: bool, limit: int) -> None:
    session = new_session(client, deflate=True, max_size=limit, max_frame_size=limit, max_fragments=2, read_limit=limit)
    for chunk in data.draw(splits(wire)):
        used = session.receive_data(chunk)
        assert used == len(chunk) or session.unread + 16 * len(session) >= limit
        assert session.unread <= 5 * limit  # four bytes a character, and one message over the limit
        session.take()
    check_end(session, outcome(session, [], take_at_once=True))


# ---- streaming ----


@given(st.data(), roles, st.booleans())
def test_property_streams_lose_nothing_but_what_is_abandoned(data: st.DataObject, client: bool, deflate: bool) -> None:
    """A reader that takes whole messages or parts at its whim, and sometimes leaves a stream after a few parts."""
    stream = data.draw(streams(deflate))
    session = new_session(client, deflate=deflate, read_limit=LARGE)
    chunks = data.draw(splits(encode(stream.frames, client)))
    received: list[Any] = []
    abandoned = 0
    current: list[Any] = []
    streaming = False

    def read() -> None:
        nonlocal abandoned, streaming
        while True:
            if streaming and data.draw(st.integers(0, 7)) == 0:
                session.unstream(bool(current))
                abandoned += bool(current)
                current.clear()
                streaming = False
            elif not streaming and data.draw(st.booleans()):
                session.stream()
                streaming = True
            message = session.take()
            if message is None:
                return
            if not isinstance(message, Fragment):
                assert not current
                received.append(message)
                continue
            current.append(message.data)
            if message.final:
                received.append(current[0][:0].join(current))
                current.clear()
                streaming = False

    for chunk in chunks:
        session.receive_data(chunk)
        if data.draw(st.booleans()):
            read()
    streaming, was = False, streaming
    if was:
        session.unstream(bool(current))
        abandoned += bool(current)
    received.extend(taken(session))
    assert len(received) == len(stream.messages) - abandoned
    remaining = iter(stream.messages)
    assert all(any(message == each for each in remaining) for message in received)
    assert session.unread == 0


# ---- sending ----

actions = st.one_of(
    st.tuples(st.just("message"), st.one_of(texts, blobs), st.sampled_from([None, True, False])),
    st.tuples(st.just("fragments"), st.lists(st.one_of(st.text(max_size=50)), min_size=1, max_size=4), st.booleans()),
    st.tuples(st.just("ping"), st.binary(max_size=125), st.none()),
    st.tuples(st.just("pong"), st.binary(max_size=125), st.none()),
)


@given(st.data(), st.lists(actions, max_size=12), roles, st.booleans())
def test_property_what_one_side_sends_the_other_receives(
    data: st.DataObject, script: list[tuple[str, Any, Any]], client: bool, deflate: bool
) -> None:
    sender = new_session(client, deflate=deflate, source=counting_keys())
    receiver = new_session(not client, deflate=deflate, read_limit=LARGE)
    messages, events, waiting = [], [], set()
    for action, payload, choice in script:
        if action == "message":
            sender.send(payload, compress=choice)
            messages.append(payload)
        elif action == "fragments":
            for i, part in enumerate(payload):
                sender.send_fragment(part, text=True, first=i == 0, final=i == len(payload) - 1, compress=choice)
            messages.append("".join(payload))
        elif action == "pong":
            sender.pong(payload)
            events.append((PONG, payload, -1.0))
        elif payload not in waiting:
            waiting.add(payload)
            sender.ping(payload, 0.0)
            events.append((PING, payload, -1.0))
    sender.close(4001, "done")
    result = outcome(receiver, data.draw(splits(sender.take_output())), data.draw(st.booleans()))
    assert (result.messages, result.events) == (messages, events)
    sender.receive_data(result.output)
    assert sender.phase_name == receiver.phase_name == "CLOSED"
    assert sender.close_info is not None
    assert receiver.close_info is not None
    assert (sender.close_info.clean, receiver.close_info.clean) == (True, True)
    assert {payload for opcode, payload, _ in sender.take_events() if opcode == PONG} == waiting
    assert sender.messages_sent == receiver.messages_received == len(messages)
