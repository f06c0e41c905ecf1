"""Whole trajectories on a benchmark function: as arrays, as a picture, as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Required, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg.errors import InvalidInput, UnexpectedAnswer, excerpt
from thalweg.requests import Answer, Call, Record, Request, decode, encode, given, member, named, others, path
from thalweg.tensors import Array, check, read_array

PICTURES = {"svg": "image/svg+xml", "png": "image/png"}
CSV = "text/csv"


@dataclass(frozen=True, slots=True, eq=False)
class Best:
    """The lowest value on the way, where it was found, and after how many steps: `params` (n,)."""

    step: int
    value: float
    params: Array


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One optimizer's way. With k recorded steps in n dimensions: `params` (k, n), `values` (k,), `gradient_norms`
    (k,), `recorded_steps` (k,). `params[0]` is the start. A run that diverged ends at its last finite point."""

    label: str
    status: str
    optimizer: Record
    params: Array
    values: Array
    gradient_norms: Array | None = None
    recorded_steps: NDArray[np.int64] | None = None
    steps: int | None = None
    best: Best | None = None
    diverged_at: int | None = None
    extra: Record = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Trajectories:
    """The runs of one request, in the order of its optimizers, and the function that they were made on."""

    function: Record
    runs: tuple[Run, ...]
    extra: Record = field(default_factory=dict)


class RunSettings(TypedDict, total=False):
    """The keywords of `run`, which a picture and a CSV take as well."""

    optimizers: Required[Sequence[str | Mapping[str, Any]]]
    steps: int | None
    gradient: str | Mapping[str, Any] | None
    record_every: int | None
    stop: Mapping[str, Any] | None


def run(
    function: str,
    start: ArrayLike | None = None,
    *,
    optimizers: Sequence[str | Mapping[str, Any]],
    steps: int | None = None,
    gradient: str | Mapping[str, Any] | None = None,
    record_every: int | None = None,
    stop: Mapping[str, Any] | None = None,
) -> Call[Trajectories]:
    """Run several optimizers on `function` from `start` (n,), or from the function's own start.

    `optimizers` holds names or specifications: `["sgd", {"name": "adam", "learning_rate": 0.02}]`.
    `gradient` is "analytic", or a mapping such as `{"kind": "central_difference", "h": 1e-7}`.
    `stop` ends a run early: `{"gradient_norm": 1e-8}`. What is left out is the service's default.

    A divergence is a result (`status`, `diverged_at`), not an error. Raises NotFound and Invalid.
    """
    if isinstance(optimizers, str | Mapping):
        raise InvalidInput("`optimizers` is a list: one entry for each run.")
    fields = given(
        function=function,
        optimizers=[named(optimizer) for optimizer in optimizers],
        steps=steps,
        gradient=gradient,
        record_every=record_every,
        stop=stop,
    )
    tensors = {} if start is None else {"start": check(start, "/start")}
    return Call(Request("POST", path("sandbox", "runs"), encode(fields, tensors)), _trajectories)


def picture(
    function: str,
    start: ArrayLike | None = None,
    *,
    format: Literal["svg", "png"] = "svg",
    view: Literal["path", "values", "both", "surface"] | None = None,
    **settings: Unpack[RunSettings],
) -> Call[bytes]:
    """The picture of what `run` with the same arguments does: the bytes of an SVG or PNG file.

    `view`: the "path" over contours, the "values" by step, "both", or the "surface".
    """
    if format not in PICTURES:
        raise InvalidInput(f"A picture is {' or '.join(PICTURES)}; found {format!r}.")
    accept = PICTURES[format]
    asked = run(function, start, **settings).request

    def parse(answer: Answer) -> bytes:
        _expect(answer, accept)
        return bytes(answer.content)

    return Call(asked._replace(path=path("sandbox", "runs", query=[("view", view)]), accept=accept), parse)


def csv(function: str, start: ArrayLike | None = None, **settings: Unpack[RunSettings]) -> Call[str]:
    """The rows of what `run` with the same arguments does, as CSV with a header line."""

    def parse(answer: Answer) -> str:
        _expect(answer, CSV)
        return bytes(answer.content).decode("utf-8")

    return Call(run(function, start, **settings).request._replace(accept=CSV), parse)


def _trajectories(answer: Answer) -> Trajectories:
    document = decode(answer)
    return Trajectories(
        function=member(document, "function"),
        runs=tuple(_run(item) for item in member(document, "runs")),
        extra=others(document, Trajectories),
    )


def _run(item: Record) -> Run:
    norms, recorded, best = (item.get(name) for name in ("gradient_norms", "recorded_steps", "best"))
    return Run(
        label=member(item, "label"),
        status=member(item, "status"),
        optimizer=member(item, "optimizer"),
        params=read_array(member(item, "params")),
        values=read_array(member(item, "values")),
        gradient_norms=None if norms is None else read_array(norms),
        recorded_steps=None if recorded is None else np.array(recorded, dtype=np.int64),
        steps=item.get("steps"),
        best=None if best is None else _best(best),
        diverged_at=item.get("diverged_at"),
        extra=others(item, Run),
    )


def _best(item: Record) -> Best:
    return Best(member(item, "step"), member(item, "value"), read_array(member(item, "params")))


def _expect(answer: Answer, media_type: str) -> None:
    found = answer.headers.get("content-type", "nothing")
    if not found.startswith(media_type):
        raise UnexpectedAnswer(
            f"{media_type} was asked for and {found} came, beginning: {excerpt(bytes(answer.content))}"
        )
