"""A step: what is known of it after it was taken, and how that is read from an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from thalweg.requests import Record, member, others
from thalweg.tensors import Shapes, Tensors, from_json

Returning: TypeAlias = Literal["params", "updates", "none"]


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One step of a session.

    step            its number; the first is 1
    params          the parameters after it, in the shape of the session's; None where they were not asked for
    updates         what was added to the parameters, where that was asked for
    learning_rate   the one that was in force
    gradient_norm   Euclidean norm over all gradients
    update_norm     Euclidean norm over all updates
    loss            what the client reported, in histories
    time            when it was taken (RFC 3339, UTC), in histories
    durable_step    every step up to this one survives a power failure
    replayed        true when the service had taken this very step before, and only answered again
    skipped         true when the gradient was not finite and the parameters were left as they were
    zeroed          how many numbers of the gradient were not finite and taken as zero
    extra           whatever else the service said
    """

    step: int
    params: Tensors | None = None
    updates: Tensors | None = None
    learning_rate: float | None = None
    gradient_norm: float | None = None
    update_norm: float | None = None
    loss: float | None = None
    time: str | None = None
    durable_step: int | None = None
    replayed: bool = False
    skipped: bool = False
    zeroed: int = 0
    extra: Record = field(default_factory=dict)


PLAIN = (
    "learning_rate",
    "gradient_norm",
    "update_norm",
    "loss",
    "time",
    "durable_step",
    "replayed",
    "skipped",
    "zeroed",
)


def read(document: Mapping[str, Any], dtype: str | None = None, layout: Shapes | None = None) -> Step:
    """The step that an answer or an item of a history describes."""
    params, updates = document.get("params"), document.get("updates")
    return Step(
        step=member(document, "step"),
        params=None if params is None else from_json(params, dtype, layout),
        updates=None if updates is None else from_json(updates, dtype, layout),
        extra=others(document, Step),
        **{name: document[name] for name in PLAIN if name in document},
    )
