"""The end of a connection: from either side, in order or not, seen by whoever waits for it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from network import Driver
from peers import CLOSE, PING, TEXT, Frame, close_payload

import taut
from taut import CloseInfo, Initiator, State


async def echo(ws: Any) -> None:
    async for message in ws:
        await ws.send(message)


async def idle(ws: Any) -> None:
    await ws.wait_closed()


class Served:
    """A handler that hands out its connections."""

    def __init__(self) -> None:
        self.connections: asyncio.Queue[Any] = asyncio.Queue()

    async def __call__(self, ws: Any) -> None:
        self.connections.put_nowait(ws)
        await ws.wait_closed()


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (1001, "away"), (1011, "no"), (3000, "z\u00fcrich"), (4999, "r" * 123)]
)
async def test_the_client_closes(driver: Driver, code: int, reason: str) -> None:
    served = Served()
    async with driver.connected(served) as (_, ws):
        there = await served.connections.get()
        await ws.close(code, reason)
        await there.wait_closed()
        assert ws.close_info == CloseInfo(Initiator.LOCAL, code, reason, clean=True)
        assert there.close_info == CloseInfo(Initiator.REMOTE, code, reason, clean=True)
        assert (ws.close_code, ws.close_reason) == (code, reason)
        assert ws.closed
        assert ws.state is State.CLOSED


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1012, "restart"), (4000, "private")])
async def test_the_server_closes(driver: Driver, code: int, reason: str) -> None:
    async def handler(ws: Any) -> None:
        await ws.close(code, reason)
        assert ws.close_info == CloseInfo(Initiator.LOCAL, code, reason, clean=True)

    async with driver.connected(handler) as (_, ws):
        await ws.wait_closed()
        assert ws.close_info == CloseInfo(Initiator.REMOTE, code, reason, clean=True)
        assert ws.close_info.ok == (code == 1000)
        with pytest.raises(taut.ConnectionClosed) as caught:
            await ws.recv()
        assert isinstance(caught.value, taut.ConnectionClosedOK if code == 1000 else taut.ConnectionClosedError)
        assert (caught.value.code, caught.value.reason, caught.value.info) == (code, reason, ws.close_info)


async def test_both_sides_close_at_once(driver: Driver) -> None:
    served = Served()
    async with driver.connected(served) as (_, ws):
        there = await served.connections.get()
        await asyncio.gather(ws.close(4001), there.close(4002), ws.close(4003))
        await there.wait_closed()
        assert ws.close_info.clean
        assert there.close_info.clean
        assert ws.close_code in (4001, 4002)


async def test_closing_twice_is_harmless(driver: Driver) -> None:
    async with driver.connected(idle) as (_, ws):
        await ws.close(4000)
        await ws.close(4001)
        assert ws.close_code == 4000


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 1 << 20])
async def test_codes_that_no_close_frame_may_carry_are_refused(driver: Driver, code: int) -> None:
    async with driver.connected(idle) as (_, ws):
        with pytest.raises(ValueError, match=str(code)):
            await ws.close(code)
        assert ws.state is State.OPEN


async def test_a_close_frame_without_a_code(driver: Driver) -> None:
    served = Served()
    async with driver.serve(served) as server, driver.opened(server) as peer:
        peer.send(CLOSE)
        assert await peer.frame() == Frame(CLOSE, b"")
        assert await peer.read_to_end() == b""
        there = await served.connections.get()
        peer.transport.close()
        await there.wait_closed()
        assert there.close_info == CloseInfo(Initiator.REMOTE, 1005, "", clean=True)
        assert there.close_info.ok


async def test_the_server_ends_the_stream_first(driver: Driver) -> None:
    """RFC 6455, 7.1.1: so that the server does not have to hold the port."""
    async with driver.serve(idle) as server, driver.opened(server) as peer:
        peer.send(CLOSE, close_payload(1000, "done"))
        assert await peer.frame() == Frame(CLOSE, close_payload(1000))
        assert await peer.read_to_end() == b""


async def test_the_client_leaves_the_end_of_the_stream_to_the_server(driver: Driver) -> None:
    async with driver.raw_serve() as raw:
        opening = asyncio.ensure_future(raw.connect().open())
        peer = await raw.accept()
        await peer.respond()
        ws = await opening
        closing = asyncio.create_task(ws.close())
        frame = await peer.frame()
        assert (frame.opcode, frame.code) == (CLOSE, 1000)
        peer.send(CLOSE, close_payload(1000))
        while ws.close_info is None:
            await asyncio.sleep(0)
        assert not ws.closed
        assert not closing.done()
        assert not peer.eof
        peer.transport.close()
        await closing
        assert ws.close_info == CloseInfo(Initiator.LOCAL, 1000, "", clean=True)


async def test_a_server_that_does_not_end_the_stream_is_not_waited_for(driver: Driver) -> None:
    async with driver.raw_serve() as raw:
        opening = asyncio.ensure_future(raw.connect(close_timeout=0.1).open())
        peer = await raw.accept()
        await peer.respond()
        ws = await opening
        peer.send(CLOSE, close_payload(1000))
        assert (await peer.frame()).code == 1000
        await ws.wait_closed()
        assert ws.close_info == CloseInfo(Initiator.REMOTE, 1000, "", clean=True)


async def test_a_client_that_does_not_answer_the_close_frame_is_not_waited_for(driver: Driver) -> None:
    served = Served()
    async with driver.serve(served, close_timeout=0.1) as server, driver.opened(server) as peer:
        there = await served.connections.get()
        started = asyncio.get_running_loop().time()
        await there.close()
        assert asyncio.get_running_loop().time() - started < 5
        assert there.close_info == CloseInfo(Initiator.LOCAL, 1006, "", clean=False)
        assert (await peer.frame()).code == 1000
        await peer.read_to_end()


async def test_a_client_that_does_not_let_go_of_the_stream_is_not_waited_for(driver: Driver) -> None:
    """It has closed, but reads nothing of what it is owed."""
    served = Served()
    async with driver.serve(served, close_timeout=0.1, compression=None) as server, driver.opened(server) as peer:
        there = await served.connections.get()
        peer.transport.pause_reading()
        for _ in range(4000):
            there.send_nowait(b"x" * 1000)
        peer.send(CLOSE, close_payload(1000))
        await there.wait_closed()
        assert there.close_info.initiator is Initiator.REMOTE


async def test_a_stream_that_ends_without_a_close_frame(driver: Driver) -> None:
    served = Served()
    async with driver.serve(served) as server, driver.opened(server) as peer:
        there = await served.connections.get()
        peer.transport.close()
        await there.wait_closed()
        assert there.close_code == 1006
        assert there.close_info.initiator is Initiator.NETWORK
        assert not there.close_info.clean
        with pytest.raises(taut.ConnectionClosedError):
            await there.recv()


async def test_messages_before_the_end_are_received(driver: Driver) -> None:
    """Whether the stream ends with a Close frame or without."""
    for orderly in (True, False):
        async with driver.raw_serve() as raw:
            opening = asyncio.ensure_future(raw.connect().open())
            peer = await raw.accept()
            await peer.respond()
            ws = await opening
            for i in range(500):
                peer.send(TEXT, str(i).encode())
            if orderly:
                peer.send(CLOSE, close_payload(4000))
            peer.transport.close()
            received = []
            with pytest.raises(taut.ConnectionClosedError) as caught:
                async for message in ws:
                    received.append(message)
            assert received == [str(i) for i in range(500)]
            assert caught.value.code == (4000 if orderly else 1006)
            await ws.wait_closed()


async def test_abort_drops_the_connection(driver: Driver) -> None:
    served = Served()
    async with driver.connected(served) as (_, ws):
        there = await served.connections.get()
        ws.abort()
        await ws.wait_closed()
        await there.wait_closed()
        assert ws.close_code == 1006
        assert there.close_code == 1006
        ws.abort()
        await ws.close()


async def test_a_peer_that_only_ended_its_direction_gets_its_answers_or_an_end(driver: Driver) -> None:
    """A half-closed stream is at its end for WebSocket; nothing hangs."""
    async with driver.serve(echo, compression=None) as server, driver.opened(server) as peer:
        peer.send(TEXT, b"last words")
        if driver.half_closes:
            peer.transport.write_eof()
            assert await peer.frame() == Frame(TEXT, b"last words")
            assert await peer.read_to_end() == b""
        else:
            assert await peer.frame() == Frame(TEXT, b"last words")


async def test_the_end_is_observable_without_receiving(driver: Driver) -> None:
    outcome: asyncio.Queue[Any] = asyncio.Queue()

    async def handler(ws: Any) -> None:
        assert not ws.closed
        await ws.wait_closed()
        outcome.put_nowait((ws.closed, ws.state, ws.close_code))

    async with driver.connected(handler) as (_, ws):
        await ws.close(4321)
        assert await outcome.get() == (True, State.CLOSED, 4321)
        await ws.wait_closed()  # at once


async def test_several_tasks_wait_for_the_end_and_may_be_cancelled(driver: Driver) -> None:
    async with driver.connected(echo) as (_, ws):
        tasks = [asyncio.create_task(ws.wait_closed()) for _ in range(5)]
        receiving = asyncio.ensure_future(ws.recv())
        await asyncio.sleep(0)
        tasks[0].cancel()
        closing = asyncio.create_task(ws.close())
        await asyncio.sleep(0)
        closing.cancel()
        outcome = await asyncio.gather(*tasks, closing, return_exceptions=True)
        assert [type(each) for each in outcome] == [
            asyncio.CancelledError,
            *[type(None)] * 4,
            asyncio.CancelledError,
        ]
        with pytest.raises(taut.ConnectionClosedOK):
            await receiving
        assert ws.close_code == 1000


async def test_what_was_received_is_answered_before_the_close_frame(driver: Driver) -> None:
    async with driver.serve(echo, compression=None) as server, driver.opened(server) as peer:
        peer.write(peer.encode(TEXT, b"one") + peer.encode(TEXT, b"two") + peer.encode(CLOSE, close_payload(1000)))
        frames = await peer.frames_until_close()
        assert [frame.payload for frame in frames] == [b"one", b"two", close_payload(1000)]
        await peer.read_to_end()


async def test_what_came_before_a_violation_is_answered_before_the_close_frame(driver: Driver) -> None:
    async with driver.serve(echo, compression=None) as server, driver.opened(server) as peer:
        peer.write(peer.encode(TEXT, b"one") + peer.encode(TEXT, b"two") + peer.encode(3))
        frames = await peer.frames_until_close()
        assert [frame.payload for frame in frames[:2]] == [b"one", b"two"]
        assert frames[2].code == 1002
        await peer.read_to_end()


async def test_nothing_is_answered_after_the_close_frame(driver: Driver) -> None:
    async with driver.serve(idle, compression=None) as server, driver.opened(server) as peer:
        peer.write(peer.encode(CLOSE, close_payload(1000)) + peer.encode(PING, b"late") + peer.encode(TEXT, b"late"))
        assert await peer.frame() == Frame(CLOSE, close_payload(1000))
        assert await peer.read_to_end() == b""


async def test_a_long_reason_is_cut_between_characters(driver: Driver) -> None:
    async with driver.connected(idle) as (_, ws):
        await ws.close(1000, "\u20ac" * 50)
        assert ws.close_reason == "\u20ac" * 41


async def test_leaving_the_block_closes_even_when_it_fails(driver: Driver) -> None:
    with pytest.raises(KeyError):
        async with driver.connected(idle) as (_, ws):
            raise KeyError("in the block")
    assert ws.close_code == 1000
