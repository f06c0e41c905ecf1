"""The paths: against loops written by hand, and against the optimizer's own step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from service.functions import catalogue
from service.functions.base import Array, Function
from service.optim import kernels
from service.optim.catalogue import ALGORITHMS
from service.optim.hyperparameters import REQUIRED
from service.optim.kernels import in_floats
from service.optim.optimizer import Optimizer, build
from service.optim.rule import Rule, divide, where
from service.optim.tensors import norm, single
from service.sandbox import Run, plan, run
from tests.optim.table import sample

ROSENBROCK = catalogue.get("rosenbrock")
SPHERE = catalogue.get("sphere")


def only(function: str, start: Any, steps: int, optimizer: dict[str, Any], **more: Any) -> Run:
    """The run of one optimizer."""
    (done,) = run(plan(function, start, steps, [optimizer], **more))
    return done


# Against loops written by hand: the same operations in the same order, and so the same bits.


def sgd(p: Array, gradient: Callable[[Array], Array], steps: int, lr: float) -> list[Array]:
    path = [p]
    for _ in range(steps):
        p = p - lr * gradient(p)
        path.append(p)
    return path


def momentum(p: Array, gradient: Callable[[Array], Array], steps: int, lr: float, a: float) -> list[Array]:
    path, v = [p], np.zeros_like(p)
    for _ in range(steps):
        v = a * v - lr * gradient(p)
        p = p + v
        path.append(p)
    return path


def adagrad(p: Array, gradient: Callable[[Array], Array], steps: int, lr: float, eps: float) -> list[Array]:
    path, h = [p], np.zeros_like(p)
    for _ in range(steps):
        g = gradient(p)
        h = h + g * g
        p = p - lr * g / (np.sqrt(h) + eps)
        path.append(p)
    return path


def rmsprop(p: Array, gradient: Callable[[Array], Array], steps: int, lr: float, a: float, eps: float) -> list[Array]:
    path, h = [p], np.zeros_like(p)
    for _ in range(steps):
        g = gradient(p)
        h = a * h + (1.0 - a) * (g * g)
        p = p - lr * (g / (np.sqrt(h) + eps))
        path.append(p)
    return path


def adadelta(p: Array, gradient: Callable[[Array], Array], steps: int, rho: float, eps: float) -> list[Array]:
    path, v, a = [p], np.zeros_like(p), np.zeros_like(p)
    for _ in range(steps):
        g = gradient(p)
        v = rho * v + (1.0 - rho) * (g * g)
        delta = np.sqrt(a + eps) / np.sqrt(v + eps) * g
        a = rho * a + (1.0 - rho) * (delta * delta)
        p = p - delta
        path.append(p)
    return path


def adam(
    p: Array, gradient: Callable[[Array], Array], steps: int, lr: float, b1: float, b2: float, eps: float, decay: float
) -> list[Array]:
    path, m, v = [p], np.zeros_like(p), np.zeros_like(p)
    for t in range(1, steps + 1):
        g = gradient(p)
        p = (1.0 - lr * decay) * p
        m = m + (1.0 - b1) * (g - m)
        v = b2 * v + (1.0 - b2) * (g * g)
        p = p - lr / (1.0 - b1**t) * m / (np.sqrt(v / (1.0 - b2**t)) + eps)
        path.append(p)
    return path


BY_HAND: dict[str, tuple[dict[str, Any], Callable[..., list[Array]], tuple[float, ...]]] = {
    "sgd": ({"name": "sgd", "learning_rate": 0.001}, sgd, (0.001,)),
    "momentum": ({"name": "momentum", "dialect": "scratch", "learning_rate": 3e-4}, momentum, (3e-4, 0.9)),
    "adagrad": ({"name": "adagrad", "dialect": "scratch", "learning_rate": 0.1}, adagrad, (0.1, 1e-7)),
    "rmsprop": ({"name": "rmsprop", "dialect": "scratch", "learning_rate": 0.01}, rmsprop, (0.01, 0.99, 1e-7)),
    "adadelta": ({"name": "adadelta", "dialect": "paper"}, adadelta, (0.95, 1e-6)),
    "adam": ({"name": "adam", "learning_rate": 0.02}, adam, (0.02, 0.9, 0.999, 1e-8, 0.0)),
    "adamw": ({"name": "adamw", "learning_rate": 0.02, "weight_decay": 0.1}, adam, (0.02, 0.9, 0.999, 1e-8, 0.1)),
}


@pytest.mark.parametrize("d", [2, 9], ids=["numbers", "arrays"])
@pytest.mark.parametrize("name", BY_HAND)
def test_a_path_is_that_of_a_loop_written_by_hand(name: str, d: int) -> None:
    optimizer, loop, arguments = BY_HAND[name]
    start = np.resize([-1.2, 1.0], d)
    expected = np.array(loop(start, ROSENBROCK.gradient, 1100, *arguments))  # past two blocks
    done = only("rosenbrock", start, 1100, optimizer)
    assert done.status == "completed"
    assert np.array_equal(done.params, expected)
    assert np.array_equal(done.values, [ROSENBROCK.value(p) for p in expected])
    assert np.array_equal(done.gradient_norms, [norm(ROSENBROCK.gradient(p)) for p in expected])
    assert np.array_equal(done.recorded_steps, np.arange(1101))


def test_ten_steps_from_3_6_by_the_correct_rules() -> None:
    """The four optimizers of "CNN with Python scripts", each coordinate with its own state."""
    runs = run(
        plan(
            "sphere",
            [3.0, 6.0],
            10,
            [
                {"name": "momentum", "dialect": "scratch", "learning_rate": 0.01, "momentum": 0.9},
                {"name": "adagrad", "dialect": "scratch", "learning_rate": 0.01},
                {"name": "rmsprop", "dialect": "scratch", "learning_rate": 0.01, "rho": 0.99},
                {"name": "adam", "learning_rate": 0.001, "beta1": 0.99},
            ],
        )
    )
    x = runs[0].params
    assert x[1] == pytest.approx([2.94, 5.88], rel=1e-15)
    assert x[2] == pytest.approx([2.8272, 5.6544], rel=1e-15)
    assert x[3] == pytest.approx([2.669136, 5.338272], rel=1e-14)
    assert x[:, 1] == pytest.approx(2 * x[:, 0], rel=1e-14)  # a linear rule keeps the direction
    x = runs[1].params
    assert x[1] == pytest.approx([2.99, 5.99], abs=1e-8)
    assert x[2, 0] == pytest.approx(2.99 - 0.01 * 5.98 / (36 + 5.98**2) ** 0.5, abs=1e-8)
    x = runs[2].params
    assert x[1] == pytest.approx([2.9, 5.9], abs=1e-7)  # 0.01 / sqrt(1 - 0.99), whatever the gradient
    x = runs[3].params
    assert x[:, 0] == pytest.approx(3 - 0.001 * np.arange(11), abs=1e-7)  # every step is nearly the learning rate
    assert x[:, 1] == pytest.approx(6 - 0.001 * np.arange(11), abs=1e-7)


def test_a_thousand_steps_down_the_long_bowl_in_closed_form() -> None:
    """The path of "Deep Learning from Scratch, training skills", by the right gradient."""
    done = only("long_bowl", [-7.0, 2.0], 1000, {"name": "sgd", "learning_rate": 0.01})
    n = np.arange(1001)
    assert done.params[:, 0] == pytest.approx(-7 * 0.999**n, rel=1e-12)
    assert done.params[:, 1] == pytest.approx(2 * 0.98**n, rel=1e-12)


# Against the optimizer's own step


def every_dialect() -> list[Any]:
    cases = []
    for algorithm in ALGORITHMS.values():
        for name, dialect in algorithm.dialects.items():
            spec: dict[str, Any] = {"name": algorithm.name, "dialect": name}
            declared = {h.name: h for h in algorithm.hyperparameters}
            spec |= {key: sample(declared[key]) for key, value in dialect.defaults.items() if value is REQUIRED}
            if dialect.rule({**dialect.defaults, **spec}).fits((2,)) is not None:
                continue  # a point is a vector, which is not for it
            cases.append(pytest.param(spec, id=f"{algorithm.name}-{name}"))
            if "weight_decay" in dialect.defaults:
                cases.append(pytest.param({**spec, "weight_decay": 0.05}, id=f"{algorithm.name}-{name}-decay"))
            if "maximize" in dialect.defaults:
                cases.append(pytest.param({**spec, "maximize": True}, id=f"{algorithm.name}-{name}-climb"))
            rate = next((h for h in algorithm.hyperparameters if h.name == "learning_rate"), None)
            if rate and rate.schedulable and rate.name in dialect.defaults:
                schedule = {"schedule": "linear", "initial": 0.01, "final": 0.005, "steps": 30}
                cases.append(pytest.param({**spec, "learning_rate": schedule}, id=f"{algorithm.name}-{name}-schedule"))
    return cases


def stepped(optimizer: Optimizer, function: Function, start: Any, steps: int) -> Array:
    state = optimizer.init(np.array(start))
    path = [state.params]
    while len(path) <= steps:
        loss = float(function.value(state.params)) if optimizer.wants != "gradient" else None
        state, _, committed = optimizer.step(state, function.gradient(state.params), loss=loss)
        if committed:
            path.append(state.params)
    return np.array(path)


@pytest.mark.parametrize("spec", every_dialect())
@pytest.mark.parametrize("start", [[3.0, -0.5], [0.0, 0.0]], ids=["away", "gradient 0"])
def test_every_optimizer_has_the_bits_of_its_own_step(spec: dict[str, Any], start: list[float]) -> None:
    done = only("sphere", start, 70, spec)
    assert np.array_equal(done.params, stepped(build(spec, single(2)), SPHERE, start, done.steps))
    assert done.status == "completed" or not any(start)


OPTIONS = [
    {"name": "adam", "amsgrad": True},
    {"name": "adam", "dialect": "optax", "learning_rate": 0.01, "amsgrad": True},
    {"name": "adam", "epsilon": 0.0},
    {"name": "adam", "bias_correction": False},
    {"name": "sgd", "momentum": 0.9, "dampening": 0.5},
    {"name": "sgd", "momentum": 0.9, "nesterov": True},
    {"name": "rmsprop", "centered": True},
    {"name": "rmsprop", "centered": True, "momentum": 0.5},
    {"name": "rmsprop", "momentum": 0.9},
    {"like": "torch.optim.AdamW", "lr": 0.01, "weight_decay": 0.1},
    {"like": "keras.optimizers.Adam", "learning_rate": 0.01, "clipnorm": 1.0},
]


@pytest.mark.parametrize("spec", OPTIONS, ids=str)
def test_every_option_has_the_bits_of_the_optimizer_s_own_step(spec: dict[str, Any]) -> None:
    start = [-1.2, 1.0]
    done = only("rosenbrock", start, 70, spec)
    with np.errstate(all="ignore"):
        assert np.array_equal(done.params, stepped(build(spec, single(2)), ROSENBROCK, start, len(done.params) - 1))


def test_transforms_are_applied() -> None:
    clip = [{"name": "clip_by_value", "limit": 0.5}]
    done = only("sphere", [3.0, 4.0], 5, {"name": "sgd", "learning_rate": 1.0, "transforms": clip})
    assert done.params.tolist() == [[3.0 - 0.5 * n, 4.0 - 0.5 * n] for n in range(6)]
    assert done.optimizer["transforms"] == clip
    again = only("sphere", [3.0, 4.0], 5, dict(done.optimizer))
    assert np.array_equal(again.params, done.params)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adagrad", "rmsprop", "adadelta", "adam", "adamw"])
def test_the_usual_rules_run_on_plain_numbers(name: str) -> None:
    rule = build({"name": name}, single(2)).rule
    plain = in_floats(rule.update)
    assert plain is not None
    assert plain.__code__ is rule.update.__code__  # the rule is written once


def test_a_rule_that_calls_what_is_unknown_runs_on_arrays() -> None:
    assert in_floats(np.hypot) is None
    assert in_floats(calls_hypot) is None


def calls_hypot(p: Any, g: Any, c: Any) -> Any:
    return (p - c.learning_rate * hypot(p, g),)


hypot = np.hypot


@pytest.mark.parametrize("function", [np.abs, np.maximum, np.minimum, np.sign, np.sqrt, divide, where])
def test_the_forms_for_one_number_have_the_bits_of_the_arrays(function: Any) -> None:
    values = [0.0, -0.0, 1.0, -1.0, 2.5, 1e-320, 1e308, -3e200, np.inf, -np.inf, np.nan]
    form = kernels._FLOAT_FORMS[function]
    count = {np.maximum: 2, np.minimum: 2, divide: 3, where: 3}.get(function, 1)
    for arguments in product(values, repeat=min(count, 2)):
        if function is np.sqrt and arguments[0] < 0:
            continue  # there Python raises, and arrays go on
        given = [*arguments, 0.0][:count]
        if function is where:
            given = [arguments[0] > arguments[1], *arguments]
        with np.errstate(all="ignore"):
            expected = np.asarray(function(*(np.array([x]) for x in given)), float)
        found = np.array([form(*given)])
        if function in (np.maximum, np.minimum) and found == 0.0:  # of which zero, processors disagree
            assert expected == 0.0
        else:
            assert np.array_equal(found, expected, equal_nan=True), arguments
            assert np.isnan(found) or np.signbit(found) == np.signbit(expected), arguments


def test_where_numbers_raise_arrays_go_on() -> None:
    """Python divides by zero with an exception; NumPy answers infinity, and that is a divergence."""

    def broken(p: Any, g: Any, c: Any) -> Any:
        return (p - 1.0 / (g - g),)

    made = plan("sphere", [3.0, 4.0], 5, [{"name": "sgd"}])
    (lane,) = made.lanes
    spec = lane.optimizer.specification
    dialects = {"torch": replace(spec.dialect, rule=lambda values: Rule(broken))}
    changed = replace(spec, algorithm=replace(spec.algorithm, dialects=dialects))
    optimizer = replace(lane.optimizer, specification=changed, members=((changed, (0,)),))
    (done,) = run(replace(made, lanes=(replace(lane, optimizer=optimizer),)))
    assert (done.status, done.diverged_at, len(done.params)) == ("diverged", 1, 1)


# Gradients


def test_central_differences_are_those_of_a_loop_written_by_hand() -> None:
    h = 1e-7

    def central(x: Array) -> Array:
        g = np.empty_like(x)
        for i in range(x.size):
            e = np.zeros_like(x)
            e[i] = h
            g[i] = (ROSENBROCK.value(x + e) - ROSENBROCK.value(x - e)) / (2 * h)
        return g

    start = np.array([-1.2, 1.0, 0.5])
    done = only(
        "rosenbrock",
        start,
        600,
        {"name": "sgd", "learning_rate": 0.001},
        gradient={"kind": "central_difference", "h": h},
    )
    assert np.array_equal(done.params, sgd(start, central, 600, 0.001))
    exact = only("rosenbrock", start, 600, {"name": "sgd", "learning_rate": 0.001})
    assert not np.array_equal(done.params, exact.params)
    assert done.params == pytest.approx(exact.params, abs=1e-5)
    assert only("rosenbrock", start, 9, {"name": "sgd"}, gradient="central_difference").status == "completed"


def test_noise_is_one_sequence_for_every_optimizer() -> None:
    noisy = {"kind": "noisy", "sigma": 0.3, "seed": 7}
    twice = [{"name": "sgd", "learning_rate": 0.1}, {"name": "sgd", "learning_rate": 0.1}]
    first, second = run(plan("sphere", [3.0, 4.0], 700, twice, gradient=noisy))
    assert np.array_equal(first.params, second.params)
    rng = np.random.Generator(np.random.PCG64(7))
    expected = sgd(np.array([3.0, 4.0]), lambda p: 2 * p + 0.3 * rng.standard_normal(2), 700, 0.1)
    assert np.array_equal(first.params, expected)
    other = only("sphere", [3.0, 4.0], 700, twice[0], gradient={**noisy, "seed": 8})
    assert not np.array_equal(other.params, first.params)
    quiet = only("sphere", [3.0, 4.0], 700, twice[0], gradient={**noisy, "sigma": 0})
    assert np.array_equal(quiet.params, only("sphere", [3.0, 4.0], 700, twice[0]).params)


@pytest.mark.parametrize("gradient", ["analytic", "central_difference", {"kind": "noisy", "sigma": 5.0}], ids=str)
def test_the_record_speaks_of_the_function_whatever_gradient_was_given(gradient: Any) -> None:
    done = only("rosenbrock", [-1.2, 1.0], 40, {"name": "adam"}, gradient=gradient)
    assert np.array_equal(done.values, ROSENBROCK.value(done.params))
    assert np.array_equal(done.gradient_norms, [norm(g) for g in ROSENBROCK.gradient(done.params)])
