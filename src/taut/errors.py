"""Every exception that taut raises, in one hierarchy.

An exception carries data, and its text is built from that data: a program reads the attributes, a person
reads the message, and the two never disagree.  Names follow the ``websockets`` package where the meaning
is the same.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .types import CloseInfo, Request, Response

__all__ = [
    "ConcurrencyError",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "InvalidHandshake",
    "InvalidHeader",
    "InvalidMessage",
    "InvalidOrigin",
    "InvalidStatus",
    "InvalidURI",
    "InvalidUpgrade",
    "MissingExtra",
    "NegotiationError",
    "OpenTimeout",
    "PayloadTooBig",
    "ProtocolError",
    "WebSocketException",
]


class WebSocketException(Exception):
    """The root of every exception defined by taut."""


class ConnectionClosed(WebSocketException):
    """The connection is closed: nothing can be sent, and nothing more will be received.

    ``info`` tells who closed it, with what, and why; ``code`` and ``reason`` are its shortcuts.
    """

    def __init__(self, info: CloseInfo) -> None:
        super().__init__(info)
        self.info = info

    @property
    def code(self) -> int:
        """The close code, 1006 when there was no Close frame."""
        return self.info.code

    @property
    def reason(self) -> str:
        """The close reason, which may be empty."""
        return self.info.reason

    def __str__(self) -> str:
        return str(self.info)


class ConnectionClosedOK(ConnectionClosed):
    """The connection ended as agreed: closing handshake completed with 1000, 1001 or no code."""


class ConnectionClosedError(ConnectionClosed):
    """The connection ended in an error: another close code, or no closing handshake at all."""


def closed_error(info: CloseInfo) -> ConnectionClosed:
    """The exception that tells of this end."""
    return (ConnectionClosedOK if info.ok else ConnectionClosedError)(info)


class ProtocolError(WebSocketException):
    """The peer broke RFC 6455 or RFC 7692; the connection is failed with ``code`` (section 7.1.7)."""

    def __init__(self, reason: str, code: int = 1002) -> None:
        super().__init__(reason, code)
        self.reason = reason
        self.code = code

    def __str__(self) -> str:
        return self.reason


class PayloadTooBig(ProtocolError):
    """A frame or a message is larger than its limit; the connection is failed with 1009.

    ``size`` is what was declared or seen so far (bytes), ``limit`` what is allowed, ``option`` the setting.
    """

    def __init__(self, size: int, limit: int, option: str = "max_size") -> None:
        super().__init__(f"{size} bytes are over the limit of {limit} ({option})", 1009)
        self.size = size
        self.limit = limit
        self.option = option


class ConcurrencyError(WebSocketException, RuntimeError):
    """Two tasks did at once what only one may do: ``operation`` names it, "recv" for example."""

    def __init__(self, operation: str) -> None:
        super().__init__(operation)
        self.operation = operation

    def __str__(self) -> str:
        return f"another task is already waiting in {self.operation}()"


class InvalidURI(WebSocketException, ValueError):
    """``uri`` is not a WebSocket URI (RFC 6455, section 3); ``problem`` says why."""

    def __init__(self, uri: str, problem: str) -> None:
        super().__init__(uri, problem)
        self.uri = uri
        self.problem = problem

    def __str__(self) -> str:
        shown = re.sub(r"(?<=://)[^/?#@]*@", "***@", self.uri)  # credentials do not belong in logs
        return f"{shown!r} is not a WebSocket URI: {self.problem}"


class InvalidHandshake(WebSocketException):
    """The opening handshake did not succeed (RFC 6455, section 4).

    ``request`` and ``response`` are set as far as they were known at that point.
    """

    def __init__(
        self,
        problem: str,
        *,
        request: Request | None = None,
        response: Response | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.request = request
        self.response = response

    def __str__(self) -> str:
        return self.problem


class InvalidMessage(InvalidHandshake):
    """What was received is not an HTTP/1.1 message, or is over the limits set for one.

    ``status`` is the answer a server gives to it: 400 when malformed, 431 when too large.
    """

    def __init__(
        self,
        problem: str,
        *,
        status: int = 400,
        request: Request | None = None,
        response: Response | None = None,
    ) -> None:
        super().__init__(problem, request=request, response=response)
        self.status = status


class InvalidStatus(InvalidHandshake):
    """The server answered with a status other than 101; see ``response``."""

    response: Response

    def __init__(self, response: Response, *, request: Request | None = None) -> None:
        super().__init__(
            f"the server answered the handshake with HTTP {response.status_code}",
            request=request,
            response=response,
        )


class InvalidHeader(InvalidHandshake):
    """A header of the handshake is missing (``value`` is None), repeated or wrong."""

    def __init__(
        self,
        name: str,
        value: str | None = None,
        *,
        problem: str | None = None,
        request: Request | None = None,
        response: Response | None = None,
    ) -> None:
        if problem is None:
            problem = f"missing {name} header" if value is None else f"invalid {name} header: {value!r}"
        super().__init__(problem, request=request, response=response)
        self.name = name
        self.value = value


class InvalidUpgrade(InvalidHeader):
    """The Upgrade or Connection header does not ask for, or agree to, WebSocket."""


class InvalidOrigin(InvalidHeader):
    """The Origin of the request is not allowed (RFC 6455, section 10.2)."""

    def __init__(self, value: str | None, *, request: Request | None = None) -> None:
        super().__init__("Origin", value, problem=f"origin not allowed: {value}", request=request)


class NegotiationError(InvalidHandshake):
    """No subprotocol or extension could be agreed upon, or the answer is not one that was offered."""


class OpenTimeout(InvalidHandshake, TimeoutError):
    """The connection was not open within ``open_timeout``."""

    def __init__(self, timeout: float) -> None:
        super().__init__(f"the opening handshake did not complete within {timeout:g} s (open_timeout)")
        self.timeout = timeout


class MissingExtra(WebSocketException, ImportError):
    """A feature needs an optional package: install taut with the extra ``extra``."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs the extra {extra!r}: pip install 'taut[{extra}]'")
        self.feature = feature
        self.extra = extra
