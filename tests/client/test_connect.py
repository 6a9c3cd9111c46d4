"""``connect``: its options, what it raises, TLS, and one connection after another."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import trustme
from network import Driver, client_context, server_context
from peers import Peer, close_payload

import taut


async def echo(ws: taut.ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


def port_of(server: taut.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


async def close_as_server(peer: Peer, code: int, reason: str = "") -> None:
    """The closing handshake, begun by a server, which then is the one to close the stream (RFC 6455, 7.1.1)."""
    peer.send(8, close_payload(code, reason))
    await peer.frames_until_close()
    await peer.drop()


def unused_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


# -- options -----------------------------------------------------------------------------------------------------------

WRONG: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("http://localhost/", {}, taut.InvalidURI, "write ws://"),
    ("ws://localhost/", {"nonsense": 1}, TypeError, "unexpected option nonsense; known are additional_headers, "),
    ("ws://localhost/", {"port": 65536}, ValueError, "port must be 0 to 65535, not 65536"),
    ("ws://localhost/", {"host": 1}, TypeError, "host must be a str"),
    ("ws://localhost/", {"sock": 3}, TypeError, "sock must be a connected socket.socket"),
    ("ws://localhost/", {"path": "x", "port": 80}, ValueError, "path and port exclude each other"),
    ("ws://localhost/", {"local_addr": "127.0.0.1"}, TypeError, "local_addr must be a tuple"),
    ("ws://localhost/", {"local_addr": ("localhost", 0)}, ValueError, "local_addr must be a tuple of an IP address"),
    ("ws://localhost/", {"family": 99}, ValueError, "family must be socket.AF_INET"),
    ("ws://localhost/", {"socket_options": [(1, 2)]}, ValueError, "socket_options must be tuples of level, name"),
    ("ws://localhost/", {"socket_options": [(1, 2, "3")]}, TypeError, "socket_options: a value must be int or bytes"),
    ("ws://localhost/", {"happy_eyeballs_delay": 0}, ValueError, "happy_eyeballs_delay must be a number above 0"),
    ("ws://localhost/", {"connecting_limit": 0}, ValueError, "connecting_limit must be a whole number, at least 1"),
    ("ws://localhost/", {"proxy": "ftp://localhost"}, taut.InvalidProxy, "ftp://localhost"),
    ("ws://localhost/", {"proxy": "http://localhost", "path": "x"}, ValueError, "proxy cannot be combined with sock"),
    ("ws://localhost/", {"proxy_ssl": True}, TypeError, "proxy_ssl must be an ssl.SSLContext"),
    ("wss://localhost/", {"ssl": True}, TypeError, "ssl must be an ssl.SSLContext"),
    ("ws://localhost/", {"ssl": ssl.create_default_context()}, ValueError, "ssl is for wss://"),
    ("ws://localhost/", {"pins": ["sha256:00"]}, ValueError, "pins are for wss://"),
    ("wss://localhost/", {"pins": ["sha256:00"]}, ValueError, "pins"),
    ("ws://localhost/", {"subprotocols": "chat"}, TypeError, "subprotocols must be a sequence"),
    ("ws://localhost/", {"subprotocols": ["a b"]}, ValueError, "subprotocols must be HTTP tokens, not 'a b'"),
    ("ws://localhost/", {"compression": "gzip"}, ValueError, "compression must be"),
    ("ws://localhost/", {"additional_headers": {"X\n": "y"}}, ValueError, "not a token"),
    ("ws://localhost/", {"additional_headers": {"Upgrade": "y"}}, ValueError, "Upgrade is set by the handshake"),
    ("ws://localhost/", {"basic_auth": "user:word"}, TypeError, "basic_auth must be a tuple"),
    ("ws://localhost/", {"basic_auth": ("a:b", "c")}, ValueError, "a colon cannot be written"),
    ("ws://localhost/", {"bearer_token": "two words"}, ValueError, "bearer_token must be printable ASCII"),
    (
        "ws://localhost/",
        {"bearer_token": "x", "basic_auth": ("a", "b")},
        ValueError,
        "basic_auth and bearer_token excl",
    ),
    ("ws://u:p@localhost/", {"bearer_token": "x"}, ValueError, "bearer_token and credentials in the URI exclude"),
    ("ws://localhost/", {"cookies": {}}, TypeError, "cookies must be an http.cookiejar.CookieJar"),
    ("ws://localhost/", {"max_redirects": -1}, ValueError, "max_redirects must be a whole number, at least 0"),
    ("ws://localhost/", {"open_timeout": 0}, ValueError, "open_timeout must be a number above 0 or None"),
    ("ws://localhost/", {"dns_timeout": -1}, ValueError, "dns_timeout must be a number above 0 or None"),
    ("ws://localhost/", {"logger": 7}, TypeError, "logger must be a logging.Logger"),
    ("ws://localhost/", {"reconnect": 3}, TypeError, "reconnect must be a ReconnectPolicy, True, or None, not 3"),
    ("ws://localhost/", {"process_exception": 3}, TypeError, "process_exception must be callable"),
]


@pytest.mark.parametrize(("uri", "options", "kind", "text"), WRONG, ids=[f"{each[0]}-{each[3]}" for each in WRONG])
def test_a_wrong_option_is_refused_before_anything_is_done(
    uri: str, options: dict[str, Any], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind) as caught:
        taut.connect(uri, **options)
    assert text in str(caught.value)


def test_secrets_are_not_shown() -> None:
    connecting = taut.connect("ws://localhost/", basic_auth=("user", "swordfish"))
    assert "swordfish" not in repr(connecting.options)
    assert "Basic" not in repr(connecting.options)
    for wrong in ({"basic_auth": ("user", "swordfish", 1)}, {"bearer_token": b"swordfish"}):
        with pytest.raises(TypeError) as caught:
            taut.connect("ws://localhost/", **wrong)  # type: ignore[call-overload]
        assert "swordfish" not in str(caught.value)


# -- failures ----------------------------------------------------------------------------------------------------------


async def test_every_failure_is_of_one_family_and_tells_its_attempts(tcp: Driver) -> None:
    port = unused_port()
    with pytest.raises(taut.ConnectError) as refused:
        await taut.connect(f"ws://user:word@127.0.0.1:{port}/path")
    assert isinstance(refused.value, taut.ConnectRefused)
    assert isinstance(refused.value, ConnectionRefusedError)
    (attempt,) = refused.value.attempts
    assert (attempt.uri, attempt.address, attempt.stage) == (
        f"ws://127.0.0.1:{port}/path",
        f"127.0.0.1:{port}",
        "connect",
    )
    assert isinstance(attempt.error, ConnectionRefusedError)
    assert attempt.elapsed >= 0
    async with tcp.raw_serve() as server:
        opening = asyncio.ensure_future(server.connect().open())
        peer = await server.accept()
        await peer.read_head()
        peer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
        with pytest.raises(taut.ConnectError) as answered:
            await opening
    assert isinstance(answered.value, taut.InvalidStatus)
    (attempt,) = answered.value.attempts
    assert (attempt.address, attempt.stage, attempt.error) == (
        f"127.0.0.1:{server.address}",
        "handshake",
        answered.value,
    )


async def test_a_server_that_says_nothing_is_left_in_time(tcp: Driver) -> None:
    async with tcp.raw_serve() as server:
        with pytest.raises(taut.OpenTimeout) as caught:
            await server.connect(open_timeout=0.05)
        assert isinstance(caught.value, TimeoutError)
        assert [attempt.stage for attempt in caught.value.attempts] == ["handshake"]


async def test_a_server_that_does_not_speak_tls_is_left_in_time(tcp: Driver) -> None:
    async with tcp.raw_serve() as server:
        with pytest.raises(taut.TLSError, match="tls_timeout") as caught:
            await taut.connect(f"wss://127.0.0.1:{server.address}/", tls_timeout=0.05)
        assert [attempt.stage for attempt in caught.value.attempts] == ["tls"]


async def test_cancelling_leaves_nothing_open(tcp: Driver) -> None:
    async with tcp.raw_serve() as server:
        opening = asyncio.ensure_future(server.connect().open())
        peer = await server.accept()
        await peer.read_head()
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await peer.read_to_end()


async def test_two_openings_to_one_address_take_turns(tcp: Driver) -> None:
    """RFC 6455, 4.1: at most one connection is CONNECTING; the second begins when the first is open."""
    async with tcp.raw_serve() as server:
        first = asyncio.ensure_future(server.connect().open())
        peer = await server.accept()
        second = asyncio.ensure_future(server.connect().open())
        await peer.read_head()
        third = asyncio.ensure_future(server.connect(connecting_limit=None).open())
        other = await server.accept()  # the third: it does not wait, so it is the next one here
        await other.respond()
        await third
        assert len(server.accepted) == 2
        peer.write(b"HTTP/1.1 400 No\r\nContent-Length: 0\r\n\r\n")
        with pytest.raises(taut.InvalidStatus):
            await first
        await (await server.accept()).respond()
        for opening in (second, third):
            (await opening).abort()
            await (await opening).wait_closed()


# -- TLS ---------------------------------------------------------------------------------------------------------------


@contextmanager
def refused_tls_server() -> Iterator[int]:
    """A server whose one client breaks off the TLS handshake; gives its port."""

    def refuse(listening: socket.socket) -> None:
        sock, _ = listening.accept()
        with sock, suppress(OSError):
            server_context().wrap_socket(sock, server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=refuse, args=[listening])
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            thread.join()


async def test_a_certificate_that_is_not_trusted_is_told() -> None:
    with refused_tls_server() as port:
        with pytest.raises(taut.CertificateError) as caught:
            await taut.connect(f"wss://127.0.0.1:{port}/")
        assert isinstance(caught.value, ssl.SSLCertVerificationError)
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        assert caught.value.verify_code == caught.value.__cause__.verify_code != 0


async def test_the_name_in_the_certificate_can_be_given() -> None:
    options = {"host": "127.0.0.1", "ssl": client_context()}
    with refused_tls_server() as port, pytest.raises(taut.CertificateError, match=r"certificate of example\.test"):
        await taut.connect(f"wss://example.test:{port}/", **options)
    tls = Driver("tls", "")
    async with tls.serve(echo) as server:
        address = f"wss://example.test:{port_of(server)}/"
        async with taut.connect(address, server_hostname="localhost", **options) as ws:
            assert ws.request is not None
            assert ws.request.headers["Host"] == f"example.test:{port_of(server)}"


async def test_a_pinned_certificate() -> None:
    tls = Driver("tls", "")
    async with tls.serve(echo) as server:
        with pytest.raises(taut.CertificateError) as caught:
            await tls.connect(server, pins=["sha256:" + "00" * 32])
        shown = re.findall(r"'(sha256[^']+)'", str(caught.value))
        assert {pin[6] for pin in shown} == {":", "/"}
        assert [attempt.stage for attempt in caught.value.attempts] == ["tls"]
        for pin in shown:
            async with tls.connect(server, pins=["sha256:" + "00" * 32, pin]) as ws:
                await ws.send("hello")
                assert await ws.recv() == "hello"


async def test_a_client_certificate() -> None:
    authority = trustme.CA()
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server_side)
    authority.configure_trust(server_side)
    server_side.verify_mode = ssl.CERT_REQUIRED
    client_side = ssl.create_default_context()
    authority.configure_trust(client_side)
    authority.issue_cert("somebody@example.test").configure_cert(client_side)
    async with taut.serve(echo, "127.0.0.1", 0, ssl=server_side) as server:
        options = {"host": "127.0.0.1", "ssl": client_side}
        async with taut.connect(f"wss://localhost:{port_of(server)}/", **options) as ws:
            await ws.send("hello")
            assert await ws.recv() == "hello"


# -- one after another -------------------------------------------------------------------------------------------------

QUICK = taut.ReconnectPolicy(base_delay=1e-3, stable_after=0)


async def test_one_connection_after_another(tcp: Driver) -> None:
    """Whether the server closes one, or the loop is done with it, the next one is new."""
    seen: list[taut.ClientConnection] = []
    async with taut.serve(echo, "127.0.0.1", 0) as server:
        async for ws in taut.connect(f"ws://127.0.0.1:{port_of(server)}/"):
            seen.append(ws)
            await ws.send("hello")
            assert await ws.recv() == "hello"
            if len(seen) == 5:
                await ws.close()
                break
    assert len({id(ws) for ws in seen}) == 5
    assert [ws.close_code for ws in seen] == [1000] * 5


async def test_it_goes_on_when_the_server_drops_and_refuses(tcp: Driver) -> None:
    async with tcp.raw_serve() as server:

        async def be_difficult() -> None:
            for behaviour in ("drop", "503", "garbage", "1012", "serve"):
                peer = await server.accept()
                if behaviour == "503":
                    await peer.read_head()
                    peer.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
                    continue
                if behaviour == "garbage":
                    await peer.read_head()
                    peer.write(b"SSH-2.0-OpenSSH\r\n\r\n")
                    continue
                await peer.respond()
                if behaviour == "drop":
                    await peer.drop()
                elif behaviour == "1012":
                    await close_as_server(peer, 1012)
                else:
                    peer.send(1, b"at last")

        difficult = asyncio.ensure_future(be_difficult())
        codes: list[int] = []
        async for ws in server.connect(reconnect=QUICK):
            try:
                assert await ws.recv() == "at last"
            except taut.ConnectionClosed as exc:
                codes.append(exc.code)
                continue
            ws.abort()
            break
        await difficult
    assert codes == [1006, 1012]


async def test_what_is_final_ends_it(tcp: Driver) -> None:
    async with tcp.raw_serve() as server:

        async def all_of(connecting: taut.connect) -> int:
            return sum([1 async for _ in connecting])

        task = asyncio.ensure_future(all_of(server.connect(reconnect=QUICK)))
        peer = await server.accept()
        await peer.read_head()
        peer.write(b"HTTP/1.1 401 Who\r\nContent-Length: 0\r\n\r\n")
        with pytest.raises(taut.InvalidStatus):
            await task

        async def until_closed(connecting: taut.connect) -> None:
            async for ws in connecting:
                await ws.wait_closed()

        task = asyncio.ensure_future(until_closed(server.connect(reconnect=QUICK)))
        peer = await server.accept()
        await peer.respond()
        await close_as_server(peer, 1008, "go away")
        with pytest.raises(taut.ConnectionClosedError, match="go away"):
            await task


async def test_limits_end_it_with_the_attempts() -> None:
    port = unused_port()
    policy = taut.ReconnectPolicy(base_delay=1e-3, max_attempts=3)
    with pytest.raises(taut.ReconnectFailed) as caught:
        async for _ in taut.connect(f"ws://127.0.0.1:{port}/", reconnect=policy):
            raise AssertionError("nobody listens there")
    assert isinstance(caught.value.reason, taut.ConnectRefused)
    assert [attempt.address for attempt in caught.value.attempts] == [f"127.0.0.1:{port}"]


async def test_process_exception_decides() -> None:
    """As in the websockets package: None to try again, an exception to raise it."""
    asked: list[Exception] = []

    def decide(exc: Exception) -> Exception | None:
        asked.append(exc)
        return None if len(asked) < 3 else LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        async for _ in taut.connect(f"ws://127.0.0.1:{unused_port()}/", process_exception=decide, reconnect=QUICK):
            raise AssertionError("nobody listens there")
    assert [type(exc) for exc in asked] == [taut.ConnectRefused] * 3


async def test_a_loop_that_is_left_closes_its_connection(tcp: Driver) -> None:
    async with taut.serve(echo, "127.0.0.1", 0) as server:
        connections = taut.connect(f"ws://127.0.0.1:{port_of(server)}/").__aiter__()
        ws = await anext(connections)
        await connections.aclose()
        assert ws.closed
        assert ws.close_code == 1000


async def test_with_a_policy_it_is_a_session() -> None:
    async with taut.serve(echo, "127.0.0.1", 0) as server:
        async with taut.connect(f"ws://127.0.0.1:{port_of(server)}/", reconnect=True) as session:
            assert isinstance(session, taut.Session)
            await session.send("hello")
            assert await session.recv() == "hello"
        session = await taut.connect(f"ws://127.0.0.1:{port_of(server)}/", reconnect=QUICK)
        await session.close()
