"""The ``taut`` command as a process, on pipes or on a terminal of its own, and a server that it can be held against."""

from __future__ import annotations

import base64
import hashlib
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any

PYTHON = [sys.executable, "-X", "dev", "-W", "error"]
TIMEOUT = 30.0


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


class RawServer:
    """A server of one connection that does only what a test tells it."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(30)
        self.uri = f"ws://127.0.0.1:{self.listener.getsockname()[1]}/"
        self.stream: Any = None
        self.sock: Any = None

    def read_request(self) -> bytes:
        self.sock, _ = self.listener.accept()
        self.sock.settimeout(30)
        self.stream = self.sock.makefile("rb")
        lines = []
        while (line := self.stream.readline()) not in (b"\r\n", b""):
            lines.append(line)
        return b"".join(lines)

    def open(self) -> None:
        key = next(
            line for line in self.read_request().split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:")
        )
        accept = hashlib.sha1(key.partition(b":")[2].strip() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        self.sock.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(accept) + b"\r\n\r\n"
        )

    def read_frame(self) -> tuple[int, bytes]:
        """Opcode and payload of a short frame."""
        first, second = self.stream.read(2)
        key = self.stream.read(4)
        payload = bytes(byte ^ key[i % 4] for i, byte in enumerate(self.stream.read(second & 0x7F)))
        return first & 0x0F, payload

    def write_frame(self, opcode: int, payload: bytes) -> None:
        self.sock.sendall(bytes([0x80 | opcode, len(payload)]) + payload)

    def close(self) -> None:
        for closeable in (self.stream, self.sock, self.listener):
            if closeable is not None:
                closeable.close()


Serve = Callable[..., str]
"""Serves with a handler of the ``websockets`` package; gives the URI."""


def talk(run: Any, uri: str, *options: str, **more: Any) -> tuple[int, str, list[str]]:
    status, out, err = run("connect", uri, *options, **more)
    return status, out, err.splitlines()


def listen_to(start: Any, uri: str, *options: str) -> tuple[int, str, list[str]]:
    """Connect with nothing to say, until the server closes."""
    process = start("connect", uri, *options)
    status = process.wait()
    return status, process.popen.stdout.read(), process.popen.stderr.read().splitlines()


class Terminal:
    """A command on a terminal of its own, which controls it: Ctrl-C typed there is a signal."""

    _ATTACH = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    )
    _ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[()][0-9A-Za-z]|[=>])")

    def __init__(self, arguments: list[str], *, environment: dict[str, str], **streams: Any) -> None:
        self._master, slave = pty.openpty()
        environment = os.environ | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"} | environment
        self.popen = subprocess.Popen(
            [sys.executable, "-c", self._ATTACH, *arguments],
            env=environment,
            start_new_session=True,
            **({"stdin": slave, "stdout": slave, "stderr": slave} | streams),
        )
        os.close(slave)
        self.seen = ""
        """What has been printed, escape sequences included."""

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self._master, text.encode())

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Read until what has been printed from here on matches, without escape sequences; what matches is gone."""
        deadline = time.monotonic() + TIMEOUT
        while not (found := re.search(pattern, self.text())):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.text()!r}"
            assert self._read(), f"the command ended without printing {pattern!r}, but {self.text()!r}"
        self.seen = self.text()[found.end() :]
        return found

    def finish(self) -> tuple[int, str]:
        """Wait for the end: exit status, and what was printed since."""
        while self._read():
            pass
        return self.popen.wait(timeout=TIMEOUT), self.text()

    def text(self) -> str:
        """What has been printed, without escape sequences and carriage returns."""
        return self._ESCAPE.sub("", self.seen).replace("\r", "")

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], TIMEOUT)
        assert ready, f"nothing more is printed after {self.seen!r}"
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has the terminal open any more
            data = b""
        self.seen += data.decode("utf-8", "replace")
        return bool(data)

    def kill(self) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(timeout=TIMEOUT)
        os.close(self._master)
