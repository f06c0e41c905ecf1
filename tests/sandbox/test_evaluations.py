"""Optimizers that take several gradients to a step: searches, climbs, gathered gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.errors import Invalid
from service.functions.catalogue import get
from service.optim.optimizer import build
from service.optim.tensors import single
from service.sandbox import Run, plan, run

WOLFE = {"like": "torch.optim.LBFGS", "line_search_fn": "strong_wolfe"}
ZOOM = {"like": "optax.lbfgs"}
SAM = {"name": "sam", "optimizer": {"name": "sgd", "learning_rate": 1e-3}}
GATHERED = {"name": "sgd", "learning_rate": 1e-3, "transforms": [{"name": "accumulate", "steps": 3}]}
START = [-1.2, 1.0]


def only(optimizer: dict[str, Any], steps: int = 20, **more: Any) -> Run:
    return run(plan("rosenbrock", START, steps, [optimizer], **more))[0]


def by_hand(optimizer: dict[str, Any], steps: int) -> tuple[np.ndarray[Any, Any], int]:
    """The points after whole steps, and the evaluations that they took."""
    given = dict(optimizer)
    subject, function = build(given, single(2), given.pop("transforms", [])), get("rosenbrock")
    state, path, n = subject.init(np.array(START)), [np.array(START)], 0
    while len(path) <= steps:
        loss = float(function.value(state.params))
        state, _, committed = subject.step(state, function.gradient(state.params), (), loss)
        n += 1
        if committed:
            path.append(state.params)
    return np.array(path), n


@pytest.mark.parametrize("optimizer", [WOLFE, ZOOM, SAM, GATHERED], ids=["wolfe", "zoom", "sam", "gathered"])
def test_the_path_holds_the_points_after_whole_steps_and_counts_every_evaluation(optimizer: dict[str, Any]) -> None:
    done = only(optimizer)
    path, evaluations = by_hand(optimizer, 20)
    assert np.array_equal(done.params, path)
    assert (done.status, done.steps, done.evaluations) == ("completed", 20, evaluations)
    assert evaluations >= 40 or optimizer is WOLFE


def test_an_evaluation_is_a_step_where_none_is_asked_for_between() -> None:
    done = only({"name": "adam"}, 30, stop={"value": 24.1})
    assert done.evaluations == done.steps < 30


def test_a_search_reaches_the_minimum_in_a_few_steps() -> None:
    done = only(ZOOM, 60, stop={"gradient_norm": 1e-9})
    assert done.status == "converged"
    assert done.steps < 45
    assert done.best.value < 1e-18
    assert done.evaluations < 110


def test_a_stop_rule_looks_at_whole_steps_and_the_evaluations_end_with_it() -> None:
    whole = only(ZOOM, 40)
    stopped = only(ZOOM, 40, stop={"value": float(whole.values[12])})
    assert stopped.steps == 12
    assert stopped.evaluations < whole.evaluations
    assert only(ZOOM, 12).evaluations == stopped.evaluations


def test_the_budget_counts_what_a_step_may_take_at_most() -> None:
    for optimizer, most in ((WOLFE, 26), ({"name": "lbfgs"}, 20), (ZOOM, 21), (SAM, 2), (GATHERED, 3)):
        made = plan("rosenbrock", START, 10, [optimizer, {"name": "adam"}], max_evaluations=10 * most + 10)
        assert made.evaluations == 10 * most + 10
        with pytest.raises(Invalid, match="several to a step") as caught:
            plan("rosenbrock", START, 10, [optimizer, {"name": "adam"}], max_evaluations=10 * most + 9)
        assert caught.value.places[0].pointer == "/steps"
    assert plan("rosenbrock", START, 10, [SAM], gradient="central_difference").evaluations == 100


def test_gradients_that_are_left_out_spend_the_budget_and_the_run_ends() -> None:
    never = {"name": "sgd", "transforms": [{"name": "skip_large_updates", "max_squared_norm": 1e-9}]}
    done = only(never, 25)
    assert (done.status, done.steps, done.params.tolist()) == ("completed", 0, [START])


def test_noise_is_one_sequence_over_evaluations() -> None:
    noisy = {"gradient": {"kind": "noisy", "sigma": 0.5, "seed": 3}}
    done = only(SAM, 40, **noisy)
    random = np.random.Generator(np.random.PCG64(3))
    subject, function = build(SAM, single(2)), get("rosenbrock")
    state = subject.init(np.array(START))
    for _ in range(80):
        noise = 0.5 * random.standard_normal(2)
        state = subject.step(state, function.gradient(state.params) + noise).state
    assert state.params.tobytes() == done.params[-1].tobytes()


def test_a_divergence_within_a_step_ends_the_record_before_it() -> None:
    wild = {"name": "sam", "rho": 1e200, "optimizer": {"name": "sgd", "learning_rate": 1.0}}
    done = only(wild, 20)
    assert (done.status, done.diverged_at) == ("diverged", done.steps + 1)
    assert np.isfinite(done.params).all()
