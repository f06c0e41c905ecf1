"""A service in a process of its own, for what shows only on real sockets."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx


class Server:
    """`thalweg serve` on a data directory; keywords are settings."""

    def __init__(self, data: Path, **settings: Any) -> None:
        flags = [text for name, value in settings.items() for text in (f"--{name.replace('_', '-')}", str(value))]
        command = [sys.executable, "-m", "service.cli", "serve", "--port", "0", "--data", str(data), *flags]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("THALWEG_")}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert self.process.stderr is not None
        said = ""
        for line in self.process.stderr:
            said += line
            if found := re.search(r"listens on (http://127\.0\.0\.1:(\d+))", line):
                self.url, self.port = found[1], int(found[2])
                break
        else:
            raise AssertionError(f"the service did not start: {said}")
        self.client = httpx.Client(base_url=self.url, timeout=30)

    def end(self, number: int = signal.SIGKILL, within: float = 30) -> int:
        """Send a signal, and wait for the end; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(within)

    def close(self) -> None:
        """Let go of it, dead or alive."""
        if self.process.poll() is None:
            self.end()
        self.client.close()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def memory(self) -> int:
        """Bytes of memory that the process holds."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def create(self, id: str, **body: Any) -> dict[str, Any]:
        """A session: gradient descent on two numbers, unless the body says otherwise."""
        default = {"optimizer": {"name": "sgd", "learning_rate": 0.1}, "params": [1.0, 2.0], "id": id}
        response = self.client.post("/v1/sessions", json=default | body)
        assert response.status_code == 201, response.text
        shown: dict[str, Any] = response.json()
        return shown

    def step(self, id: str, **body: Any) -> dict[str, Any]:
        """A step that must be taken."""
        response = self.client.post(f"/v1/sessions/{id}/steps", json=body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def history(self, id: str) -> list[dict[str, Any]]:
        """The session's steps."""
        items: list[dict[str, Any]] = self.client.get(f"/v1/sessions/{id}/steps?limit=10000").json()["items"]
        return items


@contextlib.contextmanager
def serving(data: Path, **settings: Any) -> Iterator[Server]:
    """A server, killed in the end if it still lives."""
    server = Server(data, **settings)
    try:
        yield server
    finally:
        server.close()
