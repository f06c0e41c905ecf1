"""Going back: rewind a session to an earlier step, or fork another from it."""

from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import Field

from service.errors import Invalid
from service.routes.bodies import Body, Tensors, json_body, read, tensors_answer
from service.routes.sessions import ANSWER, ID, WRONG_ID, Labels, describe
from service.sessions.engine import Engine, body_digest
from service.wire.forms import FORMS
from service.wire.negotiation import answer_form

PARENT = {"id": "s_0pQm2mWmXlY8gUbPmQJzQm", "step": 0}


class Rewind(Body):
    """Where to go back to."""

    step: int = Field(ge=0, description="The newest step that stays.")
    since: int | None = Field(
        None,
        ge=0,
        alias="from",
        description="The step at which you believe the session to be. With it a rewind that others have overtaken is "
        "refused, and one that is sent again is answered again.",
    )
    returning: Literal["params", "none"] = Field("params", alias="return")


class Fork(Body):
    """Where the new session begins, and what it is called."""

    step: int | None = Field(None, ge=0, description="The newest by default.")
    id: str | None = Field(None, description="As for a create; makes a repeated fork safe.")
    labels: Labels | None = Field(None, description="The parent's by default.")


def router(engine: Engine) -> APIRouter:
    """The routes that go back in a session's log."""
    routes = APIRouter(tags=["sessions"])

    @routes.post(
        "/v1/sessions/{id}/rewind",
        operation_id="rewindSession",
        responses={
            200: tensors_answer(
                "The session, standing at that step; `replayed` where it stood there already.",
                {**ANSWER, "replayed": False},
            )
        },
        openapi_extra={
            "requestBody": json_body(
                Rewind, {"to the start": {"step": 0}, "sure of where it is": {"step": 0, "from": 0, "return": "none"}}
            )
        },
    )
    async def rewind(id: str, request: Request) -> Response:
        """Take back the steps above one; the next step has the number after it.

        The session stands again as it did just before the following step was taken, hyperparameters included. The
        steps taken back leave the history and stay in the log. 410 says which step is the oldest to be had.
        """
        answer_form(request.headers.raw, FORMS)  # refused before anything is made
        body, _ = await read(request, Rewind)
        session, replayed = await engine.rewind(id, body.step, body.since)
        shown: dict[str, Any] = {**describe(session), "replayed": replayed}
        if body.returning == "params":
            shown["params"] = session.state.params
        return Tensors(request, shown, session.layout)

    @routes.post(
        "/v1/sessions/{id}/fork",
        operation_id="forkSession",
        status_code=201,
        responses={
            200: tensors_answer("This id and this body made a fork before; here it is.", {**ANSWER, "parent": PARENT}),
            201: tensors_answer("Created; Location names it.", {**ANSWER, "parent": PARENT}),
        },
        openapi_extra={
            "requestBody": json_body(
                Fork,
                {
                    "from where it stands": {},
                    "from an earlier step": {"step": 0, "labels": {"try": "a smaller learning rate"}},
                },
            )
        },
    )
    async def fork(id: str, request: Request) -> Response:
        """Make a new session that goes on from a step of this one, which is left as it is."""
        answer_form(request.headers.raw, FORMS)  # refused before anything is made
        body, raw = await read(request, Fork)
        if body.id is not None and not ID.match(body.id):
            raise Invalid(WRONG_ID, pointer="/id")
        session, new = await engine.fork(id, body.step, body.id, body.labels, body_digest({"fork": id, **raw}))
        shown = {**describe(session), "params": session.state.params}
        status, headers = 201 if new else 200, {"location": f"/v1/sessions/{session.id}"}
        return Tensors(request, shown, session.layout, status, headers)

    return routes
