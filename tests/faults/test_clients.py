"""Clients that do not take what they asked for: disconnected when they take nothing, waited for when they are slow."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import httpx

from tests.faults.processes import Server, serving

SIZE = 2_000_000  # elements: an answer that no socket's buffers hold


def asking(server: Server) -> socket.socket:
    """A connection on which much was asked for, with little room for it."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(b"GET /v1/sessions/s/params HTTP/1.1\r\nHost: a\r\nAccept: application/octet-stream\r\n\r\n")
    return connection


def test_a_client_that_takes_nothing_is_disconnected_and_a_slow_one_is_not(tmp_path: Path) -> None:
    with serving(tmp_path / "data", {"stalled_seconds": 0.5, "store": "memory"}) as server:
        server.listens()
        body = json.dumps({"id": "s", "optimizer": {"name": "sgd", "learning_rate": 0.1}, "params": [0.5] * SIZE})
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client:
            headers = {"content-type": "application/json"}
            client.post("/v1/sessions", content=body, headers=headers).raise_for_status()
            deaf, slow = asking(server), asking(server)
            taken, until = 0, time.monotonic() + 2.5
            while time.monotonic() < until:
                taken += len(slow.recv(1 << 14))
                time.sleep(0.1)
            assert taken < 8 * SIZE  # so that it waited for the slow one all the time
            while taken < 8 * SIZE and (piece := slow.recv(1 << 20)):
                taken += len(piece)
            assert taken >= 8 * SIZE
            left = 0
            try:
                while piece := deaf.recv(1 << 20):
                    left += len(piece)
            except ConnectionResetError:
                pass
            assert left < 8 * SIZE
            assert client.get("/v1/sessions/s").status_code == 200
            deaf.close()
            slow.close()
