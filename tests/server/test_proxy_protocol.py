"""Servers that the PROXY protocol is spoken to: before TLS, before HTTP, and by trusted proxies only."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from network import Driver, client_context, server_context
from peers import BINARY, TEXT, Peer, gone_after

import taut

LINE = b"PROXY TCP4 192.0.2.1 198.51.100.7 54321 443\r\n"
CLIENT, SERVER = ("192.0.2.1", 54321), ("198.51.100.7", 443)
V2 = bytes.fromhex("0d0a0d0a000d0a515549540a")
BINARY_HEADER = V2 + bytes.fromhex("2111000c c0000201 c6336407 d43101bb")
LOCAL = V2 + bytes.fromhex("20000000")
TRUSTED = {"proxy_protocol": True, "trusted_proxies": ["127.0.0.1"]}


async def who(ws: taut.ServerConnection) -> None:
    """Tell a client who it is, and then echo."""
    await ws.send(f"{ws.remote_address} {ws.local_address}")
    async for message in ws:
        await ws.send(message)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "dropped" in record.getMessage()]


async def connected_socket(server: taut.Server) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, server.sockets[0].getsockname())
    return sock


@asynccontextmanager
async def peer_of(server: taut.Server, sock: socket.socket | None = None) -> AsyncGenerator[Peer]:
    """A client made of raw bytes."""
    peer = Peer(client=True)
    sock = sock or await connected_socket(server)
    await asyncio.get_running_loop().create_connection(lambda: peer, sock=sock)
    async with gone_after(peer):
        yield peer


async def settled(server: taut.Server, *, failures: int) -> None:
    """Wait until so many connections have ended before their opening handshake, and nothing is left of them."""
    while server.arrivals.failures.total() < failures:
        await asyncio.sleep(0.001)
    assert server.arrivals.failures.total() == failures
    while len(server.arrivals):
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("step", [1, 7, 1000])
@pytest.mark.parametrize(
    "header", [LINE, BINARY_HEADER, BINARY_HEADER[:14] + b"\0\x0f" + BINARY_HEADER[16:] + b"\5\0\0"]
)
async def test_addresses_are_those_of_the_header(tcp: Driver, header: bytes, step: int) -> None:
    async with tcp.serve(who, **TRUSTED) as server, peer_of(server) as peer:
        for start in range(0, len(header), step):
            peer.write(header[start : start + step])
            await asyncio.sleep(0)
        assert (await peer.request()).startswith("HTTP/1.1 101 ")
        assert (await peer.frame()).payload.decode() == f"{CLIENT} {SERVER}"
        (ws,) = server.connections
        assert ws.proxy_header is not None
        assert ws.proxy_header.source == CLIENT
        assert ws.transport is not None
        assert ws.transport.get_extra_info("peername") == peer.transport.get_extra_info("sockname")
        peer.send(TEXT, b"and back")
        assert (await peer.frame()).payload == b"and back"
        await peer.close()
        await ws.wait_closed()
        assert ws.remote_address is None


async def test_nothing_behind_the_header_is_lost(tcp: Driver) -> None:
    """The header, the request, and the first message, all in one write."""
    async with tcp.serve(who, **TRUSTED) as server, peer_of(server) as peer:
        peer.write(LINE)
        peer.transport.pause_reading()
        requested = asyncio.ensure_future(peer.request())
        await asyncio.sleep(0)
        peer.send(BINARY, bytes(100_000))
        peer.transport.resume_reading()
        assert (await requested).startswith("HTTP/1.1 101 ")
        assert (await peer.frame()).payload.decode() == f"{CLIENT} {SERVER}"
        assert (await peer.frame()).payload == bytes(100_000)


@pytest.mark.parametrize("header", [LOCAL, b"PROXY UNKNOWN\r\n"])
async def test_without_addresses_those_of_the_socket_count(tcp: Driver, header: bytes) -> None:
    async with tcp.serve(who, **TRUSTED) as server, peer_of(server) as peer:
        peer.write(header)
        await peer.request()
        own = peer.transport.get_extra_info("sockname")
        assert (await peer.frame()).payload.decode() == f"{own} {server.sockets[0].getsockname()}"


@pytest.mark.parametrize("step", [1, 1000])
async def test_the_header_comes_before_tls(tcp: Driver, step: int) -> None:
    async with tcp.serve(who, ssl=server_context(), **TRUSTED) as server:
        sock = await connected_socket(server)
        for start in range(0, len(BINARY_HEADER), step):
            await asyncio.get_running_loop().sock_sendall(sock, BINARY_HEADER[start : start + step])
            await asyncio.sleep(0)
        async with taut.connect("wss://localhost/", sock=sock, ssl=client_context()) as ws:
            assert await ws.recv() == f"{CLIENT} {SERVER}"
            await ws.send(bytes(100_000))
            assert await ws.recv() == bytes(100_000)


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    async with taut.unix_serve(who, tmp_path / "s", proxy_protocol=True, trusted_proxies=["unix"]) as server:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, server.sockets[0].getsockname())
        await asyncio.get_running_loop().sock_sendall(sock, LINE)
        async with taut.connect("ws://localhost/", sock=sock) as ws:
            assert await ws.recv() == f"{CLIENT} {SERVER}"


# -- what is not let in ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "PROXY protocol: this is no header"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "PROXY protocol: this is no header"),
        (b"PROXY TCP4 nobody nowhere 1 2\r\n", "PROXY protocol: malformed line"),
        (V2 + b"\x21\x11\xff\xff", "PROXY protocol: a header of 65535 bytes is over the limit of 4096"),
    ],
)
@pytest.mark.parametrize("tls", [False, True])
async def test_whoever_does_not_speak_it_is_dropped(
    tcp: Driver, caplog: pytest.LogCaptureFixture, sent: bytes, problem: str, tls: bool
) -> None:
    caplog.set_level(logging.INFO)
    ssl = server_context() if tls else None
    async with tcp.serve(who, ssl=ssl, **TRUSTED) as server, peer_of(server) as peer:
        peer.write(sent)
        assert await peer.read_to_end() == b""
        await settled(server, failures=1)
        address, port = peer.transport.get_extra_info("sockname")
        assert lines(caplog) == [f"connection from {address} port {port} dropped: {problem}"]
        assert server.arrivals.failures == {"header": 1}


@pytest.mark.parametrize("trusted", [["192.0.2.0/24"], ["unix", "::1"]])
async def test_only_trusted_proxies_may_speak_it(
    tcp: Driver, caplog: pytest.LogCaptureFixture, trusted: list[str]
) -> None:
    caplog.set_level(logging.INFO)
    async with (
        tcp.serve(who, proxy_protocol=True, trusted_proxies=trusted) as server,
        peer_of(server) as peer,
    ):
        peer.write(LINE)
        assert await peer.read_to_end() == b""
        await settled(server, failures=1)
        assert [line.partition("dropped: ")[2] for line in lines(caplog)] == ["it is no trusted proxy"]


async def test_without_the_option_a_header_is_a_malformed_request(tcp: Driver) -> None:
    async with tcp.serve(who, trusted_proxies=["127.0.0.1"]) as server, tcp.peer(server) as peer:
        peer.write(LINE)
        assert (await peer.request()).startswith("HTTP/1.1 400 ")


async def test_leaving_early_is_no_news(tcp: Driver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with tcp.serve(who, **TRUSTED) as server:
        for sent in (b"", LINE[:5], BINARY_HEADER[:20]):
            async with peer_of(server) as peer:
                peer.write(sent)
                peer.transport.write_eof()
                assert await peer.read_to_end() == b""
        await settled(server, failures=3)
        assert lines(caplog) == []


async def test_a_reset_is_one_line(tcp: Driver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with tcp.serve(who, **TRUSTED) as server:
        sock = await connected_socket(server)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1, 0, 0, 0, 0, 0, 0, 0]))
        sock.send(LINE[:7])
        sock.close()
        await settled(server, failures=1)
        assert len(lines(caplog)) == 1
        assert "reset" in lines(caplog)[0].lower()


# -- time ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", LINE[:20], BINARY_HEADER[:-1]])
async def test_a_header_that_does_not_come_is_given_up(
    tcp: Driver, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    caplog.set_level(logging.INFO)
    async with tcp.serve(who, open_timeout=0.05, **TRUSTED) as server, peer_of(server) as peer:
        peer.write(sent)
        assert await peer.read_to_end() == b""
        await settled(server, failures=1)
        assert server.arrivals.failures == {"timeout": 1}
        assert lines(caplog)[0].endswith("the PROXY protocol's header was not complete within 0.05 s")


@pytest.mark.parametrize("tls", [False, True])
async def test_the_time_is_for_all_stages_together(tcp: Driver, tls: bool) -> None:
    """Each stage takes half of it: the third is not reached in time."""
    limit = 0.6
    ssl, client = (server_context(), client_context()) if tls else (None, None)
    async with tcp.serve(who, ssl=ssl, open_timeout=limit, **TRUSTED) as server:
        loop = asyncio.get_running_loop()
        sock = await connected_socket(server)
        begun = loop.time()
        await asyncio.sleep(limit / 2)
        await loop.sock_sendall(sock, LINE)
        peer = Peer(client=True)
        await loop.create_connection(lambda: peer, sock=sock, ssl=client, server_hostname="localhost" if tls else None)
        async with gone_after(peer):
            peer.write(b"GET / HTTP/1.1\r\n")
            assert (await peer.read_head()).startswith("HTTP/1.1 408 ")
            assert limit * 0.9 < loop.time() - begun < limit * 1.4


async def test_without_a_limit_of_time_a_header_may_take_any(tcp: Driver) -> None:
    async with tcp.serve(who, open_timeout=None, **TRUSTED) as server, peer_of(server) as peer:
        peer.write(LINE[:10])
        while not len(server.arrivals):
            await asyncio.sleep(0)
        peer.write(LINE[10:])
        assert (await peer.request()).startswith("HTTP/1.1 101 ")


async def test_closing_the_server_drops_those_that_wait(tcp: Driver) -> None:
    async with tcp.serve(who, **TRUSTED) as server, peer_of(server) as silent, peer_of(server) as half:
        half.write(LINE[:10])
        while len(server.arrivals) < 2:
            await asyncio.sleep(0)
        server.close()
        await server.wait_closed()
        assert len(server.arrivals) == 0
        assert await silent.read_to_end() == b""
        assert await half.read_to_end() == b""


async def test_a_flood_of_half_headers_keeps_nobody_out(tcp: Driver) -> None:
    async with tcp.serve(who, open_timeout=1.0, **TRUSTED) as server, AsyncExitStack() as stack:
        for number in range(300):
            sock = stack.enter_context(await connected_socket(server))
            sock.send((LINE, BINARY_HEADER)[number % 2][: number % 28])
        while len(server.arrivals) < 300:
            await asyncio.sleep(0)
        async with peer_of(server) as peer:
            peer.write(LINE)
            assert (await peer.request()).startswith("HTTP/1.1 101 ")
        await settled(server, failures=300)
        assert server.arrivals.failures == {"timeout": 300}


# -- options ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"proxy_protocol": True}, ValueError, "proxy_protocol=True needs trusted_proxies"),
        ({"proxy_protocol": 2, "trusted_proxies": ["::1"]}, TypeError, "proxy_protocol must be True or False, not 2"),
        ({"trusted_proxies": "127.0.0.1"}, TypeError, "trusted_proxies must be a sequence"),
        ({"trusted_proxies": None}, TypeError, "trusted_proxies must be a sequence"),
        ({"trusted_proxies": ["localhost"]}, ValueError, "'localhost'"),
        ({"trusted_proxies": ["10.0.0.1/8"]}, ValueError, "host bits"),
        ({"trusted_proxies": [10]}, TypeError, "not 10"),
        ({"max_tls_handshakes": 0}, ValueError, "max_tls_handshakes"),
        ({"max_tls_handshakes": "many"}, TypeError, "max_tls_handshakes"),
    ],
)
def test_options_that_are_wrong(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        taut.serve(who, "127.0.0.1", 0, **options)
