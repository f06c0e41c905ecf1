"""`like`: every library class with its own argument names, and the reason where something cannot be had."""

from __future__ import annotations

from typing import Any

import pytest

from service.errors import Invalid
from service.optim.catalogue import ALGORITHMS
from service.optim.hyperparameters import REQUIRED
from service.optim.libraries.catalogue import REFUSED, SPELLINGS, spellings_of
from service.optim.libraries.spelling import SPEED, Brings, Clip, Coefficients, Of, Only, OrNull, Part, Spelling
from service.optim.optimizer import Optimizer, build
from service.optim.specification import resolve
from service.optim.tensors import DTYPES, Layout
from service.optim.transforms.catalogue import TRANSFORMS
from tests.golden.cases_wrappers import adversary
from tests.optim.table import SHAPES, complete, inside, layout, sample

# Every optimizer of torch 2.13.0, optax 0.2.8 and Keras 3.15.1: the classes of torch.optim and keras.optimizers, the
# functions of optax/_src/alias.py and those of optax.contrib that are no parts of one (scale_by_...), but for the one
# part that is an optimizer by itself.
LIBRARIES = {
    "torch.optim": "Adadelta Adafactor Adagrad Adam AdamW Adamax ASGD LBFGS Muon NAdam Optimizer RAdam RMSprop Rprop "
    "SGD SparseAdam",
    "optax": "adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars lbfgs lion "
    "nadam nadamw noisy_sgd novograd optimistic_adam optimistic_adam_v2 optimistic_gradient_descent polyak_sgd radam "
    "rmsprop rprop sgd sign_sgd signum sm3 yogi lookahead MultiSteps scale_by_distance_over_gradients",
    "optax.contrib": "acprop ademamix adopt cocob dadapt_adamw differentially_private_aggregate dog dowg dpsgd galore "
    "madgrad mechanize momo momo_adam muon normalize prodigy reduce_on_plateau sam schedule_free schedule_free_adamw "
    "schedule_free_sgd simplified_ademamix sophia split_real_and_imaginary",
    "keras.optimizers": "Adadelta Adafactor Adagrad Adam AdamW Adamax Ftrl Lamb Lion LossScaleOptimizer MultiOptimizer "
    "Muon Nadam Optimizer OptimizerMap RMSprop SGD ScheduleFreeAdamW",
}

EVERY = pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)


def call(spelling: Spelling, **arguments: Any) -> dict[str, Any]:
    """The class with these arguments, and with something where it has no default."""
    declared = {h.name: h for h in ALGORITHMS[spelling.algorithm].hyperparameters}
    defaults = ALGORITHMS[spelling.algorithm].dialects[spelling.dialect].defaults
    needed: dict[str, Any] = {}
    for name, target in spelling.arguments.items():
        if isinstance(target, str) and defaults[target] is REQUIRED:
            needed[name] = sample(declared[target])
        elif isinstance(target, Part) and target.null is None:
            needed[name] = adversary(0.5)
    rate = {"learning_rate": 0.1} if spelling.dialect == "optax" and "learning_rate" in spelling.arguments else {}
    return {"like": spelling.path, **needed, **rate, **arguments}


def room(spelling: Spelling) -> Layout:
    """Tensors that the class takes."""
    fits = resolve(call(spelling)).rule.fits
    shapes = {name: shape for name, shape in SHAPES.items() if fits(shape) is None}
    return Layout(tuple(shapes), tuple(shapes.values()), DTYPES["float64"])


def refused(specification: Any) -> tuple[str, str]:
    with pytest.raises(Invalid) as caught:
        build(specification, layout())
    assert len(caught.value.places) == 1
    return caught.value.detail, caught.value.places[0].pointer


def filled(transform: str, arguments: Any) -> dict[str, Any]:
    """A transform with these arguments, the others at their defaults."""
    return {"name": transform, **TRANSFORMS[transform].defaults, **arguments}


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
        if isinstance(target, OrNull | Coefficients):
            ours.add(target.name)
        elif isinstance(target, str):
            ours.add(target)
        elif isinstance(target, tuple):
            ours.update(target)
    assert ours <= set(dialect.defaults)


@EVERY
def test_the_bare_class_has_the_dialects_defaults(spelling: Spelling) -> None:
    resolved = resolve(call(spelling)).as_json()
    dialect = ALGORITHMS[spelling.algorithm].dialects[spelling.dialect]
    given = complete(ALGORITHMS[spelling.algorithm], dialect)
    by_name = resolve(
        {"name": spelling.algorithm, "dialect": spelling.dialect, **spelling.fixed}
        | {n: v for n, v in given.items() if dialect.defaults[n] is REQUIRED}
        | {name: value for name, value in call(spelling).items() if name == "learning_rate"}
    )
    assert resolved == by_name.as_json()


@EVERY
def test_each_argument_does_what_the_table_says(spelling: Spelling) -> None:
    plain = build(call(spelling), room(spelling))
    for name, target in spelling.arguments.items():
        pointer = f"/optimizer/{name}"
        if target is SPEED:
            changed = build(call(spelling, **{name: True}), room(spelling))
            assert changed.as_json() == plain.as_json()
        elif isinstance(target, Only):
            for value in target.values:
                assert build(call(spelling, **{name: value}), room(spelling)).as_json() == plain.as_json()
            detail, place = refused(call(spelling, **{name: "other"}))
            assert f"{spelling.path}'s {name} can only be" in detail
            assert target.reason in detail
            assert place == pointer
        elif isinstance(target, Brings):
            value = True if target.argument is None else 3
            own = {} if target.argument is None else {target.argument: value}
            (brought,) = transforms(build(call(spelling, **{name: value}), room(spelling)))
            assert brought == filled(target.transform, {**target.more, **own})
            for off in target.off:
                assert transforms(build(call(spelling, **{name: off}), room(spelling))) == []
            assert refused(call(spelling, **{name: "x"}))[1] == pointer
        elif isinstance(target, Part):
            detail, place = refused(call(spelling, **{name: "x"}))
            assert f"{spelling.path}'s {name} must be " in detail
            assert place == pointer
        elif isinstance(target, Of):
            assert build(call(spelling, **{name: 3}), room(spelling)).as_json() == plain.as_json()
            assert refused(call(spelling, **{name: "x", target.name: True}))[1] == pointer
        elif isinstance(target, Clip):
            (clip,) = transforms(build(call(spelling, **{name: 0.5}), room(spelling)))
            assert clip == filled(target.transform, {**target.more, target.argument: 0.5})
            assert transforms(build(call(spelling, **{name: None}), room(spelling))) == []
            detail, place = refused(call(spelling, **{name: -1}))
            assert target.argument in detail
            assert place == pointer
        elif isinstance(target, Coefficients):
            for preset, rows in target.presets.items():
                assert resolve(call(spelling, **{name: preset})).values[target.name] == rows
            assert resolve(call(spelling, **{name: (3, -3, 1)})).values[target.name] == [[3.0, -3.0, 1.0]]
            twice = [[3, -3, 1], (2.0, -1.0, 0.5)]
            assert resolve(call(spelling, **{name: twice})).values[target.name] == [list(map(float, r)) for r in twice]
            for wrong in ("x", [[1, 2, 3]], [1, 2], 5, None, [[1, 2, 3], [1, 2]]):
                detail, place = refused(call(spelling, **{name: wrong}))
                assert "must be" in detail
                assert place == pointer
        elif isinstance(target, tuple):
            assert refused(call(spelling, **{name: 0.9}))[1] == pointer
            assert f"a list of {len(target)} numbers" in refused(call(spelling, **{name: [0.9]}))[0]
            declared = {h.name: h for h in ALGORITHMS[spelling.algorithm].hyperparameters}
            chosen = zip((declared[ours] for ours in target), (0.5, 0.25, 0.125), strict=False)
            pair = [h.choices[0] if h.kind == "choice" else inside(h, value) for h, value in chosen]
            assert refused(call(spelling, **{name: [pair[0], "x", *pair[2:]]}))[1] == f"{pointer}/1"
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
            defaults = {**ALGORITHMS[spelling.algorithm].dialects[spelling.dialect].defaults, **spelling.fixed}
            given = resolve(call(spelling, **{name: None})).values
            assert given == {**resolve(call(spelling)).values, target.name: target.null(defaults[target.name])}
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


def test_what_keras_does_around_its_step_is_done_in_keras_order() -> None:
    asked = {"use_ema": True, "ema_overwrite_frequency": 5, "clipnorm": 1.0, "gradient_accumulation_steps": 4}
    subject = build({"like": "keras.optimizers.SGD", **asked, "loss_scale_factor": 8.0}, layout())
    assert [t["name"] for t in transforms(subject)] == ["unscale", "accumulate", "clip_by_norm", "parameter_ema"]
    average = transforms(subject)[-1]
    assert (average["decay"], average["overwrite_every"], average["gradients_per_update"]) == (0.99, 5, 4)


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
        ({"like": "keras.optimizers.SGD", "use_ema": 1}, "must be true or false", "/optimizer/use_ema"),
        (
            {"like": "keras.optimizers.SGD", "use_ema": True, "ema_momentum": 2},
            "decay must be",
            "/optimizer/ema_momentum",
        ),
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
