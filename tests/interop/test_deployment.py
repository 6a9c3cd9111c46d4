"""What the documentation tells people to write into the configuration of nginx and HAProxy works, as it is written.

Only what belongs to a machine is replaced: addresses, ports, paths of files.  What is to be replaced has to be there,
and every block of this kind on any page is run by one of the tests.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from browser import browsing
from pages import BLOCKS, Block
from services import Chromium, HAProxy, Nginx
from services.certificates import serving_context, trusting_context, write_certificate

import taut
from taut.observability import health_routes

StartNginx = Callable[..., Nginx]
StartHAProxy = Callable[..., HAProxy]
CLIENT = "127.0.0.2"
"""Where clients connect from, so that they are not where the proxies are."""


def block(page: str, info: str, holding: str = "") -> Block:
    (found,) = [each for each in BLOCKS if each.page.name == page and each.info == info and holding in each.text]
    return found


def filled(text: str, replacements: dict[str, str]) -> str:
    """The text with what belongs to the machine put in."""
    for there, put in replacements.items():
        assert there in text, there
        text = text.replace(there, put)
    return text


def nginx_site(text: str, replacements: dict[str, str]) -> Callable[[Nginx], str]:
    def site(service: Nginx) -> str:
        certificate, key = write_certificate(service.folder)
        files = {"/etc/ssl/example.pem": certificate, "/etc/ssl/example.key": key}
        return filled(text, files | {"listen 443": f"listen {service.host}:{service.port}"} | replacements)

    return site


def haproxy_sections(text: str, replacements: dict[str, str]) -> Callable[[HAProxy], str]:
    def sections(service: HAProxy) -> str:
        return filled(text, {"bind :443": f"bind {service.host}:{service.port}"} | replacements)

    return sections


class Back:
    """A server behind the proxy: tells each client what it knows, and what its own name is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.server: taut.Server
        self.router = taut.Router()
        self.router.add("/ws/{rest:path}", self.tell)
        self.router.mount("", health_routes({"counted": self.count}))
        self.router.add("/held", self.hold)
        self.asked = 0
        self.released = asyncio.Event()

    async def hold(self, ws: taut.ServerConnection) -> None:
        await self.released.wait()

    async def tell(self, ws: taut.ServerConnection, rest: str) -> None:
        await ws.send(f"{self.name} {ws.remote_address[0]}")
        async for message in ws:
            await ws.send(message)

    async def count(self) -> None:
        self.asked += 1

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.server.port}"


@asynccontextmanager
async def two_servers() -> AsyncIterator[tuple[Back, Back]]:
    one, two = Back("one"), Back("two")
    options = {"trusted_proxies": ["127.0.0.1"]}
    async with (
        taut.serve(one.router, "127.0.0.1", 0, **options) as one.server,
        taut.serve(two.router, "127.0.0.1", 0, **options) as two.server,
    ):
        yield one, two


def dial(port: int, path: str = "/ws/chat/x", context: ssl.SSLContext | None = None) -> taut.connect:
    """A client with a page of the proxy's own origin."""
    context = context or trusting_context()
    origin = f"https://127.0.0.1:{port}"
    return taut.connect(f"wss://127.0.0.1:{port}{path}", ssl=context, local_addr=(CLIENT, 0), origin=origin)


async def names(port: int, count: int) -> list[str]:
    """Who serves so many clients, which are all connected at a time."""
    connections = [await dial(port) for _ in range(count)]
    try:
        told = [str(await ws.recv()).split() for ws in connections]
    finally:
        for ws in connections:
            await ws.close()
    assert {address for _, address in told} == {CLIENT}
    return [name for name, _ in told]


@asynccontextmanager
async def draining(back: Back) -> AsyncIterator[None]:
    """While a server drains, which it does until the handler of one connection has returned."""
    async with taut.connect(f"ws://{back.place}/held"):
        drain = asyncio.ensure_future(back.server.drain(60, spread=0))
        while back.server.ready:
            await asyncio.sleep(0)
        yield
        assert back.server.stats.refused.get(503), "nobody was refused: the proxy has not asked"
        assert not drain.done()
        back.released.set()
        await drain


# -- nginx -----------------------------------------------------------------------------------------------------


def deployed_nginx(nginx: StartNginx, one: Back, two: Back, log: Path) -> Nginx:
    text = block("deployment.md", "nginx", "least_conn").text
    there = {"127.0.0.1:8765": one.place, "127.0.0.1:8766": two.place, "/var/log/nginx/chat.log": str(log)}
    main = block("deployment.md", "nginx main").text
    return nginx(0, site=nginx_site(text, there), main=main)


async def test_nginx(nginx: StartNginx, tmp_path: Path) -> None:
    log = tmp_path / "chat.log"
    async with two_servers() as (one, two):
        proxy = deployed_nginx(nginx, one, two, log)
        assert sorted(await names(proxy.port, 4)) == ["one", "one", "two", "two"]
        async with dial(proxy.port, "/ws/chat/x?token=s3cret") as ws:
            await ws.recv()
            await ws.send(bytes(300_000))
            assert await ws.recv() == bytes(300_000)
        for path in ("/readyz", "/healthz", "/"):
            with pytest.raises(taut.InvalidStatus) as caught:
                await dial(proxy.port, path)
            assert caught.value.response.status_code == 404
        assert (one.asked, two.asked) == (0, 0)
        with pytest.raises(taut.InvalidStatus) as caught:
            await taut.connect(
                f"wss://127.0.0.1:{proxy.port}/ws/x", ssl=trusting_context(), origin="https://other.test"
            )
        assert caught.value.response.status_code == 403
        while log.read_text().count("\n") < 9:
            await asyncio.sleep(0.01)
    assert '"GET /ws/chat/x" 101' in log.read_text()
    assert "s3cret" not in log.read_text()


async def test_nginx_goes_past_a_server_that_stops(nginx: StartNginx, tmp_path: Path) -> None:
    async with two_servers() as (one, two):
        proxy = deployed_nginx(nginx, one, two, tmp_path / "chat.log")
        async with draining(one):
            assert await names(proxy.port, 6) == ["two"] * 6


@pytest.mark.parametrize("kind", ["nginx", "haproxy"])
async def test_pages_of_a_browser(
    chromium: Chromium, nginx: StartNginx, haproxy: StartHAProxy, tmp_path: Path, kind: str
) -> None:
    """Of the proxy's own origin they are admitted, of others they are not, although TLS ends at the proxy."""
    async with two_servers() as (one, two), browsing(chromium.devtools) as browser:
        if kind == "nginx":
            proxy: Nginx | HAProxy = deployed_nginx(nginx, one, two, tmp_path / "chat.log")
        else:
            proxy = deployed_haproxy(haproxy, one, two)
        for host, admitted in (("127.0.0.1", True), ("localhost", False)):
            page = await browser.page(f"https://{host}:{proxy.port}/")  # which is not there, but has this origin
            socket = await page.open(f"wss://127.0.0.1:{proxy.port}/ws/chat/x")
            if admitted:
                assert "permessage-deflate" in (await socket.opened())["extensions"]
                assert await socket.receive() in ("one 127.0.0.1", "two 127.0.0.1")
                await socket.send("ab" * 100_000)
                assert await socket.receive() == "ab" * 100_000
                await socket.close(4000)
                assert await socket.closed() == (4000, "", True)
            else:
                await socket.failed()
        assert sum(back.server.stats.refused.get(403, 0) for back in (one, two)) == 1


async def test_nginx_and_a_unix_socket(nginx: StartNginx, tmp_path: Path) -> None:
    back = Back("one")
    path = str(tmp_path / "s")
    async with taut.unix_serve(back.router, path, trusted_proxies=["unix"]):
        text = block("deployment.md", "nginx", "unix:").text
        proxy = nginx(0, site=nginx_site(text, {"unix:/run/taut/chat.sock": f"unix:{path}"}))
        assert await names(proxy.port, 2) == ["one", "one"]


async def test_nginx_of_the_page_on_proxies(nginx: StartNginx) -> None:
    async with two_servers() as (one, _):
        text = block("behind-a-proxy.md", "nginx").text
        # The test has no port 443, so it needs what the page says for other ports.
        proxy = nginx(0, site=nginx_site(text, {"127.0.0.1:8765": one.place, "$host;": "$http_host;"}))
        assert await names(proxy.port, 2) == ["one", "one"]


# -- HAProxy ---------------------------------------------------------------------------------------------------


def deployed_haproxy(haproxy: StartHAProxy, one: Back, two: Back) -> HAProxy:
    text = block("deployment.md", "haproxy").text

    def sections(service: HAProxy) -> str:
        there = {"127.0.0.1:8765": one.place, "127.0.0.1:8766": two.place, "/etc/ssl/example.pem": service.both()}
        # Checked more often, so that the test need not wait.
        return haproxy_sections(text, there | {"inter 2s": "inter 500ms"})(service)

    return haproxy(0, sections=sections)


async def test_haproxy(haproxy: StartHAProxy) -> None:
    async with two_servers() as (one, two):
        proxy = deployed_haproxy(haproxy, one, two)
        assert sorted(await names(proxy.port, 4)) == ["one", "one", "two", "two"]
        while min(one.asked, two.asked) < 2:
            await asyncio.sleep(0.01)
        for path in ("/readyz", "/healthz", "/"):
            with pytest.raises(taut.InvalidStatus) as caught:
                await dial(proxy.port, path)
            assert caught.value.response.status_code == 503
        with pytest.raises(taut.InvalidStatus) as caught:
            await taut.connect(
                f"wss://127.0.0.1:{proxy.port}/ws/x", ssl=trusting_context(), origin="https://other.test"
            )
        assert caught.value.response.status_code == 403
        assert "is DOWN" not in proxy.log()


async def test_haproxy_goes_past_a_server_that_stops(haproxy: StartHAProxy) -> None:
    async with two_servers() as (one, two):
        proxy = deployed_haproxy(haproxy, one, two)
        while min(one.asked, two.asked) < 1:
            await asyncio.sleep(0.01)
        async with draining(one):
            assert await names(proxy.port, 6) == ["two"] * 6
            while "Server taut/one is DOWN" not in proxy.log():
                await asyncio.sleep(0.01)
            assert await names(proxy.port, 6) == ["two"] * 6


async def test_haproxy_of_the_page_on_proxies(haproxy: StartHAProxy) -> None:
    async with two_servers() as (one, _):
        text = block("behind-a-proxy.md", "haproxy", "mode http").text

        def sections(service: HAProxy) -> str:
            there = {"127.0.0.1:8765": one.place, "/etc/ssl/example.pem": service.both()}
            return haproxy_sections(text, there)(service)

        proxy = haproxy(0, sections=sections)
        assert await names(proxy.port, 2) == ["one", "one"]


@pytest.mark.parametrize("at_the_proxy", [False, True], ids=["TLS at the server", "TLS at HAProxy"])
async def test_haproxy_that_forwards_bytes(haproxy: StartHAProxy, at_the_proxy: bool) -> None:
    back = Back("one")
    own = None if at_the_proxy else serving_context("127.0.0.1")
    options = {"proxy_protocol": True, "trusted_proxies": ["127.0.0.1"]}
    async with taut.serve(back.router, "127.0.0.1", 0, ssl=own, **options) as back.server:
        text = block("behind-a-proxy.md", "haproxy", "mode tcp").text

        def sections(service: HAProxy) -> str:
            there = {"10.0.0.5:8765": back.place}
            if at_the_proxy:  # the two changes that the page asks for then
                there |= {"bind :443": f"bind :443 ssl crt {service.both()}", "send-proxy-v2": "send-proxy-v2-ssl"}
            return filled(filled(text, there), {"bind :443": f"bind {service.host}:{service.port}"})

        proxy = haproxy(0, sections=sections)
        assert await names(proxy.port, 2) == ["one", "one"]


# -- all of them -----------------------------------------------------------------------------------------------


def test_every_configuration_on_a_page_is_one_of_these() -> None:
    written = [(each.page.name, each.info) for each in BLOCKS if each.info.split(" ")[0] in ("nginx", "haproxy")]
    assert sorted(written) == [
        ("behind-a-proxy.md", "haproxy"),
        ("behind-a-proxy.md", "haproxy"),
        ("behind-a-proxy.md", "nginx"),
        ("deployment.md", "haproxy"),
        ("deployment.md", "nginx"),
        ("deployment.md", "nginx"),
        ("deployment.md", "nginx main"),
    ]
    assert [str(each) for each in BLOCKS if "proxy_pass" in each.text and each.info != "nginx"] == []
    assert [str(each) for each in BLOCKS if "\nbackend " in each.text and each.info != "haproxy"] == []
