"""Messages through a proxy: the same on the other side, in the same order, and no more on the way than is bounded."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from typing import Any

import pytest
from network import Driver
from peers import deflated
from upstreams import proxied, uri

import taut
import taut.proxy
from taut.proxy import Proxy

CONT, TEXT, BINARY, PING, PONG = 0x0, 0x1, 0x2, 0x9, 0xA
READ_LIMIT, WRITE_LIMIT = 1 << 16, 1 << 15
MIB = 1 << 20

MESSAGES: list[Any] = ["", b"", "héllo", b"\x00\xff", "x" * 125, "ä" * 70_000, bytes(MIB), "€" * (MIB // 3)]


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_messages_come_back_as_they_were(compression: str | None) -> None:
    async with (
        proxied(compression=compression, proxy={"compression": compression}) as (_, front),
        taut.connect(uri(front), compression=compression) as ws,
    ):
        for message in MESSAGES:
            await ws.send(message)
            assert await ws.recv() == message


async def test_each_side_has_its_own_compression() -> None:
    async with proxied(upstream={"compression": None}) as (behind, front), taut.connect(uri(front)) as ws:
        await ws.send("x" * 10_000)
        assert await ws.recv() == "x" * 10_000
        (connection,) = behind.connections
        assert ws.stats.bytes_received < 1000
        assert connection.stats.bytes_received > 10_000


async def test_many_at_once_keep_their_order() -> None:
    async with proxied() as (_, front), taut.connect(uri(front)) as ws:

        async def send() -> None:
            for number in range(5000):
                await ws.send(str(number) if number % 2 else str(number).encode())

        sending = asyncio.ensure_future(send())
        for number in range(5000):
            assert await ws.recv() == (str(number) if number % 2 else str(number).encode())
        await sending


async def test_fragments_with_pings_between_them(tcp: Driver) -> None:
    """Pings are answered by the proxy; a message goes on in whatever parts it comes."""
    async with proxied() as (_, front), tcp.opened(front) as client:
        client.send(TEXT, "ä".encode()[:1], fin=False)
        client.send(PING, b"here")
        frame = await client.frame()
        assert (frame.opcode, frame.payload) == (PONG, b"here")
        client.send(CONT, "ä".encode()[1:], fin=False)
        client.send(CONT, b"", fin=False)
        client.send(CONT, b"!")
        text = b""
        while True:
            frame = await client.frame()
            assert frame.opcode == (CONT if text else TEXT)
            text += frame.payload
            if frame.fin:
                break
        assert text.decode() == "ä!"


async def test_a_part_does_not_wait_for_the_next(tcp: Driver) -> None:
    async def stream(ws: taut.ServerConnection) -> None:
        async for part in ws.recv_streaming():
            await ws.send(part)

    async with proxied(stream) as (_, front), taut.connect(uri(front), compression=None) as ws:
        parts: asyncio.Queue[str | None] = asyncio.Queue()

        async def message() -> AsyncIterator[str]:
            while (part := await parts.get()) is not None:
                yield part

        sending = asyncio.ensure_future(ws.send(message()))
        # What ``send`` holds back is one part, to know which is the last.
        for part in ("one", "two", "three"):
            parts.put_nowait(part)
        come = ""
        while come != "onetwo":
            come += str(await ws.recv())
        parts.put_nowait(None)
        assert await ws.recv() == "three"
        await sending


async def test_ping_and_pong_stay_on_their_side() -> None:
    async with proxied() as (behind, front), taut.connect(uri(front)) as ws:
        await (await ws.ping())
        (connection,) = behind.connections
        assert connection.stats.bytes_received == 0


# -- what is on the way ----------------------------------------------------------------------------------------


def held(front: taut.proxy.ProxyServer) -> int:
    """The bytes that the proxy holds of all connections, in both directions."""
    legs = front.proxy._legs
    ends = [*legs, *(leg.upstream for leg in legs.values())]
    return sum(end.stats.unread + end.stats.unsent for end in ends)


LIMITS: dict[str, Any] = {"read_limit": READ_LIMIT, "write_limit": WRITE_LIMIT}
A_READ = 1 << 18
BOUND = READ_LIMIT + WRITE_LIMIT + 2 * A_READ


@pytest.mark.parametrize("size", [1000, 40_000, 16 * MIB])
async def test_a_client_that_reads_nothing_stops_the_upstream(tcp: Driver, size: int) -> None:
    """However large the messages are: the upstream gets rid of what fits into the buffers of sockets, and waits."""
    sent = 0

    async def flood(ws: taut.ServerConnection) -> None:
        nonlocal sent
        while True:
            await ws.send(bytes(size))
            sent += size

    options = {"proxy": {**LIMITS, "compression": None}, "upstream": {"compression": None}, "compression": None}
    async with proxied(flood, **options, **LIMITS) as (behind, front), tcp.opened(front) as client:
        client.transport.pause_reading()
        (connection,) = behind.connections
        (leg,) = front.proxy._legs.values()
        most, quiet, before = 0, 0, -1
        while quiet < 20:
            await asyncio.sleep(0.01)
            most = max(most, held(front))
            stalled = connection.write_paused and leg.upstream.read_paused
            quiet = quiet + 1 if stalled and connection.stats.unsent == before else 0
            before = connection.stats.unsent
        assert 0 < most <= BOUND
        assert sent < 64 * MIB
        client.transport.abort()


async def test_an_upstream_that_reads_nothing_stops_the_client(tcp: Driver) -> None:
    async with tcp.raw_serve() as raw:
        proxy = Proxy(f"ws://127.0.0.1:{raw.address}", compression=None, close_timeout=0.1, **LIMITS)
        async with taut.proxy.serve(proxy, "127.0.0.1", 0, close_timeout=0.1, **LIMITS) as front:
            opening = asyncio.ensure_future(taut.connect(uri(front), compression=None, close_timeout=0.1).open())
            upstream = await raw.accept()
            await upstream.respond()
            upstream.transport.pause_reading()
            ws = await opening
            (connection,) = front.connections
            sending = asyncio.ensure_future(ws.send(bytes(64 * MIB)))
            while not (connection.read_paused and ws.write_paused):
                await asyncio.sleep(0.01)
            assert 0 < held(front) <= BOUND
            assert not sending.done()
            upstream.transport.resume_reading()
            await upstream.until(64 * MIB)
            await sending
            ws.abort()


async def test_a_message_is_never_held_whole() -> None:
    """256 MiB in one message, through a process that must not need a tenth of it."""

    async def take(ws: taut.ServerConnection) -> None:
        got = 0
        async for part in ws.recv_streaming():
            got += len(part)
        await ws.send(str(got))

    part, count = bytes(MIB), 256

    async def message() -> AsyncIterator[bytes]:
        for _ in range(count):
            yield part

    upstream = {"max_size": None, "compression": None}
    async with (
        proxied(take, upstream=upstream, proxy={"compression": None}) as (_, front),
        taut.connect(uri(front), compression=None) as ws,
    ):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await ws.send(message())
        assert await ws.recv() == str(count * MIB)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 25 * 1024  # KiB


async def test_a_bomb_is_passed_on_in_small_steps(tcp: Driver) -> None:
    """64 MiB in 64 KiB: what the proxy holds of it stays small, and nobody has to set a limit for that."""
    bomb, got = deflated(bytes(64 * MIB)), 0
    most = 0

    async def take(ws: taut.ServerConnection) -> None:
        nonlocal got, most
        async for part in ws.recv_streaming():
            got += len(part)
            most = max(most, held(front))
        await ws.send("done")

    upstream = {"max_size": None, "compression": None}
    async with (
        proxied(take, upstream=upstream, proxy={"compression": None}, **LIMITS) as (_, front),
        tcp.opened(front, [("Sec-WebSocket-Extensions", "permessage-deflate")]) as client,
    ):
        client.send(BINARY, bomb, rsv=0x40)
        assert (await client.frame()).payload.startswith(b"done")
    assert got == 64 * MIB
    assert most < 12 * MIB
