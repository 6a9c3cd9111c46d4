"""Serving until the process is asked to end: SIGTERM, as process supervisors send it, or SIGINT, Ctrl-C.

The handlers are those of the ``signal`` module and not the loop's own, because only these can be put back exactly as
they were; all that they do is to call into the loop.  Nothing is touched before ``serve_until_signal`` is called, nor
after it is over.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Iterable
from types import FrameType
from typing import TYPE_CHECKING, Any

from .draining import DrainPlan

if TYPE_CHECKING:
    from .server import Server

__all__ = ["check_signals", "serve_until_signal"]


def check_signals(signals: Iterable[int]) -> tuple[signal.Signals, ...]:
    """The signals as the ``signal`` module names them. Raises ``TypeError`` or ``ValueError`` for others."""
    if isinstance(signals, int | str):
        raise TypeError(f"signals must be an iterable of signals, not {signals!r}")
    found: list[signal.Signals] = []
    for number in signals:
        try:
            found.append(signal.Signals(number))
        except ValueError:
            raise ValueError(f"signals must hold only signals, not {number!r}") from None
    if not found:
        raise ValueError("signals must hold at least one signal")
    return tuple(found)


async def serve_until_signal(server: Server, signals: tuple[signal.Signals, ...], plan: DrainPlan) -> int | None:
    """Serve until one of ``signals``, or until the server is closed; then the signal, or None."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("signals can be handled only in the main thread")
    received = _Received(server, plan)
    previous: dict[signal.Signals, Any] = {}
    try:
        for each in signals:
            previous[each] = signal.signal(each, received.handle)
        await server.serve_forever()
    finally:
        try:
            if received.drain is not None:
                await received.end()
        finally:
            for each, handler in previous.items():
                # None is one that was not set by Python, and cannot be set by it again.
                signal.signal(each, signal.SIG_DFL if handler is None else handler)
    return received.first


class _Received:
    """What comes of the signals: the first one drains, the second closes, the third drops what is left."""

    def __init__(self, server: Server, plan: DrainPlan) -> None:
        self.first: int | None = None
        self.drain: asyncio.Task[None] | None = None
        self._server = server
        self._plan = plan
        self._count = 0

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The handler, which runs between any two instructions of the main thread."""
        self._server.loop.call_soon_threadsafe(self._received, number)

    def _received(self, number: int) -> None:
        server, plan = self._server, self._plan
        self._count += 1
        name = signal.Signals(number).name
        if self._count == 1:
            self.first = number
            server.logger.log(logging.INFO, "%s: draining for at most %g s", name, plan.timeout)
            self.drain = server.loop.create_task(server.drain_as(plan))
        elif self._count == 2:
            server.logger.info("%s again: closing at once", name)
            server.close(code=plan.code, reason=plan.reason)
        else:
            for connection in list(server.connections_open):
                connection.abort()
                connection.cancel_handler()

    async def end(self) -> None:
        """Leave nothing behind: the server is closed, and so the drain is about to be over, or it was cancelled."""
        assert self.drain is not None
        await asyncio.wait([self.drain])
        self.drain.result()
