"""Two processes train one session: each has half of the data, and the session steps with the mean of their gradients.

    python examples/workers.py

A step is taken when both have sent their part, and both get the same parameters back; they never talk to each other.
"""

from __future__ import annotations

import multiprocessing
import secrets

import numpy as np
from descent import loss_and_gradients, points

import thalweg

WORKERS, STEPS = 2, 150


def work(worker: int, id: str) -> str:
    """One worker's part of the training; a digest of the parameters that it ends with."""
    x, y = points()
    mine = slice(worker, None, WORKERS)
    with thalweg.Client() as client:
        # whoever comes first makes the session, the others find it
        session = client.sessions.create(
            {"name": "adam", "learning_rate": 0.1},
            {"w": np.zeros(3), "b": 0.0},
            id=id,
            aggregate={"workers": WORKERS, "mode": "mean", "timeout_seconds": 30},
            worker=f"worker-{worker}",
        )
        while session.step_number < STEPS:
            loss, gradients = loss_and_gradients(session.params, x[mine], y[mine])
            session.step(gradients, loss=loss)
        return " ".join(f"{value:.17g}" for value in [*session.params["w"], session.params["b"]])


def main() -> None:
    """Train, and compare what the workers hold with each other and with the exact solution."""
    id = f"workers-{secrets.token_hex(6)}"
    with multiprocessing.get_context("spawn").Pool(WORKERS) as pool:
        held = pool.starmap(work, [(worker, id) for worker in range(WORKERS)])
    x, y = points()
    exact = np.linalg.lstsq(np.column_stack([x, np.ones(len(y))]), y, rcond=None)[0]
    found = np.array(held[0].split(), float)
    with thalweg.Client() as client:
        history = list(client.sessions.history(id))
        client.sessions.delete(id)
    print(f"{len(history)} steps, loss {history[0].loss:.4f} to {history[-1].loss:.4f}")
    print(f"the workers hold the same bits: {len(set(held)) == 1}")
    print(f"distance {np.linalg.norm(found - exact):.4f}")


if __name__ == "__main__":
    main()
