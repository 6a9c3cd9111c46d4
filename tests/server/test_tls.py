"""TLS on a server: handshakes that fail, hang, or come in floods, and what a context may be changed to meanwhile."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trustme
from network import Driver, server_context
from peers import Peer, gone_after

import taut
from taut.server.arriving import Arrival

HELLO_BEGUN = bytes.fromhex("16030102000100 01fc0303")
"""How a ClientHello of 512 bytes begins."""


async def echo(ws: taut.ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


@asynccontextmanager
async def tls_peer(server: taut.Server, context: ssl.SSLContext) -> AsyncGenerator[Peer]:
    peer, port = Peer(client=True), server.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: peer, "127.0.0.1", port, ssl=context, server_hostname="localhost")
    async with gone_after(peer):
        yield peer


@pytest.fixture
def tls() -> Driver:
    return Driver("tls", "")


@pytest.fixture
def raw() -> Driver:
    """Reaches the port of a server without TLS."""
    return Driver("tcp", "")


def dropped(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text.partition("dropped: ")[2] for text in (r.getMessage() for r in caplog.records) if "dropped" in text]


async def settled(server: taut.Server, *, failures: int) -> None:
    while server.arrivals.failures.total() < failures:
        await asyncio.sleep(0.001)
    assert server.arrivals.failures.total() == failures
    while len(server.arrivals):
        await asyncio.sleep(0.001)


# -- handshakes that do not succeed ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "it does not speak TLS"),
        (b"\0", "it does not speak TLS"),
        (b"\x16" + b"nonsense" * 20, "the TLS handshake failed: WRONG_VERSION_NUMBER"),
        (HELLO_BEGUN + bytes(508), "the TLS handshake failed: LENGTH_MISMATCH"),
    ],
)
async def test_what_is_no_tls_is_one_line_in_the_log(
    tls: Driver, raw: Driver, caplog: pytest.LogCaptureFixture, sent: bytes, problem: str
) -> None:
    caplog.set_level(logging.INFO)
    async with tls.serve(echo) as server, raw.peer(server) as peer:
        peer.write(sent)
        await peer.read_to_end()
        await settled(server, failures=1)
        assert len(dropped(caplog)) == 1
        assert dropped(caplog)[0].startswith(problem)
        assert server.arrivals.failures == {"tls": 1}


@pytest.mark.parametrize("sent", [b"", HELLO_BEGUN])
@pytest.mark.parametrize("reset", [False, True])
async def test_a_client_that_leaves_is_no_error(
    tls: Driver, raw: Driver, caplog: pytest.LogCaptureFixture, sent: bytes, reset: bool
) -> None:
    """Not in the loop's exception handler either, which ``running`` watches."""
    caplog.set_level(logging.INFO)
    async with tls.serve(echo) as server, raw.peer(server) as peer:
        peer.write(sent)
        while not len(server.arrivals):
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        if reset:
            await peer.drop()
        else:
            peer.transport.write_eof()
            await peer.read_to_end()
        await settled(server, failures=1)
        assert server.arrivals.failures == {"tls": 1}
        assert all(line.startswith("the TLS handshake failed: ") for line in dropped(caplog))
        assert len(dropped(caplog)) == (1 if sent else 0)


async def test_a_client_that_does_not_trust_the_certificate(tls: Driver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with tls.serve(echo) as server:
        await asyncio.to_thread(distrust, tls.address(server))
        await settled(server, failures=1)
        (line,) = dropped(caplog)
        assert line == "the TLS handshake failed: TLSV1_ALERT_UNKNOWN_CA"
        await open_and_close(tls, server)


def distrust(port: int) -> None:
    """A handshake that the client ends with an alert, which asyncio's transports do not send."""
    with socket.create_connection(("127.0.0.1", port)) as sock, pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(sock, server_hostname="localhost")


async def test_a_client_without_the_certificate_that_is_demanded(tls: Driver) -> None:
    assert tls.server_context is not None
    tls.server_context.verify_mode = ssl.CERT_REQUIRED
    async with tls.serve(echo) as server:
        with pytest.raises((taut.TLSError, taut.InvalidHandshake)):
            await tls.connect(server)
        await settled(server, failures=1)


@pytest.mark.parametrize("sent", [b"", HELLO_BEGUN])
async def test_a_handshake_that_hangs_is_given_up(
    tls: Driver, raw: Driver, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    caplog.set_level(logging.INFO)
    async with tls.serve(echo, open_timeout=0.05) as server, raw.peer(server) as peer:
        peer.write(sent)
        await peer.read_to_end()
        await settled(server, failures=1)
        assert server.arrivals.failures == {"timeout": 1}
        assert dropped(caplog) == ["the TLS handshake was not complete within 0.05 s"]


async def test_tls_and_the_request_share_the_time(tls: Driver) -> None:
    limit = 0.6
    async with tls.serve(echo, open_timeout=limit) as server:
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, server.sockets[0].getsockname())
        begun = loop.time()
        await asyncio.sleep(limit / 2)
        peer = Peer(client=True)
        await loop.create_connection(lambda: peer, sock=sock, ssl=tls.client_context, server_hostname="localhost")
        async with gone_after(peer):
            assert (await peer.read_head()).startswith("HTTP/1.1 408 ")
            assert limit * 0.9 < loop.time() - begun < limit * 1.4


async def test_without_a_limit_of_time(tls: Driver) -> None:
    async with tls.serve(echo, open_timeout=None) as server, tls.connect(server) as ws:
        await ws.send("x")
        assert await ws.recv() == "x"


async def test_closing_the_server_ends_handshakes_in_flight(tls: Driver, raw: Driver) -> None:
    async with tls.serve(echo) as server, raw.peer(server) as silent, raw.peer(server) as half:
        half.write(HELLO_BEGUN)
        while len(server.arrivals) < 2:
            await asyncio.sleep(0)
        server.close()
        await server.wait_closed()
        assert len(server.arrivals) == 0
        await silent.read_to_end()
        await half.read_to_end()


async def test_closing_the_server_at_any_moment_of_handshakes(tls: Driver) -> None:
    """Whatever turn of the loop it is, nothing is left, and clients get an answer or the end of the connection."""
    for turns in range(12):
        server = await tls.serve(echo)
        address = tls.address(server)
        tasks = [asyncio.create_task(attempt(tls, address)) for _ in range(3)]
        for _ in range(turns * 3):
            await asyncio.sleep(0)
        server.close()
        await server.wait_closed()
        assert len(server.arrivals) == 0
        assert not server.openings
        for task in tasks:
            assert await task in ("refused", "closed")


async def attempt(tls: Driver, port: int) -> str:
    try:
        async with taut.connect(f"wss://127.0.0.1:{port}/", ssl=tls.client_context, connecting_limit=None) as ws:
            await ws.wait_closed()
            return "closed"
    except taut.ConnectError:
        return "refused"


# -- how many at a time ----------------------------------------------------------------------------------------


async def test_others_wait_while_many_handshakes_are_in_flight(tls: Driver, raw: Driver) -> None:
    async with tls.serve(echo, max_tls_handshakes=2) as server:
        async with raw.peer(server) as one, raw.peer(server) as two:
            one.write(HELLO_BEGUN)
            two.write(HELLO_BEGUN)
            while len(server.arrivals) < 2:
                await asyncio.sleep(0)
            for _ in range(5):
                await asyncio.sleep(0)
            connecting = asyncio.create_task(open_and_close(tls, server))
            while len(server.arrivals) < 3:
                await asyncio.sleep(0)
            done, _ = await asyncio.wait([connecting], timeout=0.05)
            assert not done
            await one.drop()
            await connecting
            assert len(server.arrivals) == 1
        await settled(server, failures=2)


async def open_and_close(tls: Driver, server: taut.Server) -> None:
    async with tls.connect(server) as ws:
        await ws.send("x")
        assert await ws.recv() == "x"


async def test_one_that_waits_may_leave_or_run_out_of_time(tls: Driver, raw: Driver) -> None:
    async with tls.serve(echo, max_tls_handshakes=1, open_timeout=0.2) as server:
        async with raw.peer(server) as one:
            one.write(HELLO_BEGUN)
            while not len(server.arrivals):
                await asyncio.sleep(0)
            for _ in range(5):
                await asyncio.sleep(0)
            async with raw.peer(server) as two, raw.peer(server) as three:
                two.write(HELLO_BEGUN)
                await three.drop()
                await two.read_to_end()
            await one.read_to_end()
        await settled(server, failures=3)
        await open_and_close(tls, server)


async def test_many_at_once_all_come_in(tls: Driver) -> None:
    async with tls.serve(echo, max_tls_handshakes=3) as server:
        await asyncio.gather(*(attempt_echo(tls, tls.address(server)) for _ in range(20)))


async def attempt_echo(tls: Driver, port: int) -> None:
    async with taut.connect(f"wss://127.0.0.1:{port}/", ssl=tls.client_context, connecting_limit=None) as ws:
        await ws.send("x")
        assert await ws.recv() == "x"


async def test_a_flood_of_half_open_handshakes_is_bounded(tls: Driver) -> None:
    """Those that say nothing take no place; those that begin are no more than allowed, and all are gone in the end."""
    async with tls.serve(echo, max_tls_handshakes=50, open_timeout=1.0) as server, AsyncExitStack() as stack:
        loop = asyncio.get_running_loop()
        socks = [stack.enter_context(socket.socket()) for _ in range(300)]
        for number, sock in enumerate(socks):
            sock.setblocking(False)
            await loop.sock_connect(sock, server.sockets[0].getsockname())
            if number % 3 == 0:
                sock.send(HELLO_BEGUN)
        while len(server.arrivals) < 300:
            await asyncio.sleep(0)
        tasks = [task for task in asyncio.all_tasks() if "shake_hands" in repr(task)]
        assert len(tasks) <= 50
        await settled(server, failures=300)
        assert server.arrivals.failures == {"timeout": 300}
        await open_and_close(tls, server)


# -- contexts --------------------------------------------------------------------------------------------------


def certificate_of(ws: taut.ClientConnection) -> Any:
    assert ws.transport is not None
    return ws.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)


async def test_a_certificate_is_exchanged_while_connections_live(tls: Driver) -> None:
    authority = trustme.CA()
    assert tls.server_context is not None
    assert tls.client_context is not None
    authority.configure_trust(tls.client_context)
    async with tls.serve(echo) as server, tls.connect(server) as before:
        old = certificate_of(before)
        renewed = authority.issue_cert("localhost", "127.0.0.1")
        with renewed.private_key_and_cert_chain_pem.tempfile() as path:
            tls.server_context.load_cert_chain(path)
        async with tls.connect(server) as after:
            assert certificate_of(after) != old
            for ws in (before, after):
                await ws.send("still here")
                assert await ws.recv() == "still here"
        assert certificate_of(before) == old


async def test_a_certificate_is_tried_before_it_is_exchanged(tls: Driver) -> None:
    """As the documentation has it: what does not fit the key would take the old one away as well."""
    new, other = trustme.CA().issue_cert("localhost"), trustme.CA().issue_cert("localhost")
    assert tls.server_context is not None
    async with tls.serve(echo) as server:
        with new.cert_chain_pems[0].tempfile() as certificate, other.private_key_pem.tempfile() as key:
            with pytest.raises(ssl.SSLError):
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
            await open_and_close(tls, server)
            with pytest.raises(ssl.SSLError):
                tls.server_context.load_cert_chain(certificate, key)
            with pytest.raises(taut.TLSError):
                await tls.connect(server)
        await settled(server, failures=1)


@pytest.mark.parametrize(
    ("server_has", "client_offers", "agreed"),
    [
        (None, None, None),
        (None, ["http/1.1"], None),
        (None, ["h2", "http/1.1"], None),
        (["http/1.1"], None, None),
        (["http/1.1"], ["http/1.1"], "http/1.1"),
        (["http/1.1"], ["h2", "http/1.1"], "http/1.1"),
        (["http/1.1"], ["h2"], None),
    ],
)
async def test_alpn_is_what_the_context_says(
    tls: Driver, server_has: list[str] | None, client_offers: list[str] | None, agreed: str | None
) -> None:
    """With none the offer of a client is ignored, as RFC 7301 allows, and HTTP/1.1 is spoken."""
    assert tls.server_context is not None
    assert tls.client_context is not None
    if server_has is not None:
        tls.server_context.set_alpn_protocols(server_has)
    if client_offers is not None:
        tls.client_context.set_alpn_protocols(client_offers)
    async with tls.serve(echo) as server, tls_peer(server, tls.client_context) as peer:
        assert peer.transport.get_extra_info("ssl_object").selected_alpn_protocol() == agreed
        assert (await peer.request()).startswith("HTTP/1.1 101 ")


async def test_a_context_that_agrees_on_http2_is_answered_in_http1(tls: Driver) -> None:
    assert tls.server_context is not None
    assert tls.client_context is not None
    tls.server_context.set_alpn_protocols(["h2", "http/1.1"])
    tls.client_context.set_alpn_protocols(["h2"])
    async with tls.serve(echo) as server, tls_peer(server, tls.client_context) as peer:
        peer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert (await peer.read_head()).startswith("HTTP/1.1 505 ")


# -- where OpenSSL cannot be driven directly -------------------------------------------------------------------


async def test_handshakes_that_fail_without_direct_access_to_openssl(
    raw: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    """``aiofastnet`` uses the standard library's ssl then: with a static build of Python, for example."""
    caplog.set_level(logging.INFO)
    tls = Driver("tls", "")
    tls.server_context = server_context()
    tls.server_context._aiofastnet_force_fallback_ssl = True  # type: ignore[attr-defined]
    async with tls.serve(echo) as server, raw.peer(server) as leaves, raw.peer(server) as hangs:
        for peer in (leaves, hangs):
            peer.write(HELLO_BEGUN)
        while len(server.arrivals) < 2:
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        leaves.transport.write_eof()
        await leaves.read_to_end()
        while len(server.arrivals) > 1:
            await asyncio.sleep(0.001)
        assert dropped(caplog) == ["the TLS handshake failed: it left"]
        server.close()
        await server.wait_closed()
        assert len(server.arrivals) == 0
        await hangs.read_to_end()


async def test_a_handshake_that_fails_leaves_nothing_for_the_collector(tls: Driver) -> None:
    """Thousands that fail would be megabytes until it comes."""
    async with tls.serve(echo) as server:
        gc.collect()
        gc.disable()
        try:
            for sent in (b"\x16\x03\x01\x02\x00\x01", b"\x16\x03\x01\x00\x02\xff\xff"):  # it leaves; it is malformed
                failed = server.stats.failed
                with socket.create_connection(server.sockets[0].getsockname()) as sock:
                    sock.send(sent)
                    while not server.arrivals._shaking_hands and server.stats.failed == failed:
                        await asyncio.sleep(0.001)
                while server.stats.failed == failed or server.handshakes:
                    await asyncio.sleep(0.001)
            async with asyncio.timeout(5):
                while any(isinstance(each, Arrival) for each in gc.get_objects()):
                    await asyncio.sleep(0.001)  # a loop may hold its handles for a turn
        finally:
            gc.enable()
