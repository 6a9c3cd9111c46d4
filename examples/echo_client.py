"""Sends a few messages to an echo server, and prints what comes back.

usage: echo_client.py [URI]    (ws://127.0.0.1:8765/ by default)
"""

from __future__ import annotations

import asyncio
import sys

import taut


async def main(uri: str) -> int:
    try:
        async with taut.connect(uri) as ws:
            await ws.send("héllo")
            print("text:", await ws.recv())
            await ws.send(bytes(range(4)))
            print("binary:", await ws.recv())
            await ws.send(["in ", "three ", "fragments"])
            print("fragmented:", await ws.recv())
            pong = await ws.ping()
            await pong
            print(f"round trip: {ws.latency * 1000:.3f} ms")
    except (OSError, taut.InvalidHandshake) as exc:
        print(f"cannot connect to {uri}: {exc}", file=sys.stderr)
        return 1
    except taut.ConnectionClosed as exc:
        print(exc, file=sys.stderr)
        return 1
    print(ws.close_info)
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8765/")))
