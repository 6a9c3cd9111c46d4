"""Processes of their own that use the blocking API, for tests that send signals, fork and exit."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from threads import RawPeer, RawServer

PRELUDE = """
import sys, time, threading, signal
import taut.sync
def ready():
    print("ready", flush=True)
def interrupted(call, *args, **options):
    ready()
    try:
        call(*args, **options)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    else:
        print("not interrupted", flush=True)
"""


@contextmanager
def running(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs ``script``; it must end by itself, with nothing to complain of."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-X", "dev", "-c", PRELUDE + script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
    )
    try:
        yield process
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
        assert errors == "", errors
    except BaseException as exc:
        process.kill()
        exc.add_note(f"the process says: {process.communicate()[1]}")
        raise
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def interrupt(process: subprocess.Popen[str]) -> None:
    """Ctrl-C, once the call is in progress, which must end at once."""
    assert line(process) == "ready"
    time.sleep(0.2)  # nothing tells from outside that a system call has begun
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert line(process) == "interrupted"
    assert time.monotonic() - begun < 2


@contextmanager
def opened(tcp: RawServer, script: str) -> Iterator[tuple[subprocess.Popen[str], RawPeer]]:
    """The process has a connection ``ws`` to the peer."""
    head = """
ws = taut.sync.connect(sys.argv[1], compression=None, close_timeout=5, ping_interval=None, max_size=None)
"""
    with running(head + script, f"ws://127.0.0.1:{tcp.sock.getsockname()[1]}") as process, tcp.accept() as peer:
        peer.respond()
        yield process, peer
