"""The table of convergence is of this catalogue, and what it says can be had again."""

from __future__ import annotations

import json
import math
import os
import random

import pytest

from service.optim.catalogue import ALGORITHMS
from service.optim.rule import Algorithm
from tests.docs.convergence import ABOUT, FILE, NAMES, gap, specification

TABLE = json.loads(FILE.read_text())
SEED = int(os.environ["TEST_SEED"])


def test_it_has_every_optimizer_on_every_function() -> None:
    assert TABLE["about"] == ABOUT
    assert list(TABLE["functions"]) == list(NAMES)
    assert list(TABLE["optimizers"]) == list(ALGORITHMS)


@pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)
def test_a_sample_of_it_comes_out_again(algorithm: Algorithm) -> None:
    name = random.Random(f"{SEED}{algorithm.name}").choice(NAMES)
    found = TABLE["optimizers"][algorithm.name][name]
    for told, rate in ((found["default"], None), (found["tuned"], found["rate"])):
        values = specification(algorithm, rate)
        if values is None:
            assert told in ("has none", None)
            continue
        again = gap(values, name)
        if told is None:
            assert again is None
        elif told > 1e-9:  # below, another library of mathematics may round differently
            assert again is not None
            assert abs(math.log10(again / told)) < 0.05
        else:
            assert again is not None
            assert again < 1e-8
