"""A server of taut, and WebSockets of pages in Chromium: messages of every kind, compression."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
from typing import Any

import pytest
from browser import BrowserError, browsing
from services import Chromium

import taut
from tests.interop.websites import Serving, connected, website

pytestmark = pytest.mark.parametrize("loop_name", ["uvloop"])


# -- messages --------------------------------------------------------------------------------------------------


async def test_text(chromium: Chromium) -> None:
    async with website() as site, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page())
        socket = await page.open(site.uri())
        await socket.opened()
        for text in ("", "héllo", "\U0001f9f6 wool", "\0\x7f", "x" * 70_000):
            await socket.send(text)
            assert await socket.receive() == text
        await socket.run(r"ws.send('half \ud83e of a pair')")  # which UTF-8 cannot say
        assert await socket.receive() == "half \ufffd of a pair"


@pytest.mark.parametrize(("binary_type", "kind"), [("blob", "Blob"), ("arraybuffer", "ArrayBuffer")])
async def test_binary(chromium: Chromium, binary_type: str, kind: str) -> None:
    async with website() as site, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page())
        socket = await page.open(site.uri(), binary_type=binary_type)
        await socket.opened()
        for data in ("new ArrayBuffer(0)", "new Uint8Array([0, 255, 128])", "new Blob([new Uint8Array([1, 2])])"):
            await socket.run(f"ws.send({data})")
            event = await socket.receive()
            assert event["kind"] == kind
            assert event["bytes"] == {"A": [], "U": [0, 255, 128], "B": [1, 2]}[data[4]]


COMPARED = """
const sent = new Uint8Array(a0);
for (let i = 0; i < sent.length; i += 65536) crypto.getRandomValues(sent.subarray(i, i + 65536));
ws.send(sent);
const {data} = await ws.next(), received = new Uint8Array(data);
return received.length === sent.length && received.every((byte, i) => byte === sent[i]);
"""


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_large_messages(chromium: Chromium, compression: str | None) -> None:
    """Which Chromium sends in fragments."""
    async with website(compression=compression, max_size=None) as site, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page())
        socket = await page.open(site.uri())
        await socket.opened()
        for size in (65_535, 65_536, 8 << 20):
            assert await socket.run(COMPARED, size)
        assert await socket.run("ws.send('ab'.repeat(a0)); return (await ws.next()).data === 'ab'.repeat(a0)", 1 << 21)


async def test_fragmented_messages(chromium: Chromium) -> None:
    serving = Serving()
    async with website(serving) as site, browsing(chromium.devtools) as browser:
        socket, ws = await connected(browser, site, serving)
        await ws.send(["in ", "", "thr\u00e9", "e"])
        assert await socket.receive() == "in thrée"
        await ws.send([b"\x00", bytes(200), b"\x01"])
        assert (await socket.receive())["bytes"] == [0, *bytes(200), 1]

        async def parts() -> Any:
            for number in range(100):
                yield f"{number} " * 50
                if number % 10 == 0:
                    assert await (await ws.ping()) >= 0  # between the fragments

        await ws.send(parts())
        assert await socket.receive() == "".join(f"{number} " * 50 for number in range(100))


async def test_a_page_that_sends_too_much_is_told_so(chromium: Chromium) -> None:
    async with website(max_size=1000) as site, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page())
        socket = await page.open(site.uri())
        await socket.opened()
        await socket.run("ws.send(new Uint8Array(1000))")
        assert len((await socket.receive())["bytes"]) == 1000
        await socket.run("ws.send(new Uint8Array(1001))")
        assert await socket.closed() == (1009, "1001 bytes are over the limit of 1000 (max_size)", True)


async def test_many_messages_both_ways(chromium: Chromium) -> None:
    async with website() as site, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page())
        socket = await page.open(site.uri())
        await socket.opened()
        script = """
            for (let i = 0; i < 5000; i++) ws.send(`message ${i}`);
            for (let i = 0; i < 5000; i++) if ((await ws.next()).data !== `message ${i}`) return i;
            return "all";
        """
        assert await socket.run(script) == "all"


async def test_subprotocols(chromium: Chromium) -> None:
    async with website(subprotocols=["v2.chat", "v1.chat"]) as site, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page())
        for offered, chosen in [(["v1.chat"], "v1.chat"), (["v1.chat", "v2.chat"], "v2.chat"), ([], "")]:
            socket = await page.open(site.uri(), offered)
            assert (await socket.opened())["protocol"] == chosen
        socket = await page.open(site.uri(), ["soap"])
        await socket.failed()  # it offers something, and nothing is spoken
        with pytest.raises(BrowserError, match="SyntaxError"):
            await page.open(site.uri(), ["not a token"])


BUSY = """
ws.send("busy");
for (;;) {
    const request = new XMLHttpRequest();
    request.open("GET", "/", false);
    request.send();
    if (request.status !== 200) break;
}
ws.send("free");
"""


async def test_pings_are_answered_while_the_page_is_busy(chromium: Chromium) -> None:
    """Its JavaScript runs without a pause until it is told to stop; messages wait, Pongs do not."""
    serving = Serving()
    async with website(serving, ping_interval=0.1, ping_timeout=20.0) as site, browsing(chromium.devtools) as browser:
        stop = False

        def pages(ws: taut.ServerConnection, request: taut.Request) -> taut.Response | None:
            return ws.respond(503, "enough\n") if stop else None

        site.plain = pages
        socket, ws = await connected(browser, site, serving)
        running = asyncio.ensure_future(socket.run(BUSY))
        assert await ws.recv() == "busy"
        await ws.send("unread")
        for _ in range(5):
            assert await (await ws.ping()) >= 0
        assert ws.stats.messages_received == 1
        stop = True
        assert await ws.recv() == "free"
        await running
        assert await socket.receive() == "unread"


async def test_subprotocols_that_decode(chromium: Chromium) -> None:
    async def handler(ws: taut.ServerConnection) -> None:
        async for value in ws:
            await ws.send({"received": value})

    protocols = [taut.JSONSubprotocol("json.v1")]
    async with website(handler, subprotocols=protocols) as site, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page())
        for wrong, code, reason in [
            ("'{'", 1007, "not a valid json.v1 message"),
            ("new Uint8Array(1)", 1003, "json.v1 has no Binary messages"),
        ]:
            socket = await page.open(site.uri(), ["json.v1"])
            assert (await socket.opened())["protocol"] == "json.v1"
            await socket.run("ws.send(JSON.stringify({text: 'Grüße'}))")
            assert json.loads(await socket.receive()) == {"received": {"text": "Grüße"}}
            await socket.run(f"ws.send({wrong})")
            assert await socket.closed() == (code, reason, True)


# -- compression -----------------------------------------------------------------------------------------------

FLAGS = (False, True)
TAKEOVERS = list(itertools.product(FLAGS, FLAGS))


@pytest.mark.parametrize(("server_afresh", "client_afresh"), TAKEOVERS)
async def test_compression_with_and_without_context_takeover(
    chromium: Chromium, server_afresh: bool, client_afresh: bool
) -> None:
    """The same random text twice, each way: the second is free where the context is kept, and only there."""
    serving = Serving()
    options = taut.DeflateOptions(
        server_max_window_bits=15,
        client_max_window_bits=15,
        server_no_context_takeover=server_afresh,
        client_no_context_takeover=client_afresh,
    )
    async with website(serving, compression=options) as site, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page())
        socket = await page.open(site.uri())
        agreed = (await socket.opened())["extensions"].split("; ")
        assert agreed[0] == "permessage-deflate"
        assert ("server_no_context_takeover" in agreed) == server_afresh
        assert ("client_no_context_takeover" in agreed) == client_afresh
        ws = await serving.connections.get()
        text = secrets.token_hex(2000)  # 4000 digits, which are 2000 bytes of randomness
        sent, received = [ws.stats.bytes_sent], [ws.stats.bytes_received]
        for _ in range(2):
            await ws.send(text)
            assert await socket.receive() == text
            sent.append(ws.stats.bytes_sent)
            await socket.send(text)
            assert await ws.recv() == text
            received.append(ws.stats.bytes_received)
        for counts, afresh in ((sent, server_afresh), (received, client_afresh)):
            first, second = (after - before for before, after in itertools.pairwise(counts))
            assert 2000 < first < 2800
            assert (second > 2000) if afresh else (second < 200)


@pytest.mark.parametrize("bits", [9, 12, 15])
async def test_windows(chromium: Chromium, bits: int) -> None:
    options = taut.DeflateOptions(server_max_window_bits=bits, client_max_window_bits=bits)
    async with website(compression=options) as site, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page())
        socket = await page.open(site.uri())
        agreed = (await socket.opened())["extensions"].split("; ")
        for name in ("server_max_window_bits", "client_max_window_bits"):
            assert f"{name}={bits}" in agreed or bits == 15
        text = "".join(f"line {number} of a text that repeats itself\n" for number in range(3000))
        for _ in range(3):
            await socket.send(text)
            assert await socket.receive() == text


async def test_without_compression(chromium: Chromium) -> None:
    serving = Serving()
    async with website(serving, compression=None) as site, browsing(chromium.devtools) as browser:
        page = await browser.page(site.page())
        socket = await page.open(site.uri())
        assert (await socket.opened())["extensions"] == ""
        ws = await serving.connections.get()
        await socket.send("a" * 1000)
        assert await ws.recv() == "a" * 1000
        assert ws.stats.bytes_received == 1000 + 8
