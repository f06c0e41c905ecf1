"""What an optimizer of a library is called, and what its arguments mean here.

Each `Spelling` maps a library's class to an algorithm in that library's dialect. What an argument means is one of:
a name (ours), `OrNull` (a name, and null is the default), a tuple of names (one for each item of a list), `SPEED`
(accepted, changes no number), `Only` (accepted at the one value that means nothing special, refused otherwise with the
reason), `Clip` or `Brings` (becomes a transform), or `Of` (says more of one).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class Speed:
    """An argument that changes how a library computes, never what."""


SPEED = Speed()
BASE = "it is the class that the others derive from; name one of those"
DEFAULT: Any = object()
NO_VALUE: Any = object()  # for null where the library takes none, even if the hyperparameter here would


@dataclass(frozen=True)
class OrNull:
    """A hyperparameter (by our name) whose null is the library's spelling of its default, or of `value`.

    `reserved` is where that value as a number means another thing in the library, and so is refused.
    """

    name: str
    value: Any = DEFAULT
    reserved: bool = False

    def null(self, default: Any) -> Any:
        """What null means, where that is the default of the dialect."""
        return default if self.value is DEFAULT else self.value


@dataclass(frozen=True)
class Only:
    """An argument that may only have these values here; `reason` says why."""

    values: tuple[Any, ...]
    reason: str


@dataclass(frozen=True)
class Clip:
    """An argument that becomes a transform when it is not null."""

    transform: str
    argument: str
    more: Mapping[str, Any]


@dataclass(frozen=True)
class Coefficients:
    """Three numbers, or several such threes, or the name of a preset: a list of threes here."""

    name: str
    presets: Mapping[str, list[list[float]]]


@dataclass(frozen=True)
class Part:
    """An argument that is an object of the library's own, {"like": path, **arguments}; or null, if `null` says what.

    kinds   by path: what it fixes, and what its arguments mean
    """

    kinds: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Target]]]
    null: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Chain:
    """A list of just these parts."""

    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Brings:
    """An argument that becomes a transform, but for the values `off`.

    argument  the transform's argument that has its value; None where it is a switch
    more      what the library fixes
    others    arguments of the class that say more of the transform where they are not null: theirs -> ours
    """

    transform: str
    argument: str | None
    more: Mapping[str, Any] = field(default_factory=dict)
    off: tuple[Any, ...] = (None,)
    others: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Of:
    """An argument that means something only with another one, which is a `Brings`."""

    name: str


Target = str | OrNull | tuple[str, ...] | Speed | Only | Clip | Brings | Of | Coefficients | Part | Chain


@dataclass(frozen=True)
class Spelling:
    """A library class: the algorithm, the dialect, its arguments, and what it fixes."""

    path: str
    algorithm: str
    dialect: str
    arguments: Mapping[str, Target]
    fixed: Mapping[str, Any]


def same(*names: str) -> dict[str, Target]:
    """Arguments whose names are ours."""
    return {name: name for name in names}


def without(arguments: Mapping[str, Target], *names: str) -> dict[str, Target]:
    """The arguments but those of these names."""
    return {name: target for name, target in arguments.items() if name not in names}


def refused(prefix: str, reasons: Mapping[str, str]) -> dict[str, str]:
    """Why classes cannot be had, by their paths; a key may name several, and `prefix` comes before each."""
    return {f"{prefix}.{name}": reason for names, reason in reasons.items() for name in names.split()}
