"""Steps over a WebSocket: the same as one by one, in whatever pieces the connection breaks."""

from __future__ import annotations

import builtins
import contextlib
import importlib
import random
import re
import socket
import threading

import httpx
import numpy as np
import pytest

import thalweg
from thalweg import streaming
from thalweg.errors import problem
from thalweg.pipeline import Act, Pause, Pipeline, Refused, Send
from thalweg.requests import Answer, Request
from thalweg.retries import Attempts, Retries

ADAM = {"name": "adam", "learning_rate": 0.1}
SHAPES = {"small": (3,), "large": (40, 30), "named": {"w": (30, 20), "b": (20,)}}


def gradients(shape, count, seed=3):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        if isinstance(shape, dict):
            yield {name: rng.normal(size=one) for name, one in shape.items()}
        else:
            yield rng.normal(size=shape)


def start(shape):
    return {name: np.ones(one) for name, one in shape.items()} if isinstance(shape, dict) else np.ones(shape)


def bits(tensors):
    return (
        {name: array.tobytes() for name, array in tensors.items()} if isinstance(tensors, dict) else tensors.tobytes()
    )


@pytest.mark.parametrize("returning", ["params", "updates", "none"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_stream_takes_the_steps_that_posts_take(on_service, make, shape, returning):
    async def operation(client, do):
        one = await do(client.sessions.create(ADAM, start(SHAPES[shape])))
        two = await do(client.sessions.create(ADAM, start(SHAPES[shape])))
        posted = [await do(one.step(gradient, returning=returning)) for gradient in gradients(SHAPES[shape], 40)]
        async with make.opened(two.stream(ahead=7)) as stream:
            streamed = await do(stream.steps(gradients(SHAPES[shape], 40), returning))
            assert stream.in_flight == 0
        assert two.step_number == two.durable_step == 40
        for a, b in zip(posted, streamed, strict=True):
            assert (a.step, a.gradient_norm, a.update_norm, b.replayed) == (
                b.step,
                b.gradient_norm,
                b.update_norm,
                False,
            )
            for name in ("params", "updates"):
                x, y = getattr(a, name), getattr(b, name)
                assert (x is None) == (y is None)
                assert x is None or bits(x) == bits(y)
        await do(two.step(next(gradients(SHAPES[shape], 1))))  # the session goes on by itself
        return two.step_number

    assert on_service(operation) == 41


def test_sending_and_receiving_apart(on_service, make):
    async def operation(client, do):
        session = await do(client.sessions.create("sgd", [1.0]))
        async with make.opened(session.stream(ahead=3)) as stream:
            for n in range(5):
                await do(stream.send([1.0], loss=float(n)))
            assert stream.in_flight <= 3
            received = [(await do(stream.receive())).step for _ in range(5)]
            with pytest.raises(thalweg.Misuse, match="nothing to receive"):
                await do(stream.receive())
            with pytest.raises(thalweg.Misuse, match="under way"):
                await do(session.step([1.0]))
            with pytest.raises(thalweg.InvalidInput):
                await do(stream.send([float("nan")]))
            await do(stream.send([1.0], loss=5.0))  # answered at the end of the block
        with pytest.raises(thalweg.Misuse, match="not open"):
            await do(stream.send([1.0]))
        losses = [step.loss for step in await do(session.history())]
        return received, session.step_number, losses

    assert on_service(operation) == ([1, 2, 3, 4, 5], 6, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0])


def test_gradients_may_be_changed_once_they_are_sent(on_service, make):
    async def operation(client, do):
        session = await do(client.sessions.create({"name": "sgd", "learning_rate": 0.01}, np.zeros(600)))
        buffer = np.empty(600)
        async with make.opened(session.stream()) as stream:
            for n in range(1, 6):
                buffer.fill(n)
                await do(stream.send(buffer, returning="none"))
        return (await do(session.params_at()))[0]

    assert on_service(operation) == pytest.approx(-0.01 * 15)


def test_a_refused_step_takes_those_behind_it_along_and_the_stream_goes_on(on_service, make):
    async def operation(client, do):
        session = await do(client.sessions.create("sgd", [1.0, 2.0]))
        async with make.opened(session.stream()) as stream:
            await do(stream.send([1.0, 1.0]))
            for bad in ([1.0], [1.0, 1.0], [1.0, 1.0]):
                await do(stream.send(bad))
            assert (await do(stream.receive())).step == 1
            with pytest.raises(thalweg.Invalid, match="The 2 steps sent after it are not taken either") as caught:
                await do(stream.receive())
            assert caught.value.errors[0].pointer == "/gradients"
            assert stream.in_flight == 0
            await do(stream.send([1.0, 1.0]))
            return (await do(stream.receive())).step

    assert on_service(operation) == 2


def test_a_session_that_is_gone(on_service, make):
    async def operation(client, do):
        session = await do(client.sessions.create("sgd", [1.0]))
        async with make.opened(session.stream()) as stream:
            await do(client.sessions.delete(session.id))
            await do(stream.send([1.0]))
            with pytest.raises(thalweg.Gone):
                await do(stream.receive())
        with pytest.raises(thalweg.Gone):
            async with make.opened(session.stream()):
                pass
        await do(client.sessions.create("sgd", [1.0]))

    on_service(operation)


def test_an_error_in_the_block_waits_for_nothing(on_service, make):
    async def operation(client, do):
        session = await do(client.sessions.create("sgd", [1.0]))

        async def fail():
            async with make.opened(session.stream()) as stream:
                await do(stream.send([1.0]))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        await do(session.refresh())
        await do(session.step([1.0]))
        return session.step_number

    assert on_service(operation) in (1, 2)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_without_the_library_it_says_what_to_install(make, monkeypatch, kind):
    monkeypatch.setattr(streaming, "import_module", lambda name: importlib.import_module(f"no_such_library.{name}"))

    async def operation(client, do):
        session = await do(client.sessions.create("sgd", [1.0]))
        async with make.opened(session.stream()):
            pass

    error = make.twin(kind).run(make.descent(), operation).error
    assert isinstance(error, thalweg.Misuse)
    assert "pip install 'thalweg-client[stream]'" in str(error)


def test_importing_the_package_does_not_import_the_library(monkeypatch):
    found = builtins.__import__

    def watched(name, *rest):
        assert not name.startswith("websockets")
        return found(name, *rest)

    monkeypatch.setattr(builtins, "__import__", watched)
    importlib.reload(streaming)
    monkeypatch.undo()
    importlib.reload(streaming)


def known(client, **what):
    """A session that the service was not asked about."""
    kind = thalweg.Session if isinstance(client, thalweg.Client) else thalweg.AsyncSession
    return kind(client._sender, thalweg.state.SessionState("s", **what))


@contextlib.contextmanager
def opening_only(then: bytes):
    """The address of something that opens WebSockets, says `then`, and reads nothing."""
    done = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError), contextlib.ExitStack() as open_now:
            while True:
                peer = open_now.enter_context(listening.accept()[0])
                asked = peer.recv(65536).decode()
                key = re.search(r"sec-websocket-key: (\S+)", asked, re.IGNORECASE)[1]
                accepted = streaming.library("utils").accept_key(key)
                head = f"HTTP/1.1 101 \r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accepted}"
                peer.sendall(f"{head}\r\n\r\n".encode() + then)
        done.wait(10)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield "http://{}:{}".format(*listening.getsockname())
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        done.set()
        thread.join(10)


def test_a_service_that_stands_still_is_left_after_the_timeout(twin, make, monkeypatch):
    monkeypatch.setattr(streaming, "GOODBYE", 0.1)

    async def operation(client, do):
        session = known(client, layout=(4_000_000,))
        stream = session.stream()
        async with make.opened(stream):
            await do(stream.send(np.zeros(4_000_000)))  # more than the buffers between the two hold
            await do(stream.receive())

    with opening_only(b"") as address:
        error = twin.run(address, operation, retries=0, timeout=0.3).error
    assert isinstance(error, thalweg.ConnectionFailed)
    assert error.outcome_unknown


def test_a_close_code_that_says_no_is_that_error(twin, make, monkeypatch):
    monkeypatch.setattr(streaming, "GOODBYE", 0.1)

    async def operation(client, do):
        stream = known(client, layout=(1,)).stream()
        async with make.opened(stream):
            try:
                await do(stream.send([1.0]))
                await do(stream.receive())
            except thalweg.TooLarge:
                return stream.in_flight

    with opening_only(b"\x88\x02\x03\xf1") as address:  # 1009
        assert twin.run(address, operation).value == 0


def test_nobody_is_there(make, twin):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "http://{}:{}".format(*free.getsockname())

    async def operation(client, do):
        session = known(client)
        try:
            async with make.opened(session.stream()):
                pass
        except thalweg.ConnectionFailed:
            with session._state.one_at_a_time():  # let go of
                raise

    outcome = twin.run(address, operation, retries=2)
    assert isinstance(outcome.error, thalweg.ConnectionFailed)
    assert (outcome.error.attempts, outcome.error.outcome_unknown) == (3, False)
    assert len(outcome.pauses) == 2


class Cutting:
    """A way to the service that breaks each connection after a number of bytes, drawn anew for each and for both
    directions; the last ones are left whole."""

    def __init__(self, address: str, rng: random.Random, cuts: int, longest: int) -> None:
        self._target = ("127.0.0.1", int(address.rsplit(":", 1)[1]))
        self._rng, self._cuts, self._longest = rng, cuts, longest
        self.cut = 0
        self._threads: list[threading.Thread] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = "http://{}:{}".format(*self._listening.getsockname())

    def __enter__(self):
        self._start(self._accept)
        return self

    def __exit__(self, *_):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(10)

    def _start(self, work, *args):
        thread = threading.Thread(target=work, args=args)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            whole = self.cut >= self._cuts
            for one, other in ((client, server), (server, client)):
                self._start(self._carry, one, other, None if whole else self._rng.randrange(1, self._longest))

    def _carry(self, source, sink, left):
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                if left is not None and len(chunk) >= left:
                    sink.sendall(chunk[:left])
                    self.cut += 1
                    break
                sink.sendall(chunk)
                left = None if left is None else left - len(chunk)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.mark.parametrize(("shape", "seed"), [("small", 1), ("large", 2)])
def test_however_the_connection_breaks_each_step_is_taken_once(twin, make, address, shape, seed):
    count = 120 if shape == "small" else 40

    async def operation(client, do):
        return await do(client.sessions.create(ADAM, start(SHAPES[shape])))

    session = twin.run(address, operation).value
    longest = 6_000 if shape == "small" else 120_000
    with Cutting(address, random.Random(seed), cuts=25, longest=longest) as way:

        async def through(client, do):
            mine = await do(client.sessions.open(session.id))
            async with make.opened(mine.stream(ahead=16)) as stream:
                return await do(stream.steps(gradients(SHAPES[shape], count)))

        outcome = twin.run(way.address, through, retries=60)
        assert outcome.error is None, outcome.error
        assert way.cut >= 10
    assert [step.step for step in outcome.value] == list(range(1, count + 1))

    async def quiet(client, do):
        other = await do(client.sessions.create(ADAM, start(SHAPES[shape])))
        for gradient in gradients(SHAPES[shape], count):
            await do(other.step(gradient))
        history = await do(client.sessions.history(session.id))
        return bits(other.params), bits(await do(client.sessions.params(session.id))), len(history)

    expected, found, length = twin.run(address, quiet).value
    assert found == expected
    assert length == count


# Without a socket: what a pipeline does when it is told this or that


class Peer:
    """Plays the service and the socket for a pipeline: `answers` are what a message is answered with, in turn."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.log = []
        state = thalweg.state.SessionState("s", layout=(1,))
        self.pipeline = Pipeline(state, self._attempts)
        self.state = state
        self._waiting = []

    def _attempts(self):
        return Attempts(Request("GET", "/", again="Again."), Retries(limit=2), "here", lambda: 1.0, lambda: 0.0)

    def run(self, at_most):
        moves = self.pipeline.flow(at_most)
        try:
            move = next(moves)
            while True:
                came = self._do(move)
                move = moves.throw(came) if isinstance(came, Exception) else moves.send(came)
        except StopIteration:
            return

    def _do(self, move):
        if isinstance(move, Send):
            self.log.append("send")
            self._waiting.append(self.answers.pop(0))
            return None
        if isinstance(move, Pause):
            self.log.append(move.seconds)
            return None
        self.log.append(move.name.lower())
        if move is Act.CLOSE:
            self._waiting.clear()
        if move is Act.OPEN and self.answers and isinstance(self.answers[0], Refused):
            return self.answers.pop(0)
        return self._waiting.pop(0) if move is Act.RECEIVE else None


def refused(status, code, **more):
    return (
        f'{{"status": {status}, "code": "{code}", "detail": "No."'
        + "".join(f', "{name}": {value}' for name, value in more.items())
        + "}"
    )


def taken(step):
    return f'{{"step": {step}, "params": [{step}.0]}}'


def test_a_busy_service_is_given_time_and_asked_again():
    peer = Peer(
        refused(503, "unavailable", retry_after=7), refused(412, "step-mismatch", current_step=0), taken(1), taken(2)
    )
    for _ in range(2):
        peer.pipeline.add([1.0], None, "params", None)
    peer.run(0)
    assert peer.log == ["open", "send", "send", "receive", "close", 7.0, "open", "send", "send", "receive", "receive"]
    assert [step.step for step in peer.pipeline.answers] == [1, 2]


def test_a_service_that_stays_busy_is_an_error_and_nothing_is_lost():
    peer = Peer(*[refused(429, "too-many")] * 3, taken(1))
    peer.pipeline.add([1.0], None, "params", None)
    with pytest.raises(thalweg.TooMany):
        peer.run(0)
    assert peer.pipeline.in_flight == 1
    peer.run(0)
    assert peer.state.step_number == 1


def test_a_message_that_is_too_large_is_given_up():
    too_large = Refused(Answer(413, httpx.Headers(), b'{"code": "too-large", "detail": "No."}'))
    peer = Peer(too_large)
    peer.pipeline.add([1.0], None, "params", None)
    with pytest.raises(thalweg.TooLarge):
        peer.run(0)
    assert peer.pipeline.in_flight == 0


def test_an_answer_to_another_step_is_nobodys():
    peer = Peer(taken(7))
    peer.pipeline.add([1.0], None, "params", None)
    with pytest.raises(thalweg.UnexpectedAnswer):
        peer.run(0)


def test_a_problem_is_read_as_any_other():
    error = problem(422, refused(422, "non-finite").encode(), request_id=None, retry_after=None)
    assert type(error) is thalweg.NonFinite
