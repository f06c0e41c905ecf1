"""Every entry is complete: its texts, its equation, its defaults, what the catalogue tells of it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from latex2mathml.converter import convert
from matplotlib.mathtext import MathTextParser

from service.errors import Invalid
from service.optim.catalogue import ALGORITHMS, describe, get, summary
from service.optim.hyperparameters import REQUIRED
from service.optim.libraries.catalogue import spellings_of
from service.optim.rule import Algorithm
from service.optim.schedules.catalogue import SCHEDULES
from service.optim.specification import resolve
from service.optim.transforms.catalogue import TRANSFORMS
from tests.optim.table import SPECIFICATIONS, complete

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
        slots = dialect.rule(complete(algorithm, dialect)).slots
        assert len(set(slots)) == len(slots)


def bare(algorithm: Algorithm) -> dict[str, Any]:
    """The least that names it: what optax alone has needs the learning rate that optax needs."""
    needs = [n for n, v in algorithm.dialects[algorithm.default_dialect].defaults.items() if v is REQUIRED]
    rate = {"learning_rate": 0.01} if list(algorithm.dialects) == ["optax"] and "learning_rate" in needs else {}
    wrapped = {"optimizer": {"name": "adam"}} if "optimizer" in needs else {}
    return {"name": algorithm.name, **rate, **wrapped}


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
        assert name == "paper" or detail["counts_steps_of"] == ("parameter" if name == "torch" else "session")
    default = algorithm.dialects[algorithm.default_dialect]
    assert [slot["name"] for slot in entry["state"]] == list(default.rule(default.defaults).slots)
    assert sum(slot["bytes_per_parameter"] for slot in entry["state"]) == pytest.approx(
        entry["bytes_per_parameter"], rel=0.02, abs=0.01
    )


# papers that have neither a DOI nor a number at arXiv
WITHOUT_AN_IDENTIFIER = {"nesterov", "adagrad", "nadam", "yogi"}


@EVERY
def test_an_entry_says_where_it_comes_from_and_when_to_use_it(algorithm: Algorithm) -> None:
    identified = re.search(r"doi:10\.\d{4,}/\S+|arXiv:\d{4}\.\d{4,5}", algorithm.source)
    assert (identified is None) == (algorithm.name in WITHOUT_AN_IDENTIFIER), algorithm.source
    assert len(re.findall(r"[.!?](?:\s|$)", algorithm.when)) == 2
    assert "<math" in convert(algorithm.equation)
    for name, dialect in algorithm.dialects.items():
        assert dialect.differs or len(algorithm.dialects) == 1, name


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
        *("simplified_ademamix", "adopt", "ftrl", "madgrad", "cocob", "noisy_sgd", "dog", "dowg", "prodigy"),
        *("dadapt_adamw", "polyak", "momo", "momo_star", "momo_adam", "momo_adam_star"),
        *("lookahead", "pull_back", "schedule_free", "schedule_free_at_z", "schedule_free_sgd", "sgd_in_place"),
        *("schedule_free_adamw", "adamw_in_place", "schedule_free_even", "mechanic", "sharpness_aware"),
        *("torch_fixed", "torch_wolfe", "optax_fixed", "optax_zoom"),
    }
    assert len(SPECIFICATIONS) > 350
    assert len(ALGORITHMS) == 59
