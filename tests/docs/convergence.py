"""How low every optimizer comes on five functions, with its default learning rate and with the best of a grid.

`make docs` writes service/convergence.json, which /docs/optimizers shows; a test takes samples of it again.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from service.errors import ThalwegError
from service.functions.catalogue import FUNCTIONS
from service.optim.catalogue import ALGORITHMS
from service.optim.hyperparameters import REQUIRED
from service.optim.optimizer import Optimizer, build
from service.optim.rule import Algorithm
from service.optim.tensors import DTYPES, Layout
from tests.optim.table import complete

FILE = Path(__file__).parent.parent.parent / "service" / "convergence.json"
NAMES = ("ellipsoid", "rosenbrock", "beale", "himmelblau", "ackley")
EVALUATIONS = 1000
RATES = tuple(float(f"{10 ** (k / 3):.2g}") for k in range(-15, 4))
ABOUT = (
    f"The height above the minimum after {EVALUATIONS} evaluations of the function in two dimensions, from its own "
    "start, with the defaults of the default dialect, and with the learning rate that does best of "
    f"{len(RATES)} from {RATES[0]:g} to {RATES[-1]:g} and its own. Wrappers are around Adam. A function of two "
    "parameters tells little of a network of a million: read it for what fails, and for what needs tuning."
)


def specification(algorithm: Algorithm, rate: float | None) -> dict[str, Any] | None:
    """The optimizer with this learning rate, or with its own; None where it has none to be set or by default."""
    dialect = algorithm.dialects[algorithm.default_dialect]
    values = {"name": algorithm.name, **complete(algorithm, dialect)}
    inner = values.get("optimizer")
    if rate is None:
        missing = dialect.defaults.get("learning_rate", 0.0) is REQUIRED or inner is not None
        return None if missing else values
    if inner is not None:
        return {**values, "optimizer": {**inner, "learning_rate": rate}}
    return {**values, "learning_rate": rate} if "learning_rate" in values else None


def bound(values: dict[str, Any], d: int) -> Optimizer:
    """The optimizer for a point of d numbers; as a matrix of one row where a rule takes nothing else."""
    try:
        return build(values, Layout(("x",), ((d,),), DTYPES["float64"]))
    except ThalwegError:
        return build(values, Layout(("x",), ((1, d),), DTYPES["float64"]))


def gap(values: dict[str, Any], name: str) -> float | None:
    """How far above the minimum the run ends; None where it leaves the numbers."""
    function = FUNCTIONS[name]
    start = np.array(function.start_at(2), np.float64)
    optimizer = bound(values, 2)
    state = optimizer.init(start)
    with np.errstate(all="ignore"):
        for _ in range(EVALUATIONS):
            loss = float(function.value(state.params))
            g = np.asarray(function.gradient(state.params), np.float64)
            if not (math.isfinite(loss) and np.isfinite(g).all()):
                return None
            state = optimizer.step(state, g, loss=loss).state
        end = float(function.value(optimizer.view(state, "eval")))
    lowest = min(float(m.value) for m in function.minima_at(2) if m.kind == "global")
    return max(0.0, end - lowest) if math.isfinite(end) else None


def row(algorithm: Algorithm) -> dict[str, Any]:
    """What the table says of one optimizer."""
    found = {}
    for name in NAMES:
        own = specification(algorithm, None)
        default: float | str | None = "has none" if own is None else short(gap(own, name))
        gaps = {}
        for rate in RATES if own is None else {*RATES, own.get("learning_rate", RATES[0])}:
            tried = specification(algorithm, rate)
            if tried is not None:
                gaps[rate] = gap(tried, name)
        reached = {rate: math.inf if value is None else value for rate, value in gaps.items()}
        best = min(sorted(reached), key=lambda rate: reached[rate]) if reached else None
        found[name] = {"default": default, "tuned": None if best is None else short(gaps[best]), "rate": best}
    return found


def short(value: float | None) -> float | None:
    """Two digits, which is what the table shows."""
    return None if value is None else float(f"{value:.1e}")


def table() -> dict[str, Any]:
    """The whole table; takes a few minutes."""
    functions = {name: FUNCTIONS[name].title for name in NAMES}
    optimizers = {name: row(algorithm) for name, algorithm in ALGORITHMS.items()}
    return {"about": ABOUT, "functions": functions, "optimizers": optimizers}


if __name__ == "__main__":
    FILE.write_text(json.dumps(table(), indent=1) + "\n")
