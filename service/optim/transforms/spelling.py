"""Transforms in the libraries' own words: torch's clip_grad functions, optax's transformations, Keras' constraints.

In `transforms` they stand before the rule, or, for what is done to parameters, after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from service.optim.hyperparameters import LARGEST_WHOLE, REQUIRED, Hyperparameter
from service.optim.schedules.spelling import Only, Spelling, Unused
from service.optim.transforms.clipping import Order
from service.optim.transforms.form import MATCH, Values

Declared = Mapping[Hyperparameter, Any]

_DTYPE = Only("accumulator_dtype", "state has the session's dtype.")
_SPEED = Unused("foreach", "How torch computes, never what.")
_MASK = Only("mask", 'give match a pattern of names, or say {"name": "weight_decay", "minimum_dimensions": 2}.')
_SCALE = Hyperparameter("scale", "The size of the set.", above=0.0)


@dataclass(frozen=True)
class OneOrMore(Hyperparameter):
    """A whole number, or a list of them."""

    def check(self, value: Any, pointer: str = "") -> Any:
        single = isinstance(value, int) and not isinstance(value, bool)
        return super().check([value] if single else value, pointer)


_AXIS = OneOrMore("axis", "The axes of a unit.", "integers", low=0, high=31, null="As optax infers them, or all.")


def _number(name: str, meaning: str, **more: Any) -> Hyperparameter:
    return Hyperparameter(name, meaning, **more)


def _whole(name: str, meaning: str, low: int = 1, high: float = LARGEST_WHOLE) -> Hyperparameter:
    return Hyperparameter(name, meaning, "integer", low=low, high=high)


def _becomes(transform: str, fixed: Values | None, names: Mapping[str, str]) -> Callable[[Values], dict[str, Any]]:
    """Their arguments under our names, with what is fixed."""

    def convert(a: Values) -> dict[str, Any]:
        return {"name": transform, **(fixed or {}), **{ours: a[theirs] for ours, theirs in names.items()}}

    return convert


def _spell(
    path: str, transform: str, declared: Declared, fixed: Values | None = None, **names: str
) -> dict[str, Spelling]:
    """A library's name, its arguments, what it fixes, and ours=theirs."""
    return {path: Spelling(path, (transform,), declared, _becomes(transform, fixed, names), names)}


def _spell_chosen(
    path: str, transform: str, declared: Declared, fixed: Values | None = None, **names: str
) -> dict[str, Spelling]:
    """One that in the library is put on some parameters, which are named here by our own `match`."""
    return _spell(path, transform, {**declared, MATCH: "*"}, fixed, **names, match="match")


def _multi_steps(a: Values) -> dict[str, Any]:
    formula = "running_mean" if a["use_grad_mean"] else "sum"
    return {"name": "accumulate", "steps": a["every_k_schedule"], "formula": formula}


def _add_noise(a: Values) -> dict[str, Any]:
    return {"name": "add_noise", "eta": a["eta"], "gamma": a["gamma"], "seed": a["key"]}


def _incremental(a: Values) -> dict[str, Any]:
    return {"name": "parameter_ema", "formula": "optax", "decay": 1.0 - a["step_size"]}


_TORCH = (
    _spell(
        "torch.nn.utils.clip_grad_value_",
        "clip_by_value",
        {_number("clip_value", "The largest absolute value.", above=0.0): REQUIRED, _SPEED: None},
        limit="clip_value",
    )
    | _spell(
        "torch.nn.utils.clip_grad_norm_",
        "clip_by_global_norm",
        {
            _number("max_norm", "The largest norm.", above=0.0): REQUIRED,
            Order("norm_type", "Which norm."): 2.0,
            Unused("error_if_nonfinite", "A norm that overflows is refused always."): False,
            _SPEED: None,
        },
        {"formula": "torch"},
        max_norm="max_norm",
        order="norm_type",
    )
    | _spell(
        "torch.optim.swa_utils.get_ema_multi_avg_fn",
        "parameter_ema",
        {_number("decay", "Share of the old average that is kept.", low=0.0, high=1.0): 0.999},
        {"formula": "torch"},
        decay="decay",
    )
    | _spell(
        "torch.optim.swa_utils.get_ema_avg_fn",
        "parameter_ema",
        {_number("decay", "Share of the old average that is kept.", low=0.0, high=1.0): 0.999},
        {"formula": "torch"},
        decay="decay",
    )
    | _spell("torch.optim.swa_utils.get_swa_multi_avg_fn", "parameter_swa", {})
    | _spell("torch.optim.swa_utils.get_swa_avg_fn", "parameter_swa", {})
    | _spell(
        "torch.optim.swa_utils.AveragedModel",
        "parameter_swa",
        {
            Only("avg_fn", "say torch.optim.swa_utils.get_ema_avg_fn for a running average."): None,
            Only("multi_avg_fn", "say torch.optim.swa_utils.get_ema_multi_avg_fn for a running average."): None,
            Unused("device", "Where torch keeps it."): None,
            Unused("use_buffers", "A session has parameters only."): False,
        },
    )
)
_OPTAX = (
    _spell(
        "optax.clip",
        "clip_by_value",
        {_number("max_delta", "The largest absolute value.", above=0.0): REQUIRED},
        limit="max_delta",
    )
    | _spell(
        "optax.clip_by_global_norm",
        "clip_by_global_norm",
        {_number("max_norm", "The largest norm.", above=0.0): REQUIRED},
        {"formula": "optax"},
        max_norm="max_norm",
    )
    | _spell(
        "optax.clip_by_block_rms",
        "clip_by_block_rms",
        {_number("threshold", "The largest root mean square.", above=0.0): REQUIRED},
        threshold="threshold",
    )
    | _spell(
        "optax.adaptive_grad_clip",
        "adaptive_clip",
        {
            _number("clipping", "The largest ratio.", above=0.0): REQUIRED,
            _number("eps", "The least norm of parameters.", low=0.0): 1e-3,
            _AXIS: None,
        },
        clipping="clipping",
        epsilon="eps",
        axes="axis",
    )
    | _spell("optax.centralize", "centralize", {})
    | _spell("optax.contrib.normalize", "normalize", {})
    | _spell(
        "optax.normalize_by_update_norm",
        "normalize",
        {
            _number("scale_factor", "The norm to come to.", above=0.0): 1.0,
            _number("eps", "Added to the norm.", low=0.0): 1e-6,
        },
        scale="scale_factor",
        epsilon="eps",
    )
    | {
        "optax.add_noise": Spelling(
            "optax.add_noise",
            ("add_noise",),
            {
                _number("eta", "The variance in the first step.", low=0.0): REQUIRED,
                _number("gamma", "How fast it falls.", low=0.0): REQUIRED,
                _whole("key", "The seed; the numbers are not those of jax.", 0): REQUIRED,
            },
            _add_noise,
            {"seed": "key"},
        ),
        "optax.MultiSteps": Spelling(
            "optax.MultiSteps",
            ("accumulate",),
            {
                Unused("opt", "The optimizer is the session's."): None,
                _whole("every_k_schedule", "How many gradients make one."): REQUIRED,
                Hyperparameter("use_grad_mean", "Their mean, or their sum.", "boolean"): True,
                Only("should_skip_update_fn", "put optax.skip_large_updates before it in the list."): None,
                _DTYPE: None,
            },
            _multi_steps,
            {"steps": "every_k_schedule", "formula": "use_grad_mean"},
        ),
        "optax.incremental_update": Spelling(
            "optax.incremental_update",
            ("parameter_ema",),
            {_number("step_size", "Share of the new parameters.", low=0.0, high=1.0, schedulable=False): REQUIRED},
            _incremental,
            {"decay": "step_size"},
        ),
    }
    | _spell_chosen(
        "optax.add_decayed_weights",
        "weight_decay",
        {_number("weight_decay", "The weight of the penalty.", low=0.0): 0.0, _MASK: None},
        strength="weight_decay",
    )
    | _spell("optax.scale", "scale", {_number("step_size", "The factor."): REQUIRED}, factor="step_size")
    | _spell("optax.apply_every", "apply_every", {_whole("k", "Every how many steps."): 1}, steps="k")
    | _spell(
        "optax.skip_large_updates",
        "skip_large_updates",
        {_number("max_squared_norm", "The least that is too large.", above=0.0): REQUIRED},
        max_squared_norm="max_squared_norm",
    )
    | _spell(
        "optax.ema",
        "ema",
        {
            _number("decay", "Share of the old mean that is kept.", low=0.0, below=1.0): REQUIRED,
            Hyperparameter("debias", "Correct for the start at zero.", "boolean"): True,
            _DTYPE: None,
        },
        decay="decay",
        debias="debias",
    )
    | _spell_chosen("optax.keep_params_nonnegative", "project_nonnegative", {})
)
_PROJECTIONS = (
    _spell_chosen("optax.projections.projection_non_negative", "project_nonnegative", {})
    | _spell_chosen(
        "optax.projections.projection_box",
        "project_box",
        {_number("lower", "The least value."): REQUIRED, _number("upper", "The largest value."): REQUIRED},
        lower="lower",
        upper="upper",
    )
    | _spell_chosen(
        "optax.projections.projection_hypercube", "project_box", {_SCALE: 1.0}, {"lower": 0.0}, upper="scale"
    )
    | _spell_chosen("optax.projections.projection_simplex", "project_simplex", {_SCALE: 1.0}, total="scale")
    | _spell_chosen("optax.projections.projection_l1_ball", "project_l1_ball", {_SCALE: 1.0}, radius="scale")
    | _spell_chosen("optax.projections.projection_l1_sphere", "project_l1_sphere", {_SCALE: 1.0}, radius="scale")
    | _spell_chosen("optax.projections.projection_l2_ball", "project_l2_ball", {_SCALE: 1.0}, radius="scale")
    | _spell_chosen("optax.projections.projection_l2_sphere", "project_l2_sphere", {_SCALE: 1.0}, radius="scale")
    | _spell_chosen("optax.projections.projection_linf_ball", "project_linf_ball", {_SCALE: 1.0}, radius="scale")
)
_UNIT = {"minimum": 1.0, "maximum": 1.0}
_KERAS = (
    _spell_chosen("keras.constraints.NonNeg", "project_nonnegative", {})
    | _spell_chosen(
        "keras.constraints.MaxNorm",
        "constrain_norms",
        {_number("max_value", "The largest norm.", low=0.0): 2.0, _AXIS: [0]},
        {"minimum": 0.0},
        maximum="max_value",
        axes="axis",
    )
    | _spell_chosen("keras.constraints.UnitNorm", "constrain_norms", {_AXIS: [0]}, _UNIT, axes="axis")
    | _spell_chosen(
        "keras.constraints.MinMaxNorm",
        "constrain_norms",
        {
            _number("min_value", "The least norm.", low=0.0): 0.0,
            _number("max_value", "The largest norm.", low=0.0): 1.0,
            _number("rate", "How strictly.", low=0.0, high=1.0): 1.0,
            _AXIS: [0],
        },
        minimum="min_value",
        maximum="max_value",
        rate="rate",
        axes="axis",
    )
)
SPELLINGS: dict[str, Spelling] = _TORCH | _OPTAX | _PROJECTIONS | _KERAS

_FINITE = 'What is not finite is the session\'s matter: create it with non_finite "reject", "skip" or "zero".'
_EXAMPLES = "It needs the gradients of single examples; a session receives their mean."
_FUNCTION = "It takes a Python function, which cannot be sent."
_TREE = "It needs a vector beside the parameters, which a transform does not take."
REFUSED: dict[str, str] = {
    "optax.zero_nans": _FINITE,
    "optax.apply_if_finite": _FINITE,
    "optax.skip_not_finite": _FINITE,
    "optax.per_example_global_norm_clip": _EXAMPLES,
    "optax.per_example_layer_norm_clip": _EXAMPLES,
    "optax.contrib.differentially_private_aggregate": _EXAMPLES,
    "optax.conditionally_mask": _FUNCTION,
    "optax.conditionally_transform": _FUNCTION,
    "optax.chain": "The list itself is the chain.",
    "optax.masked": "Groups say it, and the argument match of a transform.",
    "optax.freeze": 'Say it in groups: {"match": pattern, "frozen": true}.',
    "optax.trace": "It is the momentum of sgd: give the optimizer momentum.",
    "optax.projections.projection_vector": _TREE,
    "optax.projections.projection_hyperplane": _TREE,
    "optax.projections.projection_halfspace": _TREE,
}
