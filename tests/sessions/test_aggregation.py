"""Several workers on one session: one step of all their parts, whoever comes first, comes twice, or does not come."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conftest import Run, Serve, Service
from tests.sessions.calls import Adam, contents, create, gradient, params, pointers, problem, shown

WORKERS = ("w1", "w2", "w3")
LONG = 60.0


def part(worker: str, number: int) -> list[float]:
    """What a worker sends for a step."""
    return gradient(1000 * number + int(worker[1:]))


def team(service: Service, id: str = "s", **plan: Any) -> dict[str, Any]:
    """A session for three workers."""
    return create(service, id, aggregate={"workers": 3, "timeout_seconds": LONG, **plan})


async def send(service: Service, worker: str, number: int | None, id: str = "s", **more: Any) -> httpx.Response:
    """A worker's part of a step."""
    body = {"gradients": part(worker, number or 1), "worker": worker, "step": number, **more}
    return await service.client.post(f"/v1/sessions/{id}/steps", json=body)


async def waiting(request: Any) -> asyncio.Task[httpx.Response]:
    """A request that waits for the others."""
    task = asyncio.ensure_future(request)
    for _ in range(100):
        await asyncio.sleep(0)
    assert not task.done(), task.result().text
    return task


def modelled(*steps: tuple[int, tuple[str, ...]], mode: str = "mean") -> list[float]:
    """What Adam makes of [1, 2] with the parts of these workers in these steps, added in the order of their names."""
    model = Adam([1.0, 2.0])
    for number, workers in steps:
        total = np.zeros(2)
        for i, worker in enumerate(sorted(workers)):
            total = np.array(part(worker, number)) if i == 0 else total + np.array(part(worker, number))
        model.step(total / len(workers) if mode == "mean" else total)
    return model.params.tolist()


class TestARound:
    @pytest.mark.parametrize("mode", ["mean", "sum"])
    def test_is_one_step_with_one_answer_bit_for_bit(self, service: Service, run: Run, mode: str) -> None:
        team(service, mode=mode)

        async def story() -> None:
            rng = random.Random(1)
            for n in range(1, 11):
                order = rng.sample(WORKERS, 3)
                answers = await asyncio.gather(*(send(service, worker, n, loss=float(n)) for worker in order))
                bodies = [answer.json() for answer in answers]
                assert [answer.status_code for answer in answers] == [200] * 3
                assert bodies[0] == bodies[1] == bodies[2]
                expected = modelled(*((k, WORKERS) for k in range(1, n + 1)), mode=mode)
                assert (bodies[0]["step"], bodies[0]["workers"], bodies[0]["replayed"]) == (n, 3, False)
                assert bodies[0]["params"] == expected

        run(story())
        item = service.get("/v1/sessions/s/steps").json()["items"][-1]
        assert item["loss"] == (10.0 if mode == "mean" else 30.0)
        assert shown(service)["aggregate"]["workers"] == 3

    def test_answers_each_in_its_own_way(self, service: Service, run: Run) -> None:
        team(service)

        async def story() -> list[Any]:
            kinds = ("none", "updates", "params")
            sent = (send(service, w, 1, **{"return": kind}) for w, kind in zip(WORKERS, kinds, strict=True))
            return [answer.json() for answer in await asyncio.gather(*sent)]

        none, updates, full = run(story())
        assert "params" not in none
        assert "params" not in updates
        assert full["params"] == modelled((1, WORKERS))
        assert updates["updates"] == [new - old for new, old in zip(full["params"], [1.0, 2.0], strict=True)]

    def test_is_not_taken_before_the_last_part_is_there(self, service: Service, run: Run) -> None:
        team(service)
        before = contents(service.store)

        async def story() -> None:
            tasks = [await waiting(send(service, worker, 1)) for worker in WORKERS[:2]]
            assert contents(service.store) == before
            assert (await service.client.get("/v1/sessions/s")).json()["step"] == 0
            last = await send(service, "w3", 1)
            assert [(await task).json() for task in tasks] == [last.json()] * 2

        run(story())

    def test_may_go_without_numbers(self, service: Service, run: Run) -> None:
        team(service)

        async def story() -> None:
            for n in (1, 2):
                answers = await asyncio.gather(*(send(service, worker, None) for worker in WORKERS))
                assert [answer.json()["step"] for answer in answers] == [n] * 3

        run(story())

    @pytest.mark.parametrize("workers", [1, 2, 17])
    def test_of_any_number(self, service: Service, run: Run, workers: int) -> None:
        create(service, aggregate={"workers": workers})
        names = tuple(f"w{i}" for i in range(workers))

        async def story() -> set[str]:
            answers = await asyncio.gather(*(send(service, name, 1) for name in names))
            return {str(answer.json()["params"]) for answer in answers}

        assert run(story()) == {str(modelled((1, names)))}

    def test_where_some_have_no_gradient_for_a_parameter(self, service: Service, run: Run) -> None:
        """Zero where one has none, and no gradient at all where none has one."""
        body = {"params": {"a": [1.0], "b": [1.0]}, "optimizer": {"name": "sgd", "learning_rate": 1.0}}
        create(service, aggregate={"workers": 2}, **body)

        async def story() -> Any:
            sent = ({"a": [2.0], "b": None}, {"a": [4.0]})
            posts = (
                service.client.post("/v1/sessions/s/steps", json={"gradients": g, "worker": f"w{i}"})
                for i, g in enumerate(sent)
            )
            return (await asyncio.gather(*posts))[0].json()

        assert run(story())["params"] == {"a": [-2.0], "b": [1.0]}
        event = service.store.rows("s", 0, 1)[0].event
        assert b'"absent":[1]' in event

    def test_of_one_session_does_not_wait_for_another(self, service: Service, run: Run) -> None:
        team(service)
        team(service, "t")

        async def story() -> None:
            first = await waiting(send(service, "w1", 1))
            answers = await asyncio.gather(*(send(service, worker, 1, "t") for worker in WORKERS))
            assert [answer.status_code for answer in answers] == [200] * 3
            assert not first.done()
            await asyncio.gather(*(send(service, worker, 1) for worker in WORKERS[1:]))
            assert (await first).status_code == 200

        run(story())

    def test_among_many_in_one_request(self, service: Service, run: Run) -> None:
        team(service)
        steps = [{"session": "s", "gradients": part(w, n), "worker": w, "step": n} for n in (1, 2) for w in WORKERS]
        results = service.post("/v1/steps", {"steps": steps}).json()["results"]
        assert [result.get("step") for result in results] == [1, 1, 1, 2, 2, 2], results
        assert params(service) == modelled((1, WORKERS), (2, WORKERS))


class TestARepeatedPart:
    def test_counts_once(self, service: Service, run: Run) -> None:
        team(service)

        async def story() -> None:
            tasks = [await waiting(send(service, "w1", 1)) for _ in range(4)]
            tasks.append(await waiting(send(service, "w2", 1)))
            last = await send(service, "w3", 1)
            assert [(await task).json() for task in tasks] == [last.json()] * 5

        run(story())
        assert params(service) == modelled((1, WORKERS))

    def test_with_another_body_is_refused(self, service: Service, run: Run) -> None:
        team(service)

        async def story() -> None:
            first = await waiting(send(service, "w1", 1))
            for body in ({"gradients": [9.0, 9.0]}, {"loss": 1.0}):
                refused = problem(await send(service, "w1", 1, **body), 422, "step-reused")
                assert pointers(refused) == ["/worker"]
            await asyncio.gather(*(send(service, worker, 1) for worker in WORKERS[1:]))
            assert (await first).json()["params"] == modelled((1, WORKERS))

        run(story())

    @pytest.mark.parametrize("restart", [False, True])
    def test_after_the_step_has_the_same_answer(self, serve: Serve, kind: str, run: Run, restart: bool) -> None:
        service = serve(kind=kind)
        team(service)

        async def story() -> list[Any]:
            return [
                (await asyncio.gather(*(send(service, worker, n) for worker in WORKERS)))[0].json() for n in (1, 2, 3)
            ]

        first = run(story())
        other = serve(store=service.store) if restart else service
        for n in (3, 1, 2):
            for worker in WORKERS:
                again = run(send(other, worker, n))
                assert again.json() == first[n - 1] | {"replayed": True, "durable_step": 3}
        refused = problem(run(send(other, "w2", 2, gradients=[9.0, 9.0])), 422, "step-reused")
        assert refused["current_step"] == 3
        assert problem(run(send(other, "w2", 5)), 412, "step-mismatch")["current_step"] == 3


class TestAMissingWorker:
    def test_is_named_when_the_time_is_up(self, service: Service, run: Run) -> None:
        team(service, timeout_seconds=0.05)

        async def story() -> list[httpx.Response]:
            await asyncio.gather(*(send(service, worker, 1) for worker in WORKERS))
            return await asyncio.gather(*(send(service, worker, 2) for worker in ("w1", "w3")))

        before = params(service)
        for answer in run(story()):
            late = problem(answer, 504, "aggregation-timeout")
            assert (late["missing"], late["missing_count"], late["arrived"]) == (["w2"], 1, ["w1", "w3"])
            assert late["current_step"] == 1
            assert "w2" in late["detail"]
        assert before != params(service) == modelled((1, WORKERS))
        assert run(whole_team(service, 2)) == [200] * 3  # all send again

    def test_is_counted_where_nobody_knows_its_name(self, service: Service, run: Run) -> None:
        team(service, timeout_seconds=0.05)
        late = problem(run(send(service, "w1", 1)), 504, "aggregation-timeout")
        assert (late["missing"], late["missing_count"], late["arrived"]) == ([], 2, ["w1"])
        assert "2 of 3 workers" in late["detail"]

    @pytest.mark.parametrize("mode", ["mean", "sum"])
    def test_is_gone_without_with_a_quorum(self, service: Service, run: Run, mode: str) -> None:
        team(service, timeout_seconds=0.05, quorum=2, mode=mode)

        async def story() -> list[httpx.Response]:
            return await asyncio.gather(*(send(service, worker, 1) for worker in ("w1", "w3")))

        for answer in run(story()):
            assert (answer.status_code, answer.json()["workers"]) == (200, 2)
            assert answer.json()["params"] == modelled((1, ("w1", "w3")), mode=mode)
        late = problem(run(send(service, "w2", 1)), 412, "step-mismatch")
        assert late["current_step"] == 1
        assert "without the part of w2" in late["detail"]
        assert run(send(service, "w3", 1)).json()["replayed"] is True

    def test_below_the_quorum(self, service: Service, run: Run) -> None:
        team(service, timeout_seconds=0.05, quorum=2)
        problem(run(send(service, "w1", 1)), 504, "aggregation-timeout")
        assert shown(service)["step"] == 0

    def test_that_comes_in_time_is_waited_for_despite_a_quorum(self, service: Service, run: Run) -> None:
        team(service, quorum=1)

        async def story() -> None:
            tasks = [await waiting(send(service, worker, 1)) for worker in WORKERS[:2]]
            await send(service, "w3", 1)
            assert [(await task).json()["workers"] for task in tasks] == [3, 3]

        run(story())

    def test_that_hung_up_has_left_its_part(self, service: Service, run: Run) -> None:
        team(service)

        async def story() -> None:
            task = await waiting(send(service, "w1", 1))
            task.cancel()
            await asyncio.wait([task])
            answers = await asyncio.gather(*(send(service, worker, 1) for worker in WORKERS[1:]))
            assert [answer.json()["workers"] for answer in answers] == [3, 3]

        run(story())
        assert params(service) == modelled((1, WORKERS))

    def test_of_whom_nobody_hears_any_more(self, service: Service, run: Run) -> None:
        """A time that is up when all who waited are gone is nobody's error."""
        team(service, timeout_seconds=0.02)

        async def story() -> None:
            task = await waiting(send(service, "w1", 1))
            task.cancel()
            await asyncio.wait([task])
            await asyncio.sleep(0.1)

        run(story())
        assert "s" not in service.engine._rounds
        assert service.engine._rounds._bytes == 0


class TestWhatHappensMeanwhile:
    @pytest.mark.parametrize(
        ("method", "path", "body", "status", "code"),
        [
            ("DELETE", "/v1/sessions/s", None, 410, "gone"),
            ("POST", "/v1/sessions/s/rewind", {"step": 0}, 412, "step-mismatch"),
        ],
    )
    def test_ends_the_round(
        self, service: Service, run: Run, method: str, path: str, body: Any, status: int, code: str
    ) -> None:
        team(service)
        run(whole_team(service, 1))

        async def story() -> httpx.Response:
            task = await waiting(send(service, "w1", 2))
            assert (await service.client.request(method, path, json=body)).is_success
            return await task

        problem(run(story()), status, code)
        assert service.engine._rounds._bytes == 0

    def test_a_patch_is_in_force(self, service: Service, run: Run) -> None:
        team(service)

        async def story() -> float:
            await waiting(send(service, "w1", 1))
            body = {"hyperparameters": {"learning_rate": 0.5}}
            assert (await service.client.patch("/v1/sessions/s", json=body)).status_code == 200
            answers = await asyncio.gather(*(send(service, worker, 1) for worker in WORKERS[1:]))
            return float(answers[0].json()["learning_rate"])

        assert run(story()) == 0.5

    def test_an_eviction_is_not_noticed(self, serve: Serve, kind: str, run: Run) -> None:
        service = serve(kind=kind, cache_bytes=0)
        team(service)
        create(service, "other")

        async def story() -> None:
            for n in (1, 2, 3):
                tasks = []
                for worker in WORKERS[:2]:
                    tasks.append(await waiting(send(service, worker, n)))
                    await service.client.get("/v1/sessions/other")
                    service.engine._live._held.pop("s", None)
                await send(service, "w3", n)
                assert [(await task).status_code for task in tasks] == [200, 200]

        run(story())
        assert params(service) == modelled(*((n, WORKERS) for n in (1, 2, 3)))

    def test_a_crash_loses_only_the_parts(self, serve: Serve, kind: str, run: Run) -> None:
        service = serve(kind=kind)
        team(service)
        run(whole_team(service, 1))

        async def before() -> None:
            for worker in WORKERS[:2]:
                (await waiting(send(service, worker, 2))).cancel()

        run(before())
        other = serve(store=service.store)
        assert shown(other)["step"] == 1
        assert run(whole_team(other, 2)) == [200] * 3
        assert params(other) == modelled((1, WORKERS), (2, WORKERS))

    def test_a_stop_tells_those_who_wait(self, service: Service, run: Run) -> None:
        team(service)

        async def story() -> httpx.Response:
            task = await waiting(send(service, "w1", 1))
            await service.engine.close()
            return await task

        problem(run(story()), 503, "unavailable")

    def test_a_step_that_cannot_be_taken_is_told_to_all(self, service: Service, run: Run) -> None:
        team(service, mode="sum")

        async def story() -> list[httpx.Response]:
            return await asyncio.gather(*(send(service, worker, 1, gradients=[1e200, 0.0]) for worker in WORKERS))

        for answer in run(story()):
            problem(answer, 422, "non-finite")
        assert shown(service)["step"] == 0
        assert run(whole_team(service, 1)) == [200] * 3

    def test_many_rounds_with_lost_answers(self, service: Service, run: Run) -> None:
        """Workers that hang up at any moment and send again: each step is taken once, of the right parts."""
        team(service)
        rng = random.Random(7)

        async def worker(name: str) -> None:
            for n in range(1, 31):
                while True:
                    task = asyncio.ensure_future(send(service, name, n))
                    if rng.random() < 0.4:
                        for _ in range(rng.randrange(30)):
                            await asyncio.sleep(0)
                        task.cancel()
                        await asyncio.wait([task])
                        continue
                    answer = await task
                    assert answer.status_code == 200, answer.text
                    assert answer.json()["params"] == modelled(*((k, WORKERS) for k in range(1, n + 1)))
                    break

        async def story() -> None:
            await asyncio.gather(*map(worker, WORKERS))

        run(story())
        assert shown(service)["step"] == 30


class TestWhatIsRefused:
    @pytest.mark.parametrize("worker", [None, "", "x" * 129])
    def test_a_part_without_a_sender(self, service: Service, worker: str | None) -> None:
        team(service)
        body = {"gradients": [1.0, 1.0], **({} if worker is None else {"worker": worker})}
        refused = problem(service.post("/v1/sessions/s/steps", body), 422, "invalid")
        assert pointers(refused) == ["/worker"]
        (result,) = service.post("/v1/steps", {"steps": [{"session": "s", **body}]}).json()["results"]
        assert result["status"] == 422

    def test_a_sender_where_there_is_one_writer(self, service: Service) -> None:
        create(service)
        body = {"gradients": [1.0, 1.0], "worker": "w1"}
        refused = problem(service.post("/v1/sessions/s/steps", body), 422, "invalid")
        assert pointers(refused) == ["/worker"]

    def test_a_sender_that_is_no_text(self, service: Service) -> None:
        team(service)
        refused = problem(service.post("/v1/sessions/s/steps", {"gradients": [1.0, 1.0], "worker": 1}), 422, "invalid")
        assert pointers(refused) == ["/worker"]

    def test_numbers_that_are_not_finite_where_they_came_from(self, service: Service, run: Run) -> None:
        team(service)

        async def story() -> None:
            first = await waiting(send(service, "w1", 1))
            problem(await send(service, "w2", 1, gradients=[None, 1.0]), 422, "non-finite")
            assert not first.done()
            answers = await asyncio.gather(*(send(service, worker, 1) for worker in WORKERS[1:]))
            assert [answer.status_code for answer in (*answers, await first)] == [200] * 3

        run(story())

    @pytest.mark.parametrize(
        ("plan", "pointer"),
        [
            ({"workers": 0}, "/aggregate/workers"),
            ({"workers": 5000}, "/aggregate/workers"),
            ({"mode": "median"}, "/aggregate/mode"),
            ({"timeout_seconds": 0}, "/aggregate/timeout_seconds"),
            ({"quorum": 4}, "/aggregate/quorum"),
            ({"quorum": 0}, "/aggregate/quorum"),
            ({"patience": 1}, "/aggregate/patience"),
        ],
    )
    def test_a_wrong_plan(self, service: Service, plan: Any, pointer: str) -> None:
        body = {"optimizer": {"name": "sgd"}, "params": [1.0], "aggregate": {"workers": 3, **plan}}
        assert pointers(problem(service.post("/v1/sessions", body), 422, "invalid")) == [pointer]

    def test_more_parts_than_may_wait(self, serve: Serve, kind: str, run: Run) -> None:
        service = serve(kind=kind, max_waiting_bytes=3 * 16)
        team(service)
        team(service, "t")

        async def story() -> None:
            tasks = [await waiting(send(service, worker, 1)) for worker in WORKERS[:2]]
            other = await waiting(send(service, "w1", 1, "t"))
            problem(await send(service, "w2", 1, "t"), 503, "unavailable")
            full = await send(service, "w3", 1)
            problem(full, 503, "unavailable")
            assert full.headers["retry-after"] == "1"
            other.cancel()
            assert (await service.client.delete("/v1/sessions/t")).status_code == 204
            assert (await send(service, "w3", 1)).status_code == 200
            assert [(await task).status_code for task in tasks] == [200, 200]

        run(story())
        assert service.engine._rounds._bytes == 0


async def whole_team(service: Service, number: int) -> list[int]:
    """A step of all workers."""
    return [answer.status_code for answer in await asyncio.gather(*(send(service, w, number) for w in WORKERS))]
