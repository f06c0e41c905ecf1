"""The OpenAPI document: what FastAPI makes of the routes, the lean step route, and the problem that any may answer."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.routing import compile_path

from service.routes import batch, events, steps, stream
from service.wire.forms import JSON
from service.wire.json import dumps

PROBLEM: dict[str, Any] = {
    "description": "Any error, as RFC 9457 has it; `detail` says what to do.",
    "content": {
        "application/problem+json": {
            "schema": {
                "type": "object",
                "required": ["type", "title", "status", "detail", "code", "request_id"],
                "properties": {
                    "type": {"type": "string"},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                    "code": {"type": "string"},
                    "request_id": {"type": "string"},
                    "errors": {
                        "type": "array",
                        "maxItems": 10,
                        "items": {
                            "type": "object",
                            "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
                        },
                    },
                },
            },
            "example": {
                "type": "urn:thalweg:problem:step-mismatch",
                "title": "Step mismatch",
                "status": 412,
                "detail": "The session is at step 41; send step 42 next.",
                "code": "step-mismatch",
                "request_id": "5f8a3c1d9b7e2046",
                "current_step": 41,
            },
        }
    },
}


def document(app: FastAPI) -> dict[str, Any]:
    """The whole document, made once."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        made["paths"].setdefault(steps.PATH, {})["post"] = steps.operation()
        made["paths"][batch.PATH] = {"post": batch.operation()}
        made["paths"][events.PATH] = {"get": events.operation()}
        made["paths"][stream.PATH] = {"get": stream.operation()}
        for path in made["paths"].values():
            for operation in path.values():
                # FastAPI documents a 422 of its own, in another shape
                operation["responses"].pop("422", None)
                operation["responses"]["default"] = PROBLEM
        for unused in ("HTTPValidationError", "ValidationError"):
            made.get("components", {}).get("schemas", {}).pop(unused, None)
        app.openapi_schema = made
    return app.openapi_schema


def example_query(parameters: list[dict[str, Any]]) -> dict[str, str]:
    """The query parameters that an example of an operation's body of raw bytes needs."""
    found = {}
    for parameter in parameters:
        content = parameter.get("content", {}).get(JSON, {})
        if "example" in content:
            found[parameter["name"]] = dumps(content["example"]).decode()
        elif "example" in parameter:
            found[parameter["name"]] = parameter["example"]
    return found


def methods(app: FastAPI, path: str) -> list[str]:
    """The methods that a path takes."""
    return sorted(
        method.upper()
        for template, operations in document(app)["paths"].items()
        if compile_path(template)[0].match(path)
        for method in operations
    )
