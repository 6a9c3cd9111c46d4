"""A server that leaves its listening sockets to another process that has them as well."""

from __future__ import annotations

import asyncio
import socket

import pytest
from network import Driver

import taut


async def echo(ws: taut.ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


async def test_a_handshake_in_flight_comes_to_its_end(tcp: Driver) -> None:
    async with tcp.serve(echo) as server, tcp.peer(server) as peer:
        while not server.handshakes:
            await asyncio.sleep(0.001)
        server.hand_over()
        assert not server.ready
        assert (await peer.request()).startswith("HTTP/1.1 101 ")


async def test_what_waits_in_the_queue_is_for_the_other(tcp: Driver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as shared:
        uri = f"ws://127.0.0.1:{shared.getsockname()[1]}/"
        async with taut.serve(echo, sock=shared.dup()) as old, taut.connect(uri) as ws:
            old.hand_over()
            opening = asyncio.ensure_future(taut.connect(uri).open())
            await ws.send("still served")
            assert await ws.recv() == "still served"
            async with taut.serve(echo, sock=[shared.dup()]) as new:
                second = await opening
                assert len(new.connections_open) == 1
                await old.drain(5, keep_listening=False)
                assert ws.close_code == 1012
                await second.send("hello")
                assert await second.recv() == "hello"
                await second.close()


@pytest.mark.parametrize("sock", [[], ["x"], 5])
def test_what_are_no_sockets(sock: object) -> None:
    with pytest.raises((TypeError, ValueError), match="sock must"):
        taut.serve(echo, sock=sock)  # type: ignore[arg-type]
