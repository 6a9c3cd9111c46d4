"""The server for threads behind proxies: the PROXY protocol, and headers that trusted proxies have written."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from network import client_context, server_context
from threads import Doing, RawPeer, until

import taut
import taut.sync

LINE = b"PROXY TCP4 192.0.2.1 198.51.100.7 54321 443\r\n"
CLIENT, SERVER = ("192.0.2.1", 54321), ("198.51.100.7", 443)
TRUSTED = {"trusted_proxies": ["127.0.0.1"]}
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


def who(ws: taut.sync.ServerConnection) -> None:
    ws.send(f"{ws.remote_address} {ws.local_address} {ws.proxy_header and ws.proxy_header.version}")
    for message in ws:
        ws.send(message)


@contextmanager
def serving(**options: Any) -> Iterator[taut.sync.Server]:
    with taut.sync.serve(who, "127.0.0.1", 0, **options) as server:
        thread = Doing(server.serve_forever)
        try:
            yield server
        finally:
            server.shutdown()
            thread.result()


def socket_to(server: taut.sync.Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port))


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("step", [1, 1000])
def test_addresses_are_those_of_the_header(tls: bool, step: int) -> None:
    ssl, client = (server_context(), client_context()) if tls else (None, None)
    with serving(ssl=ssl, proxy_protocol=True, **TRUSTED) as server:
        sock = socket_to(server)
        for start in range(0, len(LINE), step):
            sock.sendall(LINE[start : start + step])
        uri = "wss://localhost/" if tls else "ws://localhost/"
        with taut.sync.connect(uri, sock=sock, ssl=client) as ws:
            assert ws.recv() == f"{CLIENT} {SERVER} 1"
            ws.send(bytes(100_000))
            assert ws.recv() == bytes(100_000)


def test_nothing_behind_the_header_is_lost() -> None:
    with serving(proxy_protocol=True, **TRUSTED) as server, RawPeer(socket_to(server), client=True) as peer:
        peer.write(LINE + REQUEST + b"\r\n" + bytes.fromhex("8182 00000000 6869"))
        while b"hi" not in peer.received:
            peer.more()
        assert peer.received.startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n", LINE[:20]])
def test_whoever_does_not_speak_it_is_dropped(caplog: pytest.LogCaptureFixture, sent: bytes) -> None:
    caplog.set_level(logging.INFO)
    with (
        serving(proxy_protocol=True, open_timeout=0.2, **TRUSTED) as server,
        RawPeer(socket_to(server), client=True) as peer,
    ):
        peer.write(sent)
        with pytest.raises((EOFError, ConnectionResetError)):
            peer.more()
        assert peer.received == b""
        until(lambda: "opening handshake failed: " in caplog.text)


@pytest.mark.parametrize("leave", [b"", LINE[:20]])
def test_one_that_leaves(caplog: pytest.LogCaptureFixture, leave: bytes) -> None:
    caplog.set_level(logging.INFO)
    with serving(proxy_protocol=True, **TRUSTED) as server, RawPeer(socket_to(server), client=True) as peer:
        peer.write(leave)
        peer.sock.shutdown(socket.SHUT_WR)
        until(lambda: "it left before the header" in caplog.text)


def test_only_trusted_proxies_may_speak_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with (
        serving(proxy_protocol=True, trusted_proxies=["192.0.2.0/24"]) as server,
        RawPeer(socket_to(server), client=True) as peer,
    ):
        until(lambda: "it is no trusted proxy" in caplog.text)
        with pytest.raises((EOFError, ConnectionResetError)):
            peer.more()


def test_shutting_down_does_not_wait_for_a_header() -> None:
    with (
        serving(proxy_protocol=True, open_timeout=None, **TRUSTED) as server,
        RawPeer(socket_to(server), client=True) as peer,
    ):
        peer.write(LINE[:10])
        until(lambda: any(thread.name == "taut-sync connection" for thread in threading.enumerate()))
        server.shutdown()
        with pytest.raises((EOFError, ConnectionResetError)):
            peer.more()


@pytest.mark.parametrize(
    ("options", "client"),
    [(TRUSTED, "192.0.2.43"), ({"trusted_proxies": ["10.0.0.0/8"]}, "127.0.0.1"), ({}, "127.0.0.1")],
)
def test_headers_are_believed_from_trusted_proxies(options: dict[str, Any], client: str) -> None:
    headers = {"X-Forwarded-For": "6.6.6.6, 192.0.2.43", "X-Forwarded-Proto": "https"}
    with serving(**options) as server:
        uri = f"ws://127.0.0.1:{server.port}/"
        with taut.sync.connect(uri, additional_headers=headers) as ws:
            message = ws.recv()
            assert isinstance(message, str)
            assert message.startswith(f"('{client}', ")
            assert message.endswith(" None")
        origin, refused = f"https://127.0.0.1:{server.port}", f"http://127.0.0.1:{server.port}"
        if client == "127.0.0.1":
            origin, refused = refused, origin
        with taut.sync.connect(uri, additional_headers=headers, origin=origin):
            pass
        with pytest.raises(taut.InvalidStatus) as caught:
            taut.sync.connect(uri, additional_headers=headers, origin=refused)
        assert caught.value.response.status_code == 403


def test_what_cannot_be_believed_is_refused() -> None:
    with serving(**TRUSTED) as server, pytest.raises(taut.InvalidStatus) as caught:
        taut.sync.connect(f"ws://127.0.0.1:{server.port}/", additional_headers={"Forwarded": "for=nonsense"})
    assert caught.value.response.status_code == 400
