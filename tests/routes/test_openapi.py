"""The OpenAPI document tells the truth: every route is in it, and every example runs."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.request import urlopen

import httpx

from service.main import create_app
from service.routes.openapi import example_query
from service.settings import Settings
from service.stores.memory import MemoryStore
from service.wire.forms import BYTES, FORMS


def document() -> dict[str, Any]:
    app = create_app(Settings(store="memory"), MemoryStore())
    made: dict[str, Any] = app.app.openapi()  # type: ignore[attr-defined]
    return made


DOCUMENT = document()
OPERATIONS = [(p, m, o) for p, operations in DOCUMENT["paths"].items() for m, o in operations.items()]


def test_operations_have_stable_names_and_a_problem() -> None:
    names = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(set(names)) == len(names)
    for path, method, operation in OPERATIONS:
        assert re.fullmatch(r"[a-z][A-Za-z]+", operation["operationId"]), operation["operationId"]
        assert operation["responses"]["default"]["content"].keys() == {"application/problem+json"}, (path, method)
        assert "422" not in operation["responses"]
        assert operation.get("description") or operation.get("summary"), path


def test_every_body_has_examples_and_they_all_run() -> None:
    """Each example of each body is sent, in the document's order, and is answered without a problem."""
    bodies = [(p, m, o) for p, m, o in OPERATIONS if "requestBody" in o]
    assert {o["operationId"] for _, _, o in bodies} >= {"createSession", "patchSession", "takeStep"}
    bodies.sort(key=lambda row: row[2]["operationId"] != "createSession")  # the others need a session

    async def run() -> None:
        app = create_app(Settings(store="memory"), MemoryStore())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            for path, method, operation in bodies:
                for media, content in operation["requestBody"]["content"].items():
                    assert content["examples"], path
                    for name, example in content["examples"].items():
                        created = await client.post(
                            "/v1/sessions", json={"optimizer": {"name": "sgd"}, "params": [3.0, 6.0]}
                        )
                        filled = path.replace("{id}", created.json()["id"]).replace("{name}", "rosenbrock")
                        if "value" in example:
                            assert media == "application/json"
                            answer = await client.request(method, filled, json=example["value"])
                        else:
                            content = urlopen(example["externalValue"]).read()  # a data URI: nothing is fetched
                            query = example_query(operation["parameters"]) if media == BYTES else {}
                            headers = {"content-type": media}
                            answer = await client.request(
                                method, filled, content=content, params=query, headers=headers
                            )
                        assert answer.status_code < 300, (path, name, answer.text)

    asyncio.run(run())


def test_where_an_array_goes_in_or_comes_out_all_forms_are_told() -> None:
    operations = {operation["operationId"]: operation for _, _, operation in OPERATIONS}
    for name in ("createSession", "takeStep"):
        assert set(operations[name]["requestBody"]["content"]) == set(FORMS)
    for name, status in (("createSession", "201"), ("takeStep", "200"), ("getParams", "200"), ("getStep", "200")):
        response = operations[name]["responses"][status]
        assert set(response["content"]) == set(FORMS)
        assert "Thalweg-Step" in response["headers"]
    query = {p["name"] for p in operations["takeStep"]["parameters"] if p["in"] == "query"}
    assert query >= {"step", "loss", "return"}


def test_every_get_with_an_example_answers_its_fields() -> None:
    """What an answer's example shows is there in a real answer."""

    async def run() -> None:
        app = create_app(Settings(store="memory"), MemoryStore())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            create = {"optimizer": {"name": "adam"}, "params": [3.0, 6.0], "id": "a"}
            assert (await client.post("/v1/sessions", json=create)).status_code == 201
            for loss in (1.0, 0.5):
                step = {"gradients": [1.0, 2.0], "loss": loss}
                assert (await client.post("/v1/sessions/a/steps", json=step)).status_code == 200
            names = {"optimizers": "adam", "schedules": "constant", "transforms": "l1", "functions": "rosenbrock"}
            for path, method, operation in OPERATIONS:
                answers = operation["responses"].get("200", {}).get("content", {})
                if method != "get" or "application/json" not in answers:
                    continue
                name = next((value for noun, value in names.items() if f"/{noun}/" in path), "x")
                filled = path.replace("{id}", "a").replace("{step}", "1").replace("{name}", name)
                answer = await client.get(filled)
                assert answer.status_code == 200, (filled, answer.text)
                example = answers["application/json"].get("example", {})
                optional = {"next_cursor", "params"} if path.endswith(("/sessions", "/steps", "{id}")) else set()
                assert example.keys() - optional <= answer.json().keys(), path

    asyncio.run(run())


def test_docs_are_served() -> None:
    async def run() -> None:
        app = create_app(Settings(store="memory"), MemoryStore())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            served = await client.get("/openapi.json")
            assert served.json() == DOCUMENT
            assert DOCUMENT["openapi"].startswith("3.1")
            page = (await client.get("/docs")).text
            for path, _, operation in OPERATIONS:
                assert path in page
                assert operation["operationId"] in page
            assert not re.search(r"<script|<link|@import|url\(", page)  # nothing is fetched

    asyncio.run(run())
