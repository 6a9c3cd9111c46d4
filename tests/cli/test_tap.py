from __future__ import annotations

import pytest

from taut.cli.tap import Frame, _FrameReader
from taut.types import Opcode

HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
CASES = [
    (b"\x81\x05hello", Frame(1, False, Opcode.TEXT, True, False, False, 5, 7)),
    (b"\x02\x00", Frame(1, False, Opcode.BINARY, False, False, False, 0, 2)),
    (b"\xc1\x81abcd\x00", Frame(1, False, Opcode.TEXT, True, True, True, 1, 7)),
    (b"\x80\x7e\x00\x80" + bytes(128), Frame(1, False, Opcode.CONT, True, False, False, 128, 132)),
    (b"\x82\xfe\x01\x00abcd" + bytes(256), Frame(1, False, Opcode.BINARY, True, False, True, 256, 264)),
    (
        b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00" + bytes(65536),
        Frame(1, False, Opcode.BINARY, True, False, False, 65536, 65546),
    ),
    (b"\x88\x02\x03\xe8", Frame(1, False, Opcode.CLOSE, True, False, False, 2, 4)),
]


@pytest.mark.parametrize(("data", "frame"), CASES)
def test_a_frame_is_read_as_it_was_on_the_wire(data: bytes, frame: Frame) -> None:
    reader = _FrameReader(1, from_client=False)
    assert list(reader.feed(HEAD + data[:-1])) == []
    assert list(reader.feed(data[-1:])) == [frame]


def test_any_split_gives_the_same_frames() -> None:
    stream = HEAD + b"".join(data for data, _ in CASES if len(data) < 1000)
    expected = [frame for data, frame in CASES if len(data) < 1000]
    for size in range(1, 40):
        reader = _FrameReader(1, from_client=False)
        found = [frame for i in range(0, len(stream), size) for frame in reader.feed(stream[i : i + size])]
        assert found == expected
