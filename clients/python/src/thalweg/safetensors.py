"""The safetensors format, as much of it as is sent and received here: named tensors behind a small JSON header.

    8 bytes: n, little-endian | n bytes: the header, JSON | the tensors' bytes, one after the other

The header maps a name to dtype, shape and data_offsets, and `__metadata__` to an object of texts, each of which is
JSON: the fields of a request or an answer that are not tensors. Numbers are sent from the arrays that hold them, and
read as views of what arrived.

The format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from thalweg import text
from thalweg.errors import UnexpectedAnswer
from thalweg.tensors import Array, Piece, raw

MEDIA_TYPE = "application/vnd.thalweg+safetensors"
METADATA = "__metadata__"
MAX_HEADER_BYTES = 1 << 20  # what the service reads: some 10,000 tensors
ALIGNMENT = 8  # bytes; the header is padded to it with spaces, so that numbers can be viewed where they are

_LENGTH = struct.Struct("<Q")
_STORED: dict[str, np.dtype[np.floating[Any]]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
}
_KINDS = {dtype: kind for kind, dtype in _STORED.items()}


class File(NamedTuple):
    """What a file holds: the fields of its metadata, and its tensors in the order of their bytes."""

    fields: dict[str, Any]
    tensors: dict[str, Array]


def carries(names: Iterable[str]) -> bool:
    """Whether tensors of these names fit into a file: not with the name that the format keeps for itself, nor with a
    header that is too long."""
    listed = list(names)
    return METADATA not in listed and sum(6 * len(name) + 128 for name in listed) < MAX_HEADER_BYTES


def write(tensors: Mapping[str, Array], fields: Mapping[str, Any]) -> tuple[Piece, ...]:
    """The pieces of a file, in order: the header, and the bytes of each tensor where they are. Raises InvalidInput."""
    entries: dict[str, Any] = {METADATA: {name: text.write(value).decode() for name, value in fields.items()}}
    pieces: list[Piece] = []
    end = 0
    for name, array in tensors.items():
        piece, start = raw(array), end
        end += len(piece)
        entries[name] = {"dtype": _KINDS[array.dtype], "shape": array.shape, "data_offsets": (start, end)}
        pieces.append(piece)
    header = text.write(entries)
    header += b" " * (-len(header) % ALIGNMENT)
    return (_LENGTH.pack(len(header)) + header, *pieces)


def parse(content: Piece) -> File:
    """The file, its tensors as views of `content`. Raises UnexpectedAnswer for what breaks the format's rules."""
    view = memoryview(content)
    try:
        (length,) = _LENGTH.unpack_from(view)
        header = text.read(bytes(view[_LENGTH.size : _LENGTH.size + length]))
        fields = {name: text.read(value.encode()) for name, value in header.pop(METADATA, {}).items()}
        data = view[_LENGTH.size + length :]
        entries = sorted(header.items(), key=lambda item: tuple(item[1]["data_offsets"]))
        tensors = {name: _tensor(entry, data) for name, entry in entries}
        ends = [0, *(stop for _, entry in entries for stop in entry["data_offsets"]), len(data)]
        if any(one != other for one, other in list(pairwise(ends))[::2]):
            raise ValueError("the tensors do not cover the data")
    except (struct.error, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise UnexpectedAnswer(f"The answer should be a safetensors file, and is none: {error}") from None
    return File(fields, tensors)


def _tensor(entry: Mapping[str, Any], data: memoryview) -> Array:
    start, stop = entry["data_offsets"]
    shape, dtype = tuple(entry["shape"]), _STORED[entry["dtype"]]
    if not 0 <= start <= stop <= len(data) or stop - start != math.prod(shape) * dtype.itemsize:
        raise ValueError("shape, dtype and data_offsets do not agree")
    array: Array = np.frombuffer(data[start:stop], dtype).reshape(shape)
    return array if array.flags.aligned else array.copy()
