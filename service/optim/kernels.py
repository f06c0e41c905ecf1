"""How a rule runs over an array: as it stands in NumPy, or compiled by numba into one fused loop.

Both run the same function objects and give the same bits. The compiled loop takes about 0.2 s to make and is several
times faster on large arrays, so that arrays below `THRESHOLD` elements always take NumPy, and a larger one takes NumPy
until a background thread has the loop ready: compile time never lands on a step. Without numba everything works.
Compiled loops are kept on the disk (see `loops`), so that the next process has them in a few milliseconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from service.optim import loops
from service.optim.rule import Rule, divide, where
from service.optim.tensors import Array

THRESHOLD = 8_192  # elements; below it the loop saves Adam less than 20 microseconds a step

AVAILABLE = loops.AVAILABLE


class Decay(NamedTuple):
    """Scalars of `decay`: p ← keep · p, g ← sign · g + coupled · p."""

    keep: float
    sign: float
    coupled: float


def decay(p: Any, g: Any, c: Decay) -> Any:
    """What weight decay and `maximize` do before the rule, of one element or of arrays."""
    return c.keep * p, c.sign * g + c.coupled * p


def update(
    rule: Rule,
    p: Array,
    g: Array,
    slots: tuple[Array, ...],
    c: Any,
    before: Decay | None = None,
    into: tuple[Array, ...] | None = None,
) -> tuple[Array, ...]:
    """The new parameters and slots, of the inputs' shape (n,) and dtype.

    They are new arrays, or where it helps the arrays `into`, which may be (p, *slots) themselves: large arrays that
    are written where they are read take half the time. `c` and `before` are scalars in double precision; they are
    cast to the arrays' dtype here. Overflow gives infinities, without a warning.
    """
    if AVAILABLE and p.size >= THRESHOLD:
        if into is not None and not all(array.flags.writeable for array in into):
            into = None
        form = Form(p.dtype.char, before is not None, into is not None and into[0] is p)
        loop = loops.ready((rule.update, form), lambda: _compile(rule, form, type(c)))
        if loop is not None:
            return run_compiled(loop, p, g, slots, c, before, into)
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
    loop: Any,
    p: Array,
    g: Array,
    slots: tuple[Array, ...],
    c: Any,
    before: Decay | None = None,
    into: tuple[Array, ...] | None = None,
) -> tuple[Array, ...]:
    """The rule as a fused loop made by `compiled`, for the form that `into` says."""
    scalars = cast(c, p.dtype) if before is None else (cast(before, p.dtype), cast(c, p.dtype))
    if into is not None and into[0] is p:
        loop(p, np.ascontiguousarray(g), *slots, scalars)
        return into
    out = into or tuple(np.empty(p.size, p.dtype) for _ in range(1 + len(slots)))
    loop(*map(np.ascontiguousarray, (p, g, *slots)), scalars, *out)
    return out


def cast(c: Any, dtype: np.dtype[Any]) -> Any:
    """The scalars in the arrays' type; doubles are in it already."""
    if dtype.char == "d":
        return c
    return c._make(np.array(c, dtype))


class Form(NamedTuple):
    """Which loop of a rule: for what type of elements, with weight decay before it or not, in place or not."""

    dtype: str
    decaying: bool
    in_place: bool = False


def compiled(rule: Rule, form: Form, scalars: Any) -> Any:
    """The fused loop of a rule in one form, made now if it is not there yet; needs numba."""
    return loops.made((rule.update, form), lambda: _compile(rule, form, scalars))


def _source(rule: Rule, form: Form) -> str:
    """The loop over elements, as a text: it calls `rule`, and `before` where there is weight decay."""
    slots = [f"s{i}" for i in range(len(rule.slots))]
    read = ["p", *slots]
    written = read if form.in_place else ["p_out", *(f"{slot}_out" for slot in slots)]
    targets = ", ".join(f"{out}[i]" for out in written) + ","
    state = "".join(f"{slot}[i], " for slot in slots)
    body = f"{targets} = rule(p[i], g[i], {state}c)"
    if form.decaying:
        body = f"p_, g_ = before(p[i], g[i], c[0])\n        {targets} = rule(p_, g_, {state}c[1])"
    arguments = ["p", "g", *slots, "c", *([] if form.in_place else written)]
    return f"def loop({', '.join(arguments)}):\n    for i in range(p.size):\n        {body}\n"


def _compile(rule: Rule, form: Form, scalars: Any) -> Any:
    """One loop over elements that calls the rule; numba inlines it.

    The division checks are off (`error_model="numpy"`), which lets LLVM vectorise; fastmath and contraction would
    change bits and stay off. The types are fixed, so that no step ever meets a compile: inputs may be read-only views
    at any byte of a request's body, and that costs nothing.
    """
    import numba
    from numba import njit

    _register(rule.update)
    types: Any = numba.types
    element = numba.from_dtype(np.dtype(form.dtype))
    read = types.Array(element, 1, "C", readonly=True, aligned=False)
    written = types.Array(element, 1, "C")
    c, before = (types.NamedUniTuple(element, len(t._fields), t) for t in (scalars, Decay))
    scalar_types = types.Tuple((before, c)) if form.decaying else c
    kept = [written if form.in_place else read] * len(rule.slots)
    outs = [] if form.in_place else [written] * (1 + len(rule.slots))
    signature = (written if form.in_place else read, read, *kept, scalar_types, *outs)

    called = {"rule": rule.update, "before": decay}
    namespace = {name: njit(**loops.OPTIONS)(function) for name, function in called.items()}
    return loops.compile_source(_source(rule, form), tuple(called.values()), namespace, signature)


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
