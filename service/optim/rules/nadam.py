"""NAdam: Adam with Nesterov's momentum."""

from __future__ import annotations

from itertools import accumulate
from typing import Any, NamedTuple

from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.rule import (
    BETA1,
    BETA2,
    EPSILON,
    EPSILON_ROOT,
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
from service.optim.rules.adam import BETAS, DECOUPLED, one_decay


class Scalars(NamedTuple):
    """Scalars of `nadam`; the shares hold the learning rate and the bias corrections."""

    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    momentum_share: float
    gradient_share: float
    bias_correction2: float
    epsilon_root: float
    epsilon: float
    zero: float


class ProductScalars(NamedTuple):
    """Scalars of `nadam_product`; `momentum` is μ of this step, `next_momentum` of the step after it."""

    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    momentum: float
    next_momentum: float
    gradient_rate: float
    momentum_rate: float
    bias_correction2: float
    epsilon: float
    one: float
    zero: float


def nadam(p: Any, g: Any, m: Any, v: Any, c: Scalars) -> Any:
    """Adam whose step mixes the corrected mean, taken one step ahead, with the gradient itself."""
    m = m + c.one_minus_beta1 * (g - m)
    v = c.beta2 * v + c.one_minus_beta2 * (g * g)
    step = c.momentum_share * m + c.gradient_share * g
    return p - divide(step, sqrt(v / c.bias_correction2 + c.epsilon_root) + c.epsilon, c.zero), m, v


def nadam_product(p: Any, g: Any, m: Any, v: Any, product: Any, c: ProductScalars) -> Any:
    """The same with momenta μ that grow; their product is kept, for a changed β₁ must not change its past."""
    m = m + c.one_minus_beta1 * (g - m)
    v = c.beta2 * v + c.one_minus_beta2 * (g * g)
    product = c.momentum * product
    now = c.gradient_rate / (c.one - product) * g
    ahead = c.momentum_rate / (c.one - product * c.next_momentum) * m
    return p - divide(now + ahead, sqrt(v / c.bias_correction2) + c.epsilon, c.zero), m, v, product


_NADAM = Rule(nadam, ("first_moment", "second_moment"))
_PRODUCT = Rule(nadam_product, ("first_moment", "second_moment", "momentum_product"), {"momentum_product": 1.0})


def _choose(values: Values) -> Rule:
    return _NADAM


def _choose_product(values: Values) -> Rule:
    return _PRODUCT


def _torch(values: Values, t: int) -> ProductScalars:
    rate, beta1, beta2 = values["learning_rate"], values["beta1"], values["beta2"]
    mu = beta1 * (1.0 - 0.5 * 0.96 ** (t * values["momentum_decay"]))
    following = beta1 * (1.0 - 0.5 * 0.96 ** ((t + 1) * values["momentum_decay"]))
    return ProductScalars(
        1.0 - beta1,
        beta2,
        1.0 - beta2,
        mu,
        following,
        rate * (1.0 - mu),
        rate * following,
        1.0 - beta2**t,
        values["epsilon"],
        1.0,
        0.0,
    )


def _scalars(values: Values, t: int, momentum_share: float, gradient_share: float) -> Scalars:
    beta2, rate = values["beta2"], values["learning_rate"]
    return Scalars(
        1.0 - values["beta1"],
        beta2,
        1.0 - beta2,
        rate * momentum_share,
        rate * gradient_share,
        1.0 - beta2**t,
        values.get("epsilon_root", 0.0),
        values["epsilon"],
        0.0,
    )


def nesterov_shares(beta1: float, t: int) -> tuple[float, float]:
    """What the mean and the gradient are multiplied by in optax's nesterov: β₁ / (1 - β₁ᵗ⁺¹), (1 - β₁) / (1 - β₁ᵗ)."""
    return beta1 / (1.0 - beta1 ** (t + 1)), (1.0 - beta1) / (1.0 - beta1**t)


def _optax(values: Values, t: int) -> Scalars:
    return _scalars(values, t, *nesterov_shares(values["beta1"], t))


# ∏ (1 - 0.96ⁱ / 2) for i up to the index; past 1000 the factors are 1 in double precision
_GROWTH = tuple(accumulate((1.0 - 0.5 * 0.96**i for i in range(1, 1001)), lambda x, y: x * y, initial=1.0))


def _keras(values: Values, t: int) -> Scalars:
    beta1 = values["beta1"]
    mu, following = (beta1 * (1.0 - 0.5 * 0.96**i) for i in (t, t + 1))
    product = beta1**t * _GROWTH[min(t, 1000)]
    return _scalars(values, t, following / (1.0 - product * following), (1.0 - mu) / (1.0 - product))


_SOURCE = "T. Dozat, Incorporating Nesterov Momentum into Adam, ICLR 2016 workshop"
_HYPERPARAMETERS = (LEARNING_RATE, BETA1, BETA2, EPSILON)
MOMENTUM_DECAY = Hyperparameter("momentum_decay", "ψ: β₁ is approached as 1 - 0.96^(t ψ) / 2.", low=0.0)
_TORCH = {"learning_rate": 2e-3, **BETAS, "epsilon": 1e-8, "momentum_decay": 4e-3, "maximize": False}
_OPTAX = {"learning_rate": REQUIRED, **BETAS, "epsilon": 1e-8, "epsilon_root": 0.0}

NADAM = Algorithm(
    name="nadam",
    title="NAdam",
    summary="Adam whose step looks one momentum step ahead.",
    equation=r"\theta_t = \theta_{t-1} - \frac{\alpha}{\sqrt{\hat v_t} + \epsilon} \left( \frac{\mu_{t+1} m_t}{1 - "
    r"\prod_{i=1}^{t+1} \mu_i} + \frac{(1-\mu_t)\, g_t}{1 - \prod_{i=1}^{t} \mu_i} \right)",
    source=f"{_SOURCE}.",
    when="Where Adam works and gradients are not too noisy; often a little faster. The three libraries mean three "
    "different optimizers by it.",
    hyperparameters=(*_HYPERPARAMETERS, EPSILON_ROOT, MOMENTUM_DECAY, WEIGHT_DECAY, DECOUPLED, MAXIMIZE),
    dialects={
        "torch": Dialect(
            {**_TORCH, "weight_decay": 0.0, "decoupled_weight_decay": False},
            _choose_product,
            _torch,
            decay="coupled",
            counter="parameter",
            check=one_decay,
            differs="The momentum grows from β₁ / 2 to β₁ over about a thousand steps (ψ = 0.004, the paper's 1/250).",
        ),
        "optax": Dialect(
            _OPTAX,
            _choose,
            _optax,
            differs="No growing momentum: μ = β₁ from the first step on; a second ε inside the root.",
        ),
        "keras": Dialect(
            {"learning_rate": 1e-3, **BETAS, "epsilon": 1e-7, "weight_decay": 0.0},
            _choose,
            _keras,
            decay="decoupled",
            differs="ψ = 1: the momentum is at β₁ after a hundred steps. One product for all parameters, of the β₁ "
            "of the step; ε = 1e-7; weight decay is decoupled.",
        ),
    },
)

NADAMW = Algorithm(
    name="nadamw",
    title="NAdamW",
    summary="NAdam with weight decay that acts on the parameters, not through the moments.",
    equation=r"\theta_t = (1 - \alpha\lambda)\, \theta_{t-1} - \frac{\alpha}{\sqrt{\hat v_t} + \epsilon} \left( "
    r"\frac{\mu_{t+1} m_t}{1 - \prod_{i=1}^{t+1} \mu_i} + \frac{(1-\mu_t)\, g_t}{1 - \prod_{i=1}^{t} \mu_i} \right)",
    source=f"{_SOURCE}; I. Loshchilov and F. Hutter, Decoupled Weight Decay Regularization, ICLR 2019, "
    "arXiv:1711.05101.",
    when="Where AdamW works; the look ahead shortens training a little. As with AdamW, decays do not carry over "
    "between libraries.",
    hyperparameters=(*_HYPERPARAMETERS, EPSILON_ROOT, MOMENTUM_DECAY, WEIGHT_DECAY, MAXIMIZE),
    dialects={
        "torch": Dialect(
            {**_TORCH, "weight_decay": 1e-2},
            _choose_product,
            _torch,
            decay="decoupled",
            counter="parameter",
            differs="torch spells it NAdam with decoupled_weight_decay; the default decay of 0.01 is that of its "
            "AdamW.",
        ),
        "optax": Dialect(
            {**_OPTAX, "weight_decay": 1e-4},
            _choose,
            _optax,
            decay="decoupled",
            differs="No growing momentum; default decay 0.0001.",
        ),
    },
)

ALGORITHMS = (NADAM, NADAMW)
