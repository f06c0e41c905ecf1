"""Steps that were answered before they were durable, kept so that they can be sent again.

A session with durability "every:K" or "none" answers steps that a crash of the service may still lose. The service then
stands at an earlier step, and what it lost is here.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from thalweg.tensors import Checked, weight

OVERHEAD = 512  # bytes that a step takes beside its numbers


class Gradient(NamedTuple):
    """All that decides what comes of a step: its number, its gradients, the loss, and who sends it."""

    step: int
    tensors: Checked
    loss: float | None = None
    worker: str | None = None


class Ring:
    """The newest steps without a gap, as many as `limit` bytes hold."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._steps: deque[Gradient] = deque()

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def first(self) -> int | None:
        """The oldest step that is here."""
        return self._steps[0].step if self._steps else None

    def get(self, step: int) -> Gradient | None:
        """A step, or None where it is not here."""
        place = step - self._steps[0].step if self._steps else -1
        return self._steps[place] if 0 <= place < len(self._steps) else None

    def add(self, gradient: Gradient) -> None:
        """Add the newest step; the oldest leave where there is no room."""
        if self._steps and gradient.step != self._steps[-1].step + 1:
            self.clear()
        self._steps.append(gradient)
        self.bytes += _taken(gradient)
        while self.bytes > self.limit:
            self._drop()

    def settle(self, durable: int) -> None:
        """Let go of the steps up to this one, which can no longer be lost."""
        while self._steps and self._steps[0].step <= durable:
            self._drop()

    def clear(self) -> None:
        """Let go of all."""
        self._steps.clear()
        self.bytes = 0

    def _drop(self) -> None:
        self.bytes -= _taken(self._steps.popleft())


def _taken(gradient: Gradient) -> int:
    return weight(gradient.tensors) + OVERHEAD
