"""LAMB: Adam's step of each tensor, made as long as a share of the tensor itself."""

from __future__ import annotations

from typing import Any, NamedTuple

from service.errors import Invalid
from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.rule import (
    BETA1,
    BETA2,
    EPSILON,
    EPSILON_ROOT,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Algorithm,
    Dialect,
    Rule,
    Values,
    divide,
    norm,
    sqrt,
)
from service.optim.rules.adam import BETAS


class Scalars(NamedTuple):
    """Scalars of `lamb`; `lowest` and `highest` are the bounds of φ."""

    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    bias_correction1: float
    bias_correction2: float
    learning_rate: float
    epsilon_root: float
    epsilon: float
    weight_decay: float
    lowest: float
    highest: float


def lamb(p: Any, g: Any, m: Any, v: Any, c: Scalars) -> Any:
    """r = m̂ / (√v̂ + ε) + λ p;  p ← p - α φ(‖p‖) / ‖r‖ r; α r where a norm is zero (You et al. 2020, Algorithm 2)."""
    m = m + c.one_minus_beta1 * (g - m)
    v = c.beta2 * v + c.one_minus_beta2 * (g * g)
    r = divide(m / c.bias_correction1, sqrt(v / c.bias_correction2 + c.epsilon_root) + c.epsilon, 0.0)
    if c.weight_decay != 0.0:
        r = r + c.weight_decay * p
    size, length = min(max(norm(p), c.lowest), c.highest), norm(r)
    ratio = size / length if size > 0.0 and length > 0.0 else 1.0
    return p - (c.learning_rate * ratio) * r, m, v


_RULE = Rule(lamb, ("first_moment", "second_moment"), span="tensor")


def _choose(values: Values) -> Rule:
    return _RULE


def _scalars(values: Values, t: int) -> Scalars:
    highest = values.get("largest_norm")
    return Scalars(
        1.0 - values["beta1"],
        values["beta2"],
        1.0 - values["beta2"],
        1.0 - values["beta1"] ** t,
        1.0 - values["beta2"] ** t,
        values["learning_rate"],
        values.get("epsilon_root", 0.0),
        values["epsilon"],
        values["weight_decay"],
        values.get("smallest_norm", 0.0),
        float("inf") if highest is None else highest,
    )


def _keras(values: Values, t: int) -> Scalars:
    return _scalars({**values, "weight_decay": 0.0}, t)  # it has acted before


def _ordered(values: Values) -> None:
    lowest, highest = values["smallest_norm"], values["largest_norm"]
    if isinstance(lowest, float) and isinstance(highest, float) and lowest > highest:
        raise Invalid("smallest_norm must not be above largest_norm.", pointer="/smallest_norm")


LAMB = Algorithm(
    name="lamb",
    title="LAMB",
    summary="Adam's direction for each tensor, with a step as long as the tensor's norm times the learning rate.",
    equation=r"r_t = \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon} + \lambda \theta_{t-1}, \qquad "
    r"\theta_t = \theta_{t-1} - \alpha\, \frac{\phi(\Vert \theta_{t-1} \Vert)}{\Vert r_t \Vert}\, r_t",
    source="Y. You et al., Large Batch Optimization for Deep Learning: Training BERT in 76 minutes, ICLR 2020, "
    "Algorithm 2, arXiv:1904.00962.",
    when="Very large batches, where one learning rate does not suit all layers. With small batches it gives nothing "
    "over AdamW, and a tensor that starts at zero takes plain Adam steps until it has a norm.",
    hyperparameters=(
        LEARNING_RATE,
        BETA1,
        BETA2,
        EPSILON,
        EPSILON_ROOT,
        WEIGHT_DECAY,
        Hyperparameter("smallest_norm", "The tensor's norm counts as at least this, φ's γ_l.", low=0.0),
        Hyperparameter(
            "largest_norm", "The tensor's norm counts as at most this, φ's γ_u.", above=0.0, null="No upper bound."
        ),
    ),
    dialects={
        "optax": Dialect(
            {"learning_rate": REQUIRED, **BETAS, "epsilon": 1e-6, "epsilon_root": 0.0, "weight_decay": 0.0},
            _choose,
            _scalars,
            decay="own",
            differs="The paper with φ(z) = z: the decay is part of r, so that the ratio scales it too.",
        ),
        "keras": Dialect(
            {"learning_rate": 1e-3, **BETAS, "epsilon": 1e-7, "weight_decay": 0.0},
            _choose,
            _keras,
            decay="decoupled",
            differs="The decay acts on the parameters before the step and outside the ratio, which is taken of the "
            "decayed parameters; ε = 1e-7.",
        ),
        "paper": Dialect(
            {
                "learning_rate": 1e-3,
                **BETAS,
                "epsilon": 1e-6,
                "weight_decay": 0.01,
                "smallest_norm": 0.0,
                "largest_norm": None,
            },
            _choose,
            _scalars,
            decay="own",
            check=_ordered,
            differs="As optax, with the bounds of φ as options; decay 0.01.",
        ),
    },
    kind="layerwise",
    default_dialect="paper",
)

ALGORITHMS = (LAMB,)
