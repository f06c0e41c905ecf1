"""The safetensors format, read in place: named tensors behind a small JSON header.

    8 bytes: n, little-endian | n bytes: the header, JSON | the tensors' bytes, one after the other

The header maps a name to dtype, shape and data_offsets, and `__metadata__` to an object of texts; here each of these
texts is JSON, and they are the fields of a request or an answer that are not tensors. A single array without a name
is one tensor, called what the field is called: params, gradients, updates.

The format: https://github.com/huggingface/safetensors#format. The library of that name copies what it reads and knows
no BF16 in NumPy; 12.5 million doubles are better looked at where they are.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import orjson

from service.errors import Invalid, NotAcceptable, NotJson
from service.optim.hyperparameters import escape
from service.optim.tensors import DTYPES, Array, Layout
from service.wire.json import dumps, loads
from service.wire.trees import MAX_DIMENSIONS, MAX_NAME, Flat, check_finite, one_nan, some

MEDIA_TYPE = "application/vnd.thalweg+safetensors"
MAX_HEADER_BYTES = 1 << 20  # some 10,000 tensors; the largest that is parsed on the event loop
MAX_CREATION_HEADER_BYTES = 1 << 24  # of a file that makes a session; a thread parses it
ALIGNMENT = 8  # bytes; the header is padded to it with spaces, so that the numbers can be viewed where they are
METADATA = "__metadata__"
FOREIGN = frozenset({"format"})  # metadata that libraries write for themselves

_STORED: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
_KINDS = {DTYPES["float64"]: "F64", DTYPES["float32"]: "F32"}
_LENGTH = struct.Struct("<Q")


class Tensor(NamedTuple):
    """What the header says of one tensor; `start` and `stop` are bytes in the data."""

    kind: str
    shape: tuple[int, ...]
    start: int
    stop: int


class File(NamedTuple):
    """A file that keeps the format's rules; `tensors` in the order of their bytes in `data`, which is a view."""

    metadata: dict[str, str]
    tensors: dict[str, Tensor]
    data: memoryview


def parse(body: bytes | bytearray | memoryview, pointer: str, most: int = MAX_HEADER_BYTES) -> File:
    """The file in a body, nothing copied. `pointer` is where its tensors would stand in JSON.

    `most` is the size of the longest header that is read, in bytes.

    Raises Invalid: a header that is too long or no JSON, a name twice, a dtype other than F64, F32, F16 and BF16,
    offsets that overlap, leave a hole, reach past the end or do not fit the shape.
    """
    view = memoryview(body)
    if len(view) < _LENGTH.size:
        raise Invalid(f"A safetensors file has at least 8 bytes; this body has {len(view)}.", pointer="")
    (length,) = _LENGTH.unpack_from(view)
    if length > most:
        raise Invalid(
            f"The first 8 bytes say that the safetensors header has {length} bytes; at most {most} are "
            "read. Send fewer tensors, or check that the body is a safetensors file.",
            pointer="",
        )
    if length > len(view) - _LENGTH.size:
        raise Invalid(
            f"The safetensors header would have {length} bytes, and the body ends after {len(view) - _LENGTH.size}.",
            pointer="",
        )
    header = _header(bytes(view[_LENGTH.size : _LENGTH.size + length]))
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Invalid("__metadata__ is an object whose values are texts.", pointer="/__metadata__")
    found = {name: _tensor(entry, _below(pointer, name)) for name, entry in header.items()}
    tensors = dict(sorted(found.items(), key=lambda item: (item[1].start, item[1].stop)))
    data = view[_LENGTH.size + length :]
    _check_coverage(tensors, len(data), pointer)
    return File(metadata, tensors, data)


def fields(file: File) -> dict[str, Any]:
    """The fields in the metadata, each of them JSON. Raises Invalid with a pointer to the first that is not."""
    found = {}
    for name, text in file.metadata.items():
        if name in FOREIGN:
            continue
        try:
            found[name] = loads(text.encode())
        except (NotJson, UnicodeEncodeError):
            raise Invalid(
                "The values in __metadata__ are JSON: 42, or a text in its quotation marks.",
                pointer=f"/{escape(name[:MAX_NAME])}",
            ) from None
        except Invalid as error:
            raise error.at(f"/{escape(name[:MAX_NAME])}") from None
    return found


def flatten(file: File, layout: Layout, pointer: str) -> Flat:
    """The tensors as the flat array of a layout; a view where they lie in its order and dtype.

    A name that is left out is absent. Raises Invalid with a pointer: another name, another shape.
    """
    names = layout.names if layout.named else (pointer.removeprefix("/"),)
    stray = next((name for name in file.tensors if name not in names), None)
    if not layout.named and (stray is not None or not file.tensors):
        raise Invalid(
            f"The params of this session are one array without a name: send one tensor, called {names[0]!r}.",
            pointer=pointer if stray is None else _below(pointer, stray),
        )
    if stray is not None:
        raise Invalid(
            f"There is no parameter {stray[:80]!r}; the names are {some(names)}.", pointer=_below(pointer, stray)
        )
    for name, shape in zip(names, layout.shapes, strict=True):
        tensor = file.tensors.get(name)
        if tensor is not None and tensor.shape != shape:
            raise Invalid(
                f"Expected shape {list(shape)}, found {list(tensor.shape)}.",
                pointer=_below(pointer, name) if layout.named else pointer,
            )
    kinds = {tensor.kind for tensor in file.tensors.values()}
    if len(kinds) == 1 and tuple(file.tensors) == names:
        return Flat(one_nan(_numbers(file.data, kinds.pop(), layout.dtype)))
    values = np.zeros(layout.size, layout.dtype)
    absent = []
    for i, (name, where) in enumerate(zip(names, layout.slices, strict=True)):
        tensor = file.tensors.get(name)
        if tensor is None:
            absent.append(i)
        else:
            values[where] = _numbers(file.data[tensor.start : tensor.stop], tensor.kind, layout.dtype)
    return Flat(one_nan(values), tuple(absent))


def lay_out(file: File, dtype: str | None, pointer: str = "/params") -> tuple[Layout, Array]:
    """The layout of a file of parameters, and its flat values.

    The order is that of the tensors' bytes; a file with one tensor called "params" is an array without a name. Where
    `dtype` is None it is float64 if one tensor is F64, else float32, which holds all the others exactly.
    Raises Invalid or NonFinite with pointers.
    """
    tensors = file.tensors
    for name in tensors:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise Invalid(
                "A parameter's name is Unicode text; this is half of a surrogate pair.", pointer=pointer
            ) from None
        if not 0 < len(name) <= MAX_NAME:
            raise Invalid(f"A parameter's name has 1 to {MAX_NAME} characters.", pointer=_below(pointer, name))
    if dtype is None:
        dtype = "float64" if any(tensor.kind == "F64" for tensor in tensors.values()) else "float32"
    named = tuple(tensors) != (pointer.removeprefix("/"),)
    shapes = tuple(tensor.shape for tensor in tensors.values())
    layout = Layout(tuple(tensors) if named else ("",), shapes, DTYPES[dtype], named)
    if not tensors or not layout.size:
        raise Invalid("params must hold at least one number, in at least one tensor.", pointer=pointer)
    values = flatten(file, layout, pointer).values
    check_finite(values, layout, pointer)
    return layout, values


def header(metadata: Mapping[str, Any], layout: Layout | None, single: str = "") -> bytes:
    """What stands before the bytes of a layout's flat array; with no layout, a file without tensors.

    `single` is what the array of a layout without names is called. Raises NotAcceptable where a parameter has the
    name that the format keeps for itself.
    """
    entries: dict[str, Any] = {METADATA: {name: dumps(value).decode() for name, value in metadata.items()}}
    if layout is not None:
        kind, size = _KINDS[layout.dtype], layout.dtype.itemsize
        for name, where, shape in zip(layout.names, layout.slices, layout.shapes, strict=True):
            if name == METADATA:
                raise NotAcceptable(
                    f"A parameter is called {METADATA}, a name that safetensors has taken; ask for JSON."
                )
            offsets = (where.start * size, where.stop * size)
            entries[name if layout.named else single] = {"dtype": kind, "shape": shape, "data_offsets": offsets}
    text = orjson.dumps(entries)
    text += b" " * (-len(text) % ALIGNMENT)
    return _LENGTH.pack(len(text)) + text


def _header(text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise Invalid(
            "A safetensors header is a JSON object and starts with {; is this a safetensors file?", pointer=""
        )
    try:
        return dict(json.loads(text.decode(), object_pairs_hook=_no_duplicates))
    except (ValueError, RecursionError):
        raise Invalid("The safetensors header is not valid JSON in UTF-8.", pointer="") from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        name = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        shown = name[:80].encode("utf-8", "replace").decode()
        raise Invalid(f"The safetensors header has {shown!r} twice.", pointer="")
    return found


def _tensor(entry: Any, pointer: str) -> Tensor:
    """One entry of the header, which must agree with itself."""
    if not isinstance(entry, dict) or not entry.keys() >= {"dtype", "shape", "data_offsets"}:
        raise Invalid("A tensor in the header has dtype, shape and data_offsets.", pointer=pointer)
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in _STORED:
        raise Invalid(f"The dtype of a tensor must be one of {', '.join(_STORED)}.", pointer=pointer)
    if not _whole(shape) or len(shape) > MAX_DIMENSIONS:
        raise Invalid(f"A shape is a list of at most {MAX_DIMENSIONS} whole numbers, none below 0.", pointer=pointer)
    if not _whole(offsets) or len(offsets) != 2:
        raise Invalid("data_offsets are two whole numbers: where the bytes start and where they stop.", pointer=pointer)
    start, stop = offsets
    needed = math.prod(shape) * _STORED[kind].itemsize
    if stop - start != needed:
        raise Invalid(
            f"Shape and dtype {kind} make {_shown(needed)} bytes, data_offsets {_shown(stop - start)}.",
            pointer=pointer,
        )
    return Tensor(kind, tuple(shape), start, stop)


def _whole(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _shown(number: int) -> str:
    return str(number) if abs(number) < 1 << 64 else "more than 2^64"


def _check_coverage(tensors: dict[str, Tensor], size: int, pointer: str) -> None:
    """The format has no hole and no overlap: each byte of the data belongs to one tensor."""
    for (before, one), (name, two) in pairwise(tensors.items()):
        if two.start < one.stop:
            raise Invalid(f"The bytes of this tensor overlap those of {before[:80]!r}.", pointer=_below(pointer, name))
        if two.start > one.stop:
            raise Invalid(
                f"There is a hole of {_shown(two.start - one.stop)} bytes before this tensor.",
                pointer=_below(pointer, name),
            )
    if tensors:
        name, first = next(iter(tensors.items()))
        if first.start:
            raise Invalid(
                f"There is a hole of {_shown(first.start)} bytes before this tensor.", pointer=_below(pointer, name)
            )
    last, stop = next(((name, t.stop) for name, t in reversed(tensors.items())), ("", 0))
    if stop > size:
        raise Invalid(
            f"This tensor ends at byte {_shown(stop)}, and the body has {size} bytes of data.",
            pointer=_below(pointer, last),
        )
    if stop < size:
        raise Invalid(f"{size - stop} bytes follow the last tensor; they belong to none.", pointer=pointer)


def _numbers(data: memoryview, kind: str, dtype: np.dtype[Any]) -> Array:
    """The numbers of these bytes, flat; a view where they are of this dtype and aligned, else converted."""
    found: Array = np.frombuffer(data, _STORED[kind])
    if kind == "BF16":  # the upper half of a float32
        bits = found.astype(np.dtype("<u4"))
        bits <<= 16
        found = bits.view(np.dtype("<f4"))
    if found.dtype == dtype and found.flags.aligned:
        return found
    with np.errstate(over="ignore", invalid="ignore"):  # what leaves the range is infinite, and refused as such
        return found.astype(dtype)


def _below(pointer: str, name: str) -> str:
    return f"{pointer}/{escape(name[:MAX_NAME])}".encode("utf-8", "replace").decode()
