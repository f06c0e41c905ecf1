"""Specification -> Optimizer: `init` and `step`, pure functions over named tensors.

    optimizer = build({"name": "adam", "learning_rate": 0.01}, layout)
    state = optimizer.init(params)
    state = optimizer.step(state, gradient).state

State is data: flat arrays and counts whose layout depends on the specification and on the parameters' shapes alone.
A step runs the transforms of the gradient, the rule, and the transforms of the parameters, in that order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np

from service.errors import Invalid
from service.optim import kernels
from service.optim.groups import Group, Members, assign, parse_groups
from service.optim.hyperparameters import escape
from service.optim.kernels import Decay
from service.optim.rule import Rule, Values
from service.optim.schedules.form import Schedule
from service.optim.specification import Specification, resolve
from service.optim.state import KeepsState, Place, State, Step, beginning, places
from service.optim.tensors import Array, Layout
from service.optim.transforms.catalogue import in_order, parse_list
from service.optim.transforms.form import Applied, At

Rows = Mapping[int, Array]  # by tensor: the rows (indices of the first axis) that a sparse gradient has
_NO_ROWS: Rows = {}
STACKED = 256  # elements; a larger state gains little by company


class _Moved(NamedTuple):
    """What the rule made of the state, before the parameters' own transforms."""

    params: Array
    slots: tuple[Array, ...]
    counts: int | tuple[int, ...]
    committed: bool


class _Given(NamedTuple):
    """What a step is given beside the state: who has no gradient, which rows there are, the loss."""

    absent: frozenset[int]
    rows: Rows
    loss: float | None


@dataclass(frozen=True)
class Optimizer:
    """A specification bound to a layout; build one with `build`.

    members   per distinct set of hyperparameters, the indices of the tensors that have it
    frozen    the tensors that no step moves
    inner     the optimizer that this one wraps, if it wraps one
    """

    specification: Specification
    layout: Layout
    transforms: tuple[Applied, ...]
    groups: tuple[Group, ...]
    members: Members
    frozen: frozenset[int] = frozenset()
    inner: Optimizer | None = None

    # What it is

    @cached_property
    def rule(self) -> Rule:
        """The rule of all tensors; groups cannot change it."""
        return self.specification.rule

    @cached_property
    def decaying(self) -> bool:
        """Whether any tensor needs what comes before the rule; it then runs for all, so that one loop serves them."""
        return any(_decays(spec) for spec, _ in self.members)

    @cached_property
    def common(self) -> Specification | None:
        """The one set of hyperparameters that all tensors have, if there is one."""
        return self.members[0][0] if len(self.members) == 1 and not self.frozen else None

    @cached_property
    def plain(self) -> bool:
        """Whether a step is one run of an elementwise rule on everything, as it nearly always is."""
        elementwise = self.rule.span == "element" and not self.specification.driven
        return elementwise and not self.transforms and self.common is not None

    @cached_property
    def stacks(self) -> bool:
        """Whether states can be the rows of one array that takes a step as one, and are small enough to gain by it."""
        return self.plain and not self.rule.shapes and self.layout.size <= STACKED

    @cached_property
    def wants(self) -> str:
        """What a step must bring: "gradient", or "value_and_gradient" where it needs the loss too."""
        needy = self.rule.wants != "gradient" or self.specification.driven
        inner = self.inner is not None and self.inner.wants != "gradient"
        return "value_and_gradient" if needy or inner else "gradient"

    @cached_property
    def evaluations(self) -> int:
        """Gradients that a step takes at most; where a transform leaves steps out, it may be more."""
        gathered = [t.arguments.get("steps", 1) for t in self.transforms if t.transform.holds]
        return self.rule.evaluations(self.specification.values) * int(math.prod(gathered))

    @cached_property
    def following(self) -> tuple[Mapping[str, Schedule], ...]:
        """The schedules that follow the loss: its own, and those of the optimizers that it wraps."""
        return (self.specification.driven, *(() if self.inner is None else self.inner.following))

    @cached_property
    def partial(self) -> bool:
        """Whether a step may be incomplete: gathered only, or an evaluation on the way."""
        return self.rule.committed is not None or any(t.transform.holds for t in self.transforms)

    @cached_property
    def work(self) -> int:
        """About how many elements an elementwise rule would have for a step to take as long as one of this."""
        weight = {"matrix": 1000, "evaluating": 20}.get(self.specification.algorithm.kind, 1)
        return max(weight * self.layout.size, 0 if self.inner is None else self.inner.work)

    # State

    @cached_property
    def places(self) -> tuple[Place, ...]:
        """Every slot of the state: the rule's, those of the optimizer it wraps, the transforms', the schedules'."""
        found = list(places(self.rule, self.layout, by_tensor=self.rule.span == "tensor"))
        if self.inner is not None:
            tensors = 1 + len(self.layout.names)
            found += [Place(f"optimizer/{p.name}", p.shapes, p.dtype, p.of_tensors) for p in self.inner.places]
            found.append(Place("optimizer/counts", ((tensors,),), np.dtype("<f8"), False))
        for i, applied in enumerate(self.transforms):
            found += places(applied.transform, self.layout, f"transforms/{i}/", by_tensor=False)
        for name, schedule in self.specification.driven.items():
            memory = schedule.form.start(schedule.arguments) if schedule.form.start else ()
            found.append(Place(f"schedules/{name}", ((len(memory),),), np.dtype("<f8"), False))
        return tuple(found)

    @cached_property
    def slot_names(self) -> tuple[str, ...]:
        """The names of the slots, in the order in which a state holds them."""
        return tuple(place.name for place in self.places)

    @cached_property
    def _ends(self) -> dict[str, slice]:
        """Which slots are whose: "rule", "inner", a transform's index, "schedules"."""
        sizes = {"rule": len(self.rule.slots), "inner": 0 if self.inner is None else len(self.inner.places) + 1}
        sizes |= {str(i): len(applied.transform.slots) for i, applied in enumerate(self.transforms)}
        sizes["schedules"] = len(self.specification.driven)
        ends = pairwise(accumulate(sizes.values(), initial=0))
        return {name: slice(a, b) for name, (a, b) in zip(sizes, ends, strict=True)}

    def init(self, params: Array) -> State:
        """The state before the first step, on flat parameters of shape (layout.size,)."""
        slots: list[Array] = []
        values: list[Values] = [{}] * len(self.layout.names)
        for spec, indices in self.members:
            for i in indices:
                values[i] = spec.at(0)
        owners: list[tuple[KeepsState, list[Values]]] = [(self.rule, values)]
        owners += [(t.transform, [t.at(0)] * len(values)) for t in self.transforms]
        for owner, whose in owners:
            for name in owner.slots:
                start = owner.initial.get(name, 0.0)
                slots.append(beginning(self.places[len(slots)], start, params, self.layout, whose))
            if owner is self.rule and self.inner is not None:
                slots += _packed(self.inner.init(params), len(values))
        for schedule in self.specification.driven.values():
            assert schedule.form.start is not None
            slots.append(np.array(schedule.form.start(schedule.arguments), np.float64))
        return State(0, params, tuple(slots), 0)

    def view(self, state: State, which: str) -> Array:
        """The parameters to train with ("train"), or to evaluate with ("eval"): flat, (size,).

        They differ for averages of the parameters, schedule-free rules and Lookahead.
        """
        if which == "train":
            return state.params
        for i, applied in reversed(list(enumerate(self.transforms))):
            if applied.transform.view is not None:
                mine = state.slots[self._ends[str(i)]]
                seen: Array = applied.transform.view(applied.at(state.step), state.params, *mine)
                return seen
        if self.rule.view is not None:
            return self._viewed(state, self.rule.view)
        if self.inner is not None:
            return self.inner.view(_unpacked(state.params, state.slots[self._ends["inner"]]), which)
        return state.params

    def _viewed(self, state: State, view: Callable[..., Array]) -> Array:
        """The rule's own view, of each tensor where they differ in hyperparameters; what is frozen is as it is."""
        mine = state.slots[self._ends["rule"]]
        if self.common is not None or self.rule.span == "all":
            seen = np.array(view(self.members[0][0].at(state.step), state.params, *mine), self.layout.dtype)
            for i in self.frozen:
                seen[self.layout.slices[i]] = state.params[self.layout.slices[i]]
            return seen
        whole = state.params.copy()
        for spec, indices in self.members:
            values = spec.at(state.step)
            for i in set(indices) - self.frozen:
                where = self.layout.slices[i]
                parts = (slot[place.slices[i]] for slot, place in zip(mine, self.places, strict=False))
                whole[where] = view(values, state.params[where], *parts)
        return whole

    # Steps

    def step(
        self,
        state: State,
        gradient: Array,
        absent: Sequence[int] = (),
        loss: float | None = None,
        rows: Rows = _NO_ROWS,
        into: State | None = None,
    ) -> Step:
        """One step: a new state, the old one untouched.

        `gradient` is flat, (layout.size,), of the layout's dtype and finite; the tensors at the indices `absent` have
        no gradient and are left as they are; of those in `rows` only these rows have one, and it is zero elsewhere.
        The result may hold infinities or NaN where numbers overflow. `into` is a state of this optimizer whose arrays
        may be overwritten by the new one; it may be `state` itself, which is then lost. Raises Invalid where the
        optimizer needs a loss or a gradient that is not there, or takes no rows.
        """
        if self.plain and not absent and not rows and isinstance(state.counts, int):
            spec = self.specification if self.common is None else self.common
            values = spec.at(state.step)
            t = clock(spec, state.counts, state.step)
            decay = decay_scalars(spec, values) if self.decaying else None
            scalars = spec.dialect.scalars(values, t)
            over = None if into is None else (into.params, *into.slots)
            params, *slots = kernels.update(self.rule, state.params, gradient, state.slots, scalars, decay, over)
            new = State(state.step + 1, params, tuple(slots), state.counts + 1)
            return Step(new, values.get("learning_rate", 1.0))
        return self._whole_step(state, gradient, _Given(self.frozen.union(absent), rows, loss))

    @np.errstate(all="ignore")
    def _whole_step(self, state: State, gradient: Array, given: _Given) -> Step:
        """The step with all that may belong to one."""
        self._check(given)
        slots = list(state.slots)
        n = self._clock(state)
        present = [i for i in range(len(self.layout.names)) if i not in given.absent]
        at = At(self.layout, present, state.step)
        held: Array | None = gradient
        for i, applied in enumerate(self.transforms):
            if applied.transform.stage == "gradient" and held is not None:
                mine = self._ends[str(i)]
                held, slots[mine] = applied(held, state.params, at, slots[mine])
        if held is None:
            return self._held_step(state, slots, at)
        self._observe(slots, given.loss, at_once=True)
        driven = self._driven(slots)
        rate = {**self.specification.at(n), **driven}.get("learning_rate", 1.0)
        at = at._replace(rates=self._rates(state, slots))
        moved = self._move(state, held, slots, given, n, driven)
        params = moved.params
        slots[: self._ends["inner"].stop] = moved.slots
        if not moved.committed:
            return Step(State(state.step, params, tuple(slots), state.counts), rate, False)
        for i, applied in enumerate(self.transforms):
            if applied.transform.stage == "parameters":
                mine = self._ends[str(i)]
                out, slots[mine] = applied(params, state.params, at, slots[mine])
                params = params if out is None else out
        self._observe(slots, given.loss, at_once=False)
        return Step(State(state.step + 1, params, tuple(slots), moved.counts), rate)

    def _held_step(self, state: State, slots: list[Array], at: At) -> Step:
        """The step whose gradient a transform kept to itself."""
        params = state.params
        for i, applied in enumerate(self.transforms):
            if applied.transform.stage == "parameters" and applied.transform.always(applied.arguments):
                mine = self._ends[str(i)]
                out, slots[mine] = applied(params, params, at, slots[mine])
                params = params if out is None else out
        values = {**self.specification.at(self._clock(state)), **self._driven(slots)}
        rate = values.get("learning_rate", 1.0)
        return Step(State(state.step, params, tuple(slots), state.counts), rate, False)

    def _rates(self, state: State, slots: Sequence[Array]) -> Sequence[float]:
        """The learning rate of each tensor in this step, where a transform of the parameters may ask for it."""
        if all(applied.transform.stage == "gradient" for applied in self.transforms):
            return ()
        wrapped, taking = self, state._replace(slots=tuple(slots))
        while wrapped.inner is not None:
            taking = _unpacked(taking.params, taking.slots[wrapped._ends["inner"]])
            wrapped = wrapped.inner
        rates = [1.0] * len(self.layout.names)
        n, driven = wrapped._clock(taking), wrapped._driven(taking.slots)
        for spec, indices in wrapped.members:
            values = {**spec.at(n), **{k: v for k, v in driven.items() if k in spec.driven}}
            for i in indices:
                rates[i] = values.get("learning_rate", 1.0)
        return rates

    def _check(self, given: _Given) -> None:
        """Raises Invalid for what a step lacks, or brings in vain."""
        if self.wants != "gradient" and given.loss is None:
            raise Invalid(
                f"{self.specification.algorithm.name} with these options needs the loss at the point of the gradient; "
                'send it as "loss".',
                pointer="/loss",
            )
        missing = given.absent - self.frozen
        if self.rule.committed is not None and missing:
            name = self.layout.names[min(missing)]
            raise Invalid(
                f"{self.specification.algorithm.name} needs the gradient of every parameter; freeze those that have "
                "none.",
                pointer=f"/gradients/{escape(name)}",
            )
        keeps = [applied.transform for applied in self.transforms if applied.transform.slots]
        gathers = next((transform.name for transform in keeps if transform.stage == "gradient"), None)
        if given.rows and gathers:
            raise Invalid(f"{gathers} takes no sparse gradients; send full ones.", pointer="/gradients")
        decayed = [i for spec, indices in self.members if spec.values.get("weight_decay") for i in indices]
        if given.rows and not given.rows.keys().isdisjoint(decayed):
            raise Invalid(
                f"{self.specification.algorithm.name} takes no sparse gradients where there is weight decay, which "
                "would move every row; send full ones, or set weight_decay to 0.",
                pointer="/gradients",
            )
        if given.rows and self.rule.sparse == "refused":
            raise Invalid(
                f"{self.specification.algorithm.name} takes no sparse gradients; send full ones, or use sgd, adagrad "
                "or sparse_adam.",
                pointer="/gradients",
            )

    def _clock(self, state: State) -> int:
        """The n at which schedules are read."""
        for i, applied in enumerate(self.transforms):
            if applied.transform.clock is not None:
                n = applied.transform.clock(applied.at(state.step), *state.slots[self._ends[str(i)]])
                if n is not None:
                    return n
        return state.step

    def _observe(self, slots: list[Array], loss: float | None, *, at_once: bool) -> None:
        """Show the loss to the schedules that follow it."""
        first = self._ends["schedules"].start
        for k, schedule in enumerate(self.specification.driven.values(), first):
            if loss is not None and schedule.form.observe and schedule.form.at_once(schedule.arguments) is at_once:
                memory = schedule.form.observe(schedule.arguments, tuple(slots[k].tolist()), loss)
                slots[k] = np.array(memory, np.float64)

    def _driven(self, slots: Sequence[Array]) -> dict[str, float]:
        """The values of the schedules that follow the loss."""
        first = self._ends["schedules"].start
        return {
            name: schedule.form.read(schedule.arguments, tuple(slots[k].tolist()))
            for k, (name, schedule) in enumerate(self.specification.driven.items(), first)
            if schedule.form.read
        }

    # The rule

    def _move(
        self, state: State, g: Array, slots: Sequence[Array], given: _Given, n: int, driven: dict[str, float]
    ) -> _Moved:
        mine = tuple(slots[self._ends["rule"]])

        def values_of(spec: Specification) -> Values:
            values = spec.at(n)
            if driven:
                values = {**values, **{k: v for k, v in driven.items() if k in spec.driven}}
            return values if given.loss is None else {**values, "loss": given.loss}

        if self.rule.span == "all":
            return self._move_all(state, g, mine, tuple(slots[self._ends["inner"]]), given, values_of)
        lazy = given.rows and self.rule.sparse == "lazy"
        together = self.rule.span == "element" and not given.absent and not lazy
        if together and self.common is not None and isinstance(state.counts, int):
            params, *new = self._update(self.common, values_of(self.common), state.counts, state, (g, mine))
            return _Moved(params, tuple(new), state.counts + 1, True)
        return self._move_each(state, g, mine, given, values_of)

    def _update(
        self, spec: Specification, values: Values, count: int, state: State, moving: tuple[Array, tuple[Array, ...]]
    ) -> tuple[Array, ...]:
        """The rule on the flat whole, elementwise."""
        g, slots = moving
        decay = decay_scalars(spec, values) if self.decaying else None
        scalars = spec.dialect.scalars(values, clock(spec, count, state.step))
        return kernels.update(self.rule, state.params, g, slots, scalars, decay)

    def _move_each(
        self,
        state: State,
        g: Array,
        slots: tuple[Array, ...],
        given: _Given,
        values_of: Callable[[Specification], Values],
    ) -> _Moved:
        """The rule on each tensor, where they differ in hyperparameters, in counts or in having a gradient at all."""
        size = len(self.layout.names)
        counts = [state.counts] * size if isinstance(state.counts, int) else list(state.counts)
        params, new = state.params.copy(), tuple(slot.copy() for slot in slots)
        for spec, indices in self.members:
            values = values_of(spec)
            for i in indices:
                if i in given.absent:
                    continue
                decay = decay_scalars(spec, values) if self.decaying else None
                scalars = spec.dialect.scalars(values, clock(spec, counts[i], state.step))
                self._update_tensor(i, params, g, new, (scalars, decay), given.rows.get(i))
                counts[i] += 1
        moving = {count for i, count in enumerate(counts) if i not in self.frozen}
        same = len(moving) == 1
        return _Moved(params, new, moving.pop() if same else tuple(counts), True)

    def _update_tensor(
        self,
        i: int,
        params: Array,
        g: Array,
        slots: tuple[Array, ...],
        scalars: tuple[Any, Decay | None],
        rows: Array | None,
    ) -> None:
        """Write what the rule makes of the i-th tensor into `params` and `slots`."""
        where, shape = self.layout.slices[i], self.layout.shapes[i]
        if self.rule.span == "tensor":
            views = [self.places[k].part(slot, i) for k, slot in enumerate(slots)]
            old = (params[where].reshape(shape), g[where].reshape(shape), *views)
            out = kernels.update_whole(self.rule, old[0], old[1], old[2:], *scalars)
            for view, new in zip((params[where].reshape(shape), *views), out, strict=True):
                view[...] = new
            return
        flat: Any = slice(None)
        if rows is not None and self.rule.sparse == "lazy":
            width = math.prod(shape[1:])
            flat = (np.asarray(rows)[:, None] * width + np.arange(width)).ravel()
        views = [slot[where] for slot in slots]
        old = tuple(view[flat] for view in (params[where], g[where], *views))
        out = kernels.update(self.rule, old[0], old[1], old[2:], *scalars)
        for view, new in zip((params[where], *views), out, strict=True):
            view[flat] = new

    def _move_all(
        self,
        state: State,
        g: Array,
        slots: tuple[Array, ...],
        inner: tuple[Array, ...],
        given: _Given,
        values_of: Callable[[Specification], Values],
    ) -> _Moved:
        """The rule on everything together."""
        spec = self.members[0][0]
        values = values_of(spec)
        if given.absent:
            g = g.copy()
            for i in given.absent:
                g[self.layout.slices[i]] = 0
        own = [place.part(slot) if not _flat(place) else slot for place, slot in zip(self.places, slots, strict=False)]
        wrapped = inner
        step: Callable[..., Array] | None = None
        if self.inner is not None:

            def step(p: Array, g: Array, restart: bool = False) -> Array:
                nonlocal wrapped
                assert self.inner is not None
                before = _unpacked(p, inner)
                after = self.inner.step(before, np.asarray(g, p.dtype), tuple(given.absent), given.loss, given.rows)
                kept = self.inner.init(after.state.params) if restart else after.state
                wrapped = _packed(kept, len(self.layout.names))
                return after.state.params

        decay = decay_scalars(spec, values) if self.decaying else None
        scalars = spec.dialect.scalars(values, state.step + 1)
        params, *new = kernels.update_whole(self.rule, state.params, g, tuple(own), scalars, decay, step)
        flats = tuple(np.ascontiguousarray(a, p.dtype).reshape(-1) for a, p in zip(new, self.places, strict=False))
        params, flats = self._put_back(state, params, slots, flats, given.absent)
        committed = self.rule.committed is None or self.rule.committed(*new)
        counts = state.counts + int(committed) if isinstance(state.counts, int) else state.counts
        return _Moved(params, (*flats, *wrapped), counts, committed)

    def _put_back(
        self, state: State, params: Array, old: Sequence[Array], new: tuple[Array, ...], absent: frozenset[int]
    ) -> tuple[Array, tuple[Array, ...]]:
        """What a rule over everything made, but for the tensors that it was not to touch."""
        params = np.asarray(params, self.layout.dtype)
        if absent:
            params = params.copy()
            new = tuple(array.copy() for array in new)
            for i in absent:
                where = self.layout.slices[i]
                params[where] = state.params[where]
                for place, before, after in zip(self.places, old, new, strict=False):
                    if place.of_tensors:
                        after[where] = before[where]
        return params, new

    def as_json(self) -> dict[str, Any]:
        """The resolved optimizer, transforms and groups, as a client may post them again."""
        return {
            "optimizer": self.specification.as_json(),
            "transforms": [transform.as_json() for transform in self.transforms],
            "groups": [group.as_json() for group in self.groups],
        }


def build(specification: Any, layout: Layout, transforms: Any = (), groups: Any = ()) -> Optimizer:
    """An optimizer for tensors of this layout.

    Raises Invalid with pointers below /optimizer, /transforms and /groups. Transforms that a `like` brings come after
    the explicit ones, since the library applies them last before its rule; those of the parameters come after all of
    the gradient.
    """
    try:
        spec = resolve(specification)
    except Invalid as error:
        raise error.at("/optimizer") from None
    try:
        listed = parse_list(list(transforms) if isinstance(transforms, tuple) else transforms)
        for i, applied in enumerate(listed):
            applied.suits(layout, f"/{i}")
    except Invalid as error:
        raise error.at("/transforms") from None
    try:
        parsed = parse_groups(list(groups) if isinstance(groups, tuple) else groups)
        frozen = _frozen(parsed, layout)
        return _bind(spec, layout, in_order((*listed, *spec.transforms)), parsed, frozen)
    except Invalid as error:
        raise (error if error.places[0].pointer.startswith("/optimizer") else error.at("/groups")) from None


def _bind(
    spec: Specification,
    layout: Layout,
    transforms: tuple[Applied, ...],
    groups: tuple[Group, ...],
    frozen: frozenset[int],
    pointer: str = "/optimizer",
) -> Optimizer:
    inner, mine = None, groups
    if spec.base is not None:
        # groups say hyperparameters of the optimizer that takes the steps
        inner, mine = _bind(spec.base, layout, (), groups, frozen, f"{pointer}/optimizer"), ()
        if inner.rule.committed is not None:
            raise Invalid(
                f"{spec.algorithm.name} cannot wrap {spec.base.algorithm.name}, which chooses its own points.",
                pointer=f"{pointer}/optimizer",
            )
    members = assign(spec, mine, layout)
    optimizer = Optimizer(spec, layout, transforms, groups, members, frozen, inner)
    if optimizer.rule.span == "all" and len(members) > 1:
        raise Invalid(
            f"{spec.algorithm.name} takes all parameters together, so that a group can only freeze; give the other "
            "options to all.",
            pointer="/0",
        )
    for i, (name, shape) in enumerate(zip(layout.names, layout.shapes, strict=True)):
        reason = None if i in frozen else optimizer.rule.fits(shape)
        if reason:
            which = f"The parameter {name!r}" if layout.named else "The parameter"
            raise Invalid(f"{which} cannot be: {spec.algorithm.name} {reason}.", pointer=pointer)
    return optimizer


def _frozen(groups: Sequence[Group], layout: Layout) -> frozenset[int]:
    """The tensors whose last word is that they are frozen."""
    frozen: set[int] = set()
    for group in groups:
        if group.frozen is not None:
            matched = {i for i, name in enumerate(layout.names) if group.matches(name)}
            frozen = frozen | matched if group.frozen else frozen - matched
    if frozen and len(frozen) == len(layout.names):
        raise Invalid("Every parameter is frozen; leave at least one to train.", pointer=f"/{len(groups) - 1}/frozen")
    return frozenset(frozen)


def _flat(place: Place) -> bool:
    return place.of_tensors


def _packed(state: State, tensors: int) -> tuple[Array, ...]:
    """The slots of a wrapped optimizer, with its counts as one more."""
    counts = [state.counts] * tensors if isinstance(state.counts, int) else state.counts
    return (*state.slots, np.array([state.step, *counts], np.float64))


def _unpacked(params: Array, slots: tuple[Array, ...]) -> State:
    step, *counts = (int(count) for count in slots[-1])
    return State(step, params, slots[:-1], counts[0] if len(set(counts)) == 1 else tuple(counts))


def clock(spec: Specification, count: int, n: int) -> int:
    """The t of the next step, from 1, of a tensor that took `count` steps in a session that took `n`."""
    return (count if spec.dialect.counter == "parameter" else n) + 1


def _decays(spec: Specification) -> bool:
    declared = spec.dialect.decay not in ("none", "own") or "decoupled_weight_decay" in spec.values
    return bool(spec.values.get("maximize")) or (declared and spec.values.get("weight_decay", 0.0) != 0.0)


def decay_scalars(spec: Specification, values: Values) -> Decay:
    """What comes before the rule: the sign of the gradient, and weight decay where the dialect has it there."""
    sign = -1.0 if values.get("maximize") else 1.0
    strength = values.get("weight_decay", 0.0)
    kind = "decoupled" if values.get("decoupled_weight_decay") else spec.dialect.decay
    if kind in ("none", "own"):
        return Decay(1.0, sign, 0.0)
    if kind == "coupled":
        return Decay(1.0, sign, strength)
    rate = values["schedule_multiplier"] if kind == "scheduled" else values.get("learning_rate", 1.0)
    return Decay(1.0 - rate * strength, sign, 0.0)
