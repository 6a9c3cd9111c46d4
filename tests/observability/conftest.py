"""What shows a server from outside, over real sockets, on every kind of event loop."""

from __future__ import annotations

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
