"""A worker: a fresh interpreter that serves on sockets that it was given.

It has two lines to its parent.  The lifeline is a pipe that only ends (see ``lifeline``).  The control line is a socket
with one JSON object a line: the first, from the parent, says what to do; the worker answers that it is ready, or that
it never will be, because nothing is there to be served (``unfit``); after that the parent asks, and the worker answers.
Everything that ends a worker is a signal, so that it works whatever the worker is at.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import os
import socket
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

from ..observability import snapshot
from ..server.server import Server
from .activation import adopt
from .lifeline import hold_on
from .loading import LoadError, load, of_the_module
from .loops import loop_factory
from .plan import Plan
from .serving import Serving

__all__ = ["MARGIN", "UNFIT", "main"]

MARGIN = 10.0
"""How much longer than the drain a worker may take to end (seconds)."""
UNFIT = 3
"""The exit status of a worker that could not begin."""
_PATIENCE = 2.0
"""How long the parent may take to hear a worker's last words (seconds)."""


def main(arguments: Sequence[str]) -> int:
    """Serve. ``arguments``: the descriptors of the control line, of the lifeline and of the listening sockets.

    Whatever follows them is for whoever looks at the list of processes.
    """
    with socket.socket(fileno=int(arguments[0])) as control:
        return _work(control, int(arguments[1]))


def _work(control: socket.socket, lifeline: int) -> int:
    order = _first_line(control)
    plan = Plan.from_json(order["plan"])
    hold_on(lifeline, plan.drain + MARGIN)
    if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]
        faulthandler.enable()  # the parent aborts a worker that hangs: then it says where
    sockets = adopt(order["sockets"])
    for descriptor in (control.fileno(), lifeline):
        os.set_inheritable(descriptor, False)
    try:
        app = load(plan.app, plan.app_dir)
        plan.configure_logging()
        with asyncio.Runner(loop_factory=loop_factory(plan.uvloop)) as runner:
            runner.run(_serve(plan, app, sockets, control))
    except LoadError as exc:
        _say_unfit(control, str(exc))
        return UNFIT
    except Exception as exc:
        traceback.print_exception(type(exc), exc, of_the_module(exc))
        _say_unfit(control, None)
        return UNFIT
    finally:
        for sock in sockets:
            sock.close()
    return 0


def _first_line(control: socket.socket) -> dict[str, Any]:
    line = b""
    while not line.endswith(b"\n"):
        data = control.recv(65536)
        if not data:
            sys.exit(UNFIT)  # the parent is gone
        line += data
    return cast("dict[str, Any]", json.loads(line))


def _say_unfit(control: socket.socket, problem: str | None) -> None:
    control.setblocking(True)
    with suppress(OSError):  # the parent is gone
        control.sendall(json.dumps({"unfit": problem}).encode() + b"\n")


async def _serve(plan: Plan, app: Any, sockets: list[socket.socket], control: socket.socket) -> None:
    # A duplicate, because what ends the line must not take the socket with it that a failure is reported on.
    line = await _ControlLine.open(control.dup())
    serving = Serving(plan, alone=False, leaves=True, on_stop=line.draining)
    try:
        await serving.run(app, sockets, line.ready)
    finally:
        await line.close()


class _ControlLine(asyncio.Protocol):
    """The worker's end of the control line."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._server: Server | None = None
        self._unread = b""

    @classmethod
    async def open(cls, sock: socket.socket) -> _ControlLine:
        """Begin to answer on this socket."""
        sock.setblocking(False)
        _, line = await asyncio.get_running_loop().create_connection(cls, sock=sock)
        return line

    def ready(self, server: Server) -> None:
        """The worker serves."""
        self._server = server
        self._say({"ready": True})

    def draining(self) -> None:
        """The worker ends, whoever has asked it to."""
        self._say({"draining": True})

    async def close(self) -> None:
        """Say what has been counted in all, and nothing more."""
        self._count()
        if self._transport is not None:
            self._transport.close()
            await asyncio.wait([self._lost], timeout=_PATIENCE)

    def _say(self, what: dict[str, Any]) -> None:
        if self._transport is not None:
            self._transport.write(json.dumps(what).encode() + b"\n")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The line is open."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The parent is gone; the lifeline sees to what follows."""
        self._transport = None
        self._lost.set_result(None)

    def data_received(self, data: bytes) -> None:
        """The parent asks."""
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._answer(json.loads(line))

    def _answer(self, question: dict[str, Any]) -> None:
        if "alive" in question:
            self._say({"alive": True})
        if "snapshot" in question:
            self._count()

    def _count(self) -> None:
        if self._server is not None:
            self._say({"snapshot": snapshot(self._server)})
