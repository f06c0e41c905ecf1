"""Durable steps per second by the batch and over one WebSocket.

    python -m tests.benchmarks.streaming 127.0.0.1:8000 /v1/sessions/b0/stream 32 4

is a client that keeps 32 steps under way for 4 seconds, and prints how many were answered in a second. It sends frames
that were made before and only counts those that come back, so that what is measured is the service: a client of a
WebSocket library takes as long for a message as the service does for a step, on the same cores.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

GRADIENTS = [0.12, -0.5, 1.25, -3.5, 0.031, 2.2, -0.77, 0.9, -1.1, 0.4]
WINDOWS = (32, 128)
BATCH, SESSIONS = 100, 800  # steps in a request, and those that they are of
_KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # the sample of RFC 6455: nobody is to be kept from replaying this


class Client:
    """The least that steps can be streamed with."""

    def __init__(self, address: str, path: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), 10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = f"GET {path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        self._socket.sendall(f"{head}Sec-WebSocket-Key: {_KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        self._left = b""
        while b"\r\n\r\n" not in self._left:
            self._left += self._socket.recv(1 << 16)
        status, _, self._left = self._left.partition(b"\r\n\r\n")
        if not status.startswith(b"HTTP/1.1 101"):
            raise SystemExit(status.decode())

    def send(self, frames: bytes) -> None:
        """Send frames."""
        self._socket.sendall(frames)

    def receive(self) -> tuple[int, bytes]:
        """How many answers have come, one at least, and the last of them."""
        count, start, stop = 0, 0, 0
        while not count:
            data = self._left + self._socket.recv(1 << 18)
            at = 0
            while len(data) - at >= 4:
                if data[at] != 0x81:
                    raise SystemExit(f"this is no text: {data[at : at + 200]!r}")
                length, header = data[at + 1], 2
                if length == 126:
                    length, header = int.from_bytes(data[at + 2 : at + 4]), 4
                if len(data) - at < header + length:
                    break
                start, stop = at + header, at + header + length
                count, at = count + 1, stop
            self._left = data[at:]
        return count, data[start:stop]


def masked(text: bytes) -> bytes:
    """A text as the frame that a client sends."""
    key = os.urandom(4)
    length = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2)
    return b"\x81" + length + key + bytes(byte ^ key[i % 4] for i, byte in enumerate(text))


def stream(address: str, path: str, window: int, seconds: float) -> float:
    """Answers per second with so many steps ahead."""
    client = Client(address, path)
    frames = [masked(json.dumps({"gradients": GRADIENTS}).encode()) * count for count in range(window + 1)]
    client.send(frames[1])
    before = json.loads(client.receive()[1])["step"]
    client.send(frames[window])
    start, answered, answer = time.perf_counter(), 0, b""
    while time.perf_counter() - start < seconds:
        count, answer = client.receive()
        client.send(frames[count])
        answered += count
    taken = time.perf_counter() - start
    if (step := json.loads(answer).get("step")) != before + answered:
        raise SystemExit(f"{answered} answers after step {before}, and the last is of step {step}: {answer!r}")
    return answered / taken


def table(url: str, rounds: int, seconds: int) -> None:
    """Print the rates against a service that has the sessions b0 .. b99."""
    print(f"\nstreams: 10 float64, durable, medians of {rounds} rounds of {seconds} s")
    lua = str(Path(__file__).parent / "batches.lua")
    rates = []
    for _ in range(rounds):
        command = ["wrk", "-t1", "-c4", f"-d{seconds}s", "-s", lua, url]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        requests, duration = map(float, next(x for x in out.splitlines() if x.startswith("RESULT")).split()[1:3])
        rates.append(BATCH * requests / duration * 1e6)
    print(f"  POST /v1/steps, {BATCH} sessions a request, 4 connections: {statistics.median(rates):9,.0f} /s")
    address = url.removeprefix("http://")
    for window in WINDOWS:
        command = [sys.executable, "-m", "tests.benchmarks.streaming", address, "/v1/sessions/b0/stream"]
        command += [str(window), str(seconds)]
        answers = [float(subprocess.check_output(command, text=True)) for _ in range(rounds)]
        print(f"  one WebSocket, {window} ahead: {statistics.median(answers):9,.0f} /s")


if __name__ == "__main__":
    print(stream(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
