"""Trees of numbers: layouts, flattening, shaping again, and what is refused and where."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Invalid, NonFinite
from service.optim.tensors import Layout
from service.wire.json import dumps, loads
from service.wire.trees import MAX_DIMENSIONS, MAX_NAME, check_finite, flatten, lay_out, place_of, tree


def nest(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


SHAPES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "number": (1.5, ()),
    "whole number": (3, ()),
    "vector": ([1.0, 2.0, 3.0], (3,)),
    "one element": ([1.0], (1,)),
    "matrix": ([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], (3, 2)),
    "row": ([[1.0, 2.0]], (1, 2)),
    "column": ([[1.0], [2.0]], (2, 1)),
    "three dimensions": ([[[1.0], [2.0]], [[3.0], [4.0]]], (2, 2, 1)),
    "as many as there may be": (nest(1.0, MAX_DIMENSIONS), (1,) * MAX_DIMENSIONS),
    "mixed": ([1, 2.5, -3], (3,)),
}
REFUSED: dict[str, tuple[Any, str]] = {
    "null": (None, ""),
    "null inside": ([1.0, None], "/1"),
    "null below": ([[1.0, 2.0], [3.0, None]], "/1/1"),
    "true": (True, ""),
    "false inside": ([0.0, False], "/1"),
    "text": ("1.5", ""),
    "text inside": ([[1.0, 2.0], [3.0, "4"]], "/1/1"),
    "an object inside": ([1.0, {}], "/1"),
    "an object below a name": ({"w": {"x": 1.0}}, "/w"),
    "ragged": ([[1.0, 2.0], [3.0]], "/1"),
    "ragged below": ([[[1.0], [2.0]], [[3.0], [4.0, 5.0]]], "/1/1"),
    "a number among arrays": ([[1.0], 2.0], "/1"),
    "an array among numbers": ([1.0, [2.0]], "/1"),
    "an empty array": ([], ""),
    "empty arrays": ([[], []], ""),
    "nothing": ({}, ""),
    "only empty arrays": ({"a": [], "b": [[]]}, ""),
    "null by name": ({"a": 1.0, "b": None}, "/b"),
    "ragged by name": ({"a": 1.0, "b": [[1.0], [2.0, 3.0]]}, "/b/1"),
    "no name": ({"": 1.0}, "/"),
    "too many dimensions": (nest(1.0, MAX_DIMENSIONS + 1), ""),
    "far too many dimensions": (nest(1.0, 900), ""),
    "not a number": ([math.nan, 1.0], "/0"),
    "infinite": ({"a/b": [1.0, -math.inf]}, "/a~1b/1"),
    "past all doubles": ([1.0, 10**400], "/1"),
    "past all doubles, negative": (-(10**400), ""),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_shapes(name: str, dtype: str) -> None:
    value, shape = SHAPES[name]
    layout, flat = lay_out(value, dtype)
    assert layout == Layout(("",), (shape,), np.dtype(dtype), named=False)
    assert flat.dtype == dtype
    assert flat.shape == (math.prod(shape),)
    assert orjson.loads(dumps(tree(flat, layout))) == value
    named, flat = lay_out({"w": value, "b": 0.5}, dtype)
    assert named == Layout(("w", "b"), (shape, ()), np.dtype(dtype), named=True)
    assert orjson.loads(dumps(tree(flat, named))) == {"w": value, "b": 0.5}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_refused_params(name: str, dtype: str) -> None:
    value, pointer = REFUSED[name]
    with pytest.raises(Invalid) as caught:
        lay_out(value, dtype)
    assert caught.value.places[0].pointer == f"/params{pointer}"
    assert caught.value.detail.endswith(".")


def test_an_empty_array_may_stand_beside_others() -> None:
    layout, flat = lay_out({"w": [[], []], "b": [1.0]}, "float32")
    assert layout.shapes == ((2, 0), (1,))
    assert orjson.loads(dumps(tree(flat, layout))) == {"w": [[], []], "b": [1.0]}


def test_the_dtype_is_one_of_two() -> None:
    with pytest.raises(Invalid, match="float64, float32") as caught:
        lay_out([1.0], "float16")
    assert caught.value.places[0].pointer == "/dtype"


def test_names_keep_their_order() -> None:
    layout, flat = lay_out({"z": 1.0, "a": [2.0, 3.0], "m": 4.0}, "float64")
    assert layout.names == ("z", "a", "m")
    assert flat.tolist() == [1.0, 2.0, 3.0, 4.0]
    shuffled = flatten({"m": 4.0, "z": 1.0, "a": [2.0, 3.0]}, layout, "/gradients")
    assert shuffled.values.tolist() == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("length", [1, MAX_NAME])
def test_names_that_are_long_enough(length: int) -> None:
    assert lay_out({"n" * length: 1.0}, "float64")[0].names == ("n" * length,)


def test_a_name_that_is_too_long_is_not_echoed() -> None:
    with pytest.raises(Invalid) as caught:
        lay_out({"n" * 1_000_000: 1.0}, "float64")
    assert len(caught.value.places[0].pointer) <= MAX_NAME


class TestGradients:
    @pytest.fixture
    def layout(self) -> Layout:
        return lay_out({"a/b": [1.0, 2.0], "~c": [[3.0], [4.0]], "d": 5.0}, "float64")[0]

    @pytest.mark.parametrize("left_out", [{}, {"~c": None}])
    def test_absent_is_null_or_not_named(self, layout: Layout, left_out: Any) -> None:
        flat = flatten({"d": 5.0, "a/b": [1.0, 2.0], **left_out}, layout, "/gradients")
        assert flat.absent == (1,)
        assert flat.values.tolist() == [1.0, 2.0, 0.0, 0.0, 5.0]

    def test_all_may_be_absent(self, layout: Layout) -> None:
        assert flatten({}, layout, "/gradients").absent == (0, 1, 2)

    def test_zero_is_not_null(self, layout: Layout) -> None:
        flat = flatten({"a/b": [0, 0], "~c": [[0], [0]], "d": 0}, layout, "/gradients")
        assert flat.absent == ()
        assert not flat.values.any()

    def test_null_inside_an_array_is_not_finite(self, layout: Layout) -> None:
        flat = flatten({"a/b": [None, 2.0]}, layout, "/gradients")
        assert math.isnan(flat.values[0])
        with pytest.raises(NonFinite) as caught:
            check_finite(flat.values, layout, "/gradients")
        assert caught.value.places[0].pointer == "/gradients/a~1b/0"

    @pytest.mark.parametrize(
        ("gradients", "pointer"),
        [
            ({"e": 1.0}, "/gradients/e"),
            ({"a/b": [1.0]}, "/gradients/a~1b"),
            ({"a/b": [1.0, "2"]}, "/gradients/a~1b/1"),
            ({"~c": [3.0, 4.0]}, "/gradients/~0c/0"),
            ({"~c": [[3.0], [4.0, 5.0]]}, "/gradients/~0c/1"),
            ({"~c": [[3.0], [True]]}, "/gradients/~0c/1/0"),
            ({"d": [5.0]}, "/gradients/d"),
            ({"d": "5"}, "/gradients/d"),
            ({"a~1b": [1.0, 2.0]}, "/gradients/a~01b"),
            ([1.0, 2.0, 3.0, 4.0, 5.0], "/gradients"),
            (1.0, "/gradients"),
            (None, "/gradients"),
            ("d", "/gradients"),
        ],
    )
    def test_the_first_bad_place_is_pointed_at(self, layout: Layout, gradients: Any, pointer: str) -> None:
        with pytest.raises(Invalid) as caught:
            flatten(gradients, layout, "/gradients")
        assert [place.pointer for place in caught.value.places] == [pointer]

    @pytest.mark.parametrize("gradients", [[1.0], [1.0, 2.0, 3.0], [[1.0, 2.0]], 1.0, {"": [1.0, 2.0]}, {}, "no", None])
    def test_of_one_array_have_its_shape(self, gradients: Any) -> None:
        layout, _ = lay_out([1.0, 2.0], "float64")
        with pytest.raises(Invalid):
            flatten(gradients, layout, "/gradients")

    def test_of_a_number_are_a_number(self) -> None:
        layout, _ = lay_out(1.0, "float64")
        assert flatten(2, layout, "/gradients").values.tolist() == [2.0]
        for wrong in ([2.0], [], {}, "2", True):
            with pytest.raises(Invalid):
                flatten(wrong, layout, "/gradients")

    def test_a_stray_name_is_not_echoed_in_bulk(self, layout: Layout) -> None:
        with pytest.raises(Invalid) as caught:
            flatten({"x" * 1_000_000: 1.0}, layout, "/gradients")
        assert len(str(caught.value.problem("r"))) < 2000

    def test_at_most_ten_places_are_listed(self) -> None:
        layout, _ = lay_out([0.0] * 1000, "float64")
        with pytest.raises(NonFinite) as caught:
            check_finite(np.full(1000, np.nan), layout, "/gradients")
        assert [place.pointer for place in caught.value.places] == [f"/gradients/{i}" for i in range(10)]


class TestNumbers:
    @pytest.mark.parametrize("number", [3.5e38, -3.5e38, 1e300, 10**39])
    def test_past_float32_are_refused_there(self, number: float) -> None:
        with pytest.raises(NonFinite, match="float32") as caught:
            lay_out({"w": [1.0, number]}, "float32")
        assert caught.value.places[0].pointer == "/params/w/1"
        assert lay_out({"w": [1.0, number]}, "float64")[1].tolist() == [1.0, float(number)]

    @pytest.mark.parametrize("number", [2**53, 2**53 + 1, 2**63, 2**64, 2**64 - 1, 10**20, -(10**20), 10**308])
    def test_whole_ones_become_the_nearest_double(self, number: int) -> None:
        assert lay_out([number], "float64")[1][0] == float(number)

    @pytest.mark.parametrize("number", [5e-324, 2.2250738585072014e-308, -0.0, 1.7976931348623157e308, 0.1, 1 / 3])
    def test_doubles_go_through_bit_for_bit(self, number: float) -> None:
        for size in (1, 1000):  # small arrays are written as lists, large ones as arrays
            layout, flat = lay_out([number] * size, "float64")
            back = loads(dumps(tree(flat, layout)))
            assert np.array(back).tobytes() == np.full(size, number).tobytes()

    def test_singles_go_through_bit_for_bit(self) -> None:
        values = np.random.default_rng(1).standard_normal(1000).astype(np.float32)
        layout, flat = lay_out(values.tolist(), "float32")
        assert flat.tobytes() == values.tobytes()
        back = flatten(loads(dumps(tree(flat, layout))), layout, "/params")
        assert back.values.tobytes() == values.tobytes()
        layout, flat = lay_out(float(values[0]), "float32")
        assert flatten(loads(dumps(tree(flat, layout))), layout, "").values.tobytes() == values[:1].tobytes()


numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)
shapes = st.lists(st.integers(1, 4), max_size=4)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@st.composite
def arrays(draw: st.DrawFn) -> Any:
    """A nested list of one shape."""

    def build(shape: list[int]) -> Any:
        return [build(shape[1:]) for _ in range(shape[0])] if shape else draw(numbers)

    return build(draw(shapes))


trees = arrays() | st.dictionaries(names, arrays(), min_size=1, max_size=4)


@given(trees)
def test_a_tree_comes_back_as_it_was(value: Any) -> None:
    layout, params = lay_out(value, "float64")
    flat = flatten(value, layout, "/params")
    assert flat.values.tobytes() == params.tobytes()
    assert flat.absent == ()
    text = dumps(tree(flat.values, layout))
    assert loads(text) == value
    assert flatten(loads(text), layout, "").values.tobytes() == params.tobytes()


@given(trees, st.data())
def test_every_element_has_a_pointer_of_its_own(value: Any, data: st.DataObject) -> None:
    layout, flat = lay_out(value, "float64")
    index = data.draw(st.integers(0, flat.size - 1))
    place = place_of(index, layout, "")
    found: Any = value
    for key in place.split("/")[1:]:
        found = found[int(key) if isinstance(found, list) else key.replace("~1", "/").replace("~0", "~")]
    assert found == flat[index]
    assert len({place_of(i, layout, "") for i in range(flat.size)}) == flat.size


@given(trees, st.data())
def test_one_wrong_leaf_is_found(value: Any, data: st.DataObject) -> None:
    """Whatever stands at a leaf that is no number, the error points at it."""
    layout, flat = lay_out(value, "float64")
    pointer = place_of(data.draw(st.integers(0, flat.size - 1)), layout, "")
    wrong = data.draw(st.sampled_from(["1", True, {}, [1.0]]))
    keys = [key.replace("~1", "/").replace("~0", "~") for key in pointer.split("/")[1:]]
    holder = spoiled = {"": orjson.loads(dumps(value))}
    for key, following in zip(["", *keys], keys, strict=False):
        holder, last = holder[int(key) if isinstance(holder, list) else key], following
    if keys:
        holder[int(last) if isinstance(holder, list) else last] = wrong
    else:
        spoiled[""] = wrong
    with pytest.raises(Invalid) as caught:
        flatten(spoiled[""], layout, "")
    assert caught.value.places[0].pointer == pointer
