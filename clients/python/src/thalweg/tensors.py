"""Arrays, and how they travel: as nested lists in JSON, or as the bytes that they are.

In JSON a double is written with the fewest digits that read back as the same double, and a float32 as the double that
equals it; both arrive exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg.errors import InvalidInput, Place, UnexpectedAnswer

Array: TypeAlias = NDArray[np.floating[Any]]
Tensors: TypeAlias = Array | dict[str, Array]
"""What comes back: an array, or a dict from name to array; a scalar is an array of shape ()."""

TensorsLike: TypeAlias = ArrayLike | Mapping[str, ArrayLike | None]
"""What goes in: numbers, lists, arrays, or a mapping from name to those; `None` for a name means "no gradient"."""

Checked: TypeAlias = Array | dict[str, Array | None]
Shapes: TypeAlias = tuple[int, ...] | dict[str, tuple[int, ...]]
Piece: TypeAlias = bytes | memoryview

# Half precision and what is unknown here is read as double, which holds every value of any of them.
DTYPES: Mapping[str, type[np.floating[Any]]] = {"float32": np.float32, "float16": np.float16}
STORED = tuple(np.dtype(code) for code in ("<f8", "<f4", "<f2"))


def check(value: TensorsLike, pointer: str, *, non_finite: bool = False) -> Checked:
    """`value` as arrays of floats. Raises InvalidInput, pointing below `pointer`, for what is no number, and for NaN
    and infinities unless `non_finite`."""
    if not isinstance(value, Mapping):
        return _array(value, pointer, non_finite)
    checked: dict[str, Array | None] = {}
    for name, item in value.items():
        if not isinstance(name, str):
            raise _refusal(f"Names of parameters are text; found {name!r}.", pointer)
        checked[name] = None if item is None else _array(item, f"{pointer}/{escape(name)}", non_finite)
    return checked


def escape(name: str) -> str:
    """A name as one step of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def shapes(tensors: Array | Mapping[str, Array | None]) -> Shapes:
    """The layout of some parameters."""
    if isinstance(tensors, Mapping):
        return {name: array.shape for name, array in tensors.items() if array is not None}
    return tensors.shape


def size(layout: Shapes) -> int:
    """How many numbers a layout has."""
    return sum(map(math.prod, layout.values())) if isinstance(layout, dict) else math.prod(layout)


def stored(array: Array, dtype: str | None = None) -> Array:
    """The array as its bytes can be sent: little-endian and in one piece; itself where it is so. With `dtype`, of that
    type; a number past its range becomes infinite, and the service refuses it as such."""
    if dtype is not None:
        with np.errstate(all="ignore"):
            array = array.astype(np.dtype(DTYPES.get(dtype, np.float64)), copy=False)
    if array.dtype not in STORED:
        array = array.astype(array.dtype.newbyteorder("<"))
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def raw(array: Array) -> memoryview:
    """The bytes of a stored array, not copied."""
    return array.reshape(-1).view(np.uint8).data


def kept(tensors: Checked) -> Checked:
    """A copy, which stays as it is whatever the caller does with its arrays."""
    if isinstance(tensors, dict):
        return {name: None if array is None else array.copy() for name, array in tensors.items()}
    return tensors.copy()


def weight(tensors: Checked) -> int:
    """The bytes that the numbers take."""
    arrays = tensors.values() if isinstance(tensors, dict) else (tensors,)
    return sum(array.nbytes for array in arrays if array is not None)


def to_json(tensors: Checked) -> Any:
    """Nested lists. A non-finite number becomes null, as JSON has no word for it."""
    if isinstance(tensors, dict):
        return {name: None if array is None else _listed(array) for name, array in tensors.items()}
    return _listed(tensors)


def from_json(tree: Any, dtype: str | None = None, layout: Shapes | None = None) -> Tensors:
    """Arrays of an answer. A name whose value is null is left out. `layout` restores what nested lists cannot say:
    a shape with a zero in front of other numbers. What came as arrays already stays as it is."""
    if isinstance(tree, np.ndarray):
        return tree
    kind = DTYPES.get(dtype or "", np.float64)
    if not isinstance(tree, dict):
        return read_array(tree, kind, layout if isinstance(layout, tuple) else None)
    known = layout if isinstance(layout, dict) else {}
    return {
        name: item if isinstance(item, np.ndarray) else read_array(item, kind, known.get(name))
        for name, item in tree.items()
        if item is not None
    }


def read_array(value: Any, kind: type[np.floating[Any]] = np.float64, shape: tuple[int, ...] | None = None) -> Array:
    """One array of an answer. Raises UnexpectedAnswer for what is none."""
    try:
        with np.errstate(all="ignore"):
            array: Array = np.array(value, dtype=kind)
    except (TypeError, ValueError) as error:
        raise UnexpectedAnswer(f"Where an array belongs, the answer holds something else: {error}") from None
    if shape is None or array.shape == shape or array.size != np.prod(shape):
        return array
    return array.reshape(shape)


def _array(value: ArrayLike | None, pointer: str, non_finite: bool) -> Array:
    try:
        array = np.asarray(value)
    except Exception as error:  # whatever a foreign array type raises, it could not be read
        raise _refusal(f"This cannot be read as an array: {error}", pointer) from error
    if array.dtype.kind not in "iuf":
        raise _not_numbers(array, pointer)
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        with np.errstate(all="ignore"):  # a number too large for a double becomes inf, and is refused as such
            array = array.astype(np.float64)
    # A bare null would mean "no gradient", so only a place inside an array can be non-finite.
    if not (non_finite and array.ndim) and not np.isfinite(array).all():
        raise _not_finite(array, pointer)
    return array


def _listed(array: Array) -> Any:
    finite = np.isfinite(array)
    if finite.all():
        return array.tolist()
    with_nulls = array.astype(object)
    with_nulls[~finite] = None
    return with_nulls.tolist()


def _refusal(detail: str, pointer: str) -> InvalidInput:
    return InvalidInput(detail, errors=[Place(pointer, detail)])


def _not_numbers(array: NDArray[Any], pointer: str) -> InvalidInput:
    return _refusal(f"Numbers belong here: an array of floats or integers; found one of {array.dtype}.", pointer)


def _not_finite(array: Array, pointer: str) -> InvalidInput:
    first = np.argwhere(~np.isfinite(array))[0]
    place = "".join(f"/{index}" for index in first)
    found = array[tuple(first)]
    hint = "" if array.ndim else " A bare number must be finite under any policy: null would mean no gradient."
    return _refusal(f"Finite numbers belong here; found {found}.{hint}", pointer + place)
