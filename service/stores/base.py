"""What a store is: sessions, each a head and a log of numbered rows, as opaque bytes.

A store knows nothing of optimizers. It promises three things:

- **The fence.** A number is appended to a session once, and after the number before it: a second writer gets
  `Taken`, one that would leave a hole gets `Gap`. This is at once the durability, the exactly-once guard and the
  concurrency control of the service.
- **Durable when it returns.** An awaited write survives `kill -9` and, where the medium keeps its promise, power
  loss. A write that raises anything but a `StoreError` is undecided: it may be there after a restart.
- **By value.** What was read does not change under the reader.

Writes are started by a plain call that returns an awaitable, and take effect in the order of those calls. Reads may
be made from any thread, and see every write that was answered.
"""

from __future__ import annotations

from asyncio import Future
from typing import NamedTuple, Protocol


class StoreError(Exception):
    """Root of what a store raises on purpose."""


class Taken(StoreError):
    """The session, or the number in it, exists already."""


class Gap(StoreError):
    """The row that this one rests on is not there: a write before it was lost."""


class TooBig(StoreError):
    """More bytes than the store can hold in one place."""


class Missing(StoreError):
    """There is no such session."""


class Erased(Missing):
    """There was such a session; it was erased, and its name stays taken."""


class Row(NamedTuple):
    """An event of a session's log. The payload is None once it was forgotten."""

    number: int
    event: bytes
    payload: bytes | None


class Head(NamedTuple):
    """A session in a listing; `cursor` orders sessions by creation."""

    cursor: int
    session: str
    head: bytes


class Store(Protocol):
    """The contract; `tests/stores/test_contract.py` runs against every member."""

    def create(self, session: str, head: bytes, snapshot: bytes) -> Future[None]:
        """A new session whose state before row 1 is `snapshot`. Raises Taken, Erased, TooBig."""

    def append(self, session: str, number: int, event: bytes, payload: bytes) -> Future[None]:
        """Row `number` of the log, from 1. Raises Taken, Gap, Missing, Erased."""

    def keep(self, session: str, number: int, snapshot: bytes, forget: int) -> Future[None]:
        """The state after row `number`; payloads up to row `forget` and snapshots below it are forgotten.

        `forget` is at most `number`. Raises Gap where there is no such row, Missing, Erased.
        """

    def replace_head(self, session: str, head: bytes) -> Future[None]:
        """Another head for the session. Raises Missing, Erased."""

    def erase(self, session: str) -> Future[None]:
        """Forget all of a session but that its name was used. Raises Missing, Erased."""

    def head(self, session: str) -> bytes:
        """The session's head. Raises Missing, Erased."""

    def heads(self, before: int | None, limit: int) -> list[Head]:
        """At most `limit` sessions, newest first, of those created before the cursor `before`."""

    def rows(self, session: str, after: int, limit: int) -> list[Row]:
        """At most `limit` rows above number `after`, ascending; none where there is no such session."""

    def last(self, session: str) -> Row | None:
        """The newest row of a session's log, without its payload."""

    def snapshot(self, session: str, at_most: int) -> tuple[int, bytes] | None:
        """The newest snapshot at or below a number, with its number."""

    def first_snapshot(self, session: str) -> int | None:
        """The number of the oldest snapshot that is kept."""

    def count(self) -> int:
        """How many sessions there are, erased ones not counted."""

    def writable(self) -> bool:
        """Whether the store takes writes at the moment; cheap enough for a readiness probe."""

    def close(self) -> None:
        """Finish the writes under way and let go of everything. No method may be called after."""
