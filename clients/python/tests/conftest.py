"""A service to talk to without a network, the service itself, and both clients behind one handle."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import inspect
import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

import thalweg

EXAMPLES = Path(__file__).parents[1] / "examples"
PROBLEM = {"content-type": "application/problem+json"}


def problem(status: int, code: str, detail: str = "No.", headers: dict[str, str] | None = None, **members: Any):
    """An error as the service words it."""
    body = {"type": f"urn:thalweg:problem:{code}", "title": code, "status": status, "detail": detail, "code": code}
    return httpx.Response(status, json={**body, "request_id": "r1", **members}, headers={**PROBLEM, **(headers or {})})


class Script:
    """Answers in order: a response, an exception to raise, or an object to send as JSON. Keeps what was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):  # a copy: a response belongs to the client that read it
            return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)
        return httpx.Response(200, json=answer)


class Descent:
    """Sessions of plain gradient descent with learning rate 0.1, and the service's rules about step numbers.

    `faults` gives for each request in turn: None, "before" (the request is lost) or "after" (the answer is lost). With
    `durable`, a function of the step, an answer says that this one is the durable step.
    """

    def __init__(self, faults: Iterable[str | None] = (), durable: Callable[[int], int] | None = None) -> None:
        self.faults = iter(faults)
        self.durable = durable
        self.sessions: dict[str, SimpleNamespace] = {}
        self.applied = 0

    def fall_back(self, step: int) -> None:
        """A crash that undoes the steps after this one in all sessions."""
        for session in self.sessions.values():
            del session.taken[step:]
            session.params = session.taken[-1][1]["params"] if session.taken else session.body["params"]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        fault = next(self.faults, None)
        if fault == "before":
            raise httpx.ConnectError("refused", request=request)
        answer = self.answer(request.method, request.url, json.loads(request.content or b"null"))
        if fault == "after":
            raise httpx.ReadError("cut off", request=request)
        return answer

    def answer(self, method: str, url: httpx.URL, body: Any) -> httpx.Response:
        match [method, *url.path.split("/")[3:]]:
            case ["POST"]:
                return self.create(body)
            case [_, id, *_] if id not in self.sessions:
                return problem(404, "not-found")
            case ["POST", id, "steps"]:
                return self.step(self.sessions[id], body)
            case ["POST", id, "rewind"]:
                session = self.sessions[id]
                del session.taken[body["step"] :]
                session.params = session.taken[-1][1]["params"] if session.taken else session.body["params"]
                return httpx.Response(200, json={**self.description(session), "params": session.params})
            case ["GET", id, "params"]:
                session = self.sessions[id]
                return httpx.Response(200, json={"step": len(session.taken), "params": session.params})
            case ["GET", id, "steps"]:
                taken = self.sessions[id].taken[int(url.params.get("after", 0)) :]
                items = [{name: value for name, value in answer.items() if name != "params"} for _, answer in taken]
                more = {"next_cursor": "more"} if len(items) > 2 else {}
                return httpx.Response(200, json={"items": items[:2], **more})
            case ["GET", id]:
                return httpx.Response(200, json=self.description(self.sessions[id]))
            case ["DELETE", id]:
                del self.sessions[id]
                return httpx.Response(204)
        return problem(405, "method-not-allowed")

    def description(self, session: SimpleNamespace) -> dict[str, Any]:
        told = {"id": session.id, "step": len(session.taken), "dtype": "float64", "optimizer": {"name": "sgd"}}
        return told | ({"durability": "every:9", "durable_step": 0} if self.durable else {})

    def create(self, body: Any) -> httpx.Response:
        known = self.sessions.get(body["id"])
        if known and known.body != body:
            return problem(422, "invalid", "This id belongs to another session.")
        session = known or SimpleNamespace(id=body["id"], body=body, params=body["params"], taken=[])
        self.sessions[session.id] = session
        return httpx.Response(201, json={**self.description(session), "params": session.params})

    def step(self, session: SimpleNamespace, body: Any) -> httpx.Response:
        number, current = body["step"], len(session.taken)
        if number > current + 1:
            return problem(412, "step-mismatch", current_step=current)
        if number <= current:
            before, answer = session.taken[number - 1]
            if {**before, "return": None} != {**body, "return": None}:
                return problem(422, "step-reused")
            return httpx.Response(200, json={**answer, "replayed": True})
        self.applied += 1
        session.params = descend(session.params, body["gradients"])
        answer = {"step": number, "loss": body.get("loss"), "learning_rate": 0.1, "replayed": False}
        if self.durable:
            answer["durable_step"] = self.durable(number)
        session.taken.append((body, {**answer, "params": session.params}))
        return httpx.Response(200, json=session.taken[-1][1])


def descend(params: Any, gradients: Any) -> Any:
    if isinstance(params, dict):
        return {name: descend(value, gradients.get(name)) for name, value in params.items()}
    return params if gradients is None else (np.array(params) - 0.1 * np.array(gradients)).tolist()


class Twin:
    """One of the two clients. `run` calls an operation `async (client, do)`, where `await do(...)` is the value of a
    call in either: awaited where it must be, and a list where it is an iterator."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def run(self, service: Callable[..., httpx.Response] | str, operation: Any, **options: Any) -> SimpleNamespace:
        """The operation's `value` or `error`, and the `pauses` that were made. `service` answers, or is an address."""
        outcome = SimpleNamespace(value=None, error=None, pauses=[])
        where = {"base_url": service} if isinstance(service, str) else {"transport": httpx.MockTransport(service)}

        async def sleep(seconds: float) -> None:
            outcome.pauses.append(seconds)

        async def main() -> Any:
            if self.kind == "sync":
                with thalweg.Client(sleep=outcome.pauses.append, **where, **options) as client:
                    return await operation(client, settle)
            async with thalweg.AsyncClient(sleep=sleep, **where, **options) as client:
                return await operation(client, settle)

        try:
            outcome.value = asyncio.run(main())
        except thalweg.ThalwegError as error:
            outcome.error = error
        return outcome


async def settle(value: Any) -> Any:
    if inspect.isawaitable(value):
        return await value
    if hasattr(value, "__aiter__"):
        return [item async for item in value]
    return list(value) if isinstance(value, Iterator) else value


@pytest.fixture(params=["sync", "async"])
def twin(request: pytest.FixtureRequest) -> Twin:
    return Twin(request.param)


@pytest.fixture(autouse=True)
def _no_address_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("THALWEG_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@contextlib.asynccontextmanager
async def opened(stream: Any) -> AsyncIterator[Any]:
    """A stream of either client, for `async with`."""
    if hasattr(stream, "__aenter__"):
        async with stream:
            yield stream
    else:
        with stream:
            yield stream


@pytest.fixture(scope="session")
def make() -> SimpleNamespace:
    """What the tests build: scripts, services, problem documents, clients, open streams."""
    return SimpleNamespace(script=Script, descent=Descent, problem=problem, twin=Twin, opened=opened)


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """The service itself, in a thread, on a free port; where it is installed."""
    main = pytest.importorskip("service.main")
    settings = pytest.importorskip("service.settings")
    uvicorn = pytest.importorskip("uvicorn")
    app = main.create_app(settings.Settings(store="memory", log_level="critical"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="websockets-sansio"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield "http://{}:{}".format(*listening.getsockname())
        server.should_exit = True
        thread.join(20)


@pytest.fixture
def on_service(twin: Twin, address: str) -> Callable[..., Any]:
    """Runs an operation on the service; what it raises is raised."""

    def run(operation: Any, **options: Any) -> Any:
        outcome = twin.run(address, operation, **options)
        if outcome.error:
            raise outcome.error
        assert outcome.pauses == []
        return outcome.value

    return run


@pytest.fixture(scope="session")
def serving() -> ModuleType:
    """The example that starts the service as a process, kills it, and starts it again."""
    pytest.importorskip("service.main")
    spec = importlib.util.spec_from_file_location("serving", EXAMPLES / "serving.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
