"""What can be asked of a connection: who is at the other end, where it stands, how it ended, what it has moved."""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, cast

from ..protocol.session import Session
from ..types import CloseInfo, ConnectionOptions, Request, Response, State

__all__ = ["FACTS", "Facts", "Stats", "add_totals"]

FACTS = ("_id", "_peer", "_request", "_response", "logger", "opened_at", "options", "subprotocol")
"""The slots that a class needs to be told about by ``Facts``."""
TOTALS = (
    "messages_received",
    "messages_sent",
    "bytes_received",
    "bytes_sent",
    "dropped_oldest",
    "dropped_newest",
    "dropped_at_end",
    "bytes_dropped",
    "messages_conflated",
    "stalled",
    "bytes_before_deflate",
    "bytes_after_deflate",
    "bytes_before_inflate",
    "bytes_after_inflate",
)
"""What of ``Stats`` only grows, and can be added up over connections."""
_NO_SLOTS: tuple[str, ...] = ()  # beside a driver, which is compiled, no base may have any


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters of one connection: of bytes received, all; of bytes sent, the payload. ``unread``, ``unsent``: now.

    ``messages_confirmed``: how many of the messages sent the peer is known to have received, by a Pong that answers a
    Ping sent after them, or by its answer to our Close frame.

    Of messages that could not leave at once: ``messages_waiting``, now; those that were dropped, ``dropped_oldest`` and
    ``dropped_newest`` by a policy, ``dropped_at_end`` because the connection ended before they had left;
    ``bytes_dropped``; ``messages_conflated``, replaced by a later one of the same key. Every message that was taken, or
    dropped at once, is counted once, here or in ``messages_sent``.

    ``unread_peak``: the most that was unread, 16 bytes a message more. ``unsent_peak``: the most that was unsent, 0 if
    that was never over ``write_limit``; ``stalled``: for how many seconds it was.

    Of messages that were compressed: ``bytes_before_deflate`` and ``bytes_after_deflate``, of those sent;
    ``bytes_before_inflate`` and ``bytes_after_inflate``, of those received.
    """

    messages_received: int
    messages_sent: int
    bytes_received: int
    bytes_sent: int
    unread: int
    unsent: int
    messages_confirmed: int
    messages_waiting: int
    dropped_oldest: int
    dropped_newest: int
    dropped_at_end: int
    bytes_dropped: int
    messages_conflated: int
    unread_peak: int
    unsent_peak: int
    stalled: float
    bytes_before_deflate: int
    bytes_after_deflate: int
    bytes_before_inflate: int
    bytes_after_inflate: int

    @property
    def compression_ratio(self) -> float | None:
        """How many times smaller compression has made the messages it was used for; None if it was used for none."""
        on_the_wire = self.bytes_after_deflate + self.bytes_before_inflate
        return (self.bytes_before_deflate + self.bytes_after_inflate) / on_the_wire if on_the_wire else None

    @property
    def messages_dropped(self) -> int:
        """The messages that were dropped, for whatever reason."""
        return self.dropped_oldest + self.dropped_newest + self.dropped_at_end


class Facts:
    """The part of a connection that only tells; another base of it, the driver, moves the messages."""

    __slots__ = _NO_SLOTS

    if TYPE_CHECKING:

        @property
        def session(self) -> Session: ...
        @property
        def unsent(self) -> int: ...

    def _begin_facts(self, options: ConnectionOptions, logger: logging.Logger) -> None:
        self.options = options
        self.logger = logger
        self.subprotocol: str | None = None
        self.opened_at = 0.0
        self._id: uuid.UUID | None = None
        self._peer: str | None = None  # its address as text, kept only for a log that is written
        self._request: Request | None = None
        self._response: Response | None = None

    def _has_stream(self) -> bool:
        """Whether there is a byte stream, still."""
        raise NotImplementedError

    def _address(self, name: str) -> Any:
        """What the byte stream says of ``name``, "sockname" or "peername"; None without one."""
        raise NotImplementedError

    def _outbox_counts(self) -> tuple[int, int, int, int, int, int]:
        """The last fields of ``Stats``, for those that have an outbox."""
        return 0, 0, 0, 0, 0, 0

    def record_handshake(self, request: Request, response: Response | None = None) -> None:
        """What has been exchanged in the opening handshake so far."""
        self._request, self._response = request, response

    def _session_or_none(self) -> Session | None:
        """There is none before the opening handshake has succeeded; whatever runs later need not ask."""
        return cast("Session | None", self.session)

    @property
    def id(self) -> uuid.UUID:
        """A unique identifier, made when first asked for."""
        if self._id is None:
            self._id = uuid.uuid4()
        return self._id

    def is_named(self, name: uuid.UUID) -> bool:
        """Whether this is its ``id``, which is not made for that."""
        return self._id == name

    @property
    def request(self) -> Request | None:
        """The request of the opening handshake."""
        return self._request

    @property
    def response(self) -> Response | None:
        """The response of the opening handshake."""
        return self._response

    @property
    def local_address(self) -> Any:
        """This side's address, as ``socket.getsockname`` gives it; None once the connection is lost."""
        return self._address("sockname")

    @property
    def remote_address(self) -> Any:
        """The peer's address, as ``socket.getpeername`` gives it; None once the connection is lost."""
        return self._address("peername")

    @property
    def state(self) -> State:
        """CONNECTING, OPEN, CLOSING or CLOSED."""
        if self._session_or_none() is None:
            return State.CONNECTING
        if not self._has_stream():
            return State.CLOSED
        return State.OPEN if self.session.phase_name == "OPEN" else State.CLOSING

    @property
    def closed(self) -> bool:
        """Whether the connection is gone, the byte stream included."""
        return self.state is State.CLOSED

    @property
    def close_info(self) -> CloseInfo | None:
        """How the connection ended: initiator, code, reason, clean, cause. None until that is decided.

        It is decided with the closing handshake, a moment before the byte stream is gone (``closed``).
        """
        session = self._session_or_none()
        return None if session is None or session.phase_name != "CLOSED" else session.close_info

    @property
    def close_code(self) -> int | None:
        """The code of ``close_info``."""
        return None if (info := self.close_info) is None else info.code

    @property
    def close_reason(self) -> str | None:
        """The reason of ``close_info``."""
        return None if (info := self.close_info) is None else info.reason

    @property
    def latency(self) -> float:
        """The last round trip measured by a ping (seconds), 0 before the first."""
        return 0.0 if (session := self._session_or_none()) is None else session.latency

    @property
    def stats(self) -> Stats:
        """Counters of messages and bytes each way."""
        s = self.session
        deflate = s.deflate
        return Stats(
            s.messages_received,
            s.messages_sent,
            s.bytes_received,
            s.bytes_sent,
            s.unread,
            self.unsent if self._has_stream() else 0,
            s.messages_confirmed,
            *self._outbox_counts(),
            s.unread_peak,
            *self._stalls(),
            *(
                (0, 0, 0, 0)
                if deflate is None
                else (deflate.before_deflate, deflate.after_deflate, deflate.before_inflate, deflate.after_inflate)
            ),
        )

    def _stalls(self) -> tuple[int, float]:
        """The most that was unsent, and how long the peer took too little; of who sends and waits, nothing is kept."""
        return 0, 0.0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.state.name} {self.remote_address}>"

    def _ending_info(self) -> CloseInfo:
        """How the connection is ending; only once it is."""
        info = self.session.close_info
        assert info is not None  # its phase is not OPEN any more
        return info

    # -- what is logged ----------------------------------------------------------------------------------------

    def _begin_log(self) -> None:
        """The connection is open: a log that will tell of its end names the peer, whose address is gone by then."""
        if self.logger.isEnabledFor(logging.INFO):
            self._peer = _address_text(self.remote_address)

    def _target(self) -> str | None:
        """The request target, None before there was a request."""
        return None if (request := self.request) is None else request.path

    def log_fields(self) -> dict[str, Any]:
        """Which connection a log record is about, as its ``extra``. No query: there may be secrets in it."""
        target = self._target()
        return {
            "connection_id": str(self.id),
            "remote_address": self._peer or _address_text(self.remote_address),
            "path": None if target is None else target.partition("?")[0],
        }

    def _log_close(self, info: CloseInfo, now: float) -> None:
        """One line for each connection, which explains its end; the same is in attributes of the record."""
        if not self.logger.isEnabledFor(logging.INFO):
            return
        duration, stats = now - self.opened_at, self.stats
        self.logger.info(
            "connection closed: %s; open for %.3f s, received %d messages and %d bytes, sent %d messages and %d bytes, "
            "at most %d bytes unread and %d unsent, stalled for %.3f s",
            info,
            duration,
            stats.messages_received,
            stats.bytes_received,
            stats.messages_sent,
            stats.bytes_sent,
            stats.unread_peak,
            stats.unsent_peak,
            stats.stalled,
            extra=self.log_fields()
            | {
                "subprotocol": self.subprotocol,
                "close_code": info.code,
                "close_reason": info.reason,
                "close_initiator": info.initiator.value,
                "close_clean": info.clean,
                "close_cause": None if info.cause is None else f"{type(info.cause).__name__}: {info.cause}",
                "duration": duration,
                "latency": self.latency,
            }
            | {name: getattr(stats, name) for name in _COUNTED},
        )


def add_totals(sums: Counter[str], stats: Stats) -> None:
    """Add what a connection has counted to ``sums``, by name."""
    for name in TOTALS:
        sums[name] += getattr(stats, name)


_COUNTED = tuple(field.name for field in fields(Stats))


def _address_text(address: Any) -> str | None:
    """An address of a socket as it is written in text: "192.0.2.1:80", "[2001:db8::1]:80", the path of a socket."""
    if isinstance(address, tuple):
        host, port = cast("tuple[object, ...]", address)[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return None if address is None else str(address) or None
