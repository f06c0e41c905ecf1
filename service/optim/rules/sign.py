"""Rules that follow signs alone: SignSGD, Signum and Lion."""

from __future__ import annotations

from typing import Any, NamedTuple

from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.rule import LEARNING_RATE, WEIGHT_DECAY, Algorithm, Dialect, Rule, Values, sign


class SignScalars(NamedTuple):
    """Scalars of `sign_sgd`."""

    learning_rate: float
    one: float
    zero: float


class Scalars(NamedTuple):
    """Scalars of `lion`."""

    beta1: float
    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    learning_rate: float
    one: float
    zero: float


def sign_sgd(p: Any, g: Any, c: SignScalars) -> Any:
    """p ← p - α sign(g) (Bernstein et al. 2018)."""
    return (p - c.learning_rate * sign(g, c.one, c.zero),)


def lion(p: Any, g: Any, m: Any, c: Scalars) -> Any:
    """p ← p - α sign(β₁ m + (1 - β₁) g);  m ← β₂ m + (1 - β₂) g (Chen et al. 2023)."""
    direction = sign(c.one_minus_beta1 * g + c.beta1 * m, c.one, c.zero)
    return p - c.learning_rate * direction, c.one_minus_beta2 * g + c.beta2 * m


_SIGN_SGD = Rule(sign_sgd)
_LION = Rule(lion, ("first_moment",))


def _choose_sign_sgd(values: Values) -> Rule:
    return _SIGN_SGD


def _choose_lion(values: Values) -> Rule:
    return _LION


def _sign_sgd(values: Values, t: int) -> SignScalars:
    return SignScalars(values["learning_rate"], 1.0, 0.0)


def _lion(values: Values, t: int) -> Scalars:
    beta1, beta2 = values["beta1"], values["beta2"]
    return Scalars(beta1, 1.0 - beta1, beta2, 1.0 - beta2, values["learning_rate"], 1.0, 0.0)


def _signum(values: Values, t: int) -> Scalars:
    """Lion with one β for both: the sign is that of the new mean."""
    return _lion({**values, "beta1": values["beta"], "beta2": values["beta"]}, t)


_SIGN_SOURCE = (
    "J. Bernstein, Y.-X. Wang, K. Azizzadenesheli and A. Anandkumar, signSGD: Compressed Optimisation for Non-Convex "
    "Problems, ICML 2018, arXiv:1802.04434."
)

SIGN_SGD = Algorithm(
    name="sign_sgd",
    title="SignSGD",
    summary="A step of one size against the sign of each coordinate's gradient.",
    equation=r"\theta_t = \theta_{t-1} - \alpha\, \mathrm{sign}(g_t)",
    source=_SIGN_SOURCE,
    when="Where one bit per coordinate is all that can be sent. It never settles with a constant rate, and near zero "
    "a coordinate with noisy gradients wanders.",
    hyperparameters=(LEARNING_RATE,),
    dialects={
        "optax": Dialect(
            {"learning_rate": REQUIRED},
            _choose_sign_sgd,
            _sign_sgd,
            differs="sign(0) is 0; the learning rate must be given.",
        ),
        "paper": Dialect(
            {"learning_rate": 1e-3},
            _choose_sign_sgd,
            _sign_sgd,
            differs="The same; the default rate of 0.001 is not the paper's, which names none.",
        ),
    },
    default_dialect="paper",
)

SIGNUM = Algorithm(
    name="signum",
    title="Signum",
    summary="SignSGD of a running mean of the gradients.",
    equation=r"m_t = \beta m_{t-1} + (1-\beta) g_t, \qquad \theta_t = \theta_{t-1} - \alpha\, \mathrm{sign}(m_t)",
    source=_SIGN_SOURCE,
    when="As SignSGD, where gradients are too noisy for their sign to be trusted one by one. Lion is its successor.",
    hyperparameters=(
        LEARNING_RATE,
        Hyperparameter("beta", "Decay rate β of the running mean of gradients.", low=0.0, below=1.0),
    ),
    dialects={
        "optax": Dialect(
            {"learning_rate": REQUIRED, "beta": 0.9},
            _choose_lion,
            _signum,
            differs="The learning rate must be given.",
        ),
        "paper": Dialect(
            {"learning_rate": 1e-3, "beta": 0.9},
            _choose_lion,
            _signum,
            differs="The same; the default rate of 0.001 is not the paper's, which names none.",
        ),
    },
    default_dialect="paper",
)

_LION_BETAS = {"beta1": 0.9, "beta2": 0.99}

LION = Algorithm(
    name="lion",
    title="Lion",
    summary="The sign of a mean that leans on the newest gradient; one slot of state, half of Adam's.",
    equation=r"\theta_t = (1 - \alpha\lambda)\, \theta_{t-1} - \alpha\, \mathrm{sign}(\beta_1 m_{t-1} + (1-\beta_1) "
    r"g_t), \qquad m_t = \beta_2 m_{t-1} + (1-\beta_2) g_t",
    source="X. Chen et al., Symbolic Discovery of Optimization Algorithms, NeurIPS 2023, arXiv:2302.06675.",
    when="Large batches and transformers, where Adam's memory is dear. Its rate should be three to ten times smaller "
    "than AdamW's and the decay as much larger; with small batches it loses.",
    hyperparameters=(
        LEARNING_RATE,
        Hyperparameter("beta1", "Share of the past in the sign that is followed, β₁.", low=0.0, below=1.0),
        Hyperparameter("beta2", "Decay rate β₂ of the running mean of gradients.", low=0.0, below=1.0),
        WEIGHT_DECAY,
    ),
    dialects={
        "optax": Dialect(
            {"learning_rate": REQUIRED, **_LION_BETAS, "weight_decay": 1e-3},
            _choose_lion,
            _lion,
            decay="decoupled",
            differs="A default decay of 0.001.",
        ),
        "keras": Dialect(
            {"learning_rate": 1e-3, **_LION_BETAS, "weight_decay": 0.0},
            _choose_lion,
            _lion,
            decay="decoupled",
            differs="No decay by default, and a default rate ten times the paper's.",
        ),
        "paper": Dialect(
            {"learning_rate": 1e-4, **_LION_BETAS, "weight_decay": 0.0},
            _choose_lion,
            _lion,
            decay="decoupled",
            differs="A default rate of 0.0001; the decay is multiplied by the rate.",
        ),
    },
    default_dialect="paper",
)

ALGORITHMS = (SIGN_SGD, SIGNUM, LION)
