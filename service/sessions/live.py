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
        return session

    async def _load(self, id: str) -> Session:
        """Load once, however many wait for it."""
        underway = self._loading.get(id)
        if underway is None:
            underway = asyncio.get_running_loop().run_in_executor(self._threads, self._load_now, id)
            self._loading[id] = underway
            underway.add_done_callback(lambda _: self._loading.pop(id, None))
        session = await asyncio.shield(underway)
        if id not in self._held:
            self.hold(session)
        return self._held[id]

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
        return session

    def fold(self, id: str, head: dict[str, Any], until: int | None) -> Session | None:
        """The session after row `until` (the newest by default), or None where what that takes is not kept.

        May take long; called from any thread.
        """
        ceiling = 1 << 62 if until is None else until
        session = self._newest_snapshot(id, head, ceiling)
        while session is not None and session.number < ceiling:
            rows = self._store.rows(id, session.number, min(PAGE, ceiling - session.number))
            for row in rows:
                event = log.decode(row.event)
                if row.payload is None and not event.get("skipped"):
                    return None
                apply(session, row.number, event, row.payload)
            if len(rows) < PAGE:
                break
        return session

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
        """Keep a session in memory; idle ones make room."""
        self._held[session.id] = session
        self._bytes += session.bytes
        while self._bytes > self._cache_bytes:
            idle = next((s for s in self._held.values() if not s.lock.locked() and s is not session), None)
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
