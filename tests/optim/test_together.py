"""Steps taken together: each state gets the bits that it would have got alone."""

from __future__ import annotations

import numpy as np
import pytest

from service.optim.optimizer import STACKED, Optimizer, build
from service.optim.state import State
from service.optim.tensors import DTYPES, Array, single
from service.optim.together import step_together, steps_in_a_row
from tests.optim.table import bits
from tests.optim.test_kernels import ELEMENTWISE, awkward

SIZE = 10
STACKING = [label for label, specification in ELEMENTWISE.items() if build(specification, single(SIZE)).stacks]
AGES = (0, 0, 1, 2, 5, 40, 7, 3, 1)


def states(optimizer: Optimizer, ages: tuple[int, ...], dtype: str, largest: float) -> list[State]:
    """States of different ages, each of its own history."""
    found = []
    for i, age in enumerate(ages):
        state = optimizer.init(awkward(optimizer.layout.size, dtype, i, largest))
        for t in range(age):
            state = optimizer.step(state, awkward(optimizer.layout.size, dtype, 50 * i + t + 9, largest)).state
        found.append(state)
    return found


def compare(optimizer: Optimizer, given: list[State], gradients: Array) -> None:
    """Together and alone, the bits must be the same."""
    together = step_together(optimizer, given, gradients)
    for i, (state, gradient) in enumerate(zip(given, gradients, strict=True)):
        alone = optimizer.step(state, gradient)
        assert together.rates[i] == alone.learning_rate
        assert bits(together.params[i]) == bits(alone.state.params)
        for block, slot in zip(together.slots, alone.state.slots, strict=True):
            assert block.dtype == slot.dtype
            assert bits(block[i]) == bits(slot)


@pytest.mark.parametrize("label", STACKING)
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_gets_the_bits_that_it_gets_alone(label: str, dtype: str) -> None:
    optimizer = build(ELEMENTWISE[label], single(SIZE, dtype))
    largest = 1e30 if dtype == "float64" else 1e3
    given = states(optimizer, AGES, dtype, largest)
    rows = [awkward(SIZE, dtype, 1000 + i, largest) for i in range(len(given))]
    compare(optimizer, given, np.array(rows))


def test_every_plain_optimizer_is_among_them() -> None:
    plain = {label for label, specification in ELEMENTWISE.items() if build(specification, single(SIZE)).plain}
    assert plain == set(STACKING)
    assert len(STACKING) > 100


@pytest.mark.parametrize("label", STACKING)
@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_in_a_row_are_steps_one_by_one(label: str, dtype: str) -> None:
    optimizer = build(ELEMENTWISE[label], single(SIZE, dtype))
    largest = 1e30 if dtype == "float64" else 1e3
    state = states(optimizer, (3,), dtype, largest)[0]
    rows = np.array([awkward(SIZE, dtype, 1000 + i, largest) for i in range(6)])
    found, rates = steps_in_a_row(optimizer, state, rows)
    for row, after, rate in zip(rows, found, rates, strict=True):
        alone = optimizer.step(state, row)
        state = alone.state
        assert (after.step, after.counts, rate) == (state.step, state.counts, alone.learning_rate)
        assert bits(after.params) == bits(state.params)
        for one, other in zip(after.slots, state.slots, strict=True):
            assert one.dtype == other.dtype
            assert bits(one) == bits(other)


@pytest.mark.parametrize("ages", [(3,), (4, 4, 4), (1, 9)])
def test_with_a_schedule_each_is_at_its_own_place_in_it(ages: tuple[int, ...]) -> None:
    specification = {"name": "adam", "learning_rate": {"schedule": "exponential", "initial": 0.1, "gamma": 0.9}}
    optimizer = build(specification, single(SIZE))
    given = states(optimizer, ages, "float64", 1.0)
    compare(optimizer, given, np.random.default_rng(0).normal(size=(len(ages), SIZE)))


def test_large_states_and_rules_that_see_more_than_an_element_go_alone() -> None:
    assert build({"name": "adam"}, single(STACKED)).stacks
    assert not build({"name": "adam"}, single(STACKED + 1)).stacks
    assert not build({"name": "lamb"}, single(SIZE)).stacks
    assert not build({"name": "adam"}, single(SIZE), [{"name": "clip_by_global_norm", "max_norm": 1.0}]).stacks
