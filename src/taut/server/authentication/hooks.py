"""What every authentication hook is: something for ``process_request``.

A hook works in two steps.  ``take`` finds the credentials in the request, and conceals there what must not be seen by
anybody later: it runs for every hook of a composition, whichever of them decides.  ``decide`` asks the check, and
leaves its answer in ``principal`` of the connection.

Whatever happens, nobody is let in but by a check that said so: an exception ends in a refusal, and a refusal leaves no
principal.  What is answered, and what is logged, tells neither the credentials nor what was wrong with them.

The same hook serves both kinds of server: it gives a coroutine where an event loop runs, and decides at once in the
thread of a blocking server, where nothing can be waited for.
"""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import Coroutine
from typing import Any, Protocol, cast

from ...types import Request, Response
from .failures import Failure, Refusal

__all__ = ["AnyConnection", "Hook", "is_asynchronous_here", "log_failure", "quoted", "settle"]


class AnyConnection(Protocol):
    """What a hook uses of a connection, of a server on asyncio or of a blocking one."""

    logger: logging.Logger
    principal: Any

    @property
    def remote_address(self) -> Any: ...
    def respond(self, status: http.HTTPStatus | int, text: str = "") -> Response:
        """A plain-text response."""
        ...


class Hook:
    """An authentication hook: callable as ``process_request`` is."""

    __slots__ = ()

    name = ""
    """The function that made it, for the log."""

    def __call__(self, connection: AnyConnection, request: Request) -> Any:
        """None to let the connection open, or the response that refuses it; a coroutine where an event loop runs."""
        return settle(self._answer(connection, request))

    async def _answer(self, connection: AnyConnection, request: Request) -> Response | None:
        refusal = await self.decide(connection, request, self.take(connection, request))
        if refusal is None:
            return None
        connection.principal = None
        if refusal.response is not None:
            return refusal.response
        status = refusal.status
        log_failure(connection, refusal.kind, status.value)
        response = connection.respond(status, f"{status.phrase}\n")
        for challenge in refusal.challenges:
            response.headers.add("WWW-Authenticate", challenge)
        return response

    def take(self, connection: AnyConnection, request: Request) -> Any:
        """The credentials, or a ``Failure``; they are not left in the request if they are not to be seen there."""
        raise NotImplementedError

    async def decide(self, connection: AnyConnection, request: Request, taken: Any) -> Refusal | None:
        """Set ``principal`` by what ``take`` gave, or say why not."""
        raise NotImplementedError

    def challenge(self, failure: Failure) -> str | None:
        """The WWW-Authenticate header for this failure; None where HTTP has none."""
        return None

    def refusal(self, failure: Failure) -> Refusal:
        """The refusal that tells of ``failure``."""
        challenge = self.challenge(failure)
        return Refusal(failure, f"{self.name}: {failure.kind}", () if challenge is None else (challenge,))

    @property
    def is_asynchronous(self) -> bool:
        """Whether it has to wait for something, so that only a server on asyncio can use it."""
        return False


def is_asynchronous_here() -> bool:
    """Whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def settle(deciding: Coroutine[Any, Any, Any]) -> Any:
    """``deciding`` itself where an event loop runs, else what it returns."""
    if is_asynchronous_here():
        return deciding
    try:
        deciding.send(None)
    except StopIteration as done:
        return done.value
    deciding.close()
    raise RuntimeError("a hook waits for something, and no event loop runs here")


def log_failure(connection: AnyConnection, kind: str, code: int) -> None:
    """The line for somebody who is not let in: from where, and what kind of failure; never a secret."""
    place = _printable(connection.remote_address)
    connection.logger.info("authentication failed: %s; answered with %d, to %s", kind, code, place)


def _printable(address: Any) -> str:
    if isinstance(address, tuple):
        host, port = cast("tuple[str, int]", address[:2])
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return str(address or "an unnamed socket")


def quoted(option: str, text: object) -> str:
    """``text`` as a quoted-string (RFC 9110, 5.6.4); raises for what cannot be one."""
    if not isinstance(text, str):
        raise TypeError(f"{option} must be a str, not {text!r}")
    if not (text.isascii() and (text.isprintable() or not text)):
        raise ValueError(f"{option} must be printable ASCII, not {text!r}")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
