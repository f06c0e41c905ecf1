"""Schedules that go one way: constant, steps, powers, lines, roots."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable

from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.schedules.form import (
    BEGIN,
    FINAL,
    GAMMA,
    INITIAL,
    TINY,
    Form,
    Level,
    Values,
    ascending,
    geometric,
    limit,
    mix,
)

_STAIRCASE = Hyperparameter("staircase", "Change once every `steps` steps, not a little at each.", "boolean")
_STEPS = Hyperparameter("steps", "N, the steps from the one value to the other.", "integer", low=1)


def _constant(a: Values, n: int) -> float:
    return float(a["value"])


def _constant_ends(a: Values) -> Iterable[float]:
    return (a["value"],)


def _step(a: Values, n: int) -> float:
    return geometric(a["initial"], a["gamma"], n // a["step_size"])


def _step_ends(a: Values) -> Iterable[float]:
    return a["initial"], limit(a["initial"], a["gamma"])


def _multi_step(a: Values, n: int) -> float:
    return geometric(a["initial"], a["gamma"], bisect_right(a["milestones"], n))


def _multi_step_ends(a: Values) -> Iterable[float]:
    last = geometric(a["initial"], a["gamma"], len(a["milestones"]))
    return a["initial"], last or limit(a["initial"], min(a["gamma"], 0.5))


def _milestones_ascend(a: Values) -> None:
    ascending(a, "milestones")


def _exponential(a: Values, n: int) -> float:
    return geometric(a["initial"], a["gamma"], n)


def _exponential_decay(a: Values, n: int) -> float:
    since = max(n - a["begin"], 0)
    times = since // a["steps"] if a["staircase"] else since / a["steps"]
    return _limited(a, geometric(a["initial"], a["gamma"], times))


def _limited(a: Values, value: float) -> float:
    bound = float(a["limit"])
    if not bound:
        return value
    return max(value, bound) if a["gamma"] < 1.0 else min(value, bound)


def _exponential_decay_ends(a: Values) -> Iterable[float]:
    return (_limited(a, end) for end in _step_ends(a))


def _inverse_time(a: Values, n: int) -> float:
    times = n // a["steps"] if a["staircase"] else n / a["steps"]
    return float(a["initial"] / (1.0 + a["decay_rate"] * times))


def _inverse_time_ends(a: Values) -> Iterable[float]:
    return a["initial"], limit(a["initial"], 0.5 if a["decay_rate"] else 1.0)


def _inverse_square_root(a: Values, n: int) -> float:
    return float(a["initial"] / math.sqrt(n + 1))


def _inverse_square_root_ends(a: Values) -> Iterable[float]:
    return a["initial"], limit(a["initial"], 0.5)


def _noam(a: Values, n: int) -> float:
    t, w = n + 1, a["warmup_steps"]
    return float(a["factor"] * a["model_size"] ** -0.5 * min(t**-0.5, t * w**-1.5))


def _noam_ends(a: Values) -> Iterable[float]:
    return TINY, _noam(a, a["warmup_steps"] - 1)


def _polynomial(a: Values, n: int) -> float:
    since, steps = max(n - a["begin"], 0), a["steps"]
    if a["cycle"]:
        steps *= max(1, -(-since // steps))
    left = (steps - min(since, steps)) / steps
    return mix(a["final"], a["initial"], left ** a["power"])


def _linear(a: Values, n: int) -> float:
    return mix(a["initial"], a["final"], min(max(n - a["begin"], 0), a["steps"]) / a["steps"])


def _initial_and_final(a: Values) -> Iterable[float]:
    return a["initial"], a["final"]


def _rex(a: Values, n: int) -> float:
    q = min(n, a["steps"]) / a["steps"]
    return mix(a["final"], a["initial"], (1.0 - q) / (1.0 - q / 2.0))


FORMS = (
    Form(
        "constant",
        "Constant",
        r"\alpha_n = \alpha",
        "The same value at every step.",
        "",
        {Level("value", "The value."): REQUIRED},
        _constant,
        _constant_ends,
    ),
    Form(
        "step",
        "Step decay",
        r"\alpha_n = \alpha_0\, \gamma^{\lfloor n / s \rfloor}",
        "Multiplied by gamma every step_size steps; torch's StepLR.",
        "torch.optim.lr_scheduler.StepLR",
        {
            INITIAL: REQUIRED,
            Hyperparameter("step_size", "Steps between two changes.", "integer", low=1): REQUIRED,
            GAMMA: 0.1,
        },
        _step,
        _step_ends,
    ),
    Form(
        "multi_step",
        "Decay at milestones",
        r"\alpha_n = \alpha_0\, \gamma^{k_n}, \quad k_n = |\{m : m \leq n\}|",
        "Multiplied by gamma at each milestone, in force from that step on; torch's MultiStepLR.",
        "torch.optim.lr_scheduler.MultiStepLR",
        {
            INITIAL: REQUIRED,
            Hyperparameter("milestones", "Counts of steps, ascending.", "integers", low=0): REQUIRED,
            GAMMA: 0.1,
        },
        _multi_step,
        _multi_step_ends,
        _milestones_ascend,
    ),
    Form(
        "exponential",
        "Exponential",
        r"\alpha_n = \alpha_0\, \gamma^n",
        "Multiplied by gamma at every step; torch's ExponentialLR.",
        "torch.optim.lr_scheduler.ExponentialLR",
        {INITIAL: REQUIRED, GAMMA: REQUIRED},
        _exponential,
        _step_ends,
    ),
    Form(
        "exponential_decay",
        "Exponential decay over a stretch",
        r"\alpha_n = \alpha_0\, \gamma^{\max(n - b, 0) / N}",
        "Multiplied by gamma over every N steps, a little at each or, as a staircase, all at once; it may begin later "
        "and stop at a limit. optax's exponential_decay, Keras' ExponentialDecay.",
        "optax.exponential_decay, keras.optimizers.schedules.ExponentialDecay",
        {
            INITIAL: REQUIRED,
            GAMMA: REQUIRED,
            Hyperparameter("steps", "N, the steps over which it is multiplied by gamma once.", "integer", low=1): (
                REQUIRED
            ),
            BEGIN: 0,
            _STAIRCASE: False,
            Hyperparameter(
                "limit", "Where it stops: a lower bound if gamma is below 1, else an upper bound; 0 for none."
            ): 0.0,
        },
        _exponential_decay,
        _exponential_decay_ends,
    ),
    Form(
        "inverse_time",
        "Inverse time decay",
        r"\alpha_n = \frac{\alpha_0}{1 + r\, n / N}",
        "Divided by a number that grows in a straight line; Keras' InverseTimeDecay.",
        "H. Robbins and S. Monro, doi:10.1214/aoms/1177729586; keras.optimizers.schedules.InverseTimeDecay",
        {
            INITIAL: REQUIRED,
            Hyperparameter("decay_rate", "r, what the divisor grows by in N steps.", low=0.0): REQUIRED,
            Hyperparameter("steps", "N, the steps in which the divisor grows by r.", "integer", low=1): 1,
            _STAIRCASE: False,
        },
        _inverse_time,
        _inverse_time_ends,
    ),
    Form(
        "inverse_square_root",
        "Inverse square root",
        r"\alpha_t = \alpha / \sqrt{t}, \quad t = n + 1",
        "The decay under which Adam's regret bound is proved; the first step has the whole rate.",
        "D. P. Kingma and J. Ba, arXiv:1412.6980, section 4",
        {INITIAL: REQUIRED},
        _inverse_square_root,
        _inverse_square_root_ends,
    ),
    Form(
        "noam",
        "Noam",
        r"\alpha_t = f\, d^{-1/2} \min(t^{-1/2},\ t\, w^{-3/2}), \quad t = n + 1",
        "The Transformer's: a linear warm-up of w steps, then the inverse square root.",
        "A. Vaswani et al., arXiv:1706.03762, equation 3",
        {
            Hyperparameter("model_size", "d, the width of the model.", "integer", low=1): REQUIRED,
            Hyperparameter("warmup_steps", "w, the step with the highest value.", "integer", low=1): 4000,
            Hyperparameter("factor", "f, what the whole is multiplied by.", above=0.0): 1.0,
        },
        _noam,
        _noam_ends,
    ),
    Form(
        "linear",
        "Linear decay",
        r"\alpha_n = \alpha_0 + (\alpha_N - \alpha_0) \min(\max(n - b, 0), N) / N",
        "In a straight line from the one value to the other, and stays there; torch's LinearLR, optax's "
        "linear_schedule.",
        "torch.optim.lr_scheduler.LinearLR",
        {INITIAL: REQUIRED, FINAL: 0.0, _STEPS: REQUIRED, BEGIN: 0},
        _linear,
        _initial_and_final,
    ),
    Form(
        "polynomial",
        "Polynomial decay",
        r"\alpha_n = \alpha_N + (\alpha_0 - \alpha_N) \left(1 - \min(n, N) / N\right)^p",
        "As linear, with the part that is left raised to a power. With cycle it starts again at each end, over a "
        "longer and longer stretch: N becomes N times n / N rounded up (Keras).",
        "optax.polynomial_schedule, keras.optimizers.schedules.PolynomialDecay",
        {
            INITIAL: REQUIRED,
            FINAL: 0.0,
            _STEPS: REQUIRED,
            Hyperparameter("power", "p, the power.", above=0.0): 1.0,
            BEGIN: 0,
            Hyperparameter("cycle", "Start again at the end, over a longer stretch.", "boolean"): False,
        },
        _polynomial,
        _initial_and_final,
    ),
    Form(
        "rex",
        "Reflected exponential (REX)",
        r"\alpha_n = \alpha_N + (\alpha_0 - \alpha_N) \frac{1 - q}{1 - q / 2}, \quad q = \min(n, N) / N",
        "Slow at first and steep at the end; made for short budgets.",
        "J. Chen, C. Wolfe and A. Kyrillidis, arXiv:2107.04197",
        {INITIAL: REQUIRED, FINAL: 0.0, _STEPS: REQUIRED},
        _rex,
        _initial_and_final,
    ),
)
