"""`like`: the class paths of torch, optax and Keras, with their own argument names.

Each `Spelling` maps a library's class to an algorithm in that library's dialect. What an argument means is one of:
a name (ours), `OrNull` (a name, and null is the default), a tuple of names (one for each item of a list), `SPEED`
(accepted, changes no number), `Only` (accepted at the one value that means nothing special, refused otherwise with the
reason), `Clip` or `Brings` (becomes a transform), or `Of` (says more of one). `REFUSED` says of every other optimizer
of the three why it cannot be had.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from service.errors import Invalid, nearest, unknown
from service.optim.hyperparameters import REQUIRED, escape


class _Speed:
    """An argument that changes how a library computes, never what."""


SPEED = _Speed()


_DEFAULT: Any = object()
_NO_VALUE: Any = object()  # for null where the library takes none, even if the hyperparameter here would


@dataclass(frozen=True)
class OrNull:
    """A hyperparameter (by our name) whose null is the library's spelling of its default, or of `value`.

    `reserved` is where that value as a number means another thing in the library, and so is refused.
    """

    name: str
    value: Any = _DEFAULT
    reserved: bool = False

    def null(self, default: Any) -> Any:
        """What null means, where that is the default of the dialect."""
        return default if self.value is _DEFAULT else self.value


@dataclass(frozen=True)
class Only:
    """An argument that may only have these values here; `reason` says why."""

    values: tuple[Any, ...]
    reason: str


@dataclass(frozen=True)
class Clip:
    """An argument that becomes a transform when it is not null."""

    transform: str
    argument: str
    more: Mapping[str, Any]


@dataclass(frozen=True)
class Coefficients:
    """Three numbers, or several such threes, or the name of a preset: a list of threes here."""

    name: str
    presets: Mapping[str, list[list[float]]]


@dataclass(frozen=True)
class Part:
    """An argument that is an object of the library's own, {"like": path, **arguments}; or null, if `null` says what.

    kinds   by path: what it fixes, and what its arguments mean
    """

    kinds: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Target]]]
    null: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Chain:
    """A list of just these parts."""

    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Brings:
    """An argument that becomes a transform, but for the values `off`.

    argument  the transform's argument that has its value; None where it is a switch
    more      what the library fixes
    others    arguments of the class that say more of the transform where they are not null: theirs -> ours
    """

    transform: str
    argument: str | None
    more: Mapping[str, Any] = field(default_factory=dict)
    off: tuple[Any, ...] = (None,)
    others: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Of:
    """An argument that means something only with another one, which is a `Brings`."""

    name: str


Target = str | OrNull | tuple[str, ...] | _Speed | Only | Clip | Brings | Of | Coefficients | Part | Chain


@dataclass(frozen=True)
class Spelling:
    """A library class: the algorithm, the dialect, its arguments, and what it fixes."""

    path: str
    algorithm: str
    dialect: str
    arguments: Mapping[str, Target]
    fixed: Mapping[str, Any]


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


def _optax(path: str, algorithm: str, arguments: Mapping[str, Target], **fixed: Any) -> Spelling:
    return Spelling(f"optax.{path}", algorithm, "optax", {"learning_rate": "learning_rate", **arguments}, fixed)


def _torch(path: str, algorithm: str, arguments: Mapping[str, Target]) -> Spelling:
    return Spelling(f"torch.optim.{path}", algorithm, "torch", arguments, {})


def _keras(path: str, algorithm: str, arguments: Mapping[str, Target]) -> Spelling:
    return Spelling(f"keras.optimizers.{path}", algorithm, "keras", arguments, {})


def _without(arguments: Mapping[str, Target], *names: str) -> dict[str, Target]:
    return {name: target for name, target in arguments.items() if name not in names}


def _same(*names: str) -> dict[str, Target]:
    """Arguments whose names are ours."""
    return {name: name for name in names}


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
_ABC = ("newton_schulz_a", "newton_schulz_b", "newton_schulz_c")
_KERAS_MUON: dict[str, Target] = {
    **_same("exclude_embeddings", "momentum", "nesterov"),
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
_NO_SPEED = ("foreach", "capturable", "fused", "differentiable")
_BOUNDED = ("lower_bound", "weight_decay", "adapt_lower_bound")

SPELLINGS: dict[str, Spelling] = {
    spelling.path: spelling
    for spelling in (
        _torch("SGD", "sgd", {**_TORCH, **_same("momentum", "dampening", "nesterov")}),
        _torch(
            "ASGD", "asgd", {**_without(_TORCH, "fused"), "lambd": "decay", "alpha": "power", "t0": "averaging_start"}
        ),
        _torch(
            "Rprop",
            "rprop",
            {
                **_without(_TORCH, "weight_decay", "fused"),
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
                **_same("initial_accumulator_value"),
                "eps": "epsilon",
            },
        ),
        _torch("Adadelta", "adadelta", {**_TORCH, "rho": "rho", "eps": "epsilon"}),
        _torch("RMSprop", "rmsprop", {**_TORCH, "alpha": "rho", "eps": "epsilon", **_same("momentum", "centered")}),
        _torch("Adam", "adam", {**_TORCH_ADAM, **_same("decoupled_weight_decay")}),
        _torch("AdamW", "adamw", _TORCH_ADAM),
        _torch("Adamax", "adamax", _without(_TORCH_ADAM, "amsgrad")),
        _torch(
            "NAdam",
            "nadam",
            {**_without(_TORCH_ADAM, "amsgrad", "fused"), **_same("momentum_decay", "decoupled_weight_decay")},
        ),
        _torch("SparseAdam", "sparse_adam", _without(_TORCH_ADAM, "weight_decay", "amsgrad", *_NO_SPEED)),
        _torch("RAdam", "radam", {**_without(_TORCH_ADAM, "amsgrad", "fused"), **_same("decoupled_weight_decay")}),
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
        _optax("adagrad", "adagrad", {**_same("initial_accumulator_value"), "eps": "epsilon"}),
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
                **_same("centered", "nesterov", "bias_correction"),
            },
        ),
        _optax("adam", "adam", _OPTAX_ADAM),
        _optax("adamw", "adamw", {**_OPTAX_ADAM, **_DECAY}),
        _optax("nadam", "nadam", _without(_OPTAX_ADAM, "nesterov")),
        _optax("nadamw", "nadamw", {**_without(_OPTAX_ADAM, "nesterov"), **_DECAY}),
        _optax(
            "amsgrad",
            "amsgrad",
            {
                **_without(_OPTAX_ADAM, "nesterov"),
                "bias_correction_mu": "correct_first_moment",
                "bias_correction_nu": "correct_second_moment",
            },
        ),
        _optax("adamax", "adamax", _without(_OPTAX_ADAM, "nesterov", "mu_dtype", "eps_root")),
        _optax(
            "adamaxw",
            "adamax",
            {**_without(_OPTAX_ADAM, "nesterov", "mu_dtype", "eps_root"), **_DECAY},
            weight_decay=1e-4,
        ),
        _optax("radam", "radam", {**_without(_OPTAX_NESTEROV, "mu_dtype"), "threshold": "threshold"}),
        _optax("yogi", "yogi", _without(_OPTAX_ADAM, "nesterov", "mu_dtype", "eps_root")),
        _optax("adabelief", "adabelief", _without(_OPTAX_NESTEROV, "mu_dtype")),
        _optax("lion", "lion", {**_without(_OPTAX_ADAM, "nesterov", "eps", "eps_root"), **_DECAY}),
        _optax("adan", "adan", {**_without(_OPTAX_ADAM, "nesterov", "mu_dtype"), "b3": "beta3", **_DECAY}),
        _optax("contrib.acprop", "acprop", {**_without(_OPTAX_ADAM, "nesterov", "mu_dtype"), **_DECAY}),
        _optax(
            "contrib.ademamix",
            "ademamix",
            {**_without(_OPTAX_ADAM, "nesterov"), "b3": "beta3", "alpha": "slow_weight", **_DECAY},
        ),
        _optax(
            "contrib.simplified_ademamix",
            "simplified_ademamix",
            {**_without(_OPTAX_ADAM, "nesterov", "mu_dtype"), "alpha": "gradient_weight", **_DECAY},
        ),
        _optax(
            "contrib.adopt",
            "adopt",
            {
                **_without(_OPTAX_NESTEROV, "eps_root"),
                "use_clipping": "use_clipping",
                "clip_value_fn": Only((None,), "the limit is count ** 0.25; use_clipping=false is none"),
            },
        ),
        _torch(
            "Adafactor",
            "adafactor",
            {
                **_same("weight_decay", "maximize"),
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
                **_same("weight_decay", "momentum", "nesterov"),
                "lr": "learning_rate",
                "ns_coefficients": _ABC,
                "eps": "epsilon",
                "ns_steps": "newton_schulz_steps",
                "adjust_lr_fn": OrNull("scaling"),
            },
        ),
        _optax("lamb", "lamb", {**_without(_OPTAX_ADAM, "nesterov", "mu_dtype"), **_DECAY}),
        _optax(
            "lars",
            "lars",
            {
                **_same("weight_decay", "trust_coefficient", "momentum", "nesterov"),
                "weight_decay_mask": _MASK_OR_TRUE,
                "eps": "epsilon",
                "trust_ratio_mask": "trust_ratio",
            },
        ),
        _optax("novograd", "novograd", {**_without(_OPTAX_ADAM, "nesterov", "mu_dtype"), **_same("weight_decay")}),
        _optax("fromage", "fromage", {"min_norm": "smallest_norm"}),
        _optax("sm3", "sm3", _same("momentum")),
        _optax(
            "adafactor",
            "adafactor",
            {
                **_same("decay_rate", "decay_offset", "factored"),
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
                **_same("nesterov", "adaptive", "preconditioning", "adam_weight_decay"),
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
        _keras("Lamb", "lamb", _without(_KERAS_ADAM, "amsgrad")),
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
        _optax("noisy_sgd", "noisy_sgd", {**_same("eta", "gamma"), "key": OrNull("seed"), "seed": OrNull("seed")}),
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
                **_same("weight_decay", "safeguard_warmup"),
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
        _optax("contrib.momo", "momo", _same("beta", *_BOUNDED)),
        _optax("contrib.momo_adam", "momo_adam", {"b1": "beta1", "b2": "beta2", "eps": "epsilon", **_same(*_BOUNDED)}),
        _optax("contrib.cocob", "cocob", {"alpha": "alpha", "eps": "epsilon", **_DECAY}),
        _optax("contrib.madgrad", "madgrad", {**_same("momentum", "weight_decay"), "eps": "epsilon"}),
        _torch(
            "LBFGS",
            "lbfgs",
            {
                **_same("history_size"),
                "lr": "learning_rate",
                "max_iter": "max_iterations",
                "max_eval": OrNull("max_evaluations", 0, reserved=True),
                "tolerance_grad": "gradient_tolerance",
                "tolerance_change": "change_tolerance",
                "line_search_fn": OrNull("line_search", "none"),
            },
        ),
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
            {"fast_optimizer": "optimizer", **_same("sync_period", "slow_step_size", "reset_state")},
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
                **_same("optimizer", "sync_period", "opaque_mode"),
                "adv_optimizer": Part({"optax.chain": ({}, {"args": _ADVERSARY})}),
                "reset_state": SPEED,  # normalised descent has no state
                "batch_axis_name": Only((None,), "send the mean of the gradients of all your processes"),
            },
            {},
        ),
        _keras(
            "ScheduleFreeAdamW",
            "schedule_free_adamw",
            {**_without(_KERAS_ADAM, "amsgrad"), **_same("warmup_steps")},
        ),
        _keras("SGD", "sgd", {**_KERAS, **_same("momentum", "nesterov")}),
        _keras("RMSprop", "rmsprop", {**_KERAS, **_same("rho", "momentum", "epsilon", "centered")}),
        _keras("Adam", "adam", _KERAS_ADAM),
        _keras("AdamW", "adamw", {**_KERAS_ADAM, "weight_decay": "weight_decay"}),
        _keras("Adagrad", "adagrad", {**_KERAS, **_same("initial_accumulator_value", "epsilon")}),
        _keras("Adadelta", "adadelta", {**_KERAS, **_same("rho", "epsilon")}),
        _keras("Adamax", "adamax", _without(_KERAS_ADAM, "amsgrad")),
        _keras("Nadam", "nadam", _without(_KERAS_ADAM, "amsgrad")),
        _keras("Lion", "lion", _without(_KERAS_ADAM, "amsgrad", "epsilon")),
        _keras(
            "Ftrl",
            "ftrl",
            {
                **_KERAS,
                "learning_rate_power": Only((-0.5,), "only the square root gives the same bits on every machine"),
                **_same("initial_accumulator_value", "beta"),
                "l1_regularization_strength": "l1",
                "l2_regularization_strength": "l2",
                "l2_shrinkage_regularization_strength": "l2_shrinkage",
            },
        ),
    )
}

_EXAMPLES = "it needs the gradients of single examples; a session receives their mean"
_BASE = "it is the class that the others derive from; name one of those"


def _refused(prefix: str, reasons: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}.{name}": reason for names, reason in reasons.items() for name in names.split()}


REFUSED: dict[str, str] = {
    **_refused(
        "torch.optim",
        {
            "Optimizer": _BASE,
        },
    ),
    **_refused(
        "optax",
        {
            "optimistic_adam": "it is deprecated; say optax.optimistic_adam_v2, whose beta is optimism / learning_rate",
            "MultiSteps": 'it gathers gradients; say it in transforms: {"like": "optax.MultiSteps", '
            '"every_k_schedule": 4}',
        },
    ),
    **_refused(
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
    **_refused(
        "keras.optimizers",
        {
            "LossScaleOptimizer": "divide the gradients by the loss scale before you send them",
            "MultiOptimizer OptimizerMap": "say groups instead, or open one session for each optimizer",
            "Optimizer": _BASE,
        },
    ),
}


@dataclass(frozen=True)
class Translation:
    """What a library's spelling says in our words.

    `transforms` holds the specification of each by the pointer at the argument that asks for it; `pointers` maps our
    names to the library's, for error messages.
    """

    algorithm: str
    dialect: str
    values: dict[str, Any]
    transforms: dict[str, dict[str, Any]]
    pointers: dict[str, str]


def translate(path: str, arguments: Mapping[str, Any]) -> Translation:
    """Our name, dialect and hyperparameters for a library class with its own arguments.

    Raises Invalid: an unknown class or argument (with the nearest and the accepted), or one that cannot be had here
    (with the reason, from REFUSED or from `Only`).
    """
    if path in REFUSED:
        raise Invalid(f"{path} cannot be had here: {REFUSED[path]}.", pointer="/like")
    if path not in SPELLINGS:
        raise unknown("library class", path, list(SPELLINGS), pointer="/like")
    spelling = SPELLINGS[path]
    out = Translation(spelling.algorithm, spelling.dialect, dict(spelling.fixed), {}, {})
    for name, value in arguments.items():
        if name not in spelling.arguments:
            listed = ", ".join(spelling.arguments)
            raise Invalid(
                f"{path} has no argument {name[:80]!r}{nearest(name, list(spelling.arguments))} Accepted: {listed}.",
                pointer=f"/{escape(name)}",
            )
        target = spelling.arguments[name]
        if isinstance(target, Brings):
            _bring(out, path, name, arguments, target)
        else:
            _translate_argument(out, path, name, value, target)
    clips = [name for name, target in spelling.arguments.items() if isinstance(target, Clip)]
    given = [pointer for pointer in out.transforms if pointer[1:] in clips]
    if len(given) > 1:
        raise Invalid(f"{path} takes only one of {', '.join(clips)}.", pointer=given[-1])
    order = list(spelling.arguments)  # in which the library does it
    in_order = dict(sorted(out.transforms.items(), key=lambda item: order.index(item[0].split("/")[1])))
    return replace(out, transforms=in_order)


def _bring(out: Translation, path: str, name: str, arguments: Mapping[str, Any], target: Brings) -> None:
    value, pointer = arguments[name], f"/{name}"
    if any(value == off and type(value) is type(off) for off in target.off):
        return
    if target.argument is None and value is not True:
        raise Invalid(f"{path}'s {name} must be true or false.", pointer=pointer)
    own = {} if target.argument is None else {target.argument: value}
    said = {ours: arguments[theirs] for theirs, ours in target.others.items() if arguments.get(theirs) is not None}
    out.transforms[pointer] = {"name": target.transform, **target.more, **own, **said}
    out.pointers.update({f"{pointer}/{ours}": f"/{theirs}" for theirs, ours in target.others.items()})


def _translate_argument(out: Translation, path: str, name: str, value: Any, target: Target) -> None:
    pointer = f"/{name}"
    if isinstance(target, OrNull):
        if target.reserved and value == target.value:
            raise Invalid(f"{path}'s {name} cannot be {target.value:g} here; null is its default.", pointer=pointer)
        if value is not None:
            _translate_argument(out, path, name, value, target.name)
        elif target.value is not _DEFAULT:
            out.values[target.name] = target.value
            out.pointers[target.name] = pointer
    elif isinstance(target, str):
        out.values[target] = _NO_VALUE if value is None else value
        out.pointers[target] = pointer
    elif isinstance(target, tuple):
        if not isinstance(value, list | tuple) or len(value) != len(target):
            raise Invalid(f"{path}'s {name} is a list of {len(target)} numbers.", pointer=pointer)
        for i, (ours, item) in enumerate(zip(target, value, strict=True)):
            out.values[ours] = item
            out.pointers[ours] = f"{pointer}/{i}"
    elif isinstance(target, Part):
        _translate_part(out, path, name, value, target)
    elif isinstance(target, Chain):
        if not isinstance(value, list | tuple) or len(value) != len(target.parts):
            raise Invalid(f"{path}'s {name} must be a list of {len(target.parts)}.", pointer=pointer)
        for i, (part, item) in enumerate(zip(target.parts, value, strict=True)):
            _translate_part(out, path, f"{name}/{i}", item, part)
    elif isinstance(target, Coefficients):
        _translate_coefficients(out, path, name, value, target)
    elif isinstance(target, Only):
        if value not in target.values:
            allowed = " or ".join("null" if v is None else str(v).lower() for v in target.values)
            raise Invalid(f"{path}'s {name} can only be {allowed} here: {target.reason}.", pointer=pointer)
    elif isinstance(target, Clip) and value is not None:
        out.transforms[pointer] = {"name": target.transform, target.argument: value, **target.more}


def _translate_part(out: Translation, path: str, name: str, value: Any, target: Part) -> None:
    pointer = f"/{name}"
    if value is None and target.null is not None:
        out.values.update(target.null)
        return
    kind = value.get("like") if isinstance(value, Mapping) else None
    if not isinstance(kind, str) or kind not in target.kinds:
        allowed = " or ".join(f'{{"like": "{kind}", ...}}' for kind in target.kinds)
        raise Invalid(f"{path}'s {name} must be {allowed} here.", pointer=pointer)
    fixed, arguments = target.kinds[kind]
    out.values.update(fixed)
    out.pointers.update(dict.fromkeys(fixed, pointer))
    for inner, item in value.items():
        if inner == "like":
            continue
        if inner not in arguments:
            listed = ", ".join(arguments) or "none"
            raise Invalid(
                f"{kind} has no argument {inner[:80]!r}{nearest(inner, list(arguments))} Accepted: {listed}.",
                pointer=f"{pointer}/{escape(inner)}",
            )
        _translate_argument(out, kind, f"{name}/{inner}", item, arguments[inner])


def _translate_coefficients(out: Translation, path: str, name: str, value: Any, target: Coefficients) -> None:
    pointer = f"/{name}"
    out.pointers[target.name] = pointer
    if isinstance(value, str):
        if value not in target.presets:
            listed = " or ".join(target.presets)
            raise Invalid(f"{path}'s {name} must be {listed}, or a list of numbers.", pointer=pointer)
        out.values[target.name] = target.presets[value]
        return
    rows = list(value) if isinstance(value, list | tuple) else []
    single = bool(rows) and not any(isinstance(row, list | tuple) for row in rows)
    if len(rows) == 1 and not single:
        raise Invalid(f"{path}'s {name} must be three numbers, or several rows of three.", pointer=pointer)
    out.values[target.name] = [rows] if single else [list(row) if isinstance(row, tuple) else row for row in rows]


def spellings_of(algorithm: str) -> list[dict[str, Any]]:
    """The library classes that mean this algorithm, each with its argument names."""
    return [
        {"like": s.path, "dialect": s.dialect, "arguments": list(s.arguments)}
        for s in SPELLINGS.values()
        if s.algorithm == algorithm
    ]
