"""taut and programs that are not ours, over real sockets, on asyncio's loop and on uvloop."""

from __future__ import annotations

import pytest
from running import pytest_pyfunc_call

__all__ = ["pytest_pyfunc_call"]


@pytest.fixture(params=("asyncio", "uvloop"), autouse=True)
def loop_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)
