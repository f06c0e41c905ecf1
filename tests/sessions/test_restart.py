"""kill -9 under load, start again, and compare with a run that nobody disturbed: real processes, real sockets.

The moments are random and the seed is printed; TEST_SEED sets it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.settings import Settings
from service.stores.sqlite import SQLiteStore
from tests.conftest import Service
from tests.faults.processes import Caller, Unknown, serving

ROUNDS = 22
START_ROUNDS = 6
SEED = int(os.environ["TEST_SEED"])  # tests/conftest.py draws one where none is set
SETTINGS = {"snapshot_every": 40, "kept_gradient_bytes": 20_000}

SESSIONS: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": {"name": "adam", "learning_rate": 0.05}, "params": [1.0, -2.0, 3.0]},
    "momentum": {
        "optimizer": {
            "name": "momentum",
            "learning_rate": {"schedule": "cosine_annealing", "initial": 0.1, "t_max": 50},
        },
        "params": {"w": [[1.0, 2.0], [3.0, 4.0]], "b": [0.5, -0.5]},
        "groups": [{"match": "b", "learning_rate": 0.01}],
    },
    "single": {
        "optimizer": {"like": "torch.optim.AdamW", "lr": 0.01},
        "params": [0.5] * 20,
        "dtype": "float32",
        "transforms": [{"name": "clip_by_global_norm", "max_norm": 1.0}],
    },
    "wide": {"optimizer": {"name": "adagrad", "learning_rate": 0.1}, "params": [0.1] * 600},
    "few": {"optimizer": {"name": "rmsprop"}, "params": [1.0, 2.0], "durability": "every:5"},
    "none": {"optimizer": {"name": "sgd", "learning_rate": 0.01}, "params": 2.0, "durability": "none"},
}


def body_of(name: str, step: int) -> dict[str, Any]:
    """The request of a session's step: the same whenever it is sent."""
    rng = np.random.default_rng([step, *name.encode()])
    params = SESSIONS[name]["params"]
    if isinstance(params, dict):
        gradients: Any = {key: rng.standard_normal(np.shape(value)).tolist() for key, value in params.items()}
        if step % 5 == 0:
            gradients["b"] = None
    else:
        gradients = rng.standard_normal(np.shape(params)).tolist()
    return {"gradients": gradients, "step": step, "loss": float(rng.random())}


@dataclass
class Told:
    """What a client of a session was told, over all rounds."""

    name: str
    acknowledged: int = 0
    durable: int = 0
    unanswered: int | None = None
    answers: dict[int, dict[str, Any]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    @property
    def path(self) -> str:
        return f"/v1/sessions/{self.name}"

    def learn(self, answer: dict[str, Any]) -> None:
        step = answer["step"]
        known = {key: value for key, value in answer.items() if key not in ("durable_step", "replayed")}
        if step in self.answers and self.answers[step] != known:
            self.wrong.append(f"step {step} was answered differently: {known} after {self.answers[step]}")
        self.answers[step] = known
        self.acknowledged = step
        self.durable = max(self.durable, answer["durable_step"])


def client(told: Told, port: int, until: threading.Event, seed: float = 0.0) -> None:
    """Take step after step until the server is gone or there was enough; now and then hang up before the answer."""
    caller = Caller(port)
    impatience = random.Random(f"{seed} {told.name}")
    try:
        while not until.is_set():
            step = told.acknowledged + 1
            told.unanswered = step
            if impatience.random() < 0.1:
                caller.send("POST", f"{told.path}/steps", body_of(told.name, step))
                caller.close()  # opened again by the next request
                continue
            status, answer = caller.call("POST", f"{told.path}/steps", body_of(told.name, step))
            if status == 200 and answer["step"] == step:
                told.unanswered = None
                told.learn(answer)
            elif status == 503:
                continue
            else:
                told.wrong.append(f"step {step} was answered {status} {answer}")
                return
    except Unknown:
        pass
    finally:
        caller.close()


def check(told: Told, port: int) -> None:
    """After a restart: what was told is there, and at most the one request more that nobody heard of."""
    caller = Caller(port)
    try:
        status, shown = caller.call("GET", told.path)
        assert status == 200, shown
        step = shown["step"]
        sent = told.acknowledged if told.unanswered is None else told.unanswered
        promised = told.acknowledged if shown["durability"] == "step" else told.durable
        assert promised <= step <= sent, f"{told.name}: at {step}, promised {promised}, sent {sent}"

        status, history = caller.call("GET", f"{told.path}/steps?limit=10000")
        assert [item["step"] for item in history["items"]] == list(range(1, step + 1))
        for item in history["items"]:
            known = told.answers.get(item["step"])
            if known is not None and item["step"] <= step:
                for key in ("learning_rate", "gradient_norm", "update_norm"):
                    assert item[key] == known[key], f"{told.name} {item['step']} {key}"

        if step in told.answers:
            status, newest = caller.call("GET", f"{told.path}/params")
            assert newest == {"step": step, "params": told.answers[step]["params"]}, told.name

        if told.unanswered is not None and step >= told.unanswered - 1:
            status, answer = caller.call("POST", f"{told.path}/steps", body_of(told.name, told.unanswered))
            assert status == 200, answer
            assert answer["replayed"] is (step == told.unanswered)
            again = caller.call("POST", f"{told.path}/steps", body_of(told.name, told.unanswered))
            assert again == (200, {**answer, "replayed": True, "durable_step": again[1]["durable_step"]})
            told.learn(answer)
        else:
            status, refused = caller.call("POST", f"{told.path}/steps", body_of(told.name, step + 2))
            assert (status, refused["current_step"]) == (412, step)
            told.acknowledged = step  # the tail that was not promised is sent again
        told.unanswered = None
        if step:
            status, reused = caller.call("POST", f"{told.path}/steps", {**body_of(told.name, step), "loss": -1.0})
            assert (status, reused["code"]) == (422, "step-reused")
    finally:
        caller.close()


def undisturbed(tolds: list[Told]) -> dict[str, dict[int, dict[str, Any]]]:
    """The answers of a service in memory to the same requests."""
    answers: dict[str, dict[int, dict[str, Any]]] = {}
    with asyncio.Runner() as runner:
        service = Service(runner.run, Settings(store="memory"))
        try:
            for told in tolds:
                made = service.post("/v1/sessions", {**SESSIONS[told.name], "id": told.name})
                assert made.status_code == 201, made.text
                answers[told.name] = {}
                for step in range(1, told.acknowledged + 1):
                    answer = service.post(f"{told.path}/steps", body_of(told.name, step)).json()
                    answers[told.name][step] = {
                        key: value for key, value in answer.items() if key not in ("durable_step", "replayed")
                    }
        finally:
            service.stop()
    return answers


@pytest.mark.parametrize("seed", [SEED])
def test_a_killed_service_goes_on_as_if_nothing_had_happened(tmp_path: Path, seed: int) -> None:
    print(f"TEST_SEED={seed}")  # noqa: T201
    rng = random.Random(seed)
    tolds = [Told(name) for name in SESSIONS]
    caught_unanswered = 0
    for number in range(ROUNDS):
        with serving(tmp_path, SETTINGS) as server:
            port = server.listens()
            if number == 0:
                caller = Caller(port)
                for name, body in SESSIONS.items():
                    assert caller.call("POST", "/v1/sessions", {**body, "id": name})[0] == 201
                caller.close()
            for told in tolds:
                check(told, port)
            enough = threading.Event()
            threads = [threading.Thread(target=client, args=(told, port, enough, rng.random())) for told in tolds]
            for thread in threads:
                thread.start()
            time.sleep(rng.uniform(0.01, 0.25))
            server.end()
            enough.set()
            for thread in threads:
                thread.join(30)
                assert not thread.is_alive()
        assert not any(told.wrong for told in tolds), [told.wrong for told in tolds]
        caught_unanswered += sum(told.unanswered is not None for told in tolds)

    for _ in range(START_ROUNDS):  # also while it starts, and while it loads what it starts with
        with serving(tmp_path, SETTINGS) as server:
            time.sleep(rng.uniform(0.0, 0.9))
            server.end()
    with serving(tmp_path, SETTINGS) as server:
        port = server.listens()
        reads = [threading.Thread(target=stare, args=(told, port)) for told in tolds]
        for thread in reads:
            thread.start()
        time.sleep(rng.uniform(0.0, 0.01))
        server.end()
        for thread in reads:
            thread.join(30)

    with serving(tmp_path, SETTINGS) as server:
        port = server.listens()
        for told in tolds:
            check(told, port)
        server.end(signal.SIGTERM)
        assert server.process.returncode == 0

    assert all(told.acknowledged > ROUNDS for told in tolds), "hardly any load; the rounds are too short"
    assert caught_unanswered > ROUNDS, "the service was hardly ever killed in the middle of something"
    expected = undisturbed(tolds)
    for told in tolds:
        assert told.answers.keys() >= set(range(1, told.acknowledged + 1))
        for step, answer in expected[told.name].items():
            assert told.answers[step] == answer, f"{told.name}, step {step}"

    store = SQLiteStore(tmp_path)
    try:
        assert store._reader().pragma("integrity_check") == "ok"
        for told in tolds:
            rows = store.rows(told.name, 0, 1 << 30)
            assert [row.number for row in rows] == list(range(1, told.acknowledged + 1))
            size = 4 if SESSIONS[told.name].get("dtype") == "float32" else 8
            bound = SETTINGS["kept_gradient_bytes"]
            spacing = SETTINGS["snapshot_every"] * size * np.size(np.hstack(flat(SESSIONS[told.name]["params"])))
            # what is kept begins at a snapshot, from which it can be replayed, and grows until the next one is due
            assert sum(len(row.payload or b"") for row in rows) <= bound + 2 * spacing
    finally:
        store.close()


def flat(params: Any) -> list[Any]:
    """All numbers of a tree."""
    return [np.ravel(value) for value in (params.values() if isinstance(params, dict) else [params])]


def stare(told: Told, port: int) -> None:
    """Ask for a session, whoever answers."""
    caller = Caller(port)
    with contextlib.suppress(Unknown):
        caller.call("GET", f"{told.path}/params")
    caller.close()


def test_a_stop_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    """SIGTERM under load: whatever the durability, what was answered is there."""
    tolds = [Told(name) for name in ("adam", "few", "none")]
    with serving(tmp_path, SETTINGS) as server:
        port = server.listens()
        caller = Caller(port)
        for told in tolds:
            assert caller.call("POST", "/v1/sessions", {**SESSIONS[told.name], "id": told.name})[0] == 201
        caller.close()
        enough = threading.Event()
        threads = [threading.Thread(target=client, args=(told, port, enough)) for told in tolds]
        for thread in threads:
            thread.start()
        time.sleep(0.15)
        server.end(signal.SIGTERM)
        enough.set()
        for thread in threads:
            thread.join(30)
        assert server.process.returncode == 0
    assert not any(told.wrong for told in tolds), [told.wrong for told in tolds]
    with serving(tmp_path, SETTINGS) as server:
        port = server.listens()
        caller = Caller(port)
        for told in tolds:
            assert told.acknowledged > 0
            assert caller.call("GET", told.path)[1]["step"] >= told.acknowledged
        caller.close()
        server.end(signal.SIGTERM)
