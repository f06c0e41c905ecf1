"""Steps in proportion to a tensor's norm, without moments of the squared gradient: LARS and Fromage."""

from __future__ import annotations

from math import sqrt as root
from typing import Any, NamedTuple

from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.rule import (
    LEARNING_RATE,
    MOMENTUM,
    NESTEROV,
    WEIGHT_DECAY,
    Algorithm,
    Dialect,
    Rule,
    Values,
    nesterov_needs_momentum,
    norm,
)


class LarsScalars(NamedTuple):
    """Scalars of `lars` and `lars_of_sum`; without `trusting` the ratio is 1."""

    learning_rate: float
    momentum: float
    nesterov: bool
    trust_coefficient: float
    epsilon: float
    weight_decay: float
    trusting: bool


class FromageScalars(NamedTuple):
    """Scalars of `fromage`; `shrink` is 1 / √(1 + α²)."""

    learning_rate: float
    shrink: float
    smallest_norm: float


def lars(p: Any, g: Any, b: Any, c: LarsScalars) -> Any:
    """λ = η ‖p‖ / (‖g‖ + β ‖p‖);  b ← μ b + α λ (g + β p);  p ← p - b (You, Gitman and Ginsburg 2017, Algorithm 1)."""
    size, length = norm(p), norm(g)
    whole = length + c.weight_decay * size
    ratio = c.trust_coefficient * size / whole if size > 0.0 and length > 0.0 else 1.0
    b = c.momentum * b + (c.learning_rate * ratio) * (g + c.weight_decay * p)
    return p - b, b


def lars_of_sum(p: Any, g: Any, b: Any, c: LarsScalars) -> Any:
    """The same with the decay in g already: λ = η ‖p‖ / (‖g‖ + ε), and 1 where a norm is zero."""
    size, length = norm(p), norm(g)
    ratio = 1.0
    if c.trusting and size > 0.0 and length > 0.0:
        ratio = c.trust_coefficient * size / (length + c.epsilon)
    step = (c.learning_rate * ratio) * g
    b = step + c.momentum * b
    return p - (step + c.momentum * b if c.nesterov else b), b


def fromage(p: Any, g: Any, c: FromageScalars) -> Any:
    """p ← (p - α ‖p‖ / ‖g‖ g) / √(1 + α²), with both norms at least the smallest (Bernstein et al. 2020)."""
    size, length = max(norm(p), c.smallest_norm), max(norm(g), c.smallest_norm)
    ratio = size / length if size > 0.0 and length > 0.0 else 1.0
    return (p + (c.shrink - 1.0) * p - (c.learning_rate * c.shrink * ratio) * g,)


_LARS = Rule(lars, ("velocity",), span="tensor")
_OF_SUM = Rule(lars_of_sum, ("velocity",), span="tensor")
_FROMAGE = Rule(fromage, span="tensor")


def _choose(values: Values) -> Rule:
    return _LARS


def _choose_of_sum(values: Values) -> Rule:
    return _OF_SUM


def _choose_fromage(values: Values) -> Rule:
    return _FROMAGE


def _scalars(values: Values, t: int) -> LarsScalars:
    return LarsScalars(
        values["learning_rate"],
        values["momentum"],
        values.get("nesterov", False),
        values["trust_coefficient"],
        values.get("epsilon", 0.0),
        values["weight_decay"],
        values.get("trust_ratio", True),
    )


def _fromage(values: Values, t: int) -> FromageScalars:
    rate = values["learning_rate"]
    shrink = 1.0 / root(1.0 + rate * rate)
    return FromageScalars(rate, shrink, values["smallest_norm"])


LARS = Algorithm(
    name="lars",
    title="LARS",
    summary="Momentum whose step for each tensor is a fixed small share of the tensor's norm.",
    equation=r"\lambda_t = \eta\, \frac{\Vert \theta_{t-1} \Vert}{\Vert g_t \Vert + \beta \Vert \theta_{t-1} \Vert}, "
    r"\quad b_t = \mu b_{t-1} + \alpha \lambda_t (g_t + \beta \theta_{t-1}), \quad \theta_t = \theta_{t-1} - b_t",
    source="Y. You, I. Gitman and B. Ginsburg, Large Batch Training of Convolutional Networks, 2017, Algorithm 1, "
    "arXiv:1708.03888.",
    when="Convolutional networks with very large batches, where momentum diverges at the learning rate that the batch "
    "calls for. Leave biases and normalisation layers out of the ratio; for transformers take LAMB.",
    hyperparameters=(
        LEARNING_RATE,
        MOMENTUM,
        NESTEROV,
        Hyperparameter("trust_coefficient", "Share of its norm that a tensor may move in a step, η.", low=0.0),
        Hyperparameter("epsilon", "ε, added to the gradient's norm in the ratio.", low=0.0),
        Hyperparameter(
            "trust_ratio", "False takes the ratio as 1; say it in a group for biases and the like.", "boolean"
        ),
        WEIGHT_DECAY,
    ),
    dialects={
        "optax": Dialect(
            {
                "learning_rate": REQUIRED,
                "weight_decay": 0.0,
                "trust_coefficient": 0.001,
                "epsilon": 0.0,
                "trust_ratio": True,
                "momentum": 0.9,
                "nesterov": False,
            },
            _choose_of_sum,
            _scalars,
            decay="coupled",
            check=nesterov_needs_momentum,
            differs="The decay is added to the gradient first and the ratio is of the norm of that sum, not of the sum "
            "of the norms; where a norm is zero, the ratio is 1 without η.",
        ),
        "paper": Dialect(
            {"learning_rate": 0.1, "weight_decay": 5e-4, "trust_coefficient": 0.001, "momentum": 0.9},
            _choose,
            _scalars,
            decay="own",
            differs="Algorithm 1, whose ratio has the sum of the norms below; where a norm is zero, it is 1. The paper "
            "sets the learning rate by the batch; 0.1 is no value of its own.",
        ),
    },
    kind="layerwise",
    default_dialect="paper",
)

FROMAGE = Algorithm(
    name="fromage",
    title="Fromage",
    summary="Gradient descent whose step is the learning rate times the tensor's norm, and then a shrinking of it.",
    equation=r"\theta_t = \frac{1}{\sqrt{1+\alpha^2}} \left( \theta_{t-1} - \alpha\, "
    r"\frac{\Vert \theta_{t-1} \Vert}{\Vert g_t \Vert}\, g_t \right)",
    source="J. Bernstein, A. Vahdat, Y. Yue and M.-Y. Liu, On the distance between two neural networks and the "
    "stability of learning, NeurIPS 2020, arXiv:2002.03432.",
    when="Networks for which one learning rate, about 0.01, is to do without tuning. The shrinking is a weight decay "
    "that cannot be switched off, and the step does not get shorter near a minimum: lower the rate over time.",
    hyperparameters=(
        LEARNING_RATE,
        Hyperparameter("smallest_norm", "Norms of tensors and of gradients count as at least this.", low=0.0),
    ),
    dialects={
        "optax": Dialect(
            {"learning_rate": REQUIRED, "smallest_norm": 1e-6},
            _choose_fromage,
            _fromage,
            differs="Both norms count as at least 1e-6, so that a tensor at zero moves, by 1e-6 α; a gradient below "
            "that length is not stretched to the tensor's norm.",
        ),
    },
    kind="layerwise",
    default_dialect="optax",
)

ALGORITHMS = (LARS, FROMAGE)
