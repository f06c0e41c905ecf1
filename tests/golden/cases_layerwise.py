"""The golden cases of the rules that take a norm or a mean of each tensor."""

from __future__ import annotations

from math import inf

from tests.golden.cases import Case

EXPONENTIAL = (
    "optax.exponential_decay",
    {"init_value": 0.05, "transition_steps": 10, "decay_rate": 0.5},
)
KERAS_EXPONENTIAL = (
    "keras.optimizers.schedules.ExponentialDecay",
    {"initial_learning_rate": 0.05, "decay_steps": 10, "decay_rate": 0.5},
)
# torch's Adafactor takes ε₁ from the dtype where none is given, so that float32 there is another optimizer.
OTHER = inf

LAMB = (
    Case("optax.lamb.default", "optax.lamb", {"learning_rate": 0.01}),
    Case("optax.lamb.weight_decay", "optax.lamb", {"learning_rate": 0.01, "weight_decay": 0.1}),
    Case("optax.lamb.small_epsilon", "optax.lamb", {"learning_rate": 0.05, "b1": 0.5, "b2": 0.8, "eps": 1e-12}),
    Case(
        "optax.lamb.all",
        "optax.lamb",
        {"learning_rate": 0.02, "b1": 0.8, "b2": 0.95, "eps": 1e-4, "eps_root": 1e-8, "weight_decay": 0.3},
    ),
    Case("optax.lamb.schedule", "optax.lamb", {"weight_decay": 0.1}, scheduler=EXPONENTIAL),
    Case("keras.lamb.default", "keras.optimizers.Lamb", {}),
    Case("keras.lamb.weight_decay", "keras.optimizers.Lamb", {"learning_rate": 0.05, "weight_decay": 0.1}),
    Case(
        "keras.lamb.small_epsilon",
        "keras.optimizers.Lamb",
        {"learning_rate": 0.05, "beta_1": 0.5, "beta_2": 0.8, "epsilon": 1e-12},
    ),
    Case(
        "keras.lamb.all",
        "keras.optimizers.Lamb",
        {
            "learning_rate": 0.02,
            "beta_1": 0.8,
            "beta_2": 0.95,
            "epsilon": 1e-4,
            "weight_decay": 0.3,
            "global_clipnorm": 1.0,
        },
    ),
    Case("keras.lamb.schedule", "keras.optimizers.Lamb", {"weight_decay": 0.1}, scheduler=KERAS_EXPONENTIAL),
    Case("keras.lamb.absent", "keras.optimizers.Lamb", {"learning_rate": 0.01}, absent={"b": [1, 4, 5, 6]}),
)

LARS = (
    Case("optax.lars.default", "optax.lars", {"learning_rate": 10.0}),
    Case("optax.lars.nesterov", "optax.lars", {"learning_rate": 10.0, "nesterov": True}),
    Case("optax.lars.plain", "optax.lars", {"learning_rate": 10.0, "momentum": 0.0, "eps": 1e-12}),
    Case("optax.lars.untrusting", "optax.lars", {"learning_rate": 0.02, "trust_ratio_mask": False}),
    Case(
        "optax.lars.all",
        "optax.lars",
        {
            "learning_rate": 2.0,
            "weight_decay": 0.3,
            "trust_coefficient": 0.01,
            "eps": 1e-3,
            "momentum": 0.7,
            "nesterov": True,
        },
    ),
    Case("optax.lars.schedule", "optax.lars", {"trust_coefficient": 0.1}, scheduler=EXPONENTIAL),
    Case("optax.fromage.default", "optax.fromage", {"learning_rate": 0.01}),
    Case("optax.fromage.large", "optax.fromage", {"learning_rate": 0.5}),
    Case("optax.fromage.small_norm", "optax.fromage", {"learning_rate": 0.05, "min_norm": 1e-12}),
    Case("optax.fromage.large_norm", "optax.fromage", {"learning_rate": 0.05, "min_norm": 2.0}),
    Case("optax.fromage.schedule", "optax.fromage", {}, scheduler=EXPONENTIAL),
)

NOVOGRAD_AND_SM3 = (
    Case("optax.novograd.default", "optax.novograd", {"learning_rate": 0.01}),
    Case("optax.novograd.weight_decay", "optax.novograd", {"learning_rate": 0.01, "weight_decay": 0.1}),
    Case(
        "optax.novograd.small_epsilon", "optax.novograd", {"learning_rate": 0.05, "b1": 0.5, "b2": 0.98, "eps": 1e-14}
    ),
    Case(
        "optax.novograd.all",
        "optax.novograd",
        {"learning_rate": 0.02, "b1": 0.8, "b2": 0.6, "eps": 1e-4, "eps_root": 1e-8, "weight_decay": 0.3},
    ),
    Case("optax.novograd.schedule", "optax.novograd", {"weight_decay": 0.1}, scheduler=EXPONENTIAL),
    # optax's SM3 fails on a scalar.
    Case("optax.sm3.default", "optax.sm3", {"learning_rate": 0.1}, without=("s",)),
    Case("optax.sm3.plain", "optax.sm3", {"learning_rate": 0.05, "momentum": 0.0}, without=("s",)),
    Case("optax.sm3.momentum", "optax.sm3", {"learning_rate": 0.01, "momentum": 0.99}, without=("s",)),
)

ADAFACTOR = (
    Case("torch.adafactor.default", "torch.optim.Adafactor", {}, close_in_float32=OTHER),
    Case(
        "torch.adafactor.weight_decay", "torch.optim.Adafactor", {"lr": 0.1, "weight_decay": 0.3, "eps": [1e-12, 1e-3]}
    ),
    Case("torch.adafactor.large_epsilon", "torch.optim.Adafactor", {"lr": 0.5, "eps": [1e-3, 1.5], "d": 1.1}),
    Case("torch.adafactor.small_epsilon", "torch.optim.Adafactor", {"lr": 0.05, "eps": [1e-15, 0.0], "d": 3.0}),
    Case(
        "torch.adafactor.all",
        "torch.optim.Adafactor",
        {
            "lr": 0.3,
            "beta2_decay": -0.5,
            "eps": [1e-7, 0.1],
            "d": 1.5,
            "weight_decay": 0.2,
            "maximize": True,
        },
    ),
    Case("torch.adafactor.absent", "torch.optim.Adafactor", {"eps": [1e-8, 1e-3]}, absent={"w": [1, 4], "b": [2, 3]}),
    Case(
        "torch.adafactor.step_lr",
        "torch.optim.Adafactor",
        {"lr": 0.2, "eps": [1e-10, 1e-3], "weight_decay": 0.1},
        scheduler=("torch.optim.lr_scheduler.StepLR", {"step_size": 10, "gamma": 0.5}),
    ),
    Case("optax.adafactor.default", "optax.adafactor", {}),
    Case("optax.adafactor.rate", "optax.adafactor", {"learning_rate": 0.05}),
    Case("optax.adafactor.factored", "optax.adafactor", {"learning_rate": 0.05, "min_dim_size_to_factor": 2}),
    Case("optax.adafactor.three", "optax.adafactor", {"learning_rate": 0.05, "min_dim_size_to_factor": 3}),
    Case(
        "optax.adafactor.unfactored",
        "optax.adafactor",
        {"learning_rate": 0.05, "min_dim_size_to_factor": 2, "factored": False, "clipping_threshold": None},
    ),
    Case(
        "optax.adafactor.unscaled",
        "optax.adafactor",
        {
            "learning_rate": 0.01,
            "min_dim_size_to_factor": 2,
            "multiply_by_parameter_scale": False,
            "decay_rate": 0.5,
            "eps": 1e-20,
        },
    ),
    Case(
        "optax.adafactor.momentum",
        "optax.adafactor",
        {"learning_rate": 0.05, "momentum": 0.9, "dtype_momentum": "float64", "min_dim_size_to_factor": 2},
    ),
    Case(
        "optax.adafactor.all",
        "optax.adafactor",
        {
            "learning_rate": 0.02,
            "min_dim_size_to_factor": 2,
            "decay_rate": 0.6,
            "decay_offset": -10,
            "clipping_threshold": 0.5,
            "momentum": 0.8,
            "dtype_momentum": "float64",
            "weight_decay_rate": 0.01,
            "eps": 1e-9,
        },
    ),
    Case(
        "optax.adafactor.schedule",
        "optax.adafactor",
        {"min_dim_size_to_factor": 2, "weight_decay_rate": 0.001},
        scheduler=EXPONENTIAL,
    ),
    Case("keras.adafactor.default", "keras.optimizers.Adafactor", {}),
    Case("keras.adafactor.rate", "keras.optimizers.Adafactor", {"learning_rate": 0.5, "relative_step": False}),
    Case(
        "keras.adafactor.epsilon",
        "keras.optimizers.Adafactor",
        {"learning_rate": 0.05, "epsilon_1": 1e-9, "epsilon_2": 0.5, "beta_2_decay": -0.3},
    ),
    Case(
        "keras.adafactor.all",
        "keras.optimizers.Adafactor",
        {
            "learning_rate": 0.1,
            "beta_2_decay": -0.6,
            "epsilon_1": 1e-20,
            "epsilon_2": 0.01,
            "clip_threshold": 0.5,
            "weight_decay": 0.1,
            "clipnorm": 0.5,
        },
    ),
    Case("keras.adafactor.schedule", "keras.optimizers.Adafactor", {"weight_decay": 0.1}, scheduler=KERAS_EXPONENTIAL),
    Case("keras.adafactor.absent", "keras.optimizers.Adafactor", {"learning_rate": 0.01}, absent={"w": [1, 4]}),
)

CASES = LAMB + LARS + NOVOGRAD_AND_SM3 + ADAFACTOR
