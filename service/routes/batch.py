"""Many steps in one request: sessions side by side, the order kept within each.

What the steps of a request write goes to the disk together, so that a hundred of them wait for it once.
"""

from __future__ import annotations

from typing import Any

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service.errors import Invalid, ThalwegError
from service.routes import steps
from service.routes.bodies import json_answer, whole
from service.routes.steps import render
from service.sessions.engine import Engine
from service.sessions.steps import Stepped
from service.wire.json import MEDIA_TYPE, dumps, loads
from service.wire.negotiation import answer_form, body_form
from service.wire.steps import StepRequest, asked

PATH = "/v1/steps"
MAX_ITEMS = 1_000
FORMS = (MEDIA_TYPE,)

Outcome = Stepped | ThalwegError


class TakeSteps:
    """POST /v1/steps as an ASGI application."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body_form(scope["headers"], FORMS)
        answer_form(scope["headers"], FORMS)
        outcomes = await self._take(items(loads(await whole(scope, receive))))
        request_id = scope.get("request_id", "")
        text = dumps({"results": [_shown(outcome, i, request_id) for i, outcome in enumerate(outcomes)]})
        fields = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": text})

    async def _take(self, given: list[Any]) -> list[Outcome]:
        """The outcome of each item."""
        outcomes: list[Any] = [None] * len(given)
        places: dict[str, list[int]] = {}
        chains: dict[str, list[StepRequest]] = {}
        for i, item in enumerate(given):
            try:
                session, request = parse(item)
            except ThalwegError as error:
                outcomes[i] = error
                continue
            places.setdefault(session, []).append(i)
            chains.setdefault(session, []).append(request)
        taken = await self._engine.step_all(chains)
        for session, indices in places.items():
            for i, outcome in zip(indices, taken[session], strict=True):
                outcomes[i] = outcome
        return outcomes


def items(body: Any) -> list[Any]:
    """The steps of the body. Raises Invalid."""
    if not isinstance(body, dict) or not isinstance(body.get("steps"), list):
        raise Invalid('The body is {"steps": [{"session": ..., "gradients": ...}, ...]}.', pointer="/steps")
    for stray in body.keys() - {"steps"}:
        raise Invalid(f"There is no field {stray[:80]!r} beside steps.", pointer=f"/{stray[:80]}")
    listed: list[Any] = body["steps"]
    if len(listed) > MAX_ITEMS:
        raise Invalid(f"{len(listed)} steps; one request takes at most {MAX_ITEMS}.", pointer="/steps")
    return listed


def parse(item: Any) -> tuple[str, StepRequest]:
    """The session of an item and its step. Raises Invalid with a pointer below the item."""
    if not isinstance(item, dict):
        raise Invalid('A step is an object: {"session": ..., "gradients": ..., "step": ...}.', pointer="")
    session = item.pop("session", None)
    if type(session) is not str:
        raise Invalid("A step here needs session: the id of the session that it is for.", pointer="/session")
    return session, asked(item)


def _shown(outcome: Outcome, i: int, request_id: str) -> dict[str, Any]:
    if isinstance(outcome, Stepped):
        return render(outcome)
    return problem(outcome, request_id, f"/steps/{i}")


def problem(error: ThalwegError, request_id: str, prefix: str = "") -> dict[str, Any]:
    """A problem that stands among answers: what else a header would say is in it."""
    shown = error.problem(request_id)
    if prefix and error.places:
        shown["errors"] = [{**place, "pointer": prefix + place["pointer"]} for place in shown["errors"]]
    if error.retry_after is not None:
        shown["retry_after"] = error.retry_after
    return shown


def route(take: TakeSteps) -> Route:
    """The lean route."""
    return Route(PATH, take, methods=["POST"])


def operation() -> dict[str, Any]:
    """The OpenAPI operation of taking many steps."""
    step = steps.operation()["requestBody"]["content"][MEDIA_TYPE]["schema"]
    item = {
        "type": "object",
        "required": ["session", "gradients"],
        "additionalProperties": False,
        "properties": {"session": {"type": "string", "description": "The id."}, **step["properties"]},
    }
    body = {
        "steps": [
            {"session": "first", "gradients": [6.0, 12.0], "step": 1},
            {"session": "first", "gradients": [5.8, 11.6], "step": 2, "return": "none"},
        ]
    }
    metrics = {"learning_rate": 0.01, "gradient_norm": 13.4, "update_norm": 0.014, "durable_step": 1, "replayed": False}
    results = [
        {"step": 1, "params": [2.99, 5.99], **metrics},
        {"type": "urn:thalweg:problem:step-mismatch", "status": 412, "code": "step-mismatch", "detail": "..."},
    ]
    return {
        "tags": ["steps"],
        "summary": "Take many steps",
        "description": f"Up to {MAX_ITEMS:,} steps of any sessions. Sessions go side by side; the steps of one are "
        "taken in their order, and answered as if they had been sent one after another. All that is written is "
        "written together. Each has its answer or its problem (which has a `status`) in its place; one that fails "
        "does not stop the others, but a later step of the same session that counts on it is answered 412.",
        "operationId": "takeSteps",
        "requestBody": {
            "required": True,
            "content": {
                MEDIA_TYPE: {
                    "schema": {
                        "type": "object",
                        "required": ["steps"],
                        "additionalProperties": False,
                        "properties": {"steps": {"type": "array", "maxItems": MAX_ITEMS, "items": item}},
                    },
                    "examples": {"two steps of one session": {"summary": "two steps of one session", "value": body}},
                }
            },
        },
        "responses": {"200": json_answer("An answer or a problem for each, in order.", {"results": results})},
    }
