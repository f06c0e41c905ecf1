"""Muon: momentum whose matrix is made orthogonal before it is a step; Adam for what is no matrix."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import sqrt as root
from typing import Any, NamedTuple

import numpy as np

from service.errors import Invalid
from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.matrices import bfloat16, eigenvectors, gram, product
from service.optim.rule import (
    LEARNING_RATE,
    NESTEROV,
    WEIGHT_DECAY,
    Algorithm,
    Dialect,
    Rule,
    Shape,
    Values,
    divide,
    norm,
    sqrt,
)

Triples = tuple[tuple[float, float, float], ...]
ROW_EPSILON = 1e-8  # of optax's aol and schatten, which its eps does not reach
ROUND: dict[str, Callable[[Any], Any]] = {"bfloat16": bfloat16, "session": lambda x: x}


class Adam(NamedTuple):
    """Scalars of Adam for the other tensors: p ← kept p - rate (m share + g gradient_share) / (√(v / c₂ + ε₂) + ε)."""

    kept: float
    beta1: float
    beta2: float
    momentum_share: float
    gradient_share: float
    bias_correction2: float
    epsilon_root: float
    epsilon: float


class Scalars(NamedTuple):
    """Scalars of the four forms; `corrections` are 1 - μᵗ⁺¹ and 1 - μᵗ, `kept` what p is multiplied by."""

    learning_rate: float
    kept: float
    momentum: float
    nesterov: bool
    corrections: tuple[float, float]
    coefficients: Triples
    epsilon: float
    rounding: str
    scaling: str
    rms_scale: float | None
    preconditioning: str
    adaptive: bool
    adam: Adam | None


def muon(p: Any, g: Any, b: Any, c: Scalars) -> Any:
    """b ← mean of g; p ← p - α s NS((1 - μ) g + μ b), rounded to bfloat16 once an operation, as in torch."""
    b = _lerp(b, g, 1.0 - c.momentum)
    x = ROUND[c.rounding](_lerp(g, b, c.momentum) if c.nesterov else b)
    length = ROUND[c.rounding](np.asarray(norm(x), x.dtype))
    x = _divided(x, np.maximum(length, ROUND[c.rounding](np.asarray(c.epsilon, x.dtype))))
    o = _wide(x, lambda wide: newton_schulz(ROUND[c.rounding](wide), c.coefficients, c.rounding))
    return p - (c.learning_rate * _ratio(p.shape, c)) * np.asarray(o, p.dtype), b


def muon_jordan(p: Any, g: Any, b: Any, v: Any, c: Scalars) -> Any:
    """The same after the author's code: axes before the last two are a batch, but four axes are a matrix."""
    if v.shape == p.shape:
        return _adam(p, g, b, v, c.adam)
    b = _lerp(b, g, 1.0 - c.momentum)
    u = _lerp(g, b, c.momentum) if c.nesterov else b
    batch = u.reshape(1, len(u), -1) if u.ndim == 4 else u.reshape(-1, *u.shape[-2:])
    o = np.stack([_orthogonal_stepwise(x, c) for x in batch]) if len(batch) else batch
    o = ROUND[c.rounding](_ratio(p.shape, c) * o)
    return c.kept * p - c.learning_rate * np.asarray(o, p.dtype).reshape(p.shape), b, v


def muon_corrected(p: Any, g: Any, m: Any, v: Any, c: Scalars) -> Any:
    """The same with bias-corrected momentum and a choice of what comes before the iteration, as in optax."""
    if v.shape == p.shape:
        return _adam(p, g, m, v, c.adam)
    m = (1.0 - c.momentum) * g + c.momentum * m
    ahead, now = c.corrections
    u = c.momentum * (m / ahead) + (1.0 - c.momentum) * (g / now) if c.nesterov else m / now
    o = _wide(u, lambda x: _preconditioned(x, c))
    if c.adaptive:
        o = float(np.add.reduce(u * o, axis=None)) * o
    return c.kept * p - c.learning_rate * (_ratio(p.shape[::-1], c) * o), m, v


def muon_sum(p: Any, g: Any, m: Any, v: Any, c: Scalars) -> Any:
    """The same with a sum instead of a mean as momentum, as in Keras: m ← μ m + g."""
    if v.shape == p.shape:
        return _adam(p, g, m, v, c.adam)
    m = c.momentum * m + g
    u = g + c.momentum * m if c.nesterov else m
    o = _wide(u, lambda x: newton_schulz(_divided(x, norm(x) + c.epsilon), c.coefficients))
    return c.kept * p - c.learning_rate * (_ratio(p.shape, c) * o), m, v


def newton_schulz(x: Any, coefficients: Triples, rounding: str = "session") -> Any:
    """X ← a X + (b A + c A²) X with A = X Xᵀ, for each (a, b, c); each line rounds once."""
    rounded = ROUND[rounding]
    for a, b, c in coefficients:
        square = rounded(product(x, x.T))
        x = rounded(a * x + product(rounded(b * square + c * product(square, square)), x))
    return x


def _orthogonal_stepwise(x: Any, c: Scalars) -> Any:
    """The author's iteration, in which every operation rounds."""
    rounded = ROUND[c.rounding]
    x = rounded(x)
    length = rounded(np.asarray(norm(x), x.dtype))
    x = rounded(_divided(x, rounded(length + np.asarray(c.epsilon, x.dtype))))

    def iterate(x: Any) -> Any:
        for a, b, c_ in c.coefficients:
            square = rounded(product(x, x.T))
            both = rounded(rounded(b * square) + rounded(product(rounded(c_ * square), square)))
            x = rounded(rounded(a * x) + rounded(product(both, x)))
        return x

    return _wide(x, iterate)


def _preconditioned(x: Any, c: Scalars) -> Any:
    """The iteration of a matrix that is not taller than wide, after one of optax's four ways to make it small."""
    if c.preconditioning == "frobenius":
        return newton_schulz(_divided(x, norm(x) + c.epsilon), c.coefficients)
    if c.preconditioning == "spectral":
        return newton_schulz(_divided(x, _spectral_norm(x) + c.epsilon), c.coefficients)
    if not c.coefficients:
        return x
    square = product(x, x.T)
    if c.preconditioning == "aol":
        s = 1.0 / sqrt(np.maximum(np.abs(square).sum(axis=-1), ROW_EPSILON))[:, None]
        x, square = x * s, square * s * s.T
    else:
        size = max(norm(square), ROW_EPSILON)
        x, square = x / root(size), square / size
    a, b, c_ = c.coefficients[0]
    x = a * x + product(b * square + c_ * product(square, square), x)
    return newton_schulz(x, c.coefficients[1:])


def _spectral_norm(x: Any) -> float:
    """The largest singular value."""
    largest = float(np.abs(x).max()) if x.size else 0.0
    if largest == 0.0:
        return largest
    wide = np.asarray(x, np.float64) / largest
    return largest * root(max(float(eigenvectors(gram(wide, 0))[0][-1]), 0.0))


def _divided(x: Any, length: Any) -> Any:
    """A zero matrix without ε stays a zero matrix."""
    return x / length if length != 0.0 else x


def _wide(x: Any, function: Callable[[Any], Any]) -> Any:
    """The function of a matrix that is not taller than wide: of x, or of its transpose and transposed back."""
    return function(x.T).T if x.shape[0] > x.shape[1] else function(x)


def _lerp(start: Any, end: Any, weight: float) -> Any:
    """start + weight (end - start), reckoned from the nearer end as torch does."""
    return start + weight * (end - start) if weight < 0.5 else end - (end - start) * (1.0 - weight)


def _ratio(shape: Shape, c: Scalars) -> float:
    """What the learning rate is multiplied by for a matrix of rows (outputs) and columns (inputs)."""
    rows, columns = shape[-2:]
    if c.scaling == "original":
        return root(max(1.0, rows / columns)) if columns else 1.0
    if c.scaling == "spectral":
        return root(rows / columns) if columns else 1.0
    if c.scaling == "match_rms_adamw":
        return (0.2 if c.rms_scale is None else c.rms_scale) * root(max(rows, columns))
    return 1.0


def _adam(p: Any, g: Any, m: Any, v: Any, c: Any) -> Any:
    m = m + (1.0 - c.beta1) * (g - m)
    v = v + (1.0 - c.beta2) * (g * g - v)
    step = c.momentum_share * m + c.gradient_share * g
    return c.kept * p - divide(step, sqrt(v / c.bias_correction2 + c.epsilon_root) + c.epsilon, 0.0), m, v


def _only_matrices(shape: Shape) -> str | None:
    if len(shape) == 2:
        return None
    return "is for matrices in torch's dialect: freeze the others, or take a dialect that gives them to Adam"


_TORCH = Rule(muon, ("momentum",), span="tensor", fits=_only_matrices)


@cache
def _rule(update: Any, least: int, most: int, exclude: tuple[str, ...], embeddings: bool) -> Rule:
    """The rule that gives Adam, and so a second moment, to all but the matrices that no part of a name excludes."""

    def second(shape: Shape, name: str) -> Shape:
        excluded = any(part in name for part in exclude) or (embeddings and "embedding" in name.lower())
        return (0,) if least <= len(shape) <= most and not excluded else shape

    return Rule(update, ("momentum", "second_moment"), span="tensor", shapes={"second_moment": second}, named=True)


def _choose_torch(values: Values) -> Rule:
    return _TORCH


def _choose_paper(values: Values) -> Rule:
    return _rule(muon_jordan, 2, 64, tuple(values["exclude"]), False)


def _choose_optax(values: Values) -> Rule:
    return _rule(muon_corrected, 2, 2, tuple(values["exclude"]), False)


def _choose_keras(values: Values) -> Rule:
    return _rule(muon_sum, 2, 2, tuple(values["exclude"]), values["exclude_embeddings"])


def _coefficients(values: Values) -> Triples:
    """One (a, b, c) for each iteration."""
    steps: int = values["newton_schulz_steps"]
    if "newton_schulz_coefficients" not in values:
        return ((values["newton_schulz_a"], values["newton_schulz_b"], values["newton_schulz_c"]),) * steps
    rows = tuple((float(a), float(b), float(c)) for a, b, c in values["newton_schulz_coefficients"])
    return rows * steps if len(rows) == 1 else rows


def _scalars(values: Values, t: int, adam: Adam | None = None, **more: Any) -> Scalars:
    momentum = values["momentum"]
    given: dict[str, Any] = {
        "learning_rate": values["learning_rate"],
        "kept": 1.0 - values["learning_rate"] * values["weight_decay"],
        "momentum": momentum,
        "nesterov": values["nesterov"],
        "corrections": (1.0 - momentum ** (t + 1), 1.0 - momentum**t),
        "coefficients": _coefficients(values),
        "epsilon": values["epsilon"],
        "rounding": values.get("newton_schulz_dtype", "session"),
        "scaling": values.get("scaling", "match_rms_adamw"),
        "rms_scale": values.get("rms_scale"),
        "preconditioning": values.get("preconditioning", "frobenius"),
        "adaptive": values.get("adaptive", False),
        "adam": adam,
    }
    return Scalars(**(given | more))


def _torch(values: Values, t: int) -> Scalars:
    return _scalars(values, t, kept=1.0)  # the decay has acted before


def _adam_scalars(values: Values, t: int, rate: float, kept: float, shares: tuple[float, float]) -> Adam:
    return Adam(
        kept,
        values["adam_beta1"],
        values["adam_beta2"],
        rate * shares[0],
        rate * shares[1],
        1.0 - values["adam_beta2"] ** t,
        values.get("adam_epsilon_root", 0.0),
        values.get("adam_epsilon", values["epsilon"]),
    )


def _paper(values: Values, t: int) -> Scalars:
    rate = values["adam_learning_rate"]
    kept = 1.0 - rate * values["adam_weight_decay"]
    adam = _adam_scalars(values, t, rate, kept, (1.0 / (1.0 - values["adam_beta1"] ** t), 0.0))
    return _scalars(values, t, adam)


def _optax(values: Values, t: int) -> Scalars:
    beta1, rate = values["adam_beta1"], values["adam_learning_rate"]
    if rate is None:
        rate = values["learning_rate"]
    shares = (1.0 / (1.0 - beta1**t), 0.0)
    if values["nesterov"]:
        shares = (beta1 / (1.0 - beta1 ** (t + 1)), (1.0 - beta1) / (1.0 - beta1**t))
    adam = _adam_scalars(values, t, rate, 1.0 - rate * values["adam_weight_decay"], shares)
    scaling = "original" if values["rms_scale"] is None else "match_rms_adamw"
    return _scalars(values, t, adam, scaling=scaling)


def _keras(values: Values, t: int) -> Scalars:
    beta1, correction2 = values["adam_beta1"], 1.0 - values["adam_beta2"] ** t
    rate = values["learning_rate"] * values["adam_learning_rate_ratio"]
    kept = 1.0 - values["learning_rate"] * values["adam_weight_decay"]
    adam = _adam_scalars(values, t, rate, kept, (1.0 / (1.0 - beta1**t), 0.0))
    adam = adam._replace(epsilon=values["adam_epsilon"] / root(correction2))
    return _scalars(values, t, adam, scaling="none" if values["rms_scale"] is None else "match_rms_adamw")


def _enough(values: Values) -> None:
    rows, steps = len(values["newton_schulz_coefficients"]), values["newton_schulz_steps"]
    if rows > max(1, steps):
        raise Invalid(
            f"newton_schulz_coefficients has {rows} rows for {steps} iterations; give one, or at most as many.",
            pointer="/newton_schulz_coefficients",
        )


STANDARD = (3.4445, -4.7750, 2.0315)
_ABC: dict[str, Any] = dict(zip(("newton_schulz_a", "newton_schulz_b", "newton_schulz_c"), STANDARD, strict=True))
_NEWTON_SCHULZ: dict[str, Any] = {**_ABC, "newton_schulz_steps": 5}


def _number(name: str, meaning: str, **more: Any) -> Hyperparameter:
    return Hyperparameter(name, meaning, **more)


_HYPERPARAMETERS = (
    LEARNING_RATE,
    _number("momentum", "Decay rate μ of the running mean, or sum, of gradients.", low=0.0, below=1.0),
    NESTEROV,
    WEIGHT_DECAY,
    _number("epsilon", "ε at the matrix's norm before the iteration; in optax also Adam's.", low=0.0),
    Hyperparameter(
        "scaling",
        "By the matrix's rows and columns: original is √max(1, rows / columns), match_rms_adamw 0.2 √max(rows, "
        "columns), spectral √(rows / columns).",
        "choice",
        choices=("original", "match_rms_adamw", "spectral", "none"),
    ),
    _number(
        "rms_scale",
        "The step is multiplied by this times √max(rows, columns), so that its elements are of that size.",
        low=0.0,
        null="optax: √max(1, columns / rows) instead; Keras: no such factor.",
    ),
    *(
        _number(name, f"{letter} of the polynomial a X + b X Xᵀ X + c (X Xᵀ)² X.", schedulable=False)
        for name, letter in zip(_ABC, "abc", strict=True)
    ),
    Hyperparameter(
        "newton_schulz_coefficients", "(a, b, c) for all iterations, or for each of them in its turn.", "triples"
    ),
    Hyperparameter("newton_schulz_steps", "How often the polynomial is applied.", "integer", low=0, high=99),
    Hyperparameter(
        "newton_schulz_dtype",
        "bfloat16 rounds as the library does, whatever the session's dtype; session does not.",
        "choice",
        choices=("bfloat16", "session"),
    ),
    Hyperparameter(
        "preconditioning",
        "What makes the matrix small before the iteration: its Frobenius or spectral norm, or a factor for each row.",
        "choice",
        choices=("frobenius", "spectral", "aol", "schatten"),
    ),
    Hyperparameter("adaptive", "Multiply the step by its inner product with the momentum, the dual norm.", "boolean"),
    Hyperparameter("exclude", "Tensors whose names hold one of these texts go to Adam.", "strings"),
    Hyperparameter(
        "exclude_embeddings", "Tensors whose names hold the word embedding, in any case, go to Adam.", "boolean"
    ),
    _number("adam_learning_rate", "Adam's own learning rate.", low=0.0, null="The same as learning_rate."),
    _number("adam_learning_rate_ratio", "Adam's learning rate as a multiple of learning_rate.", low=0.0),
    _number("adam_beta1", "Adam's decay rate β₁ of the running mean of gradients.", low=0.0, below=1.0),
    _number("adam_beta2", "Adam's decay rate β₂ of the running mean of squared gradients.", low=0.0, below=1.0),
    _number("adam_epsilon", "Adam's ε in the denominator.", low=0.0),
    _number("adam_epsilon_root", "Adam's second ε, added inside the square root.", low=0.0),
    _number("adam_weight_decay", "Weight decay of what Adam trains.", low=0.0),
)

MUON = Algorithm(
    name="muon",
    title="Muon",
    summary="Momentum of a matrix with all its singular values brought near one by a Newton-Schulz iteration.",
    equation=r"B_t = \mu B_{t-1} + (1-\mu) G_t, \quad O_t = \mathrm{NS}((1-\mu) G_t + \mu B_t) \approx U V^T, \quad "
    r"\theta_t = (1 - \alpha\lambda)\, \theta_{t-1} - \alpha\, s\, O_t",
    source="K. Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024, "
    "https://kellerjordan.github.io/posts/muon/; match_rms_adamw: J. Liu et al., Muon is Scalable for LLM Training, "
    "2025, arXiv:2502.16982.",
    when="The hidden weight matrices of transformers and convolutional networks, where it needs fewer steps than "
    "AdamW. Not for embeddings, the last layer, biases or gains: give those to Adam; a step costs some fifteen "
    "products of matrices.",
    hyperparameters=_HYPERPARAMETERS,
    dialects={
        "torch": Dialect(
            {
                "learning_rate": 1e-3,
                "weight_decay": 0.1,
                "momentum": 0.95,
                "nesterov": True,
                **_NEWTON_SCHULZ,
                "epsilon": 1e-7,
                "scaling": "original",
                "newton_schulz_dtype": "bfloat16",
            },
            _choose_torch,
            _torch,
            decay="decoupled",
            counter="parameter",
            differs="Matrices only. The iteration runs in bfloat16 whatever the dtype, one rounding for each product "
            "with what is added to it; ε bounds the norm from below. Where sums of products are taken in another "
            "order, as on other processors, a last bit of bfloat16 may differ.",
        ),
        "optax": Dialect(
            {
                "learning_rate": REQUIRED,
                "newton_schulz_coefficients": [list(STANDARD)],
                "newton_schulz_steps": 5,
                "momentum": 0.95,
                "epsilon": 1e-8,
                "weight_decay": 0.0,
                "nesterov": True,
                "adaptive": False,
                "preconditioning": "frobenius",
                "adam_beta1": 0.9,
                "adam_beta2": 0.999,
                "adam_epsilon_root": 0.0,
                "adam_weight_decay": 0.0,
                "adam_learning_rate": None,
                "rms_scale": None,
                "exclude": [],
            },
            _choose_optax,
            _optax,
            decay="own",
            check=_enough,
            differs="The momentum is bias-corrected; a matrix has inputs as rows, so that the factor is √max(1, "
            "columns / rows); the iteration is in the session's dtype. What has not two axes goes to Adam, with "
            "Nesterov's momentum if Muon has it.",
            known_bugs=(
                "eps does not reach the preconditionings aol and schatten: squares below 1e-8 stay small there.",
                "Fewer rows of coefficients than ns_steps make as many iterations as there are rows.",
            ),
        ),
        "keras": Dialect(
            {
                "learning_rate": 1e-3,
                "adam_beta1": 0.9,
                "adam_beta2": 0.999,
                "adam_weight_decay": 4e-3,
                "adam_epsilon": 1e-7,
                "weight_decay": 4e-3,
                "exclude": [],
                "exclude_embeddings": True,
                **_NEWTON_SCHULZ,
                "epsilon": 1e-7,
                "adam_learning_rate_ratio": 1.0,
                "momentum": 0.95,
                "nesterov": True,
                "rms_scale": 0.2,
            },
            _choose_keras,
            _keras,
            decay="own",
            differs="The momentum is a sum, which the iteration's scale does not see but ε does; the factor is 0.2 "
            "√max(rows, columns). What has not two axes goes to Adam, and so do the tensors that names exclude (the "
            "library searches for regular expressions, here the texts are taken as they are). Adam's decay takes the "
            "learning rate without the ratio.",
        ),
        "paper": Dialect(
            {
                "learning_rate": 0.02,
                "weight_decay": 0.0,
                "momentum": 0.95,
                "nesterov": True,
                **_NEWTON_SCHULZ,
                "epsilon": 1e-7,
                "scaling": "original",
                "newton_schulz_dtype": "bfloat16",
                "adam_learning_rate": 3e-4,
                "adam_beta1": 0.9,
                "adam_beta2": 0.95,
                "adam_epsilon": 1e-10,
                "adam_weight_decay": 0.0,
                "exclude": [],
            },
            _choose_paper,
            _paper,
            decay="own",
            differs="The author's code: every operation of the iteration rounds to bfloat16, ε is added to the norm; "
            "four axes are a matrix of the first against the rest, of three axes the first is a batch. Scalars, "
            "vectors and what is excluded go to Adam. A gradient that is missing counts as zero there; here the "
            "tensor stays.",
            known_bugs=(
                "With four axes the factor is of the last two, the size of a filter, not of the matrix that is made.",
            ),
        ),
    },
    kind="matrix",
)

ALGORITHMS = (MUON,)
