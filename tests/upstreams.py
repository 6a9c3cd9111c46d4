"""Servers behind a reverse proxy, and clients in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import taut
import taut.proxy


async def echo(ws: taut.ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


def uri(server: taut.Server, target: str = "") -> str:
    return f"ws://127.0.0.1:{server.port}{target}"


@asynccontextmanager
async def proxied(
    handler: Any = echo,
    *,
    upstream: dict[str, Any] | None = None,
    proxy: dict[str, Any] | None = None,
    route: dict[str, Any] | None = None,
    **server: Any,
) -> AsyncIterator[tuple[taut.Server, taut.proxy.ProxyServer]]:
    """An upstream that serves with ``handler``, and a proxy in front of it; each with options of its own."""
    async with taut.serve(handler, "127.0.0.1", 0, **(upstream or {})) as behind:
        made = taut.proxy.Proxy(taut.proxy.Route(uri(behind), **(route or {})), **(proxy or {}))
        serving = taut.proxy.serve(made, "127.0.0.1", 0, **server)
        async with serving as front:
            yield behind, front
