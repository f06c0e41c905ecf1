"""Adam and AdamW, with AMSGrad and without bias correction on request; AdaMax."""

from __future__ import annotations

from math import sqrt as root
from typing import Any, NamedTuple

from service.errors import Invalid
from service.optim.hyperparameters import REQUIRED, Hyperparameter
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
    abs_,
    divide,
    maximum,
    sqrt,
)


class Scalars(NamedTuple):
    """Scalars of `adam` and `amsgrad`; `maximum_scale` is what v is multiplied by before its maximum is taken."""

    one_minus_beta1: float
    beta2: float
    one_minus_beta2: float
    step_size: float
    bias_correction2: float
    epsilon_root: float
    epsilon: float
    maximum_scale: float
    zero: float


class MaxScalars(NamedTuple):
    """Scalars of `adamax`."""

    one_minus_beta1: float
    beta2: float
    step_size: float
    epsilon_inside: float
    epsilon_outside: float
    zero: float


def adam(p: Any, g: Any, m: Any, v: Any, c: Scalars) -> Any:
    """m ← β₁ m + (1 - β₁) g;  v ← β₂ v + (1 - β₂) g²;  p ← p - α m̂ / (√v̂ + ε) (Kingma and Ba 2015, Algorithm 1)."""
    m = m + c.one_minus_beta1 * (g - m)
    v = c.beta2 * v + c.one_minus_beta2 * (g * g)
    return p - divide(c.step_size * m, sqrt(v / c.bias_correction2 + c.epsilon_root) + c.epsilon, c.zero), m, v


def amsgrad(p: Any, g: Any, m: Any, v: Any, x: Any, c: Scalars) -> Any:
    """Adam with the largest v so far in the denominator (Reddi, Kale and Kumar 2018)."""
    m = m + c.one_minus_beta1 * (g - m)
    v = c.beta2 * v + c.one_minus_beta2 * (g * g)
    x = maximum(x, v * c.maximum_scale)
    return p - divide(c.step_size * m, sqrt(x / c.bias_correction2 + c.epsilon_root) + c.epsilon, c.zero), m, v, x


def adamax(p: Any, g: Any, m: Any, u: Any, c: MaxScalars) -> Any:
    """u ← max(β₂ u, |g|);  p ← p - α / (1 - β₁ᵗ) m / u (Kingma and Ba 2015, Algorithm 2)."""
    m = m + c.one_minus_beta1 * (g - m)
    u = maximum(c.beta2 * u, abs_(g) + c.epsilon_inside)
    return p - divide(c.step_size * m, u + c.epsilon_outside, c.zero), m, u


_ADAM = Rule(adam, ("first_moment", "second_moment"))
AMSGRAD_RULE = Rule(amsgrad, ("first_moment", "second_moment", "largest_second_moment"))
_ADAMAX = Rule(adamax, ("first_moment", "infinity_norm"))


def _choose(values: Values) -> Rule:
    return AMSGRAD_RULE if values.get("amsgrad") else _ADAM


def _choose_adamax(values: Values) -> Rule:
    return _ADAMAX


def _corrections(values: Values, t: int) -> tuple[float, float]:
    if not values.get("bias_correction", True):
        return 1.0, 1.0
    return (
        1.0 - values["beta1"] ** t if values.get("correct_first_moment", True) else 1.0,
        1.0 - values["beta2"] ** t if values.get("correct_second_moment", True) else 1.0,
    )


def algorithm_1(values: Values, t: int) -> Scalars:
    """Both means corrected, ε added to the root of the corrected one."""
    correction1, correction2 = _corrections(values, t)
    return Scalars(
        1.0 - values["beta1"],
        values["beta2"],
        1.0 - values["beta2"],
        values["learning_rate"] / correction1,
        correction2,
        values.get("epsilon_root", 0.0),
        values["epsilon"],
        1.0,
        0.0,
    )


def corrected_maximum(values: Values, t: int) -> Scalars:
    """As optax's AMSGrad: the maximum is taken of the corrected v."""
    c = algorithm_1(values, t)
    return c._replace(maximum_scale=1.0 / c.bias_correction2, bias_correction2=1.0)


def _optax(values: Values, t: int) -> Scalars:
    return corrected_maximum(values, t) if values.get("amsgrad") else algorithm_1(values, t)


def epsilon_hat(values: Values, t: int) -> Scalars:
    """The two-line form before section 2.1: α √(1-β₂ᵗ)/(1-β₁ᵗ) m / (√v + ε̂), with ε̂ brought to Algorithm 1's place."""
    c = algorithm_1(values, t)
    return c._replace(epsilon=values["epsilon"] / root(c.bias_correction2))


def _adamax_inside(values: Values, t: int) -> MaxScalars:
    rate = values["learning_rate"] / (1.0 - values["beta1"] ** t)
    return MaxScalars(1.0 - values["beta1"], values["beta2"], rate, values.get("epsilon", 0.0), 0.0, 0.0)


def _adamax_outside(values: Values, t: int) -> MaxScalars:
    return _adamax_inside(values, t)._replace(epsilon_inside=0.0, epsilon_outside=values["epsilon"])


def one_decay(values: Values) -> None:
    """Raises Invalid when `decoupled_weight_decay` is asked for and there is none."""
    if values.get("decoupled_weight_decay") and values.get("weight_decay") == 0.0:
        raise Invalid(
            "decoupled_weight_decay says how weight_decay enters; set weight_decay above 0.", pointer="/weight_decay"
        )


CORRECT_FIRST = Hyperparameter(
    "correct_first_moment", "False leaves the first moment out of the bias correction.", "boolean"
)
CORRECT_SECOND = Hyperparameter(
    "correct_second_moment", "False leaves the second moment out of the bias correction.", "boolean"
)
AMSGRAD = Hyperparameter("amsgrad", "Use the largest second moment so far in the denominator.", "boolean")
DECOUPLED = Hyperparameter(
    "decoupled_weight_decay", "Let weight decay act on the parameters (AdamW), not on the gradient.", "boolean"
)
MULTIPLIER = Hyperparameter(
    "schedule_multiplier",
    "The paper's η: multiplies both the step and the decay. Schedule this one, not learning_rate.",
    low=0.0,
)
BETAS = {"beta1": 0.9, "beta2": 0.999}
TORCH = {"learning_rate": 1e-3, **BETAS, "epsilon": 1e-8}
_HYPERPARAMETERS = (
    LEARNING_RATE,
    MULTIPLIER,
    BETA1,
    BETA2,
    EPSILON,
    EPSILON_ROOT,
    AMSGRAD,
    BIAS_CORRECTION,
    CORRECT_FIRST,
    CORRECT_SECOND,
    WEIGHT_DECAY,
    DECOUPLED,
    MAXIMIZE,
)

ADAM = Algorithm(
    name="adam",
    title="Adam",
    summary="Running means of the gradient and of its square, both corrected for their start at zero.",
    equation=r"m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2, \quad "
    r"\theta_t = \theta_{t-1} - \alpha\, \frac{m_t / (1-\beta_1^t)}{\sqrt{v_t / (1-\beta_2^t)} + \epsilon}",
    source="D. P. Kingma and J. Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, arXiv:1412.6980; AMSGrad: "
    "S. J. Reddi, S. Kale and S. Kumar, On the Convergence of Adam and Beyond, ICLR 2018.",
    when="The usual first choice: hardly any tuning, indifferent to the gradient's scale. Well-tuned momentum may "
    "generalise better; with weight decay take AdamW.",
    hyperparameters=_HYPERPARAMETERS,
    dialects={
        "torch": Dialect(
            {
                **TORCH,
                "amsgrad": False,
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
            differs="Algorithm 1 of the paper; AMSGrad takes the maximum of the uncorrected second moment; weight "
            "decay is added to the gradient.",
        ),
        "optax": Dialect(
            {
                "learning_rate": REQUIRED,
                **BETAS,
                "epsilon": 1e-8,
                "epsilon_root": 0.0,
                "amsgrad": False,
                "bias_correction": True,
                "correct_first_moment": True,
                "correct_second_moment": True,
            },
            _choose,
            _optax,
            differs="Algorithm 1, with a second ε inside the root; AMSGrad takes the maximum of the corrected second "
            "moment, so that it differs from torch's from the second step on.",
        ),
        "keras": Dialect(
            {
                "learning_rate": 1e-3,
                **BETAS,
                "epsilon": 1e-7,
                "amsgrad": False,
                "bias_correction": True,
                "weight_decay": 0.0,
            },
            _choose,
            epsilon_hat,
            decay="decoupled",
            differs="The paper's two-line form: ε is not divided by √(1 - β₂ᵗ), which matters while gradients are "
            "small; ε = 1e-7; weight decay is decoupled.",
        ),
        "paper": Dialect(
            {**TORCH, "bias_correction": True},
            _choose,
            algorithm_1,
            differs="Algorithm 1.",
        ),
        "scratch": Dialect(
            {**TORCH, "epsilon": 1e-7, "bias_correction": True},
            _choose,
            epsilon_hat,
            differs="The two-line form with ε = 1e-7, as in Deep Learning from Scratch.",
        ),
    },
)

ADAMW = Algorithm(
    name="adamw",
    title="AdamW",
    summary="Adam with weight decay that acts on the parameters, not through the moments.",
    equation=r"\theta_t = (1 - \alpha\lambda)\, \theta_{t-1} - \alpha\, \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon}",
    source="I. Loshchilov and F. Hutter, Decoupled Weight Decay Regularization, ICLR 2019, arXiv:1711.05101.",
    when="Transformers and whatever is trained with weight decay. The libraries multiply the decay by the learning "
    "rate, the paper does not: a decay does not carry over from one to the other.",
    hyperparameters=_HYPERPARAMETERS,
    dialects={
        "torch": Dialect(
            {**TORCH, "weight_decay": 1e-2, "amsgrad": False, "bias_correction": True, "maximize": False},
            _choose,
            algorithm_1,
            decay="decoupled",
            counter="parameter",
            differs="The decay is multiplied by the learning rate; default 0.01.",
        ),
        "optax": Dialect(
            {
                "learning_rate": REQUIRED,
                **BETAS,
                "epsilon": 1e-8,
                "epsilon_root": 0.0,
                "weight_decay": 1e-4,
                "bias_correction": True,
            },
            _choose,
            _optax,
            decay="decoupled",
            differs="As torch, with a second ε inside the root; default decay 0.0001.",
        ),
        "keras": Dialect(
            {
                "learning_rate": 1e-3,
                "weight_decay": 4e-3,
                **BETAS,
                "epsilon": 1e-7,
                "amsgrad": False,
                "bias_correction": True,
            },
            _choose,
            epsilon_hat,
            decay="decoupled",
            differs="The two-line form of Adam; default decay 0.004.",
        ),
        "paper": Dialect(
            {**TORCH, "weight_decay": 1e-2, "schedule_multiplier": 1.0, "bias_correction": True},
            _choose,
            lambda values, t: algorithm_1(
                {**values, "learning_rate": values["learning_rate"] * values["schedule_multiplier"]}, t
            ),
            decay="scheduled",
            differs="p ← p - η (α m̂ / (√v̂ + ε) + λ p): the decay is multiplied by the schedule alone, never by α.",
        ),
    },
)

ADAMAX = Algorithm(
    name="adamax",
    title="AdaMax",
    summary="Adam with the infinity norm: a running maximum instead of the root of a running mean.",
    equation=r"u_t = \max(\beta_2 u_{t-1}, |g_t|), \qquad \theta_t = \theta_{t-1} - \frac{\alpha}{1-\beta_1^t}\, "
    r"\frac{m_t}{u_t}",
    source="D. P. Kingma and J. Ba, Adam: A Method for Stochastic Optimization, ICLR 2015, section 7.1, "
    "arXiv:1412.6980.",
    when="Gradients with rare large values; each step is at most α, with no correction of u. Rarely better than Adam.",
    hyperparameters=_HYPERPARAMETERS,
    dialects={
        "torch": Dialect(
            {**TORCH, "learning_rate": 2e-3, "weight_decay": 0.0, "maximize": False},
            _choose_adamax,
            _adamax_inside,
            decay="coupled",
            counter="parameter",
            differs="ε is added to |g| inside the maximum.",
        ),
        "optax": Dialect(
            {"learning_rate": REQUIRED, **BETAS, "epsilon": 1e-8, "weight_decay": 0.0},
            _choose_adamax,
            _adamax_inside,
            decay="decoupled",
            differs="As torch; weight decay (optax.adamaxw) is decoupled.",
        ),
        "keras": Dialect(
            {"learning_rate": 1e-3, **BETAS, "epsilon": 1e-7, "weight_decay": 0.0},
            _choose_adamax,
            _adamax_outside,
            decay="decoupled",
            differs="ε is added to the maximum, 1e-7.",
        ),
        "paper": Dialect(
            {"learning_rate": 2e-3, **BETAS},
            _choose_adamax,
            _adamax_inside,
            differs="No ε: a coordinate whose gradients were all zero does not move.",
        ),
    },
)

ALGORITHMS = (ADAM, ADAMW, ADAMAX)
