"""What the papers and the textbooks say of these rules: bounds, invariances, closed forms, printed numbers."""

from __future__ import annotations

from itertools import pairwise
from math import sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.optim.catalogue import ALGORITHMS
from service.optim.optimizer import build
from service.optim.tensors import DTYPES, Layout, single
from tests.optim.table import DIALECTS, gradients, layout, run, start, trajectory

ALPHA, BETA1, BETA2 = 0.001, 0.9, 0.999
ADAM = {"name": "adam", "dialect": "paper", "epsilon": 0.0}
ADAMAX = {"name": "adamax", "dialect": "paper", "learning_rate": ALPHA}
UNSCALED = {
    "adam": ADAM,
    "adam-two-lines": {"name": "adam", "dialect": "scratch", "epsilon": 0.0},
    "amsgrad": {"name": "adam", "dialect": "torch", "epsilon": 0.0, "amsgrad": True},
    "adamax": ADAMAX,
    "rmsprop": {"name": "rmsprop", "dialect": "paper"},
    "adagrad": {"name": "adagrad", "dialect": "paper", "learning_rate": 0.01},
}
ROUNDING = 1.0 + 1e-12

fixed = settings(derandomize=True, deadline=None, max_examples=200)
a_gradient = st.floats(-1e3, 1e3).filter(lambda g: g == 0.0 or abs(g) > 1e-3)
some_gradients = st.lists(a_gradient, min_size=1, max_size=30)


def steps(specification: Any, rows: list[float]) -> list[float]:
    """Δ_t: how far a single parameter moves in each step."""
    positions = trajectory(specification, rows)
    return [b - a for a, b in pairwise(positions)]


# Adam's steps are bounded (Kingma and Ba, section 2.1)


@pytest.mark.parametrize("zeros", [0, 1, 2, 10, 100, 5000])
def test_the_only_gradient_after_zeros_moves_adam_by_a_known_amount(zeros: int) -> None:
    *before, step = steps(ADAM, [0.0] * zeros + [-7.0])
    t = zeros + 1
    correction = sqrt(1.0 - BETA2**t) / (1.0 - BETA1**t)
    assert before == [0.0] * zeros
    assert step == pytest.approx(ALPHA * correction * (1.0 - BETA1) / sqrt(1.0 - BETA2), rel=1e-10)
    assert step <= ALPHA * (1.0 - BETA1) / sqrt(1.0 - BETA2)


def test_the_sparsest_bound_is_approached() -> None:
    """1 - β₁ > √(1 - β₂) here, so that a rare gradient moves Adam by more than α."""
    step = steps(ADAM, [0.0] * 20_000 + [1.0])[-1]
    assert abs(step) == pytest.approx(ALPHA * (1.0 - BETA1) / sqrt(1.0 - BETA2), rel=1e-8)
    assert abs(step) > 3.0 * ALPHA


@pytest.mark.parametrize("beta1", [0.9, 0.99, 0.5])
def test_where_one_minus_beta1_is_the_smaller_a_lone_gradient_moves_less_than_alpha(beta1: float) -> None:
    beta2 = 1.0 - 1.5 * (1.0 - beta1) ** 2
    lone = {**ADAM, "beta1": beta1, "beta2": beta2}
    assert 1.0 - beta1 <= sqrt(1.0 - beta2)
    for zeros in (0, 1, 10, 100):
        assert abs(steps(lone, [0.0] * zeros + [3.0])[-1]) <= ALPHA * ROUNDING


@fixed
@given(some_gradients)
def test_gradients_that_never_grow_move_adam_by_at_most_alpha(rows: list[float]) -> None:
    """√v̂ weighs the past more than m̂ does, so that it is the larger where the past was."""
    rows.sort(key=abs, reverse=True)
    assert max(map(abs, steps(ADAM, rows))) <= ALPHA * ROUNDING


@fixed
@given(some_gradients, st.sampled_from([0.5, 0.9, 0.99]))
def test_equal_betas_never_move_adam_by_more_than_alpha(rows: list[float], beta: float) -> None:
    """|m̂| ≤ √v̂ by Jensen's inequality: both are means with the same weights."""
    assert max(map(abs, steps({**ADAM, "beta1": beta, "beta2": beta}, rows))) <= ALPHA * ROUNDING


def worst_step(t: int) -> float:
    """The longest step t that any gradients can cause, by the inequality of Cauchy and Schwarz."""
    ratio = BETA1**2 / BETA2
    reach = (1.0 - ratio**t) / ((1.0 - BETA2) * (1.0 - ratio))
    return ALPHA * (1.0 - BETA1) * sqrt(reach) * sqrt(1.0 - BETA2**t) / (1.0 - BETA1**t)


@fixed
@given(some_gradients)
def test_no_gradients_at_all_move_adam_farther_than_the_worst(rows: list[float]) -> None:
    assert all(abs(step) <= worst_step(t) * ROUNDING for t, step in enumerate(steps(ADAM, rows), 1))


@pytest.mark.parametrize("t", [1, 2, 10, 50])
def test_the_worst_is_reached_by_gradients_that_grow_as_beta2_over_beta1(t: int) -> None:
    """So the paper's bound for the sparsest case holds for a lone gradient, not for every sequence."""
    rows = [(BETA2 / BETA1) ** i for i in range(t)]
    assert abs(steps(ADAM, rows)[-1]) == pytest.approx(worst_step(t), rel=1e-10)


@pytest.mark.parametrize("g", [1e-3, -1.0, 250.0])
def test_constant_gradients_move_adam_by_exactly_alpha(g: float) -> None:
    assert steps(ADAM, [g] * 40) == pytest.approx([-np.sign(g) * ALPHA] * 40, rel=1e-11)


# Scale


@pytest.mark.parametrize("specification", UNSCALED.values(), ids=UNSCALED)
@pytest.mark.parametrize("power", [-40, -3, 1, 8, 30])
def test_scaling_the_gradient_by_a_power_of_two_changes_no_bit(specification: Any, power: int) -> None:
    subject, rows = build(specification, layout()), gradients(20)
    plain, scaled = run(subject, rows), run(subject, [np.ldexp(row, power) for row in rows])
    assert plain.params.tobytes() == scaled.params.tobytes()


@pytest.mark.parametrize("specification", UNSCALED.values(), ids=UNSCALED)
@pytest.mark.parametrize("factor", [1e-9, 0.3, 7.0, 1e10])
def test_scaling_the_gradient_changes_no_more_than_rounding(specification: Any, factor: float) -> None:
    subject, rows = build(specification, layout()), gradients(20)
    plain, scaled = run(subject, rows), run(subject, [factor * row for row in rows])
    assert plain.params == pytest.approx(scaled.params, rel=1e-13)


def test_epsilon_ends_the_invariance() -> None:
    """ε = 1e-8 halves the step of a gradient of 1e-8, and more where the two-line form leaves it uncorrected."""
    assert abs(steps({"name": "adam", "dialect": "paper"}, [1e-8])[0]) == pytest.approx(ALPHA / 2.0)
    two_lines = {"name": "adam", "dialect": "keras", "epsilon": 1e-8}
    assert abs(steps(two_lines, [1e-8])[0]) == pytest.approx(ALPHA / (1.0 + 1.0 / sqrt(1.0 - BETA2)))


# Bias correction


def moments(specification: Any, g: float, t: int) -> tuple[float, float]:
    """The uncorrected moments after t equal gradients."""
    state = run(build(specification, single(1)), [np.array([g])] * t, build(specification, single(1)).init(np.zeros(1)))
    return float(state.slots[0][0]), float(state.slots[1][0])


@pytest.mark.parametrize("t", [1, 2, 3, 10, 50])
def test_the_corrected_moments_of_a_constant_gradient_are_the_gradient_and_its_square(t: int) -> None:
    """E[m_t] = E[g] (1 - β₁ᵗ) and E[v_t] = E[g²] (1 - β₂ᵗ); with powers of two not even rounding is in the way."""
    m, v = moments({**ADAM, "beta1": 0.5, "beta2": 0.75}, 4.0, min(t, 20))
    assert m / (1.0 - 0.5 ** min(t, 20)) == 4.0
    assert v / (1.0 - 0.75 ** min(t, 20)) == 16.0
    m, v = moments(ADAM, 4.0, t)
    assert m / (1.0 - BETA1**t) == pytest.approx(4.0, rel=1e-13)
    assert v / (1.0 - BETA2**t) == pytest.approx(16.0, rel=1e-12)


def test_the_corrected_mean_of_stationary_gradients_is_their_mean() -> None:
    """Over many parameters with independent gradients of mean 2, m̂_t has mean 2 from the first step on."""
    rows = 2.0 + np.random.default_rng(5).normal(size=(5, 200_000))
    subject = build(ADAM, single(200_000))
    state = subject.init(np.zeros(200_000))
    for t, row in enumerate(rows, 1):
        state = subject.step(state, row).state
        assert state.slots[0].mean() / (1.0 - BETA1**t) == pytest.approx(2.0, abs=0.02)
        assert state.slots[1].mean() / (1.0 - BETA2**t) == pytest.approx(5.0, abs=0.1)


@pytest.mark.parametrize("beta2", [0.999, 0.9999, 0.999999])
def test_without_correction_the_first_steps_are_too_long_for_beta2_near_one(beta2: float) -> None:
    adam = {**ADAM, "beta2": beta2}
    without = [abs(step) for step in steps({**adam, "bias_correction": False}, [5.0] * 100)]
    assert [abs(step) for step in steps(adam, [5.0] * 100)] == pytest.approx([ALPHA] * 100, rel=1e-9)
    assert without[0] == pytest.approx(ALPHA * (1.0 - BETA1) / sqrt(1.0 - beta2), rel=1e-9)
    assert max(without) > 5.0 * ALPHA
    assert max(without) > 50.0 * ALPHA or beta2 < 0.99999


def test_without_correction_the_first_steps_are_too_short_for_beta1_near_one() -> None:
    adam = {**ADAM, "beta1": 0.999, "beta2": 0.9, "bias_correction": False}
    assert abs(steps(adam, [5.0])[0]) == pytest.approx(ALPHA * 0.001 / sqrt(0.1), rel=1e-9)


@pytest.mark.parametrize("moment", ["first", "second"])
def test_optax_can_leave_either_moment_uncorrected(moment: str) -> None:
    adam = {"name": "adam", "dialect": "optax", "learning_rate": ALPHA, "epsilon": 0.0}
    step = abs(steps({**adam, f"correct_{moment}_moment": False}, [3.0])[0])
    assert step == pytest.approx(ALPHA * 0.1 if moment == "first" else ALPHA / sqrt(0.001), rel=1e-12)


# AdaMax


@fixed
@given(some_gradients)
def test_gradients_that_never_shrink_move_adamax_by_at_most_alpha(rows: list[float]) -> None:
    rows.sort(key=abs)
    assert max(map(abs, steps(ADAMAX, rows))) <= ALPHA * ROUNDING


@fixed
@given(some_gradients)
def test_no_gradients_move_adamax_farther_than_alpha_but_for_its_forgetting(rows: list[float]) -> None:
    """u forgets by β₂ a step, so that |Δ| ≤ α (1 - β₁) / (1 - β₁/β₂): one per cent more than α, and no more."""
    allowed = ALPHA * (1.0 - BETA1) / (1.0 - BETA1 / BETA2)
    assert allowed < 1.01 * ALPHA
    for t, step in enumerate(steps(ADAMAX, rows), 1):
        assert abs(step) <= allowed * (1.0 - (BETA1 / BETA2) ** t) / (1.0 - BETA1**t) * ROUNDING


def test_adamax_needs_no_correction_of_its_maximum() -> None:
    assert steps(ADAMAX, [-9.0] * 20) == pytest.approx([ALPHA] * 20, rel=1e-12)


# The decreasing rate of the regret bound


def regret(rate: Any, horizon: int) -> float:
    """The mean of f(θ_t) - min f on f(θ) = |θ - 0.3|, with Adam from 0."""
    subject = build({**ADAM, "learning_rate": rate}, single(1))
    state, total = subject.init(np.zeros(1)), 0.0
    for _ in range(horizon):
        total += abs(float(state.params[0]) - 0.3)
        state = subject.step(state, np.sign(state.params - 0.3)).state
    return total / horizon


def test_with_alpha_over_root_t_the_mean_regret_falls_like_one_over_root_t() -> None:
    decreasing = {"schedule": "inverse_square_root", "initial": 0.2}
    horizons = (100, 400, 1600, 6400)
    means = [regret(decreasing, horizon) for horizon in horizons]
    for early, late in pairwise(means):
        assert late <= 0.6 * early
    assert all(mean * sqrt(horizon) < 1.0 for mean, horizon in zip(means, horizons, strict=True))


def test_with_a_constant_rate_it_does_not() -> None:
    assert regret(0.2, 6400) > 10.0 * regret({"schedule": "inverse_square_root", "initial": 0.2}, 6400)


# Closed forms


def on_quadratic(specification: Any, curvature: float, x: float, count: int) -> list[float]:
    """The path on f(x) = a x² / 2."""
    subject = build(specification, single(1))
    state, path = subject.init(np.array([x])), [x]
    for _ in range(count):
        loss = float(curvature * state.params[0] ** 2 / 2.0) if subject.wants != "gradient" else None
        state = subject.step(state, curvature * state.params, loss=loss).state
        path.append(float(state.params[0]))
    return path


@pytest.mark.parametrize("dialect", ["torch", "optax", "keras", "paper", "scratch"])
def test_gradient_descent_on_a_parabola_is_a_geometric_sequence(dialect: str) -> None:
    descent = {"name": "sgd", "dialect": dialect, "learning_rate": 0.1}
    assert on_quadratic(descent, 3.0, 2.0, 50) == pytest.approx([2.0 * 0.7**n for n in range(51)], rel=1e-12)
    assert on_quadratic({**descent, "learning_rate": 1.0}, 2.0, 2.0, 3) == [2.0, -2.0, 2.0, -2.0]


@pytest.mark.parametrize("dialect", ["torch", "optax", "keras", "paper", "scratch"])
def test_the_heavy_ball_is_its_recurrence(dialect: str) -> None:
    """x_{n+1} = (1 + μ - α a) x_n - μ x_{n-1}."""
    path = on_quadratic({"name": "momentum", "dialect": dialect, "learning_rate": 0.1}, 3.0, 2.0, 60)
    for n in range(1, 60):
        assert path[n + 1] == pytest.approx(1.6 * path[n] - 0.9 * path[n - 1], abs=1e-14)


@pytest.mark.parametrize("dialect", ["torch", "optax", "keras", "paper", "scratch"])
def test_nesterov_is_the_textbooks_with_the_gradient_taken_ahead(dialect: str) -> None:
    """v ← μ v - α ∇f(θ + μ v), θ ← θ + v; the parameters here are that θ + μ v."""
    path = on_quadratic({"name": "nesterov", "dialect": dialect, "learning_rate": 0.1}, 3.0, 2.0, 60)
    theta, v = 2.0, 0.0
    for ahead in path:
        assert ahead == pytest.approx(theta + 0.9 * v, abs=1e-13)
        v = 0.9 * v - 0.1 * 3.0 * (theta + 0.9 * v)
        theta += v


@pytest.mark.parametrize("dialect", ["torch", "optax", "keras", "paper", "scratch"])
def test_constant_gradients_speed_momentum_up_to_its_limit(dialect: str) -> None:
    moves = steps({"name": "momentum", "dialect": dialect, "learning_rate": 0.01}, [-2.0] * 200)
    assert moves == pytest.approx([0.02 * (1.0 - 0.9**n) / 0.1 for n in range(1, 201)], rel=1e-11)


def test_dampening_spares_the_first_gradient() -> None:
    moves = steps({"name": "momentum", "learning_rate": 1.0, "dampening": 0.5}, [-1.0, -1.0, -1.0])
    assert moves == pytest.approx([1.0, 0.9 + 0.5, 0.9 * 1.4 + 0.5])


@pytest.mark.parametrize(
    ("dialect", "second"), [("torch", 0.1 * 1.9), ("optax", 0.1 * 1.9), ("keras", 0.9 + 0.1), ("scratch", 0.9 + 0.1)]
)
def test_a_lower_rate_slows_the_past_in_torch_and_optax_only(dialect: str, second: float) -> None:
    falling = {"schedule": "multi_step", "initial": 1.0, "milestones": [1], "gamma": 0.1}
    moves = steps({"name": "momentum", "dialect": dialect, "learning_rate": falling}, [-1.0, -1.0])
    assert moves == pytest.approx([1.0, second])


@pytest.mark.parametrize("dialect", ["torch", "paper", "scratch"])
def test_adagrads_steps_shrink_as_one_over_root_t(dialect: str) -> None:
    adagrad = {"name": "adagrad", "dialect": dialect, "learning_rate": 0.5, "epsilon": 0.0}
    assert steps(adagrad, [-3.0] * 400) == pytest.approx([0.5 / sqrt(t) for t in range(1, 401)], rel=1e-9)


@pytest.mark.parametrize("dialect", ["optax", "keras"])
def test_adagrads_initial_sum_shortens_the_first_steps(dialect: str) -> None:
    adagrad = {"name": "adagrad", "dialect": dialect, "learning_rate": 0.5, "epsilon": 0.0}
    wanted = [0.5 * 0.1 / sqrt(0.1 + t * 0.01) for t in range(1, 30)]
    assert steps(adagrad, [-0.1] * 29) == pytest.approx(wanted, rel=1e-9)


def test_rmsprop_settles_at_steps_of_alpha() -> None:
    moves = steps({"name": "rmsprop", "dialect": "paper", "learning_rate": 0.01}, [-5.0] * 300)
    assert moves == pytest.approx([0.01 / sqrt(1.0 - 0.9**t) for t in range(1, 301)], rel=1e-10)


def test_adadelta_has_the_parameters_units() -> None:
    """Its step is as long whatever unit the gradient is in, once both running means have forgotten ε."""
    adadelta = {"name": "adadelta", "dialect": "paper", "epsilon": 1e-30}
    rows = [-1.0, -2.0, 3.0, -4.0, -5.0]
    assert steps(adadelta, rows) == pytest.approx(steps(adadelta, [1000.0 * g for g in rows]), rel=1e-12)
    assert steps(adadelta, rows)[0] == pytest.approx(1e-15 / sqrt(0.05), rel=1e-12)


def test_the_papers_adamw_decays_by_the_schedule_alone() -> None:
    """p ← p - η (α m̂/√v̂ + λ p), against torch's p ← p (1 - α λ) - α m̂/√v̂."""
    adamw = {"name": "adamw", "epsilon": 0.0, "learning_rate": 0.01, "weight_decay": 0.1}
    half = {"schedule": "constant", "value": 0.5}
    paper = {**adamw, "dialect": "paper", "schedule_multiplier": half}
    assert trajectory(paper, [1.0], at=2.0)[1] == pytest.approx(2.0 - 0.5 * (0.01 + 0.1 * 2.0), rel=1e-12)
    assert trajectory(adamw, [1.0], at=2.0)[1] == pytest.approx(2.0 * (1.0 - 0.001) - 0.01, rel=1e-12)


# Every dialect of everything


def test_every_dialect_descends_on_a_parabola() -> None:
    for label, specification in DIALECTS.items():
        path = on_quadratic({**specification, **_brisk(specification)}, 1.0, 1.0, 400)
        assert abs(path[-1]) < 0.5 * abs(path[0]), label


def _brisk(specification: Any) -> dict[str, float]:
    if specification["name"] in ("dog", "ldog", "dowg", "prodigy", "dadapt_adamw"):
        return {}  # they find the rate themselves
    if "learning_rate" not in specification:
        return {"epsilon": 1e-3} if specification["name"] == "adadelta" else {}
    own = {"adam_learning_rate": 0.02} if specification.get("adam_learning_rate") else {}
    return {"learning_rate": 10.0 if specification["name"] in ("adadelta", "lars") else 0.02, **own}


@pytest.mark.parametrize("specification", DIALECTS.values(), ids=DIALECTS)
def test_without_epsilon_a_coordinate_that_saw_no_gradient_stays(specification: Any) -> None:
    """Where a rule is not elementwise, a whole tensor stays, the first."""
    names = ("epsilon", "epsilon_root", "weight_decay", "adam_epsilon")
    declared = {h.name: h for h in ALGORITHMS[specification["name"]].hyperparameters}
    zero = {k for k in names if k in specification and declared[k].above < 0.0}
    plain = {k: 0.0 if k in zero else v for k, v in specification.items()}
    subject, rows = build(plain, layout()), gradients(10)
    still = 12 if subject.rule.span == "tensor" else 4
    for row in rows:
        row[:still] = 0.0
    state = run(subject, rows)
    name = specification["name"]
    if name in ("asgd", "ftrl", "noisy_sgd", "fromage") or (name, specification["dialect"]) == ("yogi", "optax"):
        assert (state.params[:4] != start()[:4]).all(), (
            "a decay, an overwriting first step, noise, a shrinking, a moment that starts at 1e-6"
        )
    elif name in ("madgrad", "schedule_free", "schedule_free_sgd", "schedule_free_adamw"):
        assert state.params[:4] == pytest.approx(start()[:4], rel=3e-15), "μ p + (1 - μ) p may round"
    else:
        assert state.params[:still].tobytes() == start()[:still].tobytes()
    assert all(np.isfinite(array).all() for array in (state.params, *state.slots))
    moved = bool((state.params[4:] != start()[4:]).any())
    assert moved == (name not in ("adadelta", "dowg")), "their steps grow out of ε alone"


@pytest.mark.parametrize("specification", DIALECTS.values(), ids=DIALECTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_history_gives_the_same_bits(specification: Any, dtype: str) -> None:
    one, other = (run(build(specification, layout(dtype)), gradients(10, dtype)) for _ in range(2))
    assert one.params.tobytes() == other.params.tobytes()
    assert one.params.dtype == DTYPES[dtype]


@pytest.mark.parametrize("specification", DIALECTS.values(), ids=DIALECTS)
def test_tensors_do_not_see_each_other(specification: Any) -> None:
    """A tensor's path is the same alone as in company, but for the rules that are over all of them."""
    if build(specification, layout()).rule.span == "all":
        return
    together = run(build(specification, layout()), gradients(10))
    for name, where in zip(layout().names, layout().slices, strict=True):
        subject = build(
            specification, Layout((name,), (layout().shapes[layout().names.index(name)],), DTYPES["float64"])
        )
        alone = run(subject, [row[where] for row in gradients(10)], subject.init(start()[where]))
        assert alone.params.tobytes() == together.params[where].tobytes()


# The rules as the teaching texts write them in NumPy


class Text:
    """The update rules of the report on day two of the deep-learning course, line by line."""

    def __init__(self, p: Any) -> None:
        self.p, self.a, self.b = p.copy(), np.zeros_like(p), np.zeros_like(p)

    def sgd(self, g: Any, t: int) -> None:
        self.p -= 0.01 * g

    def momentum(self, g: Any, t: int) -> None:
        self.a = 0.9 * self.a - 0.01 * g
        self.p += self.a

    def adagrad(self, g: Any, t: int) -> None:
        self.a += g * g
        self.p -= 0.01 * g / (np.sqrt(self.a) + 1e-7)

    def rmsprop(self, g: Any, t: int) -> None:
        self.a *= 0.99
        self.a += (1 - 0.99) * g * g
        self.p -= 0.01 * g / (np.sqrt(self.a) + 1e-7)

    def adam(self, g: Any, t: int) -> None:
        lr_t = 0.001 * np.sqrt(1.0 - 0.999**t) / (1.0 - 0.9**t)
        self.a += (1 - 0.9) * (g - self.a)
        self.b += (1 - 0.999) * (g**2 - self.b)
        self.p -= lr_t * self.a / (np.sqrt(self.b) + 1e-7)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adagrad", "rmsprop", "adam"])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6])
def test_the_scratch_dialect_is_the_texts_code(name: str, scale: float) -> None:
    rows = [scale * row for row in gradients(50)]
    text = Text(start())
    for t, row in enumerate(rows, 1):
        getattr(text, name)(row, t)
    ours = run(build({"name": name, "dialect": "scratch"}, layout()), rows).params
    assert np.linalg.norm(ours - text.p) <= 1e-12 * np.linalg.norm(text.p - start())


@pytest.mark.parametrize(("kind", "strength"), [("l1", {"strength": 0.1}), ("l2", {"strength": 0.1})])
def test_a_penalty_is_added_to_the_gradient(kind: str, strength: dict[str, float]) -> None:
    subject = build({"name": "sgd", "dialect": "scratch"}, layout(), [{"name": kind, **strength}])
    row = gradients(1)[0]
    wanted = start() - 0.01 * (row + 0.1 * (np.sign(start()) if kind == "l1" else start()))
    assert run(subject, [row]).params == pytest.approx(wanted, rel=1e-14)


def test_descent_on_the_long_valley_of_the_korean_text() -> None:
    """f(x, y) = x²/20 + y² from (-7, 2), a thousand steps of 0.01: each coordinate shrinks on its own."""
    subject = build({"name": "sgd", "dialect": "scratch"}, single(2))
    state = subject.init(np.array([-7.0, 2.0]))
    for _ in range(1000):
        state = subject.step(state, state.params * np.array([0.1, 2.0])).state
    assert state.params == pytest.approx([-7.0 * 0.999**1000, 2.0 * 0.98**1000], rel=1e-10)


PRINTED = {
    "momentum": (
        {"name": "momentum", "dialect": "scratch", "learning_rate": 0.01},
        [(2.766, 5.766), (2.545572, 5.545572), (2.33792882, 5.33792882)],
    ),
    "adagrad": (
        {"name": "adagrad", "dialect": "scratch", "learning_rate": 0.01, "epsilon": 1e-7},
        [(2.98105573, 5.98105573), (2.96210579, 5.96210579), (2.94315017, 5.94315017)],
    ),
    "adam": (
        {"name": "adam", "dialect": "paper", "learning_rate": 0.001, "beta1": 0.99},
        [(2.998, 5.998), (2.996, 5.996)],
    ),
}


@pytest.mark.parametrize("name", PRINTED)
def test_the_printed_steps_are_right_rules_run_over_coordinates_instead_of_time(name: str) -> None:
    """The text's loop starts the rule anew in each step, feeds it the gradient of x and then that of y, and moves
    both coordinates by both. With that, its printed digits on x² + y² from (3, 6) come out of the rules here."""
    specification, printed = PRINTED[name]
    x, y = 3.0, 6.0
    for wanted in printed:
        moved = sum(steps(specification, [2.0 * x, 2.0 * y]))
        x, y = x + moved, y + moved
        digits = 3 if name == "adam" else 8
        assert (round(x, digits), round(y, digits)) == wanted


# Hypothesis over all dialects: nothing but finite numbers comes of moderate ones


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.floats(-1e6, 1e6), min_size=18, max_size=18), st.sampled_from(sorted(DIALECTS)))
def test_moderate_gradients_leave_every_state_finite(row: list[float], label: str) -> None:
    state = run(build(DIALECTS[label], layout()), [np.array(row)] * 3)
    assert all(np.isfinite(array).all() for array in (state.params, *state.slots))
