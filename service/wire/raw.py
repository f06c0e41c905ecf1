"""Raw bytes: little-endian values of the session's dtype, all tensors in layout order, nothing else.

The other fields of a request are query parameters, those of an answer are headers: `durable_step` is
`Thalweg-Durable-Step`. What is an object or a list has no header; the session's description has it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from service.errors import Invalid, NotJson
from service.optim.hyperparameters import escape
from service.optim.tensors import DTYPES, Array, Layout
from service.wire.json import dumps, loads
from service.wire.trees import MAX_DIMENSIONS, MAX_NAME, Flat, check_finite, one_nan

MEDIA_TYPE = "application/octet-stream"


def query(query_string: bytes, texts: Iterable[str]) -> dict[str, Any]:
    """The fields in a query string: those named in `texts` as they stand, all others JSON.

    Raises Invalid: a field twice, or one that is no JSON.
    """
    found: dict[str, Any] = {}
    for name, text in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True):
        pointer = f"/{escape(name[:MAX_NAME])}".encode("utf-8", "replace").decode()
        if name in found:
            raise Invalid("This query parameter comes twice; send it once.", pointer=pointer)
        try:
            found[name] = text if name in texts else loads(text.encode())
        except (NotJson, UnicodeEncodeError):
            raise Invalid("This query parameter takes JSON.", pointer=pointer) from None
        except Invalid as error:
            raise error.at(pointer) from None
    return found


def flatten(body: bytes | bytearray | memoryview, layout: Layout, pointer: str) -> Flat:
    """The body as the flat array of a layout, viewed where it is. Raises Invalid for another number of bytes."""
    size, needed = len(body), layout.size * layout.dtype.itemsize
    if size != needed:
        raise Invalid(
            f"Expected {needed} bytes, which are {layout.size} of {layout.dtype.name}; found {size}.", pointer=pointer
        )
    return Flat(one_nan(np.frombuffer(body, layout.dtype)))


def lay_out(
    body: bytes | bytearray | memoryview, shapes: Any, dtype: str, pointer: str = "/params"
) -> tuple[Layout, Array]:
    """The layout that `shapes` describes, and the body as its flat values.

    `shapes` is one shape ([2, 3]), or an object from name to shape, or None for one vector of all that is there.
    Raises Invalid or NonFinite with pointers.
    """
    item = DTYPES[dtype].itemsize
    if shapes is None:
        if len(body) % item:
            raise Invalid(f"{len(body)} bytes are no whole number of {dtype}.", pointer=pointer)
        shapes = [len(body) // item]
    named = isinstance(shapes, Mapping)
    given: Mapping[str, Any] = shapes if named else {"": shapes}
    for name, shape in given.items():
        below = f"/shapes/{escape(name[:MAX_NAME])}" if named else "/shapes"
        if named and not 0 < len(name) <= MAX_NAME:
            raise Invalid(f"A parameter's name has 1 to {MAX_NAME} characters.", pointer=below)
        fits = isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS
        if not fits or not all(type(length) is int and 0 <= length <= len(body) for length in shape):
            raise Invalid(
                f"A shape is a list of at most {MAX_DIMENSIONS} whole numbers, none below 0 and none above the number "
                "of bytes sent.",
                pointer=below,
            )
    layout = Layout(tuple(given), tuple(map(tuple, given.values())), DTYPES[dtype], named)
    if not given or not layout.size:
        raise Invalid("params must hold at least one number.", pointer=pointer)
    values = flatten(body, layout, pointer).values
    check_finite(values, layout, pointer)
    return layout, values


def headers(fields: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
    """The header fields for what is a number, a truth value or a text."""
    return [
        (f"thalweg-{name.replace('_', '-')}".encode(), value.encode() if isinstance(value, str) else dumps(value))
        for name, value in fields.items()
        if isinstance(value, str | int | float) and not (isinstance(value, float) and not math.isfinite(value))
    ]
