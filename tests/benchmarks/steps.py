"""Durable steps per second over JSON, against an echo, the naive service, a Ray actor and gRPC, in alternating rounds.

Ten float64, 64 clients. Only ours is durable. The rate is what a client sees on this machine, with its load generator
on the same cores; CPU time a step is what the server's process used, and depends less on what else runs. The load comes
from wrk, from the clients of `grpc_client.py` and, for Ray, from its driver, which is part of what Ray costs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial

import httpx

from tests.benchmarks import grpc_server, ray_actor
from tests.benchmarks.serving import (
    SESSIONS,
    TEN,
    UVICORN,
    Result,
    Server,
    create,
    listens,
    loaded,
    needs_wrk,
    running,
    thalweg,
    wrk,
)

OURS = "thalweg, durable"
Measure = Callable[[int], Result]


def table(rounds: int, seconds: int) -> None:
    """Print the rates, and the ratios of ours to each peer."""
    needs_wrk()
    with contextlib.ExitStack() as stack:
        measures = {**_http(stack), **_grpc(stack), **_ray()}
        results: dict[str, list[Result]] = {name: [] for name in measures}
        for _ in range(rounds):
            for name, measure in measures.items():
                results[name].append(measure(seconds))
    print(f"\nsteps: 10 float64, {SESSIONS} clients, medians of {rounds} alternating rounds of {seconds} s")
    print(f"  {'':21} {'steps/s':>9} {'p50':>8} {'p99':>8}   CPU a step: server, client")
    for name, rows in results.items():
        rate, p50, p99, server, client = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"  {name:21} {rate:9,.0f} {p50:5.2f} ms {p99:5.2f} ms   {server:6.1f} µs {client:6.1f} µs")
    for name, rows in results.items():
        if name != OURS:
            rates = [ours.rate / peer.rate for ours, peer in zip(results[OURS], rows, strict=True)]
            cpu = [ours.server / peer.server for ours, peer in zip(results[OURS], rows, strict=True)]
            print(f"  thalweg / {name:21} {_spread(rates)} of the rate, {_spread(cpu)} of the CPU time")
    for name in ("grpc", "ray"):
        if importlib.util.find_spec(name) is None:
            print(f"  {name} is not installed: pip install -e '.[peers]'")


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):5.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _http(stack: contextlib.ExitStack) -> dict[str, Measure]:
    """Ours, the echo and the naive service, each with its sessions."""
    ours = stack.enter_context(running(thalweg(stack.enter_context(tempfile.TemporaryDirectory()))))
    echo = stack.enter_context(running([*UVICORN, "PORT", "tests.benchmarks.echo:app"]))
    naive = stack.enter_context(running([*UVICORN, "PORT", "tests.benchmarks.naive:app"]))
    create(ours)
    for i in range(SESSIONS):
        httpx.post(f"{naive.url}/v1/sessions", json={"id": f"b{i}", "params": TEN}).raise_for_status()
    return {OURS: partial(wrk, ours), "bare uvicorn echo": partial(wrk, echo), "naive, in memory": partial(wrk, naive)}


def _grpc(stack: contextlib.ExitStack) -> dict[str, Measure]:
    """Both kinds of gRPC server, where grpc is installed."""
    if importlib.util.find_spec("grpc") is None:
        return {}

    def measure(server: Server) -> Measure:
        client = [sys.executable, "-m", "tests.benchmarks.grpc_client", str(server.port)]
        return lambda seconds: loaded([*client, str(seconds), str(SESSIONS)], server.process)

    servers = {
        kind: stack.enter_context(running(["tests.benchmarks.grpc_server", kind, "PORT"], up=listens))
        for kind in grpc_server.KINDS
    }
    return {f"gRPC, {kind}": measure(server) for kind, server in servers.items()}


def _ray() -> dict[str, Measure]:
    """Both kinds of driver of the Ray actor, where Ray is installed; Ray runs only while it is measured."""
    if importlib.util.find_spec("ray") is None:
        return {}
    return {f"Ray actor, {kind}": partial(ray_actor.measure, kind) for kind in ray_actor.KINDS}
