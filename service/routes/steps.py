"""Steps of a session: take one, read the history, read one.

Taking a step is the hot path. It is a lean ASGI endpoint inside the application: no pydantic, no dependency solving,
no copies; `operation` documents it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service.errors import ThalwegError
from service.optim.tensors import Array, Layout
from service.routes.bodies import (
    Tensors,
    answer,
    binary_body,
    json_answer,
    query_fields,
    send_encoded,
    tensors_answer,
    whole,
)
from service.routes.sessions import timestamp
from service.sessions.engine import Engine
from service.sessions.steps import Stepped
from service.sessions.together import Asked
from service.shell import problem_messages
from service.wire.forms import FORMS, JSON, Encoded, encode, encoded
from service.wire.json import dumps
from service.wire.negotiation import answer_form, body_form
from service.wire.steps import RETURNS, TEXTS, StepRequest, decode_step
from service.wire.trees import tree

PATH = "/v1/sessions/{id}/steps"
_BEFORE, _AFTER = PATH.split("{id}")
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
            form = body_form(headers, FORMS)
            wanted = answer_form(headers, FORMS)
            request = decode_step(form, await whole(scope, receive), scope["query_string"])
            fields, chunks = encode_answer(wanted, await self._take(scope["path_params"]["id"], request))
        except ThalwegError as error:
            start, problem = problem_messages(error, scope.get("request_id", ""))
            await send(start)
            await send(problem)
            return
        await send_encoded(send, 200, fields, chunks)

    async def answer(self, session: str, body: bytes) -> bytes:
        """The JSON of an answer to the JSON of a step. Raises ThalwegError."""
        return dumps(render(await self._take(session, decode_step(JSON, body))))

    def begin(
        self, asked: Sequence[tuple[str, bytes]], answer: Callable[[int, bytes | ThalwegError | None], None]
    ) -> None:
        """Take at once those of many steps, as session and JSON, that wait for nothing but the disk.

        Each is answered by its place among them; with None where it has to be asked for by itself.
        """
        requests: list[Asked] = []
        places: list[int] = []
        refused: list[tuple[int, ThalwegError]] = []
        for place, (session, body) in enumerate(asked):
            try:
                requests.append((session, decode_step(JSON, body)))
                places.append(place)
            except ThalwegError as error:
                refused.append((place, error))

        def tell(those: Iterable[int]) -> None:
            for i in those:
                outcome = group.outcomes[i]
                answer(places[i], dumps(render(outcome)) if isinstance(outcome, Stepped) else outcome)

        group = self._engine.begin(requests)
        held = group.held
        if group.written is not None:
            group.written.add_done_callback(lambda _: tell(held))
        for place, refusal in refused:
            answer(place, refusal)
        tell(i for i in range(len(requests)) if i not in held)

    async def _take(self, session: str, request: StepRequest) -> Stepped:
        return await self._engine.step(
            session,
            request.read,
            step=request.step,
            loss=request.loss,
            returning=request.returning,
            worker=request.worker,
        )


def encode_answer(form: str, stepped: Stepped) -> Encoded:
    """The answer to a step in one of the forms. Raises NotAcceptable where the form cannot carry a name."""
    if form == JSON:
        return encoded(JSON, [dumps(render(stepped))])
    return encode(form, render(stepped, lambda flat, _: flat), stepped.layout)


def render(stepped: Stepped, shaped: Callable[[Array, Layout], Any] = tree) -> dict[str, Any]:
    """The answer to a step in the contract's words, its array `shaped` as JSON has it."""
    shown: dict[str, Any] = {"step": stepped.step}
    if stepped.params is not None:
        shown["params"] = shaped(stepped.params, stepped.layout)
    if stepped.updates is not None:
        shown["updates"] = shaped(stepped.updates, stepped.layout)
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
        responses={200: tensors_answer("The step.", {**METRICS, "params": [2.58, 5.58]})},
    )
    async def one(id: str, step: int, request: Request) -> Response:
        """Read one step with the parameters after it."""
        session = await engine.get(id)
        metrics, params = await engine.step_at(session, step)
        return Tensors(request, {**_timed(metrics), "params": params}, session.layout)

    return routes


def _timed(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {**metrics, "time": timestamp(metrics["time"])}


def operation() -> dict[str, Any]:
    """The OpenAPI operation of taking a step."""
    examples = {
        "one array": {"gradients": [6.0, 12.0], "step": 1},
        "with the loss, answering updates": {"gradients": [6.0, 12.0], "step": 1, "loss": 45.0, "return": "updates"},
    }
    properties: dict[str, Any] = {
        "gradients": {
            "description": "In the shape of the session's params. For sgd, adagrad and sparse_adam as torch has them "
            'a tensor may come by rows: {"indices": [2, 0], "values": [[...], [...]]}.'
        },
        "step": {"type": "integer", "minimum": 1},
        "loss": {"type": "number"},
        "return": {"enum": list(RETURNS), "default": "params"},
        "worker": {"type": "string", "description": "Who sends this part, where several do."},
    }
    schema = {"type": "object", "required": ["gradients"], "additionalProperties": False, "properties": properties}
    shown = {name: {"summary": name, "value": value} for name, value in examples.items()}
    fields = {name: of for name, of in properties.items() if name != "gradients"}
    return {
        "tags": ["steps"],
        "summary": "Take one step",
        "description": "Exactly once: with `step`, the number that this step will have, a retry of the same body is "
        "answered as it was the first time, in whatever form it comes. A 2xx means durable at the session's level; "
        "after a 5xx or a lost connection send the same step again. null for a named gradient, or a tensor left out of "
        "a safetensors file, leaves that parameter alone; null inside an array is a number that is not finite. "
        "A body may come in gzip or zstd.",
        "operationId": "takeStep",
        "parameters": [
            {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}},
            *query_fields(fields, {}, TEXTS),
        ],
        "requestBody": {
            "required": True,
            "content": {
                JSON: {"schema": schema, "examples": shown},
                **binary_body({"step": 1, "return": "updates"}, "gradients", [6.0, 12.0]),
            },
        },
        "responses": {
            "200": tensors_answer(
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
