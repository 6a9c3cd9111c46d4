"""What a hostile client had sent stayed in memory after its request was refused, until the garbage collector came.

The exception that told of it held its own traceback, and with that the frames that held what had been read.
"""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest
from network import Driver

import taut

REFUSED = {
    "a head that is too large": b"GET / HTTP/1.1\r\n" + (b"X: " + b"x" * 1000 + b"\r\n") * 64,
    "a line that is too long": b"GET /" + b"x" * 9000,
    "no request": b"\x16\x03\x01\x02\x00\r\n\r\n",
    "a header that is none": b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
    "a body": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "no upgrade": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "another version": b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 8\r\n\r\n",
}


@pytest.mark.parametrize("what", REFUSED)
async def test_nothing_of_a_refused_request_waits_for_the_garbage_collector(driver: Driver, what: str) -> None:
    async def handler(ws: taut.ServerConnection) -> None:
        raise AssertionError

    async with driver.serve(handler) as server:
        gc.collect()
        gc.disable()
        try:
            async with driver.peer(server) as peer:
                while not server.openings:
                    await asyncio.sleep(0)
                (connection,) = [weakref.ref(opening.connection) for opening in server.openings]
                peer.write(REFUSED[what])
                assert (await peer.read_head()).startswith("HTTP/1.1 4")
                await peer.drop()
            while server.handshakes:
                await asyncio.sleep(0)
            for _ in range(5):
                await asyncio.sleep(0)
            assert connection() is None
        finally:
            gc.enable()
