"""The optimizers that choose their own points: the libraries' points, in their order, from the libraries' own runs.

A line search doubles a rounding error every few evaluations, and a branch of it may turn on one. So the first ten
evaluations are held to 1e-12 of the way gone; the later ones too, or to what errors of one last bit in what we are told
come to in runs of our own.
"""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from service.errors import Invalid
from service.optim.optimizer import Optimizer, build
from service.optim.tensors import Array, Layout, single
from tests.golden.evaluating import ADAM, DATA, PROBLEMS, RUNS, SGD, WOLFE, Run, adversary, fingerprint, zoom
from tests.optim.table import same

RECORDS = load_file(DATA / "evaluating.safetensors")
CLOSE = 1e-12
FIRST = 10  # evaluations, in which no error has grown yet
AMPLIFIED = 100.0  # times what one last bit comes to
LOST = 1e-3  # where one last bit comes to more, the path is another one
SEEDS = range(8)

EVERY_RUN = pytest.mark.parametrize("run", RUNS, ids=lambda run: run.id)
EVERY_PROBLEM = pytest.mark.parametrize("problem", PROBLEMS)


class Path(NamedTuple):
    """Every point asked for, the parameters after each step, and how many points were asked for by then."""

    points: Array
    steps: Array
    ends: list[int]


def optimizer(run: Run, size: int) -> Optimizer:
    return build({"like": run.like, **run.arguments}, single(size))


def follow(subject: Optimizer, problem: str, evaluations: int, seed: int | None = None) -> Path:
    """Evaluate where the optimizer asks; with a seed, every number told is off by a last bit."""
    function, start = PROBLEMS[problem]
    random = np.random.default_rng(seed)
    state, points, steps, ends = subject.init(np.array(start)), [], [], []
    with np.errstate(all="ignore"):
        for n in range(evaluations):
            points.append(state.params)
            value, gradient = function(state.params)
            if seed is not None:
                value *= 1.0 + random.choice([-1.0, 1.0]) * 2.0**-52
                gradient = gradient * (1.0 + random.choice([-1.0, 1.0], gradient.size) * 2.0**-52)
            state, _, committed = subject.step(state, gradient, (), value)
            if committed:
                steps.append(state.params)
                ends.append(n + 1)
    return Path(np.stack(points), np.array(steps).reshape(len(steps), len(start)), ends)


def apart(ours: Array, theirs: Array) -> Array:
    """‖ours - theirs‖ / ‖theirs - start‖ at each point; at the start itself, the difference."""
    gone = np.linalg.norm(theirs - theirs[0], axis=1)
    with np.errstate(all="ignore"):
        return np.linalg.norm(ours - theirs, axis=1) / np.where(gone > 0.0, gone, 1.0)


def grown(subject: Optimizer, problem: str, ours: Path) -> Array:
    """How far one last bit has led by each evaluation, in any of several runs."""
    count = len(ours.points)
    each = [apart(follow(subject, problem, count, seed).points, ours.points) for seed in SEEDS]
    return np.maximum.accumulate(np.max(np.nan_to_num(np.stack(each), nan=np.inf), axis=0))


def compared(run: Run, problem: str) -> tuple[Path, Array, Array]:
    """Our path, its distance from the library's, and what is allowed for."""
    return _compared(RUNS.index(run), problem)


@cache
def _compared(index: int, problem: str) -> tuple[Path, Array, Array]:
    run = RUNS[index]
    theirs = RECORDS[f"{run.id}@{problem}.points"]
    subject = optimizer(run, theirs.shape[1])
    ours = follow(subject, problem, len(theirs))
    return ours, apart(ours.points, theirs), np.maximum(CLOSE, AMPLIFIED * grown(subject, problem, ours))


def kept(run: Run, problem: str) -> int:
    """Evaluations before one last bit leads to another path."""
    allowed = compared(run, problem)[2]
    return int(np.argmax(allowed > LOST)) if (allowed > LOST).any() else allowed.size


def falling(run: Run, problem: str) -> int:
    """Evaluations while the value falls by more than its own rounding, on which a search at the minimum decides."""
    values = np.array([PROBLEMS[problem][0](point)[0] for point in compared(run, problem)[0].points])
    still = values - values.min() <= 1e-13 * values[0]
    return min(int(np.argmax(still)), kept(run, problem))


@EVERY_PROBLEM
@EVERY_RUN
def test_the_points_asked_for_are_the_librarys_in_its_order(run: Run, problem: str) -> None:
    _, distances, allowed = compared(run, problem)
    assert (distances[:FIRST] <= CLOSE).all()
    together = kept(run, problem)
    assert (distances[:together] <= allowed[:together]).all()


@EVERY_PROBLEM
@EVERY_RUN
def test_a_step_ends_where_the_librarys_does_at_the_same_parameters(run: Run, problem: str) -> None:
    ours, _, allowed = compared(run, problem)
    theirs = [int(end) for end in RECORDS[f"{run.id}@{problem}.ends"]]
    steps = RECORDS[f"{run.id}@{problem}.steps"]
    if ".sam." in run.id and not run.arguments.get("opaque_mode"):  # each of the climbs is a step to the library
        assert ours.ends == list(range(period := run.arguments.get("sync_period", 2), len(ours.points) + 1, period))
        ours = ours._replace(steps=ours.points[1:])
        theirs, steps = list(range(1, len(ours.points))), steps[: len(ours.steps)]
    else:
        last = falling(run, problem)
        assert [e for e in ours.ends if e <= last] == [e for e in theirs if e <= last]
    start = np.array(PROBLEMS[problem][1])
    for end, mine, other in zip(theirs, ours.steps, steps, strict=False):
        if end < kept(run, problem):
            gone = np.linalg.norm(other - start)
            assert np.linalg.norm(mine - other) <= allowed[end] * (gone or 1.0)


def test_most_paths_are_the_librarys_for_tens_of_evaluations() -> None:
    """How long the paths agree to 1e-12, whatever is allowed for."""
    lengths = []
    for run in RUNS:
        for problem in PROBLEMS:
            _, distances, _ = compared(run, problem)
            far = ~(distances <= CLOSE)
            lengths.append(int(np.argmax(far)) if far.any() else 80)
    assert np.quantile(lengths, 0.1) >= 25
    assert np.median(lengths) >= 60


def test_the_file_is_of_this_table() -> None:
    keys = {f"{run.id}@{name}.{part}" for run in RUNS for name in PROBLEMS for part in ("points", "steps", "ends")}
    assert set(RECORDS) == keys
    with safe_open(DATA / "evaluating.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["made_from"])["cases"] == fingerprint()


@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_gradients_of_the_problems_are_their_slopes(problem: str) -> None:
    function, start = PROBLEMS[problem]
    x = np.array(start) + 0.1
    slopes = [(function(x + h)[0] - function(x - h)[0]) / 2e-6 for h in 1e-6 * np.eye(x.size)]
    assert function(x)[1] == pytest.approx(slopes, rel=1e-5, abs=1e-4)


# Beyond the recorded runs

TORCH = {"like": "torch.optim.LBFGS", "line_search_fn": WOLFE, "tolerance_change": 0.0, "tolerance_grad": 0.0}


@pytest.mark.parametrize("specification", [TORCH, {"like": "optax.lbfgs"}], ids=lambda s: s["like"])
@EVERY_PROBLEM
def test_a_line_search_finds_the_minimum(specification: Any, problem: str) -> None:
    subject = build(specification, single(len(PROBLEMS[problem][1])))
    path = follow(subject, problem, 250)
    assert np.linalg.norm(PROBLEMS[problem][0](path.points[-1])[1]) < 1e-5
    assert all(b <= a + 1e-12 for a, b in pairwise(PROBLEMS[problem][0](p)[0] for p in path.steps))


@pytest.mark.parametrize("specification", [TORCH, {"like": "optax.lbfgs"}, {"like": "torch.optim.LBFGS"}], ids=str)
def test_single_precision_searches_too(specification: Any) -> None:
    function, start = PROBLEMS["rosenbrock_2"]
    subject = build(specification, single(2, "float32"))
    state = subject.init(np.array(start, np.float32))
    lowest = np.inf
    for _ in range(100):
        value, gradient = function(state.params.astype(np.float64))
        lowest = min(lowest, value)
        state = subject.step(state, gradient.astype(np.float32), (), value).state
        assert state.params.dtype == np.float32
    assert lowest < 1e-6


def test_while_it_searches_the_parameters_to_evaluate_with_are_those_of_the_last_step() -> None:
    function, start = PROBLEMS["rosenbrock_2"]
    for specification in (
        {"like": "optax.lbfgs"},
        {**TORCH, "max_iter": 1, "max_eval": 20},
        {"name": "sam", "optimizer": {"name": "adam"}},
    ):
        subject = build(specification, single(2))
        state, last = subject.init(np.array(start)), np.array(start)
        moved = 0
        for _ in range(60):
            value, gradient = function(state.params)
            state, _, committed = subject.step(state, gradient, (), value)
            last = state.params if committed else last
            moved += state.params.tobytes() != last.tobytes()
            assert subject.view(state, "eval").tobytes() == last.tobytes()
        assert moved > 5


def test_the_count_of_steps_waits_for_the_step() -> None:
    function, start = PROBLEMS["rosenbrock_2"]
    rate = {"schedule": "exponential", "initial": 1.0, "gamma": 0.5}
    for specification in ({"name": "lbfgs", "line_search": WOLFE, "learning_rate": rate}, {"like": "optax.lbfgs"}):
        subject = build(specification, single(2))
        state, commits = subject.init(np.array(start)), 0
        for _ in range(40):
            value, gradient = function(state.params)
            state, used, committed = subject.step(state, gradient, (), value)
            assert used == 0.5**commits or "like" in specification
            commits += committed
            assert (state.step, state.counts) == (commits, commits)
        assert 0 < commits < 40


def test_a_step_takes_no_more_evaluations_than_it_says() -> None:
    for run in RUNS:
        for problem in PROBLEMS:
            subject = optimizer(run, len(PROBLEMS[problem][1]))
            most = subject.rule.evaluations(subject.specification.values)
            ends = [0, *follow(subject, problem, 80).ends]
            assert max(b - a for a, b in pairwise([*ends, 80][: len(ends) + (80 - ends[-1] > most)])) <= most


def test_patching_the_limits_in_the_middle_of_a_search_changes_no_state() -> None:
    """The rule is the same object for the same history, whatever else is said."""
    one, other = (build({"name": "lbfgs", "line_search": WOLFE, "max_iterations": n}, single(2)) for n in (3, 30))
    assert one.rule is other.rule
    assert one.rule is not build({"name": "lbfgs", "line_search": WOLFE, "history_size": 3}, single(2)).rule


def test_a_loss_and_every_gradient_are_needed() -> None:
    subject = build({"name": "lbfgs"}, Layout(("a", "b"), ((2,), (1,)), np.dtype("<f8")))
    state = subject.init(np.ones(3))
    with pytest.raises(Invalid, match="needs the loss"):
        subject.step(state, np.ones(3))
    with pytest.raises(Invalid, match="needs the gradient of every parameter") as caught:
        subject.step(state, np.ones(3), (1,), 1.0)
    assert caught.value.places[0].pointer == "/gradients/b"


def test_a_frozen_tensor_stays_out_of_the_search() -> None:
    """The search is that of the others alone."""
    function, start = PROBLEMS["rosenbrock_2"]
    layout = Layout(("a", "b"), ((2,), (1,)), np.dtype("<f8"))
    for specification in ({"like": "optax.lbfgs"}, TORCH, {"name": "sam", "optimizer": {"name": "adam"}}):
        whole = build(specification, layout, groups=[{"match": "b", "frozen": True}])
        alone = build(specification, single(2))
        state, other = whole.init(np.array([*start, 5.0])), alone.init(np.array(start))
        for _ in range(50):
            value, gradient = function(other.params)
            other = alone.step(other, gradient, (), value).state
            state = whole.step(state, np.array([*gradient, 3.0]), (), value).state
            assert state.params[2] == 5.0
            assert state.params[:2].tobytes() == other.params.tobytes()


def test_a_gradient_of_zero_ends_the_step_where_it_is() -> None:
    for specification in (
        {"name": "lbfgs"},
        TORCH,
        {"like": "optax.lbfgs"},
        {"name": "sam", "optimizer": {"name": "sgd"}},
    ):
        subject = build(specification, single(3))
        state = subject.init(np.ones(3))
        for _ in range(6):
            state = subject.step(state, np.zeros(3), (), 1.0).state
            assert state.params.tolist() == [1.0, 1.0, 1.0]
            assert all(np.isfinite(slot).all() for slot in state.slots)


def test_what_an_optimizer_that_chooses_its_points_cannot_do_is_refused() -> None:
    for specification, pointer in (
        ({"name": "lookahead", "optimizer": {"name": "lbfgs"}}, "/optimizer/optimizer"),
        ({"name": "sam", "optimizer": {"name": "sam", "optimizer": {"name": "sgd"}}}, "/optimizer/optimizer"),
        ({"name": "lbfgs", "line_search": "zoom"}, "/optimizer/line_search"),
        (
            {"like": "optax.lbfgs", "linesearch": {"like": "optax.scale_by_backtracking_linesearch"}},
            "/optimizer/linesearch",
        ),
        ({"like": "optax.lbfgs", "linesearch": zoom()}, "/optimizer/linesearch"),
        (
            {"like": "optax.lbfgs", "linesearch": zoom(max_linesearch_steps=0)},
            "/optimizer/linesearch/max_linesearch_steps",
        ),
        ({"like": "optax.lbfgs", "linesearch": zoom(max_steps=1)}, "/optimizer/linesearch/max_steps"),
        ({"like": "torch.optim.LBFGS", "line_search_fn": "weak"}, "/optimizer/line_search_fn"),
        ({"like": "torch.optim.LBFGS", "max_eval": 0}, "/optimizer/max_eval"),
        (sam(adv_optimizer=SGD), "/optimizer/adv_optimizer"),
        (sam(adv_optimizer={"like": "optax.chain", "args": [SGD]}), "/optimizer/adv_optimizer/args"),
        (sam(adv_optimizer={"like": "optax.chain", "args": [SGD, SGD]}), "/optimizer/adv_optimizer/args/0"),
        (sam(adv_optimizer=adversary(-1.0)), "/optimizer/adv_optimizer/args/1/learning_rate"),
        (sam(optimizer={"like": "keras.optimizers.SGD", "clipnorm": 1.0}), "/optimizer/optimizer"),
        (sam(optimizer={"like": "optax.adam", "b1": 2.0, "learning_rate": 1.0}), "/optimizer/optimizer/b1"),
    ):
        with pytest.raises(Invalid) as caught:
            build(specification, single(2))
        assert caught.value.places[0].pointer == pointer
        assert len(caught.value.detail) > 25


def sam(**arguments: Any) -> dict[str, Any]:
    return {"like": "optax.contrib.sam", "optimizer": ADAM, "adv_optimizer": adversary(0.05), **arguments}


def test_no_search_is_the_null_of_both_libraries() -> None:
    fixed = build({"like": "optax.lbfgs", "learning_rate": None, "linesearch": None}, single(2))
    assert (fixed.specification.values["line_search"], fixed.wants, fixed.partial) == ("none", "gradient", False)
    torch = build({"like": "torch.optim.LBFGS", "line_search_fn": None, "max_eval": None}, single(2))
    assert torch.as_json() == build({"name": "lbfgs"}, single(2)).as_json()


# SAM as the paper has it


def test_sam_climbs_along_the_gradient_and_steps_from_where_it_began() -> None:
    """A plain transcription: ε = ρ g / (‖g‖ + 1e-12), then gradient descent with the gradient at θ + ε."""
    function, start = PROBLEMS["rosenbrock_10"]
    subject = build({"name": "sam", "rho": 0.1, "optimizer": {"name": "sgd", "learning_rate": 1e-4}}, single(10))
    state, theta = subject.init(np.array(start)), np.array(start)
    for _ in range(50):
        gradient = function(theta)[1]
        climbed = theta + 0.1 * gradient / (np.sqrt(np.sum(gradient**2)) + 1e-12)
        state, _, committed = subject.step(state, function(state.params)[1])
        assert not committed
        assert state.params == pytest.approx(climbed, rel=1e-13)
        theta = theta - 1e-4 * function(climbed)[1]
        state, _, committed = subject.step(state, function(state.params)[1])
        assert committed
        assert state.params == pytest.approx(theta, rel=1e-12)


def test_the_climb_leaves_no_trace_in_the_wrapped_optimizer() -> None:
    """With a radius of zero SAM is the optimizer itself, at twice the gradients."""
    function, start = PROBLEMS["quadratic_8"]
    inner = {"name": "adam", "learning_rate": {"schedule": "exponential", "initial": 0.1, "gamma": 0.9}}
    subject, plain = build({"name": "sam", "rho": 0.0, "optimizer": inner}, single(8)), build(inner, single(8))
    state, other = subject.init(np.array(start)), plain.init(np.array(start))
    for _ in range(20):
        for _ in range(2):
            state = subject.step(state, function(state.params)[1]).state
        other = plain.step(other, function(other.params)[1]).state
        assert state.params.tobytes() == other.params.tobytes()
    assert (state.step, state.counts) == (20, 20)


@pytest.mark.parametrize("specification", [TORCH, {"like": "optax.lbfgs"}, sam()], ids=lambda s: s["like"])
def test_every_evaluation_may_be_in_another_process(specification: Any) -> None:
    function, start = PROBLEMS["rosenbrock_10"]
    subject = build(specification, single(10))
    state = other = subject.init(np.array(start))
    for _ in range(40):
        value, gradient = function(state.params)
        state = subject.step(state, gradient, (), value).state
        again = build(json.loads(json.dumps(subject.as_json()))["optimizer"], single(10))
        stored = [np.frombuffer(a.tobytes(), a.dtype) for a in (other.params, *other.slots)]
        other = again.step(other._replace(params=stored[0], slots=tuple(stored[1:])), gradient, (), value).state
        assert same(state, other)
