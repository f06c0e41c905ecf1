"""What a benchmark function is: its value, its gradient, and what is known about it.

A point is an array whose last axis holds the d coordinates; any axes before it are points side by side. `value` maps
(..., d) to (...), `gradient` maps (..., d) to (..., d). Both are pure, take float64 and complex128, and give one point
the same bits as the same point in a batch. For speed they do not look at what they get: the caller has d checked once,
by `check_dimension`, and silences NumPy's warnings with `np.errstate` where a point may overflow; it then gives an
infinity or NaN, and nothing is raised.

Complex input is what checks a gradient and what gives the Hessian: for an analytic f, Im f(x + ih) / h is the
derivative to rounding error however small h is, since nothing is subtracted (Squire and Trapp, SIAM Review 40(1),
1998).

The members are written with `x, y = p.T`: for one point it gives scalars, which NumPy computes with several times
faster than with arrays of one element; for many points it gives one array a coordinate. What is computed from the
transposed coordinates is transposed back on return.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Literal, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from service.errors import Invalid

Array: TypeAlias = NDArray[Any]
Value: TypeAlias = Any  # one NumPy scalar for one point, an array for many
Point: TypeAlias = tuple[float, ...]
Domain: TypeAlias = tuple[tuple[float, float], ...]

Smoothness = Literal["analytic", "kink somewhere", "kink at the minimum"]
Tag = Literal[
    "convex",
    "ill-conditioned",  # condition number of at least 100 at the minimum
    "multimodal",  # more than one minimum in the domain, local ones included
    "non-smooth",
    "plateau",
    "quadratic",
    "saddle",
    "separable",  # a sum of functions of one coordinate each
    "valley",
]

LARGEST_DIMENSION = 1000  # what is known about a function is listed per coordinate, so that the list must end


@dataclass(frozen=True, slots=True)
class Minimum:
    """A point where no neighbour is lower, and the value there."""

    point: Point
    value: float
    kind: Literal["global", "local"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One benchmark function. What depends on the dimension d is a function of d: ask through the `..._at` methods.

    dimensions                the number of coordinates, or None for any number from `minimum_dimension` on
    domain                    where the function is drawn and searched: (low, high) per coordinate; not a constraint
    minima                    global ones first; empty if there is none, and then `minima_note` says so
    minima_note               what the list leaves out, where it leaves something out
    smoothness                where derivatives fail to exist
    largest_stable_step       2/L, L the largest curvature at the first minimum: gradient descent with a constant
                              learning rate below it converges from nearby, above it moves away; None with the reason
                              in `largest_stable_step_note`
    condition_number          the largest over the smallest curvature at the first minimum; None if that means nothing
    misprints                 misprints that circulate, and traps in using the function
    """

    name: str
    title: str
    summary: str
    formula: str
    dimensions: int | None
    minimum_dimension: int = 1
    value: Callable[[Array], Value]
    gradient: Callable[[Array], Array]
    domain: Callable[[int], Domain]
    minima: Callable[[int], tuple[Minimum, ...]]
    minima_note: str = ""
    start: Callable[[int], Point]
    smoothness: Smoothness
    largest_stable_step: Callable[[int], float] | None
    largest_stable_step_note: str = ""
    condition_number: Callable[[int], float] | None
    source: str
    misprints: tuple[str, ...]
    tags: tuple[Tag, ...]

    def check_dimension(self, d: int) -> None:
        """Raise `Invalid` unless the function takes points of d coordinates."""
        if self.dimensions is None:
            if self.minimum_dimension <= d <= LARGEST_DIMENSION:
                return
            accepted = f"{self.minimum_dimension} to {LARGEST_DIMENSION} coordinates"
        else:
            if d == self.dimensions:
                return
            accepted = f"exactly {self.dimensions} coordinate{'s' if self.dimensions > 1 else ''}"
        raise Invalid(f"The function {self.name!r} takes points of {accepted}; this one has {d}.", pointer="")

    def domain_at(self, d: int) -> Domain:
        """The box, (low, high) for each of d coordinates. Raises `Invalid` for a wrong d."""
        self.check_dimension(d)
        return self.domain(d)

    def minima_at(self, d: int) -> tuple[Minimum, ...]:
        """The known minima in d dimensions, global ones first. Raises `Invalid` for a wrong d."""
        self.check_dimension(d)
        return self.minima(d)

    def start_at(self, d: int) -> Point:
        """A start that shows what the function teaches. Raises `Invalid` for a wrong d."""
        self.check_dimension(d)
        return self.start(d)

    def largest_stable_step_at(self, d: int) -> float | None:
        """2/L at the first minimum, or None: `largest_stable_step_note` says why. Raises `Invalid` for a wrong d."""
        self.check_dimension(d)
        return None if self.largest_stable_step is None else self.largest_stable_step(d)

    def condition_number_at(self, d: int) -> float | None:
        """Largest over smallest curvature at the first minimum, or None. Raises `Invalid` for a wrong d."""
        self.check_dimension(d)
        return None if self.condition_number is None else self.condition_number(d)


def hessian(function: Function, x: Array, h: float = 1e-25) -> Array:
    """The second derivatives at x, shape (..., d) -> (..., d, d), by complex step on the gradient: exact to rounding.

    Entry [..., i, j] is d(gradient_i)/dx_j. Beside a kink it is right; on a kink, where no Hessian exists, it is
    finite and means nothing.
    """
    shifted = x[..., None, :] + 1j * h * np.eye(x.shape[-1])
    return function.gradient(shifted).imag.swapaxes(-1, -2) / h


def total(terms: Array) -> Value:
    """Sum over the first axis, strictly first to last: NumPy's own sum orders the terms by the memory layout."""
    return np.add.accumulate(terms)[-1]


# How a catalogue entry says what depends on d.

T = TypeVar("T")


def always(known: T) -> Callable[[int], T]:
    """The same in every dimension."""
    return lambda d: known


def box(low: float, high: float) -> Callable[[int], Domain]:
    """The same interval for every coordinate."""
    return lambda d: ((low, high),) * d


def repeating(*coordinates: float) -> Callable[[int], Point]:
    """A point that repeats the given coordinates as often as d asks for."""
    return lambda d: tuple(islice(cycle(coordinates), d))


def lowest_at(coordinate: float, value: float = 0.0) -> Callable[[int], tuple[Minimum, ...]]:
    """One global minimum, all coordinates equal."""
    return lambda d: (Minimum((coordinate,) * d, value, "global"),)
