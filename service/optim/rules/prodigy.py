"""Prodigy and D-Adaptation: Adam whose learning rate is an estimate of the distance to the solution."""

from __future__ import annotations

from math import sqrt as root
from typing import Any, NamedTuple

from service.optim.hyperparameters import Hyperparameter
from service.optim.rule import (
    BETA1,
    BETA2,
    BIAS_CORRECTION,
    EPSILON,
    LEARNING_RATE,
    PARAMETERS,
    WEIGHT_DECAY,
    Algorithm,
    Dialect,
    Rule,
    Values,
    abs_,
    divide,
    dot,
    sqrt,
    total,
)


class ProdigyScalars(NamedTuple):
    """Scalars of `prodigy`; `rate` is α with the bias correction, `sum_rate` the same in the sum of gradients."""

    beta1: float
    beta2: float
    beta3: float
    rate: float
    sum_rate: float
    first: float
    factor: float
    epsilon: float
    weight_decay: float


class DAdaptScalars(NamedTuple):
    """Scalars of `dadapt_adamw`; `rate` is α with the bias correction."""

    beta1: float
    beta2: float
    beta3: float
    rate: float
    epsilon: float
    weight_decay: float


def prodigy(p: Any, g: Any, m: Any, v: Any, s: Any, origin: Any, d: Any, r: Any, c: ProdigyScalars) -> Any:
    """d ← max(d, r / ‖s‖₁) with r ← β₃ r + γ d² ⟨g, p₀ - p⟩ and s ← β₃ s + γ d² g, both over d₀."""
    old = float(d[()])
    rate = old * c.rate
    scaled = old * g
    m = c.beta1 * m + (1.0 - c.beta1) * scaled
    v = c.beta2 * v + (1.0 - c.beta2) * scaled * scaled
    s = c.beta3 * s + (old * c.sum_rate / c.first) * scaled
    r = c.beta3 * float(r[()]) + (old / c.first) * rate * dot(g, origin - p)
    size = total(abs_(s))
    d = max(old, c.factor * r / size) if size else old
    step = rate * divide(m, sqrt(v) + d * c.epsilon, 0.0)
    return p - ((c.weight_decay * rate) * p + step), m, v, s, origin, d, r


def dadapt_adamw(p: Any, g: Any, m: Any, v: Any, s: Any, d: Any, r: Any, c: DAdaptScalars) -> Any:
    """d ← max(d, r / ((1 - √β₂) ‖s‖₁)) with s the mean of γ d g and r that of γ d ⟨g, s⟩ in Adam's norm."""
    old = float(d[()])
    rate = old * c.rate
    seen = dot(g, divide(s, sqrt(v) + c.epsilon, 0.0))
    m = c.beta1 * m + (1.0 - c.beta1) * rate * g
    v = c.beta2 * v + (1.0 - c.beta2) * g * g
    s = c.beta3 * s + (1.0 - c.beta3) * rate * g
    r = c.beta3 * float(r[()]) + (1.0 - c.beta3) * rate * seen
    size = (1.0 - c.beta3) * total(abs_(s))
    d = max(old, r / size) if size else old
    step = divide(m, sqrt(v) + c.epsilon, 0.0)
    return p - ((c.weight_decay * rate) * p + step), m, v, s, d, r


_PRODIGY = Rule(
    prodigy,
    ("first_moment", "second_moment", "gradient_sum", "first_parameters", "distance", "numerator"),
    {"first_parameters": PARAMETERS, "distance": "initial_distance"},
    span="all",
    shapes={"distance": (), "numerator": ()},
)
_DADAPT = Rule(
    dadapt_adamw,
    ("first_moment", "second_moment", "gradient_sum", "distance", "numerator"),
    {"distance": "initial_distance"},
    span="all",
    shapes={"distance": (), "numerator": ()},
)


def _rate(values: Values, t: int) -> float:
    if not values.get("bias_correction", True):
        return float(values["learning_rate"])
    return float(values["learning_rate"] * root(1.0 - values["beta2"] ** t) / (1.0 - values["beta1"] ** t))


def _prodigy_scalars(values: Values, t: int) -> ProdigyScalars:
    rate = _rate(values, t)
    return ProdigyScalars(
        values["beta1"],
        values["beta2"],
        root(values["beta2"]) if values["beta3"] == 0.0 else values["beta3"],
        rate,
        1.0 if values["safeguard_warmup"] else rate,
        values["initial_distance"],
        values["distance_factor"],
        values["epsilon"],
        values["weight_decay"],
    )


def _dadapt_scalars(values: Values, t: int) -> DAdaptScalars:
    return DAdaptScalars(
        values["beta1"],
        values["beta2"],
        root(values["beta2"]),
        _rate(values, t),
        values["epsilon"],
        values["weight_decay"],
    )


def _choose_prodigy(values: Values) -> Rule:
    return _PRODIGY


def _choose_dadapt(values: Values) -> Rule:
    return _DADAPT


_DISTANCE = Hyperparameter(
    "initial_distance",
    "d₀, what the estimate of the distance to the solution starts at; too small is safe, too large is not.",
    above=0.0,
    schedulable=False,
)
_HYPERPARAMETERS = (LEARNING_RATE, BETA1, BETA2, EPSILON, _DISTANCE, WEIGHT_DECAY, BIAS_CORRECTION)
_DEFAULTS: dict[str, Any] = {
    "learning_rate": 1.0,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "initial_distance": 1e-6,
    "weight_decay": 0.0,
}
_OWN_FACTORS: dict[str, Any] = {"beta3": 0.0, "distance_factor": 1.0, "safeguard_warmup": False}
_ZEROS = "While all gradients so far were zero the estimate divides 0 by 0 and is NaN ever after; here it waits."

PRODIGY = Algorithm(
    name="prodigy",
    title="Prodigy",
    summary="Adam without a learning rate to tune: it estimates how far the solution is, and steps by that.",
    equation=r"d_{t+1} = \max\left(d_t, \frac{r_t}{\|s_t\|_1}\right), \quad "
    r"r_t = \beta_3 r_{t-1} + \gamma_t d_t^2 \langle g_t, \theta_0 - \theta_t \rangle, \quad "
    r"\theta_{t+1} = \theta_t - \gamma_t d_t \frac{m_t}{\sqrt{v_t} + d_{t+1} \epsilon}",
    source="K. Mishchenko and A. Defazio, Prodigy: An Expeditiously Adaptive Parameter-Free Learner, ICML 2024, "
    "arXiv:2306.06101.",
    when="Training from scratch and fine-tuning with Adam where no rate is to be searched for; leave α at 1 and give "
    "it a schedule. Not where runs are short or the start is near the solution: the estimate only grows, and from far "
    "below.",
    hyperparameters=(
        *_HYPERPARAMETERS,
        Hyperparameter(
            "beta3", "β₃, how long the estimate of the distance remembers; 0 stands for √β₂.", low=0.0, below=1.0
        ),
        Hyperparameter("distance_factor", "What each estimate of the distance is multiplied by.", low=0.0),
        Hyperparameter(
            "safeguard_warmup", "Keep a small α out of the sum of gradients, which warm-up would distort.", "boolean"
        ),
    ),
    dialects={
        "optax": Dialect(
            {**_DEFAULTS, **_OWN_FACTORS},
            _choose_prodigy,
            _prodigy_scalars,
            decay="own",
            differs="With Adam's bias correction, as a factor of α; the decay is multiplied by α d and by that factor.",
            known_bugs=(_ZEROS,),
        ),
        "paper": Dialect(
            {**_DEFAULTS, **_OWN_FACTORS, "bias_correction": False},
            _choose_prodigy,
            _prodigy_scalars,
            decay="own",
            differs="The authors' code: no bias correction unless it is asked for.",
        ),
    },
    kind="global",
    default_dialect="optax",
)

DADAPT_ADAMW = Algorithm(
    name="dadapt_adamw",
    title="D-Adapt AdamW",
    summary="AdamW whose learning rate is a lower bound of the distance to the solution, by D-Adaptation.",
    equation=r"d_{t+1} = \max\left(d_t, \frac{r_t}{(1 - \sqrt{\beta_2}) \|s_t\|_1}\right), \quad "
    r"s_t = \sqrt{\beta_2}\, s_{t-1} + (1 - \sqrt{\beta_2}) \gamma_t d_t g_t, \quad "
    r"\theta_{t+1} = \theta_t - \frac{m_t}{\sqrt{v_t} + \epsilon}",
    source="A. Defazio and K. Mishchenko, Learning-Rate-Free Learning by D-Adaptation, ICML 2023, arXiv:2301.07733.",
    when="As Prodigy, which estimates faster and is by the same authors. Not where α must be below 1 for stability "
    "without a schedule that says so.",
    hyperparameters=_HYPERPARAMETERS,
    dialects={
        "optax": Dialect(
            _DEFAULTS,
            _choose_dadapt,
            _dadapt_scalars,
            decay="own",
            differs="With Adam's bias correction, as a factor of α; the decay is multiplied by α d and by that factor.",
            known_bugs=(_ZEROS,),
        ),
        "paper": Dialect(
            {**_DEFAULTS, "bias_correction": False},
            _choose_dadapt,
            _dadapt_scalars,
            decay="own",
            differs="The authors' code: no bias correction unless it is asked for.",
        ),
    },
    kind="global",
    default_dialect="optax",
)

ALGORITHMS = (PRODIGY, DADAPT_ADAMW)
