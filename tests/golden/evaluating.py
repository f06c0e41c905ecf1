"""Run the real libraries' optimizers that choose their own points, and record every point that they ask for.

python -m tests.golden.evaluating [--check], from the root of the repository

The functions are sums, products and quotients alone, so that they have the same bits on every machine, and come with
their gradients: the libraries and the tests call the same ones.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tests.golden.make import DATA, Array, check, nested, pack_table, resolve, use_jax

Problem = Callable[[Array], tuple[float, Array]]
EVALUATIONS = 80  # of each run, at most
STEPS = 40


def rosenbrock(x: Array) -> tuple[float, Array]:
    """Σ 100 (x_{i+1} - x_i²)² + (1 - x_i)²."""
    up, left = x[1:] - x[:-1] * x[:-1], 1.0 - x[:-1]
    slope = np.zeros_like(x)
    slope[1:] += 200.0 * up
    slope[:-1] -= 400.0 * x[:-1] * up + 2.0 * left
    return float(np.add.reduce(100.0 * up * up + left * left)), slope


def quadratic(x: Array) -> tuple[float, Array]:
    """½ Σ 4^i (x_i - x_{i+1} / 2)² with eight terms: a condition number of some 10⁵."""
    weights = 4.0 ** np.arange(x.size)
    u = x.copy()
    u[:-1] -= 0.5 * x[1:]
    slope = weights * u
    slope[1:] -= 0.5 * weights[:-1] * u[:-1]
    return float(0.5 * np.add.reduce(weights * u * u)), slope


def least_squares(x: Array) -> tuple[float, Array]:
    """½ Σ r² of a saturating curve and a line, r = a t / (b² + t) + c t - y, in 24 points."""
    t = np.arange(1, 25) / 8.0
    y = 2.0 * t / (0.75 + t) - 0.25 * t + 0.125 * np.tile([1.0, -1.0, 0.5, -0.5], 6)
    bottom = x[1] * x[1] + t
    r = x[0] * t / bottom + x[2] * t - y
    columns = (t / bottom, -2.0 * x[0] * x[1] * t / (bottom * bottom), t)
    return float(0.5 * np.add.reduce(r * r)), np.array([np.add.reduce(r * column) for column in columns])


PROBLEMS: dict[str, tuple[Problem, list[float]]] = {
    "rosenbrock_2": (rosenbrock, [-1.2, 1.0]),
    "rosenbrock_10": (rosenbrock, [-1.2, 1.0] * 5),
    "quadratic_8": (quadratic, [1.0, -2.0, 3.0, -1.0, 0.5, 2.0, -1.5, 1.0]),
    "least_squares_3": (least_squares, [1.0, 1.0, 0.0]),
}


@dataclass(frozen=True)
class Run:
    """One optimizer with one set of arguments, in its library's own words."""

    id: str
    like: str
    arguments: dict[str, Any]


def _torch(id: str, **arguments: Any) -> Run:
    return Run(f"torch.lbfgs.{id}", "torch.optim.LBFGS", arguments)


def _optax(id: str, **arguments: Any) -> Run:
    return Run(f"optax.lbfgs.{id}", "optax.lbfgs", arguments)


def _sam(id: str, **arguments: Any) -> Run:
    return Run(f"optax.sam.{id}", "optax.contrib.sam", arguments)


def zoom(**arguments: Any) -> dict[str, Any]:
    """optax's search."""
    return {"like": "optax.scale_by_zoom_linesearch", **arguments}


def adversary(rho: float) -> dict[str, Any]:
    """The adversary of the paper: normalised gradient ascent."""
    descent = {"like": "optax.sgd", "learning_rate": rho}
    return {"like": "optax.chain", "args": [{"like": "optax.contrib.normalize"}, descent]}


WOLFE = "strong_wolfe"
SGD, ADAM = {"like": "optax.sgd", "learning_rate": 1e-3}, {"like": "optax.adam", "learning_rate": 0.05, "b2": 0.9}
RUNS = (
    _torch("default"),
    _torch("slow", lr=0.1, max_iter=5, history_size=2),
    _torch("single", lr=0.5, max_iter=1, history_size=3),
    _torch("tolerant", lr=0.2, max_iter=10, max_eval=4, tolerance_grad=1e-2, tolerance_change=1e-4, history_size=5),
    _torch("wolfe", line_search_fn=WOLFE),
    _torch("wolfe_short", line_search_fn=WOLFE, max_iter=4, max_eval=6, history_size=3),
    _torch("wolfe_far", line_search_fn=WOLFE, lr=20.0, max_iter=3, history_size=4),
    _torch("wolfe_near", line_search_fn=WOLFE, lr=0.01, max_iter=6, max_eval=30, history_size=8),
    _torch("wolfe_tolerant", line_search_fn=WOLFE, tolerance_grad=1e-3, tolerance_change=1e-3, max_iter=8),
    _torch("wolfe_single", line_search_fn=WOLFE, max_iter=1, max_eval=1, history_size=5),
    _optax("default"),
    _optax("fixed", learning_rate=0.1, linesearch=None),
    _optax("fixed_plain", learning_rate=1e-4, memory_size=2, scale_init_precond=False, linesearch=None),
    _optax("plain", memory_size=3, scale_init_precond=False),
    _optax("rate", learning_rate=0.25, memory_size=5),
    _optax(
        "strict",
        linesearch=zoom(max_linesearch_steps=15, curv_rtol=0.05, slope_rtol=0.01, approx_dec_rtol=None, tol=1e-9),
    ),
    _optax(
        "keep",
        memory_size=4,
        linesearch=zoom(
            max_linesearch_steps=4, initial_guess_strategy="keep", max_learning_rate=1.5, increase_factor=1.5
        ),
    ),
    _optax("coarse", linesearch=zoom(max_linesearch_steps=10, curv_rtol=0.01, stepsize_precision=0.1)),
    _sam("default", optimizer=SGD, adv_optimizer=adversary(0.05)),
    _sam("three", optimizer=ADAM, adv_optimizer=adversary(0.01), sync_period=3),
    _sam("opaque", optimizer=ADAM, adv_optimizer=adversary(0.05), opaque_mode=True),
    _sam("opaque_three", optimizer=SGD, adv_optimizer=adversary(0.5), sync_period=3, opaque_mode=True),
    _sam("single", optimizer=SGD, adv_optimizer=adversary(0.5), sync_period=1),
)


class Enough(Exception):
    """As many evaluations as are recorded were made."""


class Asked:
    """A function that remembers where it was evaluated."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.points: list[Array] = []

    def __call__(self, x: Array) -> tuple[float, Array]:
        if len(self.points) == EVALUATIONS:
            raise Enough
        self.points.append(np.array(x, np.float64))
        return self.problem(self.points[-1])


def run_torch(run: Run, asked: Asked, start: Array) -> Iterator[Array]:
    """The parameters after each step."""
    import torch

    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
    optimizer = resolve(run.like)([parameter], **run.arguments)

    def closure() -> float:
        value, gradient = asked(parameter.detach().numpy())
        parameter.grad = torch.from_numpy(gradient)
        return value

    for _ in range(STEPS):
        optimizer.step(closure)
        yield parameter.detach().numpy().copy()


def run_optax(run: Run, asked: Asked, start: Array) -> Iterator[Array]:
    """The same outside jit, so that the loops of the searches are Python's and nothing is fused."""
    jax = use_jax()
    import optax

    @jax.custom_vjp
    def function(x: Any) -> Any:
        return asked(np.asarray(x))[0]

    def forward(x: Any) -> Any:
        value, gradient = asked(np.asarray(x))
        return jax.numpy.asarray(value), jax.numpy.asarray(gradient)

    function.defvjp(forward, lambda gradient, g: (g * gradient,))
    with jax.disable_jit():
        transform = nested(run.like, run.arguments)
        parameters = jax.numpy.asarray(start)
        state = jax.tree.map(lambda x: x.astype("int64") if x.dtype == "int32" else x, transform.init(parameters))
        for _ in range(STEPS):
            value, gradient = asked(np.asarray(parameters))
            more: dict[str, Any] = {}
            if run.arguments.get("linesearch", True) and run.like == "optax.lbfgs":
                more = {"value": jax.numpy.asarray(value), "grad": jax.numpy.asarray(gradient), "value_fn": function}
            elif run.arguments.get("opaque_mode"):
                more = {"grad_fn": lambda x, i: jax.numpy.asarray(asked(np.asarray(x))[1])}
            updates, state = transform.update(jax.numpy.asarray(gradient), state, parameters, **more)
            parameters = optax.apply_updates(parameters, updates)
            yield np.asarray(parameters)


def record(run: Run, name: str) -> dict[str, Array]:
    """points: every point asked for; steps: the parameters after each whole step; ends: points asked for till then."""
    problem, start = PROBLEMS[name]
    asked, steps, ends = Asked(problem), [], []
    library = run_torch if run.like.startswith("torch") else run_optax
    with suppress(Enough):
        for parameters in library(run, asked, np.array(start)):
            steps.append(parameters)
            ends.append(len(asked.points))
    points = np.stack(asked.points)
    finite = int(np.argmin([*np.isfinite(points).all(axis=1) & (np.abs(points) < 1e100).all(axis=1), False]))
    whole = sum(end <= finite for end in ends)
    return {
        f"{run.id}@{name}.points": points[:finite],
        f"{run.id}@{name}.steps": np.array(steps[:whole]).reshape(whole, len(start)),
        f"{run.id}@{name}.ends": np.array(ends[:whole], np.float64),
    }


def fingerprint() -> str:
    """Changes with anything that the file was made from but the functions themselves."""
    starts = {name: start for name, (_, start) in PROBLEMS.items()}
    text = json.dumps([EVALUATIONS, STEPS, starts, [asdict(run) for run in RUNS]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def main() -> int:
    """Write the file, or compare with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    options = parser.parse_args()
    tables: dict[str, Array] = {}
    for run in RUNS:
        for name in PROBLEMS:
            tables |= record(run, name)
    content = pack_table(tables, fingerprint(), ("jax", "jaxlib", "optax", "torch"))
    path = DATA / "evaluating.safetensors"
    if options.check:
        return 0 if check(path, content) else 1
    path.write_bytes(content)
    print(f"{path.name}: {len(content)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
