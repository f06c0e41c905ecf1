"""What all tests share: Hypothesis profiles, a loop for each test, and the service in process.

A test may be a coroutine function; it runs in the loop of the fixture `run`, as do the fixtures that need one.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import random
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import hypothesis
import pytest

from service import main
from service.sessions.engine import Engine
from service.settings import Settings
from service.shell import Shell
from service.stores.base import Store

# one seed for the run: workers of a parallel run inherit it, and so collect the same tests
os.environ.setdefault("TEST_SEED", str(random.SystemRandom().randrange(1 << 32)))

# loops that tests compile are kept for the run and for nobody else
if "PYTEST_XDIST_WORKER" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="thalweg-cache-")
    os.environ["XDG_CACHE_HOME"] = _CACHE.name

Run = Callable[[Coroutine[Any, Any, Any]], Any]
Serve = Callable[..., "Service"]

hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


class Service:
    """The application on a store, with its engine, and a client that calls it without a network.

    `now` is the engine's clock. A store that is given is left open at the end, for the next service to use.
    """

    def __init__(
        self, run: Run, settings: Settings, store: Store | None = None, now: Callable[[], float] = time.time
    ) -> None:
        engines: list[Engine] = []

        def build(*arguments: Any) -> Engine:
            engines.append(Engine(*arguments, now))
            return engines[0]

        self.store = store or main.open_store(settings)
        with mock.patch.object(main, "Engine", build):
            self.app: Shell = main.create_app(settings, Lent(self.store) if store else self.store)
        self.engine = engines[0]
        self._run = run
        self._lifespan = self.app.app.router.lifespan_context(self.app.app)
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://thalweg")
        run(self._lifespan.__aenter__())
        self._running = True

    def request(self, method: str, path: str, json: Any = None, **more: Any) -> httpx.Response:
        """One request, waited for."""
        response: httpx.Response = self._run(self.client.request(method, path, json=json, **more))
        return response

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.request("GET", path, **more)

    def post(self, path: str, json: Any = None, **more: Any) -> httpx.Response:
        return self.request("POST", path, json, **more)

    def patch(self, path: str, json: Any) -> httpx.Response:
        return self.request("PATCH", path, json)

    def delete(self, path: str) -> httpx.Response:
        return self.request("DELETE", path)

    def stop(self) -> None:
        """What a server does at a stop; once."""
        if self._running:
            self._running = False
            self._run(self.client.aclose())
            self._run(self._lifespan.__aexit__(None, None, None))


class Lent:
    """A store that its user cannot close."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def close(self) -> None:
        """Left to the owner."""


def pytest_collection_finish() -> None:
    """What was imported and collected lives to the end: to look for garbage in it would take a fifth of the time."""
    gc.collect()
    gc.freeze()


def pytest_itemcollected(item: pytest.Item) -> None:
    """A test that is a coroutine function needs the loop that it runs in."""
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj) and "run" not in item.fixturenames:
        item.fixturenames.append("run")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine function in the loop of `run`."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    pyfuncitem.funcargs["run"](pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


@pytest.fixture
def run() -> Iterator[Run]:
    """Runs a coroutine in the test's loop; an exception that nobody took fails the test."""
    unhandled: list[dict[str, Any]] = []
    with asyncio.Runner() as runner:
        runner.get_loop().set_exception_handler(lambda _, context: unhandled.append(context))
        yield runner.run
    assert not unhandled, unhandled


@pytest.fixture
def serve(run: Run, tmp_path: Path) -> Iterator[Serve]:
    """Makes services; all are stopped at the end. Keywords that are not `store` or `now` are settings."""
    made: list[Service] = []

    def make(*, kind: str = "memory", store: Store | None = None, now: Any = time.time, **values: Any) -> Service:
        settings = Settings(**{"store": kind, "data": tmp_path / "data", **values})
        made.append(Service(run, settings, store, now))
        return made[-1]

    yield make
    for service in reversed(made):  # those on a store that was lent before its owner
        service.stop()


@pytest.fixture
def service(serve: Serve) -> Service:
    """One service with default settings on a store in memory."""
    return serve()


@pytest.fixture
def app(service: Service) -> Shell:
    """Its ASGI application."""
    return service.app


@pytest.fixture
def client(service: Service) -> httpx.AsyncClient:
    """Its client; use it in the test's loop: `run(client.get("/livez"))`, or from a test that is a coroutine."""
    return service.client
