"""The file of the SQLite store: its tables, what turns an older version of them into this one, how it is opened.

One process owns a data directory: a lock on the file `lock` in it is held for as long as the store lives.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import apsw

from service.stores.base import StoreError

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
# What is large: its size stands where it would, an integer in place of the bytes.
PIECES = """
CREATE TABLE pieces (session INTEGER NOT NULL, kind INTEGER NOT NULL, number INTEGER NOT NULL, piece INTEGER NOT NULL,
                     data BLOB NOT NULL);
CREATE UNIQUE INDEX pieced ON pieces (session, kind, number, piece);
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
    + INDEXES,
    2: JOURNAL + PIECES,
}
PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "cache_size = -16000",
    "temp_store = MEMORY",
    "wal_autocheckpoint = 4096",  # pages; from then on the log is written over, which takes half of what growing does
)


class DataDirectoryInUse(StoreError):
    """Another process owns the data directory."""


class UnsuitableStore(StoreError):
    """The file or the SQLite library is not one that this service can work with."""


def check_library() -> None:
    """Raises UnsuitableStore where the SQLite library is too old."""
    if tuple(int(part) for part in apsw.sqlite_lib_version().split(".")) < MINIMUM_SQLITE:
        wanted = ".".join(map(str, MINIMUM_SQLITE))
        raise UnsuitableStore(f"SQLite {apsw.sqlite_lib_version()} is too old; upgrade apsw to SQLite {wanted}.")


def own(directory: Path) -> int:
    """The file descriptor that holds the directory's lock. Raises DataDirectoryInUse."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise DataDirectoryInUse(
            f"Another process is using the data directory {directory}; stop it, or give this one its own --data."
        ) from None
    return descriptor


def connect(path: Path) -> apsw.Connection:
    """A connection to the file."""
    connection = apsw.Connection(str(path))
    connection.set_busy_timeout(10_000)
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}").fetchall()
    return connection


def prepare(path: Path) -> apsw.Connection:
    """A connection for writing, on a file that is what it must be. Raises UnsuitableStore."""
    connection = None
    try:
        connection = connect(path)
        _bring_up_to_date(connection)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, apsw.Error):
            raise UnsuitableStore(f"The data file {path} cannot be opened: {error}.") from None
        raise
    return connection


def _bring_up_to_date(db: apsw.Connection) -> None:
    """Make the tables in a new file, change those of an earlier version, refuse those of a later."""
    version = db.pragma("user_version")
    if version == SCHEMA_VERSION:
        return
    if version == 0 and not list(db.execute("SELECT 1 FROM sqlite_master")):
        change = SCHEMA + INDEXES + JOURNAL + PIECES
    elif version in MIGRATIONS:
        change = "".join(MIGRATIONS[v] for v in range(version, SCHEMA_VERSION))
    else:
        raise UnsuitableStore(
            f"The data file has format {version}, this service writes {SCHEMA_VERSION}; use the release that made it."
        )
    with db:
        db.execute(change)
        db.pragma("user_version", SCHEMA_VERSION)
