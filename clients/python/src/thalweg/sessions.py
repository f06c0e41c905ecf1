"""The calls about sessions that need no memory of one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from thalweg.pages import Page, listing
from thalweg.requests import (
    SAFETENSORS,
    Answer,
    Call,
    Record,
    Request,
    decode,
    encode,
    given,
    member,
    path,
    reading,
)
from thalweg.steps import Step, read
from thalweg.tensors import Tensors, from_json

View: TypeAlias = Literal["train", "eval"]

SAME_AGAIN = "The same call may be made again: it says what shall be, and doing it twice is doing it once."


def get(id: str) -> Call[Record]:
    """The description of a session: specification, step, shapes, times, labels. Raises NotFound, Gone."""
    return reading(path("sessions", id))


def list(
    *, labels: Mapping[str, str] | None = None, state: str | None = None, page_size: int | None = None
) -> Call[Page[Record]]:
    """The descriptions of all sessions with these `labels` and in this `state`, newest first."""
    fixed = tuple(("label", f"{key}:{value}") for key, value in (labels or {}).items())
    return listing("sessions", read=dict, fixed=fixed, query={"state": state, "limit": page_size})


def update(
    id: str,
    *,
    hyperparameters: Mapping[str, Any] | None = None,
    labels: Mapping[str, str] | None = None,
    ttl_seconds: float | None = None,
) -> Call[Record]:
    """Change hyperparameters (from the next step on), all labels, or the time to live; returns the new description.

    `ttl_seconds=math.inf` lets the session live until it is deleted. Raises Invalid for an unknown hyperparameter or
    a wrong value, NotFound, Gone.
    """
    fields = given(hyperparameters=hyperparameters, labels=labels, ttl_seconds=ttl_seconds)
    if ttl_seconds == math.inf:
        fields["ttl_seconds"] = None
    return Call(Request("PATCH", path("sessions", id), encode(fields), again=SAME_AGAIN), decode)


def delete(id: str) -> Call[None]:
    """Delete a session. Raises NotFound or Gone, unless an attempt of this very call may have deleted it."""
    return Call(Request("DELETE", path("sessions", id), again=SAME_AGAIN, gone_is_done=True), lambda _: None)


def history(id: str, *, after: int | None = None, page_size: int | None = None) -> Call[Page[Step]]:
    """The steps after number `after`, oldest first, with norms and losses and without parameters."""
    query = {"after": after, "limit": page_size}
    return listing("sessions", id, "steps", read=read, query=query, mark="after", mark_of=lambda step: step.step)


def step_at(id: str, n: int) -> Call[Step]:
    """Step `n` as it was, with the parameters after it. Raises NotFound for a step that was not taken."""
    request = Request("GET", path("sessions", id, "steps", str(n)))

    def parse(answer: Answer) -> Step:
        document = decode(answer)
        return read(document, document.get("dtype"))

    return Call(request, parse)


def params(id: str, step: int | None = None, view: View | None = None) -> Call[Tensors]:
    """The parameters after `step`, or the newest ones. `view="eval"` gives those to use the model with, where they are
    others than those to take gradients at: averages, schedule-free rules. Raises NotFound, Gone."""
    request = Request("GET", path("sessions", id, "params", query=[("step", step), ("view", view)]))

    def parse(answer: Answer) -> Tensors:
        document = decode(answer)
        return from_json(member(document, "params"), document.get("dtype"))

    return Call(request, parse)


def checkpoint(id: str, step: int | None = None) -> Request:
    """The checkpoint after `step`, or the newest: a file, which `load` takes."""
    return Request("GET", path("sessions", id, "state", query=[("step", step)]), accept=SAFETENSORS)
