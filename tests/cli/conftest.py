"""The ``taut`` command as a process of its own, in which any warning is an error."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import PYTHON, TIMEOUT, Process, RawServer, Serve, Terminal
from websockets.sync.server import ServerConnection, serve


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


@pytest.fixture
def server() -> Iterator[Serve]:
    """Serve with a handler of the ``websockets`` package; gives the URI."""
    running: list[tuple[Any, threading.Thread]] = []

    def start_server(handler: Callable[[ServerConnection], None], **options: Any) -> str:
        instance = serve(handler, "127.0.0.1", 0, **options)
        thread = threading.Thread(target=instance.serve_forever)
        thread.start()
        running.append((instance, thread))
        scheme = "wss" if "ssl" in options else "ws"
        return f"{scheme}://127.0.0.1:{instance.socket.getsockname()[1]}/"

    yield start_server
    for instance, thread in running:
        instance.shutdown()
        thread.join()


@pytest.fixture
def raw_server() -> Iterator[RawServer]:
    instance = RawServer()
    yield instance
    instance.close()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Start ``taut`` with these arguments on a terminal, with a state folder of its own."""
    terminals: list[Terminal] = []

    def start_terminal(
        *arguments: str, command: list[str] | None = None, environment: dict[str, str] | None = None, **streams: Any
    ) -> Terminal:
        environment = {"XDG_STATE_HOME": str(tmp_path / "state")} | (environment or {})
        line = [*(command or [*PYTHON, "-m", "taut"]), *arguments]
        terminals.append(Terminal(line, environment=environment, **streams))
        return terminals[-1]

    yield start_terminal
    for each in terminals:
        each.kill()
