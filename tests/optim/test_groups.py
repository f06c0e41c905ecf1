"""Frozen parameters: they and their state never move, and the others do not notice them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.errors import Invalid
from service.optim.optimizer import Optimizer, build
from service.optim.specification import resolve
from service.optim.state import State
from service.optim.tensors import Array, Layout
from tests.optim.table import DIALECTS, SHAPES, bits, gradients, layout, run, start

EVERY_DIALECT = pytest.mark.parametrize("specification", DIALECTS.values(), ids=DIALECTS)
AROUND = [
    {"name": "weight_decay", "strength": 0.1},
    {"name": "clip_by_norm", "max_norm": 0.5},
    {"name": "add_noise", "eta": 0.1},
    {"name": "ema", "decay": 0.5},
    {"name": "accumulate", "steps": 2},
    {"name": "decoupled_weight_decay", "strength": 0.1},
    {"name": "parameter_ema", "decay": 0.7, "formula": "keras", "overwrite_every": 2},
    {"name": "parameter_ema", "decay": 0.7, "formula": "optax"},
    {"name": "parameter_swa"},
    {"name": "project_l1_ball", "radius": 0.5},
    {"name": "constrain_norms", "maximum": 0.5},
]


def fitting(specification: Any) -> Layout:
    """The layout of the table, or, for a rule of matrices only, the same numbers in three matrices."""
    usual = layout()
    fits = resolve(specification).rule.fits
    matrices = ((4, 3), (5, 1), (1, 1))
    return usual if not any(map(fits, usual.shapes)) else Layout(usual.names, matrices, usual.dtype)


def freeze(pattern: str) -> dict[str, Any]:
    return {"match": pattern, "frozen": True}


def steps(subject: Optimizer, rows: list[Array]) -> State:
    state = subject.init(start()[: subject.layout.size] if subject.layout.size < 18 else start())
    for row in rows:
        state = subject.step(state, row, loss=1.5 if subject.wants != "gradient" else None).state
    return state


def part(subject: Optimizer, state: State, i: int) -> list[bytes]:
    """The bits of a tensor and of what is kept of it."""
    kept = [slot[place.slices[i]] for place, slot in zip(subject.places, state.slots, strict=True) if place.of_tensors]
    return [bits(array) for array in (state.params[subject.layout.slices[i]], *kept)]


@EVERY_DIALECT
@pytest.mark.parametrize("name", SHAPES)
def test_what_is_frozen_keeps_its_bits_and_those_of_its_state(specification: Any, name: str) -> None:
    subject, i = build(specification, fitting(specification), groups=[freeze(name)]), list(SHAPES).index(name)
    first = subject.init(start())
    state = steps(subject, gradients(6))
    assert part(subject, state, i) == part(subject, first, i)
    others = np.delete(np.arange(18), np.r_[subject.layout.slices[i]])
    assert not np.array_equal(state.params[others], first.params[others])


@EVERY_DIALECT
def test_the_gradient_of_what_is_frozen_is_not_seen(specification: Any) -> None:
    subject, rows = build(specification, fitting(specification), groups=[freeze("layer.bias")]), gradients(6)
    other = [np.where(np.arange(18) // 12 == 1, 1e3 * (1.0 - row), row) for row in rows]
    for row, changed in zip(rows, other, strict=True):
        changed[17] = row[17]
    one, two = steps(subject, rows), steps(subject, other)
    assert [*map(bits, (one.params, *one.slots))] == [*map(bits, (two.params, *two.slots))]


@EVERY_DIALECT
def test_the_others_move_as_if_what_is_frozen_were_not_there(specification: Any) -> None:
    """Of rules that take elements or tensors by themselves; one that measures them all begins with what it measures."""
    whole = fitting(specification)
    subject = build(specification, whole, groups=[freeze("scale")])
    if subject.rule.span == "all":
        return
    alone = build(specification, Layout(whole.names[:2], whole.shapes[:2], whole.dtype))
    rows = gradients(6)
    state, other = steps(subject, rows), steps(alone, [row[:17] for row in rows])
    for i in (0, 1):
        assert part(subject, state, i) == part(alone, other, i)


@pytest.mark.parametrize("transform", AROUND, ids=lambda transform: f"{transform['name']}-{len(transform)}")
def test_no_transform_moves_what_is_frozen(transform: Any) -> None:
    subject = build({"name": "adam"}, layout(), [transform], [freeze("layer.*")])
    state = steps(subject, gradients(7))
    for i in (0, 1):
        assert part(subject, state, i) == part(subject, subject.init(start()), i)
        assert bits(subject.view(state, "eval")[subject.layout.slices[i]]) == bits(start()[subject.layout.slices[i]])
    assert state.params[17] != start()[17]


def test_norms_are_of_what_is_not_frozen() -> None:
    clip = {"name": "clip_by_global_norm", "max_norm": 1.0, "formula": "optax"}
    subject = build({"name": "sgd", "learning_rate": 1.0}, layout(), [clip], [freeze("layer.*")])
    row = np.full(18, 100.0)
    assert steps(subject, [row]).params[17] == start()[17] - 1.0


def test_the_last_word_counts() -> None:
    groups = [freeze("layer.*"), {"match": "*.bias", "frozen": False, "learning_rate": 0.5}]
    subject = build({"name": "sgd", "learning_rate": 0.25}, layout(), groups=groups)
    assert subject.as_json()["groups"] == groups
    moved = start() - steps(subject, [np.ones(18)]).params
    assert moved == pytest.approx(np.r_[[0.0] * 12, [0.5] * 5, 0.25])
    assert list(subject.frozen) == [0]


def test_frozen_parameters_may_bring_no_gradient_or_any() -> None:
    subject, rows = build({"name": "adam"}, layout(), groups=[freeze("scale")]), gradients(4)
    with_gradients = run(subject, rows)
    state = subject.init(start())
    for row in rows:
        state = subject.step(state, row, absent=[2]).state
    assert bits(state.params) == bits(with_gradients.params)


@pytest.mark.parametrize(
    ("groups", "words", "pointer"),
    [
        ([{"match": "scale", "frozen": 1}], "frozen must be true or false.", "/groups/0/frozen"),
        ([{"match": "scale", "frozen": None}], "frozen must be true or false.", "/groups/0/frozen"),
        ([freeze("layer.*"), freeze("scale")], "Every parameter is frozen; leave at least one", "/groups/1/frozen"),
        ([freeze("biases")], "No parameter matches 'biases'. Names: layer.weight", "/groups/0/match"),
    ],
)
def test_refusals(groups: Any, words: str, pointer: str) -> None:
    with pytest.raises(Invalid) as caught:
        build({"name": "adam"}, layout(), groups=groups)
    assert words in caught.value.detail
    assert caught.value.places[0].pointer == pointer
