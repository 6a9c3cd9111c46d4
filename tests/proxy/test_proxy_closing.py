"""How a connection through a proxy ends: what each side sees of the end of the other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from faults import FaultyProxy
from network import Driver, RawServer
from peers import Peer
from upstreams import echo, proxied, uri

import taut
import taut.proxy

CLOSE, TEXT, CONT, PING = 0x8, 0x1, 0x0, 0x9


class Ends:
    """What upstreams saw of the end of their connections."""

    def __init__(self) -> None:
        self.ended: asyncio.Queue[taut.CloseInfo] = asyncio.Queue()
        self.messages: list[Any] = []

    async def serve(self, ws: taut.ServerConnection) -> None:
        try:
            while True:
                self.messages.append(await ws.recv())
        except taut.ConnectionClosed as exc:
            self.ended.put_nowait(exc.info)


async def between(tcp: Driver, raw: RawServer, front: taut.Server, client: Peer) -> Peer:
    """The upstream of a raw client: both opening handshakes are made."""
    client.write(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
    client.write(b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n")
    upstream = await raw.accept()
    await upstream.respond()
    assert (await client.read_head()).startswith("HTTP/1.1 101 ")
    return upstream


def front_of(raw: RawServer, **options: Any) -> taut.proxy.serve:
    options = {"close_timeout": 0.1} | options  # raw peers do not end the byte stream when they should
    own = {name: options.pop(name) for name in ("close_timeout", "ping_interval") if name in options}
    proxy = taut.proxy.Proxy(f"ws://127.0.0.1:{raw.address}", compression=None, **own)
    return taut.proxy.serve(proxy, "127.0.0.1", 0, **own, **options)


CODES = [(1000, ""), (1001, "gone"), (1003, ""), (1008, "no"), (1011, "ä" * 60), (1012, ""), (3000, "x"), (4999, "")]


@pytest.mark.parametrize(("code", "reason"), CODES)
async def test_the_clients_close_is_the_upstreams(code: int, reason: str) -> None:
    ends = Ends()
    async with proxied(ends.serve) as (_, front):
        async with taut.connect(uri(front)) as ws:
            await ws.send("last")
            await ws.close(code, reason)
        info = await ends.ended.get()
    assert (info.initiator, info.code, info.reason, info.clean) == (taut.Initiator.REMOTE, code, reason, True)
    assert ends.messages == ["last"]


@pytest.mark.parametrize(("code", "reason"), CODES)
async def test_the_upstreams_close_is_the_clients(code: int, reason: str) -> None:
    async def leave(ws: taut.ServerConnection) -> None:
        await ws.send("last")
        await ws.close(code, reason)

    async with proxied(leave) as (_, front), taut.connect(uri(front)) as ws:
        assert await ws.recv() == "last"
        await ws.wait_closed()
        info = ws.close_info
    assert info is not None
    assert (info.initiator, info.code, info.reason, info.clean) == (taut.Initiator.REMOTE, code, reason, True)


async def test_a_close_without_a_code_stays_one(tcp: Driver) -> None:
    for closes in ("client", "upstream"):
        async with tcp.raw_serve() as raw, front_of(raw) as front, tcp.peer(front) as client:
            upstream = await between(tcp, raw, front, client)
            first, second = (client, upstream) if closes == "client" else (upstream, client)
            first.send(CLOSE)
            frame = await second.frame()
            assert (frame.opcode, frame.payload) == (CLOSE, b"")
            second.send(CLOSE)
            frame = await first.frame()
            assert (frame.opcode, frame.payload) == (CLOSE, b"")
            first.transport.close()
            second.transport.close()


async def test_a_lost_client_is_a_lost_client_to_the_upstream(tcp: Driver) -> None:
    ends = Ends()
    async with proxied(ends.serve) as (_, front):
        for fault in ("fin", "reset"):
            async with FaultyProxy(front.port) as faults:
                ws = await taut.connect(f"ws://127.0.0.1:{faults.port}")
                await ws.send("before")
                await (await ws.ping())
                faults.cut(fault)  # type: ignore[arg-type]
                info = await ends.ended.get()
                await ws.wait_closed()
            assert (info.initiator, info.code) == (taut.Initiator.NETWORK, 1006)
    assert ends.messages == ["before", "before"]


async def test_what_a_lost_client_sent_arrives_first(tcp: Driver) -> None:
    """The last thing that the proxy does for it is to see that the upstream has everything."""
    async with tcp.raw_serve() as raw, front_of(raw) as front, tcp.peer(front) as client:
        upstream = await between(tcp, raw, front, client)
        client.send(TEXT, b"last words")
        client.transport.abort()
        assert (await upstream.frame()).payload == b"last words"
        ping = await upstream.frame()
        assert ping.opcode == PING
        assert not upstream.eof
        upstream.send(0xA, ping.payload)
        assert await upstream.read_to_end() == b""


async def test_an_upstream_that_does_not_care_for_a_lost_client(tcp: Driver) -> None:
    async with tcp.raw_serve() as raw, front_of(raw, close_timeout=0.05) as front, tcp.peer(front) as client:
        upstream = await between(tcp, raw, front, client)
        client.transport.abort()
        assert (await upstream.frame()).opcode == PING
        assert await upstream.read_to_end() == b""


async def test_a_lost_upstream_is_a_bad_gateway() -> None:
    for fault in ("fin", "reset"):
        async with (
            taut.serve(echo, "127.0.0.1", 0) as behind,
            FaultyProxy(behind.port) as faults,
            taut.proxy.serve(f"ws://127.0.0.1:{faults.port}", "127.0.0.1", 0) as front,
            taut.connect(uri(front)) as ws,
        ):
            await ws.send("x")
            assert await ws.recv() == "x"
            faults.cut(fault)  # type: ignore[arg-type]
            await ws.wait_closed()
            assert (ws.close_code, ws.close_reason) == (1014, "the connection to the upstream was lost")


async def test_an_upstream_that_shows_no_sign_of_life_is_a_bad_gateway(tcp: Driver) -> None:
    async with tcp.raw_serve() as raw:
        proxy = taut.proxy.Proxy(f"ws://127.0.0.1:{raw.address}", ping_interval=0.05, ping_timeout=0.05)
        async with taut.proxy.serve(proxy, "127.0.0.1", 0) as front, tcp.peer(front) as client:
            upstream = await between(tcp, raw, front, client)
            frame = await client.frame()
            assert (frame.opcode, frame.code) == (CLOSE, 1014)
            client.send(CLOSE, frame.payload)
            await upstream.read_to_end()


BAD_TEXT = b"\xff\xfe"


async def test_invalid_text_of_a_client(tcp: Driver) -> None:
    ends = Ends()
    async with proxied(ends.serve) as (_, front), tcp.opened(front) as client:
        client.send(TEXT, b"good")
        client.send(TEXT, BAD_TEXT)
        assert (await client.frame()).code == 1007
        info = await ends.ended.get()
    assert (info.initiator, info.code) == (taut.Initiator.REMOTE, 1011)
    assert info.reason == "the client's connection failed: invalid UTF-8 in a text message"
    assert ends.messages == ["good"]


async def test_invalid_text_of_an_upstream(tcp: Driver) -> None:
    async with tcp.raw_serve() as raw, front_of(raw) as front, tcp.peer(front) as client:
        upstream = await between(tcp, raw, front, client)
        upstream.send(TEXT, b"good")
        upstream.send(TEXT, BAD_TEXT)
        assert (await upstream.frame()).code == 1007
        assert (await client.frame()).payload == b"good"
        frame = await client.frame()
        assert (frame.opcode, frame.code) == (CLOSE, 1014)
        client.send(CLOSE, frame.payload)


@pytest.mark.parametrize("side", ["client", "upstream"])
async def test_a_message_that_is_never_completed(tcp: Driver, side: str) -> None:
    """What was passed on of it is followed by the Close frame, at once."""
    async with tcp.raw_serve() as raw, front_of(raw) as front, tcp.peer(front) as client:
        upstream = await between(tcp, raw, front, client)
        source, sink = (client, upstream) if side == "client" else (upstream, client)
        source.send(TEXT, b"begun", fin=False)
        part = await sink.frame()
        assert (part.opcode, part.payload, part.fin) == (TEXT, b"begun", False)
        source.send(CLOSE, b"\x03\xe9bye")
        frame = await sink.frame()
        assert (frame.opcode, frame.code, frame.payload[2:]) == (CLOSE, 1001, b"bye")
        sink.send(CLOSE, frame.payload)


async def test_an_upstream_lost_in_the_midst_of_a_message(tcp: Driver) -> None:
    async with tcp.raw_serve() as raw, front_of(raw) as front, tcp.peer(front) as client:
        upstream = await between(tcp, raw, front, client)
        upstream.send(TEXT, b"begun", fin=False)
        assert not (await client.frame()).fin
        upstream.transport.abort()
        assert (await client.frame()).code == 1014


async def test_a_limit_of_the_proxy(tcp: Driver) -> None:
    ends = Ends()
    async with proxied(ends.serve, max_size=10) as (_, front), taut.connect(uri(front)) as ws:
        await ws.send("x" * 11)
        await ws.wait_closed()
        assert ws.close_code == 1009
        assert (await ends.ended.get()).code == 1011


async def test_a_limit_of_the_upstream() -> None:
    async with proxied(upstream={"max_size": 1000}) as (_, front), taut.connect(uri(front)) as ws:
        await ws.send(b"x" * 500_000)
        await ws.wait_closed()
        assert ws.close_code == 1009


@pytest.mark.parametrize("silent", ["client", "upstream"])
async def test_a_side_that_never_answers_a_close_is_given_up(tcp: Driver, silent: str) -> None:
    async with tcp.raw_serve() as raw, front_of(raw, close_timeout=0.05) as front, tcp.peer(front) as client:
        upstream = await between(tcp, raw, front, client)
        other, deaf = (upstream, client) if silent == "client" else (client, upstream)
        await other.close()
        assert (await deaf.frame()).code == 1000
        await deaf.read_to_end()
        while front.proxy.stats[0].connections:
            await asyncio.sleep(0)


@pytest.mark.parametrize("stuck", ["client", "upstream"])
async def test_a_side_that_takes_nothing_does_not_keep_the_proxy_when_the_other_is_gone(
    tcp: Driver, stuck: str
) -> None:
    options = {"close_timeout": 0.1, "ping_interval": None}
    async with tcp.raw_serve() as raw, front_of(raw, **options) as front, tcp.peer(front) as client:
        upstream = await between(tcp, raw, front, client)
        source, sink = (upstream, client) if stuck == "client" else (client, upstream)
        (to_client,) = front.connections
        (leg,) = front.proxy._legs.values()
        full: Any = to_client if stuck == "client" else leg.upstream
        sink.transport.pause_reading()
        message = source.encode(0x2, bytes(1 << 16))
        sent = 0
        while not full.write_paused:
            source.write(message)
            sent += 1
            while full.stats.messages_sent < sent:
                await asyncio.sleep(0)
        source.write(source.encode(0x2, b"never taken") + source.encode(CLOSE, b"\x03\xe8"))
        frame = await source.frame()
        assert (frame.opcode, frame.code) == (CLOSE, 1000)
        source.transport.close()
        while front.proxy.stats[0].connections:
            await asyncio.sleep(0.01)
        sink.transport.resume_reading()
        await sink.read_to_end()


async def test_closing_the_proxy_closes_both_sides() -> None:
    ends = Ends()
    async with proxied(ends.serve) as (_, front), taut.connect(uri(front)) as ws:
        front.close(code=1012, reason="again soon")
        await front.wait_closed()
        await ws.wait_closed()
        assert (ws.close_code, ws.close_reason) == (1012, "again soon")
        info = await ends.ended.get()
    assert (info.code, info.reason) == (1001, "the proxy is closing")


async def test_a_handler_that_is_cancelled_drops_both(tcp: Driver) -> None:
    async with tcp.raw_serve() as raw, front_of(raw) as front, tcp.peer(front) as client:
        upstream = await between(tcp, raw, front, client)
        (connection,) = front.connections
        connection.cancel_handler()
        await client.read_to_end()
        await upstream.read_to_end()
