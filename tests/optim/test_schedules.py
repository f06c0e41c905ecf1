"""Schedules: their closed forms, their ranges and what they refuse."""

from __future__ import annotations

import math
from math import cos, pi, sqrt
from typing import Any

import pytest

from service.errors import Invalid
from service.optim.hyperparameters import LARGEST_WHOLE, REQUIRED, Hyperparameter
from service.optim.rule import BETA1, LEARNING_RATE
from service.optim.schedules import FAR, SCHEDULES, Form, describe, parse

EVERY = pytest.mark.parametrize("form", SCHEDULES.values(), ids=SCHEDULES)
POSITIVE = Hyperparameter("limit", "Above zero.", above=0.0)

# name -> (arguments, the closed form written anew)
CLOSED: dict[str, tuple[dict[str, Any], Any]] = {
    "constant": ({"value": 0.3}, lambda n: 0.3),
    "step": ({"initial": 0.5, "step_size": 3, "gamma": 0.5}, lambda n: 0.5 * 0.5 ** (n // 3)),
    "multi_step": (
        {"initial": 0.5, "milestones": [2, 5, 5], "gamma": 0.1},
        lambda n: 0.5 * (1.0 if n < 2 else 0.1 if n < 5 else 0.1**3),
    ),
    "exponential": ({"initial": 0.5, "gamma": 0.9}, lambda n: 0.5 * 0.9**n),
    "inverse_square_root": ({"initial": 0.5}, lambda n: 0.5 / sqrt(n + 1)),
    "cosine_annealing": (
        {"initial": 0.5, "t_max": 10, "minimum": 0.1},
        lambda n: 0.1 + 0.4 * (1.0 + cos(pi * n / 10)) / 2.0,
    ),
    "linear": ({"initial": 0.5, "final": 0.1, "steps": 8}, lambda n: 0.5 - 0.4 * min(n, 8) / 8),
    "linear_warmup": (
        {"peak": 0.5, "warmup_steps": 4, "start_factor": 0.2},
        lambda n: 0.5 * (0.2 + 0.8 * min(n, 4) / 4),
    ),
}


def least(form: Form) -> dict[str, Any]:
    """The specification with no more than what must be given."""
    values: dict[str, Any] = {"integer": 5, "integers": [2, 4]}
    return {"schedule": form.name} | {
        a.name: values.get(a.kind, 0.5) for a in form.arguments if form.defaults[a.name] is REQUIRED
    }


def refused(specification: Any, target: Hyperparameter = LEARNING_RATE) -> tuple[str, str]:
    """The detail and the pointer of the refusal."""
    with pytest.raises(Invalid) as caught:
        parse(specification, target, "/lr")
    assert caught.value.places
    return caught.value.detail, caught.value.places[0].pointer


def test_the_closed_forms_are_of_every_schedule() -> None:
    assert set(CLOSED) == set(SCHEDULES)


@EVERY
def test_closed_form(form: Form) -> None:
    arguments, wanted = CLOSED[form.name]
    schedule = parse({"schedule": form.name, **arguments}, LEARNING_RATE)
    for n in range(25):
        assert schedule(n) == pytest.approx(wanted(n), rel=1e-14)
        assert type(schedule(n)) is float


@EVERY
def test_any_step_can_be_computed_without_the_ones_before(form: Form) -> None:
    schedule = parse(least(form), LEARNING_RATE)
    forwards = [schedule(n) for n in range(20)]
    assert forwards == [schedule(n) for n in reversed(range(20))][::-1]
    assert math.isfinite(schedule(FAR))


@EVERY
def test_the_resolved_form_reads_back_as_itself(form: Form) -> None:
    schedule = parse(least(form), LEARNING_RATE)
    resolved = schedule.as_json()
    assert resolved["schedule"] == form.name
    assert set(resolved) == {"schedule", *form.defaults}
    assert parse(resolved, LEARNING_RATE) == schedule
    assert parse(resolved, LEARNING_RATE).as_json() == resolved


@EVERY
def test_what_must_be_given_is_asked_for(form: Form) -> None:
    for missing in least(form).keys() - {"schedule"}:
        given = {k: v for k, v in least(form).items() if k != missing}
        detail, pointer = refused(given)
        assert f"The schedule {form.name} needs {missing}" in detail
        assert pointer == f"/lr/{missing}"


@EVERY
def test_arguments_are_checked_where_they_stand(form: Form) -> None:
    for argument in form.arguments:
        detail, pointer = refused({**least(form), argument.name: "x"})
        assert argument.name in detail
        assert pointer == f"/lr/{argument.name}"
    detail, pointer = refused({**least(form), "gama": 1})
    assert "no argument 'gama'" in detail
    assert "Accepted: " in detail
    assert pointer == "/lr/gama"


@EVERY
def test_a_value_out_of_the_hyperparameters_range_is_refused(form: Form) -> None:
    ends = [a.name for a in form.arguments if a.name in ("value", "initial", "final", "peak", "minimum")]
    assert ends
    for name in ends:
        for bad in (1.0, -0.1):
            detail, pointer = refused({**least(form), name: bad}, BETA1)
            assert "beta1 must be a finite number, at least 0 and below 1" in detail
            assert pointer == f"/lr/{name}"


@pytest.mark.parametrize(
    "growing",
    [
        {"schedule": "exponential", "initial": 0.5, "gamma": 1.0001},
        {"schedule": "step", "initial": 0.5, "step_size": 1000, "gamma": 2.0},
        {"schedule": "multi_step", "initial": 0.5, "milestones": [5], "gamma": 2.0},
        {"schedule": "multi_step", "initial": 0.5, "milestones": [0, 0, 0], "gamma": 1e300},
    ],
)
def test_what_grows_out_of_the_range_is_refused_before_it_starts(growing: dict[str, Any]) -> None:
    detail, pointer = refused(growing, BETA1)
    assert "beta1" in detail
    assert pointer == "/lr"
    assert refused({**growing, "initial": -1.0})[1] == "/lr/initial"


def test_a_growing_learning_rate_ends_in_infinity_not_in_an_exception() -> None:
    schedule = parse({"schedule": "exponential", "initial": 0.1, "gamma": 1.05}, LEARNING_RATE)
    assert schedule(100) == pytest.approx(0.1 * 1.05**100)
    assert schedule(FAR) == math.inf
    assert parse({"schedule": "exponential", "initial": 0.0, "gamma": 1.05}, LEARNING_RATE)(FAR) == 0.0


def test_a_multiplied_milestone_counts_as_often_as_it_stands() -> None:
    schedule = parse({"schedule": "multi_step", "initial": 1.0, "milestones": [3, 3]}, LEARNING_RATE)
    assert [schedule(n) for n in (2, 3)] == [1.0, pytest.approx(0.01)]


def test_milestones_must_ascend() -> None:
    detail, pointer = refused({"schedule": "multi_step", "initial": 1.0, "milestones": [5, 3]})
    assert (detail, pointer) == ("milestones must ascend.", "/lr/milestones")
    assert refused({"schedule": "multi_step", "initial": 1.0, "milestones": [5, "x"]})[1] == "/lr/milestones/1"


def test_the_first_step_of_a_warmup_must_be_in_range_too() -> None:
    warmup = {"schedule": "linear_warmup", "peak": 1.0, "warmup_steps": 10}
    assert parse(warmup, LEARNING_RATE)(0) == 0.0
    assert refused(warmup, POSITIVE) == ("limit must be a finite number, above 0.", "/lr")
    assert parse({**warmup, "start_factor": 0.1}, POSITIVE)(0) == 0.1


@pytest.mark.parametrize("name", ["cosine_annealing", "linear"])
@pytest.mark.parametrize("ends", [(1 - 2**-53, 0.1), (0.1, 0.7), (1 - 2**-53, 1 - 2**-53), (0.3, 2**-60)])
def test_rounding_never_leaves_the_ends(name: str, ends: tuple[float, float]) -> None:
    keys = {"cosine_annealing": ("initial", "minimum", "t_max"), "linear": ("initial", "final", "steps")}[name]
    schedule = parse({"schedule": name, **dict(zip(keys, (*ends, 7), strict=True))}, BETA1)
    assert all(min(ends) <= schedule(n) <= max(ends) for n in range(40))


def test_the_ends_are_met_exactly() -> None:
    assert parse({"schedule": "linear", "initial": 0.3, "final": 0.1, "steps": 7}, LEARNING_RATE)(7) == 0.1
    warmup = parse({"schedule": "linear_warmup", "peak": 0.3, "warmup_steps": 7, "start_factor": 0.7}, LEARNING_RATE)
    assert [warmup(7), warmup(FAR)] == [0.3, 0.3]
    cosine = parse({"schedule": "cosine_annealing", "initial": 0.3, "t_max": 9, "minimum": 0.2}, LEARNING_RATE)
    assert [cosine(0), cosine(9), cosine(18)] == [0.3, 0.2, 0.3]


def test_the_longest_schedules_can_be_had() -> None:
    for name, argument in (("cosine_annealing", "t_max"), ("linear", "steps"), ("step", "step_size")):
        schedule = parse({"schedule": name, "initial": 0.5, argument: LARGEST_WHOLE}, LEARNING_RATE)
        assert schedule(10) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("specification", "words", "pointer"),
    [
        ({}, 'learning_rate must be a number or {"schedule": name, ...}.', "/lr"),
        ({"schedule": None}, "must be a number or", "/lr"),
        ({"schedule": ["step"]}, "must be a number or", "/lr"),
        ({"schedule": "cosine_anneal"}, "did you mean 'cosine_annealing'?", "/lr/schedule"),
        ({"schedule": "nothing like it"}, "Accepted: constant, step,", "/lr/schedule"),
        ({"schedule": "constant", "value": {"schedule": "constant", "value": 1}}, "a finite number", "/lr/value"),
        ({"schedule": "constant", "value": 10**400}, "a finite number", "/lr/value"),
        ({"schedule": "step", "initial": 1, "step_size": 10**400}, "at most", "/lr/step_size"),
    ],
)
def test_refusals(specification: Any, words: str, pointer: str) -> None:
    detail, place = refused(specification)
    assert words in detail
    assert place == pointer


@EVERY
def test_every_schedule_is_described(form: Form) -> None:
    entry = describe(form)
    assert entry["name"] == form.name
    assert all(entry[key] for key in ("title", "summary", "equation"))
    assert set(entry["arguments"]) == set(form.defaults) == {a.name for a in form.arguments}
    assert set(entry["arguments"]) == set(entry["defaults"]) | set(entry["required"])
    assert bool(form.source) == ("source" in entry)
