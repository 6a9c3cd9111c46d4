"""The reader against two others: ``websockets`` and ``wsproto``, given the same bytes, reach the same verdict.

Where they differ it is known why:

  - websockets takes a length that is not in its shortest form, refuses one of 2**63 for its size (1009) rather than for
    its form (1002), and refuses a Close frame in the middle of a message;
  - websockets checks a frame's head when its payload is complete, and text when its message is, so a stream that ends
    before that goes unpunished;
  - wsproto refuses a head at its first wrong byte, where taut waits for all of it, and a data frame out of place at the
    first byte of its payload, where taut does not wait;
  - wsproto does not know close code 1014, has no limits, and forgets that a message is compressed when a control frame
    comes in the middle of it;
  - a Close frame with both a wrong code and a wrong reason may fail for either.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from protocol.streams import encode, garbage, loose_frames, mutations, streams
from protocol.wire import (
    BINARY,
    CLOSE,
    CONT,
    KEY,
    PING,
    RSV1,
    TEXT,
    Frame,
    close_payload,
    deflater,
    frame,
    head,
    new_session,
    taken,
)
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Opcode
from websockets.protocol import CLIENT, SERVER, Protocol
from websockets.protocol import State as TheirState
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate
from wsproto.frame_protocol import FrameProtocol, ParseFailed
from wsproto.frame_protocol import Opcode as WsprotoOpcode

LARGE = 1 << 40
roles = st.booleans()


@dataclass
class Verdict:
    """What was received, and how it ended: ``closed`` by the peer, ``failed`` or ``open``, with a close code."""

    messages: list[str | bytes] = field(default_factory=list)
    end: str = "open"
    code: int | None = None


def ours(data: bytes, client: bool, deflate: bool = False, **limits: Any) -> Verdict:
    session = new_session(client, deflate=deflate, read_limit=LARGE, **{"max_size": None, **limits})
    assert session.receive_data(data) == len(data)
    verdict = Verdict(taken(session))
    session.drained()
    if session.close_info is not None:
        verdict.end = "closed" if session.close_received else "failed"
        verdict.code = session.close_info.code
    return verdict


def of_websockets(data: bytes, client: bool, deflate: bool = False, max_size: int | None = None) -> Verdict:
    theirs = Protocol(CLIENT if client else SERVER, state=TheirState.OPEN, max_size=max_size)
    if deflate:
        theirs.extensions = [PerMessageDeflate(False, False, 15, 15)]
    theirs.receive_data(data)
    verdict = Verdict()
    opcode, parts = Opcode.CONT, b""
    for event in theirs.events_received():
        if event.opcode is Opcode.CLOSE:  # type: ignore[union-attr]
            assert theirs.close_rcvd is not None
            verdict.end, verdict.code = "closed", int(theirs.close_rcvd.code)
        elif event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):  # type: ignore[union-attr]
            if event.opcode is not Opcode.CONT:  # type: ignore[union-attr]
                opcode, parts = event.opcode, b""  # type: ignore[union-attr]
            parts += bytes(event.data)  # type: ignore[union-attr]
            if not event.fin:  # type: ignore[union-attr]
                continue
            try:
                verdict.messages.append(parts.decode() if opcode is Opcode.TEXT else parts)
            except UnicodeDecodeError:
                return replace(verdict, end="failed", code=1007)
    if theirs.parser_exc is not None:
        assert theirs.close_sent is not None
        verdict.end, verdict.code = "failed", int(theirs.close_sent.code)
    return verdict


def of_wsproto(data: bytes, client: bool, deflate: bool = False) -> Verdict:
    extensions = []
    if deflate:
        extension = WsprotoDeflate(False, 15, False, 15)
        extension._enabled = True
        extensions.append(extension)
    theirs = FrameProtocol(client, extensions)  # type: ignore[arg-type]
    theirs.receive_bytes(data)
    verdict = Verdict()
    parts: list[Any] = []
    try:
        for event in theirs.received_frames():
            if event.opcode is WsprotoOpcode.CLOSE:
                verdict.end, verdict.code = "closed", int(event.payload[0])  # type: ignore[arg-type]
            elif event.opcode in (WsprotoOpcode.TEXT, WsprotoOpcode.BINARY):
                parts.append(event.payload)
                if event.message_finished:
                    verdict.messages.append(parts[0][:0].join(parts))
                    parts = []
    except ParseFailed as exc:
        verdict.end, verdict.code = "failed", int(exc.code)
    return verdict


# ---- valid streams ----


@given(streams(), roles)
def test_property_valid_streams(stream: Any, client: bool) -> None:
    data = encode(stream.frames, client)
    verdict = ours(data, client)
    assert verdict.messages == stream.messages
    assert verdict == of_websockets(data, client) == of_wsproto(data, client)


@given(streams(compressed=True), roles)
def test_property_compressed_streams(stream: Any, client: bool) -> None:
    data = encode(stream.frames, client)
    verdict = ours(data, client, deflate=True)
    assert verdict.messages == stream.messages
    assert verdict == of_websockets(data, client, deflate=True)
    without_pings = [each for each in stream.frames if each.opcode <= CLOSE]
    assert verdict == of_wsproto(encode(without_pings, client), client, deflate=True)


@given(streams(), roles, st.data())
def test_property_streams_that_are_cut_off(stream: Any, client: bool, data: st.DataObject) -> None:
    wire = encode(stream.frames, client)
    wire = wire[: data.draw(st.integers(0, len(wire)))]
    assert ours(wire, client) == of_websockets(wire, client) == of_wsproto(wire, client)


@given(streams(), roles, st.integers(0, 300))
def test_property_limits(stream: Any, client: bool, limit: int) -> None:
    frames = [each for each in stream.frames if each.opcode < CLOSE]  # their limit applies to control frames too
    data = encode(frames, client)
    assert ours(data, client, max_size=limit) == of_websockets(data, client, max_size=limit)


# ---- streams with one fault ----


def damaged(each: Frame, fault: str, client: bool, place: int) -> bytes:
    """The frame on the wire, with something wrong, or something put before it that is wrong there."""
    right = encode([each], client)
    mask = None if client else KEY
    broken = {
        "reserved bit": lambda: bytes([right[0] | 0x10 << place % 2]) + right[1:],
        "rsv1": lambda: bytes([right[0] | 0x40]) + right[1:],
        "reserved opcode": lambda: bytes([right[0] & 0xF0 | (3, 7, 11, 15)[place % 4]]) + right[1:],
        "wrong masking": lambda: frame(each.opcode, each.payload, fin=each.fin, key=KEY if client else None),
        "fragmented control frame": lambda: frame(PING, b"", fin=False, key=mask) + right,
        "long control frame": lambda: frame(PING, bytes(126), key=mask) + right,
        "close frame of one byte": lambda: frame(CLOSE, b"\3", key=mask),
        "close code": lambda: frame(
            CLOSE, close_payload((0, 999, 1004, 1005, 1006, 1015, 2999, 5000)[place % 8]), key=mask
        ),
        "close reason": lambda: frame(CLOSE, close_payload(1000, b"\xff"), key=mask),
    }
    return broken[fault]()


FAULTS = [
    "reserved bit",
    "rsv1",
    "reserved opcode",
    "wrong masking",
    "fragmented control frame",
    "long control frame",
    "close frame of one byte",
    "close code",
    "close reason",
]


@given(streams(closing=False), roles, st.sampled_from(FAULTS), st.integers(0, 1000))
def test_property_one_frame_is_wrong(stream: Any, client: bool, fault: str, place: int) -> None:
    assume(stream.frames)
    where = place % len(stream.frames)
    data = encode(stream.frames[:where], client) + damaged(stream.frames[where], fault, client, place)
    data += encode(stream.frames[where + 1 :], client)
    verdict = ours(data, client)
    assert (verdict.end, verdict.code) == ("failed", 1007 if fault == "close reason" else 1002)
    assert verdict == of_websockets(data, client) == of_wsproto(data, client)


@given(streams(closing=False), roles, st.integers(0, 1000), st.sampled_from([TEXT, BINARY, CONT]), st.booleans())
def test_property_one_data_frame_is_out_of_place(stream: Any, client: bool, place: int, opcode: int, fin: bool) -> None:
    frames = list(stream.frames)
    frames.insert(place % (len(frames) + 1), Frame(opcode, b"", fin))
    data = encode(frames, client)
    verdict = ours(data, client)
    assert verdict == of_websockets(data, client) == of_wsproto(data, client)


@given(streams(closing=False), roles, st.integers(0, 1000), st.binary(min_size=1, max_size=4), st.integers(0, 100))
def test_property_text_that_may_not_be_utf8(stream: Any, client: bool, place: int, octets: bytes, where: int) -> None:
    frames = list(stream.frames)
    texts = [i for i, each in enumerate(frames) if each.opcode == TEXT]
    assume(texts)
    i = texts[place % len(texts)]
    payload = frames[i].payload
    where %= len(payload) + 1
    frames[i] = replace(frames[i], payload=payload[:where] + octets + payload[where:])
    data = encode(frames, client)
    verdict = ours(data, client)
    assert verdict == of_websockets(data, client) == of_wsproto(data, client)


@given(roles, st.integers(0, 65535), st.binary(max_size=20))
@example(False, 1014, b"")
def test_property_any_close_frame(client: bool, code: int, reason: bytes) -> None:
    data = encode([Frame(CLOSE, close_payload(code, reason))], client)
    verdict = ours(data, client)
    theirs = of_websockets(data, client)
    assert verdict == theirs or (verdict.code, theirs.code) == (1002, 1007)
    if code != 1014:
        assert verdict == of_wsproto(data, client)


@pytest.mark.parametrize("client", [False, True])
def test_every_close_code(client: bool) -> None:
    for code in range(5100):
        data = encode([Frame(CLOSE, close_payload(code))], client)
        verdict = ours(data, client)
        assert verdict == of_websockets(data, client), code
        assert verdict == of_wsproto(data, client) or code == 1014


# ---- anything ----


def check_against_wsproto(data: bytes, client: bool, deflate: bool = False) -> None:
    verdict, theirs = ours(data, client, deflate), of_wsproto(data, client, deflate)
    if verdict.end != theirs.end and "open" in (verdict.end, theirs.end):
        # One of them waits for the rest of a head, or for its payload, to refuse it: whatever that is.
        data += bytes(16)
        verdict, theirs = ours(data, client, deflate), of_wsproto(data, client, deflate)
    if (verdict.end, verdict.code) == ("closed", 1014):
        verdict = replace(verdict, end="failed", code=1002)
    assert verdict == theirs


@given(garbage, roles)
def test_property_garbage_like_wsproto(data: bytes, client: bool) -> None:
    check_against_wsproto(data, client)


@given(st.data(), roles)
def test_property_loose_frames_like_wsproto(data: st.DataObject, client: bool) -> None:
    check_against_wsproto(data.draw(loose_frames(client)), client)


@given(st.data(), roles)
def test_property_mutations_like_wsproto(data: st.DataObject, client: bool) -> None:
    stream = data.draw(streams())
    check_against_wsproto(data.draw(mutations(encode(stream.frames, client))), client)


# ---- what is known to differ ----


@pytest.mark.parametrize("client", [False, True])
@pytest.mark.parametrize(("size", "form"), [(0, 2), (125, 2), (125, 8), (65535, 8)])
def test_a_length_in_a_longer_form(client: bool, size: int, form: int) -> None:
    data = frame(BINARY, bytes(size), key=None if client else KEY, form=form)
    assert ours(data, client) == of_wsproto(data, client) == Verdict([], "failed", 1002)
    assert of_websockets(data, client) == Verdict([bytes(size)])


@pytest.mark.parametrize("client", [False, True])
def test_a_length_of_2_to_the_63(client: bool) -> None:
    data = head(BINARY, 1 << 63, key=None if client else KEY)
    assert ours(data, client) == of_wsproto(data, client) == Verdict([], "failed", 1002)
    assert of_websockets(data, client, max_size=1 << 20) == Verdict([], "failed", 1009)


@pytest.mark.parametrize("client", [False, True])
def test_a_close_frame_in_the_middle_of_a_message(client: bool) -> None:
    data = encode([Frame(TEXT, b"a", fin=False), Frame(CLOSE, close_payload(1000))], client)
    assert ours(data, client) == of_wsproto(data, client) == Verdict([], "closed", 1000)
    assert of_websockets(data, client) == Verdict([], "failed", 1002)


@pytest.mark.parametrize("client", [False, True])
def test_invalid_text_in_a_message_that_does_not_end(client: bool) -> None:
    data = encode([Frame(TEXT, b"\xff", fin=False)], client)
    assert ours(data, client) == of_wsproto(data, client) == Verdict([], "failed", 1007)
    assert of_websockets(data, client) == Verdict([])


@pytest.mark.parametrize("client", [False, True])
def test_a_wrong_head_before_its_payload(client: bool) -> None:
    data = encode([Frame(TEXT, b"abc", rsv=RSV1)], client)[:-1]
    assert ours(data, client) == of_wsproto(data, client) == Verdict([], "failed", 1002)
    assert of_websockets(data, client) == Verdict([])


def test_a_wrong_head_of_which_only_the_first_bytes_are_there() -> None:
    data = bytes([0x83, 0xFF])
    assert (ours(data, False), of_wsproto(data, False)) == (Verdict([]), Verdict([], "failed", 1002))


@pytest.mark.parametrize("client", [False, True])
def test_close_code_1014(client: bool) -> None:
    data = encode([Frame(CLOSE, close_payload(1014))], client)
    assert ours(data, client) == of_websockets(data, client) == Verdict([], "closed", 1014)
    assert of_wsproto(data, client) == Verdict([], "failed", 1002)


@pytest.mark.parametrize("client", [False, True])
def test_a_ping_in_the_middle_of_a_compressed_message(client: bool) -> None:
    compress = deflater()
    fragments = [Frame(TEXT, compress(b"ab", False), False, RSV1), Frame(PING), Frame(CONT, compress(b"c"))]
    data = encode(fragments, client)
    assert ours(data, client, deflate=True) == of_websockets(data, client, deflate=True) == Verdict(["abc"])
    assert of_wsproto(data, client, deflate=True) != Verdict(["abc"])
