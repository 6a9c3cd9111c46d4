"""A WebSocket connection for threads, as its user sees it.

``BlockingDriver`` moves the messages, and ends the connection; ``Facts`` tells about it; this class adds what does not
run per message and can be interrupted anywhere: streaming, fragmented sends, closing.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from ..connection.deadlines import Deadlines, deadlines_of
from ..connection.facts import Facts
from ..connection.filtering import Filter
from ..connection.fragments import is_whole
from ..drivers.background import Background
from ..drivers.blocking import BlockingDriver
from ..drivers.inbound import Pong
from ..drivers.wires import Wire
from ..errors import ConcurrencyError
from ..protocol.session import Session, valid_close_code
from ..subprotocols import Subprotocol
from ..types import BytesLike, ConnectionOptions, Data

__all__ = ["Connection"]


class Connection(Facts, BlockingDriver):
    """One WebSocket connection. Not created by users: ``taut.sync.connect`` and ``taut.sync.serve`` do.

    Any number of threads may use it: each message is sent whole, and one thread at a time receives. As a context
    manager it is closed at the end.
    """

    def __init__(self, options: ConnectionOptions, logger: logging.Logger) -> None:
        self._begin_facts(options, logger)
        self._sock: socket.socket | None = None
        self._deadlines: Deadlines | None = None
        self.message_filter: Filter | None = None

    @property
    def codec(self) -> Subprotocol[Any] | None:
        """What decodes the messages of this connection, and encodes what is sent; None without."""
        return None if self.message_filter is None else self.message_filter.codec

    def open(self, background: Background, wire: Wire, session: Session, early: bytes) -> None:
        """The opening handshake has succeeded: start moving messages; ``early`` are the first bytes of the peer."""
        self.opened_at = time.monotonic()
        self._sock = wire.sock
        self._begin_log()
        self._deadlines = deadlines_of(self.options, self.opened_at)
        self._attach(wire, session, background.keeper, early)

    def keepalive_tick(self, now: float, slack: float, stalled: float) -> None:
        """The sweep of ``drivers.keepalive`` passes by, in the thread in the background."""
        super().keepalive_tick(now, slack, stalled)
        if self._deadlines is not None:
            passed = self._deadlines.passed(self.session, self.unsent, False, now, stalled)
            if passed is not None:
                self._begin_close(1001, passed)

    def finish(self) -> None:
        """Nobody uses the socket any more; the thread in the background calls this."""
        try:
            if self.session.deflate is not None:
                self.session.deflate.close()
            self._log_close(self._ending_info(), time.monotonic())
        finally:
            super().finish()

    def _has_stream(self) -> bool:
        return not self.is_lost

    def _address(self, name: str) -> Any:
        if self._sock is None or self.is_lost:
            return None
        try:
            return self._sock.getsockname() if name == "sockname" else self._sock.getpeername()
        except OSError:
            return None

    # -- receiving ---------------------------------------------------------------------------------------------

    def recv_streaming(self, decode: bool | None = None, timeout: float | None = None) -> Iterator[Data]:
        """Receive the next message in parts, as they arrive.

        ``decode``: as in ``recv``. ``timeout``: for each part, in seconds. The parts of a Text message are cut on
        character boundaries. Raises ``ConnectionClosed`` at the end, ``ConcurrencyError`` if another thread is
        receiving, ``TimeoutError``: then another ``recv_streaming`` goes on where this one stopped. A reader that stops
        before the end gives up the rest of the message with its next ``recv``.
        """
        final = False
        while not final:
            part, final = self._recv_part(timeout)
            if decode is True and isinstance(part, bytes):
                part = part.decode()
            elif decode is False and isinstance(part, str):
                part = part.encode()
            if part or final:
                yield part

    # -- sending -----------------------------------------------------------------------------------------------

    def _send_slow(self, message: Any, text: bool | None, compress: bool | None, timeout: float) -> None:
        """A message in fragments, or one that has to wait until another has been sent in fragments."""
        _check_message(message)
        limit = _Limit(timeout)
        if self._is_fragmenting:
            raise ConcurrencyError("send")
        try:
            self._begin_fragments(limit.left())
            if is_whole(message):
                self._send_whole(message, text, compress, limit.left(), True)
            else:
                self._send_fragments(message, text, compress, limit)
        finally:
            self._end_fragments()

    def _send_fragments(
        self, message: Iterable[object], text: bool | None, compress: bool | None, limit: _Limit
    ) -> None:
        """Send what an iterable gives as fragments of one message (RFC 6455, 5.4).

        A fragment leaves when the next one is known, so that the last can carry FIN.
        """
        is_text: bool | None = None
        previous: str | BytesLike | None = None
        begun = False
        try:
            for part in message:
                if not is_whole(part):
                    raise TypeError(f"a fragment must be str or bytes-like, not {type(part).__name__}")
                if is_text is None:
                    is_text = isinstance(part, str) if text is None else text
                if previous is not None:
                    if isinstance(part, str) != isinstance(previous, str):
                        raise TypeError("the fragments of a message must be all str or all bytes-like")
                    first, begun = not begun, True
                    try:
                        self._send_fragment(previous, is_text, first, False, compress, limit.left())
                    except TimeoutError:
                        begun = not first  # it was not taken
                        raise
                previous = part
            if previous is not None:
                self._send_fragment(previous, bool(is_text), not begun, True, compress, limit.left())
        except BaseException:
            if begun and not self.closed:
                # What was begun cannot be taken back: the peer is waiting for the rest of this message.
                self._begin_close(1011, "a fragmented message was broken off")
            raise

    # -- pings -------------------------------------------------------------------------------------------------

    def ping(self, data: str | BytesLike | None = None) -> Pong:
        """Send a Ping; ``wait(timeout)`` of what is returned waits for its Pong, and gives the round trip in seconds.

        ``data``: at most 125 bytes, random by default; it must differ from that of every ping still waiting. Raises
        ``ConnectionClosed`` once the connection is closing, as does ``wait`` if it closes before the Pong.
        """
        return self._ping(os.urandom(4) if data is None else _payload(data))

    def pong(self, data: str | BytesLike = b"") -> None:
        """Send an unsolicited Pong (RFC 6455, 5.5.3); Pings are answered without it. ``data``: at most 125 bytes."""
        self._pong(_payload(data))

    # -- closing -----------------------------------------------------------------------------------------------

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection and wait until it is closed; at most ``close_timeout`` seconds.

        ``code``: 1000 to 1003, 1007 to 1014 or 3000 to 4999, else ValueError. ``reason``: cut at 123 bytes of UTF-8.
        Does nothing when the connection is closed already. A wait that is interrupted does not undo it.
        """
        self.begin_close(code, reason)
        self.wait_closed()

    def begin_close(self, code: int = 1000, reason: str = "") -> None:
        """Begin to close the connection, as ``close`` does, and do not wait for the end."""
        if not valid_close_code(code):
            raise ValueError(f"close code must be 1000-1003, 1007-1014 or 3000-4999, not {code}")
        if self.opened_at:
            self._begin_close(code, reason)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


class _Limit:
    """The time for a call that has several parts, given in seconds, -1 for no limit, as the driver has it."""

    def __init__(self, timeout: float) -> None:
        self._deadline = None if timeout < 0 else time.monotonic() + timeout

    def left(self) -> float:
        """What is left of it."""
        return -1.0 if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)


def _payload(data: str | BytesLike) -> bytes:
    return data.encode() if isinstance(data, str) else bytes(data)


def _check_message(message: object) -> None:
    if isinstance(message, Mapping):
        raise TypeError("a message must not be a mapping: iterating over it would send its keys")
    if not isinstance(message, Iterable):
        raise TypeError(f"a message must be str, bytes-like, or an iterable of these, not {type(message).__name__}")
