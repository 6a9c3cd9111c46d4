"""Runs test functions that are coroutine functions, and holds them to leaving nothing behind.

A scenario passes only if, besides what it asserts itself, no task and no timer survives it, and neither the event loop
nor the garbage collector has anything to complain of: no destroyed task, no exception that nobody retrieved, no
unclosed transport or socket.

A folder of such tests imports the hook ``pytest_pyfunc_call`` into its conftest.py, and has an autouse fixture called
``loop_name`` that chooses the event loop.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

LOOPS = ("asyncio", "uvloop", "debug")
"""The event loops; "debug" is asyncio's in its debug mode."""

TIMEOUT = 60.0

gc.freeze()  # so that collecting after each scenario looks at little more than that scenario


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine function; leave any other to pytest."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    run(lambda: pyfuncitem.obj(**arguments), pyfuncitem.funcargs["loop_name"])
    return True


def run(scenario: Callable[[], Coroutine[Any, Any, None]], loop_name: str) -> None:
    """Run ``scenario`` on that kind of loop."""
    complaints: list[str] = []
    factory = uvloop.new_event_loop if loop_name == "uvloop" else asyncio.SelectorEventLoop
    hook, sys.unraisablehook = (
        sys.unraisablehook,
        lambda args: complaints.append(f"{args.exc_value!r} in {args.object!r}"),
    )
    try:
        with asyncio.Runner(debug=loop_name == "debug", loop_factory=factory) as runner:
            loop = runner.get_loop()
            loop.slow_callback_duration = 10.0  # the machine may be busy; that is not what is tested
            loop.set_exception_handler(lambda _, context: complaints.append(repr(context)))
            left = runner.run(_complete(scenario))
        gc.collect()
    finally:
        sys.unraisablehook = hook
    assert not left, f"left behind: {left}"
    assert not complaints, complaints


async def _complete(scenario: Callable[[], Coroutine[Any, Any, None]]) -> list[str]:
    async with asyncio.timeout(TIMEOUT):
        await scenario()
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0)  # connection_lost of transports closed in the last turn
    left = [repr(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    timers = [repr(timer) for timer in getattr(loop, "_scheduled", ()) if not timer.cancelled()]
    # What all connections of a loop share may be kept for the next one; aiofastnet leaves a timer of its TLS shutdown.
    return left + [timer for timer in timers if "LoopState" not in timer and "SSLTransportBase" not in timer]
