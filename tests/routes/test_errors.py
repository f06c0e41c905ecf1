"""Every error of every route and layer has one shape, and says what to do."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.main import create_app
from service.settings import Settings
from service.stores.memory import MemoryStore

JSON = {"content-type": "application/json"}
CREATE = {"optimizer": {"name": "sgd", "learning_rate": 0.1}, "params": [1.0, 2.0]}


def with_app(
    work: Callable[[httpx.AsyncClient, Any], Awaitable[Any]], store: MemoryStore | None = None, **settings: Any
) -> Any:
    """Run `work(client, app)` against the application in this process."""

    async def run() -> Any:
        app = create_app(Settings(store="memory", **settings), store or MemoryStore())
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await work(client, app)

    return asyncio.run(run())


def check_problem(answer: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """Assert the contract's shape of a problem, and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert {"type", "title", "status", "detail", "code", "request_id"} <= problem.keys()
    assert re.fullmatch(r"[a-z][a-z-]+", problem["code"])
    assert problem["type"].endswith(problem["code"])
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert len(problem["detail"]) > 15
    assert problem["detail"].rstrip().endswith((".", "?")), problem["detail"]
    for place in problem.get("errors", []):
        assert set(place) == {"pointer", "detail"}
        assert place["pointer"] == "" or place["pointer"].startswith("/")
    assert len(problem.get("errors", [])) <= 10
    assert len(answer.content) < 20_000
    if code:
        assert problem["code"] == code
    return problem


def paths() -> list[tuple[str, str]]:
    """Every method and path of the OpenAPI document, with its parameters filled in."""
    app = create_app(Settings(store="memory"), MemoryStore())
    document = app.app.openapi()  # type: ignore[attr-defined]
    known = {"/v1/optimizers": "adam", "/v1/schedules": "step", "/v1/transforms": "l2", "/v1/functions": "sphere"}
    found = []
    for template, operations in document["paths"].items():
        name = next((value for prefix, value in known.items() if template.startswith(prefix)), "none")
        path = template.replace("{id}", "none").replace("{step}", "1").replace("{name}", name)
        found += [(method.upper(), path) for method in operations]
    return found


PATHS = paths()
POSTS = [path for method, path in PATHS if method in ("POST", "PATCH")]


def test_the_walk_sees_the_routes() -> None:
    assert len(PATHS) >= 15
    assert ("POST", "/v1/sessions/none/steps") in PATHS


@pytest.mark.parametrize(("method", "path"), PATHS)
def test_each_path_refuses_other_methods(method: str, path: str) -> None:
    async def work(client: httpx.AsyncClient, app: Any) -> None:
        answer = await client.request("PUT", path)
        problem = check_problem(answer, 405, "method-not-allowed")
        assert method in problem["allow"]
        assert method in answer.headers["allow"]

    with_app(work)


@pytest.mark.parametrize("path", [p for p in PATHS if p[1].startswith("/v1")], ids=" ".join)
def test_each_path_has_a_neighbour_that_does_not_exist(path: tuple[str, str]) -> None:
    async def work(client: httpx.AsyncClient, app: Any) -> None:
        for wrong in (f"{path[1]}/", f"{path[1]}/x/y/z", path[1].replace("/v1", "/v2", 1)):
            check_problem(await client.request(path[0], wrong), 404, "not-found")

    with_app(work)


@pytest.mark.parametrize(("method", "path"), [p for p in PATHS if p[0] != "DELETE"])
def test_each_path_refuses_an_accept_that_it_cannot_meet(method: str, path: str) -> None:
    async def work(client: httpx.AsyncClient, app: Any) -> None:
        body = {"content": b"{}", "headers": {**JSON, "accept": "application/x-nothing"}}
        if method == "GET":
            body = {"headers": {"accept": "application/x-nothing"}}
        answer = await client.request(method, path, **body)  # type: ignore[arg-type]
        # what stands in the way before the answer is formed may be said first
        assert answer.status_code in ((426,) if path.endswith("/stream") else (404, 406, 422))
        check_problem(answer, answer.status_code)

    with_app(work)


def test_not_acceptable_where_all_else_is_right() -> None:
    async def work(client: httpx.AsyncClient, app: Any) -> None:
        for path in ("/v1/sessions", "/v1/optimizers", "/v1/optimizers/adam", "/livez", "/readyz"):
            check_problem(await client.get(path, headers={"accept": "text/html"}), 406, "not-acceptable")

    with_app(work)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("content_type", [None, "text/plain", "application/xml", "multipart/form-data; boundary=x"])
def test_each_body_needs_its_content_type(path: str, content_type: str | None) -> None:
    async def work(client: httpx.AsyncClient, app: Any) -> None:
        method = "PATCH" if path == "/v1/sessions/none" else "POST"
        headers = {"content-type": content_type} if content_type else {}
        check_problem(await client.request(method, path, content=b"{}", headers=headers), 415, "unsupported-media-type")
        packed = {**JSON, "content-encoding": "br"}
        answer = await client.request(method, path, content=b"{}", headers=packed)
        check_problem(answer, 415, "unsupported-media-type")
        assert answer.headers["accept-encoding"] == "gzip, zstd"

    with_app(work)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"nonsense", b"\xff\xfe", "{}".encode("utf-16"), b'{"a": 1}}', b"[" * 100_000, b"9" * 5_000 + b"}"],
    ids=["empty", "cut", "word", "bytes", "utf-16", "more", "deep", "digits"],
)
def test_each_body_must_be_json(path: str, body: bytes) -> None:
    async def work(client: httpx.AsyncClient, app: Any) -> None:
        method = "PATCH" if path == "/v1/sessions/none" else "POST"
        check_problem(await client.request(method, path, content=body, headers=JSON), 400, "not-json")

    with_app(work)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"x"', b'{"no such field": 1}'])
def test_each_body_must_be_the_right_object(path: str, body: bytes) -> None:
    async def work(client: httpx.AsyncClient, app: Any) -> None:
        method = "PATCH" if path == "/v1/sessions/none" else "POST"
        check_problem(await client.request(method, path, content=body, headers=JSON), 422)

    with_app(work)


@pytest.mark.parametrize("path", POSTS)
def test_each_body_is_bounded(path: str) -> None:
    async def work(client: httpx.AsyncClient, app: Any) -> None:
        method = "PATCH" if path == "/v1/sessions/none" else "POST"
        check_problem(await client.request(method, path, content=b" " * 2000, headers=JSON), 413, "too-large")

        async def chunks() -> Any:
            for _ in range(20):
                yield b" " * 100

        check_problem(await client.request(method, path, content=chunks(), headers=JSON), 413, "too-large")

    with_app(work, max_body_bytes=1024)


def test_two_gigabytes_are_refused_unread() -> None:
    """The declared length is enough; nobody has to send it."""

    async def work(client: httpx.AsyncClient, app: Any) -> None:
        sent: list[Any] = []

        async def receive() -> Any:
            await asyncio.sleep(60)

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"content-type", b"application/json"), (b"content-length", str(2 << 30).encode())]
        scope = {"type": "http", "method": "POST", "path": "/v1/sessions", "headers": headers, "query_string": b""}
        await asyncio.wait_for(app(scope, receive, send), 10)
        assert sent[0]["status"] == 413
        assert json.loads(sent[1]["body"])["code"] == "too-large"

    with_app(work)


def test_too_many_sessions() -> None:
    async def work(client: httpx.AsyncClient, app: Any) -> None:
        for _ in range(2):
            assert (await client.post("/v1/sessions", json=CREATE)).status_code == 201
        answer = await client.post("/v1/sessions", json=CREATE)
        check_problem(answer, 429, "too-many")
        assert int(answer.headers["retry-after"]) > 0

    with_app(work, max_sessions=2)


def test_too_many_requests_under_way() -> None:
    class Slow(MemoryStore):
        def create(self, session: str, head: bytes, snapshot: bytes, due: float | None = None) -> asyncio.Future[None]:
            loop = asyncio.get_running_loop()
            done: asyncio.Future[None] = loop.create_future()
            loop.call_later(0.05, done.set_result, None)
            super().create(session, head, snapshot, due)
            return done

    async def work(client: httpx.AsyncClient, app: Any) -> None:
        answers = await asyncio.gather(*(client.post("/v1/sessions", json=CREATE) for _ in range(50)))
        refused = [a for a in answers if a.status_code == 503]
        assert refused
        check_problem(refused[0], 503, "unavailable")
        assert "retry-after" in refused[0].headers
        assert (await client.get("/livez")).status_code == 200

    with_app(work, Slow(), max_pending=3)


def test_what_nobody_foresaw_is_a_problem_too(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MemoryStore):
        def heads(self, before: int | None, limit: int, erased: bool = False) -> Any:
            raise RuntimeError("secret of the house")

        def create(self, session: str, head: bytes, snapshot: bytes, due: float | None = None) -> Any:
            raise RuntimeError("secret of the house")

    async def work(client: httpx.AsyncClient, app: Any) -> None:
        for answer in (await client.get("/v1/sessions"), await client.post("/v1/sessions", json=CREATE)):
            problem = check_problem(answer, 500, "internal")
            assert "secret" not in json.dumps(problem)

    with_app(work, Broken())
    assert "secret of the house" in caplog.text  # the operator sees it


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=0", "/limit"),
        ("limit=x", "/limit"),
        ("cursor=!!", "/cursor"),
        ("label=x", "/label"),
        ("state=z", "/state"),
    ],
)
def test_bad_queries(query: str, pointer: str) -> None:
    async def work(client: httpx.AsyncClient, app: Any) -> None:
        problem = check_problem(await client.get(f"/v1/sessions?{query}"), 422, "invalid")
        assert problem["errors"][0]["pointer"] == pointer

    with_app(work)


@pytest.mark.parametrize(
    ("change", "pointer", "says"),
    [
        ({"optimizer": {"name": "adamm"}}, "/optimizer/name", "adam"),
        ({"optimizer": {"name": "adam", "beta_1": 0.9}}, "/optimizer/beta_1", "beta1"),
        ({"optimizer": {"name": "sgd", "learning_rate": -0.1}}, "/optimizer/learning_rate", "at least 0"),
        ({"optimizer": {"like": "torch.optim.Adamm"}}, "/optimizer/like", "torch.optim.Adam"),
        ({"optimizer": "adam"}, "/optimizer", ""),
        ({"optimizer": {}}, "/optimizer/name", "name"),
        ({"params": [[1, 2], [3]]}, "/params/1", "an array of 2"),
        ({"params": ["1"]}, "/params/0", "a string"),
        ({"params": {}}, "/params", ""),
        ({"params": []}, "/params", ""),
        ({"params": {"a/b": [True]}}, "/params/a~1b/0", "boolean"),
        ({"dtype": "float8"}, "/dtype", "float64"),
        ({"id": "a/b"}, "/id", "letters"),
        ({"id": "x" * 129}, "/id", "128"),
        ({"groups": [{"match": "nothing", "learning_rate": 1}]}, "/groups/0/match", "No parameter"),
        ({"transforms": [{"name": "clip"}]}, "/transforms/0/name", "clip_by_value"),
        ({"ttl_seconds": -1}, "/ttl_seconds", ""),
        ({"labels": {"a": 1}}, "/labels/a", ""),
        ({"colour": "red"}, "/colour", "optimizer"),
    ],
)
def test_bad_sessions_are_pointed_at(change: dict[str, Any], pointer: str, says: str) -> None:
    async def work(client: httpx.AsyncClient, app: Any) -> None:
        problem = check_problem(await client.post("/v1/sessions", json=CREATE | change), 422)
        assert problem["errors"][0]["pointer"] == pointer
        assert says in problem["detail"] + problem["errors"][0]["detail"]
        assert (await client.get("/v1/sessions")).json()["items"] == []

    with_app(work)


def test_a_flood_of_errors_is_not_amplified() -> None:
    async def work(client: httpx.AsyncClient, app: Any) -> None:
        body = json.dumps(CREATE | {"labels": {str(i): {} for i in range(60)}, "transforms": [{}] * 1000})
        check_problem(await client.post("/v1/sessions", content=body, headers=JSON), 422)
        created = await client.post("/v1/sessions", json=CREATE | {"params": [0.0] * 100_000})
        bad = json.dumps({"gradients": [None] * 100_000})
        answer = await client.post(f"/v1/sessions/{created.json()['id']}/steps", content=bad, headers=JSON)
        assert len(check_problem(answer, 422, "non-finite")["errors"]) == 10

    with_app(work)


def test_request_ids_go_in_and_out() -> None:
    async def work(client: httpx.AsyncClient, app: Any) -> None:
        assert (await client.get("/livez", headers={"x-request-id": "mine-1"})).headers["x-request-id"] == "mine-1"
        bad = await client.get("/nope", headers={"x-request-id": "two words\t!"})
        assert bad.json()["request_id"] == bad.headers["x-request-id"] != "two words\t!"

    with_app(work)


# What no application sees: a real server.


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A service process of this test's own."""
    data = tmp_path_factory.mktemp("data")
    command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--data", str(data)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        line = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert found, line
        yield int(found[1])
        process.terminate()
        process.wait(30)
        assert process.returncode == 0


def exchange(port: int, sent: bytes, pause: float = 0.0) -> httpx.Response:
    """What a server answers to these bytes."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(sent)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    headers = [tuple(field.split(": ", 1)) for field in fields]
    return httpx.Response(int(status.split()[1]), headers=headers, content=body)  # type: ignore[arg-type]


def test_a_request_that_is_no_http(port: int) -> None:
    check_problem(exchange(port, b"hello there\r\n\r\n"), 400, "malformed-request")


def test_a_header_that_is_too_large(port: int) -> None:
    whole = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\nbig: " + b"x" * 60_000 + b"\r\n\r\n"
    check_problem(exchange(port, whole), 431, "headers-too-large")
    endless = b"GET /livez HTTP/1.1\r\nhost: x\r\nbig: " + b"x" * 300_000
    check_problem(exchange(port, endless), 431, "headers-too-large")
    many = b"GET /livez HTTP/1.1\r\nhost: x\r\n" + b"".join(b"h%d: x\r\n" % i for i in range(20_000)) + b"\r\n"
    check_problem(exchange(port, many), 431, "headers-too-large")


def test_a_body_past_the_limit_over_a_socket(port: int) -> None:
    head = b"POST /v1/sessions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    declared = head + b"content-length: %d\r\n\r\n" % (2 << 30)
    check_problem(exchange(port, declared + b" " * 100_000), 413, "too-large")


def test_a_second_process_refuses_the_data_directory(port: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--data", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as first:
        assert first.stderr
        assert "listens" in first.stderr.readline()
        second = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        first.terminate()
    assert second.returncode == 3
    assert str(tmp_path) in second.stderr
    assert second.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (["--port", "http"], {}, "port"),
        (["--port", "70000"], {}, "port"),
        ([], {"THALWEG_PROT": "1"}, "port"),
        ([], {"THALWEG_MAX_BODY_BYTES": "lots"}, "max_body_bytes"),
    ],
)
def test_wrong_settings_fail_at_the_start(arguments: list[str], environment: dict[str, str], says: str) -> None:
    command = [sys.executable, "-m", "service.cli", "serve", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=30, check=False)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
