"""``taut serve`` as a process, watched while it runs: its output is read by threads, and waited for by pattern."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import IO, Any

from commands import PYTHON, TIMEOUT

APP = """
import os

async def handler(ws):
    async for message in ws:
        await ws.send(f"{os.getpid()} {message}")
"""
"""Answers with its process and the message."""


class Supervised:
    """A running ``taut serve`` with these arguments, in the folder of its application."""

    def __init__(self, folder: Path, *arguments: str, command: list[str] | None = None, **options: Any) -> None:
        self.popen = subprocess.Popen(
            [*(command or [*PYTHON, "-m", "taut", "serve"]), *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            **options,
        )
        self._lines: list[str] = []
        self._news = threading.Condition()
        streams: list[IO[str] | None] = [self.popen.stdout, self.popen.stderr]
        self._readers = [threading.Thread(target=self._read, args=(stream,)) for stream in streams]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                with self._news:
                    self._lines.append(line)
                    self._news.notify_all()

    @property
    def text(self) -> str:
        """Everything it has printed, log and all."""
        with self._news:
            return "".join(self._lines)

    def wait_for(self, pattern: str, times: int = 1) -> list[re.Match[str]]:
        """The lines that match, once there are so many of them."""
        deadline = time.monotonic() + TIMEOUT
        with self._news:
            while True:
                found = [match for line in self._lines if (match := re.search(pattern, line))]
                if len(found) >= times:
                    return found
                left = deadline - time.monotonic()
                assert left > 0, f"no {pattern!r} in:\n{''.join(self._lines)}"
                self._news.wait(left)

    @property
    def uri(self) -> str:
        """Where it serves, once it does."""
        return self.wait_for(r" on (wss?://\S+)")[0][1]

    def workers(self, times: int = 1) -> list[int]:
        """The processes of workers that have begun to serve, in that order, once there are so many."""
        return [int(found[1]) for found in self.wait_for(r"worker \d+ \((\d+)\) serves", times)]

    def interrupt(self, number: int) -> None:
        self.popen.send_signal(number)

    def finish(self, number: int | None = signal.SIGTERM) -> int:
        """Wait for the end, after this signal: the exit status."""
        if number is not None:
            self.interrupt(number)
        status = self.popen.wait(TIMEOUT)
        for reader in self._readers:
            reader.join(TIMEOUT)
            assert not reader.is_alive(), "somebody still has its output"
        return status

    def kill(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait(TIMEOUT)
        for reader in self._readers:
            reader.join(TIMEOUT)


def is_there(process: int) -> bool:
    """Whether there is such a process, and it is more than an entry in a table."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(process: int) -> None:
    """Wait for the end of a process that is not a child of this one."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], TIMEOUT)[0], f"{process} is still there"
    finally:
        os.close(descriptor)
