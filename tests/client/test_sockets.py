"""Connecting a socket: where event loops and the system have surprises."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from endpoints import V6, World, call, closing, failure, resolve, until_waiting

from taut.errors import ConnectRefused


async def test_a_unix_socket_with_a_full_backlog(world: World, directory: Path) -> None:
    """Such a connect fails with EAGAIN and goes on nowhere, which asyncio takes for a success."""
    path = str(directory / "socket")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        error, _ = await failure(path=path, connect_timeout=0.05)
        assert str(error) == f"{path} cannot be reached: no answer within 0.05 s (connect_timeout)"
        loop = asyncio.get_running_loop()

        def make_room() -> None:
            accepted, _ = listener.accept()
            accepted.close()

        loop.call_later(0.05, make_room)
        with closing(await call(path=path)) as sock:
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(b"x")
                assert await loop.sock_recv(sock, 1) == b"x"


async def test_connected_to_itself(world: World) -> None:
    """TCP allows it, and a client that reconnects to a server of this machine, which is down, may well meet it."""
    host, port = "127.0.0.1", world.refusing()[1]
    world.made.pop_all().close()  # so that the port is free
    error, attempts = await failure(host=host, port=port, local_addr=(host, port))
    assert isinstance(error, ConnectRefused)
    assert "connected to itself" in str(attempts[0].error)
    assert not world.open_sockets()


async def test_a_cancelled_socket_is_forgotten_by_the_loop(world: World) -> None:
    """Its descriptor is soon that of another socket, which must work like any other."""
    loop = asyncio.get_running_loop()
    host, port = world.silent()
    for _ in range(5):
        task = asyncio.create_task(call(host=host, port=port))
        await until_waiting(world, 1)
        number = world.dialled.pop().fileno()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        ours, theirs = socket.socketpair()
        with ours, theirs:
            assert number in (ours.fileno(), theirs.fileno())
            ours.setblocking(False)
            theirs.setblocking(False)
            for one, other in ((ours, theirs), (theirs, ours)):
                receiving = asyncio.create_task(loop.sock_recv(one, 10))
                await loop.sock_sendall(other, b"x")
                assert await receiving == b"x"


async def test_the_zone_of_an_address_is_kept(world: World) -> None:
    """uvloop's own way to connect has no place for it, and a link-local address is no good without."""
    host, port, flow, _ = world.live(V6)
    resolve((host, port, flow, 1))
    dialled = await call()
    with closing(dialled):
        assert world.tried == [(host, port, flow, 1)]
        assert dialled.address == f"[{host}%1]:{port}"
