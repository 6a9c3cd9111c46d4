"""The opening handshake against other implementations: what they send we accept, what we send they accept,
and what either of us refuses is known."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHandshake as TheirInvalidHandshake
from websockets.exceptions import InvalidHeaderFormat
from websockets.headers import parse_connection, parse_extension, parse_subprotocol
from websockets.http11 import Request as TheirRequest
from websockets.protocol import State as TheirState
from websockets.server import ServerProtocol
from websockets.typing import Origin, Subprotocol
from websockets.uri import parse_uri as their_parse_uri
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, RejectConnection
from wsproto.events import Request as WsprotoRequest
from wsproto.utilities import RemoteProtocolError, generate_accept_token

from taut.errors import InvalidHandshake, InvalidHeader, InvalidURI
from taut.protocol.handshake import (
    accept_key,
    accept_response,
    build_request,
    check_request,
    check_response,
    offered_subprotocols,
    select_subprotocol,
)
from taut.protocol.headers import parse_extensions, parse_subprotocols, parse_token_list
from taut.protocol.http1 import RequestReader, ResponseReader, encode_request, encode_response
from taut.protocol.uri import parse_uri
from taut.types import Headers, Request

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def read_request(data: bytes) -> Request:
    reader = RequestReader()
    assert reader.feed(data)
    assert reader.remaining == b""
    return reader.request


# ---- whole handshakes ----


def test_client_of_websockets() -> None:
    client = ClientProtocol(
        their_parse_uri("ws://example.com:8080/chat?a=b"), subprotocols=[Subprotocol("mqtt"), Subprotocol("chat")]
    )
    client.send_request(client.connect())
    request = read_request(b"".join(client.data_to_send()))
    assert (request.path, request.headers["Host"]) == ("/chat?a=b", "example.com:8080")
    subprotocol = select_subprotocol(offered_subprotocols(request), ["chat"])
    answer = accept_response(request, check_request(request), subprotocol=subprotocol, headers={"X": "caf\u00e9"})
    client.receive_data(encode_response(answer))
    assert client.handshake_exc is None
    assert (client.state, client.subprotocol) == (TheirState.OPEN, "chat")


def test_server_of_websockets() -> None:
    uri = parse_uri("ws://me:secret@example.com:8080/caf\u00e9?a=b")
    request = build_request(uri, KEY, subprotocols=["mqtt", "chat"], origin="https://example.com", user_agent="taut")
    server = ServerProtocol(origins=[Origin("https://example.com")], subprotocols=[Subprotocol("chat")])
    server.receive_data(encode_request(request))
    (event,) = server.events_received()
    assert isinstance(event, TheirRequest)
    assert event.path == "/caf%C3%A9?a=b"
    server.send_response(server.accept(event))
    reader = ResponseReader()
    assert reader.feed(b"".join(server.data_to_send()))
    assert server.handshake_exc is None
    assert check_response(KEY, reader.response, subprotocols=["mqtt", "chat"]) == "chat"


def test_client_of_wsproto() -> None:
    client = WSConnection(ConnectionType.CLIENT)
    opening = WsprotoRequest(host="example.com:8080", target="/chat?a=b", subprotocols=["mqtt", "chat"])
    request = read_request(client.send(opening))
    subprotocol = select_subprotocol(offered_subprotocols(request), ["chat"])
    client.receive_data(encode_response(accept_response(request, check_request(request), subprotocol=subprotocol)))
    (event,) = client.events()
    assert isinstance(event, AcceptConnection)
    assert event.subprotocol == "chat"


def test_server_of_wsproto() -> None:
    server = WSConnection(ConnectionType.SERVER)
    server.receive_data(encode_request(build_request(parse_uri("ws://example.com/chat"), KEY, subprotocols=["chat"])))
    (event,) = server.events()
    assert isinstance(event, WsprotoRequest)
    assert (event.host, event.target, event.subprotocols) == ("example.com", "/chat", ["chat"])
    reader = ResponseReader()
    assert reader.feed(server.send(AcceptConnection(subprotocol="chat")))
    assert check_response(KEY, reader.response, subprotocols=["chat"]) == "chat"


def test_refusal_of_wsproto() -> None:
    server = WSConnection(ConnectionType.SERVER)
    server.receive_data(encode_request(build_request(parse_uri("ws://example.com/"), KEY)))
    list(server.events())
    reader = ResponseReader()
    complete = reader.feed(server.send(RejectConnection(status_code=403, headers=[(b"content-length", b"0")])))
    assert complete
    assert reader.response.status_code == 403


# ---- the same verdict ----

VERDICTS: dict[str, list[tuple[str, str | None]]] = {
    "as it should be": [],
    "keep-alive": [("Connection", "keep-alive, Upgrade")],
    "upgrade in capitals": [("Upgrade", "WEBSOCKET")],
    "no upgrade": [("Upgrade", None)],
    "another upgrade": [("Upgrade", "h2c")],
    "no connection": [("Connection", None)],
    "close": [("Connection", "close")],
    "no key": [("Sec-WebSocket-Key", None)],
    "short key": [("Sec-WebSocket-Key", "c2hvcnQ=")],
    "long key": [("Sec-WebSocket-Key", "A" * 23 + "=")],
    "key that is not base64": [("Sec-WebSocket-Key", "!" * 22 + "==")],
    "no version": [("Sec-WebSocket-Version", None)],
    "version 8": [("Sec-WebSocket-Version", "8")],
    "unknown header": [("X-Unknown", "a")],
}


def altered(changes: list[tuple[str, str | None]]) -> bytes:
    request = build_request(parse_uri("ws://example.com/"), KEY)
    for name, value in changes:
        if value is None:
            del request.headers[name]
        else:
            request.headers[name] = value
    return encode_request(request)


def we_accept(data: bytes) -> bool:
    try:
        check_request(read_request(data))
    except InvalidHandshake:
        return False
    return True


@pytest.mark.parametrize("changes", VERDICTS.values(), ids=VERDICTS)
def test_verdict_of_websockets(changes: list[tuple[str, str | None]]) -> None:
    data = altered(changes)
    server = ServerProtocol()
    server.receive_data(data)
    (event,) = server.events_received()
    assert isinstance(event, TheirRequest)
    assert we_accept(data) == (server.accept(event).status_code == 101)


# wsproto does not look at what the key decodes to.
KNOWN_OF_WSPROTO = {"short key", "long key", "key that is not base64"}


@pytest.mark.parametrize("name", [name for name in VERDICTS if name not in KNOWN_OF_WSPROTO])
def test_verdict_of_wsproto(name: str) -> None:
    data = altered(VERDICTS[name])
    server = WSConnection(ConnectionType.SERVER)
    accepted = False
    with contextlib.suppress(RemoteProtocolError):
        server.receive_data(data)
        accepted = any(isinstance(event, WsprotoRequest) for event in server.events())
    assert we_accept(data) == accepted


# ---- the same grammar ----


@given(st.binary(min_size=16, max_size=16))
def test_accept_key(nonce: bytes) -> None:
    assert accept_key(nonce.hex()) == generate_accept_token(nonce.hex().encode()).decode()


header_text = st.text(alphabet='ab1,;=" \t', max_size=12).map(lambda value: value.strip(" \t"))


@given(header_text)
def test_extensions(value: str) -> None:
    try:
        theirs = parse_extension(value)
    except InvalidHeaderFormat:
        theirs = None
    try:
        ours = parse_extensions(value)
    except InvalidHeader:
        ours = None
    assert ours == theirs


@given(header_text)
def test_connection(value: str) -> None:
    try:
        theirs = list(parse_connection(value))
    except InvalidHeaderFormat:
        theirs = []  # they want one at least
    try:
        ours = list(parse_token_list(value))
    except InvalidHeader:
        ours = []
    assert ours == theirs


@given(header_text)
def test_subprotocols(value: str) -> None:
    try:
        theirs = list(parse_subprotocol(value))
    except InvalidHeaderFormat:
        theirs = []
    try:
        ours = parse_subprotocols(value)
    except InvalidHeader:
        ours = []
    assert ours == theirs


@pytest.mark.parametrize(
    "uri",
    [
        "ws://localhost/",
        "wss://localhost/",
        "ws://localhost",
        "ws://localhost/path?query",
        "ws://localhost?query",
        "WS://LOCALHOST/PATH",
        "ws://localhost:8765/",
        "ws://[::1]:8765/",
        "ws://user:pass@localhost/",
        "ws://h\u00f8st/",
        "ws://\u00fcser:p\u00e4ss@h\u00f8st/p\u00e5th?q\u00fc\u00ebry",
    ],
)
def test_uri(uri: str) -> None:
    ours, theirs = parse_uri(uri), their_parse_uri(uri)
    assert (ours.secure, ours.host, ours.port, ours.resource) == (
        theirs.secure,
        theirs.host,
        theirs.port,
        theirs.resource_name,
    )


@pytest.mark.parametrize("uri", ["ws://localhost/#frag", "http://localhost/", "ws://", "localhost", "ws:///path"])
def test_uri_refused(uri: str) -> None:
    with pytest.raises(InvalidURI):
        parse_uri(uri)
    with pytest.raises(Exception, match="isn't a valid URI"):
        their_parse_uri(uri)


# ---- heads ----

names = st.text("abcXYZ-_", min_size=1, max_size=10)
values = st.text(" !abc:,;=\u00e9\t", max_size=20).map(lambda value: value.strip(" \t"))


@given(st.lists(st.tuples(names, values), max_size=10), st.text("/ab?=%", max_size=10))
def test_head_of_a_request(fields: list[tuple[str, str]], path: str) -> None:
    """What we write, the reader of websockets reads as ours does."""
    request = Request("/" + path, Headers(fields))
    data = encode_request(request)
    assert read_request(data) == request
    server = ServerProtocol()
    server.receive_data(data)
    (event,) = server.events_received()
    assert isinstance(event, TheirRequest)
    assert (event.path, sorted(event.headers.raw_items())) == (request.path, sorted(fields))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        b"POST / HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\x00\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
    ],
)
def test_what_websockets_refuses_we_refuse(data: bytes) -> None:
    server = ServerProtocol()
    server.receive_data(data)
    if not isinstance(server.handshake_exc, TheirInvalidHandshake):
        (event,) = server.events_received()
        assert isinstance(event, TheirRequest)
        assert server.accept(event).status_code != 101
    with pytest.raises(InvalidHandshake):
        read_request(data)
