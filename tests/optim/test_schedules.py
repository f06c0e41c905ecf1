"""Schedules: their closed forms, their ranges and what they refuse."""

from __future__ import annotations

import json
import math
from math import cos, pi, sqrt
from typing import Any

import pytest

from service.errors import Invalid
from service.optim.hyperparameters import LARGEST_WHOLE, REQUIRED, Hyperparameter
from service.optim.rule import BETA1, LEARNING_RATE
from service.optim.schedules.catalogue import MAX_DEPTH, MAX_PARTS, SCHEDULES, describe, parse
from service.optim.schedules.form import FAR, TINY, Form, Level, Levels, Parts

EVERY = pytest.mark.parametrize("form", SCHEDULES.values(), ids=SCHEDULES)
POSITIVE = Hyperparameter("limit", "Above zero.", above=0.0)

FALLING = {"schedule": "exponential", "initial": 0.5, "gamma": 0.9}
RISING = {"schedule": "linear_warmup", "peak": 0.5, "warmup_steps": 4}


def restarts(n: int) -> float:
    """Periods of 3, 6, 12, ... steps, each half as high."""
    length, height = 3, 1.0
    while n >= length:
        n, length, height = n - length, 2 * length, height / 2
    return 0.1 + 0.4 * height * (1.0 + cos(pi * n / length)) / 2.0


# name -> (arguments, the closed form written anew)
CLOSED: dict[str, tuple[dict[str, Any], Any]] = {
    "constant": ({"value": 0.3}, lambda n: 0.3),
    "step": ({"initial": 0.5, "step_size": 3, "gamma": 0.5}, lambda n: 0.5 * 0.5 ** (n // 3)),
    "multi_step": (
        {"initial": 0.5, "milestones": [2, 5, 5], "gamma": 0.1},
        lambda n: 0.5 * (1.0 if n < 2 else 0.1 if n < 5 else 0.1**3),
    ),
    "exponential": ({"initial": 0.5, "gamma": 0.9}, lambda n: 0.5 * 0.9**n),
    "exponential_decay": (
        {"initial": 0.5, "gamma": 0.5, "steps": 4, "begin": 3, "limit": 0.05},
        lambda n: max(0.05, 0.5 * 0.5 ** (max(n - 3, 0) / 4)),
    ),
    "inverse_time": ({"initial": 0.5, "decay_rate": 2.0, "steps": 4}, lambda n: 0.5 / (1 + 2 * n / 4)),
    "inverse_square_root": ({"initial": 0.5}, lambda n: 0.5 / sqrt(n + 1)),
    "noam": (
        {"model_size": 64, "warmup_steps": 9, "factor": 2.0},
        lambda n: 2 / 8 * ((n + 1) / 27 if n + 1 < 9 else 1 / sqrt(n + 1)),
    ),
    "cosine_annealing": (
        {"initial": 0.5, "t_max": 10, "minimum": 0.1},
        lambda n: 0.1 + 0.4 * (1.0 + cos(pi * n / 10)) / 2.0,
    ),
    "cosine_warm_restarts": (
        {"initial": 0.5, "first_steps": 3, "t_mult": 2, "height_mult": 0.5, "minimum": 0.1},
        restarts,
    ),
    "cyclic": (
        {"initial": 0.1, "peak": 0.5, "steps_up": 2, "steps_down": 4, "mode": "triangular2"},
        lambda n: 0.1 + 0.4 * (0, 1 / 2, 1, 3 / 4, 1 / 2, 1 / 4)[n % 6] / 2 ** (n // 6),
    ),
    "one_cycle": (
        {"peak": 0.5, "steps": 11, "pct_start": 3 / 11, "div_factor": 5, "final_div_factor": 10, "shape": "linear"},
        lambda n: 0.1 + 0.4 * n / 2 if n < 2 else 0.5 - 0.49 * min(n - 2, 8) / 8,
    ),
    "linear": ({"initial": 0.5, "final": 0.1, "steps": 8}, lambda n: 0.5 - 0.4 * min(n, 8) / 8),
    "polynomial": (
        {"initial": 0.5, "final": 0.1, "steps": 8, "power": 2.0, "begin": 2},
        lambda n: 0.1 + 0.4 * (1 - min(max(n - 2, 0), 8) / 8) ** 2,
    ),
    "rex": ({"initial": 0.5, "final": 0.1, "steps": 8}, lambda n: 0.1 + 0.4 * (8 - min(n, 8)) / (8 - min(n, 8) / 2)),
    "linear_warmup": (
        {"peak": 0.5, "warmup_steps": 4, "start_factor": 0.2},
        lambda n: 0.5 * (0.2 + 0.8 * min(n, 4) / 4),
    ),
    "linear_with_warmup": (
        {"peak": 0.5, "warmup_steps": 4, "steps": 12},
        lambda n: 0.5 * n / 4 if n < 4 else 0.5 * max(12 - n, 0) / 8,
    ),
    "cosine_with_warmup": (
        {"peak": 0.5, "warmup_steps": 4, "steps": 12},
        lambda n: 0.5 * n / 4 if n < 4 else 0.25 * (1 + cos(pi * min(n - 4, 8) / 8)),
    ),
    "warmup_stable_decay": (
        {"peak": 0.5, "warmup_steps": 4, "stable_steps": 3, "decay_steps": 9, "final": 0.1},
        lambda n: 0.5 * n / 4 if n < 4 else 0.5 - 0.4 * sqrt(min(max(n - 7, 0), 9)) / 3,
    ),
    "piecewise_constant": (
        {"values": [0.5, 0.1, 0.3], "boundaries": [2, 5]},
        lambda n: 0.5 if n < 2 else 0.1 if n < 5 else 0.3,
    ),
    "piecewise_interpolate": (
        {"values": [0.5, 0.1, 0.3], "boundaries": [2, 6]},
        lambda n: 0.5 - 0.2 * n if n < 2 else 0.1 + 0.05 * min(n - 2, 4),
    ),
    "sequential": (
        {"schedules": [RISING, FALLING], "milestones": [6]},
        lambda n: 0.5 * min(n, 4) / 4 if n < 6 else 0.5 * 0.9 ** (n - 6),
    ),
    "chained": ({"schedules": [RISING, FALLING]}, lambda n: 0.25 * min(n, 4) / 4 * 0.9**n),
    "reduce_on_plateau": ({"initial": 0.3, "patience": 2}, lambda n: 0.3),  # until a loss is shown
}


def least(form: Form) -> dict[str, Any]:
    """The specification with no more than what must be given."""

    def one(argument: Hyperparameter) -> Any:
        if isinstance(argument, Parts):
            return [{"schedule": "constant", "value": 0.5}] * 3
        if isinstance(argument, Levels):
            return [0.5, 0.25, 0.125]
        return {"integer": 9 if argument.name == "steps" else 5, "integers": [2, 4]}.get(argument.kind, 0.5)

    required = [a for a in form.arguments if form.defaults[a.name] is REQUIRED]
    return {"schedule": form.name} | {a.name: one(a) for a in required}


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
    for name in [a.name for a in form.arguments if isinstance(a, Level)]:
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
        ({}, 'learning_rate must be a number or {"schedule": name, ...} or {"like": class path, ...}.', "/lr"),
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
    assert json.loads(json.dumps(entry)) == entry


@EVERY
def test_the_ends_hold_every_value(form: Form) -> None:
    """What is held at the ends is rounding only."""
    schedule = parse({"schedule": form.name, **CLOSED[form.name][0]}, LEARNING_RATE)
    low, high = schedule.range
    for n in [*range(60), *(10**k for k in range(2, 16)), FAR]:
        raw = float(form.value(schedule.arguments, n))
        assert low - 1e-15 <= raw <= high + 1e-15
        assert low <= schedule(n) <= high


def test_transformers_first_rates() -> None:
    """d = 512, w = 4000: what the paper's equation gives."""
    noam = parse({"schedule": "noam", "model_size": 512}, LEARNING_RATE)
    assert noam(0) == pytest.approx(1.7469281074217107e-07, rel=1e-14)
    assert noam(3999) == pytest.approx(6.987712429686843e-04, rel=1e-14)
    assert noam(15999) == pytest.approx(noam(3999) / 2, rel=1e-14)


def test_rex_halfway_is_two_thirds() -> None:
    rex = parse({"schedule": "rex", "initial": 0.3, "steps": 100}, LEARNING_RATE)
    assert [rex(0), rex(50), rex(100), rex(FAR)] == [0.3, pytest.approx(0.2, rel=1e-15), 0.0, 0.0]


@pytest.mark.parametrize(
    ("cooldown", "quarter"),
    [("linear", 0.75), ("cosine", 0.5 + sqrt(2) / 4), ("one_minus_sqrt", 0.5), ("one_minus_square", 15 / 16)],
)
def test_cooldowns(cooldown: str, quarter: float) -> None:
    wsd = {"schedule": "warmup_stable_decay", "peak": 1.0, "warmup_steps": 10, "stable_steps": 80, "decay_steps": 20}
    schedule = parse({**wsd, "cooldown": cooldown}, LEARNING_RATE)
    assert [schedule(n) for n in (0, 5, 10, 90, 110, 111)] == [0.0, 0.5, 1.0, 1.0, 0.0, 0.0]
    assert schedule(95) == pytest.approx(quarter, rel=1e-15)


def test_named_options_for_what_libraries_do_differently() -> None:
    def values(counts: list[int], **specification: Any) -> list[float]:
        schedule = parse(specification, LEARNING_RATE)
        return [pytest.approx(schedule(n)) for n in counts]

    pieces = {"schedule": "piecewise_constant", "values": [1.0, 0.5], "boundaries": [3]}
    assert values([2, 3, 4], **pieces, change="at") == [1.0, 0.5, 0.5]
    assert values([2, 3, 4], **pieces, change="after") == [1.0, 1.0, 0.5]
    cosine = {"schedule": "cosine_annealing", "initial": 1.0, "t_max": 4}
    assert values([4, 6, 8], **cosine, after_end="rise") == [0.0, 0.5, 1.0]
    assert values([4, 6, 8], **cosine, after_end="stay") == [0.0, 0.0, 0.0]
    warm = {"schedule": "cosine_with_warmup", "peak": 1.0, "warmup_steps": 2, "steps": 6}
    assert values([2, 4, 6], **warm, steps_include_warmup=True) == [1.0, 0.5, 0.0]
    assert values([2, 5, 8], **warm, steps_include_warmup=False) == [1.0, 0.5, 0.0]
    cycle = {"schedule": "one_cycle", "peak": 1.0, "steps": 20, "pct_start": 0.25, "final_div_factor": 2.0}
    assert values([0, 4, 19, 20], **cycle, formula="torch") == [0.04, 1.0, 0.02, 0.02]
    assert values([0, 5, 20], **cycle, formula="optax") == [0.04, 1.0, 0.02]
    stairs = {"schedule": "exponential_decay", "initial": 1.0, "gamma": 0.25, "steps": 2}
    assert values([0, 1, 2], **stairs, staircase=True) == [1.0, 1.0, 0.25]
    assert values([0, 1, 2], **stairs, staircase=False) == [1.0, 0.5, 0.25]


@pytest.mark.parametrize("t_mult", [1.0, 1 + 2**-52, 1.0001, 1.5, 2, 3, 10, LARGEST_WHOLE])
def test_restarts_are_found_however_far(t_mult: float) -> None:
    """At the first step of each period the value is the highest, in exact arithmetic where the periods are whole."""
    schedule = parse(
        {"schedule": "cosine_warm_restarts", "initial": 1.0, "first_steps": 3, "t_mult": t_mult}, LEARNING_RATE
    )
    begins, length = 0, 3
    while t_mult == int(t_mult) and begins < FAR and begins < 3000 * length:
        assert schedule(begins) == 1.0
        assert begins == 0 or schedule(begins - 1) < 0.5
        begins, length = begins + length, length * int(t_mult)
    for n in [10**k for k in range(16)]:
        assert 0.0 <= schedule(n) <= 1.0


def test_a_product_may_leave_and_come_back() -> None:
    """A factor is no value of the hyperparameter; the product is."""
    tenfold = {"schedule": "constant", "value": 10.0}
    small = {"schedule": "constant", "value": 0.05}
    assert parse({"schedule": "chained", "schedules": [small, tenfold]}, BETA1)(3) == 0.5
    assert refused({"schedule": "chained", "schedules": [tenfold, tenfold]}, BETA1)[1] == "/lr"
    assert refused({"schedule": "sequential", "schedules": [small, tenfold], "milestones": [1]}, BETA1) == (
        "beta1 must be a finite number, at least 0 and below 1.",
        "/lr/schedules/1/value",
    )


def test_what_only_approaches_zero_never_reaches_it() -> None:
    for specification in (FALLING, {"schedule": "chained", "schedules": [FALLING, FALLING]}):
        assert parse(specification, POSITIVE)(FAR) == TINY
    assert parse({**FALLING, "gamma": 0.0}, LEARNING_RATE)(1) == 0.0
    assert refused({**FALLING, "gamma": 0.0}, POSITIVE)[1] == "/lr"


def test_a_power_may_overflow_where_the_value_does_not() -> None:
    growing = parse({"schedule": "exponential", "initial": 1e-300, "gamma": 10.0}, LEARNING_RATE)
    assert growing(310) == pytest.approx(1e10)
    falling = parse({"schedule": "exponential", "initial": 1e300, "gamma": 0.1}, LEARNING_RATE)
    assert falling(330) == pytest.approx(1e-30)


def test_nesting_is_bounded() -> None:
    def nested(depth: int) -> dict[str, Any]:
        return FALLING if depth == 1 else {"schedule": "chained", "schedules": [nested(depth - 1)]}

    assert parse(nested(MAX_DEPTH), LEARNING_RATE)(0) == 0.5
    detail, pointer = refused(nested(MAX_DEPTH + 1))
    assert f"{MAX_DEPTH} deep" in detail
    assert pointer == "/lr" + "/schedules/0" * MAX_DEPTH
    parse({"schedule": "chained", "schedules": [RISING] * (MAX_PARTS - 1)}, LEARNING_RATE)
    assert refused({"schedule": "chained", "schedules": [RISING] * MAX_PARTS})[1] == f"/lr/schedules/{MAX_PARTS - 1}"


@pytest.mark.parametrize(
    ("specification", "words", "pointer"),
    [
        (
            {"schedule": "sequential", "schedules": [RISING], "milestones": [1]},
            "one fewer than schedules",
            "/milestones",
        ),
        (
            {"schedule": "sequential", "schedules": [RISING] * 3, "milestones": [5, 1]},
            "milestones must ascend",
            "/milestones",
        ),
        ({"schedule": "sequential", "schedules": [RISING, 3], "milestones": [1]}, "a list of schedules", "/schedules"),
        ({"schedule": "sequential", "schedules": [RISING, {}], "milestones": [1]}, "must be a number", "/schedules/1"),
        ({"schedule": "chained", "schedules": []}, "a list of schedules", "/schedules"),
        (
            {"schedule": "chained", "schedules": [FALLING, {**FALLING, "gama": 1}]},
            "did you mean 'gamma'?",
            "/schedules/1/gama",
        ),
        (
            {"schedule": "piecewise_constant", "values": [1, 2, 3], "boundaries": [1]},
            "one fewer than values",
            "/boundaries",
        ),
        ({"schedule": "piecewise_constant", "values": [1, 2], "boundaries": []}, "at least one", "/boundaries"),
        ({"schedule": "piecewise_constant", "values": [1, -2], "boundaries": [1]}, "at least 0", "/values/1"),
        (
            {"schedule": "piecewise_interpolate", "values": [1, 2, 3], "boundaries": [4, 4]},
            "must ascend",
            "/boundaries",
        ),
        (
            {"schedule": "linear_with_warmup", "peak": 1, "warmup_steps": 9, "steps": 9},
            "steps must be more than warmup_steps",
            "/steps",
        ),
        ({"schedule": "one_cycle", "peak": 1e10, "steps": 9, "div_factor": 1e-300}, "overflows", "/div_factor"),
        ({"schedule": "one_cycle", "peak": 1, "steps": 2, "pct_start": 1.0, "formula": "optax"}, "one step", "/steps"),
    ],
)
def test_refusals_of_arguments_that_do_not_agree(specification: Any, words: str, pointer: str) -> None:
    detail, place = refused(specification)
    assert words in detail
    assert place == f"/lr{pointer}"
