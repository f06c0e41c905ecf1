"""Adan: Adam with a running mean of the gradient's changes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.rule import (
    EPSILON,
    EPSILON_ROOT,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Algorithm,
    Dialect,
    Rule,
    Values,
    divide,
    sqrt,
)


class Scalars(NamedTuple):
    """Scalars of `adan`; `seen` is 0 in the first step, which has no gradient before it."""

    seen: float
    keep1: float
    take1: float
    keep2: float
    take2: float
    keep3: float
    take3: float
    lookahead: float
    mean_share: float
    change_share: float
    bias_correction3: float
    epsilon_root: float
    epsilon: float
    shrink: float
    one: float
    zero: float


def adan(p: Any, g: Any, m: Any, v: Any, n: Any, previous: Any, c: Scalars) -> Any:
    """m, v, n: means of g, of its change, and of the square of where the two lead (Xie et al. 2022, Algorithm 1)."""
    change = c.seen * (g - previous)
    m = c.take1 * g + c.keep1 * m
    v = c.take2 * change + c.keep2 * v
    ahead = g + c.lookahead * change
    n = c.take3 * (ahead * ahead) + c.keep3 * n
    step = c.mean_share * m + c.change_share * v
    moved = p - divide(step, sqrt(n / c.bias_correction3 + c.epsilon_root) + c.epsilon, c.zero)
    return moved * c.shrink, m, v, n, c.one * g


_RULE = Rule(adan, ("first_moment", "mean_change", "second_moment", "previous_gradient"))


def _choose(values: Values) -> Rule:
    return _RULE


def _scalars(values: Values, t: int, keep: Sequence[float], ahead: float, correct: Sequence[float]) -> Scalars:
    """`keep` is what the means keep of their past, `ahead` how far the step looks, `correct` their bias corrections."""
    rate = values["learning_rate"]
    return Scalars(
        0.0 if t == 1 else 1.0,
        keep[0],
        1.0 - keep[0],
        keep[1],
        1.0 - keep[1],
        keep[2],
        1.0 - keep[2],
        ahead,
        rate / correct[0],
        rate * ahead / correct[1],
        correct[2],
        values.get("epsilon_root", 0.0),
        values["epsilon"],
        1.0 / (1.0 + rate * values.get("proximal_weight_decay", 0.0)),
        1.0,
        0.0,
    )


_BETAS = ("beta1", "beta2", "beta3")


def _optax(values: Values, t: int) -> Scalars:
    keep = [values[name] for name in _BETAS]
    return _scalars(values, t, keep, 1.0 - keep[1], [1.0 - beta**t for beta in keep])


def _paper(values: Values, t: int) -> Scalars:
    """Uncorrected: in the first step the means are the gradient, no change, and its square."""
    keep = [0.0 if t == 1 else 1.0 - values[name] for name in _BETAS]
    return _scalars(values, t, keep, 1.0 - values["beta2"], (1.0, 1.0, 1.0))


def _beta(i: int, what: str) -> Hyperparameter:
    meaning = f"Rate of the running mean of {what}: the past's share in optax, the newest one's in the paper."
    return Hyperparameter(f"beta{i}", meaning, low=0.0, below=1.0)


ADAN = Algorithm(
    name="adan",
    title="Adan",
    summary="Adam with Nesterov's momentum from the gradient's changes, so that no second gradient is needed.",
    equation=r"\theta_t = \theta_{t-1} - \frac{\alpha}{\sqrt{n_t} + \epsilon} (m_t + (1-\beta_2) v_t), \qquad v_t = "
    r"(1-\beta_2) v_{t-1} + \beta_2 (g_t - g_{t-1})",
    source="X. Xie, P. Zhou, H. Li, Z. Lin and S. Yan, Adan: Adaptive Nesterov Momentum Algorithm for Faster "
    "Optimizing Deep Models, arXiv:2208.06677.",
    when="Large batches and large rates, on vision models above all. It keeps twice Adam's state, and noisy changes of "
    "small batches blur its momentum.",
    hyperparameters=(
        LEARNING_RATE,
        _beta(1, "gradients"),
        _beta(2, "the gradient's changes"),
        _beta(3, "squares"),
        EPSILON,
        EPSILON_ROOT,
        WEIGHT_DECAY,
        Hyperparameter("proximal_weight_decay", "λ: after the step the parameters are divided by 1 + α λ.", low=0.0),
    ),
    dialects={
        "optax": Dialect(
            {
                "learning_rate": REQUIRED,
                "beta1": 0.98,
                "beta2": 0.92,
                "beta3": 0.99,
                "epsilon": 1e-8,
                "epsilon_root": 1e-8,
                "weight_decay": 0.0,
            },
            _choose,
            _optax,
            decay="decoupled",
            differs="Its β are 1 - β of the paper; bias-corrected; a second ε inside the root; AdamW's weight decay.",
        ),
        "paper": Dialect(
            {
                "learning_rate": 1e-3,
                "beta1": 0.02,
                "beta2": 0.08,
                "beta3": 0.01,
                "epsilon": 1e-8,
                "proximal_weight_decay": 0.0,
            },
            _choose,
            _paper,
            differs="Algorithm 1 without restarts: the means start at the first gradient and its square and are not "
            "corrected; the decay is proximal.",
        ),
    },
    default_dialect="paper",
)

ALGORITHMS = (ADAN,)
