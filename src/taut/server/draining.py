"""Emptying a server so that nothing is lost and nobody comes back all at once.

A drain begins with ``ready`` being False, and with no new connection: whoever asks for WebSocket is answered with 503
and Retry-After.  Meanwhile the open connections are closed one after the other, evenly over ``spread`` seconds, each
at a random moment of its share.  What has been sent before leaves before the Close frame (RFC 6455, 5.5.1), whose
reason carries the hint "retry-after=SECONDS" that clients of taut keep to.  What is left at the deadline is dropped,
and its handlers are cancelled; then the server closes.

The listening sockets stay open, since a socket that answers tells more than one that is closed: a health check sees
that the server is not ready, metrics can be read to the end, and a client learns when to come back; a refused
connection looks like a crash, and closing a socket resets what waits in its queue.  Where a successor listens at the
same address, through an inherited socket or SO_REUSEPORT, that is the wrong way round, as the kernel would still send a
share of the new clients here: then ``keep_listening=False`` takes what waits in the queue, and closes.

Any number of drains may go on at a time: each closes what is still open, and the first deadline counts.  The server's
``close`` ends them all.  A drain that is cancelled stops closing connections, and leaves the server draining.
"""

from __future__ import annotations

import asyncio
import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..options import check_number, check_text
from ..protocol.session import cut_reason, valid_close_code

if TYPE_CHECKING:
    from .server import Server

__all__ = ["DrainPlan", "carry_out"]

_PACE = 100.0
"""How many connections a second are closed at most, unless the time is too short for it."""
_BATCH = 64
"""How many are closed in a turn of the loop when many are due."""
_REASON = 123
"""The longest reason of a Close frame (bytes; RFC 6455, 5.5)."""
_PATIENCE = 1.0
"""How long handlers may take to end once they are cancelled at the deadline (seconds)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainPlan:
    """How a server is drained: see ``Server.drain``. Raises ``TypeError`` or ``ValueError`` for a wrong argument."""

    timeout: float = 30.0
    spread: float | None = None
    code: int = 1012
    reason: str = "service restart"
    retry_after: float | None = 1.0
    keep_listening: bool = True

    def __post_init__(self) -> None:
        _check_seconds("timeout", self.timeout)
        _check_seconds("spread", self.spread, optional=True)
        if self.spread is not None and self.spread > self.timeout:
            raise ValueError(f"spread must not be longer than timeout, {self.timeout:g}, not {self.spread!r}")
        if not valid_close_code(self.code):
            raise ValueError(f"code must be 1000-1003, 1007-1014 or 3000-4999, not {self.code!r}")
        check_text("reason", self.reason)
        _check_seconds("retry_after", self.retry_after, optional=True)
        if not isinstance(self.keep_listening, bool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"keep_listening must be True or False, not {self.keep_listening!r}")

    def spread_over(self, connections: int) -> float:
        """For how long so many are closed one after the other (seconds)."""
        return min(self.timeout / 2, connections / _PACE) if self.spread is None else self.spread

    def hint(self) -> float | None:
        """How long a client is asked to stay away (seconds): about ``retry_after``, not the same for all."""
        return None if self.retry_after is None else self.retry_after * random.uniform(0.5, 1.5)

    def close_reason(self) -> str:
        """A reason for a Close frame, with a hint where the code allows one."""
        hint = self.hint()
        if hint is None or self.code not in (1012, 1013):
            return cut_reason(self.reason)
        text = f"retry-after={hint:.2f}"
        room = _REASON - len(text) - 1
        reason = self.reason.encode("utf-8", "replace")[:room].decode("utf-8", "ignore").rstrip()
        return f"{reason} {text}" if reason else text

    def retry_header(self) -> str:
        """A value of Retry-After (RFC 9110, 10.2.3)."""
        return str(max(1, math.ceil(self.hint() or 1.0)))


def _check_seconds(name: str, value: object, *, optional: bool = False) -> None:
    number = check_number(name, value, least=0, optional=optional)
    if number is not None and math.isinf(number):
        raise ValueError(f"{name} must be a finite number, not {value!r}")


async def carry_out(server: Server, plan: DrainPlan) -> None:
    """Close the connections of ``server`` one after the other; what is left at the deadline is dropped."""
    deadline = server.loop.time() + plan.timeout
    empty = asyncio.ensure_future(server.wait_for_connections(at_most=0))
    try:
        over = {empty, server.closing}
        if await _close_in_turn(server, plan, over):
            await asyncio.wait(over, timeout=deadline - server.loop.time(), return_when=asyncio.FIRST_COMPLETED)
    finally:
        empty.cancel()
    if not server.closing.done():
        _drop(server)
        server.close(code=plan.code, reason=plan.reason)
    await server.wait_closed()


async def _close_in_turn(server: Server, plan: DrainPlan, over: set[asyncio.Future[None]]) -> bool:
    """Close every connection when its turn comes; False if there is nothing left to do before that."""
    connections = list(server.connections_open)
    random.shuffle(connections)
    share = plan.spread_over(len(connections)) / max(len(connections), 1)
    begun = server.loop.time()
    for number, connection in enumerate(connections):
        wait = begun + (number + random.random()) * share - server.loop.time()
        if wait > 0 or number % _BATCH == _BATCH - 1:
            done, _ = await asyncio.wait(over, timeout=max(wait, 0.0), return_when=asyncio.FIRST_COMPLETED)
            if done:
                return False
        connection.begin_close(plan.code, plan.close_reason())
    return True


def _drop(server: Server) -> None:
    """The deadline has passed."""
    left = list(server.connections_open)
    if not left:
        return
    server.logger.warning("%d connections or their handlers were not done by the end of the drain", len(left))
    patience = server.patience
    server.patience = _PATIENCE if patience is None else min(patience, _PATIENCE)
    for connection in left:
        connection.abort()
        connection.cancel_handler()
