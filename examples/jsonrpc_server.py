"""A JSON-RPC 2.0 server with a few methods; calls of one connection run side by side.

usage: jsonrpc_server.py [PORT]    (8765 by default, 0 for any that is free)
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from typing import Any

import taut


async def add(a: float, b: float) -> float:
    return a + b


async def divide(a: float, b: float) -> float:
    return a / b


async def upper(text: str) -> str:
    return text.upper()


async def sleep(seconds: float) -> str:
    await asyncio.sleep(min(seconds, 1))
    return f"slept {seconds:g} s"


METHODS: dict[str, Any] = {"add": add, "divide": divide, "upper": upper, "sleep": sleep}


async def answer(ws: taut.ServerConnection, call: dict[str, Any]) -> None:
    reply: dict[str, Any] = {"jsonrpc": "2.0", "id": call.get("id")}
    try:
        reply["result"] = await METHODS[call["method"]](*call.get("params", ()))
    except KeyError:
        reply["error"] = {"code": -32601, "message": "no such method"}
    except Exception as exc:
        reply["error"] = {"code": -32000, "message": str(exc)}
    with suppress(taut.ConnectionClosed):
        await ws.send(json.dumps(reply))


async def serve_calls(ws: taut.ServerConnection) -> None:
    try:
        async with asyncio.TaskGroup() as calls:
            async for message in ws:
                calls.create_task(answer(ws, json.loads(message)))
    except* taut.ConnectionClosedError:
        pass


async def main(port: int) -> None:
    async with taut.serve(serve_calls, "127.0.0.1", port, subprotocols=["jsonrpc-2.0"]) as server:
        host, port = server.sockets[0].getsockname()
        print(f"listening on ws://{host}:{port}/", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8765))
