"""Every test here leaves nothing behind: no thread but the one in the background, and no connection in that."""

from __future__ import annotations

import gc
import tempfile
import threading
from collections.abc import Iterator

import pytest
from threads import RawServer, until

from taut.drivers import background

TRANSPORTS = ("tcp", "tls", "unix")


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    until(lambda: background.connections_kept() == 0, "the end of all connections")
    until(lambda: not [t for t in set(threading.enumerate()) - before if t.name != "taut-sync"], "the end of threads")
    gc.collect()


@pytest.fixture
def directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="taut") as name:
        yield name


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def raw(transport: str, directory: str) -> Iterator[RawServer]:
    """A server made of raw bytes, over each transport."""
    server = RawServer(transport, directory)
    with server.sock:
        yield server


@pytest.fixture
def tcp(directory: str) -> Iterator[RawServer]:
    """The same over TCP only."""
    server = RawServer("tcp", directory)
    with server.sock:
        yield server
