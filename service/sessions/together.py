"""Plain steps of many sessions, worked out in one pass and written in one piece.

A step alone pays for its own array operations, its own write and its own wait. Where many are asked for at once, those
of one optimizer are worked out as the rows of one array, and all that are plain share a write and what waits for it.
Whatever is not plain is left to be taken by itself; what is done here is what would be done there.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import numpy as np

from service.errors import ThalwegError, Unavailable
from service.optim.tensors import Array
from service.optim.together import stacked, step_together, steps_in_a_row
from service.sessions import log
from service.sessions.chain import advance, claim
from service.sessions.followers import Followers
from service.sessions.live import Live
from service.sessions.session import Session
from service.sessions.steps import Computed, Moved, Stepped, answered, compute, length, recorded
from service.sessions.work import INLINE
from service.sessions.writing import Writer
from service.stores.base import Entry, Store, StoreError
from service.wire.steps import StepRequest
from service.wire.trees import Flat, stack

Asked = tuple[str, StepRequest]  # which session, and its step
Written = asyncio.Future[list[StoreError | None]]


class _Taken(NamedTuple):
    """A step that is being taken: its place among those asked for, and what it is of."""

    place: int
    session: Session
    request: StepRequest


class Group:
    """Steps asked for together; nothing of their sessions is changed before they are written.

    outcomes   for each, in the end, what is answered, or None where it has to be taken by itself
    written    the write of those that were worked out, which is done when they have their outcomes; or None
    held       the places of those
    """

    def __init__(self, size: int) -> None:
        self.outcomes: list[Stepped | ThalwegError | None] = [None] * size
        self.written: Written | None = None
        self.steps: list[tuple[_Taken, Computed]] = []

    @property
    def held(self) -> set[int]:
        return {taken.place for taken, _ in self.steps}


class Together:
    """Takes steps together; `now` is the time that they are given."""

    def __init__(
        self, store: Store, live: Live, followers: Followers, writer: Writer, now: Callable[[], float]
    ) -> None:
        self._store = store
        self._live = live
        self._followers = followers
        self._writer = writer
        self._now = now

    def begin(self, asked: Sequence[Asked]) -> Group:
        """Work out those that can be taken together, and begin to write them; their sessions are held until then."""
        group = Group(len(asked))
        alike: dict[int, list[_Taken]] = {}
        self._live.fetch(name for name, _ in asked)
        try:
            for place, (name, request) in enumerate(asked):
                session = self._live.at_hand(name)
                if session is None or not self._plain(session, request):
                    continue
                if claim(session.lock):
                    alike.setdefault(id(session.optimizer), []).append(_Taken(place, session, request))
            now = self._now()
            for members in alike.values():
                self._work_out(group, members, now)
            if group.steps:
                rows = [self._row(taken.session, done) for taken, done in group.steps]
                group.written = self._store.append_all(rows)
                group.written.add_done_callback(lambda written: self._end(group, written))
        except BaseException:
            for taken in chain.from_iterable(alike.values()):
                if taken.session.lock.locked():
                    taken.session.lock.release()
            raise
        return group

    def _row(self, session: Session, done: Computed) -> Entry:
        return Entry(session.id, session.number + 1, log.encode(done.event), done.payload)

    def _end(self, group: Group, written: Written) -> None:
        """Make the steps their sessions', or say why they are not.

        None is said only of what was surely not written: whoever takes that by itself must not take it twice.
        """
        unclear = Unavailable("This step may or may not have been taken; send the same request again.", retry_after=1)
        for taken, _ in group.steps:
            group.outcomes[taken.place] = unclear
        try:
            refusals = self._writer.outcome(written)
            for (taken, done), refusal in zip(group.steps, refusals, strict=True):
                if refusal is None:
                    group.outcomes[taken.place] = self._advance(taken, done)
                else:  # another writer was faster, or it is gone: look again
                    self._live.drop(taken.session)
                    group.outcomes[taken.place] = None
        except ThalwegError as error:
            for taken, _ in group.steps:
                group.outcomes[taken.place] = error
        finally:
            for taken, _ in group.steps:
                if group.outcomes[taken.place] is unclear:
                    self._live.drop(taken.session)
                taken.session.lock.release()

    def _advance(self, taken: _Taken, done: Computed) -> Stepped:
        session = taken.session
        advance(session, done)
        session.durable = session.step
        self._followers.tell(session.id)
        self._writer.snapshot_if_due(session)
        return answered(session.layout, done, taken.request.returning, session.step)

    def _plain(self, session: Session, request: StepRequest) -> bool:
        """Whether a session's next step can be taken here, now: nothing has to be waited for but the disk."""
        return (
            not session.lock.locked()
            and session.optimizer.work <= INLINE
            and (request.step is None or request.step == session.step + 1)
            and request.worker is None
            and "aggregate" not in session.head
            and self._writer.waits(session)
            and (session.head["ttl_seconds"] is None or not self._live.expired(session.head, session.updated))
        )

    def _work_out(self, group: Group, members: list[_Taken], now: float) -> None:
        """The steps of sessions of one optimizer; those that cannot be in company are worked out alone."""
        for taken, done in zip(members, _computed(members, now), strict=True):
            try:
                group.steps.append((taken, done or _alone(taken, now)))
            except ThalwegError as error:
                group.outcomes[taken.place] = error
                taken.session.lock.release()


def in_a_row(session: Session, requests: Sequence[StepRequest], now: float, most: int) -> list[Computed]:
    """The session's next steps, at most so many, as far as there is nothing special about them; perhaps none.

    They rest on one another: they hold if they are taken in this order with nothing between them.
    """
    count = 0
    while count < min(most, len(requests)) and requests[count].step in (None, session.step + count + 1):
        count += 1
    plain = session.optimizer.stacks and isinstance(session.state.counts, int) and "aggregate" not in session.head
    if count < 2 or not plain or any(request.worker is not None for request in requests[:count]):
        return []
    gradients = stack([request.tree for request in requests[:count]], session.layout)
    if gradients is None:
        return []
    states, rates = steps_in_a_row(session.optimizer, session.state, gradients)
    params = stacked([session.state.params, *(state.params for state in states)])
    with np.errstate(all="ignore"):
        updates = params[1:] - params[:-1]
    kept = np.concatenate([array for state in states for array in (state.params, *state.slots)])
    finite = np.isfinite(kept).reshape(count, -1).all(axis=1).tolist()
    found: list[Computed] = []
    ahead = replace(session)
    for i, (norm, moved) in enumerate(zip(_norms(gradients), _norms(updates), strict=True)):
        if norm is None or moved is None or not finite[i]:
            break
        flat = Flat(gradients[i])
        its = Moved(states[i], updates[i], rates[i], norm, moved)
        found.append(recorded(ahead, flat, flat, requests[i].loss, now, its))
        ahead.step += 1
    return found


def _alone(taken: _Taken, now: float) -> Computed:
    """One step by itself; raises what `compute` raises."""
    return compute(taken.session, taken.request.read(taken.session.layout), taken.request.loss, now)


def _computed(members: list[_Taken], now: float) -> list[Computed | None]:
    """The steps as rows of one array; None for those to be looked at alone: a gradient of zeros, what overflows."""
    found: list[Computed | None] = [None] * len(members)
    optimizer = members[0].session.optimizer
    if len(members) == 1 or not optimizer.stacks:
        return found
    gradients = stack([taken.request.tree for taken in members], optimizer.layout)
    states = [taken.session.state for taken in members]
    if gradients is None or not all(isinstance(state.counts, int) for state in states):
        return found
    after = step_together(optimizer, states, gradients)
    with np.errstate(all="ignore"):
        updates = after.params - stacked([state.params for state in states])
    finite = np.isfinite(np.concatenate((updates, *after.slots), axis=1)).all(axis=1).tolist()
    new = after.states(states)
    for i, (taken, norm, moved) in enumerate(zip(members, _norms(gradients), _norms(updates), strict=True)):
        if norm is not None and moved is not None and finite[i]:
            flat = Flat(gradients[i])
            its = Moved(new[i], updates[i], after.rates[i], norm, moved)
            found[i] = recorded(taken.session, flat, flat, taken.request.loss, now, its)
    return found


@np.errstate(all="ignore")
def _norms(rows: Array) -> list[float | None]:
    """The length of each row as `length` has it, None where that has to look twice."""
    if rows.dtype != np.float64:
        return [found if math.isfinite(found := length(row)) else None for row in rows]
    totals: list[float] = np.add.reduce(rows * rows, axis=1).tolist()
    return [math.sqrt(total) if 0.0 < total < math.inf else None for total in totals]
