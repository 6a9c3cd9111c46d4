"""Several upstreams: which one a client gets, what becomes of those that fail, and how each is reached."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from faults import FaultyProxy, Plan
from network import Driver, client_context, server_context
from services.node import NodeWs
from upstreams import uri
from websockets.asyncio.server import serve as serve_with_websockets

import taut
import taut.proxy
from taut.observability import merge, snapshot
from taut.proxy import HealthCheck, Proxy, Route, Upstream


def named(name: str) -> Any:
    async def tell(ws: taut.ServerConnection) -> None:
        await ws.send(name)
        await ws.wait_closed()

    return tell


@asynccontextmanager
async def servers(*names: str, **options: Any) -> AsyncIterator[list[taut.Server]]:
    """Upstreams that tell their name."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(taut.serve(named(name), "127.0.0.1", 0, **options)) for name in names]


def front_of(behind: list[taut.Server], *, proxy: dict[str, Any] | None = None, **route: Any) -> taut.proxy.serve:
    made = Proxy(Route([uri(server) for server in behind], **route), **(proxy or {}))
    return taut.proxy.serve(made, "127.0.0.1", 0)


async def who(front: taut.Server, **options: Any) -> str:
    """Which upstream a client gets."""
    async with taut.connect(uri(front), **options) as ws:
        return str(await ws.recv())


async def settled(front: taut.proxy.ProxyServer) -> None:
    """Wait until no connection is left."""
    while any(stats.connections for stats in front.proxy.stats):
        await asyncio.sleep(0)


async def status(front: taut.Server) -> tuple[int, str | None]:
    with pytest.raises(taut.InvalidStatus) as failure:
        await taut.connect(uri(front))
    response = failure.value.response
    return response.status_code, response.headers.get("Retry-After")


# -- which one -------------------------------------------------------------------------------------------------


async def test_the_one_with_the_fewest_connections() -> None:
    async with servers("a", "b", "c") as behind, front_of(behind) as front, AsyncExitStack() as stack:
        for _ in range(6):
            ws = await stack.enter_async_context(taut.connect(uri(front)))
            await ws.recv()
        assert [stats.connections for stats in front.proxy.stats] == [2, 2, 2]
        for connection in list(behind[1].connections):
            await connection.close()
        while front.proxy.stats[1].connections:
            await asyncio.sleep(0)
        assert [await who(front)] == ["b"]


async def test_one_after_the_other() -> None:
    async with servers("a", "b", "c") as behind, front_of(behind, balance="round_robin") as front:
        assert [await who(front) for _ in range(6)] == ["a", "b", "c"] * 2


async def test_the_same_cookie_goes_to_the_same_one_and_moves_only_when_it_is_out() -> None:
    async with servers("a", "b", "c") as behind, front_of(behind, balance="cookie:session", pause=60.0) as front:
        cookies = [f"x=y; session={number}" for number in range(24)]
        before = [await who(front, additional_headers={"Cookie": cookie}) for cookie in cookies]
        assert before == [await who(front, additional_headers={"Cookie": cookie}) for cookie in cookies]
        assert set(before) == {"a", "b", "c"}
        behind[0].close()
        await behind[0].wait_closed()
        after = [await who(front, additional_headers={"Cookie": cookie}) for cookie in cookies]
    assert all(new == old for old, new in zip(before, after, strict=True) if old != "a")
    assert "a" not in after


async def test_the_same_address_goes_to_the_same_one() -> None:
    async with servers("a", "b", "c") as behind:
        proxy = Proxy(Route([uri(server) for server in behind], balance="address"))
        async with taut.proxy.serve(proxy, "127.0.0.1", 0, trusted_proxies=["127.0.0.1"]) as front:
            said = [{"X-Forwarded-For": f"192.0.2.{number}"} for number in range(24)]
            once = [await who(front, additional_headers=headers) for headers in said]
            assert once == [await who(front, additional_headers=headers) for headers in said]
            assert set(once) == {"a", "b", "c"}
            assert len({await who(front) for _ in range(5)}) == 1


# -- those that fail -------------------------------------------------------------------------------------------


async def test_a_dead_upstream_is_not_noticed_by_clients(caplog: pytest.LogCaptureFixture) -> None:
    async with servers("a", "b") as behind, front_of(behind, pause=60.0) as front:
        behind[0].close()
        await behind[0].wait_closed()
        assert Counter([await who(front) for _ in range(6)]) == {"b": 6}
        dead, alive = front.proxy.stats
    assert (dead.failed, dead.available, alive.failed, alive.opened) == (1, False, 0, 6)
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


async def test_all_dead_is_502_then_503_until_the_pause_is_over(unused_port: int) -> None:
    async with servers("a") as behind:
        dead = [Upstream(uri=f"ws://127.0.0.1:{unused_port}/{number}") for number in range(2)]
        async with taut.proxy.serve(Route(dead, pause=30.0), "127.0.0.1", 0) as front:
            assert await status(front) == (502, None)
            assert await status(front) == (503, "30")
            assert [stats.failed for stats in front.proxy.stats] == [1, 1]
        async with taut.proxy.serve(Route([*dead, uri(behind[0])], tries=1, pause=30.0), "127.0.0.1", 0) as front:
            assert [await status(front), await status(front)] == [(502, None), (502, None)]
            assert [await who(front), await who(front)] == ["a", "a"]


async def test_an_upstream_comes_back_after_its_pause() -> None:
    async with servers("a", "b") as behind, FaultyProxy(behind[0].port) as faults:
        to = [f"ws://127.0.0.1:{faults.port}", uri(behind[1])]
        async with taut.proxy.serve(Route(to, pause=0.2, balance="round_robin"), "127.0.0.1", 0) as front:
            await faults.refuse()
            assert await who(front) == "b"
            assert not front.proxy.stats[0].available
            assert front.proxy.stats[0].problem is not None
            faults.admit()
            while not front.proxy.stats[0].available:
                await asyncio.sleep(0.005)
            assert {await who(front) for _ in range(4)} == {"a", "b"}
            assert front.proxy.stats[0].problem is None


async def test_an_upstream_that_restarts_sends_clients_on_to_the_next() -> None:
    """503 is what a server answers that drains: a rolling restart is not noticed."""

    def unavailable(ws: taut.ServerConnection, _: Any) -> taut.Response:
        response = ws.respond(503, "draining")
        response.headers["Retry-After"] = "7"
        return response

    async with servers("a", process_request=unavailable) as draining, servers("b") as ready:
        async with front_of(draining + ready, balance="round_robin") as front:
            assert {await who(front) for _ in range(4)} == {"b"}
            assert front.proxy.stats[0].refused > 0
        async with front_of(draining * 2) as front:
            assert await status(front) == (503, "7")


async def test_an_upstream_whose_only_dial_hangs_is_tried_by_nobody_else(tcp: Driver) -> None:
    """After a pause one client may try; the others do not wait for the same nothing."""
    async with tcp.raw_serve() as raw, servers("b") as behind:
        to = [f"ws://127.0.0.1:{raw.address}", uri(behind[0])]
        proxy = Proxy(Route(to, pause=0.05, balance="round_robin", tries=2), dial_timeout=0.2)
        async with taut.proxy.serve(proxy, "127.0.0.1", 0) as front:
            assert await who(front) == "b"
            await asyncio.sleep(0.06)
            waiting = [asyncio.ensure_future(who(front, connecting_limit=None)) for _ in range(10)]
            assert set(await asyncio.gather(*waiting)) == {"b"}
            assert front.proxy.stats[0].failed == 2


# -- health checks ---------------------------------------------------------------------------------------------


async def until(front: taut.proxy.ProxyServer, number: int, available: bool) -> None:
    while front.proxy.stats[number].available is not available:
        await asyncio.sleep(0.005)


def _well(ws: taut.ServerConnection, request: taut.Request) -> taut.Response | None:
    return None if "Upgrade" in request.headers else ws.respond(200, "")


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_check_takes_an_upstream_out_and_brings_it_back(kind: Any) -> None:
    check = HealthCheck(kind=kind, path="/check", interval=0.02, timeout=5.0)
    async with servers("a", "b", process_request=_well) as behind, FaultyProxy(behind[0].port) as faults:
        to = f"ws://127.0.0.1:{faults.port}"
        routes = [Route(to, "/x", health=check), Route([to, uri(behind[1])], health=check)]
        async with taut.proxy.serve(routes, "127.0.0.1", 0) as front:
            await faults.until("accepted", 1)
            faults.plan = Plan(fault="refuse")
            await until(front, 0, False)
            await until(front, 1, False)
            assert front.proxy.stats[0].problem
            assert {await who(front) for _ in range(4)} == {"b"}
            with pytest.raises(taut.InvalidStatus) as failure:
                await taut.connect(uri(front, "/x"))
            assert failure.value.response.status_code == 503
            assert failure.value.response.headers["Retry-After"] == "1"
            faults.plan = Plan()
            await until(front, 0, True)


async def test_a_check_that_nobody_answers(tcp: Driver, unused_port: int) -> None:
    async with tcp.raw_serve() as raw:
        checks = [HealthCheck(kind="tcp", interval=60), HealthCheck(kind="http", timeout=0.05, interval=60)]
        routes = [
            Route(f"ws://127.0.0.1:{unused_port}", "/a", health=checks[0]),
            Route(f"ws://127.0.0.1:{raw.address}", "/b", health=checks[1]),
        ]
        async with taut.proxy.serve(routes, "127.0.0.1", 0) as front:
            await until(front, 0, False)
            await until(front, 1, False)
            problems = [stats.problem for stats in front.proxy.stats]
    assert "Connection refused" in str(problems)
    assert "no answer within 0.05 s" in problems


async def test_an_http_check_looks_at_the_status() -> None:
    health = {"status": 200}
    router = taut.Router()
    router.add_http("/healthz", lambda ws, request: ws.respond(health["status"], ""))
    async with taut.serve(router, "127.0.0.1", 0) as behind:
        check = HealthCheck(kind="http", path="/healthz", interval=0.02, unhealthy_after=3)
        async with taut.proxy.serve(Route(uri(behind), health=check), "127.0.0.1", 0) as front:
            while not behind.stats.refused.get(200):
                await asyncio.sleep(0.005)
            assert front.proxy.stats[0].available
            health["status"] = 503
            await until(front, 0, False)
            assert behind.stats.refused[503] == 3
            assert front.proxy.stats[0].problem == "GET /healthz is answered with 503"
            health["status"] = 302
            await until(front, 0, True)


# -- how they are reached --------------------------------------------------------------------------------------


async def test_over_tls_on_both_sides() -> None:
    check = HealthCheck(kind="websocket", interval=0.01)
    async with taut.serve(named("a"), "127.0.0.1", 0, ssl=server_context()) as behind:
        upstream = Upstream(uri=f"wss://127.0.0.1:{behind.port}", ssl=client_context())
        async with taut.proxy.serve(Route(upstream, health=check), "127.0.0.1", 0, ssl=server_context()) as front:
            async with taut.connect(f"wss://127.0.0.1:{front.port}", ssl=client_context()) as ws:
                assert await ws.recv() == "a"
                assert ws.request is not None
            assert front.proxy.stats[0].available


async def test_a_certificate_that_is_not_trusted_is_a_bad_gateway() -> None:
    async with (
        taut.serve(named("a"), "127.0.0.1", 0, ssl=server_context()) as behind,
        taut.proxy.serve(f"wss://127.0.0.1:{behind.port}", "127.0.0.1", 0) as front,
    ):
        assert await status(front) == (502, None)


@pytest.mark.parametrize("kind", ["tcp", "http"])
async def test_checks_over_tls_and_unix_sockets(tmp_path: Path, kind: Any) -> None:
    router = taut.Router()
    router.add_http("/", lambda ws, request: "well")
    check = HealthCheck(kind=kind, interval=0.01)
    path = tmp_path / "s"
    async with (
        taut.serve(router, "127.0.0.1", 0, ssl=server_context()) as secure,
        taut.unix_serve(router, path) as local,
    ):
        routes = [
            Route(Upstream(uri=f"wss://127.0.0.1:{secure.port}", ssl=client_context()), "/a", health=check),
            Route(Upstream(uri="ws://localhost", path=path), "/b", health=check),
        ]
        async with taut.proxy.serve(routes, "127.0.0.1", 0) as front:
            await asyncio.sleep(0.1)
            assert [stats.problem for stats in front.proxy.stats] == [None, None]
            assert [stats.available for stats in front.proxy.stats] == [True, True]
            assert local.is_serving()


async def test_unix_sockets_on_both_sides(tmp_path: Path) -> None:
    async def tell(ws: taut.ServerConnection) -> None:
        assert ws.request is not None
        await ws.send(f"{ws.request.path} {ws.request.headers.get('X-Forwarded-For')}")

    upstream = Upstream(uri="ws://app/base", path=tmp_path / "behind")
    async with (
        taut.unix_serve(tell, tmp_path / "behind"),
        taut.proxy.serve(upstream, path=tmp_path / "front"),
        taut.unix_connect(tmp_path / "front", "ws://localhost/x") as ws,
    ):
        assert await ws.recv() == "/base/x None"


async def test_the_proxy_protocol_names_the_client() -> None:
    async def tell(ws: taut.ServerConnection) -> None:
        assert ws.proxy_header is not None
        await ws.send(str(ws.proxy_header.source))

    trusting = {"proxy_protocol": True, "trusted_proxies": ["127.0.0.1"]}
    async with taut.serve(tell, "127.0.0.1", 0, **trusting) as behind:
        upstream = Upstream(uri=uri(behind), proxy_protocol=True)
        check = HealthCheck(kind="websocket", interval=0.01)
        async with taut.proxy.serve(Route(upstream, health=check), "127.0.0.1", 0) as front:
            async with taut.connect(uri(front)) as ws:
                assert await ws.recv() == str(ws.local_address)
            while behind.stats.accepted < 3:
                await asyncio.sleep(0.005)
            assert front.proxy.stats[0].available


# -- upstreams of other makes ----------------------------------------------------------------------------------


async def test_an_upstream_of_websockets() -> None:
    async def reply(ws: Any) -> None:
        async for message in ws:
            await ws.send(message)
        assert ws.close_code == 3333

    async with serve_with_websockets(reply, "127.0.0.1", 0, subprotocols=["x"]) as behind:  # type: ignore[list-item]
        port = behind.sockets[0].getsockname()[1]
        async with (
            taut.proxy.serve(f"ws://127.0.0.1:{port}", "127.0.0.1", 0) as front,
            taut.connect(uri(front), subprotocols=["x"]) as ws,
        ):
            assert ws.subprotocol == "x"
            for message in ("", "ä" * 100_000, b"\xff" * 900_000):
                await ws.send(message)
                assert await ws.recv() == message
            await ws.close(3333)


async def test_an_upstream_of_node(node_ws: NodeWs) -> None:
    async with (
        taut.proxy.serve(node_ws.uri().split("?")[0].rstrip("/"), "127.0.0.1", 0) as front,
        taut.connect(uri(front, "/?" + node_ws.uri().partition("?")[2])) as ws,
    ):
        for message in ("", "ä" * 100_000, b"\xff" * 900_000):
            await ws.send(message)
            assert await ws.recv() == message


async def test_the_counters_of_upstreams_are_metrics(tcp: Driver) -> None:
    forbidden = tcp.serve(named("two"), process_request=lambda ws, _: ws.respond(403, ""))
    async with tcp.serve(named("one")) as open_to_all, forbidden as closed:
        routes = [Route(uri(open_to_all), "/"), Route(uri(closed), "/two")]
        async with taut.proxy.serve(routes, "127.0.0.1", 0) as front:
            assert await who(front) == "one"
            with pytest.raises(taut.InvalidStatus):
                await taut.connect(f"{uri(front)}/two")
            await settled(front)
            metrics = merge([snapshot(front), snapshot(front)])["metrics"]
            two, one = front.proxy.stats
    assert (one.messages_down, two.refused) == (1, 1)
    values = {(name, *labels): value for name in metrics for labels, value in metrics[name] if "_upstream_" in name}
    assert ("taut_upstream_dials_failed", "/", one.name) in values
    assert {key: value for key, value in values.items() if value} == {
        ("taut_upstream_available", "/", one.name): 2,
        ("taut_upstream_available", "/two", two.name): 2,
        ("taut_upstream_connections_opened", "/", one.name): 2,
        ("taut_upstream_handshakes_refused", "/two", two.name): 2,
        ("taut_upstream_messages", "/", one.name, "down"): 2,
        ("taut_upstream_bytes", "/", one.name, "down"): 2 * one.bytes_down,
        ("taut_upstream_bytes", "/", one.name, "up"): 2 * one.bytes_up,
    }
