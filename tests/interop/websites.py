"""A website of taut's: it answers plain requests with a page, so that a browser has an origin, and opens WebSockets."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from browser import Browser, PageSocket
from services.certificates import serving_context

import taut

NAMES = ("*.site.test", "other.test", "*.other.test", "localhost", "127.0.0.1")
ProcessRequest = Callable[[taut.ServerConnection, taut.Request], Awaitable[taut.Response | None] | taut.Response | None]


async def echo(ws: taut.ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


class Website:
    """Where it is, under whatever name the browser finds at 127.0.0.1."""

    def __init__(self, server: taut.Server, tls: bool) -> None:
        self.server = server
        self._s = "s" if tls else ""
        self.plain: Callable[[taut.ServerConnection, taut.Request], taut.Response | None] | None = None
        """Answers plain requests instead of the page, when it returns a response."""

    def origin(self, host: str = "127.0.0.1") -> str:
        return f"http{self._s}://{host}:{self.server.port}"

    def page(self, host: str = "127.0.0.1") -> str:
        return f"{self.origin(host)}/"

    def uri(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"ws{self._s}://{host}:{self.server.port}{path}"

    @property
    def refused(self) -> dict[int, int]:
        """How many handshakes were refused, by the status of the answer; a page is no refusal."""
        return {status: count for status, count in self.server.stats.refused.items() if status != 200}


def html(cookies: Sequence[str]) -> taut.Response:
    body = b"<!doctype html><title>a page</title>"
    headers = taut.Headers({"Content-Type": "text/html", "Content-Length": str(len(body)), "Connection": "close"})
    for cookie in cookies:
        headers.add("Set-Cookie", cookie)
    return taut.Response(200, "OK", headers, body)


@asynccontextmanager
async def website(
    handler: Callable[..., Any] = echo,
    *,
    tls: bool = False,
    cookies: Sequence[str] = (),
    process_request: ProcessRequest | None = None,
    **options: Any,
) -> AsyncIterator[Website]:
    """A site whose page sets these cookies; ``process_request`` sees the requests for WebSockets."""

    async def pages(ws: taut.ServerConnection, request: taut.Request) -> taut.Response | None:
        if "Upgrade" not in request.headers:
            return (site.plain and site.plain(ws, request)) or html(cookies)
        answer = None if process_request is None else process_request(ws, request)
        return await answer if inspect.isawaitable(answer) else answer

    context = serving_context(*NAMES) if tls else None
    async with taut.serve(handler, "127.0.0.1", 0, ssl=context, process_request=pages, **options) as server:
        site = Website(server, tls)
        yield site


class Serving:
    """A handler that hands its connections to the test, which speaks for the server."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[taut.ServerConnection] = asyncio.Queue()

    async def __call__(self, ws: taut.ServerConnection) -> None:
        self.connections.put_nowait(ws)
        await ws.wait_closed()


async def connected(
    browser: Browser, site: Website, serving: Serving, protocols: tuple[str, ...] = (), **options: Any
) -> tuple[PageSocket, taut.ServerConnection]:
    """Both ends of a connection of a new page."""
    page = await browser.page(site.page())
    socket = await page.open(site.uri(), protocols, **options)
    await socket.opened()
    return socket, await serving.connections.get()
