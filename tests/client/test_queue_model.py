"""The queue against a naive model of it, in memory and on disk, under any sequence of calls."""

from __future__ import annotations

import asyncio
import os
import tempfile
from dataclasses import dataclass, field
from typing import Any, get_args

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from taut.client.outbox.flight import Entry
from taut.client.outbox.outbox import Ack, Loss, OfflineQueue, Outbox, OutboxClosed, Policy
from taut.errors import QueueFull
from taut.types import Data

MAX_BYTES = 12
MESSAGES = st.one_of(st.text("ab-é", max_size=8), st.binary(max_size=14))


def size_of(message: Data) -> int:
    return len(message.encode() if isinstance(message, str) else message)


def key_of(message: Data) -> str | None:
    if isinstance(message, bytes):
        return None if len(message) % 2 else "bytes"
    return None if message.startswith("-") else message[:1]


@dataclass(eq=False)
class Item:
    message: Data
    key: str | None
    tried: bool = False
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = size_of(self.message)


class QueueMachine(RuleBasedStateMachine):
    """Lists, and what the documentation says."""

    on_disk = False

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory(prefix="taut")
        self.waiting: list[Item] = []
        self.flying: list[Item] = []
        self.blocked: list[tuple[Item, asyncio.Task[None]]] = []
        self.in_hand: tuple[Item, Entry] | None = None
        self.losses: list[Loss] = []
        self.lost: list[Loss] = []  # as the model has it
        self.unknown = 0

    @initialize(
        policy=st.sampled_from(get_args(Policy)),
        max_messages=st.integers(1, 5),
        acknowledged=st.booleans(),
        cumulative=st.booleans(),
    )
    def start(self, policy: Policy, max_messages: int, acknowledged: bool, cumulative: bool) -> None:
        path = os.path.join(self.directory.name, "queue") if self.on_disk else None
        self.options = OfflineQueue(policy=policy, max_messages=max_messages, max_bytes=MAX_BYTES, path=path)
        self.ack = Ack(sent=key_of, received=key_of, cumulative=cumulative) if acknowledged else None
        self.open()

    def open(self) -> None:
        self.box = Outbox(self.options, self.ack, self.losses.append)
        self.unknown = 0
        self.run(self.box.open())

    def run(self, call: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(call, 20))

    def fits(self, size: int) -> bool:
        held = [*self.flying, *self.waiting]
        return len(held) < self.options.max_messages and sum(item.size for item in held) + size <= MAX_BYTES

    def let_in(self) -> None:
        """Those in line go on, as far as there is room, and only those."""
        while self.blocked and self.fits(self.blocked[0][0].size):
            item, task = self.blocked.pop(0)
            self.waiting.append(item)
            self.run(task)

        async def look() -> None:
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        self.run(look())
        assert not any(task.done() for _, task in self.blocked)

    @rule(message=MESSAGES)
    def put(self, message: Data) -> None:
        item = Item(message, None if self.ack is None else key_of(message))
        if item.size > MAX_BYTES or (self.options.policy == "fail" and not self.fits(item.size)):
            try:
                self.run(self.box.put(message))
            except QueueFull:
                return
            raise AssertionError("there was no room")
        if self.options.policy == "block":
            self.blocked.append((item, self.loop.create_task(self.box.put(message))))
            if len(self.blocked) == 1:
                self.let_in()
            return
        self.run(self.box.put(message))
        if self.fits(item.size):
            self.waiting.append(item)
            return
        if self.options.policy == "drop_oldest":
            kept, dropped = list(self.waiting), []
            for old in self.waiting:
                if self.in_hand is not None and old is self.in_hand[0]:
                    continue
                kept.remove(old)
                dropped.append(old)
                held = [*self.flying, *kept]
                if len(held) < self.options.max_messages and sum(i.size for i in held) + item.size <= MAX_BYTES:
                    self.lose("dropped_oldest", dropped)
                    self.waiting = [*kept, item]
                    return
        self.lose("dropped_newest", [item])

    def lose(self, kind: Any, items: list[Item]) -> None:
        self.lost.append(Loss(kind, len(items), sum(i.size for i in items), tuple(i.message for i in items)))

    @precondition(lambda self: self.blocked)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.blocked) - 1))
        _, task = self.blocked.pop(index)
        task.cancel()
        self.run(asyncio.wait([task]))
        assert task.cancelled()
        self.let_in()

    @precondition(lambda self: self.waiting)
    @rule()
    def next(self) -> None:
        entry = self.run(self.box.next())
        assert entry.message == self.waiting[0].message
        assert isinstance(entry.message, type(self.waiting[0].message))
        self.in_hand = self.waiting[0], entry

    @precondition(lambda self: self.in_hand)
    @rule()
    def sent(self) -> None:
        assert self.in_hand is not None
        item, entry = self.in_hand
        self.in_hand = None
        self.box.sent(entry)
        self.waiting.remove(item)
        if item.key is not None:
            item.tried = True
            self.flying.append(item)
        self.let_in()

    @rule(key=st.sampled_from(["a", "b", "é", "", "bytes", "unknown"]))
    def acknowledge(self, key: str) -> None:
        tried = [*self.flying, *(item for item in self.waiting if item.tried)]
        matching = [item for item in tried if item.key == key]
        ended = matching[:1]
        if matching and self.ack is not None and self.ack.cumulative:
            ended = tried[: tried.index(matching[-1]) + 1]
        self.unknown += not ended
        assert self.box.acknowledge(key) == len(ended)
        for item in ended:
            (self.flying if item in self.flying else self.waiting).remove(item)
        if self.in_hand is not None and self.in_hand[0] in ended:
            self.box.sent(self.in_hand[1])  # too late, and nothing
            self.in_hand = None
        self.let_in()

    @rule()
    def rewind(self) -> None:
        assert self.box.rewind() == len(self.flying)
        self.waiting[:0] = self.flying
        self.flying = []
        self.in_hand = None

    @precondition(lambda self: not self.waiting and not self.flying and not self.blocked)
    @rule()
    def drain(self) -> None:
        self.run(self.box.drain())

    @rule()
    def reopen(self) -> None:
        self.close()
        self.open()

    def close(self) -> None:
        left = [*self.flying, *self.waiting]
        assert self.run(self.box.close()) == tuple(item.message for item in left)
        for _, task in self.blocked:
            self.run(asyncio.wait([task]))
            assert isinstance(task.exception(), OutboxClosed)
        if left and not self.on_disk:
            self.lose("undelivered", left)
        self.blocked, self.flying, self.in_hand = [], [], None
        self.waiting = [Item(item.message, item.key) for item in left] if self.on_disk else []

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "box"):
            return
        assert (self.box.waiting, self.box.in_flight) == (len(self.waiting), len(self.flying))
        assert self.box.size == sum(item.size for item in [*self.waiting, *self.flying])
        assert self.box.unknown_acknowledgements == self.unknown
        assert self.losses == self.lost

    def teardown(self) -> None:
        if hasattr(self, "box"):
            self.close()
            assert self.losses == self.lost
        self.loop.close()
        self.directory.cleanup()


class JournalMachine(QueueMachine):
    """The same, with a file."""

    on_disk = True


TestQueueInMemory = QueueMachine.TestCase
TestQueueInMemory.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestQueueOnDisk = JournalMachine.TestCase
TestQueueOnDisk.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
