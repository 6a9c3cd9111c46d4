"""The server under test: echoes every message with its own type, without limits, until it is ended.

usage: echo_server.py [--listener] [--uvloop]

It takes a free port of the loopback interface and prints "port N" once it accepts connections.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import taut


class Echo(taut.Listener):
    def on_message(self, ws: Any, message: str | bytes) -> None:
        ws.send_nowait(message)


async def echo(ws: Any) -> None:
    # A case that ends in a protocol error is the fuzzing client's to judge, not ours to report.
    try:
        async for message in ws:
            await ws.send(message)
    except taut.ConnectionClosed:
        pass


async def serve(handler: Any) -> None:
    # Cases ask for messages of 16 MiB, for 65,536 fragments in one message, and for pauses.
    async with taut.serve(handler, "127.0.0.1", 0, max_size=None, max_fragments=None, ping_interval=None) as server:
        print("port", server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listener", action="store_true", help="use the callback API instead of a coroutine")
    parser.add_argument("--uvloop", action="store_true", help="run on uvloop instead of asyncio's own loop")
    arguments = parser.parse_args()
    work = serve(Echo if arguments.listener else echo)
    if arguments.uvloop:
        import uvloop

        uvloop.run(work)
    else:
        asyncio.run(work)


if __name__ == "__main__":
    main()
