"""Sessions whose gradients are large: snapshots are rare, loading is bounded, and nothing piles up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from service.errors import NonFinite, ThalwegError
from service.optim import blocks
from service.optim.optimizer import build
from service.optim.tensors import Array, norm, single
from service.sessions import checkpoint, retention
from service.sessions.live import PAGE_BYTES
from service.sessions.session import Session, freeze, unshared
from service.settings import Settings
from service.stores.base import Full, Store
from service.wire.trees import Flat
from tests.conftest import Run, Serve, Service
from tests.sessions.calls import ADAM, Between, problem, resolved, settle

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


def folded(numbers: Iterable[int]) -> Array:
    """The parameters that these gradients lead to, by an optimizer that has nothing around it."""
    optimizer = build(ADAM, single(SIZE))
    state = optimizer.init(np.full(SIZE, 0.5))
    for number in numbers:
        state = optimizer.step(state, values(number)).state
    return state.params


def held(service: Service) -> Session:
    """The session as it is in memory."""
    session = service.engine._live.held("s")
    assert session is not None
    return session


async def take(service: Service, flat: Array, **more: Any) -> Any:
    """A step with this gradient."""
    asked = {"step": None, "loss": None, "returning": "params", **more}
    return await service.engine.step("s", lambda _: Flat(flat), **asked)


class TestWritingOverTheSlots:
    """A large step is written over the old slots where nobody else has them; what goes wrong then loses nothing."""

    @pytest.mark.parametrize("durability", ["step", "none"])
    def test_is_what_steps_do(self, serve: Serve, kind: str, run: Run, durability: str) -> None:
        service = serve(kind=kind)
        large(service, durability)
        run(steps(service, 1, 2))
        settle(service)
        params = held(service).state.params
        addresses = [slot.ctypes.data for slot in held(service).state.slots]
        last = run(steps(service, 3, 3))
        assert [slot.ctypes.data for slot in held(service).state.slots] == addresses
        assert held(service).state.params is not params
        assert params.tobytes() == folded([1, 2]).tobytes()
        assert last is not None
        assert last.tobytes() == folded([1, 2, 3]).tobytes()

    def test_is_not_done_to_what_others_hold(self, serve: Serve, kind: str, run: Run) -> None:
        service = serve(kind=kind)
        large(service)
        run(steps(service, 1, 1))
        settle(service)
        assert unshared(held(service))
        holders: list[Callable[[Session], Any]] = [
            freeze,
            lambda session: session.state.slots,
            lambda session: session.state.slots[1],
            lambda session: session.state.slots[0][3:],
            lambda session: session.state.slots[0].data,
            lambda session: run(service.engine.session_at(session, None)),
            lambda session: checkpoint.pack(session),
        ]
        for hold in holders:
            holding = hold(held(service))
            assert not unshared(held(service))
            del holding
            assert unshared(held(service))
        assert service.post("/v1/sessions/s/fork", {"id": "child"}).status_code == 201
        assert not unshared(held(service))

    def test_leaves_a_fork_as_it_is(self, serve: Serve, kind: str, run: Run) -> None:
        service = serve(kind=kind)
        large(service)
        run(steps(service, 1, 2))
        assert service.post("/v1/sessions/s/fork", {"id": "child"}).status_code == 201
        run(steps(service, 3, 4))
        assert service.delete("/v1/sessions/s").status_code in (200, 204)
        child = run(service.engine.step("child", lambda _: Flat(values(3)), step=3, loss=None, returning="params"))
        assert child.params.tobytes() == folded([1, 2, 3]).tobytes()

    @pytest.mark.parametrize("durability", ["step", "none"])
    def test_survives_a_step_that_overflows(self, serve: Serve, kind: str, run: Run, durability: str) -> None:
        service = serve(kind=kind)
        large(service, durability)
        run(steps(service, 1, 3))
        torn = held(service)
        flat = values(4)
        flat[-1] = 1e160  # its square is not finite
        flat[:-1] *= 1e-3
        with pytest.raises(NonFinite, match="overflow") as refused:
            run(take(service, flat))
        assert refused.value.places[0].pointer == f"/gradients/{SIZE - 1}"
        assert torn.stale
        last = run(steps(service, 4, 5))
        assert last is not None
        assert last.tobytes() == folded([1, 2, 3, 4, 5]).tobytes()

    def test_is_not_begun_with_a_gradient_that_is_not_finite(self, serve: Serve, kind: str, run: Run) -> None:
        service = serve(kind=kind)
        large(service)
        run(steps(service, 1, 3))
        session, flat = held(service), values(4)
        flat[7] = np.nan
        with pytest.raises(NonFinite):
            run(take(service, flat))
        assert held(service) is session
        assert not session.torn

    @pytest.mark.parametrize("error", [Full("no room"), OSError("no disk")])
    def test_survives_a_write_that_fails(self, serve: Serve, kind: str, run: Run, error: Exception) -> None:
        failing = Between(serve(kind=kind).store)
        service = serve(store=failing)
        large(service)
        run(steps(service, 1, 3))
        session = held(service)
        failing.append = lambda *_: resolved(error=error)
        with pytest.raises(ThalwegError):
            run(steps(service, 4, 4))
        assert session.stale
        failing.append = failing.inner.append
        last = run(steps(service, 4, 5))
        assert last is not None
        assert last.tobytes() == folded([1, 2, 3, 4, 5]).tobytes()

    def test_survives_a_request_that_is_cancelled(
        self, serve: Serve, kind: str, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service = serve(kind=kind)
        large(service)
        run(steps(service, 1, 3))
        begun, go, walk = threading.Event(), threading.Event(), blocks.step

        def slow(*arguments: Any) -> Any:
            begun.set()
            go.wait(20)
            return walk(*arguments)

        async def story() -> None:
            monkeypatch.setattr(blocks, "step", slow)
            task = asyncio.ensure_future(take(service, values(9)))
            while not begun.is_set():
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            monkeypatch.undo()
            go.set()

        run(story())
        last = run(steps(service, 4, 5))
        assert last is not None
        assert last.tobytes() == folded([1, 2, 3, 4, 5]).tobytes()

    def test_lets_readers_of_the_whole_state_wait(
        self, serve: Serve, kind: str, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service = serve(kind=kind)
        large(service)
        run(steps(service, 1, 1))
        begun, go, walk = threading.Event(), threading.Event(), blocks.step

        def slow(*arguments: Any) -> Any:
            begun.set()
            go.wait(20)
            return walk(*arguments)

        async def story() -> tuple[int, Array]:
            monkeypatch.setattr(blocks, "step", slow)
            session = held(service)
            stepping = asyncio.ensure_future(take(service, values(2)))
            while not begun.is_set():
                await asyncio.sleep(0.001)
            looking = asyncio.ensure_future(service.engine.session_at(session, None))
            await asyncio.sleep(0.01)
            assert not looking.done()
            step, params = await service.engine.params_at(session, None)  # these are never written over
            go.set()
            await stepping
            assert (await looking).step == 2
            return step, params

        step, params = run(story())
        assert step == 1
        assert params.tobytes() == folded([1]).tobytes()


@pytest.mark.parametrize("name", ["adam", "lamb"])
def test_the_updates_are_answered_where_they_are_asked_for(serve: Serve, kind: str, run: Run, name: str) -> None:
    service = serve(kind=kind)
    body = {"optimizer": {"name": name}, "params": [0.5] * SIZE, "id": "s"}
    assert service.post("/v1/sessions", body).status_code == 201
    before = held(service).state.params
    answer = run(take(service, values(1), returning="updates"))
    assert answer.params is None
    assert answer.updates.tobytes() == (held(service).state.params - before).tobytes()
    assert answer.update_norm == norm(answer.updates)
    assert answer.gradient_norm == norm(values(1))


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
