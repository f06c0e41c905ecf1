"""Schedules that begin with a linear warm-up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from service.errors import Invalid
from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.schedules.cosines import EXPONENT, MINIMUM
from service.optim.schedules.form import FINAL, PEAK, WARMUP_STEPS, Form, Level, Values, half_cosine, mix

_INITIAL = Level("initial", "The value of the first step, before the warm-up.")
_STEPS = Hyperparameter("steps", "N, the steps until the end.", "integer", low=1)
_INCLUDES = Hyperparameter(
    "steps_include_warmup", "Whether the warm-up is part of these steps (HuggingFace, optax) or not (Keras).", "boolean"
)


def _linear_warmup(a: Values, n: int) -> float:
    share = min(n, a["warmup_steps"]) / a["warmup_steps"]
    return float(a["peak"] * mix(a["start_factor"], 1.0, share))


def _linear_warmup_ends(a: Values) -> Iterable[float]:
    return a["peak"] * a["start_factor"], a["peak"]


def _decay_share(a: Values, n: int) -> float:
    """How much of the decay has passed at a step after the warm-up."""
    steps = a["steps"] - a["warmup_steps"] if a["steps_include_warmup"] else a["steps"]
    return float(min(n - a["warmup_steps"], steps) / steps)


def _linear_with_warmup(a: Values, n: int) -> float:
    if n < a["warmup_steps"]:
        return mix(a["initial"], a["peak"], n / a["warmup_steps"])
    return mix(a["peak"], a["final"], _decay_share(a, n))


def _cosine_with_warmup(a: Values, n: int) -> float:
    if n < a["warmup_steps"]:
        return mix(a["initial"], a["peak"], n / a["warmup_steps"])
    return mix(a["minimum"], a["peak"], half_cosine(_decay_share(a, n)) ** a["exponent"])


def _check_steps(a: Values) -> None:
    if a["steps_include_warmup"] and a["steps"] <= a["warmup_steps"]:
        raise Invalid("steps must be more than warmup_steps, which they include.", pointer="/steps")


_COOLDOWNS: dict[str, Callable[[float], float]] = {
    "linear": lambda q: 1.0 - q,
    "cosine": half_cosine,
    "one_minus_sqrt": lambda q: 1.0 - math.sqrt(q),
    "one_minus_square": lambda q: 1.0 - q * q,
}


def _warmup_stable_decay(a: Values, n: int) -> float:
    since = n - a["warmup_steps"]
    if since < 0:
        return mix(a["initial"], a["peak"], n / a["warmup_steps"])
    q = min(max(since - a["stable_steps"], 0), a["decay_steps"]) / a["decay_steps"]
    return mix(a["final"], a["peak"], _COOLDOWNS[a["cooldown"]](q))


def _ends(a: Values) -> Iterable[float]:
    return ([a["initial"]] if a["warmup_steps"] else []) + [a["peak"], a["minimum" if "minimum" in a else "final"]]


FORMS = (
    Form(
        "linear_warmup",
        "Linear warm-up",
        r"\alpha_n = \alpha \left(f + (1 - f) \min(n, N) / N\right)",
        "Rises in a straight line from start_factor times the peak to the peak, and stays there.",
        "torch.optim.lr_scheduler.LinearLR",
        {
            Level("peak", "The value after the warm-up."): REQUIRED,
            Hyperparameter("warmup_steps", "Steps until the peak.", "integer", low=1): REQUIRED,
            Hyperparameter("start_factor", "Share of the peak at the first step.", low=0.0, high=1.0): 0.0,
        },
        _linear_warmup,
        _linear_warmup_ends,
    ),
    Form(
        "linear_with_warmup",
        "Linear warm-up, linear decay",
        r"\alpha_n = \hat{\alpha}\, n / w \;\; (n < w), \quad \hat{\alpha}\, (N - n) / (N - w) \;\; (w \leq n \leq N)",
        "Rises in a straight line for w steps, and falls in one until step N; HuggingFace's linear schedule.",
        "https://huggingface.co/docs/transformers/main_classes/optimizer_schedules",
        {PEAK: REQUIRED, WARMUP_STEPS: REQUIRED, _STEPS: REQUIRED, _INITIAL: 0.0, FINAL: 0.0, _INCLUDES: True},
        _linear_with_warmup,
        _ends,
        _check_steps,
    ),
    Form(
        "cosine_with_warmup",
        "Linear warm-up, cosine decay",
        r"\alpha_n = \hat{\alpha}\, n / w \;\; (n < w), \quad "
        r"\frac{\hat{\alpha}}{2} \left(1 + \cos \pi \frac{n - w}{N - w}\right) \;\; (w \leq n \leq N)",
        "Rises in a straight line for w steps, then half a cosine down to the minimum at step N (or, if the steps do "
        "not include the warm-up, at N + w), where it stays.",
        "optax.warmup_cosine_decay_schedule, keras.optimizers.schedules.CosineDecay",
        {
            PEAK: REQUIRED,
            WARMUP_STEPS: REQUIRED,
            _STEPS: REQUIRED,
            _INITIAL: 0.0,
            MINIMUM: 0.0,
            EXPONENT: 1.0,
            _INCLUDES: True,
        },
        _cosine_with_warmup,
        _ends,
        _check_steps,
    ),
    Form(
        "warmup_stable_decay",
        "Warm-up, stable, decay (WSD)",
        r"\alpha_n = \hat{\alpha}\, n / w, \;\; \hat{\alpha}, \;\; \hat{\alpha}\, f(q_n), \quad "
        r"q_n = (n - w - s) / d",
        "A linear warm-up, a long constant stretch s, and a short cool-down d in which q goes from 0 to 1 and f is "
        "1 - q, half a cosine, one minus the root of q or one minus its square.",
        "S. Hu et al., MiniCPM, arXiv:2404.06395; A. Hägele et al., arXiv:2405.18392",
        {
            PEAK: REQUIRED,
            WARMUP_STEPS: REQUIRED,
            Hyperparameter("stable_steps", "s, the steps at the peak.", "integer", low=0): REQUIRED,
            Hyperparameter("decay_steps", "d, the steps of the cool-down.", "integer", low=1): REQUIRED,
            Hyperparameter("cooldown", "f, the way down.", "choice", choices=tuple(_COOLDOWNS)): "one_minus_sqrt",
            _INITIAL: 0.0,
            FINAL: 0.0,
        },
        _warmup_stable_decay,
        _ends,
    ),
)
