"""The table of functions, what is said of each, and whether it is true."""

from __future__ import annotations

import json
import re
from math import pi
from types import ModuleType
from typing import get_args

import numpy as np
import pytest

from service.errors import Invalid
from service.functions import catalogue, multimodal, quadratics, rugged, saddles, valleys
from service.functions.base import LARGEST_DIMENSION, Function, Tag, hessian
from service.functions.catalogue import FUNCTIONS, describe, get, summaries

everyone = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
OPTIONAL = {"minimum_dimension", "minima_note", "largest_stable_step", "largest_stable_step_note", "condition_number"}
REQUIRED = {
    "name",
    "title",
    "summary",
    "dimensions",
    "dimension",
    "formula",
    "domain",
    "minima",
    "start",
    "smoothness",
    "source",
    "misprints",
    "tags",
}


def a_dimension(function: Function) -> int:
    return function.dimensions or max(2, function.minimum_dimension)


@pytest.mark.parametrize("family", [quadratics, valleys, multimodal, rugged, saddles], ids=lambda m: m.__name__)
def test_no_function_of_a_file_is_left_out(family: ModuleType) -> None:
    written = {entry.name for entry in vars(family).values() if isinstance(entry, Function)}
    assert written == {function.name for function in family.FUNCTIONS}
    assert written <= set(FUNCTIONS)


def test_the_functions_of_the_source_documents_are_there() -> None:
    x, y = 0.7, -1.3
    at = np.array([x, y])
    assert get("steep_bowl").value(at) == pytest.approx(20 * x**2 + 2 * y**2)
    assert get("wavy_bowl").value(at) == pytest.approx(2 * x**2 + 10 * y**2 + 10 * np.exp(5j * y).imag)
    assert get("long_bowl").value(at) == pytest.approx(x**2 / 20 + y**2)
    assert get("parabola").value(np.array([x])) == pytest.approx(x**2 + 1)
    assert get("sphere").value(at) == pytest.approx(x**2 + y**2)
    assert get("shallow_bowl").value(at) == pytest.approx(x**2 / 30 + y**2 / 3)


def test_get_gives_the_function() -> None:
    assert get("booth") is quadratics.BOOTH


@pytest.mark.parametrize(("wrong", "meant"), [("rosenbrok", "rosenbrock"), ("himmelblow", "himmelblau")])
def test_an_unknown_name_is_answered_with_the_nearest_and_all(wrong: str, meant: str) -> None:
    with pytest.raises(Invalid) as caught:
        get(wrong)
    assert f"did you mean '{meant}'?" in caught.value.detail
    assert all(name in caught.value.detail for name in FUNCTIONS)
    assert [place.pointer for place in caught.value.at("/function").places] == ["/function"]


@everyone
def test_every_field_of_an_entry_is_filled(function: Function) -> None:
    entry = describe(function)
    assert set(entry) >= REQUIRED
    assert set(entry) <= REQUIRED | OPTIONAL
    assert all(known not in (None, "", [], ()) for field, known in entry.items() if field != "minima")
    assert json.loads(json.dumps(entry, allow_nan=False)) == entry
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", function.name)
    for sentence in (function.summary, function.source, *function.misprints):
        assert sentence.endswith(".")
        assert len(sentence) > 20
    for note in (function.minima_note, function.largest_stable_step_note):
        assert note == "" or note.endswith(".")
    assert function.formula.count("{") == function.formula.count("}")
    assert function.formula.count(r"\left") == function.formula.count(r"\right")
    assert set(function.tags) <= set(get_args(Tag))
    assert len(set(function.tags)) == len(function.tags)


@everyone
def test_an_entry_agrees_with_the_function(function: Function) -> None:
    entry = describe(function)
    d = a_dimension(function)
    assert entry["dimension"] == d == len(entry["domain"]) == len(entry["start"])
    assert entry["dimensions"] == (function.dimensions or "any")
    assert [(tuple(m["point"]), m["value"], m["kind"]) for m in entry["minima"]] == [
        (m.point, m.value, m.kind) for m in function.minima_at(d)
    ]
    assert entry.get("largest_stable_step") == function.largest_stable_step_at(d)
    assert entry.get("condition_number") == function.condition_number_at(d)


@everyone
def test_start_and_minima_lie_in_the_domain(function: Function) -> None:
    for d in (function.dimensions,) if function.dimensions else (2, 4, 5, 10):
        low, high = np.array(function.domain_at(d)).T
        assert (low < high).all()
        for point in (function.start_at(d), *(minimum.point for minimum in function.minima_at(d))):
            assert len(point) == d
            assert (low < point).all()
            assert (point < high).all()
        assert (function.gradient(np.array(function.start_at(d))) != 0).any()


def test_summaries_list_every_function_once() -> None:
    listed = summaries()
    assert [entry["name"] for entry in listed] == list(FUNCTIONS)
    assert {entry["dimensions"] for entry in listed} == {1, 2, "any"}
    assert all(set(entry) == {"name", "title", "dimensions", "tags"} for entry in listed)
    assert json.loads(json.dumps(listed)) == listed


def test_a_function_of_any_dimension_is_described_in_the_one_asked_for() -> None:
    rosenbrock = get("rosenbrock")
    assert describe(rosenbrock)["dimension"] == 2
    entry = describe(rosenbrock, 5)
    assert entry["dimension"] == 5
    assert entry["minimum_dimension"] == 2
    assert [minimum["kind"] for minimum in entry["minima"]] == ["global", "local"]
    assert entry["start"] == [-1.2, 1.0, -1.2, 1.0, -1.2]


@pytest.mark.parametrize(
    ("name", "wrong", "accepted"),
    [
        ("booth", 3, "exactly 2 coordinates"),
        ("parabola", 2, "exactly 1 coordinate;"),
        ("rosenbrock", 1, f"2 to {LARGEST_DIMENSION} coordinates"),
        ("sphere", 0, f"1 to {LARGEST_DIMENSION} coordinates"),
        ("sphere", LARGEST_DIMENSION + 1, f"1 to {LARGEST_DIMENSION} coordinates"),
    ],
)
def test_a_wrong_dimension_is_refused_with_the_accepted_ones(name: str, wrong: int, accepted: str) -> None:
    function = get(name)
    asks = (function.domain_at, function.minima_at, function.start_at)
    for ask in (*asks, function.largest_stable_step_at, function.condition_number_at, function.check_dimension):
        with pytest.raises(Invalid, match=re.escape(accepted)) as caught:
            ask(wrong)
        assert [place.pointer for place in caught.value.places] == [""]
    with pytest.raises(Invalid):
        describe(function, wrong)


@pytest.mark.parametrize("d", [1, 2, 3, 4, 5, LARGEST_DIMENSION])
def test_every_accepted_dimension_can_be_described(d: int) -> None:
    for function in FUNCTIONS.values():
        if function.dimensions is None and function.minimum_dimension <= d:
            assert len(describe(function, d)["start"]) == d


def value(name: str, *point: float) -> float:
    return float(catalogue.get(name).value(np.array(point)))


def test_what_the_misprints_say_is_true() -> None:
    left = (1 - 0.01 / 15) ** 100  # of x, after a hundred steps down the shallow bowl
    assert left == pytest.approx(0.94, abs=0.005)
    assert value("himmelblau", -2.805118, 3.131313) < value("himmelblau", -2.805118, 3.131312)
    assert value("three_hump_camel", 5, 5) == pytest.approx(2048, abs=0.5)
    assert value("six_hump_camel", 0.0898420, 0.7126564) == pytest.approx(-0.9036, abs=5e-5)
    assert value("styblinski_tang", -2.903534) - -39.16599 == pytest.approx(-1.8e-4, abs=5e-6)
    assert value("mccormick", 0.5 - pi / 3, -0.5 - pi / 3) == pytest.approx(-(3**0.5) / 2 - pi / 3, abs=1e-15)
    assert value("beale", 0, 1) == 14.203125
    assert value("beale", -4.5, 1.186429) == pytest.approx(0.76207, abs=5e-6)
    assert np.linalg.eigvalsh(hessian(get("beale"), np.array([0.0, 1.0])))[0] < 0
    assert value("goldstein_price", 2, -2) < value("goldstein_price", -2, 2) < 1e6
    assert abs(get("rastrigin").gradient(np.array([0.99496]))[0]) < 0.01


def test_what_easom_says_of_its_plain_is_true() -> None:
    easom = get("easom")
    assert easom.gradient(np.zeros(2)) == pytest.approx([-1.7e-8, -1.7e-8], abs=5e-10)
    assert (easom.gradient(np.array([-25.0, -25.0])) == 0).all()
    axis = np.linspace(pi - 8, pi + 8, 401)
    plain = np.stack(np.meshgrid(axis, axis), axis=-1)
    away = np.abs(plain - pi).max(axis=-1) > pi / 2
    assert -1e-4 < easom.value(plain)[away].min() < -8e-5


def test_the_gradient_of_a_misprinted_script_is_not_that_of_the_long_bowl() -> None:
    x, y = -7.0, 2.0
    assert get("long_bowl").gradient(np.array([x, y])).tolist() == [x / 10, 2 * y]
