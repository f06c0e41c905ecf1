"""Specification -> Optimizer: `init` and `step`, pure functions over named tensors.

    optimizer = build({"name": "adam", "learning_rate": 0.01}, layout)
    state = optimizer.init(params)
    state = optimizer.step(state, gradient).state

A specification is `{"name", "dialect", **hyperparameters}` in the field's full words, or `{"like": class path,
**arguments}` in a library's own. State is data: flat arrays and counts whose layout depends on the specification and
on the parameters' shapes alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from service.errors import Invalid
from service.optim import catalogue, kernels, libraries
from service.optim.hyperparameters import fill
from service.optim.kernels import Decay
from service.optim.rule import PARAMETERS, Algorithm, Dialect, Rule, Values
from service.optim.schedules.catalogue import parse
from service.optim.schedules.form import Schedule
from service.optim.tensors import Array, Layout
from service.optim.transforms import Applied, parse_list

Counts = int | tuple[int, ...]


class State(NamedTuple):
    """A point of the fold.

    step     steps taken by the session
    params   (size,) flat, in layout order
    slots    the rule's slots, each (size,)
    counts   steps taken by each tensor: one number while they agree, else one per tensor
    """

    step: int
    params: Array
    slots: tuple[Array, ...]
    counts: Counts


class Step(NamedTuple):
    """What a step came to: the new state and the learning rate that was used (the ungrouped one)."""

    state: State
    learning_rate: float


@dataclass(frozen=True)
class Specification:
    """A resolved optimizer: every default filled in; numbers may be schedules."""

    algorithm: Algorithm
    dialect_name: str
    values: Mapping[str, Any]
    transforms: tuple[Applied, ...] = ()

    @cached_property
    def dialect(self) -> Dialect:
        return self.algorithm.dialects[self.dialect_name]

    @cached_property
    def rule(self) -> Rule:
        """The rule that the options choose."""
        return self.dialect.rule(self.values)

    @cached_property
    def scheduled(self) -> bool:
        """Whether any hyperparameter changes from step to step."""
        return any(isinstance(v, Schedule) for v in self.values.values())

    def at(self, n: int) -> Values:
        """The hyperparameters for step n + 1, schedules evaluated."""
        if not self.scheduled:
            return self.values
        return {k: v(n) if isinstance(v, Schedule) else v for k, v in self.values.items()}

    def as_json(self) -> dict[str, Any]:
        """The specification as a client may post it again."""
        values = {k: v.as_json() if isinstance(v, Schedule) else v for k, v in self.values.items()}
        return {"name": self.algorithm.name, "dialect": self.dialect_name, **values}


def resolve(specification: Any) -> Specification:
    """Check a specification and fill in its defaults; raises Invalid with a pointer into it."""
    if not isinstance(specification, Mapping):
        raise Invalid('An optimizer is {"name": ..., ...} or {"like": ..., ...}.', pointer="")
    given = dict(specification)
    if "like" in given:
        return _resolve_like(given)
    name = given.pop("name", None)
    if not isinstance(name, str):
        raise Invalid('An optimizer needs a "name", for example "adam", or a "like".', pointer="/name")
    algorithm = catalogue.get(name)
    dialect = given.pop("dialect", algorithm.default_dialect)
    if not isinstance(dialect, str):
        raise Invalid("dialect must be a string.", pointer="/dialect")
    return _checked(_filled(algorithm, dialect, given))


def _resolve_like(given: dict[str, Any]) -> Specification:
    path = given.pop("like")
    if not isinstance(path, str):
        raise Invalid('"like" is a class path, for example "torch.optim.Adam".', pointer="/like")
    if "name" in given and not path.startswith("keras."):
        raise Invalid('Give "name" or "like", not both.', pointer="/name")
    translation = libraries.translate(path, given)
    algorithm = catalogue.get(translation.algorithm)
    transforms = tuple(_brought(pointer, asked) for pointer, asked in translation.transforms.items())
    try:
        return _checked(_filled(algorithm, translation.dialect, translation.values, transforms))
    except Invalid as error:
        places = [p._replace(pointer=_back(p.pointer, translation.pointers)) for p in error.places]
        raise Invalid(error.detail, places=places) from None


def _brought(pointer: str, specification: Mapping[str, Any]) -> Applied:
    """The transform that the argument of a `like` at this pointer asks for."""
    try:
        return parse_list([specification])[0]
    except Invalid as error:
        raise Invalid(error.detail, pointer=pointer) from None


def _back(pointer: str, pointers: Mapping[str, str]) -> str:
    """A pointer at our name, turned into one at the library's."""
    first, slash, rest = pointer[1:].partition("/")
    return pointers.get(first, f"/{first}") + slash + rest


def _checked(spec: Specification) -> Specification:
    spec.dialect.check(spec.values)
    return spec


def _filled(
    algorithm: Algorithm, dialect_name: str, given: Mapping[str, Any], transforms: tuple[Applied, ...] = ()
) -> Specification:
    dialect = algorithm.dialect(dialect_name)
    values = fill(
        given,
        algorithm.hyperparameters,
        dialect.defaults,
        owner=f"{algorithm.name} in the dialect {dialect_name}",
        scheduled=parse,
    )
    return Specification(algorithm, dialect_name, values, transforms)


@dataclass(frozen=True)
class Group:
    """Hyperparameters that override the specification's for the parameters whose names match the pattern."""

    match: str
    overrides: Mapping[str, Any]


def parse_groups(groups: Any) -> tuple[Group, ...]:
    """`[{"match": pattern, **overrides}]`; patterns as in a shell, case-sensitive. Raises Invalid with a pointer."""
    if not isinstance(groups, list):
        raise Invalid('groups must be a list of {"match": pattern, ...}.', pointer="")
    parsed = []
    for i, group in enumerate(groups):
        if not isinstance(group, Mapping) or not isinstance(group.get("match"), str):
            raise Invalid('A group is {"match": pattern, ...} with hyperparameters to override.', pointer=f"/{i}")
        parsed.append(Group(group["match"], {k: v for k, v in group.items() if k != "match"}))
    return tuple(parsed)


@dataclass(frozen=True)
class Optimizer:
    """A specification bound to a layout; build one with `build`.

    `members` holds, per distinct set of hyperparameters, the indices of the tensors that have it.
    """

    specification: Specification
    layout: Layout
    transforms: tuple[Applied, ...]
    groups: tuple[Group, ...]
    members: tuple[tuple[Specification, tuple[int, ...]], ...]

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
        return self.members[0][0] if len(self.members) == 1 else None

    def init(self, params: Array) -> State:
        """The state before the first step, on flat parameters of shape (layout.size,)."""
        return State(0, params, tuple(self._start(name, params) for name in self.rule.slots), 0)

    def _start(self, name: str, params: Array) -> Array:
        """Where the slot of that name starts."""
        start = self.rule.initial.get(name, 0.0)
        if start is PARAMETERS:
            return params.copy()
        if not isinstance(start, str):
            return np.full_like(params, start)
        slot = np.zeros_like(params)
        for spec, indices in self.members:
            for i in indices:
                slot[self.layout.slices[i]] = spec.at(0).get(start, 0.0)
        return slot

    def step(self, state: State, gradient: Array, absent: Sequence[int] = ()) -> Step:
        """One step: a new state, the old one untouched.

        `gradient` is flat, (layout.size,), of the layout's dtype and finite; the tensors at the indices `absent` have
        no gradient and are left as they are. The result may hold infinities or NaN where numbers overflow.
        """
        if self.transforms:
            gradient = self._transformed(state, gradient, absent)
        values = self.specification.at(state.step)
        if self.common is None or absent or not isinstance(state.counts, int):
            new = self._step_by_tensor(state, gradient, frozenset(absent))
        else:
            mine = values if self.common is self.specification else self.common.at(state.step)
            t = _time(self.common, state.counts, state.step)
            params, *slots = self._update(self.common, mine, t, state.params, gradient, state.slots)
            new = State(state.step + 1, params, tuple(slots), state.counts + 1)
        return Step(new, values.get("learning_rate", 1.0))

    def _transformed(self, state: State, gradient: Array, absent: Sequence[int]) -> Array:
        missing = frozenset(absent)
        slices = tuple(where for i, where in enumerate(self.layout.slices) if i not in missing)
        for transform in self.transforms:
            gradient = transform(gradient, state.params, slices, state.step)
        return gradient

    def _update(
        self, spec: Specification, values: Values, t: int, p: Array, g: Array, slots: tuple[Array, ...]
    ) -> tuple[Array, ...]:
        decay = decay_scalars(spec, values) if self.decaying else None
        return kernels.update(self.rule, p, g, slots, spec.dialect.scalars(values, t), decay)

    def _step_by_tensor(self, state: State, gradient: Array, absent: frozenset[int]) -> State:
        """The step where tensors differ in hyperparameters, in counts or in having a gradient at all."""
        size = len(self.layout.names)
        counts = [state.counts] * size if isinstance(state.counts, int) else list(state.counts)
        params, slots = state.params.copy(), tuple(slot.copy() for slot in state.slots)
        for spec, indices in self.members:
            values = spec.at(state.step)
            for i in indices:
                if i in absent:
                    continue
                where = self.layout.slices[i]
                t = _time(spec, counts[i], state.step)
                old = tuple(slot[where] for slot in state.slots)
                params[where], *rest = self._update(spec, values, t, state.params[where], gradient[where], old)
                for slot, new in zip(slots, rest, strict=True):
                    slot[where] = new
                counts[i] += 1
        same = len(set(counts)) == 1
        return State(state.step + 1, params, slots, counts[0] if same else tuple(counts))

    def as_json(self) -> dict[str, Any]:
        """The resolved optimizer, transforms and groups, as a client may post them again."""
        return {
            "optimizer": self.specification.as_json(),
            "transforms": [transform.as_json() for transform in self.transforms],
            "groups": [{"match": group.match, **group.overrides} for group in self.groups],
        }


def build(specification: Any, layout: Layout, transforms: Any = (), groups: Any = ()) -> Optimizer:
    """An optimizer for tensors of this layout.

    Raises Invalid with pointers below /optimizer, /transforms and /groups. Transforms that a `like` brings come after
    the explicit ones, since the library applies them last before its rule.
    """
    try:
        spec = resolve(specification)
    except Invalid as error:
        raise error.at("/optimizer") from None
    try:
        listed = parse_list(list(transforms) if isinstance(transforms, tuple) else transforms)
    except Invalid as error:
        raise error.at("/transforms") from None
    try:
        parsed = parse_groups(list(groups) if isinstance(groups, tuple) else groups)
        members = _assign(spec, parsed, layout)
    except Invalid as error:
        raise error.at("/groups") from None
    return Optimizer(spec, layout, (*listed, *spec.transforms), parsed, members)


def _assign(
    spec: Specification, groups: Sequence[Group], layout: Layout
) -> tuple[tuple[Specification, tuple[int, ...]], ...]:
    matching: dict[tuple[int, ...], list[int]] = {}
    for i, name in enumerate(layout.names):
        key = tuple(k for k, group in enumerate(groups) if fnmatchcase(name, group.match))
        matching.setdefault(key, []).append(i)
    for k, group in enumerate(groups):
        if not any(k in key for key in matching):
            listed = ", ".join(layout.names[:20])
            raise Invalid(f"No parameter matches {group.match[:80]!r}. Names: {listed}.", pointer=f"/{k}/match")
    members = [(_overridden(spec, groups, key), tuple(indices)) for key, indices in matching.items()]
    return tuple(sorted(members, key=lambda member: member[1]))


def _overridden(spec: Specification, groups: Sequence[Group], key: tuple[int, ...]) -> Specification:
    """The specification with the matching groups' overrides, the later ones winning."""
    for k in key:
        given = {name: v for name, v in spec.as_json().items() if name not in ("name", "dialect")}
        try:
            changed = _filled(spec.algorithm, spec.dialect_name, {**given, **groups[k].overrides}, spec.transforms)
        except Invalid as error:
            raise error.at(f"/{k}") from None
        if changed.rule is not spec.rule:
            raise Invalid("A group cannot change which state is kept; give these options to all.", pointer=f"/{k}")
        spec = changed
    return spec


def _time(spec: Specification, count: int, n: int) -> int:
    """The t of the next step, from 1, of a tensor that took `count` steps in a session that took `n`."""
    return (count if spec.dialect.counter == "parameter" else n) + 1


def _decays(spec: Specification) -> bool:
    return bool(spec.values.get("maximize")) or spec.values.get("weight_decay", 0.0) != 0.0


def decay_scalars(spec: Specification, values: Values) -> Decay:
    sign = -1.0 if values.get("maximize") else 1.0
    strength = values.get("weight_decay", 0.0)
    kind = "decoupled" if values.get("decoupled_weight_decay") else spec.dialect.decay
    if kind == "coupled":
        return Decay(1.0, sign, strength)
    rate = values["schedule_multiplier"] if kind == "scheduled" else values.get("learning_rate", 1.0)
    return Decay(1.0 - rate * strength, sign, 0.0)
