"""Any number of any optimizer may follow a schedule, and each step uses the value that the schedule has for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.errors import Invalid
from service.optim.hyperparameters import Hyperparameter
from service.optim.optimizer import Optimizer, build
from service.optim.schedules.catalogue import parse
from service.optim.specification import resolve
from service.optim.state import State
from service.optim.tensors import Array, Layout
from tests.optim.table import DIALECTS, bits, gradients, layout, start
from tests.optim.test_groups import fitting

PLATEAU = {"schedule": "reduce_on_plateau", "initial": 0.5, "patience": 1, "factor": 0.5}


def accepted(hyperparameter: Hyperparameter, value: float) -> bool:
    try:
        hyperparameter.check(value)
    except Invalid:
        return False
    return True


def two_values(hyperparameter: Hyperparameter, default: Any) -> tuple[float, float]:
    """Two different numbers in its range, neither of which is zero, which may choose another rule."""
    near = [default * share for share in (0.75, 1.25, 1.5)] if isinstance(default, float) else []
    first, second, *_ = [v for v in (0.75, 0.25, 1.5, 3.0, *near) if v and accepted(hyperparameter, v)]
    return first, second


def numbers(specification: dict[str, Any]) -> list[Hyperparameter]:
    """The hyperparameters of the optimizer that may be scheduled."""
    spec = resolve(specification)
    declared = spec.algorithm.hyperparameters
    return [h for h in declared if h.kind == "number" and h.schedulable and h.name in spec.dialect.defaults]


PLACES = [
    pytest.param(specification, h, id=f"{name}-{h.name}")
    for name, specification in DIALECTS.items()
    for h in numbers(specification)
]


def refusal(specification: Any, parameters: Layout) -> str:
    """Why there is no such optimizer, if there is none."""
    try:
        build(specification, parameters)
    except Invalid as error:
        return error.detail
    return ""


def step(subject: Optimizer, state: State, row: Array) -> State:
    return subject.step(state, row, loss=1.5 if subject.wants != "gradient" else None).state


@pytest.mark.parametrize(("specification", "hyperparameter"), PLACES)
def test_a_step_uses_the_value_that_the_schedule_has_for_it(specification: Any, hyperparameter: Hyperparameter) -> None:
    name = hyperparameter.name
    first, last = two_values(hyperparameter, specification[name])
    linear = {"schedule": "linear", "initial": first, "final": last, "steps": 6}
    schedule = parse(linear, hyperparameter)
    parameters = fitting(specification)
    reason = refusal({**specification, name: first}, parameters)
    if reason:  # it contradicts another option, whatever its value
        assert refusal({**specification, name: linear}, parameters) == reason
        return
    subject = build({**specification, name: linear}, parameters)
    state = subject.init(start())
    for row in gradients(5):
        value = schedule(state.step)
        assert subject.specification.at(state.step)[name] == value
        constant = build({**specification, name: value}, parameters)
        assert constant.rule is subject.rule
        after = step(subject, state, row)
        if name not in subject.specification.dialect.ahead:  # which use the next step's value too
            alone = step(constant, state, row)
            assert [*map(bits, (after.params, *after.slots))] == [*map(bits, (alone.params, *alone.slots))]
        state = after


def test_every_dialect_has_something_to_schedule() -> None:
    assert {case.id.rpartition("-")[0] for case in PLACES if case.id} == set(DIALECTS)


@pytest.mark.parametrize("name", ["learning_rate", "beta1", "epsilon"])
def test_a_plateau_halves_what_it_is_given_for(name: str) -> None:
    subject = build({"name": "adam", name: PLATEAU}, layout())
    assert subject.wants == "value_and_gradient"
    state, losses = subject.init(start()), (3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0)
    values = (0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125)  # the second bad one is more than is borne
    for value, row, loss in zip(values, gradients(8), losses, strict=True):
        after = subject.step(state, row, loss=loss).state
        alone = build({"name": "adam", name: value}, layout()).step(state._replace(slots=state.slots[:2]), row).state
        assert [*map(bits, (after.params, *after.slots[:2]))] == [*map(bits, (alone.params, *alone.slots))]
        state = after


def rates(formula: str, losses: list[float], **more: Any) -> list[float]:
    """The learning rates that the steps tell."""
    plateau = {"schedule": "reduce_on_plateau", "initial": 1.0, "factor": 0.5, "formula": formula, **more}
    subject = build({"name": "sgd", "learning_rate": plateau}, layout())
    state, told = subject.init(start()), []
    for row, loss in zip(gradients(len(losses)), losses, strict=True):
        state, rate, _ = subject.step(state, row, loss=loss)
        told.append(rate)
    return told


def test_the_step_that_each_formula_reduces_at() -> None:
    """Of a loss that never improves: after more than two bad ones, or at the second, in that step or after it."""
    flat = [1.0] * 6
    assert rates("torch", flat, patience=2) == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5]
    assert rates("keras", flat, patience=2) == [1.0, 1.0, 1.0, 0.5, 0.5, 0.25]
    assert rates("optax", flat, patience=2) == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


def test_a_step_without_the_loss_is_refused() -> None:
    subject = build({"name": "sgd", "learning_rate": PLATEAU}, layout())
    with pytest.raises(Invalid, match="needs the loss at the point of the gradient") as caught:
        subject.step(subject.init(start()), gradients(1)[0])
    assert caught.value.places[0].pointer == "/loss"


def test_a_plateau_stands_in_no_other_schedule() -> None:
    for outer in (
        {"schedule": "chained", "schedules": [PLATEAU]},
        {"schedule": "sequential", "schedules": [{"schedule": "constant", "value": 1}, PLATEAU], "milestones": [3]},
        {
            "like": "torch.optim.lr_scheduler.SequentialLR",
            "initial": 1.0,
            "milestones": [3],
            "schedulers": [{"like": "torch.optim.lr_scheduler.ReduceLROnPlateau"}] * 2,
        },
    ):
        with pytest.raises(Invalid, match="follows the loss, and cannot stand inside another schedule; give it"):
            resolve({"name": "sgd", "learning_rate": outer})


def test_a_plateau_is_for_all_parameters() -> None:
    groups = [{"match": "*.bias", "learning_rate": PLATEAU}]
    with pytest.raises(Invalid, match="A group cannot follow the loss on its own") as caught:
        build({"name": "sgd", "learning_rate": 1.0}, layout(), groups=groups)
    assert caught.value.places[0].pointer.startswith("/groups/0")
    kept = build({"name": "sgd", "learning_rate": PLATEAU}, layout(), groups=[{"match": "scale", "learning_rate": 1.0}])
    state = kept.init(np.zeros(18))
    for _ in range(4):
        state = kept.step(state, np.ones(18), loss=1.0).state
    assert state.params[17] == -4.0
    assert state.params[0] == -(0.5 * 3 + 0.25)


def test_losses_count_where_a_step_is_an_update() -> None:
    """While gradients are gathered the schedule sees the loss of the step that applies them."""
    gathering = [{"name": "accumulate", "steps": 2}]
    for formula in ("torch", "optax"):
        plateau = {"schedule": "reduce_on_plateau", "initial": 1.0, "patience": 1, "formula": formula}
        alone = build({"name": "sgd", "learning_rate": plateau}, layout())
        subject = build({"name": "sgd", "learning_rate": plateau}, layout(), gathering)
        one, other = alone.init(start()), subject.init(start())
        for row in gradients(5):
            one = alone.step(one, row, loss=2.0).state
            for loss in (9.0, 2.0):
                other = subject.step(other, row, loss=loss).state
            assert bits(one.slots[-1]) == bits(other.slots[-1])
