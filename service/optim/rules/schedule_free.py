"""Schedule-free learning: an average in the place of a decaying rate; gradients are taken between it and the iterate.

Three sequences: z, which takes the steps, x, its running average, and y between them, where the gradients are taken.
The parameters of a session are y, the state keeps z, and x is worked out: `view=eval`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from service.errors import Invalid
from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.rule import (
    BETA2,
    EPSILON,
    LEARNING_RATE,
    PARAMETERS,
    WEIGHT_DECAY,
    Algorithm,
    Dialect,
    Rule,
    Shape,
    Values,
    divide,
    sqrt,
)
from service.optim.rules.lookahead import OPTIMIZER, change


class Scalars(NamedTuple):
    """Scalars of the rules that weigh by the rate: `rate` steps, `weighing` is the rate that the weight is of."""

    beta1: float
    rate: float
    weighing: float
    weight_power: float
    time_factor: float
    beta2: float
    bias_correction2: float
    epsilon: float
    weight_decay: float


class KerasScalars(NamedTuple):
    """Scalars of `schedule_free_even`."""

    beta1: float
    one_minus_beta1: float
    one_minus_beta2: float
    bias_correction2: float
    epsilon: float
    learning_rate: float
    weight: float
    one_minus_weight: float
    zero: float


def share(weight_sum: Any, largest: Any, c: Scalars) -> tuple[float, float, float]:
    """What the new z weighs in the average, and the new sum of weights and largest rate."""
    rate = max(float(largest[()]), c.weighing)
    weight = c.time_factor * power(rate, c.weight_power)
    added = float(weight_sum[()]) + weight
    return weight / added if added else 0.0, added, rate


def power(x: float, exponent: float) -> float:
    """x to the power, infinity where it is past the range."""
    try:
        return float(x**exponent)
    except OverflowError:
        return math.inf


def averaged(y: Any, z: Any, after: Any, weight: float, c: Scalars) -> Any:
    """The next y, from x as y and z have it: x ← (1 - w) x + w z, y ← β₁ x + (1 - β₁) z.

    To divide all elements by one number XLA multiplies by its reciprocal, and so do we; a lone element is divided.
    """
    x = y - (1.0 - c.beta1) * z
    x = x * (1.0 / c.beta1) if y.ndim else x / c.beta1
    x = (1.0 - weight) * x + weight * after
    return y + (c.beta1 * x + (1.0 - c.beta1) * after - y)


def schedule_free(p: Any, g: Any, step: Callable[..., Any], z: Any, weight_sum: Any, largest: Any, c: Scalars) -> Any:
    """z ← z + u(y, ∇f(y)), x ← (1 - w) x + w z, y ← β₁ x + (1 - β₁) z, with u of any optimizer."""
    weight, weight_sum, largest = share(weight_sum, largest, c)
    after = z + change(step, p, g)
    return averaged(p, z, after, weight, c), after, weight_sum, largest


def schedule_free_at_z(
    p: Any, g: Any, step: Callable[..., Any], z: Any, weight_sum: Any, largest: Any, c: Scalars
) -> Any:
    """The same with the wrapped optimizer at z, so that its weight decay is of z."""
    weight, weight_sum, largest = share(weight_sum, largest, c)
    after = step(z, g)
    x = p + (1.0 - 1.0 / c.beta1) * (z - p)
    x = x + weight * (after - x)
    return x + (1.0 - c.beta1) * (after - x), after, weight_sum, largest


def schedule_free_sgd(p: Any, g: Any, z: Any, weight_sum: Any, largest: Any, c: Scalars) -> Any:
    """The same with z ← z - α g."""
    weight, weight_sum, largest = share(weight_sum, largest, c)
    after = z - c.rate * g
    return averaged(p, z, after, weight, c), after, weight_sum, largest


def schedule_free_adamw(p: Any, g: Any, z: Any, v: Any, weight_sum: Any, largest: Any, c: Scalars) -> Any:
    """The same with z ← z - α (g / (√v̂ + ε) + λ y)."""
    weight, weight_sum, largest = share(weight_sum, largest, c)
    v = (1.0 - c.beta2) * (g * g) + c.beta2 * v
    u = _normalised(g, v, c) + c.weight_decay * p
    after = z - c.rate * u
    return averaged(p, z, after, weight, c), after, v, weight_sum, largest


def _normalised(g: Any, v: Any, c: Scalars) -> Any:
    """g / (√v̂ + ε); where nothing was seen yet there is nothing to divide."""
    root = sqrt(v / c.bias_correction2) + c.epsilon
    return 1.0 / (root + (root == 0.0)) * g


def sgd_in_place(p: Any, g: Any, z: Any, weight_sum: Any, largest: Any, c: Scalars) -> Any:
    """y ← y + w (z - y) - α (1 - β₁ (1 - w)) g, z ← z - α g: x never appears."""
    weight, weight_sum, largest = share(weight_sum, largest, c)
    y = p + weight * (z - p) + (c.rate * (c.beta1 * (1.0 - weight) - 1.0)) * g
    return y, z - c.rate * g, weight_sum, largest


def adamw_in_place(p: Any, g: Any, z: Any, v: Any, weight_sum: Any, largest: Any, c: Scalars) -> Any:
    """The same with g / (√v̂ + ε) + λ y for g."""
    v = c.beta2 * v + (1.0 - c.beta2) * (g * g)
    u = _normalised(g, v, c) + c.weight_decay * p
    y, after, weight_sum, largest = sgd_in_place(p, u, z, weight_sum, largest, c)
    return y, after, v, weight_sum, largest


def schedule_free_even(p: Any, g: Any, z: Any, v: Any, c: KerasScalars) -> Any:
    """The same where all z weigh alike: w = 1/t."""
    x = (p - c.one_minus_beta1 * z) / c.beta1
    v = v + c.one_minus_beta2 * (g * g - v)
    z = z - divide(c.learning_rate * g, sqrt(v / c.bias_correction2) + c.epsilon, c.zero)
    x = c.one_minus_weight * x + c.weight * z
    return c.one_minus_beta1 * z + c.beta1 * x, z, v


def _average(values: Values, p: Any, z: Any, *rest: Any) -> Any:
    return (p - (1.0 - values["beta1"]) * z) * (1.0 / values["beta1"])


def _of_tensor(shape: Shape) -> Shape:
    return ()


_WEIGHING = ("weight_sum", "largest_rate")


def _rule(update: Callable[..., Any], *slots: str) -> Rule:
    """A rule of its own, with the sum of weights for each tensor, whose rate may be its own."""
    start = {"base_parameters": PARAMETERS}
    names = ("base_parameters", *slots, *_WEIGHING)
    return Rule(update, names, start, span="tensor", shapes=dict.fromkeys(_WEIGHING, _of_tensor), view=_average)


def _wrapper(update: Callable[..., Any]) -> Rule:
    start = {"base_parameters": PARAMETERS}
    names = ("base_parameters", *_WEIGHING)
    return Rule(update, names, start, span="all", shapes=dict.fromkeys(_WEIGHING, ()), view=_average, wraps=True)


_WRAPPER, _WRAPPER_AT_Z = _wrapper(schedule_free), _wrapper(schedule_free_at_z)
_SGD, _SGD_IN_PLACE = _rule(schedule_free_sgd), _rule(sgd_in_place)
_ADAMW, _ADAMW_IN_PLACE = _rule(schedule_free_adamw, "second_moment"), _rule(adamw_in_place, "second_moment")
_EVEN = Rule(schedule_free_even, ("base_parameters", "second_moment"), {"base_parameters": PARAMETERS}, view=_average)


def _scalars(values: Values, rate: float, weighing: float, t: int) -> Scalars:
    beta2 = values.get("beta2", 0.0)
    return Scalars(
        values["beta1"],
        rate,
        weighing,
        values["weight_power"],
        float(t) ** values.get("time_power", 0.0),
        beta2,
        1.0 - beta2**t,
        values.get("epsilon", 0.0),
        values.get("weight_decay", 0.0),
    )


def _optax(values: Values, t: int) -> Scalars:
    """The step's rate, and that of the next step for the weight."""
    rate, steps = values["learning_rate"], values.get("warmup_steps", 0)
    if steps == 0:
        return _scalars(values, rate, values.get("next_learning_rate", rate), t)
    before, now = (rate - rate * (1.0 - min(n, steps) / steps) for n in (t - 1, t))
    return _scalars(values, before, now, t)


def _paper(values: Values, t: int) -> Scalars:
    steps = values["warmup_steps"]
    rate = values["learning_rate"] * (t / steps if t <= steps else 1.0)
    return _scalars(values, rate, rate, t)


def _of_wrapped(values: Values, t: int) -> Scalars:
    rate = values["optimizer"].at(t - 1).get("learning_rate", 1.0)
    return _scalars(values, rate, rate, t)


def _keras(values: Values, t: int) -> KerasScalars:
    beta1, beta2, steps = values["beta1"], values["beta2"], values["warmup_steps"]
    return KerasScalars(
        beta1,
        1.0 - beta1,
        1.0 - beta2,
        1.0 - beta2**t,
        values["epsilon"],
        values["learning_rate"] * (min(t / steps, 1.0) if steps else 1.0),
        1.0 / t,
        1.0 - 1.0 / t,
        0.0,
    )


def _one_warmup(values: Values) -> None:
    """Raises Invalid for a warm-up of a rate that is a schedule already."""
    if values["warmup_steps"] and not isinstance(values["learning_rate"], float):
        raise Invalid("Give the rate a schedule or say warmup_steps, not both.", pointer="/warmup_steps")


def _choosing(rule: Rule) -> Callable[[Values], Rule]:
    return lambda values: rule


_SOURCE = (
    "A. Defazio, X. Yang, H. Mehta, K. Mishchenko, A. Khaled and A. Cutkosky, The Road Less Scheduled, NeurIPS 2024, "
    "arXiv:2405.15682."
)
_EQUATION = (
    r"y_t = (1 - \beta_1)\, z_t + \beta_1 x_t, \quad z_{t+1} = z_t + u_t(\nabla f(y_t)), \quad "
    r"x_{t+1} = (1 - c_t)\, x_t + c_t\, z_{t+1}, \quad c_t = \frac{\alpha_t^2}{\sum_{i \leq t} \alpha_i^2}"
)
_AHEAD = (
    "The weight of a step is of the rate of the next one: with a warm-up, the first z, which has not moved yet, "
    "counts as if it had."
)
_INTERPOLATION = Hyperparameter(
    "beta1", "β₁, where the gradient is taken: near the average x at 1, at z near 0.", above=0.0, high=1.0
)
_WARMUP = Hyperparameter("warmup_steps", "Steps in which the rate rises from 0 in a line.", "integer", low=0)
_POWERS = (
    Hyperparameter("weight_power", "The power of the largest rate so far that weighs a step.", low=0.0, high=16.0),
    Hyperparameter("time_power", "The power of t that weighs a step.", low=0.0, high=16.0),
)
_OURS = {"beta1": 0.9, "weight_power": 2.0}

SCHEDULE_FREE = Algorithm(
    name="schedule_free",
    title="Schedule-free",
    summary="Makes any optimizer do without a decaying rate: it averages what the optimizer does.",
    equation=_EQUATION,
    source=_SOURCE,
    when="Around an optimizer without momentum (for Adam, beta1 = 0), where the number of steps is not known "
    "beforehand. Evaluate the average (view=eval), and do not give the rate a decay as well.",
    hyperparameters=(OPTIMIZER, LEARNING_RATE, _INTERPOLATION, *_POWERS),
    dialects={
        "optax": Dialect(
            {"optimizer": REQUIRED, "learning_rate": REQUIRED, **_OURS},
            _choosing(_WRAPPER),
            _optax,
            ahead=("learning_rate",),
            differs="The learning rate here only weighs; the wrapped optimizer has its own, and sees y.",
            known_bugs=(_AHEAD,),
        ),
        "paper": Dialect(
            {"optimizer": REQUIRED, **_OURS, "time_power": 0.0},
            _choosing(_WRAPPER_AT_Z),
            _of_wrapped,
            differs="The authors' wrapper: steps weigh by the wrapped optimizer's rate (the ungrouped one for all), "
            "and it steps from z.",
        ),
    },
    kind="wrapper",
    default_dialect="paper",
)

SCHEDULE_FREE_SGD = Algorithm(
    name="schedule_free_sgd",
    title="Schedule-free SGD",
    summary="Gradient descent at a high rate without decay, and its average to evaluate with.",
    equation=_EQUATION,
    source=_SOURCE,
    when="Where SGD would need a decaying rate and the end is not known beforehand; take a higher rate than SGD's. The "
    "parameters to evaluate with are others than those to train with (view=eval).",
    hyperparameters=(LEARNING_RATE, _INTERPOLATION, WEIGHT_DECAY, _WARMUP, *_POWERS),
    dialects={
        "optax": Dialect(
            {"learning_rate": 1.0, **_OURS, "weight_decay": 0.0, "warmup_steps": 0},
            _choosing(_SGD),
            _optax,
            decay="coupled",
            ahead=("learning_rate",),
            check=_one_warmup,
            differs="x is worked out in every step; the first step of a warm-up has a rate of 0.",
            known_bugs=(_AHEAD,),
        ),
        "paper": Dialect(
            {"learning_rate": 1.0, **_OURS, "weight_decay": 0.0, "warmup_steps": 0, "time_power": 0.0},
            _choosing(_SGD_IN_PLACE),
            _paper,
            decay="coupled",
            differs="The authors' code: y and z alone are updated; the first step of a warm-up of n has 1/n of the "
            "rate.",
        ),
    },
    kind="layerwise",
    default_dialect="paper",
)

_ADAMW_DEFAULTS: dict[str, Any] = {
    "learning_rate": 0.0025,
    **_OURS,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "weight_decay": 0.0,
    "warmup_steps": 0,
}

SCHEDULE_FREE_ADAMW = Algorithm(
    name="schedule_free_adamw",
    title="Schedule-free AdamW",
    summary="AdamW with averaging in the place of momentum and of a decaying rate.",
    equation=_EQUATION + r", \quad u_t = -\alpha_t \left(\frac{g_t}{\sqrt{\hat v_t} + \epsilon} + \lambda y_t\right)",
    source=_SOURCE,
    when="Where AdamW would need a decaying rate and the end is not known beforehand; take a higher rate than AdamW's. "
    "The parameters to evaluate with are others than those to train with (view=eval).",
    hyperparameters=(LEARNING_RATE, _INTERPOLATION, BETA2, EPSILON, WEIGHT_DECAY, _WARMUP, *_POWERS),
    dialects={
        "optax": Dialect(
            _ADAMW_DEFAULTS,
            _choosing(_ADAMW),
            _optax,
            decay="own",
            ahead=("learning_rate",),
            check=_one_warmup,
            differs="x is worked out in every step; the first step of a warm-up has a rate of 0.",
            known_bugs=(_AHEAD,),
        ),
        "keras": Dialect(
            {k: v for k, v in _ADAMW_DEFAULTS.items() if k != "weight_power"},
            _choosing(_EVEN),
            _keras,
            decay="decoupled",
            differs="Every z weighs the same, also during a warm-up; weight decay shrinks y before the step, and z "
            "not at all.",
        ),
        "paper": Dialect(
            {**_ADAMW_DEFAULTS, "time_power": 0.0},
            _choosing(_ADAMW_IN_PLACE),
            _paper,
            decay="own",
            differs="The authors' code: y and z alone are updated; the first step of a warm-up of n has 1/n of the "
            "rate.",
        ),
    },
    kind="layerwise",
    default_dialect="paper",
)

ALGORITHMS = (SCHEDULE_FREE, SCHEDULE_FREE_SGD, SCHEDULE_FREE_ADAMW)
