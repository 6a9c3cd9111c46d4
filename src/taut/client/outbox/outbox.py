"""What a client has to send while it cannot, and what it has sent but not heard of: one bounded queue of messages.

A message passes through the stages of ``Stage``, in the order in which ``put`` was called: it waits; ``next`` hands it
out and ``sent`` takes it off, or, when an acknowledgement is expected, keeps it in flight until ``acknowledge`` ends
it; ``rewind`` makes what is in flight wait again, before the rest.  Everything that is held counts against the limits,
in flight as much as waiting, and also what is just being written to the file.

It is driven by calls, all from one event loop: many tasks put, one task sends.  Room is granted to those who wait for
it in the order of their calls, and belongs to them from then on: whoever is cancelled gives it back, and the next one
gets it.

What must never happen: a message that was accepted ends without being sent, acknowledged, kept in the file, or reported
as a ``Loss``, once; or an entry is dropped while the sending task has it in hand.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from ...errors import ConcurrencyError, QueueFull, WebSocketException
from ...options import check_count
from ...types import BytesLike, Data
from .flight import Entry, Flight, Stage
from .journal import Journal
from .room import Room

__all__ = ["Ack", "Entry", "Loss", "OfflineQueue", "Outbox", "OutboxClosed", "Policy"]

Policy = Literal["block", "drop_oldest", "drop_newest", "fail"]
_POLICIES = get_args(Policy)
LossKind = Literal["dropped_oldest", "dropped_newest", "unconfirmed", "undelivered", "unread"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineQueue:
    """How much a session keeps for later, and what it does when that is too much.

    ``max_messages``, ``max_bytes``: limits of what waits to be sent and of what waits for an acknowledgement, together;
    a text counts as many bytes as it has in UTF-8.  A message that is larger than ``max_bytes`` by itself raises
    ``QueueFull``.
    ``policy``: what becomes of a message for which there is no room: "block" makes the sender wait until there is,
    "drop_oldest" drops those that wait longest (never one that is in flight; if that does not help, the new one),
    "drop_newest" drops the new one, "fail" raises ``QueueFull``.  Whatever is dropped is reported as a ``Loss``.
    ``path``: a file to keep the messages in, so that they survive the process; None keeps them in memory.  It is made
    if it is not there, belongs to one session at a time, and holds what was not sent (or not acknowledged) for the next
    one.  What ``send`` has returned for survives the end of the process, a kill -9 as well; a crash of the machine or a
    loss of power may take back the last changes.  Whatever ends the process between the sending of a message and its
    removal, it is sent again.

    Raises ``TypeError`` or ``ValueError`` for what cannot be.
    """

    max_messages: int = 1000
    max_bytes: int = 1 << 24
    policy: Policy = "block"
    path: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        check_count("max_messages", self.max_messages, least=1)
        check_count("max_bytes", self.max_bytes, least=1)
        if self.policy not in _POLICIES:
            raise ValueError(f"policy must be one of {', '.join(_POLICIES)}, not {self.policy!r}")
        if self.path is not None:
            _check_path(self.path)


def _check_path(path: object) -> None:
    wanted = "path must be the path of a file, a str or os.PathLike of str, or None"
    name: object = cast("os.PathLike[str]", path).__fspath__() if isinstance(path, os.PathLike) else path
    if not isinstance(name, str):
        raise TypeError(f"{wanted}, not {path!r}")
    if not name or "\0" in name:
        raise ValueError(f"{wanted}, not empty and without NUL, not {path!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """How the application acknowledges messages, so that what was in flight when the line dropped is sent again.

    ``sent``: called with each message before it is queued, gives the key under which it will be acknowledged; None:
    this one needs no acknowledgement.  ``received``: called with each message that comes in, gives the key that it
    acknowledges; None: it is an ordinary message.  A key may be used again: it stands for the oldest that is in flight.
    ``cumulative``: a key acknowledges everything that was sent up to the last message with that key.  ``deliver``: hand
    messages that acknowledge to ``recv`` as well.

    Raises ``TypeError`` for what cannot be.
    """

    sent: Callable[[Data], Hashable | None]
    received: Callable[[Data], Hashable | None]
    cumulative: bool = False
    deliver: bool = False

    def __post_init__(self) -> None:
        for name in ("sent", "received"):
            if not callable(value := getattr(self, name)):
                raise TypeError(f"{name} must be a function of a message, not {value!r}")
        for name in ("cumulative", "deliver"):
            if not isinstance(value := getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, not {value!r}")


@dataclass(frozen=True, slots=True)
class Loss:
    """Messages that were not delivered, or may not have been.

    ``kind``: "dropped_oldest" and "dropped_newest": there was no room in the queue; "unconfirmed": they were sent,
    without ``ack``, on a connection of which it is not known how far it came; "undelivered": they were still queued, in
    memory, when the session ended; "unread": they arrived, but nobody received them while one connection after the
    other was lost.  ``count`` of them; ``size`` of them all, at most (bytes); ``messages``: themselves, oldest first,
    where they are known.
    """

    kind: LossKind
    count: int
    size: int
    messages: tuple[Data, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.kind not in (kinds := get_args(LossKind)):
            raise ValueError(f"kind must be one of {', '.join(kinds)}, not {self.kind!r}")
        check_count("count", self.count, least=1)
        check_count("size", self.size, least=0)


class OutboxClosed(WebSocketException):
    """The queue is closed: it takes nothing any more, and gives nothing out."""

    def __str__(self) -> str:
        return "the queue is closed"


class Outbox:
    """The queue itself: ``queue`` bounds it, ``ack`` says what is acknowledged how, ``lost`` is told of every loss."""

    def __init__(self, queue: OfflineQueue, ack: Ack | None, lost: Callable[[Loss], None]) -> None:
        self._policy = queue.policy
        self._max_messages, self._max_bytes = queue.max_messages, queue.max_bytes
        self._ack = ack
        self._lost = lost
        self._journal = None if queue.path is None else Journal(queue.path)
        self._is_open = self._journal is None
        self._closed = False
        self._serial = 0
        self._room = Room(queue.max_messages, queue.max_bytes)
        self._waiting: deque[Entry] = deque()
        self._in_hand: Entry | None = None  # handed out by next(), and first of those that wait
        self._flight = Flight()
        self._sender: asyncio.Future[None] | None = None  # waits in next()
        self.lost_messages = 0
        self.lost_bytes = 0
        self.unknown_acknowledgements = 0

    @property
    def waiting(self) -> int:
        """How many messages are to be sent."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """How many messages were sent and are to be acknowledged."""
        return self._flight.count

    @property
    def size(self) -> int:
        """How many bytes are held: waiting, in flight, or being written to the file."""
        return self._room.bytes

    async def open(self) -> None:
        """Take over what the file holds; without a file, there is nothing to do.

        Raises ``JournalError`` if the file cannot be used, and what ``Ack.sent`` raises.  Failed or cancelled, the file
        is closed again.
        """
        if self._closed:
            raise OutboxClosed
        if self._journal is None or self._is_open:
            return
        rows = await self._journal.open()
        try:
            entries = [Entry(message, size, self._key_of(message), serial) for serial, message, size in rows]
        except BaseException:
            await self._journal.close()
            raise
        for entry in entries:
            self._serial = entry.serial
            self._room.take(entry.size)
            self._waiting.append(entry)
        self._is_open = True
        self._wake_sender()

    async def put(self, message: Data | BytesLike) -> None:
        """Queue ``message``; if there is a file, it is in it when this returns.

        Raises ``QueueFull`` with the policy "fail", or if it is larger than ``max_bytes``; ``OutboxClosed``;
        ``JournalError`` if it could not be written; what ``Ack.sent`` raises.  Cancelled, the message is not queued.
        """
        message, size = _measured(message)
        self._check_open()
        if size > self._max_bytes:
            raise QueueFull(size, self._max_bytes, "max_bytes")
        key = self._key_of(message)
        if self._policy == "block":
            await self._room.wait(size)
            if self._closed:
                self._room.give_back(size)
                raise OutboxClosed
        elif self._make_room(message, size):
            self._room.take(size)
        else:
            return
        self._serial += 1
        entry = Entry(message, size, key, self._serial)
        if self._journal is not None:
            try:
                await self._journal.append(entry.serial, message)
            except BaseException:
                self._room.give_back(size)
                raise
        self._waiting.append(entry)
        self._wake_sender()

    def would_wait(self, message: Data | BytesLike) -> bool:
        """Whether ``put`` would wait for room for ``message``."""
        _, size = _measured(message)
        return self._policy == "block" and size <= self._max_bytes and not self._room.is_free(size)

    async def next(self) -> Entry:
        """The entry to be sent next, once there is one; it stays first until ``sent``, and is not dropped before.

        Raises ``OutboxClosed``; ``ConcurrencyError`` if another task is waiting here.  Cancelled, nothing changes.
        """
        self._check_open()
        while not self._waiting:
            if self._sender is not None:
                raise ConcurrencyError("next")
            self._sender = asyncio.get_running_loop().create_future()
            try:
                await self._sender
            finally:
                self._sender = None
            self._check_open()
        self._in_hand = self._waiting[0]
        return self._in_hand

    def sent(self, entry: Entry) -> None:
        """``entry`` was sent: it is in flight now; or done, if it needs no acknowledgement or has it already."""
        if entry.stage is Stage.ENDED:
            return
        if entry is not self._in_hand:
            raise RuntimeError("only what next() returned last can be sent")
        self._in_hand = None
        self._waiting.popleft()
        if entry.key is None:
            self._end([entry])
        else:
            self._flight.add(entry)

    def acknowledge(self, key: Hashable) -> int:
        """End what ``key`` acknowledges, and say how many messages that were; 0 for an unknown key: it is counted."""
        ended = self._flight.acknowledged(key, self._ack is not None and self._ack.cumulative)
        if not ended:
            self.unknown_acknowledgements += 1
        for entry in ended:
            if entry.stage is Stage.WAITING:  # again
                self._waiting.remove(entry)
        self._end(ended)
        return len(ended)

    def rewind(self) -> int:
        """The line dropped: what is in flight waits again, before the rest; says how many messages that are."""
        self._in_hand = None
        again = self._flight.rewind()
        self._waiting.extendleft(reversed(again))
        self._wake_sender()
        return len(again)

    async def drain(self) -> None:
        """Wait until nothing waits or is in flight, nobody waits for room, and the file says so too.

        Raises ``OutboxClosed`` if that does not come about; ``JournalError`` if the file cannot be told.  It can be
        cancelled.
        """
        self._check_open()
        await self._room.wait_until_empty()
        if self._journal is not None:
            await self._journal.flush()

    async def close(self) -> tuple[Data, ...]:
        """End it, and say what is left, oldest first: that is kept in the file, or reported as lost if there is none.

        Whoever waits here gets ``OutboxClosed``; what is being written is still written.  When this is cancelled, the
        file is closed all the same, which cannot be hurried.  Raises ``JournalError`` if the file could not be told
        what was sent: it will be there again.
        """
        if self._closed:
            return ()
        self._closed = True
        self._room.refuse(OutboxClosed)
        self._wake_sender()
        if self._journal is not None:
            await self._journal.close()
        left = [*self._flight.entries(), *self._waiting]
        if left and self._journal is None:
            self._report("undelivered", left)
        return tuple(entry.message for entry in left)

    def _check_open(self) -> None:
        if self._closed:
            raise OutboxClosed
        if not self._is_open:
            raise RuntimeError("the outbox is not open yet: await open() first")

    def _key_of(self, message: Data) -> Hashable | None:
        if self._ack is None:
            return None
        key = self._ack.sent(message)
        try:
            hash(key)
        except TypeError:
            raise TypeError(f"Ack.sent must return a hashable key or None, not {key!r}") from None
        return key

    def _make_room(self, message: Data, size: int) -> bool:
        """Whether there is room for ``message`` now; what is dropped for it, or itself, is reported."""
        if self._room.fits(size):
            return True
        if self._policy == "fail":
            if self._room.messages >= self._max_messages:
                raise QueueFull(size, self._max_messages, "max_messages")
            raise QueueFull(size, self._max_bytes, "max_bytes")
        dropped = self._oldest(size) if self._policy == "drop_oldest" else []
        if not dropped:
            self._report("dropped_newest", [Entry(message, size, None)])
            return False
        for entry in dropped:
            self._waiting.remove(entry)
        self._end(dropped)
        self._report("dropped_oldest", dropped)
        return True

    def _oldest(self, size: int) -> list[Entry]:
        """What to drop so that ``size`` bytes fit, oldest first; nothing if that would not do."""
        messages, bytes_ = self._room.missing(size)
        dropped: list[Entry] = []
        for entry in self._waiting:
            if entry is self._in_hand:
                continue
            dropped.append(entry)
            messages -= 1
            bytes_ -= entry.size
            if messages <= 0 and bytes_ <= 0:
                return dropped
        return []

    def _report(self, kind: LossKind, entries: list[Entry]) -> None:
        size = sum(entry.size for entry in entries)
        self.lost_messages += len(entries)
        self.lost_bytes += size
        self._lost(Loss(kind, len(entries), size, tuple(entry.message for entry in entries)))

    def _end(self, entries: list[Entry]) -> None:
        """These are sent, acknowledged or dropped, and are not among those that wait any more."""
        for entry in entries:
            if entry.tried:
                self._flight.forget(entry)
            entry.stage = Stage.ENDED
            if entry is self._in_hand:
                self._in_hand = None
        if self._journal is not None:
            self._journal.remove(entry.serial for entry in entries)
        self._room.give_back(*(entry.size for entry in entries))

    def _wake_sender(self) -> None:
        if self._sender is not None and not self._sender.done():
            self._sender.set_result(None)


def _measured(message: object) -> tuple[Data, int]:
    """The message as it is kept, and its size in bytes."""
    if isinstance(message, str):
        return message, len(message) if message.isascii() else len(message.encode())
    if isinstance(message, bytes):
        return message, len(message)
    if isinstance(message, bytearray | memoryview):
        kept = bytes(cast("bytearray", message))  # the caller goes on using his
        return kept, len(kept)
    raise TypeError(f"message must be str, bytes, bytearray or memoryview, not {type(message).__name__}")
