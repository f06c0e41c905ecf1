"""Forks: a new session that goes on from a step of another, which is left as it was."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Serve, Service
from tests.sessions.calls import (
    Adam,
    contents,
    create,
    gradient,
    params,
    pointers,
    problem,
    settle,
    shown,
    step,
    took,
    walk,
)

BYTES = 16  # of a gradient of two doubles


def fork(service: Service, parent: str = "s", status: int = 201, **body: Any) -> dict[str, Any]:
    """A fork, called f unless the body says otherwise."""
    response = service.post(f"/v1/sessions/{parent}/fork", {"id": "f", **body})
    assert response.status_code == status, response.text
    answer: dict[str, Any] = response.json()
    assert response.headers["location"] == f"/v1/sessions/{answer['id']}"
    return answer


def after(*numbers: int) -> list[float]:
    """What Adam makes of [1, 2] with the gradients of these numbers."""
    model = Adam([1.0, 2.0])
    for n in numbers:
        model.step(gradient(n))
    return model.params.tolist()


class TestAFork:
    @pytest.mark.parametrize("at", [None, 0, 1, 6, 9])
    def test_goes_on_bit_for_bit(self, service: Service, at: int | None) -> None:
        create(service, labels={"a": "b"})
        answers = walk(service, 9)
        before = contents(service.store)
        begun = 9 if at is None else at
        answer = fork(service, **({} if at is None else {"step": at}))
        assert (answer["step"], answer["durable_step"], answer["params"]) == (begun, begun, after(*range(1, begun + 1)))
        assert (answer["parent"], answer["labels"]) == ({"id": "s", "step": begun}, {"a": "b"})
        assert walk(service, 9, first=begun + 1, id="f") == answers[begun:]
        assert took(service, gradient(10), 10, "f")["params"] == after(*range(1, 11))
        assert contents(service.store) == before

    def test_leads_a_life_of_its_own(self, serve: Serve, kind: str) -> None:
        service = serve(kind=kind)
        create(service)
        walk(service, 5)
        fork(service, step=3, labels={"branch": "two"})
        took(service, gradient(40), 4, "f")
        service.patch("/v1/sessions/f", {"hyperparameters": {"learning_rate": 0.5}})
        assert took(service, gradient(6), 6)["params"] == after(*range(1, 7))
        assert service.delete("/v1/sessions/s").status_code == 204
        other = serve(store=service.store)
        assert params(other, id="f") == after(1, 2, 3, 40)
        assert shown(other, "f")["labels"] == {"branch": "two"}
        assert shown(other, "f")["hyperparameters"]["learning_rate"] == 0.5
        items = other.get("/v1/sessions").json()["items"]
        assert [(item["id"], item["step"], item["parent"]) for item in items] == [("f", 4, {"id": "s", "step": 3})]

    def test_has_the_hyperparameters_of_then(self, service: Service) -> None:
        create(service)
        walk(service, 2)
        service.patch("/v1/sessions/s", {"hyperparameters": {"learning_rate": 0.5}})
        walk(service, 3, first=3)
        rates = [fork(service, id=f"f{n}", step=n)["hyperparameters"]["learning_rate"] for n in range(4)]
        assert rates == [0.1, 0.1, 0.5, 0.5]

    def test_of_a_fork_and_of_a_rewound_session(self, service: Service) -> None:
        create(service)
        walk(service, 5)
        fork(service, step=3)
        walk(service, 6, first=4, id="f")
        service.post("/v1/sessions/f/rewind", {"step": 4})
        took(service, gradient(50), 5, "f")
        fork(service, "f", id="g", step=5)
        assert took(service, gradient(6), 6, "g")["params"] == after(1, 2, 3, 4, 50, 6)
        assert params(service, 4, "f") == after(1, 2, 3, 4)
        assert shown(service, "g")["parent"] == {"id": "f", "step": 5}

    def test_begins_where_it_was_forked(self, serve: Serve, kind: str) -> None:
        """What came before is the parent's; the fork says so."""
        service = serve(kind=kind)
        create(service)
        walk(service, 5)
        fork(service, step=3)
        walk(service, 5, first=4, id="f")
        for other in (service, serve(store=service.store)):
            items = other.get("/v1/sessions/f/steps").json()["items"]
            assert [item["step"] for item in items] == [4, 5]
            page = other.get("/v1/sessions/f/steps?limit=1").json()
            assert ([item["step"] for item in page["items"]], page["next_cursor"]) == ([4], "4")
            assert params(other, 3, "f") == after(1, 2, 3)
            for response in (
                other.get("/v1/sessions/f/params?step=2"),
                other.get("/v1/sessions/f/steps/3"),
                step(other, gradient(3), 3, "f"),
                other.post("/v1/sessions/f/rewind", {"step": 2}),
                other.post("/v1/sessions/f/fork", {"step": 1}),
            ):
                gone = problem(response, 410, "step-not-kept")
                assert gone["kept_from_step"] == 3
                assert "Ask s, of which it is a fork." in gone["detail"]
            assert other.post("/v1/sessions/f/rewind", {"step": 3, "from": 5}).json()["params"] == after(1, 2, 3)
            for n in (4, 5):
                other.post("/v1/sessions/f/steps", {"gradients": gradient(n), "step": n})

    def test_is_durable(self, serve: Serve, kind: str) -> None:
        service = serve(kind=kind)
        create(service, durability="none")
        walk(service, 5)
        fork(service)
        other = serve(store=service.store)
        assert params(other, id="f") == after(*range(1, 6))


class TestARepeatedFork:
    def test_finds_the_first(self, service: Service) -> None:
        create(service)
        walk(service, 3)
        first = fork(service)
        walk(service, 5, first=4)
        assert fork(service, status=200) == first
        took(service, gradient(4), 4, "f")
        assert fork(service, status=200)["step"] == 4
        service.delete("/v1/sessions/s")
        assert fork(service, status=200)["step"] == 4

    def test_with_another_body_or_parent_is_refused(self, service: Service) -> None:
        create(service)
        create(service, "t")
        walk(service, 3)
        fork(service, step=2)
        for parent, body in (("s", {"step": 1}), ("s", {"labels": {}}), ("t", {"step": 0}), ("t", {})):
            refused = service.post(f"/v1/sessions/{parent}/fork", {"id": "f", **body})
            assert pointers(problem(refused, 422, "invalid")) == ["/id"]
        refused = service.post("/v1/sessions/s/fork", {"id": "t"})
        assert pointers(problem(refused, 422, "invalid")) == ["/id"]

    def test_without_an_id_is_another_fork(self, service: Service) -> None:
        create(service)
        ids = {service.post("/v1/sessions/s/fork", {}).json()["id"] for _ in range(3)}
        assert len(ids) == 3

    def test_of_a_deleted_fork_says_so(self, service: Service) -> None:
        create(service)
        fork(service)
        service.delete("/v1/sessions/f")
        problem(service.post("/v1/sessions/s/fork", {"id": "f"}), 410, "gone")


class TestWhatIsRefused:
    def test_a_step_that_was_not_taken(self, service: Service) -> None:
        create(service)
        walk(service, 2)
        refused = problem(service.post("/v1/sessions/s/fork", {"step": 3}), 412, "step-mismatch")
        assert refused["current_step"] == 2

    def test_a_step_that_is_not_kept(self, serve: Serve, kind: str) -> None:
        service = serve(kind=kind, kept_gradient_bytes=5 * BYTES)
        create(service)
        walk(service, 60)
        settle(service)
        gone = problem(service.post("/v1/sessions/s/fork", {"step": 3}), 410, "step-not-kept")
        first = gone["kept_from_step"]
        assert fork(service, step=first)["params"] == after(*range(1, first + 1))

    @pytest.mark.parametrize(("body", "pointer"), [({"id": "a/b"}, "/id"), ({"step": -1}, "/step"), ({"x": 1}, "/x")])
    def test_a_wrong_body(self, service: Service, body: Any, pointer: str) -> None:
        create(service)
        refused = problem(service.post("/v1/sessions/s/fork", body), 422, "invalid")
        assert pointers(refused) == [pointer]

    def test_a_session_that_is_not_there(self, service: Service) -> None:
        problem(service.post("/v1/sessions/none/fork", {}), 404, "not-found")

    def test_more_sessions_than_there_may_be(self, serve: Serve, kind: str) -> None:
        service = serve(kind=kind, max_sessions=2)
        create(service)
        fork(service)
        problem(service.post("/v1/sessions/s/fork", {"id": "g"}), 429, "too-many")
        fork(service, status=200)
