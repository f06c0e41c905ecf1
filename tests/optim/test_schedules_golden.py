"""Against the libraries' own schedules, as recorded in tests/golden/schedules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from service.optim.rule import LEARNING_RATE
from service.optim.schedules.catalogue import SPELLINGS, parse
from tests.golden.schedules import cases
from tests.golden.schedules.cases import CASES, LIBRARIES, Case

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


@EVERY_CASE
def test_the_values_are_the_librarys(case: Case) -> None:
    schedule = parse(case.specification, LEARNING_RATE)
    theirs = RECORDS[case.library][case.id]
    ours = np.array([schedule(n) for n in range(case.steps)])
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
