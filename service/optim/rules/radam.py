"""RAdam: Adam that waits until its second moment can be trusted."""

from __future__ import annotations

from math import sqrt as root
from typing import Any, NamedTuple

from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.rule import (
    BETA1,
    BETA2,
    EPSILON,
    EPSILON_ROOT,
    LEARNING_RATE,
    MAXIMIZE,
    NESTEROV,
    WEIGHT_DECAY,
    Algorithm,
    Dialect,
    Rule,
    Values,
    divide,
    sqrt,
    where,
)
from service.optim.rules.adam import BETAS, DECOUPLED, one_decay
from service.optim.rules.nadam import nesterov_shares


class Scalars(NamedTuple):
    """Scalars of `radam`; `rectified` is 0 while the step is momentum's, 1 when it is Adam's."""

    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    momentum_share: float
    gradient_share: float
    rectified: float
    bias_correction2: float
    epsilon_root: float
    epsilon: float
    one: float
    zero: float


def radam(p: Any, g: Any, m: Any, v: Any, c: Scalars) -> Any:
    """Momentum at first, then Adam, shortened by r while the variance of its rate is large (Liu et al. 2020)."""
    m = m + c.one_minus_beta1 * (g - m)
    v = c.beta2 * v + c.one_minus_beta2 * (g * g)
    adaptive = sqrt(v / c.bias_correction2 + c.epsilon_root) + c.epsilon
    step = c.momentum_share * m + c.gradient_share * g
    return p - divide(step, where(c.rectified > c.zero, adaptive, c.one), c.zero), m, v


_RULE = Rule(radam, ("first_moment", "second_moment"))


def _choose(values: Values) -> Rule:
    return _RULE


def _length(beta2: float, t: int, power: float) -> tuple[float, float]:
    """The length of the simple average that v approximates at t, and for ever; `power` is β₂ᵗ.

    At the first steps it is the small difference of two large numbers, so that the last bit of the power shows.
    """
    limit = 2.0 / (1.0 - beta2) - 1.0
    return limit - 2.0 * t * power / (1.0 - power), limit


def _by_squaring(base: float, exponent: int) -> float:
    """A power as jax takes it, to the bit; the C library's is rounded once, this one several times."""
    power = 1.0
    while exponent:
        if exponent & 1:
            power *= base
        base *= base
        exponent >>= 1
    return power


def _rectification(length: float, limit: float) -> float:
    return root((length - 4.0) * (length - 2.0) * limit / ((limit - 4.0) * (limit - 2.0) * length))


def _scalars(values: Values, t: int, *, rectified: bool, length: tuple[float, float]) -> Scalars:
    beta1, beta2 = values["beta1"], values["beta2"]
    rate = values["learning_rate"] * (_rectification(*length) if rectified else 1.0)
    shares = nesterov_shares(beta1, t) if values.get("nesterov") else (1.0 / (1.0 - beta1**t), 0.0)
    return Scalars(
        1.0 - beta1,
        beta2,
        1.0 - beta2,
        rate * shares[0],
        rate * shares[1],
        1.0 if rectified else 0.0,
        1.0 - beta2**t,
        values.get("epsilon_root", 0.0),
        values["epsilon"],
        1.0,
        0.0,
    )


def _torch(values: Values, t: int) -> Scalars:
    length = _length(values["beta2"], t, values["beta2"] ** t)
    c = _scalars(values, t, rectified=length[0] > 5.0, length=length)
    return c._replace(epsilon=values["epsilon"] / root(c.bias_correction2))  # ε beside the uncorrected root


def _optax(values: Values, t: int) -> Scalars:
    length = _length(values["beta2"], t, _by_squaring(values["beta2"], t))
    return _scalars(values, t, rectified=length[0] >= values["threshold"], length=length)


def _paper(values: Values, t: int) -> Scalars:
    length = _length(values["beta2"], t, values["beta2"] ** t)
    return _scalars({**values, "epsilon": 0.0}, t, rectified=length[0] > 4.0, length=length)


RADAM = Algorithm(
    name="radam",
    title="RAdam",
    summary="Adam with a warm-up that follows from the variance of its own rate.",
    equation=r"\theta_t = \theta_{t-1} - \alpha\, r_t\, \frac{\hat m_t}{\sqrt{\hat v_t}}, \quad r_t = \sqrt{"
    r"\frac{(\rho_t - 4)(\rho_t - 2)\, \rho_\infty}{(\rho_\infty - 4)(\rho_\infty - 2)\, \rho_t}}, \quad \rho_t = "
    r"\rho_\infty - \frac{2 t \beta_2^t}{1 - \beta_2^t}",
    source="L. Liu et al., On the Variance of the Adaptive Learning Rate and Beyond, ICLR 2020, arXiv:1908.03265.",
    when="Where Adam needs a warm-up and none is to be tuned. With a warm-up of its own Adam does as well.",
    hyperparameters=(
        LEARNING_RATE,
        BETA1,
        BETA2,
        EPSILON,
        EPSILON_ROOT,
        Hyperparameter("threshold", "The ρ from which on the second moment is used.", above=4.0),
        NESTEROV,
        WEIGHT_DECAY,
        DECOUPLED,
        MAXIMIZE,
    ),
    dialects={
        "torch": Dialect(
            {
                "learning_rate": 1e-3,
                **BETAS,
                "epsilon": 1e-8,
                "weight_decay": 0.0,
                "decoupled_weight_decay": False,
                "maximize": False,
            },
            _choose,
            _torch,
            decay="coupled",
            counter="parameter",
            check=one_decay,
            differs="Rectified where ρ > 5; ε is not divided by √(1 - β₂ᵗ).",
        ),
        "optax": Dialect(
            {
                "learning_rate": REQUIRED,
                **BETAS,
                "epsilon": 1e-8,
                "epsilon_root": 0.0,
                "threshold": 5.0,
                "nesterov": False,
            },
            _choose,
            _optax,
            differs="Rectified where ρ is at least the threshold; ε beside the corrected root, a second inside.",
        ),
        "paper": Dialect(
            {"learning_rate": 1e-3, **BETAS},
            _choose,
            _paper,
            differs="Rectified where ρ > 4, one step earlier than in the libraries; no ε.",
        ),
    },
)

ALGORITHMS = (RADAM,)
