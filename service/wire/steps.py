"""A step on the wire: its gradients and its fields, in every form."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from service.errors import Invalid, nearest
from service.optim.tensors import Layout
from service.wire import raw, safetensors, trees
from service.wire.forms import JSON, SAFETENSORS
from service.wire.json import loads
from service.wire.trees import Flat

FIELDS = ("gradients", "step", "loss", "return", "worker")
TEXTS = frozenset({"return", "worker"})  # fields that are texts, and stand without quotation marks in a query string
_KNOWN = frozenset(FIELDS)
RETURNS = ("params", "updates", "none")
POINTER = "/gradients"


class StepRequest(NamedTuple):
    """A step as it was asked for; `read` brings its gradients into a layout, and raises Invalid with a pointer.

    `worker` is who sends this part of it, where several do; `tree` has the gradients as JSON has them, where they came
    so.
    """

    read: Callable[[Layout], Flat]
    step: int | None
    loss: float | None
    returning: str
    worker: str | None = None
    tree: Any = None


def decode_step(form: str, body: bytes | bytearray | memoryview, query_string: bytes = b"") -> StepRequest:
    """The step in a body of this form. Raw bytes have their other fields in the query string.

    Raises NotJson, NonFinite, Invalid with a pointer.
    """
    if form == JSON:
        return asked(loads(body))
    read: Callable[[Layout], Flat]
    if form == SAFETENSORS:
        file = safetensors.parse(body, POINTER)
        fields = safetensors.fields(file)
        read = partial(safetensors.flatten, file, pointer=POINTER)
    else:
        fields = raw.query(query_string, TEXTS)
        read = partial(raw.flatten, body, pointer=POINTER)
    if "gradients" in fields:
        raise Invalid("In this form the gradients are the body, and no field.", pointer=POINTER)
    return asked({**fields, "gradients": None}, read)


def asked(body: Any, read: Callable[[Layout], Flat] | None = None) -> StepRequest:
    """The step that a JSON value asks for; `read` where the gradients are not in it. Raises Invalid with a pointer."""
    if not isinstance(body, dict):
        raise Invalid('A step is an object: {"gradients": ..., "step": ...}.', pointer="")
    if not body.keys() <= _KNOWN:
        stray = next(key for key in body if key not in FIELDS)
        raise Invalid(
            f"A step has no field {stray[:80]!r}{nearest(stray, FIELDS)} Accepted: {', '.join(FIELDS)}.",
            pointer=f"/{stray[:80]}",
        )
    if "gradients" not in body:
        raise Invalid("A step needs gradients, in the shape of the session's params.", pointer=POINTER)
    gradients, step, loss, worker = body["gradients"], body.get("step"), body.get("loss"), body.get("worker")
    returning = body.get("return", "params")
    if step is not None and type(step) is not int:
        raise Invalid("step must be a whole number: the one that this step will have.", pointer="/step")
    if loss is not None:
        if type(loss) not in (int, float):
            raise Invalid("loss must be a number.", pointer="/loss")
        loss = float(loss)
    if returning not in RETURNS:
        raise Invalid(f"return must be one of {', '.join(RETURNS)}.", pointer="/return")
    if worker is not None and type(worker) is not str:
        raise Invalid("worker must be a text: the name of who sends this part.", pointer="/worker")
    read = read or (lambda layout: trees.flatten(gradients, layout, POINTER, sparse=True))
    return StepRequest(read, step, loss, returning, worker, gradients)
