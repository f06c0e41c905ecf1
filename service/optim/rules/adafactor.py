"""Adafactor: a second moment of rows and columns instead of elements, and steps in proportion to the parameters."""

from __future__ import annotations

from functools import cache
from math import sqrt as root
from typing import Any, NamedTuple

import numpy as np

from service.optim.hyperparameters import Hyperparameter
from service.optim.rule import (
    LEARNING_RATE,
    MAXIMIZE,
    WEIGHT_DECAY,
    Algorithm,
    Dialect,
    Rule,
    Shape,
    Values,
    divide,
    dot,
    maximum,
    sqrt,
)


class Scalars(NamedTuple):
    """Scalars of all three; `rate` is ρ, or α in optax, and `kept` is what the parameters are multiplied by."""

    rate: float
    mix: float
    epsilon: float | None
    smallest_scale: float
    clipping_threshold: float | None
    kept: float
    momentum: float
    scaling: bool


def adafactor(p: Any, g: Any, row: Any, column: Any, v: Any, c: Scalars) -> Any:
    """V = R C / max(mean R, ε₁); U = g / max(√V, ε₁); p ← p - max(ε₂, rms p) ρ U / max(1, rms U / d), as in torch."""
    epsilon = float(np.finfo(p.dtype).eps) if c.epsilon is None else c.epsilon
    alpha = max(c.smallest_scale, _rms(p)) * c.rate
    square = g * g
    if g.ndim > 1:
        row = row + c.mix * (square.mean(axis=-1, keepdims=True) - row)
        column = column + c.mix * (square.mean(axis=-2, keepdims=True) - column)
        below = maximum(row.mean(axis=-2, keepdims=True), epsilon)
        estimate = divide(row * column, below, 0.0)
    else:
        v = v + c.mix * (square - v)
        estimate = v
    u = divide(g, sqrt(maximum(estimate, epsilon * epsilon)), 0.0)
    return c.kept * p - alpha / _excess(u, c) * u, row, column, v


def adafactor_added(p: Any, g: Any, row: Any, column: Any, v: Any, c: Scalars) -> Any:
    """The same with ε₁ added to g², as in the paper (Shazeer and Stern 2018, Algorithms 4 and 5) and in Keras."""
    alpha = max(c.smallest_scale, _rms(p)) * c.rate
    row, column, v, u = _scaled(g, row, column, v, c, (-2, -1) if g.ndim > 1 else None)
    return p - alpha / _excess(u, c) * u, row, column, v


def adafactor_largest(factored: bool, least: int, averaged: bool) -> Any:
    """optax's: the two largest axes are factored, where both are at least `least` long; then a mean of the steps."""

    def adafactor_optax(p: Any, g: Any, row: Any, column: Any, v: Any, *rest: Any) -> Any:
        """U = g / √V / max(1, rms U / d); m ← mean of α max(ε₂, rms p) U; p ← p - m - λ p."""
        *mean, c = rest
        row, column, v, u = _scaled(g, row, column, v, c, _largest_axes(p.shape, factored, least))
        u = c.rate / _excess(u, c) * u
        if c.scaling:
            u = max(_rms(p), c.smallest_scale) * u
        if averaged:
            u = (1.0 - c.momentum) * u + c.momentum * mean[0]
        return (c.kept * p - u, row, column, v, *([u] if averaged else []))

    return adafactor_optax


def _scaled(g: Any, row: Any, column: Any, v: Any, c: Scalars, axes: tuple[int, int] | None) -> Any:
    """The new moments and g / √V; R has no last and C no first of the two axes that are factored."""
    square = g * g + c.epsilon
    if axes is None:
        v = (1.0 - c.mix) * v + c.mix * square
        return row, column, v, divide(g, sqrt(v), 0.0)
    first, last = (axis % g.ndim for axis in axes)
    row = (1.0 - c.mix) * row + c.mix * square.mean(axis=last)
    column = (1.0 - c.mix) * column + c.mix * square.mean(axis=first)
    mean = row.mean(axis=first - 1 if first > last else first, keepdims=True)
    rows = np.expand_dims(sqrt(divide(row, mean + 0.0 * row, 0.0)), last)
    u = divide(g, rows + 0.0 * g, 0.0)
    return row, column, v, divide(u, np.expand_dims(sqrt(column), first) + 0.0 * g, 0.0)


def _rms(x: Any) -> float:
    return root(dot(x, x) / x.size) if x.size else 0.0


def _excess(u: Any, c: Scalars) -> float:
    """How many times too long the step is."""
    return 1.0 if c.clipping_threshold is None else max(1.0, _rms(u) / c.clipping_threshold)


def _largest_axes(shape: Shape, factored: bool, least: int) -> tuple[int, int] | None:
    """The second largest axis and the largest; of equal ones the later counts as larger."""
    if not factored or len(shape) < 2:
        return None
    second, first = sorted(range(len(shape)), key=lambda axis: shape[axis])[-2:]
    return None if shape[second] < least else (second, first)


_SLOTS = ("row_second_moment", "column_second_moment", "second_moment")
_NONE: Shape = (0,)

_TORCH = Rule(
    adafactor,
    _SLOTS,
    span="tensor",
    shapes={
        "row_second_moment": lambda s: (*s[:-1], 1) if len(s) > 1 else _NONE,
        "column_second_moment": lambda s: (*s[:-2], 1, s[-1]) if len(s) > 1 else _NONE,
        "second_moment": lambda s: _NONE if len(s) > 1 else s,
    },
)
_KERAS = Rule(
    adafactor_added,
    _SLOTS,
    span="tensor",
    shapes={
        "row_second_moment": lambda s: s[:-1] if len(s) > 1 else _NONE,
        "column_second_moment": lambda s: (*s[:-2], s[-1]) if len(s) > 1 else _NONE,
        "second_moment": lambda s: _NONE if len(s) > 1 else s,
    },
)


@cache
def _optax_rule(factored: bool, least: int, averaged: bool) -> Rule:
    def without(shape: Shape, which: int) -> Shape:
        axes = _largest_axes(shape, factored, least)
        return _NONE if axes is None else tuple(n for axis, n in enumerate(shape) if axis != axes[which])

    return Rule(
        adafactor_largest(factored, least, averaged),
        (*_SLOTS, "momentum") if averaged else _SLOTS,
        span="tensor",
        shapes={
            "row_second_moment": lambda shape: without(shape, 1),
            "column_second_moment": lambda shape: without(shape, 0),
            "second_moment": lambda shape: shape if _largest_axes(shape, factored, least) is None else _NONE,
        },
    )


def _choose_torch(values: Values) -> Rule:
    return _TORCH


def _choose_keras(values: Values) -> Rule:
    return _KERAS


def _choose_optax(values: Values) -> Rule:
    return _optax_rule(values["factored"], values["smallest_factored"], values["momentum"] != 0.0)


def _relative(values: Values, t: int, kept: float) -> Scalars:
    """ρ = min(α, 1 / √t)."""
    return Scalars(
        min(values["learning_rate"], 1.0 / root(t)),
        float(t ** values["beta2_decay"]),
        values["smallest_root"] if "smallest_root" in values else values["epsilon"],
        values["smallest_scale"],
        values["clipping_threshold"],
        kept,
        0.0,
        True,
    )


def _torch(values: Values, t: int) -> Scalars:
    return _relative(values, t, 1.0 - values["learning_rate"] * values["weight_decay"])


def _keras(values: Values, t: int) -> Scalars:
    return _relative(values, t, 1.0)


def _optax(values: Values, t: int) -> Scalars:
    return Scalars(
        values["learning_rate"],
        float(t - values["decay_offset"]) ** -values["decay_rate"],
        values["epsilon"],
        values["smallest_scale"],
        values["clipping_threshold"],
        1.0 - values["weight_decay"],
        values["momentum"],
        values["parameter_scale"],
    )


ADAFACTOR = Algorithm(
    name="adafactor",
    title="Adafactor",
    summary="A second moment that is a product of a column and a row, steps in proportion to the parameters' size, "
    "and a limit on each tensor's step.",
    equation=r"V_t = \frac{R_t C_t}{\mathrm{mean}(R_t)}, \quad U_t = \frac{g_t}{\sqrt{V_t}}, \quad "
    r"\theta_t = \theta_{t-1} - \max(\epsilon_2, \mathrm{rms}(\theta_{t-1}))\, \rho_t\, "
    r"\frac{U_t}{\max(1, \mathrm{rms}(U_t)/d)}",
    source="N. Shazeer and M. Stern, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost, ICML 2018, "
    "Algorithms 4 and 5, arXiv:1804.04235.",
    when="Large transformers, where Adam's second moment does not fit in memory. With enough memory AdamW is easier "
    "to tune; without momentum, as here by default, early steps are noisy.",
    hyperparameters=(
        LEARNING_RATE,
        Hyperparameter("beta2_decay", "c of the second moment's weight tᶜ for the newest square.", high=0.0),
        Hyperparameter("decay_rate", "c of the second moment's weight t⁻ᶜ for the newest square.", low=0.0),
        Hyperparameter(
            "decay_offset", "This is taken from t in that weight; below zero the count starts later.", "integer", high=0
        ),
        Hyperparameter("epsilon", "ε₁, added to the squared gradient.", low=0.0),
        Hyperparameter(
            "smallest_root",
            "ε₁ in torch: the estimate's root, and the mean of R, count as at least this.",
            low=0.0,
            null="The machine epsilon of the session's dtype.",
        ),
        Hyperparameter("smallest_scale", "The parameters' root mean square counts as at least this, ε₂.", low=0.0),
        Hyperparameter(
            "clipping_threshold",
            "d: a tensor's U is shortened to this root mean square.",
            above=0.0,
            null="No limit.",
        ),
        Hyperparameter("relative_step", "Changes nothing, as in Keras.", "boolean"),
        Hyperparameter("parameter_scale", "Multiply the step by the parameters' root mean square.", "boolean"),
        Hyperparameter("factored", "False keeps the second moment of every element.", "boolean"),
        Hyperparameter(
            "smallest_factored", "Factor only where the two largest axes are at least this long.", "integer", low=1
        ),
        Hyperparameter("momentum", "Decay rate of a running mean of the steps; 0 keeps none.", low=0.0, below=1.0),
        WEIGHT_DECAY,
        MAXIMIZE,
    ),
    dialects={
        "torch": Dialect(
            {
                "learning_rate": 1e-2,
                "beta2_decay": -0.8,
                "smallest_root": None,
                "smallest_scale": 1e-3,
                "clipping_threshold": 1.0,
                "weight_decay": 0.0,
                "maximize": False,
            },
            _choose_torch,
            _torch,
            decay="own",
            counter="parameter",
            differs="ρ = min(lr, 1/√t); the last two axes are factored; ε₁ is not added to g² but bounds the mean of "
            "the rows and, squared, the estimate from below, by default at the dtype's epsilon. The decay is "
            "1 - lr λ, and the scale is taken before it.",
        ),
        "optax": Dialect(
            {
                "learning_rate": 1.0,
                "smallest_factored": 128,
                "decay_rate": 0.8,
                "decay_offset": 0,
                "parameter_scale": True,
                "smallest_scale": 1e-3,
                "clipping_threshold": 1.0,
                "momentum": 0.0,
                "weight_decay": 0.0,
                "epsilon": 1e-30,
                "factored": True,
            },
            _choose_optax,
            _optax,
            decay="own",
            differs="The learning rate is used as it is, 1 if none is given; the two largest axes are factored, and "
            "only from 128 on; the decay is not multiplied by the learning rate. The library computes the weight of "
            "the newest square in float32 and keeps the momentum in float32; here both have the session's dtype.",
            known_bugs=("A positive decay_offset makes the library's first steps NaN; here it cannot be above 0.",),
        ),
        "keras": Dialect(
            {
                "learning_rate": 1e-3,
                "beta2_decay": -0.8,
                "epsilon": 1e-30,
                "smallest_scale": 1e-3,
                "clipping_threshold": 1.0,
                "relative_step": True,
                "weight_decay": 0.0,
            },
            _choose_keras,
            _keras,
            decay="decoupled",
            differs="The paper's ε₁, added to g²; the last two axes are factored; the decay comes first, and the scale "
            "is that of the decayed parameters.",
            known_bugs=("relative_step=False changes nothing: ρ is min(lr, 1/√t) in either case.",),
        ),
    },
    kind="layerwise",
)

ALGORITHMS = (ADAFACTOR,)
