"""Run the real libraries on every case and record what they do.

python -m tests.golden.make torch|optax|keras|<family>|all [--check], from the root of the repository
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import inspect
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from tests.golden.cases import (
    FAMILIES,
    FLIP_STEP,
    KERAS,
    LATE_ROW,
    LATE_STEP,
    NOISE,
    OPTAX,
    RECORDED,
    SCALES,
    SCHEDULE_STEPS,
    SCHEDULES,
    SEED,
    SHAPES,
    SIZE,
    STEPS,
    TORCH,
    ZERO_ELEMENT,
    ZERO_ROW,
    ZERO_STEPS,
    Case,
    Schedule,
    family,
    fingerprint,
    loss_at,
)

Array = NDArray[np.float64]
Tensors = dict[str, Array]
Gradients = dict[str, Array | None]  # None: the tensor has no gradient in this step

DATA = Path(__file__).parent / "data"
PACKAGES = {"torch": ("torch",), "optax": ("jax", "jaxlib", "optax"), "keras": ("jax", "jaxlib", "keras")}


def make_inputs() -> tuple[Tensors, Tensors]:
    """The initial parameters, and the gradients of all steps at scale 1, stacked along the first axis."""
    random = np.random.default_rng(SEED)
    initial, gradients = {}, {}
    for name, shape in SHAPES.items():
        initial[name] = np.asarray(random.normal(size=shape))
        mean = random.uniform(0.5, 1.5, size=shape) * random.choice([-1.0, 1.0], size=shape)
        gradients[name] = mean + NOISE * random.normal(size=(STEPS, *shape))
    gradients["w"][:, ZERO_ROW] = 0.0
    gradients["w"][: LATE_STEP - 1, LATE_ROW] = 0.0
    gradients["b"][FLIP_STEP - 1 :] *= -1.0
    for step in ZERO_STEPS:
        gradients["w"][(step - 1, *ZERO_ELEMENT)] = 0.0
    return initial, gradients


def steps_of(case: Case, gradients: Tensors, scale: float) -> Iterator[Gradients]:
    """The gradients of each step as the case sees them."""
    for index in range(STEPS):
        yield {
            name: None if index + 1 in case.absent.get(name, ()) else np.asarray(scale * values[index])
            for name, values in gradients.items()
        }


def resolve(path: str) -> Any:
    """The object that a dotted path names."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def nested(path: str, arguments: dict[str, Any]) -> Any:
    """A library's object, whose arguments may be such objects themselves: {"like": path, "args": [...], ...}."""

    def made(value: Any) -> Any:
        if isinstance(value, dict) and "like" in value:
            return nested(value["like"], {k: v for k, v in value.items() if k != "like"})
        return value

    positional = [made(value) for value in arguments.get("args", ())]
    return resolve(path)(*positional, **{name: made(value) for name, value in arguments.items() if name != "args"})


def run_torch(case: Case, initial: Tensors, steps: Iterable[Gradients]) -> Iterator[Tensors]:
    """The single-tensor path, every scalar a double."""
    import torch

    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    parameters = {name: torch.nn.Parameter(torch.from_numpy(value.copy())) for name, value in initial.items()}
    made = resolve(case.like)
    loops = {"foreach": False} if "foreach" in inspect.signature(made).parameters else {}
    optimizer = made(list(parameters.values()), **loops, **case.arguments)
    scheduler = case.scheduler and resolve(case.scheduler[0])(optimizer, **case.scheduler[1])
    for step, gradients in enumerate(steps, 1):
        rows = case.rows_at(step)
        for name, gradient in gradients.items():
            parameters[name].grad = None if gradient is None else torch.from_numpy(gradient)
            if gradient is not None and name in rows:
                parameters[name].grad = torch.sparse_coo_tensor(
                    *sparse(gradient, rows[name]), gradient.shape, check_invariants=True
                )
        if case.clip:
            resolve(case.clip[0])(parameters.values(), foreach=False, **case.clip[1])
        optimizer.step()
        if scheduler:
            scheduler.step()
        yield {name: parameter.detach().numpy() for name, parameter in parameters.items()}


def sparse(gradient: Array, rows: list[tuple[int, int]]) -> tuple[NDArray[np.int64], Array]:
    """The indices and values of a gradient by rows."""
    indices = np.array([[row for row, _ in rows]], np.int64)
    return indices, np.array([factor * gradient[row] for row, factor in rows]).reshape(-1, *gradient.shape[1:])


def use_jax() -> Any:
    """jax in double precision, which must be said before its first import."""
    os.environ |= {"JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"}
    import jax

    return jax


def weigh_in_doubles() -> None:
    """optax computes Adafactor's weight of the newest square in float32, by a default that nothing else can reach."""
    from optax._src import factorized

    *others, _ = factorized.scale_by_factored_rms.__defaults__ or ()
    factorized.scale_by_factored_rms.__defaults__ = (
        *others,
        lambda count, exponent: 1.0 - (count + 1.0).astype("float64") ** -exponent,
    )


def run_optax(case: Case, initial: Tensors, steps: Iterable[Gradients]) -> Iterator[Tensors]:
    """One operation at a time, outside jit, so that nothing is fused."""
    jax = use_jax()
    import optax

    weigh_in_doubles()
    arguments = dict(case.arguments)
    if case.scheduler:
        schedule = resolve(case.scheduler[0])(**case.scheduler[1])
        # optax's own counter is int32, from which jax computes a learning rate in single precision.
        arguments["learning_rate"] = lambda count: schedule(count.astype("float64"))
    transform = nested(case.like, arguments)
    if case.clip:
        transform = optax.chain(resolve(case.clip[0])(**case.clip[1]), transform)
    parameters = jax.tree.map(jax.numpy.asarray, initial)
    if case.like == "optax.lookahead":
        parameters = optax.LookaheadParams.init_synced(parameters)
    # optax's counters are int32, of which jax takes a root in single precision (madgrad), and of int64 in double.
    state = jax.tree.map(lambda x: x.astype("int64") if x.dtype == "int32" else x, transform.init(parameters))
    for step, gradients in enumerate(steps, 1):
        told = {"value": loss_at(step)} if case.losses else {}
        # Muon's loops are closures, each of which jax would compile anew in every step.
        with jax.disable_jit(case.like == "optax.contrib.muon"):
            updates, state = transform.update(jax.tree.map(jax.numpy.asarray, gradients), state, parameters, **told)
        parameters = optax.apply_updates(parameters, updates)
        yield jax.tree.map(np.asarray, shown(case, state, parameters))


def shown(case: Case, state: Any, parameters: Any) -> Any:
    """The parameters that the case records, of an optimizer in optax that has two kinds."""
    from optax.contrib import schedule_free_eval_params

    if case.like == "optax.lookahead":
        return parameters.slow if case.view == "eval" else parameters.fast
    return schedule_free_eval_params(state, parameters) if case.view == "eval" else parameters


def stay_in_doubles() -> None:
    """Keras takes means and norms of doubles in single precision: by its table, float64 and float32 make float32."""
    from keras.src.backend.common import dtypes

    if dtypes.result_type.__name__ != "widest":
        narrowing = dtypes.result_type

        def widest(*kinds: Any) -> Any:
            return "float64" if "float64" in map(str, kinds) else narrowing(*kinds)

        dtypes.result_type = widest


def run_keras(case: Case, initial: Tensors, steps: Iterable[Gradients]) -> Iterator[Tensors]:
    """On jax: Keras's NumPy backend rounds float64 to float32, its torch backend has update rules of its own."""
    use_jax()
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    keras.backend.set_floatx("float64")
    stay_in_doubles()
    arguments = dict(case.arguments)
    if case.scheduler:
        arguments["learning_rate"] = resolve(case.scheduler[0])(**case.scheduler[1])
    optimizer = resolve(case.like)(**arguments)
    variables = {name: keras.Variable(value, dtype="float64", name=name) for name, value in initial.items()}
    optimizer.build(list(variables.values()))
    for gradients in steps:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Gradients do not exist")
            optimizer.apply([gradients[name] for name in variables], list(variables.values()))
        yield {name: np.asarray(variable.value) for name, variable in variables.items()}


def record(case: Case, run: Callable[..., Iterator[Tensors]], initial: Tensors, steps: Iterable[Gradients]) -> Array:
    """The parameters after each of the RECORDED steps, one flat row a step."""
    rows = []
    given = {name: value for name, value in initial.items() if name not in case.without}
    told = ({name: values[name] for name in given} for values in steps)
    for step, moved in enumerate(run(case, given, told), 1):
        tensors = initial | moved
        kinds = {value.dtype for value in tensors.values()}
        if kinds != {np.dtype(np.float64)}:
            raise SystemExit(f"{case.id}: not float64 but {kinds}")
        if step in RECORDED:
            rows.append(np.concatenate([tensors[name].ravel() for name in SHAPES]))
    table = np.stack(rows)
    if table.shape != (len(RECORDED), SIZE) or not np.isfinite(table).all():
        raise SystemExit(f"{case.id}: wrong shape or not finite")
    return table


def record_schedule(schedule: Schedule) -> Array:
    """The learning rate that each of the first steps uses."""
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=schedule.lr)
    scheduler = resolve(schedule.like)(optimizer, **schedule.arguments)
    rates = []
    for _ in range(SCHEDULE_STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.array(rates, dtype=np.float64)


def pack(tensors: Tensors, rows: Iterable[Case | Schedule] = (), packages: Iterable[str] = ()) -> bytes:
    """The file of a table of cases."""
    return pack_table(tensors, fingerprint(rows), packages)


def pack_table(tensors: Tensors, cases: str, packages: Iterable[str]) -> bytes:
    """A safetensors file. One metadata key only: with several, the library writes them in any order."""
    versions = {name: importlib.metadata.version(name).partition("+")[0] for name in packages}
    about = versions | {"cases": cases}
    return save(tensors, metadata={"made_from": json.dumps(about, sort_keys=True)})


def make(libraries: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """The name and the content of every file."""
    initial, gradients = make_inputs()
    inputs = {f"initial.{name}": value for name, value in initial.items()}
    yield "inputs", pack(inputs | {f"gradient.{name}": value for name, value in gradients.items()})
    runs = {"torch": (run_torch, TORCH), "optax": (run_optax, OPTAX), "keras": (run_keras, KERAS)}
    for library in libraries:
        if library in FAMILIES:
            yield library, make_family(library, initial, gradients, {name: run for name, (run, _) in runs.items()})
            continue
        run, cases = runs[library]
        tables = {
            case.key(scale): record(case, run, initial, steps_of(case, gradients, scale))
            for case in cases
            for scale in SCALES
        }
        yield library, pack(tables, cases, PACKAGES[library])
        if library == "torch":
            rates = {schedule.id: record_schedule(schedule) for schedule in SCHEDULES}
            yield "schedules", pack(rates, SCHEDULES, PACKAGES[library])


def make_family(name: str, initial: Tensors, gradients: Tensors, runs: dict[str, Any]) -> bytes:
    """The data file of a family, whose cases may be of several libraries."""
    cases = family(name)
    tables = {
        case.key(scale): record(case, runs[case.library], initial, steps_of(case, gradients, scale))
        for case in cases
        for scale in SCALES
    }
    packages = {package for case in cases for package in PACKAGES[case.library]}
    return pack(tables, cases, sorted(packages))


def metadata(content: bytes) -> dict[str, str]:
    """What a safetensors file says of itself."""
    size = int.from_bytes(content[:8], "little")
    about: dict[str, str] = json.loads(content[8 : 8 + size]).get("__metadata__", {})
    return about


def differences(old: bytes, new: bytes) -> Iterator[str]:
    """Why two files are not the same bytes."""
    if metadata(old) != metadata(new):
        yield f"made from {metadata(old)}, now {metadata(new)}"
    before, after = load(old), load(new)
    for key in sorted(before.keys() | after.keys()):
        if key not in before or key not in after:
            yield f"{key} is {'new' if key in after else 'gone'}"
        elif before[key].shape != after[key].shape:
            yield f"{key} has another shape"
        elif not np.array_equal(before[key], after[key]):
            yield f"{key} differs by at most {np.abs(before[key] - after[key]).max():.3g}"


def check(path: Path, content: bytes) -> bool:
    """Print how the file differs from the content, if it does."""
    if not path.exists():
        print(f"{path.name}: missing")
        return False
    old = path.read_bytes()
    if old == content:
        print(f"{path.name}: the same bytes")
        return True
    for difference in differences(old, content):
        print(f"{path.name}: {difference}")
    return False


def main() -> int:
    """Write the files, or compare with them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=[*PACKAGES, *FAMILIES, "all"])
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    options = parser.parse_args()
    same = True
    for name, content in make([*PACKAGES, *FAMILIES] if options.library == "all" else [options.library]):
        path = DATA / f"{name}.safetensors"
        if options.check:
            same = check(path, content) and same
        else:
            DATA.mkdir(exist_ok=True)
            path.write_bytes(content)
            print(f"{path.name}: {len(content)} bytes")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
