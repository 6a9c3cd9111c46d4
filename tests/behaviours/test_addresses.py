"""Where servers listen and clients connect to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from network import Driver

import taut


async def echo(ws: Any) -> None:
    async for message in ws:
        await ws.send(message)


async def works(connecting: Any) -> None:
    async with connecting as ws:
        await ws.send("x")
        assert await ws.recv() == "x"


@pytest.fixture
def directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="taut") as name:
        yield name


async def test_a_unix_socket(directory: str) -> None:
    path = os.path.join(directory, "socket")
    async with taut.unix_serve(echo, path) as server:
        await works(taut.unix_connect(path))
        async with taut.unix_connect(path, "ws://example.com/chat?x=1") as ws:
            (there,) = server.connections
            assert there.request.path == "/chat?x=1"
            assert there.request.headers["Host"] == "example.com"
            assert ws.remote_address == path
    # What a server that ended has left behind is replaced.
    async with taut.unix_serve(echo, path):
        await works(taut.unix_connect(path))
        # But not the socket of one that is running.
        with pytest.raises(OSError, match="socket"):
            await taut.unix_serve(echo, path)
        await works(taut.unix_connect(path))


@pytest.fixture
def precious(directory: str) -> Iterator[str]:
    """A file that is the same afterwards."""
    file = pathlib.Path(directory, "file")
    file.write_text("precious")
    yield str(file)
    assert file.read_text() == "precious"


async def test_a_plain_file_is_not_replaced_by_a_socket(precious: str) -> None:
    with pytest.raises(OSError, match="file"):
        await taut.unix_serve(echo, precious)


async def test_existing_sockets() -> None:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    async with taut.serve(echo, sock=listening) as server:
        assert [sock.getsockname()[1] for sock in server.sockets] == [port] == [server.port]
        connected = socket.create_connection(("127.0.0.1", port))
        await works(taut.connect("ws://anything.invalid/", sock=connected))
    assert listening.fileno() == -1
    assert connected.fileno() == -1


async def test_a_socket_pair() -> None:
    """A connected socket of any kind will do, with a server made of raw bytes at its other end."""
    from peers import Peer, gone_after

    ours, theirs = socket.socketpair()
    peer = Peer(client=False)
    await asyncio.get_running_loop().create_connection(lambda: peer, sock=theirs)
    async with gone_after(peer):
        opening = asyncio.ensure_future(taut.connect("ws://localhost/", sock=ours).open())
        await peer.respond()
        ws = await opening
        await ws.send("x")
        assert (await peer.frame()).payload == b"x"
        ws.abort()
        await ws.wait_closed()


async def test_several_hosts_and_the_address_to_connect_to(tcp: Driver) -> None:
    async with taut.serve(echo, ["127.0.0.1", "127.0.0.2"], 0) as server:
        addresses = [sock.getsockname() for sock in server.sockets]
        assert [address[0] for address in addresses] == ["127.0.0.1", "127.0.0.2"]
        for host, port in addresses:
            await works(taut.connect(f"ws://{host}:{port}/"))
            async with taut.connect("ws://example.invalid/", host=host, port=port) as ws:
                assert ws.request.headers["Host"] == "example.invalid"


async def test_a_port_that_is_taken_is_told() -> None:
    async with taut.serve(echo, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1 port {port}: address already in use"):
            await taut.serve(echo, "127.0.0.1", port)
        await works(taut.connect(f"ws://127.0.0.1:{port}/"))


async def test_a_port_that_nobody_listens_on_is_told() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        with pytest.raises(ConnectionRefusedError):
            await taut.connect(f"ws://127.0.0.1:{port}/")


async def test_a_certificate_that_is_not_trusted_is_refused() -> None:
    import ssl

    driver = Driver("tls", "")
    # The TLS transport tells the loop when a client breaks the handshake off.
    told: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context["message"]))
    async with driver.serve(echo) as server:
        port = driver.address(server)
        with pytest.raises(ssl.SSLCertVerificationError):
            await taut.connect(f"wss://127.0.0.1:{port}/")
        with pytest.raises(ssl.SSLCertVerificationError):
            await taut.connect(f"wss://127.0.0.1:{port}/", ssl=driver.client_context, server_hostname="other.example")
        await works(driver.connect(server))
    assert set(told) <= {"SSL handshake failed"}


async def test_a_client_that_does_not_speak_tls_is_cut_off() -> None:
    driver = Driver("tls", "")
    async with driver.serve(echo, open_timeout=0.3) as server:
        loop = asyncio.get_running_loop()
        for sent in (b"", b"GET / HTTP/1.1\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", driver.address(server))
            writer.write(sent)
            started = loop.time()
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
            assert loop.time() - started < 5
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        await works(driver.connect(server))
