"""The faulty proxy does what its plans say, to the byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from faults import FaultyProxy, Plan, Schedule, seed_of
from peers import Peer, gone_after

STREAM = bytes(range(256)) * 1024  # no two places within 256 bytes look alike


class Receiver(Peer):
    """Remembers how much it was given at once."""

    def __init__(self) -> None:
        super().__init__(client=False)
        self.sizes: list[int] = []

    def data_received(self, data: bytes) -> None:
        self.sizes.append(len(data))
        super().data_received(data)


class Server:
    """Keeps the peers that have connected."""

    def __init__(self) -> None:
        self.port = 0
        self.peers: list[Receiver] = []

    def new_peer(self) -> Receiver:
        self.peers.append(Receiver())
        return self.peers[-1]


@asynccontextmanager
async def listening() -> AsyncIterator[Server]:
    server = Server()
    listener = await asyncio.get_running_loop().create_server(server.new_peer, "127.0.0.1", 0)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        for peer in server.peers:
            await peer.drop()
        await listener.wait_closed()


@asynccontextmanager
async def through(proxy: FaultyProxy) -> AsyncIterator[Peer]:
    """A client by way of the proxy."""
    _, peer = await asyncio.get_running_loop().create_connection(lambda: Peer(client=True), "127.0.0.1", proxy.port)
    async with gone_after(peer):
        yield peer


@asynccontextmanager
async def both_ends(plan: Plan) -> AsyncIterator[tuple[FaultyProxy, Peer, Receiver]]:
    """A connection through a proxy: the client's end and the server's."""
    async with listening() as server, FaultyProxy(server.port, plan) as proxy, through(proxy) as client:
        while not server.peers or server.peers[0].transport is None:
            await asyncio.sleep(0.001)
        yield proxy, client, server.peers[0]


async def test_passes_on_what_comes_in_both_directions() -> None:
    async with both_ends(Plan()) as (proxy, client, server):
        client.write(STREAM)
        server.write(STREAM[::-1])
        assert await server.read(len(STREAM)) == STREAM
        assert await client.read(len(STREAM)) == STREAM[::-1]
        client.transport.write_eof()
        assert await server.read_to_end() == b""
        server.write(b"still open")
        assert await client.read(10) == b"still open"
        server.transport.write_eof()
        assert await client.read_to_end() == b""
        await proxy.until_idle()
    assert proxy.counters == {"accepted": 1, "up": len(STREAM), "down": len(STREAM) + 10}


@pytest.mark.parametrize("after", [0, 1, 2, 125, 65535, 65536, 65537, len(STREAM) - 1, len(STREAM)])
@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("fault", ["fin", "reset", "truncate"])
async def test_cuts_at_the_byte(fault: str, direction: str, after: int) -> None:
    plan = Plan(fault=fault, direction=direction, after=after)  # type: ignore[arg-type]
    async with both_ends(plan) as (proxy, client, server):
        sender, receiver = (client, server) if direction == "up" else (server, client)
        await sender.flood(STREAM, 1)  # unless it is over already
        assert await receiver.read_to_end() == STREAM[:after]
        await proxy.until(fault, 1)
        if fault == "truncate":
            receiver.write(b"the other way")
            assert await sender.read(13) == b"the other way"
        else:
            await sender.lost() if fault == "reset" else await sender.read_to_end()
    assert proxy.counters[direction] == after
    assert proxy.counters[fault] == 1


async def test_a_reset_is_a_reset_and_the_end_of_a_stream_is_not() -> None:
    for fault, error in (("reset", ConnectionResetError), ("fin", None)):
        async with listening() as server, FaultyProxy(server.port) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"x")
            await proxy.until("up", 1)
            proxy.cut(fault)  # type: ignore[arg-type]
            if error:
                with pytest.raises(error):
                    await reader.read()
            else:
                assert await reader.read() == b""
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)


async def test_a_blackhole_swallows_both_directions_and_closes_nothing() -> None:
    async with both_ends(Plan(fault="blackhole", direction="up", after=5)) as (proxy, client, server):
        client.write(b"hello, world")
        assert await server.read(5) == b"hello"
        await proxy.until("blackhole", 1)
        server.write(b"anyone there?")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.until(1)
        assert not server.received
        assert not client.eof
        assert not server.eof
        assert proxy.cut("fin") == 1
        assert await client.read_to_end() == b""
        assert await server.read_to_end() == b""


async def test_a_fault_at_a_time() -> None:
    async with both_ends(Plan(fault="fin", seconds=0.02)) as (proxy, client, _):
        assert await client.read_to_end() == b""
        assert proxy.counters["fin"] == 1
    with pytest.raises(ValueError, match="seconds=1 goes with fin, reset and blackhole, not with 'truncate'"):
        Plan(fault="truncate", seconds=1)


async def test_frozen_connections_are_late_and_complete() -> None:
    async with both_ends(Plan()) as (proxy, client, server):
        proxy.freeze()
        client.write(STREAM)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await server.until(1)
        proxy.thaw()
        assert await server.read(len(STREAM)) == STREAM


async def test_delays() -> None:
    async with both_ends(Plan(delay=0.05)) as (_, client, server):
        loop = asyncio.get_running_loop()
        started = loop.time()
        client.write(b"x")
        await server.read(1)
        assert loop.time() - started >= 0.045  # uvloop counts in milliseconds


async def test_throttles() -> None:
    async with both_ends(Plan(rate=50_000)) as (_, client, server):
        loop = asyncio.get_running_loop()
        started = loop.time()
        client.write(bytes(10_000))
        await server.read(10_000)
        # The last of ten pieces is not waited for.
        assert loop.time() - started >= 0.15


async def test_writes_in_small_pieces() -> None:
    async with both_ends(Plan(piece=3)) as (_, client, server):
        client.write(STREAM[:300])
        assert await server.read(300) == STREAM[:300]
        assert len(server.sizes) > 1


async def test_accepts_and_closes_without_the_server() -> None:
    async with listening() as server, FaultyProxy(server.port, Plan(fault="refuse")) as proxy, through(proxy) as client:
        client.write(b"nobody reads this")
        assert await client.read_to_end() == b""
        client.transport.close()
        await proxy.until_idle()
        assert not server.peers
        assert proxy.counters == {"accepted": 1, "refuse": 1}


async def test_refuses_and_admits_again_at_the_same_port() -> None:
    async with both_ends(Plan()) as (proxy, client, server):
        port = proxy.port
        await proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        client.write(b"goes on")
        assert await server.read(7) == b"goes on"
        proxy.admit()
        assert proxy.port == port
        async with through(proxy):
            await proxy.until("accepted", 2)


async def test_a_server_that_is_not_there() -> None:
    async with listening() as server:
        port = server.port
    async with FaultyProxy(port) as proxy, through(proxy) as client:
        assert await client.read_to_end() == b""
        assert proxy.counters == {"accepted": 1, "unreachable": 1}


def test_a_schedule_is_determined_by_its_seed(capsys: pytest.CaptureFixture[str]) -> None:
    seed = seed_of("schedule", 7)
    assert f"FAULTS_SEED={seed}" in capsys.readouterr().out

    def plans(seed: int) -> list[Plan]:
        schedule = Schedule(seed, reach=100, delay=0.5, pieces=(1, 2))
        return [schedule.plan(number) for number in range(200)]

    assert plans(seed) == plans(seed)
    assert plans(seed) != plans(seed + 1)
    assert {plan.fault for plan in plans(seed)} == {"fin", "reset", "truncate", "refuse"}
    assert {plan.direction for plan in plans(seed)} == {"up", "down"}
    assert max(plan.after for plan in plans(seed)) <= 100
    assert max(plan.delay for plan in plans(seed)) <= 0.5
    assert {plan.piece for plan in plans(seed)} == {1, 2}
    assert repr(Schedule(seed)) == f"Schedule({seed})"


async def test_a_schedule_gives_each_connection_its_plan() -> None:
    schedule = Schedule(1, faults=("fin", "reset"), reach=64)
    async with listening() as server, FaultyProxy(server.port, schedule=schedule) as proxy:
        for number in range(10):
            plan = schedule.plan(number)
            async with through(proxy) as client:
                await client.flood(STREAM, 1)
                await proxy.until("accepted", number + 1)
                if plan.direction == "down" and plan.after:
                    while len(server.peers) <= number or server.peers[number].transport is None:
                        await asyncio.sleep(0.001)
                    await server.peers[number].flood(STREAM, 1)
                received = await client.read_to_end()
            if plan.direction == "down":
                assert received == STREAM[: plan.after]
            for peer in server.peers:
                await peer.drop()
            await proxy.until_idle()
        assert proxy.counters["fin"] + proxy.counters["reset"] == 10
