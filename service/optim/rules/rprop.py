"""Rprop: the gradient's sign alone, and a step size per coordinate that its changes set."""

from __future__ import annotations

from typing import Any, NamedTuple

from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.rule import MAXIMIZE, Algorithm, Dialect, Rule, Values, maximum, minimum, sign, where


class Scalars(NamedTuple):
    """Scalars of both forms."""

    decrease: float
    increase: float
    smallest: float
    largest: float
    one: float
    zero: float


def rprop(p: Any, g: Any, previous: Any, step: Any, c: Scalars) -> Any:
    """The step grows where the sign stays and shrinks where it turns; p ← p - step sign(g), at rest after a turn."""
    turn = g * previous
    factor = where(turn > c.zero, c.increase, where(turn < c.zero, c.decrease, c.one))
    step = minimum(maximum(step * factor, c.smallest), c.largest)
    g = where(turn < c.zero, c.zero, g)
    return p - sign(g, c.one, c.zero) * step, g, step


def rprop_stale(p: Any, g: Any, previous: Any, step: Any, c: Scalars) -> Any:
    """As optax has it: each step takes the move that the last one computed; `previous` holds that move."""
    turn = g * previous
    factor = where(turn > c.zero, c.increase, c.decrease)
    step = where(turn == c.zero, step, minimum(maximum(step * factor, c.smallest), c.largest))
    move = where(turn < c.zero, c.zero, step * sign(g, c.one, c.zero))
    return p - where(turn < c.zero, c.zero, previous), move, step


_RPROP = Rule(rprop, ("previous_gradient", "step_size"), {"step_size": "learning_rate"})
_STALE = Rule(rprop_stale, ("previous_move", "step_size"), {"step_size": "learning_rate"})


def _choose(values: Values) -> Rule:
    return _RPROP


def _choose_stale(values: Values) -> Rule:
    return _STALE


def _scalars(values: Values, t: int) -> Scalars:
    return Scalars(
        values["decrease_factor"],
        values["increase_factor"],
        values["smallest_step"],
        values["largest_step"],
        1.0,
        0.0,
    )


_DEFAULTS = {"decrease_factor": 0.5, "increase_factor": 1.2, "smallest_step": 1e-6, "largest_step": 50.0}

RPROP = Algorithm(
    name="rprop",
    title="Rprop",
    summary="Steps of a size of their own per coordinate: longer while the gradient keeps its sign, shorter after a "
    "turn.",
    equation=r"\theta_t = \theta_{t-1} - \Delta_t\, \mathrm{sign}(g_t), \qquad \Delta_t = \eta^{\pm} \Delta_{t-1} "
    r"\quad \mathrm{as} \quad g_t\, g_{t-1} \gtrless 0",
    source="M. Riedmiller and H. Braun, A direct adaptive method for faster backpropagation learning: the RPROP "
    "algorithm, IEEE ICNN 1993, doi:10.1109/ICNN.1993.298623.",
    when="Full batches, where the sign of the gradient can be trusted; it is indifferent to the gradient's size. With "
    "mini-batches the signs are noise and the steps shrink.",
    hyperparameters=(
        Hyperparameter(
            "learning_rate", "What each step size starts at; later it changes nothing.", low=0.0, schedulable=False
        ),
        Hyperparameter("decrease_factor", "η⁻, by which a step shrinks after a turn.", above=0.0, below=1.0),
        Hyperparameter("increase_factor", "η⁺, by which a step grows while the sign stays.", above=1.0),
        Hyperparameter("smallest_step", "No step is shorter.", low=0.0),
        Hyperparameter("largest_step", "No step is longer.", low=0.0),
        MAXIMIZE,
    ),
    dialects={
        "torch": Dialect(
            {"learning_rate": 1e-2, **_DEFAULTS, "maximize": False},
            _choose,
            _scalars,
            counter="parameter",
            differs="Without backtracking (iRprop⁻): after a turn a coordinate rests for one step.",
        ),
        "optax": Dialect(
            {"learning_rate": REQUIRED, **_DEFAULTS},
            _choose_stale,
            _scalars,
            differs="Each step takes the move that the step before computed, so that the first does not move at all.",
            known_bugs=(
                "optax.rprop returns its previous update instead of the new one: every step is one gradient late. "
                "The dialect torch is the algorithm.",
            ),
        ),
    },
)

ALGORITHMS = (RPROP,)
