"""L-BFGS in torch's and optax's dialects: the state they keep, their options and defaults."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from service.errors import Invalid
from service.optim.hyperparameters import Hyperparameter
from service.optim.rule import LEARNING_RATE, Algorithm, Dialect, Rule, Shape, Values
from service.optim.rules.line_search import Wolfe, Zoom
from service.optim.rules.quasi_newton import (
    Optax,
    Progress,
    Torch,
    at_rest,
    idle,
    iteration_start,
    line_start,
    optax_fixed,
    optax_zoom,
    torch_fixed,
    torch_wolfe,
)


def _start_of_step(p: Any, values: Values) -> Any:
    return np.array([0.0, 1.0])


_MEMORY = ("gradient_differences", "parameter_differences", "pair_weights")


@cache
def _torch_rule(history: int, search: str) -> Rule:
    """The rule that remembers so many pairs."""

    def pairs(shape: Shape) -> Shape:
        return (history, *shape)

    def ends(shape: Shape) -> Shape:
        return (2, *shape)

    slots = ("direction", "last_gradient", *_MEMORY, "progress")
    shapes: dict[str, Any] = {
        "gradient_differences": pairs,
        "parameter_differences": pairs,
        "pair_weights": (history,),
        "progress": (len(Progress._fields),),
    }
    if search == "none":
        return Rule(
            torch_fixed,
            slots,
            span="all",
            shapes=shapes,
            wants="value_and_gradient",
            committed=idle,
            evaluations=lambda values: int(values["max_iterations"]),
        )
    return Rule(
        torch_wolfe,
        (*slots, "line_start", "bracket_gradients", "line_search"),
        span="all",
        shapes={**shapes, "bracket_gradients": ends, "line_search": (len(Wolfe._fields),)},
        wants="value_and_gradient",
        committed=idle,
        evaluations=lambda values: 1 + _most(values),
        view=iteration_start,
    )


@cache
def _optax_rule(history: int, search: str) -> Rule:
    """The same in optax, whose differences are from step to step."""

    def pairs(shape: Shape) -> Shape:
        return (history, *shape)

    slots = ("last_parameters", "last_gradient", *_MEMORY)
    shapes: dict[str, Any] = {
        "gradient_differences": pairs,
        "parameter_differences": pairs,
        "pair_weights": (history,),
    }
    if search == "none":
        return Rule(optax_fixed, slots, span="all", shapes=shapes)
    return Rule(
        optax_zoom,
        (*slots, "direction", "progress", "line_search"),
        {"progress": _start_of_step},
        span="all",
        shapes={**shapes, "progress": (2,), "line_search": (len(Zoom._fields),)},
        wants="value_and_gradient",
        committed=at_rest,
        evaluations=lambda values: 1 + int(values["max_search_steps"]),
        view=line_start,
    )


def _torch_choice(values: Values) -> Rule:
    return _torch_rule(values["history_size"], values["line_search"])


def _optax_choice(values: Values) -> Rule:
    return _optax_rule(values["history_size"], values["line_search"])


def _most(values: Values) -> int:
    """Evaluations that a step may take before it ends; a quarter more than its iterations unless said."""
    return int(values["max_evaluations"]) or int(values["max_iterations"]) * 5 // 4


def _torch(values: Values, t: int) -> Torch:
    return Torch(
        values["learning_rate"],
        float(values["max_iterations"]),
        float(_most(values)),
        values["gradient_tolerance"],
        values["change_tolerance"],
        float(values.get("loss", 0.0)),
    )


def _optax(values: Values, t: int) -> Optax:
    return Optax(
        values["learning_rate"],
        float(t - 1),
        float(values["scale_first"]),
        float(values["first_trial"] == "keep"),
        float(values.get("loss", 0.0)),
        float(values["max_search_steps"]),
        values["longest_step"] or math.inf,
        values["search_tolerance"],
        values["growth"],
        values["sufficient_decrease"],
        values["curvature"],
        values["approximate_decrease"],
        values["smallest_interval"],
    )


def _searches(*allowed: str) -> Callable[[Values], None]:
    """What refuses a line search that the library does not have."""

    def check(values: Values) -> None:
        if values["line_search"] not in allowed:
            raise Invalid(f"line_search is one of {', '.join(allowed)} in this dialect.", pointer="/line_search")

    return check


_HISTORY = Hyperparameter(
    "history_size", "How many pairs of differences are remembered, m.", "integer", low=1, high=1000
)
_SEARCH = Hyperparameter(
    "line_search",
    "How the length of a step is found: a fixed one, torch's strong Wolfe search, or optax's zoom.",
    "choice",
    choices=("none", "strong_wolfe", "zoom"),
)

LBFGS = Algorithm(
    name="lbfgs",
    title="L-BFGS",
    summary="Newton's method with the curvature estimated from the last few gradients, and a line search.",
    equation=r"\theta_{k+1} = \theta_k - t_k H_k \nabla f(\theta_k), \quad H_{k+1} = V_k^T H_k V_k + \rho_k s_k s_k^T, "
    r"\quad V_k = I - \rho_k y_k s_k^T, \quad \rho_k = \frac{1}{y_k^T s_k}",
    source="D. C. Liu and J. Nocedal, On the Limited Memory BFGS Method for Large Scale Optimization, Mathematical "
    "Programming 45, 1989, doi:10.1007/BF01589116.",
    when="Smooth functions without noise, where it needs far fewer evaluations than gradient descent: fitting, "
    "physics, small models on all of their data. Not with mini-batches, whose noise it takes for curvature.",
    hyperparameters=(
        LEARNING_RATE,
        _HISTORY,
        _SEARCH,
        Hyperparameter("max_iterations", "Iterations in one step.", "integer", low=1, high=1_000_000),
        Hyperparameter(
            "max_evaluations",
            "Evaluations after which a step ends; 0 is a quarter more than its iterations.",
            "integer",
            low=0,
            high=1_000_000,
        ),
        Hyperparameter("gradient_tolerance", "The largest element of a gradient that counts as zero.", low=0.0),
        Hyperparameter("change_tolerance", "A step, or a change of the value, that ends the iterations.", low=0.0),
        Hyperparameter("scale_first", "Scale the identity by the newest pair, before any to a length of 1.", "boolean"),
        Hyperparameter(
            "first_trial",
            "The first step length that a search tries: 1, or the last.",
            "choice",
            choices=("one", "keep"),
        ),
        Hyperparameter("max_search_steps", "Evaluations of one line search.", "integer", low=1, high=10_000),
        Hyperparameter("longest_step", "The longest step length; 0 is any.", low=0.0),
        Hyperparameter("search_tolerance", "By how much the two conditions may be missed.", low=0.0),
        Hyperparameter("growth", "Factor of the step length while no interval is found.", above=1.0),
        Hyperparameter("sufficient_decrease", "c₁ of the Wolfe conditions.", low=0.0, high=1.0),
        Hyperparameter("curvature", "c₂ of the Wolfe conditions.", low=0.0),
        Hyperparameter(
            "approximate_decrease",
            "So near in value, relative to it, the slope tells the decrease instead; 0 is never.",
            low=0.0,
        ),
        Hyperparameter("smallest_interval", "An interval at which the search is content with a decrease.", low=0.0),
    ),
    dialects={
        "torch": Dialect(
            {
                "learning_rate": 1.0,
                "history_size": 100,
                "line_search": "none",
                "max_iterations": 20,
                "max_evaluations": 0,
                "gradient_tolerance": 1e-7,
                "change_tolerance": 1e-9,
            },
            _torch_choice,
            _torch,
            counter="parameter",
            check=_searches("none", "strong_wolfe"),
            differs="A step is up to max_iterations iterations, and begins with an evaluation where it stands, even if "
            "the value there is known; without a search, only the very first iteration is shortened.",
            known_bugs=(
                "The strong Wolfe search has a tolerance of its own, 1e-9, whatever change_tolerance is.",
                "Without a search the evaluation at the end of the last iteration is left out, so that a step of one "
                "iteration never sees whether it went down.",
            ),
        ),
        "optax": Dialect(
            {
                "learning_rate": 1.0,
                "history_size": 10,
                "line_search": "zoom",
                "scale_first": True,
                "first_trial": "one",
                "max_search_steps": 20,
                "longest_step": 0.0,
                "search_tolerance": 0.0,
                "growth": 2.0,
                "sufficient_decrease": 1e-4,
                "curvature": 0.9,
                "approximate_decrease": 1e-6,
                "smallest_interval": 1e-5,
            },
            _optax_choice,
            _optax,
            check=_searches("none", "zoom"),
            differs="A step is one iteration and one line search, and the first evaluation of each is where the last "
            "one ended: the numbers of the last evaluation may be sent again.",
            known_bugs=(
                "A pair is kept even where the function curves downward, after which the direction may lead up.",
            ),
        ),
    },
    kind="evaluating",
)

ALGORITHMS = (LBFGS,)
