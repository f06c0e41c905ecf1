"""Raw bytes: the numbers in layout order and nothing else; the other fields beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from service.errors import Invalid, NonFinite
from service.optim.tensors import DTYPES, Layout
from service.wire.forms import BYTES, JSON, SAFETENSORS, encode, view
from service.wire.raw import flatten, headers, lay_out, query


def nans(*bits: int) -> bytes:
    return np.array(bits, "<u8").tobytes()


def layout(dtype: str = "float64", **shapes: tuple[int, ...]) -> Layout:
    return Layout(tuple(shapes), tuple(shapes.values()), DTYPES[dtype])


@given(st.sampled_from(["float64", "float32"]), st.integers(0, 3), st.data())
def test_bytes_are_viewed_where_they_are_and_come_back_the_same(dtype: str, rows: int, data: st.DataObject) -> None:
    made = layout(dtype, a=(rows, 2), b=(1,))
    body = data.draw(st.binary(min_size=made.size * made.dtype.itemsize, max_size=made.size * made.dtype.itemsize))
    flat = flatten(body, made, "/gradients")
    numbers = np.frombuffer(body, made.dtype)
    assert flat.absent == ()
    if np.isnan(numbers).any():
        np.testing.assert_array_equal(flat.values, numbers)
    else:
        assert np.shares_memory(flat.values, numbers)
        assert bytes(view(flat.values)) == body


def test_every_nan_is_the_same_nan() -> None:
    body = nans(0x7FF8000000000000, 0x7FF0000000000001, 0xFFF8000000000123, 0x7FF0000000000000)
    flat = flatten(body, layout(a=(4,)), "/gradients").values
    assert bytes(view(flat)) == np.array([np.nan, np.nan, np.nan, np.inf]).tobytes()


@pytest.mark.parametrize("size", [0, 1, 15, 17, 24])
def test_another_number_of_bytes_is_refused(size: int) -> None:
    with pytest.raises(Invalid, match=rf"Expected 16 bytes, which are 2 of float64; found {size}") as caught:
        flatten(bytes(size), layout(a=(2,)), "/gradients")
    assert [place.pointer for place in caught.value.places] == ["/gradients"]


@pytest.mark.parametrize(
    ("shapes", "names", "found", "named"),
    [
        (None, ("",), ((4,),), False),
        ([4], ("",), ((4,),), False),
        ([2, 2], ("",), ((2, 2),), False),
        ({"b": [2], "a": [1, 2]}, ("b", "a"), ((2,), (1, 2)), True),
        ({"b": [3], "a": [], "c": [0, 5]}, ("b", "a", "c"), ((3,), (), (0, 5)), True),
    ],
)
def test_a_layout_is_made_of_shapes(shapes: Any, names: Any, found: Any, named: bool) -> None:
    body = np.arange(4, dtype="<f4").tobytes()
    made, values = lay_out(body, shapes, "float32")
    assert (made.names, made.shapes, made.named) == (names, found, named)
    assert values.tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("size", "shapes", "pointer"),
    [
        (12, None, "/params"),
        (0, None, "/params"),
        (0, [0], "/params"),
        (0, {}, "/params"),
        (16, [3], "/params"),
        (16, {"a": [1]}, "/params"),
        (16, "2", "/shapes"),
        (16, 2, "/shapes"),
        (16, [-1], "/shapes"),
        (16, [2.0], "/shapes"),
        (16, [True, 2], "/shapes"),
        (16, [1 << 70], "/shapes"),
        (16, [1] * 17, "/shapes"),
        (16, {"a": 2}, "/shapes/a"),
        (16, {"": [2]}, "/shapes/"),
        (16, {"a/b": [-2]}, "/shapes/a~1b"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(size: int, shapes: Any, pointer: str) -> None:
    with pytest.raises(Invalid) as caught:
        lay_out(bytes(size), shapes, "float64")
    assert [place.pointer for place in caught.value.places] == [pointer]


def test_parameters_must_be_finite() -> None:
    with pytest.raises(NonFinite) as caught:
        lay_out(np.array([1.0, np.nan, 2.0, -np.inf]).tobytes(), [2, 2], "float64")
    assert [place.pointer for place in caught.value.places] == ["/params/0/1", "/params/1/1"]


def test_a_query_string_holds_texts_and_json() -> None:
    text = b"return=updates&step=3&loss=-0.5&labels=%7B%22a%22%3A%22%C3%A9%22%7D&id=007"
    assert query(text, {"return", "id"}) == {
        "return": "updates",
        "step": 3,
        "loss": -0.5,
        "labels": {"a": "é"},
        "id": "007",
    }


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        (b"step=x", "/step"),
        (b"step=", "/step"),
        (b"step=1&step=1", "/step"),
        (b"loss=NaN", "/loss"),
        (b"a/b=", "/a~1b"),
    ],
)
def test_a_query_string_is_refused_at_the_place(text: bytes, pointer: str) -> None:
    with pytest.raises(Invalid) as caught:
        query(text, {"return"})
    assert caught.value.places[0].pointer == pointer


def test_what_is_no_object_and_no_list_becomes_a_header() -> None:
    fields = {"step": 3, "durable_step": 2, "replayed": False, "id": "a", "rate": 0.1, "labels": {}, "shapes": [2]}
    assert headers(fields) == [
        (b"thalweg-step", b"3"),
        (b"thalweg-durable-step", b"2"),
        (b"thalweg-replayed", b"false"),
        (b"thalweg-id", b"a"),
        (b"thalweg-rate", b"0.1"),
    ]


@given(arrays.arrays(np.dtype("<f8"), 6))
def test_an_answer_sends_the_array_from_where_it_lies(flat: np.ndarray) -> None:
    made = layout(a=(2, 2), b=(2,))
    for form, count in ((SAFETENSORS, 2), (BYTES, 1)):
        answer = encode(form, {"step": 1, "params": flat}, made)
        assert len(answer.chunks) == count
        assert np.shares_memory(np.frombuffer(answer.chunks[-1], np.uint8), flat)
        assert dict(answer.headers)[b"content-length"] == str(len(answer.body)).encode()
    assert encode(BYTES, {"step": 1}, made).chunks == [b""]
    assert encode(JSON, {"step": 1}, made).body == b'{"step":1}'
