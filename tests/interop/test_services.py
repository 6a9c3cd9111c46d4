"""The services themselves: they end with whoever started them, and one that cannot be started says why."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from services import Dante, Nginx, ServiceError, install
from services.processes import accepts

pytestmark = pytest.mark.parametrize("loop_name", ["asyncio"])  # there is none in it

TESTS = Path(__file__).resolve().parents[1]


@contextmanager
def all_services(folder: Path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """What ``make services`` runs, and the ports that it prints."""
    command = [sys.executable, "-m", "services", "start"]
    environment = os.environ | {"TMPDIR": str(folder)}
    with subprocess.Popen(command, cwd=TESTS, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ports = []
            for line in process.stdout:
                if line.startswith("services: running"):
                    break
                ports += [int(port) for port in re.findall(r":(\d+)/?$", line)]
            yield process, ports
        finally:
            process.kill()


def wait_until_closed(ports: list[int]) -> None:
    deadline = time.monotonic() + 10
    while still := [port for port in ports if accepts(port)]:
        assert time.monotonic() < deadline, f"still there: {still}"
        time.sleep(0.02)


def test_interrupted_they_are_stopped_and_leave_nothing(tmp_path: Path) -> None:
    with all_services(tmp_path) as (process, ports):
        assert len(ports) == 8
        assert all(accepts(port) for port in ports)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    wait_until_closed(ports)
    assert not list(tmp_path.iterdir())


def test_nothing_outlives_a_run_that_is_killed(tmp_path: Path) -> None:
    with all_services(tmp_path) as (process, ports):
        assert len(ports) == 8
        process.kill()
    wait_until_closed(ports)


def test_one_that_does_not_start_shows_its_log() -> None:
    with pytest.raises(ServiceError, match=r'nginx did not start(.|\n)*unknown directive "nonsense"'):
        Nginx(9, prefix="/ { } nonsense;").start()


def test_one_that_is_not_installed_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(install, "_PATH", str(tmp_path))
    with pytest.raises(install.NotInstalled, match=r"not installed .Debian's package [a-z-]*.: run 'make services'"):
        Dante().start()
    assert install.missing_packages() == list(install.PACKAGES.values())


def test_ws_in_another_version_is_not_the_one_that_is_wanted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(install, "NODE", tmp_path)
    found = tmp_path / "node_modules" / "ws" / "package.json"
    with pytest.raises(install.NotInstalled, match=r"ws [0-9.]* is not installed \(from npm\)"):
        install.node_modules()
    found.parent.mkdir(parents=True)
    found.write_text('{"version": "0.0.1"}')
    with pytest.raises(install.NotInstalled, match="ws"):
        install.node_modules()
