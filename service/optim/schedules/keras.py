"""Keras' schedules, which count the steps that are taken (Keras' own counter has micro-steps of accumulation too)."""

from __future__ import annotations

from typing import Any

from service.optim.hyperparameters import LARGEST_WHOLE, REQUIRED, Hyperparameter
from service.optim.schedules.form import Levels, Values
from service.optim.schedules.spelling import Convert, Spelling, Unused, level, maybe, number, whole

PREFIX = "keras.optimizers.schedules."
PLATEAU = "keras.callbacks.ReduceLROnPlateau"

_INITIAL = level("initial_learning_rate", "The first value.")
_STEPS = whole("decay_steps", "Steps of the decay.")
_NAME = Unused("name", "A label.")
_STAIRCASE = Hyperparameter("staircase", "Change once every decay_steps.", "boolean")
_ALPHA = number("alpha", "The last value as a share of the highest.")


def _exponential(a: Values) -> dict[str, Any]:
    rates = {"gamma": a["decay_rate"], "steps": a["decay_steps"], "staircase": a["staircase"]}
    return {"schedule": "exponential_decay", "initial": a["initial_learning_rate"], **rates}


def _inverse_time(a: Values) -> dict[str, Any]:
    rates = {"decay_rate": a["decay_rate"], "steps": a["decay_steps"], "staircase": a["staircase"]}
    return {"schedule": "inverse_time", "initial": a["initial_learning_rate"], **rates}


def _piecewise(a: Values) -> dict[str, Any]:
    pieces = {"values": a["values"], "boundaries": a["boundaries"]}
    return {"schedule": "piecewise_constant", **pieces, "change": "after"}


def _polynomial(a: Values) -> dict[str, Any]:
    ends = {"initial": a["initial_learning_rate"], "final": a["end_learning_rate"]}
    return {"schedule": "polynomial", **ends, "steps": a["decay_steps"], "power": a["power"], "cycle": a["cycle"]}


def _cosine(a: Values) -> dict[str, Any]:
    first, top, steps = a["initial_learning_rate"], a["warmup_target"], a["decay_steps"]
    if top is None:
        floor = {"minimum": a["alpha"] * first, "after_end": "stay"}
        return {"schedule": "cosine_annealing", "initial": first, "t_max": steps, **floor}
    return {
        "schedule": "cosine_with_warmup",
        "initial": first,
        "peak": top,
        "warmup_steps": a["warmup_steps"],
        "steps": steps,
        "minimum": a["alpha"] * top,
        "steps_include_warmup": False,
    }


def _restarts(a: Values) -> dict[str, Any]:
    first = a["initial_learning_rate"]
    periods = {"first_steps": a["first_decay_steps"], "t_mult": a["t_mul"], "height_mult": a["m_mul"]}
    return {"schedule": "cosine_warm_restarts", "initial": first, **periods, "minimum": a["alpha"] * first}


def _plateau(a: Values) -> dict[str, Any]:
    return {
        "schedule": "reduce_on_plateau",
        "formula": "keras",
        **{name: a[name] for name in ("initial", "factor", "patience", "cooldown")},
        "mode": "max" if a["mode"] == "max" else "min",
        "relative_threshold": 0.0,
        "absolute_threshold": a["min_delta"],
        "minimum": a["min_lr"],
        "smallest_change": 0.0,
    }


def _spell(
    name: str, forms: str, declared: dict[Hyperparameter, Any], convert: Convert, **names: str
) -> dict[str, Spelling]:
    return {PREFIX + name: Spelling(PREFIX + name, tuple(forms.split()), {**declared, _NAME: None}, convert, names)}


SPELLINGS: dict[str, Spelling] = (
    _spell(
        "ExponentialDecay",
        "exponential_decay",
        {
            _INITIAL: REQUIRED,
            _STEPS: REQUIRED,
            number("decay_rate", "What it is multiplied by over decay_steps.", low=0.0): REQUIRED,
            _STAIRCASE: False,
        },
        _exponential,
    )
    | _spell(
        "InverseTimeDecay",
        "inverse_time",
        {
            _INITIAL: REQUIRED,
            _STEPS: REQUIRED,
            number("decay_rate", "What the divisor grows by over decay_steps.", low=0.0): REQUIRED,
            _STAIRCASE: False,
        },
        _inverse_time,
    )
    | _spell(
        "PiecewiseConstantDecay",
        "piecewise_constant",
        {
            Hyperparameter("boundaries", "Counts of steps, ascending.", "integers", low=0): REQUIRED,
            Levels("values", "The values, one more than boundaries."): REQUIRED,
        },
        _piecewise,
    )
    | _spell(
        "PolynomialDecay",
        "polynomial",
        {
            _INITIAL: REQUIRED,
            _STEPS: REQUIRED,
            level("end_learning_rate", "The last value."): 1e-4,
            number("power", "The power.", above=0.0): 1.0,
            Hyperparameter("cycle", "Start again at the end, over a longer stretch.", "boolean"): False,
        },
        _polynomial,
    )
    | _spell(
        "CosineDecay",
        "cosine_annealing cosine_with_warmup",
        {
            _INITIAL: REQUIRED,
            whole("decay_steps", "Steps of the decay, without the warm-up."): REQUIRED,
            _ALPHA: 0.0,
            maybe(level("warmup_target", "The highest value; null for no warm-up.")): None,
            whole("warmup_steps", "The steps of the warm-up.", 0): 0,
        },
        _cosine,
        minimum="alpha",
        peak="warmup_target",
    )
    | _spell(
        "CosineDecayRestarts",
        "cosine_warm_restarts",
        {
            _INITIAL: REQUIRED,
            whole("first_decay_steps", "The steps of the first period."): REQUIRED,
            number("t_mul", "How many times longer each period is.", low=1.0, high=float(LARGEST_WHOLE)): 2.0,
            number("m_mul", "How many times higher each period starts.", low=0.0): 1.0,
            _ALPHA: 0.0,
        },
        _restarts,
        minimum="alpha",
    )
    | {
        PLATEAU: Spelling(
            PLATEAU,
            ("reduce_on_plateau",),
            {
                level("initial", "The learning rate that the callback would take from the optimizer."): REQUIRED,
                Unused("monitor", "What follows is the loss that each step brings."): "val_loss",
                number("factor", "What the rate is multiplied by.", low=0.0, below=1.0): 0.1,
                whole("patience", "Values without improvement that are borne.", 0): 10,
                Unused("verbose", "What Keras prints."): 0,
                Hyperparameter(
                    "mode", "Whether less or more is better; of a loss, less.", "choice", choices=("auto", "min", "max")
                ): "auto",
                number("min_delta", "The least improvement.", low=0.0): 1e-4,
                whole("cooldown", "Values after a reduction that are not counted as bad.", 0): 0,
                number("min_lr", "The rate is not reduced below this.", low=0.0): 0.0,
            },
            _plateau,
            {"minimum": "min_lr", "absolute_threshold": "min_delta"},
        )
    }
)

REFUSED = {
    f"{PREFIX}LearningRateSchedule": "It is the base class; name one of its schedules.",
}
