"""Named tensors in one flat array.

A session's parameters, gradients and every elementwise slot of its state lie in one contiguous array each, in the
order in which the names were given. A rule then runs once over everything, and a name is a slice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {"float64": np.dtype("<f8"), "float32": np.dtype("<f4")}
BLOCK = 1 << 15  # elements squared at a time when a norm is taken: fits the second-level cache
SMALLEST_SQUARE = 1e-280  # below it, squares lose digits to underflow


@dataclass(frozen=True)
class Layout:
    """The names in order, their shapes, and the one dtype; fixed when a session is created.

    `named` is False for a single array without a name (its name here is the empty string).
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: np.dtype[Any]
    named: bool = True

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Where each tensor lies in the flat array."""
        ends = accumulate((math.prod(shape) for shape in self.shapes), initial=0)
        return tuple(slice(a, b) for a, b in pairwise(ends))

    @cached_property
    def size(self) -> int:
        """Elements in all."""
        return sum(math.prod(shape) for shape in self.shapes)

    def split(self, flat: Array) -> dict[str, Array]:
        """Views by name, in the tensors' shapes, on a flat array of shape (size,)."""
        return {
            name: flat[where].reshape(shape)
            for name, where, shape in zip(self.names, self.slices, self.shapes, strict=True)
        }

    def as_json(self) -> dict[str, Any]:
        """The layout as plain data; `from_json` reads it back."""
        return {
            "names": list(self.names),
            "shapes": [list(shape) for shape in self.shapes],
            "dtype": next(name for name, dtype in DTYPES.items() if dtype == self.dtype),
            "named": self.named,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Layout:
        """The inverse of `as_json`."""
        shapes = tuple(tuple(shape) for shape in data["shapes"])
        return cls(tuple(data["names"]), shapes, DTYPES[data["dtype"]], data["named"])


def single(size: int, dtype: str = "float64") -> Layout:
    """The layout of one unnamed vector."""
    return Layout(("",), ((size,),), DTYPES[dtype], named=False)


def norm(flat: Array, slices: Sequence[slice] | None = None) -> float:
    """Euclidean norm of a flat array, or of the named slices of it together; summed in float64.

    Blocks are summed pairwise in a fixed order and never by BLAS, whose result depends on the processor and on the
    number of threads: the same history must give the same bits. Rescales where squares would leave the range.
    """
    parts = [flat] if slices is None else [flat[where] for where in slices]
    total = sum(_sum_of_squares(part, 1.0) for part in parts)
    if not in_range(total):
        largest = max((float(np.abs(part).max()) for part in parts if part.size), default=0.0)
        if 0.0 < largest < math.inf:
            return largest * math.sqrt(sum(_sum_of_squares(part, largest) for part in parts))
    return math.sqrt(total) if total >= 0.0 else math.nan


def in_range(total: float) -> bool:
    """Whether a sum of squares has lost nothing to overflow or underflow, so that its root is the norm."""
    return not (total < SMALLEST_SQUARE or math.isinf(total))


def _sum_of_squares(part: Array, scale: float) -> float:
    total = 0.0
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for start in range(0, part.size, BLOCK):
            block = part[start : start + BLOCK]
            if block.dtype != np.float64:
                block = block.astype(np.float64)
            if scale != 1.0:
                block = block / scale
            total += float(np.add.reduce(block * block))
    return total


def all_finite(*arrays: Array) -> bool:
    """Whether every element of every array is finite."""
    return all(bool(np.isfinite(array).all()) for array in arrays)
