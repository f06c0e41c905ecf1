"""Arrays arrive as they were: bit for bit, in their shapes, under their names; and what is no array is refused."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import thalweg
from thalweg.requests import encode
from thalweg.tensors import check, from_json, shapes, to_json

DTYPES = st.sampled_from([np.float64, np.float32, np.float16, ">f8", ">f4"])
SHAPES = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
FINITE = arrays.arrays(DTYPES, SHAPES, elements={"allow_nan": False, "allow_infinity": False})
NAMES = st.text(max_size=8)


def there_and_back(tensors, dtype):
    sent = check(tensors, "/params")
    text = encode({}, {"params": sent}).content
    return from_json(json.loads(text)["params"], dtype, shapes(sent))


def same(one, two):
    assert one.shape == two.shape
    assert one.astype(np.float64).tobytes() == two.astype(np.float64).tobytes()  # the sign of zero included


@given(FINITE)
def test_one_array(array):
    again = there_and_back(array, "float64")
    assert again.dtype == np.float64
    same(array, again)


@given(st.dictionaries(NAMES, FINITE, max_size=4))
def test_named_arrays_keep_their_order(tensors):
    again = there_and_back(tensors, "float64")
    assert list(again) == list(tensors)
    for name, array in tensors.items():
        same(array, again[name])


@given(arrays.arrays(np.float32, SHAPES, elements={"allow_nan": False, "allow_infinity": False}))
def test_float32_of_a_float32_session(array):
    again = there_and_back(array, "float32")
    assert again.dtype == np.float32
    same(array, again)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53))
def test_numbers_are_arrays_without_dimensions(number):
    again = there_and_back(number, None)
    assert again.shape == ()
    assert again == number


@given(arrays.arrays(np.int64, SHAPES, elements=st.integers(-(2**53), 2**53)))
def test_whole_numbers_become_floats(array):
    again = there_and_back(array.tolist() if array.size else array, "float64")
    assert again.dtype == np.float64
    assert (again == array).all()


def test_what_cannot_be_told_from_nested_lists_is_restored():
    assert there_and_back(np.zeros((0, 3)), "float64").shape == (0, 3)
    assert from_json([1.0, 2.0], "float64", (3,)).shape == (2,)  # not at any price


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ([3, 6], float), ((3.0, 6.0), float), (range(2), float), (np.float32(1.5), float), (np.longdouble(0.5), float),
        (memoryview(b"ab"), float), (np.arange(4.0).reshape(2, 2).T, float), (np.arange(9.0)[::-2], float),
    ],
)  # fmt: skip
def test_many_things_are_arrays(value, kind):
    array = check(value, "/params")
    assert array.dtype.kind == "f"
    assert (array == np.asarray(value)).all()


class Foreign:
    """An array of another library."""

    def __array__(self, dtype=None, copy=None):
        return np.array([1.0, 2.0], dtype)


class Guarded:
    """An array of another library that does not give its values away, as torch's with a gradient."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("Use detach() first.")


def test_arrays_of_other_libraries():
    assert check({"w": Foreign()}, "/gradients")["w"].tolist() == [1.0, 2.0]
    with pytest.raises(thalweg.InvalidInput, match=r"Use detach\(\) first\."):
        check({"w": Guarded()}, "/gradients")


@pytest.mark.parametrize(
    "value",
    [
        None, "text", b"text", ["1.0"], [1.0, None], [[1.0], [1.0, 2.0]], [True, False], 1j, object(),
        {"a": {"b": [1.0]}}, {"a": "text"}, {1: [1.0]}, {"w": [Fraction(1, 2)]}, np.array(["a"]),
        np.zeros(2, dtype="i4,f4"),
        np.array("2026-01-01", dtype="M8[D]"), [10**400], {"a": [1.0, None]},
    ],
)  # fmt: skip
def test_what_is_no_array(value):
    with pytest.raises(thalweg.InvalidInput) as caught:
        check(value, "/gradients", non_finite=True)
    assert isinstance(caught.value, ValueError)
    assert caught.value.errors[0].pointer.startswith("/gradients")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("tensors", "pointer"),
    [
        (lambda bad: bad, "/gradients"),
        (lambda bad: [1.0, bad, bad], "/gradients/1"),
        (lambda bad: {"v": [1.0], "w/x~y": [[1.0, 2.0], [bad, 3.0]]}, "/gradients/w~1x~0y/1/0"),
        (lambda bad: {"b": bad}, "/gradients/b"),
        (lambda bad: np.array([0, bad], np.float32), "/gradients/1"),
    ],
)
def test_the_first_number_that_is_not_finite_is_pointed_at(bad, tensors, pointer):
    with pytest.raises(thalweg.InvalidInput, match="Finite numbers") as caught:
        check(tensors(bad), "/gradients")
    assert caught.value.errors[0].pointer == pointer
    assert f"at {pointer}" in str(caught.value)


def test_a_long_double_past_the_range_is_refused_without_a_warning():
    huge = np.array([np.finfo(np.longdouble).max])
    if math.isfinite(float(huge[0])):
        pytest.skip("long double is double on this platform")
    with pytest.raises(thalweg.InvalidInput):
        check(huge, "/params")


def test_null_stands_for_what_is_not_finite():
    sent = check({"w": [[1.0, math.nan], [math.inf, 2.0]], "b": None}, "/gradients", non_finite=True)
    assert to_json(sent) == {"w": [[1.0, None], [None, 2.0]], "b": None}
    with pytest.raises(thalweg.InvalidInput, match="null would mean no gradient"):
        check({"b": math.nan}, "/gradients", non_finite=True)


@given(arrays.arrays(np.float64, SHAPES))
def test_null_keeps_the_shape(array):
    if array.ndim == 0:
        return
    back = np.array(to_json(check(array, "/gradients", non_finite=True)), dtype=np.float64).reshape(array.shape)
    finite = np.isfinite(array)
    assert (np.isfinite(back) == finite).all()
    assert (back[finite] == array[finite]).all()


def test_null_in_an_answer_is_left_out():
    assert set(from_json({"w": [1.0], "b": None})) == {"w"}


def test_an_answer_past_the_range_makes_no_warning():
    assert from_json([1e300], "float32").tolist() == [math.inf]
