"""A connection in the hands of a test: it says in which turn of the loop bytes arrive, and how many of them leave.

``Handfed`` is a server's connection on a transport without a network, ``Wire``.  ``run`` runs a scenario on every
flavour of event loop and task that the awaitables of ``taut.drivers`` have to get along with.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from taut import Connection, ConnectionOptions, DeflateOptions
from taut.protocol import deflate
from taut.protocol.frames import MaskPool
from taut.protocol.session import Session


def _python_tasks(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
    return asyncio.tasks._PyTask(coro, loop=loop, **options)  # type: ignore[attr-defined]


def _eager_tasks(loop: asyncio.AbstractEventLoop, coro: Any, *, eager_start: Any = None, **options: Any) -> Any:
    # Not asyncio.eager_task_factory: uvloop hands on the last argument to it, and the first 3.13 refused that.
    return asyncio.Task(coro, loop=loop, eager_start=True, **options)


# How the loop is made, how it makes tasks, and whether it is in debug mode.
FLAVOURS: dict[str, tuple[Callable[[], asyncio.AbstractEventLoop], Any, bool]] = {
    "asyncio": (asyncio.SelectorEventLoop, None, False),
    "uvloop": (uvloop.new_event_loop, None, False),
    "asyncio debug": (asyncio.SelectorEventLoop, None, True),
    "asyncio python tasks": (asyncio.SelectorEventLoop, _python_tasks, False),
    "uvloop python tasks": (uvloop.new_event_loop, _python_tasks, False),
}
if sys.version_info >= (3, 12):
    FLAVOURS["asyncio eager"] = (asyncio.SelectorEventLoop, _eager_tasks, False)
    FLAVOURS["uvloop eager"] = (uvloop.new_event_loop, _eager_tasks, False)


def run(scenario: Callable[[], Coroutine[Any, Any, None]], flavour: str, *, collect: bool = True) -> None:
    """Run ``scenario``; meanwhile nothing may reach the exception handler of the loop.

    ``collect``: find garbage that complains as well, which takes its time.
    """
    factory, task_factory, debug = FLAVOURS[flavour]
    complaints: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=factory, debug=debug) as runner:
        loop = runner.get_loop()
        loop.set_task_factory(task_factory)
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        loop.slow_callback_duration = 60
        runner.run(scenario())
        if collect:
            gc.collect()
    assert not complaints, complaints


async def turns(count: int = 1) -> None:
    """Let the event loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


class Wire(asyncio.Transport):
    """A transport that takes bytes as long as it is not ``stuck``, and keeps them where the test finds them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.stuck = False
        self.left = bytearray()
        self._loop = loop
        self._unsent = bytearray()
        self._arriving = bytearray()
        self._high = self._low = 0
        self._writing_paused = self._reading_paused = self._closing = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol: Any = protocol

    # -- writing -----------------------------------------------------------------------------------------------

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high = 65536 if high is None else high
        self._low = self._high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        self._unsent += data
        if not self.stuck:
            self.release(len(self._unsent))
        elif len(self._unsent) > self._high and not self._writing_paused:
            self._writing_paused = True
            self._protocol.pause_writing()

    def writelines(self, list_of_data: Any) -> None:
        self.write(b"".join(list_of_data))

    def release(self, size: int) -> None:
        """Let that many bytes leave."""
        self.left += self._unsent[:size]
        del self._unsent[:size]
        if self._writing_paused and len(self._unsent) <= self._low:
            self._writing_paused = False
            self._protocol.resume_writing()

    def can_write_eof(self) -> bool:
        return False

    # -- reading -----------------------------------------------------------------------------------------------

    def arrive(self, data: bytes) -> None:
        self._arriving += data
        self._read()

    def _read(self) -> None:
        while self._arriving and not self._reading_paused and not self._closing:
            buffer = self._protocol.get_buffer(-1)
            size = min(len(buffer), len(self._arriving))
            buffer[:size] = self._arriving[:size]
            del self._arriving[:size]
            self._protocol.buffer_updated(size)

    def pause_reading(self) -> None:
        self._reading_paused = True

    def resume_reading(self) -> None:
        self._reading_paused = False
        self._loop.call_soon(self._read)

    # -- the end -----------------------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    abort = close

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class Handfed:
    """A server's connection on a ``Wire``, and the client's session at the other end of it."""

    def __init__(self, *, compressed: bool = False, **options: Any) -> None:
        self.loop = asyncio.get_running_loop()
        settings = ConnectionOptions(ping_interval=None, **options)
        self.ws = Connection(self.loop, settings, logging.getLogger("tests"))
        self.wire = Wire(self.loop)
        self.peer = session(client=True, compressed=compressed)
        self.ws.open(self.wire, session(client=False, compressed=compressed, options=settings))

    def arrive(self, *messages: str | bytes) -> None:
        """One read of these messages, here and now: in a callback of the loop, or in the midst of a task."""
        for message in messages:
            self.peer.send(message)
        self.wire.arrive(self.peer.take_output())

    def arrive_soon(self, *messages: str | bytes) -> None:
        """One read of these messages as the event loop would do it: in a callback, outside any task."""
        self.loop.call_soon(self.arrive, *messages)

    def left(self) -> list[str | bytes]:
        """The messages that have left since the last call."""
        data = bytes(self.wire.left)
        self.wire.left.clear()
        return messages_of(self.peer, data)


def session(*, client: bool, compressed: bool, options: ConnectionOptions | None = None) -> Session:
    codec = None
    if compressed:
        parameters = deflate.DeflateParameters()
        codec = deflate.Deflate(parameters, DeflateOptions(), server=not client, pool=deflate.ContextPool())
    masks = MaskPool(os.urandom) if client else None
    if options is None:
        options = ConnectionOptions(max_size=None, read_limit=1 << 40)
    return Session(options, client=client, masks=masks, deflate=codec)


def messages_of(peer: Session, data: bytes) -> list[Any]:
    """What ``peer`` makes of these bytes."""
    assert peer.receive_data(data) == len(data)
    messages = []
    while (message := peer.take()) is not None:
        messages.append(message)
    peer.drained()
    return messages
