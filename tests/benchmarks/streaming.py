"""Durable steps per second by the batch and over one WebSocket.

    python -m tests.benchmarks.streaming ws://127.0.0.1:8000/v1/sessions/b0/stream 32 4

is a client that keeps 32 steps under way for 4 seconds, and prints how many were answered in a second.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

GRADIENTS = [0.12, -0.5, 1.25, -3.5, 0.031, 2.2, -0.77, 0.9, -1.1, 0.4]
WINDOWS = (32, 128)
BATCH = 100


async def stream(url: str, window: int, seconds: float) -> float:
    """Answers per second with so many steps ahead."""
    from websockets.asyncio.client import connect

    text = json.dumps({"gradients": GRADIENTS})
    async with connect(url, compression=None, max_queue=None) as socket:
        for _ in range(window):
            await socket.send(text)
        start, answered = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            await socket.recv(decode=False)
            await socket.send(text)
            answered += 1
        return answered / (time.perf_counter() - start)


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
    target = url.replace("http", "ws", 1) + "/v1/sessions/b0/stream"
    for window in WINDOWS:
        command = [sys.executable, "-m", "tests.benchmarks.streaming", target, str(window), str(seconds)]
        answers = [float(subprocess.check_output(command, text=True)) for _ in range(rounds)]
        print(f"  one WebSocket, {window} ahead: {statistics.median(answers):9,.0f} /s")


if __name__ == "__main__":
    print(asyncio.run(stream(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))
