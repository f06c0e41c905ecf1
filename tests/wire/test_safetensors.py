"""The safetensors form against the library of that name: each reads what the other writes, and both refuse alike."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from service.errors import Invalid, NonFinite, NotAcceptable
from service.optim.tensors import DTYPES, Layout
from service.wire.forms import view
from service.wire.safetensors import MAX_HEADER_BYTES, fields, flatten, header, lay_out, parse

STORED = {"F64": np.float64, "F32": np.float32, "F16": np.float16}
Entry = dict[str, Any]

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(lambda n: n != "__metadata__")
shapes = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


def named(values: Callable[[Any], Any]) -> st.SearchStrategy[dict[str, np.ndarray]]:
    """Some tensors by name, each of a dtype of its own."""
    tensor = st.sampled_from([np.float64, np.float32, np.float16]).flatmap(values)
    return st.dictionaries(names, tensor, min_size=1, max_size=4)


def finite(dtype: Any) -> st.SearchStrategy[np.ndarray]:
    kinds = {"allow_nan": False, "allow_infinity": False}
    return arrays.arrays(dtype, shapes, elements=arrays.from_dtype(np.dtype(dtype), **kinds))


def pack(entries: Any, data: bytes = b"") -> bytes:
    """A file with this header, whatever it says."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(start: int, stop: int, shape: Any = None, dtype: Any = "F64") -> Entry:
    return {"dtype": dtype, "shape": [(stop - start) // 8] if shape is None else shape, "data_offsets": [start, stop]}


def layout(dtype: str = "float64", **shapes: tuple[int, ...]) -> Layout:
    return Layout(tuple(shapes), tuple(shapes.values()), DTYPES[dtype])


@given(named(finite), st.sampled_from(["float64", "float32"]), st.randoms())
def test_what_the_library_writes_is_read_bit_for_bit(given: dict[str, np.ndarray], dtype: str, random: Any) -> None:
    order = sorted(given, key=lambda _: random.random())
    wanted = Layout(tuple(order), tuple(given[name].shape for name in order), DTYPES[dtype])
    flat = flatten(parse(safetensors.numpy.save(given), "/gradients"), wanted, "/gradients")
    assert flat.absent == ()
    for name, tensor in wanted.split(flat.values).items():
        with np.errstate(over="ignore"):
            assert tensor.tobytes() == given[name].astype(DTYPES[dtype]).tobytes()


@given(named(finite))
def test_a_layout_made_of_the_librarys_file_holds_its_tensors(given: dict[str, np.ndarray]) -> None:
    file = parse(safetensors.numpy.save(given), "/params")
    if not sum(tensor.size for tensor in given.values()):
        with pytest.raises(Invalid, match="at least one number"):
            lay_out(file, None)
        return
    made, flat = lay_out(file, None)
    assert made.dtype == (np.float64 if any(t.dtype == np.float64 for t in given.values()) else np.float32)
    if made.named:
        assert set(made.names) == set(given)
        for name, tensor in made.split(flat).items():
            np.testing.assert_array_equal(tensor, given[name], strict=False)
    else:
        assert set(given) == {"params"}


@given(
    st.dictionaries(names, shapes, min_size=1, max_size=5),
    st.sampled_from(["float64", "float32"]),
    st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers(-9, 9) | st.text(), max_size=3),
    st.data(),
)
def test_the_library_reads_what_is_written(
    given: dict[str, tuple[int, ...]], dtype: str, metadata: dict[str, Any], data: st.DataObject
) -> None:
    made = Layout(tuple(given), tuple(given.values()), DTYPES[dtype])
    flat = data.draw(arrays.arrays(made.dtype, made.size))
    body = header(metadata, made) + bytes(view(flat))
    read = safetensors.numpy.load(body)
    assert set(read) == set(given)
    for name, tensor in made.split(flat).items():
        assert read[name].dtype == made.dtype
        assert read[name].shape == tensor.shape
        assert read[name].tobytes() == tensor.tobytes()
    again = parse(body, "/gradients")
    np.testing.assert_array_equal(flatten(again, made, "/gradients").values, flat)
    assert fields(again) == {key: value for key, value in metadata.items() if key != "format"}


@given(st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=20))
def test_bfloat16_is_the_upper_half_of_a_float32(halves: list[int]) -> None:
    stored = np.array(halves, "<u2")
    body = pack({"w": entry(0, stored.nbytes, stored.shape, "BF16")}, stored.tobytes())
    assert dict(safetensors.deserialize(body))["w"]["dtype"] == "BF16"
    for dtype in ("float32", "float64"):
        flat = flatten(parse(body, "/gradients"), layout(dtype, w=(len(halves),)), "/gradients").values
        assert flat.dtype == DTYPES[dtype]
        exact = [struct.unpack("<f", struct.pack("<HH", 0, half))[0] for half in halves]
        np.testing.assert_array_equal(flat, np.array(exact, np.float64))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_tensors_that_lie_in_order_are_viewed_where_they_are(dtype: str) -> None:
    made = layout(dtype, a=(2, 3), b=(), c=(4,))
    body = header({"step": 1}, made) + np.arange(11, dtype=DTYPES[dtype]).tobytes()
    flat = flatten(parse(body, "/gradients"), made, "/gradients").values
    assert np.shares_memory(flat, np.frombuffer(body, np.uint8))
    assert flat.flags.aligned


def test_numbers_at_an_odd_byte_are_read_all_the_same() -> None:
    body = pack(json.dumps({"w": entry(0, 16)}).encode() + b" ", np.array([1.0, 2.0]).tobytes())
    start = 8 + struct.unpack_from("<Q", body)[0]
    shifted = bytes(8 - start % 8 + 1) + body
    flat = flatten(parse(memoryview(shifted)[8 - start % 8 + 1 :], "/gradients"), layout(w=(2,)), "/gradients").values
    assert flat.tolist() == [1.0, 2.0]
    assert flat.flags.aligned


def test_a_name_that_is_left_out_is_absent_and_not_zero() -> None:
    body = safetensors.numpy.save({"b": np.array([5.0])})
    flat = flatten(parse(body, "/gradients"), layout(a=(2,), b=(1,)), "/gradients")
    assert flat.absent == (0,)
    assert flat.values.tolist() == [0.0, 0.0, 5.0]


def test_an_array_without_a_name_is_called_what_the_field_is_called() -> None:
    file = parse(safetensors.numpy.save({"params": np.array([[1.0, 2.0]])}), "/params")
    made, values = lay_out(file, None)
    assert (made.named, made.shapes, values.tolist()) == (False, ((1, 2),), [1.0, 2.0])
    body = header({}, made, "updates") + bytes(view(values))
    assert safetensors.numpy.load(body)["updates"].tolist() == [[1.0, 2.0]]
    for wrong in ({"params": values}, {"gradients": values, "b": values}, {}):
        with pytest.raises(Invalid, match="one tensor, called 'gradients'"):
            flatten(parse(safetensors.numpy.save(wrong), "/gradients"), made, "/gradients")


def test_the_order_of_a_new_layout_is_that_of_the_bytes() -> None:
    body = pack({"z": entry(16, 24), "a": entry(0, 16)}, np.array([1.0, 2.0, 3.0]).tobytes())
    made, values = lay_out(parse(body, "/params"), None)
    assert (made.names, made.shapes, values.tolist()) == (("a", "z"), ((2,), (1,)), [1.0, 2.0, 3.0])


EIGHT = bytes(8)
BAD: dict[str, tuple[bytes, str, str]] = {
    "nothing": (b"", "", "at least 8 bytes"),
    "seven bytes": (b"1234567", "", "at least 8 bytes"),
    "a header of 100 MB": (struct.pack("<Q", 100_000_000) + b"{", "", "at most 1048576"),
    "a header of 2^64 - 1 bytes": (b"\xff" * 8 + b"{}", "", "at most 1048576"),
    "a header past the end": (struct.pack("<Q", 100) + b"{}", "", "ends after 2"),
    "no JSON": (pack(b"{nonsense}"), "", "not valid JSON"),
    "no UTF-8": (pack(b'{"\xff": 1}'), "", "not valid JSON"),
    "a list": (pack(b"[]"), "", "starts with {"),
    "an empty header": (pack(b""), "", "starts with {"),
    "white space first": (pack(b" {}"), "", "starts with {"),
    "deep": (pack(b'{"a":' + b"[" * 100_000), "", "not valid JSON"),
    "many digits": (pack(b'{"a":' + b"9" * 5_000 + b"}"), "", "not valid JSON"),
    "NaN in a shape": (pack(b'{"a": {"dtype":"F64","shape":[NaN],"data_offsets":[0,8]}}', EIGHT), "/g/a", "shape"),
    "a name twice": (
        pack(b'{"a":%b,"a":%b}' % ((json.dumps(entry(0, 8)).encode(),) * 2), EIGHT),
        "",
        "has 'a' twice",
    ),
    "a key twice": (pack(b'{"a": {"dtype":"F64","dtype":"F32","shape":[1],"data_offsets":[0,8]}}', EIGHT), "", "twice"),
    "metadata twice": (pack(b'{"__metadata__":{"step":"1","step":"2"}}'), "", "'step' twice"),
    "metadata of numbers": (pack({"__metadata__": {"step": 1}}), "/__metadata__", "texts"),
    "metadata as a list": (pack({"__metadata__": []}), "/__metadata__", "texts"),
    "an entry that is no object": (pack({"a": 1}), "/g/a", "dtype, shape and data_offsets"),
    "an entry without a shape": (pack({"a": {"dtype": "F64", "data_offsets": [0, 8]}}, EIGHT), "/g/a", "shape"),
    "whole numbers": (pack({"a": entry(0, 8, [1], "I64")}, EIGHT), "/g/a", "F64, F32, F16, BF16"),
    "a dtype that is a list": (pack({"a": entry(0, 8, [1], [])}, EIGHT), "/g/a", "F64, F32, F16, BF16"),
    "a negative length": (pack({"a": entry(0, 8, [-1])}, EIGHT), "/g/a", "none below 0"),
    "a length of 1.0": (pack({"a": entry(0, 8, [1.0])}, EIGHT), "/g/a", "whole numbers"),
    "a length of true": (pack({"a": entry(0, 8, [True])}, EIGHT), "/g/a", "whole numbers"),
    "17 dimensions": (pack({"a": entry(0, 8, [1] * 17)}, EIGHT), "/g/a", "at most 16"),
    "three offsets": (pack({"a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8, 8]}}, EIGHT), "/g/a", "two"),
    "offsets of texts": (pack({"a": {"dtype": "F64", "shape": [1], "data_offsets": ["0", "8"]}}, EIGHT), "/g/a", "two"),
    "offsets backwards": (pack({"a": {"dtype": "F64", "shape": [1], "data_offsets": [8, 0]}}, EIGHT), "/g/a", "make 8"),
    "bytes that do not fit the shape": (pack({"a": entry(0, 8, [2])}, EIGHT), "/g/a", "make 16 bytes, data_offsets 8"),
    "a shape past 2^64": (pack({"a": entry(0, 8, [1 << 62, 1 << 62])}, EIGHT), "/g/a", "more than 2\\^64"),
    "an overlap": (pack({"a": entry(0, 16), "b": entry(8, 24)}, bytes(24)), "/g/b", "overlap those of 'a'"),
    "the same bytes twice": (pack({"a": entry(0, 8), "b": entry(0, 8)}, EIGHT), "/g/b", "overlap"),
    "a hole": (pack({"a": entry(0, 8), "b": entry(16, 24)}, bytes(24)), "/g/b", "hole of 8 bytes"),
    "a hole at the start": (pack({"a": entry(8, 16)}, bytes(16)), "/g/a", "hole of 8 bytes"),
    "past the end": (pack({"a": entry(0, 16)}, EIGHT), "/g/a", "ends at byte 16, and the body has 8"),
    "bytes that follow": (pack({"a": entry(0, 8)}, bytes(9)), "/g", "1 bytes follow"),
    "bytes of nobody": (pack({}, EIGHT), "/g", "8 bytes follow"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_file_that_breaks_the_format_is_refused_at_the_place(bad: str) -> None:
    body, pointer, sentence = BAD[bad]
    with pytest.raises(Invalid, match=sentence) as caught:
        parse(body, "/g")
    assert [place.pointer for place in caught.value.places] == [pointer]
    assert len(caught.value.detail) < 400


STRICTER = {"17 dimensions", "a key twice", "a name twice", "metadata twice", "whole numbers", "white space first"}


@pytest.mark.parametrize("bad", [bad for bad in BAD if bad not in STRICTER])
def test_the_library_refuses_these_files_too(bad: str) -> None:
    with pytest.raises(safetensors.SafetensorError):
        safetensors.deserialize(BAD[bad][0])


VALID = header({"step": 3, "return": "updates"}, layout(a=(2,), b=(1, 2))) + np.arange(4.0).tobytes()


@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=4), st.integers(0, len(VALID)))
def test_damage_is_refused_or_the_library_reads_it_too(changes: list[tuple[int, int]], length: int) -> None:
    body = bytearray(VALID)
    for place, value in changes:
        body[place] = value
    for damaged in (bytes(body), bytes(body[:length])):
        try:
            file = parse(damaged, "/gradients")
        except Invalid:
            continue
        read = dict(safetensors.deserialize(damaged))
        assert {name: (t.kind, list(t.shape)) for name, t in file.tensors.items()} == {
            name: (t["dtype"], t["shape"]) for name, t in read.items()
        }


@pytest.mark.parametrize(
    ("given", "pointer", "sentence"),
    [
        ({"c": [1.0]}, "/gradients/c", "There is no parameter 'c'; the names are a, b"),
        ({"A": [1.0, 2.0]}, "/gradients/A", "no parameter"),
        ({"a": [1.0]}, "/gradients/a", r"Expected shape \[2\], found \[1\]"),
        ({"a": [[1.0, 2.0]]}, "/gradients/a", r"found \[1, 2\]"),
        ({"a": [1.0, 2.0], "b": 3.0}, "/gradients/b", r"Expected shape \[1\], found \[\]"),
    ],
)
def test_names_and_shapes_are_those_of_the_layout(given: dict[str, Any], pointer: str, sentence: str) -> None:
    body = safetensors.numpy.save({name: np.array(values) for name, values in given.items()})
    with pytest.raises(Invalid, match=sentence) as caught:
        flatten(parse(body, "/gradients"), layout(a=(2,), b=(1,)), "/gradients")
    assert [place.pointer for place in caught.value.places] == [pointer]


def test_what_float32_cannot_hold_becomes_infinite_and_is_pointed_at() -> None:
    file = parse(safetensors.numpy.save({"w": np.array([1.0, 1e300])}), "/params")
    assert np.isinf(flatten(file, layout("float32", w=(2,)), "/gradients").values[1])
    with pytest.raises(NonFinite) as caught:
        lay_out(file, "float32")
    assert [place.pointer for place in caught.value.places] == ["/params/w/1"]


@pytest.mark.parametrize("name", ["", "x" * 257, "\ud800"])
def test_a_parameter_needs_a_decent_name(name: str) -> None:
    file = parse(pack({name: entry(0, 8)}, EIGHT), "/params")
    with pytest.raises(Invalid, match="name"):
        lay_out(file, None)


@pytest.mark.parametrize(
    ("metadata", "pointer", "sentence"),
    [
        ({"return": "updates"}, "/return", "quotation marks"),
        ({"step": ""}, "/step", "JSON"),
        ({"loss": "NaN"}, "/loss", "NaN"),
        ({"a/b": "{"}, "/a~1b", "JSON"),
        ({"x": "\ud800"}, "/x", "JSON"),
    ],
)
def test_a_field_in_the_metadata_is_json(metadata: dict[str, str], pointer: str, sentence: str) -> None:
    file = parse(pack({"__metadata__": metadata}), "/gradients")
    with pytest.raises(Invalid, match=sentence) as caught:
        fields(file)
    assert caught.value.places[0].pointer == pointer


def test_what_libraries_write_for_themselves_is_no_field() -> None:
    assert fields(parse(pack({"__metadata__": {"format": "pt", "step": "3"}}), "/gradients")) == {"step": 3}


def test_a_header_of_the_largest_size_is_read() -> None:
    text = json.dumps({"a": entry(0, 8)}).encode()
    text += b" " * (MAX_HEADER_BYTES - len(text))
    assert set(parse(pack(text, EIGHT), "/g").tensors) == {"a"}
    with pytest.raises(Invalid, match="at most"):
        parse(pack(text + b" ", EIGHT), "/g")


def test_a_parameter_with_the_name_of_the_metadata_cannot_be_written() -> None:
    with pytest.raises(NotAcceptable, match="JSON"):
        header({}, Layout(("__metadata__",), ((1,),), DTYPES["float64"]))
