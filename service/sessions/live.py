"""Which sessions are in memory: loading them from their logs, holding them, and letting idle ones go."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from service.errors import Gone, NotFound, Unavailable
from service.optim.tensors import Layout
from service.sessions import log
from service.sessions.log import Damaged
from service.sessions.session import Session, apply, of
from service.stores.base import Erased, Missing, Store

PAGE = 1_000  # rows read at a time when a session is loaded

logger = logging.getLogger("thalweg")


class Live:
    """Sessions by id; at most `cache_bytes` of state, the least recently used idle ones leaving first."""

    def __init__(self, store: Store, threads: Executor, cache_bytes: int, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._threads = threads
        self._cache_bytes = cache_bytes
        self._now = now
        self._held: OrderedDict[str, Session] = OrderedDict()
        self._loading: dict[str, asyncio.Future[Session]] = {}
        self._bytes = 0

    async def get(self, id: str) -> Session:
        """The session, from memory or from its log. Raises NotFound, Gone, Unavailable."""
        session = self._held.get(id)
        if session is None:
            return await self._load(id)
        self._held.move_to_end(id)
        self._make_room(session)
        return session

    async def _load(self, id: str) -> Session:
        """Load once, however many wait for it."""
        underway = self._loading.get(id)
        if underway is None:
            underway = asyncio.get_running_loop().run_in_executor(self._threads, self._load_now, id)
            self._loading[id] = underway
            underway.add_done_callback(lambda _: self._loading.pop(id, None))
        session = await asyncio.shield(underway)
        held = self._held.get(id)
        if held is not None:
            return held
        if session.stale:  # another one that waited has held it, used it and dropped it again
            return await self._load(id)
        self.hold(session)
        return session

    def _load_now(self, id: str) -> Session:
        try:
            head = log.decode(self._store.head(id))
        except Erased:
            raise Gone(f"The session {id} was deleted.") from None
        except Missing:
            raise NotFound(f"There is no session {id[:128]!r}; create one with POST /v1/sessions.") from None
        session = self.fold(id, head, None)
        if session is None:
            raise Unavailable(f"The log of session {id} cannot be read back; see the service's own log.")
        if session.number == session.snapshot and (last := self._store.last(id)):
            session.updated = log.decode(last.event)["time"]  # a snapshot does not tell the time of its row
        return session

    def fold(self, id: str, head: dict[str, Any], until: int | None) -> Session | None:
        """The session after row `until` (the newest by default), or None where what that takes is not kept.

        May take long; called from any thread.
        """
        ceiling = 1 << 62 if until is None else until
        session = self._newest_snapshot(id, head, ceiling)
        while session is not None and not self._replay(session, ceiling):
            newer = self._newest_snapshot(id, head, ceiling)  # it is there if rows were forgotten in the meantime
            session = newer if newer is not None and newer.number > session.number else None
        return None if session is not None and until is not None and session.number < until else session

    def _replay(self, session: Session, until: int) -> bool:
        """Take the rows after the session's own, up to `until`, into the fold; False at one that was forgotten."""
        while session.number < until:
            rows = self._store.rows(session.id, session.number, min(PAGE, until - session.number))
            for row in rows:
                event = log.decode(row.event)
                if row.payload is None and event["kind"] == "step" and not event.get("skipped"):
                    return False
                apply(session, row.number, event, row.payload)
            if len(rows) < PAGE:
                break
        return True

    def _newest_snapshot(self, id: str, head: dict[str, Any], at_most: int) -> Session | None:
        """The session as its newest undamaged snapshot has it."""
        while (found := self._store.snapshot(id, at_most)) is not None:
            number, blob = found
            try:
                return of(id, head, log.unpack(blob, Layout.from_json(head["layout"])))
            except Damaged as error:
                logger.error("snapshot %d of session %s is damaged (%s); going back further", number, id, error)
                at_most = number - 1
        return None

    def hold(self, session: Session) -> None:
        """Keep a session in memory; idle ones whose rows can all be read back make room."""
        if (other := self._held.get(session.id)) is not None:
            self.drop(other)
        self._held[session.id] = session
        self._bytes += session.bytes
        self._make_room(session)

    def _make_room(self, session: Session) -> None:
        while self._bytes > self._cache_bytes:
            idle = next((s for s in self._held.values() if s.idle and s is not session), None)
            if idle is None:
                break
            self.drop(idle)

    def drop(self, session: Session) -> None:
        """Forget the fold; the log has it. Whoever still holds the session sees that it is stale."""
        session.stale = True
        if self._held.get(session.id) is session:
            del self._held[session.id]
            self._bytes -= session.bytes

    def expired(self, head: dict[str, Any], updated: float) -> bool:
        """Whether a session's time to live has passed since its newest row."""
        return head["ttl_seconds"] is not None and self._now() > updated + head["ttl_seconds"]
