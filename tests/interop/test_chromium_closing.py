"""How connections with pages in Chromium end, as both sides see it, and TLS."""

from __future__ import annotations

import asyncio
import re
import ssl
from typing import Any

import pytest
import trustme
from browser import BrowserError, Page, browsing
from pages import BLOCKS
from services import Chromium

import taut
from tests.interop.websites import Serving, Website, connected, website

pytestmark = pytest.mark.parametrize("loop_name", ["uvloop"])


async def test_the_server_closes(chromium: Chromium) -> None:
    serving = Serving()
    async with website(serving) as site, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page())
        endings = [(code, "") for code in (1000, 1001, 1008, 1011, 1013, 3000)]
        for code, reason in [*endings, (4999, "Grüße, \U0001f9f6"), (1000, "x" * 123)]:
            socket = await page.open(site.uri())
            await socket.opened()
            ws = await serving.connections.get()
            await ws.close(code, reason)
            assert ws.close_info == taut.CloseInfo(taut.Initiator.LOCAL, code, reason, clean=True)
            assert await socket.closed() == (code, reason, True)


async def test_the_page_closes(chromium: Chromium) -> None:
    """The page is told its own code again; the reason stays with the server, for nothing obliges one to repeat it."""
    serving = Serving()
    async with website(serving) as site, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page())
        for arguments in ([], [1000], [1000, "done"], [3000, "Grüße"], [4999, "ü" * 61]):
            socket = await page.open(site.uri())
            await socket.opened()
            ws = await serving.connections.get()
            await socket.close(*arguments)
            await ws.wait_closed()
            code, reason = [*arguments, *[1005, ""][len(arguments) :]]
            assert ws.close_info == taut.CloseInfo(taut.Initiator.REMOTE, code, reason, clean=True)
            assert await socket.closed() == (code, "", True)
        for arguments, problem in ([[1001], "InvalidAccessError"], [[1000, "ü" * 62], "SyntaxError"]):
            with pytest.raises(BrowserError, match=problem):
                await socket.close(*arguments)


async def test_a_handler_that_returns_or_raises(chromium: Chromium, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(ws: taut.ServerConnection) -> None:
        if await ws.recv() == "raise":
            raise LookupError("as asked")

    async with website(handler) as site, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page())
        for word, code, reason in (("return", 1000, ""), ("raise", 1011, "the handler failed")):
            socket = await page.open(site.uri())
            await socket.opened()
            await socket.send(word)
            assert await socket.closed() == (code, reason, True)
    assert "connection handler failed" in caplog.messages


async def test_the_stream_breaks(chromium: Chromium) -> None:
    serving = Serving()
    async with website(serving) as site, browsing(chromium.devtools) as browser:
        socket, ws = await connected(browser, site, serving)
        ws.abort()
        assert await socket.closed() == (1006, "", False)  # and no error event


async def reload(page: Page, site: Website) -> None:
    loaded = page.event("Page.loadEventFired")
    await page.command("Page.reload")
    await loaded


async def close(page: Page, site: Website) -> None:
    await page.close()


@pytest.mark.parametrize("action", [reload, close])
async def test_the_user_goes_away(chromium: Chromium, action: Any) -> None:
    serving = Serving()
    async with website(serving) as site, browsing(chromium.devtools) as browser:
        socket, ws = await connected(browser, site, serving)
        await action(socket.page, site)
        await ws.wait_closed()
        assert ws.close_info == taut.CloseInfo(taut.Initiator.REMOTE, 1001, "", clean=True)
        assert ws.close_info.ok


async def test_a_page_that_was_left_stays_connected_as_long_as_it_is_kept(chromium: Chromium) -> None:
    """For the user to go back to: its script sleeps, Pings are answered. It ends when the user does go back."""
    serving = Serving()
    async with website(serving) as site, browsing(chromium.devtools) as browser:
        socket, ws = await connected(browser, site, serving)
        await socket.page.go(site.page("localhost"))
        assert await (await ws.ping()) >= 0
        assert not ws.closed
        back = socket.page.event("Page.frameNavigated")
        await socket.page.run("setTimeout(() => history.back())")  # which is answered before it goes
        await back
        await ws.wait_closed()
        assert ws.close_info == taut.CloseInfo(taut.Initiator.REMOTE, 1001, "", clean=True)
        await socket.failed()  # which is what the page is told


async def test_a_page_that_closes_when_it_is_left_does_not(chromium: Chromium) -> None:
    serving = Serving()
    async with website(serving) as site, browsing(chromium.devtools) as browser:
        socket, ws = await connected(browser, site, serving)
        await socket.run("addEventListener('pagehide', () => ws.close())")
        await socket.page.go(site.page("localhost"))
        await ws.wait_closed()
        assert ws.close_info == taut.CloseInfo(taut.Initiator.REMOTE, 1005, "", clean=True)


async def test_the_server_restarts(chromium: Chromium) -> None:
    serving = Serving()
    async with website(serving) as site, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page())
        sockets = [await page.open(site.uri()) for _ in range(3)]
        for socket in sockets:
            await socket.opened()
        await site.server.drain(30, spread=0.1, reason="back in a moment", retry_after=2)
        for socket in sockets:
            code, reason, clean = await socket.closed()
            assert (code, clean) == (1012, True)
            assert re.fullmatch(r"back in a moment retry-after=[1-3]\.\d\d", reason)


async def test_pages_that_come_while_the_server_drains(chromium: Chromium) -> None:
    """Are refused; those that are there stay until it is their turn."""
    released = asyncio.Event()

    async def handler(ws: taut.ServerConnection) -> None:
        await released.wait()

    async with website(handler) as site, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page())
        socket = await page.open(site.uri())
        await socket.opened()
        drain = asyncio.ensure_future(site.server.drain(30, spread=0, retry_after=None))
        assert await socket.closed() == (1012, "service restart", True)
        late = await page.open(site.uri())
        await late.failed()
        assert set(site.refused) == {503}
        released.set()
        await drain


# -- scripts of the documentation ------------------------------------------------------------------------------


def script(page: str) -> str:
    (found,) = [block.text for block in BLOCKS if block.page.name == page and block.info == "javascript"]
    return found


async def test_the_script_that_connects_again(chromium: Chromium) -> None:
    serving = Serving()
    async with website(serving) as site, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page())
        port = site.server.port
        await page.run(f"const uri = a0; {script('production.md')} connect()", site.uri())
        first = await serving.connections.get()
        await site.server.drain(10, spread=0, retry_after=0.1)
        assert first.close_info is not None
        assert first.close_info.reason.startswith("service restart retry-after=")
        async with taut.serve(serving, "127.0.0.1", port) as successor:
            second = await serving.connections.get()
            assert second.server is successor
            second.abort()
            assert (await serving.connections.get()).server is successor


async def test_the_script_for_pages_that_are_left(chromium: Chromium) -> None:
    serving = Serving()
    async with website(serving) as site, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page())
        connect = "let ws; const connect = () => { ws = new WebSocket(a0); }; connect();"
        await page.run(f"{connect} {script('closing.md')}", site.uri())
        first = await serving.connections.get()
        await page.go(site.page("localhost"))
        await first.wait_closed()
        back = page.event("Page.frameNavigated")
        await page.run("setTimeout(() => history.back())")
        await back
        second = await serving.connections.get()
        assert not second.closed


# -- TLS -------------------------------------------------------------------------------------------------------


async def test_tls(chromium: Chromium) -> None:
    serving = Serving()
    async with website(serving, tls=True) as site, browsing(chromium.devtools) as browser:
        socket, ws = await connected(browser, site, serving)
        assert ws.transport.get_extra_info("ssl_object").version() == "TLSv1.3"
        for message in ("Grüße", "x" * 300_000):
            await ws.send(message)
            assert await socket.receive() == message
        await socket.close(4000)
        assert await socket.closed() == (4000, "", True)


async def test_a_certificate_that_nobody_vouches_for(chromium: Chromium) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    async with (
        website() as site,
        taut.serve(Serving(), "127.0.0.1", 0, ssl=context, origins=["*"]) as untrusted,
        browsing(chromium.devtools) as browser,
    ):
        page = await browser.page(site.page())
        socket = await page.open(f"wss://127.0.0.1:{untrusted.port}/")
        await socket.failed()
        assert untrusted.stats.accepted == 0
        assert untrusted.stats.failed >= 1
