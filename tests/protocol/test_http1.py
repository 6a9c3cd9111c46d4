"""HTTP/1.1 heads: what is read, what is refused and how early, what is written."""

from __future__ import annotations

import gc
import itertools
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taut.errors import InvalidMessage
from taut.protocol.http1 import RequestReader, ResponseReader, encode_connect, encode_request, encode_response
from taut.types import Headers, Request, Response

UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"

REQUEST = (
    b"GET /chat?room=1 HTTP/1.1\r\n"
    b"Host: server.example.com\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"sec-websocket-version:13\r\n"
    b"X-Empty:\r\n"
    b"X-Spaces: \t a \t b \t \r\n"
    b"X-Latin: caf\xe9\r\n"
    b"Cookie: a=1\r\n"
    b"Cookie: b=2\r\n"
    b"\r\n"
)

REQUEST_FIELDS = [
    ("Host", "server.example.com"),
    ("Upgrade", "websocket"),
    ("Connection", "keep-alive, Upgrade"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("sec-websocket-version", "13"),
    ("X-Empty", ""),
    ("X-Spaces", "a \t b"),
    ("X-Latin", "caf\u00e9"),
    ("Cookie", "a=1"),
    ("Cookie", "b=2"),
]

ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"X-Empty:\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
    b"\r\n"
)

CHUNKED = (
    b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\nOther:\r\n\r\n"
)


def request_head(*lines: bytes, start: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join([start, b"Host: a", *lines]) + b"\r\n" + UPGRADE + b"\r\n"


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(edges)]


def bytewise(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


Outcome = tuple[object, ...]


def outcome(reader: RequestReader | ResponseReader, parts: list[bytes], *, close: bool = False) -> Outcome:
    """What a reader makes of a stream, and after how many bytes, in a form that can be compared."""
    consumed = 0
    try:
        for index, part in enumerate(parts):
            if reader.feed(part):
                rest = reader.remaining + b"".join(parts[index + 1 :])
                if isinstance(reader, RequestReader):
                    return "complete", reader.request, rest
                return "complete", reader.response, rest if reader.response.status_code == 101 else b""
            consumed += len(part)
        if close:
            reader.eof()
            return "complete", reader.request if isinstance(reader, RequestReader) else reader.response, b""
    except InvalidMessage as exc:
        return "refused", exc.problem, exc.status
    return "incomplete", consumed


def refused(reader: RequestReader | ResponseReader, data: bytes) -> InvalidMessage:
    with pytest.raises(InvalidMessage) as caught:
        reader.feed(data)
    return caught.value


# ---- requests ----


def test_request() -> None:
    reader = RequestReader()
    assert reader.feed(REQUEST + b"\x81\x85frame")
    assert reader.request == Request("/chat?room=1", Headers(REQUEST_FIELDS), "GET")
    assert list(reader.request.headers.raw_items()) == REQUEST_FIELDS
    assert reader.remaining == b"\x81\x85frame"


def test_request_without_more() -> None:
    reader = RequestReader()
    assert reader.feed(REQUEST)
    assert reader.remaining == b""


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_request_from_any_buffer(kind: type[bytes] | type[bytearray] | type[memoryview]) -> None:
    reader = RequestReader()
    buffer = bytearray(REQUEST + b"rest")
    assert reader.feed(kind(buffer))
    buffer[:] = bytes(len(buffer))  # the receive buffer is used again
    assert reader.request.path == "/chat?room=1"
    assert (type(reader.remaining), reader.remaining) == (bytes, b"rest")


def test_request_at_every_cut() -> None:
    data = REQUEST + b"rest"
    for cut in range(len(REQUEST)):
        reader = RequestReader()
        assert not reader.feed(data[:cut])
        assert reader.feed(data[cut:])
        assert list(reader.request.headers.raw_items()) == REQUEST_FIELDS
        assert reader.remaining == b"rest"


def test_request_byte_by_byte() -> None:
    reader = RequestReader()
    assert [reader.feed(byte) for byte in bytewise(REQUEST)] == [False] * (len(REQUEST) - 1) + [True]
    assert list(reader.request.headers.raw_items()) == REQUEST_FIELDS


@given(st.lists(st.integers(0, 1000)))
def test_request_however_it_is_split(cuts: list[int]) -> None:
    reader = RequestReader()
    completions = [reader.feed(part) for part in pieces(REQUEST, cuts) if part]
    assert completions == [False] * (len(completions) - 1) + [True]
    assert reader.request == Request("/chat?room=1", Headers(REQUEST_FIELDS), "GET")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "DELETE"])
def test_request_method_is_reported(method: str) -> None:
    reader = RequestReader()
    assert reader.feed(request_head(start=method.encode() + b" / HTTP/1.1"))
    assert reader.request.method == method


def test_nothing_is_fed_after_the_end() -> None:
    reader = RequestReader()
    reader.feed(REQUEST)
    with pytest.raises(RuntimeError, match="the request is complete"):
        reader.feed(b"x")


def test_nothing_is_fed_after_a_refusal() -> None:
    reader = RequestReader()
    refused(reader, b"\x16\x03\x01")
    with pytest.raises(RuntimeError, match="was refused"):
        reader.feed(REQUEST)
    with pytest.raises(RuntimeError, match="is not complete"):
        _ = reader.request


def test_request_before_the_end() -> None:
    reader = RequestReader()
    reader.feed(REQUEST[:-1])
    with pytest.raises(RuntimeError, match="is not complete"):
        _ = reader.request


@pytest.mark.parametrize("size", [0, 1, len(REQUEST) - 1])
def test_request_cut_short(size: int) -> None:
    reader = RequestReader()
    assert not reader.feed(REQUEST[:size])
    with pytest.raises(InvalidMessage, match="closed before the request was complete"):
        reader.eof()


def test_eof_after_the_request() -> None:
    reader = RequestReader()
    reader.feed(REQUEST)
    reader.eof()
    assert reader.request.path == "/chat?room=1"


def test_a_finished_reader_is_freed_without_the_collector() -> None:
    reader = RequestReader()
    reader.feed(REQUEST)
    gone = weakref.ref(reader)
    gc.disable()
    try:
        del reader
        assert gone() is None
    finally:
        gc.enable()


# ---- request targets ----


@pytest.mark.parametrize("target", [b"/", b"/a%20b?c=d", b"//double", b"/a?b?c", b"/*"])
def test_target_in_origin_form(target: bytes) -> None:
    reader = RequestReader()
    assert reader.feed(request_head(start=b"GET " + target + b" HTTP/1.1"))
    assert reader.request.path == target.decode()


@pytest.mark.parametrize(
    ("target", "path"),
    [(b"http://a/b?c", "/b?c"), (b"HTTPS://A", "/"), (b"http://a?c", "/?c"), (b"http://a//b", "//b")],
)
def test_target_in_absolute_form_4_2_1_1(target: bytes, path: str) -> None:
    """RFC 6455, 4.2.1: the Request-URI may be an absolute HTTP or HTTPS URI containing the resource name."""
    reader = RequestReader()
    assert reader.feed(request_head(start=b"GET " + target + b" HTTP/1.1"))
    assert reader.request.path == path


@pytest.mark.parametrize("target", [b"http://b/", b"http://a:80/", b"http://user@a/", b"http://a\\@b/"])
def test_target_with_another_host(target: bytes) -> None:
    error = refused(RequestReader(), request_head(start=b"GET " + target + b" HTTP/1.1"))
    assert error.status == 400


@pytest.mark.parametrize(
    "start",
    [
        b"GET * HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"CONNECT a:80 HTTP/1.1",
        b"GET a HTTP/1.1",
        b"GET ws://a/ HTTP/1.1",
        b"GET http:/// HTTP/1.1",
        b"GET /#top HTTP/1.1",
        b"GET http://a/#top HTTP/1.1",
        b"GET /caf\xe9 HTTP/1.1",
        b"GET /a\tb HTTP/1.1",
        b"GET /a\x00b HTTP/1.1",
        b"GET /a b HTTP/1.1",
    ],
)
def test_target_refused(start: bytes) -> None:
    assert refused(RequestReader(), request_head(start=start)).status == 400


# ---- malformed and dangerous requests ----


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"GET",
        b"GET /",
        b"GET / ",
        b" GET / HTTP/1.1",
        b"GET  / HTTP/1.1",
        b"GET /  HTTP/1.1",
        b"GET\t/ HTTP/1.1",
        b"GET / HTTP/1.1 ",
        b"GET / http/1.1",
        b"GET / HTTP/1",
        b"GET / HTTP/1.",
        b"GET / HTTP/1.11",
        b"GET / HTTP/01.1",
        b"GET / HTTP/1.2",
        b"GET / HTTP/3.0",
        b"GET / RTSP/1.1",
        b"GET / ICE/1.1",
        b"get / HTTP/1.1",
        b"F\xc3\xb6\xc3\xb6 / HTTP/1.1",
        b"NOSUCHMETHOD / HTTP/1.1",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\r\nGET / HTTP/1.1",
        b"\nGET / HTTP/1.1",
        b"HTTP/1.1 101 Switching Protocols",
    ],
)
def test_request_line_refused(start: bytes) -> None:
    data = request_head(start=start)
    assert refused(RequestReader(), data).status == 400
    assert outcome(RequestReader(), bytewise(data))[0] == "refused"


@pytest.mark.parametrize("version", [b"0.9", b"1.0"])
def test_version_is_at_least_1_1_4_2_1_1(version: bytes) -> None:
    """RFC 6455, 4.2.1: an HTTP/1.1 or higher GET request."""
    error = refused(RequestReader(), request_head(start=b"GET / HTTP/" + version))
    assert error.status == 400
    assert "needs HTTP/1.1" in error.problem


@pytest.mark.parametrize("data", [b"GET / HTTP/2.0\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"])
def test_http2_is_refused_with_505(data: bytes) -> None:
    assert refused(RequestReader(), data).status == 505


def test_tls_to_a_plain_port_is_refused_at_the_first_byte() -> None:
    assert refused(RequestReader(), b"\x16").status == 400


SMUGGLING = {
    "obs-fold": [b"A: b\r\n c"],
    "obs-fold with a tab": [b"A: b\r\n\tc"],
    "obs-fold of an empty value": [b"A:\r\n c"],
    "folded Transfer-Encoding": [b"Transfer-Encoding:\r\n chunked"],
    "bare LF": [b"A: b\nB: c"],
    "bare CR": [b"A: b\rB: c"],
    "CR CR LF": [b"A: b\r"],
    "LF CR": [b"A: b\n\rB: c"],
    "NUL in a value": [b"A: b\x00c"],
    "NUL in a name": [b"A\x00: b"],
    "control character": [b"A: \x01"],
    "DEL": [b"A: \x7f"],
    "vertical tab": [b"A: b\x0bc"],
    "space before the colon": [b"A : b"],
    "tab before the colon": [b"A\t: b"],
    "space before the name": [b"A: b", b" : c"],
    "space in a name": [b"A B: c"],
    "empty name": [b": b"],
    "no colon": [b"A"],
    "no name, no colon": [b"\x0b"],
    "separator in a name": [b"A@B: c"],
    "8-bit name": [b"caf\xe9: b"],
    "UTF-8 name": ["\u017fec-websocket-key: a".encode()],
    "Content-Length twice, the same": [b"Content-Length: 0", b"Content-Length: 0"],
    "Content-Length twice, different": [b"Content-Length: 0", b"Content-Length: 5"],
    "Content-Length list": [b"Content-Length: 0, 0"],
    "Content-Length with a sign": [b"Content-Length: +0"],
    "Content-Length negative": [b"Content-Length: -1"],
    "Content-Length in hexadecimal": [b"Content-Length: 0x0"],
    "Content-Length empty": [b"Content-Length:"],
    "Content-Length with a space inside": [b"Content-Length: 0 0"],
    "Content-Length with an underscore": [b"Content-Length: 0_0"],
    "Content-Length too large": [b"Content-Length: " + b"9" * 30],
    "Content-Length wrapping around": [b"Content-Length: 18446744073709551616"],
    "Content-Length and Transfer-Encoding": [b"Content-Length: 0", b"Transfer-Encoding: chunked"],
    "Transfer-Encoding and Content-Length": [b"Transfer-Encoding: chunked", b"Content-Length: 0"],
    "body by Content-Length": [b"Content-Length: 1"],
    "body by a zero-padded Content-Length": [b"Content-Length: 0001"],
    "body by chunks": [b"Transfer-Encoding: chunked"],
    "body by chunks, in capitals": [b"TRANSFER-ENCODING: CHUNKED"],
    "Transfer-Encoding identity": [b"Transfer-Encoding: identity"],
    "Transfer-Encoding obfuscated": [b"Transfer-Encoding: xchunked"],
    "Transfer-Encoding with a leading comma": [b"Transfer-Encoding: ,chunked"],
    "Transfer-Encoding quoted": [b'Transfer-Encoding: "chunked"'],
    "Transfer-Encoding empty": [b"Transfer-Encoding:"],
    "Transfer-Encoding twice": [b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"],
}


@pytest.mark.parametrize("lines", SMUGGLING.values(), ids=SMUGGLING)
def test_smuggling_shape_is_refused(lines: list[bytes]) -> None:
    data = request_head(*lines) + b"0\r\n\r\nGET /next HTTP/1.1\r\n\r\n"
    whole = outcome(RequestReader(), [data])
    assert whole[0] == "refused"
    assert whole[2] == 400
    assert outcome(RequestReader(), bytewise(data)) == whole


@pytest.mark.parametrize("lines", SMUGGLING.values(), ids=SMUGGLING)
def test_smuggling_shape_is_refused_without_an_upgrade(lines: list[bytes]) -> None:
    """llhttp treats a body differently when the request upgrades."""
    data = b"\r\n".join([b"GET / HTTP/1.1", b"Host: a", *lines]) + b"\r\n\r\n0\r\n\r\nGET /next HTTP/1.1\r\n\r\n"
    assert refused(RequestReader(), data).status == 400


@pytest.mark.parametrize("end", [b"\n", b"\r\r\n", b"\n\n", b"\n\r\n", b" \r\n\r\n", b"\r \n"])
def test_end_of_head_is_crlf_crlf(end: bytes) -> None:
    data = b"GET / HTTP/1.1\r\nHost: a\r\n" + end + b"rest"
    assert outcome(RequestReader(), [data])[::2] == ("refused", 400)
    assert outcome(RequestReader(), bytewise(data))[::2] == ("refused", 400)


def test_empty_content_is_no_body() -> None:
    reader = RequestReader()
    assert reader.feed(request_head(b"Content-Length: 0"))


def test_body_refusal_carries_the_request() -> None:
    error = refused(RequestReader(), request_head(b"Content-Length: 5") + b"hello")
    assert error.request is not None
    assert error.request.path == "/"


def test_bytes_that_look_like_a_second_request_are_left_alone() -> None:
    data = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"  # without an upgrade, llhttp would go on to the next
    reader = RequestReader()
    assert reader.feed(data + b"GET /b HTTP/1.1\r\n\r\n")
    assert reader.request.path == "/a"
    assert reader.remaining == b"GET /b HTTP/1.1\r\n\r\n"


# ---- limits ----


def test_head_of_exactly_max_head() -> None:
    reader = RequestReader(max_head=len(REQUEST))
    assert reader.feed(REQUEST + b"rest")
    assert reader.remaining == b"rest"


def test_head_over_max_head() -> None:
    size = len(REQUEST) - 1
    error = refused(RequestReader(max_head=size), REQUEST)
    assert (error.status, error.problem) == (431, f"the head of the request is over the limit of {size} bytes")


def test_head_over_max_head_is_refused_before_its_end() -> None:
    reader = RequestReader(max_head=100)
    data = b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 1000
    assert not reader.feed(data[:99])
    assert refused(reader, data[99:100]).status == 431


def test_line_of_exactly_max_line() -> None:
    reader = RequestReader(max_line=40)
    assert reader.feed(b"GET / HTTP/1.1\r\nA: " + b"b" * 37 + b"\r\n\r\n")
    assert reader.request.headers["A"] == "b" * 37


def test_line_over_max_line() -> None:
    error = refused(RequestReader(max_line=40), b"GET / HTTP/1.1\r\nA: " + b"b" * 38 + b"\r\n\r\n")
    assert (error.status, error.problem) == (431, "a line of the request is over the limit of 40 bytes")


@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\n"])
def test_line_over_max_line_is_refused_before_its_end(start: bytes) -> None:
    reader = RequestReader(max_line=40)
    line = (b"A: " if start else b"GET /") + b"b" * 1000
    assert not reader.feed(start + line[:41])
    assert refused(reader, line[41:42]).status == 431


def test_exactly_max_headers() -> None:
    reader = RequestReader(max_headers=3)
    assert reader.feed(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 3 + b"\r\n")
    assert len(list(reader.request.headers.raw_items())) == 3


def test_over_max_headers() -> None:
    reader = RequestReader(max_headers=3)
    assert not reader.feed(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 3 + b"A: b\r")
    error = refused(reader, b"\n")
    assert (error.status, error.problem) == (431, "more than 3 header lines")


def test_default_limits() -> None:
    many = b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 128
    assert RequestReader().feed(many + b"\r\n")
    assert refused(RequestReader(), many + b"A: b\r\n\r\n").status == 431
    long = b"GET / HTTP/1.1\r\nA: " + b"b" * 8189
    assert RequestReader().feed(long + b"\r\n\r\n")
    assert refused(RequestReader(), long + b"b\r\n\r\n").status == 431
    large = b"GET / HTTP/1.1\r\n" + b"A: %s\r\n" % (b"b" * 5000) * 3
    room = 16384 - len(large) - len(b"A: \r\n\r\n")
    assert RequestReader().feed(large + b"A: " + b"b" * room + b"\r\n\r\n")
    assert refused(RequestReader(), large + b"A: " + b"b" * (room + 1) + b"\r\n\r\n").status == 431


def test_what_follows_the_head_is_not_limited() -> None:
    reader = RequestReader()
    assert reader.feed(REQUEST + bytes(100_000))
    assert reader.remaining == bytes(100_000)


# ---- responses ----


def test_accepted() -> None:
    reader = ResponseReader()
    assert reader.feed(ACCEPTED + b"\x81\x05hello")
    assert reader.response == Response(
        101,
        "Switching Protocols",
        Headers(
            [
                ("Upgrade", "websocket"),
                ("Connection", "Upgrade"),
                ("X-Empty", ""),
                ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            ]
        ),
    )
    assert reader.remaining == b"\x81\x05hello"


def test_accepted_at_every_cut() -> None:
    for cut in range(len(ACCEPTED)):
        reader = ResponseReader()
        assert not reader.feed(ACCEPTED[:cut])
        assert reader.feed(ACCEPTED[cut:] + b"rest")
        assert len(list(reader.response.headers.raw_items())) == 4
        assert reader.remaining == b"rest"


@pytest.mark.parametrize(
    "lines",
    [[], [b"Content-Length: 5"], [b"Transfer-Encoding: chunked"], [b"Connection: close"], [b"Upgrade: websocket"]],
)
def test_101_ends_with_its_head_whatever_it_says(lines: list[bytes]) -> None:
    """RFC 9112, 6.3, case 1: a 1xx response has no body; the handshake judges the rest."""
    reader = ResponseReader()
    assert reader.feed(b"\r\n".join([b"HTTP/1.1 101 OK", *lines]) + b"\r\n\r\nHTTP/")
    assert reader.response.status_code == 101
    assert reader.remaining == b"HTTP/"


@pytest.mark.parametrize(
    ("start", "status", "reason"),
    [
        (b"HTTP/1.1 404 Not Found", 404, "Not Found"),
        (b"HTTP/1.1 404 ", 404, ""),
        (b"HTTP/1.1 404", 404, ""),
        (b"HTTP/1.0 404 Not Found", 404, "Not Found"),
        (b"HTTP/1.1 599 caf\xe9 \t!", 599, "caf\u00e9 \t!"),
    ],
)
def test_status_line(start: bytes, status: int, reason: str) -> None:
    reader = ResponseReader()
    assert reader.feed(start + b"\r\nContent-Length: 0\r\n\r\n")
    assert (reader.response.status_code, reader.response.reason_phrase) == (status, reason)


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"HTTP/1.1",
        b"HTTP/1.1 ",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 000 OK",
        b"HTTP/1.1 +20 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/2.0 200 OK",
        b"HTTP/0.9 200 OK",
        b"HTTP/1.0 101 Switching Protocols",
        b"http/1.1 200 OK",
        b"RTSP/1.1 200 OK",
        b"ICE/1.1 200 OK",
        b"\r\nHTTP/1.1 200 OK",
        b"HTTP/1.1 200 O\rK",
        b"HTTP/1.1 200 O\nK",
        b"HTTP/1.1 200 O\x00K",
        b"GET / HTTP/1.1",
        b"SSH-2.0-OpenSSH_9.6",
        b"\x15\x03\x01\x00\x02\x02\x46",
    ],
)
def test_status_line_refused(start: bytes) -> None:
    data = start + b"\r\nContent-Length: 0\r\n\r\n"
    assert outcome(ResponseReader(), [data])[0] == "refused"
    assert outcome(ResponseReader(), bytewise(data))[0] == "refused"


@pytest.mark.parametrize(
    "lines",
    [
        [b"A: b\r\n c"],
        [b"A: b\nB: c"],
        [b"A: b\rB: c"],
        [b"A : b"],
        [b"A: b\x00"],
        [b"Content-Length: 0", b"Content-Length: 0"],
        [b"Content-Length: 0, 0"],
        [b"Content-Length: 0", b"Transfer-Encoding: chunked"],
    ],
)
@pytest.mark.parametrize("status", [b"101", b"403"])
def test_malformed_response(lines: list[bytes], status: bytes) -> None:
    data = b"HTTP/1.1 " + status + b" X\r\n" + b"\r\n".join(lines) + b"\r\n" + UPGRADE + b"\r\n"
    refused(ResponseReader(), data)


def test_body_by_content_length() -> None:
    reader = ResponseReader()
    assert not reader.feed(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nhel")
    assert reader.feed(b"lo, and what nobody asked for")
    assert reader.response == Response(403, "Forbidden", Headers([("Content-Length", "5")]), b"hello")
    assert reader.remaining == b""


@pytest.mark.parametrize("rest", [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", ACCEPTED, b"\x00", b"0\r\n\r\n"])
@pytest.mark.parametrize("lines", [b"", b"Connection: close\r\n"])
def test_what_follows_a_refusal_changes_nothing(rest: bytes, lines: bytes) -> None:
    reader = ResponseReader()
    assert reader.feed(b"HTTP/1.1 403 Forbidden\r\n" + lines + b"Content-Length: 5\r\n\r\nhello" + rest)
    assert (reader.response.status_code, reader.response.body, reader.remaining) == (403, b"hello", b"")
    assert len(reader.response.headers) == (2 if lines else 1)


def test_body_in_chunks() -> None:
    reader = ResponseReader()
    assert reader.feed(CHUNKED)
    assert reader.response == Response(403, "Forbidden", Headers([("Transfer-Encoding", "chunked")]), b"abcde")


def test_body_in_chunks_byte_by_byte() -> None:
    reader = ResponseReader()
    assert [reader.feed(byte) for byte in bytewise(CHUNKED)] == [False] * (len(CHUNKED) - 1) + [True]
    assert reader.response.body == b"abcde"


def test_body_until_the_end() -> None:
    reader = ResponseReader()
    assert not reader.feed(b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\nhel")
    assert not reader.feed(b"lo")
    reader.eof()
    assert reader.response.body == b"hello"
    reader.eof()  # once is enough, twice is harmless
    assert reader.response.status_code == 502


def test_body_in_another_coding_until_the_end() -> None:
    reader = ResponseReader()
    assert not reader.feed(b"HTTP/1.1 502 Bad Gateway\r\nTransfer-Encoding: gzip\r\n\r\n\x1f\x8b")
    reader.eof()
    assert reader.response.body == b"\x1f\x8b"


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_status_without_body(status: bytes) -> None:
    reader = ResponseReader()
    assert reader.feed(b"HTTP/1.1 " + status + b"\r\n\r\n")
    assert reader.response.body == b""


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nhell",
        b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhell",
        b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n4\r\nhell\r\n",
    ],
)
def test_body_cut_short(data: bytes) -> None:
    reader = ResponseReader()
    assert not reader.feed(data)
    with pytest.raises(InvalidMessage, match="before the body of the response was complete") as caught:
        reader.eof()
    assert caught.value.response is not None
    assert (caught.value.response.status_code, caught.value.response.body) == (403, b"hell")


@pytest.mark.parametrize("size", [0, 10, len(ACCEPTED) - 1])
def test_response_cut_short(size: int) -> None:
    reader = ResponseReader()
    reader.feed(ACCEPTED[:size])
    with pytest.raises(InvalidMessage, match="closed before the response was complete"):
        reader.eof()
    with pytest.raises(RuntimeError, match="is not complete"):
        _ = reader.response


@pytest.mark.parametrize("chunks", [b"x\r\n", b"-1\r\n", b"5\r\nhelloo", b"1\na\n", b"f" * 18 + b"\r\n", b"1 \r\na"])
def test_malformed_chunks(chunks: bytes) -> None:
    error = refused(ResponseReader(), b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks)
    assert error.response is not None
    assert error.response.status_code == 403


def test_body_of_exactly_max_body() -> None:
    reader = ResponseReader(max_body=5)
    assert reader.feed(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nhello")
    assert reader.response.body == b"hello"


@pytest.mark.parametrize("head", [b"Content-Length: 6\r\n\r\n", b"\r\n", b"Transfer-Encoding: chunked\r\n\r\n6\r\n"])
def test_body_over_max_body(head: bytes) -> None:
    error = refused(ResponseReader(max_body=5), b"HTTP/1.1 403 Forbidden\r\n" + head + b"hello!")
    assert (error.status, error.problem) == (413, "the body of the response is over the limit of 5 bytes")
    assert error.response is not None
    assert (error.response.status_code, error.response.body) == (403, b"hello")


@pytest.mark.parametrize("endless", [b"1;" + b"x" * 100, b"0\r\nTrailer: " + b"x" * 100, b"0\r\n" + b"A: b\r\n" * 20])
def test_framing_of_a_body_is_limited(endless: bytes) -> None:
    data = b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n" + endless
    assert refused(ResponseReader(max_body=80), data).status == 413


@pytest.mark.parametrize("parts", ["whole", "bytewise"])
def test_interim_responses_are_skipped(parts: str) -> None:
    """RFC 9110, 15.2: a client MUST be able to parse interim responses before the final one."""
    data = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ACCEPTED
    reader = ResponseReader()
    fed = [data] if parts == "whole" else bytewise(data)
    assert [reader.feed(part) for part in fed][-1]
    assert reader.response.status_code == 101
    assert "Link" not in reader.response.headers


def test_interim_responses_are_limited() -> None:
    error = refused(ResponseReader(max_head=1000), b"HTTP/1.1 100 Continue\r\n\r\n" * 100)
    assert (error.status, error.problem) == (431, "the head of the response is over the limit of 1000 bytes")


def test_response_limits() -> None:
    assert refused(ResponseReader(max_head=len(ACCEPTED) - 1), ACCEPTED).status == 431
    assert refused(ResponseReader(max_headers=3), ACCEPTED).status == 431
    assert refused(ResponseReader(max_line=47), ACCEPTED).status == 431
    assert ResponseReader(max_head=len(ACCEPTED), max_headers=4, max_line=50).feed(ACCEPTED)


# ---- responses to CONNECT ----


@pytest.mark.parametrize(
    "start", [b"HTTP/1.1 200 OK", b"HTTP/1.0 200 Connection established", b"HTTP/1.1 204", b"HTTP/1.1 299 "]
)
@pytest.mark.parametrize(
    "lines", [[], [b"Content-Length: 5"], [b"Transfer-Encoding: chunked"], [b"Connection: close"], [b"Via: 1.1 a"]]
)
def test_tunnel_begins_behind_the_head(start: bytes, lines: list[bytes]) -> None:
    """RFC 9110, 9.3.6: Content-Length and Transfer-Encoding MUST be ignored in a successful response to CONNECT."""
    data = b"\r\n".join([start, *lines]) + b"\r\n\r\n"
    whole, bitten = ResponseReader(tunnel=True), ResponseReader(tunnel=True)
    assert whole.feed(data + b"\x16\x03\x01")
    assert whole.remaining == b"\x16\x03\x01"
    assert [bitten.feed(byte) for byte in bytewise(data)] == [False] * (len(data) - 1) + [True]
    assert bitten.remaining == b""
    assert whole.response == bitten.response
    assert len(whole.response.headers) == len(lines)


def test_tunnel_behind_interim_responses() -> None:
    reader = ResponseReader(tunnel=True)
    assert reader.feed(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nrest")
    assert (reader.response.status_code, reader.remaining) == (200, b"rest")


@pytest.mark.parametrize("status", [300, 403, 407, 503])
def test_refused_tunnel_has_a_body(status: int) -> None:
    reader = ResponseReader(tunnel=True)
    assert not reader.feed(b"HTTP/1.1 %d X\r\nContent-Length: 5\r\n\r\nhel" % status)
    assert reader.feed(b"lo")
    assert (reader.response.status_code, reader.response.body) == (status, b"hello")


def test_body_of_200_without_tunnel() -> None:
    reader = ResponseReader()
    assert not reader.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    assert reader.feed(b"hello")
    assert reader.response.body == b"hello"


# ---- any bytes, any split ----

fragments = st.sampled_from(
    [
        b"GET / HTTP/1.1\r\n",
        b"GET /x",
        b" HTTP/1.1",
        b"HTTP/1.1 101 Switching Protocols\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 \r\n\r\n",
        b"Upgrade: websocket\r\n",
        b"Connection: Upgrade\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"A:\r\n",
        b"A: b",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b" ",
        b":",
        b"\x00",
        b"\xff",
    ]
)
streams = st.lists(fragments | st.binary(max_size=5), max_size=25).map(b"".join)
limits = st.sampled_from([(16384, 128, 8192), (60, 128, 8192), (16384, 2, 8192), (16384, 128, 20), (40, 1, 38)])


@given(streams, st.lists(st.integers(0, 500), max_size=20), limits)
def test_any_request_stream_however_it_is_split(data: bytes, cuts: list[int], limit: tuple[int, int, int]) -> None:
    """The outcome, and the reason of a refusal, depend on the bytes alone."""

    def reader() -> RequestReader:
        return RequestReader(max_head=limit[0], max_headers=limit[1], max_line=limit[2])

    whole = outcome(reader(), [data], close=True)
    assert outcome(reader(), pieces(data, cuts), close=True) == whole
    assert outcome(reader(), bytewise(data), close=True) == whole


@given(streams, st.lists(st.integers(0, 500), max_size=20), limits)
def test_any_response_head_however_it_is_split(data: bytes, cuts: list[int], limit: tuple[int, int, int]) -> None:
    def reader() -> ResponseReader:
        return ResponseReader(max_head=limit[0], max_headers=limit[1], max_line=limit[2])

    whole = outcome(reader(), [data], close=True)
    assert outcome(reader(), pieces(data, cuts), close=True) == whole
    assert outcome(reader(), bytewise(data), close=True) == whole


@given(st.binary(), st.booleans())
def test_garbage(data: bytes, request: bool) -> None:
    reader = RequestReader() if request else ResponseReader()
    result = outcome(reader, bytewise(data), close=True)
    assert result[0] == "refused"


# ---- encoding ----


def test_encode_request() -> None:
    headers = Headers([("Host", "example.com"), ("X-Latin", "caf\u00e9"), ("x-empty", ""), ("X", "1"), ("X", "2")])
    assert encode_request(Request("/chat?a=b", headers)) == (
        b"GET /chat?a=b HTTP/1.1\r\nHost: example.com\r\nX-Latin: caf\xe9\r\nx-empty: \r\nX: 1\r\nX: 2\r\n\r\n"
    )


@pytest.mark.parametrize("authority", ["example.com:443", "127.0.0.1:80", "[::1]:8080", "a_b.example.:1"])
def test_encode_connect(authority: str) -> None:
    assert encode_connect(authority, Headers([("Host", authority), ("X", "caf\u00e9")])) == (
        f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nX: caf\u00e9\r\n\r\n".encode("latin-1")
    )


@pytest.mark.parametrize(
    "authority",
    ["", "a", "a:", ":80", "a:b", "a:123456", "::1:80", "[::1]", "[g]:80", "[::1]x:80", "a b:80", "a:80 ", "a:80\r\n",
     "a/b:80", "u@a:80", "caf\u00e9:80", "http://a:80", "a\r\nX: y:80"],
)  # fmt: skip
def test_encode_connect_refuses_an_authority(authority: str) -> None:
    with pytest.raises(ValueError, match="authority"):
        encode_connect(authority, Headers())


def test_encode_connect_refuses_a_header() -> None:
    with pytest.raises(ValueError, match="header X:"):
        encode_connect("a:80", Headers([("X", "a\r\nb")]))


def test_encode_response() -> None:
    response = Response(403, "Forbidden", Headers([("Content-Length", "5")]), b"h\xe9llo")
    assert encode_response(response) == b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nh\xe9llo"


def test_encode_response_without_reason_or_headers() -> None:
    assert encode_response(Response(101, "")) == b"HTTP/1.1 101 \r\n\r\n"


@pytest.mark.parametrize("name", ["", "A B", "A:", "A\r\nB", "A\n", "caf\u00e9", "A\x00"])
def test_encode_refuses_a_header_name(name: str) -> None:
    headers = Headers([(name, "b")])
    with pytest.raises(ValueError, match="header name"):
        encode_request(Request("/", headers))
    with pytest.raises(ValueError, match="header name"):
        encode_response(Response(101, "OK", headers))


@pytest.mark.parametrize("value", ["a\rb", "a\nb", "a\r\nB: c", "a\n", "a\x00", "\x7f", "\u20ac", "\ud800"])
def test_encode_refuses_a_header_value(value: str) -> None:
    headers = Headers([("Good", "a"), ("Bad-One", value)])
    with pytest.raises(ValueError, match="header Bad-One"):
        encode_request(Request("/", headers))
    with pytest.raises(ValueError, match="header Bad-One"):
        encode_response(Response(101, "OK", headers))


@pytest.mark.parametrize("path", ["", "a", "/a b", "/\r\n", "/\u00e9", "/a\n", "/#top"])
def test_encode_refuses_a_target(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        encode_request(Request(path, Headers()))


def test_encode_refuses_a_method() -> None:
    with pytest.raises(ValueError, match="method 'GET /'"):
        encode_request(Request("/", Headers(), "GET /"))


@pytest.mark.parametrize("status", [-1, 0, 99, 1000])
def test_encode_refuses_a_status(status: int) -> None:
    with pytest.raises(ValueError, match="status_code"):
        encode_response(Response(status, "OK"))


@pytest.mark.parametrize("reason", ["a\r\nb", "a\n", "\u20ac"])
def test_encode_refuses_a_reason(reason: str) -> None:
    with pytest.raises(ValueError, match="reason_phrase"):
        encode_response(Response(400, reason))


names = st.text("!#$%&'*+-.^_`|~0123456789ABCXYZabcxyz", min_size=1, max_size=20).filter(
    lambda name: name.lower() not in ("content-length", "transfer-encoding", "connection", "upgrade")
)
values = st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"]) | st.just("\t"), max_size=40).map(
    lambda value: value.strip(" \t")
)
header_lists = st.lists(st.tuples(names, values), max_size=20)


@given(header_lists, st.text("/abc?=%-._~!", max_size=30), st.lists(st.integers(0, 2000)))
def test_request_survives_a_round_trip(fields: list[tuple[str, str]], path: str, cuts: list[int]) -> None:
    request = Request("/" + path, Headers(fields))
    reader = RequestReader()
    assert [reader.feed(part) for part in pieces(encode_request(request), cuts) if part][-1]
    assert reader.request == request


@given(header_lists, values, st.lists(st.integers(0, 2000)))
def test_response_survives_a_round_trip(fields: list[tuple[str, str]], reason: str, cuts: list[int]) -> None:
    response = Response(101, reason, Headers(fields))
    reader = ResponseReader()
    assert [reader.feed(part) for part in pieces(encode_response(response), cuts) if part][-1]
    assert reader.response == response
