"""The functions that rules are made of: the same bits in NumPy and compiled, and the right ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from service.optim.kernels import Form, compiled, run_compiled, run_numpy
from service.optim.rule import Rule, cube_root, sign
from service.optim.tensors import DTYPES, Array
from tests.optim.table import bits

DTYPE = pytest.mark.parametrize("dtype", DTYPES)


class Numbers(NamedTuple):
    """The literals of the rules below."""

    one: float
    zero: float


def rooted(p: Any, g: Any, c: Numbers) -> Any:
    """The cube root, as a rule."""
    return (cube_root(g, c.zero),)


def signed(p: Any, g: Any, c: Numbers) -> Any:
    """The sign, as a rule."""
    return (sign(g, c.one, c.zero),)


def both(function: Any, x: Array) -> Array:
    """The function of x in NumPy, after the compiled form has given the same bits."""
    rule, numbers = Rule(function), Numbers(1.0, 0.0)
    (plain,) = run_numpy(rule, x, x, (), numbers)
    (fused,) = run_compiled(compiled(rule, Form(x.dtype.char, False), Numbers), x, x, (), numbers)
    assert plain.dtype == fused.dtype == x.dtype
    assert bits(plain) == bits(fused)
    return plain


@DTYPE
def test_the_cube_root_is_right_to_the_last_bits(dtype: str) -> None:
    kind = np.finfo(DTYPES[dtype])
    low, high = (0.999 * np.log(float(end)) for end in (kind.smallest_normal, kind.max))
    x = np.exp(np.linspace(low, high, 20_001)).astype(DTYPES[dtype])
    assert np.abs(both(rooted, x) / np.cbrt(x) - 1.0).max() <= 4.0 * kind.eps


@DTYPE
def test_the_cube_root_of_what_is_hardly_there(dtype: str) -> None:
    kind = np.finfo(DTYPES[dtype])
    x = np.array([0.0, kind.smallest_subnormal, 3 * kind.smallest_subnormal, 1.0, 8.0, 27.0], DTYPES[dtype])
    assert both(rooted, x).tolist() == pytest.approx(np.cbrt(x.astype(float)).tolist(), rel=4.0 * float(kind.eps))


@DTYPE
def test_the_sign_of_a_zero_is_that_zero(dtype: str) -> None:
    x = np.array([3.0, -2.0, 0.0, -0.0, np.inf, -np.inf, 1e-44, np.nan], DTYPES[dtype])
    assert bits(both(signed, x)) == bits(np.array([1.0, -1.0, 0.0, -0.0, 1.0, -1.0, 1.0, np.nan], DTYPES[dtype]))
