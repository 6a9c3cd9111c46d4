"""``Watcher``: tells the ``Events`` of a user what happens on one connection.

The session notes frames natively, in the middle of reading or sending, where no code of a user's may run: it asks for a
turn of the loop with the first note, and the notes are told in that turn, or with the end of the connection.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from ..events import Events, Frame
from ..protocol.http1 import encode_request
from ..protocol.session import Session
from ..types import CloseInfo, Opcode, Request, Response

__all__ = ["Watcher", "check_events"]

_FIN, _RSV1, _OPCODE = 0x80, 0x40, 0x0F
_OF_FRAMES = ("on_frame_received", "on_frame_sent", "on_message_received", "on_message_sent")


def check_events(value: object) -> tuple[Events, ...]:
    """Those who are told, none for None. Raises ``TypeError`` for what is no ``Events``, nor a sequence of them."""
    if value is None or isinstance(value, Events):
        return () if value is None else (value,)
    given = cast("Sequence[object]", value) if isinstance(value, list | tuple) else (value,)
    for each in given:
        if not isinstance(each, Events):
            raise TypeError(f"events must be an instance of a subclass of taut.Events, or some, or None, not {each!r}")
    return cast("tuple[Events, ...]", tuple(given))


def _has_own(events: Events, name: str) -> bool:
    """Whether there is more to a callback than the empty one of ``Events``."""
    return getattr(getattr(events, name), "__func__", None) is not getattr(Events, name)


class Watcher:
    """What a connection that is watched has beside itself."""

    __slots__ = ("_connection", "_dialled_at", "_events", "_logger", "_loop", "_messages", "_session")

    def __init__(
        self, events: tuple[Events, ...], connection: Any, loop: asyncio.AbstractEventLoop, logger: logging.Logger
    ) -> None:
        self._events = events
        self._connection = connection
        self._loop = loop
        self._logger = logger
        self._session: Session | None = None
        self._dialled_at = 0.0
        self._messages: list[Frame | None] = [None, None]  # what has been received, and sent, of an unfinished message

    def tell(self, name: str, *values: Any) -> None:
        """Call back."""
        for events in self._events:
            try:
                getattr(events, name)(self._connection, *values)
            except Exception as exc:
                self._logger.error("%s of %s failed", name, type(events).__name__, exc_info=exc)

    def connecting(self, request: Request) -> None:
        """A client has made its request; what cannot be sent of that which is added is taken out again."""
        headers = request.headers.copy()
        self.tell("on_connecting", request)
        try:
            encode_request(request)
        except (ValueError, TypeError, AttributeError) as exc:
            self._logger.error("the request cannot be sent as on_connecting has changed it", exc_info=exc)
            request.headers = headers

    def dialled(self, address: str, elapsed: float) -> None:
        """A client has reached an address."""
        self._dialled_at = time.monotonic()
        self.tell("on_dialled", address, elapsed)

    def connected(self, *, secure: bool) -> None:
        """A client has a byte stream, after a TLS handshake if it is ``secure``."""
        if secure:
            self.tell("on_tls", time.monotonic() - self._dialled_at)

    def handshake(self, request: Request, response: Response | None) -> None:
        """The request is there, or the response that opens the connection."""
        if response is None:
            self.tell("on_request", request)
        else:
            self.tell("on_response", response)

    def opened(self, session: Session) -> None:
        """The connection is open: from now on there are frames."""
        self._session = session
        if any(_has_own(each, name) for each in self._events for name in _OF_FRAMES):
            session.observe_frames(self._ask)
        self.tell("on_open")

    def lost(self, info: CloseInfo) -> None:
        """The connection is gone."""
        self._tell_frames()
        if self._session is not None:
            self._session.observe_frames(None)
        self.tell("on_close", info)

    def _ask(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon(self._tell_frames)

    def _tell_frames(self) -> None:
        if self._session is None:
            return
        for sent, first, length, payload in self._session.take_frames():
            frame = Frame(Opcode(first & _OPCODE), bool(first & _FIN), bool(first & _RSV1), length, payload)
            self.tell("on_frame_sent" if sent else "on_frame_received", frame)
            if payload is None:
                self._tell_message(sent, frame)

    def _tell_message(self, sent: bool, frame: Frame) -> None:
        before = self._messages[sent]
        if before is not None:
            # Only the first frame says what the message is, and whether it is compressed (RFC 7692, 6).
            frame = replace(before, fin=frame.fin, length=before.length + frame.length, frames=before.frames + 1)
        self._messages[sent] = None if frame.fin else frame
        if frame.fin:
            self.tell("on_message_sent" if sent else "on_message_received", frame)
