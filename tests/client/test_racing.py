"""Several addresses, several connections to one address, and cancellation, while dialling."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Any

import pytest
from endpoints import (
    V4,
    V6,
    World,
    call,
    cancelled,
    closing,
    failure,
    never,
    resolve,
    settle,
    text,
    told,
    until_waiting,
)

from taut.client.dialling import dial as dialling
from taut.client.dialling.turns import Deadline, turns_of
from taut.errors import ConnectRefused, DialError
from taut.types import Attempt

# -- the race ----------------------------------------------------------------------------------------------------------


async def test_a_failure_starts_the_next_at_once(world: World) -> None:
    addresses = [world.refusing(V6), world.refusing(V4), world.refusing(V6), world.live(V4)]
    resolve(*addresses)
    attempts: list[Attempt] = []
    async with asyncio.timeout(10):
        dialled = await call(attempts=attempts, happy_eyeballs_delay=100, open_timeout=None)
    with closing(dialled) as sock:
        assert sock.getpeername() == addresses[3]
        assert dialled.address == text(addresses[3])
    assert told(attempts) == [(text(address), "connect") for address in addresses[:3]]
    assert all(isinstance(each.error, ConnectionRefusedError) for each in attempts)


async def test_the_next_begins_after_the_delay(world: World) -> None:
    loop = asyncio.get_running_loop()
    silent, live = world.silent(V6), world.live(V4)
    resolve(silent, live)
    attempts: list[Attempt] = []
    begun = loop.time()
    dialled = await call(attempts=attempts, happy_eyeballs_delay=0.1)
    assert 0.09 < loop.time() - begun < 5
    with closing(dialled) as sock:
        assert sock.getpeername() == live
        assert world.open_sockets() == [sock], "the other is closed before dialling returns"
    assert world.tried == [silent, live]
    assert attempts == [], "it did not fail, it was not wanted any more"


async def test_the_first_to_answer_wins(world: World) -> None:
    silent = [world.silent(V6), world.silent(V4), world.silent(V4)]
    live = world.live(V6)
    resolve(silent[0], silent[1], live, silent[2])
    with closing(await call(happy_eyeballs_delay=0.02)) as sock:
        assert sock.getpeername() == live
    assert world.tried == [silent[0], silent[1], live], "families take turns"
    assert not world.open_sockets()


async def test_no_attempt_too_many(world: World) -> None:
    live = world.live(V6)
    resolve(live, world.live(V4))
    with closing(await call(happy_eyeballs_delay=5)) as sock:
        assert sock.getpeername() == live
    assert world.tried == [live]


async def test_several_connect_at_the_same_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    together = asyncio.Barrier(3)
    connect = dialling.connect_socket

    async def watched(loop: asyncio.AbstractEventLoop, sock: socket.socket, address: Any) -> None:
        await connect(loop, sock, address)
        await together.wait()

    monkeypatch.setattr(dialling, "connect_socket", watched)
    resolve(world.live(V6), world.live(V4), world.live(V6))
    dialled = await call(happy_eyeballs_delay=0.001)
    assert world.open_sockets() == [dialled.sock]
    assert len(world.dialled) == 3
    with closing(dialled):
        assert not turns_of(asyncio.get_running_loop()).busy


async def test_one_after_the_other(world: World) -> None:
    """Without a delay there is no race."""
    silent, refusing, live = world.silent(V4), world.refusing(V4), world.live(V6)
    resolve(silent, refusing, live)
    attempts: list[Attempt] = []
    dialled = await call(attempts=attempts, happy_eyeballs_delay=None, connect_timeout=0.05)
    with closing(dialled) as sock:
        assert sock.getpeername() == live
    assert world.tried == [silent, live]
    assert told(attempts) == [(text(silent), "connect")]


@pytest.mark.parametrize("delay", [None, 0.01, 10])
async def test_nobody_listens_anywhere(world: World, delay: float | None) -> None:
    v6, v4 = world.refusing(V6), world.refusing(V4)
    resolve(v6, v4, v6)
    error, attempts = await failure(happy_eyeballs_delay=delay)
    assert type(error) is ConnectRefused
    assert str(error) == (
        f"server.test:8080 cannot be reached: {text(v6)}: Connection refused; {text(v4)}: Connection refused"
    )
    assert error.errno == errno.ECONNREFUSED
    assert told(attempts) == [(text(v6), "connect"), (text(v4), "connect")]
    assert not world.open_sockets()


async def test_different_failures(world: World) -> None:
    refusing, silent = world.refusing(V6), world.silent(V4)
    resolve(refusing, silent)
    error, attempts = await failure(connect_timeout=0.05)
    assert type(error) is DialError
    assert "Connection refused; " in str(error)
    assert str(error).endswith("(connect_timeout)")
    assert error.errno is None
    assert told(attempts) == [(text(refusing), "connect"), (text(silent), "connect")]


# -- turns -------------------------------------------------------------------------------------------------------------


async def test_one_connecting_for_each_address(world: World) -> None:
    address = world.live()
    resolve(address)
    first = await call()
    second = asyncio.create_task(call("ws://other.test/"))
    third = asyncio.create_task(call(host=address[0], port=address[1]))
    await settle()
    assert not second.done()
    assert len(world.tried) == 1, "not even begun"
    first.settled()
    first.settled()
    with closing(await second):
        assert len(world.tried) == 2
        with first.sock, closing(await third):
            assert len(world.tried) == 3
    assert not turns_of(asyncio.get_running_loop()).busy


async def test_another_port_is_another_address(world: World) -> None:
    one, other = world.live(), world.live()
    with closing(await call(host=one[0], port=one[1])), closing(await call(host=other[0], port=other[1])):
        assert world.tried == [one, other]


async def test_no_limit_to_connecting(world: World) -> None:
    address = world.live()
    dialled = [await call(host=address[0], port=address[1], connecting_limit=None) for _ in range(3)]
    for each in dialled:
        each.discard()
    assert not turns_of(asyncio.get_running_loop()).busy


async def test_waiting_for_a_turn_is_not_waiting_for_the_server(world: World) -> None:
    loop = asyncio.get_running_loop()
    address = world.live()
    first = await call(host=address[0], port=address[1])
    loop.call_later(0.3, first.settled)
    with first.sock, closing(await call(host=address[0], port=address[1], open_timeout=0.15, connect_timeout=0.15)):
        assert len(world.tried) == 2


async def test_while_one_waits_for_a_turn_another_waits_for_the_server(world: World) -> None:
    busy, silent = world.live(V6), world.silent(V4)
    resolve(busy, silent)
    first = await call(host="::1", port=busy[1])
    with pytest.raises(TimeoutError):
        await call(happy_eyeballs_delay=0.01, open_timeout=0.1)
    assert world.open_sockets() == [first.sock]
    first.discard()
    assert not turns_of(asyncio.get_running_loop()).busy


async def test_a_failed_attempt_gives_its_turn_back(world: World) -> None:
    address = world.refusing()
    results = await asyncio.gather(*(call(host=address[0], port=address[1]) for _ in range(5)), return_exceptions=True)
    assert [type(each) for each in results] == [ConnectRefused] * 5
    assert not turns_of(asyncio.get_running_loop()).busy


async def test_who_waits_for_a_turn_tries_the_next_address(world: World) -> None:
    busy, free = world.live(V6), world.live(V4)
    resolve(busy, free)
    first = await call(host="::1", port=busy[1])
    with first.sock, closing(await call(happy_eyeballs_delay=0.02)) as sock:
        assert sock.getpeername() == free
    assert world.tried == [busy, free], "the busy one by the first only"
    first.settled()
    assert not turns_of(asyncio.get_running_loop()).busy


async def test_the_turn_of_the_winner_only(world: World) -> None:
    silent, live = world.silent(V6), world.live(V4)
    resolve(silent, live)
    dialled = await call(happy_eyeballs_delay=0.01)
    turns = turns_of(asyncio.get_running_loop())
    async with Deadline(None) as deadline:
        (await turns.take(silent, 1, deadline)).give_back()
        assert turns.busy
    dialled.discard()
    assert not turns.busy


# -- cancellation ------------------------------------------------------------------------------------------------------


async def test_cancelled_while_resolving(world: World) -> None:
    asked = resolve(answer=never)
    attempts: list[Attempt] = []
    task = asyncio.create_task(call(attempts=attempts))
    await settle()
    assert asked
    await cancelled(task, world)
    assert not attempts


@pytest.mark.parametrize("others", [0, 1, 2])
async def test_cancelled_while_connecting(world: World, others: int) -> None:
    resolve(*[world.silent(family) for family in (V6, V4, V6)[: 1 + others]])
    attempts: list[Attempt] = []
    task = asyncio.create_task(call(attempts=attempts, happy_eyeballs_delay=0.001))
    await until_waiting(world, 1 + others)
    await cancelled(task, world)
    assert not attempts
    assert not turns_of(asyncio.get_running_loop()).busy


async def test_cancelled_while_waiting_for_a_turn(world: World) -> None:
    address = world.live()
    resolve(address)
    first = await call()
    second, third = asyncio.create_task(call()), asyncio.create_task(call())
    await settle()
    second.cancel()
    with closing(first), closing(await third):
        assert second.cancelled()
    assert not turns_of(asyncio.get_running_loop()).busy


@pytest.mark.parametrize("kind", ["live", "refusing", "silent"])
async def test_cancelled_at_every_step(world: World, kind: str) -> None:
    """Whatever it is doing: either it is done, or nothing is left of it."""
    make: Callable[[int], Any] = getattr(world, kind)
    resolve(make(V6), world.silent(V4), make(V6))
    turns = turns_of(asyncio.get_running_loop())
    outcomes: set[str] = set()
    for steps in range(40):
        task = asyncio.create_task(call(happy_eyeballs_delay=1e-4))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        try:
            dialled = await task
        except asyncio.CancelledError:
            outcomes.add("cancelled")
        except DialError:
            outcomes.add("failed")
        else:
            outcomes.add("connected")
            assert world.open_sockets() == [dialled.sock]
            dialled.discard()
        assert not world.open_sockets()
        assert not turns.busy
    assert "cancelled" in outcomes
