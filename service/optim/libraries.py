"""`like`: the class paths of torch, optax and Keras, with their own argument names.

Each `Spelling` maps a library's class to an algorithm in that library's dialect. What an argument means is one of:
a name (ours), `OrNull` (a name, and null is the default), a tuple of names (one for each item of a list), `SPEED`
(accepted, changes no number), `Only` (accepted at the one value that means nothing special, refused otherwise with the
reason), or `Clip` (becomes a transform). `REFUSED` says of every other optimizer of the three why it cannot be had.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.errors import Invalid, nearest, unknown
from service.optim.hyperparameters import escape


class _Speed:
    """An argument that changes how a library computes, never what."""


SPEED = _Speed()


@dataclass(frozen=True)
class OrNull:
    """A hyperparameter (by our name) whose null is the library's spelling of its default."""

    name: str


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


Target = str | OrNull | tuple[str, ...] | _Speed | Only | Clip


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
    "clipnorm": Clip("clip_by_norm", "max_norm", {}),
    "clipvalue": Clip("clip_by_value", "limit", {}),
    "global_clipnorm": Clip("clip_by_global_norm", "max_norm", {"formula": "keras"}),
    "use_ema": Only((False,), "averages of the parameters are not kept; average what the steps answer"),
    "ema_momentum": SPEED,
    "ema_overwrite_frequency": SPEED,
    "loss_scale_factor": Only((None,), "divide the gradients by the factor before you send them"),
    "gradient_accumulation_steps": Only((None, 1), "send the mean of the gradients instead"),
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
        _optax("contrib.cocob", "cocob", {"alpha": "alpha", "eps": "epsilon", **_DECAY}),
        _optax("contrib.madgrad", "madgrad", {**_same("momentum", "weight_decay"), "eps": "epsilon"}),
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

_POINTS = "it needs function values or gradients at points of its own choice, which sessions do not offer yet"
_NORMS = "it needs a norm or a mean of each whole tensor, which rules here do not see yet"
_SUMS = "it needs sums over all tensors, which rules here do not see yet"
_MATRICES = "it treats a tensor as a matrix, which rules here do not yet"
_WRAPS = "it wraps another optimizer, which specifications cannot say yet"
_TWO_POINTS = "it takes its gradients at other parameters than it evaluates, which sessions do not tell apart yet"
_RANDOM = "it needs random numbers, which a session does not keep yet"
_EXAMPLES = "it needs the gradients of single examples; a session receives their mean"
_BASE = "it is the class that the others derive from; name one of those"


def _refused(prefix: str, reasons: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}.{name}": reason for names, reason in reasons.items() for name in names.split()}


REFUSED: dict[str, str] = {
    **_refused(
        "torch.optim",
        {
            "LBFGS": _POINTS,
            "Adafactor": _NORMS,
            "Muon": _MATRICES,
            "SparseAdam": "it needs sparse gradients, and sessions take dense ones; torch.optim.Adam is the dense form",
            "Optimizer": _BASE,
        },
    ),
    **_refused(
        "optax",
        {
            "lbfgs polyak_sgd": _POINTS,
            "adafactor fromage lamb lars novograd sm3": _NORMS,
            "noisy_sgd": _RANDOM,
            "optimistic_adam": "it is deprecated; say optax.optimistic_adam_v2, whose beta is optimism / learning_rate",
            "lookahead MultiSteps": _WRAPS,
        },
    ),
    **_refused(
        "optax.contrib",
        {
            "momo momo_adam sam sophia": _POINTS,
            "reduce_on_plateau": "it needs the value of the function, which a step does not take yet",
            "normalize": "it scales by the norm of all gradients; clip_by_global_norm is the nearest transform",
            "dadapt_adamw dog dowg prodigy": _SUMS,
            "muon galore": _MATRICES,
            "mechanize split_real_and_imaginary": _WRAPS,
            "schedule_free schedule_free_adamw schedule_free_sgd": _TWO_POINTS,
            "dpsgd differentially_private_aggregate": _EXAMPLES,
        },
    ),
    **_refused(
        "keras.optimizers",
        {
            "Adafactor Lamb": _NORMS,
            "Muon": _MATRICES,
            "ScheduleFreeAdamW": _TWO_POINTS,
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
        _translate_argument(out, path, name, value, spelling.arguments[name])
    if len(out.transforms) > 1:
        clips = [name for name, target in spelling.arguments.items() if isinstance(target, Clip)]
        raise Invalid(f"{path} takes only one of {', '.join(clips)}.", pointer=list(out.transforms)[-1])
    return out


def _translate_argument(out: Translation, path: str, name: str, value: Any, target: Target) -> None:
    pointer = f"/{name}"
    if isinstance(target, OrNull):
        if value is not None:
            _translate_argument(out, path, name, value, target.name)
    elif isinstance(target, str):
        out.values[target] = value
        out.pointers[target] = pointer
    elif isinstance(target, tuple):
        if not isinstance(value, list | tuple) or len(value) != len(target):
            raise Invalid(f"{path}'s {name} is a list of {len(target)} numbers.", pointer=pointer)
        for i, (ours, item) in enumerate(zip(target, value, strict=True)):
            out.values[ours] = item
            out.pointers[ours] = f"{pointer}/{i}"
    elif isinstance(target, Only):
        if value not in target.values:
            allowed = " or ".join("null" if v is None else str(v).lower() for v in target.values)
            raise Invalid(f"{path}'s {name} can only be {allowed} here: {target.reason}.", pointer=pointer)
    elif isinstance(target, Clip) and value is not None:
        out.transforms[pointer] = {"name": target.transform, target.argument: value, **target.more}


def spellings_of(algorithm: str) -> list[dict[str, Any]]:
    """The library classes that mean this algorithm, each with its argument names."""
    return [
        {"like": s.path, "dialect": s.dialect, "arguments": list(s.arguments)}
        for s in SPELLINGS.values()
        if s.algorithm == algorithm
    ]
