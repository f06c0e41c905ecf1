"""Large values of the SQLite store: they are written in pieces, read in one, and leave nothing behind."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import Unavailable
from service.stores.base import Entry, Gap, Row, Taken
from service.stores.pieces import PAYLOAD, PIECE, SNAPSHOT
from service.stores.schema import MIGRATIONS, SCHEMA_VERSION
from service.stores.sqlite import SMALL, SQLiteStore
from tests.stores.disk import failing, plugged
from tests.stores.test_expiry import OLD

MiB = 1 << 20


@pytest.fixture
def store(tmp_path: Path, run: Any) -> Iterator[SQLiteStore]:
    """A store whose pieces have 10 bytes."""
    store = SQLiteStore(tmp_path / "data", piece=10)
    yield store
    store.close()


def held(store: SQLiteStore) -> list[tuple[int, int, int]]:
    """Of each piece the kind of value, its number, and how many bytes it has."""
    sql = "SELECT kind, number, length(data) FROM pieces ORDER BY session, kind, number, piece"
    return list(store._reader().execute(sql))


def value(size: int) -> bytes:
    return bytes(i % 251 for i in range(size))


class TestValues:
    async def test_of_more_than_a_piece_are_in_pieces(self, store: SQLiteStore) -> None:
        await store.create("s", b"head", value(10))
        await store.append("s", 1, b"event", value(10))
        assert held(store) == []
        await store.append("s", 2, b"event", value(11))
        await store.keep("s", 2, value(30), 0)
        assert held(store) == [(PAYLOAD, 2, 10), (PAYLOAD, 2, 1), *[(SNAPSHOT, 2, 10)] * 3]
        assert store.rows("s", 0, 9) == [Row(1, b"event", value(10)), Row(2, b"event", value(11))]
        assert [store.snapshot("s", n) for n in (1, 2)] == [(0, value(10)), (2, value(30))]
        assert store.last("s") == Row(2, b"event", None)

    @settings(max_examples=30, deadline=None)
    @given(piece=st.integers(1, 40), sizes=st.lists(st.integers(0, 100), min_size=1, max_size=6), views=st.booleans())
    def test_are_read_as_they_were_written(self, piece: int, sizes: list[int], views: bool) -> None:
        def given(size: int) -> bytes | memoryview:
            return memoryview(value(size)) if views else value(size)

        async def round_trip(data: Path) -> None:
            for kind in ("write", "read again"):
                store = SQLiteStore(data, piece=piece if kind == "write" else 17)
                if kind == "write":
                    await store.create("s", b"head", given(sizes[0]))
                    await store.append_all([Entry("s", n, b"event", given(size)) for n, size in enumerate(sizes, 1)])
                rows = [Row(n, b"event", value(size)) for n, size in enumerate(sizes, 1)]
                assert store.rows("s", 0, 9) == rows
                assert store.snapshot("s", 0) == (0, value(sizes[0]))
                (stored,) = store.load(["s"], 100, 9)
                assert stored is not None
                assert (stored.snapshot, stored.rows) == (value(sizes[0]), rows)
                store.close()

        with tempfile.TemporaryDirectory() as directory:
            asyncio.run(round_trip(Path(directory)))

    async def test_cannot_be_written_to_by_who_reads_them(self, store: SQLiteStore) -> None:
        await store.create("s", b"head", value(11))
        found = store.snapshot("s", 0)
        assert found is not None
        assert memoryview(found[1]).readonly

    async def test_take_little_memory_to_write(self, tmp_path: Path) -> None:
        """SQLite holds its cache of pages and a few copies of one piece; of a value in one it would hold three."""
        store = SQLiteStore(tmp_path / "other")
        large = bytes(64 * MiB)
        await store.create("s", b"head", large)
        await store.append("s", 1, b"event", large)
        before = apsw.memory_used()
        apsw.memory_high_water(True)
        await store.append("s", 2, b"event", large)
        await store.keep("s", 2, large, 0)
        assert apsw.memory_high_water() - before < 16 * MiB + 4 * PIECE
        store.close()


class TestSmallReads:
    async def test_never_take_the_size_for_the_value(self, store: SQLiteStore) -> None:
        await store.create("s", b"head", value(11))
        await store.create("t", b"head", value(9))
        for most in (0, 1, 2, 8, 9, 10):
            small = [found is not None for found in store.load(["s", "t"], most, 9)]
            assert small == [False, most >= 9]
        (stored, _) = store.load(["s", "t"], 11, 9)
        assert stored is not None
        assert stored.snapshot == value(11)

    async def test_join_the_rows_above(self, store: SQLiteStore) -> None:
        for session in "st":
            await store.create(session, b"head", b"at 0")
        for n in range(1, 6):
            await store.append("s", n, b"event", value(10 * n))
            await store.append("t", n, b"event", value(n))
        loaded = store.load(["t", "s"], 99, 5)
        assert [one and one.rows for one in loaded] == [store.rows("t", 0, 9), store.rows("s", 0, 9)]
        assert store.load(["s"], 99, 4) == [None]

    async def test_do_not_read_what_is_large(self, tmp_path: Path) -> None:
        store = SQLiteStore(tmp_path / "other")
        await store.create("s", b"head", bytes(32 * MiB))
        await store.append("s", 1, b"event", bytes(32 * MiB))
        assert store.events("s", 0, 9) == [Row(1, b"event", None)]
        before = apsw.memory_used()
        apsw.memory_high_water(True)
        assert store.load(["s"], SMALL, 9) == [None]
        assert store.events("s", 0, 9) == [Row(1, b"event", None)]
        assert store.last("s") == Row(1, b"event", None)
        assert apsw.memory_high_water() - before < MiB
        store.close()


class TestPieces:
    async def test_go_with_what_is_forgotten(self, store: SQLiteStore) -> None:
        await store.create("s", b"head", value(20))
        await store.create("t", b"head", value(20))
        for n in range(1, 7):
            await store.append("s", n, b"event", value(20))
            await store.append("t", n, b"event", value(20))
        others = [(SNAPSHOT, 0, 10)] * 2
        await store.keep("s", 3, value(20), 0)
        await store.keep("s", 6, value(20), 3)
        here = [*((PAYLOAD, n, 10) for n in (4, 4, 5, 5, 6, 6)), *((SNAPSHOT, n, 10) for n in (3, 3, 6, 6))]
        there = [*((PAYLOAD, n, 10) for n in range(1, 7) for _ in range(2)), *others]
        assert held(store) == here + there
        assert [row.payload for row in store.rows("s", 2, 9)] == [None, value(20), value(20), value(20)]
        assert store.snapshot("s", 5) == (3, value(20))
        assert [row.payload for row in store.rows("t", 0, 9)] == [value(20)] * 6

    @pytest.mark.parametrize("sizes", [(35, 21), (21, 35), (35, 5), (5, 35)])
    async def test_of_a_snapshot_go_with_the_one_that_replaces_it(
        self, store: SQLiteStore, sizes: tuple[int, int]
    ) -> None:
        await store.create("s", b"head", b"")
        await store.append("s", 1, b"event", b"")
        for size in sizes:
            await store.keep("s", 1, value(size), 0)
            assert store.snapshot("s", 1) == (1, value(size))
            assert sum(length for _, _, length in held(store)) == (size if size > 10 else 0)

    async def test_go_with_their_session(self, store: SQLiteStore) -> None:
        for session in "st":
            await store.create(session, b"head", value(11))
            await store.append(session, 1, b"event", value(11))
        await store.erase("s")
        assert len(held(store)) == 4
        await store.erase("t")
        assert held(store) == []

    async def test_are_not_written_for_a_row_that_is_refused(self, store: SQLiteStore) -> None:
        await store.create("s", b"head", b"")
        await store.append("s", 1, b"event", b"")
        outcomes = await asyncio.gather(
            store.append("s", 1, b"event", value(40)),
            store.append("s", 3, b"event", value(40)),
            store.create("s", b"head", value(40)),
            store.keep("s", 2, value(40), 0),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [Taken, Gap, Taken, Gap]
        assert held(store) == []

    async def test_of_a_write_that_failed_are_taken_back(self, tmp_path: Path) -> None:
        with plugged() as disk:
            store = SQLiteStore(tmp_path / "disk")
            await store.create("s", b"head", b"state")
            disk.fault = failing("write", "thalweg.sqlite-wal", times=1)
            with pytest.raises(apsw.IOError):
                await store.append("s", 1, b"event", bytes(2 * PIECE))
            assert held(store) == []
            await store.append("s", 1, b"event", bytes(2 * PIECE + 1))
            assert held(store) == [(PAYLOAD, 1, PIECE), (PAYLOAD, 1, PIECE), (PAYLOAD, 1, 1)]
            store.close()

    async def test_that_are_missing_are_noticed(self, store: SQLiteStore, caplog: pytest.LogCaptureFixture) -> None:
        await store.create("s", b"head", value(30))
        await store.append("s", 1, b"event", value(30))
        store._writer.db.execute("DELETE FROM pieces WHERE piece = 1")
        for read in (lambda: store.snapshot("s", 0), lambda: store.rows("s", 0, 9), lambda: store.load(["s"], 99, 9)):
            with pytest.raises(Unavailable):
                read()
            assert not store._reader().in_transaction
        assert "of 30 bytes in pieces, 20 are there" in caplog.text
        assert store.events("s", 0, 9) == [Row(1, b"event", None)]

    async def test_are_of_one_moment(self, store: SQLiteStore) -> None:
        """A reader sees a snapshot that was there, whole, though it is replaced, and rows that are forgotten."""
        await store.create("s", b"head", b"a" * 200)
        wrong: list[Any] = []
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                try:
                    found = store.snapshot("s", 1 << 40)
                    whole = {bytes(row.payload or b"") for row in store.rows("s", 0, 999)}
                except Exception as error:
                    wrong.append(error)
                    return
                if found is None or len(set(found[1])) != 1 or not whole <= {b"", value(25)}:
                    wrong.append((found, whole))

        reader = threading.Thread(target=read)
        reader.start()
        for n in range(1, 101):
            await store.append("s", n, b"event", value(25))
            await store.keep("s", n - n % 2, bytes([n]) * (100 + n), max(0, n - 3))
        done.set()
        reader.join()
        assert not wrong, wrong[:1]


async def test_a_file_with_large_values_in_one_is_read_as_it_is(tmp_path: Path) -> None:
    """The version before had no pieces."""
    data = tmp_path / "data"
    data.mkdir()
    large = value(2 * MiB)
    connection = apsw.Connection(str(data / "thalweg.sqlite"))
    connection.execute(OLD + MIGRATIONS[1] + "PRAGMA user_version = 2;")
    connection.execute("INSERT INTO events VALUES (3, 1, x'65', ?)", (large,))
    connection.execute("UPDATE snapshots SET state = ? WHERE session = 3", (large,))
    connection.close()
    store = SQLiteStore(data)
    assert store._reader().pragma("user_version") == SCHEMA_VERSION
    assert store.rows("c", 0, 9) == [Row(1, b"e", large)]
    assert store.snapshot("c", 9) == (0, large)
    assert store.load(["c"], SMALL, 9) == [None]
    await store.append("c", 2, b"f", large)
    await store.keep("c", 2, large, 1)
    count = len(large) // PIECE
    assert held(store) == [(PAYLOAD, 2, PIECE)] * count + [(SNAPSHOT, 2, PIECE)] * count
    assert store.rows("c", 0, 9) == [Row(1, b"e", None), Row(2, b"f", large)]
    store.close()
