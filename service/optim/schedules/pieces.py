"""Schedules put together: of values, and of other schedules."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from service.errors import Invalid
from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.schedules.cosines import SHAPE
from service.optim.schedules.form import TINY, Form, Levels, Parts, Values, ascending, half_cosine, mix

_BOUNDARIES = Hyperparameter("boundaries", "Counts of steps, ascending, one less than values.", "integers", low=0)


def _piecewise_constant(a: Values, n: int) -> float:
    find = bisect_right if a["change"] == "at" else bisect_left
    return float(a["values"][find(a["boundaries"], n)])


def _piecewise_interpolate(a: Values, n: int) -> float:
    i = bisect_right(a["boundaries"], n)
    if i == len(a["boundaries"]):
        return float(a["values"][-1])
    begins = a["boundaries"][i - 1] if i else 0
    share = (n - begins) / (a["boundaries"][i] - begins)
    first, last = a["values"][i], a["values"][i + 1]
    return mix(last, first, half_cosine(share)) if a["shape"] == "cosine" else mix(first, last, share)


def _values(a: Values) -> Iterable[float]:
    return [float(value) for value in a["values"]]


def _check_boundaries(a: Values) -> None:
    if len(a["boundaries"]) != len(a["values"]) - 1:
        raise Invalid("boundaries must be one fewer than values.", pointer="/boundaries")
    ascending(a, "boundaries")


def _check_distinct(a: Values) -> None:
    _check_boundaries(a)
    ascending(a, "boundaries", strictly=True)


def _sequential(a: Values, n: int) -> float:
    i = bisect_right(a["milestones"], n)
    return float(a["schedules"][i](n - (a["milestones"][i - 1] if i else 0)))


def _sequential_ends(a: Values) -> Iterable[float]:
    return [end for part in a["schedules"] for end in part.range]


def _check_milestones(a: Values) -> None:
    if len(a["milestones"]) != len(a["schedules"]) - 1:
        raise Invalid("milestones must be one fewer than schedules.", pointer="/milestones")
    ascending(a, "milestones")


def _chained(a: Values, n: int) -> float:
    product = 1.0
    for part in a["schedules"]:
        product = _times(product, part(n))
    return product


def _chained_ends(a: Values) -> Iterable[float]:
    ends = [1.0]
    for part in a["schedules"]:
        products = [_times(end, other) for end in ends for other in part.range]
        ends = [min(products), max(products)]
    return ends


def _times(x: float, y: float) -> float:
    """The product; zero only where a factor is, and then even if the other is infinite."""
    if x == 0.0 or y == 0.0:
        return 0.0
    return x * y or math.copysign(TINY, math.copysign(1.0, x) * math.copysign(1.0, y))


FORMS = (
    Form(
        "piecewise_constant",
        "Piecewise constant",
        r"\alpha_n = v_{k_n}, \quad k_n = |\{b : b \leq n\}|",
        "One value after the other. A new value holds at its boundary (torch, optax) or one step after it (Keras' "
        "PiecewiseConstantDecay).",
        "optax.piecewise_constant_schedule, keras.optimizers.schedules.PiecewiseConstantDecay",
        {
            Levels("values", "The values, one more than boundaries."): REQUIRED,
            _BOUNDARIES: REQUIRED,
            Hyperparameter("change", "At a boundary or after it.", "choice", choices=("at", "after")): "at",
        },
        _piecewise_constant,
        _values,
        _check_boundaries,
    ),
    Form(
        "piecewise_interpolate",
        "Piecewise interpolated",
        r"\alpha_n = v_k + (v_{k+1} - v_k)\, f(q), \quad q = \frac{n - b_k}{b_{k+1} - b_k}",
        "From value to value, each met at its boundary (the first at 0), in straight lines or half cosines.",
        "optax.piecewise_interpolate_schedule",
        {
            Levels("values", "The values, one more than boundaries."): REQUIRED,
            _BOUNDARIES: REQUIRED,
            SHAPE: "linear",
        },
        _piecewise_interpolate,
        _values,
        _check_distinct,
    ),
    Form(
        "sequential",
        "One schedule after another",
        r"\alpha_n = s_k(n - m_k), \quad m_k \leq n < m_{k+1}",
        "Each schedule takes over at its milestone and starts there at its own zero; torch's SequentialLR, optax's "
        "join_schedules.",
        "torch.optim.lr_scheduler.SequentialLR, optax.join_schedules",
        {
            Parts("schedules", "The schedules, one more than milestones."): REQUIRED,
            Hyperparameter("milestones", "Where each but the first takes over, ascending.", "integers", low=0): (
                REQUIRED
            ),
        },
        _sequential,
        _sequential_ends,
        _check_milestones,
    ),
    Form(
        "chained",
        "Schedules multiplied",
        r"\alpha_n = \prod_k s_k(n)",
        "The product of all: the first in the hyperparameter's unit, the others as factors; torch's ChainedScheduler "
        "for schedulers that multiply the rate.",
        "torch.optim.lr_scheduler.ChainedScheduler",
        {Parts("schedules", "The schedules to multiply.", factors=True): REQUIRED},
        _chained,
        _chained_ends,
    ),
)
