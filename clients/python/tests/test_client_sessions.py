"""Sessions: what is remembered, what is sent, and that each step happens once."""

from __future__ import annotations

import asyncio
import functools
import json
import math
import threading

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import thalweg

PARAMS = {"w": np.array([[3.0, 6.0]]), "b": 1.0}
GRADIENTS = {"w": [[1.0, 2.0]], "b": None}
OPENED = {"id": "s", "step": 7, "dtype": "float32", "non_finite": "skip", "labels": {"a": "b"}}


def test_a_session(twin, make):
    service = make.descent()

    async def operation(client, do):
        session = await do(client.sessions.create({"name": "sgd", "learning_rate": 0.1}, PARAMS))
        assert session.step_number == 0
        assert session.params["w"].tolist() == [[3.0, 6.0]]
        assert session.params["b"].shape == ()
        steps = [await do(session.step(GRADIENTS, loss=np.float32(0.5))) for _ in range(5)]
        assert [step.step for step in steps] == [1, 2, 3, 4, 5]
        assert steps[-1].params is session.params
        assert not steps[-1].replayed
        history = await do(session.history(after=1))
        assert [(step.step, step.loss) for step in history] == [(2, 0.5), (3, 0.5), (4, 0.5), (5, 0.5)]
        assert (await do(session.params_at()))["w"].shape == (1, 2)
        assert repr(session).endswith(f"Session({session.id!r}, step 5)")
        await do(session.delete())
        with pytest.raises(thalweg.NotFound):
            await do(session.refresh())
        return session

    outcome = twin.run(service, operation)
    np.testing.assert_allclose(outcome.value.params["w"], [[2.5, 5.0]])
    assert outcome.value.params["b"] == 1.0
    assert outcome.error is None


def test_a_bare_number(twin, make):
    async def operation(client, do):
        session = await do(client.sessions.create("sgd", 3.0))
        await do(session.step(1.0))
        return session

    session = twin.run(make.descent(), operation).value
    assert session.params.shape == ()
    assert session.params == pytest.approx(2.9)


def test_what_a_step_sends(twin, make):
    script = make.script({**OPENED, "params": {"w": [1.0]}}, *[{"step": 8, "params": {"w": [1.0]}}] * 3)

    async def operation(client, do):
        session = await do(client.sessions.create("sgd", {"w": [1.0]}))
        await do(session.step({"w": np.array([0.1], np.float32)}, loss=1))
        await do(session.step({"w": None}, returning="none"))
        await do(session.step({}, returning="updates"))

    assert twin.run(script, operation).error is None
    assert [json.loads(request.content) for request in script.asked[1:]] == [
        {"gradients": {"w": [float(np.float32(0.1))]}, "step": 8, "loss": 1.0, "return": "params"},
        {"gradients": {"w": None}, "step": 9, "return": "none"},
        {"gradients": {}, "step": 9, "return": "updates"},
    ]
    assert {request.url.path for request in script.asked[1:]} == {"/v1/sessions/s/steps"}


def test_what_a_step_brings(twin, make):
    full = {
        "step": 1, "params": {"w": [1.0]}, "updates": {"w": [-1.0]}, "learning_rate": 0.1, "gradient_norm": 1.2,
        "update_norm": 0.01, "loss": 0.5, "time": "2026-01-01T00:00:00Z", "durable_step": 0, "replayed": True,
        "skipped": True, "zeroed": 2, "queue": 3,
    }  # fmt: skip

    async def operation(client, do):
        session = await do(client.sessions.create("sgd", {"w": [1.0]}))
        return await do(session.step({"w": [1.0]})), await do(session.step({"w": [1.0]}))

    step, bare = twin.run(make.script({"id": "s", "step": 0}, full, {"step": 2}), operation).value
    assert (step.learning_rate, step.gradient_norm, step.update_norm, step.loss) == (0.1, 1.2, 0.01, 0.5)
    assert (step.time, step.durable_step) == ("2026-01-01T00:00:00Z", 0)
    assert (step.replayed, step.skipped, step.zeroed) == (True, True, 2)
    assert (step.params["w"].tolist(), step.updates["w"].tolist(), step.extra) == ([1.0], [-1.0], {"queue": 3})
    assert (bare.params, bare.updates, bare.learning_rate, bare.replayed, bare.extra) == (None, None, None, False, {})


def test_parameters_that_were_not_asked_for_are_not_made_up(twin, make):
    script = make.script({"id": "s", "step": 0, "params": [1.0]}, {"step": 1, "updates": [-0.1]}, OPENED,
                         {"step": 1, "params": [0.9]})  # fmt: skip

    async def operation(client, do):
        session = await do(client.sessions.create("sgd", [1.0]))
        step = await do(session.step([1.0], returning="updates"))
        assert step.updates.tolist() == [-0.1]
        with pytest.raises(thalweg.Misuse, match=r"session\.refresh\(\)"):
            _ = session.params
        await do(session.refresh())
        return session

    session = twin.run(script, operation).value
    assert session.params.tolist() == [pytest.approx(0.9)]
    assert session.step_number == 1


def test_a_session_is_taken_up_where_it_stands(twin, make):
    script = make.script(OPENED, {"step": 8, "params": [1.0, 2.0]}, {"step": 9, "params": [0.5, 2.0]})

    async def operation(client, do):
        session = await do(client.sessions.open("s"))
        found = session.step_number, session.params.tolist(), session.params.dtype, session.info
        step = await do(session.step([math.nan, 1.0], loss=math.nan))
        return found, step.step

    found, number = twin.run(script, operation).value
    assert found == (8, [1.0, 2.0], np.float32, OPENED)  # the step that the parameters belong to
    assert number == 9
    assert [request.url.path for request in script.asked[:2]] == ["/v1/sessions/s", "/v1/sessions/s/params"]
    assert json.loads(script.asked[2].content) == {"gradients": [None, 1.0], "step": 9, "return": "params"}


def test_a_refresh_that_fails_half_way_mixes_nothing_up(twin, make):
    script = make.script({"id": "s", "step": 0, "params": [1.0]}, OPENED, make.problem(410, "gone"))

    async def operation(client, do):
        session = await do(client.sessions.create("sgd", [1.0]))
        with pytest.raises(thalweg.Gone):
            await do(session.refresh())
        return session.step_number, session.params.tolist()

    assert twin.run(script, operation).value == (0, [1.0])


def test_update_keeps_the_description(twin, make):
    script = make.script({"id": "s", "step": 0, "params": [1.0]}, {**OPENED, "ttl_seconds": 5})

    async def operation(client, do):
        session = await do(client.sessions.create("sgd", [1.0]))
        answer = await do(session.update(hyperparameters={"learning_rate": {"schedule": "cosine_annealing"}}))
        return session, answer

    session, answer = twin.run(script, operation).value
    assert answer["ttl_seconds"] == session.info["ttl_seconds"] == 5
    assert script.asked[1].method == "PATCH"
    assert json.loads(script.asked[1].content) == {
        "hyperparameters": {"learning_rate": {"schedule": "cosine_annealing"}}
    }


def test_a_session_that_lives_until_it_is_deleted(twin, make):
    script = make.script({})

    async def operation(client, do):
        await do(client.sessions.update("s", ttl_seconds=math.inf))

    assert twin.run(script, operation).error is None
    assert json.loads(script.asked[0].content) == {"ttl_seconds": None}


def test_old_steps_come_in_the_sessions_own_type(twin, make):
    script = make.script({"id": "s", "step": 0, "dtype": "float32"}, {"step": 1, "params": [1.0]}, {"params": [2.0]})

    async def operation(client, do):
        session = await do(client.sessions.create("sgd", [1.0]))
        return await do(session.step_at(1)), await do(session.params_at(1))

    step, params = twin.run(script, operation).value
    assert step.params.dtype == params.dtype == np.float32
    assert script.asked[2].url.query == b"step=1"


@pytest.mark.parametrize("policy", [None, "reject"])
@pytest.mark.parametrize(("gradients", "loss"), [([math.nan], None), ([1.0], math.inf), ("text", None)])
def test_refused_before_it_is_sent(twin, make, policy, gradients, loss):
    service = make.descent()

    async def operation(client, do):
        session = await do(client.sessions.create("sgd", [1.0], non_finite=policy))
        with pytest.raises(thalweg.InvalidInput):
            await do(session.step(gradients, loss))
        return (await do(session.step([1.0]))).step  # the refusal cost no step number

    assert twin.run(service, operation).value == 1
    assert service.applied == 1


@pytest.mark.parametrize("policy", ["skip", "zero"])
def test_sent_as_null_where_the_session_takes_it(twin, make, policy):
    script = make.script(
        {"id": "s", "step": 0, "params": [1.0, 2.0]}, {"step": 1, "params": [1.0, 2.0], "skipped": True}
    )

    async def operation(client, do):
        session = await do(client.sessions.create("sgd", [1.0, 2.0], non_finite=policy))
        return await do(session.step([math.inf, 1.0], loss=math.nan))

    assert twin.run(script, operation).value.skipped
    assert json.loads(script.asked[1].content) == {"gradients": [None, 1.0], "step": 1, "return": "params"}


def test_nan_at_creation_is_refused_under_any_policy(twin, make):
    async def operation(client, do):
        return await do(client.sessions.create("sgd", [math.nan], non_finite="skip"))

    assert isinstance(twin.run(make.script(), operation).error, thalweg.InvalidInput)


FAULTS = st.lists(st.sampled_from([None, "before", "after"]), max_size=24)


@settings(max_examples=60, deadline=None)
@given(faults=FAULTS, kind=st.sampled_from(["sync", "async"]))
def test_every_step_is_applied_once_whatever_is_lost(make, faults, kind):
    """Requests and answers get lost in any pattern; the caller repeats what raised an error. The parameters are those
    of a service that lost nothing, and each step was applied once."""
    service = make.descent(faults)

    async def patiently(do, call, *args):
        while True:
            try:
                return await do(call(*args))
            except thalweg.ConnectionFailed:
                continue

    async def operation(client, do):
        create = functools.partial(client.sessions.create, id="mine")
        session = await patiently(do, create, "sgd", [8.0, 4.0])
        for n in range(1, 7):
            step = await patiently(do, session.step, session.params / n)
            assert step.step == n
        return session

    session = make.twin(kind).run(service, operation, retries=2).value
    expected = np.array([8.0, 4.0])
    for n in range(1, 7):
        expected = expected - 0.1 * (expected / n)
    assert service.applied == 6
    assert session.params.tolist() == expected.tolist()


def test_another_gradient_for_a_step_that_was_taken(twin, make):
    service = make.descent([None, "after"])

    async def operation(client, do):
        session = await do(client.sessions.create("sgd", [1.0]))
        with pytest.raises(thalweg.ConnectionFailed):
            await do(session.step([1.0]))
        with pytest.raises(thalweg.StepReused):
            await do(session.step([2.0]))
        await do(session.refresh())
        assert session.step_number == 1
        return (await do(session.step([2.0]))).params.tolist()

    assert twin.run(service, operation, retries=0).value == [pytest.approx(0.7)]


def test_two_writers(twin, make):
    service = make.descent()

    async def operation(client, do):
        one = await do(client.sessions.create("sgd", [1.0]))
        two = await do(client.sessions.open(one.id))
        await do(one.step([1.0]))
        with pytest.raises(thalweg.StepReused):
            await do(two.step([2.0]))
        await do(two.refresh())
        await do(two.step([2.0]))
        return service.applied

    assert twin.run(service, operation).value == 2


def test_create_with_an_id_finds_its_session(twin, make):
    service = make.descent()

    async def operation(client, do):
        first = await do(client.sessions.create("sgd", [1.0], id="mine"))
        await do(first.step([1.0]))
        again = await do(client.sessions.create("sgd", [1.0], id="mine"))
        with pytest.raises(thalweg.Invalid):
            await do(client.sessions.create("sgd", [2.0], id="mine"))
        return again.step_number, again.params.tolist()

    assert twin.run(service, operation).value == (1, [0.9])


def test_two_steps_at_once_in_threads(make):
    arrived, go = threading.Event(), threading.Event()
    service = make.descent()

    def slow(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/steps"):
            arrived.set()
            assert go.wait(10)
        return service(request)

    with thalweg.Client(transport=httpx.MockTransport(slow)) as client:
        session = client.sessions.create("sgd", [1.0])
        thread = threading.Thread(target=session.step, args=([1.0],))
        thread.start()
        assert arrived.wait(10)
        with pytest.raises(thalweg.Misuse, match="under way"):
            session.step([1.0])
        go.set()
        thread.join()
        assert session.step([1.0]).step == 2


def test_two_steps_at_once_in_tasks(make):
    service = make.descent()

    async def slow(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        return service(request)

    async def main():
        async with thalweg.AsyncClient(transport=httpx.MockTransport(slow)) as client:
            session = await client.sessions.create("sgd", [1.0])
            other = await client.sessions.create("sgd", [1.0])
            steps = session.step([1.0]), session.step([2.0]), other.step([3.0])
            first, second, third = await asyncio.gather(*steps, return_exceptions=True)
            assert isinstance(second, thalweg.Misuse)
            assert (first.step, third.step) == (1, 1)
            return (await session.step([2.0])).step

    assert asyncio.run(main()) == 2
    assert service.applied == 3
