"""The life of a server between its start and its end: ready or not, suspended, drained, and who is connected.

``Server`` is this and what it needs to open connections.  Who is connected is ``connections_open``; whoever waits for
their number to change is told by ``count_changed``, which costs nothing while nobody waits.
"""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, cast

from ..drivers.transports import Accepting
from ..options import check_count
from .draining import DrainPlan, carry_out
from .signals import check_signals, serve_until_signal

if TYPE_CHECKING:
    from .connection import ServerConnection
    from .opening import Opening
    from .server import Server

__all__ = ["Lifecycle"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Lifecycle:
    """The part of a server that is about its life."""

    if TYPE_CHECKING:
        connections_open: set[ServerConnection]
        openings: set[Opening]

        def is_serving(self) -> bool: ...

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.closing: asyncio.Future[None] = loop.create_future()
        """Done once the server begins to close."""
        self.plan: DrainPlan | None = None
        """How the server is drained, None while it is not."""
        self.listening: list[Accepting] = []
        self._drains = 0
        self._suspended = False
        self._waiting: list[tuple[Callable[[int], bool], asyncio.Future[None]]] = []

    # -- ready or not ------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether new connections are welcome: False while suspended, and once a drain or a close has begun."""
        return self.is_serving() and self.plan is None and not self._suspended

    @property
    def draining(self) -> bool:
        """Whether new connections are refused with 503, because a drain has begun."""
        return self.plan is not None

    @property
    def suspended(self) -> bool:
        """Whether new connections wait until ``resume``."""
        return self._suspended

    def suspend(self) -> None:
        """Stop accepting connections; those that are there go on, handshakes included.

        The sockets stay bound: new clients wait in the system's queue, as many as ``backlog``, until ``resume``. Raises
        ``RuntimeError`` once the server is draining or closed, and on an event loop that cannot watch sockets.
        """
        self._check_listening()
        if self.plan is not None:
            raise RuntimeError("the server is draining")
        for listening in self.listening:
            listening.suspend()
        self._suspended = True

    def resume(self) -> None:
        """Accept connections again, after ``suspend``, or after a drain that was cancelled.

        Raises ``RuntimeError`` while a drain is going on, once the listening sockets are closed, and on an event loop
        that cannot watch sockets.
        """
        self._check_listening()
        if self._drains:
            raise RuntimeError("the server is draining; cancel that first")
        self.plan = None
        self._accept_again()

    def _check_listening(self) -> None:
        if not self.is_serving():
            raise RuntimeError("the server does not listen any more")

    def _accept_again(self) -> None:
        if self._suspended:
            self._suspended = False
            for listening in self.listening:
                listening.resume()

    def hand_over(self) -> None:
        """Close the listening sockets of this process; what waits in their queues is for others that have them open."""
        self._suspended = False
        listening, self.listening = self.listening, []
        for each in listening:
            each.close()

    # -- the end -----------------------------------------------------------------------------------------------

    async def drain(
        self,
        timeout: float = 30.0,
        *,
        spread: float | None = None,
        code: int = 1012,
        reason: str = "service restart",
        retry_after: float | None = 1.0,
        keep_listening: bool = True,
    ) -> None:
        """Close the server bit by bit: refuse new connections, close the open ones one after the other.

        ``timeout`` (seconds): what is not closed then is dropped, and its handlers are cancelled. ``spread``: close the
        connections evenly, with jitter, over so many seconds; by default 100 a second, but over no more than half of
        ``timeout``. ``code``, ``reason``: for the Close frames. ``retry_after``: ask clients to stay away for about so
        many seconds, half to one and a half, in the reason (with 1012 and 1013), and in the Retry-After of the 503 that
        new ones are answered with; None to ask for nothing. ``keep_listening``: False closes the listening sockets
        at once, for a successor that listens on the same address.

        Returns when the server is closed. ``close`` ends it at once. Cancelling it stops the closing of connections:
        those that are left stay open, new ones are still refused; then ``resume`` accepts again, ``drain`` goes on.
        Raises ``TypeError`` or ``ValueError`` for a wrong argument.
        """
        plan = DrainPlan(
            timeout=timeout,
            spread=spread,
            code=code,
            reason=reason,
            retry_after=retry_after,
            keep_listening=keep_listening,
        )
        await self.drain_as(plan)

    async def drain_as(self, plan: DrainPlan) -> None:
        """Drain as planned."""
        server = cast("Server", self)
        if not self.closing.done():
            self.plan = plan
            if plan.keep_listening:
                self._accept_again()
            else:
                self._suspended = False
                listening, self.listening = self.listening, []
                for each in listening:
                    each.finish()
            for opening in list(self.openings):
                opening.turn_away()
        self._drains += 1
        try:
            await carry_out(server, plan)
        finally:
            self._drains -= 1

    async def serve_until_signal(
        self,
        signals: Iterable[int] | None = None,
        *,
        drain: float = 30.0,
        spread: float | None = None,
        code: int = 1012,
        reason: str = "service restart",
        retry_after: float | None = 1.0,
        keep_listening: bool = True,
    ) -> int | None:
        """Serve until SIGTERM or SIGINT, drain, and return the signal; None if the server was closed otherwise.

        ``signals``: others than these. ``drain`` (seconds): the ``timeout`` of the drain; the rest are its arguments as
        well. A second signal closes the server at once, a third drops what is left. The handlers of signals that were
        there before are put back at the end. Raises ``RuntimeError`` outside of the main thread. Cancelling it closes
        the server.
        """
        plan = DrainPlan(
            timeout=drain,
            spread=spread,
            code=code,
            reason=reason,
            retry_after=retry_after,
            keep_listening=keep_listening,
        )
        return await serve_until_signal(
            cast("Server", self), check_signals(_SIGNALS if signals is None else signals), plan
        )

    # -- who is connected --------------------------------------------------------------------------------------

    def connection(self, name: uuid.UUID | str) -> ServerConnection | None:
        """The connection whose ``id`` is ``name``, None when there is none (any more)."""
        if not isinstance(name, uuid.UUID | str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"the id of a connection must be a uuid.UUID or a str, not {name!r}")
        try:
            wanted = name if isinstance(name, uuid.UUID) else uuid.UUID(name)
        except ValueError:
            return None
        return next((each for each in self.connections_open if each.is_named(wanted)), None)

    async def wait_for_connections(self, *, at_most: int | None = None, at_least: int | None = None) -> None:
        """Wait until there are so many connections; those count that are closed, but whose handler goes on.

        ``at_most``, ``at_least``: one of them, or both for a range. Cancelling the wait changes nothing.
        """
        check_count("at_most", at_most, least=0, optional=True)
        check_count("at_least", at_least, least=0, optional=True)
        if at_most is None and at_least is None:
            raise TypeError("at_most or at_least is needed")

        def reached(count: int) -> bool:
            return (at_most is None or count <= at_most) and (at_least is None or count >= at_least)

        if reached(len(self.connections_open)):
            return
        waiting = (reached, self.loop.create_future())
        self._waiting.append(waiting)
        try:
            await waiting[1]
        finally:
            self._waiting.remove(waiting)

    def count_changed(self) -> None:
        """A connection has opened, or is gone."""
        if self._waiting:
            count = len(self.connections_open)
            for reached, future in self._waiting:
                if not future.done() and reached(count):
                    future.set_result(None)
