"""Large values, in pieces: SQLite takes three to four times a value's bytes of memory to write it as one.

It binds a copy of the value, makes a record of that, and reads whole each row that it compares keys with on the way,
when it looks for a row as well. Of a value in pieces it holds one piece at a time, and rows stay small. Where the
value would stand, stands its size: an integer, which is neither bytes nor NULL.
"""

from __future__ import annotations

from typing import Any

import apsw

from service.stores.base import Payload

PIECE = 1 << 16  # bytes; written as fast as larger ones, and so much is read at most to compare keys
PAYLOAD, SNAPSHOT = 0, 1  # the kinds of values
_JOIN = "SELECT data FROM pieces WHERE session = ? AND kind = ? AND number = ? ORDER BY piece"
_DROP = (  # one look at the index, where a session has none
    "DELETE FROM pieces WHERE session = ?1 AND "
    f"(kind = {PAYLOAD} AND number <= ?2 OR kind = {SNAPSHOT} AND (number < ?2 OR number = ?3))"
)


def put(db: apsw.Connection, key: int, kind: int, number: int, value: Payload, piece: int) -> int:
    """Write a value in pieces of so many bytes; its size, to stand in its place."""
    view = memoryview(value)
    pieces = enumerate(view[at : at + piece] for at in range(0, len(view), piece))
    rows = ((key, kind, number, i, data) for i, data in pieces)
    db.executemany("INSERT INTO pieces VALUES (?, ?, ?, ?, ?)", rows)
    return len(view)


def joined(db: apsw.Connection, key: int, kind: int, number: int, place: Any) -> Any:
    """The value in one, of which this stands in its place; what is not the size of pieces is the value itself.

    Raises apsw.CorruptError where pieces are missing.
    """
    if not isinstance(place, int):
        return place
    whole, end = bytearray(place), 0
    for (data,) in db.execute(_JOIN, (key, kind, number)):
        start, end = end, end + len(data)
        whole[start:end] = data
    if end != place:
        raise apsw.CorruptError(f"of {place} bytes in pieces, {end} are there")
    return memoryview(whole).toreadonly()


def drop(db: apsw.Connection, key: int, snapshot: int, forget: int) -> None:
    """Delete the pieces of this snapshot, and of what is forgotten: payloads up to a row, and snapshots below it."""
    db.execute(_DROP, (key, forget, snapshot))
