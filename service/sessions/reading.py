"""Reading a session's log: its history, what is new in it, and the session as it was at a step."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from service.errors import Conflict, Gone, NotFound, StepMismatch
from service.optim.blocks import LARGE
from service.optim.tensors import Array
from service.sessions import log
from service.sessions.access import Access
from service.sessions.followers import Followers
from service.sessions.live import PAGE, Live
from service.sessions.session import Session
from service.sessions.steps import followed, metrics
from service.sessions.timeline import begins, oldest, row_before_next, row_of, stretches
from service.sessions.work import Work
from service.sessions.writing import settle
from service.stores.base import Gap, Missing, Store

T = TypeVar("T")


class Reader:
    """Answers from the log.

    `event`, `params_after`, `fold_at` and `rewound` are for whoever has the session's lock, and raise what the store
    does; the others are for anybody.
    """

    def __init__(self, store: Store, live: Live, followers: Followers, access: Access, work: Work) -> None:
        self._store = store
        self._live = live
        self._followers = followers
        self._access = access
        self._work = work
        self._closing = False

    def history(self, session: Session, after: int, limit: int) -> tuple[list[dict[str, Any]], int | None]:
        """Metrics of at most `limit` steps above `after`, and the step to go on from."""
        last = min(session.step, max(after, begins(session.timeline)) + limit)
        found = [event for page in self._line(session, after + 1, last) for event in page]
        more = bool(found) and found[-1]["step"] < session.step
        return [metrics(event) for event in found], found[-1]["step"] if more else None

    def _line(self, session: Session, first: int, last: int) -> Iterator[list[dict[str, Any]]]:
        """The events of the steps `first` ... `last`, page by page; fewer where the rest are not written yet."""
        for start, end, offset in stretches(session.timeline, first, last):
            number, end = start + offset - 1, end + offset
            while number < end:
                rows = self._store.events(session.id, number, min(PAGE, end - number))
                if not rows:
                    return
                number = rows[-1].number
                yield [log.decode(row.event) for row in rows]

    async def follow(self, id: str, after: int | None = None) -> AsyncGenerator[dict[str, Any], None]:
        """Events above a step, then each new one once it is durable; the objects are shared by all who follow."""
        session = await self._access.open(id)
        with self._followers.watch(id) as news:
            number, first = session.number, session.step + 1 if after is None else max(after, 0) + 1
            for page in self._line(session, first, session.step):
                for past in page:
                    yield followed(past)
            while not self._closing:
                news.clear()
                new = self._followers.page(id, number, self._page)
                for row, event in new:
                    number = row
                    yield event
                if not new:
                    await self._access.open(id)  # raises what there is to say when it is gone
                    if not news.is_set():
                        await news.wait()

    def _page(self, id: str, after: int) -> list[tuple[int, dict[str, Any]]]:
        """What followers are told of the rows above a number, with the rows' numbers."""
        return [(row.number, followed(log.decode(row.event))) for row in self._store.events(id, after, PAGE)]

    async def step_at(self, session: Session, step: int) -> tuple[dict[str, Any], Array]:
        """A step's metrics and the parameters after it. Raises NotFound, Gone."""
        if not 1 <= step <= session.step:
            raise NotFound(f"The session is at step {session.step}; ask for a step from 1 to {session.step}.")

        async def look(session: Session) -> tuple[dict[str, Any], Array]:
            return metrics(await self.event(session, step)), await self.params_after(session, step)

        return await self._read(session, look)

    async def params_at(self, session: Session, step: int | None, view: str = "train") -> tuple[int, Array]:
        """The parameters after a step (the newest by default), as they are trained or as they are to be used.

        Raises NotFound, Gone, Invalid for a view that there is not.
        """
        if step in (None, session.step) and (view == "train" or session.layout.size < LARGE):
            return session.step, seen(session, view)
        there = await self.session_at(session, step)
        return there.step, seen(there, view)

    async def session_at(self, session: Session, step: int | None) -> Session:
        """The session as it was after a step (the newest by default), to look at only. Raises NotFound, Gone."""
        if step in (None, session.step):
            return session if session.layout.size < LARGE else await self._standing(session, step)
        if not 0 <= step <= session.step:
            raise NotFound(f"The session is at step {session.step}; ask for a step from 0 to {session.step}.")
        return await self._read(session, partial(self.fold_at, step=step))

    async def _standing(self, session: Session, step: int | None) -> Session:
        """The session as it is between two steps: a large one is written over the slots of its state."""

        async def look(session: Session) -> Session:
            return replace(session) if step in (None, session.step) else await self.fold_at(session, step)

        return await self._access.exclusively(session.id, look)

    async def _read(self, session: Session, look: Callable[[Session], Awaitable[T]]) -> T:
        """Look at rows that a session has; it may be deleted, or turn out to have lost them, while we look."""
        try:
            return await look(session)
        except (Missing, Gap):
            self._live.drop(session)
            await self._access.open(session.id)  # raises what there is to say of the session itself
            raise Conflict("The session changed meanwhile; send the same request again.", retry_after=1) from None

    async def event(self, session: Session, step: int) -> dict[str, Any]:
        """The event of a step that was taken. Raises Missing, or Gap where it was lost before it was durable."""
        first = begins(session.timeline)
        if step <= first:
            raise self._not_kept(session, first)
        await settle(session)
        number = row_of(session.timeline, step)
        rows = self._store.events(session.id, number - 1, 1)
        if not rows or rows[0].number != number:
            self._store.head(session.id)
            raise Gap(f"{session.id}/{number}")
        return log.decode(rows[0].event)

    async def params_after(self, session: Session, step: int) -> Array:
        """The parameters after a step that was taken. Raises Gone where they are not kept, Missing, Gap."""
        if step == session.step:
            return session.state.params
        return (await self.fold_at(session, step)).state.params

    async def fold_at(self, session: Session, step: int) -> Session:
        """The session as it was just before the step after this one was taken: with the patches made in between.

        Raises Gone where it is not kept, StepMismatch where it was not taken, Missing, Gap.
        """
        if step > session.step:
            self._access.check_newest(session)
            raise StepMismatch(
                f"The session is at step {session.step}, and step {step} was not taken.", current_step=session.step
            )
        if step < begins(session.timeline):
            raise self._not_kept(session, begins(session.timeline))
        await self.event(session, min(step + 1, session.step)) if session.step > begins(session.timeline) else None
        number = session.number if step == session.step else row_before_next(session.timeline, step)
        id, head = session.id, session.head
        loaded = await self._work.in_thread(self._live.fold, id, head, number)
        if loaded is None:
            self._store.head(id)
            first = self._store.first_snapshot(id)
            raise self._not_kept(session, session.step if first is None else self._oldest(session, first))
        return loaded

    def rewound(self, session: Session, step: int, since: int) -> bool:
        """Whether the newest turn of the living line at a step is a rewind to it from step `since`."""
        if not begins(session.timeline) <= step <= session.step:
            return False
        number = row_before_next(session.timeline, step)
        while number > 0 and (rows := self._store.events(session.id, number - 1, 1)):
            event = log.decode(rows[0].event)
            if event["kind"] != "patch":
                return bool(event["kind"] == "rewind" and (event["step"], event["from"]) == (step, since))
            number -= 1
        return False

    def _oldest(self, session: Session, first: int) -> int:
        """The oldest step of the living line that can be had when the oldest snapshot has this number."""
        return oldest(session.timeline, session.step, first)

    def _not_kept(self, session: Session, first: int) -> Gone:
        begun = begins(session.timeline)
        parent = session.head.get("parent")
        if begun and first == begun:
            before = f" Ask {parent['id']}, of which it is a fork." if parent else ""
            detail = f"This session began at step {begun}, so that there is nothing of the steps before.{before}"
        else:
            detail = (
                f"The gradients up to step {first} are no longer kept, so that parameters can be had from step {first} "
                "on; the metrics of all steps are kept."
            )
        return Gone(detail, code="step-not-kept", kept_from_step=first, current_step=session.step)

    def close(self) -> None:
        """End what follows a session."""
        self._closing = True
        self._followers.tell_all()


def seen(session: Session, view: str) -> Array:
    """The parameters in a view: "train", where gradients are taken, or "eval", where the model is used."""
    if view == "train":
        return session.state.params
    return session.optimizer.view(session.state, view)
