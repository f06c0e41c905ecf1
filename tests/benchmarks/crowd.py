"""What a healthy client feels of the others: its latencies alone, and beside clients that are slow, deaf, idle or many.

    python -m tests.benchmarks.crowd 8000 4

is the healthy client: for 4 seconds a durable step of ten float64 each 5 ms on its own connection and session, or as
soon as the one before is answered. It prints p50, p99 and the longest in ms, and how many it took in a second.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import httpx

from tests.benchmarks.latency import Client
from tests.benchmarks.serving import HERE, ROOT, SESSIONS, Server, create, needs_wrk, running, thalweg

HEALTHY = f"b{SESSIONS}"  # its session
PACE = 200  # steps a second
SLOW, DEAF, IDLE = 50, 50, 1000
LARGE = 250_000  # parameters of the session that the deaf ask for: 5 MB as JSON
FILES = 4096  # more than all sockets of a crowd

HEAD = b"POST /v1/steps HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nX-Slow: "
LARGE_ANSWER = b"GET /v1/sessions/large/params HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@contextlib.contextmanager
def nobody(server: Server, seconds: float) -> Iterator[None]:
    """The healthy client is alone."""
    yield


@contextlib.contextmanager
def slow(server: Server, seconds: float) -> Iterator[None]:
    """Clients that send one byte a second of a request, all at different times."""
    with _connections(server, SLOW) as connections:
        over = threading.Event()
        sent = [0] * SLOW

        def drip() -> None:
            for i, connection in itertools.cycle(enumerate(connections)):
                if over.wait(1 / SLOW):
                    return
                with contextlib.suppress(OSError):  # the service may have had enough of it
                    connection.send(b"x" if sent[i] >= len(HEAD) else HEAD[sent[i] : sent[i] + 1])
                sent[i] += 1

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


@contextlib.contextmanager
def deaf(server: Server, seconds: float) -> Iterator[None]:
    """Clients that ask for 5 MB and never read, one after the other over the first half of the time."""
    with contextlib.ExitStack() as stack:

        def ask() -> None:
            for _ in range(DEAF):
                [connection] = stack.enter_context(_connections(server, 1, receive_buffer=4096))
                connection.sendall(LARGE_ANSWER)
                time.sleep(seconds / DEAF / 2)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            thread.join()


@contextlib.contextmanager
def idle(server: Server, seconds: float) -> Iterator[None]:
    """Sockets on which nothing is ever sent."""
    with _connections(server, IDLE):
        yield


@contextlib.contextmanager
def many(server: Server, seconds: float) -> Iterator[None]:
    """wrk, as fast as it can."""
    command = ["wrk", "-t1", f"-c{SESSIONS}", f"-d{seconds + 2:.0f}s", "-s", str(HERE / "steps.lua"), server.url]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait(30)


CROWDS: dict[str, Callable[[Server, float], contextlib.AbstractContextManager[None]]] = {
    "alone": nobody,
    f"{SLOW} that send a byte a second": slow,
    f"{DEAF} that ask for 5 MB and never read": deaf,
    f"{IDLE:,} idle sockets": idle,
    f"{SESSIONS} at full speed": many,
}


@contextlib.contextmanager
def _connections(server: Server, count: int, receive_buffer: int | None = None) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            connection = stack.enter_context(socket.socket())
            if receive_buffer is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            connection.connect(("127.0.0.1", server.port))
            opened.append(connection)
        yield opened


def table(rounds: int, seconds: int) -> None:
    """Print the healthy client's latencies beside each crowd."""
    needs_wrk()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = FILES if limits[1] == resource.RLIM_INFINITY else min(FILES, limits[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(files, limits[0]), limits[1]))  # the server inherits it
    taken: dict[str, list[list[float]]] = {name: [] for name in CROWDS}
    with tempfile.TemporaryDirectory() as data, running(thalweg(data)) as server:
        create(server, SESSIONS + 1)
        large = {"id": "large", "params": [0.1234567890123456] * LARGE, "optimizer": {"name": "sgd"}}
        httpx.post(f"{server.url}/v1/sessions", json=large, timeout=60).raise_for_status()
        command = [sys.executable, "-m", "tests.benchmarks.crowd", str(server.port), str(seconds)]
        for _ in range(rounds):
            for name, crowd in CROWDS.items():
                with crowd(server, seconds):
                    taken[name].append(json.loads(subprocess.check_output(command, cwd=ROOT)))
    print(f"\ncrowd: a client of {PACE} durable steps/s beside others; medians of {rounds} rounds of {seconds} s")
    for name, rows in taken.items():
        p50, p99, longest, rate = (statistics.median(column) for column in zip(*rows, strict=True))
        latencies = f"p50 {p50:6.2f} ms   p99 {p99:6.2f} ms   longest {longest:6.2f} ms"
        print(f"  {name:36} {latencies}   {rate:3.0f} steps/s")


def main() -> None:
    """Be the healthy client."""
    client, seconds = Client(int(sys.argv[1]), HEALTHY), float(sys.argv[2])
    for _ in range(20):
        client.step()
    taken = []
    start = due = time.perf_counter()
    while due < start + seconds:
        time.sleep(max(0.0, due - time.perf_counter()))
        taken.append(client.step() * 1e3)
        due = max(due + 1 / PACE, time.perf_counter())
    centiles = statistics.quantiles(taken, n=100)
    print(json.dumps([centiles[49], centiles[98], max(taken), len(taken) / (time.perf_counter() - start)]))


if __name__ == "__main__":
    main()
