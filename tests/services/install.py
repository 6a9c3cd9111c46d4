"""What the services are made of: which program is in which package of Debian, and Node's ``ws`` from npm.

``install`` brings what is missing, and nothing is done twice.  nginx, HAProxy, Redis and Dante are packaged as daemons
of the system; on a machine that runs systemd their units are masked before they are installed, so that nothing listens
on a standard port because of us (``systemctl unmask nginx haproxy redis-server danted`` makes them usable).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
NODE = HERE.parents[1] / "build" / "services"
"""Where npm puts ``ws``, which package.json beside this file asks for."""

# tinyproxy-bin is tinyproxy without its daemon
PACKAGES = {
    "tinyproxy": "tinyproxy-bin",
    "danted": "dante-server",
    "nginx": "nginx",
    "haproxy": "haproxy",
    "chromium": "chromium",
    "redis-server": "redis-server",
    "node": "nodejs",
    "npm": "npm",
    "setpriv": "util-linux",
}
NSS_WRAPPER = "libnss-wrapper"
DAEMONS = {
    "nginx": "nginx.service",
    "haproxy": "haproxy.service",
    "dante-server": "danted.service",
    "redis-server": "redis-server.service",
}

_PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"))


class NotInstalled(RuntimeError):
    """Something that the services need is not there."""

    def __init__(self, what: str, package: str) -> None:
        super().__init__(f"{what} is not installed ({package}): run 'make services'")


def program(name: str) -> str:
    """The path of a program; NotInstalled if it is missing."""
    path = shutil.which(name, path=_PATH)
    if path is None:
        raise NotInstalled(name, f"Debian's package {PACKAGES[name]}")
    return path


def nss_wrapper() -> str:
    """The path of the library that shows a program other users than the system's; NotInstalled if it is missing."""
    for folder in (Path("/usr/lib"), Path("/usr/lib64"), Path("/usr/local/lib")):
        for path in (*folder.glob("libnss_wrapper.so*"), *folder.glob("*/libnss_wrapper.so*")):
            return str(path)
    raise NotInstalled("libnss_wrapper.so", f"Debian's package {NSS_WRAPPER}")


def node_modules() -> str:
    """The folder with ``ws`` in the version that package.json names; NotInstalled if it is missing."""
    wanted = json.loads((HERE / "package.json").read_text())["dependencies"]["ws"]
    try:
        found = json.loads((NODE / "node_modules" / "ws" / "package.json").read_text())["version"]
    except FileNotFoundError:
        found = None
    if found != wanted:
        raise NotInstalled(f"ws {wanted}", "from npm")
    return str(NODE / "node_modules")


def is_missing(check: Callable[[], object]) -> bool:
    try:
        check()
    except NotInstalled:
        return True
    return False


def missing_packages() -> list[str]:
    """The packages of Debian that have to be installed."""
    missing = [package for name, package in PACKAGES.items() if is_missing(lambda name=name: program(name))]
    if is_missing(nss_wrapper):
        missing.append(NSS_WRAPPER)
    return missing


def install() -> None:
    """Install what is missing; CalledProcessError or OSError if that fails."""
    if packages := missing_packages():
        print(f"services: installing {' '.join(packages)}", flush=True)
        install_packages(packages)
    if is_missing(node_modules):
        print("services: installing ws for Node", flush=True)
        install_ws()


def install_packages(packages: list[str]) -> None:
    units = [unit for package, unit in DAEMONS.items() if package in packages]
    if units and Path("/run/systemd/system").is_dir():
        print(f"services: masking {' '.join(units)}, which are not to run by themselves", flush=True)
        as_root("systemctl", "mask", *units)
    # Without systemd, invoke-rc.d starts no daemon in a run level that has none.
    quiet = ("env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1")
    apt = ("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300")
    as_root(*apt, "update")
    as_root(*quiet, *apt, "install", "--yes", "--no-install-recommends", *packages)


def install_ws() -> None:
    NODE.mkdir(parents=True, exist_ok=True)
    shutil.copy(HERE / "package.json", NODE)
    quiet = ("--no-audit", "--no-fund", "--no-package-lock", "--no-update-notifier", "--loglevel=error")
    subprocess.run([program("npm"), "install", *quiet], cwd=NODE, stdin=subprocess.DEVNULL, check=True)
    node_modules()


def as_root(*command: str) -> None:
    prefix = () if os.geteuid() == 0 else ("sudo",)
    subprocess.run([*prefix, *command], check=True)
