"""How control-plane routes read a body and answer: orjson at both ends, pydantic between, problems throughout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from service.errors import MAX_PLACES, Invalid, Place
from service.optim.hyperparameters import escape
from service.wire.json import MEDIA_TYPE, dumps, loads
from service.wire.negotiation import answer_form, body_form


class Body(BaseModel):
    """A request body: no field but those declared, no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


Model = TypeVar("Model", bound=Body)


async def read(request: Request, model: type[Model]) -> tuple[Model, dict[str, Any]]:
    """The body as the model, and as it was sent. Raises UnsupportedMediaType, NotJson, NonFinite, Invalid."""
    body_form(request.headers.raw, (MEDIA_TYPE,))
    raw = loads(await request.body())
    if not isinstance(raw, dict):
        raise Invalid("The body must be a JSON object.", pointer="")
    try:
        return model.model_validate(raw), raw
    except ValidationError as error:
        raise from_pydantic(error.errors(include_url=False, include_input=False), list(model.model_fields)) from None


def from_pydantic(errors: Sequence[Any], fields: Sequence[str] = ()) -> Invalid:
    """The problem that pydantic's errors come to."""
    places = [Place("".join(f"/{escape(str(part))}" for part in e["loc"]), _sentence(e)) for e in errors[:MAX_PLACES]]
    first = places[0]
    accepted = f" Accepted fields: {', '.join(fields)}." if fields and errors[0]["type"] == "extra_forbidden" else ""
    where = first.pointer.removeprefix("/") or "The body"
    return Invalid(f"{where}: {first.detail}.{accepted}", places=places)


def _sentence(error: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such field"
    message: str = error["msg"]
    return message.removeprefix("Value error, ").rstrip(".")


def answer(request: Request, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer. Raises NotAcceptable."""
    answer_form(request.headers.raw, (MEDIA_TYPE,))
    return Response(dumps(value), status, headers, MEDIA_TYPE)


def json_body(model: type[Body], examples: Mapping[str, Any]) -> dict[str, Any]:
    """The requestBody of an OpenAPI operation, with runnable examples."""
    return {
        "required": True,
        "content": {
            MEDIA_TYPE: {
                "schema": model.model_json_schema(),
                "examples": {name: {"summary": name, "value": value} for name, value in examples.items()},
            }
        },
    }


def json_answer(description: str, example: Any) -> dict[str, Any]:
    """A response of an OpenAPI operation."""
    return {"description": description, "content": {MEDIA_TYPE: {"example": example}}}
