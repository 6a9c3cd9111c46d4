"""The two things that a conversation runs over: one connection, or a session that connects again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Protocol

import taut
from taut.types import CloseInfo, Data

from .presenting import Presenter

__all__ = ["ConnectionLink", "Link", "SessionLink"]

_PONG_WAIT = 5.0
_CERTAIN = ("undelivered", "dropped_oldest", "dropped_newest")


class Link(Protocol):
    """What a conversation needs of either. Everything raises ``ConnectionClosed`` once it is over."""

    @property
    def close_info(self) -> CloseInfo | None:
        """How it ended, None before."""

    @property
    def lost(self) -> bool:
        """Whether messages were certainly lost."""
        ...

    async def begin(self) -> None:
        """Tell what it is, and make it ready for the rest."""

    def messages(self) -> AsyncIterator[Data]:
        """The messages received, until it is over."""
        ...

    async def send(self, message: Data) -> None:
        """Send a message."""

    async def ping(self) -> float:
        """The round trip of a Ping, in seconds."""
        ...

    async def settle(self) -> None:
        """Wait until what was sent has arrived, as far as can be known."""

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close it, and wait until it is closed."""

    async def wait_closed(self) -> None:
        """Wait until it is closed."""

    def abort(self) -> None:
        """End it at once."""


class ConnectionLink:
    """One connection, to the server ``shown``."""

    lost = False

    def __init__(self, ws: taut.Connection, shown: str, presenter: Presenter) -> None:
        self._ws = ws
        self._shown = shown
        self._presenter = presenter

    async def begin(self) -> None:
        """Tell that there is a connection."""
        self._presenter.connected(self._ws, self._shown)

    @property
    def close_info(self) -> CloseInfo | None:
        """How the connection ended."""
        return self._ws.close_info

    def messages(self) -> AsyncIterator[Data]:
        """The messages received."""
        return self._ws

    async def send(self, message: Data) -> None:
        """Send a message."""
        await self._ws.send(message)

    async def ping(self) -> float:
        """The round trip of a Ping."""
        return await (await self._ws.ping())

    async def settle(self) -> None:
        """Wait for one round trip, for a while."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_PONG_WAIT):
                await self.ping()

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection."""
        await self._ws.close(code, reason)

    async def wait_closed(self) -> None:
        """Wait until the connection is closed."""
        await self._ws.wait_closed()

    def abort(self) -> None:
        """Drop the connection."""
        self._ws.abort()


class SessionLink:
    """A session with the server ``shown``: one connection after another, until it is closed here or of no use."""

    def __init__(self, uri: str, options: dict[str, Any], shown: str, presenter: Presenter) -> None:
        """Raises ``TypeError`` or ``ValueError`` for a wrong argument."""
        self._session = taut.Session(
            uri,
            on_connect=self._connected,
            on_disconnect=self._disconnected,
            on_lost=self._report,
            **options,
        )
        self._shown = shown
        self._presenter = presenter
        self._ws: taut.Connection | None = None
        self.lost = False

    async def begin(self) -> None:
        """Open the first connection; whoever is waited for may be interrupted."""
        await self._session

    @property
    def close_info(self) -> CloseInfo | None:
        """How the last connection ended."""
        return None if self._ws is None else self._ws.close_info

    def messages(self) -> AsyncIterator[Data]:
        """The messages received on every connection; raises ``ReconnectFailed`` when there will be none again."""
        return self._session

    async def send(self, message: Data) -> None:
        """Send a message, now or when there is a connection again."""
        await self._session.send(message)

    async def ping(self) -> float:
        """The round trip of a Ping, on the connection that there is now, or will be."""
        return await (await (await self._current()).ping())

    async def settle(self) -> None:
        """Wait for one round trip after everything was sent, however many connections that takes."""
        while True:
            await self._session.drain()
            ws = await self._current()
            try:
                async with asyncio.timeout(_PONG_WAIT):
                    await (await ws.ping())
                return
            except TimeoutError:
                return
            except taut.ConnectionClosed:
                await ws.wait_closed()
                await asyncio.sleep(0)  # the session gets to know of it

    async def _current(self) -> taut.Connection:
        while True:
            await self._session.wait_open()
            if (ws := self._session.connection) is not None:
                return ws
            await asyncio.sleep(0)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the session."""
        await self._session.close(code, reason)

    async def wait_closed(self) -> None:
        """Wait until the session is closed."""
        await self._session.wait_closed()

    def abort(self) -> None:
        """Drop the connection; a session that is closing does not open another."""
        if (ws := self._session.connection) is not None:
            ws.abort()

    # -- what it tells -----------------------------------------------------------------------------------------

    def _connected(self, session: taut.Session, ws: taut.Connection) -> None:
        self._presenter.connected(ws, self._shown, again=self._ws is not None)
        self._ws = ws

    def _disconnected(self, reason: Exception, attempt: int) -> None:
        # The policy decides after this whether there is another attempt, and when.
        asyncio.get_running_loop().call_soon(self._tell_retry, reason, attempt)

    def _tell_retry(self, reason: Exception, attempt: int) -> None:
        self._presenter.failed(reason)
        due = self._session.retry_at
        if due is not None:
            delay = max(0.0, due - asyncio.get_running_loop().time())
            self._presenter.problem(f"{reason}; attempt {attempt} to connect again in {delay:.1f} s")

    def _report(self, loss: taut.Loss) -> None:
        self.lost = self.lost or loss.kind in _CERTAIN
        messages = "1 message" if loss.count == 1 else f"{loss.count} messages"
        certainty = "lost" if loss.kind in _CERTAIN else "perhaps lost"
        self._presenter.problem(f"{messages} {certainty}: {loss.kind.replace('_', ' ')}")
