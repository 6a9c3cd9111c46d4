"""The application, the units of systemd and the container of the documentation, as far as they can be had without both.

What they start is started as they say, with what systemd would give it: the socket, a place for notifications, signals.
"""

from __future__ import annotations

import asyncio
import configparser
import json
import os
import re
import shlex
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import PYTHON
from pages import BLOCKS, DOCS
from supervised import Supervised

import taut

Start = Callable[..., Supervised]
KILLED_AFTER = 10
"""Seconds after the drain that workers have (docs/workers.md)."""

EXECUTE = """
import os, sys
descriptor, *command = sys.argv[1:]
os.dup2(int(descriptor), 3)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execvp(command[0], command)
"""
"""The last that systemd does in the process of a service: the socket is descriptor 3, for this process and no other."""


def block(info: str, holding: str = "") -> str:
    (found,) = [
        each for each in BLOCKS if each.page == DOCS / "deployment.md" and each.info == info and holding in each.text
    ]
    return found.text


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(block("systemd", f"# /etc/systemd/system/{name}"))
    return parser


def drain_of(command: list[str]) -> float:
    return float(command[command.index("--drain") + 1])


def command_of_the_container() -> list[str]:
    (line,) = re.findall(r"^CMD (.+)$", block("dockerfile").replace("\\\n", ""), re.MULTILINE)
    command: list[str] = json.loads(line)
    return command


@pytest.fixture
def deployed(app: Path) -> Path:
    """The folder of the application of the page."""
    app.write_text(block("python", "health_routes"))
    return app.parent


async def talk(port: int) -> None:
    async with taut.connect(f"ws://127.0.0.1:{port}/ws/chat/kitchen") as ws:
        await ws.send("hello")
        assert await ws.recv() == "hello"


def status_of(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as exc:
        with exc:
            return int(exc.code)


class Systemd:
    """Opens the socket, and takes notifications."""

    def __init__(self, folder: Path) -> None:
        address, _, _ = unit("chat.socket")["Socket"]["ListenStream"].partition(":")
        self.listening = socket.create_server((address, 0), backlog=unit("chat.socket")["Socket"].getint("Backlog"))
        self.port = int(self.listening.getsockname()[1])
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notified.bind(str(folder / "notify"))
        self.notified.settimeout(30)
        self.environment = os.environ | {"LISTEN_FDS": "1", "NOTIFY_SOCKET": str(folder / "notify")}
        self.execute = [sys.executable, "-c", EXECUTE, str(self.listening.fileno())]

    def wait_for(self, line: str, process: Supervised) -> None:
        try:
            while line not in self.notified.recv(4096).decode().splitlines():
                pass
        except TimeoutError:
            raise AssertionError(f"no {line} from:\n{process.text}") from None

    def close(self) -> None:
        self.listening.close()
        self.notified.close()


def test_the_units_of_systemd(deployed: Path, start: Start) -> None:
    service = unit("chat.service")["Service"]
    program, *arguments = shlex.split(service["ExecStart"])
    assert program == "/srv/chat/bin/taut"
    arguments[arguments.index("/srv/chat")] = str(deployed)
    assert drain_of(arguments) + KILLED_AFTER < service.getfloat("TimeoutStopSec")
    systemd = Systemd(deployed)
    try:
        command = [*systemd.execute, *PYTHON, "-m", "taut"]
        process = start(*arguments, command=command, env=systemd.environment, pass_fds=[systemd.listening.fileno()])
        systemd.wait_for("READY=1", process)
        asyncio.run(talk(systemd.port))
        assert status_of(systemd.port, "/readyz") == 200
        assert shlex.split(service["ExecReload"]) == ["/bin/kill", "-HUP", "$MAINPID"]
        process.interrupt(signal.SIGHUP)
        systemd.wait_for("RELOADING=1", process)
        systemd.wait_for("READY=1", process)
        asyncio.run(talk(systemd.port))
        process.interrupt(signal.SIGTERM)
        systemd.wait_for("STOPPING=1", process)
        assert process.finish(None) == 0
        assert len(process.workers()) == 8  # four, and four that took their places
    finally:
        systemd.close()


def test_the_container(deployed: Path, start: Start) -> None:
    """SIGTERM while somebody is connected: not ready any more, alive, 1012, and done in the time that there is."""
    program, *arguments = command_of_the_container()
    assert program == "taut"
    assert drain_of(arguments) + KILLED_AFTER < 45
    assert "docker stop -t 45" in (DOCS / "deployment.md").read_text()
    here = {"0.0.0.0": "127.0.0.1", "9090": "0"}
    arguments = [here.get(argument, argument) for argument in arguments]
    process = start(*arguments, "--port", "0", command=[*PYTHON, "-m", "taut"])
    port = int(process.wait_for(r"on ws://127\.0\.0\.1:(\d+)/")[0][1])
    apart = int(process.wait_for(r"metrics on http://127\.0\.0\.1:(\d+)/")[0][1])
    for each in (port, apart):
        assert (status_of(each, "/readyz"), status_of(each, "/healthz")) == (200, 200)
    assert (status_of(port, "/metrics"), status_of(apart, "/metrics")) == (404, 200)

    async def stopped() -> taut.CloseInfo:
        async with taut.connect(f"ws://127.0.0.1:{port}/ws/chat/kitchen") as ws:
            await ws.send("hello")
            assert await ws.recv() == "hello"
            process.interrupt(signal.SIGTERM)
            await ws.wait_closed()
            assert ws.close_info is not None
            return ws.close_info

    info = asyncio.run(stopped())
    assert (info.initiator, info.code, info.clean) == (taut.Initiator.REMOTE, 1012, True)
    assert process.finish(None) == 0
    for line in process.text.splitlines():
        if line.startswith("{"):
            assert json.loads(line)["level"] == "INFO"


def test_the_pod_has_time_to_drain() -> None:
    pod, container = block("yaml"), block("dockerfile")
    grace, wait = (
        float(re.findall(pattern, pod)[0]) for pattern in (r"GracePeriodSeconds: (\d+)", r'"sleep", "(\d+)"')
    )
    command = command_of_the_container()
    assert wait + drain_of(command) + KILLED_AFTER < grace
    assert set(re.findall(r"path: (/\w+)", pod)) == {"/readyz", "/healthz"}
    (exposed,) = re.findall(r"^EXPOSE (.+)$", container, re.MULTILINE)
    assert re.findall(r"containerPort: (\d+)", pod) == exposed.split() == ["8765", "9090"]
    assert set(re.findall(r"\bport: (\d+)", pod)) == {command[command.index("--metrics-port") + 1]} == {"9090"}
