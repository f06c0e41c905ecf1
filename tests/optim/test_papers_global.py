"""The rules over all parameters against their authors' pseudo-code, written out tensor by tensor."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import pytest

from service.optim.optimizer import build
from service.optim.tensors import Array, single
from tests.optim.table import advance, gradients, layout, start

STEPS = 40
Tensors = list[Array]


def split(flat: Array) -> Tensors:
    return [flat[where].copy() for where in layout().slices]


def ours(specification: dict[str, Any], rows: list[Array]) -> Array:
    subject = build(specification, layout())
    state = subject.init(start())
    for row in rows:
        state = advance(subject, state, row)
    return state.params


def prodigy(p: Tensors, rows: list[Tensors], lr: float, betas: tuple[float, float], d0: float, **more: Any) -> None:
    """The reference implementation, with its sums over tensors."""
    beta1, beta2 = betas
    beta3, eps, decay = more.get("beta3") or sqrt(beta2), more["eps"], more["decay"]
    first, m, v, s = [x.copy() for x in p], *([0 * x for x in p] for _ in range(3))
    d = d_max = d0
    numerator = 0.0
    for k, gradient in enumerate(rows):
        correction = sqrt(1 - beta2 ** (k + 1)) / (1 - beta1 ** (k + 1)) if more["correct"] else 1.0
        dlr = d * lr * correction
        numerator *= beta3
        denominator = 0.0
        for i, g in enumerate(gradient):
            numerator += (d / d0) * dlr * float(np.dot(g, first[i] - p[i]))
            m[i] = beta1 * m[i] + d * (1 - beta1) * g
            v[i] = beta2 * v[i] + d * d * (1 - beta2) * g * g
            s[i] = beta3 * s[i] + (d / d0) * (d if more["safeguard"] else dlr) * g
            denominator += float(np.abs(s[i]).sum())
        d_hat = more["coefficient"] * numerator / denominator
        if d == d0:
            d = max(d, d_hat)
        d_max = max(d_max, d_hat)
        d = d_max
        for i in range(len(p)):
            p[i] = p[i] - decay * dlr * p[i]
            p[i] = p[i] - dlr * m[i] / (np.sqrt(v[i]) + d * eps)


@pytest.mark.parametrize("safeguard", [False, True])
@pytest.mark.parametrize("correct", [False, True])
def test_prodigy_is_the_authors(correct: bool, safeguard: bool) -> None:
    rows = gradients(STEPS)
    values = {"learning_rate": 0.8, "beta1": 0.8, "beta2": 0.97, "epsilon": 1e-6, "initial_distance": 1e-3}
    options = {"weight_decay": 0.1, "distance_factor": 1.5, "bias_correction": correct, "safeguard_warmup": safeguard}
    theirs = split(start())
    prodigy(
        theirs,
        [split(row) for row in rows],
        0.8,
        (0.8, 0.97),
        1e-3,
        eps=1e-6,
        decay=0.1,
        correct=correct,
        safeguard=safeguard,
        coefficient=1.5,
    )
    mine = ours({"name": "prodigy", "dialect": "paper", **values, **options}, rows)
    apart = np.linalg.norm(mine - np.concatenate(theirs)) / np.linalg.norm(mine - start())
    assert apart <= 1e-12


def dadapt(p: Tensors, rows: list[Tensors], lr: float, betas: tuple[float, float], d: float, eps: float) -> None:
    beta1, beta2 = betas
    root = sqrt(beta2)
    m, v, s = ([0 * x for x in p] for _ in range(3))
    numerator = 0.0
    for gradient in rows:
        dlr, seen, size = d * lr, 0.0, 0.0
        for i, g in enumerate(gradient):
            seen += dlr * float(np.dot(g, s[i] / (np.sqrt(v[i]) + eps)))
            m[i] = beta1 * m[i] + dlr * (1 - beta1) * g
            v[i] = beta2 * v[i] + (1 - beta2) * g * g
            s[i] = root * s[i] + dlr * (1 - root) * g
            size += float(np.abs(s[i]).sum())
        numerator = root * numerator + (1 - root) * seen
        d = max(d, numerator / ((1 - root) * size))
        for i in range(len(p)):
            p[i] = p[i] - m[i] / (np.sqrt(v[i]) + eps)


def test_dadapt_adamw_is_the_authors() -> None:
    rows, theirs = gradients(STEPS), split(start())
    dadapt(theirs, [split(row) for row in rows], 0.8, (0.8, 0.97), 1e-3, 1e-6)
    values = {"learning_rate": 0.8, "beta1": 0.8, "beta2": 0.97, "epsilon": 1e-6, "initial_distance": 1e-3}
    mine = ours({"name": "dadapt_adamw", "dialect": "paper", **values}, rows)
    assert np.linalg.norm(mine - np.concatenate(theirs)) <= 1e-12 * np.linalg.norm(mine - start())


def test_dog_by_layers_is_the_authors_on_each_tensor() -> None:
    rows, theirs = gradients(STEPS), split(start())
    first = split(start())
    reach = [1e-2 * (1 + np.linalg.norm(x)) for x in theirs]
    seen = [1e-6] * 3
    for row in rows:
        for i, g in enumerate(split(row)):
            g = g + 0.1 * theirs[i]
            reach[i] = max(reach[i], np.linalg.norm(theirs[i] - first[i]))
            seen[i] += float((g**2).sum())
            theirs[i] = theirs[i] - 0.8 * reach[i] / sqrt(seen[i]) * g
    values = {"learning_rate": 0.8, "first_step": 1e-2, "epsilon": 1e-6, "weight_decay": 0.1}
    mine = ours({"name": "ldog", "dialect": "paper", **values}, rows)
    assert np.linalg.norm(mine - np.concatenate(theirs)) <= 1e-12 * np.linalg.norm(mine - start())


def test_dog_on_one_tensor_is_dog_by_layers() -> None:
    rows = gradients(STEPS)
    paths = []
    for name, dialect in (("dog", "optax"), ("ldog", "paper")):
        subject = build({"name": name, "dialect": dialect, "first_step": 0.1}, single(18))
        state = subject.init(start())
        for row in rows:
            state = advance(subject, state, row)
        paths.append(state.params.tobytes())
    assert paths[0] == paths[1]


@pytest.mark.parametrize("loss", [3.0, 0.5, 0.01])
def test_polyaks_step_meets_the_lower_bound_of_a_line_or_is_the_longest(loss: float) -> None:
    """A linear function f + ⟨g, x - p⟩ is at f⋆ after an uncapped step with c = 1."""
    g = gradients(1)[0]
    specification = {"name": "polyak_sgd", "dialect": "paper", "max_learning_rate": 1e6, "c": 1.0, "lower_bound": -1.0}
    subject = build(specification, layout())
    moved = subject.step(subject.init(start()), g, loss=loss).state.params - start()
    assert loss + float(np.dot(g, moved)) == pytest.approx(-1.0)
    short = build({**specification, "max_learning_rate": 1e-3}, layout())
    moved = short.step(short.init(start()), g, loss=loss).state.params - start()
    assert moved == pytest.approx(-1e-3 * g, rel=1e-9)


def test_optaxs_scaling_makes_polyaks_steps_shorter_where_it_should_make_them_longer() -> None:
    """The known bug: below the longest step, a scaling of s is a factor of 1/s."""
    g = gradients(1)[0]
    lengths = []
    for scaling in (1.0, 4.0):
        subject = build({"like": "optax.polyak_sgd", "max_learning_rate": 1e9, "scaling": scaling}, layout())
        after = subject.step(subject.init(start()), g, loss=1.0).state
        lengths.append(np.linalg.norm(after.params - start()))
    assert lengths[1] == pytest.approx(lengths[0] / 4.0)
