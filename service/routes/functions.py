"""Benchmark functions: which there are, what is known of each, and what it comes to at given points."""

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from service.errors import Invalid, NonFinite, NotFound, Place, nearest
from service.functions import catalogue
from service.functions.base import LARGEST_DIMENSION, Array, Function, hessian
from service.routes.bodies import Body, answer, json_answer, json_body, read
from service.wire.json import dumps, loads

MAX_NUMBERS = 100_000  # in the points of one request, and in its Hessians


class Evaluate(Body):
    """Where to evaluate a function, and what of it."""

    points: list[list[float]] = Field(min_length=1, description="Points of equally many coordinates.")
    gradient: bool = Field(True, description="Answer the gradients too.")
    hessian: bool = Field(False, description="Answer the matrices of second derivatives too.")


EXAMPLES = {
    "values and gradients": {"points": [[-1.2, 1.0], [1.0, 1.0]]},
    "values alone": {"points": [[-1.2, 1.0]], "gradient": False},
    "with second derivatives": {"points": [[1.0, 1.0]], "hessian": True},
}


def router() -> APIRouter:
    """The routes of /v1/functions."""
    routes = APIRouter(tags=["functions"])
    rosenbrock = catalogue.get("rosenbrock")

    @routes.get(
        "/v1/functions",
        operation_id="listFunctions",
        responses={200: json_answer("All functions.", {"items": catalogue.summaries()[:1]})},
    )
    async def list_functions(request: Request) -> Response:
        """List the benchmark functions."""
        return answer(request, {"items": catalogue.summaries()})

    @routes.get(
        "/v1/functions/{name}",
        operation_id="getFunction",
        responses={200: json_answer("The function.", catalogue.describe(rosenbrock))},
    )
    async def get_function(
        name: str,
        request: Request,
        dimension: Annotated[
            int | None,
            Query(ge=1, le=LARGEST_DIMENSION, description="For a function of any dimension; 2 unless told otherwise."),
        ] = None,
    ) -> Response:
        """Read what is known of a function: formula, domain, minima, start, largest stable step."""
        function = _get(name)
        try:
            return answer(request, catalogue.describe(function, dimension))
        except Invalid as error:
            raise error.at("/dimension") from None

    @routes.post(
        "/v1/functions/{name}/evaluate",
        operation_id="evaluateFunction",
        responses={
            200: json_answer(
                "One entry for each point, in order.",
                loads(dumps(_evaluated(rosenbrock, np.array([[-1.2, 1.0], [1.0, 1.0]])))),
            )
        },
        openapi_extra={"requestBody": json_body(Evaluate, EXAMPLES)},
    )
    async def evaluate(name: str, request: Request) -> Response:
        """Evaluate a function at points: values, gradients, Hessians."""
        function = _get(name)
        body, _ = await read(request, Evaluate)
        points = _points(function, body)
        return answer(request, _evaluated(function, points, gradient=body.gradient, second=body.hessian))

    return routes


def _get(name: str) -> Function:
    if name not in catalogue.FUNCTIONS:
        known = list(catalogue.FUNCTIONS)
        raise NotFound(f"There is no function {name[:80]!r}{nearest(name, known)} There are: {', '.join(known)}.")
    return catalogue.FUNCTIONS[name]


def _points(function: Function, body: Evaluate) -> Array:
    """The points as an array (n, d). Raises Invalid with a pointer to the first that does not fit."""
    n, d = len(body.points), len(body.points[0])
    for i, point in enumerate(body.points):
        try:
            function.check_dimension(len(point))
        except Invalid as error:
            raise error.at(f"/points/{i}") from None
        if len(point) != d:
            raise Invalid(f"This point has {len(point)} coordinates and the first one {d}.", pointer=f"/points/{i}")
    if n * d > MAX_NUMBERS or (body.hessian and n * d * d > MAX_NUMBERS):
        raise Invalid(
            f"One request evaluates points, and Hessians, of at most {MAX_NUMBERS} numbers each; send fewer points.",
            pointer="/points",
        )
    return np.array(body.points, np.float64)


def _evaluated(function: Function, points: Array, *, gradient: bool = True, second: bool = False) -> dict[str, Any]:
    """Values (n,), gradients (n, d) and Hessians (n, d, d). Raises NonFinite with pointers to points that overflow."""
    with np.errstate(all="ignore"):
        found = {"values": function.value(points)}
        if gradient:
            found["gradients"] = function.gradient(points)
        if second:
            found["hessians"] = hessian(function, points)
    finite = np.all([np.isfinite(array).reshape(len(points), -1).all(axis=1) for array in found.values()], axis=0)
    if not finite.all():
        places = [Place(f"/points/{i}", "what is asked for is not finite here") for i in np.flatnonzero(~finite)]
        raise NonFinite(
            f"{function.name} is past the range of a double, or has no derivative, at {len(places)} of these points; "
            "leave them out.",
            places=places,
        )
    return {name: np.ascontiguousarray(array) for name, array in found.items()}
