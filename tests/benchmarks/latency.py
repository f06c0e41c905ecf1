"""How long one durable step takes on one keep-alive connection, against an echo that writes and syncs the same bytes.

    python -m tests.benchmarks.latency 8000 500

takes 500 steps of session b0, and prints a line of their milliseconds. The client is a socket with the request made
beforehand. The machine should be idle; what is left of its noise falls on all alike, for
they take turns.
"""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from tests.benchmarks.serving import GRADIENTS, ROOT, UVICORN, create, running, thalweg

STEPS = 250  # in each of a second's turns
OURS, SYNCED = "thalweg, durable", "echo with fsync"


class Client:
    """One connection that asks for the same again and again. Raises SystemExit when the answer is not 200."""

    def __init__(self, port: int, session: str = "b0") -> None:
        body = json.dumps({"gradients": GRADIENTS}, separators=(",", ":")).encode()
        head = f"POST /v1/sessions/{session}/steps HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        self._request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def step(self) -> float:
        """Seconds from the request to the whole answer."""
        start = time.perf_counter()
        self._socket.sendall(self._request)
        answer = self._socket.recv(1 << 16)
        while not _whole(answer):
            more = self._socket.recv(1 << 16)
            if not more:
                raise SystemExit("the server closed the connection")
            answer += more
        taken = time.perf_counter() - start
        if not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"not a step's answer: {answer[:500]!r}")
        return taken


def _whole(answer: bytes) -> bool:
    head, ended, body = answer.partition(b"\r\n\r\n")
    if not ended:
        return False
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return len(body) >= int(length)


def table(rounds: int, seconds: int) -> None:
    """Print the latencies of ours, the echo, and the echo with an fsync, and the ratio to the last."""
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(running(thalweg(stack.enter_context(tempfile.TemporaryDirectory()))))
        create(ours, 1)
        servers = {
            OURS: ours,
            SYNCED: stack.enter_context(running([*UVICORN, "PORT", "tests.benchmarks.synced:app"])),
            "bare uvicorn echo": stack.enter_context(running([*UVICORN, "PORT", "tests.benchmarks.echo:app"])),
        }
        p50: dict[str, list[float]] = {name: [] for name in servers}
        every: dict[str, list[float]] = {name: [] for name in servers}
        for _ in range(rounds * seconds):
            for name, server in servers.items():
                command = [sys.executable, "-m", "tests.benchmarks.latency", str(server.port), str(STEPS)]
                taken = json.loads(subprocess.check_output(command, cwd=ROOT))
                p50[name].append(statistics.median(taken))
                every[name] += taken
    print(f"\nlatency: one connection, 10 float64, JSON; {rounds * seconds} alternating turns of {STEPS} steps")
    for name, taken in every.items():
        p99 = statistics.quantiles(taken, n=100)[98]
        print(f"  {name:20} p50 {statistics.median(p50[name]):7.3f} ms   p99 {p99:7.3f} ms")
    pairs = [mine / peer for mine, peer in zip(p50[OURS], p50[SYNCED], strict=True)]
    print(f"  thalweg / {SYNCED}, p50: {statistics.median(pairs):.2f}  ({min(pairs):.2f} to {max(pairs):.2f})")


def main() -> None:
    """Be the client."""
    client = Client(int(sys.argv[1]))
    for _ in range(20):
        client.step()
    print(json.dumps([client.step() * 1e3 for _ in range(int(sys.argv[2]))]))


if __name__ == "__main__":
    main()
