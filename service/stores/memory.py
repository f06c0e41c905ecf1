"""A store in memory: the contract at its simplest, for tests and for services that may forget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from service.stores.base import Entry, Erased, Gap, Head, Missing, Payload, Row, Stored, StoreError, Taken

T = TypeVar("T")


@dataclass
class _Log:
    cursor: int
    head: bytes
    due: float | None
    rows: list[Row] = field(default_factory=list)
    snapshots: dict[int, Payload] = field(default_factory=dict)


class MemoryStore:
    """Everything in dictionaries; gone with the process."""

    def __init__(self) -> None:
        self._logs: dict[str, _Log] = {}
        self._erased: dict[str, Head] = {}
        self._created = 0

    def create(self, session: str, head: bytes, snapshot: Payload, due: float | None = None) -> asyncio.Future[None]:
        def write() -> None:
            if session in self._erased:
                raise Erased(session, self._erased[session].head)
            if session in self._logs:
                raise Taken(session)
            self._created += 1
            self._logs[session] = _Log(self._created, head, due, [], {0: snapshot})

        return _done(write)

    def append(self, session: str, number: int, event: bytes, payload: Payload) -> asyncio.Future[None]:
        return self.extend(session, number, ((event, payload),))

    def append_all(self, entries: Sequence[Entry]) -> asyncio.Future[list[StoreError | None]]:
        def write() -> list[StoreError | None]:
            refusals: list[StoreError | None] = []
            for session, number, event, payload in entries:
                try:
                    self._extend(session, number, ((event, payload),))
                    refusals.append(None)
                except StoreError as refusal:
                    refusals.append(refusal)
            return refusals

        return _done(write)

    def extend(self, session: str, number: int, rows: Sequence[tuple[bytes, Payload]]) -> asyncio.Future[None]:
        return _done(lambda: self._extend(session, number, rows))

    def _extend(self, session: str, number: int, rows: Sequence[tuple[bytes, Payload]]) -> None:
        held = self._log(session).rows
        if number <= len(held):
            raise Taken(f"{session}/{number}")
        if number > len(held) + 1:
            raise Gap(f"{session}/{number}")
        held.extend(Row(number + i, *row) for i, row in enumerate(rows))

    def keep(self, session: str, number: int, snapshot: Payload, forget: int) -> asyncio.Future[None]:
        def write() -> None:
            log = self._log(session)
            if number > len(log.rows):
                raise Gap(f"{session}/{number}")
            log.snapshots[number] = snapshot
            log.snapshots = {k: v for k, v in log.snapshots.items() if k >= forget}
            for i in range(forget - 1, -1, -1):  # downward, to those that were forgotten before
                if log.rows[i].payload is None:
                    break
                log.rows[i] = log.rows[i]._replace(payload=None)

        return _done(write)

    def replace_head(self, session: str, head: bytes, due: float | None = None) -> asyncio.Future[None]:
        def write() -> None:
            log = self._log(session)
            log.head, log.due = head, due

        return _done(write)

    def erase(self, session: str, tombstone: bytes = b"") -> asyncio.Future[None]:
        def write() -> None:
            self._erased[session] = Head(self._log(session).cursor, session, tombstone)
            del self._logs[session]

        return _done(write)

    def head(self, session: str) -> bytes:
        return self._log(session).head

    def load(self, sessions: Sequence[str], most: int, rows: int) -> list[Stored | None]:
        return [self._stored(session, most, rows) for session in sessions]

    def _stored(self, session: str, most: int, limit: int) -> Stored | None:
        log = self._logs.get(session)
        if log is None:
            return None
        number = max(log.snapshots)
        rows = log.rows[max(0, number - 1) :]
        small = len(log.snapshots[number]) <= most and len(log.rows) - number <= limit
        return Stored(log.head, number, log.snapshots[number], rows) if small else None

    def heads(self, before: int | None, limit: int, erased: bool = False) -> list[Head]:
        living = (Head(log.cursor, session, log.head) for session, log in reversed(self._logs.items()))
        dead = sorted(self._erased.values(), reverse=True) if erased else ()
        newest_first = (head for head in (dead if erased else living) if before is None or head.cursor < before)
        return [head for _, head in zip(range(limit), newest_first, strict=False)]

    def due(self, now: float, limit: int) -> list[str]:
        found = [(log.due, session) for session, log in self._logs.items() if log.due is not None and log.due <= now]
        return [session for _, session in sorted(found)[:limit]]

    def rows(self, session: str, after: int, limit: int) -> list[Row]:
        log = self._logs.get(session)
        if log is None:
            return []
        start = max(0, after)
        return log.rows[start : start + limit]

    def events(self, session: str, after: int, limit: int) -> list[Row]:
        return [row._replace(payload=None) for row in self.rows(session, after, limit)]

    def last(self, session: str) -> Row | None:
        log = self._logs.get(session)
        return log.rows[-1]._replace(payload=None) if log and log.rows else None

    def snapshot(self, session: str, at_most: int) -> tuple[int, Payload] | None:
        log = self._logs.get(session)
        numbers = [number for number in log.snapshots if number <= at_most] if log else []
        return (max(numbers), log.snapshots[max(numbers)]) if log and numbers else None

    def newest_snapshot(self, session: str, at_most: int) -> int | None:
        found = self.snapshot(session, at_most)
        return found[0] if found else None

    def first_snapshot(self, session: str) -> int | None:
        log = self._logs.get(session)
        return min(log.snapshots) if log else None

    def count(self) -> int:
        return len(self._logs)

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        self._logs.clear()

    def _log(self, session: str) -> _Log:
        if session in self._erased:
            raise Erased(session, self._erased[session].head)
        if session not in self._logs:
            raise Missing(session)
        return self._logs[session]


def _done(write: Callable[[], T]) -> asyncio.Future[T]:
    """The write, made at once, as a future."""
    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    try:
        future.set_result(write())
    except StoreError as error:
        future.set_exception(error)
    return future
