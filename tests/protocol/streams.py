"""Hypothesis strategies for what a peer sends: valid streams, and how they are cut, broken and replaced by garbage."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import strategies as st
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
    close_payload,
    deflater,
    frame,
    pieces,
)

VALID_CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999]

keys = st.one_of(st.just(KEY), st.binary(min_size=4, max_size=4))
repeats = st.sampled_from([1, 1, 1, 1, 9, 200, 4000])
texts = st.builds(lambda unit, count: unit * count, st.text(max_size=20), repeats)
blobs = st.builds(lambda unit, count: unit * count, st.binary(max_size=20), repeats)
controls = st.builds(Frame, st.sampled_from([PING, PONG]), st.binary(max_size=125))
closes = st.one_of(
    st.just(Frame(CLOSE)),
    st.builds(
        lambda code, reason: Frame(CLOSE, close_payload(code, reason.encode()[:123].decode(errors="ignore"))),
        st.sampled_from(VALID_CODES),
        st.text(max_size=40),
    ),
)


@dataclass
class Stream:
    """Frames without masks, and what they mean."""

    frames: list[Frame] = field(default_factory=list)
    messages: list[str | bytes] = field(default_factory=list)
    pings: list[bytes] = field(default_factory=list)

    def add(self, each: Frame) -> None:
        self.frames.append(each)
        if each.opcode == PING:
            self.pings.append(each.payload)


def encode(frames: list[Frame], client: bool) -> bytes:
    """The bytes of frames as a session in this role receives them: a client unmasked, a server masked."""
    return b"".join(
        frame(each.opcode, each.payload, fin=each.fin, rsv=each.rsv, key=None if client else each.key or KEY)
        for each in frames
    )


@st.composite
def streams(draw: st.DrawFn, compressed: bool = False, closing: bool = True) -> Stream:
    """A valid stream: messages in any number of fragments, control frames anywhere, maybe a Close frame at the end."""
    stream = Stream()
    compress = deflater()
    for message in draw(st.lists(st.one_of(texts, blobs), max_size=6)):
        stream.messages.append(message)
        octets = message.encode() if isinstance(message, str) else message
        opcode = TEXT if isinstance(message, str) else BINARY
        cuts = draw(st.lists(st.integers(0, len(octets)), max_size=3))
        parts = list(pieces(octets, cuts)) + [b""] * draw(st.sampled_from([0, 0, 0, 1]))
        deflated = compressed and draw(st.booleans())
        for i, part in enumerate(parts):
            for control in draw(st.lists(controls, max_size=1)):
                stream.add(replace(control, key=draw(keys)))
            final = i == len(parts) - 1
            payload = compress(part, final) if deflated else part
            rsv = RSV1 if deflated and i == 0 else 0
            stream.add(Frame(opcode if i == 0 else CONT, payload, final, rsv, draw(keys)))
    if closing and draw(st.booleans()):
        stream.add(draw(closes))
    return stream


@st.composite
def splits(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """The same bytes in any number of reads."""
    if draw(st.booleans()):
        return list(pieces(data, draw(st.lists(st.integers(0, len(data)), max_size=12))))
    step = max(draw(st.integers(1, 50)), len(data) // 2000)
    return list(pieces(data, range(step, len(data), step)))


# ---- what is wrong ----

# Bytes that mean something at the beginning of a frame, so that garbage gets further than its first two bytes.
heads = st.tuples(
    st.sampled_from([0x00, 0x01, 0x02, 0x80, 0x81, 0x82, 0x88, 0x89, 0x8A, 0xC1, 0xC2, 0x41, 0x42, 0x83, 0x91, 0x08]),
    st.sampled_from([0x00, 0x01, 0x02, 0x05, 0x7D, 0x7E, 0x7F, 0x80, 0x81, 0x82, 0x85, 0xFD, 0xFE, 0xFF]),
).map(bytes)
garbage = st.one_of(
    st.binary(max_size=200),
    st.lists(st.one_of(heads, st.binary(max_size=12)), max_size=40).map(b"".join),
)


@st.composite
def loose_frames(draw: st.DrawFn, client: bool) -> bytes:
    """Frames of which each could be valid somewhere, in an order that mostly is not."""
    frames = draw(
        st.lists(
            st.builds(
                Frame,
                st.sampled_from([CONT, CONT, TEXT, BINARY, BINARY, PING, PONG, CLOSE]),
                st.one_of(st.binary(max_size=30), st.text(max_size=10).map(str.encode)),
                st.sampled_from([True, True, False]),
                st.sampled_from([0, 0, 0, 0, 0, RSV1]),
                keys,
            ),
            max_size=12,
        )
    )
    return encode(frames, client)


@st.composite
def mutations(draw: st.DrawFn, data: bytes) -> bytes:
    """The same bytes with a few of them changed, added, removed, repeated or cut off."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["flip", "flip", "set", "insert", "remove", "repeat", "cut"]))
        place = draw(st.integers(0, len(changed)))
        if kind == "insert":
            changed[place:place] = draw(st.one_of(heads, st.binary(min_size=1, max_size=8)))
        elif kind == "repeat":
            changed[place:place] = changed[place : place + draw(st.integers(1, 40))]
        elif kind == "remove":
            del changed[place : place + draw(st.integers(1, 20))]
        elif kind == "cut":
            del changed[place:]
        elif place < len(changed):
            changed[place] = (
                changed[place] ^ 1 << draw(st.integers(0, 7)) if kind == "flip" else draw(st.integers(0, 255))
            )
    return bytes(changed)
