"""Writing a session's rows and snapshots: when the answer waits for it, and what comes of it when nobody does."""

from __future__ import annotations

import asyncio
import logging
from typing import TypeVar

from service.errors import OutOfSpace, Unavailable
from service.sessions import log, retention
from service.sessions.followers import Followers
from service.sessions.live import Live
from service.sessions.log import Snapshot
from service.sessions.session import Session, freeze
from service.sessions.work import Work
from service.settings import Settings
from service.stores.base import Full, Missing, Payload, Store, StoreError

T = TypeVar("T")
LARGE = 1 << 18  # bytes; a larger state is packed into a snapshot by the engine's threads

logger = logging.getLogger("thalweg")


class Writer:
    """Waits for writes, looks after those that nobody waits for, and adds snapshots when they are due.

    `unwritten` is how many bytes of steps were answered before they were written.
    """

    def __init__(self, store: Store, settings: Settings, live: Live, followers: Followers, work: Work) -> None:
        self._store = store
        self._settings = settings
        self._live = live
        self._followers = followers
        self._work = work
        self._spared = retention.spared(settings)
        self.unwritten = 0

    def waits(self, session: Session) -> bool:
        """Whether the step about to be taken is answered only when it is durable."""
        durability = session.head["durability"]
        if durability == "step" or self.unwritten > self._settings.max_unwritten_bytes:
            return True
        return durability != "none" and (session.step + 1) % int(durability.removeprefix("every:")) == 0

    async def written(self, write: asyncio.Future[T]) -> T:
        """Wait until a write is durable. Raises what the store refused, or Unavailable when the outcome is open."""
        try:
            return await write
        except Exception as error:
            raise _told(error) from None

    def outcome(self, write: asyncio.Future[T]) -> T:
        """What came of a write that is done. Raises what `written` raises."""
        try:
            return write.result()
        except Exception as error:
            raise _told(error) from None

    def later(self, write: asyncio.Future[None], session: Session, step: int, size: int) -> None:
        """A write that nobody waits for: when it fails, the session is loaded again from what is there."""

        def finished(done: asyncio.Future[None]) -> None:
            self._work.pending.discard(done)
            self.unwritten -= size
            if done.cancelled():
                return
            if done.exception() is None:
                session.durable = max(session.durable, step)
                self._followers.tell(session.id)
            elif not session.stale:
                logger.error("a step of session %s was lost before it was durable: %s", session.id, done.exception())
                self._live.drop(session)

        self.unwritten += size
        session.unwritten = write
        self._work.pending.add(write)
        write.add_done_callback(finished)

    def due(self, session: Session, number: int, more: int = 0) -> bool:
        """Whether the log should get a snapshot at a row, after so many bytes more than the session knows of."""
        backlog = session.backlog[1] + more
        if number - session.snapshot < self._settings.snapshot_every and backlog < self._spared:
            return False
        return retention.due(self._settings, number - session.snapshot, backlog, session.bytes)

    def rows_left(self, session: Session) -> int:
        """How many rows the log gets at most before its next snapshot is due."""
        return session.snapshot + self._settings.snapshot_every - session.number

    def snapshot_if_due(self, session: Session) -> None:
        """Hand a snapshot to the store where the log should get one."""
        if self.due(session, session.number) and not session.saving:
            self.snapshot(session)

    def snapshot(self, session: Session) -> None:
        """Hand a snapshot to the store, and let it forget what is past the bound on gradients."""
        number = session.number
        keep_from = retention.kept_from(self._settings, number, *session.backlog)
        session.snapshot, session.backlog = number, (0, 0)
        if session.durable == session.step and session.bytes < LARGE:
            blob = log.pack(freeze(session), session.optimizer.slot_names)
            self._watch(self._keep(session.id, number, blob, keep_from))
            return
        session.saving = True
        self._watch(asyncio.ensure_future(self._snapshot_later(session, freeze(session), keep_from)))

    async def _snapshot_later(self, session: Session, snapshot: Snapshot, keep_from: int) -> None:
        """The same for a state that is large, or whose row is not written yet."""
        try:
            await settle(session)
            if session.stale:
                return
            number = snapshot.number
            blob = await self._work.in_thread(log.pack, snapshot, session.optimizer.slot_names)
            del snapshot  # so that the next step may be written over the state while this one's is written to the disk
            await self._keep(session.id, number, blob, keep_from)
        finally:
            session.saving = False

    def _keep(self, id: str, number: int, blob: Payload, keep_from: int) -> asyncio.Future[None]:
        """A snapshot in place of all that is not needed for the rows from one on."""
        base = keep_from and self._store.newest_snapshot(id, keep_from)
        return self._store.keep(id, number, blob, base or 0)

    def _watch(self, write: asyncio.Future[None]) -> None:
        """A snapshot only makes loading fast; the log has everything, so that a failure is no loss."""

        def finished(done: asyncio.Future[None]) -> None:
            self._work.pending.discard(done)
            if not done.cancelled() and (error := done.exception()) and not isinstance(error, Missing):
                logger.error("a snapshot could not be written: %s", error)

        self._work.pending.add(write)
        write.add_done_callback(finished)

    async def packed(self, session: Session) -> Payload:
        """The bytes of the session's state."""
        return await self._work.run(
            session.layout.size, lambda: log.pack(freeze(session), session.optimizer.slot_names)
        )


async def settle(session: Session) -> None:
    """Wait for the rows of steps that were answered before they were durable."""
    if session.durable < session.step and session.unwritten is not None:
        await asyncio.wait([session.unwritten])


def _told(error: Exception) -> Exception:
    """What is said of a write that failed."""
    if isinstance(error, Full):
        return OutOfSpace(
            "The disk is full, so that nothing was changed; make room or delete sessions, then send the same request "
            "again.",
            retry_after=5,
        )
    if isinstance(error, StoreError):
        return error
    logger.error("the store failed to write: %s", error)
    return Unavailable(
        "The store could not confirm the write, so that it may or may not be there; send the same request again.",
        retry_after=1,
    )
