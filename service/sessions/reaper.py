"""The reaper: erases sessions whose time to live has passed, whether or not anybody asks for them.

The store names those that are due to be looked at. That is a promise in one direction only: a step moves the expiry
without telling the store, so that a session that is due may have time left, and is put off until then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Any

from service.sessions import log
from service.sessions.live import Live
from service.sessions.session import expires
from service.sessions.tombstone import tombstone
from service.stores.base import Missing, Store

ROUND = 100  # sessions looked at before others get their turn
PAUSE = 0.02  # seconds between rounds while there is more to do

logger = logging.getLogger("thalweg")


class Reaper:
    """Looks at the sessions that are due; `erased` is called with each one that it erased."""

    def __init__(
        self,
        store: Store,
        live: Live,
        busy: Callable[[str], bool],
        erased: Callable[[str], None],
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._live = live
        self._busy = busy
        self._erased = erased
        self._now = now

    async def round(self) -> int:
        """Look at a bounded number of sessions; how many there were."""
        ids = self._store.due(self._now(), ROUND)
        writes = {}
        for id in ids:
            if not self._busy(id):
                with contextlib.suppress(Missing):
                    writes[id] = self._look(id)
        for id, (write, erased) in writes.items():
            with contextlib.suppress(Missing):
                await write
                if erased:
                    self._erased(id)
        return len(ids)

    def _look(self, id: str) -> tuple[asyncio.Future[None], bool]:
        """Start to erase a session, or to put it off. Without a pause, so that nothing can come between."""
        held = self._live.held(id)
        event: dict[str, Any] = {}
        if held is not None:
            head, updated, step = held.head, held.updated, held.step
        else:
            head = log.decode(self._store.head(id))
            last = self._store.last(id)
            event = log.decode(last.event) if last else {}
            updated, step = event.get("time", head["created"]), event.get("step", 0)
        at = expires(head, updated)
        if at is None or at > self._now():
            return self._store.replace_head(id, log.encode(head), at), False
        if held is not None:
            self._live.drop(held)
        return self._store.erase(id, tombstone(head, "expired", step, self._now())), True

    async def forever(self, seconds: float) -> None:
        """A round every so many seconds; one after the other while there is more to do."""
        while True:
            await asyncio.sleep(seconds)
            try:
                while await self.round() == ROUND:
                    await asyncio.sleep(PAUSE)
            except Exception as error:
                logger.error("expired sessions could not be erased: %s", error)
