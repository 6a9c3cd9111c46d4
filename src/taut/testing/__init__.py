"""What programs need to test their own handlers: a server and its clients in memory.

``connected`` gives one client of one handler; ``memory_serve`` and ``memory_connect`` are the counterparts of ``serve``
and ``connect`` where a test needs several clients, or the server itself.  Everything but the network is real: both
opening handshakes, frames, compression, backpressure, keepalive.
"""

from __future__ import annotations

from .memory import MemoryServer, connected, memory_connect, memory_serve

__all__ = ["MemoryServer", "connected", "memory_connect", "memory_serve"]
