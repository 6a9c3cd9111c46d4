"""A server for threads."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from network import server_context
from peers import CLOSE, PING, PONG, TEXT, close_payload
from threads import Doing, RawPeer, sync_echo, trusting, until

import taut
import taut.sync
from taut import ConnectionClosedError, ConnectionClosedOK, State


@contextmanager
def serving(handler: Callable[..., object] = sync_echo, *args: Any, **options: Any) -> Iterator[taut.sync.Server]:
    """A server that accepts connections until the end of the block."""
    where = args or (() if "path" in options else ("127.0.0.1", 0))
    with taut.sync.serve(handler, *where, **options) as server:
        accepting = Doing(server.serve_forever)
        yield server
        server.shutdown()
        accepting.result()


def connect(server: taut.sync.Server, target: str = "/", **options: Any) -> taut.sync.ClientConnection:
    return taut.sync.connect(f"ws://127.0.0.1:{server.port}{target}", **options)


def raw(server: taut.sync.Server) -> RawPeer:
    return RawPeer(socket.create_connection(("127.0.0.1", server.port)), client=True)


def test_tcp() -> None:
    with serving() as server, connect(server) as ws:
        ws.send("echo")
        assert ws.recv() == "echo"
        assert server.sockets[0].getsockname() == ws.remote_address
        until(lambda: len(server.connections) == 1)


def test_tls() -> None:
    with (
        serving(ssl=server_context()) as server,
        taut.sync.connect(f"wss://127.0.0.1:{server.port}", ssl=trusting()) as ws,
    ):
        for size in (10, 1_000_000):
            ws.send("x" * size)
            assert ws.recv() == "x" * size


def test_unix(directory: str) -> None:
    path = f"{directory}/s"
    for _ in range(2):  # the second finds the socket of the first
        with serving(path=path) as server, taut.sync.unix_connect(path) as ws:
            ws.send("echo")
            assert ws.recv() == "echo"
            with pytest.raises(ValueError, match="port"):
                _ = server.port
    assert os.path.exists(path)


def test_many_connections() -> None:
    with serving() as server:
        clients = [connect(server) for _ in range(40)]
        for i, ws in enumerate(clients):
            ws.send(str(i))
        assert [ws.recv(timeout=20) for ws in clients] == [str(i) for i in range(40)]
        for ws in clients:
            ws.close()


def test_the_end_of_a_handler() -> None:
    with serving(lambda ws: ws.send("done")) as server, connect(server) as ws:
        assert list(ws) == ["done"]
        assert ws.close_code == 1000


def test_a_handler_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    def handler(ws: taut.sync.ServerConnection) -> None:
        for message in ws:
            if message == "fail":
                raise KeyError("mine")
            ws.send(message)

    with serving(handler) as server, connect(server) as one, connect(server) as other:
        one.send("fail")
        with pytest.raises(ConnectionClosedError) as caught:
            one.recv()
        assert (caught.value.code, caught.value.reason) == (1011, "the handler failed")
        other.send("undisturbed")
        assert other.recv() == "undisturbed"
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == [
        "connection handler failed"
    ]
    assert "KeyError: 'mine'" in caplog.text


def test_a_handler_whose_peer_leaves_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    ended = threading.Event()

    def handler(ws: taut.sync.ServerConnection) -> None:
        try:
            ws.recv()
        finally:
            ended.set()

    with serving(handler) as server:
        connect(server).abort()
        assert ended.wait(20)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_frames_behind_the_request() -> None:
    with serving() as server, raw(server) as peer:
        assert peer.request(behind=peer.encode(TEXT, b"early")).startswith("HTTP/1.1 101 ")
        assert peer.frame().payload == b"early"
        peer.send(PING, b"?")
        assert peer.frame().opcode == PONG
        peer.send(CLOSE, close_payload(1000))
        assert peer.frame().code == 1000
        assert peer.read_to_end() == b""  # a server ends the stream first (RFC 6455, 7.1.1)


def test_pings_are_answered_while_the_handler_is_busy() -> None:
    go_on = threading.Event()
    with serving(lambda ws: go_on.wait(20)) as server, raw(server) as peer:
        peer.request()
        peer.send(PING, b"?")
        assert peer.frame().payload == b"?"
        go_on.set()
        assert peer.frame().code == 1000


# ---- the opening handshake ----


def test_options_of_the_handshake() -> None:
    def process_response(ws: Any, request: taut.Request, response: taut.Response) -> taut.Response:
        response.headers["X-Path"] = request.path
        return response

    with (
        serving(
            subprotocols=["a", "b"], server_header="mine", compression=None, process_response=process_response
        ) as server,
        connect(server, "/path", subprotocols=["b", "a"]) as ws,
    ):
        assert ws.subprotocol == "a"
        assert ws.response is not None
        assert ws.response.headers["Server"] == "mine"
        assert ws.response.headers["X-Path"] == "/path"
        assert "Sec-WebSocket-Extensions" not in ws.response.headers


def test_what_a_handler_knows() -> None:
    known: list[Any] = []

    def handler(ws: taut.sync.ServerConnection) -> None:
        known.extend([ws.request, ws.subprotocol, ws.remote_address, ws.server, ws.state])

    with serving(handler, select_subprotocol=lambda ws, offered: offered[-1]) as server:
        with connect(server, "/x", subprotocols=["a", "b"]) as ws:
            address = ws.local_address
            assert list(ws) == []
        assert known[0].path == "/x"
        assert known[1:] == ["b", address, server, State.OPEN]


def test_process_request() -> None:
    seen: list[Any] = []

    def process_request(ws: taut.sync.ServerConnection, request: taut.Request) -> taut.Response | None:
        seen.append((ws.state, ws.remote_address is not None, ws.request is request))
        return None if request.path == "/open" else ws.respond(403, "not here")

    with serving(process_request=process_request) as server:
        with pytest.raises(taut.InvalidStatus) as caught:
            connect(server, "/closed")
        assert caught.value.response.status_code == 403
        assert caught.value.response.body == b"not here"
        with connect(server, "/open") as ws:
            ws.send("echo")
            assert ws.recv() == "echo"
    assert seen == [(State.CONNECTING, True, True)] * 2


@pytest.mark.parametrize("hook", ["process_request", "process_response", "select_subprotocol"])
def test_a_hook_that_fails(hook: str, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> None:
        raise KeyError("mine")

    options: dict[str, Any] = {hook: fail}
    with serving(**options) as server:
        with pytest.raises(taut.InvalidStatus) as caught:
            connect(server)
        assert caught.value.response.status_code == 500
    assert "KeyError: 'mine'" in caplog.text


def test_a_hook_that_would_have_to_be_awaited(caplog: pytest.LogCaptureFixture) -> None:
    async def hook() -> None: ...

    options: dict[str, Any] = {"process_request": lambda ws, request: hook()}
    with serving(**options) as server, pytest.raises(taut.InvalidStatus):
        connect(server)
    assert "must not be a coroutine function" in caplog.text


def test_origins() -> None:
    with serving(origins=["https://good.example", re.compile(r"https://.*\.good\.example")]) as server:
        for origin, accepted in [
            ("https://good.example", True),
            ("https://also.good.example", True),
            ("https://bad.example", False),
        ]:
            with raw(server) as peer:
                response = peer.request(headers=[f"Origin: {origin}"])
                assert response.startswith("HTTP/1.1 101 " if accepted else "HTTP/1.1 403 ")
                if accepted:
                    peer.close()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 426),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", 405),
    ],
)
def test_requests_that_are_refused(request_bytes: bytes, status: int) -> None:
    with serving() as server, raw(server) as peer:
        peer.write(request_bytes)
        assert peer.read_head().startswith(f"HTTP/1.1 {status} ")
        peer.read_to_end()


@pytest.mark.parametrize("sent", [b"", b"GET / HT"])
def test_a_client_that_dawdles(sent: bytes) -> None:
    with serving(open_timeout=0.2) as server, raw(server) as peer:
        peer.write(sent)
        assert peer.read_head().startswith("HTTP/1.1 408 ")
        peer.read_to_end()


def test_a_client_that_leaves() -> None:
    with serving() as server:
        for _ in range(5):
            with raw(server) as peer:
                peer.write(b"GET / HT")
        with connect(server) as ws:
            ws.send("echo")
            assert ws.recv() == "echo"


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n\r\n"])
def test_a_client_without_tls(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with serving(ssl=server_context(), open_timeout=0.2) as server, raw(server) as peer:
        peer.write(sent)
        assert b"HTTP" not in peer.read_to_end()
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


# ---- the end ----


def test_shutdown_closes_connections() -> None:
    with serving() as server:
        ws = connect(server)
        ws.send("echo")
        assert ws.recv() == "echo"
        receiving = Doing(ws.recv)
        server.shutdown(code=1012, reason="restart")
        with pytest.raises(ConnectionClosedError) as caught:
            receiving.result()
        assert (caught.value.code, caught.value.reason) == (1012, "restart")
        assert not server.is_serving()
        assert server.sockets == ()
        assert server.connections == set()
        with pytest.raises(OSError, match="cannot be reached"):
            taut.sync.connect(f"ws://127.0.0.1:{ws.request.headers['Host'].split(':')[1]}")  # type: ignore[union-attr]


def test_shutdown_that_lets_connections_end() -> None:
    with serving() as server:
        ws = connect(server)
        stopping = Doing(server.shutdown, close_connections=False)
        until(lambda: not server.is_serving())
        ws.send("echo")
        assert ws.recv() == "echo"
        ws.close()
        stopping.result()


def test_shutdown_refuses_handshakes_in_flight() -> None:
    with serving() as server, raw(server) as peer:
        peer.write(b"GET / HTTP/1.1\r\n")
        with connect(server):  # so that the first one has been accepted as well
            stopping = Doing(server.shutdown)
            assert peer.read_head().startswith("HTTP/1.1 503 ")
            assert peer.read_to_end()
            peer.sock.close()
            stopping.result()


def test_shutdown_by_a_handler() -> None:
    servers: list[taut.sync.Server] = []
    with serving(lambda ws: servers[0].shutdown()) as server:
        servers.append(server)
        with connect(server) as ws:
            with pytest.raises(ConnectionClosedOK) as caught:
                ws.recv()
            assert caught.value.code == 1001


def test_shutdown_leaves_a_handler_that_does_not_end(caplog: pytest.LogCaptureFixture) -> None:
    go_on = threading.Event()
    with serving(lambda ws: go_on.wait(20), close_timeout=0.1) as server:
        ws = connect(server)
        begun = time.monotonic()
        Doing(ws.recv)
        server.shutdown()
        assert time.monotonic() - begun < 10
        assert "1 handlers go on" in caplog.text
        go_on.set()


def test_shutdown_before_and_after() -> None:
    server = taut.sync.serve(sync_echo, "127.0.0.1", 0)
    server.shutdown()
    server.shutdown()
    server.serve_forever()
    assert server.sockets == ()


# ---- wrong arguments ----


async def coroutine_function(*_: object) -> None: ...


class SomeListener(taut.Listener):
    pass


@pytest.mark.parametrize(
    ("handler", "options", "error", "text"),
    [
        (None, {}, TypeError, "handler must be"),
        (coroutine_function, {}, TypeError, "handler must be"),
        (SomeListener, {}, TypeError, "handler must be"),
        (print, {"process_request": coroutine_function}, TypeError, "process_request must be"),
        (print, {"process_response": 1}, TypeError, "process_response must be"),
        (print, {"cancel_on_close": True}, TypeError, "cancel_on_close"),
        (print, {"nonsense": True}, TypeError, "nonsense"),
        (print, {"max_connections": 0}, ValueError, "max_connections"),
        (print, {"max_handshakes": 10}, TypeError, "max_handshakes"),
        (print, {"subprotocols": "chat"}, TypeError, "subprotocols"),
        (print, {"path": "/nowhere"}, ValueError, "only one of"),
        (print, {"ping_interval": -1}, ValueError, "ping_interval"),
    ],
)
def test_wrong_arguments(handler: Any, options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        taut.sync.serve(handler, "127.0.0.1", 0, **options)


def test_an_address_in_use() -> None:
    with taut.sync.serve(sync_echo, "127.0.0.1", 0) as server, pytest.raises(OSError, match="cannot listen on"):
        taut.sync.serve(sync_echo, "127.0.0.1", server.port)


def test_codes_of_shutdown() -> None:
    with taut.sync.serve(sync_echo, "127.0.0.1", 0) as server, pytest.raises(ValueError, match="code must be"):
        server.shutdown(code=1006)
