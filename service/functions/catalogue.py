"""The table of benchmark functions, and what is said of each over HTTP.

To add a function, write it beside its kin and put it into the `FUNCTIONS` of that file.
"""

from __future__ import annotations

from typing import Any

from service import errors
from service.functions import multimodal, quadratics, rugged, saddles, valleys
from service.functions.base import Function

FUNCTIONS: dict[str, Function] = {
    function.name: function
    for family in (quadratics, valleys, multimodal, rugged, saddles)
    for function in family.FUNCTIONS
}


def get(name: str) -> Function:
    """The function of that name. Raises `Invalid`, with the nearest name and all of them, if there is none."""
    try:
        return FUNCTIONS[name]
    except KeyError:
        raise errors.unknown("function", name, tuple(FUNCTIONS), pointer="") from None


def summaries() -> list[dict[str, Any]]:
    """What a list of all functions says of each; `dimensions` is a number, or "any"."""
    return [
        {
            "name": function.name,
            "title": function.title,
            "dimensions": function.dimensions or "any",
            "tags": list(function.tags),
        }
        for function in FUNCTIONS.values()
    ]


def describe(function: Function, dimension: int | None = None) -> dict[str, Any]:
    """All that is known about a function in so many dimensions, ready for JSON; what is not known is absent.

    A function of any dimension is described in two unless told otherwise. Raises `Invalid` for a wrong dimension.
    """
    d = dimension if dimension is not None else function.dimensions or max(2, function.minimum_dimension)
    entry = {
        "name": function.name,
        "title": function.title,
        "summary": function.summary,
        "formula": function.formula,
        "dimensions": function.dimensions or "any",
        "minimum_dimension": function.minimum_dimension if function.dimensions is None else None,
        "dimension": d,
        "domain": [list(interval) for interval in function.domain_at(d)],
        "minima": [
            {"point": list(minimum.point), "value": minimum.value, "kind": minimum.kind}
            for minimum in function.minima_at(d)
        ],
        "minima_note": function.minima_note or None,
        "start": list(function.start_at(d)),
        "smoothness": function.smoothness,
        "largest_stable_step": function.largest_stable_step_at(d),
        "largest_stable_step_note": function.largest_stable_step_note or None,
        "condition_number": function.condition_number_at(d),
        "source": function.source,
        "misprints": list(function.misprints),
        "tags": list(function.tags),
    }
    return {field: known for field, known in entry.items() if known is not None}
