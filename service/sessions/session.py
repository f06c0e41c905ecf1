"""A session in memory: the fold of its log up to its newest row.

Forgetting one loses nothing; `Engine` loads it again from a snapshot and the rows after it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from service.errors import Invalid
from service.optim.optimizer import Optimizer, State, build
from service.optim.tensors import Layout
from service.sessions import log
from service.sessions.log import Snapshot

Timeline = tuple[tuple[int, int], ...]


@dataclass(slots=True)
class Session:
    """Where a session stands.

    number     of its newest row; `step` is the step count, which patches do not advance
    durable    the newest step that is known to be durable
    snapshot   number of the newest snapshot that was handed to the store
    updated    time of the newest row, seconds since the epoch
    """

    id: str
    head: dict[str, Any]
    layout: Layout
    optimizer: Optimizer
    state: State
    number: int = 0
    step: int = 0
    durable: int = 0
    snapshot: int = 0
    updated: float = 0.0
    timeline: Timeline = ((1, 0),)
    stale: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, so that the log has all that is here."""
        return self.durable == self.step and not self.lock.locked()

    @property
    def bytes(self) -> int:
        """What the state takes in memory."""
        return self.state.params.nbytes * (1 + len(self.state.slots))


def of(id: str, head: dict[str, Any], snapshot: Snapshot) -> Session:
    """The session as a snapshot has it."""
    layout = Layout.from_json(head["layout"])
    return Session(
        id,
        head,
        layout,
        bind(snapshot.optimizer, layout),
        snapshot.state,
        number=snapshot.number,
        step=snapshot.step,
        durable=snapshot.step,
        snapshot=snapshot.number,
        updated=head["created"],
        timeline=snapshot.timeline,
    )


def bind(resolved: dict[str, Any], layout: Layout) -> Optimizer:
    """The optimizer of a resolved specification with its transforms and groups."""
    return build(resolved["optimizer"], layout, resolved["transforms"], resolved["groups"])


def freeze(session: Session) -> Snapshot:
    """The snapshot of where the session stands."""
    return Snapshot(session.number, session.step, session.timeline, session.optimizer.as_json(), session.state)


def apply(session: Session, number: int, event: dict[str, Any], payload: bytes | None) -> None:
    """Take one more row into the fold. A step's payload must still be there."""
    if event["kind"] == "step":
        if not event.get("skipped"):
            assert payload is not None
            values = log.gradient(payload, session.layout)
            session.state = session.optimizer.step(session.state, values, tuple(event.get("absent", ()))).state
        session.step = session.durable = event["step"]
    else:
        session.optimizer = patched(session.optimizer, event["hyperparameters"])
        earlier = tuple(pair for pair in session.timeline if pair[0] <= session.step)
        session.timeline = (*earlier, (session.step + 1, number - session.step))
    session.number = number
    session.updated = event["time"]


def patched(optimizer: Optimizer, changes: dict[str, Any]) -> Optimizer:
    """The optimizer with other hyperparameters and the same state.

    Raises Invalid with pointers below /hyperparameters: an unknown or wrong value, or one that changes which state
    is kept.
    """
    resolved = optimizer.as_json()
    for fixed in ("name", "dialect", "like"):
        if fixed in changes:
            raise Invalid(
                f"{fixed} is fixed for a session's life; create a new session.", pointer=f"/hyperparameters/{fixed}"
            )
    resolved["optimizer"] |= changes
    try:
        new = bind(resolved, optimizer.layout)
    except Invalid as error:
        places = [p._replace(pointer=p.pointer.replace("/optimizer", "/hyperparameters", 1)) for p in error.places]
        raise Invalid(error.detail, places=places) from None
    if new.rule is not optimizer.rule:
        kept, wanted = list(optimizer.rule.slots), list(new.rule.slots)
        raise Invalid(
            f"This would change which state is kept, from {kept} to {wanted}; create a new session instead.",
            pointer="/hyperparameters",
        )
    return new


def row_of(timeline: Timeline, step: int) -> int:
    """The number of the row in which a step stands; 0 for step 0."""
    if step == 0:
        return 0
    return step + next(offset for first, offset in reversed(timeline) if first <= step)
