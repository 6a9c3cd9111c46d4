"""Connecting a non-blocking socket, the same way on every event loop."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from typing import Any

from ...drivers.transports import watches_descriptors
from .addresses import IP_FAMILIES

__all__ = ["connect_socket"]

_NEXT_KNOCK, _LAST_KNOCK = 0.01, 0.25
"""Pauses between attempts at a Unix socket whose backlog is full: the first, doubled up to the last (seconds)."""


async def connect_socket(loop: asyncio.AbstractEventLoop, sock: socket.socket, sockaddr: Any) -> None:
    """Connect a non-blocking socket.

    Not by ``loop.sock_connect``: uvloop's forgets the zone of an IPv6 address, and asyncio's takes a Unix socket for
    connected when the server's backlog is full.
    """
    if sock.family not in IP_FAMILIES:
        await _knock(sock, sockaddr)
        return
    if not watches_descriptors(loop):
        await loop.sock_connect(sock, sockaddr)
        return
    try:
        sock.connect(sockaddr)
    except (BlockingIOError, InterruptedError):  # either way it goes on in the background
        await _writable(loop, sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code)) from None
    if _is_connected_to_itself(sock):
        raise OSError(errno.ECONNREFUSED, "nobody listens there: the socket was connected to itself")


async def _writable(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
    event = asyncio.Event()
    loop.add_writer(sock, event.set)
    try:
        await event.wait()
    finally:
        loop.remove_writer(sock)  # before anybody closes it: uvloop needs the descriptor for that


async def _knock(sock: socket.socket, path: str) -> None:
    """Connect a Unix socket, which succeeds or fails at once; nothing tells when a full backlog has room again."""
    pause = _NEXT_KNOCK
    while True:
        try:
            sock.connect(path)
            return
        except BlockingIOError:
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LAST_KNOCK)


def _is_connected_to_itself(sock: socket.socket) -> bool:
    """Whether TCP found its own port: it happens on loopback, when that was free, and the server is down."""
    try:
        return bool(sock.getsockname() == sock.getpeername())
    except OSError:  # reset already, as will be seen
        return False
