"""The naive peer as a Ray actor: Adam's states in a dictionary of one actor, in memory, nothing durable.

    python -m tests.benchmarks.ray_actor window 4

starts Ray on this machine alone, without a dashboard, keeps 64 calls under way from one driver for 4 seconds, prints
RESULT with the steps, the µs, p50 and p99 (ms), failures, and the seconds of CPU time of the actor's process and of the
driver's, and ends Ray. With `coroutines`, 64 of them await each its own call, as clients do. With `window`, the driver
waits for the oldest sixteen at once, for an actor takes its calls in order: of several ways this was the fastest. (An
actor whose methods are coroutines was half as fast.)
"""

from __future__ import annotations

import asyncio
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from typing import Any

from tests.benchmarks import adam
from tests.benchmarks.serving import GRADIENTS, ROOT, SESSIONS, TEN, Result, cpu_seconds, parsed

KINDS = ("coroutines", "window")
STORE_BYTES = 100 << 20  # the object store; Ray takes no less than 75 MB
AT_ONCE = 16  # answers that the driver waits for
WARM = 1.0  # seconds
NAMES = [f"b{i}" for i in range(SESSIONS)]


class Sessions:
    """The actor."""

    def __init__(self) -> None:
        self._states: dict[str, adam.State] = {}

    def process(self) -> int:
        return os.getpid()

    def create(self, id: str, params: list[float]) -> None:
        self._states[id] = adam.begin(params)

    def step(self, id: str, gradients: list[float]) -> tuple[int, list[float]]:
        state = self._states[id] = adam.advance(self._states[id], gradients)
        return state.step, state.params.tolist()


def measure(kind: str, seconds: int) -> Result:
    """A driver's result; the CPU times are those of the actor's process and of the driver."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    environment["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # or Ray leaves one in the home directory
    command = [sys.executable, "-m", "tests.benchmarks.ray_actor", kind, str(seconds)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=seconds + 120)
    line = next((line for line in run.stdout.splitlines() if line.startswith("RESULT")), "0 0")
    server, client = map(float, line.split()[-2:])
    return parsed(run, server, client)


def drive(kind: str, seconds: float) -> None:
    """Be the driver."""
    import ray

    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ray") as directory:  # short: it holds socket names
        ray.init(
            num_cpus=1,
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=directory,
        )
        try:
            actor = ray.remote(Sessions).remote()
            ray.get([actor.create.remote(name, TEN) for name in NAMES])
            process = ray.get(actor.process.remote())
            load = awaited if kind == "coroutines" else windowed
            load(ray, actor, WARM)
            actor_before, driver_before, start = cpu_seconds(process), time.process_time(), time.perf_counter()
            taken = load(ray, actor, seconds)
            duration = time.perf_counter() - start
            cpu = cpu_seconds(process) - actor_before, time.process_time() - driver_before
        finally:
            ray.shutdown()
    centiles = statistics.quantiles(taken, n=100)
    print("RESULT", len(taken), round(duration * 1e6), centiles[49] * 1e3, centiles[98] * 1e3, 0, *cpu)


def awaited(ray: Any, actor: Any, seconds: float) -> list[float]:
    """The seconds of the calls of 64 coroutines."""
    taken: list[float] = []
    end = time.perf_counter() + seconds

    async def client(name: str) -> None:
        while (sent := time.perf_counter()) < end:
            await actor.step.remote(name, GRADIENTS)
            taken.append(time.perf_counter() - sent)

    async def clients() -> None:
        await asyncio.gather(*map(client, NAMES))

    asyncio.run(clients())
    return taken


def windowed(ray: Any, actor: Any, seconds: float) -> list[float]:
    """The seconds of calls of which 64 are under way, received sixteen at once."""
    taken: list[float] = []
    under_way: deque[tuple[float, Any]] = deque()
    end = time.perf_counter() + seconds

    def send(count: int) -> None:
        now = time.perf_counter()
        under_way.extend((now, actor.step.remote(name, GRADIENTS)) for name in NAMES[:count])

    send(SESSIONS)
    while under_way:
        oldest = [under_way.popleft() for _ in range(AT_ONCE)]
        ray.get([call for _, call in oldest])
        now = time.perf_counter()
        taken.extend(now - sent for sent, _ in oldest)
        if now < end:
            send(AT_ONCE)
    return taken


if __name__ == "__main__":
    drive(sys.argv[1], float(sys.argv[2]))
