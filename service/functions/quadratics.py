"""Quadratic bowls: one minimum, constant curvature, so that theory says exactly what gradient descent does."""

from __future__ import annotations

from functools import lru_cache
from math import sqrt

import numpy as np

from service.functions.base import (
    Array,
    Function,
    Minimum,
    Point,
    Value,
    always,
    box,
    lowest_at,
    repeating,
    total,
)


def parabola(p: Array) -> Value:
    (x,) = p.T
    return (x * x + 1).T


def parabola_gradient(p: Array) -> Array:
    return 2 * p


PARABOLA = Function(
    name="parabola",
    title="Parabola",
    summary="One coordinate, one curvature: each step of gradient descent multiplies x by 1 - 2 lr, and nothing else.",
    formula=r"f(x) = x^2 + 1",
    dimensions=1,
    value=parabola,
    gradient=parabola_gradient,
    domain=box(-5.0, 5.0),
    minima=lowest_at(0.0, 1.0),
    start=always((3.0,)),
    smoothness="analytic",
    largest_stable_step=always(1.0),
    condition_number=always(1.0),
    source="CNN with Python scripts, chapter on optimization (in Japanese and English): the first example.",
    misprints=("The lowest value is 1: a rule that stops when the value reaches 0 never stops.",),
    tags=("quadratic", "convex", "separable"),
)


def sphere(p: Array) -> Value:
    x = p.T
    return total(x * x).T


def sphere_gradient(p: Array) -> Array:
    return 2 * p


SPHERE = Function(
    name="sphere",
    title="Sphere",
    summary="The same curvature in every direction, so that the gradient points straight at the minimum.",
    formula=r"f(x) = \sum_{i=1}^{d} x_i^2",
    dimensions=None,
    value=sphere,
    gradient=sphere_gradient,
    domain=box(-5.12, 5.12),
    minima=lowest_at(0.0),
    start=repeating(3.0, 4.0),
    smoothness="analytic",
    largest_stable_step=always(1.0),
    condition_number=always(1.0),
    source="K. A. De Jong, An analysis of the behavior of a class of genetic adaptive systems, PhD thesis, University "
    "of Michigan, 1975: F1. Also the second example of CNN with Python scripts, there from (3, 6).",
    misprints=("Also printed with a factor 1/2, which halves the gradient and doubles the largest stable step.",),
    tags=("quadratic", "convex", "separable"),
)


def steep_bowl(p: Array) -> Value:
    x, y = p.T
    return (20 * x * x + 2 * y * y).T


def steep_bowl_gradient(p: Array) -> Array:
    x, y = p.T
    g = np.empty_like(p)
    u = g.T
    u[0] = 40 * x
    u[1] = 4 * y
    return g


STEEP_BOWL = Function(
    name="steep_bowl",
    title="Steep bowl",
    summary="Steep in x and ten times flatter in y: plain gradient descent bounces in x while it waits for y.",
    formula=r"f(x, y) = 20 x^2 + 2 y^2",
    dimensions=2,
    value=steep_bowl,
    gradient=steep_bowl_gradient,
    domain=box(-3.0, 3.0),
    minima=lowest_at(0.0),
    start=always((-2.0, 2.0)),
    smoothness="analytic",
    largest_stable_step=always(0.05),
    condition_number=always(10.0),
    source="An illustrated tour of PyTorch's optimizers (in Japanese): its function f1.",
    misprints=("The learning rate that lands on y = 0 in one step, 0.25, is five times past the limit for x, 0.05.",),
    tags=("quadratic", "convex", "separable"),
)


def long_bowl(p: Array) -> Value:
    x, y = p.T
    return (x * x / 20 + y * y).T


def long_bowl_gradient(p: Array) -> Array:
    x, y = p.T
    g = np.empty_like(p)
    u = g.T
    u[0] = x / 10
    u[1] = 2 * y
    return g


LONG_BOWL = Function(
    name="long_bowl",
    title="Long bowl",
    summary="A bowl stretched along x: the gradient hardly points at the minimum, and gradient descent zigzags.",
    formula=r"f(x, y) = \frac{x^2}{20} + y^2",
    dimensions=2,
    value=long_bowl,
    gradient=long_bowl_gradient,
    domain=box(-10.0, 10.0),
    minima=lowest_at(0.0),
    start=always((-7.0, 2.0)),
    smoothness="analytic",
    largest_stable_step=always(1.0),
    condition_number=always(20.0),
    source="K. Saito, Deep Learning from Scratch (in Japanese), O'Reilly Japan, 2016, section 6.1.",
    misprints=("A copied script returns x/10 + y^2 and x^2/20 + 2y as its partial derivatives; they are x/10 and 2y.",),
    tags=("quadratic", "convex", "separable"),
)


def shallow_bowl(p: Array) -> Value:
    x, y = p.T
    return (x * x / 30 + y * y / 3).T


def shallow_bowl_gradient(p: Array) -> Array:
    x, y = p.T
    g = np.empty_like(p)
    u = g.T
    u[0] = x / 15
    u[1] = y / 1.5
    return g


SHALLOW_BOWL = Function(
    name="shallow_bowl",
    title="Shallow bowl",
    summary="Flat everywhere, and flatter in x: a learning rate that is safe elsewhere gets nowhere here.",
    formula=r"f(x, y) = \frac{x^2}{30} + \frac{y^2}{3}",
    dimensions=2,
    value=shallow_bowl,
    gradient=shallow_bowl_gradient,
    domain=box(-10.0, 10.0),
    minima=lowest_at(0.0),
    start=always((-8.0, 4.0)),
    smoothness="analytic",
    largest_stable_step=always(3.0),
    condition_number=always(10.0),
    source="CNN with Python scripts, chapter on optimization (in Japanese and English): the third example.",
    misprints=("With a learning rate of 0.01, a hundred steps of gradient descent take only 6 percent off x.",),
    tags=("quadratic", "convex", "separable"),
)


@lru_cache(maxsize=64)
def ellipsoid_weights(d: int) -> Point:
    return tuple(100.0 ** (i / (d - 1)) for i in range(d))


@lru_cache(maxsize=64)
def ellipsoid_weight_array(d: int) -> Array:
    weights = np.array(ellipsoid_weights(d))
    weights.flags.writeable = False
    return weights


def ellipsoid(p: Array) -> Value:
    return total((ellipsoid_weight_array(p.shape[-1]) * (p * p)).T).T / 2


def ellipsoid_gradient(p: Array) -> Array:
    return ellipsoid_weight_array(p.shape[-1]) * p


ELLIPSOID = Function(
    name="ellipsoid",
    title="Ellipsoid",
    summary="Condition number 100 along the axes: a method with one learning rate a coordinate repairs it all.",
    formula=r"f(x) = \frac{1}{2} \sum_{i=1}^{d} 100^{\frac{i-1}{d-1}} x_i^2",
    dimensions=None,
    minimum_dimension=2,
    value=ellipsoid,
    gradient=ellipsoid_gradient,
    domain=box(-5.0, 5.0),
    minima=lowest_at(0.0),
    start=repeating(-4.0, 2.0),
    smoothness="analytic",
    largest_stable_step=always(0.02),
    condition_number=always(100.0),
    source="After N. Hansen, S. Finck, R. Ros, A. Auger, Real-parameter black-box optimization benchmarking 2009: "
    "noiseless functions definitions, INRIA report RR-6829, 2009: f2, without its oscillation and with 100 for 10^6.",
    misprints=(
        "The axes are the eigenvectors, which is what Adam and AdaGrad scale by: compare with rotated_ellipsoid before "
        "drawing conclusions.",
        "In two dimensions f is (x^2 + 100 y^2)/2; it is also printed without the factor 1/2.",
    ),
    tags=("quadratic", "convex", "separable", "ill-conditioned"),
)

COS_30, SIN_30 = sqrt(3) / 2, 0.5


def turned(p: Array) -> list[Value]:
    """The coordinates after a turn by 30 degrees in the planes (1, 2), (2, 3), ..., (d-1, d), in this order.

    Written out, for a matrix product would give one point other bits than a batch.
    """
    z = list(p.T)
    for i in range(len(z) - 1):
        z[i], z[i + 1] = COS_30 * z[i] + SIN_30 * z[i + 1], COS_30 * z[i + 1] - SIN_30 * z[i]
    return z


def rotated_ellipsoid(p: Array) -> Value:
    z = turned(p)
    return (sum(w * c * c for w, c in zip(ellipsoid_weights(len(z)), z, strict=True)) / 2).T


def rotated_ellipsoid_gradient(p: Array) -> Array:
    z = turned(p)
    z = [w * c for w, c in zip(ellipsoid_weights(len(z)), z, strict=True)]
    for i in reversed(range(len(z) - 1)):
        z[i], z[i + 1] = COS_30 * z[i] - SIN_30 * z[i + 1], COS_30 * z[i + 1] + SIN_30 * z[i]
    g = np.empty_like(p)
    u = g.T
    for i, c in enumerate(z):
        u[i] = c
    return g


ROTATED_ELLIPSOID = Function(
    name="rotated_ellipsoid",
    title="Rotated ellipsoid",
    summary="The ellipsoid turned by 30 degrees: as badly scaled, and no learning rate per coordinate repairs it.",
    formula=r"f(x) = \frac{1}{2} \sum_{i=1}^{d} 100^{\frac{i-1}{d-1}} z_i^2, \quad z = R_{d-1} \cdots R_1 x, \quad "
    r"R_i \text{ turns } (x_i, x_{i+1}) \text{ into } "
    r"\left(\tfrac{\sqrt3}{2} x_i + \tfrac12 x_{i+1},\ \tfrac{\sqrt3}{2} x_{i+1} - \tfrac12 x_i\right)",
    dimensions=None,
    minimum_dimension=2,
    value=rotated_ellipsoid,
    gradient=rotated_ellipsoid_gradient,
    domain=box(-5.0, 5.0),
    minima=lowest_at(0.0),
    start=repeating(-4.0, 2.0),
    smoothness="analytic",
    largest_stable_step=always(0.02),
    condition_number=always(100.0),
    source="After f10 of N. Hansen, S. Finck, R. Ros, A. Auger, Real-parameter black-box optimization benchmarking "
    "2009: noiseless functions definitions, INRIA report RR-6829, 2009; here with a fixed rotation and no oscillation.",
    misprints=(
        "What some collections call the rotated hyper-ellipsoid, the sum over i of the sums of x_j^2 for j <= i, is "
        "not rotated: its axes are the coordinates.",
    ),
    tags=("quadratic", "convex", "ill-conditioned"),
)


def booth(p: Array) -> Value:
    x, y = p.T
    a = x + 2 * y - 7
    b = 2 * x + y - 5
    return (a * a + b * b).T


def booth_gradient(p: Array) -> Array:
    x, y = p.T
    g = np.empty_like(p)
    u = g.T
    u[0] = 10 * x + 8 * y - 34
    u[1] = 8 * x + 10 * y - 38
    return g


BOOTH = Function(
    name="booth",
    title="Booth",
    summary="Two linear equations as a least-squares problem: a mild bowl whose axes are the diagonals.",
    formula=r"f(x, y) = (x + 2y - 7)^2 + (2x + y - 5)^2",
    dimensions=2,
    value=booth,
    gradient=booth_gradient,
    domain=box(-10.0, 10.0),
    minima=always((Minimum((1.0, 3.0), 0.0, "global"),)),
    start=always((-5.0, -2.0)),
    smoothness="analytic",
    largest_stable_step=always(1 / 9),
    condition_number=always(9.0),
    source="M. Jamil, X.-S. Yang, A literature survey of benchmark functions for global optimisation problems, Int. J. "
    "Mathematical Modelling and Numerical Optimisation 4(2), 2013, doi:10.1504/IJMMNO.2013.055204.",
    misprints=(
        "The curvature is 18 along (1, 1) and 2 along (1, -1): a start on either line through (1, 3) shows only one.",
    ),
    tags=("quadratic", "convex"),
)


def matyas(p: Array) -> Value:
    x, y = p.T
    return (0.26 * (x * x + y * y) - 0.48 * x * y).T


def matyas_gradient(p: Array) -> Array:
    x, y = p.T
    g = np.empty_like(p)
    u = g.T
    u[0] = 0.52 * x - 0.48 * y
    u[1] = 0.52 * y - 0.48 * x
    return g


MATYAS = Function(
    name="matyas",
    title="Matyas",
    summary="A long bowl along the diagonal x = y: a learning rate per coordinate does not help, momentum does.",
    formula=r"f(x, y) = 0.26 (x^2 + y^2) - 0.48 x y",
    dimensions=2,
    value=matyas,
    gradient=matyas_gradient,
    domain=box(-10.0, 10.0),
    minima=lowest_at(0.0),
    start=always((8.0, 2.0)),
    smoothness="analytic",
    largest_stable_step=always(2.0),
    condition_number=always(25.0),
    source="M. Jamil, X.-S. Yang, A literature survey of benchmark functions for global optimisation problems, Int. J. "
    "Mathematical Modelling and Numerical Optimisation 4(2), 2013, doi:10.1504/IJMMNO.2013.055204.",
    misprints=(
        "A start on x = -y meets only the curvature 1 and takes few steps; on x = y it meets 0.04, and crawls.",
    ),
    tags=("quadratic", "convex"),
)

FUNCTIONS = (
    PARABOLA,
    SPHERE,
    STEEP_BOWL,
    LONG_BOWL,
    SHALLOW_BOWL,
    ELLIPSOID,
    ROTATED_ELLIPSOID,
    BOOTH,
    MATYAS,
)
