"""Polyak's step size: as long as the loss is above its minimum, in units of the squared gradient."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.rule import EPSILON, Algorithm, Dialect, Rule, Values, dot


class Scalars(NamedTuple):
    """Scalars of `polyak`; `share` multiplies the squared norm, `scale` the step."""

    gap: float
    longest: float
    epsilon: float
    share: float
    scale: float
    smallest: float


def polyak(p: Any, g: Any, c: Scalars) -> Any:
    """p ← p - s min((f - f⋆) / (c ‖g‖² + ε), γ) g (Polyak 1969; Loizou et al. 2021)."""
    squared = c.share * dot(g, g) + c.epsilon
    step = 0.0 if squared <= c.smallest else min(c.gap / squared, c.longest)
    return (p - (c.scale * step) * g,)


_RULE = Rule(polyak, span="all", wants="value_and_gradient")
SMALLEST = float(np.finfo(np.float64).eps)


def _choose(values: Values) -> Rule:
    return _RULE


def _optax(values: Values, t: int) -> Scalars:
    gap = values["loss"] - values["lower_bound"]
    scale = values["learning_rate"]
    gap = max(gap, 0.0) if values["variant"] == "sps+" else gap
    # optax scales the gradient before it measures it
    return Scalars(gap, values["max_learning_rate"], values["epsilon"], scale * scale, scale, SMALLEST)


def _paper(values: Values, t: int) -> Scalars:
    gap = values["loss"] - values["lower_bound"]
    return Scalars(gap, values["max_learning_rate"], 0.0, values["c"], 1.0, 0.0)


POLYAK_SGD = Algorithm(
    name="polyak_sgd",
    title="SGD with Polyak's step size (SPS)",
    summary="Gradient descent with the step that would reach the minimum of a line; each step needs the loss.",
    equation=r"\theta_{t+1} = \theta_t - \min\left(\frac{f(\theta_t) - f_\star}{c\, \|g_t\|^2}, \gamma\right) g_t",
    source="B. T. Polyak, Minimization of unsmooth functionals, USSR Comput. Math. Math. Phys. 9 (1969), "
    "doi:10.1016/0041-5553(69)90061-5; N. Loizou, S. Vaswani, I. Laradji and S. Lacoste-Julien, Stochastic Polyak "
    "Step-size for SGD, AISTATS 2021, arXiv:2002.10542; G. Garrigos, R. M. Gower and F. Schaipp (2023), "
    "arXiv:2307.14528.",
    when="Losses whose minimum is known, as 0 is for a model that can fit all its data; convex ones above all. A wrong "
    "minimum makes it diverge or stop short.",
    hyperparameters=(
        Hyperparameter("max_learning_rate", "γ, the longest step.", low=0.0),
        Hyperparameter("learning_rate", "s, a factor of the gradient.", low=0.0),
        Hyperparameter("lower_bound", "f⋆, the least that the loss can be."),
        EPSILON,
        Hyperparameter(
            "variant",
            "sps+ takes no step where the loss is below f⋆; sps then climbs.",
            "choice",
            choices=("sps", "sps+"),
        ),
        Hyperparameter("c", "c, what the squared norm is multiplied by; 1/2 in theory.", above=0.0),
    ),
    dialects={
        "optax": Dialect(
            {"max_learning_rate": 1.0, "learning_rate": 1.0, "lower_bound": 0.0, "epsilon": 0.0, "variant": "sps"},
            _choose,
            _optax,
            differs="optax's scaling is the learning rate here, its f_min the lower bound.",
            known_bugs=(
                "The gradient is scaled before it is measured, so that below the longest step a scaling of s makes "
                "steps longer by 1/s, not by s.",
                "Where ‖s g‖² + ε is at most 2.2e-16 there is no step: small gradients stall it.",
            ),
        ),
        "paper": Dialect(
            {"max_learning_rate": REQUIRED, "lower_bound": 0.0, "c": 0.5},
            _choose,
            _paper,
            differs="SPS with a longest step, as Loizou et al. have it: c in the denominator, no ε.",
        ),
    },
    kind="global",
    default_dialect="optax",
)

ALGORITHMS = (POLYAK_SGD,)
