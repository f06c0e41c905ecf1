"""AdaGrad: a learning rate per coordinate, falling with the squares seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.rule import (
    EPSILON,
    LEARNING_RATE,
    MAXIMIZE,
    WEIGHT_DECAY,
    Algorithm,
    Dialect,
    Rule,
    Values,
    divide,
    sqrt,
)


class Scalars(NamedTuple):
    """Scalars of `adagrad`."""

    learning_rate: float
    epsilon_inside: float
    epsilon_outside: float
    zero: float


def adagrad(p: Any, g: Any, s: Any, c: Scalars) -> Any:
    """s ← s + g²;  p ← p - α g / (√s + ε) (Duchi, Hazan and Singer 2011)."""
    s = s + g * g
    return p - divide(c.learning_rate * g, sqrt(s + c.epsilon_inside) + c.epsilon_outside, c.zero), s


_RULE = Rule(adagrad, ("sum",), {"sum": "initial_accumulator_value"})
_SPARSE = replace(_RULE, sparse="zero")


def _outside(values: Values, t: int) -> Scalars:
    rate = values["learning_rate"] / (1.0 + (t - 1) * values.get("learning_rate_decay", 0.0))
    return Scalars(rate, 0.0, values["epsilon"], 0.0)


def _inside(values: Values, t: int) -> Scalars:
    return Scalars(values["learning_rate"], values["epsilon"], 0.0, 0.0)


def _choose(values: Values) -> Rule:
    return _RULE


def _choose_torch(values: Values) -> Rule:
    return _SPARSE


INITIAL_ACCUMULATOR = Hyperparameter(
    "initial_accumulator_value", "What the sum of squares starts at.", low=0.0, schedulable=False
)

ADAGRAD = Algorithm(
    name="adagrad",
    title="AdaGrad",
    summary="Divides each coordinate's step by the root of all its squared gradients so far.",
    equation=r"s_t = s_{t-1} + g_t^2, \qquad \theta_t = \theta_{t-1} - \frac{\alpha}{\sqrt{s_t} + \epsilon}\, g_t",
    source="J. Duchi, E. Hazan and Y. Singer, Adaptive Subgradient Methods for Online Learning and Stochastic "
    "Optimization, JMLR 12 (2011) 2121-2159.",
    when="Sparse features, where rare coordinates should move far. On long runs its steps shrink until it stands "
    "still.",
    hyperparameters=(
        LEARNING_RATE,
        Hyperparameter("learning_rate_decay", "α is divided by 1 + (t - 1) times this.", low=0.0),
        INITIAL_ACCUMULATOR,
        EPSILON,
        WEIGHT_DECAY,
        MAXIMIZE,
    ),
    dialects={
        "torch": Dialect(
            {
                "learning_rate": 1e-2,
                "learning_rate_decay": 0.0,
                "initial_accumulator_value": 0.0,
                "epsilon": 1e-10,
                "weight_decay": 0.0,
                "maximize": False,
            },
            _choose_torch,
            _outside,
            decay="coupled",
            counter="parameter",
            differs="ε outside the root, the sum starts at 0, and the rate has a decay of its own. Sparse gradients "
            "are taken, but not with weight decay.",
        ),
        "optax": Dialect(
            {"learning_rate": REQUIRED, "initial_accumulator_value": 0.1, "epsilon": 1e-7},
            _choose,
            _inside,
            differs="ε inside the root, the sum starts at 0.1: the first steps are much shorter than torch's.",
        ),
        "keras": Dialect(
            {"learning_rate": 1e-3, "initial_accumulator_value": 0.1, "epsilon": 1e-7, "weight_decay": 0.0},
            _choose,
            _inside,
            decay="decoupled",
            differs="As optax, with a default rate of 0.001 and decoupled weight decay.",
        ),
        "paper": Dialect(
            {"learning_rate": REQUIRED, "initial_accumulator_value": 0.0, "epsilon": 0.0},
            _choose,
            _outside,
            differs="δ (here ε) is added outside the root and may be 0: a coordinate whose gradients were all zero "
            "does not move (the pseudo-inverse).",
        ),
        "scratch": Dialect(
            {"learning_rate": 0.01, "initial_accumulator_value": 0.0, "epsilon": 1e-7},
            _choose,
            _outside,
            differs="ε = 1e-7 outside the root, as in Deep Learning from Scratch.",
        ),
    },
)

ALGORITHMS = (ADAGRAD,)
