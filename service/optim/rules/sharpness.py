"""Sharpness-aware minimization: the step is taken with the gradient from the worst point nearby."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.rule import PARAMETERS, Algorithm, Dialect, Rule, Values, norm
from service.optim.rules.lookahead import OPTIMIZER, change


class Scalars(NamedTuple):
    """Scalars of `sharpness_aware`; whole numbers and flags are floats."""

    rho: float
    epsilon: float
    sync_period: float
    opaque: float


def sharpness_aware(p: Any, g: Any, step: Callable[..., Any], since: Any, origin: Any, c: Scalars) -> Any:
    """ε ← ρ g / ‖g‖ and on to θ + ε; with the gradient there the wrapped optimizer steps from θ (eq. 2)."""
    count = float(since[()])
    before = origin if count else p
    if count + 1.0 < c.sync_period:
        size = norm(g) + c.epsilon
        return (p + (c.rho / size) * g if size else p), count + 1.0, before
    if c.opaque:
        return step(before, g), 0.0, before
    return p + (origin - p + change(step, origin, g)), 0.0, before


def _committed(since: Any, origin: Any) -> bool:
    return float(np.reshape(since, ())) == 0.0


def _last(values: Values, p: Any, since: Any, origin: Any) -> Any:
    return origin if float(since[0]) else p


_SAM = Rule(
    sharpness_aware,
    ("evaluations_since_step", "point_before"),
    {"point_before": PARAMETERS},
    span="all",
    shapes={"evaluations_since_step": ()},
    committed=_committed,
    evaluations=lambda values: int(values.get("sync_period", 2)),
    view=_last,
    wraps=True,
)


def _choose(values: Values) -> Rule:
    return _SAM


def _optax(values: Values, t: int) -> Scalars:
    return Scalars(values["rho"], 0.0, float(values["sync_period"]), float(values["opaque_mode"]))


def _paper(values: Values, t: int) -> Scalars:
    return Scalars(values["rho"], values["epsilon"], 2.0, 1.0)


SAM = Algorithm(
    name="sam",
    title="SAM",
    summary="Climbs a little first and steps with the gradient found there, which leads to flat minima.",
    equation=r"\hat\epsilon_t = \rho\, \frac{\nabla f(\theta_t)}{\|\nabla f(\theta_t)\|_2}, \qquad "
    r"\theta_{t+1} = \theta_t + u(\nabla f(\theta_t + \hat\epsilon_t))",
    source="P. Foret, A. Kleiner, H. Mobahi and B. Neyshabur, Sharpness-Aware Minimization for Efficiently Improving "
    "Generalization, ICLR 2021, arXiv:2010.01412.",
    when="To generalise better where two gradients a step can be paid for; send both on the same batch. On a "
    "deterministic function it only costs, and near the minimum it circles at a distance of the order of rho.",
    hyperparameters=(
        OPTIMIZER,
        Hyperparameter("rho", "How far to climb, ρ, in the Euclidean norm of all parameters.", low=0.0),
        Hyperparameter("epsilon", "Added to the gradient's norm that is divided by.", low=0.0),
        Hyperparameter("sync_period", "Gradients to a step: the last one steps, the others climb.", "integer", low=1),
        Hyperparameter("opaque_mode", "Add the step to the point before, not to where the climb led.", "boolean"),
    ),
    dialects={
        "optax": Dialect(
            {"optimizer": REQUIRED, "rho": REQUIRED, "sync_period": 2, "opaque_mode": False},
            _choose,
            _optax,
            differs="optax.contrib.sam with normalised gradient descent as its adversary, and any number of climbs to "
            "a step. Unless opaque_mode is set the way back is one sum with the step, and rounds as such.",
            known_bugs=(
                "A gradient of zero makes the climb 0 / 0 and all parameters NaN; here the point stays.",
                "With a sync_period of 1 and without opaque_mode, a step starts from the point before the last step.",
            ),
        ),
        "paper": Dialect(
            {"optimizer": REQUIRED, "rho": 0.05, "epsilon": 1e-12},
            _choose,
            _paper,
            differs="Two gradients to a step; the small constant is that of the usual implementations.",
        ),
    },
    kind="evaluating",
    default_dialect="paper",
)

ALGORITHMS = (SAM,)
