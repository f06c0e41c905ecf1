"""A few minima, all of them known: which one a run ends in depends on the start and on the step."""

from __future__ import annotations

from itertools import product

import numpy as np

from service.functions.base import Array, Function, Minimum, Value, always, box, repeating, total


def wavy_bowl(p: Array) -> Value:
    x, y = p.T
    return (2 * x * x + 10 * y * y + 10 * np.sin(5 * y)).T


def wavy_bowl_gradient(p: Array) -> Array:
    x, y = p.T
    g = np.empty_like(p)
    u = g.T
    u[0] = 4 * x
    u[1] = 20 * y + 50 * np.cos(5 * y)
    return g


WAVY_BOWL = Function(
    name="wavy_bowl",
    title="Wavy bowl",
    summary="A bowl with a wave across it: plain gradient descent stops in the first trough, momentum may roll on.",
    formula=r"f(x, y) = 2 x^2 + 10 y^2 + 10 \sin 5y",
    dimensions=2,
    value=wavy_bowl,
    gradient=wavy_bowl_gradient,
    domain=box(-3.0, 3.0),
    minima=always(
        (
            Minimum((0.0, -0.29083931499532344), -9.0862243987154931, "global"),
            Minimum((0.0, 0.87128108307607773), -1.7817343188954485, "local"),
            Minimum((0.0, -1.4473142236328096), 12.793381542873133, "local"),
            Minimum((0.0, 2.0120415680596115), 34.547877282217312, "local"),
        )
    ),
    start=always((-2.0, 2.5)),
    smoothness="analytic",
    largest_stable_step=always(0.0074542730639283841),
    condition_number=always(67.075621688656143),
    source="An illustrated tour of PyTorch's optimizers (in Japanese): its function f2.",
    misprints=(
        "The source writes the wave as 10 Im(exp(5yj)), which is 10 sin 5y.",
        "The minimum of the bowl, (0, 0), is not a minimum of f: the wave moves it to y = -0.2908.",
    ),
    tags=("separable", "multimodal"),
)


def himmelblau(p: Array) -> Value:
    x, y = p.T
    a = x * x + y - 11
    b = x + y * y - 7
    return (a * a + b * b).T


def himmelblau_gradient(p: Array) -> Array:
    x, y = p.T
    a = x * x + y - 11
    b = x + y * y - 7
    g = np.empty_like(p)
    u = g.T
    u[0] = 4 * x * a + 2 * b
    u[1] = 2 * a + 4 * y * b
    return g


HIMMELBLAU = Function(
    name="himmelblau",
    title="Himmelblau",
    summary="Four equally good minima: a small change of the start or of the step decides between them.",
    formula=r"f(x, y) = (x^2 + y - 11)^2 + (x + y^2 - 7)^2",
    dimensions=2,
    value=himmelblau,
    gradient=himmelblau_gradient,
    domain=box(-5.0, 5.0),
    minima=always(
        (
            Minimum((3.0, 2.0), 0.0, "global"),
            Minimum((-2.8051180869527449, 3.1313125182505730), 0.0, "global"),
            Minimum((-3.7793102533777469, -3.2831859912861694), 0.0, "global"),
            Minimum((3.5844283403304917, -1.8481265269644036), 0.0, "global"),
        )
    ),
    start=always((0.0, 0.0)),
    smoothness="analytic",
    largest_stable_step=always(0.024305981807691965),
    condition_number=always(3.1997643169782067),
    source="D. M. Himmelblau, Applied Nonlinear Programming, McGraw-Hill, 1972.",
    misprints=(
        "All four minima are global: never judge a run by its distance to (3, 2).",
        "3.131312 and -1.848126 are often quoted, cut off after six decimals; rounded they are 3.131313 and -1.848127.",
    ),
    tags=("multimodal",),
)


def three_hump_camel(p: Array) -> Value:
    x, y = p.T
    x2 = x * x
    return (x2 * (2 - 1.05 * x2 + x2 * x2 / 6) + x * y + y * y).T


def three_hump_camel_gradient(p: Array) -> Array:
    x, y = p.T
    x2 = x * x
    g = np.empty_like(p)
    u = g.T
    u[0] = x * (4 - 4.2 * x2 + x2 * x2) + y
    u[1] = x + 2 * y
    return g


THREE_HUMP_CAMEL = Function(
    name="three_hump_camel",
    title="Three-hump camel",
    summary="A global minimum between two local ones almost as low: many starts end in the wrong one.",
    formula=r"f(x, y) = 2 x^2 - 1.05 x^4 + \frac{x^6}{6} + x y + y^2",
    dimensions=2,
    value=three_hump_camel,
    gradient=three_hump_camel_gradient,
    domain=box(-5.0, 5.0),
    minima=always(
        (
            Minimum((0.0, 0.0), 0.0, "global"),
            Minimum((1.7475523458302889, -0.87377617291514445), 0.29863844223685982, "local"),
            Minimum((-1.7475523458302889, 0.87377617291514445), 0.29863844223685982, "local"),
        )
    ),
    start=always((-2.0, -1.0)),
    smoothness="analytic",
    largest_stable_step=always(0.45308183932197284),
    condition_number=always(2.7836116248912243),
    source="M. Jamil, X.-S. Yang, A literature survey of benchmark functions for global optimisation problems, Int. J. "
    "Mathematical Modelling and Numerical Optimisation 4(2), 2013, doi:10.1504/IJMMNO.2013.055204.",
    misprints=(
        "Sometimes flagged as having one minimum; it has three.",
        "The corners of the box reach 2048, which hides all else in a picture without logarithmic contours.",
    ),
    tags=("multimodal",),
)


def six_hump_camel(p: Array) -> Value:
    x, y = p.T
    x2 = x * x
    y2 = y * y
    return (x2 * (4 - 2.1 * x2 + x2 * x2 / 3) + x * y + 4 * y2 * (y2 - 1)).T


def six_hump_camel_gradient(p: Array) -> Array:
    x, y = p.T
    x2 = x * x
    g = np.empty_like(p)
    u = g.T
    u[0] = x * (8 - 8.4 * x2 + 2 * x2 * x2) + y
    u[1] = x + y * (16 * y * y - 8)
    return g


SIX_HUMP_CAMEL = Function(
    name="six_hump_camel",
    title="Six-hump camel",
    summary="Six minima in pairs, two of them global: a small map of basins of attraction.",
    formula=r"f(x, y) = \left( 4 - 2.1 x^2 + \frac{x^4}{3} \right) x^2 + x y + (4 y^2 - 4) y^2",
    dimensions=2,
    value=six_hump_camel,
    gradient=six_hump_camel_gradient,
    domain=always(((-3.0, 3.0), (-2.0, 2.0))),
    minima=always(
        (
            Minimum((0.089842013100318062, -0.71265640302073963), -1.0316284534898774, "global"),
            Minimum((-0.089842013100318062, 0.71265640302073963), -1.0316284534898774, "global"),
            Minimum((1.7036067149699808, -0.79608356867262512), -0.21546382438371764, "local"),
            Minimum((-1.7036067149699808, 0.79608356867262512), -0.21546382438371764, "local"),
            Minimum((1.6071047529201972, 0.56865145488413137), 2.1042503103112583, "local"),
            Minimum((-1.6071047529201972, -0.56865145488413137), 2.1042503103112583, "local"),
        )
    ),
    start=always((-1.2, 1.5)),
    smoothness="analytic",
    largest_stable_step=always(0.12126213094791946),
    condition_number=always(2.1469220863463757),
    source="L. C. W. Dixon, G. P. Szegő (editors), Towards Global Optimisation 2, North-Holland, 1978.",
    misprints=(
        "The coordinates of a global minimum have opposite signs; with equal ones, a frequent slip, f is -0.9036.",
        "Two minima are global; lists often give only one.",
    ),
    tags=("multimodal",),
)


def styblinski_tang(p: Array) -> Value:
    x = p.T
    return total(x * (x * (x * x - 16) + 5)).T / 2


def styblinski_tang_gradient(p: Array) -> Array:
    g: Array = p * (2 * p * p - 16) + 2.5
    return g


STYBLINSKI_TANG_LISTED = 4  # 2^d minima: all are listed up to so many dimensions
STYBLINSKI_TANG_LOW = (-2.9035340277711771, -39.166165703771415)
STYBLINSKI_TANG_HIGH = (2.7468027709908370, -25.029446655283943)


def styblinski_tang_minima(d: int) -> tuple[Minimum, ...]:
    low, high = STYBLINSKI_TANG_LOW, STYBLINSKI_TANG_HIGH
    lowest = Minimum((low[0],) * d, d * low[1], "global")
    if d > STYBLINSKI_TANG_LISTED:
        return (lowest,)
    _, *others = product((low, high), repeat=d)
    return (lowest, *(Minimum(tuple(x for x, _ in corner), sum(f for _, f in corner), "local") for corner in others))


STYBLINSKI_TANG = Function(
    name="styblinski_tang",
    title="Styblinski-Tang",
    summary="Two minima in each coordinate, one lower: each chooses for itself, and seldom do all choose well.",
    formula=r"f(x) = \frac{1}{2} \sum_{i=1}^{d} \left( x_i^4 - 16 x_i^2 + 5 x_i \right)",
    dimensions=None,
    value=styblinski_tang,
    gradient=styblinski_tang_gradient,
    domain=box(-5.0, 5.0),
    minima=styblinski_tang_minima,
    minima_note="There are 2^d minima, each coordinate at -2.9035 or at 2.7468; above 4 dimensions only the global one "
    "is listed.",
    start=repeating(-1.0, 1.0),
    smoothness="analytic",
    largest_stable_step=always(0.057831783882082577),
    condition_number=always(1.0),
    source="M. A. Styblinski, T.-S. Tang, Experiments in nonconvex optimization: stochastic approximation with "
    "function smoothing and simulated annealing, Neural Networks 3(4), 1990, doi:10.1016/0893-6080(90)90029-K.",
    misprints=(
        "The minimum is -39.166166 per dimension; the widely copied -39.16599 is off by 1.8e-4.",
        "x* is printed as -1.9035 in places; it is -2.9035.",
    ),
    tags=("separable", "multimodal"),
)


def goldstein_price(p: Array) -> Value:
    x, y = p.T
    # The two long polynomials of the formula depend on x + y and on 2x - 3y alone.
    s = x + y
    t = 2 * x - 3 * y
    a = 1 + (s + 1) * (s + 1) * (19 + s * (3 * s - 14))
    b = 30 + t * t * (18 + t * (3 * t - 16))
    return (a * b).T


def goldstein_price_gradient(p: Array) -> Array:
    x, y = p.T
    s = x + y
    t = 2 * x - 3 * y
    a = 1 + (s + 1) * (s + 1) * (19 + s * (3 * s - 14))
    b = 30 + t * t * (18 + t * (3 * t - 16))
    da_b = 12 * (s + 1) * (s - 1) * (s - 2) * b
    a_db = 12 * t * (t - 1) * (t - 3) * a
    g = np.empty_like(p)
    u = g.T
    u[0] = da_b + 2 * a_db
    u[1] = da_b - 3 * a_db
    return g


GOLDSTEIN_PRICE = Function(
    name="goldstein_price",
    title="Goldstein-Price",
    summary="Values from 3 to a million in a small box: gradients of every size, and three local minima on the way.",
    formula=r"f(x, y) = \left[ 1 + (x + y + 1)^2 (19 - 14x + 3x^2 - 14y + 6xy + 3y^2) \right] "
    r"\left[ 30 + (2x - 3y)^2 (18 - 32x + 12x^2 + 48y - 36xy + 27y^2) \right]",
    dimensions=2,
    value=goldstein_price,
    gradient=goldstein_price_gradient,
    domain=box(-2.0, 2.0),
    minima=always(
        (
            Minimum((0.0, -1.0), 3.0, "global"),
            Minimum((-0.6, -0.4), 30.0, "local"),
            Minimum((1.8, 0.2), 84.0, "local"),
            Minimum((1.2, 0.8), 840.0, "local"),
        )
    ),
    start=always((-0.5, -1.5)),
    smoothness="analytic",
    largest_stable_step=always(0.0020721759859432121),
    condition_number=always(2.3959649589481762),
    source="A. A. Goldstein, J. F. Price, On descent from local minima, Mathematics of Computation 25(115), 1971, "
    "doi:10.1090/S0025-5718-1971-0312365-X.",
    misprints=(
        "Printed with 4y in place of 48y, which gives 399 at (0, -1).",
        "Printed with 6x^2 in place of 6xy: (0, -1) still gives 3, but the minimum is then far below 0.",
    ),
    tags=("multimodal",),
)


def mccormick(p: Array) -> Value:
    x, y = p.T
    apart = x - y
    return (np.sin(x + y) + apart * apart - 1.5 * x + 2.5 * y + 1).T


def mccormick_gradient(p: Array) -> Array:
    x, y = p.T
    wave = np.cos(x + y)
    apart = 2 * (x - y)
    g = np.empty_like(p)
    u = g.T
    u[0] = wave + apart - 1.5
    u[1] = wave - apart + 2.5
    return g


MCCORMICK = Function(
    name="mccormick",
    title="McCormick",
    summary="A wave down a slope: outside the box it falls for ever, so a long step is a way out of the picture.",
    formula=r"f(x, y) = \sin(x + y) + (x - y)^2 - 1.5 x + 2.5 y + 1",
    dimensions=2,
    value=mccormick,
    gradient=mccormick_gradient,
    domain=always(((-1.5, 4.0), (-3.0, 4.0))),
    minima=always(
        (
            Minimum((-0.54719755119659775, -1.5471975511965977), -1.9132229549810364, "global"),
            Minimum((2.5943951023931955, 1.5943951023931955), 1.2283696986087568, "local"),
        )
    ),
    minima_note="Lowest within the domain; each step of -pi in both coordinates finds a minimum lower by pi outside.",
    start=always((3.0, -2.0)),
    smoothness="analytic",
    largest_stable_step=always(0.5),
    condition_number=always(2.3094010767585031),
    source="M. Jamil, X.-S. Yang, A literature survey of benchmark functions for global optimisation problems, Int. J. "
    "Mathematical Modelling and Numerical Optimisation 4(2), 2013, doi:10.1504/IJMMNO.2013.055204.",
    misprints=(
        "The minimum is -sqrt(3)/2 - pi/3 = -1.913222955; the usual -1.9133 is rounded the wrong way.",
        "Flagged as convex in places; it has a second minimum in the box.",
    ),
    tags=("multimodal",),
)

FUNCTIONS = (
    WAVY_BOWL,
    HIMMELBLAU,
    THREE_HUMP_CAMEL,
    SIX_HUMP_CAMEL,
    STYBLINSKI_TANG,
    GOLDSTEIN_PRICE,
    MCCORMICK,
)
