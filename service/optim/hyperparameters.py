"""What a hyperparameter is: one declaration that validates, fills the catalogue and becomes the JSON Schema."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from service.errors import Invalid, nearest

Kind = Literal["number", "integer", "boolean", "choice", "integers", "triples", "strings", "pattern", "optimizer"]

MOST_STRINGS = 200
LARGEST_WHOLE = 2**53 - 1  # what a double, and so every JSON reader, still holds exactly


class _Required:
    """The default of a hyperparameter that has none."""

    def __repr__(self) -> str:
        return "REQUIRED"


REQUIRED = _Required()


@dataclass(frozen=True)
class Hyperparameter:
    """A named setting of an optimizer, a schedule or a transform.

    The range is `low <= value <= high`, with `above` and `below` for open ends. Only a "number" may be scheduled.
    "triples" is a list of lists of three numbers, "pattern" a pattern of names as in a shell. `null` says what null
    means, where null is a value.
    """

    name: str
    meaning: str
    kind: Kind = "number"
    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    choices: tuple[str, ...] = ()
    schedulable: bool = True
    null: str = ""

    @property
    def highest(self) -> float:
        """The largest value taken; whole numbers have one always."""
        return min(self.high, LARGEST_WHOLE) if self.kind in ("integer", "integers") else self.high

    def check(self, value: Any, pointer: str = "") -> Any:
        """The value in its own type; raises Invalid with the pointer when it is of the wrong type or out of range."""
        if value is None and self.null:
            return None
        if self.kind == "boolean":
            if not isinstance(value, bool):
                raise Invalid(f"{self.name} must be true or false.", pointer=pointer)
            return value
        if self.kind == "choice":
            if value not in self.choices or not isinstance(value, str):
                raise Invalid(f"{self.name} must be one of {', '.join(self.choices)}.", pointer=pointer)
            return value
        if self.kind == "integers":
            if not isinstance(value, list) or not value:
                raise Invalid(f"{self.name} must be a list of at least one whole number.", pointer=pointer)
            return [self._number(item, f"{pointer}/{i}", whole=True) for i, item in enumerate(value)]
        if self.kind == "triples":
            return self._triples(value, pointer)
        if self.kind == "strings":
            return self._strings(value, pointer)
        if self.kind == "pattern":
            if not isinstance(value, str) or not value:
                raise Invalid(f'{self.name} must be a pattern of names, for example "*.weight".', pointer=pointer)
            return value
        return self._number(value, pointer, whole=self.kind == "integer")

    def _number(self, value: Any, pointer: str, *, whole: bool) -> float | int:
        kind = "a whole number" if whole else "a finite number"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Invalid(f"{self.name} must be {kind}{self._range_in_words()}.", pointer=pointer)
        inside = self.low <= value <= self.highest and self.above < value < self.below
        if not inside or not _finite(value) or (whole and value != int(value)):
            raise Invalid(f"{self.name} must be {kind}{self._range_in_words()}.", pointer=pointer)
        return int(value) if whole else float(value)

    def _triples(self, value: Any, pointer: str) -> list[list[float | int]]:
        if (
            not isinstance(value, list)
            or not value
            or not all(isinstance(row, list) and len(row) == 3 for row in value)
        ):
            raise Invalid(f"{self.name} must be a list of at least one list of three numbers.", pointer=pointer)
        return [
            [self._number(item, f"{pointer}/{i}/{k}", whole=False) for k, item in enumerate(row)]
            for i, row in enumerate(value)
        ]

    def _strings(self, value: Any, pointer: str) -> list[str]:
        if not isinstance(value, list) or len(value) > MOST_STRINGS:
            raise Invalid(f"{self.name} must be a list of at most {MOST_STRINGS} strings.", pointer=pointer)
        for i, item in enumerate(value):
            if not isinstance(item, str) or not item:
                raise Invalid(f"{self.name} must hold strings that are not empty.", pointer=f"{pointer}/{i}")
        return list(value)

    def _range_in_words(self) -> str:
        words = [
            f"{text} {_short(bound)}"
            for text, bound in (
                ("at least", self.low),
                ("above", self.above),
                ("at most", self.highest),
                ("below", self.below),
            )
            if math.isfinite(bound)
        ]
        return ", " + " and ".join(words) if words else ""

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of one value (not of a schedule of values)."""
        if self.null:
            some = replace(self, null="")
            return {"anyOf": [some.schema(), {"type": "null", "description": self.null}], "description": self.meaning}
        if self.kind == "boolean":
            return {"type": "boolean", "description": self.meaning}
        if self.kind == "choice":
            return {"enum": list(self.choices), "description": self.meaning}
        if self.kind == "pattern":
            return {"type": "string", "minLength": 1, "description": self.meaning}
        if self.kind == "strings":
            items = {"type": "string", "minLength": 1}
            return {"type": "array", "items": items, "maxItems": MOST_STRINGS, "description": self.meaning}
        if self.kind == "optimizer":
            return {"type": "object", "description": self.meaning}
        bounds = {
            key: _short(bound)
            for key, bound in (
                ("minimum", self.low),
                ("exclusiveMinimum", self.above),
                ("maximum", self.highest),
                ("exclusiveMaximum", self.below),
            )
            if math.isfinite(bound)
        }
        if self.kind == "integers":
            whole = {"type": "integer", **bounds}
            return {"type": "array", "items": whole, "minItems": 1, "description": self.meaning}
        if self.kind == "triples":
            row = {"type": "array", "items": {"type": "number", **bounds}, "minItems": 3, "maxItems": 3}
            return {"type": "array", "items": row, "minItems": 1, "description": self.meaning}
        return {"type": self.kind, **bounds, "description": self.meaning}


def _finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond the largest double
        return False


def _short(number: float) -> float | int:
    return int(number) if number == int(number) else number


def fill(
    given: Mapping[str, Any],
    declared: Iterable[Hyperparameter],
    defaults: Mapping[str, Any],
    *,
    owner: str,
    scheduled: Any = None,
    nested: Any = None,
) -> dict[str, Any]:
    """The declared hyperparameters that `defaults` names, each checked and defaulted, in declared order.

    `scheduled(value, hyperparameter, pointer)` reads a value that is an object where a schedule is allowed, and
    `nested(value, pointer)` one that is an optimizer itself.
    Raises Invalid: an unknown name (with the nearest and the accepted ones), a missing one, a bad value.
    """
    table = {h.name: h for h in declared if h.name in defaults}
    for name in given:
        if name not in table:
            listed = ", ".join(table) or "none"
            raise Invalid(
                f"{owner} has no argument {name[:80]!r}{nearest(name, list(table))} Accepted: {listed}.",
                pointer=f"/{escape(name)}",
            )
    values: dict[str, Any] = {}
    for name, hyperparameter in table.items():
        value = given.get(name, defaults[name])
        if value is REQUIRED:
            raise Invalid(f"{owner} needs {name}: {hyperparameter.meaning}", pointer=f"/{name}")
        may_follow = scheduled and hyperparameter.kind == "number" and hyperparameter.schedulable
        if hyperparameter.kind == "optimizer":
            values[name] = nested(value, f"/{name}")
        elif isinstance(value, Mapping) and may_follow:
            values[name] = scheduled(value, hyperparameter, f"/{name}")
        else:
            values[name] = hyperparameter.check(value, f"/{name}")
    return values


def escape(token: str) -> str:
    """A reference token of a JSON pointer (RFC 6901)."""
    return token.replace("~", "~0").replace("/", "~1")
