"""A store in one SQLite file, through apsw: write-ahead log, synchronous=FULL, one writer, commits grouped.

What is here are the contract's methods and their statements; the file is `schema`'s, the commits are `writer`'s, and
large values are in `pieces`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw

from service.errors import Unavailable
from service.stores import schema
from service.stores.base import Entry, Erased, Gap, Head, Missing, Payload, Row, Stored, StoreError, Taken
from service.stores.pieces import PAYLOAD, PIECE, SNAPSHOT, drop, joined, put
from service.stores.writer import LARGE, Writer

JOURNALED = 1_024  # rows that gather before they move to their places; more hold up the writes behind them longer
SMALL = 1 << 11  # bytes of a payload; a larger one fills pages of its own and goes to its place at once
TAILS = 1 << 16  # sessions whose newest row is remembered
_KEY = "(SELECT key FROM sessions WHERE id = ? AND head IS NOT NULL)"
_MOVE = "INSERT INTO events SELECT * FROM journal ORDER BY session, number; DELETE FROM journal"
_APPEND = {table: f"INSERT INTO {table} VALUES (?, ?, ?, ?)" for table in ("events", "journal")}
_NEWEST = (
    "SELECT max(coalesce((SELECT max(number) FROM events WHERE session = ?1), 0), "
    "coalesce((SELECT max(number) FROM journal WHERE session = ?1), 0))"
)
_LOAD = (  # a size, which is looked at later, is as long as its digits
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
_SNAPSHOT = (
    f"SELECT session, number, state FROM snapshots WHERE session = {_KEY} AND number <= ? ORDER BY number DESC LIMIT 1"
)
_FORGET = (
    "UPDATE events SET payload = NULL WHERE session = ?1 AND number <= ?2 AND number > coalesce((SELECT number FROM "
    "events WHERE session = ?1 AND number <= ?2 AND payload IS NULL ORDER BY number DESC LIMIT 1), 0)",
    "UPDATE journal SET payload = NULL WHERE session = ?1 AND number <= ?2",
)

logger = logging.getLogger("thalweg")


class SQLiteStore:
    """The file `thalweg.sqlite` in a directory; raises DataDirectoryInUse or UnsuitableStore when it cannot be had.

    `journal` is how many rows gather before they move to their places, `piece` the bytes above which a value is large.
    """

    def __init__(self, directory: Path, journal: int = JOURNALED, piece: int = PIECE) -> None:
        schema.check_library()
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = schema.own(directory)
        self._path = directory / "thalweg.sqlite"
        self._readers = threading.local()
        self._open_readers: list[apsw.Connection] = []
        self._tails: dict[str, tuple[int, int]] = {}  # by session: its key and the number of its newest row
        self._journal_rows = journal
        self._piece = piece
        try:
            db = schema.prepare(self._path)
            self._journaled: int = db.execute("SELECT count(*) FROM journal").get
            self._writer = Writer(db, self._path, self._tails.clear, self._is_full, self._move)
        except BaseException:
            os.close(self._lock)
            raise

    # Writes

    def create(self, session: str, head: bytes, snapshot: Payload, due: float | None = None) -> asyncio.Future[None]:
        def write(db: apsw.Connection) -> None:
            try:
                db.execute("INSERT INTO sessions (id, head, due) VALUES (?, ?, ?)", (session, head, due))
            except apsw.ConstraintError:
                _key(db, session)
                raise Taken(session) from None
            self._put_snapshot(db, db.last_insert_rowid(), 0, snapshot)

        return self._writer.submit(write, len(snapshot))

    def append(self, session: str, number: int, event: bytes, payload: Payload) -> asyncio.Future[None]:
        def write(db: apsw.Connection) -> None:
            self._append(db, session, number, event, payload)

        return self._writer.submit(write, len(payload))

    def append_all(self, entries: Sequence[Entry]) -> asyncio.Future[list[StoreError | None]]:
        def write(db: apsw.Connection) -> list[StoreError | None]:
            tails = self._tails
            following: list[tuple[int, int, bytes, Payload]] = []
            refusals: list[StoreError | None] = []
            for session, number, event, payload in entries:
                key, newest = tails.get(session, (0, -1))
                if newest == number - 1 and self._is_small(payload):
                    tails[session] = key, number
                    following.append((key, number, event, payload))
                    refusals.append(None)
                else:
                    self._journal(db, following)
                    refusals.append(self._refusal(db, session, number, event, payload))
            self._journal(db, following)
            return refusals

        return self._writer.submit(write, sum(len(entry.payload) for entry in entries))

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

        return self._writer.submit(write, sum(len(payload) for _, payload in rows))

    def _append(self, db: apsw.Connection, session: str, number: int, event: bytes, payload: Payload) -> None:
        """Write a row where the log has come so far. Raises Taken, Gap, Missing, Erased.

        How far it has come need not be looked up for the logs that were written to lately: nobody else writes.
        """
        key, newest = self._tails.get(session) or self._tail(db, session)
        if newest != number - 1:
            raise (Taken if number <= newest else Gap)(f"{session}/{number}")
        small = self._is_small(payload)
        place = payload if len(payload) <= self._piece else put(db, key, PAYLOAD, number, payload, self._piece)
        sql = _APPEND["journal" if small else "events"]
        db.execute(sql, (key, number, event, place))
        self._journaled += small
        self._tails[session] = key, number

    def _is_small(self, payload: Payload) -> bool:
        """Whether a row with this payload goes to the journal first."""
        return len(payload) <= min(SMALL, self._piece)

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
            drop(db, key, number, forget)
            self._put_snapshot(db, key, number, snapshot)
            db.execute("DELETE FROM snapshots WHERE session = ? AND number < ?", (key, forget))
            for sql in _FORGET:
                db.execute(sql, (key, forget))  # downward, to those that were forgotten before

        return self._writer.submit(write, len(snapshot))

    def _put_snapshot(self, db: apsw.Connection, key: int, number: int, state: Payload) -> None:
        place = state if len(state) <= self._piece else put(db, key, SNAPSHOT, number, state, self._piece)
        sql = "INSERT OR REPLACE INTO snapshots VALUES (?, ?, ?)"
        db.execute(sql, (key, number, place))

    def replace_head(self, session: str, head: bytes, due: float | None = None) -> asyncio.Future[None]:
        def write(db: apsw.Connection) -> None:
            db.execute("UPDATE sessions SET head = ?, due = ? WHERE key = ?", (head, due, _key(db, session)))

        return self._writer.submit(write)

    def erase(self, session: str, tombstone: bytes = b"") -> asyncio.Future[None]:
        def write(db: apsw.Connection) -> None:
            key = _key(db, session)
            self._tails.pop(session, None)
            for table in ("events", "journal", "snapshots", "pieces"):
                db.execute(f"DELETE FROM {table} WHERE session = ?", (key,))
            db.execute("UPDATE sessions SET head = NULL, due = NULL, tombstone = ? WHERE key = ?", (tombstone, key))

        return self._writer.submit(write, LARGE, frees=True)  # large, for the log may be long

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
        with self._moment() as db:
            return _load(db, sessions, most, rows)

    def heads(self, before: int | None, limit: int, erased: bool = False) -> list[Head]:
        newest = 1 << 62 if before is None else min(before, 1 << 62)
        return [Head(*row) for row in self._all(_HEADS, (erased, newest, limit))]

    def due(self, now: float, limit: int) -> list[str]:
        sql = "SELECT id FROM sessions INDEXED BY due WHERE due <= ? ORDER BY due LIMIT ?"
        return [row[0] for row in self._all(sql, (now, limit))]

    def rows(self, session: str, after: int, limit: int) -> list[Row]:
        with self._moment() as db:
            found = [Row(*row) for row in db.execute(_ROWS, (session, after, limit))]
            if not any(isinstance(row.payload, int) for row in found):
                return found
            key = _key(db, session)
            return [row._replace(payload=joined(db, key, PAYLOAD, row.number, row.payload)) for row in found]

    def events(self, session: str, after: int, limit: int) -> list[Row]:
        return [Row(*row) for row in self._all(_EVENTS, (session, after, limit))]

    def last(self, session: str) -> Row | None:
        row = self._one(_LAST, (session, 0))
        return Row(*row) if row else None

    def snapshot(self, session: str, at_most: int) -> tuple[int, Payload] | None:
        with self._moment() as db:
            found: list[Any] = db.execute(_SNAPSHOT, (session, at_most)).fetchall()
            if not found:
                return None
            key, number, place = found[0]
            return number, joined(db, key, SNAPSHOT, number, place)

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
        return self._writer.writable()

    def close(self) -> None:
        for reader in self._open_readers:
            reader.close()
        try:
            self._writer.close()
        finally:
            os.close(self._lock)

    # The journal

    def _is_full(self) -> bool:
        return self._journaled >= self._journal_rows

    def _move(self) -> None:
        """Move what has gathered in the journal to its places; what cannot be moved now can be later."""
        db = self._writer.db
        try:
            for sql in ("BEGIN IMMEDIATE", _MOVE, "COMMIT"):
                db.execute(sql)
            self._journaled = 0
        except apsw.Error as error:
            logger.warning("the journal could not be moved: %s", error)
            self._journaled //= 2  # not at every write
            with contextlib.suppress(apsw.Error):
                db.execute("ROLLBACK")

    # Connections

    def _reader(self) -> apsw.Connection:
        """This thread's own connection for reading."""
        reader: apsw.Connection | None = getattr(self._readers, "connection", None)
        if reader is None:
            reader = schema.connect(self._path)
            reader.execute("PRAGMA query_only = ON")
            reader.execute("PRAGMA cache_size = -4000")  # each commit empties it
            self._readers.connection = reader
            self._open_readers.append(reader)
        return reader

    @contextlib.contextmanager
    def _moment(self) -> Iterator[apsw.Connection]:
        """A transaction that reads: all of it as it was at one moment. Raises Unavailable."""
        try:
            db = self._reader()
            db.execute("BEGIN")
            try:
                yield db
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")
        except apsw.Error as error:
            raise _unavailable(error) from error

    def _one(self, sql: str, arguments: tuple[Any, ...]) -> Any:
        rows = self._all(sql, arguments)
        return rows[0] if rows else None

    def _all(self, sql: str, arguments: tuple[Any, ...]) -> list[Any]:
        """All rows of a query. Raises Unavailable when the disk does not give them."""
        try:
            return self._reader().execute(sql, arguments).fetchall()  # to the end: an open cursor would pin the log
        except apsw.Error as error:
            raise _unavailable(error) from error


def _load(db: apsw.Connection, sessions: Sequence[str], most: int, limit: int) -> list[Stored | None]:
    """What `SQLiteStore.load` gives."""
    stored: list[Stored | None] = [None] * len(sessions)
    wanted, split = [], []
    asked = ((session, most, place) for place, session in enumerate(sessions))
    found: list[Any] = db.executemany(_LOAD, asked).fetchall()
    for place, key, head, number, state in found:
        if isinstance(state, int):
            state = joined(db, key, SNAPSHOT, number, state) if state <= most else None
        if state is not None:
            stored[place] = Stored(head, number, state, [])
            wanted.append((key, number, place, limit + 2))  # the snapshot's own row, and one to see that there are more
    above: list[Any] = db.executemany(_ROWS_FROM, wanted).fetchall()
    for number, event, payload, place in above:
        if (one := stored[place]) is not None:
            if isinstance(payload, int):
                split.append((place, len(one.rows)))
            one.rows.append(Row(number, event, payload))
            if number > one.number + limit:
                stored[place] = None
    if split:
        keys = {place: key for key, _, place, _ in wanted}
        for place, i in split:
            if (one := stored[place]) is not None:
                row = one.rows[i]
                payload = joined(db, keys[place], PAYLOAD, row.number, row.payload)
                one.rows[i] = row._replace(payload=payload)
    return stored


def _unavailable(error: apsw.Error) -> Unavailable:
    """What is said when the disk does not give what is asked for."""
    logger.error("the store failed to read: %s", error)
    return Unavailable("The store cannot be read now; send the same request again.", retry_after=1)


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
