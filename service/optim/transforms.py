"""Transforms: what is done around the rule, in the order of the list.

A transform of the stage "gradient" is a pure function `apply(g, p, at, values, *slots)` of the flat gradient and
parameters, both of shape (size,), run before the rule sees the gradient; it gives the new gradient, or, where it keeps
state, the new gradient and the new slots. One of the stage "parameters" runs after the rule, and its `g` is what the
rule made of the parameters `p`. `TRANSFORMS` is the table that the catalogue, the schema and the tests read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from service.errors import Invalid, NonFinite, unknown
from service.optim.hyperparameters import REQUIRED, Hyperparameter, fill
from service.optim.rule import Initial, Shape
from service.optim.schedules.catalogue import parse
from service.optim.schedules.form import Schedule
from service.optim.tensors import Array, Layout, norm

Values = Mapping[str, Any]


class At(NamedTuple):
    """Where a transform is applied: to the tensors of a layout that have a gradient, after n updates."""

    layout: Layout
    present: Sequence[int]
    n: int

    @property
    def slices(self) -> Sequence[slice]:
        """Where those tensors lie."""
        everywhere = self.layout.slices
        return everywhere if len(self.present) == len(everywhere) else [everywhere[i] for i in self.present]


@dataclass(frozen=True)
class Transform:
    """One kind of transform: its arguments and what it does.

    slots, shapes, initial  its state, declared as a rule declares its own
    holds                   it may give None for the gradient: the parameters stay, and so does the count of updates
    view                    (values, p, *slots) -> the parameters to evaluate with
    clock                   (values, *slots) -> the n at which schedules are read, where that is not the updates' count
    """

    name: str
    title: str
    equation: str
    summary: str
    arguments: tuple[Hyperparameter, ...]
    defaults: Values
    apply: Callable[..., Any]
    stage: Literal["gradient", "parameters"] = "gradient"
    slots: tuple[str, ...] = ()
    shapes: Mapping[str, Shape | Callable[[Shape], Shape]] = field(default_factory=dict)
    initial: Mapping[str, Initial] = field(default_factory=dict)
    holds: bool = False
    view: Callable[..., Any] | None = None
    clock: Callable[..., int] | None = None
    check: Callable[[Values], None] = lambda values: None


@dataclass(frozen=True)
class Applied:
    """A transform with its arguments, of which numbers may be schedules."""

    transform: Transform
    arguments: Mapping[str, Any]

    def at(self, n: int) -> Values:
        """The arguments for step n + 1."""
        return {k: v(n) if isinstance(v, Schedule) else v for k, v in self.arguments.items()}

    def __call__(self, g: Array, p: Array, at: At, slots: Sequence[Array] = ()) -> tuple[Array | None, Sequence[Array]]:
        """The transformed gradient (or parameters) and the new slots; the inputs are left as they are.

        Raises NonFinite when a norm that is to be clipped overflows.
        """
        with np.errstate(all="ignore"):
            result = self.transform.apply(g, p, at, self.at(at.n), *slots)
        if self.transform.slots:
            return result[0], result[1:]
        return result, ()

    def as_json(self) -> dict[str, Any]:
        """The resolved specification, which `parse_list` reads back."""
        arguments = {k: v.as_json() if isinstance(v, Schedule) else v for k, v in self.arguments.items()}
        return {"name": self.transform.name, **arguments}


def _scalar(value: float, like: Array) -> Any:
    return like.dtype.type(value)


def _l1(g: Array, p: Array, at: At, a: Values) -> Array:
    penalised: Array = g + _scalar(a["strength"], g) * np.sign(p)
    return penalised


def _l2(g: Array, p: Array, at: At, a: Values) -> Array:
    penalised: Array = g + _scalar(a["strength"], g) * p
    return penalised


def _elastic_net(g: Array, p: Array, at: At, a: Values) -> Array:
    penalised: Array = g + (_scalar(a["l1"], g) * np.sign(p) + _scalar(a["l2"], g) * p)
    return penalised


def _clip_by_value(g: Array, p: Array, at: At, a: Values) -> Array:
    limit = _scalar(a["limit"], g)
    return np.clip(g, -limit, limit)


def _finite_norm(g: Array, slices: Sequence[slice]) -> float:
    size = norm(g, slices)
    if math.isinf(size):
        raise NonFinite("The gradient's norm overflows; scale the gradient down.", pointer="")
    return size


def _clip_by_norm(g: Array, p: Array, at: At, a: Values) -> Array:
    out = g.copy()
    for where in at.slices:
        size = _finite_norm(g, (where,))
        if size > a["max_norm"]:
            out[where] = g[where] * _scalar(a["max_norm"] / size, g)
    return out


def _clip_by_global_norm(g: Array, p: Array, at: At, a: Values) -> Array:
    size = _finite_norm(g, at.slices)
    if a["formula"] == "torch":
        factor = min(1.0, a["max_norm"] / (size + 1e-6))
    else:
        factor = 1.0 if size <= a["max_norm"] else a["max_norm"] / size
    clipped: Array = g * _scalar(factor, g)
    return clipped


_STRENGTH = Hyperparameter("strength", "λ, the weight of the penalty.", low=0.0)
_MAX_NORM = Hyperparameter("max_norm", "The largest norm that is left as it is.", above=0.0)

TRANSFORMS: dict[str, Transform] = {
    transform.name: transform
    for transform in (
        Transform(
            "l1",
            "L1 penalty",
            r"g \leftarrow g + \lambda\, \mathrm{sign}(\theta)",
            "Adds the gradient of λ‖θ‖₁; zero where the parameter is zero.",
            (_STRENGTH,),
            {"strength": REQUIRED},
            _l1,
        ),
        Transform(
            "l2",
            "L2 penalty",
            r"g \leftarrow g + \lambda\, \theta",
            "Adds the gradient of λ/2 ‖θ‖²; for adaptive rules not the same as decoupled weight decay.",
            (_STRENGTH,),
            {"strength": REQUIRED},
            _l2,
        ),
        Transform(
            "elastic_net",
            "Elastic net",
            r"g \leftarrow g + \lambda_1\, \mathrm{sign}(\theta) + \lambda_2\, \theta",
            "Both penalties at once (Zou and Hastie 2005, doi:10.1111/j.1467-9868.2005.00503.x).",
            (
                Hyperparameter("l1", "λ₁, the weight of the L1 penalty.", low=0.0),
                Hyperparameter("l2", "λ₂, the weight of the L2 penalty.", low=0.0),
            ),
            {"l1": REQUIRED, "l2": REQUIRED},
            _elastic_net,
        ),
        Transform(
            "clip_by_value",
            "Clip by value",
            r"g_i \leftarrow \min(\max(g_i, -c), c)",
            "Each element on its own; changes the direction. torch's clip_grad_value_, optax.clip, Keras' clipvalue.",
            (Hyperparameter("limit", "The largest absolute value.", above=0.0),),
            {"limit": REQUIRED},
            _clip_by_value,
        ),
        Transform(
            "clip_by_norm",
            "Clip each tensor by norm",
            r"g \leftarrow g \min(1, c / \|g\|)",
            "Each tensor on its own, as Keras' clipnorm.",
            (_MAX_NORM,),
            {"max_norm": REQUIRED},
            _clip_by_norm,
        ),
        Transform(
            "clip_by_global_norm",
            "Clip by global norm",
            r"g \leftarrow g \min(1, c / N), \quad N = \sqrt{\sum_k \|g_k\|^2}",
            "All tensors by one factor, so that the direction stays (Pascanu et al. 2013, arXiv:1211.5063). torch adds "
            "1e-6 to the norm; optax and Keras leave a smaller gradient untouched.",
            (
                _MAX_NORM,
                Hyperparameter("formula", "Whose formula.", "choice", choices=("torch", "optax", "keras")),
            ),
            {"max_norm": REQUIRED, "formula": "torch"},
            _clip_by_global_norm,
        ),
    )
}


def parse_list(specifications: Any) -> tuple[Applied, ...]:
    """The transforms of `[{"name": ..., ...}, ...]` in order; raises Invalid with a pointer into the list."""
    if not isinstance(specifications, list):
        raise Invalid('transforms must be a list of {"name": ..., ...}.', pointer="")
    return tuple(_parse(item, f"/{i}") for i, item in enumerate(specifications))


def _parse(specification: Any, pointer: str) -> Applied:
    if not isinstance(specification, Mapping) or not isinstance(specification.get("name"), str):
        raise Invalid('A transform is {"name": ..., ...}.', pointer=pointer)
    name = specification["name"]
    if name not in TRANSFORMS:
        raise unknown("transform", name, list(TRANSFORMS), pointer=f"{pointer}/name")
    transform = TRANSFORMS[name]
    given = {key: value for key, value in specification.items() if key != "name"}
    try:
        arguments = fill(given, transform.arguments, transform.defaults, owner=f"The transform {name}", scheduled=parse)
    except Invalid as error:
        raise error.at(pointer) from None
    return Applied(transform, arguments)


def describe(transform: Transform) -> dict[str, Any]:
    """The catalogue entry of a transform."""
    return {
        "name": transform.name,
        "title": transform.title,
        "summary": transform.summary,
        "equation": transform.equation,
        "arguments": {a.name: a.schema() for a in transform.arguments},
        "defaults": {name: value for name, value in transform.defaults.items() if value is not REQUIRED},
        "required": [name for name, value in transform.defaults.items() if value is REQUIRED],
    }
