"""How a rule runs over an array: as it stands in NumPy, or compiled by numba into one fused loop.

Both run the same function objects and give the same bits. The compiled loop takes about 0.2 s to make and is several
times faster on large arrays, so that arrays below `THRESHOLD` elements always take NumPy, and a larger one takes NumPy
until a background thread has the loop ready: compile time never lands on a step. Without numba everything works.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import threading
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from service.optim.rule import Rule, divide, where
from service.optim.tensors import Array

THRESHOLD = 8_192  # elements; below it the loop saves Adam less than 20 microseconds a step

AVAILABLE = importlib.util.find_spec("numba") is not None


class Decay(NamedTuple):
    """Scalars of `decay`: p ← keep · p, g ← sign · g + coupled · p."""

    keep: float
    sign: float
    coupled: float


def decay(p: Any, g: Any, c: Decay) -> Any:
    """What weight decay and `maximize` do before the rule, of one element or of arrays."""
    return c.keep * p, c.sign * g + c.coupled * p


def update(
    rule: Rule, p: Array, g: Array, slots: tuple[Array, ...], c: Any, before: Decay | None = None
) -> tuple[Array, ...]:
    """The new parameters and slots, in new arrays of the inputs' shape (n,) and dtype.

    `c` and `before` are scalars in double precision; they are cast to the arrays' dtype here. Overflow gives
    infinities, without a warning.
    """
    if AVAILABLE and p.size >= THRESHOLD:
        loop = _ready.get((rule.update, p.dtype.char, before is not None))
        if loop is not None:
            return run_compiled(loop, p, g, slots, c, before)
        _compile_in_background(rule, p.dtype, before is not None, type(c))
    return run_numpy(rule, p, g, slots, c, before)


@np.errstate(all="ignore")
def run_numpy(
    rule: Rule, p: Array, g: Array, slots: tuple[Array, ...], c: Any, before: Decay | None = None
) -> tuple[Array, ...]:
    """The rule on whole arrays."""
    c = cast(c, p.dtype)
    if before is not None:
        p, g = decay(p, g, cast(before, p.dtype))
    result: tuple[Array, ...] = rule.update(p, g, *slots, c)
    return result


@np.errstate(all="ignore")
def update_whole(
    rule: Rule,
    p: Array,
    g: Array,
    slots: tuple[Array, ...],
    c: Any,
    before: Decay | None = None,
    step: Callable[..., Array] | None = None,
) -> tuple[Any, ...]:
    """A rule that is not elementwise, on one tensor or on everything; scalars stay Python floats.

    Such a rule is given what it must not write to; `step` is the optimizer that it wraps.
    """
    if before is not None:
        p, g = decay(p, g, before)
    result: tuple[Any, ...] = rule.update(p, g, *slots, c) if step is None else rule.update(p, g, step, *slots, c)
    return result


@np.errstate(all="ignore")
def run_compiled(
    loop: Any, p: Array, g: Array, slots: tuple[Array, ...], c: Any, before: Decay | None = None
) -> tuple[Array, ...]:
    """The rule as a fused loop made by `compiled`."""
    scalars = cast(c, p.dtype) if before is None else (cast(before, p.dtype), cast(c, p.dtype))
    out = tuple(np.empty(p.size, p.dtype) for _ in range(1 + len(slots)))
    loop(*map(np.ascontiguousarray, (p, g, *slots)), scalars, *out)
    return out


def cast(c: Any, dtype: np.dtype[Any]) -> Any:
    """The scalars in the arrays' type; doubles are in it already."""
    if dtype.char == "d":
        return c
    return c._make(np.array(c, dtype))


_ready: dict[tuple[Callable[..., Any], str, bool], Any] = {}
_underway: set[tuple[Callable[..., Any], str, bool]] = set()
_lock = threading.Lock()


def compiled(rule: Rule, dtype: np.dtype[Any], decaying: bool, scalars: Any) -> Any:
    """The fused loop of a rule for one dtype, made now if it is not there yet; needs numba."""
    key = (rule.update, dtype.char, decaying)
    with _lock:
        if key not in _ready:
            _ready[key] = _compile(rule, dtype, decaying, scalars)
    return _ready[key]


def _compile_in_background(rule: Rule, dtype: np.dtype[Any], decaying: bool, scalars: Any) -> None:
    """Start making the loop, once; a rule that cannot be compiled goes on in NumPy."""

    def make() -> None:
        try:
            compiled(rule, dtype, decaying, scalars)
        except Exception:
            logging.getLogger(__name__).exception("cannot compile %s; it runs in NumPy", rule.update.__name__)

    key = (rule.update, dtype.char, decaying)
    if key not in _underway:
        _underway.add(key)
        threading.Thread(target=make, daemon=True, name="compile").start()


def _compile(rule: Rule, dtype: np.dtype[Any], decaying: bool, scalars: Any) -> Any:
    """One loop over elements that calls the rule; numba inlines it.

    The division checks are off (`error_model="numpy"`), which lets LLVM vectorise; fastmath and contraction would
    change bits and stay off. The types are fixed, so that no step ever meets a compile: inputs may be read-only views
    at any byte of a request's body, and that costs nothing.
    """
    import numba
    from numba import njit

    _register(rule.update)
    slots = [f"s{i}" for i in range(len(rule.slots))]
    outs = ["p_out", *(f"{slot}_out" for slot in slots)]
    targets = ", ".join(f"{out}[i]" for out in outs) + ","
    state = "".join(f"{slot}[i], " for slot in slots)
    body = f"{targets} = rule(p[i], g[i], {state}c)"
    if decaying:
        body = f"p_, g_ = before(p[i], g[i], c[0])\n        {targets} = rule(p_, g_, {state}c[1])"
    source = f"def loop({', '.join(['p', 'g', *slots, 'c', *outs])}):\n    for i in range(p.size):\n        {body}\n"

    types: Any = numba.types
    element = numba.from_dtype(dtype)
    read = types.Array(element, 1, "C", readonly=True, aligned=False)
    written = types.Array(element, 1, "C")
    c, before = (types.NamedUniTuple(element, len(t._fields), t) for t in (scalars, Decay))
    scalar_types = types.Tuple((before, c)) if decaying else c
    signature = (read, read, *(read for _ in slots), scalar_types, *(written for _ in outs))

    options: Any = {"error_model": "numpy", "nogil": True}
    namespace: dict[str, Any] = {"rule": njit(**options)(rule.update), "before": njit(**options)(decay)}
    exec(source, namespace)
    return njit(signature, **options)(namespace["loop"])


_COMPILED_FORMS: dict[Callable[..., Any], Callable[..., Any]] = {
    where: lambda condition, x, y: lambda condition, x, y: x if condition else y,
    divide: lambda x, y, zero: lambda x, y, zero: x / y if y != zero else zero,
}
_registered: set[Callable[..., Any]] = set()


def _register(function: Callable[..., Any]) -> None:
    """Teach numba the plain functions that a rule calls by name, as they stand or in their compiled forms."""
    from numba.extending import overload, register_jitable

    assert isinstance(function, FunctionType)
    for name in function.__code__.co_names:
        part = function.__globals__.get(name)
        if not isinstance(part, FunctionType) or part in _registered:
            continue
        _registered.add(part)
        if part in _COMPILED_FORMS:
            overload(part)(_COMPILED_FORMS[part])
        else:
            _register(part)
            register_jitable(part)


@cache
def in_floats(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """A rule's own code on Python numbers, one coordinate at a time; None where it calls what has no such form.

    A rule is `+ - * /`, comparisons and a few functions by name. With those names bound to their forms for one
    number, the same code gives the same bits as it does on arrays, for both compute in IEEE doubles; where NumPy would
    answer infinity or NaN with a warning, Python may raise ArithmeticError or ValueError.
    """
    if not isinstance(function, FunctionType):
        return None
    scope: dict[str, Any] = {}
    for name in function.__code__.co_names:  # attributes too, which go by no name of the module
        part = function.__globals__.get(name)
        if part is None:
            continue
        scope[name] = _FLOAT_FORMS.get(part) or in_floats(part)
        if scope[name] is None:
            return None
    return FunctionType(function.__code__, scope, function.__name__, function.__defaults__)


_FLOAT_FORMS: dict[Callable[..., Any], Callable[..., Any]] = {
    np.abs: abs,
    np.maximum: lambda x, y: x if x > y or x != x else y,
    np.minimum: lambda x, y: x if x < y or x != x else y,
    np.sign: lambda x: 1.0 if x > 0.0 else -1.0 if x < 0.0 else 0.0 if x == 0.0 else x,
    np.sqrt: math.sqrt,
    divide: lambda x, y, zero: x / y if y != 0.0 else zero,
    where: lambda condition, x, y: x if condition else y,
}
