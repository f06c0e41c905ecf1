"""Servers under load: a process that answers on a port, what it costs in CPU time, and wrk's 64 connections."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from socket import create_connection, socket
from typing import NamedTuple

import httpx

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SESSIONS = 64
TEN = [float(i) for i in range(1, 11)]
GRADIENTS = [0.12, -0.5, 1.25, -3.5, 0.031, 2.2, -0.77, 0.9, -1.1, 0.4]
UVICORN = ["uvicorn", "--no-access-log", "--log-level", "error", "--port"]
TICK = os.sysconf("SC_CLK_TCK")


class Server(NamedTuple):
    """A server that runs: where it answers, and its process id."""

    url: str
    port: int
    process: int


class Result(NamedTuple):
    """Steps per second, latencies in ms, and CPU time a step in µs: of the server's process, and of the client's."""

    rate: float
    p50: float
    p99: float
    server: float
    client: float


def free_port() -> int:
    """A port that nobody listens on."""
    with socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def answers(port: int) -> None:
    """Return at the first answer of any kind to an HTTP request."""
    for _ in range(2000):
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/livez")
            return
        time.sleep(0.005)
    raise SystemExit(f"port {port} does not answer")


def listens(port: int) -> None:
    """Return when a connection is accepted."""
    for _ in range(2000):
        with contextlib.suppress(ConnectionRefusedError):
            create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.005)
    raise SystemExit(f"nothing listens on port {port}")


@contextlib.contextmanager
def running(command: list[str], up: Callable[[int], None] = answers) -> Iterator[Server]:
    """A server from a command that takes its port after the last option, ended at the end."""
    port = free_port()
    arguments = [part.replace("PORT", str(port)) for part in command]
    process = subprocess.Popen([sys.executable, "-m", *arguments], stderr=subprocess.DEVNULL, cwd=ROOT)
    try:
        up(port)
        yield Server(f"http://127.0.0.1:{port}", port, process.pid)
    finally:
        process.terminate()
        process.wait(30)


def thalweg(data: str) -> list[str]:
    """The command of our service on a directory."""
    return ["service.cli", "serve", "--port", "PORT", "--data", data]


def create(server: Server, sessions: int = SESSIONS) -> None:
    """Sessions b0, b1, ... of ten parameters, with Adam, in our service."""
    with httpx.Client(base_url=server.url) as client:
        for i in range(sessions):
            body = {"id": f"b{i}", "params": TEN, "optimizer": {"name": "adam"}}
            client.post("/v1/sessions", json=body).raise_for_status()


def cpu_seconds(process: int) -> float:
    """What all threads of a process have used, in user and system mode."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def loaded(command: list[str], process: int) -> Result:
    """A load generator's result: it prints RESULT, steps, µs, p50, p99 (ms) and failures.

    The server's CPU time is that of the process, the client's that of the command.
    """
    before, client_before = cpu_seconds(process), _children()
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    server, client = cpu_seconds(process) - before, _children() - client_before
    return parsed(run, server, client)


def parsed(run: subprocess.CompletedProcess[str], server: float, client: float) -> Result:
    """The line RESULT, with the seconds of CPU time. Raises SystemExit where there is none, or requests failed."""
    line = next((line for line in run.stdout.splitlines() if line.startswith("RESULT")), None)
    if line is None:
        raise SystemExit(f"{run.args}: no result\n{run.stderr[-2000:]}")
    steps, duration, p50, p99, bad = map(float, line.split()[1:6])
    if bad:
        raise SystemExit(f"{run.args}: {bad:.0f} failed requests")
    return Result(steps / duration * 1e6, p50, p99, server / steps * 1e6, client / steps * 1e6)


def wrk(server: Server, seconds: int) -> Result:
    """64 connections, a step of ten float64 as JSON on each."""
    needs_wrk()
    command = ["wrk", "-t1", f"-c{SESSIONS}", f"-d{seconds}s", "-s", str(HERE / "steps.lua"), server.url]
    return loaded(command, server.process)


def needs_wrk() -> None:
    """Raises SystemExit where it is not installed."""
    if shutil.which("wrk") is None:
        raise SystemExit("this benchmark needs wrk: apt-get install wrk")


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
