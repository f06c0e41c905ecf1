"""How control-plane routes read a body and answer: orjson at both ends, pydantic between, problems throughout."""

from __future__ import annotations

import base64
from collections.abc import Container, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.errors import MAX_PLACES, Invalid, Place
from service.optim.hyperparameters import escape
from service.optim.tensors import Layout, single
from service.wire import raw, safetensors
from service.wire.forms import BYTES, FORMS, SAFETENSORS, encode
from service.wire.json import MEDIA_TYPE, dumps, loads
from service.wire.negotiation import answer_form, body_form


class Body(BaseModel):
    """A request body: no field but those declared, no value of another type."""

    model_config = ConfigDict(extra="forbid", strict=True)


Model = TypeVar("Model", bound=Body)


async def read(request: Request, model: type[Model]) -> tuple[Model, dict[str, Any]]:
    """The body as the model, and as it was sent. Raises UnsupportedMediaType, NotJson, NonFinite, Invalid."""
    body_form(request.headers.raw, (MEDIA_TYPE,))
    return check(loads(await whole(request.scope, request.receive)), model)


def check(raw: Any, model: type[Model]) -> tuple[Model, dict[str, Any]]:
    """A decoded body as the model, and as it is. Raises Invalid."""
    if not isinstance(raw, dict):
        raise Invalid("The body must be a JSON object.", pointer="")
    try:
        return model.model_validate(raw), raw
    except ValidationError as error:
        raise from_pydantic(error.errors(include_url=False, include_input=False), list(model.model_fields)) from None


async def whole(scope: Scope, receive: Receive) -> bytes | bytearray | memoryview:
    """The body; what comes in several pieces is put into one buffer, of its declared size where that is known."""
    message = await receive()
    piece: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return piece
    size = _declared(scope)
    if size is None:
        grown = bytearray(piece)
        while message.get("more_body"):
            message = await receive()
            grown += message.get("body", b"")
        return grown
    # memory that is touched as it is filled: a declared size takes nothing from who does not send it
    buffer = np.empty(size, np.uint8).data
    filled = 0
    while True:
        buffer[filled : filled + len(piece)] = piece
        filled += len(piece)
        if not message.get("more_body"):
            return buffer[:filled]
        message = await receive()
        piece = message.get("body", b"")


def _declared(scope: Scope) -> int | None:
    """Content-Length, where it is the length of the body as it is read."""
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"")
    return int(length) if length.isdigit() and len(length) < 16 and b"content-encoding" not in headers else None


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


class Tensors(Response):
    """An answer that holds an array, in the form that the client accepts.

    `fields` and `layout` are as `encode` takes them; the array is sent from where it lies. Raises NotAcceptable.
    """

    def __init__(
        self,
        request: Request,
        fields: Mapping[str, Any],
        layout: Layout,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        encoded = encode(answer_form(request.headers.raw, FORMS), fields, layout)
        super().__init__(None, status, headers)
        self.raw_headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"] + encoded.headers
        self._chunks = encoded.chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_encoded(send, self.status_code, self.raw_headers, self._chunks)


async def send_encoded(
    send: Send, status: int, headers: Sequence[tuple[bytes, bytes]], chunks: Sequence[bytes | memoryview]
) -> None:
    """The ASGI messages of an answer whose body is these chunks, at least one."""
    *others, last = chunks
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for chunk in others:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": last})


@cache
def schema(model: type[Body]) -> dict[str, Any]:
    """The JSON schema of a body, made once; not to be changed."""
    return model.model_json_schema()


def json_body(model: type[Body], examples: Mapping[str, Any]) -> dict[str, Any]:
    """The requestBody of an OpenAPI operation, with runnable examples."""
    return {
        "required": True,
        "content": {
            MEDIA_TYPE: {
                "schema": schema(model),
                "examples": {name: {"summary": name, "value": value} for name, value in examples.items()},
            }
        },
    }


def json_answer(description: str, example: Any) -> dict[str, Any]:
    """A response of an OpenAPI operation."""
    return {"description": description, "content": {MEDIA_TYPE: {"example": example}}}


def binary_body(fields: Mapping[str, Any], name: str, values: Sequence[float]) -> dict[str, Any]:
    """The other forms of a requestBody: a vector called `name`, and beside it in a safetensors file these fields.

    The examples are data URIs, for bytes are no JSON.
    """
    numbers = np.array(values, np.float64).tobytes()
    file = safetensors.header(fields, single(len(values)), name) + numbers
    titles = {SAFETENSORS: "a tensor, and the other fields in __metadata__", BYTES: "little-endian float64"}
    return {
        form: {
            "schema": {"type": "string", "format": "binary"},
            "examples": {title: {"summary": title, "externalValue": _data_uri(form, content)}},
        }
        for (form, title), content in zip(titles.items(), (file, numbers), strict=True)
    }


def query_fields(properties: Mapping[str, Any], examples: Mapping[str, Any], texts: Container[str]) -> list[Any]:
    """The query parameters of an operation: the fields of a body of raw bytes, which are JSON but for `texts`."""
    found = []
    for name, schema in properties.items():
        shown = {"example": examples[name]} if name in examples else {}
        meaning = f"With {BYTES}. {schema.get('description', '')}".strip()
        parameter: dict[str, Any] = {"name": name, "in": "query", "description": meaning}
        if name in texts:
            found.append({**parameter, "schema": schema, **shown})
        else:
            found.append({**parameter, "content": {MEDIA_TYPE: {"schema": schema, **shown}}})
    return found


def tensors_answer(description: str, example: Mapping[str, Any]) -> dict[str, Any]:
    """A response of an OpenAPI operation that has an array in it, in every form."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    headers = {
        name.decode().title(): {"schema": {}, "description": f"With {BYTES}."} for name, _ in raw.headers(example)
    }
    shown = json_answer(description, example)
    shown["content"] |= {SAFETENSORS: binary, BYTES: binary}
    return {**shown, "headers": headers}


def _data_uri(form: str, content: bytes) -> str:
    return f"data:{form};base64,{base64.b64encode(content).decode()}"
