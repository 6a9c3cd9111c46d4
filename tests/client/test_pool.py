"""A pool of connections, against real servers."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import random
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import taut
from taut.client.pool.pool import Pool
from taut.client.reconnection import ReconnectPolicy
from taut.errors import ConnectRefused, PoolClosed, PoolTimeout, ReconnectFailed

FAST = ReconnectPolicy(retry_first=True, base_delay=0.01, max_delay=0.02, stable_after=0)


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def echo(ws: Any) -> None:
    async for message in ws:
        await ws.send(message)


class Service:
    """A server, and what it has seen."""

    def __init__(self, handler: Any = echo) -> None:
        self.handler = handler
        self.opened = 0
        self.closed: list[tuple[int, str]] = []
        self.server: taut.Server
        self.port = 0

    @property
    def uri(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def connections(self) -> list[taut.ServerConnection]:
        return sorted(self.server.connections, key=lambda ws: ws.opened_at)

    async def start(self, **options: Any) -> None:
        self.server = await taut.serve(self._handle, "127.0.0.1", self.port, **options)
        self.port = self.server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def _handle(self, ws: taut.ServerConnection) -> None:
        self.opened += 1
        try:
            await self.handler(ws)
        finally:
            await ws.wait_closed()
            self.closed.append((ws.close_code or 0, ws.close_reason or ""))


@asynccontextmanager
async def serving(handler: Any = echo, **options: Any) -> AsyncIterator[Service]:
    service = Service(handler)
    await service.start(**options)
    try:
        yield service
    finally:
        await service.stop()


async def ask(ws: Any, question: str) -> str:
    await ws.send(question)
    return str(await ws.recv())


async def can_all_be_taken(pool: Pool) -> None:
    """Every connection of an exclusive pool can be checked out, at the same time, and answers."""
    await until(lambda: pool.stats.ready == pool.size)
    taken = [pool.connection(timeout=5) for _ in range(pool.size)]
    connections = [await each.__aenter__() for each in taken]
    assert len(set(connections)) == pool.size
    for number, ws in enumerate(connections):
        assert await ask(ws, f"question {number}") == f"question {number}"
    with pytest.raises(PoolTimeout):
        await pool.connection(timeout=0).__aenter__()
    for each in taken:
        await each.__aexit__(None, None, None)
    assert pool.stats.in_use == 0


# ---- ready connections, and who gets which ----


async def test_connections_are_ready_and_answer() -> None:
    async with serving() as service:
        async with Pool(service.uri, size=3, min_ready=3, policy=FAST) as pool:
            assert len(pool.connections) == 3
            assert {ws.state for ws in pool.connections} == {taut.State.OPEN}
            async with pool.connection() as ws:
                assert await ask(ws, "hello") == "hello"
                assert (pool.stats.in_use, pool.stats.ready, pool.stats.size) == (1, 3, 3)
            stats = pool.stats
            assert (stats.opened, stats.failed, stats.closed, stats.checkouts, stats.in_use) == (3, 0, 0, 1, 0)
            assert "3/3 ready" in repr(pool)
        assert pool.stats.closed == 3
        assert pool.connections == ()
        await until(lambda: len(service.closed) == 3)
        assert service.closed == [(1000, "")] * 3


async def test_starting_waits_for_the_first_and_goes_on_in_the_background() -> None:
    go_on = asyncio.Event()

    async def setup(ws: taut.ClientConnection) -> None:
        if service.opened > 1:
            await go_on.wait()

    async with serving() as service, Pool(service.uri, size=3, setup=setup, policy=FAST) as pool:
        assert pool.stats.ready == 1
        assert pool.stats.connecting == 2
        go_on.set()
        await until(lambda: pool.stats.ready == 3)


async def test_nothing_need_be_ready() -> None:
    async with serving() as service, Pool(service.uri, size=2, min_ready=0, policy=FAST) as pool:
        assert pool.stats.ready == 0
        async with pool.connection() as ws:
            assert await ask(ws, "x") == "x"
        assert pool.stats.wait_total > 0
        assert pool.stats.wait_max == pool.stats.wait_total


async def test_least_loaded() -> None:
    async with serving() as service, Pool(service.uri, size=3, min_ready=3) as pool:
        async with pool.connection() as a, pool.connection() as b:
            async with pool.connection() as c, pool.connection() as again:
                assert len({a, b, c}) == 3
                assert again in (a, b, c)
            async with pool.connection() as free:
                assert free is c
        # One after the other, they all have their turn.
        seen = []
        for _ in range(3):
            async with pool.connection() as ws:
                seen.append(ws)
        assert set(seen) == {a, b, c}


async def test_least_loaded_looks_at_unsent_bytes() -> None:
    stop = asyncio.Event()

    async def stalled(ws: Any) -> None:
        await stop.wait()
        ws.abort()

    async with (
        serving(stalled, read_limit=1000, max_size=None) as service,
        Pool(service.uri, size=2, min_ready=2, compression=None, outbox_limit=1 << 25) as pool,
    ):
        async with pool.connection() as loaded:
            loaded.send_nowait(bytes(1 << 24))
            assert loaded.unsent
        for _ in range(4):
            async with pool.connection() as ws:
                assert ws is not loaded
        stop.set()
        await loaded.wait_closed()


async def test_round_robin() -> None:
    async with serving() as service, Pool(service.uri, size=3, min_ready=3, checkout="round_robin") as pool:
        seen = []
        async with pool.connection() as held:  # whether it is used does not matter
            for _ in range(9):
                async with pool.connection() as ws:
                    seen.append(ws)
        assert seen[2] is held
        assert seen[:3] == seen[3:6] == seen[6:]
        assert len(set(seen)) == 3


async def test_send() -> None:
    received: asyncio.Queue[str] = asyncio.Queue()

    async def handler(ws: Any) -> None:
        async for message in ws:
            received.put_nowait(message)

    async with serving(handler) as service, Pool(service.uri, size=2, min_ready=2) as pool:
        for number in range(4):
            await pool.send(str(number), timeout=1)
        assert sorted([await received.get() for _ in range(4)]) == ["0", "1", "2", "3"]
        assert {ws.stats.messages_sent for ws in pool.connections} == {2}


# ---- waiting ----


async def test_exclusive_connections_are_waited_for_in_order() -> None:
    order: list[int] = []
    users = 0

    async def user(pool: Pool, number: int) -> None:
        nonlocal users
        async with pool.connection() as ws:
            users += 1
            assert users == 1
            order.append(number)
            assert await ask(ws, str(number)) == str(number)
            users -= 1

    async with serving() as service, Pool(service.uri, size=1, exclusive=True) as pool:
        async with asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(user(pool, number))
                await asyncio.sleep(0)
        assert order == list(range(20))
        assert pool.stats.checkouts == 20


async def test_nobody_overtakes() -> None:
    order = []
    async with serving() as service, Pool(service.uri, size=1, exclusive=True) as pool:

        async def user(name: str) -> None:
            async with pool.connection():
                order.append(name)

        held = pool.connection()
        await held.__aenter__()
        first = asyncio.create_task(user("first"))
        await until(lambda: pool.stats.waiting == 1)
        await held.__aexit__(None, None, None)
        await user("second")  # the connection is promised to the one that waited, which has not run yet
        await first
        assert order == ["first", "second"]


async def test_waiting_has_a_timeout() -> None:
    async with serving() as service, Pool(service.uri, size=2, min_ready=2, exclusive=True) as pool:
        async with pool.connection(), pool.connection():
            for seconds in (0.02, 0):
                with pytest.raises(PoolTimeout) as caught:
                    async with pool.connection(timeout=seconds):
                        pass
                exc = caught.value
                assert isinstance(exc, TimeoutError)
                assert (exc.timeout, exc.size, exc.ready, exc.in_use, exc.last_error) == (seconds, 2, 2, 2, None)
                assert "2 of 2 ready, 2 in use" in str(exc)
        assert pool.stats.timeouts == 2
        assert pool.stats.waiting == 0
        assert pool.stats.wait_max >= 0.015
        await can_all_be_taken(pool)


async def test_one_that_was_cancelled_does_not_wait_any_more() -> None:
    async with serving() as service, Pool(service.uri, size=1, exclusive=True) as pool, pool.connection():
        waiters = [asyncio.create_task(pool.send("x")) for _ in range(3)]
        await until(lambda: pool.stats.waiting == 3)
        waiters[1].cancel()
        await asyncio.wait({waiters[1]})
        assert pool.stats.waiting == 2
        for waiter in waiters:
            waiter.cancel()
        await asyncio.wait(waiters)
        assert pool.stats.waiting == 0


async def test_a_connection_that_is_closing_is_not_given() -> None:
    async with serving() as service, Pool(service.uri, size=1, policy=FAST) as pool:
        (ws,) = pool.connections
        closing = asyncio.create_task(ws.close())
        await asyncio.sleep(0)
        assert ws.state is taut.State.CLOSING
        with pytest.raises(PoolTimeout):
            await pool.send("x", timeout=0)
        assert pool.connections == ()
        await closing


async def test_a_timeout_tells_why_nothing_is_ready() -> None:
    def setup(ws: Any) -> None:
        raise LookupError("no ticket")

    async with serving() as service, Pool(service.uri, size=1, min_ready=0, setup=setup, policy=FAST) as pool:
        await until(lambda: pool.stats.failed)
        with pytest.raises(PoolTimeout, match="no ticket") as caught:
            await pool.send("x", timeout=0.02)
        assert isinstance(caught.value.last_error, LookupError)


async def test_one_that_is_cancelled_when_its_turn_has_come_gives_it_back() -> None:
    async with serving() as service, Pool(service.uri, size=1, exclusive=True) as pool:

        async def user() -> None:
            async with pool.connection() as ws:
                answers.append(await ask(ws, "x"))

        answers: list[str] = []
        held = pool.connection()
        await held.__aenter__()
        first = asyncio.create_task(user())
        second = asyncio.create_task(user())
        await until(lambda: pool.stats.waiting == 2)
        await held.__aexit__(None, None, None)
        assert pool.stats.in_use == 1
        first.cancel()
        await second
        with pytest.raises(asyncio.CancelledError):
            await first
        assert answers == ["x"]
        await can_all_be_taken(pool)


async def test_a_timeout_and_a_cancellation_at_once() -> None:
    async with serving() as service, Pool(service.uri, size=1, exclusive=True) as pool:
        async with pool.connection():
            waiter = asyncio.create_task(pool.connection(timeout=0.01).__aenter__())
            await until(lambda: pool.stats.timeouts == 1)
            waiter.cancel()
            with pytest.raises((asyncio.CancelledError, PoolTimeout)):
                await waiter
        await can_all_be_taken(pool)


@pytest.mark.parametrize("requests", [True, False], ids=["requests", "checkouts only"])
async def test_cancellation_loses_no_connection(requests: bool) -> None:
    """With requests, whoever gets a connection after one that was broken off gets the answer to their own question."""
    chance = random.Random(7)
    answered = 0

    async def user(pool: Pool, name: str) -> None:
        nonlocal answered
        for number in range(6):
            try:
                async with pool.connection(timeout=chance.choice((None, None, 0.001, 0))) as ws:
                    await asyncio.sleep(0)
                    if requests:
                        assert await ask(ws, f"{name} {number}") == f"{name} {number}"
                        answered += 1
            except PoolTimeout:
                await asyncio.sleep(0.001)

    async with (
        serving() as service,
        Pool(service.uri, size=3, min_ready=3, exclusive=True, policy=FAST, connecting_limit=None) as pool,
    ):
        users = [asyncio.create_task(user(pool, str(number))) for number in range(60)]
        for victim in chance.sample(users, 40):
            await asyncio.sleep(chance.choice((0, 0, 0.001)))
            victim.cancel()
        outcomes = await asyncio.gather(*users, return_exceptions=True)
        assert [each for each in outcomes if each is not None and not isinstance(each, asyncio.CancelledError)] == []
        assert any(isinstance(each, asyncio.CancelledError) for each in outcomes)
        assert pool.stats.waiting == pool.stats.in_use == 0
        assert bool(answered) is requests
        assert requests or pool.stats.opened == 3
        await can_all_be_taken(pool)


# ---- connections that end ----


async def test_a_dead_connection_is_replaced() -> None:
    async with serving() as service, Pool(service.uri, size=3, min_ready=3, policy=FAST) as pool:
        before = set(pool.connections)
        service.connections[0].abort()
        await until(lambda: pool.stats.closed == 1 and pool.stats.ready == 3)
        assert len(before & set(pool.connections)) == 2
        assert (pool.stats.opened, pool.stats.failed) == (4, 0)
        await service.connections[0].close(1012)
        await until(lambda: pool.stats.closed == 2 and pool.stats.ready == 3)


async def test_a_connection_that_died_in_use_is_not_given_again() -> None:
    async with serving() as service, Pool(service.uri, size=1, exclusive=True, policy=FAST) as pool:
        checkout = pool.connection()
        with pytest.raises(taut.ConnectionClosedError):
            async with pool.connection() as ws:
                waiter = asyncio.create_task(checkout.__aenter__())
                await until(lambda: pool.stats.waiting == 1)
                service.connections[0].abort()
                another = await waiter  # while this one is still held
                assert pool.stats.in_use == 2
                await ws.recv()
        assert another is not ws
        assert (pool.stats.in_use, pool.stats.opened) == (1, 2)
        assert await ask(another, "x") == "x"
        await checkout.__aexit__(None, None, None)


async def test_a_connection_that_its_user_closed_is_replaced() -> None:
    async with serving() as service, Pool(service.uri, size=1, policy=FAST) as pool:
        async with pool.connection() as ws:
            await ws.close(1008)  # from the server it would be final
        async with pool.connection(timeout=5) as another:
            assert await ask(another, "x") == "x"


async def test_a_server_that_accepts_and_closes_is_not_hammered() -> None:
    async def refuse(ws: Any) -> None:
        await ws.close(1013)

    policy = ReconnectPolicy(retry_first=True, base_delay=0.01, max_attempts=4, stable_after=60)
    async with serving(refuse) as service:
        with pytest.raises(ReconnectFailed, match="max_attempts") as caught:
            await Pool(service.uri, size=2, min_ready=2, policy=policy, setup=lambda ws: ws.wait_closed()).start()
        assert isinstance(caught.value.reason, taut.ConnectionClosed)
        assert 4 <= service.opened <= 8
        pool = Pool(service.uri, size=2, min_ready=0, policy=policy)
        await pool.start()
        await until(lambda: pool.stats.given_up == 2)
        assert pool.stats.opened + pool.stats.failed == 8
        with pytest.raises(ReconnectFailed):
            await pool.send("x")
        await pool.close()


async def test_the_server_restarts() -> None:
    async with serving() as service, Pool(service.uri, size=3, min_ready=3, policy=FAST) as pool:
        await service.stop()
        await until(lambda: pool.stats.ready == 0 and pool.stats.failed >= 3)
        waiter = asyncio.create_task(pool.send("after the restart", timeout=30))
        await until(lambda: pool.stats.waiting == 1)
        await service.start()
        await waiter
        await until(lambda: pool.stats.ready == 3)


async def test_when_every_slot_is_given_up_waiting_is_over() -> None:
    async with serving() as service, Pool(service.uri, size=2, min_ready=2, exclusive=True, policy=FAST) as pool:
        async with pool.connection(), pool.connection():
            waiters = [asyncio.create_task(pool.send("x")) for _ in range(2)]
            await until(lambda: pool.stats.waiting == 2)
            for ws in service.connections:
                await ws.close(4000, "banned")
            for waiter in waiters:
                with pytest.raises(ReconnectFailed, match="banned") as caught:
                    await waiter
                assert isinstance(caught.value.reason, taut.ConnectionClosedError)
        with pytest.raises(ReconnectFailed):
            await pool.send("x", timeout=1)
        assert (pool.stats.given_up, pool.stats.ready, pool.stats.waiting) == (2, 0, 0)
        pool.resize(2)
        await pool.send("a fresh start", timeout=5)


async def test_a_hook_of_the_policy_that_fails_ends_the_slot(caplog: pytest.LogCaptureFixture) -> None:
    def classify(exc: BaseException) -> bool:
        raise LookupError("a mistake")

    policy = ReconnectPolicy(retry_first=True, classify=classify)
    async with serving() as service, Pool(service.uri, size=1, policy=policy) as pool:
        await service.connections[0].close(1012)
        await until(lambda: pool.stats.given_up == 1)
        with pytest.raises(ReconnectFailed, match="a mistake"):
            await pool.send("x")
    assert "a mistake" in caplog.text


# ---- setup ----


@pytest.mark.parametrize("is_async", [True, False])
async def test_setup_fails_and_then_succeeds(is_async: bool, caplog: pytest.LogCaptureFixture) -> None:
    calls: list[taut.ClientConnection] = []

    def setup(ws: taut.ClientConnection) -> None:
        calls.append(ws)
        if len(calls) <= 2:
            raise LookupError("not yet")

    async def setup_async(ws: taut.ClientConnection) -> None:
        setup(ws)
        assert await ask(ws, "token") == "token"

    async with (
        serving() as service,
        Pool(service.uri, size=1, setup=setup_async if is_async else setup, policy=FAST) as pool,
    ):
        assert len(calls) == 3
        assert pool.connections == (calls[2],)
        assert (pool.stats.opened, pool.stats.failed) == (1, 2)
        await until(lambda: len(service.closed) == 2)
        assert service.closed == [(1011, "setup failed")] * 2
    assert caplog.text.count("LookupError: not yet") == 2


async def test_setup_has_a_timeout() -> None:
    calls = 0

    async def setup(ws: taut.ClientConnection) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await ws.recv()

    async with (
        serving() as service,
        Pool(service.uri, size=1, setup=setup, setup_timeout=0.02, policy=FAST) as pool,
    ):
        assert (calls, pool.stats.failed) == (2, 1)
        await until(lambda: service.closed)
        assert service.closed == [(1011, "setup failed")]


async def test_setup_cannot_close_the_pool() -> None:
    calls = 0

    async def setup(ws: taut.ClientConnection) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            with pytest.raises(RuntimeError, match="a pool cannot be closed by its setup"):
                await pool.close()
            with pytest.raises(RuntimeError, match="a pool cannot be closed by its setup"):
                await pool.drain()

    async with serving() as service:
        pool = Pool(service.uri, size=1, setup=setup, policy=FAST)
        async with pool:
            async with pool.connection() as ws:
                assert await ask(ws, "x") == "x"
            assert (calls, pool.stats.failed) == (1, 0)


async def test_a_connection_that_ends_during_setup_does_not_count() -> None:
    calls = 0

    async def setup(ws: taut.ClientConnection) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            service.connections[0].abort()
            await ws.wait_closed()

    async with serving() as service, Pool(service.uri, size=1, setup=setup, policy=FAST) as pool:
        assert (calls, pool.stats.failed, pool.stats.opened) == (2, 1, 1)


async def test_a_setup_that_is_refused_for_good() -> None:
    async def setup(ws: taut.ClientConnection) -> None:
        await ask(ws, "token")

    async def refuse(ws: Any) -> None:
        await ws.recv()
        await ws.close(4001, "bad token")

    async with serving(refuse) as service:
        with pytest.raises(ReconnectFailed, match="bad token"):
            await Pool(service.uri, size=2, setup=setup, policy=FAST).start()
        assert service.opened == 2


async def test_the_policy_may_call_a_failure_of_setup_final() -> None:
    def setup(ws: Any) -> None:
        raise LookupError("no")

    def classify(exc: BaseException) -> bool | None:
        return False if isinstance(exc, LookupError) else None

    async with serving() as service:
        with pytest.raises(ReconnectFailed, match="no"):
            policy = ReconnectPolicy(retry_first=True, classify=classify)
            await Pool(service.uri, size=2, setup=setup, policy=policy).start()
        assert service.opened == 2


async def test_the_first_attempt_is_final_if_the_policy_says_so() -> None:
    def setup(ws: Any) -> None:
        raise LookupError("no")

    async with serving() as service:
        with pytest.raises(ReconnectFailed, match="no") as caught:
            await Pool(service.uri, size=2, setup=setup, policy=ReconnectPolicy()).start()
        assert isinstance(caught.value.reason, LookupError)
        assert service.opened == 2


# ---- starting that fails ----


async def test_nobody_listens() -> None:
    async with serving() as service:
        pass
    with pytest.raises(ConnectRefused) as caught:
        await Pool(
            service.uri, size=2, policy=ReconnectPolicy(retry_first=True, base_delay=0.01, max_attempts=2)
        ).start()
    assert caught.value.attempts


async def test_a_final_refusal() -> None:
    def process_request(ws: Any, request: taut.Request) -> taut.Response:
        return taut.Response(403, "Forbidden")

    async with serving(process_request=process_request) as service:
        pool = Pool(service.uri, size=3, policy=FAST)
        with pytest.raises(taut.InvalidStatus) as caught:
            await pool.start()
        assert caught.value.response.status_code == 403
        with pytest.raises(PoolClosed):
            await pool.send("x")


async def test_not_enough_can_become_ready() -> None:
    requests = 0

    def process_request(ws: Any, request: taut.Request) -> taut.Response | None:
        nonlocal requests
        requests += 1
        return taut.Response(403, "Forbidden") if requests == 2 else None

    async with serving(process_request=process_request) as service:
        pool = Pool(service.uri, size=3, min_ready=3, policy=FAST)
        with pytest.raises(taut.InvalidStatus):
            await pool.start()
        assert pool.connections == ()
        await until(lambda: not service.connections)


async def test_cancelling_the_start_leaves_nothing() -> None:
    begun = asyncio.Event()

    async def setup(ws: taut.ClientConnection) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with serving() as service:
        pool = Pool(service.uri, size=3, setup=setup)
        task = asyncio.create_task(pool.start())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not service.connections)


async def test_closing_during_the_start() -> None:
    begun = asyncio.Event()

    async def setup(ws: taut.ClientConnection) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with serving() as service:
        pool = Pool(service.uri, size=2, setup=setup)
        task = asyncio.create_task(pool.start())
        await begun.wait()
        await pool.close(1001, "never mind")
        with pytest.raises(PoolClosed):
            await task
        await until(lambda: len(service.closed) == service.opened)
        assert (1001, "never mind") in service.closed


# ---- users that leave by an exception ----


async def test_an_exclusive_connection_is_replaced_when_a_request_is_broken_off() -> None:
    async with serving() as service, Pool(service.uri, size=1, exclusive=True, policy=FAST) as pool:
        with pytest.raises(LookupError):
            async with pool.connection() as ws:
                await ws.send("whose answer nobody takes")
                raise LookupError
        async with pool.connection(timeout=5) as another:
            assert another is not ws
            assert await ask(another, "mine") == "mine"
        await until(lambda: service.closed)
        assert service.closed == [(1001, "a request was broken off")]
        assert pool.stats.failed == 0


async def test_a_waiter_does_not_get_what_was_broken_off() -> None:
    async with serving() as service, Pool(service.uri, size=1, exclusive=True, policy=FAST) as pool:

        async def user(question: str) -> str:
            async with pool.connection() as ws:
                return await ask(ws, question)

        held = pool.connection()
        ws = await held.__aenter__()
        await ws.send("old")
        waiter = asyncio.create_task(user("new"))
        await until(lambda: pool.stats.waiting == 1)
        await held.__aexit__(LookupError, LookupError(), None)
        assert await waiter == "new"


@pytest.mark.parametrize("options", [{"exclusive": True}, {}, {"exclusive": True, "reset_on_error": False}])
async def test_a_connection_that_can_be_trusted_stays(options: dict[str, Any]) -> None:
    async with serving() as service, Pool(service.uri, size=1, policy=FAST, **options) as pool:
        with pytest.raises(LookupError):
            async with pool.connection() as ws:
                if options != {"exclusive": True}:
                    await ws.send("x")
                raise LookupError  # of the first, nothing has been sent
        assert pool.connections == (ws,)
        assert pool.stats.in_use == 0


async def test_other_users_of_a_replaced_connection_may_finish() -> None:
    async with serving() as service, Pool(service.uri, size=1, reset_on_error=True, policy=FAST) as pool:
        async with pool.connection() as shared:
            with pytest.raises(LookupError):
                async with pool.connection() as ws:
                    await ws.send("x")
                    raise LookupError
            assert ws is shared
            async with pool.connection(timeout=5) as another:
                assert another is not shared
            assert await shared.recv() == "x"
        await until(lambda: service.closed)
        assert service.closed == [(1001, "a request was broken off")]


# ---- replacing, resizing ----


async def test_lifetime() -> None:
    fewest = 3
    async with (
        serving() as service,
        Pool(service.uri, size=3, min_ready=3, max_lifetime=0.1, policy=FAST, drain_timeout=None) as pool,
    ):
        first = set(pool.connections)

        def all_replaced() -> bool:
            nonlocal fewest
            fewest = min(fewest, pool.stats.ready)
            assert len(service.connections) <= 6
            return not first & set(pool.connections)

        async with pool.connection() as held:
            await until(all_replaced)
            assert await ask(held, "still here") == "still here"
        assert fewest == 3
        await until(lambda: held.closed)
        assert held.close_code == 1000
        assert held.close_reason == "max_lifetime"
        assert pool.stats.failed == 0


async def test_a_successor_that_is_refused_leaves_the_old_one_in_place() -> None:
    refused = 0

    def process_request(ws: Any, request: taut.Request) -> taut.Response | None:
        nonlocal refused
        refused += service.opened > 0
        return taut.Response(403, "Forbidden") if service.opened else None

    async with (
        serving(process_request=process_request) as service,
        Pool(service.uri, size=1, max_lifetime=0.02, policy=FAST) as pool,
    ):
        connections = pool.connections
        await until(lambda: refused >= 2)  # it is tried again, a lifetime later
        assert pool.connections == connections
        await pool.send("x", timeout=0)


async def test_the_old_one_ends_while_its_successor_is_connecting() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def setup(ws: taut.ClientConnection) -> None:
        if service.opened > 1:
            begun.set()
            await go_on.wait()

    async with (
        serving() as service,
        Pool(service.uri, size=1, setup=setup, max_lifetime=0.2, policy=FAST) as pool,
    ):
        await begun.wait()
        service.connections[0].abort()
        await until(lambda: pool.stats.closed == 1 and pool.stats.connecting == 1)
        go_on.set()
        await pool.send("x", timeout=5)
        assert service.opened == 2  # the successor took its place, without another attempt


async def test_the_old_one_is_not_wanted_any_more_while_its_successor_is_connecting() -> None:
    begun = asyncio.Event()

    async def setup(ws: taut.ClientConnection) -> None:
        if service.opened > 2:
            begun.set()
            await asyncio.Event().wait()

    async with (
        serving() as service,
        Pool(service.uri, size=2, min_ready=2, setup=setup, max_lifetime=0.2, policy=FAST) as pool,
    ):
        await begun.wait()
        old, _ = pool._renewal or (None, None)
        taken = [pool.connection(), pool.connection()]
        for each in taken:
            await each.__aenter__()
        (unwanted,) = (each for each in taken if each._pooled and each._pooled.slot is old)
        await unwanted.__aexit__(None, None, None)
        pool.resize(1)  # the one that nobody uses goes
        await until(lambda: (1000, "not needed any more") in service.closed)
        taken.remove(unwanted)
        await taken[0].__aexit__(None, None, None)
        assert len(pool.connections) == 1


async def test_resizing() -> None:
    async with serving() as service, Pool(service.uri, size=2, min_ready=2, policy=FAST) as pool:
        pool.resize(5)
        await until(lambda: pool.stats.ready == 5)
        assert (pool.size, pool.stats.size) == (5, 5)
        async with pool.connection() as busy:
            pool.resize(1)
            assert pool.connections == (busy,)  # the one that is used stays
            await until(lambda: len(service.closed) == 4)
        assert service.closed == [(1000, "the pool became smaller")] * 4
        await until(lambda: len(service.connections) == 1)
        pool.resize(3)
        await until(lambda: pool.stats.ready == 3)


async def test_becoming_smaller_waits_for_users() -> None:
    async with serving() as service, Pool(service.uri, size=2, min_ready=2, exclusive=True) as pool:
        async with pool.connection() as a:
            async with pool.connection() as b:
                pool.resize(1)
                assert len(pool.connections) == 1
                assert await ask(a, "a") == "a"
                assert await ask(b, "b") == "b"
            if pool.connections != (b,):
                await b.wait_closed()
        await until(lambda: len(service.connections) == 1)
        await can_all_be_taken(pool)


async def test_resizing_before_the_start_and_while_connecting() -> None:
    async with serving() as service:
        pool = Pool(service.uri, size=4, min_ready=4, policy=FAST)
        pool.resize(2)
        task = asyncio.create_task(pool.start())
        await asyncio.sleep(0)
        pool.resize(1)
        await task
        assert pool.stats.ready == pool.size == 1
        await pool.close()
        with pytest.raises(PoolClosed):
            pool.resize(2)


async def test_everything_at_once() -> None:
    """Users come, go, fail and are cancelled while connections die, age, and change in number."""
    chance = random.Random(11)

    async def user(pool: Pool, name: str) -> None:
        for number in range(10):
            try:
                async with pool.connection(timeout=chance.choice((None, 0.005))) as ws:
                    assert await ask(ws, f"{name} {number}") == f"{name} {number}"
                    if chance.random() < 0.1:
                        await ws.send("broken off")
                        raise LookupError
            except (PoolTimeout, taut.ConnectionClosed, LookupError):
                await asyncio.sleep(0.001)

    async with (
        serving() as service,
        Pool(
            service.uri, size=4, exclusive=True, max_lifetime=0.03, policy=FAST, connecting_limit=None, drain_timeout=5
        ) as pool,
    ):
        users = [asyncio.create_task(user(pool, str(number))) for number in range(40)]
        for step in range(40):
            await asyncio.sleep(chance.choice((0, 0.001, 0.005)))
            chance.choice(users).cancel()
            if service.connections and step % 4 == 0:
                chance.choice(service.connections).abort()
            if step % 5 == 0:
                pool.resize(chance.randint(1, 6))
        outcomes = await asyncio.gather(*users, return_exceptions=True)
        assert [each for each in outcomes if each is not None and not isinstance(each, asyncio.CancelledError)] == []
        assert pool.stats.waiting == pool.stats.in_use == 0
        pool.resize(3)
        # Lifetimes go on: what is too many now leaves, and one successor at most is on its way.
        await until(lambda: pool.stats.ready == 3 and pool.stats.opened - pool.stats.closed <= 4)
        async with pool.connection(timeout=5), pool.connection(timeout=5), pool.connection(timeout=5):
            assert pool.stats.in_use == 3
    assert pool.stats.opened == pool.stats.closed


async def test_slots_do_not_run_in_the_context_of_users() -> None:
    seen: list[str] = []

    def setup(ws: Any) -> None:
        seen.append(variable.get())

    variable = contextvars.ContextVar("variable", default="nobody")
    variable.set("start")
    async with serving() as service, Pool(service.uri, size=1, setup=setup, policy=FAST) as pool:
        variable.set("user")
        pool.resize(2)
        await until(lambda: pool.stats.ready == 2)
        assert seen == ["start", "start"]


# ---- the end ----


async def test_draining_waits_for_users_and_refuses_others() -> None:
    async with serving() as service, Pool(service.uri, size=1, exclusive=True) as pool:
        held = pool.connection()
        ws = await held.__aenter__()
        waiter = asyncio.create_task(pool.send("x"))
        await until(lambda: pool.stats.waiting == 1)
        drain = asyncio.create_task(pool.drain(math.inf))
        with pytest.raises(PoolClosed, match="the pool is closed"):
            await waiter
        with pytest.raises(PoolClosed):
            await pool.connection().__aenter__()
        assert await ask(ws, "still here") == "still here"
        assert not drain.done()
        await held.__aexit__(None, None, None)
        await drain
        assert (ws.close_code, ws.close_info and ws.close_info.clean) == (1000, True)
        await until(lambda: service.closed)
        assert service.closed == [(1000, "")]


async def test_users_that_do_not_leave_are_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as service, Pool(service.uri, size=2, min_ready=2) as pool:
        async with pool.connection() as ws:
            await pool.close(3001, "enough", timeout=0.02)
            with pytest.raises(taut.ConnectionClosedError, match="enough"):
                await ws.recv()
        await until(lambda: len(service.closed) == 2)
        assert service.closed == [(3001, "enough")] * 2
        assert pool.stats.in_use == 0
    assert "1 users were left" in caplog.text


async def test_a_second_close_shortens_the_first() -> None:
    async with serving() as service, Pool(service.uri, size=1) as pool, pool.connection() as ws:
        first = asyncio.create_task(pool.drain(50))
        await asyncio.sleep(0)
        second = asyncio.create_task(pool.close(1001, timeout=0.01))
        await asyncio.sleep(0)
        await pool.drain(50)
        await asyncio.gather(first, second)
        assert ws.close_code == 1000  # the first says with what


async def test_a_request_that_is_broken_off_while_the_pool_closes() -> None:
    async with serving() as service, Pool(service.uri, size=1, exclusive=True, policy=FAST) as pool:
        with pytest.raises(LookupError):
            async with pool.connection() as ws:
                await ws.send("x")
                closing = asyncio.create_task(pool.close())
                await asyncio.sleep(0)
                raise LookupError
        await closing
        assert (service.opened, pool.stats.opened) == (1, 1)


async def test_cancelling_close_drops_everything() -> None:
    async with serving() as service, Pool(service.uri, size=2, min_ready=2) as pool:
        async with pool.connection() as ws:
            task = asyncio.create_task(pool.close(timeout=math.inf))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(taut.ConnectionClosedError):
                await ws.recv()
        await until(lambda: len(service.closed) == 2)
        await pool.close()


async def test_closing_while_backing_off() -> None:
    policy = ReconnectPolicy(retry_first=True, base_delay=1000, max_delay=1000)
    async with serving() as service:
        pass
    async with Pool(service.uri, size=2, min_ready=0, policy=policy) as pool:
        await until(lambda: pool.stats.backing_off == 2)
        await pool.close()
        assert (pool.stats.backing_off, pool.stats.failed) == (0, 2)


async def test_the_wrong_order() -> None:
    async with serving() as service:
        pool = Pool(service.uri, size=1)
        with pytest.raises(RuntimeError, match="has not been started"):
            await pool.send("x")
        await pool.start()
        with pytest.raises(RuntimeError, match="already"):
            await pool.start()
        checkout = pool.connection()
        async with checkout:
            pass
        with pytest.raises(RuntimeError, match="call it again"):
            await checkout.__aenter__()
        await pool.close()
        await pool.close()
        for unusable in (pool, Pool(service.uri)):
            await unusable.close()
            with pytest.raises(PoolClosed):
                await unusable.start()


# ---- where connections come from ----


@pytest.mark.parametrize("kind", ["str", "async str", "connect", "async connect"])
async def test_a_factory(kind: str) -> None:
    attempts = []

    def factory(attempt: int) -> Any:
        attempts.append(attempt)
        if len(attempts) == 1:
            return "ws://127.0.0.1:1/"  # nobody is there
        uri = f"{service.uri}/{attempt}"
        return uri if kind.endswith("str") else taut.connect(uri, user_agent_header="mine")

    async def async_factory(attempt: int) -> Any:
        return factory(attempt)

    async with (
        serving() as service,
        Pool(
            async_factory if kind.startswith("async") else factory, size=1, policy=FAST, user_agent_header="mine"
        ) as pool,
    ):
        assert attempts == [1, 2]
        request = service.connections[0].request
        assert request is not None
        assert (request.path, request.headers["User-Agent"]) == ("/2", "mine")
        service.connections[0].abort()
        await until(lambda: pool.stats.closed == 1 and pool.stats.ready == 1)
        assert attempts == [1, 2, 1]


async def test_a_factory_that_fails() -> None:
    def wrong(attempt: int) -> Any:
        return 7

    def raising(attempt: int) -> str:
        raise LookupError("nowhere")

    for factory, kind in ((wrong, TypeError), (raising, LookupError)):
        with pytest.raises(ReconnectFailed) as caught:
            await Pool(factory, size=2, policy=FAST).start()
        assert isinstance(caught.value.reason, kind)


# ---- options ----


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"size": 0}, ValueError, "size must be"),
        ({"size": 2.0}, TypeError, "size must be"),
        ({"size": True}, TypeError, "size must be"),
        ({"min_ready": -1}, ValueError, "min_ready must be"),
        ({"size": 2, "min_ready": 3}, ValueError, "min_ready must be at most size"),
        ({"setup": "x"}, TypeError, "setup must be a function"),
        ({"setup_timeout": 0}, ValueError, "setup_timeout must be"),
        ({"checkout": "random"}, ValueError, "checkout must be"),
        ({"exclusive": 1}, TypeError, "exclusive must be"),
        ({"reset_on_error": "yes"}, TypeError, "reset_on_error must be"),
        ({"max_lifetime": 0}, ValueError, "max_lifetime must be"),
        ({"max_lifetime": "1"}, TypeError, "max_lifetime must be"),
        ({"drain_timeout": -1}, ValueError, "drain_timeout must be"),
        ({"policy": None}, TypeError, "policy must be"),
        ({"max_size": 0}, ValueError, "max_size must be"),
        ({"sizes": 3}, TypeError, "sizes"),
        ({"uri_or_factory": 7}, TypeError, "uri_or_factory must be"),
        ({"uri_or_factory": "http//x"}, taut.InvalidURI, "http//x"),
        ({"uri_or_factory": lambda attempt: "ws://x", "max_size": 0}, ValueError, "max_size must be"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Pool(**{"uri_or_factory": "ws://localhost/", **options})


def test_one_socket_is_no_pool() -> None:
    with socket.socket() as sock, pytest.raises(ValueError, match="sock cannot be given"):
        Pool("ws://localhost/", sock=sock)


async def test_bad_arguments() -> None:
    pool = Pool("ws://localhost/")
    for timeout, error in ((-1, ValueError), ("1", TypeError)):
        with pytest.raises(error, match="timeout must be"):
            pool.connection(timeout=timeout)
        with pytest.raises(error, match="timeout must be"):
            await pool.close(timeout=timeout)
    with pytest.raises(ValueError, match="close code must be"):
        await pool.close(1005)
    with pytest.raises(ValueError, match="size must be"):
        pool.resize(0)


async def test_the_logger_that_is_given(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as service:
        pass
    with caplog.at_level(logging.INFO, logger="mine"), pytest.raises(ConnectRefused):
        await Pool(service.uri, size=1, logger="mine", policy=ReconnectPolicy()).start()
    assert [record.name for record in caplog.records if "given up" in record.message] == ["mine"]
