"""/v1/functions: the list, an entry, and values at points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.functions import catalogue
from service.functions.base import hessian
from tests.conftest import Service


def test_the_list_is_the_catalogue(service: Service) -> None:
    answer = service.get("/v1/functions")
    assert answer.status_code == 200
    assert answer.json() == {"items": catalogue.summaries()}


@pytest.mark.parametrize("name", catalogue.FUNCTIONS)
def test_an_entry_is_the_catalogue_s(service: Service, name: str) -> None:
    assert service.get(f"/v1/functions/{name}").json() == catalogue.describe(catalogue.get(name))


def test_an_entry_in_another_dimension(service: Service) -> None:
    entry = service.get("/v1/functions/rosenbrock?dimension=4").json()
    assert entry == catalogue.describe(catalogue.get("rosenbrock"), 4)
    assert len(entry["start"]) == 4


@pytest.mark.parametrize(
    ("path", "status", "pointer", "says"),
    [
        ("/v1/functions/rosenbrok", 404, None, "did you mean 'rosenbrock'"),
        ("/v1/functions/booth?dimension=3", 422, "/dimension", "exactly 2"),
        ("/v1/functions/rosenbrock?dimension=1", 422, "/dimension", "2 to 1000"),
        ("/v1/functions/rosenbrock?dimension=0", 422, "/dimension", "greater than or equal to 1"),
        ("/v1/functions/rosenbrock?dimension=x", 422, "/dimension", "integer"),
    ],
)
def test_what_is_not_there(service: Service, path: str, status: int, pointer: str | None, says: str) -> None:
    answer = service.get(path)
    assert answer.status_code == status
    assert says in answer.json()["detail"]
    assert [place["pointer"] for place in answer.json().get("errors", [])] == ([pointer] if pointer else [])


@pytest.mark.parametrize("name", catalogue.FUNCTIONS)
def test_values_and_derivatives_are_exact(service: Service, name: str) -> None:
    function = catalogue.get(name)
    d = function.dimensions or 3
    points = np.array([function.start_at(d), np.full(d, 0.3), np.full(d, -1.7)])
    body = {"points": points.tolist(), "gradient": True, "hessian": True}
    answer = service.post(f"/v1/functions/{name}/evaluate", body).json()
    assert answer == {
        "values": function.value(points).tolist(),
        "gradients": function.gradient(points).tolist(),
        "hessians": hessian(function, points).tolist(),
    }


def test_only_what_is_asked_for(service: Service) -> None:
    path, points = "/v1/functions/sphere/evaluate", [[3, 4]]
    assert service.post(path, {"points": points}).json() == {"values": [25.0], "gradients": [[6.0, 8.0]]}
    assert service.post(path, {"points": points, "gradient": False}).json() == {"values": [25.0]}
    asked = {"points": points, "gradient": False, "hessian": True}
    assert service.post(path, asked).json() == {"values": [25.0], "hessians": [[[2.0, 0.0], [0.0, 2.0]]]}


@pytest.mark.parametrize(
    ("body", "pointer", "says"),
    [
        ({}, "/points", "required"),
        ({"points": []}, "/points", "at least 1"),
        ({"points": [[]]}, "/points/0", "1 to 1000"),
        ({"points": [[1.0, 2.0], [1.0]]}, "/points/1", "1 coordinates and the first one 2"),
        ({"points": [[1.0, "2"]]}, "/points/0/1", "number"),
        ({"points": [1.0, 2.0]}, "/points/0", "list"),
        ({"points": [[1.0]], "gradients": True}, "/gradients", "no such field"),
        ({"points": [[1.0, 2.0]] * 50_001}, "/points", "fewer points"),
        ({"points": [[1.0] * 400], "hessian": True}, "/points", "fewer points"),
    ],
    ids=str,
)
def test_bad_points_are_pointed_at(service: Service, body: Any, pointer: str, says: str) -> None:
    answer = service.post("/v1/functions/sphere/evaluate", body)
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["errors"][0]["pointer"] == pointer
    assert says in problem["detail"]


def test_points_of_another_dimension(service: Service) -> None:
    answer = service.post("/v1/functions/booth/evaluate", {"points": [[1.0, 2.0], [1.0, 2.0, 3.0]]})
    assert answer.json()["errors"][0]["pointer"] == "/points/1"
    assert service.post("/v1/functions/boot/evaluate", {"points": [[1.0]]}).status_code == 404


def test_a_point_that_overflows_is_pointed_at(service: Service) -> None:
    points = [[1.0, 2.0], [1e200, 0.0], [0.0, 1.0], [0.0, -1e300]]
    answer = service.post("/v1/functions/sphere/evaluate", {"points": points})
    assert answer.status_code == 422
    assert answer.json()["code"] == "non-finite"
    assert [place["pointer"] for place in answer.json()["errors"]] == ["/points/1", "/points/3"]
    many = service.post("/v1/functions/sphere/evaluate", {"points": [[1e200]] * 1000})
    assert len(many.json()["errors"]) == 10
