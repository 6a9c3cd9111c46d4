"""Every test in this folder is the story of one failure, told over TCP and over TLS, on every kind of event loop."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator

import pytest
from network import Driver
from running import LOOPS, pytest_pyfunc_call

__all__ = ["pytest_pyfunc_call"]

_CASES = [f"{loop}-{transport}" for loop, transport in itertools.product(LOOPS, ("tcp", "tls"))]


@pytest.fixture(params=_CASES)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def loop_name(case: str) -> str:
    return case.split("-", maxsplit=1)[0]


@pytest.fixture
def driver(case: str) -> Iterator[Driver]:
    with tempfile.TemporaryDirectory(prefix="taut") as directory:
        yield Driver(case.split("-")[1], directory)
