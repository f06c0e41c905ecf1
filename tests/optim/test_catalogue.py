"""Every entry is complete: its texts, its equation, its defaults, what the catalogue tells of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from matplotlib.mathtext import MathTextParser

from service.errors import Invalid
from service.optim.catalogue import ALGORITHMS, describe, get, state, summary
from service.optim.hyperparameters import REQUIRED
from service.optim.libraries import spellings_of
from service.optim.rule import Algorithm
from service.optim.schedules.catalogue import SCHEDULES
from service.optim.specification import resolve
from service.optim.transforms import TRANSFORMS
from tests.optim.table import DIALECTS, SPECIFICATIONS

EVERY = pytest.mark.parametrize("algorithm", ALGORITHMS.values(), ids=ALGORITHMS)
EQUATIONS = {m.name: m.equation for family in (ALGORITHMS, SCHEDULES, TRANSFORMS) for m in family.values()}


@EVERY
def test_the_texts_are_there(algorithm: Algorithm) -> None:
    for text in (algorithm.summary, algorithm.source, algorithm.when):
        assert len(text) > 20
        assert text.endswith(".")
    assert algorithm.title
    assert algorithm.name.isidentifier()
    for dialect in algorithm.dialects.values():
        assert dialect.differs.endswith(".")
        assert all(bug.endswith(".") for bug in dialect.known_bugs)


@pytest.mark.parametrize("name", EQUATIONS)
def test_the_equation_can_be_drawn(name: str) -> None:
    assert MathTextParser("path").parse(f"${EQUATIONS[name]}$").width > 0


@EVERY
def test_every_default_is_a_declared_hyperparameter_in_its_range(algorithm: Algorithm) -> None:
    declared = {h.name: h for h in algorithm.hyperparameters}
    assert len(declared) == len(algorithm.hyperparameters)
    assert algorithm.default_dialect in algorithm.dialects
    assert set(declared) <= {name for d in ALGORITHMS.values() for x in d.dialects.values() for name in x.defaults}
    for dialect in algorithm.dialects.values():
        for name, value in dialect.defaults.items():
            if value is not REQUIRED:
                assert declared[name].check(value) == value
        assert ("weight_decay" in dialect.defaults) == (dialect.decay != "none")
        slots = dialect.rule(DIALECTS[f"{algorithm.name}-{_name(algorithm, dialect)}"]).slots
        assert len(set(slots)) == len(slots)


def _name(algorithm: Algorithm, dialect: Any) -> str:
    return next(name for name, other in algorithm.dialects.items() if other is dialect)


def bare(algorithm: Algorithm) -> dict[str, Any]:
    """The least that names it: what optax alone has needs the learning rate that optax needs."""
    rate = {"learning_rate": 0.01} if list(algorithm.dialects) == ["optax"] else {}
    return {"name": algorithm.name, **rate}


@EVERY
def test_the_default_dialect_needs_nothing(algorithm: Algorithm) -> None:
    assert resolve(bare(algorithm)).dialect_name == algorithm.default_dialect


@EVERY
def test_what_the_catalogue_tells(algorithm: Algorithm) -> None:
    entry = describe(algorithm, spellings_of(algorithm.name))
    assert json.loads(json.dumps(entry)) == entry
    assert entry.items() >= summary(algorithm).items()
    properties = entry["hyperparameters"]["properties"]
    assert set(properties) == {name for d in algorithm.dialects.values() for name in d.defaults}
    for name, detail in entry["dialect_details"].items():
        assert set(detail["defaults"]) | set(detail["required"]) == set(algorithm.dialects[name].defaults)
        assert detail["counts_steps_of"] == ("parameter" if name == "torch" else "session")
    slots = resolve(bare(algorithm)).rule.slots
    assert [slot["name"] for slot in entry["state"]] == list(slots) == [slot["name"] for slot in state(algorithm)]


def test_a_name_that_is_not_there_gets_the_nearest_and_the_accepted() -> None:
    with pytest.raises(Invalid, match=r"There is no optimizer 'adm'; did you mean 'adam'\? Accepted: sgd,") as caught:
        get("adm")
    assert caught.value.places[0].pointer == "/name"
    with pytest.raises(
        Invalid, match=r"adam has no dialect 'tourch'; did you mean 'torch'\? Accepted: torch,"
    ) as caught:
        ALGORITHMS["adam"].dialect("tourch")
    assert caught.value.places[0].pointer == "/dialect"


def test_the_table_of_these_tests_reaches_every_rule() -> None:
    """A rule that no specification here chooses would go untested."""
    chosen = {resolve(specification).rule.update.__name__ for specification in SPECIFICATIONS.values()}
    assert chosen >= {
        *("sgd", "heavy_ball", "nesterov", "adagrad", "adadelta", "adam", "amsgrad", "adamax", "rmsprop"),
        *("rmsprop_momentum", "rmsprop_nesterov", "centered", "centered_momentum", "centered_nesterov"),
        *("asgd", "rprop", "rprop_stale", "sign_sgd", "lion", "optimistic", "optimistic_adam", "qhm", "qhadam"),
        *("aggmo", "nadam", "nadam_product", "radam", "yogi", "adabelief", "acprop", "adan", "ademamix"),
        *("simplified_ademamix", "adopt", "ftrl", "madgrad", "cocob"),
    }
    assert len(SPECIFICATIONS) > 350
    assert len(ALGORITHMS) == 33
