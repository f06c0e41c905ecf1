"""Steps of a session: take one, read the history, read one.

Taking a step is the hot path. It is a lean ASGI endpoint inside the application: no pydantic, no dependency solving,
no copies; `operation` documents it.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service.errors import Invalid, ThalwegError, nearest
from service.routes.bodies import answer, json_answer
from service.routes.sessions import timestamp
from service.sessions.engine import Engine, Stepped
from service.shell import problem_messages
from service.wire.json import MEDIA_TYPE, dumps, loads
from service.wire.negotiation import answer_form, body_form
from service.wire.trees import flatten, tree

PATH = "/v1/sessions/{id}/steps"
_BEFORE, _AFTER = PATH.split("{id}")
FIELDS = ("gradients", "step", "loss", "return")
FORMS = (MEDIA_TYPE,)
RETURNS = ("params", "updates", "none")
METRICS = {
    "step": 42,
    "time": "2026-01-01T00:00:00.000000Z",
    "learning_rate": 0.01,
    "loss": 0.31,
    "gradient_norm": 1.2,
    "update_norm": 0.01,
}


class TakeStep:
    """POST /v1/sessions/{id}/steps as an ASGI application."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def takes(self, scope: Scope) -> bool:
        """Whether this is a request for it; then its path parameters are set, as the router would."""
        path: str = scope["path"]
        if scope["method"] != "POST" or not (path.startswith(_BEFORE) and path.endswith(_AFTER)):
            return False
        id = path[len(_BEFORE) : -len(_AFTER)]
        if not id or "/" in id:
            return False
        scope["path_params"] = {"id": id}
        return True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = scope["headers"]
            body_form(headers, FORMS)
            answer_form(headers, FORMS)
            body = loads(await _read(receive))
            gradients, step, loss, returning = parse(body)
            stepped = await self._engine.step(
                scope["path_params"]["id"],
                lambda layout: flatten(gradients, layout, "/gradients"),
                step=step,
                loss=loss,
                returning=returning,
            )
            text = dumps(render(stepped))
        except ThalwegError as error:
            start, problem = problem_messages(error, scope.get("request_id", ""))
            await send(start)
            await send(problem)
            return
        length = str(len(text)).encode()
        fields = [(b"content-type", b"application/json"), (b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": text})


async def _read(receive: Receive) -> bytes | bytearray:
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return body
    whole = bytearray(body)
    while message.get("more_body"):
        message = await receive()
        whole += message.get("body", b"")
    return whole


def parse(body: Any) -> tuple[Any, int | None, float | None, str]:
    """Gradients, step, loss and what to return, of a step's body. Raises Invalid with a pointer."""
    if not isinstance(body, dict):
        raise Invalid('A step is an object: {"gradients": ..., "step": ...}.', pointer="")
    if not body.keys() <= set(FIELDS):
        stray = next(key for key in body if key not in FIELDS)
        raise Invalid(
            f"A step has no field {stray[:80]!r}{nearest(stray, FIELDS)} Accepted: {', '.join(FIELDS)}.",
            pointer=f"/{stray[:80]}",
        )
    if "gradients" not in body:
        raise Invalid("A step needs gradients, in the shape of the session's params.", pointer="/gradients")
    step, loss, returning = body.get("step"), body.get("loss"), body.get("return", "params")
    if step is not None and type(step) is not int:
        raise Invalid("step must be a whole number: the one that this step will have.", pointer="/step")
    if loss is not None and type(loss) not in (int, float):
        raise Invalid("loss must be a number.", pointer="/loss")
    if returning not in RETURNS:
        raise Invalid(f"return must be one of {', '.join(RETURNS)}.", pointer="/return")
    return body["gradients"], step, None if loss is None else float(loss), returning


def render(stepped: Stepped) -> dict[str, Any]:
    """The answer to a step, in the contract's words."""
    shown: dict[str, Any] = {"step": stepped.step}
    if stepped.params is not None:
        shown["params"] = tree(stepped.params, stepped.layout)
    if stepped.updates is not None:
        shown["updates"] = tree(stepped.updates, stepped.layout)
    shown["learning_rate"] = stepped.learning_rate
    shown["gradient_norm"] = stepped.gradient_norm
    shown["update_norm"] = stepped.update_norm
    shown["durable_step"] = stepped.durable_step
    shown["replayed"] = stepped.replayed
    return shown | stepped.handled if stepped.handled else shown


def route(take: TakeStep) -> Route:
    """The lean route."""
    return Route(PATH, take, methods=["POST"])


def router(engine: Engine) -> APIRouter:
    """The routes that read steps."""
    routes = APIRouter(tags=["steps"])

    @routes.get(
        PATH,
        operation_id="listSteps",
        responses={200: json_answer("Metrics, oldest first.", {"items": [METRICS], "next_cursor": "42"})},
    )
    async def history(
        id: str,
        request: Request,
        after: Annotated[int, Query(ge=0, description="Steps above this one; next_cursor of the page before.")] = 0,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    ) -> Response:
        """Read the history: step, time, learning rate, loss, gradient and update norm."""
        items, following = engine.history(await engine.get(id), after, limit)
        page: dict[str, Any] = {"items": [_timed(item) for item in items]}
        if following is not None:
            page["next_cursor"] = str(following)
        return answer(request, page)

    @routes.get(
        PATH + "/{step}",
        operation_id="getStep",
        responses={200: json_answer("The step.", {**METRICS, "params": [2.58, 5.58]})},
    )
    async def one(id: str, step: int, request: Request) -> Response:
        """Read one step with the parameters after it."""
        session = await engine.get(id)
        metrics, params = await engine.step_at(session, step)
        return answer(request, {**_timed(metrics), "params": tree(params, session.layout)})

    return routes


def _timed(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {**metrics, "time": timestamp(metrics["time"])}


def operation() -> dict[str, Any]:
    """The OpenAPI operation of taking a step."""
    examples = {
        "one array": {"gradients": [6.0, 12.0], "step": 1},
        "with the loss, answering updates": {"gradients": [6.0, 12.0], "step": 1, "loss": 45.0, "return": "updates"},
    }
    number = {"type": "number"}
    return {
        "tags": ["steps"],
        "summary": "Take one step",
        "description": "Exactly once: with `step`, the number that this step will have, a retry of the same body is "
        "answered as it was the first time. A 2xx means durable at the session's level; after a 5xx or a lost "
        "connection send the same step again. null for a named gradient leaves that parameter alone; null inside an "
        "array is a number that is not finite.",
        "operationId": "takeStep",
        "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
        "requestBody": {
            "required": True,
            "content": {
                MEDIA_TYPE: {
                    "schema": {
                        "type": "object",
                        "required": ["gradients"],
                        "additionalProperties": False,
                        "properties": {
                            "gradients": {"description": "In the shape of the session's params."},
                            "step": {"type": "integer", "minimum": 1},
                            "loss": number,
                            "return": {"enum": list(RETURNS), "default": "params"},
                        },
                    },
                    "examples": {name: {"summary": name, "value": value} for name, value in examples.items()},
                }
            },
        },
        "responses": {
            "200": json_answer(
                "Taken, or taken before (`replayed`).",
                {
                    "step": 1,
                    "params": [2.99, 5.99],
                    "learning_rate": 0.01,
                    "gradient_norm": 13.416407864998739,
                    "update_norm": 0.014142135623730951,
                    "durable_step": 1,
                    "replayed": False,
                },
            )
        },
    }
