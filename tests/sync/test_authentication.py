"""The authentication hooks at the door of a server for threads."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jwt
import pytest
import trustme
from door import basic, bearer, refusal
from network import client_context, server_context
from peers import CLOSE, CONT, TEXT, close_payload
from threads import Doing, RawPeer

import taut
import taut.sync

TOKEN = "s3cret-t0ken"
SECRET = "0123456789abcdef-secret-" * 3


def welcome(ws: taut.sync.ServerConnection) -> None:
    assert ws.request is not None
    ws.send(f"{ws.principal!r} {ws.request.path} {ws.request.headers.get('Sec-WebSocket-Protocol')}")


def know(token: str) -> str | None:
    if token == "forbidden":
        raise PermissionError
    if token == "raise":
        raise RuntimeError(TOKEN)
    return "ann" if token == TOKEN else None


async def know_later(token: str) -> str | None:
    return know(token)


@contextmanager
def serving(handler: Callable[..., object], hook: Any = None, **options: Any) -> Iterator[taut.sync.Server]:
    with taut.sync.serve(
        handler, "127.0.0.1", 0, process_request=hook, compression=None, server_header=None, **options
    ) as server:
        accepting = Doing(server.serve_forever)
        yield server
        server.shutdown()
        accepting.result()


def raw(server: taut.sync.Server) -> RawPeer:
    return RawPeer(socket.create_connection(("127.0.0.1", server.port)), client=True)


def ask(server: taut.sync.Server, *headers: tuple[str, str], target: str = "/") -> bytes:
    """What the handler says to somebody who is let in; else the whole answer."""
    with raw(server) as peer:
        head = peer.request(target, headers=[f"{name}: {value}" for name, value in headers])
        if not head.startswith("HTTP/1.1 101 "):
            return head.encode() + peer.read_to_end()
        message = peer.frame().payload
        peer.close()
        return message


HOOK = taut.any_of(
    taut.basic_auth(credentials=("ann", "word")),
    taut.bearer_auth(know),
    taut.cookie_auth("session", know),
    taut.query_auth("token", know),
    taut.subprotocol_auth("bearer.", know),
)


@pytest.mark.parametrize(
    ("headers", "target", "seen"),
    [
        ([basic("ann", "word")], "/", b"'ann' / None"),
        ([bearer(TOKEN)], "/", b"'ann' / None"),
        ([("Cookie", f"session={TOKEN}")], f"/?token={TOKEN}", b"'ann' /?token=*** None"),
        ([], f"/?token={TOKEN}", b"'ann' /?token=*** None"),
        ([("Sec-WebSocket-Protocol", f"chat, bearer.{TOKEN}")], "/", b"'ann' / chat"),
    ],
)
def test_every_way_in(headers: list[tuple[str, str]], target: str, seen: bytes) -> None:
    with serving(welcome, HOOK, subprotocols=["chat"]) as server:
        assert ask(server, *headers, target=target) == seen


def test_the_answers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), serving(welcome, taut.bearer_auth(know)) as server:
        assert ask(server) == refusal(401, 'Bearer realm=""')
        assert ask(server, bearer("x")) == refusal(401, 'Bearer realm="", error="invalid_token"')
        assert ask(server, bearer("forbidden")) == refusal(403, 'Bearer realm="", error="insufficient_scope"')
        assert ask(server, bearer("a"), bearer("b")) == refusal(400, 'Bearer realm="", error="invalid_request"')
        assert ask(server, bearer("raise")) == refusal(500)
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("authentication failed")]
    assert [line.split(",")[0] for line in lines] == [
        "authentication failed: bearer_auth: no credentials; answered with 401",
        "authentication failed: bearer_auth: wrong credentials; answered with 401",
        "authentication failed: bearer_auth: not permitted; answered with 403",
        "authentication failed: bearer_auth: ambiguous credentials; answered with 400",
        "authentication failed: bearer_auth: the check failed; answered with 500",
    ]
    assert all(", to 127.0.0.1:" in line for line in lines)
    (error,) = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert "Traceback" in logging.Formatter().format(error)


def test_without_authentication_there_is_no_principal() -> None:
    with serving(welcome) as server:
        assert ask(server) == b"None / None"


class Waiting:
    """An object that is called like a coroutine function."""

    async def __call__(self, token: str) -> str | None:
        return know(token)


@pytest.mark.parametrize(
    "hook",
    [
        taut.bearer_auth(know_later),
        taut.bearer_auth(Waiting()),
        taut.basic_auth(check_credentials=know_later),
        taut.certificate_auth(know_later),
        taut.jwt_auth(SECRET, ["HS256"], check=know_later),
        taut.jwt_auth(know_later, ["HS256"]),
        taut.all_of(taut.bearer_auth(know), taut.any_of(taut.query_auth("token", know_later))),
        taut.any_of(taut.bearer_auth(know), know_later),
    ],
)
def test_a_check_that_has_to_be_awaited_is_refused(hook: Any) -> None:
    with pytest.raises(TypeError, match=r"^process_request must be a function that is not a coroutine function, or "):
        taut.sync.serve(welcome, "127.0.0.1", 0, process_request=hook)


@pytest.mark.parametrize(
    ("hook", "name"),
    [
        (taut.bearer_auth(lambda _: know_later(TOKEN)), "the check of bearer_auth"),
        (taut.jwt_auth(lambda header: know_later(TOKEN), ["HS256"]), "key"),
        (taut.all_of(lambda ws, request: know_later(TOKEN)), "a hook"),
    ],
)
def test_a_check_that_turns_out_to_be_awaited_fails(hook: Any, name: str, caplog: pytest.LogCaptureFixture) -> None:
    token = jwt.encode({"sub": "ann", "exp": time.time() + 6000}, SECRET, "HS256")
    with serving(welcome, hook) as server:
        assert ask(server, bearer(token)).startswith(b"HTTP/1.1 500 ")
    assert f"TypeError: {name} must not be a coroutine function on a blocking server" in caplog.text


class Keys(jwt.PyJWKClient):
    """Of an issuer that is not asked over the network."""

    def fetch_data(self) -> Any:
        key = jwt.get_algorithm_by_name("HS256").to_jwk(SECRET.encode(), as_dict=True)
        return {"keys": [key | {"kid": "1", "alg": "HS256"}]}


@pytest.mark.parametrize("key", [SECRET, lambda header: SECRET, Keys("https://issuer.invalid/")])
def test_a_json_web_token(key: Any) -> None:
    claims = {"sub": "ann", "exp": int(time.time()) + 6000}
    token = jwt.encode(claims, SECRET, "HS256", headers={"kid": "1"})
    with serving(welcome, taut.jwt_auth(key, ["HS256"])) as server:
        assert ask(server, bearer(token)) == f"{claims!r} / None".encode()
        assert ask(server, bearer(token[:-5])) == refusal(401, 'Bearer realm="", error="invalid_token"')


def test_certificates() -> None:
    authority = trustme.CA()
    context = server_context()
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    names: list[Any] = []

    def know_certificate(certificate: dict[str, Any]) -> str:
        names.append(certificate["subject"])
        return "ann"

    with serving(welcome, taut.certificate_auth(know_certificate), ssl=context) as server:
        uri = f"wss://127.0.0.1:{server.port}/"
        with pytest.raises(taut.InvalidStatus) as caught:
            taut.sync.connect(uri, ssl=client_context())
        assert caught.value.response.status_code == 403
        trusting = client_context()
        authority.issue_cert("ann@example.com", common_name="ann").configure_cert(trusting)
        with taut.sync.connect(uri, ssl=trusting) as ws:
            assert ws.recv() == "'ann' / None"
    assert [dict(pair for (pair,) in name)["commonName"] for name in names] == ["ann"]
    with serving(welcome, taut.certificate_auth()) as server:
        assert ask(server) == refusal(403)


# -- the first message -----------------------------------------------------------------------------------------


def greet(ws: taut.sync.ServerConnection) -> None:
    ws.send(f"hello, {ws.principal}")
    for message in ws:
        ws.send(message)


def test_the_right_first_message() -> None:
    with serving(taut.first_message_auth(know)(greet)) as server, raw(server) as peer:
        peer.request()
        peer.write(
            peer.encode(TEXT, TOKEN[:5].encode(), fin=False)
            + peer.encode(CONT, TOKEN[5:].encode())
            + peer.encode(TEXT, b"behind")
        )
        assert [peer.frame().payload for _ in range(2)] == [b"hello, ann", b"behind"]
        peer.close()


@pytest.mark.parametrize(
    ("message", "code", "kind"),
    [
        (b"", 1008, "wrong credentials"),
        (b"wrong", 1008, "wrong credentials"),
        (b"forbidden", 1008, "not permitted"),
        (b"x" * 4097, 1008, "the message is too large"),
        (b"raise", 1011, "the check failed"),
    ],
)
def test_a_wrong_first_message(message: bytes, code: int, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    called = threading.Event()
    with (
        caplog.at_level(logging.INFO),
        serving(taut.first_message_auth(know)(lambda ws: called.set())) as server,
        raw(server) as peer,
    ):
        peer.request()
        peer.send(TEXT, message)
        frame = peer.frame()
        assert (frame.opcode, frame.payload) == (CLOSE, close_payload(code))
        peer.send(CLOSE, frame.payload)
        assert peer.read_to_end() == b""
    assert not called.is_set()
    assert f"authentication failed: first_message_auth: {kind}; answered with {code}, to 127.0.0.1:" in caplog.text


@pytest.mark.parametrize("drip", [False, True])
def test_the_deadline(drip: bool) -> None:
    called = threading.Event()
    with serving(taut.first_message_auth(know, 0.3)(lambda ws: called.set())) as server, raw(server) as peer:
        peer.request()
        begun = time.monotonic()
        peer.send(TEXT, b"x", fin=False)
        peer.sock.settimeout(0.02)
        received = b""
        while not received:
            try:
                received = peer.sock.recv(100)
            except TimeoutError:
                if drip:
                    peer.send(CONT, b"y", fin=False)
        assert received == b"\x88\x02\x03\xf0"
        assert time.monotonic() - begun < 5
        peer.sock.settimeout(20)
        peer.send(CLOSE, close_payload(1008))
        peer.read_to_end()
    assert not called.is_set()


def test_a_message_that_takes_its_time_within_the_deadline() -> None:
    """Longer than a blocking server waits at a time."""
    with serving(taut.first_message_auth(know, 20.0)(greet)) as server, raw(server) as peer:
        peer.request()
        peer.send(TEXT, TOKEN[:5].encode(), fin=False)
        peer.sock.settimeout(0.6)
        with pytest.raises(TimeoutError):
            peer.sock.recv(1)
        peer.sock.settimeout(20)
        peer.send(CONT, TOKEN[5:].encode())
        assert peer.frame().payload == b"hello, ann"
        peer.close()


def test_a_check_that_takes_too_long() -> None:
    called = threading.Event()

    def dawdle(_: Any) -> str:
        time.sleep(0.2)  # a check that blocks cannot be ended, but it comes too late
        return "ann"

    with serving(taut.first_message_auth(dawdle, 0.1)(lambda ws: called.set())) as server, raw(server) as peer:
        peer.request()
        peer.send(TEXT, b"x")
        assert peer.frame().payload == close_payload(1008)
        peer.send(CLOSE, close_payload(1008))
        peer.read_to_end()
    assert not called.is_set()


def test_who_leaves_before_the_first_message() -> None:
    called = threading.Event()
    with serving(taut.first_message_auth(know)(lambda ws: called.set())) as server:
        with raw(server) as peer:
            peer.request()
        with raw(server) as peer:
            peer.request()
            peer.close()
    assert not called.is_set()


def test_a_check_of_the_first_message_that_has_to_be_awaited(caplog: pytest.LogCaptureFixture) -> None:
    with serving(taut.first_message_auth(know_later)(greet)) as server, raw(server) as peer:
        peer.request()
        peer.send(TEXT, TOKEN.encode())
        assert peer.frame().payload == close_payload(1011)
        peer.send(CLOSE, close_payload(1011))
        peer.read_to_end()
    assert "the check of first_message_auth must not be a coroutine function on a blocking server" in caplog.text
