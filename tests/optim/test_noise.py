"""Noisy SGD: normal noise of the stated deviation, a matter of the seed, the step and the place alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from service.optim.optimizer import build
from service.optim.state import State
from service.optim.tensors import Array, single
from tests.optim.table import gradients, layout, run, same, start

PINNED = [0.9828757014629881, 0.582339371282191, 0.10606681482062819]
NOISY = {"name": "noisy_sgd", "learning_rate": 1.0, "eta": 0.04, "gamma": 0.55, "seed": 3}


def noise(steps: int, size: int = 20_000, **changes: Any) -> list[Array]:
    """What each of the first steps adds to a gradient of zero, (size,)."""
    subject = build({**NOISY, **changes}, single(size))
    state, found = subject.init(np.zeros(size)), []
    for _ in range(steps):
        after = subject.step(state, np.zeros(size)).state
        found.append(state.params - after.params)
        state = after
    return found


def test_the_noise_is_normal_with_the_deviation_of_its_step() -> None:
    """Moments within five standard errors, and the share of the steps within one, two and three deviations."""
    for t, z in enumerate(noise(4), 1):
        z = z / np.sqrt(0.04 / t**0.55)
        n = z.size
        assert abs(z.mean()) < 5 / np.sqrt(n)
        assert abs(z.var() - 1) < 5 * np.sqrt(2 / n)
        assert abs((z**3).mean()) < 5 * np.sqrt(15 / n)
        assert abs((z**4).mean() - 3) < 5 * np.sqrt(96 / n)
        for width, share in ((1, 0.682689), (2, 0.954500), (3, 0.997300)):
            assert abs((np.abs(z) < width).mean() - share) < 5 * np.sqrt(share * (1 - share) / n)


def test_steps_and_seeds_have_noise_of_their_own() -> None:
    first, second = noise(2)
    other = noise(1, seed=4)[0]
    for one, two in ((first, second), (first, other), (second, other)):
        assert abs(np.corrcoef(one, two)[0, 1]) < 5 / np.sqrt(one.size)


def test_the_first_numbers_of_a_seed_stay_what_they_are() -> None:
    """A log written before is replayed with the same bits, so that these numbers may never change."""
    drawn = noise(1, size=3, eta=1.0, seed=0)[0]
    counter = np.random.Generator(np.random.Philox(key=0, counter=[0, 1, 0, 0])).standard_normal(3)
    assert drawn.tobytes() == (0.0 - (0.0 - counter)).tobytes()
    assert drawn.tolist() == PINNED


def test_a_replay_has_the_same_bits() -> None:
    subject, rows = build(NOISY, layout()), gradients(8)
    whole = run(subject, rows)
    half = run(subject, rows[:3])
    assert same(run(subject, rows[3:], State(*half)), whole)
    assert same(run(build(NOISY, layout()), rows), whole)


def test_an_absent_tensor_does_not_shift_the_noise_of_the_others() -> None:
    subject, rows = build(NOISY, layout()), gradients(3)
    states = []
    for absent in ((), (1,)):
        state = subject.init(start())
        for row in rows:
            state = subject.step(state, row, absent).state
        states.append(state.params)
    one, other = states
    assert one[:12].tobytes() == other[:12].tobytes()
    assert one[17:].tobytes() == other[17:].tobytes()
    assert other[12:17].tobytes() == start()[12:17].tobytes()


def test_a_frozen_tensor_does_not_either() -> None:
    frozen = build(NOISY, layout(), groups=[{"match": "layer.bias", "frozen": True}])
    one, other = run(build(NOISY, layout()), gradients(3)).params, run(frozen, gradients(3)).params
    assert one[:12].tobytes() == other[:12].tobytes()
    assert one[17:].tobytes() == other[17:].tobytes()


@pytest.mark.parametrize("seed", [0, 1, 2**53 - 1])
def test_single_precision_has_the_same_noise_rounded(seed: int) -> None:
    wide, narrow = build({**NOISY, "seed": seed}, single(100)), build({**NOISY, "seed": seed}, single(100, "float32"))
    one = wide.step(wide.init(np.zeros(100)), np.zeros(100)).state.params
    other = narrow.step(narrow.init(np.zeros(100, np.float32)), np.zeros(100, np.float32)).state.params
    assert other.dtype == np.float32
    assert other == pytest.approx(one, rel=2e-7)
