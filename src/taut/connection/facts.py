"""What can be asked of a connection: who is at the other end, where it stands, how it ended, what it has moved."""

from __future__ import annotations

import logging
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ..protocol.session import Session
from ..types import CloseInfo, ConnectionOptions, Request, Response, State

__all__ = ["FACTS", "Facts", "Stats"]

FACTS = ("_id", "_request", "_response", "logger", "opened_at", "options", "subprotocol")
"""The slots that a class needs to be told about by ``Facts``."""
_NO_SLOTS: tuple[str, ...] = ()  # beside a driver, which is compiled, no base may have any


@dataclass(frozen=True, slots=True)
class Stats:
    """Counters of one connection: of bytes received, all; of bytes sent, the payload. ``unread``, ``unsent``: now.

    ``messages_confirmed``: how many of the messages sent the peer is known to have received, by a Pong that answers a
    Ping sent after them, or by its answer to our Close frame.
    """

    messages_received: int
    messages_sent: int
    bytes_received: int
    bytes_sent: int
    unread: int
    unsent: int
    messages_confirmed: int


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
        self._request: Request | None = None
        self._response: Response | None = None

    def _has_stream(self) -> bool:
        """Whether there is a byte stream, still."""
        raise NotImplementedError

    def _address(self, name: str) -> Any:
        """What the byte stream says of ``name``, "sockname" or "peername"; None without one."""
        raise NotImplementedError

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
        return Stats(
            s.messages_received,
            s.messages_sent,
            s.bytes_received,
            s.bytes_sent,
            s.unread,
            self.unsent if self._has_stream() else 0,
            s.messages_confirmed,
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.state.name} {self.remote_address}>"

    def _ending_info(self) -> CloseInfo:
        """How the connection is ending; only once it is."""
        info = self.session.close_info
        assert info is not None  # its phase is not OPEN any more
        return info

    def _log_close(self, info: CloseInfo, now: float) -> None:
        if not self.logger.isEnabledFor(logging.INFO):
            return
        s = self.session
        self.logger.info(
            "connection closed: %s; open for %.3f s, received %d messages and %d bytes, sent %d messages and %d bytes",
            info,
            now - self.opened_at,
            s.messages_received,
            s.bytes_received,
            s.messages_sent,
            s.bytes_sent,
        )
