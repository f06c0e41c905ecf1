"""Open me first: how the service is put together.

    settings -> store -> engine -> routes -> shell

`create_app()` gives an ASGI application for any server. A request comes in through the shell (request id, limits,
problem+json for every error), a route parses it and calls one method of the engine, and the engine writes to the
store. The mathematics is in `service/optim`, the benchmark functions in `service/functions`.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service import __version__
from service import settings as configuration
from service.errors import MethodNotAllowed, NotFound, ThalwegError
from service.routes import (
    batch,
    bodies,
    checkpoints,
    docs,
    events,
    functions,
    health,
    openapi,
    optimizers,
    reference,
    revisions,
    sandbox,
    sessions,
    steps,
    stream,
)
from service.sessions.engine import Engine
from service.settings import Settings
from service.shell import PROBLEM, Shell
from service.stores.base import Store
from service.stores.memory import MemoryStore
from service.stores.sqlite import SQLiteStore
from service.wire.json import dumps


def create_app(settings: Settings | None = None, store: Store | None = None) -> Shell:
    """The service as an ASGI application; its lifespan closes the store.

    Without arguments everything comes from the environment. Raises SettingsError, or a StoreError when the data
    directory cannot be had.
    """
    settings = settings or configuration.load()
    store = store or open_store(settings)
    engine = Engine(store, settings)
    stopping = asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        stopping.set()
        await engine.close()
        store.close()

    app = FastAPI(
        title="Thalweg",
        version=__version__,
        description="An optimizer behind a URL: post gradients, get parameters. Exactly once, durable, exact.",
        lifespan=lifespan,
        redirect_slashes=False,
        docs_url=None,  # FastAPI's page is fetched from elsewhere; ours is not
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # else it asks the environment at each request
        exception_handlers={
            ThalwegError: _problem,
            HTTPException: _from_starlette,
            RequestValidationError: _from_validation,
            Exception: _internal,
        },
    )
    take = steps.TakeStep(engine)
    follow = events.Follow(engine, stopping)
    app.router.routes[:0] = [
        steps.route(take),
        batch.route(batch.TakeSteps(engine)),
        events.route(follow),
        stream.route(),
    ]
    for router in (
        steps.router(engine),
        sessions.router(engine),
        revisions.router(engine),
        checkpoints.router(engine),
        optimizers.router(),
        functions.router(),
        sandbox.router(settings),
        health.router(store, settings),
    ):
        app.include_router(router)
    app.include_router(docs.router(app))
    app.include_router(reference.router())
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign]  # FastAPI's own way to do it
    return Shell(app, settings, take, stream.Stream(engine, stopping), stopping)


def open_store(settings: Settings) -> Store:
    """The store that the settings name."""
    return MemoryStore() if settings.store == "memory" else SQLiteStore(settings.data)


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ThalwegError)
    body = dumps(error.problem(request.scope.get("request_id", "")))
    return Response(body, error.status, error.headers(), PROBLEM.decode())


async def _from_starlette(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    if error.status_code == 405:
        allow = openapi.methods(request.app, request.url.path)
        ours: ThalwegError = MethodNotAllowed(
            f"{request.method[:20]} is not for {path}; it takes {', '.join(allow)}.", allow=allow
        )
    elif error.status_code == 404:
        ours = NotFound(f"There is no path {path}; /docs lists them. An id holds no slash.")
    else:
        ours = ThalwegError(str(error.detail))
        ours.status = error.status_code
    return await _problem(request, ours)


async def _from_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [{**e, "loc": e["loc"][1:]} for e in error.errors()]
    return await _problem(request, bodies.from_pydantic(errors))


async def _internal(request: Request, error: Exception) -> Response:
    """What nobody foresaw; the framework raises it again, and the shell writes it to the log."""
    detail = "Something went wrong here; the request may or may not have happened. Send it again."
    return await _problem(request, ThalwegError(detail))
