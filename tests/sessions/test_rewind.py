"""Going back: the steps above one are taken back, their numbers come again, and everything holds as before."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.conftest import Run, Serve, Service
from tests.sessions.calls import (
    Adam,
    Between,
    contents,
    create,
    gradient,
    params,
    problem,
    resolved,
    settle,
    shown,
    step,
    took,
    walk,
)

BYTES = 16  # of a gradient of two doubles


def rewind(service: Service, step: int, id: str = "s", **more: Any) -> dict[str, Any]:
    """A rewind that must be made, or have been."""
    response = service.post(f"/v1/sessions/{id}/rewind", {"step": step, **more})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def after(*numbers: int) -> list[float]:
    """What Adam makes of [1, 2] with the gradients of these numbers."""
    model = Adam([1.0, 2.0])
    for n in numbers:
        model.step(gradient(n))
    return model.params.tolist()


def history(service: Service, id: str = "s", query: str = "") -> list[dict[str, Any]]:
    """All of a session's history, page by page."""
    found: list[dict[str, Any]] = []
    path = f"/v1/sessions/{id}/steps?limit=3{query}"
    page = service.get(path).json()
    found += page["items"]
    while "next_cursor" in page:
        page = service.get(f"{path}&after={page['next_cursor']}").json()
        found += page["items"]
    return found


class TestARewind:
    @pytest.mark.parametrize("to", [0, 1, 4, 9])
    def test_leads_back_bit_for_bit(self, service: Service, to: int) -> None:
        create(service)
        answers = walk(service, 10)
        answer = rewind(service, to)
        assert (answer["step"], answer["durable_step"], answer["replayed"]) == (to, to, False)
        assert answer["params"] == params(service) == after(*range(1, to + 1))
        assert walk(service, 10, first=to + 1) == answers[to:]

    def test_gives_the_numbers_above_to_new_steps(self, service: Service) -> None:
        create(service)
        walk(service, 6)
        rewind(service, 3)
        for n in (4, 5):
            assert took(service, gradient(10 * n), n)["step"] == n
        assert params(service) == after(1, 2, 3, 40, 50)
        assert [params(service, n) for n in range(6)] == [after(*[1, 2, 3, 40, 50][:n]) for n in range(6)]

    def test_leaves_the_living_line_in_the_history(self, service: Service) -> None:
        create(service)
        walk(service, 8, loss=1.0)
        rewind(service, 5)
        walk(service, 7, first=6, loss=2.0)
        rewind(service, 2)
        walk(service, 4, first=3, loss=3.0)
        assert [(item["step"], item["loss"]) for item in history(service)] == [(1, 1.0), (2, 1.0), (3, 3.0), (4, 3.0)]
        assert [item["step"] for item in history(service, query="&after=2")] == [3, 4]
        assert len(service.store.rows("s", 0, 99)) == 8 + 1 + 2 + 1 + 2  # nothing is lost of the others

    def test_brings_back_the_hyperparameters_of_then(self, service: Service) -> None:
        create(service)
        walk(service, 2)
        service.patch("/v1/sessions/s", {"hyperparameters": {"learning_rate": 0.5}})
        walk(service, 4, first=3)
        service.patch("/v1/sessions/s", {"hyperparameters": {"learning_rate": 0.25}})
        walk(service, 5, first=5)
        assert rewind(service, 4)["hyperparameters"]["learning_rate"] == 0.25  # what was changed before step 5
        assert rewind(service, 3)["hyperparameters"]["learning_rate"] == 0.5
        assert rewind(service, 2)["hyperparameters"]["learning_rate"] == 0.5
        assert rewind(service, 1)["hyperparameters"]["learning_rate"] == 0.1
        assert params(service) == after(1)

    def test_may_leave_the_parameters_out(self, service: Service) -> None:
        create(service)
        walk(service, 2)
        assert "params" not in rewind(service, 1, **{"return": "none"})

    @pytest.mark.parametrize("durability", ["none", "every:7"])
    def test_is_durable_whatever_the_steps_are(self, service: Service, serve: Serve, durability: str) -> None:
        create(service, durability=durability)
        walk(service, 10)
        assert rewind(service, 6)["durable_step"] == 6
        other = serve(store=service.store)
        assert (shown(other)["step"], params(other)) == (6, after(*range(1, 7)))

    @pytest.mark.parametrize("between", ["nothing", "eviction", "restart", "damage"])
    def test_survives(self, serve: Serve, kind: str, run: Run, between: str) -> None:
        """Also where the snapshots that make it cheap to load are gone: then the rows lead across it."""
        service = serve(kind=kind, snapshot_every=4)
        create(service)
        living: list[int] = []
        rng = random.Random(5)
        name = 0
        for _ in range(12):
            for _ in range(rng.randrange(1, 5)):
                name += 1
                took(service, gradient(name), len(living) + 1)
                living.append(name)
            back = rng.randrange(len(living) + 1)
            rewind(service, back)
            del living[back:]
            if between == "eviction":
                service.engine._live.drop(service.engine._live._held["s"])
        if between == "damage":
            run(spoil(service))
        other = serve(store=service.store) if between != "nothing" else service
        took(other, gradient(name + 1), len(living) + 1)
        living.append(name + 1)
        assert params(other) == after(*living)
        assert [params(other, n) for n in range(len(living))] == [after(*living[:n]) for n in range(len(living))]

    def test_costs_no_more_to_load_than_a_snapshot(self, serve: Serve, kind: str) -> None:
        service = serve(kind=kind)
        create(service)
        walk(service, 50)
        rewind(service, 20)
        other = serve(store=Reads(service.store))
        assert params(other) == after(*range(1, 21))
        assert other.store.read == 0  # type: ignore[attr-defined]


class TestARetry:
    def test_of_a_step_with_a_new_number_is_known(self, service: Service) -> None:
        create(service)
        old = walk(service, 5)
        rewind(service, 2)
        new = took(service, gradient(30), 3)
        assert took(service, gradient(30), 3) == new | {"replayed": True}
        refused = problem(step(service, gradient(3), 3), 422, "step-reused")
        assert refused["current_step"] == 3
        assert problem(step(service, gradient(5), 5), 412, "step-mismatch")["current_step"] == 3
        assert took(service, gradient(2), 2) == old[1] | {"replayed": True, "durable_step": 3}

    def test_of_a_rewind_changes_nothing(self, service: Service) -> None:
        create(service)
        walk(service, 5)
        first = rewind(service, 2)
        settle(service)
        before = contents(service.store)
        for more in ({}, {"from": 5}, {"from": 2}):
            assert rewind(service, 2, **more) == first | {"replayed": True}
        assert contents(service.store) == before

    @pytest.mark.parametrize("patched", [False, True])
    def test_with_a_fence_is_known_after_further_steps(self, service: Service, patched: bool) -> None:
        create(service)
        walk(service, 5)
        rewind(service, 2, **{"from": 5})
        if patched:
            service.patch("/v1/sessions/s", {"hyperparameters": {"learning_rate": 0.5}})
        answer = took(service, gradient(30), 3)
        settle(service)
        before = contents(service.store)
        again = rewind(service, 2, **{"from": 5})
        assert (again["replayed"], again["step"], again["params"]) == (True, 3, answer["params"])
        assert contents(service.store) == before

    def test_that_others_have_overtaken_is_refused(self, service: Service) -> None:
        create(service)
        walk(service, 5)
        before = contents(service.store)
        for since, to in ((4, 2), (6, 2), (3, 5)):
            refused = service.post("/v1/sessions/s/rewind", {"step": to, "from": since})
            assert problem(refused, 412, "step-mismatch")["current_step"] == 5
        assert contents(service.store) == before

    def test_whose_answer_was_lost(self, serve: Serve, kind: str) -> None:
        """The row is written and the answer is not: the same request again finds it."""
        service = serve(kind=kind)
        create(service)
        walk(service, 5)
        between = Between(service.store)
        other = serve(store=between)
        shown(other)

        rows = len(service.store.rows("s", 0, 99))

        async def story() -> Any:
            def late(*arguments: Any) -> Any:
                written.append(arguments)
                return resolved(error=OSError("the disk does not answer"))

            between.append = late
            response = await other.client.post("/v1/sessions/s/rewind", json={"step": 1, "from": 5})
            await service.store.append(*written[0])
            return response

        written: list[Any] = []
        problem(service._run(story()), 503, "unavailable")
        between.append = service.store.append
        assert len(service.store.rows("s", 0, 99)) == rows + 1
        again = other.post("/v1/sessions/s/rewind", {"step": 1, "from": 5})
        assert (again.status_code, again.json()["step"], again.json()["replayed"]) == (200, 1, True)
        assert params(other) == after(1)


class TestTwoWriters:
    def test_one_of_whom_rewinds(self, serve: Serve, kind: str) -> None:
        a = serve(kind=kind)
        b = serve(store=a.store)
        create(a)
        walk(a, 5)
        assert shown(b)["step"] == 5
        rewind(a, 2)
        assert problem(step(b, gradient(6), 6), 412, "step-mismatch")["current_step"] == 2
        assert took(b, gradient(30), 3)["params"] == after(1, 2, 30)
        assert took(a, gradient(30), 3)["replayed"] is True
        rewind(b, 0)
        assert rewind(a, 0)["step"] == 0
        assert took(a, gradient(9), 1)["params"] == after(9)


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("body", "pointer"),
        [({}, "/step"), ({"step": -1}, "/step"), ({"step": "1"}, "/step"), ({"step": 1, "to": 2}, "/to")],
    )
    def test_a_wrong_body(self, service: Service, body: Any, pointer: str) -> None:
        create(service)
        walk(service, 2)
        refused = problem(service.post("/v1/sessions/s/rewind", body), 422, "invalid")
        assert [place["pointer"] for place in refused["errors"]] == [pointer]
        assert shown(service)["step"] == 2

    @pytest.mark.parametrize("path", ["rewind", "fork"])
    def test_an_answer_in_a_form_that_there_is_not(self, service: Service, path: str) -> None:
        create(service)
        walk(service, 2)
        headers = {"accept": "image/png"}
        refused = service.post(f"/v1/sessions/s/{path}", {"step": 1}, headers=headers)
        problem(refused, 406, "not-acceptable")
        assert (shown(service)["step"], service.store.count()) == (2, 1)

    def test_a_step_that_was_not_taken(self, service: Service) -> None:
        create(service)
        walk(service, 2)
        refused = problem(service.post("/v1/sessions/s/rewind", {"step": 3}), 412, "step-mismatch")
        assert refused["current_step"] == 2

    def test_a_session_that_is_not_there(self, service: Service) -> None:
        problem(service.post("/v1/sessions/none/rewind", {"step": 0}), 404, "not-found")
        create(service)
        service.delete("/v1/sessions/s")
        problem(service.post("/v1/sessions/s/rewind", {"step": 0}), 410, "gone")

    @pytest.mark.parametrize("kept", [0, 5 * BYTES, 30 * BYTES])
    def test_a_step_that_is_not_kept_and_what_is_left(self, serve: Serve, kind: str, kept: int) -> None:
        service = serve(kind=kind, kept_gradient_bytes=kept)
        create(service)
        walk(service, 100)
        settle(service)
        before = contents(service.store)
        gone = problem(service.post("/v1/sessions/s/rewind", {"step": 3}), 410, "step-not-kept")
        first = gone["kept_from_step"]
        assert 3 < first <= 100 - kept // BYTES
        assert contents(service.store) == before
        problem(service.post("/v1/sessions/s/rewind", {"step": first - 1}), 410, "step-not-kept")
        assert rewind(service, first)["params"] == after(*range(1, first + 1))
        walk(service, first + 60, first=first + 1)
        settle(service)
        gone = problem(service.get("/v1/sessions/s/params?step=3"), 410, "step-not-kept")
        oldest = gone["kept_from_step"]
        problem(service.get(f"/v1/sessions/s/params?step={oldest - 1}"), 410, "step-not-kept")
        for n in range(oldest, first + 61):
            assert params(service, n) == after(*range(1, n + 1))


class Reads(Between):
    """Counts the rows that are read with their payloads."""

    read = 0

    def rows(self, *arguments: Any) -> Any:
        found = self.inner.rows(*arguments)
        self.read += len(found)
        return found


async def spoil(service: Service) -> None:
    """Damage every snapshot but the first."""
    store = service.store
    number = store.newest_snapshot("s", 1 << 40)
    while number:
        found = store.snapshot("s", number)
        assert found is not None
        await store.keep("s", number, found[1][:-1], 0)
        number = store.newest_snapshot("s", number - 1)
