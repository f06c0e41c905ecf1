"""Sessions: create, list, read, change, delete."""

import asyncio
import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from service.errors import Invalid
from service.optim.optimizer import build
from service.optim.tensors import Array, Layout
from service.routes.bodies import (
    Body,
    Tensors,
    answer,
    binary_body,
    check,
    json_answer,
    json_body,
    query_fields,
    read,
    schema,
    tensors_answer,
    whole,
)
from service.sessions import checkpoint
from service.sessions.aggregation import MAX_WORKERS, Plan
from service.sessions.checkpoint import Restoration
from service.sessions.engine import Creation, Engine, body_digest, hyperparameters
from service.sessions.listing import Listed
from service.sessions.session import DURABILITY, Session
from service.wire import raw, safetensors
from service.wire.forms import FORMS, JSON, SAFETENSORS
from service.wire.json import loads
from service.wire.negotiation import answer_form, body_form
from service.wire.safetensors import File
from service.wire.trees import lay_out

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
WRONG_ID = "An id has 1 to 128 letters, digits and ._- and starts with a letter or a digit."
TEN_YEARS = 10 * 366 * 86_400
TEXTS = frozenset({"dtype", "non_finite", "durability", "id"})  # without quotation marks in a query string
LARGE = 1 << 20  # bytes of a body

T = TypeVar("T")
Content = bytes | bytearray | memoryview
Label = Annotated[str, Field(max_length=1024)]
Labels = Annotated[dict[Label, Label], Field(max_length=64)]
TimeToLive = Annotated[float, Field(gt=0, le=TEN_YEARS)]


class Aggregate(Body):
    """Several workers on one session: their parts of a step become one gradient."""

    workers: int = Field(ge=1, le=MAX_WORKERS, description="How many parts make a step.")
    mode: Literal["mean", "sum"] = "mean"
    timeout_seconds: float = Field(60.0, gt=0, le=3600, description="How long the first part waits for the last.")
    quorum: int | None = Field(
        None, ge=1, description="With so many parts the step is taken when the time is up; all by default."
    )

    def plan(self) -> Plan:
        """The plan that this asks for. Raises Invalid."""
        if self.quorum is not None and self.quorum > self.workers:
            raise Invalid("quorum is at most workers.", pointer="/aggregate/quorum")
        return Plan(self.workers, self.mode, self.timeout_seconds, self.quorum or self.workers)


class CreateSession(Body):
    """What a session is made of."""

    optimizer: dict[str, Any] = Field(description='{"name": ...} or {"like": ...} with hyperparameters.')
    params: Any = Field(description="The starting parameters: an array, a number, or an object from name to array.")
    dtype: Literal["float64", "float32"] = "float64"
    transforms: list[Any] = Field(
        [], description="Done around the rule: those of the gradient in this order, then those of the parameters."
    )
    groups: list[Any] = Field(
        [],
        description='[{"match": "*.bias", "weight_decay": 0}, {"match": "embedding.*", "frozen": true}]: other '
        "hyperparameters for the parameters whose names match, or no steps at all; later groups win.",
    )
    non_finite: Literal["reject", "skip", "zero"] = "reject"
    durability: str = Field("step", pattern=DURABILITY, description="step, every:K or none.")
    id: str | None = Field(None, description="Letters, digits and ._- ; makes a repeated create safe.")
    ttl_seconds: TimeToLive | None = Field(None, description="Deleted when it has rested so long.")
    labels: Labels = Field({}, description="Free text to find sessions by: ?label=key:value.")
    aggregate: Aggregate | None = Field(None, description="For several workers that share the session.")


class FromCheckpoint(Body):
    """What may be said of a session that is made of a checkpoint; by default it is as it was."""

    durability: str | None = Field(None, pattern=DURABILITY)
    id: str | None = None
    ttl_seconds: TimeToLive | None = None
    labels: Labels | None = None


class PatchSession(Body):
    """What may change in a session's life."""

    hyperparameters: dict[str, Any] = Field({}, description="In force from the next step on.")
    labels: Labels | None = Field(None, description="Replace all labels.")
    ttl_seconds: TimeToLive | None = Field(None, description="Another time to live; null for none.")


EXAMPLES: dict[str, Any] = {
    "one array": {"optimizer": {"name": "adam", "learning_rate": 0.01}, "params": [3.0, 6.0]},
    "a layer, by a library's own names": {
        "optimizer": {"like": "torch.optim.AdamW", "lr": 0.001, "betas": [0.9, 0.95], "weight_decay": 0.1},
        "params": {"layer.weight": [[0.1, -0.2], [0.3, 0.4]], "layer.bias": [0.0, 0.0]},
        "groups": [{"match": "*.bias", "weight_decay": 0}],
        "transforms": [{"name": "clip_by_global_norm", "max_norm": 1.0}],
        "dtype": "float32",
        "labels": {"course": "ml101"},
    },
    "two workers": {
        "optimizer": {"name": "sgd", "learning_rate": 0.1},
        "params": [3.0, 6.0],
        "aggregate": {"workers": 2, "mode": "mean", "timeout_seconds": 30, "quorum": 1},
    },
    "a schedule": {
        "optimizer": {
            "name": "momentum",
            "dialect": "torch",
            "learning_rate": {"schedule": "cosine_annealing", "initial": 0.1, "t_max": 100},
        },
        "params": 1.5,
    },
}
ANSWER = {
    "id": "s_4qXbPmQJzQm0x2mWmXlY8g",
    "state": "active",
    "step": 0,
    "params": [3.0, 6.0],
    "optimizer": {"name": "adam", "dialect": "torch", "learning_rate": 0.01, "beta1": 0.9, "beta2": 0.999},
    "hyperparameters": {"learning_rate": 0.01, "beta1": 0.9, "beta2": 0.999},
    "shapes": [2],
    "dtype": "float64",
    "created_at": "2026-01-01T00:00:00.000000Z",
}


def router(engine: Engine) -> APIRouter:
    """The routes of the noun /v1/sessions."""
    routes = APIRouter(tags=["sessions"])

    @routes.post(
        "/v1/sessions",
        operation_id="createSession",
        status_code=201,
        responses={
            200: tensors_answer("This id and this body made a session before; here it is.", ANSWER),
            201: tensors_answer("Created; Location names it.", ANSWER),
        },
        openapi_extra=_creation_forms(),
    )
    async def create(request: Request) -> Response:
        """Create a session: an optimizer and some parameters."""
        answer_form(request.headers.raw, FORMS)  # refused before anything is made
        form = body_form(request.headers.raw, FORMS)
        content = await whole(request.scope, request.receive)
        creation, id = await _apart(len(content), lambda: decode_creation(form, content, request.scope["query_string"]))
        if isinstance(creation, Restoration):
            session, new = await engine.restore(id, creation)
        else:
            session, new = await engine.create(id, creation)
        shown = {**describe(session), "params": session.state.params}
        status, headers = 201 if new else 200, {"location": f"/v1/sessions/{session.id}"}
        return Tensors(request, shown, session.layout, status, headers)

    @routes.get(
        "/v1/sessions",
        operation_id="listSessions",
        responses={200: json_answer("Newest first.", {"items": [], "next_cursor": "MTIz"})},
    )
    async def list_sessions(
        request: Request,
        label: Annotated[list[str] | None, Query(description="key:value; several must all hold.")] = None,
        state: Annotated[
            Literal["active", "deleted", "expired"], Query(description="Of those that are gone a word is left.")
        ] = "active",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        cursor: Annotated[str | None, Query(description="next_cursor of the page before.")] = None,
    ) -> Response:
        """List sessions, newest first; a page may hold fewer than `limit` while `next_cursor` says there are more."""
        labels = [_label(text) for text in label or ()]
        found, following = engine.heads(_decode_cursor(cursor), limit, labels, state)
        page: dict[str, Any] = {"items": [_item(listed) for listed in found]}
        if following is not None:
            page["next_cursor"] = base64.urlsafe_b64encode(str(following).encode()).decode().rstrip("=")
        return answer(request, page)

    @routes.get("/v1/sessions/{id}", operation_id="getSession", responses={200: json_answer("The session.", ANSWER)})
    async def get(id: str, request: Request) -> Response:
        """Read a session: its specification, where it stands, its sizes and times."""
        return answer(request, describe(await engine.get(id)))

    @routes.patch(
        "/v1/sessions/{id}",
        operation_id="patchSession",
        responses={200: json_answer("The session after the change.", ANSWER)},
        openapi_extra={
            "requestBody": json_body(
                PatchSession,
                {
                    "another learning rate": {"hyperparameters": {"learning_rate": 0.001}},
                    "labels and time to live": {"labels": {"course": "ml102"}, "ttl_seconds": 3600},
                },
            )
        },
    )
    async def patch(id: str, request: Request) -> Response:
        """Change hyperparameters from the next step on, or labels, or the time to live."""
        body, raw = await read(request, PatchSession)
        if raw.get("labels", {}) is None:
            raise Invalid("labels must be an object; {} removes them all.", pointer="/labels")
        head: dict[str, Any] = {key: raw[key] for key in ("labels", "ttl_seconds") if key in raw}
        return answer(request, describe(await engine.patch(id, body.hyperparameters, head)))

    @routes.delete(
        "/v1/sessions/{id}",
        operation_id="deleteSession",
        status_code=204,
        responses={204: {"description": "Deleted; its id answers 410 from now on."}},
    )
    async def delete(id: str) -> Response:
        """Delete a session and its history."""
        await engine.delete(id)
        return Response(status_code=204)

    @routes.get(
        "/v1/sessions/{id}/params",
        operation_id="getParams",
        responses={200: tensors_answer("The parameters after a step.", {"step": 42, "params": [2.58, 5.58]})},
    )
    async def params(
        id: str,
        request: Request,
        step: Annotated[int | None, Query(ge=0, description="The newest by default.")] = None,
        view: Annotated[
            Literal["train", "eval"],
            Query(description="Where to take gradients, or what to use: averages differ, schedule-free rules too."),
        ] = "train",
    ) -> Response:
        """Read the parameters after any step whose gradients are still kept."""
        session = await engine.get(id)
        at, values = await engine.params_at(session, step, view)
        return Tensors(request, {"step": at, "params": values}, session.layout)

    return routes


def _creation_forms() -> dict[str, Any]:
    """What OpenAPI says of the body of a create, and of the query of one of raw bytes."""
    body = json_body(CreateSession, EXAMPLES)
    example = EXAMPLES["one array"]
    body["content"] |= binary_body({"optimizer": example["optimizer"]}, "params", example["params"])
    properties = {name: schema for name, schema in _properties().items() if name != "params"}
    shapes = {"description": "[2, 3], or {name: shape} in the order of the bytes; one vector by default."}
    return {
        "requestBody": body,
        "parameters": query_fields({"shapes": shapes, **properties}, {"optimizer": example["optimizer"]}, TEXTS),
    }


def _properties() -> dict[str, Any]:
    properties: dict[str, Any] = schema(CreateSession)["properties"]
    return properties


def decode_creation(
    form: str, content: Content, query_string: bytes = b""
) -> tuple[Creation | Restoration, str | None]:
    """What a create in any form asks for, and the id that its client chose. A checkpoint asks for a restoration.

    Raises NotJson, NonFinite, Invalid with a pointer.
    """
    if form == JSON:
        body, fields = check(loads(content), CreateSession)
        layout, params = lay_out(body.params, body.dtype)
    elif form == SAFETENSORS:
        file = safetensors.parse(content, "/params", safetensors.MAX_CREATION_HEADER_BYTES)
        if checkpoint.recognised(file):
            return _restoration(file, content, raw.query(query_string, TEXTS))
        body, fields = _without_params(safetensors.fields(file))
        layout, params = safetensors.lay_out(file, body.dtype if "dtype" in fields else None)
    else:
        query = raw.query(query_string, TEXTS)
        shapes = query.pop("shapes", None)
        body, fields = _without_params(query)
        layout, params = raw.lay_out(content, shapes, body.dtype)
    if body.id is not None and not ID.match(body.id):
        raise Invalid(WRONG_ID, pointer="/id")
    optimizer = build(body.optimizer, layout, body.transforms, body.groups)
    checkpoint.check_header(optimizer)
    creation = Creation(
        optimizer,
        layout,
        params,
        body.non_finite,
        body.durability,
        body.labels,
        body.ttl_seconds,
        "" if body.id is None else _digest(fields, layout, params),
        body.aggregate.plan() if body.aggregate else None,
    )
    return creation, body.id


def _restoration(file: File, content: Content, query: dict[str, Any]) -> tuple[Restoration, str | None]:
    """What a checkpoint asks for. What is said of the session in the query string wins over the metadata."""
    body, said = check({**checkpoint.chosen(file), **query}, FromCheckpoint)
    if body.id is not None and not ID.match(body.id):
        raise Invalid(WRONG_ID, pointer="/id")
    changes = {key: value for key, value in said.items() if key != "id" and value is not None}
    digest = "" if body.id is None else body_digest({**said, "checkpoint": hashlib.sha256(content).hexdigest()})
    return checkpoint.restore(file, {**changes, "body": digest}), body.id


def _without_params(fields: dict[str, Any]) -> tuple[CreateSession, dict[str, Any]]:
    if "params" in fields:
        raise Invalid("In this form the params are the body, and no field.", pointer="/params")
    return check({**fields, "params": None}, CreateSession)


def _digest(fields: dict[str, Any], layout: Layout, params: Array) -> str:
    """What makes a repeated create the same, in whatever form it comes: its fields, and the values that it means."""
    values = hashlib.sha256(params.data).hexdigest()
    return body_digest({**fields, "dtype": None, "params": [layout.as_json(), values]})


async def _apart(size: int, work: Callable[[], T]) -> T:
    """Work on a body of this size: in a thread where it is large, so that the event loop stays free."""
    return work() if size < LARGE else await asyncio.to_thread(work)


def describe(session: Session) -> dict[str, Any]:
    """What a session looks like from outside, without its parameters."""
    head, layout = session.head, session.layout
    shapes: Any = {n: list(s) for n, s in zip(layout.names, layout.shapes, strict=True)}
    shown = {
        "id": session.id,
        "state": "active",
        "step": session.step,
        "durable_step": session.durable,
        **session.optimizer.as_json(),
        "hyperparameters": hyperparameters(session),
        "shapes": shapes if layout.named else shapes[""],
        "dtype": layout.dtype.name,
        "parameters": layout.size,
        "state_bytes": session.bytes,
        "non_finite": head["non_finite"],
        "durability": head["durability"],
        "labels": head["labels"],
        "created_at": timestamp(head["created"]),
        "updated_at": timestamp(session.updated),
    }
    shown |= {key: head[key] for key in ("aggregate", "parent") if key in head}
    if session.optimizer.partial:
        shown |= {"wanted": session.optimizer.wants, "updates": session.state.step}
    if head["ttl_seconds"] is not None:
        shown["ttl_seconds"] = head["ttl_seconds"]
        shown["expires_at"] = timestamp(session.updated + head["ttl_seconds"])
    return shown


def timestamp(seconds: float) -> str:
    """RFC 3339, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _item(listed: Listed) -> dict[str, Any]:
    head = listed.head
    shown = {"id": listed.id, "state": listed.state, "step": listed.step}
    shown |= {key: head[key] for key in ("optimizer", "labels", "parent") if key in head}
    if "created" in head:
        shown["created_at"] = timestamp(head["created"])
    if listed.updated is not None:
        shown["updated_at" if listed.state == "active" else f"{listed.state}_at"] = timestamp(listed.updated)
    return shown


def _label(text: str) -> tuple[str, str]:
    key, colon, value = text.partition(":")
    if not colon:
        raise Invalid("A label filter is key:value.", pointer="/label")
    return key, value


def _decode_cursor(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    try:
        return int(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error):
        raise Invalid("This cursor was not made here; take next_cursor from a page.", pointer="/cursor") from None
