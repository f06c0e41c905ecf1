"""Curved valleys: finding the valley is easy, following its floor is not."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from service.functions.base import Array, Domain, Function, Minimum, Value, always, box, repeating, total


def rosenbrock(p: Array) -> Value:
    c = p.T
    # In two dimensions there is one pair of neighbours: as scalars it takes half the time.
    x, y = (c[0], c[1]) if len(c) == 2 else (c[:-1], c[1:])
    above = y - x * x
    left = 1 - x
    terms = 100 * above * above + left * left
    return (terms if len(c) == 2 else total(terms)).T


def rosenbrock_gradient(p: Array) -> Array:
    c = p.T
    x, y = (c[0], c[1]) if len(c) == 2 else (c[:-1], c[1:])
    slope = 200 * (y - x * x)
    g = np.empty_like(p)
    u = g.T
    u[-1] = 0
    u[:-1] = 2 * (x - 1 - x * slope)
    u[1:] += slope
    return g


def rosenbrock_domain(d: int) -> Domain:
    return ((-2.0, 2.0), (-1.0, 3.0)) if d == 2 else ((-2.0, 2.0),) * d


ROSENBROCK_LOCAL = {  # d -> the one local minimum; its distance to (-1, 1, ..., 1) shrinks as d grows
    4: Minimum(
        (-0.77565922656535262, 0.61309336548504346, 0.38206284633839315, 0.14597201855219461),
        3.7014286104300173,
        "local",
    ),
    5: Minimum(
        (-0.96205102069475016, 0.93573939597671001, 0.88071360419432059, 0.77787767585440633, 0.60509367859265284),
        3.9308394341330281,
        "local",
    ),
    6: Minimum(
        (
            -0.98657497957099373,
            0.98339822883618175,
            0.97210667005309191,
            0.94743743682643601,
            0.89865118485172963,
            0.80757395203541755,
        ),
        3.9739405009302949,
        "local",
    ),
    7: Minimum(
        (
            -0.99172257256140554,
            0.99355539350337126,
            0.99217332159469212,
            0.98689876269031392,
            0.97516475660887304,
            0.95143198270499267,
            0.90522281771395347,
        ),
        3.9836005364248540,
        "local",
    ),
}


def rosenbrock_minima(d: int) -> tuple[Minimum, ...]:
    lowest = Minimum((1.0,) * d, 0.0, "global")
    return (lowest, ROSENBROCK_LOCAL[d]) if d in ROSENBROCK_LOCAL else (lowest,)


@lru_cache(maxsize=64)
def rosenbrock_curvatures(d: int) -> tuple[float, float]:
    """The least and the greatest curvature at (1, ..., 1), where the Hessian is tridiagonal."""
    diagonal = np.full(d, 1002.0)
    diagonal[0], diagonal[-1] = 802.0, 200.0
    beside = np.full(d - 1, -400.0)
    eigenvalues = np.linalg.eigvalsh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    return float(eigenvalues[0]), float(eigenvalues[-1])


def rosenbrock_largest_stable_step(d: int) -> float:
    return 2 / rosenbrock_curvatures(d)[1]


def rosenbrock_condition_number(d: int) -> float:
    least, greatest = rosenbrock_curvatures(d)
    return greatest / least


ROSENBROCK = Function(
    name="rosenbrock",
    title="Rosenbrock",
    summary="A narrow curved valley: steps fit for its walls are far too short for its nearly flat floor.",
    formula=r"f(x) = \sum_{i=1}^{d-1} \left[ 100 (x_{i+1} - x_i^2)^2 + (1 - x_i)^2 \right]",
    dimensions=None,
    minimum_dimension=2,
    value=rosenbrock,
    gradient=rosenbrock_gradient,
    domain=rosenbrock_domain,
    minima=rosenbrock_minima,
    minima_note="From 4 dimensions on there is a local minimum near (-1, 1, ..., 1), with a value from 3.70 to 3.99; "
    "it is listed up to 7.",
    start=repeating(-1.2, 1.0),
    smoothness="analytic",
    largest_stable_step=rosenbrock_largest_stable_step,
    condition_number=rosenbrock_condition_number,
    source="H. H. Rosenbrock, An automatic method for finding the greatest or least value of a function, The Computer "
    "Journal 3(3), 1960, doi:10.1093/comjnl/3.3.175; the local minima: S. Kok, C. Sandrock, Locating and "
    "characterizing the stationary points of the extended Rosenbrock function, Evolutionary Computation 17(3), 2009, "
    "doi:10.1162/evco.2009.17.3.437.",
    misprints=(
        "Called multimodal in two dimensions, where it has one minimum, and unimodal in all, which fails from 4 on.",
        "The factor is 100; 105 and 1 also circulate, and make another valley.",
        "The sum over all neighbours used here is not the sum over separate pairs of J. J. Moré, B. S. Garbow and K. "
        "E. Hillstrom (doi:10.1145/355934.355936), which has one minimum in any dimension.",
    ),
    tags=("valley", "ill-conditioned"),
)


def beale(p: Array) -> Value:
    x, y = p.T
    y2 = y * y
    a = 1.5 - x + x * y
    b = 2.25 - x + x * y2
    c = 2.625 - x + x * y2 * y
    return (a * a + b * b + c * c).T


def beale_gradient(p: Array) -> Array:
    x, y = p.T
    y2 = y * y
    y3 = y2 * y
    a = 1.5 - x + x * y
    b = 2.25 - x + x * y2
    c = 2.625 - x + x * y3
    g = np.empty_like(p)
    u = g.T
    u[0] = 2 * (a * (y - 1) + b * (y2 - 1) + c * (y3 - 1))
    u[1] = 2 * x * (a + 2 * y * b + 3 * y2 * c)
    return g


BEALE = Function(
    name="beale",
    title="Beale",
    summary="A flat valley between walls that rise with the sixth power of y: one learning rate hardly suits both.",
    formula=r"f(x, y) = (1.5 - x + x y)^2 + (2.25 - x + x y^2)^2 + (2.625 - x + x y^3)^2",
    dimensions=2,
    value=beale,
    gradient=beale_gradient,
    domain=box(-4.5, 4.5),
    minima=always((Minimum((3.0, 0.5), 0.0, "global"),)),
    start=always((1.0, 1.0)),
    smoothness="analytic",
    largest_stable_step=always(0.040833171169150931),
    condition_number=always(162.47327635859136),
    source="E. M. L. Beale, On an iterative method for finding a local minimum of a function of more than one "
    "variable, Technical Report 25, Statistical Techniques Research Group, Princeton University, 1958.",
    misprints=(
        "Code with `* 2` in place of `** 2` circulates.",
        "Kept inside the box, a search can also end at 0.76207 on its edge, near (-4.5, 1.186): no minimum, for the "
        "function falls on outside.",
        "(0, 1) is a saddle with the value 14.203125: an exact start there never moves.",
    ),
    tags=("valley", "plateau", "ill-conditioned"),
)

FUNCTIONS = (ROSENBROCK, BEALE)
