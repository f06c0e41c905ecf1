"""Which sessions are in memory: loading them from their logs, holding them, and letting idle ones go."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

import numpy as np

from service.errors import NotFound, ThalwegError, Unavailable
from service.sessions import log
from service.sessions.log import Damaged
from service.sessions.session import Session, apply, expires, layout_of, of, weigh
from service.sessions.timeline import row_before_next, turned
from service.sessions.tombstone import gone
from service.sessions.work import INLINE
from service.settings import Settings
from service.stores.base import Erased, Missing, Row, Store, Stored

SMALL = 1 << 14  # bytes of a snapshot; a session of more is always loaded by a thread
FEW = 16  # rows above it; more take longer to replay than a thread takes to ask
RECENT = 64  # loads; how long these had to wait for the disk says where the next one is made
WAIT = 0.0002  # seconds; where it is more than that, on average, a thread waits, which takes as long to ask
PAGE = 1_000  # rows read at a time when a session is loaded
PAGE_BYTES = 1 << 26  # the same in bytes of gradients

T = TypeVar("T")
Run = tuple[int, int]  # rows from the first to the last number

_THREAD = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)

logger = logging.getLogger("thalweg")


class _Forgotten(Exception):
    """A row's gradient is needed, and no longer kept."""


class _Rewound(Exception):
    """A rewind leads back to a row, the argument."""


class Live:
    """Sessions by id; as many as the settings allow, the least recently used idle ones leaving first."""

    def __init__(self, store: Store, threads: Executor, settings: Settings, now: Callable[[], float]) -> None:
        self._store = store
        self._threads = threads
        self._max_bytes = settings.cache_bytes
        self._max_sessions = settings.cache_sessions
        self._now = now
        self._held: OrderedDict[str, Session] = OrderedDict()
        self._loading: dict[str, asyncio.Future[Session]] = {}
        self._bytes = 0
        self._wait = 0.0  # seconds that a load waits for the disk, a moving average

    async def get(self, id: str) -> Session:
        """The session, from memory or from its log. Raises NotFound, Gone, Unavailable."""
        session = self.at_hand(id)
        if session is None:
            self.fetch((id,))
            session = self._held.get(id)
        return session or await self._load(id)

    def fetch(self, ids: Iterable[str]) -> None:
        """Bring sessions into memory that are about to be used, as far as each is a matter of microseconds."""
        wanted = [id for id in dict.fromkeys(ids) if id not in self._held and id not in self._loading]
        if wanted and self._wait <= WAIT:
            with contextlib.suppress(Unavailable):  # said to whoever then asks for one of them
                for session in self._timed(self._load_small, wanted):
                    if session is not None:
                        self.hold(session)

    def rehearse(self) -> None:
        """Load a session and forget it: connections, threads and caches are then made before anybody waits for them."""
        self._threads.submit(self._store.load, (), SMALL, FEW)
        with contextlib.suppress(ThalwegError):
            for session in self._load_small([head.session for head in self._store.heads(None, 1)]):
                if session is not None and session.optimizer.work <= INLINE:
                    session.optimizer.step(session.state, np.zeros(session.layout.size, session.layout.dtype), loss=0.0)

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
            load = self._load_all if self._wait <= WAIT else self._load_waiting
            underway = asyncio.get_running_loop().run_in_executor(self._threads, load, id)
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

    def _timed(self, load: Callable[[Sequence[str]], T], ids: Sequence[str]) -> T:
        """What a load gives; its time counts where the disk was read, for all else takes microseconds."""
        start, before = time.perf_counter(), _blocks_read()
        try:
            return load(ids)
        finally:
            waited = time.perf_counter() - start if _blocks_read() > before else 0.0
            self._wait += (waited / len(ids) - self._wait) * min(1.0, len(ids) / RECENT)

    def _load_small(self, ids: Sequence[str]) -> list[Session | None]:
        """Sessions from one short read, None where it takes more than that. Raises Unavailable."""
        return [
            None if stored is None else self._folded(id, stored)
            for id, stored in zip(ids, self._store.load(ids, SMALL, FEW), strict=True)
        ]

    def _folded(self, id: str, stored: Stored) -> Session | None:
        """The session that was read, None where that takes long, or more than what was read."""
        head, rows = log.decode(stored.head), stored.rows
        try:
            session = of(id, head, log.unpack(stored.snapshot, layout_of(head)))
            if rows and rows[0].number == session.number:
                session.updated = log.decode(rows[0].event)["time"]  # a snapshot does not tell the time of its row
                rows = rows[1:]
            if session.optimizer.work * len(rows) > INLINE:
                return None
            for row in rows:
                self._replay_row(session, row, across=False)
        except (Damaged, _Forgotten, _Rewound):
            return None
        return session

    def _load_waiting(self, id: str) -> Session:
        """The session where `fetch` leaves it to the threads to wait for the disk, and to see when that is over."""
        (session,) = self._timed(self._load_small, (id,))
        return self._load_all(id) if session is None else session

    def _load_all(self, id: str) -> Session:
        """The session, however long that takes. Raises NotFound, Gone, Unavailable."""
        try:
            head = log.decode(self._store.head(id))
        except Missing as error:
            raise _absent(id, error) from None
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
                return of(id, head, log.unpack(blob, layout_of(head)))
            except Damaged as error:
                logger.error("snapshot %d of session %s is damaged (%s); going back further", number, id, error)
                at_most = number - 1
        return None

    def hold(self, session: Session) -> None:
        """Keep a session in memory; idle ones whose rows can all be read back make room."""
        if (other := self._held.get(session.id)) is not None:
            self.drop(other)
        session.weight = weigh(session)
        self._held[session.id] = session
        self._bytes += session.weight
        self._make_room(session)

    def _make_room(self, session: Session) -> None:
        while self._bytes > self._max_bytes or len(self._held) > self._max_sessions:
            idle = next((s for s in self._held.values() if s.idle and s is not session), None)
            if idle is None:
                break
            self.drop(idle)

    def drop(self, session: Session) -> None:
        """Forget the fold; the log has it. Whoever still holds the session sees that it is stale."""
        session.stale = True
        if self._held.get(session.id) is session:
            del self._held[session.id]
            self._bytes -= session.weight

    def expired(self, head: dict[str, Any], updated: float) -> bool:
        """Whether a session's time to live has passed since its newest row."""
        at = expires(head, updated)
        return at is not None and self._now() > at


def _blocks_read() -> int:
    """How many blocks this thread has had the disk read."""
    return resource.getrusage(_THREAD).ru_inblock


def _absent(id: str, error: Missing) -> ThalwegError:
    """What is said of a session that is not there."""
    if isinstance(error, Erased):
        return gone(id, error.tombstone)
    return NotFound(f"There is no session {id[:128]!r}; create one with POST /v1/sessions.")
