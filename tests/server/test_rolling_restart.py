"""A server is replaced under load: clients of taut come back by themselves, and every message is acknowledged."""

from __future__ import annotations

import asyncio
from collections import Counter

import taut

CLIENTS = 24
WINDOW = 10.0


async def test_a_rolling_restart_loses_nothing() -> None:
    served: Counter[str] = Counter()

    async def answer(ws: taut.ServerConnection) -> None:
        async for message in ws:
            served[str(message)] += 1
            await ws.send(message)

    connections: list[taut.ClientConnection] = []
    ack = taut.Ack(sent=lambda message: message, received=lambda message: message)

    async def note(_: taut.Session, connection: taut.ClientConnection) -> None:
        connections.append(connection)

    async def load(name: int, uri: str) -> int:
        """Send one message after the other until the restart is over, and wait until each is acknowledged."""
        async with taut.Session(uri, ack=ack, on_connect=note) as session:
            answers = asyncio.create_task(_take_all(session))
            count = 0
            while not over.is_set():
                await session.send(f"{name} {count}")
                count += 1
                await asyncio.sleep(0.005)
            await session.drain()
            answers.cancel()
            await asyncio.wait([answers])
            return count

    over = asyncio.Event()
    async with taut.serve(answer, "127.0.0.1", 0, reuse_port=True) as old:
        uri = f"ws://127.0.0.1:{old.port}/"
        clients = [asyncio.create_task(load(name, uri)) for name in range(CLIENTS)]
        await old.wait_for_connections(at_least=CLIENTS)
        async with taut.serve(answer, "127.0.0.1", old.port, reuse_port=True) as new:
            async with asyncio.timeout(WINDOW):
                await asyncio.gather(
                    old.drain(WINDOW, spread=0.5, retry_after=0.3, keep_listening=False),
                    new.wait_for_connections(at_least=CLIENTS),
                )
            over.set()
            sent = await asyncio.gather(*clients)
    assert Counter(ws.close_code for ws in connections) == {1012: CLIENTS, 1000: CLIENTS}
    assert all(served[f"{name} {number}"] for name, count in enumerate(sent) for number in range(count))


async def _take_all(session: taut.Session) -> None:
    async for _ in session:
        pass
