"""Numbers that are not finite, in every disguise: they never reach the state, whoever sends them and wherever."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.settings import Settings
from tests.conftest import Serve, Service
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

NAMED = {"w": [[1.0, 2.0], [3.0, 4.0]], "b": [0.5, -0.5]}
LITERALS = ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e309", "1" + "0" * 400, "-1" + "0" * 400, "1e9999999"]
TEXTS = ['"NaN"', '"Infinity"', '"-inf"', '"1e400"', "nan", "inf", "+Infinity", "1e", "0x7ff", "9" * 5000, "{}", "true"]
PLACES = {
    "in an array": '{"gradients": [1.0, %s]}',
    "with a number": '{"gradients": [1.0, %s], "step": 3}',
    "under an old number": '{"gradients": [1.0, %s], "step": 2}',
    "as the array": '{"gradients": %s}',
    "nested": '{"gradients": [[1.0, [%s]], 2.0]}',
    "under a name": '{"gradients": {"w": [1.0, %s]}}',
    "as the loss": '{"gradients": [1.0, 2.0], "loss": %s}',
    "as the step": '{"gradients": [1.0, 2.0], "step": %s}',
    "as what to return": '{"gradients": [1.0, 2.0], "return": %s}',
    "in a stray field": '{"gradients": [1.0, 2.0], "rate": %s}',
    "as the body": "%s",
}
JSON = {"content-type": "application/json"}


def memory(service: Service, id: str = "s") -> Any:
    """The session in memory, as bytes and numbers."""
    session = service.engine._live._held[id]
    state = session.state
    arrays = tuple(array.tobytes() for array in (state.params, *state.slots))
    return arrays, state.step, state.counts, session.step, session.number, session.durable, session.timeline


class TestInAStep:
    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize("policy", ["reject", "skip", "zero"])
    def test_no_literal_changes_anything(self, service: Service, place: str, policy: str) -> None:
        """JSON has no such numbers, whatever a session does with gradients that are not finite."""
        create(service, non_finite=policy)
        walk(service, 2)
        before = contents(service.store), memory(service)
        for literal in LITERALS:
            body = (PLACES[place] % literal).encode()
            refused = problem(service.post("/v1/sessions/s/steps", content=body, headers=JSON), 422, "non-finite")
            assert "null" in refused["detail"]
            assert refused["errors"]
        assert (contents(service.store), memory(service)) == before
        assert took(service, gradient(3), 3)["replayed"] is False

    @pytest.mark.parametrize("place", PLACES)
    def test_no_text_that_looks_like_one_changes_anything(self, service: Service, place: str) -> None:
        create(service)
        walk(service, 2)
        before = contents(service.store), memory(service)
        for text in TEXTS:
            body = (PLACES[place] % text).encode()
            refused = service.post("/v1/sessions/s/steps", content=body, headers=JSON)
            assert refused.status_code in (400, 422), (text, refused.text)
            assert refused.headers["content-type"] == "application/problem+json"
        assert (contents(service.store), memory(service)) == before

    def test_the_places_are_named(self, service: Service) -> None:
        create(service, params=NAMED)
        body = b'{"gradients": {"w": [[1, NaN], [3, 4]], "b": [Infinity, 1e400]}, "loss": -Infinity}'
        refused = service.post("/v1/sessions/s/steps", content=body, headers=JSON).json()
        assert pointers(refused) == ["/gradients/w/0/1", "/gradients/b/0", "/gradients/b/1", "/loss"]

    @pytest.mark.parametrize(
        ("gradients", "pointer"),
        [
            ({"w": [[1.0, None], [3.0, 4.0]]}, "/gradients/w/0/1"),
            ({"b": [None, None]}, "/gradients/b/0"),
        ],
    )
    def test_null_inside_an_array_is_one(self, service: Service, gradients: Any, pointer: str) -> None:
        create(service, params=NAMED)
        before = contents(service.store), memory(service)
        refused = problem(step(service, gradients, 1), 422, "non-finite")
        assert pointers(refused)[0] == pointer
        assert (contents(service.store), memory(service)) == before

    @pytest.mark.parametrize("number", [3.5e38, -1e39, 1e308, 10**39])
    def test_a_double_past_float32_is_one_there(self, service: Service, number: float) -> None:
        create(service, dtype="float32")
        before = contents(service.store), memory(service)
        assert pointers(problem(step(service, [0.0, number], 1), 422, "non-finite")) == ["/gradients/1"]
        assert (contents(service.store), memory(service)) == before
        took(service, [0.0, 3.4e38 / 1e30], 1)


class TestElsewhere:
    BODIES = (
        '{"optimizer": {"name": "adam"}, "params": [1.0, %s], "id": "t"}',
        '{"optimizer": {"name": "adam", "learning_rate": %s}, "params": [1.0], "id": "t"}',
        '{"optimizer": {"name": "adam", "learning_rate": {"schedule": "exponential", "initial": %s, "gamma": 1}}, '
        '"params": [1.0], "id": "t"}',
        '{"optimizer": {"name": "adam"}, "params": [1.0], "id": "t", "ttl_seconds": %s}',
        '{"optimizer": {"name": "adam"}, "params": [1.0], "id": "t", "labels": {"a": %s}}',
        '{"optimizer": {"name": "adam"}, "params": [1.0], "id": "t", "groups": [{"match": "*", "beta1": %s}]}',
        '{"optimizer": {"name": "adam"}, "params": [1.0], "id": "t", "transforms": [{"name": "l2", "strength": %s}]}',
    )
    PATCHES = (
        '{"hyperparameters": {"learning_rate": %s}}',
        '{"hyperparameters": {"learning_rate": {"schedule": "exponential", "initial": %s, "gamma": 1}}}',
        '{"ttl_seconds": %s}',
        '{"labels": {"a": %s}}',
    )

    @pytest.mark.parametrize("body", BODIES)
    def test_no_session_is_made_of_one(self, service: Service, body: str) -> None:
        for text in LITERALS + TEXTS[:6]:
            refused = service.post("/v1/sessions", content=(body % text).encode(), headers=JSON)
            if '"labels"' in body and text.startswith('"'):
                assert service.delete("/v1/sessions/t").status_code == 204 or refused.status_code == 410
                continue
            assert refused.status_code in (400, 422), (text, refused.text)
        assert service.store.count() == 0

    @pytest.mark.parametrize("body", PATCHES)
    def test_no_patch_brings_one(self, service: Service, body: str) -> None:
        create(service)
        walk(service, 2)
        before = contents(service.store), memory(service), shown(service)
        for text in LITERALS + (TEXTS[4:9] if "labels" in body else TEXTS):
            refused = service.request("PATCH", "/v1/sessions/s", content=(body % text).encode(), headers=JSON)
            assert refused.status_code in (400, 422), (text, refused.text)
        assert (contents(service.store), memory(service), shown(service)) == before


class TestSkip:
    def test_leaves_the_state_and_counts_the_step(self, serve: Serve, kind: str) -> None:
        service = serve(kind=kind, cache_bytes=0, snapshot_every=3)
        create(service, non_finite="skip")
        create(service, "other")
        model = Adam([1.0, 2.0])
        answers = []
        for n in range(1, 13):
            bad = n % 3 == 1
            sent = [None, gradient(n)[1]] if bad else gradient(n)
            if not bad:
                model.step(sent)
            answer = took(service, sent, n)
            assert answer["params"] == model.params.tolist()
            assert answer.get("skipped", False) is bad
            assert answer["update_norm"] == 0.0 if bad else answer["update_norm"] > 0.0
            answers.append((sent, answer))
            shown(service, "other")
        for n, (sent, answer) in enumerate(answers, start=1):
            assert took(service, sent, n) == answer | {"replayed": True, "durable_step": 12}
            assert params(service, n) == answer["params"]
        history = service.get("/v1/sessions/s/steps").json()["items"]
        assert [item.get("skipped", False) for item in history] == [n % 3 == 1 for n in range(1, 13)]

    def test_is_also_for_what_overflows_float32(self, service: Service) -> None:
        create(service, non_finite="skip", dtype="float32")
        answer = took(service, [1.0, 1e39], 1)
        assert (answer["params"], answer["skipped"]) == ([1.0, 2.0], True)

    def test_schedules_wait(self, service: Service) -> None:
        """A skipped step takes none of the schedule, as a skipped `scheduler.step()` does not."""
        rate = {"schedule": "exponential", "initial": 1.0, "gamma": 0.5}
        create(service, optimizer={**MOMENTUM, "learning_rate": rate}, non_finite="skip")
        rates = [took(service, [None, 1.0] if n in (2, 3) else gradient(n), n)["learning_rate"] for n in range(1, 6)]
        assert rates == [1.0, 0.5, 0.5, 0.5, 0.25]


class TestZero:
    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_replaces_the_numbers_and_counts_them(self, service: Service, dtype: str) -> None:
        for id, policy in (("s", "zero"), ("twin", "reject")):
            create(service, id, params=NAMED, dtype=dtype, non_finite=policy)
        spoiled = {"w": [[1.0, None], [None, 4.0]], "b": [None, 1e39 if dtype == "float32" else None]}
        zeroed = {"w": [[1.0, 0.0], [0.0, 4.0]], "b": [0.0, 0.0]}
        for n in range(1, 4):
            answer = took(service, spoiled, n)
            assert answer.pop("zeroed") == 4
            assert answer == took(service, zeroed, n, "twin")
            assert took(service, spoiled, n) == answer | {"zeroed": 4, "replayed": True}
        assert service.get("/v1/sessions/s/steps").json()["items"][0]["zeroed"] == 4

    def test_says_nothing_where_nothing_was_done(self, service: Service) -> None:
        create(service, non_finite="zero")
        assert "zeroed" not in took(service, gradient(1), 1)
        assert "skipped" not in took(service, gradient(2), 2)

    def test_zero_is_a_gradient_and_null_is_none(self, service: Service) -> None:
        create(service, params=NAMED, optimizer={**MOMENTUM, "weight_decay": 0.5}, non_finite="zero")
        answer = took(service, {"w": None, "b": [None, None]}, 1)
        assert answer["params"]["w"] == NAMED["w"]
        assert answer["params"]["b"] != NAMED["b"]  # weight decay acts on it


HUGE = 1.7e308
OVERFLOWS: dict[str, tuple[dict[str, Any], Any]] = {
    "the parameters": ({"optimizer": {"name": "sgd", "learning_rate": 10.0}, "params": [HUGE, 1.0]}, [-HUGE, 0.0]),
    "the parameters, by little": (
        {"optimizer": {"name": "sgd", "learning_rate": 1.0}, "params": [HUGE, 1.0]},
        [-HUGE, 0],
    ),
    "the square of the gradient": ({"optimizer": ADAM}, [1e200, 0.0]),
    "the square of the gradient in float32": ({"optimizer": ADAM, "dtype": "float32"}, [1e30, 0.0]),
    "the norm of the gradient": ({"optimizer": {"name": "sgd", "learning_rate": 1e-300}}, [HUGE, HUGE]),
    "the update": ({"optimizer": {"name": "sgd", "learning_rate": 1e300}}, [1e300, 0.0]),
    "the update's norm": (
        {"optimizer": {"name": "sgd", "learning_rate": 1.0}, "params": [0.0] * 9},
        [1.7e308] + [0] * 8,
    ),
    "a decayed gradient": ({"optimizer": {**MOMENTUM, "weight_decay": 1.0}, "params": [HUGE, 1.0]}, [HUGE, 0.0]),
    "a penalty": (
        {"optimizer": MOMENTUM, "params": [HUGE, 1.0], "transforms": [{"name": "l2", "strength": 10.0}]},
        [1.0, 1.0],
    ),
    "a norm that clips": (
        {"optimizer": MOMENTUM, "transforms": [{"name": "clip_by_global_norm", "max_norm": 1.0}]},
        [HUGE, HUGE],
    ),
    "by name": ({"optimizer": ADAM, "params": NAMED}, {"w": [[0.0, 0.0], [1e200, 0.0]]}),
}
FINE = {"the update's norm"}


class TestOverflow:
    @pytest.mark.parametrize("name", OVERFLOWS)
    @pytest.mark.parametrize("policy", ["reject", "skip", "zero"])
    def test_is_refused_and_changes_nothing(self, service: Service, name: str, policy: str) -> None:
        body, gradients = OVERFLOWS[name]
        create(service, non_finite=policy, **body)
        before = contents(service.store), memory(service)
        response = step(service, gradients, 1)
        if name in FINE:
            assert response.status_code == 200
            return
        assert response.status_code == 422, response.text
        assert all(pointer.startswith("/gradients") for pointer in pointers(response.json()))
        assert (contents(service.store), memory(service)) == before
        harmless = {"w": None} if isinstance(gradients, dict) else [0.0] * 2
        if name not in ("a penalty", "a decayed gradient"):  # there the parameters overflow by themselves
            assert took(service, harmless, 1)["replayed"] is False

    def test_points_at_the_element(self, service: Service) -> None:
        create(service, params=NAMED)
        refused = problem(step(service, {"w": [[0.0, 0.0], [1e200, 0.0]]}, 1), 422, "non-finite")
        assert pointers(refused) == ["/gradients/w/1/0"]

    def test_that_builds_up_is_refused_when_it_comes(self, service: Service) -> None:
        create(service, optimizer={"name": "sgd", "learning_rate": 1.0}, params=0.0)
        for n in range(1, 10):
            took(service, -1.9e307, n)
        before = contents(service.store), memory(service)
        problem(step(service, -1.9e307, 10), 422, "non-finite")
        assert (contents(service.store), memory(service)) == before
        assert took(service, 1.9e307, 10)["params"] == pytest.approx(8 * 1.9e307)


finite = st.floats(allow_nan=False, allow_infinity=False)
optimizers = st.sampled_from(
    [
        {"name": "sgd", "learning_rate": 1.0},
        MOMENTUM,
        ADAM,
        {"name": "adagrad"},
        {"name": "rmsprop"},
        {"name": "adamw", "weight_decay": 1e300},
        {"name": "sgd", "learning_rate": 1e308},
    ]
)
bodies = st.fixed_dictionaries(
    {
        "optimizer": optimizers,
        "dtype": st.sampled_from(["float64", "float32"]),
        "non_finite": st.sampled_from(["reject", "skip", "zero"]),
        "transforms": st.sampled_from(
            [[], [{"name": "clip_by_norm", "max_norm": 1.0}], [{"name": "l1", "strength": 1e308}]]
        ),
    }
)


def test_whatever_finite_numbers_come_the_state_stays_finite() -> None:
    """A step is taken with a finite outcome, or refused with nothing changed; never anything else."""
    with asyncio.Runner() as runner:
        service = Service(runner.run, Settings(store="memory"))
        try:

            @settings(max_examples=150)
            @given(
                bodies,
                st.lists(st.lists(finite | st.none(), min_size=2, max_size=2), min_size=1, max_size=4),
                st.data(),
            )
            def check(body: dict[str, Any], steps: list[list[float | None]], data: st.DataObject) -> None:
                start = data.draw(st.lists(finite, min_size=2, max_size=2))
                made = service.post("/v1/sessions", {**body, "params": start})
                if made.status_code != 201:
                    assert (made.status_code, body["dtype"]) == (422, "float32")
                    return
                id = made.json()["id"]
                for gradients in steps:
                    before = contents(service.store, id), memory(service, id)
                    response = step(service, gradients, id=id)
                    session = service.engine._live._held[id]
                    assert all(np.isfinite(array).all() for array in (session.state.params, *session.state.slots))
                    if response.status_code == 422:
                        assert response.json()["errors"]
                        assert (contents(service.store, id), memory(service, id)) == before
                    else:
                        assert response.status_code == 200, response.text
                        answer = response.json()
                        assert all(
                            map(math.isfinite, [*answer["params"], answer["update_norm"], answer["gradient_norm"]])
                        )

            check()
        finally:
            service.stop()
