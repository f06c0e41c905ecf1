"""Mechanic: learns the factor by which to multiply what another optimizer has done so far."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.rule import PARAMETERS, WEIGHT_DECAY, Algorithm, Dialect, Rule, Values, dot, norm, total
from service.optim.rules.lookahead import OPTIMIZER, change


class Scalars(NamedTuple):
    """Scalars of `mechanic`."""

    weight_decay: float
    epsilon: float
    initial_scale: float


def mechanic(p: Any, g: Any, step: Callable[..., Any], origin: Any, s: Any, r: Any, m: Any, v: Any, c: Scalars) -> Any:
    """θ ← θ₀ - (Σ s) Δ, where Δ adds up the steps and each s bets on ⟨g, Δ⟩ with a memory of its own (Algorithm 1)."""
    scale = total(s)
    path = (origin - p) / (scale + c.epsilon)
    size = c.weight_decay * scale * norm(g)
    h = dot(g + size / (norm(p) + c.epsilon) * p, path)
    path = path - change(step, p, g)
    betas = np.array([1.0 - 0.1**k for k in range(1, s.size + 1)])
    clipped = np.minimum(np.maximum(h, -m), m)
    m = np.maximum(betas * m, abs(h) + c.epsilon)
    v = betas * betas * v + h * h
    r = betas * r + clipped * s
    wealth = (c.initial_scale / s.size) * m + np.maximum(r, 0.0)
    s = wealth / (np.sqrt(v) + c.epsilon)
    new = origin - total(s) * path
    return p + (new - p), origin, s, r, m, v


@cache
def _rule(betas: int) -> Rule:
    """The rule with so many memories."""
    slots = ("scales", "reward", "largest_product", "sum_of_squares")
    return Rule(
        mechanic,
        ("first_parameters", *slots),
        {"first_parameters": PARAMETERS, "scales": "initial_scale"},
        span="all",
        shapes=dict.fromkeys(slots, (betas,)),
        wraps=True,
    )


def _choose(values: Values) -> Rule:
    return _rule(values["memories"])


def _scalars(values: Values, t: int) -> Scalars:
    return Scalars(values["weight_decay"], values["epsilon"], values["initial_scale"])


MECHANIC = Algorithm(
    name="mechanic",
    title="Mechanic",
    summary="Learns the learning rate of the optimizer that it wraps: how each step agrees with the next gradient.",
    equation=r"\theta_{t+1} = \theta_0 - \left(\sum_i s_{t,i}\right) \Delta_{t+1}, \quad "
    r"\Delta_{t+1} = \Delta_t - u_t, \quad s_{t,i} = \frac{W_{t,i}}{\sqrt{v_{t,i}} + \epsilon}",
    source="A. Cutkosky, A. Defazio and H. Mehta, Mechanic: A Learning Rate Tuner, NeurIPS 2023, arXiv:2306.00144.",
    when="Around SGD, Adam or Lion with a rate of 1 (or a schedule that starts there), where the scale of the rate is "
    "not known. Not around rules that normalise each tensor's step, such as LAMB and LARS.",
    hyperparameters=(
        OPTIMIZER,
        WEIGHT_DECAY,
        Hyperparameter("epsilon", "Added to what is divided by, ε; nothing was seen at first.", above=0.0),
        Hyperparameter("initial_scale", "What each factor s starts at.", above=0.0, schedulable=False),
        Hyperparameter("memories", "How many decay rates bet: 0.9, 0.99, 0.999, ...", "integer", low=1, high=15),
    ),
    dialects={
        "optax": Dialect(
            {"optimizer": REQUIRED, "weight_decay": 1e-2, "epsilon": 1e-8, "initial_scale": 1e-6, "memories": 6},
            _choose,
            _scalars,
            decay="own",
            differs="The authors' own: weight decay enters the gradient that is bet on, in proportion to its norm, and "
            "not the wrapped optimizer's; the products are clipped to the largest so far. Every factor starts at "
            "initial_scale, so that the first sum is as many times that as there are memories.",
        ),
    },
    kind="wrapper",
    default_dialect="optax",
)

ALGORITHMS = (MECHANIC,)
