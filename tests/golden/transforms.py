"""What torch, optax and Keras do around a rule: the cases, and the maker of `data/transforms.safetensors`.

python -m tests.golden.transforms [--check], from the root of the repository

The inputs are those of `make.py`. Under `case.key(scale)` stands the table of the parameters after the recorded steps,
and under `case.key(scale).average` that of the average that is kept beside them, if one is. `noise.<i>` is the standard
deviation of optax' noise in the first steps: its update over the one of variance 1 with the same key.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from tests.golden import make
from tests.golden.cases import RECORDED, SCALES, SHAPES, Call, fingerprint
from tests.golden.make import Array, Gradients, Tensors

DATA = make.DATA / "transforms.safetensors"
PACKAGES = ("jax", "jaxlib", "keras", "optax", "torch")
NOISE_STEPS = 12
MULTI_STEPS = "optax.MultiSteps"
NOISES = ({"eta": 0.01, "gamma": 0.55}, {"eta": 2.0, "gamma": 0.0}, {"eta": 0.3, "gamma": 1.5})


@dataclass(frozen=True)
class Case:
    """An optimizer, and what is done around it, in the library's own words.

    before    functions on the gradients (torch), or what is chained before the optimizer (optax)
    after     functions of the new parameters (optax), or constraints on those whose names match (Keras)
    averaged  how the parameters are averaged, where it is not an argument of the optimizer (Keras)
    """

    id: str
    like: str
    arguments: dict[str, Any]
    before: tuple[Call, ...] = ()
    after: tuple[Call, ...] = ()
    averaged: Call | None = None

    @property
    def library(self) -> str:
        return self.like.partition(".")[0]

    @property
    def averages(self) -> bool:
        """Whether an average is kept."""
        return self.averaged is not None or bool(self.arguments.get("use_ema"))

    @property
    def transforms(self) -> list[dict[str, Any]]:
        """As a client pastes it."""
        calls = (*self.before, *self.after, *([self.averaged] if self.averaged else []))
        return [{"like": path, **arguments} for path, arguments in calls]

    def key(self, scale: float) -> str:
        return f"{self.id}@{scale}"


def _torch(name: str, *before: Call, averaged: Call | None = None, lr: float = 0.05) -> Case:
    arguments = {"lr": lr, "momentum": 0.9}
    return Case(f"torch.{name}", "torch.optim.SGD", arguments, before, averaged=averaged)


def _optax(name: str, *before: Call, after: tuple[Call, ...] = (), averaged: Call | None = None) -> Case:
    arguments = {"learning_rate": 0.05}
    return Case(f"optax.{name}", "optax.adam", arguments, before, after, averaged)


def _descent(name: str, *before: Call, after: tuple[Call, ...] = ()) -> Case:
    """Plain descent, in which the size of a gradient is seen."""
    return Case(f"optax.{name}", "optax.sgd", {"learning_rate": 0.3}, before, after)


def _keras(name: str, after: tuple[Call, ...] = (), like: str = "Adam", **arguments: Any) -> Case:
    return Case(f"keras.{name}", f"keras.optimizers.{like}", {"learning_rate": 0.05, **arguments}, after=after)


def _norm(max_norm: float, order: float | str) -> Call:
    return ("torch.nn.utils.clip_grad_norm_", {"max_norm": max_norm, "norm_type": order})


def _skip(limit: float) -> Call:
    return ("optax.skip_large_updates", {"max_squared_norm": limit})


def _gather(k: int, **more: Any) -> Call:
    return (MULTI_STEPS, {"every_k_schedule": k, **more})


def _decay(strength: float) -> Call:
    return ("optax.add_decayed_weights", {"weight_decay": strength})


def _clip(delta: float) -> Call:
    return ("optax.clip", {"max_delta": delta})


def _limits(**arguments: Any) -> tuple[Call, ...]:
    return (("keras.constraints.MinMaxNorm", {"match": "w", **arguments}),)


_SWA = "torch.optim.swa_utils."
_PROJECT = "optax.projections.projection_"
_ELEMENTWISE = (f"{_PROJECT}box", f"{_PROJECT}hypercube")
_DECAYING = {
    "like": "keras.optimizers.schedules.ExponentialDecay",
    "initial_learning_rate": 0.1,
    "decay_steps": 10,
    "decay_rate": 0.5,
}

TORCH = (
    _torch("clip_value", ("torch.nn.utils.clip_grad_value_", {"clip_value": 0.7})),
    _torch("clip_norm", _norm(1.5, 2.0)),
    _torch("clip_norm_1", _norm(3.0, 1.0)),
    _torch("clip_norm_3", _norm(1.2, 3.0)),
    _torch("clip_norm_half", _norm(20.0, 0.5)),
    _torch("clip_norm_inf", _norm(0.6, "inf")),
    _torch("clip_both", _norm(1.5, 2.0), ("torch.nn.utils.clip_grad_value_", {"clip_value": 0.3})),
    _torch("ema", averaged=(f"{_SWA}get_ema_multi_avg_fn", {"decay": 0.9})),
    _torch("ema_default", averaged=(f"{_SWA}get_ema_multi_avg_fn", {})),
    _torch("ema_fast", averaged=(f"{_SWA}get_ema_multi_avg_fn", {"decay": 0.3})),
    _torch("ema_single", averaged=(f"{_SWA}get_ema_avg_fn", {"decay": 0.95})),
    _torch("swa", averaged=(f"{_SWA}AveragedModel", {})),
)
OPTAX = (
    _descent("clip", _clip(0.7)),
    _descent("clip_by_global_norm", ("optax.clip_by_global_norm", {"max_norm": 1.5})),
    _descent("block_rms", ("optax.clip_by_block_rms", {"threshold": 1.0})),
    _descent("block_rms_small", ("optax.clip_by_block_rms", {"threshold": 1e-4})),
    _descent("block_rms_large", ("optax.clip_by_block_rms", {"threshold": 1e3})),
    _descent("adaptive", ("optax.adaptive_grad_clip", {"clipping": 0.1})),
    _descent("adaptive_small", ("optax.adaptive_grad_clip", {"clipping": 1e-5, "eps": 0.5})),
    _descent("adaptive_large", ("optax.adaptive_grad_clip", {"clipping": 1.0, "eps": 1e-8})),
    _descent("centralize", ("optax.centralize", {})),
    _optax("centralize_adam", ("optax.centralize", {})),
    _descent("normalize", ("optax.contrib.normalize", {})),
    _descent("update_norm", ("optax.normalize_by_update_norm", {})),
    _descent("update_norm_all", ("optax.normalize_by_update_norm", {"scale_factor": 3.0, "eps": 1e-2})),
    _descent("scale", ("optax.scale", {"step_size": -2.5})),
    _descent("decay", _decay(0.1)),
    _optax("decay_adam", _decay(0.1)),
    _descent("nonnegative_updates", after=(("optax.keep_params_nonnegative", {}),)),
    _optax("ema", ("optax.ema", {"decay": 0.9})),
    _descent("ema_biased", ("optax.ema", {"decay": 0.7, "debias": False})),
    _descent("ema_zero", ("optax.ema", {"decay": 0.0})),
    _optax("apply_every", ("optax.apply_every", {"k": 4})),
    _descent("apply_every_descent", ("optax.apply_every", {"k": 3})),
    _optax("multi_steps", _gather(4)),
    _optax("multi_steps_sum", _gather(3, use_grad_mean=False)),
    _descent("multi_steps_one", _gather(1)),
    _optax("multi_steps_skip", _skip(26.0), _gather(2)),
    _descent("clip_in_multi_steps", _gather(5), ("optax.clip_by_global_norm", {"max_norm": 1.0})),
    _descent("clip_then_multi_steps", _clip(0.5), _gather(5)),
    _descent("clip_then_decay", _clip(0.5), _decay(0.2)),
    _descent("decay_then_clip", _decay(0.2), _clip(0.5)),
    _optax("average", averaged=("optax.incremental_update", {"step_size": 0.1})),
    _optax("average_fast", averaged=("optax.incremental_update", {"step_size": 0.75})),
    _optax("average_none", averaged=("optax.incremental_update", {"step_size": 0.0})),
    _optax("nonnegative", after=((f"{_PROJECT}non_negative", {}),)),
    _optax("box", after=((f"{_PROJECT}box", {"lower": -0.2, "upper": 0.5}),)),
    _optax("hypercube", after=((f"{_PROJECT}hypercube", {"scale": 0.4}),)),
    _optax("simplex", after=((f"{_PROJECT}simplex", {}),)),
    _optax("simplex_large", after=((f"{_PROJECT}simplex", {"scale": 12.5}),)),
    _optax("l1_ball", after=((f"{_PROJECT}l1_ball", {"scale": 2.0}),)),
    _optax("l1_ball_large", after=((f"{_PROJECT}l1_ball", {"scale": 14.0}),)),
    _optax("l1_sphere", after=((f"{_PROJECT}l1_sphere", {"scale": 3.0}),)),
    _optax("l2_ball", after=((f"{_PROJECT}l2_ball", {"scale": 1.0}),)),
    _optax("l2_ball_large", after=((f"{_PROJECT}l2_ball", {"scale": 4.5}),)),
    _optax("l2_sphere", after=((f"{_PROJECT}l2_sphere", {"scale": 2.0}),)),
    _optax("linf_ball", after=((f"{_PROJECT}linf_ball", {"scale": 0.3}),)),
    _descent("two_sets", after=((f"{_PROJECT}l2_ball", {"scale": 2.0}), (f"{_PROJECT}non_negative", {}))),
)
KERAS = (
    _keras("loss_scale", loss_scale_factor=128.0),
    _keras("loss_scale_odd", like="SGD", loss_scale_factor=0.3),
    _keras("accumulation", gradient_accumulation_steps=4),
    _keras("accumulation_schedule", like="SGD", learning_rate=_DECAYING, gradient_accumulation_steps=3),
    _keras("accumulation_clip", like="SGD", gradient_accumulation_steps=2, global_clipnorm=1.0, weight_decay=0.1),
    _keras("accumulation_all", gradient_accumulation_steps=5, clipnorm=0.5, loss_scale_factor=2.0, weight_decay=0.1),
    _keras("ema", use_ema=True),
    _keras("ema_fast", use_ema=True, ema_momentum=0.4, like="SGD"),
    _keras("ema_overwrite", use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=5),
    _keras("ema_overwrite_always", use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=1, like="SGD"),
    _keras("ema_accumulation", use_ema=True, ema_momentum=0.9, gradient_accumulation_steps=4),
    _keras(
        "ema_all",
        use_ema=True,
        ema_momentum=0.8,
        ema_overwrite_frequency=3,
        gradient_accumulation_steps=2,
        clipvalue=0.5,
    ),
    _keras("nonnegative", after=(("keras.constraints.NonNeg", {}),)),
    _keras("max_norm", after=(("keras.constraints.MaxNorm", {"max_value": 0.8, "match": "[wb]"}),)),
    _keras("max_norm_rows", after=(("keras.constraints.MaxNorm", {"max_value": 0.8, "axis": 1, "match": "w"}),)),
    _keras("max_norm_whole", after=(("keras.constraints.MaxNorm", {"max_value": 1.5, "axis": [0, 1], "match": "w"}),)),
    _keras("unit_norm", after=(("keras.constraints.UnitNorm", {"match": "[wb]"}),)),
    _keras("min_max_norm", after=_limits(min_value=0.9)),
    _keras("min_max_norm_slow", after=_limits(min_value=0.5, max_value=0.7, rate=0.2, axis=1)),
)
CASES = TORCH + OPTAX + KERAS
Averaged = tuple[Tensors, Tensors | None]


def run_torch(case: Case, initial: Tensors, steps: Iterator[Gradients]) -> Iterator[Averaged]:
    """The parameters after each step, and their average."""
    import torch

    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    model = torch.nn.ParameterDict({name: torch.from_numpy(value.copy()) for name, value in initial.items()})
    optimizer = make.resolve(case.like)(list(model.values()), foreach=False, **case.arguments)
    average = None
    if case.averaged:
        name = case.averaged[0].rpartition(".")[2]
        keyword = {"get_ema_multi_avg_fn": "multi_avg_fn", "get_ema_avg_fn": "avg_fn"}.get(name)
        options = {keyword: make.resolve(case.averaged[0])(**case.averaged[1])} if keyword else {}
        average = torch.optim.swa_utils.AveragedModel(model, **options)
    for gradients in steps:
        for name, gradient in gradients.items():
            model[name].grad = torch.from_numpy(np.asarray(gradient))
        for path, arguments in case.before:
            order = {"norm_type": float(arguments["norm_type"])} if "norm_type" in arguments else {}
            make.resolve(path)(model.values(), foreach=False, **{**arguments, **order})
        optimizer.step()
        if average is not None:
            average.update_parameters(model)
        kept = None if average is None else {n: p.detach().numpy() for n, p in average.module.items()}
        yield {name: parameter.detach().numpy() for name, parameter in model.items()}, kept


def chained(case: Case) -> Any:
    """What stands before the optimizer in optax, chained; MultiSteps wraps all that comes after it."""
    import optax

    transform = make.resolve(case.like)(**case.arguments)
    before = list(case.before)
    while before:
        path, arguments = before.pop()
        if path == MULTI_STEPS:
            skip = None
            if before and before[-1][0] == "optax.skip_large_updates":
                skip = functools.partial(optax.skip_large_updates, **before.pop()[1])
            options = {**arguments, "should_skip_update_fn": skip, "accumulator_dtype": "float64"}
            transform = optax.MultiSteps(transform, **options).gradient_transformation()
        else:
            transform = optax.chain(make.resolve(path)(**arguments), transform)
    if case.after and case.after[0][0] == "optax.keep_params_nonnegative":
        transform = optax.chain(transform, optax.keep_params_nonnegative())
    return transform


def run_optax(case: Case, initial: Tensors, steps: Iterator[Gradients]) -> Iterator[Averaged]:
    """The parameters after each step, and their average; outside jit."""
    jax = make.use_jax()
    import optax

    transform = chained(case)
    parameters = average = jax.tree.map(jax.numpy.asarray, initial)
    state = transform.init(parameters)
    for gradients in steps:
        updates, state = transform.update(jax.tree.map(jax.numpy.asarray, gradients), state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        for path, arguments in case.after:
            project = functools.partial(make.resolve(path), **arguments)
            if path in _ELEMENTWISE:  # to which optax 0.2.8 takes no scalar beside a tree
                parameters = jax.tree.map(project, parameters)
            elif path.startswith(_PROJECT):
                parameters = project(parameters)
        if case.averaged:
            average = make.resolve(case.averaged[0])(parameters, average, **case.averaged[1])
        kept = jax.tree.map(np.asarray, average) if case.averaged else None
        yield jax.tree.map(np.asarray, parameters), kept


def run_keras(case: Case, initial: Tensors, steps: Iterator[Gradients]) -> Iterator[Averaged]:
    """The parameters after each step, and their average; on jax, as make.py says."""
    import os

    make.use_jax()
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    keras.backend.set_floatx("float64")
    optimizer = make.nested(case.like, case.arguments)
    variables = {name: keras.Variable(value, dtype="float64", name=name) for name, value in initial.items()}
    for path, arguments in case.after:
        options = {name: tuple(v) if isinstance(v, list) else v for name, v in arguments.items() if name != "match"}
        for name, variable in variables.items():
            if fnmatchcase(name, arguments.get("match", "*")):
                variable.constraint = make.resolve(path)(**options)
    optimizer.build(list(variables.values()))
    for gradients in steps:
        optimizer.apply([gradients[name] for name in variables], list(variables.values()))
        averages = optimizer._model_variables_moving_average if case.averages else ()
        kept = {name: np.asarray(a.value) for name, a in zip(variables, averages, strict=True)} if averages else None
        yield {name: np.asarray(variable.value) for name, variable in variables.items()}, kept


def mark() -> str:
    """Changes with anything that the file was made from."""
    told = [fingerprint(()), [asdict(case) for case in CASES], NOISES, NOISE_STEPS]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


RUNS = {"torch": run_torch, "optax": run_optax, "keras": run_keras}


def flat(case: Case, tensors: Tensors) -> Array:
    """One row of a table."""
    kinds = {np.asarray(value).dtype for value in tensors.values()}
    row = np.concatenate([np.asarray(tensors[name]).ravel() for name in SHAPES])
    if kinds != {np.dtype(np.float64)} or not np.isfinite(row).all():
        raise SystemExit(f"{case.id}: not finite, or not float64 but {kinds}")
    return row


def one_by_one(case: Case) -> Any:
    """What gathers gradients has branches, which jax would compile anew in each step unless told not to."""
    gathers = "gradient_accumulation_steps" in case.arguments or any(path == MULTI_STEPS for path, _ in case.before)
    return make.use_jax().disable_jit() if gathers else contextlib.nullcontext()


def record(case: Case, scale: float, initial: Tensors, gradients: Tensors) -> Tensors:
    """The tables of a case at a scale."""
    steps = ({name: np.asarray(scale * values[i]) for name, values in gradients.items()} for i in range(max(RECORDED)))
    rows, averages = [], []
    with one_by_one(case):
        for step, (tensors, kept) in enumerate(RUNS[case.library](case, initial, steps), 1):
            if step in RECORDED:
                rows.append(flat(case, tensors))
                averages += [] if kept is None else [flat(case, kept)]
    tables = {case.key(scale): np.stack(rows)}
    return tables | ({f"{case.key(scale)}.average": np.stack(averages)} if averages else {})


def deviations(eta: float, gamma: float) -> Array:
    """The standard deviation of optax' noise in each of the first steps."""
    jax = make.use_jax()
    import optax

    zero = jax.numpy.zeros(3, dtype="float64")
    asked, plain = optax.add_noise(eta, gamma, 0), optax.add_noise(1.0, 0.0, 0)
    first, second, found = asked.init(zero), plain.init(zero), []
    for _ in range(NOISE_STEPS):
        noise, first = asked.update(zero, first)
        unit, second = plain.update(zero, second)
        found.append(float(np.mean(np.asarray(noise) / np.asarray(unit))))
    return np.array(found)


def content() -> bytes:
    """The file."""
    initial, gradients = make.make_inputs()
    tables: Tensors = {}
    for case in CASES:
        for scale in SCALES:
            tables |= record(case, scale, initial, gradients)
    tables |= {f"noise.{i}": deviations(**noise) for i, noise in enumerate(NOISES)}
    return make.pack_table(tables, mark(), PACKAGES)


def main() -> int:
    """Write the file, or compare with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    made, options = content(), parser.parse_args()
    if options.check:
        return 0 if make.check(DATA, made) else 1
    DATA.write_bytes(made)
    print(f"{DATA.name}: {len(made)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
