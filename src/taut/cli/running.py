"""Running a command on an event loop: which loop, which signals, which address."""

from __future__ import annotations

import asyncio
import errno
import signal
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import taut

from ..workers.loops import loop_factory
from .terminal import CommandError, explain

__all__ = ["authority", "interruptible", "listening", "loop_name", "run", "stop_event"]


def run(command: Callable[[], Coroutine[Any, Any, int]], *, uvloop: bool | None) -> int:
    """Run a command to its exit status. ``uvloop``: whether to run on uvloop, None for where it is installed."""
    with asyncio.Runner(loop_factory=_loop_factory(uvloop)) as runner:
        return runner.run(command())


def _loop_factory(wanted: bool | None) -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        return loop_factory(wanted)
    except taut.MissingExtra:
        raise CommandError(str(taut.MissingExtra("--uvloop", "uvloop")), status=2) from None


def loop_name() -> str:
    """The package of the running event loop: "asyncio" or "uvloop"."""
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


@contextmanager
def interruptible(interrupted: Callable[[int], None]) -> Generator[None, None, None]:
    """Call ``interrupted(signal number)`` on SIGINT and SIGTERM, instead of ending at once."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted, number)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@contextmanager
def stop_event() -> Generator[asyncio.Event, None, None]:
    """An event that the first SIGINT or SIGTERM sets; the second one ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def interrupted(_number: int) -> None:
        stop.set()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    with interruptible(interrupted):
        yield stop


def authority(host: str, port: int) -> str:
    """Host and port as a URI has them: an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@asynccontextmanager
async def listening(serving: taut.serve, host: str, port: int) -> AsyncGenerator[taut.Server, None]:
    """The server that ``serving`` starts, closed gracefully at the end; a CommandError when there can be none."""
    try:
        server = await serving
    except (OSError, UnicodeError) as exc:
        advice = "; choose another with --port" if isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE else ""
        raise CommandError(f"cannot listen on {authority(host, port)}: {explain(exc)}{advice}") from None
    try:
        yield server
    finally:
        server.close()
        await server.wait_closed()
