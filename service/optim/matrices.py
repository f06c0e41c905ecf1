"""Products, eigenvectors and orthogonal factors of small matrices, in a fixed order of operations.

BLAS and LAPACK sum in an order that depends on the processor and on the number of threads, and the same history must
give the same bits everywhere. So these are made of elementwise operations and of sums along an axis, which NumPy does
in a fixed order; products of some size run in a compiled loop of the same order, where numba is there and has it ready.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.optim import loops

Matrix = NDArray[Any]

COMPILED = 1 << 15  # multiplications, from which on the compiled loop is worth its call
BLOCK = 1 << 14  # elements of a product that are summed at a time: three such pieces fit the second-level cache
NOTHING = 1e-90  # times the largest element: no part of an eigenvector is lost with it
SWEEPS = 60  # of rotations, at most; some ten are needed


def product(a: Matrix, b: Matrix) -> Matrix:
    """a b, for shapes (m, k) and (k, n), of the inputs' dtype; each element is summed along k in order."""
    out = np.zeros((a.shape[0], b.shape[1]), a.dtype)
    b = np.ascontiguousarray(b)
    if out.size * a.shape[1] >= COMPILED and (loop := _loop(a.dtype)) is not None:
        loop(np.ascontiguousarray(a), b, out)
        return out
    rows = max(1, BLOCK // max(1, b.shape[1]))
    for start in range(0, a.shape[0], rows):
        part, left = out[start : start + rows], a[start : start + rows]
        term = np.empty_like(part)
        for k in range(a.shape[1]):
            np.multiply(left[:, k, None], b[k], out=term)
            np.add(part, term, out=part)
    return out


_PRODUCT = """def loop(a, b, out):
    whole = a.shape[1] // 4 * 4
    for i in range(a.shape[0]):
        for k in range(0, whole, 4):
            x, y, z, w = a[i, k], a[i, k + 1], a[i, k + 2], a[i, k + 3]
            for j in range(out.shape[1]):
                out[i, j] = out[i, j] + x * b[k, j] + y * b[k + 1, j] + z * b[k + 2, j] + w * b[k + 3, j]
        for k in range(whole, a.shape[1]):
            x = a[i, k]
            for j in range(out.shape[1]):
                out[i, j] = out[i, j] + x * b[k, j]
"""


def _loop(dtype: np.dtype[Any]) -> Any:
    """The loop of a product, or None while there is none."""
    return loops.ready((product, dtype.char), lambda: compiled(dtype))


def compiled(dtype: np.dtype[Any]) -> Any:
    """The loop (a, b, out) of a product, made now; needs numba."""
    import numba

    read = numba.types.Array(numba.from_dtype(dtype), 2, "C", readonly=True)
    written = numba.types.Array(numba.from_dtype(dtype), 2, "C")
    return loops.compile_source(_PRODUCT, (), {}, (read, read, written))


def along(x: Matrix, axis: int, matrix: Matrix) -> Matrix:
    """The (n, n) matrix applied to every column of x that lies along the axis."""
    first = np.moveaxis(x, axis, 0)
    out = product(matrix, first.reshape(first.shape[0], -1))
    return np.moveaxis(out.reshape(first.shape), 0, axis)


def gram(x: Matrix, axis: int) -> Matrix:
    """X Xᵀ, (n, n), of the x whose rows lie along the axis and whose columns are all else."""
    rows = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    return product(rows, rows.T)


def squares(flat: Matrix, sizes: Sequence[int]) -> list[Matrix]:
    """Views of the (n, n) matrices that lie one after the other in a flat array."""
    ends = [sum(n * n for n in sizes[:k]) for k in range(len(sizes) + 1)]
    return [flat[a:b].reshape(n, n) for a, b, n in zip(ends, ends[1:], sizes, strict=False)]


def packed(matrices: Sequence[Matrix]) -> Matrix:
    """The inverse of `squares`."""
    return np.concatenate([matrix.ravel() for matrix in matrices]) if matrices else np.zeros(0)


def bfloat16(x: Matrix) -> Matrix:
    """The nearest numbers with eight bits of mantissa, ties to even, as float32."""
    narrow = np.asarray(x, np.float32)
    bits = np.ascontiguousarray(narrow).view(np.uint32).reshape(narrow.shape)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(narrow), narrow, np.asarray(rounded, np.uint32).view(np.float32))


def eigenvectors(matrix: Matrix) -> tuple[Matrix, Matrix]:
    """The eigenvalues of a symmetric (n, n) matrix, ascending, and its eigenvectors as columns, in double precision.

    Jacobi's rotations, n/2 at a time in the order of a round-robin tournament, until every element off the diagonal is
    below the rounding of its diagonal. Small eigenvalues of a positive matrix keep their digits (Demmel and Veselić
    1992). NaN stay NaN.
    """
    n = matrix.shape[0]
    a = np.array(matrix, np.float64)
    vectors = np.eye(n)  # as rows, which lie together in memory
    if n > 1 and np.isfinite(a).all():
        rounds = _tournament(n)
        floor = NOTHING * float(np.abs(a).max())
        for _ in range(SWEEPS):
            turned = [_rotate(a, vectors, p, q, floor) for p, q in rounds]
            if not any(turned):
                break
            a[np.abs(a) < floor] = 0.0  # what is left of them is soon too small to be fast
            vectors[np.abs(vectors) < NOTHING] = 0.0
    values = np.diagonal(a).copy()
    order = np.argsort(values, kind="stable")
    return values[order], vectors[order].T


def _tournament(n: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """The pairs of each round, so that every two of n meet once; with an odd n one sits out."""
    players = list(range(n + n % 2))
    half = len(players) // 2
    rounds = []
    for _ in range(len(players) - 1):
        pairs = [(min(x, y), max(x, y)) for x, y in zip(players[:half], reversed(players[half:]), strict=True)]
        there = [pair for pair in pairs if pair[1] < n]
        rounds.append((np.array([x for x, _ in there]), np.array([y for _, y in there])))
        players = [players[0], players[-1], *players[1:-1]]
    return rounds


def _rotate(a: Matrix, vectors: Matrix, p: NDArray[np.intp], q: NDArray[np.intp], floor: float) -> bool:
    """Make a[p, q] zero, in place, where it is not below the floor; whether there was anything to do."""
    app, aqq, apq = a[p, p], a[q, q], a[p, q]
    small = np.abs(apq) <= np.finfo(np.float64).eps * 0.5 * np.sqrt(np.abs(app)) * np.sqrt(np.abs(aqq))
    small |= np.abs(apq) <= floor
    if small.all():
        return False
    with np.errstate(all="ignore"):
        tau = (aqq - app) / (2.0 * apq)
        tangent = np.where(tau < 0.0, -1.0, 1.0) / (np.abs(tau) + np.sqrt(1.0 + tau * tau))
    tangent[small] = 0.0
    cosine = 1.0 / np.sqrt(1.0 + tangent * tangent)
    sine = tangent * cosine
    cosine, sine = cosine[:, None], sine[:, None]
    turned = a
    for _ in range(2):  # the rows, and then the columns as rows
        turned = np.ascontiguousarray(turned.T)
        _turn(turned, p, q, cosine, sine)
    a[...] = turned
    _turn(vectors, p, q, cosine, sine)
    a[p, q] = a[q, p] = np.where(small, a[p, q], 0.0)
    return True


def _turn(rows: Matrix, p: NDArray[np.intp], q: NDArray[np.intp], cosine: Matrix, sine: Matrix) -> None:
    """Rotate the rows p and q of each pair, in place."""
    one, other = rows[p], rows[q]
    rows[p], rows[q] = cosine * one - sine * other, sine * one + cosine * other


def orthogonal(matrix: Matrix) -> Matrix:
    """The factor Q of a square matrix, (n, n) and double, by Householder's reflections (R's diagonal has any sign)."""
    r, q = np.array(matrix, np.float64), np.eye(matrix.shape[0])
    for k in range(len(r) - 1):
        v = r[k:, k].copy()
        largest = np.abs(v).max()
        if largest == 0.0 or not np.isfinite(largest) or not v[1:].any():
            continue
        v = v / largest
        length = np.sqrt(np.add.reduce(v * v))
        v[0] += length if v[0] >= 0.0 else -length
        scale = 2.0 / np.add.reduce(v * v)
        r[k:, k:] -= scale * v[:, None] * np.add.reduce(v[:, None] * r[k:, k:], axis=0)
        q[:, k:] -= scale * np.add.reduce(q[:, k:] * v, axis=1)[:, None] * v
    return q
