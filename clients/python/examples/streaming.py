"""Steps over a WebSocket, several on their way at once: gradients are taken where the parameters were a few steps ago.

    python examples/streaming.py

That the network is never waited for is worth a gradient that is a little late, where steps are small.
"""

from __future__ import annotations

import time

import numpy as np
from descent import loss_and_gradients, points

import thalweg

STEPS, LATE = 600, 8


def main() -> None:
    """Train once with every answer awaited, once with up to LATE steps ahead of their answers."""
    x, y = points()
    exact = np.linalg.lstsq(np.column_stack([x, np.ones(len(y))]), y, rcond=None)[0]
    with thalweg.Client() as client:
        for late in (1, LATE):
            session = client.sessions.create(
                {"name": "sgd", "learning_rate": 0.05}, {"w": np.zeros(3), "b": 0.0}, durability="every:64"
            )
            params = session.params
            begun = time.perf_counter()
            with session.stream() as stream:
                for _ in range(STEPS):
                    loss, gradients = loss_and_gradients(params, x, y)
                    stream.send(gradients, loss=loss)
                    if stream.in_flight >= late:
                        params = stream.receive().params
            rate = STEPS / (time.perf_counter() - begun)
            newest = session.params
            distance = np.linalg.norm(np.append(newest["w"], newest["b"]) - exact)
            print(f"{late} on the way: {session.step_number} steps, {rate:,.0f}/s, distance {distance:.4f}")
            session.delete()


if __name__ == "__main__":
    main()
