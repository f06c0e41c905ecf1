"""The optimizers of keras.optimizers."""

from __future__ import annotations

from collections.abc import Mapping

from service.optim.libraries.spelling import (
    BASE,
    SPEED,
    Brings,
    Clip,
    Of,
    Only,
    OrNull,
    Spelling,
    Target,
    refused,
    same,
    without,
)

_KERAS: dict[str, Target] = {
    "learning_rate": "learning_rate",
    "weight_decay": OrNull("weight_decay"),
    "loss_scale_factor": Brings("unscale", "loss_scale"),
    "gradient_accumulation_steps": Brings(
        "accumulate", "steps", {"formula": "mean", "clock": "gradients"}, off=(None, 1)
    ),
    "clipnorm": Clip("clip_by_norm", "max_norm", {}),
    "clipvalue": Clip("clip_by_value", "limit", {}),
    "global_clipnorm": Clip("clip_by_global_norm", "max_norm", {"formula": "keras"}),
    "use_ema": Brings(
        "parameter_ema",
        None,
        {"formula": "keras", "decay": 0.99},
        off=(False,),
        others={
            "ema_momentum": "decay",
            "ema_overwrite_frequency": "overwrite_every",
            "gradient_accumulation_steps": "gradients_per_update",
        },
    ),
    "ema_momentum": Of("use_ema"),
    "ema_overwrite_frequency": Of("use_ema"),
    "name": SPEED,
}
_KERAS_ADAM: dict[str, Target] = {
    **_KERAS,
    "beta_1": "beta1",
    "beta_2": "beta2",
    "epsilon": "epsilon",
    "amsgrad": "amsgrad",
}


def _keras(path: str, algorithm: str, arguments: Mapping[str, Target]) -> Spelling:
    return Spelling(f"keras.optimizers.{path}", algorithm, "keras", arguments, {})


_KERAS_MUON: dict[str, Target] = {
    **same("exclude_embeddings", "momentum", "nesterov"),
    "weight_decay": OrNull("weight_decay", 0.0),
    "adam_weight_decay": OrNull("adam_weight_decay", 0.0),
    "adam_beta_1": "adam_beta1",
    "adam_beta_2": "adam_beta2",
    "epsilon": "adam_epsilon",
    "exclude_layers": OrNull("exclude"),
    "muon_a": "newton_schulz_a",
    "muon_b": "newton_schulz_b",
    "muon_c": "newton_schulz_c",
    "adam_lr_ratio": "adam_learning_rate_ratio",
    "ns_steps": "newton_schulz_steps",
    "rms_rate": OrNull("rms_scale", None),
}

SPELLINGS = (
    _keras("Lamb", "lamb", without(_KERAS_ADAM, "amsgrad")),
    _keras(
        "Adafactor",
        "adafactor",
        {
            **_KERAS,
            "beta_2_decay": "beta2_decay",
            "epsilon_1": "epsilon",
            "epsilon_2": "smallest_scale",
            "relative_step": "relative_step",
            "clip_threshold": "clipping_threshold",
        },
    ),
    _keras("Muon", "muon", {**_KERAS, **_KERAS_MUON}),
    _keras(
        "ScheduleFreeAdamW",
        "schedule_free_adamw",
        {**without(_KERAS_ADAM, "amsgrad"), **same("warmup_steps")},
    ),
    _keras("SGD", "sgd", {**_KERAS, **same("momentum", "nesterov")}),
    _keras("RMSprop", "rmsprop", {**_KERAS, **same("rho", "momentum", "epsilon", "centered")}),
    _keras("Adam", "adam", _KERAS_ADAM),
    _keras("AdamW", "adamw", {**_KERAS_ADAM, "weight_decay": "weight_decay"}),
    _keras("Adagrad", "adagrad", {**_KERAS, **same("initial_accumulator_value", "epsilon")}),
    _keras("Adadelta", "adadelta", {**_KERAS, **same("rho", "epsilon")}),
    _keras("Adamax", "adamax", without(_KERAS_ADAM, "amsgrad")),
    _keras("Nadam", "nadam", without(_KERAS_ADAM, "amsgrad")),
    _keras("Lion", "lion", without(_KERAS_ADAM, "amsgrad", "epsilon")),
    _keras(
        "Ftrl",
        "ftrl",
        {
            **_KERAS,
            "learning_rate_power": Only((-0.5,), "only the square root gives the same bits on every machine"),
            **same("initial_accumulator_value", "beta"),
            "l1_regularization_strength": "l1",
            "l2_regularization_strength": "l2",
            "l2_shrinkage_regularization_strength": "l2_shrinkage",
        },
    ),
)

REFUSED = {
    **refused(
        "keras.optimizers",
        {
            "LossScaleOptimizer": "divide the gradients by the loss scale before you send them",
            "MultiOptimizer OptimizerMap": "say groups instead, or open one session for each optimizer",
            "Optimizer": BASE,
        },
    ),
}
