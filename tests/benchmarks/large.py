"""A step of 100 MB over HTTP against a bare echo of as many bytes: time to the answer, and memory at the peak.

    python -m tests.benchmarks.large [--rounds 9]

Adam on 12.5 million float64 as raw bytes, not waited for to be written. The client has one connection, and reads each
answer into the same memory, so that it is not what is measured. Before each request the servers come to rest.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

HERE = Path(__file__).parent
SIZE = 12_500_000
BYTES = 8 * SIZE
TICK = 0.03  # seconds between two looks at a server that is to come to rest
MB = 1e6


class Server(NamedTuple):
    """A server process, and the connection to it."""

    process: int
    connection: socket.socket


class Taken(NamedTuple):
    """Seconds from the first byte sent to the last received; CPU seconds until the server is at rest again.

    peak     megabytes above those before, at most, until the answer was there
    behind   the same until the server is at rest again: what was answered is written to the disk then
    """

    seconds: float
    cpu: float
    peak: float
    behind: float


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[Server]:
    """A server from a command that ends in the option for its port, ended at the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", *command, str(port)], stderr=subprocess.DEVNULL, cwd=HERE.parent.parent
    )
    try:
        yield Server(process.pid, _connected(port))
    finally:
        process.terminate()
        process.wait(30)


def _connected(port: int) -> socket.socket:
    for _ in range(2000):
        with contextlib.suppress(ConnectionRefusedError):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
        time.sleep(0.005)
    raise SystemExit("the server does not answer")


def request(connection: socket.socket, path: str, body: memoryview, answer: memoryview) -> int:
    """Send a POST and read what it is answered, of which the first bytes are put into `answer`; the status."""
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/octet-stream\r\n"
    connection.sendall(f"{head}accept: application/octet-stream\r\ncontent-length: {len(body)}\r\n\r\n".encode())
    connection.sendall(body)
    received = b""
    while b"\r\n\r\n" not in received:
        received += connection.recv(1 << 16)
    fields, _, rest = received.partition(b"\r\n\r\n")
    length = next(int(x[15:]) for x in fields.lower().split(b"\r\n") if x.startswith(b"content-length:"))
    filled = min(len(rest), len(answer))
    answer[:filled] = rest[:filled]
    while filled < length:
        filled += connection.recv_into(answer[filled:])
    return int(fields[9:12])


def cpu(process: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident(process: int, which: str) -> float:
    """Megabytes of memory that a process has (VmRSS), or had at most since that was forgotten (VmHWM)."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(which)) * 1024 / MB


def rest(process: int) -> None:
    """Wait until a process has nothing to do."""
    quiet, used = 0, cpu(process)
    while quiet < 5:
        time.sleep(TICK)
        quiet, used = (quiet + 1, used) if cpu(process) == used else (0, cpu(process))


def measured(server: Server, path: str, body: memoryview, answer: memoryview) -> Taken:
    """One request to a server at rest; its CPU time counts until it is at rest again."""
    rest(server.process)
    before, used = resident(server.process, "VmRSS"), cpu(server.process)
    Path(f"/proc/{server.process}/clear_refs").write_text("5")
    start = time.perf_counter()
    status = request(server.connection, path, body, answer)
    seconds = time.perf_counter() - start
    peak = resident(server.process, "VmHWM") - before
    if status != 200:
        raise SystemExit(f"{path} answered {status}: {bytes(answer[:300])!r}")
    rest(server.process)
    return Taken(seconds, cpu(server.process) - used, peak, resident(server.process, "VmHWM") - before)


def table(rounds: int, seconds: int) -> None:
    """Print the medians of at least so many alternating rounds, and of so many seconds, and their ratio."""
    gradient = np.random.default_rng(1).standard_normal(SIZE)
    body, answer = memoryview(gradient).cast("B"), memoryview(bytearray(BYTES))
    steps = "/v1/sessions/large/steps?return=params"
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(tempfile.TemporaryDirectory())
        ours = stack.enter_context(started(["service.cli", "serve", "--data", data, "--port"]))
        uvicorn = ["uvicorn", "--no-access-log", "--log-level", "error", "--timeout-keep-alive", "75"]
        echo = stack.enter_context(started([*uvicorn, "tests.benchmarks.echo:app", "--port"]))
        create = '/v1/sessions?id=large&durability=none&optimizer={"name":"adam"}'
        if request(ours.connection, create, memoryview(np.zeros(SIZE)).cast("B"), answer) != 201:
            raise SystemExit(f"no session: {bytes(answer[:300])!r}")
        for _ in range(3):
            measured(ours, steps, body, answer)
            measured(echo, "/", body, answer)
        results: list[tuple[Taken, Taken]] = []
        end = time.monotonic() + seconds
        while len(results) < rounds or time.monotonic() < end:
            results.append((measured(ours, steps, body, answer), measured(echo, "/", body, answer)))
    ratios = [a.seconds / b.seconds for a, b in results]
    print(
        f"\nlarge: Adam on {BYTES / MB:.0f} MB of float64, raw bytes, durability none, {len(results)} rounds, medians"
    )
    for name, taken in zip(("thalweg", "bare uvicorn echo"), zip(*results, strict=True), strict=True):
        middle, work, peak, behind = (statistics.median(column) for column in zip(*taken, strict=True))
        best, most = min(one.seconds for one in taken), max(one.behind for one in taken)
        print(
            f"  {name:18} {middle * 1e3:5.0f} ms (fastest {best * 1e3:4.0f})  {work * 1e3:5.0f} ms of CPU in all  "
            f"at the peak {peak:4.0f} MB more until the answer, {behind:4.0f} until written (at most {most:4.0f})"
        )
    print(f"  thalweg / echo: {statistics.median(ratios):.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser("tests.benchmarks.large", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=int, default=0)
    chosen = parser.parse_args()
    table(chosen.rounds, chosen.seconds)


if __name__ == "__main__":
    main()
