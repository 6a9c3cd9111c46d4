"""The ``taut`` command as a process of its own, in which any warning is an error."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO, Any

import pytest

PYTHON = [sys.executable, "-X", "dev", "-W", "error"]
TIMEOUT = 30


class Process:
    """A running command; ``stdin`` stays open until ``finish``."""

    def __init__(self, arguments: list[str], **options: Any) -> None:
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        self.popen = subprocess.Popen(arguments, text=True, encoding="utf-8", **streams)

    def _wait_for(self, stream: IO[str] | None, pattern: str) -> re.Match[str]:
        assert stream is not None
        seen = ""
        for line in stream:
            seen += line
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"the command ended without printing {pattern!r}, but {seen!r}")

    def wait_for(self, pattern: str) -> re.Match[str]:
        """The first line of stdout from here on that matches."""
        return self._wait_for(self.popen.stdout, pattern)

    def wait_for_error(self, pattern: str) -> re.Match[str]:
        """The first line of stderr from here on that matches."""
        return self._wait_for(self.popen.stderr, pattern)

    def write(self, text: str) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(text)
        self.popen.stdin.flush()

    def interrupt(self, number: int = signal.SIGINT) -> None:
        self.popen.send_signal(number)

    def finish(self) -> tuple[int, str, str]:
        """Close stdin, and wait for the end: exit status, and what was printed since."""
        out, err = self.popen.communicate(timeout=TIMEOUT)
        return self.popen.returncode, out, err

    def wait(self) -> int:
        """Wait for the end while stdin stays open: exit status."""
        return self.popen.wait(timeout=TIMEOUT)

    def kill(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(timeout=TIMEOUT)
        for stream in (self.popen.stdin, self.popen.stdout, self.popen.stderr):
            if stream is not None and not stream.closed:
                with suppress(BrokenPipeError):
                    stream.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Start ``taut`` with these arguments, or with ``command=`` any other."""
    processes: list[Process] = []

    def start_process(*arguments: str, command: list[str] | None = None, **options: Any) -> Process:
        processes.append(Process([*(command or [*PYTHON, "-m", "taut"]), *arguments], **options))
        return processes[-1]

    yield start_process
    for process in processes:
        process.kill()


@pytest.fixture
def run(start: Callable[..., Process]) -> Callable[..., tuple[int, str, str]]:
    """Run ``taut`` to its end with this input: exit status, stdout, stderr."""

    def run_process(*arguments: str, text: str = "", **options: Any) -> tuple[int, str, str]:
        process = start(*arguments, **options)
        out, err = process.popen.communicate(text, timeout=TIMEOUT)
        return process.popen.returncode, out, err

    return run_process


@pytest.fixture(params=["--uvloop", "--no-uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    """The option that chooses the event loop: a test that takes it runs on both."""
    return str(request.param)


@pytest.fixture
def echo_server(start: Callable[..., Process], loop: str) -> str:
    """The URI of a ``taut serve --echo``."""
    process = start("serve", "--echo", "--port", "0", loop)
    return process.wait_for(r"ws://\S+")[0]
