"""A store in memory: the contract at its simplest, for tests and for services that may forget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from service.stores.base import Erased, Gap, Head, Missing, Row, StoreError, Taken


@dataclass
class _Log:
    cursor: int
    head: bytes
    rows: list[Row] = field(default_factory=list)
    snapshots: dict[int, bytes] = field(default_factory=dict)


class MemoryStore:
    """Everything in dictionaries; gone with the process."""

    def __init__(self) -> None:
        self._logs: dict[str, _Log | None] = {}  # None: erased
        self._created = 0

    def create(self, session: str, head: bytes, snapshot: bytes) -> asyncio.Future[None]:
        def write() -> None:
            if session in self._logs:
                raise Taken(session) if self._logs[session] else Erased(session)
            self._created += 1
            self._logs[session] = _Log(self._created, head, [], {0: snapshot})

        return _done(write)

    def append(self, session: str, number: int, event: bytes, payload: bytes) -> asyncio.Future[None]:
        def write() -> None:
            rows = self._log(session).rows
            if number <= len(rows):
                raise Taken(f"{session}/{number}")
            if number > len(rows) + 1:
                raise Gap(f"{session}/{number}")
            rows.append(Row(number, event, payload))

        return _done(write)

    def keep(self, session: str, number: int, snapshot: bytes, forget: int) -> asyncio.Future[None]:
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

    def replace_head(self, session: str, head: bytes) -> asyncio.Future[None]:
        def write() -> None:
            self._log(session).head = head

        return _done(write)

    def erase(self, session: str) -> asyncio.Future[None]:
        def write() -> None:
            self._log(session)
            self._logs[session] = None

        return _done(write)

    def head(self, session: str) -> bytes:
        return self._log(session).head

    def heads(self, before: int | None, limit: int) -> list[Head]:
        newest_first = (
            Head(log.cursor, session, log.head)
            for session, log in reversed(self._logs.items())
            if log and (before is None or log.cursor < before)
        )
        return [head for _, head in zip(range(limit), newest_first, strict=False)]

    def rows(self, session: str, after: int, limit: int) -> list[Row]:
        log = self._logs.get(session)
        if log is None:
            return []
        start = max(0, after)
        return log.rows[start : start + limit]

    def last(self, session: str) -> Row | None:
        log = self._logs.get(session)
        return log.rows[-1]._replace(payload=None) if log and log.rows else None

    def snapshot(self, session: str, at_most: int) -> tuple[int, bytes] | None:
        log = self._logs.get(session)
        numbers = [number for number in log.snapshots if number <= at_most] if log else []
        return (max(numbers), log.snapshots[max(numbers)]) if log and numbers else None

    def first_snapshot(self, session: str) -> int | None:
        log = self._logs.get(session)
        return min(log.snapshots) if log else None

    def count(self) -> int:
        return sum(log is not None for log in self._logs.values())

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        self._logs.clear()

    def _log(self, session: str) -> _Log:
        if session not in self._logs:
            raise Missing(session)
        log = self._logs[session]
        if log is None:
            raise Erased(session)
        return log


def _done(write: Callable[[], None]) -> asyncio.Future[None]:
    """The write, made at once, as a future."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    try:
        write()
    except StoreError as error:
        future.set_exception(error)
    else:
        future.set_result(None)
    return future
