"""NovoGrad: one second moment for each tensor."""

from __future__ import annotations

from math import sqrt as root
from typing import Any, NamedTuple

import numpy as np

from service.optim.hyperparameters import REQUIRED
from service.optim.rule import (
    BETA1,
    BETA2,
    EPSILON,
    EPSILON_ROOT,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Algorithm,
    Dialect,
    Rule,
    Values,
    dot,
)


class Scalars(NamedTuple):
    """Scalars of `novograd`; `first` says that this is the first step."""

    beta1: float
    beta2: float
    learning_rate: float
    epsilon_root: float
    epsilon: float
    weight_decay: float
    first: bool


def novograd(p: Any, g: Any, m: Any, v: Any, c: Scalars) -> Any:
    """v ← β₂ v + (1 - β₂) ‖g‖²;  m ← β₁ m + (g / (√v + ε) + λ p);  p ← p - α m (Ginsburg et al. 2019, Algorithm 1)."""
    square = dot(g, g)
    mean = square if c.first else c.beta2 * float(v[()]) + (1.0 - c.beta2) * square
    below = root(mean + c.epsilon_root) + c.epsilon if mean >= 0.0 else mean
    d = g / below if below != 0.0 else 0.0 * g
    d = d + c.weight_decay * p
    m = d if c.first else c.beta1 * m + d
    return p - c.learning_rate * m, m, np.asarray(mean)


_RULE = Rule(
    novograd,
    ("first_moment", "second_moment"),
    span="tensor",
    shapes={"second_moment": lambda shape: ()},
)


def _choose(values: Values) -> Rule:
    return _RULE


def _scalars(values: Values, t: int) -> Scalars:
    return Scalars(
        values["beta1"],
        values["beta2"],
        values["learning_rate"],
        values["epsilon_root"],
        values["epsilon"],
        values["weight_decay"],
        t == 1,
    )


NOVOGRAD = Algorithm(
    name="novograd",
    title="NovoGrad",
    summary="Momentum of gradients that are divided by a running mean of their tensor's norm: half the state of Adam.",
    equation=r"v_t = \beta_2 v_{t-1} + (1-\beta_2) \Vert g_t \Vert^2, \quad "
    r"m_t = \beta_1 m_{t-1} + \frac{g_t}{\sqrt{v_t} + \epsilon} + \lambda \theta_{t-1}, \quad "
    r"\theta_t = \theta_{t-1} - \alpha m_t",
    source="B. Ginsburg et al., Stochastic Gradient Methods with Layer-wise Adaptive Moments for Training of Deep "
    "Networks, 2019, Algorithm 1, arXiv:1905.11286.",
    when="Speech and image networks with large batches, where Adam's second moment is too much memory. It does not "
    "tell the coordinates of a tensor apart, so that it does poorly where they differ in scale, as in embeddings.",
    hyperparameters=(LEARNING_RATE, BETA1, BETA2, EPSILON, EPSILON_ROOT, WEIGHT_DECAY),
    dialects={
        "optax": Dialect(
            {
                "learning_rate": REQUIRED,
                "beta1": 0.9,
                "beta2": 0.25,
                "epsilon": 1e-6,
                "epsilon_root": 0.0,
                "weight_decay": 0.0,
            },
            _choose,
            _scalars,
            decay="own",
            differs="The first step's moments are its gradient's own; nothing is bias-corrected. The decay goes "
            "through the momentum.",
        ),
    },
    kind="layerwise",
    default_dialect="optax",
)

ALGORITHMS = (NOVOGRAD,)
