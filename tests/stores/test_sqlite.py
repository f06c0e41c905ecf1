"""What only the SQLite store promises: its file, its lock, its grouped commits, and how it takes a failing disk."""

from __future__ import annotations

import asyncio
import os
import random
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from service.errors import Unavailable
from service.stores.base import Entry, Gap, Row, Taken
from service.stores.schema import SCHEMA_VERSION, DataDirectoryInUse, UnsuitableStore
from service.stores.sqlite import JOURNALED, SMALL, SQLiteStore
from service.stores.writer import LARGE
from tests.stores.disk import Disk, failing, plugged

WAL = "thalweg.sqlite-wal"
SEED = int(os.environ["TEST_SEED"])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def disk() -> Iterator[Disk]:
    with plugged() as disk:
        yield disk


@pytest.fixture
def store(data: Path, run: Any) -> Iterator[SQLiteStore]:
    store = SQLiteStore(data)
    yield store
    store.close()


def commits(store: SQLiteStore) -> list[int]:
    """A list that grows with each commit."""
    seen: list[int] = []
    store._writer.db.set_commit_hook(lambda: bool(seen.append(1)))
    return seen


async def filled(store: SQLiteStore, session: str = "s", rows: int = 3) -> None:
    await store.create(session, b"head", b"state")
    for n in range(1, rows + 1):
        await store.append(session, n, b"event", b"payload")


class TestFile:
    @pytest.mark.parametrize(
        ("pragma", "value"),
        [("journal_mode", "wal"), ("synchronous", 2), ("user_version", SCHEMA_VERSION), ("query_only", 0)],
    )
    async def test_pragmas_of_the_writer(self, store: SQLiteStore, pragma: str, value: Any) -> None:
        assert store._writer.db.pragma(pragma) == value

    async def test_readers_cannot_write(self, store: SQLiteStore) -> None:
        assert store._reader().pragma("journal_mode") == "wal"
        with pytest.raises(apsw.ReadOnlyError):
            store._reader().execute("DELETE FROM events")

    async def test_each_thread_has_one_reader(self, store: SQLiteStore) -> None:
        assert store._reader() is store._reader()
        assert await asyncio.to_thread(store._reader) is not store._reader()
        assert store._writer.db is not store._reader()

    async def test_reopening_keeps_everything(self, data: Path) -> None:
        store = SQLiteStore(data)
        await filled(store)
        await store.keep("s", 2, b"at 2", 1)
        await store.create("gone", b"", b"")
        await store.erase("gone")
        seen = store.rows("s", 0, 9), store.heads(None, 9), store.snapshot("s", 9), store.first_snapshot("s")
        store.close()
        store = SQLiteStore(data)
        assert seen == (store.rows("s", 0, 9), store.heads(None, 9), store.snapshot("s", 9), store.first_snapshot("s"))
        await store.append("s", 4, b"event", b"payload")
        with pytest.raises(Taken):
            await store.append("s", 4, b"", b"")
        assert store.count() == 1
        store.close()

    async def test_closing_leaves_one_file_and_the_lock(self, data: Path) -> None:
        store = SQLiteStore(data)
        await filled(store)
        await asyncio.to_thread(store.rows, "s", 0, 9)
        store.close()
        assert sorted(path.name for path in data.iterdir()) == ["lock", "thalweg.sqlite"]

    async def test_makes_the_directory(self, tmp_path: Path) -> None:
        SQLiteStore(tmp_path / "a" / "b").close()
        assert (tmp_path / "a" / "b" / "thalweg.sqlite").exists()

    async def test_forgetting_does_not_get_slower_with_the_log(self, store: SQLiteStore) -> None:
        """What `keep` looks at is what it forgets, not all that was forgotten before."""
        await store.create("s", b"", b"")
        await asyncio.gather(*(store.append("s", n, b"event", b"payload") for n in range(1, 5001)))
        await store.keep("s", 1, b"", 0)  # after the journal has moved
        work: list[int] = []
        store._writer.db.trace_v2(
            apsw.SQLITE_TRACE_PROFILE,
            lambda event: (
                work.append(event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"])
                if event["sql"].startswith("UPDATE events")
                else None
            ),
        )
        for forget in (1000, 1010, 4000, 4010, 4010):
            await store.keep("s", 5000, b"", forget)
        all_at_once, first_few, _, last_few, none = work
        assert last_few < 1.5 * first_few < all_at_once / 20
        assert none < first_few

    async def test_a_long_log_is_erased_beside_the_loop(self, store: SQLiteStore) -> None:
        await store.create("s", b"", b"")
        await asyncio.gather(*(store.append("s", n, b"event", b"payload") for n in range(1, 2001)))
        await store.keep("s", 1, b"", 0)  # after the journal has moved
        where: list[str] = []

        def note(event: dict[str, Any]) -> None:
            if event["sql"].startswith("DELETE FROM events"):
                where.append(threading.current_thread().name)

        store._writer.db.trace_v2(apsw.SQLITE_TRACE_STMT, note)
        await store.erase("s")
        assert where == ["store"]


class TestOwner:
    def test_a_second_opener_is_refused_with_a_sentence(self, store: SQLiteStore, data: Path) -> None:
        with pytest.raises(DataDirectoryInUse, match=r"^Another process is using the data directory .*; stop it, or "):
            SQLiteStore(data)

    def test_also_another_process(self, store: SQLiteStore, data: Path) -> None:
        command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--data", str(data)]
        refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert refused.returncode == 3
        assert refused.stderr.startswith(f"thalweg: Another process is using the data directory {data};")
        assert len(refused.stderr.splitlines()) == 1, refused.stderr

    def test_a_refused_opener_harms_nothing(self, store: SQLiteStore, data: Path, run: Any) -> None:
        for _ in range(3):
            with pytest.raises(DataDirectoryInUse):
                SQLiteStore(data)
        run(filled(store))
        assert len(store.rows("s", 0, 9)) == 3

    def test_the_lock_goes_with_its_owner(self, data: Path) -> None:
        for _ in range(3):
            SQLiteStore(data).close()

    def test_a_killed_owner_leaves_no_lock(self, data: Path) -> None:
        owner = (
            "import sys, time; from pathlib import Path; from service.stores.sqlite import SQLiteStore; "
            "store = SQLiteStore(Path(sys.argv[1])); print(flush=True); time.sleep(60)"
        )
        with subprocess.Popen([sys.executable, "-c", owner, str(data)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            with pytest.raises(DataDirectoryInUse):
                SQLiteStore(data)
            process.kill()
            process.wait(10)
        SQLiteStore(data).close()


def held(store: SQLiteStore, table: str) -> int:
    """How many rows a table has."""
    count: int = store._reader().execute(f"SELECT count(*) FROM {table}").get
    return count


class TestJournal:
    """Rows gather in the order of time, and move to the order of logs by the thousand."""

    async def test_a_step_of_many_sessions_changes_few_pages(self, store: SQLiteStore, data: Path) -> None:
        for i in range(100):
            await store.create(f"s{i}", b"head", b"x" * 400)

        async def step(number: int) -> None:
            rows = [Entry(f"s{i}", number, b"e" * 200, b"p" * 80) for i in range(100)]
            assert await store.append_all(rows) == [None] * 100

        for number in range(1, 20):
            await step(number)
        before = (data / WAL).stat().st_size
        await step(20)
        assert (data / WAL).stat().st_size - before < 100 * 4096 / 4

    async def test_moves_when_it_is_full(self, data: Path) -> None:
        store = SQLiteStore(data, journal=10)
        await filled(store, rows=9)
        assert (held(store, "journal"), held(store, "events")) == (9, 0)
        await store.append("s", 10, b"event", b"payload")
        await store.append("s", 11, b"event", b"payload")  # after the move, which it waits for
        assert (held(store, "journal"), held(store, "events")) == (1, 10)
        assert [row.number for row in store.rows("s", 0, 99)] == list(range(1, 12))
        assert [row.number for row in store.events("s", 8, 2)] == [9, 10]
        assert store.last("s") == Row(11, b"event", None)
        store.close()

    async def test_large_rows_go_straight_to_their_places(self, store: SQLiteStore) -> None:
        await filled(store, rows=1)
        await store.append("s", 2, b"event", b"x" * (SMALL + 1))
        await store.append("s", 3, b"event", b"x" * SMALL)
        assert (held(store, "journal"), held(store, "events")) == (2, 1)
        assert [row.number for row in store.rows("s", 0, 9)] == [1, 2, 3]

    async def test_is_found_again_by_the_next_process(self, data: Path) -> None:
        store = SQLiteStore(data, journal=5)
        await filled(store, rows=3)
        store.close()
        store = SQLiteStore(data, journal=5)
        with pytest.raises(Taken):
            await store.append("s", 3, b"event", b"payload")
        with pytest.raises(Gap):
            await store.append("s", 5, b"event", b"payload")
        await store.append("s", 4, b"event", b"payload")
        await store.append("s", 5, b"event", b"payload")
        await store.append("s", 6, b"event", b"payload")
        assert (held(store, "journal"), held(store, "events")) == (1, 5)
        store.close()

    async def test_a_move_that_fails_loses_nothing(self, data: Path, caplog: pytest.LogCaptureFixture) -> None:
        store = SQLiteStore(data, journal=4)
        refusing = True

        def authorize(operation: int, table: str | None, *_: Any) -> int:
            denied = refusing and operation == apsw.SQLITE_INSERT and table == "events"
            return apsw.SQLITE_DENY if denied else apsw.SQLITE_OK

        store._writer.db.set_authorizer(authorize)
        await filled(store, rows=7)
        assert "the journal could not be moved" in caplog.text
        assert (held(store, "journal"), held(store, "events")) == (7, 0)
        refusing = False
        for number in range(8, 12):
            await store.append("s", number, b"event", b"payload")
        assert held(store, "events") >= 7
        assert [row.number for row in store.rows("s", 0, 99)] == list(range(1, 12))
        store.close()

    def test_moves_neither_small_pieces_nor_for_long(self) -> None:
        assert 1_000 <= JOURNALED <= 20_000  # fewer would move small pieces, more would hold up the writes behind them


class TestLoad:
    async def test_ends_its_transaction(self, store: SQLiteStore) -> None:
        """An open one would keep the write-ahead log from being used again."""
        await filled(store)
        reader = store._reader()
        for sessions, most, rows in ((["s"], 99, 9), (["s"], 99, 0), (["s"], 0, 9), (["never"], 99, 9), ([], 99, 9)):
            store.load(sessions, most, rows)
            assert not reader.in_transaction
        assert store._writer.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE) == (0, 0)

    async def test_that_fails_says_so_and_ends_its_transaction(
        self, store: SQLiteStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        await filled(store)
        store._reader().set_progress_handler(lambda: True, 1)  # breaks a query off
        with pytest.raises(Unavailable):
            store.load(["s"], 99, 9)
        assert "failed to read" in caplog.text
        store._reader().set_progress_handler(None)
        assert not store._reader().in_transaction
        assert store.load(["s"], 99, 9)[0] is not None

    async def test_sees_rows_wherever_they_are(self, data: Path) -> None:
        store = SQLiteStore(data, journal=3)
        await store.create("s", b"head", b"at 0")
        for number in range(1, 9):
            await store.append("s", number, b"event", b"payload" * (1000 if number == 4 else 1))
            (stored,) = store.load(["s"], 99, 9)
            assert stored is not None
            assert stored.rows == store.rows("s", 0, 99)
            assert [row.number for row in stored.rows] == list(range(1, number + 1))
        store.close()


class TestTails:
    async def test_what_failed_to_be_written_is_not_remembered(self, store: SQLiteStore, disk: Disk) -> None:
        await filled(store, rows=1)
        store._writer.db.set_commit_hook(lambda: True)  # refuses every commit
        with pytest.raises(apsw.ConstraintError):
            await store.append("s", 2, b"event", b"payload")
        store._writer.db.set_commit_hook(None)
        with pytest.raises(Gap):
            await store.append("s", 3, b"event", b"payload")
        await store.append("s", 2, b"event", b"payload")
        assert store.last("s") == Row(2, b"event", None)


class TestVersions:
    @pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 99, -1])
    def test_another_format_is_refused(self, data: Path, version: int) -> None:
        SQLiteStore(data).close()
        with apsw.Connection(str(data / "thalweg.sqlite")) as file:
            file.pragma("user_version", version)
        file.close()
        before = (data / "thalweg.sqlite").read_bytes()
        for _ in range(2):  # the refusal leaves no lock behind
            with pytest.raises(
                UnsuitableStore,
                match=rf"^The data file has format {version}, this service writes {SCHEMA_VERSION}; use ",
            ):
                SQLiteStore(data)
        assert (data / "thalweg.sqlite").read_bytes() == before

    def test_a_database_of_something_else_is_refused(self, data: Path) -> None:
        data.mkdir()
        with apsw.Connection(str(data / "thalweg.sqlite")) as file:
            file.execute("CREATE TABLE bookmarks (url)")
        file.close()
        with pytest.raises(UnsuitableStore, match="has format 0"):
            SQLiteStore(data)

    def test_a_file_that_is_no_database_is_refused(self, data: Path) -> None:
        data.mkdir()
        (data / "thalweg.sqlite").write_bytes(b"These are my holiday plans. " * 1000)
        for _ in range(2):
            with pytest.raises(UnsuitableStore, match=r"cannot be opened: .*\.$"):
                SQLiteStore(data)
        assert (data / "thalweg.sqlite").read_bytes().startswith(b"These are my holiday plans.")

    def test_an_empty_file_is_a_new_one(self, data: Path) -> None:
        data.mkdir()
        (data / "thalweg.sqlite").touch()
        SQLiteStore(data).close()

    @pytest.mark.parametrize("version", ["3.51.2", "3.46.1", "3.9.99"])
    def test_an_old_sqlite_is_refused(self, data: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: version)
        with pytest.raises(UnsuitableStore, match=rf"^SQLite {re.escape(version)} is too old; upgrade apsw to "):
            SQLiteStore(data)
        assert not data.exists()

    @pytest.mark.parametrize("version", ["3.51.3", "3.100.0", "4.0.0"])
    def test_a_newer_one_is_not(self, data: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: version)
        SQLiteStore(data).close()


class TestGroups:
    async def test_writes_that_come_together_share_a_commit(self, disk: Disk, data: Path) -> None:
        store = SQLiteStore(data)
        await asyncio.gather(*(store.create(f"s{i}", b"", b"") for i in range(64)))
        seen, synced = commits(store), disk.syncs[WAL]
        for n in range(1, 11):
            await asyncio.gather(*(store.append(f"s{i}", n, b"event", b"payload") for i in range(64)))
        assert len(seen) == 10
        assert disk.syncs[WAL] - synced == 10
        store.close()

    async def test_writers_that_do_not_wait_for_each_other_share_too(self, store: SQLiteStore) -> None:
        seen = commits(store)

        async def writer(name: str) -> None:
            await store.create(name, b"", b"")
            for n in range(1, 11):
                await store.append(name, n, b"event", b"payload")

        await asyncio.gather(*(writer(f"s{i}") for i in range(64)))
        assert len(seen) < 704 / 8

    async def test_a_lone_write_is_not_kept_waiting(self, store: SQLiteStore) -> None:
        seen = commits(store)
        await filled(store, rows=5)
        assert len(seen) == 6

    async def test_large_groups_too(self, store: SQLiteStore) -> None:
        """Small groups are begun on the loop, large ones by the thread; they take turns."""
        await store.create("s", b"", b"")
        written = []
        for n in range(1, 61):
            written.append(store.append("s", n, b"event", bytes(LARGE if n % 3 == 0 else 10)))
            await asyncio.sleep(0.001 if n % 5 == 0 else 0)
        await asyncio.gather(*written)
        assert [len(row.payload or b"") for row in store.rows("s", 0, 99)] == [10, 10, LARGE] * 20

    @pytest.mark.parametrize("size", [0, LARGE], ids=["small", "large"])
    async def test_answered_means_synchronised(self, disk: Disk, data: Path, size: int) -> None:
        store = SQLiteStore(data)
        await store.create("s", b"", b"")
        for n in range(1, 21):
            await store.append("s", n, b"event", bytes(size))
            assert disk.unsynced(WAL) == 0
        await store.keep("s", 20, b"x" * 9000, 10)
        assert disk.unsynced(WAL) == 0
        await store.replace_head("s", b"x")
        assert disk.unsynced(WAL) == 0
        await store.erase("s")
        assert disk.unsynced(WAL) == 0
        store.close()


class TestPowerCut:
    @pytest.mark.parametrize("round", range(12))
    async def test_takes_nothing_that_was_answered(self, disk: Disk, data: Path, tmp_path: Path, round: int) -> None:
        rng = random.Random(f"{SEED} {round}")
        print(f"seed {SEED} {round}")  # noqa: T201
        store = SQLiteStore(data)
        acknowledged: dict[str, int] = {}
        cut = tmp_path / "cut"
        at = rng.randrange(5, 200)
        operations = 0

        def fault(operation: str, name: str) -> None:
            nonlocal operations
            operations += 1
            if operations == at and not cut.exists():
                snapshot.update(acknowledged)
                disk.cut(cut, rng)

        async def writer(name: str) -> None:
            await store.create(name, b"head", b"state")
            acknowledged[name] = 0
            for n in range(1, 16):
                await store.append(name, n, b"event %d" % n, rng.randbytes(rng.choice((10, 700, 5000))))
                acknowledged[name] = n
                if n % 6 == 0:
                    await store.keep(name, n, b"at %d" % n, n - 2)

        snapshot: dict[str, int] = {}
        disk.fault = fault
        await asyncio.gather(*(writer(f"s{i}") for i in range(4)))
        disk.fault = lambda operation, name: None
        store.close()
        assert cut.exists(), "the power was never cut; choose an earlier moment"

        after = SQLiteStore(cut)
        assert after._reader().pragma("integrity_check") == "ok"
        for name, number in snapshot.items():
            rows = after.rows(name, 0, 99)
            assert [row.number for row in rows] == list(range(1, len(rows) + 1))
            assert number <= len(rows) <= number + 1
            assert [row.event for row in rows] == [b"event %d" % row.number for row in rows]
            first = after.first_snapshot(name)
            assert first is not None
            assert all(row.payload is not None for row in rows if row.number > first)
        after.close()


class TestFailures:
    @pytest.mark.parametrize("size", [10, LARGE], ids=["small", "large"])
    @pytest.mark.parametrize("operation", ["sync", "write"])
    async def test_of_the_disk_reach_all_who_wait(self, disk: Disk, data: Path, operation: str, size: int) -> None:
        store = SQLiteStore(data)
        await filled(store)
        await store.create("t", b"", b"")
        disk.fault = failing(operation, WAL, times=1)
        outcomes = await asyncio.gather(
            store.append("s", 4, b"event", bytes(size)), store.append("t", 1, b"", b""), store.create("u", b"", b""),
            return_exceptions=True,
        )  # fmt: skip
        assert [type(outcome) for outcome in outcomes] == [apsw.IOError] * 3
        assert not store.writable()
        assert len(store.rows("s", 0, 9)) == 3
        await store.append("s", 4, b"after", b"payload")
        assert store.writable()
        await store.append("s", 5, b"after", b"payload")
        store.close()
        store = SQLiteStore(data)
        assert store.rows("s", 3, 9) == [Row(4, b"after", b"payload"), Row(5, b"after", b"payload")]
        assert store._reader().pragma("integrity_check") == "ok"
        assert store.count() == 2
        store.close()

    async def test_of_a_commit_also_reach_those_that_it_would_have_refused(self, disk: Disk, data: Path) -> None:
        store = SQLiteStore(data)
        await filled(store)
        disk.fault = failing("sync", WAL, times=1)
        outcomes = await asyncio.gather(
            store.append("s", 4, b"", b""), store.append("s", 4, b"", b""), return_exceptions=True
        )
        assert all(isinstance(outcome, apsw.IOError) for outcome in outcomes)
        store.close()

    async def test_that_last_are_noticed_and_their_end_too(self, disk: Disk, data: Path) -> None:
        """Whoever asks for readiness, without any traffic, learns of both."""
        store = SQLiteStore(data)
        await filled(store)
        disk.fault = failing("sync", WAL)
        for _ in range(5):
            with pytest.raises(apsw.IOError):
                await store.append("s", 4, b"", b"")
            assert not store.writable()
            await asyncio.sleep(0.01)
        disk.fault = lambda operation, name: None
        assert not store.writable()
        await eventually(store.writable)
        store.close()

    async def test_leave_no_hole_when_writers_do_not_wait(self, disk: Disk, data: Path) -> None:
        store = SQLiteStore(data)
        await filled(store)
        disk.fault = failing("sync", WAL, times=1)
        lost = [store.append("s", n, b"event", b"payload") for n in (4, 5)]
        await asyncio.sleep(0)  # 4 and 5 are in the group that fails, the others in the next
        late = [store.append("s", n, b"event", b"payload") for n in (6, 7)]
        snapshot = store.keep("s", 7, b"at 7", 7)
        outcomes = await asyncio.gather(*lost, *late, snapshot, return_exceptions=True)
        assert [type(outcome).__name__ for outcome in outcomes] == ["IOError"] * 2 + ["Gap"] * 3
        assert [row.number for row in store.rows("s", 0, 9)] == [1, 2, 3]
        assert store.snapshot("s", 99) == (0, b"state")
        store.close()


async def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def test_a_copy_taken_while_it_runs_opens(store: SQLiteStore, data: Path, tmp_path: Path, run: Any) -> None:
    """The files at any moment are what a killed process leaves."""
    for i in range(5):
        run(filled(store, f"s{i}"))
        copy = tmp_path / f"copy{i}"
        shutil.copytree(data, copy)
        other = SQLiteStore(copy)
        assert other.count() == i + 1
        assert len(other.rows(f"s{i}", 0, 9)) == 3
        other.close()
