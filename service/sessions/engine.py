"""The engine: what may be done to a session, exactly once and durably.

A step is computed from the state in memory, written as one row whose number is the fence, and only then made the
state and answered. Whoever loses the race for a number loads the session again and looks at its request afresh.

`Engine` is the face of it, with what makes, changes and ends a session. Behind it, each on those before:
`work` (threads, and what nobody waits for), `writing` (rows and snapshots), `access` (one at a time), `reading`
(the log as it was), `together` (plain steps of many sessions), `stepping` (all steps).
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

from service.errors import Conflict, Invalid, NotFound, StepMismatch, ThalwegError, TooMany, Unavailable
from service.optim.optimizer import Optimizer
from service.optim.tensors import Array, Layout
from service.sessions import listing, log
from service.sessions.access import Access
from service.sessions.aggregation import Plan, Rounds, moved
from service.sessions.checkpoint import Restoration
from service.sessions.followers import Followers
from service.sessions.listing import Listed
from service.sessions.live import Live
from service.sessions.log import Snapshot
from service.sessions.reading import Reader
from service.sessions.reaper import Reaper
from service.sessions.session import Session, apply, expires, of, patched
from service.sessions.stepping import Stepper
from service.sessions.steps import Stepped
from service.sessions.timeline import beginning
from service.sessions.together import Asked, Group, Together
from service.sessions.tombstone import gone
from service.sessions.work import Work
from service.sessions.writing import Writer, settle
from service.settings import Settings
from service.stores.base import Erased, Store, Taken
from service.wire.json import canonical
from service.wire.steps import StepRequest
from service.wire.trees import Flat


class Creation(NamedTuple):
    """What a session is made of. `body` is the digest of the request, for a repeated create."""

    optimizer: Optimizer
    layout: Layout
    params: Array
    non_finite: str
    durability: str
    labels: dict[str, str]
    ttl_seconds: float | None
    body: str
    aggregate: Plan | None = None


class Engine:
    """Sessions on a store; one per process, used from one event loop."""

    def __init__(self, store: Store, settings: Settings, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._settings = settings
        self._now = now
        self._work = work = Work()
        self._followers = followers = Followers()
        self._rounds = rounds = Rounds(settings.max_waiting_bytes)
        self._live = live = Live(store, work.threads, settings, now)
        self._writer = writer = Writer(store, settings, live, followers, work)
        self._access = access = Access(store, live, followers, rounds, writer, now)
        self._reader = reader = Reader(store, live, followers, access, work)
        self._together = together = Together(store, live, followers, writer, now)
        self._stepper = Stepper(store, live, followers, rounds, work, writer, access, reader, together, now)
        self._reaper = Reaper(store, live, access.busy, access.forgotten, now)
        self._reaping: asyncio.Task[None] | None = None

    # Create, describe, list, change, delete

    async def create(self, id: str | None, creation: Creation) -> tuple[Session, bool]:
        """A new session, and True; or the one that this very request made before, and False.

        Raises Invalid when the id is taken by another request, Gone when it was deleted, TooMany at the limit.
        """
        resolved = creation.optimizer.as_json()
        head = {
            "created": self._now(),
            "layout": creation.layout.as_json(),
            "non_finite": creation.non_finite,
            "durability": creation.durability,
            "labels": creation.labels,
            "ttl_seconds": creation.ttl_seconds,
            "body": creation.body,
            "optimizer": _title(resolved),
        }
        if creation.aggregate is not None:
            head["aggregate"] = creation.aggregate._asdict()
        state = creation.optimizer.init(creation.params)
        return await self._make(id, head, Snapshot(0, 0, beginning(0), resolved, state))

    async def restore(self, id: str | None, restoration: Restoration) -> tuple[Session, bool]:
        """A new session that goes on from a checkpoint; as `create`."""
        title = _title(restoration.first.optimizer)
        return await self._make(id, restoration.head | {"created": self._now(), "optimizer": title}, restoration.first)

    async def fork(
        self, id: str, step: int | None, new_id: str | None, labels: dict[str, str] | None, body: str
    ) -> tuple[Session, bool]:
        """A new session that goes on from a step of this one, the newest by default; as `create`.

        Raises StepMismatch for a step that was not taken, Gone for one that is not kept.
        """
        if new_id is not None and (made := await self._made_by(new_id, body)) is not None:
            return made, False

        async def look(parent: Session) -> Session:
            await settle(parent)
            at = parent.step if step is None else step
            return parent if at == parent.step else await self._reader.fold_at(parent, at)

        parent = await self._access.exclusively(id, look)
        head = parent.head | {"created": self._now(), "body": body, "parent": {"id": id, "step": parent.step}}
        if labels is not None:
            head["labels"] = labels
        resolved = parent.optimizer.as_json()
        return await self._make(new_id, head, Snapshot(0, parent.step, beginning(parent.step), resolved, parent.state))

    async def _made_by(self, id: str, body: str) -> Session | None:
        """The session of this id, if there is one, which must have been made by the same request."""
        try:
            session = await self._access.open(id)
        except NotFound:
            return None
        if session.head["body"] != body:
            raise Invalid("This id belongs to a session that another body created; choose another id.", pointer="/id")
        return session

    async def _make(self, id: str | None, head: dict[str, Any], first: Snapshot) -> tuple[Session, bool]:
        count = self._access.count()
        if count >= self._settings.max_sessions and not (id and self._access.exists(id)):
            raise TooMany(f"There are {count} sessions, which is the limit; delete some first.", retry_after=60)
        name = id or f"s_{secrets.token_urlsafe(16)}"
        session = of(name, head, first)
        blob = await self._writer.packed(session)
        try:
            await self._writer.written(self._store.create(name, log.encode(head), blob, expires(head, head["created"])))
        except Taken:
            made = await self._made_by(name, head["body"])
            if made is None:
                raise Conflict("This id is being deleted; send the same request again.", retry_after=1) from None
            return made, False
        except Erased as error:
            raise gone(name, error.tombstone) from None
        self._access.created(session)
        return session, True

    async def get(self, id: str) -> Session:
        """The session. Raises NotFound, Gone."""
        return await self._access.open(id)

    def heads(
        self, before: int | None, limit: int, labels: Sequence[tuple[str, str]], state: str = "active"
    ) -> tuple[list[Listed], int | None]:
        """Sessions in a state, newest first, that carry all the labels, and the cursor to go on from.

        `state` is "active", "deleted" or "expired". Looks at a bounded number of sessions; fewer than `limit` may
        match while there are more to look at.
        """
        return listing.heads(self._store, self._live, before, limit, labels, state)

    async def patch(self, id: str, hyperparameters: dict[str, Any], head: dict[str, Any]) -> Session:
        """Other hyperparameters from the next step on, other labels or time to live. Raises Invalid, NotFound, Gone."""

        async def change(session: Session) -> Session:
            if hyperparameters:
                patched(session.optimizer, hyperparameters)  # refuses what cannot be, before it is written
                event = {"kind": "patch", "time": self._now(), "step": session.step, "hyperparameters": hyperparameters}
                await self._writer.written(self._store.append(id, session.number + 1, log.encode(event), b""))
                apply(session, session.number + 1, event, b"")
                self._followers.tell(id)
                self._writer.snapshot_if_due(session)
            if head:
                changed = session.head | head
                due = expires(changed, session.updated)
                await self._writer.written(self._store.replace_head(id, log.encode(changed), due))
                session.head = changed
            return session

        return await self._access.exclusively(id, change)

    async def rewind(self, id: str, step: int, since: int | None) -> tuple[Session, bool]:
        """Take back the steps above one: the session stands again as it did just before the step after it was taken.

        `since` is the step at which the client believes the session to be. Returns the session, and whether nothing
        had to be done: it stands there, or this very rewind was made before. Raises StepMismatch, Gone.
        """

        async def turn(session: Session) -> tuple[Session, bool]:
            if step == session.step and since in (None, step):
                return session, True
            if since is not None and since != session.step:
                if self._reader.rewound(session, step, since):
                    return session, True
                self._access.check_newest(session)
                raise StepMismatch(
                    f"The session is at step {session.step}, not {since}; read it and decide again.",
                    current_step=session.step,
                )
            there = await self._reader.fold_at(session, step)
            event = {"kind": "rewind", "time": self._now(), "step": step, "from": session.step}
            await self._writer.written(self._store.append(id, session.number + 1, log.encode(event), b""))
            self._rounds.fail(id, moved(session.step + 1, step))
            apply(there, session.number + 1, event, b"")
            session.optimizer, session.state, session.timeline = there.optimizer, there.state, there.timeline
            session.step = session.durable = step
            session.number, session.updated = there.number, there.updated
            self._followers.tell(id)
            self._writer.snapshot(session)  # so that loading need not go across
            return session, False

        return await self._access.exclusively(id, turn)

    async def delete(self, id: str) -> None:
        """Forget a session for ever. Raises NotFound, Gone."""

        async def erase(session: Session) -> None:
            await self._access.erase(session, "deleted")

        await self._access.exclusively(id, erase)

    # Steps. Each hands on its coroutine as it is, for one more around it would cost every plain step.

    def step(
        self,
        id: str,
        read: Callable[[Layout], Flat],
        *,
        step: int | None,
        loss: float | None,
        returning: str,
        worker: str | None = None,
    ) -> Coroutine[Any, Any, Stepped]:
        """Take one step, or answer again the one that this request took before.

        `read` brings the request's gradients into the session's layout. Where several workers share the session this
        is `worker`'s part of the step, and returns when all parts are there. Raises StepMismatch, StepReused,
        NonFinite, Invalid, NotFound, Gone, Conflict, TimedOut.
        """
        return self._stepper.step(id, read, step=step, loss=loss, returning=returning, worker=worker)

    def step_many(self, id: str, requests: Sequence[StepRequest]) -> Coroutine[Any, Any, list[Stepped | ThalwegError]]:
        """Take steps of one session in their order: for each what `step` would answer or raise, one after another.

        They are written together as far as can be; when that fails, so have all that rest on it.
        """
        return self._stepper.step_many(id, requests)

    def step_all(
        self, chains: Mapping[str, Sequence[StepRequest]]
    ) -> Coroutine[Any, Any, dict[str, list[Stepped | ThalwegError]]]:
        """`step_many` for many sessions, side by side and in one write as far as can be."""
        return self._stepper.step_all(chains)

    def begin(self, asked: Sequence[Asked]) -> Group:
        """Take at once those of many steps that need not wait for anything but the disk; see `Group`.

        The others, which have no outcome then, are for `step`.
        """
        return self._together.begin(asked)

    # Reading

    def history(self, session: Session, after: int, limit: int) -> tuple[list[dict[str, Any]], int | None]:
        """Metrics of at most `limit` steps above `after`, and the step to go on from."""
        return self._reader.history(session, after, limit)

    def follow(self, id: str, after: int | None = None) -> AsyncGenerator[dict[str, Any], None]:
        """Events above step `after` (the newest by default), then each new one once it is durable, without end.

        Each is `{"kind": "step", "step", "time", ...}` with a step's metrics, `{"kind": "patch", ...}`, or
        `{"kind": "rewind", "step", "time"}`, after which the steps above it are taken back and come again. Followers
        share these objects: change none.
        Raises NotFound, Gone, also when the session is deleted meanwhile. Close it (`aclose`) when done; it ends by
        itself when the engine closes.
        """
        return self._reader.follow(id, after)

    async def step_at(self, session: Session, step: int) -> tuple[dict[str, Any], Array]:
        """A step's metrics and the parameters after it. Raises NotFound, Gone."""
        return await self._reader.step_at(session, step)

    async def params_at(self, session: Session, step: int | None, view: str = "train") -> tuple[int, Array]:
        """The parameters after a step (the newest by default), as they are trained or as they are to be used.

        Raises NotFound, Gone, Invalid for a view that there is not.
        """
        return await self._reader.params_at(session, step, view)

    async def session_at(self, session: Session, step: int | None) -> Session:
        """The session as it was after a step (the newest by default), to look at only. Raises NotFound, Gone."""
        return await self._reader.session_at(session, step)

    # Beginning and end of the service

    def start(self) -> None:
        """Begin what is done without being asked: erasing expired sessions; and make ready for those that come."""
        self._live.rehearse()
        if self._settings.reap_seconds:
            self._reaping = asyncio.ensure_future(self._reaper.forever(self._settings.reap_seconds))

    async def reap(self) -> int:
        """Erase some of the sessions that have expired; how many were looked at."""
        return await self._reaper.round()

    async def close(self) -> None:
        """Wait for what is still being written, and let go of the threads."""
        self._reader.close()
        self._rounds.fail_all(Unavailable("The service is stopping; send the same part again.", retry_after=1))
        if self._reaping is not None:
            self._reaping.cancel()
            await asyncio.wait([self._reaping])
        await self._work.close()


def _title(resolved: dict[str, Any]) -> dict[str, Any]:
    """What a list shows of an optimizer."""
    return {key: resolved["optimizer"][key] for key in ("name", "dialect")}


def hyperparameters(session: Session) -> dict[str, Any]:
    """The hyperparameters of the session's next step, schedules evaluated."""
    return session.optimizer.specification.told(session.state.step)


def body_digest(body: dict[str, Any]) -> str:
    """What makes a repeated create the same: its JSON value, whatever the order of its fields."""
    return hashlib.sha256(canonical(body)).hexdigest()
