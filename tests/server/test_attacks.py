"""Attacks on a server in a process of its own: what they cost it is bounded, and a healthy client goes on being served.

The bounds on memory are what the limits of the server add up to, and some room; ``victim.endure`` tells how they, and
the service of the healthy client, are measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import zlib
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any

import pytest
from peers import BINARY, CONT, PING, PONG, TEXT, Frame, Peer, deflated
from services.certificates import trusting_context, write_certificate
from victim import Victim, endure, victim

MIB = 1 << 20
DEFLATE = ("Sec-WebSocket-Extensions", "permessage-deflate")
RSV1 = 0x40


@pytest.fixture(autouse=True)
def loop_name() -> str:
    """The loop of the attackers; that of the server is uvloop."""
    return "asyncio"


async def all_of(attacks: Iterable[Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for attack in attacks:
            group.create_task(attack)


async def flood(peer: Peer, data: bytes, size: int, code: int | None = None) -> None:
    """Write that many bytes; with ``code``, until the server closes the connection with it."""
    times = max(1, MIB // 16 // len(data))
    flooding = asyncio.create_task(peer.flood(data * times, size // (len(data) * times)))
    if code is not None:
        frames = await peer.frames_until_close()
        assert frames[-1].code == code, frames[-1]
        await peer.drop()
    await flooding


async def swallow(peer: Peer) -> None:
    """Read everything and keep nothing."""
    with contextlib.suppress(EOFError):
        while True:
            await peer.until(1)
            peer.received.clear()


# -- before a connection is open -------------------------------------------------------------------------------


@contextlib.contextmanager
def descriptors(needed: int) -> Any:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard == resource.RLIM_INFINITY or hard >= needed, f"a process may open {hard} files, {needed} are needed"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def half_open(
    it: Victim, count: int, begun: bytes = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
) -> list[socket.socket]:
    """Clients that have begun a request, or something else, and take their time."""
    socks = []
    for i in range(count):
        sock = socket.socket()
        socks.append(sock)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", it.port))
        sock.send(begun)
        if i % 50 == 0:
            await asyncio.sleep(0)
    return socks


async def test_slowloris_with_5000_half_open_handshakes() -> None:
    """8 KiB for each; a new client opens its connection beside them."""

    async def attack() -> None:
        socks = await half_open(it, 5000)
        try:
            while (await it.stats())["handshakes"] < 5000:
                await asyncio.sleep(0.01)
            for sock in socks:
                sock.send(b"X-Header: value\r\n")
            async with it.opened() as another:
                another.send(TEXT, b"and me?")
                assert await another.frame() == Frame(TEXT, b"and me?")
        finally:
            for sock in socks:
                sock.close()

    with descriptors(6000), victim(open_timeout=60) as it:
        await endure(it, attack(), memory=5000 * 8 * 1024)
        while (await it.stats())["handshakes"]:
            await asyncio.sleep(0.01)


async def test_slowloris_where_handshakes_are_limited() -> None:
    """Then those in flight are all that costs memory; a connection that is open stays so."""

    async def attack() -> None:
        socks = await half_open(it, 2000)
        for sock in socks:
            sock.close()

    with victim(max_handshakes=100) as it:
        await endure(it, attack(), memory=3 * MIB)
        while (stats := await it.stats())["handshakes"]:
            await asyncio.sleep(0.01)
        assert stats["rejected"]["max_handshakes"] >= 1
        assert stats["failed"] + sum(stats["rejected"].values()) == 2000


async def test_tls_handshakes_that_are_begun_and_not_completed(tmp_path: Path) -> None:
    """Those for which OpenSSL has allocated anything are ``max_tls_handshakes``; the others are a socket."""
    record = b"\x16\x03\x01\x02\x00\x01"  # the beginning of a ClientHello

    async def attack() -> None:
        socks = await half_open(it, 2000, record)
        try:
            while (await stats())["handshakes"] < 2000:
                await asyncio.sleep(0.01)
        finally:
            for sock in socks:
                sock.close()
        while (await stats())["handshakes"]:  # one after the other begins, and finds that its client has gone
            await asyncio.sleep(0.01)

    async def stats() -> dict[str, Any]:
        peer.send(TEXT, b"?")
        answer: dict[str, Any] = json.loads((await peer.frame()).payload)
        return answer

    options = {"ssl": write_certificate(tmp_path), "max_tls_handshakes": 100, "open_timeout": 60}
    with descriptors(3000), victim(trusting_context(), **options) as it:
        async with it.opened("/stats") as peer:  # before, as new ones have to wait for their turn
            await endure(it, attack(), memory=100 * 512 * 1024 + 2000 * 4 * 1024)


async def test_header_floods() -> None:
    """Heads of 16 KiB at most are kept, however much is sent."""

    async def attacker() -> None:
        for _ in range(10):
            async with it.peer() as peer:
                peer.write(b"GET / HTTP/1.1\r\n")
                flooding = asyncio.create_task(peer.flood(b"X: " + b"x" * 1000 + b"\r\n", 2000))
                assert (await peer.read_head()).startswith("HTTP/1.1 431 ")
                await peer.drop()
                await flooding

    with victim() as it:
        await endure(it, all_of(attacker() for _ in range(20)), memory=3 * MIB)
        assert (await it.stats())["refused"] == {"431": 200}


# -- on a connection that is open ------------------------------------------------------------------------------


def bomb(size: int) -> bytes:
    compressor = zlib.compressobj(level=9, wbits=-15)
    block = bytes(MIB)
    parts = [compressor.compress(block) for _ in range(size // MIB)]
    return b"".join(parts) + compressor.flush(zlib.Z_SYNC_FLUSH)[:-4]


async def test_deflate_bombs() -> None:
    """Twenty of 128 MiB each: what is inflated of one is ``max_size``, in memory that doubles as it grows."""
    payload = bomb(128 * MIB)

    async def attacker() -> None:
        async with it.opened(headers=[DEFLATE]) as peer:
            peer.send(BINARY, payload, rsv=RSV1)
            frames = await peer.frames_until_close()
            assert frames[-1].code == 1009

    with victim() as it:
        await endure(it, all_of(attacker() for _ in range(20)), memory=20 * 2 * MIB + 8 * MIB)


async def test_bombs_within_the_limit() -> None:
    """A kilobyte that inflates to a mebibyte is a message like any other, and paid for by reading the answer."""
    payload = deflated(bytes(MIB))

    async def attacker() -> None:
        async with it.opened(headers=[DEFLATE]) as peer:
            data = peer.encode(BINARY, payload, rsv=RSV1)
            await all_of([swallow_until(peer, 50 * 1000), peer.flood(data, 50)])

    async def swallow_until(peer: Peer, size: int) -> None:
        while peer.total < size:
            await peer.until(len(peer.received) + 1)
            peer.received.clear()

    with victim() as it:
        await endure(it, all_of(attacker() for _ in range(4)), memory=24 * MIB)


@pytest.mark.parametrize("payload", [b"", b"x"])
async def test_fragment_floods(payload: bytes) -> None:
    """Fragments of a message without an end, with 1009 for its fragments; or of many, with 1008 for their rate."""

    async def endless() -> None:
        async with it.opened() as peer:
            peer.send(TEXT, b"", fin=False)
            await flood(peer, peer.encode(CONT, payload, fin=False), 4 * MIB, 1009)

    async def many() -> None:
        async with it.opened() as peer:
            data = peer.encode(TEXT, payload, fin=False) + peer.encode(CONT, b"")
            await flood(peer, data, 4 * MIB, 1008)

    with victim() as it:
        await endure(it, all_of(attack() for attack in [endless, many] * 4), memory=8 * MIB)
        assert (await it.stats())["rate_exceeded"] == 4


async def test_a_million_fragments() -> None:
    """Where they are allowed, they take no more memory than the message that they are."""

    async def attacker() -> None:
        async with it.opened() as peer:
            peer.send(BINARY, b"x", fin=False)
            data = peer.encode(CONT, b"x", fin=False)
            await peer.flood(data * 1000, 1000)
            peer.send(CONT, b"x")
            frame = await peer.frame()
            assert len(frame.payload) == 1_000_002

    options = {"max_fragments": None, "rate_limits": {"small_fragments": None}}
    with victim(**options) as it:
        await endure(it, attacker(), memory=8 * MIB)


@pytest.mark.parametrize("opcode", [PING, PONG])
@pytest.mark.parametrize("reading", [True, False])
async def test_floods_of_control_frames(opcode: int, reading: bool) -> None:
    async def attacker() -> None:
        async with it.opened() as peer:
            data = peer.encode(opcode, b"x" * 125)
            if reading:
                await flood(peer, data, 8 * MIB, 1008)
            else:
                peer.transport.pause_reading()
                await flood(peer, data, 8 * MIB)

    with victim() as it:
        await endure(it, all_of(attacker() for _ in range(4)), memory=8 * MIB)
        assert (await it.stats())["rate_exceeded"] == 4


FINAL = b"\x03\x00"
"""A deflate stream of nothing, that ends."""


@pytest.mark.parametrize(
    ("payload", "code"),
    [(b"\x00", None), (FINAL, None), (FINAL + b"\x00", None), (FINAL * 8, 1008), (FINAL * 60, 1008)],
)
async def test_floods_of_tiny_compressed_messages(payload: bytes, code: int | None) -> None:
    """Each is a message, to be read and answered at the attacker's expense; final blocks in a row are refused."""

    async def attacker() -> None:
        async with it.opened(headers=[DEFLATE]) as peer:
            peer.send(BINARY, deflated(bytes(range(256)) * 20), rsv=RSV1)  # so that there is a window to copy
            data = peer.encode(BINARY, payload, rsv=RSV1)
            if code is not None:
                await flood(peer, data, MIB, code)
            else:
                swallowing = asyncio.create_task(swallow(peer))
                await flood(peer, data, MIB)
                await peer.drop()
                await swallowing

    with victim() as it:
        await endure(it, attacker(), memory=8 * MIB)


async def test_a_flood_of_compressed_fragments() -> None:
    async def attacker() -> None:
        async with it.opened(headers=[DEFLATE]) as peer:
            start = peer.encode(BINARY, FINAL, fin=False, rsv=RSV1)
            await flood(peer, start + peer.encode(CONT, FINAL, fin=False) * 1000 + peer.encode(CONT), MIB, 1008)

    with victim() as it:
        await endure(it, attacker(), memory=8 * MIB)


async def test_frames_that_announce_much_and_bring_nothing() -> None:
    """What a header declares is not memory yet."""
    begun = Peer(client=True).encode(BINARY, bytes(MIB))[:15]

    async def attack() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(200):
                peer = await stack.enter_async_context(it.opened())
                peer.write(begun)
            assert (await it.stats())["connections"] >= 200

    with victim() as it:
        await endure(it, attack(), memory=200 * 24 * 1024)


async def test_clients_that_send_and_do_not_read() -> None:
    """Answers that the network does not take hold up the handler; messages that it does not take hold up reading."""
    message = bytes(MIB // 16)

    async def attacker() -> None:
        async with it.opened() as peer:
            peer.transport.pause_reading()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):  # for which it is stuck, from a moment on
                    await peer.flood(peer.encode(BINARY, message), 1000)
                    raise AssertionError("everything was taken")

    with victim(compression=None) as it:
        # read_limit and write_limit, a message each beyond them, and one in the hands of the handler
        one = 256 * 1024 + 32 * 1024 + 4 * len(message)
        await endure(it, all_of(attacker() for _ in range(10)), memory=10 * one + 2 * MIB)


async def test_connections_that_come_and_go() -> None:
    async def attacker() -> None:
        for _ in range(200):
            async with it.opened() as peer:
                peer.transport.abort()

    with victim() as it:
        await endure(it, all_of(attacker() for _ in range(10)), memory=4 * MIB)
        while (stats := await it.stats())["connections"] > 1:
            await asyncio.sleep(0.01)
        assert stats["accepted"] >= 2000


async def test_slow_readers_under_broadcast() -> None:
    """Each holds its ``outbox_limit`` and a message at the most, and is given up then."""
    readers, message, limit = 20, bytes(MIB // 16), MIB

    async def attack() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(readers):
                peer = await stack.enter_async_context(it.opened("/feed"))
                peer.transport.pause_reading()
            peer = await stack.enter_async_context(it.opened("/broadcast"))
            left = readers
            while left:
                peer.send(BINARY, message)
                left = int((await peer.frame()).payload)

    with victim(outbox_limit=limit, compression=None) as it:
        await endure(it, attack(), memory=readers * (limit + 4 * len(message)) + 4 * MIB)
