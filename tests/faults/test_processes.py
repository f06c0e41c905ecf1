"""A service in a process of its own that runs out of something, or is stopped and let go on, while clients use it."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

from tests.faults.processes import Caller, Unknown, calling, serving
from tests.sessions.calls import Adam

SEED = int(os.environ["TEST_SEED"])
MiB = 1 << 20
ADAM = {"name": "adam", "learning_rate": 0.1}


def create(caller: Caller, id: str, params: Any = (1.0, 2.0), **more: Any) -> None:
    status, answer = caller.call("POST", "/v1/sessions", {"optimizer": ADAM, "params": list(params), "id": id, **more})
    assert status == 201, answer


def take(caller: Caller, id: str, step: int, size: int = 2, **more: Any) -> tuple[int, Any]:
    body = {"gradients": [float(step + i) for i in range(size)], "step": step, **more}
    return caller.call("POST", f"/v1/sessions/{id}/steps", body)


def walk(caller: Caller, id: str, first: int, last: int) -> None:
    for step in range(first, last + 1):
        status, answer = take(caller, id, step)
        assert (status, answer["step"], answer["replayed"]) == (200, step, False)


class TestOutOfSockets:
    def test_it_neither_dies_nor_spins_and_goes_on_when_they_close(self, tmp_path: Path) -> None:
        with serving(tmp_path) as server, calling(server) as caller:
            create(caller, "s")
            walk(caller, "s", 1, 3)
            open_now = len(os.listdir(f"/proc/{server.process.pid}/fd"))
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (open_now + 20, open_now + 20))
            crowd = [socket.create_connection(("127.0.0.1", server.port), 5) for _ in range(60)]
            time.sleep(0.2)
            before = server.seconds()
            time.sleep(0.5)
            assert server.seconds() - before < 0.25, "it spins"
            walk(caller, "s", 4, 20)  # who is connected is served
            for member in crowd:
                member.close()
            walk_when_it_answers(server.port, "s", 21)
            assert server.end(signal.SIGTERM) == 0


def walk_when_it_answers(port: int, id: str, step: int) -> None:
    """A new connection is served within a few seconds."""
    deadline = time.monotonic() + 5
    while True:
        caller = Caller(port)
        try:
            status, answer = take(caller, id, step)
            assert (status, answer["step"]) == (200, step)
            return
        except Unknown:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        finally:
            caller.close()


class TestOutOfMemory:
    def test_a_step_that_is_too_big_is_refused_and_others_go_on(self, tmp_path: Path) -> None:
        with serving(tmp_path) as server, calling(server) as caller:
            create(caller, "s")
            create(caller, "big", [0.0] * 500_000)
            walk(caller, "s", 1, 3)
            status = Path(f"/proc/{server.process.pid}/status").read_text()
            size = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmSize")) * 1024
            limit = size + 16 * MiB
            resource.prlimit(server.process.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
            refused = take(caller, "big", 1, 500_000)
            assert (refused[0], refused[1]["code"]) == (503, "unavailable")
            walk(caller, "s", 4, 20)
            resource.prlimit(server.process.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
            code, answer = take(caller, "big", 1, 500_000)
            assert (code, answer["step"], answer["replayed"]) == (200, 1, False)
            assert server.end(signal.SIGTERM) == 0


class TestStopped:
    def test_in_the_middle_of_load_and_let_go_on_loses_nothing(self, tmp_path: Path) -> None:
        """Some clients wait; others lose patience and send again on another connection."""
        rng = random.Random(SEED)
        print(f"TEST_SEED={SEED}")  # noqa: T201
        with serving(tmp_path) as server, calling(server) as caller:
            ids = {"waits": 20.0, "hurries": 0.1, "few": 0.1, "none": 20.0}
            for id in ids:
                create(caller, id, durability={"few": "every:3", "none": "none"}.get(id, "step"))
            told: dict[str, int] = dict.fromkeys(ids, 0)
            enough = threading.Event()

            def client(id: str, patience: float) -> None:
                mine = Caller(server.port, patience)
                while not enough.is_set():
                    try:
                        status, answer = take(mine, id, told[id] + 1)
                    except Unknown:
                        mine.close()
                        continue
                    assert (status, answer["step"]) == (200, told[id] + 1)
                    told[id] += 1
                mine.close()

            threads = [threading.Thread(target=client, args=item) for item in ids.items()]
            for thread in threads:
                thread.start()
            for _ in range(3):
                time.sleep(rng.uniform(0.02, 0.1))
                server.process.send_signal(signal.SIGSTOP)
                time.sleep(rng.uniform(0.15, 0.3))
                stopped = dict(told)
                server.process.send_signal(signal.SIGCONT)
                deadline = time.monotonic() + 10
                while not all(told[id] > stopped[id] for id in ids):
                    assert time.monotonic() < deadline, (stopped, told)
                    time.sleep(0.01)
            enough.set()
            for thread in threads:
                thread.join(30)
            for id, step in told.items():
                assert step <= caller.call("GET", f"/v1/sessions/{id}")[1]["step"] <= step + 1
                assert caller.call("GET", f"/v1/sessions/{id}/params?step={step}")[1]["params"] == adam(step)
            assert server.end(signal.SIGTERM) == 0


def adam(steps: int) -> list[float]:
    """What the model of the optimizer makes of these steps."""
    model = Adam([1.0, 2.0])
    for step in range(1, steps + 1):
        model.step([float(step + i) for i in range(2)])
    params: list[float] = model.params.tolist()
    return params


class TestKilledAtTheFirstStart:
    def test_on_an_empty_directory_starts_the_next_time(self, tmp_path: Path) -> None:
        rng = random.Random(SEED)
        data = tmp_path / "data"
        begun = 0
        for _ in range(3):
            with serving(data) as server:
                while not data.exists() and server.process.poll() is None:
                    time.sleep(0.001)
                time.sleep(rng.uniform(0.0, 0.01))
                server.end()
            begun += (data / "thalweg.sqlite").exists()
            if rng.random() < 0.7:
                shutil.rmtree(data)
        assert begun
        with serving(data) as server, calling(server) as caller:
            create(caller, "s")
            walk(caller, "s", 1, 3)
            assert server.end(signal.SIGTERM) == 0
