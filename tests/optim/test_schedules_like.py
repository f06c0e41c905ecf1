"""Schedules in the libraries' own words: what they come to, what they refuse and where they point; and fuzz."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import Invalid
from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.rule import BETA1, LEARNING_RATE
from service.optim.schedules.catalogue import REFUSED, SCHEDULES, SPELLINGS, describe, parse
from service.optim.schedules.form import FAR, Level, Levels, Parts, Schedule
from service.optim.schedules.spelling import Null, Only, Scales, Unused
from service.optim.specification import resolve
from tests.golden.schedules.cases import CASES

TORCH = "torch.optim.lr_scheduler."
KERAS = "keras.optimizers.schedules."
STEP_LR: dict[str, Any] = {"like": f"{TORCH}StepLR", "initial": 0.1, "step_size": 30}
COSINE = {"like": "optax.cosine_decay_schedule", "init_value": 0.1, "decay_steps": 100}

# one accepted specification of each, so that a single change is the one thing wrong with it
ACCEPTED = {case.like: case.specification for case in CASES}


def refused(specification: Any, target: Hyperparameter = LEARNING_RATE) -> tuple[str, str]:
    """The detail and the pointer of the refusal."""
    with pytest.raises(Invalid) as caught:
        parse(specification, target)
    return caught.value.detail, caught.value.places[0].pointer


def exists(pointer: str, value: Any) -> bool:
    """Whether a pointer leads into the value, or to something that is missing from it."""
    *path, last = [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")]
    for token in [*path[1:], last] if pointer else []:
        if isinstance(value, list) and token.isdecimal() and int(token) < len(value):
            value = value[int(token)]
        elif isinstance(value, dict) and (token in value or token is last):
            value = value.get(token)
        else:
            return False
    return True


def test_what_the_libraries_call_it() -> None:
    assert parse(STEP_LR, LEARNING_RATE).as_json() == {
        "schedule": "step",
        "initial": 0.1,
        "step_size": 30,
        "gamma": 0.1,
    }
    assert parse(COSINE, LEARNING_RATE).as_json()["after_end"] == "stay"
    within = {**COSINE, "like": "optax.schedules.cosine_decay_schedule"}
    assert parse(within, LEARNING_RATE) == parse(COSINE, LEARNING_RATE)


def test_a_like_inside_a_like() -> None:
    spec = resolve({"like": "torch.optim.Adam", "lr": STEP_LR})
    assert spec.as_json()["learning_rate"] == parse(STEP_LR, LEARNING_RATE).as_json()
    with pytest.raises(Invalid) as caught:
        resolve({"like": "torch.optim.Adam", "lr": {**STEP_LR, "step_size": 0}})
    assert caught.value.places[0].pointer == "/lr/step_size"


def test_a_scheduler_inside_another_has_its_initial() -> None:
    bare = {"like": f"{TORCH}StepLR", "step_size": 3}
    outer = {"like": f"{TORCH}SequentialLR", "initial": 0.5, "milestones": [5], "schedulers": [bare, bare]}
    assert parse(outer, LEARNING_RATE)(6) == 0.5
    ours = {**outer, "schedulers": [bare, {"schedule": "constant", "value": 0.25}]}
    assert parse(ours, LEARNING_RATE)(6) == 0.25
    del outer["initial"]
    assert refused(outer)[1] == "/schedulers/0/initial"
    outer["schedulers"] = [{**bare, "initial": 0.1}, {**bare, "initial": 0.2}]
    assert parse(outer, LEARNING_RATE)(6) == 0.2


@pytest.mark.parametrize("path", REFUSED)
def test_what_cannot_be_had_says_why(path: str) -> None:
    detail, pointer = refused({"like": path, "lr_lambda": 1})
    assert detail == f"{path} cannot be had as a schedule. {REFUSED[path]}"
    assert pointer == "/like"


@pytest.mark.parametrize(
    ("specification", "words", "pointer"),
    [
        ({"like": 3}, "a class path", "/like"),
        ({"like": f"{TORCH}StepLr"}, f"did you mean '{TORCH}StepLR'?", "/like"),
        ({**STEP_LR, "schedule": "step"}, "not both", "/schedule"),
        ({**STEP_LR, "stepsize": 3}, "did you mean 'step_size'? Accepted: initial, step_size,", "/stepsize"),
        ({**STEP_LR, "initial": -1}, "learning_rate must be", "/initial"),
        ({**STEP_LR, "last_epoch": 4}, "can only be -1 here", "/last_epoch"),
        ({"like": f"{TORCH}StepLR", "step_size": 3}, "needs initial: The learning rate that torch's", "/initial"),
        ({"like": f"{TORCH}ConstantLR", "initial": 1, "factor": 1.5}, "factor must be", "/factor"),
        ({"like": f"{TORCH}LinearLR", "initial": 1, "start_factor": 0}, "above 0", "/start_factor"),
        (
            {"like": f"{TORCH}CyclicLR", "base_lr": 0.1, "max_lr": 1, "cycle_momentum": True},
            "give momentum or beta1 a schedule of its own",
            "/cycle_momentum",
        ),
        ({"like": f"{TORCH}CyclicLR", "base_lr": 0.1, "max_lr": 1, "scale_fn": "x"}, "Python function", "/scale_fn"),
        ({"like": f"{TORCH}OneCycleLR", "max_lr": 1, "epochs": 4}, "Give total_steps", "/total_steps"),
        (
            {"like": f"{TORCH}ChainedScheduler", "initial": 1, "schedulers": [STEP_LR]},
            "share its initial",
            "/schedulers/0/initial",
        ),
        (
            {"like": f"{TORCH}ChainedScheduler", "initial": 1, "schedulers": [COSINE]},
            "Only schedulers that multiply",
            "/schedulers/0/like",
        ),
        ({**COSINE, "alpha": -1}, "learning_rate must be", "/alpha"),
        (
            {"like": "optax.exponential_decay", "init_value": 1, "transition_steps": 3, "decay_rate": 0},
            "decay_rate must be a finite number, above 0",
            "/decay_rate",
        ),
        (
            {
                "like": "optax.warmup_cosine_decay_schedule",
                "init_value": 0,
                "peak_value": 1,
                "warmup_steps": 5,
                "decay_steps": 5,
            },
            "steps must be more than",
            "/decay_steps",
        ),
        (
            {"like": "optax.piecewise_constant_schedule", "init_value": 1, "boundaries_and_scales": {"1.5": 2}},
            "a whole number",
            "/boundaries_and_scales/1.5",
        ),
        (
            {"like": "optax.piecewise_constant_schedule", "init_value": 1, "boundaries_and_scales": {"1": -2}},
            "at least 0",
            "/boundaries_and_scales/1",
        ),
        (
            {"like": "optax.sgdr_schedule", "cosine_kwargs": [{"decay_steps": 3}, {}]},
            "decay_steps must be",
            "/cosine_kwargs/1/decay_steps",
        ),
        (
            {"like": "optax.sgdr_schedule", "cosine_kwargs": [{"decay_steps": 3}, {"decay_steps": 3}]},
            "needs init_value",
            "/cosine_kwargs/0/init_value",
        ),
        (
            {"like": f"{KERAS}PiecewiseConstantDecay", "boundaries": [1, 2], "values": [1, 2]},
            "one fewer than values",
            "/boundaries",
        ),
        (
            {"like": f"{KERAS}CosineDecay", "initial_learning_rate": 0, "decay_steps": 5, "warmup_target": -1},
            "learning_rate must be",
            "/warmup_target",
        ),
    ],
)
def test_refusals_point_at_the_librarys_own_argument(specification: Any, words: str, pointer: str) -> None:
    detail, place = refused(specification)
    assert words in detail
    assert place == pointer


@pytest.mark.parametrize("path", SPELLINGS)
def test_every_argument_is_checked_where_it_stands(path: str) -> None:
    spelling = SPELLINGS[path]
    for argument, default in spelling.declared.items():
        assert argument.meaning.endswith(".")
        if isinstance(argument, Unused):
            parse({**ACCEPTED[path], argument.name: "anything"}, LEARNING_RATE)
            continue
        assert refused({**ACCEPTED[path], argument.name: {"x": "y"}})[1].startswith(f"/{argument.name}")
        if default is REQUIRED:
            detail, pointer = refused({k: v for k, v in ACCEPTED[path].items() if k != argument.name})
            assert detail.startswith(f"{path} needs {argument.name}: ")
            assert pointer == f"/{argument.name}"
        if isinstance(argument, Level):
            assert refused({**ACCEPTED[path], argument.name: -1.5}) == (
                "learning_rate must be a finite number, at least 0.",
                f"/{argument.name}",
            )


def test_the_catalogue_names_every_spelling() -> None:
    told = [spelling for form in SCHEDULES.values() for spelling in describe(form)["like"]]
    assert {spelling["like"] for spelling in told} == set(SPELLINGS)
    assert all(spelling["arguments"] == SPELLINGS[spelling["like"]].arguments for spelling in told)
    assert not set(REFUSED) & set(SPELLINGS)


# What torch 2.13.0, optax 0.2.8 and Keras 3.15.1 have: torch.optim.lr_scheduler's __all__ and SWALR, the functions of
# optax.schedules, and the classes of keras.optimizers.schedules.
LIBRARIES = {
    TORCH: "LambdaLR MultiplicativeLR StepLR MultiStepLR ConstantLR LinearLR ExponentialLR SequentialLR "
    "CosineAnnealingLR ChainedScheduler ReduceLROnPlateau CyclicLR CosineAnnealingWarmRestarts OneCycleLR PolynomialLR "
    "LRScheduler",
    "torch.optim.swa_utils.": "SWALR",
    "optax.": "constant_schedule cosine_decay_schedule cosine_onecycle_schedule exponential_decay inject_hyperparams "
    "inject_stateful_hyperparams join_schedules linear_onecycle_schedule linear_schedule piecewise_constant_schedule "
    "piecewise_interpolate_schedule polynomial_schedule sgdr_schedule warmup_constant_schedule "
    "warmup_cosine_decay_schedule warmup_exponential_decay_schedule",
    "optax.contrib.": "reduce_on_plateau",
    KERAS: "CosineDecay CosineDecayRestarts ExponentialDecay InverseTimeDecay LearningRateSchedule "
    "PiecewiseConstantDecay PolynomialDecay",
    "keras.callbacks.": "ReduceLROnPlateau",
}


def test_every_schedule_of_the_libraries_is_had_or_refused_with_a_reason() -> None:
    every = {prefix + name for prefix, names in LIBRARIES.items() for name in names.split()}
    assert set(SPELLINGS) | set(REFUSED) == every


# Nothing but Invalid

FUZZ = settings(derandomize=True, deadline=None, max_examples=300)
plain = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0, 3, 1e-8, 25.0])
odd = st.sampled_from([-1, 2, 5e-324, 1e308, -1e308, 1 - 2**-53, 1 + 2**-52, 2**53 - 1, 2**53, 10**400, math.inf])
counts = st.sampled_from([0, 1, 2, 3, 5, 9, 100, 10**6, 2**53 - 1])
words = st.sampled_from(sorted({*SCHEDULES, *SPELLINGS, *REFUSED, "at", "cos", "linear", "torch", ""}))
keys = st.sampled_from(
    sorted(
        {a.name for f in SCHEDULES.values() for a in f.arguments}
        | {a.name for s in SPELLINGS.values() for a in s.declared}
        | {"schedule", "like", "", "~/", "3"}
    )
)
anything = st.recursive(
    st.none() | st.booleans() | plain | odd | words | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=10,
)


def value_of(argument: Hyperparameter, inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Mostly what the argument takes."""
    likely: st.SearchStrategy[Any] = {
        "number": plain,
        "integer": counts,
        "integers": st.lists(counts, min_size=1, max_size=3).map(sorted),
        "boolean": st.booleans(),
        "choice": st.sampled_from(argument.choices or ("",)),
    }[argument.kind]
    if isinstance(argument, Levels):
        likely = st.lists(plain, min_size=2, max_size=4)
    elif isinstance(argument, Parts):
        likely = st.lists(inner, min_size=1, max_size=3)
    elif isinstance(argument, Scales):
        likely = st.dictionaries(counts.map(str), plain, max_size=3)
    elif isinstance(argument, Only | Null):
        likely = likely | st.none()
    return st.integers(0, 15).flatmap(lambda i: anything | odd if i == 0 else likely)


def one_of(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A form or a spelling with arguments; what it needs, and some of what it takes."""
    members = [("schedule", f.name, dict(f.declared)) for f in SCHEDULES.values()]
    members += [("like", s.path, dict(s.declared)) for s in SPELLINGS.values()]

    def drawn(member: tuple[str, str, dict[Hyperparameter, Any]]) -> st.SearchStrategy[Any]:
        key, name, declared = member
        values = {a.name: value_of(a, inner) for a in declared}
        needed = {a.name: values.pop(a.name) for a, default in declared.items() if default is REQUIRED}
        return st.fixed_dictionaries(needed, optional=values).map(lambda given: {**given, key: name})

    return st.sampled_from(members).flatmap(drawn)


specifications = one_of(one_of(one_of(st.just({"schedule": "constant", "value": 0.5}))))
targets = st.sampled_from([LEARNING_RATE, BETA1, Hyperparameter("limit", "Above.", above=0.0)])


def attempt(specification: Any, target: Hyperparameter) -> Schedule | Invalid:
    """What comes of it, which may be nothing else."""
    try:
        return parse(specification, target)
    except Invalid as error:
        return error


def parses_or_refuses(specification: Any, target: Hyperparameter) -> Schedule | None:
    """The schedule, if it is one: then every value is in the target's range, and it reads back as itself."""
    schedule = attempt(specification, target)
    if isinstance(schedule, Invalid):
        assert schedule.detail
        assert schedule.places
        assert all(exists(place.pointer, specification) for place in schedule.places), schedule.places
        return None
    resolved = json.loads(json.dumps(schedule.as_json(), allow_nan=False))
    assert parse(resolved, target) == schedule
    for n in (0, 1, 2, 3, 7, 10, 50, 101, 10**4, 10**6, 10**9, 2**53 - 1, FAR):
        value = schedule(n)
        raw = float(schedule.form.value(schedule.arguments, n))
        assert type(value) is float
        assert raw == pytest.approx(
            value, rel=1e-9, abs=1e-300 + 1e-9 * max(map(abs, schedule.range))
        )  # held by a rounding only
        assert target.low <= value <= target.high
        assert target.above < value
        assert value < target.below or value == target.below == math.inf
    return schedule


@FUZZ
@given(specifications, targets)
def test_any_schedule_parses_or_raises_invalid(specification: Any, target: Hyperparameter) -> None:
    parses_or_refuses(specification, target)


@FUZZ
@given(st.dictionaries(keys, anything, max_size=5), targets)
def test_any_object_at_all_parses_or_raises_invalid(specification: Any, target: Hyperparameter) -> None:
    parses_or_refuses(specification, target)
