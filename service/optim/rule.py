"""What an update rule is.

A rule is a plain function of arrays, written like the paper:

    def adam(p, g, m, v, c):
        ...
        return p - c.step_size * divide(m, sqrt(v / c.bias_correction2) + c.epsilon, c.zero), m, v

It takes the parameters `p`, the gradient `g`, its slots of state and the scalars `c`, and returns the new parameters
and the new slots, in the same order. `c` is a NamedTuple of scalars that are computed once a step in double precision
and cast to the tensor's type. The body uses `+ - * /`, comparisons and the functions below, and holds no literals: a
literal would promote float32. So the same function object runs on whole arrays in NumPy and, compiled, on one
element at a time, and both give the same bits.

What depends on the step count alone, a first step that is unlike the others included, is a scalar, never a branch.
A body takes no logarithm and no power: their last bits are the C library's; `cube_root` is made of square roots.

Such a rule is *elementwise*. One that takes a norm or a product of matrices runs once for each tensor, in its own
shape, and one that measures all parameters together runs once on the flat whole; see `Rule.span`. These two kinds run
in NumPy only, get their scalars as Python floats, and may hold literals and branch on shapes.

A `Rule` names such a function and its slots. An `Algorithm` is a catalogue entry: its hyperparameters and its
dialects. A `Dialect` is how one library or paper spells it: the defaults, which rule the options choose, and how the
scalars come out of the hyperparameters and the step count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from service.errors import Invalid, nearest
from service.optim.hyperparameters import Hyperparameter

abs_ = np.abs
maximum = np.maximum
minimum = np.minimum
sqrt = np.sqrt

Values = Mapping[str, Any]
Shape = tuple[int, ...]
Kind = Literal["elementwise", "layerwise", "matrix", "global", "evaluating", "wrapper"]
Decay = Literal["none", "coupled", "decoupled", "scheduled", "own"]


def where(condition: Any, x: Any, y: Any) -> Any:
    """`x` where the condition holds, else `y`: a select, in the compiled form too."""
    return np.where(condition, x, y)


def divide(x: Any, y: Any, zero: Any) -> Any:
    """`x / y`, and zero where `y` is zero: nothing was seen there yet, so there is nothing to move."""
    quotient = x / y
    if np.count_nonzero(y) == y.size:  # nearly always, and much cheaper than a select
        return quotient
    return where(y != zero, quotient, zero)


def sign(x: Any, one: Any, zero: Any) -> Any:
    """1, -1, or x itself where it is a zero of either sign."""
    return where(x > zero, one, where(x < zero, -one, x))


def cube_root(x: Any, zero: Any) -> Any:
    """∛x of what is not negative, to the last bit or two, by operations that round alike everywhere.

    1/3 = 1/4 + 1/16 + 1/64 + ..., so that square roots come close; Halley's iteration does the rest, each pass three
    times the digits. It is written with x / y², which neither overflows nor vanishes where x does not.
    """
    part = sqrt(sqrt(x))
    y = part
    part = sqrt(sqrt(part))
    y = y * part
    part = sqrt(sqrt(part))
    y = y * part
    part = sqrt(sqrt(part))
    y = y * part
    part = sqrt(sqrt(part))
    y = y * part
    y = halley(x, y, zero)
    y = halley(x, y, zero)
    return halley(x, y, zero)


def halley(x: Any, y: Any, zero: Any) -> Any:
    """A better cube root of x than y: y (y³ + 2x) / (2y³ + x)."""
    r = divide(divide(x, y, zero), y, zero)
    return y * divide(y + r + r, y + y + r, zero)


def total(x: Any) -> float:
    """The sum of all elements, in double precision and in a fixed order; never by BLAS, whose order may change."""
    return float(np.add.reduce(x, axis=None, dtype=np.float64))


def dot(x: Any, y: Any) -> float:
    """The inner product of two arrays of one shape, summed as `total` does."""
    return total(np.multiply(x, y, dtype=np.float64))


def norm(x: Any) -> float:
    """The Euclidean (Frobenius) norm, summed as `total` does."""
    return math.sqrt(dot(x, x))


class _Parameters:
    """The start of a slot that begins as a copy of the parameters."""

    def __repr__(self) -> str:
        return "PARAMETERS"


PARAMETERS = _Parameters()


Initial = str | float | _Parameters | Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Rule:
    """An update function and the slots of state that it keeps.

    span        what one call of `update` sees: "element" (any stretch of the flat arrays, so the body is elementwise),
                "tensor" (one tensor and its slots, each in its own shape), or "all" (the flat whole; a tensor without
                a gradient counts as a gradient of zero and is put back afterwards, with its slots)
    shapes      slots that are not of the parameters' shape: a function of the tensor's shape (under "all", of the flat
                shape) gives another, (0,) where a tensor keeps none; a fixed shape is one array for the whole
                optimizer, always float64
    initial     where a slot starts, if not at zero: at a number; at a hyperparameter, by its name (zero where the
                dialect does not have it; its first value where it follows a schedule); at the parameters, by
                PARAMETERS; or at what a function (p, values) gives
    wants       what a step must bring: with "value_and_gradient" the loss too, as `values["loss"]` for the scalars
    committed   for a rule that chooses its own points: (*slots) -> whether the step is complete; until it is, the
                parameters are the point where it wants to be evaluated next, and t does not advance
    evaluations (values) -> how many gradients a step takes at most, where it chooses its own points
    view        (values, p, *slots) -> the parameters to evaluate with, where they are not those to train with
    fits        (shape) -> why a tensor of this shape cannot be, in a few words, or None
    named       the functions in `shapes` are given the tensor's name too, (shape, name): where state goes by names
    sparse      gradients by rows: "lazy" leaves what has no row alone, "zero" takes it for a gradient of zero
    wraps       the rule steps by way of the optimizer in `values["optimizer"]`: update(p, g, step, *slots, c), where
                step(p, g) gives that one's new parameters (`step(p, g, restart=True)` puts its state back to the start
                after it); every call starts at the same state, and the last one's is kept
    """

    update: Callable[..., Any]
    slots: tuple[str, ...] = ()
    initial: Mapping[str, Initial] = field(default_factory=dict)
    span: Literal["element", "tensor", "all"] = "element"
    shapes: Mapping[str, Shape | Callable[..., Shape]] = field(default_factory=dict)
    wants: Literal["gradient", "value_and_gradient"] = "gradient"
    committed: Callable[..., bool] | None = None
    evaluations: Callable[[Values], int] = lambda values: 1
    view: Callable[..., Any] | None = None
    fits: Callable[[Shape], str | None] = lambda shape: None
    named: bool = False
    sparse: Literal["refused", "zero", "lazy"] = "refused"
    wraps: bool = False


@dataclass(frozen=True)
class Dialect:
    """One library's or paper's form of an algorithm.

    defaults      every hyperparameter that this form has, with its default (or REQUIRED)
    rule          the values -> the Rule that they choose
    scalars       (the values at this step, t) -> the NamedTuple `c`; t counts from 1
    decay         what `weight_decay` means: added to the gradient ("coupled"), or p <- p * (1 - lr * weight_decay)
                  before the step ("decoupled"), or the same with `schedule_multiplier` for lr ("scheduled"), or
                  what the rule itself makes of it, from the scalars ("own")
    counter       whose steps t counts: each parameter's own, or the session's (they differ only where a gradient
                  was null)
    ahead         the hyperparameters whose schedules are read one step ahead too, as `next_<name>`
    check         raises Invalid for values that contradict each other
    differs       in a sentence or two, how this form differs from the others
    known_bugs    what is wrong in the reference itself
    """

    defaults: Values
    rule: Callable[[Values], Rule]
    scalars: Callable[[Values, int], Any]
    decay: Decay = "none"
    counter: Literal["parameter", "session"] = "session"
    ahead: tuple[str, ...] = ()
    check: Callable[[Values], None] = lambda values: None
    differs: str = ""
    known_bugs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Algorithm:
    """A catalogue entry."""

    name: str
    title: str
    summary: str
    equation: str
    source: str
    when: str
    hyperparameters: tuple[Hyperparameter, ...]
    dialects: Mapping[str, Dialect]
    kind: Kind = "elementwise"
    default_dialect: str = "torch"

    def dialect(self, name: str) -> Dialect:
        """The form of that name; raises Invalid that lists the ones there are."""
        if name not in self.dialects:
            listed = ", ".join(self.dialects)
            raise Invalid(
                f"{self.name} has no dialect {name[:80]!r}{nearest(name, list(self.dialects))} Accepted: {listed}.",
                pointer="/dialect",
            )
        return self.dialects[name]


LEARNING_RATE = Hyperparameter("learning_rate", "Step size α; each step is proportional to it.", low=0.0)
MOMENTUM = Hyperparameter("momentum", "Share of the last step that is kept, μ.", low=0.0)
NESTEROV = Hyperparameter("nesterov", "Look ahead: take the gradient's step after the momentum's.", "boolean")
WEIGHT_DECAY = Hyperparameter(
    "weight_decay", "Pull towards zero, λ; how it enters is a matter of the dialect.", low=0.0
)
BETA1 = Hyperparameter("beta1", "Decay rate β₁ of the running mean of gradients.", low=0.0, below=1.0)
BETA2 = Hyperparameter("beta2", "Decay rate β₂ of the running mean of squared gradients.", low=0.0, below=1.0)
EPSILON = Hyperparameter("epsilon", "ε in the denominator; where it stands is a matter of the dialect.", low=0.0)
EPSILON_ROOT = Hyperparameter("epsilon_root", "A second ε, added inside the square root.", low=0.0)
MAXIMIZE = Hyperparameter("maximize", "Climb instead of descend: the gradient's sign is turned first.", "boolean")
BIAS_CORRECTION = Hyperparameter(
    "bias_correction", "Divide the running means by 1 - βᵗ, for they start at zero.", "boolean"
)


def nesterov_needs_momentum(values: Values) -> None:
    """Raises Invalid when `nesterov` is asked for without momentum, or together with dampening."""
    if values.get("nesterov") and values.get("momentum") == 0.0:
        raise Invalid("nesterov needs a momentum above 0; set momentum, for example to 0.9.", pointer="/momentum")
    if values.get("nesterov") and values.get("dampening", 0.0) != 0.0:
        raise Invalid("nesterov and dampening contradict each other; leave dampening at 0.", pointer="/dampening")
