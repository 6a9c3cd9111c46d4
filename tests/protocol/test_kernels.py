"""The byte kernels against slow and obvious versions of themselves."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from taut.protocol import kernels

KEY = bytes.fromhex("37fa213d")
LONGEST = 300
KEYS = [KEY, bytes(4), b"\xff\xff\xff\xff", b"\x00\x00\x00\x80"]


# ---- masking (RFC 6455, 5.3) ----


def naive_mask(data: bytes, key: bytes, offset: int = 0) -> bytes:
    return bytes(byte ^ key[(index + offset) % 4] for index, byte in enumerate(data))


def random_bytes(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def random_ascii(size: int, seed: int = 1) -> bytes:
    return bytes(byte & 0x7F for byte in random_bytes(size, seed))


def test_mask_known_example() -> None:
    # RFC 6455, 5.7: a single-frame masked text message, "Hello"
    assert kernels.mask(b"Hello", KEY) == bytes.fromhex("7f9f4d5158")


@pytest.mark.parametrize("offset", range(4))
@pytest.mark.parametrize("key", KEYS, ids=bytes.hex)
def test_mask_every_length_and_alignment(key: bytes, offset: int) -> None:
    data = random_bytes(LONGEST)
    expected = naive_mask(data, key, offset)
    for alignment in range(16):
        source = memoryview(bytes(alignment) + data)[alignment:]
        for size in range(LONGEST + 1):
            assert kernels.mask(source[:size], key, offset) == expected[:size], (size, alignment)


@pytest.mark.parametrize("offset", range(4))
def test_mask_in_place_every_length_and_alignment(offset: int) -> None:
    data = random_bytes(LONGEST)
    expected = naive_mask(data, KEY, offset)
    guard = b"\xa5" * 32
    for alignment in range(16):
        before = guard + bytes(alignment)
        for size in range(LONGEST + 1):
            buffer = bytearray(before + data[:size] + guard)
            kernels.mask_within(buffer, len(before), len(before), size, KEY, offset)
            assert buffer == before + expected[:size] + guard, (size, alignment)


@pytest.mark.parametrize("offset", range(4))
@pytest.mark.parametrize("source_alignment", range(16))
def test_mask_between_alignments_writes_nothing_else(source_alignment: int, offset: int) -> None:
    data = random_bytes(LONGEST)
    expected = naive_mask(data, KEY, offset)
    guard = b"\xa5" * 32
    for alignment in (0, 1, 3, 4, 8, 15):
        for size in range(0, LONGEST + 1, 3):
            source = bytes(source_alignment) + data[:size] + guard
            target = len(source) + alignment
            buffer = bytearray(source + bytes(alignment) + bytes(size) + guard)
            kernels.mask_within(buffer, target, source_alignment, size, KEY, offset)
            assert buffer == source + bytes(alignment) + expected[:size] + guard, (size, alignment)


@pytest.mark.parametrize("size", [1000, 4095, 4096, 65537, 1_000_003])
@pytest.mark.parametrize("offset", range(4))
def test_mask_large(size: int, offset: int) -> None:
    data = random_bytes(size, seed=size)
    repeated = (KEY * (size // 4 + 2))[offset : offset + size]
    expected = (int.from_bytes(data, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")
    assert kernels.mask(memoryview(b"?" + data)[1:], KEY, offset) == expected
    buffer = bytearray(b"???" + data)
    kernels.mask_within(buffer, 3, 3, size, KEY, offset)
    assert buffer == b"???" + expected


@given(data=st.binary(max_size=700), key=st.binary(min_size=4, max_size=4), offset=st.integers(0, 2**40))
def test_mask_properties(data: bytes, key: bytes, offset: int) -> None:
    masked = kernels.mask(data, key, offset)
    assert masked == naive_mask(data, key, offset)
    assert kernels.mask(masked, key, offset) == data
    assert kernels.mask_ascii(data, key, offset) == (masked, masked.isascii())


@given(data=st.binary(max_size=700), cuts=st.lists(st.integers(0, 700), max_size=5))
def test_mask_in_pieces(data: bytes, cuts: list[int]) -> None:
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [kernels.mask(data[start:stop], KEY, start) for start, stop in itertools.pairwise(bounds)]
    assert b"".join(pieces) == kernels.mask(data, KEY)


@pytest.mark.parametrize("offset", range(4))
def test_mask_ascii_looks_at_the_output(offset: int) -> None:
    text = random_ascii(LONGEST)
    key = b"\x81\x02\xf3\x84"
    masked = naive_mask(text, key, offset)
    for size in range(LONGEST + 1):
        assert kernels.mask_ascii(masked[:size], key, offset) == (text[:size], True)


def test_ascii_test_sees_every_position() -> None:
    for size in range(1, LONGEST + 1):
        text = random_ascii(size)
        for position in range(size):
            spoiled = text[:position] + bytes([text[position] | 0x80]) + text[position + 1 :]
            assert kernels.copy_ascii(spoiled) == (spoiled, False), (size, position)
            assert kernels.mask_ascii(spoiled, KEY[::-1])[1] is naive_mask(spoiled, KEY[::-1]).isascii()


@pytest.mark.parametrize("alignment", range(16))
def test_copy_ascii(alignment: int) -> None:
    text, data = random_ascii(LONGEST), random_bytes(LONGEST)
    for size in range(LONGEST + 1):
        assert kernels.copy_ascii(memoryview(bytes(alignment) + text)[alignment:][:size]) == (text[:size], True)
        copy = kernels.copy_ascii(memoryview(bytes(alignment) + data)[alignment:][:size])
        assert copy == (data[:size], data[:size].isascii())


@pytest.mark.parametrize("key", [b"", b"abc", b"abcde", bytearray(4), None, "abcd", 0])
def test_key_must_be_four_bytes(key: object) -> None:
    with pytest.raises(ValueError, match="key"):
        kernels.mask(b"data", key)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="key"):
        kernels.mask_ascii(b"data", key)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="key"):
        kernels.mask_within(bytearray(4), 0, 0, 4, key)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("key", [b"", b"abc", b"abcde"])
def test_head_key_must_be_four_bytes(key: bytes) -> None:
    with pytest.raises(ValueError, match="key"):
        kernels.pack_head(0x82, 1, key)


@pytest.mark.parametrize(
    ("target", "source", "size", "complaint"),
    [(0, 1, 4, "overlap"), (1, 0, 4, "overlap"), (0, 7, 4, "leaves"), (7, 0, 4, "leaves"), (0, 0, 11, "leaves")],
)
def test_mask_within_refuses(target: int, source: int, size: int, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        kernels.mask_within(bytearray(10), target, source, size, KEY)


# ---- UTF-8 (RFC 3629; RFC 6455, 8.1) ----

#: RFC 3629, 4, as it is written there: the ranges of each byte of each kind of character.
TAIL = (0x80, 0xBF)
CHARACTERS = [
    [(0x00, 0x7F)],
    [(0xC2, 0xDF), TAIL],
    [(0xE0, 0xE0), (0xA0, 0xBF), TAIL],
    [(0xE1, 0xEC), TAIL, TAIL],
    [(0xED, 0xED), (0x80, 0x9F), TAIL],
    [(0xEE, 0xEF), TAIL, TAIL],
    [(0xF0, 0xF0), (0x90, 0xBF), TAIL, TAIL],
    [(0xF1, 0xF3), TAIL, TAIL, TAIL],
    [(0xF4, 0xF4), (0x80, 0x8F), TAIL, TAIL],
]
#: Both ends of every range above, and their neighbours.
EDGES = sorted(
    {0x00, 0x41, 0xFF}
    | {
        byte
        for character in CHARACTERS
        for low, high in character
        for byte in (low - 1, low, high, high + 1)
        if 0 <= byte <= 0xFF
    }
)


def naive_utf8(data: bytes) -> tuple[int, int]:
    """The index of the first impossible byte, -1 if none, and how many bytes of a character are unfinished."""
    seen: list[int] = []
    for index, byte in enumerate(data):
        seen.append(byte)
        kinds = [
            kind
            for kind in CHARACTERS
            if len(kind) >= len(seen)
            and all(low <= value <= high for (low, high), value in zip(kind, seen, strict=False))
        ]
        if not kinds:
            return index, 0
        if len(kinds[0]) == len(seen):
            seen = []
    return -1, len(seen)


def check_utf8(data: bytes, alignment: int = 0) -> None:
    """Feed data whole, in a fresh allocation, and compare with the naive version."""
    bad, pending = naive_utf8(data)
    state = kernels.utf8_feed(0, memoryview(bytes(alignment) + data)[alignment:])
    if bad >= 0:
        assert state is None, data
        assert kernels.utf8_feed(0, data[:bad]) is not None, data
        assert kernels.utf8_feed(0, data[: bad + 1]) is None, data
    else:
        assert state is not None, data
        assert kernels.utf8_pending(state) == pending, data
        assert (state == 0) is (pending == 0), data


@pytest.mark.parametrize("lead", range(256))
def test_utf8_every_lead_with_representative_continuations(lead: int) -> None:
    for size in range(3):
        for rest in itertools.product(EDGES, repeat=size):
            check_utf8(bytes([lead, *rest]))


@pytest.mark.parametrize("lead", [0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5])
def test_utf8_four_bytes(lead: int) -> None:
    few = [0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC3]
    for rest in itertools.product(few, repeat=3):
        check_utf8(bytes([lead, *rest]))


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ("", "80"),
        ("", "bf"),
        ("", "c0"),
        ("", "c1"),
        ("e0", "9f"),
        ("ed", "a0"),
        ("f0", "8f"),
        ("f4", "90"),
        ("", "f5"),
        ("", "f8"),
        ("", "ff"),
        ("c3", "28"),
        ("e2 82", "28"),
        ("f0 9f 98", "28"),
        ("f0 9f 98", "f0"),
        ("e2", "c3"),
    ],
)
def test_utf8_fails_at_the_offending_byte(good: str, bad: str) -> None:
    for text in ("", "a", "é", "a" * 40, "é" * 40, "漢字" * 20, "😀" * 20):
        state = kernels.utf8_feed(0, text.encode() + bytes.fromhex(good))
        assert state is not None
        assert kernels.utf8_pending(state) == len(bytes.fromhex(good))
        assert kernels.utf8_feed(state, bytes.fromhex(bad)) is None
        for after in ("", "a" * 40, "é" * 40):
            spoiled = text.encode() + bytes.fromhex(good + bad) + after.encode()
            assert kernels.utf8_feed(0, spoiled) is None


@pytest.mark.parametrize("alignment", range(16))
def test_utf8_invalid_byte_anywhere_in_ascii(alignment: int) -> None:
    text = random_ascii(150)
    for size in (1, 7, 15, 16, 17, 31, 33, 64, 65, 100, 128, 150):
        for position in range(size):
            for byte in (0x80, 0xC0, 0xFF):
                spoiled = bytearray(bytes(alignment) + text[:size])
                spoiled[alignment + position] = byte
                assert kernels.utf8_feed(0, memoryview(spoiled)[alignment:]) is None, (size, position)


@pytest.mark.parametrize("filling", ["a", "é", "漢", "😀"])
@pytest.mark.parametrize("character", ["é", "\u0800", "漢", "\ud7ff", "\ue000", "😀", "\U0010ffff"])
def test_utf8_character_at_every_position(filling: str, character: str) -> None:
    for before in range(70):
        start = filling.encode() * before + character.encode()
        for after in (0, 1, 2, 3, 15, 16, 33, 70):
            data = start + filling.encode() * after
            assert kernels.utf8_feed(0, data) == 0
            broken = bytearray(data)
            broken[len(start) - 1] = 0x41
            assert kernels.utf8_feed(0, broken) is None


@pytest.mark.parametrize("second", EDGES)
def test_utf8_every_pair_inside_long_text(second: int) -> None:
    for lead in range(0x80, 0x100):
        for rest in ([], [0x80], [0x80, 0xBF]):
            middle = bytes([lead, second, *rest])
            position = 3 + (lead + second) % 29  # of the pair in a piece that is checked many bytes at a time
            data = "é".encode() * (position // 2) + b"a" * (position % 2) + middle + "漢".encode() * 12
            valid = naive_utf8(middle) == (-1, 0)
            assert (kernels.utf8_feed(0, data) == 0) is valid, middle


@pytest.mark.parametrize("position", range(140))
def test_utf8_truncated_character_before_anything(position: int) -> None:
    for character, follower in itertools.product(("é", "漢", "😀"), ("a", "é", "漢", "😀")):
        whole = character.encode()
        for kept in range(1, len(whole)):
            check_utf8(b"a" * position + whole[:kept] + follower.encode() * 3)
            check_utf8(("é" * position).encode()[:position] + whole[:kept])


@pytest.mark.parametrize("character", ["é", "漢", "😀"])
def test_utf8_pending_counts_bytes_seen(character: str) -> None:
    whole = character.encode()
    state = 0
    for seen, byte in enumerate(whole):
        assert kernels.utf8_pending(state) == seen
        next_state = kernels.utf8_feed(state, bytes([byte]))
        assert next_state is not None
        state = next_state
    assert state == 0
    assert kernels.utf8_pending(state) == 0


def test_utf8_nothing_changes_nothing() -> None:
    state = kernels.utf8_feed(0, b"\xf0\x9f")
    assert state is not None
    assert kernels.utf8_feed(state, b"") == state
    assert kernels.utf8_feed(0, b"") == 0


@given(text=st.text(max_size=200), repeat=st.integers(1, 4))
def test_utf8_accepts_all_text(text: str, repeat: int) -> None:
    assert kernels.utf8_feed(0, text.encode() * repeat) == 0


@given(text=st.text(max_size=60), cuts=st.lists(st.integers(0, 240), max_size=6))
def test_utf8_in_pieces(text: str, cuts: list[int]) -> None:
    data = text.encode()
    state = 0
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, stop in itertools.pairwise(bounds):
        next_state = kernels.utf8_feed(state, data[start:stop])
        assert next_state is not None
        assert kernels.utf8_pending(next_state) == naive_utf8(data[:stop])[1]
        state = next_state
    assert state == 0


@given(
    text=st.text(max_size=120),
    filling=st.integers(0, 80),
    damage=st.lists(st.tuples(st.integers(0, 500), st.sampled_from(EDGES)), max_size=3),
)
@example(text="", filling=0, damage=[])
def test_utf8_agrees_with_bytes_decode(text: str, filling: int, damage: list[tuple[int, int]]) -> None:
    data = bytearray(b"a" * filling + text.encode())
    for position, byte in damage:
        if data:
            data[position % len(data)] = byte
    try:
        data.decode()
        decodes = True
    except UnicodeDecodeError:
        decodes = False
    assert (kernels.utf8_feed(0, data) == 0) is decodes
    check_utf8(bytes(data))


@given(pieces=st.lists(st.sampled_from([b"\x80", b"\xc3", b"\xe2\x82", b"\xf0\x9f", b"a", "é".encode(), b"\xed"])))
def test_utf8_broken_characters(pieces: list[bytes]) -> None:
    check_utf8(b"".join(pieces), alignment=len(pieces) % 16)


# ---- frame heads (RFC 6455, 5.2) ----


def naive_head(first: int, length: int, key: bytes | None) -> bytes:
    flag = 0 if key is None else 0x80
    if length < 126:
        field = bytes([flag | length])
    elif length < 2**16:
        field = bytes([flag | 126]) + length.to_bytes(2, "big")
    else:
        field = bytes([flag | 127]) + length.to_bytes(8, "big")
    return bytes([first]) + field + (key or b"")


LENGTHS = [0, 1, 125, 126, 127, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]


@pytest.mark.parametrize("key", [None, KEY, bytes(4)])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("first", [0x00, 0x81, 0x82, 0x89, 0xC1, 0xFF])
def test_head_and_every_truncation(first: int, length: int, key: bytes | None) -> None:
    head = naive_head(first, length, key)
    assert kernels.pack_head(first, length, key) == head
    assert kernels.unpack_head(head) == (first, length, key, True, len(head))
    assert kernels.unpack_head(head + b"\xff" * 20) == (first, length, key, True, len(head))
    for available in range(len(head)):
        needed = 2 if available < 2 else len(head)
        assert kernels.unpack_head(head[:available]) == needed, available


@pytest.mark.parametrize(
    ("head", "length", "minimal"),
    [
        ("82 7e 0000", 0, False),
        ("82 7e 0001", 1, False),
        ("82 7e 007d", 125, False),
        ("82 7e 007e", 126, True),
        ("82 7f 0000000000000000", 0, False),
        ("82 7f 000000000000007d", 125, False),
        ("82 7f 000000000000007e", 126, False),
        ("82 7f 000000000000ffff", 65535, False),
        ("82 7f 0000000000010000", 65536, True),
        ("82 7f 8000000000000000", 2**63, True),
    ],
)
def test_head_not_minimal(head: str, length: int, minimal: bool) -> None:
    data = bytes.fromhex(head)
    assert kernels.unpack_head(data) == (0x82, length, None, minimal, len(data))
    masked = bytes([data[0], data[1] | 0x80]) + data[2:] + KEY
    assert kernels.unpack_head(masked) == (0x82, length, KEY, minimal, len(masked))


@given(
    first=st.integers(0, 255),
    length=st.integers(0, 64).flatmap(lambda bits: st.integers(0, 2**bits - 1)),
    key=st.none() | st.binary(min_size=4, max_size=4),
)
def test_head_round_trip(first: int, length: int, key: bytes | None) -> None:
    head = kernels.pack_head(first, length, key)
    assert head == naive_head(first, length, key)
    assert kernels.unpack_head(head) == (first, length, key, True, len(head))


@pytest.mark.parametrize(("first", "length"), [(-1, 0), (256, 0), (0, -1), (0, 2**64)])
def test_pack_head_refuses(first: int, length: int) -> None:
    with pytest.raises(ValueError, match="length" if first == 0 else "first"):
        kernels.pack_head(first, length, None)
