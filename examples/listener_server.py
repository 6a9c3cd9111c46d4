"""An echo server made of callbacks: one object for each connection, and no task.

usage: listener_server.py [PORT]    (8765 by default, 0 for any that is free)
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

import taut


class Echo(taut.Listener):
    """Counts what it sends back. Callbacks run inside the read from the network: they must not block."""

    def on_open(self, ws: taut.Connection) -> None:
        self.count = 0

    def on_message(self, ws: taut.Connection, message: taut.Data) -> None:
        self.count += 1
        ws.send_nowait(message)

    def on_close(self, ws: taut.Connection, info: taut.CloseInfo) -> None:
        print(f"{self.count} messages echoed; {info}", flush=True)


async def main(port: int) -> None:
    async with taut.serve(Echo, "127.0.0.1", port) as server:
        host, port = server.sockets[0].getsockname()
        print(f"listening on ws://{host}:{port}/", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8765))
