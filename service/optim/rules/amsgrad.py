"""AMSGrad under its own name; `amsgrad` is also an option of Adam and AdamW."""

from __future__ import annotations

from service.optim.hyperparameters import REQUIRED
from service.optim.rule import (
    BETA1,
    BETA2,
    BIAS_CORRECTION,
    EPSILON,
    EPSILON_ROOT,
    LEARNING_RATE,
    MAXIMIZE,
    WEIGHT_DECAY,
    Algorithm,
    Dialect,
    Rule,
    Values,
)
from service.optim.rules.adam import (
    AMSGRAD_RULE,
    BETAS,
    CORRECT_FIRST,
    CORRECT_SECOND,
    DECOUPLED,
    TORCH,
    Scalars,
    algorithm_1,
    corrected_maximum,
    epsilon_hat,
    one_decay,
)


def _choose(values: Values) -> Rule:
    return AMSGRAD_RULE


def _paper(values: Values, t: int) -> Scalars:
    return algorithm_1({**values, "epsilon": 0.0, "bias_correction": False}, t)


AMSGRAD = Algorithm(
    name="amsgrad",
    title="AMSGrad",
    summary="Adam with the largest second moment so far in the denominator, so that no step size ever grows.",
    equation=r"\hat v_t = \max(\hat v_{t-1}, v_t), \qquad \theta_t = \theta_{t-1} - \frac{\alpha}{\sqrt{\hat v_t}}\, "
    r"m_t",
    source="S. J. Reddi, S. Kale and S. Kumar, On the Convergence of Adam and Beyond, ICLR 2018, arXiv:1904.09237, "
    "Algorithm 2.",
    when="Where Adam fails to converge because rare large gradients are forgotten too soon. In practice it seldom "
    "beats Adam, and one huge gradient slows it for ever.",
    hyperparameters=(
        LEARNING_RATE,
        BETA1,
        BETA2,
        EPSILON,
        EPSILON_ROOT,
        BIAS_CORRECTION,
        CORRECT_FIRST,
        CORRECT_SECOND,
        WEIGHT_DECAY,
        DECOUPLED,
        MAXIMIZE,
    ),
    dialects={
        "torch": Dialect(
            {
                **TORCH,
                "bias_correction": True,
                "weight_decay": 0.0,
                "decoupled_weight_decay": False,
                "maximize": False,
            },
            _choose,
            algorithm_1,
            decay="coupled",
            counter="parameter",
            check=one_decay,
            differs="torch.optim.Adam with amsgrad: the maximum is that of the uncorrected second moment, and the "
            "correction comes after it.",
        ),
        "optax": Dialect(
            {
                "learning_rate": REQUIRED,
                **BETAS,
                "epsilon": 1e-8,
                "epsilon_root": 0.0,
                "correct_first_moment": True,
                "correct_second_moment": True,
            },
            _choose,
            corrected_maximum,
            differs="The maximum is that of the corrected second moment, which is largest early: it differs from "
            "torch's from the second step on.",
        ),
        "keras": Dialect(
            {"learning_rate": 1e-3, **BETAS, "epsilon": 1e-7, "bias_correction": True, "weight_decay": 0.0},
            _choose,
            epsilon_hat,
            decay="decoupled",
            differs="keras.optimizers.Adam with amsgrad: as torch, but ε is not divided by √(1 - β₂ᵗ); ε = 1e-7; "
            "weight decay is decoupled.",
        ),
        "paper": Dialect(
            {"learning_rate": 1e-3, **BETAS},
            _choose,
            _paper,
            differs="No bias correction and no ε, so that the first steps are longer than the libraries'.",
        ),
    },
)

ALGORITHMS = (AMSGRAD,)
