"""Tells systemd how the service is: ready, reloading, stopping, still alive; see sd_notify(3).

Each message is one datagram to the socket that ``NOTIFY_SOCKET`` names.  Nothing is sent where the variable is not set,
and nothing ever fails because of it: a service does not end because nobody listens to what it says of itself.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress

__all__ = ["Notifier"]

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Notifier:
    """What to tell, and whom; takes its variables out of ``environment``, so that no other process speaks as well."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        address, interval, process = (environment.pop(name, "") for name in _VARIABLES)
        # An abstract address is written with an @ in the place of its zero byte.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        mine = process in ("", str(os.getpid()))
        self.watchdog: float | None = int(interval) / 2e6 if address and mine and interval.isdecimal() else None
        """How often ``alive`` is to be called: in half the time after which systemd gives up (seconds)."""

    def ready(self, status: str) -> None:
        """It serves, or has reloaded."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """It reloads; ``ready`` ends that. The time is what ``Type=notify-reload`` wants to know."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """It ends."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """It has not hung."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(lines).encode(), self._address)
