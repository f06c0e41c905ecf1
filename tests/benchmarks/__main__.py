"""`make bench`: what the service can carry, against named peers measured in the same run.

    python -m tests.benchmarks [steps] [streams] [kernels] [start] [--rounds 5] [--seconds 4]

Rounds alternate between the candidates, for the machine may be noisy; medians are printed, and the ratios are what
travels. Load goes to 127.0.0.1 only. `steps` needs wrk.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from socket import socket

import httpx

from tests.benchmarks import kernels, streaming

HERE = Path(__file__).parent
SESSIONS = 64
TEN = list(range(1, 11))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextlib.contextmanager
def running(command: list[str], port: int) -> Iterator[str]:
    """A server process that answers on the port, ended at the end."""
    process = subprocess.Popen([sys.executable, "-m", *command], stderr=subprocess.DEVNULL, cwd=HERE.parent.parent)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_up(url)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def wait_until_up(url: str) -> None:
    """Return at the first answer of any kind."""
    for _ in range(2000):
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"{url}/livez")
            return
        time.sleep(0.005)
    raise SystemExit(f"{url} does not answer")


def wrk(url: str, seconds: int) -> dict[str, float]:
    """Steps per second and latencies (ms) of 64 connections."""
    command = ["wrk", "-t1", f"-c{SESSIONS}", f"-d{seconds}s", "-s", str(HERE / "steps.lua"), url]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    line = next(line for line in out.splitlines() if line.startswith("RESULT"))
    requests, duration, p50, p99, bad = map(float, line.split()[1:])
    if bad:
        raise SystemExit(f"{url}: {bad:.0f} failed requests")
    return {"rate": requests / duration * 1e6, "p50": p50, "p99": p99}


def steps(rounds: int, seconds: int) -> None:
    """Durable steps/s, ten float64, JSON, 64 connections, against an echo and the naive service."""
    if shutil.which("wrk") is None:
        raise SystemExit("the benchmark of steps needs wrk: apt-get install wrk")
    ports = [free_port() for _ in range(3)]
    uvicorn = ["uvicorn", "--no-access-log", "--log-level", "error", "--port"]
    with tempfile.TemporaryDirectory() as data, contextlib.ExitStack() as stack:
        ours = ["service.cli", "serve", "--port", str(ports[0]), "--data", data]
        urls = {
            "thalweg, durable": stack.enter_context(running(ours, ports[0])),
            "bare uvicorn echo": stack.enter_context(
                running([*uvicorn, str(ports[1]), "tests.benchmarks.echo:app"], ports[1])
            ),
            "naive, in memory": stack.enter_context(
                running([*uvicorn, str(ports[2]), "tests.benchmarks.naive:app"], ports[2])
            ),
        }
        for name, url in urls.items():
            for i in range(SESSIONS if "echo" not in name else 0):
                body: dict[str, object] = {"id": f"b{i}", "params": TEN}
                if "thalweg" in name:
                    body["optimizer"] = {"name": "adam"}
                httpx.post(f"{url}/v1/sessions", json=body).raise_for_status()
        results: dict[str, list[dict[str, float]]] = {name: [] for name in urls}
        for _ in range(rounds):
            for name, url in urls.items():
                results[name].append(wrk(url, seconds))
    rate = {name: statistics.median(r["rate"] for r in rows) for name, rows in results.items()}
    print(f"\nsteps: 10 float64, JSON, {SESSIONS} connections, medians of {rounds} rounds of {seconds} s")
    for name, rows in results.items():
        p50, p99 = (statistics.median(r[key] for r in rows) for key in ("p50", "p99"))
        print(f"  {name:20} {rate[name]:9,.0f} /s   p50 {p50:6.2f} ms   p99 {p99:6.2f} ms")
    for name in ("bare uvicorn echo", "naive, in memory"):
        pairs = [a["rate"] / b["rate"] for a, b in zip(results["thalweg, durable"], results[name], strict=True)]
        print(f"  thalweg / {name}: {statistics.median(pairs):.2f}  ({min(pairs):.2f} to {max(pairs):.2f})")


def streams(rounds: int, seconds: int) -> None:
    """Durable steps/s by the batch and over one WebSocket."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(tempfile.TemporaryDirectory())
        url = stack.enter_context(running(["service.cli", "serve", "--port", str(port), "--data", data], port))
        for i in range(streaming.BATCH):
            body = {"id": f"b{i}", "params": TEN, "optimizer": {"name": "adam"}}
            httpx.post(f"{url}/v1/sessions", json=body).raise_for_status()
        streaming.table(url, rounds, seconds)


def start_up(rounds: int) -> None:
    """From the command to the first answer of a step."""
    taken = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as data:
            port = free_port()
            start = time.perf_counter()
            with running(["service.cli", "serve", "--port", str(port), "--data", data], port) as url:
                taken.append(time.perf_counter() - start)
                httpx.get(f"{url}/livez").raise_for_status()
    print(f"\nstart: command to first answer {statistics.median(taken):.2f} s, median of {rounds}")


def main() -> None:
    """Run the benchmarks that are named, or all."""
    parser = argparse.ArgumentParser("tests.benchmarks", description=__doc__)
    parser.add_argument("which", nargs="*", default=["steps", "streams", "kernels", "start"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    chosen = parser.parse_args()
    if "steps" in chosen.which:
        steps(chosen.rounds, chosen.seconds)
    if "streams" in chosen.which:
        streams(chosen.rounds, chosen.seconds)
    if "kernels" in chosen.which:
        kernels.table(chosen.rounds)
    if "start" in chosen.which:
        start_up(chosen.rounds)


if __name__ == "__main__":
    main()
