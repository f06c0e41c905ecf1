"""What the service knows: optimizers, schedules, transforms, and benchmark functions, which it also evaluates."""

from __future__ import annotations

from dataclasses import dataclass, field

from numpy.typing import ArrayLike

from thalweg.pages import Page, listing
from thalweg.requests import Answer, Call, Record, Request, decode, encode, member, others, path, reading
from thalweg.tensors import Array, check, read_array


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """A function at m points of n dimensions: `values` (m,), `gradients` (m, n), `hessians` (m, n, n).

    What was not asked for is None.
    """

    values: Array
    gradients: Array | None = None
    hessians: Array | None = None
    extra: Record = field(default_factory=dict)


def optimizers() -> Call[Page[Record]]:
    """The optimizers, each with its name, title, kind, dialects and a line about it."""
    return listing("optimizers", read=dict)


def optimizer(name: str) -> Call[Record]:
    """One optimizer: equation, source, hyperparameters and the differences of each dialect. Raises NotFound."""
    return reading(path("optimizers", name))


def schedules() -> Call[Page[Record]]:
    """The schedules that a numeric hyperparameter may follow."""
    return listing("schedules", read=dict)


def schedule(name: str) -> Call[Record]:
    """One schedule and its arguments. Raises NotFound."""
    return reading(path("schedules", name))


def transforms() -> Call[Page[Record]]:
    """The transforms of gradients and updates, such as clipping."""
    return listing("transforms", read=dict)


def transform(name: str) -> Call[Record]:
    """One transform and its arguments. Raises NotFound."""
    return reading(path("transforms", name))


def functions() -> Call[Page[Record]]:
    """The benchmark functions, each with its name, title, dimensions and tags."""
    return listing("functions", read=dict)


def function(name: str) -> Call[Record]:
    """One benchmark function: formula, domain, minima, start, smoothness, source. Raises NotFound."""
    return reading(path("functions", name))


def evaluate(function: str, points: ArrayLike, *, gradient: bool = False, hessian: bool = False) -> Call[Evaluation]:
    """The values of `function` at `points` (m, n), with gradients (m, n) and Hessians (m, n, n) where asked for.

    Raises NotFound for the function, Invalid for points of another dimension, InvalidInput for NaN.
    """
    body = encode({"gradient": gradient, "hessian": hessian}, {"points": check(points, "/points")})
    return Call(Request("POST", path("functions", function, "evaluate"), body), _evaluation)


def _evaluation(answer: Answer) -> Evaluation:
    document = decode(answer)
    gradients, hessians = document.get("gradients"), document.get("hessians")
    return Evaluation(
        values=read_array(member(document, "values")),
        gradients=None if gradients is None else read_array(gradients),
        hessians=None if hessians is None else read_array(hessians),
        extra=others(document, Evaluation),
    )
