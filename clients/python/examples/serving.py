"""The service as a child process: started, killed and started again on the same data directory."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import thalweg

PATIENCE = 60.0  # seconds; a start takes one or two
LINES = 40  # of the service's log that an error shows


def bypass_proxy(host: str) -> None:
    """Let this process and its children reach `host` directly, where the environment names a proxy for the rest."""
    hosts = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if host not in hosts.split(","):
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = f"{hosts},{host}".strip(",")


class Service:
    """`thalweg serve` on a free port of this machine, for the length of a `with` block."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.log = data / "service.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        bypass_proxy("127.0.0.1")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until the service answers. Raises RuntimeError where it does not."""
        command = [sys.executable, "-m", "service.cli", "serve", "--port", str(self.port), "--data", str(self.data)]
        # settings of a service elsewhere are not meant for this one
        environment = {name: value for name, value in os.environ.items() if not name.startswith("THALWEG_")}
        self.data.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        with thalweg.Client(self.url) as client:
            while not client.livez():
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("The service did not start.")
                time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL: the process ends in the middle of whatever it does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        """Ask the process to end, and wait until it has."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException as error:
            self.kill()
            self._explain(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._explain(error)

    def _explain(self, error: BaseException | None) -> None:
        """Add the end of the service's own log to an error; the log may be in a directory that vanishes."""
        if isinstance(error, Exception) and self.log.exists():
            lines = self.log.read_text(errors="replace").splitlines()
            error.add_note("\n".join(["The service's log ends with:", *lines[-LINES:]]))
