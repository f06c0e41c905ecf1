"""POST /v1/sandbox/runs: the contract's fields, the four forms, the bounds, and the same numbers as a session."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import time
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest

from service.functions import catalogue
from service.routes import sandbox
from service.sandbox import plan, run
from service.shell import Shell
from tests.conftest import Serve, Service

PATH = "/v1/sandbox/runs"
EXAMPLE: dict[str, Any] = {
    "function": "rosenbrock",
    "start": [-1.2, 1.0],
    "steps": 200,
    "optimizers": [{"name": "adam", "learning_rate": 0.02}, {"name": "sgd", "learning_rate": 0.001}],
    "gradient": "analytic",
    "record_every": 1,
    "stop": {"gradient_norm": 1e-8},
}


def asked(accept: str) -> dict[str, Any]:
    return {"headers": {"accept": accept}}


# JSON


def test_the_contract_s_example(service: Service) -> None:
    answer = service.post(PATH, EXAMPLE)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == ["function", "runs"]
    assert body["function"] == catalogue.describe(catalogue.get("rosenbrock"))
    adam, sgd = body["runs"]
    fields = ["optimizer", "label", "status", "steps", "evaluations", "params", "values"]
    fields += ["gradient_norms", "recorded_steps", "best"]
    assert list(adam) == list(sgd) == fields  # and no diverged_at
    assert adam["optimizer"]["name"] == adam["label"] == "adam"
    assert adam["optimizer"]["beta2"] == 0.999
    assert (adam["status"], adam["steps"]) == ("completed", 200)
    assert adam["params"][0] == [-1.2, 1.0]
    assert adam["recorded_steps"] == list(range(201))
    assert len(adam["params"]) == len(adam["values"]) == len(adam["gradient_norms"]) == 201
    assert adam["best"] == {"step": 200, "value": adam["values"][200], "params": adam["params"][200]}


def test_json_has_every_bit(service: Service) -> None:
    answered = service.post(PATH, EXAMPLE).json()["runs"]
    for shown, done in zip(answered, run(plan(**EXAMPLE)), strict=True):
        assert shown["params"] == done.params.tolist()
        assert shown["values"] == done.values.tolist()
        assert shown["gradient_norms"] == done.gradient_norms.tolist()


def test_endings(service: Service) -> None:
    body = {
        "function": "sphere",
        "start": [3.0, 4.0],
        "steps": 2000,
        "optimizers": [{"name": "sgd", "learning_rate": 1.5}, {"name": "sgd", "learning_rate": 0.25}],
        "stop": {"value": 6.25},
        "record_every": 100,
    }
    diverged, converged = service.post(PATH, body).json()["runs"]
    assert diverged["status"] == "diverged"
    assert diverged["diverged_at"] == diverged["steps"] + 1 == diverged["recorded_steps"][-1] + 1
    assert "stopped_by" not in diverged
    assert (converged["status"], converged["stopped_by"], converged["steps"]) == ("converged", "value", 1)
    assert "diverged_at" not in converged
    assert converged["label"] == "sgd 2"


def test_all_but_function_steps_and_optimizers_may_be_left_out(service: Service) -> None:
    body = {"function": "booth", "steps": 1, "optimizers": [{"name": "sgd"}]}
    answer = service.post(PATH, body).json()
    assert answer["runs"][0]["params"][0] == answer["function"]["start"]


@pytest.mark.parametrize(
    ("optimizer", "transforms"),
    [
        ({"name": "adam", "learning_rate": 0.02}, []),
        ({"name": "adamw", "learning_rate": 0.02, "weight_decay": 0.1}, []),
        ({"name": "momentum", "learning_rate": {"schedule": "step", "initial": 1e-3, "step_size": 10}}, []),
        ({"like": "torch.optim.RMSprop", "lr": 0.01, "centered": True}, []),
        ({"name": "sgd", "learning_rate": 0.05}, [{"name": "clip_by_global_norm", "max_norm": 1.0}]),
    ],
    ids=str,
)
def test_a_session_takes_the_same_path(service: Service, optimizer: Any, transforms: Any) -> None:
    """Gradients asked for over HTTP and posted to a session give the run's parameters, to the last bit."""
    start = [-1.2, 1.0, 0.7]
    body = {
        "function": "rosenbrock",
        "start": start,
        "steps": 40,
        "optimizers": [{**optimizer, "transforms": transforms}],
    }
    (done,) = service.post(PATH, body).json()["runs"]
    session = service.post("/v1/sessions", {"optimizer": optimizer, "transforms": transforms, "params": start}).json()
    params = session["params"]
    for n in range(40):
        assert params == done["params"][n]
        (gradient,) = service.post("/v1/functions/rosenbrock/evaluate", {"points": [params]}).json()["gradients"]
        step = service.post(f"/v1/sessions/{session['id']}/steps", {"gradients": gradient, "step": n + 1}).json()
        params = step["params"]
        if not transforms:
            assert step["gradient_norm"] == done["gradient_norms"][n]
    assert params == done["params"][40]


# The other forms


def test_csv_has_the_numbers_of_the_json(service: Service) -> None:
    body = {**EXAMPLE, "record_every": 30, "optimizers": [{"name": "adam", "label": 'Adam, "fast"'}, {"name": "sgd"}]}
    runs = service.post(PATH, body).json()["runs"]
    answer = service.post(PATH, body, **asked("text/csv"))
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    head, *rows = csv.reader(io.StringIO(answer.text))
    assert head == ["label", "step", "value", "gradient_norm", "x1", "x2"]
    expected = [
        [r["label"], n, value, length, *point]
        for r in runs
        for n, value, length, point in zip(
            r["recorded_steps"], r["values"], r["gradient_norms"], r["params"], strict=True
        )
    ]
    assert [[label, int(n), *map(float, numbers)] for label, n, *numbers in rows] == expected


@pytest.mark.parametrize("view", ["path", "values", "both", "surface"])
def test_pictures(service: Service, view: str) -> None:
    svg = service.post(f"{PATH}?view={view}&width=700&height=500", EXAMPLE, **asked("image/svg+xml"))
    assert svg.headers["content-type"] == "image/svg+xml"
    root = ElementTree.fromstring(svg.content)
    assert (root.get("width"), root.get("height")) == ("700", "500")
    assert "adam" in "".join(root.itertext())
    png = service.post(f"{PATH}?view={view}&width=700&height=500&dpi=80", EXAMPLE, **asked("image/png"))
    assert png.headers["content-type"] == "image/png"
    assert png.content[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(png.content[16:20]), int.from_bytes(png.content[20:24])) == (700, 500)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("*/*", "application/json"),
        ("image/*", "image/svg+xml"),
        ("text/*", "text/csv"),
        ("image/png;q=0.5, text/csv;q=0.9", "text/csv"),
        ("text/html, */*;q=0.1", "application/json"),
    ],
)
def test_accept_chooses(service: Service, accept: str, form: str) -> None:
    body = {"function": "sphere", "steps": 3, "optimizers": [{"name": "sgd"}]}
    assert service.post(PATH, body, **asked(accept)).headers["content-type"].startswith(form)


def test_no_other_form(service: Service) -> None:
    answer = service.post(PATH, EXAMPLE, **asked("application/pdf"))
    assert answer.status_code == 406
    assert "image/svg+xml" in answer.json()["detail"]


# What is wrong


@pytest.mark.parametrize(
    ("change", "query", "pointer", "says"),
    [
        ({"function": "rosenbrok"}, "", "/function", "did you mean 'rosenbrock'"),
        ({"function": 3}, "", "/function", "string"),
        ({"steps": 0}, "", "/steps", "greater than or equal to 1"),
        ({"steps": 1.5}, "", "/steps", "integer"),
        ({"steps": 600_000}, "", "/steps", "1000000"),
        ({"start": [1.0, "2"]}, "", "/start/1", "number"),
        ({"start": [1.0, 2.0, 3.0], "function": "booth"}, "", "/start", "exactly 2"),
        (
            {"optimizers": [{"name": "adam"}, {"name": "sgd", "learning_rate": -1}]},
            "",
            "/optimizers/1/learning_rate",
            "",
        ),
        ({"gradient": {"kind": "noisy"}}, "", "/gradient/sigma", "sigma"),
        ({"record_every": 0}, "", "/record_every", "greater than or equal to 1"),
        ({"stop": {"patience": 3}}, "", "/stop/patience", "gradient_norm"),
        ({"seed": 3}, "", "/seed", "no such field"),
        ({}, "?view=3d", "/view", "'surface'"),
        ({}, "?width=100", "/width", "200"),
        ({}, "?height=4001", "/height", "4000"),
        ({}, "?dpi=10", "/dpi", "50"),
        ({"start": [1.0] * 3}, "?view=path", "/view", "view=values"),
        ({"start": [1.0] * 3}, "?view=surface", "/view", "view=values"),
        ({"optimizers": [{"name": "sgd"}] * 26}, "", "/optimizers", "at most 25"),
    ],
    ids=str,
)
def test_problems_point_at_what_is_wrong(
    service: Service, change: dict[str, Any], query: str, pointer: str, says: str
) -> None:
    answer = service.post(PATH + query, EXAMPLE | change, **asked("image/png"))
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["pointer"] == pointer
    assert says in answer.json()["detail"]


def test_the_operator_bounds_the_work(serve: Serve) -> None:
    service = serve(max_run_evaluations=300)
    body = {"function": "sphere", "steps": 150, "optimizers": [{"name": "sgd"}, {"name": "adam"}]}
    assert service.post(PATH, body).status_code == 200
    refused = service.post(PATH, body | {"steps": 151})
    assert refused.status_code == 422
    assert "300" in refused.json()["detail"]


# At work


def test_a_long_run_leaves_the_loop_to_others(service: Service, client: httpx.AsyncClient, run: Any) -> None:
    order: list[str] = []

    async def long() -> None:
        body = {"function": "sphere", "steps": 60_000, "optimizers": [{"name": "adam"}], "record_every": 1000}
        assert (await client.post(PATH, json=body)).status_code == 200
        order.append("run")

    async def short() -> None:
        await asyncio.sleep(0.02)
        for _ in range(5):
            assert (await client.get("/livez")).status_code == 200
        order.append("live")

    async def both() -> None:
        await asyncio.gather(long(), short())

    run(both())
    assert order == ["live", "run"]


def test_more_runs_than_can_wait_are_told_to_come_back(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, run: Any
) -> None:
    monkeypatch.setattr(sandbox, "MAX_WAITING", 2)
    body = {"function": "sphere", "steps": 20_000, "optimizers": [{"name": "adam"}], "record_every": 1000}

    async def many() -> list[httpx.Response]:
        return await asyncio.gather(*(client.post(PATH, json=body) for _ in range(6)))

    answers = run(many())
    assert sorted(answer.status_code for answer in answers) == [200, 200, 503, 503, 503, 503]
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.headers["retry-after"] == "5"
    assert run(client.post(PATH, json=body)).status_code == 200


def test_ten_thousand_steps_take_less_than_a_tenth_of_a_second(app: Shell, client: httpx.AsyncClient, run: Any) -> None:
    body = {
        "function": "rosenbrock",
        "start": [-1.2, 1.0],
        "steps": 10_000,
        "optimizers": [{"name": "adam", "learning_rate": 0.001}],
    }

    async def seconds() -> float:
        before = time.process_time()  # of this process alone: others on the machine do not count
        answer = await client.post(PATH, json=body)
        took = time.process_time() - before
        assert len(answer.json()["runs"][0]["params"]) == 10_001
        return took

    assert min(run(seconds()) for _ in range(7)) < 0.1


def test_the_document_describes_every_form(app: Shell) -> None:
    document = app.app.openapi()  # type: ignore[attr-defined]
    operation = document["paths"][PATH]["post"]
    content = operation["responses"]["200"]["content"]
    assert list(content) == ["application/json", "text/csv", "image/svg+xml", "image/png"]
    assert all("example" in form for form in content.values())
    example = content["application/json"]["example"]
    assert len(example["runs"][0]["params"]) == 3
    (body,) = operation["requestBody"]["content"].values()
    assert json.dumps(body["examples"])
    assert len(body["examples"]) == 5
    names = {parameter["name"] for parameter in operation["parameters"]}
    assert names == {"view", "width", "height", "dpi"}
