"""SOAP: Adam in the eigenbasis of Shampoo's matrices."""

from __future__ import annotations

from functools import cache
from math import sqrt as root
from typing import Any, NamedTuple

import numpy as np

from service.optim.hyperparameters import Hyperparameter
from service.optim.matrices import along, eigenvectors, gram, orthogonal, packed, product, squares
from service.optim.rule import (
    BETA1,
    BETA2,
    BIAS_CORRECTION,
    EPSILON,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Algorithm,
    Dialect,
    Rule,
    Shape,
    Values,
    divide,
    dot,
    sqrt,
)


class Scalars(NamedTuple):
    """Scalars of the rule; `first` and `refresh` say what this step does to the bases."""

    beta1: float
    beta2: float
    preconditioner_beta: float
    step_size: float
    kept: float
    epsilon: float
    normalize: bool
    first: bool
    refresh: bool


class Axes(NamedTuple):
    """How a tensor is seen: in which shape, and which of its axes have a basis."""

    shape: Shape
    indices: tuple[int, ...]

    @property
    def sizes(self) -> list[int]:
        return [self.shape[axis] for axis in self.indices]


def _update(axes_of: Any) -> Any:
    def soap(p: Any, g: Any, m: Any, v: Any, grams: Any, bases: Any, c: Scalars) -> Any:
        """Adam of g in the bases Q, turned back; then the gram matrices, and the bases by a step of power iteration.

        The first step moves nothing: it only makes the bases (Vyas et al. 2025, Algorithm 3).
        """
        axes = axes_of(p.shape)
        gram_list, old = squares(grams, axes.sizes), squares(bases, axes.sizes)
        seen = g.reshape(axes.shape)
        fresh = 1.0 - c.preconditioner_beta
        gram_list = [h + fresh * (gram(seen, axis) - h) for h, axis in zip(gram_list, axes.indices, strict=True)]
        if c.first:
            new = [eigenvectors(h)[1][:, ::-1] for h in gram_list]
            return p, m, v, packed(gram_list), packed(new)
        turned = _turn(seen, axes, [q.T for q in old]).reshape(p.shape)
        m = c.beta1 * m + (1.0 - c.beta1) * turned
        v = c.beta2 * v + (1.0 - c.beta2) * (turned * turned)
        d = divide(m, sqrt(v) + c.epsilon, 0.0).reshape(axes.shape)
        d = _turn(d, axes, old).reshape(p.shape)
        if c.normalize:
            d = d / (1e-30 + root(dot(d, d) / max(1, d.size)))
        p = c.kept * (p - c.step_size * d)
        if c.refresh and old:
            back = _turn(m.reshape(axes.shape), axes, old)
            v, old = _follow(v.reshape(axes.shape), axes, gram_list, old, p.dtype)
            m = _turn(back, axes, [q.T for q in old]).reshape(p.shape)
            v = v.reshape(p.shape)
        return p, m, v, packed(gram_list), packed(old)

    return soap


def _turn(x: Any, axes: Axes, matrices: list[Any]) -> Any:
    for axis, matrix in zip(axes.indices, matrices, strict=True):
        x = along(x, axis, matrix)
    return x


def _follow(v: Any, axes: Axes, grams: list[Any], bases: list[Any], dtype: Any) -> tuple[Any, list[Any]]:
    """The bases after one step of power iteration, largest eigenvalue first, and v in the same order."""
    new = []
    for axis, h, q in zip(axes.indices, grams, bases, strict=True):
        wide, basis = np.asarray(h, np.float64), np.asarray(q, np.float64)
        image = product(wide, basis)
        order = np.argsort(-np.add.reduce(basis * image, axis=0), kind="stable")
        v = np.take(v, order, axis=axis)
        new.append(np.asarray(orthogonal(image[:, order]), dtype))
    return v, new


def _merged(shape: Shape, longest: int) -> Shape:
    """Neighbouring axes joined while their product is at most `longest`."""
    out: list[int] = []
    current = 1
    for n in shape:
        if current * n <= longest:
            current *= n
        elif current > 1:
            out.append(current)
            current = n
        else:
            out.append(n)
            current = 1
    if current > 1 or not out:
        out.append(current)
    return tuple(out)


@cache
def _rule(longest: int, merging: bool, vectors: bool) -> Rule:
    def axes_of(shape: Shape) -> Axes:
        if len(shape) == 0 or (len(shape) == 1 and not vectors):
            return Axes(shape, ())
        seen = _merged(shape, longest) if merging and len(shape) > 1 else shape
        return Axes(seen, tuple(axis for axis, n in enumerate(seen) if n <= longest))

    def kept(shape: Shape) -> Shape:
        return (sum(n * n for n in axes_of(shape).sizes),)

    return Rule(
        _update(axes_of),
        ("first_moment", "second_moment", "preconditioners", "eigenvectors"),
        span="tensor",
        shapes={"preconditioners": kept, "eigenvectors": kept},
    )


def _choose(values: Values) -> Rule:
    return _rule(values["longest_axis"], values["merge_axes"], values["precondition_vectors"])


def _scalars(values: Values, t: int) -> Scalars:
    n = t - 1  # steps of Adam, this one included
    rate, beta1, beta2 = values["learning_rate"], values["beta1"], values["beta2"]
    correction = root(1.0 - beta2**n) / (1.0 - beta1**n) if values["bias_correction"] and n else 1.0
    given = values["preconditioner_beta"]
    return Scalars(
        beta1,
        beta2,
        beta2 if given is None else given,
        rate * correction,
        1.0 - rate * values["weight_decay"],
        values["epsilon"],
        values["normalize"],
        n == 0,
        n > 0 and n % values["update_frequency"] == 0,
    )


SOAP = Algorithm(
    name="soap",
    title="SOAP",
    summary="Adam run in the slowly turning eigenbasis of the gradients' gram matrices, one basis for each axis.",
    equation=r"L_t = \beta L_{t-1} + (1-\beta) G_t G_t^T, \quad R_t = \beta R_{t-1} + (1-\beta) G_t^T G_t, \quad "
    r"\theta_t = \theta_{t-1} - \alpha\, Q_L\, \mathrm{Adam}(Q_L^T G_t Q_R)\, Q_R^T",
    source="N. Vyas et al., SOAP: Improving and Stabilizing Shampoo using Adam, ICLR 2025, Algorithm 3, "
    "arXiv:2409.11321.",
    when="Matrices for which Adam needs too many steps, with Adam's hyperparameters and one more, the frequency. It "
    "keeps two square matrices for each axis and computes bases of them, which for axes of many hundreds is slow.",
    hyperparameters=(
        LEARNING_RATE,
        BETA1,
        BETA2,
        Hyperparameter(
            "preconditioner_beta",
            "Decay rate of the running means of gram matrices.",
            low=0.0,
            below=1.0,
            null="The same as beta2.",
        ),
        EPSILON,
        WEIGHT_DECAY,
        BIAS_CORRECTION,
        Hyperparameter("update_frequency", "The bases are computed in every step of this many.", "integer", low=1),
        Hyperparameter("longest_axis", "A longer axis has no basis and is left as it is.", "integer", low=0, high=1024),
        Hyperparameter("merge_axes", "Join neighbouring axes while their product is at most longest_axis.", "boolean"),
        Hyperparameter("precondition_vectors", "Give vectors a basis too.", "boolean"),
        Hyperparameter("normalize", "Divide each tensor's direction by its root mean square.", "boolean"),
    ),
    dialects={
        "paper": Dialect(
            {
                "learning_rate": 3e-3,
                "beta1": 0.95,
                "beta2": 0.95,
                "preconditioner_beta": None,
                "epsilon": 1e-8,
                "weight_decay": 0.01,
                "update_frequency": 10,
                "longest_axis": 256,
                "merge_axes": False,
                "precondition_vectors": False,
                "normalize": False,
                "bias_correction": True,
            },
            _choose,
            _scalars,
            decay="own",
            counter="parameter",
            differs="The authors' code: the first step only makes the bases, and the decay comes after the step. The "
            "code computes bases in float32; here they are computed in double precision, in an order that is the same "
            "on every machine, which takes seconds for an axis of 256: the authors' limit of 10,000 is 256 by default.",
        ),
    },
    kind="matrix",
    default_dialect="paper",
)

ALGORITHMS = (SOAP,)
