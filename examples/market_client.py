"""A market-data client that stays up: it subscribes anew on every connection, from where it stopped.

usage: market_client.py [URI] [TICKS]    (ws://127.0.0.1:8765/ by default; ends after TICKS ticks, 300)

Try it with market_feed.py, which drops its clients all the time: no tick is missed, and none comes twice.
"""

from __future__ import annotations

import asyncio
import json
import sys

import taut

SHARES = ["ACME", "INITECH"]


class Market:
    """The last prices, and how far they go."""

    def __init__(self) -> None:
        self.prices: dict[str, float] = {}
        self.last = 0
        self.drops = 0

    async def subscribe(self, session: taut.Session, ws: taut.ClientConnection) -> None:
        """Called with every new connection, before anything else is sent on it."""
        await ws.send(json.dumps({"subscribe": SHARES, "after": self.last}))

    def dropped(self, reason: Exception, attempt: int) -> None:
        self.drops += 1
        print(f"attempt {attempt}: {reason}", file=sys.stderr)

    async def run(self, uri: str, ticks: int) -> None:
        policy = taut.ReconnectPolicy(base_delay=0.05, max_delay=5)
        session = taut.Session(uri, policy=policy, on_connect=self.subscribe, on_disconnect=self.dropped)
        async with session:
            async for message in session:
                tick = json.loads(message)
                if tick["n"] <= self.last:
                    raise AssertionError(f"tick {tick['n']} came again")
                self.last = tick["n"]
                self.prices[tick["share"]] = tick["price"]
                ticks -= 1
                if ticks == 0:
                    break


async def main(uri: str, ticks: int) -> int:
    market = Market()
    try:
        await market.run(uri, ticks)
    except taut.ConnectError as exc:
        print(f"cannot connect to {uri}: {exc}", file=sys.stderr)
        return 1
    print(f"{market.drops} drops, last tick {market.last}")
    for share, price in sorted(market.prices.items()):
        print(f"{share:8} {price:8.2f}")
    return 0


if __name__ == "__main__":
    URI = sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8765/"
    TICKS = int(sys.argv[2]) if len(sys.argv) > 2 else 300
    sys.exit(asyncio.run(main(URI, TICKS)))
