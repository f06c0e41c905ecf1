"""JSON bodies: what is read, what is refused, and with which words."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import MAX_PLACES, NonFinite, NotJson
from service.wire.json import LENIENT_LIMIT, canonical, dumps, loads

NOT_FINITE: dict[str, tuple[bytes, list[str]]] = {
    "NaN": (b"NaN", [""]),
    "Infinity": (b"[Infinity]", ["/0"]),
    "-Infinity": (b'{"a": -Infinity}', ["/a"]),
    "1e400": (b'{"gradients": [1, 1e400]}', ["/gradients/1"]),
    "-1e400": (b"[[-1e400]]", ["/0/0"]),
    "1e309": (b"1e309", [""]),
    "1e99999999999": (b"[1e99999999999]", ["/0"]),
    "400 digits": (b"[1" + b"0" * 400 + b"]", ["/0"]),
    "400 digits, negative": (b"-1" + b"0" * 400, [""]),
    "400 digits with a point": (b"[1" + b"0" * 400 + b".5]", ["/0"]),
    "below names": (b'{"a/b": {"~c": [0, NaN]}}', ["/a~1b/~0c/1"]),
    "several": (b'{"a": [NaN, 1, Infinity], "b": 1e400}', ["/a/0", "/a/2", "/b"]),
    "deep": (b"[" * 500 + b"NaN" + b"]" * 500, ["/0" * 500]),
    "in white space": (b" \n\t[ NaN ]\r\n", ["/0"]),
}
NOT_JSON: dict[str, bytes] = {
    "nothing": b"",
    "white space": b"  \n",
    "truncated": b'{"gradients": [1, 2',
    "truncated NaN": b'{"gradients": [NaN, 2',
    "a comma too many": b"[1, 2,]",
    "two values": b"1 2",
    "a word": b"gradients",
    "nan": b"[nan]",
    "inf": b"[inf]",
    "+Infinity": b"[+Infinity]",
    "single quotes": b"{'a': 1}",
    "a comment": b"[1] // one",
    "a leading zero": b"[01]",
    "a leading point": b"[.5]",
    "a trailing point": b"[5.]",
    "hexadecimal": b"[0x10]",
    "no key": b"{1: 2}",
    "UTF-16": '{"gradients": [1, 2]}'.encode("utf-16"),
    "UTF-16, little end first": '{"gradients": [1, 2]}'.encode("utf-16-le"),
    "UTF-32": "[1]".encode("utf-32"),
    "a byte order mark": b"\xef\xbb\xbf[1]",
    "Latin-1": '{"é": 1}'.encode("latin-1"),
    "half a character": b'{"\xe2\x82": 1}',
    "half a surrogate pair": b'{"\\ud800": 1}',
    "a control character": b'["\x01"]',
    "a null byte": b"[1]\x00",
    "100,000 arrays deep": b"[" * 100_000,
    "100,000 arrays deep, closed": b"[" * 100_000 + b"]" * 100_000,
    "100,000 objects deep": b'{"a":' * 100_000,
    "100,000 arrays around NaN": b"[" * 100_000 + b"NaN" + b"]" * 100_000,
    "5,000 digits": b"9" * 5000,
    "5,000 digits inside": b'{"gradients": [' + b"9" * 5000 + b"]}",
    "a gzip member": bytes.fromhex("1f8b0800000000000003"),
}


@pytest.mark.parametrize("name", NOT_FINITE)
def test_numbers_that_are_not_finite_are_named(name: str) -> None:
    body, pointers = NOT_FINITE[name]
    with pytest.raises(NonFinite) as caught:
        loads(body)
    assert [place.pointer for place in caught.value.places] == pointers


@pytest.mark.parametrize("name", NOT_JSON)
def test_what_is_not_json_is_said_to_be_so(name: str) -> None:
    body = NOT_JSON[name]
    with pytest.raises(NotJson, match=r"^The body is not valid JSON.*\.$") as caught:
        loads(body)
    assert len(caught.value.detail) < 200
    orjson.dumps(caught.value.problem("r"))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_kind_of_bytes_is_read(kind: Any) -> None:
    assert loads(kind(b'{"a": [1, 2.5]}')) == {"a": [1, 2.5]}
    with pytest.raises(NonFinite) as caught:
        loads(kind(b"[0, NaN]"))
    assert caught.value.places[0].pointer == "/1"
    with pytest.raises(NotJson):
        loads(kind(b"["))


def test_of_duplicate_keys_the_last_counts() -> None:
    assert loads(b'{"a": 1, "a": 2}') == {"a": 2}


def test_the_place_of_a_mistake_is_given() -> None:
    with pytest.raises(NotJson, match="at line 2, column 9"):
        loads(b'{"a": 1,\n "b": 2,, }')


@pytest.mark.parametrize("literal", [b"NaN", b"-Infinity", b"1e400"])
def test_a_large_body_is_not_read_twice(literal: bytes) -> None:
    """It is refused all the same."""
    body = b"[" + b"1.5," * (LENIENT_LIMIT // 4) + literal + b"]"
    with pytest.raises((NotJson, NonFinite)):
        loads(body)
    just_small_enough = b"[" + b"1," * 1000 + literal + b"]"
    with pytest.raises(NonFinite) as caught:
        loads(just_small_enough)
    assert caught.value.places[0].pointer == "/1000"


def test_a_large_body_is_read_once() -> None:
    values = loads(b"[" + b"1.5," * (LENIENT_LIMIT // 2) + b"1.5]")
    assert len(values) == LENIENT_LIMIT // 2 + 1


def test_only_some_places_are_listed() -> None:
    with pytest.raises(NonFinite) as caught:
        loads(b"[" + b"NaN," * 1000 + b"0]")
    assert len(caught.value.places) == MAX_PLACES


@pytest.mark.parametrize(
    "body",
    [
        b'{"' + b"k" * 1_000_000 + b'": NaN}',
        b'{"k": {"' + b"k" * 1_000_000 + b'": [' + b"NaN," * 20 + b"0]}}",
        b'{"' + b"~" * 900 + b'": NaN}',
        b'{"' + b"k" * 500 + b'": {"' + b"k" * 500 + b'": NaN}}',
        b'{"\\ud800": NaN}',
        b'{"a": {"\\udfff\\ud800": [1e400]}}',
        '{"é🎈": NaN}'.encode(),
        b'{"\\u0000": NaN}',
        '{"a": NaN}'.encode("utf-16"),
    ],
    ids=lambda body: repr(body[:20]),
)
def test_hostile_names_are_neither_echoed_in_bulk_nor_break_the_answer(body: bytes) -> None:
    with pytest.raises((NonFinite, NotJson)) as caught:
        loads(body)
    assert len(dumps(caught.value.problem("r"))) < 20_000


def test_a_place_under_a_long_name_is_given_by_what_holds_it() -> None:
    with pytest.raises(NonFinite) as caught:
        loads(b'{"gradients": {"' + b"k" * 1_000_000 + b'": NaN}}')
    assert [place.pointer for place in caught.value.places] == ["/gradients"]


@pytest.mark.parametrize("number", [b"1e308", b"1.7976931348623157e308", b"1" + b"0" * 308, b"-1e308", b"1e-400"])
def test_the_largest_doubles_are_read(number: bytes) -> None:
    assert loads(b"[" + number + b"]") == [float(number)]


def test_a_large_whole_number_beside_nan_is_not_blamed() -> None:
    with pytest.raises(NonFinite) as caught:
        loads(b"[1" + b"7" * 308 + b", NaN]")
    assert [place.pointer for place in caught.value.places] == ["/1"]


def test_arrays_are_written_as_nested_lists() -> None:
    values = np.arange(6, dtype=np.float32).reshape(2, 3) / 3
    assert json.loads(dumps({"a": values})) == {"a": [[float(str(x)) for x in row] for row in values]}
    assert dumps(np.zeros((2, 0))) == b"[[],[]]"
    frozen = np.ones(3)
    frozen.flags.writeable = False
    assert dumps(frozen) == b"[1.0,1.0,1.0]"


def test_equal_values_have_one_canonical_text() -> None:
    assert canonical({"b": 1, "a": [1.0, {"d": 1, "c": 2}]}) == canonical({"a": [1.0, {"c": 2, "d": 1}], "b": 1})
    assert canonical({"a": 1}) != canonical({"a": 1.0}) != canonical({"a": True})


finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | finite | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


@given(values)
def test_values_come_back_as_they_were(value: Any) -> None:
    assert loads(dumps(value)) == value


@given(values, st.sampled_from(["NaN", "Infinity", "-Infinity", "1e999", "-1e999"]), st.integers(0, 10**6))
def test_one_number_that_is_not_finite_is_found_wherever_it_stands(value: Any, literal: str, at: int) -> None:
    text = dumps([value, 0]).decode()
    spots = [i for i in range(1, len(text)) if text[i - 1] in "[:," and text[i] in "0123456789-tfn"]
    i = spots[at % len(spots)]
    end = next(j for j in range(i, len(text)) if text[j] in ",]}")
    body = (text[:i] + literal + text[end:]).encode()
    try:
        parsed = json.loads(body)
    except ValueError:
        parsed = None
    if parsed is None or not any(name in repr(parsed) for name in ("nan", "inf")):
        return  # the spot lay inside a text
    with pytest.raises(NonFinite):
        loads(body)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_value_or_a_problem(body: bytes) -> None:
    try:
        loads(body)
    except (NotJson, NonFinite) as error:
        dumps(error.problem("r"))
