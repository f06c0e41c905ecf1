"""Scaling: the gradient times a number, moved to mean zero, brought to a norm, or with noise."""

from __future__ import annotations

import math

import numpy as np

from service.optim.hyperparameters import LARGEST_WHOLE, Hyperparameter
from service.optim.tensors import Array
from service.optim.transforms.form import SCOPE, At, Transform, Values, finite_norm, required, scalar

_FACTOR = Hyperparameter("factor", "What the gradient is multiplied by.")
_LOSS_SCALE = Hyperparameter("loss_scale", "What the loss was multiplied by.", above=0.0)
_NORM = Hyperparameter("scale", "The norm that the gradient is brought to.", above=0.0)
_EPSILON = Hyperparameter("epsilon", "Added to the norm before it divides.", low=0.0)
_ETA = Hyperparameter("eta", "η, the variance of the noise in the first step.", low=0.0)
_GAMMA = Hyperparameter("gamma", "γ, how fast the variance falls with the count of steps.", low=0.0)
_SEED = Hyperparameter("seed", "The same seed gives the same noise.", "integer", low=0, high=LARGEST_WHOLE)


def _scale(g: Array, p: Array, at: At, a: Values) -> Array:
    scaled: Array = g * scalar(a["factor"], g)
    return scaled


def _unscale(g: Array, p: Array, at: At, a: Values) -> Array:
    unscaled: Array = g / scalar(a["loss_scale"], g)
    return unscaled


def _centralize(g: Array, p: Array, at: At, a: Values) -> Array:
    out = g.copy()
    for i in at.present:
        where, shape = at.layout.slices[i], at.layout.shapes[i]
        if len(shape) > 1 and where.stop > where.start:
            rows = g[where].reshape(shape[0], -1)
            mean = np.add.reduce(rows, axis=1, dtype=np.float64, keepdims=True) / rows.shape[1]
            out[where] = (rows - mean.astype(g.dtype)).ravel()
    return out


def _normalize(g: Array, p: Array, at: At, a: Values) -> Array:
    out = g.copy()
    together = [at.slices] if a["scope"] == "whole" else [(where,) for where in at.slices]
    for slices in together:
        size = finite_norm(g, slices)
        if size > 0.0:
            for where in slices:
                out[where] = g[where] / scalar((size + a["epsilon"]) / a["scale"], g)
    return out


def _add_noise(g: Array, p: Array, at: At, a: Values, count: Array) -> tuple[Array, Array]:
    t = int(count[0]) + 1
    # a stream for each step, so that the noise of a step is a function of the seed and of its number alone
    random = np.random.Generator(np.random.Philox(key=a["seed"], counter=[0, t, 0, 0]))
    deviation = math.sqrt(a["eta"] / float(t) ** a["gamma"])
    noise = random.standard_normal(g.size)
    out = g.copy()
    for where in at.slices:
        out[where] += (deviation * noise[where]).astype(g.dtype)
    return out, np.array([float(t)])


TRANSFORMS = (
    Transform(
        "scale",
        "Scale",
        r"g \leftarrow c\, g",
        "The gradient times a number; -1 climbs.",
        required(_FACTOR),
        _scale,
    ),
    Transform(
        "unscale",
        "Unscale",
        r"g \leftarrow g / c",
        "Undoes the scaling of the loss by which small gradients are kept in low precision; Keras' loss_scale_factor.",
        required(_LOSS_SCALE),
        _unscale,
    ),
    Transform(
        "centralize",
        "Gradient centralization",
        r"G_i \leftarrow G_i - \mathrm{mean}(G_i)",
        "Each row of a matrix, or of a tensor with more axes, is moved to mean zero; vectors stay (Yong et al. 2020, "
        "arXiv:2004.01461).",
        {},
        _centralize,
    ),
    Transform(
        "normalize",
        "Normalize",
        r"g \leftarrow s\, g / (\|g\| + \epsilon)",
        "Only the direction counts. A gradient of zero stays zero, where optax divides by it. optax.contrib.normalize "
        "has no ε, optax.normalize_by_update_norm 1e-6.",
        {_NORM: 1.0, _EPSILON: 0.0, SCOPE: "whole"},
        _normalize,
    ),
    Transform(
        "add_noise",
        "Gradient noise",
        r"g \leftarrow g + \sqrt{\eta / t^\gamma}\, \xi_t, \quad \xi_t \sim N(0, 1)",
        "Normal noise whose variance falls with the count of steps (Neelakantan et al. 2015, arXiv:1511.06807). It is "
        "a function of the seed and the count (Philox), so that a replay has the same bits; optax' generator is "
        "another.",
        required(_ETA) | {_GAMMA: 0.55, _SEED: 0},
        _add_noise,
        slots=("count",),
        shapes={"count": ()},
    ),
)
