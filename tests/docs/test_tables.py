"""The README says what is true: generated tables are current, and its commands and figures are there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import pytest

from service.functions.catalogue import FUNCTIONS
from service.optim.catalogue import ALGORITHMS
from service.optim.libraries.catalogue import SPELLINGS
from service.optim.schedules.catalogue import SCHEDULES
from service.optim.schedules.catalogue import SPELLINGS as SCHEDULE_SPELLINGS
from service.optim.transforms.catalogue import TRANSFORMS
from service.settings import PREFIX, Settings
from tests.docs.tables import README, filled

TEXT = README.read_text()


def test_generated_tables_are_current() -> None:
    assert filled(TEXT) == TEXT, "run `make docs`"


@pytest.mark.parametrize(
    "names",
    [
        ALGORITHMS,
        SPELLINGS,
        SCHEDULES,
        SCHEDULE_SPELLINGS,
        TRANSFORMS,
        FUNCTIONS,
        [PREFIX + name.upper() for name in Settings.model_fields],
    ],
    ids=["optimizers", "spellings", "schedules", "schedule spellings", "transforms", "functions", "settings"],
)
def test_every_member_is_documented(names: Iterable[str]) -> None:
    missing = [name for name in names if f"`{name}`" not in TEXT]
    assert not missing, missing


def test_bodies_in_the_readme_are_json() -> None:
    bodies = re.findall(r"-d '([^']+)'", TEXT)
    assert len(bodies) >= 3
    for body in bodies:
        json.loads(body)
