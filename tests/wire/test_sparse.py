"""Gradients by rows: `{"indices": [...], "values": [[...], ...]}` in the place of a tensor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Invalid, NonFinite
from service.optim.tensors import DTYPES, Layout
from service.wire.trees import check_finite, flatten

LAYOUT = Layout(("w", "v", "s", "none"), ((4, 3), (5,), (), (0, 2)), DTYPES["float64"])
ROW = [1.0, 2.0, 3.0]


def sparse(tree: Any, layout: Layout = LAYOUT) -> Any:
    return flatten(tree, layout, "/gradients", sparse=True)


def test_rows_in_any_order_land_where_they_belong() -> None:
    flat = sparse({"w": {"indices": [2, 0], "values": [[1, 2, 3], [4, 5, 6]]}, "v": {"indices": [4], "values": [7]}})
    assert flat.values[:12].reshape(4, 3).tolist() == [[4, 5, 6], [0, 0, 0], [1, 2, 3], [0, 0, 0]]
    assert flat.values[12:17].tolist() == [0, 0, 0, 0, 7]
    assert {i: rows.tolist() for i, rows in flat.rows.items()} == {0: [0, 2], 1: [4]}
    assert flat.absent == (2, 3)


def test_a_row_that_comes_again_is_added() -> None:
    flat = sparse({"w": {"indices": [1, 3, 1], "values": [ROW, ROW, [0.5, 0.5, 0.5]]}, "s": 2.0})
    assert flat.values[3:6].tolist() == [1.5, 2.5, 3.5]
    assert flat.rows[0].tolist() == [1, 3]
    assert flat.values[17] == 2.0


def test_no_rows_are_not_an_absent_gradient() -> None:
    flat = sparse({"w": {"indices": [], "values": []}, "none": {"indices": [], "values": []}})
    assert flat.rows[0].tolist() == flat.rows[3].tolist() == []
    assert flat.absent == (1, 2)


def test_an_array_without_a_name_may_have_rows_too() -> None:
    flat = sparse({"indices": [1], "values": [[2.0]]}, Layout(("",), ((3, 1),), DTYPES["float32"], named=False))
    assert flat.values.tolist() == [0.0, 2.0, 0.0]
    assert flat.values.dtype == np.float32
    assert flat.rows[0].tolist() == [1]


@given(st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(-9, 9), min_size=3, max_size=3)), max_size=12))
def test_any_rows_sum_to_what_a_loop_sums_them_to(rows: list[tuple[int, list[int]]]) -> None:
    flat = sparse({"w": {"indices": [i for i, _ in rows], "values": [values for _, values in rows]}})
    wanted = np.zeros((4, 3))
    for i, values in rows:
        wanted[i] += values
    assert flat.values[:12].tolist() == wanted.ravel().tolist()
    assert flat.rows[0].tolist() == sorted({i for i, _ in rows})


@pytest.mark.parametrize(
    ("tree", "pointer", "words"),
    [
        ({"w": {}}, "/w", "A sparse gradient is"),
        ({"w": {"indices": [0]}}, "/w", "A sparse gradient is"),
        ({"w": {"indices": [0], "values": [ROW], "shape": [4, 3]}}, "/w", "A sparse gradient is"),
        ({"s": {"indices": [0], "values": [1.0]}}, "/s", "has no rows"),
        ({"w": {"indices": 0, "values": [ROW]}}, "/w/indices", "an array of row numbers, found a number"),
        ({"w": {"indices": [0, 4], "values": [ROW, ROW]}}, "/w/indices/1", "from 0 to 3"),
        ({"w": {"indices": [-1], "values": [ROW]}}, "/w/indices/0", "from 0 to 3"),
        ({"w": {"indices": [True], "values": [ROW]}}, "/w/indices/0", "whole numbers"),
        ({"w": {"indices": [1.0], "values": [ROW]}}, "/w/indices/0", "whole numbers"),
        ({"w": {"indices": [10**30], "values": [ROW]}}, "/w/indices/0", "whole numbers"),
        ({"none": {"indices": [0], "values": [[1, 2]]}}, "/none/indices/0", "this one has none"),
        ({"w": {"indices": [0, 1], "values": [ROW]}}, "/w/values", "found an array of 1"),
        ({"w": {"indices": [0], "values": None}}, "/w/values", "found null"),
        ({"w": {"indices": [0], "values": [[1.0, 2.0]]}}, "/w/values/0", "an array of 3, found an array of 2"),
        ({"w": {"indices": [0, 1], "values": [ROW, [1, 2, "x"]]}}, "/w/values/1/2", "found a string"),
        ({"v": {"indices": [0], "values": [[1.0]]}}, "/v/values/0", "Expected a number"),
        ({"w": {"indices": [], "values": [ROW]}}, "/w/values", "found an array of 1"),
    ],
)
def test_refusals(tree: Any, pointer: str, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        sparse(tree)
    assert caught.value.places[0].pointer == f"/gradients{pointer}"
    assert words in caught.value.detail


def test_a_number_that_is_not_finite_is_found_among_the_values() -> None:
    flat = sparse({"w": {"indices": [2], "values": [[1.0, None, 3.0]]}, "v": [1, 2, math.inf, 4, 5]})
    with pytest.raises(NonFinite) as caught:
        check_finite(flat.values, LAYOUT, "/gradients", flat.rows)
    assert [place.pointer for place in caught.value.places] == ["/gradients/w/values", "/gradients/v/2"]


def test_only_gradients_have_rows() -> None:
    with pytest.raises(Invalid, match="found an object"):
        flatten({"w": {"indices": [], "values": []}}, LAYOUT, "/params")
