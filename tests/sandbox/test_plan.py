"""What is asked for: labels, defaults, and a pointer for everything that is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from service.errors import Invalid, NonFinite
from service.sandbox import MAX_NUMBERS, plan, run

ADAM = {"name": "adam"}


def wrong(**change: Any) -> Invalid:
    """What is raised for a good request with this change."""
    request: dict[str, Any] = {"function": "sphere", "start": [3.0, 4.0], "steps": 10, "optimizers": [ADAM]}
    with pytest.raises(Invalid) as caught:
        plan(**request | change)
    return caught.value


@pytest.mark.parametrize(
    ("change", "pointer", "says"),
    [
        ({"function": "rosenbrok"}, "/function", "did you mean 'rosenbrock'"),
        ({"start": []}, "/start", "coordinates"),
        ({"start": 3.0}, "/start", "list of finite numbers"),
        ({"start": [float("nan"), 0.0]}, "/start", "finite"),
        ({"function": "booth", "start": [1.0, 2.0, 3.0]}, "/start", "exactly 2"),
        ({"start": [1.0] * 1001}, "/start", "1 to 1000"),
        ({"start": [1e200, 0.0]}, "/start", "start elsewhere"),
        ({"steps": 0}, "/steps", "at least 1"),
        ({"record_every": 0}, "/record_every", "at least 1"),
        ({"optimizers": []}, "/optimizers", "1 to 64"),
        ({"optimizers": [ADAM] * 65}, "/optimizers", "1 to 64"),
        ({"optimizers": ["adam"]}, "/optimizers/0", '{"name": ...'),
        ({"optimizers": [ADAM, {}]}, "/optimizers/1/name", "name"),
        ({"optimizers": [ADAM, {"name": "adamm"}]}, "/optimizers/1/name", "did you mean 'adam'"),
        ({"optimizers": [ADAM, {"name": "sgd", "learning_rate": -1}]}, "/optimizers/1/learning_rate", "at least 0"),
        ({"optimizers": [{"name": "sgd", "lr": 0.1}]}, "/optimizers/0/lr", "learning_rate"),
        ({"optimizers": [{"like": "torch.optim.Adam", "lr": -1}]}, "/optimizers/0/lr", "at least 0"),
        ({"optimizers": [{**ADAM, "transforms": [{"name": "clip"}]}]}, "/optimizers/0/transforms/0/name", "clip_by"),
        ({"optimizers": [{**ADAM, "transforms": 3}]}, "/optimizers/0/transforms", "list"),
        ({"optimizers": [{**ADAM, "label": ""}]}, "/optimizers/0/label", "1 to 80"),
        ({"optimizers": [{**ADAM, "label": "x" * 81}]}, "/optimizers/0/label", "1 to 80"),
        ({"optimizers": [{**ADAM, "label": "a\nb"}]}, "/optimizers/0/label", "one line"),
        ({"optimizers": [{**ADAM, "label": 3}]}, "/optimizers/0/label", "one line"),
        ({"gradient": "analytical"}, "/gradient", "did you mean 'analytic'"),
        ({"gradient": 3}, "/gradient", "kind"),
        ({"gradient": {}}, "/gradient", "kind"),
        ({"gradient": {"kind": "central_difference", "h": 0}}, "/gradient/h", "above 0"),
        ({"gradient": {"kind": "central_difference", "step": 1}}, "/gradient/step", "Accepted: h"),
        ({"gradient": "noisy"}, "/gradient/sigma", "needs sigma"),
        ({"gradient": {"kind": "noisy", "sigma": -1}}, "/gradient/sigma", "at least 0"),
        ({"gradient": {"kind": "noisy", "sigma": 1, "seed": 1.5}}, "/gradient/seed", "whole number"),
        ({"stop": {"gradient": 1}}, "/stop/gradient", "gradient_norm"),
        ({"stop": {"gradient_norm": -1}}, "/stop/gradient_norm", "at least 0"),
        ({"stop": {"value": "low"}}, "/stop/value", "finite number"),
        ({"function": "saddle", "stop": {"distance": 0.1}}, "/stop/distance", "No minimum"),
    ],
    ids=str,
)
def test_what_is_wrong_is_pointed_at(change: dict[str, Any], pointer: str, says: str) -> None:
    error = wrong(**change)
    assert error.places[0].pointer == pointer
    assert says in error.detail


def test_a_start_past_the_range_is_not_finite() -> None:
    assert isinstance(wrong(start=[1e200, 0.0]), NonFinite)


def test_labels_are_the_names_and_different() -> None:
    items = [ADAM, ADAM, {**ADAM, "label": "adam 2"}, {"like": "torch.optim.SGD", "lr": 0.1}, {**ADAM, "label": "慣性"}]
    made = plan("sphere", [3.0, 4.0], 1, items)
    assert [lane.label for lane in made.lanes] == ["adam", "adam 2", "adam 2 2", "sgd", "慣性"]
    assert items[2] == {**ADAM, "label": "adam 2"}  # the request is left as it was


def test_resolved_optimizers_can_be_run_again() -> None:
    schedule = {"schedule": "step", "initial": 0.1, "step_size": 5, "gamma": 0.5}
    items = [
        {"name": "sgd", "learning_rate": schedule},
        {"like": "keras.optimizers.Adam", "learning_rate": 0.1, "clipnorm": 0.5},
    ]
    first = run(plan("sphere", None, 20, items))
    second = run(plan("sphere", None, 20, [dict(r.optimizer) for r in first]))
    assert [r.params.tolist() for r in first] == [r.params.tolist() for r in second]
    assert [r.optimizer for r in first] == [r.optimizer for r in second]
    assert first[0].optimizer["learning_rate"] == schedule
    assert first[1].optimizer["transforms"][0]["max_norm"] == 0.5


def test_the_work_is_bounded() -> None:
    assert plan("sphere", [3.0, 4.0], 50, [ADAM, ADAM], max_evaluations=100).evaluations == 100
    error = wrong(steps=51, optimizers=[ADAM, ADAM], max_evaluations=100)
    assert error.places[0].pointer == "/steps"
    assert "102" in error.detail
    assert "100" in error.detail
    central: dict[str, Any] = {"gradient": "central_difference", "max_evaluations": 100}
    assert plan("sphere", [3.0, 4.0], 20, [ADAM], **central).evaluations == 100
    assert wrong(steps=21, **central).places[0].pointer == "/steps"


@pytest.mark.parametrize(("steps", "d", "optimizers"), [(1_000_000, 1000, 1), (5000, 1000, 2), (15_625, 1000, 64)])
def test_the_record_is_bounded_and_the_advice_is_good(steps: int, d: int, optimizers: int) -> None:
    request: dict[str, Any] = {"start": [1.0] * d, "steps": steps, "optimizers": [ADAM] * optimizers}
    error = wrong(**request)
    assert error.places[0].pointer == "/record_every"
    advised = int(error.detail.split()[-1].rstrip("."))
    made = plan("sphere", **request, record_every=advised)
    assert (steps // advised + 2) * optimizers * (d + 3) <= MAX_NUMBERS
    assert len(made.lanes) == optimizers
