"""The connections of each user: who they belong to, and how many one may have.

A connection is counted from the moment it opens, when every hook has had its say and ``principal`` is known (or from
its first message, where that tells), until its byte stream is gone or another has taken its place.  Between looking and
counting nothing is waited for, so that no two handshakes can share the last place.  A connection without a principal
belongs to nobody, and is not counted.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from ..options import check_count, check_one_of

if TYPE_CHECKING:
    from .connection import ServerConnection

__all__ = ["UserKey", "UserLimit", "Users"]

UserKey: TypeAlias = "str | bytes | int"
"""What one user is told from another by."""


class UserLimit:
    """``max_connections_per_user`` and what goes with it; raises ``TypeError`` or ``ValueError`` for wrong ones."""

    __slots__ = ("_key", "most", "replaces")

    def __init__(self, most: int | None, key: Callable[[Any], UserKey | None] | None, policy: str) -> None:
        check_count("max_connections_per_user", most, least=1, optional=True)
        if key is not None and not callable(key):
            raise TypeError(f"user_key must be a function of the principal, or None, not {key!r}")
        check_one_of("user_policy", policy, ("refuse", "replace"))
        self.most = most
        self.replaces = policy == "replace"
        self._key = key

    def key_of(self, principal: Any) -> UserKey | None:
        """What connections of this principal are counted under, None if they are not.

        Raises ``TypeError`` for what does not tell one user from another, and whatever ``user_key`` raises.
        """
        if principal is None:
            return None
        if self._key is not None:
            given = key = self._key(principal)
        else:
            given = key = principal
            if isinstance(principal, Mapping):
                key = principal.get("sub")  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
            elif isinstance(principal, uuid.UUID):
                key = principal.bytes
        if isinstance(key, str | bytes | int) and not isinstance(key, bool):
            return key
        if key is None and self._key is not None:
            return None
        # An object of the user's may be a new one each time: nobody would ever reach the limit.
        raise TypeError(
            "connections are counted by user, and user_key has to give a str, bytes or int for a principal that is "
            f"none of these, not {type(given).__name__}"
        )


class Users:
    """The open connections of all users of a server."""

    __slots__ = ("_connections", "_limit")

    def __init__(self, limit: UserLimit) -> None:
        self._limit = limit
        self._connections: dict[UserKey, dict[ServerConnection, None]] = {}  # of each, in the order of their opening

    def __len__(self) -> int:
        return len(self._connections)

    def enter(self, connection: ServerConnection) -> bool:
        """Count this connection, which is about to open, under its principal; False if that one has too many."""
        self.leave(connection)  # if it was somebody else's until now
        most = self._limit.most
        if most is None or (key := self._limit.key_of(connection.principal)) is None:
            return True
        theirs = self._connections.setdefault(key, {})
        if len(theirs) >= most:
            if not self._limit.replaces:
                return False
            oldest = next(iter(theirs))
            self.leave(oldest)
            oldest.begin_close(1008, "replaced by a newer connection")
        self._connections.setdefault(key, {})[connection] = None
        connection.user = key
        return True

    def leave(self, connection: ServerConnection) -> None:
        """This connection is gone, or about to go. Nothing happens if it is not counted."""
        key, connection.user = connection.user, None
        if key is None or (theirs := self._connections.get(key)) is None:
            return
        theirs.pop(connection, None)
        if not theirs:
            del self._connections[key]
