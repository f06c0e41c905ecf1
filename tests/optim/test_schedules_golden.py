"""Against the libraries' own schedules, as recorded in tests/golden/schedules."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from service.optim.rule import LEARNING_RATE
from service.optim.schedules.catalogue import SPELLINGS, parse
from service.optim.schedules.form import Schedule
from service.optim.tensors import Array
from tests.golden.schedules import cases
from tests.golden.schedules.cases import CASES, LIBRARIES, LOSSES, Case

DATA = Path(cases.__file__).parent / "data"
RECORDS = {library: load_file(DATA / f"{library}.safetensors") for library in LIBRARIES}

CLOSE = 1e-12  # relative; of the largest value where a value is next to zero
NEAR_ZERO = 1e-3

EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


def inside(value: Any, key: str) -> list[Any]:
    """What stands under this key, anywhere in it."""
    if isinstance(value, dict):
        own = [value[key]] if key in value else []
        return own + [found for item in value.values() for found in inside(item, key)]
    return [found for item in value for found in inside(item, key)] if isinstance(value, list) else []


def values(schedule: Schedule, steps: int) -> Array:
    return np.array([schedule(n) for n in range(steps)])


def followed(schedule: Schedule, loss: Callable[[int], float], steps: int) -> Array:
    """The value that each step uses, of a schedule that is shown the losses."""
    form, a = schedule.form, schedule.arguments
    assert form.start
    assert form.observe
    assert form.read
    memory, used = form.start(a), []
    for n in range(steps):
        after = form.observe(a, tuple(memory), loss(n))
        used.append(form.read(a, after if form.at_once(a) else memory))
        memory = after
    return np.array(used)


@EVERY_CASE
def test_the_values_are_the_librarys(case: Case) -> None:
    schedule = parse(case.specification, LEARNING_RATE)
    theirs = RECORDS[case.library][case.id]
    ours = followed(schedule, LOSSES[case.losses], case.steps) if case.losses else values(schedule, case.steps)
    scale = np.maximum(np.abs(theirs), NEAR_ZERO * np.abs(theirs).max())
    assert (np.abs(ours - theirs) <= CLOSE * scale).all()


@EVERY_CASE
def test_the_resolved_schedule_is_the_same_in_our_words(case: Case) -> None:
    schedule = parse(case.specification, LEARNING_RATE)
    resolved = json.loads(json.dumps(schedule.as_json()))
    assert not inside(resolved, "like")
    assert parse(resolved, LEARNING_RATE) == schedule
    assert resolved["schedule"] in SPELLINGS[case.like].forms


def test_every_spelling_has_three_cases_and_comes_to_every_form_that_it_names() -> None:
    for path, spelling in SPELLINGS.items():
        mine = [case for case in CASES if case.like == path]
        assert len(mine) >= 3, path
        assert all(case.steps >= 60 for case in mine)
        assert {parse(case.specification, LEARNING_RATE).form.name for case in mine} == set(spelling.forms), path


def test_the_files_are_of_this_table() -> None:
    for library, rows in LIBRARIES.items():
        assert set(RECORDS[library]) == {case.id for case in rows}
        assert all(len(RECORDS[library][case.id]) == case.steps for case in rows)
        with safe_open(DATA / f"{library}.safetensors", "numpy") as file:
            assert json.loads(file.metadata()["made_from"])["cases"] == cases.fingerprint(rows)
    assert len({case.id for case in CASES}) == len(CASES)
