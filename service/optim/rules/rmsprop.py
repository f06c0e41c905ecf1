"""RMSprop: AdaGrad that forgets; centred and with momentum on request."""

from __future__ import annotations

from typing import Any, NamedTuple

from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.rule import (
    EPSILON,
    LEARNING_RATE,
    MAXIMIZE,
    MOMENTUM,
    NESTEROV,
    WEIGHT_DECAY,
    Algorithm,
    Dialect,
    Rule,
    Values,
    divide,
    maximum,
    sqrt,
)
from service.optim.rules.adagrad import INITIAL_ACCUMULATOR


class Scalars(NamedTuple):
    """Scalars of all forms; `inflow` and `outflow` as in the heavy ball, `bias_correction` is 1 where there is none."""

    rho: float
    one_minus_rho: float
    bias_correction: float
    epsilon_inside: float
    epsilon_outside: float
    momentum: float
    inflow: float
    outflow: float
    zero: float


def root_mean_square(v: Any, c: Scalars) -> Any:
    """√(v + ε) + ε', the one or the other ε being zero."""
    return sqrt(v / c.bias_correction + c.epsilon_inside) + c.epsilon_outside


def deviation(v: Any, a: Any, c: Scalars) -> Any:
    """As `root_mean_square`, of the variance v - a²; rounding may leave that below zero, where torch has NaN."""
    a = a / c.bias_correction
    return sqrt(maximum(v / c.bias_correction - a * a, c.zero) + c.epsilon_inside) + c.epsilon_outside


def rmsprop(p: Any, g: Any, v: Any, c: Scalars) -> Any:
    """v ← ρ v + (1 - ρ) g²;  p ← p - α g / √v (Tieleman and Hinton 2012)."""
    v = c.rho * v + c.one_minus_rho * (g * g)
    return p - c.outflow * divide(c.inflow * g, root_mean_square(v, c), c.zero), v


def rmsprop_momentum(p: Any, g: Any, v: Any, b: Any, c: Scalars) -> Any:
    """RMSprop whose normalised gradient feeds a heavy ball."""
    v = c.rho * v + c.one_minus_rho * (g * g)
    b = c.momentum * b + divide(c.inflow * g, root_mean_square(v, c), c.zero)
    return p - c.outflow * b, v, b


def rmsprop_nesterov(p: Any, g: Any, v: Any, b: Any, c: Scalars) -> Any:
    """RMSprop whose normalised gradient feeds Nesterov's form."""
    v = c.rho * v + c.one_minus_rho * (g * g)
    d = divide(c.inflow * g, root_mean_square(v, c), c.zero)
    b = c.momentum * b + d
    return p - c.outflow * (c.momentum * b + d), v, b


def centered(p: Any, g: Any, v: Any, a: Any, c: Scalars) -> Any:
    """RMSprop normalised by the running standard deviation (Graves 2013, eq. 38-45)."""
    v = c.rho * v + c.one_minus_rho * (g * g)
    a = c.rho * a + c.one_minus_rho * g
    return p - c.outflow * divide(c.inflow * g, deviation(v, a, c), c.zero), v, a


def centered_momentum(p: Any, g: Any, v: Any, a: Any, b: Any, c: Scalars) -> Any:
    """The centred form feeding a heavy ball."""
    v = c.rho * v + c.one_minus_rho * (g * g)
    a = c.rho * a + c.one_minus_rho * g
    b = c.momentum * b + divide(c.inflow * g, deviation(v, a, c), c.zero)
    return p - c.outflow * b, v, a, b


def centered_nesterov(p: Any, g: Any, v: Any, a: Any, b: Any, c: Scalars) -> Any:
    """The centred form feeding Nesterov's."""
    v = c.rho * v + c.one_minus_rho * (g * g)
    a = c.rho * a + c.one_minus_rho * g
    d = divide(c.inflow * g, deviation(v, a, c), c.zero)
    b = c.momentum * b + d
    return p - c.outflow * (c.momentum * b + d), v, a, b


_INITIAL = {"square_average": "initial_accumulator_value"}
_SQUARE, _MEAN, _BUFFER = "square_average", "gradient_average", "momentum_buffer"
_RULES = {
    (False, "none"): Rule(rmsprop, (_SQUARE,), _INITIAL),
    (False, "ball"): Rule(rmsprop_momentum, (_SQUARE, _BUFFER), _INITIAL),
    (False, "nesterov"): Rule(rmsprop_nesterov, (_SQUARE, _BUFFER), _INITIAL),
    (True, "none"): Rule(centered, (_SQUARE, _MEAN), _INITIAL),
    (True, "ball"): Rule(centered_momentum, (_SQUARE, _MEAN, _BUFFER), _INITIAL),
    (True, "nesterov"): Rule(centered_nesterov, (_SQUARE, _MEAN, _BUFFER), _INITIAL),
}


def _choose(values: Values) -> Rule:
    form = "none" if values.get("momentum", 0.0) == 0.0 else "nesterov" if values.get("nesterov") else "ball"
    return _RULES[bool(values.get("centered")), form]


def _scalars(values: Values, t: int, *, inside: bool, rate_inside: bool) -> Scalars:
    rho, epsilon, rate = values["rho"], values["epsilon"], values["learning_rate"]
    return Scalars(
        rho,
        1.0 - rho,
        1.0 - rho**t if values.get("bias_correction") else 1.0,
        epsilon if inside else 0.0,
        0.0 if inside else epsilon,
        values.get("momentum", 0.0),
        rate if rate_inside else 1.0,
        1.0 if rate_inside else rate,
        0.0,
    )


def _torch(values: Values, t: int) -> Scalars:
    return _scalars(values, t, inside=False, rate_inside=False)


def _optax(values: Values, t: int) -> Scalars:
    return _scalars(values, t, inside=values["epsilon_inside_root"], rate_inside=True)


def _keras(values: Values, t: int) -> Scalars:
    return _scalars(values, t, inside=True, rate_inside=True)


RHO = Hyperparameter("rho", "Decay rate ρ of the running mean of squares.", low=0.0, below=1.0)

RMSPROP = Algorithm(
    name="rmsprop",
    title="RMSprop",
    summary="Divides each coordinate's step by the root of a running mean of its squared gradients.",
    equation=r"v_t = \rho v_{t-1} + (1-\rho) g_t^2, \qquad \theta_t = \theta_{t-1} - \frac{\alpha}{\sqrt{v_t} + "
    r"\epsilon}\, g_t",
    source="T. Tieleman and G. Hinton, Lecture 6.5, Neural Networks for Machine Learning, 2012; centred with momentum: "
    "A. Graves, Generating Sequences With Recurrent Neural Networks, arXiv:1308.0850.",
    when="Recurrent networks and reinforcement learning, where gradients change scale. Settings of ε do not carry over "
    "between libraries: inside and outside the root are different optimizers.",
    hyperparameters=(
        LEARNING_RATE,
        RHO,
        EPSILON,
        Hyperparameter("epsilon_inside_root", "Add ε inside the square root, as TensorFlow does.", "boolean"),
        INITIAL_ACCUMULATOR,
        MOMENTUM,
        NESTEROV,
        Hyperparameter("centered", "Normalise by the standard deviation instead of the root mean square.", "boolean"),
        Hyperparameter("bias_correction", "Divide the running means by 1 - ρᵗ.", "boolean"),
        WEIGHT_DECAY,
        MAXIMIZE,
    ),
    dialects={
        "torch": Dialect(
            {
                "learning_rate": 1e-2,
                "rho": 0.99,
                "epsilon": 1e-8,
                "weight_decay": 0.0,
                "momentum": 0.0,
                "centered": False,
                "maximize": False,
            },
            _choose,
            _torch,
            decay="coupled",
            counter="parameter",
            differs="ε outside the root; the learning rate scales the momentum buffer.",
            known_bugs=(
                "Centred, torch takes the root of v - a², which rounding can leave below zero: it then has NaN for "
                "ever. Here the variance is held at zero.",
            ),
        ),
        "optax": Dialect(
            {
                "learning_rate": REQUIRED,
                "rho": 0.9,
                "epsilon": 1e-8,
                "initial_accumulator_value": 0.0,
                "epsilon_inside_root": True,
                "centered": False,
                "momentum": 0.0,
                "nesterov": False,
                "bias_correction": False,
            },
            _choose,
            _optax,
            differs="ε inside the root unless told otherwise; the learning rate is inside the momentum buffer; "
            "nesterov without momentum changes nothing.",
        ),
        "keras": Dialect(
            {
                "learning_rate": 1e-3,
                "rho": 0.9,
                "momentum": 0.0,
                "epsilon": 1e-7,
                "centered": False,
                "weight_decay": 0.0,
            },
            _choose,
            _keras,
            decay="decoupled",
            differs="ε inside the root, 1e-7; the learning rate is inside the momentum buffer.",
        ),
        "paper": Dialect(
            {"learning_rate": 1e-3, "rho": 0.9, "epsilon": 0.0},
            _choose,
            _torch,
            differs="The lecture has no ε: a coordinate whose gradients were all zero does not move.",
        ),
        "scratch": Dialect(
            {"learning_rate": 0.01, "rho": 0.99, "epsilon": 1e-7},
            _choose,
            _torch,
            differs="ε = 1e-7 outside the root, as in Deep Learning from Scratch.",
        ),
    },
)

ALGORITHMS = (RMSPROP,)
