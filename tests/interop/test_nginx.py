"""nginx between a client and a server of taut: upgrades, idle connections, reloads, upstreams that are gone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from services import Nginx
from services.certificates import trusting_context
from services.processes import free_port

import taut

StartNginx = Callable[..., Nginx]


async def echo(ws: taut.ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


@asynccontextmanager
async def upstream(**options: object) -> AsyncIterator[tuple[taut.Server, int]]:
    async with taut.serve(echo, "127.0.0.1", 0, **options) as server:
        yield server, server.sockets[0].getsockname()[1]


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_messages_come_back(nginx: StartNginx, tls: bool, compression: str | None) -> None:
    async with upstream(compression=compression, subprotocols=["b"]) as (_, port):
        proxy = nginx(port, tls=tls, prefix="/some/where/")
        context = trusting_context() if tls else None
        async with taut.connect(proxy.url + "room?x=1", ssl=context, subprotocols=["a", "b"], max_size=None) as ws:
            assert ws.subprotocol == "b"
            assert ws.response is not None
            assert ("Sec-WebSocket-Extensions" in ws.response.headers) == (compression is not None)
            for message in ("", b"", "Grüße", bytes(range(256)) * 1000, "ab" * 400_000):
                await ws.send(message)
                assert await ws.recv() == message
            assert await (await ws.ping(b"through")) > 0
            await ws.close(4000, "done")
        assert ws.close_info == taut.CloseInfo(taut.Initiator.LOCAL, 4000, "done", clean=True)


async def test_the_server_sees_what_the_client_asked_for(nginx: StartNginx) -> None:
    seen: asyncio.Queue[taut.Request] = asyncio.Queue()

    async def tell(ws: taut.ServerConnection) -> None:
        assert ws.request is not None
        seen.put_nowait(ws.request)

    async with taut.serve(tell, "127.0.0.1", 0) as server:
        proxy = nginx(server.sockets[0].getsockname()[1], prefix="/app/")
        headers = {"Authorization": "Bearer x", "Cookie": "a=b"}
        async with taut.connect(f"{proxy.url}chat?q=1", additional_headers=headers):
            request = await seen.get()
    assert request.path == "/chat?q=1"
    assert request.headers["Host"] == f"127.0.0.1:{proxy.port}"
    assert request.headers["Authorization"] == "Bearer x"
    assert request.headers["Cookie"] == "a=b"
    assert request.headers["X-Forwarded-For"] == "127.0.0.1"


async def test_nginx_ends_an_idle_connection(nginx: StartNginx) -> None:
    async with upstream(ping_interval=None) as (_, port):
        proxy = nginx(port, read_timeout=0.2)
        async with taut.connect(proxy.url, ping_interval=None) as ws:
            with pytest.raises(taut.ConnectionClosedError) as caught:
                await ws.recv()
        assert caught.value.info.code == 1006
        assert caught.value.info.initiator is taut.Initiator.NETWORK


async def test_keepalive_keeps_an_idle_connection(nginx: StartNginx) -> None:
    async with upstream(ping_interval=None) as (_, port):
        proxy = nginx(port, read_timeout=1.0)
        async with taut.connect(proxy.url, ping_interval=0.1) as ws:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2.0):
                    await ws.recv()
            await ws.send("still here")
            assert await ws.recv() == "still here"


async def test_a_connection_outlives_a_reload(nginx: StartNginx) -> None:
    async with upstream() as (_, port):
        proxy = nginx(port)
        async with taut.connect(proxy.url) as ws:
            await reload(proxy)
            await ws.send("as before")
            assert await ws.recv() == "as before"
            async with taut.connect(proxy.url) as another:
                await another.send("new")
                assert await another.recv() == "new"


async def test_a_reload_with_a_time_limit_ends_connections(nginx: StartNginx) -> None:
    async with upstream() as (_, port):
        proxy = nginx(port, shutdown_timeout=0.1)
        async with taut.connect(proxy.url) as ws:
            await reload(proxy)
            await ws.wait_closed()
            assert ws.close_code == 1006
        async with taut.connect(proxy.url) as ws:
            await ws.send("and on")
            assert await ws.recv() == "and on"


async def test_nginx_stops(nginx: StartNginx) -> None:
    async with upstream() as (_, port):
        proxy = nginx(port)
        async with taut.connect(proxy.url) as ws:
            await asyncio.to_thread(proxy.end)
            await ws.wait_closed()
            assert ws.close_code == 1006
        with pytest.raises(taut.ConnectRefused) as caught:
            await taut.connect(proxy.url)
        assert [attempt.stage for attempt in caught.value.attempts] == ["connect"]


async def test_the_upstream_is_gone(nginx: StartNginx) -> None:
    proxy = nginx(free_port())
    with pytest.raises(taut.InvalidStatus) as caught:
        await taut.connect(proxy.url)
    assert caught.value.response is not None
    assert caught.value.response.status_code == 502
    assert b"Bad Gateway" in caught.value.response.body


async def test_the_upstream_never_answers(nginx: StartNginx) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        proxy = nginx(silent.getsockname()[1], read_timeout=0.2)
        with pytest.raises(taut.InvalidStatus) as caught:
            await taut.connect(proxy.url)
    assert caught.value.response is not None
    assert caught.value.response.status_code == 504


async def test_the_upstream_closes_with_a_reason(nginx: StartNginx) -> None:
    async with upstream() as (server, port):
        proxy = nginx(port)
        async with taut.connect(proxy.url) as ws:
            server.close(code=1012, reason="restarting")
            await ws.wait_closed()
        assert ws.close_info == taut.CloseInfo(taut.Initiator.REMOTE, 1012, "restarting", clean=True)


async def test_another_path_is_not_found(nginx: StartNginx) -> None:
    async with upstream() as (_, port):
        proxy = nginx(port, prefix="/app/")
        with pytest.raises(taut.InvalidStatus) as caught:
            await taut.connect(f"ws://127.0.0.1:{proxy.port}/elsewhere")
    assert caught.value.response is not None
    assert caught.value.response.status_code == 404


async def reload(proxy: Nginx) -> None:
    """Reload, and wait until the new worker has taken over: the old one exits or says that it is about to."""
    proxy.reload()
    while "gracefully shutting down" not in proxy.log():
        await asyncio.sleep(0.01)
