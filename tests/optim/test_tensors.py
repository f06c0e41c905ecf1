"""Named tensors in one flat array, and its norm."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.optim.tensors import BLOCK, DTYPES, Layout, all_finite, norm, single
from tests.optim.table import SHAPES, layout


def test_a_name_is_a_view_in_its_shape() -> None:
    flat = np.arange(18.0)
    tensors = layout().split(flat)
    assert {name: tensor.shape for name, tensor in tensors.items()} == SHAPES
    assert tensors["layer.bias"].tolist() == [12.0, 13.0, 14.0, 15.0, 16.0]
    tensors["scale"][...] = -1.0
    assert flat[17] == -1.0
    assert layout().size == 18


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_layout_is_plain_data(dtype: str) -> None:
    empty = Layout((), (), DTYPES[dtype])
    for subject in (layout(dtype), single(3, dtype), empty, Layout(("e",), ((0, 2),), DTYPES[dtype])):
        assert Layout.from_json(subject.as_json()) == subject
        assert len(subject.slices) == len(subject.names)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.floats(-1e300, 1e300), max_size=40), st.sampled_from(sorted(DTYPES)))
def test_the_norm_is_right_to_the_last_digits_at_every_scale(numbers: list[float], dtype: str) -> None:
    with np.errstate(all="ignore"):
        flat = np.array(numbers, DTYPES[dtype])
    wanted = math.hypot(*flat.tolist())
    assert norm(flat) == pytest.approx(wanted, rel=1e-13, abs=5e-324)


@pytest.mark.parametrize("size", [5e-324, 1e-310, 1e-170, 1e-160, 1e-155, 1e-140, 1.0, 1e153, 1e160, 1e307])
def test_squares_that_underflow_or_overflow_do_not_spoil_it(size: float) -> None:
    assert norm(np.array([3.0 * size, -4.0 * size])) == pytest.approx(5.0 * size, rel=1e-13)


def test_the_norm_of_many_elements_is_summed_in_blocks_of_a_fixed_order() -> None:
    flat = np.random.default_rng(1).normal(size=3 * BLOCK + 17)
    assert norm(flat) == pytest.approx(math.sqrt(math.fsum(flat * flat)), rel=1e-14)
    assert norm(flat) == norm(flat.copy()[np.arange(flat.size)])


def test_the_norm_of_slices_is_theirs_together() -> None:
    flat = np.array([3.0, 100.0, 4.0])
    assert norm(flat, (slice(0, 1), slice(2, 3))) == 5.0
    assert norm(flat, ()) == 0.0
    assert norm(np.zeros(0)) == 0.0


def test_the_norm_of_what_is_not_finite_is_not_finite() -> None:
    assert norm(np.array([1.0, np.inf])) == math.inf
    assert math.isnan(norm(np.array([1.0, np.nan])))
    assert norm(np.full(5, 1.7e308)) == math.inf


def test_all_finite() -> None:
    assert all_finite(np.zeros(3), np.ones(2))
    assert all_finite()
    assert not all_finite(np.zeros(3), np.array([1.0, np.nan]))
    assert not all_finite(np.array([-np.inf]))
