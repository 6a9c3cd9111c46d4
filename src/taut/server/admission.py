"""Who is let in: the limits on connections and opening handshakes, checked before anything is spent on a connection.

``Server`` asks at four points: when a socket was accepted (``guard``, before TLS and before a byte is read), when
trusted proxies have told who is behind them (``enter``), when it is known whose a connection is that is about to open
(``open``), and when it is gone (``closed`` and ``leave``).  How many there are is read off the server; what is counted
here is what nobody else knows: connections by address and by user, and the rate.

Whoever is refused at the first point costs next to nothing: a prepared answer, no more than so many times at once; with
TLS, which no plain answer can precede, not even that.

An address is a prefix of it: all of IPv4's, and a /64 network of IPv6, whose addresses are free for its owner to take.
"""

from __future__ import annotations

import logging
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InvalidMessage
from ..options import check_count, check_number
from .bucket import TokenBucket
from .refusing import Refusals
from .shared import Ledger, RedisLimits, Sharing
from .trust import TrustedProxies
from .users import UserKey, UserLimit, Users

if TYPE_CHECKING:
    from .connection import ServerConnection
    from .routing import Route
    from .server import Server
    from .serving import serve

__all__ = ["Admission", "Limits"]


class Limits:
    """The limits of a server; ``serve`` says what each means. Raises ``TypeError`` or ``ValueError`` for wrong ones."""

    __slots__ = (
        "address_prefix",
        "handshake_rate",
        "max_connections",
        "max_connections_per_address",
        "max_connections_per_user",
        "max_handshakes",
        "shared_limits",
        "user_key",
        "user_policy",
        "users",
    )

    def __init__(
        self,
        *,
        max_connections: int | None,
        max_connections_per_address: int | None,
        max_connections_per_user: int | None,
        max_handshakes: int | None,
        handshake_rate: float | None,
        address_prefix: Sequence[int],
        user_key: Callable[[Any], UserKey | None] | None,
        user_policy: str,
        shared_limits: RedisLimits | None,
    ) -> None:
        check_count("max_connections", max_connections, least=1, optional=True)
        check_count("max_connections_per_address", max_connections_per_address, least=1, optional=True)
        check_count("max_handshakes", max_handshakes, least=1, optional=True)
        check_number("handshake_rate", handshake_rate, above=0, optional=True)
        self.max_connections = max_connections
        self.max_connections_per_address = max_connections_per_address
        self.max_handshakes = max_handshakes
        self.handshake_rate = handshake_rate
        self.address_prefix = _check_prefixes(address_prefix)
        self.users = UserLimit(max_connections_per_user, user_key, user_policy)
        self.max_connections_per_user = max_connections_per_user
        self.user_key = user_key
        self.user_policy = user_policy
        if shared_limits is not None and not isinstance(shared_limits, RedisLimits):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"shared_limits must be RedisLimits or None, not {shared_limits!r}")
        if shared_limits is not None and shared_limits.max_connections_per_user is not None and self.users.replaces:
            raise ValueError("user_policy='replace' and max_connections_per_user of shared_limits exclude each other")
        self.shared_limits = shared_limits

    @property
    def guards(self) -> bool:
        """Whether there is a limit for connections that have just been accepted."""
        limits = (self.max_connections, self.max_connections_per_address, self.max_handshakes, self.handshake_rate)
        return any(limit is not None for limit in limits)


def _check_prefixes(value: Any) -> tuple[int, int]:
    """``address_prefix``: how many bits, of IPv4 and of IPv6."""
    wanted = "address_prefix must be two numbers of bits, up to 32 for IPv4 and up to 128 for IPv6"
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise TypeError(f"{wanted}, not {value!r}")
    bits: list[Any] = list(value)  # pyright: ignore[reportUnknownArgumentType]
    if any(isinstance(each, bool) or not isinstance(each, int) for each in bits):
        raise TypeError(f"{wanted}, not {value!r}")
    if len(bits) != 2 or not (1 <= bits[0] <= 32 and 1 <= bits[1] <= 128):
        raise ValueError(f"{wanted}, not {value!r}")
    return bits[0], bits[1]


class Admission:
    """The limits of one server, and what has come up against them."""

    def __init__(self, server: Server, settings: serve) -> None:
        self.rejected: Counter[str] = Counter()
        """How many were refused, by the name of the limit."""
        self.turned_away = 0
        """How many of them before anything was read, which is no handshake that ended in some way."""
        self._server = server
        self._limits = settings.limits
        self._trusted: TrustedProxies = settings.trusted_proxies
        self._secure = settings.ssl is not None
        self._by_address: Counter[bytes] = Counter()
        rate = self._limits.handshake_rate
        self._bucket = None if rate is None else TokenBucket(rate, server.loop.time())
        self._by_route: Counter[Route] = Counter()
        self._users = Users(self._limits.users)
        self._refusals = Refusals(server.loop)
        self.sharing: Sharing | None = None
        if (shared := self._limits.shared_limits) is not None:
            ledger = Ledger(shared, server.loop, server.logger)
            self.sharing = Sharing(shared, ledger, users=self._limits.users, address_key=self._key, reject=self._reject)

    @property
    def is_needed(self) -> bool:
        """Whether there is a limit for connections that have just been accepted."""
        return self._limits.guards

    # -- the four points --------------------------------------------------------------------------------------

    def guard(self, accepted: Callable[[socket.socket, Any], None]) -> Callable[[socket.socket, Any], None]:
        """``accepted`` for those that are let in; the others are answered, if they can be, and closed."""

        def guarded(sock: socket.socket, address: Any) -> None:
            limit = self._limit_reached() or self._limit_of(address)
            if limit is None and self._bucket is not None and not self._bucket.take(self._server.loop.time()):
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

    def open(self, connection: ServerConnection) -> None:
        """Count this connection, which is about to open, by its route and its user, until ``closed`` is called.

        Raises ``InvalidMessage`` with 503 when its route has too many; the rest is as for ``identify``.
        """
        route, most = _limited_route(connection)
        if route is not None and self._by_route[route] >= most:
            self._reject("max_connections_of_route", connection.remote_address)
            raise InvalidMessage("too many connections", status=503)
        self.identify(connection)
        if route is not None:
            self._by_route[route] += 1

    def leave_shared(self, connection: ServerConnection) -> None:
        """This connection needs nothing any more of what is shared with other servers."""
        if self.sharing is not None:
            self.sharing.leave(connection)

    def identify(self, connection: ServerConnection) -> None:
        """Count this connection, of which it is known now whose it is, by its user, until ``closed`` is called.

        Raises ``InvalidMessage`` with 429 when its user has too many, and ``TypeError`` when it is not known who that
        is.
        """
        if not connection.closed and not self._users.enter(connection):
            self._reject("max_connections_per_user", connection.remote_address)
            raise InvalidMessage("too many connections of this user", status=429)

    def closed(self, connection: ServerConnection) -> None:
        """The byte stream of this connection is gone."""
        self._users.leave(connection)
        self.leave_shared(connection)
        route, _ = _limited_route(connection)
        if route is not None:
            self._by_route[route] -= 1

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
            packed = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
        except OSError:
            return None
        if packed.startswith(bytes(10) + b"\xff\xff"):  # a socket for both families sees IPv4 as ::ffff:0:0/96
            packed = packed[12:]
        family = b"4" if len(packed) == 4 else b"6"
        whole, part = divmod(self._limits.address_prefix[family == b"6"], 8)
        if not part:
            return family + packed[:whole]
        return family + packed[:whole] + bytes([packed[whole] & (0xFF00 >> part) & 0xFF])

    # -- refusing ----------------------------------------------------------------------------------------------

    def _refuse(self, sock: socket.socket, address: Any, limit: str) -> None:
        self._reject(limit, address)
        self.turned_away += 1
        if self._secure:
            sock.close()
        else:
            self._refusals.refuse(sock, limit)

    def _reject(self, limit: str, address: Any) -> None:
        self.rejected[limit] += 1
        logger = self._server.logger
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("connection from %s refused: %s", address, limit)

    def close(self) -> None:
        """Keep nobody waiting any longer."""
        self._refusals.close()


def _limited_route(connection: ServerConnection) -> tuple[Route | None, int]:
    """The route of this connection and how many it may have, if it has a limit."""
    match = connection.match
    most = None if match is None else match.route.terms.max_connections
    return (None, 0) if match is None or most is None else (match.route, most)
