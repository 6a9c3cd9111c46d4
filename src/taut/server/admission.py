"""Who is let in: the limits on connections and opening handshakes, checked before anything is spent on a connection.

``Server`` asks at three points: when a socket was accepted (``admits``, before TLS and before a byte is read), when
trusted proxies have told who is behind them (``enter``), and when the connection is gone (``leave``).  How many there
are is read off the server; what is counted here is what nobody else knows: connections by address, and the rate.

Whoever is refused costs next to nothing: a prepared answer is written, and the socket is kept a moment for the client
to read it, since closing with unread input resets the connection and the answer may be lost.  Only so many sockets are
kept; in a flood the others are closed at once, as are those that wait for TLS, which no plain answer can precede.

An address is a host of IPv4, or a /64 network of IPv6: the addresses within one are free for its owner to take.
"""

from __future__ import annotations

import asyncio
import http
import logging
import socket
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import InvalidMessage
from ..options import check_count, check_number
from .trust import TrustedProxies

if TYPE_CHECKING:
    from .server import Server, serve

__all__ = ["Admission", "Limits"]

_LINGER = 1.0
"""How long a refused client may take to read its answer (seconds)."""
_LINGERING = 64
"""How many refused clients at a time are given that time."""
_DISCARDED = 1 << 16
"""How much of what a refused client sends is read, and forgotten (bytes)."""
_BURST = 5.0
"""How many seconds' worth of ``handshake_rate`` may come at once."""


class Limits:
    """The limits of a server; ``serve`` says what each means. Raises ``TypeError`` or ``ValueError`` for wrong ones."""

    __slots__ = ("handshake_rate", "max_connections", "max_connections_per_address", "max_handshakes")

    def __init__(
        self,
        max_connections: int | None,
        max_connections_per_address: int | None,
        max_handshakes: int | None,
        handshake_rate: float | None,
    ) -> None:
        check_count("max_connections", max_connections, least=1, optional=True)
        check_count("max_connections_per_address", max_connections_per_address, least=1, optional=True)
        check_count("max_handshakes", max_handshakes, least=1, optional=True)
        check_number("handshake_rate", handshake_rate, above=0, optional=True)
        self.max_connections = max_connections
        self.max_connections_per_address = max_connections_per_address
        self.max_handshakes = max_handshakes
        self.handshake_rate = handshake_rate

    def __bool__(self) -> bool:
        return any(getattr(self, name) is not None for name in self.__slots__)


class Admission:
    """The limits of one server, and what has come up against them."""

    def __init__(self, server: Server, settings: serve) -> None:
        self.rejected: Counter[str] = Counter()
        """How many were refused, by the name of the limit."""
        self._server = server
        self._limits = settings.limits
        self._trusted: TrustedProxies = settings.trusted_proxies
        self._secure = settings.ssl is not None
        self._by_address: Counter[bytes] = Counter()
        rate = self._limits.handshake_rate
        self._tokens = self._size = 0.0 if rate is None else max(rate * _BURST, 1.0)
        self._filled_at = server.loop.time()
        self._lingering: set[_Lingering] = set()

    @property
    def is_needed(self) -> bool:
        """Whether there is a limit at all."""
        return bool(self._limits)

    # -- the three points --------------------------------------------------------------------------------------

    def guard(self, accepted: Callable[[socket.socket, Any], None]) -> Callable[[socket.socket, Any], None]:
        """``accepted`` for those that are let in; the others are answered, if they can be, and closed."""

        def guarded(sock: socket.socket, address: Any) -> None:
            limit = self._limit_reached() or self._limit_of(address)
            if limit is None and self._limits.handshake_rate is not None and not self._take_token():
                limit = "handshake_rate"
            if limit is None:
                accepted(sock, address)
            else:
                self._refuse(sock, address, limit)

        return guarded if self.is_needed else accepted

    def enter(self, address: Any) -> bytes | None:
        """Count a connection of this address, which ``leave`` is to be called for if it is not None.

        ``address``: as ``getpeername`` gives it, or a trusted proxy. Raises ``InvalidMessage`` with 429 when it has
        too many.
        """
        if self._limits.max_connections_per_address is None or (key := self._key(address)) is None:
            return None
        if self._limit_of(address) is not None:
            self._reject("max_connections_per_address", address)
            raise InvalidMessage("too many connections from this address", status=429)
        self._by_address[key] += 1
        return key

    def leave(self, key: bytes | None) -> None:
        """A connection that ``enter`` has counted is gone."""
        if key is not None:
            self._by_address[key] -= 1
            if not self._by_address[key]:
                del self._by_address[key]

    # -- the limits --------------------------------------------------------------------------------------------

    def _limit_reached(self) -> str | None:
        limits, handshakes = self._limits, self._server.handshakes
        connections = handshakes + len(self._server.connections_open)
        if limits.max_connections is not None and connections >= limits.max_connections:
            return "max_connections"
        if limits.max_handshakes is not None and handshakes >= limits.max_handshakes:
            return "max_handshakes"
        return None

    def _limit_of(self, address: Any) -> str | None:
        most = self._limits.max_connections_per_address
        if most is None or (key := self._key(address)) is None or self._by_address[key] < most:
            return None
        return "max_connections_per_address"

    def _key(self, address: Any) -> bytes | None:
        """What connections of this address are counted under; None if they are not."""
        if not isinstance(address, tuple) or address in self._trusted:
            return None
        host = str(address[0]).partition("%")[0]  # pyright: ignore[reportUnknownArgumentType]
        try:
            if ":" not in host:
                return socket.inet_pton(socket.AF_INET, host)
            packed = socket.inet_pton(socket.AF_INET6, host)
        except OSError:
            return None
        # A socket for both families sees IPv4 as ::ffff:0:0/96.
        return packed[12:] if packed.startswith(bytes(10) + b"\xff\xff") else packed[:8]

    def _take_token(self) -> bool:
        now = self._server.loop.time()
        self._tokens = min(self._tokens + (now - self._filled_at) * (self._limits.handshake_rate or 0.0), self._size)
        self._filled_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    # -- refusing ----------------------------------------------------------------------------------------------

    def _refuse(self, sock: socket.socket, address: Any, limit: str) -> None:
        self._reject(limit, address)
        if self._secure or len(self._lingering) >= _LINGERING:
            sock.close()
            return
        _Lingering(self._server.loop, sock, _ANSWERS[limit], self._lingering)

    def _reject(self, limit: str, address: Any) -> None:
        self.rejected[limit] += 1
        logger = self._server.logger
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("connection from %s refused: %s", address, limit)

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
        self._left = _DISCARDED
        try:
            sock.send(answer)
            sock.shutdown(socket.SHUT_WR)
        except OSError:  # it is gone already
            sock.close()
            return
        self._timer = loop.call_later(_LINGER, self.end)
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
