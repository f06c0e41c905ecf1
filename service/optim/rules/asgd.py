"""ASGD: gradient descent with a falling rate, and the average of its iterates."""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

from service.optim.hyperparameters import Hyperparameter
from service.optim.rule import LEARNING_RATE, MAXIMIZE, WEIGHT_DECAY, Algorithm, Dialect, Rule, Values, where


class Scalars(NamedTuple):
    """Scalars of `asgd`; `next_rate` is the rate of the step after this one."""

    decay: float
    next_rate: float
    share: float
    one: float
    zero: float


def asgd(p: Any, g: Any, rate: Any, average: Any, c: Scalars) -> Any:
    """p ← (1 - λ η) p - η g;  a ← a + μ (p - a) (Polyak and Juditsky 1992)."""
    p = p * (c.one - c.decay * rate) - rate * g
    average = where(c.share < c.one, average + (p - average) * c.share, p)
    return p, c.zero * rate + c.next_rate, average


_RULE = Rule(asgd, ("rate", "averaged_parameters"), {"rate": "learning_rate"})


def _choose(values: Values) -> Rule:
    return _RULE


def _scalars(values: Values, t: int) -> Scalars:
    rate, decay = values["learning_rate"], values["decay"]
    try:
        slower = (1.0 + decay * rate * t) ** values["power"]
    except OverflowError:
        slower = inf
    return Scalars(
        decay,
        rate / slower,
        1.0 / max(1.0, t - 1 - values["averaging_start"]),
        1.0,
        0.0,
    )


ASGD = Algorithm(
    name="asgd",
    title="Averaged SGD (ASGD)",
    summary="Gradient descent with a falling rate that also keeps the mean of the parameters it went through.",
    equation=r"\theta_t = (1 - \lambda \eta_t)\, \theta_{t-1} - \eta_t g_t, \quad \eta_{t+1} = \frac{\eta}{(1 + "
    r"\lambda \eta t)^{\alpha}}, \quad a_t = a_{t-1} + \mu_t (\theta_t - a_{t-1})",
    source="B. T. Polyak and A. B. Juditsky, Acceleration of Stochastic Approximation by Averaging, SIAM J. Control "
    "Optim. 30 (1992), doi:10.1137/0330046.",
    when="Noisy gradients near the end of training: the average is steadier than the last iterate. The answer is the "
    "slot averaged_parameters; until averaging starts it equals the parameters.",
    hyperparameters=(
        LEARNING_RATE,
        Hyperparameter("decay", "λ: shrinks the parameters by λ η in each step, and makes the rate fall.", low=0.0),
        Hyperparameter("power", "α, with which the rate falls.", low=0.0),
        Hyperparameter("averaging_start", "The step after which the average is more than the last iterate.", low=0.0),
        WEIGHT_DECAY,
        MAXIMIZE,
    ),
    dialects={
        "torch": Dialect(
            {
                "learning_rate": 1e-2,
                "decay": 1e-4,
                "power": 0.75,
                "averaging_start": 1e6,
                "weight_decay": 0.0,
                "maximize": False,
            },
            _choose,
            _scalars,
            decay="coupled",
            counter="parameter",
            differs="A changed learning rate acts one step late, for the rate of a step is made by the step before; "
            "torch calls the average ax.",
        ),
    },
)

ALGORITHMS = (ASGD,)
