"""Every exception that taut raises, in one hierarchy.

An exception carries data, and its text is built from that data: a program reads the attributes, a person
reads the message, and the two never disagree.  Names follow the ``websockets`` package where the meaning
is the same.
"""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .types import Attempt, CloseInfo, Request, Response

__all__ = [
    "CertificateError",
    "ConcurrencyError",
    "ConnectError",
    "ConnectRefused",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "DecodeError",
    "DialError",
    "InvalidHandshake",
    "InvalidHeader",
    "InvalidMessage",
    "InvalidOrigin",
    "InvalidProxy",
    "InvalidStatus",
    "InvalidURI",
    "InvalidUpgrade",
    "JournalError",
    "MessageRejected",
    "MissingExtra",
    "NegotiationError",
    "OpenTimeout",
    "PayloadTooBig",
    "PoolClosed",
    "PoolTimeout",
    "ProtocolError",
    "ProxyError",
    "QueueFull",
    "RateExceeded",
    "ReconnectFailed",
    "RedirectError",
    "TLSError",
    "WebSocketException",
]


def _without_credentials(uri: str) -> str:
    """``uri`` as it may be shown, however broken: credentials do not belong in logs."""
    return re.sub(r"(?<=//)[^/?#]*@", "***@", uri)


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


class RateExceeded(ProtocolError):
    """The peer sends faster than ``rate_limits`` allows; the connection is failed with 1008.

    ``budget`` names what there was too much of, "messages" for example, ``rate`` what is allowed (per second).
    """

    def __init__(self, budget: str, rate: float) -> None:
        super().__init__(f"more than {rate:g} {budget} per second (rate_limits)", 1008)
        self.budget = budget
        self.rate = rate


class MessageRejected(ProtocolError):
    """A message was refused: raise it in ``Middleware.message_in``, or in ``decode`` of a ``Subprotocol``.

    The connection is failed with ``code``, which a Close frame may carry, and ``reason``, which the peer is told.
    """

    def __init__(self, reason: str, code: int = 1008) -> None:
        super().__init__(reason, code)


class DecodeError(MessageRejected):
    """A message is not what ``subprotocol`` allows: malformed (``code`` 1007), or of the wrong kind (1003).

    ``preview``: the beginning of the message, at most 64 characters or bytes. ``__cause__``: what ``decode`` raised.
    """

    def __init__(self, reason: str, code: int, subprotocol: str, preview: str | bytes) -> None:
        super().__init__(reason, code)
        self.subprotocol = subprotocol
        self.preview = preview


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
        super().__init__(_without_credentials(uri), problem)  # what repr() shows
        self.uri = uri
        self.problem = problem

    def __str__(self) -> str:
        return f"{_without_credentials(self.uri)!r} is not a WebSocket URI: {self.problem}"


class InvalidProxy(WebSocketException, ValueError):
    """``proxy`` is not the URL of a proxy that can be used; ``problem`` says why."""

    def __init__(self, proxy: str, problem: str) -> None:
        super().__init__(_without_credentials(proxy), problem)  # what repr() shows
        self.proxy = proxy
        self.problem = problem

    def __str__(self) -> str:
        return f"proxy: {_without_credentials(self.proxy)!r} cannot be used: {self.problem}"


class ConnectError(WebSocketException):
    """No connection could be opened: the family of everything that a client meets before its connection is open.

    ``attempts``: what was tried, in order, and what became of it.
    """

    attempts: tuple[Attempt, ...] = ()


class DialError(ConnectError, OSError):
    """The server could not be reached: no address, no route, nobody listening.

    ``errno`` and ``strerror`` are those of the cause where there is a single one, else None.
    """

    def __init__(self, problem: str, *, errno: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.errno = errno

    def __str__(self) -> str:
        return self.problem


class ConnectRefused(DialError, ConnectionRefusedError):
    """At every address of the server, nobody listens."""


class TLSError(DialError, ssl.SSLError):
    """The TLS handshake with the server, or with an HTTPS proxy, failed."""


class CertificateError(TLSError, ssl.SSLCertVerificationError):
    """The certificate was not accepted: not trusted, for another name, expired, or not one of ``pins``.

    ``verify_code``, ``verify_message``: what OpenSSL says of it; 0 and "" where it had nothing against it.
    """

    verify_code = 0
    verify_message = ""


class ProxyError(ConnectError):
    """A proxy refused, or failed, to give a way to the server; ``proxy`` is its URL without credentials.

    ``response``: the answer of an HTTP proxy, 407 for example; None for SOCKS.
    """

    def __init__(self, proxy: str, problem: str, *, response: Response | None = None) -> None:
        super().__init__(_without_credentials(proxy), problem)
        self.proxy = _without_credentials(proxy)
        self.problem = problem
        self.response = response

    def __str__(self) -> str:
        return f"proxy {self.proxy}: {self.problem}"


class ReconnectFailed(ConnectError):
    """A session gave up: its policy allows no more attempts, or what happened is final.

    ``reason``: the exception that decided it; ``attempts``: the last attempts to connect.
    """

    def __init__(self, problem: str, reason: BaseException) -> None:
        super().__init__(problem, reason)
        self.problem = problem
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.problem}: {self.reason}"


class QueueFull(WebSocketException):
    """A message was refused because the queue holds as much as it may; ``size`` of it, and the limits.

    ``option``: the limit that was reached, "max_messages" or "max_bytes" of an ``OfflineQueue``, or "outbox_limit".
    """

    def __init__(self, size: int, limit: int, option: str) -> None:
        super().__init__(size, limit, option)
        self.size = size
        self.limit = limit
        self.option = option

    def __str__(self) -> str:
        return f"the queue has reached its limit of {self.limit} ({self.option})"


class PoolTimeout(WebSocketException, TimeoutError):
    """No connection of a pool became free within ``timeout`` seconds.

    ``size``, ``ready``, ``in_use``, ``waiting``: the pool then, as in its ``stats``.  ``last_error``: why some
    connection is not ready, where that is known.
    """

    def __init__(
        self,
        timeout: float,
        *,
        size: int,
        ready: int,
        in_use: int,
        waiting: int,
        last_error: BaseException | None = None,
    ) -> None:
        super().__init__(timeout, size, ready, in_use, waiting)
        self.timeout = timeout
        self.size = size
        self.ready = ready
        self.in_use = in_use
        self.waiting = waiting
        self.last_error = last_error

    def __str__(self) -> str:
        text = f"no connection of the pool was free within {self.timeout:g} s"
        text += f" ({self.ready} of {self.size} ready, {self.in_use} in use, {self.waiting} waiting)"
        return text if self.last_error is None else f"{text}; last failure: {self.last_error!r}"


class PoolClosed(WebSocketException, RuntimeError):
    """A pool is closed, or closing, and gives no connection any more."""

    def __str__(self) -> str:
        return "the pool is closed"


class JournalError(WebSocketException, OSError):
    """The file of a queue cannot be opened, read or written; ``path`` of it, and what the ``problem`` is."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"the queue's file {self.path!r} cannot be used: {self.problem}"


class InvalidHandshake(ConnectError):
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


class RedirectError(InvalidHandshake):
    """The server redirected to where the client does not go; see ``response``.

    Too often, from wss to ws, without a usable Location, or to another origin while the address was given by hand.
    """


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
