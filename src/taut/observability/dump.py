"""A look at a server that runs: one line for each connection, now or whenever a signal comes.

Every line is about what is stuck where: bytes that nobody takes, a handler that waits for something else.  The text is
bounded, has no query of an address, which may hold secrets, and nothing of messages.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal as signals
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, cast

from taut import Server, ServerConnection

__all__ = ["dump_connections", "dump_on_signal"]

_FRAMES = 4
"""How many frames of a handler are shown: the outermost, and the innermost ones."""


def dump_connections(server: Server, *, limit: int | None = 1000) -> str:
    """What a server is doing: a line about itself, then one for each connection, oldest first.

    ``limit`` (1000): of the connections that are shown, None for all. To be called in the thread of the event loop.
    Raises ``TypeError`` or ``ValueError`` for a wrong argument.
    """
    _check(server, limit)
    now = time.monotonic()
    connections = sorted(server.connections_open, key=lambda connection: connection.opened_at)
    shown = connections if limit is None else connections[:limit]
    lines = [_server_line(server, len(connections)), *(_line(connection, now) for connection in shown)]
    if len(shown) < len(connections):
        lines.append(f"... and {len(connections) - len(shown)} more")
    return "\n".join(lines) + "\n"


def _check(server: object, limit: object) -> None:
    if not isinstance(server, Server):
        raise TypeError(f"server must be a taut.Server, not {server!r}")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool)):
        raise TypeError(f"limit must be an int or None, not {limit!r}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit!r}")


def _server_line(server: Server, connections: int) -> str:
    state = "ready" if server.ready else "not ready"
    return f"taut server in process {os.getpid()}: {state}, {connections} connections, {server.handshakes} handshakes"


def _line(connection: ServerConnection, now: float) -> str:
    stats, fields = connection.stats, connection.log_fields()
    path = str(fields["path"])
    told = {
        "state": connection.state.name,
        "remote": fields["remote_address"],
        "path": path if len(path) <= 100 else f"{path[:97]}...",
        "route": None if connection.route is None else connection.route.name,
        "age": f"{now - connection.opened_at:.1f}s",
        "received": f"{stats.messages_received}/{stats.bytes_received}B",
        "sent": f"{stats.messages_sent}/{stats.bytes_sent}B",
        "compression": None if stats.compression_ratio is None else f"{stats.compression_ratio:.1f}x",
        "silent": f"{now - connection.session.last_seen:.1f}s",
        "unread": f"{stats.unread}B",
        "unsent": f"{stats.unsent}B",
        "waiting": stats.messages_waiting or None,
        "dropped": stats.messages_dropped or None,
        "stalled": f"{stats.stalled:.1f}s" if stats.stalled else None,
        "latency": f"{connection.latency * 1000:.1f}ms" if connection.latency else None,
        "closing": connection.close_code,
        "handler": _whereabouts(connection.handler_task),
    }
    text = " ".join(f"{name}={value}" for name, value in told.items() if value is not None)
    return f"{fields['connection_id']} {text}"


def _whereabouts(task: asyncio.Task[Any] | None) -> str | None:
    """Where a handler stands: functions and lines, from the handler itself to what it waits for."""
    if task is None:
        return None
    frames: list[str] = []
    waiting: Any = task.get_coro()
    while waiting is not None:  # a task knows of the first one only
        frame, waits_for = _suspended(waiting)
        if frame is None:
            break
        frames.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
        waiting = waits_for
    if len(frames) > _FRAMES:
        frames = [frames[0], "...", *frames[1 - _FRAMES :]]
    return ">".join(frames) or "running"


def _suspended(awaited: Any) -> tuple[FrameType | None, Any]:
    """The frame of a coroutine, generator or asynchronous generator, and what it waits for."""
    for frame, waits_for in (("cr_frame", "cr_await"), ("gi_frame", "gi_yieldfrom"), ("ag_frame", "ag_await")):
        if hasattr(awaited, frame):
            return getattr(awaited, frame), getattr(awaited, waits_for)
    return None, None


def dump_on_signal(
    server: Server, signal: int | None = None, *, limit: int | None = 1000, logger: logging.Logger | None = None
) -> Callable[[], None]:
    """Write ``dump_connections`` to stderr, or to ``logger`` at WARNING, whenever the process gets a signal.

    ``signal``: by default SIGUSR1. ``limit``: as for ``dump_connections``. Returns a function that puts back what the
    signal did before. Nothing is written while the event loop is blocked.

    Raises ``TypeError`` or ``ValueError`` for a wrong argument, ``RuntimeError`` outside the main thread, and where
    there is no SIGUSR1, which is only on Unix.
    """
    _check(server, limit)
    if logger is not None and not isinstance(cast(object, logger), logging.Logger):
        raise TypeError(f"logger must be a logging.Logger or None, not {logger!r}")
    if signal is None:
        if not hasattr(signals, "SIGUSR1"):
            raise RuntimeError("there is no SIGUSR1 on this system, only on Unix: name another signal")
        signal = signals.SIGUSR1
    if not isinstance(cast(object, signal), int) or signal not in signals.valid_signals():
        raise ValueError(f"signal must be a signal, not {signal!r}")
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("signals can be handled only in the main thread")

    def write() -> None:
        text = dump_connections(server, limit=limit)
        if logger is not None:
            logger.warning("%s", text.rstrip("\n"))
        else:
            sys.stderr.write(text)
            sys.stderr.flush()

    # A handler of the signal module, which can be put back; all that it does is to call into the loop.
    def received(number: int, frame: object) -> None:
        if not server.loop.is_closed():
            server.loop.call_soon_threadsafe(write)

    previous = signals.signal(signal, received)

    def undo() -> None:
        # None is a handler that was not set by Python, and cannot be set by it again.
        signals.signal(signal, signals.SIG_DFL if previous is None else previous)

    return undo
