"""Sessions from outside: create, read, list, change, delete, history, and parameters at any step."""

from __future__ import annotations

import asyncio
import base64
import re
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from service.optim.optimizer import build
from service.optim.tensors import DTYPES, Layout
from tests.conftest import Run, Serve, Service
from tests.sessions.calls import (
    ADAM,
    MOMENTUM,
    Adam,
    contents,
    create,
    gradient,
    params,
    pointers,
    problem,
    shown,
    step,
    took,
    walk,
)

NAMED = {"layer.weight": [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], "layer.bias": [0.5, -0.5], "scale": 2.0}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z\Z")
TIMES = {"created_at", "updated_at"}


def flat(pages: list[list[str]]) -> list[str]:
    """All ids of all pages."""
    return [id for page in pages for id in page]


def restart(serve: Serve, service: Service, kind: str, **settings: Any) -> Service:
    """The service stopped and started again on what it left."""
    service.stop()
    if kind == "sqlite":
        return serve(kind=kind, **settings)
    return serve(kind=kind, store=service.store, **settings)


@pytest.fixture
def keeping(serve: Serve, kind: str) -> Service:
    """A service whose store outlives it, so that it can be restarted."""
    return serve(kind=kind) if kind == "sqlite" else serve(kind=kind, store=serve(kind=kind).store)


class TestCreate:
    def test_is_answered_with_the_session(self, service: Service) -> None:
        response = service.post("/v1/sessions", {"optimizer": {"name": "adam"}, "params": [3.0, 6.0], "id": "first"})
        assert (response.status_code, response.headers["location"]) == (201, "/v1/sessions/first")
        body = response.json()
        assert {key: value for key, value in body.items() if key not in TIMES} == {
            "id": "first",
            "state": "active",
            "step": 0,
            "durable_step": 0,
            "params": [3.0, 6.0],
            "optimizer": {
                "name": "adam",
                "dialect": "torch",
                "learning_rate": 0.001,
                "beta1": 0.9,
                "beta2": 0.999,
                "epsilon": 1e-8,
                "amsgrad": False,
                "bias_correction": True,
                "weight_decay": 0.0,
                "decoupled_weight_decay": False,
                "maximize": False,
            },
            "transforms": [],
            "groups": [],
            "hyperparameters": {
                "learning_rate": 0.001,
                "beta1": 0.9,
                "beta2": 0.999,
                "epsilon": 1e-8,
                "amsgrad": False,
                "bias_correction": True,
                "weight_decay": 0.0,
                "decoupled_weight_decay": False,
                "maximize": False,
            },
            "shapes": [2],
            "dtype": "float64",
            "parameters": 2,
            "state_bytes": 48,
            "non_finite": "reject",
            "durability": "step",
            "labels": {},
        }
        assert all(TIME.match(body[key]) for key in TIMES)
        assert {**shown(service, "first"), "params": [3.0, 6.0]} == body

    def test_chooses_an_id_that_cannot_be_guessed(self, service: Service) -> None:
        body = {"optimizer": ADAM, "params": 1.0}
        ids = {service.post("/v1/sessions", body).json()["id"] for _ in range(20)}
        assert len(ids) == 20
        assert all(re.match(r"s_[A-Za-z0-9_-]{22}\Z", id) for id in ids)

    @pytest.mark.parametrize("id", ["a", "0", "A.b_c-d", "x" * 128, "s_4qXbPmQJzQm0x2mWmXlY8g"])
    def test_takes_an_id(self, service: Service, id: str) -> None:
        assert create(service, id)["id"] == id
        assert took(service, gradient(1), 1, id)["step"] == 1

    @pytest.mark.parametrize(
        "id", ["", "x" * 129, "a/b", "a b", ".a", "-a", "_a", "é", "a\n", "a%20", "a\x00", "日本", 7, True]
    )
    def test_refuses_other_ids(self, service: Service, id: Any) -> None:
        refused = service.post("/v1/sessions", {"optimizer": ADAM, "params": 1.0, "id": id})
        assert pointers(problem(refused, 422, "invalid")) == ["/id"]
        assert service.store.count() == 0

    @pytest.mark.parametrize(
        ("value", "shapes"),
        [
            (1.5, []),
            ([1.5], [1]),
            ([[1.5, 2.5]], [1, 2]),
            (NAMED, {"layer.weight": [2, 3], "layer.bias": [2], "scale": []}),
            ({"a/b~c": [1.0]}, {"a/b~c": [1]}),
        ],
    )
    def test_answers_in_the_shape_of_the_question(self, service: Service, value: Any, shapes: Any) -> None:
        body = create(service, params=value)
        assert (body["params"], body["shapes"]) == (value, shapes)
        zero = dict.fromkeys(value) if isinstance(value, dict) else np.zeros_like(value).tolist()
        assert took(service, zero, 1)["params"] == value
        assert params(service) == params(service, 0) == value

    def test_resolves_a_librarys_own_words(self, service: Service) -> None:
        like = {"like": "torch.optim.Adam", "lr": 0.1, "betas": [0.9, 0.999]}
        assert create(service, "a", optimizer=like)["optimizer"] == create(service, "b")["optimizer"]
        assert [took(service, gradient(n), n, "a")["params"] for n in (1, 2)] == [
            took(service, gradient(n), n, "b")["params"] for n in (1, 2)
        ]

    @pytest.mark.parametrize(
        ("change", "pointer"),
        [
            ({"optimizer": {"name": "adma"}}, "/optimizer/name"),
            ({"optimizer": {"name": "adam", "learning_rte": 1}}, "/optimizer/learning_rte"),
            ({"optimizer": {"name": "adam", "beta1": 1.5}}, "/optimizer/beta1"),
            ({"optimizer": {"name": "adam", "learning_rate": "0.1"}}, "/optimizer/learning_rate"),
            ({"optimizer": "adam"}, "/optimizer"),
            ({"params": []}, "/params"),
            ({"params": [1.0, "2"]}, "/params/1"),
            ({"params": {"w": [[1.0], [2.0, 3.0]]}}, "/params/w/1"),
            ({"params": {"w": 1.0, "b": None}}, "/params/b"),
            ({"params": None}, "/params"),
            ({"dtype": "float16"}, "/dtype"),
            ({"dtype": "float32", "params": [1.0, 1e39]}, "/params/1"),
            ({"non_finite": "ignore"}, "/non_finite"),
            ({"durability": "every:0"}, "/durability"),
            ({"durability": "always"}, "/durability"),
            ({"transforms": [{"name": "clip"}]}, "/transforms/0/name"),
            ({"groups": [{"match": "nothing", "learning_rate": 1.0}]}, "/groups/0/match"),
            ({"ttl_seconds": 0}, "/ttl_seconds"),
            ({"ttl_seconds": "60"}, "/ttl_seconds"),
            ({"ttl_seconds": 1e12}, "/ttl_seconds"),
            ({"labels": {"course": 101}}, "/labels/course"),
            ({"labels": []}, "/labels"),
            ({"learning_rate": 0.1}, "/learning_rate"),
        ],
    )
    def test_refuses_a_wrong_body(self, service: Service, change: dict[str, Any], pointer: str) -> None:
        refused = service.post("/v1/sessions", {"optimizer": ADAM, "params": [1.0, 2.0], "id": "s", **change})
        assert refused.status_code == 422
        assert pointers(refused.json())[0] == pointer
        assert service.store.count() == 0

    @pytest.mark.parametrize("missing", ["optimizer", "params"])
    def test_needs_two_things(self, service: Service, missing: str) -> None:
        body: dict[str, Any] = {"optimizer": ADAM, "params": 1.0}
        del body[missing]
        assert pointers(problem(service.post("/v1/sessions", body), 422, "invalid")) == [f"/{missing}"]


class TestCreateAgain:
    BODY: dict[str, Any] = {"optimizer": ADAM, "params": [1.0, 2.0], "id": "s", "labels": {"a": "b"}}  # noqa: RUF012

    def test_with_the_same_body_is_answered_with_the_session(self, service: Service) -> None:
        first = service.post("/v1/sessions", self.BODY)
        again = service.post("/v1/sessions", self.BODY)
        assert (first.status_code, again.status_code) == (201, 200)
        assert again.json() == first.json()
        assert again.headers["location"] == first.headers["location"]
        backwards = dict(reversed(self.BODY.items()))
        assert service.post("/v1/sessions", backwards).json() == first.json()
        assert service.store.count() == 1

    def test_tells_where_it_stands_now(self, keeping: Service, serve: Serve, kind: str) -> None:
        keeping.post("/v1/sessions", self.BODY)
        walk(keeping, 3)
        keeping.patch("/v1/sessions/s", {"hyperparameters": {"learning_rate": 0.7}, "labels": {"c": "d"}})
        service = restart(serve, keeping, kind)
        again = service.post("/v1/sessions", self.BODY)
        assert again.status_code == 200
        assert again.json() == {**shown(service), "params": params(service)}
        assert (again.json()["step"], again.json()["hyperparameters"]["learning_rate"]) == (3, 0.7)

    @pytest.mark.parametrize(
        "change", [{"params": [1.0, 2.5]}, {"labels": {}}, {"dtype": "float32"}, {"ttl_seconds": 9}]
    )
    def test_with_another_body_is_refused(self, service: Service, change: dict[str, Any]) -> None:
        service.post("/v1/sessions", self.BODY)
        before = contents(service.store)
        refused = problem(service.post("/v1/sessions", {**self.BODY, **change}), 422, "invalid")
        assert pointers(refused) == ["/id"]
        assert contents(service.store) == before

    def test_at_the_same_moment(self, service: Service, run: Run) -> None:
        async def race() -> list[Any]:
            return await asyncio.gather(*(service.client.post("/v1/sessions", json=self.BODY) for _ in range(20)))

        answers = run(race())
        assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
        assert len({answer.text for answer in answers}) == 1
        walk(service, 2)


class TestRead:
    def test_times(self, serve: Serve, kind: str) -> None:
        now = [datetime(2026, 1, 2, 3, 4, 5, 678901, UTC).timestamp()]
        service = serve(kind=kind, now=lambda: now[0])
        create(service, ttl_seconds=3600)
        now[0] += 60
        walk(service, 1)
        description = shown(service)
        assert description["created_at"] == "2026-01-02T03:04:05.678901Z"
        assert description["updated_at"] == "2026-01-02T03:05:05.678901Z"
        assert description["expires_at"] == "2026-01-02T04:05:05.678901Z"
        assert service.get("/v1/sessions/s/steps/1").json()["time"] == "2026-01-02T03:05:05.678901Z"
        (item,) = service.get("/v1/sessions").json()["items"]
        assert (item["created_at"], item["updated_at"]) == (description["created_at"], description["updated_at"])

    def test_hyperparameters_are_those_of_the_next_step(self, service: Service) -> None:
        rate = {"schedule": "exponential", "initial": 1.0, "gamma": 0.5}
        create(service, optimizer={**MOMENTUM, "learning_rate": rate})
        for n in range(1, 5):
            expected = shown(service)["hyperparameters"]["learning_rate"]
            assert took(service, gradient(n), n)["learning_rate"] == expected == 0.5 ** (n - 1)
        assert shown(service)["optimizer"]["learning_rate"]["schedule"] == "exponential"

    def test_after_a_restart_it_is_the_same(self, keeping: Service, serve: Serve, kind: str) -> None:
        create(keeping, params=NAMED, labels={"a": "b"}, ttl_seconds=1000, non_finite="zero")
        took(keeping, {"scale": 1.0}, 1)
        before = shown(keeping), params(keeping), keeping.get("/v1/sessions").json()
        service = restart(serve, keeping, kind)
        assert (shown(service), params(service), service.get("/v1/sessions").json()) == before

    @pytest.mark.parametrize("spacing", [1, 2, 3, 256])
    def test_the_time_of_the_last_step_survives(self, serve: Serve, kind: str, spacing: int) -> None:
        """Also where the newest row has a snapshot, which does not tell the time: a busy session must not expire."""
        now = [1000.0]
        settings = {"snapshot_every": spacing, "now": lambda: now[0], "cache_bytes": 0}
        keeping = serve(kind=kind, **settings)
        create(keeping, ttl_seconds=60)
        for n in range(1, 5):
            now[0] += 50
            took(keeping, gradient(n), n)
            description = shown(keeping)
            create(keeping, f"other{n}")  # and s leaves memory
            assert shown(keeping) == description
        store = keeping.store if kind == "memory" else None
        if store is None:
            keeping.stop()
        service = serve(kind=kind, store=store, **settings)
        assert shown(service) == description


class TestList:
    def pages(self, service: Service, limit: int, query: str = "") -> list[list[str]]:
        """The ids, page by page."""
        found: list[list[str]] = []
        cursor = ""
        while True:
            page = service.get(f"/v1/sessions?limit={limit}{query}{cursor}").json()
            found.append([item["id"] for item in page["items"]])
            if "next_cursor" not in page:
                return found
            cursor = f"&cursor={page['next_cursor']}"

    def test_empty(self, service: Service) -> None:
        assert service.get("/v1/sessions").json() == {"items": []}

    def test_newest_first(self, service: Service) -> None:
        for id in "cabed":
            create(service, id)
        assert self.pages(service, 100) == [list("debac")]
        assert self.pages(service, 2) == [["d", "e"], ["b", "a"], ["c"]]
        assert self.pages(service, 5) == [list("debac")]
        assert self.pages(service, 1) == [["d"], ["e"], ["b"], ["a"], ["c"]]

    def test_tells_the_essentials(self, service: Service) -> None:
        create(service, labels={"course": "ml101"})
        walk(service, 2)
        (item,) = service.get("/v1/sessions").json()["items"]
        description = shown(service)
        assert item == {
            "id": "s",
            "state": "active",
            "step": 2,
            "optimizer": {"name": "adam", "dialect": "torch"},
            "labels": {"course": "ml101"},
            "created_at": description["created_at"],
            "updated_at": description["updated_at"],
        }

    def test_by_label(self, service: Service) -> None:
        for i in range(30):
            create(service, f"s{i}", labels={"parity": "odd" if i % 2 else "even", "third": str(i % 3), "a:b": "c:d"})
        odd = [f"s{i}" for i in range(29, -1, -1) if i % 2]
        assert flat(self.pages(service, 100, "&label=parity:odd")) == odd
        assert flat(self.pages(service, 4, "&label=parity:odd")) == odd
        both = [f"s{i}" for i in range(29, -1, -1) if i % 6 == 3]
        assert flat(self.pages(service, 100, "&label=parity:odd&label=third:0")) == both
        assert flat(self.pages(service, 100, "&label=a:b")) == []
        assert flat(self.pages(service, 100, "&label=parity:prime")) == []

    def test_by_state(self, service: Service) -> None:
        create(service)
        assert self.pages(service, 10, "&state=active") == [["s"]]
        assert service.get("/v1/sessions?state=asleep").status_code == 422

    def test_follows_patches_and_deletions(self, service: Service) -> None:
        for id in "abc":
            create(service, id, labels={"x": "1"})
        service.patch("/v1/sessions/b", {"labels": {"x": "2"}})
        service.delete("/v1/sessions/a")
        assert self.pages(service, 10) == [["c", "b"]]
        assert self.pages(service, 10, "&label=x:1") == [["c"]]

    def test_does_not_tell_of_what_expired(self, serve: Serve, kind: str) -> None:
        now = [1000.0]
        service = serve(kind=kind, now=lambda: now[0])
        create(service, "a", ttl_seconds=10)
        create(service, "b")
        create(service, "c", ttl_seconds=30)
        now[0] += 20
        assert flat(self.pages(service, 1)) == ["c", "b"]

    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=1001", "limit=x", "label=course", "cursor=%21", "cursor=a", "cursor=bm8"]
    )
    def test_refuses_a_wrong_query(self, service: Service, query: str) -> None:
        assert service.get(f"/v1/sessions?{query}").status_code == 422

    @pytest.mark.parametrize("number", [0, -5, 2**62, 2**63, 10**30])
    def test_survives_a_cursor_of_ones_own_making(self, service: Service, number: int) -> None:
        create(service)
        cursor = base64.urlsafe_b64encode(str(number).encode()).decode().rstrip("=")
        response = service.get(f"/v1/sessions?cursor={cursor}")
        assert response.status_code == 200
        assert len(response.json()["items"]) == (number > 0)


class TestPatch:
    def test_holds_from_the_next_step_on(self, service: Service) -> None:
        create(service)
        model = Adam([1.0, 2.0])
        for n, rate in enumerate([0.1, 0.1, 0.5, 0.5, 0.01], start=1):
            if rate != model.learning_rate:
                response = service.patch("/v1/sessions/s", {"hyperparameters": {"learning_rate": rate}})
                assert response.status_code == 200
                assert response.json() == shown(service)
                assert response.json()["optimizer"]["learning_rate"] == rate
                model.learning_rate = rate
            model.step(gradient(n))
            answer = took(service, gradient(n), n)
            assert (answer["params"], answer["learning_rate"]) == (model.params.tolist(), rate)

    @pytest.mark.parametrize("settings", [{}, {"snapshot_every": 1}, {"snapshot_every": 3, "cache_bytes": 0}])
    def test_is_part_of_the_replay(self, serve: Serve, kind: str, settings: dict[str, Any]) -> None:
        """Patches before the first step, several at one step, and after the last."""
        patches = {0: [0.2], 3: [0.9, 0.3], 4: [0.4], 9: [0.8, 0.7, 0.6], 12: [0.05]}
        service = serve(kind=kind, **settings)
        create(service)
        model = Adam([1.0, 2.0])
        expected = [[1.0, 2.0]]
        for n in range(13):
            for rate in patches.get(n, ()):
                service.patch("/v1/sessions/s", {"hyperparameters": {"learning_rate": rate}})
                model.learning_rate = rate
            if n < 12:
                model.step(gradient(n + 1))
                expected.append(took(service, gradient(n + 1), n + 1)["params"])
                assert expected[-1] == model.params.tolist()
        history = service.get("/v1/sessions/s/steps").json()
        store = service.store if kind == "memory" else None
        for again in (service, None):
            if again is None:
                if store is None:
                    service.stop()
                again = serve(kind=kind, store=store, **settings)
            assert [params(again, n) for n in range(13)] == expected
            assert [again.get(f"/v1/sessions/s/steps/{n}").json()["params"] for n in range(1, 13)] == expected[1:]
            assert again.get("/v1/sessions/s/steps").json() == history
            assert shown(again)["hyperparameters"]["learning_rate"] == 0.05
        assert [item["learning_rate"] for item in history["items"]] == [0.2] * 3 + [0.3] + [0.4] * 5 + [0.6] * 3

    def test_may_set_a_schedule(self, keeping: Service, serve: Serve, kind: str) -> None:
        create(keeping)
        walk(keeping, 2)
        schedule = {"schedule": "exponential", "initial": 1.0, "gamma": 0.5}
        keeping.patch("/v1/sessions/s", {"hyperparameters": {"learning_rate": schedule}})
        assert [answer["learning_rate"] for answer in walk(keeping, 4, first=3)] == [0.25, 0.125]
        service = restart(serve, keeping, kind)
        assert [answer["learning_rate"] for answer in walk(service, 6, first=5)] == [0.0625, 0.03125]

    def test_of_labels_and_time_to_live(self, keeping: Service, serve: Serve, kind: str) -> None:
        create(keeping, labels={"a": "1", "b": "2"}, ttl_seconds=50)
        keeping.patch("/v1/sessions/s", {"labels": {"c": "3"}})
        assert (shown(keeping)["labels"], shown(keeping)["ttl_seconds"]) == ({"c": "3"}, 50)
        keeping.patch("/v1/sessions/s", {"ttl_seconds": 100, "labels": {}})
        assert (shown(keeping)["labels"], shown(keeping)["ttl_seconds"]) == ({}, 100)
        keeping.patch("/v1/sessions/s", {"ttl_seconds": None})
        assert "ttl_seconds" not in shown(keeping)
        before = shown(keeping)
        assert shown(restart(serve, keeping, kind)) == before
        assert before["step"] == 0

    def test_of_nothing_changes_nothing(self, service: Service) -> None:
        create(service)
        before = contents(service.store)
        assert service.patch("/v1/sessions/s", {}).json() == shown(service)
        assert contents(service.store) == before

    @pytest.mark.parametrize(
        ("change", "pointer"),
        [
            ({"hyperparameters": {"learning_rte": 0.1}}, "/hyperparameters/learning_rte"),
            ({"hyperparameters": {"learning_rate": "0.1"}}, "/hyperparameters/learning_rate"),
            ({"hyperparameters": {"learning_rate": None}}, "/hyperparameters/learning_rate"),
            ({"hyperparameters": {"beta1": 1.0, "learning_rate": 0.3}}, "/hyperparameters/beta1"),
            ({"hyperparameters": {"name": "sgd"}}, "/hyperparameters/name"),
            ({"hyperparameters": {"dialect": "keras"}}, "/hyperparameters/dialect"),
            ({"hyperparameters": {"like": "torch.optim.SGD"}}, "/hyperparameters/like"),
            ({"hyperparameters": {"amsgrad": True}}, "/hyperparameters"),
            ({"hyperparameters": [0.1]}, "/hyperparameters"),
            ({"labels": None}, "/labels"),
            ({"labels": {"a": 1}, "hyperparameters": {"learning_rate": 0.3}}, "/labels/a"),
            ({"ttl_seconds": -1}, "/ttl_seconds"),
            ({"learning_rate": 0.3}, "/learning_rate"),
            ({"params": [1.0, 2.0]}, "/params"),
        ],
    )
    def test_that_cannot_be_changes_nothing(self, service: Service, change: dict[str, Any], pointer: str) -> None:
        create(service)
        walk(service, 2)
        before = contents(service.store), shown(service)
        refused = service.patch("/v1/sessions/s", change)
        assert refused.status_code == 422
        assert pointers(refused.json())[0] == pointer
        assert (contents(service.store), shown(service)) == before

    def test_many_without_steps_do_not_make_loading_slow(self, serve: Serve, kind: str) -> None:
        """Patches stand in the log too, so that a snapshot comes after so many of them."""
        service = serve(kind=kind, snapshot_every=10)
        create(service)
        for i in range(1, 26):
            service.patch("/v1/sessions/s", {"hyperparameters": {"learning_rate": i / 100}})
        number, _ = service.store.snapshot("s", 1 << 30) or (0, b"")
        assert number == 20
        assert service.engine._live._held["s"].timeline == ((1, 25),)  # nor does what is kept of them add up
        walk(service, 2)
        assert params(service, 0) == [1.0, 2.0]
        assert params(service, 1) == walk(service, 1)[0]["params"]


class TestDelete:
    def test_is_for_ever(self, keeping: Service, serve: Serve, kind: str) -> None:
        create(keeping)
        walk(keeping, 3)
        assert keeping.delete("/v1/sessions/s").status_code == 204
        problem(keeping.delete("/v1/sessions/s"), 410, "gone")
        service = restart(serve, keeping, kind)
        problem(service.get("/v1/sessions/s"), 410, "gone")
        problem(service.post("/v1/sessions", {"optimizer": ADAM, "params": 1.0, "id": "s"}), 410, "gone")

    def test_at_the_same_moment_as_steps(self, service: Service, run: Run) -> None:
        """A step is taken or told that the session is gone; nothing else happens."""

        async def race() -> list[Any]:
            calls = [service.client.post("/v1/sessions/s/steps", json={"gradients": gradient(n)}) for n in range(20)]
            calls.insert(10, service.client.delete("/v1/sessions/s"))
            return await asyncio.gather(*calls)

        create(service)
        outcomes = run(race())
        assert {response.status_code for response in outcomes} <= {200, 204, 410}
        assert sum(response.status_code == 204 for response in outcomes) == 1
        problem(service.get("/v1/sessions/s"), 410, "gone")


class TestHistory:
    def test_tells_of_every_step(self, service: Service) -> None:
        create(service)
        answers = [took(service, gradient(n), n, loss=n / 8) for n in range(1, 6)]
        history = service.get("/v1/sessions/s/steps").json()
        assert "next_cursor" not in history
        for n, (item, answer) in enumerate(zip(history["items"], answers, strict=True), start=1):
            assert TIME.match(item.pop("time"))
            same = {key: answer[key] for key in ("step", "learning_rate", "gradient_norm", "update_norm")}
            assert item == {**same, "loss": n / 8}

    def test_page_by_page(self, service: Service) -> None:
        create(service)
        for n in range(1, 24):
            took(service, gradient(n), n)
            if n % 4 == 0:  # patches lie in between
                service.patch("/v1/sessions/s", {"hyperparameters": {"learning_rate": n / 10}})
        for limit in (1, 2, 5, 22, 23, 24, 10_000):
            found: list[int] = []
            after = "0"
            while True:
                page = service.get(f"/v1/sessions/s/steps?limit={limit}&after={after}").json()
                assert len(page["items"]) <= limit
                found += [item["step"] for item in page["items"]]
                if "next_cursor" not in page:
                    break
                after = page["next_cursor"]
            assert found == list(range(1, 24))
        assert service.get("/v1/sessions/s/steps?after=20").json()["items"][0]["step"] == 21
        for beyond in (23, 24, 10**12):
            assert service.get(f"/v1/sessions/s/steps?after={beyond}").json() == {"items": []}

    def test_is_empty_at_first(self, service: Service) -> None:
        create(service)
        assert service.get("/v1/sessions/s/steps").json() == {"items": []}
        service.patch("/v1/sessions/s", {"hyperparameters": {"learning_rate": 1.0}})
        assert service.get("/v1/sessions/s/steps").json() == {"items": []}

    @pytest.mark.parametrize("query", ["limit=0", "limit=10001", "after=-1", "after=x", "limit="])
    def test_refuses_a_wrong_query(self, service: Service, query: str) -> None:
        create(service)
        assert service.get(f"/v1/sessions/s/steps?{query}").status_code == 422


class TestParamsAtAStep:
    def test_are_what_was_answered(self, serve: Serve, kind: str) -> None:
        service = serve(kind=kind, snapshot_every=7)
        create(service)
        answers = walk(service, 25)
        assert params(service, 0) == [1.0, 2.0]
        for answer in answers:
            assert params(service, answer["step"]) == answer["params"]
            one = service.get(f"/v1/sessions/s/steps/{answer['step']}").json()
            assert TIME.match(one.pop("time"))
            assert one == {key: one[key] for key in answer if key not in ("durable_step", "replayed")}
            assert one["params"] == answer["params"]

    @pytest.mark.parametrize("number", [4, 5, 10**6, 10**30])
    def test_that_was_not_taken(self, service: Service, number: int) -> None:
        create(service)
        walk(service, 3)
        problem(service.get(f"/v1/sessions/s/params?step={number}"), 404, "not-found")
        problem(service.get(f"/v1/sessions/s/steps/{number}"), 404, "not-found")

    def test_step_0_is_no_step(self, service: Service) -> None:
        create(service)
        problem(service.get("/v1/sessions/s/steps/0"), 404, "not-found")
        assert service.get("/v1/sessions/s/params?step=-1").status_code == 422
        assert service.get("/v1/sessions/s/steps/x").status_code == 422


SPECIFICATIONS: dict[str, dict[str, Any]] = {
    "momentum": {"optimizer": MOMENTUM},
    "rmsprop in float32": {"optimizer": {"name": "rmsprop"}, "dtype": "float32"},
    "a schedule": {
        "optimizer": {**ADAM, "learning_rate": {"schedule": "cosine_annealing", "initial": 0.1, "t_max": 7}},
    },
    "groups": {
        "optimizer": {**ADAM, "weight_decay": 0.1},
        "groups": [{"match": "*.bias", "weight_decay": 0, "learning_rate": 0.5}, {"match": "scale", "beta1": 0.5}],
    },
    "transforms": {
        "optimizer": MOMENTUM,
        "transforms": [{"name": "clip_by_global_norm", "max_norm": 1.0}, {"name": "l2", "strength": 0.01}],
    },
    "all of them in float32": {
        "optimizer": {**MOMENTUM, "learning_rate": {"schedule": "exponential", "initial": 0.1, "gamma": 0.9}},
        "groups": [{"match": "*.bias", "momentum": 0.5}],
        "transforms": [{"name": "clip_by_norm", "max_norm": 0.5}],
        "dtype": "float32",
    },
    "a library's own": {"optimizer": {"like": "torch.optim.AdamW", "lr": 0.01, "weight_decay": 0.1}},
}


@pytest.mark.parametrize("name", SPECIFICATIONS)
def test_a_session_is_the_fold_of_its_gradients(serve: Serve, kind: str, name: str) -> None:
    """Against the optimizer itself, with null gradients, through evictions, a restart and retries, bit for bit."""
    body = SPECIFICATIONS[name]
    dtype = body.get("dtype", "float64")
    layout = Layout(tuple(NAMED), ((2, 3), (2,), ()), DTYPES[dtype])
    optimizer = build(body["optimizer"], layout, body.get("transforms", ()), body.get("groups", ()))
    state = optimizer.init(np.array([1, 2, 3, 4, 5, 6, 0.5, -0.5, 2], dtype))
    rng = np.random.default_rng(7)
    service = serve(kind=kind, snapshot_every=5, cache_bytes=0)
    create(service, params=NAMED, **body)
    create(service, "other")
    expected = [state.params]
    sent: list[tuple[int, dict[str, Any]]] = []
    for n in range(1, 25):
        values = rng.standard_normal(9).astype(dtype)
        absent = tuple(int(i) for i in range(3) if rng.random() < 0.25)
        for i in absent:
            values[layout.slices[i]] = 0
        tree = {key: part.tolist() for key, part in layout.split(values).items()}
        for i in absent:
            tree[layout.names[i]] = None
        state = optimizer.step(state, values, absent).state
        expected.append(state.params)
        sent.append((n, tree))
        answer = took(service, tree, n)
        values = np.concatenate([np.ravel(answer["params"][key]) for key in layout.names]).astype(dtype)
        assert values.tobytes() == state.params.tobytes(), n
        if n % 3 == 0:
            shown(service, "other")  # and s leaves memory
        if n == 13 and kind == "sqlite":
            service.stop()
            service = serve(kind=kind, snapshot_every=5, cache_bytes=0)
    for n, params_then in enumerate(expected):
        values = np.concatenate([np.ravel(params(service, n)[key]) for key in layout.names]).astype(dtype)
        assert values.tobytes() == params_then.tobytes(), n
    for n, tree in sent:
        assert took(service, tree, n)["replayed"] is True


def test_large_steps_run_beside_small_ones(service: Service, run: Run) -> None:
    """Steps past a size leave the event loop; they are the same steps."""
    size = 40_000
    create(service, "large", params=[0.0] * size)
    create(service, "small")

    async def race() -> list[Any]:
        posts = []
        for n in range(1, 6):
            body = {"gradients": gradient(n, size), "step": n, "return": "none"}
            posts.append(service.client.post("/v1/sessions/large/steps", json=body))
            posts.append(service.client.post("/v1/sessions/small/steps", json={"gradients": gradient(n), "step": n}))
        return await asyncio.gather(*posts)

    assert {response.status_code for response in run(race())} <= {200, 412}
    model = Adam(np.zeros(size))
    for n in range(1, 6):
        took(service, gradient(n, size), n, "large", **{"return": "none"})
        model.step(gradient(n, size))
    assert np.array(params(service, id="large")).tobytes() == model.params.tobytes()


def test_returned_updates_are_what_was_added(service: Service) -> None:
    create(service, params=NAMED)
    before = params(service)
    for n in range(1, 4):
        gradients = {"layer.bias": gradient(n)}
        answer = step(service, gradients, n, **{"return": "updates"}).json()
        now = params(service)
        assert "params" not in answer
        assert answer["updates"]["layer.weight"] == [[0.0] * 3] * 2
        added = [new - old for new, old in zip(now["layer.bias"], before["layer.bias"], strict=True)]
        assert answer["updates"]["layer.bias"] == added
        before = now
