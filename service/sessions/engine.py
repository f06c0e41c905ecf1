"""The engine: what may be done to a session, exactly once and durably.

A step is computed from the state in memory, written as one row whose number is the fence, and only then made the
state and answered. Whoever loses the race for a number loads the session again and looks at its request afresh.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from service.errors import Conflict, Gone, Invalid, NotFound, StepMismatch, StepReused, TooLarge, TooMany, Unavailable
from service.optim.optimizer import Optimizer
from service.optim.tensors import Array, Layout
from service.sessions import log
from service.sessions.live import PAGE, Live
from service.sessions.log import Snapshot
from service.sessions.session import Session, apply, freeze, of, patched, row_of
from service.sessions.steps import compute, make_finite, metrics
from service.settings import Settings
from service.stores.base import Erased, Gap, Missing, Store, StoreError, Taken, TooBig
from service.wire.json import canonical
from service.wire.trees import Flat

T = TypeVar("T")
INLINE = 16_384  # elements; a step on more runs in the engine's own threads, not on the event loop
ATTEMPTS = 5  # how often a request is looked at again after losing a race, before it is told to come back

logger = logging.getLogger("thalweg")


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


class Stepped(NamedTuple):
    """The outcome of a step; `params` and `updates` are flat, and None where they were not asked for."""

    layout: Layout
    step: int
    params: Array | None
    updates: Array | None
    learning_rate: float
    gradient_norm: float
    update_norm: float
    durable_step: int
    replayed: bool
    handled: dict[str, Any]


class Engine:
    """Sessions on a store; one per process, used from one event loop."""

    def __init__(self, store: Store, settings: Settings, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._settings = settings
        self._now = now
        self._count: int | None = None
        self._background: set[asyncio.Future[None]] = set()
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="engine")
        self._live = Live(store, self._threads, settings.cache_bytes, now)

    # Create, describe, list, change, delete

    async def create(self, id: str | None, creation: Creation) -> tuple[Session, bool]:
        """A new session, and True; or the one that this very request made before, and False.

        Raises Invalid when the id is taken by another request, Gone when it was deleted, TooMany at the limit,
        TooLarge when the store cannot hold the state.
        """
        if self._count is None:
            self._count = self._store.count()
        if self._count >= self._settings.max_sessions and not (id and self._exists(id)):
            raise TooMany(f"There are {self._count} sessions, which is the limit; delete some first.", retry_after=60)
        resolved = creation.optimizer.as_json()
        name = id or f"s_{secrets.token_urlsafe(16)}"
        head = {
            "created": self._now(),
            "layout": creation.layout.as_json(),
            "non_finite": creation.non_finite,
            "durability": creation.durability,
            "labels": creation.labels,
            "ttl_seconds": creation.ttl_seconds,
            "body": creation.body,
            "optimizer": {key: resolved["optimizer"][key] for key in ("name", "dialect")},
        }
        state = creation.optimizer.init(creation.params)
        first = Snapshot(0, 0, ((1, 0),), resolved, state)
        blob = log.pack(first, creation.optimizer.rule.slots)
        try:
            await self._written(self._store.create(name, log.encode(head), blob))
        except Taken:
            session = await self._open(name)
            if session.head["body"] != creation.body:
                raise Invalid(
                    "This id belongs to a session that another body created; choose another id.", pointer="/id"
                ) from None
            return session, False
        except Erased:
            raise Gone(f"The session {name} was deleted, and its id cannot be used again.") from None
        except TooBig as error:
            raise TooLarge(f"The state of this session is more than can be kept: {error}.") from None
        self._count += 1
        session = of(name, head, first)
        self._live.hold(session)
        return session, True

    async def get(self, id: str) -> Session:
        """The session. Raises NotFound, Gone."""
        return await self._open(id)

    def heads(self, before: int | None, limit: int, labels: Sequence[tuple[str, str]]) -> tuple[list[Any], int | None]:
        """Sessions, newest first, that carry all the labels, and the cursor to go on from.

        Looks at a bounded number of sessions; fewer than `limit` may match while there are more to look at.
        """
        found: list[Any] = []
        heads = self._store.heads(before, max(limit, 1000) if labels else limit)
        for cursor, id, raw in heads:
            head = log.decode(raw)
            last = self._store.last(id)
            event = log.decode(last.event) if last else {}
            if not self._live.expired(head, event.get("time", head["created"])) and all(
                head["labels"].get(key) == value for key, value in labels
            ):
                found.append((id, head, event))
            before = cursor
            if len(found) == limit:
                break
        more = bool(heads) and bool(self._store.heads(before, 1))
        return found, before if more else None

    async def patch(self, id: str, hyperparameters: dict[str, Any], head: dict[str, Any]) -> Session:
        """Other hyperparameters from the next step on, other labels or time to live. Raises Invalid, NotFound, Gone."""

        async def change(session: Session) -> Session:
            if hyperparameters:
                patched(session.optimizer, hyperparameters)  # refuses what cannot be, before it is written
                event = {"kind": "patch", "time": self._now(), "step": session.step, "hyperparameters": hyperparameters}
                await self._written(self._store.append(id, session.number + 1, log.encode(event), b""))
                apply(session, session.number + 1, event, b"")
                self._snapshot_if_due(session)
            if head:
                changed = session.head | head
                await self._written(self._store.replace_head(id, log.encode(changed)))
                session.head = changed
            return session

        return await self._exclusively(id, change)

    async def delete(self, id: str) -> None:
        """Forget a session for ever. Raises NotFound, Gone."""

        async def erase(session: Session) -> None:
            await self._written(self._store.erase(id))
            self._erased(session)

        await self._exclusively(id, erase)

    # Steps

    async def step(
        self, id: str, read: Callable[[Layout], Flat], *, step: int | None, loss: float | None, returning: str
    ) -> Stepped:
        """Take one step, or answer again the one that this request took before.

        `read` brings the request's gradients into the session's layout. Raises StepMismatch, StepReused, NonFinite,
        Invalid, NotFound, Gone, Conflict.
        """

        async def take(session: Session) -> Stepped:
            flat = read(session.layout)
            if step is not None and step <= session.step:
                return await self._again(session, step, flat, loss, returning)
            if step is not None and step > session.step + 1:
                self._check_newest(session)
                raise StepMismatch(
                    f"The session is at step {session.step}; send step {session.step + 1} next.",
                    current_step=session.step,
                )
            return await self._take(session, flat, loss, returning)

        return await self._exclusively(id, take)

    def _check_newest(self, session: Session) -> None:
        """Raises Taken when another writer has gone further than this session knows, Missing when it is erased."""
        self._store.head(session.id)
        last = self._store.last(session.id)
        if last is not None and last.number > session.number:
            raise Taken(session.id)

    async def _take(self, session: Session, flat: Flat, loss: float | None, returning: str) -> Stepped:
        done = await self._run(session.layout.size, lambda: compute(session, flat, loss, self._now()))
        number = session.number + 1
        written = self._store.append(session.id, number, log.encode(done.event), done.gradient.tobytes())
        if self._waits(session):
            await self._written(written)
            session.durable = session.step + 1
        else:
            self._later(written, session, session.step + 1)
        session.state, session.number, session.step = done.state, number, session.step + 1
        session.updated = done.event["time"]
        self._snapshot_if_due(session)
        return Stepped(
            session.layout,
            session.step,
            session.state.params if returning == "params" else None,
            done.updates if returning == "updates" else None,
            done.event["learning_rate"],
            done.event["gradient_norm"],
            done.event["update_norm"],
            session.durable,
            False,
            done.handled,
        )

    async def _again(self, session: Session, step: int, flat: Flat, loss: float | None, returning: str) -> Stepped:
        """The answer that a step had, if this request is the one that it answered."""
        if step < 1:
            raise Invalid("step counts from 1: it is the number that this step will have.", pointer="/step")
        make_finite(session, flat)  # refuses what would have been refused then
        event = await self._event(session, step)
        if event["digest"] != log.step_digest(flat.values, flat.absent, loss):
            raise StepReused(
                f"Step {step} was taken with another gradient or loss; the session is at step {session.step}. "
                "Read the parameters and send the next step.",
                pointer="/step",
                current_step=session.step,
            )
        params = updates = None
        if returning == "params":
            params = await self._params_at(session, step)
        elif returning == "updates":
            updates = await self._params_at(session, step) - await self._params_at(session, step - 1)
        handled: dict[str, Any] = {key: event[key] for key in ("skipped", "zeroed") if key in event}
        lengths = event["gradient_norm"], event["update_norm"]
        return Stepped(
            session.layout, step, params, updates, event["learning_rate"], *lengths, session.durable, True, handled
        )

    # Reading

    def history(self, session: Session, after: int, limit: int) -> tuple[list[dict[str, Any]], int | None]:
        """Metrics of at most `limit` steps above `after`, and the step to go on from."""
        if after >= session.step:
            return [], None
        found: list[dict[str, Any]] = []
        number = row_of(session.timeline, after + 1) - 1
        while len(found) < limit:
            rows = self._store.rows(session.id, number, min(limit - len(found) + 1, PAGE))
            if not rows:
                break
            number = rows[-1].number
            found += [metrics(event) for row in rows if (event := log.decode(row.event))["kind"] == "step"]
        found = found[:limit]
        more = bool(found) and found[-1]["step"] < session.step
        return found, found[-1]["step"] if more else None

    async def step_at(self, session: Session, step: int) -> tuple[dict[str, Any], Array]:
        """A step's metrics and the parameters after it. Raises NotFound, Gone."""
        if not 1 <= step <= session.step:
            raise NotFound(f"The session is at step {session.step}; ask for a step from 1 to {session.step}.")

        async def look(session: Session) -> tuple[dict[str, Any], Array]:
            return metrics(await self._event(session, step)), await self._params_at(session, step)

        return await self._reading(session, look)

    async def params_at(self, session: Session, step: int | None) -> tuple[int, Array]:
        """The parameters after a step (the newest by default). Raises NotFound, Gone."""
        if step is None:
            return session.step, session.state.params
        if not 0 <= step <= session.step:
            raise NotFound(f"The session is at step {session.step}; ask for a step from 0 to {session.step}.")

        async def look(session: Session) -> tuple[int, Array]:
            return step, await self._params_at(session, step)

        return await self._reading(session, look)

    async def _reading(self, session: Session, look: Callable[[Session], Awaitable[T]]) -> T:
        """Look at rows that a session has; it may be deleted, or turn out to have lost them, while we look."""
        try:
            return await look(session)
        except (Missing, Gap):
            self._live.drop(session)
            await self._open(session.id)  # raises what there is to say of the session itself
            raise Conflict("The session changed meanwhile; send the same request again.", retry_after=1) from None

    async def _settle(self, session: Session) -> None:
        """Wait for the rows of steps that were answered before they were durable."""
        if session.durable < session.step and self._background:
            await asyncio.wait(self._background)

    async def _event(self, session: Session, step: int) -> dict[str, Any]:
        """The event of a step that was taken. Raises Missing, or Gap where it was lost before it was durable."""
        await self._settle(session)
        number = row_of(session.timeline, step)
        rows = self._store.rows(session.id, number - 1, 1)
        if not rows or rows[0].number != number:
            self._store.head(session.id)
            raise Gap(f"{session.id}/{number}")
        return log.decode(rows[0].event)

    async def _params_at(self, session: Session, step: int) -> Array:
        """The parameters after a step that was taken. Raises Gone where they are not kept, Missing, Gap."""
        if step == session.step:
            return session.state.params
        await self._event(session, step + 1)
        number = row_of(session.timeline, step + 1) - 1  # with the patches after it, which change no parameters
        id, head = session.id, session.head
        loaded = await asyncio.get_running_loop().run_in_executor(self._threads, self._live.fold, id, head, number)
        if loaded is None:
            kept = self._kept_from(session)
            raise Gone(
                f"The gradients up to step {kept} are no longer kept, so that parameters can be had from step {kept} "
                "on; the metrics of all steps are kept.",
                code="step-not-kept",
                kept_from_step=kept,
                current_step=session.step,
            )
        return loaded.state.params

    def _kept_from(self, session: Session) -> int:
        """The oldest step whose parameters can be had. Raises Missing."""
        self._store.head(session.id)
        first = self._store.first_snapshot(session.id)
        found = None if first is None else self._store.snapshot(session.id, first)
        with contextlib.suppress(log.Damaged):
            return log.unpack(found[1], session.layout).step if found else session.step
        return session.step

    # Loading and holding

    async def _exclusively(self, id: str, act: Callable[[Session], Awaitable[T]]) -> T:
        """Do something to a session while nothing else is done to it; again where another writer was faster."""
        for attempt in range(ATTEMPTS):
            session = await self._open(id)
            async with session.lock:
                if session.stale:
                    continue
                try:
                    return await act(session)
                except (Taken, Gap):
                    self._live.drop(session)
                except Missing:
                    self._live.drop(session)
                    raise Gone(f"The session {id} was deleted.") from None
            await asyncio.sleep(0.001 * attempt)
        raise Conflict("Another client is writing to this session; send the same request again.", retry_after=1)

    async def _open(self, id: str) -> Session:
        session = await self._live.get(id)
        if session.head["ttl_seconds"] is not None and self._live.expired(session.head, session.updated):
            self._live.drop(session)
            with contextlib.suppress(Missing):
                await self._written(self._store.erase(id))
                self._erased(session)
            raise Gone(f"The session {id} has expired.")
        return session

    def _erased(self, session: Session) -> None:
        self._live.drop(session)
        if self._count is not None:
            self._count -= 1

    def _exists(self, id: str) -> bool:
        with contextlib.suppress(Missing):
            self._store.head(id)
            return True
        return False

    # Writing

    def _waits(self, session: Session) -> bool:
        """Whether the step about to be taken is answered only when it is durable."""
        durability = session.head["durability"]
        if durability == "step":
            return True
        return durability != "none" and (session.step + 1) % int(durability.removeprefix("every:")) == 0

    async def _written(self, write: asyncio.Future[None]) -> None:
        """Wait until a write is durable. Raises what the store refused, or Unavailable when the outcome is open."""
        try:
            await write
        except StoreError:
            raise
        except Exception as error:
            logger.error("the store failed to write: %s", error)
            raise Unavailable(
                "The store could not confirm the write, so that it may or may not be there; send the same request "
                "again.",
                retry_after=1,
            ) from error

    def _later(self, write: asyncio.Future[None], session: Session, step: int) -> None:
        """A write that nobody waits for: when it fails, the session is loaded again from what is there."""

        def finished(done: asyncio.Future[None]) -> None:
            self._background.discard(done)
            if done.cancelled():
                return
            if done.exception() is None:
                session.durable = max(session.durable, step)
            elif not session.stale:
                logger.error("a step of session %s was lost before it was durable: %s", session.id, done.exception())
                self._live.drop(session)

        self._background.add(write)
        write.add_done_callback(finished)

    def _snapshot_if_due(self, session: Session) -> None:
        """Hand a snapshot to the store now and then, and let it forget what is past the bound on gradients."""
        kept_rows = max(1, self._settings.kept_gradient_bytes // session.state.params.nbytes)  # 1: for a retry
        spacing = max(1, min(self._settings.snapshot_every, kept_rows // 4))
        if session.number // spacing == session.snapshot // spacing:
            return
        oldest = max(0, session.number - kept_rows)
        forget = min(session.number, -(-oldest // spacing) * spacing)
        session.snapshot = session.number
        blob = log.pack(freeze(session), session.optimizer.rule.slots)
        write = self._store.keep(session.id, session.number, blob, forget)
        self._background.add(write)
        write.add_done_callback(self._snapshot_written)

    def _snapshot_written(self, done: asyncio.Future[None]) -> None:
        """A snapshot only makes loading fast; the log has everything, so that a failure is no loss."""
        self._background.discard(done)
        if not done.cancelled() and (error := done.exception()) and not isinstance(error, Missing):
            logger.error("a snapshot could not be written: %s", error)

    async def _run(self, size: int, work: Callable[[], T]) -> T:
        """Small work at once; large work in the engine's own threads, so that the event loop stays free."""
        if size <= INLINE:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def close(self) -> None:
        """Wait for what is still being written, and let go of the threads."""
        if self._background:
            await asyncio.wait(self._background)
        self._threads.shutdown()


def hyperparameters(session: Session) -> dict[str, Any]:
    """The hyperparameters of the session's next step, schedules evaluated."""
    return dict(session.optimizer.specification.at(session.state.step))


def body_digest(body: dict[str, Any]) -> str:
    """What makes a repeated create the same: its JSON value, whatever the order of its fields."""
    return hashlib.sha256(canonical(body)).hexdigest()
