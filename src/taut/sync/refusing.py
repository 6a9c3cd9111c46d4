"""Refusing connections over a limit, in the thread that accepts: an answer is prepared, and no thread is spent on it.

The socket is kept a moment, in the selector of that thread, for the client to read its answer; in a flood the others
are closed at once.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time

from ..server.refusing import DISCARDED, LINGER, LINGERING, answer_to

__all__ = ["Refusals"]


class Refusals:
    """The refused clients of one accepting thread."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._lingering: dict[socket.socket, float] = {}  # until when, in that order

    def refuse(self, sock: socket.socket, limit: str, *, secure: bool) -> None:
        """Answer as this limit calls for, and close; ``secure``: a client that waits for TLS is told nothing."""
        try:
            if not secure and len(self._lingering) < LINGERING:
                sock.setblocking(False)
                sock.send(answer_to(limit))
                sock.shutdown(socket.SHUT_WR)
                self._selector.register(sock, selectors.EVENT_READ)
                self._lingering[sock] = time.monotonic() + LINGER
                return
        except OSError:  # it is gone already
            pass
        sock.close()

    def __contains__(self, sock: object) -> bool:
        return sock in self._lingering

    def readable(self, sock: socket.socket) -> None:
        """Forget what a refused client sends; close when it has closed."""
        with contextlib.suppress(BlockingIOError, InterruptedError):
            try:
                if sock.recv(DISCARDED):
                    return
            except ConnectionError:
                pass
            self._end(sock)

    def expire(self) -> None:
        """Close those that have had their time."""
        now = time.monotonic()
        for sock in [sock for sock, end in self._lingering.items() if end <= now]:
            self._end(sock)

    def close(self) -> None:
        """Keep nobody any longer."""
        for sock in list(self._lingering):
            self._end(sock)

    def _end(self, sock: socket.socket) -> None:
        del self._lingering[sock]
        self._selector.unregister(sock)
        sock.close()
