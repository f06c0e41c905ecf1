"""What a library's own schedule is: its arguments under its own names, and the form that they come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from service.errors import Invalid
from service.optim.hyperparameters import Hyperparameter, escape
from service.optim.schedules.form import Level, Levels, Parts, Values

Convert = Callable[[Values], dict[str, Any]]


@dataclass(frozen=True)
class Spelling:
    """A schedule of a library.

    path      what `like` says
    forms     the forms that it may come to
    declared  the library's arguments with its defaults
    convert   checked arguments -> a specification in our words
    names     ours -> theirs, where they differ: an error points at what was given
    """

    path: str
    forms: tuple[str, ...]
    declared: Mapping[Hyperparameter, Any]
    convert: Convert = field(repr=False)
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def arguments(self) -> list[str]:
        return [argument.name for argument in self.declared]

    def back(self, pointer: str) -> str:
        """A pointer into the converted specification, turned into one at what was given."""
        first, slash, rest = pointer[1:].partition("/")
        theirs = self.names.get(first, first)
        argument = next((a for a in self.declared if a.name == theirs), None)
        if argument is None:
            return ""
        return f"/{theirs}{slash}{rest}" if isinstance(argument, Parts | Levels) else f"/{theirs}"


@dataclass(frozen=True)
class Null(Hyperparameter):
    """An argument that may be null; `level` if it is a value of the scheduled hyperparameter."""

    schedulable: bool = False
    level: bool = False

    def check(self, value: Any, pointer: str = "") -> Any:
        return None if value is None else super().check(value, pointer)


@dataclass(frozen=True)
class Only(Hyperparameter):
    """An argument that cannot be had here, but for one value."""

    schedulable: bool = False
    value: Any = None

    def check(self, value: Any, pointer: str = "") -> Any:
        if value != self.value or isinstance(value, bool) != isinstance(self.value, bool):
            shown = "null" if self.value is None else str(self.value).lower()
            raise Invalid(f"{self.name} can only be {shown} here: {self.meaning}", pointer=pointer)
        return self.value


@dataclass(frozen=True)
class Unused(Hyperparameter):
    """An argument without a consequence for the values."""

    schedulable: bool = False

    def check(self, value: Any, pointer: str = "") -> None:
        return None


@dataclass(frozen=True)
class Scales(Hyperparameter):
    """optax's `{boundary: scale}`, or null; checked, it is a list of pairs that ascend."""

    schedulable: bool = False

    def check(self, value: Any, pointer: str = "") -> list[tuple[int, float]]:
        if value is None:
            return []
        if not isinstance(value, Mapping):
            raise Invalid(f'{self.name} must be an object such as {{"100": 0.1}}, or null.', pointer=pointer)
        scale = Hyperparameter("A scale", "", low=0.0)
        pairs: dict[int, float] = {}
        for key, item in value.items():
            place = f"{pointer}/{escape(str(key))}"
            if not (isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) <= 15):
                raise Invalid(f"A boundary of {self.name} must be a whole number, at least 0.", pointer=place)
            if int(key) in pairs:
                raise Invalid(f"{self.name} has this boundary twice.", pointer=place)
            pairs[int(key)] = scale.check(item, place)
        return sorted(pairs.items())


def number(name: str, meaning: str, **more: Any) -> Hyperparameter:
    """A number that is no value of the hyperparameter itself."""
    return Hyperparameter(name, meaning, schedulable=False, **more)


def whole(name: str, meaning: str, low: int = 1) -> Hyperparameter:
    """A whole number."""
    return Hyperparameter(name, meaning, "integer", low=low)


def maybe(argument: Hyperparameter) -> Null:
    """The same argument, or null."""
    return Null(argument.name, argument.meaning, argument.kind, argument.low, level=isinstance(argument, Level))


def level(name: str, meaning: str) -> Level:
    """A value of the scheduled hyperparameter."""
    return Level(name, meaning, schedulable=False)


def renamed(argument: Hyperparameter, name: str) -> Hyperparameter:
    """The same argument under the library's name."""
    return replace(argument, name=name)
