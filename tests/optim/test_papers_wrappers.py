"""Lookahead, schedule-free learning and wrapping in general: the authors' pseudo-code, line by line, and invariants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from service.errors import Invalid
from service.optim.optimizer import Optimizer, build
from service.optim.state import State
from service.optim.tensors import DTYPES, Array, single
from tests.optim.table import gradients, layout, run, same, start

SGD = {"name": "sgd", "learning_rate": 0.05}
ADAM = {"name": "adam", "learning_rate": 0.05}
RMS = {**ADAM, "beta1": 0.0}
FALLING = {"schedule": "exponential", "initial": 0.1, "gamma": 0.9}

Path = Iterator[tuple[Array, Array]]  # the parameters to train with and to evaluate with, after each step


def paths(optimizer: Optimizer, rows: list[Array]) -> Path:
    state = optimizer.init(start())
    for row in rows:
        state = optimizer.step(state, row).state
        yield state.params, optimizer.view(state, "eval")


def agree(subject: Any, transcription: Path, rows: list[Array]) -> None:
    for (train, seen), (p, x) in zip(paths(build(subject, layout()), rows), transcription, strict=True):
        assert train == pytest.approx(p, rel=1e-12, abs=1e-13)
        assert seen == pytest.approx(x, rel=1e-11, abs=1e-12)


# The Road Less Scheduled, Algorithm 1, with x, y and z all kept


def schedule_free_sgd(rows: list[Array], lr: float, beta: float, decay: float, warmup: int, r: float) -> Path:
    x = y = z = start()
    total = 0.0
    for t, g in enumerate(rows, 1):
        gamma = lr * min(1.0, t / warmup) if warmup else lr
        g = g + decay * y
        z = z - gamma * g
        total += t**r * gamma**2
        c = t**r * gamma**2 / total
        x = (1 - c) * x + c * z
        y = (1 - beta) * z + beta * x
        yield y, x


def schedule_free_adamw(
    rows: list[Array], lr: float, beta: float, beta2: float, decay: float, warmup: int, power: float
) -> Path:
    x = y = z = start()
    v, total, largest = 0 * x, 0.0, 0.0
    for t, g in enumerate(rows, 1):
        gamma = lr * min(1.0, t / warmup) if warmup else lr
        v = beta2 * v + (1 - beta2) * g**2
        z = z - gamma * (g / (np.sqrt(v / (1 - beta2**t)) + 1e-8) + decay * y)
        largest = max(largest, gamma)
        total += largest**power
        c = largest**power / total
        x = (1 - c) * x + c * z
        y = (1 - beta) * z + beta * x
        yield y, x


@pytest.mark.parametrize(("decay", "warmup", "r"), [(0.0, 0, 0.0), (0.1, 6, 0.0), (0.05, 4, 1.5)])
def test_schedule_free_sgd_is_algorithm_1(decay: float, warmup: int, r: float) -> None:
    rows = gradients(40)
    subject = {"name": "schedule_free_sgd", "learning_rate": 0.02, "weight_decay": decay, "warmup_steps": warmup}
    agree({**subject, "time_power": r}, schedule_free_sgd(rows, 0.02, 0.9, decay, warmup, r), rows)


@pytest.mark.parametrize(("decay", "warmup", "power"), [(0.0, 0, 2.0), (0.1, 6, 2.0), (0.05, 4, 0.5)])
def test_schedule_free_adamw_is_algorithm_1_with_adams_norm(decay: float, warmup: int, power: float) -> None:
    rows = gradients(40)
    subject = {"name": "schedule_free_adamw", "learning_rate": 0.02, "weight_decay": decay, "warmup_steps": warmup}
    given = {**subject, "weight_power": power, "beta1": 0.8, "beta2": 0.95}
    agree(given, schedule_free_adamw(rows, 0.02, 0.8, 0.95, decay, warmup, power), rows)


def test_the_wrapper_around_descent_is_the_ready_made_one() -> None:
    rows = gradients(30)
    for dialect in ("paper", "optax"):
        rate = {"learning_rate": 0.05} if dialect == "optax" else {}
        wrapped = {"name": "schedule_free", "dialect": dialect, **rate, "optimizer": {**SGD, "dialect": dialect}}
        made = {"name": "schedule_free_sgd", "dialect": dialect, "learning_rate": 0.05}
        ones, others = paths(build(wrapped, layout()), rows), paths(build(made, layout()), rows)
        for one, other in zip(ones, others, strict=True):
            assert one[0] == pytest.approx(other[0], rel=1e-12, abs=1e-13)
            assert one[1] == pytest.approx(other[1], rel=1e-12, abs=1e-12)


def test_with_even_weights_x_is_the_mean_of_all_z() -> None:
    """And at β₁ = 1 the gradients are taken there: Polyak averaging. The Keras form weighs so whatever the rate."""
    rows = gradients(12)
    z, seen = start(), []
    for row in rows:
        z = z - 0.05 * row
        seen.append(z)
    state = run(build({"name": "schedule_free_sgd", "learning_rate": 0.05, "beta1": 1.0}, layout()), rows)
    assert state.params == pytest.approx(np.mean(seen, axis=0), rel=1e-12, abs=1e-13)
    rate = {"schedule": "exponential", "initial": 0.1, "gamma": 0.7}
    subject = build({"name": "schedule_free_adamw", "dialect": "keras", "learning_rate": rate}, layout())
    state, kept = subject.init(start()), []
    for row in rows:
        state = subject.step(state, row).state
        kept.append(state.slots[0])
    assert subject.view(state, "eval") == pytest.approx(np.mean(kept, axis=0), rel=1e-11, abs=1e-12)


def test_optax_weighs_the_first_step_of_a_warmup_which_does_not_move() -> None:
    """The bug of the reference: its weight is of the next step's rate, so that x stays at the start for longer."""
    rows = gradients(2)
    given = {"learning_rate": 0.1, "warmup_steps": 4}
    optax = build({"name": "schedule_free_sgd", "dialect": "optax", **given}, layout())
    first = run(optax, rows[:1])
    assert first.params == pytest.approx(start(), rel=1e-14)
    assert first.slots[1].tolist() == pytest.approx([0.025**2] * 3)
    second = run(optax, rows)
    z = start() - 0.025 * rows[1]
    c = 0.05**2 / (0.025**2 + 0.05**2)
    assert optax.view(second, "eval") == pytest.approx((1 - c) * start() + c * z, rel=1e-12, abs=1e-13)


def test_a_schedule_is_read_one_step_ahead_for_the_weight_alone() -> None:
    subject = build({"name": "schedule_free_sgd", "dialect": "optax", "learning_rate": FALLING}, layout())
    state = run(subject, gradients(1))
    assert state.slots[0] == pytest.approx(start() - 0.1 * gradients(1)[0], rel=1e-13)
    assert state.slots[2].tolist() == pytest.approx([0.09] * 3)


def test_groups_have_their_own_rates_weights_and_averages() -> None:
    groups = [{"match": "layer.*", "learning_rate": 0.2, "beta1": 0.5}]
    for dialect in ("paper", "optax", "keras"):
        name = "schedule_free_adamw"
        plain, changed = {"name": name, "dialect": dialect}, {"name": name, "dialect": dialect, **groups[0]}
        changed.pop("match")
        grouped = build(plain, layout(), groups=groups)
        state = run(grouped, gradients(9))
        for specification, where in ((changed, slice(0, 17)), (plain, slice(17, 18))):
            alone = build(specification, layout())
            other = run(alone, gradients(9))
            assert state.params[where].tobytes() == other.params[where].tobytes()
            assert grouped.view(state, "eval")[where] == pytest.approx(alone.view(other, "eval")[where], rel=1e-14)


def test_what_is_frozen_is_evaluated_as_it_is() -> None:
    for specification in ({"name": "schedule_free_sgd"}, {"name": "schedule_free", "optimizer": RMS}):
        subject = build(specification, layout(), groups=[{"match": "layer.bias", "frozen": True}])
        state = run(subject, gradients(5))
        assert state.params[12:17].tobytes() == start()[12:17].tobytes()
        assert subject.view(state, "eval")[12:17].tobytes() == start()[12:17].tobytes()


# Lookahead, Algorithm 1: two loops


def lookahead(rows: list[Array], k: int, alpha: float) -> Path:
    slow, m, v, t = start(), np.zeros(18), np.zeros(18), 0
    for first in range(0, len(rows), k):
        fast = slow
        for i, g in enumerate(rows[first : first + k], 1):
            t += 1
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            fast = fast - 0.05 * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            if i == k:
                slow = slow + alpha * (fast - slow)
                fast = slow
            yield fast, slow


@pytest.mark.parametrize(("k", "alpha"), [(5, 0.8), (3, 0.5), (1, 0.25)])
@pytest.mark.parametrize("dialect", ["paper", "optax"])
def test_lookahead_is_algorithm_1(dialect: str, k: int, alpha: float) -> None:
    rows = gradients(24)
    subject = {"name": "lookahead", "dialect": dialect, "optimizer": ADAM, "sync_period": k, "slow_step_size": alpha}
    agree(subject, lookahead(rows, k, alpha), rows)


def test_all_the_way_to_the_fast_ones_is_the_optimizer_itself() -> None:
    rows = gradients(12)
    subject = {"name": "lookahead", "optimizer": ADAM, "sync_period": 4, "slow_step_size": 1.0}
    state, plain = run(build(subject, layout()), rows), run(build(ADAM, layout()), rows)
    assert state.params == pytest.approx(plain.params, rel=1e-14)


def test_a_reset_starts_the_wrapped_optimizer_anew() -> None:
    rows = gradients(6)
    subject = {"name": "lookahead", "optimizer": ADAM, "sync_period": 3, "slow_step_size": 0.5, "reset_state": True}
    state = run(build(subject, layout()), rows[:3])
    again = build(ADAM, layout())
    inner, other = again.init(state.params), state
    for row in rows[3:5]:
        inner = again.step(inner, row).state
        other = build(subject, layout()).step(other, row).state
        assert inner.params.tobytes() == other.params.tobytes()


# Wrapping


WRAPPERS: dict[str, dict[str, Any]] = {
    "lookahead": {"name": "lookahead", "sync_period": 2},
    "schedule_free": {"name": "schedule_free"},
    "mechanic": {"name": "mechanic"},
    "sam": {"name": "sam"},
}
EVERY_WRAPPER = pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
INNER = (
    {"name": "sgd", "momentum": 0.9, "learning_rate": FALLING},
    {"name": "adam", "amsgrad": True, "weight_decay": 0.1},
    {"name": "rprop"},
    {"name": "lamb"},
    {"name": "cocob"},
    {"name": "lookahead", "optimizer": {"name": "schedule_free_sgd"}},
    {"like": "torch.optim.AdamW", "lr": 0.01},
    {"like": "keras.optimizers.Nadam"},
)


@EVERY_WRAPPER
@pytest.mark.parametrize("inner", INNER, ids=lambda inner: inner.get("name", inner.get("like")))
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_wrapper_takes_any_optimizer_and_keeps_its_state(wrapper: Any, inner: Any, dtype: str) -> None:
    subject = build({**wrapper, "optimizer": inner}, layout(dtype))
    rows = gradients(8, dtype)
    whole = run(subject, rows)
    half = run(subject, rows[:3])
    stored = State(half.step, half.params.copy(), tuple(slot.copy() for slot in half.slots), half.counts)
    assert same(run(build(subject.as_json()["optimizer"], layout(dtype)), rows[3:], stored), whole)
    assert whole.params.dtype == DTYPES[dtype]
    assert any(name.startswith("optimizer/") for name in subject.slot_names)
    assert np.isfinite(whole.params).all()
    assert subject.view(whole, "eval").dtype == DTYPES[dtype]


@EVERY_WRAPPER
def test_groups_are_the_wrapped_optimizers(wrapper: Any) -> None:
    """A rate of zero for one tensor: whatever the wrapper does, it stays."""
    subject = build({**wrapper, "optimizer": SGD}, layout(), groups=[{"match": "scale", "learning_rate": 0.0}])
    state = run(subject, gradients(8))
    moved = 1e-12 if wrapper["name"] != "sam" else 0.06
    assert state.params[17] == pytest.approx(start()[17], abs=moved)
    assert (state.params[4:17] != start()[4:17]).all()


@EVERY_WRAPPER
def test_the_wrapped_optimizers_schedule_counts_its_own_steps(wrapper: Any) -> None:
    falling = build({**wrapper, "optimizer": {**SGD, "learning_rate": FALLING}}, layout())
    state = run(falling, gradients(8))
    assert state.slots[-1][0] == (4 if wrapper["name"] == "sam" else 8)


@pytest.mark.parametrize(
    ("specification", "words", "pointer"),
    [
        ({"name": "lookahead"}, "needs optimizer", "/optimizer/optimizer"),
        ({"name": "lookahead", "optimizer": 3}, "optimizer must be", "/optimizer/optimizer"),
        ({"name": "lookahead", "optimizer": {"name": "adm"}}, "did you mean 'adam'", "/optimizer/optimizer/name"),
        (
            {"name": "lookahead", "optimizer": {**ADAM, "beta1": 2}},
            "below 1",
            "/optimizer/optimizer/beta1",
        ),
        (
            {"name": "lookahead", "optimizer": {"like": "keras.optimizers.Adam", "clipnorm": 1.0}},
            "no transforms of its own, and this one asks for clip_by_norm",
            "/optimizer/optimizer",
        ),
        (
            {"like": "optax.lookahead", "fast_optimizer": {"like": "optax.adam"}, "sync_period": 5},
            "needs learning_rate",
            "/optimizer/fast_optimizer/learning_rate",
        ),
        ({"name": "mechanic", "optimizer": ADAM, "epsilon": 0.0}, "above 0", "/optimizer/epsilon"),
        (
            {"name": "schedule_free_sgd", "dialect": "optax", "learning_rate": FALLING, "warmup_steps": 3},
            "not both",
            "/optimizer/warmup_steps",
        ),
    ],
)
def test_refusals(specification: Any, words: str, pointer: str) -> None:
    with pytest.raises(Invalid) as caught:
        build(specification, layout())
    assert words in caught.value.detail
    assert caught.value.places[0].pointer == pointer


def test_optimizers_stand_in_one_another_four_deep_at_most() -> None:
    specification: dict[str, Any] = SGD
    for _ in range(3):
        specification = {"name": "lookahead", "optimizer": specification}
    assert run(build(specification, single(18)), gradients(6)).step == 6
    with pytest.raises(Invalid, match="at most 4 deep"):
        build({"name": "lookahead", "optimizer": specification}, single(18))


def test_mechanic_finds_a_rate_that_descent_needs() -> None:
    """On a bowl of curvature 100, where descent with a rate of 1 would be lost."""
    subject = build({"name": "mechanic", "optimizer": {"name": "sgd", "learning_rate": 1.0}}, single(3))
    state = subject.init(np.array([1.0, -2.0, 3.0]))
    for _ in range(600):
        state = subject.step(state, 100.0 * state.params).state
    assert np.abs(state.params).max() < 0.1
