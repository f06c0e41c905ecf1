"""The calls that make sessions: from parameters, or from a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from thalweg import files
from thalweg import progress as showing
from thalweg.errors import InvalidInput
from thalweg.forms import BINARY_FROM, Form, in_bytes
from thalweg.requests import (
    JSON,
    SAFETENSORS,
    Body,
    Call,
    Progress,
    Record,
    Request,
    asked,
    encode,
    encode_file,
    given,
    named,
    path,
)
from thalweg.state import SessionState, new_id, opened
from thalweg.tensors import Checked, TensorsLike, check, shapes

NonFinitePolicy: TypeAlias = Literal["reject", "skip", "zero"]


def create(
    optimizer: str | Mapping[str, Any],
    params: TensorsLike,
    *,
    id: str | None = None,
    dtype: str | None = None,
    transforms: Sequence[str | Mapping[str, Any]] | None = None,
    groups: Sequence[Mapping[str, Any]] | None = None,
    non_finite: NonFinitePolicy | None = None,
    durability: str | None = None,
    ttl_seconds: float | None = None,
    labels: Mapping[str, str] | None = None,
    aggregate: Mapping[str, Any] | None = None,
    worker: str | None = None,
    form: Form | None = None,
    progress: Progress | bool | None = None,
) -> Call[SessionState]:
    """A new session that minimizes with `optimizer` from `params`.

    `optimizer` is a name, or a specification: `{"name": "adam", "learning_rate": 0.01}`, or in a library's own words
    `{"like": "torch.optim.Adam", "lr": 0.01}`. `params` is an array (a list, a number) or a mapping from name to
    arrays; its order is the layout. `dtype` is "float64" unless said otherwise. `groups` overrides hyperparameters
    by name pattern: `[{"match": "*.bias", "weight_decay": 0}]`. `non_finite` says what becomes of NaN in gradients.
    `aggregate` lets several workers share the session: `{"workers": 2, "mode": "mean", "timeout_seconds": 60}`; each
    makes it with the same `id` and a `worker` name of its own.

    `form` is how arrays travel, now and in the session's steps: as "json", as "bytes", or by default as bytes where
    there are many numbers. `progress` is told of the bytes as they go: a function of (sent, total), or True for a line
    on standard error; it begins anew when the request is sent again.

    Without `id` a random one is chosen here, so that a retry finds the session that a lost answer spoke of. With the
    `id` of a session that was created with the same arguments, that session is opened where it stands.

    Raises InvalidInput for NaN in `params`, Invalid for what the service refuses and for the `id` of another session,
    Gone for the `id` of a deleted one.
    """
    if isinstance(transforms, str | Mapping):
        raise InvalidInput("`transforms` is a list, in the order in which they are applied.")
    id = new_id() if id is None else id
    start = check(params, "/params")
    fields = given(
        optimizer=named(optimizer),
        dtype=dtype,
        transforms=None if transforms is None else [named(transform) for transform in transforms],
        groups=groups,
        non_finite=non_finite,
        durability=durability,
        id=id,
        ttl_seconds=ttl_seconds,
        labels=labels,
        aggregate=aggregate,
    )
    body = _creation(fields, start, form)
    request = Request(
        "POST",
        path("sessions"),
        body,
        accept=body.media_type,
        again=f"The session may exist: the same call with id={id!r} makes it or finds it.",
        progress=showing.chosen(progress),
        expects=0 if body.media_type == JSON else body.length,
    )
    return Call(request, lambda answer: opened(answer, form, worker, shapes(start), non_finite))


def _creation(fields: Record, start: Checked, form: Form | None) -> Body:
    """The body of a create: bytes where that is faster and can say the same."""
    if isinstance(start, dict):
        # a file of one tensor called params would be an array without a name
        plain = set(start) in (set(), {"params"}) or any(array is None for array in start.values())
    else:
        plain = False
    if plain or not in_bytes(form, shapes(start)):
        return encode(fields, {"params": start})
    return encode_file({"dtype": "float64", **fields}, "params", start)


def load(
    file: str | os.PathLike[str],
    *,
    id: str | None = None,
    durability: str | None = None,
    ttl_seconds: float | None = None,
    labels: Mapping[str, str] | None = None,
    worker: str | None = None,
    form: Form | None = None,
    progress: Progress | bool | None = None,
) -> Call[SessionState]:
    """A new session that goes on, bit for bit, from a checkpoint: the `file` that `session.save` wrote.

    What is not said here is as it was in the session of the checkpoint. `progress` is as for `create`. Raises
    InvalidInput where there is no such file, Invalid for one that is damaged or comes from another version.
    """
    id = new_id() if id is None else id
    fields = given(id=id, durability=durability, ttl_seconds=ttl_seconds, labels=labels)
    body = files.body(file)
    request = Request(
        "POST",
        path("sessions", query=asked(fields)),
        body,
        accept=SAFETENSORS if form != "json" and body.length > 8 * BINARY_FROM else JSON,
        again=f"The session may exist: the same call with id={id!r} makes it or finds it.",
        progress=showing.chosen(progress),
        expects=0 if form == "json" else body.length,
    )
    return Call(request, lambda answer: opened(answer, form, worker))
