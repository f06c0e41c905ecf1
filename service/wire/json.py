"""JSON bodies: orjson in, orjson out; what is not JSON gets a sentence that says where."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import orjson

from service.errors import MAX_PLACES, NonFinite, NotJson, Place, Unavailable
from service.optim.hyperparameters import escape

MEDIA_TYPE = "application/json"
LENIENT_LIMIT = 4 << 20  # bytes; a larger body that orjson refuses is not read a second time
LONGEST_POINTER = 1000  # characters; a place below is given by what holds it


def loads(body: bytes | bytearray | memoryview) -> Any:
    """The value of a JSON text. Raises NotJson, or NonFinite where it is JSON but for NaN, Infinity or 1e400.

    Unavailable where there is no memory to read it.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if error.msg.startswith("Not enough memory"):  # orjson has the same exception for that
            raise Unavailable("There is no memory to read this body now; send it again.", retry_after=5) from None
        value = _lenient(bytes(body))
        if value is None:
            reason = str(error).removesuffix(f": line {error.lineno} column {error.colno} (char {error.pos})")
            at = f" at line {error.lineno}, column {error.colno}" if body else ""
            raise NotJson(f"The body is not valid JSON{at}: {reason}.") from None
        places = tuple(_non_finite(value))
        raise NonFinite(
            "JSON has no NaN or Infinity, and numbers must fit a double; the places are listed. Send null in an array "
            "for a number that is not finite, and choose the session's non_finite policy to have it skipped or zeroed.",
            places=places,
        ) from None


def dumps(value: Any) -> bytes:
    """The JSON text of a value; arrays are written as nested lists with all their digits."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def canonical(value: Any) -> bytes:
    """One text for equal values: what a digest is taken of."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _lenient(body: bytes) -> Any:
    """The value if it is JSON but for numbers that are not finite, else None."""
    if len(body) > LENIENT_LIMIT:
        return None
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return value if any(True for _ in _non_finite(value)) else None


def _non_finite(value: Any) -> list[Place]:
    """The first places of numbers that are not finite; without recursion, for the nesting may be deep."""
    found: list[Place] = []
    stack: list[tuple[str, Any]] = [("", value)]
    while stack and len(found) < MAX_PLACES:
        pointer, item = stack.pop()
        if isinstance(item, float) and not math.isfinite(item):
            found.append(Place(pointer, "not a finite number"))
        elif isinstance(item, int) and not isinstance(item, bool) and abs(item) > sys.float_info.max:
            found.append(Place(pointer, "past the range of a double"))
        elif isinstance(item, dict):
            stack.extend((_below(pointer, escape(key)), v) for key, v in reversed(item.items()))
        elif isinstance(item, list):
            stack.extend((_below(pointer, str(i)), v) for i, v in reversed(list(enumerate(item))) if type(v) is not str)
    return found


def _below(pointer: str, key: str) -> str:
    if len(pointer) + len(key) >= LONGEST_POINTER:
        return pointer
    return f"{pointer}/{key}".encode("utf-8", "replace").decode()  # an escaped half of a surrogate pair is no text
