"""Messages of every kind arrive as they were sent, whatever carries them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from network import Driver
from peers import BINARY, CONT, PING, PONG, TEXT, Frame

import taut


async def echo(ws: Any) -> None:
    async for message in ws:
        await ws.send(message)


class Echo(taut.Listener):
    def on_message(self, ws: Any, message: Any) -> None:
        ws.send_nowait(message)


MESSAGES = [
    "hello",
    "",
    b"",
    b"\x00\xff" * 3,
    "h\u00e9 \u20ac \U0001f600",
    "x" * 125,
    "x" * 126,
    b"y" * 65535,
    b"y" * 65536,
    "\u20ac" * 30_000,
    bytes(range(256)) * 1000,
]


@pytest.mark.parametrize("handler", [echo, Echo])
@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_messages_are_echoed(driver: Driver, handler: Any, compression: str | None) -> None:
    async with driver.connected(handler, compression=compression) as (_, ws):
        for message in MESSAGES:
            await ws.send(message)
            received = await ws.recv()
            assert received == message
            assert type(received) is type(message)


@pytest.mark.parametrize("handler", [echo, Echo])
async def test_a_pipeline_of_messages_keeps_its_order(driver: Driver, handler: Any) -> None:
    count = 1500
    async with driver.connected(handler) as (_, ws):

        async def send() -> None:
            for i in range(count):
                await ws.send(f"message {i}")

        sending = asyncio.create_task(send())
        assert [await ws.recv() for _ in range(count)] == [f"message {i}" for i in range(count)]
        await sending


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_a_large_message_is_echoed(driver: Driver, compression: str | None) -> None:
    message = bytes(range(256)) * (8 << 12)  # 8 MiB
    async with driver.connected(echo, compression=compression, max_size=None) as (_, ws):
        await ws.send(message)
        assert await ws.recv() == message
        text = message.decode("latin-1")[: 1 << 20]
        await ws.send(text)
        assert await ws.recv() == text


async def test_a_message_in_fragments_is_joined(driver: Driver) -> None:
    async with driver.serve(echo, compression=None) as server, driver.opened(server) as peer:
        peer.send(TEXT, b"fir", fin=False)
        peer.send(CONT, b"", fin=False)
        peer.send(PING, b"between")
        peer.send(CONT, b"st \xe2", fin=False)
        peer.send(CONT, b"\x82\xac")
        assert await peer.frame() == Frame(PONG, b"between")
        assert await peer.frame() == Frame(TEXT, "first \u20ac".encode())
        peer.send(BINARY, b"", fin=False)
        peer.send(CONT, b"")
        assert await peer.frame() == Frame(BINARY, b"")
        await peer.close()


async def test_frames_arrive_whole_from_single_bytes(driver: Driver) -> None:
    async with driver.serve(echo, compression=None) as server, driver.opened(server) as peer:
        for byte in peer.encode(TEXT, "dr\u00f6p".encode()) + peer.encode(BINARY, b"z" * 200):
            peer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert await peer.frame() == Frame(TEXT, "dr\u00f6p".encode())
        assert await peer.frame() == Frame(BINARY, b"z" * 200)
        await peer.close()


async def test_a_first_message_behind_the_request_is_not_lost(driver: Driver) -> None:
    async with driver.serve(echo, compression=None) as server, driver.peer(server) as peer:
        request = (
            "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        peer.write(request.encode() + peer.encode(TEXT, b"early") + peer.encode(TEXT, b"bird"))
        assert (await peer.read_head()).startswith("HTTP/1.1 101 ")
        assert await peer.frame() == Frame(TEXT, b"early")
        assert await peer.frame() == Frame(TEXT, b"bird")
        await peer.close()


async def test_a_first_message_behind_the_response_is_not_lost(driver: Driver) -> None:
    async with driver.raw_serve() as raw:
        opening = asyncio.ensure_future(raw.connect().open())
        peer = await raw.accept()
        await peer.respond(behind=peer.encode(TEXT, b"early") + peer.encode(TEXT, b"bird"))
        ws = await opening
        assert [await ws.recv(), await ws.recv()] == ["early", "bird"]
        closing = asyncio.create_task(ws.close())
        frame = await peer.frame()
        assert frame.masked
        assert frame.code == 1000
        peer.send(8, frame.payload)
        peer.transport.close()
        await closing


async def test_many_connections_do_not_mix_their_messages(driver: Driver) -> None:
    async def converse(server: taut.Server, number: int) -> None:
        async with driver.connect(server) as ws:
            for i in range(20):
                await ws.send(f"{number}:{i}")
                assert await ws.recv() == f"{number}:{i}"

    async with driver.serve(echo) as server:
        async with asyncio.TaskGroup() as group:
            for number in range(60):
                group.create_task(converse(server, number))
        assert server.connections == set()


async def test_iteration_ends_with_the_connection(driver: Driver) -> None:
    async def count(ws: Any) -> None:
        for i in range(1000):
            await ws.send(str(i))

    async with driver.connected(count) as (_, ws):
        assert [message async for message in ws] == [str(i) for i in range(1000)]
        assert ws.close_code == 1000
        # And it stays ended.
        assert [message async for message in ws] == []
        with pytest.raises(taut.ConnectionClosedOK):
            await ws.recv()


async def test_text_and_bytes_may_be_swapped(driver: Driver) -> None:
    async with driver.serve(echo, compression=None) as server, driver.connect(server, compression=None) as ws:
        await ws.send(b"text in bytes", text=True)
        assert await ws.recv() == "text in bytes"
        await ws.send("bytes in text", text=False)
        assert await ws.recv() == b"bytes in text"
        await ws.send("\u20ac")
        assert await ws.recv(decode=False) == "\u20ac".encode()
        await ws.send(b"\xe2\x82\xac")
        assert await ws.recv(decode=True) == "\u20ac"
        for kind in (bytearray, memoryview):
            await ws.send(kind(b"bytes-like"))
            assert await ws.recv() == b"bytes-like"


async def test_what_is_sent_may_be_changed_afterwards(driver: Driver) -> None:
    async with driver.connected(echo, compression=None, max_size=None) as (_, ws):
        for size in (10, 100_000, 2_000_000):
            data = bytearray(b"a" * size)
            await ws.send(data)
            data[:] = b"b" * size
            assert await ws.recv() == b"a" * size


async def test_compressed_messages_share_a_window_and_are_smaller(driver: Driver) -> None:
    text = "the quick brown fox jumps over the lazy dog, " * 40
    async with driver.connected(echo) as (_, ws):
        assert "permessage-deflate" in ws.response.headers["Sec-WebSocket-Extensions"]
        for _ in range(10):
            await ws.send(text)
            assert await ws.recv() == text
        assert ws.stats.messages_sent == 10
        assert ws.stats.bytes_sent < len(text)
        await ws.send(text, compress=False)
        assert await ws.recv() == text
        assert ws.stats.bytes_sent > len(text)


async def test_counters_agree_on_both_sides(driver: Driver) -> None:
    served: list[Any] = []

    async def handler(ws: Any) -> None:
        served.append(ws)
        await echo(ws)

    async with driver.connected(handler, compression=None) as (_, ws):
        for message in ("a", b"bc", "d" * 1000):
            await ws.send(message)
            await ws.recv()
        for stats in (ws.stats, served[0].stats):
            assert (stats.messages_sent, stats.messages_received) == (3, 3)
            assert (stats.unread, stats.unsent) == (0, 0)
            assert stats.bytes_sent == 1003
