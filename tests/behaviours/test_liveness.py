"""A live connection stays alive, a dead one is noticed."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import threading
import time
from typing import Any

import pytest
from network import Driver
from peers import CLOSE, PING, PONG, TEXT, Frame, Peer, close_payload, head, xor

import taut
from taut import Initiator, State

# Keepalive in fast motion: what takes minutes in production happens in tenths of a second.
INTERVAL, TIMEOUT = 0.05, 0.1
FAST = {"ping_interval": INTERVAL, "ping_timeout": TIMEOUT}
LIVES = 10 * TIMEOUT


class Served:
    """A handler that hands out its connections, and looks away."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[Any] = asyncio.Queue()

    async def __call__(self, ws: Any) -> None:
        self.connections.put_nowait(ws)
        await ws.wait_closed()


async def answer_pings(peer: Peer) -> None:
    """What every well-behaved peer does."""
    while True:
        frame = await peer.frame()
        if frame.opcode == PING:
            peer.send(PONG, frame.payload)


async def test_a_handler_that_does_not_receive_keeps_its_connection(tcp: Driver) -> None:
    """Forty unread messages, for ten times the timeout, and a peer that answers pings."""
    served = Served()
    async with tcp.serve(served, **FAST) as server, tcp.opened(server) as peer:
        ws = await served.connections.get()
        for i in range(40):
            peer.send(TEXT, f"unread {i}".encode())
        answering = asyncio.create_task(answer_pings(peer))
        ended, _ = await asyncio.wait([asyncio.ensure_future(ws.wait_closed())], timeout=LIVES)
        assert not ended
        assert ws.state is State.OPEN
        assert [await ws.recv() for _ in range(40)] == [f"unread {i}" for i in range(40)]
        answering.cancel()
        ws.abort()
        await peer.read_to_end()


async def test_a_handler_that_lets_unread_data_pile_up_to_the_limit_keeps_its_connection(tcp: Driver) -> None:
    """While we ourselves have stopped reading, we cannot blame the peer for not being heard."""
    served = Served()
    async with tcp.serve(served, read_limit=50_000, **FAST) as server, tcp.opened(server) as peer:
        ws = await served.connections.get()
        flooding = asyncio.create_task(peer.flood(peer.encode(TEXT, b"x" * 10_000), 2000))
        while not ws.read_paused:
            await asyncio.sleep(0.001)
        await asyncio.sleep(LIVES)
        assert ws.state is State.OPEN
        for _ in range(2000):
            assert await ws.recv() == "x" * 10_000
        await flooding
        # And from here on the deadline runs again.
        await ws.wait_closed()
        assert ws.close_code == 1011


class ThreadedPeer(threading.Thread):
    """A client with a life of its own, which answers pings whatever our loop does."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port
        self.pings = 0
        self.sock = socket.create_connection(("127.0.0.1", port))

    def run(self) -> None:
        sock = self.sock
        sock.sendall(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        data = b""
        while b"\r\n\r\n" not in data:
            data += sock.recv(4096)
        data = data.split(b"\r\n\r\n", 1)[1]
        while True:
            while len(data) < 2 or len(data) < 2 + data[1]:
                received = sock.recv(4096)
                if not received:
                    return
                data += received
            opcode, payload, data = data[0] & 15, data[2 : 2 + data[1]], data[2 + data[1] :]
            if opcode == PING:
                self.pings += 1
            key = os.urandom(4)
            sock.sendall(head(PONG if opcode == PING else opcode, len(payload), key=key) + xor(payload, key))
            if opcode == CLOSE:
                return


async def test_a_program_that_stalls_does_not_lose_its_connections(tcp: Driver) -> None:
    """No deadline runs while the event loop could not have heard the answer."""
    served = Served()
    async with tcp.serve(served, **FAST) as server:
        peer = ThreadedPeer(tcp.address(server))
        peer.start()
        try:
            ws = await served.connections.get()
            for _ in range(4):
                await asyncio.sleep(INTERVAL)
                time.sleep(4 * (INTERVAL + TIMEOUT))  # noqa: ASYNC251 - this is the stall
                await asyncio.sleep(0)
                assert ws.state is State.OPEN
            while peer.pings < 3:
                await asyncio.sleep(0.01)
            assert ws.state is State.OPEN
            await ws.close()
            assert ws.close_info.clean
        finally:
            while peer.is_alive():
                await asyncio.sleep(0.001)
            peer.join()
            peer.sock.close()


async def test_pings_are_answered_without_receiving_up_to_a_watermark_of_bytes(tcp: Driver) -> None:
    """However many messages are unread: 256 KiB of them is the limit by default."""
    served = Served()
    async with tcp.serve(served, compression=None) as server, tcp.opened(server) as peer:
        ws = await served.connections.get()
        for i in range(8000):
            peer.send(TEXT, b"small")
            if i % 1000 == 0:
                peer.send(PING, str(i).encode())
                assert await peer.frame() == Frame(PONG, str(i).encode())
        # Beyond the limit nothing is read, a ping neither.
        for _ in range(20):
            peer.send(TEXT, b"x" * 50_000)
        peer.send(PING, b"behind")
        while not ws.read_paused:
            await asyncio.sleep(0.001)
        assert (1 << 17) < ws.stats.unread < (1 << 18) + 50_000
        assert not peer.received
        for _ in range(8020):
            await ws.recv()
        assert await peer.frame() == Frame(PONG, b"behind")
        await peer.close()


async def stream(peer: Peer) -> None:
    while not peer.eof:
        peer.send(TEXT, b"more")
        await asyncio.sleep(INTERVAL / 5)


async def collect(ws: Any) -> None:
    async for _ in ws:
        pass


async def test_a_peer_that_streams_and_never_pongs_stays_connected(tcp: Driver) -> None:
    connections: asyncio.Queue[Any] = asyncio.Queue()

    async def handler(ws: Any) -> None:
        connections.put_nowait(ws)
        await collect(ws)

    async with tcp.serve(handler, **FAST) as server, tcp.opened(server) as peer:
        ws = await connections.get()
        streaming = asyncio.create_task(stream(peer))
        await asyncio.sleep(LIVES)
        assert ws.state is State.OPEN
        streaming.cancel()


async def test_a_strict_mode_insists_on_pongs(tcp: Driver, caplog: pytest.LogCaptureFixture) -> None:
    async with tcp.serve(collect, strict_pongs=True, **FAST) as server, tcp.opened(server) as peer:
        streaming = asyncio.create_task(stream(peer))
        frames = await peer.frames_until_close()
        assert {frame.opcode for frame in frames[:-1]} == {PING}
        assert frames[-1].code == 1011
        streaming.cancel()
    async with tcp.serve(collect, strict_pongs=True, **FAST) as server, tcp.opened(server) as peer:
        streaming, answering = asyncio.create_task(stream(peer)), asyncio.create_task(answer_pings(peer))
        await asyncio.sleep(LIVES)
        assert len(server.connections) == 1
        streaming.cancel()
        answering.cancel()


async def test_a_peer_that_vanished_is_noticed_and_everything_ends(tcp: Driver) -> None:
    """No FIN, no answer: whatever waits on the connection, or comes later, ends in time and in the same way."""
    served = Served()
    async with tcp.serve(served, compression=None, close_timeout=0.2, **FAST) as server, tcp.opened(server) as peer:
        ws = await served.connections.get()
        peer.transport.pause_reading()
        sends = [asyncio.ensure_future(ws.send(b"x" * 1_000_000)) for _ in range(20)]
        waiting: dict[str, asyncio.Future[Any]] = {
            "recv": asyncio.ensure_future(ws.recv()),
            "send": sends[-1],
            "ping": asyncio.ensure_future(_ping(ws)),
            "drained ping": asyncio.ensure_future(ws.ping()),
        }
        started = time.monotonic()
        await ws.wait_closed()
        assert time.monotonic() - started < INTERVAL + TIMEOUT + 2.0
        for name, future in waiting.items():
            with pytest.raises(taut.ConnectionClosedError) as caught:
                await future
            assert caught.value.code == 1011, name
        await asyncio.gather(*sends, return_exceptions=True)
        for later in (ws.recv, lambda: ws.send("x"), lambda: ws.send(["x"]), ws.ping, ws.pong):
            with pytest.raises(taut.ConnectionClosedError):
                await later()
        await ws.close()
        await ws.wait_closed()
        assert ws.close_info.initiator is Initiator.LOCAL
        assert "sign of life" in ws.close_reason


async def _ping(ws: Any) -> float:
    return float(await (await ws.ping()))


async def test_a_vanished_peer_is_noticed_in_time(tcp: Driver) -> None:
    served = Served()
    async with tcp.serve(served, ping_interval=0.2, ping_timeout=0.2) as server, tcp.opened(server):
        ws = await served.connections.get()
        started = time.monotonic()
        with pytest.raises(taut.ConnectionClosedError):
            await ws.recv()
        # Not early, and late by no more than the loop may be busy.
        assert 0.3 < time.monotonic() - started < 0.4 + 0.5
        assert ws.closed or ws.close_info is not None


async def test_a_vanished_server_is_noticed_by_its_client(tcp: Driver) -> None:
    async with tcp.raw_serve() as raw:
        opening = asyncio.ensure_future(raw.connect(**FAST).open())
        peer = await raw.accept()
        await peer.respond()
        ws = await opening
        with pytest.raises(taut.ConnectionClosedError) as caught:
            await ws.recv()
        assert caught.value.code == 1011


@pytest.mark.parametrize("side", ["server", "client"])
async def test_a_peer_that_drips_cannot_prolong_close(tcp: Driver, side: str) -> None:
    async def drip(peer: Peer) -> None:
        while not peer.eof and not peer.transport.is_closing():
            peer.send(TEXT, b"drip")
            await asyncio.sleep(0.01)

    async def close(ws: Any) -> float:
        started = time.monotonic()
        await ws.close()
        return time.monotonic() - started

    if side == "server":
        served = Served()
        async with tcp.serve(served, close_timeout=0.2) as server, tcp.opened(server) as peer:
            dripping = asyncio.create_task(drip(peer))
            elapsed = await close(await served.connections.get())
            dripping.cancel()
    else:
        async with tcp.raw_serve() as raw:
            opening = asyncio.ensure_future(raw.connect(close_timeout=0.2).open())
            peer = await raw.accept()
            await peer.respond()
            dripping = asyncio.create_task(drip(peer))
            elapsed = await close(await opening)
            dripping.cancel()
    assert 0.15 < elapsed < 2.0


async def test_a_peer_that_answers_close_and_then_holds_the_stream_cannot_prolong_it(tcp: Driver) -> None:
    """The time is counted from the beginning of ``close``, not from the last sign of life."""
    async with tcp.raw_serve() as raw:
        opening = asyncio.ensure_future(raw.connect(close_timeout=0.4).open())
        peer = await raw.accept()
        await peer.respond()
        ws = await opening
        started = time.monotonic()
        closing = asyncio.create_task(ws.close())
        assert (await peer.frame()).opcode == CLOSE
        await asyncio.sleep(0.3)
        peer.send(CLOSE, close_payload(1000))
        await closing
        assert time.monotonic() - started < 0.65
        assert ws.close_info == taut.CloseInfo(Initiator.LOCAL, 1000, "", clean=True)


async def test_close_ends_while_nothing_leaves(tcp: Driver) -> None:
    """Neither the backlog nor the Close frame can be delivered to a peer that does not read."""
    served = Served()
    async with tcp.serve(served, compression=None, close_timeout=0.2) as server, tcp.opened(server) as peer:
        ws = await served.connections.get()
        peer.transport.pause_reading()
        sending = asyncio.ensure_future(ws.send(b"x" * 20_000_000))
        await asyncio.sleep(0.01)
        started = time.monotonic()
        await ws.close()
        assert time.monotonic() - started < 2.0
        with pytest.raises(taut.ConnectionClosedError):
            await sending


async def test_a_disconnect_is_observable_without_receiving(tcp: Driver) -> None:
    observed: asyncio.Queue[str] = asyncio.Queue()

    async def waits(ws: Any) -> None:
        await ws.wait_closed()
        observed.put_nowait(f"wait_closed {ws.close_code}")

    async def looks(ws: Any) -> None:
        while not ws.closed:
            await asyncio.sleep(0.005)
        observed.put_nowait(f"closed {ws.close_code}")

    async def works(ws: Any) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            observed.put_nowait(f"cancelled {ws.close_code}")
            raise

    for handler, expected in [(waits, "wait_closed"), (looks, "closed"), (works, "cancelled")]:
        async with tcp.serve(handler, cancel_on_close=handler is works) as server:
            async with tcp.opened(server) as peer:
                peer.transport.abort()
                assert await observed.get() == f"{expected} 1006"
            async with tcp.opened(server) as peer:
                await peer.close(1001)
                assert await observed.get() == f"{expected} 1001"


async def test_a_reset_is_noticed_even_behind_data(tcp: Driver) -> None:
    """Without pings, and while nobody receives or sends."""
    served = Served()
    async with tcp.serve(served, ping_interval=None) as server:
        for data in (b"", b"x" * 10, b"x" * 100_000):
            async with tcp.opened(server) as peer:
                ws = await served.connections.get()
                peer.send(TEXT, data)
                linger = struct.pack("ii", 1, 0)  # closing resets the connection
                peer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                peer.transport.abort()
                await ws.wait_closed()
                assert ws.close_code == 1006
