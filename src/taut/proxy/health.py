"""Health checks: whether an upstream is there and well, asked again and again while the proxy runs.

One task for each upstream.  It changes its mind about the upstream only after ``unhealthy_after`` failures in a row, or
``healthy_after`` successes, so that one lost packet takes nobody out; the first check of all decides at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..options import check_count, check_number, check_text
from .probes import probe
from .upstreams import Backend

__all__ = ["HealthCheck", "HealthChecks"]

_KINDS = ("tcp", "http", "websocket")


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """How an upstream is checked, and what follows from it.

    ``kind``: "tcp", a connection can be made, with wss a TLS handshake; "http", a GET of ``path`` is answered with 2xx
    or 3xx; "websocket", a connection to ``path`` can be opened, and is closed again. ``path``: as it is, nothing is put
    before it. ``interval`` (5 s), ``timeout`` (2 s). ``unhealthy_after`` (2), ``healthy_after`` (1): how many failures
    or successes in a row take an upstream out or bring it back.
    """

    kind: Literal["tcp", "http", "websocket"] = "tcp"
    path: str = "/"
    interval: float = 5.0
    timeout: float = 2.0
    unhealthy_after: int = 2
    healthy_after: int = 1

    def __post_init__(self) -> None:
        if self.kind not in _KINDS:
            raise ValueError(f'kind must be "tcp", "http" or "websocket", not {self.kind!r}')
        check_text("path", self.path)
        if not re.fullmatch(r"/[!-\"$-~]*", self.path):
            raise ValueError(f"path must begin with / and be percent-encoded, not {self.path!r}")
        check_number("interval", self.interval, above=0)
        check_number("timeout", self.timeout, above=0)
        check_count("unhealthy_after", self.unhealthy_after, least=1)
        check_count("healthy_after", self.healthy_after, least=1)


class HealthChecks:
    """The checks of all upstreams of a proxy."""

    def __init__(self, checked: Iterable[tuple[Backend, HealthCheck]], logger: logging.Logger) -> None:
        self._checked = tuple(checked)
        self._logger = logger
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin; needs a running event loop. Does nothing if they go on already."""
        if not self._tasks:
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._watch(*each)) for each in self._checked]

    async def stop(self) -> None:
        """End them, and wait until they have."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _watch(self, backend: Backend, check: HealthCheck) -> None:
        successes = failures = 0
        first = True
        while True:
            problem = await self._probe(backend, check)
            successes, failures = (successes + 1, 0) if problem is None else (0, failures + 1)
            if problem is None and (first or successes >= check.healthy_after):
                self._conclude(backend, None)
            elif problem is not None and (first or failures >= check.unhealthy_after):
                self._conclude(backend, problem)
            first = False
            # Not all at the same time, though all began together.
            await asyncio.sleep(check.interval * random.uniform(0.9, 1.1))

    async def _probe(self, backend: Backend, check: HealthCheck) -> str | None:
        """What is wrong with it; None if nothing is."""
        try:
            async with asyncio.timeout(check.timeout):
                return await probe(backend, check.kind, check.path)
        except TimeoutError:
            return f"no answer within {check.timeout:g} s"
        except Exception as exc:  # whatever it does to us, the checks go on
            return str(exc) or type(exc).__name__

    def _conclude(self, backend: Backend, problem: str | None) -> None:
        healthy = problem is None
        if healthy != backend.healthy:
            if healthy:
                self._logger.info("upstream %s is healthy again", backend.name)
            else:
                self._logger.warning("upstream %s is out: %s", backend.name, problem)
        if not healthy or not backend.healthy or backend.problem is not None:
            backend.checked(healthy, problem)
