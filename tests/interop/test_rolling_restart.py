"""A new version under load: workers are replaced while clients talk, directly and through the documented proxies.

Every connection is closed with 1012, none is cut off; every client comes back within the time of the drain, and no
handshake fails on the way.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from services import HAProxy
from services.certificates import trusting_context
from supervised import APP, Supervised

import taut
from tests.interop.test_deployment import StartHAProxy, StartNginx, block, haproxy_sections, nginx_site

pytestmark = pytest.mark.parametrize("loop_name", ["uvloop"])
CLIENTS = 60
DRAIN = 4.0
POLICY = taut.ReconnectPolicy(base_delay=0.05, max_delay=0.5)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Supervised]:
    (tmp_path / "app.py").write_text(APP)
    arguments = ("app:handler", "--port", "0", "--workers", "2", "--drain", f"{DRAIN}")
    process = Supervised(tmp_path, *arguments, "--trusted-proxy", "127.0.0.1", "--max-size", "4096")
    yield process
    process.kill()


class Client:
    """Talks all the time, and keeps account of how its connections ended and of who answered."""

    def __init__(self, uri: str, **options: Any) -> None:
        self.ends: list[Exception] = []
        self.answered_by: list[int] = []
        self.away: list[float] = []
        """For how long nobody answered, each time that a connection had ended."""
        self._since: float | None = None
        self.session = taut.Session(taut.connect(uri, **options), policy=POLICY, on_disconnect=self._ended)

    def _ended(self, exc: Exception, attempt: int) -> None:
        self.ends.append(exc)
        self._since = self._since or time.monotonic()

    async def talk(self) -> None:
        async def send() -> None:
            while True:
                await self.session.send("hello")
                await asyncio.sleep(0.02)

        async with self.session:
            sending = asyncio.create_task(send())
            try:
                async for message in self.session:
                    process, text = str(message).split()
                    assert text == "hello"
                    self.answered_by.append(int(process))
                    if self._since is not None:
                        self.away.append(time.monotonic() - self._since)
                        self._since = None
            finally:
                sending.cancel()
                await asyncio.wait([sending])


@asynccontextmanager
async def talking(uri: str, **options: Any) -> AsyncIterator[list[Client]]:
    """Clients that talk, once each of them has had an answer."""
    clients = [Client(uri, **options) for _ in range(CLIENTS)]
    tasks = [asyncio.create_task(client.talk()) for client in clients]
    try:
        while not all(client.answered_by for client in clients):
            await asyncio.sleep(0.01)
        yield clients
    finally:
        for task in tasks:
            task.cancel()
        done, _ = await asyncio.wait(tasks)
        assert [task.exception() for task in done if not task.cancelled()] == []


@pytest.mark.parametrize("front", ["none", "nginx", "haproxy"])
async def test_workers_are_replaced_and_clients_hardly_notice(
    served: Supervised, nginx: StartNginx, haproxy: StartHAProxy, tmp_path: Path, front: str
) -> None:
    old = set(await asyncio.to_thread(served.workers, 2))
    place = served.uri.removeprefix("ws://").rstrip("/")
    there = {"127.0.0.1:8765": place, "127.0.0.1:8766": place}
    uri, options = f"ws://{place}/ws/x", {"connecting_limit": None}
    if front == "nginx":
        text = block("deployment.md", "nginx", "least_conn").text
        site = nginx_site(text, there | {"/var/log/nginx/chat.log": str(tmp_path / "chat.log")})
        proxy: Any = nginx(0, site=site, main=block("deployment.md", "nginx main").text)
    elif front == "haproxy":
        text = block("deployment.md", "haproxy").text

        def sections(service: HAProxy) -> str:
            # The application of this test has no health check.
            checked = {" check inter 2s": " inter 2s", "/etc/ssl/example.pem": service.both()}
            return haproxy_sections(text, there | checked)(service)

        proxy = haproxy(0, sections=sections)
    if front != "none":
        uri, options = f"wss://127.0.0.1:{proxy.port}/ws/x", options | {"ssl": trusting_context()}
    async with talking(uri, **options) as clients:
        assert {client.answered_by[-1] for client in clients} == old
        served.interrupt(signal.SIGHUP)
        new = set(await asyncio.to_thread(served.workers, 4)) - old
        while any(client.answered_by[-1] not in new for client in clients):
            await asyncio.sleep(0.01)
        assert all(client.ends for client in clients)
        for exc in (exc for client in clients for exc in client.ends):
            assert isinstance(exc, taut.ConnectionClosed), exc
            assert (exc.info.code, exc.info.clean) == (1012, True)
        assert max(seconds for client in clients for seconds in client.away) < DRAIN
    assert await asyncio.to_thread(served.finish) == 0
