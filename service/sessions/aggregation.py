"""Several workers on one session: the parts of a step, gathered until all are there.

A part waits in memory and is nowhere else: a crash before the last one loses the parts, and the workers send again.
Parts are added in the order of the workers' names, so that the bits do not depend on who came first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from service.errors import Invalid, StepMismatch, StepReused, ThalwegError, TimedOut, Unavailable
from service.optim.tensors import Array
from service.sessions.session import Session
from service.wire.trees import Flat

MAX_WORKERS = 1024
MAX_NAME = 128


class Plan(NamedTuple):
    """How many workers a session has, and how their parts become one gradient.

    quorum   with at least so many parts, a step is taken without the others when the time is up
    """

    workers: int
    mode: Literal["mean", "sum"]
    timeout_seconds: float
    quorum: int


class Part(NamedTuple):
    """What one worker sent; `digest` tells whether it sends the same again."""

    flat: Flat
    loss: float | None
    digest: str


class Round:
    """The parts of one step, and the outcome that all who sent one wait for."""

    def __init__(self, step: int, plan: Plan) -> None:
        self.step = step
        self.plan = plan
        self.parts: dict[str, Part] = {}
        self.outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.outcome.add_done_callback(_heard)
        self.timer: asyncio.TimerHandle | None = None

    @property
    def full(self) -> bool:
        """Whether nobody is missing."""
        return len(self.parts) == self.plan.workers

    @property
    def bytes(self) -> int:
        """What the parts take in memory."""
        return sum(part.flat.values.nbytes for part in self.parts.values())

    def digests(self) -> dict[str, str]:
        """Who sent what."""
        return {name: self.parts[name].digest for name in sorted(self.parts)}

    def combined(self) -> tuple[Flat, float | None]:
        """The one gradient and the one loss. Without a gradient is a tensor that is so in every part; else it is zero
        where it is absent. The loss is that of the parts that have one."""
        parts = [self.parts[name] for name in sorted(self.parts)]
        total = parts[0].flat.values.copy()
        for part in parts[1:]:
            total += part.flat.values
        absent = set(parts[0].flat.absent).intersection(*(part.flat.absent for part in parts))
        rows = {i: _rows(i, parts) for i in sorted(set[int]().union(*(part.flat.rows for part in parts)))}
        losses = [part.loss for part in parts if part.loss is not None]
        loss = sum(losses) if losses else None
        if self.plan.mode == "mean":
            total /= total.dtype.type(len(parts))
            loss = None if loss is None else loss / len(losses)
        return Flat(total, tuple(sorted(absent)), {i: those for i, those in rows.items() if those is not None}), loss

    def late(self, known: Mapping[str, Any]) -> TimedOut:
        """The error when the time is up and too few came; `known` are workers of the step before."""
        missing = sorted(known.keys() - self.parts.keys())
        absent = self.plan.workers - len(self.parts)
        named = f": {', '.join(missing)}" if missing else ""
        return TimedOut(
            f"{absent} of {self.plan.workers} workers did not send their part of step {self.step} within "
            f"{self.plan.timeout_seconds:g} seconds{named}. The step was not taken; let all send their parts again.",
            code="aggregation-timeout",
            current_step=self.step - 1,
            arrived=sorted(self.parts),
            missing=missing,
            missing_count=absent,
        )


def _rows(i: int, parts: Sequence[Part]) -> Array | None:
    """The rows that a tensor has in any part; None where a part has all of them."""
    found = [part.flat.rows.get(i) for part in parts if i not in part.flat.absent]
    given = [rows for rows in found if rows is not None]
    return np.unique(np.concatenate(given)) if len(given) == len(found) else None


def _heard(outcome: asyncio.Future[Any]) -> None:
    """Those who waited may all be gone; an error that nobody hears of is none."""
    if not outcome.cancelled():
        outcome.exception()


class Rounds:
    """The open rounds by session; together they hold at most `max_bytes` of parts."""

    def __init__(self, max_bytes: int) -> None:
        self._open: dict[str, Round] = {}
        self._max_bytes = max_bytes
        self._bytes = 0

    def __contains__(self, id: str) -> bool:
        return id in self._open

    def get(self, id: str) -> Round | None:
        """The open round of a session."""
        return self._open.get(id)

    def join(self, session: Session, worker: str, part: Part, end: Callable[[Round], None]) -> Round:
        """Add a part to the round of the session's next step, the first one opening it.

        `end` is called with the round when its time is up. Raises StepReused where the worker sent another part,
        Unavailable where there is no room.
        """
        step = session.step + 1
        round = self._open.get(session.id)
        if round is not None and round.step != step:
            self.fail(session.id, moved(round.step, session.step))
            round = None
        if round is not None and (given := round.parts.get(worker)) is not None:
            if given.digest != part.digest:
                raise StepReused(
                    f"The worker {worker} has sent another part of step {step}; send the same again, or go on.",
                    pointer="/worker",
                    current_step=session.step,
                )
            return round
        size = part.flat.values.nbytes
        if self._bytes + size > self._max_bytes:
            raise Unavailable("Too many parts wait for the other workers; send this one again later.", retry_after=1)
        if round is None:
            plan = Plan(**session.head["aggregate"])
            round = self._open[session.id] = Round(step, plan)
            loop = asyncio.get_running_loop()
            round.timer = loop.call_later(plan.timeout_seconds, end, round)
        round.parts[worker] = part
        self._bytes += size
        return round

    def finish(self, id: str, outcome: Any) -> None:
        """Tell all who wait what came of the open round."""
        if (round := self._close(id)) is not None and not round.outcome.done():
            round.outcome.set_result(outcome)

    def fail(self, id: str, error: ThalwegError) -> None:
        """Tell all who wait that nothing came of the open round."""
        if (round := self._close(id)) is not None and not round.outcome.done():
            round.outcome.set_exception(error)

    def fail_all(self, error: ThalwegError) -> None:
        """The same for every round."""
        for id in list(self._open):
            self.fail(id, error)

    def _close(self, id: str) -> Round | None:
        round = self._open.pop(id, None)
        if round is not None:
            self._bytes -= round.bytes
            if round.timer is not None:
                round.timer.cancel()
        return round


def moved(step: int, current: int) -> ThalwegError:
    """The error for a part of a step that is no longer the next one."""
    return StepMismatch(
        f"The session went to step {current} while the parts of step {step} were gathered; read it and go on from "
        "there.",
        current_step=current,
    )


def check_worker(session: Session, worker: str | None) -> None:
    """Raises Invalid unless a step names its worker exactly where the session has several."""
    if session.head.get("aggregate") is None:
        raise Invalid(
            "This session has one writer; leave worker out, or create a session with aggregate.", pointer="/worker"
        )
    if worker is None:
        raise Invalid("Several workers share this session; a step needs worker, the sender's name.", pointer="/worker")
    if not 0 < len(worker) <= MAX_NAME:
        raise Invalid(f"A worker's name has 1 to {MAX_NAME} characters.", pointer="/worker")
