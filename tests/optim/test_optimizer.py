"""Specification -> Optimizer: a pure fold, groups, absent gradients, and nothing but Invalid for what is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import Invalid, NonFinite
from service.optim.catalogue import ALGORITHMS
from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.libraries.catalogue import SPELLINGS
from service.optim.optimizer import Optimizer, build
from service.optim.rule import PARAMETERS
from service.optim.schedules.catalogue import SCHEDULES
from service.optim.specification import resolve
from service.optim.state import State
from service.optim.tensors import DTYPES, Array, Layout, single
from service.optim.transforms.catalogue import TRANSFORMS
from tests.optim.table import DIALECTS, SHAPES, SPECIFICATIONS, advance, gradients, inside, layout, run, same, start

EVERY_FORM = pytest.mark.parametrize("specification", SPECIFICATIONS.values(), ids=SPECIFICATIONS)
EVERY_DIALECT = pytest.mark.parametrize("specification", DIALECTS.values(), ids=DIALECTS)
ADAM = {"name": "adam"}
FALLING = {"schedule": "exponential", "initial": 0.1, "gamma": 0.9}


def refused(specification: Any = ADAM, transforms: Any = (), groups: Any = ()) -> tuple[str, str]:
    """The detail and the pointer of the refusal."""
    with pytest.raises(Invalid) as caught:
        build(specification, layout(), transforms, groups)
    assert caught.value.places
    return caught.value.detail, caught.value.places[0].pointer


def stored(optimizer: Optimizer, state: State) -> tuple[Optimizer, State]:
    """Both as they come back from storage: plain data, and read-only bytes."""
    plain = json.loads(json.dumps(optimizer.as_json()))
    read = [np.frombuffer(array.tobytes(), array.dtype) for array in (state.params, *state.slots)]
    counts = json.loads(json.dumps(state.counts))
    again = State(state.step, read[0], tuple(read[1:]), counts if isinstance(counts, int) else tuple(counts))
    return build(plain["optimizer"], optimizer.layout, plain["transforms"], plain["groups"]), again


def fold(optimizer: Optimizer, state: State, rows: list[Array], absent: Sequence[Sequence[int]] = ()) -> State:
    for i, row in enumerate(rows):
        state = advance(optimizer, state, row, absent[i] if absent else ())
    return state


# The fold


@EVERY_FORM
def test_a_fold_split_in_two_is_the_whole_and_no_input_is_touched(specification: Any) -> None:
    for dtype in DTYPES:
        subject, rows, first = build(specification, layout(dtype)), gradients(9, dtype), start(dtype)
        for array in (first, *rows):
            array.flags.writeable = False
        whole = fold(subject, subject.init(first), rows)
        half = fold(subject, subject.init(first), rows[:4])
        for array in (half.params, *half.slots):
            array.flags.writeable = False
        assert same(fold(*stored(subject, half), rows[4:]), whole)
        assert whole.params.dtype == DTYPES[dtype]
        assert [slot.dtype for slot in whole.slots] == [place.dtype for place in subject.places]
        assert all(p.dtype == DTYPES[dtype] for p in subject.places if p.of_tensors)


def test_a_split_fold_is_the_whole_with_everything_on() -> None:
    absent = [(), (1,), (0, 2), (), (0, 1, 2), (), (2,), (), ()]
    subject = build(
        {"name": "adam", "learning_rate": FALLING, "amsgrad": True, "weight_decay": 0.1},
        layout(),
        [{"name": "l1", "strength": FALLING}, {"name": "clip_by_global_norm", "max_norm": 1.0}],
        [{"match": "*.bias", "weight_decay": 0, "beta1": {"schedule": "constant", "value": 0.5}}],
    )
    rows = gradients(9)
    whole = fold(subject, subject.init(start()), rows, absent)
    for cut in range(9):
        half = fold(subject, subject.init(start()), rows[:cut], absent[:cut])
        assert same(fold(*stored(subject, half), rows[cut:], absent[cut:]), whole)
    assert whole.step == 9
    assert whole.counts == (7, 7, 6)


@EVERY_DIALECT
def test_the_state_depends_on_the_specification_and_the_shapes_alone(specification: Any) -> None:
    subject = build(specification, layout())
    one, other = subject.init(start()), subject.init(np.zeros(18))
    for name, mine, theirs in zip(subject.slot_names, one.slots, other.slots, strict=True):
        begins = subject.rule.initial.get(name)
        assert not np.shares_memory(mine, one.params)
        if begins is PARAMETERS:
            assert (mine.tobytes(), theirs.tobytes()) == (start().tobytes(), bytes(144))
        elif not callable(begins):  # what a function makes of the parameters is another test's
            assert mine.tobytes() == theirs.tobytes()
    moved = run(subject, gradients(3))
    kept = [((place.size,), place.dtype) for place in subject.places]
    assert [(a.shape, a.dtype) for a in moved.slots] == [(a.shape, a.dtype) for a in one.slots] == kept
    assert (one.step, one.counts) == (0, 0)
    if not subject.partial:
        assert (moved.step, moved.counts) == (3, 3)


@EVERY_DIALECT
def test_slots_start_where_the_rule_says(specification: Any) -> None:
    subject = build(specification, layout())
    for name, place, slot in zip(subject.rule.slots, subject.places, subject.init(start()).slots, strict=False):
        value = subject.rule.initial.get(name, 0.0)
        if isinstance(value, str):
            value = specification.get(value, 0.0)
        if callable(value):
            parts = [start()[where] for where in layout().slices] if place.of_tensors else [start()]
            shapes = layout().shapes if place.of_tensors else [(18,)]
            made = [value(p.reshape(s), subject.specification.values) for p, s in zip(parts, shapes, strict=True)]
            wanted = [x for m, s in zip(made, place.shapes, strict=True) for x in np.broadcast_to(m, s).ravel()]
        else:
            wanted = start().tolist() if value is PARAMETERS else [value] * place.size
        assert slot.tolist() == wanted
        assert slot.dtype == np.float64


def test_a_slot_that_starts_at_a_schedule_starts_at_its_first_value() -> None:
    subject = build({"name": "asgd", "learning_rate": FALLING}, layout())
    assert subject.init(start()).slots[0].tolist() == [0.1] * 18
    grouped = build({"name": "rprop"}, layout(), groups=[{"match": "*.bias", "learning_rate": 0.5}])
    assert grouped.init(start()).slots[1].tolist() == [0.01] * 12 + [0.5] * 5 + [0.01]


def test_a_step_tells_the_rate_that_it_used() -> None:
    subject = build({"name": "adam", "learning_rate": FALLING}, layout())
    state, rates = subject.init(start()), []
    for row in gradients(3):
        state, rate, _ = subject.step(state, row)
        rates.append(rate)
    assert rates == pytest.approx([0.1, 0.09, 0.081])
    paper = build({"name": "adadelta", "dialect": "paper"}, layout())
    assert paper.step(paper.init(start()), gradients(1)[0]).learning_rate == 1.0


@EVERY_DIALECT
def test_overflow_ends_in_infinities_without_a_warning(specification: Any) -> None:
    for dtype in DTYPES:
        subject = build(specification, layout(dtype), [{"name": "l2", "strength": 1e300}])
        huge = np.full(18, float(np.finfo(DTYPES[dtype]).max), DTYPES[dtype])
        state = fold(subject, subject.init(huge), [huge, -huge, huge])
        assert state.step == 3 or subject.partial


def test_layouts_of_every_kind() -> None:
    for names, shapes in (((), ()), (("e",), ((0,),)), (("a", "e"), ((2,), (0, 3))), (("s",), ((),))):
        subject = build(ADAM, Layout(names, shapes, DTYPES["float64"]))
        state = fold(subject, subject.init(np.ones(subject.layout.size)), [np.ones(subject.layout.size)] * 3)
        assert state.step == 3
        assert (state.params < 1.0).all()
    assert run(build(ADAM, single(18)), gradients(2)).counts == 2


def test_a_growing_rate_overflows_without_an_exception() -> None:
    subject = build({"name": "sgd", "learning_rate": {**FALLING, "gamma": 1e300}, "weight_decay": 0.1}, layout())
    state = fold(subject, subject.init(start()), gradients(6))
    assert not np.isfinite(state.params).all()


# Resolving


@EVERY_FORM
def test_resolving_is_idempotent(specification: Any) -> None:
    resolved = resolve(specification).as_json()
    assert resolved == {**specification, **resolved}
    assert resolve(resolved).as_json() == resolved
    assert resolve(json.loads(json.dumps(resolved))).as_json() == resolved


@EVERY_DIALECT
def test_every_number_may_follow_a_schedule(specification: Any) -> None:
    """A constant schedule is the same bits as the number; what cannot be scheduled says so."""
    algorithm, rows = ALGORITHMS[specification["name"]], gradients(4)
    specification = specification | {
        h.name: inside(h, 0.5) for h in algorithm.hyperparameters if h.null and h.name in specification
    }
    plain = run(build(specification, layout()), rows)
    for h in algorithm.hyperparameters:
        if h.kind != "number" or h.name not in specification:
            continue
        if specification.get("nesterov") and h.name == "dampening":
            continue  # only a plain 0 goes with nesterov
        scheduled = {**specification, h.name: {"schedule": "constant", "value": specification[h.name]}}
        if not h.schedulable:
            detail, pointer = refused(scheduled)
            assert f"{h.name} must be" in detail
            assert pointer == f"/optimizer/{h.name}"
            continue
        subject = build(scheduled, layout())
        assert subject.specification.as_json()[h.name] == scheduled[h.name]
        if subject.rule == build(specification, layout()).rule:
            assert same(run(subject, rows), plain)


@EVERY_DIALECT
def test_every_hyperparameter_is_checked_where_it_stands(specification: Any) -> None:
    declared = {h.name: h for h in ALGORITHMS[specification["name"]].hyperparameters}
    for name in specification.keys() - {"name", "dialect"}:
        for value in ("x", None, [], 10**400, float("nan")):
            if (value is None and declared[name].null) or (value == [] and declared[name].kind == "strings"):
                continue
            detail, pointer = refused({**specification, name: value})
            assert detail.startswith(f"{name} must be ")
            assert pointer == f"/optimizer/{name}"
        dialect = ALGORITHMS[specification["name"]].dialects[specification["dialect"]]
        if dialect.defaults[name] is REQUIRED:
            detail, pointer = refused({k: v for k, v in specification.items() if k != name})
            assert f"needs {name}: " in detail
            assert pointer == f"/optimizer/{name}"


@pytest.mark.parametrize(
    ("specification", "words", "pointer"),
    [
        (None, "An optimizer is", "/optimizer"),
        ([], "An optimizer is", "/optimizer"),
        ("adam", "An optimizer is", "/optimizer"),
        ({}, 'An optimizer needs a "name"', "/optimizer/name"),
        ({"name": None}, 'An optimizer needs a "name"', "/optimizer/name"),
        ({"name": ["adam"]}, 'An optimizer needs a "name"', "/optimizer/name"),
        ({"name": "adamm"}, "did you mean 'adam'? Accepted: sgd,", "/optimizer/name"),
        ({"name": "adam", "dialect": "pytorch"}, "did you mean 'torch'? Accepted: torch,", "/optimizer/dialect"),
        ({"name": "adam", "dialect": None}, "dialect must be a string", "/optimizer/dialect"),
        ({"name": "adam", "lr": 1}, "has no argument 'lr'", "/optimizer/lr"),
        ({"name": "adam", "learning_rat": 1}, "did you mean 'learning_rate'?", "/optimizer/learning_rat"),
        ({"name": "adam", "dialect": "paper", "amsgrad": True}, "adam in the dialect paper", "/optimizer/amsgrad"),
        ({"name": "adam", "learning_rate": {}}, 'a number or {"schedule"', "/optimizer/learning_rate"),
        ({"name": "adam", "beta1": 1}, "at least 0 and below 1", "/optimizer/beta1"),
        ({"name": "adam", "learning_rate": -1}, "at least 0", "/optimizer/learning_rate"),
        ({"name": "adam", "a/b": 1}, "no argument 'a/b'", "/optimizer/a~1b"),
        ({"name": "adam", "beta1": {**FALLING, "gamma": 2}}, "leaves the range", "/optimizer/beta1"),
    ],
)
def test_refusals(specification: Any, words: str, pointer: str) -> None:
    detail, place = refused(specification)
    assert words in detail
    assert place == pointer


@pytest.mark.parametrize(
    ("specification", "pointer"),
    [
        ({"name": "sgd", "nesterov": True}, "/optimizer/momentum"),
        ({"name": "sgd", "dialect": "paper", "learning_rate": 1, "nesterov": True}, "/optimizer/momentum"),
        ({"name": "sgd", "dialect": "scratch", "nesterov": True}, "/optimizer/momentum"),
        ({"name": "nesterov", "momentum": 0}, "/optimizer/momentum"),
        ({"name": "nesterov", "dampening": 0.5}, "/optimizer/dampening"),
        ({"name": "adam", "decoupled_weight_decay": True}, "/optimizer/weight_decay"),
    ],
)
def test_options_that_contradict_each_other_are_refused(specification: Any, pointer: str) -> None:
    detail, place = refused(specification)
    assert len(detail) > 30
    assert place == pointer


def test_a_scheduled_momentum_keeps_its_buffer_even_at_zero() -> None:
    rising = {"schedule": "linear_warmup", "peak": 0.9, "warmup_steps": 5}
    assert build({"name": "sgd", "momentum": rising, "nesterov": True}, layout()).rule.slots == ("momentum_buffer",)


# Groups


def test_a_group_overrides_what_it_matches_and_nothing_else() -> None:
    rows = gradients(5)
    grouped = run(build(ADAM, layout(), groups=[{"match": "layer.*", "learning_rate": 0.5}]), rows)
    slow, fast = run(build(ADAM, layout()), rows), run(build({**ADAM, "learning_rate": 0.5}, layout()), rows)
    assert grouped.params[:17].tobytes() == fast.params[:17].tobytes()
    assert grouped.params[17:].tobytes() == slow.params[17:].tobytes()
    assert grouped.counts == 5


def test_later_groups_win() -> None:
    groups = [{"match": "*", "learning_rate": 0.5, "beta1": 0.5}, {"match": "*.bias", "learning_rate": 0.25}]
    subject = build(ADAM, layout(), groups=groups)
    values = {layout().names[i]: spec.values for spec, indices in subject.members for i in indices}
    assert [values[name]["learning_rate"] for name in SHAPES] == [0.5, 0.25, 0.5]
    assert [values[name]["beta1"] for name in SHAPES] == [0.5, 0.5, 0.5]


@EVERY_DIALECT
def test_a_group_of_all_is_the_specification_itself(specification: Any) -> None:
    """Also the initial state: a group may start a sum of squares elsewhere."""
    wrapped = specification.get("optimizer")  # whose hyperparameters a group says
    given = specification if wrapped is None else resolve(wrapped).as_json()
    numbers = {
        h.name: inside(h, 0.125)
        for h in ALGORITHMS[given["name"]].hyperparameters
        if h.kind == "number" and h.name in given and h.name not in ("momentum", "dampening")
    }
    if specification["name"] == "schedule_free":
        numbers.pop("learning_rate", None)  # all tensors weigh by the ungrouped one
    rows = gradients(5)
    by_group = run(build(specification, layout(), groups=[{"match": "*", **numbers}]), rows)
    changed = {**given, **numbers} if wrapped is None else {**specification, "optimizer": {**given, **numbers}}
    assert same(by_group, run(build(changed, layout()), rows))


def test_decay_of_one_group_leaves_the_others_bits_alone() -> None:
    rows = gradients(5)
    for decay in ({"weight_decay": 0.1}, {"maximize": True}):
        grouped = run(build(ADAM, layout(), groups=[{"match": "scale", **decay}]), rows)
        plain, decayed = run(build(ADAM, layout()), rows), run(build({**ADAM, **decay}, layout()), rows)
        assert grouped.params[:17].tobytes() == plain.params[:17].tobytes()
        assert grouped.params[17:].tobytes() == decayed.params[17:].tobytes()


def test_no_decay_on_the_bias_whatever_the_kind_of_decay() -> None:
    groups = [{"match": "*.bias", "weight_decay": 0}]
    for specification in (
        {"name": "adamw"},
        {"name": "adam", "weight_decay": 0.1},
        {"name": "adam", "weight_decay": 0.1, "decoupled_weight_decay": True},
        {"like": "torch.optim.Adam", "weight_decay": 0.1, "decoupled_weight_decay": True},
    ):
        subject, zeros = build(specification, layout(), groups=groups), [np.zeros(18)] * 3
        state = run(subject, zeros)
        assert state.params[12:17].tobytes() == start()[12:17].tobytes()
        assert (state.params[:12] != start()[:12]).all()


def test_patterns_are_a_shells_and_case_sensitive() -> None:
    named = Layout(("A.w", "a.w", "a.[0]", "b"), ((1,),) * 4, DTYPES["float64"])

    def matched(pattern: str) -> list[str]:
        subject = build(ADAM, named, groups=[{"match": pattern, "learning_rate": 0.5}])
        return [named.names[i] for spec, ids in subject.members for i in ids if spec.values["learning_rate"] == 0.5]

    assert matched("a.*") == ["a.w", "a.[0]"]
    assert matched("?.w") == ["A.w", "a.w"]
    assert matched("[ab]*") == ["a.w", "a.[0]", "b"]
    assert matched("a.[[]0]") == ["a.[0]"]
    assert build(ADAM, single(3), groups=[{"match": "*", "learning_rate": 0.5}]).common is not None


def test_groups_are_echoed_as_they_were_given() -> None:
    groups = [{"match": "*.bias", "weight_decay": 0, "learning_rate": FALLING}]
    assert build({"name": "adamw"}, layout(), groups=groups).as_json()["groups"] == groups


@pytest.mark.parametrize(
    ("groups", "words", "pointer"),
    [
        (None, "groups must be a list", "/groups"),
        ({"match": "*"}, "groups must be a list", "/groups"),
        ([None], "A group is", "/groups/0"),
        ([[]], "A group is", "/groups/0"),
        ([{"learning_rate": 1}], "A group is", "/groups/0"),
        ([{"match": 1}], "A group is", "/groups/0"),
        (
            [{"match": "bias"}],
            "No parameter matches 'bias'. Names: layer.weight, layer.bias, scale.",
            "/groups/0/match",
        ),
        ([{"match": "*"}, {"match": "LAYER.*"}], "No parameter matches", "/groups/1/match"),
        ([{"match": "*", "lr": 1}], "has no argument 'lr'", "/groups/0/lr"),
        ([{"match": "*", "beta1": 1}], "below 1", "/groups/0/beta1"),
        ([{"match": "*"}, {"match": "*", "beta1": None}], "beta1 must be", "/groups/1/beta1"),
        ([{"match": "*", "beta1": {"schedule": "x"}}], "There is no schedule", "/groups/0/beta1/schedule"),
        ([{"match": "*", "name": "sgd"}], "has no argument 'name'", "/groups/0/name"),
        ([{"match": "*", "dialect": "optax"}], "has no argument 'dialect'", "/groups/0/dialect"),
        ([{"match": "scale", "amsgrad": True}], "A group cannot change which state is kept", "/groups/0"),
    ],
)
def test_refusals_of_groups(groups: Any, words: str, pointer: str) -> None:
    detail, place = refused(groups=groups)
    assert words in detail
    assert place == pointer


# Absent gradients


@EVERY_DIALECT
def test_a_tensor_without_a_gradient_is_left_as_it_is(specification: Any) -> None:
    subject, rows = build({**specification, **_decay(specification)}, layout()), gradients(4)
    before = run(subject, rows[:2])
    rows[2][12:17] = 123.0  # what stands in the place of an absent gradient is not looked at
    if subject.rule.committed is not None:
        with pytest.raises(Invalid, match="needs the gradient of every parameter"):
            advance(subject, before, rows[2], (1,))
        return
    after = advance(subject, before, rows[2], (1,))
    assert before.params[12:17].tobytes() == after.params[12:17].tobytes()
    for place, old, new in zip(subject.places, before.slots, after.slots, strict=True):
        if place.of_tensors:
            assert place.part(old, 1).tobytes() == place.part(new, 1).tobytes()
    assert (after.step, after.counts) == (3, 3 if subject.rule.span == "all" else (3, 2, 3))
    assert not same(advance(subject, before, rows[2])._replace(counts=after.counts), after)


def _decay(specification: Any) -> dict[str, float]:
    return {"weight_decay": 0.1} if "weight_decay" in specification else {}


@EVERY_DIALECT
def test_torch_counts_each_parameters_steps_and_the_others_the_sessions(specification: Any) -> None:
    """A tensor that was absent goes on as if its steps were the only ones; elsewhere, as late as the session is."""
    subject, rows = build(specification, layout()), gradients(4)
    if subject.rule.span == "all":
        return  # what all tensors share goes on without the one that was absent
    state = fold(subject, subject.init(start()), rows, [(), (1,), (1,), ()])
    own = fold(subject, subject.init(start()), [rows[0], rows[3]])
    spec = subject.specification
    unaware = spec.dialect.scalars(spec.values, 2) == spec.dialect.scalars(spec.values, 4)
    assert unaware or specification["name"] not in ("sgd", "momentum", "nesterov", "adagrad", "adadelta", "rmsprop")
    if spec.dialect.counter == "parameter" or unaware:
        assert state.params[12:17].tobytes() == own.params[12:17].tobytes()
    else:
        assert state.params[12:17].tobytes() != own.params[12:17].tobytes()


def test_schedules_count_the_sessions_steps_for_all() -> None:
    subject = build({"name": "sgd", "learning_rate": FALLING}, layout())
    state = fold(subject, subject.init(np.zeros(18)), [np.ones(18)] * 3, [(0,), (0,), ()])
    assert state.params[0] == pytest.approx(-0.081)
    assert state.params[17] == pytest.approx(-0.271)


def test_all_tensors_may_be_absent() -> None:
    subject = build(ADAM, layout(), [{"name": "clip_by_global_norm", "max_norm": 1.0}])
    before = run(subject, gradients(2))
    after = subject.step(before, np.zeros(18), (0, 1, 2)).state
    assert after == before._replace(step=3, params=after.params, slots=after.slots)
    assert same(after._replace(step=2), before)
    assert same(subject.step(after, gradients(3)[2]).state._replace(step=3), run(subject, gradients(3)))


def test_an_absent_gradient_counts_for_nothing_in_a_norm() -> None:
    clip = [{"name": "clip_by_global_norm", "max_norm": 1.0, "formula": "optax"}]
    subject = build({"name": "sgd", "learning_rate": 1.0}, layout(), clip)
    row = np.zeros(18)
    row[:12], row[17] = 1e6, 0.5
    state = subject.step(subject.init(np.zeros(18)), row, (0,)).state
    assert state.params[17] == -0.5


def test_absence_gives_the_same_bits_as_stepping_each_tensor_alone() -> None:
    absent = [(0,), (1, 2), (), (2,), (0, 1)]
    for specification in DIALECTS.values():
        rows, subject = gradients(5), build(specification, layout())
        if subject.specification.dialect.counter == "session" or subject.rule.span == "all":
            continue
        together = fold(subject, subject.init(start()), rows, absent)
        for i, where in enumerate(layout().slices):
            alone = build(specification, Layout(("alone",), (layout().shapes[i],), DTYPES["float64"]))
            own = [row[where] for row, missing in zip(rows, absent, strict=True) if i not in missing]
            assert fold(alone, alone.init(start()[where]), own).params.tobytes() == together.params[where].tobytes()


# Nothing but Invalid

odd = st.sampled_from([0, 1, -1, 2, 1e-8, 1e308, 5e-324, 1 - 2**-53, 10**400, -(10**400), float("inf"), float("nan")])
plain = st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.9])
names = st.sampled_from(
    sorted(
        {h.name for a in ALGORITHMS.values() for h in a.hyperparameters}
        | {a.name for f in (SCHEDULES, TRANSFORMS) for m in f.values() for a in m.arguments}
        | {"name", "dialect", "like", "schedule", "match", "", "~/"}
    )
)
words = st.sampled_from(
    sorted({*ALGORITHMS, *SPELLINGS, *SCHEDULES, *TRANSFORMS, *(d for a in ALGORITHMS.values() for d in a.dialects)})
)
scalars = st.none() | st.booleans() | odd | plain | words | st.text(max_size=3)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3), max_leaves=8
)


def mostly(
    likely: st.SearchStrategy[Any], *unlikely: st.SearchStrategy[Any], one_in: int = 20
) -> st.SearchStrategy[Any]:
    """The first, and now and then another."""
    return st.integers(1, one_in).flatmap(lambda i: st.one_of(*unlikely) if i == one_in else likely)


def arguments_of(declared: Sequence[Hyperparameter], values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Some or all of these arguments, mostly of the right type, now and then of any."""
    kinds = {
        "number": values,
        "integer": st.integers(1, 9),
        "integers": st.lists(st.integers(0, 9), min_size=1, max_size=3).map(sorted),
        "triples": st.lists(st.tuples(values, values, values).map(list), min_size=1, max_size=3),
        "strings": st.lists(st.sampled_from(["bias", "layer", "embedding"]), max_size=2),
        "boolean": st.booleans(),
        "choice": words,
        "optimizer": st.sampled_from([ADAM, {"name": "sgd"}, {"like": "optax.lion", "learning_rate": 0.1}]),
        "pattern": st.sampled_from(["*", "*.bias", "scale", "none", "[ab]*"]),
    }
    likely = {h.name: st.sampled_from(h.choices) if h.choices else mostly(kinds[h.kind], anything) for h in declared}
    return st.fixed_dictionaries({}, optional=likely) | st.fixed_dictionaries(likely)


def member_of(family: Mapping[str, Any], key: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A schedule or a transform with arguments."""
    return st.sampled_from(sorted(family)).flatmap(
        lambda name: arguments_of(family[name].arguments, values).map(lambda given: {**given, key: name})
    )


schedules = member_of(SCHEDULES, "schedule", mostly(plain, odd))
values = mostly(plain, odd, schedules, one_in=8)
by_name = st.sampled_from(sorted(DIALECTS)).flatmap(
    lambda key: st.tuples(
        arguments_of([h for h in ALGORITHMS[DIALECTS[key]["name"]].hyperparameters if h.name in DIALECTS[key]], values),
        mostly(st.just({}), st.dictionaries(names, anything, max_size=1)),
    ).map(lambda drawn: {**DIALECTS[key], **drawn[0], **drawn[1]})
)
by_like = st.sampled_from(sorted(SPELLINGS)).flatmap(
    lambda path: st.dictionaries(
        st.sampled_from(sorted(SPELLINGS[path].arguments)), st.none() | st.booleans() | values | anything, max_size=3
    ).map(lambda given: {**({"learning_rate": 0.1} if path.startswith("optax") else {}), **given, "like": path})
)
patterns = mostly(
    st.sampled_from(["*", "layer*", "scale"]),
    st.sampled_from(["[", "[!", "[[a-", "[z-a]*", "[--&&||~~]*", "\\*", "[!l]*"]),
    st.text(),
)
_GROUPED = ("learning_rate", "beta1", "beta2", "epsilon", "weight_decay")
groups_of_adam = st.lists(
    st.tuples(
        patterns, arguments_of([h for h in ALGORITHMS["adam"].hyperparameters if h.name in _GROUPED], values)
    ).map(lambda drawn: {**drawn[1], "match": drawn[0]}),
    max_size=3,
)


def attempt(specification: Any, transforms: Any, groups: Any) -> Optimizer | Invalid:
    """What comes of it, which may be nothing else."""
    try:
        return build(specification, layout(), transforms, groups)
    except Invalid as error:
        return error


def builds_or_refuses(specification: Any, transforms: Any, groups: Any) -> bool:
    """Whether it builds; then it steps, and what it resolves to is itself. Else Invalid says where."""
    subject = attempt(specification, transforms, groups)
    if isinstance(subject, Invalid):
        assert subject.detail
        assert subject.places
        assert all(p.pointer.startswith(("/optimizer", "/transforms", "/groups")) for p in subject.places)
        return False
    resolved = json.loads(json.dumps(subject.as_json(), allow_nan=False))
    again = build(resolved["optimizer"], layout(), resolved["transforms"], resolved["groups"])
    assert again.as_json() == resolved
    state = subject.init(start())
    for n, absent in enumerate(((), (), () if subject.partial else (1,), ())):
        try:
            state = advance(subject, state._replace(step=10**n), gradients(1)[0], absent)
        except NonFinite:
            return True
    assert state.step == 1001 or (subject.partial and state.step == 1000)
    return True


FUZZ = settings(derandomize=True, deadline=None, max_examples=400)


@FUZZ
@given(by_name | by_like)
def test_any_specification_builds_or_raises_invalid(specification: Any) -> None:
    builds_or_refuses(specification, (), ())


@FUZZ
@given(st.lists(member_of(TRANSFORMS, "name", values), max_size=3))
def test_any_transforms_build_or_raise_invalid(transforms: Any) -> None:
    builds_or_refuses(ADAM, transforms, [])


@FUZZ
@given(groups_of_adam)
def test_any_groups_build_or_raise_invalid(groups: Any) -> None:
    builds_or_refuses(ADAM, [], groups)


@FUZZ
@given(anything, anything, anything)
def test_any_json_at_all_builds_or_raises_invalid(specification: Any, transforms: Any, groups: Any) -> None:
    builds_or_refuses(specification, (), ())
    builds_or_refuses(ADAM, transforms, ())
    builds_or_refuses(ADAM, (), groups)
