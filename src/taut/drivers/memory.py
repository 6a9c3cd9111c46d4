"""A pair of connected transports in memory: a network of two, without sockets, for tests and for programs within one.

Each direction is what a socket pair would be: a pipe of limited ``capacity`` that the sender fills and the receiver
empties.  What does not fit stays with the sender and counts as unsent, so that backpressure is real: ``pause_writing``
and ``resume_writing`` are called as on a socket whose peer reads slowly.  Bytes travel only in turns of the loop
(``call_soon``); a write never runs the peer's code, however deep in a callback it is made.

Life of each end: open -> closing (no more reads; what is unsent still leaves) -> ended (``connection_lost`` is due).
What an end had put into the pipe before it ended still arrives, and then its peer sees the end of the stream.
"""

from __future__ import annotations

import asyncio
import warnings
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, cast

from ..types import BytesLike

__all__ = ["CAPACITY", "MemoryTransport", "check_capacity", "connect_in_memory"]

CAPACITY = 1 << 16
"""What each direction of a connection holds on its way, unless it is told otherwise (bytes)."""
_HIGH_WATER = 1 << 16
_READ_SIZE = 1 << 18


class MemoryTransport(asyncio.Transport):
    """One end of a pair that ``connect_in_memory`` makes, with the interface of asyncio's transports."""

    def __init__(self, loop: asyncio.AbstractEventLoop, capacity: int, extra: Mapping[str, Any]) -> None:
        super().__init__(extra)
        self._loop = loop
        self._capacity = capacity
        self._protocol: asyncio.BaseProtocol | None = None
        self._peer: MemoryTransport = self
        # Arrived, and not yet read by the protocol.
        self._inbound: deque[bytes] = deque()
        self._inbound_size = 0
        self._inbound_eof = False
        self._reading = True
        self._delivering = False
        # Written, and not yet in the pipe.
        self._unsent: deque[bytes] = deque()
        self._unsent_size = 0
        self._eof_written = False
        self._eof_sent = False
        self._high, self._low = _HIGH_WATER, _HIGH_WATER // 4
        self._pressed = False
        self._closing = False
        self._ended = False

    def attach(self, protocol: asyncio.BaseProtocol, peer: MemoryTransport) -> None:
        """Say who is served, and which is the other end; for ``connect_in_memory``."""
        self._protocol, self._peer = protocol, peer

    def __repr__(self) -> str:
        state = "ended" if self._ended else "closing" if self._closing else "open"
        return f"<MemoryTransport {state} unread={self._inbound_size} unsent={self._unsent_size}>"

    def __del__(self) -> None:
        if not self._ended and self._peer is not self:
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, stacklevel=2, source=self)

    # -- reading -----------------------------------------------------------------------------------------------

    def is_reading(self) -> bool:
        return self._reading

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        if not self._closing:
            self._reading = True
            self._schedule()

    def _schedule(self) -> None:
        """Deliver in the next turn of the loop, if there is something and it is wanted."""
        if self._reading and not self._delivering and (self._inbound or self._inbound_eof):
            self._delivering = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        self._delivering = False
        if not self._reading:
            return  # paused or closed meanwhile
        try:
            if self._inbound:
                self._hand_over()
            else:
                self._reading = self._inbound_eof = False
                if not cast(asyncio.Protocol, self._protocol).eof_received():
                    self.close()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:
            self._fatal(exc)
        self._peer._flow()
        self._schedule()

    def _hand_over(self) -> None:
        """Give the protocol what one read of a socket would."""
        if isinstance(self._protocol, asyncio.BufferedProtocol):
            buffer = memoryview(self._protocol.get_buffer(-1)).cast("B")
            data = self._take(len(buffer))
            buffer[: len(data)] = data
            self._protocol.buffer_updated(len(data))
        else:
            cast(asyncio.Protocol, self._protocol).data_received(self._take(_READ_SIZE))

    def _take(self, size: int) -> bytes:
        pieces: list[bytes] = []
        while self._inbound and size:
            piece = self._inbound.popleft()
            if len(piece) > size:
                self._inbound.appendleft(piece[size:])
                piece = piece[:size]
            pieces.append(piece)
            size -= len(piece)
        data = b"".join(pieces)
        self._inbound_size -= len(data)
        return data

    # -- writing -----------------------------------------------------------------------------------------------

    def write(self, data: BytesLike) -> None:
        """Send bytes; what does not fit into the pipe is kept until the peer has read. They are copied."""
        piece = bytes(memoryview(data))
        if self._eof_written:
            raise RuntimeError("write() after write_eof()")
        if self._ended or not piece:
            return
        self._unsent.append(piece)
        self._unsent_size += len(piece)
        self._flow()

    def writelines(self, list_of_data: Iterable[BytesLike]) -> None:
        """Send the concatenation of these."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """End this direction once everything has left; the peer may still send."""
        if not self._eof_written and not self._ended:
            self._eof_written = True
            self._flow()

    def _flow(self) -> None:
        """Move what is unsent into the pipe, as far as it goes."""
        if self._ended:
            return
        peer = self._peer
        if peer._ended:
            self._peer_is_gone()
            return
        while self._unsent and peer._inbound_size < peer._capacity:
            piece = self._unsent.popleft()
            room = peer._capacity - peer._inbound_size
            if len(piece) > room:
                self._unsent.appendleft(piece[room:])
                piece = piece[:room]
            self._unsent_size -= len(piece)
            peer._inbound.append(piece)
            peer._inbound_size += len(piece)
        if not self._unsent:
            if self._eof_written and not self._eof_sent:
                self._send_eof()
            if self._closing:
                self._end(None)
        peer._schedule()
        self._watch_pressure()

    def _send_eof(self) -> None:
        self._eof_sent = self._peer._inbound_eof = True

    def _peer_is_gone(self) -> None:
        """Nobody will read what is written now. What the peer sent before is still received first."""
        unsent, self._unsent_size = self._unsent_size, 0
        self._unsent.clear()
        if unsent and not self._inbound:
            self._end(BrokenPipeError("the peer's end is closed"))
        elif self._closing:
            self._end(None)
        else:
            self._watch_pressure()

    def _watch_pressure(self) -> None:
        if self._protocol is None:
            return
        if not self._pressed and self._unsent_size > self._high:
            self._pressed = True
            self._protocol.pause_writing()
        elif self._pressed and self._unsent_size <= self._low:
            self._pressed = False
            self._protocol.resume_writing()

    def get_write_buffer_size(self) -> int:
        """The bytes that were written and do not fit into the pipe yet."""
        return self._unsent_size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = _HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high}) must be at least low ({low}), and that at least 0")
        self._high, self._low = high, low
        self._watch_pressure()

    # -- the end -----------------------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """Stop reading, send what is left, then end."""
        if not self._closing:
            self._closing = True
            self._reading = False
            self._flow()

    def abort(self) -> None:
        """End now; what is not in the pipe yet is dropped."""
        self._end(None)

    def _fatal(self, exc: BaseException) -> None:
        self._loop.call_exception_handler(
            {
                "message": "a callback of the protocol failed",
                "exception": exc,
                "transport": self,
                "protocol": self._protocol,
            }
        )
        self._end(exc)

    def _end(self, exc: BaseException | None) -> None:
        if self._ended:
            return
        self._ended = self._closing = True
        self._reading = False
        self._unsent.clear()
        self._unsent_size = 0
        self._inbound.clear()
        self._inbound_size = 0
        if not self._eof_sent:
            self._send_eof()
        self._loop.call_soon(self._lost, exc)

    def _lost(self, exc: BaseException | None) -> None:
        self._peer._schedule()
        self._peer._flow()
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(cast("Exception | None", exc))

    # -- who is served -----------------------------------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return cast(asyncio.BaseProtocol, self._protocol)


def check_capacity(capacity: object) -> int:
    """``capacity`` if it is a number of bytes; else TypeError or ValueError."""
    problem = f"capacity must be a number of bytes, at least 1, not {capacity!r}"
    if isinstance(capacity, bool) or not isinstance(capacity, int):
        raise TypeError(problem)
    if capacity < 1:
        raise ValueError(problem)
    return capacity


def connect_in_memory(
    loop: asyncio.AbstractEventLoop,
    first: asyncio.BaseProtocol,
    second: asyncio.BaseProtocol,
    *,
    capacity: int = CAPACITY,
    first_extra: Mapping[str, Any] | None = None,
    second_extra: Mapping[str, Any] | None = None,
) -> tuple[MemoryTransport, MemoryTransport]:
    """Connect two protocols with each other, and return their transports.

    ``capacity``: bytes that each direction holds on their way. ``first_extra``, ``second_extra``: what
    ``get_extra_info`` of each transport knows. ``connection_made`` of ``first`` is called before that of ``second``,
    both before this returns.
    """
    check_capacity(capacity)
    ends = (
        MemoryTransport(loop, capacity, dict(first_extra or {})),
        MemoryTransport(loop, capacity, dict(second_extra or {})),
    )
    ends[0].attach(first, ends[1])
    ends[1].attach(second, ends[0])
    first.connection_made(ends[0])
    second.connection_made(ends[1])
    return ends
