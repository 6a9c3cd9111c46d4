"""An echo server: sends every message back.

usage: echo_server.py [PORT]    (8765 by default, 0 for any that is free)
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

import taut


async def echo(ws: taut.ServerConnection) -> None:
    async for message in ws:
        await ws.send(message)


async def main(port: int) -> None:
    async with taut.serve(echo, "127.0.0.1", port) as server:
        host, port = server.sockets[0].getsockname()
        print(f"listening on ws://{host}:{port}/", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8765))
