"""Steps over a WebSocket, on a real server with a real client."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection, connect

from tests.routes.serving import Server, serving
from tests.sessions.calls import ADAM, Adam, gradient


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for the tests that leave it as it was."""
    with serving(tmp_path_factory.mktemp("data"), max_body_bytes=1 << 16, max_streams=40) as server:
        yield server
        assert server.end(signal.SIGTERM) == 0


def stream(server: Server, id: str, **more: Any) -> ClientConnection:
    """A WebSocket to a session."""
    return connect(f"ws://127.0.0.1:{server.port}/v1/sessions/{id}/stream", **more)


def body(step: int | None = None, **more: Any) -> str:
    """A step with the gradient that belongs to it."""
    number = {} if step is None else {"step": step}
    return json.dumps({"gradients": gradient(step or 1), **number, **more})


def reply(ws: ClientConnection) -> dict[str, Any]:
    """The next answer."""
    answer: dict[str, Any] = json.loads(ws.recv(20))
    return answer


def closed(ws: ClientConnection) -> tuple[int, str]:
    """The code and the reason with which the server closes, nothing being sent before."""
    with pytest.raises(ConnectionClosed) as caught:
        ws.recv(20)
    assert caught.value.rcvd is not None
    return caught.value.rcvd.code, caught.value.rcvd.reason


def refused(server: Server, path: str) -> tuple[int, dict[str, Any]]:
    """The status and the problem of a WebSocket that is not opened."""
    with pytest.raises(InvalidStatus) as caught:
        connect(f"ws://127.0.0.1:{server.port}{path}")
    response = caught.value.response
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = json.loads(response.body or b"")
    assert response.headers["x-request-id"] == problem["request_id"]
    return response.status_code, problem


def trained(steps: int) -> list[float]:
    """What Adam makes of [1, 2] in so many steps."""
    model = Adam([1.0, 2.0])
    for n in range(1, steps + 1):
        model.step(gradient(n))
    return model.params.tolist()


class TestAnswers:
    def test_come_in_order_to_steps_sent_ahead(self, server: Server) -> None:
        server.create("ahead", optimizer=ADAM)
        with stream(server, "ahead") as ws:
            for n in range(1, 33):
                ws.send(body(n))
            answers = [reply(ws) for _ in range(32)]
        assert [answer["step"] for answer in answers] == list(range(1, 33))
        assert all(answer["durable_step"] >= answer["step"] and not answer["replayed"] for answer in answers)
        assert [answers[n - 1]["params"] for n in (1, 32)] == [trained(1), trained(32)]

    def test_are_those_that_a_request_has(self, server: Server) -> None:
        for id in ("streamed", "posted"):
            server.create(id, optimizer=ADAM)
        with stream(server, "streamed") as ws:
            for n, wanted in enumerate(("params", "updates", "none"), 1):
                ws.send(body(n, loss=0.5, **{"return": wanted}))
                posted = server.step("posted", gradients=gradient(n), step=n, loss=0.5, **{"return": wanted})
                assert reply(ws) == posted

    def test_to_safetensors_are_safetensors(self, server: Server) -> None:
        server.create("binary", optimizer={"name": "sgd", "learning_rate": 0.5}, params={"w": [1.0, 2.0]})
        with stream(server, "binary") as ws:
            ws.send(safetensors.numpy.save({"w": np.array([1.0, 1.0])}, {"step": "1"}))
            ws.send(json.dumps({"gradients": {"w": [1.0, 1.0]}, "step": 2}))
            answer = ws.recv(20)
            assert isinstance(answer, bytes)
            assert safetensors.numpy.load(answer)["w"].tolist() == [0.5, 1.5]
            assert reply(ws)["params"] == {"w": [0.0, 1.0]}

    def test_are_problems_where_a_step_cannot_be_taken_and_the_stream_goes_on(self, server: Server) -> None:
        server.create("problems")
        sent: list[tuple[str | bytes, int, str]] = [
            ("{", 400, "not-json"),
            ("", 400, "not-json"),
            ("[]", 422, "invalid"),
            ('{"gradients": [NaN, 1]}', 422, "non-finite"),
            ('{"gradients": [1]}', 422, "invalid"),
            ('{"gradients": [1, 2], "stpe": 1}', 422, "invalid"),
            (body(7), 412, "step-mismatch"),
            (b"no safetensors", 422, "invalid"),
            (b"\xff" * 40, 422, "invalid"),
        ]
        with stream(server, "problems") as ws:
            for message, _, _ in sent:
                ws.send(message)
            ws.send(body(1))
            for _, status, code in sent:
                problem = reply(ws)
                assert (problem["status"], problem["code"]) == (status, code), problem
                assert problem["detail"].endswith(".")
            assert reply(ws)["step"] == 1
        assert len(server.history("problems")) == 1

    def test_of_two_sockets_on_one_session_share_its_steps(self, server: Server) -> None:
        server.create("shared")
        with stream(server, "shared") as one, stream(server, "shared") as other:
            for _ in range(20):
                one.send(body())
                other.send(body())
            steps = [reply(ws)["step"] for ws in (one, other) for _ in range(20)]
        assert sorted(steps) == list(range(1, 41))
        assert steps[:20] == sorted(steps[:20])

    def test_are_there_although_the_client_closes_at_once(self, server: Server) -> None:
        server.create("hasty")
        with stream(server, "hasty") as ws:
            for n in range(1, 11):
                ws.send(body(n))
            assert reply(ws)["step"] == 1
        for _ in range(100):
            if len(server.history("hasty")) == 10:
                break
            time.sleep(0.05)
        assert [item["step"] for item in server.history("hasty")] == list(range(1, 11))


class TestOpening:
    def test_needs_a_session(self, server: Server) -> None:
        status, problem = refused(server, "/v1/sessions/nobody/stream")
        assert (status, problem["code"]) == (404, "not-found")
        server.create("deleted")
        server.client.delete("/v1/sessions/deleted")
        assert refused(server, "/v1/sessions/deleted/stream")[0] == 410

    def test_needs_the_path(self, server: Server) -> None:
        for path in ("/", "/v1/sessions", "/v1/sessions/a/b/stream", "/v1/sessions//stream", "/v1/sessions/a/events"):
            status, problem = refused(server, path)
            assert (status, problem["code"]) == (404, "not-found")

    def test_by_a_plain_request_is_told_what_to_do(self, server: Server) -> None:
        server.create("plain")
        response = server.client.get("/v1/sessions/plain/stream")
        assert (response.status_code, response.json()["code"]) == (426, "upgrade-required")
        assert response.headers["upgrade"] == "websocket"

    def test_carries_the_request_id(self, server: Server) -> None:
        server.create("named")
        with stream(server, "named", additional_headers={"x-request-id": "mine-1"}) as ws:
            assert ws.response is not None
            assert ws.response.headers["x-request-id"] == "mine-1"
            ws.send("{")
            assert reply(ws)["request_id"] == "mine-1"

    def test_has_a_bound_and_leaves_requests_alone(self, server: Server) -> None:
        server.create("many")
        with contextlib.ExitStack() as stack:
            for _ in range(40):
                stack.enter_context(stream(server, "many"))
            status, problem = refused(server, "/v1/sessions/many/stream")
            assert (status, problem["code"]) == (503, "unavailable")
            assert server.step("many", gradients=[1.0, 1.0])["step"] == 1
        for _ in range(100):
            with contextlib.suppress(InvalidStatus), stream(server, "many") as ws:
                ws.send(body(2))
                assert reply(ws)["step"] == 2
                return
            time.sleep(0.05)
        raise AssertionError("streams that were closed still count")


class TestEnd:
    def test_comes_with_a_problem_when_the_session_is_deleted(self, server: Server) -> None:
        server.create("doomed")
        with stream(server, "doomed") as ws:
            ws.send(body(1))
            assert reply(ws)["step"] == 1
            server.client.delete("/v1/sessions/doomed")
            ws.send(body(2))
            assert reply(ws)["code"] == "gone"
            code, reason = closed(ws)
            assert code == 4410
            assert "deleted" in reason

    @pytest.mark.parametrize(
        ("sent", "code"),
        [
            (Frame(Opcode.TEXT, b"\xc3\x28"), 1007),
            (Frame(Opcode.TEXT, b" " * ((1 << 16) + 1)), 1009),
            (Frame(Opcode.BINARY, b" " * ((1 << 16) + 1)), 1009),
            (Frame(Opcode.CONT, b"out of turn"), 1002),
        ],
    )
    def test_comes_with_a_code_and_a_reason_after_what_is_no_message(
        self, server: Server, sent: Frame, code: int
    ) -> None:
        id = f"garbage-{code}-{sent.opcode.name}"
        server.create(id)
        with stream(server, id) as ws:
            ws.socket.sendall(sent.serialize(mask=True))
            found, reason = closed(ws)
            assert (found, bool(reason)) == (code, True)
        assert server.history(id) == []
        assert server.step(id, gradients=[1.0, 1.0])["step"] == 1

    def test_of_random_bytes_harms_nobody(self, server: Server) -> None:
        server.create("noise")
        rng = random.Random(5)
        for _ in range(30):
            with stream(server, "noise") as ws:
                ws.socket.sendall(rng.randbytes(rng.randrange(1, 3000)))
                if rng.random() < 0.5:
                    with contextlib.suppress(OSError):  # the server has closed it, and the client with it
                        ws.socket.shutdown(socket.SHUT_RDWR)
        assert server.history("noise") == []
        assert server.step("noise", gradients=[1.0, 1.0])["step"] == 1

    def test_of_the_service_answers_what_arrived_and_does_not_wait(self, tmp_path: Path) -> None:
        answered = 0
        with serving(tmp_path, shutdown_seconds=20) as server:
            server.create("s")
            with stream(server, "s") as idle, stream(server, "s") as busy:
                for n in range(1, 31):
                    busy.send(body(n))
                assert reply(busy)["step"] == 1
                start = time.monotonic()
                assert server.end(signal.SIGTERM) == 0
                assert time.monotonic() - start < 5
                code, reason = closed(idle)
                assert code == 1012
                assert "send" in reason
                with contextlib.suppress(ConnectionClosed):
                    while True:
                        answered = reply(busy)["step"]
        with serving(tmp_path) as server:
            taken = [item["step"] for item in server.history("s")]
            assert taken == list(range(1, len(taken) + 1))
            assert len(taken) >= answered


class TestBackpressure:
    def test_a_client_that_never_reads_is_no_longer_read_from(self, tmp_path: Path) -> None:
        """It stops being able to send, the memory stays, and others are served."""
        with serving(tmp_path) as server:
            server.create("deaf", params=[0.5] * 10_000)
            server.create("healthy")
            gradients = json.dumps({"gradients": [0.25] * 10_000}).encode()
            frame = Frame(Opcode.TEXT, gradients).serialize(mask=True)
            with stream(server, "deaf") as ws:
                ws.socket.settimeout(2)
                for _ in range(5):  # what the memory is when all goes well
                    for _ in range(20):
                        ws.send(gradients.decode())
                    for _ in range(20):
                        reply(ws)
                before, sent = server.memory(), 0
                with contextlib.suppress(TimeoutError):
                    for _ in range(4000):  # 240 MB, and 800 MB of answers
                        ws.socket.sendall(frame)
                        sent += 1
                assert sent < 4000
                assert server.memory() - before < 128 << 20
                for n in range(1, 20):
                    start = time.monotonic()
                    server.step("healthy", gradients=[1.0, 1.0], step=n)
                    assert time.monotonic() - start < 2
                ws.socket.shutdown(socket.SHUT_RDWR)


class Unsteady:
    """A client that sends steps 1 ... `last` with a window, loses its socket at random, and resumes."""

    def __init__(self, id: str, last: int, rng: random.Random) -> None:
        self.id = id
        self.last = last
        self.rng = rng
        self.answers: dict[int, dict[str, Any]] = {}
        self.replayed = 0
        self.kill_at: int | None = None  # so many answers, after which the service is killed

    @property
    def done(self) -> bool:
        return len(self.answers) == self.last

    def run(self, server: Server) -> None:
        """One socket's life; raises what its end raises."""
        next_, window = len(self.answers) + 1, self.rng.randrange(1, 40)
        fails_after = self.rng.randrange(1, 60)
        with stream(server, self.id) as ws:
            while not self.done:
                while next_ <= self.last and next_ - len(self.answers) <= window:
                    ws.send(body(next_))
                    next_ += 1
                fails_after -= 1
                if fails_after == 0:
                    ws.socket.shutdown(self.rng.choice((socket.SHUT_RDWR, socket.SHUT_WR, socket.SHUT_RD)))
                if self.kill_at is not None and len(self.answers) >= self.kill_at:
                    server.process.kill()
                answer = reply(ws)
                assert answer["step"] == len(self.answers) + 1, answer
                self.answers[answer["step"]] = answer
                self.replayed += answer["replayed"]

    def check(self, server: Server) -> None:
        """Each step was taken once, in order, and answered with the right numbers."""
        assert [item["step"] for item in server.history(self.id)] == list(range(1, self.last + 1))
        model = Adam([1.0, 2.0])
        for n in range(1, self.last + 1):
            model.step(gradient(n))
            assert self.answers[n]["params"] == model.params.tolist()


class TestResuming:
    def test_after_sockets_that_drop_takes_no_step_twice(self, server: Server) -> None:
        replayed = 0
        for seed in range(6):
            client = Unsteady(f"dropped-{seed}", 200, random.Random(seed))
            server.create(client.id, optimizer=ADAM)
            for _ in range(200):
                if client.done:
                    break
                with contextlib.suppress(ConnectionClosed, OSError, TimeoutError):
                    client.run(server)
            assert client.done
            client.check(server)
            replayed += client.replayed
        assert replayed > 0, "no answer was ever lost: the test tested nothing"

    def test_after_the_service_was_killed_takes_no_step_twice(self, tmp_path: Path) -> None:
        rng = random.Random(3)
        client = Unsteady("s", 600, rng)
        for round in range(5):
            with serving(tmp_path, snapshot_every=37) as server:
                if round == 0:
                    server.create("s", optimizer=ADAM)
                client.kill_at = len(client.answers) + rng.randrange(20, 110)
                while server.process.poll() is None:
                    with contextlib.suppress(ConnectionClosed, OSError, TimeoutError, InvalidMessage):
                        client.run(server)
        client.kill_at = None
        with serving(tmp_path) as server:
            while not client.done:
                with contextlib.suppress(ConnectionClosed, OSError, TimeoutError):
                    client.run(server)
            client.check(server)
