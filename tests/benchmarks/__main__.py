"""`make bench`: what the service can carry, against named peers measured in the same run.

    python -m tests.benchmarks [steps] [streams] [latency] [large] [crowd] [million] [kernels] [start]
                               [--rounds 5] [--seconds 4]

Rounds alternate between the candidates, for the machine may be noisy; medians are printed, and the ratios are what
travels. Load goes to 127.0.0.1 only. All but `latency`, `large`, `kernels` and `start` need wrk; Ray, grpc, torch and
optax are measured where they are installed, with `pip install -e '.[peers]'`. `million` takes minutes: it fills a store
with a million sessions first.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable

import httpx

from tests.benchmarks import streaming
from tests.benchmarks.serving import create, needs_wrk, running, thalweg


def steps(rounds: int, seconds: int) -> None:
    """Durable steps/s, 64 connections, against an echo, the naive service, gRPC and Ray."""
    from tests.benchmarks import steps

    steps.table(rounds, seconds)


def streams(rounds: int, seconds: int) -> None:
    """Durable steps/s by the batch and over one WebSocket."""
    needs_wrk()
    with tempfile.TemporaryDirectory() as data, running(thalweg(data)) as server:
        create(server, streaming.SESSIONS)
        streaming.table(server.url, rounds, seconds)


def latency(rounds: int, seconds: int) -> None:
    """One durable step on one connection, against an echo with an fsync."""
    from tests.benchmarks import latency

    latency.table(rounds, seconds)


def large(rounds: int, seconds: int) -> None:
    """A step of 100 MB against an echo of as many bytes; its memory."""
    from tests.benchmarks import large

    large.table(rounds, seconds)


def crowd(rounds: int, seconds: int) -> None:
    """A healthy client beside slow, deaf, idle and many."""
    from tests.benchmarks import crowd

    crowd.table(rounds, seconds)


def million(rounds: int, seconds: int) -> None:
    """A store with a million sessions against one with a thousand."""
    from tests.benchmarks import million

    million.table(rounds, seconds)


def kernels(rounds: int, seconds: int) -> None:
    """Milliseconds a step of large tensors, against torch and optax."""
    from tests.benchmarks import kernels

    kernels.table(rounds)


def start(rounds: int, seconds: int) -> None:
    """From the command to the first answer."""
    taken = []
    for _ in range(rounds):
        with contextlib.ExitStack() as stack:
            data = stack.enter_context(tempfile.TemporaryDirectory())
            begin = time.perf_counter()
            server = stack.enter_context(running(thalweg(data)))
            taken.append(time.perf_counter() - begin)
            httpx.get(f"{server.url}/livez").raise_for_status()
    print(f"\nstart: command to first answer {statistics.median(taken):.2f} s, median of {rounds}")


TABLES: dict[str, Callable[[int, int], None]] = {
    table.__name__: table for table in (steps, streams, latency, large, crowd, million, kernels, start)
}


def main() -> None:
    """Run the benchmarks that are named, or all."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("tests.benchmarks", description=__doc__, formatter_class=raw)
    parser.add_argument("which", nargs="*", metavar="which", help=", ".join(TABLES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    chosen = parser.parse_args()
    if unknown := set(chosen.which) - set(TABLES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    for name, table in TABLES.items():
        if name in chosen.which or not chosen.which:
            table(chosen.rounds, chosen.seconds)


if __name__ == "__main__":
    main()
