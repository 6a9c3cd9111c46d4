"""``first_message_auth``: whoever cannot put credentials into the opening handshake sends them as the first message.

It wraps a handler, which is called once the check has accepted that message.  Until then the connection is open to
anybody: so the time is limited, the message is small, and what comes behind it waits unread.  Whatever goes wrong ends
in a Close frame that does not say what it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from collections.abc import Callable
from typing import Any, TypeAlias

from ...errors import ConnectionClosed, InvalidMessage
from ...options import check_count, check_number
from ...types import CloseCode, Data
from .checks import Check, check_function, is_coroutine_function, judge
from .failures import Failure
from .hooks import is_asynchronous_here, log_failure, settle

__all__ = ["first_message_auth"]

_NAME = "first_message_auth"
_LOOK = 0.25
"""How often a blocking server looks at the deadline of a message that comes in small parts (seconds)."""

AnyHandler: TypeAlias = Callable[[Any], Any]


class _TooLarge(Exception):
    """The first message is over its limit."""


class _Parts:
    """The message that is arriving."""

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._parts: list[Any] = []

    def add(self, part: Data) -> None:
        self._left -= len(part) if isinstance(part, bytes) else len(part.encode())
        if self._left < 0:
            raise _TooLarge
        self._parts.append(part)

    @property
    def whole(self) -> Data:
        empty = self._parts[0][:0]
        joined: Data = empty.join(self._parts)
        return joined


class _Gate:
    """What stands before a handler."""

    def __init__(self, check: Check, deadline: float, max_size: int) -> None:
        self._check = check
        self._deadline = deadline
        self._max_size = max_size

    async def _judge(self, ws: Any, message: Data) -> str | None:
        """None, or the kind of failure."""
        secret = message if isinstance(message, str) else message.decode(errors="replace")
        failure, principal = await judge(ws, _NAME, self._check, message, secrets=(secret,))
        if failure is None:
            ws.principal = principal
            return None
        return failure.kind

    async def admit(self, ws: Any) -> bool:
        """Whether the handler may have the connection; on a server on asyncio."""
        try:
            async with asyncio.timeout(self._deadline):
                failure = await self._judge(ws, await self._receive(ws))
        except ConnectionClosed:
            return False
        except TimeoutError:
            failure = "no credentials in time"
        except _TooLarge:
            failure = "the message is too large"
        if failure is None:
            try:
                admission = ws.server.admission
                if admission.sharing is not None:
                    await admission.sharing.identify(ws)
                admission.identify(ws)
            except InvalidMessage as exc:
                await ws.close(CloseCode.TRY_AGAIN_LATER, str(exc))
                return False
            return True
        await ws.close(_refuse(ws, failure))
        return False

    async def _receive(self, ws: Any) -> Data:
        parts = _Parts(self._max_size)
        async with contextlib.aclosing(ws.recv_streaming()) as arriving:
            async for part in arriving:
                parts.add(part)
        return parts.whole

    def admit_blocking(self, ws: Any) -> bool:
        """The same in the thread of a blocking server."""
        end = time.monotonic() + self._deadline
        try:
            failure: str | None = settle(self._judge(ws, self._receive_blocking(ws, end)))
            if time.monotonic() > end:
                raise TimeoutError
        except ConnectionClosed:
            return False
        except TimeoutError:
            ws.principal = None
            failure = "no credentials in time"
        except _TooLarge:
            failure = "the message is too large"
        if failure is None:
            return True
        ws.close(_refuse(ws, failure))
        return False

    def _receive_blocking(self, ws: Any, end: float) -> Data:
        parts = _Parts(self._max_size)
        while (left := end - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                for part in ws.recv_streaming(timeout=min(left, _LOOK)):
                    parts.add(part)
                    if time.monotonic() > end:
                        break
                else:
                    return parts.whole
        raise TimeoutError


def _refuse(ws: Any, failure: str) -> int:
    """The close code for it: no more than that it is refused."""
    code = CloseCode.INTERNAL_ERROR if failure == Failure.BROKEN.kind else CloseCode.POLICY_VIOLATION
    log_failure(ws, f"{_NAME}: {failure}", code)
    return code


def first_message_auth(
    check: Check, deadline: float = 5.0, *, max_size: int = 4096
) -> Callable[[AnyHandler], AnyHandler]:
    """Let a handler have only connections whose first message authenticates them: a decorator for handlers.

    ``check``: called with the message, str or bytes, and returns the principal, for ``ws.principal``, or None; it may
    be a coroutine function. ``deadline``: seconds for the message and the check together. ``max_size``: of that
    message, in bytes. Whoever fails is closed with 1008, and with 1011 when the check raises.

    Raises ``TypeError`` or ``ValueError`` for a wrong argument.
    """
    check_function("check", check)
    check_number("deadline", deadline, above=0)
    check_count("max_size", max_size, least=1)
    gate = _Gate(check, deadline, max_size)

    def guard(handler: AnyHandler) -> AnyHandler:
        if isinstance(handler, type) or not callable(handler):
            raise TypeError(f"handler must be a function or a coroutine function, not {handler!r}")

        @functools.wraps(handler)
        async def guarded(ws: Any) -> Any:
            return await handler(ws) if await gate.admit(ws) else None

        @functools.wraps(handler)
        def guarded_here(ws: Any) -> Any:
            if is_asynchronous_here():
                return guarded(ws)
            return handler(ws) if gate.admit_blocking(ws) else None

        return guarded if is_coroutine_function(handler) else guarded_here

    return guard
