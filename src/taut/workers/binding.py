"""The listening sockets of all workers.

They are opened by the process that stays, and stay open with it: a worker gets duplicates, and closes no more than
those.  What has been accepted by the kernel and by nobody else yet thus outlives the worker, whether it is replaced,
crashes or is killed, and waits for the next one; a client notices nothing.  Were the socket the worker's own, the
kernel would reset these connections together with it.

For TCP on Linux each worker has a socket of its own (SO_REUSEPORT): the kernel deals connections out by a hash of their
addresses, which is even, wakes one process for each, and does not favour the one that happens to be awake.  All other
sockets (Unix, handed over by systemd, other systems) are one for all workers; then whichever is awake first accepts.
Of 400 connections, four workers with sockets of their own got 88 to 116 each, with one for all 17 to 192.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..server.listening import AddressInfo, bind_all, bind_unix

__all__ = ["Binding", "bind_shared", "bind_tcp", "bind_unix_path"]


@dataclass
class Binding:
    """Bound sockets: those of each worker, most often one; the same ones where they are shared."""

    slots: list[list[socket.socket]]
    path: str | None = None
    """The socket file to remove at the end."""
    inherited: bool = False
    """Whether somebody else has them as well, and will go on accepting on them."""
    metrics: list[socket.socket] = field(default_factory=list[socket.socket])
    """Where the process at the top shows metrics."""
    _file: tuple[int, int] | None = field(default=None, repr=False)
    _addresses: list[AddressInfo] = field(default_factory=list[AddressInfo], repr=False)

    @property
    def sockets(self) -> list[socket.socket]:
        """One of each address."""
        return next(slot for slot in self.slots if slot)

    def vacate(self, number: int) -> None:
        """Close the sockets of a worker that is not there and will not be soon, if they are its own.

        The kernel then deals connections out to the others, rather than to a queue where nobody takes them from.
        """
        held = [slot for slot in self.slots if slot]
        if not self.inherited and self.slots[number] and len(held) > 1 and held[0] is not held[1]:
            self._addresses = [(sock.family, sock.type, sock.proto, "", sock.getsockname()) for sock in held[0]]
            for sock in self.slots[number]:
                sock.close()
            self.slots[number] = []

    def renew(self, number: int) -> None:
        """Open them again. Raises ``OSError``."""
        if not self.slots[number]:
            self.slots[number] = bind_all(self._addresses, True)

    def close(self) -> None:
        """Close all of them, and remove the socket file if it is still the one that was made here."""
        for sockets in self.slots:
            for sock in sockets:
                sock.close()
        if self.path is not None and self._file == _identity(self.path):
            with suppress(OSError):
                os.unlink(self.path)


def bind_tcp(hosts: Sequence[str | None], port: int, slots: int) -> Binding:
    """Sockets for each address of these names. Raises ``OSError``, and then none is left.

    ``slots``: for how many workers. Where the first of them has bound its socket, so do the others, for it allows that
    only afterwards: a second server on the same port fails, as it would without workers.
    """
    found: dict[AddressInfo, None] = {}
    for host in hosts:
        found |= dict.fromkeys(socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))
    first = bind_all(found, False)
    binding = Binding([first])
    if slots > 1 and sys.platform == "linux":
        try:
            for sock in first:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            for _ in range(slots - 1):
                binding.slots.append([])
                for sock in first:
                    again = (sock.family, sock.type, sock.proto, "", sock.getsockname())
                    binding.slots[-1] += bind_all([again], True)
        except BaseException:
            binding.close()
            raise
    else:
        binding.slots *= slots
    return binding


def bind_unix_path(path: str, slots: int) -> Binding:
    """A Unix socket for all workers; a stale socket file is replaced. Raises ``OSError``."""
    sock = bind_unix(path)
    abstract = path.startswith("\0")
    return Binding([[sock]] * slots, None if abstract else path, _file=None if abstract else _identity(path))


def bind_shared(sockets: list[socket.socket], slots: int) -> Binding:
    """Sockets that are there already, for all workers.

    Of sockets at one address (``ReusePort=yes`` of systemd) each worker gets its share, if there are enough of them.
    """
    groups: dict[Any, list[socket.socket]] = {}
    for sock in sockets:
        groups.setdefault((sock.family, sock.getsockname()), []).append(sock)
    shares = [
        [sock for group in groups.values() for sock in (group[number::slots] if len(group) >= slots else group)]
        for number in range(slots)
    ]
    return Binding(shares, inherited=True)


def _identity(path: str) -> tuple[int, int] | None:
    """What tells one socket file from another; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None
