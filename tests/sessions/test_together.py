"""Steps taken together: what is answered and what is written is what it would be for each alone."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import ThalwegError
from service.sessions.steps import Stepped
from service.stores.base import StoreError
from service.wire.steps import StepRequest, asked
from tests.conftest import Run, Serve, Service
from tests.sessions.calls import ADAM, MOMENTUM, create, gradient, shown, step

NOW = 1_760_000_000.0
LION = {"name": "lion", "learning_rate": {"schedule": "exponential", "initial": 0.1, "gamma": 0.9}}
SHAPES: dict[str, Any] = {
    "vector": [1.0, 2.0, 3.0],
    "named": {"w": [1.0, 2.0], "b": [3.0]},
    "matrix": {"w": [[1.0, 2.0]], "b": 3.0},
}
KINDS: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": ADAM},
    "momentum": {"optimizer": MOMENTUM},
    "scheduled": {"optimizer": LION},
    "float32": {"optimizer": ADAM, "dtype": "float32"},
    "large in all": {"optimizer": {"name": "lamb", "learning_rate": 0.1}},
    "clipped": {"optimizer": ADAM, "transforms": [{"name": "clip_by_global_norm", "max_norm": 1.0}]},
    "gathering": {"optimizer": ADAM, "transforms": [{"name": "accumulate", "steps": 2}]},
    "skipping": {"optimizer": ADAM, "non_finite": "skip"},
    "mortal": {"optimizer": ADAM, "ttl_seconds": 5},
    "relaxed": {"optimizer": ADAM, "durability": "every:2"},
}
GRADIENTS: dict[str, Any] = {
    "plain": lambda n: gradient(n, 3),
    "zeros": lambda n: [0.0, -0.0, 0.0],
    "whole numbers": lambda n: [1, 2, -3],
    "tiny": lambda n: [1e-200, 5e-324, 0.0],
    "huge": lambda n: [1e200, -1e200, 1e160],
    "too large": lambda n: [1e308, 1e308, 1e308],
    "past a long": lambda n: [10**30, 1.0, 1.0],
    "null": lambda n: [1.0, None, 1.0],
    "short": lambda n: [1.0, 2.0],
    "words": lambda n: ["1.0", 2.0, True],
}


def shaped(numbers: list[Any], shape: str) -> Any:
    """The numbers in the shape of a session's parameters."""
    if shape == "vector":
        return numbers
    if shape == "named":
        return {"w": numbers[:2], "b": numbers[2:]}
    return {"w": [numbers[:2]], "b": numbers[2] if len(numbers) == 3 else []}


ITEMS = st.lists(
    st.tuples(
        st.sampled_from([*KINDS]),
        st.sampled_from([*SHAPES]),
        st.lists(
            st.tuples(
                st.sampled_from([*GRADIENTS, *["plain"] * 8]),
                st.sampled_from([None, "right", "right", "stale", "ahead"]),
                st.sampled_from(["params", "updates", "none"]),
                st.sampled_from([None, 0.5]),
            ),
            min_size=1,
            max_size=3,
        ),
    ),
    min_size=1,
    max_size=12,
)


def told(result: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """An answer or a problem, without what differs from request to request."""
    shown = {k: v for k, v in result.items() if k not in ("request_id", "instance", "retry_after")}
    for place in shown.get("errors", ()):
        place["pointer"] = place["pointer"].removeprefix(prefix)
    return shown


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(items=ITEMS)
def test_is_as_alone(serve: Serve, items: list[Any]) -> None:
    together, alone = (serve(now=lambda: NOW) for _ in range(2))
    for service in (together, alone):
        for i, (kind, shape, _) in enumerate(items):
            create(service, f"s{i}", params=SHAPES[shape], **KINDS[kind])
    for n in range(3):
        steps = []
        for i, (_, shape, wanted) in enumerate(items):
            if n < len(wanted):
                numbers, number, returning, loss = wanted[n]
                taken = alone.get(f"/v1/sessions/s{i}").json()["step"]
                step = {None: None, "right": taken + 1, "stale": max(taken, 1), "ahead": taken + 5}[number]
                body = {"gradients": shaped(GRADIENTS[numbers](i), shape), "return": returning}
                body |= {} if step is None else {"step": step}
                steps.append({"session": f"s{i}", **body, **({} if loss is None else {"loss": loss})})
        results = together.post("/v1/steps", {"steps": steps}).json()["results"]
        for k, (step, result) in enumerate(zip(steps, results, strict=True)):
            id = step.pop("session")
            assert told(result, f"/steps/{k}") == told(alone.post(f"/v1/sessions/{id}/steps", step).json())
    for i in range(len(items)):
        assert together.store.rows(f"s{i}", 0, 9) == alone.store.rows(f"s{i}", 0, 9)
        assert shown(together, f"s{i}") == shown(alone, f"s{i}")


def of(service: Service, *ids: str, step: int) -> list[tuple[str, StepRequest]]:
    """A step for each of these sessions, as the engine is asked for it."""
    return [(id, asked({"gradients": gradient(step), "step": step})) for id in ids]


def stepped(outcomes: list[Stepped | ThalwegError | None]) -> list[Any]:
    """What became of each: its step, its problem's code, or None."""
    return [o.step if isinstance(o, Stepped) else o and o.code for o in outcomes]


def filled(serve: Serve, kind: str, count: int) -> Service:
    service = serve(kind=kind)
    for i in range(count):
        create(service, f"s{i}")
    return service


class TestHolds:
    def test_a_session_that_is_busy_is_left_to_be_taken_by_itself(self, serve: Serve, kind: str, run: Run) -> None:
        service = filled(serve, kind, 3)

        async def both() -> None:
            first = service.engine.begin(of(service, "s0", "s1", step=1))
            second = service.engine.begin(of(service, "s1", "s2", "s2", "nobody", step=1))
            assert first.written is not None
            assert second.written is not None
            await asyncio.wait([first.written, second.written])
            assert stepped(first.outcomes) == [1, 1]
            assert stepped(second.outcomes) == [None, 1, None, None]

        run(both())
        assert [service.get(f"/v1/sessions/s{i}").json()["step"] for i in range(3)] == [1, 1, 1]

    def test_a_session_whose_row_somebody_else_wrote_is_looked_at_again(
        self, serve: Serve, kind: str, run: Run
    ) -> None:
        service = filled(serve, kind, 2)
        other = serve(store=service.store)
        shown(other, "s0")
        shown(service, "s0")
        step(other, gradient(1), 1, "s0").raise_for_status()
        results = service.post("/v1/steps", {"steps": [
            {"session": "s0", "gradients": gradient(1), "step": 1},
            {"session": "s1", "gradients": gradient(1), "step": 1},
        ]}).json()["results"]  # fmt: skip
        assert [(r["step"], r["replayed"]) for r in results] == [(1, True), (1, False)]
        assert len(service.store.rows("s0", 0, 9)) == 1

    def test_nothing_is_changed_by_a_write_that_fails(self, serve: Serve, run: Run) -> None:
        service = filled(serve, "sqlite", 2)
        before = shown(service, "s0")

        async def fail() -> None:
            with mock.patch.object(service.store, "append_all", side_effect=lambda _: _failing()):
                group = service.engine.begin(of(service, "s0", "s1", step=1))
                assert group.written is not None
                await asyncio.wait([group.written])
            assert stepped(group.outcomes) == ["unavailable", "unavailable"]

        run(fail())
        assert shown(service, "s0") == before
        assert step(service, gradient(1), 1, "s0").json()["replayed"] is False

    def test_a_mistake_after_the_write_takes_no_step_twice(self, serve: Serve, kind: str, run: Run) -> None:
        service = filled(serve, kind, 2)

        async def fail() -> None:
            loop = asyncio.get_running_loop()
            handler = loop.get_exception_handler()
            loop.set_exception_handler(lambda *_: None)
            with mock.patch.object(service.engine._writer, "snapshot_if_due", side_effect=MemoryError):
                group = service.engine.begin(of(service, "s0", "s1", step=1))
                assert group.written is not None
                await asyncio.wait([group.written])
            loop.set_exception_handler(handler)
            assert stepped(group.outcomes) == ["unavailable", "unavailable"]

        run(fail())
        for id in ("s0", "s1"):
            assert step(service, gradient(1), 1, id).json()["replayed"] is True
            assert len(service.store.rows(id, 0, 9)) == 1

    def test_a_mistake_in_here_leaves_no_session_held(self, serve: Serve, run: Run) -> None:
        service = filled(serve, "memory", 3)

        async def fail() -> None:
            with (
                mock.patch("service.sessions.together.recorded", side_effect=ZeroDivisionError),
                pytest.raises(ZeroDivisionError),
            ):
                service.engine.begin(of(service, "s0", "s1", "s2", step=1))

        run(fail())
        assert [step(service, gradient(1), 1, f"s{i}").status_code for i in range(3)] == [200] * 3

    def test_states_do_not_hold_on_to_each_other(self, serve: Serve, run: Run) -> None:
        """An idle session must not keep the memory of all that once stepped with it."""
        service = filled(serve, "memory", 3)

        async def take() -> None:
            group = service.engine.begin(of(service, "s0", "s1", "s2", step=1))
            assert group.written is not None
            await asyncio.wait([group.written])

        run(take())
        for held in service.engine._live._held.values():
            assert all(array.base is None for array in (held.state.params, *held.state.slots))


async def _fail() -> list[StoreError | None]:
    raise OSError("the disk is gone")


def _failing() -> asyncio.Future[list[StoreError | None]]:
    return asyncio.ensure_future(_fail())
