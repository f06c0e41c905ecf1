"""Averages of the parameters: kept beside them, and shown by `view=eval`."""

from __future__ import annotations

from typing import Any

import numpy as np

from service.errors import Invalid
from service.optim.hyperparameters import Hyperparameter
from service.optim.rule import PARAMETERS
from service.optim.tensors import Array
from service.optim.transforms.form import At, Transform, Values, scalar

_DECAY = Hyperparameter("decay", "Share of the old average that is kept.", low=0.0, high=1.0)
_FORMULA = Hyperparameter(
    "formula",
    "Whose formula: torch and Keras begin with a copy, optax with the parameters before the first step.",
    "choice",
    choices=("torch", "optax", "keras"),
)
_BEGIN = Hyperparameter("begin", "Updates before the average begins.", "integer", low=0)
_EVERY = Hyperparameter("every", "Updates from one average to the next.", "integer", low=1)
_OVERWRITE = Hyperparameter(
    "overwrite_every",
    "Put the average in the place of the parameters every so many updates; 0 for never.",
    "integer",
    low=0,
)
_GATHERED = Hyperparameter(
    "gradients_per_update",
    "How many gradients are gathered for an update. Keras averages after each of them, not only after the updates.",
    "integer",
    low=1,
)


def _mixed(average: Array, p: Array, share: float) -> Array:
    """torch's lerp: the way from the average to the parameters, counted from the nearer end."""
    if share < 0.5:
        near: Array = average + scalar(share, p) * (p - average)
        return near
    far: Array = p - (p - average) * scalar(1.0 - share, p)
    return far


def _due(at: At, a: Values) -> bool:
    return bool(at.n >= a["begin"] and (at.n - a["begin"]) % a["every"] == 0)


def _ema(new: Array, p: Array, at: At, a: Values, average: Array, count: Array) -> tuple[Array, Array, Array]:
    if not _due(at, a):
        return new, average, count
    n = int(count[0])
    updates = n // a["gradients_per_update"]
    if a["formula"] == "optax":
        mixed = scalar(1.0 - a["decay"], new) * new + scalar(1.0 - (1.0 - a["decay"]), new) * average
    elif updates == 0:
        mixed = new
    elif a["formula"] == "keras":
        mixed = scalar(a["decay"], new) * average + scalar(1.0 - a["decay"], new) * new
    else:
        mixed = _mixed(average, new, 1.0 - a["decay"])
    # what does not move is its own average, to the bit
    mixed = np.where(average == new, average, mixed)
    overwrites = a["overwrite_every"] and (updates + 1) % a["overwrite_every"] == 0
    return _overwritten(new, mixed, at) if overwrites else new, mixed, np.array([n + 1.0])


def _overwritten(new: Array, average: Array, at: At) -> Array:
    out = new.copy()
    for where in at.slices:
        out[where] = average[where]
    return out


def _swa(new: Array, p: Array, at: At, a: Values, average: Array, count: Array) -> tuple[Array, Array, Array]:
    if not _due(at, a):
        return new, average, count
    n = float(count[0])
    mixed = new.copy() if n == 0.0 else average + (new - average) / scalar(n + 1.0, new)
    return new, mixed, np.array([n + 1.0])


def _seen(a: Values, p: Array, average: Array, count: Array) -> Array:
    return average if count[0] else p


def _check(a: Values) -> None:
    if a["gradients_per_update"] > 1 and a["formula"] != "keras":
        raise Invalid("Only Keras averages between the updates.", pointer="/gradients_per_update")


_KEPT: dict[str, Any] = {
    "stage": "parameters",
    "slots": ("average", "count"),
    "shapes": {"count": ()},
    "initial": {"average": PARAMETERS},
    "view": _seen,
}

TRANSFORMS = (
    Transform(
        "parameter_ema",
        "Exponential moving average of the parameters",
        r"\bar\theta \leftarrow \beta \bar\theta + (1 - \beta) \theta",
        "Kept beside the parameters (Polyak and Juditsky 1992, doi:10.1137/0330046); read it with view=eval. torch's "
        "AveragedModel with get_ema_multi_avg_fn, Keras' use_ema, optax.incremental_update.",
        {_DECAY: 0.999, _FORMULA: "torch", _BEGIN: 0, _EVERY: 1, _OVERWRITE: 0, _GATHERED: 1},
        _ema,
        always=lambda a: bool(a["gradients_per_update"] > 1),
        check=_check,
        **_KEPT,
    ),
    Transform(
        "parameter_swa",
        "Stochastic weight averaging",
        r"\bar\theta \leftarrow \bar\theta + (\theta - \bar\theta) / (n + 1)",
        "The plain mean of the parameters after every so many updates, from a given one on (Izmailov et al. 2018, "
        "arXiv:1803.05407); read it with view=eval. torch's AveragedModel.",
        {_BEGIN: 0, _EVERY: 1},
        _swa,
        **_KEPT,
    ),
)
