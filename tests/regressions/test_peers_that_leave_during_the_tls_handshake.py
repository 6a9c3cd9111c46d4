"""A peer that left in the middle of a TLS handshake was an error in the event loop's exception handler.

Whoever waits for the handshake is told, and nobody else; ``running`` fails a test for whatever reaches the handler.
"""

from __future__ import annotations

import asyncio

import pytest
from network import Driver, client_context

import taut


@pytest.fixture
def case(request: pytest.FixtureRequest) -> str:
    return f"{request.param}-tls"


pytestmark = pytest.mark.parametrize("case", ["asyncio", "uvloop", "debug"], indirect=True)


async def nobody(ws: taut.ServerConnection) -> None:
    raise AssertionError("no connection is opened")


async def test_a_server_that_leaves() -> None:
    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(leave, "127.0.0.1", 0)
    async with server:
        with pytest.raises(taut.TLSError):
            await taut.connect(f"wss://127.0.0.1:{server.sockets[0].getsockname()[1]}/", ssl=client_context())


async def test_a_client_that_leaves(driver: Driver) -> None:
    async with driver.serve(nobody) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", driver.address(server))
        writer.write(bytes.fromhex("1603010200010001fc0303"))
        while server.stats.handshakes == 0:
            await asyncio.sleep(0)
        for _ in range(5):
            await asyncio.sleep(0)
        writer.close()
        await writer.wait_closed()
        while server.stats.failed == 0:
            await asyncio.sleep(0.001)
