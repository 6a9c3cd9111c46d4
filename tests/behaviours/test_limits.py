"""Bounded by default: what a peer may make this side hold, and for how long."""

from __future__ import annotations

import asyncio
import functools
import resource
import zlib
from typing import Any

import pytest
from network import Driver
from peers import BINARY, CONT, PING, TEXT, Frame, Peer, deflated, head

import taut

DEFLATE = ("Sec-WebSocket-Extensions", "permessage-deflate")


async def echo_size(ws: Any) -> None:
    async for message in ws:
        await ws.send(str(len(message)))


async def refused(peer: Peer, code: int) -> None:
    """The connection is failed with that code, and the stream ends."""
    frames = await peer.frames_until_close()
    assert frames[-1].code == code, frames
    await peer.read_to_end()


@pytest.mark.parametrize("limit", [1, 125, 126, 65535, 65536, 100_000])
@pytest.mark.parametrize("fragments", [1, 2, 7])
async def test_max_size_is_exact(tcp: Driver, limit: int, fragments: int) -> None:
    """Exactly so many bytes are accepted, one more is refused with 1009, never truncated."""

    def message(size: int) -> bytes:
        return b"x" * size

    def parts(peer: Peer, payload: bytes) -> list[bytes]:
        cut = max(1, len(payload) // fragments)
        pieces = [payload[i * cut : (i + 1) * cut if i < fragments - 1 else None] for i in range(fragments)]
        return [
            peer.encode(BINARY if i == 0 else CONT, piece, fin=i == fragments - 1) for i, piece in enumerate(pieces)
        ]

    async with tcp.serve(echo_size, max_size=limit, compression=None) as server:
        async with tcp.opened(server) as peer:
            for data in parts(peer, message(limit)):
                peer.write(data)
            assert await peer.frame() == Frame(TEXT, str(limit).encode())
            await peer.close()
        async with tcp.opened(server) as peer:
            for data in parts(peer, message(limit + 1)):
                peer.write(data)
            await refused(peer, 1009)


@pytest.mark.parametrize("limit", [1, 126, 4096, 100_000])
@pytest.mark.parametrize("frames", [1, 3])
async def test_max_size_is_exact_for_inflated_messages(tcp: Driver, limit: int, frames: int) -> None:
    async with tcp.serve(echo_size, max_size=limit) as server:
        for size in (limit, limit + 1):
            async with tcp.opened(server, [DEFLATE]) as peer:
                payload = deflated(b"x" * size)
                cut = max(1, len(payload) // frames)
                for i in range(frames):
                    piece = payload[i * cut : (i + 1) * cut if i < frames - 1 else None]
                    peer.send(TEXT if i == 0 else CONT, piece, fin=i == frames - 1, rsv=0x40 if i == 0 else 0)
                if size == limit:
                    assert await peer.frame() == Frame(TEXT, str(limit).encode())
                    await peer.close()
                else:
                    await refused(peer, 1009)


async def test_max_size_is_exact_for_clients_too(tcp: Driver) -> None:
    async def handler(ws: Any) -> None:
        await ws.send(b"x" * 1000)
        await ws.send(b"y" * 1001)
        await ws.wait_closed()
        assert ws.close_code == 1009

    for compression in (None, "deflate"):
        async with tcp.connected(handler, client={"max_size": 1000}, compression=compression) as (_, ws):
            assert await ws.recv() == b"x" * 1000
            with pytest.raises(taut.ConnectionClosedError) as caught:
                await ws.recv()
            assert caught.value.code == 1009
            cause = caught.value.info.cause
            assert isinstance(cause, taut.PayloadTooBig)
            assert (cause.limit, cause.option) == (1000, "max_size")


@pytest.mark.parametrize(
    ("length", "code"),
    [((1 << 20) + 1, 1009), (1 << 32, 1009), ((1 << 63) - 1, 1009), (1 << 63, 1002), ((1 << 64) - 1, 1002)],
)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_a_declared_length_beyond_the_limit_is_refused_at_once(
    tcp: Driver, length: int, code: int, opcode: int
) -> None:
    """Before a byte of the payload is there; and the most significant bit must be 0 (RFC 6455, 5.2)."""
    async with tcp.serve(echo_size) as server, tcp.opened(server) as peer:
        peer.write(head(opcode, length, key=b"abcd"))
        await refused(peer, code)


@pytest.mark.parametrize("length", [1 << 63, (1 << 64) - 1])
async def test_a_declared_length_is_refused_without_any_limit(tcp: Driver, length: int) -> None:
    async with tcp.serve(echo_size, max_size=None) as server, tcp.opened(server) as peer:
        peer.write(head(BINARY, length, key=b"abcd"))
        await refused(peer, 1002)


async def test_a_declared_length_alone_reserves_no_memory(tcp: Driver) -> None:
    before = peak()
    async with tcp.serve(echo_size, max_size=None) as server:
        peers = [tcp.opened(server) for _ in range(5)]
        entered = [await context.__aenter__() for context in peers]
        for peer in entered:
            peer.write(head(BINARY, 1 << 40, key=b"abcd") + b"x" * 1000)
        while sum(ws.stats.bytes_received for ws in server.connections) < 5000:
            await asyncio.sleep(0.001)
        for context in peers:
            await context.__aexit__(None, None, None)
    assert peak() - before < 32 << 20


def peak() -> int:
    """The most memory that this process has ever used (bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@functools.cache
def bomb() -> bytes:
    """A quarter of a megabyte that inflates to a quarter of a gigabyte."""
    compressor = zlib.compressobj(level=9, wbits=-15)
    block = b"\0" * (1 << 22)
    return b"".join(compressor.compress(block) for _ in range(64)) + compressor.flush(zlib.Z_SYNC_FLUSH)[:-4]


async def test_a_bomb_does_not_inflate_beyond_the_limit(tcp: Driver) -> None:
    assert len(bomb()) < 1 << 18
    before = peak()
    async with tcp.serve(echo_size, max_size=1 << 20) as server:
        for _ in range(3):
            async with tcp.opened(server, [DEFLATE]) as peer:
                peer.send(BINARY, bomb(), rsv=0x40)
                await refused(peer, 1009)
    assert peak() - before < 24 << 20


async def test_fragments_are_counted(tcp: Driver) -> None:
    async with tcp.serve(echo_size, max_fragments=100) as server:
        async with tcp.opened(server) as peer:
            peer.send(TEXT, b"", fin=False)
            for _ in range(98):
                peer.send(CONT, b"", fin=False)
            peer.send(CONT, b"x")
            assert await peer.frame() == Frame(TEXT, b"1")
            await peer.close()
        async with tcp.opened(server) as peer:
            peer.send(TEXT, b"", fin=False)
            for _ in range(100):
                peer.send(CONT, b"", fin=False)
            await refused(peer, 1009)


async def test_a_flood_of_empty_fragments_ends(tcp: Driver) -> None:
    async with tcp.serve(echo_size) as server, tcp.opened(server) as peer:
        peer.send(TEXT, b"", fin=False)
        flooding = asyncio.create_task(peer.flood(peer.encode(CONT, b"", fin=False) * 1000, 1000))
        await refused(peer, 1009)
        await peer.drop()
        await flooding


async def test_a_flood_of_empty_messages_is_held_back(tcp: Driver) -> None:
    """They hold no bytes, yet they are not free: an unread flood of them stops at the read limit."""
    connections: asyncio.Queue[Any] = asyncio.Queue()

    async def handler(ws: Any) -> None:
        connections.put_nowait(ws)
        await ws.wait_closed()

    before = peak()
    async with tcp.serve(handler, compression=None) as server, tcp.opened(server) as peer:
        ws = await connections.get()
        flooding = asyncio.create_task(peer.flood(peer.encode(TEXT) * 1000, 2000))
        while not ws.read_paused:
            await asyncio.sleep(0.001)
        assert ws.stats.messages_received < 200_000
        await peer.drop()
        await flooding
    assert peak() - before < 32 << 20


async def test_a_flood_of_pings_costs_the_sender(tcp: Driver) -> None:
    """Whoever does not read the answers gets only the last of them, and no memory is spent on the rest."""
    connections: asyncio.Queue[Any] = asyncio.Queue()

    async def handler(ws: Any) -> None:
        connections.put_nowait(ws)
        await ws.wait_closed()

    async with tcp.serve(handler, compression=None) as server, tcp.opened(server) as peer:
        ws = await connections.get()
        peer.transport.pause_reading()
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, ws.stats.unsent)
                await asyncio.sleep(0)

        watching = asyncio.create_task(watch())
        await peer.flood(peer.encode(PING, b"p" * 125) * 100, 1500)
        watching.cancel()
        assert most < 1 << 20


@pytest.mark.parametrize("limit", [10, 1000])
async def test_frames_may_have_a_limit_of_their_own(tcp: Driver, limit: int) -> None:
    async with tcp.serve(echo_size, max_frame_size=limit, compression=None) as server:
        async with tcp.opened(server) as peer:
            peer.send(BINARY, b"x" * limit, fin=False)
            peer.send(CONT, b"x" * limit)
            assert await peer.frame() == Frame(TEXT, str(2 * limit).encode())
            await peer.close()
        async with tcp.opened(server) as peer:
            peer.write(head(BINARY, limit + 1, key=b"abcd"))
            await refused(peer, 1009)


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (1, 101),
        (100, 101),
        (200, 431),
    ],
)
async def test_headers_are_counted(tcp: Driver, lines: int, status: int) -> None:
    async with tcp.serve(echo_size) as server, tcp.peer(server) as peer:
        response = await peer.request("/", [(f"X-{i}", "x") for i in range(lines)])
        assert response.startswith(f"HTTP/1.1 {status} "), response


async def test_a_request_that_is_too_long_is_refused(tcp: Driver) -> None:
    async with tcp.serve(echo_size) as server:
        for path, headers, status in [
            ("/", [("X-Long", "x" * 20_000)], 431),
            ("/", [(f"X-{i}", "x" * 1000) for i in range(20)], 431),
            ("/" + "x" * 20_000, [], 414),
        ]:
            async with tcp.peer(server) as peer:
                response = await peer.request(path, headers)
                assert response.startswith((f"HTTP/1.1 {status} ", "HTTP/1.1 431 ")), response


async def test_a_head_without_an_end_is_cut_off(tcp: Driver) -> None:
    async with tcp.serve(echo_size) as server, tcp.peer(server) as peer:
        peer.write(b"GET / HTTP/1.1\r\n")
        flooding = asyncio.create_task(peer.flood(b"X: " + b"x" * 1000 + b"\r\n", 10_000))
        response = await peer.read_head()
        assert response.startswith("HTTP/1.1 431 "), response
        await peer.drop()
        await flooding
