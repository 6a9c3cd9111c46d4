"""Limits that several servers keep together in Redis: a real one, that is stopped, ended, and forgets."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import redis.asyncio
from network import Driver
from services import Redis
from victim import victim

import taut
from taut.server.shared import Ledger
from taut.server.shared.ledger import Place


async def wait(ws: taut.ServerConnection) -> None:
    await ws.wait_closed()


def by_query(ws: taut.ServerConnection, request: taut.Request) -> None:
    _, _, name = request.path.partition("?")
    ws.principal = name or None


class Cluster:
    """Servers with limits that they share."""

    def __init__(self, tcp: Driver, service: Redis, limits: dict[str, Any]) -> None:
        self.tcp = tcp
        self.service = service
        self.limits = {"lease": 30.0, "timeout": 2.0, **limits}  # the machine may be busy: that is not what is tested
        self.servers: list[taut.Server] = []

    def limits_of(self, **limits: Any) -> taut.RedisLimits:
        return taut.RedisLimits(self.service.url, **(self.limits | limits))

    async def open(self, number: int, target: str = "/", **options: Any) -> taut.ClientConnection:
        ws: taut.ClientConnection = await self.tcp.connect(
            self.servers[number], target, connecting_limit=None, **options
        )
        return ws

    async def refused(self, number: int, target: str = "/", **options: Any) -> int:
        with pytest.raises(taut.InvalidStatus) as caught:
            await self.open(number, target, **options)
        assert caught.value.response.headers["Retry-After"] == "1"
        return caught.value.response.status_code

    async def counts(self) -> list[int]:
        """All counts of all servers, as Redis has them."""
        async with redis.asyncio.Redis.from_url(self.service.url, protocol=2) as client:
            found = []
            for worker in await client.zrange("{taut}:workers", 0, -1):
                found += [int(count) for count in await client.hvals("{taut}:worker:" + worker.decode())]
            return found

    async def until_counted(self, count: int) -> None:
        while sum(await self.counts()) != count:
            await asyncio.sleep(0.005)

    async def until_present(self) -> None:
        while not all(ledger_of(server).is_present for server in self.servers):
            await asyncio.sleep(0.005)


def ledger_of(server: taut.Server) -> Ledger:
    assert server.admission.sharing is not None
    return server.admission.sharing.ledger


@contextlib.asynccontextmanager
async def cluster(
    tcp: Driver,
    service: Redis,
    options: dict[str, Any] | None = None,
    servers: int = 2,
    handler: Any = wait,
    **limits: Any,
) -> AsyncGenerator[Cluster]:
    it = Cluster(tcp, service, limits)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(servers):
            serving = tcp.serve(
                handler, shared_limits=it.limits_of(), **{"process_request": by_query, **(options or {})}
            )
            it.servers.append(await stack.enter_async_context(serving))
        assert all(ledger_of(server).is_present for server in it.servers)
        yield it


@pytest.mark.parametrize(
    ("limit", "target", "status"),
    [
        ("max_connections", "/", 503),
        ("max_connections_per_address", "/", 429),
        ("max_connections_per_user", "/?ann", 429),
    ],
)
async def test_connections_are_counted_over_all_servers(
    tcp: Driver, redis: Redis, limit: str, target: str, status: int
) -> None:
    async with cluster(tcp, redis, **{limit: 2}) as them:
        one, two = await them.open(0, target), await them.open(1, target)
        for number in (0, 1):
            assert await them.refused(number, target) == status
            assert them.servers[number].stats.rejected == {f"shared_{limit}": 1}
        await one.close()
        await them.until_counted(1)
        three = await them.open(1, target)
        assert await them.refused(0, target) == status
        await two.close()
        await three.close()
        await them.until_counted(0)


async def test_what_is_counted_apart(tcp: Driver, redis: Redis) -> None:
    """Users by what they are, addresses by their prefix, those without a user not at all."""
    options = {"trusted_proxies": ["127.0.0.1"], "address_prefix": (24, 64)}
    limits = {"max_connections_per_address": 1, "max_connections_per_user": 1}
    async with cluster(tcp, redis, options, **limits) as them:

        def at(address: str) -> Any:
            return {"additional_headers": {"X-Forwarded-For": address}}

        opened = [
            await them.open(0, "/?ann", **at("192.0.2.1")),
            await them.open(1, "/?bob", **at("192.0.3.1")),
            await them.open(1, "/", **at("192.0.4.1")),
            await them.open(0, "/", **at("192.0.5.1")),
        ]
        assert await them.refused(1, "/?ann", **at("192.0.6.1")) == 429
        assert await them.refused(1, "/?eve", **at("192.0.2.200")) == 429
        assert sorted(await them.counts()) == [1] * 6
        for ws in opened:
            await ws.close()
        await them.until_counted(0)


async def test_handshakes_a_second_over_all_servers(tcp: Driver, redis: Redis) -> None:
    async with cluster(tcp, redis, handshake_rate=0.5) as them:  # 2.5 at once, and then one every two seconds
        statuses = []
        for number in (0, 1, 0, 1, 0):
            try:
                await (await them.open(number)).close()
                statuses.append(101)
            except taut.InvalidStatus as exc:
                statuses.append(exc.response.status_code)
        assert statuses.count(503) >= 2
        rejected = [server.stats.rejected.get("shared_handshake_rate", 0) for server in them.servers]
        assert sum(rejected) == statuses.count(503)


async def test_the_last_place_is_given_once(tcp: Driver, redis: Redis) -> None:
    async def attempt(number: int) -> taut.ClientConnection | None:
        try:
            return await them.open(number % 2)
        except taut.InvalidStatus:
            return None

    async with cluster(tcp, redis, max_connections=7) as them:
        for _ in range(2):
            opened = [ws for ws in await asyncio.gather(*map(attempt, range(30))) if ws is not None]
            assert len(opened) == 7
            await asyncio.gather(*(ws.close() for ws in opened))
            await them.until_counted(0)


@pytest.mark.parametrize("way", ["client", "client drops", "server", "handler fails"])
async def test_a_place_is_given_back_however_a_connection_ends(tcp: Driver, redis: Redis, way: str) -> None:
    async def handler(ws: taut.ServerConnection) -> None:
        if way == "handler fails":
            raise taut.ProtocolError(1002, "on purpose")
        if way != "server":
            await ws.wait_closed()

    async with cluster(tcp, redis, None, 1, handler, max_connections=1) as them:
        for _ in range(2):
            ws = await them.open(0)
            if way == "client drops":
                ws.abort()
            elif way == "client":
                await ws.close()
            await ws.wait_closed()
            await them.until_counted(0)


async def test_a_handshake_that_is_refused_in_the_end_gives_back_what_it_took(tcp: Driver, redis: Redis) -> None:
    def refuse(ws: taut.ServerConnection, request: taut.Request, response: taut.Response) -> taut.Response:
        return ws.respond(403)

    async with cluster(tcp, redis, {"process_response": refuse}, max_connections=1) as them:
        for _ in range(2):
            with pytest.raises(taut.InvalidStatus) as caught:
                await them.open(0)
            assert caught.value.response.status_code == 403
            await them.until_counted(0)


async def test_what_is_refused_anyway_is_not_asked_for(tcp: Driver, redis: Redis) -> None:
    """Plain HTTP, an origin that is not allowed, nobody we know: a full cluster answers them as ever."""

    def hook(ws: taut.ServerConnection, request: taut.Request) -> taut.Response | None:
        return ws.respond(200, "OK\n") if request.path == "/healthz" else None

    async with cluster(tcp, redis, {"process_request": hook}, max_connections=1) as them:
        ws = await them.open(0)
        for target, headers, status in [("/healthz", {}, 200), ("/", {"Origin": "https://elsewhere.example"}, 403)]:
            with pytest.raises(taut.InvalidStatus) as caught:
                await them.open(1, target, additional_headers=headers)
            assert caught.value.response.status_code == status
        assert not them.servers[1].stats.rejected
        await ws.close()


async def test_a_user_who_is_known_by_the_first_message(tcp: Driver, redis: Redis) -> None:
    @taut.first_message_auth(str)
    async def handler(ws: taut.ServerConnection) -> None:
        await ws.send(f"hello, {ws.principal}")
        await ws.wait_closed()

    async with cluster(tcp, redis, None, 2, handler, max_connections_per_user=1, max_connections=9) as them:
        one, two = await them.open(0), await them.open(1)
        await one.send("ann")
        assert await one.recv() == "hello, ann"
        await two.send("ann")
        with pytest.raises(taut.ConnectionClosed):
            await two.recv()
        assert (two.close_code, two.close_reason) == (1013, "too many connections of this user")
        await one.close()
        await them.until_counted(0)


async def test_a_server_that_is_closed_stops_counting_at_once(tcp: Driver, redis: Redis) -> None:
    async with cluster(tcp, redis, max_connections=2) as them:
        await them.open(0)
        ws = await them.open(1)
        them.servers[0].close()
        await them.servers[0].wait_closed()
        assert await them.counts() == [1]
        await ws.close()
    assert await them.counts() == []


# -- Redis is away ---------------------------------------------------------------------------------------------


async def test_without_redis_a_server_goes_by_its_own_counts_and_tells_them_later(
    tcp: Driver, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster(tcp, redis, max_connections=3) as them:
        opened = [await them.open(0), await them.open(1)]
        redis.end()
        opened += [await them.open(0) for _ in range(2)]  # three of its own
        assert await them.refused(0) == 503
        opened.append(await them.open(1))
        await opened.pop(0).close()
        assert caplog.text.count("Redis is away, this server goes by its own") == 2
        redis.restart()
        await them.until_present()
        assert sorted(await them.counts()) == [2, 2]
        for number in (0, 1):
            assert await them.refused(number) == 503
        for ws in opened:
            await ws.close()
        await them.until_counted(0)
        assert caplog.text.count("Redis is back") == 2


async def test_without_redis_nobody_is_let_in_if_that_is_asked_for(tcp: Driver, redis: Redis) -> None:
    async with cluster(tcp, redis, max_connections=3, when_away="refuse") as them:
        ws = await them.open(0)
        redis.end()
        for number in (0, 1):
            assert await them.refused(number) == 503
            assert them.servers[number].stats.rejected == {"shared_limits_away": 1}
        redis.restart()
        await them.until_present()
        assert await them.counts() == [1]
        await ws.close()
        await (await them.open(1)).close()


async def test_servers_start_without_redis(tcp: Driver, redis: Redis) -> None:
    redis.end()
    limits = taut.RedisLimits(redis.url, max_connections=1)
    async with tcp.serve(wait, shared_limits=limits) as server:
        assert not ledger_of(server).is_present
        async with tcp.connect(server):
            with pytest.raises(taut.InvalidStatus):
                await tcp.connect(server)


async def test_a_redis_that_does_not_answer_is_not_waited_for(tcp: Driver, redis: Redis) -> None:
    """What it does of that later, when it goes on, counts for nothing."""
    async with cluster(tcp, redis, max_connections=3, timeout=0.1) as them:
        opened = [await them.open(0)]
        redis.signal(signal.SIGSTOP)
        async with asyncio.timeout(5):  # many times what is allowed
            opened += await asyncio.gather(*(them.open(number) for number in (0, 0, 1)))
            assert await them.refused(0) == 503
        for server in them.servers:
            while ledger_of(server).is_present:
                await asyncio.sleep(0.005)
        redis.signal(signal.SIGCONT)
        await them.until_present()
        assert sorted(await them.counts()) == [1, 3]
        for ws in opened:
            await ws.close()
        await them.until_counted(0)


async def test_a_client_that_leaves_while_its_question_is_on_the_way(tcp: Driver, redis: Redis) -> None:
    async with cluster(tcp, redis, None, 1, max_connections=3) as them:
        redis.signal(signal.SIGSTOP)
        attempts = [asyncio.create_task(them.open(0)) for _ in range(3)]
        ledger = ledger_of(them.servers[0])
        while len(ledger._asked) + len(ledger._questions) < 3:
            await asyncio.sleep(0.005)
        for attempt in attempts:
            attempt.cancel()
        await asyncio.wait(attempts)
        while them.servers[0].handshakes:
            await asyncio.sleep(0.005)
        redis.signal(signal.SIGCONT)
        opened = [await them.open(0) for _ in range(3)]
        assert await them.refused(0) == 503
        for ws in opened:
            await ws.close()
        await them.until_counted(0)


@pytest.mark.parametrize("forgetting", ["flushall", "script_flush"])
async def test_a_redis_that_has_forgotten_is_told_again(tcp: Driver, redis: Redis, forgetting: str) -> None:
    async with cluster(tcp, redis, max_connections=2) as them:
        opened = [await them.open(0)]
        async with them.limits_of().client() as client:
            await getattr(client, forgetting)()
        opened.append(await them.open(1))
        assert await them.refused(0) == 503  # what the other server has is known again as soon as it asks
        await them.until_present()
        await them.until_counted(len(opened))
        for number in (0, 1):
            assert await them.refused(number) == 503
        for ws in opened:
            await ws.close()
        await them.until_counted(0)


@pytest.mark.parametrize("loop_name", ["asyncio"])  # the servers are processes of their own
async def test_a_server_that_was_killed_stops_counting(redis: Redis) -> None:
    """Two processes share a limit; one is killed, and its lease ends."""
    limits = {"url": redis.url, "max_connections": 2, "lease": 2.0, "timeout": 0.25}
    with victim(shared_limits=limits) as survivor:
        with contextlib.suppress(AssertionError), victim(shared_limits=limits) as killed:  # which it will complain of
            async with killed.opened(), survivor.opened():
                for it in (killed, survivor):
                    async with it.peer() as peer:
                        assert (await peer.request()).startswith("HTTP/1.1 503 ")
                killed.process.send_signal(signal.SIGKILL)
                killed.process.wait()
                async with survivor.peer() as peer:
                    assert (await peer.request()).startswith("HTTP/1.1 503 ")
                while True:
                    async with survivor.peer() as peer:
                        if (await peer.request()).startswith("HTTP/1.1 101 "):
                            async with survivor.peer() as third:  # its own lease was renewed meanwhile
                                assert (await third.request()).startswith("HTTP/1.1 503 ")
                            break
                    await asyncio.sleep(0.05)
        assert killed.process.returncode == -signal.SIGKILL


# -- the ledger ------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def ledger(service: Redis, **limits: Any) -> AsyncGenerator[Ledger]:
    options = {"max_connections": 1, "timeout": 5.0, "lease": 60.0} | limits
    it = Ledger(taut.RedisLimits(service.url, **options), asyncio.get_running_loop(), taut.serve(wait, port=0).logger)
    await it.start()
    yield it
    await it.close()


async def test_many_questions_and_many_changes(redis: Redis) -> None:
    """More than fit into one round trip, or one command."""
    async with ledger(redis) as one, ledger(redis) as other:
        total = Place("all", "t", 1500)

        async def take(it: Ledger, number: int) -> str | None:
            return await it.take([total, Place("each", f"u:{number}", 1)], rated=False)

        answers = await asyncio.gather(*(take(it, number) for number in range(1600) for it in (one, other)))
        assert sorted(set(map(str, answers))) == ["None", "all", "each"]
        assert answers.count(None) == 1500
        for it in (one, other):
            it.give_back(list(it._own.elements()))
        assert not one._own
        while one._changes or other._changes or one._work.is_set() or other._work.is_set():
            await asyncio.sleep(0.001)
        answers = [await take(one, number) for number in range(1500, 1510)]
        assert answers == [None] * 10


async def test_a_question_that_is_answered_in_the_turn_in_which_it_is_cancelled(redis: Redis) -> None:
    async with ledger(redis) as it:
        place = Place("all", "t", 1)
        for _ in range(20):
            taking = asyncio.ensure_future(it.take([place], rated=False))
            while not it._own["t"]:
                await asyncio.sleep(0)
            taking.cancel()
            await asyncio.wait([taking])
            if not taking.cancelled():
                assert taking.result() is None
                it.give_back(["t"])
            assert not it._own["t"]
        assert await it.take([place], rated=False) is None
        it.give_back(["t"])


async def test_counts_survive_a_redis_that_comes_and_goes(redis: Redis) -> None:
    """Thousands of places, taken and given back at any point of it."""
    async with ledger(redis, timeout=0.05, lease=1.0) as it:
        for turn in range(3):
            for number in range(1200):
                if number == 600:
                    redis.signal(signal.SIGSTOP)
                assert await it.take([Place("all", f"u:{turn}:{number}", 9)], rated=False) is None
                if number % 3 == 0:
                    it.give_back([f"u:{turn}:{number}"])
            redis.signal(signal.SIGCONT)
        while not it.is_present or it._changes:
            await asyncio.sleep(0.001)
        client = it._limits.client()
        async with client:
            async with asyncio.timeout(10):
                while len(await client.hkeys("{taut}:worker:" + it._id)) != 2400:
                    await asyncio.sleep(0.005)
            assert await client.pttl("{taut}:worker:" + it._id) > 0
            assert await client.zcard("{taut}:workers") == 1
        assert len(it._own) == 2400


# -- options ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "options", "kind", "text"),
    [
        ("http://:s3cret@localhost", {}, ValueError, "url must begin with redis://, rediss:// or unix:// and be one"),
        ("redis://:s3cret@localhost:port", {}, ValueError, "url must begin with"),
        (b"redis://localhost", {}, TypeError, "url must be a str, not bytes"),
        ("redis://localhost", {"max_connections": 0}, ValueError, "max_connections"),
        ("redis://localhost", {"max_connections": None}, ValueError, "RedisLimits needs at least one limit"),
        ("redis://localhost", {"handshake_rate": 0}, ValueError, "handshake_rate"),
        ("redis://localhost", {"timeout": 0}, ValueError, "timeout must be a number above 0, not 0"),
        ("redis://localhost", {"timeout": None}, TypeError, "timeout must be a number above 0, not None"),
        ("redis://localhost", {"lease": 1.9}, ValueError, r"lease must be at least 8 times timeout, 0\.25 s, not 1\.9"),
        ("redis://localhost", {"when_away": "open"}, ValueError, "when_away must be 'local' or 'refuse', not 'open'"),
        ("redis://localhost", {"prefix": "a{b"}, ValueError, "prefix must not be empty or have braces, not 'a{b'"),
        ("redis://localhost", {"prefix": None}, TypeError, "prefix must be a str, not None"),
    ],
)
def test_wrong_options_are_refused(url: Any, options: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        taut.RedisLimits(url, **{"max_connections": 1, **options})
    assert "s3cret" not in str(caught.value)


def test_what_serve_refuses() -> None:
    with pytest.raises(TypeError, match="shared_limits must be RedisLimits or None, not 'redis://'"):
        taut.serve(wait, port=0, shared_limits="redis://")
    limits = taut.RedisLimits("redis://localhost", max_connections_per_user=1)
    with pytest.raises(ValueError, match="user_policy='replace' and max_connections_per_user of shared_limits exclude"):
        taut.serve(wait, port=0, shared_limits=limits, user_policy="replace")


def test_no_password_is_shown() -> None:
    limits = taut.RedisLimits("redis://:s3cret@localhost", max_connections=5, handshake_rate=2.5)
    assert "s3cret" not in repr(limits)
    assert "max_connections=5" in repr(limits)


def test_without_redis_py(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(taut.MissingExtra) as caught:
        taut.RedisLimits("redis://localhost", max_connections=1)
    assert caught.value.extra == "redis"
