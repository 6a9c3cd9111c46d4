"""taut's client through proxies that are not ours: tinyproxy (HTTP CONNECT) and Dante (SOCKS)."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from network import client_context, server_context
from services import Dante, NodeWs, Tinyproxy

import taut
from taut.errors import DialError, ProxyError

MESSAGES: list[str | bytes] = ["", "hello", b"\x00\xff", "x" * 65536, bytes(1_000_000)]

Proxy = Tinyproxy | Dante

WAYS = {
    "http": ("tinyproxy", "http"),
    "http with a password": ("tinyproxy_auth", "http"),
    "socks4": ("dante", "socks4"),
    "socks4a": ("dante", "socks4a"),
    "socks5": ("dante", "socks5"),
    "socks5h": ("dante", "socks5h"),
    "socks5 with a password": ("dante_auth", "socks5"),
    "socks5h with a password": ("dante_auth", "socks5h"),
}
CHAINS = [
    ("http", "socks5"),
    ("http", "socks4a"),
    ("socks5h", "http"),
    ("socks4", "http with a password"),
    ("socks5h with a password", "http", "socks5h", "http with a password"),
]


@pytest.fixture(params=["ws", "wss"])
def tls(request: pytest.FixtureRequest) -> ssl.SSLContext | None:
    return server_context() if request.param == "wss" else None


@pytest.fixture
def url_of(request: pytest.FixtureRequest) -> Any:
    def url(way: str) -> str:
        name, scheme = WAYS[way]
        proxy: Proxy = request.getfixturevalue(name)
        return proxy.url_as(scheme)

    return url


@asynccontextmanager
async def echoing(context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    async def echo(ws: taut.ServerConnection) -> None:
        async for message in ws:
            await ws.send(message)

    async with taut.serve(echo, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


async def round_trips(port: int, context: ssl.SSLContext | None, host: str = "127.0.0.1", **options: Any) -> None:
    """Messages there and back, and a clean end."""
    uri = f"{'ws' if context is None else 'wss'}://{host}:{port}/"
    ssl_context = None if context is None else client_context()
    async with taut.connect(uri, ssl=ssl_context, **options) as ws:
        for message in MESSAGES:
            await ws.send(message)
            assert await ws.recv() == message
    assert ws.close_info is not None
    assert (ws.close_info.code, ws.close_info.clean, ws.close_info.cause) == (1000, True, None)


@pytest.mark.parametrize("way", WAYS)
async def test_way(way: str, tls: ssl.SSLContext | None, url_of: Any) -> None:
    async with echoing(tls) as port:
        await round_trips(port, tls, proxy=url_of(way))


@pytest.mark.parametrize("chain", CHAINS, ids=" - ".join)
async def test_chain(chain: tuple[str, ...], tls: ssl.SSLContext | None, url_of: Any) -> None:
    async with echoing(tls) as port:
        await round_trips(port, tls, proxy=[url_of(way) for way in chain])


async def logged(service: Proxy, text: str, before: int) -> None:
    """Wait until it has written that, behind what was there before."""
    while text not in service.log()[before:]:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("way", ["http", "socks5h"])  # Dante takes no names with SOCKS 4: it does not know 4a
async def test_name_is_resolved_by_the_proxy(way: str, request: pytest.FixtureRequest, url_of: Any) -> None:
    service: Proxy = request.getfixturevalue(WAYS[way][0])
    async with echoing() as port:
        await round_trips(port, None, host="localhost", proxy=url_of(way))
    before = len(service.log())
    with pytest.raises(ProxyError):
        await taut.connect("ws://nowhere.invalid/", proxy=url_of(way))
    await logged(service, "nowhere.invalid", before)


@pytest.mark.parametrize("way", ["socks4", "socks5"])
async def test_name_is_resolved_here(way: str, dante: Dante, url_of: Any) -> None:
    async with echoing() as port:
        before = len(dante.log())
        await round_trips(port, None, host="localhost", proxy=url_of(way))
        assert "localhost" not in dante.log()[before:]


@pytest.mark.parametrize("way", ["http", "socks5h"])
async def test_environment(monkeypatch: pytest.MonkeyPatch, way: str, url_of: Any, request: Any) -> None:
    """It is for servers elsewhere."""
    service: Proxy = request.getfixturevalue(WAYS[way][0])
    for each in ("ws_proxy", "WS_PROXY", "http_proxy", "HTTP_PROXY", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv("all_proxy", url_of(way))
    before = len(service.log())
    with pytest.raises(ProxyError):
        await taut.connect("ws://elsewhere.invalid:1/")
    await logged(service, "elsewhere.invalid", before)
    async with echoing() as port:
        before = len(service.log())
        await round_trips(port, None)
        assert str(port) not in service.log()[before:]


@pytest.mark.parametrize(
    ("way", "problem"),
    [
        ("http", "HTTP 50"),
        ("http with a password", "HTTP 50"),
        ("socks4", "rejected or failed"),
        ("socks4a", "rejected or failed"),
        ("socks5", "refused"),
        ("socks5h with a password", "refused"),
    ],
)
async def test_nobody_listens_behind_the_proxy(way: str, problem: str, url_of: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(ProxyError) as caught:
            await taut.connect(f"ws://127.0.0.1:{port}/", proxy=url_of(way))
    error = caught.value
    assert problem in error.problem
    assert "@" not in error.proxy
    assert (error.response is not None) == way.startswith("http")
    assert [attempt.stage for attempt in error.attempts] == ["proxy"]


@pytest.mark.parametrize("way", ["http", "socks5"])
async def test_no_proxy_there(way: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        scheme = WAYS[way][1]
        with pytest.raises(DialError) as caught:
            await taut.connect("ws://127.0.0.1:1/", proxy=f"{scheme}://127.0.0.1:{unused.getsockname()[1]}")
    assert caught.value.attempts


@pytest.mark.parametrize("credentials", ["", "taut:wrong@", "somebody:secret@"])
async def test_tinyproxy_refuses_wrong_credentials(credentials: str, tinyproxy_auth: Tinyproxy) -> None:
    url = f"http://{credentials}{tinyproxy_auth.host}:{tinyproxy_auth.port}"
    async with echoing() as port:
        with pytest.raises(ProxyError) as caught:
            await taut.connect(f"ws://127.0.0.1:{port}/", proxy=url)
    assert caught.value.response is not None
    # Without any it answers 407, to wrong ones 401.
    assert caught.value.response.status_code in {401, 407}
    assert caught.value.proxy == f"http://{tinyproxy_auth.host}:{tinyproxy_auth.port}"


@pytest.mark.parametrize(
    ("scheme", "credentials"),
    [
        ("socks5", ""),
        ("socks5h", "taut:wrong@"),
        ("socks5", "somebody:secret@"),
        ("socks4", "taut@"),
    ],
)
async def test_dante_refuses_wrong_credentials(scheme: str, credentials: str, dante_auth: Dante) -> None:
    url = f"{scheme}://{credentials}{dante_auth.host}:{dante_auth.port}"
    async with echoing() as port:
        with pytest.raises(ProxyError) as caught:
            await taut.connect(f"ws://127.0.0.1:{port}/", proxy=url)
    assert caught.value.response is None
    assert caught.value.proxy == f"{scheme}://{dante_auth.host}:{dante_auth.port}"


@pytest.mark.parametrize("chain", [("http", "socks5h"), ("socks5", "http")], ids=" - ".join)
async def test_failure_behind_a_chain_is_that_of_the_last_proxy(chain: tuple[str, str], url_of: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"ws://127.0.0.1:{unused.getsockname()[1]}/"
        with pytest.raises(ProxyError) as caught:
            await taut.connect(uri, proxy=[url_of(way) for way in chain])
    assert caught.value.proxy == url_of(chain[1])


@pytest.mark.parametrize("way", ["http", "socks5h"])
async def test_node_behind_a_proxy(way: str, node_ws: NodeWs, url_of: Any) -> None:
    async with taut.connect(node_ws.uri(), proxy=url_of(way)) as ws:
        for message in MESSAGES:
            await ws.send(message)
            assert await ws.recv() == message
