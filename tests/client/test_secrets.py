"""What a client was given to prove who it is: in no text, no repr and no log."""

from __future__ import annotations

import asyncio
import logging

import pytest
from network import Driver
from peers import Peer

import taut
from taut.client.connecting import Connecting
from taut.client.dialling.proxies import parse_proxies


def test_options_do_not_show_them() -> None:
    connecting = Connecting(
        "wss://me:sesame@host.test/",
        {
            "additional_headers": {"X-Api-Key": "sesame"},
            "proxy": "http://me:sesame@gate",
            "proxy_headers": {"X-Gate-Key": "sesame"},
        },
    )
    assert "sesame" not in f"{connecting.options!r} {connecting.uri!r} {connecting.uri}"
    assert "sesame" not in repr(Connecting("wss://host.test/", {"bearer_token": "sesame"}).options)


@pytest.mark.parametrize("uri", ["http://me:sesame@host.test/", "ws://me:ses@ame:sesame@host.test/#x"])
def test_an_invalid_uri_does_not_show_them(uri: str) -> None:
    with pytest.raises(taut.InvalidURI) as caught:
        taut.connect(uri)
    assert "host.test" in repr(caught.value)
    assert not any(part in f"{caught.value} {caught.value!r}" for part in ("sesame", "ame:"))
    assert caught.value.uri == uri


def test_an_invalid_proxy_does_not_show_them() -> None:
    with pytest.raises(taut.InvalidProxy) as caught:
        parse_proxies("ftp://me:sesame@gate.test")
    assert "sesame" not in f"{caught.value} {caught.value!r}"
    assert "sesame" not in repr(taut.InvalidProxy("ftp://me:sesame@gate.test", "no"))
    assert "sesame" not in repr(taut.ProxyError("http://me:sesame@gate.test", "no"))


async def test_the_log_of_reconnecting_does_not_show_a_token_of_the_query(
    tcp: Driver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    policy = taut.ReconnectPolicy(base_delay=0.001)
    async with tcp.raw_serve() as server:
        connections = aiter(server.connect("/?token=sesame", reconnect=policy))
        for _ in range(2):
            opening = anext(connections)
            peers: list[Peer] = []

            async def drop(peers: list[Peer] = peers) -> None:
                peer = await server.accept()
                await peer.respond()
                peers.append(peer)

            ws, _ = await asyncio.gather(opening, drop())
            await peers[0].drop()
            await ws.wait_closed()
        await connections.aclose()
    assert "connecting to 127.0.0.1" in caplog.text
    assert "sesame" not in caplog.text
