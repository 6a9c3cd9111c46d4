"""The codec of permessage-deflate (RFC 7692, section 7.2), with every zlib that is installed."""

from __future__ import annotations

import itertools
import json
import random
import tracemalloc
import zlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame
from websockets.frames import Opcode as TheirOpcode
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate
from wsproto.frame_protocol import Opcode as WsprotoOpcode
from wsproto.frame_protocol import RsvBits

from taut.errors import PayloadTooBig, ProtocolError
from taut.protocol.deflate import ContextPool, Deflate, DeflateParameters, backends, compress_message
from taut.protocol.deflate.backends import new_decompressor
from taut.types import DeflateOptions

ALL = dict(backends.backends)
FRESH = DeflateParameters(server_no_context_takeover=True, client_no_context_takeover=True)
HELLO = bytes.fromhex("f248cdc9c90700")
RFC_EXAMPLES = {
    "7.2.3.1": [("f248cdc9c90700", b"Hello")],
    "7.2.3.2": [("f248cdc9c90700", b"Hello"), ("f200110000", b"Hello")],
    "7.2.3.3": [("000500faff48656c6c6f00", b"Hello")],
    "7.2.3.4": [("f348cdc9c9070000", b"Hello")],
    "7.2.3.5": [("f248050000 00ffffcac9c90700", b"Hello")],
    "7.2.3.6": [("00", b"")],
}


@pytest.fixture(params=["zlib", "zlib-ng", "isal"])
def backend_name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Leave one backend, and the standard library's, which is always there."""
    name: str = request.param
    monkeypatch.setattr(backends, "backends", {each: ALL[each] for each in {"zlib", name}})
    assert backends.backend() == name
    return name


@pytest.fixture
def only_zlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "backends", {"zlib": ALL["zlib"]})


def codec(
    parameters: DeflateParameters = DeflateParameters(),  # noqa: B008
    *,
    server: bool = True,
    pool: ContextPool | None = None,
    level: int = -1,
    mem_level: int = 5,
) -> Deflate:
    options = DeflateOptions(level=level, mem_level=mem_level)
    return Deflate(parameters, options, server=server, pool=ContextPool() if pool is None else pool)


def pair(parameters: DeflateParameters) -> tuple[Deflate, Deflate]:
    return codec(parameters), codec(parameters, server=False)


def records(count: int, seed: int = 1) -> list[bytes]:
    """JSON messages that resemble each other."""
    source = random.Random(seed)
    return [
        json.dumps(
            [{"symbol": f"TAUT{source.randrange(20)}", "bid": source.random()} for _ in range(source.randrange(1, 40))]
        ).encode()
        for _ in range(count)
    ]


def repetitive(size: int, reach: int, seed: int = 1) -> bytes:
    """Bytes that repeat what stood up to ``reach`` bytes before, now and then."""
    source = random.Random(seed)
    data = bytearray(source.randbytes(64))
    while len(data) < size:
        start = len(data) - source.randint(1, min(len(data), reach))
        data += data[start : start + source.randint(3, 300)] + source.randbytes(source.randint(1, 9))
    return bytes(data[:size])


def cut(data: bytes, parts: int) -> Iterator[tuple[bytes, bool]]:
    """Cut into so many parts, each with whether it is the last."""
    size = max(1, -(-len(data) // parts))
    for index in range(parts):
        yield data[index * size : (index + 1) * size], index == parts - 1


def inflate_strictly(compressed: bytes, window_bits: int) -> bytes:
    """Inflate byte by byte, which leaves zlib nothing to refer back to but its window of this very size."""
    context = zlib.decompressobj(-window_bits)
    inflated = bytearray()
    for start in range(0, len(compressed), 64):
        rest = compressed[start : start + 64]
        while (byte := context.decompress(rest, 1)) or context.unconsumed_tail:
            inflated += byte
            rest = context.unconsumed_tail
    return bytes(inflated)


# ---- the examples of the RFC ----


@pytest.mark.parametrize("clause", RFC_EXAMPLES)
@pytest.mark.parametrize("step", [1, 3, 100])
def test_examples_are_inflated(clause: str, step: int, backend_name: str) -> None:
    deflate = codec()
    for payload, message in RFC_EXAMPLES[clause]:
        data = bytes.fromhex(payload)
        pieces = [data[at : at + step] for at in range(0, len(data), step)]
        inflated = [deflate.decompress(piece, None, False) for piece in pieces[:-1]]
        assert b"".join([*inflated, deflate.decompress(pieces[-1], None, True)]) == message


@pytest.mark.usefixtures("only_zlib")
@pytest.mark.parametrize("clause", ["7.2.3.1", "7.2.3.2", "7.2.3.6"])
def test_examples_are_compressed(clause: str) -> None:
    deflate = codec()
    for payload, message in RFC_EXAMPLES[clause]:
        assert deflate.compress(message) == bytes.fromhex(payload)


@pytest.mark.usefixtures("only_zlib")
def test_example_without_compression() -> None:
    assert codec(level=0).compress(b"Hello") == bytes.fromhex("000500faff48656c6c6f00")


def test_example_in_two_frames(backend_name: str) -> None:
    deflate = codec()
    assert deflate.decompress(HELLO[:3], None, False) + deflate.decompress(HELLO[3:], None, True) == b"Hello"


def test_without_context_takeover_equal_messages_are_equally_compressed(backend_name: str) -> None:
    deflate = codec(FRESH)
    assert deflate.compress(b"Hello") == deflate.compress(b"Hello") == HELLO


# ---- round trips ----


@pytest.mark.parametrize("server_bits", [8, 9, 12, 15])
@pytest.mark.parametrize("client_bits", [8, 9, 12, 15])
def test_every_agreement(server_bits: int, client_bits: int, backend_name: str) -> None:
    for server_fresh, client_fresh in itertools.product((False, True), repeat=2):
        server, client = pair(DeflateParameters(server_fresh, client_fresh, server_bits, client_bits))
        for index, message in enumerate([*records(8), b"", repetitive(5000, 4000), b"x"]):
            for sender, receiver in ((server, client), (client, server)):
                if index % 2:
                    assert receiver.decompress(sender.compress(message), len(message), True) == message
                else:
                    parts = [(sender.compress_part(part, end), end) for part, end in cut(message, 3)]
                    assert b"".join(receiver.decompress(part, None, end) for part, end in parts) == message


@pytest.mark.parametrize("level", range(-1, 10))
def test_no_reference_leaves_the_window(level: int, backend_name: str) -> None:
    for bits in range(8, 16):
        messages = [repetitive(3000, 2 << bits, seed) for seed in range(3)] + [repetitive(20_000, 2 << bits)]
        sender = codec(DeflateParameters(server_max_window_bits=bits), level=level)
        compressed = b"".join(sender.compress(message) + b"\x00\x00\xff\xff" for message in messages)
        assert inflate_strictly(compressed, bits) == b"".join(messages)


def test_the_strict_inflater_is_strict() -> None:
    far = random.Random(1).randbytes(257)
    compressor = zlib.compressobj(wbits=-10)
    compressed = compressor.compress(far + far) + compressor.flush(zlib.Z_SYNC_FLUSH)
    assert inflate_strictly(compressed, 9) == far + far
    with pytest.raises(zlib.error, match="distance too far back"):
        inflate_strictly(compressed, 8)


@pytest.mark.parametrize("mem_level", range(1, 10))
def test_every_mem_level(mem_level: int, backend_name: str) -> None:
    sender, receiver = codec(mem_level=mem_level), codec(server=False)
    for message in records(5):
        assert receiver.decompress(sender.compress(message), None, True) == message


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_bytes_like_payload(kind: type[bytes | bytearray | memoryview], backend_name: str) -> None:
    sender, receiver = pair(DeflateParameters())
    assert receiver.decompress(kind(sender.compress(kind(b"Hello"))), None, True) == b"Hello"
    part = sender.compress_part(kind(b"Hel"), False)
    assert receiver.decompress(kind(part), None, False) == b"Hel"
    assert receiver.decompress(kind(sender.compress_part(kind(b"lo"), True)), None, True) == b"lo"


def test_a_fragment_can_be_inflated_at_once(backend_name: str) -> None:
    sender, receiver = pair(DeflateParameters())
    for part, final in ((b"one", False), (b"", False), (b"two", False), (b"", True)):
        assert receiver.decompress(sender.compress_part(part, final), None, final) == part
    assert sender.compress_part(b"", True) == b"\x00"
    assert receiver.decompress(sender.compress(b"three"), None, True) == b"three"


def test_context_takeover_shortens_what_was_said_before(backend_name: str) -> None:
    message = records(1, seed=3)[0]
    with_takeover, without = codec(), codec(FRESH)
    first = with_takeover.compress(message)
    assert without.compress(message) == first
    assert len(with_takeover.compress(message)) < len(first) // 4
    assert without.compress(message) == first


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    bits=st.integers(8, 15),
    fresh=st.booleans(),
    steps=st.lists(
        st.tuples(st.integers(0, 2), st.lists(st.binary(max_size=900).map(lambda part: part * 3), min_size=1)),
        max_size=12,
    ),
)
def test_any_conversation_through_a_pool_of_one(
    bits: int, fresh: bool, steps: list[tuple[int, list[bytes]]], backend_name: str
) -> None:
    pool = ContextPool(1)
    parameters = DeflateParameters(fresh, fresh, bits, bits)
    senders = [codec(parameters, pool=pool) for _ in range(3)]
    receivers = [codec(parameters, server=False, pool=pool) for _ in range(3)]
    for which, parts in steps:
        for index, part in enumerate(parts):
            final = index == len(parts) - 1
            payload = senders[which].compress_part(part, final)
            half = len(payload) // 2
            inflated = receivers[which].decompress(payload[:half], None, False)
            assert inflated + receivers[which].decompress(payload[half:], None, final) == part


# ---- against other implementations ----


@pytest.mark.parametrize("bits", [9, 12, 15])
@pytest.mark.parametrize(("fresh", "their_fresh"), list(itertools.product((False, True), repeat=2)))
def test_conversation_with_websockets(bits: int, fresh: bool, their_fresh: bool, backend_name: str) -> None:
    ours = codec(DeflateParameters(fresh, their_fresh, bits, bits))
    theirs = PerMessageDeflate(fresh, their_fresh, bits, bits)
    for message in [*records(10), b"", repetitive(9000, 9000), b"end"]:
        for parts in (1, 3):
            received = []
            for index, (part, final) in enumerate(cut(message, parts)):
                opcode = TheirOpcode.CONT if index else TheirOpcode.BINARY
                frame = Frame(opcode, ours.compress_part(part, final), fin=final, rsv1=not index)
                received.append(theirs.decode(frame).data)
            assert b"".join(received) == message
            received = []
            for index, (part, final) in enumerate(cut(message, parts)):
                frame = theirs.encode(Frame(TheirOpcode.CONT if index else TheirOpcode.BINARY, part, fin=final))
                received.append(ours.decompress(frame.data, None, final))
            assert b"".join(received) == message
        assert theirs.decode(Frame(TheirOpcode.BINARY, ours.compress(message), rsv1=True)).data == message


@pytest.mark.parametrize("bits", [9, 12, 15])
@pytest.mark.parametrize(("server_fresh", "client_fresh"), list(itertools.product((False, True), repeat=2)))
@pytest.mark.parametrize("server", [False, True])
def test_conversation_with_wsproto(
    bits: int, server_fresh: bool, client_fresh: bool, server: bool, backend_name: str
) -> None:
    ours = codec(DeflateParameters(server_fresh, client_fresh, bits, bits), server=server)
    theirs = WsprotoDeflate(client_fresh, bits, server_fresh, bits)
    role = SimpleNamespace(client=server)
    for message in [*records(10), repetitive(9000, 9000), b"end"]:
        for parts in (1, 3):
            received: list[bytes] = []
            for index, (part, final) in enumerate(cut(message, parts)):
                opcode = WsprotoOpcode.CONTINUATION if index else WsprotoOpcode.BINARY
                theirs.frame_inbound_header(role, opcode, RsvBits(not index, False, False), 0)
                inflated = theirs.frame_inbound_payload_data(role, ours.compress_part(part, final))
                end = theirs.frame_inbound_complete(role, final)
                received += [each for each in (inflated, end) if isinstance(each, bytes)]
            assert b"".join(received) == message
            received = []
            for index, (part, final) in enumerate(cut(message, parts)):
                opcode = WsprotoOpcode.CONTINUATION if index else WsprotoOpcode.BINARY
                _, payload = theirs.frame_outbound(role, opcode, RsvBits(False, False, False), part, final)
                received.append(ours.decompress(payload, None, final))
            assert b"".join(received) == message


# ---- final blocks (7.2.3.4, 7.2.3.5) ----


def stream(data: bytes, window: bytes = b"") -> bytes:
    """A deflate stream that ends in a final block."""
    compressor = zlib.compressobj(wbits=-15, zdict=window) if window else zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


@pytest.mark.parametrize("ending", [b"", b"\x00"])
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_final_blocks(ending: bytes, step: int, backend_name: str) -> None:
    deflate = codec()
    one, two, three = records(3)
    payload = stream(one) + stream(two) + stream(b"") + stream(three) + ending
    pieces = [payload[at : at + step] for at in range(0, len(payload), step)]
    for _ in range(2):
        inflated = [deflate.decompress(piece, None, False) for piece in pieces]
        assert b"".join([*inflated, deflate.decompress(b"", None, True)]) == one + two + three
    assert deflate.decompress(HELLO, None, True) == b"Hello"


def test_the_window_outlives_a_final_block(backend_name: str) -> None:
    deflate = codec()
    one, two = records(2)
    assert deflate.decompress(stream(one) + stream(two, one) + b"\x00", None, True) == one + two
    assert deflate.decompress(stream(two, one + two) + b"\x00", None, True) == two


def test_the_limit_holds_across_final_blocks(backend_name: str) -> None:
    one, two = bytes(600), bytes(700)
    payload = stream(one) + stream(two) + b"\x00"
    assert codec().decompress(payload, 1300, True) == one + two
    for limit in (0, 599, 600, 601, 1299):
        with pytest.raises(PayloadTooBig) as raised:
            codec().decompress(payload, limit, True)
        assert (raised.value.size, raised.value.limit) == (limit + 1, limit)


def test_a_flood_of_final_blocks_is_refused(backend_name: str) -> None:
    assert codec().decompress(stream(b"") * 64, None, True) == b""
    with pytest.raises(ProtocolError, match="a flood of final blocks") as raised:
        codec().decompress(stream(b"") * 100_000, None, True)
    assert raised.value.code == 1008


@pytest.mark.parametrize("parameters", [DeflateParameters(), FRESH])
@pytest.mark.parametrize("parking", [False, True])
def test_a_flood_of_final_blocks_over_many_messages_is_refused(
    parameters: DeflateParameters, parking: bool, backend_name: str
) -> None:
    """Neither a new message nor a pool under pressure begins the count again."""
    pool = ContextPool(0 if parking else 1)
    deflate = codec(parameters, pool=pool)
    with pytest.raises(ProtocolError, match="a flood of final blocks") as raised:
        for _ in range(40):
            deflate.decompress(stream(b"") * 4, None, True)
    assert raised.value.code == 1008


@pytest.mark.parametrize("parameters", [DeflateParameters(), FRESH])
@pytest.mark.parametrize("ending", [b"", b"\x00"])
def test_a_peer_may_end_a_stream_with_every_message_or_fragment(
    parameters: DeflateParameters, ending: bytes, backend_name: str
) -> None:
    deflate = codec(parameters)
    for _ in range(1000):
        assert deflate.decompress(stream(b"Hello") + ending, None, True) == b"Hello"
    for _ in range(1000):
        assert deflate.decompress(stream(b"Hello"), None, False) == b"Hello"
    assert deflate.decompress(b"", None, True) == b""


def test_streams_of_some_size_may_follow_each_other(backend_name: str) -> None:
    one = random.Random(1).randbytes(300)
    assert codec().decompress(stream(one) * 200, None, True) == one * 200


def test_the_end_of_a_message_with_final_blocks_makes_no_context(
    backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def counting(*args: Any) -> Any:
        made.append(1)
        return new_decompressor(*args)

    monkeypatch.setattr("taut.protocol.deflate.inflater.new_decompressor", counting)
    deflate = codec()
    for ending in (b"", b"\x00"):
        for _ in range(5):
            assert deflate.decompress(stream(b"Hello") + ending, None, True) == b"Hello"
        assert deflate.decompress(stream(b"Hello"), None, False) == b"Hello"
        assert deflate.decompress(ending, None, True) == b""
    assert len(made) == 12


# ---- limits and bad input ----


@pytest.mark.parametrize("size", [1, 2, 1000, 32_768, 65_536, 300_000])
@pytest.mark.parametrize("content", ["zeros", "random"])
def test_the_limit_is_exact(size: int, content: str, backend_name: str) -> None:
    message = bytes(size) if content == "zeros" else random.Random(1).randbytes(size)
    payload = codec().compress(message)
    assert codec(server=False).decompress(payload, size, True) == message
    with pytest.raises(PayloadTooBig) as raised:
        codec(server=False).decompress(payload, size - 1, True)
    assert (raised.value.size, raised.value.limit, raised.value.code) == (size, size - 1, 1009)


def test_an_empty_message_fits_no_bytes_at_all(backend_name: str) -> None:
    assert codec().decompress(b"\x00", 0, True) == b""


def test_the_limit_is_exact_in_pieces(backend_name: str) -> None:
    message = repetitive(50_000, 30_000)
    payload = codec().compress(message)
    for allowed in (50_000, 49_999):
        receiver, left = codec(server=False), allowed
        pieces = [payload[at : at + 97] for at in range(0, len(payload), 97)]
        for piece in pieces[:-1]:
            left -= len(receiver.decompress(piece, left, False))
        if allowed == 50_000:
            assert left == len(receiver.decompress(pieces[-1], left, True))
        else:
            with pytest.raises(PayloadTooBig):
                receiver.decompress(pieces[-1], left, True)


def test_a_bomb_costs_no_more_than_the_limit(backend_name: str) -> None:
    compressor = zlib.compressobj(9, wbits=-15)
    bomb = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(128)) + compressor.flush(zlib.Z_SYNC_FLUSH)
    limit = 1 << 20
    deflate = codec()
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooBig) as raised:
            deflate.decompress(bomb[:-4], limit, True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert raised.value.size == limit + 1
    # zlib's blocks and the bytes that they are joined to, for a moment both; twice the payload; the window.
    assert peak < 2 * limit + 2 * len(bomb) + (256 << 10)


@pytest.mark.parametrize("payload", [b"\xff", b"\x07\x00", b"\x00\x05\x00\x00\x00Hello", b"\x02\x0a\x0a\x0a\x0a\x0a"])
def test_corrupt_data_is_refused(payload: bytes, backend_name: str) -> None:
    with pytest.raises(ProtocolError, match="compressed data is corrupt") as raised:
        codec().decompress(payload, None, True)
    assert raised.value.code == 1007


def test_corrupt_data_after_a_final_block_is_refused(backend_name: str) -> None:
    with pytest.raises(ProtocolError, match="compressed data is corrupt") as raised:
        codec().decompress(stream(b"Hello") + b"\xff\xff", None, True)
    assert raised.value.code == 1007


def test_a_reference_to_a_message_before_needs_context_takeover(backend_name: str) -> None:
    again = bytes.fromhex("f200110000")  # 7.2.3.2
    with pytest.raises(ProtocolError, match="corrupt"):
        codec().decompress(again, None, True)
    deflate = codec(FRESH)
    assert deflate.decompress(HELLO, None, True) == b"Hello"
    with pytest.raises(ProtocolError, match="corrupt"):
        deflate.decompress(again, None, True)


@given(garbage=st.binary(max_size=300))
def test_garbage_ends_in_bytes_or_a_protocol_error(garbage: bytes) -> None:
    ended = []
    for _ in range(2):
        try:
            ended.append(len(codec().decompress(garbage, 10_000, True)))
        except ProtocolError as exc:
            ended.append(exc.code)
    assert ended[0] == ended[1] <= 10_000


# ---- what a connection owns ----


def parked(deflate: Deflate) -> bytes:
    """What is left of a decompressor that was taken back: its window, and no context."""
    assert deflate._inflater is not None
    assert deflate._inflater._context is None
    return bytes(deflate._inflater._window)


def test_nothing_is_owned_until_it_is_needed(backend_name: str) -> None:
    pool = ContextPool()
    deflate = codec(pool=pool)
    assert deflate.compress(b"") == deflate.compress_part(b"", True) == b"\x00"
    assert deflate._compressor is deflate._inflater is None
    deflate.compress(b"Hello")
    assert (pool.compressors, pool.decompressors) == (1, 0)
    deflate.decompress(HELLO, None, True)
    assert (pool.compressors, pool.decompressors) == (1, 1)


def test_without_context_takeover_nothing_is_kept(backend_name: str) -> None:
    pool = ContextPool()
    deflate = codec(FRESH, pool=pool)
    deflate.compress(b"Hello")
    deflate.decompress(HELLO, None, True)
    assert deflate._compressor is None
    assert parked(deflate) == b""
    deflate.compress_part(b"Hello", False)
    assert pool.compressors == 1
    deflate.compress_part(b"Hello", True)
    assert (pool.compressors, pool.decompressors) == (0, 0)
    deflate.compress_part(b"Hello", False)
    deflate.compress_part(b"", True)  # the end of a message, even if nothing is left to compress
    assert pool.compressors == 0
    assert deflate.compress(b"Hello") == HELLO


def test_one_who_lost_its_compressor_starts_afresh(backend_name: str) -> None:
    pool = ContextPool(2)
    parameters = DeflateParameters()
    senders = [codec(parameters, pool=pool) for _ in range(3)]
    receivers = [codec(parameters, server=False) for _ in range(3)]
    for which in (0, 1, 0, 2, 1, 0):  # 2 takes that of 1, then 1 that of 0, then 0 that of 2
        assert receivers[which].decompress(senders[which].compress(b"Hello"), None, True) == b"Hello"
        assert pool.compressors == min(2, sum(sender._compressor is not None for sender in senders) or 1)
    assert [sender._compressor is None for sender in senders] == [False, False, True]
    assert senders[2].compress(b"Hello") == HELLO
    assert senders[0].compress(b"Hello") != HELLO


def test_a_parked_decompressor_goes_on_where_it_was(backend_name: str) -> None:
    pool = ContextPool(1)
    receivers = [codec(server=False, pool=pool) for _ in range(2)]
    senders = [codec(pool=ContextPool()) for _ in range(2)]
    for message in [*records(6), repetitive(80_000, 32_000), *records(6)]:
        for sender, receiver in zip(senders, receivers, strict=True):
            assert receiver.decompress(sender.compress(message), None, True) == message
        assert pool.decompressors == 1
        assert parked(receivers[0])
    assert len(parked(receivers[0])) == 1 << 15


def test_a_parked_window_is_as_large_as_agreed(backend_name: str) -> None:
    pool = ContextPool(1)
    parameters = DeflateParameters(server_max_window_bits=9)
    receiver = codec(parameters, server=False, pool=pool)
    receiver.decompress(codec(parameters).compress(bytes(100_000)), None, True)
    pool.clear()
    assert parked(receiver) == bytes(512)


def test_a_decompressor_within_a_message_is_not_parked(backend_name: str) -> None:
    pool = ContextPool(1)
    busy, other = codec(pool=pool), codec(pool=pool)
    assert busy.decompress(HELLO, None, True) == b"Hello"
    inflated = busy.decompress(HELLO[:3], None, False)
    assert pool.decompressors == 0
    other.decompress(HELLO, None, True)
    pool.clear()
    assert parked(other) == b"Hello"
    assert inflated + busy.decompress(HELLO[3:], None, True) == b"Hello"
    assert pool.decompressors == 1


def test_clear_gives_everything_back(backend_name: str) -> None:
    pool = ContextPool()
    sender, receiver = codec(pool=pool), codec(server=False, pool=pool)
    for _ in range(3):
        payload = sender.compress(b"Hello")
        assert payload == HELLO
        assert receiver.decompress(payload, None, True) == b"Hello"
        pool.clear()
        assert (pool.compressors, pool.decompressors) == (0, 0)
        assert sender._compressor is None
        assert parked(receiver)
    assert receiver.decompress(bytes.fromhex("f200110000"), None, True) == b"Hello"


def test_close_gives_everything_back(backend_name: str) -> None:
    pool = ContextPool()
    deflate = codec(pool=pool)
    deflate.compress(b"Hello")
    deflate.decompress(HELLO, None, True)
    deflate.close()
    deflate.close()
    assert (pool.compressors, pool.decompressors) == (0, 0)
    assert deflate._compressor is deflate._inflater is None


def test_a_shared_message_restarts_the_compressor(backend_name: str) -> None:
    pool = ContextPool()
    sender, receiver = codec(pool=pool), codec(server=False)
    first, shared, last = records(3)
    assert receiver.decompress(sender.compress(first), None, True) == first
    payload = compress_message(shared, sender.window_bits, DeflateOptions())
    assert payload == compress_message(memoryview(shared), sender.window_bits, DeflateOptions())
    assert receiver.decompress(payload, None, True) == shared
    sender.restart()
    assert pool.compressors == 0
    assert receiver.decompress(sender.compress(last), None, True) == last
    assert compress_message(b"", 15, DeflateOptions()) == b"\x00"


@pytest.mark.parametrize("bits", range(8, 16))
def test_a_shared_message_stays_within_its_window(bits: int, backend_name: str) -> None:
    message = repetitive(20_000, 2 << bits)
    payload = compress_message(message, bits, DeflateOptions())
    assert inflate_strictly(payload + b"\x00\x00\xff\xff", bits) == message


def test_a_failed_compression_leaves_nothing_behind(backend_name: str) -> None:
    sender, receiver = pair(DeflateParameters())
    assert receiver.decompress(sender.compress(b"Hello"), None, True) == b"Hello"
    with pytest.raises(TypeError):
        sender.compress("Hello")  # type: ignore[arg-type]
    assert sender.compress(b"Hello") == HELLO


# ---- which zlib ----


@pytest.mark.parametrize(
    ("installed", "level", "bits", "chosen"),
    [
        ({"zlib"}, -1, 12, "zlib"),
        ({"zlib"}, 1, 12, "zlib"),
        ({"zlib", "zlib-ng", "isal"}, -1, 12, "zlib-ng"),
        ({"zlib", "zlib-ng", "isal"}, 0, 12, "zlib-ng"),
        ({"zlib", "zlib-ng", "isal"}, 1, 12, "isal"),
        ({"zlib", "zlib-ng", "isal"}, 3, 15, "isal"),
        ({"zlib", "zlib-ng", "isal"}, 3, 8, "zlib-ng"),
        ({"zlib", "zlib-ng", "isal"}, 4, 12, "zlib-ng"),
        ({"zlib", "zlib-ng", "isal"}, 9, 12, "zlib-ng"),
        ({"zlib", "zlib-ng"}, 1, 12, "zlib-ng"),
        ({"zlib", "isal"}, -1, 12, "isal"),
        ({"zlib", "isal"}, -1, 8, "zlib"),
        ({"zlib", "isal"}, 0, 12, "zlib"),
        ({"zlib", "isal"}, 6, 12, "zlib"),
    ],
)
def test_choice(installed: set[str], level: int, bits: int, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "backends", {name: ALL[name] for name in installed})
    assert backends.backend(level, bits) == chosen


@pytest.mark.parametrize("bits", [12, 15])
def test_the_default_is_no_larger_than_that_of_zlib(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [b",".join(records(40, seed)) for seed in range(4)]
    sizes = {}
    for name in ("zlib", "zlib-ng"):
        monkeypatch.setattr(backends, "backends", {each: ALL[each] for each in {"zlib", name}})
        sender = codec(DeflateParameters(server_max_window_bits=bits))
        sizes[name] = sum(len(sender.compress(message)) for message in messages)
    assert sizes["zlib-ng"] <= sizes["zlib"]
