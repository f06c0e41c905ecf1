"""/docs: the OpenAPI document as one page, with every example as a command to paste. No script, nothing fetched."""

import json
from html import escape
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import HTMLResponse

from service.routes import openapi
from service.wire.forms import BYTES

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font: 0.85rem/1.45 ui-monospace, monospace }
pre { padding: 0.7rem; overflow-x: auto; background: color-mix(in srgb, currentColor 7%, transparent) }
summary { cursor: pointer; padding: 0.25rem 0 } summary b { display: inline-block; min-width: 4rem }
details { border-top: 1px solid color-mix(in srgb, currentColor 20%, transparent) }
table { border-collapse: collapse } td { padding: 0.1rem 1rem 0.1rem 0; vertical-align: top }
"""


CATALOGUE = ", ".join(
    f"<a href=/docs/{name}>{name}</a>" for name in ("optimizers", "schedules", "transforms", "functions")
)


def router(app: FastAPI) -> APIRouter:
    """The page; made anew only when asked for."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/docs")
    async def docs(request: Request) -> HTMLResponse:
        base = str(request.base_url).rstrip("/")
        return HTMLResponse(page(openapi.document(app), base))

    return routes


def page(document: dict[str, Any], base: str) -> str:
    """The page for a document, its commands aimed at the address `base`."""
    info = document["info"]
    groups: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            shown = _operation(method.upper(), path, operation, base)
            groups.setdefault(operation.get("tags", ["other"])[0], []).append(shown)
    body = "".join(f"<h2>{escape(tag)}</h2>{''.join(shown)}" for tag, shown in groups.items())
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title>"
        f"<meta name=viewport content='width=device-width'><style>{STYLE}</style>"
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['description'])}</p>"
        f"<p>The same as <a href={base}/openapi.json>OpenAPI 3.1</a>. Every error is "
        f"<code>application/problem+json</code> with a sentence that says what to do.</p>"
        f"<p>The catalogue, with equations: {CATALOGUE}.</p>{body}"
    )


def _operation(method: str, path: str, operation: dict[str, Any], base: str) -> str:
    title = operation.get("summary", "")
    parts = [f"<p>{escape(operation.get('description', ''))}</p>"]
    if rows := [_parameter(p) for p in operation.get("parameters", [])]:
        parts.append(f"<table>{''.join(rows)}</table>")
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        for name, example in content.get("examples", {}).items():
            command = _command(method, base + path, media, example, operation.get("parameters", []))
            parts.append(f"<p>{escape(name)}</p><pre>{escape(command)}</pre>")
    for status, response in operation["responses"].items():
        if status != "default":
            parts.append(_response(status, response))
    return (
        f"<details id={operation['operationId']}><summary><b>{method}</b> <code>{escape(path)}</code> "
        f"{escape(title)}</summary>{''.join(parts)}</details>"
    )


def _parameter(parameter: dict[str, Any]) -> str:
    where = f"{parameter['name']} <small>({parameter['in']})</small>"
    meaning = parameter.get("description") or parameter["schema"].get("description", "")
    return f"<tr><td><code>{where}</code><td>{escape(meaning)}"


def _command(method: str, url: str, media: str, example: dict[str, Any], parameters: list[Any]) -> str:
    verb = "" if method == "POST" else f" -X {method}"
    if "value" in example:
        body = _quoted(json.dumps(example["value"]))
        return f"curl -s{verb} {url} -H content-type:{media} \\\n  -d {body}"
    content = example["externalValue"].partition(";base64,")[2]
    query = openapi.example_query(parameters) if media == BYTES else {}
    target = _quoted(f"{url}?{urlencode(query)}") if query else url
    return f"echo {content} | base64 -d | \\\n  curl -s{verb} {target} -H content-type:{media} --data-binary @-"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _response(status: str, response: dict[str, Any]) -> str:
    parts = [f"<p>{status}: {escape(response.get('description', ''))}</p>"]
    for media, content in response.get("content", {}).items():
        if "example" in content:
            example = content["example"]
            text = example if isinstance(example, str) else json.dumps(example, indent=1)
            parts.append(f"<p><code>{escape(media)}</code></p><pre>{escape(text[:4000])}</pre>")
    return "".join(parts)
