"""Frames written and read by hand, byte for byte as RFC 6455, 5.2 draws them, and sessions to exchange them with.

Nothing in here uses taut's own reader, writer or masking, so that they are tested against something else.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from taut.protocol.deflate import ContextPool, Deflate, DeflateParameters
from taut.protocol.frames import MaskPool
from taut.protocol.session import Session
from taut.types import ConnectionOptions, DeflateOptions

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
RSV1, RSV2, RSV3 = 4, 2, 1
KEY = bytes.fromhex("37fa213d")  # of the examples in RFC 6455, 5.7

both_roles = pytest.mark.parametrize("client", [False, True], ids=["server", "client"])


@dataclass(frozen=True)
class Frame:
    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0
    key: bytes | None = None


def xor(data: bytes, key: bytes) -> bytes:
    """RFC 6455, 5.3, to the letter."""
    return bytes(octet ^ key[i % 4] for i, octet in enumerate(data))


def head(
    opcode: int,
    length: int,
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = None,
    form: int | None = None,
) -> bytes:
    """A frame's head; ``form``: the bytes of its extended payload length (0, 2, 8), the fewest by default."""
    if form is None:
        form = 0 if length < 126 else 2 if length < 1 << 16 else 8
    bit = 0 if key is None else 0x80
    short = {0: length, 2: 126, 8: 127}[form]
    return bytes([fin << 7 | rsv << 4 | opcode, bit | short]) + length.to_bytes(8, "big")[8 - form :] + (key or b"")


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = None,
    form: int | None = None,
) -> bytes:
    body = payload if key is None else xor(payload, key)
    return head(opcode, len(payload), fin=fin, rsv=rsv, key=key, form=form) + body


def read_frames(data: bytes) -> list[Frame]:
    """Every frame of ``data``, which must hold whole frames only, with lengths in their shortest form."""
    frames = []
    while data:
        first, second = data[:2]
        form = {126: 2, 127: 8}.get(second & 0x7F, 0)
        length = int.from_bytes(data[2 : 2 + form], "big") if form else second & 0x7F
        key = data[2 + form : 6 + form] if second & 0x80 else None
        opcode, fin, rsv = first & 15, bool(first & 0x80), first >> 4 & 7
        expected = head(opcode, length, fin=fin, rsv=rsv, key=key)
        assert data.startswith(expected), "a head that is cut off, or not in its shortest form"
        body, data = data[len(expected) : len(expected) + length], data[len(expected) + length :]
        assert len(body) == length, "a payload that is cut off"
        frames.append(Frame(opcode, body if key is None else xor(body, key), fin, rsv, key))
    return frames


def close_payload(code: int, reason: str | bytes = b"") -> bytes:
    return struct.pack("!H", code) + (reason.encode() if isinstance(reason, str) else reason)


# ---- sessions ----


def counting_keys() -> Callable[[int], bytes]:
    """A source of masking keys 00000001, 00000002, ..., with nothing secret about them."""
    numbers = itertools.count(1)

    def source(size: int) -> bytes:
        return b"".join(struct.pack("!I", next(numbers)) for _ in range(size // 4))

    return source


def deflate_for(client: bool, parameters: DeflateParameters | None = None, **options: Any) -> Deflate:
    parameters = DeflateParameters() if parameters is None else parameters
    return Deflate(parameters, DeflateOptions(**options), server=not client, pool=ContextPool())


def new_session(
    client: bool = False,
    *,
    deflate: Deflate | bool = False,
    source: Callable[[int], bytes] | None = None,
    now: float = 0.0,
    **options: Any,
) -> Session:
    """An open session; ``options`` are those of ``ConnectionOptions``."""
    codec = deflate_for(client) if deflate is True else deflate or None
    masks = MaskPool(counting_keys() if source is None else source) if client else None
    return Session(ConnectionOptions(**options), client=client, masks=masks, deflate=codec, now=now)


def peer_key(session: Session) -> bytes | None:
    """What the peer of this session masks with: it does if it is the client."""
    return None if session.is_client else KEY


def feed(session: Session, *frames: tuple[Any, ...] | Frame | bytes, now: float = 0.0) -> int:
    """Let the peer send frames, given as bytes or as what ``frame`` takes, in one read."""
    return session.receive_data(b"".join(wire(session, each) for each in frames), now)


def wire(session: Session, each: tuple[Any, ...] | Frame | bytes) -> bytes:
    """A frame as the peer of this session puts it on the wire."""
    if isinstance(each, bytes):
        return each
    if isinstance(each, Frame):
        return frame(each.opcode, each.payload, fin=each.fin, rsv=each.rsv, key=peer_key(session))
    opcode, payload, *rest = each
    return frame(opcode, payload, fin=rest[0] if rest else True, key=peer_key(session))


def taken(session: Session) -> list[Any]:
    """All messages there are, taken."""
    messages: list[Any] = []
    while (message := session.take()) is not None:
        messages.append(message)
    return messages


def sent(session: Session) -> list[Frame]:
    """All frames that wait to be sent, checked to be masked exactly if the session is a client's (RFC 6455, 5.1)."""
    frames = read_frames(session.take_output())
    assert all((each.key is not None) == session.is_client for each in frames)
    return frames


def answers(session: Session) -> list[tuple[int, bytes]]:
    """Opcode and payload of all that waits to be sent, in whole messages without compression."""
    frames = sent(session)
    assert all(each.fin and each.rsv == 0 for each in frames)
    return [(each.opcode, each.payload) for each in frames]


def failed_with(session: Session, code: int) -> str:
    """Check that the session was failed with this code, by a Close frame with that code, and return the reason."""
    info = session.close_info
    assert info is not None
    assert (session.phase_name, info.initiator.value, info.code) == ("CLOSED", "local", code)
    assert session.close_sent is not None
    assert session.close_sent[0] == code
    ((opcode, payload),) = answers(session)
    assert (opcode, payload[:2]) == (CLOSE, struct.pack("!H", code))
    assert payload[2:].decode() == session.close_sent[1]
    return session.close_sent[1]


# ---- what a peer with permessage-deflate sends ----


def deflater(bits: int = 15) -> Callable[..., bytes]:
    """A compressor of messages or fragments, by the standard library (RFC 7692, 7.2.1)."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, -bits)

    def compress(payload: bytes, final: bool = True) -> bytes:
        data = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
        return data[:-4] if final else data

    return compress


def pieces(data: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    """``data`` cut at these places; those beyond its end are ignored."""
    places = [0, *sorted(cut for cut in set(cuts) if 0 < cut < len(data)), len(data)]
    for start, end in itertools.pairwise(places):
        yield data[start:end]
