"""Processes of programs that are not ours, each on a loopback port that the kernel chose.

Most of these programs cannot be told to choose a port and say which: a free one is looked for and put into their
configuration, and another if it was taken meanwhile.  Each has a folder of its own for configuration and log, which is
gone when it has stopped.  The kernel ends a process whose parent is gone (``setpriv --pdeathsig``), so that nothing
outlives a test run that was killed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from .install import program

HOST = "127.0.0.1"
START_TIMEOUT = 30.0
STOP_TIMEOUT = 5.0
TRIES = 3


class ServiceError(RuntimeError):
    """A service that could not be started, with the end of its log."""


def free_port() -> int:
    """A port that nobody uses at the moment."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    """Whether somebody accepts connections at this port."""
    with socket.socket() as sock:
        sock.settimeout(1.0)
        return sock.connect_ex((HOST, port)) == 0


class Service:
    """A program to be started and stopped. A subclass says how, in ``command``."""

    name = "service"
    scheme = "http"
    username: str | None = None
    password: str | None = None

    def __init__(self) -> None:
        self.host = HOST
        self.port = 0
        self.folder = Path()
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """Write what the program needs into ``folder``, and return the command that serves ``port``."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """What the program needs in its environment."""
        return {}

    # -- what tests use ----------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where it is, with the credentials that it wants."""
        return self.url_as(self.scheme)

    def url_as(self, scheme: str) -> str:
        """The same with another scheme."""
        credentials = f"{self.username}:{self.password}@" if self.username else ""
        return f"{scheme}://{credentials}{self.host}:{self.port}"

    def log(self) -> str:
        """All that the program has written so far."""
        return (self.folder / "log").read_text(errors="replace")

    # -- its life ----------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start the program, and return when it accepts connections; ServiceError if it does not."""
        for remaining in reversed(range(TRIES)):
            self.folder = Path(tempfile.mkdtemp(prefix=f"taut-{self.name}-"))
            self.port = free_port()
            try:
                self._launch()
                if self._ready():
                    return self
                log = self.log()
            except BaseException:
                self.stop()
                raise
            self.stop()
            if not remaining:
                raise ServiceError(f"{self.name} did not start; the end of its log:\n{log[-2000:]}")
        raise AssertionError("not reached")

    def _launch(self) -> None:
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [program("setpriv"), "--pdeathsig", "TERM", *self.command()],
                cwd=self.folder,
                env=os.environ | {"TMPDIR": str(self.folder)} | self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _ready(self) -> bool:
        assert self._process is not None
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            listening = accepts(self.port)
            if self._process.poll() is not None:
                return False
            if listening:
                return True
            time.sleep(0.02)
        return False

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program's first process."""
        assert self._process is not None
        self._process.send_signal(number)

    def end(self) -> None:
        """End the program, with all processes that it has started; its port stays known."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def stop(self) -> None:
        """End the program, and remove what it wrote."""
        self.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
