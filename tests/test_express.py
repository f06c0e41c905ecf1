"""The short way of a step through the server: the same answers as the usual way, whatever comes along."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.express import drive, ticket
from tests.faults.processes import Server, serving

USUAL = {"x-unknown-to-the-short-way": "1"}
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("data"), {"max_body_bytes": 200_000}) as running:
        running.listens()
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", headers=JSON) as made:
        yield made


def create(client: httpx.Client, id: str, **more: Any) -> None:
    body = {"id": id, "optimizer": {"name": "adam"}, "params": [3.0, 6.0], **more}
    client.post("/v1/sessions", json=body).raise_for_status()


def told(answer: httpx.Response) -> tuple[int, Any, str]:
    body = answer.json()
    body.pop("request_id", None)
    return answer.status_code, body, answer.headers["content-type"]


BODIES: dict[str, bytes] = {
    "a step": b'{"gradients":[6.0,12.0],"step":1}',
    "again": b'{"gradients":[6.0,12.0],"step":1}',
    "another body": b'{"gradients":[6.0,12.5],"step":1}',
    "too far": b'{"gradients":[6.0,12.0],"step":9}',
    "without a number": b'{"gradients":[1.0,-2.0],"loss":0.5,"return":"updates"}',
    "nothing back": b'{"gradients":[1.0,-2.0],"return":"none"}',
    "a wrong shape": b'{"gradients":[6.0]}',
    "not finite": b'{"gradients":[6.0,NaN]}',
    "null": b'{"gradients":[6.0,null]}',
    "no gradients": b'{"step":2}',
    "a stray field": b'{"gradients":[6.0,12.0],"stap":2}',
    "not JSON": b'{"gradients":',
    "nothing": b"",
    "a list": b"[]",
}


def test_every_body_is_answered_as_on_the_usual_way(client: httpx.Client) -> None:
    create(client, "short")
    create(client, "usual")
    for name, body in BODIES.items():
        short = client.post("/v1/sessions/short/steps", content=body)
        usual = client.post("/v1/sessions/usual/steps", content=body, headers=USUAL)
        assert told(short) == told(usual), name
        assert short.headers.keys() == usual.headers.keys(), name


@pytest.mark.parametrize("session", ["nowhere", "gone"])
def test_sessions_that_are_not_there(client: httpx.Client, session: str) -> None:
    if session == "gone":
        create(client, "gone")
        client.delete("/v1/sessions/gone").raise_for_status()
    content = BODIES["a step"]
    short = client.post(f"/v1/sessions/{session}/steps", content=content)
    assert short.status_code in (404, 410)
    assert told(short) == told(client.post(f"/v1/sessions/{session}/steps", content=content, headers=USUAL))


def test_the_requests_id_comes_back(client: httpx.Client) -> None:
    create(client, "named")
    sent = {"x-request-id": "mine-1"}
    answer = client.post("/v1/sessions/named/steps", content=BODIES["a step"], headers=sent)
    assert answer.headers["x-request-id"] == "mine-1"
    wrong = client.post("/v1/sessions/named/steps", content=b"x", headers=sent)
    assert wrong.json()["request_id"] == wrong.headers["x-request-id"] == "mine-1"
    others = {client.post("/v1/sessions/named/steps", content=b"x").headers["x-request-id"] for _ in range(5)}
    assert len(others) == 5


def raw(port: int, data: bytes, pieces: int = 1, until: int = 1) -> bytes:
    """What a connection gets for these bytes, sent in pieces, until so many answers are there."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        size = max(1, -(-len(data) // pieces))
        for start in range(0, len(data), size):
            connection.sendall(data[start : start + size])
            if pieces > 1:
                time.sleep(0.002)
        got = b""
        while got.count(b"HTTP/1.1 ") < until or not got.endswith(b"}"):
            more = connection.recv(65536)
            if not more:
                break
            got += more
        return got


def post(session: str, body: bytes, *fields: str) -> bytes:
    head = [f"POST /v1/sessions/{session}/steps HTTP/1.1", "Host: x", "Content-Type: application/json"]
    head += [f"Content-Length: {len(body)}", *fields]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def test_requests_sent_ahead_are_answered_in_order(client: httpx.Client, server: Server) -> None:
    create(client, "ahead")
    steps = [post("ahead", b'{"gradients":[1.0,2.0],"step":%d}' % n) for n in range(1, 9)]
    between = b"GET /v1/sessions/ahead HTTP/1.1\r\nHost: x\r\n\r\n"
    got = raw(server.port, b"".join([*steps[:4], between, *steps[4:]]), until=9)
    bodies = [json.loads(part.partition(b"\r\n\r\n")[2]) for part in got.split(b"HTTP/1.1 ")[1:]]
    assert [body["step"] for body in bodies] == [1, 2, 3, 4, 4, 5, 6, 7, 8]


def test_a_request_in_many_pieces(client: httpx.Client, server: Server) -> None:
    create(client, "pieces")
    got = raw(server.port, post("pieces", BODIES["a step"]), pieces=40)
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b'"step":1' in got


def test_a_connection_that_asks_to_be_closed_is_closed(client: httpx.Client, server: Server) -> None:
    create(client, "closing")
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(post("closing", BODIES["a step"], "Connection: close"))
        got = b""
        while more := connection.recv(65536):
            got += more
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"connection: close" in got


def test_who_leaves_before_the_answer_has_taken_the_step_at_most_once(client: httpx.Client, server: Server) -> None:
    create(client, "leaving")
    for n in range(1, 21):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(post("leaving", b'{"gradients":[1.0,2.0],"step":%d}' % n))
        again = client.post("/v1/sessions/leaving/steps", content=b'{"gradients":[1.0,2.0],"step":%d}' % n)
        assert again.status_code == 200
    assert client.get("/v1/sessions/leaving").json()["step"] == 20


def test_steps_of_one_session_at_once_are_each_taken_once(client: httpx.Client, server: Server) -> None:
    create(client, "shared")
    statuses: list[int] = []

    def work() -> None:
        with httpx.Client(base_url=client.base_url, headers=JSON) as mine:
            answers = (mine.post("/v1/sessions/shared/steps", content=b'{"gradients":[1,2]}') for _ in range(25))
            statuses.extend(answer.status_code for answer in answers)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {200}
    assert client.get("/v1/sessions/shared").json()["step"] == 200


FIELDS = [(b"host", b"x"), (b"content-type", b"application/json"), (b"content-length", b"20")]


@pytest.mark.parametrize(
    ("url", "more"),
    [
        (b"/v1/sessions/a/steps?x=1", []),
        (b"/v1/sessions/a%20b/steps", []),
        (b"/v1/sessions//steps", []),
        (b"/v1/sessions/a/b/steps", []),
        (b"/v1/sessions/a/stepsx", []),
        (b"/v1/sessions/a/steps", [(b"transfer-encoding", b"chunked")]),
        (b"/v1/sessions/a/steps", [(b"content-encoding", b"gzip")]),
        (b"/v1/sessions/a/steps", [(b"expect", b"100-continue")]),
        (b"/v1/sessions/a/steps", [(b"connection", b"close")]),
        (b"/v1/sessions/a/steps", [(b"accept", b"application/octet-stream")]),
        (b"/v1/sessions/a/steps", [(b"x-request-id", b"with a space")]),
        (b"/v1/sessions/a/steps", [(b"content-length", b"70000")]),
        (b"/v1/sessions/a/steps", [(b"content-type", b"text/plain")]),
    ],
)
def test_what_is_not_plain_goes_the_usual_way(url: bytes, more: list[tuple[bytes, bytes]]) -> None:
    assert ticket(b"/v1/sessions/a-1_x.y/steps", FIELDS, 1 << 20) is not None
    assert ticket(url, [*FIELDS, *more], 1 << 20) is None


def test_a_coroutine_is_driven_to_its_result() -> None:
    async def main() -> list[Any]:
        loop = asyncio.get_running_loop()
        results: list[Any] = []
        lock, ready = asyncio.Lock(), loop.create_future()

        async def work(number: int) -> int:
            async with lock:
                await asyncio.sleep(0)
                return number + int(await ready)

        for number in range(3):
            drive(work(number), loop, results.append)
        assert results == []
        ready.set_result(10)
        while len(results) < 3:
            await asyncio.sleep(0.001)
        return results

    assert asyncio.run(main()) == [10, 11, 12]
