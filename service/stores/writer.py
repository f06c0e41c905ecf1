"""The SQLite store's one writer: what has gathered is committed in one transaction, and answered together.

Writes gather on the event loop; all that have gathered go into one transaction, and are answered together after its
single fsync. A thread waits for the disk, and the next group gathers meanwhile, so that the more sessions write at
once, the less a step costs.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import apsw

from service.stores.base import Full, StoreError
from service.stores.reserve import Reserve, free
from service.stores.schema import SCHEMA_VERSION

LARGE = 1 << 18  # bytes; a group that has so many is written by the thread, not on the event loop

T = TypeVar("T")


class _Job(NamedTuple):
    write: Callable[[apsw.Connection], Any]
    future: asyncio.Future[Any]
    frees: bool  # it makes room, and so has a right to what is reserved


_Outcomes = list[Any]  # of each job what it gave, or the exception that it raised
_Group = tuple[asyncio.AbstractEventLoop, list[_Job], _Outcomes | None]


class Writer:
    """Writes to the file at `path` through `db`, which is the only connection that does.

    undone      called when what was written since the last commit was taken back
    due         whether there is something to be done by the thread between two groups, which `tidy` then does
    """

    def __init__(
        self,
        db: apsw.Connection,
        path: Path,
        undone: Callable[[], None],
        due: Callable[[], bool],
        tidy: Callable[[], None],
    ) -> None:
        self.db = db
        self._path = path
        self._undone = undone
        self._due = due
        self._tidy = tidy
        self._reserve = Reserve(path.parent / "reserve")
        self._gathering: list[_Job] = []
        self._size = 0
        self._writing = False
        self._failed: BaseException | None = None
        self._groups: queue.SimpleQueue[_Group | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write_forever, name="store", daemon=True)
        self._thread.start()

    def submit(self, write: Callable[[apsw.Connection], T], size: int = 0, frees: bool = False) -> asyncio.Future[T]:
        """What a write of about `size` bytes gives, once that is durable; `frees` where it makes room on the disk."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._gathering.append(_Job(write, future, frees))
        self._size += size
        if not self._writing:
            self._writing = True
            loop.call_soon(self._hand_over, loop)
        return future

    def writable(self) -> bool:
        """Whether the last commit was made."""
        if self._failed is not None:  # without traffic nothing else would find out that it has passed
            self.submit(_touch).add_done_callback(asyncio.Future.exception)
        return self._failed is None and self._thread.is_alive()

    def close(self) -> None:
        """Finish the writes under way, and close the connection."""
        if self._gathering:
            self._groups.put((self._gathering[0].future.get_loop(), self._gathering, None))
            self._gathering = []
        self._groups.put(None)
        self._thread.join()
        self._reserve.give()
        self.db.close()

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give all that has gathered to the writing thread.

        Small writes are made here, and only the commit, which waits for the disk, there: each piece of Python in
        another thread would make the two fight for the interpreter.
        """
        group, self._gathering = self._gathering, []
        small, self._size = self._size < LARGE, 0
        self._groups.put((loop, group, self._begin(group) if small else None))

    def _write_forever(self) -> None:
        while (item := self._groups.get()) is not None:
            loop, group, outcomes = item
            outcomes = self._commit(self._begin(group) if outcomes is None else outcomes)
            if isinstance(self._failed, Full):
                outcomes = self._make_room(group)
            tidies = self._failed is None and self._due()
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
                loop.call_soon_threadsafe(self._answer, loop, group, outcomes, not tidies)
                if tidies:
                    self._tidy()
                    loop.call_soon_threadsafe(self._go_on, loop)
            del item, group, outcomes  # what was written is not to be held until there is more

    def _begin(self, group: list[_Job]) -> _Outcomes:
        """One transaction, but for its end; a job that is refused undoes nothing of its neighbours'."""
        try:
            self.db.execute("BEGIN IMMEDIATE")
            return [_attempt(job.write, self.db) for job in group]
        except Exception as error:  # disk full, input/output error: nobody may be told that it is written
            return self._failure(error, len(group))

    def _commit(self, outcomes: _Outcomes) -> _Outcomes:
        if not self.db.in_transaction:
            return outcomes
        try:
            self.db.execute("COMMIT")
        except Exception as error:
            return self._failure(error, len(outcomes))
        self._failed = None
        return outcomes

    def _failure(self, error: Exception, size: int) -> _Outcomes:
        with contextlib.suppress(apsw.Error):
            self.db.execute("ROLLBACK")
        self._undone()
        self._failed = Full(str(error)) if isinstance(error, apsw.FullError) else error
        return [self._failed] * size

    def _make_room(self, group: list[_Job]) -> _Outcomes:
        """On a full disk: move the log to the file, so that the log's own room can be used again, and try once more.

        What this needs is reserved for groups that erase something, and for what was erased shortly before.
        """
        freeing = [job for job in group if job.frees]
        others = [job for job in group if not job.frees]
        reserved = bool(freeing) or self._is_hollow()
        if reserved:
            self._reserve.give()
        with contextlib.suppress(apsw.Error):
            self.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
        outcomes = self._commit(self._begin(freeing)) if freeing else []
        if reserved:
            self._reserve.take()
        self._bound()
        outcomes += self._commit(self._begin(others)) if others else []
        of = {id(job): outcome for job, outcome in zip([*freeing, *others], outcomes, strict=True)}
        return [of[id(job)] for job in group]

    def _is_hollow(self) -> bool:
        """Whether of the pages that the file is to grow by at least half were erased since."""
        with contextlib.suppress(apsw.Error, OSError):
            count, unused, size = (self._pragma(name) for name in ("page_count", "freelist_count", "page_size"))
            return 0 < count - self._path.stat().st_size // size <= 2 * unused
        return False

    def _bound(self) -> None:
        """Let the log hold no more new pages than there is room for in the file, so that it can always be moved."""
        with contextlib.suppress(apsw.Error, OSError):
            room = self._path.stat().st_size + self._reserve.held() + free(self._path.parent)
            self.db.pragma("max_page_count", room // self._pragma("page_size"))

    def _pragma(self, name: str) -> int:
        return int(self.db.pragma(name))

    def _answer(self, loop: asyncio.AbstractEventLoop, group: list[_Job], outcomes: _Outcomes, goes_on: bool) -> None:
        for job, outcome in zip(group, outcomes, strict=True):
            if job.future.done():  # the request was cancelled; what it wrote stays written
                continue
            if isinstance(outcome, BaseException):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)
        if goes_on:
            self._go_on(loop)

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._gathering:
            loop.call_soon(self._hand_over, loop)
        else:
            self._writing = False


def _attempt(write: Callable[[apsw.Connection], T], db: apsw.Connection) -> T | StoreError:
    """What a write gives, or why it was refused."""
    try:
        return write(db)
    except StoreError as refusal:
        return refusal


def _touch(db: apsw.Connection) -> None:
    """A write that changes nothing and yet goes to the disk."""
    db.pragma("user_version", SCHEMA_VERSION)
