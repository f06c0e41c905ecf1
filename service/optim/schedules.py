"""Schedules: a hyperparameter as a function of the number of steps already taken.

Every schedule is a closed form, stateless in n, the count of completed steps (0 before the first step), so that any
step can be computed without the ones before it. `SCHEDULES` is the table that the catalogue, the schema and the tests
read.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from service.errors import Invalid, unknown
from service.optim.hyperparameters import REQUIRED, Hyperparameter, fill

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Form:
    """One kind of schedule: its arguments and its closed form `value(arguments, n)`."""

    name: str
    title: str
    equation: str
    summary: str
    source: str
    arguments: tuple[Hyperparameter, ...]
    defaults: Values
    value: Callable[[Values, int], float]


@dataclass(frozen=True)
class Schedule:
    """A form with its arguments: call it with n to get the value for step n + 1."""

    form: Form
    arguments: Mapping[str, Any]

    def __call__(self, n: int) -> float:
        return self.form.value(self.arguments, n)

    def as_json(self) -> dict[str, Any]:
        """The resolved specification, which `parse` reads back."""
        return {"schedule": self.form.name, **self.arguments}


INITIAL = Hyperparameter("initial", "The value that the schedule starts from.")
GAMMA = Hyperparameter("gamma", "What the value is multiplied by each time.", low=0.0)


FAR = 2**53  # a count that no session reaches: what a monotone schedule comes to in the end


def _geometric(a: Values, times: int) -> float:
    """`initial` times gamma so many times; an infinity, not an exception, where that overflows."""
    try:
        return float(a["initial"] * a["gamma"] ** times)
    except OverflowError:
        return math.copysign(math.inf, a["initial"]) if a["initial"] else 0.0


def _between(value: float, a: float, b: float) -> float:
    """The value, held between the ends that rounding may pass."""
    return max(min(a, b), min(max(a, b), value))


def _constant(a: Values, n: int) -> float:
    return float(a["value"])


def _step(a: Values, n: int) -> float:
    return _geometric(a, n // a["step_size"])


def _multi_step(a: Values, n: int) -> float:
    return _geometric(a, bisect_right(a["milestones"], n))


def _exponential(a: Values, n: int) -> float:
    return _geometric(a, n)


def _inverse_square_root(a: Values, n: int) -> float:
    return float(a["initial"] / math.sqrt(n + 1))


def _cosine_annealing(a: Values, n: int) -> float:
    top, bottom = a["initial"], a["minimum"]
    return _between(bottom + (top - bottom) * (1.0 + math.cos(math.pi * n / a["t_max"])) / 2.0, top, bottom)


def _linear(a: Values, n: int) -> float:
    share = min(n, a["steps"]) / a["steps"]
    return _between(a["initial"] * (1.0 - share) + a["final"] * share, a["initial"], a["final"])


def _linear_warmup(a: Values, n: int) -> float:
    share = min(n, a["warmup_steps"]) / a["warmup_steps"]
    return float(a["peak"] * (a["start_factor"] + (1.0 - a["start_factor"]) * share))


SCHEDULES: dict[str, Form] = {
    form.name: form
    for form in (
        Form(
            "constant",
            "Constant",
            r"\alpha_n = \alpha",
            "The same value at every step.",
            "",
            (Hyperparameter("value", "The value."),),
            {"value": REQUIRED},
            _constant,
        ),
        Form(
            "step",
            "Step decay",
            r"\alpha_n = \alpha_0\, \gamma^{\lfloor n / s \rfloor}",
            "Multiplied by gamma every step_size steps; torch's StepLR.",
            "torch.optim.lr_scheduler.StepLR",
            (INITIAL, Hyperparameter("step_size", "Steps between two changes.", "integer", low=1), GAMMA),
            {"initial": REQUIRED, "step_size": REQUIRED, "gamma": 0.1},
            _step,
        ),
        Form(
            "multi_step",
            "Decay at milestones",
            r"\alpha_n = \alpha_0\, \gamma^{k_n}, \quad k_n = |\{m : m \leq n\}|",
            "Multiplied by gamma at each milestone, in force from that step on; torch's MultiStepLR.",
            "torch.optim.lr_scheduler.MultiStepLR",
            (INITIAL, Hyperparameter("milestones", "Counts of steps, ascending.", "integers", low=0), GAMMA),
            {"initial": REQUIRED, "milestones": REQUIRED, "gamma": 0.1},
            _multi_step,
        ),
        Form(
            "exponential",
            "Exponential decay",
            r"\alpha_n = \alpha_0\, \gamma^n",
            "Multiplied by gamma at every step; torch's ExponentialLR.",
            "torch.optim.lr_scheduler.ExponentialLR",
            (INITIAL, GAMMA),
            {"initial": REQUIRED, "gamma": REQUIRED},
            _exponential,
        ),
        Form(
            "inverse_square_root",
            "Inverse square root",
            r"\alpha_t = \alpha / \sqrt{t}, \quad t = n + 1",
            "The decay under which Adam's regret bound is proved; the first step has the whole rate.",
            "D. P. Kingma and J. Ba, arXiv:1412.6980, section 4",
            (INITIAL,),
            {"initial": REQUIRED},
            _inverse_square_root,
        ),
        Form(
            "cosine_annealing",
            "Cosine annealing",
            r"\alpha_n = \alpha_{\min} + \frac{1}{2} (\alpha_0 - \alpha_{\min}) (1 + \cos(\pi n / T))",
            "Half a cosine down to the minimum in t_max steps; like torch's CosineAnnealingLR it rises again after.",
            "I. Loshchilov and F. Hutter, SGDR, arXiv:1608.03983; torch.optim.lr_scheduler.CosineAnnealingLR",
            (
                INITIAL,
                Hyperparameter("t_max", "Steps from the top to the bottom.", "integer", low=1),
                Hyperparameter("minimum", "The value at the bottom."),
            ),
            {"initial": REQUIRED, "t_max": REQUIRED, "minimum": 0.0},
            _cosine_annealing,
        ),
        Form(
            "linear",
            "Linear decay",
            r"\alpha_n = \alpha_0 + (\alpha_N - \alpha_0) \min(n, N) / N",
            "In a straight line from the one value to the other, and stays there; torch's LinearLR, optax's "
            "linear_schedule.",
            "torch.optim.lr_scheduler.LinearLR",
            (
                INITIAL,
                Hyperparameter("final", "The value from step N on."),
                Hyperparameter("steps", "N, the steps from the one to the other.", "integer", low=1),
            ),
            {"initial": REQUIRED, "final": 0.0, "steps": REQUIRED},
            _linear,
        ),
        Form(
            "linear_warmup",
            "Linear warm-up",
            r"\alpha_n = \alpha \left(f + (1 - f) \min(n, N) / N\right)",
            "Rises in a straight line from start_factor times the peak to the peak, and stays there.",
            "torch.optim.lr_scheduler.LinearLR",
            (
                Hyperparameter("peak", "The value after the warm-up."),
                Hyperparameter("warmup_steps", "Steps until the peak.", "integer", low=1),
                Hyperparameter("start_factor", "Share of the peak at the first step.", low=0.0, high=1.0),
            ),
            {"peak": REQUIRED, "warmup_steps": REQUIRED, "start_factor": 0.0},
            _linear_warmup,
        ),
    )
}


def parse(specification: Mapping[str, Any], target: Hyperparameter, pointer: str = "") -> Schedule:
    """The schedule of `{"schedule": name, ...}`, its end points checked against the target's range.

    Raises Invalid: no such schedule, a bad argument, or a value that the hyperparameter does not take.
    """
    name = specification.get("schedule")
    if not isinstance(name, str):
        raise Invalid(f'{target.name} must be a number or {{"schedule": name, ...}}.', pointer=pointer)
    if name not in SCHEDULES:
        raise unknown("schedule", name, list(SCHEDULES), pointer=f"{pointer}/schedule")
    form = SCHEDULES[name]
    given = {key: value for key, value in specification.items() if key != "schedule"}
    try:
        arguments = fill(given, form.arguments, form.defaults, owner=f"The schedule {name}")
    except Invalid as error:
        raise error.at(pointer) from None
    if name == "multi_step" and arguments["milestones"] != sorted(arguments["milestones"]):
        raise Invalid("milestones must ascend.", pointer=f"{pointer}/milestones")
    for key in ("value", "initial", "final", "peak", "minimum"):
        if key in arguments:
            target.check(arguments[key], f"{pointer}/{key}")
    schedule = Schedule(form, arguments)
    target.check(schedule(0), pointer)
    if schedule(FAR) > target.highest or (schedule(FAR) >= target.below < math.inf):
        raise Invalid(f"This schedule leaves the range of {target.name}; take a gamma of at most 1.", pointer=pointer)
    return schedule


def describe(form: Form) -> dict[str, Any]:
    """The catalogue entry of a schedule."""
    entry: dict[str, Any] = {
        "name": form.name,
        "title": form.title,
        "summary": form.summary,
        "equation": form.equation,
        "arguments": {a.name: a.schema() for a in form.arguments},
        "defaults": {name: value for name, value in form.defaults.items() if value is not REQUIRED},
        "required": [name for name, value in form.defaults.items() if value is REQUIRED],
    }
    return {**entry, "source": form.source} if form.source else entry
