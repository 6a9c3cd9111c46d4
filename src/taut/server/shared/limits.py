"""``RedisLimits``: what several servers allow together, and where they count it."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Any

from ...errors import MissingExtra
from ...options import check_count, check_number, check_one_of

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["RedisLimits", "script_is_unknown"]


@dataclass(frozen=True, slots=True)
class RedisLimits:
    """Limits that all servers with the same ``prefix`` at the same Redis keep together: for ``serve(shared_limits=)``.

    ``url``: of Redis, as redis-py takes it: ``redis://``, ``rediss://``, ``unix://``. ``max_connections``,
    ``max_connections_per_address``, ``max_connections_per_user``, ``handshake_rate``: as for ``serve``, over all
    servers; None for no limit. They are asked for last, when nothing else speaks against a connection, and whoever is
    over one is answered with 503, or 429 for address and user.

    ``timeout`` (0.25 s): how long a handshake waits for the answer of Redis. ``when_away``: without one, "local" lets a
    server go by what it has counted itself, and "refuse" answers with 503. ``lease`` (15 s): when the connections of a
    server that was killed stop counting; it is renewed three times as often.

    Nothing is connected to before a server is started. Raises ``TypeError`` or ``ValueError`` for a wrong argument,
    ``MissingExtra`` without redis-py.
    """

    url: str = field(repr=False)  # it may have a password
    _: KW_ONLY
    max_connections: int | None = None
    max_connections_per_address: int | None = None
    max_connections_per_user: int | None = None
    handshake_rate: float | None = None
    prefix: str = "taut"
    timeout: float = 0.25
    lease: float = 15.0
    when_away: str = "local"

    def __post_init__(self) -> None:
        limits = ("max_connections", "max_connections_per_address", "max_connections_per_user")
        for name in limits:
            check_count(name, getattr(self, name), least=1, optional=True)
        check_number("handshake_rate", self.handshake_rate, above=0, optional=True)
        if all(getattr(self, name) is None for name in (*limits, "handshake_rate")):
            raise ValueError("RedisLimits needs at least one limit")
        check_number("timeout", self.timeout, above=0)
        check_number("lease", self.lease, above=0)
        if self.lease < 8 * self.timeout:
            # A third of it passes between two renewals, of which one may take four times the timeout.
            raise ValueError(f"lease must be at least 8 times timeout, {self.timeout:g} s, not {self.lease!r}")
        check_one_of("when_away", self.when_away, ("local", "refuse"))
        if not isinstance(self.prefix, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"prefix must be a str, not {self.prefix!r}")
        if not self.prefix or "{" in self.prefix or "}" in self.prefix:
            raise ValueError(f"prefix must not be empty or have braces, not {self.prefix!r}")
        _check_url(self.url)

    def client(self) -> Redis:
        """A client of this Redis, which is not connected yet, and never sends a command a second time."""
        from redis.asyncio import Redis  # noqa: PLC0415
        from redis.asyncio.retry import Retry  # noqa: PLC0415
        from redis.backoff import NoBackoff  # noqa: PLC0415

        kind: Any = Redis
        client: Redis = kind.from_url(self.url, protocol=2, retry=Retry(NoBackoff(), 0), max_connections=1)
        return client


def script_is_unknown(problem: Exception) -> bool:
    """Whether Redis did nothing, as it has forgotten its scripts."""
    from redis.exceptions import NoScriptError  # noqa: PLC0415

    return isinstance(problem, NoScriptError)


def _check_url(url: object) -> None:
    """Refuse what redis-py does not take; without its words, which might show a password."""
    try:
        from redis.asyncio import ConnectionPool  # noqa: PLC0415
    except ImportError:
        raise MissingExtra("RedisLimits", "redis") from None
    if not isinstance(url, str):
        raise TypeError(f"url must be a str, not {type(url).__name__}")
    pool: Any = ConnectionPool
    try:
        pool.from_url(url)
    except ValueError:
        raise ValueError("url must begin with redis://, rediss:// or unix:// and be one that redis-py takes") from None
