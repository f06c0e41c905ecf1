"""A step block by block: the bits of the whole one, whoever takes which block, and wherever it is written."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from service.optim import blocks, kernels
from service.optim.blocks import suits
from service.optim.kernels import Form, compiled
from service.optim.optimizer import Optimizer, build
from service.optim.specification import resolve
from service.optim.state import State
from service.optim.tensors import BLOCK, DTYPES, Array, norm, single
from tests.optim.table import bits
from tests.optim.test_kernels import ELEMENTWISE, awkward

SIZE = 3 * BLOCK + 77  # the last block is short
OF_EACH_RULE = {resolve(s).rule.update.__name__: label for label, s in ELEMENTWISE.items()}  # that with most options on
DTYPE = pytest.mark.parametrize("dtype", DTYPES)


def started(label: str, dtype: str = "float64") -> tuple[Optimizer, State]:
    """An optimizer, by its label or its name, and its state, whose arrays belong to nobody else."""
    optimizer = build(ELEMENTWISE.get(label, {"name": label}), single(SIZE, dtype))
    state = optimizer.init(awkward(SIZE, dtype, 1, 1e3))
    return optimizer, state._replace(slots=tuple(slot.copy() for slot in state.slots))


def arrays(state: State) -> list[Array]:
    """What a state is made of."""
    return [state.params, *state.slots]


def compare(optimizer: Optimizer, state: State, steps: int = 2) -> None:
    """Step for step, over the slots and beside them, the bits must be those of the whole."""
    over = state._replace(slots=tuple(slot.copy() for slot in state.slots))
    for t in range(steps):
        gradient = awkward(SIZE, optimizer.layout.dtype.name, 10 + t, 1e3)
        whole = optimizer.step(state, gradient)
        before = [bits(array) for array in arrays(state)]
        for start, lost in ((state, False), (over, True)):
            walked = blocks.step(optimizer, start, gradient, over=lost)
            assert list(map(bits, arrays(walked.step.state))) == list(map(bits, arrays(whole.state)))
            assert walked.step.learning_rate == whole.learning_rate
            assert walked.step.state[::3] == whole.state[::3]
            with np.errstate(all="ignore"):
                assert walked.update_norm == norm(whole.state.params - state.params)
            assert walked.finite == all(bool(np.isfinite(slot).all()) for slot in whole.state.slots)
        assert [bits(array) for array in arrays(state)] == before
        state, over = whole.state, walked.step.state


@pytest.mark.parametrize("label", OF_EACH_RULE.values(), ids=OF_EACH_RULE)
@DTYPE
def test_the_bits_are_those_of_the_whole(label: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "AVAILABLE", False)
    optimizer, state = started(label, dtype)
    assert suits(optimizer, state)
    compare(optimizer, state)


@pytest.mark.parametrize("label", ["adam", "adamw", "lion", "adagrad"])
@DTYPE
def test_compiled_too(label: str, dtype: str) -> None:
    optimizer, state = started(label, dtype)
    spec = optimizer.specification
    form = Form(DTYPES[dtype].char, optimizer.decaying, True)
    compiled(optimizer.rule, form, type(spec.dialect.scalars(spec.values, 1)))
    compare(optimizer, state, 4)


def test_one_thread_is_enough_where_the_other_is_busy() -> None:
    busy = threading.Event()
    holding = blocks.beside(busy.wait, 60)
    try:
        compare(*started("adam"))
        flat = awkward(SIZE, "float64", 3, 1e3)
        assert blocks.length(flat) == norm(flat)
    finally:
        busy.set()
    assert holding.result()


def test_written_over_the_slots_a_step_takes_no_new_ones() -> None:
    optimizer, state = started("adam")
    gradient = awkward(SIZE, "float64", 2, 1e3)
    walked = blocks.step(optimizer, state, gradient, over=True)
    assert all(new is old for new, old in zip(walked.step.state.slots, state.slots, strict=True))
    assert walked.step.state.params is not state.params


def test_what_must_not_be_written_to_is_left_alone() -> None:
    optimizer, state = started("adam")
    for slot in state.slots:
        slot.flags.writeable = False
    walked = blocks.step(optimizer, state, awkward(SIZE, "float64", 2, 1e3), over=True)
    assert not any(slot.any() for slot in state.slots)
    assert all(slot.any() for slot in walked.step.state.slots)


def test_a_state_that_is_not_finite_is_told() -> None:
    optimizer, state = started("adam")
    gradient = np.zeros(SIZE)
    gradient[-1] = 1e200  # its square is infinite
    assert not blocks.step(optimizer, state, gradient).finite
    gradient[-1] = 1.0
    assert blocks.step(optimizer, state, gradient).finite


@pytest.mark.parametrize("value", [0.0, 1e-200, 1e200, np.inf, -np.inf, np.nan, 1.0])
@DTYPE
def test_a_length_is_the_norm(value: float, dtype: str) -> None:
    with np.errstate(all="ignore"):
        flat = (np.random.default_rng(1).standard_normal(SIZE) * value).astype(dtype)
    assert np.array_equal(blocks.length(flat), norm(flat), equal_nan=True)


def test_an_error_in_the_thread_that_helps_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    optimizer, state = started("adam")

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(kernels, "update", broken)
    with pytest.raises(ZeroDivisionError):
        blocks.step(optimizer, state, np.ones(SIZE))


def test_matrices_and_groups_are_for_the_whole_step() -> None:
    layout = single(SIZE)
    assert suits(build({"name": "adam"}, layout), State(0, np.ones(SIZE), (), 0))
    assert not suits(build({"name": "adam"}, layout), State(0, np.ones(SIZE), (), (1, 2)))
    assert not suits(build({"name": "lamb"}, layout), State(0, np.ones(SIZE), (), 0))
    assert not suits(
        build({"name": "adam"}, layout, [{"name": "clip_by_norm", "max_norm": 1.0}]), State(0, np.ones(SIZE), (), 0)
    )
