"""Every transform there is, and how a list of specifications becomes what a step runs.

    [{"name": "clip_by_global_norm", "max_norm": 1.0}, {"like": "optax.MultiSteps", "every_k_schedule": 4}]

`TRANSFORMS` and `SPELLINGS` are the tables that the catalogue, the schema, the documentation and the tests read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from service.errors import Invalid, unknown
from service.optim.hyperparameters import REQUIRED, Hyperparameter, fill
from service.optim.schedules.catalogue import parse
from service.optim.schedules.form import Schedule
from service.optim.schedules.spelling import Spelling
from service.optim.transforms import averages, clipping, gathering, penalties, projections, scaling, spelling
from service.optim.transforms.form import Applied, Transform

_FAMILIES = (penalties, clipping, scaling, gathering, projections, averages)

TRANSFORMS: dict[str, Transform] = {t.name: t for family in _FAMILIES for t in family.TRANSFORMS}
SPELLINGS: dict[str, Spelling] = spelling.SPELLINGS
REFUSED: dict[str, str] = spelling.REFUSED


def parse_list(specifications: Any) -> tuple[Applied, ...]:
    """The transforms of `[{"name": ..., ...} or {"like": ..., ...}, ...]`; raises Invalid with a pointer into it."""
    if not isinstance(specifications, list):
        raise Invalid('transforms must be a list of {"name": ..., ...}.', pointer="")
    parsed = []
    for i, item in enumerate(specifications):
        try:
            parsed.append(_parse(item))
        except Invalid as error:
            raise error.at(f"/{i}") from None
    return tuple(parsed)


def in_order(transforms: Sequence[Applied]) -> tuple[Applied, ...]:
    """As a step runs them: those of the gradient before those of the parameters, each as they are listed."""
    return tuple(sorted(transforms, key=lambda applied: applied.transform.stage != "gradient"))


def _parse(specification: Any) -> Applied:
    if isinstance(specification, Mapping) and "like" in specification:
        return _like(dict(specification))
    if not isinstance(specification, Mapping) or not isinstance(specification.get("name"), str):
        raise Invalid('A transform is {"name": ..., ...} or {"like": ..., ...}.', pointer="")
    name = specification["name"]
    if name not in TRANSFORMS:
        raise unknown("transform", name, list(TRANSFORMS), pointer="/name")
    transform = TRANSFORMS[name]
    given = {key: value for key, value in specification.items() if key != "name"}
    owner = f"The transform {name}"
    arguments = fill(given, transform.arguments, transform.defaults, owner=owner, scheduled=_scheduled)
    transform.check(arguments)
    return Applied(transform, arguments)


def _scheduled(value: Mapping[str, Any], argument: Hyperparameter, pointer: str) -> Schedule:
    schedule = parse(value, argument, pointer)
    if schedule.driven:
        raise Invalid(
            f"{schedule.form.name} follows the loss, which only hyperparameters of the optimizer can; give "
            f"{argument.name} a schedule of the step.",
            pointer=pointer,
        )
    return schedule


def _like(given: dict[str, Any]) -> Applied:
    path = given.pop("like")
    if not isinstance(path, str):
        raise Invalid('"like" is a path, for example "optax.clip_by_block_rms".', pointer="/like")
    if "name" in given:
        raise Invalid('Give "name" or "like", not both.', pointer="/name")
    if path in REFUSED:
        raise Invalid(f"{path} cannot be had as a transform. {REFUSED[path]}", pointer="/like")
    if path not in SPELLINGS:
        raise unknown("library transform", path, list(SPELLINGS), pointer="/like")
    theirs = SPELLINGS[path]
    defaults = {argument.name: default for argument, default in theirs.declared.items()}
    # a schedule is read when the argument has our name, in whose range it must be
    values = fill(given, theirs.declared, defaults, owner=path, scheduled=lambda value, argument, pointer: value)
    converted = theirs.convert(values)
    try:
        return _parse(converted)
    except Invalid as error:
        places = [place._replace(pointer=_back(place.pointer, theirs)) for place in error.places]
        raise Invalid(error.detail, places=places) from None


def _back(pointer: str, theirs: Spelling) -> str:
    """A pointer into the converted specification, turned into one at what was given."""
    first, slash, rest = pointer[1:].partition("/")
    name = theirs.names.get(first, first)
    return f"/{name}{slash}{rest}" if name in theirs.arguments else ""


def summary(transform: Transform) -> dict[str, Any]:
    """The line of the list of transforms."""
    return {
        "name": transform.name,
        "title": transform.title,
        "stage": transform.stage,
        "summary": transform.summary,
    }


def describe(transform: Transform) -> dict[str, Any]:
    """The catalogue entry of a transform."""
    return {
        **summary(transform),
        "equation": transform.equation,
        "arguments": {a.name: a.schema() for a in transform.arguments},
        "defaults": {name: value for name, value in transform.defaults.items() if value is not REQUIRED},
        "required": [name for name, value in transform.defaults.items() if value is REQUIRED],
        "state": [_slot(transform, slot) for slot in transform.slots],
        "may_hold_a_step": transform.holds,
        "seen_by_eval": transform.view is not None,
        "like": spellings_of(transform.name),
    }


def _slot(transform: Transform, slot: str) -> dict[str, Any]:
    shape = transform.shapes.get(slot)
    once = isinstance(shape, tuple)
    shown = list(shape) if isinstance(shape, tuple) else "as the parameters"
    return {"name": slot, "shape": shown, "bytes_per_parameter": 0.0 if once else 8.0}


def spellings_of(name: str) -> list[dict[str, Any]]:
    """What the libraries call it, each with its argument names."""
    return [{"like": s.path, "arguments": s.arguments} for s in SPELLINGS.values() if name in s.forms]
