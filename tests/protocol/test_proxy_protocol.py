"""The header of the PROXY protocol, byte by byte."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taut.errors import InvalidMessage
from taut.protocol.proxy_protocol import ProxyHeader, ProxyHeaderReader, encode_proxy_header

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
REST = b"GET / HTTP/1.1\r\n"


def read(data: bytes, step: int | None = None, **options: Any) -> tuple[ProxyHeader, bytes]:
    """The header, and what follows it, when it is fed in pieces of that size."""
    reader = ProxyHeaderReader(**options)
    step = step or len(data)
    for start in range(0, len(data), step):
        if reader.feed(data[start : start + step]):
            return reader.header, reader.remaining + data[start + step :]
    raise EOFError


def v2(command: int, family: int, body: bytes, size: int | None = None) -> bytes:
    size = len(body) if size is None else size
    return SIGNATURE + bytes([command, family]) + size.to_bytes(2, "big") + body


TCP4 = bytes([192, 0, 2, 1, 198, 51, 100, 7]) + bytes.fromhex("d431 01bb")
TCP6 = (
    ipaddress.ip_address("2001:db8::1").packed + ipaddress.ip_address("2001:db8::2").packed + bytes.fromhex("d43101bb")
)
UNIX = b"/run/client".ljust(108, b"\0") + b"\0abstract".ljust(108, b"\0")
CLIENT4, SERVER4 = ("192.0.2.1", 54321), ("198.51.100.7", 443)
CLIENT6, SERVER6 = ("2001:db8::1", 54321, 0, 0), ("2001:db8::2", 443, 0, 0)

GOOD = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.7 54321 443\r\n", ProxyHeader(1, "PROXY", CLIENT4, SERVER4)),
    (b"PROXY TCP6 2001:db8::1 2001:db8::2 54321 443\r\n", ProxyHeader(1, "PROXY", CLIENT6, SERVER6)),
    (
        b"PROXY TCP6 ffff:f:f:f:f:f:f:ffff ffff:f:f:f:f:f:f:ffff 65535 0\r\n",
        ProxyHeader(1, "PROXY", ("ffff:f:f:f:f:f:f:ffff", 65535, 0, 0), ("ffff:f:f:f:f:f:f:ffff", 0, 0, 0)),
    ),
    (b"PROXY UNKNOWN\r\n", ProxyHeader(1, "PROXY")),
    (b"PROXY UNKNOWN ffff::1 what ever 1 2\r\n", ProxyHeader(1, "PROXY")),
    (b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", ProxyHeader(1, "PROXY")),  # 107 bytes
    (v2(0x21, 0x11, TCP4), ProxyHeader(2, "PROXY", CLIENT4, SERVER4)),
    (v2(0x21, 0x12, TCP4), ProxyHeader(2, "PROXY", CLIENT4, SERVER4)),
    (v2(0x21, 0x21, TCP6), ProxyHeader(2, "PROXY", CLIENT6, SERVER6)),
    (v2(0x21, 0x22, TCP6), ProxyHeader(2, "PROXY", CLIENT6, SERVER6)),
    (v2(0x21, 0x31, UNIX), ProxyHeader(2, "PROXY", "/run/client", b"\0abstract")),
    (v2(0x21, 0x32, bytes(216)), ProxyHeader(2, "PROXY", "", "")),
    (v2(0x21, 0x31, b"p" * 108 + b"q" * 108), ProxyHeader(2, "PROXY", "p" * 108, "q" * 108)),
    (
        v2(0x21, 0x11, TCP4 + b"\x02\x00\x03a.b" + b"\xea\x00\x00"),
        ProxyHeader(2, "PROXY", CLIENT4, SERVER4, ((2, b"a.b"), (0xEA, b""))),
    ),
    (v2(0x21, 0x00, b""), ProxyHeader(2, "PROXY")),
    (v2(0x21, 0x00, b"of a kind that nobody knows"), ProxyHeader(2, "PROXY")),
    (v2(0x20, 0x00, b""), ProxyHeader(2, "LOCAL")),
    (v2(0x20, 0x11, TCP4), ProxyHeader(2, "LOCAL")),
    (v2(0x20, 0xFF, b"to be ignored"), ProxyHeader(2, "LOCAL")),
]

BAD = [
    (b"GET / HTTP/1.1\r\n", "this is no header"),
    (b"\x16\x03\x01", "this is no header"),
    (b"proxy TCP4 192.0.2.1 198.51.100.7 54321 443\r\n", "this is no header"),
    (SIGNATURE[:11] + b"\r", "this is no header"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.7 54321 443\n", "malformed line"),
    (b"PROXY \n", "malformed line"),
    (b"PROXY UNKNOWNX\r\n", "malformed line"),
    (b"PROXY UNKNOWN \r \r\n", "malformed line"),
    (b"PROXY  TCP4 192.0.2.1 198.51.100.7 54321 443\r\n", "malformed line"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.7 54321  443\r\n", "malformed line"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.7 54321 443 \r\n", "malformed line"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.7 54321\r\n", "malformed line"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.7 054321 443\r\n", "malformed line"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.7 +4321 443\r\n", "malformed line"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.7 65536 443\r\n", "no port 65536"),
    (b"PROXY TCP4 192.0.2.01 198.51.100.7 54321 443\r\n", "192.0.2.01"),
    (b"PROXY TCP4 192.0.2 198.51.100.7 54321 443\r\n", "192.0.2"),
    (b"PROXY TCP4 ::1 198.51.100.7 54321 443\r\n", "::1"),
    (b"PROXY TCP6 192.0.2.1 198.51.100.7 54321 443\r\n", "192.0.2.1"),
    (b"PROXY TCP6 fe80::1%eth0 ::1 54321 443\r\n", "malformed line"),
    (b"PROXY UDP4 192.0.2.1 198.51.100.7 54321 443\r\n", "malformed line"),
    (b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n", "longer than 107 bytes"),
    (b"PROXY UNKNOWN " + b"x" * 200, "longer than 107 bytes"),
    (v2(0x22, 0x11, TCP4), "0x22"),
    (v2(0x31, 0x11, TCP4), "0x31"),
    (v2(0x11, 0x11, TCP4), "0x11"),
    (v2(0x21, 0x10, TCP4), "0x10"),
    (v2(0x21, 0x41, TCP4), "0x41"),
    (v2(0x21, 0x13, TCP4), "0x13"),
    (v2(0x21, 0x11, TCP4[:-1]), "11 bytes are too few"),
    (v2(0x21, 0x21, TCP6[:-1]), "35 bytes are too few"),
    (v2(0x21, 0x31, UNIX[:-1]), "215 bytes are too few"),
    (v2(0x21, 0x11, TCP4 + b"\x02"), "cut short"),
    (v2(0x21, 0x11, TCP4 + b"\x02\x00"), "cut short"),
    (v2(0x21, 0x11, TCP4 + b"\x02\x00\x04a.b"), "cut short"),
    (v2(0x21, 0x11, b"", 4097), "4097 bytes is over the limit of 4096"),
    (v2(0x20, 0x00, b"", 65535), "over the limit"),
]


@pytest.mark.parametrize("step", [None, 1, 7])
@pytest.mark.parametrize(("data", "header"), GOOD)
def test_a_header_is_read(data: bytes, header: ProxyHeader, step: int | None) -> None:
    assert read(data, step) == (header, b"")
    assert read(data + REST, step) == (header, REST)


@pytest.mark.parametrize(("data", "header"), GOOD)
def test_a_header_that_is_cut_short_is_not_complete(data: bytes, header: ProxyHeader) -> None:
    reader = ProxyHeaderReader()
    for byte in data[:-1]:
        assert not reader.feed(bytes([byte]))
        with pytest.raises(RuntimeError, match="not complete"):
            _ = reader.header
    with pytest.raises(InvalidMessage, match="closed before the header was complete"):
        reader.eof()
    with pytest.raises(RuntimeError, match="nothing more may be fed"):
        reader.feed(data[-1:])


@pytest.mark.parametrize("step", [None, 1, 7])
@pytest.mark.parametrize(("data", "problem"), BAD)
def test_what_is_no_header_is_refused(data: bytes, problem: str, step: int | None) -> None:
    with pytest.raises(InvalidMessage, match=problem) as caught:
        read(data, step)
    assert str(caught.value).startswith("PROXY protocol: ")


@pytest.mark.parametrize("first", [b"G", b"PROXI", b"\r\n\r\n\x00\r\nQUIT\r", b"\x00", b"Q"])
def test_the_first_wrong_byte_is_enough(first: bytes) -> None:
    with pytest.raises(InvalidMessage, match="no header"):
        ProxyHeaderReader().feed(first)


def test_a_complete_header_takes_nothing_more() -> None:
    reader = ProxyHeaderReader()
    assert reader.feed(b"PROXY UNKNOWN\r\n")
    reader.eof()
    with pytest.raises(RuntimeError, match="nothing more may be fed"):
        reader.feed(b"x")


def test_the_limit_is_exact() -> None:
    value = b"\x30" + (40 - 12 - 3).to_bytes(2, "big") + bytes(40 - 12 - 3)
    data = v2(0x21, 0x11, TCP4 + value)
    header, _ = read(data, max_size=40)
    assert header.tlvs == ((0x30, bytes(25)),)
    with pytest.raises(InvalidMessage, match="a header of 40 bytes is over the limit of 39"):
        read(data[:16], max_size=39)  # before anything of it has come


@pytest.mark.parametrize(("value", "secure"), [(b"\x01\0\0\0\0", True), (b"\x06\0\0\0\0", False), (b"", None)])
def test_the_proxy_may_say_that_the_client_uses_tls(value: bytes, secure: bool | None) -> None:
    tlvs = b"\x01\x00\x02h2" + b"\x20" + len(value).to_bytes(2, "big") + value
    header, _ = read(v2(0x21, 0x11, TCP4 + tlvs))
    assert header.secure is secure
    assert read(v2(0x21, 0x11, TCP4))[0].secure is None


# -- properties ------------------------------------------------------------------------------------------------

ports = st.integers(0, 65535)
lines = st.one_of(
    st.tuples(st.just(4), st.ip_addresses(v=4), st.ip_addresses(v=4), ports, ports),
    st.tuples(st.just(6), st.ip_addresses(v=6), st.ip_addresses(v=6), ports, ports),
)
cuts = st.lists(st.integers(1, 60), max_size=6)


@given(lines, cuts, st.binary(max_size=20))
def test_properties_of_both_versions_say_the_same(line: Any, cuts: list[int], rest: bytes) -> None:
    version, source, destination, from_port, to_port = line
    text = f"PROXY TCP{version} {source} {destination} {from_port} {to_port}\r\n".encode()
    packed = source.packed + destination.packed + from_port.to_bytes(2, "big") + to_port.to_bytes(2, "big")
    binary = v2(0x21, 0x11 if version == 4 else 0x21, packed)
    for data in (text, binary):
        header, remaining = read_in_pieces(data + rest, cuts)
        assert header.source[:2] == (str(source), from_port)
        assert header.destination[:2] == (str(destination), to_port)
        assert remaining == rest


def read_in_pieces(data: bytes, cuts: list[int]) -> tuple[ProxyHeader, bytes]:
    reader = ProxyHeaderReader()
    for cut in cuts:
        if reader.feed(data[:cut]):
            return reader.header, reader.remaining + data[cut:]
        data = data[cut:]
    assert reader.feed(data)
    return reader.header, reader.remaining


def outcome(data: bytes, cuts: list[int]) -> object:
    """The header and what follows, the error, or None for a header that is not complete."""
    reader, fed = ProxyHeaderReader(), 0
    for cut in [*cuts, len(data) + 1]:
        try:
            if reader.feed(data[fed : fed + cut]):
                return reader.header, reader.remaining + data[fed + cut :]
        except InvalidMessage as exc:
            return str(exc)
        fed += cut
    return None


almost = st.sampled_from([data for data, _ in GOOD] + [data for data, _ in BAD])


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(almost))
    for _ in range(draw(st.integers(0, 3))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))]) + draw(st.binary(max_size=8))


@given(st.one_of(mutated(), st.binary(max_size=150)), cuts)
def test_fuzz_the_outcome_does_not_depend_on_how_the_bytes_are_split(data: bytes, cuts: list[int]) -> None:
    assert outcome(data, cuts) == outcome(data, [])


# -- writing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        (("192.0.2.1", 40000), ("198.51.100.7", 443)),
        (("2001:db8::1", 40000, 0, 0), ("2001:db8::2", 443, 0, 0)),
        (("fe80::1%eth0", 1, 0, 2), ("fe80::2", 65535, 0, 0)),
    ],
)
def test_what_is_written_is_read(source: Any, destination: Any) -> None:
    reader = ProxyHeaderReader()
    assert reader.feed(encode_proxy_header(source, destination) + b"GET")
    header = reader.header
    assert (header.version, header.command) == (2, "PROXY")
    assert (header.source, header.destination) == tuple(
        (address[0].partition("%")[0], *address[1:2], *(0, 0)[: len(address) - 2]) for address in (source, destination)
    )
    assert reader.remaining == b"GET"


@pytest.mark.parametrize(
    ("source", "destination", "command"),
    [
        (None, None, "LOCAL"),
        ("", ("192.0.2.1", 80), "PROXY"),
        (("192.0.2.1", 1), ("::1", 80, 0, 0), "PROXY"),
        (("192.0.2.1", 1), None, "PROXY"),
    ],
)
def test_what_is_not_known_is_not_written(source: Any, destination: Any, command: str) -> None:
    reader = ProxyHeaderReader()
    assert reader.feed(encode_proxy_header(source, destination))
    assert (reader.header.command, reader.header.source, reader.header.destination) == (command, None, None)
