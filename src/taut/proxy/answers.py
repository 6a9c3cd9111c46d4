"""Opening a connection to one of a route's upstreams, and what the client is answered if that fails.

An upstream that cannot be reached, or answers 502, 503 or 504, is not the last word: another one is dialled, up to
``tries``.  Any other answer of an upstream is the client's as well.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from ..client.opening import ClientConnection
from ..errors import ConnectError, InvalidStatus, OpenTimeout
from ..server.handshake import plain_response
from ..types import Request, Response
from .dialling import open_upstream
from .headers import Forwards, HeaderRules, Peer, headers_for_client
from .served import ServedRoute
from .upstreams import Backend

__all__ = ["Asked", "Reached", "reach"]

_PASSING = frozenset((502, 503, 504))
"""What an upstream answers that another one may do better."""
_BETWEEN_HOPS = frozenset((407, 426))
"""What is between a proxy and its server, and not for the client: it has asked for the right version."""
_WITHOUT_BODY = frozenset((204, 304))
_RETRY_AFTER = 5.0
"""When to ask again (seconds) if health checks have all upstreams out, and say nothing of how long."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client has asked for. ``addresses``: its own, and the one that it came to."""

    request: Request
    path: str
    query: str
    subprotocols: tuple[str, ...]
    peer: Peer
    addresses: tuple[Any, Any]
    forwards: Forwards | None


@dataclass(frozen=True, slots=True)
class Reached:
    """An upstream, and a connection to it."""

    backend: Backend
    connection: ClientConnection


async def reach(served: ServedRoute, asked: Asked, logger: logging.Logger) -> Reached | Response:
    """Open a connection to an upstream of the route, or tell what to answer instead.

    When it is cancelled nothing stays open.
    """
    tried: list[Backend] = []
    answer: Response | None = None
    while len(tried) < served.route.tries:
        backend = served.balance.choose(asked.request.headers, asked.peer, tried)
        if backend is None:
            break
        tried.append(backend)
        backend.dialling()
        try:
            connection = await _open(served, backend, asked)
            backend.answered()
            return Reached(backend, connection)
        except InvalidStatus as exc:
            backend.answered()
            backend.refused += 1
            answer = _passed_on(exc.response, served.route.response_headers)
            if exc.response.status_code not in _PASSING:
                return answer
        except ConnectError as exc:
            problem = str(exc) or type(exc).__name__
            logger.warning("upstream %s: %s", backend.name, problem)
            backend.unreachable(problem)
            late = isinstance(exc, OpenTimeout)
            answer = answer or plain_response(504 if late else 502, "the upstream did not answer\n")
        finally:
            backend.dialled()
    return answer or _nobody(served)


async def _open(served: ServedRoute, backend: Backend, asked: Asked) -> ClientConnection:
    target = served.target(backend, asked.path, asked.query)
    headers = served.headers(backend, asked.request, asked.peer, asked.forwards)
    return await open_upstream(backend, target, headers, asked.subprotocols, asked.addresses)


def _nobody(served: ServedRoute) -> Response:
    """No upstream is available."""
    response = plain_response(503, "no upstream is available\n")
    check = served.route.health
    response.headers["Retry-After"] = str(served.balance.retry_after(check.interval if check else _RETRY_AFTER))
    return response


def _passed_on(answer: Response, rules: HeaderRules) -> Response:
    """An upstream's refusal, for the client."""
    if answer.status_code < 200 or answer.status_code in _BETWEEN_HOPS:
        return plain_response(502, "the upstream did not accept the handshake\n")
    headers = headers_for_client(answer.headers, answer=True)
    rules.apply(headers)
    headers.add("Connection", "close")
    if answer.status_code not in _WITHOUT_BODY:
        headers.add("Content-Length", str(len(answer.body)))
    return Response(answer.status_code, answer.reason_phrase, headers, answer.body)
