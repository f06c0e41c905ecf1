"""The state of an optimizer as data: flat arrays, whose places depend on the specification and the shapes alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from service.optim.rule import PARAMETERS, Initial, Rule, Shape, Values
from service.optim.tensors import Array, Layout

Counts = int | tuple[int, ...]


class State(NamedTuple):
    """A point of the fold.

    step     updates made: steps taken, but those that only gathered or evaluated
    params   (size,) flat, in layout order
    slots    one flat array for each of the optimizer's slots
    counts   updates of each tensor: one number while they agree, else one per tensor
    """

    step: int
    params: Array
    slots: tuple[Array, ...]
    counts: Counts


class Step(NamedTuple):
    """What a step came to: the new state, the learning rate that was used (the ungrouped one), whether it is complete.

    It is not complete while gradients are being gathered, or while a rule that chooses its points is searching.
    """

    state: State
    learning_rate: float
    committed: bool = True


class KeepsState(Protocol):
    """What declares slots: a rule, a transform."""

    @property
    def slots(self) -> tuple[str, ...]: ...
    @property
    def shapes(self) -> Mapping[str, Any]: ...
    @property
    def initial(self) -> Mapping[str, Initial]: ...


@dataclass(frozen=True)
class Place:
    """Where the parts of a slot lie in its flat array: one for each tensor, or one for all."""

    name: str
    shapes: tuple[Shape, ...]
    dtype: np.dtype[Any]
    of_tensors: bool

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """The stretch of each part."""
        ends = accumulate((math.prod(shape) for shape in self.shapes), initial=0)
        return tuple(slice(a, b) for a, b in pairwise(ends))

    @cached_property
    def size(self) -> int:
        """Elements in all."""
        return sum(math.prod(shape) for shape in self.shapes)

    def part(self, flat: Array, i: int = 0) -> Array:
        """A view of the i-th part, in its shape."""
        return flat[self.slices[i]].reshape(self.shapes[i])


def places(owner: KeepsState, layout: Layout, prefix: str = "", *, by_tensor: bool = True) -> tuple[Place, ...]:
    """The places of what a rule or a transform declares; `by_tensor` says whose shape its functions are given."""
    found = []
    for name in owner.slots:
        shape = owner.shapes.get(name)
        if shape is None:
            place = Place(prefix + name, layout.shapes, layout.dtype, True)
        elif isinstance(shape, tuple):
            place = Place(prefix + name, (shape,), np.dtype("<f8"), False)
        elif by_tensor:
            told = zip(layout.shapes, layout.names, strict=True)
            named = isinstance(owner, Rule) and owner.named
            shapes = tuple(tuple(shape(*pair) if named else shape(pair[0])) for pair in told)
            place = Place(prefix + name, shapes, layout.dtype, True)
        else:
            place = Place(prefix + name, (tuple(shape((layout.size,))),), layout.dtype, False)
        found.append(place)
    return tuple(found)


@np.errstate(all="ignore")
def beginning(place: Place, start: Initial, params: Array, layout: Layout, values: list[Values]) -> Array:
    """The flat array with which a slot begins; `values` are each tensor's hyperparameters before the first step."""
    if start is PARAMETERS:
        return params.copy()
    flat = np.zeros(place.size, place.dtype)
    for i in range(len(place.shapes)):
        flat[place.slices[i]] = _begin_part(place, i, start, params, layout, values)
    return flat


def _begin_part(place: Place, i: int, start: Initial, params: Array, layout: Layout, values: list[Values]) -> Any:
    if callable(start):
        p = params[layout.slices[i]].reshape(layout.shapes[i]) if place.of_tensors else params
        return np.broadcast_to(start(p, values[i]), place.shapes[i]).ravel()
    return values[i].get(start, 0.0) if isinstance(start, str) else start
