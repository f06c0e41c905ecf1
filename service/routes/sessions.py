"""Sessions: create, list, read, change, delete."""

import base64
import binascii
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from service.errors import Invalid
from service.optim.optimizer import build
from service.routes.bodies import Body, answer, json_answer, json_body, read
from service.sessions.engine import Creation, Engine, body_digest, hyperparameters
from service.sessions.session import Session
from service.wire.trees import lay_out, tree

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
DURABILITY = r"^(step|none|every:[1-9][0-9]{0,5})$"
TEN_YEARS = 10 * 366 * 86_400

Labels = Annotated[dict[str, str], Field(max_length=64)]
TimeToLive = Annotated[float, Field(gt=0, le=TEN_YEARS)]


class CreateSession(Body):
    """What a session is made of."""

    optimizer: dict[str, Any] = Field(description='{"name": ...} or {"like": ...} with hyperparameters.')
    params: Any = Field(description="The starting parameters: an array, a number, or an object from name to array.")
    dtype: Literal["float64", "float32"] = "float64"
    transforms: list[Any] = Field([], description="Applied to each gradient, in this order.")
    groups: list[Any] = Field([], description='[{"match": "*.bias", "weight_decay": 0}]; later groups win.')
    non_finite: Literal["reject", "skip", "zero"] = "reject"
    durability: str = Field("step", pattern=DURABILITY, description="step, every:K or none.")
    id: str | None = Field(None, description="Letters, digits and ._- ; makes a repeated create safe.")
    ttl_seconds: TimeToLive | None = Field(None, description="Deleted when it has rested so long.")
    labels: Labels = Field({}, description="Free text to find sessions by: ?label=key:value.")


class PatchSession(Body):
    """What may change in a session's life."""

    hyperparameters: dict[str, Any] = Field({}, description="In force from the next step on.")
    labels: Labels | None = Field(None, description="Replace all labels.")
    ttl_seconds: TimeToLive | None = Field(None, description="Another time to live; null for none.")


EXAMPLES = {
    "one array": {"optimizer": {"name": "adam", "learning_rate": 0.01}, "params": [3.0, 6.0]},
    "a layer, by a library's own names": {
        "optimizer": {"like": "torch.optim.AdamW", "lr": 0.001, "betas": [0.9, 0.95], "weight_decay": 0.1},
        "params": {"layer.weight": [[0.1, -0.2], [0.3, 0.4]], "layer.bias": [0.0, 0.0]},
        "groups": [{"match": "*.bias", "weight_decay": 0}],
        "transforms": [{"name": "clip_by_global_norm", "max_norm": 1.0}],
        "dtype": "float32",
        "labels": {"course": "ml101"},
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
            200: json_answer("This id and this body made a session before; here it is.", ANSWER),
            201: json_answer("Created; Location names it.", ANSWER),
        },
        openapi_extra={"requestBody": json_body(CreateSession, EXAMPLES)},
    )
    async def create(request: Request) -> Response:
        """Create a session: an optimizer and some parameters."""
        body, raw = await read(request, CreateSession)
        if body.id is not None and not ID.match(body.id):
            raise Invalid(
                "An id has 1 to 128 letters, digits and ._- and starts with a letter or a digit.", pointer="/id"
            )
        layout, params = lay_out(body.params, body.dtype)
        creation = Creation(
            build(body.optimizer, layout, body.transforms, body.groups),
            layout,
            params,
            body.non_finite,
            body.durability,
            body.labels,
            body.ttl_seconds,
            body_digest(raw),
        )
        session, new = await engine.create(body.id, creation)
        shown = {**describe(session), "params": tree(session.state.params, session.layout)}
        return answer(request, shown, 201 if new else 200, {"location": f"/v1/sessions/{session.id}"})

    @routes.get(
        "/v1/sessions",
        operation_id="listSessions",
        responses={200: json_answer("Newest first.", {"items": [], "next_cursor": "MTIz"})},
    )
    async def list_sessions(
        request: Request,
        label: Annotated[list[str] | None, Query(description="key:value; several must all hold.")] = None,
        state: Annotated[Literal["active"] | None, Query(description="Deleted sessions are not listed.")] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        cursor: Annotated[str | None, Query(description="next_cursor of the page before.")] = None,
    ) -> Response:
        """List sessions, newest first; a page may hold fewer than `limit` while `next_cursor` says there are more."""
        labels = [_label(text) for text in label or ()]
        found, following = engine.heads(_decode_cursor(cursor), limit, labels)
        page: dict[str, Any] = {"items": [_item(*item) for item in found]}
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
        responses={200: json_answer("The parameters after a step.", {"step": 42, "params": [2.58, 5.58]})},
    )
    async def params(
        id: str, request: Request, step: Annotated[int | None, Query(ge=0, description="The newest by default.")] = None
    ) -> Response:
        """Read the parameters after any step whose gradients are still kept."""
        session = await engine.get(id)
        at, values = await engine.params_at(session, step)
        return answer(request, {"step": at, "params": tree(values, session.layout)})

    return routes


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
    if head["ttl_seconds"] is not None:
        shown["ttl_seconds"] = head["ttl_seconds"]
        shown["expires_at"] = timestamp(session.updated + head["ttl_seconds"])
    return shown


def timestamp(seconds: float) -> str:
    """RFC 3339, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _item(id: str, head: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": id,
        "state": "active",
        "step": event.get("step", 0),
        "optimizer": head["optimizer"],
        "labels": head["labels"],
        "created_at": timestamp(head["created"]),
        "updated_at": timestamp(event.get("time", head["created"])),
    }


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
