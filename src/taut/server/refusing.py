"""Refusing a connection that has just been accepted, at next to no cost.

A prepared answer is written, and the socket is kept a moment for the client to read it, since closing with unread input
resets the connection and the answer may be lost.  Only so many sockets are kept; in a flood the others are closed at
once.
"""

from __future__ import annotations

import asyncio
import http
import socket

__all__ = ["DISCARDED", "LINGER", "LINGERING", "Refusals", "answer_to"]

LINGER = 1.0
"""How long a refused client may take to read its answer (seconds)."""
LINGERING = 64
"""How many refused clients at a time are given that time."""
DISCARDED = 1 << 16
"""How much of what a refused client sends is read, and forgotten (bytes)."""


class Refusals:
    """The refused clients of one server that have their answer to read."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lingering: set[_Lingering] = set()

    def __len__(self) -> int:
        return len(self._lingering)

    def refuse(self, sock: socket.socket, limit: str) -> None:
        """Answer as this limit calls for, and close."""
        if len(self._lingering) >= LINGERING:
            sock.close()
            return
        _Lingering(self._loop, sock, answer_to(limit), self._lingering)

    def close(self) -> None:
        """Keep nobody waiting any longer."""
        for lingering in list(self._lingering):
            lingering.end()


class _Lingering:
    """A refused client that has its answer to read."""

    __slots__ = ("_all", "_left", "_loop", "_sock", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, sock: socket.socket, answer: bytes, everyone: set[_Lingering]
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._all = everyone
        self._left = DISCARDED
        try:
            sock.send(answer)
            sock.shutdown(socket.SHUT_WR)
        except OSError:  # it is gone already
            sock.close()
            return
        self._timer = loop.call_later(LINGER, self.end)
        loop.add_reader(sock.fileno(), self._readable)
        everyone.add(self)

    def _readable(self) -> None:
        try:
            data = self._sock.recv(4096)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        self._left -= len(data)
        if not data or self._left < 0:
            self.end()

    def end(self) -> None:
        """Close the connection."""
        self._all.discard(self)
        self._timer.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()


def _answer(status: http.HTTPStatus, retry_after: int) -> bytes:
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nRetry-After: {retry_after}\r\n"
        "Connection: close\r\nContent-Length: 0\r\n\r\n"
    ).encode()


_ANSWERS = {
    "max_connections": _answer(http.HTTPStatus.SERVICE_UNAVAILABLE, 5),
    "max_connections_per_address": _answer(http.HTTPStatus.TOO_MANY_REQUESTS, 5),
    "max_handshakes": _answer(http.HTTPStatus.SERVICE_UNAVAILABLE, 1),
    "handshake_rate": _answer(http.HTTPStatus.SERVICE_UNAVAILABLE, 1),
}


def answer_to(limit: str) -> bytes:
    """What somebody is told who is over this limit."""
    return _ANSWERS[limit]
