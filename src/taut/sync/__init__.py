"""taut for programs that block: ``connect`` and ``serve`` for threads, over the same protocol core.

Names and meaning are those of the asyncio API, and of ``websockets.sync``. Every call may be given a ``timeout``, any
thread may use a connection at any time, and what keeps a connection alive goes on while no call is in progress.
"""

from __future__ import annotations

from ..drivers.inbound import Pong
from .connect import ClientConnection, connect, unix_connect
from .connection import Connection
from .server import Server, ServerConnection, serve, unix_serve

__all__ = [
    "ClientConnection",
    "Connection",
    "Pong",
    "Server",
    "ServerConnection",
    "connect",
    "serve",
    "unix_connect",
    "unix_serve",
]
