"""A reverse proxy over real sockets, on every kind of event loop."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from network import Driver
from running import LOOPS, pytest_pyfunc_call

__all__ = ["pytest_pyfunc_call"]


@pytest.fixture(params=LOOPS, autouse=True)
def loop_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def tcp() -> Driver:
    return Driver("tcp", "")


@pytest.fixture
def unused_port() -> Iterator[int]:
    """A port that nobody listens on: it is bound, and that is all."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]
