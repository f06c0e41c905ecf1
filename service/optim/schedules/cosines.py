"""Schedules that rise and fall: cosines, restarts, cycles."""

from __future__ import annotations

import math
from collections.abc import Iterable

from service.errors import Invalid
from service.optim.hyperparameters import LARGEST_WHOLE, REQUIRED, Hyperparameter
from service.optim.schedules.form import INITIAL, PEAK, Form, Level, Values, geometric, half_cosine, limit, mix, power

MINIMUM = Level("minimum", "The value at the bottom.")
EXPONENT = Hyperparameter("exponent", "What the cosine is raised to.", above=0.0)
SHAPE = Hyperparameter("shape", "The way from one value to the next.", "choice", choices=("cosine", "linear"))


def _cosine_annealing(a: Values, n: int) -> float:
    top = a["t_max"]
    if a["after_end"] == "rise":
        n %= 2 * top
        n = min(n, 2 * top - n)
    weight = half_cosine(min(n, top) / top) ** a["exponent"]
    return mix(a["minimum"], a["initial"], weight)


def _initial_and_minimum(a: Values) -> Iterable[float]:
    return a["initial"], a["minimum"]


def _restarted(a: Values, n: int) -> tuple[int, float]:
    """Which period the step is in, from 0, and how far into it, from 0 up to 1."""
    first, grows = a["first_steps"], a["t_mult"]
    if grows == 1.0:
        return n // first, n % first / first
    factor = int(grows) if grows == int(grows) else grows

    def starts(i: int) -> float:
        return first * (factor**i - 1) // (factor - 1) if isinstance(factor, int) else _started(first, factor, i)

    i = int(math.log1p(n / first * (grows - 1.0)) / math.log(grows))
    while i > 0 and starts(i) > n:  # at most once: the logarithm is off by a rounding
        i -= 1
    while starts(i + 1) <= n:
        i += 1
    return i, (n - starts(i)) / (first * factor**i)


def _started(first: int, factor: float, i: int) -> float:
    return first * math.expm1(i * math.log(factor)) / (factor - 1.0)


def _cosine_warm_restarts(a: Values, n: int) -> float:
    i, share = _restarted(a, n)
    height = power(a["height_mult"], i)
    weight = half_cosine(share)
    return mix(a["minimum"], a["initial"], height * weight if weight else 0.0)


def _cosine_warm_restarts_ends(a: Values) -> Iterable[float]:
    if a["height_mult"] > 1.0 and a["initial"] != a["minimum"]:
        return a["initial"], a["minimum"], math.copysign(math.inf, a["initial"] - a["minimum"])
    return a["initial"], a["minimum"]


def _cyclic(a: Values, n: int) -> float:
    up, down = a["steps_up"], a["steps_down"] or a["steps_up"]
    cycle, at = divmod(n, up + down)
    height = at / up if at <= up else (up + down - at) / down
    if not height:
        return float(a["initial"])
    scale = {"triangular": 1.0, "triangular2": 0.5**cycle, "exp_range": geometric(1.0, a["gamma"], n)}[a["mode"]]
    return mix(a["initial"], a["peak"], height * scale)


def _cyclic_ends(a: Values) -> Iterable[float]:
    if a["mode"] == "exp_range" and a["initial"] != a["peak"]:
        top = limit(1.0, a["gamma"])
        if top == math.inf:
            return a["initial"], a["peak"], math.copysign(math.inf, a["peak"] - a["initial"])
    return a["initial"], a["peak"]


def _phases(a: Values) -> tuple[tuple[float, float, float], ...]:
    """The end, the first and the last value of each phase."""
    top = a["peak"]
    first = top / a["div_factor"]
    last = first / a["final_div_factor"]
    rising = a["pct_start"] * a["steps"]
    if a["formula"] == "torch":
        peak_at, end = rising - 1.0, a["steps"] - 1.0
        back_at = 2.0 * a["pct_start"] * a["steps"] - 2.0
    else:
        peak_at, end = int(rising), a["steps"]
        back_at = int(a["pct_final"] * a["steps"])
    if a["three_phase"]:
        return (peak_at, first, top), (back_at, top, first), (end, first, last)
    return (peak_at, first, top), (end, top, last)


def _one_cycle(a: Values, n: int) -> float:
    begins = 0.0
    phases = _phases(a)
    for ends, first, last in phases:
        if n < ends:
            share = (n - begins) / (ends - begins)
            return mix(last, first, half_cosine(share)) if a["shape"] == "cosine" else mix(first, last, share)
        begins = ends
    return phases[-1][2]


def _one_cycle_ends(a: Values) -> Iterable[float]:
    return [value for _, first, last in _phases(a) for value in (first, last)]


def _one_cycle_check(a: Values) -> None:
    for name in ("div_factor", "final_div_factor"):
        if not all(map(math.isfinite, _one_cycle_ends(a))):
            raise Invalid(f"{name} is so small that a value overflows.", pointer=f"/{name}")
    if a["formula"] == "optax":
        ends = [int(end) for end, _, _ in _phases(a)]
        if len(set(ends)) < len(ends) or ends != sorted(ends):
            raise Invalid("Every phase needs at least one step.", pointer="/steps")


FORMS = (
    Form(
        "cosine_annealing",
        "Cosine annealing",
        r"\alpha_n = \alpha_{\min} + (\alpha_0 - \alpha_{\min}) \left(\frac{1 + \cos(\pi n / T)}{2}\right)^p",
        "Half a cosine down to the minimum in t_max steps. After that it rises again, like torch's CosineAnnealingLR, "
        "or stays, like optax's and Keras' cosine decay.",
        "I. Loshchilov and F. Hutter, SGDR, arXiv:1608.03983; torch.optim.lr_scheduler.CosineAnnealingLR",
        {
            INITIAL: REQUIRED,
            Hyperparameter("t_max", "Steps from the top to the bottom.", "integer", low=1): REQUIRED,
            MINIMUM: 0.0,
            EXPONENT: 1.0,
            Hyperparameter("after_end", "Past t_max: rise again or stay.", "choice", choices=("rise", "stay")): "rise",
        },
        _cosine_annealing,
        _initial_and_minimum,
    ),
    Form(
        "cosine_warm_restarts",
        "Cosine annealing with warm restarts",
        r"\alpha_n = \alpha_{\min} + (\alpha_0 - \alpha_{\min})\, h^i\, \frac{1 + \cos(\pi\, n_i / T_i)}{2}, "
        r"\quad T_i = T_0\, m^i",
        "A cosine down, then again from the top: period i is m times as long as the one before and h times as high.",
        "I. Loshchilov and F. Hutter, SGDR, arXiv:1608.03983",
        {
            INITIAL: REQUIRED,
            Hyperparameter("first_steps", "The steps of the first period.", "integer", low=1): REQUIRED,
            Hyperparameter(
                "t_mult", "m, how many times longer each period is.", low=1.0, high=float(LARGEST_WHOLE)
            ): 1.0,
            Hyperparameter("height_mult", "h, how many times higher each period starts.", low=0.0): 1.0,
            MINIMUM: 0.0,
        },
        _cosine_warm_restarts,
        _cosine_warm_restarts_ends,
    ),
    Form(
        "cyclic",
        "Cyclic",
        r"\alpha_n = \alpha_0 + (\hat{\alpha} - \alpha_0)\, h_n\, s_n",
        "Up to the peak and down again in straight lines, over and over. The height h is 1 at the peak; the scale s is "
        "1 (triangular), halved with every cycle (triangular2) or gamma to the power n (exp_range).",
        "L. N. Smith, arXiv:1506.01186; torch.optim.lr_scheduler.CyclicLR",
        {
            Level("initial", "The value that each cycle starts from."): REQUIRED,
            Level("peak", "The value in the middle of the first cycle."): REQUIRED,
            Hyperparameter("steps_up", "Steps from the initial value to the peak.", "integer", low=1): 2000,
            Hyperparameter("steps_down", "Steps back; 0 for as many as up.", "integer", low=0): 0,
            Hyperparameter(
                "mode", "How the peaks change.", "choice", choices=("triangular", "triangular2", "exp_range")
            ): "triangular",
            Hyperparameter("gamma", "What exp_range is multiplied by at each step.", low=0.0): 1.0,
        },
        _cyclic,
        _cyclic_ends,
    ),
    Form(
        "one_cycle",
        "One cycle",
        r"\hat{\alpha} / d \;\rightarrow\; \hat{\alpha} \;\rightarrow\; \hat{\alpha} / (d\, d_N)",
        "Up to the peak, then down far below the start; with three phases, back to the start first. For torch the peak "
        "is at pct_start N - 1 and the end at N - 1; for optax at the whole part of pct_start N and at N. It stays at "
        "the end, past which torch raises an error.",
        "L. N. Smith and N. Topin, arXiv:1708.07120",
        {
            PEAK: REQUIRED,
            Hyperparameter("steps", "N, all steps.", "integer", low=1): REQUIRED,
            Hyperparameter("pct_start", "The share of the steps until the peak.", low=0.0, high=1.0): 0.3,
            Hyperparameter(
                "pct_final", "The share until the third phase, by optax's formula.", low=0.0, high=1.0
            ): 0.85,
            Hyperparameter("div_factor", "d, the peak over the first value.", above=0.0): 25.0,
            Hyperparameter("final_div_factor", "The first value over the last.", above=0.0): 1e4,
            SHAPE: "cosine",
            Hyperparameter("three_phase", "Come back to the first value before the last phase.", "boolean"): False,
            Hyperparameter(
                "formula", "Whose formula for where the phases end.", "choice", choices=("torch", "optax")
            ): "torch",
        },
        _one_cycle,
        _one_cycle_ends,
        _one_cycle_check,
    ),
)
