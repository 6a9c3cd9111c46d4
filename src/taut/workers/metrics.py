"""The metrics of all workers, added up, and a server of its own to show them.

Every worker counts for itself.  When somebody asks, all are asked, and what they answer is added up; one that does not
answer in time, because it is busy, counts with what it said last.  What a worker has counted stays when it is gone:
without that, sums would fall whenever a worker is replaced, and Prometheus would take it for a restart.  A worker says
what it has counted at last when it ends; one that is killed does not, and what it has counted since it was asked is
lost.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from ..observability import health_routes, merge, metrics_routes, retired
from ..server.routing import Router
from ..server.server import Server
from ..server.serving import serve
from .child import Child, ChildState

__all__ = ["Totals", "showing"]

_PATIENCE = 2.0
"""How long workers are waited for (seconds)."""

Snapshot = dict[str, Any]


class Totals:
    """What the workers of a supervisor have counted."""

    def __init__(self) -> None:
        self.exits = 0
        """How many workers have ended unasked."""
        self._gone: list[Snapshot] = []

    def ended(self, child: Child) -> None:
        """Keep what it has counted."""
        if child.snapshot is not None:
            self._gone = [_sum([*self._gone, retired(child.snapshot)])]

    async def take(self, children: Iterable[Child]) -> Snapshot:
        """The sum of all that are there, and of those that were."""
        there = [child for child in children if child.ready_at is not None and child.state is not ChildState.ENDED]
        answers = [child.ask() for child in there]
        if answers:
            await asyncio.wait(answers, timeout=_PATIENCE)
        known = [
            child.snapshot for child in there if child.state is not ChildState.ENDED and child.snapshot is not None
        ]
        serving = sum(child.state is ChildState.SERVING for child in there)
        total = _sum([*self._gone, *known])
        total["metrics"] |= {"taut_workers": [[[], serving]], "taut_worker_exits": [[[], self.exits]]}
        return total


def _sum(snapshots: Sequence[Snapshot]) -> Snapshot:
    """The sum of those that can be added: after an upgrade, the workers may run another version of taut than this."""
    version = merge([])["version"]
    return merge([each for each in snapshots if each.get("version") == version])


@asynccontextmanager
async def showing(
    sockets: Sequence[socket.socket],
    source: Callable[[Server], Snapshot | Awaitable[Snapshot]],
    ready: Callable[[], bool],
    *,
    name: str = "workers",
) -> AsyncGenerator[None]:
    """Serve ``/metrics``, ``/healthz`` and ``/readyz`` on these sockets, if there are any.

    ``name``: whose they are, for the check of readiness and the log, ``taut.NAME``.
    """
    if not sockets:
        yield
        return
    router = Router()
    router.mount("", metrics_routes(source))
    router.mount("", health_routes({name: ready}))
    async with serve(router, sock=sockets, logger=f"taut.{name}.metrics") as server:
        host, port = server.sockets[0].getsockname()[:2]
        logging.getLogger(f"taut.{name}").info(
            "metrics on http://%s:%d/metrics", f"[{host}]" if ":" in host else host, port
        )
        yield
