"""Answers for those who ask by HTTP: is the process alive, may it get new clients, what are its metrics.

``health_routes`` and ``metrics_routes`` are routers to mount in that of the server.  An answer about readiness is never
kept by anybody (``Cache-Control``), and tells which check failed but not why: that is in the log.
"""

from __future__ import annotations

import asyncio
import http
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from taut import Headers, Request, Response, Router, Server, ServerConnection

from .metrics import exposition, registry_exposition
from .snapshots import Snapshot, snapshot

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["health_routes", "metrics_routes"]

Check: TypeAlias = Callable[[], object]
Source: TypeAlias = Callable[[Server], Snapshot | Awaitable[Snapshot]]


def health_routes(checks: Mapping[str, Check] | None = None, *, check_timeout: float = 5.0) -> Router:
    """Routes ``/healthz`` and ``/readyz``, to mount: ``router.mount("", health_routes())``.

    ``/healthz`` is answered with 200 while the event loop runs. ``/readyz`` is answered with 200 while the server takes
    new connections and every check passes, else with 503 and the names of those that did not.

    ``checks``: by name, functions or coroutine functions without arguments; one fails that returns False, raises, or
    takes longer than ``check_timeout`` (5 s). They run at every request, side by side; a function that is no coroutine
    function must not block. Raises ``TypeError`` or ``ValueError`` for a wrong argument.
    """
    given = cast(object, checks if checks is not None else {})
    if not isinstance(given, Mapping):
        raise TypeError(f"checks must be a mapping of names to functions or None, not {given!r}")
    for name, check in cast("Mapping[object, object]", given).items():
        if not isinstance(name, str) or not callable(check):
            raise TypeError(f"checks must be functions by name, not {check!r} for {name!r}")
    limit = cast(object, check_timeout)
    if not isinstance(limit, int | float) or isinstance(limit, bool):
        raise TypeError(f"check_timeout must be a number of seconds, not {limit!r}")
    if not limit > 0:
        raise ValueError(f"check_timeout must be greater than 0, not {limit!r}")
    known = dict(cast("Mapping[str, Check]", given))

    def healthz(ws: ServerConnection, request: Request, **_: Any) -> Response:
        return _answer(ws, http.HTTPStatus.OK, "ok\n")

    async def readyz(ws: ServerConnection, request: Request, **_: Any) -> Response:
        failed = [] if ws.server.ready else ["server"]
        if not failed:
            passed = await asyncio.gather(*(_passes(ws, name, known[name], check_timeout) for name in known))
            failed = [name for name, ok in zip(known, passed, strict=True) if not ok]
        if failed:
            return _answer(ws, http.HTTPStatus.SERVICE_UNAVAILABLE, f"not ready: {', '.join(failed)}\n")
        return _answer(ws, http.HTTPStatus.OK, "ready\n")

    router = Router()
    router.add_http("/healthz", healthz)
    router.add_http("/readyz", readyz)
    return router


async def _passes(ws: ServerConnection, name: str, check: Check, limit: float) -> bool:
    try:
        async with asyncio.timeout(limit):
            passed = check()
            passed = await passed if inspect.isawaitable(passed) else passed
    except Exception as exc:
        ws.logger.warning("the check %s of readiness failed", name, exc_info=exc)
        return False
    if passed is False:
        ws.logger.log(logging.INFO, "the check %s of readiness failed", name)
    return passed is not False


def _answer(ws: ServerConnection, status: http.HTTPStatus, text: str) -> Response:
    response = ws.respond(status, text)
    response.headers["Cache-Control"] = "no-store"
    return response


def metrics_routes(source: Source | None = None, *, registry: CollectorRegistry | None = None) -> Router:
    """A route ``/metrics`` for Prometheus, to mount: ``router.mount("", metrics_routes())``.

    ``source``: called with the server, gives the snapshot to show, or an awaitable of it; by default that of the server
    itself, ``snapshot``. ``registry``: everything in this registry of ``prometheus_client`` is shown instead. Raises
    ``TypeError`` or ``ValueError`` for a wrong argument, ``MissingExtra`` without ``prometheus_client``.
    """
    if source is not None and not callable(source):
        raise TypeError(f"source must be a function of the server or None, not {source!r}")
    if source is not None and registry is not None:
        raise ValueError("source and registry exclude each other: each says what is shown")
    exposition("metrics_routes", {"metrics": {}}, "")
    take: Source = snapshot if source is None else source

    async def metrics(ws: ServerConnection, request: Request, **_: Any) -> Response:
        accept = ", ".join(request.headers.get_all("Accept"))
        if registry is not None:
            body, content_type = registry_exposition(registry, accept)
        else:
            taken = take(ws.server)
            taken = await taken if inspect.isawaitable(taken) else taken
            body, content_type = exposition("metrics_routes", taken, accept)
        headers = Headers([("Content-Type", content_type), ("Cache-Control", "no-store")])
        return Response(http.HTTPStatus.OK, http.HTTPStatus.OK.phrase, headers, body)

    router = Router()
    router.add_http("/metrics", metrics)
    return router
