"""More minima than can be listed, or a minimum that gives no sign of itself: the global one is listed."""

from __future__ import annotations

from functools import lru_cache
from math import e, pi

import numpy as np

from service.functions.base import Array, Function, Minimum, Value, always, box, lowest_at, repeating, total


def rastrigin(p: Array) -> Value:
    x = p.T
    # 10 - 10 cos 2 pi x = 20 sin^2 pi x, which does not cancel near the minimum.
    wave = np.sin(pi * x)
    return total(x * x + 20 * wave * wave).T


def rastrigin_gradient(p: Array) -> Array:
    g: Array = 2 * p + 20 * pi * np.sin(2 * pi * p)
    return g


RASTRIGIN = Function(
    name="rastrigin",
    title="Rastrigin",
    summary="A bowl full of regular dents: a local method ends in the nearest of 11^d minima in the box.",
    formula=r"f(x) = 10 d + \sum_{i=1}^{d} \left[ x_i^2 - 10 \cos 2 \pi x_i \right]",
    dimensions=None,
    value=rastrigin,
    gradient=rastrigin_gradient,
    domain=box(-5.12, 5.12),
    minima=lowest_at(0.0),
    minima_note="There are 11^d minima in the domain, one near each point of integers; only the global one is listed.",
    start=repeating(3.4, -2.6),
    smoothness="analytic",
    largest_stable_step=always(1 / (1 + 20 * pi * pi)),
    condition_number=always(1.0),
    source="L. A. Rastrigin, Systems of Extremal Control (in Russian), Nauka, 1974; in d dimensions: H. Mühlenbein, "
    "M. Schomisch, J. Born, The parallel genetic algorithm as function optimizer, Parallel Computing 17(6-7), 1991, "
    "doi:10.1016/S0167-8191(05)80052-3.",
    misprints=(
        "Without the term 10 d, as sometimes printed, the minimum is -10 d.",
        "The other minima are near the integers, not on them: the first is at 0.99496.",
    ),
    tags=("separable", "multimodal"),
)


def ackley(p: Array) -> Value:
    x = p.T
    d = len(x)
    wave = np.sin(pi * x)
    # The formula's constants e and 20 go into expm1, cos 2 pi x - 1 is -2 sin^2 pi x: exactly 0 at the minimum.
    ripple = np.expm1(-2 / d * total(wave * wave))
    return (-20 * np.expm1(-0.2 * np.sqrt(total(x * x) / d)) - e * ripple).T


def ackley_gradient(p: Array) -> Array:
    x = p.T
    d = len(x)
    wave = np.sin(pi * x)
    ripple = np.exp(1 - 2 / d * total(wave * wave))
    r = np.sqrt(total(x * x) / d)
    # On the kink, r = 0, any slope up to the cone's belongs to f; dividing by 1 there chooses the flat one, 0.
    cone = 4 * np.exp(-0.2 * r) / (r + (r == 0))
    g: Array = ((cone * x + 2 * pi * ripple * np.sin(2 * pi * x)) / d).T
    return g


ACKLEY = Function(
    name="ackley",
    title="Ackley",
    summary="Dents on a plain around a cone: the gradient never fades at the minimum, so a constant step never "
    "settles.",
    formula=r"f(x) = -20 \exp\left( -0.2 \sqrt{\tfrac{1}{d} \sum_{i=1}^{d} x_i^2} \right) "
    r"- \exp\left( \tfrac{1}{d} \sum_{i=1}^{d} \cos 2 \pi x_i \right) + 20 + e",
    dimensions=None,
    value=ackley,
    gradient=ackley_gradient,
    domain=box(-32.768, 32.768),
    minima=lowest_at(0.0),
    minima_note="There is a local minimum near most points of integers in the domain; only the global one is listed.",
    start=repeating(-3.4, 2.6),
    smoothness="kink at the minimum",
    largest_stable_step=None,
    largest_stable_step_note="The minimum is the tip of a cone: the curvature has no bound, every step overshoots.",
    condition_number=None,
    source="D. H. Ackley, A Connectionist Machine for Genetic Hillclimbing, Kluwer, 1987, "
    "doi:10.1007/978-1-4613-1997-9; in d dimensions: T. Bäck, Evolutionary Algorithms in Theory and Practice, Oxford "
    "University Press, 1996.",
    misprints=(
        "Called differentiable; at the minimum it is a cone, and the norm of the gradient tends to 4/sqrt(d) there.",
        "Called separable; neither the root nor the exponential of a mean is.",
        "Automatic differentiation of the square root gives NaN at the minimum; here the gradient is 0 there.",
        "Summed as printed it gives 4.4e-16 at the minimum in double precision; here it gives 0.",
    ),
    tags=("multimodal", "plateau", "non-smooth"),
)


@lru_cache(maxsize=64)
def square_roots(d: int) -> Array:
    roots: Array = np.sqrt(np.arange(1.0, d + 1))
    roots.flags.writeable = False
    return roots


def griewank(p: Array) -> Value:
    x = p.T
    waves = np.cos((p / square_roots(len(x))).T)
    return (1 + total(x * x) / 4000 - np.multiply.accumulate(waves)[-1]).T


def griewank_gradient(p: Array) -> Array:
    roots = square_roots(p.shape[-1])
    angles = (p / roots).T
    waves = np.cos(angles)
    # The product of all cosines but one, from both sides, for dividing by that one fails where it is 0.
    others = np.ones_like(waves)
    others[1:] = np.multiply.accumulate(waves[:-1])
    others[:-1] *= np.multiply.accumulate(waves[:0:-1])[::-1]
    g: Array = p / 2000 + (np.sin(angles) * others).T / roots
    return g


def griewank_condition_number(d: int) -> float:
    return (1 / 2000 + 1) / (1 / 2000 + 1 / d)


GRIEWANK = Function(
    name="griewank",
    title="Griewank",
    summary="A wide bowl under a fine ripple: a plain bowl from afar, a maze from near, and easier with each "
    "dimension.",
    formula=r"f(x) = 1 + \frac{1}{4000} \sum_{i=1}^{d} x_i^2 - \prod_{i=1}^{d} \cos \frac{x_i}{\sqrt{i}}",
    dimensions=None,
    value=griewank,
    gradient=griewank_gradient,
    domain=box(-600.0, 600.0),
    minima=lowest_at(0.0),
    minima_note="The domain holds a great many local minima, wherever the product of cosines is near 1; only the "
    "global one is listed.",
    start=repeating(-250.0, 180.0),
    smoothness="analytic",
    largest_stable_step=always(2 / (1 / 2000 + 1)),
    condition_number=griewank_condition_number,
    source="A. O. Griewank, Generalized descent for global optimization, Journal of Optimization Theory and "
    "Applications 34(1), 1981, doi:10.1007/BF00933356; why it gets easier: M. Locatelli, A note on the Griewank test "
    "function, Journal of Global Optimization 25(2), 2003, doi:10.1023/A:1021956306041.",
    misprints=(
        "The square root of i is often forgotten; the function is then another one.",
        "Flagged as separable and as having one minimum; both are wrong.",
    ),
    tags=("multimodal",),
)


def easom(p: Array) -> Value:
    x, y = p.T
    a = x - pi
    b = y - pi
    return (-np.cos(x) * np.cos(y) * np.exp(-(a * a + b * b))).T


def easom_gradient(p: Array) -> Array:
    x, y = p.T
    a = x - pi
    b = y - pi
    bell = np.exp(-(a * a + b * b))
    cos_x = np.cos(x)
    cos_y = np.cos(y)
    g = np.empty_like(p)
    u = g.T
    u[0] = bell * cos_y * (np.sin(x) + 2 * a * cos_x)
    u[1] = bell * cos_x * (np.sin(y) + 2 * b * cos_y)
    return g


EASOM = Function(
    name="easom",
    title="Easom",
    summary="One narrow hole in a plain: a little away the gradient is too small to use, farther out it is exactly 0.",
    formula=r"f(x, y) = -\cos x \cos y \, \exp\left( -(x - \pi)^2 - (y - \pi)^2 \right)",
    dimensions=2,
    value=easom,
    gradient=easom_gradient,
    domain=box(-100.0, 100.0),
    minima=always((Minimum((pi, pi), -1.0, "global"),)),
    minima_note="Around the hole lie ripples with local minima, none below -1e-4; only the global one is listed.",
    start=always((2.0, 4.2)),
    smoothness="analytic",
    largest_stable_step=always(2 / 3),
    condition_number=always(1.0),
    source="E. E. Easom, A survey of global optimization techniques, M. Eng. thesis, University of Louisville, 1990.",
    misprints=(
        "At (0, 0) the gradient is 1.7e-8 in each coordinate: gradient descent stands still, while Adam with epsilon "
        "1e-8 still takes steps of more than half its learning rate.",
        "At (-25, -25) the gradient is exactly 0.0 in double precision, and every method stands still.",
    ),
    tags=("plateau", "multimodal"),
)

FUNCTIONS = (RASTRIGIN, ACKLEY, GRIEWANK, EASOM)
