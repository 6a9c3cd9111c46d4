"""The parent's side of a worker: its process, its two lines, and what is known of it.

STARTING -> SERVING -> ENDING -> ENDED, and any of them -> ENDED, for a process may be gone at any time.  What drives
it: ``SIGCHLD`` (the supervisor calls ``look``), lines from the worker, and two deadlines, for getting ready and for
ending, behind which the process is killed.  While it serves, it is asked whether its event loop turns; one that has not
answered for ``worker_timeout`` is aborted, which makes it tell where it is stuck, and then killed.  ``on_change`` is
called after every step; the step itself never raises.
"""

from __future__ import annotations

import asyncio
import enum
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from .plan import Plan
from .worker import MARGIN

__all__ = ["Child", "ChildState", "interpreter_options"]

_READ = 65536
_LAST_WORDS = 1.0
"""How long a worker that is stuck has to say where (seconds)."""


class ChildState(enum.Enum):
    """How far a worker is."""

    STARTING = "starting"
    SERVING = "serving"
    ENDING = "ending"
    ENDED = "ended"


class Child:
    """A worker process, started by the constructor. Raises ``OSError`` when it cannot be."""

    def __init__(
        self, number: int, plan: Plan, sockets: Sequence[socket.socket], on_change: Callable[[Child], None]
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.number = number
        self.state = ChildState.STARTING
        self.unfit = False
        """Whether it has said that it cannot begin."""
        self.problem: str | None = None
        """What it has said about that, None if it has printed it."""
        self.ready_at: float | None = None
        self.has_left = False
        """Whether it accepts nothing more."""
        self.snapshot: dict[str, Any] | None = None
        """What it has counted, when it said so last."""
        self._answer: asyncio.Future[None] | None = None
        self.status: int | None = None
        """The exit status, that of ``subprocess``."""
        self._plan = plan
        self._logger = logging.getLogger("taut.workers")
        self._on_change = on_change
        self._unread = b""
        self._line, theirs = socket.socketpair()
        end, self._lifeline = os.pipe()
        try:
            self._process = self._start(theirs, end, sockets)
        except BaseException:
            self._line.close()
            os.close(self._lifeline)
            raise
        finally:
            theirs.close()
            os.close(end)
        self._line.setblocking(False)
        self.loop.add_reader(self._line, self._readable)
        self._say({"plan": plan.to_json(), "sockets": [sock.fileno() for sock in sockets]})
        self._deadline = self.loop.call_later(plan.start_timeout, self._not_ready)
        self._pulse: asyncio.TimerHandle | None = None

    def _start(self, line: socket.socket, end: int, sockets: Sequence[socket.socket]) -> subprocess.Popen[bytes]:
        descriptors = [line.fileno(), end, *(sock.fileno() for sock in sockets)]
        return subprocess.Popen(
            [
                *(sys.executable, *interpreter_options(sys.orig_argv), "-m", "taut.workers"),
                *(str(line.fileno()), str(end), self._plan.app),
            ],
            env=os.environ | {"TAUT_WORKER": str(self.number)},
            stdin=subprocess.DEVNULL,
            pass_fds=descriptors,
            # Ctrl-C on a terminal is for the parent, which drains the workers; they must not be interrupted as well.
            process_group=0,
        )

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    # -- what it is told ---------------------------------------------------------------------------------------

    def drain(self, *, replaced: bool) -> None:
        """End it gracefully, leaving new connections to others if it is ``replaced``; one that starts ends at once."""
        if self.state in (ChildState.STARTING, ChildState.SERVING):
            leave = replaced or self.state is ChildState.STARTING
            self._ending()
            self._process.send_signal(signal.SIGTERM if leave else signal.SIGINT)

    def close(self) -> None:
        """End it at once, and wait until it has."""
        self._on_change = _nobody
        self.kill()
        self._process.wait()
        self.look()

    def signal(self, number: int) -> None:
        """Pass a signal on, if it is there and knows what to do with it."""
        if self.ready_at is not None and self.state is not ChildState.ENDED:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once."""
        if self.state is not ChildState.ENDED:
            self._process.kill()

    def ask(self) -> asyncio.Future[None]:
        """Ask what it has counted: done when ``snapshot`` is up to date, or never will be."""
        if self._answer is None or self._answer.done():
            self._answer = self.loop.create_future()
        if self.state is ChildState.ENDED:
            self._answered()
        else:
            self._say({"snapshot": True})
        return self._answer

    def _answered(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)

    def _say(self, what: dict[str, Any]) -> None:
        with suppress(OSError):  # it has gone, or is too busy to listen
            self._line.send(json.dumps(what).encode() + b"\n")

    # -- what happens to it ------------------------------------------------------------------------------------

    def look(self) -> None:
        """Notice that the process has ended, if so."""
        if self.state is ChildState.ENDED or self._process.poll() is None:
            return
        self._readable()  # what it said at last
        self.status = self._process.returncode
        self.state = ChildState.ENDED
        self._deadline.cancel()
        self._stop_pulse()
        self.loop.remove_reader(self._line)
        self._line.close()
        os.close(self._lifeline)
        self._answered()
        self._on_change(self)

    def _readable(self) -> None:
        while True:
            try:
                data = self._line.recv(_READ)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                data = b""
            if not data:
                self.loop.remove_reader(self._line)
                return
            *lines, self._unread = (self._unread + data).split(b"\n")
            for line in lines:
                self._told(json.loads(line))

    def _told(self, what: dict[str, Any]) -> None:
        if "unfit" in what:
            self.unfit, self.problem = True, what["unfit"]
        elif "ready" in what and self.state is ChildState.STARTING:
            self.state = ChildState.SERVING
            self.ready_at = self.loop.time()
            self._deadline.cancel()
            self._on_change(self)
            self._ask_pulse()
        elif "alive" in what:
            self._has_pulse()
        elif "snapshot" in what:
            self.snapshot = what["snapshot"]
            self._answered()
        elif "draining" in what:
            self.has_left = True
            if self.state is ChildState.SERVING:
                self._ending()
            self._on_change(self)

    def _ending(self) -> None:
        self.state = ChildState.ENDING
        self._stop_pulse()
        self._deadline.cancel()
        self._deadline = self.loop.call_later(self._plan.drain + MARGIN, self._not_ended)

    def _not_ready(self) -> None:
        self._logger.error(
            "worker %d (%d) is not ready after %g s: killed", self.number, self.pid, self._plan.start_timeout
        )
        self.kill()

    def _not_ended(self) -> None:
        self._logger.error("worker %d (%d) has not ended in time: killed", self.number, self.pid)
        self.kill()

    # -- whether its event loop turns --------------------------------------------------------------------------

    def _ask_pulse(self) -> None:
        if self.state is ChildState.SERVING and self._plan.worker_timeout:
            self._say({"alive": True})
            self._pulse = self.loop.call_later(self._plan.worker_timeout, self._no_pulse)

    def _has_pulse(self) -> None:
        if self._pulse is not None:
            self._stop_pulse()
            self._pulse = self.loop.call_later(self._plan.worker_timeout / 2, self._ask_pulse)

    def _stop_pulse(self) -> None:
        if self._pulse is not None:
            self._pulse.cancel()
            self._pulse = None

    def _no_pulse(self) -> None:
        assert self._pulse is not None
        if self.loop.time() - self._pulse.when() > self._plan.worker_timeout / 2:
            self._ask_pulse()  # this process has been stopped itself
            return
        self._logger.error(
            "worker %d (%d) is stuck, its event loop has not turned for %g s: killed",
            *(self.number, self.pid, self._plan.worker_timeout),
        )
        self._pulse = None
        self._deadline = self.loop.call_later(_LAST_WORDS, self.kill)
        self._process.send_signal(signal.SIGABRT)

    @property
    def ending(self) -> str:
        """How it ended, for people."""
        status = self.status
        if status is None:
            return "drains"
        if status >= 0:
            return f"exited with status {status}"
        try:
            return f"was ended by {signal.Signals(-status).name}"
        except ValueError:
            return f"was ended by signal {-status}"


def interpreter_options(line: Sequence[str]) -> list[str]:
    """The options of the interpreter in a command line such as ``sys.orig_argv``: -X dev, -W error, -O and the like."""
    options: list[str] = []
    rest = iter(line[1:])
    for argument in rest:
        if not argument.startswith("-") or argument == "-" or argument.startswith("--"):
            break
        letters = argument[1:]
        for place, letter in enumerate(letters):
            if letter in "mc":  # what to run; the program begins behind it
                return options + ([f"-{letters[:place]}"] if place else [])
            if letter in "XW":
                options.append(argument)
                if place == len(letters) - 1:
                    options += [next(rest, "")]
                break
        else:
            options.append(argument)
    return options


def _nobody(_child: Child) -> None:
    """Is told of what nobody wants to know any more."""
