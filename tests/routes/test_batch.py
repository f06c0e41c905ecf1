"""Many steps in one request: the same as one after another, in one write."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Run, Serve, Service
from tests.sessions.calls import Adam, create, gradient, params, problem, shown
from tests.stores.disk import failing, plugged

WAL = "thalweg.sqlite-wal"
NOW = 1_760_000_000.0


def batch(service: Service, *steps: Any) -> list[dict[str, Any]]:
    """The results of a request that is answered."""
    response = service.post("/v1/steps", {"steps": list(steps)})
    assert response.status_code == 200, response.text
    results: list[dict[str, Any]] = response.json()["results"]
    assert len(results) == len(steps)
    return results


def item(session: str, step: int | None = None, **more: Any) -> dict[str, Any]:
    """A step of a session with the gradient that belongs to the step."""
    number = {} if step is None else {"step": step}
    return {"session": session, "gradients": gradient(step or 1), **number, **more}


def codes(results: list[dict[str, Any]]) -> list[Any]:
    """What became of each: its step, or its problem's code."""
    return [result.get("code") or result["step"] for result in results]


class TestAnswers:
    def test_stand_in_the_order_of_the_steps(self, service: Service) -> None:
        for id in "abc":
            create(service, id)
        results = batch(service, item("b", 1), item("a", 1), item("b", 2), item("c", 1), item("b", 3), item("a", 2))
        assert codes(results) == [1, 1, 2, 1, 3, 2]
        models = {id: Adam([1.0, 2.0]) for id in "abc"}
        for i, (id, n) in enumerate([("b", 1), ("a", 1), ("b", 2), ("c", 1), ("b", 3), ("a", 2)]):
            models[id].step(gradient(n))
            assert results[i]["params"] == models[id].params.tolist()

    def test_hold_a_problem_in_the_place_of_a_step_that_fails(self, service: Service) -> None:
        create(service, "a")
        create(service, "b", params={"w": [[1.0, 2.0]]})
        results = batch(
            service,
            item("a", 1),
            {"session": "b", "gradients": {"w": [[1.0]]}, "step": 1},
            item("nobody", 1),
            7,
            {"gradients": [1.0, 2.0]},
            item("a", 2, colour="red"),
            item("a", 2),
            {"session": "b", "gradients": {"w": [[1.0, 1.0]]}, "step": 1},
        )
        assert codes(results) == [1, "invalid", "not-found", "invalid", "invalid", "invalid", 2, 1]
        assert [result.get("status") for result in results] == [None, 422, 404, 422, 422, 422, None, None]
        pointers = [result["errors"][0]["pointer"] for result in results if "errors" in result]
        assert pointers == ["/steps/1/gradients/w/0", "/steps/3", "/steps/4/session", "/steps/5/colour"]
        assert len({result["request_id"] for result in results if "status" in result}) == 1

    def test_tell_a_step_that_counts_on_a_failed_one_where_the_session_stands(self, service: Service) -> None:
        create(service, "a")
        create(service, "b")
        wrong = item("a", 2, gradients=["x", 1])
        results = batch(service, item("a", 1), wrong, item("a", 3), item("b", 1), item("a", 2), item("a", 3))
        assert codes(results) == [1, "invalid", "step-mismatch", 1, 2, 3]
        assert results[2]["current_step"] == 1
        assert shown(service, "a")["step"] == 3

    def test_repeat_what_was_answered_also_within_one_request(self, service: Service) -> None:
        create(service, "a")
        first = batch(
            service, item("a", 1), item("a", 2), item("a", 1), item("a", 2, gradients=[0.5, 0.5]), item("a", 3)
        )
        assert codes(first) == [1, 2, 1, "step-reused", 3]
        assert first[2] == first[0] | {"replayed": True, "durable_step": 2}
        again = batch(service, item("a", 1), item("a", 2), item("a", 3), item("a", 4))
        assert [result["replayed"] for result in again] == [True, True, True, False]
        assert [result["params"] for result in again[:3]] == [first[i]["params"] for i in (0, 1, 4)]

    def test_come_in_what_was_asked_for(self, service: Service) -> None:
        create(service, "a", dtype="float32", params={"w": [[1.0, 2.0]], "b": 0.5})
        gradients = {"w": [[0.1, 0.2]], "b": 0.3}
        results = batch(
            service,
            *({"session": "a", "gradients": gradients, "return": wanted} for wanted in ("params", "updates", "none")),
        )
        assert [set(result) & {"params", "updates"} for result in results] == [{"params"}, {"updates"}, set()]
        assert results[0]["params"].keys() == {"w", "b"}

    def test_to_no_steps_are_none(self, service: Service) -> None:
        assert batch(service) == []


STEPS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from([None, 1, 2, 3, 4, 5, 9]),
        st.sampled_from([[1.0, 2.0], [1.0, 2.0], [-0.5, 0.25], [1.0], [None, 1.0]]),
        st.sampled_from(["params", "updates", "none"]),
    ),
    max_size=12,
)


def test_a_batch_is_what_the_same_steps_are_one_after_another(serve: Serve) -> None:
    """Answers, problems and logs, byte for byte."""
    one, many = (serve(now=lambda: NOW, snapshot_every=3) for _ in range(2))
    numbers = itertools.count()

    @settings(max_examples=60)
    @given(STEPS, st.sampled_from(["step", "every:2", "none"]))
    def check(steps: list[tuple[Any, ...]], durability: str) -> None:
        number = next(numbers)
        for service in (one, many):
            for id in "ab":
                create(service, f"{id}{number}", durability=durability)
        items = [
            {"session": f"{id}{number}", "gradients": g, "return": wanted} | ({} if n is None else {"step": n})
            for id, n, g, wanted in steps
        ]
        compare(one, many, items, durability)
        for id in "ab":
            assert many.store.rows(f"{id}{number}", 0, 99) == one.store.rows(f"{id}{number}", 0, 99)
            if durability == "step":  # else snapshots are taken when there is time
                assert many.store.snapshot(f"{id}{number}", 99) == one.store.snapshot(f"{id}{number}", 99)

    check()


def compare(one: Service, many: Service, items: list[dict[str, Any]], durability: str) -> None:
    """The steps sent one after another, and as a batch to a service that stands where the other did."""
    single = [one.post(f"/v1/sessions/{i['session']}/steps", {k: v for k, v in i.items() if k != "session"}).json()
              for i in items]  # fmt: skip
    for place, (result, alone) in enumerate(zip(batch(many, *items), single, strict=True)):
        result.pop("request_id", None), alone.pop("request_id", None)
        for error in alone.get("errors", ()):
            error["pointer"] = f"/steps/{place}{error['pointer']}"
        if durability != "step":  # how far the disk has come depends on when it is asked
            assert result.pop("durable_step", 0) <= len(items) >= alone.pop("durable_step", 0)
        if result.get("replayed"):
            result.pop("durable_step", None), alone.pop("durable_step", None)
        assert result == alone


class TestWrites:
    def test_a_hundred_sessions_go_to_the_disk_once(self, serve: Serve) -> None:
        with plugged() as disk:
            service = serve(kind="sqlite")
            for i in range(100):
                create(service, f"s{i}")
            for n in (1, 2):
                before = disk.syncs[WAL]
                assert codes(batch(service, *(item(f"s{i}", n) for i in range(100)))) == [n] * 100
                assert disk.syncs[WAL] - before == 1
            service.stop()

    def test_a_hundred_steps_of_one_session_do_too(self, serve: Serve) -> None:
        with plugged() as disk:
            service = serve(kind="sqlite", snapshot_every=10_000)
            create(service)
            before = disk.syncs[WAL]
            results = batch(service, *(item("s", n) for n in range(1, 101)))
            assert disk.syncs[WAL] - before == 1
            assert codes(results) == list(range(1, 101))
            model = Adam([1.0, 2.0])
            for n in range(1, 101):
                model.step(gradient(n))
                assert results[n - 1]["params"] == model.params.tolist()
            service.stop()

    def test_that_fail_are_told_to_all_that_rest_on_them_and_change_nothing(self, serve: Serve) -> None:
        with plugged() as disk:
            service = serve(kind="sqlite")
            create(service, "a")
            create(service, "b")
            steps = [item("a", 1), item("a", 2), item("b", 1), item("b", 2, gradients=[1.0])]
            disk.fault = failing("sync", WAL, times=1)
            results = batch(service, *steps)
            assert codes(results) == ["unavailable"] * 4
            assert results[0]["retry_after"] == 1
            again = batch(service, *steps)
            assert codes(again) == [1, 2, 1, "invalid"]
            assert [len(service.store.rows(id, 0, 9)) for id in "ab"] == [2, 1]
            service.stop()

    def test_leave_a_session_that_a_restart_finds(self, serve: Serve) -> None:
        service = serve(kind="sqlite", snapshot_every=7)
        create(service)
        answered = batch(service, *(item("s", n) for n in range(1, 51)))
        service.stop()
        assert params(serve(kind="sqlite", snapshot_every=7), id="s") == answered[-1]["params"]


class TestSideBySide:
    def test_requests_that_name_the_same_sessions_in_other_orders_all_end(self, serve: Serve, run: Run) -> None:
        service = serve(kind="sqlite")
        ids = [f"s{i}" for i in range(8)]
        for id in ids:
            create(service, id)

        async def post(order: list[str]) -> httpx.Response:
            return await service.client.post("/v1/steps", json={"steps": [item(id) for id in order for _ in range(3)]})

        async def story() -> list[httpx.Response]:
            orders = [ids, ids[::-1], ids[4:] + ids[:4]] * 6
            async with asyncio.timeout(60):
                return await asyncio.gather(*map(post, orders))

        answers = [response.json()["results"] for response in run(story())]
        for id in ids:
            taken = sorted(
                result["step"]
                for results, order in zip(answers, [ids, ids[::-1], ids[4:] + ids[:4]] * 6, strict=True)
                for result, owner in zip(results, (i for i in order for _ in range(3)), strict=True)
                if owner == id
            )
            assert taken == list(range(1, 55))

    def test_single_steps_go_between(self, serve: Serve, run: Run) -> None:
        service = serve(kind="sqlite")
        create(service)

        async def story() -> list[httpx.Response]:
            many = (service.client.post("/v1/steps", json={"steps": [item("s")] * 5}) for _ in range(5))
            one = (service.client.post("/v1/sessions/s/steps", json={"gradients": [1.0, 2.0]}) for _ in range(5))
            return await asyncio.gather(*many, *one)

        answers = run(story())
        steps = [r["step"] for a in answers[:5] for r in a.json()["results"]] + [a.json()["step"] for a in answers[5:]]
        assert sorted(steps) == list(range(1, 31))
        assert all([r["step"] for r in a.json()["results"]] == sorted(r["step"] for r in a.json()["results"])
                   for a in answers[:5])  # fmt: skip

    def test_sessions_that_left_memory_come_back(self, serve: Serve) -> None:
        service = serve(kind="sqlite", cache_bytes=0)
        for i in range(10):
            create(service, f"s{i}")
        for n in (1, 2, 3):
            assert codes(batch(service, *(item(f"s{i}", n) for i in range(10)))) == [n] * 10

    def test_large_sessions_go_beside_small_ones(self, service: Service) -> None:
        create(service, "small")
        create(service, "large", params=[0.0] * 20_000)
        results = batch(
            service,
            {"session": "large", "gradients": [1.0] * 20_000, "return": "none"},
            item("small", 1),
            {"session": "large", "gradients": [1.0] * 20_000, "return": "none"},
        )
        assert codes(results) == [1, 1, 2]

    def test_deleted_sessions_are_gone_and_the_others_not(self, service: Service) -> None:
        create(service, "a")
        create(service, "b")
        service.delete("/v1/sessions/a")
        assert codes(batch(service, item("a", 1), item("b", 1))) == ["gone", 1]


class TestRequests:
    @pytest.mark.parametrize(
        ("body", "pointer"),
        [
            ([], "/steps"),
            ({}, "/steps"),
            ({"steps": {}}, "/steps"),
            ({"steps": [], "extra": 1}, "/extra"),
            ({"steps": [1] * 1001}, "/steps"),
        ],
    )
    def test_that_are_no_list_of_steps_are_refused(self, service: Service, body: Any, pointer: str) -> None:
        refused = problem(service.post("/v1/steps", body), 422, "invalid")
        assert refused["errors"][0]["pointer"] == pointer

    def test_of_a_thousand_steps_are_taken(self, service: Service) -> None:
        create(service)
        assert codes(batch(service, *(item("s", n, **{"return": "none"}) for n in range(1, 1001)))) == [*range(1, 1001)]

    def test_in_another_form_are_refused(self, service: Service) -> None:
        sent: dict[str, Any] = {"content": b"x", "headers": {"content-type": "application/octet-stream"}}
        problem(service.post("/v1/steps", **sent), 415, "unsupported-media-type")
        wanted = {"content-type": "application/json", "accept": "text/html"}
        problem(service.post("/v1/steps", content=b'{"steps": []}', headers=wanted), 406, "not-acceptable")

    def test_that_are_no_json_or_too_large_are_refused_whole(self, serve: Serve) -> None:
        service = serve(max_body_bytes=2048)
        create(service)
        json_type = {"content-type": "application/json"}
        problem(service.post("/v1/steps", content=b'{"steps": [', headers=json_type), 400, "not-json")
        large = json.dumps({"steps": [item("s")] * 100}).encode()
        problem(service.post("/v1/steps", content=large, headers=json_type), 413, "too-large")
        whole = json.dumps({"steps": [item("s"), item("s", gradients=[float("nan"), 1.0])]}).encode()
        refused = problem(service.post("/v1/steps", content=whole, headers=json_type), 422, "non-finite")
        assert refused["errors"][0]["pointer"] == "/steps/1/gradients/0"
        assert shown(service)["step"] == 0

    def test_of_any_shape_never_end_in_an_internal_error(self, service: Service) -> None:
        create(service)
        for odd in (
            None,
            True,
            "s",
            [],
            {},
            {"session": None},
            {"session": ["s"]},
            {"session": "s"},
            {"session": "a/b"},
        ):
            (result,) = batch(service, odd)
            assert result["status"] in (404, 422), result
