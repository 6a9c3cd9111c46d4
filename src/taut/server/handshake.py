"""The opening handshake of a server without I/O (RFC 6455, 4.2): the request that comes in, the response to it.

Whoever has a byte stream from a client feeds what it receives until the request is complete, calls ``accept``, which
checks it and makes the session, and sends the response; or, where ``InvalidHandshake`` was raised, the ``refusal``.
One object is one request.
"""

from __future__ import annotations

import http
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ..protocol import deflate
from ..protocol.handshake import (
    accept_response,
    check_origin,
    check_request,
    extension_lines,
    offered_subprotocols,
    select_subprotocol,
)
from ..protocol.http1 import RequestReader
from ..protocol.session import Session
from ..types import BytesLike, ConnectionOptions, DeflateOptions, Headers, Request, Response

__all__ = ["Rules", "ServerHandshake", "plain_response"]


class Rules(Protocol):
    """What a server asks of requests and grants them; ``serve`` says what each means."""

    @property
    def options(self) -> ConnectionOptions: ...
    @property
    def origins(self) -> Sequence[str | re.Pattern[str] | None] | None: ...
    @property
    def subprotocols(self) -> Sequence[str]: ...
    @property
    def select_subprotocol(self) -> Callable[[Any, Sequence[str]], str | None] | None: ...
    @property
    def deflate(self) -> DeflateOptions | None: ...
    @property
    def server_header(self) -> str | None: ...
    @property
    def max_head(self) -> int: ...
    @property
    def max_headers(self) -> int: ...


class ServerHandshake:
    """One request to a server, and the response to it."""

    __slots__ = ("_reader", "_rules", "session", "subprotocol")

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._reader = RequestReader(max_head=rules.max_head, max_headers=rules.max_headers)
        self.session: Session | None = None
        self.subprotocol: str | None = None

    def feed(self, data: BytesLike) -> bool:
        """Take bytes from the client, and tell whether the request is complete; feed nothing more after that.

        Raises ``InvalidMessage`` when it is malformed or over a limit.
        """
        return self._reader.feed(data)

    @property
    def request(self) -> Request:
        """The request, once it is complete."""
        return self._reader.request

    @property
    def remaining(self) -> bytes:
        """What came behind the request: the first bytes of the session."""
        return self._reader.remaining

    def accept(
        self,
        connection: object,
        contexts: deflate.ContextPool,
        *,
        secure: bool,
        now: float,
        host: str | None = None,
        rules: Rules | None = None,
    ) -> Response:
        """Check the complete request, make the session that it opens, and return the response that accepts it.

        ``connection``: for ``select_subprotocol``. ``secure``: whether it came through TLS. ``now``: of a monotonic
        clock. ``host``: what the client asked for, where a proxy has told, instead of the Host header. ``rules``: where
        others count for this request than for the server. Raises ``InvalidHandshake``, and whatever
        ``select_subprotocol`` raises.
        """
        rules, request = rules or self._rules, self.request
        # In the order in which the answers make sense.
        key = check_request(request)
        check_origin(request, rules.origins, secure=secure, host=host)
        if rules.select_subprotocol is not None:
            self.subprotocol = rules.select_subprotocol(connection, offered_subprotocols(request))
        elif rules.subprotocols:
            self.subprotocol = select_subprotocol(offered_subprotocols(request), rules.subprotocols)
        codec = extensions = None
        if rules.deflate is not None:
            agreed = deflate.accept(extension_lines(request.headers), rules.deflate)
            if agreed is not None:
                parameters, extensions = agreed
                codec = deflate.Deflate(parameters, rules.deflate, server=True, pool=contexts)
        response = accept_response(
            request, key, subprotocol=self.subprotocol, extensions=extensions, server_header=rules.server_header
        )
        self.session = Session(rules.options, client=False, deflate=codec, now=now)
        return response


def plain_response(status: http.HTTPStatus | int, text: str) -> Response:
    """A plain-text HTTP response, to refuse or answer a request with."""
    status = http.HTTPStatus(status)
    body = text.encode()
    headers = Headers(
        [
            ("Connection", "close"),
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(body))),
        ]
    )
    return Response(status.value, status.phrase, headers, body)
