"""A page in Chromium, taut's reverse proxy, and a server of taut behind it: the proxy is not to be noticed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from browser import browsing
from services import Chromium
from services.certificates import serving_context

import taut
import taut.proxy

pytestmark = pytest.mark.parametrize("loop_name", ["uvloop"])


async def handler(ws: taut.ServerConnection) -> None:
    await ws.send(f"{ws.principal} {ws.remote_address[0]}")
    async for message in ws:
        if message == "end":
            await ws.close(4000, "as asked")
        else:
            await ws.send(message)


@asynccontextmanager
async def behind(**options: object) -> AsyncIterator[tuple[taut.Server, taut.proxy.ProxyServer]]:
    """A server that speaks "chat" and wants a token, and a proxy before it, which does TLS."""
    served = {
        "process_request": taut.subprotocol_auth("bearer.", {"t0ken": "ann"}.get),
        "subprotocols": ["chat"],
        "trusted_proxies": ["127.0.0.1"],
    }
    async with taut.serve(handler, "127.0.0.1", 0, **served) as server:
        context = serving_context("127.0.0.1", "localhost")
        upstream = f"ws://127.0.0.1:{server.port}"
        async with taut.proxy.serve(upstream, "127.0.0.1", 0, ssl=context, **options) as proxy:
            yield server, proxy


async def test_a_page_of_the_origin_of_the_proxy(chromium: Chromium) -> None:
    async with behind() as (server, proxy), browsing(chromium.devtools) as browser:
        page = await browser.page(f"https://127.0.0.1:{proxy.port}/")
        uri = f"wss://127.0.0.1:{proxy.port}/"
        socket = await page.open(uri, ["chat", "bearer.t0ken"])
        opened = await socket.opened()
        assert opened["protocol"] == "chat"
        assert "permessage-deflate" in opened["extensions"]
        assert await socket.receive() == "ann 127.0.0.1"
        for text in ("Grüße", "ab" * 500_000):
            await socket.send(text)
            assert await socket.receive() == text
        await socket.send("end")
        assert await socket.closed() == (4000, "as asked", True)

        socket = await page.open(uri, ["chat", "bearer.guessed"])
        await socket.failed()
        assert server.stats.refused[401] == 1

        socket = await page.open(uri, ["chat", "bearer.t0ken"])
        await socket.opened()
        assert await socket.receive() == "ann 127.0.0.1"
        await server.drain(10, spread=0, retry_after=None)
        assert await socket.closed() == (1012, "service restart", True)


async def test_a_page_of_another_origin(chromium: Chromium) -> None:
    """Is refused by the server behind, which is told the origin, and where the page thinks that it connects to."""
    async with behind() as (server, proxy), browsing(chromium.devtools) as browser:
        page = await browser.page(f"https://localhost:{proxy.port}/")
        socket = await page.open(f"wss://127.0.0.1:{proxy.port}/", ["chat", "bearer.t0ken"])
        await socket.failed()
        assert server.stats.refused[403] == 1
        assert server.stats.accepted == 0
