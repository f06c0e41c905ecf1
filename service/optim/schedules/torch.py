"""torch's schedulers, which take the base rate from the optimizer: here it is given beside them as `initial`.

A schedule is of one hyperparameter. CyclicLR and OneCycleLR also move the momentum unless told not to; here it stays as
it is, and a mirrored schedule of its own does what torch does: `cyclic` from max_momentum to the peak base_momentum.
"""

from __future__ import annotations

from typing import Any

from service.errors import Invalid
from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.schedules.form import GAMMA, Parts, Values
from service.optim.schedules.spelling import Convert, Only, Spelling, Unused, level, maybe, number, whole

PREFIX = "torch.optim.lr_scheduler."

INITIAL = level("initial", "The learning rate that torch's scheduler would take from its optimizer.")
_LAST_EPOCH = Only("last_epoch", "a schedule counts the session's steps from 0.", value=-1)
_TOTAL = whole("total_iters", "Steps until the change is done.")
_STRATEGY = Hyperparameter("anneal_strategy", "The way from value to value.", "choice", choices=("cos", "linear"))
_PARTS = Parts("schedulers", "A list of schedules; torch's take their initial from this one.")
_OWN = "give momentum or beta1 a schedule of its own, with these two as its first value and its peak."
_MOMENTUM: dict[Hyperparameter, Any] = {
    Only("cycle_momentum", f"a schedule is of one hyperparameter; {_OWN}", value=False): False,
    Unused("base_momentum", _OWN): None,
    Unused("max_momentum", _OWN): None,
}
MULTIPLYING = ("StepLR", "MultiStepLR", "ConstantLR", "LinearLR", "ExponentialLR", "PolynomialLR")


def _shape(a: Values) -> str:
    return "cosine" if a["anneal_strategy"] == "cos" else "linear"


def _multi_step(a: Values) -> dict[str, Any]:
    return {**_same(a, "multi_step", "initial", "gamma"), "milestones": sorted(a["milestones"])}


def _same(a: Values, form: str, *names: str) -> dict[str, Any]:
    return {"schedule": form, **{name: a[name] for name in names}}


def _constant(a: Values) -> dict[str, Any]:
    values = [a["initial"] * a["factor"], a["initial"]]
    return {"schedule": "piecewise_constant", "values": values, "boundaries": [a["total_iters"]]}


def _linear(a: Values) -> dict[str, Any]:
    first, last = (a["initial"] * a[f"{end}_factor"] for end in ("start", "end"))
    return {"schedule": "linear", "initial": first, "final": last, "steps": a["total_iters"]}


def _polynomial(a: Values) -> dict[str, Any]:
    return {**_same(a, "polynomial", "initial", "power"), "steps": a["total_iters"]}


def _cosine(a: Values) -> dict[str, Any]:
    return {**_same(a, "cosine_annealing", "initial"), "t_max": a["T_max"], "minimum": a["eta_min"]}


def _warm_restarts(a: Values) -> dict[str, Any]:
    steps = {"first_steps": a["T_0"], "t_mult": float(a["T_mult"])}
    return {**_same(a, "cosine_warm_restarts", "initial"), **steps, "minimum": a["eta_min"]}


def _cyclic(a: Values) -> dict[str, Any]:
    ends = {"initial": a["base_lr"], "peak": a["max_lr"]}
    steps = {"steps_up": a["step_size_up"], "steps_down": a["step_size_down"] or a["step_size_up"]}
    return {**_same(a, "cyclic", "mode", "gamma"), **ends, **steps}


def _one_cycle(a: Values) -> dict[str, Any]:
    steps = a["total_steps"]
    if steps is None:
        if a["epochs"] is None or a["steps_per_epoch"] is None:
            raise Invalid("Give total_steps, or epochs and steps_per_epoch.", pointer="/total_steps")
        steps = a["epochs"] * a["steps_per_epoch"]
    names = ("pct_start", "div_factor", "final_div_factor", "three_phase")
    return {**_same(a, "one_cycle", *names), "peak": a["max_lr"], "steps": steps, "shape": _shape(a)}


def _swa(a: Values) -> dict[str, Any]:
    first, last, steps = a["initial"], a["swa_lr"], a["anneal_epochs"]
    if not steps:
        return {"schedule": "constant", "value": last}
    if _shape(a) == "linear":
        return {"schedule": "linear", "initial": first, "final": last, "steps": steps}
    stays = {"minimum": last, "after_end": "stay"}
    return {"schedule": "cosine_annealing", "initial": first, "t_max": steps, **stays}


def _with_initial(part: Values, initial: float | None) -> dict[str, Any]:
    """A scheduler inside another has the same base rate."""
    spelling = SPELLINGS.get(part["like"]) if isinstance(part.get("like"), str) else None
    if initial is None or spelling is None or INITIAL.name not in spelling.arguments:
        return dict(part)
    return {"initial": initial, **part}


def _sequential(a: Values) -> dict[str, Any]:
    parts = [_with_initial(part, a["initial"]) for part in a["schedulers"]]
    return {"schedule": "sequential", "schedules": parts, "milestones": a["milestones"]}


def _chained(a: Values) -> dict[str, Any]:
    for i, part in enumerate(a["schedulers"]):
        if part.get("like") not in [PREFIX + name for name in MULTIPLYING]:
            raise Invalid(
                f"Only schedulers that multiply the rate have a product: {', '.join(MULTIPLYING)}. Others overwrite "
                'or shift it; for them write {"schedule": "chained", ...} with the factors that you mean.',
                pointer=f"/schedulers/{i}/like",
            )
        if INITIAL.name in part:
            raise Invalid("The schedulers of a chain share its initial.", pointer=f"/schedulers/{i}/initial")
    first, *others = a["schedulers"]
    return {
        "schedule": "chained",
        "schedules": [{**first, "initial": a["initial"]}, *({**part, "initial": 1.0} for part in others)],
    }


def _plateau(a: Values) -> dict[str, Any]:
    thresholds = (a["threshold"], 0.0) if a["threshold_mode"] == "rel" else (0.0, a["threshold"])
    return {
        **_same(a, "reduce_on_plateau", "initial", "mode", "factor", "patience", "cooldown"),
        **dict(zip(("relative_threshold", "absolute_threshold"), thresholds, strict=True)),
        "minimum": a["min_lr"],
        "smallest_change": a["eps"],
    }


def _spell(
    name: str, forms: str, declared: dict[Hyperparameter, Any], convert: Convert, **names: str
) -> dict[str, Spelling]:
    path = name if "." in name else PREFIX + name
    last: dict[Hyperparameter, Any] = {} if name == "ChainedScheduler" else {_LAST_EPOCH: -1}
    return {path: Spelling(path, tuple(forms.split()), {**declared, **last}, convert, names)}


def _renamed(a: Values, form: str) -> dict[str, Any]:
    return _same(a, form, *(name for name in a if name != _LAST_EPOCH.name))


_BASIC = (
    _spell(
        "StepLR",
        "step",
        {INITIAL: REQUIRED, whole("step_size", "Steps between two changes."): REQUIRED, GAMMA: 0.1},
        lambda a: _renamed(a, "step"),
    )
    | _spell(
        "MultiStepLR",
        "multi_step",
        {
            INITIAL: REQUIRED,
            Hyperparameter("milestones", "Counts of steps.", "integers", low=0): REQUIRED,
            GAMMA: 0.1,
        },
        _multi_step,
    )
    | _spell(
        "ConstantLR",
        "piecewise_constant",
        {INITIAL: REQUIRED, number("factor", "What the rate is multiplied by.", low=0.0, high=1.0): 1 / 3, _TOTAL: 5},
        _constant,
    )
    | _spell(
        "LinearLR",
        "linear",
        {
            INITIAL: REQUIRED,
            number("start_factor", "The first factor.", above=0.0, high=1.0): 1 / 3,
            number("end_factor", "The last factor.", low=0.0, high=1.0): 1.0,
            _TOTAL: 5,
        },
        _linear,
    )
    | _spell("ExponentialLR", "exponential", {INITIAL: REQUIRED, GAMMA: REQUIRED}, lambda a: _renamed(a, "exponential"))
    | _spell(
        "PolynomialLR",
        "polynomial",
        {INITIAL: REQUIRED, _TOTAL: 5, number("power", "The power.", above=0.0): 1.0},
        _polynomial,
    )
    | _spell(
        "CosineAnnealingLR",
        "cosine_annealing",
        {
            INITIAL: REQUIRED,
            whole("T_max", "Steps from the top to the bottom."): REQUIRED,
            level("eta_min", "The value at the bottom."): 0.0,
        },
        _cosine,
    )
    | _spell(
        "CosineAnnealingWarmRestarts",
        "cosine_warm_restarts",
        {
            INITIAL: REQUIRED,
            whole("T_0", "The steps of the first period."): REQUIRED,
            whole("T_mult", "How many times longer each period is."): 1,
            level("eta_min", "The value at the bottom."): 0.0,
        },
        _warm_restarts,
    )
    | _spell(
        "torch.optim.swa_utils.SWALR",
        "cosine_annealing linear constant",
        {
            INITIAL: REQUIRED,
            level("swa_lr", "The value to come to."): REQUIRED,
            whole("anneal_epochs", "Steps until then.", 0): 10,
            _STRATEGY: "cos",
        },
        _swa,
    )
)
_CYCLES = _spell(
    "CyclicLR",
    "cyclic",
    {
        level("base_lr", "The value that each cycle starts from."): REQUIRED,
        level("max_lr", "The value in the middle of the first cycle."): REQUIRED,
        whole("step_size_up", "Steps up."): 2000,
        maybe(whole("step_size_down", "Steps down; null for as many as up.")): None,
        Hyperparameter(
            "mode", "How the peaks change.", "choice", choices=("triangular", "triangular2", "exp_range")
        ): "triangular",
        GAMMA: 1.0,
        Only("scale_fn", "a Python function cannot be sent; use a mode, or chained schedules."): None,
        Unused("scale_mode", "Of scale_fn only."): "cycle",
        **_MOMENTUM,
    },
    _cyclic,
) | _spell(
    "OneCycleLR",
    "one_cycle",
    {
        level("max_lr", "The highest value."): REQUIRED,
        maybe(whole("total_steps", "All steps.")): None,
        maybe(whole("epochs", "Instead of total_steps.")): None,
        maybe(whole("steps_per_epoch", "Instead of total_steps.")): None,
        number("pct_start", "The share of the steps until the peak.", low=0.0, high=1.0): 0.3,
        _STRATEGY: "cos",
        **_MOMENTUM,
        number("div_factor", "The peak over the first value.", above=0.0): 25.0,
        number("final_div_factor", "The first value over the last.", above=0.0): 1e4,
        Hyperparameter("three_phase", "Come back to the first value first.", "boolean"): False,
    },
    _one_cycle,
    steps="total_steps",
)
_COMPOSED = _spell(
    "SequentialLR",
    "sequential",
    {
        maybe(INITIAL): None,
        _PARTS: REQUIRED,
        Hyperparameter("milestones", "Where each but the first takes over.", "integers", low=0): REQUIRED,
    },
    _sequential,
    schedules="schedulers",
) | _spell("ChainedScheduler", "chained", {INITIAL: REQUIRED, _PARTS: REQUIRED}, _chained, schedules="schedulers")
_PLATEAU = {
    f"{PREFIX}ReduceLROnPlateau": Spelling(
        f"{PREFIX}ReduceLROnPlateau",
        ("reduce_on_plateau",),
        {
            INITIAL: REQUIRED,
            Hyperparameter("mode", "Whether less or more is better.", "choice", choices=("min", "max")): "min",
            number("factor", "What the rate is multiplied by.", low=0.0, below=1.0): 0.1,
            whole("patience", "Values without improvement that are borne.", 0): 10,
            number("threshold", "The least improvement.", low=0.0): 1e-4,
            Hyperparameter(
                "threshold_mode", "A share of the best value, or a difference.", "choice", choices=("rel", "abs")
            ): "rel",
            whole("cooldown", "Values after a reduction that are not counted as bad.", 0): 0,
            number("min_lr", "The rate is not reduced below this.", low=0.0): 0.0,
            number("eps", "A smaller reduction is not made.", low=0.0): 1e-8,
        },
        _plateau,
        {"minimum": "min_lr", "smallest_change": "eps", "relative_threshold": "threshold"},
    )
}
SPELLINGS: dict[str, Spelling] = _BASIC | _CYCLES | _COMPOSED | _PLATEAU

_FUNCTION = "It takes a Python function, which cannot be sent; piecewise_constant, piecewise_interpolate, sequential "
_FUNCTION += "and chained can follow any curve."
REFUSED = {
    f"{PREFIX}LambdaLR": _FUNCTION,
    f"{PREFIX}MultiplicativeLR": _FUNCTION,
    f"{PREFIX}LRScheduler": "It is the base class; name one of its schedulers.",
}
