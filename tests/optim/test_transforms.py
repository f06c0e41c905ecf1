"""Transforms: what each does to the gradient, and what is refused."""

from __future__ import annotations

from math import inf, sqrt
from typing import Any

import numpy as np
import pytest

from service.errors import Invalid, NonFinite
from service.optim.hyperparameters import REQUIRED
from service.optim.optimizer import build
from service.optim.tensors import DTYPES, Array, Layout
from service.optim.transforms import TRANSFORMS, At, Transform, describe, parse_list
from tests.optim.table import layout, run

EVERY = pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
SLICES = (slice(0, 2), slice(2, 5))
G = np.array([3.0, -4.0, 0.5, -0.0, 0.0])
P = np.array([1.0, -2.0, 0.0, 4.0, -0.0])


def apply(specification: dict[str, Any], g: Any = G, slices: Any = SLICES, n: int = 0) -> Array:
    (transform,) = parse_list([specification])
    parts = Layout(tuple("ab"), ((2,), (3,)), DTYPES["float64"])
    present = [i for i, where in enumerate(parts.slices) if where in slices]
    out, _ = transform(np.asarray(g), P, At(parts, present, n))
    assert out is not None
    return out


def least(transform: Transform, **more: Any) -> dict[str, Any]:
    """The specification with no more than what must be given."""
    given = {a.name: 0.5 for a in transform.arguments if transform.defaults[a.name] is REQUIRED}
    return {"name": transform.name, **given, **more}


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
    g.flags.writeable = p.flags.writeable = False
    (applied,) = parse_list([least(transform)])
    out = applied(g, p, SLICES, 0)
    assert out.dtype == DTYPES[dtype]
    assert out.shape == g.shape


@EVERY
@pytest.mark.parametrize("dtype", DTYPES)
def test_overflow_gives_no_warning(transform: Transform, dtype: str) -> None:
    huge = np.full(5, float(np.finfo(DTYPES[dtype]).max) / 4, DTYPES[dtype])
    arguments = {a.name: 1e300 for a in transform.arguments if a.kind == "number"}
    (applied,) = parse_list([{"name": transform.name, **arguments}])
    assert applied(huge, huge, SLICES, 0).dtype == DTYPES[dtype]


@EVERY
def test_numbers_may_be_schedules(transform: Transform) -> None:
    for argument in (a for a in transform.arguments if a.kind == "number"):
        falling = {"schedule": "multi_step", "initial": 2.0, "milestones": [3], "gamma": 0.5}
        scheduled = least(transform, **{argument.name: falling})
        assert apply(scheduled, n=2).tolist() == apply(least(transform, **{argument.name: 2.0})).tolist()
        assert apply(scheduled, n=3).tolist() == apply(least(transform, **{argument.name: 1.0})).tolist()
        bad = {**falling, "initial": -1.0}
        detail, pointer = refused([least(transform), least(transform, **{argument.name: bad})])
        assert argument.name in detail
        assert pointer == f"/1/{argument.name}/initial"


@EVERY
def test_the_resolved_form_reads_back_as_itself(transform: Transform) -> None:
    falling = {"schedule": "exponential", "initial": 2.0, "gamma": 0.9}
    first = next(a.name for a in transform.arguments if a.kind == "number")
    for specification in (least(transform), least(transform, **{first: falling})):
        (applied,) = parse_list([specification])
        resolved = applied.as_json()
        assert set(resolved) == {"name", *transform.defaults}
        assert [t.as_json() for t in parse_list([resolved])] == [resolved]


@EVERY
def test_arguments_are_checked_where_they_stand(transform: Transform) -> None:
    for argument in transform.arguments:
        detail, pointer = refused([least(transform), {**least(transform), argument.name: None}])
        assert argument.name in detail
        assert pointer == f"/1/{argument.name}"
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
