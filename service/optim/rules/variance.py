"""Adam's relatives with another second moment: Yogi, AdaBelief and ACProp."""

from __future__ import annotations

from typing import Any, NamedTuple

from service.optim.hyperparameters import REQUIRED
from service.optim.rule import (
    BETA1,
    BETA2,
    EPSILON,
    EPSILON_ROOT,
    LEARNING_RATE,
    NESTEROV,
    WEIGHT_DECAY,
    Algorithm,
    Dialect,
    Rule,
    Values,
    divide,
    sign,
    sqrt,
)
from service.optim.rules.adagrad import INITIAL_ACCUMULATOR
from service.optim.rules.adam import BETAS
from service.optim.rules.nadam import nesterov_shares


class Scalars(NamedTuple):
    """Scalars of `yogi` and `adabelief`; `accumulated` is what AdaBelief adds to its moment in every step."""

    beta1: float
    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    momentum_share: float
    gradient_share: float
    bias_correction2: float
    accumulated: float
    epsilon: float
    one: float
    zero: float


class AsynchronousScalars(NamedTuple):
    """Scalars of `acprop`; s of the step before is multiplied by `scale`, and `first` is 1 in the first step."""

    beta1: float
    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    learning_rate: float
    scale: float
    first: float
    accumulated: float
    epsilon: float
    zero: float


def yogi(p: Any, g: Any, m: Any, v: Any, c: Scalars) -> Any:
    """v ← v - (1 - β₂) sign(v - g²) g²: the moment moves by g², however large it is (Zaheer et al. 2018)."""
    m = c.one_minus_beta1 * g + c.beta1 * m
    square = g * g
    v = v - c.one_minus_beta2 * sign(v - square, c.one, c.zero) * square
    return p - divide(c.momentum_share * m, sqrt(v / c.bias_correction2) + c.epsilon, c.zero), m, v


def adabelief(p: Any, g: Any, m: Any, s: Any, c: Scalars) -> Any:
    """s ← β₂ s + (1 - β₂) (g - m)² + ε: the variance about the running mean (Zhuang et al. 2020)."""
    m = c.one_minus_beta1 * g + c.beta1 * m
    surprise = g - m
    s = c.one_minus_beta2 * (surprise * surprise) + c.beta2 * s + c.accumulated
    step = c.momentum_share * m + c.gradient_share * g
    return p - divide(step, sqrt(s / c.bias_correction2) + c.epsilon, c.zero), m, s


def acprop(p: Any, g: Any, m: Any, s: Any, c: AsynchronousScalars) -> Any:
    """p ← p - α g / √ŝ with the s of the step before (Zhuang et al. 2021)."""
    moved = p - divide(c.learning_rate * g, sqrt(s * c.scale + c.first) + c.epsilon, c.zero)
    surprise = g - m
    s = c.one_minus_beta2 * (surprise * surprise) + c.beta2 * s + c.accumulated
    return moved, c.one_minus_beta1 * g + c.beta1 * m, s


_MOMENTS = ("first_moment", "second_moment")
_YOGI_OPTAX = Rule(yogi, _MOMENTS, {"first_moment": 1e-6, "second_moment": 1e-6})
_YOGI = Rule(yogi, _MOMENTS, {"second_moment": "initial_accumulator_value"})
_ADABELIEF = Rule(adabelief, ("first_moment", "variance"))
_ACPROP = Rule(acprop, ("first_moment", "variance"))


def _choose_yogi_optax(values: Values) -> Rule:
    return _YOGI_OPTAX


def _choose_yogi(values: Values) -> Rule:
    return _YOGI


def _choose_adabelief(values: Values) -> Rule:
    return _ADABELIEF


def _choose_acprop(values: Values) -> Rule:
    return _ACPROP


def _corrected(values: Values, t: int) -> Scalars:
    beta1, beta2, rate = values["beta1"], values["beta2"], values["learning_rate"]
    shares = nesterov_shares(beta1, t) if values.get("nesterov") else (1.0 / (1.0 - beta1**t), 0.0)
    return Scalars(
        beta1,
        1.0 - beta1,
        beta2,
        1.0 - beta2,
        rate * shares[0],
        rate * shares[1],
        1.0 - beta2**t,
        values.get("epsilon_root", 0.0),
        values["epsilon"],
        1.0,
        0.0,
    )


def _adabelief_paper(values: Values, t: int) -> Scalars:
    return _corrected({**values, "epsilon_root": values["epsilon"]}, t)


def _yogi_paper(values: Values, t: int) -> Scalars:
    return _corrected(values, t)._replace(momentum_share=values["learning_rate"], bias_correction2=1.0)


def _acprop(values: Values, t: int) -> AsynchronousScalars:
    beta1, beta2 = values["beta1"], values["beta2"]
    return AsynchronousScalars(
        beta1,
        1.0 - beta1,
        beta2,
        1.0 - beta2,
        values["learning_rate"],
        0.0 if t == 1 else 1.0 / (1.0 - beta2 ** (t - 1)),
        1.0 if t == 1 else 0.0,
        values["epsilon_root"],
        values["epsilon"],
        0.0,
    )


_TINY = {"epsilon": 1e-16, "epsilon_root": 1e-16}

YOGI = Algorithm(
    name="yogi",
    title="Yogi",
    summary="Adam whose second moment changes by steps of the squared gradient, so that it cannot fall fast.",
    equation=r"v_t = v_{t-1} - (1-\beta_2)\, \mathrm{sign}(v_{t-1} - g_t^2)\, g_t^2, \qquad \theta_t = \theta_{t-1} - "
    r"\frac{\alpha}{\sqrt{v_t} + \epsilon}\, m_t",
    source="M. Zaheer, S. J. Reddi, D. Sachan, S. Kale and S. Kumar, Adaptive Methods for Nonconvex Optimization, "
    "NeurIPS 2018.",
    when="Sparse or vanishing gradients, where Adam's denominator falls and its steps grow. Its ε of 0.001 is large: "
    "gradients much smaller than that move it like plain momentum.",
    hyperparameters=(LEARNING_RATE, BETA1, BETA2, EPSILON, INITIAL_ACCUMULATOR),
    dialects={
        "optax": Dialect(
            {"learning_rate": REQUIRED, **BETAS, "epsilon": 1e-3},
            _choose_yogi_optax,
            _corrected,
            differs="Bias-corrected as Adam, although both moments start at 1e-6: a parameter without any gradient "
            "drifts a little.",
            known_bugs=(
                "The corrections 1 - βᵗ are those of moments that start at zero; these start at 1e-6, so that a zero "
                "gradient moves the parameters by about 0.0003 times the learning rate in the first step.",
            ),
        ),
        "paper": Dialect(
            {"learning_rate": 1e-2, **BETAS, "epsilon": 1e-3, "initial_accumulator_value": 1e-6},
            _choose_yogi,
            _yogi_paper,
            differs="No bias correction; the first moment starts at zero, the second at initial_accumulator_value.",
        ),
    },
    default_dialect="paper",
)

ADABELIEF = Algorithm(
    name="adabelief",
    title="AdaBelief",
    summary="Adam that divides by how much the gradient surprised its running mean, not by its size.",
    equation=r"s_t = \beta_2 s_{t-1} + (1-\beta_2)(g_t - m_t)^2 + \epsilon, \qquad \theta_t = \theta_{t-1} - \alpha\, "
    r"\frac{\hat m_t}{\sqrt{\hat s_t} + \epsilon}",
    source="J. Zhuang et al., AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients, NeurIPS "
    "2020, arXiv:2010.07468.",
    when="Long stretches of steady gradients, where it takes longer steps than Adam. It is sensitive to ε, which is "
    "all that keeps those steps finite.",
    hyperparameters=(LEARNING_RATE, BETA1, BETA2, EPSILON, EPSILON_ROOT, NESTEROV),
    dialects={
        "optax": Dialect(
            {"learning_rate": REQUIRED, **BETAS, **_TINY, "nesterov": False},
            _choose_adabelief,
            _corrected,
            differs="Two ε of 1e-16: epsilon_root stays in the moment and adds up, epsilon stands outside the root.",
        ),
        "paper": Dialect(
            {"learning_rate": 1e-3, **BETAS, "epsilon": 1e-8},
            _choose_adabelief,
            _adabelief_paper,
            differs="One ε, in both places; its default is Adam's.",
        ),
    },
    default_dialect="paper",
)

ACPROP = Algorithm(
    name="acprop",
    title="ACProp",
    summary="The gradient, without momentum, over the root of the centred variance of the step before.",
    equation=r"\theta_t = \theta_{t-1} - \frac{\alpha}{\sqrt{\hat s_{t-1}} + \epsilon}\, g_t, \qquad s_t = \beta_2 "
    r"s_{t-1} + (1-\beta_2)(g_t - m_{t-1})^2 + \epsilon",
    source="J. Zhuang et al., Momentum Centering and Asynchronous Update for Adaptive Gradient Methods, NeurIPS 2021, "
    "arXiv:2110.05454.",
    when="Noisy problems on which Adam diverges: a gradient does not shrink its own step. The first step is plain "
    "gradient descent, and a sudden large gradient is followed at full length.",
    hyperparameters=(LEARNING_RATE, BETA1, BETA2, EPSILON, EPSILON_ROOT, WEIGHT_DECAY),
    dialects={
        "optax": Dialect(
            {"learning_rate": REQUIRED, **BETAS, **_TINY, "weight_decay": 0.0},
            _choose_acprop,
            _acprop,
            decay="decoupled",
            differs="Centred about the mean of the step before; the first step divides by 1.",
        ),
    },
    default_dialect="optax",
)

ALGORITHMS = (YOGI, ADABELIEF, ACPROP)
