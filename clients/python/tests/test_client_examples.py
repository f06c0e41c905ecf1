"""The examples: the network's mathematics, and the demo's training against a service in this process."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import math
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import httpx
import numpy as np
import pytest

import thalweg

service_main = pytest.importorskip("service.main")
service_settings = pytest.importorskip("service.settings")

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = ("network", "curves", "serving", "digits")  # each may import those before it
SMALL = (6, 5, 4, 3)


@pytest.fixture(scope="module")
def examples() -> Iterator[SimpleNamespace]:
    """The example modules by path; they import each other by name, as scripts do."""
    loaded: dict[str, ModuleType] = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in NAMES:
            spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
            loaded[name] = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, name, loaded[name])
            spec.loader.exec_module(loaded[name])
        yield SimpleNamespace(**loaded)


@pytest.fixture
def batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return rng.uniform(size=(7, SMALL[0])), rng.integers(0, SMALL[-1], 7)


# The network


def test_gradients_are_the_central_differences(examples, batch):
    params = examples.network.initialise(np.random.default_rng(2), SMALL)
    params = {name: array + 0.1 for name, array in params.items()}  # biases too, and most units at work
    _, gradients = examples.network.loss_and_gradients(params, *batch)
    h = 1e-6
    for name, array in params.items():
        for place in np.ndindex(array.shape):
            there = np.zeros_like(array)
            there[place] = h
            above, _ = examples.network.loss_and_gradients({**params, name: array + there}, *batch)
            below, _ = examples.network.loss_and_gradients({**params, name: array - there}, *batch)
            assert gradients[name][place] == pytest.approx((above - below) / (2 * h), rel=1e-6, abs=1e-9)


def test_the_layers_are_those_of_the_comparison(examples):
    params = examples.network.initialise(np.random.default_rng(1))
    assert {name: array.shape for name, array in params.items()} == {
        "W1": (64, 100), "b1": (100,), "W2": (100, 100), "b2": (100,), "W3": (100, 100), "b3": (100,),
        "W4": (100, 100), "b4": (100,), "W5": (100, 10), "b5": (10,),
    }  # fmt: skip


def test_weights_begin_at_the_scale_of_he(examples):
    params = examples.network.initialise(np.random.default_rng(1), (200, 300, 100))
    for layer, inputs in ((1, 200), (2, 300)):
        weights = params[f"W{layer}"]
        assert weights.std() == pytest.approx(math.sqrt(2 / inputs), rel=0.02)
        assert abs(weights.mean()) < 0.02 * weights.std() * math.sqrt(inputs)
        assert not params[f"b{layer}"].any()


def test_one_seed_is_one_network(examples):
    one, two, other = (examples.network.initialise(np.random.default_rng(seed), SMALL) for seed in (3, 3, 4))
    assert all((one[name] == two[name]).all() for name in one)
    assert (one["W1"] != other["W1"]).any()


def test_loss_of_even_scores(examples, batch):
    params = {name: 0 * array for name, array in examples.network.initialise(np.random.default_rng(1), SMALL).items()}
    loss, gradients = examples.network.loss_and_gradients(params, *batch)
    assert loss == pytest.approx(math.log(SMALL[-1]))
    assert list(gradients) == list(params)


def test_large_scores_do_not_overflow(examples, batch):
    params = examples.network.initialise(np.random.default_rng(1), SMALL)
    loss, gradients = examples.network.loss_and_gradients({name: 1e3 * array for name, array in params.items()}, *batch)
    assert math.isfinite(loss)
    assert all(np.isfinite(array).all() for array in gradients.values())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_keep_the_type(examples, batch, dtype):
    x, t = batch
    params = examples.network.initialise(np.random.default_rng(1), SMALL)
    params = {name: array.astype(dtype) for name, array in params.items()}
    _, gradients = examples.network.loss_and_gradients(params, x.astype(dtype), t)
    assert {array.dtype.name for array in gradients.values()} == {dtype}


def test_accuracy(examples, batch):
    x, _ = batch
    params = examples.network.initialise(np.random.default_rng(1), SMALL)
    found = examples.network.predict(params, x)
    assert examples.network.accuracy(params, x, found) == 1.0
    assert examples.network.accuracy(params, x, (found + 1) % SMALL[-1]) == 0.0


# The short examples, as they are called


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("descent", r"step 300  loss 0\.\d+\n.*\ndistance 0\.0\d+\n\Z"),
        ("workers", r"\A150 steps, loss \S+ to 0\.\d+\nthe workers hold the same bits: True\ndistance 0\.00\d+\n\Z"),
        (
            "streaming",
            r"\A1 on the way: 600 steps.* distance 0\.00\d+\n8 on the way: 600 steps.* distance 0\.00\d+\n\Z",
        ),
    ],
    ids=["descent", "workers", "streaming"],
)
def test_an_example_does_what_it_says(address, name, said):
    environment = {**os.environ, "THALWEG_URL": address, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(EXAMPLES / f"{name}.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(said, done.stdout), done.stdout


# The training, against the service


class InProcess(httpx.BaseTransport):
    """Carries requests of a blocking client to an application in this process; loses the answers that are named."""

    def __init__(self, lost: frozenset[int] = frozenset()) -> None:
        settings = service_settings.Settings(store="memory", log_level="critical")
        self.inner = httpx.ASGITransport(app=service_main.create_app(settings))
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.lost, self.carried = lost, 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        answer = asyncio.run_coroutine_threadsafe(self._carry(request), self.loop).result(20)
        self.carried += 1
        if self.carried in self.lost:
            raise httpx.ReadError("cut off", request=request)
        return answer

    async def _carry(self, request: httpx.Request) -> httpx.Response:
        answer = await self.inner.handle_async_request(request)
        return httpx.Response(answer.status_code, headers=answer.headers, content=await answer.aread())

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(20)
        self.loop.close()


@pytest.fixture(scope="module")
def problem(examples):
    """Ten kinds of noisy images, on a network small enough for a test."""
    rng = np.random.default_rng(0)
    patterns, t = rng.uniform(size=(10, 64)), np.arange(200) % 10
    x = (patterns[t] + rng.normal(0, 0.1, (200, 64))).astype(examples.digits.DTYPE)
    training, test = examples.digits.Digits(x[:150], t[:150]), examples.digits.Digits(x[150:], t[150:])
    start = examples.network.initialise(rng, (64, 12, 10))
    return examples.digits.Problem(training, test, start, np.random.SeedSequence(3), 30)


def trained(examples, problem, optimizer: str, lost: frozenset[int] = frozenset()):
    """The losses, the steps and the parameters of one run, and the errors that it met."""
    errors: list[thalweg.ThalwegError] = []
    with thalweg.Client(transport=InProcess(lost), retries=0) as client:
        session = examples.digits.create(client, optimizer, problem)
        steps = list(examples.digits.train(session, problem, problem.iterations, errors.append))
        losses = [step.loss for step in session.history()]
        return losses, steps, session.params, errors


def by_hand(examples, problem, update):
    """The same run without a service: `update` changes one array of parameters, given its state and its gradient."""
    rng = np.random.default_rng(problem.batches)
    params = {name: array.astype(examples.digits.DTYPE) for name, array in problem.start.items()}
    state = {name: np.zeros_like(array) for name, array in params.items()}
    losses = []
    for _ in range(problem.iterations):
        rows = rng.choice(len(problem.training.t), examples.digits.BATCH)
        loss, gradients = examples.network.loss_and_gradients(
            params, problem.training.x[rows], problem.training.t[rows]
        )
        losses.append(loss)
        for name, array in params.items():
            update(array, state[name], gradients[name])
    return losses, params


def momentum(p, v, g):
    v[:] = np.float32(0.9) * v - np.float32(0.01) * g
    p += v


def adagrad(p, h, g):
    h += g * g
    p -= np.float32(0.01) * g / (np.sqrt(h) + np.float32(1e-7))


@pytest.mark.parametrize(("optimizer", "update"), [("Momentum", momentum), ("AdaGrad", adagrad)])
def test_the_service_takes_the_steps_of_the_book(examples, problem, optimizer, update):
    losses, steps, params, errors = trained(examples, problem, optimizer)
    expected_losses, expected = by_hand(examples, problem, update)
    assert not errors
    assert [step.step for step in steps] == list(range(1, problem.iterations + 1))
    assert losses[-1] < 0.8 * losses[0]
    assert losses == expected_losses
    for name, array in params.items():
        assert array.dtype == examples.digits.DTYPE
        np.testing.assert_array_equal(array, expected[name])


def test_lost_answers_change_no_bit(examples, problem):
    quiet_losses, _, quiet, _ = trained(examples, problem, "Adam")
    losses, steps, params, errors = trained(examples, problem, "Adam", lost=frozenset({2, 7, 20}))
    assert [type(error) for error in errors] == [thalweg.ConnectionFailed] * 3
    assert sum(step.replayed for step in steps) == 3
    assert losses == quiet_losses
    assert examples.digits.digest(params) == examples.digits.digest(quiet)


def test_a_worker_gives_up_where_the_client_did(examples):
    with pytest.raises(thalweg.ConnectionFailed):
        examples.digits.give_up(thalweg.ConnectionFailed("No answer."))


def test_every_optimizer_is_one_of_the_service(examples, problem):
    with thalweg.Client(transport=InProcess()) as client:
        for name, specification in examples.digits.OPTIMIZERS.items():
            resolved = examples.digits.create(client, name, problem).info["optimizer"]
            assert specification.items() <= resolved.items()


def test_a_killed_service_goes_on_where_it_was(examples, problem, tmp_path, monkeypatch, capsys):
    """The demo's own kill, with a service in a process of its own."""
    monkeypatch.setenv("no_proxy", "")  # given back at the end
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setattr(examples.digits, "one_thread", contextlib.nullcontext)
    _, _, reference, _ = trained(examples, problem, "Adam")
    with examples.serving.Service(tmp_path) as service:
        assert examples.digits.same_bits(service, problem, reference) == []
    assert service.process.returncode is not None
    printed = capsys.readouterr().out
    assert "killed" in printed
    assert "restarted" in printed
    assert "bit-identical" in printed


# What is shown


def test_check(examples):
    falling, rising = [1.0] * 90 + [0.1] * 10, [0.1] * 90 + [1.0] * 10
    check = examples.digits.check
    assert check({"SGD": falling, "Adam": falling}, {"SGD": 0.2, "Adam": 0.95}) == []
    assert len(check({"SGD": rising, "Adam": falling}, {"SGD": 0.2, "Adam": 0.95})) == 1
    assert len(check({"SGD": [math.nan] * 100, "Adam": falling}, {"SGD": 0.2, "Adam": 0.85})) == 2


def test_rows_of_the_table_line_up(examples):
    digits = examples.digits
    rows = [
        digits.line("iteration", ["SGD", "Momentum"]),
        digits.line("2,000", [digits.short(2.5), digits.short(1e-7)]),
    ]
    assert len({len(row) for row in rows}) == 1
    assert rows[1].split() == ["2,000", "2.5000", "1.0e-07"]


def test_smoothing(examples):
    smooth = examples.curves.smooth
    np.testing.assert_allclose(smooth([3.0] * 20, 7), 3.0)
    np.testing.assert_allclose(smooth(range(50), 7)[3:-3], np.arange(50)[3:-3])
    assert len(smooth(range(20), 19)) == 20


def test_the_picture_is_a_png(examples, tmp_path):
    file = tmp_path / "curves.png"
    losses = {name: [1.0 / n for n in range(1, 31)] for name in examples.digits.OPTIMIZERS}
    examples.curves.draw(losses, dict.fromkeys(losses, 0.5), file)
    assert file.read_bytes().startswith(b"\x89PNG")
