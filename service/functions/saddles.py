"""Saddles: the gradient is zero and nothing is lowest. They have no minimum, so none is listed."""

from __future__ import annotations

import numpy as np

from service.functions.base import Array, Function, Value, always, box


def saddle(p: Array) -> Value:
    x, y = p.T
    return (x * x - y * y).T


def saddle_gradient(p: Array) -> Array:
    x, y = p.T
    g = np.empty_like(p)
    u = g.T
    u[0] = 2 * x
    u[1] = -2 * y
    return g


SADDLE = Function(
    name="saddle",
    title="Saddle",
    summary="Falls in y, rises in x: a run first seems to converge to (0, 0), and then leaves.",
    formula=r"f(x, y) = x^2 - y^2",
    dimensions=2,
    value=saddle,
    gradient=saddle_gradient,
    domain=box(-2.0, 2.0),
    minima=always(()),
    minima_note="There is no minimum: (0, 0) is a saddle with the value 0, and along y the function has no lower "
    "bound.",
    start=always((1.5, 0.001)),
    smoothness="analytic",
    largest_stable_step=None,
    largest_stable_step_note="There is no minimum to be stable at: along y every step moves away from the saddle.",
    condition_number=None,
    source="The standard form of a nondegenerate saddle in two dimensions, the hyperbolic paraboloid.",
    misprints=("A start with y exactly 0 stays on the axis and converges to the saddle: give it a small y.",),
    tags=("quadratic", "separable", "saddle"),
)


def monkey_saddle(p: Array) -> Value:
    x, y = p.T
    return (x * (x * x - 3 * y * y)).T


def monkey_saddle_gradient(p: Array) -> Array:
    x, y = p.T
    g = np.empty_like(p)
    u = g.T
    u[0] = 3 * (x * x - y * y)
    u[1] = -6 * x * y
    return g


MONKEY_SADDLE = Function(
    name="monkey_saddle",
    title="Monkey saddle",
    summary="Three ways down from a point without slope or curvature: two for the legs and one for the tail.",
    formula=r"f(x, y) = x^3 - 3 x y^2",
    dimensions=2,
    value=monkey_saddle,
    gradient=monkey_saddle_gradient,
    domain=box(-2.0, 2.0),
    minima=always(()),
    minima_note="There is no minimum: (0, 0) is a degenerate saddle with the value 0; the function has no lower bound.",
    start=always((1.5, 0.1)),
    smoothness="analytic",
    largest_stable_step=None,
    largest_stable_step_note="There is no minimum to be stable at, and at the saddle every curvature is 0.",
    condition_number=None,
    source="D. Hilbert, S. Cohn-Vossen, Geometry and the Imagination, Chelsea, 1952.",
    misprints=(
        "The Hessian at (0, 0) is zero: Newton's method divides by it, and the second-derivative test says nothing.",
    ),
    tags=("saddle",),
)

FUNCTIONS = (SADDLE, MONKEY_SADDLE)
