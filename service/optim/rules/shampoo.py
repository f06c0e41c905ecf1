"""Shampoo: AdaGrad with a full matrix for each axis of a tensor."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from service.optim.hyperparameters import Hyperparameter
from service.optim.matrices import along, eigenvectors, gram, packed, product, squares
from service.optim.rule import LEARNING_RATE, Algorithm, Dialect, Rule, Shape, Values, cube_root, maximum, sqrt

MOST_AXES = 4  # for roots of eight at most, which square and cube roots give


class Scalars(NamedTuple):
    """Scalars of the rule; `refresh` says that this step computes the roots anew."""

    learning_rate: float
    momentum: float
    epsilon: float
    refresh: bool


def _update(longest: int, averaged: bool) -> Any:
    def shampoo(p: Any, g: Any, h: Any, roots: Any, *rest: Any) -> Any:
        """H_i ← H_i + the gram matrix of axis i;  p ← p - α g × H_i^(-1/2k) over the k axes (Gupta et al. 2018)."""
        *mean, c = rest
        axes, sizes = _axes(p.shape, longest)
        whole = g.reshape(p.shape or (1,))
        statistics = [old + gram(whole, axis) for old, axis in zip(squares(h, sizes), axes, strict=True)]
        inverse = squares(roots, sizes)
        if c.refresh:
            inverse = [_inverse_root(matrix, max(1, p.ndim), c.epsilon) for matrix in statistics]
        step = whole
        if averaged:
            mean = [c.momentum * mean[0] + (1.0 - c.momentum) * g]
            step = mean[0].reshape(whole.shape)
        for axis, matrix in zip(axes, inverse, strict=True):
            step = along(step, axis, np.asarray(matrix, p.dtype))
        return (p - c.learning_rate * step.reshape(p.shape), packed(statistics), packed(inverse), *mean)

    return shampoo


def _inverse_root(matrix: Any, axes: int, epsilon: float) -> Any:
    """H^(-1/2k) in double precision; with ε = 0 of what H has, and zero elsewhere."""
    values, vectors = eigenvectors(matrix)
    values = maximum(values, 0.0)
    power = sqrt(values)
    if axes == 3:
        power = cube_root(power, 0.0)
    elif axes > 1:
        power = sqrt(power) if axes == 2 else sqrt(sqrt(power))
    least = 0.0 if epsilon > 0.0 or not values.size else values[-1] * values.size * np.finfo(np.float64).eps
    inverse = np.where(values > least, 1.0 / power, 0.0)
    return product(vectors * inverse, vectors.T)


def _axes(shape: Shape, longest: int) -> tuple[list[int], list[int]]:
    """The axes that have a matrix, and their lengths; a scalar is a vector of one."""
    axes = [axis for axis, n in enumerate(shape or (1,)) if n <= longest]
    return axes, [(shape or (1,))[axis] for axis in axes]


@cache
def _rule(longest: int, averaged: bool) -> Rule:
    def kept(shape: Shape) -> Shape:
        return (sum(n * n for n in _axes(shape, longest)[1]),)

    def start(p: Any, values: Values) -> Any:
        return packed([values["epsilon"] * np.eye(n) for n in _axes(p.shape, longest)[1]])

    def fits(shape: Shape) -> str | None:
        return None if len(shape) <= MOST_AXES else f"takes tensors of at most {MOST_AXES} axes; reshape this one"

    return Rule(
        _update(longest, averaged),
        ("preconditioners", "inverse_roots", *(("first_moment",) if averaged else ())),
        {"preconditioners": start},
        span="tensor",
        shapes={"preconditioners": kept, "inverse_roots": kept},
        fits=fits,
    )


def _choose(values: Values) -> Rule:
    return _rule(values["longest_axis"], values["momentum"] != 0.0)


def _scalars(values: Values, t: int) -> Scalars:
    refresh = (t - 1) % values["update_frequency"] == 0
    return Scalars(values["learning_rate"], values["momentum"], values["epsilon"], refresh)


SHAMPOO = Algorithm(
    name="shampoo",
    title="Shampoo",
    summary="A tensor's gradient is multiplied along each axis by a root of that axis' summed gram matrices.",
    equation=r"L_t = L_{t-1} + G_t G_t^T, \quad R_t = R_{t-1} + G_t^T G_t, \quad "
    r"\theta_t = \theta_{t-1} - \alpha\, L_t^{-1/4} G_t R_t^{-1/4}, \quad L_0 = R_0 = \epsilon I",
    source="V. Gupta, T. Koren and Y. Singer, Shampoo: Preconditioned Stochastic Tensor Optimization, ICML 2018, "
    "Algorithms 1 and 2, arXiv:1802.09568.",
    when="Matrices whose rows or columns are strongly correlated, at a few hundred rows at most, where steps are dear "
    "and arithmetic is not. Roots cost the cube of an axis' length: compute them every tenth step or so, and for "
    "larger tensors take SOAP or Muon.",
    hyperparameters=(
        LEARNING_RATE,
        Hyperparameter(
            "momentum", "Decay rate of a running mean that is stepped along in g's place; 0: none.", low=0.0, below=1.0
        ),
        Hyperparameter("epsilon", "ε, with which the matrices start; 0 takes pseudo-inverses.", low=0.0),
        Hyperparameter("update_frequency", "The roots are computed in every step of this many.", "integer", low=1),
        Hyperparameter("longest_axis", "A longer axis has no matrix.", "integer", low=0, high=1024),
    ),
    dialects={
        "paper": Dialect(
            {"learning_rate": 0.1, "momentum": 0.0, "epsilon": 1e-4, "update_frequency": 1, "longest_axis": 128},
            _choose,
            _scalars,
            counter="parameter",
            differs="Algorithm 2, of which Algorithm 1 is the case of two axes; for a vector it is AdaGrad with the "
            "full matrix. The limit of an axis' length is no part of the paper.",
        ),
    },
    kind="matrix",
    default_dialect="paper",
)

ALGORITHMS = (SHAMPOO,)
