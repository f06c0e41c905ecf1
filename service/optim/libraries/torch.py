"""The optimizers of torch.optim."""

from __future__ import annotations

from collections.abc import Mapping

from service.optim.libraries.spelling import BASE, SPEED, Only, OrNull, Spelling, Target, refused, same, without

_DIFFERENTIABLE = Only((False,), "the service has no autograd graph to differentiate through")
_TORCH: dict[str, Target] = {
    "lr": "learning_rate",
    "weight_decay": "weight_decay",
    "maximize": "maximize",
    "foreach": SPEED,
    "capturable": SPEED,
    "fused": SPEED,
    "differentiable": _DIFFERENTIABLE,
}
_TORCH_ADAM: dict[str, Target] = {**_TORCH, "betas": ("beta1", "beta2"), "eps": "epsilon", "amsgrad": "amsgrad"}


def _torch(path: str, algorithm: str, arguments: Mapping[str, Target]) -> Spelling:
    return Spelling(f"torch.optim.{path}", algorithm, "torch", arguments, {})


_ABC = ("newton_schulz_a", "newton_schulz_b", "newton_schulz_c")
_NO_SPEED = ("foreach", "capturable", "fused", "differentiable")

SPELLINGS = (
    _torch("SGD", "sgd", {**_TORCH, **same("momentum", "dampening", "nesterov")}),
    _torch("ASGD", "asgd", {**without(_TORCH, "fused"), "lambd": "decay", "alpha": "power", "t0": "averaging_start"}),
    _torch(
        "Rprop",
        "rprop",
        {
            **without(_TORCH, "weight_decay", "fused"),
            "etas": ("decrease_factor", "increase_factor"),
            "step_sizes": ("smallest_step", "largest_step"),
        },
    ),
    _torch(
        "Adagrad",
        "adagrad",
        {
            **_TORCH,
            "lr_decay": "learning_rate_decay",
            **same("initial_accumulator_value"),
            "eps": "epsilon",
        },
    ),
    _torch("Adadelta", "adadelta", {**_TORCH, "rho": "rho", "eps": "epsilon"}),
    _torch("RMSprop", "rmsprop", {**_TORCH, "alpha": "rho", "eps": "epsilon", **same("momentum", "centered")}),
    _torch("Adam", "adam", {**_TORCH_ADAM, **same("decoupled_weight_decay")}),
    _torch("AdamW", "adamw", _TORCH_ADAM),
    _torch("Adamax", "adamax", without(_TORCH_ADAM, "amsgrad")),
    _torch(
        "NAdam",
        "nadam",
        {**without(_TORCH_ADAM, "amsgrad", "fused"), **same("momentum_decay", "decoupled_weight_decay")},
    ),
    _torch("SparseAdam", "sparse_adam", without(_TORCH_ADAM, "weight_decay", "amsgrad", *_NO_SPEED)),
    _torch("RAdam", "radam", {**without(_TORCH_ADAM, "amsgrad", "fused"), **same("decoupled_weight_decay")}),
    _torch(
        "Adafactor",
        "adafactor",
        {
            **same("weight_decay", "maximize"),
            "lr": "learning_rate",
            "beta2_decay": "beta2_decay",
            "eps": ("smallest_root", "smallest_scale"),
            "d": "clipping_threshold",
            "foreach": SPEED,
        },
    ),
    _torch(
        "Muon",
        "muon",
        {
            **same("weight_decay", "momentum", "nesterov"),
            "lr": "learning_rate",
            "ns_coefficients": _ABC,
            "eps": "epsilon",
            "ns_steps": "newton_schulz_steps",
            "adjust_lr_fn": OrNull("scaling"),
        },
    ),
    _torch(
        "LBFGS",
        "lbfgs",
        {
            **same("history_size"),
            "lr": "learning_rate",
            "max_iter": "max_iterations",
            "max_eval": OrNull("max_evaluations", 0, reserved=True),
            "tolerance_grad": "gradient_tolerance",
            "tolerance_change": "change_tolerance",
            "line_search_fn": OrNull("line_search", "none"),
        },
    ),
)

REFUSED = {
    **refused(
        "torch.optim",
        {
            "Optimizer": BASE,
        },
    ),
}
