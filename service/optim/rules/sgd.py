"""Gradient descent, the heavy ball and Nesterov's form of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.rule import (
    LEARNING_RATE,
    MAXIMIZE,
    MOMENTUM,
    NESTEROV,
    WEIGHT_DECAY,
    Algorithm,
    Dialect,
    Rule,
    Values,
    nesterov_needs_momentum,
)


class Scalars(NamedTuple):
    """Scalars of all three forms.

    With the learning rate in `outflow` a change of it rescales the past (torch, optax); with it in `inflow` the past
    keeps the rate it was made with (Keras, Sutskever et al., Deep Learning from Scratch).
    """

    learning_rate: float
    momentum: float
    inflow: float
    outflow: float


def sgd(p: Any, g: Any, c: Scalars) -> Any:
    """p ← p - α g."""
    return (p - c.learning_rate * g,)


def heavy_ball(p: Any, g: Any, b: Any, c: Scalars) -> Any:
    """b ← μ b + g;  p ← p - α b (Polyak 1964)."""
    b = c.momentum * b + c.inflow * g
    return p - c.outflow * b, b


def nesterov(p: Any, g: Any, b: Any, c: Scalars) -> Any:
    """b ← μ b + g;  p ← p - α (μ b + g): the form with the gradient at the current point (Bengio et al. 2012)."""
    b = c.momentum * b + c.inflow * g
    return p - c.outflow * (c.momentum * b + c.inflow * g), b


_SGD = Rule(sgd)
_HEAVY_BALL = Rule(heavy_ball, ("momentum_buffer",))
_NESTEROV = Rule(nesterov, ("momentum_buffer",))
_SPARSE = {rule: replace(rule, sparse="zero") for rule in (_SGD, _HEAVY_BALL, _NESTEROV)}


def _choose(values: Values) -> Rule:
    if values["momentum"] == 0.0:
        return _SGD
    return _NESTEROV if values["nesterov"] else _HEAVY_BALL


def _choose_torch(values: Values) -> Rule:
    return _SPARSE[_choose(values)]


def _rate_outside(values: Values, t: int) -> Scalars:
    # torch copies the first gradient into the buffer undamped
    inflow = 1.0 if t == 1 else 1.0 - values.get("dampening", 0.0)
    return Scalars(values["learning_rate"], values["momentum"], inflow, values["learning_rate"])


def _rate_inside(values: Values, t: int) -> Scalars:
    return Scalars(values["learning_rate"], values["momentum"], -values["learning_rate"], -1.0)


DAMPENING = Hyperparameter("dampening", "Share of each new gradient that does not enter the buffer.", high=1.0)
_HYPERPARAMETERS = (LEARNING_RATE, MOMENTUM, DAMPENING, NESTEROV, WEIGHT_DECAY, MAXIMIZE)


def _dialects(momentum: float, nesterov: bool) -> dict[str, Dialect]:
    shape = {"momentum": momentum, "nesterov": nesterov}
    return {
        "torch": Dialect(
            {"learning_rate": 1e-3, "dampening": 0.0, "weight_decay": 0.0, "maximize": False, **shape},
            _choose_torch,
            _rate_outside,
            decay="coupled",
            counter="parameter",
            check=nesterov_needs_momentum,
            differs="The learning rate scales the buffer, so that changing it rescales the past; weight decay is "
            "added to the gradient; dampening spares the first step. Sparse gradients are taken, but not with weight "
            "decay.",
        ),
        "optax": Dialect(
            {"learning_rate": REQUIRED, **shape},
            _choose,
            _rate_outside,
            differs="As torch, without dampening and weight decay; nesterov without momentum is plain descent.",
        ),
        "keras": Dialect(
            {"learning_rate": 0.01, "weight_decay": 0.0, **shape},
            _choose,
            _rate_inside,
            decay="decoupled",
            differs="The learning rate is inside the velocity: after a change the past keeps its old rate. The buffer "
            "has the opposite sign of torch's and is α times as large. nesterov without momentum is plain descent.",
        ),
        "paper": Dialect(
            {"learning_rate": REQUIRED, **shape},
            _choose,
            _rate_inside,
            check=nesterov_needs_momentum,
            differs="Sutskever et al. 2013: v ← μ v - α g, p ← p + v; Nesterov's form is written for the looked-ahead "
            "point, so that the gradient is taken at the parameters themselves.",
        ),
        "scratch": Dialect(
            {"learning_rate": 0.01, **shape},
            _choose,
            _rate_inside,
            check=nesterov_needs_momentum,
            differs="v ← μ v - η g, p ← p + v, as in Deep Learning from Scratch.",
        ),
    }


SGD = Algorithm(
    name="sgd",
    title="Gradient descent (SGD)",
    summary="A step against the gradient, with momentum and Nesterov's form on request.",
    equation=r"b_t = \mu b_{t-1} + g_t, \qquad \theta_t = \theta_{t-1} - \alpha\, b_t",
    source="H. Robbins and S. Monro, A Stochastic Approximation Method, Ann. Math. Statist. 22 (1951), "
    "doi:10.1214/aoms/1177729586; B. T. Polyak (1964), doi:10.1016/0041-5553(64)90137-5.",
    when="The baseline, and often the best in the end with a tuned rate and schedule. Poor where curvatures differ "
    "much between directions.",
    hyperparameters=_HYPERPARAMETERS,
    dialects=_dialects(0.0, False),
)

MOMENTUM_SGD = Algorithm(
    name="momentum",
    title="Momentum (heavy ball)",
    summary="Gradient descent that keeps most of its last step.",
    equation=r"v_t = \mu v_{t-1} - \alpha g_t, \qquad \theta_t = \theta_{t-1} + v_t",
    source="B. T. Polyak, Some methods of speeding up the convergence of iteration methods, USSR Comput. Math. Math. "
    "Phys. 4 (1964), doi:10.1016/0041-5553(64)90137-5.",
    when="Long valleys and noisy gradients. Overshoots where the rate or the momentum is large for the curvature.",
    hyperparameters=_HYPERPARAMETERS,
    dialects=_dialects(0.9, False),
)

NESTEROV_SGD = Algorithm(
    name="nesterov",
    title="Nesterov's accelerated gradient",
    summary="Momentum whose gradient is taken where the momentum leads.",
    equation=r"v_t = \mu v_{t-1} - \alpha \nabla f(\theta_{t-1} + \mu v_{t-1}), \qquad \theta_t = \theta_{t-1} + v_t",
    source="Y. Nesterov, A method of solving a convex programming problem with convergence rate O(1/k²), Soviet Math. "
    "Dokl. 27 (1983); I. Sutskever et al., On the importance of initialization and momentum, ICML 2013.",
    when="Smooth problems where momentum swings too far. Gains little when gradients are noisy.",
    hyperparameters=_HYPERPARAMETERS,
    dialects=_dialects(0.9, True),
)

ALGORITHMS = (SGD, MOMENTUM_SGD, NESTEROV_SGD)
