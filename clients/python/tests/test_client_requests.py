"""Every method asks for what the contract says, and both clients do the same."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest

import thalweg

RUN = {
    "optimizer": {"name": "sgd", "learning_rate": 0.1},
    "label": "sgd",
    "status": "diverged",
    "steps": 2,
    "params": [[1.0, 2.0], [0.5, 1.0]],
    "values": [5.0, 1.25],
    "gradient_norms": [4.0, 2.0],
    "recorded_steps": [0, 1],
    "best": {"step": 1, "value": 1.25, "params": [0.5, 1.0]},
    "diverged_at": 2,
    "seconds": 0.5,
}
RUNS = {"function": {"name": "sphere"}, "runs": [RUN], "cost": 7}
SETTINGS = {"optimizers": ["sgd", {"name": "adam", "beta1": np.float32(0.5)}], "steps": 2, "stop": {"value": 1e-3}}
SETTINGS_SENT = {"optimizers": [{"name": "sgd"}, {"name": "adam", "beta1": 0.5}], "steps": 2, "stop": {"value": 1e-3}}
STEP = {"step": 3, "params": {"w": [1.0]}, "dtype": "float32", "learning_rate": 0.1, "queue": 2}


class Row(NamedTuple):
    """A call, the request that it must make, the answer, and what must come of it."""

    call: Any
    asked: str
    sent: Any
    answer: Any
    value: Any
    accept: str = "application/json"


def items(*names: str) -> dict[str, Any]:
    return {"items": [{"name": name} for name in names]}


def image(kind: str) -> httpx.Response:
    return httpx.Response(200, content=b"<svg/>", headers={"content-type": kind})


ROWS = {
    "optimizers": Row(lambda c: c.catalogue.optimizers(), "GET /v1/optimizers", None, items("a"), [{"name": "a"}]),
    "optimizer": Row(lambda c: c.catalogue.optimizer("adam"), "GET /v1/optimizers/adam", None, {"a": 1}, {"a": 1}),
    "schedules": Row(lambda c: c.catalogue.schedules(), "GET /v1/schedules", None, items(), []),
    "schedule": Row(lambda c: c.catalogue.schedule("step"), "GET /v1/schedules/step", None, {"a": 1}, {"a": 1}),
    "transforms": Row(lambda c: c.catalogue.transforms(), "GET /v1/transforms", None, items(), []),
    "transform": Row(lambda c: c.catalogue.transform("clip"), "GET /v1/transforms/clip", None, {"a": 1}, {"a": 1}),
    "functions": Row(lambda c: c.catalogue.functions(), "GET /v1/functions", None, items(), []),
    "function": Row(lambda c: c.catalogue.function("/ é"), "GET /v1/functions/%2F%20%C3%A9", None, {"a": 1}, {"a": 1}),
    "evaluate": Row(
        lambda c: c.catalogue.evaluate("sphere", [[1, 2]], gradient=True),
        "POST /v1/functions/sphere/evaluate",
        {"points": [[1.0, 2.0]], "gradient": True, "hessian": False},
        {"values": [5.0], "gradients": [[2.0, 4.0]], "cost": 1},
        lambda e: (e.values.tolist(), e.gradients.shape, e.hessians, e.extra) == ([5.0], (1, 2), None, {"cost": 1}),
    ),
    "get": Row(lambda c: c.sessions.get("s_1"), "GET /v1/sessions/s_1", None, {"id": "s_1"}, {"id": "s_1"}),
    "list": Row(
        lambda c: c.sessions.list(labels={"course": "ml 101", "a": "b"}, state="open", page_size=5),
        "GET /v1/sessions?label=course%3Aml%20101&label=a%3Ab&state=open&limit=5",
        None,
        items("x"),
        [{"name": "x"}],
    ),
    "update": Row(
        lambda c: c.sessions.update("s", hyperparameters={"learning_rate": 1e-3}, labels={"a": "b"}, ttl_seconds=60),
        "PATCH /v1/sessions/s",
        {"hyperparameters": {"learning_rate": 1e-3}, "labels": {"a": "b"}, "ttl_seconds": 60},
        {"id": "s"},
        {"id": "s"},
    ),
    "delete": Row(lambda c: c.sessions.delete("s"), "DELETE /v1/sessions/s", None, httpx.Response(204), None),
    "history": Row(
        lambda c: c.sessions.history("s", after=2, page_size=9),
        "GET /v1/sessions/s/steps?after=2&limit=9",
        None,
        {"items": [{"step": 3, "loss": 0.5, "time": "2026-01-01T00:00:00Z"}]},
        lambda steps: [(s.step, s.loss, s.time, s.params) for s in steps] == [(3, 0.5, "2026-01-01T00:00:00Z", None)],
    ),
    "step_at": Row(
        lambda c: c.sessions.step_at("s", 3),
        "GET /v1/sessions/s/steps/3",
        None,
        STEP,
        lambda s: (s.step, s.params["w"].dtype, s.extra) == (3, np.float32, {"dtype": "float32", "queue": 2}),
    ),
    "params": Row(
        lambda c: c.sessions.params("s"), "GET /v1/sessions/s/params", None, STEP, lambda p: p["w"].tolist() == [1.0]
    ),
    "params of a step": Row(
        lambda c: c.sessions.params("s", 3), "GET /v1/sessions/s/params?step=3", None, STEP, lambda p: set(p) == {"w"}
    ),
    "create": Row(
        lambda c: c.sessions.create(
            "adam", [3, 6], id="mine", dtype="float32", transforms=["center"], groups=[{"match": "*"}],
            non_finite="skip", durability="none", ttl_seconds=9, labels={"a": "b"},
        ),
        "POST /v1/sessions",
        {
            "params": [3.0, 6.0], "optimizer": {"name": "adam"}, "dtype": "float32", "transforms": [{"name": "center"}],
            "groups": [{"match": "*"}], "non_finite": "skip", "durability": "none", "id": "mine", "ttl_seconds": 9,
            "labels": {"a": "b"},
        },
        {"id": "mine", "step": 4, "params": [1.5, 2.0], "dtype": "float32"},
        lambda s: (s.id, s.step_number, s.params.tolist(), s.params.dtype) == ("mine", 4, [1.5, 2.0], np.float32),
    ),
    "run": Row(
        lambda c: c.sandbox.run("sphere", [1, 2], gradient="analytic", record_every=1, **SETTINGS),
        "POST /v1/sandbox/runs",
        {"function": "sphere", "start": [1.0, 2.0], "gradient": "analytic", "record_every": 1, **SETTINGS_SENT},
        RUNS,
        lambda t: t.function == {"name": "sphere"} and t.extra == {"cost": 7} and t.runs[0].params.shape == (2, 2),
    ),
    "picture": Row(
        lambda c: c.sandbox.picture("sphere", view="both", **SETTINGS),
        "POST /v1/sandbox/runs?view=both",
        {"function": "sphere", **SETTINGS_SENT},
        image("image/svg+xml; charset=utf-8"),
        b"<svg/>",
        "image/svg+xml",
    ),
    "png": Row(
        lambda c: c.sandbox.picture("sphere", format="png", **SETTINGS),
        "POST /v1/sandbox/runs",
        {"function": "sphere", **SETTINGS_SENT},
        image("image/png"),
        b"<svg/>",
        "image/png",
    ),
    "csv": Row(
        lambda c: c.sandbox.csv("sphere", **SETTINGS),
        "POST /v1/sandbox/runs",
        {"function": "sphere", **SETTINGS_SENT},
        httpx.Response(200, content="a,b\n1,é\n".encode(), headers={"content-type": "text/csv; charset=utf-8"}),
        "a,b\n1,é\n",
        "text/csv",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_request_and_value(twin, make, name):
    row = ROWS[name]
    script = make.script(row.answer)

    async def operation(client, do):
        return await do(row.call(client))

    outcome = twin.run(script, operation)
    (asked,) = script.asked
    assert outcome.error is None
    assert f"{asked.method} {asked.url.raw_path.decode()}" == row.asked
    assert (json.loads(asked.content) if asked.content else None) == row.sent
    assert asked.headers["accept"] == row.accept
    assert asked.headers.get("content-type") == (None if row.sent is None else "application/json")
    assert row.value(outcome.value) if callable(row.value) else outcome.value == row.value


def test_the_table_names_every_method():
    """Both clients have the same methods, and each stands in the table above, or with the tests of sessions."""

    def methods(kind):
        return {name for name in dir(kind) if not name.startswith("_")}

    one, two = thalweg.Client(), thalweg.AsyncClient()
    for part in ("sessions", "catalogue", "sandbox"):
        assert methods(getattr(one, part)) == methods(getattr(two, part))
        assert methods(getattr(one, part)) - {"open"} <= set(ROWS)
    assert methods(thalweg.Session) == methods(thalweg.AsyncSession)
    assert methods(one) - {"close"} == methods(two) - {"aclose"}
    one.close()


def test_runs_become_arrays(twin, make):
    async def operation(client, do):
        return await do(client.sandbox.run("sphere", **SETTINGS))

    (run,) = twin.run(make.script(RUNS), operation).value.runs
    assert (run.label, run.status, run.steps, run.diverged_at) == ("sgd", "diverged", 2, 2)
    assert run.optimizer == RUN["optimizer"]
    assert (run.params.shape, run.values.shape, run.gradient_norms.shape) == ((2, 2), (2,), (2,))
    assert (run.recorded_steps.tolist(), run.recorded_steps.dtype) == ([0, 1], np.int64)
    assert (run.best.step, run.best.value, run.best.params.tolist()) == (1, 1.25, [0.5, 1.0])
    assert run.extra == {"seconds": 0.5}


def test_pages_follow_the_cursor(twin, make):
    script = make.script({**items("a", "b"), "next_cursor": "x y"}, {**items("c"), "next_cursor": "z"}, items())

    async def operation(client, do):
        return await do(client.sessions.list(labels={"k": "v"}, page_size=2))

    assert [item["name"] for item in twin.run(script, operation).value] == ["a", "b", "c"]
    assert [request.url.query.decode() for request in script.asked] == [
        "label=k%3Av&limit=2",
        "label=k%3Av&limit=2&cursor=x%20y",
        "label=k%3Av&limit=2&cursor=z",
    ]


def test_a_catalogue_in_pages_is_one_list(twin, make):
    script = make.script({**items("a"), "next_cursor": "1"}, items("b"))

    async def operation(client, do):
        return await do(client.catalogue.optimizers())

    assert twin.run(script, operation).value == [{"name": "a"}, {"name": "b"}]


def test_history_goes_on_after_its_last_step(twin, make):
    def page(*steps, **more):
        return {"items": [{"step": step} for step in steps], **more}

    script = make.script(
        page(1, 2, next_cursor="2"), page(3, 4, next_after=4), page(5, next_after=5), page(next_after=9)
    )

    async def operation(client, do):
        return await do(client.sessions.history("s", page_size=2))

    assert [step.step for step in twin.run(script, operation).value] == [1, 2, 3, 4, 5]
    assert [request.url.query.decode() for request in script.asked] == [
        "limit=2", "after=2&limit=2", "after=4&limit=2", "after=5&limit=2"
    ]  # fmt: skip


def test_a_list_that_does_not_move_on_is_refused(twin, make):
    script = make.script(*[{**items("a"), "next_cursor": "x"}] * 2)

    async def operation(client, do):
        return await do(client.sessions.list())

    assert isinstance(twin.run(script, operation).error, thalweg.UnexpectedAnswer)


def test_pages_are_asked_for_one_by_one(make):
    script = make.script({**items("a"), "next_cursor": "1"})
    with thalweg.Client(transport=httpx.MockTransport(script)) as client:
        listed = client.sessions.list()
        assert not script.asked
        assert next(listed) == {"name": "a"}
        assert len(script.asked) == 1


@pytest.mark.parametrize("id", ["", ".", ".."])
def test_an_id_that_would_become_another_path_is_refused(twin, make, id):
    script = make.script()

    async def operation(client, do):
        return await do(client.sessions.delete(id))

    assert isinstance(twin.run(script, operation).error, thalweg.InvalidInput)
    assert not script.asked


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.sandbox.run("sphere", optimizers="adam"),
        lambda c: c.sandbox.run("sphere", optimizers={"name": "adam"}),
        lambda c: c.sandbox.run("sphere", [float("nan")], optimizers=["adam"]),
        lambda c: c.sandbox.picture("sphere", format="gif", optimizers=["adam"]),
        lambda c: c.sessions.create({"name": "adam", "learning_rate": float("inf")}, [1.0]),
        lambda c: c.sessions.create({"name": object()}, [1.0]),
        lambda c: c.sessions.create("adam", [1.0], transforms="center"),
        lambda c: c.catalogue.evaluate("sphere", [[float("inf")]]),
        lambda c: c.catalogue.evaluate("sphere", "abc"),
        lambda c: c.catalogue.function("x" * 100_000),
    ],
)
def test_what_cannot_be_sent_is_refused_here(twin, make, call):
    script = make.script()

    async def operation(client, do):
        return await do(call(client))

    error = twin.run(script, operation).error
    assert isinstance(error, thalweg.InvalidInput)
    assert isinstance(error, ValueError)
    assert not script.asked


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, html="<html><title>Router login</title></html>"),
        httpx.Response(200, json=[1, 2]),
        httpx.Response(200, json={"items": []}),
        httpx.Response(202, json={"job": "j_1", "status": "queued"}),
        httpx.Response(200, json={"function": {}, "runs": [{**RUN, "values": ["a", "b"]}]}),
    ],
)
def test_a_success_that_is_not_thalwegs(twin, make, answer):
    async def operation(client, do):
        return await do(client.sandbox.run("sphere", optimizers=["sgd"]))

    error = twin.run(make.script(answer), operation).error
    assert isinstance(error, thalweg.UnexpectedAnswer)
    assert len(str(error)) < 500


def test_work_that_is_only_accepted_is_no_result(twin, make):
    async def operation(client, do):
        return await do(client.sessions.get("s"))

    script = make.script(httpx.Response(202, json={"id": "j_1", "status": "queued"}))
    assert isinstance(twin.run(script, operation).error, thalweg.UnexpectedAnswer)


def test_a_picture_that_is_none(twin, make):
    async def operation(client, do):
        return await do(client.sandbox.picture("sphere", optimizers=["sgd"]))

    assert "image/svg+xml was asked for" in str(twin.run(make.script(RUNS), operation).error)


def test_a_missing_argument_is_pythons_own_error():
    with (
        thalweg.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200))) as client,
        pytest.raises(TypeError, match="optimizers"),
    ):
        client.sandbox.picture("sphere")


@pytest.mark.parametrize(
    ("answer", "value"),
    [({}, True), (httpx.Response(503), False), (httpx.Response(404), False), (httpx.ConnectError("refused"), False)],
)
def test_health(twin, make, answer, value):
    script = make.script(answer, answer)

    async def operation(client, do):
        return await do(client.livez()), await do(client.readyz())

    outcome = twin.run(script, operation)
    assert outcome.value == (value, value)
    assert [request.url.path for request in script.asked] == ["/livez", "/readyz"]
    assert outcome.pauses == []


def test_address_and_headers(twin, make, monkeypatch):
    async def operation(client, do):
        await do(client.sessions.get("s"))
        return client.base_url, repr(client)

    def visit(**options):
        script = make.script({})
        return script.asked, twin.run(script, operation, **options).value

    ((asked,), (shown, _)) = visit()
    assert str(asked.url) == "http://127.0.0.1:8000/v1/sessions/s"
    assert shown == "http://127.0.0.1:8000"
    assert asked.headers["user-agent"] == f"thalweg-client/{thalweg.__version__}"

    monkeypatch.setenv("THALWEG_URL", "https://example.org/opt/")
    ((asked,), _) = visit(headers={"Authorization": "Bearer x", "Accept": "text/plain"})
    assert str(asked.url) == "https://example.org/opt/v1/sessions/s"
    assert (asked.headers["authorization"], asked.headers["accept"]) == ("Bearer x", "application/json")

    ((asked,), (shown, text)) = visit(base_url="http://me:secret@example.org:81")
    assert asked.headers["authorization"].startswith("Basic ")
    assert shown == "http://example.org:81"
    assert "secret" not in text


def test_the_timeout_applies_to_every_request(twin, make):
    script = make.script({})

    async def operation(client, do):
        return await do(client.sessions.get("s"))

    twin.run(script, operation, timeout=7.5)
    assert script.asked[0].extensions["timeout"]["read"] == 7.5


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://a", "http://", "http://a?b=c", "http://a:port", "/v1"])
def test_no_address(url):
    with pytest.raises(thalweg.InvalidInput, match="base_url"):
        thalweg.Client(url)
