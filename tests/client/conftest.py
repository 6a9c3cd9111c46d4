"""The parts of the client, each for itself; a coroutine test runs on every kind of event loop."""

from __future__ import annotations

import inspect

import pytest
from endpoints import directory, world
from network import Driver
from running import LOOPS, pytest_pyfunc_call

__all__ = ["directory", "pytest_pyfunc_call", "world"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if inspect.iscoroutinefunction(metafunc.function):
        metafunc.parametrize("loop_name", LOOPS, indirect=True)


@pytest.fixture(autouse=True)
def loop_name(request: pytest.FixtureRequest) -> str:
    return str(getattr(request, "param", "asyncio"))


@pytest.fixture
def tcp() -> Driver:
    return Driver("tcp", "")
