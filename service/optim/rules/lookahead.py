"""Lookahead: slow parameters that follow a wrapped optimizer's fast ones; and what a wrapper sees of a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from service.optim.hyperparameters import REQUIRED, Hyperparameter
from service.optim.rule import PARAMETERS, Algorithm, Dialect, Rule, Values, where


class Scalars(NamedTuple):
    """Scalars of `lookahead`; whole numbers and flags are floats."""

    sync_period: float
    slow_step_size: float
    reset_state: float


def change(step: Callable[..., Any], p: Any, g: Any) -> Any:
    """What the wrapped optimizer adds to p, with digits that are lost in the sum.

    Most rules add a step that does not depend on p: the step from zero is then that, exactly, and p plus it is p's
    successor to the last bit. Where it is not (weight decay, for one), the difference is what there is.
    """
    alone, after = step(np.zeros_like(p), g), step(p, g)
    return where(p + alone == after, alone, after - p)


def lookahead(p: Any, g: Any, step: Callable[..., Any], slow: Any, since: Any, c: Scalars) -> Any:
    """θ ← θ + u; in every k-th step φ ← φ + α (θ + u - φ) and θ ← φ, added up as optax does."""
    count = float(since[()]) + 1.0
    if count < c.sync_period:
        return step(p, g), slow, count
    restart = bool(c.reset_state)
    u = change(lambda at, gradient: step(at, gradient, restart=restart), p, g)
    apart = p + u - slow
    return p + (u - (1.0 - c.slow_step_size) * apart), slow + c.slow_step_size * apart, 0.0


def pull_back(p: Any, g: Any, step: Callable[..., Any], slow: Any, since: Any, c: Scalars) -> Any:
    """The same as the paper has it: φ ← φ + α (θ - φ), θ ← φ (Algorithm 1)."""
    count = float(since[()]) + 1.0
    if count < c.sync_period:
        return step(p, g), slow, count
    slow = slow + c.slow_step_size * (step(p, g, restart=bool(c.reset_state)) - slow)
    return slow, slow, 0.0


def _slow(values: Values, p: Any, slow: Any, since: Any) -> Any:
    return slow


_SLOTS = ("slow_parameters", "steps_since_sync")
_LOOKAHEAD = Rule(
    lookahead,
    _SLOTS,
    {"slow_parameters": PARAMETERS},
    span="all",
    shapes={"steps_since_sync": ()},
    view=_slow,
    wraps=True,
)
_PULL_BACK = Rule(
    pull_back,
    _SLOTS,
    {"slow_parameters": PARAMETERS},
    span="all",
    shapes={"steps_since_sync": ()},
    view=_slow,
    wraps=True,
)


def _optax(values: Values) -> Rule:
    return _LOOKAHEAD


def _paper(values: Values) -> Rule:
    return _PULL_BACK


def _scalars(values: Values, t: int) -> Scalars:
    return Scalars(float(values["sync_period"]), values["slow_step_size"], float(values["reset_state"]))


OPTIMIZER = Hyperparameter("optimizer", "The optimizer that takes the steps; it is said as any other is.", "optimizer")

LOOKAHEAD = Algorithm(
    name="lookahead",
    title="Lookahead",
    summary="Slow parameters that every k steps go part of the way to where a fast optimizer has got.",
    equation=r"\phi_{t} = \phi_{t-1} + \alpha\, (\theta_{t,k} - \phi_{t-1}), \qquad \theta_{t+1,0} = \phi_t",
    source="M. Zhang, J. Lucas, G. Hinton and J. Ba, Lookahead Optimizer: k steps forward, 1 step back, NeurIPS 2019, "
    "arXiv:1907.08610.",
    when="To calm an optimizer whose rate is high, at the price of one copy of the parameters; evaluate with the slow "
    "ones. It does not mend a rate at which the fast optimizer diverges.",
    hyperparameters=(
        OPTIMIZER,
        Hyperparameter("sync_period", "Steps k of the fast optimizer to one of the slow.", "integer", low=1),
        Hyperparameter("slow_step_size", "How far the slow parameters go, α: 1 is all the way.", low=0.0, high=1.0),
        Hyperparameter("reset_state", "Start the fast optimizer's state anew after each slow step.", "boolean"),
    ),
    dialects={
        "optax": Dialect(
            {"optimizer": REQUIRED, "sync_period": REQUIRED, "slow_step_size": REQUIRED, "reset_state": False},
            _optax,
            _scalars,
            differs="Nothing has a default. Both kinds of parameters move by sums of their own, so that they may "
            "differ in their last digits after they were made the same.",
        ),
        "paper": Dialect(
            {"optimizer": REQUIRED, "sync_period": 5, "slow_step_size": 0.8, "reset_state": False},
            _paper,
            _scalars,
            differs="The fast parameters become the slow ones; five steps and 0.8 are the authors' code's.",
        ),
    },
    kind="wrapper",
    default_dialect="paper",
)

ALGORITHMS = (LOOKAHEAD,)
