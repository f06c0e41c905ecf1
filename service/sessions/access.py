"""The way to a session: loaded and not expired, and one at a time for whoever changes it.

Other processes may write to the same log; whoever loses a race for a row loads the session again and goes on from it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

from service.errors import Conflict
from service.sessions.aggregation import Rounds
from service.sessions.followers import Followers
from service.sessions.live import Live
from service.sessions.session import Session
from service.sessions.tombstone import gone, tombstone
from service.sessions.writing import Writer
from service.stores.base import Erased, Gap, Missing, Store, Taken

T = TypeVar("T")
ATTEMPTS = 5  # how often a request is looked at again after losing a race, before it is told to come back


class Access:
    """Opens sessions, keeps those who change one apart, and erases those that are over."""

    def __init__(
        self,
        store: Store,
        live: Live,
        followers: Followers,
        rounds: Rounds,
        writer: Writer,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._live = live
        self._followers = followers
        self._rounds = rounds
        self._writer = writer
        self._now = now
        self._count: int | None = None

    async def exclusively(self, id: str, act: Callable[[Session], Awaitable[T]]) -> T:
        """Do something to a session while nothing else is done to it; again where another writer was faster."""
        for attempt in range(ATTEMPTS):
            session = await self.open(id)
            async with session.lock:
                if session.stale:
                    continue
                try:
                    return await act(session)
                except (Taken, Gap):
                    self._live.drop(session)
                except Missing as error:
                    self._live.drop(session)
                    raise gone(id, error.tombstone if isinstance(error, Erased) else b"") from None
            await asyncio.sleep(0.001 * attempt)
        raise Conflict("Another client is writing to this session; send the same request again.", retry_after=1)

    async def open(self, id: str) -> Session:
        """The session, erased first where its time is over. Raises NotFound, Gone, Unavailable."""
        session = await self._live.get(id)
        if (
            session.head["ttl_seconds"] is not None
            and self._live.expired(session.head, session.updated)
            and not session.lock.locked()  # what is being done to it will keep it alive
            and id not in self._rounds
        ):
            self._live.drop(session)
            with contextlib.suppress(Missing):
                await self.erase(session, "expired")
            raise gone(id, tombstone(session.head, "expired", session.step, self._now()))
        return session

    async def erase(self, session: Session, state: str) -> None:
        """Forget a session for ever; `state` is "deleted" or "expired". Raises Missing."""
        left = tombstone(session.head, state, session.step, self._now())
        await self._writer.written(self._store.erase(session.id, left))
        self._live.drop(session)
        self.forgotten(session.id)

    def forgotten(self, id: str) -> None:
        """A session was erased: those who wait for news of it are told, and it no longer counts."""
        self._rounds.fail(id, gone(id, b""))
        self._followers.tell(id)
        if self._count is not None:
            self._count -= 1

    def busy(self, id: str) -> bool:
        """Whether something is being done to a session, so that it cannot expire."""
        held = self._live.held(id)
        return id in self._rounds or self._live.loading(id) or (held is not None and held.lock.locked())

    def exists(self, id: str) -> bool:
        """Whether there is a session of this id."""
        with contextlib.suppress(Missing):
            self._store.head(id)
            return True
        return False

    def check_newest(self, session: Session) -> None:
        """Raises Taken when another writer has gone further than this session knows, Missing when it is erased."""
        self._store.head(session.id)
        last = self._store.last(session.id)
        if last is not None and last.number > session.number:
            raise Taken(session.id)

    def count(self) -> int:
        """How many sessions there are."""
        if self._count is None:
            self._count = self._store.count()
        return self._count

    def created(self, session: Session) -> None:
        """A session was created: it counts, and is kept in memory."""
        if self._count is not None:
            self._count += 1
        self._live.hold(session)
