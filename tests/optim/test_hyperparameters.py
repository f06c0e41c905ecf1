"""One declaration: what it takes, what it refuses and what it says then."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import Invalid
from service.optim.catalogue import ALGORITHMS
from service.optim.hyperparameters import LARGEST_WHOLE, REQUIRED, Hyperparameter, escape, fill
from service.optim.schedules.catalogue import SCHEDULES
from service.optim.transforms.catalogue import TRANSFORMS

RATE = Hyperparameter("rate", "A number.", low=0.0, below=1.0)
COUNT = Hyperparameter("count", "A whole number.", "integer", low=1)
FLAG = Hyperparameter("flag", "Yes or no.", "boolean")
CHOICE = Hyperparameter("choice", "One of two.", "choice", choices=("this", "that"))
LIST = Hyperparameter("list", "Some whole numbers.", "integers", low=0)
ROWS = Hyperparameter("rows", "Some threes.", "triples", high=9)
WORDS = Hyperparameter("words", "Some words.", "strings")
MAYBE = Hyperparameter("maybe", "A number or not.", low=0.0, null="None at all.")
OPEN = Hyperparameter("open", "Above and at most.", above=0.0, high=2.5)
EVERY = [h for a in ALGORITHMS.values() for h in a.hyperparameters] + [
    h for family in (SCHEDULES, TRANSFORMS) for member in family.values() for h in member.arguments
]
ODD = [None, [], {}, [[]], "", "1", True, [1.5], [True], {"schedule": None}, 10**400, -(10**400), math.inf, math.nan]


def refusal(hyperparameter: Hyperparameter, value: Any) -> str:
    """What is said of a value that is refused, at the place where it stands."""
    with pytest.raises(Invalid) as caught:
        hyperparameter.check(value, "/here")
    assert caught.value.places[0].pointer.startswith("/here")
    assert caught.value.places[0].detail == caught.value.detail
    return caught.value.detail


@pytest.mark.parametrize(
    ("hyperparameter", "value", "wanted"),
    [
        (RATE, 0, 0.0),
        (RATE, 0.5, 0.5),
        (RATE, -0.0, 0.0),
        (RATE, 1 - 2**-53, 1 - 2**-53),
        (OPEN, 2.5, 2.5),
        (OPEN, 5e-324, 5e-324),
        (COUNT, 1, 1),
        (COUNT, 3.0, 3),
        (COUNT, LARGEST_WHOLE, LARGEST_WHOLE),
        (FLAG, True, True),
        (FLAG, False, False),
        (CHOICE, "that", "that"),
        (LIST, [0], [0]),
        (LIST, [3, 2.0, 3], [3, 2, 3]),
        (ROWS, [[1, 2.5, -3]], [[1.0, 2.5, -3.0]]),
        (WORDS, [], []),
        (WORDS, ["a", "b"], ["a", "b"]),
        (MAYBE, None, None),
        (MAYBE, 2, 2.0),
    ],
)
def test_a_value_in_range_comes_back_in_its_own_type(hyperparameter: Hyperparameter, value: Any, wanted: Any) -> None:
    checked = hyperparameter.check(value)
    assert checked == wanted
    assert type(checked) is type(wanted)


@pytest.mark.parametrize(
    ("hyperparameter", "value", "words"),
    [
        (RATE, 1.0, "rate must be a finite number, at least 0 and below 1."),
        (RATE, -1e-9, "at least 0 and below 1"),
        (RATE, "0.1", "rate must be a finite number, at least 0 and below 1."),
        (RATE, 10**400, "a finite number"),
        (OPEN, 0.0, "open must be a finite number, above 0 and at most 2.5."),
        (COUNT, 0, f"count must be a whole number, at least 1 and at most {LARGEST_WHOLE}."),
        (COUNT, 1.5, "a whole number"),
        (COUNT, 2**53, f"at most {LARGEST_WHOLE}"),
        (COUNT, True, "a whole number"),
        (FLAG, 1, "flag must be true or false."),
        (FLAG, None, "flag must be true or false."),
        (CHOICE, "other", "choice must be one of this, that."),
        (CHOICE, ["this"], "this, that"),
        (LIST, [], "list must be a list of at least one whole number."),
        (LIST, 3, "a list"),
        (LIST, [1, -1], "a whole number, at least 0"),
        (ROWS, [], "rows must be a list of at least one list of three numbers."),
        (ROWS, [[1, 2]], "of three numbers"),
        (ROWS, [[1, 2, 10]], "a finite number, at most 9"),
        (WORDS, "a", "words must be a list of at most 200 strings."),
        (WORDS, ["a"] * 201, "at most 200"),
        (WORDS, ["a", ""], "strings that are not empty"),
        (MAYBE, -1, "at least 0"),
        (RATE, None, "a finite number"),
    ],
)
def test_a_refusal_names_what_is_accepted(hyperparameter: Hyperparameter, value: Any, words: str) -> None:
    assert words in refusal(hyperparameter, value)


def test_a_bad_item_of_a_list_is_pointed_at() -> None:
    with pytest.raises(Invalid) as caught:
        LIST.check([0, 1, "x"], "/milestones")
    assert caught.value.places[0].pointer == "/milestones/2"


@pytest.mark.parametrize("hyperparameter", EVERY, ids=lambda h: h.name)
def test_whatever_is_given_is_taken_or_refused(hyperparameter: Hyperparameter) -> None:
    taken = 0
    for value in ODD:
        try:
            hyperparameter.check(value, "/here")
            taken += 1
        except Invalid:
            assert refusal(hyperparameter, value)
    assert taken == (hyperparameter.kind in ("boolean", "strings", "pattern")) + bool(hyperparameter.null)


@settings(derandomize=True, deadline=None)
@given(st.integers() | st.floats() | st.integers(min_value=10**300))
def test_a_number_that_is_taken_is_finite_and_in_range(value: float) -> None:
    for hyperparameter in (RATE, OPEN, COUNT):
        try:
            taken = hyperparameter.check(value)
        except Invalid:
            continue
        assert math.isfinite(taken)
        assert taken == value
        assert hyperparameter.low <= taken <= hyperparameter.highest
        assert hyperparameter.above < taken < hyperparameter.below


@pytest.mark.parametrize("hyperparameter", EVERY, ids=lambda h: h.name)
def test_every_schema_says_what_check_does(hyperparameter: Hyperparameter) -> None:
    schema = hyperparameter.schema()
    assert schema["description"] == hyperparameter.meaning
    assert len(hyperparameter.meaning) > 5
    assert hyperparameter.meaning.endswith(".")
    some = schema["anyOf"][0] if hyperparameter.null else schema
    numbers = some.get("items", some)
    if "minimum" in numbers:
        assert hyperparameter.low == numbers["minimum"]
    if "exclusiveMaximum" in numbers:
        assert hyperparameter.below == numbers["exclusiveMaximum"]
    if hyperparameter.kind in ("integer", "integers"):
        assert numbers["maximum"] <= LARGEST_WHOLE
        assert numbers["type"] == "integer"


def test_schemas_of_each_kind() -> None:
    assert RATE.schema() == {"type": "number", "minimum": 0, "exclusiveMaximum": 1, "description": "A number."}
    assert OPEN.schema()["exclusiveMinimum"] == 0
    assert OPEN.schema()["maximum"] == 2.5
    assert FLAG.schema()["type"] == "boolean"
    assert CHOICE.schema()["enum"] == ["this", "that"]
    assert LIST.schema()["minItems"] == 1
    assert ROWS.schema()["items"]["items"] == {"type": "number", "maximum": 9}
    assert WORDS.schema()["items"] == {"type": "string", "minLength": 1}
    assert [each["type"] for each in MAYBE.schema()["anyOf"]] == ["number", "null"]
    assert MAYBE.schema()["anyOf"][1]["description"] == "None at all."


def test_filling_takes_the_defaults_in_declared_order() -> None:
    filled = fill({"flag": True}, (RATE, FLAG, COUNT), {"count": 2, "flag": False, "rate": 0.5}, owner="It")
    assert list(filled.items()) == [("rate", 0.5), ("flag", True), ("count", 2)]


def test_filling_refuses_an_unknown_name_with_the_nearest_and_the_accepted() -> None:
    with pytest.raises(Invalid, match=r"It has no argument 'rat'; did you mean 'rate'\? Accepted: rate, count\.") as e:
        fill({"rat": 1}, (RATE, COUNT), {"rate": 0.5, "count": 1}, owner="It")
    assert e.value.places[0].pointer == "/rat"
    with pytest.raises(Invalid, match="Accepted: none") as e:
        fill({"a/b~c": 1}, (), {}, owner="It")
    assert e.value.places[0].pointer == "/a~1b~0c"


def test_filling_names_what_is_missing() -> None:
    with pytest.raises(Invalid, match="It needs rate: A number") as caught:
        fill({}, (RATE,), {"rate": REQUIRED}, owner="It")
    assert caught.value.places[0].pointer == "/rate"
    assert repr(REQUIRED) == "REQUIRED"


def test_an_object_is_a_schedule_only_where_one_is_allowed() -> None:
    fixed = Hyperparameter("fixed", "Not over time.", schedulable=False)
    given = {"rate": {"schedule": "constant", "value": 0.5}, "fixed": 1.0, "count": 1}
    seen = fill(
        given, (RATE, fixed, COUNT), dict.fromkeys(given), owner="It", scheduled=lambda v, h, pointer: (h.name, pointer)
    )
    assert seen["rate"] == ("rate", "/rate")
    for name in ("fixed", "count"):
        with pytest.raises(Invalid, match=f"{name} must be"):
            fill({**given, name: {}}, (RATE, fixed, COUNT), dict.fromkeys(given), owner="It", scheduled=lambda *a: a)


def test_a_pointer_escapes_its_tokens() -> None:
    assert escape("a/b~c") == "a~1b~0c"
