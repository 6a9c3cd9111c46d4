"""The queue on disk: what survives a restart or a kill, what a file must be, a full disk, no thread that is left."""

# ruff: noqa: ASYNC220, ASYNC221, ASYNC240 - what a test does to files and processes may take its time

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from taut.client.outbox.journal import Journal
from taut.client.outbox.journalfile import JournalFile
from taut.client.outbox.outbox import Ack, Loss, OfflineQueue, Outbox, OutboxClosed
from taut.errors import JournalError, QueueFull
from taut.types import Data

ACK = Ack(sent=lambda message: message, received=lambda _: None)

KILLED = """
import asyncio, itertools, os, sys
from taut.client.outbox.outbox import Ack, OfflineQueue, Outbox

path, round_, acknowledged = sys.argv[1], sys.argv[2], sys.argv[3] == "1"
ack = Ack(sent=lambda message: message, received=lambda message: None) if acknowledged else None

def say(line):
    os.write(1, line.encode() + b"\\n")

async def main():
    box = Outbox(OfflineQueue(path=path, max_messages=100_000), ack, print)
    await box.open()
    numbers = itertools.count()

    async def put():
        while True:
            message = f"{round_} {next(numbers)}"
            await box.put(message)
            say("put " + message)

    async def send():
        for turn in itertools.count():
            entries = []
            for _ in range(turn % 7):
                entries.append(await box.next())
                if not acknowledged:
                    say("ending " + entries[-1].message)
                box.sent(entries[-1])
            if acknowledged:
                entries = entries[::2]
                for entry in entries:
                    say("ending " + entry.message)
                    box.acknowledge(entry.message)
            await box._journal.flush()
            for entry in entries:
                say("gone " + entry.message)
            await asyncio.sleep(0.001)

    await asyncio.gather(send(), *(put() for _ in range(10)))

asyncio.run(main())
"""

SECOND = """
import asyncio, sys
from taut.client.outbox.outbox import OfflineQueue, Outbox

async def main():
    box = Outbox(OfflineQueue(path=sys.argv[1]), None, print)
    try:
        await box.open()
    except OSError as error:
        print(error)
    else:
        print("opened")
        await box.close()

asyncio.run(main())
"""

DISK_FULL = """
import asyncio, json, resource, sys
from taut.client.outbox.outbox import OfflineQueue, Outbox
from taut.errors import JournalError

async def main():
    box = Outbox(OfflineQueue(path=sys.argv[1]), None, print)
    await box.open()
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    errors = []
    for number in range(400):
        try:
            await box.put(f"{number} " + "x" * 4000)
        except JournalError as error:
            errors.append(str(error))
    accepted = box.waiting
    await box.close()
    print(json.dumps({"accepted": accepted, "errors": errors}))

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "queue")


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("taut-journal")]


async def opened(path: str, ack: Ack | None = None, **limits: Any) -> Outbox:
    losses: list[Loss] = []
    box = Outbox(OfflineQueue(path=path, **limits), ack, losses.append)
    await box.open()
    return box


async def send(box: Outbox, count: int = 1) -> list[Data]:
    messages = []
    for _ in range(count):
        entry = await box.next()
        messages.append(entry.message)
        box.sent(entry)
    return messages


async def kept(path: str) -> tuple[Data, ...]:
    """What the file holds."""
    return await (await opened(path)).close()


class TestRestart:
    async def test_what_was_not_sent_is_there_again_in_order(self, path: str) -> None:
        messages: list[Data] = ["a", b"a", "", b"", "é", "a\0b", b"\xff\0", "x" * 100_000]
        box = await opened(path)
        for message in messages:
            await box.put(message)
        assert await send(box) == ["a"]
        assert await box.close() == tuple(messages[1:])
        box = await opened(path)
        assert box.waiting == 7
        assert box.size == sum(len(m if isinstance(m, bytes) else m.encode()) for m in messages[1:])
        await box.put("last")
        assert await send(box, 8) == [*messages[1:], "last"]
        await box.drain()
        assert await box.close() == ()
        assert await kept(path) == ()

    async def test_what_was_not_acknowledged_is_there_again_with_its_key(self, path: str) -> None:
        box = await opened(path, ACK)
        for message in "abcd":
            await box.put(message)
        await send(box, 3)
        assert box.acknowledge("b") == 1
        assert await box.close() == ("a", "c", "d")
        box = await opened(path, ACK)
        assert (box.waiting, box.in_flight) == (3, 0)
        assert await send(box, 3) == ["a", "c", "d"]
        assert [box.acknowledge(key) for key in "dcba"] == [1, 1, 0, 1]
        await box.drain()
        assert await box.close() == ()

    async def test_what_is_left_in_a_file_is_no_loss(self, path: str) -> None:
        losses: list[Loss] = []
        box = Outbox(OfflineQueue(path=path), None, losses.append)
        await box.open()
        await box.put("a")
        assert await box.close() == ("a",)
        assert losses == []

    async def test_a_dropped_message_does_not_come_back(self, path: str) -> None:
        box = await opened(path, max_messages=2, policy="drop_oldest")
        for message in "abcd":
            await box.put(message)
        assert box.lost_messages == 2
        await box.close()
        assert await kept(path) == ("c", "d")

    async def test_a_file_that_holds_more_than_the_limits_is_taken_over_whole(self, path: str) -> None:
        box = await opened(path)
        for message in "abc":
            await box.put(message)
        await box.close()
        box = await opened(path, max_messages=2, policy="fail")
        with pytest.raises(QueueFull):
            await box.put("d")
        assert await send(box, 2) == ["a", "b"]
        await box.put("d")
        assert await box.close() == ("c", "d")

    async def test_an_exception_of_sent_while_opening_closes_the_file(self, path: str) -> None:
        box = await opened(path)
        await box.put("a")
        await box.close()

        def refuse(message: Data) -> str:
            raise LookupError(message)

        with pytest.raises(LookupError):
            await opened(path, Ack(sent=refuse, received=refuse))
        assert await kept(path) == ("a",)

    async def test_it_has_to_be_opened(self, path: str) -> None:
        box = Outbox(OfflineQueue(path=path), None, lambda _: None)
        with pytest.raises(RuntimeError, match="open"):
            await box.put("a")
        assert await box.close() == ()
        with pytest.raises(OutboxClosed):
            await box.open()

    async def test_a_name_that_sqlite_takes_for_something_else_is_a_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for name in (":memory:", "file:x?mode=memory"):
            box = await opened(name)
            await box.put("a")
            await box.close()
            assert await kept(name) == ("a",)
            assert (tmp_path / name).exists()

    async def test_only_its_owner_may_read_it(self, path: str) -> None:
        box = await opened(path)
        await box.put("a")
        for name in os.listdir(os.path.dirname(path)):
            assert stat.S_IMODE(os.stat(os.path.join(os.path.dirname(path), name)).st_mode) == 0o600
        await box.close()


class TestProcesses:
    @pytest.mark.parametrize("acknowledged", [False, True])
    async def test_a_kill_loses_nothing_that_put_returned_for(self, path: str, acknowledged: bool) -> None:
        put: set[str] = set()
        ending: set[str] = set()
        gone: set[str] = set()
        said = {"put": put, "ending": ending, "gone": gone}
        for round_ in range(3):
            command = [sys.executable, "-c", KILLED, path, str(round_), str(int(acknowledged))]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
                assert child.stdout is not None
                for number, line in enumerate(child.stdout):
                    _note(line, said)
                    if number == 400 + 150 * round_:
                        break
                child.send_signal(signal.SIGKILL)
                for line in child.stdout:
                    if line.endswith("\n"):
                        _note(line, said)
            box = await opened(path, max_messages=100_000)
            left = await box.close()
            assert len(set(left)) == len(left)
            assert put - ending <= set(left), "put() returned, and it is not in the file"
            assert not gone & set(left), "flush() returned, and it is in the file"
            for of in range(round_ + 1):  # in the order in which they were put
                numbers = [int(m.split()[1]) for m in map(str, left) if m.startswith(f"{of} ")]
                assert numbers == sorted(numbers)
        assert len(put) > 1000
        assert gone

    async def test_a_second_process_is_refused(self, path: str) -> None:
        box = await opened(path)
        await box.put("a")
        done = subprocess.run([sys.executable, "-c", SECOND, path], capture_output=True, text=True, check=True)
        expected = (
            f"the queue's file {path!r} cannot be used: it is in use by another session, of this process or of another"
        )
        assert done.stdout.strip() == expected
        await box.put("b")
        assert await box.close() == ("a", "b")
        done = subprocess.run([sys.executable, "-c", SECOND, path], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "opened"

    async def test_a_second_outbox_is_refused(self, path: str) -> None:
        box = await opened(path)
        for _ in range(3):
            with pytest.raises(JournalError, match="in use by another session") as caught:
                await opened(path)
            assert caught.value.path == path
        await box.put("a")
        assert await box.close() == ("a",)

    async def test_a_fork_is_refused(self, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        box = await opened(path)
        with monkeypatch.context() as patched:
            patched.setattr(os, "getpid", lambda: -1)
            with pytest.raises(JournalError, match="fork"):
                await box.put("a")
        assert (box.size, box.waiting) == (0, 0)
        await box.close()

    def test_a_loop_that_ends_without_close_leaves_the_messages_and_no_thread(self, path: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", SECOND.replace("await box.close()", "await box.put('a')"), path],
            capture_output=True, text=True, check=True, timeout=30,
        )  # fmt: skip
        assert (done.stdout.strip(), done.stderr) == ("opened", "")
        assert asyncio.run(kept(path)) == ("a",)


def _note(line: str, said: dict[str, set[str]]) -> None:
    what, message = line.rstrip("\n").split(" ", 1)
    said[what].add(message)


def _database(path: str, *statements: str) -> None:
    database = sqlite3.connect(path)
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.close()


class TestFiles:
    @pytest.mark.parametrize(
        "content", [b"x", b"some text\n" * 50, b"SQLite format 3\0" + bytes(84), bytes(4096), os.urandom(10_000)]
    )
    async def test_what_is_no_database_is_refused_and_left_alone(self, path: str, content: bytes) -> None:
        Path(path).write_bytes(content)
        with pytest.raises(JournalError) as caught:
            await opened(path)
        assert path in str(caught.value)
        assert Path(path).read_bytes() == content
        assert os.listdir(os.path.dirname(path)) == ["queue"]

    @pytest.mark.parametrize(
        ("statement", "problem"),
        [
            ("CREATE TABLE message (serial, text, payload)", "another program"),
            ("PRAGMA application_id = 7", "another program"),
            ("PRAGMA user_version = 1", "another program"),
        ],
    )
    async def test_a_database_of_another_program_is_refused_and_left_alone(
        self, path: str, statement: str, problem: str
    ) -> None:
        _database(path, statement)
        content = Path(path).read_bytes()
        with pytest.raises(JournalError, match=problem) as caught:
            await opened(path)
        assert caught.value.path == path
        assert Path(path).read_bytes() == content

    async def test_a_later_version_is_refused_and_left_alone(self, path: str) -> None:
        await (await opened(path)).close()
        _database(path, "PRAGMA user_version = 2")
        content = Path(path).read_bytes()
        with pytest.raises(JournalError, match="version 2, and only 1 can be read"):
            await opened(path)
        assert Path(path).read_bytes() == content

    async def test_a_damaged_file_is_refused_and_not_deleted(self, path: str) -> None:
        box = await opened(path)
        for number in range(200):
            await box.put(f"{number} {'x' * 1000}")
        await box.close()
        content = Path(path).read_bytes()
        for damaged in (content[:4096] + os.urandom(4096) + content[8192:], content[: len(content) // 2]):
            Path(path).write_bytes(damaged)
            with pytest.raises(JournalError, match="damaged"):
                await opened(path)
            assert len(Path(path).read_bytes()) == len(damaged)
        Path(path).write_bytes(content)
        assert len(await kept(path)) == 200

    @pytest.mark.parametrize("row", ["1, x'ff'", "2, x'61'", "0, 'a'"])
    async def test_a_damaged_message_is_refused(self, path: str, row: str) -> None:
        await (await opened(path)).close()
        _database(path, f"INSERT INTO message (text, payload) VALUES ({row})")
        with pytest.raises(JournalError, match="damaged: message 1"):
            await opened(path)

    async def test_a_table_that_is_not_there_is_an_error(self, path: str) -> None:
        await (await opened(path)).close()
        _database(path, "DROP TABLE message")
        with pytest.raises(JournalError, match="no such table"):
            await opened(path)

    @pytest.mark.parametrize("where", [".", "missing/queue", "file/queue"])
    async def test_a_path_that_cannot_be_a_file_is_an_error(self, tmp_path: Path, where: str) -> None:
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(JournalError) as caught:
            await opened(str(tmp_path / where))
        assert str(tmp_path) in caught.value.path
        assert isinstance(caught.value, OSError)

    async def test_an_opening_that_was_killed_is_taken_up(self, path: str) -> None:
        _database(path, "PRAGMA auto_vacuum = INCREMENTAL", "PRAGMA journal_mode = WAL")
        box = await opened(path)
        await box.put("a")
        assert await box.close() == ("a",)

    def test_the_file_stays_small(self, path: str) -> None:
        async def main() -> int:
            box = await opened(path, max_messages=5000)
            largest = 0
            for _ in range(20):
                await asyncio.gather(*(box.put(b"x" * 500) for _ in range(5000)))
                await send(box, 5000)
                largest = max(largest, sum(os.path.getsize(path + end) for end in ("", "-wal")))
            await box.drain()
            await box.close()
            return largest

        assert asyncio.run(main()) < 20 << 20  # 50 MB went through it, 2.5 MB at a time
        assert os.path.getsize(path) < 1 << 16
        assert not os.path.exists(path + "-wal")


class TestFullDisk:
    def test_a_limit_on_files_reaches_the_caller_and_nothing_else_is_lost(self, path: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", DISK_FULL, path], capture_output=True, text=True, check=True, timeout=60
        )
        result = json.loads(done.stdout)
        assert 0 < result["accepted"] < 400
        assert result["errors"]
        assert all(path in error for error in result["errors"])
        assert len(asyncio.run(kept(path))) == result["accepted"]

    async def test_room_on_the_disk_is_used_again(self, path: str) -> None:
        box = await opened(path, max_messages=10_000)
        await _limit_pages(box, 60)
        accepted = []
        for number in range(100):
            message = f"{number} {'x' * 4000}"
            try:
                await box.put(message)
            except JournalError as error:
                assert "full" in str(error)  # noqa: PT017
                break
            accepted.append(message)
        assert 20 < len(accepted) < 60
        assert (box.waiting, box.size) == (len(accepted), sum(map(len, accepted)))
        assert await send(box, 10) == accepted[:10]
        assert box._journal is not None
        await box._journal.flush()
        await box.put("y" * 4000)
        assert await box.close() == (*accepted[10:], "y" * 4000)
        assert await kept(path) == (*accepted[10:], "y" * 4000)

    async def test_only_what_does_not_fit_fails(self, path: str) -> None:
        box = await opened(path, max_messages=10_000)
        await _limit_pages(box, 60)
        results = await asyncio.gather(box.put("a"), box.put("x" * 1_000_000), box.put("b"), return_exceptions=True)
        assert (results[0], results[2]) == (None, None)
        assert isinstance(results[1], JournalError)
        assert await box.close() == ("a", "b")
        assert await kept(path) == ("a", "b")


async def _limit_pages(box: Outbox, pages: int) -> None:
    """Let the file grow to that many pages only."""
    assert box._journal is not None
    assert box._journal._thread is not None
    file = box._journal._file
    statement = f"PRAGMA max_page_count = {pages}"
    await asyncio.wrap_future(box._journal._thread.submit(lambda: file._opened().execute(statement).fetchone()))


class Held:
    """A disk that is slow until it is told otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
        self._loop = asyncio.get_running_loop()
        self.reached = asyncio.Event()
        self.released = threading.Event()
        original = getattr(JournalFile, method)

        def held(file: JournalFile, *args: Any) -> Any:
            self._loop.call_soon_threadsafe(self.reached.set)
            self.released.wait(30)
            return original(file, *args)

        monkeypatch.setattr(JournalFile, method, held)


class TestThread:
    async def test_the_loop_goes_on_while_the_disk_does_not(self, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        box = await opened(path)
        disk = Held(monkeypatch, "write")
        tasks = [asyncio.create_task(box.put(message)) for message in "abc"]
        await disk.reached.wait()
        tasks += [asyncio.create_task(box.put(message)) for message in "def"]
        await asyncio.sleep(0.01)
        assert not any(task.done() for task in tasks)
        assert (box.waiting, box.size) == (0, 6)
        disk.released.set()
        await asyncio.gather(*tasks)
        assert await send(box, 6) == list("abcdef")
        assert await box.close() == ()

    async def test_what_is_asked_for_meanwhile_is_one_transaction(
        self, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        box = await opened(path, max_messages=5000)
        sizes: list[int] = []
        original = JournalFile.write

        def write(file: JournalFile, appends: list[tuple[int, Data]], removals: list[int]) -> Any:
            sizes.append(len(appends))
            return original(file, appends, removals)

        monkeypatch.setattr(JournalFile, "write", write)
        await asyncio.gather(*(box.put("x") for _ in range(5000)))
        assert sizes == [5000]
        assert len(await box.close()) == 5000

    @pytest.mark.parametrize("when", ["before", "during", "after"])
    async def test_a_cancelled_put_is_taken_back(self, path: str, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
        box = await opened(path, max_messages=2)
        disk = Held(monkeypatch, "write")

        async def put_first() -> None:
            await box.put("a")
            if when == "after":  # "b" is in the file as well, but its task has not gone on yet
                second.cancel()

        first = asyncio.create_task(put_first())
        if when == "before":  # "b" is still to be given to the thread
            await disk.reached.wait()
        second = asyncio.create_task(box.put("b"))
        third = asyncio.create_task(box.put("c"))
        await disk.reached.wait()
        await asyncio.sleep(0)
        if when != "after":
            second.cancel()
        disk.released.set()
        await asyncio.gather(first, third)
        assert second.cancelled()
        assert await box.close() == ("a", "c")
        assert await kept(path) == ("a", "c")

    @pytest.mark.parametrize("seed", range(4))
    async def test_cancellations_anywhere(self, path: str, seed: int) -> None:
        chance = random.Random(seed)
        box = await opened(path, max_messages=5)
        accepted: list[str] = []
        received: list[Data] = []

        async def put(message: str) -> None:
            await box.put(message)
            accepted.append(message)

        async def consume() -> None:
            while True:
                received.extend(await send(box))
                if chance.random() < 0.5:
                    await asyncio.sleep(0)

        consumer = asyncio.create_task(consume())
        tasks: list[asyncio.Task[None]] = []
        for number in range(400):
            tasks.append(asyncio.create_task(put(str(number))))
            await asyncio.sleep(chance.choice((0, 0, 0.0001)))
            if chance.random() < 0.4:
                chance.choice(tasks[-8:]).cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)
        left = await box.close()
        assert [*received, *left] == accepted
        assert accepted == sorted(accepted, key=int)
        assert 0 < len(accepted) < 400
        assert await kept(path) == left

    async def test_close_writes_what_is_being_put(self, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        box = await opened(path, max_messages=3)
        disk = Held(monkeypatch, "write")
        tasks = [asyncio.create_task(box.put(message)) for message in "ab"]
        await disk.reached.wait()
        tasks += [asyncio.create_task(box.put(message)) for message in "cd"]
        await asyncio.sleep(0)
        closing = asyncio.create_task(box.close())
        await asyncio.sleep(0)
        disk.released.set()
        assert await closing == ("a", "b", "c")
        await asyncio.gather(*tasks[:3])
        with pytest.raises(OutboxClosed):
            await tasks[3]
        assert await kept(path) == ("a", "b", "c")

    async def test_a_put_cancelled_while_closing_is_taken_back(
        self, path: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        box = await opened(path)
        disk = Held(monkeypatch, "write")
        tasks = [asyncio.create_task(box.put(message)) for message in "ab"]
        await disk.reached.wait()
        closing = asyncio.create_task(box.close())
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.sleep(0)
        disk.released.set()
        assert await closing == ("b",)
        assert tasks[0].cancelled()
        assert await kept(path) == ("b",)

    @pytest.mark.parametrize("method", ["open", "write", "close"])
    def test_a_loop_that_is_cancelled_leaves_no_thread_and_no_lock(
        self, path: str, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        async def main() -> None:
            disk = Held(monkeypatch, method)

            async def use() -> None:
                box = await opened(path)
                try:
                    await box.put("a")
                finally:
                    await box.close()

            task = asyncio.create_task(use())
            await disk.reached.wait()
            asyncio.get_running_loop().call_later(0.05, disk.released.set)
            task.cancel()
            await asyncio.sleep(0)
            raise KeyboardInterrupt  # what is left is cancelled again

        with pytest.raises(KeyboardInterrupt):
            asyncio.run(main())
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("taut-journal")]
        monkeypatch.undo()
        assert asyncio.run(kept(path)) == (("a",) if method == "close" else ())

    async def test_close_says_when_the_file_could_not_be_told(self, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        box = await opened(path)
        await box.put("a")
        original = JournalFile._commit

        def refuse(file: JournalFile, appends: Any, removals: Any) -> None:
            if removals:
                raise sqlite3.OperationalError("disk I/O error")
            original(file, appends, removals)

        monkeypatch.setattr(JournalFile, "_commit", refuse)
        await send(box)
        with pytest.raises(JournalError, match="disk I/O error"):
            await box.drain()
        await box.put("b")  # nobody else is disturbed
        with pytest.raises(JournalError, match="disk I/O error"):
            await box.close()
        monkeypatch.undo()
        assert await kept(path) == ("a", "b")

    async def test_a_removal_that_failed_is_tried_again(self, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
        box = await opened(path)
        await box.put("a")
        with monkeypatch.context() as patched:

            def refuse(file: JournalFile, appends: Any, removals: Any) -> None:
                raise sqlite3.OperationalError("disk I/O error")

            patched.setattr(JournalFile, "_commit", refuse)
            await send(box)
            with pytest.raises(JournalError):
                await box.drain()
        await box.drain()
        assert await box.close() == ()
        assert await kept(path) == ()

    async def test_a_journal_that_is_not_open_takes_nothing(self, path: str) -> None:
        journal = Journal(path)
        with pytest.raises(RuntimeError, match="not open"):
            await journal.append(1, "a")
        journal.remove([1])
        await journal.flush()
        await journal.close()
        assert not os.path.exists(path)
