"""The catalogue: optimizers, schedules, transforms."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from service.errors import NotFound, nearest
from service.optim import catalogue, exchange
from service.optim.schedules import catalogue as schedules
from service.optim.transforms import catalogue as transforms
from service.routes.bodies import answer, json_answer


def router() -> APIRouter:
    """The routes of /v1/optimizers, /v1/schedules and /v1/transforms."""
    routes = APIRouter(tags=["catalogue"])
    _family(
        routes,
        "optimizer",
        catalogue.ALGORITHMS,
        catalogue.summary,
        exchange.describe,
        exchange.algorithm_of,
    )
    _family(routes, "schedule", schedules.SCHEDULES, schedules.summary, schedules.describe)
    _family(routes, "transform", transforms.TRANSFORMS, transforms.summary, transforms.describe)
    return routes


def _family(
    routes: APIRouter,
    kind: str,
    members: Mapping[str, Any],
    short: Callable[[Any], dict[str, Any]],
    describe: Callable[[Any], dict[str, Any]],
    spelled: Callable[[str], str | None] = lambda name: None,
) -> None:
    """A list and an entry for one family of the catalogue; `spelled` gives our name for a library's."""
    first = next(iter(members.values()))
    items = [short(member) for member in members.values()]

    async def listing(request: Request) -> Response:
        return answer(request, {"items": items})

    async def entry(name: str, request: Request) -> Response:
        name = spelled(name) or name
        if name not in members:
            raise NotFound(
                f"There is no {kind} {name[:80]!r}{nearest(name, list(members))} There are: {', '.join(members)}."
            )
        return answer(request, describe(members[name]))

    routes.add_api_route(
        f"/v1/{kind}s",
        listing,
        operation_id=f"list{kind.title()}s",
        summary=f"List the {kind}s",
        responses={200: json_answer(f"All {kind}s.", {"items": [short(first)]})},
    )
    routes.add_api_route(
        f"/v1/{kind}s/{{name}}",
        entry,
        operation_id=f"get{kind.title()}",
        summary=f"Read one {kind}",
        responses={200: json_answer(f"The {kind}.", describe(first))},
    )
