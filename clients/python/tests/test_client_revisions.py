"""Back and forth in a session: rewind, fork, checkpoints in files, events, and what is asked of the past."""

from __future__ import annotations

import asyncio
import itertools
import threading

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import thalweg
from thalweg.events import Reader

ADAM = {"name": "adam", "learning_rate": 0.1}
FORMS = ["json", "bytes"]


def bits(tensors):
    return (
        {name: array.tobytes() for name, array in tensors.items()} if isinstance(tensors, dict) else tensors.tobytes()
    )


def start():
    return {"w": np.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": np.array(0.5)}


async def walk(session, do, count):
    """So many steps down a bowl; the parameters after each."""
    return [
        bits((await do(session.step({name: 2 * array for name, array in session.params.items()}))).params)
        for _ in range(count)
    ]


@pytest.mark.parametrize("form", FORMS)
def test_rewind_and_walk_again_is_the_same_walk(on_service, form):
    async def operation(client, do):
        session = await do(client.sessions.create(ADAM, start(), form=form))
        first = await walk(session, do, 6)
        await do(session.rewind(2))
        assert (session.step_number, session.info["step"], bits(session.params)) == (2, 2, first[1])
        assert "replayed" not in session.info
        await do(session.rewind(2))  # it stands there
        again = await walk(session, do, 4)
        assert again == first[2:]
        await do(session.rewind(0))
        assert bits(session.params) == bits(start())
        other = await do(client.sessions.open(session.id))
        await do(other.step(start()))
        with pytest.raises(thalweg.StepMismatch) as caught:
            await do(session.rewind(0))  # another program has stepped it
        with pytest.raises(thalweg.StepMismatch):
            await do(other.rewind(9))
        return caught.value.current_step

    assert on_service(operation) == 1


def test_a_rewind_whose_answer_is_lost_is_made_once(twin, address):
    class Losing(httpx.HTTPTransport if twin.kind == "sync" else httpx.AsyncHTTPTransport):
        """Loses the first answer to a rewind."""

        lost = False

        def check(self, request):
            if request.url.path.endswith("/rewind") and not self.lost:
                self.lost = True
                raise httpx.ReadError("cut off", request=request)

        if twin.kind == "sync":

            def handle_request(self, request):
                answer = super().handle_request(request)
                answer.read()
                self.check(request)
                return answer
        else:

            async def handle_async_request(self, request):
                answer = await super().handle_async_request(request)
                await answer.aread()
                self.check(request)
                return answer

    transport = Losing()

    async def operation(client, do):
        session = await do(client.sessions.create(ADAM, start()))
        await walk(session, do, 3)
        await do(session.rewind(1))
        return session.step_number

    outcome = twin.run(address, operation, transport=transport)
    assert (outcome.error, outcome.value, len(outcome.pauses)) == (None, 1, 1)
    assert transport.lost


@pytest.mark.parametrize("form", FORMS)
def test_a_fork_goes_its_own_way_and_leaves_its_parent(on_service, twin, form):
    id = f"fork-{twin.kind}-{form}"

    async def operation(client, do):
        parent = await do(client.sessions.create(ADAM, start(), form=form, labels={"try": "one"}))
        steps = await walk(parent, do, 4)
        fork = await do(parent.fork(2, id=id, labels={"try": "two"}))
        assert (fork.id, fork.step_number, fork.labels, bits(fork.params)) == (id, 2, {"try": "two"}, steps[1])
        assert fork.info["parent"] == {"id": parent.id, "step": 2}
        await do(fork.patch(hyperparameters={"learning_rate": 0.5}))
        await walk(fork, do, 1)
        assert (await do(parent.fork(2, id=id, labels={"try": "two"}))).step_number == 3  # the same one
        here = await do(parent.fork())
        assert (here.step_number, here.labels) == (4, parent.labels)
        assert await walk(here, do, 2) == await walk(parent, do, 2)
        with pytest.raises(thalweg.StepMismatch):
            await do(parent.fork(99))
        with pytest.raises(thalweg.Invalid):
            await do(parent.fork(1, id="not an id"))

    on_service(operation)


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_goes_on_bit_for_bit(on_service, tmp_path, form):
    told = []

    async def operation(client, do):
        session = await do(client.sessions.create(ADAM, start(), form=form, labels={"a": "b"}))
        await walk(session, do, 3)
        file = await do(session.save(tmp_path / "three.safetensors", progress=lambda *bytes: told.append(bytes)))
        early = await do(session.save(str(tmp_path / "one.safetensors"), step=1))
        assert sorted(path.name for path in tmp_path.iterdir()) == ["one.safetensors", "three.safetensors"]
        loaded = await do(client.load(file, durability="none", labels={"c": "d"}, form=form))
        assert (loaded.step_number, loaded.labels, loaded.info["durability"]) == (3, {"c": "d"}, "none")
        assert loaded.params["b"].shape == ()
        assert bits(loaded.params) == bits(session.params)
        assert await walk(loaded, do, 3) == await walk(session, do, 3)
        older = await do(client.load(early))
        return older.step_number, older.labels, file

    step, labels, file = on_service(operation)
    assert (step, labels) == (1, {"a": "b"})
    assert told[-1] == (file.stat().st_size, file.stat().st_size)


def test_a_load_may_be_made_again_under_its_id(on_service, twin, tmp_path):
    id = f"load-{twin.kind}"

    async def operation(client, do):
        session = await do(client.sessions.create(ADAM, start()))
        file = await do(session.save(tmp_path / "it"))
        one = await do(client.load(file, id=id, progress=lambda *_: None))
        await walk(one, do, 1)
        return (await do(client.load(file, id=id))).step_number

    assert on_service(operation) == 1


def test_a_damaged_checkpoint_and_none(on_service, tmp_path):
    async def operation(client, do):
        session = await do(client.sessions.create(ADAM, start()))
        file = await do(session.save(tmp_path / "it"))
        damaged = bytearray(file.read_bytes())
        damaged[-1] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(thalweg.Invalid):
            await do(client.load(file))
        with pytest.raises(thalweg.InvalidInput, match="no file"):
            await do(client.load(tmp_path / "other"))
        with pytest.raises(thalweg.NotFound):
            await do(session.save(tmp_path / "later", step=9))
        with pytest.raises(FileNotFoundError):
            await do(session.save(tmp_path / "no" / "such" / "folder"))
        return [path.name for path in tmp_path.iterdir()]

    assert on_service(operation) == ["it"]


def test_a_download_that_breaks_is_begun_again_and_leaves_nothing(twin, tmp_path):
    def stream(*chunks):
        class Chunks(httpx.SyncByteStream, httpx.AsyncByteStream):
            def __iter__(self):
                for chunk in chunks:
                    if isinstance(chunk, Exception):
                        raise chunk
                    yield chunk

            async def __aiter__(self):
                for chunk in self:
                    yield chunk

        return Chunks()

    def service(request):
        if request.url.path.endswith("/params"):
            return httpx.Response(200, json={"step": 0, "params": [1.0]})
        if not request.url.path.endswith("/state"):
            return httpx.Response(200, json={"id": "s", "step": 0})
        return httpx.Response(200, headers={"content-length": "4"}, stream=stream(*broken.pop(0)))

    async def operation(client, do):
        session = await do(client.sessions.open("s"))
        return await do(session.save(tmp_path / "it"))

    broken = [[b"ab", httpx.ReadError("cut off")], [b"ab", b"cd"]]
    outcome = twin.run(service, operation)
    assert outcome.value.read_bytes() == b"abcd"
    assert len(outcome.pauses) == 1
    broken = [[b"xx", httpx.ReadError("cut off")]] * 2
    assert isinstance(twin.run(service, operation, retries=1).error, thalweg.ConnectionFailed)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("it", b"abcd")]


def test_the_view_to_use_a_model_with(on_service):
    async def operation(client, do):
        session = await do(client.sessions.create({"name": "schedule_free_sgd", "learning_rate": 0.1}, [1.0, 2.0]))
        for _ in range(3):
            await do(session.step([0.5, 0.5]))
        train, use = await do(session.params_at()), await do(session.params_at(view="eval"))
        earlier = await do(client.sessions.params(session.id, 1, view="eval"))
        return (
            train.tolist() != use.tolist(),
            earlier.shape,
            (await do(session.params_at(3, "train"))).tolist() == train.tolist(),
        )

    assert on_service(operation) == (True, (2,), True)


# Events


def take(events, count, do):
    if hasattr(events, "__aiter__"):

        async def some():
            found = []
            async for event in events:
                found.append(event)
                if len(found) == count:
                    break
            await events.aclose()
            return found

        return some()
    found = list(itertools.islice(events, count))
    events.close()
    return asyncio.sleep(0, found)


def test_events_of_the_past_and_of_now(on_service):
    async def operation(client, do):
        session = await do(client.sessions.create("sgd", [1.0, 2.0]))
        for n in range(3):
            await do(session.step([1.0, 1.0], loss=float(n)))
        await do(session.patch(hyperparameters={"learning_rate": 0.5}))
        await do(session.rewind(1))
        await do(session.step([1.0, 1.0]))
        past = await take(session.events(after=0), 2, do)
        await do(session.delete())
        with pytest.raises(thalweg.Gone):
            await take(session.events(), 1, do)
        return [(event.kind, event.step, event.data.get("loss")) for event in past]

    assert on_service(operation) == [("step", 1, 0.0), ("step", 2, None)]


def test_events_come_as_they_happen_until_the_session_ends(address):
    with thalweg.Client(address) as client, thalweg.Client(address) as watching:
        session = client.sessions.create("sgd", [1.0, 2.0])
        events = watching.sessions.open(session.id).events(after=0)
        session.step([1.0, 1.0])
        assert next(events).step == 1

        def act():
            session.patch(hyperparameters={"learning_rate": 0.5})
            session.step([1.0, 1.0])
            session.rewind(0)
            session.delete()

        thread = threading.Thread(target=act)
        thread.start()
        found = [(event.kind, event.step) for event in events]
        thread.join()
    assert found == [("patch", 1), ("step", 2), ("rewind", 0), ("end", None)]


def test_a_broken_stream_of_events_is_taken_up_after_the_last_one(twin, make):
    first = b'retry: 20\nid: 4\n\nid: 5\ndata: {"step": 5}\n\nid: 6\ndata: {"st'
    rest = b': still here\n\nid: 6\r\ndata: {"step": 6}\r\n\r\nevent: end\ndata: {}\n\n'
    script = make.script(
        {"id": "s", "step": 4},
        {"step": 4, "params": [1.0]},
        httpx.ReadError("cut off"),
        httpx.Response(200, content=first),
        make.problem(503, "unavailable", headers={"retry-after": "3"}),
        httpx.Response(200, content=rest),
    )

    async def operation(client, do):
        session = await do(client.sessions.open("s"))
        return [(event.kind, event.step) for event in await do(session.events())]

    outcome = twin.run(script, operation)
    assert outcome.value == [("step", 5), ("step", 6), ("end", None)]
    assert outcome.pauses[1:] == [0.02, 3.0]
    asked = script.asked[2:]
    assert [request.headers.get("last-event-id") for request in asked] == [None, None, "5", "5"]
    assert {request.headers["accept"] for request in asked} == {"text/event-stream"}
    assert {request.extensions["timeout"]["read"] for request in asked} == {45.0}


def test_a_service_that_stays_away_ends_the_events(twin, make):
    script = make.script({"id": "s", "step": 0}, {"step": 0, "params": [1.0]}, *[httpx.ConnectError("refused")] * 3)

    async def operation(client, do):
        session = await do(client.sessions.open("s"))
        return await do(session.events(after=0))

    assert isinstance(twin.run(script, operation, retries=2).error, thalweg.ConnectionFailed)


@given(st.lists(st.integers(1, 60), max_size=20))
def test_events_in_any_pieces_are_the_same_events(cuts):
    text = "".join(f'id: {n}\nevent: patch\ndata: {{"step": {n},\ndata: "α": "é"}}\n\n' for n in range(1, 6)).encode()
    reader, found, place = Reader("s", None), [], 0
    for cut in [*cuts, len(text)]:
        found += reader.read(text[place : place + cut])
        place += cut
    assert [(event.kind, event.step, event.data["α"]) for event in found] == [("patch", n, "é") for n in range(1, 6)]


def test_an_event_that_is_no_object():
    with pytest.raises(thalweg.UnexpectedAnswer):
        Reader("s", None).read(b"data: [1]\n\n")
