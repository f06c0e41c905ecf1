"""One step of many states at once, and many steps of one state.

An elementwise rule does not mind whose elements it sees: states of one optimizer stand as the rows of one array, each
with its own scalars as a column, and a pass over it costs little more than one of them alone. Rules are made of
operations that round alike everywhere, so that each row gets the bits that it would have got alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from service.optim.kernels import cast, decay
from service.optim.optimizer import Optimizer, clock, decay_scalars
from service.optim.rule import Values
from service.optim.specification import Specification
from service.optim.state import State
from service.optim.tensors import Array


class Together(NamedTuple):
    """What became of n states: parameters and slots of shape (n, size), and each one's learning rate."""

    params: Array
    slots: tuple[Array, ...]
    rates: list[float]

    def states(self, before: Sequence[State]) -> list[State]:
        """What became of each state; in arrays of its own, for one may stay when the others go."""
        split = zip(*([row.copy() for row in block] for block in (self.params, *self.slots)), strict=True)
        return [
            State(old.step + 1, params, tuple(slots), old.counts + 1)
            for old, (params, *slots) in zip(before, split, strict=True)
            if isinstance(old.counts, int)
        ]


@np.errstate(all="ignore")
def step_together(optimizer: Optimizer, states: Sequence[State], gradients: Array) -> Together:
    """The next step of each state, with the rows of `gradients`, (n, size); see `Optimizer.step`.

    The optimizer must be one that `stacks`, and each state have one count for all its tensors.
    """
    spec = optimizer.specification if optimizer.common is None else optimizer.common
    values = [spec.at(state.step) for state in states]
    times = [clock(spec, state.counts, state.step) for state in states if isinstance(state.counts, int)]
    c = _columns(_scalars(spec, values, times), gradients.dtype)
    p = stacked([state.params for state in states])
    g = gradients
    if optimizer.decaying:
        p, g = decay(p, g, _columns([decay_scalars(spec, v) for v in values], g.dtype))
    slots = [stacked([state.slots[i] for state in states]) for i in range(len(optimizer.rule.slots))]
    params, *after = optimizer.rule.update(p, g, *slots, c)
    return Together(params, tuple(after), [v.get("learning_rate", 1.0) for v in values])


@np.errstate(all="ignore")
def steps_in_a_row(optimizer: Optimizer, state: State, gradients: Array) -> tuple[list[State], list[float]]:
    """The states after each of the steps with the rows of `gradients`, (k, size), and their learning rates.

    As so many calls of `Optimizer.step`, without what they do again each time; the optimizer must be one that `stacks`,
    and the state have one count for all its tensors.
    """
    assert isinstance(state.counts, int)
    spec = optimizer.specification if optimizer.common is None else optimizer.common
    update, dtype = optimizer.rule.update, gradients.dtype
    states, rates = [], []
    p, slots = state.params, state.slots
    for i, g in enumerate(gradients, 1):
        values = spec.at(state.step + i - 1)
        c = cast(spec.dialect.scalars(values, clock(spec, state.counts + i - 1, state.step + i - 1)), dtype)
        if optimizer.decaying:
            p, g = decay(p, g, cast(decay_scalars(spec, values), dtype))
        p, *after = update(p, g, *slots, c)
        slots = tuple(after)
        states.append(State(state.step + i, p, slots, state.counts + i))
        rates.append(values.get("learning_rate", 1.0))
    return states, rates


def stacked(arrays: list[Array]) -> Array:
    """Arrays of one shape (size,) as the rows of one, (n, size)."""
    return np.concatenate(arrays).reshape(len(arrays), -1)


def _scalars(spec: Specification, values: list[Values], times: list[int]) -> list[Any]:
    """The scalars of each; without schedules they are the same at the same time."""
    if spec.scheduled:
        return [spec.dialect.scalars(v, t) for v, t in zip(values, times, strict=True)]
    at = {t: spec.dialect.scalars(values[0], t) for t in set(times)}
    return [at[t] for t in times]


def _columns(scalars: list[Any], dtype: np.dtype[Any]) -> Any:
    """The scalars of all, in the arrays' type: one number where they agree, else a column."""
    first, n = scalars[0], len(scalars)
    if scalars.count(first) == n:
        return cast(first, dtype)
    return first._make(
        dtype.type(field[0]) if field.count(field[0]) == n else np.array(field, dtype).reshape(n, 1)
        for field in zip(*scalars, strict=True)
    )
