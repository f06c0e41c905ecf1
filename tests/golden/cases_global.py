"""Rules over all parameters together, rules that need the loss, and sparse gradients."""

from __future__ import annotations

from tests.golden.cases import Case

# Unsorted, repeated, none at all and all: the rows of w (an embedding of four) that the steps have, over and over.
# SGD in torch adds a repeated row piece by piece, and so a momentum of rows, and each piece rounds the parameter; here
# they are added up first.
PIECES = 1e-9
# Steps near the start are so short that float32 knows the distance from there to a few per cent, and that distance
# makes all later steps.
SHORT = 0.02

ROWS = ((2, 0), (1,), (3, 3, 1), (), (0, 1, 2, 3), (2, 1, 2))
ONCE = ((2, 0), (1,), (3, 1), (), (0, 1, 2, 3), (1, 2))
EMBEDDING = {"w": ROWS, "b": ((4, 1), (0, 0, 3), (2,))}
EVERY_STEP = tuple(range(1, 51))

CASES = (
    Case("optax.prodigy.default", "optax.contrib.prodigy", {}, close_in_float32=SHORT),
    Case(
        "optax.prodigy.all",
        "optax.contrib.prodigy",
        {
            "learning_rate": 0.5,
            "betas": [0.8, 0.95],
            "beta3": 0.9,
            "eps": 1e-6,
            "estim_lr0": 1e-3,
            "estim_lr_coef": 2.0,
            "weight_decay": 0.1,
            "safeguard_warmup": True,
        },
        close_in_float32=SHORT,
    ),
    Case(
        "optax.prodigy.small_epsilon",
        "optax.contrib.prodigy",
        {"betas": [0.95, 0.9], "eps": 1e-14, "estim_lr0": 1e-2},
    ),
    Case(
        "optax.prodigy.schedule",
        "optax.contrib.prodigy",
        {"estim_lr0": 1e-3},
        scheduler=("optax.exponential_decay", {"init_value": 1.0, "transition_steps": 10, "decay_rate": 0.7}),
    ),
    Case("optax.dadapt_adamw.default", "optax.contrib.dadapt_adamw", {}),
    Case(
        "optax.dadapt_adamw.all",
        "optax.contrib.dadapt_adamw",
        {"learning_rate": 0.5, "betas": [0.8, 0.95], "eps": 1e-6, "estim_lr0": 1e-3, "weight_decay": 0.1},
    ),
    Case(
        "optax.dadapt_adamw.small_epsilon",
        "optax.contrib.dadapt_adamw",
        {"betas": [0.95, 0.9], "eps": 1e-14, "estim_lr0": 1e-2},
    ),
    Case("optax.dog.default", "optax.contrib.dog", {}, close_in_float32=SHORT),
    Case(
        "optax.dog.all",
        "optax.contrib.dog",
        {"learning_rate": 0.5, "init_step": ["distance", 0.05], "eps": 1e-3, "weight_decay": 0.1},
    ),
    Case(
        "optax.dog.learning_rate",
        "optax.contrib.dog",
        {"init_step": ["learning_rate", 10.0], "eps": 1e-14},
        close_in_float32=SHORT,
    ),
    Case("optax.dog.heuristic", "optax.contrib.dog", {"init_step": ["heuristic", 1e-2]}),
    Case("optax.dowg.default", "optax.contrib.dowg", {}),
    Case(
        "optax.dowg.all",
        "optax.contrib.dowg",
        {"learning_rate": 0.5, "init_estim_sq_dist": 0.05, "eps": 1e-2, "weight_decay": 0.1},
    ),
    Case("optax.dowg.small_epsilon", "optax.contrib.dowg", {"eps": 1e-12}, close_in_float32=SHORT),
    Case("optax.dowg.null_decay", "optax.contrib.dowg", {"init_estim_sq_dist": None, "weight_decay": None}),
    # As an optimizer of its own it must be told to descend, and to keep the first parameters in double precision.
    Case(
        "optax.ldog.descending",
        "optax.scale_by_distance_over_gradients",
        {"global_scale": -1.0, "param_dtype": "float64"},
        close_in_float32=SHORT,
    ),
    Case(
        "optax.ldog.all",
        "optax.scale_by_distance_over_gradients",
        {"reps_rel": 1e-2, "eps": 1e-3, "global_scale": -0.5, "param_dtype": "float64"},
    ),
    Case(
        "optax.ldog.climbing",
        "optax.scale_by_distance_over_gradients",
        {"reps_rel": 1e-4, "eps": 1e-14, "param_dtype": "float64"},
        close_in_float32=SHORT,
    ),
    Case("optax.momo.default", "optax.contrib.momo", {}, losses=True),
    Case(
        "optax.momo.all",
        "optax.contrib.momo",
        {"learning_rate": 0.5, "beta": 0.7, "lower_bound": 0.2, "weight_decay": 0.1, "adapt_lower_bound": True},
        losses=True,
    ),
    Case("optax.momo.long", "optax.contrib.momo", {"learning_rate": 1e6, "beta": 0.5}, losses=True),
    Case("optax.momo.plain", "optax.contrib.momo", {"learning_rate": 0.1, "beta": 0.0}, losses=True),
    Case(
        "optax.momo.negative_bound",
        "optax.contrib.momo",
        {"lower_bound": -1.0, "weight_decay": 0.01, "adapt_lower_bound": True},
        losses=True,
    ),
    Case("optax.momo_adam.default", "optax.contrib.momo_adam", {}, losses=True),
    Case(
        "optax.momo_adam.all",
        "optax.contrib.momo_adam",
        {
            "learning_rate": 0.5,
            "b1": 0.7,
            "b2": 0.95,
            "eps": 1e-6,
            "lower_bound": 0.2,
            "weight_decay": 0.1,
            "adapt_lower_bound": True,
        },
        losses=True,
    ),
    Case(
        "optax.momo_adam.small_epsilon",
        "optax.contrib.momo_adam",
        {"learning_rate": 1.0, "b1": 0.95, "b2": 0.9, "eps": 1e-14},
        losses=True,
    ),
    Case("optax.polyak_sgd.default", "optax.polyak_sgd", {}, losses=True),
    Case(
        "optax.polyak_sgd.all",
        "optax.polyak_sgd",
        {"max_learning_rate": 10.0, "scaling": 0.5, "f_min": 0.6, "eps": 1e-3, "variant": "sps+"},
        losses=True,
    ),
    Case("optax.polyak_sgd.climbing", "optax.polyak_sgd", {"max_learning_rate": 1e3, "f_min": 0.6}, losses=True),
    Case("optax.polyak_sgd.scaling", "optax.polyak_sgd", {"max_learning_rate": 1e3, "scaling": 2.0}, losses=True),
    # Without the noise: with it the numbers are those of jax's generator, which this is not.
    Case("optax.noisy_sgd.still", "optax.noisy_sgd", {"learning_rate": 0.1, "eta": 0.0, "key": 7}),
    Case("optax.noisy_sgd.gamma", "optax.noisy_sgd", {"learning_rate": 0.5, "eta": 0.0, "gamma": 0.0, "key": 0}),
    Case(
        "optax.noisy_sgd.schedule",
        "optax.noisy_sgd",
        {"eta": 0.0, "gamma": 3.0, "key": 1},
        scheduler=("optax.exponential_decay", {"init_value": 0.1, "transition_steps": 10, "decay_rate": 0.5}),
    ),
    Case("torch.sparse_adam.default", "torch.optim.SparseAdam", {}, rows=EMBEDDING, absent={"s": EVERY_STEP}),
    Case(
        "torch.sparse_adam.all",
        "torch.optim.SparseAdam",
        {"lr": 0.02, "betas": [0.8, 0.95], "eps": 1e-6, "maximize": True},
        rows=EMBEDDING,
        absent={"s": EVERY_STEP},
    ),
    Case(
        "torch.sparse_adam.small_epsilon",
        "torch.optim.SparseAdam",
        {"lr": 0.01, "betas": [0.95, 0.9], "eps": 1e-14},
        rows={"w": ROWS},
        absent={"s": EVERY_STEP, "b": EVERY_STEP},
    ),
    Case(
        "torch.sparse_adam.absent",
        "torch.optim.SparseAdam",
        {"lr": 0.01},
        rows=EMBEDDING,
        absent={"s": EVERY_STEP, "w": (3, 4, 10)},
    ),
    Case("torch.sgd.sparse", "torch.optim.SGD", {"lr": 0.1}, rows={"w": ONCE, "b": ((4, 1), (0, 3), (2,))}),
    Case("torch.sgd.sparse_repeated", "torch.optim.SGD", {"lr": 0.1}, rows=EMBEDDING, close=PIECES),
    Case("torch.sgd.sparse_momentum", "torch.optim.SGD", {"lr": 0.05, "momentum": 0.9}, rows={"w": ONCE}, close=PIECES),
    Case(
        "torch.sgd.sparse_dampening",
        "torch.optim.SGD",
        {"lr": 0.05, "momentum": 0.8, "dampening": 0.3, "maximize": True},
        rows={"w": ONCE},
        close=PIECES,
    ),
    Case(
        "torch.sgd.sparse_nesterov",
        "torch.optim.SGD",
        {"lr": 0.02, "momentum": 0.9, "nesterov": True},
        rows=EMBEDDING,
        close=PIECES,
    ),
    Case("torch.adagrad.sparse", "torch.optim.Adagrad", {"lr": 0.1}, rows=EMBEDDING),
    Case(
        "torch.adagrad.sparse_all",
        "torch.optim.Adagrad",
        {"lr": 0.1, "lr_decay": 0.05, "initial_accumulator_value": 0.1, "eps": 1e-6, "maximize": True},
        rows={"w": ROWS},
    ),
    Case("torch.adagrad.sparse_small_epsilon", "torch.optim.Adagrad", {"lr": 0.1, "eps": 1e-14}, rows=EMBEDDING),
)
