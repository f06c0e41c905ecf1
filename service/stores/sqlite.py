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
from typing import Any, NamedTuple, TypeVar

import apsw

from service.errors import Unavailable
from service.stores.base import Entry, Erased, Full, Gap, Head, Missing, Payload, Row, Stored, StoreError, Taken, TooBig
from service.stores.reserve import Reserve, free

MINIMUM_SQLITE = (3, 51, 3)  # below it, a race when the write-ahead log restarts can corrupt the file
SCHEMA_VERSION = 3
SCHEMA = """
CREATE TABLE sessions (key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, head BLOB, due REAL, tombstone BLOB);
CREATE TABLE events (session INTEGER NOT NULL, number INTEGER NOT NULL, event BLOB NOT NULL, payload BLOB,
                     PRIMARY KEY (session, number)) WITHOUT ROWID;
CREATE TABLE snapshots (session INTEGER NOT NULL, number INTEGER NOT NULL, state BLOB NOT NULL,
                        PRIMARY KEY (session, number)) WITHOUT ROWID;
"""
# Rows come in the order of time and are kept in the order of logs. Written straight to their places, as many pages
# would change as logs; so they gather here first, on a few pages, and move there by the thousand.
JOURNAL = """
CREATE TABLE journal (session INTEGER NOT NULL, number INTEGER NOT NULL, event BLOB NOT NULL, payload BLOB);
CREATE UNIQUE INDEX journaled ON journal (session, number);
"""
MOVE = "INSERT INTO events SELECT * FROM journal ORDER BY session, number; DELETE FROM journal"
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
    + INDEXES,
    2: JOURNAL,
}
PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "cache_size = -16000",
    "temp_store = MEMORY",
    "wal_autocheckpoint = 4096",  # pages; from then on the log is written over, which takes half of what growing does
)
MAX_BYTES = 1_000_000_000 - (1 << 20)  # SQLite's bound on a row, with room for its other columns
LARGE = 1 << 18  # bytes; a group that has so many is written by the thread, not on the event loop
JOURNALED = 4_096  # rows in the journal at which they move to their places
SMALL = 1 << 11  # bytes of a payload; a larger one fills pages of its own and goes to its place at once
TAILS = 1 << 16  # sessions whose newest row is remembered
_KEY = "(SELECT key FROM sessions WHERE id = ? AND head IS NOT NULL)"
_APPEND = {table: f"INSERT INTO {table} VALUES (?, ?, ?, ?)" for table in ("events", "journal")}
_NEWEST = (
    "SELECT max(coalesce((SELECT max(number) FROM events WHERE session = ?1), 0), "
    "coalesce((SELECT max(number) FROM journal WHERE session = ?1), 0))"
)
_LOAD = (  # the length of a state is known without reading it
    "SELECT ?3, key, head, number, CASE WHEN length(state) <= ?2 THEN state END FROM sessions JOIN snapshots ON "
    "session = key WHERE id = ?1 AND head IS NOT NULL ORDER BY number DESC LIMIT 1"
)
_BOTH = "SELECT number, event, {1} FROM events WHERE {0} UNION ALL SELECT number, event, {1} FROM journal WHERE {0}"
_ROWS_FROM = _BOTH.format("session = ?1 AND number >= ?2", "payload, ?3") + " ORDER BY 1 LIMIT ?4"
_ABOVE = f"session = {_KEY.replace('?', '?1')} AND number > ?2"
_ROWS = _BOTH.format(_ABOVE, "payload") + " ORDER BY 1 LIMIT ?3"
_EVENTS = _BOTH.format(_ABOVE, "NULL") + " ORDER BY 1 LIMIT ?3"
_LAST = _BOTH.format(_ABOVE, "NULL") + " ORDER BY 1 DESC LIMIT 1"
_HEADS = (
    "SELECT key, id, coalesce(head, tombstone, x'') FROM sessions INDEXED BY erased WHERE (head IS NULL) = ? "
    "AND key < ? ORDER BY key DESC LIMIT ?"
)
_FORGET = (
    "UPDATE events SET payload = NULL WHERE session = ?1 AND number <= ?2 AND number > coalesce((SELECT number FROM "
    "events WHERE session = ?1 AND number <= ?2 AND payload IS NULL ORDER BY number DESC LIMIT 1), 0)",
    "UPDATE journal SET payload = NULL WHERE session = ?1 AND number <= ?2",
)

logger = logging.getLogger("thalweg")


class DataDirectoryInUse(StoreError):
    """Another process owns the data directory."""


class UnsuitableStore(StoreError):
    """The file or the SQLite library is not one that this service can work with."""


T = TypeVar("T")


class _Job(NamedTuple):
    write: Callable[[apsw.Connection], Any]
    future: asyncio.Future[Any]
    frees: bool  # it makes room, and so has a right to what is reserved


_Outcomes = list[Any]  # of each job what it gave, or the exception that it raised
_Group = tuple[asyncio.AbstractEventLoop, list[_Job], _Outcomes | None]


class SQLiteStore:
    """The file `thalweg.sqlite` in a directory; raises DataDirectoryInUse or UnsuitableStore when it cannot be had.

    `journal` is how many rows gather before they move to their places.
    """

    def __init__(self, directory: Path, journal: int = JOURNALED) -> None:
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
            self._journaled: int = self._writer.execute("SELECT count(*) FROM journal").get
            self._reserve = Reserve(directory / "reserve")
        except BaseException:
            os.close(self._lock)
            raise
        self._tails: dict[str, tuple[int, int]] = {}  # by session: its key and the number of its newest row
        self._journal_rows = journal
        self._gathering: list[_Job] = []
        self._size = 0
        self._writing = False
        self._failed: BaseException | None = None
        self._groups: queue.SimpleQueue[_Group | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_forever, name="store", daemon=True)
        self._thread.start()

    # Writes

    def create(self, session: str, head: bytes, snapshot: Payload, due: float | None = None) -> asyncio.Future[None]:
        def write(db: apsw.Connection) -> None:
            try:
                db.execute("INSERT INTO sessions (id, head, due) VALUES (?, ?, ?)", (session, head, due))
            except apsw.ConstraintError:
                _key(db, session)
                raise Taken(session) from None
            db.execute(
                "INSERT INTO snapshots VALUES (?, 0, ?)", (db.last_insert_rowid(), snapshot), can_cache=_small(snapshot)
            )

        return self._submit(write, len(snapshot))

    def append(self, session: str, number: int, event: bytes, payload: Payload) -> asyncio.Future[None]:
        def write(db: apsw.Connection) -> None:
            self._append(db, session, number, event, payload)

        return self._submit(write, len(payload))

    def append_all(self, entries: Sequence[Entry]) -> asyncio.Future[list[StoreError | None]]:
        def write(db: apsw.Connection) -> list[StoreError | None]:
            tails = self._tails
            following: list[tuple[int, int, bytes, Payload]] = []
            refusals: list[StoreError | None] = []
            for session, number, event, payload in entries:
                key, newest = tails.get(session, (0, -1))
                if newest == number - 1 and len(payload) <= SMALL:
                    tails[session] = key, number
                    following.append((key, number, event, payload))
                    refusals.append(None)
                else:
                    self._journal(db, following)
                    refusals.append(self._refusal(db, session, number, event, payload))
            self._journal(db, following)
            return refusals

        return self._submit(write, sum(len(entry.payload) for entry in entries))

    def _journal(self, db: apsw.Connection, rows: list[tuple[int, int, bytes, Payload]]) -> None:
        """Write these rows, and empty the list."""
        if rows:
            db.executemany(_APPEND["journal"], rows)
            self._journaled += len(rows)
            rows.clear()

    def _refusal(self, db: apsw.Connection, *row: Any) -> StoreError | None:
        try:
            self._append(db, *row)
        except StoreError as refusal:
            return refusal
        return None

    def extend(self, session: str, number: int, rows: Sequence[tuple[bytes, Payload]]) -> asyncio.Future[None]:
        def write(db: apsw.Connection) -> None:
            for i, row in enumerate(rows):
                self._append(db, session, number + i, *row)

        return self._submit(write, sum(len(payload) for _, payload in rows))

    def _append(self, db: apsw.Connection, session: str, number: int, event: bytes, payload: Payload) -> None:
        """Write a row where the log has come so far. Raises Taken, Gap, Missing, Erased.

        How far it has come need not be looked up for the logs that were written to lately: nobody else writes.
        """
        key, newest = self._tails.get(session) or self._tail(db, session)
        if newest != number - 1:
            raise (Taken if number <= newest else Gap)(f"{session}/{number}")
        small = len(payload) <= SMALL
        sql = _APPEND["journal" if small else "events"]
        db.execute(sql, (key, number, event, payload), can_cache=_small(payload))
        self._journaled += small
        self._tails[session] = key, number

    def _tail(self, db: apsw.Connection, session: str) -> tuple[int, int]:
        """A session's key and the number of its newest row, to be remembered. Raises Missing, Erased."""
        while len(self._tails) >= TAILS:
            del self._tails[next(iter(self._tails))]
        key = _key(db, session)
        return key, _newest(db, key)

    def keep(self, session: str, number: int, snapshot: Payload, forget: int) -> asyncio.Future[None]:
        def write(db: apsw.Connection) -> None:
            key = _key(db, session)
            if number > _newest(db, key):
                raise Gap(f"{session}/{number}")
            sql = "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)"
            db.execute(sql, (key, number, snapshot), can_cache=_small(snapshot))
            db.execute("DELETE FROM snapshots WHERE session = ? AND number < ?", (key, forget))
            for sql in _FORGET:
                db.execute(sql, (key, forget))  # downward, to those that were forgotten before

        return self._submit(write, len(snapshot))

    def replace_head(self, session: str, head: bytes, due: float | None = None) -> asyncio.Future[None]:
        def write(db: apsw.Connection) -> None:
            db.execute("UPDATE sessions SET head = ?, due = ? WHERE key = ?", (head, due, _key(db, session)))

        return self._submit(write)

    def erase(self, session: str, tombstone: bytes = b"") -> asyncio.Future[None]:
        def write(db: apsw.Connection) -> None:
            key = _key(db, session)
            self._tails.pop(session, None)
            for table in ("events", "journal", "snapshots"):
                db.execute(f"DELETE FROM {table} WHERE session = ?", (key,))
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

    def load(self, sessions: Sequence[str], most: int, rows: int) -> list[Stored | None]:
        """In one transaction, which costs less than one for each query."""
        try:
            db = self._reader()
            db.execute("BEGIN")
            try:
                return _load(db, sessions, most, rows)
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
        except apsw.Error as error:
            raise _unavailable(error) from error

    def heads(self, before: int | None, limit: int, erased: bool = False) -> list[Head]:
        newest = 1 << 62 if before is None else min(before, 1 << 62)
        return [Head(*row) for row in self._all(_HEADS, (erased, newest, limit))]

    def due(self, now: float, limit: int) -> list[str]:
        sql = "SELECT id FROM sessions INDEXED BY due WHERE due <= ? ORDER BY due LIMIT ?"
        return [row[0] for row in self._all(sql, (now, limit))]

    def rows(self, session: str, after: int, limit: int) -> list[Row]:
        return [Row(*row) for row in self._all(_ROWS, (session, after, limit))]

    def events(self, session: str, after: int, limit: int) -> list[Row]:
        return [Row(*row) for row in self._all(_EVENTS, (session, after, limit))]

    def last(self, session: str) -> Row | None:
        row = self._one(_LAST, (session, 0))
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

    def _submit(self, write: Callable[[apsw.Connection], T], size: int = 0, frees: bool = False) -> asyncio.Future[T]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
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
            moves = self._journaled >= self._journal_rows and self._failed is None
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
                loop.call_soon_threadsafe(self._answer, loop, group, outcomes, not moves)
                if moves:
                    self._move()
                    loop.call_soon_threadsafe(self._go_on, loop)
            del item, group, outcomes  # what was written is not to be held until there is more

    def _begin(self, group: list[_Job]) -> _Outcomes:
        """One transaction, but for its end; a job that is refused undoes nothing of its neighbours'."""
        db = self._writer
        try:
            db.execute("BEGIN IMMEDIATE")
            return [_attempt(job.write, db) for job in group]
        except Exception as error:  # disk full, input/output error: nobody may be told that it is written
            return self._failure(error, len(group))

    def _move(self) -> None:
        """Move what has gathered in the journal to its places; what cannot be moved now can be later."""
        try:
            for sql in ("BEGIN IMMEDIATE", MOVE, "COMMIT"):
                self._writer.execute(sql)
            self._journaled = 0
        except apsw.Error as error:
            logger.warning("the journal could not be moved: %s", error)
            self._journaled //= 2  # not at every write
            with contextlib.suppress(apsw.Error):
                self._writer.execute("ROLLBACK")

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
        self._tails.clear()  # what they say was taken back
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

    def _answer(self, loop: asyncio.AbstractEventLoop, group: list[_Job], outcomes: _Outcomes, goes_on: bool) -> None:
        for job, outcome in zip(group, outcomes, strict=True):
            if job.future.done():  # the request was cancelled; what it wrote stays written
                continue
            if isinstance(outcome, BaseException):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)
        if goes_on:
            self._go_on(loop)

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
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
            reader.execute("PRAGMA cache_size = -4000")  # each commit empties it
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
            raise _unavailable(error) from error


def _small(value: Payload) -> bool:
    """Whether a statement with this value may be kept for the next time: what is kept holds two copies of it."""
    return len(value) < LARGE


def _attempt(write: Callable[[apsw.Connection], T], db: apsw.Connection) -> T | StoreError:
    """What a write gives, or why it was refused."""
    try:
        return write(db)
    except StoreError as refusal:
        return refusal


def _load(db: apsw.Connection, sessions: Sequence[str], most: int, limit: int) -> list[Stored | None]:
    """What `SQLiteStore.load` gives."""
    stored: list[Stored | None] = [None] * len(sessions)
    wanted = []
    asked = ((session, most, place) for place, session in enumerate(sessions))
    found: list[Any] = db.executemany(_LOAD, asked).fetchall()
    for place, key, head, number, snapshot in found:
        if snapshot is not None:
            stored[place] = Stored(head, number, snapshot, [])
            wanted.append((key, number, place, limit + 2))  # the snapshot's own row, and one to see that there are more
    above: list[Any] = db.executemany(_ROWS_FROM, wanted).fetchall()
    for number, event, payload, place in above:
        if (one := stored[place]) is not None:
            one.rows.append(Row(number, event, payload))
            if number > one.number + limit:
                stored[place] = None
    return stored


def _unavailable(error: apsw.Error) -> Unavailable:
    """What is said when the disk does not give what is asked for."""
    logger.error("the store failed to read: %s", error)
    return Unavailable("The store cannot be read now; send the same request again.", retry_after=1)


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


def _newest(db: apsw.Connection, key: int) -> int:
    """The number of a log's newest row, 0 where there is none."""
    number: int = db.execute(_NEWEST, (key,)).get
    return number


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
        change = SCHEMA + INDEXES + JOURNAL
    elif version in MIGRATIONS:
        change = "".join(MIGRATIONS[v] for v in range(version, SCHEMA_VERSION))
    else:
        raise UnsuitableStore(
            f"The data file has format {version}, this service writes {SCHEMA_VERSION}; use the release that made it."
        )
    with db:
        db.execute(change)
        db.pragma("user_version", SCHEMA_VERSION)
