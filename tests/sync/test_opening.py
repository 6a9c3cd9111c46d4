"""Opening a connection: what is asked for, what may go wrong, and that nothing is left of it."""

from __future__ import annotations

import gc
import logging
import socket
import ssl
import time
import weakref
from typing import Any

import pytest
from network import server_context
from threads import Doing, RawServer, asyncio_server, echo, trusting, until

import taut
import taut.sync
from taut.errors import CertificateError, ConnectRefused, DialError, TLSError


def test_subprotocols_and_headers() -> None:
    async def handler(ws: taut.ServerConnection) -> None:
        assert ws.request is not None
        await ws.send(ws.request.path + " " + ws.request.headers["X-Mine"])

    with (
        asyncio_server(handler, "127.0.0.1", 0, subprotocols=["b"]) as server,
        taut.sync.connect(
            f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/path?query",
            subprotocols=["a", "b"],
            additional_headers={"X-Mine": "here"},
            logger="mine",
        ) as ws,
    ):
        assert ws.subprotocol == "b"
        assert ws.recv() == "/path?query here"
        assert ws.logger is logging.getLogger("mine")
        assert ws.remote_address == server.sockets[0].getsockname()


@pytest.mark.parametrize(
    ("uri", "options", "error"),
    [
        ("http://localhost", {}, taut.InvalidURI),
        ("ws://localhost", {"nonsense": 1}, TypeError),
        ("ws://localhost", {"ssl": ssl.create_default_context()}, ValueError),
        ("ws://localhost", {"open_timeout": -1}, ValueError),
        ("ws://localhost", {"additional_headers": {"Upgrade": "no"}}, ValueError),
        ("ws://localhost", {"reconnect": True}, TypeError),
    ],
)
def test_wrong_arguments(uri: str, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        taut.sync.connect(uri, **options)


def test_nobody_listens() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectRefused) as caught:
            taut.sync.connect(f"ws://127.0.0.1:{sock.getsockname()[1]}")
    assert [attempt.stage for attempt in caught.value.attempts] == ["connect"]


def test_a_name_that_does_not_exist() -> None:
    with pytest.raises(DialError):
        taut.sync.connect("ws://nobody.invalid/")


def test_a_server_that_does_not_answer(raw: RawServer) -> None:
    with pytest.raises(taut.OpenTimeout) as caught:
        raw.connect(open_timeout=0.1)
    assert caught.value.attempts
    raw.accept_nothing()


def test_a_refusal(raw: RawServer) -> None:
    connecting = Doing(raw.connect)
    with raw.accept() as peer:
        peer.read_head()
        peer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone")
        with pytest.raises(taut.InvalidStatus) as caught:
            connecting.result()
        assert caught.value.response.status_code == 404
        assert caught.value.response.body == b"none"
        assert [attempt.stage for attempt in caught.value.attempts] == ["handshake"]
        assert peer.read_to_end() == b""


def test_a_refusal_that_ends_with_the_stream(raw: RawServer) -> None:
    connecting = Doing(raw.connect)
    with raw.accept() as peer:
        peer.read_head()
        peer.write(b"HTTP/1.1 503 Busy\r\n\r\nlater")
    with pytest.raises(taut.InvalidStatus) as caught:
        connecting.result()
    assert caught.value.response.body == b"later"


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 101 Switching", b"\r\nnonsense\r\n\r\n"])
def test_a_broken_answer(raw: RawServer, answer: bytes) -> None:
    connecting = Doing(raw.connect)
    with raw.accept() as peer:
        peer.read_head()
        peer.write(answer)
    with pytest.raises(taut.InvalidHandshake):
        connecting.result()


def test_a_redirect(tcp: RawServer) -> None:
    with asyncio_server(echo, "127.0.0.1", 0) as server:
        connecting = Doing(tcp.connect)
        with tcp.accept() as peer:
            peer.read_head()
            target = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/there"
            peer.write(f"HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())
            with connecting.result() as ws:
                assert ws.request.path == "/there"
                ws.send("redirected")
                assert ws.recv() == "redirected"


def test_certificates(directory: str) -> None:
    with asyncio_server(echo, "127.0.0.1", 0, ssl=server_context()) as server:
        uri = f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(CertificateError) as caught:
            taut.sync.connect(uri)
        assert [attempt.stage for attempt in caught.value.attempts] == ["tls"]
        with pytest.raises(CertificateError, match="pins") as caught:
            taut.sync.connect(uri, ssl=trusting(), pins=["sha256:" + "00" * 32])
        found = str(caught.value)
        pin = found[found.index("sha256:") :][:71]
        with taut.sync.connect(uri, ssl=trusting(), pins=[pin]) as ws:
            ws.send("pinned")
            assert ws.recv() == "pinned"


def test_no_tls_at_the_other_end(tcp: RawServer) -> None:
    port = tcp.sock.getsockname()[1]
    connecting = Doing(taut.sync.connect, f"wss://127.0.0.1:{port}", ssl=trusting())
    with tcp.accept() as peer:
        peer.more()
        peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(TLSError):
            connecting.result()


def test_a_tls_handshake_that_stalls(tcp: RawServer) -> None:
    port = tcp.sock.getsockname()[1]
    with pytest.raises(TLSError, match="tls_timeout"):
        taut.sync.connect(f"wss://127.0.0.1:{port}", ssl=trusting(), tls_timeout=0.1)
    tcp.accept_nothing()


def test_a_given_socket(tcp: RawServer) -> None:
    sock = socket.create_connection(tcp.sock.getsockname())
    connecting = Doing(taut.sync.connect, "ws://localhost/", sock=sock)
    with tcp.accept() as peer:
        peer.respond()
        ws = connecting.result()
        peer.send(1, b"over it")
        assert ws.recv() == "over it"
        ws.abort()
    assert ws.closed


def test_many_at_once() -> None:
    with asyncio_server(echo, "127.0.0.1", 0) as server:
        uri = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"

        def talk(name: str) -> None:
            with taut.sync.connect(uri) as ws:
                for i in range(20):
                    ws.send(f"{name} {i}")
                    assert ws.recv(timeout=20) == f"{name} {i}"

        begun = time.monotonic()
        for each in [Doing(talk, str(i)) for i in range(30)]:
            each.result()
        assert time.monotonic() - begun < 20


def test_through_a_proxy(tcp: RawServer) -> None:
    """One that speaks HTTP CONNECT, and passes on what it is given."""

    def relay(one: socket.socket, other: socket.socket) -> None:
        while data := one.recv(65536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)

    def proxy() -> str:
        with tcp.accept() as client:
            request = client.read_head()
            host, port = request.split()[1].split(":")
            with socket.create_connection((host, int(port))) as upstream:
                client.write(b"HTTP/1.1 200 Connected\r\n\r\n")
                back = Doing(relay, upstream, client.sock)
                relay(client.sock, upstream)
                back.result()
        return request

    with asyncio_server(echo, "127.0.0.1", 0) as server:
        proxying = Doing(proxy)
        address = f"http://127.0.0.1:{tcp.sock.getsockname()[1]}"
        with taut.sync.connect(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", proxy=address) as ws:
            ws.send("through it")
            assert ws.recv() == "through it"
        assert proxying.result().startswith("CONNECT 127.0.0.1:")


def test_a_closed_connection_is_forgotten(tcp: RawServer) -> None:
    with tcp.connected() as (ws, peer):
        pong = ws.ping()
        peer.send(1, b"message")
        assert ws.recv() == "message"
    with pytest.raises(taut.ConnectionClosed):
        pong.wait()
    reference = weakref.ref(ws)
    del ws, pong
    until(lambda: gc.collect() >= 0 and reference() is None, "the end of it")
