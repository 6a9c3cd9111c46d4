"""What trusted proxies say in headers: whom it is believed, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taut.errors import InvalidHeader
from taut.protocol.forwarded import Address, Forwarding, read_forwarding
from taut.types import Headers


def trusted(address: Address) -> bool:
    return address[0].startswith(("10.", "fd00:"))


def read(*lines: tuple[str, str]) -> Forwarding | None:
    return read_forwarding(Headers(lines), trusted)


def forwarded(*values: str) -> Forwarding | None:
    return read(*(("Forwarded", value) for value in values))


def test_no_header_says_nothing() -> None:
    assert read(("Host", "example.com"), ("Via", "1.1 gate")) is None
    assert read(("X-Forwarded-For", " , ")) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("for=192.0.2.60", Forwarding(("192.0.2.60", 0))),
        ("for=192.0.2.60;proto=http;by=203.0.113.43", Forwarding(("192.0.2.60", 0), False)),
        ("For=192.0.2.43;PROTO=HTTPS;Host=example.com", Forwarding(("192.0.2.43", 0), True, "example.com")),
        ('for="192.0.2.43:47011"', Forwarding(("192.0.2.43", 47011))),
        ('for="192.0.2.43:_port"', Forwarding(("192.0.2.43", 0))),
        ('For="[2001:db8:cafe::17]:4711"', Forwarding(("2001:db8:cafe::17", 4711, 0, 0))),
        ('for="[2001:DB8::0017]"', Forwarding(("2001:db8::17", 0, 0, 0))),
        (r'for="192.\0.2\.60"', Forwarding(("192.0.2.60", 0))),
        ("for=unknown;proto=https", Forwarding(None, True)),
        ("for=_hidden, for=_SEVKISEK", Forwarding()),
        ("proto=https", Forwarding(None, True)),
        ('host="example.com:8443";proto=wss', Forwarding(None, True, "example.com:8443")),
        ("for=192.0.2.43 ; proto=https ;; ", Forwarding(("192.0.2.43", 0), True)),
        (" , for=192.0.2.43 ,, ", Forwarding(("192.0.2.43", 0))),
        ("for=192.0.2.43;other=x;secret=_y", Forwarding(("192.0.2.43", 0))),
        # from the right, as far as proxies are trusted
        ("for=1.1.1.1, for=192.0.2.43", Forwarding(("192.0.2.43", 0))),
        ("for=192.0.2.43;proto=https, for=10.0.0.1;proto=http", Forwarding(("192.0.2.43", 0), True)),
        ("for=6.6.6.6;proto=https, for=192.0.2.43;proto=http, for=10.0.0.1", Forwarding(("192.0.2.43", 0), False)),
        ('for=192.0.2.43, for="[fd00::1]:5", for=10.0.0.1', Forwarding(("192.0.2.43", 0))),
        ("for=10.0.0.2, for=10.0.0.1", Forwarding(("10.0.0.2", 0))),
        ("for=192.0.2.43, for=unknown, for=10.0.0.1", Forwarding(("10.0.0.1", 0))),
        ("for=192.0.2.43, proto=https", Forwarding(None, True)),
    ],
)
def test_forwarded_is_read_from_the_right(value: str, expected: Forwarding) -> None:
    assert forwarded(value) == expected


def test_several_lines_are_one_list() -> None:
    assert forwarded("for=1.1.1.1, for=192.0.2.43", "for=10.0.0.1") == Forwarding(("192.0.2.43", 0))


@pytest.mark.parametrize(
    "value",
    [
        "for",
        "for=",
        "=x",
        "for = 192.0.2.43",
        'for="192.0.2.43',
        "for=192.0.2.43 proto=https",
        "for=[2001:db8::1]",
        "for=192.0.2.43:80",
        'for="2001:db8::1"',
        'for="[192.0.2.43]"',
        'for="192.0.2.43:65536"',
        "for=192.0.2.256",
        "for=example.com",
        'for=""',
        'for="_"',
        "for=192.0.2.43;for=192.0.2.44",
        "for=192.0.2.43;proto=gopher",
        # a client may leave a quoted string open, but not let it swallow what the proxy has added
        'for=6.6.6.6;x=", for=192.0.2.43',
        'for=6.6.6.6;x=", for="[2001:db8::1]:80"',
        'for=6.6.6.6;x="\\, for="[2001:db8::1]:80";y=""',
    ],
)
def test_a_malformed_forwarded_is_refused(value: str) -> None:
    with pytest.raises(InvalidHeader, match=r"invalid Forwarded header") as caught:
        forwarded(value)
    assert caught.value.name == "Forwarded"


def x(hops: str | None = None, proto: str | None = None, host: str | None = None) -> Forwarding | None:
    lines = {"X-Forwarded-For": hops, "X-Forwarded-Proto": proto, "X-Forwarded-Host": host}
    return read(*((name, value) for name, value in lines.items() if value is not None))


@pytest.mark.parametrize(
    ("hops", "proto", "host", "expected"),
    [
        ("192.0.2.43", None, None, Forwarding(("192.0.2.43", 0))),
        ("192.0.2.43:1234", "https", "example.com", Forwarding(("192.0.2.43", 1234), True, "example.com")),
        ("2001:db8::17", "http", None, Forwarding(("2001:db8::17", 0, 0, 0), False)),
        ("[2001:db8::17]:80", None, None, Forwarding(("2001:db8::17", 80, 0, 0))),
        ("unknown", "https", None, Forwarding(None, True)),
        (None, "HTTPS", None, Forwarding(None, True)),
        (None, None, "example.com:8443", Forwarding(None, None, "example.com:8443")),
        ("6.6.6.6, 192.0.2.43", None, None, Forwarding(("192.0.2.43", 0))),
        ("<script>, 192.0.2.43", None, None, Forwarding(("192.0.2.43", 0))),
        ("192.0.2.43, 10.0.0.1", "https", None, Forwarding(("192.0.2.43", 0), True)),
        ("6.6.6.6,192.0.2.43,10.0.0.1", "ws, https, http", "a, b, c", Forwarding(("192.0.2.43", 0), True, "b")),
        ("6.6.6.6, 192.0.2.43", "http, https", None, Forwarding(("192.0.2.43", 0), True)),
        ("unknown, 10.0.0.1", None, None, Forwarding(("10.0.0.1", 0))),
    ],
)
def test_the_customary_headers_are_read_from_the_right(
    hops: str | None, proto: str | None, host: str | None, expected: Forwarding
) -> None:
    assert x(hops, proto, host) == expected


@pytest.mark.parametrize(
    ("hops", "proto", "host", "name"),
    [
        ("example.com", None, None, "X-Forwarded-For"),
        ("192.0.2.43:99999", None, None, "X-Forwarded-For"),
        ("192.0.2.43, x, 10.0.0.1", None, None, "X-Forwarded-For"),
        ("1:2:3", None, None, "X-Forwarded-For"),
        ("fe80::1%eth0", None, None, "X-Forwarded-For"),
        ("192.0.2.43", "gopher", None, "X-Forwarded-Proto"),
        ("192.0.2.43", "https, http", None, "X-Forwarded-Proto"),
        (None, "https, http", None, "X-Forwarded-Proto"),
        ("192.0.2.43", None, "a, b", "X-Forwarded-Host"),
    ],
)
def test_malformed_customary_headers_are_refused(
    hops: str | None, proto: str | None, host: str | None, name: str
) -> None:
    with pytest.raises(InvalidHeader) as caught:
        x(hops, proto, host)
    assert caught.value.name == name


def test_both_kinds_may_say_the_same() -> None:
    both = [("Forwarded", "for=192.0.2.43;host=Example.com"), ("X-Forwarded-For", "192.0.2.43:1234")]
    assert read(*both) == Forwarding(("192.0.2.43", 1234), None, "Example.com")
    both += [("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "example.com")]
    assert read(*both) == Forwarding(("192.0.2.43", 1234), True, "Example.com")
    hidden = [("Forwarded", "for=unknown;proto=https"), ("X-Forwarded-For", "192.0.2.43")]
    assert read(*hidden) == Forwarding(("192.0.2.43", 0), True)


@pytest.mark.parametrize(
    ("name", "value"),
    [("For", "192.0.2.44"), ("Proto", "http"), ("Host", "example.org"), ("For", "192.0.2.43, 1.1.1.1")],
)
def test_two_kinds_that_differ_are_refused(name: str, value: str) -> None:
    """A proxy that writes one of them may have let the other pass, as the client wrote it."""
    with pytest.raises(InvalidHeader, match="say different things"):
        read(("Forwarded", "for=192.0.2.43;proto=https;host=example.com"), (f"X-Forwarded-{name}", value))


# -- properties ------------------------------------------------------------------------------------------------

spoofed = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=60)


@given(spoofed)
def test_properties_nothing_that_a_client_writes_hides_what_the_proxy_adds(spoof: str) -> None:
    for proxy in ("for=192.0.2.43;proto=http", 'for="[2001:db8::1]:80";proto=http;by="[fd00::1]"'):
        for lines in ([f"{spoof}, {proxy}"], [spoof, proxy]):
            try:
                found = forwarded(*lines)
            except InvalidHeader:
                continue
            assert found is not None
            assert found.client is not None
            assert found.client[0] in ("192.0.2.43", "2001:db8::1")
            assert found.secure is False
    found = x(f"{spoof}, 192.0.2.43")
    assert found == Forwarding(("192.0.2.43", 0))


@given(
    st.lists(
        st.tuples(st.sampled_from(["Forwarded", *(f"X-Forwarded-{n}" for n in ("For", "Proto", "Host"))]), spoofed)
    )
)
def test_fuzz_there_is_no_other_error(lines: list[tuple[str, str]]) -> None:
    try:
        found = read(*lines)
    except InvalidHeader:
        return
    assert found is None or isinstance(found, Forwarding)
