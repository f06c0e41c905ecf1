"""JSON: numbers with the fewest digits that read back as the same double, and no NaN."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from thalweg.errors import InvalidInput


def _plain(value: object) -> Any:
    """What json does not know: numpy's numbers and arrays inside a specification, and mappings that are no dict."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not a number, text, list or mapping.")


_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=_plain)

# orjson, where it is installed (the extra `fast`), writes and reads the same numbers about ten times faster.
try:
    import orjson

    _write: Callable[[Any], bytes] = orjson.dumps
    read: Callable[[bytes], Any] = orjson.loads
except ImportError:

    def _write(value: Any) -> bytes:
        return _ENCODER.encode(value).encode()

    read = json.loads


def write(value: Any) -> bytes:
    """A caller's value, which may hold anything. Raises InvalidInput for what JSON has no word for."""
    try:
        return _ENCODER.encode(value).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise _refusal(error) from error


def write_numbers(value: Any) -> bytes:
    """A value that is large and holds nothing but numbers, lists and names. Raises InvalidInput."""
    try:
        return _write(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise _refusal(error) from error


def _refusal(error: Exception) -> InvalidInput:
    return InvalidInput(f"The arguments cannot be written as JSON: {error}")
