"""The optimizers of optax and optax.contrib."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.optim.hyperparameters import REQUIRED
from service.optim.libraries.spelling import (
    SPEED,
    Chain,
    Coefficients,
    Only,
    OrNull,
    Part,
    Spelling,
    Target,
    refused,
    same,
    without,
)

_DTYPE = Only((None,), "state has the session's dtype; create the session with dtype float32 or float64")
_MASK = Only((None,), 'use groups instead: [{"match": "*.bias", "weight_decay": 0}]')
_MASK_OR_TRUE = Only((True, None), 'use groups instead: [{"match": "*.bias", "weight_decay": 0}]')
_OPTAX_ADAM: dict[str, Target] = {
    "learning_rate": "learning_rate",
    "b1": "beta1",
    "b2": "beta2",
    "eps": "epsilon",
    "eps_root": "epsilon_root",
    "mu_dtype": _DTYPE,
    "nesterov": Only((False,), "that is NAdam: say optax.nadam or optax.nadamw"),
}
_OPTAX_NESTEROV: dict[str, Target] = {**_OPTAX_ADAM, "nesterov": "nesterov"}
_DECAY: dict[str, Target] = {"weight_decay": "weight_decay", "mask": _MASK}


def _optax(path: str, algorithm: str, arguments: Mapping[str, Target], **fixed: Any) -> Spelling:
    return Spelling(f"optax.{path}", algorithm, "optax", {"learning_rate": "learning_rate", **arguments}, fixed)


_DION = [
    [4.0848, -6.8946, 2.9270],
    [3.9505, -6.3029, 2.6377],
    [3.7418, -5.5913, 2.3037],
    [2.8769, -3.1427, 1.2046],
    [2.8366, -3.0525, 1.2012],
]
_NEWTON_SCHULZ = Coefficients(
    "newton_schulz_coefficients",
    {"standard": [[3.4445, -4.7750, 2.0315]], "dion": _DION},
)
_ADVERSARY = Chain(
    (Part({"optax.contrib.normalize": ({}, {})}), Part({"optax.sgd": ({}, {"learning_rate": "rho"})})),
)
_ZOOM = Part(
    {
        "optax.scale_by_zoom_linesearch": (
            {"line_search": "zoom", "first_trial": "keep", "max_search_steps": REQUIRED},
            {
                "max_linesearch_steps": "max_search_steps",
                "max_learning_rate": OrNull("longest_step", 0.0, reserved=True),
                "tol": "search_tolerance",
                "increase_factor": "growth",
                "slope_rtol": "sufficient_decrease",
                "curv_rtol": "curvature",
                "approx_dec_rtol": OrNull("approximate_decrease", 0.0, reserved=True),
                "stepsize_precision": "smallest_interval",
                "initial_guess_strategy": "first_trial",
                "verbose": SPEED,
            },
        )
    },
    null={"line_search": "none"},
)
_AVERAGED: dict[str, Target] = {
    "b1": "beta1",
    "weight_lr_power": "weight_power",
    "state_dtype": _DTYPE,
}
_BOUNDED = ("lower_bound", "weight_decay", "adapt_lower_bound")

SPELLINGS = (
    _optax("sgd", "sgd", {"momentum": OrNull("momentum"), "nesterov": "nesterov", "accumulator_dtype": _DTYPE}),
    _optax("sign_sgd", "sign_sgd", {}),
    _optax("signum", "signum", {"beta": "beta", "accumulator_dtype": _DTYPE}),
    _optax(
        "optimistic_gradient_descent",
        "optimistic_gradient_descent",
        {"alpha": "gradient_weight", "beta": "optimism"},
    ),
    _optax(
        "optimistic_adam_v2",
        "optimistic_adam",
        {"alpha": "gradient_weight", "beta": "optimism", **_OPTAX_NESTEROV},
    ),
    _optax(
        "rprop",
        "rprop",
        {
            "eta_minus": "decrease_factor",
            "eta_plus": "increase_factor",
            "min_step_size": "smallest_step",
            "max_step_size": "largest_step",
        },
    ),
    _optax("adagrad", "adagrad", {**same("initial_accumulator_value"), "eps": "epsilon"}),
    _optax(
        "adadelta",
        "adadelta",
        {"rho": "rho", "eps": "epsilon", "weight_decay": "weight_decay", "weight_decay_mask": _MASK},
    ),
    _optax(
        "rmsprop",
        "rmsprop",
        {
            "decay": "rho",
            "eps": "epsilon",
            "initial_scale": "initial_accumulator_value",
            "eps_in_sqrt": "epsilon_inside_root",
            "momentum": OrNull("momentum"),
            **same("centered", "nesterov", "bias_correction"),
        },
    ),
    _optax("adam", "adam", _OPTAX_ADAM),
    _optax("adamw", "adamw", {**_OPTAX_ADAM, **_DECAY}),
    _optax("nadam", "nadam", without(_OPTAX_ADAM, "nesterov")),
    _optax("nadamw", "nadamw", {**without(_OPTAX_ADAM, "nesterov"), **_DECAY}),
    _optax(
        "amsgrad",
        "amsgrad",
        {
            **without(_OPTAX_ADAM, "nesterov"),
            "bias_correction_mu": "correct_first_moment",
            "bias_correction_nu": "correct_second_moment",
        },
    ),
    _optax("adamax", "adamax", without(_OPTAX_ADAM, "nesterov", "mu_dtype", "eps_root")),
    _optax(
        "adamaxw",
        "adamax",
        {**without(_OPTAX_ADAM, "nesterov", "mu_dtype", "eps_root"), **_DECAY},
        weight_decay=1e-4,
    ),
    _optax("radam", "radam", {**without(_OPTAX_NESTEROV, "mu_dtype"), "threshold": "threshold"}),
    _optax("yogi", "yogi", without(_OPTAX_ADAM, "nesterov", "mu_dtype", "eps_root")),
    _optax("adabelief", "adabelief", without(_OPTAX_NESTEROV, "mu_dtype")),
    _optax("lion", "lion", {**without(_OPTAX_ADAM, "nesterov", "eps", "eps_root"), **_DECAY}),
    _optax("adan", "adan", {**without(_OPTAX_ADAM, "nesterov", "mu_dtype"), "b3": "beta3", **_DECAY}),
    _optax("contrib.acprop", "acprop", {**without(_OPTAX_ADAM, "nesterov", "mu_dtype"), **_DECAY}),
    _optax(
        "contrib.ademamix",
        "ademamix",
        {**without(_OPTAX_ADAM, "nesterov"), "b3": "beta3", "alpha": "slow_weight", **_DECAY},
    ),
    _optax(
        "contrib.simplified_ademamix",
        "simplified_ademamix",
        {**without(_OPTAX_ADAM, "nesterov", "mu_dtype"), "alpha": "gradient_weight", **_DECAY},
    ),
    _optax(
        "contrib.adopt",
        "adopt",
        {
            **without(_OPTAX_NESTEROV, "eps_root"),
            "use_clipping": "use_clipping",
            "clip_value_fn": Only((None,), "the limit is count ** 0.25; use_clipping=false is none"),
        },
    ),
    _optax("lamb", "lamb", {**without(_OPTAX_ADAM, "nesterov", "mu_dtype"), **_DECAY}),
    _optax(
        "lars",
        "lars",
        {
            **same("weight_decay", "trust_coefficient", "momentum", "nesterov"),
            "weight_decay_mask": _MASK_OR_TRUE,
            "eps": "epsilon",
            "trust_ratio_mask": "trust_ratio",
        },
    ),
    _optax("novograd", "novograd", {**without(_OPTAX_ADAM, "nesterov", "mu_dtype"), **same("weight_decay")}),
    _optax("fromage", "fromage", {"min_norm": "smallest_norm"}),
    _optax("sm3", "sm3", same("momentum")),
    _optax(
        "adafactor",
        "adafactor",
        {
            **same("decay_rate", "decay_offset", "factored"),
            "learning_rate": OrNull("learning_rate"),
            "min_dim_size_to_factor": "smallest_factored",
            "multiply_by_parameter_scale": "parameter_scale",
            "clipping_threshold": OrNull("clipping_threshold", None),
            "momentum": OrNull("momentum"),
            "dtype_momentum": Only(("float32", "float64"), "state has the session's dtype"),
            "weight_decay_rate": OrNull("weight_decay"),
            "eps": "epsilon",
            "weight_decay_mask": _MASK,
        },
    ),
    _optax(
        "contrib.muon",
        "muon",
        {
            "ns_coeffs": _NEWTON_SCHULZ,
            "ns_steps": "newton_schulz_steps",
            "beta": "momentum",
            "eps": "epsilon",
            "weight_decay": "weight_decay",
            "weight_decay_mask": _MASK,
            "mu_dtype": _DTYPE,
            **same("nesterov", "adaptive", "preconditioning", "adam_weight_decay"),
            "adam_b1": "adam_beta1",
            "adam_b2": "adam_beta2",
            "adam_eps_root": "adam_epsilon_root",
            "adam_learning_rate": OrNull("adam_learning_rate"),
            "muon_weight_dimension_numbers": Only(
                (None,), 'matrices have inputs as rows; {"exclude": [...]} of the dialect gives more to Adam'
            ),
            "consistent_rms": OrNull("rms_scale"),
        },
    ),
    _optax("noisy_sgd", "noisy_sgd", {**same("eta", "gamma"), "key": OrNull("seed"), "seed": OrNull("seed")}),
    Spelling(
        "optax.polyak_sgd",
        "polyak_sgd",
        "optax",
        {
            "max_learning_rate": "max_learning_rate",
            "scaling": "learning_rate",
            "f_min": "lower_bound",
            "eps": "epsilon",
            "variant": "variant",
        },
        {},
    ),
    Spelling(
        "optax.scale_by_distance_over_gradients",
        "ldog",
        "optax",
        {
            "reps_rel": "first_step",
            "eps": "epsilon",
            "param_dtype": Only((None, "float64", "float32"), "the first parameters have the session's dtype"),
            "global_scale": "global_scale",
        },
        {"global_scale": 1.0},
    ),
    _optax(
        "contrib.prodigy",
        "prodigy",
        {
            "betas": ("beta1", "beta2"),
            "beta3": OrNull("beta3", 0.0, reserved=True),
            "eps": "epsilon",
            "estim_lr0": "initial_distance",
            "estim_lr_coef": "distance_factor",
            **same("weight_decay", "safeguard_warmup"),
        },
    ),
    _optax(
        "contrib.dadapt_adamw",
        "dadapt_adamw",
        {
            "betas": ("beta1", "beta2"),
            "eps": "epsilon",
            "estim_lr0": "initial_distance",
            "weight_decay": "weight_decay",
        },
    ),
    _optax(
        "contrib.dog",
        "dog",
        {
            "init_step": ("first_step_is", "first_step"),
            "eps": "epsilon",
            "weight_decay": OrNull("weight_decay"),
            "mask": _MASK,
        },
    ),
    _optax(
        "contrib.dowg",
        "dowg",
        {
            "init_estim_sq_dist": OrNull("squared_distance", 0.0, reserved=True),
            "eps": "epsilon",
            "weight_decay": OrNull("weight_decay"),
            "mask": _MASK,
        },
    ),
    _optax("contrib.momo", "momo", same("beta", *_BOUNDED)),
    _optax("contrib.momo_adam", "momo_adam", {"b1": "beta1", "b2": "beta2", "eps": "epsilon", **same(*_BOUNDED)}),
    _optax("contrib.cocob", "cocob", {"alpha": "alpha", "eps": "epsilon", **_DECAY}),
    _optax("contrib.madgrad", "madgrad", {**same("momentum", "weight_decay"), "eps": "epsilon"}),
    _optax(
        "lbfgs",
        "lbfgs",
        {
            "learning_rate": OrNull("learning_rate"),
            "memory_size": "history_size",
            "scale_init_precond": "scale_first",
            "linesearch": _ZOOM,
        },
    ),
    Spelling(
        "optax.lookahead",
        "lookahead",
        "optax",
        {"fast_optimizer": "optimizer", **same("sync_period", "slow_step_size", "reset_state")},
        {},
    ),
    _optax("contrib.schedule_free", "schedule_free", {"base_optimizer": "optimizer", **_AVERAGED}),
    _optax(
        "contrib.schedule_free_sgd",
        "schedule_free_sgd",
        {**_AVERAGED, "warmup_steps": OrNull("warmup_steps"), "weight_decay": OrNull("weight_decay")},
    ),
    _optax(
        "contrib.schedule_free_adamw",
        "schedule_free_adamw",
        {
            **_AVERAGED,
            "warmup_steps": OrNull("warmup_steps"),
            "b2": "beta2",
            "eps": "epsilon",
            "weight_decay": "weight_decay",
        },
    ),
    Spelling(
        "optax.contrib.mechanize",
        "mechanic",
        "optax",
        {
            "base_optimizer": "optimizer",
            "weight_decay": "weight_decay",
            "eps": "epsilon",
            "s_init": "initial_scale",
            "num_betas": "memories",
        },
        {},
    ),
    Spelling(
        "optax.contrib.sam",
        "sam",
        "optax",
        {
            **same("optimizer", "sync_period", "opaque_mode"),
            "adv_optimizer": Part({"optax.chain": ({}, {"args": _ADVERSARY})}),
            "reset_state": SPEED,  # normalised descent has no state
            "batch_axis_name": Only((None,), "send the mean of the gradients of all your processes"),
        },
        {},
    ),
)
_EXAMPLES = "it needs the gradients of single examples; a session receives their mean"
REFUSED = {
    **refused(
        "optax",
        {
            "optimistic_adam": "it is deprecated; say optax.optimistic_adam_v2, whose beta is optimism / learning_rate",
            "MultiSteps": 'it gathers gradients; say it in transforms: {"like": "optax.MultiSteps", '
            '"every_k_schedule": 4}',
        },
    ),
    **refused(
        "optax.contrib",
        {
            "sophia": "it needs products of the Hessian with a vector, which sessions do not ask for",
            "reduce_on_plateau": 'it is a schedule: {"learning_rate": {"like": "optax.contrib.reduce_on_plateau", '
            '"initial": 0.1}}',
            "normalize": 'it stands before an optimizer; say it in transforms: {"like": "optax.contrib.normalize"}',
            "galore": "it steps along singular vectors of the gradient; soap is the nearest that there is here",
            "split_real_and_imaginary": "parameters are real numbers here; send both parts as tensors of their own",
            "dpsgd differentially_private_aggregate": _EXAMPLES,
        },
    ),
}
