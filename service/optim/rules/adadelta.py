"""Adadelta: RMSprop whose step is in the parameters' own units."""

from __future__ import annotations

from typing import Any, NamedTuple

from service.optim.hyperparameters import REQUIRED
from service.optim.rule import (
    EPSILON,
    LEARNING_RATE,
    MAXIMIZE,
    WEIGHT_DECAY,
    Algorithm,
    Dialect,
    Rule,
    Values,
    divide,
    sqrt,
)
from service.optim.rules.rmsprop import RHO


class Scalars(NamedTuple):
    """Scalars of `adadelta`."""

    learning_rate: float
    rho: float
    one_minus_rho: float
    epsilon: float
    zero: float


def adadelta(p: Any, g: Any, v: Any, a: Any, c: Scalars) -> Any:
    """v ← ρ v + (1 - ρ) g²;  Δ = √(a + ε) / √(v + ε) g;  a ← ρ a + (1 - ρ) Δ²;  p ← p - α Δ (Zeiler 2012)."""
    v = c.rho * v + c.one_minus_rho * (g * g)
    delta = divide(sqrt(a + c.epsilon), sqrt(v + c.epsilon), c.zero) * g
    a = c.rho * a + c.one_minus_rho * (delta * delta)
    return p - c.learning_rate * delta, v, a


_RULE = Rule(adadelta, ("square_average", "accumulated_delta"))


def _choose(values: Values) -> Rule:
    return _RULE


def _scalars(values: Values, t: int) -> Scalars:
    rho = values["rho"]
    return Scalars(values.get("learning_rate", 1.0), rho, 1.0 - rho, values["epsilon"], 0.0)


ADADELTA = Algorithm(
    name="adadelta",
    title="Adadelta",
    summary="RMSprop scaled by a running mean of its own squared steps, so that the units match.",
    equation=r"\Delta_t = \frac{\sqrt{a_{t-1} + \epsilon}}{\sqrt{v_t + \epsilon}}\, g_t, \qquad a_t = \rho a_{t-1} + "
    r"(1-\rho) \Delta_t^2, \qquad \theta_t = \theta_{t-1} - \Delta_t",
    source="M. D. Zeiler, ADADELTA: An Adaptive Learning Rate Method, arXiv:1212.5701.",
    when="Where no learning rate is to be tuned. Starts slowly: its first steps are of the order of √ε.",
    hyperparameters=(LEARNING_RATE, RHO, EPSILON, WEIGHT_DECAY, MAXIMIZE),
    dialects={
        "torch": Dialect(
            {"learning_rate": 1.0, "rho": 0.9, "epsilon": 1e-6, "weight_decay": 0.0, "maximize": False},
            _choose,
            _scalars,
            decay="coupled",
            counter="parameter",
            differs="A learning rate of 1, which is the paper's method; ρ = 0.9.",
        ),
        "optax": Dialect(
            {"learning_rate": REQUIRED, "rho": 0.9, "epsilon": 1e-6, "weight_decay": 0.0},
            _choose,
            _scalars,
            decay="coupled",
            differs="As torch; the learning rate must be given.",
            known_bugs=("With its default learning_rate=None, optax.adadelta climbs: the sign is in the rate.",),
        ),
        "keras": Dialect(
            {"learning_rate": 1e-3, "rho": 0.95, "epsilon": 1e-7, "weight_decay": 0.0},
            _choose,
            _scalars,
            decay="decoupled",
            differs="The default rate of 0.001 makes the paper's steps a thousand times shorter.",
        ),
        "paper": Dialect(
            {"rho": 0.95, "epsilon": 1e-6},
            _choose,
            _scalars,
            differs="No learning rate.",
        ),
    },
)

ALGORITHMS = (ADADELTA,)
