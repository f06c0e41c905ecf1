"""optax's schedules."""

from __future__ import annotations

import math
from typing import Any

from service.errors import Invalid
from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.schedules.form import Parts, Values
from service.optim.schedules.spelling import Convert, Scales, Spelling, level, maybe, number, whole

_INIT = level("init_value", "The first value.")
_PEAK = level("peak_value", "The highest value.")
_END = level("end_value", "The last value.")
_WARMUP = whole("warmup_steps", "The steps of the warm-up.")
_SOME_WARMUP = whole("warmup_steps", "The steps of the warm-up.", 0)
_STEPS = whole("transition_steps", "Steps from the one value to the other.")
_BEGIN = whole("transition_begin", "Steps before it begins to change.", 0)
_POWER = number("power", "The power.", above=0.0)
_EXPONENT = number("exponent", "What the cosine is raised to.", above=0.0)
_SCALES = Scales("boundaries_and_scales", "What the value is multiplied by, and from which step on.")
_START = number("pct_start", "The share of the steps until the peak.", low=0.0, high=1.0)
_DIV = number("div_factor", "The peak over the first value.", above=0.0)
_FINAL_DIV = number("final_div_factor", "The first value over the last.", above=0.0)
_RATE = {
    number("decay_rate", "What it is multiplied by over transition_steps.", above=0.0): REQUIRED,
    _BEGIN: 0,
    Hyperparameter("staircase", "Change once every transition_steps.", "boolean"): False,
    maybe(number("end_value", "Where it stops, or null.")): None,
}
_TYPE = Hyperparameter("interpolate_type", "The way from value to value.", "choice", choices=("linear", "cosine"))


def _constant(a: Values) -> dict[str, Any]:
    return {"schedule": "constant", "value": a["value"]}


def _linear(a: Values) -> dict[str, Any]:
    ends = {"initial": a["init_value"], "final": a["end_value"]}
    return {"schedule": "linear", **ends, "steps": a["transition_steps"], "begin": a["transition_begin"]}


def _polynomial(a: Values) -> dict[str, Any]:
    return {**_linear(a), "schedule": "polynomial", "power": a["power"]}


def _exponential(a: Values, initial: str = "init_value") -> dict[str, Any]:
    end = a["end_value"]
    if end == 0.0 and a["decay_rate"] >= 1.0:
        raise Invalid("end_value must not be 0 where the value grows: it is an upper bound.", pointer="/end_value")
    return {
        "schedule": "exponential_decay",
        "initial": a[initial],
        "gamma": a["decay_rate"],
        "steps": a["transition_steps"],
        "begin": a["transition_begin"],
        "staircase": a["staircase"],
        "limit": end or 0.0,
    }


def _cosine(a: Values) -> dict[str, Any]:
    way = {"t_max": a["decay_steps"], "exponent": a["exponent"], "after_end": "stay"}
    return {
        "schedule": "cosine_annealing",
        "initial": a["init_value"],
        "minimum": a["alpha"] * a["init_value"],
        **way,
    }


def _scaled(a: Values) -> tuple[list[int], list[float]]:
    values = [a["init_value"]]
    for _, scale in a["boundaries_and_scales"]:
        values.append(values[-1] * scale)
    if not math.isfinite(values[-1]):
        raise Invalid("These scales multiply to more than a number can hold.", pointer="/boundaries_and_scales")
    return [boundary for boundary, _ in a["boundaries_and_scales"]], values


def _piecewise_constant(a: Values) -> dict[str, Any]:
    boundaries, values = _scaled(a)
    if not boundaries:
        return {"schedule": "constant", "value": a["init_value"]}
    return {"schedule": "piecewise_constant", "values": values, "boundaries": boundaries}


def _piecewise_interpolate(a: Values) -> dict[str, Any]:
    boundaries, values = _scaled(a)
    if not boundaries:
        return {"schedule": "constant", "value": a["init_value"]}
    shape = a["interpolate_type"]
    return {"schedule": "piecewise_interpolate", "values": values, "boundaries": boundaries, "shape": shape}


def _one_cycle(a: Values, **more: Any) -> dict[str, Any]:
    shares = {name: a[name] for name in ("pct_start", "pct_final", "div_factor", "final_div_factor") if name in a}
    ends = {"peak": a["peak_value"], "steps": a["transition_steps"]}
    return {"schedule": "one_cycle", **ends, **shares, **more, "formula": "optax"}


def _warmup(a: Values) -> dict[str, Any]:
    ends = {"initial": a["init_value"], "final": a["peak_value"]}
    return {"schedule": "linear", **ends, "steps": a["warmup_steps"]}


def _warmup_cosine(a: Values) -> dict[str, Any]:
    return {
        "schedule": "cosine_with_warmup",
        "initial": a["init_value"],
        "peak": a["peak_value"],
        "warmup_steps": a["warmup_steps"],
        "steps": a["decay_steps"],
        "minimum": a["end_value"] if a["peak_value"] else 0.0,  # optax takes the one as a share of the other
        "exponent": a["exponent"],
    }


def _warmup_exponential(a: Values) -> dict[str, Any]:
    if not a["warmup_steps"]:
        return _exponential(a, "peak_value")
    parts = [_warmup(a), _exponential(a, "peak_value")]
    return {"schedule": "sequential", "schedules": parts, "milestones": [a["warmup_steps"]]}


def _sgdr(a: Values) -> dict[str, Any]:
    count = whole("decay_steps", "All steps of one cycle.")
    milestones: list[int] = []
    for i, cycle in enumerate(a["cosine_kwargs"]):
        steps = count.check(cycle.get("decay_steps"), f"/cosine_kwargs/{i}/decay_steps")
        milestones.append(steps + (milestones[-1] if milestones else 0))
        if "like" in cycle or "schedule" in cycle:
            raise Invalid("A cycle has the arguments of one schedule only.", pointer=f"/cosine_kwargs/{i}")
    parts = [{**cycle, "like": "optax.warmup_cosine_decay_schedule"} for cycle in a["cosine_kwargs"]]
    if len(parts) == 1:
        return parts[0]
    return {"schedule": "sequential", "schedules": parts, "milestones": milestones[:-1]}


def _join(a: Values) -> dict[str, Any]:
    return {"schedule": "sequential", "schedules": a["schedules"], "milestones": a["boundaries"]}


def _plateau(a: Values) -> dict[str, Any]:
    if a["rtol"] == a["atol"] == 0.0:
        raise Invalid("At least one of rtol and atol must be above 0.", pointer="/rtol")
    return {
        "schedule": "reduce_on_plateau",
        "formula": "optax",
        **{name: a[name] for name in ("initial", "factor", "patience", "cooldown")},
        "relative_threshold": a["rtol"],
        "absolute_threshold": a["atol"],
        "average_over": a["accumulation_size"],
        "minimum": a["min_scale"] * a["initial"],
        "smallest_change": 0.0,
    }


def _spell(
    name: str, forms: str, declared: dict[Hyperparameter, Any], convert: Convert, **names: str
) -> dict[str, Spelling]:
    path = f"optax.{name}"
    return {path: Spelling(path, tuple(forms.split()), declared, convert, names)}


_SIMPLE = (
    _spell("constant_schedule", "constant", {level("value", "The value."): REQUIRED}, _constant)
    | _spell("linear_schedule", "linear", {_INIT: REQUIRED, _END: REQUIRED, _STEPS: REQUIRED, _BEGIN: 0}, _linear)
    | _spell(
        "polynomial_schedule",
        "polynomial",
        {_INIT: REQUIRED, _END: REQUIRED, _POWER: REQUIRED, _STEPS: REQUIRED, _BEGIN: 0},
        _polynomial,
    )
    | _spell("exponential_decay", "exponential_decay", {_INIT: REQUIRED, _STEPS: REQUIRED, **_RATE}, _exponential)
    | _spell(
        "cosine_decay_schedule",
        "cosine_annealing",
        {
            _INIT: REQUIRED,
            whole("decay_steps", "Steps from the top to the bottom."): REQUIRED,
            number("alpha", "The last value as a share of the first."): 0.0,
            _EXPONENT: 1.0,
        },
        _cosine,
        minimum="alpha",
    )
    | _spell(
        "piecewise_constant_schedule",
        "piecewise_constant constant",
        {_INIT: REQUIRED, _SCALES: None},
        _piecewise_constant,
        values="boundaries_and_scales",
    )
    | _spell(
        "piecewise_interpolate_schedule",
        "piecewise_interpolate constant",
        {_TYPE: REQUIRED, _INIT: REQUIRED, _SCALES: None},
        _piecewise_interpolate,
        values="boundaries_and_scales",
    )
)
_CYCLES = _spell(
    "linear_onecycle_schedule",
    "one_cycle",
    {
        whole("transition_steps", "All steps."): REQUIRED,
        _PEAK: REQUIRED,
        _START: 0.3,
        number("pct_final", "The share of the steps until the last phase.", low=0.0, high=1.0): 0.85,
        _DIV: 25.0,
        _FINAL_DIV: 1e4,
    },
    lambda a: _one_cycle(a, shape="linear", three_phase=True),
    steps="transition_steps",
) | _spell(
    "cosine_onecycle_schedule",
    "one_cycle",
    {
        whole("transition_steps", "All steps."): REQUIRED,
        _PEAK: REQUIRED,
        _START: 0.3,
        _DIV: 25.0,
        _FINAL_DIV: 1e4,
    },
    _one_cycle,
    steps="transition_steps",
)
_WARMUPS = (
    _spell("warmup_constant_schedule", "linear", {_INIT: REQUIRED, _PEAK: REQUIRED, _WARMUP: REQUIRED}, _warmup)
    | _spell(
        "warmup_cosine_decay_schedule",
        "cosine_with_warmup",
        {
            _INIT: REQUIRED,
            _PEAK: REQUIRED,
            _SOME_WARMUP: REQUIRED,
            whole("decay_steps", "All steps, the warm-up among them."): REQUIRED,
            _END: 0.0,
            _EXPONENT: 1.0,
        },
        _warmup_cosine,
        steps="decay_steps",
    )
    | _spell(
        "warmup_exponential_decay_schedule",
        "sequential exponential_decay",
        {_INIT: REQUIRED, _PEAK: REQUIRED, _SOME_WARMUP: REQUIRED, _STEPS: REQUIRED, **_RATE},
        _warmup_exponential,
    )
)
_COMPOSED = _spell(
    "sgdr_schedule",
    "sequential cosine_with_warmup",
    {Parts("cosine_kwargs", "The arguments of each cycle."): REQUIRED},
    _sgdr,
    schedules="cosine_kwargs",
) | _spell(
    "join_schedules",
    "sequential",
    {
        Parts("schedules", "The schedules, one more than boundaries."): REQUIRED,
        Hyperparameter("boundaries", "Where each but the first takes over.", "integers", low=0): REQUIRED,
    },
    _join,
    milestones="boundaries",
)
_PLATEAU = _spell(
    "contrib.reduce_on_plateau",
    "reduce_on_plateau",
    {
        level("initial", "The learning rate that is scaled."): REQUIRED,
        number("factor", "What the scale is multiplied by.", above=0.0, below=1.0): 0.1,
        whole("patience", "Values without improvement that are borne.", 0): 10,
        number("rtol", "The least improvement as a share of the best value.", low=0.0, high=1.0): 1e-4,
        number("atol", "The least improvement in itself.", low=0.0): 0.0,
        whole("cooldown", "Values after a reduction that are not counted as bad.", 0): 0,
        whole("accumulation_size", "How many values make one, by their mean."): 1,
        number("min_scale", "The scale is not reduced below this.", low=0.0): 0.0,
    },
    _plateau,
    minimum="min_scale",
    average_over="accumulation_size",
    relative_threshold="rtol",
    absolute_threshold="atol",
)
SPELLINGS: dict[str, Spelling] = _SIMPLE | _CYCLES | _WARMUPS | _COMPOSED | _PLATEAU

_WRAPS = "It is no schedule but a wrapper; here any number may be a schedule as it is."
REFUSED = {
    "optax.inject_hyperparams": _WRAPS,
    "optax.inject_stateful_hyperparams": _WRAPS,
}
