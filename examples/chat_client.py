"""A chat client: what is typed goes to the room, also while the line is down; what others say is printed.

usage: chat_client.py [URI]    (ws://127.0.0.1:8765/ by default, the server is chat_server.py; Ctrl-D ends it)
"""

from __future__ import annotations

import asyncio
import sys
import threading

import taut


def read_lines(loop: asyncio.AbstractEventLoop, lines: asyncio.Queue[str | None]) -> None:
    """Runs in a thread, because a terminal, a pipe and a file must all work."""
    for line in sys.stdin:
        loop.call_soon_threadsafe(lines.put_nowait, line.rstrip("\n"))
    loop.call_soon_threadsafe(lines.put_nowait, None)


async def say(session: taut.Session, lines: asyncio.Queue[str | None]) -> None:
    while (line := await lines.get()) is not None:
        await session.send(line)  # queued while there is no connection
    await session.drain()
    await session.close()


def state(old: taut.SessionState, new: taut.SessionState) -> None:
    print(f"-- {new.name.lower().replace('_', ' ')}", file=sys.stderr, flush=True)


def lost(loss: taut.Loss) -> None:
    print(f"-- {loss.count} messages may not have arrived ({loss.kind})", file=sys.stderr, flush=True)


async def main(uri: str) -> int:
    lines: asyncio.Queue[str | None] = asyncio.Queue()
    session = taut.Session(uri, on_state=state, on_lost=lost, queue=taut.OfflineQueue(max_messages=100))
    try:
        async with session:
            threading.Thread(target=read_lines, args=(asyncio.get_running_loop(), lines), daemon=True).start()
            saying = asyncio.create_task(say(session, lines))
            try:
                async for message in session:
                    print(message, flush=True)
            finally:
                saying.cancel()
    except taut.ConnectError as exc:
        print(f"cannot connect to {uri}: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "ws://127.0.0.1:8765/")))
    except KeyboardInterrupt:
        sys.exit(130)
