"""The table of a step's outcomes, row by row: applied once, whatever is sent again and whoever else writes."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from service.errors import ThalwegError
from service.sessions.access import ATTEMPTS
from service.stores.base import Taken
from tests.conftest import Run, Serve, Service
from tests.sessions.calls import (
    ADAM,
    Adam,
    Between,
    contents,
    create,
    gradient,
    params,
    pointers,
    problem,
    resolved,
    shown,
    step,
    took,
    walk,
)

G1, G2, G3 = gradient(1), gradient(2), gradient(3)
NAMED = {"w": [[1.0, 2.0], [3.0, 4.0]], "b": [0.5, -0.5]}


def after(*gradients: Any) -> list[float]:
    """What Adam makes of [1, 2]."""
    model = Adam([1.0, 2.0])
    for g in gradients:
        model.step(g)
    return model.params.tolist()


class TestTheNextStep:
    def test_is_applied(self, service: Service) -> None:
        create(service)
        answer = took(service, G1, 1)
        assert answer == {
            "step": 1,
            "params": after(G1),
            "learning_rate": 0.1,
            "gradient_norm": pytest.approx((G1[0] ** 2 + G1[1] ** 2) ** 0.5, rel=1e-15),
            "update_norm": pytest.approx(0.1 * 2**0.5, rel=1e-6),
            "durable_step": 1,
            "replayed": False,
        }
        assert took(service, G2, 2)["params"] == after(G1, G2)

    def test_may_go_without_a_number(self, service: Service) -> None:
        create(service)
        assert [took(service, gradient(n))["step"] for n in (1, 2, 3)] == [1, 2, 3]
        assert params(service) == after(G1, G2, G3)

    def test_without_a_number_is_never_a_retry(self, service: Service) -> None:
        create(service)
        took(service, G1)
        assert took(service, G1)["step"] == 2
        assert params(service) == after(G1, G1)

    @pytest.mark.parametrize("null", [{"step": None}, {"loss": None}, {"step": None, "loss": None}])
    def test_null_says_as_much_as_nothing(self, service: Service, null: dict[str, None]) -> None:
        create(service)
        response = service.post("/v1/sessions/s/steps", {"gradients": G1, **null})
        assert (response.status_code, response.json()["step"]) == (200, 1)
        assert took(service, G1, 1)["replayed"] is True


class TestARetry:
    def test_of_the_newest_step_is_answered_as_the_first_time(self, service: Service) -> None:
        create(service)
        first = took(service, G1, 1)
        for _ in range(3):
            assert took(service, G1, 1) == first | {"replayed": True}
        assert params(service) == after(G1)
        assert shown(service)["step"] == 1

    def test_writes_nothing(self, service: Service) -> None:
        create(service)
        walk(service, 5)
        before = contents(service.store)
        walk(service, 5)
        assert contents(service.store) == before

    @pytest.mark.parametrize("returning", ["params", "updates", "none"])
    def test_of_an_old_step_is_answered_bit_for_bit(self, serve: Serve, kind: str, returning: str) -> None:
        service = serve(kind=kind, snapshot_every=7)
        create(service)
        first = walk(service, 30, loss=0.25, **{"return": returning})
        numbers = list(range(1, 31))
        random.Random(1).shuffle(numbers)
        for n in numbers:
            again = step(service, gradient(n), n, loss=0.25, **{"return": returning})
            assert again.json() == first[n - 1] | {"replayed": True, "durable_step": 30}
        assert shown(service)["step"] == 30

    @pytest.mark.parametrize("between", ["nothing", "eviction", "restart", "patch", "more steps"])
    def test_is_known_whatever_happened_in_between(self, serve: Serve, kind: str, between: str) -> None:
        service = serve(kind=kind, cache_bytes=0)
        create(service)
        first = walk(service, 3)
        if between == "eviction":
            create(service, "other")
        elif between == "restart":
            store = service.store if kind == "memory" else None
            if store is None:
                service.stop()
            service = serve(kind=kind, store=store)
        elif between == "patch":
            assert service.patch("/v1/sessions/s", {"hyperparameters": {"learning_rate": 0.5}}).status_code == 200
        elif between == "more steps":
            walk(service, 6, first=4)
        newest = shown(service)["step"]
        for n in (3, 1, 2):
            assert took(service, gradient(n), n) == first[n - 1] | {"replayed": True, "durable_step": newest}

    @pytest.mark.parametrize(
        "text",
        [
            b'{"gradients":[1,2],"step":1,"loss":3}',
            b'{"loss": 3.0, "step": 1, "gradients": [1.0, 2e0]}',
            b'\n{"step":1,\t"gradients":[1.00,2],"loss":30e-1,"return":"params"}\n',
            b'{"step":2,"gradients":[1,2],"loss":3,"step":1}',
        ],
    )
    def test_is_the_same_numbers_in_any_words(self, service: Service, text: bytes) -> None:
        create(service)
        first = took(service, [1, 2], 1, loss=3)
        again = service.post("/v1/sessions/s/steps", content=text, headers={"content-type": "application/json"})
        assert again.json() == first | {"replayed": True}

    def test_may_ask_for_something_else_in_return(self, service: Service) -> None:
        create(service)
        none = took(service, G1, 1, **{"return": "none"})
        assert "params" not in none
        assert "updates" not in none
        full = took(service, G1, 1)
        assert full == none | {"params": after(G1), "replayed": True}
        updates = took(service, G1, 1, **{"return": "updates"})
        assert updates == none | {"updates": [new - old for new, old in zip(after(G1), [1, 2], strict=True)]} | {
            "replayed": True
        }

    def test_names_that_are_null_or_left_out_are_the_same(self, service: Service) -> None:
        create(service, params=NAMED)
        first = took(service, {"b": [1.0, 2.0]}, 1)
        assert took(service, {"w": None, "b": [1, 2]}, 1) == first | {"replayed": True}


class TestAnotherBody:
    @pytest.mark.parametrize(
        "body",
        [
            {"gradients": [1.0, 2.5]},
            {"gradients": [2.0, 1.0]},
            {"gradients": [1.0, 2.0 + 4.5e-16]},
            {"gradients": [1.0, 2.0], "loss": 1.0},
        ],
    )
    def test_under_an_old_number_is_refused(self, service: Service, body: dict[str, Any]) -> None:
        create(service)
        took(service, [1.0, 2.0], 1)
        walk(service, 3, first=2)
        before = contents(service.store)
        refused = problem(service.post("/v1/sessions/s/steps", {**body, "step": 1}), 422, "step-reused")
        assert refused["current_step"] == 3
        assert pointers(refused) == ["/step"]
        assert contents(service.store) == before
        assert took(service, [1.0, 2.0], 1)["replayed"] is True

    @pytest.mark.parametrize(("sent", "again"), [(0.5, None), (0.5, 0.25), (None, 0.5), (0.0, -0.0), (0.0, None)])
    def test_is_also_another_loss(self, service: Service, sent: float | None, again: float | None) -> None:
        create(service)
        took(service, G1, 1, loss=sent)
        problem(step(service, G1, 1, loss=again), 422, "step-reused")
        assert took(service, G1, 1, loss=sent)["replayed"] is True

    @pytest.mark.parametrize(
        ("sent", "again"),
        [
            ({"b": [0.0, 0.0]}, {"w": [[0.0, 0.0], [0.0, 0.0]], "b": [0.0, 0.0]}),
            ({"b": [0.0, 0.0]}, {"w": [[0.0, 0.0], [0.0, 0.0]]}),
            ({"b": [0.0, 0.0]}, {}),
            ({"w": None, "b": None}, {"w": None, "b": [0.0, 0.0]}),
        ],
    )
    def test_is_also_null_for_zero(self, service: Service, sent: Any, again: Any) -> None:
        create(service, params=NAMED)
        took(service, sent, 1)
        problem(step(service, again, 1), 422, "step-reused")

    @pytest.mark.parametrize("policy", ["skip", "zero"])
    @pytest.mark.parametrize("again", [[1.0, 0.0], [0.0, None], [None, None]])
    def test_is_also_zero_for_a_number_that_was_not_finite(self, service: Service, policy: str, again: Any) -> None:
        create(service, non_finite=policy)
        first = took(service, [1.0, None], 1)
        problem(step(service, again, 1), 422, "step-reused")
        assert took(service, [1.0, None], 1) == first | {"replayed": True}

    @pytest.mark.parametrize("number", [0, -1, -(2**60)])
    def test_there_is_no_step_before_1(self, service: Service, number: int) -> None:
        create(service)
        for _ in range(2):
            assert pointers(problem(step(service, G1, number), 422, "invalid")) == ["/step"]
            took(service, G1)


class TestAStepInTheFuture:
    @pytest.mark.parametrize("ahead", [2, 3, 10, 2**31, 2**63 - 1, 2**64 - 1])
    def test_is_refused_with_where_we_are(self, service: Service, ahead: int) -> None:
        create(service)
        walk(service, 3)
        before = contents(service.store)
        refused = problem(step(service, G1, min(3 + ahead, 2**64 - 1)), 412, "step-mismatch")
        assert refused["current_step"] == 3
        assert contents(service.store) == before
        assert took(service, gradient(4), 4)["replayed"] is False

    def test_patches_are_not_counted(self, service: Service) -> None:
        create(service)
        walk(service, 2)
        for rate in (0.2, 0.3):
            service.patch("/v1/sessions/s", {"hyperparameters": {"learning_rate": rate}})
        assert problem(step(service, G1, 4), 412, "step-mismatch")["current_step"] == 2
        assert took(service, G3, 3)["learning_rate"] == 0.3


class TestAnotherWriter:
    """Two engines on one store: what two processes on a shared store would be."""

    @pytest.fixture
    def pair(self, serve: Serve, kind: str) -> tuple[Service, Service]:
        first = serve(kind=kind)
        return first, serve(kind=kind, store=first.store)

    def test_that_took_the_same_step_took_ours(self, pair: tuple[Service, Service]) -> None:
        a, b = pair
        create(a)
        assert shown(b)["step"] == 0  # b has it in memory now
        first = took(a, G1, 1)
        assert took(b, G1, 1) == first | {"replayed": True}
        assert took(b, G2, 2)["params"] == after(G1, G2)
        assert took(a, G2, 2)["replayed"] is True

    def test_that_took_another_under_our_number(self, pair: tuple[Service, Service]) -> None:
        a, b = pair
        create(a)
        shown(b)
        took(a, G1, 1)
        assert problem(step(b, G2, 1), 422, "step-reused")["current_step"] == 1
        assert params(b) == after(G1)

    def test_leaves_us_the_number_after(self, pair: tuple[Service, Service]) -> None:
        a, b = pair
        create(a)
        shown(b)
        walk(a, 3)
        assert took(b, gradient(4))["step"] == 4
        assert took(a, gradient(5))["step"] == 5
        assert took(b, gradient(5), 5)["replayed"] is True
        assert params(b) == params(a) == after(*map(gradient, range(1, 6)))

    def test_is_heard_of_before_a_step_is_said_to_be_ahead(self, pair: tuple[Service, Service]) -> None:
        a, b = pair
        create(a)
        shown(b)
        walk(a, 3)
        assert problem(step(b, G1, 5), 412, "step-mismatch")["current_step"] == 3
        walk(a, 5, first=4)
        assert took(b, gradient(6), 6)["params"] == after(*map(gradient, range(1, 7)))
        assert took(a, gradient(7), 7)["replayed"] is False

    def test_that_changed_a_hyperparameter_is_heeded(self, pair: tuple[Service, Service]) -> None:
        a, b = pair
        create(a)
        shown(b)
        a.patch("/v1/sessions/s", {"hyperparameters": {"learning_rate": 0.5}})
        assert took(b, G1, 1)["learning_rate"] == 0.5

    def test_that_deleted_the_session(self, pair: tuple[Service, Service]) -> None:
        a, b = pair
        create(a)
        walk(a, 2)
        took(b, G2, 2)
        assert a.delete("/v1/sessions/s").status_code == 204
        problem(b.get("/v1/sessions/s/steps/1"), 410, "gone")
        create(a, "t")
        walk(a, 2, id="t")
        shown(b, "t")
        assert a.delete("/v1/sessions/t").status_code == 204
        problem(step(b, G1, 1, id="t"), 410, "gone")
        assert a.delete("/v1/sessions/t").status_code == 410
        create(a, "u")
        walk(a, 2, id="u")
        shown(b, "u")
        assert a.delete("/v1/sessions/u").status_code == 204
        problem(step(b, G3, 3, id="u"), 410, "gone")

    def test_at_the_same_moment_with_the_same_body(self, pair: tuple[Service, Service], run: Run) -> None:
        create(pair[0])

        async def race(n: int) -> list[Any]:
            body = {"gradients": gradient(n), "step": n}
            return await asyncio.gather(*(s.client.post("/v1/sessions/s/steps", json=body) for s in pair * 4))

        for n in range(1, 21):
            answers = [response.json() for response in run(race(n))]
            assert [answer["step"] for answer in answers] == [n] * 8
            assert len({str(answer["params"]) for answer in answers}) == 1
            assert sorted(answer["replayed"] for answer in answers) == [False] + [True] * 7
        assert params(pair[0]) == after(*map(gradient, range(1, 21)))

    def test_at_the_same_moment_with_another_body(self, pair: tuple[Service, Service], run: Run) -> None:
        create(pair[0])
        taken: list[list[float]] = []

        async def race(n: int) -> list[Any]:
            bodies = [{"gradients": gradient(1000 * n + i), "step": n} for i in range(8)]
            posts = (s.client.post("/v1/sessions/s/steps", json=body) for s, body in zip(pair * 4, bodies, strict=True))
            return await asyncio.gather(*posts)

        for n in range(1, 21):
            outcomes = run(race(n))
            (winner,) = (i for i, response in enumerate(outcomes) if response.status_code == 200)
            taken.append(gradient(1000 * n + winner))
            assert outcomes[winner].json()["params"] == after(*taken)
            for i, response in enumerate(outcomes):
                if i != winner:
                    problem(response, 422, "step-reused")

    def test_at_the_same_moment_without_numbers(self, pair: tuple[Service, Service], run: Run) -> None:
        """Each is taken under a number of its own, or told to come back; what was told is what is there."""
        create(pair[0])

        async def writer(service: Service, which: int) -> dict[int, list[float]]:
            mine: dict[int, list[float]] = {}
            for i in range(25):
                body = {"gradients": gradient(which * 1000 + i)}
                response = await service.client.post("/v1/sessions/s/steps", json=body)
                if response.status_code == 200:
                    assert response.json()["replayed"] is False
                    mine[response.json()["step"]] = body["gradients"]
                else:
                    problem(response, 409, "conflict")
                    assert int(response.headers["retry-after"]) >= 1
            return mine

        async def race() -> list[dict[int, list[float]]]:
            return await asyncio.gather(*(writer(service, i) for i, service in enumerate(pair * 2)))

        written = run(race())
        by_step = {number: g for mine in written for number, g in mine.items()}
        assert len(by_step) == sum(map(len, written)) >= 50
        assert sorted(by_step) == list(range(1, len(by_step) + 1))
        for service in pair:
            assert took(service, by_step[len(by_step)], len(by_step))["replayed"] is True
            assert params(service) == after(*(by_step[n] for n in sorted(by_step)))

    def test_that_always_wins_is_the_only_conflict(self, serve: Serve, kind: str) -> None:
        other = serve(kind=kind)
        create(other)
        contended = Between(other.store)
        service = serve(kind=kind, store=contended)
        tries = 0

        def append(*arguments: Any) -> Any:
            nonlocal tries
            tries += 1
            return resolved(error=Taken("somebody was faster")) if tries <= losses else other.store.append(*arguments)

        contended.append = append
        losses = 1 << 30
        refused = step(service, G1)
        problem(refused, 409, "conflict")
        assert int(refused.headers["retry-after"]) >= 1
        assert tries == ATTEMPTS
        losses = tries + ATTEMPTS - 1  # and just not always
        assert took(service, G1, 1)["replayed"] is False
        assert params(service) == after(G1)

    def test_many_clients_of_one_engine_do_not_conflict(self, service: Service, run: Run) -> None:
        create(service)

        async def race() -> list[Any]:
            posts = (service.client.post("/v1/sessions/s/steps", json={"gradients": G1}) for _ in range(100))
            return await asyncio.gather(*posts)

        assert sorted(response.json()["step"] for response in run(race())) == list(range(1, 101))
        assert params(service) == after(*[G1] * 100)


class TestAnAnswerThatIsLost:
    def test_by_a_broken_connection(self, service: Service, run: Run) -> None:
        """The step is taken, nobody hears of it, and the retry gets the answer of an undisturbed twin."""
        create(service)
        create(service, "twin")

        async def unheard(n: int) -> None:
            request = service.client.build_request(
                "POST", "/v1/sessions/s/steps", json={"gradients": gradient(n), "step": n}
            )
            scope = {
                "type": "http",
                "method": "POST",
                "path": request.url.path,
                "raw_path": request.url.raw_path,
                "query_string": b"",
                "root_path": "",
                "headers": [(name.lower(), value) for name, value in request.headers.raw],
            }

            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": request.content}

            async def send(message: Any) -> None:
                raise OSError("the client is gone")

            with pytest.raises((OSError, ThalwegError)):
                await service.app(scope, receive, send)

        for n in range(1, 6):
            expected = took(service, gradient(n), n, "twin")
            run(unheard(n))
            assert took(service, gradient(n), n) == expected | {"replayed": True}

    @pytest.mark.parametrize("written", [True, False])
    def test_by_a_store_that_cannot_say(self, serve: Serve, kind: str, written: bool) -> None:
        """An input/output error leaves it open whether the row is there; the retry settles it."""
        inner = serve(kind=kind)
        create(inner)
        create(inner, "twin")
        store = Between(inner.store)
        service = serve(kind=kind, store=store)

        def append(*arguments: Any) -> Any:
            async def lose() -> None:
                if written:
                    await inner.store.append(*arguments)
                raise OSError("input/output error")

            return asyncio.ensure_future(lose())

        for n in range(1, 6):
            expected = took(service, gradient(n), n, "twin")
            store.append = append
            refused = step(service, gradient(n), n)
            problem(refused, 503, "unavailable")
            assert int(refused.headers["retry-after"]) >= 1
            store.append = inner.store.append
            assert took(service, gradient(n), n) == expected | {"replayed": written}
            assert took(service, gradient(n), n) == expected | {"replayed": True}

    def test_by_a_request_that_is_cut_off(self, service: Service, run: Run) -> None:
        create(service)

        async def cut(n: int, turns: int) -> None:
            task = asyncio.ensure_future(
                service.client.post("/v1/sessions/s/steps", json={"gradients": gradient(n), "step": n})
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        for n in range(1, 16):
            run(cut(n, turns=n))
            assert took(service, gradient(n), n)["params"] == after(*map(gradient, range(1, n + 1)))
        assert shown(service)["step"] == 15

    def test_then_reading_tells_what_is_there(self, serve: Serve, kind: str) -> None:
        inner = serve(kind=kind)
        create(inner)
        store = Between(inner.store)
        service = serve(kind=kind, store=store)
        walk(service, 2)
        store.append = lambda *arguments: resolved(error=OSError("input/output error"))
        problem(step(service, G3, 3), 503, "unavailable")
        assert params(service) == after(G1, G2)
        assert shown(service)["step"] == 2


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a shape": ({"gradients": [1.0, 2.0, 3.0]}, "/gradients"),
    "a deeper shape": ({"gradients": [[1.0], [2.0]]}, "/gradients/0"),
    "a name": ({"gradients": {"w": [1.0, 2.0]}}, "/gradients"),
    "a type": ({"gradients": [1.0, "2.0"]}, "/gradients/1"),
    "a boolean": ({"gradients": [True, 2.0]}, "/gradients/0"),
    "null for all": ({"gradients": None}, "/gradients"),
    "null inside": ({"gradients": [1.0, None]}, "/gradients/1"),
    "no gradients": ({}, "/gradients"),
    "a stray field": ({"gradients": [1.0, 2.0], "learning_rate": 1.0}, "/learning_rate"),
    "a step in words": ({"gradients": [1.0, 2.0], "step": "1"}, "/step"),
    "a broken step": ({"gradients": [1.0, 2.0], "step": 1.0}, "/step"),
    "a true step": ({"gradients": [1.0, 2.0], "step": True}, "/step"),
    "a loss in words": ({"gradients": [1.0, 2.0], "loss": "low"}, "/loss"),
    "a true loss": ({"gradients": [1.0, 2.0], "loss": False}, "/loss"),
    "an unknown return": ({"gradients": [1.0, 2.0], "return": "all"}, "/return"),
    "a return that is a list": ({"gradients": [1.0, 2.0], "return": ["params"]}, "/return"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_body_is_pointed_at_and_changes_nothing(service: Service, name: str) -> None:
    body, pointer = BAD[name]
    create(service)
    walk(service, 2)
    before = contents(service.store)
    for number in ({}, {"step": 2}, {"step": 3}):
        refused = service.post("/v1/sessions/s/steps", {**number, **body})
        assert refused.status_code == 422, refused.text
        assert pointers(refused.json()) == [pointer]
    assert contents(service.store) == before
    assert took(service, G3, 3)["params"] == after(G1, G2, G3)


@pytest.mark.parametrize("body", [b"[1, 2]", b"1", b"null", b'"step"', b"true"])
def test_a_body_that_is_no_object(service: Service, body: bytes) -> None:
    create(service)
    refused = service.post("/v1/sessions/s/steps", content=body, headers={"content-type": "application/json"})
    assert pointers(problem(refused, 422, "invalid")) == [""]


class TestLimits:
    def test_a_body_that_is_too_large(self, serve: Serve, kind: str) -> None:
        service = serve(kind=kind, max_body_bytes=2000)
        create(service)
        before = contents(service.store)
        problem(step(service, [0.0] * 1000, 1), 413, "too-large")
        problem(service.post("/v1/sessions", {"optimizer": ADAM, "params": [0.0] * 1000}), 413, "too-large")
        assert contents(service.store) == before
        assert took(service, G1, 1)["replayed"] is False

    def test_as_many_sessions_as_there_may_be(self, serve: Serve, kind: str) -> None:
        now = [1000.0]
        service = serve(kind=kind, max_sessions=3, now=lambda: now[0])
        for id in ("a", "b"):
            create(service, id)
        create(service, "c", ttl_seconds=10)
        body = {"optimizer": ADAM, "params": [1.0, 2.0]}
        refused = service.post("/v1/sessions", body)
        problem(refused, 429, "too-many")
        assert int(refused.headers["retry-after"]) >= 1
        assert service.post("/v1/sessions", {**body, "id": "b"}).status_code == 200  # the retry of a create
        problem(service.post("/v1/sessions", {**body, "id": "new"}), 429, "too-many")
        assert service.delete("/v1/sessions/a").status_code == 204
        create(service, "d")
        problem(service.post("/v1/sessions", body), 429, "too-many")
        now[0] += 11  # c has expired; whoever finds that out makes room
        problem(service.get("/v1/sessions/c"), 410, "gone")
        create(service, "e")
        problem(service.post("/v1/sessions", body), 429, "too-many")


class TestGone:
    def test_a_session_that_never_was(self, service: Service) -> None:
        for method, path in (("POST", "/steps"), ("GET", ""), ("GET", "/params"), ("GET", "/steps"), ("DELETE", "")):
            body = {"gradients": G1} if method == "POST" else None
            problem(service.request(method, f"/v1/sessions/nobody{path}", body), 404, "not-found")

    def test_a_deleted_session(self, service: Service) -> None:
        create(service)
        walk(service, 2)
        assert service.delete("/v1/sessions/s").status_code == 204
        self.check(service)

    @pytest.mark.parametrize("asked", range(8))
    def test_an_expired_session(self, serve: Serve, kind: str, asked: int) -> None:
        """Whoever is the first to ask is told, and everybody after."""
        now = [1000.0]
        service = serve(kind=kind, now=lambda: now[0])
        create(service, ttl_seconds=60)
        walk(service, 1)
        now[0] += 59
        walk(service, 2)  # each step begins the time anew
        now[0] += 59
        assert params(service) == after(G1, G2)
        now[0] += 2
        self.check(service, asked)
        assert service.store.count() == 0

    def check(self, service: Service, asked: int = 0) -> None:
        body = {"optimizer": ADAM, "params": [1.0, 2.0], "id": "s"}
        calls: list[tuple[str, str, Any]] = [
            ("POST", "/v1/sessions/s/steps", {"gradients": G2, "step": 2}),
            ("POST", "/v1/sessions/s/steps", {"gradients": G3, "step": 3}),
            ("GET", "/v1/sessions/s", None),
            ("GET", "/v1/sessions/s/params", None),
            ("GET", "/v1/sessions/s/steps/1", None),
            ("PATCH", "/v1/sessions/s", {"hyperparameters": {"learning_rate": 1.0}}),
            ("DELETE", "/v1/sessions/s", None),
            ("POST", "/v1/sessions", body),
        ]
        for call in calls[asked:] + calls[:asked]:
            problem(service.request(*call), 410, "gone")
        assert service.get("/v1/sessions").json()["items"] == []
