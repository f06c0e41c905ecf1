"""COCOB: no learning rate; each coordinate bets on the sign of its next gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

from service.optim.hyperparameters import Hyperparameter
from service.optim.rule import (
    LEARNING_RATE,
    PARAMETERS,
    WEIGHT_DECAY,
    Algorithm,
    Dialect,
    Rule,
    Values,
    abs_,
    divide,
    maximum,
)


class Scalars(NamedTuple):
    """Scalars of `cocob`."""

    learning_rate: float
    alpha: float
    zero: float


def cocob(p: Any, g: Any, origin: Any, total: Any, largest: Any, absolute: Any, reward: Any, c: Scalars) -> Any:
    """p ← p₁ + θ / (L max(G + L, α L)) (L + R): the wealth L + R, and the share of it to bet (Orabona, Tommasi)."""
    g = c.learning_rate * g
    size = abs_(g)
    largest = maximum(largest, size)
    absolute = absolute + size
    reward = maximum(reward - g * (p - origin), c.zero)
    total = total - g
    share = divide(total, largest * maximum(absolute + largest, c.alpha * largest), c.zero)
    return p + (origin + share * (largest + reward) - p), origin, total, largest, absolute, reward


_RULE = Rule(
    cocob,
    ("first_parameters", "sum", "largest_gradient", "sum_of_sizes", "reward"),
    {"first_parameters": PARAMETERS, "largest_gradient": "epsilon"},
)


def _choose(values: Values) -> Rule:
    return _RULE


def _scalars(values: Values, t: int) -> Scalars:
    return Scalars(values.get("learning_rate", 1.0), values["alpha"], 0.0)


COCOB = Algorithm(
    name="cocob",
    title="COCOB",
    summary="Coin betting instead of a learning rate: a coordinate that keeps winning bets more.",
    equation=r"\theta_t = \theta_0 + \frac{-\sum_{i \leq t} g_i}{L_t \max(G_t + L_t, \alpha L_t)}\, (L_t + R_t)",
    source="F. Orabona and T. Tommasi, Training Deep Networks without Learning Rates Through Coin Betting, NeurIPS "
    "2017, arXiv:1705.07795.",
    when="Where no learning rate is to be tuned at all. It keeps five slots, and with its rate set by the largest "
    "gradient one outlier slows it.",
    hyperparameters=(
        LEARNING_RATE,
        Hyperparameter("alpha", "α: the first bets are at most 1/α of the wealth.", low=0.0),
        Hyperparameter("epsilon", "What the largest gradient so far, L, starts at.", low=0.0, schedulable=False),
        WEIGHT_DECAY,
    ),
    dialects={
        "optax": Dialect(
            {"learning_rate": 1.0, "alpha": 100.0, "epsilon": 1e-8, "weight_decay": 0.0},
            _choose,
            _scalars,
            decay="coupled",
            differs="The learning rate scales the gradients, which changes next to nothing; weight decay is added to "
            "them.",
        ),
        "paper": Dialect(
            {"alpha": 100.0},
            _choose,
            _scalars,
            differs="No learning rate; L starts at 0, and a coordinate without any gradient stays.",
        ),
    },
    default_dialect="optax",
)

ALGORITHMS = (COCOB,)
