"""A chat: what one says in a room goes to everyone in it. The room is the path: ws://127.0.0.1:8765/kitchen

usage: chat_server.py [PORT]    (8765 by default, 0 for any that is free)

``taut connect ws://127.0.0.1:8765/kitchen`` in two terminals is a conversation.
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict
from contextlib import suppress

import taut

rooms: defaultdict[str, set[taut.ServerConnection]] = defaultdict(set)


async def chat(ws: taut.ServerConnection) -> None:
    assert ws.request is not None  # a handler runs once the opening handshake is done
    name = ws.request.path
    room = rooms[name]
    room.add(ws)
    try:
        taut.broadcast(room, f"{len(room)} here")
        async for message in ws:
            # No member is waited for: one that does not read is given up at its outbox_limit.
            taut.broadcast(room, message)
    except taut.ConnectionClosedError:
        pass  # who leaves without a word has left all the same
    finally:
        room.discard(ws)
        if not room:
            rooms.pop(name, None)


async def main(port: int) -> None:
    async with taut.serve(chat, "127.0.0.1", port, max_size=4096, outbox_limit=1 << 20) as server:
        host, port = server.sockets[0].getsockname()
        print(f"listening on ws://{host}:{port}/", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 8765))
