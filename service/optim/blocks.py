"""A plain step of a large state, block by block: what is said of a block is worked out while it is in the cache.

An elementwise rule does not mind in what pieces it comes, and a norm is summed by blocks anyway, so that the bits are
those of `Optimizer.step` and `norm`. Two threads take blocks in turn; where one of them has something else to do first,
the other goes ahead.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from service.optim import kernels
from service.optim.optimizer import Optimizer, clock, decay_scalars
from service.optim.state import State, Step
from service.optim.tensors import BLOCK, Array, in_range, norm

LARGE = 1 << 17  # elements; below it another thread is not worth waking


class Walked(NamedTuple):
    """A step with the length of its updates; `finite` is whether every number of the new state surely is."""

    step: Step
    update_norm: float
    finite: bool


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="beside")


def beside(work: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """What comes of it in the thread that helps; it waits for nobody, so that waiting for it is always safe."""
    return _threads().submit(work, *arguments)


def suits(optimizer: Optimizer, state: State) -> bool:
    """Whether a step of this state, where every tensor has a gradient, can go block by block."""
    return optimizer.plain and not optimizer.rule.shapes and isinstance(state.counts, int)


def length(flat: Array) -> float:
    """`norm` of a flat array, by two threads."""
    sums = [0.0] * -(-flat.size // BLOCK)
    wide = flat.dtype != np.float64

    def walk(numbers: Callable[[], int]) -> None:
        squares = np.empty(BLOCK)
        for k in iter(numbers, len(sums)):
            block = flat[k * BLOCK : (k + 1) * BLOCK]
            sums[k] = _sum_of_squares(block.astype(np.float64) if wide else block, squares)

    _share(walk, len(sums))
    found = _root(sums)
    return norm(flat) if found is None else found


def step(optimizer: Optimizer, state: State, gradient: Array, over: bool = False) -> Walked:
    """The next step, its parameters a new array; with `over` it may be written over the slots.

    The old state is lost then, even if the new one is not finite. `gradient` is as `Optimizer.step` takes it.
    """
    spec = optimizer.specification if optimizer.common is None else optimizer.common
    values = spec.at(state.step)
    assert isinstance(state.counts, int)
    scalars = spec.dialect.scalars(values, clock(spec, state.counts, state.step))
    decay = decay_scalars(spec, values) if optimizer.decaying else None
    old = (state.params, *state.slots)
    kept = (False, *(over and slot.flags.writeable for slot in state.slots))
    new = tuple(a if keep else np.empty(a.size, a.dtype) for a, keep in zip(old, kept, strict=True))
    copied = [pair for pair, keep in zip(zip(new, old, strict=True), kept, strict=True) if not keep]
    sums, sound = [0.0] * -(-gradient.size // BLOCK), [True] * -(-gradient.size // BLOCK)

    @np.errstate(all="ignore")
    def walk(numbers: Callable[[], int]) -> None:
        squares, updates = np.empty(BLOCK), np.empty(BLOCK, gradient.dtype)
        for k in iter(numbers, len(sums)):
            where = slice(k * BLOCK, (k + 1) * BLOCK)
            for target, source in copied:
                target[where] = source[where]
            p, *slots = (array[where] for array in new)
            found = kernels.update(optimizer.rule, p, gradient[where], tuple(slots), scalars, decay, (p, *slots))
            if found[0] is not p:  # in NumPy
                for target, source in zip((p, *slots), found, strict=True):
                    target[:] = source
            moved = np.subtract(p, state.params[where], out=updates[: p.size])
            sums[k] = _sum_of_squares(moved if moved.dtype == np.float64 else moved.astype(np.float64), squares)
            sound[k] = all(math.isfinite(np.add.reduce(slot)) for slot in slots)

    _share(walk, len(sums))
    update_norm = _root(sums)
    if update_norm is None:
        with np.errstate(all="ignore"):
            update_norm = norm(new[0] - state.params)
    params, *slots = new
    after = State(state.step + 1, params, tuple(slots), state.counts + 1)
    return Walked(Step(after, values.get("learning_rate", 1.0)), update_norm, all(sound))


def _share(walk: Callable[[Callable[[], int]], None], size: int) -> None:
    """Have two threads walk over the numbers below `size`, each number once; both get `size` at the end."""
    counter = itertools.count()

    def number() -> int:
        return min(next(counter), size)

    held = [walk]  # and not the function itself, with its arrays: what a thread is given it keeps for a while
    helper = beside(_help, held, number)
    try:
        walk(number)
    finally:
        if not helper.cancel():  # else it is busy with something else
            helper.result()
        held.clear()


def _help(held: list[Callable[[Callable[[], int]], None]], number: Callable[[], int]) -> None:
    held[0](number)


def _sum_of_squares(block: Array, squares: Array) -> float:
    """As `norm` sums it: in float64, pairwise."""
    with np.errstate(all="ignore"):
        return float(np.add.reduce(np.multiply(block, block, out=squares[: block.size])))


def _root(sums: list[float]) -> float | None:
    """The norm from the sums of the blocks, added up as `norm` does; None where it has to look twice."""
    total = 0.0
    for part in sums:  # not `sum`, which rounds otherwise since Python 3.12
        total += part
    return math.sqrt(total) if in_range(total) and total == total else None
