"""`like`: the class paths of torch, optax and Keras, with their own argument names.

Each `Spelling` maps a library's class to an algorithm in that library's dialect. What an argument means is one of:
a name (ours), `OrNull` (a name, and null is the default), a tuple of names (one for each item of a list), `SPEED`
(accepted, changes no number), `Only` (accepted at the one value that means nothing special, refused otherwise with the
reason), or `Clip` (becomes a transform).
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
    "nesterov": Only((False,), "that is NAdam, which has no entry yet"),
}
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
    return Spelling(f"optax.{path}", algorithm, "optax", arguments, fixed)


def _torch(path: str, algorithm: str, arguments: Mapping[str, Target]) -> Spelling:
    return Spelling(f"torch.optim.{path}", algorithm, "torch", arguments, {})


def _keras(path: str, algorithm: str, arguments: Mapping[str, Target]) -> Spelling:
    return Spelling(f"keras.optimizers.{path}", algorithm, "keras", arguments, {})


def _without(arguments: Mapping[str, Target], *names: str) -> dict[str, Target]:
    return {name: target for name, target in arguments.items() if name not in names}


SPELLINGS: dict[str, Spelling] = {
    spelling.path: spelling
    for spelling in (
        _torch("SGD", "sgd", {**_TORCH, "momentum": "momentum", "dampening": "dampening", "nesterov": "nesterov"}),
        _torch(
            "Adagrad",
            "adagrad",
            {
                **_TORCH,
                "lr_decay": "learning_rate_decay",
                "initial_accumulator_value": "initial_accumulator_value",
                "eps": "epsilon",
            },
        ),
        _torch("Adadelta", "adadelta", {**_TORCH, "rho": "rho", "eps": "epsilon"}),
        _torch(
            "RMSprop",
            "rmsprop",
            {**_TORCH, "alpha": "rho", "eps": "epsilon", "momentum": "momentum", "centered": "centered"},
        ),
        _torch("Adam", "adam", {**_TORCH_ADAM, "decoupled_weight_decay": "decoupled_weight_decay"}),
        _torch("AdamW", "adamw", _TORCH_ADAM),
        _torch("Adamax", "adamax", _without(_TORCH_ADAM, "amsgrad")),
        _optax(
            "sgd",
            "sgd",
            {
                "learning_rate": "learning_rate",
                "momentum": OrNull("momentum"),
                "nesterov": "nesterov",
                "accumulator_dtype": _DTYPE,
            },
        ),
        _optax(
            "adagrad",
            "adagrad",
            {
                "learning_rate": "learning_rate",
                "initial_accumulator_value": "initial_accumulator_value",
                "eps": "epsilon",
            },
        ),
        _optax(
            "adadelta",
            "adadelta",
            {
                "learning_rate": "learning_rate",
                "rho": "rho",
                "eps": "epsilon",
                "weight_decay": "weight_decay",
                "weight_decay_mask": _MASK,
            },
        ),
        _optax(
            "rmsprop",
            "rmsprop",
            {
                "learning_rate": "learning_rate",
                "decay": "rho",
                "eps": "epsilon",
                "initial_scale": "initial_accumulator_value",
                "eps_in_sqrt": "epsilon_inside_root",
                "centered": "centered",
                "momentum": OrNull("momentum"),
                "nesterov": "nesterov",
                "bias_correction": "bias_correction",
            },
        ),
        _optax("adam", "adam", _OPTAX_ADAM),
        _optax(
            "amsgrad",
            "adam",
            {
                **_without(_OPTAX_ADAM, "nesterov"),
                "bias_correction_mu": "correct_first_moment",
                "bias_correction_nu": "correct_second_moment",
            },
            amsgrad=True,
        ),
        _optax("adamw", "adamw", {**_OPTAX_ADAM, "weight_decay": "weight_decay", "mask": _MASK}),
        _optax("adamax", "adamax", _without(_OPTAX_ADAM, "nesterov", "mu_dtype", "eps_root")),
        _optax(
            "adamaxw",
            "adamax",
            {
                **_without(_OPTAX_ADAM, "nesterov", "mu_dtype", "eps_root"),
                "weight_decay": "weight_decay",
                "mask": _MASK,
            },
            weight_decay=1e-4,
        ),
        _keras("SGD", "sgd", {**_KERAS, "momentum": "momentum", "nesterov": "nesterov"}),
        _keras(
            "RMSprop",
            "rmsprop",
            {**_KERAS, "rho": "rho", "momentum": "momentum", "epsilon": "epsilon", "centered": "centered"},
        ),
        _keras("Adam", "adam", _KERAS_ADAM),
        _keras("AdamW", "adamw", {**_KERAS_ADAM, "weight_decay": "weight_decay"}),
        _keras(
            "Adagrad",
            "adagrad",
            {**_KERAS, "initial_accumulator_value": "initial_accumulator_value", "epsilon": "epsilon"},
        ),
        _keras("Adadelta", "adadelta", {**_KERAS, "rho": "rho", "epsilon": "epsilon"}),
        _keras("Adamax", "adamax", _without(_KERAS_ADAM, "amsgrad")),
    )
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
    (with the reason).
    """
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
