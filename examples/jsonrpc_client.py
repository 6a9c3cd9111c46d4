"""A JSON-RPC 2.0 client: many calls at once over one connection, each answered whenever the server gets to it.

usage: jsonrpc_client.py [URI]    (ws://127.0.0.1:8765/ by default, the server is jsonrpc_server.py)
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from types import TracebackType
from typing import Any, Self

import taut


class RPCError(Exception):
    """The server answered a call with an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['message']} ({error['code']})")
        self.code: int = error["code"]


class JSONRPC:
    """``async with JSONRPC(uri) as rpc: await rpc.call("add", 1, 2)``."""

    def __init__(self, uri: str, **options: Any) -> None:
        self._connecting = taut.connect(uri, subprotocols=["jsonrpc-2.0"], **options)
        self._numbers = itertools.count(1)
        self._calls: dict[int, asyncio.Future[Any]] = {}

    async def __aenter__(self) -> Self:
        self._ws = await self._connecting
        self._receiving = asyncio.create_task(self._receive())
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._ws.close()
        await self._receiving

    async def call(self, method: str, *params: Any) -> Any:
        """Call a method, and return its result. Raises ``RPCError``, or ``ConnectionClosed``."""
        number = next(self._numbers)
        self._calls[number] = future = asyncio.get_running_loop().create_future()
        try:
            await self._ws.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}))
            return await future
        finally:
            del self._calls[number]

    async def _receive(self) -> None:
        end: taut.ConnectionClosed | None = None
        try:
            while True:
                answer = json.loads(await self._ws.recv())
                future = self._calls.get(answer.get("id"))
                if future is None or future.done():
                    continue  # a notification, or nobody waits for it any more
                if "error" in answer:
                    future.set_exception(RPCError(answer["error"]))
                else:
                    future.set_result(answer["result"])
        except taut.ConnectionClosed as exc:
            end = exc
        for future in self._calls.values():
            if not future.done():
                future.set_exception(end)


async def main(uri: str) -> int:
    try:
        async with JSONRPC(uri) as rpc:
            sums = await asyncio.gather(*(rpc.call("add", number, number) for number in range(10)))
            print("sums:", *sums)
            # The slow call is sent first, and answered last.
            slow = asyncio.create_task(rpc.call("sleep", 0.1))
            print("fast:", await rpc.call("upper", "done"))
            print("slow:", await slow)
            try:
                await rpc.call("divide", 1, 0)
            except RPCError as exc:
                print("error:", exc)
    except taut.ConnectError as exc:
        print(f"cannot connect to {uri}: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8765/")))
