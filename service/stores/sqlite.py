"""A store in one SQLite file, through apsw: write-ahead log, synchronous=FULL, one writer, commits grouped.

Writes gather on the event loop; all that have gathered go into one transaction, and are answered together after its
single fsync. A thread waits for the disk, and the next group gathers meanwhile, so that the more sessions write at
once, the less a step costs.

One process owns a data directory: a lock on the file `lock` in it is held for the store's life.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from service.errors import Unavailable
from service.stores.base import Erased, Full, Gap, Head, Missing, Row, StoreError, Taken, TooBig
from service.stores.reserve import Reserve, free

MINIMUM_SQLITE = (3, 51, 3)  # below it, a race when the write-ahead log restarts can corrupt the file
SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE sessions (key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, head BLOB, due REAL, tombstone BLOB);
CREATE TABLE events (session INTEGER NOT NULL, number INTEGER NOT NULL, event BLOB NOT NULL, payload BLOB,
                     PRIMARY KEY (session, number)) WITHOUT ROWID;
CREATE TABLE snapshots (session INTEGER NOT NULL, number INTEGER NOT NULL, state BLOB NOT NULL,
                        PRIMARY KEY (session, number)) WITHOUT ROWID;
"""
INDEXES = """
CREATE INDEX erased ON sessions (head IS NULL);
CREATE INDEX due ON sessions (due) WHERE due IS NOT NULL;
"""
# What turns a file of one version into the next, in one transaction.
MIGRATIONS = {
    # When a session is due stands in its head, which only the engine reads: let it look at each of them once.
    1: """
ALTER TABLE sessions ADD COLUMN due REAL;
ALTER TABLE sessions ADD COLUMN tombstone BLOB;
UPDATE sessions SET due = 0 WHERE head IS NOT NULL;
"""
    + INDEXES
}
PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "cache_size = -16000",
    "temp_store = MEMORY",
    "wal_autocheckpoint = 16384",  # pages; a page that many steps change is moved to the file once in so many
)
MAX_BYTES = 1_000_000_000 - (1 << 20)  # SQLite's bound on a row, with room for its other columns
LARGE = 1 << 18  # bytes; a group that has so many is written by the thread, not on the event loop
_KEY = "(SELECT key FROM sessions WHERE id = ? AND head IS NOT NULL)"
_HAS_ROW = "EXISTS (SELECT 1 FROM events WHERE session = {} AND number = {})"
_APPEND = (
    "INSERT INTO events SELECT key, ?2, ?3, ?4 FROM sessions WHERE id = ?1 AND head IS NOT NULL AND (?2 = 1 OR "
    f"{_HAS_ROW.format('key', '?2 - 1')})"
)
_HEADS = (
    "SELECT key, id, coalesce(head, tombstone, x'') FROM sessions INDEXED BY erased WHERE (head IS NULL) = ? "
    "AND key < ? ORDER BY key DESC LIMIT ?"
)
_FORGET = (
    "UPDATE events SET payload = NULL WHERE session = ?1 AND number <= ?2 AND number > coalesce((SELECT number FROM "
    "events WHERE session = ?1 AND number <= ?2 AND payload IS NULL ORDER BY number DESC LIMIT 1), 0)"
)

logger = logging.getLogger("thalweg")


class DataDirectoryInUse(StoreError):
    """Another process owns the data directory."""


class UnsuitableStore(StoreError):
    """The file or the SQLite library is not one that this service can work with."""


class _Job(NamedTuple):
    write: Callable[[apsw.Connection], None]
    future: asyncio.Future[None]
    frees: bool  # it makes room, and so has a right to what is reserved


_Outcomes = list[BaseException | None]
_Group = tuple[asyncio.AbstractEventLoop, list[_Job], _Outcomes | None]


class SQLiteStore:
    """The file `thalweg.sqlite` in a directory; raises DataDirectoryInUse or UnsuitableStore when it cannot be had."""

    def __init__(self, directory: Path) -> None:
        if tuple(int(part) for part in apsw.sqlite_lib_version().split(".")) < MINIMUM_SQLITE:
            wanted = ".".join(map(str, MINIMUM_SQLITE))
            raise UnsuitableStore(f"SQLite {apsw.sqlite_lib_version()} is too old; upgrade apsw to SQLite {wanted}.")
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = _own(directory)
        self._path = str(directory / "thalweg.sqlite")
        self._readers = threading.local()
        self._open_readers: list[apsw.Connection] = []
        try:
            self._writer = _open(self._path)
            self._reserve = Reserve(directory / "reserve")
        except BaseException:
            os.close(self._lock)
            raise
        self._gathering: list[_Job] = []
        self._size = 0
        self._writing = False
        self._failed: BaseException | None = None
        self._groups: queue.SimpleQueue[_Group | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_forever, name="store", daemon=True)
        self._thread.start()

    # Writes

    def create(self, session: str, head: bytes, snapshot: bytes, due: float | None = None) -> asyncio.Future[None]:
        def write(db: apsw.Connection) -> None:
            try:
                db.execute("INSERT INTO sessions (id, head, due) VALUES (?, ?, ?)", (session, head, due))
            except apsw.ConstraintError:
                _key(db, session)
                raise Taken(session) from None
            db.execute("INSERT INTO snapshots VALUES (?, 0, ?)", (db.last_insert_rowid(), snapshot))

        return self._submit(write, len(snapshot))

    def append(self, session: str, number: int, event: bytes, payload: bytes) -> asyncio.Future[None]:
        def write(db: apsw.Connection) -> None:
            try:
                db.execute(_APPEND, (session, number, event, payload))
            except apsw.ConstraintError:
                raise Taken(f"{session}/{number}") from None
            if not db.changes():
                _key(db, session)
                raise Gap(f"{session}/{number}")

        return self._submit(write, len(payload))

    def extend(self, session: str, number: int, rows: Sequence[tuple[bytes, bytes]]) -> asyncio.Future[None]:
        """The fence lets the first row in; the others follow, for a log has no holes that one could fall into."""

        def write(db: apsw.Connection) -> None:
            try:
                db.execute(_APPEND, (session, number, *rows[0]))
            except apsw.ConstraintError:
                raise Taken(f"{session}/{number}") from None
            if not db.changes():
                _key(db, session)
                raise Gap(f"{session}/{number}")
            if len(rows) > 1:
                key = _key(db, session)
                following = ((key, number + i, *rows[i]) for i in range(1, len(rows)))
                db.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", following)

        return self._submit(write, sum(len(payload) for _, payload in rows))

    def keep(self, session: str, number: int, snapshot: bytes, forget: int) -> asyncio.Future[None]:
        def write(db: apsw.Connection) -> None:
            key = _key(db, session)
            if number and not db.execute(f"SELECT {_HAS_ROW.format('?', '?')}", (key, number)).get:
                raise Gap(f"{session}/{number}")
            db.execute("INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)", (key, number, snapshot))
            db.execute("DELETE FROM snapshots WHERE session = ? AND number < ?", (key, forget))
            db.execute(_FORGET, (key, forget))  # downward, to those that were forgotten before

        return self._submit(write, len(snapshot))

    def replace_head(self, session: str, head: bytes, due: float | None = None) -> asyncio.Future[None]:
        def write(db: apsw.Connection) -> None:
            db.execute("UPDATE sessions SET head = ?, due = ? WHERE key = ?", (head, due, _key(db, session)))

        return self._submit(write)

    def erase(self, session: str, tombstone: bytes = b"") -> asyncio.Future[None]:
        def write(db: apsw.Connection) -> None:
            key = _key(db, session)
            db.execute("DELETE FROM events WHERE session = ?", (key,))
            db.execute("DELETE FROM snapshots WHERE session = ?", (key,))
            db.execute("UPDATE sessions SET head = NULL, due = NULL, tombstone = ? WHERE key = ?", (tombstone, key))

        return self._submit(write, LARGE, frees=True)  # large, for the log may be long

    # Reads

    def head(self, session: str) -> bytes:
        row = self._one("SELECT head, tombstone FROM sessions WHERE id = ?", (session,))
        if row is None:
            raise Missing(session)
        if row[0] is None:
            raise Erased(session, row[1] or b"")
        head: bytes = row[0]
        return head

    def heads(self, before: int | None, limit: int, erased: bool = False) -> list[Head]:
        newest = 1 << 62 if before is None else min(before, 1 << 62)
        return [Head(*row) for row in self._all(_HEADS, (erased, newest, limit))]

    def due(self, now: float, limit: int) -> list[str]:
        sql = "SELECT id FROM sessions INDEXED BY due WHERE due <= ? ORDER BY due LIMIT ?"
        return [row[0] for row in self._all(sql, (now, limit))]

    def rows(self, session: str, after: int, limit: int) -> list[Row]:
        sql = f"SELECT number, event, payload FROM events WHERE session = {_KEY} AND number > ? ORDER BY number LIMIT ?"
        return [Row(*row) for row in self._all(sql, (session, after, limit))]

    def events(self, session: str, after: int, limit: int) -> list[Row]:
        sql = f"SELECT number, event, NULL FROM events WHERE session = {_KEY} AND number > ? ORDER BY number LIMIT ?"
        return [Row(*row) for row in self._all(sql, (session, after, limit))]

    def last(self, session: str) -> Row | None:
        sql = f"SELECT number, event, NULL FROM events WHERE session = {_KEY} ORDER BY number DESC LIMIT 1"
        row = self._one(sql, (session,))
        return Row(*row) if row else None

    def snapshot(self, session: str, at_most: int) -> tuple[int, bytes] | None:
        sql = f"SELECT number, state FROM snapshots WHERE session = {_KEY} AND number <= ? ORDER BY number DESC LIMIT 1"
        found: tuple[int, bytes] | None = self._one(sql, (session, at_most))
        return found

    def newest_snapshot(self, session: str, at_most: int) -> int | None:
        row = self._one(f"SELECT max(number) FROM snapshots WHERE session = {_KEY} AND number <= ?", (session, at_most))
        number: int | None = row[0]
        return number

    def first_snapshot(self, session: str) -> int | None:
        row = self._one(f"SELECT min(number) FROM snapshots WHERE session = {_KEY}", (session,))
        number: int | None = row[0]
        return number

    def count(self) -> int:
        row = self._one("SELECT count(*) FROM sessions WHERE (head IS NULL) = 0", ())
        return int(row[0]) if row else 0

    def writable(self) -> bool:
        if self._failed is not None:  # without traffic nothing else would find out that it has passed
            self._submit(_touch).add_done_callback(asyncio.Future.exception)
        return self._failed is None and self._thread.is_alive()

    def close(self) -> None:
        if self._gathering:
            self._groups.put((self._gathering[0].future.get_loop(), self._gathering, None))
            self._gathering = []
        self._groups.put(None)
        self._thread.join()
        for reader in self._open_readers:
            reader.close()
        self._reserve.give()
        try:
            self._writer.close()
        finally:
            os.close(self._lock)

    # The writer

    def _submit(
        self, write: Callable[[apsw.Connection], None], size: int = 0, frees: bool = False
    ) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if size > MAX_BYTES:
            future.set_exception(TooBig(f"{size} bytes; at most {MAX_BYTES} can be written at once"))
            return future
        self._gathering.append(_Job(write, future, frees))
        self._size += size
        if not self._writing:
            self._writing = True
            loop.call_soon(self._hand_over, loop)
        return future

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give all that has gathered to the writing thread.

        Small writes are made here, and only the commit, which waits for the disk, there: each piece of Python in
        another thread would make the two fight for the interpreter.
        """
        group, self._gathering = self._gathering, []
        small, self._size = self._size < LARGE, 0
        self._groups.put((loop, group, self._begin(group) if small else None))

    def _write_forever(self) -> None:
        while (item := self._groups.get()) is not None:
            loop, group, outcomes = item
            outcomes = self._commit(self._begin(group) if outcomes is None else outcomes)
            if isinstance(self._failed, Full):
                outcomes = self._make_room(group)
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
                loop.call_soon_threadsafe(self._answer, loop, group, outcomes)

    def _begin(self, group: list[_Job]) -> _Outcomes:
        """One transaction, but for its end; a job that is refused undoes nothing of its neighbours'."""
        db = self._writer
        try:
            db.execute("BEGIN IMMEDIATE")
            return [_attempt(job.write, db) for job in group]
        except Exception as error:  # disk full, input/output error: nobody may be told that it is written
            return self._failure(error, len(group))

    def _commit(self, outcomes: _Outcomes) -> _Outcomes:
        if not self._writer.in_transaction:
            return outcomes
        try:
            self._writer.execute("COMMIT")
        except Exception as error:
            return self._failure(error, len(outcomes))
        self._failed = None
        return outcomes

    def _failure(self, error: Exception, size: int) -> _Outcomes:
        with contextlib.suppress(apsw.Error):
            self._writer.execute("ROLLBACK")
        self._failed = Full(str(error)) if isinstance(error, apsw.FullError) else error
        return [self._failed] * size

    def _make_room(self, group: list[_Job]) -> _Outcomes:
        """On a full disk: move the log to the file, so that the log's own room can be used again, and try once more.

        What this needs is reserved for groups that erase something, and for what was erased shortly before.
        """
        freeing = [job for job in group if job.frees]
        others = [job for job in group if not job.frees]
        reserved = bool(freeing) or self._is_hollow()
        if reserved:
            self._reserve.give()
        with contextlib.suppress(apsw.Error):
            self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        outcomes = self._commit(self._begin(freeing)) if freeing else []
        if reserved:
            self._reserve.take()
        self._bound()
        outcomes += self._commit(self._begin(others)) if others else []
        of = {id(job): outcome for job, outcome in zip([*freeing, *others], outcomes, strict=True)}
        return [of[id(job)] for job in group]

    def _is_hollow(self) -> bool:
        """Whether of the pages that the file is to grow by at least half were erased since."""
        with contextlib.suppress(apsw.Error, OSError):
            count, unused, size = (self._pragma(name) for name in ("page_count", "freelist_count", "page_size"))
            return 0 < count - os.path.getsize(self._path) // size <= 2 * unused
        return False

    def _bound(self) -> None:
        """Let the log hold no more new pages than there is room for in the file, so that it can always be moved."""
        with contextlib.suppress(apsw.Error, OSError):
            room = os.path.getsize(self._path) + self._reserve.held() + free(Path(self._path).parent)
            self._writer.pragma("max_page_count", room // self._pragma("page_size"))

    def _pragma(self, name: str) -> int:
        return int(self._writer.pragma(name))

    def _answer(self, loop: asyncio.AbstractEventLoop, group: list[_Job], outcomes: _Outcomes) -> None:
        for job, outcome in zip(group, outcomes, strict=True):
            if job.future.done():  # the request was cancelled; what it wrote stays written
                continue
            if outcome is None:
                job.future.set_result(None)
            else:
                job.future.set_exception(outcome)
        if self._gathering:
            loop.call_soon(self._hand_over, loop)
        else:
            self._writing = False

    # Connections

    def _reader(self) -> apsw.Connection:
        """This thread's own connection for reading."""
        reader: apsw.Connection | None = getattr(self._readers, "connection", None)
        if reader is None:
            reader = _connect(self._path)
            reader.execute("PRAGMA query_only = ON")
            self._readers.connection = reader
            self._open_readers.append(reader)
        return reader

    def _one(self, sql: str, arguments: tuple[Any, ...]) -> Any:
        rows = self._all(sql, arguments)
        return rows[0] if rows else None

    def _all(self, sql: str, arguments: tuple[Any, ...]) -> list[Any]:
        """All rows of a query. Raises Unavailable when the disk does not give them."""
        try:
            return self._reader().execute(sql, arguments).fetchall()  # to the end: an open cursor would pin the log
        except apsw.Error as error:
            logger.error("the store failed to read: %s", error)
            raise Unavailable("The store cannot be read now; send the same request again.", retry_after=1) from error


def _attempt(write: Callable[[apsw.Connection], None], db: apsw.Connection) -> BaseException | None:
    try:
        write(db)
    except StoreError as refusal:
        return refusal
    return None


def _touch(db: apsw.Connection) -> None:
    """A write that changes nothing and yet goes to the disk."""
    db.pragma("user_version", SCHEMA_VERSION)


def _key(db: apsw.Connection, session: str) -> int:
    """The session's number; raises Missing or Erased."""
    sql = "SELECT key, head IS NULL, tombstone FROM sessions WHERE id = ?"
    rows: list[Any] = db.execute(sql, (session,)).fetchall()
    if not rows:
        raise Missing(session)
    if rows[0][1]:
        raise Erased(session, rows[0][2] or b"")
    return int(rows[0][0])


def _own(directory: Path) -> int:
    """The file descriptor that holds the directory's lock."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise DataDirectoryInUse(
            f"Another process is using the data directory {directory}; stop it, or give this one its own --data."
        ) from None
    return descriptor


def _connect(path: str) -> apsw.Connection:
    connection = apsw.Connection(path)
    connection.set_busy_timeout(10_000)
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}").fetchall()
    return connection


def _open(path: str) -> apsw.Connection:
    """The connection that writes, on a file that is what it must be. Raises UnsuitableStore."""
    connection = None
    try:
        connection = _connect(path)
        _prepare(connection)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, apsw.Error):
            raise UnsuitableStore(f"The data file {path} cannot be opened: {error}.") from None
        raise
    return connection


def _prepare(db: apsw.Connection) -> None:
    """Make the tables in a new file, bring one of an earlier version up to date, refuse one of a later."""
    version = db.pragma("user_version")
    if version == SCHEMA_VERSION:
        return
    if version == 0 and not list(db.execute("SELECT 1 FROM sqlite_master")):
        change = SCHEMA + INDEXES
    elif version in MIGRATIONS:
        change = "".join(MIGRATIONS[v] for v in range(version, SCHEMA_VERSION))
    else:
        raise UnsuitableStore(
            f"The data file has format {version}, this service writes {SCHEMA_VERSION}; use the release that made it."
        )
    with db:
        db.execute(change)
        db.pragma("user_version", SCHEMA_VERSION)
