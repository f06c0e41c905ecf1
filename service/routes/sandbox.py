"""The sandbox: optimizers run on a benchmark function; answered as data or as a picture."""

import asyncio
import csv
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from service import sandbox
from service.errors import Unavailable
from service.functions import catalogue
from service.routes.bodies import Body, json_body, read
from service.sandbox import Plan, Run
from service.settings import Settings
from service.wire.json import MEDIA_TYPE, dumps, loads
from service.wire.negotiation import answer_form

CSV, SVG, PNG = "text/csv", "image/svg+xml", "image/png"
FORMS = (MEDIA_TYPE, CSV, SVG, PNG)
INLINE = 4_000  # coordinates evaluated; a longer run leaves the event loop to others
MAX_WAITING = 64  # runs and pictures under way or waiting for a thread

T = TypeVar("T")
View = Literal["path", "values", "both", "surface"]
Pixels = Annotated[int | None, Query(ge=200, le=4000, description="Pixels of a picture; what suits it by default.")]


class RunSandbox(Body):
    """What is to be run."""

    function: str = Field(description="A name from /v1/functions.")
    start: list[float] | None = Field(None, description="Where all optimizers start; the function's own by default.")
    steps: int = Field(ge=1, description="Steps of each optimizer, unless a stop rule holds before.")
    optimizers: list[Any] = Field(
        description='Specifications, {"name": ...} or {"like": ...}, each with a "label" and "transforms" if wanted.'
    )
    gradient: Any = Field(
        "analytic",
        description='"analytic", {"kind": "central_difference", "h": 1e-7} or {"kind": "noisy", "sigma": 0.1, '
        '"seed": 1}: what the optimizers are given. The same seed gives every optimizer the same noise.',
    )
    record_every: int = Field(1, ge=1, description="Record steps 0, k, 2k, ... and the last one.")
    stop: dict[str, Any] = Field(
        {},
        description="Stop as soon as one holds: "
        + " ".join(f"{name}: {rule.meaning}" for name, rule in sandbox.STOPS.items()),
    )


def _decayed(initial: float, step_size: int) -> dict[str, Any]:
    return {"schedule": "step", "initial": initial, "step_size": step_size, "gamma": 0.5}


EXAMPLES: dict[str, Any] = {
    "two optimizers in Rosenbrock's valley": {
        "function": "rosenbrock",
        "start": [-1.2, 1.0],
        "steps": 200,
        "optimizers": [{"name": "adam", "learning_rate": 0.02}, {"name": "sgd", "learning_rate": 0.001}],
    },
    "nine paths on a steep bowl": {
        "function": "steep_bowl",
        "start": [-2.5, 2.0],
        "steps": 80,
        "optimizers": [
            {"name": "sgd", "learning_rate": 0.046},
            {"name": "momentum", "learning_rate": 0.01},
            {"name": "adagrad", "dialect": "paper", "learning_rate": 0.2},
            {"name": "rmsprop", "learning_rate": 0.05, "rho": 0.9},
            {"name": "adadelta", "epsilon": 0.001},
            {"name": "adam", "learning_rate": 0.2},
            {"name": "adamw", "learning_rate": 0.2, "weight_decay": 0.1},
            {"label": "sgd + step decay", "name": "sgd", "learning_rate": _decayed(0.046, 20)},
            {"label": "momentum + step decay", "name": "momentum", "learning_rate": _decayed(0.01, 20)},
        ],
    },
    "nine paths on a wavy bowl": {
        "function": "wavy_bowl",
        "start": [-2.0, 2.5],
        "steps": 150,
        "optimizers": [
            {"name": "sgd", "learning_rate": 0.003},
            {"name": "momentum", "learning_rate": 0.003},
            {"name": "adagrad", "dialect": "paper", "learning_rate": 0.3},
            {"name": "rmsprop", "learning_rate": 0.05, "rho": 0.9},
            {"name": "adadelta", "epsilon": 0.0001},
            {"name": "adam", "learning_rate": 0.3},
            {"name": "adamw", "learning_rate": 0.3, "weight_decay": 0.1},
            {"label": "sgd + step decay", "name": "sgd", "learning_rate": _decayed(0.003, 40)},
            {"label": "momentum + step decay", "name": "momentum", "learning_rate": _decayed(0.003, 40)},
        ],
    },
    "central differences until the gradient vanishes": {
        "function": "sphere",
        "start": [3.0, 6.0],
        "steps": 5000,
        "optimizers": [{"name": "sgd", "learning_rate": 0.01}],
        "gradient": {"kind": "central_difference", "h": 1e-7},
        "record_every": 10,
        "stop": {"gradient_norm": 1e-6},
    },
    "the same noise for both": {
        "function": "long_bowl",
        "steps": 100,
        "optimizers": [
            {"like": "torch.optim.Adam", "lr": 0.1},
            {"name": "sgd", "learning_rate": 0.1, "transforms": [{"name": "clip_by_global_norm", "max_norm": 1.0}]},
        ],
        "gradient": {"kind": "noisy", "sigma": 0.1, "seed": 1},
    },
}


def router(settings: Settings) -> APIRouter:
    """The route of /v1/sandbox/runs."""
    routes = APIRouter(tags=["sandbox"])
    threads = _Threads()

    @routes.post(
        "/v1/sandbox/runs",
        operation_id="runSandbox",
        responses={200: {"description": "The paths, in the form that Accept asks for.", "content": _answers()}},
        openapi_extra={"requestBody": json_body(RunSandbox, EXAMPLES)},
    )
    async def run(
        request: Request,
        view: Annotated[View, Query(description="What a picture shows; above two coordinates, values.")] = "both",
        width: Pixels = None,
        height: Pixels = None,
        dpi: Annotated[int, Query(ge=50, le=300, description="More makes all in the picture larger.")] = 100,
    ) -> Response:
        """Run optimizers on a function from one start: as JSON, as rows of CSV, or as a picture (SVG, PNG).

        A divergence is a result: the record ends at the last finite point. Values and gradient norms are the
        function's own at the points reached, whichever gradient the optimizers were given.
        """
        form = answer_form(request.headers.raw, FORMS)
        body, _ = await read(request, RunSandbox)
        plan = sandbox.plan(
            body.function,
            body.start,
            body.steps,
            body.optimizers,
            gradient=body.gradient,
            record_every=body.record_every,
            stop=body.stop,
            max_evaluations=settings.max_run_evaluations,
        )

        if form in (SVG, PNG):
            await threads.draw(lambda: _drawable(plan, view))
            runs = await threads.run(lambda: sandbox.run(plan))
            content = await threads.draw(lambda: _picture(plan, runs, form, view, width, height, dpi))
        elif plan.evaluations * plan.start.size <= INLINE:
            content = _text(plan, form)
        else:
            content = await threads.run(lambda: _text(plan, form))
        return Response(content, media_type=form)

    return routes


class _Threads:
    """Two threads for runs and one for pictures, beside the event loop and apart from everyone else's."""

    def __init__(self) -> None:
        self._runs = ThreadPoolExecutor(2, thread_name_prefix="sandbox")
        self._pictures = ThreadPoolExecutor(1, thread_name_prefix="figures")
        self._waiting = 0

    async def run(self, work: Callable[[], T]) -> T:
        return await self._on(self._runs, work)

    async def draw(self, work: Callable[[], T]) -> T:
        return await self._on(self._pictures, work)

    async def _on(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        if self._waiting >= MAX_WAITING:
            raise Unavailable(f"{MAX_WAITING} runs are under way or waiting; come back.", retry_after=5)
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, work)
        finally:
            self._waiting -= 1


def _text(plan: Plan, form: str) -> bytes:
    """The runs as JSON or CSV."""
    runs = sandbox.run(plan)
    if form == CSV:
        return _rows(runs).encode()
    return dumps(
        {"function": catalogue.describe(plan.function, plan.start.size), "runs": [describe(run) for run in runs]}
    )


def _drawable(plan: Plan, view: View) -> None:
    """Raises Invalid where there will be no such picture, before the work is done."""
    from service import figures  # matplotlib takes a second to import, and most runs draw nothing

    figures.check(view, plan.start.size, len(plan.lanes))


def _picture(
    plan: Plan, runs: Sequence[Run], form: str, view: View, width: int | None, height: int | None, dpi: int
) -> bytes:
    from service import figures

    kind: Literal["svg", "png"] = "svg" if form == SVG else "png"
    return figures.draw(plan.function, runs, view=view, form=kind, width=width, height=height, dpi=dpi)


def describe(run: Run) -> dict[str, Any]:
    """A run in the contract's words; arrays stay arrays, for the writer to write."""
    shown: dict[str, Any] = {
        "optimizer": run.optimizer,
        "label": run.label,
        "status": run.status,
        "steps": run.steps,
        "evaluations": run.evaluations,
        "params": run.params,
        "values": run.values,
        "gradient_norms": run.gradient_norms,
        "recorded_steps": run.recorded_steps,
        "best": run.best._asdict(),
    }
    if run.stopped_by is not None:
        shown["stopped_by"] = run.stopped_by
    if run.diverged_at is not None:
        shown["diverged_at"] = run.diverged_at
    return shown


def _rows(runs: Sequence[Run]) -> str:
    """RFC 4180: one row for each recorded point, numbers with all their digits."""
    text = io.StringIO()
    writer = csv.writer(text)
    coordinates = [f"x{i + 1}" for i in range(runs[0].params.shape[1])]
    writer.writerow(["label", "step", "value", "gradient_norm", *coordinates])
    for run in runs:
        columns = (run.recorded_steps.tolist(), run.values.tolist(), run.gradient_norms.tolist(), run.params.tolist())
        writer.writerows((run.label, *numbers, *point) for *numbers, point in zip(*columns, strict=True))
    return text.getvalue()


def _answers() -> dict[str, Any]:
    """An example of each form of the answer, made by a short run."""
    plan = sandbox.plan("rosenbrock", [-1.2, 1.0], 2, [{"name": "adam", "learning_rate": 0.02}])
    binary = {"type": "string", "format": "binary"}
    return {
        MEDIA_TYPE: {"example": loads(_text(plan, MEDIA_TYPE))},
        CSV: {"schema": {"type": "string"}, "example": _text(plan, CSV).decode()},
        SVG: {"schema": {"type": "string"}, "example": '<svg xmlns="http://www.w3.org/2000/svg">...</svg>'},
        PNG: {"schema": binary, "example": "the bytes of a PNG file"},
    }
