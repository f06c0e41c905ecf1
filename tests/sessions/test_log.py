"""What a log holds and for how long: snapshots, bounded gradients, replay, and what leaves memory."""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import struct
import tracemalloc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.optim.state import State
from service.optim.tensors import DTYPES, Layout
from service.sessions import live, session
from service.sessions.log import DIGEST_BYTES, Damaged, Snapshot, pack, step_digest, unpack
from service.sessions.session import MAX_SHARED, SHARED, weigh
from service.stores.base import Row, Store, Stored
from tests.conftest import Run, Serve, Service
from tests.sessions.calls import (
    MOMENTUM,
    Adam,
    Between,
    contents,
    create,
    gradient,
    params,
    problem,
    shown,
    step,
    took,
    walk,
)

BYTES = 16  # of a gradient of two doubles


def after(last: int) -> list[float]:
    """What Adam makes of [1, 2] in so many steps."""
    model = Adam([1.0, 2.0])
    for n in range(1, last + 1):
        model.step(gradient(n))
    return model.params.tolist()


def layout(size: int, dtype: str = "float64") -> Layout:
    return Layout(("w", "b"), ((size - 1,), ()), DTYPES[dtype])


def example(size: int = 3, dtype: str = "float64", slots: int = 2, counts: Any = 5) -> Snapshot:
    """Some snapshot."""
    rng = np.random.default_rng(size)
    arrays = [rng.standard_normal(size).astype(dtype) for _ in range(slots + 1)]
    optimizer = {"optimizer": {"name": "adam", "learning_rate": 0.1}, "transforms": [], "groups": []}
    return Snapshot(7, 5, ((1, 0), (3, 2)), optimizer, State(5, arrays[0], tuple(arrays[1:]), counts))


def same(one: Snapshot, other: Snapshot) -> bool:
    arrays = [(s.state.params, *s.state.slots) for s in (one, other)]
    return (
        one[:4] == other[:4]
        and (one.state.step, one.state.counts) == (other.state.step, other.state.counts)
        and [(a.tobytes(), a.dtype, a.shape) for a in arrays[0]] == [(a.tobytes(), a.dtype, a.shape) for a in arrays[1]]
    )


class TestSnapshots:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("size", [1, 2, 3, 1000])
    @pytest.mark.parametrize("slots", [0, 1, 3, 12])
    @pytest.mark.parametrize("counts", [0, 5, (5, 4)])
    def test_come_back_as_they_were(self, dtype: str, size: int, slots: int, counts: Any) -> None:
        snapshot = example(size, dtype, slots, counts)
        names = tuple(f"slot{i}" for i in range(slots))
        assert same(unpack(pack(snapshot, names), layout(size, dtype)), snapshot)

    def test_keep_what_no_decimal_would(self) -> None:
        odd = np.array([5e-324, -0.0, 1.7976931348623157e308])
        snapshot = example()._replace(state=State(1, odd, (-odd,), 1))
        assert same(unpack(pack(snapshot, ("m",)), layout(3)), snapshot)

    def test_with_any_bit_flipped_are_refused(self) -> None:
        blob = pack(example(), ("m", "v"))
        for i in range(len(blob)):
            for bit in range(8):
                damaged = bytearray(blob)
                damaged[i] ^= 1 << bit
                with pytest.raises(Damaged):
                    unpack(bytes(damaged), layout(3))

    def test_cut_short_anywhere_are_refused(self) -> None:
        blob = pack(example(), ("m", "v"))
        for end in range(len(blob)):
            with pytest.raises(Damaged):
                unpack(blob[:end], layout(3))
        with pytest.raises(Damaged):
            unpack(blob + b"\0", layout(3))

    @pytest.mark.parametrize("other", [layout(2), layout(4), layout(3, "float32")])
    def test_of_another_layout_are_refused(self, other: Layout) -> None:
        with pytest.raises(Damaged, match="layout"):
            unpack(pack(example(), ("m", "v")), other)

    def test_of_another_format_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("service.sessions.log.FORMAT", 2)
        blob = pack(example(), ("m", "v"))
        monkeypatch.undo()
        with pytest.raises(Damaged, match="format 2, this service reads 1"):
            unpack(blob, layout(3))

    @pytest.mark.parametrize(
        "body", [b"", b"\0" * 8, b"\xff" * 100, struct.pack("<Q", 2) + b"{}", struct.pack("<Q", 9)]
    )
    def test_that_somebody_else_wrote_are_refused(self, body: bytes) -> None:
        import hashlib

        with pytest.raises(Damaged):
            unpack(hashlib.sha256(body).digest() + body, layout(3))
        assert len(hashlib.sha256(body).digest()) == DIGEST_BYTES


gradients = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2)
absences = st.sampled_from([(), (0,), (1,), (0, 1)])
losses = st.none() | st.floats(allow_nan=False, allow_infinity=False)
sent = st.tuples(gradients, absences, losses)


@given(sent, sent)
def test_a_digest_is_of_what_was_sent(one: Any, other: Any) -> None:
    digests = [step_digest(np.array(values), absent, loss) for values, absent, loss in (one, other)]
    bits = [
        (np.array(values).tobytes(), absent, loss and struct.pack("<d", loss)) for values, absent, loss in (one, other)
    ]
    zero = [(loss is None, struct.pack("<d", loss or 0.0)) for _, _, loss in (one, other)]
    assert (digests[0] == digests[1]) is (bits[0][:2] == bits[1][:2] and zero[0] == zero[1])


class TestDamage:
    """A snapshot only makes loading fast: one that is damaged is not missed while the log has the rest."""

    def spoil(self, service: Service, run: Run, numbers: list[int]) -> None:
        rng = random.Random(3)
        for number in numbers:
            found = service.store.snapshot("s", number)
            assert found is not None
            assert found[0] == number
            blob = bytearray(found[1])
            blob[rng.randrange(len(blob))] ^= 1 << rng.randrange(8)
            run(keep(service.store, number, bytes(blob)))

    @pytest.mark.parametrize("damaged", [[20], [20, 15], [20, 15, 10, 5], [15], [5, 15]])
    def test_is_made_good_from_the_log(
        self, serve: Serve, kind: str, run: Run, damaged: list[int], caplog: pytest.LogCaptureFixture
    ) -> None:
        service = serve(kind=kind, snapshot_every=5)
        create(service)
        walk(service, 23)
        self.spoil(service, run, damaged)
        other = serve(kind=kind, store=service.store)
        assert params(other) == after(23)
        assert [params(other, n) for n in range(24)] == [after(n) for n in range(24)]
        assert "is damaged (the digest does not match); going back further" in caplog.text
        walk(other, 25)

    def test_of_all_is_admitted_and_makes_nothing_worse(self, serve: Serve, kind: str, run: Run) -> None:
        service = serve(kind=kind, snapshot_every=5)
        create(service)
        walk(service, 12)
        good = {number: service.store.snapshot("s", number) for number in (0, 5, 10)}
        self.spoil(service, run, [0, 5, 10])
        before = contents(service.store)
        other = serve(kind=kind, store=service.store)
        for _ in range(2):
            problem(step(other, gradient(13), 13), 503, "unavailable")
            problem(other.get("/v1/sessions/s"), 503, "unavailable")
        assert contents(service.store) == before
        found = good[5]
        assert found is not None
        run(keep(service.store, *found))
        assert params(other) == after(12)


async def keep(store: Store, number: int, blob: bytes) -> None:
    """Another snapshot for a row."""
    await store.keep("s", number, blob, 0)


BOUNDS = [(0, 256), (BYTES, 256), (100, 3), (20 * BYTES, 256), (20 * BYTES, 2), (1000, 7), (1 << 20, 1), (1 << 26, 256)]


class TestBoundedGradients:
    @pytest.mark.parametrize(("kept", "spacing"), BOUNDS)
    @pytest.mark.parametrize("patches", [False, True], ids=["", "patches"])
    def test_are_forgotten_and_nothing_else_is(
        self, serve: Serve, kind: str, kept: int, spacing: int, patches: bool
    ) -> None:
        settings: dict[str, Any] = {"kept_gradient_bytes": kept, "snapshot_every": spacing}
        service = serve(kind=kind, **settings)
        create(service)
        rng = random.Random(f"{kept} {spacing}")
        answers = []
        interval = min(spacing, -(-max(kept // 4, 2 * 3 * BYTES) // BYTES))  # rows; the state is three arrays
        for n in range(1, 101):
            if patches and rng.random() < 0.2:
                service.patch("/v1/sessions/s", {"hyperparameters": {"learning_rate": rng.random()}})
            answers.append(took(service, gradient(n), n))
            rows = service.store.rows("s", 0, 1000)
            held = sum(len(row.payload or b"") for row in rows)
            assert held <= max(kept, BYTES) + 2 * interval * BYTES
        store = service.store if kind == "memory" else None
        if store is None:
            service.stop()
        again = serve(kind=kind, store=store, **settings)
        assert params(again) == answers[-1]["params"]

        history = again.get("/v1/sessions/s/steps").json()["items"]
        metrics = ("step", "learning_rate", "gradient_norm", "update_norm")
        assert [[item[key] for key in metrics] for item in history] == [[a[key] for key in metrics] for a in answers]

        known = [again.get(f"/v1/sessions/s/params?step={n}") for n in range(101)]
        first = next(n for n, response in enumerate(known) if response.status_code == 200)
        for n, response in enumerate(known):
            if n >= first:
                assert response.json()["params"] == ([1.0, 2.0] if n == 0 else answers[n - 1]["params"])
            else:
                gone = problem(response, 410, "step-not-kept")
                assert (gone["kept_from_step"], gone["current_step"]) == (first, 100)
                assert f"from step {first} on" in gone["detail"]
        enough = 100 - kept // BYTES
        assert first <= max(0, enough) + (20 if patches else 0)
        assert (first == 0) is (kept >= 1000 * BYTES)

    def test_of_the_newest_step_are_there_for_a_retry(self, serve: Serve, kind: str) -> None:
        """However little is kept, the answer to the last request can be given again, also after a restart."""
        service = serve(kind=kind, kept_gradient_bytes=0)
        create(service)
        for n in range(1, 8):
            for returning in ("none", "updates", "params"):
                first = took(service, gradient(n), n, **{"return": returning})
                other = serve(store=service.store, kept_gradient_bytes=0)
                assert took(other, gradient(n), n, **{"return": returning}) == first | {"replayed": True}

    def test_that_are_gone_are_still_known(self, serve: Serve, kind: str) -> None:
        """A forgotten step cannot be taken twice; its metrics are answered, its parameters are said to be gone."""
        service = serve(kind=kind, kept_gradient_bytes=5 * BYTES)
        create(service)
        first = walk(service, 50)
        problem(step(service, gradient(3), 3), 410, "step-not-kept")
        problem(step(service, gradient(3), 3, **{"return": "updates"}), 410, "step-not-kept")
        problem(step(service, gradient(4), 3), 422, "step-reused")
        again = took(service, gradient(3), 3, **{"return": "none"})
        expected = {key: value for key, value in first[2].items() if key != "params"}
        assert again == expected | {"replayed": True, "durable_step": 50}
        assert shown(service)["step"] == 50

    def test_make_a_long_log_no_longer_to_load(self, serve: Serve, kind: str) -> None:
        service = serve(kind=kind, snapshot_every=8)
        create(service)
        walk(service, 60)
        counting = Counting(service.store)
        other = serve(kind=kind, store=counting, snapshot_every=8)
        counting.rows_read = 0
        assert params(other) == after(60)
        assert counting.rows_read <= 8
        for n in (0, 1, 7, 8, 9, 31, 33, 59):
            counting.rows_read = 0
            assert params(other, n) == after(n)
            assert counting.rows_read <= 8 + 1

    def test_when_the_settings_change(self, serve: Serve, kind: str) -> None:
        service = serve(kind=kind)
        create(service)
        last = 0
        for kept, spacing in [(1 << 20, 7), (10 * BYTES, 256), (1 << 20, 256), (3 * BYTES, 1), (30 * BYTES, 4)]:
            other = serve(kind=kind, store=service.store, kept_gradient_bytes=kept, snapshot_every=spacing)
            walk(other, last + 30, first=last + 1)
            last += 30
            assert params(other) == after(last)
            for n in range(last + 1):
                response = other.get(f"/v1/sessions/s/params?step={n}")
                assert response.status_code in (200, 410)
                assert response.status_code == 410 or response.json()["params"] == after(n)


class Counting(Between):
    """Counts the rows that are read."""

    rows_read = 0

    def load(self, *arguments: Any) -> list[Stored | None]:
        found: list[Stored | None] = self.inner.load(*arguments)
        self.rows_read += sum(len(stored.rows) for stored in found if stored is not None)
        return found

    def rows(self, *arguments: Any) -> list[Row]:
        found: list[Row] = self.inner.rows(*arguments)
        self.rows_read += len(found)
        return found


class Behind(Between):
    """The next answers about snapshots are from a while ago, and nothing is read in one piece."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.old: list[tuple[int, bytes] | None] = []

    def load(self, sessions: Sequence[str], *_: Any) -> list[Any]:
        return [None] * len(sessions)

    def snapshot(self, session: str, at_most: int) -> Any:
        return self.old.pop(0) if self.old else self.inner.snapshot(session, at_most)


class LateCreate(Between):
    """A session can be read before the one who creates it hears that it is there."""

    def create(self, *arguments: Any) -> asyncio.Future[None]:
        self.arguments = arguments
        self.created: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        return self.created

    async def race(self, client: httpx.AsyncClient) -> None:
        body = {"optimizer": {"name": "adam", "learning_rate": 0.1}, "params": [1.0, 2.0], "id": "late"}
        request = asyncio.ensure_future(client.post("/v1/sessions", json=body))
        while not hasattr(self, "created"):
            await asyncio.sleep(0)
        await self.inner.create(*self.arguments)
        assert (await client.get("/v1/sessions/late")).status_code == 200
        self.created.set_result(None)
        assert (await request).status_code == 201


def test_rows_that_are_forgotten_while_they_are_read(serve: Serve, kind: str) -> None:
    """A snapshot is found, then the rows above it are forgotten: a newer one stands there, and is taken."""
    service = serve(kind=kind, kept_gradient_bytes=8 * BYTES)
    create(service)
    walk(service, 10)
    old = service.store.snapshot("s", 2)
    assert old is not None
    walk(service, 40, first=11)
    behind = Behind(service.store)
    behind.old = [old]
    other = serve(kind=kind, store=behind, kept_gradient_bytes=8 * BYTES)
    assert params(other) == after(40)
    assert behind.old == []
    behind.old = [old]
    assert params(other, 39) == after(39)
    behind.old = [old, old]
    problem(other.get("/v1/sessions/s/params?step=5"), 410, "step-not-kept")


class TestEviction:
    def test_loses_nothing(self, serve: Serve, kind: str, run: Run) -> None:
        service = serve(kind=kind, cache_bytes=200, snapshot_every=4)
        ids = [f"s{i}" for i in range(15)]
        optimizers = [{"name": "adam", "learning_rate": 0.1}, MOMENTUM, {"name": "sgd", "learning_rate": 0.1}]
        for i, id in enumerate(ids):
            create(service, id, optimizer=optimizers[i % 3])
        twins = serve(kind="memory")
        for i, id in enumerate(ids):
            create(twins, id, optimizer=optimizers[i % 3])

        async def client(id: str) -> None:
            for n in range(1, 13):
                body = {"gradients": gradient(n), "step": n}
                answers = [await s.client.post(f"/v1/sessions/{id}/steps", json=body) for s in (service, twins)]
                bodies = [answer.json() for answer in answers]
                assert bodies[0] == bodies[1]

        async def all_of_them() -> None:
            await asyncio.gather(*map(client, ids))

        run(all_of_them())
        assert all(params(service, id=id) == params(twins, id=id) for id in ids)
        assert len(service.engine._live._held) <= 200 // 16

    def test_counts_what_it_holds(self, serve: Serve, kind: str, run: Run) -> None:
        service = serve(kind=kind, cache_bytes=20_000)
        body = {"optimizer": {"name": "adam"}, "params": [1.0, 2.0], "id": "twice"}

        async def race() -> None:
            await asyncio.gather(
                *(service.client.post("/v1/sessions", json=body) for _ in range(4)),
                *(service.client.get("/v1/sessions/twice") for _ in range(4)),
            )

        run(race())
        for i in range(30):
            create(service, f"s{i}", params=[0.0] * (i % 5 + 1))
            shown(service, f"s{i // 2}")
            if i % 7 == 6:
                service.delete(f"/v1/sessions/s{i // 3}")
        late = LateCreate(service.store)
        other = serve(kind=kind, store=late, cache_bytes=20_000)
        run(late.race(other.client))
        walk(other, 2, id="late")
        assert params(other, id="late") == after(2)
        for engine in (service.engine, other.engine):
            held = engine._live._held.values()
            assert engine._live._bytes == sum(weigh(session) for session in held) <= 20_000

    def test_counts_sessions_too(self, serve: Serve, kind: str) -> None:
        service = serve(kind=kind, cache_sessions=3)
        for i in range(6):
            create(service, f"s{i}")
        shown(service, "s3")
        shown(service, "s0")
        assert list(service.engine._live._held) == ["s5", "s3", "s0"]
        assert all(walk(service, 2, id=f"s{i}")[1]["params"] == after(2) for i in range(6))

    @pytest.mark.parametrize("labels", [{}, {f"label{i}": "x" * 1000 for i in range(10)}])
    @pytest.mark.parametrize("shape", [(10,), (1000, 1)])
    def test_counts_what_the_interpreter_takes(
        self, serve: Serve, kind: str, labels: dict[str, str], shape: tuple[int, ...]
    ) -> None:
        """Of what a session counts, at least a third and at most all is what it takes in memory."""
        many = {f"layer{i}": [0.5] for i in range(shape[0])}
        body = {"optimizer": {"name": "adam"}, "params": [0.5] * 10 if len(shape) == 1 else many, "labels": labels}
        service = serve(kind=kind)
        for i in range(24):
            assert service.post("/v1/sessions", {**body, "id": f"s{i}"}).status_code == 201
        other = serve(kind=kind, store=service.store)
        shown(other, "s0")  # what all share
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        other.engine._live.fetch(f"s{i}" for i in range(1, 24))
        for i in range(1, 24):
            other.engine._live._held.get(f"s{i}") or shown(other, f"s{i}")
        gc.collect()
        taken = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        held = [session for id, session in other.engine._live._held.items() if id != "s0"]
        assert len(held) == 23
        assert taken <= sum(session.weight for session in held) <= 3 * taken

    def test_a_session_larger_than_the_memory_for_all_works(self, serve: Serve, kind: str) -> None:
        service = serve(kind=kind, cache_bytes=0)
        create(service)
        create(service, "other")
        for n in range(1, 6):
            walk(service, n, first=n)
            walk(service, n, first=n, id="other")
        assert params(service) == params(service, id="other") == after(5)

    def test_a_session_is_loaded_once_for_all_who_wait(self, serve: Serve, kind: str, run: Run) -> None:
        service = serve(kind=kind)
        create(service)
        walk(service, 20)
        counting = Counting(service.store)
        other = serve(kind=kind, store=counting)

        async def race() -> list[httpx.Response]:
            return await asyncio.gather(*(other.client.get("/v1/sessions/s/params") for _ in range(20)))

        assert {response.json()["step"] for response in run(race())} == {20}
        assert counting.rows_read == 20

    def test_two_engines_that_load_and_lose_races(self, serve: Serve, kind: str, run: Run) -> None:
        """Whoever waits for the same load gets a session that can be written to."""
        first = serve(kind=kind, cache_bytes=0)
        second = serve(kind=kind, store=first.store, cache_bytes=0)
        create(first)
        create(first, "other")

        async def race(n: int) -> list[httpx.Response]:
            for service in (first, second):
                await service.client.get("/v1/sessions/other")  # s leaves memory
            body = {"gradients": gradient(n), "step": n}
            return await asyncio.gather(
                *(s.client.post("/v1/sessions/s/steps", json=body) for s in (first, second) for _ in range(6))
            )

        for n in range(1, 16):
            answers = run(race(n))
            assert [answer.status_code for answer in answers] == [200] * 12, [answer.text for answer in answers]
        assert params(first) == params(second) == after(15)


class Threads(ThreadPoolExecutor):
    """Counts what is handed to them."""

    asked = 0

    def submit(self, *arguments: Any, **more: Any) -> Any:
        self.asked += 1
        return super().submit(*arguments, **more)


def watched(service: Service) -> Threads:
    """Threads in place of those that load the service's sessions."""
    service.engine._live._threads = threads = Threads(1)
    return threads


class TestASessionThatComesBack:
    @pytest.mark.parametrize("steps", [0, 1, 4, 5, 9, 13])
    def test_is_read_at_once_where_its_log_is_short(self, serve: Serve, kind: str, steps: int) -> None:
        service = serve(kind=kind, snapshot_every=5)
        create(service)
        walk(service, steps)
        before = shown(service)
        other = serve(kind=kind, store=service.store)
        threads = watched(other)
        assert shown(other) == before
        assert params(other) == after(steps)
        assert threads.asked == 0

    @pytest.mark.parametrize("steps", [live.FEW, live.FEW + 1])
    def test_is_left_to_a_thread_where_much_is_to_be_replayed(self, serve: Serve, kind: str, steps: int) -> None:
        service = serve(kind=kind)
        create(service)
        walk(service, steps)
        other = serve(kind=kind, store=service.store)
        threads = watched(other)
        assert params(other) == after(steps)
        assert threads.asked == (steps > live.FEW)

    def test_is_left_to_a_thread_where_it_is_large(self, serve: Serve, kind: str) -> None:
        service = serve(kind=kind)
        create(service, params=[0.5] * live.SMALL)
        create(service, "costly", optimizer={"name": "shampoo"}, params=[[0.5] * 20] * 20)
        for n in (1, 2):
            assert step(service, [[0.1 * n] * 20] * 20, n, id="costly").status_code == 200
        costly = params(service, id="costly")
        other = serve(kind=kind, store=service.store)
        threads = watched(other)
        assert params(other) == [0.5] * live.SMALL
        assert threads.asked == 1
        assert params(other, id="costly") == costly
        assert threads.asked == 2

    def test_is_left_to_threads_while_the_disk_makes_loads_wait(
        self, serve: Serve, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service = serve(kind=kind, cache_bytes=0)
        for id in ("s", "other"):
            create(service, id)
        threads = watched(service)
        blocks = itertools.count()
        monkeypatch.setattr(live, "_blocks_read", lambda: next(blocks))
        monkeypatch.setattr(live, "WAIT", 0.0)
        asked = []
        for id in ("s", "other") * 2:
            assert params(service, id=id) == [1.0, 2.0]
            asked.append(threads.asked)
        assert asked == [0, 1, 2, 3]
        monkeypatch.setattr(live, "_blocks_read", lambda: 0)
        monkeypatch.setattr(live, "WAIT", service.engine._live._wait * 0.99)
        for id in ("s", "other") * 2:
            assert params(service, id=id) == [1.0, 2.0]
        assert threads.asked == 4  # one more that did not wait, and it was over

    def test_shares_its_optimizer_with_those_that_are_alike(self, serve: Serve, kind: str) -> None:
        service = serve(kind=kind)
        for i in range(4):
            create(service, f"s{i}", optimizer={"name": "adam", "learning_rate": 0.1 if i < 3 else 0.2})
        service.patch("/v1/sessions/s2", {"hyperparameters": {"learning_rate": 0.3}})
        walk(service, 3, id="s0")
        sessions = service.engine._live._held
        optimizers = [sessions[f"s{i}"].optimizer for i in range(4)]
        assert optimizers[0] is optimizers[1]
        assert len({id(optimizer) for optimizer in optimizers}) == 3
        assert all(sessions[f"s{i}"].layout is sessions["s0"].layout for i in range(4))
        assert params(service, id="s0") == after(3)
        assert params(service, id="s1") == [1.0, 2.0]

    def test_what_is_shared_is_bounded(self, serve: Serve, kind: str) -> None:
        service = serve(kind=kind)
        names = {f"{i:0100d}": [0.5] for i in range(MAX_SHARED // 100)}
        for id in ("a", "b"):
            create(service, id, params=names)
        held = service.engine._live._held
        assert held["a"].optimizer is not held["b"].optimizer
        assert session._shared_optimizer.cache_parameters()["maxsize"] == SHARED
        assert session._shared_layout.cache_parameters()["maxsize"] == SHARED

    def test_of_which_there_is_none_says_so(self, serve: Serve, kind: str) -> None:
        service = serve(kind=kind)
        create(service)
        service.delete("/v1/sessions/s")
        other = serve(kind=kind, store=service.store)
        problem(other.get("/v1/sessions/s"), 410, "gone")
        problem(other.get("/v1/sessions/never"), 404, "not-found")

    @pytest.mark.parametrize("body", [{}, {"optimizer": {"name": "lbfgs"}}, {"params": [0.5] * live.SMALL}])
    def test_is_rehearsed_at_the_start_without_a_trace(self, serve: Serve, kind: str, body: dict[str, Any]) -> None:
        service = serve(kind=kind)
        service.engine._live.rehearse()  # with no session at all
        create(service, **body)
        before = contents(service.store)
        other = serve(kind=kind, store=service.store)
        other.engine._live.rehearse()
        other.engine._live._threads.shutdown()
        assert contents(service.store) == before
        assert not other.engine._live._held
