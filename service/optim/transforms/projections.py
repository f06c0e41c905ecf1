"""Projections: after the rule, the parameters go to the nearest point of a set.

Those of all parameters together are of those that have a gradient in the step: what is frozen is no part of the sum or
of the norm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from service.errors import Invalid
from service.optim.hyperparameters import Hyperparameter
from service.optim.tensors import Array, all_finite, norm
from service.optim.transforms.form import (
    AXES,
    MATCH,
    SCOPE,
    At,
    Transform,
    Values,
    distinct_axes,
    lacks_axis,
    numbers,
    required,
    scalar,
    unit_norms,
)

_LOWER = Hyperparameter("lower", "The least value.")
_UPPER = Hyperparameter("upper", "The largest value.")
_RADIUS = Hyperparameter("radius", "The radius of the ball.", above=0.0)
_SUM = Hyperparameter("total", "What the values add up to.", above=0.0)
_MINIMUM = Hyperparameter("minimum", "The least norm.", low=0.0)
_MAXIMUM = Hyperparameter("maximum", "The largest norm.", low=0.0)
_RATE = Hyperparameter("rate", "How much of the way to the nearest norm is gone in a step.", low=0.0, high=1.0)
_EPSILON = Hyperparameter("epsilon", "Added to the norm before it divides.", low=0.0)

Project = Callable[[Array, Values], Array]


def _each(project: Project) -> Callable[..., Array]:
    """A projection of each element by itself."""

    def apply(new: Array, p: Array, at: At, a: Values) -> Array:
        out = new.copy()
        for i in at.chosen(a):
            where = at.layout.slices[i]
            out[where] = project(new[where], a)
        return out

    return apply


def _together(project: Project) -> Callable[..., Array]:
    """A projection of all chosen tensors as one vector, or of each by itself."""

    def apply(new: Array, p: Array, at: At, a: Values) -> Array:
        chosen = [at.layout.slices[i] for i in at.chosen(a)]
        out = new.copy()
        for slices in [chosen] if a["scope"] == "whole" else [[where] for where in chosen]:
            x = np.concatenate([new[where] for where in slices] or [new[:0]])
            if all_finite(x):  # what overflowed is left as it is, for the step to be refused
                _put(out, slices, project(x, a))
        return out

    return apply


def _put(out: Array, slices: Sequence[slice], values: Array) -> None:
    begin = 0
    for where in slices:
        end = begin + where.stop - where.start
        out[where] = values[begin:end]
        begin = end


def _box(x: Array, a: Values) -> Array:
    inside: Array = np.clip(x, scalar(a["lower"], x), scalar(a["upper"], x))
    return inside


def _check_box(a: Values) -> None:
    limits = numbers(a, "lower", "upper")
    if len(limits) == 2 and limits[0] > limits[1]:
        raise Invalid("upper must not be below lower.", pointer="/upper")


def _nonnegative(x: Array, a: Values) -> Array:
    return np.asarray(np.maximum(x, scalar(0.0, x)))


def _linf_ball(x: Array, a: Values) -> Array:
    return np.clip(x, -scalar(a["radius"], x), scalar(a["radius"], x))


def _simplex(x: Array, a: Values) -> Array:
    """By sorting (Duchi et al. 2008, figure 1), in float64; the largest is taken off first, which moves no result."""
    if not x.size:
        return x
    values = (x.astype(np.float64) - float(x.max())) / a["total"]
    falling = np.sort(values)[::-1]
    sums = np.cumsum(falling)
    places = np.arange(1.0, x.size + 1.0)
    count = int(np.count_nonzero(1.0 / places + (falling - sums / places) > 0.0))
    nearest = np.maximum(1.0 / count + (values - sums[count - 1] / count), 0.0)
    return np.asarray(a["total"] * nearest).astype(x.dtype)


def _l1_sphere(x: Array, a: Values) -> Array:
    sphere: Array = np.sign(x) * _simplex(np.abs(x), {"total": a["radius"]})
    return sphere


def _l1_ball(x: Array, a: Values) -> Array:
    return x if float(np.add.reduce(np.abs(x), dtype=np.float64)) <= a["radius"] else _l1_sphere(x, a)


def _l2_sphere(x: Array, a: Values) -> Array:
    size = norm(x)
    sphere: Array = x * scalar(a["radius"] / size, x) if size > 0.0 else x
    return sphere


def _l2_ball(x: Array, a: Values) -> Array:
    return x if norm(x) <= a["radius"] else _l2_sphere(x, a)


def _unit_norms(new: Array, p: Array, at: At, a: Values) -> Array:
    out = new.copy()
    for i in at.chosen(a):
        where, shape = at.layout.slices[i], at.layout.shapes[i]
        x = new[where].reshape(shape)
        size = unit_norms(x, None if a["axes"] is None else tuple(a["axes"]))
        wanted = a["rate"] * np.clip(size, a["minimum"], a["maximum"]) + (1.0 - a["rate"]) * size
        with np.errstate(invalid="ignore"):
            factor = np.where(size + a["epsilon"] > 0.0, wanted / (a["epsilon"] + size), 1.0)
        out[where] = (x * factor.astype(new.dtype)).ravel()
    return out


def _check_norms(a: Values) -> None:
    distinct_axes(a)
    limits = numbers(a, "minimum", "maximum")
    if len(limits) == 2 and limits[0] > limits[1]:
        raise Invalid("maximum must not be below minimum.", pointer="/maximum")


_WHERE: dict[Hyperparameter, Any] = {MATCH: "*"}
_WHOLE: dict[Hyperparameter, Any] = {SCOPE: "whole", MATCH: "*"}
_BALL = {_RADIUS: 1.0} | _WHOLE

TRANSFORMS = (
    Transform(
        "project_box",
        "Projection onto a box",
        r"\theta_i \leftarrow \min(\max(\theta_i, l), u)",
        "Each parameter is kept between two numbers; optax.projections.projection_box.",
        required(_LOWER, _UPPER) | _WHERE,
        _each(_box),
        "parameters",
        check=_check_box,
    ),
    Transform(
        "project_nonnegative",
        "Projection onto what is not negative",
        r"\theta_i \leftarrow \max(\theta_i, 0)",
        "No parameter falls below zero; optax.projections.projection_non_negative, Keras' NonNeg.",
        _WHERE,
        _each(_nonnegative),
        "parameters",
    ),
    Transform(
        "project_simplex",
        "Projection onto a simplex",
        r"\theta \leftarrow \mathrm{argmin}_x \|x - \theta\| \quad \mathrm{where}\ x \geq 0,\ \sum_i x_i = s",
        "No parameter is negative and all add up to a number, as probabilities do (Duchi et al. 2008, "
        "doi:10.1145/1390156.1390191).",
        {_SUM: 1.0} | _WHOLE,
        _together(_simplex),
        "parameters",
    ),
    Transform(
        "project_l1_ball",
        "Projection onto an L1 ball",
        r"\theta \leftarrow \mathrm{argmin}_x \|x - \theta\| \quad \mathrm{where}\ \|x\|_1 \leq r",
        "The sum of absolute values stays within a radius, which makes parameters zero; "
        "optax.projections.projection_l1_ball.",
        _BALL,
        _together(_l1_ball),
        "parameters",
    ),
    Transform(
        "project_l1_sphere",
        "Projection onto an L1 sphere",
        r"\theta \leftarrow \mathrm{argmin}_x \|x - \theta\| \quad \mathrm{where}\ \|x\|_1 = r",
        "The sum of absolute values is brought to a radius; optax.projections.projection_l1_sphere.",
        _BALL,
        _together(_l1_sphere),
        "parameters",
    ),
    Transform(
        "project_l2_ball",
        "Projection onto an L2 ball",
        r"\theta \leftarrow \theta \min(1, r / \|\theta\|)",
        "The norm stays within a radius; optax.projections.projection_l2_ball.",
        _BALL,
        _together(_l2_ball),
        "parameters",
    ),
    Transform(
        "project_l2_sphere",
        "Projection onto an L2 sphere",
        r"\theta \leftarrow r\, \theta / \|\theta\|",
        "The norm is brought to a radius; zero stays zero. optax.projections.projection_l2_sphere.",
        _BALL,
        _together(_l2_sphere),
        "parameters",
    ),
    Transform(
        "project_linf_ball",
        "Projection onto an L∞ ball",
        r"\theta_i \leftarrow \min(\max(\theta_i, -r), r)",
        "No absolute value passes the radius; optax.projections.projection_linf_ball.",
        {_RADIUS: 1.0} | _WHERE,
        _each(_linf_ball),
        "parameters",
    ),
    Transform(
        "constrain_norms",
        "Norms of units between limits",
        r"\theta_u \leftarrow \theta_u\, \frac{r\, \mathrm{clip}(\|\theta_u\|, a, b) + (1 - r) \|\theta_u\|}"
        r"{\epsilon + \|\theta_u\|}",
        "The norm over the given axes (null: of the whole tensor) is kept between two numbers. Keras' MaxNorm, "
        "UnitNorm and MinMaxNorm, whose ε it has.",
        {_MINIMUM: 0.0, _MAXIMUM: 1.0, _RATE: 1.0, AXES: None, _EPSILON: 1e-7, MATCH: "*"},
        _unit_norms,
        "parameters",
        check=_check_norms,
        fits=lacks_axis,
    ),
)
