"""The file of a queue: an SQLite database of one table, which a single thread reads once and then writes to.

What it withstands: every transaction is in the write-ahead log, which is handed to the operating system before the
transaction counts as committed.  The end of the process, a kill -9 included, loses none.  The file is not forced to the
disk at each commit (``synchronous = NORMAL``), so that a crash of the machine itself, or a loss of power, may lose the
last transactions, appended and removed messages alike; what is older is there, in order, and the file is intact.

It belongs to one process and one queue at a time: the lock is taken when the file is opened and held until it is
closed, by the process's end at the latest.  What is not such a file is refused before a byte of it is changed; nothing
is ever deleted, repaired or set aside.  Removed messages leave free pages, which later ones take, and which are given
back to the file system by and by.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Sequence
from typing import TypeAlias

from ...errors import JournalError
from ...types import Data

__all__ = ["JournalFile", "Row", "Written"]

Row: TypeAlias = tuple[int, Data, int]
"""A message in the file: its serial number, itself, its size in bytes."""
Written: TypeAlias = tuple[dict[int, JournalError], JournalError | None]
"""What was not appended, by serial number, with the reason; and why nothing was removed, or None."""

_APPLICATION = 0x74617574  # "taut", in the header of the file (PRAGMA application_id)
_VERSION = 1  # of the schema (PRAGMA user_version)
_SCHEMA = f"""
BEGIN;
CREATE TABLE message (serial INTEGER PRIMARY KEY, text INTEGER NOT NULL, payload BLOB NOT NULL);
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
COMMIT;
"""
_HEADER = 100  # bytes, of every database
_VACUUM_AFTER = 1 << 20  # bytes removed
_MAX_LOG = 1 << 22  # bytes that the log may keep
_OPENING = threading.Lock()
"""Held while a file is made: to close a file takes away the locks that this process has on it (POSIX, fcntl)."""


class JournalFile:
    """The messages in the file at ``path``; every method is called by one and the same thread."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._database: sqlite3.Connection | None = None
        self._sizes: dict[int, int] = {}  # of the messages in the file, by serial
        self._removed = 0  # bytes since the last vacuum

    def open(self) -> list[Row]:
        """Make the file or take it over; what it holds, in order: serial, message, and its size in bytes.

        Raises ``JournalError``; the file is closed again then.
        """
        try:
            with _OPENING:
                _make(self.path)
                if 0 < os.path.getsize(self.path) < _HEADER:  # SQLite takes a file of one byte for an empty one
                    raise JournalError(self.path, "it is no queue of messages, or damaged: it is too short")
                self._database = sqlite3.connect(self.path, timeout=0, isolation_level=None)
            self._prepare(self._database)
            rows = [self._row(*row) for row in self._database.execute("SELECT * FROM message ORDER BY serial")]
        except BaseException as error:
            if self._database is not None:
                self._database.close()
            if isinstance(error, sqlite3.Error | OSError) and not isinstance(error, JournalError):
                raise self._failure(error) from error
            raise
        self._sizes = {serial: size for serial, _, size in rows}
        return rows

    def _prepare(self, database: sqlite3.Connection) -> None:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        if os.path.getsize(self.path) == 0:
            database.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before there is a first page, or never
        database.execute("BEGIN EXCLUSIVE")  # so that whoever else has it open is noticed before anything else
        application, version, tables = database.execute(
            "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master)"
            " FROM pragma_application_id, pragma_user_version"
        ).fetchone()
        database.execute("COMMIT")
        new = (application, version, tables) == (0, 0, 0)
        if not new and application != _APPLICATION:
            raise JournalError(self.path, "it is the database of another program")
        if not new and version != _VERSION:
            raise JournalError(self.path, f"it is of version {version}, and only {_VERSION} can be read")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(f"PRAGMA journal_size_limit = {_MAX_LOG}")
        if new:
            database.executescript(_SCHEMA)
        (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise JournalError(self.path, f"it is damaged: {found}")

    def _row(self, serial: object, text: object, payload: object) -> Row:
        if not isinstance(serial, int) or text not in (0, 1) or not isinstance(payload, bytes):
            raise JournalError(self.path, f"it is damaged: message {serial!r}")
        try:
            return serial, payload.decode() if text else payload, len(payload)
        except UnicodeDecodeError as error:
            raise JournalError(self.path, f"it is damaged: message {serial} is not a text") from error

    def write(self, appends: Sequence[tuple[int, Data]], removals: Sequence[int]) -> Written:
        """Append and remove: in one transaction, or, if that fails, one for each, so that what can be done is done."""
        try:
            self._commit(appends, removals)
        except sqlite3.Error:
            pass
        else:
            return {}, None
        self._checkpoint()  # a log that cannot grow any more may be started afresh
        refused: dict[int, JournalError] = {}
        failure = None
        try:
            self._commit((), removals)
        except sqlite3.Error as error:
            failure = self._failure(error)
        for each in appends:
            try:
                self._commit((each,), ())
            except sqlite3.Error as error:
                refused[each[0]] = self._failure(error)
        return refused, failure

    def _commit(self, appends: Sequence[tuple[int, Data]], removals: Sequence[int]) -> None:
        database = self._opened()
        rows = [
            (serial, 1, message.encode()) if isinstance(message, str) else (serial, 0, message)
            for serial, message in appends
        ]
        database.execute("BEGIN")
        try:
            database.executemany("DELETE FROM message WHERE serial = ?", ((serial,) for serial in removals))
            database.executemany("INSERT INTO message VALUES (?, ?, ?)", rows)
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:  # some errors have ended it already
                database.execute("ROLLBACK")
            raise
        self._sizes.update((serial, len(payload)) for serial, _, payload in rows)
        self._removed += sum(self._sizes.pop(serial, 0) for serial in removals)
        if self._removed >= _VACUUM_AFTER:
            self._vacuum(self._removed)
            self._removed = 0

    def _vacuum(self, size: int) -> None:
        """Give free pages back to the file system, about ``size`` bytes of them; it can wait, so it may fail."""
        try:
            (page,) = self._opened().execute("PRAGMA page_size").fetchone()
            # It frees a page per step, and only executescript() takes every step of what has no columns.
            self._opened().executescript(f"PRAGMA incremental_vacuum({size // page})")
        except sqlite3.Error:
            return

    def _checkpoint(self) -> None:
        try:
            self._opened().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error:
            return

    def close(self) -> None:
        """Give up the lock; the log is worked into the file."""
        if self._database is None:
            return
        try:
            self._vacuum(1 << 62)
        finally:
            self._database.close()

    def _opened(self) -> sqlite3.Connection:
        if self._database is None:
            raise RuntimeError("the file is not open")
        return self._database

    def _failure(self, error: sqlite3.Error | OSError) -> JournalError:
        problem = str(error)
        if isinstance(error, OSError):
            return JournalError(self.path, error.strerror or problem)
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            problem = "it is in use by another session, of this process or of another"
        elif code == sqlite3.SQLITE_NOTADB:
            problem = "it is no queue of messages, or damaged: " + problem
        elif code == sqlite3.SQLITE_CORRUPT:
            problem = "it is damaged: " + problem
        return JournalError(self.path, problem)


def _make(path: str) -> None:
    """Make an empty file that only its owner may read, if there is none: messages may be secrets."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return
