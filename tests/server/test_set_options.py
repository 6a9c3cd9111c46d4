"""Options of a connection, changed while it is open."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from network import Driver
from peers import BINARY, CONT, TEXT, deflated

import taut


async def echo(ws: taut.ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


def command(change: dict[str, Any]) -> Any:
    """A handler that makes the change when it is told to, and echoes everything else."""

    async def handler(ws: taut.ServerConnection) -> None:
        async for message in ws:
            if message == "change":
                ws.set_options(**change)
                await ws.send("changed")
            else:
                await ws.send(message)

    return handler


async def test_only_what_is_given_changes(tcp: Driver) -> None:
    async with tcp.connected(echo, max_size=5000, ping_interval=7) as (_, ws):
        before = ws.options
        ws.set_options(max_fragments=3, cancel_on_close=True)
        assert (before.max_fragments, ws.options.max_fragments, ws.options.cancel_on_close) == (1 << 14, 3, True)
        assert (ws.options.max_size, ws.options.ping_interval) == (5000, 7)
        assert ws.session.options is ws.options


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_size": 10}, "x" * 11),
        ({"max_frame_size": 10}, "x" * 11),
        ({"max_fragments": 2}, ["x", "x", "x"]),
        ({"rate_limits": taut.RateLimits(bytes=10, burst=1)}, "x" * 11),
    ],
)
async def test_limits_hold_from_the_next_frame_on(tcp: Driver, change: dict[str, Any], message: Any) -> None:
    async with tcp.connected(command(change), compression=None) as (_, ws):
        await ws.send(message)
        assert await ws.recv() == "".join(message)
        await ws.send("change")
        assert await ws.recv() == "changed"
        await ws.send(message)
        await ws.wait_closed()
        assert ws.close_code == (1008 if "rate_limits" in change else 1009)


async def test_limits_may_become_wider(tcp: Driver) -> None:
    change = {"max_size": None, "rate_limits": taut.RateLimits()}
    narrow = {"max_size": 10, "rate_limits": taut.RateLimits(messages=1, burst=3)}
    async with tcp.connected(command(change), server=narrow, compression=None) as (_, ws):
        await ws.send("change")
        assert await ws.recv() == "changed"
        for _ in range(10):
            await ws.send("x" * 100)
            assert await ws.recv() == "x" * 100


@pytest.mark.parametrize("compressed", [False, True])
async def test_a_limit_below_what_is_here_already(tcp: Driver, compressed: bool) -> None:
    """What is left of the limit must not become a very large number."""
    extension = [("Sec-WebSocket-Extensions", "permessage-deflate")] if compressed else []
    async with tcp.serve(echo) as server, tcp.opened(server, extension) as peer:
        body = deflated(b"x" * 50) + b"\x00\x00\xff\xff" if compressed else b"x" * 50
        peer.send(TEXT, body, fin=False, rsv=0x40 if compressed else 0)
        (ws,) = server.connections
        while not ws.session.in_progress or ws.stats.bytes_received < len(body):
            await asyncio.sleep(0.001)
        ws.set_options(max_size=20)
        peer.send(CONT, deflated(b"x") if compressed else b"x")
        (*_, close) = await peer.frames_until_close()
        assert close.code == 1009
        assert isinstance(ws.close_info, taut.CloseInfo)


async def test_time_limits(tcp: Driver) -> None:
    async with tcp.connected(command({"idle_timeout": 0.1}), server={"ping_interval": None}) as (_, ws):
        await asyncio.sleep(0.3)
        await ws.send("change")
        assert await ws.recv() == "changed"
        await ws.wait_closed()
        assert ws.close_reason == "idle for 0.1 s"
    async with tcp.connected(echo, client={"ping_interval": None}) as (_, ws):
        ws.set_options(max_lifetime=0.1)
        await ws.wait_closed()
        assert ws.close_reason == "maximum lifetime of 0.1 s"


async def test_a_time_limit_may_be_lifted(tcp: Driver) -> None:
    change: dict[str, Any] = {"idle_timeout": None, "max_lifetime": None}
    limits = {"idle_timeout": 0.4, "max_lifetime": 0.5}
    async with tcp.connected(command(change), server=limits) as (_, ws):
        await ws.send("change")
        assert await ws.recv() == "changed"
        await asyncio.sleep(1)
        await ws.send("here")
        assert await ws.recv() == "here"


async def test_clocks_do_not_begin_anew(tcp: Driver) -> None:
    async with tcp.connected(echo, client={"max_lifetime": 0.5, "idle_timeout": 0.5}) as (_, ws):
        for number in range(1000):
            if ws.state is not taut.State.OPEN:
                break
            ws.set_options(max_fragments=number + 1, idle_timeout=5)
            await asyncio.sleep(0.01)
        assert ws.options.max_lifetime == 0.5
        await ws.wait_closed()
        assert ws.close_reason == "maximum lifetime of 0.5 s"


async def test_pings(tcp: Driver) -> None:
    async with tcp.connected(command({"ping_interval": 0.02}), server={"ping_interval": None}) as (server, ws):
        (served,) = server.connections
        await asyncio.sleep(0.1)
        assert served.latency == 0
        await ws.send("change")
        await ws.recv()
        while not served.latency:
            await asyncio.sleep(0.001)
        served.set_options(ping_interval=None)


async def test_write_and_outbox_limits(tcp: Driver) -> None:
    async with tcp.serve(echo) as server, tcp.opened(server) as peer:
        peer.transport.pause_reading()
        (ws,) = server.connections
        ws.set_options(outbox_limit=1000, write_limit=500)
        with pytest.raises(taut.ConnectionClosedError) as caught:
            for _ in range(100_000):
                ws.send_nowait(b"x" * 1000)
        assert caught.value.code == 1008
        assert "1000 bytes" in caught.value.reason
        ws.abort()


async def test_a_wider_read_limit_reads_on(tcp: Driver) -> None:
    async with tcp.connected(echo, client={"read_limit": 1000}) as (_, ws):
        for number in range(100):
            await ws.send(f"{number}".zfill(500))
        while not ws.read_paused:
            await asyncio.sleep(0.001)
        ws.set_options(read_limit=1 << 20)
        while ws.stats.messages_received < 100:
            await asyncio.sleep(0.001)
        assert [int(await ws.recv()) for _ in range(100)] == list(range(100))


# -- compression -------------------------------------------------------------------------------------------------------


async def test_compression_is_turned_off_and_on(tcp: Driver) -> None:
    async with (
        tcp.serve(echo) as server,
        tcp.opened(server, [("Sec-WebSocket-Extensions", "permessage-deflate")]) as peer,
    ):
        (ws,) = server.connections

        async def compressed(**how: bool) -> bool:
            await ws.send("x" * 1000, **how)
            return (await peer.frame()).rsv1

        assert await compressed()
        ws.set_options(compression=False)
        assert not await compressed()
        assert await compressed(compress=True)
        taut.broadcast([ws], "x" * 1000)
        assert not (await peer.frame()).rsv1
        ws.set_options(max_size=None)
        assert not await compressed()
        ws.set_options(compression=True)
        assert await compressed()
        assert not await compressed(compress=False)
        # What is received is inflated all along.
        peer.send(BINARY, deflated(b"y" * 1000), rsv=0x40)
        assert (await peer.frame()).rsv1


async def test_compression_that_was_not_negotiated(tcp: Driver) -> None:
    async with tcp.connected(echo, compression=None) as (_, ws):
        ws.set_options(compression=False)
        with pytest.raises(ValueError, match="it was not negotiated for this connection"):
            ws.set_options(compression=True)


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "what"),
    [
        ({"max_size": 0}, ValueError, "max_size must be a number of bytes, at least 1, or None for no limit, not 0"),
        ({"ping_interval": "1"}, TypeError, "ping_interval must be a number above 0 or None, not '1'"),
        ({"subprotocols": ["a"]}, TypeError, r"unexpected option subprotocols; known are .*, and compression"),
        ({"compression": "deflate"}, TypeError, "compression must be True or False on an open connection"),
        ({"max_fragments": 7, "rate_limits": 5}, TypeError, "rate_limits must be a RateLimits, not 5"),
    ],
)
async def test_wrong_options_change_nothing(tcp: Driver, change: Any, error: Any, what: str) -> None:
    async with tcp.connected(echo) as (_, ws):
        before = ws.options
        with pytest.raises(error, match=what):
            ws.set_options(**change)
        assert ws.options is before


async def test_before_and_after(tcp: Driver) -> None:
    raised: list[BaseException] = []

    def hook(ws: taut.ServerConnection, request: taut.Request) -> None:
        try:
            ws.set_options(max_size=None)
        except RuntimeError as exc:
            raised.append(exc)

    async with tcp.connected(echo, server={"process_request": hook}) as (_, ws):
        assert str(raised[0]) == "the connection is not open yet"
        await ws.close()
        before = ws.options
        ws.set_options(ping_interval=0.01)
        assert ws.options is before
