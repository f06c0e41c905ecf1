"""The optimizers there are, by name. Adding one is adding its algorithm to a rules file that stands in `_FAMILIES`."""

from __future__ import annotations

from typing import Any

from service.errors import unknown
from service.optim.hyperparameters import REQUIRED
from service.optim.rule import Algorithm, Dialect
from service.optim.rules import (
    adadelta,
    adafactor,
    adagrad,
    adam,
    adan,
    ademamix,
    adopt,
    amsgrad,
    asgd,
    cocob,
    dog,
    dual_averaging,
    lamb,
    lars,
    lbfgs,
    lookahead,
    mechanic,
    mixtures,
    momo,
    muon,
    nadam,
    noisy,
    novograd,
    optimistic,
    polyak,
    prodigy,
    radam,
    rmsprop,
    rprop,
    schedule_free,
    sgd,
    shampoo,
    sharpness,
    sign,
    sm3,
    soap,
    sparse,
    variance,
)
from service.optim.state import Place, places
from service.optim.tensors import DTYPES, Layout

_FAMILIES = (
    *(sgd, asgd, mixtures, optimistic, sign, rprop),
    *(adagrad, rmsprop, adadelta, dual_averaging, cocob),
    *(adam, amsgrad, nadam, radam, variance, adan, ademamix, adopt),
    *(sparse, noisy, dog, prodigy, polyak, momo),
    *(lamb, lars, novograd, sm3, adafactor, muon, shampoo, soap),
    *(lookahead, schedule_free, mechanic, sharpness, lbfgs),
)

SAMPLE = Layout(("w",), ((1024, 512),), DTYPES["float64"])  # of which sizes of states are told

ALGORITHMS: dict[str, Algorithm] = {
    algorithm.name: algorithm for family in _FAMILIES for algorithm in family.ALGORITHMS
}


def get(name: str, pointer: str = "/name") -> Algorithm:
    """The algorithm of that name; raises Invalid that names the nearest and lists the accepted ones."""
    if name not in ALGORITHMS:
        raise unknown("optimizer", name, list(ALGORITHMS), pointer=pointer)
    return ALGORITHMS[name]


def summary(algorithm: Algorithm) -> dict[str, Any]:
    """The line of the list of optimizers."""
    return {
        "name": algorithm.name,
        "title": algorithm.title,
        "kind": algorithm.kind,
        "dialects": list(algorithm.dialects),
        "default_dialect": algorithm.default_dialect,
        "summary": algorithm.summary,
    }


def describe(algorithm: Algorithm, spellings: list[dict[str, Any]]) -> dict[str, Any]:
    """The whole catalogue entry; `spellings` are the library classes that `like` maps to it."""
    used = {name for dialect in algorithm.dialects.values() for name in dialect.defaults}
    hyperparameters = [h for h in algorithm.hyperparameters if h.name in used]
    return {
        **summary(algorithm),
        "equation": algorithm.equation,
        "source": algorithm.source,
        "when": algorithm.when,
        "hyperparameters": {
            "type": "object",
            "properties": {h.name: h.schema() for h in hyperparameters},
            "additionalProperties": False,
        },
        "dialect_details": {name: _dialect(dialect) for name, dialect in algorithm.dialects.items()},
        "state": state(algorithm.dialects[algorithm.default_dialect]),
        "bytes_per_parameter": bytes_per_parameter(algorithm.dialects[algorithm.default_dialect]),
        "like": spellings,
    }


def _dialect(dialect: Dialect) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "defaults": {name: value for name, value in dialect.defaults.items() if value is not REQUIRED},
        "required": [name for name, value in dialect.defaults.items() if value is REQUIRED],
        "weight_decay": dialect.decay,
        "counts_steps_of": dialect.counter,
        "differs": dialect.differs,
    }
    if dialect.known_bugs:
        entry["known_bugs"] = list(dialect.known_bugs)
    return entry


def state(dialect: Dialect) -> list[dict[str, Any]]:
    """What a form keeps with its defaults: each slot's name and shape, and its bytes per parameter in float64.

    A shape that is not the parameter's own is given for the tensor of SAMPLE.
    """
    shown = []
    for place in _places(dialect):
        shape: Any = list(place.shapes[0])
        if place.shapes == SAMPLE.shapes:
            shape = "as the parameter"
        elif place.of_tensors:
            shape = f"{shape} for a parameter of {list(SAMPLE.shapes[0])}"
        bytes_each = place.size * place.dtype.itemsize / SAMPLE.size
        shown.append({"name": place.name, "shape": shape, "bytes_per_parameter": float(f"{bytes_each:.3g}")})
    return shown


def bytes_per_parameter(dialect: Dialect) -> float:
    """What the state takes beside the parameters, in float64, for a tensor as in SAMPLE."""
    return float(f"{sum(p.size * p.dtype.itemsize for p in _places(dialect)) / SAMPLE.size:.3g}")


def _places(dialect: Dialect) -> tuple[Place, ...]:
    return places(dialect.rule(dialect.defaults), SAMPLE, by_tensor=dialect.rule(dialect.defaults).span == "tensor")
