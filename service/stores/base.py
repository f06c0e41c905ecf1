"""What a store is: sessions, each a head and a log of numbered rows, as opaque bytes.

A store knows nothing of optimizers. It promises three things:

- **The fence.** A number is appended to a session once, and after the number before it: a second writer gets
  `Taken`, one that would leave a hole gets `Gap`. This is at once the durability, the exactly-once guard and the
  concurrency control of the service.
- **Durable when it returns.** An awaited write survives `kill -9` and, where the medium keeps its promise, power
  loss. A write that raises anything but a `StoreError` is undecided: it may be there after a restart.
- **By value.** What was read does not change under the reader. A read that the medium does not let be made raises
  `service.errors.Unavailable`.

Writes are started by a plain call that returns an awaitable, and take effect in the order of those calls. Reads may
be made from any thread, and see every write that was answered.
"""

from __future__ import annotations

from asyncio import Future
from collections.abc import Sequence
from typing import NamedTuple, Protocol


class StoreError(Exception):
    """Root of what a store raises on purpose."""


class Taken(StoreError):
    """The session, or the number in it, exists already."""


class Gap(StoreError):
    """The row that this one rests on is not there: a write before it was lost."""


class Full(StoreError):
    """There is no room for the write; it was not made."""


class Missing(StoreError):
    """There is no such session."""


class Erased(Missing):
    """There was such a session; it was erased, and its name stays taken. `tombstone` is what was left in its place."""

    def __init__(self, session: str, tombstone: bytes = b"") -> None:
        super().__init__(session)
        self.tombstone = tombstone


Payload = bytes | memoryview  # a view is on memory that nobody writes to any more


class Row(NamedTuple):
    """An event of a session's log. The payload is None once it was forgotten."""

    number: int
    event: bytes
    payload: Payload | None


class Head(NamedTuple):
    """A session in a listing, with its head or, once erased, its tombstone; `cursor` orders sessions by creation."""

    cursor: int
    session: str
    head: bytes


class Stored(NamedTuple):
    """All that a session is made of: its head, its newest snapshot and the rows from the snapshot's own on."""

    head: bytes
    number: int
    snapshot: Payload
    rows: list[Row]


class Entry(NamedTuple):
    """A row to be written to a session's log."""

    session: str
    number: int
    event: bytes
    payload: Payload


class Store(Protocol):
    """The contract; `tests/stores/test_contract.py` runs against every member."""

    def create(self, session: str, head: bytes, snapshot: Payload, due: float | None = None) -> Future[None]:
        """A new session whose state before row 1 is `snapshot`. Raises Taken, Erased.

        `due` is when `due` names it, in seconds; None for never.
        """

    def append(self, session: str, number: int, event: bytes, payload: Payload) -> Future[None]:
        """Row `number` of the log, from 1. Raises Taken, Gap, Missing, Erased."""

    def append_all(self, entries: Sequence[Entry]) -> Future[list[StoreError | None]]:
        """One row each of many logs, and for each why it was refused, or None: what `append` raises."""

    def extend(self, session: str, number: int, rows: Sequence[tuple[bytes, Payload]]) -> Future[None]:
        """Rows `number`, `number + 1`, ... as (event, payload), all or none. Raises Taken, Gap, Missing, Erased."""

    def keep(self, session: str, number: int, snapshot: Payload, forget: int) -> Future[None]:
        """The state after row `number`; payloads up to row `forget` and snapshots below it are forgotten.

        `forget` is at most `number`. Raises Gap where there is no such row, Missing, Erased.
        """

    def replace_head(self, session: str, head: bytes, due: float | None = None) -> Future[None]:
        """Another head for the session, and another time at which it is due. Raises Missing, Erased."""

    def erase(self, session: str, tombstone: bytes = b"") -> Future[None]:
        """Forget all of a session but that its name was used, and a word about it. Raises Missing, Erased."""

    def head(self, session: str) -> bytes:
        """The session's head. Raises Missing, Erased."""

    def load(self, sessions: Sequence[str], most: int, rows: int) -> list[Stored | None]:
        """Sessions in one read, each as it was at one moment; meant for small ones, and for many at once.

        None where there is no such session, where its newest snapshot has more than `most` bytes, or where more than
        `rows` rows stand above that.
        """

    def heads(self, before: int | None, limit: int, erased: bool = False) -> list[Head]:
        """At most `limit` sessions, newest first, of those created before the cursor `before`; or of erased ones."""

    def due(self, now: float, limit: int) -> list[str]:
        """At most `limit` sessions that are due at `now`, the earliest first; cheap however many there are."""

    def rows(self, session: str, after: int, limit: int) -> list[Row]:
        """At most `limit` rows above number `after`, ascending; none where there is no such session."""

    def events(self, session: str, after: int, limit: int) -> list[Row]:
        """What `rows` gives, without the payloads, which are not read."""

    def last(self, session: str) -> Row | None:
        """The newest row of a session's log, without its payload."""

    def snapshot(self, session: str, at_most: int) -> tuple[int, Payload] | None:
        """The newest snapshot at or below a number, with its number."""

    def newest_snapshot(self, session: str, at_most: int) -> int | None:
        """The number of the newest snapshot at or below a number."""

    def first_snapshot(self, session: str) -> int | None:
        """The number of the oldest snapshot that is kept."""

    def count(self) -> int:
        """How many sessions there are, erased ones not counted."""

    def writable(self) -> bool:
        """Whether the store takes writes at the moment; cheap enough for a readiness probe."""

    def close(self) -> None:
        """Finish the writes under way and let go of everything. No method may be called after."""
