"""One process that serves, whether it is a worker or there are none.

Loading -> serving -> draining -> done.  What drives it are signals:

- SIGTERM drains a worker whose place is taken by another, or will be: it leaves the listening sockets, and what waits
  in their queues, to that one, lets the handshakes in flight come to their end, and only then begins to close
  connections.  A client is refused nothing;
- SIGINT drains a worker when all of them end: it goes on listening, so that new clients are told with 503 to come back
  later, rather than being refused.  A process on its own does this for both signals;
- SIGQUIT closes at once, as the second SIGTERM or SIGINT does to a process on its own; the third ends that;
- SIGHUP loads the certificate anew, SIGUSR1 writes what all connections are doing.

A worker may get SIGTERM twice, from its parent and from systemd, which sends it to all processes of a service: the
second one must change nothing.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from typing import Any

from ..observability import dump_on_signal, merge, snapshot
from ..server.certificate import ServerCertificate
from ..server.server import Server
from ..server.serving import serve
from .loading import LoadError, made
from .plan import Plan

__all__ = ["Serving"]

_SETTLE = 2.0
"""How long handshakes in flight may take, once this process leaves its sockets to others (seconds)."""
_LOOK = 0.02


class Serving:
    """The life of one process that serves.

    ``alone``: whether there is no process above it. ``leaves``: whether others have its sockets as well. ``on_stop`` is
    called when the drain has begun, and the sockets are left.
    """

    def __init__(self, plan: Plan, *, alone: bool, leaves: bool, on_stop: Callable[[], None]) -> None:
        self.logger = logging.getLogger("taut.workers")
        self._plan = plan
        self._alone = alone
        self._leaves = leaves
        self._on_stop = on_stop
        self._server: Server | None = None
        self._certificate: ServerCertificate | None = None
        self._stop = asyncio.Event()
        self._stops = 0

    async def run(self, app: Any, sockets: list[socket.socket], ready: Callable[[Server], None]) -> None:
        """Serve ``app`` on these sockets until a signal ends it; ``ready`` is called once it serves."""
        plan = self._plan
        loop = asyncio.get_running_loop()
        self._certificate = plan.server_certificate()
        context = None if self._certificate is None else self._certificate.context
        for number, action in self._handled().items():
            loop.add_signal_handler(number, action)
        try:
            async with made(app, plan.app, plan.factory) as handler:
                server = self._server = await self._server_of(handler).listening_on(sockets, context)
                undo = dump_on_signal(server)
                try:
                    ready(server)
                    await self._stop.wait()
                    await self._drain(server)
                finally:
                    server.close(code=1012)
                    await server.wait_closed()
                    undo()
        finally:
            for number in self._handled():
                loop.remove_signal_handler(number)

    @property
    def is_ready(self) -> bool:
        """Whether new connections are welcome."""
        return self._server is not None and self._server.ready

    def counted(self) -> dict[str, Any]:
        """A snapshot of the server; an empty one while there is none."""
        return merge([]) if self._server is None else snapshot(self._server)

    def _handled(self) -> dict[signal.Signals, Callable[[], None]]:
        if self._alone:
            return {signal.SIGTERM: self._stop_alone, signal.SIGINT: self._stop_alone, signal.SIGHUP: self._reload}
        return {
            signal.SIGTERM: lambda: self._begin_to_stop(leaves=True),
            signal.SIGINT: lambda: self._begin_to_stop(leaves=False),
            signal.SIGQUIT: self._close,
            signal.SIGHUP: self._reload,
        }

    def _server_of(self, found: Any) -> serve:
        """The server that is to be started: ``found`` itself if it is one, else one for this handler."""
        plan = self._plan
        if isinstance(found, serve):
            if plan.options:
                given = ", ".join(plan.options)
                raise LoadError(f"{plan.app} is a server with options of its own, and these would be in vain: {given}")
            return found
        try:
            return serve(found, **plan.options)
        except TypeError as exc:
            raise LoadError(f"{plan.app} cannot be served: {exc}") from None

    def _stop_alone(self) -> None:
        self._stops += 1
        if self._stops == 1:
            self._begin_to_stop(leaves=self._leaves)
        else:
            self._close()
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().remove_signal_handler(number)

    def _begin_to_stop(self, *, leaves: bool) -> None:
        if not self._stop.is_set():
            self._leaves = leaves
            self._stop.set()

    async def _drain(self, server: Server) -> None:
        if not self._leaves:
            self._on_stop()
            await server.drain(self._plan.drain)
            return
        server.hand_over()
        self._on_stop()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(_SETTLE, self._plan.drain)
        while server.handshakes and loop.time() < deadline:  # noqa: ASYNC110 - once in the life of a process
            await asyncio.sleep(_LOOK)
        # Somebody else serves already: there is nothing to wait for.
        await server.drain(max(self._plan.drain - _SETTLE, 0.0), retry_after=None, keep_listening=False)

    def _close(self) -> None:
        self._begin_to_stop(leaves=self._leaves)
        if self._server is not None:
            self._server.close(code=1012)

    def _reload(self) -> None:
        if self._certificate is None:
            self.logger.warning("SIGHUP has nothing to reload in this process: there is no certificate")
            return
        try:
            self._certificate.reload()
        except (OSError, ValueError) as exc:
            self.logger.error("the certificate in use stays, %s cannot be loaded: %s", self._plan.certificate, exc)
        else:
            self.logger.info("certificate %s loaded anew", self._plan.certificate)
