"""Gathering: gradients that are held back, summed up, averaged or left out."""

from __future__ import annotations

import numpy as np

from service.errors import Invalid
from service.optim.hyperparameters import Hyperparameter, escape
from service.optim.tensors import Array
from service.optim.transforms.form import At, Transform, Values, finite_norm, required, scalar

_STEPS = Hyperparameter("steps", "How many gradients make one.", "integer", low=1)
_FORMULA = Hyperparameter(
    "formula",
    "The mean as it runs (optax), the sum divided in the end (Keras), or the sum itself.",
    "choice",
    choices=("running_mean", "mean", "sum"),
)
_CLOCK = Hyperparameter(
    "clock",
    "What schedules count: the updates (optax), or every gradient (Keras).",
    "choice",
    choices=("updates", "gradients"),
)
_MAX_SQUARED_NORM = Hyperparameter("max_squared_norm", "A squared norm from here on is too large.", above=0.0)
_DECAY = Hyperparameter("decay", "Share of the old mean that is kept.", low=0.0, below=1.0)
_DEBIAS = Hyperparameter("debias", "Divide by 1 - decayᵗ, for the mean starts at zero.", "boolean")


def _accumulate(
    g: Array, p: Array, at: At, a: Values, gathered: Array, counts: Array
) -> tuple[Array | None, Array, Array]:
    held, seen = (int(count) for count in counts)
    sums = gathered.copy()
    for where in at.slices:
        if a["formula"] == "running_mean":
            sums[where] += (g[where] - sums[where]) / scalar(held + 1.0, g)
        else:
            sums[where] += g[where]
    if held + 1 < a["steps"]:
        return None, sums, np.array([held + 1.0, seen + 1.0])
    _check_nothing_is_lost(sums, at)
    if a["formula"] == "mean":
        sums /= scalar(a["steps"], g)
    return sums, np.zeros_like(sums), np.array([0.0, seen + 1.0])


def _check_nothing_is_lost(sums: Array, at: At) -> None:
    """The last of the gradients decides which tensors are updated."""
    for i in set(range(len(at.layout.names))) - set(at.present):
        if sums[at.layout.slices[i]].any():
            name = at.layout.names[i]
            raise Invalid(
                f"{name!r} has gathered gradients, and this step, which applies them, brings none; send zeros for it.",
                pointer=f"/gradients/{escape(name)}",
            )


def _gradients_seen(a: Values, gathered: Array, counts: Array) -> int | None:
    return int(counts[1]) if a["clock"] == "gradients" else None


def _apply_every(g: Array, p: Array, at: At, a: Values, gathered: Array, count: Array) -> tuple[Array, Array, Array]:
    c = int(count[0])
    sums = gathered.copy()
    for where in at.slices:
        sums[where] = g[where] if c == 0 else sums[where] + g[where]
    out = np.zeros_like(g)
    if c == a["steps"] - 1:
        for where in at.slices:
            out[where] = sums[where]
    return out, sums, np.array([float((c + 1) % a["steps"])])


def _skip_large_updates(g: Array, p: Array, at: At, a: Values) -> Array | None:
    size = finite_norm(g, at.slices)
    return g if size * size < a["max_squared_norm"] else None


def _ema(g: Array, p: Array, at: At, a: Values, mean: Array, count: Array) -> tuple[Array, Array, Array]:
    t = float(count[0]) + 1.0
    new, out = mean.copy(), g.copy()
    for where in at.slices:
        new[where] = scalar(1.0 - a["decay"], g) * g[where] + scalar(a["decay"], g) * mean[where]
        out[where] = new[where] / scalar(1.0 - a["decay"] ** t, g) if a["debias"] else new[where]
    return out, new, np.array([t])


TRANSFORMS = (
    Transform(
        "accumulate",
        "Gradient accumulation",
        r"g \leftarrow \frac{1}{k} \sum_{i=1}^k g_i",
        "Gathers gradients, and only every k-th step is an update: with the mean of the k, or their sum. The other "
        "steps leave the parameters, the rule's state and the count of updates as they are. optax.MultiSteps, Keras' "
        "gradient_accumulation_steps.",
        required(_STEPS) | {_FORMULA: "running_mean", _CLOCK: "updates"},
        _accumulate,
        slots=("gathered", "counts"),
        shapes={"counts": (2,)},
        holds=True,
        clock=_gradients_seen,
    ),
    Transform(
        "apply_every",
        "Apply every k steps",
        r"g \leftarrow \sum_{i=1}^k g_i \quad \mathrm{every}\ k\ \mathrm{steps,\ else}\ 0",
        "Every k-th step the rule sees the sum of k gradients, and zeros in between, which count as steps for its "
        "moments; optax.apply_every before the rule.",
        required(_STEPS),
        _apply_every,
        slots=("gathered", "count"),
        shapes={"count": ()},
    ),
    Transform(
        "skip_large_updates",
        "Skip large gradients",
        r"\mathrm{skip\ the\ step\ unless}\ \|g\|^2 < c",
        "A gradient whose squared norm is too large is left out, as if it had not come; optax.skip_large_updates.",
        required(_MAX_SQUARED_NORM),
        _skip_large_updates,
        holds=True,
    ),
    Transform(
        "ema",
        "Running mean of the gradient",
        r"m \leftarrow \beta m + (1 - \beta) g, \quad g \leftarrow m / (1 - \beta^t)",
        "The rule sees an exponential moving average; optax.ema before the rule.",
        required(_DECAY) | {_DEBIAS: True},
        _ema,
        slots=("mean", "count"),
        shapes={"count": ()},
    ),
)
