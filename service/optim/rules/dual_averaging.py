"""Dual averaging, whose parameters follow from sums over all gradients: FTRL and MADGRAD."""

from __future__ import annotations

from math import inf
from math import sqrt as root
from typing import Any, NamedTuple

from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.rule import (
    EPSILON,
    LEARNING_RATE,
    PARAMETERS,
    WEIGHT_DECAY,
    Algorithm,
    Dialect,
    Rule,
    Values,
    cube_root,
    divide,
    sqrt,
    where,
)
from service.optim.rules.adagrad import INITIAL_ACCUMULATOR


class FtrlScalars(NamedTuple):
    """Scalars of `ftrl`; `l2` holds β / α too."""

    learning_rate: float
    l1: float
    l2: float
    shrinkage: float
    zero: float


class Scalars(NamedTuple):
    """Scalars of `madgrad`; `weight` is λ, that of this step's gradient."""

    weight: float
    momentum: float
    one_minus_momentum: float
    epsilon: float
    zero: float


def ftrl(p: Any, g: Any, n: Any, z: Any, c: FtrlScalars) -> Any:
    """z ← z + g - (√(n + g²) - √n) / α p;  p ← (clip(z, ±λ₁) - z) / (√n / α + λ₂) (McMahan et al. 2013)."""
    before = sqrt(n)
    n = n + g * g
    after = sqrt(n)
    z = z + (g + c.shrinkage * p - (after - before) / c.learning_rate * p)
    past = where(z > c.l1, c.l1 - z, where(z < -c.l1, -c.l1 - z, c.zero))
    return divide(past, after / c.learning_rate + c.l2, c.zero), n, z


def madgrad(p: Any, g: Any, s: Any, q: Any, origin: Any, c: Scalars) -> Any:
    """s ← s + λ g;  q ← q + λ g²;  z = x₀ - s / ∛q;  p ← μ p + (1 - μ) z (Defazio and Jelassi 2021)."""
    q = q + c.weight * (g * g)
    s = s + c.weight * g
    z = origin - divide(s, cube_root(q, c.zero) + c.epsilon, c.zero)
    return p + (c.one_minus_momentum * z + c.momentum * p - p), s, q, origin


_FTRL = Rule(ftrl, ("sum_of_squares", "linear"), {"sum_of_squares": "initial_accumulator_value"})
_MADGRAD = Rule(madgrad, ("sum", "sum_of_squares", "first_parameters"), {"first_parameters": PARAMETERS})


def _choose_ftrl(values: Values) -> Rule:
    return _FTRL


def _choose_madgrad(values: Values) -> Rule:
    return _MADGRAD


def _ftrl_keras(values: Values, t: int) -> FtrlScalars:
    return _ftrl(values, 2.0 * values["l2"])._replace(shrinkage=2.0 * values["l2_shrinkage"])


def _ftrl_paper(values: Values, t: int) -> FtrlScalars:
    return _ftrl(values, values["l2"])


def _ftrl(values: Values, l2: float) -> FtrlScalars:
    rate = values["learning_rate"]
    by_beta = values["beta"] / rate if rate > 0.0 else inf  # a rate that follows a schedule may underflow
    return FtrlScalars(rate, values["l1"], l2 + by_beta, 0.0, 0.0)


def _madgrad(values: Values, t: int) -> Scalars:
    momentum = values["momentum"]
    return Scalars(values["learning_rate"] * root(t), momentum, 1.0 - momentum, values["epsilon"], 0.0)


def _madgrad_optax(values: Values, t: int) -> Scalars:
    return _madgrad({**values, "learning_rate": values["learning_rate"] + values["epsilon"]}, t)


FTRL = Algorithm(
    name="ftrl",
    title="FTRL-Proximal",
    summary="Follow the regularised leader: AdaGrad in the dual, with an L1 penalty that gives exact zeros.",
    equation=r"\theta_t = -\frac{z_t - \mathrm{clip}(z_t, \pm\lambda_1)}{\sqrt{n_t} / \alpha + \beta / \alpha + "
    r"\lambda_2}, \qquad z_t = z_{t-1} + g_t - \frac{\sqrt{n_t} - \sqrt{n_{t-1}}}{\alpha}\, \theta_{t-1}",
    source="H. B. McMahan et al., Ad Click Prediction: a View from the Trenches, KDD 2013, "
    "doi:10.1145/2487575.2488200.",
    when="Sparse linear models, click prediction above all, where most weights should be exactly zero. The first "
    "step overwrites the initial parameters: it suits models that start at zero.",
    hyperparameters=(
        Hyperparameter("learning_rate", "Step size α.", above=0.0),
        Hyperparameter("beta", "β, added to the root of the squares.", low=0.0),
        Hyperparameter("l1", "λ₁: below it a sum of gradients leaves the parameter at zero.", low=0.0),
        Hyperparameter("l2", "λ₂: pulls towards zero.", low=0.0),
        Hyperparameter("l2_shrinkage", "Adds twice this times the parameter to the gradient.", low=0.0),
        INITIAL_ACCUMULATOR,
        WEIGHT_DECAY,
    ),
    dialects={
        "keras": Dialect(
            {
                "learning_rate": 1e-3,
                "beta": 0.0,
                "l1": 0.0,
                "l2": 0.0,
                "l2_shrinkage": 0.0,
                "initial_accumulator_value": 0.1,
                "weight_decay": 0.0,
            },
            _choose_ftrl,
            _ftrl_keras,
            decay="decoupled",
            differs="l2 counts twice, the squares start at 0.1 and β is 0; learning_rate_power is always -0.5.",
        ),
        "paper": Dialect(
            {"learning_rate": 0.1, "beta": 1.0, "l1": 0.0, "l2": 0.0},
            _choose_ftrl,
            _ftrl_paper,
            differs="β = 1, the squares start at 0, and l2 counts once.",
        ),
    },
    default_dialect="keras",
)

MADGRAD = Algorithm(
    name="madgrad",
    title="MADGRAD",
    summary="Dual averaging from the first parameters, with the cube root of the squares, and momentum.",
    equation=r"z_t = \theta_0 - \frac{s_t}{(q_t)^{1/3} + \epsilon}, \qquad \theta_t = \mu\, \theta_{t-1} + (1-\mu)\, "
    r"z_t, \qquad \lambda_t = \alpha \sqrt{t}",
    source="A. Defazio and S. Jelassi, Adaptivity without Compromise: A Momentumized, Adaptive, Dual Averaged Gradient "
    "Method for Stochastic Optimization, arXiv:2101.11075.",
    when="Where either SGD or Adam would do and which is not known. Weight decay must be smaller than for SGD, often "
    "zero, for the first parameters stay in every step.",
    hyperparameters=(
        LEARNING_RATE,
        Hyperparameter("momentum", "Share of the last iterate that is kept, μ.", low=0.0, below=1.0),
        EPSILON,
        WEIGHT_DECAY,
    ),
    dialects={
        "optax": Dialect(
            {"learning_rate": REQUIRED, "momentum": 0.9, "epsilon": 1e-6, "weight_decay": 0.0},
            _choose_madgrad,
            _madgrad_optax,
            decay="coupled",
            differs="ε is also added to the learning rate; weight decay is added to the gradient.",
        ),
        "paper": Dialect(
            {"learning_rate": 1e-2, "momentum": 0.9, "epsilon": 1e-6},
            _choose_madgrad,
            _madgrad,
            differs="Algorithm 1: ε beside the cube root alone.",
        ),
    },
    default_dialect="paper",
)

ALGORITHMS = (FTRL, MADGRAD)
