"""What every member of the catalogue must pass. The table is the catalogue itself: nothing enters untested.

The checksums are values of the textbook formulas, computed with 60 digits from the exact coordinates listed and
rounded once; the implementation had no part in them.
"""

from __future__ import annotations

import json
from math import sqrt
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from service.functions.base import Array, Function, Smoothness, hessian
from service.functions.catalogue import FUNCTIONS
from service.functions.multimodal import FUNCTIONS as MULTIMODAL

CHECKSUMS = json.loads((Path(__file__).parent / "checksums.json").read_text())
H = 1e-25


def dimensions_under_test(function: Function) -> tuple[int, ...]:
    if function.dimensions is not None:
        return (function.dimensions,)
    return tuple(d for d in (1, 2, 3, 5, 10) if d >= function.minimum_dimension)


CASES = [(function, d) for function in FUNCTIONS.values() for d in dimensions_under_test(function)]
LOWEST = [(function, d) for function, d in CASES if function.minima(d)]
SMOOTH = [(function, d) for function, d in LOWEST if function.smoothness != "kink at the minimum"]


def over(cases: list[tuple[Function, int]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("function", "d"), cases, ids=[f"{function.name}-{d}" for function, d in cases])


def points(function: Function, d: int, n: int = 24) -> Array:
    """n random points of the domain and n within 1 of the first minimum, shape (2n, d)."""
    rng = np.random.default_rng([d, *function.name.encode()])
    low, high = np.array(function.domain_at(d)).T
    minima = function.minima_at(d)
    center = np.array(minima[0].point) if minima else np.zeros(d)
    return np.concatenate([rng.uniform(low, high, (n, d)), center + rng.uniform(-1, 1, (n, d))])


def lowest(function: Function, d: int) -> Array:
    return np.array(function.minima_at(d)[0].point)


# The value, and the gradient against the value.


def test_every_function_has_checksums() -> None:
    assert list(CHECKSUMS) == list(FUNCTIONS)
    for name, rows in CHECKSUMS.items():
        assert len(rows) >= 10
        dimensions = {len(point) for point, _ in rows}
        assert dimensions == ({2, 3, 5, 10} if FUNCTIONS[name].dimensions is None else {FUNCTIONS[name].dimensions})


@pytest.mark.parametrize("name", CHECKSUMS)
def test_values_are_those_of_the_formula(name: str) -> None:
    for point, value in CHECKSUMS[name]:
        assert FUNCTIONS[name].value(np.array(point)) == pytest.approx(value, rel=1e-13, abs=0)


@over(CASES)
def test_gradient_is_the_complex_step_of_the_value(function: Function, d: int) -> None:
    x = points(function, d)
    steps = x[:, None, :] + 1j * H * np.eye(d)
    expected = function.value(steps).imag / H
    error = np.abs(function.gradient(x) - expected).max(axis=-1)
    assert (error <= 1e-12 * np.abs(expected).max(axis=-1)).all()


@over(CASES)
def test_hessian_is_symmetric_and_the_slope_of_the_gradient(function: Function, d: int) -> None:
    x = points(function, d)
    second = hessian(function, x)
    size = np.abs(second).max(axis=(-2, -1))
    assert second.shape == (*x.shape, d)
    assert (np.abs(second - second.swapaxes(-1, -2)).max(axis=(-2, -1)) <= 1e-13 * size).all()
    h = 1e-6
    slopes = np.stack([(function.gradient(x + e) - function.gradient(x - e)) / (2 * h) for e in h * np.eye(d)], axis=-1)
    reach = size + np.abs(function.gradient(x)).max(axis=-1)
    assert (np.abs(second - slopes).max(axis=(-2, -1)) <= 1e-6 * reach).all()
    assert np.array_equal(hessian(function, x[0]), second[0])


@over(CASES)
def test_one_point_and_many_give_the_same_bits(function: Function, d: int) -> None:
    x = points(function, d)
    n = len(x)
    values = np.array([function.value(point) for point in x])
    gradients = np.array([function.gradient(point) for point in x])
    padded = np.zeros((n, d + 3))
    padded[:, 1 : d + 1] = x
    for batch in (x, np.asfortranarray(x), padded[:, 1 : d + 1], x.reshape(4, n // 4, d), x[:, None]):
        assert function.value(batch).shape == batch.shape[:-1]
        assert function.gradient(batch).shape == batch.shape
        assert np.array_equal(function.value(batch).reshape(n), values)
        assert np.array_equal(function.gradient(batch).reshape(n, d), gradients)
    assert function.value(x[0]).dtype == function.gradient(x[0]).dtype == np.float64
    assert function.value(x[:0]).shape == (0,)
    assert function.gradient(x[:0]).shape == (0, d)


@over(CASES)
def test_input_is_left_alone(function: Function, d: int) -> None:
    x = points(function, d)
    before = x.copy()
    function.gradient(x)[...] = 7
    function.value(x)
    assert np.array_equal(x, before)


@over(CASES)
def test_the_domain_gives_finite_numbers_and_no_warning(function: Function, d: int) -> None:
    low, high = np.array(function.domain_at(d)).T
    special = [low, high, (low + high) / 2, np.zeros(d), np.array(function.start_at(d))]
    x = np.array([*special, *(minimum.point for minimum in function.minima_at(d))])
    for point in x:
        assert np.isfinite(function.value(point))
        assert np.isfinite(function.gradient(point)).all()
        assert np.isfinite(hessian(function, point)).all()


@over(CASES)
@pytest.mark.parametrize("size", [1e12, 1e200, np.inf])
def test_a_diverged_point_raises_nothing(function: Function, d: int, size: float) -> None:
    x = size * (-1.0) ** np.arange(d)
    with np.errstate(all="ignore"):
        assert np.shape(function.value(x)) == ()
        assert function.gradient(x).shape == (d,)


# The minima.


@over(LOWEST + [(FUNCTIONS["rosenbrock"], d) for d in (4, 6, 7)])
def test_minima_are_polished(function: Function, d: int) -> None:
    for minimum in function.minima_at(d):
        x = np.array(minimum.point)
        assert function.value(x) == pytest.approx(minimum.value, rel=1e-12, abs=1e-12)
        second = hessian(function, x)
        eigenvalues = np.linalg.eigvalsh(second)
        assert eigenvalues[0] >= -1e-12 * eigenvalues[-1]
        assert np.linalg.norm(function.gradient(x)) <= 1e-14 * eigenvalues[-1] * (1 + np.linalg.norm(x))


@pytest.mark.parametrize("d", range(2, 12))
def test_rosenbrock_has_one_more_minimum_from_four_dimensions_on(d: int) -> None:
    assert len(FUNCTIONS["rosenbrock"].minima_at(d)) == (2 if 4 <= d <= 7 else 1)
    assert "listed up to 7" in FUNCTIONS["rosenbrock"].minima_note


@over(LOWEST)
def test_global_minima_come_first_and_are_equally_low(function: Function, d: int) -> None:
    minima = function.minima_at(d)
    kinds = [minimum.kind for minimum in minima]
    assert kinds == sorted(kinds)
    assert kinds[0] == "global"
    for minimum in minima:
        assert (minimum.value == minima[0].value) == (minimum.kind == "global")
        assert minimum.value >= minima[0].value
    assert len({minimum.point for minimum in minima}) == len(minima)


@over(LOWEST)
def test_a_scan_of_the_domain_finds_nothing_lower(function: Function, d: int) -> None:
    domain = function.domain_at(d)
    if d <= 2:
        axes = [np.linspace(low, high, 301) for low, high in domain]
        x = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    else:
        low, high = np.array(domain).T
        x = np.random.default_rng(d).uniform(low, high, (20_000, d))
    least = function.minima_at(d)[0].value
    assert function.value(x).min() >= least - 1e-9 * max(1, abs(least))


@pytest.mark.parametrize("function", MULTIMODAL, ids=lambda function: function.name)
def test_a_scan_finds_the_listed_minima_and_no_others(function: Function) -> None:
    (x_low, x_high), (y_low, y_high) = function.domain_at(2)
    n = 401
    x = np.stack(np.meshgrid(np.linspace(x_low, x_high, n), np.linspace(y_low, y_high, n), indexing="ij"), axis=-1)
    values = function.value(x)
    inner = values[1:-1, 1:-1]
    around = [values[1 + i : n - 1 + i, 1 + j : n - 1 + j] for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    found = x[1:-1, 1:-1][np.all([inner < other for other in around], axis=0)]
    for _ in range(20):
        found = found - np.linalg.solve(hessian(function, found), function.gradient(found)[:, :, None])[:, :, 0]
    found = found[np.linalg.eigvalsh(hessian(function, found))[:, 0] > 0]  # a coarse grid takes some saddles for minima
    listed = np.array([minimum.point for minimum in function.minima_at(2)])
    apart = np.linalg.norm(found[:, None] - listed, axis=-1)
    assert (apart.min(axis=1) < 1e-12).all()
    assert set(apart.argmin(axis=1)) == set(range(len(listed)))


@pytest.mark.parametrize("d", [1, 2, 5])
def test_ackley_is_a_cone_at_its_minimum(d: int) -> None:
    ackley = FUNCTIONS["ackley"]
    assert ackley.value(np.zeros(d)) == 0
    assert (ackley.gradient(np.zeros(d)) == 0).all()
    for direction in np.random.default_rng(d).normal(size=(10, d)):
        x = 1e-9 * direction / np.linalg.norm(direction)
        assert ackley.value(x) == pytest.approx(4e-9 / sqrt(d), rel=1e-6)
        assert np.linalg.norm(ackley.gradient(x)) == pytest.approx(4 / sqrt(d), rel=1e-6)


@pytest.mark.parametrize("name", ["saddle", "monkey_saddle"])
def test_saddles_say_that_they_have_no_minimum(name: str) -> None:
    function = FUNCTIONS[name]
    assert function.minima_at(2) == ()
    assert "no minimum" in function.minima_note
    assert (function.gradient(np.zeros(2)) == 0).all()
    around = np.random.default_rng(0).uniform(-1e-3, 1e-3, (100, 2))
    assert function.value(around).min() < 0 < function.value(around).max()


def test_only_saddles_have_no_minimum() -> None:
    assert {f.name for f in FUNCTIONS.values() if "saddle" in f.tags} == {f.name for f, d in CASES if not f.minima(d)}


# Smoothness, and the largest stable step.


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_smoothness_is_one_of_the_vocabulary(function: Function) -> None:
    assert function.smoothness in get_args(Smoothness)
    assert (function.smoothness == "analytic") == ("non-smooth" not in function.tags)


@over(SMOOTH)
def test_largest_stable_step_is_two_over_the_largest_curvature(function: Function, d: int) -> None:
    eigenvalues = np.linalg.eigvalsh(hessian(function, lowest(function, d)))
    assert function.largest_stable_step_at(d) == pytest.approx(2 / eigenvalues[-1], rel=1e-9)
    assert function.condition_number_at(d) == pytest.approx(eigenvalues[-1] / eigenvalues[0], rel=1e-9)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_an_absent_step_has_a_reason(function: Function) -> None:
    assert (function.largest_stable_step is None) == bool(function.largest_stable_step_note)
    assert (function.largest_stable_step is None) == (function.condition_number is None)


def distance_after(function: Function, start: Array, learning_rate: float, steps: int) -> float:
    x = start
    for _ in range(steps):
        x = x - learning_rate * function.gradient(x)
    return float(np.linalg.norm(x - lowest(function, len(x))))


@over(SMOOTH)
def test_gradient_descent_converges_below_the_largest_stable_step_and_not_above(function: Function, d: int) -> None:
    limit = function.largest_stable_step_at(d)
    assert limit is not None
    eigenvectors = np.linalg.eigh(hessian(function, lowest(function, d)))[1]
    start = lowest(function, d) + 1e-6 * eigenvectors[:, -1]
    assert distance_after(function, start, 0.99 * limit, 200) < 1e-7
    assert distance_after(function, start, 1.01 * limit, 200) > 1e-5


@over([(function, d) for function, d in SMOOTH if "quadratic" in function.tags])
def test_on_a_quadratic_that_holds_from_any_start(function: Function, d: int) -> None:
    limit = function.largest_stable_step_at(d)
    assert limit is not None
    start = np.array(function.start_at(d))
    assert distance_after(function, start, 0.99 * limit, 2000) < 1e-9
    assert distance_after(function, start, 1.01 * limit, 2000) > 1e9


# The tags.


@over(CASES)
def test_tags_are_true(function: Function, d: int) -> None:
    second = hessian(function, points(function, d))
    if "convex" in function.tags:
        eigenvalues = np.linalg.eigvalsh(second)
        assert (eigenvalues[:, 0] >= -1e-12 * eigenvalues[:, -1]).all()
    if "quadratic" in function.tags:
        assert np.allclose(second, second[0], rtol=0, atol=1e-13 * np.abs(second[0]).max())
    if "separable" in function.tags:
        assert (second[:, ~np.eye(d, dtype=bool)] == 0).all()
    if "multimodal" in function.tags:
        assert len(function.minima_at(d)) > 1 or "only the global one is listed" in function.minima_note
    if d > 1:
        condition = function.condition_number_at(d)
        assert ("ill-conditioned" in function.tags) == (condition is not None and condition >= 100 * (1 - 1e-9))
