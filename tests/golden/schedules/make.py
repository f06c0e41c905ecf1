"""Run the libraries' own schedules on every case and record their values.

python tests/golden/schedules/make.py torch|optax|keras|all [--check]

torch: the learning rate that each step of an SGD uses, the scheduler stepped after it; default dtype float64.
What follows the loss is shown one of LOSSES: torch's and Keras' after the step, optax' with the update itself.
optax: jax in double precision; the count is given in float64, since from an int32 count jax computes in float32.
Keras: on jax in double precision with floatx float64; the step is given in float64. Keras' cos, floor and log round
    float64 to float32 whatever the floatx, so that jax's own stand in for these three.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from cases import LIBRARIES, LOSSES, Case, fingerprint
from numpy.typing import NDArray
from safetensors.numpy import load, save

Array = NDArray[np.float64]

DATA = Path(__file__).parent / "data"
PACKAGES = {"torch": ("torch",), "optax": ("jax", "jaxlib", "optax"), "keras": ("jax", "jaxlib", "keras")}


def resolve(path: str) -> Any:
    """The object that a dotted path names."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def torch_scheduler(optimizer: Any, like: str, arguments: dict[str, Any]) -> Any:
    """The scheduler, those inside it made first."""
    given = dict(arguments)
    inner = [torch_scheduler(optimizer, part.pop("like"), part) for part in map(dict, given.pop("schedulers", []))]
    if like.endswith("ChainedScheduler"):
        return resolve(like)(inner, **given)
    return resolve(like)(optimizer, **({"schedulers": inner} if inner else {}), **given)


def run_torch(case: Case) -> Array:
    """The learning rate at each step."""
    import torch

    torch.set_default_dtype(torch.float64)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=case.initial or 1.0)
    rates = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        scheduler = torch_scheduler(optimizer, case.like, case.arguments)
        for _ in range(case.steps):
            rates.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            scheduler.step(*shown(case, len(rates) - 1))
    return np.array(rates)


def shown(case: Case, n: int) -> list[float]:
    """The loss at this count, for a schedule that follows it."""
    return [LOSSES[case.losses](n)] if case.losses else []


def optax_schedule(like: str, arguments: dict[str, Any]) -> Any:
    """The schedule, those inside it made first; boundaries are numbers again."""
    given = dict(arguments)
    if "schedules" in given:
        given["schedules"] = [optax_schedule(part.pop("like"), part) for part in map(dict, given["schedules"])]
    if "boundaries_and_scales" in given:
        given["boundaries_and_scales"] = {int(b): s for b, s in given["boundaries_and_scales"].items()}
    return resolve(like)(**given)


def values(case: Case, schedule: Any, number: Any) -> Array:
    """The schedule at each count, in double precision."""
    found = [np.asarray(schedule(number(n))) for n in range(case.steps)]
    kinds = {value.dtype for value in found}
    if kinds != {np.dtype(np.float64)}:
        raise SystemExit(f"{case.id}: not float64 but {kinds}")
    return np.array(found, dtype=np.float64)


def run_optax(case: Case) -> Array:
    """Outside jit, so that nothing is fused."""
    os.environ |= {"JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"}
    import jax

    if case.losses:
        return follow_optax(case)
    return values(case, optax_schedule(case.like, case.arguments), lambda n: jax.numpy.asarray(n, dtype="float64"))


def follow_optax(case: Case) -> Array:
    """The initial rate times the scale of the update that the same call makes."""
    import jax

    transform = resolve(case.like)(**case.arguments)
    one = jax.numpy.ones((), dtype="float64")
    state = transform.init(one)
    rates = []
    for n in range(case.steps):
        scale, state = transform.update(one, state, one, value=LOSSES[case.losses](n))
        rates.append(float(case.initial or 1.0) * float(scale))
    return np.array(rates)


def follow_keras(case: Case) -> Array:
    """The rate of the optimizer before each epoch, whose end the callback sees."""
    import keras

    class Model:
        optimizer = keras.optimizers.SGD(learning_rate=case.initial)

    callback = resolve(case.like)(monitor="loss", **case.arguments)
    callback.set_model(Model())
    callback.on_train_begin()
    rates = []
    for n in range(case.steps):
        rates.append(float(Model.optimizer.learning_rate.value))
        callback.on_epoch_end(n, {"loss": LOSSES[case.losses](n)})
    return np.array(rates)


def run_keras(case: Case) -> Array:
    """Keras' schedule on the jax backend, with three operations of jax's own instead of the rounding ones."""
    os.environ |= {"JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu", "KERAS_BACKEND": "jax"}
    import jax
    import keras

    keras.backend.set_floatx("float64")
    operations = importlib.import_module("keras.src.backend.jax.numpy")
    for name in ("cos", "floor", "log"):
        setattr(operations, name, getattr(jax.numpy, name))
    if case.losses:
        return follow_keras(case)
    schedule = resolve(case.like)(**case.arguments)
    return values(case, schedule, lambda n: keras.ops.convert_to_tensor(n, dtype="float64"))


RUNS = {"torch": run_torch, "optax": run_optax, "keras": run_keras}


def make(library: str) -> bytes:
    """The file of one library. One metadata key only: with several, safetensors writes them in any order."""
    cases = LIBRARIES[library]
    table = {case.id: RUNS[library](case) for case in cases}
    for name, row in table.items():
        if not np.isfinite(row).all():
            raise SystemExit(f"{name}: not finite")
    versions = {name: importlib.metadata.version(name).partition("+")[0] for name in PACKAGES[library]}
    about = json.dumps(versions | {"cases": fingerprint(cases)}, sort_keys=True)
    return save(table, metadata={"made_from": about})


def report(old: bytes, new: bytes) -> None:
    """How two files differ."""
    before, after = load(old), load(new)
    for key in sorted(before.keys() | after.keys()):
        if key not in before or key not in after or before[key].shape != after[key].shape:
            print(f"  {key} is in one only, or of another length")
        elif not np.array_equal(before[key], after[key]):
            print(f"  {key} differs by at most {np.abs(before[key] - after[key]).max():.3g}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=[*LIBRARIES, "all"])
    parser.add_argument("--check", action="store_true", help="compare with what is there, write nothing")
    asked = parser.parse_args()
    failed = 0
    for library in LIBRARIES if asked.library == "all" else [asked.library]:
        path, content = DATA / f"{library}.safetensors", make(library)
        if not asked.check:
            DATA.mkdir(exist_ok=True)
            path.write_bytes(content)
            print(f"{path.name}: {len(content)} bytes")
        elif path.read_bytes() != content:
            failed = 1
            print(f"{path.name} differs")
            report(path.read_bytes(), content)
    return failed


if __name__ == "__main__":
    sys.exit(main())
