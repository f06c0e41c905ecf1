"""The optimizers there are, by name. Adding one is adding its algorithm to a rules file that stands in `_FAMILIES`."""

from __future__ import annotations

from typing import Any

from service.errors import unknown
from service.optim.hyperparameters import REQUIRED
from service.optim.rule import Algorithm, Dialect
from service.optim.rules import (
    adadelta,
    adagrad,
    adam,
    adan,
    ademamix,
    adopt,
    amsgrad,
    asgd,
    cocob,
    dual_averaging,
    mixtures,
    nadam,
    optimistic,
    radam,
    rmsprop,
    rprop,
    sgd,
    sign,
    variance,
)

_FAMILIES = (
    *(sgd, asgd, mixtures, optimistic, sign, rprop),
    *(adagrad, rmsprop, adadelta, dual_averaging, cocob),
    *(adam, amsgrad, nadam, radam, variance, adan, ademamix, adopt),
)

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
        "state": state(algorithm),
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


def state(algorithm: Algorithm) -> list[dict[str, Any]]:
    """What the algorithm keeps per parameter with its defaults: slot names, shapes and bytes per element."""
    dialect = algorithm.dialects[algorithm.default_dialect]
    rule = dialect.rule(dialect.defaults)
    return [{"name": slot, "shape": "as the parameter", "bytes_per_float64": 8} for slot in rule.slots]
