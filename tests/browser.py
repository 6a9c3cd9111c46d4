"""Pages of a real browser, which a test opens, runs JavaScript in, and has open WebSockets.

The browser is driven with the Chrome DevTools Protocol: commands, answers and events in JSON, over a WebSocket for
which taut's own client is used.  Each ``Browser`` is a profile of its own within one process: cookies and cached
credentials are shared by its pages and by no other test, and all of it is gone when the connection is.

Every page has a ``tests`` object (PAGE) whose sockets keep what happens to them in order, until it is asked for.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import taut

PAGE = """
globalThis.tests = {
    sockets: [],
    async plain(data) {
        if (typeof data === "string") return data;
        const bytes = new Uint8Array(data instanceof Blob ? await data.arrayBuffer() : data);
        return {kind: data.constructor.name, bytes: Array.from(bytes)};
    },
    open(uri, protocols, binaryType) {
        const ws = new WebSocket(uri, protocols);
        ws.binaryType = binaryType;
        const seen = [], waiting = [];
        const tell = event => waiting.length ? waiting.shift()(event) : seen.push(event);
        ws.onopen = () => tell({event: "open", protocol: ws.protocol, extensions: ws.extensions});
        ws.onerror = () => tell({event: "error"});
        ws.onclose = ({code, reason, wasClean}) => tell({event: "close", code, reason, wasClean});
        ws.onmessage = ({data}) => tell({event: "message", data});
        ws.next = () => seen.length ? Promise.resolve(seen.shift()) : new Promise(resolve => waiting.push(resolve));
        return this.sockets.push(ws) - 1;
    },
    async next(number) {
        const event = await this.sockets[number].next();
        if ("data" in event) event.data = await this.plain(event.data);
        return event;
    },
};
"""


class BrowserError(Exception):
    """What the browser answered to a command that failed, or what JavaScript raised."""


class Browser:
    """Commands for a browser, and a profile of its own for the pages of this connection."""

    def __init__(self, ws: taut.ClientConnection) -> None:
        self._ws = ws
        self._last = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._events: dict[tuple[str, str], asyncio.Future[dict[str, Any]]] = {}
        self.profile = ""

    async def command(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Have the browser do something, for one of its pages where ``session`` is given."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        answer = self._answers[self._last] = asyncio.get_running_loop().create_future()
        await self._ws.send(json.dumps(message))
        return await answer

    def event(self, method: str, session: str) -> asyncio.Future[dict[str, Any]]:
        """The next event of this kind."""
        return self._events.setdefault((method, session), asyncio.get_running_loop().create_future())

    async def read(self) -> None:
        """Hand out answers and events until the connection is closed."""
        async for text in self._ws:
            message = json.loads(text)
            if "id" in message:
                answer = self._answers.pop(message["id"])
                if answer.done():
                    continue
                if "error" in message:
                    answer.set_exception(BrowserError(message["error"]))
                else:
                    answer.set_result(message["result"])
            else:
                waiting = self._events.pop((message["method"], message.get("sessionId", "")), None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message["params"])

    async def page(self, url: str = "about:blank") -> Page:
        """Open a page, and wait until it is loaded."""
        target = await self.command("Target.createTarget", url="about:blank", browserContextId=self.profile)
        attached = await self.command("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        page = Page(self, target["targetId"], attached["sessionId"])
        await page.command("Page.enable")
        await page.command("Page.addScriptToEvaluateOnNewDocument", source=PAGE)
        await page.go(url)
        return page


class Page:
    """A tab."""

    def __init__(self, browser: Browser, target: str, session: str) -> None:
        self._browser = browser
        self._target = target
        self._session = session

    async def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        return await self._browser.command(method, self._session, **parameters)

    def event(self, method: str) -> asyncio.Future[dict[str, Any]]:
        """The next event of this kind, from this call on."""
        return self._browser.event(method, self._session)

    async def go(self, url: str) -> None:
        """Leave for another address, and wait until it is loaded; BrowserError if it cannot be."""
        loaded = self.event("Page.loadEventFired")
        answer = await self.command("Page.navigate", url=url)
        if "errorText" in answer:
            raise BrowserError(answer["errorText"])
        await loaded

    async def run(self, body: str, *arguments: Any) -> Any:
        """What the body of an asynchronous JavaScript function returns; BrowserError if it throws."""
        names = ", ".join(f"a{number}" for number in range(len(arguments)))
        values = ", ".join(json.dumps(argument) for argument in arguments)
        answer = await self.command(
            "Runtime.evaluate",
            expression=f"(async ({names}) => {{ {body} }})({values})",
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
        )
        if "exceptionDetails" in answer:
            raise BrowserError(answer["exceptionDetails"]["exception"]["description"])
        return answer["result"].get("value")

    async def open(self, uri: str, protocols: Sequence[str] = (), *, binary_type: str = "arraybuffer") -> PageSocket:
        """``new WebSocket(uri, protocols)``; returns before it is connected."""
        number = await self.run("return tests.open(a0, a1, a2)", uri, list(protocols), binary_type)
        return PageSocket(self, number)

    async def close(self) -> None:
        """Close the tab."""
        await self._browser.command("Target.closeTarget", targetId=self._target)


class PageSocket:
    """A WebSocket of a page."""

    def __init__(self, page: Page, number: int) -> None:
        self.page = page
        self._number = number

    async def next(self) -> dict[str, Any]:
        """What happened next to it: ``event`` is "open", "message", "error" or "close"."""
        event: dict[str, Any] = await self.page.run("return await tests.next(a0)", self._number)
        return event

    async def opened(self) -> dict[str, Any]:
        """The open event, which must be next."""
        event = await self.next()
        assert event["event"] == "open", event
        return event

    async def receive(self) -> Any:
        """A message, which must be next."""
        event = await self.next()
        assert event["event"] == "message", event
        return event["data"]

    async def closed(self) -> tuple[int, str, bool]:
        """Code, reason and wasClean of the close event, which must be next."""
        event = await self.next()
        assert event["event"] == "close", event
        return event["code"], event["reason"], event["wasClean"]

    async def failed(self) -> None:
        """It could not be opened: pages are told nothing but that."""
        assert await self.next() == {"event": "error"}
        assert await self.closed() == (1006, "", False)

    async def run(self, body: str, *arguments: Any) -> Any:
        """JavaScript with the WebSocket as ``ws``."""
        return await self.page.run(f"const ws = tests.sockets[{self._number}]; {body}", *arguments)

    async def send(self, text: str) -> None:
        await self.run("ws.send(a0)", text)

    async def close(self, *arguments: Any) -> None:
        """``ws.close(...arguments)``; returns before it is closed."""
        await self.run("ws.close(...a0)", list(arguments))


@asynccontextmanager
async def browsing(devtools: str) -> AsyncIterator[Browser]:
    """A profile of its own in the browser whose debugging port is there; gone at the end of the block."""
    async with taut.connect(devtools, max_size=None, proxy=None, compression=None) as ws:
        browser = Browser(ws)
        reading = asyncio.create_task(browser.read())
        try:
            created = await browser.command("Target.createBrowserContext", disposeOnDetach=True)
            browser.profile = created["browserContextId"]
            yield browser
            await browser.command("Target.disposeBrowserContext", browserContextId=browser.profile)
        finally:
            reading.cancel()
            await asyncio.wait([reading])
