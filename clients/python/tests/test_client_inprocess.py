"""Both clients against the service itself: over a socket, and inside this process."""

from __future__ import annotations

import asyncio
import math

import httpx
import numpy as np
import pytest

import thalweg

main = pytest.importorskip("service.main")
settings = pytest.importorskip("service.settings")

ADAM = {"name": "adam", "learning_rate": 0.1}


def new_app():
    return main.create_app(settings.Settings(store="memory", log_level="critical"))


def test_health(on_service):
    async def operation(client, do):
        return await do(client.livez()), await do(client.readyz())

    assert on_service(operation) == (True, True)


def test_the_life_of_a_session(on_service):
    start = {"w": np.array([[3.0, -6.0]]), "b": 1.0}

    async def operation(client, do):
        session = await do(client.sessions.create(ADAM, start, labels={"test": "life"}))
        assert {name: array.shape for name, array in session.params.items()} == {"w": (1, 2), "b": ()}
        assert session.info["optimizer"]["beta1"] == 0.9
        for n in range(1, 6):
            step = await do(session.step({"w": session.params["w"], "b": None}, loss=1 / n))
            assert (step.step, step.learning_rate, step.replayed) == (n, 0.1, False)
        assert session.params["b"] == 1.0
        assert (np.abs(session.params["w"]) < np.abs(start["w"])).all()

        history = await do(session.history(page_size=2))
        assert [step.step for step in history] == [1, 2, 3, 4, 5]
        assert [step.loss for step in history] == [1 / n for n in range(1, 6)]
        assert [step.step for step in await do(session.history(after=3))] == [4, 5]
        third = await do(session.step_at(3))
        assert (third.step, third.gradient_norm) == (3, history[2].gradient_norm)
        assert ((await do(session.params_at(3)))["w"] == third.params["w"]).all()
        assert ((await do(session.params_at(0)))["w"] == start["w"]).all()

        again = await do(client.sessions.open(session.id))
        assert (again.step_number, again.params["w"].tolist()) == (5, session.params["w"].tolist())
        listed = await do(client.sessions.list(labels={"test": "life"}, page_size=1))
        assert session.id in [item["id"] for item in listed]
        return session

    on_service(operation)


def test_change_and_delete(on_service):
    async def operation(client, do):
        session = await do(client.sessions.create("sgd", 3.0))
        await do(session.update(hyperparameters={"learning_rate": 0.5}, labels={"a": "b"}, ttl_seconds=60))
        assert (session.info["ttl_seconds"], session.info["labels"]) == (60, {"a": "b"})
        await do(session.update(ttl_seconds=math.inf))
        assert "ttl_seconds" not in session.info
        step = await do(session.step(2.0))
        assert (step.learning_rate, step.params.shape, step.params.item()) == (0.5, (), 2.0)
        await do(session.delete())
        with pytest.raises(thalweg.Gone):
            await do(session.step(1.0))
        with pytest.raises(thalweg.Gone):
            await do(client.sessions.delete(session.id))

    on_service(operation)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_numbers_arrive_as_they_were(on_service, dtype):
    rng = np.random.default_rng(1)
    tensors = {f"/{n}~": rng.normal(size=(n, 3)).astype(dtype) * 10.0 ** rng.integers(-30, 30) for n in range(1, 5)}

    async def operation(client, do):
        session = await do(client.sessions.create("sgd", tensors, dtype=dtype))
        step = await do(session.step(dict.fromkeys(tensors), returning="updates"))
        return session, step, await do(session.params_at())

    session, step, params = on_service(operation)
    assert list(params) == list(tensors)
    for name, array in tensors.items():
        assert params[name].dtype == step.updates[name].dtype == dtype
        assert params[name].tobytes() == array.astype(dtype).tobytes()
        assert not step.updates[name].any()
    with pytest.raises(thalweg.Misuse):
        _ = session.params


def test_non_finite(on_service):
    async def operation(client, do):
        skipping = await do(client.sessions.create("sgd", [1.0, 2.0], non_finite="skip"))
        zeroing = await do(client.sessions.create("sgd", [1.0, 2.0], non_finite="zero"))
        bad = [math.nan, 1.0]
        return await do(skipping.step(bad, loss=math.nan)), await do(zeroing.step(bad))

    skipped, zeroed = on_service(operation)
    assert (skipped.skipped, skipped.params.tolist()) == (True, [1.0, 2.0])
    assert (zeroed.zeroed, zeroed.params[0], zeroed.params[1] < 2.0) == (1, 1.0, True)


def test_errors(on_service):
    async def operation(client, do):
        with pytest.raises(thalweg.NotFound):
            await do(client.catalogue.optimizer("no such"))
        with pytest.raises(thalweg.Invalid) as caught:
            await do(client.sessions.create({"name": "adam", "lerning_rate": 1}, [1.0]))
        assert "learning_rate" in str(caught.value)
        session = await do(client.sessions.create("sgd", {"w": [1.0, 2.0]}))
        with pytest.raises(thalweg.Invalid) as caught:
            await do(session.step({"w": [[1.0, 2.0]]}))
        assert caught.value.errors[0].pointer.startswith("/gradients/w")
        assert caught.value.request_id
        other = await do(client.sessions.open(session.id))
        await do(session.step({"w": [1.0, 2.0]}))
        with pytest.raises(thalweg.StepReused) as caught:
            await do(other.step({"w": [2.0, 2.0]}))
        assert caught.value.current_step == 1
        assert (await do(other.step({"w": [1.0, 2.0]}))).replayed

    on_service(operation)


def test_one_id_is_one_session(on_service, twin):
    id = f"test-{twin.kind}-one"

    async def operation(client, do):
        first = await do(client.sessions.create("sgd", [1.0], id=id))
        await do(first.step([1.0]))
        second = await do(client.sessions.create("sgd", [1.0], id=id))
        assert (second.step_number, second.params.tolist()) == (1, first.params.tolist())
        with pytest.raises(thalweg.Invalid):
            await do(client.sessions.create("sgd", [2.0], id=id))

    on_service(operation)


def test_the_catalogue_can_be_read(on_service):
    async def operation(client, do):
        for listing, reading in [
            (client.catalogue.optimizers, client.catalogue.optimizer),
            (client.catalogue.schedules, client.catalogue.schedule),
            (client.catalogue.transforms, client.catalogue.transform),
        ]:
            names = [item["name"] for item in await do(listing())]
            assert names
            for name in names:
                assert (await do(reading(name)))["name"] == name

    on_service(operation)


class Losing(httpx.AsyncBaseTransport):
    """Carries requests to the application, and loses every second answer."""

    def __init__(self, app) -> None:
        self.inner = httpx.ASGITransport(app=app)
        self.lost = 0
        self.carried = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self.inner.handle_async_request(request)
        self.carried += 1
        if self.carried % 2:
            self.lost += 1
            raise httpx.ReadError("cut off", request=request)
        return answer


def test_lost_answers_change_nothing():
    """The whole of it: half of all answers lost, and the parameters are those of an undisturbed run, bit for bit."""

    async def descend(transport):
        async def sleep(_: float) -> None:
            return None

        async with thalweg.AsyncClient(transport=transport, sleep=sleep) as client:
            session = await client.sessions.create(ADAM, [3.0, -6.0])
            replayed = [(await session.step(2 * session.params)).replayed for _ in range(20)]
            history = [step.step async for step in session.history()]
            return session.params.tobytes(), replayed, history

    losing = Losing(new_app())
    quiet = asyncio.run(descend(httpx.ASGITransport(app=new_app())))
    noisy = asyncio.run(descend(losing))
    assert losing.lost > 20
    assert noisy[0] == quiet[0]
    assert noisy[1] == [True] * 20
    assert noisy[2] == quiet[2] == list(range(1, 21))
