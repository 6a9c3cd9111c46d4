"""HAProxy, and nginx, in front of a server that is to know its clients."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable

import pytest
from network import client_context, server_context
from services import HAProxy, Nginx
from services.certificates import trusting_context

import taut

StartHAProxy = Callable[..., HAProxy]
CLIENT = "127.0.0.2"
"""Where clients connect from, so that they are not where the proxies are."""


async def who(ws: taut.ServerConnection) -> None:
    await ws.send(ws.remote_address[0])
    async for message in ws:
        await ws.send(message)


def port_of(server: taut.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


@pytest.mark.parametrize("tls", [None, "at the proxy", "at the server"])
@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl"])
async def test_the_proxy_protocol(haproxy: StartHAProxy, send: str, tls: str | None) -> None:
    options = {"proxy_protocol": True, "trusted_proxies": ["127.0.0.1"]}
    at_server = server_context() if tls == "at the server" else None
    context: ssl.SSLContext | None = None
    if tls is not None:
        context = client_context() if at_server else trusting_context()
    async with taut.serve(who, "127.0.0.1", 0, ssl=at_server, **options) as server:
        proxy = haproxy(port_of(server), tls=tls == "at the proxy", send=send)
        uri = f"{'ws' if tls is None else 'wss'}://127.0.0.1:{proxy.port}/"
        # HAProxy tells the server of TLS with v2-ssl only; the browser's origin is that of the page in any case.
        knows = tls != "at the proxy" or send == "send-proxy-v2-ssl"
        origin = f"{'http' if tls is None or not knows else 'https'}://127.0.0.1:{proxy.port}"
        async with taut.connect(uri, ssl=context, local_addr=(CLIENT, 0), origin=origin) as ws:
            assert await ws.recv() == CLIENT
            (served,) = server.connections
            assert ws.local_address == served.remote_address
            assert served.local_address == ws.remote_address
            for message in ("Grüße", bytes(300_000)):
                await ws.send(message)
                assert await ws.recv() == message
            await ws.close(4000, "done")
        assert ws.close_info == taut.CloseInfo(taut.Initiator.LOCAL, 4000, "done", clean=True)


async def test_many_at_once(haproxy: StartHAProxy) -> None:
    async def one() -> None:
        async with taut.connect(proxy.url, ssl=client_context(), connecting_limit=None, local_addr=(CLIENT, 0)) as ws:
            assert await ws.recv() == CLIENT

    options = {"proxy_protocol": True, "trusted_proxies": ["127.0.0.1"], "max_tls_handshakes": 4}
    async with taut.serve(who, "127.0.0.1", 0, ssl=server_context(), **options) as server:
        proxy = haproxy(port_of(server))
        proxy.scheme = "wss"
        await asyncio.gather(*(one() for _ in range(40)))


async def test_a_client_that_goes_past_the_proxy_is_not_let_in(haproxy: StartHAProxy) -> None:
    async with taut.serve(who, "127.0.0.1", 0, proxy_protocol=True, trusted_proxies=["127.0.0.1"]) as server:
        haproxy(port_of(server))
        with pytest.raises(taut.InvalidHandshake):
            await taut.connect(f"ws://127.0.0.1:{port_of(server)}/", local_addr=(CLIENT, 0))


async def test_a_server_that_does_not_expect_the_header_refuses_it(
    haproxy: StartHAProxy, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with taut.serve(who, "127.0.0.1", 0) as server:
        proxy = haproxy(port_of(server), send="send-proxy")
        with pytest.raises(taut.InvalidStatus):
            await taut.connect(proxy.url)


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("kind", ["haproxy", "nginx"])
async def test_forwarded_headers(haproxy: StartHAProxy, nginx: Callable[..., Nginx], tls: bool, kind: str) -> None:
    """The address of the client, and the same origin although TLS ends at the proxy; spoofed headers change neither."""
    async with taut.serve(who, "127.0.0.1", 0, trusted_proxies=["127.0.0.1"]) as server:
        proxy = haproxy(port_of(server), tls=tls, send=None) if kind == "haproxy" else nginx(port_of(server), tls=tls)
        context = trusting_context() if tls else None
        spoof = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "http" if tls else "https"}
        same = f"{'https' if tls else 'http'}://127.0.0.1:{proxy.port}"
        for headers in ({}, spoof):
            async with taut.connect(
                proxy.url, ssl=context, local_addr=(CLIENT, 0), origin=same, additional_headers=headers
            ) as ws:
                assert await ws.recv() == CLIENT
            with pytest.raises(taut.InvalidStatus) as caught:
                other = same.replace("https", "http") if tls else same.replace("http", "https")
                await taut.connect(proxy.url, ssl=context, origin=other, additional_headers=headers)
            assert caught.value.response.status_code == 403


async def test_a_forwarded_header_that_nginx_lets_pass_is_not_believed(nginx: Callable[..., Nginx]) -> None:
    async with taut.serve(who, "127.0.0.1", 0, trusted_proxies=["127.0.0.1"]) as server:
        proxy = nginx(port_of(server))
        with pytest.raises(taut.InvalidStatus) as caught:
            await taut.connect(proxy.url, additional_headers={"Forwarded": "for=6.6.6.6"})
        assert caught.value.response.status_code == 400
