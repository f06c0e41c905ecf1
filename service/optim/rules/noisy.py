"""Noisy SGD: gradient descent with Gaussian noise that fades."""

from __future__ import annotations

from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.rule import LEARNING_RATE, Algorithm, Dialect, Rule, Values


class Scalars(NamedTuple):
    """Scalars of `noisy_sgd`; `seed` and `t` are whole numbers."""

    learning_rate: float
    deviation: float
    seed: float
    t: float


def noisy_sgd(p: Any, g: Any, c: Scalars) -> Any:
    """p ← p - α (g + σ z), z normal (Neelakantan et al. 2015, section 3)."""
    # The seed is Philox's key, and the step its counter: an element's noise is a matter of these and of its place.
    random = np.random.Generator(np.random.Philox(key=int(c.seed), counter=[0, int(c.t), 0, 0]))
    noise = random.standard_normal(p.size).astype(p.dtype)
    return (p - c.learning_rate * (g + c.deviation * noise),)


_RULE = Rule(noisy_sgd, span="all")


def _choose(values: Values) -> Rule:
    return _RULE


def _scalars(values: Values, t: int) -> Scalars:
    deviation = sqrt(values["eta"] * float(t) ** -values["gamma"])
    return Scalars(values["learning_rate"], deviation, float(values["seed"]), float(t))


NOISY_SGD = Algorithm(
    name="noisy_sgd",
    title="Noisy SGD",
    summary="Gradient descent with Gaussian noise added to each gradient, less and less of it.",
    equation=r"\theta_t = \theta_{t-1} - \alpha (g_t + \sigma_t z_t), \qquad z_t \sim N(0, 1), \qquad "
    r"\sigma_t^2 = \frac{\eta}{t^{\gamma}}",
    source="A. Neelakantan et al., Adding Gradient Noise Improves Learning for Very Deep Networks, 2015, "
    "arXiv:1511.06807.",
    when="Deep and hard-to-start models, and gradients without noise of their own where noise helps to leave a saddle. "
    "Rarely beside the noise that small batches bring already.",
    hyperparameters=(
        LEARNING_RATE,
        Hyperparameter("eta", "η, the variance of the first step's noise.", low=0.0),
        Hyperparameter("gamma", "γ, how fast the variance falls with the step.", low=0.0),
        Hyperparameter("seed", "Seed of the noise; the same seed and step give the same noise.", "integer", low=0),
    ),
    dialects={
        "optax": Dialect(
            {"learning_rate": REQUIRED, "eta": 0.01, "gamma": 0.55, "seed": 0},
            _choose,
            _scalars,
            differs="Equal to optax in distribution, not number for number: the noise is NumPy's, from Philox with the "
            "seed as its key and the step as its counter, where optax splits a key of jax.",
        ),
    },
    kind="global",
    default_dialect="optax",
)

ALGORITHMS = (NOISY_SGD,)
