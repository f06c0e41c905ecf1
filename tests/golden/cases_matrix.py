"""The golden cases of the rules that treat a tensor as a matrix."""

from __future__ import annotations

from tests.golden.cases import Case

REST = ("b", "s")  # torch's Muon takes matrices only

TORCH = (
    Case("torch.muon.default", "torch.optim.Muon", {}, without=REST),
    Case("torch.muon.plain", "torch.optim.Muon", {"lr": 0.02, "weight_decay": 0.0, "nesterov": False}, without=REST),
    Case("torch.muon.rms", "torch.optim.Muon", {"lr": 0.02, "adjust_lr_fn": "match_rms_adamw"}, without=REST),
    Case(
        "torch.muon.all",
        "torch.optim.Muon",
        {
            "lr": 0.05,
            "weight_decay": 0.3,
            "momentum": 0.7,
            "ns_coefficients": [3.0, -3.2, 1.2],
            "eps": 1e-4,
            "ns_steps": 8,
            "adjust_lr_fn": "original",
        },
        without=REST,
    ),
    Case("torch.muon.no_iteration", "torch.optim.Muon", {"lr": 0.02, "ns_steps": 0, "momentum": 0.0}, without=REST),
    Case("torch.muon.absent", "torch.optim.Muon", {"lr": 0.02}, without=REST, absent={"w": [4, 5, 20]}),
    Case(
        "torch.muon.step_lr",
        "torch.optim.Muon",
        {"lr": 0.05},
        without=REST,
        scheduler=("torch.optim.lr_scheduler.StepLR", {"step_size": 10, "gamma": 0.5}),
    ),
)

OPTAX = (
    Case("optax.muon.default", "optax.contrib.muon", {"learning_rate": 0.02}),
    Case("optax.muon.plain", "optax.contrib.muon", {"learning_rate": 0.02, "nesterov": False, "beta": 0.5}),
    Case("optax.muon.dion", "optax.contrib.muon", {"learning_rate": 0.02, "ns_coeffs": "dion"}),
    Case(
        "optax.muon.rows",
        "optax.contrib.muon",
        {"learning_rate": 0.02, "ns_coeffs": [[3.0, -3.2, 1.2], [3.4, -4.7, 2.0]], "ns_steps": 3},
    ),
    Case("optax.muon.spectral", "optax.contrib.muon", {"learning_rate": 0.02, "preconditioning": "spectral"}),
    Case("optax.muon.aol", "optax.contrib.muon", {"learning_rate": 0.02, "preconditioning": "aol", "eps": 1e-20}),
    Case("optax.muon.aol_epsilon", "optax.contrib.muon", {"learning_rate": 0.02, "preconditioning": "aol"}),
    Case("optax.muon.schatten", "optax.contrib.muon", {"learning_rate": 0.02, "preconditioning": "schatten"}),
    Case("optax.muon.adaptive", "optax.contrib.muon", {"learning_rate": 0.02, "adaptive": True}),
    Case("optax.muon.consistent_rms", "optax.contrib.muon", {"learning_rate": 0.02, "consistent_rms": 0.2}),
    Case(
        "optax.muon.all",
        "optax.contrib.muon",
        {
            "learning_rate": 0.02,
            "ns_coeffs": [3.0, -3.2, 1.2],
            "ns_steps": 7,
            "beta": 0.8,
            "eps": 1e-5,
            "weight_decay": 0.1,
            "adam_b1": 0.7,
            "adam_b2": 0.95,
            "adam_eps_root": 1e-9,
            "adam_weight_decay": 0.2,
            "adam_learning_rate": 0.05,
            "consistent_rms": 0.3,
        },
    ),
    Case(
        "optax.muon.schedule",
        "optax.contrib.muon",
        {"weight_decay": 0.1},
        scheduler=("optax.exponential_decay", {"init_value": 0.05, "transition_steps": 10, "decay_rate": 0.5}),
    ),
)

KERAS = (
    Case("keras.muon.default", "keras.optimizers.Muon", {}),
    Case("keras.muon.plain", "keras.optimizers.Muon", {"learning_rate": 0.02, "nesterov": False, "rms_rate": None}),
    Case("keras.muon.excluded", "keras.optimizers.Muon", {"learning_rate": 0.02, "exclude_layers": ["w"]}),
    Case(
        "keras.muon.undecayed",
        "keras.optimizers.Muon",
        {"learning_rate": 0.02, "weight_decay": None, "adam_weight_decay": None, "epsilon": 1e-12},
    ),
    Case(
        "keras.muon.all",
        "keras.optimizers.Muon",
        {
            "learning_rate": 0.05,
            "adam_beta_1": 0.7,
            "adam_beta_2": 0.95,
            "adam_weight_decay": 0.2,
            "epsilon": 1e-4,
            "weight_decay": 0.1,
            "exclude_embeddings": False,
            "muon_a": 3.0,
            "muon_b": -3.2,
            "muon_c": 1.2,
            "adam_lr_ratio": 0.5,
            "momentum": 0.8,
            "ns_steps": 7,
            "rms_rate": 0.4,
            "clipvalue": 0.7,
        },
    ),
    Case(
        "keras.muon.schedule",
        "keras.optimizers.Muon",
        {},
        scheduler=(
            "keras.optimizers.schedules.ExponentialDecay",
            {"initial_learning_rate": 0.05, "decay_steps": 10, "decay_rate": 0.5},
        ),
    ),
    Case("keras.muon.absent", "keras.optimizers.Muon", {"learning_rate": 0.01}, absent={"w": [2, 5], "b": [1, 4]}),
)

CASES = TORCH + OPTAX + KERAS
