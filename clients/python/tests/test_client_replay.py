"""Steps that were answered before they were durable: kept, and sent again after a crash, exactly."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import thalweg
from thalweg.ring import OVERHEAD, Gradient, Ring

ADAM = {"name": "adam", "learning_rate": 0.1}


def never(step: int) -> int:
    return 0


# The ring


@given(
    limit=st.integers(0, 6),
    acts=st.lists(st.sampled_from(["add", "skip", "settle", "clear"]), max_size=40),
    durable=st.integers(0, 40),
)
def test_a_ring_holds_the_newest_steps_without_a_gap(limit, acts, durable):
    size = 8 + OVERHEAD
    ring, model, step = Ring(limit * size), [], 0
    for act in acts:
        if act == "add" or act == "skip":
            step += 1 if act == "add" else 2
            ring.add(Gradient(step, np.array([float(step)])))
            model = ([*model, step] if not model or model[-1] == step - 1 else [step])[-limit:] if limit else []
        elif act == "settle":
            ring.settle(durable)
            model = [kept for kept in model if kept > durable]
        else:
            ring.clear()
            model = []
        assert (len(ring), ring.bytes) == (len(model), len(model) * size)
        assert ring.first == (model[0] if model else None)
        for number in range(step + 2):
            found = ring.get(number)
            assert (found.step if found else None) == (number if number in model else None)


# Against the rules of the service


def test_lost_steps_are_sent_again_and_the_step_is_taken(twin, make):
    service = make.descent(durable=never)

    async def operation(client, do):
        session = await do(client.sessions.create("sgd", [8.0, 4.0], durability="none"))
        buffer = np.empty(2)
        for n in range(1, 8):
            buffer[:] = [n, -n]  # the caller's array is used again
            await do(session.step(buffer, loss=float(n), returning="updates"))
        service.fall_back(3)
        step = await do(session.step([8.0, -8.0], loss=8.0))
        return step.step, session.params.tolist()

    number, params = twin.run(service, operation).value
    expected = np.array([8.0, 4.0])
    for n in range(1, 9):
        expected = expected - 0.1 * np.array([n, -n])
    assert (number, params) == (8, expected.tolist())
    (session,) = service.sessions.values()
    assert [body["loss"] for body, _ in session.taken] == [float(n) for n in range(1, 9)]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(["sync", "async"]))
def test_any_pattern_of_crashes_and_lost_messages_comes_to_the_same_bits(make, seed, kind):
    rng = random.Random(seed)
    service = make.descent(durable=lambda step: step // 4 * 4)
    taken = 0

    def unreliable(request):
        """A crash before or after a request, at any time, down to a step that is not yet durable."""
        fault = rng.choice([None, None, None, "before", "after", "crash"])
        if fault == "crash" and service.sessions:
            (session,) = service.sessions.values()
            service.fall_back(rng.randint(min(taken // 4 * 4, len(session.taken)), len(session.taken)))
        service.faults = iter([fault] if fault in ("before", "after") else [])
        return service(request)

    async def operation(client, do):
        nonlocal taken
        session = await do(client.sessions.create("sgd", [8.0, 4.0], durability="every:4", id="s"))
        for n in range(1, 21):
            await do(session.step([1.0 / n, n], loss=float(n)))
            taken = n
        return session.params.tolist(), session.step_number

    outcome = make.twin(kind).run(unreliable, operation, retries=200)
    assert outcome.error is None, outcome.error
    expected = np.array([8.0, 4.0])
    for n in range(1, 21):
        expected = expected - 0.1 * np.array([1.0 / n, n])
    assert outcome.value == (expected.tolist(), 20)


def test_a_ring_that_does_not_reach_back_says_where_to_begin(twin, make):
    service = make.descent(durable=never)

    async def operation(client, do):
        session = await do(client.sessions.create("sgd", np.zeros(100).tolist(), durability="none"))
        for n in range(1, 11):
            await do(session.step(np.full(100, float(n))))
        service.fall_back(4)
        with pytest.raises(thalweg.StepsLost, match="only those from 8 on are still here") as caught:
            await do(session.step(np.full(100, 11.0)))
        assert (caught.value.current_step, caught.value.resend_from) == (4, 5)
        await do(session.refresh())
        for n in range(5, 12):
            await do(session.step(np.full(100, float(n))))
        return session.params[0], session.step_number

    value = twin.run(service, operation, replay_bytes=3 * (800 + OVERHEAD)).value
    assert value == (pytest.approx(-0.1 * sum(range(1, 12))), 11)
    assert service.applied == 10 + 7


def test_nothing_is_kept_of_what_is_durable(twin, make):
    async def operation(client, do):
        session = await do(client.sessions.create("sgd", [1.0]))
        await do(session.step([1.0]))
        return len(session._state.ring), session.durable_step

    assert twin.run(make.descent(), operation).value == (0, 1)
    assert twin.run(make.descent(durable=never), operation).value == (1, 0)


def test_durable_steps_that_are_gone_were_taken_back_and_are_not_sent_again(twin, make):
    """Only a rewind, by another program, undoes a durable step."""
    service = make.descent(durable=lambda step: max(0, step - 2))

    async def operation(client, do):
        session = await do(client.sessions.create("sgd", [1.0], durability="every:2"))
        for _ in range(6):
            await do(session.step([1.0]))
        service.fall_back(3)
        await do(session.step([1.0]))

    error = twin.run(service, operation).error
    assert type(error) is thalweg.StepMismatch
    assert error.current_step == 3
    assert service.applied == 6


def test_a_rewind_lets_go_of_what_it_takes_back(twin, make):
    service = make.descent(durable=never)

    async def operation(client, do):
        session = await do(client.sessions.create("sgd", [1.0], durability="none"))
        for n in range(5):
            await do(session.step([float(n)]))
        await do(session.rewind(2))
        assert len(session._state.ring) == 0
        await do(session.step([9.0]))
        return session.step_number, session.params.tolist()

    assert twin.run(service, operation).value == (3, [pytest.approx(1.0 - 0.1 * (0 + 1 + 9))])


def test_steps_that_another_program_took_instead_are_no_ones_to_overwrite(twin, make):
    service = make.descent(durable=never)

    async def operation(client, do):
        session = await do(client.sessions.create("sgd", [1.0], durability="none"))
        for _ in range(5):
            await do(session.step([1.0]))
        other = await do(client.sessions.open(session.id))
        service.fall_back(3)
        with pytest.raises(thalweg.StepsLost):
            await do(other.step([2.0]))  # it was at 5 and has none of the steps
        await do(other.refresh())
        await do(other.step([2.0]))
        with pytest.raises(thalweg.StepReused):
            await do(session.step([1.0]))

    assert twin.run(service, operation).error is None


# The service itself, killed


def test_a_service_killed_again_and_again_loses_no_step(twin, make, serving, tmp_path, monkeypatch):
    """kill -9 in the middle, a new start, and the client goes on; in the end every bit is that of a quiet run."""
    monkeypatch.setenv("no_proxy", "")  # given back at the end
    monkeypatch.setenv("NO_PROXY", "")
    seed = {"sync": 1, "async": 2}[twin.kind]
    rng = random.Random(seed)
    gradients = np.random.default_rng(seed).normal(size=(400, 6))
    kills = sorted(rng.sample(range(30, 370), 2))

    async def alone(session, client, do):
        """One by one, and many in a request."""
        n = 0
        while n < len(gradients):
            if rng.random() < 0.8:
                assert (await do(session.step(gradients[n]))).step == n + 1
                n += 1
            else:
                steps = await do(client.step_many([(session, gradient) for gradient in gradients[n : n + 25]]))
                assert [step.step for step in steps] == list(range(n + 1, n + len(steps) + 1))
                n += len(steps)
            yield n

    async def streamed(session, client, do):
        async with make.opened(session.stream(ahead=8)) as stream:
            for n, gradient in enumerate(gradients):
                await do(stream.send(gradient))
                yield n + 1

    with serving.Service(tmp_path) as service:

        async def operation(client, do):
            durability = {"sync": "every:50", "async": "none"}[twin.kind]
            session = await do(client.sessions.create(ADAM, np.ones(6), durability=durability, id="s"))
            async for n in (streamed if twin.kind == "async" else alone)(session, client, do):
                if kills and n >= kills[0]:
                    kills.pop(0)
                    service.kill()
                    service.start()
            quiet = await do(client.sessions.create(ADAM, np.ones(6), id="quiet", durability="none"))
            async with make.opened(quiet.stream()) as stream:
                await do(stream.steps(gradients))
            history = [step.step for step in await do(session.history())]
            found = await do(client.sessions.params("s"))
            return history, found.tobytes() == quiet.params.tobytes(), session.params.tobytes() == found.tobytes()

        outcome = twin.run(service.url, operation, retries=thalweg.Retries(limit=40))
    if outcome.error:
        raise outcome.error
    assert not kills
    assert outcome.value == (list(range(1, 401)), True, True)
