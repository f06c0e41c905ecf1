"""A session in memory: the fold of its log up to its newest row.

Forgetting one loses nothing; `Engine` loads it again from a snapshot and the rows after it.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import orjson

from service.errors import Invalid
from service.optim.optimizer import Optimizer, build
from service.optim.state import State
from service.optim.tensors import Layout
from service.sessions import log
from service.sessions.log import Snapshot
from service.sessions.timeline import Timeline, beginning, turned
from service.stores.base import Payload

DURABILITY = r"^(step|none|every:[1-9][0-9]{0,5})$"
SHARED = 1_024  # layouts and optimizers that sessions share
ITSELF = 3_072  # bytes that a session takes beside its state, as measured, with room for what the allocator wastes
OF_TENSOR = 512  # bytes for each tensor: its name, its shape and where it lies
MAX_SHARED = 4_096  # bytes of JSON; what takes more to say is made for each session


@dataclass(slots=True)
class Session:
    """Where a session stands.

    number     of its newest row; `step` is the step count, which patches do not advance
    durable    the newest step that is known to be durable
    snapshot   number of the newest snapshot that was handed to the store
    backlog    how many gradients are in the rows after it, and their bytes
    saving     whether a snapshot is being written
    unwritten  the newest write that was not waited for
    updated    time of the newest row, seconds since the epoch
    weight     what it counts while it is held in memory, in bytes
    torn       whether a step has been written over the slots and is not the session's newest
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
    backlog: tuple[int, int] = (0, 0)
    saving: bool = False
    unwritten: asyncio.Future[None] | None = None
    updated: float = 0.0
    timeline: Timeline = field(default_factory=partial(beginning, 0))
    stale: bool = False
    weight: int = 0
    torn: bool = False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def idle(self) -> bool:
        """Whether nothing is under way, so that the log has all that is here."""
        return self.durable == self.step and not self.lock.locked()

    def grow(self, gradients: int, size: int) -> None:
        """Note that the log has more gradients, of so many bytes in all."""
        self.backlog = self.backlog[0] + gradients, self.backlog[1] + size

    @property
    def bytes(self) -> int:
        """What the state takes in memory."""
        return self.state.params.nbytes + sum(slot.nbytes for slot in self.state.slots)


def _holders(items: tuple[Any, ...]) -> int:
    """The most references that there are to one of the items."""
    return max(map(sys.getrefcount, items), default=0)


_BY_TUPLE = _holders((object(),))  # where nothing but the tuple refers to an item


def unshared(session: Session) -> bool:
    """Whether nobody else holds the slots of the session's state, so that the next ones may be written over them.

    A snapshot under way holds them, a fork and a checkpoint that is being sent. Whoever wants to must have the
    session's lock for it. Always False where references are not counted.
    """
    if sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return False
    alone = _BY_TUPLE + 1  # by the object that it belongs to, too
    return (
        _holders((session.state,)) == alone
        and _holders((session.state.slots,)) == alone
        and _holders(session.state.slots) <= _BY_TUPLE
    )


def of(id: str, head: dict[str, Any], snapshot: Snapshot) -> Session:
    """The session as a snapshot has it."""
    optimizer = _bound(head, snapshot.optimizer)
    return Session(
        id,
        head,
        optimizer.layout,
        optimizer,
        snapshot.state,
        number=snapshot.number,
        step=snapshot.step,
        durable=snapshot.step,
        snapshot=snapshot.number,
        updated=head["created"],
        timeline=snapshot.timeline,
    )


def weigh(session: Session) -> int:
    """About how many bytes of memory a session takes: its state, itself, and what is said of it and of its tensors."""
    labels = session.head["labels"]
    texts = sum(len(key) + len(value) for key, value in labels.items()) if labels else 0
    return session.bytes + ITSELF + OF_TENSOR * len(session.layout.names) + texts


def expires(head: dict[str, Any], updated: float) -> float | None:
    """When a session with this newest row expires, if it does."""
    seconds = head["ttl_seconds"]
    return None if seconds is None else float(updated + seconds)


def layout_of(head: dict[str, Any]) -> Layout:
    """The layout of a session with this head; one object for all that are alike."""
    text = orjson.dumps(head["layout"])
    return _shared_layout(text) if len(text) <= MAX_SHARED else Layout.from_json(head["layout"])


@lru_cache(SHARED)
def _shared_layout(text: bytes) -> Layout:
    return Layout.from_json(orjson.loads(text))


def _bound(head: dict[str, Any], resolved: dict[str, Any]) -> Optimizer:
    """The optimizer of a session; it holds no state, so that one object serves all that are alike."""
    layout, text = orjson.dumps(head["layout"]), orjson.dumps(resolved)
    if len(layout) + len(text) <= MAX_SHARED:
        return _shared_optimizer(layout, text)
    return bind(resolved, layout_of(head))


@lru_cache(SHARED)
def _shared_optimizer(layout: bytes, text: bytes) -> Optimizer:
    return bind(orjson.loads(text), _shared_layout(layout))


def bind(resolved: dict[str, Any], layout: Layout) -> Optimizer:
    """The optimizer of a resolved specification with its transforms and groups."""
    return build(resolved["optimizer"], layout, resolved["transforms"], resolved["groups"])


def freeze(session: Session) -> Snapshot:
    """The snapshot of where the session stands."""
    return Snapshot(session.number, session.step, session.timeline, session.optimizer.as_json(), session.state)


def apply(session: Session, number: int, event: dict[str, Any], payload: Payload | None) -> None:
    """Take one more row into the fold. A step's payload must still be there.

    Before a rewind the session must stand where it leads: at the last row of its step.
    """
    if event["kind"] == "step":
        if not event.get("skipped"):
            assert payload is not None
            values, rows = log.gradient(payload, session.layout, event.get("rows", ()))
            absent, loss = tuple(event.get("absent", ())), event.get("loss")
            session.state = session.optimizer.step(session.state, values, absent, loss, rows).state
        session.step = session.durable = event["step"]
        session.grow(1, len(payload or b""))
    else:
        if event["kind"] == "patch":
            session.optimizer = patched(session.optimizer, event["hyperparameters"])
        session.step = session.durable = event["step"]
        session.timeline = turned(session.timeline, session.step, number)
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
    if new.rule is not optimizer.rule or new.places != optimizer.places:
        kept, wanted = list(optimizer.slot_names), list(new.slot_names)
        raise Invalid(
            f"This would change which state is kept, from {kept} to {wanted}; create a new session instead.",
            pointer="/hyperparameters",
        )
    if new.following != optimizer.following:
        raise Invalid(
            "A schedule that follows the loss goes on from what it has seen and cannot be exchanged; create a new "
            "session instead.",
            pointer="/hyperparameters",
        )
    return new
