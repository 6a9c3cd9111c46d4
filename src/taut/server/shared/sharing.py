"""What a connection of a server takes of the limits that are shared, and gives back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...errors import InvalidMessage
from ..users import UserKey, UserLimit
from .ledger import AWAY, RATE, Ledger, Place
from .limits import RedisLimits

if TYPE_CHECKING:
    from ..connection import ServerConnection

__all__ = ["Sharing"]

_TOTAL, _ADDRESS, _USER = (
    "shared_max_connections",
    "shared_max_connections_per_address",
    "shared_max_connections_per_user",
)
_REFUSALS = {
    _TOTAL: ("too many connections", 503),
    _ADDRESS: ("too many connections from this address", 429),
    _USER: ("too many connections of this user", 429),
    RATE: ("too many handshakes", 503),
    AWAY: ("no connection can be opened at the moment", 503),
}


class Sharing:
    """The part of a server in limits that it keeps together with others."""

    def __init__(
        self,
        limits: RedisLimits,
        ledger: Ledger,
        *,
        users: UserLimit,
        address_key: Callable[[Any], bytes | None],
        reject: Callable[[str, Any], None],
    ) -> None:
        """``address_key``: what an address is counted under. ``reject``: told of limit and address."""
        self._limits = limits
        self._users = users
        self._address_key = address_key
        self._reject = reject
        self.ledger = ledger

    async def open(self, connection: ServerConnection) -> None:
        """Take what a connection needs that is about to open; ``leave`` gives it back.

        Raises ``InvalidMessage`` with 503 or 429 when there is no place, ``TypeError`` when its user is not known.
        """
        limits = self._limits
        places = self._user(connection)
        if limits.max_connections_per_address is not None:
            key = self._address_key(connection.remote_address)
            if key is not None:
                places.insert(0, Place(_ADDRESS, f"a:{key.hex()}", limits.max_connections_per_address))
        if limits.max_connections is not None:
            places.insert(0, Place(_TOTAL, "t", limits.max_connections))
        await self._take(connection, places, rated=limits.handshake_rate is not None)

    async def identify(self, connection: ServerConnection) -> None:
        """The same for a connection that is open, and has only now told whose it is."""
        self._give_back(connection, [field for field in connection.shares if field.startswith("u:")])
        await self._take(connection, self._user(connection), rated=False)

    def leave(self, connection: ServerConnection) -> None:
        """A connection is gone, or will not open. Nothing happens if it has taken nothing."""
        if connection.shares:
            self._give_back(connection, connection.shares)

    def _give_back(self, connection: ServerConnection, fields: Any) -> None:
        connection.shares = tuple(field for field in connection.shares if field not in fields)
        self.ledger.give_back(fields)

    def _user(self, connection: ServerConnection) -> list[Place]:
        most = self._limits.max_connections_per_user
        if most is None or (key := self._users.key_of(connection.principal)) is None:
            return []
        return [Place(_USER, f"u:{_digest(key)}", most)]

    async def _take(self, connection: ServerConnection, places: list[Place], *, rated: bool) -> None:
        if not places and not rated:
            return
        limit = await self.ledger.take(places, rated=rated)
        if limit is not None:
            self._reject(limit, connection.remote_address)
            text, status = _REFUSALS[limit]
            raise InvalidMessage(text, status=status)
        connection.shares += tuple(place.field for place in places)
        if connection.transport is None:  # it has gone meanwhile
            self.leave(connection)


def _digest(key: UserKey) -> str:
    """Of one size, and no name that others who use this Redis could read."""
    match key:
        case str():
            data = b"s" + key.encode(errors="surrogatepass")
        case bytes():
            data = b"b" + key
        case _:
            data = b"i%d" % key
    return hashlib.blake2b(data, digest_size=16).hexdigest()
