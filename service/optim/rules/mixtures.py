"""Momentum mixed otherwise: quasi-hyperbolic (QHM, QHAdam) and aggregated (AggMo)."""

from __future__ import annotations

from typing import Any, NamedTuple

from service.optim.hyperparameters import Hyperparameter
from service.optim.rule import (
    BETA1,
    BETA2,
    EPSILON,
    LEARNING_RATE,
    Algorithm,
    Dialect,
    Rule,
    Values,
    divide,
    sqrt,
)


class Scalars(NamedTuple):
    """Scalars of `qhm`."""

    beta: float
    one_minus_beta: float
    gradient_rate: float
    mean_rate: float


class AdamScalars(NamedTuple):
    """Scalars of `qhadam`; the shares hold ν and the bias corrections, those of the step the learning rate too."""

    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    gradient_share: float
    momentum_share: float
    square_share: float
    moment_share: float
    epsilon: float
    zero: float


class AggregatedScalars(NamedTuple):
    """Scalars of `aggmo`; `rate` is the learning rate over the number of velocities."""

    beta1: float
    beta2: float
    beta3: float
    rate: float


def qhm(p: Any, g: Any, m: Any, c: Scalars) -> Any:
    """m ← β m + (1 - β) g;  p ← p - α ((1 - ν) g + ν m) (Ma and Yarats 2019, eq. 3-4)."""
    m = c.beta * m + c.one_minus_beta * g
    return p - (c.gradient_rate * g + c.mean_rate * m), m


def qhadam(p: Any, g: Any, m: Any, v: Any, c: AdamScalars) -> Any:
    """p ← p - α ((1 - ν₁) g + ν₁ m̂) / (√((1 - ν₂) g² + ν₂ v̂) + ε) (Ma and Yarats 2019, section 5)."""
    m = m + c.one_minus_beta1 * (g - m)
    square = g * g
    v = c.beta2 * v + c.one_minus_beta2 * square
    step = c.gradient_share * g + c.momentum_share * m
    return p - divide(step, sqrt(c.square_share * square + c.moment_share * v) + c.epsilon, c.zero), m, v


def aggmo(p: Any, g: Any, v1: Any, v2: Any, v3: Any, c: AggregatedScalars) -> Any:
    """vᵢ ← βᵢ vᵢ + g;  p ← p - α mean(vᵢ) (Lucas et al. 2019)."""
    v1 = c.beta1 * v1 + g
    v2 = c.beta2 * v2 + g
    v3 = c.beta3 * v3 + g
    return p - c.rate * (v1 + v2 + v3), v1, v2, v3


_QHM = Rule(qhm, ("first_moment",))
_QHADAM = Rule(qhadam, ("first_moment", "second_moment"))
_AGGMO = Rule(aggmo, ("velocity1", "velocity2", "velocity3"))


def _choose_qhm(values: Values) -> Rule:
    return _QHM


def _choose_qhadam(values: Values) -> Rule:
    return _QHADAM


def _choose_aggmo(values: Values) -> Rule:
    return _AGGMO


def _qhm(values: Values, t: int) -> Scalars:
    beta, nu, rate = values["beta"], values["nu"], values["learning_rate"]
    return Scalars(beta, 1.0 - beta, rate * (1.0 - nu), rate * nu)


def _qhadam(values: Values, t: int) -> AdamScalars:
    beta1, beta2, nu1, nu2 = (values[name] for name in ("beta1", "beta2", "nu1", "nu2"))
    rate = values["learning_rate"]
    return AdamScalars(
        1.0 - beta1,
        beta2,
        1.0 - beta2,
        rate * (1.0 - nu1),
        rate * nu1 / (1.0 - beta1**t),
        1.0 - nu2,
        nu2 / (1.0 - beta2**t),
        values["epsilon"],
        0.0,
    )


def _aggmo(values: Values, t: int) -> AggregatedScalars:
    return AggregatedScalars(values["beta1"], values["beta2"], values["beta3"], values["learning_rate"] / 3.0)


def _nu(name: str, of: str) -> Hyperparameter:
    return Hyperparameter(name, f"Share of the running mean beside the newest {of}.", low=0.0, high=1.0)


def _damping(i: int) -> Hyperparameter:
    return Hyperparameter(f"beta{i}", f"What velocity {i} keeps of itself in a step.", low=0.0, below=1.0)


_QH_SOURCE = "J. Ma and D. Yarats, Quasi-hyperbolic momentum and Adam for deep learning, ICLR 2019, arXiv:1810.06801."

QHM = Algorithm(
    name="qhm",
    title="QHM (quasi-hyperbolic momentum)",
    summary="A weighted mean of a plain gradient step and a momentum step.",
    equation=r"m_t = \beta m_{t-1} + (1-\beta) g_t, \qquad \theta_t = \theta_{t-1} - \alpha\, ((1-\nu)\, g_t + \nu\, "
    r"m_t)",
    source=_QH_SOURCE,
    when="Where momentum close to one would help and is too sluggish: ν = 0.7 and β = 0.999 to begin with. ν = 1 is "
    "momentum with a mean, ν = β Nesterov's, ν = 0 plain descent.",
    hyperparameters=(
        LEARNING_RATE,
        Hyperparameter("beta", "Decay rate β of the running mean of gradients.", low=0.0, below=1.0),
        _nu("nu", "gradient"),
    ),
    dialects={
        "paper": Dialect(
            {"learning_rate": 1.0, "beta": 0.999, "nu": 0.7},
            _choose_qhm,
            _qhm,
            differs="β and ν are the paper's recommendation. The buffer is a mean and not a sum: a rate α of SGD with "
            "momentum μ is α / (1 - μ) here.",
        ),
    },
    default_dialect="paper",
)

QHADAM = Algorithm(
    name="qhadam",
    title="QHAdam",
    summary="Adam with the newest gradient, and its square, mixed into both running means.",
    equation=r"\theta_t = \theta_{t-1} - \alpha\, \frac{(1-\nu_1)\, g_t + \nu_1 \hat m_t}{\sqrt{(1-\nu_2)\, g_t^2 + "
    r"\nu_2 \hat v_t} + \epsilon}",
    source=_QH_SOURCE,
    when="Where Adam is unstable, with ν₂ = 1 and ν₁ below one. With both ν at 1 it is Adam.",
    hyperparameters=(LEARNING_RATE, BETA1, BETA2, _nu("nu1", "gradient"), _nu("nu2", "squared gradient"), EPSILON),
    dialects={
        "paper": Dialect(
            {"learning_rate": 1e-3, "beta1": 0.995, "beta2": 0.999, "nu1": 0.7, "nu2": 1.0, "epsilon": 1e-8},
            _choose_qhadam,
            _qhadam,
            differs="β and ν are those that its authors recommend; ε outside the root, as in Adam.",
        ),
    },
    default_dialect="paper",
)

AGGMO = Algorithm(
    name="aggmo",
    title="AggMo (aggregated momentum)",
    summary="The mean of three heavy balls with different momenta: fast, and damped against oscillation.",
    equation=r"v^{(i)}_t = \beta^{(i)} v^{(i)}_{t-1} - g_t, \qquad \theta_t = \theta_{t-1} + \frac{\alpha}{3} "
    r"\sum_{i=1}^{3} v^{(i)}_t",
    source="J. Lucas, S. Sun, R. Zemel and R. Grosse, Aggregated Momentum: Stability Through Passive Damping, ICLR "
    "2019, arXiv:1804.00325.",
    when="Ill-conditioned problems on which a momentum of 0.99 oscillates. It keeps three velocities.",
    hyperparameters=(LEARNING_RATE, _damping(1), _damping(2), _damping(3)),
    dialects={
        "paper": Dialect(
            {"learning_rate": 0.1, "beta1": 0.0, "beta2": 0.9, "beta3": 0.99},
            _choose_aggmo,
            _aggmo,
            differs="The paper's damping vector 0, 0.9, 0.99; the default rate of 0.1 is not the paper's, which tunes "
            "it.",
        ),
    },
    default_dialect="paper",
)

ALGORITHMS = (QHM, QHADAM, AGGMO)
