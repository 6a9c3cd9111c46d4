"""Not run, but checked by mypy and pyright, both strict: this is how servers with middleware can be typed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, assert_type

import taut
import taut.sync
from taut.subprotocols import Values


@dataclass
class Order:
    """What a client sends."""

    item: str
    count: int = 1


class State:
    """What the application keeps."""

    visits = 0


class Lines(taut.Subprotocol[list[str]]):
    """A format of one's own."""

    text = True

    def encode(self, value: list[str]) -> str:
        return "\n".join(value)

    def decode(self, message: taut.Data) -> list[str]:
        return str(message).split("\n")


ORDERS = taut.JSONSubprotocol("orders.v1", type=Order)
ANYTHING = taut.JSONSubprotocol("json.v1", backend="auto")
MANY = taut.JSONSubprotocol[list[Order] | None]("many.v1", type=list[Order] | None)
LINES = Lines("lines.v1")
assert_type(ORDERS, taut.JSONSubprotocol[Order])
assert_type(ANYTHING, taut.JSONSubprotocol[Any])
assert_type(ORDERS.decode("{}"), Order)


class Visits(taut.Middleware):
    """Every method there is."""

    async def handshake(
        self, ws: taut.ServerConnection, request: taut.Request, call_next: Callable[[], Awaitable[taut.Response]]
    ) -> taut.Response:
        if "X-Blocked" in request.headers:
            return ws.respond(403)
        response = await call_next()
        assert_type(response, taut.Response)
        return response

    async def connection(self, ws: taut.ServerConnection, call_next: Callable[[], Awaitable[None]]) -> None:
        state: State = ws.server.state
        state.visits += 1
        await call_next()

    def message_in(self, ws: taut.ServerConnection, message: Any) -> Any:
        return self.DROP if message == "noise" else message

    def message_out(self, ws: taut.ServerConnection, message: Any) -> Any:
        return message

    def closed(self, ws: taut.ServerConnection, info: taut.CloseInfo) -> None:
        ws.logger.info("%s: %d", ws.locals.begun, info.code)


async def timed(ws: taut.ServerConnection, call_next: Callable[[], Awaitable[None]]) -> None:
    """A layer that is a function."""
    ws.locals.begun = time.monotonic()
    await call_next()


async def take_orders(ws: taut.ServerConnection) -> None:
    """A handler of values."""
    orders = ORDERS.typed(ws)
    assert_type(orders, Values[Order])
    async for order in orders:
        assert_type(order, Order)
        await orders.send(order, compress=False)
    assert_type(await LINES.typed(ws).recv(), list[str])


def take_orders_in_a_thread(ws: taut.sync.ServerConnection) -> None:
    """A blocking one."""
    ws.send({"order": ws.recv()})


async def main() -> None:
    """Servers and clients."""
    router = taut.Router(subprotocols=[ORDERS, "plain"], middleware=[Visits(), timed])
    router.add("/orders", take_orders, middleware=[timed], codec=ANYTHING)
    serving = taut.serve(router, "127.0.0.1", 0, middleware=[Visits(), timed], state=State(), codec=LINES)
    connecting = taut.connect("ws://127.0.0.1:8765/", subprotocols=["plain", ORDERS], codec=LINES)
    async with serving as server, connecting as ws:
        assert_type(ws.codec, taut.Subprotocol[Any] | None)
        ORDERS.typed(ws).send_nowait(Order("tea"))
        taut.broadcast(server.connections, "a message")
    with taut.sync.serve(take_orders_in_a_thread, "127.0.0.1", 0, subprotocols=[ORDERS], codec=LINES):
        pass


asyncio.run(main())
