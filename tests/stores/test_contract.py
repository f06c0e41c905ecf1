"""The contract of `service/stores/base.py`, sentence by sentence, for every store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from service.stores.base import Entry, Erased, Gap, Head, Missing, Row, Store, Stored, Taken
from tests.stores.conftest import MEMBERS

NAMES = [
    "plain",
    "A",
    "a",
    "é",
    "e\u0301",
    "日本語",
    "🎈",
    "with space",
    "'; DROP TABLE events; --",
    "nul\0in",
    "x" * 500,
]
WRITES: dict[str, Callable[[Store, str], Any]] = {
    "append": lambda store, session: store.append(session, 1, b"event", b"payload"),
    "extend": lambda store, session: store.extend(session, 1, [(b"event", b"payload"), (b"event", b"payload")]),
    "keep": lambda store, session: store.keep(session, 0, b"snapshot", 0),
    "replace_head": lambda store, session: store.replace_head(session, b"head"),
    "erase": lambda store, session: store.erase(session),
}


async def filled(store: Store, session: str = "s", rows: int = 10) -> None:
    """A session with rows 1 ... `rows`."""
    await store.create(session, b"head", b"at 0")
    await asyncio.gather(*(store.append(session, n, b"event %d" % n, b"payload %d" % n) for n in range(1, rows + 1)))


class TestCreate:
    async def test_a_session_is_its_head_and_a_snapshot_before_row_1(self, store: Store) -> None:
        await store.create("s", b"head", b"state")
        assert store.head("s") == b"head"
        assert store.snapshot("s", 0) == (0, b"state")
        assert store.first_snapshot("s") == 0
        assert store.rows("s", 0, 10) == []
        assert store.last("s") is None
        assert store.count() == 1

    async def test_a_name_is_taken_once(self, store: Store) -> None:
        await store.create("s", b"first", b"1")
        with pytest.raises(Taken):
            await store.create("s", b"second", b"2")
        assert (store.head("s"), store.snapshot("s", 9), store.count()) == (b"first", (0, b"1"), 1)

    async def test_of_many_creates_of_one_name_one_wins(self, store: Store) -> None:
        outcomes = await asyncio.gather(
            *(store.create("s", b"%d" % i, b"state %d" % i) for i in range(32)), return_exceptions=True
        )
        (winner,) = (i for i, outcome in enumerate(outcomes) if outcome is None)
        assert all(type(outcome) is Taken for i, outcome in enumerate(outcomes) if i != winner)
        assert (store.head("s"), store.snapshot("s", 0)) == (b"%d" % winner, (0, b"state %d" % winner))

    @pytest.mark.parametrize("name", NAMES)
    async def test_any_text_is_a_name(self, store: Store, name: str) -> None:
        await filled(store, name, rows=2)
        await store.keep(name, 1, b"at 1", 1)
        assert store.head(name) == b"head"
        assert [row.number for row in store.rows(name, 0, 9)] == [1, 2]
        assert store.heads(None, 9)[0].session == name
        await store.erase(name)
        with pytest.raises(Erased):
            store.head(name)

    async def test_names_that_look_alike_are_different(self, store: Store) -> None:
        for name in NAMES:
            await store.create(name, name.encode(), b"")
        assert [store.head(name) for name in NAMES] == [name.encode() for name in NAMES]


class TestFence:
    async def test_of_many_appends_of_one_number_one_wins(self, store: Store) -> None:
        await filled(store, rows=3)
        outcomes = await asyncio.gather(
            *(store.append("s", 4, b"event %d" % i, b"payload %d" % i) for i in range(64)), return_exceptions=True
        )
        (winner,) = (i for i, outcome in enumerate(outcomes) if outcome is None)
        assert all(type(outcome) is Taken for i, outcome in enumerate(outcomes) if i != winner)
        assert store.rows("s", 3, 9) == [Row(4, b"event %d" % winner, b"payload %d" % winner)]

    async def test_a_loser_changes_nothing(self, store: Store) -> None:
        await filled(store)
        before = store.rows("s", 0, 99)
        for number in (1, 5, 10):
            with pytest.raises(Taken):
                await store.append("s", number, b"other", b"other")
        assert store.rows("s", 0, 99) == before

    async def test_a_number_stays_taken_when_its_payload_is_forgotten(self, store: Store) -> None:
        await filled(store)
        await store.keep("s", 10, b"at 10", 10)
        with pytest.raises(Taken):
            await store.append("s", 5, b"other", b"other")

    @pytest.mark.parametrize("number", [2, 3, 1 << 40])
    async def test_a_log_begins_at_1(self, store: Store, number: int) -> None:
        await store.create("s", b"", b"")
        with pytest.raises(Gap):
            await store.append("s", number, b"", b"")
        assert store.rows("s", 0, 9) == []

    async def test_a_log_has_no_holes(self, store: Store) -> None:
        await filled(store, rows=3)
        outcomes = await asyncio.gather(
            store.append("s", 5, b"", b""), store.append("s", 4, b"", b""), store.append("s", 5, b"", b""),
            return_exceptions=True,
        )  # fmt: skip
        assert [type(outcome) for outcome in outcomes] == [Gap, type(None), type(None)]
        assert [row.number for row in store.rows("s", 0, 99)] == [1, 2, 3, 4, 5]

    async def test_sessions_do_not_stand_in_each_others_way(self, store: Store) -> None:
        names = [f"s{i}" for i in range(20)]
        await asyncio.gather(*(filled(store, name, rows=5) for name in names))
        assert all([row.number for row in store.rows(name, 0, 9)] == [1, 2, 3, 4, 5] for name in names)


class TestExtend:
    async def test_adds_rows_in_their_order(self, store: Store) -> None:
        await filled(store, rows=2)
        await store.extend("s", 3, [(b"event %d" % n, b"payload %d" % n) for n in (3, 4, 5)])
        assert store.rows("s", 2, 9) == [Row(n, b"event %d" % n, b"payload %d" % n) for n in (3, 4, 5)]
        await store.append("s", 6, b"event 6", b"")

    async def test_adds_all_rows_or_none(self, store: Store) -> None:
        await filled(store, rows=3)
        for number, refusal in ((3, Taken), (2, Taken), (5, Gap)):
            with pytest.raises(refusal):
                await store.extend("s", number, [(b"other", b"other")] * 4)
        assert [row.event for row in store.rows("s", 0, 9)] == [b"event 1", b"event 2", b"event 3"]

    async def test_of_many_at_one_number_one_wins(self, store: Store) -> None:
        await store.create("s", b"", b"")
        outcomes = await asyncio.gather(
            *(store.extend("s", 1, [(b"%d" % i, b"")] * (1 + i % 3)) for i in range(32)), return_exceptions=True
        )
        (winner,) = (i for i, outcome in enumerate(outcomes) if outcome is None)
        assert all(type(outcome) is Taken for i, outcome in enumerate(outcomes) if i != winner)
        assert [row.event for row in store.rows("s", 0, 99)] == [b"%d" % winner] * (1 + winner % 3)


class TestManyLogs:
    async def test_one_refusal_is_no_refusal_of_its_neighbours(self, store: Store) -> None:
        for session in "abc":
            await store.create(session, b"head", b"state")
        await store.append("b", 1, b"event", b"payload")
        rows = [
            Entry("a", 1, b"e", b"p"),
            Entry("b", 1, b"e", b"p"),
            Entry("c", 2, b"e", b"p"),
            Entry("d", 1, b"e", b"p"),
            Entry("a", 2, b"e", b"p"),
            Entry("a", 2, b"e", b"p"),
            Entry("c", 1, b"e", b"p"),
        ]
        refused = await store.append_all(rows)
        assert [type(refusal) for refusal in refused] == [
            type(None), Taken, Gap, Missing, type(None), Taken, type(None)
        ]  # fmt: skip
        assert [len(store.rows(session, 0, 9)) for session in "abc"] == [2, 1, 1]


class TestRefusals:
    @pytest.mark.parametrize("write", WRITES)
    async def test_nothing_is_written_where_there_is_no_session(self, store: Store, write: str) -> None:
        with pytest.raises(Missing) as caught:
            await WRITES[write](store, "nobody")
        assert caught.type is Missing
        assert (store.count(), store.heads(None, 9)) == (0, [])

    @pytest.mark.parametrize("write", WRITES)
    async def test_nothing_is_written_to_an_erased_session(self, store: Store, write: str) -> None:
        await filled(store)
        await store.erase("s")
        with pytest.raises(Erased):
            await WRITES[write](store, "s")
        assert (store.count(), store.rows("s", 0, 9), store.snapshot("s", 9)) == (0, [], None)

    async def test_an_erased_name_is_not_given_again(self, store: Store) -> None:
        await filled(store)
        await store.erase("s")
        with pytest.raises(Erased):
            await store.create("s", b"", b"")
        with pytest.raises(Erased):
            store.head("s")

    async def test_reads_of_what_is_not_there(self, store: Store) -> None:
        await filled(store, "erased")
        await store.erase("erased")
        for name in ("nobody", "erased"):
            assert store.rows(name, 0, 9) == []
            assert store.last(name) is None
            assert store.snapshot(name, 9) is None
            assert store.first_snapshot(name) is None
        with pytest.raises(Missing) as caught:
            store.head("nobody")
        assert caught.type is Missing

    async def test_a_refused_write_leaves_its_neighbours(self, store: Store) -> None:
        await filled(store, rows=1)
        outcomes = await asyncio.gather(
            store.append("s", 2, b"two", b"2"),
            store.append("s", 2, b"again", b"again"),
            store.append("nobody", 1, b"", b""),
            store.create("s", b"other", b"other"),
            store.append("s", 9, b"", b""),
            store.append("s", 3, b"three", b"3"),
            store.create("t", b"t", b"t"),
            return_exceptions=True,
        )
        kinds = [type(outcome) for outcome in outcomes]
        assert kinds == [type(None), Taken, Missing, Taken, Gap, type(None), type(None)]
        assert store.rows("s", 1, 9) == [Row(2, b"two", b"2"), Row(3, b"three", b"3")]
        assert (store.head("s"), store.head("t")) == (b"head", b"t")


class TestOrder:
    async def test_writes_take_effect_in_the_order_of_the_calls(self, store: Store) -> None:
        written = [store.create("s", b"head", b"state")]
        written += [store.append("s", n, b"%d" % n, b"") for n in range(1, 301)]
        written += [store.keep("s", 300, b"at 300", 250), store.replace_head("s", b"later"), store.erase("s")]
        assert await asyncio.gather(*written) == [None] * 304
        with pytest.raises(Erased):
            store.head("s")

    async def test_also_across_groups(self, store: Store) -> None:
        await store.create("s", b"", b"")
        written = []
        for n in range(1, 101):
            written.append(store.append("s", n, b"", b"x" * 10_000))
            if n % 7 == 0:
                await asyncio.sleep(0)
            if n % 31 == 0:
                await written[-1]
        await asyncio.gather(*written)
        assert [row.number for row in store.rows("s", 0, 999)] == list(range(1, 101))

    async def test_the_newest_head_wins(self, store: Store) -> None:
        await store.create("s", b"0", b"")
        await asyncio.gather(*(store.replace_head("s", b"%d" % i) for i in range(1, 20)))
        assert store.head("s") == b"19"
        assert store.heads(None, 1)[0].head == b"19"

    async def test_a_write_whose_caller_went_away_takes_effect(self, store: Store) -> None:
        await store.create("s", b"", b"")
        written = store.append("s", 1, b"event", b"payload")
        written.cancel()
        await store.append("s", 2, b"event", b"payload")
        assert [row.number for row in store.rows("s", 0, 9)] == [1, 2]


class TestRows:
    async def test_pages(self, store: Store) -> None:
        await filled(store)
        assert [row.number for row in store.rows("s", 0, 4)] == [1, 2, 3, 4]
        assert [row.number for row in store.rows("s", 4, 4)] == [5, 6, 7, 8]
        assert [row.number for row in store.rows("s", 8, 4)] == [9, 10]
        assert store.rows("s", 10, 4) == store.rows("s", 1 << 40, 4) == store.rows("s", 0, 0) == []

    async def test_a_row_is_what_was_appended(self, store: Store) -> None:
        await filled(store)
        assert store.rows("s", 6, 1) == [Row(7, b"event 7", b"payload 7")]
        assert store.last("s") == Row(10, b"event 10", None)

    async def test_empty_bytes_are_not_forgotten_bytes(self, store: Store) -> None:
        await store.create("s", b"", b"")
        await store.append("s", 1, b"", b"")
        assert store.head("s") == b""
        assert store.snapshot("s", 0) == (0, b"")
        assert store.rows("s", 0, 9) == [Row(1, b"", b"")]
        assert store.heads(None, 9)[0].head == b""
        assert store.count() == 1

    async def test_large_values(self, store: Store) -> None:
        large = bytes(range(256)) * 20_000  # 5 MB
        await store.create("s", b"head", large)
        await asyncio.gather(
            store.append("s", 1, b"event", large), store.append("s", 2, b"event", b"small"), store.create("t", b"", b"")
        )
        await store.keep("s", 1, large[1:], 0)
        assert store.rows("s", 0, 9) == [Row(1, b"event", large), Row(2, b"event", b"small")]
        assert store.snapshot("s", 9) == (1, large[1:])


class TestLoad:
    async def test_is_the_head_the_newest_snapshot_and_the_rows_from_its_own_on(self, store: Store) -> None:
        await filled(store, rows=5)
        await store.keep("s", 2, b"at 2", 0)
        await store.keep("s", 4, b"at 4", 3)
        await filled(store, "other", rows=1)
        (stored,) = store.load(["s"], 99, 9)
        payloads = [Row(4, b"event 4", b"payload 4"), Row(5, b"event 5", b"payload 5")]
        assert stored == Stored(b"head", 4, b"at 4", payloads)
        await store.keep("s", 5, b"at 5", 5)
        assert store.load(["s"], 99, 0) == [Stored(b"head", 5, b"at 5", [Row(5, b"event 5", None)])]

    async def test_of_many_has_each_in_its_place(self, store: Store) -> None:
        for i in range(20):
            await filled(store, f"s{i}", rows=i)
        names = [f"s{i}" for i in (7, 0, 19, 3)]
        loaded = store.load(["never", *names, "s7"], 99, 99)
        assert loaded[0] is None
        assert loaded[1] == loaded[5]
        for name, stored in zip(names, loaded[1:5], strict=True):
            assert stored == Stored(b"head", 0, b"at 0", store.rows(name, 0, 99))
        assert store.load([], 99, 99) == []

    async def test_is_only_of_what_is_small(self, store: Store) -> None:
        await filled(store, rows=5)
        await store.create("t", b"head", b"state")
        bounds = [(5, 0), (4, 0), (4, 5), (4, 4), (3, 5)]
        assert [[found is not None for found in store.load(["s", "t"], *bound)] for bound in bounds] == [
            [False, True], [False, False], [True, False], [False, False], [False, False],
        ]  # fmt: skip

    async def test_is_nothing_where_there_is_no_session(self, store: Store) -> None:
        await filled(store)
        await store.erase("s", b"tombstone")
        assert store.load(["s", "never", ""], 99, 99) == [None, None, None]

    @pytest.mark.parametrize("name", NAMES)
    async def test_takes_any_name(self, store: Store, name: str) -> None:
        await filled(store, name, rows=1)
        await filled(store, "another", rows=0)
        assert store.load([name], 99, 9) == [Stored(b"head", 0, b"at 0", [Row(1, b"event 1", b"payload 1")])]


class TestKeep:
    async def test_forgets_payloads_up_to_a_row_and_snapshots_below_it(self, store: Store) -> None:
        await filled(store)
        await store.keep("s", 3, b"at 3", 0)
        await store.keep("s", 6, b"at 6", 0)
        assert [store.snapshot("s", n) for n in (0, 2, 3, 5, 6, 99)] == [
            (0, b"at 0"), (0, b"at 0"), (3, b"at 3"), (3, b"at 3"), (6, b"at 6"), (6, b"at 6"),
        ]  # fmt: skip
        await store.keep("s", 9, b"at 9", 6)
        assert [store.snapshot("s", n) for n in (0, 5)] == [None, None]
        assert [store.snapshot("s", n) for n in (6, 8, 9)] == [(6, b"at 6"), (6, b"at 6"), (9, b"at 9")]
        assert store.first_snapshot("s") == 6
        rows = store.rows("s", 0, 99)
        assert [row.payload for row in rows] == [None] * 6 + [b"payload %d" % n for n in (7, 8, 9, 10)]
        assert [row.event for row in rows] == [b"event %d" % n for n in range(1, 11)]

    async def test_0_forgets_nothing(self, store: Store) -> None:
        await filled(store)
        await store.keep("s", 10, b"at 10", 0)
        assert None not in [row.payload for row in store.rows("s", 0, 99)]
        assert store.first_snapshot("s") == 0

    async def test_may_forget_all_below_the_snapshot(self, store: Store) -> None:
        await filled(store)
        await store.keep("s", 10, b"at 10", 10)
        assert {row.payload for row in store.rows("s", 0, 99)} == {None}
        assert store.first_snapshot("s") == 10
        await store.append("s", 11, b"event 11", b"payload 11")
        assert store.rows("s", 10, 9) == [Row(11, b"event 11", b"payload 11")]

    async def test_forgets_on_from_where_it_left_off(self, store: Store) -> None:
        await filled(store, rows=30)
        for forget in (0, 4, 4, 5, 17, 29):
            await store.keep("s", 30, b"at 30", forget)
            payloads = [row.payload for row in store.rows("s", 0, 99)]
            assert payloads == [None] * forget + [b"payload %d" % n for n in range(forget + 1, 31)]

    async def test_replaces_a_snapshot_of_the_same_row(self, store: Store) -> None:
        await filled(store)
        await store.keep("s", 5, b"one", 0)
        await store.keep("s", 5, b"two", 0)
        assert store.snapshot("s", 5) == (5, b"two")

    async def test_needs_the_row(self, store: Store) -> None:
        await filled(store, rows=3)
        with pytest.raises(Gap):
            await store.keep("s", 4, b"at 4", 3)
        assert store.snapshot("s", 99) == (0, b"at 0")
        assert None not in [row.payload for row in store.rows("s", 0, 99)]

    async def test_leaves_other_sessions(self, store: Store) -> None:
        await filled(store, "a")
        await filled(store, "b")
        await store.keep("a", 10, b"at 10", 10)
        assert None not in [row.payload for row in store.rows("b", 0, 99)]
        assert store.first_snapshot("b") == 0


class TestHeads:
    async def test_newest_first_page_by_page(self, store: Store) -> None:
        names = [f"s{i}" for i in (3, 1, 4, 1.5, 9, 2, 6)]
        for name in names:
            await store.create(name, name.encode(), b"")
        seen: list[Head] = []
        while page := store.heads(seen[-1].cursor if seen else None, 3):
            assert len(page) <= 3
            seen += page
        assert [head.session for head in seen] == names[::-1]
        assert [head.head for head in seen] == [name.encode() for name in names[::-1]]
        cursors = [head.cursor for head in seen]
        assert cursors == sorted(set(cursors), reverse=True)

    async def test_erased_sessions_are_not_among_them(self, store: Store) -> None:
        for i in range(6):
            await store.create(f"s{i}", b"", b"")
        before = store.heads(None, 9)
        for i in (0, 3, 5):
            await store.erase(f"s{i}")
        assert [head.session for head in store.heads(None, 2)] == ["s4", "s2"]
        assert [head.session for head in store.heads(before[2].cursor, 9)] == ["s2", "s1"]
        assert store.count() == 3

    async def test_a_session_made_while_paging_moves_nothing(self, store: Store) -> None:
        for i in range(4):
            await store.create(f"s{i}", b"", b"")
        first = store.heads(None, 2)
        await store.create("s4", b"", b"")
        await store.erase("s0")
        await store.create("s5", b"", b"")
        assert [head.session for head in store.heads(first[-1].cursor, 9)] == ["s1"]

    @pytest.mark.parametrize("before", [0, -1, -(1 << 62)])
    async def test_there_is_nothing_before_the_first(self, store: Store, before: int) -> None:
        await store.create("s", b"", b"")
        assert store.heads(before, 9) == []

    @pytest.mark.parametrize("before", [1 << 62, 1 << 63, 10**30])
    async def test_a_cursor_past_all_is_the_beginning(self, store: Store, before: int) -> None:
        await store.create("s", b"", b"")
        assert [head.session for head in store.heads(before, 9)] == ["s"]


class TestReads:
    async def test_from_any_thread_see_what_was_answered(self, store: Store) -> None:
        await store.create("s", b"head", b"state")
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(4) as threads:
            for n in range(1, 21):
                await store.append("s", n, b"event", b"payload")
                reads = [loop.run_in_executor(threads, store.rows, "s", n - 1, 9) for _ in range(4)]
                assert await asyncio.gather(*reads) == [[Row(n, b"event", b"payload")]] * 4

    async def test_while_others_write(self, store: Store) -> None:
        """A reader never sees a hole, a half, or a step back."""
        await store.create("s", b"head", b"state")
        wrong: list[str] = []
        done = threading.Event()

        def read() -> None:
            seen = 0
            while not done.is_set():
                rows = store.rows("s", 0, 1000)
                if [row.number for row in rows] != list(range(1, len(rows) + 1)) or len(rows) < seen:
                    wrong.append(f"{[row.number for row in rows]} after {seen}")
                seen = len(rows)

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for n in range(1, 151):
            await store.append("s", n, b"event", b"payload")
        done.set()
        for reader in readers:
            reader.join()
        assert not wrong, wrong[:3]

    async def test_are_by_value(self, store: Store) -> None:
        await filled(store, rows=3)
        rows, heads = store.rows("s", 0, 9), store.heads(None, 9)
        kept = list(rows), list(heads)
        await store.append("s", 4, b"", b"")
        await store.keep("s", 4, b"", 4)
        await store.replace_head("s", b"other")
        await store.create("t", b"", b"")
        assert (rows, heads) == kept
        rows.clear()
        heads.clear()
        assert len(store.rows("s", 0, 9)) == 4
        assert len(store.heads(None, 9)) == 2


class TestErase:
    async def test_leaves_only_the_name(self, store: Store) -> None:
        await filled(store, "a")
        await filled(store, "b")
        await store.keep("a", 5, b"at 5", 3)
        await store.erase("a")
        assert store.count() == 1
        assert [head.session for head in store.heads(None, 9)] == ["b"]
        assert [row.number for row in store.rows("b", 0, 99)] == list(range(1, 11))
        assert store.snapshot("b", 99) == (0, b"at 0")


class TestClose:
    @pytest.mark.parametrize("member", MEMBERS)
    async def test_finishes_the_writes_under_way(self, member: str, tmp_path: Path) -> None:
        store = MEMBERS[member](tmp_path / "data")
        written = [store.create("s", b"", b"")]
        await asyncio.sleep(0)
        written += [store.append("s", n, b"", b"x" * 100_000) for n in range(1, 21)]
        store.close()
        assert await asyncio.wait_for(asyncio.gather(*written), 10) == [None] * 21


async def test_takes_writes(store: Store) -> None:
    assert store.writable() is True
    await store.create("s", b"", b"")
    assert store.writable() is True
