"""Who may connect from a browser: pages of other origins, cookies and passwords that a browser sends by itself."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from browser import Page, browsing
from services import Chromium

import taut
from tests.interop.websites import Website, website

pytestmark = pytest.mark.parametrize("loop_name", ["asyncio"])  # what is answered does not depend on it
SITE = "a.site.test"


async def admits(page: Page, site: Website, host: str = "127.0.0.1", path: str = "/") -> bool:
    """Whether a page may open a WebSocket there, and use it."""
    socket = await page.open(site.uri(path, host))
    event = await socket.next()
    if event["event"] == "open":
        await socket.send("hello")
        assert await socket.receive() == "hello"
        await socket.close(1000)
        assert await socket.closed() == (1000, "", True)
        return True
    assert event == {"event": "error"}
    assert await socket.closed() == (1006, "", False)
    return False


# -- origins ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", SITE])
async def test_a_page_of_the_same_origin_is_admitted(chromium: Chromium, host: str, tls: bool) -> None:
    async with website(tls=tls) as site, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page(host))
        assert await page.run("return location.origin") == site.origin(host)
        assert await admits(page, site, host)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
async def test_a_page_of_another_origin_is_refused(
    chromium: Chromium, tls: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Another port, another name of the same site, another site: all are other origins."""
    caplog.set_level(logging.INFO, "taut.server")
    async with website(tls=tls) as site, website(tls=tls) as elsewhere, browsing(chromium.devtools) as browser:
        strangers = [elsewhere.origin(SITE), site.origin("b.site.test"), site.origin("other.test")]
        for number, origin in enumerate(strangers, 1):
            page = await browser.page(f"{origin}/")
            assert not await admits(page, site, SITE)
            assert site.refused[403] == number
            assert f"opening handshake refused: origin not allowed: {origin}" in caplog.messages
        assert site.server.stats.accepted == 0


async def test_a_page_without_tls_is_another_origin_than_one_with(chromium: Chromium) -> None:
    async with website() as plain, website(tls=True) as secure, browsing(chromium.devtools) as browser:
        page = await browser.page(plain.page())
        assert not await admits(page, secure)
        assert secure.refused == {403: 1}
        # The other way about the browser itself refuses: mixed content. Nothing arrives.
        page = await browser.page(secure.page(SITE))
        assert "SecurityError" in await page.run(
            "try { new WebSocket(a0) } catch (error) { return error.name }", plain.uri(host=SITE)
        )
        assert plain.refused == {}


async def test_origins_that_are_listed_are_admitted(chromium: Chromium) -> None:
    async with (
        website() as app,
        website(origins=[app.origin(SITE)]) as site,
        browsing(chromium.devtools) as browser,
    ):
        assert await admits(await browser.page(app.page(SITE)), site)
        assert not await admits(await browser.page(app.page("b.site.test")), site)
        assert not await admits(await browser.page(site.page()), site)  # a list is all there is


@pytest.mark.parametrize(
    ("host", "admitted"),
    [(SITE, True), ("b.site.test", True), ("x9.site.test", False), ("a.site.test.other.test", False)],
)
async def test_a_pattern_has_to_match_the_whole_origin(chromium: Chromium, host: str, admitted: bool) -> None:
    origins = [re.compile(r"http://[a-z]+\.site\.test(:[0-9]+)?")]
    async with website() as app, website(origins=origins) as site, browsing(chromium.devtools) as browser:
        assert await admits(await browser.page(app.page(host)), site) == admitted
        assert site.refused == ({} if admitted else {403: 1})


async def test_a_star_admits_every_page(chromium: Chromium, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<!doctype html>")
    async with website() as app, website(origins=["*"]) as site, browsing(chromium.devtools) as browser:
        for url in (app.page("other.test"), site.page(), "data:text/html,", (tmp_path / "page.html").as_uri()):
            assert await admits(await browser.page(url), site)


FRAME = """
const socket = `<script>
    const ws = new WebSocket("${a0}");
    ws.onopen = () => { ws.onclose = null; parent.postMessage([origin, "open"], "*"); };
    ws.onclose = ({code}) => parent.postMessage([origin, code], "*");
</script>`;
const told = new Promise(resolve => addEventListener("message", ({data}) => resolve(data), {once: true}));
const frame = document.createElement("iframe");
frame.sandbox = a1;
frame.srcdoc = socket;
document.body.append(frame);
return await told;
"""


@pytest.mark.parametrize(
    ("origins", "admitted"), [(None, False), (["https://a.test", None], False), (["null"], True)], ids=repr
)
async def test_pages_without_an_origin_of_their_own(
    chromium: Chromium, tmp_path: Path, origins: list[str | None] | None, admitted: bool
) -> None:
    """Sandboxed frames, data: and file: say "null", which is nobody's; as an entry of ``origins`` it is any of them."""
    (tmp_path / "page.html").write_text("<!doctype html>")
    async with website(origins=origins) as site, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page())
        told = await page.run(FRAME, site.uri(), "allow-scripts")
        assert told == ["null", "open" if admitted else 1006]
        for url in ("data:text/html,", (tmp_path / "page.html").as_uri()):
            page = await browser.page(url)
            assert await admits(page, site) == admitted
        assert site.refused == ({} if admitted else {403: 3})


async def test_a_sandboxed_frame_that_keeps_its_origin_is_the_page(chromium: Chromium) -> None:
    async with website() as site, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page())
        told = await page.run(FRAME, site.uri(), "allow-scripts allow-same-origin")
        assert told == [site.origin(), "open"]


# -- what a browser sends by itself ----------------------------------------------------------------------------

SAME_SITE = {
    "strict": "strict=s3cret; HttpOnly; Secure; SameSite=Strict",
    "lax": "lax=s3cret; HttpOnly; Secure; SameSite=Lax",
    "default": "default=s3cret; HttpOnly; Secure",
    "none": "none=s3cret; HttpOnly; Secure; SameSite=None",
    "__Host-session": "__Host-session=s3cret; HttpOnly; Secure; SameSite=Strict; Path=/",
}
"""By their names: cookies with every value of SameSite, and the kind that is recommended."""


def by_cookie(ws: taut.ServerConnection, request: taut.Request) -> object:
    """Let in whoever has the cookie that the path names."""
    return taut.cookie_auth(request.path[1:], {"s3cret": "ann"}.get)(ws, request)


async def admitted_by_cookie(page: Page, site: Website) -> set[str]:
    return {name for name in SAME_SITE if await admits(page, site, SITE, f"/{name}")}


async def test_cookies_are_sent_to_where_a_browser_thinks_they_belong(chromium: Chromium) -> None:
    """Pages of the same site have all of them sent; those of another site only what is expressly for them."""
    options = {"tls": True, "process_request": by_cookie, "cookies": list(SAME_SITE.values())}
    async with website(tls=True) as other, browsing(chromium.devtools) as browser:
        origins = [other.origin("other.test"), other.origin("b.site.test")]
        async with website(**options, origins=origins) as site:
            await browser.page(site.page(SITE))  # here they are set
            page = await browser.page(other.page("b.site.test"))
            assert await admitted_by_cookie(page, site) == set(SAME_SITE)
            page = await browser.page(other.page("other.test"))
            assert await admitted_by_cookie(page, site) == {"none"}
            assert site.refused == {403: len(SAME_SITE) - 1}


async def test_the_cookie_of_the_user_does_not_open_the_door_to_another_origin(chromium: Chromium) -> None:
    """By default; ``origins`` alone stands between a page of somebody else's and a cookie with SameSite=None."""
    options = {"tls": True, "process_request": by_cookie, "cookies": list(SAME_SITE.values())}
    async with website(tls=True) as other, website(**options) as site, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page(SITE))
        assert await page.run("return document.cookie") == ""
        assert await admitted_by_cookie(page, site) == set(SAME_SITE)
        for host in ("b.site.test", "other.test"):
            page = await browser.page(other.page(host))
            assert await admitted_by_cookie(page, site) == set()
        assert site.refused == {403: 2 * len(SAME_SITE)}
    async with (
        website(**options, origins=["*"]) as careless,
        website(tls=True) as other,
        browsing(chromium.devtools) as browser,
    ):
        await browser.page(careless.page(SITE))
        page = await browser.page(other.page("other.test"))
        assert await admitted_by_cookie(page, careless) == {"none"}


async def test_a_password_in_the_address(chromium: Chromium) -> None:
    """Chromium sends it when it is asked for; from then on by itself, for any page: origins matter as for cookies."""
    hook = taut.basic_auth("chat", credentials=("ann", "päss"))
    async with website(process_request=hook) as site, website() as other, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page())
        assert not await admits(page, site)
        assert not await admits(page, site, "ann:guessed@127.0.0.1")
        page = await browser.page(site.page())
        assert await admits(page, site, "ann:p%C3%A4ss@127.0.0.1")
        assert await admits(page, site)
        stranger = await browser.page(other.page())
        assert not await admits(stranger, site)
        assert site.refused == {401: 4, 403: 1}


@pytest.mark.parametrize("spoken", [["chat"], []], ids=["a protocol beside it", "nothing else"])
async def test_a_token_among_the_subprotocols_is_never_echoed(chromium: Chromium, spoken: list[str]) -> None:
    hook = taut.subprotocol_auth("bearer.", {"t0ken": "ann"}.get)
    answered: list[str | None] = []

    def process_response(ws: taut.ServerConnection, request: taut.Request, response: taut.Response) -> None:
        if response.status_code == 101:
            answered.append(response.headers.get("Sec-WebSocket-Protocol"))

    options = {"process_request": hook, "process_response": process_response, "subprotocols": spoken}
    async with website(**options) as site, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page())
        socket = await page.open(site.uri(), ["bearer.guessed", "chat"])
        await socket.failed()
        assert site.refused == {401: 1}
        socket = await page.open(site.uri(), ["bearer.t0ken", "chat"])
        if spoken:
            assert (await socket.opened())["protocol"] == "chat"
        else:
            await socket.failed()  # a browser insists on an answer to what it offers
    assert answered == (spoken or [None])


async def test_a_token_in_the_query(chromium: Chromium) -> None:
    hook = taut.query_auth("token", {"t0ken": "ann"}.get)
    async with website(process_request=hook) as site, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page())
        assert await admits(page, site, path="/?token=t0ken")
        assert not await admits(page, site, path="/?token=guessed")


async def test_a_token_in_the_first_message(chromium: Chromium) -> None:
    @taut.first_message_auth({"t0ken": "ann"}.get)
    async def handler(ws: taut.ServerConnection) -> None:
        await ws.send(f"hello, {ws.principal}")
        await ws.wait_closed()

    async with website(handler) as site, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page())
        for token in ("t0ken", "guessed"):
            socket = await page.open(site.uri())
            await socket.opened()
            await socket.send(token)
            if token == "t0ken":
                assert await socket.receive() == "hello, ann"
            else:
                assert await socket.closed() == (1008, "", True)
