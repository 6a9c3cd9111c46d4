"""A WebSocket connection as its user sees it: what a handler is given, and what ``connect`` returns.

``StreamDriver`` moves the messages, ``Facts`` tells about the connection; this class adds everything else that does not
run per message: pings, closing, waiting for the end, streaming, fragmented sends.

The end has one order, whoever starts it.  ``_ending`` is called whenever the session may have left its open state, and
does what is due: the Close frame that waited for unread messages, or the patience that it needs; then, once both Close
frames have been exchanged or the connection was failed, the end of the byte stream, which a server closes first
(RFC 6455, 7.1.1).  ``_lost`` is called once, when the byte stream is gone, and wakes whoever still waits.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, cast

from ..drivers.keepalive import unwatch, watch
from ..drivers.outbox import Entry
from ..drivers.stream import StreamDriver
from ..errors import closed_error
from ..options import check_compression, checked_options
from ..protocol.inbox import Fragment
from ..protocol.session import Session, cut_reason, valid_close_code
from ..subprotocols import Subprotocol
from ..types import BytesLike, ConnectionOptions, Data, Opcode, Request, Response
from .deadlines import Deadlines, deadlines_of
from .facts import FACTS, Facts
from .fragments import Fragments, is_sendable, send_fragments
from .stalls import Stall
from .watching import Watcher

__all__ = ["Connection"]

_LINGER = 1.0
"""How long a failed connection stays for its peer to read the Close frame (seconds)."""
_GRACE = 1.0
"""How long unread messages may hold back the answer to a Close frame once the handler is busy elsewhere (seconds)."""


class Connection(Facts, StreamDriver, asyncio.BufferedProtocol):
    """One WebSocket connection. Not created by users: ``taut.connect`` and ``taut.serve`` do."""

    __slots__ = (
        *FACTS,
        "_closed_future",
        "_deadlines",
        "_drain_futures",
        "_end_timer",
        "_ended",
        "_patience",
        "_pong_futures",
        "_stall",
        "watcher",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, options: ConnectionOptions, logger: logging.Logger) -> None:
        StreamDriver.__init__(self, loop)
        self._begin_facts(options, logger)
        self._closed_future: asyncio.Future[None] | None = None
        self._drain_futures: list[asyncio.Future[None]] | None = None
        self._pong_futures: dict[bytes, asyncio.Future[float]] | None = None
        self._end_timer: asyncio.TimerHandle | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._ended = False
        self._deadlines: Deadlines | None = None
        self._stall: Stall | None = None  # since there was more to send than the peer took
        self.watcher: Watcher | None = None  # where somebody wants to know of every step

    def open(self, transport: asyncio.Transport, session: Session, on_message: Any = None) -> None:
        """The opening handshake has succeeded: start moving messages."""
        self.opened_at = time.monotonic()
        self._deadlines = deadlines_of(self.options, self.opened_at)
        self.attach(transport, session, on_message)
        self._begin_log()
        if self.watcher is not None:
            self.watcher.opened(session)
        watch(self.loop, self, self.options)

    def record_handshake(self, request: Request, response: Response | None = None) -> None:
        """What has been exchanged in the opening handshake so far."""
        super().record_handshake(request, response)
        if self.watcher is not None:
            self.watcher.handshake(request, response)

    def _has_stream(self) -> bool:
        return self.transport is not None

    def _address(self, name: str) -> Any:
        return None if self.transport is None else self.transport.get_extra_info(name)

    @property
    def codec(self) -> Subprotocol[Any] | None:
        """What decodes the messages of this connection, and encodes what is sent; None without."""
        return None if self.message_filter is None else self.message_filter.codec

    def _taking(self, on_message: Callable[[Any, Any], object]) -> Callable[[Any, Any], object]:
        """What a driver has to call so that ``on_message`` is called with what a handler would receive."""
        return on_message

    def _outbox_counts(self) -> tuple[int, int, int, int, int, int]:
        box = self.outbox
        if box is None:
            return super()._outbox_counts()
        return (
            box.waiting,
            box.dropped_oldest,
            box.dropped_newest,
            box.dropped_at_end,
            box.bytes_dropped,
            box.conflated,
        )

    # -- receiving ---------------------------------------------------------------------------------------------

    async def _recv_decoded(self, decode: bool) -> Data:
        message: Data = await self.recv()
        if decode:
            return message if isinstance(message, str) else message.decode()
        return message.encode() if isinstance(message, str) else message

    async def _recv_part(self) -> tuple[Data, bool]:
        self._take_parts(True)
        try:
            part = cast("Data | Fragment", await super().recv())
        finally:
            self._take_parts(False)
        return (part.data, part.final) if isinstance(part, Fragment) else (part, True)

    async def recv_streaming(self, decode: bool | None = None) -> AsyncIterator[Data]:
        """Receive the next message in parts, as they arrive.

        ``decode``: as in ``recv``. The parts of a Text message are cut on character boundaries. Raises
        ``ConnectionClosed`` at the end, ``ConcurrencyError`` if another task is receiving. A reader that stops before
        the end gives up the rest of the message.
        """
        final = False
        while not final:
            self.session.stream()
            part, final = await self._recv_part()
            if decode is True and isinstance(part, bytes):
                part = part.decode()
            elif decode is False and isinstance(part, str):
                part = part.encode()
            if part or final:
                yield part

    # -- sending -----------------------------------------------------------------------------------------------

    async def _send_slow(self, message: object, text: bool | None, compress: bool | None, urgent: bool) -> None:
        """A message in fragments, in its turn; or anything on a connection that is closing."""
        if isinstance(message, Mapping):
            raise TypeError("a message must not be a mapping: iterating over it would send its keys")
        if not is_sendable(message):
            kind = type(message).__name__
            raise TypeError(f"a message must be str, bytes-like, or an iterable or async iterable of these, not {kind}")
        await self._refuse_if_closing()
        await self.take_turn(urgent)
        try:
            await self._refuse_if_closing()
            await send_fragments(self, cast(Fragments, message), text, compress)
        finally:
            self.end_turn()
        if self._is_behind:
            await self._drain()

    async def take_turn(self, urgent: bool = False) -> None:
        """Wait until what was sent before has left; nobody else sends a message until ``end_turn``."""
        turn = self._ask_turn(urgent)
        if turn is not None:
            try:
                await turn
            except BaseException:
                self._give_back_turn(turn)
                raise

    async def _refuse_if_closing(self) -> None:
        if self.session.phase_name in ("CLOSE_SENT", "CLOSED"):
            await self.wait_closed()
            raise closed_error(self._ending_info())

    async def drain(self) -> None:
        """Wait until nothing waits in the outbox and at most ``write_limit`` bytes are unsent.

        For those who use ``send_nowait``. Raises ``ConnectionClosed`` if the connection is lost meanwhile.
        """
        if self._is_behind:
            await self._drain()

    async def make_room(self) -> None:
        """Wait while more than ``write_limit`` bytes are unsent: for the fragments of a message."""
        while self.write_paused and not self.closed:
            await self._change()
        if self.closed:
            raise closed_error(self._ending_info())

    def break_off(self) -> None:
        """A fragmented message cannot be completed: the peer waits for the rest of it, and nothing else can be sent."""
        if not self.closed:
            self._start_close(1011, "a fragmented message was broken off")

    async def _drain(self, entry: Entry | None = None) -> None:
        while self._is_behind and not self.closed:
            await self._change()
        if self.closed or (entry is not None and entry.lost):
            raise closed_error(self._ending_info())

    async def _change(self) -> None:
        """Wait until the transport takes more, or the connection is lost."""
        future = self.loop.create_future()
        if self._drain_futures is None:
            self._drain_futures = []
        self._drain_futures.append(future)
        await future

    def _writable(self) -> None:
        futures, self._drain_futures = self._drain_futures, None
        for future in futures or ():
            if not future.done():
                future.set_result(None)

    # -- stalls ------------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """The transport is over its limit."""
        super().pause_writing()
        if self._stall is None:
            self._stall = Stall()
        self._stall.begin(self.unsent, time.monotonic())

    def resume_writing(self) -> None:
        """The transport takes more."""
        if self._stall is not None:  # before what waits is sent: now there is the most of it
            self._stall.end(self.unsent, time.monotonic())
        super().resume_writing()

    def _stalls(self) -> tuple[int, float]:
        return (0, 0.0) if self._stall is None else self._stall.so_far(self.unsent, time.monotonic())

    # -- pings -------------------------------------------------------------------------------------------------

    async def ping(self, data: str | BytesLike | None = None) -> Awaitable[float]:
        """Send a Ping; the awaitable that is returned gives the round trip in seconds once its Pong is here.

        ``data``: at most 125 bytes, random by default; it must differ from that of every ping still waiting. Raises
        ``ConnectionClosed`` once the connection is closing, as does the awaitable if it closes before the Pong.
        """
        payload = os.urandom(4) if data is None else data.encode() if isinstance(data, str) else bytes(data)
        self.session.ping(payload, time.monotonic())
        future: asyncio.Future[float] = self.loop.create_future()
        if self._pong_futures is None:
            self._pong_futures = {}
        self._pong_futures[payload] = future
        self.flush_output()
        await self.make_room()
        return future

    async def pong(self, data: str | BytesLike = b"") -> None:
        """Send an unsolicited Pong (RFC 6455, 5.5.3); Pings are answered without it. ``data``: at most 125 bytes."""
        self.session.pong(data.encode() if isinstance(data, str) else bytes(data))
        self.flush_output()
        await self.make_room()

    def _control_events(self, events: list[tuple[int, bytes, float]]) -> None:
        for opcode, payload, round_trip in events:
            if opcode == Opcode.PONG and self._pong_futures is not None:
                future = self._pong_futures.pop(payload, None)
                if future is not None and not future.done():
                    future.set_result(round_trip)

    def keepalive_tick(self, now: float, slack: float, stalled: float) -> None:
        """The sweep of ``drivers.keepalive`` passes by."""
        self.session.tick(now, slack, self.read_paused, stalled)
        self.flush_output()
        if self._deadlines is not None:
            passed = self._deadlines.passed(self.session, self.unsent, self.read_paused, now, stalled)
            if passed is not None:
                self._start_close(1001, passed)
        if self.session.phase_name == "CLOSED":
            self.abort()  # given up; there is no point in waiting for a peer that does not answer

    # -- options -----------------------------------------------------------------------------------------------

    def set_options(self, *, compression: bool | None = None, **options: Any) -> None:
        """Change options of this connection while it is open, from the next frame in each direction on.

        ``options``: those of ``ConnectionOptions``; the others stay as they are. ``compression``: whether messages are
        compressed from now on that are sent without ``compress``. Raises ``TypeError`` or ``ValueError`` for a wrong
        one, with nothing changed, and where compression was not negotiated. Does nothing once the connection is lost;
        ``RuntimeError`` before it is open.
        """
        if self._session_or_none() is None:
            raise RuntimeError("the connection is not open yet")
        adopted = replace(self.options, **checked_options(options, "compression"))
        check_compression(compression, self.session.deflate)
        if self.closed:
            return
        now = time.monotonic()
        if compression is not None and self.session.deflate is not None:
            self.session.deflate.enable(compression)
        unwatch(self.loop, self, self.options)
        self.options = adopted
        self._adopt_options(adopted, now)
        self._deadlines = deadlines_of(adopted, self.opened_at, now, self._deadlines)
        if not self._ended:
            watch(self.loop, self, adopted)

    # -- closing -----------------------------------------------------------------------------------------------

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection and wait until it is closed; at most ``close_timeout`` seconds.

        ``code``: 1000 to 1003, 1007 to 1014 or 3000 to 4999, else ValueError. ``reason``: cut at 123 bytes of UTF-8.
        Does nothing when the connection is closed already. Cancelling the wait does not undo it.
        """
        if not valid_close_code(code):
            raise ValueError(f"close code must be 1000-1003, 1007-1014 or 3000-4999, not {code}")
        self._start_close(code, reason)
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Wait until the connection is closed, whoever closes it. Nothing needs to be received for it."""
        if self.closed:
            return
        if self._closed_future is None:
            self._closed_future = self.loop.create_future()
        await asyncio.shield(self._closed_future)

    def _start_close(self, code: int = 1000, reason: str = "") -> None:
        """Send a Close frame, unless one has been sent, and see to it that the connection ends in time."""
        if self.closed:
            return
        self.session.close(code, cut_reason(reason))
        self.flush_output()
        if self.session.phase_name == "CLOSE_SENT":
            self._end_within(self.options.close_timeout)
            self._keep_reading()
        self._ending()

    def abort(self) -> None:
        """Drop the connection without a closing handshake; the peer sees 1006."""
        if self.transport is not None:
            if self.opened_at:
                self.session.give_up()
            self.transport.abort()

    def eof_received(self) -> bool:
        """The peer will send nothing more: answer a Close frame that waits for unread messages, and end in time."""
        self.session.drained()
        self.flush_output()
        self._end_within(_LINGER if self.options.close_timeout is None else self.options.close_timeout)
        return False

    def _ending(self) -> None:
        session, transport = self.session, self.transport
        if transport is None:
            return
        match session.phase_name:
            case "CLOSE_RECEIVED" | "FAILING":
                if self._patience is None:
                    patience = _GRACE if self.options.close_timeout is None else min(_GRACE, self.options.close_timeout)
                    self._patience = self.loop.call_later(patience, self._end_patience)
            case "CLOSED":
                self._end_stream(transport)
            case _:
                pass

    def _end_patience(self) -> None:
        """The handler is busy elsewhere: answer the Close frame without waiting for it any longer."""
        self._patience = None
        self.session.drained()
        self.flush_output()
        self._ending()

    def _end_stream(self, transport: asyncio.Transport) -> None:
        """Both Close frames were exchanged, or the connection was failed: end the byte stream."""
        if transport.is_closing() or self._ended:
            return
        self._ended = True
        unwatch(self.loop, self, self.options)
        if self.session.close_received is None:
            # Closing with unread input resets the connection, and the peer may lose the Close frame: let it read
            # first (RFC 6455, 7.1.1).
            self._end_within(_LINGER)
            if transport.can_write_eof():
                transport.write_eof()
            self._keep_reading()
        else:
            self._end_within(self.options.close_timeout)
            self._read_to_end()  # with TLS, the end is an exchange in both directions
            if not self.session.is_client:
                transport.close()

    def _end_within(self, seconds: float | None) -> None:
        """Drop the connection after that time at the latest; an earlier deadline stands."""
        if seconds is None:
            return
        if self._end_timer is not None:
            if self._end_timer.when() <= self.loop.time() + seconds:
                return
            self._end_timer.cancel()
        self._end_timer = self.loop.call_later(seconds, self.abort)

    def _forget_timers(self) -> None:
        for timer in (self._end_timer, self._patience):
            if timer is not None:
                timer.cancel()
        self._end_timer = self._patience = None

    def _lost(self, exc: BaseException | None) -> None:
        """The byte stream is gone: tell everyone who waits."""
        self._forget_timers()
        unwatch(self.loop, self, self.options)
        if self._stall is not None:
            self._stall.end(self.unsent, time.monotonic())
        self.transport = None
        self._writable()
        if self.session.deflate is not None:
            self.session.deflate.close()
        info = self._ending_info()
        pongs, self._pong_futures = self._pong_futures, None
        for future in (pongs or {}).values():
            if not future.done():
                future.set_exception(closed_error(info))
                future.exception()  # whoever awaits it is told; nobody has to
        if self._closed_future is not None and not self._closed_future.done():
            self._closed_future.set_result(None)
        self._log_close(info, time.monotonic())
        if self.watcher is not None:
            self.watcher.lost(info)
