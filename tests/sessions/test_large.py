"""Sessions whose gradients are large: snapshots are rare, loading is bounded, and nothing piles up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from service.optim.tensors import Array
from service.sessions import retention
from service.sessions.live import PAGE_BYTES
from service.settings import Settings
from service.stores.base import Store
from service.wire.trees import Flat
from tests.conftest import Run, Serve, Service
from tests.sessions.calls import ADAM, Between, problem, settle

SIZE = 1 << 17  # elements: a gradient of 1 MiB, a state of 3 MiB
MiB = 1 << 20


class Counting(Between):
    """Counts snapshots, and the rows of each read."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.kept: list[int] = []
        self.read: list[int] = []

    def keep(self, session: str, number: int, *more: Any) -> Any:
        self.kept.append(number)
        return self.inner.keep(session, number, *more)

    def rows(self, *arguments: Any) -> Any:
        found = self.inner.rows(*arguments)
        self.read.append(len(found))
        return found


def large(service: Service, durability: str = "step", size: int = SIZE) -> None:
    """A session with many parameters."""
    body = {"optimizer": ADAM, "params": [0.5] * size, "id": "s", "durability": durability}
    assert service.post("/v1/sessions", body).status_code == 201


def values(number: int, size: int = SIZE) -> Array:
    """The gradient of a step."""
    return np.random.default_rng(number).standard_normal(size)


async def steps(service: Service, first: int, last: int, size: int = SIZE) -> Array | None:
    """Steps, as the routes take them but for the reading of the body."""
    params = None
    for n in range(first, last + 1):
        flat = Flat(values(n, size))
        taken = await service.engine.step("s", lambda _, f=flat: f, step=n, loss=None, returning="params")
        params = taken.params
    return params


@pytest.mark.parametrize("durability", ["step", "none"])
def test_snapshots_are_rarer_than_steps(serve: Serve, kind: str, run: Run, durability: str) -> None:
    """Though a gradient is more than a quarter of what is kept."""
    store = Counting(serve(kind=kind).store)
    service = serve(store=store, kept_gradient_bytes=2 * MiB)
    large(service, durability)
    last = None
    for n in range(1, 26):
        last = run(steps(service, n, n))
        settle(service)
    assert 3 <= len(store.kept) <= 25 // 6  # twice the state's bytes are six gradients
    rows = service.store.rows("s", 0, 99)
    held = sum(len(row.payload or b"") for row in rows)
    assert held <= (2 + 2 * 6) * MiB
    other = serve(store=service.store, kept_gradient_bytes=2 * MiB)
    again = run(steps(other, 25, 25))
    assert last is not None
    assert again is not None
    assert last.tobytes() == again.tobytes()


def test_loading_reads_a_bounded_number_of_bytes_at_a_time(serve: Serve, kind: str, run: Run, monkeypatch: Any) -> None:
    monkeypatch.setattr("service.sessions.live.PAGE_BYTES", 2 * MiB)
    service = serve(kind=kind)
    large(service)
    run(steps(service, 1, 5))
    store = Counting(service.store)
    other = serve(store=store)
    assert other.get("/v1/sessions/s").json()["step"] == 5
    assert max(store.read) == 2
    assert sum(store.read) == 5
    assert MiB <= PAGE_BYTES


@pytest.mark.parametrize(("replay", "most"), [(1, 1), (3 * MiB, 3), (1 << 40, 6)])
def test_the_replay_is_bounded_in_bytes(serve: Serve, kind: str, run: Run, replay: int, most: int) -> None:
    service = serve(kind=kind, kept_gradient_bytes=0, replay_bytes=replay)
    large(service)
    for last in range(1, 14):
        run(steps(service, last, last))
        settle(service)
        newest = service.store.newest_snapshot("s", 1 << 40)
        assert newest is not None
        assert last - newest < most


def test_steps_that_are_not_written_do_not_pile_up(serve: Serve, kind: str, run: Run) -> None:
    """A disk that is slower than the client makes the client wait."""
    held: list[asyncio.Future[None]] = []

    class Slow(Between):
        def keep(self, *arguments: Any) -> Any:
            return self.inner.keep(*arguments)

    slow = Slow(serve(kind=kind).store)
    service = serve(store=slow, max_unwritten_bytes=3 * MiB)

    def append(*arguments: Any) -> asyncio.Future[None]:
        held.append(asyncio.get_running_loop().create_future())
        return held[-1]

    large(service, "none")
    slow.append = append

    async def release(done: Callable[[], bool]) -> None:
        while not done() or service.engine._writer.unwritten:
            for future in held:
                if not future.done():
                    future.set_result(None)
            await asyncio.sleep(0.001)

    async def story() -> None:
        task = asyncio.ensure_future(steps(service, 1, 9))
        try:
            async with asyncio.timeout(20):
                while len(held) < 5:
                    await asyncio.sleep(0.002)
            await asyncio.sleep(0.1)
            assert (len(held), service.engine._writer.unwritten) == (5, 4 * MiB)
        finally:
            await release(task.done)
        await task

    run(story())
    assert service.engine._writer.unwritten == 0


def test_a_rewind_past_what_is_kept_says_what_is_left(serve: Serve, kind: str, run: Run) -> None:
    service = serve(kind=kind, kept_gradient_bytes=0)
    large(service)
    run(steps(service, 1, 20))
    settle(service)
    gone = problem(service.post("/v1/sessions/s/rewind", {"step": 1, "return": "none"}), 410, "step-not-kept")
    first = gone["kept_from_step"]
    assert 6 <= first < 20
    answer = service.post("/v1/sessions/s/rewind", {"step": first, "return": "none"})
    assert (answer.status_code, answer.json()["step"]) == (200, first)


class TestTheRule:
    def test_is_by_rows_for_small_sessions(self) -> None:
        settings = Settings(store="memory", snapshot_every=100)
        assert not retention.due(settings, 99, 99 * 80, 240)
        assert retention.due(settings, 100, 100 * 80, 240)

    def test_is_by_bytes_for_large_ones(self) -> None:
        settings = Settings(store="memory", snapshot_every=100, kept_gradient_bytes=0, replay_bytes=10_000)
        assert not retention.due(settings, 1, 5_999, 3_000)
        assert retention.due(settings, 1, 6_000, 3_000)
        assert retention.due(settings, 1, 10_000, 1 << 40)

    def test_never_forgets_the_newest(self) -> None:
        settings = Settings(store="memory", kept_gradient_bytes=0)
        assert retention.kept_from(settings, 7, 5, 5_000) == 6
        assert retention.kept_from(settings, 7, 0, 0) == 0

    def test_keeps_as_many_as_the_bytes_allow(self) -> None:
        settings = Settings(store="memory", kept_gradient_bytes=10_000)
        assert retention.kept_from(settings, 100, 5, 5_000) == 90
        assert retention.kept_from(settings, 5, 5, 5_000) == 0
