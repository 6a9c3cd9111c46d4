"""Servers behind proxies that speak HTTP: who the client is, which origin is the same, and who may not say so."""

from __future__ import annotations

import asyncio
import logging
import socket
from pathlib import Path
from typing import Any

import pytest
from network import Driver, client_context, server_context

import taut
from taut.testing import memory_connect, memory_serve

TRUSTED = {"trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"]}
NOBODY = {"trusted_proxies": ["10.0.0.0/8"]}


async def who(ws: taut.ServerConnection) -> None:
    await ws.send(str(ws.remote_address))


async def told(ws: Any) -> str:
    return (await ws.frame()).payload.decode()


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ([("X-Forwarded-For", "192.0.2.43")], ("192.0.2.43", 0)),
        ([("X-Forwarded-For", "6.6.6.6, 192.0.2.43, 10.1.2.3")], ("192.0.2.43", 0)),
        ([("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "192.0.2.43")], ("192.0.2.43", 0)),
        ([("Forwarded", 'for="[2001:db8::17]:4711";proto=https')], ("2001:db8::17", 4711, 0, 0)),
    ],
)
async def test_a_trusted_proxy_says_who_the_client_is(tcp: Driver, headers: Any, address: Any) -> None:
    async with tcp.serve(who, **TRUSTED) as server, tcp.opened(server, headers) as peer:
        assert await told(peer) == str(address)


@pytest.mark.parametrize("options", [{}, NOBODY])
@pytest.mark.parametrize(
    "headers", [[("X-Forwarded-For", "192.0.2.43")], [("Forwarded", "for=192.0.2.43")], [("Forwarded", "=")]]
)
async def test_nobody_else_does(tcp: Driver, options: dict[str, Any], headers: Any) -> None:
    async with tcp.serve(who, **options) as server, tcp.opened(server, headers) as peer:
        assert await told(peer) == str(peer.transport.get_extra_info("sockname"))


async def test_hooks_and_the_transport_know_both(tcp: Driver) -> None:
    seen: list[Any] = []

    def process_request(ws: taut.ServerConnection, request: taut.Request) -> None:
        assert ws.transport is not None
        seen.extend([ws.remote_address, ws.transport.get_extra_info("peername"), ws.local_address, ws.proxy_header])

    async with (
        tcp.serve(who, process_request=process_request, **TRUSTED) as server,
        tcp.opened(server, [("X-Forwarded-For", "192.0.2.43:99")]) as peer,
    ):
        own = peer.transport.get_extra_info("sockname")
        assert seen == [("192.0.2.43", 99), own, server.sockets[0].getsockname(), None]


@pytest.mark.parametrize(
    "headers",
    [
        [("Forwarded", "for=nonsense")],
        [("X-Forwarded-For", "nonsense")],
        [("X-Forwarded-Proto", "gopher")],
        [("Forwarded", "for=192.0.2.43"), ("X-Forwarded-For", "192.0.2.44")],
    ],
)
async def test_what_cannot_be_believed_is_refused(
    tcp: Driver, caplog: pytest.LogCaptureFixture, headers: list[tuple[str, str]]
) -> None:
    caplog.set_level(logging.INFO)
    async with tcp.serve(who, **TRUSTED) as server, tcp.peer(server) as peer:
        assert (await peer.request(headers=headers)).startswith("HTTP/1.1 400 ")
        assert [r.getMessage() for r in caplog.records if "refused" in r.getMessage()]


# -- the same origin -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "headers", "accepted"),
    [
        ("https://localhost", {"X-Forwarded-Proto": "https"}, True),
        ("https://localhost", {"Forwarded": "proto=https"}, True),
        ("https://localhost", {"X-Forwarded-Proto": "http"}, False),
        ("http://localhost", {"X-Forwarded-Proto": "https"}, False),
        ("https://localhost", {"X-Forwarded-For": "192.0.2.43"}, False),
        ("http://localhost", {"X-Forwarded-For": "192.0.2.43"}, True),
        ("http://app.example", {"X-Forwarded-Host": "app.example"}, True),
        ("http://localhost", {"X-Forwarded-Host": "app.example"}, False),
        ("https://app.example:8443", {"X-Forwarded-Host": "APP.example:8443", "X-Forwarded-Proto": "https"}, True),
        ("https://app.example", {"Forwarded": 'for=_x;host="app.example:443";proto=https'}, True),
        ("https://evil.example", {"X-Forwarded-Host": "app.example", "X-Forwarded-Proto": "https"}, False),
        ("http://no host", {"X-Forwarded-Host": "no host"}, False),
    ],
)
@pytest.mark.parametrize("hooked", [False, True])
async def test_the_same_origin_is_that_of_the_outermost_proxy(
    tcp: Driver, origin: str, headers: dict[str, str], accepted: bool, hooked: bool
) -> None:
    hook = {"process_request": lambda ws, request: None} if hooked else {}
    async with tcp.serve(who, **TRUSTED, **hook) as server, tcp.peer(server) as peer:
        answer = await peer.request(headers=[("Origin", origin), *headers.items()])
        assert answer.startswith("HTTP/1.1 101 " if accepted else "HTTP/1.1 403 ")


async def test_a_stranger_does_not_change_the_origin(tcp: Driver) -> None:
    async with tcp.serve(who, **NOBODY) as server, tcp.peer(server) as peer:
        headers = [
            ("Origin", "https://evil.example"),
            ("X-Forwarded-Host", "evil.example"),
            ("Forwarded", "proto=https"),
        ]
        assert (await peer.request(headers=headers)).startswith("HTTP/1.1 403 ")


async def test_a_proxy_that_came_by_tls_may_say_that_the_client_did_not() -> None:
    tls = Driver("tls", "")
    async with tls.serve(who, **TRUSTED) as server:
        for proto, accepted in [("http", True), ("https", False)]:
            async with tls.peer(server) as peer:
                answer = await peer.request(headers=[("Origin", "http://localhost"), ("X-Forwarded-Proto", proto)])
                assert answer.startswith("HTTP/1.1 101 " if accepted else "HTTP/1.1 403 ")


# -- other ways to be reached ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("trusted", "believed"), [(["unix"], True), (["127.0.0.1"], False)])
async def test_behind_a_unix_socket(tmp_path: Path, trusted: list[str], believed: bool) -> None:
    unix = Driver("unix", str(tmp_path))
    async with (
        unix.serve(who, trusted_proxies=trusted) as server,
        unix.connect(server, additional_headers={"X-Forwarded-For": "192.0.2.43"}) as ws,
    ):
        assert await ws.recv() == (str(("192.0.2.43", 0)) if believed else "")


@pytest.mark.parametrize(
    ("address", "believed"),
    [
        (("10.9.8.7", 1), True),
        (("::ffff:10.9.8.7", 1, 0, 0), True),
        (("fe80::1%eth0", 1, 0, 3), True),
        (("fe80::1", 1, 0, 3), True),
        (("11.0.0.1", 1), False),
        (("::1", 1, 0, 0), False),
        (("", 1), False),
        ("client", False),
        (None, False),
    ],
)
async def test_which_addresses_are_those_of_trusted_proxies(address: Any, believed: bool) -> None:
    headers = {"X-Forwarded-For": "192.0.2.43"}
    async with (
        memory_serve(who, trusted_proxies=["10.0.0.0/8", "fe80::/10"]) as server,
        memory_connect(server, address=address, additional_headers=headers) as ws,
    ):
        assert await ws.recv() == str(("192.0.2.43", 0) if believed else address)


# -- together with the PROXY protocol --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "trusted", "address"),
    [
        # A proxy that only forwards bytes writes no headers: they are the client's own.
        ("192.0.2.1", ["127.0.0.1"], ("192.0.2.1", 54321)),
        # Behind it is a proxy that does.
        ("10.0.0.1", ["127.0.0.1", "10.0.0.1"], ("6.6.6.6", 0)),
    ],
)
@pytest.mark.parametrize("secure", [False, True])
async def test_headers_are_believed_from_the_proxys_peer(
    tcp: Driver, source: str, trusted: list[str], address: Any, secure: bool
) -> None:
    ssl, client = (server_context(), client_context()) if secure else (None, None)
    async with tcp.serve(who, ssl=ssl, proxy_protocol=True, trusted_proxies=trusted) as server:
        loop = asyncio.get_running_loop()
        from_here = server.sockets[0].getsockname()
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, from_here)
        await loop.sock_sendall(sock, f"PROXY TCP4 {source} 198.51.100.7 54321 443\r\n".encode())
        headers = {"X-Forwarded-For": "6.6.6.6"}
        uri = "wss://localhost/" if secure else "ws://localhost/"
        async with taut.connect(uri, sock=sock, ssl=client, additional_headers=headers) as ws:
            assert await ws.recv() == str(address)


async def test_the_proxy_protocol_tells_of_tls(tcp: Driver) -> None:
    """A proxy that ends TLS and forwards bytes: its header says that the client came by TLS (PP2_TYPE_SSL)."""
    header = bytes.fromhex("0d0a0d0a000d0a515549540a 21110014 c0000201 c6336407 d43101bb 20000501 00000000")
    async with tcp.serve(who, proxy_protocol=True, trusted_proxies=["127.0.0.1"]) as server:
        for origin, accepted in [("https://localhost", True), ("http://localhost", False)]:
            async with tcp.peer(server) as peer:
                peer.write(header)
                answer = await peer.request(headers=[("Origin", origin)])
                assert answer.startswith("HTTP/1.1 101 " if accepted else "HTTP/1.1 403 ")
