"""What tests of the blocking API need at the other end: servers in threads, and a peer of raw bytes that blocks."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from network import client_context, server_context
from peers import CLOSE, Frame, close_payload, head, xor

import taut
import taut.sync

PATIENCE = 20.0
"""How long a test waits for what must happen (seconds)."""


def until(condition: Callable[[], object], what: str = "it") -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.001)


class Doing(threading.Thread):
    """A function that runs in a thread of its own; ``result`` waits for it, and raises what it raised."""

    def __init__(self, function: Callable[..., Any], *args: Any, **options: Any) -> None:
        super().__init__(daemon=True)
        self._call = function, args, options
        self._result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        function, args, options = self._call
        try:
            self._result = function(*args, **options)
        except BaseException as exc:
            self._error = exc

    def result(self) -> Any:
        self.join(PATIENCE)
        assert not self.is_alive(), f"{self._call[0]} goes on"
        if self._error is not None:
            raise self._error
        return self._result


@contextmanager
def asyncio_server(
    handler: Callable[[taut.ServerConnection], Coroutine[Any, Any, Any]], *args: Any, **options: Any
) -> Iterator[taut.Server]:
    """A server of the asyncio API, in a thread of its own."""
    started, stop = threading.Event(), threading.Event()
    servers: list[taut.Server] = []

    async def main() -> None:
        async with taut.serve(handler, *args, **options) as server:
            servers.append(server)
            loop = asyncio.get_running_loop()
            started.set()
            await loop.run_in_executor(None, stop.wait)

    thread = Doing(lambda: asyncio.run(main()))
    assert started.wait(PATIENCE)
    try:
        yield servers[0]
    finally:
        stop.set()
        thread.result()


async def echo(ws: taut.ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


def sync_echo(ws: taut.sync.ServerConnection) -> None:
    for message in ws:
        ws.send(message)


class RawPeer:
    """One end of a connection, made of raw bytes."""

    def __init__(self, sock: socket.socket, *, client: bool) -> None:
        sock.settimeout(PATIENCE)
        self.sock = sock
        self.client = client
        self.received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def write(self, data: bytes) -> None:
        self.sock.sendall(data)

    def more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError(f"the stream ended after {self.received!r}")
        self.received += data

    def read(self, size: int) -> bytes:
        while len(self.received) < size:
            self.more()
        data, self.received = self.received[:size], self.received[size:]
        return data

    def read_head(self) -> str:
        while b"\r\n\r\n" not in self.received:
            self.more()
        return self.read(self.received.index(b"\r\n\r\n") + 4).decode()

    def read_to_end(self) -> bytes:
        try:
            while True:
                self.more()
        except EOFError:
            return self.received

    def respond(self, *, behind: bytes = b"") -> str:
        """Accept as a server, with ``behind`` in the same write; returns the request."""
        request = self.read_head()
        key = next(line[18:].strip() for line in request.split("\r\n") if line.lower().startswith("sec-websocket-key"))
        accept = base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()).decode()
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {accept}",
        ]
        self.write(("\r\n".join(lines) + "\r\n\r\n").encode() + behind)
        return request

    def encode(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
        key = os.urandom(4) if self.client else None
        return head(opcode, len(payload), fin=fin, key=key) + (xor(payload, key) if key else payload)

    def send(self, opcode: int, payload: bytes = b"", *, fin: bool = True) -> None:
        self.write(self.encode(opcode, payload, fin=fin))

    def frame(self) -> Frame:
        first, second = self.read(2)
        length = second & 0x7F
        if length == 126:
            length = int.from_bytes(self.read(2), "big")
        elif length == 127:
            length = int.from_bytes(self.read(8), "big")
        key = self.read(4) if second & 0x80 else b""
        payload = self.read(length)
        return Frame(
            first & 0x0F, xor(payload, key) if key else payload, bool(first & 0x80), bool(first & 0x40), bool(key)
        )

    def request(self, path: str = "/", *, behind: bytes = b"", headers: Iterable[str] = ()) -> str:
        """Ask as a client, with ``behind`` in the same write; returns the head of the response."""
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [
            f"GET {path} HTTP/1.1",
            "Host: localhost",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
            *headers,
        ]
        self.write(("\r\n".join(lines) + "\r\n\r\n").encode() + behind)
        return self.read_head()

    def read_until_close(self) -> None:
        while self.frame().opcode != CLOSE:
            pass

    def close(self, code: int = 1000) -> None:
        """Complete a closing handshake that this side begins, and end the stream."""
        self.send(CLOSE, close_payload(code))
        self.read_until_close()


class RawServer:
    """A listening socket, and a way to it; ``connected`` gives both ends of a connection."""

    def __init__(self, transport: str, directory: str) -> None:
        self.transport = transport
        self.path = os.path.join(directory, "raw")
        if transport == "unix":
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.bind(self.path)
        else:
            self.sock = socket.socket()
            self.sock.bind(("127.0.0.1", 0))
        self.sock.listen(16)
        self.sock.settimeout(PATIENCE)

    def accept(self) -> RawPeer:
        sock, _ = self.sock.accept()
        if self.transport == "tls":
            sock = server_context().wrap_socket(sock, server_side=True)
        return RawPeer(sock, client=False)

    def accept_nothing(self) -> None:
        """Take a client that has given up, and see that it has."""
        sock, _ = self.sock.accept()
        with RawPeer(sock, client=False) as peer:
            peer.read_to_end()

    def connect(self, **options: Any) -> taut.sync.ClientConnection:
        if self.transport == "unix":
            return taut.sync.unix_connect(self.path, **options)
        port = self.sock.getsockname()[1]
        if self.transport == "tls":
            return taut.sync.connect(f"wss://127.0.0.1:{port}/", ssl=trusting(), **options)
        return taut.sync.connect(f"ws://127.0.0.1:{port}/", **options)

    @contextmanager
    def connected(self, *, behind: bytes = b"", **options: Any) -> Iterator[tuple[taut.sync.ClientConnection, RawPeer]]:
        """A client, and the raw bytes at its other end."""
        connecting = Doing(self.connect, **options)
        with self.accept() as peer:
            peer.respond(behind=behind)
            ws = connecting.result()
            try:
                yield ws, peer
            finally:
                ws.abort()
                ws.wait_closed(PATIENCE)


def trusting() -> ssl.SSLContext:
    """A client's context that trusts the servers of the tests."""
    return client_context()
