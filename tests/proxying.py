"""Proxies for tests: correct ones for HTTP CONNECT (also over TLS) and SOCKS, and one that does what a script says."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class FakeProxy:
    """A server on 127.0.0.1 whose connections are each served by ``serve``; ``ended`` counts those that are over."""

    scheme = "http"

    def __init__(
        self,
        serve: Script | None = None,
        *,
        ssl: ssl.SSLContext | None = None,
        credentials: tuple[str, str] | None = None,
        scheme: str | None = None,
    ) -> None:
        self.scheme = scheme or (self.scheme if ssl is None else "https")
        self.credentials = credentials
        self.accepted = 0
        self.ended = 0
        self.requests: list[Any] = []
        self._serve = serve
        self._ssl = ssl
        self._tasks: set[asyncio.Task[None]] = set()
        self._one_ended = asyncio.Condition()

    async def __aenter__(self) -> FakeProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._ssl)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        # In their TLS handshake are those whose clients are gone; what was accepted just now has still to begin.
        while any("_accept_connection2" in repr(task.get_coro()) for task in asyncio.all_tasks()):
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return self.url_as(self.scheme)

    def url_as(self, scheme: str, credentials: str = "") -> str:
        return f"{scheme}://{credentials}127.0.0.1:{self.port}"

    async def until_ended(self, count: int = 1) -> None:
        """Wait until that many connections are over."""
        async with self._one_ended:
            await self._one_ended.wait_for(lambda: self.ended >= count)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self.serve(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()
            self.ended += 1
            async with self._one_ended:
                self._one_ended.notify_all()
            self._tasks.discard(task)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._serve is not None
        await self._serve(reader, writer)

    async def relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int, opened: bytes
    ) -> None:
        """Connect to a server, say so, and carry bytes and ends of streams; ``OSError`` if it is not there."""
        upstream, downstream = await asyncio.open_connection(host, port)
        writer.write(opened)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_carry(reader, downstream))
                group.create_task(_carry(upstream, writer))
        except* OSError:
            pass
        finally:
            downstream.close()
            with contextlib.suppress(OSError):
                await downstream.wait_closed()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()
    else:
        writer.close()


class ConnectProxy(FakeProxy):
    """HTTP CONNECT; ``requests`` are the heads of what it was asked."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        self.requests.append(head)
        if self.credentials is not None:
            wanted = base64.b64encode(":".join(self.credentials).encode()).decode()
            if f"\r\nProxy-Authorization: Basic {wanted}\r\n" not in head:
                body = b"who are you?"
                writer.write(
                    b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=x\r\n"
                    b"Content-Length: %d\r\n\r\n" % len(body) + body
                )
                return
        host, _, port = head.split(" ")[1].rpartition(":")
        try:
            opened = b"HTTP/1.1 200 Connection established\r\n\r\n"
            await self.relay(reader, writer, host.strip("[]"), int(port), opened)
        except OSError:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\nnobody there")


class SocksProxy(FakeProxy):
    """SOCKS 4, 4a and 5; ``requests`` are tuples of the version, the host as asked for, the port and the user name."""

    scheme = "socks5h"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        version = (await reader.readexactly(1))[0]
        if version == 4:
            await self._serve_4(reader, writer)
        elif version == 5:
            await self._serve_5(reader, writer)

    async def _serve_4(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readexactly(7)
        user = (await reader.readuntil(b"\0"))[:-1].decode()
        port, host = int.from_bytes(head[1:3], "big"), str(ipaddress.IPv4Address(head[3:7]))
        version = "4"
        if host.startswith("0.0.0."):
            host, version = (await reader.readuntil(b"\0"))[:-1].decode(), "4a"
        self.requests.append((version, host, port, user))
        if self.credentials is not None and user != self.credentials[0]:
            writer.write(b"\0\x5d" + bytes(6))
            return
        await self.relay(reader, writer, host, port, b"\0\x5a" + bytes(6))

    async def _serve_5(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        methods = await reader.readexactly((await reader.readexactly(1))[0])
        user = ""
        if self.credentials is None:
            writer.write(b"\5\0")
        elif 2 not in methods:
            writer.write(b"\5\xff")
            return
        else:
            writer.write(b"\5\2")
            _, size = await reader.readexactly(2)
            user = (await reader.readexactly(size)).decode()
            password = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
            if (user, password) != self.credentials:
                writer.write(b"\1\1")
                return
            writer.write(b"\1\0")
        kind = (await reader.readexactly(4))[3]
        if kind == 3:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        else:
            host = str(ipaddress.ip_address(await reader.readexactly(4 if kind == 1 else 16)))
        port = int.from_bytes(await reader.readexactly(2), "big")
        self.requests.append(("5", host, port, user))
        await self.relay(reader, writer, host, port, b"\5\0\0\1" + bytes(6))
