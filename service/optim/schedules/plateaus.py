"""Schedules that follow the loss: they remember, where the others are functions of the step alone.

A loss counts once, in the step that brings it. Libraries show it once an epoch, so that a patience of so many epochs is
one of so many steps here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from service.errors import Invalid
from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.schedules.form import INITIAL, TINY, Form, Values

_FORMULA = Hyperparameter(
    "formula",
    "When it is enough: after more than `patience` bad values (torch), at exactly so many (optax), or at so many or "
    "more (Keras).",
    "choice",
    choices=("torch", "optax", "keras"),
)
_FACTOR = Hyperparameter("factor", "What the value is multiplied by.", low=0.0, below=1.0, schedulable=False)
_PATIENCE = Hyperparameter("patience", "How many values without improvement are borne.", "integer", low=0)
_MODE = Hyperparameter("mode", "Whether less or more is better.", "choice", choices=("min", "max"))
_RELATIVE = Hyperparameter(
    "relative_threshold", "The least improvement as a share of the best value.", low=0.0, schedulable=False
)
_ABSOLUTE = Hyperparameter("absolute_threshold", "The least improvement in itself.", low=0.0, schedulable=False)
_COOLDOWN = Hyperparameter("cooldown", "Values after a reduction that are not counted as bad.", "integer", low=0)
_MINIMUM = Hyperparameter("minimum", "The value is not reduced below this.", low=0.0, schedulable=False)
_SMALLEST = Hyperparameter("smallest_change", "A smaller reduction is not made.", low=0.0, schedulable=False)
_AVERAGED = Hyperparameter("average_over", "How many losses make one value, by their mean.", "integer", low=1)


class _Memory(NamedTuple):
    """What is remembered; every number is finite, so that a state can be checked."""

    value: float
    best: float = 0.0
    seen: float = 0.0  # whether there is a best
    bad: float = 0.0
    cooldown: float = 0.0
    gathered: float = 0.0
    mean: float = 0.0


def _start(a: Values) -> tuple[float, ...]:
    return _Memory(a["initial"])


def _observe(a: Values, memory: tuple[float, ...], loss: float) -> tuple[float, ...]:
    m = _Memory(*memory)
    mean = (m.gathered * m.mean + loss) / (m.gathered + 1.0)
    if m.gathered + 1.0 < a["average_over"]:
        return m._replace(gathered=m.gathered + 1.0, mean=mean)
    m = m._replace(gathered=0.0, mean=0.0)
    better = _better(a, mean, m)
    new = m._replace(best=mean, seen=1.0) if better else m
    return {"torch": _torch, "optax": _optax, "keras": _keras}[a["formula"]](a, new, better)


def _better(a: Values, mean: float, m: _Memory) -> bool:
    """Whether the value is better than the best by more than the thresholds."""
    relative, absolute = a["relative_threshold"], a["absolute_threshold"]
    least = a["mode"] == "min"
    if a["formula"] == "keras":  # which takes the first, and puts the threshold on the other side
        return not m.seen or (mean + absolute < m.best if least else mean - absolute > m.best)
    best = m.best if m.seen else math.inf if least else -math.inf
    if least:
        return bool(mean < best * (1.0 - relative) - absolute)
    return bool(mean > best * (1.0 + relative) + absolute)


def _torch(a: Values, m: _Memory, better: bool) -> _Memory:
    bad, cooldown = 0.0 if better else m.bad + 1.0, m.cooldown
    if cooldown > 0.0:
        bad, cooldown = 0.0, cooldown - 1.0
    value = m.value
    if bad > a["patience"]:
        reduced = max(value * a["factor"], a["minimum"])
        value = reduced if value - reduced > a["smallest_change"] else value
        bad, cooldown = 0.0, float(a["cooldown"])
    return m._replace(value=value, bad=bad, cooldown=cooldown)


def _optax(a: Values, m: _Memory, better: bool) -> _Memory:
    if m.cooldown > 0.0:
        return m._replace(bad=0.0, cooldown=m.cooldown - 1.0)
    bad = 0.0 if better else m.bad + 1.0
    enough = bad == a["patience"]
    value = max(m.value * a["factor"] if enough else m.value, a["minimum"])
    return m._replace(value=value, bad=0.0 if enough else bad, cooldown=float(a["cooldown"]) if enough else 0.0)


def _keras(a: Values, m: _Memory, better: bool) -> _Memory:
    bad, cooldown, value = m.bad, m.cooldown, m.value
    if cooldown > 0.0:
        bad, cooldown = 0.0, cooldown - 1.0
    if better:
        return m._replace(bad=0.0, cooldown=cooldown)
    if cooldown > 0.0:
        return m._replace(bad=bad, cooldown=cooldown)
    bad += 1.0
    # Keras holds its min_lr in single precision where it compares
    if bad >= a["patience"] and np.float32(value) > np.float32(a["minimum"]):
        value, bad, cooldown = max(value * a["factor"], a["minimum"]), 0.0, float(a["cooldown"])
    return m._replace(value=value, bad=bad, cooldown=cooldown)


def _read(a: Values, memory: tuple[float, ...]) -> float:
    low, high = min(_ends(a)), max(_ends(a))
    return max(low, min(high, _Memory(*memory).value))


def _ends(a: Values) -> Iterable[float]:
    first, last = a["initial"], a["minimum"]
    if a["formula"] != "optax" and last > first:  # which raises the value to it
        return [first]
    if last == 0.0 < first and a["factor"] > 0.0:
        return [first, TINY]
    return [first, last]


def _check(a: Values) -> None:
    if a["initial"] < 0.0:
        raise Invalid("initial must not be negative: a negative value is not reduced by a factor.", pointer="/initial")


def _value(a: Values, n: int) -> float:
    return float(a["initial"])


_DECLARED: dict[Hyperparameter, Any] = {
    INITIAL: REQUIRED,
    _FORMULA: "torch",
    _MODE: "min",
    _FACTOR: 0.1,
    _PATIENCE: 10,
    _RELATIVE: 1e-4,
    _ABSOLUTE: 0.0,
    _COOLDOWN: 0,
    _MINIMUM: 0.0,
    _SMALLEST: 1e-8,
    _AVERAGED: 1,
}

FORMS = (
    Form(
        "reduce_on_plateau",
        "Reduce on plateau",
        r"\alpha \leftarrow \max(\gamma \alpha, \alpha_{\min}) \quad \mathrm{after\ too\ many\ bad\ steps}",
        "Follows the loss, which each step must bring: where it no longer improves, the value is multiplied by a "
        "factor. With optax' formula a loss counts for its own step, with torch's and Keras' from the next step on. "
        "smallest_change is torch's alone.",
        "torch.optim.lr_scheduler.ReduceLROnPlateau, optax.contrib.reduce_on_plateau, "
        "keras.callbacks.ReduceLROnPlateau",
        _DECLARED,
        _value,
        _ends,
        _check,
        start=_start,
        observe=_observe,
        read=_read,
        at_once=lambda a: bool(a["formula"] == "optax"),
    ),
)
