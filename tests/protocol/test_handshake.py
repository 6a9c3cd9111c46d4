"""The opening handshake: one test for each thing that RFC 6455, section 4 says a side MUST do or refuse."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from taut.errors import (
    InvalidHandshake,
    InvalidHeader,
    InvalidMessage,
    InvalidOrigin,
    InvalidStatus,
    InvalidUpgrade,
    NegotiationError,
    OpenTimeout,
)
from taut.protocol.handshake import (
    accept_key,
    accept_response,
    build_request,
    check_origin,
    check_request,
    check_response,
    extension_lines,
    offered_subprotocols,
    refusal,
    select_subprotocol,
)
from taut.protocol.http1 import RequestReader, ResponseReader, encode_request, encode_response
from taut.protocol.uri import parse_uri
from taut.types import Headers, HeadersLike, Request, Response

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

URI = parse_uri("ws://server.example.com/chat")


def request(*changes: tuple[str, str | None], method: str = "GET") -> Request:
    """The request of RFC 6455, 1.3, with headers replaced, or removed by None."""
    headers = Headers(
        [
            ("Host", "server.example.com"),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", KEY),
            ("Sec-WebSocket-Version", "13"),
        ]
    )
    return Request("/chat", changed(headers, changes), method)


def response(*changes: tuple[str, str | None]) -> Response:
    """The response of RFC 6455, 1.3, with headers replaced, or removed by None."""
    headers = Headers([("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", ACCEPT)])
    return Response(101, "Switching Protocols", changed(headers, changes))


def changed(headers: Headers, changes: tuple[tuple[str, str | None], ...]) -> Headers:
    for name, value in changes:
        if value is None:
            del headers[name]
        else:
            headers[name] = value
    return headers


def repeated(message: Request | Response, name: str, value: str) -> None:
    message.headers.add(name, value)


def refused_request(bad: Request) -> InvalidHandshake:
    with pytest.raises(InvalidHandshake) as caught:
        check_request(bad)
    assert caught.value.request is bad
    return caught.value


def refused_response(bad: Response, *offered: str) -> InvalidHandshake:
    with pytest.raises(InvalidHandshake) as caught:
        check_response(KEY, bad, subprotocols=offered)
    assert caught.value.response is bad
    return caught.value


# ---- the server reads the request (4.2.1) ----


def test_accept_key_1_3() -> None:
    assert accept_key(KEY) == ACCEPT


def test_request_is_accepted_4_2_1() -> None:
    assert check_request(request()) == KEY


def test_method_is_get_4_2_1_1() -> None:
    error = refused_request(request(method="POST"))
    assert isinstance(error, InvalidMessage)
    assert error.status == 405


def test_host_is_required_4_2_1_2() -> None:
    error = refused_request(request(("Host", None)))
    assert isinstance(error, InvalidHeader)
    assert (error.name, error.value, refusal(error).status_code) == ("Host", None, 400)


def test_host_is_there_once_4_2_1_2() -> None:
    bad = request()
    repeated(bad, "Host", "other.example.com")
    error = refused_request(bad)
    assert error.problem == "more than one Host header"
    assert refusal(error).status_code == 400


@pytest.mark.parametrize(
    "host", ["a", "a.b:80", "a:", "[::1]", "[::1]:8080", "127.0.0.1:1", "a_b", "a,b", "xn--bcher-kva"]
)
def test_host_is_valid_4_2_1_2(host: str) -> None:
    assert check_request(request(("Host", host))) == KEY


@pytest.mark.parametrize("host", ["", ":80", "a b", "a/b", "a@b", "http://a", "a:b", "a:1:2", "[::1", "::1", "a\\b"])
def test_host_is_not_valid_4_2_1_2(host: str) -> None:
    assert refusal(refused_request(request(("Host", host)))).status_code == 400


@pytest.mark.parametrize("value", ["websocket", "WebSocket", "WEBSOCKET", "h2c, websocket", "HTTP/3.0,websocket ,x"])
def test_upgrade_contains_websocket_4_2_1_3(value: str) -> None:
    assert check_request(request(("Upgrade", value))) == KEY


def test_upgrade_on_two_lines_4_2_1_3() -> None:
    good = request(("Upgrade", "h2c"))
    repeated(good, "upgrade", "websocket")
    assert check_request(good) == KEY


@pytest.mark.parametrize("value", [None, "", "websockets", "websocket/13", "web socket", "h2c", '"websocket"'])
def test_upgrade_does_not_contain_websocket_4_2_1_3(value: str | None) -> None:
    error = refused_request(request(("Upgrade", value)))
    assert isinstance(error, InvalidUpgrade)
    assert (error.name, error.value, refusal(error).status_code) == ("Upgrade", value, 426)


@pytest.mark.parametrize(
    "value", ["Upgrade", "upgrade", "UPGRADE", "keep-alive, Upgrade", "Upgrade,keep-alive", ",upgrade"]
)
def test_connection_contains_upgrade_4_2_1_4(value: str) -> None:
    assert check_request(request(("Connection", value))) == KEY


def test_connection_on_two_lines_4_2_1_4() -> None:
    good = request(("Connection", "keep-alive"))
    repeated(good, "CONNECTION", "Upgrade")
    assert check_request(good) == KEY


@pytest.mark.parametrize("value", [None, "", "keep-alive", "close", "upgraded", "x-upgrade"])
def test_connection_does_not_contain_upgrade_4_2_1_4(value: str | None) -> None:
    error = refused_request(request(("Connection", value)))
    assert isinstance(error, InvalidUpgrade)
    assert (error.name, error.value, refusal(error).status_code) == ("Connection", value, 426)


@pytest.mark.parametrize("value", ["Upgrade; keep-alive", "keep alive, Upgrade", '"Upgrade"'])
def test_connection_is_a_list_of_tokens_4_2_1_4(value: str) -> None:
    error = refused_request(request(("Connection", value)))
    assert isinstance(error, InvalidHeader)
    assert refusal(error).status_code == 400


@pytest.mark.parametrize("key", [KEY, f" {KEY}\t", "AAAAAAAAAAAAAAAAAAAAAA==", "+/+/+/+/+/+/+/+/+/+/+w=="])
def test_key_is_16_bytes_in_base64_4_2_1_5(key: str) -> None:
    assert check_request(request(("Sec-WebSocket-Key", key))) == key.strip()


@pytest.mark.parametrize(
    "key",
    [
        None,
        "",
        "AAAA",
        KEY[:-1],
        KEY[:-2],
        KEY + "=",
        KEY + "\n",
        KEY[:-4] + "====",
        "A" * 23 + "=",  # 17 bytes
        "A" * 24,
        "A" * 20 + "==",
        "-_" * 11 + "==",  # the alphabet of URLs
        "A" * 21 + " ==",
        f"{KEY}, {KEY}",
        "\u00e9" * 22 + "==",
    ],
)
def test_key_is_not_16_bytes_in_base64_4_2_1_5(key: str | None) -> None:
    error = refused_request(request(("Sec-WebSocket-Key", key)))
    assert isinstance(error, InvalidHeader)
    assert (error.name, error.value, refusal(error).status_code) == ("Sec-WebSocket-Key", key, 400)


def test_key_is_there_once_11_3_1() -> None:
    """RFC 6455, 11.3.1: Sec-WebSocket-Key MUST NOT appear more than once in an HTTP request."""
    bad = request()
    repeated(bad, "sec-websocket-key", KEY)
    assert refused_request(bad).problem == "more than one Sec-WebSocket-Key header"


@pytest.mark.parametrize("version", [None, "", "8", "12", "14", "013", "13.0", "13, 8", "+13", "\u0661\u0663"])
def test_version_is_13_4_2_1_6_and_4_2_2_4(version: str | None) -> None:
    """RFC 6455, 4.2.2: abort with 426 and a Sec-WebSocket-Version header indicating the version understood."""
    error = refused_request(request(("Sec-WebSocket-Version", version)))
    answer = refusal(error)
    assert (answer.status_code, answer.headers["Sec-WebSocket-Version"]) == (426, "13")


def test_version_is_there_once_11_3_5() -> None:
    """RFC 6455, 11.3.5: Sec-WebSocket-Version MUST NOT appear more than once in an HTTP request."""
    bad = request()
    repeated(bad, "Sec-WebSocket-Version", "13")
    assert refused_request(bad).problem == "more than one Sec-WebSocket-Version header"


def test_header_names_are_case_insensitive_4_2_1() -> None:
    headers = Headers([(name.swapcase(), value) for name, value in request().headers.raw_items()])
    assert check_request(Request("/", headers)) == KEY


def test_unknown_headers_are_ignored_4_2_1() -> None:
    """RFC 6455, 4.2.1: unknown header fields MUST be ignored."""
    assert check_request(request(("X-Unknown", "\u00e9"), ("Cookie", "a=b"), ("Sec-WebSocket-Unknown", ""))) == KEY


def test_a_plain_request_is_told_to_upgrade() -> None:
    plain = Request("/", Headers([("Host", "a"), ("Connection", "keep-alive")]))
    assert encode_response(refusal(refused_request(plain))) == (
        b"HTTP/1.1 426 Upgrade Required\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade, close\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Content-Length: 23\r\n"
        b"\r\n"
        b"missing Upgrade header\n"
    )


# ---- the server refuses ----


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (InvalidMessage("malformed"), 400, "Bad Request"),
        (InvalidMessage("too large", status=431), 431, "Request Header Fields Too Large"),
        (InvalidMessage("POST", status=405), 405, "Method Not Allowed"),
        (InvalidMessage("2.0", status=505), 505, "HTTP Version Not Supported"),
        (InvalidUpgrade("Upgrade"), 426, "Upgrade Required"),
        (InvalidUpgrade("Connection", "close"), 426, "Upgrade Required"),
        (InvalidHeader("Sec-WebSocket-Version", "8"), 426, "Upgrade Required"),
        (InvalidHeader("Sec-WebSocket-Key"), 400, "Bad Request"),
        (InvalidHeader("Origin", "a, b"), 400, "Bad Request"),
        (InvalidOrigin("https://evil.example"), 403, "Forbidden"),
        (NegotiationError("no common subprotocol"), 400, "Bad Request"),
        (OpenTimeout(10), 408, "Request Timeout"),
        (InvalidHandshake("something else"), 400, "Bad Request"),
    ],
)
def test_refusal(error: InvalidHandshake, status: int, reason: str) -> None:
    answer = refusal(error)
    assert (answer.status_code, answer.reason_phrase) == (status, reason)
    assert answer.body == f"{error}\n".encode()
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert "close" in answer.headers["Connection"]
    assert ("Upgrade" in answer.headers) == ("Sec-WebSocket-Version" in answer.headers) == (status == 426)
    assert answer.headers.get("Allow") == ("GET" if status == 405 else None)
    reader = ResponseReader()
    assert reader.feed(encode_response(answer))
    assert reader.response == answer


def test_refusal_does_not_send_back_much_of_what_came() -> None:
    answer = refusal(refused_request(request(("Sec-WebSocket-Key", "\u00e9" * 8000))))
    assert len(answer.body) <= 1001
    assert encode_response(answer).endswith(answer.body)


def test_refusal_of_any_character() -> None:
    assert refusal(InvalidHandshake("\ud800")).body == b"?\n"


# ---- the server checks the origin (4.2.2, 10.2) ----


def from_origin(origin: str | None, host: str = "example.com") -> Request:
    return request(("Host", host)) if origin is None else request(("Host", host), ("Origin", origin))


@pytest.mark.parametrize(
    ("origin", "host", "secure"),
    [
        (None, "example.com", False),
        ("http://example.com", "example.com", False),
        ("https://example.com", "example.com", True),
        ("HTTP://EXAMPLE.com", "example.COM", False),
        ("http://example.com", "example.com:80", False),
        ("http://example.com:80", "example.com", False),
        ("https://example.com", "example.com:443", True),
        ("https://example.com:443", "example.com", True),
        ("http://example.com:8080", "example.com:8080", False),
        ("http://[::1]:8080", "[::1]:8080", False),
        ("http://[::A]", "[::a]", False),
        (" http://example.com\t", "example.com", False),
    ],
)
def test_same_origin_passes(origin: str | None, host: str, secure: bool) -> None:
    check_origin(from_origin(origin, host), None, secure=secure)


@pytest.mark.parametrize(
    ("origin", "host", "secure"),
    [
        ("http://evil.example", "example.com", False),
        ("http://sub.example.com", "example.com", False),
        ("http://example.com.evil.example", "example.com", False),
        ("http://evilexample.com", "example.com", False),
        ("http://example.com:81", "example.com", False),
        ("http://example.com", "example.com:81", False),
        ("http://example.com:443", "example.com", False),
        ("https://example.com", "example.com", False),
        ("http://example.com", "example.com", True),
        ("ws://example.com", "example.com", False),
        ("file://", "example.com", False),
        ("null", "example.com", False),
        ("null", "null", False),
        ("", "example.com", False),
        ("", "", False),
        ("http://", "", False),
        ("example.com", "example.com", False),
        ("http://example.com/", "example.com", False),
        ("http://user@example.com", "example.com", False),
        ("http://example.com@evil.example", "example.com", False),
        ("http://example.com http://evil.example", "example.com", False),
        ("http://example.com, http://evil.example", "example.com", False),
        ("http://example.com\nx", "example.com", False),
        ("moz-extension://example.com", "example.com", False),
    ],
)
def test_cross_origin_is_forbidden_4_2_2_4(origin: str, host: str, secure: bool) -> None:
    """RFC 6455, 4.2.2: a server that does not accept the origin MUST return an appropriate code, such as 403."""
    bad = from_origin(origin, host)
    with pytest.raises(InvalidOrigin) as caught:
        check_origin(bad, None, secure=secure)
    assert caught.value.request is bad
    assert refusal(caught.value).status_code == 403


def test_same_origin_needs_a_host() -> None:
    with pytest.raises(InvalidOrigin):
        check_origin(request(("Host", None), ("Origin", "http://example.com")), None, secure=False)


LISTED: list[str | re.Pattern[str] | None] = ["https://example.com", re.compile(r"https://[a-z]+\.example\.com"), None]


@pytest.mark.parametrize("origin", ["https://example.com", "https://sub.example.com", None])
def test_listed_origin_passes(origin: str | None) -> None:
    check_origin(from_origin(origin, "elsewhere"), LISTED, secure=False)


@pytest.mark.parametrize(
    "origin",
    [
        "http://example.com",
        "https://EXAMPLE.com",
        "https://a.b.example.com",
        "https://a.example.com.evil",
        "null",
        "*",
        "",
    ],
)
def test_unlisted_origin_is_forbidden(origin: str) -> None:
    with pytest.raises(InvalidOrigin) as caught:
        check_origin(from_origin(origin), LISTED, secure=True)
    assert caught.value.value == origin


def test_list_replaces_the_same_origin() -> None:
    with pytest.raises(InvalidOrigin):
        check_origin(from_origin("http://example.com"), ["https://other.example"], secure=False)


def test_empty_list_lets_no_browser_pass() -> None:
    check_origin(from_origin(None), [], secure=False)
    with pytest.raises(InvalidOrigin):
        check_origin(from_origin("http://example.com"), [], secure=False)


@pytest.mark.parametrize("origin", ["https://anywhere.example", "null", "file://", None])
def test_any_origin_passes_a_star(origin: str | None) -> None:
    check_origin(from_origin(origin), ["*"], secure=False)


@pytest.mark.parametrize("origins", [None, ["*"]])
def test_origin_is_there_once(origins: list[str] | None) -> None:
    bad = from_origin("http://example.com")
    repeated(bad, "origin", "http://example.com")
    with pytest.raises(InvalidHeader, match="more than one Origin header") as caught:
        check_origin(bad, origins, secure=False)
    assert caught.value.request is bad
    assert refusal(caught.value).status_code == 400


# ---- the server answers (4.2.2) ----


def test_response_4_2_2_5() -> None:
    """RFC 6455, 4.2.2, step 5, byte for byte, with the key of 1.3."""
    assert encode_response(accept_response(request(), KEY)) == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"\r\n"
    )


def test_response_with_everything_4_2_2_5() -> None:
    answer = accept_response(
        request(("Sec-WebSocket-Protocol", "chat, superchat")),
        KEY,
        subprotocol="chat",
        extensions="permessage-deflate",
        headers=[("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")],
        server_header="taut",
    )
    assert encode_response(answer) == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"Sec-WebSocket-Protocol: chat\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
        b"Server: taut\r\n"
        b"Set-Cookie: a=1\r\n"
        b"Set-Cookie: b=2\r\n"
        b"\r\n"
    )


@pytest.mark.parametrize("offer", [None, "superchat", "chatter", "Chat"])
def test_a_subprotocol_that_was_not_offered_is_never_echoed_4_2_2_5_5(offer: str | None) -> None:
    asked = request() if offer is None else request(("Sec-WebSocket-Protocol", offer))
    with pytest.raises(NegotiationError, match="'chat' was not offered") as caught:
        accept_response(asked, KEY, subprotocol="chat")
    assert caught.value.request is asked


def test_server_header_is_replaced() -> None:
    answer = accept_response(request(), KEY, headers={"server": "mine"}, server_header="taut")
    assert answer.headers.get_all("Server") == ["mine"]


RESERVED = [
    "Upgrade",
    "connection",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Accept",
    "SEC-WEBSOCKET-PROTOCOL",
    "Sec-WebSocket-Extensions",
    "Sec-WebSocket-Version",
    "Content-Length",
    "Transfer-Encoding",
]


@pytest.mark.parametrize("name", RESERVED)
def test_additional_headers_do_not_replace_those_of_the_handshake(name: str) -> None:
    with pytest.raises(ValueError, match=f"additional headers: {name} "):
        accept_response(request(), KEY, headers={name: "x"})
    with pytest.raises(ValueError, match=f"additional headers: {name} "):
        build_request(URI, KEY, headers=[("X", "y"), (name, "x")])


@pytest.mark.parametrize(
    ("offered", "supported", "selected"),
    [
        (["chat", "superchat"], ["superchat", "chat"], "superchat"),  # the server's preference
        (["chat"], ["superchat", "chat"], "chat"),
        (["chat"], ["superchat"], None),
        (["chat"], ["Chat"], None),
        (["bearer", "secret-token"], ["chat"], None),  # a token in disguise is not echoed
        (["chat"], [], None),
        ([], ["chat"], None),
        ([], [], None),
    ],
)
def test_select_subprotocol_4_2_2_5_5(offered: list[str], supported: list[str], selected: str | None) -> None:
    """RFC 6455, 4.2.2: the value chosen MUST be derived from the client's handshake, else absent."""
    assert select_subprotocol(offered, supported) == selected


def test_offered_subprotocols_11_3_4() -> None:
    """RFC 6455, 11.3.4: Sec-WebSocket-Protocol MAY appear multiple times in a request, as if it were one list."""
    asked = request(("Sec-WebSocket-Protocol", "chat, superchat"))
    repeated(asked, "sec-websocket-protocol", "mqtt")
    assert offered_subprotocols(asked) == ["chat", "superchat", "mqtt"]
    assert offered_subprotocols(request()) == []


def test_offered_subprotocols_refused() -> None:
    bad = request(("Sec-WebSocket-Protocol", "a b"))
    with pytest.raises(InvalidHeader) as caught:
        offered_subprotocols(bad)
    assert caught.value.request is bad


def test_extension_lines_9_1() -> None:
    """RFC 6455, 9.1: the header may be split into several, and means the same."""
    headers = Headers([("Sec-WebSocket-Extensions", "a; b=1"), ("X", "y"), ("sec-websocket-extensions", "c")])
    assert extension_lines(headers) == "a; b=1, c"
    assert extension_lines(Headers()) is None


# ---- the client asks (4.1) ----


def test_request_4_1() -> None:
    """RFC 6455, 4.1: method, resource (2, 3), Host (4), Upgrade (5), Connection (6), key (7), version (9)."""
    assert encode_request(build_request(URI, KEY)) == (
        b"GET /chat HTTP/1.1\r\n"
        b"Host: server.example.com\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"\r\n"
    )


def test_request_with_everything_4_1() -> None:
    """RFC 6455, 4.1: Origin (8), Sec-WebSocket-Protocol (10), Sec-WebSocket-Extensions (11), others (12)."""
    asked = build_request(
        parse_uri("wss://me:secret@[::1]:8443/caf\u00e9?a=b"),
        KEY,
        origin="https://example.com",
        subprotocols=["chat", "superchat"],
        extensions="permessage-deflate; client_max_window_bits",
        headers=[("Cookie", "a=1"), ("X-Twice", "1"), ("X-Twice", "2")],
        user_agent="taut",
    )
    assert encode_request(asked) == (
        b"GET /caf%C3%A9?a=b HTTP/1.1\r\n"
        b"Host: [::1]:8443\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
        b"Sec-WebSocket-Protocol: chat, superchat\r\n"
        b"Origin: https://example.com\r\n"
        b"Authorization: Basic bWU6c2VjcmV0\r\n"
        b"User-Agent: taut\r\n"
        b"Cookie: a=1\r\n"
        b"X-Twice: 1\r\n"
        b"X-Twice: 2\r\n"
        b"\r\n"
    )


@pytest.mark.parametrize(
    ("uri", "host"),
    [
        ("ws://a:80/", "a"),
        ("wss://a:443/", "a"),
        ("ws://a:443/", "a:443"),
        ("wss://a:80/", "a:80"),
        ("ws://[::1]", "[::1]"),
    ],
)
def test_host_names_the_port_unless_default_4_1_request_4(uri: str, host: str) -> None:
    assert build_request(parse_uri(uri), KEY).headers["Host"] == host


@pytest.mark.parametrize(
    "headers",
    [
        {"user-agent": "mine", "host": "b", "authorization": "Bearer x", "origin": "https://b"},
        Headers([("user-agent", "mine"), ("host", "b"), ("authorization", "Bearer x"), ("origin", "https://b")]),
    ],
)
def test_additional_headers_replace_the_optional_ones(headers: HeadersLike) -> None:
    asked = build_request(parse_uri("ws://me:secret@a/"), KEY, origin="https://a", user_agent="taut", headers=headers)
    for name, value in [("Host", "b"), ("Origin", "https://b"), ("Authorization", "Bearer x"), ("User-Agent", "mine")]:
        assert asked.headers.get_all(name) == [value]
    assert next(asked.headers.raw_items()) == ("Host", "b")


def test_additional_headers_are_left_as_they_were() -> None:
    headers = Headers([("Host", "b")])
    build_request(URI, KEY, headers=headers)
    assert list(headers.raw_items()) == [("Host", "b")]


def test_host_is_given_once() -> None:
    with pytest.raises(ValueError, match="Host may be given once only"):
        build_request(URI, KEY, headers=[("Host", "a"), ("host", "b")])


def test_request_with_a_user_name_alone() -> None:
    assert build_request(parse_uri("ws://me@a/"), KEY).headers["Authorization"] == "Basic bWU6"


@pytest.mark.parametrize("subprotocols", [["chat", "chat"], ["a b"], [""]])
def test_subprotocols_are_unique_tokens_4_1_request_10(subprotocols: list[str]) -> None:
    with pytest.raises(ValueError, match="subprotocols"):
        build_request(URI, KEY, subprotocols=subprotocols)


def test_subprotocols_are_not_a_string() -> None:
    with pytest.raises(TypeError, match="subprotocols"):
        build_request(URI, KEY, subprotocols="chat")


# ---- the client reads the answer (4.1) ----


def test_answer_is_accepted_4_1() -> None:
    assert check_response(KEY, response()) is None


@pytest.mark.parametrize("status", [100, 200, 301, 401, 426, 503])
def test_status_is_101_4_1_response_1(status: int) -> None:
    answer = response()
    answer.status_code = status
    error = refused_response(answer)
    assert isinstance(error, InvalidStatus)
    assert str(error) == f"the server answered the handshake with HTTP {status}"


@pytest.mark.parametrize("value", ["websocket", "WebSocket", " websocket "])
def test_upgrade_is_websocket_4_1_response_2(value: str) -> None:
    assert check_response(KEY, response(("Upgrade", value))) is None


@pytest.mark.parametrize("value", [None, "", "websocket, h2c", "h2c", "websocket/13", "websocket; a"])
def test_upgrade_is_not_websocket_4_1_response_2(value: str | None) -> None:
    error = refused_response(response(("Upgrade", value)))
    assert isinstance(error, InvalidUpgrade)
    assert (error.name, error.value) == ("Upgrade", value)


def test_upgrade_is_there_once_4_1_response_2() -> None:
    bad = response()
    repeated(bad, "Upgrade", "websocket")
    assert isinstance(refused_response(bad), InvalidUpgrade)


@pytest.mark.parametrize("value", ["Upgrade", "uPGRADE", "keep-alive, Upgrade"])
def test_connection_contains_upgrade_4_1_response_3(value: str) -> None:
    assert check_response(KEY, response(("Connection", value))) is None


@pytest.mark.parametrize("value", [None, "", "keep-alive", "close"])
def test_connection_does_not_contain_upgrade_4_1_response_3(value: str | None) -> None:
    error = refused_response(response(("Connection", value)))
    assert isinstance(error, InvalidUpgrade)
    assert (error.name, error.value) == ("Connection", value)


def test_connection_is_malformed_4_1_response_3() -> None:
    assert isinstance(refused_response(response(("Connection", "Upgrade; a"))), InvalidHeader)


def test_accept_ignores_surrounding_space_4_1_response_4() -> None:
    """RFC 6455, 4.1: ignoring any leading and trailing whitespace."""
    assert check_response(KEY, response(("Sec-WebSocket-Accept", f" {ACCEPT} \t"))) is None


@pytest.mark.parametrize(
    "value",
    [None, "", KEY, ACCEPT.swapcase(), ACCEPT[:-1], ACCEPT + "=", f'"{ACCEPT}"', f"{ACCEPT}, {ACCEPT}", "\u00e9"],
)
def test_accept_answers_the_key_4_1_response_4(value: str | None) -> None:
    error = refused_response(response(("Sec-WebSocket-Accept", value)))
    assert isinstance(error, InvalidHeader)
    assert (error.name, error.value) == ("Sec-WebSocket-Accept", value)


def test_accept_answers_this_key_4_1_response_4() -> None:
    with pytest.raises(InvalidHeader):
        check_response("AAAAAAAAAAAAAAAAAAAAAA==", response())


def test_accept_is_there_once_11_3_3() -> None:
    """RFC 6455, 11.3.3: Sec-WebSocket-Accept MUST NOT appear more than once in an HTTP response."""
    bad = response()
    repeated(bad, "Sec-WebSocket-Accept", ACCEPT)
    assert refused_response(bad).problem == "more than one Sec-WebSocket-Accept header"


def test_subprotocol_is_one_that_was_offered_4_1_response_6() -> None:
    answer = response(("Sec-WebSocket-Protocol", "superchat"))
    assert check_response(KEY, answer, subprotocols=["chat", "superchat"]) == "superchat"


def test_no_subprotocol_may_be_chosen_4_1_response_6() -> None:
    assert check_response(KEY, response(), subprotocols=["chat"]) is None


@pytest.mark.parametrize("value", ["superchat", "Chat", "", "chat, mqtt"])
@pytest.mark.parametrize("offered", [(), ("chat", "mqtt")])
def test_subprotocol_is_not_one_that_was_offered_4_1_response_6(value: str, offered: tuple[str, ...]) -> None:
    error = refused_response(response(("Sec-WebSocket-Protocol", value)), *offered)
    assert isinstance(error, NegotiationError)
    assert repr(value) in error.problem


def test_subprotocol_is_there_once_11_3_4() -> None:
    """RFC 6455, 11.3.4: Sec-WebSocket-Protocol MUST NOT appear more than once in an HTTP response."""
    bad = response(("Sec-WebSocket-Protocol", "chat"))
    repeated(bad, "Sec-WebSocket-Protocol", "chat")
    assert isinstance(refused_response(bad, "chat"), NegotiationError)


# ---- both sides together ----


def send(message: Request) -> Request:
    reader = RequestReader()
    assert reader.feed(encode_request(message))
    return reader.request


def reply(message: Response) -> Response:
    reader = ResponseReader()
    assert reader.feed(encode_response(message))
    return reader.response


@pytest.mark.parametrize("transform", [str.lower, str.upper, str.title], ids=["lower", "upper", "title"])
def test_a_whole_handshake(transform: Callable[[str], str]) -> None:
    offered = ["mqtt", "chat"]
    asked = build_request(URI, KEY, origin="http://server.example.com", subprotocols=offered)
    asked.headers = Headers([(transform(name), value) for name, value in asked.headers.raw_items()])
    received = send(asked)
    key = check_request(received)
    check_origin(received, None, secure=False)
    subprotocol = select_subprotocol(offered_subprotocols(received), ["chat", "mqtt"])
    answer = accept_response(received, key, subprotocol=subprotocol)
    answer.headers = Headers([(transform(name), value) for name, value in answer.headers.raw_items()])
    assert check_response(KEY, reply(answer), subprotocols=offered) == "chat"


def test_version_negotiation_4_4() -> None:
    """RFC 6455, 4.4: a client of another version is told which one to try."""
    with pytest.raises(InvalidHeader) as refused:
        check_request(send(request(("Sec-WebSocket-Version", "25"))))
    with pytest.raises(InvalidStatus) as caught:
        check_response(KEY, reply(refusal(refused.value)))
    assert (caught.value.response.status_code, caught.value.response.headers["Sec-WebSocket-Version"]) == (426, "13")
