"""The steps of a session as server-sent events: none missing, none twice, and readers that cost little."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.routes import events
from tests.conftest import Run, Service
from tests.routes.serving import Server, serving
from tests.sessions.calls import create, problem, took


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for the tests that leave it as it was."""
    with serving(tmp_path_factory.mktemp("data")) as server:
        yield server
        assert server.end(signal.SIGTERM) == 0


class Event:
    """One block of a stream, as a browser would read it."""

    def __init__(self, lines: list[str]) -> None:
        fields = [line.partition(": ")[::2] for line in lines if not line.startswith(":")]
        self.id = next((value for name, value in fields if name == "id"), None)
        self.kind = next((value for name, value in fields if name == "event"), "message")
        data = [value for name, value in fields if name == "data"]
        self.data: dict[str, Any] | None = json.loads("\n".join(data)) if data else None
        self.comment = all(line.startswith(":") for line in lines)


def read(response: httpx.Response) -> Iterator[Event]:
    """The blocks of a stream until it ends."""
    lines: list[str] = []
    for line in response.iter_lines():
        if line:
            lines.append(line)
        elif lines:
            yield Event(lines)
            lines = []


def follow(server: Server, id: str, query: str = "", **headers: str) -> Any:
    """A stream of a session's events."""
    return server.client.stream("GET", f"/v1/sessions/{id}/events{query}", headers=headers)


def steps(stream: Iterator[Event], count: int) -> list[int]:
    """The ids of the next so many steps."""
    found: list[int] = []
    for event in stream:
        if event.data is not None and event.kind == "message":
            assert event.id == str(event.data["step"])
            found.append(event.data["step"])
            if len(found) == count:
                break
    return found


def walk(server: Server, id: str, first: int, last: int) -> None:
    """Steps of a session."""
    body: dict[str, Any] = {"session": id, "gradients": [0.5, 0.5], "return": "none"}
    items = [body | {"step": n, "loss": 1 / n} for n in range(first, last + 1)]
    for start in range(0, len(items), 1000):
        answer = server.client.post("/v1/steps", json={"steps": items[start : start + 1000]}).json()
        assert not any("status" in result for result in answer["results"])


class TestEvents:
    def test_are_the_metrics_of_each_step(self, server: Server) -> None:
        server.create("metrics")
        walk(server, "metrics", 1, 3)
        with follow(server, "metrics", "?after=0") as response:
            assert response.headers["content-type"] == "text/event-stream"
            assert response.headers["cache-control"] == "no-store"
            found = list(islice(read(response), 4))
        assert (found[0].id, found[0].data) == ("0", None)
        assert [event.id for event in found[1:]] == ["1", "2", "3"]
        assert [event.data for event in found[1:]] == server.history("metrics")

    def test_begin_with_the_next_step(self, server: Server) -> None:
        server.create("live")
        walk(server, "live", 1, 3)
        with follow(server, "live") as response:
            stream = read(response)
            assert next(stream).id == "3"  # what a browser sends when it comes back before the first event
            walk(server, "live", 4, 6)
            assert steps(stream, 3) == [4, 5, 6]

    def test_go_on_after_the_one_that_was_seen(self, server: Server) -> None:
        server.create("resumed")
        walk(server, "resumed", 1, 5)
        for query, headers, wanted in (
            ("?after=2", {}, [3, 4, 5]),
            ("", {"last-event-id": "3"}, [4, 5]),
            ("?after=0", {"last-event-id": "4"}, [5]),
            ("?after=4", {"last-event-id": ""}, [5]),
        ):
            with follow(server, "resumed", query, **headers) as response:
                assert steps(read(response), len(wanted)) == wanted

    def test_pass_from_the_history_to_what_is_new_without_a_seam(self, server: Server) -> None:
        server.create("seam")
        walk(server, "seam", 1, 3000)
        with follow(server, "seam", "?after=0") as response:
            stream = read(response)
            assert steps(stream, 1000) == list(range(1, 1001))
            walk(server, "seam", 3001, 3500)
            assert steps(stream, 2500) == list(range(1001, 3501))

    def test_have_no_gap_and_no_repetition_for_a_reader_that_drops_and_comes_back(self, server: Server) -> None:
        server.create("dropping")
        last, rng = 1500, random.Random(11)

        def train() -> None:
            with httpx.Client(base_url=server.url) as client:
                for n in range(1, last + 1, 5):
                    more = [{"session": "dropping", "gradients": [0.5, 0.5], "step": k} for k in range(n, n + 5)]
                    client.post("/v1/steps", json={"steps": more}).raise_for_status()

        trainer = threading.Thread(target=train)
        trainer.start()
        seen: list[int] = []
        drops = 0
        while len(seen) < last:
            headers = {"last-event-id": str(seen[-1])} if seen else {}
            with follow(server, "dropping", "?after=0", **headers) as response:
                seen += steps(read(response), min(rng.randrange(1, 200), last - len(seen)))
            drops += 1
        trainer.join()
        assert seen == list(range(1, last + 1))
        assert drops > 5

    def test_also_tell_of_other_changes(self, server: Server) -> None:
        server.create("changed")
        with follow(server, "changed", "?after=0") as response:
            stream = read(response)
            next(stream)
            walk(server, "changed", 1, 1)
            server.client.patch("/v1/sessions/changed", json={"hyperparameters": {"learning_rate": 0.5}})
            walk(server, "changed", 2, 2)
            found = list(islice(stream, 3))
        assert [event.kind for event in found] == ["message", "patch", "message"]
        assert found[1].data is not None
        assert found[1].data["hyperparameters"] == {"learning_rate": 0.5}
        assert found[1].id is None

    def test_tell_of_steps_that_are_taken_back(self, server: Server) -> None:
        server.create("turned")
        with follow(server, "turned") as response:
            stream = read(response)
            next(stream)
            walk(server, "turned", 1, 3)
            assert steps(stream, 3) == [1, 2, 3]
            server.client.post("/v1/sessions/turned/rewind", json={"step": 1}).raise_for_status()
            walk(server, "turned", 2, 2)
            back = next(stream)
            assert (back.kind, back.id, (back.data or {})["step"]) == ("rewind", "1", 1)
            assert steps(stream, 1) == [2]

    def test_tell_who_has_seen_more_than_there_is(self, server: Server) -> None:
        """As after steps that were taken back, or lost before they were durable."""
        server.create("behind")
        walk(server, "behind", 1, 2)
        with follow(server, "behind", **{"last-event-id": "9"}) as response:
            stream = read(response)
            first = next(stream)
            assert (first.kind, first.id, first.data) == ("rewind", "2", {"step": 2})
            walk(server, "behind", 3, 3)
            assert steps(stream, 1) == [3]

    def test_end_when_the_session_is_deleted(self, server: Server) -> None:
        server.create("ending")
        walk(server, "ending", 1, 2)
        with follow(server, "ending", "?after=0") as response:
            stream = read(response)
            assert steps(stream, 2) == [1, 2]
            server.client.delete("/v1/sessions/ending")
            (end,) = stream
            assert end.kind == "end"
            assert end.data is not None
            assert end.data["code"] == "gone"

    def test_reach_every_follower(self, server: Server) -> None:
        server.create("popular")
        found: list[list[int]] = []

        def listen() -> None:
            url = f"{server.url}/v1/sessions/popular/events?after=0"
            with httpx.stream("GET", url, timeout=30) as response:
                stream = read(response)
                next(stream)
                ready.release()
                found.append(steps(stream, 200))

        ready = threading.Semaphore(0)
        listeners = [threading.Thread(target=listen) for _ in range(30)]
        for listener in listeners:
            listener.start()
        for _ in listeners:
            assert ready.acquire(timeout=30)
        for n in range(1, 201):
            server.step("popular", gradients=[0.5, 0.5], step=n)
        for listener in listeners:
            listener.join(30)
        assert found == [list(range(1, 201))] * 30


class TestRequests:
    def test_that_cannot_be_followed_are_refused(self, service: Service) -> None:
        create(service)
        problem(service.get("/v1/sessions/nobody/events"), 404, "not-found")
        problem(service.get("/v1/sessions/s/events", headers={"accept": "application/json"}), 406, "not-acceptable")
        for query in ("after=x", "after=-1", "after=1.5", "after=" + "9" * 40):
            problem(service.get(f"/v1/sessions/s/events?{query}"), 422, "invalid")
        problem(service.get("/v1/sessions/s/events", headers={"last-event-id": "x"}), 422, "invalid")
        service.delete("/v1/sessions/s")
        problem(service.get("/v1/sessions/s/events"), 410, "gone")


class Reader:
    """A client of the application itself, that sees every message and goes when it likes."""

    def __init__(self, service: Service, id: str = "s") -> None:
        self.sent: list[bytes] = []
        self.gone = asyncio.Event()
        self._asked = False
        path = f"/v1/sessions/{id}/events"
        scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b"after=0"}
        self.task = asyncio.ensure_future(service.app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._asked:
            await self.gone.wait()
            return {"type": "http.disconnect"}
        self._asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message.get("body", b""))


class TestReaders:
    async def test_that_hear_nothing_are_sent_a_comment(self, service: Service, monkeypatch: Any) -> None:
        monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.02)
        await service.client.post("/v1/sessions", json={"optimizer": {"name": "sgd"}, "params": [1.0], "id": "s"})
        reader = Reader(service)
        await asyncio.sleep(0.3)
        comments = [chunk for chunk in reader.sent if chunk.startswith(b":")]
        assert len(comments) >= 3
        assert all(chunk.endswith(b"\n\n") for chunk in comments)
        reader.gone.set()
        await asyncio.wait_for(reader.task, 5)

    async def test_that_go_are_forgotten_at_once(self, service: Service) -> None:
        await service.client.post("/v1/sessions", json={"optimizer": {"name": "sgd"}, "params": [1.0], "id": "s"})
        before = len(asyncio.all_tasks())
        readers = [Reader(service) for _ in range(20)]
        await asyncio.sleep(0.05)
        assert len(asyncio.all_tasks()) > before + 20
        for reader in readers:
            reader.gone.set()
        await asyncio.wait_for(asyncio.gather(*(reader.task for reader in readers)), 5)
        assert len(asyncio.all_tasks()) == before

    def test_have_seen_all_when_the_service_stops(self, service: Service, run: Run) -> None:
        create(service)

        async def begin() -> Reader:
            reader = Reader(service)
            await asyncio.sleep(0.05)
            return reader

        reader = run(begin())
        took(service, [1.0, 1.0], 1)
        service.stop()
        run(asyncio.wait_for(reader.task, 5))
        assert b"id: 1\n" in b"".join(reader.sent)
        assert b"event: end" not in b"".join(reader.sent)  # the session goes on, and so may its readers

    def test_that_are_slow_hold_up_nobody_and_take_no_memory(self, tmp_path: Path) -> None:
        with serving(tmp_path) as server:
            server.create("s")
            walk(server, "s", 1, 1000)
            request = b"GET /v1/sessions/s/events?after=0 HTTP/1.1\r\nhost: x\r\n\r\n"
            slow = []
            for _ in range(20):
                connection = socket.create_connection(("127.0.0.1", server.port))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
                connection.sendall(request)
                slow.append(connection)
            time.sleep(0.5)
            before = server.memory()
            walk(server, "s", 1001, 30_000)  # some 5 MB of events for each of them
            assert server.memory() - before < 32 << 20
            received = bytearray()
            while b"id: 30000\n" not in received[-4096:]:
                chunk = slow[0].recv(1 << 16)
                assert chunk
                received += chunk
            ids = [int(line[4:]) for line in received.split(b"\n") if line.startswith(b"id: ")]
            assert ids == list(range(30_001))
            for connection in slow:
                connection.close()


def test_a_stop_does_not_wait_for_readers(tmp_path: Path) -> None:
    with serving(tmp_path, shutdown_seconds=20) as server:
        server.create("s")
        with follow(server, "s") as response:
            stream = read(response)
            next(stream)
            start = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            assert list(stream) == []  # complete, and without an `end`
            assert server.process.wait(10) == 0
            assert time.monotonic() - start < 5
