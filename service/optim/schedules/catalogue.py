"""Every schedule there is, and how a specification becomes one.

    {"schedule": "cosine_annealing", "initial": 0.1, "t_max": 100}
    {"like": "optax.cosine_decay_schedule", "init_value": 0.1, "decay_steps": 100}

`SCHEDULES` and `SPELLINGS` are the tables that the catalogue, the schema, the documentation and the tests read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.errors import Invalid, unknown
from service.optim.hyperparameters import REQUIRED, Hyperparameter, fill
from service.optim.schedules import cosines, decays, keras, optax, pieces, plateaus, torch, warmups
from service.optim.schedules.form import Form, Level, Levels, Parts, Schedule
from service.optim.schedules.spelling import Null, Spelling

_FAMILIES = (decays, cosines, warmups, pieces, plateaus)
SCHEDULES: dict[str, Form] = {form.name: form for family in _FAMILIES for form in family.FORMS}
SPELLINGS: dict[str, Spelling] = {**torch.SPELLINGS, **optax.SPELLINGS, **keras.SPELLINGS}
REFUSED: dict[str, str] = {**torch.REFUSED, **optax.REFUSED, **keras.REFUSED}

MAX_DEPTH = 4  # schedules within schedules
MAX_PARTS = 64  # schedules in one, all levels together


def parse(specification: Mapping[str, Any], target: Hyperparameter, pointer: str = "") -> Schedule:
    """The schedule of `{"schedule": name, ...}` or `{"like": class path, ...}`, in the target's range at every step.

    Raises Invalid: no such schedule, a bad argument, or a value that the hyperparameter does not take.
    """
    try:
        return _Reading(target).schedule(specification)
    except Invalid as error:
        raise error.at(pointer) from None


@dataclass
class _Reading:
    """One specification being read; `left` counts down what may still be nested in it."""

    target: Hyperparameter
    left: int = MAX_PARTS

    def schedule(self, given: Mapping[str, Any], depth: int = 1) -> Schedule:
        """The schedule of one object; pointers are relative to it."""
        if depth > MAX_DEPTH or not self.left:
            raise Invalid(f"At most {MAX_PARTS} schedules in one, {MAX_DEPTH} deep.", pointer="")
        arguments = dict(given)
        if "like" in arguments:
            return self._like(arguments.pop("like"), arguments, depth)
        self.left -= 1
        name = arguments.pop("schedule", None)
        if not isinstance(name, str):
            raise Invalid(
                f'{self.target.name} must be a number or {{"schedule": name, ...}} or {{"like": class path, ...}}.',
                pointer="",
            )
        if name not in SCHEDULES:
            raise unknown("schedule", name, list(SCHEDULES), pointer="/schedule")
        return self._filled(SCHEDULES[name], arguments, depth)

    def _like(self, path: Any, given: dict[str, Any], depth: int) -> Schedule:
        spelling = _spelling(path)
        if "schedule" in given:
            raise Invalid('Give "schedule" or "like", not both.', pointer="/schedule")
        values = fill(given, spelling.declared, _defaults(spelling), owner=spelling.path)
        self._check_levels(spelling.declared, values)
        converted = spelling.convert(values)
        try:
            return self.schedule(converted, depth)
        except Invalid as error:
            places = [place._replace(pointer=spelling.back(place.pointer)) for place in error.places]
            raise Invalid(error.detail, places=places) from None

    def _filled(self, kind: Form, given: Mapping[str, Any], depth: int) -> Schedule:
        values = fill(given, kind.arguments, kind.defaults, owner=f"The schedule {kind.name}")
        self._check_levels(kind.arguments, values)
        for argument in kind.arguments:
            if isinstance(argument, Parts):
                values[argument.name] = self._parts(argument, values[argument.name], depth)
        kind.check(values)
        if kind.start and depth > 1:
            raise Invalid(
                f"{kind.name} follows the loss, and cannot stand inside another schedule; give it the whole "
                f"{self.target.name}.",
                pointer="",
            )
        schedule = Schedule(kind, values)
        self._check_range(schedule)
        return schedule

    def _check_levels(self, declared: Any, values: Mapping[str, Any]) -> None:
        for argument in declared:
            value, pointer = values[argument.name], f"/{argument.name}"
            if isinstance(argument, Level) or (isinstance(argument, Null) and argument.level and value is not None):
                self.target.check(value, pointer)
            elif isinstance(argument, Levels):
                for i, item in enumerate(value):
                    self.target.check(item, f"{pointer}/{i}")

    def _parts(self, argument: Parts, listed: list[Mapping[str, Any]], depth: int) -> tuple[Schedule, ...]:
        own = self.target
        if argument.factors:
            self.target = Hyperparameter(own.name, own.meaning)
        parts = []
        for i, part in enumerate(listed):
            try:
                parts.append(self.schedule(part, depth + 1))
            except Invalid as error:
                raise error.at(f"/{argument.name}/{i}") from None
        self.target = own
        return tuple(parts)

    def _check_range(self, schedule: Schedule) -> None:
        """Refuses a schedule that leaves the range of its hyperparameter, now or in the end."""
        self.target.check(schedule(0), "")
        for end in schedule.range:
            if not _inside(end, self.target):
                raise Invalid(f"This schedule leaves the range of {self.target.name}: it goes to {end:g}.", pointer="")


def _inside(end: float, target: Hyperparameter) -> bool:
    if math.isinf(end):
        return target.high == target.below == end if end > 0 else target.low == target.above == end
    return target.low <= end <= target.highest and target.above < end < target.below


def _defaults(spelling: Spelling) -> dict[str, Any]:
    return {argument.name: default for argument, default in spelling.declared.items()}


def _spelling(path: Any) -> Spelling:
    if not isinstance(path, str):
        raise Invalid('"like" is a class path, for example "torch.optim.lr_scheduler.StepLR".', pointer="/like")
    path = path.replace("optax.schedules.", "optax.")
    if path in REFUSED:
        raise Invalid(f"{path} cannot be had as a schedule. {REFUSED[path]}", pointer="/like")
    if path not in SPELLINGS:
        raise unknown("library schedule", path, list(SPELLINGS), pointer="/like")
    return SPELLINGS[path]


def summary(kind: Form) -> dict[str, Any]:
    """The line of the list of schedules."""
    follows = "loss" if kind.start else "step"
    return {"name": kind.name, "title": kind.title, "follows": follows, "summary": kind.summary}


def describe(kind: Form) -> dict[str, Any]:
    """The catalogue entry of a schedule."""
    entry: dict[str, Any] = {
        **summary(kind),
        "equation": kind.equation,
        "arguments": {a.name: a.schema() for a in kind.arguments},
        "defaults": {name: value for name, value in kind.defaults.items() if value is not REQUIRED},
        "required": [name for name, value in kind.defaults.items() if value is REQUIRED],
        "like": spellings_of(kind.name),
    }
    return {**entry, "source": kind.source} if kind.source else entry


def spellings_of(name: str) -> list[dict[str, Any]]:
    """The library schedules that come to this form, each with its argument names."""
    return [{"like": s.path, "arguments": s.arguments} for s in SPELLINGS.values() if name in s.forms]
