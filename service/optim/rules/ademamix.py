"""AdEMAMix: Adam with a second, much slower mean of the gradients; and its simplified form."""

from __future__ import annotations

from math import exp, log
from typing import Any, NamedTuple

from service.optim.hyperparameters import REQUIRED, Hyperparameter
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
    divide,
    sqrt,
)
from service.optim.rules.adam import BETAS


class Scalars(NamedTuple):
    """Scalars of `ademamix`; the shares hold the learning rate."""

    beta1: float
    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    beta3: float
    one_minus_beta3: float
    fast_share: float
    slow_share: float
    bias_correction2: float
    epsilon_root: float
    epsilon: float
    zero: float


class SimplifiedScalars(NamedTuple):
    """Scalars of `simplified_ademamix`."""

    beta1: float
    beta2: float
    one_minus_beta2: float
    gradient_weight: float
    learning_rate: float
    bias_correction2: float
    epsilon_root: float
    epsilon: float
    zero: float


def ademamix(p: Any, g: Any, m: Any, slow: Any, v: Any, c: Scalars) -> Any:
    """p ← p - α (m̂ + a m') / (√v̂ + ε), m' a mean over tens of thousands of steps (Pagliardini et al. 2024)."""
    m = c.one_minus_beta1 * g + c.beta1 * m
    slow = c.one_minus_beta3 * g + c.beta3 * slow
    v = c.one_minus_beta2 * (g * g) + c.beta2 * v
    step = c.fast_share * m + c.slow_share * slow
    return p - divide(step, sqrt(v / c.bias_correction2 + c.epsilon_root) + c.epsilon, c.zero), m, slow, v


def simplified_ademamix(p: Any, g: Any, m: Any, v: Any, c: SimplifiedScalars) -> Any:
    """m ← β₁ m + g;  p ← p - α (m + a g) / (√v̂ + ε) (Morwani et al. 2025)."""
    m = g + c.beta1 * m
    v = c.one_minus_beta2 * (g * g) + c.beta2 * v
    step = c.learning_rate * (m + c.gradient_weight * g)
    return p - divide(step, sqrt(v / c.bias_correction2 + c.epsilon_root) + c.epsilon, c.zero), m, v


_ADEMAMIX = Rule(ademamix, ("first_moment", "slow_first_moment", "second_moment"))
_SIMPLIFIED = Rule(simplified_ademamix, ("momentum_buffer", "second_moment"))


def _choose(values: Values) -> Rule:
    return _ADEMAMIX


def _choose_simplified(values: Values) -> Rule:
    return _SIMPLIFIED


def _scalars(values: Values, t: int) -> Scalars:
    beta1, beta2, beta3 = values["beta1"], values["beta2"], values["beta3"]
    rate = values["learning_rate"]
    return Scalars(
        beta1,
        1.0 - beta1,
        beta2,
        1.0 - beta2,
        beta3,
        1.0 - beta3,
        rate / (1.0 - beta1**t),
        rate * values["slow_weight"],
        1.0 - beta2**t,
        values.get("epsilon_root", 0.0),
        values["epsilon"],
        0.0,
    )


def _paper(values: Values, t: int) -> Scalars:
    """With the warm-ups: α linear, β₃ so that the half-life of the slow mean grows linearly from β₁'s."""
    share = t / values["warmup_steps"] if t < values["warmup_steps"] else 1.0
    return _scalars(
        {
            **values,
            "slow_weight": values["slow_weight"] * share,
            "beta3": _warm(values["beta1"], values["beta3"], share),
        },
        t,
    )


def _warm(start: float, end: float, share: float) -> float:
    """The decay rate between the two whose inverse logarithm is `share` of the way."""
    if share == 1.0 or start == 0.0 or end == 0.0:
        return end
    low, high = log(start), log(end)
    return min(exp(low * high / ((1.0 - share) * high + share * low)), end)


def _simplified(values: Values, t: int) -> SimplifiedScalars:
    beta2 = values["beta2"]
    return SimplifiedScalars(
        values["beta1"],
        beta2,
        1.0 - beta2,
        values["gradient_weight"],
        values["learning_rate"],
        1.0 - beta2**t,
        values["epsilon_root"],
        values["epsilon"],
        0.0,
    )


_MIX = {**BETAS, "beta3": 0.9999, "slow_weight": 5.0, "epsilon": 1e-8}

ADEMAMIX = Algorithm(
    name="ademamix",
    title="AdEMAMix",
    summary="Adam that adds a second mean over a far longer past, for old gradients stay useful.",
    equation=r"m'_t = \beta_3 m'_{t-1} + (1-\beta_3) g_t, \qquad \theta_t = \theta_{t-1} - \alpha\, \frac{\hat m_t + "
    r"a\, m'_t}{\sqrt{\hat v_t} + \epsilon}",
    source="M. Pagliardini, P. Ablin and D. Grangier, The AdEMAMix Optimizer: Better, Faster, Older, arXiv:2409.03137.",
    when="Long runs, of tens of thousands of steps, where it forgets less than Adam. On short runs the slow mean only "
    "makes it overshoot; set warmup_steps to the length of the run.",
    hyperparameters=(
        LEARNING_RATE,
        BETA1,
        BETA2,
        Hyperparameter("beta3", "Decay rate β₃ of the slow mean of gradients.", low=0.0, below=1.0),
        Hyperparameter("slow_weight", "Weight a of the slow mean beside the fast one (the paper's α).", low=0.0),
        Hyperparameter(
            "warmup_steps", "Over so many steps a grows from 0, and β₃ from β₁; 0 for no warm-up.", "integer", low=0
        ),
        EPSILON,
        EPSILON_ROOT,
        WEIGHT_DECAY,
    ),
    dialects={
        "optax": Dialect(
            {"learning_rate": REQUIRED, **_MIX, "epsilon_root": 0.0, "weight_decay": 0.0},
            _choose,
            _scalars,
            decay="decoupled",
            differs="No warm-up of its own: give beta3 and slow_weight schedules; a second ε inside the root.",
        ),
        "paper": Dialect(
            {"learning_rate": 1e-3, **_MIX, "warmup_steps": 0, "weight_decay": 0.0},
            _choose,
            _paper,
            decay="decoupled",
            differs="warmup_steps raises both the weight and the memory of the slow mean.",
        ),
    },
    default_dialect="paper",
)

SIMPLIFIED_ADEMAMIX = Algorithm(
    name="simplified_ademamix",
    title="Simplified AdEMAMix",
    summary="AdEMAMix with one buffer: a long sum of the past, and the newest gradient with a weight of its own.",
    equation=r"m_t = \beta_1 m_{t-1} + g_t, \qquad \theta_t = \theta_{t-1} - \alpha\, \frac{m_t + a\, g_t}{"
    r"\sqrt{\hat v_t} + \epsilon}",
    source="D. Morwani, N. Vyas, H. Zhang and S. Kakade, Connections between Schedule-Free Optimizers, AdEMAMix, and "
    "Accelerated SGD Variants, arXiv:2502.02431.",
    when="As AdEMAMix, with Adam's memory. The buffer is a sum and not a mean: the rate must be smaller by about "
    "1 - β₁ than Adam's.",
    hyperparameters=(
        LEARNING_RATE,
        Hyperparameter("beta1", "What is kept of the sum of gradients, β₁.", low=0.0, below=1.0),
        BETA2,
        Hyperparameter("gradient_weight", "Weight a of the newest gradient beside the sum.", low=0.0),
        EPSILON,
        EPSILON_ROOT,
        WEIGHT_DECAY,
    ),
    dialects={
        "optax": Dialect(
            {
                "learning_rate": REQUIRED,
                "beta1": 0.99,
                "beta2": 0.95,
                "gradient_weight": 0.0,
                "epsilon": 1e-8,
                "epsilon_root": 0.0,
                "weight_decay": 0.0,
            },
            _choose_simplified,
            _simplified,
            decay="decoupled",
            differs="The sum is not corrected, the second moment is; a second ε inside the root.",
        ),
    },
    default_dialect="optax",
)

ALGORITHMS = (ADEMAMIX, SIMPLIFIED_ADEMAMIX)
