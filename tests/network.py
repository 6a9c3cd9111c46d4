"""The ways in which a client and a server of taut can be connected, each behind the same few functions."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import trustme
from peers import Peer, gone_after

import taut
from taut.testing import MemoryServer, memory_connect, memory_serve

TRANSPORTS = ("tcp", "tls", "unix", "memory")

_authority = trustme.CA()
_certificate = _authority.issue_cert("localhost", "127.0.0.1")


def server_context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _certificate.configure_cert(context)
    return context


def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    _authority.configure_trust(context)
    return context


class RawServer:
    """Accepts connections with a ``Peer`` for each."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.address: Any = None
        self.accepted: list[Peer] = []
        self._waiting: asyncio.Queue[Peer] = asyncio.Queue()

    def new_peer(self) -> Peer:
        peer = Peer(client=False)
        self.accepted.append(peer)
        self._waiting.put_nowait(peer)
        return peer

    async def accept(self) -> Peer:
        """The next connection."""
        peer = await self._waiting.get()
        await peer.made.wait()
        return peer

    def connect(self, target: str = "/", **options: Any) -> taut.connect:
        return self.driver.connect(self, target, **options)


class _RawMemoryServer(MemoryServer):
    """Connects each client with a ``Peer`` instead of an opening handshake."""

    raw: RawServer

    def new_opening(self) -> Any:
        return self.raw.new_peer()


class Driver:
    """A transport on a kind of event loop."""

    def __init__(self, transport: str, directory: str) -> None:
        self.transport = transport
        self.path = os.path.join(directory, "s")
        self.limits: dict[str, int] = {"capacity": 1 << 16} if transport == "memory" else {}
        self.server_context = server_context() if transport == "tls" else None
        self.client_context = client_context() if transport == "tls" else None
        self.half_closes = transport != "tls"

    def serve(self, handler: Any, **options: Any) -> taut.serve:
        match self.transport:
            case "tcp":
                return taut.serve(handler, "127.0.0.1", 0, **options)
            case "tls":
                return taut.serve(handler, "127.0.0.1", 0, ssl=self.server_context, **options)
            case "unix":
                return taut.unix_serve(handler, self.path, **options)
            case _:
                return memory_serve(handler, **options)

    def address(self, server: Any) -> Any:
        if isinstance(server, RawServer):
            return server.address
        match self.transport:
            case "unix":
                return self.path
            case "memory":
                return server
            case _:
                return server.sockets[0].getsockname()[1]

    def connect(self, server: Any, target: str = "/", **options: Any) -> taut.connect:
        address = self.address(server)
        match self.transport:
            case "tcp":
                return taut.connect(f"ws://127.0.0.1:{address}{target}", **options)
            case "tls":
                return taut.connect(f"wss://127.0.0.1:{address}{target}", ssl=self.client_context, **options)
            case "unix":
                return taut.unix_connect(address, f"ws://localhost{target}", **options)
            case _:
                return memory_connect(address, f"ws://localhost{target}", **options)

    @asynccontextmanager
    async def connected(
        self,
        handler: Any,
        *,
        server: dict[str, Any] | None = None,
        client: dict[str, Any] | None = None,
        **options: Any,
    ) -> AsyncIterator[tuple[taut.Server, taut.ClientConnection]]:
        """A server, and a client of it; ``options`` are for both."""
        async with (
            self.serve(handler, **options, **(server or {})) as running,
            self.connect(running, **options, **(client or {})) as ws,
        ):
            yield running, ws

    @asynccontextmanager
    async def peer(self, server: taut.Server) -> AsyncIterator[Peer]:
        """A client of ``server`` made of raw bytes."""
        loop, peer = asyncio.get_running_loop(), Peer(client=True)
        address = self.address(server)
        match self.transport:
            case "unix":
                await loop.create_unix_connection(lambda: peer, address)
            case "memory":
                address.accept(peer)
            case _:
                name = None if self.client_context is None else "127.0.0.1"
                await loop.create_connection(
                    lambda: peer, "127.0.0.1", address, ssl=self.client_context, server_hostname=name
                )
        async with gone_after(peer):
            yield peer

    @asynccontextmanager
    async def opened(
        self, server: taut.Server, headers: Iterable[tuple[str, str]] = (), target: str = "/"
    ) -> AsyncIterator[Peer]:
        """A client of ``server`` made of raw bytes, whose opening handshake is done."""
        async with self.peer(server) as peer:
            response = await peer.request(target, headers)
            assert response.startswith("HTTP/1.1 101 "), response
            yield peer

    @asynccontextmanager
    async def raw_serve(self) -> AsyncIterator[RawServer]:
        """A server made of raw bytes."""
        loop, raw = asyncio.get_running_loop(), RawServer(self)
        server: Any
        match self.transport:
            case "unix":
                server = await loop.create_unix_server(raw.new_peer, self.path)
                raw.address = self.path
            case "memory":
                server = _RawMemoryServer(loop, memory_serve(_nobody))
                server.raw, raw.address = raw, server
            case _:
                sock = socket.socket()
                sock.bind(("127.0.0.1", 0))
                raw.address = sock.getsockname()[1]
                server = await loop.create_server(raw.new_peer, sock=sock, ssl=self.server_context)
        try:
            yield raw
        finally:
            server.close()
            for peer in raw.accepted:
                await peer.drop()
            await server.wait_closed()


async def _nobody(_: Any) -> None:
    raise AssertionError("never called")
