"""A service for `taut serve`: it counts visits by room, and says which worker has counted them.

usage: taut serve service_app:make --factory --app-dir examples --workers 2 --metrics-port 9090

``taut connect ws://127.0.0.1:8765/rooms/kitchen`` is a visit. Change this file, and ``kill -HUP`` the process: those
who are connected are asked to come back, and find the new code.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import taut


@asynccontextmanager
async def make() -> AsyncGenerator[taut.Router]:
    """What a worker serves; around it is the place for what it needs: a database, a task in the background."""
    router = taut.Router()
    visits: Counter[str] = Counter()  # of this worker: whatever workers are to share is kept outside of them
    worker = os.environ.get("TAUT_WORKER", "of its own")

    @router.route("/rooms/{room}")
    async def enter(ws: taut.ServerConnection, room: str) -> None:
        visits[room] += 1
        await ws.send(f"visit {visits[room]} of {room}, worker {worker}")
        async for message in ws:
            await ws.send(message)

    @router.http("/visits")
    def show(ws: taut.ServerConnection, request: taut.Request) -> str:
        return "".join(f"{room} {count}\n" for room, count in sorted(visits.items()))

    yield router
