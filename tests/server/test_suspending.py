"""A server that takes a pause, and who is connected to it."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from network import Driver

import taut
from taut.testing import memory_connect, memory_serve


async def echo(ws: taut.ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


async def test_new_clients_wait_while_the_server_is_suspended(tcp: Driver) -> None:
    async with tcp.serve(echo) as server, tcp.connect(server) as old:
        server.suspend()
        server.suspend()
        assert not server.ready
        assert server.is_serving()
        assert server.port
        opening = asyncio.ensure_future(tcp.connect(server).open())
        for _ in range(20):
            await old.send("still served")
            assert await old.recv() == "still served"
        assert server.handshakes == 0
        assert not opening.done()
        server.resume()
        server.resume()
        assert server.ready
        new = await opening
        await new.send("hello")
        assert await new.recv() == "hello"
        await new.close()


async def test_a_handshake_in_flight_goes_on(tcp: Driver) -> None:
    async with tcp.serve(echo) as server, tcp.peer(server) as peer:
        while not server.handshakes:
            await asyncio.sleep(0.001)
        server.suspend()
        assert (await peer.request()).startswith("HTTP/1.1 101 ")
        server.resume()


async def test_a_suspended_server_can_be_drained_and_closed(tcp: Driver) -> None:
    async with tcp.serve(echo) as server, tcp.connect(server) as ws:
        server.suspend()
        draining = asyncio.create_task(server.drain(1000, spread=1000))
        with pytest.raises(taut.InvalidStatus, match="503"):
            await tcp.connect(server)
        server.close()
        await draining
        await ws.wait_closed()
        for change in (server.suspend, server.resume):
            with pytest.raises(RuntimeError, match="the server does not listen any more"):
                change()
    async with tcp.serve(echo) as server:
        server.suspend()


async def test_in_memory_nobody_waits() -> None:
    async with memory_serve(echo) as server:
        server.suspend()
        with pytest.raises(ConnectionRefusedError, match="the server in memory is suspended"):
            await memory_connect(server)
        server.resume()
        async with memory_connect(server) as ws:
            await ws.send("hello")
            assert await ws.recv() == "hello"


async def test_a_connection_is_found_by_its_id(tcp: Driver) -> None:
    async def handler(ws: taut.ServerConnection) -> None:
        await ws.send(str(ws.id))
        await ws.wait_closed()

    async with tcp.serve(handler) as server:
        async with tcp.connect(server) as one, tcp.connect(server) as other:
            name = str(await one.recv())
            found = server.connection(name)
            assert found is not None
            assert str(found.id) == name
            assert server.connection(uuid.UUID(name)) is found
            assert server.connection(str(await other.recv())) not in (found, None)
            assert server.connection(uuid.uuid4()) is server.connection("no such thing") is None
            with pytest.raises(TypeError, match=r"the id of a connection must be a uuid.UUID or a str, not 7"):
                server.connection(7)  # type: ignore[arg-type]
            await found.close(4000, "go")
            await one.wait_closed()
            assert (one.close_code, one.close_reason, other.state) == (4000, "go", taut.State.OPEN)
        await server.wait_for_connections(at_most=0)
        assert server.connection(name) is None


async def test_waiting_for_a_number_of_connections(tcp: Driver) -> None:
    async with tcp.serve(echo) as server:
        await server.wait_for_connections(at_most=0)
        two = asyncio.create_task(server.wait_for_connections(at_least=2))
        exact = asyncio.create_task(server.wait_for_connections(at_least=1, at_most=1))
        given_up = asyncio.create_task(server.wait_for_connections(at_least=1000))
        async with tcp.connect(server):
            await exact
            assert not two.done()
            async with tcp.connect(server):
                await two
                none = asyncio.create_task(server.wait_for_connections(at_most=0))
                given_up.cancel()
                await asyncio.wait([given_up])
        await none
        assert given_up.cancelled()
        assert not server.connections_open
        with pytest.raises(TypeError, match="at_most or at_least is needed"):
            await server.wait_for_connections()
        with pytest.raises(
            ValueError, match="at_most must be a whole number, at least 0, or None for no limit, not -1"
        ):
            await server.wait_for_connections(at_most=-1)
