"""How runs end, what is recorded of them, and what holds of all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.functions import catalogue
from service.functions.base import Function
from service.sandbox import Run, plan, run

SPHERE = catalogue.get("sphere")


def only(function: str, start: Any, steps: int, optimizer: dict[str, Any], **more: Any) -> Run:
    """The run of one optimizer."""
    (done,) = run(plan(function, start, steps, [optimizer], **more))
    return done


# Endings


def test_completed() -> None:
    done = only("sphere", [3.0, 4.0], 3, {"name": "sgd", "learning_rate": 0.25})
    assert (done.status, done.steps, done.stopped_by, done.diverged_at) == ("completed", 3, None, None)
    assert done.params.tolist() == [[3, 4], [1.5, 2], [0.75, 1], [0.375, 0.5]]


@pytest.mark.parametrize(
    ("stop", "steps"),
    [
        ({"gradient_norm": 2.5}, 2),  # 10, 5, 2.5
        ({"value": 6.25}, 1),  # 25, 6.25
        ({"distance": 1.25}, 2),  # 5, 2.5, 1.25
        ({"update_norm": 1.25}, 2),  # none, 2.5, 1.25
        ({"gradient_norm": 10}, 0),
        ({"value": 30, "gradient_norm": 20}, 0),
    ],
    ids=str,
)
@pytest.mark.parametrize("record_every", [1, 4])
def test_stop_rules(stop: dict[str, float], steps: int, record_every: int) -> None:
    optimizer = {"name": "sgd", "learning_rate": 0.25}
    done = only("sphere", [3.0, 4.0], 50, optimizer, stop=stop, record_every=record_every)
    assert (done.status, done.steps) == ("converged", steps)
    assert done.stopped_by == ("gradient_norm" if len(stop) == 2 else next(iter(stop)))
    assert done.recorded_steps[-1] == steps
    assert done.params[-1].tolist() == [3 / 2**steps, 4 / 2**steps]


def test_a_stop_rule_that_holds_late_is_found_in_its_block() -> None:
    whole = only("rosenbrock", [-1.2, 1.0], 3000, {"name": "adam", "learning_rate": 0.01})
    below = int(np.argmax(whole.values <= 0.05))
    assert below > 1000
    done = only("rosenbrock", [-1.2, 1.0], 3000, {"name": "adam", "learning_rate": 0.01}, stop={"value": 0.05})
    assert (done.status, done.steps) == ("converged", below)
    assert np.array_equal(done.params, whole.params[: below + 1])
    assert done.best.step == below


@pytest.mark.parametrize(("rate", "d"), [(1.5, 2), (1.5, 9), (100.0, 2)])
def test_divergence_ends_the_record_at_the_last_finite_point(rate: float, d: int) -> None:
    start = np.ones(d)
    done = only("sphere", start, 5000, {"name": "sgd", "learning_rate": rate})
    assert done.status == "diverged"
    assert done.diverged_at == done.steps + 1 == done.recorded_steps[-1] + 1
    assert all(np.isfinite(part).all() for part in (done.params, done.values, done.gradient_norms))
    with np.errstate(all="ignore"):
        beyond = SPHERE.value(done.params[-1] - rate * 2 * done.params[-1])
    assert not np.isfinite(beyond)
    assert done.best == (0, d, done.best.params)


def test_a_state_that_overflows_is_a_divergence() -> None:
    done = only("sphere", [5e153, 0.0], 50, {"name": "sgd", "learning_rate": 0.01})
    assert done.status == "completed"
    done = only("sphere", [1.2e154, 0.0], 50, {"name": "adam"})  # the square of the gradient is past the range
    assert (done.status, done.diverged_at, done.steps) == ("diverged", 1, 0)


def test_a_transform_that_cannot_is_a_divergence() -> None:
    clip = {"name": "sgd", "transforms": [{"name": "clip_by_global_norm", "max_norm": 1.0}]}
    done = only("sphere", [3.0] * 9, 50, clip, gradient={"kind": "noisy", "sigma": 1e308})
    assert done.status == "diverged"


def test_a_run_goes_on_after_another_one_diverged() -> None:
    bad, good = run(plan("sphere", [3.0, 4.0], 2000, [{"name": "sgd", "learning_rate": 3}, {"name": "adam"}]))
    assert (bad.status, good.status) == ("diverged", "completed")


# What is recorded


@pytest.mark.parametrize(
    ("every", "steps"), [(1, 5), (2, 5), (2, 6), (5, 5), (7, 5), (100, 1030), (512, 1030), (1030, 1030)]
)
def test_every_kth_step_and_the_last(every: int, steps: int) -> None:
    done = only("sphere", [3.0, 4.0], steps, {"name": "adam"}, record_every=every)
    assert done.recorded_steps.tolist() == sorted({*range(0, steps + 1, every), steps})
    whole = only("sphere", [3.0, 4.0], steps, {"name": "adam"})
    assert np.array_equal(done.params, whole.params[done.recorded_steps])
    assert np.array_equal(done.values, whole.values[done.recorded_steps])
    assert done.best.step == whole.best.step


def test_the_best_is_over_all_steps() -> None:
    done = only("steep_bowl", [-2.0, 2.0], 400, {"name": "momentum", "learning_rate": 0.02}, record_every=400)
    whole = only("steep_bowl", [-2.0, 2.0], 400, {"name": "momentum", "learning_rate": 0.02})
    assert done.recorded_steps.tolist() == [0, 400]
    assert done.best.step == int(np.argmin(whole.values))
    assert done.best.value == whole.values.min() < whole.values[-1]
    assert np.array_equal(done.best.params, whole.params[done.best.step])
    flat = only("easom", [-25.0, -25.0], 9, {"name": "sgd"})  # the gradient is 0
    assert flat.best.step == 0


@given(
    name=st.sampled_from(["sgd", "momentum", "adagrad", "rmsprop", "adam"]),
    rate=st.floats(1e-4, 2.0),
    start=st.lists(st.floats(-3, 3), min_size=1, max_size=8),
    steps=st.integers(1, 120),
    every=st.integers(1, 130),
    tolerance=st.floats(0.0, 5.0),
)
def test_what_holds_of_every_run(
    name: str, rate: float, start: list[float], steps: int, every: int, tolerance: float
) -> None:
    spec = {"name": name, "learning_rate": rate}
    whole = only("styblinski_tang", start, steps, spec, stop={"gradient_norm": tolerance})
    done = only("styblinski_tang", start, steps, spec, stop={"gradient_norm": tolerance}, record_every=every)
    assert whole.params[0].tolist() == start
    assert (done.status, done.steps, done.best.step) == (whole.status, whole.steps, whole.best.step)
    kept = sorted({*range(0, whole.steps + 1, every), whole.steps})
    assert done.recorded_steps.tolist() == kept
    assert np.array_equal(done.params, whole.params[kept])
    assert np.isfinite(whole.params).all()
    assert np.isfinite(whole.values).all()
    assert np.isfinite(whole.gradient_norms).all()
    assert whole.best.value == whole.values.min()
    assert (whole.gradient_norms[:-1] > tolerance).all()
    assert (whole.status == "converged") == (whole.gradient_norms[-1] <= tolerance)
    assert (whole.status == "completed") <= (whole.steps == steps)


@pytest.mark.parametrize("function", catalogue.FUNCTIONS.values(), ids=catalogue.FUNCTIONS)
def test_every_function_runs_from_its_own_start(function: Function) -> None:
    made = plan(function.name, None, 100, [{"name": "adam"}, {"name": "sgd"}])
    adam, sgd = run(made)
    assert adam.params[0].tolist() == sgd.params[0].tolist() == list(function.start_at(made.start.size))
    assert adam.status == "completed"
    assert adam.best.value < adam.values[0]


def test_the_same_request_gives_the_same_bits() -> None:
    def once() -> list[Any]:
        made = plan(
            "ackley", None, 300, [{"name": "adam"}, {"name": "rmsprop"}], gradient={"kind": "noisy", "sigma": 1}
        )
        return [(r.params.tobytes(), r.values.tobytes(), r.gradient_norms.tobytes()) for r in run(made)]

    assert once() == once()
