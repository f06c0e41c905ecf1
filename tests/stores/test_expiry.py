"""What a store does for sessions that end: naming those that are due, keeping a word about those that are gone."""

from __future__ import annotations

import time
from pathlib import Path

import apsw
import pytest

from service.stores.base import Erased, Head, Row, Store
from service.stores.schema import MIGRATIONS, SCHEMA_VERSION, UnsuitableStore
from service.stores.sqlite import SQLiteStore

OLD = """
CREATE TABLE sessions (key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, head BLOB);
CREATE TABLE events (session INTEGER NOT NULL, number INTEGER NOT NULL, event BLOB NOT NULL, payload BLOB,
                     PRIMARY KEY (session, number)) WITHOUT ROWID;
CREATE TABLE snapshots (session INTEGER NOT NULL, number INTEGER NOT NULL, state BLOB NOT NULL,
                        PRIMARY KEY (session, number)) WITHOUT ROWID;
INSERT INTO sessions VALUES (1, 'a', x'61'), (2, 'b', NULL), (3, 'c', x'63');
INSERT INTO snapshots VALUES (1, 0, x'30'), (3, 0, x'31');
INSERT INTO events VALUES (1, 1, x'65', x'70'), (1, 2, x'66', NULL);
PRAGMA user_version = 1;
"""


class TestDue:
    async def test_names_the_earliest_first(self, store: Store) -> None:
        for name, due in (("never", None), ("late", 30.0), ("soon", 10.0), ("next", 20.0)):
            await store.create(name, b"", b"", due)
        assert store.due(9.0, 10) == []
        assert store.due(10.0, 10) == ["soon"]
        assert store.due(99.0, 10) == ["soon", "next", "late"]
        assert store.due(99.0, 2) == ["soon", "next"]

    async def test_is_put_off_set_and_taken_away_with_the_head(self, store: Store) -> None:
        await store.create("a", b"1", b"", 10.0)
        await store.create("b", b"1", b"")
        await store.replace_head("a", b"2", 50.0)
        await store.replace_head("b", b"2", 20.0)
        assert (store.due(30.0, 9), store.head("a"), store.head("b")) == (["b"], b"2", b"2")
        await store.replace_head("a", b"3")
        assert store.due(99.0, 9) == ["b"]

    async def test_forgets_the_erased(self, store: Store) -> None:
        await store.create("a", b"", b"", 10.0)
        await store.erase("a")
        assert store.due(99.0, 9) == []

    async def test_is_cheap_among_many(self, tmp_path: Path) -> None:
        """By an index, not by a look at each."""
        store = SQLiteStore(tmp_path / "data")
        plan = store._reader().execute(
            "EXPLAIN QUERY PLAN SELECT id FROM sessions INDEXED BY due WHERE due <= ? ORDER BY due LIMIT ?", (1, 1)
        )
        assert [row[3] for row in plan] == ["SEARCH sessions USING INDEX due (due<?)"]
        plan = store._reader().execute("EXPLAIN QUERY PLAN SELECT count(*) FROM sessions WHERE (head IS NULL) = 0")
        assert "USING COVERING INDEX erased" in next(iter(plan))[3]
        store.close()


class TestTombstones:
    async def test_are_what_was_left(self, store: Store) -> None:
        await store.create("a", b"head", b"")
        await store.erase("a", b"why")
        with pytest.raises(Erased) as caught:
            store.head("a")
        assert caught.value.tombstone == b"why"
        for write in (
            lambda: store.create("a", b"", b""),
            lambda: store.append("a", 1, b"", b""),
            lambda: store.replace_head("a", b""),
            lambda: store.erase("a", b"again"),
        ):
            with pytest.raises(Erased) as caught:
                await write()
            assert caught.value.tombstone == b"why"

    async def test_are_listed_newest_created_first(self, store: Store) -> None:
        for name in "abcde":
            await store.create(name, name.encode(), b"")
        for name in "bda":
            await store.erase(name, b"was " + name.encode())
        assert [head.session for head in store.heads(None, 9)] == ["e", "c"]
        erased = store.heads(None, 9, True)
        assert [(head.session, head.head) for head in erased] == [("d", b"was d"), ("b", b"was b"), ("a", b"was a")]
        assert store.heads(erased[0].cursor, 1, True) == [erased[1]]
        assert store.heads(erased[2].cursor, 9, True) == []


class TestEvents:
    async def test_are_rows_without_payloads(self, store: Store) -> None:
        await store.create("a", b"", b"")
        for n in (1, 2, 3):
            await store.append("a", n, b"event %d" % n, b"payload")
        assert store.events("a", 1, 9) == [Row(2, b"event 2", None), Row(3, b"event 3", None)]
        assert store.events("a", 0, 1) == [Row(1, b"event 1", None)]
        assert store.events("none", 0, 9) == []

    async def test_the_newest_snapshot_by_its_number(self, store: Store) -> None:
        await store.create("a", b"", b"")
        for n in (1, 2, 3, 4):
            await store.append("a", n, b"", b"")
        await store.keep("a", 3, b"at 3", 0)
        assert [store.newest_snapshot("a", n) for n in (0, 2, 3, 9)] == [0, 0, 3, 3]
        await store.keep("a", 4, b"at 4", 3)
        assert [store.newest_snapshot("a", n) for n in (2, 3)] == [None, 3]
        assert store.newest_snapshot("none", 9) is None


class TestAFileOfTheFirstVersion:
    def old(self, directory: Path) -> Path:
        directory.mkdir()
        connection = apsw.Connection(str(directory / "thalweg.sqlite"))
        connection.execute(OLD)
        connection.close()
        return directory

    def test_is_brought_up_to_date(self, tmp_path: Path) -> None:
        data = self.old(tmp_path / "data")
        for _ in range(2):
            store = SQLiteStore(data)
            assert store._reader().pragma("user_version") == SCHEMA_VERSION
            assert store.heads(None, 9) == [Head(3, "c", b"c"), Head(1, "a", b"a")]
            assert store.heads(None, 9, True) == [Head(2, "b", b"")]
            assert store.rows("a", 0, 9) == [Row(1, b"e", b"p"), Row(2, b"f", None)]
            assert store.snapshot("c", 9) == (0, b"1")
            assert sorted(store.due(0.0, 9)) == ["a", "c"]  # the engine will look at their heads
            assert store.count() == 2
            store.close()

    def test_has_the_same_tables_as_a_new_one(self, tmp_path: Path) -> None:
        shapes = []
        for data in (self.old(tmp_path / "old"), tmp_path / "new"):
            store = SQLiteStore(data)
            columns = "SELECT m.name, c.name, c.type FROM sqlite_master m, pragma_table_info(m.name) c ORDER BY 1, 2"
            shapes.append(list(store._reader().execute(columns)))
            store.close()
        assert shapes[0] == shapes[1]

    def test_stays_as_it_was_when_that_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """All of it or nothing: the next start finds the old file and tries again."""
        data = self.old(tmp_path / "data")
        monkeypatch.setattr(
            "service.stores.schema.MIGRATIONS", MIGRATIONS | {1: "ALTER TABLE sessions ADD COLUMN due REAL; x;"}
        )
        with pytest.raises(UnsuitableStore):
            SQLiteStore(data)
        connection = apsw.Connection(str(data / "thalweg.sqlite"))
        assert connection.pragma("user_version") == 1
        assert [row[1] for row in connection.execute("PRAGMA table_info(sessions)")] == ["key", "id", "head"]
        connection.close()
        monkeypatch.undo()
        SQLiteStore(data).close()


async def test_among_a_hundred_thousand(tmp_path: Path) -> None:
    """Finding those that are due takes no longer than finding a few."""
    data = tmp_path / "data"
    SQLiteStore(data).close()
    connection = apsw.Connection(str(data / "thalweg.sqlite"))
    with connection:
        rows = ((f"s{i}", b"x" * 300, 1e9 + i) for i in range(100_000))
        connection.executemany("INSERT INTO sessions (id, head, due) VALUES (?, ?, ?)", rows)
    connection.close()
    store = SQLiteStore(data)
    await store.create("last", b"", b"", 5.0)
    begun = time.perf_counter()
    for _ in range(100):
        assert store.due(10.0, 100) == ["last"]
    assert time.perf_counter() - begun < 1.0
    store.close()
