"""Steps with sparse gradients, and steps that need the loss, from outside and through the log."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.optim.optimizer import build
from service.optim.state import State
from service.optim.tensors import DTYPES, Layout
from service.sessions import log
from service.sessions.aggregation import Part, Plan, Round
from service.wire.trees import flatten
from tests.conftest import Serve, Service
from tests.sessions.calls import contents, create, params, pointers, problem, shown, step, took

EMBEDDING = [[0.1 * i + 0.01 * j for j in range(3)] for i in range(50)]
PARAMS = {"embedding": EMBEDDING, "bias": [1.0, 2.0]}
LAYOUT = Layout(("embedding", "bias"), ((50, 3), (2,)), DTYPES["float64"])
SPARSE = {"like": "torch.optim.SparseAdam", "lr": 0.1}


def rows(number: int) -> dict[str, Any]:
    """What a test sends as step `number`: three rows, one of them twice."""
    random = np.random.default_rng(number)
    first, second = random.choice(50, 2, replace=False).tolist()
    indices, values = [first, second, first], random.normal(size=(3, 3)).tolist()
    return {"embedding": {"indices": indices, "values": values}, "bias": random.normal(size=2).tolist()}


def dense(tree: dict[str, Any], dtype: str = "float64") -> tuple[np.ndarray, np.ndarray]:
    """The flat gradient, summed in its own precision as torch does, and the rows that it has."""
    table = np.zeros((50, 3), dtype)
    for i, row in zip(tree["embedding"]["indices"], tree["embedding"]["values"], strict=True):
        table[i] += np.array(row, dtype)
    return np.concatenate([table.ravel(), np.array(tree["bias"], dtype)]), np.unique(tree["embedding"]["indices"])


def flat(tree: Any) -> bytes:
    return np.concatenate([np.ravel(tree["embedding"]), tree["bias"]]).tobytes()


@pytest.mark.parametrize(
    "optimizer",
    [SPARSE, {"like": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9}, {"like": "torch.optim.Adagrad", "lr": 0.1}],
    ids=lambda o: o["like"],
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_session_of_sparse_steps_is_the_fold_of_them(
    serve: Serve, kind: str, optimizer: dict[str, Any], dtype: str
) -> None:
    """Bit for bit through evictions, snapshots, a restart, retries and reading back."""
    layout = Layout(LAYOUT.names, LAYOUT.shapes, DTYPES[dtype])
    subject = build(optimizer, layout)
    state: State = subject.init(np.concatenate([np.ravel(EMBEDDING), PARAMS["bias"]]).astype(dtype))
    service = serve(kind=kind, snapshot_every=4, cache_bytes=0)
    create(service, optimizer=optimizer, params=PARAMS, dtype=dtype)
    create(service, "other")
    expected = [state.params]
    for n in range(1, 11):
        gradient, there = dense(rows(n), dtype)
        state = subject.step(state, gradient, (), None, {0: there}).state
        expected.append(state.params)
        answer = took(service, rows(n), n)
        assert np.frombuffer(flat(answer["params"])).astype(dtype).tobytes() == state.params.tobytes()
        if n % 3 == 0:
            shown(service, "other")
        if n == 6 and kind == "sqlite":
            service.stop()
            service = serve(kind=kind, snapshot_every=4, cache_bytes=0)
    for n, then in enumerate(expected):
        assert np.frombuffer(flat(params(service, n))).astype(dtype).tobytes() == then.tobytes()
    for n in range(1, 11):
        assert took(service, rows(n), n)["replayed"] is True


def test_a_row_is_left_alone_by_the_lazy_rule_and_moved_by_the_other() -> None:
    gradient, there = dense(rows(1))
    moved = {}
    for name in ("sparse_adam", "sgd"):
        subject = build({"name": name, **({"momentum": 0.9} if name == "sgd" else {})}, LAYOUT)
        first = subject.step(subject.init(np.zeros(152)), gradient, (), None, {0: there}).state
        second = subject.step(first, np.zeros(152), (), None, {0: np.array([], np.int64)}).state
        moved[name] = second.params[:150].tobytes() != first.params[:150].tobytes()
    assert moved == {"sparse_adam": False, "sgd": True}


def test_the_log_holds_only_the_rows(service: Service) -> None:
    create(service, optimizer=SPARSE, params=PARAMS)
    took(service, rows(1), 1)
    payload = contents(service.store)[1][0].payload
    assert payload is not None
    assert len(payload) == 8 * (2 + 2 * 3 + 2)  # two row numbers, their rows, and the bias


def test_the_same_rows_in_another_order_are_the_same_step(service: Service) -> None:
    create(service, optimizer=SPARSE, params=PARAMS)
    one = {"embedding": {"indices": [7, 3], "values": [[1, 2, 3], [4, 5, 6]]}}
    other = {"embedding": {"indices": [3, 7], "values": [[4, 5, 6], [1, 2, 3]]}}
    first = took(service, one, 1)
    assert took(service, other, 1)["params"] == first["params"]


def test_a_row_of_zeros_and_no_row_are_not_the_same_step(service: Service) -> None:
    create(service, optimizer=SPARSE, params=PARAMS)
    took(service, {"embedding": {"indices": [7, 3], "values": [[1, 2, 3], [0, 0, 0]]}}, 1)
    without = {"embedding": {"indices": [7], "values": [[1, 2, 3]]}}
    problem(step(service, without, 1), 422, "step-reused")
    full = {"embedding": dense({**without, "bias": [0.0, 0.0]})[0][:150].reshape(50, 3).tolist()}
    problem(step(service, full, 1), 422, "step-reused")


def test_rows_that_are_not_finite_are_handled_as_the_session_says(service: Service) -> None:
    bad = {"embedding": {"indices": [7], "values": [[1.0, None, 3.0]]}}
    create(service, optimizer=SPARSE, params=PARAMS)
    assert pointers(problem(step(service, bad, 1), 422, "non-finite")) == ["/gradients/embedding/values"]
    create(service, "zeroing", optimizer=SPARSE, params=PARAMS, non_finite="zero")
    answer = took(service, bad, 1, "zeroing")
    assert answer["zeroed"] == 1
    assert answer["params"]["embedding"][7][1] == EMBEDDING[7][1]
    assert took(service, bad, 1, "zeroing")["replayed"] is True


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        ({"name": "adam"}, "adam takes no sparse gradients"),
        ({"like": "optax.sgd", "learning_rate": 0.1}, "sgd takes no sparse gradients"),
        ({"like": "torch.optim.SGD", "weight_decay": 0.1}, "where there is weight decay"),
        ({"like": "torch.optim.Adagrad", "weight_decay": 0.1}, "where there is weight decay"),
    ],
)
def test_what_takes_no_rows_says_so_and_changes_nothing(
    service: Service, optimizer: dict[str, Any], words: str
) -> None:
    create(service, optimizer=optimizer, params=PARAMS)
    refused = problem(step(service, rows(1), 1), 422, "invalid")
    assert words in refused["detail"]
    assert pointers(refused) == ["/gradients"]
    assert shown(service)["step"] == 0


layouts = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3), min_size=1, max_size=3)


@given(layouts, st.data(), st.sampled_from(["float64", "float32"]))
def test_a_payload_is_read_back_as_it_was_written(shapes: list[list[int]], data: st.DataObject, dtype: str) -> None:
    layout = Layout(tuple(map(str, range(len(shapes)))), tuple(map(tuple, shapes)), DTYPES[dtype])
    values = np.arange(1, layout.size + 1).astype(dtype)
    found = {}
    for i, shape in enumerate(shapes):
        if data.draw(st.booleans()):
            chosen = data.draw(st.sets(st.integers(0, shape[0] - 1))) if shape[0] else set()
            found[i] = np.array(sorted(chosen), np.int64)
            part = values[layout.slices[i]].reshape(shape)
            part[sorted(set(range(shape[0])) - chosen)] = 0
    payload = log.payload(values, layout, found)
    again, read = log.gradient(payload, layout, [(i, len(those)) for i, those in found.items()])
    assert again.tobytes() == values.tobytes()
    assert {i: those.tolist() for i, those in read.items()} == {i: those.tolist() for i, those in found.items()}


def test_the_parts_of_workers_are_one_sparse_gradient() -> None:
    trees = [
        {"embedding": {"indices": [1], "values": [[1.0, 1.0, 1.0]]}, "bias": {"indices": [0], "values": [1.0]}},
        {"embedding": {"indices": [4, 1], "values": [[2.0, 2.0, 2.0], [3.0, 3.0, 3.0]]}, "bias": [1.0, 1.0]},
        {"bias": None},
    ]

    async def combined() -> Any:
        round = Round(1, Plan(3, "sum", 1.0, 3))
        for name, tree in enumerate(trees):
            round.parts[str(name)] = Part(flatten(tree, LAYOUT, "", sparse=True), None, "")
        return round.combined()[0]

    one = asyncio.run(combined())
    assert {i: those.tolist() for i, those in one.rows.items()} == {0: [1, 4]}
    assert one.values[3:6].tolist() == [4.0, 4.0, 4.0]
    assert one.values[150:].tolist() == [2.0, 1.0]


# The loss


@pytest.mark.parametrize("name", ["momo", "momo_adam", "polyak_sgd"])
def test_a_step_without_the_loss_that_it_needs_is_refused_at_the_loss(service: Service, name: str) -> None:
    create(service, optimizer={"name": name})
    refused = problem(step(service, [0.5, -0.5], 1), 422, "invalid")
    assert pointers(refused) == ["/loss"]
    assert shown(service)["step"] == 0
    assert took(service, [0.5, -0.5], 1, loss=2.0)["step"] == 1


@pytest.mark.parametrize("name", ["momo", "momo_adam", "polyak_sgd"])
def test_the_losses_are_in_the_log_that_is_replayed(serve: Serve, kind: str, name: str) -> None:
    service = serve(kind=kind, snapshot_every=1000, cache_bytes=0)
    create(service, optimizer={"name": name})
    create(service, "other")
    answers = []
    for n in range(1, 8):
        answers.append(took(service, [0.5 / n, -0.5], n, loss=2.0 / n)["params"])
        shown(service, "other")
    assert [params(service, n) for n in range(1, 8)] == answers
    problem(step(service, [0.5, -0.5], 1, loss=1.0), 422, "step-reused")
