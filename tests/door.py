"""A server with a hook at its door, and what somebody meets there who comes with these headers."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from network import Driver
from peers import Peer

import taut

PHRASES = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 500: "Internal Server Error"}


async def welcome(ws: taut.ServerConnection) -> None:
    """A handler that says whom it sees."""
    assert ws.request is not None
    await ws.send(f"{ws.principal!r} {ws.request.path} {ws.request.headers.get('Sec-WebSocket-Protocol')}")


def refusal(status: int, *challenges: str) -> bytes:
    """The whole answer to somebody who is not let in."""
    body = f"{PHRASES[status]}\n"
    lines = [
        f"HTTP/1.1 {status} {PHRASES[status]}",
        "Connection: close",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        *(f"WWW-Authenticate: {challenge}" for challenge in challenges),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def basic(username: str, password: str) -> tuple[str, str]:
    return "Authorization", "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def bearer(token: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {token}"


class Door:
    """A running server."""

    def __init__(self, driver: Driver, server: taut.Server) -> None:
        self.driver = driver
        self.server = server

    async def ask(self, *headers: tuple[str, str], target: str = "/") -> bytes:
        """The head of a 101, with what the handler says behind it; or the whole answer."""
        async with self.driver.peer(self.server) as peer:
            return await ask(peer, *headers, target=target)


async def ask(peer: Peer, *headers: tuple[str, str], target: str = "/") -> bytes:
    head = (await peer.request(target, headers)).encode()
    if not head.startswith(b"HTTP/1.1 101 "):
        return head + await peer.read_to_end()
    message = await peer.frame()
    await peer.close()
    return head + message.payload


@asynccontextmanager
async def door(driver: Driver, hook: Any, **options: Any) -> AsyncIterator[Door]:
    options = {"compression": None, "server_header": None} | options
    async with driver.serve(welcome, process_request=hook, **options) as server:
        yield Door(driver, server)


def said(answer: bytes) -> str:
    """What the handler said to somebody who was let in."""
    head, _, message = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), answer
    return message.decode()
