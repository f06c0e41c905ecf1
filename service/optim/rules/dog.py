"""DoG, its form by layers and DoWG: gradient descent whose step is the distance moved over the gradients met."""

from __future__ import annotations

from math import sqrt as root
from typing import Any, NamedTuple

from service.optim.hyperparameters import Hyperparameter
from service.optim.rule import (
    EPSILON,
    LEARNING_RATE,
    PARAMETERS,
    WEIGHT_DECAY,
    Algorithm,
    Dialect,
    Rule,
    Values,
    dot,
    norm,
)


class Scalars(NamedTuple):
    """Scalars of all three; `first` is the rate of this step where it is given, else a negative number."""

    learning_rate: float
    epsilon: float
    first: float


def dog(p: Any, g: Any, origin: Any, farthest: Any, seen: Any, c: Scalars) -> Any:
    """p ← p - α max ‖pᵢ - p₀‖ / √(Σ ‖gᵢ‖² + ε) g (Ivgi, Hinder and Carmon 2023)."""
    farthest = max(float(farthest[()]), norm(origin - p))
    seen = float(seen[()]) + dot(g, g)
    rate = c.first if c.first >= 0.0 else _ratio(farthest, root(seen + c.epsilon))
    return p - (c.learning_rate * rate) * g, origin, farthest, seen


def dowg(p: Any, g: Any, origin: Any, farthest: Any, seen: Any, c: Scalars) -> Any:
    """p ← p - α r² / (√(Σ rᵢ² ‖gᵢ‖²) + ε) g, r² the largest squared distance so far (Khaled et al. 2023)."""
    apart = origin - p
    farthest = max(float(farthest[()]), dot(apart, apart))
    seen = farthest * dot(g, g) + float(seen[()])
    rate = _ratio(farthest, root(seen) + c.epsilon)
    return p - (c.learning_rate * rate) * g, origin, farthest, seen


def _ratio(x: float, y: float) -> float:
    """x / y, and 0 where nothing was met yet."""
    return x / y if y else 0.0


def _reach(p: Any, values: Values) -> float:
    """Where the largest distance starts."""
    kind, value = values.get("first_step_is", "heuristic"), float(values["first_step"])
    if kind == "heuristic":
        return value * (1.0 + norm(p))
    return value if kind == "distance" else 0.0


_SLOTS = ("first_parameters", "largest_distance", "squared_gradients")
_DOG = Rule(
    dog,
    _SLOTS,
    {"first_parameters": PARAMETERS, "largest_distance": _reach},
    span="all",
    shapes={"largest_distance": (), "squared_gradients": ()},
)
_LAYERWISE = Rule(
    dog,
    _SLOTS,
    {"first_parameters": PARAMETERS, "largest_distance": _reach},
    span="tensor",
    shapes={"largest_distance": lambda shape: (), "squared_gradients": lambda shape: ()},
)
_DOWG = Rule(
    dowg,
    ("first_parameters", "largest_squared_distance", "weighted_squared_gradients"),
    {
        "first_parameters": PARAMETERS,
        "largest_squared_distance": lambda p, values: values["squared_distance"] or values["epsilon"],
    },
    span="all",
    shapes={"largest_squared_distance": (), "weighted_squared_gradients": ()},
)


def _scalars(values: Values, t: int) -> Scalars:
    given = t == 1 and values.get("first_step_is") == "learning_rate"
    return Scalars(values["learning_rate"], values["epsilon"], values["first_step"] if given else -1.0)


def _dowg_scalars(values: Values, t: int) -> Scalars:
    return Scalars(values["learning_rate"], values["epsilon"], -1.0)


def _optax_layerwise(values: Values, t: int) -> Scalars:
    return Scalars(-values["global_scale"], values["epsilon"], -1.0)


_FIRST_STEP = Hyperparameter(
    "first_step",
    "r₀, so that the first step is not zero: small, for only too large does harm.",
    low=0.0,
    schedulable=False,
)
_AVERAGE = "The authors evaluate an average of the parameters, not the last ones."

DOG = Algorithm(
    name="dog",
    title="DoG",
    summary="Gradient descent with the largest distance from the start over the root of all squared gradients.",
    equation=r"\theta_{t+1} = \theta_t - \frac{\max_{i \leq t} \|\theta_i - \theta_0\|}"
    r"{\sqrt{\sum_{i \leq t} \|g_i\|^2 + \epsilon}}\, g_t",
    source="M. Ivgi, O. Hinder and Y. Carmon, DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule, "
    "ICML 2023, arXiv:2302.12022.",
    when=f"Fine-tuning with SGD where no rate is to be searched for. {_AVERAGE}",
    hyperparameters=(
        LEARNING_RATE,
        Hyperparameter(
            "first_step_is",
            "What first_step says: r₀ over 1 + ‖θ₀‖ (heuristic), r₀ itself (distance), or the first learning rate.",
            "choice",
            choices=("heuristic", "distance", "learning_rate"),
        ),
        _FIRST_STEP,
        EPSILON,
        WEIGHT_DECAY,
    ),
    dialects={
        "optax": Dialect(
            {
                "learning_rate": 1.0,
                "first_step_is": "heuristic",
                "first_step": 1e-6,
                "epsilon": 1e-8,
                "weight_decay": 0.0,
            },
            lambda values: _DOG,
            _scalars,
            decay="coupled",
            differs="As the authors' code. Weight decay is added to the gradient, and so is measured too.",
        ),
    },
    kind="global",
    default_dialect="optax",
)

LDOG = Algorithm(
    name="ldog",
    title="L-DoG (by layers)",
    summary="DoG with a step size for each tensor, from that tensor's own distance and gradients.",
    equation=r"\theta_{t+1} = \theta_t - \frac{\max_{i \leq t} \|\theta_i - \theta_0\|}"
    r"{\sqrt{\sum_{i \leq t} \|g_i\|^2 + \epsilon}}\, g_t",
    source="M. Ivgi, O. Hinder and Y. Carmon, DoG is SGD's Best Friend: A Parameter-Free Dynamic Step Size Schedule, "
    "ICML 2023, arXiv:2302.12022.",
    when=f"As DoG, where layers differ much in size; often faster, and less stable. {_AVERAGE}",
    hyperparameters=(
        LEARNING_RATE,
        Hyperparameter("global_scale", "Factor of each step, with optax's sign: -1 descends."),
        _FIRST_STEP,
        EPSILON,
        WEIGHT_DECAY,
    ),
    dialects={
        "optax": Dialect(
            {"global_scale": -1.0, "first_step": 1e-6, "epsilon": 1e-8},
            lambda values: _LAYERWISE,
            _optax_layerwise,
            differs="A transform in optax, with the sign as an argument; its default there is 1, which climbs. optax "
            "keeps the first parameters in float32 unless param_dtype says otherwise.",
        ),
        "paper": Dialect(
            {"learning_rate": 1.0, "first_step": 1e-6, "epsilon": 1e-8, "weight_decay": 0.0},
            lambda values: _LAYERWISE,
            _scalars,
            decay="coupled",
            differs="The authors' code, with weight decay added to the gradient.",
        ),
    },
    kind="layerwise",
    default_dialect="paper",
)

DOWG = Algorithm(
    name="dowg",
    title="DoWG",
    summary="DoG with each squared gradient weighted by the squared distance at its time.",
    equation=r"\theta_{t+1} = \theta_t - \frac{\bar r_t^2}{\sqrt{\sum_{i \leq t} \bar r_i^2 \|g_i\|^2} + \epsilon}"
    r"\, g_t, \qquad \bar r_t = \max_{i \leq t} \|\theta_i - \theta_0\|",
    source="A. Khaled, K. Mishchenko and C. Jin, DoWG Unleashed: An Efficient Universal Parameter-Free Gradient "
    "Descent Method, NeurIPS 2023, arXiv:2305.16284.",
    when="Full-batch and other gradients of little noise, where it leaves the start faster than DoG. With much noise "
    "DoG is the safer one.",
    hyperparameters=(
        LEARNING_RATE,
        Hyperparameter(
            "squared_distance",
            "First guess of the squared distance, r₀²; 0 takes ε for it.",
            low=0.0,
            schedulable=False,
        ),
        EPSILON,
        WEIGHT_DECAY,
    ),
    dialects={
        "optax": Dialect(
            {"learning_rate": 1.0, "squared_distance": 0.0, "epsilon": 1e-4, "weight_decay": 0.0},
            lambda values: _DOWG,
            _dowg_scalars,
            decay="coupled",
            differs="As the authors' code. Weight decay is added to the gradient, and so is measured too.",
        ),
    },
    kind="global",
    default_dialect="optax",
)

ALGORITHMS = (DOG, LDOG, DOWG)
