"""Transforms: what each does to the gradient, and what is refused."""

from __future__ import annotations

import json
from math import inf, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import Invalid, NonFinite
from service.optim.hyperparameters import REQUIRED
from service.optim.optimizer import Optimizer, build
from service.optim.tensors import DTYPES, Array, Layout
from service.optim.transforms.catalogue import REFUSED, SPELLINGS, TRANSFORMS, describe, parse_list
from service.optim.transforms.form import Applied, At, Transform
from tests.optim.table import gradients, layout, run, same, start

EVERY = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
SLICES = (slice(0, 2), slice(2, 5))
G = np.array([3.0, -4.0, 0.5, -0.0, 0.0])
P = np.array([1.0, -2.0, 0.0, 4.0, -0.0])


def parts(dtype: str = "float64") -> Layout:
    return Layout(tuple("ab"), ((2,), (3,)), DTYPES[dtype])


def slots_of(applied: Applied, dtype: str = "float64") -> list[Array]:
    """The transform's state before the first step."""
    subject = build({"name": "sgd"}, parts(dtype), [applied.as_json()])
    return list(subject.init(P.astype(DTYPES[dtype])).slots)


def apply(specification: dict[str, Any], g: Any = G, slices: Any = SLICES, n: int = 0) -> Array:
    (applied,) = parse_list([specification])
    present = [i for i, where in enumerate(parts().slices) if where in slices]
    out, _ = applied(np.asarray(g), P, At(parts(), present, n, (0.5, 0.5)), slots_of(applied))
    assert out is not None
    return out


def least(transform: Transform, **more: Any) -> dict[str, Any]:
    """The specification with no more than what must be given."""
    needed = [a for a in transform.arguments if transform.defaults[a.name] is REQUIRED]
    given = {a.name: 1 if a.kind == "integer" else {"lower": 0.25, "upper": 1.0}.get(a.name, 0.5) for a in needed}
    return {"name": transform.name, **given, **more}


def scheduled_in(transform: Transform) -> list[str]:
    """The arguments that may be schedules."""
    return [a.name for a in transform.arguments if a.kind == "number" and a.schedulable]


def refused(specifications: Any) -> tuple[str, str]:
    with pytest.raises(Invalid) as caught:
        parse_list(specifications)
    return caught.value.detail, caught.value.places[0].pointer


def test_penalties_add_their_gradient() -> None:
    assert apply({"name": "l1", "strength": 0.5}).tolist() == [3.5, -4.5, 0.5, 0.5, 0.0]
    assert apply({"name": "l2", "strength": 0.5}).tolist() == [3.5, -5.0, 0.5, 2.0, 0.0]
    assert apply({"name": "elastic_net", "l1": 0.5, "l2": 0.5}).tolist() == [4.0, -5.5, 0.5, 2.5, 0.0]


def test_clipping_by_value_bounds_each_element() -> None:
    assert apply({"name": "clip_by_value", "limit": 1.0}).tolist() == [1.0, -1.0, 0.5, 0.0, 0.0]


def test_clipping_by_norm_is_of_each_tensor() -> None:
    clipped = apply({"name": "clip_by_norm", "max_norm": 1.0})
    assert clipped == pytest.approx([0.6, -0.8, 0.5, 0.0, 0.0])
    assert apply({"name": "clip_by_norm", "max_norm": 0.25})[2] == 0.25
    assert apply({"name": "clip_by_norm", "max_norm": 5.0}).tobytes() == G.tobytes()


def test_clipping_by_global_norm_keeps_the_direction() -> None:
    whole = sqrt(25.25)
    for formula, size in (("torch", whole + 1e-6), ("optax", whole), ("keras", whole)):
        clipped = apply({"name": "clip_by_global_norm", "max_norm": 2.0, "formula": formula})
        assert clipped == pytest.approx(G * 2.0 / size, rel=1e-14)
    for formula in ("torch", "optax", "keras"):
        kept = apply({"name": "clip_by_global_norm", "max_norm": 6.0, "formula": formula})
        assert kept.tobytes() == G.tobytes()
    just_below = apply({"name": "clip_by_global_norm", "max_norm": whole, "formula": "torch"})
    assert (np.abs(just_below[:3]) < np.abs(G[:3])).all(), "torch's 1e-6 shrinks what is at the limit"


def test_norms_are_of_the_tensors_that_have_a_gradient() -> None:
    limit = {"name": "clip_by_global_norm", "max_norm": 1.0, "formula": "optax"}
    assert apply(limit, slices=SLICES[1:])[2] == 0.5
    assert apply({"name": "clip_by_norm", "max_norm": 1.0}, slices=SLICES[1:])[:2].tolist() == [3.0, -4.0]
    assert apply(limit, slices=()).tolist() == G.tolist()


@pytest.mark.parametrize("formula", ["torch", "optax", "keras"])
def test_the_zero_gradient_stays_zero(formula: str) -> None:
    zero = apply({"name": "clip_by_global_norm", "max_norm": 1.0, "formula": formula}, np.zeros(5))
    assert zero.tolist() == [0.0] * 5


@pytest.mark.parametrize("size", [1e-200, 1e200])
def test_clipping_works_where_squares_leave_the_range(size: float) -> None:
    for name in ("clip_by_norm", "clip_by_global_norm"):
        clipped = apply({"name": name, "max_norm": size}, G * size)
        assert clipped[:2] == pytest.approx(size * np.array([0.6, -0.8]), rel=0.01 if name != "clip_by_norm" else 1e-9)


@pytest.mark.parametrize("name", ["clip_by_norm", "clip_by_global_norm"])
def test_a_norm_past_the_range_is_refused(name: str) -> None:
    with pytest.raises(NonFinite, match="norm overflows; scale the gradient down"):
        apply({"name": name, "max_norm": 1.0}, np.full(5, 1.7e308))


@EVERY
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_type_is_kept_and_the_input_left_alone(transform: Transform, dtype: str) -> None:
    g, p = G.astype(DTYPES[dtype]), P.astype(DTYPES[dtype])
    (applied,) = parse_list([least(transform)])
    slots = slots_of(applied, dtype)
    for array in (g, p, *slots):
        array.flags.writeable = False
    out, after = applied(g, p, At(parts(dtype), (0, 1), 0, (0.5, 0.5)), slots)
    assert out is not None or transform.holds
    assert out is None or (out.dtype == DTYPES[dtype] and out.shape == g.shape)
    assert [(a.dtype, a.shape) for a in after] == [(a.dtype, a.shape) for a in slots]


@EVERY
@pytest.mark.parametrize("dtype", DTYPES)
def test_overflow_gives_no_warning(transform: Transform, dtype: str) -> None:
    huge = np.full(5, float(np.finfo(DTYPES[dtype]).max) / 4, DTYPES[dtype])
    arguments = {}
    for a in transform.arguments:
        if a.kind == "number":
            arguments[a.name] = min(1e300, a.high) if a.below > 1e300 else 0.5
    (applied,) = parse_list([least(transform, **arguments)])
    try:
        out, _ = applied(huge, huge, At(parts(dtype), (0, 1), 0, (1.0, 1.0)), slots_of(applied, dtype))
    except NonFinite:
        return
    assert out is None or out.dtype == DTYPES[dtype]


@EVERY
def test_numbers_may_be_schedules(transform: Transform) -> None:
    """Each argument by itself falls from the one value to the other, and acts with the value of its step."""
    for argument in (a for a in transform.arguments if a.name in scheduled_in(transform)):
        falling = {"schedule": "multi_step", "initial": 0.8, "milestones": [3], "gamma": 0.5}
        scheduled = least(transform, **{argument.name: falling})
        small = G * 0.1 if transform.holds else G
        for n, value in ((2, 0.8), (3, 0.4)):
            plain = least(transform, **{argument.name: value})
            assert apply(scheduled, small, n=n).tolist() == apply(plain, small, n=n).tolist()
        outside = max(argument.low, argument.above) - 1.0
        bad = {**falling, "initial": outside if outside > -inf else "x"}
        detail, pointer = refused([least(transform), least(transform, **{argument.name: bad})])
        assert argument.name in detail or "initial" in detail
        assert pointer == f"/1/{argument.name}/initial"


@EVERY
def test_a_schedule_that_follows_the_loss_is_for_hyperparameters(transform: Transform) -> None:
    for name in scheduled_in(transform):
        follows = {"schedule": "reduce_on_plateau", "initial": 0.5}
        detail, pointer = refused([least(transform, **{name: follows})])
        assert f"follows the loss, which only hyperparameters of the optimizer can; give {name}" in detail
        assert pointer == f"/0/{name}"


@EVERY
def test_the_resolved_form_reads_back_as_itself(transform: Transform) -> None:
    falling = {"schedule": "exponential", "initial": 0.5, "gamma": 0.9}
    for specification in (least(transform), *(least(transform, **{n: falling}) for n in scheduled_in(transform))):
        (applied,) = parse_list([specification])
        resolved = applied.as_json()
        assert set(resolved) == {"name", *transform.defaults}
        assert [t.as_json() for t in parse_list([resolved])] == [resolved]


@EVERY
def test_arguments_are_checked_where_they_stand(transform: Transform) -> None:
    for argument in transform.arguments:
        wrong = {} if argument.null else None
        detail, pointer = refused([least(transform), {**least(transform), argument.name: wrong}])
        assert argument.name in detail
        assert pointer == f"/1/{argument.name}"
        assert argument.schema()["description"].endswith(".")
        if transform.defaults[argument.name] is REQUIRED:
            detail, pointer = refused([{k: v for k, v in least(transform).items() if k != argument.name}])
            assert f"The transform {transform.name} needs {argument.name}" in detail
    detail, pointer = refused([least(transform, strenght=1)])
    assert "no argument 'strenght'" in detail
    assert "Accepted: " in detail


@pytest.mark.parametrize(
    ("specifications", "words", "pointer"),
    [
        (None, "transforms must be a list", ""),
        ({"name": "l1"}, "transforms must be a list", ""),
        ("l1", "transforms must be a list", ""),
        ([None], "A transform is", "/0"),
        ([[]], "A transform is", "/0"),
        ([{"name": 1}], "A transform is", "/0"),
        ([{"strength": 1}], "A transform is", "/0"),
        ([{"name": "clip"}], "There is no transform 'clip'", "/0/name"),
        ([{"name": "clip_norm"}], "did you mean 'clip_by_norm'?", "/0/name"),
        ([{"name": "x" * 500}], "Accepted: l1, l2,", "/0/name"),
        ([{"like": 3}], '"like" is a path', "/0/like"),
        ([{"like": "optax.clip", "name": "l1"}], "not both", "/0/name"),
        ([{"like": "optax.clp"}], "did you mean 'optax.clip'?", "/0/like"),
        ([{"like": "optax.clip", "delta": 1}], "Accepted: max_delta", "/0/delta"),
        ([{"like": "optax.clip", "max_delta": 0}], "max_delta must be a finite number, above 0", "/0/max_delta"),
        ([{"like": "optax.MultiSteps", "every_k_schedule": 0}], "at least 1", "/0/every_k_schedule"),
        ([{"like": "optax.ema", "decay": 0.5, "accumulator_dtype": "x"}], "can only be null", "/0/accumulator_dtype"),
        ([{"name": "clip_by_global_norm", "max_norm": 1, "order": 1, "formula": "keras"}], "Only torch", "/0/order"),
        ([{"name": "clip_by_global_norm", "max_norm": 1, "order": "infinite"}], "order must be", "/0/order"),
        ([{"name": "parameter_ema", "gradients_per_update": 2}], "Only Keras", "/0/gradients_per_update"),
        ([{"name": "project_box", "lower": 1, "upper": 0}], "upper must not be below", "/0/upper"),
        ([{"name": "constrain_norms", "minimum": 2}], "maximum must not be below", "/0/maximum"),
        ([{"name": "constrain_norms", "axes": [1, 1]}], "each axis once", "/0/axes"),
        ([{"name": "constrain_norms", "axes": [-1]}], "at least 0", "/0/axes/0"),
        ([{"name": "weight_decay", "strength": 1, "match": ""}], "a pattern of names", "/0/match"),
        ([{"name": "clip_by_value", "limit": 0}], "limit must be a finite number, above 0.", "/0/limit"),
        ([{"name": "clip_by_global_norm", "max_norm": 1, "formula": "jax"}], "torch, optax, keras", "/0/formula"),
        ([{"name": "l1", "strength": 10**400}], "a finite number", "/0/strength"),
    ],
)
def test_refusals(specifications: Any, words: str, pointer: str) -> None:
    detail, place = refused(specifications)
    assert words in detail
    assert place == pointer


def test_transforms_are_done_in_the_order_of_the_list() -> None:
    decay, clip = {"name": "l2", "strength": 1.0}, {"name": "clip_by_value", "limit": 0.1}
    sgd = {"name": "sgd", "dialect": "scratch", "learning_rate": 1.0}
    row, where = np.full(18, 0.5), np.full(18, 2.0)
    for order, moved in (([decay, clip], 0.1), ([clip, decay], 2.1)):
        subject = build(sgd, layout(), order)
        assert run(subject, [row], subject.init(where)).params == pytest.approx(where - moved)


def test_the_transforms_of_like_come_last() -> None:
    subject = build(
        {"like": "keras.optimizers.SGD", "learning_rate": 1.0, "clipvalue": 0.1},
        layout(),
        [{"name": "l2", "strength": 1.0}],
    )
    assert [t.transform.name for t in subject.transforms] == ["l2", "clip_by_value"]
    again = build(subject.as_json()["optimizer"], layout(), subject.as_json()["transforms"])
    assert again.as_json() == subject.as_json()


@EVERY
def test_every_transform_is_described(transform: Transform) -> None:
    entry = describe(transform)
    assert all(entry[key] for key in ("name", "title", "summary", "equation"))
    assert set(entry["arguments"]) == set(transform.defaults) == {a.name for a in transform.arguments}
    assert set(entry["arguments"]) == set(entry["defaults"]) | set(entry["required"])
    assert inf not in entry["defaults"].values()
    assert entry["stage"] in ("gradient", "parameters")
    assert [slot["name"] for slot in entry["state"]] == list(transform.slots)
    assert {spelling["like"] for spelling in entry["like"]} == {
        path for path, spelling in SPELLINGS.items() if transform.name in spelling.forms
    }
    assert json.loads(json.dumps(entry)) == entry


@pytest.mark.parametrize("path", REFUSED)
def test_what_cannot_be_had_says_why(path: str) -> None:
    detail, pointer = refused([{"like": path}])
    assert detail == f"{path} cannot be had as a transform. {REFUSED[path]}"
    assert pointer == "/0/like"
    assert path not in SPELLINGS


@pytest.mark.parametrize("path", SPELLINGS)
def test_a_spelling_points_at_the_librarys_own_arguments(path: str) -> None:
    spelling = SPELLINGS[path]
    given = {a.name: 1 for a, default in spelling.declared.items() if default is REQUIRED}
    for argument in spelling.declared:
        if argument.kind == "number" and argument.schedulable:
            bad = {"schedule": "step", "initial": 0.5, "step_size": 0}
            assert refused([{"like": path, **given, argument.name: bad}])[1] == f"/0/{argument.name}/step_size"
    detail, pointer = refused([{"like": path, **given, "nothing": 1}])
    assert f"{path} has no argument 'nothing'" in detail
    assert pointer == "/0/nothing"


def test_an_argument_of_a_spelling_may_be_a_schedule() -> None:
    falling = {"schedule": "exponential", "initial": 0.5, "gamma": 0.9}
    (applied,) = parse_list([{"like": "optax.clip", "max_delta": falling}])
    assert applied.as_json() == {"name": "clip_by_value", "limit": falling}


plain = st.sampled_from([0.0, 0.25, 0.5, 1.0, 3, 1e-8, 25.0])
constant = {"schedule": "constant", "value": 0.5}
odd = st.sampled_from([None, True, -1, 10**400, "x", "inf", [], [0], [0, 0], {}, constant])


def call(path: str) -> st.SearchStrategy[Any]:
    """What a client may make of a library's call."""
    names = st.sampled_from([*SPELLINGS[path].arguments, "match", "x"])
    return st.dictionaries(names, plain | odd, max_size=4).map(lambda given: {"like": path, **given})


def attempt(listed: Any) -> Optimizer | Invalid:
    try:
        return build({"name": "sgd"}, layout(), listed)
    except Invalid as error:
        return error


@settings(derandomize=True, deadline=None, max_examples=400)
@given(st.lists(st.sampled_from(sorted(SPELLINGS)).flatmap(call), max_size=2))
def test_any_call_of_a_library_builds_and_steps_or_raises_invalid(listed: Any) -> None:
    subject = attempt(listed)
    if isinstance(subject, Invalid):
        for place in subject.places:
            _, first, index, *rest = place.pointer.split("/")
            assert first == "transforms"
            known = {*listed[int(index)], *SPELLINGS[listed[int(index)]["like"]].arguments, "match"}
            assert not rest or rest[0] in known
        return
    resolved = json.loads(json.dumps(subject.as_json(), allow_nan=False))
    assert build(resolved["optimizer"], layout(), resolved["transforms"]).as_json() == resolved
    run(subject, gradients(3))


# The list as a whole, in an optimizer


def test_those_of_the_gradient_come_before_those_of_the_parameters() -> None:
    listed = [{"name": "project_nonnegative"}, {"name": "l2", "strength": 0.5}, {"name": "parameter_swa"}]
    subject = build({"like": "keras.optimizers.SGD", "clipvalue": 0.1, "use_ema": True}, layout(), listed)
    names = [t["name"] for t in subject.as_json()["transforms"]]
    assert names == ["l2", "clip_by_value", "project_nonnegative", "parameter_swa", "parameter_ema"]


def test_projections_are_done_in_the_order_of_the_list() -> None:
    box, ball = {"name": "project_box", "lower": 1.0, "upper": 2.0}, {"name": "project_l2_ball", "radius": 0.5}
    for order, within in (([box, ball], 0.5), ([ball, box], sqrt(18))):
        subject = build({"name": "sgd"}, layout(), order)
        assert np.linalg.norm(run(subject, gradients(3)).params) == pytest.approx(within)


def test_a_mask_is_a_pattern_or_a_number_of_axes() -> None:
    rows, plain = gradients(5), build({"name": "sgd"}, layout())
    rate = {"name": "sgd", "learning_rate": 0.25}
    for mask, moved in (({"match": "layer.*"}, slice(0, 17)), ({"minimum_dimensions": 2}, slice(0, 12))):
        coupled = build({"name": "sgd"}, layout(), [{"name": "weight_decay", "strength": 0.1, **mask}])
        whole = build({"name": "sgd", "weight_decay": 0.1}, layout())
        for state, other in ((run(coupled, rows), run(whole, rows)), (run(coupled, rows), run(plain, rows))):
            same_there = other.params[moved] == state.params[moved]
            rest = np.delete(other.params == state.params, np.r_[moved])
            assert same_there.all() != rest.all()
        beside = build(rate, layout(), [{"name": "decoupled_weight_decay", "strength": 0.1, **mask}])
        state = beside.step(beside.init(start()), np.zeros(18)).state
        wanted = start()
        wanted[moved] -= 0.25 * 0.1 * wanted[moved]
        assert state.params == pytest.approx(wanted, rel=1e-15)


def test_decoupled_decay_has_the_rate_of_each_group() -> None:
    decay = {"name": "decoupled_weight_decay", "strength": 0.1}
    falling = {"schedule": "step", "initial": 0.5, "step_size": 1, "gamma": 0.5}
    subject = build(
        {"name": "sgd", "learning_rate": falling}, layout(), [decay], [{"match": "scale", "learning_rate": 0.125}]
    )
    state, zero = subject.init(start()), np.zeros(18)
    wanted = start()
    for rate in (0.5, 0.25):
        state = subject.step(state, zero).state
        wanted[:17] -= rate * 0.1 * wanted[:17]
        wanted[17] -= 0.125 * 0.1 * wanted[17]
    assert state.params == pytest.approx(wanted, rel=1e-15)
    alone = build({"name": "sgd"}, layout(), [{**decay, "times_learning_rate": False}])
    assert alone.step(alone.init(start()), zero).state.params == pytest.approx(0.9 * start(), rel=1e-15)


@pytest.mark.parametrize(
    ("transform", "words", "pointer"),
    [
        ({"name": "weight_decay", "strength": 1, "match": "*.bais"}, "chooses no parameter", "/transforms/0/match"),
        (
            {"name": "weight_decay", "strength": 1, "minimum_dimensions": 3},
            "Names: layer.weight",
            "/transforms/0/match",
        ),
        ({"name": "constrain_norms", "axes": [1]}, "asks for axis 1, which it has not", "/transforms/0"),
        ({"name": "adaptive_clip", "clipping": 1, "axes": [0]}, "asks for axis 0", "/transforms/0"),
    ],
)
def test_what_suits_no_parameter_is_refused_at_creation(transform: Any, words: str, pointer: str) -> None:
    with pytest.raises(Invalid) as caught:
        build({"name": "sgd"}, layout(), [transform])
    assert words in caught.value.detail
    assert caught.value.places[0].pointer == pointer


def test_units_of_many_axes_must_be_named() -> None:
    six = Layout(("x",), ((2, 1, 2, 1, 2, 2),), DTYPES["float64"])
    with pytest.raises(Invalid, match="knows the units of tensors with up to five axes only; give axes"):
        build({"name": "sgd"}, six, [{"name": "adaptive_clip", "clipping": 1.0}])
    build({"name": "sgd"}, six, [{"name": "adaptive_clip", "clipping": 1.0, "axes": [0, 1]}])


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 5), (2, 2, 3, 2, 3), (1, 7, 1), ()])
def test_adaptive_clipping_is_by_unit(shape: tuple[int, ...]) -> None:
    """As in the paper: ‖g_u‖ is brought to c max(‖θ_u‖, ε) where it is larger."""
    axes = {3: (0,), 4: (0, 1, 2), 5: (0, 1, 2, 3)}.get(len(shape)) if shape != (1, 7, 1) else None
    random = np.random.default_rng(5)
    g, p = random.normal(size=shape), random.normal(size=shape)
    size, most = (np.sqrt((x * x).sum(axis=axes, keepdims=True)) for x in (g, p))
    wanted = np.where(size < 0.8 * most, g, g * 0.8 * most / size)
    one = Layout(("x",), (shape,), DTYPES["float64"])
    (applied,) = parse_list([{"name": "adaptive_clip", "clipping": 0.8}])
    out, _ = applied(g.ravel(), p.ravel(), At(one, [0], 0))
    assert out == pytest.approx(wanted.ravel(), rel=1e-14)
    for scale in (1e-200, 1e200):
        out, _ = applied(g.ravel() * scale, p.ravel() * scale, At(one, [0], 0))
        assert scale < 1.0 or out == pytest.approx(wanted.ravel() * scale, rel=1e-13)


# What keeps state


def committed(subject: Any, rows: list[Array]) -> tuple[Any, list[bool]]:
    state, told = subject.init(start()), []
    for row in rows:
        step = subject.step(state, row)
        state = step.state
        told.append(step.committed)
    return state, told


def test_gathered_gradients_are_one_step_of_their_mean() -> None:
    rows = gradients(12)
    for formula, of in (("running_mean", np.mean), ("mean", np.mean), ("sum", np.sum)):
        subject = build({"name": "adam"}, layout(), [{"name": "accumulate", "steps": 4, "formula": formula}])
        state, told = committed(subject, rows)
        assert told == [False, False, False, True] * 3
        assert (state.step, state.counts) == (3, 3)
        alone = run(build({"name": "adam"}, layout()), [of(rows[i : i + 4], axis=0) for i in (0, 4, 8)])
        assert state.params == pytest.approx(alone.params, rel=1e-12)


def test_a_held_step_leaves_the_parameters_and_the_rule() -> None:
    subject = build({"name": "adam"}, layout(), [{"name": "accumulate", "steps": 3}])
    before = subject.init(start())
    after, _, done = subject.step(before, gradients(1)[0])
    assert not done
    assert after.params is before.params
    rule = len(subject.rule.slots)
    assert all(a is b for a, b in zip(after.slots[:rule], before.slots[:rule], strict=True))
    assert after.step == before.step == 0


def test_schedules_count_updates_or_gradients() -> None:
    falling = {"schedule": "step", "initial": 1.0, "step_size": 1, "gamma": 0.5}
    for clock, wanted in (("updates", [1.0, 0.5]), ("gradients", [0.25, 1 / 32])):
        subject = build(
            {"name": "sgd", "learning_rate": falling},
            layout(),
            [{"name": "accumulate", "steps": 3, "clock": clock}],
        )
        state, rates = subject.init(start()), []
        for row in gradients(6):
            state, rate, done = subject.step(state, row)
            rates += [rate] if done else []
        assert rates == wanted


def test_a_tensor_that_has_gathered_gradients_must_be_in_the_step_that_applies_them() -> None:
    subject, rows = build({"name": "sgd"}, layout(), [{"name": "accumulate", "steps": 2}]), gradients(2)
    half = subject.step(subject.init(start()), rows[0]).state
    with pytest.raises(Invalid, match=r"'layer\.bias' has gathered gradients") as caught:
        subject.step(half, rows[1], absent=[1])
    assert caught.value.places[0].pointer == "/gradients/layer.bias"
    other = subject.step(subject.init(start()), rows[0], absent=[1]).state
    assert subject.step(other, rows[1], absent=[1]).state.params[12:17].tolist() == start()[12:17].tolist()


def test_large_gradients_are_as_if_they_had_not_come() -> None:
    rows = gradients(8)
    large = [row * 1e6 for row in rows]
    limit = [{"name": "skip_large_updates", "max_squared_norm": 1e4}, {"name": "accumulate", "steps": 2}]
    subject = build({"name": "adam"}, layout(), limit)
    mixed, told = committed(subject, [row for pair in zip(rows, large, strict=True) for row in pair])
    assert told == [False, False, True, False] * 4
    assert same(mixed, committed(subject, rows)[0])


def test_a_skipped_gradient_moves_no_count_of_the_transforms_after_it() -> None:
    subject = build({"name": "sgd"}, layout(), [{"name": "skip_large_updates", "max_squared_norm": 1e-30}])
    state, told = committed(subject, gradients(3))
    assert told == [False] * 3
    assert same(state, subject.init(start()))


def test_noise_is_a_function_of_the_seed_and_the_count() -> None:
    def noisy(**more: Any) -> Any:
        return build({"name": "sgd"}, layout(), [{"name": "add_noise", "eta": 0.1, **more}])

    rows = gradients(6)
    once, again, other = run(noisy(), rows), run(noisy(), rows), run(noisy(seed=1), rows)
    assert same(once, again)
    assert not same(once, other)
    halfway = run(noisy(), rows[:3])
    assert same(run(noisy(), rows[3:], halfway), once)
    silent = run(build({"name": "sgd"}, layout()), rows)
    assert run(noisy(eta=0.0), rows).params == pytest.approx(silent.params, rel=1e-15)


def test_noise_is_put_on_what_has_a_gradient_and_is_the_same_for_the_others() -> None:
    subject = build({"name": "sgd"}, layout(), [{"name": "add_noise", "eta": 0.1}])
    first, zero = subject.init(start()), np.zeros(18)
    whole, part = subject.step(first, zero).state.params, subject.step(first, zero, absent=[1]).state.params
    assert part[12:17].tobytes() == first.params[12:17].tobytes()
    assert np.delete(part, np.r_[12:17]).tobytes() == np.delete(whole, np.r_[12:17]).tobytes()


def test_an_average_is_seen_by_eval_and_moves_nothing() -> None:
    rows, plain = gradients(9), build({"name": "adam"}, layout())
    for average in ({"name": "parameter_swa"}, {"name": "parameter_ema", "decay": 0.5}):
        subject = build({"name": "adam"}, layout(), [average])
        assert subject.view(subject.init(start()), "eval").tobytes() == start().tobytes()
        state = run(subject, rows)
        assert state.params.tobytes() == run(plain, rows).params.tobytes()
        assert subject.view(state, "train") is state.params
        assert not np.array_equal(subject.view(state, "eval"), state.params)


def test_a_mean_of_the_parameters_begins_where_it_is_told_and_counts_every_so_many() -> None:
    rows, seen = gradients(11), []
    subject = build({"name": "adam"}, layout(), [{"name": "parameter_swa", "begin": 4, "every": 3}])
    state = subject.init(start())
    for n, row in enumerate(rows):
        state = subject.step(state, row).state
        seen += [state.params] if n in (4, 7, 10) else []
        if n < 4:
            assert subject.view(state, "eval") is state.params
    assert subject.view(state, "eval") == pytest.approx(np.mean(seen, axis=0), rel=1e-12)


def test_the_last_average_in_the_list_is_the_one_that_is_seen() -> None:
    both = [{"name": "parameter_swa"}, {"name": "parameter_ema", "decay": 0.5}]
    rows = gradients(5)
    for order in (both, both[::-1]):
        alone, together = (build({"name": "sgd"}, layout(), transforms) for transforms in (order[1:], order))
        assert together.view(run(together, rows), "eval").tobytes() == alone.view(run(alone, rows), "eval").tobytes()


# Projections, against what defines them


@pytest.mark.parametrize("scope", ["whole", "tensor"])
@pytest.mark.parametrize(
    ("name", "argument", "inside"),
    [
        ("project_simplex", "total", lambda x, r: bool((x >= 0.0).all() and abs(x.sum() - r) < 1e-12)),
        ("project_l1_ball", "radius", lambda x, r: bool(np.abs(x).sum() <= r + 1e-12)),
        ("project_l1_sphere", "radius", lambda x, r: abs(np.abs(x).sum() - r) < 1e-12),
        ("project_l2_ball", "radius", lambda x, r: bool(np.linalg.norm(x) <= r + 1e-12)),
        ("project_l2_sphere", "radius", lambda x, r: abs(float(np.linalg.norm(x)) - r) < 1e-12),
    ],
)
def test_a_projection_is_the_nearest_point_of_its_set(name: str, argument: str, inside: Any, scope: str) -> None:
    random = np.random.default_rng(11)
    for radius in (0.5, 3.0):
        (applied,) = parse_list([{"name": name, argument: radius, "scope": scope}])
        x = 2.0 * random.normal(size=5)
        out, _ = applied(x, P, At(parts(), (0, 1), 0))
        assert out is not None
        for where in [slice(0, 5)] if scope == "whole" else parts().slices:
            assert inside(out[where], radius)
            again, _ = applied(out, P, At(parts(), (0, 1), 0))
            assert again == pytest.approx(out, abs=1e-14)
            for _ in range(300):  # no other point of the set is nearer
                other, _ = applied(random.normal(size=5) * random.uniform(0.1, 5.0), P, At(parts(), (0, 1), 0))
                assert other is not None
                assert np.linalg.norm(out[where] - x[where]) <= np.linalg.norm(other[where] - x[where]) + 1e-12


def test_projections_leave_out_what_has_no_gradient() -> None:
    for name in (name for name in TRANSFORMS if name.startswith("project_")):
        (applied,) = parse_list([least(TRANSFORMS[name])])
        x = np.array([3.0, -4.0, 5.0, -6.0, 7.0])
        out, _ = applied(x, P, At(parts(), (1,), 0))
        assert out is not None
        assert out[:2].tolist() == [3.0, -4.0]
        alone, _ = applied(x[2:], P[2:], At(Layout(("b",), ((3,),), DTYPES["float64"]), (0,), 0))
        assert alone is not None
        assert out[2:].tolist() == alone.tolist()


def test_what_overflowed_is_left_for_the_step_to_be_refused() -> None:
    broken = np.array([np.inf, 1.0, np.nan, -1.0, 0.5])
    for name in ("project_simplex", "project_l1_ball", "project_l2_ball", "project_l2_sphere"):
        (applied,) = parse_list([{"name": name}])
        out, _ = applied(broken, P, At(parts(), (0, 1), 0))
        assert out is not None
        assert not np.isfinite(out).all()


def test_zero_has_no_direction() -> None:
    zero = np.zeros(5)
    for name in ("project_l2_sphere", "project_l2_ball", "constrain_norms", "normalize"):
        assert apply({"name": name}, zero).tolist() == zero.tolist()
    assert apply({"name": "constrain_norms", "minimum": 1.0, "epsilon": 0.0}, zero).tolist() == zero.tolist()


def test_normalizing_each_tensor() -> None:
    assert apply({"name": "normalize", "scope": "tensor", "scale": 2.0}) == pytest.approx([1.2, -1.6, 2.0, 0.0, 0.0])


def test_orders_of_the_global_norm() -> None:
    torch = {"name": "clip_by_global_norm", "max_norm": 1e-3}
    for order in (0.5, 1.0, 2.0, 3.0, "inf"):
        size = 4.0 if order == "inf" else float((np.abs(G) ** order).sum() ** (1.0 / order))
        assert apply({**torch, "order": order}) == pytest.approx(G * 1e-3 / (size + 1e-6), rel=1e-14)
        assert apply({**torch, "order": order}, np.zeros(5)).tolist() == [0.0] * 5
        small = apply({**torch, "max_norm": 1.0, "order": order}, G * 1e-200)
        assert small == pytest.approx(G * 1e-200, rel=1e-14)


def test_sparse_gradients_are_not_gathered() -> None:
    rows = {0: np.array([1])}
    for transform in ({"name": "accumulate", "steps": 2}, {"name": "ema", "decay": 0.5}):
        subject = build({"name": "sgd"}, layout(), [transform])
        with pytest.raises(Invalid, match=f"{transform['name']} takes no sparse gradients; send full ones") as caught:
            subject.step(subject.init(start()), np.zeros(18), rows=rows)
        assert caught.value.places[0].pointer == "/gradients"
    clipped = build({"name": "sgd"}, layout(), [{"name": "clip_by_value", "limit": 1.0}, {"name": "parameter_swa"}])
    assert clipped.step(clipped.init(start()), np.ones(18), rows=rows).committed
