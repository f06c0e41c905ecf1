"""Sessions that are answered before their steps are durable: what is promised, what may be lost, and how that shows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from service.stores.base import Store
from tests.conftest import Run, Serve, Service
from tests.sessions.calls import Adam, create, gradient, params, problem, shown, step, took, walk
from tests.stores.disk import Disk, failing, plugged

WRITES = ("create", "append", "keep", "replace_head", "erase")


class Late:
    """A store whose writes, while it is `held`, take effect when they are released, in order."""

    def __init__(self, store: Store) -> None:
        self.inner = store
        self.held = False
        self._waiting: list[tuple[asyncio.Future[None], Any, Any]] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if name not in WRITES or not self.held:
            return method

        def write(*arguments: Any) -> asyncio.Future[None]:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((future, method, arguments))
            return future

        return write

    async def release(self) -> None:
        """Let what waits take effect."""
        waiting, self._waiting = self._waiting, []
        for future, method, arguments in waiting:
            try:
                future.set_result(await method(*arguments))
            except Exception as error:
                future.set_exception(error)
        await asyncio.sleep(0)

    def lose(self) -> None:
        """What waits is gone, as in a crash."""
        for future, _, _ in self._waiting:
            future.cancel()
        self._waiting.clear()


@pytest.fixture
def late(serve: Serve, kind: str) -> Iterator[Late]:
    """A store of this sort, let go in the end so that services on it can stop."""
    late = Late(serve(kind=kind).store)
    yield late
    late.held = False
    late.lose()


@pytest.fixture
def service(serve: Serve, late: Late) -> Service:
    return serve(store=late)


def after(last: int) -> list[float]:
    """What Adam makes of [1, 2] in so many steps."""
    model = Adam([1.0, 2.0])
    for n in range(1, last + 1):
        model.step(gradient(n))
    return model.params.tolist()


async def started(request: Any) -> asyncio.Task[httpx.Response]:
    """A request that is under way and not answered yet."""
    task = asyncio.ensure_future(request)
    for _ in range(50):
        await asyncio.sleep(0)
    assert not task.done()
    return task


class TestEveryStep:
    def test_is_not_answered_before_it_is_durable(self, service: Service, late: Late, run: Run) -> None:
        create(service)
        late.held = True

        async def story() -> httpx.Response:
            task = await started(
                service.client.post("/v1/sessions/s/steps", json={"gradients": gradient(1), "step": 1})
            )
            assert late.inner.rows("s", 0, 9) == []
            await late.release()
            return await task

        assert run(story()).json()["durable_step"] == 1

    def test_also_create_patch_and_delete_wait(self, service: Service, late: Late, run: Run) -> None:
        create(service)
        late.held = True
        calls: list[tuple[str, str, Any, int]] = [
            ("POST", "/v1/sessions", {"optimizer": {"name": "adam"}, "params": 1.0}, 201),
            ("PATCH", "/v1/sessions/s", {"hyperparameters": {"learning_rate": 1.0}}, 200),
            ("PATCH", "/v1/sessions/s", {"labels": {"a": "b"}}, 200),
            ("DELETE", "/v1/sessions/s", None, 204),
        ]

        async def story() -> None:
            for method, path, body, status in calls:
                task = await started(service.client.request(method, path, json=body))
                await late.release()
                assert (await task).status_code == status

        run(story())


class TestEveryFew:
    def test_wait_together(self, service: Service, late: Late, run: Run) -> None:
        create(service, durability="every:3")
        late.held = True
        assert [took(service, gradient(n), n)["durable_step"] for n in (1, 2)] == [0, 0]

        async def third() -> httpx.Response:
            task = await started(
                service.client.post("/v1/sessions/s/steps", json={"gradients": gradient(3), "step": 3})
            )
            await late.release()
            return await task

        answer = run(third()).json()
        assert (answer["durable_step"], answer["params"]) == (3, after(3))
        assert [took(service, gradient(n), n)["durable_step"] for n in (4, 5)] == [3, 3]
        run(late.release())
        assert shown(service)["durable_step"] == 5

    def test_say_what_is_durable(self, serve: Serve, kind: str) -> None:
        service = serve(kind=kind)
        create(service, durability="every:5")
        for answer in walk(service, 23):
            assert answer["step"] // 5 * 5 <= answer["durable_step"] <= answer["step"]

    def test_a_crash_takes_at_most_the_steps_since(self, service: Service, late: Late, serve: Serve) -> None:
        create(service, durability="every:3")
        walk(service, 3)
        late.held = True
        walk(service, 5, first=4)
        late.lose()
        other = serve(store=late.inner)
        assert problem(step(other, gradient(6), 6), 412, "step-mismatch")["current_step"] == 3
        assert [answer["replayed"] for answer in walk(other, 8)] == [True] * 3 + [False] * 5
        assert params(other) == after(8)


class TestNone:
    def test_never_waits(self, service: Service, late: Late, run: Run) -> None:
        create(service, durability="none")
        late.held = True
        assert [answer["durable_step"] for answer in walk(service, 10)] == [0] * 10
        assert shown(service)["durable_step"] == 0
        assert params(service) == after(10)
        run(late.release())
        assert shown(service)["durable_step"] == 10
        assert took(service, gradient(10), 10)["durable_step"] == 10

    def test_a_crash_takes_what_was_not_written(self, service: Service, late: Late, serve: Serve, run: Run) -> None:
        create(service, durability="none")
        walk(service, 2)
        run(settled(service))
        late.held = True
        walk(service, 7, first=3)
        late.lose()
        other = serve(store=late.inner)
        refused = problem(step(other, gradient(8), 8), 412, "step-mismatch")
        assert refused["current_step"] == 2
        assert params(other) == after(2)
        walk(other, 8)
        assert params(other) == after(8)

    @pytest.mark.parametrize("durability", ["none", "every:100"])
    def test_a_stop_takes_nothing(self, serve: Serve, durability: str) -> None:
        service = serve(kind="sqlite")
        create(service, durability=durability)
        walk(service, 30)
        service.stop()
        assert params(serve(kind="sqlite")) == after(30)

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("POST", "/v1/sessions/s/steps", {"gradients": gradient(2), "step": 2}),
            ("POST", "/v1/sessions/s/steps", {"gradients": gradient(3), "step": 3, "return": "updates"}),
            ("GET", "/v1/sessions/s/steps/2", None),
            ("GET", "/v1/sessions/s/steps/3", None),
            ("GET", "/v1/sessions/s/params?step=2", None),
        ],
    )
    def test_steps_are_there_at_once(
        self, service: Service, late: Late, run: Run, method: str, path: str, body: Any
    ) -> None:
        """Whoever asks for a step that was answered and is not written yet waits for it."""
        create(service, durability="none")
        late.held = True
        walk(service, 3)

        async def story() -> httpx.Response:
            task = await started(service.client.request(method, path, json=body))
            await late.release()
            return await task

        answer = run(story())
        assert answer.status_code == 200
        if "params" in answer.json():
            assert answer.json()["params"] == after(answer.json()["step"])
        if method == "POST":
            assert answer.json()["replayed"] is True

    def test_leaves_memory_only_when_it_is_written(self, serve: Serve, late: Late, run: Run) -> None:
        service = serve(store=late, cache_bytes=0)
        create(service, durability="none")
        create(service, "other")
        shown(service)
        late.held = True
        for n in range(1, 8):
            assert took(service, gradient(n), n)["params"] == after(n)
            shown(service, "other")
        run(late.release())
        assert took(service, gradient(8), 8)["params"] == after(8)

    def test_many_sessions_through_a_small_memory(self, serve: Serve, kind: str, run: Run) -> None:
        service = serve(kind=kind, cache_bytes=100)
        ids = [f"s{i}" for i in range(12)]
        for id in ids:
            create(service, id, durability="none")

        async def client(id: str) -> None:
            for n in range(1, 16):
                body = {"gradients": gradient(n), "step": n}
                answer = await service.client.post(f"/v1/sessions/{id}/steps", json=body)
                assert answer.status_code == 200, answer.text
                assert answer.json()["params"] == after(n)

        async def all_of_them() -> None:
            await asyncio.gather(*map(client, ids))

        run(all_of_them())
        assert all(params(service, id=id) == after(15) for id in ids)


class TestAFailingDisk:
    """Steps that were answered first and then could not be written."""

    @pytest.fixture
    def disk(self) -> Iterator[Disk]:
        with plugged() as disk:
            yield disk

    @pytest.fixture
    def kind(self) -> str:
        return "sqlite"

    @pytest.mark.parametrize("durability", ["none", "every:4"])
    def test_leaves_a_log_without_holes(self, disk: Disk, serve: Serve, run: Run, durability: str) -> None:
        service = serve(kind="sqlite")
        create(service, durability=durability)
        walk(service, 8)
        run(settled(service))
        disk.fault = failing("sync", "thalweg.sqlite-wal", times=1)

        async def burst() -> list[httpx.Response]:
            """Steps that come so fast that some follow one that cannot be written."""
            bodies = [{"gradients": gradient(n), "step": n} for n in range(9, 20)]
            return await asyncio.gather(*(service.client.post("/v1/sessions/s/steps", json=body) for body in bodies))

        statuses = [response.status_code for response in run(burst())]
        assert set(statuses) <= {200, 412, 503}
        run(settled(service))
        assert not any(row.number != i for i, row in enumerate(service.store.rows("s", 0, 99), start=1))
        current = shown(service)["step"]
        assert params(service) == after(current)
        for n in range(1, 25):
            answer = step(service, gradient(n), n)
            assert (answer.status_code, answer.json()["params"]) == (200, after(n))
        service.stop()
        assert params(serve(kind="sqlite")) == after(24)

    def test_takes_the_steps_after_it_along(self, disk: Disk, serve: Serve, run: Run) -> None:
        """A step that waits, and is written after one that could not be, has nothing to stand on."""
        service = serve(kind="sqlite")
        create(service, durability="every:4")
        walk(service, 8)
        run(settled(service))
        stuck = threading.Event()
        disk.fault = after_all(stuck, failing("sync", "thalweg.sqlite-wal", times=1))
        assert [took(service, gradient(n), n)["durable_step"] for n in (9, 10, 11)] == [8, 8, 8]
        body = {"gradients": gradient(12), "step": 12}
        refused = run(answered_after(stuck, service.client.post("/v1/sessions/s/steps", json=body)))
        assert problem(refused, 412, "step-mismatch")["current_step"] == 8
        assert [row.number for row in service.store.rows("s", 0, 99)] == list(range(1, 9))
        walk(service, 12, first=9)
        assert params(service) == after(12)

    @pytest.mark.parametrize(
        ("method", "path", "body", "statuses"),
        [
            ("POST", "/v1/sessions/s/steps", {"gradients": gradient(2), "step": 2}, [412]),
            ("GET", "/v1/sessions/s/steps/2", None, [409, 404]),
            ("GET", "/v1/sessions/s/params?step=1", None, [409, 404]),
        ],
    )
    def test_is_told_to_whoever_asks_for_what_was_lost(
        self, disk: Disk, serve: Serve, run: Run, method: str, path: str, body: Any, statuses: list[int]
    ) -> None:
        service = serve(kind="sqlite")
        create(service, durability="none")
        stuck = threading.Event()
        disk.fault = after_all(stuck, failing("sync", "thalweg.sqlite-wal", times=1))
        walk(service, 3)
        request = service.client.request(method, path, json=body)
        assert run(answered_after(stuck, request)).status_code == statuses[0]
        assert all(service.request(method, path, body).status_code == status for status in statuses[1:])
        assert params(service) == [1.0, 2.0]
        walk(service, 3)
        assert params(service) == after(3)

    def test_does_not_leave_a_snapshot_without_its_row(self, disk: Disk, serve: Serve, run: Run) -> None:
        service = serve(kind="sqlite", snapshot_every=2)
        create(service, durability="none")
        walk(service, 3)
        run(settled(service))
        for times in (1, 2, 3):
            disk.fault = failing("sync", "thalweg.sqlite-wal", times=times)
            first = shown(service)["step"] + 1
            for n in range(first, first + 6):
                if step(service, gradient(n), n).status_code != 200:
                    break
            run(settled(service))
            disk.fault = lambda operation, name: None
            current = shown(service)["step"]
            rows = service.store.rows("s", 0, 99)
            snapshot = service.store.snapshot("s", 99)
            assert snapshot is not None
            assert snapshot[0] <= len(rows) == current
            assert params(service) == after(current)

    def test_is_told_to_all_who_wait(self, disk: Disk, serve: Serve, run: Run) -> None:
        service = serve(kind="sqlite")
        ids = [f"s{i}" for i in range(8)]
        for id in ids:
            create(service, id)
            walk(service, 2, id=id)
        disk.fault = failing("sync", "thalweg.sqlite-wal", times=1)

        async def burst() -> list[httpx.Response]:
            body = {"gradients": gradient(3), "step": 3}
            return await asyncio.gather(*(service.client.post(f"/v1/sessions/{id}/steps", json=body) for id in ids))

        answers = run(burst())
        assert any(answer.status_code == 503 for answer in answers)
        for id, answer in zip(ids, answers, strict=True):
            if answer.status_code == 200:
                assert answer.json()["params"] == after(3)
            else:
                problem(answer, 503, "unavailable")
                assert params(service, id=id) == after(2)
            assert took(service, gradient(3), 3, id)["replayed"] is (answer.status_code == 200)
            assert params(service, id=id) == after(3)

    def test_is_seen_by_readyz_and_so_is_its_end(self, disk: Disk, serve: Serve, run: Run) -> None:
        service = serve(kind="sqlite")
        create(service)
        assert service.get("/readyz").status_code == 200
        disk.fault = failing("sync", "thalweg.sqlite-wal")
        problem(step(service, gradient(1), 1), 503, "unavailable")
        for _ in range(3):
            problem(service.get("/readyz"), 503, "unavailable")
            run(asyncio.sleep(0.02))
        disk.fault = lambda operation, name: None
        service.get("/readyz")
        run(asyncio.sleep(0.1))
        assert service.get("/readyz").status_code == 200
        assert took(service, gradient(1), 1)["replayed"] is False


def after_all(stuck: threading.Event, fault: Callable[[str, str], None]) -> Callable[[str, str], None]:
    """The fault, when the event comes; the disk is stuck until then."""

    def wait(operation: str, name: str) -> None:
        try:
            fault(operation, name)
        except Exception:
            assert stuck.wait(30)
            raise

    return wait


async def answered_after(stuck: threading.Event, request: Any) -> httpx.Response:
    """The answer to a request that cannot be answered before the event."""
    task = await started(request)
    stuck.set()
    return await task


async def settled(service: Service) -> None:
    """Wait until nothing is being written."""
    while service.engine._work.pending:
        await asyncio.wait(service.engine._work.pending)
        await asyncio.sleep(0)
