"""`thalweg serve` in a process of its own, and connections to it that may break."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


class Server:
    """A service on a directory. `before` is what the command is an argument of; `settings` become flags."""

    def __init__(self, data: Path, settings: dict[str, Any] | None = None, before: Sequence[str] = ()) -> None:
        command = [*before, sys.executable, "-m", "service.cli", "serve", "--port", "0", "--data", str(data)]
        for name, value in (settings or {}).items():
            command += [f"--{name.replace('_', '-')}", str(value)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("THALWEG_")}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.port = 0

    def listens(self) -> int:
        """The port, once it listens."""
        assert self.process.stderr is not None
        said = ""
        for line in self.process.stderr:
            said += line
            if found := re.search(r"listens on http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                return self.port
        raise AssertionError(f"the service did not start: {said}")

    def end(self, number: int = signal.SIGKILL) -> int:
        """Send a signal, and wait for the end and its status."""
        self.process.send_signal(number)
        self.process.wait(30)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return self.process.returncode

    def seconds(self) -> float:
        """Processor time that it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def serving(data: Path, settings: dict[str, Any] | None = None, before: Sequence[str] = ()) -> Iterator[Server]:
    """A server, killed in the end if it still lives."""
    server = Server(data, settings, before)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.end()


class Unknown(Exception):
    """No answer came: the request may have happened."""


class Caller:
    """One connection to a server, which waits so many seconds for an answer."""

    def __init__(self, port: int, seconds: float = 20.0) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """The status and the body of an answer; raises Unknown where there is none."""
        self.send(method, path, body)
        try:
            response = self._connection.getresponse()
            content = response.read()
            return response.status, json.loads(content) if content else None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unknown from error

    def send(self, method: str, path: str, body: Any = None) -> None:
        """A request whose answer is not waited for."""
        try:
            text = None if body is None else json.dumps(body)
            self._connection.request(method, path, text, {"content-type": "application/json"} if text else {})
        except (OSError, http.client.HTTPException) as error:
            raise Unknown from error

    def close(self) -> None:
        """Also while an answer is on its way."""
        self._connection.close()


@contextlib.contextmanager
def calling(server: Server) -> Iterator[Caller]:
    """A connection to a server, once it listens."""
    caller = Caller(server.port or server.listens())
    try:
        yield caller
    finally:
        caller.close()
