"""Requests about sessions in few words, what a log holds, and stores with something in the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import numpy as np

from service.stores.base import Row, Store
from tests.conftest import Service

ADAM = {"name": "adam", "learning_rate": 0.1}
MOMENTUM = {"name": "momentum", "dialect": "torch", "learning_rate": 0.1, "momentum": 0.9}


def create(service: Service, id: str = "s", **body: Any) -> dict[str, Any]:
    """A session: Adam on two numbers, unless the body says otherwise."""
    response = service.post("/v1/sessions", {"optimizer": ADAM, "params": [1.0, 2.0], "id": id, **body})
    assert response.status_code == 201, response.text
    shown: dict[str, Any] = response.json()
    return shown


def step(service: Service, gradients: Any, step: int | None = None, id: str = "s", **more: Any) -> httpx.Response:
    """A step, with its number or without."""
    number = {} if step is None else {"step": step}
    return service.post(f"/v1/sessions/{id}/steps", {"gradients": gradients, **number, **more})


def took(service: Service, gradients: Any, number: int | None = None, id: str = "s", **more: Any) -> dict[str, Any]:
    """A step that must be taken or answered again."""
    response = step(service, gradients, number, id, **more)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def gradient(number: int, size: int = 2) -> list[float]:
    """The gradient that a test sends as step `number`."""
    return [float(x) for x in np.random.default_rng(number).standard_normal(size)]


def walk(service: Service, last: int, first: int = 1, id: str = "s", **more: Any) -> list[dict[str, Any]]:
    """Steps `first` ... `last` with their gradients, and their answers."""
    return [took(service, gradient(n), n, id, **more) for n in range(first, last + 1)]


def params(service: Service, step: int | None = None, id: str = "s") -> Any:
    """The parameters after a step, the newest by default."""
    query = "" if step is None else f"?step={step}"
    response = service.get(f"/v1/sessions/{id}/params{query}")
    assert response.status_code == 200, response.text
    answer = response.json()
    assert step is None or answer["step"] == step
    return answer["params"]


def shown(service: Service, id: str = "s") -> dict[str, Any]:
    """The session as it is described."""
    response = service.get(f"/v1/sessions/{id}")
    assert response.status_code == 200, response.text
    description: dict[str, Any] = response.json()
    return description


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem that a request was answered with, which must be this one."""
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["status"], body["code"]) == (status, status, code), response.text
    assert body["detail"].endswith(".")
    assert body["type"] == f"urn:thalweg:problem:{code}"
    return body


def pointers(body: dict[str, Any]) -> list[str]:
    """The places that a problem names."""
    return [place["pointer"] for place in body["errors"]]


def settle(service: Service) -> None:
    """Wait until nothing is being written behind the answers."""

    async def written() -> None:
        while service.engine._work.pending:
            await asyncio.wait(service.engine._work.pending)
            await asyncio.sleep(0)

    service._run(written())


def contents(store: Store, id: str = "s") -> tuple[bytes, list[Row], Any]:
    """All that a store holds of a session."""
    return store.head(id), store.rows(id, 0, 1 << 30), store.snapshot(id, 1 << 30)


class Between:
    """A store whose writes pass through `append`, which a test replaces."""

    def __init__(self, store: Store) -> None:
        self.inner = store
        self.append: Callable[..., Any] = store.append

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def resolved(value: Any = None, error: BaseException | None = None) -> asyncio.Future[Any]:
    """A write that is done already."""
    future = asyncio.get_running_loop().create_future()
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
    return future


class Adam:
    """Algorithm 1 of Kingma and Ba, as torch orders its operations, written out on its own."""

    def __init__(self, params: Sequence[float] | np.ndarray, learning_rate: float = 0.1) -> None:
        self.params = np.array(params, np.float64)
        self.learning_rate = learning_rate
        self._m = np.zeros_like(self.params)
        self._v = np.zeros_like(self.params)
        self._t = 0

    def step(self, gradients: Any) -> None:
        g = np.array(gradients, np.float64)
        self._t += 1
        self._m = self._m + (1.0 - 0.9) * (g - self._m)
        self._v = 0.999 * self._v + (1.0 - 0.999) * (g * g)
        size = self.learning_rate / (1.0 - 0.9**self._t)
        root = np.sqrt(self._v / (1.0 - 0.999**self._t))
        self.params = self.params - size * self._m / (root + 1e-8)


class Momentum:
    """The heavy ball as torch has it, written out on its own."""

    def __init__(self, params: Sequence[float] | np.ndarray, learning_rate: float = 0.1) -> None:
        self.params = np.array(params, np.float64)
        self.learning_rate = learning_rate
        self._b = np.zeros_like(self.params)

    def step(self, gradients: Any) -> None:
        self._b = 0.9 * self._b + np.array(gradients, np.float64)
        self.params = self.params - self.learning_rate * self._b
