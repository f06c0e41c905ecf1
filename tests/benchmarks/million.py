"""A store with a million sessions against one with a thousand: steps per second, memory, start, a session's return.

    python -m tests.benchmarks.million [--sessions 1000000] [--data DIR] [--rounds 3] [--seconds 10]

Filling a store takes some minutes; with `--data` it is kept in that directory and found there the next time. Each
request steps a session drawn at random, so that in the large store nearly all of them come from the log. Before each
round the file is read once, for what is measured is the service and not how fast a disk finds pages. Needs wrk.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from service.optim.optimizer import build
from service.optim.tensors import single
from service.sessions.engine import Creation, Engine
from service.settings import Settings
from service.stores.sqlite import SQLiteStore
from service.wire.steps import StepRequest
from service.wire.trees import Flat
from tests.benchmarks.serving import GRADIENTS, HERE, Result, Server, loaded, needs_wrk, running, thalweg
from tests.benchmarks.serving import SESSIONS as CONNECTIONS

SESSIONS = 1_000_000
FEW = 1_000
GROUP = 5_000  # sessions created in one commit
SIZE = 10
LOGGED = 20  # sessions with a longer log, for their first step after they have left memory
STEPS = 1_000  # in each of these logs
MiB = 1 << 20


class Started(NamedTuple):
    """A service on a store; `seconds` are those from the command to its first answer."""

    server: Server
    data: Path
    sessions: int
    seconds: float


def name(i: int) -> str:
    """The id of a session, as long as those that the service gives."""
    return f"s_{i:022d}"


async def fill(data: Path, sessions: int) -> None:
    """So many sessions of ten parameters, some of them with a thousand steps in their logs."""
    engine = Engine(store := SQLiteStore(data), Settings(data=data, cache_bytes=0, max_sessions=1 << 62))
    layout, draw = single(SIZE), np.random.default_rng(1)
    creation = Creation(build({"name": "adam"}, layout), layout, np.zeros(0), "reject", "step", {}, None, "")

    async def make(id: str) -> None:
        await engine.create(id, creation._replace(params=draw.normal(size=SIZE), body=draw.bytes(32).hex()))

    for first in range(0, sessions, GROUP):
        await asyncio.gather(*(make(name(i)) for i in range(first, min(first + GROUP, sessions))))
    for i in range(LOGGED):
        await make(f"logged{i}")
        for _ in range(STEPS // 100):
            gradients = draw.normal(size=(100, SIZE))
            taken = [StepRequest(lambda _, g=g: Flat(g), None, None, "none") for g in gradients]
            await engine.step_many(f"logged{i}", taken)
    await engine.close()
    store.close()


@contextlib.contextmanager
def started(data: Path, sessions: int) -> Iterator[Started]:
    """The service on a store of so many sessions, which is filled where there is none yet."""
    if not (data / "thalweg.sqlite").exists():
        asyncio.run(fill(data, sessions))
    start = time.perf_counter()
    with running(thalweg(str(data))) as server:
        yield Started(server, data, sessions, time.perf_counter() - start)


def returns(server: Server) -> list[float]:
    """Milliseconds of the first step of each session with a long log; the first of them is the first of the process."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    body, taken = json.dumps({"gradients": GRADIENTS}), []
    for i in range(LOGGED):
        start = time.perf_counter()
        connection.request("POST", f"/v1/sessions/logged{i}/steps", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise SystemExit(f"logged{i}: {answer.read()!r}")
        answer.read()
        taken.append((time.perf_counter() - start) * 1e3)
    connection.close()
    return taken


def wrk(one: Started, seconds: int) -> Result:
    """64 connections, each step on a session drawn at random."""
    for path in one.data.glob("thalweg.sqlite*"):
        with path.open("rb") as file:
            while file.read(MiB):
                pass
    script = ["-s", str(HERE / "million.lua"), one.server.url, "--", str(one.sessions), str(random.randrange(1 << 30))]
    return loaded(["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", *script], one.server.process)


def resident(server: Server) -> float:
    """The memory of a server, MB."""
    status = Path(f"/proc/{server.process}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def table(rounds: int, seconds: int, sessions: int = SESSIONS, data: Path | None = None) -> None:
    """Print medians of alternating rounds of so many seconds, and what else there is to a store of many sessions."""
    needs_wrk()
    with contextlib.ExitStack() as stack:
        root = data or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        few = stack.enter_context(started(root / "few", FEW))
        many = stack.enter_context(started(root / str(sessions), sessions))
        before, taken = resident(many.server), returns(many.server)
        results = [(wrk(many, seconds), wrk(few, seconds)) for _ in range(rounds)]
        after = resident(many.server)
    ratios = [a.rate / b.rate for a, b in results]
    print(
        f"\nmillion: {sessions:,} sessions of {SIZE} float64, durable JSON steps, {CONNECTIONS} connections, random ids"
    )
    for one, found in zip((many, few), zip(*results, strict=True), strict=True):
        rate, p50, p99, work = (statistics.median(result[i] for result in found) for i in range(4))
        shown = f"{rate:9,.0f} /s   p50 {p50:6.2f} ms   p99 {p99:7.2f} ms   {work:4.0f} µs of CPU"
        print(f"  {one.sessions:9,} sessions {shown}")
    print(f"  many / few: {statistics.median(ratios):.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")
    print(f"  memory: {before:.0f} MB after the start, {after:.0f} MB after the steps")
    print(f"  command to first answer: {many.seconds:.2f} s")
    print(
        f"  first step of a session with {STEPS:,} logged: {statistics.median(taken[1:]):.1f} ms (median of "
        f"{len(taken) - 1}); as the first of the process {taken[0]:.1f} ms"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser("tests.benchmarks.million", description=__doc__)
    parser.add_argument("--sessions", type=int, default=SESSIONS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=10)
    chosen = parser.parse_args()
    table(chosen.rounds, chosen.seconds, chosen.sessions, chosen.data)


if __name__ == "__main__":
    main()
