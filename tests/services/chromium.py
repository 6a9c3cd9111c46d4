"""Chromium without a window: a browser for the tests of what browsers do, driven through its debugging port.

It chooses that port by itself and writes it into its profile, which lies in the service's folder and is gone with it.
Names under ``.test`` (RFC 6761, section 6.2) lead to 127.0.0.1, so that there are sites to be of: ``a.site.test`` and
``b.site.test`` are the same site, ``other.test`` is another.  Certificates of certificates.authority() are trusted.
"""

from __future__ import annotations

import json
import time

from .certificates import authority_pin
from .install import program
from .processes import START_TIMEOUT, Service

_FLAGS = (
    "--headless=new",
    "--no-sandbox",  # which root cannot have, and many containers cannot
    "--disable-dev-shm-usage",  # 64 MiB of /dev/shm is what a container has
    "--disable-gpu",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-crash-reporter",
    "--disable-sync",
    # These ask the person in front of the screen before a page may reach an address of this machine.
    "--disable-features=LocalNetworkAccessChecks,LocalNetworkAccessChecksWebSockets",
    "--host-resolver-rules=MAP *.test 127.0.0.1",
    "--remote-debugging-port=0",
)

# Profiles that are not kept withhold cookies from other sites, whatever the cookies say; those of users do not.
_PREFERENCES = {"profile": {"cookie_controls_mode": 0}}


class Chromium(Service):
    """A browser; ``devtools`` is the WebSocket address that takes commands (see tests/browser.py)."""

    name = "chromium"

    def __init__(self) -> None:
        super().__init__()
        self._path = ""

    @property
    def devtools(self) -> str:
        return f"ws://{self.host}:{self.port}{self._path}"

    def command(self) -> list[str]:
        preferences = self.folder / "profile" / "Default" / "Preferences"
        preferences.parent.mkdir(parents=True)
        preferences.write_text(json.dumps(_PREFERENCES))
        flags = [
            f"--user-data-dir={self.folder / 'profile'}",
            f"--ignore-certificate-errors-spki-list={authority_pin()}",
        ]
        return [program("chromium"), *_FLAGS, *flags, "about:blank"]

    def environment(self) -> dict[str, str]:
        folder = str(self.folder)
        return {
            "HOME": folder,
            "XDG_CONFIG_HOME": folder,
            "XDG_CACHE_HOME": folder,
            "DBUS_SESSION_BUS_ADDRESS": "disabled:",
            # The folder again: the address of a Unix socket that is made in it has room for 107 bytes.
            "TMPDIR": "/proc/self/cwd",
        }

    def _ready(self) -> bool:
        assert self._process is not None
        chosen = self.folder / "profile" / "DevToolsActivePort"
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                return False
            if chosen.exists() and len(lines := chosen.read_text().splitlines()) == 2:
                self.port, self._path = int(lines[0]), lines[1]
                return True
            time.sleep(0.02)
        return False
