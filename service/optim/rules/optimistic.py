"""Optimistic descent, which expects the next gradient to change as the last one did: plain, and through Adam."""

from __future__ import annotations

from typing import Any, NamedTuple

from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.rule import (
    BETA1,
    BETA2,
    EPSILON,
    EPSILON_ROOT,
    LEARNING_RATE,
    NESTEROV,
    Algorithm,
    Dialect,
    Rule,
    Values,
    divide,
    sqrt,
)
from service.optim.rules.adam import BETAS
from service.optim.rules.nadam import nesterov_shares


class Scalars(NamedTuple):
    """Scalars of `optimistic`."""

    learning_rate: float
    now: float
    before: float
    one: float


class AdamScalars(NamedTuple):
    """Scalars of `optimistic_adam`."""

    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    momentum_share: float
    gradient_share: float
    bias_correction2: float
    epsilon_root: float
    epsilon: float
    learning_rate: float
    now: float
    before: float
    zero: float


def optimistic(p: Any, g: Any, previous: Any, c: Scalars) -> Any:
    """p ← p - α ((a + b) g - b g'), g' the gradient of the step before."""
    return p - c.learning_rate * (c.now * g - c.before * previous), c.one * g


def optimistic_adam(p: Any, g: Any, m: Any, v: Any, previous: Any, c: AdamScalars) -> Any:
    """The same with Adam's directions in the place of the gradients."""
    m = m + c.one_minus_beta1 * (g - m)
    v = c.beta2 * v + c.one_minus_beta2 * (g * g)
    step = c.momentum_share * m + c.gradient_share * g
    u = divide(step, sqrt(v / c.bias_correction2 + c.epsilon_root) + c.epsilon, c.zero)
    return p - c.learning_rate * (c.now * u - c.before * previous), m, v, u


_OPTIMISTIC = Rule(optimistic, ("previous_gradient",))
_OPTIMISTIC_ADAM = Rule(optimistic_adam, ("first_moment", "second_moment", "previous_direction"))


def _choose(values: Values) -> Rule:
    return _OPTIMISTIC


def _choose_adam(values: Values) -> Rule:
    return _OPTIMISTIC_ADAM


def _weights(values: Values, t: int) -> tuple[float, float]:
    """Of this direction and of the last one; optax takes the first for its own predecessor."""
    weight, optimism = values["gradient_weight"], values["optimism"]
    return (weight, 0.0) if t == 1 else (weight + optimism, optimism)


def _optax(values: Values, t: int) -> Scalars:
    return Scalars(values["learning_rate"], *_weights(values, t), 1.0)


def _paper(values: Values, t: int) -> Scalars:
    return Scalars(values["learning_rate"], 2.0, 1.0, 1.0)


def _adam(values: Values, t: int, now: float, before: float) -> AdamScalars:
    beta1, beta2 = values["beta1"], values["beta2"]
    shares = nesterov_shares(beta1, t) if values.get("nesterov") else (1.0 / (1.0 - beta1**t), 0.0)
    return AdamScalars(
        1.0 - beta1,
        beta2,
        1.0 - beta2,
        shares[0],
        shares[1],
        1.0 - beta2**t,
        values.get("epsilon_root", 0.0),
        values["epsilon"],
        values["learning_rate"],
        now,
        before,
        0.0,
    )


def _adam_optax(values: Values, t: int) -> AdamScalars:
    return _adam(values, t, *_weights(values, t))


def _adam_paper(values: Values, t: int) -> AdamScalars:
    return _adam(values, t, 2.0, 1.0)


_SOURCE = "C. Daskalakis, A. Ilyas, V. Syrgkanis and H. Zeng, Training GANs with Optimism, ICLR 2018, arXiv:1711.00141."
_WEIGHTS = (
    Hyperparameter("gradient_weight", "Weight a of the direction itself.", low=0.0),
    Hyperparameter("optimism", "Weight b of its change since the last step.", low=0.0),
)
_ONES = {"gradient_weight": 1.0, "optimism": 1.0}

OPTIMISTIC = Algorithm(
    name="optimistic_gradient_descent",
    title="Optimistic gradient descent",
    summary="Gradient descent that adds the gradient's last change, as if it would come again.",
    equation=r"\theta_t = \theta_{t-1} - \alpha\, ((a + b)\, g_t - b\, g_{t-1})",
    source=_SOURCE,
    when="Games and saddle points, where plain descent circles for ever. On an ordinary minimum it gains nothing.",
    hyperparameters=(LEARNING_RATE, *_WEIGHTS),
    dialects={
        "optax": Dialect(
            {"learning_rate": REQUIRED, **_ONES},
            _choose,
            _optax,
            differs="In the first step the gradient stands for its own predecessor.",
        ),
        "paper": Dialect(
            {"learning_rate": 1e-2},
            _choose,
            _paper,
            differs="Both weights are 1, and before the first gradient there was zero: the first step is twice "
            "optax's. The default rate of 0.01 is not the paper's, which names none.",
        ),
    },
    default_dialect="paper",
)

OPTIMISTIC_ADAM = Algorithm(
    name="optimistic_adam",
    title="Optimistic Adam",
    summary="Adam's direction and its last change, for games.",
    equation=r"u_t = \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon}, \qquad \theta_t = \theta_{t-1} - \alpha\, ((a + b)\, "
    r"u_t - b\, u_{t-1})",
    source=_SOURCE,
    when="Adversarial training, where Adam cycles. With a single loss take Adam.",
    hyperparameters=(LEARNING_RATE, *_WEIGHTS, BETA1, BETA2, EPSILON, EPSILON_ROOT, NESTEROV),
    dialects={
        "optax": Dialect(
            {
                "learning_rate": REQUIRED,
                **_ONES,
                **BETAS,
                "epsilon": 1e-8,
                "epsilon_root": 0.0,
                "nesterov": True,
            },
            _choose_adam,
            _adam_optax,
            differs="optimistic_adam_v2: NAdam's direction unless nesterov is false; the first direction stands for "
            "its own predecessor.",
        ),
        "paper": Dialect(
            {"learning_rate": 1e-3, **BETAS, "epsilon": 1e-8},
            _choose_adam,
            _adam_paper,
            differs="Algorithm 1: Adam's direction, both weights 1, and zero before the first: the first step is "
            "2 α. The default rate of 0.001 is Adam's.",
        ),
    },
    default_dialect="paper",
)

ALGORITHMS = (OPTIMISTIC, OPTIMISTIC_ADAM)
