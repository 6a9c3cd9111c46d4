"""Sockets of all sorts to connect to, and dialling them; only the resolver is a made-up one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from taut.client.dialling.addresses import address_text
from taut.client.dialling.dial import Dialled, dial
from taut.client.dialling.turns import Deadline, turns_of
from taut.client.options import ConnectOptions, connect_options
from taut.errors import ConnectError, DialError
from taut.protocol.uri import WebSocketURI, parse_uri
from taut.types import Attempt

V4, V6 = socket.AF_INET, socket.AF_INET6
LOOPBACK: dict[int, str] = {V4: "127.0.0.1", V6: "::1"}
URI = "ws://user:secret@server.test:8080/path"


@dataclass
class World:
    """Sockets of all sorts to connect to, and what was connected."""

    made: contextlib.ExitStack
    dialled: list[socket.socket] = field(default_factory=list[socket.socket])
    tried: list[Any] = field(default_factory=list[Any])

    def _bound(self, family: int) -> socket.socket:
        sock = self.made.enter_context(socket.socket(family))
        sock.bind((LOOPBACK[family], 0))
        return sock

    def live(self, family: int = V4) -> Any:
        """Where somebody listens."""
        sock = self._bound(family)
        sock.listen(16)
        return sock.getsockname()

    def refusing(self, family: int = V4) -> Any:
        """Where nobody listens."""
        return self._bound(family).getsockname()

    def silent(self, family: int = V4) -> Any:
        """Where nobody answers: Linux drops what comes to a socket whose backlog is full."""
        sock = self._bound(family)
        sock.listen(0)
        self.made.enter_context(socket.create_connection(sock.getsockname()[:2]))
        return sock.getsockname()

    def open_sockets(self) -> list[socket.socket]:
        return [sock for sock in self.dialled if sock.fileno() >= 0]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with contextlib.ExitStack() as made:
        world = World(made)

        class Recorded(socket.socket):
            def connect(self, address: Any, /) -> None:
                if self.gettimeout() == 0.0 and self not in world.dialled:
                    world.dialled.append(self)
                    world.tried.append(address)
                super().connect(address)

        monkeypatch.setattr(socket, "socket", Recorded)
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            monkeypatch.delenv(name)
        yield world


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="taut") as name:
        yield Path(name)


Answer = Callable[[], Awaitable[list[tuple[Any, ...]]]]


def resolve(*sockaddrs: Any, answer: Answer | None = None) -> list[tuple[Any, ...]]:
    """Have the resolver of this loop answer with these addresses; returns what it is asked."""
    asked: list[tuple[Any, ...]] = []

    async def getaddrinfo(host: Any, port: Any, *, family: int = 0, **_: int) -> list[tuple[Any, ...]]:
        asked.append((host, port, family))
        if answer is not None:
            return await answer()
        return [
            (V6 if len(address) == 4 else V4, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)
            for address in sockaddrs
        ]

    loop: Any = asyncio.get_running_loop()
    loop.getaddrinfo = getaddrinfo
    return asked


def options_for(uri: WebSocketURI, **given_options: Any) -> ConnectOptions:
    return connect_options(uri, {"proxy": None} | given_options)


async def call(uri: str = URI, attempts: list[Attempt] | None = None, **given_options: Any) -> Dialled:
    parsed = parse_uri(uri)
    options = options_for(parsed, **given_options)
    async with Deadline(options.open_timeout) as deadline:
        return await dial(parsed, options, deadline, [] if attempts is None else attempts)


@contextlib.contextmanager
def closing(dialled: Dialled) -> Generator[socket.socket, None, None]:
    """Around the use of what was dialled, which is closed in the end."""
    dialled.settled()
    with dialled.sock:
        yield dialled.sock


async def failure(**given_options: Any) -> tuple[DialError, list[Attempt]]:
    """How dialling fails, and what it records."""
    attempts: list[Attempt] = []
    with pytest.raises(DialError) as caught:
        await call(attempts=attempts, **given_options)
    assert isinstance(caught.value, ConnectError)
    assert not turns_of(asyncio.get_running_loop()).busy
    return caught.value, attempts


def told(attempts: list[Attempt]) -> list[tuple[str, str]]:
    assert all(each.uri == "ws://server.test:8080/path" and 0 <= each.elapsed < 30 for each in attempts)
    return [(each.address, each.stage) for each in attempts]


def text(sockaddr: Any) -> str:
    return address_text(*sockaddr[:2])


async def never() -> list[tuple[Any, ...]]:
    await asyncio.Event().wait()
    raise AssertionError


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def until_waiting(world: World, count: int) -> None:
    """Until that many connections were begun, and nobody can go on."""
    while len(world.dialled) < count:
        await asyncio.sleep(0)
    await settle()


async def cancelled(task: asyncio.Task[Dialled], world: World) -> None:
    """Cancel dialling, which leaves nothing open."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not world.open_sockets()
