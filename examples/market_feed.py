"""A market-data feed to try clients with: prices of made-up shares, numbered, and a habit of dropping its clients.

usage: market_feed.py [PORT] [DROP]    (port 8765, 0 for any that is free; each client is dropped after DROP ticks, 50)

A client sends {"subscribe": [SHARE, ...], "after": NUMBER} and gets {"n": NUMBER, "share": SHARE, "price": PRICE} for
every tick after that number; the feed remembers the last 1,000.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import deque
from contextlib import suppress

import taut

SHARES = ("ACME", "HOOLI", "INITECH")
TICK = 0.01


class Feed:
    """The ticks, and who wants them."""

    def __init__(self) -> None:
        self.ticks: deque[dict[str, object]] = deque(maxlen=1000)
        self.number = 0
        self.ticked = asyncio.Condition()

    async def run(self) -> None:
        prices = dict.fromkeys(SHARES, 100.0)
        while True:
            await asyncio.sleep(TICK)
            share = random.choice(SHARES)
            prices[share] = round(prices[share] * random.uniform(0.99, 1.01), 2)
            async with self.ticked:
                self.number += 1
                self.ticks.append({"n": self.number, "share": share, "price": prices[share]})
                self.ticked.notify_all()

    async def serve(self, ws: taut.ServerConnection, drop: int) -> None:
        with suppress(taut.ConnectionClosed):
            wanted = json.loads(await ws.recv())
            last = wanted["after"]
            while drop > 0:
                async with self.ticked:
                    while self.number <= last:
                        await self.ticked.wait()
                    news = [tick for tick in self.ticks if tick["n"] > last and tick["share"] in wanted["subscribe"]]
                    last = self.number
                for tick in news[:drop]:
                    await ws.send(json.dumps(tick))
                drop -= len(news)
            await ws.close(1012, "restarting, as always")


async def main(port: int, drop: int) -> None:
    feed = Feed()
    ticking = asyncio.create_task(feed.run())
    try:
        async with taut.serve(lambda ws: feed.serve(ws, drop), "127.0.0.1", port) as server:
            host, port = server.sockets[0].getsockname()
            print(f"listening on ws://{host}:{port}/", flush=True)
            await server.serve_forever()
    finally:
        ticking.cancel()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(*(int(given) for given in [*sys.argv[1:], *("8765", "50")[len(sys.argv) - 1 :]])))
