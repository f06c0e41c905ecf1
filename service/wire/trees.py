"""Trees of numbers: one array, or an object from name to array, as JSON has them.

`lay_out` fixes the layout of a session from its parameters; `flatten` brings a tree of that layout into one flat
array; `tree` gives a flat array the shape of the question again.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from itertools import chain
from types import MappingProxyType, NoneType
from typing import Any, NamedTuple

import numpy as np

from service.errors import MAX_PLACES, Invalid, NonFinite, Place
from service.optim.hyperparameters import escape
from service.optim.tensors import DTYPES, Array, Layout

MAX_DIMENSIONS = 16
SMALL = 64  # elements
MAX_NAME = 256
_NUMBERS = frozenset((float, int))


class Flat(NamedTuple):
    """A tree brought into one array.

    `absent` are the tensors that were null or not named; their values are zero. `rows` has, by tensor, the rows that
    were given, sorted, where only some were; the values of the others are zero.
    """

    values: Array
    absent: tuple[int, ...] = ()
    rows: Mapping[int, Array] = MappingProxyType({})


def lay_out(params: Any, dtype: str, pointer: str = "/params") -> tuple[Layout, Array]:
    """The layout of a tree of parameters, and its flat values.

    Raises Invalid or NonFinite with pointers: ragged or empty arrays, strings, booleans, null, too many dimensions.
    """
    if dtype not in DTYPES:
        raise Invalid(f"dtype must be one of {', '.join(DTYPES)}.", pointer="/dtype")
    named = isinstance(params, Mapping)
    tensors: Mapping[str, Any] = params if named else {"": params}
    if not tensors:
        raise Invalid("params must name at least one parameter.", pointer=pointer)
    shapes = []
    for name, value in tensors.items():
        below = f"{pointer}/{escape(name)}" if named else pointer
        if named and not 0 < len(name) <= MAX_NAME:
            raise Invalid(f"A parameter's name has 1 to {MAX_NAME} characters.", pointer=below[:MAX_NAME])
        shapes.append(_shape(value, below))
    layout = Layout(tuple(tensors), tuple(shapes), DTYPES[dtype], named)
    if not layout.size:
        raise Invalid("params must hold at least one number.", pointer=pointer)
    flat = flatten(params, layout, pointer)
    if flat.absent:
        raise Invalid("A parameter cannot be null.", pointer=f"{pointer}/{escape(layout.names[flat.absent[0]])}")
    check_finite(flat.values, layout, pointer)
    return layout, flat.values


def flatten(tree: Any, layout: Layout, pointer: str, *, sparse: bool = False) -> Flat:
    """The tree's numbers in layout order, shape (layout.size,).

    With `sparse`, `{"indices": [...], "values": [[...], ...]}` may stand for a tensor: rows of its first axis, in any
    order; a row that comes again is added. null for a named tensor, or a name left out, makes it absent; null inside
    an array is a number that is not finite, as JavaScript writes it. Raises Invalid with a pointer to the first bad
    place: names, shapes, types.
    """
    if not layout.named:
        if sparse and isinstance(tree, Mapping):
            values, rows = _sparse(tree, layout.shapes[0], layout, pointer)
            return Flat(values, (), {0: rows})
        values = _array(tree, layout.shapes[0], layout, pointer)
        return Flat(values)
    if not isinstance(tree, Mapping):
        raise Invalid(f"Expected an object with the names {some(layout.names)}.", pointer=pointer)
    if not tree.keys() <= set(layout.names):
        stray = next(name for name in tree if name not in layout.names)
        raise Invalid(
            f"There is no parameter {stray[:80]!r}; the names are {some(layout.names)}.",
            pointer=f"{pointer}/{escape(stray[:MAX_NAME])}",
        )
    values = np.zeros(layout.size, layout.dtype)
    absent, found = [], {}
    for i, (name, where, shape) in enumerate(zip(layout.names, layout.slices, layout.shapes, strict=True)):
        tensor = tree.get(name)
        if tensor is None:
            absent.append(i)
        elif sparse and isinstance(tensor, Mapping):
            values[where], found[i] = _sparse(tensor, shape, layout, f"{pointer}/{escape(name)}")
        else:
            values[where] = _array(tensor, shape, layout, f"{pointer}/{escape(name)}")
    return Flat(values, tuple(absent), found) if found else Flat(values, tuple(absent))


def stack(trees: Sequence[Any], layout: Layout) -> Array | None:
    """The numbers of many trees as the rows of one array, (len(trees), layout.size).

    None where that is not so simple: then `flatten` says of each what it is, and what is wrong with it.
    """
    if any(len(shape) != 1 for shape in layout.shapes):
        return None
    if layout.named:
        names = layout.names
        if not all(type(tree) is dict and tree.keys() == set(names) for tree in trees):
            return None
        lists = [tree[name] for tree in trees for name in names]
        lengths = [shape[0] for shape in layout.shapes] * len(trees)
    else:
        lists, lengths = list(trees), [layout.size] * len(trees)
    if set(map(type, lists)) != {list} or list(map(len, lists)) != lengths:
        return None
    numbers = list(chain.from_iterable(lists))
    if not set(map(type, numbers)) <= _NUMBERS:
        return None
    try:
        rows = np.array(numbers, np.float64)
    except OverflowError:
        return None
    with np.errstate(over="ignore"):
        return rows.astype(layout.dtype, copy=False).reshape(len(trees), -1)


def tree(flat: Array, layout: Layout) -> Any:
    """What a client is answered: arrays in the tensors' shapes (numbers for scalars), by name if they were named."""
    if layout.named:
        return {
            name: _shaped(flat[where], shape)
            for name, where, shape in zip(layout.names, layout.slices, layout.shapes, strict=True)
        }
    return _shaped(flat, layout.shapes[0])


def _shaped(flat: Array, shape: tuple[int, ...]) -> Any:
    if not shape:
        return flat[0].item()
    # orjson looks long at an array before it writes it; a double is the same number as a Python float
    small = flat.size < SMALL and flat.dtype == np.float64
    return flat.reshape(shape).tolist() if small else flat.reshape(shape)


def one_nan(values: Array) -> Array:
    """The values, every NaN of them with the bits that null in JSON gets: the same step has one digest in all forms."""
    with np.errstate(all="ignore"):
        if not math.isnan(np.add.reduce(values)):  # a sum without a NaN has none in it
            return values
    return np.where(np.isnan(values), values.dtype.type(math.nan), values)


def place_of(index: int, layout: Layout, pointer: str, sparse: Container[int] = ()) -> str:
    """The JSON pointer of an element of the flat array; in a tensor that came by rows, of all their values."""
    for i, (name, where, shape) in enumerate(zip(layout.names, layout.slices, layout.shapes, strict=True)):
        if where.start <= index < where.stop:
            if i in sparse:
                return f"{pointer}/{escape(name)}/values" if layout.named else f"{pointer}/values"
            inside = np.unravel_index(index - where.start, shape) if shape else ()
            path = "".join(f"/{int(i)}" for i in inside)
            return f"{pointer}/{escape(name)}{path}" if layout.named else f"{pointer}{path}"
    raise IndexError(index)


def check_finite(values: Array, layout: Layout, pointer: str, sparse: Container[int] = ()) -> None:
    """Raises NonFinite with the first places that hold no finite number of the layout's dtype.

    `sparse` are the tensors that came by rows.
    """
    finite = np.isfinite(values)
    if finite.all():
        return
    dtype = layout.dtype.name
    raise NonFinite(
        f"Numbers must be finite in {dtype}; NaN, infinities and numbers past its range are refused.",
        places=[
            Place(place_of(i, layout, pointer, sparse), f"not a finite {dtype}")
            for i in np.flatnonzero(~finite)[:MAX_PLACES].tolist()
        ],
    )


def _shape(value: Any, pointer: str) -> tuple[int, ...]:
    """The shape that the first elements promise; `_array` checks that the others keep it."""
    shape: list[int] = []
    while isinstance(value, list):
        if len(shape) == MAX_DIMENSIONS:
            raise Invalid(f"Arrays have at most {MAX_DIMENSIONS} dimensions.", pointer=pointer)
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return tuple(shape)


def _array(value: Any, shape: tuple[int, ...], layout: Layout, pointer: str) -> Array:
    """The flat numbers of one nested list of this shape; null becomes NaN."""
    leaves = [value]
    for length in shape:
        if set(map(type, leaves)) != {list} or set(map(len, leaves)) != {length}:
            raise _misfit(value, shape, pointer)
        leaves = leaves[0] if len(leaves) == 1 else list(chain.from_iterable(leaves))
    if not set(map(type, leaves)) <= _NUMBERS:
        if not set(map(type, leaves)) <= _NUMBERS | {NoneType}:
            raise _misfit(value, shape, pointer)
        leaves = [math.nan if leaf is None else leaf for leaf in leaves]
    try:
        numbers = np.array(leaves, np.float64)
    except OverflowError:  # a whole number past the largest double
        numbers = np.array([_as_double(leaf) for leaf in leaves], np.float64)
    if layout.dtype == np.float64:
        return numbers
    with np.errstate(over="ignore"):
        return numbers.astype(layout.dtype)


def _sparse(value: Mapping[str, Any], shape: tuple[int, ...], layout: Layout, pointer: str) -> tuple[Array, Array]:
    """The flat numbers of a tensor of which rows are given, and the rows that there are, sorted."""
    if value.keys() != {"indices", "values"}:
        raise Invalid('A sparse gradient is {"indices": [...], "values": [[...], ...]}.', pointer=pointer)
    if not shape:
        raise Invalid("A single number has no rows; send the number.", pointer=pointer)
    indices, given = value["indices"], value["values"]
    if not isinstance(indices, list):
        raise Invalid(f"Expected an array of row numbers, found {_kind(indices)}.", pointer=f"{pointer}/indices")
    for k, index in enumerate(indices):
        if type(index) is not int or not 0 <= index < shape[0]:
            last = f"from 0 to {shape[0] - 1}" if shape[0] else "but this one has none"
            raise Invalid(f"Rows are whole numbers, {last}.", pointer=f"{pointer}/indices/{k}")
    if not isinstance(given, list) or len(given) != len(indices):
        raise _misfit(given, (len(indices), *shape[1:]), f"{pointer}/values")
    values = np.zeros((shape[0], math.prod(shape[1:])), layout.dtype)
    if indices:
        rows = _array(given, (len(indices), *shape[1:]), layout, f"{pointer}/values")
        with np.errstate(all="ignore"):
            np.add.at(values, indices, rows.reshape(len(indices), -1))
    return values.reshape(-1), np.unique(np.array(indices, np.int64))


def _as_double(number: float | int) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _misfit(value: Any, shape: tuple[int, ...], pointer: str) -> Invalid:
    """The error for the first place where a nested list leaves its shape."""
    if not shape:
        wanted = "a number"
        bad = isinstance(value, bool) or not isinstance(value, int | float | None)
    else:
        wanted = f"an array of {shape[0]}" if len(shape) == 1 else f"an array of shape {list(shape)}"
        bad = not isinstance(value, list) or len(value) != shape[0]
    if bad:
        return Invalid(f"Expected {wanted}, found {_kind(value)}.", pointer=pointer)
    for i, item in enumerate(value):
        if error := _misfit_or_none(item, shape[1:], f"{pointer}/{i}"):
            return error
    return Invalid(f"Expected {wanted}.", pointer=pointer)


def _misfit_or_none(value: Any, shape: tuple[int, ...], pointer: str) -> Invalid | None:
    if not shape:
        fits = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
        return None if fits else _misfit(value, shape, pointer)
    if not isinstance(value, list) or len(value) != shape[0]:
        return _misfit(value, shape, pointer)
    return next((e for i, v in enumerate(value) if (e := _misfit_or_none(v, shape[1:], f"{pointer}/{i}"))), None)


def _kind(value: Any) -> str:
    """What was found, without repeating it."""
    if isinstance(value, list):
        return f"an array of {len(value)}"
    names = {bool: "a boolean", str: "a string", dict: "an object", NoneType: "null"}
    return names.get(type(value), "a number")


def some(names: tuple[str, ...]) -> str:
    """The first names, for a sentence."""
    listed = ", ".join(names[:20])
    return f"{listed}, ..." if len(names) > 20 else listed
