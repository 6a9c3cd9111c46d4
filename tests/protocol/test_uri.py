"""WebSocket URIs (RFC 6455, section 3)."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taut.errors import InvalidURI
from taut.protocol.uri import WebSocketURI, parse_uri


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("ws://example.com", WebSocketURI(False, "example.com", 80, "/")),
        ("wss://example.com", WebSocketURI(True, "example.com", 443, "/")),
        ("WSS://EXAMPLE.com/Path", WebSocketURI(True, "example.com", 443, "/Path")),
        ("ws://example.com/", WebSocketURI(False, "example.com", 80, "/")),
        ("ws://example.com/chat?room=1", WebSocketURI(False, "example.com", 80, "/chat?room=1")),
        ("ws://example.com?room=1", WebSocketURI(False, "example.com", 80, "/?room=1")),
        ("ws://example.com/a?", WebSocketURI(False, "example.com", 80, "/a?")),
        ("ws://example.com//a//", WebSocketURI(False, "example.com", 80, "//a//")),
        ("ws://example.com/a@b:c", WebSocketURI(False, "example.com", 80, "/a@b:c")),
        ("ws://example.com:8080/", WebSocketURI(False, "example.com", 8080, "/")),
        ("ws://example.com:/", WebSocketURI(False, "example.com", 80, "/")),
        ("ws://example.com:00443/", WebSocketURI(False, "example.com", 443, "/")),
        ("ws://example.com./", WebSocketURI(False, "example.com.", 80, "/")),
        ("ws://my_service/", WebSocketURI(False, "my_service", 80, "/")),
        ("ws://127.0.0.1:65535/", WebSocketURI(False, "127.0.0.1", 65535, "/")),
        ("ws://[::1]/", WebSocketURI(False, "::1", 80, "/")),
        ("ws://[2001:DB8:0::1]:9000", WebSocketURI(False, "2001:db8::1", 9000, "/")),
        ("ws://[fe80::1%25eth0]/", WebSocketURI(False, "fe80::1%eth0", 80, "/")),
        ("ws://b\u00fccher.example/", WebSocketURI(False, "xn--bcher-kva.example", 80, "/")),
        ("ws://example.com/caf\u00e9?q=\u65e5", WebSocketURI(False, "example.com", 80, "/caf%C3%A9?q=%E6%97%A5")),
        ("ws://example.com/%C3%A9%20", WebSocketURI(False, "example.com", 80, "/%C3%A9%20")),
        ("ws://example.com/?a={\"b\":'c'}\\", WebSocketURI(False, "example.com", 80, "/?a=%7B%22b%22:'c'%7D%5C")),
        ("ws://me:secret@example.com/", WebSocketURI(False, "example.com", 80, "/", "me", "secret")),
        ("ws://me@example.com/", WebSocketURI(False, "example.com", 80, "/", "me", None)),
        ("ws://me:@example.com/", WebSocketURI(False, "example.com", 80, "/", "me", "")),
        ("ws://@example.com/", WebSocketURI(False, "example.com", 80, "/")),
        ("ws://%C3%A9%3A:a%40b:c@example.com/", WebSocketURI(False, "example.com", 80, "/", "\u00e9:", "a@b:c")),
    ],
)
def test_parsed(uri: str, expected: WebSocketURI) -> None:
    assert parse_uri(uri) == expected


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("", "it must begin with ws:// or wss://"),
        ("example.com", "it must begin with ws:// or wss://"),
        ("//example.com/", "it must begin with ws:// or wss://"),
        ("ws:example.com", "it must begin with ws:// or wss://"),
        ("ftp://example.com/", "it must begin with ws:// or wss://"),
        ("http://example.com/", "the scheme must be ws or wss; write ws://"),
        ("HTTPS://example.com/", "the scheme must be ws or wss; write wss://"),
        ("ws://", "the host is missing"),
        ("ws:///path", "the host is missing"),
        ("ws://:80/", "the host is missing"),
        ("ws://me@/", "the host is missing"),
        ("ws://[]/", "[] is not an IPv6 address"),
        ("ws://[1.2.3.4]/", "[1.2.3.4] is not an IPv6 address"),
        ("ws://[::1/", "the host is malformed (an IPv6 address needs brackets)"),
        ("ws://::1/", "the host is malformed (an IPv6 address needs brackets)"),
        ("ws://[::1]80/", "the host is malformed (an IPv6 address needs brackets)"),
        ("ws://a:80:80/", "the host is malformed (an IPv6 address needs brackets)"),
        ("ws://a..b/", "'a..b' is not a host name"),
        ("ws://a%20b/", "'a%20b' is not a host name"),
        ("ws://a\\b/", "'a\\\\b' is not a host name"),
        ("ws://\u2100.example/", "'\u2100.example' is not a host name"),  # nameprep turns it into a/c
        ("ws://\u00e9..b/", "'\u00e9..b' is not a host name"),
        ("ws://" + "a" * 64 + "/", f"'{'a' * 64}' is not a host name"),
        ("ws://" + "a." * 127 + "/", "the host is longer than 253 characters"),
        ("ws://\ud800/", "'\\ud800' is not a host name"),
        ("ws://a:0/", "'0' is not a port (1 to 65535)"),
        ("ws://a:65536/", "'65536' is not a port (1 to 65535)"),
        ("ws://a:-1/", "'-1' is not a port (1 to 65535)"),
        ("ws://a:+80/", "'+80' is not a port (1 to 65535)"),
        ("ws://a:8_0/", "'8_0' is not a port (1 to 65535)"),
        ("ws://a:\u0668/", "'\u0668' is not a port (1 to 65535)"),
        ("ws://a:http/", "'http' is not a port (1 to 65535)"),
        ("ws://a:" + "1" * 5000, f"'{'1' * 5000}' is not a port (1 to 65535)"),
        ("ws://a /", "spaces and control characters must be percent-encoded"),
        (" ws://a/", "spaces and control characters must be percent-encoded"),
        ("ws://a/\r\nX: y", "spaces and control characters must be percent-encoded"),
        ("ws://a/\t", "spaces and control characters must be percent-encoded"),
        ("ws://a/\x7f", "spaces and control characters must be percent-encoded"),
        ("ws://a/\ud800", "the path cannot be encoded as UTF-8"),
        ("ws://%ff@a/", "the user name or password is not UTF-8"),
        ("ws://u:%0d%0a@a/", "the user name or password holds a control character"),
    ],
)
def test_refused(uri: str, problem: str) -> None:
    with pytest.raises(InvalidURI) as caught:
        parse_uri(uri)
    assert (caught.value.uri, caught.value.problem) == (uri, problem)


@pytest.mark.parametrize("uri", ["ws://a/#top", "ws://a/#", "ws://a#top", "ws://a/?b#c"])
def test_fragment_must_not_be_used_3(uri: str) -> None:
    """RFC 6455, 3: fragment identifiers MUST NOT be used on these URIs."""
    with pytest.raises(InvalidURI) as caught:
        parse_uri(uri)
    assert caught.value.problem == "a fragment is not allowed (RFC 6455, 3); write # as %23"


def test_escaped_number_sign_3() -> None:
    """RFC 6455, 3: the character # MUST be escaped as %23."""
    assert parse_uri("ws://a/%23top").resource == "/%23top"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("ws://example.com/", "example.com"),
        ("ws://example.com:80/", "example.com"),
        ("wss://example.com:443/", "example.com"),
        ("ws://example.com:443/", "example.com:443"),
        ("wss://example.com:80/", "example.com:80"),
        ("ws://[::1]/", "[::1]"),
        ("ws://[::1]:8000/", "[::1]:8000"),
        ("ws://[fe80::1%25eth0]:8000/", "[fe80::1]:8000"),  # RFC 6874, 1: a zone is local, and never sent
        ("ws://b\u00fccher.example/", "xn--bcher-kva.example"),
        ("ws://me:secret@example.com/", "example.com"),
    ],
)
def test_host_header(uri: str, expected: str) -> None:
    assert parse_uri(uri).host_header == expected


def test_password_is_not_in_the_repr() -> None:
    uri = parse_uri("ws://me:secret@example.com/")
    assert uri.password == "secret"
    assert "secret" not in repr(uri)


def test_frozen() -> None:
    uri = parse_uri("ws://example.com/")
    with pytest.raises(dataclasses.FrozenInstanceError):
        uri.host = "example.org"  # type: ignore[misc]


@given(st.text() | st.text().map("ws://".__add__) | st.text(alphabet="ws:/@[]%?#.:1a\u00e9").map("wss://".__add__))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """What is parsed can be sent: a host and a target in visible ASCII."""
    try:
        uri = parse_uri(text)
    except InvalidURI:
        return
    assert uri.resource.startswith("/")
    assert all("!" <= character <= "~" for character in uri.resource + uri.host_header)
    assert 1 <= uri.port <= 65535
