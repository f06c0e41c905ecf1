"""Sessions that end: 410 and why, a word about them in the list, and a reaper for those that nobody asks for."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from service.sessions.reaper import ROUND
from service.stores.base import Erased
from tests.conftest import Run, Serve, Service
from tests.sessions.calls import create, gradient, params, problem, shown, took, walk


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def service(serve: Serve, kind: str, clock: Clock) -> Service:
    """A service whose reaper comes when it is called."""
    return serve(kind=kind, now=clock, reap_seconds=0)


def reaped(service: Service, run: Run) -> int:
    """How many sessions the reaper looks at until there is nothing to do."""
    looked = 0
    while count := run(service.engine.reap()):
        looked += count
        if count < ROUND:
            break
    return looked


def erased(service: Service, id: str = "s") -> bool:
    """Whether the store has nothing left of a session."""
    try:
        service.store.head(id)
    except Erased:
        return service.store.rows(id, 0, 9) == []
    return False


class TestTheReaper:
    def test_erases_what_nobody_asks_for(self, service: Service, clock: Clock, run: Run) -> None:
        create(service, ttl_seconds=100)
        create(service, "t")
        walk(service, 3)
        clock.seconds += 99
        assert (reaped(service, run), erased(service)) == (0, False)
        clock.seconds += 2
        assert (reaped(service, run), erased(service)) == (1, True)
        assert "has expired" in problem(service.get("/v1/sessions/s"), 410, "gone")["detail"]
        assert shown(service, "t")["step"] == 0
        assert reaped(service, run) == 0

    def test_leaves_alone_what_was_used(self, service: Service, clock: Clock, run: Run) -> None:
        """A step moves the expiry; the reaper finds out when it looks, once."""
        create(service, ttl_seconds=100)
        clock.seconds += 60
        took(service, gradient(1), 1)
        clock.seconds += 60
        assert (reaped(service, run), erased(service)) == (1, False)
        assert reaped(service, run) == 0
        clock.seconds += 41
        assert (reaped(service, run), erased(service)) == (1, True)

    @pytest.mark.parametrize("held", [True, False])
    def test_heeds_another_time_to_live(self, service: Service, clock: Clock, run: Run, held: bool) -> None:
        for id, ttl in (("longer", 1000), ("shorter", 10), ("for ever", None)):
            create(service, id.replace(" ", "-"), ttl_seconds=100)
            service.patch(f"/v1/sessions/{id.replace(' ', '-')}", {"ttl_seconds": ttl})
        if not held:
            for session in list(service.engine._live._held.values()):
                service.engine._live.drop(session)
        clock.seconds += 11
        reaped(service, run)
        assert [erased(service, id) for id in ("longer", "shorter", "for-ever")] == [False, True, False]
        clock.seconds += 500
        reaped(service, run)
        assert [erased(service, id) for id in ("longer", "for-ever")] == [False, False]
        clock.seconds += 500
        reaped(service, run)
        assert [erased(service, id) for id in ("longer", "for-ever")] == [True, False]

    def test_needs_no_session_in_memory(self, service: Service, serve: Serve, clock: Clock, run: Run) -> None:
        create(service, ttl_seconds=100)
        walk(service, 3)
        clock.seconds += 101
        other = serve(store=service.store, now=clock, reap_seconds=0)
        assert reaped(other, run) == 1
        assert (erased(service), other.engine._live.held("s")) == (True, None)

    def test_does_a_bounded_amount_at_a_time(self, service: Service, clock: Clock, run: Run) -> None:
        async def fill() -> None:
            body = {"optimizer": {"name": "sgd"}, "params": 1.0, "ttl_seconds": 10}
            posts = (service.client.post("/v1/sessions", json=body) for _ in range(2 * ROUND + 7))
            assert {response.status_code for response in await asyncio.gather(*posts)} == {201}

        run(fill())
        clock.seconds += 11
        left = []
        while service.store.count():
            run(service.engine.reap())
            left.append(service.store.count())
        assert left == [ROUND + 7, 7, 0]

    def test_comes_by_itself(self, serve: Serve, kind: str, clock: Clock, run: Run) -> None:
        service = serve(kind=kind, now=clock, reap_seconds=0.01)
        create(service, ttl_seconds=100)
        clock.seconds += 101

        async def story() -> None:
            async with asyncio.timeout(10):
                while not erased(service):
                    await asyncio.sleep(0.01)

        run(story())

    def test_makes_room_for_others(self, serve: Serve, kind: str, clock: Clock, run: Run) -> None:
        service = serve(kind=kind, now=clock, reap_seconds=0, max_sessions=1)
        create(service, ttl_seconds=100)
        body = {"optimizer": {"name": "sgd"}, "params": 1.0}
        problem(service.post("/v1/sessions", body), 429, "too-many")
        clock.seconds += 101
        reaped(service, run)
        assert service.post("/v1/sessions", body).status_code == 201

    def test_does_not_come_during_a_step(self, service: Service, clock: Clock, run: Run) -> None:
        """Whoever is being waited for keeps the session alive, however long the others take."""
        create(service, ttl_seconds=100, aggregate={"workers": 2})

        async def part(worker: str) -> httpx.Response:
            body = {"gradients": [1.0, 1.0], "worker": worker, "step": 1}
            return await service.client.post("/v1/sessions/s/steps", json=body)

        async def story() -> list[httpx.Response]:
            first = asyncio.ensure_future(part("a"))
            for _ in range(50):
                await asyncio.sleep(0)
            clock.seconds += 1000
            await service.engine.reap()
            assert (await service.client.get("/v1/sessions/s")).status_code == 200
            return [await part("b"), await first]

        assert [response.status_code for response in run(story())] == [200, 200]
        assert (reaped(service, run), erased(service)) == (1, False)
        clock.seconds += 101
        assert (reaped(service, run), erased(service)) == (1, True)

    def test_and_a_step_at_the_same_moment(self, service: Service, clock: Clock, run: Run) -> None:
        """One of them wins, and whoever asks is told the truth."""

        async def story(id: str, pause: int) -> None:
            body: dict[str, Any] = {"gradients": [1.0, 1.0], "step": 1}
            request = asyncio.ensure_future(service.client.post(f"/v1/sessions/{id}/steps", json=body))
            for _ in range(pause):
                await asyncio.sleep(0)
            await service.engine.reap()
            answer = await request
            assert answer.status_code in (200, 410)
            assert erased(service, id) is (answer.status_code == 410)

        for pause in range(20):
            id = f"s{pause}"
            create(service, id, ttl_seconds=100)
            clock.seconds += 101
            run(story(id, pause))


class TestWhatIsLeft:
    def test_is_listed_by_how_it_ended(self, service: Service, clock: Clock, run: Run) -> None:
        for id in "abcd":
            create(service, id, labels={"x": id}, ttl_seconds=100)
            walk(service, 2, id=id)
        service.delete("/v1/sessions/a")
        service.delete("/v1/sessions/c")
        clock.seconds += 101
        create(service, "e")
        problem(service.get("/v1/sessions/b"), 410, "gone")  # which erases it, as the reaper would
        assert self.listed(service, "expired") == ["b"]
        reaped(service, run)
        assert self.listed(service, "expired") == ["d", "b"]
        assert self.listed(service, "deleted") == ["c", "a"]
        assert self.listed(service, "active") == self.listed(service, "") == ["e"]
        assert self.listed(service, "expired&label=x:b") == ["b"]
        assert self.listed(service, "expired&label=x:a") == []
        (item,) = service.get("/v1/sessions?state=deleted&limit=1").json()["items"]
        assert (item["id"], item["state"], item["step"], item["labels"]) == ("c", "deleted", 2, {"x": "c"})
        assert item["optimizer"]["name"] == "adam"
        assert item["deleted_at"] == "1970-01-12T13:46:40.000000Z"

    def listed(self, service: Service, state: str) -> list[str]:
        """The ids in a list, gathered page by page."""
        found: list[str] = []
        path = f"/v1/sessions?limit=1{f'&state={state}' if state else ''}"
        page = service.get(path).json()
        while True:
            found += [item["id"] for item in page["items"]]
            if "next_cursor" not in page:
                return found
            page = service.get(f"{path}&cursor={page['next_cursor']}").json()

    def test_is_not_listed_as_active_before_the_reaper_comes(self, service: Service, clock: Clock) -> None:
        create(service, ttl_seconds=100)
        clock.seconds += 101
        assert service.get("/v1/sessions").json()["items"] == []

    @pytest.mark.parametrize("how", ["deleted", "expired"])
    def test_answers_every_request(self, service: Service, clock: Clock, serve: Serve, how: str) -> None:
        create(service, ttl_seconds=100)
        walk(service, 2)
        if how == "deleted":
            service.delete("/v1/sessions/s")
        clock.seconds += 101
        for other in (service, serve(store=service.store, now=clock, reap_seconds=0)):
            for method, path, body in (
                ("GET", "", None),
                ("GET", "/steps", None),
                ("GET", "/steps/1", None),
                ("GET", "/params", None),
                ("GET", "/state", None),
                ("POST", "/steps", {"gradients": [1.0, 1.0]}),
                ("POST", "/rewind", {"step": 0}),
                ("POST", "/fork", {}),
                ("PATCH", "", {"labels": {}}),
                ("DELETE", "", None),
            ):
                gone = problem(other.request(method, f"/v1/sessions/s{path}", body), 410, "gone")
                assert ("was deleted" if how == "deleted" else "has expired") in gone["detail"]
            body = {"optimizer": {"name": "adam", "learning_rate": 0.1}, "params": [1.0, 2.0], "id": "s"}
            problem(other.post("/v1/sessions", body), 410, "gone")


def test_a_follower_is_told_of_steps_rewinds_and_the_end(service: Service, run: Run) -> None:
    create(service)
    walk(service, 3)

    async def story() -> list[Any]:
        seen: list[Any] = []

        async def follow() -> None:
            events = service.engine.follow("s", after=1)
            while True:
                event = await anext(events)
                seen.append((event["kind"], event["step"]))

        task = asyncio.ensure_future(follow())
        for method, path, body in (
            ("POST", "/steps", {"gradients": [1.0, 1.0], "step": 4}),
            ("POST", "/rewind", {"step": 2}),
            ("POST", "/steps", {"gradients": [1.0, 1.0], "step": 3}),
            ("DELETE", "", None),
        ):
            await asyncio.sleep(0.01)
            await service.client.request(method, f"/v1/sessions/s{path}", json=body)
        await asyncio.wait([task], timeout=10)
        assert "was deleted" in str(task.exception())
        return seen

    assert run(story()) == [("step", 2), ("step", 3), ("step", 4), ("rewind", 2), ("step", 3)]
    assert service.engine._followers._waiting == {}


def test_params_have_views(service: Service) -> None:
    create(service)
    walk(service, 2)
    for view in ("train", "eval"):
        for step in (1, 2):
            answer = service.get(f"/v1/sessions/s/params?view={view}&step={step}").json()
            assert answer == {"step": step, "params": params(service, step)}
    problem(service.get("/v1/sessions/s/params?view=side"), 422, "invalid")
    body = {"name": "schedule_free_sgd", "learning_rate": 0.1}
    if service.get("/v1/optimizers/schedule_free_sgd").status_code == 200:
        create(service, "free", optimizer=body)
        walk(service, 3, id="free")
        seen = [service.get(f"/v1/sessions/free/params?view={view}").json()["params"] for view in ("train", "eval")]
        assert seen[0] != seen[1]
