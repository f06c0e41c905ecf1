"""The table: a library's schedule with its own arguments, and what it does at the first steps is recorded in `data`.

Plain data that imports no library. `initial` is the learning rate of the optimizer that a torch scheduler is put on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

STEPS = 80
TORCH_PREFIX = "torch.optim.lr_scheduler."
KERAS_PREFIX = "keras.optimizers.schedules."


# what is shown at count n: whole numbers and quotients only, the same on every machine
LOSSES: dict[str, Callable[[int], float]] = {
    "flat": lambda n: 1.0,
    "falling": lambda n: 3.0 / (n + 1) + 0.5,
    "bumpy": lambda n: 2.0 / (n + 1) + ((n * 7) % 11) / 20.0,
    "stairs": lambda n: 1.0 / (1 + n // 13),
    "creeping": lambda n: 1.0 - n * 5e-5,
    "signed": lambda n: ((n * 37) % 101 - 60) / 25.0 - n / 40.0,
    "rising": lambda n: ((n * 5) % 7) / 3.0 + n // 20,
}


@dataclass(frozen=True)
class Case:
    """A schedule as a client writes it in `like`, over the counts `range(steps)`."""

    id: str
    like: str
    arguments: dict[str, Any]
    initial: float | None = None
    steps: int = STEPS
    losses: str = ""  # what a schedule that follows the loss is shown: one of LOSSES

    @property
    def library(self) -> str:
        return self.like.partition(".")[0]

    @property
    def specification(self) -> dict[str, Any]:
        return {"like": self.like, **({} if self.initial is None else {"initial": self.initial}), **self.arguments}


def fingerprint(cases: Iterable[Case]) -> str:
    """Changes when any of these cases does."""
    told = [{name: v for name, v in asdict(case).items() if name != "losses" or v} for case in cases]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _torch(name: str, *rows: dict[str, Any], initial: float | None = 0.1, steps: int = STEPS) -> tuple[Case, ...]:
    path = name if "." in name else TORCH_PREFIX + name
    short = name.rpartition(".")[2]
    return tuple(Case(f"torch.{short}.{i}", path, row, initial, steps) for i, row in enumerate(rows))


def _optax(name: str, *rows: dict[str, Any]) -> tuple[Case, ...]:
    return tuple(Case(f"optax.{name}.{i}", f"optax.{name}", row) for i, row in enumerate(rows))


def _keras(name: str, *rows: dict[str, Any]) -> tuple[Case, ...]:
    return tuple(Case(f"keras.{name}.{i}", KERAS_PREFIX + name, row) for i, row in enumerate(rows))


def _following(path: str, initial: float, *rows: tuple[str, dict[str, Any]]) -> tuple[Case, ...]:
    """Schedules that follow the loss, each with what it is shown."""
    short = f"{path.partition('.')[0]}.{path.rpartition('.')[2]}"
    return tuple(Case(f"{short}.{i}", path, row, initial, losses=losses) for i, (losses, row) in enumerate(rows))


def _inner(name: str, **arguments: Any) -> dict[str, Any]:
    """A torch scheduler inside another."""
    return {"like": TORCH_PREFIX + name, **arguments}


def _joined(name: str, **arguments: Any) -> dict[str, Any]:
    """An optax schedule inside another."""
    return {"like": f"optax.{name}", **arguments}


TORCH = (
    *_torch("StepLR", {"step_size": 30}, {"step_size": 7, "gamma": 0.5}, {"step_size": 1, "gamma": 1.01}),
    *_torch(
        "MultiStepLR",
        {"milestones": [30, 60]},
        {"milestones": [30, 8, 8, 0], "gamma": 0.3},
        {"milestones": [5], "gamma": 2.0},
    ),
    *_torch("ConstantLR", {}, {"factor": 0.1, "total_iters": 20}, {"factor": 1.0, "total_iters": 1}),
    *_torch(
        "LinearLR",
        {},
        {"start_factor": 0.01, "total_iters": 40},
        {"start_factor": 1.0, "end_factor": 0.05, "total_iters": 33},
        {"start_factor": 0.5, "end_factor": 0.0, "total_iters": 9},
    ),
    *_torch("ExponentialLR", {"gamma": 0.93}, {"gamma": 1.05}, {"gamma": 1.0}),
    *_torch(
        "PolynomialLR",
        {},
        {"total_iters": 50, "power": 2.0},
        {"total_iters": 30, "power": 0.5},
        {"total_iters": 79, "power": 0.9},
    ),
    *_torch(
        "CosineAnnealingLR", {"T_max": 20}, {"T_max": 7, "eta_min": 0.01}, {"T_max": 200}, {"T_max": 1, "eta_min": 0.2}
    ),
    *_torch(
        "CosineAnnealingWarmRestarts",
        {"T_0": 10},
        {"T_0": 5, "T_mult": 2, "eta_min": 0.01},
        {"T_0": 1, "T_mult": 3},
        {"T_0": 100, "T_mult": 2},
    ),
    *_torch(
        "CyclicLR",
        {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 10, "cycle_momentum": False},
        {
            "base_lr": 0.1,
            "max_lr": 0.9,
            "step_size_up": 4,
            "step_size_down": 9,
            "mode": "triangular2",
            "cycle_momentum": False,
        },
        {
            "base_lr": 0.001,
            "max_lr": 0.2,
            "step_size_up": 8,
            "step_size_down": 3,
            "mode": "exp_range",
            "gamma": 0.97,
            "cycle_momentum": False,
        },
        {"base_lr": 0.5, "max_lr": 0.1, "step_size_up": 1, "cycle_momentum": False},
        initial=None,
    ),
    *_torch(
        "OneCycleLR",
        {"max_lr": 0.1, "total_steps": 80},
        {"max_lr": 1.0, "epochs": 8, "steps_per_epoch": 10, "anneal_strategy": "linear", "pct_start": 0.33},
        {"max_lr": 0.5, "total_steps": 80, "three_phase": True, "div_factor": 10.0, "final_div_factor": 100.0},
        {"max_lr": 0.5, "total_steps": 80, "three_phase": True, "anneal_strategy": "linear", "pct_start": 0.4},
        {"max_lr": 0.5, "total_steps": 80, "pct_start": 0.0},
        {"max_lr": 0.5, "total_steps": 300, "pct_start": 0.11},
        initial=None,
    ),
    *_torch(
        "SequentialLR",
        {
            "schedulers": [_inner("LinearLR", total_iters=10), _inner("CosineAnnealingLR", T_max=50)],
            "milestones": [10],
        },
        {
            "schedulers": [
                _inner("ConstantLR", factor=0.1, total_iters=100),
                _inner("ExponentialLR", gamma=0.9),
                _inner("StepLR", step_size=4, gamma=0.5),
                _inner("PolynomialLR", total_iters=9, power=2.0),
            ],
            "milestones": [6, 30, 55],
        },
        {
            "schedulers": [
                _inner("LinearLR", start_factor=0.1, total_iters=20),
                _inner("CosineAnnealingWarmRestarts", T_0=10, T_mult=2),
            ],
            "milestones": [12],
        },
    ),
    *_torch(
        "ChainedScheduler",
        {"schedulers": [_inner("ConstantLR", factor=0.1, total_iters=20), _inner("ExponentialLR", gamma=0.9)]},
        {
            "schedulers": [
                _inner("LinearLR", total_iters=10),
                _inner("StepLR", step_size=15, gamma=0.5),
                _inner("PolynomialLR", total_iters=70, power=1.5),
            ]
        },
        {"schedulers": [_inner("MultiStepLR", milestones=[10, 40]), _inner("StepLR", step_size=9, gamma=1.2)]},
    ),
    *_torch(
        "torch.optim.swa_utils.SWALR",
        {"swa_lr": 0.05},
        {"swa_lr": 0.3, "anneal_epochs": 25, "anneal_strategy": "linear"},
        {"swa_lr": 0.01, "anneal_epochs": 40},
        {"swa_lr": 0.02, "anneal_epochs": 0},
    ),
    *_following(
        f"{TORCH_PREFIX}ReduceLROnPlateau",
        0.1,
        ("flat", {}),
        ("bumpy", {"patience": 3, "factor": 0.5, "cooldown": 4}),
        ("creeping", {"patience": 2, "threshold": 1e-3, "threshold_mode": "abs", "min_lr": 0.003}),
        ("stairs", {"patience": 5, "factor": 0.7, "threshold": 0.3}),
        ("signed", {"patience": 0, "factor": 0.9, "cooldown": 1, "threshold": 0.05}),
        ("rising", {"mode": "max", "patience": 4, "factor": 0.3}),
        ("rising", {"mode": "max", "patience": 1, "factor": 0.6, "threshold_mode": "abs", "threshold": 0.5}),
        ("flat", {"patience": 0, "factor": 0.5, "eps": 1e-3}),
        ("falling", {"patience": 0, "threshold": 1.0}),
        ("flat", {"patience": 1, "min_lr": 0.5}),
    ),
)

OPTAX = (
    *_optax("constant_schedule", {"value": 0.1}, {"value": 0.0}, {"value": 3.0}),
    *_optax(
        "linear_schedule",
        {"init_value": 0.1, "end_value": 0.01, "transition_steps": 40},
        {"init_value": 0.0, "end_value": 0.3, "transition_steps": 7, "transition_begin": 5},
        {"init_value": 1.0, "end_value": 0.0, "transition_steps": 300},
    ),
    *_optax(
        "polynomial_schedule",
        {"init_value": 0.1, "end_value": 0.01, "power": 2, "transition_steps": 40},
        {"init_value": 0.1, "end_value": 0.3, "power": 0.5, "transition_steps": 33, "transition_begin": 11},
        {"init_value": 1.0, "end_value": 0.0, "power": 3.5, "transition_steps": 100},
    ),
    *_optax(
        "piecewise_constant_schedule",
        {"init_value": 0.1, "boundaries_and_scales": {"30": 0.1, "60": 0.5}},
        {"init_value": 1.0, "boundaries_and_scales": {"0": 0.3, "9": 2.0, "5": 0.1, "70": 0.0}},
        {"init_value": 0.2},
    ),
    *_optax(
        "piecewise_interpolate_schedule",
        {"interpolate_type": "linear", "init_value": 0.1, "boundaries_and_scales": {"10": 5.0, "50": 0.1}},
        {"interpolate_type": "cosine", "init_value": 0.1, "boundaries_and_scales": {"33": 0.01, "7": 10.0, "70": 2.0}},
        {"interpolate_type": "cosine", "init_value": 0.1, "boundaries_and_scales": {"0": 3.0, "20": 0.0}},
        {"interpolate_type": "linear", "init_value": 0.1},
    ),
    *_optax(
        "exponential_decay",
        {"init_value": 0.1, "transition_steps": 10, "decay_rate": 0.5},
        {"init_value": 0.1, "transition_steps": 7, "decay_rate": 0.3, "staircase": True, "transition_begin": 12},
        {"init_value": 0.1, "transition_steps": 5, "decay_rate": 0.9, "end_value": 0.04},
        {"init_value": 0.1, "transition_steps": 9, "decay_rate": 1.4, "end_value": 0.5, "transition_begin": 3},
        {"init_value": 0.1, "transition_steps": 9, "decay_rate": 0.7, "end_value": 0.2, "transition_begin": 20},
    ),
    *_optax(
        "cosine_decay_schedule",
        {"init_value": 0.1, "decay_steps": 50},
        {"init_value": 0.3, "decay_steps": 33, "alpha": 0.1, "exponent": 1.5},
        {"init_value": 0.3, "decay_steps": 200, "alpha": 0.5},
    ),
    *_optax(
        "linear_onecycle_schedule",
        {"transition_steps": 70, "peak_value": 0.1},
        {"transition_steps": 63, "peak_value": 1.0, "pct_start": 0.21, "pct_final": 0.7, "div_factor": 7.0},
        {"transition_steps": 300, "peak_value": 1.0, "pct_start": 0.1, "pct_final": 0.2, "final_div_factor": 3.0},
    ),
    *_optax(
        "cosine_onecycle_schedule",
        {"transition_steps": 70, "peak_value": 0.1},
        {"transition_steps": 63, "peak_value": 1.0, "pct_start": 0.21, "div_factor": 7.0, "final_div_factor": 50.0},
        {"transition_steps": 40, "peak_value": 0.5, "pct_start": 0.0},
    ),
    *_optax(
        "warmup_constant_schedule",
        {"init_value": 0.0, "peak_value": 0.1, "warmup_steps": 10},
        {"init_value": 0.03, "peak_value": 0.1, "warmup_steps": 33},
        {"init_value": 0.3, "peak_value": 0.1, "warmup_steps": 1},
    ),
    *_optax(
        "warmup_cosine_decay_schedule",
        {"init_value": 0.0, "peak_value": 0.1, "warmup_steps": 10, "decay_steps": 60},
        {
            "init_value": 0.02,
            "peak_value": 1.0,
            "warmup_steps": 7,
            "decay_steps": 33,
            "end_value": 0.1,
            "exponent": 2.0,
        },
        {"init_value": 0.02, "peak_value": 1.0, "warmup_steps": 0, "decay_steps": 50, "end_value": 0.3},
        {"init_value": 0.02, "peak_value": 0.0, "warmup_steps": 5, "decay_steps": 50, "end_value": 0.3},
    ),
    *_optax(
        "warmup_exponential_decay_schedule",
        {"init_value": 0.0, "peak_value": 0.1, "warmup_steps": 10, "transition_steps": 20, "decay_rate": 0.5},
        {
            "init_value": 0.5,
            "peak_value": 0.1,
            "warmup_steps": 4,
            "transition_steps": 6,
            "decay_rate": 0.8,
            "transition_begin": 9,
            "staircase": True,
            "end_value": 0.03,
        },
        {"init_value": 0.5, "peak_value": 0.1, "warmup_steps": 0, "transition_steps": 6, "decay_rate": 0.8},
    ),
    *_optax(
        "sgdr_schedule",
        {
            "cosine_kwargs": [
                {"init_value": 0.0, "peak_value": 0.1, "warmup_steps": 5, "decay_steps": 25},
                {"init_value": 0.0, "peak_value": 0.05, "warmup_steps": 3, "decay_steps": 30, "end_value": 0.01},
            ]
        },
        {"cosine_kwargs": [{"init_value": 0.0, "peak_value": 0.1, "warmup_steps": 5, "decay_steps": 25}]},
        {
            "cosine_kwargs": [
                {"init_value": 0.1, "peak_value": 0.9, "warmup_steps": 0, "decay_steps": 11, "exponent": 1.5},
                {"init_value": 0.1, "peak_value": 0.6, "warmup_steps": 4, "decay_steps": 17},
                {"init_value": 0.1, "peak_value": 0.4, "warmup_steps": 4, "decay_steps": 100},
            ]
        },
    ),
    *_optax(
        "join_schedules",
        {
            "schedules": [
                _joined("linear_schedule", init_value=0.0, end_value=0.1, transition_steps=10),
                _joined("cosine_decay_schedule", init_value=0.1, decay_steps=50),
            ],
            "boundaries": [10],
        },
        {
            "schedules": [
                _joined("constant_schedule", value=0.3),
                _joined("exponential_decay", init_value=0.3, transition_steps=8, decay_rate=0.5),
                _joined("constant_schedule", value=0.01),
            ],
            "boundaries": [13, 61],
        },
        {
            "schedules": [
                _joined("constant_schedule", value=0.3),
                _joined(
                    "join_schedules",
                    schedules=[_joined("constant_schedule", value=0.2), _joined("constant_schedule", value=0.1)],
                    boundaries=[20],
                ),
            ],
            "boundaries": [20],
        },
    ),
    *_following(
        "optax.contrib.reduce_on_plateau",
        0.1,
        ("flat", {}),
        ("bumpy", {"patience": 3, "factor": 0.5, "cooldown": 4}),
        ("creeping", {"patience": 2, "rtol": 1e-4, "atol": 1e-3, "min_scale": 0.03}),
        ("stairs", {"patience": 5, "factor": 0.7, "rtol": 0.3}),
        ("signed", {"patience": 1, "factor": 0.9, "cooldown": 1, "rtol": 0.0, "atol": 0.1}),
        ("bumpy", {"patience": 2, "factor": 0.6, "accumulation_size": 5}),
        ("falling", {"patience": 0, "factor": 0.8}),
        ("flat", {"patience": 3, "rtol": 1.0, "min_scale": 2.0}),
    ),
)

KERAS = (
    *_keras(
        "ExponentialDecay",
        {"initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.5},
        {"initial_learning_rate": 0.1, "decay_steps": 7, "decay_rate": 0.3, "staircase": True},
        {"initial_learning_rate": 0.1, "decay_steps": 100, "decay_rate": 1.5},
    ),
    *_keras(
        "PiecewiseConstantDecay",
        {"boundaries": [30, 60], "values": [0.1, 0.05, 0.01]},
        {"boundaries": [1], "values": [0.5, 0.7]},
        {"boundaries": [0, 5, 6, 70], "values": [1.0, 0.5, 0.25, 0.0, 0.125]},
    ),
    *_keras(
        "PolynomialDecay",
        {"initial_learning_rate": 0.1, "decay_steps": 50},
        {"initial_learning_rate": 0.1, "decay_steps": 33, "end_learning_rate": 0.2, "power": 2.0},
        {"initial_learning_rate": 0.1, "decay_steps": 17, "end_learning_rate": 0.01, "power": 0.5, "cycle": True},
        {"initial_learning_rate": 0.1, "decay_steps": 9, "power": 1.5, "cycle": True},
    ),
    *_keras(
        "InverseTimeDecay",
        {"initial_learning_rate": 0.1, "decay_steps": 1, "decay_rate": 0.5},
        {"initial_learning_rate": 0.1, "decay_steps": 20, "decay_rate": 3.0},
        {"initial_learning_rate": 0.1, "decay_steps": 11, "decay_rate": 0.7, "staircase": True},
    ),
    *_keras(
        "CosineDecay",
        {"initial_learning_rate": 0.1, "decay_steps": 50},
        {"initial_learning_rate": 0.1, "decay_steps": 33, "alpha": 0.2, "name": "down"},
        {"initial_learning_rate": 0.0, "decay_steps": 50, "warmup_target": 0.1, "warmup_steps": 10},
        {"initial_learning_rate": 0.02, "decay_steps": 20, "alpha": 0.1, "warmup_target": 0.3, "warmup_steps": 33},
        {"initial_learning_rate": 0.1, "decay_steps": 50, "warmup_steps": 10},
        {"initial_learning_rate": 0.1, "decay_steps": 50, "warmup_target": 0.3},
    ),
    *_keras(
        "CosineDecayRestarts",
        {"initial_learning_rate": 0.1, "first_decay_steps": 10},
        {"initial_learning_rate": 0.1, "first_decay_steps": 10, "t_mul": 1.0, "m_mul": 0.8, "alpha": 0.1},
        {"initial_learning_rate": 0.1, "first_decay_steps": 7, "t_mul": 1.5, "m_mul": 0.9, "alpha": 0.01},
        {"initial_learning_rate": 0.1, "first_decay_steps": 6, "t_mul": 3.0, "m_mul": 1.2},
    ),
    *_following(
        "keras.callbacks.ReduceLROnPlateau",
        0.1,
        ("flat", {}),
        ("bumpy", {"patience": 3, "factor": 0.5, "cooldown": 4}),
        ("creeping", {"patience": 2, "min_delta": 1e-3, "min_lr": 0.003}),
        ("stairs", {"patience": 5, "factor": 0.7, "min_delta": 0.3}),
        ("signed", {"patience": 0, "factor": 0.9, "cooldown": 1, "min_delta": 0.05}),
        ("rising", {"mode": "max", "patience": 4, "factor": 0.3}),
        ("flat", {"patience": 1, "min_lr": 0.5}),
    ),
)

CASES = (*TORCH, *OPTAX, *KERAS)
LIBRARIES = {"torch": TORCH, "optax": OPTAX, "keras": KERAS}
