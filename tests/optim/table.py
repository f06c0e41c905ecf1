"""What the tests of this folder run over: the catalogue itself, so that no member can be added untested."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np

from service.errors import Invalid
from service.optim.catalogue import ALGORITHMS
from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.optimizer import Optimizer, build
from service.optim.rule import Algorithm, Dialect
from service.optim.specification import resolve
from service.optim.state import State
from service.optim.tensors import DTYPES, Array, Layout

Specification = dict[str, Any]

SHAPES: dict[str, tuple[int, ...]] = {"layer.weight": (4, 3), "layer.bias": (5,), "scale": ()}


def layout(dtype: str = "float64") -> Layout:
    """Three named tensors: a matrix, a vector and a scalar."""
    return Layout(tuple(SHAPES), tuple(SHAPES.values()), DTYPES[dtype])


def sample(hyperparameter: Hyperparameter) -> Any:
    """A value for what has no default."""
    if hyperparameter.kind == "optimizer":
        return {"name": "adam", "dialect": "optax", "learning_rate": 0.01}
    if hyperparameter.kind == "integer":
        return 2
    return 0.01 if hyperparameter.name == "learning_rate" else 0.5


def inside(hyperparameter: Hyperparameter, wanted: float) -> float:
    """The number, or as far above the range's lower end where it is not in the range."""
    try:
        hyperparameter.check(wanted)
    except Invalid:
        if hyperparameter.high < wanted:
            return hyperparameter.high - wanted
        return max(hyperparameter.low, hyperparameter.above) + wanted
    return wanted


def complete(algorithm: Algorithm, dialect: Dialect) -> Specification:
    """The defaults, with something in the place of what must be given."""
    declared = {h.name: h for h in algorithm.hyperparameters}
    return {name: sample(declared[name]) if v is REQUIRED else v for name, v in dialect.defaults.items()}


def _alternatives(algorithm: Algorithm, dialect: Dialect) -> dict[str, list[Any]]:
    """The values of each hyperparameter that choose a rule or what runs before it."""
    values = complete(algorithm, dialect)
    flags = [h.name for h in algorithm.hyperparameters if h.kind == "boolean" and h.name in values]
    some = [dict(zip(flags, chosen, strict=True)) for chosen in product((False, True), repeat=len(flags))]
    table = {}
    for h in algorithm.hyperparameters:
        if h.name in flags:
            table[h.name] = [False, True]
        elif h.name == "weight_decay" and h.name in values:
            table[h.name] = [0.0, 0.1]
        elif h.kind == "number" and h.name in values:
            chosen = {v: [dialect.rule({**values, **s, h.name: v}) for s in some] for v in (0.0, values[h.name], 0.9)}
            table[h.name] = [0.0, 0.9] if chosen[0.0] != chosen[0.9] else [values[h.name]]
        elif h.kind == "choice" and h.name in values:
            rules = {choice: dialect.rule({**values, h.name: choice}) for choice in h.choices}
            table[h.name] = list(h.choices) if len(set(rules.values())) > 1 else [values[h.name]]
        elif h.name in values:
            table[h.name] = [values[h.name]]
    return table


def _specifications() -> Iterator[tuple[str, Specification]]:
    for algorithm in ALGORITHMS.values():
        for name, dialect in algorithm.dialects.items():
            table = _alternatives(algorithm, dialect)
            varied = [h for h, values in table.items() if len(values) > 1]
            for chosen in product(*table.values()):
                values = dict(zip(table, chosen, strict=True))
                try:
                    dialect.check(values)
                except Invalid:
                    continue
                label = ",".join(f"{h}={values[h]}" for h in varied if values[h])
                yield f"{algorithm.name}-{name}-{label}", {"name": algorithm.name, "dialect": name, **values}


def fitting(table: dict[str, Specification], wanted: bool) -> dict[str, Specification]:
    """Those whose rules take all tensors of `layout`, or those that do not."""
    return {
        label: specification
        for label, specification in table.items()
        if any(resolve(specification).rule.fits(shape) for shape in SHAPES.values()) != wanted
    }


_EVERY = dict(_specifications())
_EVERY_DIALECT: dict[str, Specification] = {
    f"{algorithm.name}-{name}": {"name": algorithm.name, "dialect": name, **complete(algorithm, dialect)}
    for algorithm in ALGORITHMS.values()
    for name, dialect in algorithm.dialects.items()
}
SPECIFICATIONS = fitting(_EVERY, True)
DIALECTS = fitting(_EVERY_DIALECT, True)
OF_SOME_SHAPES = fitting(_EVERY, False) | fitting(_EVERY_DIALECT, False)  # tested in test_matrices


def gradients(steps: int, dtype: str = "float64", seed: int = 7) -> list[Array]:
    """Flat gradients for `layout`, with zeros of both signs in them; more steps go on where fewer end."""
    random = np.random.default_rng(seed)
    size = layout().size
    rows = 10.0 ** random.integers(-4, 2, size=(1, size)) * random.normal(size=(steps, size))
    rows[:, 0] = 0.0
    rows[::2, 1] = -0.0
    return [row.astype(DTYPES[dtype]) for row in rows]


def start(dtype: str = "float64") -> Array:
    """Flat parameters for `layout`."""
    return np.random.default_rng(3).normal(size=layout().size).astype(DTYPES[dtype])


LOSS = 1.5  # what a step is told that needs the loss


def advance(optimizer: Optimizer, state: State, row: Array, absent: Sequence[int] = ()) -> State:
    """The state after one more step, which is told a loss if it needs one."""
    return optimizer.step(state, row, absent, LOSS if optimizer.wants != "gradient" else None).state


def run(optimizer: Optimizer, rows: list[Array], state: State | None = None) -> State:
    """The fold over these gradients."""
    state = optimizer.init(start(optimizer.layout.as_json()["dtype"])) if state is None else state
    for row in rows:
        state = advance(optimizer, state, row)
    return state


def trajectory(specification: Any, rows: list[float], at: float = 0.0, **more: Any) -> list[float]:
    """The positions of a single parameter, the first one included."""
    optimizer = build(specification, Layout(("x",), ((1,),), DTYPES["float64"]), **more)
    state = optimizer.init(np.array([at]))
    positions = [at]
    for g in rows:
        state = advance(optimizer, state, np.array([g]))
        positions.append(float(state.params[0]))
    return positions


def bits(array: Array) -> bytes:
    """What tells apart what == does not: signed zeros. Every NaN counts as the same."""
    clean = np.ascontiguousarray(array).copy()
    clean[np.isnan(clean)] = np.nan
    return clean.tobytes()


def same(a: State, b: State) -> bool:
    """Whether two states are the same bits."""
    return (a.step, a.counts) == (b.step, b.counts) and [*map(bits, (a.params, *a.slots))] == [
        *map(bits, (b.params, *b.slots))
    ]
