"""The vocabulary shared by every layer: opcodes, close codes, headers, requests, responses, options.

Plain values without behaviour of their own.  Nothing here performs I/O, and nothing here imports another
part of taut.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, cast

__all__ = [
    "Attempt",
    "BroadcastResult",
    "BytesLike",
    "CloseCode",
    "CloseInfo",
    "ConnectionOptions",
    "Data",
    "DeflateOptions",
    "Headers",
    "HeadersLike",
    "Initiator",
    "Opcode",
    "Overflow",
    "RateLimits",
    "Request",
    "Response",
    "SendStatus",
    "Sendable",
    "State",
]

BytesLike: TypeAlias = bytes | bytearray | memoryview
Data: TypeAlias = str | bytes
"""What a message is when received: str for a Text message, bytes for a Binary one."""
Sendable: TypeAlias = (
    str | BytesLike | Iterable[str] | Iterable[BytesLike] | AsyncIterable[str] | AsyncIterable[BytesLike]
)
"""What a message may be when sent: whole, or in fragments."""
Overflow: TypeAlias = Literal["wait", "close", "drop_oldest", "drop_newest"]
"""What happens to a message, or to its connection, when there is no room for it."""


class Opcode(enum.IntEnum):
    """Frame opcodes (RFC 6455, section 5.2)."""

    CONT = 0x0
    TEXT = 0x1
    BINARY = 0x2
    CLOSE = 0x8
    PING = 0x9
    PONG = 0xA


class CloseCode(enum.IntEnum):
    """Close codes (RFC 6455, section 7.4.1, and the IANA registry)."""

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    NO_STATUS_RCVD = 1005
    ABNORMAL_CLOSURE = 1006
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    MANDATORY_EXTENSION = 1010
    INTERNAL_ERROR = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    BAD_GATEWAY = 1014
    TLS_HANDSHAKE = 1015


class State(enum.IntEnum):
    """Where a connection stands; the numbers are those of the browser's ``readyState``."""

    CONNECTING = 0
    OPEN = 1
    CLOSING = 2
    CLOSED = 3


class Initiator(enum.Enum):
    """Who ended a connection."""

    LOCAL = "local"
    """This side sent the first Close frame, or gave the connection up."""
    REMOTE = "remote"
    """The peer sent the first Close frame."""
    NETWORK = "network"
    """The byte stream ended without a Close frame from either side."""


class SendStatus(enum.Enum):
    """What became of a message that was sent without waiting."""

    SENT = "sent"
    """It was written, and no more than ``write_limit`` bytes are unsent."""
    BUFFERED = "buffered"
    """It was taken, and waits: more than ``write_limit`` bytes are unsent, or a fragmented message is being sent."""
    DROPPED = "dropped"
    """It was not taken: there was no room for it."""


@dataclass(frozen=True, slots=True)
class BroadcastResult:
    """For how many connections a broadcast was ``sent``, ``buffered`` or ``dropped``, as ``SendStatus`` has it."""

    sent: int
    buffered: int
    dropped: int


@dataclass(frozen=True, slots=True)
class CloseInfo:
    """How a connection ended.

    ``initiator``: who ended it.  ``code`` and ``reason``: from the Close frame that decided it, the peer's
    if the peer was first, else ours; 1005 when it carried none, 1006 when there was none.  ``clean``: both
    Close frames were exchanged (RFC 6455, section 7.1.4).  ``cause``: the exception behind it, if any.
    """

    initiator: Initiator
    code: int
    reason: str = ""
    clean: bool = False
    cause: BaseException | None = None

    @property
    def ok(self) -> bool:
        """Whether this is an orderly end: clean, with 1000, 1001 or no code."""
        return self.clean and self.code in (1000, 1001, 1005)

    def __str__(self) -> str:
        who = {Initiator.LOCAL: "closed by this side", Initiator.REMOTE: "closed by the peer"}.get(
            self.initiator, "connection lost"
        )
        try:
            name = CloseCode(self.code).name.lower().replace("_", " ")
        except ValueError:
            name = "private use" if self.code >= 4000 else "registered"
        text = f"{who}: {self.code} ({name})"
        if self.reason:
            text += f" {self.reason}"
        if not self.clean:
            text += ", without a completed closing handshake"
        if self.cause is not None:
            text += f"; {type(self.cause).__name__}: {self.cause}"
        return text


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to reach one address, by a client.

    ``uri``: what was to be opened, without credentials.  ``address``: host and port, or the path of a socket; the name
    itself when it could not be resolved.  ``stage``: how far it came: "dns", "connect", "proxy", "tls" or "handshake".
    ``elapsed``: seconds.  ``error``: what ended it.
    """

    uri: str
    address: str
    stage: str
    elapsed: float
    error: BaseException

    def __str__(self) -> str:
        return f"{self.address} ({self.stage}, {self.elapsed:.3f} s): {str(self.error) or type(self.error).__name__}"


HeadersLike: TypeAlias = "Headers | Mapping[str, str] | Iterable[tuple[str, str]]"
"""What headers may be given as."""


class Headers(MutableMapping[str, str]):
    """HTTP headers: case-insensitive, ordered, and repeatable (RFC 9110, section 5).

    ``headers[name]`` joins repeated lines with a comma, ``get_all`` keeps them apart; ``headers[name] = value``
    replaces, ``add`` appends.  Names keep the spelling they were given.
    """

    __slots__ = ("_lines",)

    def __init__(self, headers: HeadersLike = (), /) -> None:
        self._lines: list[tuple[str, str, str]] = []  # lower-cased name, name, value
        items: Iterable[tuple[str, str]]
        if isinstance(headers, Headers):
            items = headers.raw_items()
        elif isinstance(headers, Mapping):
            items = cast("Mapping[str, str]", headers).items()
        else:
            items = headers
        for name, value in items:
            self.add(name, value)

    def add(self, name: str, value: str) -> None:
        """Append a header line, keeping those of the same name."""
        self._lines.append((name.lower(), name, value))

    def get_all(self, name: str) -> list[str]:
        """The values of every line of that name, in order."""
        key = name.lower()
        return [value for lower, _, value in self._lines if lower == key]

    def raw_items(self) -> Iterator[tuple[str, str]]:
        """Every line as it was added, repeated ones included."""
        return ((name, value) for _, name, value in self._lines)

    def copy(self) -> Headers:
        """The same lines, to be changed without changing these."""
        return Headers(self)

    def __getitem__(self, name: str) -> str:
        values = self.get_all(name)
        if not values:
            raise KeyError(name)
        return ", ".join(values)

    def __setitem__(self, name: str, value: str) -> None:
        key = name.lower()
        self._lines = [line for line in self._lines if line[0] != key]
        self.add(name, value)

    def __delitem__(self, name: str) -> None:
        key = name.lower()
        kept = [line for line in self._lines if line[0] != key]
        if len(kept) == len(self._lines):
            raise KeyError(name)
        self._lines = kept

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and any(lower == name.lower() for lower, _, _ in self._lines)

    def __iter__(self) -> Iterator[str]:
        seen: set[str] = set()
        for lower, name, _ in self._lines:
            if lower not in seen:
                seen.add(lower)
                yield name

    def __len__(self) -> int:
        return len({lower for lower, _, _ in self._lines})

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Headers):
            return NotImplemented
        return [(lower, value) for lower, _, value in self._lines] == [
            (lower, value) for lower, _, value in other._lines
        ]

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Headers({list(self.raw_items())!r})"


@dataclass(slots=True)
class Request:
    """An opening handshake request. ``path`` is the request target: path and query, as sent."""

    path: str
    headers: Headers
    method: str = "GET"


@dataclass(slots=True)
class Response:
    """An opening handshake response, or the HTTP response that refused it."""

    status_code: int
    reason_phrase: str
    headers: Headers = field(default_factory=Headers)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class DeflateOptions:
    """How permessage-deflate is negotiated and applied (RFC 7692).

    ``server_max_window_bits``, ``client_max_window_bits``: the largest LZ77 window each side may use, 8 to 15
    (a window of 2**bits bytes).  ``server_no_context_takeover``, ``client_no_context_takeover``: start each
    message afresh.  ``threshold``: messages below this size (bytes) are sent uncompressed.  ``level``: 0 to 9,
    or -1 for the compressor's default.  ``mem_level``: 1 to 9.
    """

    server_max_window_bits: int = 12
    client_max_window_bits: int = 12
    server_no_context_takeover: bool = False
    client_no_context_takeover: bool = False
    threshold: int = 128
    level: int = -1
    mem_level: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """How fast a peer may send, on one connection: each a number per second, None for no limit.

    ``messages``: whole or fragmented.  ``bytes``: of frames as they are received, heads included, compressed where they
    are; a larger frame than a burst of them never passes.  ``control_frames``: Ping and Pong frames.
    ``small_fragments``: frames of less than 64 bytes that are a part of a message only.  ``burst``: for how many
    seconds' worth of a rate may come at once.

    The defaults are out of the reach of a peer that means well.  Beyond a limit the connection is failed with 1008, and
    what came before is delivered.
    """

    messages: float | None = None
    bytes: float | None = None
    control_frames: float | None = 2000.0
    small_fragments: float | None = 10_000.0
    burst: float = 5.0


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """What governs an open connection, whichever side it is on.

    ``max_size``: largest message (bytes, after inflating), None for no limit.  ``max_frame_size``: largest
    frame payload (bytes), None for no limit of its own.  ``max_fragments``: most frames in a message, None for no
    limit.
    ``read_limit``: unread bytes at which reading from the peer pauses.  ``write_limit``: unsent bytes at
    which ``send`` waits.  ``ping_interval``, ``ping_timeout``, ``close_timeout``: seconds, None to disable.
    ``outbox_limit``: unsent bytes at which there is no room for the messages of ``send_nowait`` and ``broadcast``.
    ``overflow``: what happens then: "close", "drop_oldest", "drop_newest" or "wait".
    ``fragment_size``: a larger message (bytes) is sent in fragments of this size, None for never.
    ``strict_pongs``: insist on a Pong; otherwise any received byte proves that the peer is alive.
    ``cancel_on_close``: cancel the handler once its connection is closed (servers).
    ``rate_limits``: how fast the peer may send.
    ``idle_timeout``: close after so many seconds without a message in either direction.  ``max_lifetime``: close so
    many seconds after the opening, or up to a tenth earlier, so that those opened together do not end together.
    """

    max_size: int | None = 1 << 20
    max_frame_size: int | None = None
    max_fragments: int | None = 1 << 14
    read_limit: int = 1 << 18
    write_limit: int = 1 << 15
    outbox_limit: int = 1 << 23
    overflow: Overflow = "close"
    fragment_size: int | None = 1 << 20
    ping_interval: float | None = 20.0
    ping_timeout: float | None = 20.0
    close_timeout: float | None = 10.0
    strict_pongs: bool = False
    cancel_on_close: bool = False
    rate_limits: RateLimits = RateLimits()
    idle_timeout: float | None = None
    max_lifetime: float | None = None
