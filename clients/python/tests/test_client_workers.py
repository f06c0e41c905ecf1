"""Several workers on one session: each sends its part, and all get the same answer."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import thalweg

AGGREGATE = {"workers": 2, "mode": "mean", "timeout_seconds": 20}


@pytest.mark.parametrize("size", [3, 2000])
def test_two_workers_take_the_steps_of_their_mean(address, size):
    rng = np.random.default_rng(4)
    parts = rng.normal(size=(5, 2, size))
    params = {}

    def work(k):
        with thalweg.Client(address) as client:
            session = client.sessions.create(
                "adam", np.ones(size), id=f"shared-{size}", aggregate=AGGREGATE, worker=f"w{k}"
            )
            for part in parts[:, k]:
                session.step(part)
            params[k] = session.params

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with thalweg.Client(address) as client:
        alone = client.sessions.create("adam", np.ones(size))
        for one, two in parts:
            alone.step((one + two) / 2)
    assert params[0].tobytes() == params[1].tobytes() == alone.params.tobytes()


def test_parts_in_one_request_and_over_a_stream(on_service, make):
    async def operation(client, do):
        first = await do(client.sessions.create("sgd", [1.0, 2.0], aggregate=AGGREGATE, worker="a"))
        second = await do(client.sessions.open(first.id, worker="b"))
        together = await do(client.step_many([(first, [1.0, 0.0]), (second, [0.0, 1.0])]))
        nobody = await do(client.sessions.open(first.id))
        with pytest.raises(thalweg.Invalid, match="worker"):
            await do(nobody.step([1.0, 1.0]))
        async with make.opened(first.stream()) as one, make.opened(second.stream()) as two:
            await do(one.send([1.0, 1.0]))
            await do(two.send([1.0, 1.0]))
            streamed = [await do(one.receive()), await do(two.receive())]
        return [step.step for step in [*together, *streamed]], first.params.tolist() == second.params.tolist()

    assert on_service(operation) == ([1, 1, 2, 2], True)


def test_who_did_not_come_is_named(twin, address):
    plan = {**AGGREGATE, "timeout_seconds": 0.2}

    async def operation(client, do):
        session = await do(client.sessions.create("sgd", [1.0, 2.0], aggregate=plan))
        one, two = [await do(client.sessions.open(session.id, worker=name)) for name in "ab"]
        await do(client.step_many([(one, [1.0, 1.0]), (two, [1.0, 1.0])]))
        await do(one.step([1.0, 1.0]))

    error = twin.run(address, operation, retries=1).error
    assert isinstance(error, thalweg.TimedOut)
    assert (error.arrived, error.missing, error.extensions["missing_count"]) == (("a",), ("b",), 1)
    assert error.attempts == 2


def test_quorum_goes_on_without_those_who_are_late(on_service):
    plan = {**AGGREGATE, "timeout_seconds": 0.2, "quorum": 1}

    async def operation(client, do):
        session = await do(client.sessions.create("sgd", [1.0, 2.0], aggregate=plan))
        return (await do(session.step([1.0, 1.0], worker="a"))).step

    assert on_service(operation) == 1
