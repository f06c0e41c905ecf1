"""The golden cases: which optimizer, with which arguments, on which gradients. Plain data, needs no library.

`make.py` runs every case in the library that `like` names; the tests compare with what it recorded.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Arguments = dict[str, Any]
Call = tuple[str, Arguments]  # what a user would paste, and its arguments

SEED = 20260101
SHAPES: dict[str, tuple[int, ...]] = {"w": (4, 3), "b": (5,), "s": ()}  # a record is w, b and s, flat, in this order
SIZE = 18  # numbers in one record
STEPS = 50
SCALES: tuple[float, ...] = (1, 1e-3, 1e-6)  # the gradients are multiplied by this
RECORDED = (1, 2, 3, 5, 10, 20, 35, 50)  # the parameters after these steps are kept
NOISE = 0.5  # standard deviation around the fixed mean of each gradient

# What makes the gradients awkward. Steps count from 1.
ZERO_ROW = 0  # this row of w never has a gradient other than zero
LATE_ROW, LATE_STEP = 1, 6  # this row of w is zero before this step
FLIP_STEP = 25  # every gradient of b changes sign from this step on
ZERO_ELEMENT, ZERO_STEPS = (3, 2), (3, 4, 11, 17, 18, 19, 30, 42)  # this element of w is zero in these steps

SCHEDULE_STEPS = 60


def loss_at(step: int) -> float:
    """The loss that a step which needs one is told: it falls, with bumps, and stays above zero."""
    return 3.0 / step + 0.5 + 0.25 * ((step * 7) % 5 - 2) / 5.0


@dataclass(frozen=True)
class Case:
    """One optimizer with one set of arguments, in its library's own words."""

    id: str
    like: str
    arguments: Arguments
    scheduler: Call | None = None  # torch: stepped after the optimizer; optax and Keras: given as the learning rate
    clip: Call | None = None  # what is done to the gradients before the step
    absent: dict[str, Sequence[int]] = field(default_factory=dict)  # steps in which a tensor has no gradient at all
    losses: bool = False  # each step is told a loss, from `loss_at`
    rows: dict[str, Sequence[Sequence[int]]] = field(default_factory=dict)  # sparse: the rows of each step, in turns
    view: str = "train"  # which parameters are recorded: those to train with, or those to evaluate with ("eval")
    without: Sequence[str] = ()  # tensors that the library's class does not take, and that nobody moves
    close: float = 1e-12  # how far apart the displacements may be; more than that is explained beside the case
    roundings: int = 1  # how often a step rounds each parameter, in the float32 form
    close_in_float32: float = 2e-5  # the same for the float32 form of it here, beside its rounding of each step

    def key(self, scale: float) -> str:
        """The name of the record of this case at one of SCALES."""
        return f"{self.id}@{scale}"

    def rows_at(self, step: int) -> dict[str, list[tuple[int, int]]]:
        """By tensor with a sparse gradient: its rows in this step, each with a factor of the dense gradient's row.

        A row that comes again comes twice as long, then three times, so that only their sum is right.
        """
        found = {name: turns[(step - 1) % len(turns)] for name, turns in self.rows.items()}
        return {name: [(r, rows[: i + 1].count(r)) for i, r in enumerate(rows)] for name, rows in found.items()}

    @property
    def library(self) -> str:
        """torch, optax or keras."""
        return self.like.partition(".")[0]


@dataclass(frozen=True)
class Schedule:
    """One torch scheduler on an optimizer whose learning rate is `lr`."""

    id: str
    like: str
    arguments: Arguments
    lr: float = 0.1


# Fields that came later; at these values they are as if they were not there, so that old data stays of its cases.
_LATER: dict[str, Any] = {"losses": False, "rows": {}, "view": "train", "without": (), "roundings": 1}


def fingerprint(rows: Iterable[Case | Schedule]) -> str:
    """Changes with anything that a data file was made from; the file carries the one it was made from."""
    inputs = [SEED, SHAPES, STEPS, SCALES, RECORDED, NOISE, ZERO_ROW, LATE_ROW, LATE_STEP, FLIP_STEP]
    inputs += [ZERO_ELEMENT, ZERO_STEPS, SCHEDULE_STEPS]
    told = [
        {k: v for k, v in asdict(row).items() if not k.startswith("close") and (k not in _LATER or v != _LATER[k])}
        for row in rows
    ]
    text = json.dumps([inputs, told], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


TORCH = (
    Case("torch.sgd.default", "torch.optim.SGD", {}),
    Case("torch.sgd.plain", "torch.optim.SGD", {"lr": 0.1}),
    Case("torch.sgd.momentum", "torch.optim.SGD", {"lr": 0.05, "momentum": 0.9}),
    Case("torch.sgd.dampening", "torch.optim.SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.5}),
    Case("torch.sgd.nesterov", "torch.optim.SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    Case("torch.sgd.weight_decay", "torch.optim.SGD", {"lr": 0.1, "weight_decay": 0.1}),
    Case("torch.sgd.maximize", "torch.optim.SGD", {"lr": 0.1, "maximize": True}),
    Case(
        "torch.sgd.all_dampening",
        "torch.optim.SGD",
        {"lr": 0.02, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.1, "maximize": True},
    ),
    Case(
        "torch.sgd.all_nesterov",
        "torch.optim.SGD",
        {"lr": 0.02, "momentum": 0.8, "weight_decay": 0.1, "nesterov": True, "maximize": True},
    ),
    Case("torch.adagrad.default", "torch.optim.Adagrad", {}),
    Case("torch.adagrad.lr_decay", "torch.optim.Adagrad", {"lr": 0.1, "lr_decay": 0.05}),
    Case("torch.adagrad.accumulator", "torch.optim.Adagrad", {"lr": 0.1, "initial_accumulator_value": 0.1}),
    Case("torch.adagrad.weight_decay", "torch.optim.Adagrad", {"lr": 0.1, "weight_decay": 0.1}),
    Case("torch.adagrad.maximize", "torch.optim.Adagrad", {"lr": 0.1, "maximize": True}),
    Case("torch.adagrad.epsilon", "torch.optim.Adagrad", {"lr": 0.1, "eps": 1e-3}),
    Case("torch.adagrad.small_epsilon", "torch.optim.Adagrad", {"lr": 0.1, "eps": 1e-14}),
    Case(
        "torch.adagrad.all",
        "torch.optim.Adagrad",
        {
            "lr": 0.05,
            "lr_decay": 0.02,
            "weight_decay": 0.1,
            "initial_accumulator_value": 0.01,
            "eps": 1e-6,
            "maximize": True,
        },
    ),
    Case("torch.adadelta.default", "torch.optim.Adadelta", {}),
    Case("torch.adadelta.lr", "torch.optim.Adadelta", {"lr": 0.1}),
    Case("torch.adadelta.small_epsilon", "torch.optim.Adadelta", {"rho": 0.5, "eps": 1e-12}),
    Case("torch.adadelta.epsilon", "torch.optim.Adadelta", {"rho": 0.99, "eps": 1e-3}),
    Case("torch.adadelta.weight_decay", "torch.optim.Adadelta", {"weight_decay": 0.1}),
    Case("torch.adadelta.maximize", "torch.optim.Adadelta", {"maximize": True}),
    Case(
        "torch.adadelta.all",
        "torch.optim.Adadelta",
        {"lr": 0.5, "rho": 0.8, "eps": 1e-5, "weight_decay": 0.1, "maximize": True},
    ),
    Case("torch.rmsprop.default", "torch.optim.RMSprop", {}),
    Case("torch.rmsprop.centered", "torch.optim.RMSprop", {"centered": True}),
    Case("torch.rmsprop.momentum", "torch.optim.RMSprop", {"momentum": 0.9}),
    Case("torch.rmsprop.centered_momentum", "torch.optim.RMSprop", {"centered": True, "momentum": 0.9}),
    Case("torch.rmsprop.weight_decay", "torch.optim.RMSprop", {"weight_decay": 0.1}),
    Case("torch.rmsprop.maximize", "torch.optim.RMSprop", {"maximize": True}),
    Case("torch.rmsprop.small_epsilon", "torch.optim.RMSprop", {"lr": 0.001, "alpha": 0.8, "eps": 1e-12}),
    Case("torch.rmsprop.epsilon", "torch.optim.RMSprop", {"alpha": 0.9, "eps": 1e-3}),
    Case(
        "torch.rmsprop.all",
        "torch.optim.RMSprop",
        {
            "lr": 0.002,
            "alpha": 0.95,
            "eps": 1e-6,
            "weight_decay": 0.1,
            "momentum": 0.8,
            "centered": True,
            "maximize": True,
        },
    ),
    Case("torch.adam.default", "torch.optim.Adam", {}),
    Case("torch.adam.lr", "torch.optim.Adam", {"lr": 0.01}),
    Case("torch.adam.weight_decay", "torch.optim.Adam", {"lr": 0.01, "weight_decay": 0.1}),
    Case(
        "torch.adam.decoupled_weight_decay",
        "torch.optim.Adam",
        {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ),
    Case("torch.adam.amsgrad", "torch.optim.Adam", {"lr": 0.01, "amsgrad": True}),
    Case("torch.adam.amsgrad_short_memory", "torch.optim.Adam", {"lr": 0.01, "betas": [0.9, 0.8], "amsgrad": True}),
    Case("torch.adam.maximize", "torch.optim.Adam", {"lr": 0.01, "maximize": True}),
    Case("torch.adam.betas", "torch.optim.Adam", {"lr": 0.01, "betas": [0.3, 0.95]}),
    Case("torch.adam.no_momentum", "torch.optim.Adam", {"lr": 0.01, "betas": [0.0, 0.99]}),
    Case("torch.adam.small_epsilon", "torch.optim.Adam", {"lr": 0.01, "betas": [0.95, 0.9], "eps": 1e-14}),
    Case("torch.adam.epsilon", "torch.optim.Adam", {"lr": 0.01, "eps": 1e-3}),
    Case(
        "torch.adam.all",
        "torch.optim.Adam",
        {
            "lr": 0.02,
            "betas": [0.8, 0.9],
            "eps": 1e-6,
            "weight_decay": 0.05,
            "amsgrad": True,
            "maximize": True,
            "decoupled_weight_decay": True,
        },
    ),
    Case(
        "torch.adam.all_coupled",
        "torch.optim.Adam",
        {"lr": 0.02, "betas": [0.8, 0.9], "eps": 1e-6, "weight_decay": 0.05, "amsgrad": True, "maximize": True},
    ),
    Case("torch.adamw.default", "torch.optim.AdamW", {}),
    Case("torch.adamw.weight_decay", "torch.optim.AdamW", {"lr": 0.01, "weight_decay": 0.2}),
    Case("torch.adamw.amsgrad", "torch.optim.AdamW", {"lr": 0.01, "betas": [0.9, 0.8], "amsgrad": True}),
    Case("torch.adamw.maximize", "torch.optim.AdamW", {"lr": 0.01, "maximize": True}),
    Case("torch.adamw.small_epsilon", "torch.optim.AdamW", {"lr": 0.01, "betas": [0.95, 0.9], "eps": 1e-14}),
    Case("torch.adamw.no_weight_decay", "torch.optim.AdamW", {"lr": 0.01, "weight_decay": 0.0}),
    Case(
        "torch.adamw.all",
        "torch.optim.AdamW",
        {
            "lr": 0.02,
            "betas": [0.6, 0.95],
            "eps": 1e-6,
            "weight_decay": 0.05,
            "amsgrad": True,
            "maximize": True,
        },
    ),
    Case("torch.adamax.default", "torch.optim.Adamax", {}),
    Case("torch.adamax.weight_decay", "torch.optim.Adamax", {"lr": 0.01, "weight_decay": 0.1}),
    Case("torch.adamax.maximize", "torch.optim.Adamax", {"lr": 0.01, "maximize": True}),
    Case("torch.adamax.small_epsilon", "torch.optim.Adamax", {"lr": 0.01, "betas": [0.95, 0.8], "eps": 1e-14}),
    Case("torch.adamax.epsilon", "torch.optim.Adamax", {"lr": 0.01, "eps": 1e-3}),
    Case(
        "torch.adamax.all",
        "torch.optim.Adamax",
        {"lr": 0.02, "betas": [0.7, 0.9], "eps": 1e-6, "weight_decay": 0.05, "maximize": True},
    ),
    Case("torch.asgd.default", "torch.optim.ASGD", {}),
    Case("torch.asgd.decay", "torch.optim.ASGD", {"lr": 0.1, "lambd": 0.5, "alpha": 0.6, "t0": 20}),
    Case("torch.asgd.weight_decay", "torch.optim.ASGD", {"lr": 0.1, "lambd": 0.01, "weight_decay": 0.1}),
    Case(
        "torch.asgd.all",
        "torch.optim.ASGD",
        {"lr": 0.05, "lambd": 0.2, "alpha": 1.5, "t0": 5, "weight_decay": 0.1, "maximize": True},
    ),
    Case("torch.rprop.default", "torch.optim.Rprop", {}),
    Case("torch.rprop.etas", "torch.optim.Rprop", {"lr": 0.1, "etas": [0.3, 1.5]}),
    Case("torch.rprop.step_sizes", "torch.optim.Rprop", {"lr": 0.001, "step_sizes": [5e-4, 5e-3]}),
    Case(
        "torch.rprop.all",
        "torch.optim.Rprop",
        {"lr": 0.02, "etas": [0.6, 1.1], "step_sizes": [0.015, 0.03], "maximize": True},
    ),
    Case("torch.nadam.default", "torch.optim.NAdam", {}),
    Case("torch.nadam.weight_decay", "torch.optim.NAdam", {"lr": 0.01, "weight_decay": 0.1}),
    Case("torch.nadam.momentum_decay", "torch.optim.NAdam", {"lr": 0.01, "momentum_decay": 0.5}),
    Case("torch.nadam.small_epsilon", "torch.optim.NAdam", {"lr": 0.01, "betas": [0.95, 0.9], "eps": 1e-14}),
    Case("torch.nadam.no_momentum", "torch.optim.NAdam", {"lr": 0.01, "betas": [0.0, 0.99], "eps": 1e-3}),
    Case(
        "torch.nadam.all",
        "torch.optim.NAdam",
        {
            "lr": 0.02,
            "betas": [0.8, 0.9],
            "eps": 1e-6,
            "momentum_decay": 0.05,
            "weight_decay": 0.05,
            "decoupled_weight_decay": True,
            "maximize": True,
        },
    ),
    Case("torch.radam.default", "torch.optim.RAdam", {}),
    Case("torch.radam.weight_decay", "torch.optim.RAdam", {"lr": 0.01, "weight_decay": 0.1}),
    Case("torch.radam.small_epsilon", "torch.optim.RAdam", {"lr": 0.01, "betas": [0.95, 0.9], "eps": 1e-14}),
    Case("torch.radam.epsilon", "torch.optim.RAdam", {"lr": 0.01, "betas": [0.9, 0.99], "eps": 1e-3}),
    Case("torch.radam.never_rectified", "torch.optim.RAdam", {"lr": 0.01, "betas": [0.9, 0.5]}),
    Case(
        "torch.radam.all",
        "torch.optim.RAdam",
        {
            "lr": 0.02,
            "betas": [0.8, 0.95],
            "eps": 1e-6,
            "weight_decay": 0.05,
            "decoupled_weight_decay": True,
            "maximize": True,
        },
    ),
    # A learning rate that changes: shows where it stands in a momentum, and which step sees which rate.
    Case(
        "torch.sgd.step_lr",
        "torch.optim.SGD",
        {"lr": 0.05, "momentum": 0.9},
        scheduler=("torch.optim.lr_scheduler.StepLR", {"step_size": 10, "gamma": 0.5}),
    ),
    Case(
        "torch.sgd.multi_step_lr",
        "torch.optim.SGD",
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
        scheduler=("torch.optim.lr_scheduler.MultiStepLR", {"milestones": [3, 20, 34], "gamma": 0.2}),
    ),
    Case(
        "torch.adam.cosine_annealing_lr",
        "torch.optim.Adam",
        {"lr": 0.01},
        scheduler=("torch.optim.lr_scheduler.CosineAnnealingLR", {"T_max": 20}),
    ),
    Case(
        "torch.adam.exponential_lr",
        "torch.optim.Adam",
        {"lr": 0.02},
        scheduler=("torch.optim.lr_scheduler.ExponentialLR", {"gamma": 0.93}),
    ),
    Case(
        "torch.adamw.linear_lr",
        "torch.optim.AdamW",
        {"lr": 0.01, "weight_decay": 0.1},
        scheduler=("torch.optim.lr_scheduler.LinearLR", {"start_factor": 0.1, "total_iters": 15}),
    ),
    # ASGD makes the rate of a step in the step before, so that a change arrives one step late.
    Case(
        "torch.asgd.step_lr",
        "torch.optim.ASGD",
        {"lr": 0.05, "lambd": 0.1},
        scheduler=("torch.optim.lr_scheduler.StepLR", {"step_size": 10, "gamma": 0.5}),
    ),
    Case(
        "torch.nadam.exponential_lr",
        "torch.optim.NAdam",
        {"lr": 0.02},
        scheduler=("torch.optim.lr_scheduler.ExponentialLR", {"gamma": 0.93}),
    ),
    # No gradient is not a zero gradient, and every parameter counts its own steps.
    Case("torch.adam.absent", "torch.optim.Adam", {"lr": 0.01}, absent={"b": [4, 5, 6]}),
    Case("torch.nadam.absent", "torch.optim.NAdam", {"lr": 0.01}, absent={"b": [1, 4, 5, 6]}),
    Case("torch.radam.absent", "torch.optim.RAdam", {"lr": 0.01}, absent={"b": [1, 4, 5, 6]}),
    Case("torch.rprop.absent", "torch.optim.Rprop", {}, absent={"b": [4, 5, 6]}),
    Case("torch.asgd.absent", "torch.optim.ASGD", {"lr": 0.1, "lambd": 0.1}, absent={"b": [4, 5, 6]}),
    Case(
        "torch.sgd.absent",
        "torch.optim.SGD",
        {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1},
        absent={"b": [4, 5, 6]},
    ),
    Case(
        "torch.sgd.clip_norm",
        "torch.optim.SGD",
        {"lr": 0.1},
        clip=("torch.nn.utils.clip_grad_norm_", {"max_norm": 0.5}),
    ),
    Case(
        "torch.sgd.clip_norm_sometimes",
        "torch.optim.SGD",
        {"lr": 0.1, "weight_decay": 0.1},
        clip=("torch.nn.utils.clip_grad_norm_", {"max_norm": 4.5}),
    ),
    Case(
        "torch.sgd.clip_norm_tiny",
        "torch.optim.SGD",
        {"lr": 1e4},
        clip=("torch.nn.utils.clip_grad_norm_", {"max_norm": 1e-6}),
    ),
    Case(
        "torch.sgd.clip_value",
        "torch.optim.SGD",
        {"lr": 0.1},
        clip=("torch.nn.utils.clip_grad_value_", {"clip_value": 0.8}),
    ),
)

OPTAX = (
    Case("optax.sgd.default", "optax.sgd", {"learning_rate": 0.1}),
    Case("optax.sgd.momentum", "optax.sgd", {"learning_rate": 0.05, "momentum": 0.9}),
    Case("optax.sgd.nesterov", "optax.sgd", {"learning_rate": 0.05, "momentum": 0.9, "nesterov": True}),
    Case("optax.sgd.zero_momentum", "optax.sgd", {"learning_rate": 0.1, "momentum": 0.0, "nesterov": True}),
    Case("optax.adagrad.default", "optax.adagrad", {"learning_rate": 0.1}),
    Case("optax.adagrad.zero", "optax.adagrad", {"learning_rate": 0.1, "initial_accumulator_value": 0.0}),
    Case("optax.adagrad.small_epsilon", "optax.adagrad", {"learning_rate": 0.1, "eps": 1e-14}),
    Case("optax.adagrad.all", "optax.adagrad", {"learning_rate": 0.05, "initial_accumulator_value": 1e-6, "eps": 1e-3}),
    Case("optax.adadelta.default", "optax.adadelta", {"learning_rate": 1.0}),
    Case("optax.adadelta.weight_decay", "optax.adadelta", {"learning_rate": 1.0, "weight_decay": 0.1}),
    Case("optax.adadelta.small_epsilon", "optax.adadelta", {"learning_rate": 1.0, "rho": 0.5, "eps": 1e-12}),
    Case(
        "optax.adadelta.all",
        "optax.adadelta",
        {"learning_rate": 0.5, "rho": 0.8, "eps": 1e-5, "weight_decay": 0.05},
    ),
    Case("optax.rmsprop.default", "optax.rmsprop", {"learning_rate": 0.01}),
    Case("optax.rmsprop.epsilon_outside", "optax.rmsprop", {"learning_rate": 0.01, "eps_in_sqrt": False}),
    Case("optax.rmsprop.small_epsilon", "optax.rmsprop", {"learning_rate": 0.01, "decay": 0.8, "eps": 1e-15}),
    Case("optax.rmsprop.centered", "optax.rmsprop", {"learning_rate": 0.01, "centered": True}),
    Case(
        "optax.rmsprop.centered_epsilon_outside",
        "optax.rmsprop",
        {"learning_rate": 0.01, "centered": True, "eps_in_sqrt": False},
    ),
    Case("optax.rmsprop.momentum", "optax.rmsprop", {"learning_rate": 0.01, "momentum": 0.9}),
    Case("optax.rmsprop.nesterov", "optax.rmsprop", {"learning_rate": 0.01, "momentum": 0.9, "nesterov": True}),
    Case("optax.rmsprop.initial_scale", "optax.rmsprop", {"learning_rate": 0.01, "initial_scale": 1.0}),
    Case("optax.rmsprop.bias_correction", "optax.rmsprop", {"learning_rate": 0.01, "bias_correction": True}),
    # At step 1 the corrected variance is rounding error alone, so only a large epsilon gives it a meaning.
    Case(
        "optax.rmsprop.centered_bias_correction",
        "optax.rmsprop",
        {"learning_rate": 0.01, "eps": 0.05, "centered": True, "bias_correction": True},
    ),
    Case(
        "optax.rmsprop.all",
        "optax.rmsprop",
        {
            "learning_rate": 0.005,
            "decay": 0.95,
            "eps": 1e-5,
            "initial_scale": 0.5,
            "eps_in_sqrt": False,
            "centered": True,
            "momentum": 0.8,
            "nesterov": True,
            "bias_correction": True,
        },
    ),
    Case("optax.adam.default", "optax.adam", {"learning_rate": 0.001}),
    Case("optax.adam.epsilon_root", "optax.adam", {"learning_rate": 0.01, "eps_root": 1e-8}),
    Case("optax.adam.small_epsilon", "optax.adam", {"learning_rate": 0.01, "b1": 0.95, "b2": 0.9, "eps": 1e-14}),
    Case("optax.adam.epsilon", "optax.adam", {"learning_rate": 0.01, "eps": 1e-3}),
    Case(
        "optax.adam.all",
        "optax.adam",
        {"learning_rate": 0.02, "b1": 0.3, "b2": 0.95, "eps": 1e-6, "eps_root": 1e-12},
    ),
    Case("optax.adamw.default", "optax.adamw", {"learning_rate": 0.001}),
    Case("optax.adamw.weight_decay", "optax.adamw", {"learning_rate": 0.01, "weight_decay": 0.2}),
    Case("optax.adamw.small_epsilon", "optax.adamw", {"learning_rate": 0.01, "b1": 0.95, "b2": 0.9, "eps": 1e-14}),
    Case(
        "optax.adamw.all",
        "optax.adamw",
        {"learning_rate": 0.02, "b1": 0.8, "b2": 0.9, "eps": 1e-6, "eps_root": 1e-12, "weight_decay": 0.05},
    ),
    Case("optax.amsgrad.default", "optax.amsgrad", {"learning_rate": 0.01}),
    Case("optax.amsgrad.short_memory", "optax.amsgrad", {"learning_rate": 0.01, "b2": 0.8}),
    Case("optax.amsgrad.raw_mu", "optax.amsgrad", {"learning_rate": 0.01, "bias_correction_mu": False}),
    Case("optax.amsgrad.raw_nu", "optax.amsgrad", {"learning_rate": 0.01, "bias_correction_nu": False}),
    Case("optax.amsgrad.small_epsilon", "optax.amsgrad", {"learning_rate": 0.01, "b1": 0.95, "b2": 0.9, "eps": 1e-14}),
    Case(
        "optax.amsgrad.all",
        "optax.amsgrad",
        {
            "learning_rate": 0.02,
            "b1": 0.8,
            "b2": 0.9,
            "eps": 1e-6,
            "eps_root": 1e-12,
            "bias_correction_mu": False,
            "bias_correction_nu": False,
        },
    ),
    Case("optax.adamax.default", "optax.adamax", {"learning_rate": 0.002}),
    Case("optax.adamax.small_epsilon", "optax.adamax", {"learning_rate": 0.01, "b1": 0.95, "b2": 0.8, "eps": 1e-14}),
    Case("optax.adamax.all", "optax.adamax", {"learning_rate": 0.02, "b1": 0.7, "b2": 0.9, "eps": 1e-3}),
    Case("optax.adamaxw.default", "optax.adamaxw", {"learning_rate": 0.002}),
    Case("optax.adamaxw.weight_decay", "optax.adamaxw", {"learning_rate": 0.01, "weight_decay": 0.2}),
    Case(
        "optax.adamaxw.all",
        "optax.adamaxw",
        {"learning_rate": 0.02, "b1": 0.7, "b2": 0.9, "eps": 1e-6, "weight_decay": 0.05},
    ),
    Case("optax.nadam.default", "optax.nadam", {"learning_rate": 0.001}),
    Case("optax.nadam.small_epsilon", "optax.nadam", {"learning_rate": 0.01, "b1": 0.95, "b2": 0.9, "eps": 1e-14}),
    Case("optax.nadam.epsilon", "optax.nadam", {"learning_rate": 0.01, "eps": 0.001}),
    Case(
        "optax.nadam.all",
        "optax.nadam",
        {"learning_rate": 0.02, "b1": 0.3, "b2": 0.95, "eps": 1e-06, "eps_root": 1e-12},
    ),
    Case("optax.nadamw.default", "optax.nadamw", {"learning_rate": 0.001}),
    Case("optax.nadamw.weight_decay", "optax.nadamw", {"learning_rate": 0.01, "weight_decay": 0.2}),
    Case("optax.nadamw.small_epsilon", "optax.nadamw", {"learning_rate": 0.01, "b1": 0.95, "b2": 0.9, "eps": 1e-14}),
    Case(
        "optax.nadamw.all",
        "optax.nadamw",
        {"learning_rate": 0.02, "b1": 0.8, "b2": 0.9, "eps": 1e-06, "eps_root": 1e-12, "weight_decay": 0.05},
    ),
    Case("optax.radam.default", "optax.radam", {"learning_rate": 0.001}),
    Case("optax.radam.nesterov", "optax.radam", {"learning_rate": 0.01, "nesterov": True}),
    Case("optax.radam.small_epsilon", "optax.radam", {"learning_rate": 0.01, "b1": 0.95, "b2": 0.9, "eps": 1e-14}),
    Case("optax.radam.never_rectified", "optax.radam", {"learning_rate": 0.01, "b2": 0.5}),
    Case(
        "optax.radam.all",
        "optax.radam",
        {
            "learning_rate": 0.02,
            "b1": 0.3,
            "b2": 0.95,
            "eps": 1e-06,
            "eps_root": 1e-12,
            "threshold": 8.0,
            "nesterov": True,
        },
    ),
    Case("optax.sign_sgd.default", "optax.sign_sgd", {"learning_rate": 0.001}),
    Case("optax.sign_sgd.large", "optax.sign_sgd", {"learning_rate": 0.1}),
    Case("optax.sign_sgd.small", "optax.sign_sgd", {"learning_rate": 1e-05}),
    Case("optax.signum.default", "optax.signum", {"learning_rate": 0.001}),
    Case("optax.signum.short_memory", "optax.signum", {"learning_rate": 0.01, "beta": 0.3}),
    Case("optax.signum.long_memory", "optax.signum", {"learning_rate": 0.01, "beta": 0.995}),
    Case("optax.lion.default", "optax.lion", {"learning_rate": 0.001}),
    Case("optax.lion.no_weight_decay", "optax.lion", {"learning_rate": 0.01, "weight_decay": 0.0}),
    Case("optax.lion.betas", "optax.lion", {"learning_rate": 0.01, "b1": 0.5, "b2": 0.8}),
    Case("optax.lion.all", "optax.lion", {"learning_rate": 0.02, "b1": 0.95, "b2": 0.98, "weight_decay": 0.1}),
    Case("optax.rprop.default", "optax.rprop", {"learning_rate": 0.01}),
    Case("optax.rprop.etas", "optax.rprop", {"learning_rate": 0.1, "eta_minus": 0.3, "eta_plus": 1.5}),
    Case(
        "optax.rprop.step_sizes",
        "optax.rprop",
        {"learning_rate": 0.001, "min_step_size": 0.0005, "max_step_size": 0.005},
    ),
    Case(
        "optax.rprop.all",
        "optax.rprop",
        {"learning_rate": 0.02, "eta_minus": 0.6, "eta_plus": 1.1, "min_step_size": 0.015, "max_step_size": 0.03},
    ),
    Case("optax.yogi.default", "optax.yogi", {"learning_rate": 0.01}),
    Case("optax.yogi.small_epsilon", "optax.yogi", {"learning_rate": 0.01, "b1": 0.95, "b2": 0.9, "eps": 1e-14}),
    Case("optax.yogi.no_momentum", "optax.yogi", {"learning_rate": 0.01, "b1": 0.0}),
    Case("optax.yogi.all", "optax.yogi", {"learning_rate": 0.02, "b1": 0.3, "b2": 0.95, "eps": 1e-06}),
    Case("optax.adabelief.default", "optax.adabelief", {"learning_rate": 0.001}),
    Case("optax.adabelief.nesterov", "optax.adabelief", {"learning_rate": 0.01, "nesterov": True}),
    Case("optax.adabelief.epsilon", "optax.adabelief", {"learning_rate": 0.01, "eps": 0.001, "eps_root": 1e-08}),
    Case("optax.adabelief.betas", "optax.adabelief", {"learning_rate": 0.01, "b1": 0.95, "b2": 0.9, "eps": 1e-14}),
    Case(
        "optax.adabelief.all",
        "optax.adabelief",
        {"learning_rate": 0.02, "b1": 0.3, "b2": 0.95, "eps": 1e-06, "eps_root": 1e-12, "nesterov": True},
    ),
    Case("optax.adan.default", "optax.adan", {"learning_rate": 0.001}),
    Case("optax.adan.weight_decay", "optax.adan", {"learning_rate": 0.01, "weight_decay": 0.2}),
    Case(
        "optax.adan.small_epsilon",
        "optax.adan",
        {"learning_rate": 0.01, "b1": 0.9, "b2": 0.5, "b3": 0.9, "eps": 1e-14, "eps_root": 0.0},
    ),
    Case(
        "optax.adan.all",
        "optax.adan",
        {
            "learning_rate": 0.02,
            "b1": 0.3,
            "b2": 0.95,
            "b3": 0.8,
            "eps": 1e-06,
            "eps_root": 1e-12,
            "weight_decay": 0.05,
        },
    ),
    Case("optax.optimistic_gradient_descent.default", "optax.optimistic_gradient_descent", {"learning_rate": 0.1}),
    Case(
        "optax.optimistic_gradient_descent.weights",
        "optax.optimistic_gradient_descent",
        {"learning_rate": 0.05, "alpha": 0.7, "beta": 0.3},
    ),
    Case(
        "optax.optimistic_gradient_descent.no_optimism",
        "optax.optimistic_gradient_descent",
        {"learning_rate": 0.1, "beta": 0.0},
    ),
    Case(
        "optax.optimistic_gradient_descent.large",
        "optax.optimistic_gradient_descent",
        {"learning_rate": 0.02, "alpha": 2.0, "beta": 3.5},
    ),
    Case("optax.optimistic_adam_v2.default", "optax.optimistic_adam_v2", {"learning_rate": 0.001}),
    Case("optax.optimistic_adam_v2.adam", "optax.optimistic_adam_v2", {"learning_rate": 0.01, "nesterov": False}),
    Case(
        "optax.optimistic_adam_v2.small_epsilon",
        "optax.optimistic_adam_v2",
        {"learning_rate": 0.01, "b1": 0.95, "b2": 0.9, "eps": 1e-14},
    ),
    Case(
        "optax.optimistic_adam_v2.all",
        "optax.optimistic_adam_v2",
        {"learning_rate": 0.02, "alpha": 0.7, "beta": 0.3, "b1": 0.3, "b2": 0.95, "eps": 1e-06, "eps_root": 1e-12},
    ),
    Case("optax.acprop.default", "optax.contrib.acprop", {"learning_rate": 0.001}),
    Case("optax.acprop.weight_decay", "optax.contrib.acprop", {"learning_rate": 0.01, "weight_decay": 0.2}),
    Case("optax.acprop.epsilon", "optax.contrib.acprop", {"learning_rate": 0.01, "eps": 0.001, "eps_root": 1e-08}),
    Case(
        "optax.acprop.all",
        "optax.contrib.acprop",
        {"learning_rate": 0.02, "b1": 0.3, "b2": 0.95, "eps": 1e-06, "eps_root": 1e-12, "weight_decay": 0.05},
    ),
    Case("optax.ademamix.default", "optax.contrib.ademamix", {"learning_rate": 0.001}),
    Case("optax.ademamix.weight_decay", "optax.contrib.ademamix", {"learning_rate": 0.01, "weight_decay": 0.2}),
    Case(
        "optax.ademamix.small_epsilon",
        "optax.contrib.ademamix",
        {"learning_rate": 0.01, "b1": 0.95, "b2": 0.9, "b3": 0.99, "eps": 1e-14},
    ),
    Case(
        "optax.ademamix.all",
        "optax.contrib.ademamix",
        {
            "learning_rate": 0.02,
            "b1": 0.3,
            "b2": 0.95,
            "b3": 0.98,
            "alpha": 2.0,
            "eps": 1e-06,
            "eps_root": 1e-12,
            "weight_decay": 0.05,
        },
    ),
    Case("optax.simplified_ademamix.default", "optax.contrib.simplified_ademamix", {"learning_rate": 0.0001}),
    Case(
        "optax.simplified_ademamix.alpha", "optax.contrib.simplified_ademamix", {"learning_rate": 0.001, "alpha": 20.0}
    ),
    Case(
        "optax.simplified_ademamix.small_epsilon",
        "optax.contrib.simplified_ademamix",
        {"learning_rate": 0.001, "b1": 0.9, "b2": 0.8, "eps": 1e-14},
    ),
    Case(
        "optax.simplified_ademamix.all",
        "optax.contrib.simplified_ademamix",
        {
            "learning_rate": 0.002,
            "b1": 0.3,
            "b2": 0.999,
            "alpha": 2.0,
            "eps": 1e-06,
            "eps_root": 1e-12,
            "weight_decay": 0.05,
        },
    ),
    Case("optax.adopt.default", "optax.contrib.adopt", {"learning_rate": 0.001}),
    Case("optax.adopt.no_clipping", "optax.contrib.adopt", {"learning_rate": 0.01, "eps": 0.01, "use_clipping": False}),
    Case("optax.adopt.nesterov", "optax.contrib.adopt", {"learning_rate": 0.01, "nesterov": True}),
    Case(
        "optax.adopt.small_epsilon", "optax.contrib.adopt", {"learning_rate": 0.01, "b1": 0.95, "b2": 0.9, "eps": 1e-14}
    ),
    Case(
        "optax.adopt.all",
        "optax.contrib.adopt",
        {"learning_rate": 0.02, "b1": 0.3, "b2": 0.95, "eps": 0.001, "use_clipping": False, "nesterov": True},
    ),
    Case("optax.cocob.default", "optax.contrib.cocob", {}),
    Case("optax.cocob.alpha", "optax.contrib.cocob", {"alpha": 10.0}),
    Case("optax.cocob.small_epsilon", "optax.contrib.cocob", {"alpha": 1.0, "eps": 1e-14}),
    Case(
        "optax.cocob.all",
        "optax.contrib.cocob",
        {"learning_rate": 0.3, "alpha": 20.0, "eps": 0.001, "weight_decay": 0.1},
    ),
    Case("optax.madgrad.default", "optax.contrib.madgrad", {"learning_rate": 0.01}),
    Case("optax.madgrad.no_momentum", "optax.contrib.madgrad", {"learning_rate": 0.01, "momentum": 0.0}),
    Case(
        "optax.madgrad.small_epsilon", "optax.contrib.madgrad", {"learning_rate": 0.001, "momentum": 0.5, "eps": 1e-12}
    ),
    Case(
        "optax.madgrad.all",
        "optax.contrib.madgrad",
        {"learning_rate": 0.02, "momentum": 0.8, "eps": 0.001, "weight_decay": 0.1},
    ),
    # sgd has the learning rate outside its momentum, rmsprop inside.
    Case(
        "optax.madgrad.exponential_decay",
        "optax.contrib.madgrad",
        {},
        scheduler=("optax.exponential_decay", {"init_value": 0.01, "transition_steps": 10, "decay_rate": 0.5}),
    ),
    Case(
        "optax.optimistic_gradient_descent.exponential_decay",
        "optax.optimistic_gradient_descent",
        {},
        scheduler=("optax.exponential_decay", {"init_value": 0.05, "transition_steps": 10, "decay_rate": 0.5}),
    ),
    Case(
        "optax.sgd.exponential_decay",
        "optax.sgd",
        {"momentum": 0.9},
        scheduler=(
            "optax.exponential_decay",
            {"init_value": 0.05, "transition_steps": 10, "decay_rate": 0.5, "staircase": True},
        ),
    ),
    Case(
        "optax.rmsprop.exponential_decay",
        "optax.rmsprop",
        {"momentum": 0.9},
        scheduler=("optax.exponential_decay", {"init_value": 0.01, "transition_steps": 10, "decay_rate": 0.5}),
    ),
    Case(
        "optax.sgd.clip_norm",
        "optax.sgd",
        {"learning_rate": 0.1},
        clip=("optax.clip_by_global_norm", {"max_norm": 0.5}),
    ),
    Case(
        "optax.sgd.clip_norm_sometimes",
        "optax.sgd",
        {"learning_rate": 0.05, "momentum": 0.9},
        clip=("optax.clip_by_global_norm", {"max_norm": 4.5}),
    ),
    Case(
        "optax.sgd.clip_norm_tiny",
        "optax.sgd",
        {"learning_rate": 1e4},
        clip=("optax.clip_by_global_norm", {"max_norm": 1e-6}),
    ),
    Case("optax.sgd.clip_value", "optax.sgd", {"learning_rate": 0.1}, clip=("optax.clip", {"max_delta": 0.8})),
)

KERAS = (
    Case("keras.sgd.default", "keras.optimizers.SGD", {}),
    Case("keras.sgd.momentum", "keras.optimizers.SGD", {"learning_rate": 0.05, "momentum": 0.9}),
    Case("keras.sgd.nesterov", "keras.optimizers.SGD", {"learning_rate": 0.05, "momentum": 0.9, "nesterov": True}),
    Case("keras.sgd.weight_decay", "keras.optimizers.SGD", {"learning_rate": 0.1, "weight_decay": 0.1}),
    Case("keras.sgd.clipnorm", "keras.optimizers.SGD", {"learning_rate": 0.1, "clipnorm": 2.0}),
    Case("keras.sgd.clipvalue", "keras.optimizers.SGD", {"learning_rate": 0.1, "clipvalue": 0.8}),
    Case("keras.sgd.global_clipnorm", "keras.optimizers.SGD", {"learning_rate": 0.1, "global_clipnorm": 4.5}),
    Case(
        "keras.sgd.all",
        "keras.optimizers.SGD",
        {"learning_rate": 0.02, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1, "global_clipnorm": 0.5},
    ),
    Case("keras.rmsprop.default", "keras.optimizers.RMSprop", {}),
    Case("keras.rmsprop.centered", "keras.optimizers.RMSprop", {"learning_rate": 0.01, "centered": True}),
    Case("keras.rmsprop.momentum", "keras.optimizers.RMSprop", {"learning_rate": 0.01, "momentum": 0.9}),
    Case(
        "keras.rmsprop.centered_momentum",
        "keras.optimizers.RMSprop",
        {"learning_rate": 0.01, "momentum": 0.9, "centered": True},
    ),
    Case("keras.rmsprop.weight_decay", "keras.optimizers.RMSprop", {"learning_rate": 0.01, "weight_decay": 0.1}),
    Case("keras.rmsprop.small_epsilon", "keras.optimizers.RMSprop", {"rho": 0.8, "epsilon": 1e-15}),
    Case(
        "keras.rmsprop.all",
        "keras.optimizers.RMSprop",
        {
            "learning_rate": 0.005,
            "rho": 0.95,
            "momentum": 0.8,
            "epsilon": 1e-10,
            "centered": True,
            "weight_decay": 0.1,
            "clipnorm": 2.0,
        },
    ),
    Case("keras.adam.default", "keras.optimizers.Adam", {}),
    Case("keras.adam.amsgrad", "keras.optimizers.Adam", {"learning_rate": 0.01, "amsgrad": True}),
    Case(
        "keras.adam.amsgrad_short_memory",
        "keras.optimizers.Adam",
        {"learning_rate": 0.01, "beta_2": 0.8, "amsgrad": True},
    ),
    Case("keras.adam.weight_decay", "keras.optimizers.Adam", {"learning_rate": 0.01, "weight_decay": 0.1}),
    Case(
        "keras.adam.small_epsilon",
        "keras.optimizers.Adam",
        {"learning_rate": 0.01, "beta_1": 0.95, "beta_2": 0.9, "epsilon": 1e-14},
    ),
    Case("keras.adam.epsilon", "keras.optimizers.Adam", {"learning_rate": 0.01, "epsilon": 1e-3}),
    Case("keras.adam.clipnorm", "keras.optimizers.Adam", {"learning_rate": 0.01, "clipnorm": 2.0}),
    Case("keras.adam.clipvalue", "keras.optimizers.Adam", {"learning_rate": 0.01, "clipvalue": 0.8}),
    Case("keras.adam.global_clipnorm", "keras.optimizers.Adam", {"learning_rate": 0.01, "global_clipnorm": 4.5}),
    Case(
        "keras.adam.all",
        "keras.optimizers.Adam",
        {
            "learning_rate": 0.02,
            "beta_1": 0.3,
            "beta_2": 0.9,
            "epsilon": 1e-6,
            "amsgrad": True,
            "weight_decay": 0.05,
            "global_clipnorm": 4.5,
        },
    ),
    Case("keras.adamw.default", "keras.optimizers.AdamW", {}),
    Case("keras.adamw.weight_decay", "keras.optimizers.AdamW", {"learning_rate": 0.01, "weight_decay": 0.2}),
    Case(
        "keras.adamw.small_epsilon",
        "keras.optimizers.AdamW",
        {"learning_rate": 0.01, "beta_1": 0.95, "beta_2": 0.9, "epsilon": 1e-14},
    ),
    Case(
        "keras.adamw.all",
        "keras.optimizers.AdamW",
        {
            "learning_rate": 0.02,
            "weight_decay": 0.05,
            "beta_1": 0.8,
            "beta_2": 0.9,
            "epsilon": 1e-6,
            "amsgrad": True,
        },
    ),
    Case("keras.adagrad.default", "keras.optimizers.Adagrad", {}),
    Case("keras.adagrad.weight_decay", "keras.optimizers.Adagrad", {"learning_rate": 0.1, "weight_decay": 0.1}),
    Case(
        "keras.adagrad.small_epsilon",
        "keras.optimizers.Adagrad",
        {"learning_rate": 0.1, "initial_accumulator_value": 0.0, "epsilon": 1e-15},
    ),
    Case(
        "keras.adagrad.all",
        "keras.optimizers.Adagrad",
        {"learning_rate": 0.05, "initial_accumulator_value": 1e-6, "epsilon": 1e-3, "weight_decay": 0.1},
    ),
    Case("keras.adadelta.default", "keras.optimizers.Adadelta", {}),
    Case("keras.adadelta.lr", "keras.optimizers.Adadelta", {"learning_rate": 1.0}),
    Case("keras.adadelta.weight_decay", "keras.optimizers.Adadelta", {"learning_rate": 0.5, "weight_decay": 0.1}),
    Case(
        "keras.adadelta.small_epsilon",
        "keras.optimizers.Adadelta",
        {"learning_rate": 1.0, "rho": 0.5, "epsilon": 1e-12},
    ),
    Case(
        "keras.adadelta.all",
        "keras.optimizers.Adadelta",
        {"learning_rate": 0.5, "rho": 0.8, "epsilon": 1e-5, "weight_decay": 0.05, "clipvalue": 0.8},
    ),
    Case("keras.adamax.default", "keras.optimizers.Adamax", {}),
    Case("keras.adamax.weight_decay", "keras.optimizers.Adamax", {"learning_rate": 0.01, "weight_decay": 0.1}),
    Case(
        "keras.adamax.small_epsilon",
        "keras.optimizers.Adamax",
        {"learning_rate": 0.01, "beta_1": 0.95, "beta_2": 0.8, "epsilon": 1e-14},
    ),
    Case(
        "keras.adamax.all",
        "keras.optimizers.Adamax",
        {"learning_rate": 0.02, "beta_1": 0.7, "beta_2": 0.9, "epsilon": 1e-3, "weight_decay": 0.05, "clipnorm": 2.0},
    ),
    Case("keras.nadam.default", "keras.optimizers.Nadam", {}),
    Case("keras.nadam.weight_decay", "keras.optimizers.Nadam", {"learning_rate": 0.01, "weight_decay": 0.1}),
    Case(
        "keras.nadam.small_epsilon",
        "keras.optimizers.Nadam",
        {"learning_rate": 0.01, "beta_1": 0.95, "beta_2": 0.9, "epsilon": 1e-14},
    ),
    Case(
        "keras.nadam.all",
        "keras.optimizers.Nadam",
        {"learning_rate": 0.02, "beta_1": 0.3, "beta_2": 0.95, "epsilon": 1e-3, "weight_decay": 0.05, "clipnorm": 2.0},
    ),
    Case("keras.lion.default", "keras.optimizers.Lion", {}),
    Case("keras.lion.weight_decay", "keras.optimizers.Lion", {"learning_rate": 0.01, "weight_decay": 0.1}),
    Case("keras.lion.betas", "keras.optimizers.Lion", {"learning_rate": 0.01, "beta_1": 0.5, "beta_2": 0.8}),
    Case(
        "keras.lion.all",
        "keras.optimizers.Lion",
        {"learning_rate": 0.02, "beta_1": 0.95, "beta_2": 0.98, "weight_decay": 0.1, "clipvalue": 0.8},
    ),
    Case("keras.ftrl.default", "keras.optimizers.Ftrl", {}),
    Case("keras.ftrl.l1", "keras.optimizers.Ftrl", {"learning_rate": 0.1, "l1_regularization_strength": 0.3}),
    Case(
        "keras.ftrl.small_accumulator",
        "keras.optimizers.Ftrl",
        {"learning_rate": 0.1, "initial_accumulator_value": 1e-12, "l2_regularization_strength": 1e-6},
    ),
    Case(
        "keras.ftrl.all",
        "keras.optimizers.Ftrl",
        {
            "learning_rate": 0.05,
            "initial_accumulator_value": 0.01,
            "l1_regularization_strength": 0.05,
            "l2_regularization_strength": 0.1,
            "l2_shrinkage_regularization_strength": 0.02,
            "beta": 0.5,
            "weight_decay": 0.05,
        },
    ),
    # Keras has the learning rate inside every momentum, and decays the weights with the rate of the step.
    Case(
        "keras.sgd.exponential_decay",
        "keras.optimizers.SGD",
        {"momentum": 0.9},
        scheduler=(
            "keras.optimizers.schedules.ExponentialDecay",
            {"initial_learning_rate": 0.05, "decay_steps": 10, "decay_rate": 0.5, "staircase": True},
        ),
    ),
    Case(
        "keras.rmsprop.exponential_decay",
        "keras.optimizers.RMSprop",
        {"momentum": 0.9, "weight_decay": 0.1},
        scheduler=(
            "keras.optimizers.schedules.ExponentialDecay",
            {"initial_learning_rate": 0.01, "decay_steps": 10, "decay_rate": 0.5},
        ),
    ),
    # Keras counts steps once for all parameters, so an absent gradient does not hold the count back.
    Case("keras.nadam.absent", "keras.optimizers.Nadam", {"learning_rate": 0.01}, absent={"b": [1, 4, 5, 6]}),
    Case(
        "keras.adam.absent",
        "keras.optimizers.Adam",
        {"learning_rate": 0.01, "weight_decay": 0.1},
        absent={"b": [4, 5, 6]},
    ),
)

# Families with a table of their own, `cases_<name>.py`, and a data file of their own.
FAMILIES: tuple[str, ...] = ("global", "wrappers", "layerwise", "matrix")


def family(name: str) -> tuple[Case, ...]:
    """The cases of a family."""
    table: tuple[Case, ...] = importlib.import_module(f"tests.golden.cases_{name}").CASES
    return table


CASES = TORCH + OPTAX + KERAS

SCHEDULES = (
    Schedule("torch.step_lr", "torch.optim.lr_scheduler.StepLR", {"step_size": 10, "gamma": 0.5}),
    Schedule("torch.step_lr.default", "torch.optim.lr_scheduler.StepLR", {"step_size": 7}),
    Schedule("torch.step_lr.each", "torch.optim.lr_scheduler.StepLR", {"step_size": 1, "gamma": 0.97}),
    Schedule("torch.multi_step_lr", "torch.optim.lr_scheduler.MultiStepLR", {"milestones": [3, 20, 34], "gamma": 0.2}),
    Schedule("torch.multi_step_lr.repeated", "torch.optim.lr_scheduler.MultiStepLR", {"milestones": [30, 8, 8, 1]}),
    Schedule("torch.exponential_lr", "torch.optim.lr_scheduler.ExponentialLR", {"gamma": 0.93}),
    Schedule("torch.exponential_lr.rising", "torch.optim.lr_scheduler.ExponentialLR", {"gamma": 1.05}, lr=1e-3),
    Schedule("torch.cosine_annealing_lr", "torch.optim.lr_scheduler.CosineAnnealingLR", {"T_max": 20}),
    Schedule(
        "torch.cosine_annealing_lr.floor",
        "torch.optim.lr_scheduler.CosineAnnealingLR",
        {"T_max": 7, "eta_min": 0.01},
    ),
    Schedule("torch.cosine_annealing_lr.long", "torch.optim.lr_scheduler.CosineAnnealingLR", {"T_max": 200}, lr=3e-4),
    Schedule("torch.linear_lr", "torch.optim.lr_scheduler.LinearLR", {"start_factor": 0.1, "total_iters": 15}),
    Schedule(
        "torch.linear_lr.falling",
        "torch.optim.lr_scheduler.LinearLR",
        {"start_factor": 1.0, "end_factor": 0.05, "total_iters": 40},
    ),
    Schedule("torch.linear_lr.short", "torch.optim.lr_scheduler.LinearLR", {"start_factor": 0.25}, lr=0.02),
)
