"""The queue of what is to be sent: its limits and policies, who waits for room, acknowledgements, losses, the end."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import pytest

from taut.client.outbox.outbox import Ack, Loss, OfflineQueue, Outbox, OutboxClosed
from taut.errors import ConcurrencyError, QueueFull
from taut.types import Data


def first_character(message: Data) -> Hashable | None:
    """The key of a message; those that start with "-" need no acknowledgement."""
    text = message if isinstance(message, str) else message.decode()
    return None if text.startswith("-") else text[:1]


ONE = Ack(sent=first_character, received=lambda _: None)
CUMULATIVE = Ack(sent=first_character, received=lambda _: None, cumulative=True)


def outbox(ack: Ack | None = None, **limits: Any) -> tuple[Outbox, list[Loss]]:
    losses: list[Loss] = []
    return Outbox(OfflineQueue(**limits), ack, losses.append), losses


async def send(box: Outbox, count: int = 1) -> list[Data]:
    """Send the next ones."""
    messages = []
    for _ in range(count):
        entry = await box.next()
        messages.append(entry.message)
        box.sent(entry)
    return messages


async def turns(count: int = 3) -> None:
    """Let the tasks that can go on do so."""
    for _ in range(count):
        await asyncio.sleep(0)


async def started(box: Outbox, *messages: Data) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(box.put(message)) for message in messages]
    await turns()
    return tasks


class TestOptions:
    @pytest.mark.parametrize(
        ("name", "value", "kind"),
        [
            ("max_messages", 0, ValueError),
            ("max_messages", 1.5, TypeError),
            ("max_messages", True, TypeError),
            ("max_messages", None, TypeError),
            ("max_bytes", -1, ValueError),
            ("max_bytes", "1", TypeError),
            ("policy", "drop", ValueError),
            ("policy", None, ValueError),
            ("policy", ["block"], ValueError),
            ("path", b"queue", TypeError),
            ("path", 3, TypeError),
            ("path", "", ValueError),
            ("path", "a\0b", ValueError),
        ],
    )
    def test_a_wrong_option_is_refused_by_name_and_value(self, name: str, value: Any, kind: type[Exception]) -> None:
        with pytest.raises(kind) as caught:
            OfflineQueue(**{name: value})
        assert str(caught.value).startswith(f"{name} must be ")
        assert repr(value) in str(caught.value)

    def test_a_path_object_whose_path_is_bytes_is_refused(self) -> None:
        class Bytes:
            def __fspath__(self) -> bytes:
                return b"queue"

        with pytest.raises(TypeError, match=r"^path must be "):
            OfflineQueue(path=Bytes())  # type: ignore[arg-type]

    def test_what_is_right_is_kept(self) -> None:
        queue = OfflineQueue(max_messages=1, max_bytes=2, policy="fail", path=Path("x"))
        assert (queue.max_messages, queue.max_bytes, queue.policy, queue.path) == (1, 2, "fail", Path("x"))

    @pytest.mark.parametrize(
        ("name", "value"), [("sent", None), ("received", "key"), ("cumulative", 1), ("deliver", None)]
    )
    def test_a_wrong_ack_is_refused_by_name_and_value(self, name: str, value: Any) -> None:
        with pytest.raises(TypeError) as caught:
            Ack(**{"sent": first_character, "received": first_character, name: value})
        assert str(caught.value).startswith(f"{name} must be ")
        assert repr(value) in str(caught.value)

    def test_a_loss_is_of_a_known_kind(self) -> None:
        with pytest.raises(ValueError, match="kind must be one of dropped_oldest"):
            Loss("gone", 1, 1)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="count must be"):
            Loss("undelivered", 0, 0)


class TestMessages:
    async def test_str_and_bytes_are_kept_apart_and_in_order(self) -> None:
        box, _ = outbox()
        messages: list[Data] = ["a", b"a", "", b"", "é", "a\0b"]
        for message in messages:
            await box.put(message)
        assert box.size == 1 + 1 + 0 + 0 + 2 + 3
        assert await send(box, 6) == messages
        assert (box.waiting, box.in_flight, box.size) == (0, 0, 0)

    async def test_a_buffer_is_copied(self) -> None:
        box, _ = outbox()
        buffer = bytearray(b"abcd")
        await box.put(buffer)
        await box.put(memoryview(buffer)[::2])
        buffer[:] = b"...."
        assert await send(box, 2) == [b"abcd", b"ac"]

    @pytest.mark.parametrize("message", [None, 1, ["a"]])
    async def test_what_is_no_message_is_refused(self, message: Any) -> None:
        box, _ = outbox()
        with pytest.raises(TypeError, match="message must be str, bytes"):
            await box.put(message)
        assert box.waiting == 0

    async def test_a_text_that_has_no_utf_8_is_refused(self) -> None:
        box, _ = outbox()
        with pytest.raises(UnicodeEncodeError):
            await box.put("\ud800")
        assert (box.waiting, box.size) == (0, 0)

    async def test_next_gives_the_same_until_it_is_sent(self) -> None:
        box, _ = outbox()
        await box.put("a")
        entry = await box.next()
        assert await box.next() is entry
        assert box.waiting == 1
        box.sent(entry)
        box.sent(entry)  # once more changes nothing
        assert box.waiting == 0

    async def test_only_what_was_handed_out_can_be_sent(self) -> None:
        box, _ = outbox()
        await box.put("a")
        entry = await box.next()
        box.rewind()
        with pytest.raises(RuntimeError, match=r"next\(\)"):
            box.sent(entry)
        assert box.waiting == 1

    async def test_next_waits_and_can_be_cancelled(self) -> None:
        box, _ = outbox()
        first = asyncio.create_task(box.next())
        await turns()
        with pytest.raises(ConcurrencyError):
            await box.next()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        second = asyncio.create_task(box.next())
        await turns()
        await box.put("a")
        assert (await second).message == "a"

    async def test_next_cancelled_as_a_message_comes_loses_nothing(self) -> None:
        box, _ = outbox()
        task = asyncio.create_task(box.next())
        await turns()
        await box.put("a")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await send(box) == ["a"]


class TestPolicies:
    @pytest.mark.parametrize("policy", ["block", "drop_oldest", "drop_newest", "fail"])
    async def test_a_message_that_can_never_fit_is_refused(self, policy: str) -> None:
        box, losses = outbox(policy=policy, max_bytes=3)
        with pytest.raises(QueueFull) as caught:
            await box.put("éé")
        assert (caught.value.size, caught.value.limit, caught.value.option) == (4, 3, "max_bytes")
        await box.put("abc")
        assert (box.waiting, losses) == (1, [])

    async def test_fail(self) -> None:
        box, losses = outbox(policy="fail", max_messages=2, max_bytes=10)
        await box.put("a" * 8)
        with pytest.raises(QueueFull) as caught:
            await box.put("bbb")
        assert (caught.value.size, caught.value.limit, caught.value.option) == (3, 10, "max_bytes")
        await box.put("bb")
        with pytest.raises(QueueFull) as caught:
            await box.put("")
        assert (caught.value.size, caught.value.limit, caught.value.option) == (0, 2, "max_messages")
        assert await send(box, 2) == ["a" * 8, "bb"]
        assert losses == []

    async def test_drop_newest(self) -> None:
        box, losses = outbox(policy="drop_newest", max_messages=2)
        for message in "abcd":
            await box.put(message)
        assert losses == [Loss("dropped_newest", 1, 1, ("c",)), Loss("dropped_newest", 1, 1, ("d",))]
        assert (box.lost_messages, box.lost_bytes) == (2, 2)
        assert await send(box, 2) == ["a", "b"]

    async def test_drop_oldest_drops_as_many_as_are_needed(self) -> None:
        box, losses = outbox(policy="drop_oldest", max_bytes=6)
        for message in ("aa", "bb", "cc", "ddd"):
            await box.put(message)
        assert losses == [Loss("dropped_oldest", 2, 4, ("aa", "bb"))]
        assert box.size == 5
        assert await send(box, 2) == ["cc", "ddd"]

    async def test_drop_oldest_leaves_what_is_in_flight_and_what_is_in_hand(self) -> None:
        box, losses = outbox(ONE, policy="drop_oldest", max_messages=3)
        for message in "abc":
            await box.put(message)
        await send(box)
        in_hand = await box.next()
        await box.put("d")
        assert losses == [Loss("dropped_oldest", 1, 1, ("c",))]
        box.sent(in_hand)
        assert await send(box) == ["d"]
        await box.put("e")  # all are in flight: it is the new one that cannot be kept
        assert losses[1:] == [Loss("dropped_newest", 1, 1, ("e",))]
        assert (box.waiting, box.in_flight) == (0, 3)

    async def test_drop_oldest_drops_nothing_in_vain(self) -> None:
        box, losses = outbox(ONE, policy="drop_oldest", max_bytes=10)
        await box.put("aaaaaa")
        await send(box)
        await box.put("bb")
        await box.put("ccccc")
        assert losses == [Loss("dropped_newest", 1, 5, ("ccccc",))]
        assert await send(box) == ["bb"]

    async def test_drop_oldest_may_drop_what_waits_to_be_sent_again(self) -> None:
        box, losses = outbox(ONE, policy="drop_oldest", max_messages=2)
        await box.put("a")
        await box.put("b")
        await send(box, 2)
        box.rewind()
        await box.put("c")
        assert losses == [Loss("dropped_oldest", 1, 1, ("a",))]
        assert box.acknowledge("a") == 0
        assert await send(box, 2) == ["b", "c"]
        assert (box.acknowledge("b"), box.acknowledge("c"), box.size) == (1, 1, 0)


class TestRoom:
    async def test_block_waits_in_the_order_of_the_calls(self) -> None:
        box, _ = outbox(max_messages=2)
        tasks = await started(box, *"abcdef")
        assert [task.done() for task in tasks] == [True, True, False, False, False, False]
        assert await send(box, 6) == list("abcdef")
        await asyncio.gather(*tasks)

    async def test_a_small_message_does_not_overtake_a_large_one(self) -> None:
        box, _ = outbox(max_bytes=4)
        tasks = await started(box, "aaa", "bbb", "c")
        assert [task.done() for task in tasks] == [True, False, False]
        assert await send(box, 3) == ["aaa", "bbb", "c"]
        await asyncio.gather(*tasks)

    async def test_a_new_message_does_not_overtake_one_that_was_just_granted_room(self) -> None:
        box, _ = outbox(max_messages=2)
        tasks = await started(box, *"abc")
        await send(box, 2)  # "c" is granted room, and its task not run yet
        await box.put("d")
        assert await send(box, 2) == ["c", "d"]
        await asyncio.gather(*tasks)

    async def test_what_is_in_flight_counts(self) -> None:
        box, _ = outbox(ONE, max_messages=1)
        await box.put("a")
        (task,) = await started(box, "b")
        await send(box)
        await turns()
        assert not task.done()
        box.acknowledge("a")
        await task
        assert box.waiting == 1

    async def test_cancelled_in_line_leaves_nothing(self) -> None:
        box, _ = outbox(max_messages=1)
        tasks = await started(box, *"abcd")
        tasks[2].cancel()
        await turns()
        assert await send(box, 3) == ["a", "b", "d"]
        assert (box.waiting, box.size) == (0, 0)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert tasks[2].cancelled()

    async def test_cancelled_while_room_is_granted_hands_it_on(self) -> None:
        box, _ = outbox(max_messages=1)
        tasks = await started(box, *"abc")
        await send(box)
        tasks[1].cancel()  # its room is granted, in the same turn of the loop
        await tasks[2]
        assert tasks[1].cancelled()
        assert await send(box) == ["c"]

    async def test_cancelled_at_the_head_of_the_line_lets_a_smaller_one_in(self) -> None:
        box, _ = outbox(max_bytes=4)
        tasks = await started(box, "aaa", "bbb", "c")
        tasks[1].cancel()
        await tasks[2]
        assert await send(box, 2) == ["aaa", "c"]

    @pytest.mark.parametrize("seed", range(8))
    async def test_cancellations_anywhere(self, seed: int) -> None:
        chance = random.Random(seed)
        box, losses = outbox(ONE if seed % 2 else None, max_messages=3, max_bytes=40)
        outcomes: dict[str, bool] = {}

        async def put(message: str) -> None:
            try:
                await box.put(message)
            except asyncio.CancelledError:
                outcomes[message] = False
                raise
            outcomes[message] = True

        received: list[Data] = []

        async def consume() -> None:
            while True:
                entry = await box.next()
                received.append(entry.message)
                box.sent(entry)
                box.acknowledge(first_character(entry.message))
                for _ in range(chance.randrange(3)):
                    await asyncio.sleep(0)

        consumer = asyncio.create_task(consume())
        tasks = []
        for number in range(500):
            task = asyncio.create_task(put(f"{number % 7}{number:04}{'x' * chance.randrange(20)}"))
            tasks.append(task)
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
            if chance.random() < 0.4:
                chance.choice(tasks[-6:]).cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await box.drain()
        consumer.cancel()
        assert received == [message for message, accepted in sorted(outcomes.items(), key=_number) if accepted]
        assert 0 < len(received) < 500
        assert (box.size, losses) == (0, [])


def _number(item: tuple[str, bool]) -> str:
    return item[0][1:5]


class TestAcknowledgements:
    async def test_a_key_ends_the_oldest_that_has_it(self) -> None:
        box, _ = outbox(ONE)
        for message in ("a1", "b1", "a2", "-"):
            await box.put(message)
        await send(box, 4)
        assert (box.in_flight, box.size) == (3, 6)
        assert box.acknowledge("a") == 1
        box.rewind()
        assert await send(box, 2) == ["b1", "a2"]
        assert (box.acknowledge("a"), box.acknowledge("a"), box.acknowledge("b")) == (1, 0, 1)
        assert (box.in_flight, box.size, box.unknown_acknowledgements) == (0, 0, 1)

    async def test_cumulative_ends_everything_up_to_the_last_that_has_the_key(self) -> None:
        box, _ = outbox(CUMULATIVE)
        for message in ("a1", "b1", "a2", "c1"):
            await box.put(message)
        await send(box, 4)
        assert box.acknowledge("a") == 3
        assert box.acknowledge("b") == 0
        assert box.acknowledge("c") == 1
        assert box.unknown_acknowledgements == 1

    async def test_what_was_not_sent_yet_cannot_be_acknowledged(self) -> None:
        box, _ = outbox(ONE)
        await box.put("a")
        assert box.acknowledge("a") == 0
        assert (box.waiting, box.unknown_acknowledgements) == (1, 1)

    async def test_without_ack_every_key_is_unknown(self) -> None:
        box, _ = outbox()
        await box.put("a")
        await send(box)
        assert (box.acknowledge("a"), box.unknown_acknowledgements, box.size) == (0, 1, 0)

    @pytest.mark.parametrize("ack", [ONE, CUMULATIVE])
    async def test_an_acknowledgement_that_comes_after_the_line_dropped_counts(self, ack: Ack) -> None:
        box, _ = outbox(ack)
        for message in "abc":
            await box.put(message)
        await send(box, 2)
        assert box.rewind() == 2
        assert box.acknowledge("a") == 1
        in_hand = await box.next()
        assert box.acknowledge("b") == 1
        box.sent(in_hand)  # it has ended already
        assert box.in_flight == 0
        assert await send(box) == ["c"]

    async def test_rewind_restores_the_original_order(self) -> None:
        box, _ = outbox(ONE)
        for message in "abcdef":
            await box.put(message)
        await send(box, 4)
        box.acknowledge("b")
        assert box.rewind() == 3
        assert box.rewind() == 0
        await send(box, 2)
        assert box.rewind() == 2
        assert await send(box, 5) == list("acdef")

    async def test_an_exception_of_sent_goes_to_the_caller(self) -> None:
        def refuse(message: Data) -> Hashable:
            raise LookupError(message)

        box, losses = outbox(Ack(sent=refuse, received=refuse))
        with pytest.raises(LookupError, match="a"):
            await box.put("a")
        assert (box.waiting, box.size, losses) == (0, 0, [])

    async def test_a_key_that_cannot_be_one_is_refused(self) -> None:
        box, _ = outbox(Ack(sent=lambda _: [], received=lambda _: None))
        with pytest.raises(TypeError, match=r"Ack\.sent must return a hashable key or None, not \[\]"):
            await box.put("a")
        assert (box.waiting, box.size) == (0, 0)

    @pytest.mark.parametrize("cumulative", [False, True])
    async def test_thousands_in_flight(self, cumulative: bool) -> None:
        numbers = itertools.count()
        ack = Ack(sent=lambda _: next(numbers), received=lambda _: None, cumulative=cumulative)
        box, _ = outbox(ack, max_messages=20_000)
        for number in range(20_000):
            await box.put(str(number))
        await send(box, 15_000)
        assert box.rewind() == 15_000
        assert await send(box, 20_000) == [str(number) for number in range(20_000)]
        assert sum(box.acknowledge(key) for key in range(19_999, -1, -1)) == 20_000
        assert (box.in_flight, box.size, box.unknown_acknowledgements) == (0, 0, 19_999 if cumulative else 0)


class TestDrainAndClose:
    async def test_drain_waits_for_what_waits_what_is_in_flight_and_who_is_in_line(self) -> None:
        box, _ = outbox(ONE, max_messages=1)
        await box.drain()
        (_, _, drained) = [*await started(box, "a", "b"), asyncio.create_task(box.drain())]
        for key in "ab":
            await turns()
            assert not drained.done()
            await send(box)
            await turns()
            assert not drained.done()
            box.acknowledge(key)
        await drained

    async def test_drain_ends_when_the_last_in_line_is_cancelled(self) -> None:
        box, _ = outbox(max_messages=1)
        tasks = await started(box, "a", "b")
        drained = asyncio.create_task(box.drain())
        await turns()
        await send(box)
        tasks[1].cancel()
        await drained

    async def test_drain_can_be_cancelled(self) -> None:
        box, _ = outbox()
        await box.put("a")
        drained = asyncio.create_task(box.drain())
        await turns()
        drained.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drained
        await send(box)
        await box.drain()

    async def test_close_reports_what_is_left(self) -> None:
        box, losses = outbox(ONE)
        for message in ("a", "b", "cc"):
            await box.put(message)
        await send(box, 2)
        box.acknowledge("a")
        assert await box.close() == ("b", "cc")
        assert losses == [Loss("undelivered", 2, 3, ("b", "cc"))]
        assert await box.close() == ()
        assert len(losses) == 1

    async def test_close_with_nothing_left_reports_nothing(self) -> None:
        box, losses = outbox()
        assert (await box.close(), losses) == ((), [])

    async def test_close_ends_everything_that_waits(self) -> None:
        box, losses = outbox(max_messages=1)
        tasks = await started(box, "a", "b", "c")
        tasks.append(asyncio.create_task(box.drain()))
        await turns()
        await send(box)  # room for "b" is granted, but its task has not gone on yet
        assert await box.close() == ()
        for task in tasks[1:]:
            with pytest.raises(OutboxClosed):
                await task
        calls: list[Callable[[], Any]] = [lambda: box.put("d"), box.next, box.drain]
        for call in calls:
            with pytest.raises(OutboxClosed, match="closed"):
                await call()
        assert losses == []

    async def test_close_ends_next(self) -> None:
        box, _ = outbox()
        task = asyncio.create_task(box.next())
        await turns()
        await box.close()
        with pytest.raises(OutboxClosed):
            await task
