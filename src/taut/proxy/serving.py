"""``taut.proxy.serve``: a server whose connections are all proxied."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Generator, Sequence
from typing import Any, cast

from ..server.connection import ServerConnection
from ..server.server import Server
from ..server.serving import serve as serve_handler
from ..server.terms import ProcessRequest, check_hook
from ..types import Request, Response
from .proxy import Proxy
from .routes import Route
from .upstreams import Upstream

__all__ = ["ProxyServer", "serve"]


class ProxyServer(Server):
    """A running server whose connections are proxied; health checks go on while it runs."""

    proxy: Proxy

    async def start(self, sockets: Sequence[socket.socket]) -> None:
        """Accept connections on these sockets, and start the health checks."""
        await super().start(sockets)
        self.proxy.start()

    def more_samples(self) -> dict[str, list[list[Any]]]:
        """What is counted for upstreams."""
        return self.proxy.samples()

    async def _close(self, *args: Any, **options: Any) -> None:
        await self.proxy.stop()
        await super()._close(*args, **options)


class serve(serve_handler):  # used like a function, as ``taut.serve`` is
    """Start a reverse proxy: ``async with taut.proxy.serve(to, host, port) as server``, or ``await`` it.

    ``to``: a ``Proxy``, or what it takes first: a URI, an ``Upstream``, a ``Route``, or a sequence of these.
    ``origins`` (["*"]): who may connect from a browser; by default that is for the upstream to say, which is sent the
    Origin header. ``process_request``: asked before the upstream is dialled, to authenticate clients for example.
    ``max_size``, ``max_fragments`` (None): of what clients send. ``open_timeout``: as for ``taut.serve``, and by
    default as much longer as the upstreams may take.  The rest is as for ``taut.serve``; ``subprotocols``,
    ``select_subprotocol`` and ``process_response`` are the upstream's part.
    """

    def __init__(
        self,
        to: Proxy | str | Upstream | Route | Sequence[str | Upstream] | Sequence[Route],
        host: str | Sequence[str] | None = None,
        port: int | None = None,
        *,
        process_request: ProcessRequest | None = None,
        **options: Any,
    ) -> None:
        for name in ("subprotocols", "select_subprotocol", "process_response", "cancel_on_close"):
            if name in options:
                raise TypeError(f"{name} is not for a proxy, which passes on what its upstream decides")
        check_hook("process_request", process_request)
        self.proxy = proxy = to if isinstance(to, Proxy) else Proxy(to)
        self._asked_first = process_request
        arguments: dict[str, Any] = {
            "origins": ["*"],
            "open_timeout": 10.0 + proxy.patience,
            "max_size": None,
            "max_fragments": None,
        } | options
        super().__init__(
            proxy.handler,
            host,
            port,
            process_request=proxy.process_request if process_request is None else self._ask,
            process_response=proxy.process_response,
            select_subprotocol=proxy.select_subprotocol,
            **arguments,
        )

    async def _ask(self, connection: ServerConnection, request: Request) -> Response | None:
        assert self._asked_first is not None
        answer = self._asked_first(connection, request)
        answer = await answer if inspect.isawaitable(answer) else answer
        return answer or await self.proxy.process_request(connection, request)

    async def _start(self) -> ProxyServer:
        return cast("ProxyServer", await super()._start())

    def __await__(self) -> Generator[Any, None, ProxyServer]:
        return self._start().__await__()

    async def __aenter__(self) -> ProxyServer:
        return await self._start()

    def _new_server(self, loop: asyncio.AbstractEventLoop) -> ProxyServer:
        server = ProxyServer(loop, self)
        server.proxy = self.proxy
        return server
