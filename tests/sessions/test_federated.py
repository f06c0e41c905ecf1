"""The server's side of federated averaging: aggregated differences as gradients (Reddi et al. 2021, arXiv:2003.00295).

Algorithm 2 there: each client starts from x and comes to xᵢ; Δ is the mean of xᵢ - x; m ← β₁ m + (1 - β₁) Δ; v follows
one of three rules; x ← x + η m / (√v + τ). A client that posts x - xᵢ as its part makes the session take that step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.conftest import Run, Serve
from tests.sessions.calls import create

Array = np.ndarray[Any, np.dtype[np.float64]]

CLIENTS = ("c0", "c1", "c2", "c3")
ROUNDS, LOCAL_STEPS, LOCAL_RATE = 8, 5, 0.05
TARGETS = {name: np.random.default_rng(i).normal(size=3) for i, name in enumerate(CLIENTS)}
CURVATURES = {name: np.random.default_rng(10 + i).uniform(0.2, 3.0, size=3) for i, name in enumerate(CLIENTS)}
RATE, BETA1, BETA2, TAU = 0.1, 0.9, 0.99, 1e-3

V_RULES: dict[str, Callable[[Array, Array], Array]] = {
    "FedAdagrad": lambda v, d: v + d**2,
    "FedYogi": lambda v, d: v - (1 - BETA2) * d**2 * np.sign(v - d**2),
    "FedAdam": lambda v, d: BETA2 * v + (1 - BETA2) * d**2,
}
SESSIONS: dict[str, dict[str, Any]] = {
    "FedAdagrad": {"name": "adagrad", "dialect": "paper", "learning_rate": RATE, "epsilon": TAU},
    "FedYogi": {
        "name": "yogi",
        "dialect": "paper",
        "learning_rate": RATE,
        "beta1": BETA1,
        "beta2": BETA2,
        "epsilon": TAU,
        "initial_accumulator_value": TAU**2,
    },
    "FedAdam": {
        "name": "adam",
        "dialect": "paper",
        "learning_rate": RATE,
        "beta1": BETA1,
        "beta2": BETA2,
        "epsilon": TAU,
        "bias_correction": False,
    },
}


def trained(client: str, x: Array) -> Array:
    """What a client comes to: a few steps of gradient descent on its own quadratic."""
    for _ in range(LOCAL_STEPS):
        x = x - LOCAL_RATE * CURVATURES[client] * (x - TARGETS[client])
    return x


def published(rule: str, x: Array) -> list[Array]:
    """The parameters after each round by the equations of the paper; its m is Δ itself for FedAdagrad (β₁ = 0)."""
    beta1 = 0.0 if rule == "FedAdagrad" else BETA1
    m, v = np.zeros(3), np.full(3, TAU**2 if rule == "FedYogi" else 0.0)
    passed = []
    for _ in range(ROUNDS):
        delta = np.mean([trained(client, x) - x for client in CLIENTS], axis=0)
        m = beta1 * m + (1 - beta1) * delta
        v = V_RULES[rule](v, delta)
        x = x + RATE * m / (np.sqrt(v) + TAU)
        passed.append(x)
    return passed


@pytest.mark.parametrize("rule", SESSIONS)
def test_a_session_is_the_server_of_the_paper(rule: str, serve: Serve, run: Run) -> None:
    service = serve()
    start = [0.5, -1.0, 2.0]
    plan = {"workers": len(CLIENTS), "mode": "mean", "timeout_seconds": 60}
    create(service, "server", optimizer=SESSIONS[rule], params=start, aggregate=plan)

    async def rounds() -> list[Array]:
        x, passed = np.array(start), []
        for n in range(1, ROUNDS + 1):
            bodies = [
                {"gradients": (x - trained(client, x)).tolist(), "worker": client, "step": n} for client in CLIENTS
            ]
            posts = (service.client.post("/v1/sessions/server/steps", json=body) for body in bodies)
            answers = await asyncio.gather(*posts)
            assert {answer.status_code for answer in answers} == {200}
            x = np.array(answers[0].json()["params"])
            passed.append(x)
        return passed

    for ours, theirs in zip(run(rounds()), published(rule, np.array(start)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)
