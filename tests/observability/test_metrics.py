"""Metrics say what happened: read back with the parser of Prometheus' own client."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Callable
from typing import Any
from unittest import mock

import prometheus_client
import pytest
from network import Driver
from peers import TEXT
from prometheus_client.parser import text_string_to_metric_families

import taut
from taut.observability import PrometheusMetrics, expose, merge, retired, snapshot

Values = dict[str, float]


def parsed(text: bytes) -> Values:
    """The samples, by name and labels as they are written."""
    values: Values = {}
    for family in text_string_to_metric_families(text.decode()):
        assert family.documentation
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            assert values.setdefault(f"{sample.name}{{{labels}}}", sample.value) is sample.value
    return values


def values_of(*servers: taut.Server) -> Values:
    return parsed(expose(merge(map(snapshot, servers))))


async def echo(ws: taut.ServerConnection, **parameters: Any) -> None:
    async for message in ws:
        await ws.send(message)


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def test_what_moves_is_counted_once_whether_the_connection_is_open_or_not(tcp: Driver) -> None:
    async with tcp.serve(echo, compression=None) as server:
        async with tcp.connect(server, compression=None) as ws:
            for size in (5, 7):
                await ws.send("x" * size)
                await ws.recv()
            values = values_of(server)
            assert values["taut_connections{route=}"] == 1
            moved = {
                "taut_messages_received_total{route=}": 2,
                "taut_messages_sent_total{route=}": 2,
                "taut_received_bytes_total{route=}": 5 + 7 + 2 * 6,
                "taut_sent_bytes_total{route=}": 12,
            }
            assert {name: values[name] for name in moved} == moved
        await until(lambda: not server.connections_open)
        values = values_of(server)
        moved["taut_received_bytes_total{route=}"] += 8  # the Close frame
        moved["taut_sent_bytes_total{route=}"] += 2
        assert {name: values[name] for name in moved} == moved
        assert values["taut_connections{route=}"] == 0
        assert values["taut_connections_closed_total{code=1000,initiator=remote}"] == 1
        assert values["taut_ready{}"] == 1
        assert values["taut_handshakes_total{outcome=accepted}"] == 1
        assert values["taut_handshake_duration_seconds_count{}"] == 1
        assert values["taut_handshake_duration_seconds_bucket{le=+Inf}"] == 1
        assert 0 < values["taut_handshake_duration_seconds_sum{}"] < 10
    assert values_of(server)["taut_ready{}"] == 0


async def test_routes_have_series_of_their_own(tcp: Driver) -> None:
    router = taut.Router()
    router.add("/chat/{room}", echo)
    router.add("/news", echo, name="news")
    router.add_http("/hello", lambda ws, request: "hello\n")
    async with tcp.serve(router) as server:
        async with tcp.connect(server, "/chat/a") as one, tcp.connect(server, "/chat/b"), tcp.connect(server, "/news"):
            await one.send("x")
            await one.recv()
            values = values_of(server)
            assert values["taut_connections{route=/chat/{room}}"] == 2
            assert values["taut_connections{route=news}"] == 1
            assert values["taut_messages_received_total{route=/chat/{room}}"] == 1
            assert values["taut_messages_received_total{route=news}"] == 0
        for target, status in [("/hello", 200), ("/nothing", 404)]:
            async with tcp.peer(server) as peer:
                assert (await peer.request(target)).startswith(f"HTTP/1.1 {'404' if target == '/hello' else status}")
        async with tcp.peer(server) as peer:
            await peer.made.wait()
            peer.write(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await peer.read_head()).startswith("HTTP/1.1 200")
        values = values_of(server)
        assert values["taut_handshakes_total{outcome=refused}"] == 2
        assert values["taut_handshakes_total{outcome=answered}"] == 1
        assert values["taut_handshake_responses_total{status=200}"] == 1
        assert values["taut_handshake_responses_total{status=404}"] == 2


async def test_handshakes_are_counted_by_what_became_of_them(tcp: Driver) -> None:
    async with tcp.serve(echo, max_connections_per_address=1, open_timeout=0.05) as server:
        async with tcp.peer(server) as peer:
            values = {}
            await peer.made.wait()
            await until(lambda: server.handshakes)
            assert values_of(server)["taut_handshakes_in_progress{}"] == 1
            async with tcp.peer(server) as other:
                assert (await other.read_head()).startswith("HTTP/1.1 429 ")
            assert (await peer.read_head()).startswith("HTTP/1.1 408 ")
        await until(lambda: not server.handshakes)
        async with tcp.peer(server) as peer:
            await peer.made.wait()
            await until(lambda: server.handshakes)
        await until(lambda: not server.handshakes)
        values = values_of(server)
        assert {
            name: values[f"taut_handshakes_total{{outcome={name}}}"] for name in ("timed_out", "failed", "rejected")
        } == {
            "timed_out": 1,
            "failed": 1,
            "rejected": 1,
        }
        assert values["taut_connections_rejected_total{limit=max_connections_per_address}"] == 1


async def test_a_peer_cannot_make_up_series(tcp: Driver) -> None:
    async def handler(ws: taut.ServerConnection) -> None:
        if await ws.recv() == "close":
            await ws.close(4123)

    async with tcp.serve(handler) as server:
        for code in (3000, 4001, 4999):
            async with tcp.connect(server) as ws:
                await ws.close(code)
        async with tcp.connect(server) as ws:
            await ws.send("close")
            await ws.wait_closed()
        async with tcp.connect(server) as ws:
            ws.abort()
        await until(lambda: not server.connections_open)
        closed = {name: value for name, value in values_of(server).items() if "closed" in name}
        assert closed == {
            "taut_connections_closed_total{code=3xxx,initiator=remote}": 1,
            "taut_connections_closed_total{code=4xxx,initiator=remote}": 2,
            "taut_connections_closed_total{code=4123,initiator=local}": 1,
            "taut_connections_closed_total{code=1006,initiator=network}": 1,
        }


async def test_round_trips_of_pings(tcp: Driver) -> None:
    async def handler(ws: taut.ServerConnection) -> None:
        await (await ws.ping())
        await ws.send("done")

    async with tcp.connected(handler) as (server, ws):
        assert await ws.recv() == "done"
        values = values_of(server)
        assert values["taut_ping_round_trip_seconds_count{}"] == 1
        assert 0 < values["taut_ping_round_trip_seconds_sum{}"] < 10
        buckets = [value for name, value in values.items() if name.startswith("taut_ping_round_trip_seconds_bucket")]
        assert buckets == sorted(buckets)
        assert buckets[-1] == 1


async def test_unread_and_unsent_bytes(tcp: Driver) -> None:
    go = asyncio.Event()

    async def handler(ws: taut.ServerConnection) -> None:
        await go.wait()

    async with tcp.serve(handler) as server, tcp.opened(server) as peer:
        peer.send(TEXT, b"x" * 100)
        await until(lambda: values_of(server).get("taut_unread_bytes{route=}"))
        assert values_of(server)["taut_unread_bytes{route=}"] == 100
        peer.transport.pause_reading()
        (connection,) = server.connections
        connection.send_nowait(b"x" * (1 << 24))
        assert 0 < values_of(server)["taut_unsent_bytes{route=}"] <= 1 << 24
        connection.abort()
        go.set()


async def test_what_a_peer_does_not_take(tcp: Driver) -> None:
    done = asyncio.Event()

    async def handler(ws: taut.ServerConnection) -> None:
        await done.wait()

    options: dict[str, Any] = {"outbox_limit": 1 << 20, "overflow": "drop_newest", "compression": None}
    async with tcp.serve(handler, **options) as server, tcp.opened(server) as peer:
        peer.transport.pause_reading()
        (connection,) = server.connections
        while not connection.stats.messages_dropped:
            connection.send_nowait(b"x" * (1 << 16))
            await asyncio.sleep(0)
        stats = connection.stats
        assert stats.unsent_peak >= stats.unsent > 1 << 20 >= stats.unsent - (1 << 18)
        assert 0 < stats.stalled < 30
        values = values_of(server)
        assert values["taut_messages_dropped_total{policy=drop_newest,route=}"] == 1
        assert values["taut_messages_waiting{route=}"] == stats.messages_waiting > 0
        assert values["taut_dropped_bytes_total{route=}"] == 1 << 16
        assert values["taut_stalled_seconds_total{route=}"] >= stats.stalled
        peer.transport.resume_reading()
        await connection.drain()
        after = connection.stats
        assert after.unsent < after.unsent_peak
        stalled = after.stalled
        assert connection.stats.stalled == stalled >= stats.stalled
        connection.abort()
        done.set()
        await until(lambda: not server.connections_open)
        assert values_of(server)["taut_stalled_seconds_total{route=}"] == stalled
        assert connection.stats.unsent_peak == after.unsent_peak


async def test_the_most_that_was_unread(tcp: Driver) -> None:
    go = asyncio.Event()

    async def handler(ws: taut.ServerConnection) -> None:
        await go.wait()
        async for message in ws:
            await ws.send(message)

    async with tcp.connected(handler, compression=None) as (server, ws):
        for _ in range(3):
            await ws.send("x" * 100)
        (connection,) = server.connections
        await until(lambda: connection.stats.unread == 300)
        go.set()
        for _ in range(3):
            await ws.recv()
        assert (connection.stats.unread, connection.stats.unread_peak) == (0, 3 * 116)


MANY = "the quick brown fox jumps over the lazy dog " * 40


async def test_what_compression_makes_of_messages(tcp: Driver) -> None:
    """Both ends count the same bytes, whichever way a message goes out."""

    at_first = []

    async def handler(ws: taut.ServerConnection) -> None:
        at_first.append(ws.stats.compression_ratio)
        await ws.send(MANY)
        await ws.send([MANY, "", MANY])
        await ws.send("", compress=True)
        await ws.send("short")
        taut.broadcast([ws], MANY)
        await ws.send(await ws.recv())

    async with tcp.connected(handler, ping_interval=None) as (server, ws):
        (connection,) = server.connections
        for size in (len(MANY), 2 * len(MANY), 0, 5, len(MANY)):
            assert len(await ws.recv()) == size
        sent = connection.stats
        assert at_first == [None]
        assert sent.bytes_before_deflate == 4 * len(MANY)
        assert sent.bytes_after_deflate + len("short") == sent.bytes_sent < len(MANY)
        assert ws.stats.bytes_after_inflate == sent.bytes_before_deflate
        assert ws.stats.bytes_before_inflate == sent.bytes_after_deflate
        assert ws.stats.compression_ratio == sent.compression_ratio == 4 * len(MANY) / sent.bytes_after_deflate
        await ws.send(MANY * 100, compress=True)
        await ws.recv()
        here, there = connection.stats, ws.stats
        assert here.bytes_after_inflate == there.bytes_before_deflate == 100 * len(MANY)
        assert here.bytes_before_inflate == there.bytes_after_deflate == there.bytes_sent
        values = values_of(server)
        assert values["taut_before_deflate_bytes_total{route=}"] == 104 * len(MANY)
        assert values["taut_after_deflate_bytes_total{route=}"] == here.bytes_after_deflate
        assert values["taut_before_inflate_bytes_total{route=}"] == here.bytes_before_inflate
        assert values["taut_after_inflate_bytes_total{route=}"] == here.bytes_after_inflate
        await ws.close()
        await until(lambda: not server.connections_open)
        assert connection.stats.compression_ratio == ws.stats.compression_ratio
        assert values_of(server)["taut_before_deflate_bytes_total{route=}"] == 104 * len(MANY)


async def test_snapshots_travel_as_json_and_add_up(tcp: Driver) -> None:
    async with tcp.connected(echo) as (first, ws), tcp.connected(echo) as (second, _):
        await ws.send("x")
        await ws.recv()
        one, other = (json.loads(json.dumps(snapshot(server))) for server in (first, second))
        values = parsed(expose(merge([one, other])))
        assert values["taut_connections{route=}"] == 2
        assert values["taut_ready{}"] == 2
        assert values["taut_messages_received_total{route=}"] == 1
        assert values["taut_handshake_duration_seconds_count{}"] == 2
        values = parsed(expose(merge([retired(one), other])))
        assert values["taut_connections{route=}"] == 1
        assert values["taut_messages_received_total{route=}"] == 1
        assert values["taut_handshake_duration_seconds_count{}"] == 2
        assert parsed(expose(merge([]))) == {}
        one["metrics"]["taut_new"] = [[[], 1]]
        assert "taut_new{}" not in parsed(expose(merge([one]))) | parsed(expose(one))
        other["metrics"]["taut_handshake_duration_seconds"][0][1]["bounds"][0] = 0.5
        with pytest.raises(ValueError, match="different bounds for taut_handshake_duration_seconds"):
            merge([one, other])
        with pytest.raises(ValueError, match="version 1, not 2"):
            merge([one, {"version": 2}])


async def test_in_a_registry(tcp: Driver) -> None:
    registry = prometheus_client.CollectorRegistry()
    async with tcp.connected(echo) as (first, _), tcp.serve(echo) as second:
        metrics = PrometheusMetrics(first, second, registry=registry)
        assert registry.get_sample_value("taut_connections", {"route": ""}) == 1
        assert registry.get_sample_value("taut_ready") == 2
        assert parsed(prometheus_client.generate_latest(registry)) == values_of(first, second)
        with pytest.raises(ValueError, match="Duplicated timeseries"):
            PrometheusMetrics(second, registry=registry)
        metrics.close()
        assert parsed(prometheus_client.generate_latest(registry)) == {}
        by_default = PrometheusMetrics(first)
        assert prometheus_client.REGISTRY.get_sample_value("taut_ready") == 1
        by_default.close()


async def test_totals_never_go_backwards_for_another_thread(tcp: Driver) -> None:
    done, problems, rounds = threading.Event(), list[str](), 0

    def scrape(server: taut.Server) -> None:
        nonlocal rounds
        last: Values = {}
        while not done.is_set() or not rounds:
            values = {name: value for name, value in values_of(server).items() if "_total" in name}
            problems.extend(f"{name}: {last[name]}, {values[name]}" for name in last if values[name] < last[name])
            last, rounds = values, rounds + 1

    async with tcp.serve(echo) as server:
        thread = threading.Thread(target=scrape, args=(server,))
        thread.start()
        try:
            for _ in range(30):
                async with tcp.connect(server) as ws:
                    await ws.send("x" * 100)
                    await ws.recv()
        finally:
            done.set()
            await asyncio.to_thread(thread.join)
    assert problems == []
    assert rounds > 0


async def test_wrong_arguments(tcp: Driver) -> None:
    with pytest.raises(TypeError, match=r"server must be a taut\.Server, not 1"):
        snapshot(1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"instances of taut\.Server"):
        PrometheusMetrics("server")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one"):
        PrometheusMetrics()
    async with tcp.serve(echo) as server:
        with mock.patch.dict(sys.modules, {"prometheus_client": None}):
            for needs in (lambda: PrometheusMetrics(server), lambda: expose(snapshot(server))):
                with pytest.raises(taut.MissingExtra, match="metrics"):
                    needs()
