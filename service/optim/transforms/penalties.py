"""Penalties: what pulls the parameters towards zero, in the gradient or beside it."""

from __future__ import annotations

import numpy as np

from service.optim.hyperparameters import Hyperparameter
from service.optim.tensors import Array
from service.optim.transforms.form import CHOICE, At, Transform, Values, required, scalar

_STRENGTH = Hyperparameter("strength", "λ, the weight of the penalty.", low=0.0)
_L1 = Hyperparameter("l1", "λ₁, the weight of the L1 penalty.", low=0.0)
_L2 = Hyperparameter("l2", "λ₂, the weight of the L2 penalty.", low=0.0)
_BY_RATE = Hyperparameter(
    "times_learning_rate", "Multiply by the learning rate of the step, as the libraries do.", "boolean"
)


def _l1(g: Array, p: Array, at: At, a: Values) -> Array:
    penalised: Array = g + scalar(a["strength"], g) * np.sign(p)
    return penalised


def _l2(g: Array, p: Array, at: At, a: Values) -> Array:
    penalised: Array = g + scalar(a["strength"], g) * p
    return penalised


def _elastic_net(g: Array, p: Array, at: At, a: Values) -> Array:
    penalised: Array = g + (scalar(a["l1"], g) * np.sign(p) + scalar(a["l2"], g) * p)
    return penalised


def _weight_decay(g: Array, p: Array, at: At, a: Values) -> Array:
    out = g.copy()
    for i in at.chosen(a):
        where = at.layout.slices[i]
        out[where] += scalar(a["strength"], g) * p[where]
    return out


def _decoupled(g: Array, p: Array, at: At, a: Values) -> Array:
    out = g.copy()
    for i in at.chosen(a):
        where = at.layout.slices[i]
        rate = at.rates[i] if a["times_learning_rate"] else 1.0
        out[where] -= scalar(rate * a["strength"], g) * p[where]
    return out


TRANSFORMS = (
    Transform(
        "l1",
        "L1 penalty",
        r"g \leftarrow g + \lambda\, \mathrm{sign}(\theta)",
        "Adds the gradient of λ‖θ‖₁; zero where the parameter is zero.",
        required(_STRENGTH),
        _l1,
    ),
    Transform(
        "l2",
        "L2 penalty",
        r"g \leftarrow g + \lambda\, \theta",
        "Adds the gradient of λ/2 ‖θ‖²; for adaptive rules not the same as decoupled weight decay.",
        required(_STRENGTH),
        _l2,
    ),
    Transform(
        "elastic_net",
        "Elastic net",
        r"g \leftarrow g + \lambda_1\, \mathrm{sign}(\theta) + \lambda_2\, \theta",
        "Both penalties at once (Zou and Hastie 2005, doi:10.1111/j.1467-9868.2005.00503.x).",
        required(_L1, _L2),
        _elastic_net,
    ),
    Transform(
        "weight_decay",
        "Weight decay in the gradient",
        r"g \leftarrow g + \lambda\, \theta",
        "The L2 penalty on chosen parameters: by a pattern of names, by the number of axes. optax's "
        "add_decayed_weights before the rule.",
        required(_STRENGTH) | CHOICE,
        _weight_decay,
    ),
    Transform(
        "decoupled_weight_decay",
        "Decoupled weight decay",
        r"\theta \leftarrow \theta - \alpha \lambda\, \theta_{t-1}",
        "Pulls chosen parameters towards zero beside the rule, which does not see it (Loshchilov and Hutter 2017, "
        "arXiv:1711.05101). Without times_learning_rate the strength stands alone, as in the paper.",
        required(_STRENGTH) | {_BY_RATE: True} | CHOICE,
        _decoupled,
        "parameters",
    ),
)
