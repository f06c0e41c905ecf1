"""The names that libraries have for the state: complete, true to the rules, and told in the catalogue."""

from __future__ import annotations

import json

import pytest

from service.optim.catalogue import ALGORITHMS
from service.optim.exchange import FORMS, STAYS, algorithm_of, describe
from service.optim.libraries.catalogue import SPELLINGS
from service.optim.rule import PARAMETERS
from service.optim.specification import resolve
from tests.golden import cases

LIBRARIES = ("torch", "optax", "keras")
ALL = [*cases.TORCH, *cases.OPTAX, *cases.KERAS, *(case for name in cases.FAMILIES for case in cases.family(name))]
CASES = [case for case in ALL if not case.scheduler]


def test_every_form_of_a_library_moves_or_has_a_reason() -> None:
    theirs = {(a.name, dialect) for a in ALGORITHMS.values() for dialect in a.dialects if dialect in LIBRARIES}
    assert FORMS.keys() | STAYS.keys() == theirs
    assert not FORMS.keys() & STAYS.keys()
    assert all(reason[0].islower() and not reason.endswith(".") for reason in STAYS.values())


def test_every_class_is_one_that_can_be_named() -> None:
    for (name, dialect), form in FORMS.items():
        assert form.spelling.dialect == dialect
        assert form.spelling.algorithm in ALGORITHMS, name
    assert all(algorithm_of(path) == spelling.algorithm for path, spelling in SPELLINGS.items())
    assert algorithm_of("torch.optim.Adm") is None


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_every_slot_that_options_choose_has_a_name_there(case: cases.Case) -> None:
    spec = resolve({"like": case.like, **case.arguments})
    form = FORMS.get((spec.algorithm.name, spec.dialect_name))
    if form is None:
        assert (spec.algorithm.name, spec.dialect_name) in STAYS
        return
    rule = spec.rule
    assert set(rule.slots) <= set(form.slots)
    for name in rule.slots:
        kept, shape = form.slots[name], rule.shapes.get(name)
        assert kept.shared == isinstance(shape, tuple)
        if spec.dialect_name == "torch":  # optax and Keras have all state from the start
            start = rule.initial.get(name, 0.0)
            assert kept.starts == (0.0 if isinstance(start, str) and start not in spec.values else start)
        if callable(shape) and not rule.named:
            for axes in range(4):
                has = shape((2,) * axes) != (0,)
                assert has == (kept.axes[0] <= axes <= kept.axes[1])
    for name, kept in form.slots.items():
        if kept.needs is not None:
            assert (name in rule.slots) == bool(spec.values[kept.needs])


def test_no_two_slots_of_one_run_have_the_same_name_there() -> None:
    for key, form in FORMS.items():
        called = [kept.called for kept in form.slots.values()]
        assert len(set(called)) == len(called), key
        assert not set(called) & set(form.derived), key


def test_slots_start_at_what_a_client_can_know() -> None:
    for form in FORMS.values():
        for kept in form.slots.values():
            assert isinstance(kept.starts, float | str)
            assert kept.starts is not PARAMETERS


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_catalogue_tells_it(name: str) -> None:
    entry = describe(ALGORITHMS[name])
    assert json.loads(json.dumps(entry)) == entry
    libraries = [dialect for dialect in ALGORITHMS[name].dialects if dialect in LIBRARIES]
    assert list(entry["exchange"]) == libraries
    for dialect, told in entry["exchange"].items():
        if "stays" in told:
            assert told == {"stays": STAYS[name, dialect]}
            continue
        defaults = ALGORITHMS[name].dialects[dialect].defaults
        said = [ours for argument in told["arguments"].values() for ours in argument["is"]]
        assert sorted([*said, *told["unsaid"]]) == sorted(defaults), dialect
        assert set(told["arguments"]) | set(told["fixed"]) <= set(SPELLINGS[told["like"]].arguments)


def test_a_slot_of_the_state_says_what_it_is_called() -> None:
    first, second = describe(ALGORITHMS["adam"])["state"]
    assert first["called"] == {"torch": "exp_avg", "optax": "mu", "keras": "_momentums"}
    assert second["called"] == {"torch": "exp_avg_sq", "optax": "nu", "keras": "_velocities"}
    assert "called" not in describe(ALGORITHMS["aggmo"])["state"][0]


def test_a_class_that_is_an_option_is_named_with_it() -> None:
    told = describe(ALGORITHMS["nadamw"])["exchange"]["torch"]
    assert (told["like"], told["fixed"]) == ("torch.optim.NAdam", {"decoupled_weight_decay": True})
    assert describe(ALGORITHMS["amsgrad"])["exchange"]["keras"]["fixed"] == {"amsgrad": True}
    arguments = describe(ALGORITHMS["adam"])["exchange"]["torch"]["arguments"]
    assert arguments["betas"] == {"is": ["beta1", "beta2"], "list": True}
    assert describe(ALGORITHMS["adam"])["exchange"]["keras"]["arguments"]["weight_decay"]["null"] == 0.0
