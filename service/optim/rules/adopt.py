"""ADOPT: Adam that normalises before it averages, by the second moment of the step before."""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.rule import (
    BETA1,
    BETA2,
    EPSILON,
    LEARNING_RATE,
    NESTEROV,
    Algorithm,
    Dialect,
    Rule,
    Values,
    divide,
    maximum,
    minimum,
    sqrt,
)


class Scalars(NamedTuple):
    """Scalars of `adopt`; the step is `momentum_share` of the mean and `gradient_share` of the newest term."""

    beta1: float
    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    limit: float
    momentum_share: float
    gradient_share: float
    learning_rate: float
    epsilon: float
    zero: float


def adopt(p: Any, g: Any, m: Any, v: Any, c: Scalars) -> Any:
    """m ← β₁ m + (1 - β₁) clip(g / max(√v, ε));  p ← p - α m;  only then v ← β₂ v + (1 - β₂) g²."""
    scaled = divide(g, maximum(sqrt(v), c.epsilon), c.zero)
    scaled = minimum(maximum(scaled, -c.limit), c.limit)
    m = c.one_minus_beta1 * scaled + c.beta1 * m
    v = c.one_minus_beta2 * (g * g) + c.beta2 * v
    return p - c.learning_rate * (c.momentum_share * m + c.gradient_share * scaled), m, v


_RULE = Rule(adopt, ("first_moment", "second_moment"))


def _choose(values: Values) -> Rule:
    return _RULE


def _scalars(values: Values, t: int) -> Scalars:
    """The first step only sets v to g²: nothing passes its limit of 0."""
    beta1, beta2 = (values["beta1"], values["beta2"]) if t > 1 else (1.0, 0.0)
    ahead = values.get("nesterov")
    return Scalars(
        beta1,
        1.0 - beta1,
        beta2,
        1.0 - beta2,
        (t - 1.0) ** 0.25 if values["use_clipping"] or t == 1 else inf,
        beta1 if ahead else 1.0,
        1.0 - beta1 if ahead else 0.0,
        values["learning_rate"],
        values["epsilon"],
        0.0,
    )


_DEFAULTS = {"beta1": 0.9, "beta2": 0.9999, "epsilon": 1e-6, "use_clipping": True}

ADOPT = Algorithm(
    name="adopt",
    title="ADOPT",
    summary="Adam made to converge with any β₂: a gradient never stands in its own denominator.",
    equation=r"m_t = \beta_1 m_{t-1} + (1-\beta_1)\, \mathrm{clip}\left( \frac{g_t}{\max(\sqrt{v_{t-1}}, \epsilon)}, "
    r"\pm (t-1)^{1/4} \right), \qquad \theta_t = \theta_{t-1} - \alpha\, m_t",
    source="S. Taniguchi et al., ADOPT: Modified Adam Can Converge with Any β₂ with the Optimal Rate, NeurIPS 2024, "
    "arXiv:2411.02853.",
    when="Noisy or heavy-tailed gradients on which Adam is unstable. The first step does not move: it measures.",
    hyperparameters=(
        LEARNING_RATE,
        BETA1,
        BETA2,
        EPSILON,
        Hyperparameter("use_clipping", "Hold the normalised gradient at ±(t - 1)^(1/4).", "boolean"),
        NESTEROV,
    ),
    dialects={
        "optax": Dialect(
            {"learning_rate": REQUIRED, **_DEFAULTS, "nesterov": False},
            _choose,
            _scalars,
            differs="With Nesterov's form on request; the learning rate must be given.",
        ),
        "paper": Dialect(
            {"learning_rate": 1e-3, **_DEFAULTS},
            _choose,
            _scalars,
            differs="The same; its first gradient, which only starts the second moment, is our step 1.",
        ),
    },
    default_dialect="paper",
)

ALGORITHMS = (ADOPT,)
