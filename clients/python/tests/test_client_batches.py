"""Steps of many sessions in one request: an answer or an error for each, and what may be tried again is."""

from __future__ import annotations

import json

import httpx
import numpy as np
import pytest

import thalweg
from thalweg import batch


def test_each_item_has_its_answer_or_its_error_in_order(on_service):
    async def operation(client, do):
        one, two, gone = [await do(client.sessions.create("sgd", [1.0, 2.0])) for _ in range(3)]
        await do(client.sessions.delete(gone.id))
        items = [
            (one, [1.0, 1.0]),
            (two, [1.0], 0.5),
            (gone, [1.0, 1.0]),
            (one, [1.0, 1.0], 0.25),
            (two, [1.0, 1.0]),
        ]
        found = await do(client.step_many(items))
        kinds = [type(item).__name__ for item in found]
        assert found[1].errors[0].pointer == "/steps/1/gradients"
        assert found[1].request_id
        assert (one.step_number, two.step_number, gone.step_number) == (2, 0, 0)
        assert one.params.tolist() == found[3].params.tolist() == (await do(one.params_at())).tolist()
        losses = [step.loss for step in await do(one.history())]
        later = await do(client.step_many([(two, [1.0, 1.0])], returning="none"))  # two stands where it stood
        return kinds, losses, later[0].step

    kinds, losses, later = on_service(operation)
    assert kinds == ["Step", "Invalid", "Gone", "Step", "StepMismatch"]  # the last counted on the second
    assert (losses, later) == ([None, 0.25], 1)


def test_many_go_in_several_requests(on_service, monkeypatch):
    monkeypatch.setattr(batch, "MAX_ITEMS", 7)
    monkeypatch.setattr(batch, "MAX_BYTES", 2000)

    async def operation(client, do):
        sessions = [await do(client.sessions.create("sgd", [1.0])) for _ in range(3)]
        found = await do(client.step_many((session, [1.0]) for _ in range(10) for session in sessions))
        assert await do(client.step_many([])) == []
        return [step.step for step in found], {session.step_number for session in sessions}

    assert on_service(operation) == ([n for n in range(1, 11) for _ in range(3)], {10})


class Busy:
    """Answers a batch as it is told, and single steps as the service does."""

    def __init__(self, make, *results):
        self.service = make.descent(durable=lambda step: 0)
        self.results = list(results)
        self.batches = []

    def __call__(self, request):
        if request.url.path != "/v1/steps":
            return self.service(request)
        self.batches.append(json.loads(request.content)["steps"])
        return httpx.Response(200, json={"results": self.results.pop(0)})


def refused(status, code, **more):
    return {"status": status, "code": code, "detail": "No.", **more}


def test_what_was_refused_for_now_is_sent_again_and_those_behind_it(twin, make):
    busy = refused(503, "unavailable", retry_after=1)
    behind = refused(412, "step-mismatch", current_step=0)
    service = Busy(make, [busy, behind, refused(422, "invalid"), refused(412, "step-mismatch", current_step=0)])

    async def operation(client, do):
        one, two = [await do(client.sessions.create("sgd", [1.0], durability="none")) for _ in range(2)]
        found = await do(client.step_many([(one, [1.0]), (one, [2.0]), (two, [1.0]), (two, [2.0])]))
        return [getattr(item, "step", type(item)) for item in found], one.step_number, two.step_number

    assert twin.run(service, operation).value == ([1, 2, thalweg.Invalid, thalweg.StepMismatch], 2, 0)
    assert [item["step"] for item in service.batches[0]] == [1, 2, 1, 2]


def test_lost_steps_are_sent_again_first(twin, make):
    lost = [refused(412, "step-mismatch", current_step=1), refused(412, "step-mismatch", current_step=1)]
    service = Busy(make, lost)

    async def operation(client, do):
        session = await do(client.sessions.create("sgd", [1.0], durability="none"))
        for _ in range(4):
            await do(session.step([1.0]))
        service.service.fall_back(1)
        found = await do(client.step_many([(session, [1.0]), (session, [1.0])]))
        return [step.step for step in found], session.params.tolist()

    assert twin.run(service, operation).value == ([5, 6], [pytest.approx(0.4)])


def test_steps_that_are_no_longer_kept(twin, make):
    service = Busy(make, [refused(412, "step-mismatch", current_step=1)])

    async def operation(client, do):
        session = await do(client.sessions.create("sgd", [1.0], durability="none"))
        for _ in range(4):
            await do(session.step([1.0]))
        return await do(client.step_many([(session, [1.0])]))

    (error,) = twin.run(service, operation, replay_bytes=0).value
    assert isinstance(error, thalweg.StepsLost)
    assert error.resend_from == 2


@pytest.mark.parametrize("items", [[1], [("s", [1.0])], [(None,)]])
def test_what_is_no_item_is_refused_before_anything_is_sent(twin, make, items):
    script = make.script()

    async def operation(client, do):
        return await do(client.step_many(items))

    assert isinstance(twin.run(script, operation).error, thalweg.InvalidInput)
    assert not script.asked


@pytest.mark.parametrize("answer", [{"results": []}, {"results": [1]}, {}, {"results": 7}])
def test_an_answer_that_does_not_fit(twin, make, answer):
    script = make.script({"id": "s", "step": 0, "params": [1.0]}, answer)

    async def operation(client, do):
        session = await do(client.sessions.create("sgd", [1.0]))
        await do(client.step_many([(session, np.ones(1))]))

    assert isinstance(twin.run(script, operation).error, thalweg.UnexpectedAnswer)
