"""Against the libraries themselves: what torch, optax and Keras did, as recorded in tests/golden."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from service.optim.optimizer import Optimizer, build
from service.optim.schedules.catalogue import parse
from service.optim.state import State
from service.optim.tensors import DTYPES, Array, Layout
from tests.golden import cases
from tests.golden.cases import (
    FAMILIES,
    RECORDED,
    SCALES,
    SCHEDULE_STEPS,
    SCHEDULES,
    SHAPES,
    STEPS,
    Case,
    family,
    fingerprint,
    loss_at,
)
from tests.optim.table import same

DATA = Path(cases.__file__).parent / "data"
INPUTS = load_file(DATA / "inputs.safetensors")
RECORDS = {library: load_file(DATA / f"{library}.safetensors") for library in ("torch", "optax", "keras")}
for _name in FAMILIES:
    RECORDS[_name] = load_file(DATA / f"{_name}.safetensors")
TABLES = {"torch": cases.TORCH, "optax": cases.OPTAX, "keras": cases.KERAS} | {name: family(name) for name in FAMILIES}
CASES = tuple(case for table in TABLES.values() for case in table)
FOUND = {key: row for records in RECORDS.values() for key, row in records.items()}
RATES = load_file(DATA / "schedules.safetensors")

CLOSE_RATES = 1e-12

Arguments = dict[str, Any]


def flat(prefix: str, rows: int) -> Array:
    """The tensors of `inputs` in layout order, (rows, size)."""
    return np.concatenate([INPUTS[f"{prefix}.{name}"].reshape(rows, -1) for name in SHAPES], axis=1)


LAYOUT = Layout(tuple(SHAPES), tuple(SHAPES.values()), DTYPES["float64"])
INITIAL, GRADIENTS = flat("initial", 1)[0], flat("gradient", STEPS)

TORCH_SCHEDULERS: dict[str, Callable[[float, Arguments], Arguments]] = {
    "StepLR": lambda lr, a: {"schedule": "step", "initial": lr, **a},
    "MultiStepLR": lambda lr, a: {
        "schedule": "multi_step",
        "initial": lr,
        **a,
        "milestones": sorted(a["milestones"]),
    },
    "ExponentialLR": lambda lr, a: {"schedule": "exponential", "initial": lr, **a},
    "CosineAnnealingLR": lambda lr, a: {
        "schedule": "cosine_annealing",
        "initial": lr,
        "t_max": a["T_max"],
        "minimum": a.get("eta_min", 0.0),
    },
    "LinearLR": lambda lr, a: (
        {
            "schedule": "linear",
            "initial": lr * a["start_factor"],
            "final": lr * a["end_factor"],
            "steps": a["total_iters"],
        }
        if "end_factor" in a
        else {
            "schedule": "linear_warmup",
            "peak": lr,
            "start_factor": a["start_factor"],
            "warmup_steps": a.get("total_iters", 5),
        }
    ),
}
CLIPS: dict[str, Callable[[Arguments], Arguments]] = {
    "torch.nn.utils.clip_grad_norm_": lambda a: {"name": "clip_by_global_norm", "formula": "torch", **a},
    "torch.nn.utils.clip_grad_value_": lambda a: {"name": "clip_by_value", "limit": a["clip_value"]},
    "optax.clip_by_global_norm": lambda a: {"name": "clip_by_global_norm", "formula": "optax", **a},
    "optax.clip": lambda a: {"name": "clip_by_value", "limit": a["max_delta"]},
}


def schedule(case: Case) -> Arguments:
    """The case's scheduler in our words."""
    assert case.scheduler is not None
    path, a = case.scheduler
    name = path.rpartition(".")[2]
    if name in TORCH_SCHEDULERS:
        return TORCH_SCHEDULERS[name](case.arguments["lr"], a)
    if name == "polynomial_schedule":
        return {"like": path, **a}
    first = {"optax": "init_value", "keras": "initial_learning_rate"}[case.library]
    steps = a["transition_steps" if case.library == "optax" else "decay_steps"]
    if a.get("staircase"):
        return {"schedule": "step", "initial": a[first], "step_size": steps, "gamma": a["decay_rate"]}
    return {"schedule": "exponential", "initial": a[first], "gamma": a["decay_rate"] ** (1.0 / steps)}


def optimizer(case: Case, dtype: str = "float64") -> Optimizer:
    """The case as a client writes it: the library's class with the library's argument names."""
    specification = {"like": case.like, **case.arguments}
    if case.scheduler:
        specification["lr" if case.library == "torch" else "learning_rate"] = schedule(case)
    clips = [CLIPS[case.clip[0]](case.clip[1])] if case.clip else []
    frozen = [{"match": name, "frozen": True} for name in case.without]
    return build(specification, Layout(tuple(SHAPES), tuple(SHAPES.values()), DTYPES[dtype]), clips, frozen)


def states(case: Case, subject: Optimizer, scale: float) -> list[State]:
    """The states after the recorded steps."""
    dtype = subject.layout.dtype
    state, kept = subject.init(INITIAL.astype(dtype)), []
    for step, row in enumerate(GRADIENTS, 1):
        absent = [i for i, name in enumerate(SHAPES) if step in case.absent.get(name, ())]
        loss = loss_at(step) if case.losses else None
        gradient, rows = with_rows(case, step, scale * row)
        state = subject.step(state, gradient.astype(dtype), absent, loss, rows).state
        if step in RECORDED:
            kept.append(state)
    return kept


def with_rows(case: Case, step: int, dense: Array) -> tuple[Array, dict[int, Array]]:
    """The gradient of a step with rows added up, and which rows of which tensors there are."""
    gradient, found = dense.copy(), {}
    for i, (name, where, shape) in enumerate(zip(SHAPES, LAYOUT.slices, SHAPES.values(), strict=True)):
        if name in case.rows:
            rows = case.rows_at(step)[name]
            factors = np.zeros(shape[0])
            np.add.at(factors, [row for row, _ in rows], [factor for _, factor in rows])
            gradient[where] = (gradient[where].reshape(shape[0], -1) * factors[:, None]).ravel()
            found[i] = np.unique(np.array([row for row, _ in rows], np.int64))
    return gradient, found


def differences(case: Case, subject: Optimizer, scale: float) -> list[float]:
    """‖ours - theirs‖ / ‖theirs - initial‖ after each of the recorded steps; where they stood still, so must we."""
    theirs = FOUND[case.key(scale)]
    ours = np.stack([subject.view(state, case.view) for state in states(case, subject, scale)]).astype(np.float64)
    apart, moved = np.linalg.norm(ours - theirs, axis=1), np.linalg.norm(theirs - INITIAL, axis=1)
    return [0.0 if a == 0.0 else a / m if m else np.inf for a, m in zip(apart, moved, strict=True)]


EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
EVERY_SCALE = pytest.mark.parametrize("scale", SCALES)


@EVERY_SCALE
@EVERY_CASE
def test_the_numbers_are_the_librarys(case: Case, scale: float) -> None:
    worst = max(differences(case, optimizer(case), scale))
    assert worst <= case.close


@EVERY_SCALE
@EVERY_CASE
def test_single_precision_follows(case: Case, scale: float) -> None:
    """Every step rounds every parameter, mostly once, which is all that small displacements can be off by."""
    subject, theirs = optimizer(case, "float32"), FOUND[case.key(scale)]
    for step, state, row in zip(RECORDED, states(case, subject, scale), theirs, strict=True):
        rounding = case.roundings * step * 2.0**-24 * np.linalg.norm(row)
        allowed = case.close_in_float32 * np.linalg.norm(row - INITIAL) + rounding
        assert np.linalg.norm(subject.view(state, case.view).astype(np.float64) - row) <= allowed


@EVERY_CASE
def test_the_resolved_specification_is_the_same_optimizer(case: Case) -> None:
    by_like = optimizer(case)
    resolved = json.loads(json.dumps(by_like.as_json()))
    assert "like" not in resolved["optimizer"]
    by_name = build(resolved["optimizer"], by_like.layout, resolved["transforms"], resolved["groups"])
    assert by_name.as_json() == resolved
    one, other = states(case, by_like, 1.0), states(case, by_name, 1.0)
    assert all(same(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("row", SCHEDULES, ids=lambda row: row.id)
def test_schedules_are_torchs(row: cases.Schedule) -> None:
    name = row.like.rpartition(".")[2]
    ours = parse(TORCH_SCHEDULERS[name](row.lr, row.arguments), build_target())
    rates = np.array([ours(n) for n in range(SCHEDULE_STEPS)])
    theirs = RATES[row.id]
    assert np.abs(rates - theirs).max() <= CLOSE_RATES * np.abs(theirs).max()


def build_target() -> Any:
    """The hyperparameter that torch's schedulers change."""
    return next(h for h in optimizer(CASES[0]).specification.algorithm.hyperparameters if h.name == "learning_rate")


def test_every_record_has_its_case_and_the_files_are_of_this_table() -> None:
    for library, rows in TABLES.items():
        assert set(RECORDS[library]) == {case.key(scale) for case in rows for scale in SCALES}
        with safe_open(DATA / f"{library}.safetensors", "numpy") as file:
            assert json.loads(file.metadata()["made_from"])["cases"] == fingerprint(rows)
    assert set(RATES) == {row.id for row in SCHEDULES}
