"""Health checks and metrics as those see them who ask by HTTP."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import sys
from typing import Any
from unittest import mock

import prometheus_client
import pytest
from network import Driver
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

import taut
from taut.observability import PrometheusMetrics, health_routes, merge, metrics_routes, snapshot

Answer = tuple[int, str, http.client.HTTPMessage]


async def ask(server: taut.Server, target: str, method: str = "GET", **headers: str) -> Answer:
    """Ask with the HTTP client of the standard library."""

    def request() -> Answer:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        try:
            client.request(method, target, headers=headers)
            response = client.getresponse()
            return response.status, response.read().decode(), response.headers
        finally:
            client.close()

    return await asyncio.to_thread(request)


async def echo(ws: taut.ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


def routed(*routers: taut.Router, prefix: str = "") -> taut.Router:
    router = taut.Router()
    router.add("/", echo)
    for each in routers:
        router.mount(prefix, each)
    return router


@pytest.mark.parametrize("prefix", ["", "/-", "/{tenant}"])
async def test_healthy_and_ready(tcp: Driver, prefix: str) -> None:
    async with tcp.serve(routed(health_routes(), prefix=prefix)) as server:
        for target, text in [("/healthz", "ok\n"), ("/readyz", "ready\n")]:
            status, body, headers = await ask(server, prefix.format(tenant="acme") + target)
            assert (status, body) == (200, text)
            assert headers["Content-Type"] == "text/plain; charset=utf-8"
            assert headers["Cache-Control"] == "no-store"
            status, body, headers = await ask(server, prefix.format(tenant="acme") + target, "HEAD")
            assert (status, body, headers["Content-Length"]) == (200, "", str(len(text)))
        async with tcp.connect(server) as ws:
            await ws.send("x")
            assert await ws.recv() == "x"


async def test_a_server_that_is_drained_is_healthy_and_not_ready(tcp: Driver) -> None:
    release = asyncio.Event()

    async def busy(ws: taut.ServerConnection) -> None:
        await release.wait()

    router = routed(health_routes(), metrics_routes())
    router.add("/busy", busy)
    async with tcp.serve(router) as server, tcp.connect(server, "/busy"):
        draining = asyncio.ensure_future(server.drain(timeout=30, spread=0))
        while server.ready:
            await asyncio.sleep(0.001)
        assert (await ask(server, "/readyz"))[:2] == (503, "not ready: server\n")
        assert (await ask(server, "/healthz"))[:2] == (200, "ok\n")
        assert "taut_ready 0.0" in (await ask(server, "/metrics"))[1]
        release.set()
        await draining


async def test_other_methods_are_refused(tcp: Driver) -> None:
    async with tcp.serve(routed(health_routes())) as server:
        status, _, headers = await ask(server, "/readyz", "POST")
        assert (status, headers["Allow"]) == (405, "GET, HEAD")


async def test_checks(tcp: Driver, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "taut.server")
    state: dict[str, Any] = {"database": True, "cache": None}

    def database() -> object:
        return state["database"]

    async def cache() -> object:
        if isinstance(state["cache"], Exception):
            raise state["cache"]
        return state["cache"]

    async def queue() -> None:
        await asyncio.sleep(state.get("queue", 0))

    checks = {"database": database, "cache": cache, "queue": queue}
    async with tcp.serve(routed(health_routes(checks, check_timeout=0.05))) as server:
        assert (await ask(server, "/readyz"))[:2] == (200, "ready\n")
        state["cache"] = False
        assert (await ask(server, "/readyz"))[:2] == (503, "not ready: cache\n")
        state |= {"cache": ConnectionError("secret"), "queue": 60}
        status, body, headers = await ask(server, "/readyz")
        assert (status, body) == (503, "not ready: cache, queue\n")
        assert headers["Cache-Control"] == "no-store"
        assert (await ask(server, "/readyz", "HEAD"))[:2] == (503, "")
        assert (await ask(server, "/healthz"))[:2] == (200, "ok\n")
        state.update(cache=None, queue=0)
        assert (await ask(server, "/readyz"))[:2] == (200, "ready\n")
    told = [record for record in caplog.records if "of readiness failed" in record.getMessage()]
    assert {record.getMessage() for record in told} == {
        "the check cache of readiness failed",
        "the check queue of readiness failed",
    }
    assert any(record.exc_info and str(record.exc_info[1]) == "secret" for record in told)


async def test_checks_end_with_the_time_for_the_request(tcp: Driver) -> None:
    cancelled = asyncio.Event()

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    routes = health_routes({"slow": slow}, check_timeout=60)
    async with tcp.serve(routed(routes), open_timeout=0.1) as server:
        assert (await ask(server, "/readyz"))[0] == 408
        await cancelled.wait()


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"checks": [print]}, TypeError),
        ({"checks": {"a": 1}}, TypeError),
        ({"checks": {1: print}}, TypeError),
        ({"check_timeout": "1"}, TypeError),
        ({"check_timeout": True}, TypeError),
        ({"check_timeout": 0}, ValueError),
        ({"check_timeout": float("nan")}, ValueError),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], kind: type[Exception]) -> None:
    with pytest.raises(kind, match=f"{next(iter(arguments))} must be"):
        health_routes(**arguments)


async def test_metrics(tcp: Driver) -> None:
    async with tcp.serve(routed(metrics_routes())) as server:
        async with tcp.connect(server):
            status, body, headers = await ask(server, "/metrics")
        assert status == 200
        assert headers["Content-Type"].startswith("text/plain; version=")
        families = {family.name: family for family in text_string_to_metric_families(body)}
        assert [sample.value for sample in families["taut_connections"].samples] == [1]
        status, body, headers = await ask(server, "/metrics", "HEAD")
        assert (status, body) == (200, "")
        assert int(headers["Content-Length"]) > 1000
        status, body, headers = await ask(server, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert headers["Content-Type"].startswith("application/openmetrics-text")
        assert {family.name for family in parse_openmetrics(body)} >= {"taut_connections", "taut_messages_received"}


async def test_metrics_of_all_processes(tcp: Driver) -> None:
    async def all_of_them(server: taut.Server) -> dict[str, Any]:
        await asyncio.sleep(0)
        return merge([snapshot(server), json.loads(json.dumps(snapshot(server)))])

    async with tcp.serve(routed(metrics_routes(all_of_them))) as server:
        _, body, _ = await ask(server, "/metrics")
        families = {family.name: family for family in text_string_to_metric_families(body)}
        assert families["taut_ready"].samples[0].value == 2


async def test_metrics_of_a_registry(tcp: Driver) -> None:
    registry = prometheus_client.CollectorRegistry()
    prometheus_client.Counter("orders", "Orders taken.", registry=registry).inc(3)
    async with tcp.serve(routed(metrics_routes(registry=registry))) as server:
        metrics = PrometheusMetrics(server, registry=registry)
        _, body, _ = await ask(server, "/metrics")
        families = {family.name: family for family in text_string_to_metric_families(body)}
        assert families["orders"].samples[0].value == 3
        assert families["taut_ready"].samples[0].value == 1
        metrics.close()


def test_wrong_arguments_of_metrics() -> None:
    with pytest.raises(TypeError, match="source must be"):
        metrics_routes(1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="source and registry"):
        metrics_routes(snapshot, registry=prometheus_client.CollectorRegistry())
    with mock.patch.dict(sys.modules, {"prometheus_client": None}), pytest.raises(taut.MissingExtra, match="metrics"):
        metrics_routes()
