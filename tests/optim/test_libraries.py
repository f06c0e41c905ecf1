"""`like`: every library class with its own argument names, and the reason where something cannot be had."""

from __future__ import annotations

from typing import Any

import pytest

from service.errors import Invalid
from service.optim.catalogue import ALGORITHMS
from service.optim.libraries import REFUSED, SPEED, SPELLINGS, Clip, Only, OrNull, Spelling, spellings_of
from service.optim.optimizer import Optimizer, build
from service.optim.specification import resolve
from tests.optim.table import inside, layout

# Every optimizer of torch 2.13.0, optax 0.2.8 and Keras 3.15.1: the classes of torch.optim and keras.optimizers, the
# functions of optax/_src/alias.py and those of optax.contrib that are no parts of one (scale_by_...).
LIBRARIES = {
    "torch.optim": "Adadelta Adafactor Adagrad Adam AdamW Adamax ASGD LBFGS Muon NAdam Optimizer RAdam RMSprop Rprop "
    "SGD SparseAdam",
    "optax": "adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars lbfgs lion "
    "nadam nadamw noisy_sgd novograd optimistic_adam optimistic_adam_v2 optimistic_gradient_descent polyak_sgd radam "
    "rmsprop rprop sgd sign_sgd signum sm3 yogi lookahead MultiSteps",
    "optax.contrib": "acprop ademamix adopt cocob dadapt_adamw differentially_private_aggregate dog dowg dpsgd galore "
    "madgrad mechanize momo momo_adam muon normalize prodigy reduce_on_plateau sam schedule_free schedule_free_adamw "
    "schedule_free_sgd simplified_ademamix sophia split_real_and_imaginary",
    "keras.optimizers": "Adadelta Adafactor Adagrad Adam AdamW Adamax Ftrl Lamb Lion LossScaleOptimizer MultiOptimizer "
    "Muon Nadam Optimizer OptimizerMap RMSprop SGD ScheduleFreeAdamW",
}

EVERY = pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)


def call(spelling: Spelling, **arguments: Any) -> dict[str, Any]:
    """The class with these arguments, and with a learning rate where it has no default."""
    rate = {"learning_rate": 0.1} if spelling.dialect == "optax" else {}
    return {"like": spelling.path, **rate, **arguments}


def refused(specification: Any) -> tuple[str, str]:
    with pytest.raises(Invalid) as caught:
        build(specification, layout())
    assert len(caught.value.places) == 1
    return caught.value.detail, caught.value.places[0].pointer


def transforms(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [t.as_json() for t in optimizer.transforms]


@EVERY
def test_every_spelling_is_of_an_algorithm_in_a_dialect_with_hyperparameters_of_those_names(
    spelling: Spelling,
) -> None:
    dialect = ALGORITHMS[spelling.algorithm].dialects[spelling.dialect]
    assert spelling.path.startswith(f"{spelling.dialect}.")
    ours = set(spelling.fixed)
    for target in spelling.arguments.values():
        if isinstance(target, OrNull):
            ours.add(target.name)
        elif isinstance(target, str):
            ours.add(target)
        elif isinstance(target, tuple):
            ours.update(target)
    assert ours <= set(dialect.defaults)


@EVERY
def test_the_bare_class_has_the_dialects_defaults(spelling: Spelling) -> None:
    resolved = resolve(call(spelling)).as_json()
    by_name = resolve(
        {"name": spelling.algorithm, "dialect": spelling.dialect, **spelling.fixed}
        | ({"learning_rate": 0.1} if spelling.dialect == "optax" else {})
    )
    assert resolved == by_name.as_json()


@EVERY
def test_each_argument_does_what_the_table_says(spelling: Spelling) -> None:
    plain = build(call(spelling), layout())
    for name, target in spelling.arguments.items():
        pointer = f"/optimizer/{name}"
        if target is SPEED:
            changed = build(call(spelling, **{name: True}), layout())
            assert changed.as_json() == plain.as_json()
        elif isinstance(target, Only):
            for value in target.values:
                assert build(call(spelling, **{name: value}), layout()).as_json() == plain.as_json()
            detail, place = refused(call(spelling, **{name: "other"}))
            assert f"{spelling.path}'s {name} can only be" in detail
            assert target.reason in detail
            assert place == pointer
        elif isinstance(target, Clip):
            (clip,) = transforms(build(call(spelling, **{name: 0.5}), layout()))
            assert clip == {"name": target.transform, target.argument: 0.5, **target.more}
            assert transforms(build(call(spelling, **{name: None}), layout())) == []
            detail, place = refused(call(spelling, **{name: -1}))
            assert target.argument in detail
            assert place == pointer
        elif isinstance(target, tuple):
            assert refused(call(spelling, **{name: 0.9}))[1] == pointer
            assert f"a list of {len(target)} numbers" in refused(call(spelling, **{name: [0.9]}))[0]
            assert refused(call(spelling, **{name: [0.9, "x"]}))[1] == f"{pointer}/1"
            declared = {h.name: h for h in ALGORITHMS[spelling.algorithm].hyperparameters}
            pair = [inside(declared[ours], value) for ours, value in zip(target, (0.5, 0.25), strict=True)]
            values = resolve(call(spelling, **{name: pair})).values
            assert [values[ours] for ours in target] == pair
            assert resolve(call(spelling, **{name: tuple(pair)})).values == values
        else:
            detail, place = refused(call(spelling, **{name: "x"}))
            assert place == pointer
            assert "must be" in detail


@EVERY
def test_null_is_the_default_where_the_library_says_so_and_nowhere_else(spelling: Spelling) -> None:
    for name, target in spelling.arguments.items():
        if isinstance(target, OrNull):
            assert resolve(call(spelling, **{name: None})) == resolve(call(spelling))
        elif isinstance(target, str):
            assert refused(call(spelling, **{name: None}))[1] == f"/optimizer/{name}"


@EVERY
def test_an_unknown_argument_is_refused_with_the_nearest_and_the_accepted(spelling: Spelling) -> None:
    first = next(iter(spelling.arguments))
    detail, place = refused(call(spelling, **{first + "x": 1}))
    assert f"{spelling.path} has no argument '{first}x'; did you mean '{first}'?" in detail
    assert f"Accepted: {', '.join(spelling.arguments)}." in detail
    assert place == f"/optimizer/{first}x"


@EVERY
def test_the_resolved_specification_no_longer_needs_the_library(spelling: Spelling) -> None:
    resolved = resolve(call(spelling))
    assert resolve(resolved.as_json()) == resolved


def test_a_schedule_keeps_the_librarys_name_in_its_pointers() -> None:
    falling = {"schedule": "exponential", "initial": 0.1, "gamma": 0.9}
    spec = resolve({"like": "torch.optim.Adam", "lr": falling})
    assert spec.as_json()["learning_rate"] == falling
    detail, place = refused({"like": "torch.optim.Adam", "lr": {**falling, "gamma": -1}})
    assert place == "/optimizer/lr/gamma"
    assert "gamma" in detail
    betas = [{"schedule": "constant", "value": 2}, 0.9]
    assert refused({"like": "torch.optim.Adam", "betas": betas})[1] == "/optimizer/betas/0/value"


def test_what_is_missing_is_named() -> None:
    detail, place = refused({"like": "optax.adam"})
    assert "needs learning_rate" in detail
    assert place == "/optimizer/learning_rate"


def test_keras_takes_one_clip_at_most() -> None:
    detail, place = refused({"like": "keras.optimizers.Adam", "clipnorm": 1.0, "clipvalue": 1.0})
    assert "takes only one of clipnorm, clipvalue, global_clipnorm" in detail
    assert place == "/optimizer/clipvalue"
    one = build({"like": "keras.optimizers.Adam", "clipnorm": 1.0, "clipvalue": None}, layout())
    assert len(one.transforms) == 1


@pytest.mark.parametrize(
    ("specification", "words", "pointer"),
    [
        ({"like": "torch.optim.Adm"}, "did you mean 'torch.optim.Adam'?", "/optimizer/like"),
        ({"like": "mxnet.Adam"}, "There is no library class 'mxnet.Adam'", "/optimizer/like"),
        ({"like": None}, '"like" is a class path', "/optimizer/like"),
        ({"like": ["torch.optim.Adam"]}, '"like" is a class path', "/optimizer/like"),
        ({"like": "torch.optim.Adam", "name": "adam"}, 'Give "name" or "like", not both.', "/optimizer/name"),
        ({"like": "torch.optim.Adam", "dialect": "torch"}, "no argument 'dialect'", "/optimizer/dialect"),
        ({"like": "torch.optim.Adam", "learning_rate": 1}, "Accepted: lr,", "/optimizer/learning_rate"),
        ({"like": "torch.optim.SGD", "nesterov": True}, "nesterov needs a momentum", "/optimizer/momentum"),
        ({"like": "torch.optim.SGD", "differentiable": True}, "no autograd graph", "/optimizer/differentiable"),
        ({"like": "optax.adam", "learning_rate": 1, "nesterov": True}, "NAdam", "/optimizer/nesterov"),
        ({"like": "optax.adamw", "learning_rate": 1, "mask": {}}, "use groups instead", "/optimizer/mask"),
        ({"like": "keras.optimizers.SGD", "use_ema": True}, "average what the steps", "/optimizer/use_ema"),
        ({"like": "keras.optimizers.AdamW", "weight_decay": None}, "must be a finite", "/optimizer/weight_decay"),
        ({"like": "torch.optim.Adam", "eps": 10**400}, "epsilon must be a finite number", "/optimizer/eps"),
    ],
)
def test_refusals(specification: dict[str, Any], words: str, pointer: str) -> None:
    detail, place = refused(specification)
    assert words in detail
    assert place == pointer


def test_every_optimizer_of_the_libraries_is_had_or_refused_with_a_reason() -> None:
    every = {f"{module}.{name}" for module, names in LIBRARIES.items() for name in names.split()}
    assert set(SPELLINGS) | set(REFUSED) == every
    assert not set(SPELLINGS) & set(REFUSED)


@pytest.mark.parametrize("path", REFUSED)
def test_what_cannot_be_had_says_why(path: str) -> None:
    detail, place = refused({"like": path, "lr": 0.1})
    assert detail == f"{path} cannot be had here: {REFUSED[path]}."
    assert len(REFUSED[path]) > 25
    assert place == "/optimizer/like"


def test_the_power_of_ftrl_is_the_square_root() -> None:
    ftrl = {"like": "keras.optimizers.Ftrl"}
    assert build({**ftrl, "learning_rate_power": -0.5}, layout()).as_json() == build(ftrl, layout()).as_json()
    detail, place = refused({**ftrl, "learning_rate_power": -0.25})
    assert "can only be -0.5 here: only the square root" in detail
    assert place == "/optimizer/learning_rate_power"


def test_keras_may_be_given_a_name() -> None:
    assert resolve({"like": "keras.optimizers.Adam", "name": "my_adam"}).algorithm.name == "adam"


def test_options_that_the_library_takes_together_are_taken() -> None:
    """Only torch refuses Nesterov's form without momentum; in optax and Keras it is plain descent."""
    for path in ("optax.sgd", "keras.optimizers.SGD"):
        spec = resolve({"like": path, "learning_rate": 0.1, "nesterov": True})
        assert spec.rule.update.__name__ == "sgd"


def test_each_algorithm_lists_its_spellings() -> None:
    listed = [entry["like"] for name in ALGORITHMS for entry in spellings_of(name)]
    assert sorted(listed) == sorted(SPELLINGS)
    assert all(entry["arguments"] for name in ALGORITHMS for entry in spellings_of(name))
