"""The dialect `paper` against the papers' own pseudo-code, line by line in plain NumPy, and what the papers claim."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import exp, log, sqrt
from typing import Any

import numpy as np
import pytest

from service.optim.optimizer import build
from service.optim.tensors import Array, single
from tests.optim.table import bits, gradients, layout, run, start, trajectory

Path = Iterator[Array]  # the parameters after each step
PAPERS: dict[str, tuple[Callable[..., Path], dict[str, Any]]] = {}


def paper(name: str, **values: Any) -> Callable[[Callable[..., Path]], Callable[..., Path]]:
    """The pseudo-code of an optimizer; `values` are ours, by our names, and handed to it in this order."""

    def register(code: Callable[..., Path]) -> Callable[..., Path]:
        PAPERS[name] = (code, values)
        return code

    return register


@paper("sign_sgd", learning_rate=0.01)
def sign_sgd(x: Array, rows: list[Array], delta: float) -> Path:
    for g in rows:
        x = x - delta * np.sign(g)
        yield x


@paper("signum", learning_rate=0.01, beta=0.7)
def signum(x: Array, rows: list[Array], delta: float, beta: float) -> Path:
    m = 0 * x
    for g in rows:
        m = beta * m + (1 - beta) * g
        x = x - delta * np.sign(m)
        yield x


@paper("lion", learning_rate=0.01, beta1=0.8, beta2=0.95, weight_decay=0.1)
def lion(x: Array, rows: list[Array], eta: float, beta1: float, beta2: float, decay: float) -> Path:
    m = 0 * x
    for g in rows:
        c = beta1 * m + (1 - beta1) * g
        x = x - eta * (np.sign(c) + decay * x)
        m = beta2 * m + (1 - beta2) * g
        yield x


@paper("qhm", learning_rate=0.5, beta=0.9, nu=0.7)
def qhm(x: Array, rows: list[Array], alpha: float, beta: float, nu: float) -> Path:
    buffer = 0 * x
    for g in rows:
        buffer = beta * buffer + (1 - beta) * g
        x = x - alpha * ((1 - nu) * g + nu * buffer)
        yield x


@paper("qhadam", learning_rate=0.01, beta1=0.9, beta2=0.95, nu1=0.7, nu2=0.8, epsilon=1e-6)
def qhadam(
    x: Array, rows: list[Array], alpha: float, beta1: float, beta2: float, nu1: float, nu2: float, eps: float
) -> Path:
    m, v = 0 * x, 0 * x
    for t, g in enumerate(rows, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        mean, square = m / (1 - beta1**t), v / (1 - beta2**t)
        x = x - alpha * ((1 - nu1) * g + nu1 * mean) / (np.sqrt((1 - nu2) * g**2 + nu2 * square) + eps)
        yield x


@paper("aggmo", learning_rate=0.1, beta1=0.0, beta2=0.9, beta3=0.99)
def aggmo(x: Array, rows: list[Array], gamma: float, *damping: float) -> Path:
    velocities = [0 * x for _ in damping]
    for g in rows:
        velocities = [beta * v - g for beta, v in zip(damping, velocities, strict=True)]
        x = x + gamma / len(damping) * np.sum(velocities, axis=0)
        yield x


@paper("optimistic_gradient_descent", learning_rate=0.1)
def optimistic(x: Array, rows: list[Array], eta: float) -> Path:
    before = 0 * x
    for g in rows:
        x = x - 2 * eta * g + eta * before
        before = g
        yield x


@paper("optimistic_adam", learning_rate=0.01, beta1=0.8, beta2=0.95, epsilon=1e-6)
def optimistic_adam(x: Array, rows: list[Array], eta: float, beta1: float, beta2: float, eps: float) -> Path:
    m, v, before = 0 * x, 0 * x, 0 * x
    for t, g in enumerate(rows, 1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        now = (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
        x = x - 2 * eta * now + eta * before
        before = now
        yield x


@paper("ftrl", learning_rate=0.1, beta=0.5, l1=0.2, l2=0.3)
def ftrl(x: Array, rows: list[Array], alpha: float, beta: float, l1: float, l2: float) -> Path:
    n, z = 0 * x, 0 * x
    for g in rows:
        sigma = (np.sqrt(n + g**2) - np.sqrt(n)) / alpha
        z = z + g - sigma * x
        n = n + g**2
        x = np.where(np.abs(z) <= l1, 0.0, -(z - np.sign(z) * l1) / ((beta + np.sqrt(n)) / alpha + l2))
        yield x


@paper("madgrad", learning_rate=0.01, momentum=0.8, epsilon=1e-6)
def madgrad(x: Array, rows: list[Array], gamma: float, momentum: float, eps: float) -> Path:
    s, nu, first, c = 0 * x, 0 * x, x, 1 - momentum
    for k, g in enumerate(rows):
        weight = gamma * sqrt(k + 1)
        s, nu = s + weight * g, nu + weight * g**2
        z = first - s / (np.cbrt(nu) + eps)
        x = (1 - c) * x + c * z
        yield x


@paper("cocob", alpha=10.0)
def cocob(w: Array, rows: list[Array], alpha: float) -> Path:
    largest, absolute, reward, theta, first = 0 * w, 0 * w, 0 * w, 0 * w, w
    for gradient in rows:
        g = -gradient
        largest = np.maximum(largest, np.abs(g))
        absolute = absolute + np.abs(g)
        reward = np.maximum(reward + (w - first) * g, 0)
        theta = theta + g
        with np.errstate(invalid="ignore"):
            bet = theta / (largest * np.maximum(absolute + largest, alpha * largest)) * (largest + reward)
        w = np.where(largest > 0, first + bet, first)
        yield w


@paper("amsgrad", learning_rate=0.01, beta1=0.8, beta2=0.9)
def amsgrad(x: Array, rows: list[Array], alpha: float, beta1: float, beta2: float) -> Path:
    m, v, largest = 0 * x, 0 * x, 0 * x
    for g in rows:
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        largest = np.maximum(largest, v)
        x = x - alpha * np.where(m == 0, 0, m / np.sqrt(np.where(largest == 0, 1, largest)))
        yield x


@paper("radam", learning_rate=0.01, beta1=0.8, beta2=0.95)
def radam(x: Array, rows: list[Array], alpha: float, beta1: float, beta2: float) -> Path:
    m, v, limit = 0 * x, 0 * x, 2 / (1 - beta2) - 1
    for t, g in enumerate(rows, 1):
        v = beta2 * v + (1 - beta2) * g**2
        m = beta1 * m + (1 - beta1) * g
        mean = m / (1 - beta1**t)
        rho = limit - 2 * t * beta2**t / (1 - beta2**t)
        if rho > 4:
            adaptive = np.sqrt((1 - beta2**t) / np.where(v == 0, 1, v))
            r = sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
            x = x - alpha * r * mean * adaptive
        else:
            x = x - alpha * mean
        yield x


@paper("yogi", learning_rate=0.01, beta1=0.8, beta2=0.95, epsilon=1e-3, initial_accumulator_value=1e-4)
def yogi(x: Array, rows: list[Array], eta: float, beta1: float, beta2: float, eps: float, first: float) -> Path:
    m, v = 0 * x, 0 * x + first
    for g in rows:
        m = beta1 * m + (1 - beta1) * g
        v = v - (1 - beta2) * np.sign(v - g**2) * g**2
        x = x - eta * m / (np.sqrt(v) + eps)
        yield x


@paper("adabelief", learning_rate=0.01, beta1=0.8, beta2=0.95, epsilon=1e-6)
def adabelief(x: Array, rows: list[Array], alpha: float, beta1: float, beta2: float, eps: float) -> Path:
    m, s = 0 * x, 0 * x
    for t, g in enumerate(rows, 1):
        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * (g - m) ** 2 + eps
        x = x - alpha * (m / (1 - beta1**t)) / (np.sqrt(s / (1 - beta2**t)) + eps)
        yield x


@paper("adan", learning_rate=0.01, beta1=0.1, beta2=0.2, beta3=0.05, epsilon=1e-8, proximal_weight_decay=0.1)
def adan(
    x: Array, rows: list[Array], eta: float, beta1: float, beta2: float, beta3: float, eps: float, decay: float
) -> Path:
    m, v, n = rows[0], 0 * x, rows[0] ** 2
    for k, g in enumerate(rows):
        if k > 0:
            change = g - rows[k - 1]
            m = (1 - beta1) * m + beta1 * g
            v = (1 - beta2) * v + beta2 * change
            n = (1 - beta3) * n + beta3 * (g + (1 - beta2) * change) ** 2
        x = (x - eta / (np.sqrt(n) + eps) * (m + (1 - beta2) * v)) / (1 + decay * eta)
        yield x


@paper(
    "ademamix",
    learning_rate=0.01,
    beta1=0.8,
    beta2=0.95,
    beta3=0.999,
    slow_weight=4.0,
    warmup_steps=30,
    epsilon=1e-8,
    weight_decay=0.1,
)
def ademamix(
    x: Array,
    rows: list[Array],
    eta: float,
    beta1: float,
    beta2: float,
    beta3: float,
    alpha: float,
    steps: int,
    eps: float,
    decay: float,
) -> Path:
    fast, slow, nu = 0 * x, 0 * x, 0 * x
    for t, g in enumerate(rows, 1):
        part = t / steps
        mixed = log(beta1) * log(beta3) / ((1 - part) * log(beta3) + part * log(beta1)) if part <= 1 else 0.0
        beta, weight = min(exp(mixed), beta3), min(part * alpha, alpha)
        fast = beta1 * fast + (1 - beta1) * g
        slow = beta * slow + (1 - beta) * g
        nu = beta2 * nu + (1 - beta2) * g**2
        direction = (fast / (1 - beta1**t) + weight * slow) / (np.sqrt(nu / (1 - beta2**t)) + eps)
        x = x - eta * (direction + decay * x)
        yield x


@paper("adopt", learning_rate=0.01, beta1=0.8, beta2=0.95, epsilon=1e-6, use_clipping=True)
def adopt(x: Array, rows: list[Array], alpha: float, beta1: float, beta2: float, eps: float, clipped: bool) -> Path:
    m, v = 0 * x, rows[0] ** 2
    yield x
    for t, g in enumerate(rows[1:], 1):
        limit = t**0.25
        m = beta1 * m + (1 - beta1) * np.clip(g / np.maximum(np.sqrt(v), eps), -limit, limit)
        x = x - alpha * m
        v = beta2 * v + (1 - beta2) * g**2
        yield x


@pytest.mark.parametrize("name", PAPERS)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6])
def test_the_paper_dialect_is_the_papers_pseudo_code(name: str, scale: float) -> None:
    code, values = PAPERS[name]
    rows = [scale * row for row in gradients(50)]
    subject = build({"name": name, "dialect": "paper", **values}, layout())
    assert set(subject.specification.values) == set(values), "every hyperparameter is set apart from its default"
    state = subject.init(start())
    for row, theirs in zip(rows, code(start(), rows, *values.values()), strict=True):
        state = subject.step(state, row).state
        apart, moved = np.linalg.norm(state.params - theirs), np.linalg.norm(theirs - start())
        assert apart <= 1e-12 * moved + 1e-15 * np.linalg.norm(start())


# What the papers say of their rules


def steps(specification: Any, rows: list[float], at: float = 0.0) -> Array:
    return np.diff(trajectory(specification, rows, at))


ROWS = [1.0, -0.5, 2.0, 0.25, -1.5, 3.0, 0.75, -0.125] * 3


def test_qhm_is_descent_at_nu_zero_and_nesterov_at_nu_beta() -> None:
    qhm = {"name": "qhm", "learning_rate": 0.1, "beta": 0.75}
    assert steps({**qhm, "nu": 0.0}, ROWS) == pytest.approx(steps({"name": "sgd", "learning_rate": 0.1}, ROWS))
    nesterov = {"name": "nesterov", "learning_rate": 0.1 * 0.25, "momentum": 0.75}
    assert steps({**qhm, "nu": 0.75}, ROWS) == pytest.approx(steps(nesterov, ROWS), rel=1e-13)
    heavy = {"name": "momentum", "learning_rate": 0.1 * 0.25, "momentum": 0.75}
    assert steps({**qhm, "nu": 1.0}, ROWS) == pytest.approx(steps(heavy, ROWS), rel=1e-13)


def test_qhadam_is_adam_where_both_nu_are_one() -> None:
    ones = {"name": "qhadam", "beta1": 0.9, "nu1": 1.0, "nu2": 1.0}
    assert steps(ones, ROWS) == pytest.approx(steps({"name": "adam"}, ROWS), rel=1e-12)


def test_aggmo_of_one_momentum_is_the_heavy_ball() -> None:
    same = {"name": "aggmo", "learning_rate": 0.1, "beta1": 0.5, "beta2": 0.5, "beta3": 0.5}
    ball = {"name": "momentum", "learning_rate": 0.1, "momentum": 0.5}
    assert steps(same, ROWS) == pytest.approx(steps(ball, ROWS), rel=1e-13)


def test_signum_is_sign_sgd_without_memory_and_lion_with_one_beta() -> None:
    plain = steps({"name": "sign_sgd", "learning_rate": 0.1}, ROWS)
    assert steps({"name": "signum", "learning_rate": 0.1, "beta": 0.0}, ROWS).tolist() == plain.tolist()
    lion = {"name": "lion", "learning_rate": 0.1, "beta1": 0.75, "beta2": 0.75}
    signum = {"name": "signum", "learning_rate": 0.1, "beta": 0.75}
    assert steps(lion, ROWS).tolist() == steps(signum, ROWS).tolist()


@pytest.mark.parametrize("dialect", ["torch", "optax", "keras"])
def test_amsgrad_by_its_own_name_is_the_option_of_adam(dialect: str) -> None:
    shared = {"dialect": dialect, "learning_rate": 0.01, "beta2": 0.75}
    named, option = {"name": "amsgrad", **shared}, {"name": "adam", "amsgrad": True, **shared}
    assert bits(run(build(named, layout()), gradients(20)).params) == bits(
        run(build(option, layout()), gradients(20)).params
    )


def test_radam_begins_as_momentum_and_is_rectified_from_the_sixth_step_or_the_fifth() -> None:
    """With β₂ = 0.999, ρ passes 4 at t = 5 and 5 at t = 6; momentum moves by α g, the rectified form by far less."""
    constant = [-8.0] * 7
    assert (steps({"name": "radam", "dialect": "torch"}, constant) > 7e-3).tolist() == [True] * 5 + [False] * 2
    assert (steps({"name": "radam", "dialect": "paper"}, constant) > 7e-3).tolist() == [True] * 4 + [False] * 3


def test_nadam_with_a_constant_gradient_moves_by_alpha_in_keras() -> None:
    """Both terms are corrected by the same product: μ' g / (1 - Pμ') (1 - β₁ᵗ) + (1 - μ) g / (1 - P)."""
    product, wanted = 1.0, []
    for t in range(1, 30):
        mu, following = (0.9 * (1.0 - 0.5 * 0.96**i) for i in (t, t + 1))
        product *= mu
        mixed = following * (1.0 - 0.9**t) / (1.0 - product * following) + (1.0 - mu) / (1.0 - product)
        wanted.append(0.001 * mixed)
    nadam = {"name": "nadam", "dialect": "keras", "epsilon": 0.0}
    assert steps(nadam, [-3.0] * 29) == pytest.approx(wanted, rel=1e-11)


def test_nadams_product_remembers_the_momenta_that_were() -> None:
    """torch keeps the product, so that β₁ may follow a schedule; what it was made of stays."""
    falling = {"schedule": "multi_step", "initial": 0.8, "milestones": [2], "gamma": 0.5}
    subject = build({"name": "nadam", "beta1": falling}, single(1))
    state = run(subject, [np.ones(1)] * 3, subject.init(np.ones(1)))
    wanted = np.prod([b * (1.0 - 0.5 * 0.96 ** (t * 4e-3)) for t, b in ((1, 0.8), (2, 0.8), (3, 0.4))])
    assert state.slots[2].tolist() == pytest.approx([wanted], rel=1e-14)


def test_rprop_grows_by_a_fifth_rests_after_a_turn_and_comes_back_half_as_long() -> None:
    moves = steps({"name": "rprop", "learning_rate": 0.1}, [-1.0, -7.0, -0.1, 3.0, 3.0, 3.0])
    assert moves == pytest.approx([0.1, 0.12, 0.144, 0.0, -0.072, -0.0864], rel=1e-12)


def test_optax_rprop_is_one_step_late() -> None:
    rows = [-1.0, -7.0, -0.1, -3.0, -2.0]
    late, right = (steps({"name": "rprop", "dialect": d, "learning_rate": 0.1}, rows) for d in ("optax", "torch"))
    assert late[0] == 0.0
    assert late[1:] == pytest.approx(right[:-1], rel=1e-12)


def test_asgd_without_decay_is_descent_and_its_average_the_mean_of_the_iterates() -> None:
    subject = build({"name": "asgd", "learning_rate": 0.1, "decay": 0.0, "averaging_start": 0.0}, single(1))
    state, seen = subject.init(np.array([2.0])), []
    for n, g in enumerate(ROWS, 1):
        state = subject.step(state, np.array([g])).state
        seen.append(float(state.params[0]))
        assert state.slots[1][0] == pytest.approx(np.mean(seen[min(1, n - 1) :]), rel=1e-12)
    assert seen == pytest.approx(trajectory({"name": "sgd", "learning_rate": 0.1}, ROWS, 2.0)[1:], rel=1e-12)


def test_ftrl_leaves_exact_zeros_where_the_gradients_are_below_its_penalty() -> None:
    subject = build({"name": "ftrl", "dialect": "paper", "l1": 1.0}, single(2))
    state = subject.init(np.zeros(2))
    for row in np.random.default_rng(1).normal(size=(20, 2)):
        state = subject.step(state, row * np.array([1e-2, 0.0]) + np.array([0.0, 1.0])).state
    assert state.params[0] == 0.0
    assert state.params[1] < -0.1


def test_cocob_needs_no_rate_whatever_the_units() -> None:
    """Its bets are relative: gradients a thousand times larger move it as far."""
    assert steps({"name": "cocob", "dialect": "paper"}, ROWS) == pytest.approx(
        steps({"name": "cocob", "dialect": "paper"}, [1024.0 * g for g in ROWS]), rel=1e-12
    )


def test_optimism_ends_the_circling_of_descent() -> None:
    """On min_x max_y x y plain descent spirals outward, the optimistic form inward."""

    def radius(specification: Any) -> float:
        subject = build(specification, single(2))
        state = subject.init(np.array([1.0, 1.0]))
        for _ in range(400):
            x, y = state.params
            state = subject.step(state, np.array([y, -x])).state
        return float(np.hypot(*state.params))

    assert radius({"name": "sgd", "learning_rate": 0.1}) > 2.0
    assert radius({"name": "optimistic_gradient_descent", "learning_rate": 0.1}) < 0.5


def test_adopt_converges_where_adam_does_not() -> None:
    """As in the example of Reddi et al.: rare large gradients outweigh the many small ones of the other sign, so that
    the minimum on [-1, 1] is at -1; a short memory forgets them."""

    def end(specification: Any) -> float:
        subject = build(specification, single(1))
        state = subject.init(np.zeros(1))
        for t in range(6000):
            state = subject.step(state, np.array([50.0 if t % 50 == 0 else -0.5])).state
            state = state._replace(params=np.clip(state.params, -1.0, 1.0))
        return float(state.params[0])

    adam = {"name": "adam", "learning_rate": 0.01, "beta1": 0.0, "beta2": 0.1}
    assert end(adam) > 0.9
    assert end({"name": "adopt", "learning_rate": 0.01, "beta1": 0.0, "beta2": 0.1, "use_clipping": False}) < -0.5
