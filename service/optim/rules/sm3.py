"""SM3: AdaGrad that keeps one number for each row, column or slice of a tensor."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from math import prod
from typing import Any, NamedTuple

import numpy as np

from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.rule import EPSILON, LEARNING_RATE, Algorithm, Dialect, Rule, Shape, Values, minimum, sqrt, where


class Scalars(NamedTuple):
    """Scalars of `sm3`."""

    learning_rate: float
    momentum: float
    epsilon: float


def sm3(p: Any, g: Any, m: Any, largest: Any, c: Scalars) -> Any:
    """a = min over the axes of μ, plus g²;  m ← β m + (1 - β) g / √a;  μ ← the maxima of a (Anil et al. 2019)."""
    if g.ndim < 2:
        a = largest.reshape(g.shape) + g * g
        kept = a.ravel()
    else:
        a = g * g + _smallest(g.shape, largest)
        axes = range(g.ndim)
        kept = np.concatenate([np.max(a, axis=tuple(k for k in axes if k != axis)) for axis in axes])
    m = (1.0 - c.momentum) * where(a > 0.0, g / sqrt(a + c.epsilon), 0.0 * g) + c.momentum * m
    return p - c.learning_rate * m, m, kept


def _stretches(shape: Shape) -> Iterator[slice]:
    """Where each axis lies in the slot."""
    return (slice(a, b) for a, b in pairwise(accumulate(shape, initial=0)))


def _smallest(shape: Shape, largest: Any) -> Any:
    """For each element, the least of its axes' numbers."""
    found = None
    for axis, stretch in enumerate(_stretches(shape)):
        along = largest[stretch].reshape([-1 if k == axis else 1 for k in range(len(shape))])
        found = along if found is None else minimum(found, along)
    return found


def _kept(shape: Shape) -> Shape:
    return (sum(shape) if len(shape) > 1 else prod(shape),)


_RULE = Rule(sm3, ("momentum", "axis_maxima"), span="tensor", shapes={"axis_maxima": _kept})


def _choose(values: Values) -> Rule:
    return _RULE


def _scalars(values: Values, t: int) -> Scalars:
    return Scalars(values["learning_rate"], values["momentum"], values["epsilon"])


SM3 = Algorithm(
    name="sm3",
    title="SM3",
    summary="AdaGrad with the sums of squares of whole rows and columns, each the largest in it: state of a vector's "
    "size for a matrix.",
    equation=r"a_t = \min_r \mu_{t-1}^{(r)} + g_t^2, \quad m_t = \beta m_{t-1} + (1-\beta) \frac{g_t}{\sqrt{a_t}}, "
    r"\quad \theta_t = \theta_{t-1} - \alpha m_t, \quad \mu_t^{(r)} = \max a_t",
    source="R. Anil, V. Gupta, T. Koren and Y. Singer, Memory-Efficient Adaptive Optimization, NeurIPS 2019, "
    "Algorithm SM3-II, arXiv:1901.11150.",
    when="Large embeddings and transformers, where there is no memory for a second moment. As in AdaGrad the steps "
    "only get shorter, so that it suits one long run and not a change of the task.",
    hyperparameters=(
        LEARNING_RATE,
        Hyperparameter("momentum", "Decay rate β of the running mean of steps.", low=0.0, below=1.0),
        EPSILON,
    ),
    dialects={
        "optax": Dialect(
            {"learning_rate": REQUIRED, "momentum": 0.9, "epsilon": 1e-8},
            _choose,
            _scalars,
            differs="ε = 1e-8 inside the root, which the library fixes.",
            known_bugs=("A scalar parameter raises IndexError; here it is a vector of one element.",),
        ),
    },
    kind="layerwise",
    default_dialect="optax",
)

ALGORITHMS = (SM3,)
