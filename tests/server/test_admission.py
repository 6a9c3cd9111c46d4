"""Who is let in, and how fast a peer may send: limits of a server, over real sockets, and what it counts."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from network import Driver
from peers import CLOSE, PING, PONG, TEXT, Frame, Peer, gone_after

import taut


async def echo(ws: taut.ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


@asynccontextmanager
async def peer_of(server: taut.Server, source: str = "127.0.0.1", **options: Any) -> AsyncGenerator[Peer]:
    """A client made of raw bytes, at an address of its own."""
    peer = Peer(client=True)
    host, port = server.sockets[0].getsockname()[:2]
    await asyncio.get_running_loop().create_connection(lambda: peer, host, port, local_addr=(source, 0), **options)
    async with gone_after(peer):
        yield peer


async def refused(peer: Peer, status: int, retry_after: int) -> None:
    """The answer is there, whole, without a word from the client, and the stream ends."""
    head = await peer.read_head()
    assert head.startswith(f"HTTP/1.1 {status} "), head
    assert f"\r\nRetry-After: {retry_after}\r\n" in head
    assert "\r\nConnection: close\r\n" in head
    assert await peer.read_to_end() == b""


async def let_in(peer: Peer) -> None:
    assert (await peer.request()).startswith("HTTP/1.1 101 ")


async def until_empty(server: taut.Server) -> None:
    while server.connections_open or server.handshakes:
        await asyncio.sleep(0.001)


async def test_connections_in_total(tcp: Driver) -> None:
    async with tcp.serve(echo, max_connections=2) as server:
        async with peer_of(server) as open_one, peer_of(server):  # of which one has said nothing yet
            await let_in(open_one)
            async with peer_of(server) as third:
                await refused(third, 503, 5)
            assert (server.stats.connections, server.stats.handshakes) == (1, 1)
        await until_empty(server)
        async with peer_of(server) as peer:
            await let_in(peer)
        assert server.stats.rejected == {"max_connections": 1}


async def test_connections_of_an_address(tcp: Driver) -> None:
    async with tcp.serve(echo, max_connections_per_address=2) as server:
        async with peer_of(server) as first, peer_of(server):
            await let_in(first)
            async with peer_of(server) as third:
                await refused(third, 429, 5)
            async with peer_of(server, "127.0.0.2") as other:
                await let_in(other)
        await until_empty(server)
        for _ in range(5):
            async with peer_of(server) as peer:
                await let_in(peer)
            await until_empty(server)
        assert server.stats.rejected == {"max_connections_per_address": 1}


async def test_what_counts_as_an_address(tcp: Driver) -> None:
    """A /64 network of IPv6, and IPv4 however it is written."""
    async with tcp.serve(echo, max_connections_per_address=1, trusted_proxies=["192.0.2.9"]) as server:
        admission = server.admission
        for first, same in [
            (("192.0.2.1", 1), ("::ffff:192.0.2.1", 2, 0, 0)),
            (("2001:db8::1", 1, 0, 0), ("2001:db8::ffff:1", 2, 0, 0)),
            (("fe80::1%eth0", 1, 0, 2), ("fe80::2%eth0", 1, 0, 2)),
        ]:
            key = admission.enter(first)
            assert key is not None
            with pytest.raises(taut.InvalidMessage) as caught:
                admission.enter(same)
            assert caught.value.status == 429
            admission.leave(key)
            admission.leave(admission.enter(same))
        for several in [("192.0.2.9", 1), "", None, ("unknown", 0)]:
            assert admission.enter(several) is admission.enter(several) is None
        one, other = admission.enter(("2001:db8:0:1::1", 1, 0, 0)), admission.enter(("2001:db8:0:2::1", 1, 0, 0))
        assert one != other


@pytest.mark.parametrize(
    ("prefix", "first", "same", "other"),
    [
        ((24, 64), "192.0.2.1", "::ffff:192.0.2.255", "192.0.3.1"),
        ((20, 64), "192.0.16.1", "192.0.31.9", "192.0.32.1"),
        ((1, 64), "1.2.3.4", "127.255.0.0", "128.0.0.1"),
        ((32, 56), "2001:db8:0:ff00::1", "2001:db8:0:ffff::1", "2001:db8:0:fe00::1"),
        ((32, 128), "2001:db8::1", "2001:db8:0::1", "2001:db8::2"),
        ((32, 32), "2001:db8::", "2001:db8:ffff::", "32.1.13.184"),  # whose first four bytes are the same
    ],
)
async def test_how_much_of_an_address_counts(
    tcp: Driver, prefix: tuple[int, int], first: str, same: str, other: str
) -> None:
    async with tcp.serve(echo, max_connections_per_address=1, address_prefix=prefix) as server:
        key = server.admission.enter((first, 1))
        with pytest.raises(taut.InvalidMessage):
            server.admission.enter((same, 2))
        another = server.admission.enter((other, 3))
        assert another is not None
        assert another != key
        server.admission.leave(key)
        server.admission.leave(another)


@pytest.mark.parametrize(
    ("value", "kind"),
    [((32,), ValueError), ((0, 64), ValueError), ((33, 64), ValueError), ((32, 129), ValueError),
     ((32, True), TypeError), ("64", TypeError), (24, TypeError), ((24.0, 64), TypeError), (None, TypeError)],
)  # fmt: skip
def test_wrong_prefixes_are_refused(value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"address_prefix must be two numbers of bits, .* not "):
        taut.serve(echo, "127.0.0.1", 0, address_prefix=value)


async def test_handshakes_in_flight(tcp: Driver) -> None:
    async with tcp.serve(echo, max_handshakes=1) as server, peer_of(server) as first:
        await first.made.wait()
        while not server.handshakes:
            await asyncio.sleep(0.001)
        async with peer_of(server) as second:
            await refused(second, 503, 1)
        await let_in(first)
        async with peer_of(server) as third:
            await let_in(third)
        assert server.stats.rejected == {"max_handshakes": 1}


async def test_handshakes_a_second(tcp: Driver) -> None:
    async with tcp.serve(echo, handshake_rate=0.5) as server:  # 2.5 at once, and then one every two seconds
        rejected = 0
        for _ in range(5):
            async with peer_of(server) as peer:
                head = await peer.request()
                rejected += head.startswith("HTTP/1.1 503 ")
        assert rejected >= 2
        assert server.stats.rejected == {"handshake_rate": rejected}
        assert server.stats.accepted == 5 - rejected
    async with tcp.serve(echo, handshake_rate=1000) as server:
        for _ in range(20):
            async with peer_of(server) as peer:
                await let_in(peer)


async def test_an_answer_is_not_lost_though_the_client_has_sent_much(tcp: Driver) -> None:
    async with tcp.serve(echo, max_connections=1) as server, peer_of(server):
        for _ in range(20):
            async with peer_of(server) as peer:
                peer.write(b"GET / HTTP/1.1\r\n" + b"X: " + b"x" * 20_000)
                await refused(peer, 503, 5)


async def test_in_a_flood_nobody_is_waited_for(tcp: Driver) -> None:
    """Clients that neither read nor leave: the server keeps no more than so many, and none when it is closed."""
    async with tcp.serve(echo, max_connections=1, backlog=512) as server, peer_of(server) as only:
        socks = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(300)]
        while server.stats.rejected.get("max_connections", 0) < 300:
            await asyncio.sleep(0.001)
        assert len(server.admission._refusals) <= 64
        assert server.handshakes == 1
        await let_in(only)
    assert not len(server.admission._refusals)
    for sock in socks:
        sock.close()


async def test_tls_is_closed_before_the_handshake() -> None:
    tls = Driver("tls", "")
    async with tls.serve(echo, max_connections=1) as server, peer_of(server), peer_of(server) as second:
        assert await second.read_to_end() == b""
        assert server.stats.rejected == {"max_connections": 1}


async def test_tls_connections_leave_as_they_came() -> None:
    tls = Driver("tls", "")
    async with tls.serve(echo, max_connections_per_address=2) as server:
        for turn in range(3):
            async with peer_of(server) as broken:
                broken.write(b"\x16 no TLS")
                await broken.read_to_end()
            async with peer_of(server):
                pass
            while server.stats.failed < 2 * (turn + 1):
                await asyncio.sleep(0.001)
            async with tls.connect(server) as ws:
                await ws.send("x")
                assert await ws.recv() == "x"
            await until_empty(server)
        assert not server.admission._by_address
        assert (server.stats.accepted, server.stats.failed) == (3, 6)


async def test_behind_a_proxy_its_clients_count_and_not_the_proxy(tcp: Driver) -> None:
    options = {"max_connections_per_address": 1, "trusted_proxies": ["127.0.0.1"]}
    async with tcp.serve(echo, **options) as server:
        async with peer_of(server) as one, peer_of(server) as two, peer_of(server) as again:
            for peer, client, status in [(one, "192.0.2.1", 101), (two, "192.0.2.2", 101), (again, "192.0.2.1", 429)]:
                head = await peer.request("/", [("X-Forwarded-For", client)])
                assert head.startswith(f"HTTP/1.1 {status} ")
            assert "\r\nRetry-After: 1\r\n" in head
        await until_empty(server)
        assert not server.admission._by_address
        assert server.stats.rejected == {"max_connections_per_address": 1}
    async with tcp.serve(echo, proxy_protocol=True, **options) as server:
        async with peer_of(server) as one, peer_of(server) as two, peer_of(server) as again:
            for peer, client in [(one, "192.0.2.1"), (two, "192.0.2.2")]:
                peer.write(f"PROXY TCP4 {client} 127.0.0.1 1234 80\r\n".encode())
                await let_in(peer)
            again.write(b"PROXY TCP4 192.0.2.1 127.0.0.1 1235 80\r\n")
            assert await again.read_to_end() == b""
        await until_empty(server)
        assert not server.admission._by_address


async def test_what_became_of_handshakes_is_counted(tcp: Driver) -> None:
    async with tcp.serve(echo, open_timeout=0.05) as server:
        async with peer_of(server) as peer:
            assert (await peer.read_head()).startswith("HTTP/1.1 408 ")
        assert (server.stats.timed_out, server.stats.refused) == (1, {})
    async with tcp.serve(echo) as server:
        async with peer_of(server) as peer:
            peer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert (await peer.read_head()).startswith("HTTP/1.1 426 ")
        async with peer_of(server) as peer:
            peer.write(b"GET /")
        while not server.stats.failed:
            await asyncio.sleep(0.001)
        async with peer_of(server) as peer:
            await let_in(peer)
            await peer.close()
        await until_empty(server)
        assert server.stats == taut.ServerStats(
            connections=0,
            handshakes=0,
            accepted=1,
            refused={426: 1},
            timed_out=0,
            failed=1,
            rejected={},
            rate_exceeded=0,
            messages_dropped={"drop_oldest": 0, "drop_newest": 0, "closed": 0},
            bytes_dropped=0,
            messages_conflated=0,
        )


@pytest.mark.parametrize("way", ["messages", "bytes", "control_frames", "small_fragments"])
async def test_a_peer_that_sends_too_fast_is_closed_with_1008(tcp: Driver, way: str) -> None:
    rates = taut.RateLimits(**{way: 50, "burst": 1})
    async with tcp.serve(echo, rate_limits=rates, compression=None) as server, peer_of(server) as peer:
        await let_in(peer)
        match way:
            case "control_frames":
                peer.write(peer.encode(PING) * 1000)
            case "small_fragments":
                peer.write(peer.encode(TEXT, b"x", fin=False) + peer.encode(0, b"x", fin=False) * 1000)
            case _:
                peer.write(peer.encode(TEXT) * 1000)
        *before, close = await peer.frames_until_close()
        assert close == Frame(CLOSE, b"\x03\xf0" + f"more than 50 {way} per second (rate_limits)".encode())
        if way == "messages":
            assert before[:50] == [Frame(TEXT, b"")] * 50
        elif way == "control_frames":
            assert before[:50] == [Frame(PONG, b"")] * 50
        await peer.read_to_end()
        await peer.drop()
        await until_empty(server)
        assert server.stats.rate_exceeded == 1


@pytest.mark.parametrize("way", ["messages", "control_frames"])
async def test_a_peer_that_keeps_to_the_rate_stays(tcp: Driver, way: str) -> None:
    """The clock runs whether or not anything else needs one."""
    rates = taut.RateLimits(**{way: 200, "burst": 0.05})
    async with tcp.serve(echo, rate_limits=rates) as server, peer_of(server) as peer:
        await let_in(peer)
        opcode, answer = (TEXT, TEXT) if way == "messages" else (PING, PONG)
        for _ in range(4):
            peer.write(peer.encode(opcode, b"x") * 10)
            assert [await peer.frame() for _ in range(10)] == [Frame(answer, b"x")] * 10
            await asyncio.sleep(0.06)  # which is what fills ten more
        await peer.close()


async def test_clients_have_rate_limits_as_well(tcp: Driver) -> None:
    async def flood(ws: Any) -> None:
        for _ in range(100):
            ws.send_nowait("x")
        await ws.wait_closed()

    rates = taut.RateLimits(messages=10, burst=1)
    async with tcp.connected(flood, client={"rate_limits": rates}) as (_, ws):
        received = 0
        with pytest.raises(taut.ConnectionClosedError) as caught:
            while await ws.recv():
                received += 1
        assert received >= 10
        assert caught.value.code == 1008
        assert isinstance(caught.value.info.cause, taut.RateExceeded)


async def test_connections_of_a_route(tcp: Driver) -> None:
    """Each route by itself; whoever is refused, or gone, takes no place."""

    def refuse(ws: taut.ServerConnection, request: taut.Request) -> taut.Response | None:
        return ws.respond(403) if "refuse" in request.headers else None

    router = taut.Router(max_connections=1)
    router.add("/one/{name}", handler_of_a_route, process_request=refuse)
    router.add("/other", echo)
    router.add("/any", echo, max_connections=None)
    async with tcp.serve(router) as server:
        for _ in range(2):
            with pytest.raises(taut.InvalidStatus) as caught:
                await tcp.connect(server, "/one/a", additional_headers={"refuse": "yes"})
            assert caught.value.response.status_code == 403
            async with tcp.connect(server, "/one/a"), tcp.connect(server, "/other"), tcp.connect(server, "/any"):
                with pytest.raises(taut.InvalidStatus) as caught:
                    await tcp.connect(server, "/one/b")
                assert caught.value.response.status_code == 503
                assert caught.value.response.headers["Retry-After"] == "1"
                async with tcp.connect(server, "/any"):
                    pass
            await until_empty(server)
        assert server.stats.rejected == {"max_connections_of_route": 2}
        assert not server.admission._by_route.total()


async def handler_of_a_route(ws: taut.ServerConnection, name: str) -> None:
    await ws.wait_closed()


def test_a_wrong_limit_of_a_route_is_refused() -> None:
    with pytest.raises(ValueError, match="max_connections must be a whole number, at least 1, or None"):
        taut.Router(max_connections=0)
