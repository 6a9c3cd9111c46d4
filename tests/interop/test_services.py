"""The services themselves: where they listen, that they end with whoever started them, that one says why it cannot."""

from __future__ import annotations

import ast
import contextlib
import itertools
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
SERVICES = 10


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
        assert len(ports) == SERVICES
        assert all(accepts(port) for port in ports)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    wait_until_closed(ports)
    assert not list(tmp_path.iterdir())


def processes_of(first: int) -> set[int]:
    """A process and all that it has started, and so on."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found: set[int] = set()
    more = {first}
    while more:
        found |= more
        more = {child for child, parent in parents.items() if parent in more} - found
    return found


def listening(processes: set[int]) -> set[tuple[str, int]]:
    """The address, as the kernel writes it, and the port of every TCP socket that one of these listens on."""
    inodes: set[str] = set()
    for process in processes:
        for file in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):
                inodes |= set(re.findall(r"^socket:\[(\d+)\]$", os.readlink(file)))
    found: set[tuple[str, int]] = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and rest[5] in inodes:
                address, _, port = local.partition(":")
                found.add((address, int(port, 16)))
    return found


LOOPBACK = "0100007F"


def test_they_listen_on_loopback_at_ports_that_the_kernel_chose_and_nowhere_else(tmp_path: Path) -> None:
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    with all_services(tmp_path) as (process, ports):
        found = listening(processes_of(process.pid))
        process.send_signal(signal.SIGINT)
        process.wait(20)
    assert found == {(LOOPBACK, port) for port in ports}
    assert len(ports) == SERVICES
    assert all(first <= port <= last for port in ports)


LISTENERS = {"serve", "unix_serve", "create_server", "start_server", "serve_forever", "bind", "TCPSite", "listen"}


def fixed_ports(path: Path) -> Iterator[str]:
    """Calls that listen somewhere, and name a port by its number; no host is called .invalid (RFC 6761, 6.4)."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name not in LISTENERS:
            continue
        given = [*node.args, *(keyword.value for keyword in node.keywords if keyword.arg in ("port", "address"))]
        places = [given, *(each.elts for each in given if isinstance(each, ast.Tuple))]
        for place in places:
            for host, port in itertools.pairwise(each.value for each in place if isinstance(each, ast.Constant)):
                if isinstance(host, str) and isinstance(port, int) and port and not host.endswith(".invalid"):
                    yield f"{path.name}:{node.lineno}"


def test_no_test_listens_on_a_port_of_its_own_choice() -> None:
    files = [path for path in TESTS.rglob("*.py") if "conformance" not in path.parts]
    assert len(files) > 100
    assert [place for path in files for place in fixed_ports(path)] == []


def test_nothing_outlives_a_run_that_is_killed(tmp_path: Path) -> None:
    with all_services(tmp_path) as (process, ports):
        assert len(ports) == SERVICES
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
