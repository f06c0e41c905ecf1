"""Golden cases of the optimizers that wrap others, and of those that train and evaluate at different parameters."""

from __future__ import annotations

from typing import Any

from tests.golden.cases import Case

SGD = {"like": "optax.sgd", "learning_rate": 0.1}
MOMENTUM = {"like": "optax.sgd", "learning_rate": 0.05, "momentum": 0.9}
ADAM = {"like": "optax.adam", "learning_rate": 0.01}
ODD_ADAM = {"like": "optax.adam", "learning_rate": 0.05, "b1": 0.5, "b2": 0.7, "eps": 1e-12}
RMS = {"like": "optax.adam", "learning_rate": 0.01, "b1": 0.0}
ADAMW = {"like": "optax.adamw", "learning_rate": 0.01, "weight_decay": 0.1}
UNIT_ADAM = {"like": "optax.adam", "learning_rate": 1.0}
LION = {"like": "optax.lion", "learning_rate": 0.02}
WARMUP = ("optax.polynomial_schedule", {"init_value": 0.0, "end_value": 0.05, "power": 2, "transition_steps": 8})


def adversary(rho: float) -> dict[str, Any]:
    """Normalised gradient ascent."""
    descent = {"like": "optax.sgd", "learning_rate": rho}
    return {"like": "optax.chain", "args": [{"like": "optax.contrib.normalize"}, descent]}


# To divide a tensor by β₁, XLA multiplies it by 1/β₁, but a tensor that is one number it divides. Where all tensors are
# one flat array here, that one may be off by its last bit, which is much of a step of 1e-7: the steps of SGD at the
# smallest scale of gradients. Where the step itself is normalised, or each tensor has its turn, no digit is lost.
LAST_BIT = 5e-9

# Schedule-free rules work x out of y and z in every step, and y out of that. Mechanic works out what the steps so far
# add up to from what the parameters have moved, over a scale that starts at 1e-6: in single precision, at which optax
# would run it too, few digits of that are left in the first steps, and all later ones go on from them.
REWORKED = 3

CASES = (
    Case("lookahead.sgd", "optax.lookahead", {"fast_optimizer": SGD, "sync_period": 5, "slow_step_size": 0.5}),
    Case(
        "lookahead.sgd.slow",
        "optax.lookahead",
        {"fast_optimizer": SGD, "sync_period": 5, "slow_step_size": 0.5},
        view="eval",
    ),
    Case(
        "lookahead.adam.reset",
        "optax.lookahead",
        {"fast_optimizer": ODD_ADAM, "sync_period": 3, "slow_step_size": 0.8, "reset_state": True},
    ),
    Case(
        "lookahead.momentum.each",
        "optax.lookahead",
        {"fast_optimizer": MOMENTUM, "sync_period": 1, "slow_step_size": 0.25},
    ),
    Case("lookahead.adamw", "optax.lookahead", {"fast_optimizer": ADAMW, "sync_period": 4, "slow_step_size": 0.5}),
    Case(
        "lookahead.lookahead",
        "optax.lookahead",
        {"fast_optimizer": LION, "sync_period": 2, "slow_step_size": 0.9, "reset_state": True},
        view="eval",
    ),
    Case(
        "schedule_free.sgd",
        "optax.contrib.schedule_free",
        {"base_optimizer": SGD, "learning_rate": 0.1},
        close=LAST_BIT,
        roundings=REWORKED,
    ),
    Case(
        "schedule_free.rms",
        "optax.contrib.schedule_free",
        {"base_optimizer": RMS, "learning_rate": 0.01, "b1": 0.95, "weight_lr_power": 1.0},
        roundings=REWORKED,
    ),
    Case(
        "schedule_free.rms.average",
        "optax.contrib.schedule_free",
        {"base_optimizer": RMS, "learning_rate": 0.01, "b1": 0.5},
        view="eval",
        roundings=REWORKED,
    ),
    Case(
        "schedule_free.adamw",
        "optax.contrib.schedule_free",
        {"base_optimizer": ADAMW, "learning_rate": 0.01},
        roundings=REWORKED,
    ),
    Case(
        "schedule_free.warmup",
        "optax.contrib.schedule_free",
        {"base_optimizer": ODD_ADAM},
        scheduler=WARMUP,
        roundings=REWORKED,
    ),
    Case("schedule_free_sgd.default", "optax.contrib.schedule_free_sgd", {}, roundings=REWORKED),
    Case(
        "schedule_free_sgd.average",
        "optax.contrib.schedule_free_sgd",
        {"learning_rate": 0.1},
        view="eval",
        close=LAST_BIT,
        roundings=REWORKED,
    ),
    Case(
        "schedule_free_sgd.all",
        "optax.contrib.schedule_free_sgd",
        {"learning_rate": 0.05, "warmup_steps": 7, "b1": 0.98, "weight_decay": 0.1, "weight_lr_power": 1.5},
        roundings=REWORKED,
    ),
    Case("schedule_free_sgd.schedule", "optax.contrib.schedule_free_sgd", {}, scheduler=WARMUP, roundings=REWORKED),
    Case("schedule_free_adamw.default", "optax.contrib.schedule_free_adamw", {}, roundings=REWORKED),
    Case(
        "schedule_free_adamw.average",
        "optax.contrib.schedule_free_adamw",
        {"learning_rate": 0.01},
        view="eval",
        roundings=REWORKED,
    ),
    Case(
        "schedule_free_adamw.all",
        "optax.contrib.schedule_free_adamw",
        {
            "learning_rate": 0.02,
            "warmup_steps": 11,
            "b1": 0.8,
            "b2": 0.9,
            "eps": 1e-3,
            "weight_decay": 0.1,
            "weight_lr_power": 0.5,
        },
        roundings=REWORKED,
    ),
    Case(
        "schedule_free_adamw.small_epsilon",
        "optax.contrib.schedule_free_adamw",
        {"eps": 1e-14, "b2": 0.5},
        roundings=REWORKED,
    ),
    Case("schedule_free_adamw.schedule", "optax.contrib.schedule_free_adamw", {}, scheduler=WARMUP, roundings=REWORKED),
    Case("schedule_free_adamw.keras.default", "keras.optimizers.ScheduleFreeAdamW", {}, roundings=REWORKED),
    Case(
        "schedule_free_adamw.keras.all",
        "keras.optimizers.ScheduleFreeAdamW",
        {"learning_rate": 0.01, "beta_1": 0.8, "beta_2": 0.9, "epsilon": 1e-4, "warmup_steps": 9, "weight_decay": 0.1},
        roundings=REWORKED,
    ),
    Case(
        "schedule_free_adamw.keras.small_epsilon",
        "keras.optimizers.ScheduleFreeAdamW",
        {"learning_rate": 0.05, "epsilon": 1e-14, "beta_1": 0.5},
        roundings=REWORKED,
    ),
    Case("mechanize.adam", "optax.contrib.mechanize", {"base_optimizer": UNIT_ADAM}, close_in_float32=2e-2),
    Case(
        "mechanize.lion",
        "optax.contrib.mechanize",
        {"base_optimizer": LION, "weight_decay": 0.0, "s_init": 1e-3, "num_betas": 3},
        close_in_float32=1e-3,
    ),
    Case(
        "mechanize.odd",
        "optax.contrib.mechanize",
        {"base_optimizer": ODD_ADAM, "weight_decay": 0.1, "eps": 1e-12, "s_init": 1e-2, "num_betas": 8},
    ),
    Case("sam.sgd", "optax.contrib.sam", {"optimizer": SGD, "adv_optimizer": adversary(0.05)}),
    Case(
        "sam.adam.three",
        "optax.contrib.sam",
        {"optimizer": ODD_ADAM, "adv_optimizer": adversary(0.2), "sync_period": 3, "reset_state": False},
    ),
    Case("sam.each", "optax.contrib.sam", {"optimizer": ADAM, "adv_optimizer": adversary(0.2), "sync_period": 1}),
)
