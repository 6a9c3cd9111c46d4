"""Which upstream of a route gets a connection.

"address" and "cookie:NAME" send what belongs together to the same upstream: of all upstreams the one whose name gives
the highest hash together with the client's address, or the value of the cookie (rendezvous hashing).  When one goes
out, only what belonged to it moves, and comes back with it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence

from ..protocol.headers import is_token
from ..types import Headers
from .headers import Peer, host_of
from .upstreams import Backend

__all__ = ["Balance", "check_balance"]

_PLAIN = ("least_connections", "round_robin", "address")
_COOKIE = "cookie:"


def check_balance(value: object) -> str:
    """``value`` if it says how to choose an upstream."""
    wanted = 'balance must be "least_connections", "round_robin", "address" or "cookie:NAME"'
    if not isinstance(value, str):
        raise TypeError(f"{wanted}, not {value!r}")
    if value not in _PLAIN and not (value.startswith(_COOKIE) and is_token(value.removeprefix(_COOKIE))):
        raise ValueError(f"{wanted}, not {value!r}")
    return value


class Balance:
    """Chooses among the upstreams of one route, by ``rule``."""

    def __init__(self, backends: Sequence[Backend], rule: str) -> None:
        self.backends = tuple(backends)
        self._rule = rule
        self._next = 0

    def choose(self, headers: Headers, peer: Peer, tried: Collection[Backend] = ()) -> Backend | None:
        """The upstream to dial, other than those ``tried``; None when there is none left."""
        start, self._next = self._next, (self._next + 1) % len(self.backends)
        turn = self.backends[start:] + self.backends[:start]
        left = [backend for backend in turn if backend not in tried and backend.is_available()]
        if not left:
            return None
        if (key := self._key(headers, peer)) is not None:
            return max(left, key=lambda backend: _score(key, backend.name))
        if self._rule == "round_robin":
            return left[0]
        return min(left, key=lambda backend: backend.load)

    def _key(self, headers: Headers, peer: Peer) -> str | None:
        """What has to stay together."""
        if self._rule == "address":
            forwarding = peer.forwarding
            client = forwarding.client if forwarding is not None else None
            return host_of(client) or peer.host or ""
        if self._rule.startswith(_COOKIE):
            return _cookie(headers, self._rule.removeprefix(_COOKIE))
        return None

    def retry_after(self, otherwise: float) -> int:
        """When it makes sense to ask again (seconds), if no upstream is available."""
        pauses = [pause for backend in self.backends if (pause := backend.back_in()) is not None]
        return max(1, math.ceil(min(pauses, default=otherwise)))


def _cookie(headers: Headers, wanted: str) -> str | None:
    for line in headers.get_all("Cookie"):
        for pair in line.split(";"):
            name, equals, value = pair.strip(" \t").partition("=")
            if equals and name == wanted:
                return value
    return None


def _score(key: str, name: str) -> bytes:
    return hashlib.blake2b(f"{name}\0{key}".encode(errors="surrogateescape"), digest_size=8).digest()
