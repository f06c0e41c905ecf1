"""What the naive peers do with a gradient: Adam as one would write it, in memory, in a dictionary."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class State(NamedTuple):
    """Parameters, the two moments, and how many steps were taken."""

    params: np.ndarray
    m: np.ndarray
    v: np.ndarray
    step: int


def begin(params: list[float]) -> State:
    """The state before the first step."""
    array = np.array(params)
    return State(array, np.zeros_like(array), np.zeros_like(array), 0)


def advance(state: State, gradients: list[float]) -> State:
    """One step with learning rate 0.001 and the paper's other constants (Kingma and Ba 2015, algorithm 1)."""
    g = np.array(gradients)
    step = state.step + 1
    m = 0.9 * state.m + 0.1 * g
    v = 0.999 * state.v + 0.001 * g * g
    update = 0.001 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return State(state.params - update, m, v, step)
