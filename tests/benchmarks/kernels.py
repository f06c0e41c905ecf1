"""Milliseconds a step: ours, torch fused, optax jitted with donated buffers, and a copy of the same bytes.

Each candidate is a process of its own, on one core and with one thread; they take turns, so that a noisy machine is
noisy for all. torch and optax are measured where they are installed: `pip install -e '.[peers]'`.

    python -m tests.benchmarks.kernels torch '{"optimizer": "adam", "size": 1000000, "dtype": "float32"}'

is such a process: it takes one step for each line that it reads, and answers with the seconds.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SIZES = (1_000_000, 10_000_000)
DTYPES = ("float32", "float64")
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adam": {"name": "adam"},
    "adamw": {"name": "adamw"},
    "momentum": {"name": "sgd", "learning_rate": 0.001, "momentum": 0.9},
    "rmsprop": {"name": "rmsprop"},
    "lion": {"name": "lion", "dialect": "optax", "learning_rate": 0.001},
}
SLOTS = {"adam": 2, "adamw": 2, "momentum": 1, "rmsprop": 1, "lion": 1}
CORE = min(os.sched_getaffinity(0))


def table(rounds: int) -> None:
    """Print a row for each optimizer, size and type, with the ratio to the faster of the peers."""
    names = [name for name in CANDIDATES if name in ("thalweg", "copy") or importlib.util.find_spec(name)]
    print(f"\nkernels: milliseconds a step, one core, medians of {rounds} alternating rounds of three steps")
    print("  " + " ".join(f"{name:>9}" for name in ("", "", "", *names)) + "   thalweg / faster peer")
    for optimizer in OPTIMIZERS:
        for size in SIZES:
            for dtype in DTYPES:
                times = _row(names, {"optimizer": optimizer, "size": size, "dtype": dtype}, rounds)
                peers = [times[name] for name in ("torch", "optax") if name in times]
                ratio = f"{times['thalweg'] / min(peers):.2f}" if peers else "no peer installed"
                cells = " ".join(f"{times[name]:9.2f}" if name in times else f"{'-':>9}" for name in names)
                print(f"  {optimizer:>9} {size:9,} {dtype:>9} {cells}   {ratio}", flush=True)


def _row(names: list[str], task: dict[str, Any], rounds: int) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.kernels"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    wanted = [name for name in names if name != "torch" or task["optimizer"] != "lion"]  # torch has no Lion
    running: dict[str, Any] = {n: subprocess.Popen([*command, n, json.dumps(task)], **pipes) for n in wanted}
    taken: dict[str, list[float]] = {name: [] for name in wanted}
    try:
        for process in running.values():
            process.stdout.readline()  # it is warm
        for _ in range(rounds):
            for name, process in running.items():
                for _ in range(3):
                    process.stdin.write("step\n")
                    process.stdin.flush()
                    taken[name].append(float(process.stdout.readline()))
    finally:
        for process in running.values():
            process.communicate()
    return {name: statistics.median(seconds) * 1e3 for name, seconds in taken.items()}


def thalweg(task: dict[str, Any]) -> Callable[[], Any]:
    """A step over the state itself, in the compiled loop."""
    from service.optim import kernels
    from service.optim.optimizer import build
    from service.optim.tensors import single

    optimizer = build(OPTIMIZERS[task["optimizer"]], single(task["size"], task["dtype"]))
    spec, rng = optimizer.specification, np.random.default_rng(1)
    form = kernels.Form(np.dtype(task["dtype"]).char, optimizer.decaying, True)
    kernels.compiled(optimizer.rule, form, type(spec.dialect.scalars(spec.values, 1)))
    state = optimizer.init(rng.standard_normal(task["size"]).astype(task["dtype"]))
    gradient = rng.standard_normal(task["size"]).astype(task["dtype"])

    def step() -> None:
        nonlocal state
        state = optimizer.step(state, gradient, into=state).state

    return step


def torch_(task: dict[str, Any]) -> Callable[[], Any]:
    """torch's fused step, single-threaded; RMSprop has none, and takes the faster of its two."""
    import torch

    torch.set_num_threads(1)
    dtype = getattr(torch, task["dtype"])
    parameter = torch.nn.Parameter(torch.randn(task["size"], dtype=dtype))
    parameter.grad = torch.randn(task["size"], dtype=dtype)
    name = {"adam": "Adam", "adamw": "AdamW", "momentum": "SGD", "rmsprop": "RMSprop"}[task["optimizer"]]
    more: dict[str, Any] = {"momentum": 0.9} if name == "SGD" else {}
    how = [{"foreach": False}, {"foreach": True}] if name == "RMSprop" else [{"fused": True}]
    optimizers = [getattr(torch.optim, name)([parameter], lr=0.001, **more, **one) for one in how]
    best = min(optimizers, key=lambda optimizer: min(_timed(optimizer.step) for _ in range(5)))
    step: Callable[[], Any] = best.step
    return step


def optax_(task: dict[str, Any]) -> Callable[[], Any]:
    """optax's update under jit, with the parameters and the state donated."""
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ |= {"JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    import jax
    import optax

    name = {"momentum": "sgd"}.get(task["optimizer"], task["optimizer"])
    transform = getattr(optax, name)(0.001, **({"momentum": 0.9} if name == "sgd" else {}))
    rng = np.random.default_rng(1)
    params, gradient = (jax.numpy.asarray(rng.standard_normal(task["size"]).astype(task["dtype"])) for _ in range(2))
    state = transform.init(params)

    def update(params: Any, state: Any, gradient: Any) -> Any:
        updates, state = transform.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    jitted = jax.jit(update, donate_argnums=(0, 1))

    def step() -> None:
        nonlocal params, state
        params, state = jax.block_until_ready(jitted(params, state, gradient))

    return step


def copy(task: dict[str, Any]) -> Callable[[], Any]:
    """As many bytes read and written as a step reads and writes."""
    passes = 3 + 2 * SLOTS[task["optimizer"]]  # p, g and the slots are read; p and the slots are written
    source = np.ones(task["size"] * passes // 2, task["dtype"])
    target = np.zeros_like(source)
    return lambda: np.copyto(target, source)


CANDIDATES: dict[str, Callable[[dict[str, Any]], Callable[[], Any]]] = {
    "thalweg": thalweg,
    "torch": torch_,
    "optax": optax_,
    "copy": copy,
}


def _timed(step: Callable[[], Any]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main() -> None:
    """Be one candidate: a step for each line."""
    os.sched_setaffinity(0, {CORE})
    step = CANDIDATES[sys.argv[1]](json.loads(sys.argv[2]))
    for _ in range(3):
        step()
    print("warm", flush=True)
    for _ in sys.stdin:
        print(_timed(step), flush=True)


if __name__ == "__main__":
    main()
