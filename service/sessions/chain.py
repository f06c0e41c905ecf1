"""Steps of one session worked out one on another, before any of them is written."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from service.sessions import log
from service.sessions.session import Session
from service.sessions.steps import Computed
from service.stores.base import Payload

MAX_BYTES = 1 << 26  # of gradients; a longer chain is written in pieces


def claim(lock: asyncio.Lock) -> bool:
    """Acquire a lock if that can be had without waiting."""
    if lock.locked():
        return False
    acquiring = lock.acquire()
    try:
        acquiring.send(None)
    except StopIteration:
        return True
    acquiring.close()  # others wait for it already
    return False


def advance(session: Session, done: Computed) -> None:
    """Make a step that is written, or on the way there, the session's newest."""
    session.state, session.number, session.step = done.state, session.number + 1, session.step + 1
    session.updated, session.torn = done.event["time"], False
    session.grow(1, len(done.payload))


class Chain:
    """Rows that follow a session's own, and the session as it will stand; nothing of the session changes before.

    rows      (event, payload), to be written together; `written` is that, once it has begun
    bytes     of their payloads
    durable   the newest step that is known to be durable once they are written
    outcomes  what is answered then, to the steps that were taken and to those that were not
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.rows: list[tuple[bytes, Payload]] = []
        self.bytes = 0
        self.durable = session.durable
        self.outcomes: list[Any] = []
        self.written: asyncio.Future[None] | None = None
        self._ahead: Session | None = None
        self._newest: Computed | None = None

    @property
    def step(self) -> int:
        """The newest step, written or not."""
        return self.session.step + len(self.rows)

    @property
    def number(self) -> int:
        """The number of the newest row, written or not."""
        return self.session.number + len(self.rows)

    @property
    def full(self) -> bool:
        """Whether it should be written before it grows."""
        return self.bytes >= MAX_BYTES

    def end(self) -> Session:
        """What the next step is worked out from."""
        if self._newest is None:
            return self.session
        if self._ahead is None:  # one copy for the chain
            self._ahead = replace(self.session)
        self._ahead.state, self._ahead.step = self._newest.state, self.step
        return self._ahead

    def add(self, done: Computed) -> None:
        """One more step, worked out from `end`."""
        self.rows.append((log.encode(done.event), done.payload))
        self.bytes += len(done.payload)
        self._newest = done

    def settle(self) -> None:
        """Move the session to the end of the chain: its rows are in the store, or on the way."""
        assert self._newest is not None
        session = self.session
        session.state, session.number, session.step = self._newest.state, self.number, self.step
        session.updated = self._newest.event["time"]
        session.grow(len(self.rows), self.bytes)
