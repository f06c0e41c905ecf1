"""kill -9 while workers wait for one another: all send their parts again, and each step is taken once."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.processes import Caller, Server, Unknown, serving
from tests.sessions.calls import ADAM, Adam

SEED = int(os.environ["TEST_SEED"])
WORKERS = ("w1", "w2", "w3")
KILLS = 3


def part(worker: str, step: int) -> list[float]:
    """What a worker sends for a step, whenever it sends it."""
    return [float(x) for x in np.random.default_rng([step, *worker.encode()]).standard_normal(2)]


class Worker(threading.Thread):
    """Sends its part of a step on a connection of its own; `answer` is None where none came."""

    def __init__(self, port: int, name: str, step: int) -> None:
        super().__init__()
        self.worker, self.step = name, step
        self.answer: tuple[int, Any] | None = None
        self._caller = Caller(port)
        assert self._caller.call("GET", "/livez")[0] == 200  # it is connected

    def run(self) -> None:
        body = {"gradients": part(self.worker, self.step), "step": self.step, "worker": self.worker}
        try:
            self.answer = self._caller.call("POST", "/v1/sessions/s/steps", body)
        except Unknown:
            pass
        finally:
            self._caller.close()


def send(server: Server, names: Sequence[str], step: int) -> list[Worker]:
    """The workers at once; none is waited for."""
    workers = [Worker(server.port, name, step) for name in names]
    for worker in workers:
        worker.start()
    return workers


def together(server: Server, step: int) -> list[Any]:
    """The answers that all of them get to their parts of a step."""
    workers = send(server, WORKERS, step)
    for worker in workers:
        worker.join(30)
    answers = []
    for worker in workers:
        assert worker.answer is not None
        assert worker.answer[0] == 200, worker.answer
        answers.append(worker.answer[1])
    return answers


def expected(steps: int) -> list[float]:
    """What the model makes of the means of the parts, added in the order of the workers' names."""
    model = Adam([1.0, 2.0])
    for step in range(1, steps + 1):
        total = np.array(part(WORKERS[0], step))
        for worker in WORKERS[1:]:
            total += part(worker, step)
        model.step(total / 3.0)
    params: list[float] = model.params.tolist()
    return params


def test_a_kill_while_parts_wait_takes_the_step_once_when_all_come_again(tmp_path: Path) -> None:
    """The first kill finds two parts that wait for the third; later ones come about when the third does."""
    print(f"TEST_SEED={SEED}")  # noqa: T201
    rng = random.Random(SEED)
    step, answered = 0, False
    for number in range(KILLS + 1):
        with serving(tmp_path) as server:
            caller = Caller(server.listens())
            if number == 0:
                plan = {"workers": 3, "mode": "mean", "timeout_seconds": 30}
                body = {"optimizer": ADAM, "params": [1.0, 2.0], "id": "s", "aggregate": plan}
                assert caller.call("POST", "/v1/sessions", body)[0] == 201
            else:
                stands = caller.call("GET", "/v1/sessions/s")[1]["step"]
                assert step - 1 + answered <= stands <= step - (number == 1)
                assert [answer["replayed"] for answer in together(server, step)] == [stands == step] * 3
                other = {"gradients": [0.0, 0.0], "step": step, "worker": "w1"}
                status, refused = caller.call("POST", "/v1/sessions/s/steps", other)
                assert (status, refused["code"], refused["current_step"]) == (422, "step-reused", step)
            step += 1
            assert [(told["step"], told["params"]) for told in together(server, step)] == [(step, expected(step))] * 3
            history = caller.call("GET", "/v1/sessions/s/steps")[1]["items"]
            assert [item["step"] for item in history] == list(range(1, step + 1))
            if number < KILLS:
                step += 1
                answered = kill(server, caller, step, rng, missing=number == 0)
            caller.close()


def kill(server: Server, caller: Caller, step: int, rng: random.Random, missing: bool) -> bool:
    """In the round of a step that lacks one part, or has just got it; whether anybody was answered."""
    order = rng.sample(WORKERS, 3)
    workers = send(server, order[:2], step)
    for _ in range(3):  # whoever asks after them is answered after they have joined
        assert caller.call("GET", "/v1/sessions/s")[1]["step"] == step - 1
    assert all(worker.is_alive() for worker in workers)
    if not missing:
        workers += send(server, order[2:], step)
        time.sleep(rng.uniform(0.0, 0.01))
    server.end(signal.SIGKILL)
    for worker in workers:
        worker.join(30)
    heard = [worker.answer for worker in workers if worker.answer is not None]
    assert not (missing and heard)
    assert all((status, answer["params"]) == (200, expected(step)) for status, answer in heard)
    return bool(heard)
