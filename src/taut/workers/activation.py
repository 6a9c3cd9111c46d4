"""Listening sockets that somebody else has opened: systemd, which hands them over at the start, or a parent process.

systemd passes them as the descriptors from 3 on, and says in the environment how many (``LISTEN_FDS``) and for which
process (``LISTEN_PID``); see sd_listen_fds(3).  The variables are removed, so that no process started from this one
takes its own descriptors for them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, MutableMapping

__all__ = ["adopt", "inherited_descriptors"]

_FIRST = 3
_VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")


def inherited_descriptors(environment: MutableMapping[str, str]) -> list[int]:
    """The descriptors that systemd has handed over to this process; none if it has not. Changes ``environment``."""
    count, process, _ = (environment.pop(name, "") for name in _VARIABLES)
    if process != str(os.getpid()) or not count.isdecimal():
        return []
    return list(range(_FIRST, _FIRST + int(count)))


def adopt(descriptors: Iterable[int]) -> list[socket.socket]:
    """The sockets behind these descriptors, which belong to them from now on and are not inherited any further.

    Raises ``ValueError`` for what is not a bound stream socket that can listen; nothing is closed then.
    """
    sockets: list[socket.socket] = []
    try:
        sockets.extend(_adopted(descriptor) for descriptor in descriptors)  # those before one that fails are kept
    except BaseException:
        for sock in sockets:
            sock.detach()
        raise
    return sockets


def _adopted(descriptor: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as exc:
        raise ValueError(f"descriptor {descriptor} is not a socket: {os.strerror(exc.errno or 0).lower()}") from None
    try:
        if sock.type != socket.SOCK_STREAM or sock.family not in _FAMILIES:
            raise ValueError(f"descriptor {descriptor} is not a stream socket of TCP or of Unix")
        if _is_connected(sock):
            raise ValueError(
                f"descriptor {descriptor} is a connection, not a listening socket; with systemd: Accept=no"
            )
    except ValueError:
        sock.detach()
        raise
    sock.set_inheritable(False)
    return sock


_FAMILIES = {socket.AF_INET, socket.AF_INET6, getattr(socket, "AF_UNIX", socket.AF_INET)}


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
