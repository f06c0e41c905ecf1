"""Clipping: a gradient that is too large is made smaller, element by element, tensor by tensor, or as a whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from service.errors import Invalid
from service.optim.hyperparameters import Hyperparameter
from service.optim.rule import Shape
from service.optim.tensors import Array
from service.optim.transforms.form import (
    AXES,
    At,
    Transform,
    Values,
    distinct_axes,
    finite_norm,
    lacks_axis,
    not_infinite,
    required,
    scalar,
    unit_norms,
)


@dataclass(frozen=True)
class Order(Hyperparameter):
    """The order of a norm: a number above 0, or "inf"."""

    schedulable: bool = False

    def check(self, value: Any, pointer: str = "") -> float | str:
        if value == "inf":
            return "inf"
        order: float = Hyperparameter(self.name, self.meaning, above=0.0).check(value, pointer)
        return order

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"const": "inf"}], "description": self.meaning}


_MAX_NORM = Hyperparameter("max_norm", "The largest norm that is left as it is.", above=0.0)
_THRESHOLD = Hyperparameter("threshold", "The largest root mean square that is left as it is.", above=0.0)
_FORMULA = Hyperparameter("formula", "Whose formula.", "choice", choices=("torch", "optax", "keras"))
_ORDER = Order("order", 'Which norm: 2 is the Euclidean one, "inf" the largest absolute value. Only torch has others.')
_CLIPPING = Hyperparameter("clipping", "The largest ratio of a unit's gradient to its parameters.", above=0.0)
_EPSILON = Hyperparameter("epsilon", "The least norm that a unit's parameters count as.", low=0.0)

UNITS = {0: None, 1: None, 2: (0,), 3: (0,), 4: (0, 1, 2), 5: (0, 1, 2, 3)}  # the axes of a unit, by the number of axes
SMALLEST_NORM = 1e-6


def _clip_by_value(g: Array, p: Array, at: At, a: Values) -> Array:
    limit = scalar(a["limit"], g)
    return np.clip(g, -limit, limit)


def _clip_by_norm(g: Array, p: Array, at: At, a: Values) -> Array:
    out = g.copy()
    for where in at.slices:
        size = finite_norm(g, (where,))
        if size > a["max_norm"]:
            out[where] = g[where] * scalar(a["max_norm"] / size, g)
    return out


def _clip_by_global_norm(g: Array, p: Array, at: At, a: Values) -> Array:
    size = finite_norm(g, at.slices) if a["order"] == 2.0 else _norm_of_order(g, at.slices, float(a["order"]))
    if a["formula"] == "torch":
        factor = min(1.0, a["max_norm"] / (size + 1e-6))
    else:
        factor = 1.0 if size <= a["max_norm"] else a["max_norm"] / size
    clipped: Array = g * scalar(factor, g)
    return clipped


def _norm_of_order(g: Array, slices: Sequence[slice], order: float) -> float:
    """Any other norm; of orders but 1 and inf the last bit is that of the C library's power."""
    parts = [np.abs(g[where]).astype(np.float64) for where in slices if where.stop > where.start]
    largest = max((float(part.max()) for part in parts), default=0.0)
    if largest == 0.0 or math.isinf(order):
        return largest
    total = sum(float(np.add.reduce((part / largest) ** order)) for part in parts)
    return not_infinite(largest * total ** (1.0 / order))


def _check_order(a: Values) -> None:
    if a["order"] != 2.0 and a["formula"] != "torch":
        raise Invalid("Only torch clips by other norms than the Euclidean one.", pointer="/order")


def _clip_by_block_rms(g: Array, p: Array, at: At, a: Values) -> Array:
    out = g.copy()
    for where in at.slices:
        mean_square_root = finite_norm(g, (where,)) / math.sqrt(max(1, where.stop - where.start))
        if mean_square_root > a["threshold"]:
            out[where] = g[where] / scalar(mean_square_root / a["threshold"], g)
    return out


def _units(a: Values, shape: Shape) -> tuple[int, ...] | None:
    """The axes that a unit has, as optax infers them from the shape where they are not given."""
    if a["axes"] is not None:
        return tuple(a["axes"])
    return None if sum(length != 1 for length in shape) <= 1 else UNITS[len(shape)]


def _has_units(a: Values, shape: Shape) -> str | None:
    if a["axes"] is None and len(shape) not in UNITS and sum(length != 1 for length in shape) > 1:
        return "knows the units of tensors with up to five axes only; give axes"
    return lacks_axis(a, shape)


def _adaptive(g: Array, p: Array, at: At, a: Values) -> Array:
    out = g.copy()
    for i in at.present:
        where, shape = at.layout.slices[i], at.layout.shapes[i]
        old, axes = g[where].reshape(shape), _units(a, shape)
        size = unit_norms(old, axes)
        most = a["clipping"] * np.maximum(unit_norms(p[where].reshape(shape), axes), a["epsilon"])
        factors = (most / np.maximum(size, SMALLEST_NORM)).astype(g.dtype)
        out[where] = np.where(size < most, old, old * factors).ravel()
    return out


TRANSFORMS = (
    Transform(
        "clip_by_value",
        "Clip by value",
        r"g_i \leftarrow \min(\max(g_i, -c), c)",
        "Each element on its own; changes the direction. torch's clip_grad_value_, optax.clip, Keras' clipvalue.",
        required(Hyperparameter("limit", "The largest absolute value.", above=0.0)),
        _clip_by_value,
    ),
    Transform(
        "clip_by_norm",
        "Clip each tensor by norm",
        r"g \leftarrow g \min(1, c / \|g\|)",
        "Each tensor on its own, as Keras' clipnorm.",
        required(_MAX_NORM),
        _clip_by_norm,
    ),
    Transform(
        "clip_by_global_norm",
        "Clip by global norm",
        r"g \leftarrow g \min(1, c / N), \quad N = \sqrt{\sum_k \|g_k\|^2}",
        "All tensors by one factor, so that the direction stays (Pascanu et al. 2013, arXiv:1211.5063). torch adds "
        "1e-6 to the norm; optax and Keras leave a smaller gradient untouched.",
        required(_MAX_NORM) | {_FORMULA: "torch", _ORDER: 2.0},
        _clip_by_global_norm,
        check=_check_order,
    ),
    Transform(
        "clip_by_block_rms",
        "Clip each tensor by its root mean square",
        r"g \leftarrow g / \max(1, \mathrm{rms}(g) / c)",
        "Each tensor on its own, by a limit that does not depend on its size; optax.clip_by_block_rms.",
        required(_THRESHOLD),
        _clip_by_block_rms,
    ),
    Transform(
        "adaptive_clip",
        "Adaptive gradient clipping",
        r"g_u \leftarrow g_u\, \frac{c \max(\|\theta_u\|, \epsilon)}{\|g_u\|} \quad \mathrm{where}\ "
        r"\|g_u\| \geq c \max(\|\theta_u\|, \epsilon)",
        "Each unit by the norm of its own parameters (Brock et al. 2021, arXiv:2102.06171). A unit is a vector, a "
        "column of a matrix, or what feeds one output of a convolution in optax's order of axes, unless axes says "
        "otherwise.",
        required(_CLIPPING) | {_EPSILON: 1e-3, AXES: None},
        _adaptive,
        check=distinct_axes,
        fits=_has_units,
    ),
)
