"""A library's spelling of an optimizer, said in our words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from service.errors import Invalid, nearest, unknown
from service.optim.hyperparameters import escape
from service.optim.libraries.catalogue import REFUSED, SPELLINGS
from service.optim.libraries.spelling import (
    DEFAULT,
    NO_VALUE,
    Brings,
    Chain,
    Clip,
    Coefficients,
    Only,
    OrNull,
    Part,
    Target,
)


@dataclass(frozen=True)
class Translation:
    """What a library's spelling says in our words.

    `transforms` holds the specification of each by the pointer at the argument that asks for it; `pointers` maps our
    names to the library's, for error messages.
    """

    algorithm: str
    dialect: str
    values: dict[str, Any]
    transforms: dict[str, dict[str, Any]]
    pointers: dict[str, str]


def translate(path: str, arguments: Mapping[str, Any]) -> Translation:
    """Our name, dialect and hyperparameters for a library class with its own arguments.

    Raises Invalid: an unknown class or argument (with the nearest and the accepted), or one that cannot be had here
    (with the reason, from REFUSED or from `Only`).
    """
    if path in REFUSED:
        raise Invalid(f"{path} cannot be had here: {REFUSED[path]}.", pointer="/like")
    if path not in SPELLINGS:
        raise unknown("library class", path, list(SPELLINGS), pointer="/like")
    spelling = SPELLINGS[path]
    out = Translation(spelling.algorithm, spelling.dialect, dict(spelling.fixed), {}, {})
    for name, value in arguments.items():
        if name not in spelling.arguments:
            listed = ", ".join(spelling.arguments)
            raise Invalid(
                f"{path} has no argument {name[:80]!r}{nearest(name, list(spelling.arguments))} Accepted: {listed}.",
                pointer=f"/{escape(name)}",
            )
        target = spelling.arguments[name]
        if isinstance(target, Brings):
            _bring(out, path, name, arguments, target)
        else:
            _translate_argument(out, path, name, value, target)
    clips = [name for name, target in spelling.arguments.items() if isinstance(target, Clip)]
    given = [pointer for pointer in out.transforms if pointer[1:] in clips]
    if len(given) > 1:
        raise Invalid(f"{path} takes only one of {', '.join(clips)}.", pointer=given[-1])
    order = list(spelling.arguments)  # in which the library does it
    in_order = dict(sorted(out.transforms.items(), key=lambda item: order.index(item[0].split("/")[1])))
    return replace(out, transforms=in_order)


def _bring(out: Translation, path: str, name: str, arguments: Mapping[str, Any], target: Brings) -> None:
    value, pointer = arguments[name], f"/{name}"
    if any(value == off and type(value) is type(off) for off in target.off):
        return
    if target.argument is None and value is not True:
        raise Invalid(f"{path}'s {name} must be true or false.", pointer=pointer)
    own = {} if target.argument is None else {target.argument: value}
    said = {ours: arguments[theirs] for theirs, ours in target.others.items() if arguments.get(theirs) is not None}
    out.transforms[pointer] = {"name": target.transform, **target.more, **own, **said}
    out.pointers.update({f"{pointer}/{ours}": f"/{theirs}" for theirs, ours in target.others.items()})


def _translate_argument(out: Translation, path: str, name: str, value: Any, target: Target) -> None:
    pointer = f"/{name}"
    if isinstance(target, OrNull):
        if target.reserved and value == target.value:
            raise Invalid(f"{path}'s {name} cannot be {target.value:g} here; null is its default.", pointer=pointer)
        if value is not None:
            _translate_argument(out, path, name, value, target.name)
        elif target.value is not DEFAULT:
            out.values[target.name] = target.value
            out.pointers[target.name] = pointer
    elif isinstance(target, str):
        out.values[target] = NO_VALUE if value is None else value
        out.pointers[target] = pointer
    elif isinstance(target, tuple):
        if not isinstance(value, list | tuple) or len(value) != len(target):
            raise Invalid(f"{path}'s {name} is a list of {len(target)} numbers.", pointer=pointer)
        for i, (ours, item) in enumerate(zip(target, value, strict=True)):
            out.values[ours] = item
            out.pointers[ours] = f"{pointer}/{i}"
    elif isinstance(target, Part):
        _translate_part(out, path, name, value, target)
    elif isinstance(target, Chain):
        if not isinstance(value, list | tuple) or len(value) != len(target.parts):
            raise Invalid(f"{path}'s {name} must be a list of {len(target.parts)}.", pointer=pointer)
        for i, (part, item) in enumerate(zip(target.parts, value, strict=True)):
            _translate_part(out, path, f"{name}/{i}", item, part)
    elif isinstance(target, Coefficients):
        _translate_coefficients(out, path, name, value, target)
    elif isinstance(target, Only):
        if value not in target.values:
            allowed = " or ".join("null" if v is None else str(v).lower() for v in target.values)
            raise Invalid(f"{path}'s {name} can only be {allowed} here: {target.reason}.", pointer=pointer)
    elif isinstance(target, Clip) and value is not None:
        out.transforms[pointer] = {"name": target.transform, target.argument: value, **target.more}


def _translate_part(out: Translation, path: str, name: str, value: Any, target: Part) -> None:
    pointer = f"/{name}"
    if value is None and target.null is not None:
        out.values.update(target.null)
        return
    kind = value.get("like") if isinstance(value, Mapping) else None
    if not isinstance(kind, str) or kind not in target.kinds:
        allowed = " or ".join(f'{{"like": "{kind}", ...}}' for kind in target.kinds)
        raise Invalid(f"{path}'s {name} must be {allowed} here.", pointer=pointer)
    fixed, arguments = target.kinds[kind]
    out.values.update(fixed)
    out.pointers.update(dict.fromkeys(fixed, pointer))
    for inner, item in value.items():
        if inner == "like":
            continue
        if inner not in arguments:
            listed = ", ".join(arguments) or "none"
            raise Invalid(
                f"{kind} has no argument {inner[:80]!r}{nearest(inner, list(arguments))} Accepted: {listed}.",
                pointer=f"{pointer}/{escape(inner)}",
            )
        _translate_argument(out, kind, f"{name}/{inner}", item, arguments[inner])


def _translate_coefficients(out: Translation, path: str, name: str, value: Any, target: Coefficients) -> None:
    pointer = f"/{name}"
    out.pointers[target.name] = pointer
    if isinstance(value, str):
        if value not in target.presets:
            listed = " or ".join(target.presets)
            raise Invalid(f"{path}'s {name} must be {listed}, or a list of numbers.", pointer=pointer)
        out.values[target.name] = target.presets[value]
        return
    rows = list(value) if isinstance(value, list | tuple) else []
    single = bool(rows) and not any(isinstance(row, list | tuple) for row in rows)
    if len(rows) == 1 and not single:
        raise Invalid(f"{path}'s {name} must be three numbers, or several rows of three.", pointer=pointer)
    out.values[target.name] = [rows] if single else [list(row) if isinstance(row, tuple) else row for row in rows]
