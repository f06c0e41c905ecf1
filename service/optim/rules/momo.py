"""Momo and Momo-Adam: momentum whose step is as long as a lower bound of the loss allows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from service.optim.hyperparameters import Hyperparameter
from service.optim.rule import (
    BETA1,
    BETA2,
    EPSILON,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Algorithm,
    Dialect,
    Rule,
    Values,
    divide,
    dot,
    sqrt,
)


class Scalars(NamedTuple):
    """Scalars of all forms; Momo has corrections of 1, and `shrink` is 1 + α λ."""

    loss: float
    beta1: float
    beta2: float
    rate: float
    shrink: float
    decay: float
    lower_bound: float
    correction1: float
    correction2: float
    epsilon: float


class Model(NamedTuple):
    """What is known of the loss along the direction: the means of f and of ⟨g, p⟩, then ⟨m, p⟩ and ‖m‖²."""

    loss: float
    slope: float
    product: float
    squared: float


SMALLEST = float(np.finfo(np.float64).eps)  # a squared norm up to this counts as zero


def momo(p: Any, g: Any, m: Any, loss: Any, slope: Any, bound: Any, c: Scalars) -> Any:
    """p ← (1 - αλ/(1 + αλ)) p - τ m with τ = min(α, (f̄ - f⋆ - γ + ⟨m, p⟩)₊ / ‖m‖²) (Schaipp et al. 2023)."""
    m, model = _momentum(p, g, m, loss, slope, c)
    tau = _length(model, float(bound[()]), c)
    return p - (c.decay * p + tau * m), m, model.loss, model.slope, bound


def momo_star(p: Any, g: Any, m: Any, loss: Any, slope: Any, bound: Any, c: Scalars) -> Any:
    """Momo that estimates the lower bound f⋆ on the way."""
    m, model = _momentum(p, g, m, loss, slope, c)
    tau = _length(model, _lowered(model, float(bound[()]), c), c)
    return p - (c.decay * p + tau * m), m, model.loss, model.slope, _raised(model, tau, c)


def momo_adam(p: Any, g: Any, m: Any, v: Any, loss: Any, slope: Any, bound: Any, c: Scalars) -> Any:
    """Momo in Adam's norm: the direction is m / (ε + √v̂), and the norm that of its product with m."""
    m, v, direction, model = _adam(p, g, m, v, loss, slope, c)
    tau = _length(model, float(bound[()]), c)
    return p - (c.decay * p + tau * direction), m, v, model.loss, model.slope, bound


def momo_adam_star(p: Any, g: Any, m: Any, v: Any, loss: Any, slope: Any, bound: Any, c: Scalars) -> Any:
    """Momo-Adam that estimates the lower bound f⋆ on the way."""
    m, v, direction, model = _adam(p, g, m, v, loss, slope, c)
    tau = _length(model, _lowered(model, float(bound[()]), c), c)
    return p - (c.decay * p + tau * direction), m, v, model.loss, model.slope, _raised(model, tau, c)


def _means(p: Any, g: Any, loss: Any, slope: Any, c: Scalars) -> tuple[float, float]:
    fresh = 1.0 - c.beta1
    return c.beta1 * float(loss[()]) + fresh * c.loss, c.beta1 * float(slope[()]) + fresh * dot(g, p)


def _momentum(p: Any, g: Any, m: Any, loss: Any, slope: Any, c: Scalars) -> tuple[Any, Model]:
    m = c.beta1 * m + (1.0 - c.beta1) * g
    return m, Model(*_means(p, g, loss, slope, c), dot(m, p), dot(m, m))


def _adam(p: Any, g: Any, m: Any, v: Any, loss: Any, slope: Any, c: Scalars) -> tuple[Any, Any, Any, Model]:
    m = c.beta1 * m + (1.0 - c.beta1) * g
    v = c.beta2 * v + (1.0 - c.beta2) * g * g
    direction = divide(m, c.epsilon + sqrt(v / c.correction2), 0.0)
    return m, v, direction, Model(*_means(p, g, loss, slope, c), dot(m, p), dot(m, direction))


def _length(model: Model, bound: float, c: Scalars) -> float:
    """τ: as far as the model of the loss reaches the bound, but at most α."""
    if model.squared <= SMALLEST:
        return 0.0
    above = c.shrink * (model.loss - c.correction1 * bound - model.slope) + model.product
    return min(c.rate / c.correction1, max(above, 0.0) / model.squared)


def _lowered(model: Model, bound: float, c: Scalars) -> float:
    """The estimate of f⋆, but lower where the model says that the loss is below it already."""
    reached = c.shrink * (model.loss - model.slope) + model.product
    if reached < c.shrink * c.correction1 * bound:
        return max(reached / (2.0 * c.correction1 * c.shrink), c.lower_bound)
    return bound


def _raised(model: Model, tau: float, c: Scalars) -> float:
    """The estimate of f⋆ for the next step."""
    reached = model.loss + model.product - model.slope - 0.5 * tau * model.squared
    return max(reached / c.correction1, c.lower_bound)


_SCALARS = ("mean_loss", "mean_slope", "lower_bound")


def _rule(update: Any, *moments: str) -> Rule:
    return Rule(
        update,
        (*moments, *_SCALARS),
        {"lower_bound": "lower_bound"},
        span="all",
        shapes=dict.fromkeys(_SCALARS, ()),
        wants="value_and_gradient",
    )


_MOMO = _rule(momo, "first_moment")
_MOMO_STAR = _rule(momo_star, "first_moment")
_ADAM = _rule(momo_adam, "first_moment", "second_moment")
_ADAM_STAR = _rule(momo_adam_star, "first_moment", "second_moment")


def _choose(values: Values) -> Rule:
    return _MOMO_STAR if values["adapt_lower_bound"] else _MOMO


def _choose_adam(values: Values) -> Rule:
    return _ADAM_STAR if values["adapt_lower_bound"] else _ADAM


def _scalars(values: Values, t: int) -> Scalars:
    decayed = values["learning_rate"] * values["weight_decay"]
    return Scalars(
        values["loss"],
        0.0 if t == 1 else values["beta"],
        0.0,
        values["learning_rate"],
        1.0 + decayed,
        decayed / (1.0 + decayed),
        values["lower_bound"],
        1.0,
        1.0,
        0.0,
    )


def _adam_scalars(values: Values, t: int) -> Scalars:
    return _scalars({**values, "beta": 0.0}, t)._replace(
        beta1=values["beta1"],
        beta2=values["beta2"],
        correction1=1.0 - values["beta1"] ** t,
        correction2=1.0 - values["beta2"] ** t,
        epsilon=values["epsilon"],
    )


_LOWER_BOUND = Hyperparameter(
    "lower_bound", "f⋆, below which the loss cannot fall; 0 for most losses.", schedulable=False
)
_ADAPT = Hyperparameter(
    "adapt_lower_bound", "Estimate f⋆ on the way; lower_bound is then the least that it may be.", "boolean"
)
_SOURCE = (
    "F. Schaipp, R. Ohana, M. Eickenberg, A. Defazio and R. M. Gower, MoMo: Momentum Models for Adaptive Learning "
    "Rates, ICML 2024, arXiv:2305.07583."
)
_DEFAULTS: dict[str, Any] = {"lower_bound": 0.0, "weight_decay": 0.0, "adapt_lower_bound": False}
_SMALL = "A squared norm of the momentum up to 2.2e-16 counts as zero, and there is no step: small gradients stall it."

MOMO = Algorithm(
    name="momo",
    title="MoMo",
    summary="Momentum whose rate is cut to where a model of the loss meets its lower bound; each step needs the loss.",
    equation=r"\tau_t = \min\left(\alpha, \frac{(\bar f_t - f_\star - \gamma_t + \langle m_t, \theta_t \rangle)_+}"
    r"{\|m_t\|^2}\right), \qquad \theta_{t+1} = \theta_t - \tau_t m_t",
    source=_SOURCE,
    when="Losses whose lower bound is known, with α chosen too large: the step adapts downwards by itself. Not where "
    "the loss is unknown at the point of the gradient, or can fall below the bound that was given.",
    hyperparameters=(
        LEARNING_RATE,
        Hyperparameter("beta", "Decay rate β of the running means.", low=0.0, below=1.0),
        _LOWER_BOUND,
        WEIGHT_DECAY,
        _ADAPT,
    ),
    dialects={
        "optax": Dialect(
            {"learning_rate": 1.0, "beta": 0.9, **_DEFAULTS},
            _choose,
            _scalars,
            decay="own",
            differs="The first gradient and loss start the means. The decay is α λ / (1 + α λ), as of a proximal step.",
            known_bugs=(_SMALL,),
        ),
    },
    kind="global",
    default_dialect="optax",
)

MOMO_ADAM = Algorithm(
    name="momo_adam",
    title="MoMo-Adam",
    summary="Adam whose rate is cut to where a model of the loss meets its lower bound; each step needs the loss.",
    equation=r"\tau_t = \min\left(\frac{\alpha}{1 - \beta_1^t}, \frac{((\bar f_t - (1 - \beta_1^t) f_\star - \gamma_t) "
    r"+ \langle m_t, \theta_t \rangle)_+}{\langle m_t, d_t \rangle}\right), \quad "
    r"d_t = \frac{m_t}{\epsilon + \sqrt{\hat v_t}}, \quad \theta_{t+1} = \theta_t - \tau_t d_t",
    source=_SOURCE,
    when="As MoMo, where Adam is the better start. Not where the loss is unknown at the point of the gradient, or can "
    "fall below the bound that was given.",
    hyperparameters=(LEARNING_RATE, BETA1, BETA2, EPSILON, _LOWER_BOUND, WEIGHT_DECAY, _ADAPT),
    dialects={
        "optax": Dialect(
            {"learning_rate": 1e-2, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, **_DEFAULTS},
            _choose_adam,
            _adam_scalars,
            decay="own",
            differs="The means start at zero, and the bound and α are corrected instead. The decay is α λ / (1 + α λ).",
            known_bugs=(_SMALL,),
        ),
    },
    kind="global",
    default_dialect="optax",
)

ALGORITHMS = (MOMO, MOMO_ADAM)
