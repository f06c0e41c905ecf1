"""What a transform is: something done around the rule.

A transform of the stage "gradient" is a pure function `apply(g, p, at, values, *slots)` of the flat gradient and
parameters, both of shape (size,), run before the rule sees the gradient; it gives the new gradient, or, where it keeps
state, the new gradient and the new slots. One of the stage "parameters" runs after the rule, and its `g` is what the
rule made of the parameters `p`.

A step runs the transforms of the gradient in the order of the list, then the rule, then those of the parameters in the
order of the list. A tensor without a gradient in this step, or frozen, is not in `at.present` and is left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, NamedTuple

import numpy as np

from service.errors import Invalid, NonFinite
from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.rule import Initial, Shape
from service.optim.schedules.form import Schedule
from service.optim.tensors import Array, Layout, norm

Values = Mapping[str, Any]
Stage = Literal["gradient", "parameters"]


class At(NamedTuple):
    """Where a transform is applied.

    present  the tensors of the layout that have a gradient
    n        the updates before this one
    rates    the learning rate of each tensor of the layout; empty where no transform asks for it
    """

    layout: Layout
    present: Sequence[int]
    n: int
    rates: Sequence[float] = ()

    @property
    def slices(self) -> Sequence[slice]:
        """Where the present tensors lie."""
        everywhere = self.layout.slices
        return everywhere if len(self.present) == len(everywhere) else [everywhere[i] for i in self.present]

    def chosen(self, a: Values) -> Sequence[int]:
        """The present tensors that the arguments `match` and `minimum_dimensions` choose."""
        return [i for i in self.present if chooses(a, self.layout.names[i], self.layout.shapes[i])]


def chooses(a: Values, name: str, shape: Shape) -> bool:
    """Whether the arguments choose a tensor of this name and shape."""
    return len(shape) >= a.get("minimum_dimensions", 0) and fnmatchcase(name, a.get("match", "*"))


def _nothing(a: Values) -> None:
    """The arguments agree whatever they are."""


@dataclass(frozen=True)
class Transform:
    """One kind of transform: its arguments and what it does.

    declared                each argument with its default (or REQUIRED)
    slots, shapes, initial  its state, declared as a rule declares its own
    holds                   it may give None for the gradient: the parameters stay, and so does the count of updates
    always                  (values) -> whether one of the parameters also runs where the gradient was held
    view                    (values, p, *slots) -> the parameters to evaluate with
    clock                   (values, *slots) -> the n at which schedules are read, None where that is the updates' count
    check                   refuses arguments that contradict each other
    fits                    (values, shape) -> why a chosen tensor of this shape cannot be, in a few words, or None
    """

    name: str
    title: str
    equation: str
    summary: str
    declared: Mapping[Hyperparameter, Any]
    apply: Callable[..., Any] = field(repr=False)
    stage: Stage = "gradient"
    slots: tuple[str, ...] = ()
    shapes: Mapping[str, Shape | Callable[[Shape], Shape]] = field(default_factory=dict)
    initial: Mapping[str, Initial] = field(default_factory=dict)
    holds: bool = False
    always: Callable[[Values], bool] = field(default=lambda a: False, repr=False)
    view: Callable[..., Any] | None = field(default=None, repr=False)
    clock: Callable[..., int | None] | None = field(default=None, repr=False)
    check: Callable[[Values], None] = field(default=_nothing, repr=False)
    fits: Callable[[Values, Shape], str | None] = field(default=lambda a, shape: None, repr=False)

    @property
    def arguments(self) -> tuple[Hyperparameter, ...]:
        return tuple(self.declared)

    @property
    def defaults(self) -> dict[str, Any]:
        return {argument.name: default for argument, default in self.declared.items()}


@dataclass(frozen=True)
class Applied:
    """A transform with its arguments, of which numbers may be schedules."""

    transform: Transform
    arguments: Mapping[str, Any]

    def at(self, n: int) -> Values:
        """The arguments for step n + 1."""
        return {k: v(n) if isinstance(v, Schedule) else v for k, v in self.arguments.items()}

    def __call__(self, g: Array, p: Array, at: At, slots: Sequence[Array] = ()) -> tuple[Array | None, Sequence[Array]]:
        """The transformed gradient (or parameters) and the new slots; the inputs are left as they are.

        Raises NonFinite when a norm that is to be clipped overflows, Invalid when a gradient is missing that it needs.
        """
        with np.errstate(all="ignore"):
            result = self.transform.apply(g, p, at, self.at(at.n), *slots)
        if self.transform.slots:
            return result[0], result[1:]
        return result, ()

    def suits(self, layout: Layout, pointer: str) -> None:
        """Raises Invalid when it chooses no tensor of the layout, or one that it cannot have."""
        chosen = [i for i, name in enumerate(layout.names) if chooses(self.arguments, name, layout.shapes[i])]
        if not chosen:
            listed = ", ".join(layout.names[:20])
            raise Invalid(f"{self.transform.name} chooses no parameter. Names: {listed}.", pointer=f"{pointer}/match")
        for i in chosen:
            reason = self.transform.fits(self.arguments, layout.shapes[i])
            if reason:
                which = f"The parameter {layout.names[i]!r}" if layout.named else "The parameter"
                raise Invalid(f"{which} cannot be: {self.transform.name} {reason}.", pointer=pointer)

    def as_json(self) -> dict[str, Any]:
        """The resolved specification, which `parse_list` reads back."""
        arguments = {k: v.as_json() if isinstance(v, Schedule) else v for k, v in self.arguments.items()}
        return {"name": self.transform.name, **arguments}


MATCH = Hyperparameter("match", 'Which parameters, by a pattern of names as in a shell: "*.weight".', "pattern")
MINIMUM_DIMENSIONS = Hyperparameter(
    "minimum_dimensions",
    "Only parameters with at least so many axes; 2 leaves out biases.",
    "integer",
    low=0,
)
CHOICE: dict[Hyperparameter, Any] = {MATCH: "*", MINIMUM_DIMENSIONS: 0}
SCOPE = Hyperparameter(
    "scope", "All parameters together, as one vector, or each tensor on its own.", "choice", choices=("whole", "tensor")
)
AXES = Hyperparameter(
    "axes",
    "The axes that a unit's norm is taken over.",
    "integers",
    low=0,
    high=31,
    null="As the shape of the tensor says.",
)


def scalar(value: float, like: Array) -> Any:
    """The number in the array's type."""
    return like.dtype.type(value)


def finite_norm(g: Array, slices: Sequence[slice]) -> float:
    """The Euclidean norm of these stretches of the gradient together; raises NonFinite where it overflows."""
    return not_infinite(norm(g, slices))


def not_infinite(size: float) -> float:
    """The size of a gradient; raises NonFinite where it overflows."""
    if math.isinf(size):
        raise NonFinite("The gradient's norm overflows; scale the gradient down.", pointer="")
    return size


def numbers(a: Values, *names: str) -> list[float]:
    """Those of these arguments that are numbers and not schedules."""
    return [a[name] for name in names if isinstance(a[name], int | float)]


def required(*arguments: Hyperparameter) -> dict[Hyperparameter, Any]:
    """Arguments without a default."""
    return dict.fromkeys(arguments, REQUIRED)


def unit_norms(x: Array, axes: tuple[int, ...] | None) -> Array:
    """The Euclidean norms over these axes (None: all), in float64, kept as axes of length 1.

    Scaled by powers of two, which loses no digit, so that squares stay in the range.
    """
    largest = np.max(np.abs(x), axis=axes, keepdims=True, initial=0.0).astype(np.float64)
    exponents = np.frexp(largest)[1]
    scaled = np.ldexp(x.astype(np.float64), -exponents)
    return np.asarray(np.ldexp(np.sqrt(np.add.reduce(scaled * scaled, axis=axes, keepdims=True)), exponents))


def distinct_axes(a: Values) -> None:
    """Raises Invalid where an axis is named twice."""
    if a["axes"] is not None and len(set(a["axes"])) < len(a["axes"]):
        raise Invalid("axes must name each axis once.", pointer="/axes")


def lacks_axis(a: Values, shape: Shape) -> str | None:
    """Says that a tensor has not all of the axes that are asked for."""
    missing = [axis for axis in a["axes"] or () if axis >= len(shape)]
    return f"asks for axis {missing[0]}, which it has not" if missing else None
