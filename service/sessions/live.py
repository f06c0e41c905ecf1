"""Which sessions are in memory: loading them from their logs, holding them, and letting idle ones go."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from service.errors import NotFound, Unavailable
from service.optim.tensors import Layout
from service.sessions import log
from service.sessions.log import Damaged
from service.sessions.session import Session, apply, expires, of
from service.sessions.timeline import row_before_next, turned
from service.sessions.tombstone import gone
from service.stores.base import Erased, Missing, Row, Store

PAGE = 1_000  # rows read at a time when a session is loaded
PAGE_BYTES = 1 << 26  # the same in bytes of gradients

Run = tuple[int, int]  # rows from the first to the last number

logger = logging.getLogger("thalweg")


class _Forgotten(Exception):
    """A row's gradient is needed, and no longer kept."""


class _Rewound(Exception):
    """A rewind leads back to a row, the argument."""


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
        return self.at_hand(id) or await self._load(id)

    def at_hand(self, id: str) -> Session | None:
        """The session about to be used, if it is in memory."""
        session = self._held.get(id)
        if session is not None:
            self._held.move_to_end(id)
            self._make_room(session)
        return session

    def held(self, id: str) -> Session | None:
        """The session, if it is in memory."""
        return self._held.get(id)

    def loading(self, id: str) -> bool:
        """Whether the session is being loaded."""
        return id in self._loading

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
        except Erased as error:
            raise gone(id, error.tombstone) from None
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
        while session is not None:
            try:
                self._replay(session, (session.number + 1, ceiling))
                break
            except _Forgotten:  # a newer snapshot is there if rows were forgotten in the meantime
                newer = self._newest_snapshot(id, head, ceiling)
                session = newer if newer is not None and newer.number > session.number else None
            except _Rewound as rewound:
                session = self._fold_across(id, head, rewound.args[0], ceiling)
                break
        return None if session is not None and until is not None and session.number < until else session

    def _fold_across(self, id: str, head: dict[str, Any], at_most: int, until: int) -> Session | None:
        """The same across rewinds that have no snapshot of their own: along the living line only."""
        session = self._newest_snapshot(id, head, at_most)
        try:
            while session is not None:
                try:
                    for run in self._living(session, until):
                        self._replay(session, run, across=True)
                    break
                except _Rewound as rewound:  # before this snapshot
                    session = self._newest_snapshot(id, head, rewound.args[0])
        except _Forgotten:
            return None
        return session

    def _living(self, session: Session, until: int) -> list[Run]:
        """The rows above the session's own that lead to row `until`. Raises _Rewound where they lead below it."""
        timeline, number = session.timeline, session.number
        runs: list[Run] = []
        while number < until and (rows := self._store.events(session.id, number, min(PAGE, until - number))):
            for row in rows:
                event = log.decode(row.event)
                if event["kind"] == "rewind":
                    back = row_before_next(timeline, event["step"])
                    if back < session.number:
                        raise _Rewound(back)
                    runs = [(first, min(last, back)) for first, last in runs if first <= back]
                if event["kind"] != "step":
                    timeline = turned(timeline, event["step"], row.number)
                joined = bool(runs) and runs[-1][1] == row.number - 1
                runs[-1:] = [(runs[-1][0], row.number)] if joined else [*runs[-1:], (row.number, row.number)]
            number = rows[-1].number
        return runs

    def _replay(self, session: Session, run: Run, *, across: bool = False) -> None:
        """Take rows into the fold. Raises _Forgotten, and _Rewound at a rewind unless it is to be gone across."""
        number, last = run[0] - 1, run[1]
        page = max(1, min(PAGE, PAGE_BYTES // session.state.params.nbytes))
        while number < last:
            wanted = min(page, last - number)
            rows = self._store.rows(session.id, number, wanted)
            for row in rows:
                self._replay_row(session, row, across)
            if len(rows) < wanted:
                break
            number = rows[-1].number

    def _replay_row(self, session: Session, row: Row, across: bool) -> None:
        event = log.decode(row.event)
        if row.payload is None and event["kind"] == "step" and not event.get("skipped"):
            raise _Forgotten
        if event["kind"] == "rewind" and not across:
            raise _Rewound(row_before_next(session.timeline, event["step"]))
        apply(session, row.number, event, row.payload)

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
        at = expires(head, updated)
        return at is not None and self._now() > at
