"""The client under test: goes through all cases of a fuzzing server, echoing every message with its own type.

usage: echo_client.py [--uvloop] URI AGENT
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import taut


def connect(uri: str) -> Any:
    # Cases ask for messages of 16 MiB, for 65,536 fragments in one message, and for pauses; the reports take a
    # while to be written before the last handshake is answered.
    return taut.connect(uri, max_size=None, max_fragments=None, ping_interval=None, open_timeout=None)


async def echo(uri: str) -> None:
    # A case that ends in a protocol error is the fuzzing server's to judge, not ours to report.
    try:
        async with connect(uri) as ws:
            async for message in ws:
                await ws.send(message)
    except taut.WebSocketException:
        pass


async def run(uri: str, agent: str) -> None:
    async with connect(f"{uri}/getCaseCount") as ws:
        count = int(await ws.recv())
    print(count, "cases", flush=True)
    for case in range(1, count + 1):
        await echo(f"{uri}/runCase?case={case}&agent={agent}")
    await echo(f"{uri}/updateReports?agent={agent}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("uri", metavar="URI", help="where the fuzzing server listens, without a path")
    parser.add_argument("agent", metavar="AGENT", help="the name that the report is filed under")
    parser.add_argument("--uvloop", action="store_true", help="run on uvloop instead of asyncio's own loop")
    arguments = parser.parse_args()
    work = run(arguments.uri, arguments.agent)
    if arguments.uvloop:
        import uvloop

        uvloop.run(work)
    else:
        asyncio.run(work)


if __name__ == "__main__":
    main()
