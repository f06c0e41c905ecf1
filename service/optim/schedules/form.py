"""What a schedule is: a hyperparameter as a function of n, the count of steps already taken (0 before the first).

Every form but those that follow the loss is closed and stateless: any step can be computed without the ones before it,
at a cost that does not grow with n. A form also says the `ends` that no value of it passes, so that a schedule which
would leave the range of its hyperparameter is refused before the first step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

from service.errors import Invalid
from service.optim.hyperparameters import Hyperparameter

Values = Mapping[str, Any]

FAR = 2**53  # a count that no session reaches
TINY = 5e-324  # stands among the ends for a zero that is approached and never reached


@dataclass(frozen=True)
class Level(Hyperparameter):
    """An argument that is a value of the scheduled hyperparameter, and has its range."""


@dataclass(frozen=True)
class Levels(Hyperparameter):
    """A list of at least two levels."""

    schedulable: bool = False

    def check(self, value: Any, pointer: str = "") -> list[float]:
        if not isinstance(value, list) or len(value) < 2:
            raise Invalid(f"{self.name} must be a list of at least two numbers.", pointer=pointer)
        one = Hyperparameter(self.name, self.meaning)
        return [one.check(item, f"{pointer}/{i}") for i, item in enumerate(value)]

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "number"}, "minItems": 2, "description": self.meaning}


@dataclass(frozen=True)
class Parts(Hyperparameter):
    """A list of schedules. As `factors` they multiply a level and need not be in its range themselves."""

    schedulable: bool = False
    factors: bool = False

    def check(self, value: Any, pointer: str = "") -> list[Mapping[str, Any]]:
        """The list; what stands in it is read by `parse`."""
        if not isinstance(value, list) or not value or not all(isinstance(item, Mapping) for item in value):
            raise Invalid(f"{self.name} must be a list of schedules, each an object.", pointer=pointer)
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "object"}, "minItems": 1, "description": self.meaning}


def _nothing(a: Values) -> None:
    """The arguments agree whatever they are."""


@dataclass(frozen=True)
class Form:
    """One kind of schedule.

    arguments   declared in pairs with their defaults
    value       the closed form: (arguments, n) -> value
    ends        values that it comes to or approaches: none lies outside the smallest interval that holds them
    check       refuses arguments that do not agree with each other; raises Invalid with a pointer
    start       for a form driven by the loss: arguments -> the numbers that it remembers before the first step
    observe     (arguments, memory, loss) -> the memory after a step of that loss
    read        (arguments, memory) -> the value
    at_once     whether a loss changes the value of its own step, or from the next step on

    A form that is driven by the loss is the one kind that is not a function of n: its `value` is where it starts.
    """

    name: str
    title: str
    equation: str
    summary: str
    source: str
    declared: Mapping[Hyperparameter, Any]
    value: Callable[[Values, int], float] = field(repr=False)
    ends: Callable[[Values], Iterable[float]] = field(repr=False)
    check: Callable[[Values], None] = field(default=_nothing, repr=False)
    start: Callable[[Values], tuple[float, ...]] | None = field(default=None, repr=False)
    observe: Callable[[Values, tuple[float, ...], float], tuple[float, ...]] | None = field(default=None, repr=False)
    read: Callable[[Values, tuple[float, ...]], float] | None = field(default=None, repr=False)
    at_once: Callable[[Values], bool] = field(default=lambda a: False, repr=False)

    @cached_property
    def arguments(self) -> tuple[Hyperparameter, ...]:
        return tuple(self.declared)

    @cached_property
    def defaults(self) -> dict[str, Any]:
        return {argument.name: default for argument, default in self.declared.items()}


@dataclass(frozen=True)
class Schedule:
    """A form with its arguments, of which the schedules are parsed: call it with n to get the value for step n + 1."""

    form: Form
    arguments: Mapping[str, Any]

    def __call__(self, n: int) -> float:
        low, high = self.range
        return max(low, min(high, float(self.form.value(self.arguments, n))))

    @property
    def driven(self) -> bool:
        """Whether it follows the loss, and so has a memory."""
        return self.form.start is not None

    @cached_property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest value that it can come to; what rounds past them is held there."""
        ends = [float(end) for end in self.form.ends(self.arguments)]
        return min(ends), max(ends)

    def as_json(self) -> dict[str, Any]:
        """The resolved specification, which `parse` reads back."""
        arguments = {
            name: [part.as_json() for part in value] if isinstance(value, tuple) else value
            for name, value in self.arguments.items()
        }
        return {"schedule": self.form.name, **arguments}


INITIAL = Level("initial", "The value that the schedule starts from.")
GAMMA = Hyperparameter("gamma", "What the value is multiplied by each time.", low=0.0)
BEGIN = Hyperparameter("begin", "Steps before it begins to change.", "integer", low=0)
PEAK = Level("peak", "The highest point, where the warm-up ends.")
FINAL = Level("final", "The value at the end, which stays.")
WARMUP_STEPS = Hyperparameter("warmup_steps", "Steps until the peak.", "integer", low=0)


def mix(start: float, end: float, share: float) -> float:
    """From start to end in a straight line; both are met exactly, and nothing overflows between them."""
    if share <= 0.0 or start == end:
        return start
    if share <= 1.0:
        return end if share == 1.0 else start * (1.0 - share) + end * share
    return start + (end - start) * share


def half_cosine(share: float) -> float:
    """From 1 at share 0 down to 0 at share 1."""
    return (1.0 + math.cos(math.pi * share)) / 2.0


def geometric(initial: float, gamma: float, times: float) -> float:
    """`initial` times gamma to the power `times`; an infinity, not an exception, where that overflows."""
    if initial == 0.0:
        return 0.0
    value = initial * power(gamma, times)
    if 0.0 < abs(value) < math.inf or gamma == 0.0:
        return value
    half = power(gamma, times / 2)  # the power alone may overflow where the product does not
    return initial * half * half


def power(base: float, exponent: float) -> float:
    """A power of a number that is not negative; an infinity where it overflows."""
    try:
        return float(base**exponent)
    except OverflowError:
        return math.inf


def limit(initial: float, gamma: float) -> float:
    """What `geometric` approaches."""
    if initial == 0.0 or gamma == 0.0:
        return 0.0
    if gamma == 1.0:
        return initial
    return math.copysign(TINY if gamma < 1.0 else math.inf, initial)


def ascending(a: Values, name: str, *, strictly: bool = False) -> None:
    """Refuses counts that do not ascend."""
    counts = a[name]
    if any(x > y or (strictly and x == y) for x, y in pairwise(counts)):
        raise Invalid(f"{name} must ascend.", pointer=f"/{name}")
