"""What a client asks for, checked and with every default filled in.

A specification is `{"name", "dialect", **hyperparameters}` in the field's full words, or `{"like": class path,
**arguments}` in a library's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from service.errors import Invalid
from service.optim import catalogue
from service.optim.hyperparameters import fill
from service.optim.libraries.translation import translate
from service.optim.rule import Algorithm, Dialect, Rule, Values
from service.optim.schedules.catalogue import parse
from service.optim.schedules.form import Schedule
from service.optim.transforms.catalogue import parse_list
from service.optim.transforms.form import Applied

MAX_DEPTH = 4  # of optimizers in optimizers


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
    def base(self) -> Specification | None:
        """The optimizer that this one wraps."""
        return self.values.get("optimizer")

    @cached_property
    def scheduled(self) -> bool:
        """Whether any hyperparameter changes from step to step."""
        return any(isinstance(v, Schedule) for v in self.values.values())

    @cached_property
    def driven(self) -> dict[str, Schedule]:
        """The hyperparameters whose schedules follow the loss."""
        return {name: v for name, v in self.values.items() if isinstance(v, Schedule) and v.driven}

    def at(self, n: int) -> Values:
        """The hyperparameters for step n + 1, schedules evaluated."""
        if not self.scheduled:
            return self.values
        values = {k: v(n) if isinstance(v, Schedule) else v for k, v in self.values.items()}
        for name in self.dialect.ahead:
            schedule = self.values[name]
            if isinstance(schedule, Schedule) and not schedule.driven:
                values[f"next_{name}"] = schedule(n + 1)
        return values

    def told(self, n: int) -> dict[str, Any]:
        """The hyperparameters for step n + 1 as plain data; a wrapped optimizer is told with its own."""
        values = self.at(n)
        told = {name: values[name] for name in self.values}
        if self.base is not None:
            base = {"name": self.base.algorithm.name, "dialect": self.base.dialect_name, **self.base.told(n)}
            told["optimizer"] = base
        return told

    def as_json(self) -> dict[str, Any]:
        """The specification as a client may post it again."""
        values = {k: v.as_json() if isinstance(v, Schedule | Specification) else v for k, v in self.values.items()}
        return {"name": self.algorithm.name, "dialect": self.dialect_name, **values}


def resolve(specification: Any, depth: int = 1) -> Specification:
    """Check a specification and fill in its defaults; raises Invalid with a pointer into it."""
    if depth > MAX_DEPTH:
        raise Invalid(f"Optimizers may stand in one another at most {MAX_DEPTH} deep.", pointer="")
    if not isinstance(specification, Mapping):
        raise Invalid('An optimizer is {"name": ..., ...} or {"like": ..., ...}.', pointer="")
    given = dict(specification)
    if "like" in given:
        return _resolve_like(given, depth)
    name = given.pop("name", None)
    if not isinstance(name, str):
        raise Invalid('An optimizer needs a "name", for example "adam", or a "like".', pointer="/name")
    algorithm = catalogue.get(name)
    dialect = given.pop("dialect", algorithm.default_dialect)
    if not isinstance(dialect, str):
        raise Invalid("dialect must be a string.", pointer="/dialect")
    return _checked(filled(algorithm, dialect, given, depth=depth))


def _resolve_like(given: dict[str, Any], depth: int) -> Specification:
    path = given.pop("like")
    if not isinstance(path, str):
        raise Invalid('"like" is a class path, for example "torch.optim.Adam".', pointer="/like")
    if "name" in given and not path.startswith("keras."):
        raise Invalid('Give "name" or "like", not both.', pointer="/name")
    translation = translate(path, given)
    algorithm = catalogue.get(translation.algorithm)
    transforms = tuple(_brought(place, asked, translation.pointers) for place, asked in translation.transforms.items())
    try:
        return _checked(filled(algorithm, translation.dialect, translation.values, transforms, depth=depth))
    except Invalid as error:
        places = [p._replace(pointer=_back(p.pointer, translation.pointers)) for p in error.places]
        raise Invalid(error.detail, places=places) from None


def _brought(pointer: str, specification: Mapping[str, Any], pointers: Mapping[str, str]) -> Applied:
    """The transform that the argument of a `like` at this pointer asks for, with those that say more of it."""
    try:
        return parse_list([specification])[0]
    except Invalid as error:
        within = error.places[0].pointer.removeprefix("/0")
        raise Invalid(error.detail, pointer=pointers.get(pointer + within, pointer)) from None


def _back(pointer: str, pointers: Mapping[str, str]) -> str:
    """A pointer at our name, turned into one at the library's."""
    first, slash, rest = pointer[1:].partition("/")
    return pointers.get(first, f"/{first}") + slash + rest


def _checked(spec: Specification) -> Specification:
    spec.dialect.check(spec.values)
    return spec


def filled(
    algorithm: Algorithm,
    dialect_name: str,
    given: Mapping[str, Any],
    transforms: tuple[Applied, ...] = (),
    *,
    depth: int = 1,
) -> Specification:
    """The specification of an algorithm with these hyperparameters; raises Invalid with a pointer."""
    dialect = algorithm.dialect(dialect_name)

    def nested(value: Any, pointer: str) -> Specification:
        if isinstance(value, Specification):
            return value
        if not isinstance(value, Mapping):
            name = pointer[1:]
            raise Invalid(f'{name} must be {{"name": ..., ...}} or {{"like": ..., ...}}.', pointer=pointer)
        try:
            inner = resolve(value, depth + 1)
        except Invalid as error:
            raise error.at(pointer) from None
        if inner.transforms:
            names = ", ".join(applied.transform.name for applied in inner.transforms)
            raise Invalid(
                f"An optimizer inside another has no transforms of its own, and this one asks for {names}; list them "
                'in "transforms".',
                pointer=pointer,
            )
        return inner

    values = fill(
        given,
        algorithm.hyperparameters,
        dialect.defaults,
        owner=f"{algorithm.name} in the dialect {dialect_name}",
        scheduled=parse,
        nested=nested,
    )
    return Specification(algorithm, dialect_name, values, transforms)
