"""How a rule runs over an array: as it stands in NumPy, or compiled by numba into one fused loop.

Both run the same function objects and give the same bits. The compiled loop takes about 0.2 s to make and is several
times faster on large arrays, so that arrays below `THRESHOLD` elements always take NumPy, and a larger one takes NumPy
until a background thread has the loop ready: compile time never lands on a step. Without numba everything works.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np

from service.optim.rule import Rule, where
from service.optim.tensors import Array

THRESHOLD = 8_192  # elements; below it the loop saves less than 20 microseconds a step

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


def run_numpy(
    rule: Rule, p: Array, g: Array, slots: tuple[Array, ...], c: Any, before: Decay | None = None
) -> tuple[Array, ...]:
    """The rule on whole arrays."""
    with np.errstate(all="ignore"):
        c = cast(c, p.dtype)
        if before is not None:
            p, g = decay(p, g, cast(before, p.dtype))
        result: tuple[Array, ...] = rule.update(p, g, *slots, c)
    return result


def run_compiled(
    loop: Any, p: Array, g: Array, slots: tuple[Array, ...], c: Any, before: Decay | None = None
) -> tuple[Array, ...]:
    """The rule as a fused loop made by `compiled`."""
    with np.errstate(all="ignore"):
        scalars = cast(c, p.dtype) if before is None else (cast(before, p.dtype), cast(c, p.dtype))
    out = tuple(np.empty_like(p) for _ in range(1 + len(slots)))
    loop(p, g, *slots, scalars, *out)
    return out


def cast(c: Any, dtype: np.dtype[Any]) -> Any:
    """The scalars in the arrays' type; doubles are in it already."""
    if dtype == np.float64:
        return c
    return type(c)(*(dtype.type(value) for value in c))


_ready: dict[tuple[Callable[..., Any], str, bool], Any] = {}
_underway: set[tuple[Callable[..., Any], str, bool]] = set()
_lock = threading.Lock()


def compiled(rule: Rule, dtype: np.dtype[Any], decaying: bool, scalars: type) -> Any:
    """The fused loop of a rule for one dtype, made now if it is not there yet; needs numba."""
    key = (rule.update, dtype.char, decaying)
    with _lock:
        loop = _ready.get(key)
        if loop is None:
            loop = _compile(rule, decaying)
            one = np.ones(1, dtype)
            c = cast(scalars(*(1.0 for _ in scalars._fields)), dtype)  # type: ignore[attr-defined]
            arguments = (cast(Decay(1.0, 1.0, 0.0), dtype), c) if decaying else c
            slots = len(rule.slots)
            loop(one, one, *(one for _ in range(slots)), arguments, *(one.copy() for _ in range(slots + 1)))
            _ready[key] = loop
    return loop


def _compile_in_background(rule: Rule, dtype: np.dtype[Any], decaying: bool, scalars: type) -> None:
    key = (rule.update, dtype.char, decaying)
    if key in _underway:
        return
    _underway.add(key)
    threading.Thread(target=compiled, args=(rule, dtype, decaying, scalars), daemon=True, name="compile").start()


def _compile(rule: Rule, decaying: bool) -> Any:
    """One loop over elements that calls the rule; numba inlines it.

    The division checks are off (`error_model="numpy"`), which lets LLVM vectorise; fastmath and contraction would
    change bits and stay off.
    """
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
    options = {"error_model": "numpy", "nogil": True}
    namespace: dict[str, Any] = {"rule": njit(**options)(rule.update), "before": njit(**options)(decay)}
    exec(source, namespace)
    return njit(**options)(namespace["loop"])


_registered: set[Callable[..., Any]] = set()


def _register(function: Callable[..., Any]) -> None:
    """Teach numba the plain functions that a rule calls by name: `where` as a select, the others as they stand."""
    from numba.extending import overload, register_jitable

    assert isinstance(function, FunctionType)
    for name in function.__code__.co_names:
        part = function.__globals__.get(name)
        if not isinstance(part, FunctionType) or part in _registered:
            continue
        _registered.add(part)
        if part is where:
            overload(where)(lambda condition, x, y: _select)
        else:
            _register(part)
            register_jitable(part)


def _select(condition: Any, x: Any, y: Any) -> Any:
    return x if condition else y
