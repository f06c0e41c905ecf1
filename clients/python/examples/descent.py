"""A NumPy loop whose optimizer is a session: a plane fitted to noisy points, in small batches.

    python examples/descent.py

The service is the one at THALWEG_URL, else on this machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import thalweg

STEPS, BATCH = 300, 32


def points(count: int = 512, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points x of shape (count, 3) and their values y of shape (count,), near a plane."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 3))
    return x, x @ np.array([2.0, -1.0, 0.5]) + 3.0 + rng.normal(0.0, 0.1, count)


def loss_and_gradients(
    params: dict[str, NDArray[np.float64]], x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[float, dict[str, NDArray[np.float64]]]:
    """Half the mean of the squared errors, and its gradients by name."""
    errors = x @ params["w"] + params["b"] - y
    return float(np.mean(errors**2) / 2), {"w": x.T @ errors / len(y), "b": np.mean(errors)}


def main() -> None:
    """Fit, and compare with the exact solution."""
    x, y = points()
    rng = np.random.default_rng(1)
    with thalweg.Client() as client:
        session = client.sessions.create(
            {"name": "adam", "learning_rate": {"schedule": "cosine_annealing", "initial": 0.1, "t_max": STEPS}},
            {"w": np.zeros(3), "b": 0.0},
            labels={"example": "descent"},
        )
        for n in range(1, STEPS + 1):
            rows = rng.choice(len(y), BATCH)
            loss, gradients = loss_and_gradients(session.params, x[rows], y[rows])
            session.step(gradients, loss=loss)
            if n % 50 == 0:
                print(f"step {n:3}  loss {loss:.4f}")
        w, b = session.params["w"], session.params["b"]
        session.delete()
    exact = np.linalg.lstsq(np.column_stack([x, np.ones(len(y))]), y, rcond=None)[0]
    print(f"found {np.append(w, b).round(3)}, exact {exact.round(3)}")
    print(f"distance {np.linalg.norm(np.append(w, b) - exact):.4f}")


if __name__ == "__main__":
    main()
