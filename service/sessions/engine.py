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
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

from service.errors import (
    Conflict,
    Gone,
    Invalid,
    NotFound,
    OutOfSpace,
    StepMismatch,
    StepReused,
    ThalwegError,
    TooLarge,
    TooMany,
    Unavailable,
)
from service.optim.optimizer import Optimizer
from service.optim.tensors import Array, Layout
from service.sessions import log, retention
from service.sessions.aggregation import Part, Plan, Round, Rounds, check_worker, moved
from service.sessions.chain import Chain, claim
from service.sessions.checkpoint import Restoration
from service.sessions.followers import Followers
from service.sessions.live import PAGE, Live
from service.sessions.log import Snapshot
from service.sessions.reaper import Reaper
from service.sessions.session import Session, apply, expires, freeze, of, patched
from service.sessions.steps import Computed, compute, followed, make_finite, metrics, told
from service.sessions.timeline import beginning, begins, oldest, row_before_next, row_of, stretches
from service.sessions.tombstone import gone, tombstone
from service.settings import Settings
from service.stores.base import Erased, Full, Gap, Missing, Store, StoreError, Taken, TooBig
from service.wire.json import canonical
from service.wire.steps import StepRequest
from service.wire.trees import Flat

T = TypeVar("T")
INLINE = 16_384  # elements of work; a step of more runs in the engine's own threads, not on the event loop
LARGE = 1 << 18  # bytes; a larger state is packed into a snapshot by those threads too
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
    aggregate: Plan | None = None


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


class Listed(NamedTuple):
    """A session in a list; `head` is its tombstone where it is gone, `updated` None where that says nothing."""

    id: str
    state: str
    head: dict[str, Any]
    step: int
    updated: float | None


class Engine:
    """Sessions on a store; one per process, used from one event loop."""

    def __init__(self, store: Store, settings: Settings, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._settings = settings
        self._now = now
        self._count: int | None = None
        self._background: set[asyncio.Future[None]] = set()
        self._followers = Followers()
        self._closing = False
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="engine")
        self._live = Live(store, self._threads, settings.cache_bytes, now)
        self._rounds = Rounds(settings.max_waiting_bytes)
        self._unwritten = 0  # bytes of steps that were answered before they were written
        self._reaper = Reaper(store, self._live, self._busy, self._forgotten, now)
        self._reaping: asyncio.Task[None] | None = None

    # Create, describe, list, change, delete

    async def create(self, id: str | None, creation: Creation) -> tuple[Session, bool]:
        """A new session, and True; or the one that this very request made before, and False.

        Raises Invalid when the id is taken by another request, Gone when it was deleted, TooMany at the limit,
        TooLarge when the store cannot hold the state.
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
            await self._settle(parent)
            at = parent.step if step is None else step
            return parent if at == parent.step else await self._fold_at(parent, at)

        parent = await self._exclusively(id, look)
        head = parent.head | {"created": self._now(), "body": body, "parent": {"id": id, "step": parent.step}}
        if labels is not None:
            head["labels"] = labels
        resolved = parent.optimizer.as_json()
        return await self._make(new_id, head, Snapshot(0, parent.step, beginning(parent.step), resolved, parent.state))

    async def _made_by(self, id: str, body: str) -> Session | None:
        """The session of this id, if there is one, which must have been made by the same request."""
        try:
            session = await self._open(id)
        except NotFound:
            return None
        if session.head["body"] != body:
            raise Invalid("This id belongs to a session that another body created; choose another id.", pointer="/id")
        return session

    async def _make(self, id: str | None, head: dict[str, Any], first: Snapshot) -> tuple[Session, bool]:
        if self._count is None:
            self._count = self._store.count()
        if self._count >= self._settings.max_sessions and not (id and self._exists(id)):
            raise TooMany(f"There are {self._count} sessions, which is the limit; delete some first.", retry_after=60)
        name = id or f"s_{secrets.token_urlsafe(16)}"
        session = of(name, head, first)
        blob = await self._packed(session)
        try:
            await self._written(self._store.create(name, log.encode(head), blob, expires(head, head["created"])))
        except Taken:
            made = await self._made_by(name, head["body"])
            if made is None:
                raise Conflict("This id is being deleted; send the same request again.", retry_after=1) from None
            return made, False
        except Erased as error:
            raise gone(name, error.tombstone) from None
        except TooBig as error:
            raise TooLarge(f"The state of this session is more than can be kept: {error}.") from None
        self._count += 1
        self._live.hold(session)
        return session, True

    async def get(self, id: str) -> Session:
        """The session. Raises NotFound, Gone."""
        return await self._open(id)

    def heads(
        self, before: int | None, limit: int, labels: Sequence[tuple[str, str]], state: str = "active"
    ) -> tuple[list[Listed], int | None]:
        """Sessions in a state, newest first, that carry all the labels, and the cursor to go on from.

        `state` is "active", "deleted" or "expired". Looks at a bounded number of sessions; fewer than `limit` may
        match while there are more to look at.
        """
        found: list[Listed] = []
        erased = state != "active"
        heads = self._store.heads(before, max(limit, 1000) if labels or erased else limit, erased)
        for cursor, id, raw in heads:
            shown = self._listed(id, raw, erased)
            if shown.state == state and all(shown.head["labels"].get(key) == value for key, value in labels):
                found.append(shown)
            before = cursor
            if len(found) == limit:
                break
        more = bool(heads) and bool(self._store.heads(before, 1, erased))
        return found, before if more else None

    def _listed(self, id: str, raw: bytes, erased: bool) -> Listed:
        if erased:
            left: dict[str, Any] = log.decode(raw) if raw else {"state": "deleted", "labels": {}}
            return Listed(id, left["state"], left, left.get("step", 0), left.get("time"))
        head = log.decode(raw)
        last = self._store.last(id)
        event = log.decode(last.event) if last else {}
        updated = event.get("time", head["created"])
        step = event.get("step", begins_with(head))
        return Listed(id, "expired" if self._live.expired(head, updated) else "active", head, step, updated)

    async def patch(self, id: str, hyperparameters: dict[str, Any], head: dict[str, Any]) -> Session:
        """Other hyperparameters from the next step on, other labels or time to live. Raises Invalid, NotFound, Gone."""

        async def change(session: Session) -> Session:
            if hyperparameters:
                patched(session.optimizer, hyperparameters)  # refuses what cannot be, before it is written
                event = {"kind": "patch", "time": self._now(), "step": session.step, "hyperparameters": hyperparameters}
                await self._written(self._store.append(id, session.number + 1, log.encode(event), b""))
                apply(session, session.number + 1, event, b"")
                self._followers.tell(id)
                self._snapshot_if_due(session)
            if head:
                changed = session.head | head
                due = expires(changed, session.updated)
                await self._written(self._store.replace_head(id, log.encode(changed), due))
                session.head = changed
            return session

        return await self._exclusively(id, change)

    async def rewind(self, id: str, step: int, since: int | None) -> tuple[Session, bool]:
        """Take back the steps above one: the session stands again as it did just before the step after it was taken.

        `since` is the step at which the client believes the session to be. Returns the session, and whether nothing
        had to be done: it stands there, or this very rewind was made before. Raises StepMismatch, Gone.
        """

        async def turn(session: Session) -> tuple[Session, bool]:
            if step == session.step and since in (None, step):
                return session, True
            if since is not None and since != session.step:
                if self._rewound(session, step, since):
                    return session, True
                self._check_newest(session)
                raise StepMismatch(
                    f"The session is at step {session.step}, not {since}; read it and decide again.",
                    current_step=session.step,
                )
            there = await self._fold_at(session, step)
            event = {"kind": "rewind", "time": self._now(), "step": step, "from": session.step}
            await self._written(self._store.append(id, session.number + 1, log.encode(event), b""))
            self._rounds.fail(id, moved(session.step + 1, step))
            apply(there, session.number + 1, event, b"")
            session.optimizer, session.state, session.timeline = there.optimizer, there.state, there.timeline
            session.step = session.durable = step
            session.number, session.updated = there.number, there.updated
            self._followers.tell(id)
            self._snapshot(session)  # so that loading need not go across
            return session, False

        return await self._exclusively(id, turn)

    def _rewound(self, session: Session, step: int, since: int) -> bool:
        """Whether the newest turn of the living line at a step is a rewind to it from step `since`."""
        if not begins(session.timeline) <= step <= session.step:
            return False
        number = row_before_next(session.timeline, step)
        while number > 0 and (rows := self._store.events(session.id, number - 1, 1)):
            event = log.decode(rows[0].event)
            if event["kind"] != "patch":
                return bool(event["kind"] == "rewind" and (event["step"], event["from"]) == (step, since))
            number -= 1
        return False

    async def delete(self, id: str) -> None:
        """Forget a session for ever. Raises NotFound, Gone."""

        async def erase(session: Session) -> None:
            await self._erase(session, "deleted")

        await self._exclusively(id, erase)

    # Steps

    async def step(
        self,
        id: str,
        read: Callable[[Layout], Flat],
        *,
        step: int | None,
        loss: float | None,
        returning: str,
        worker: str | None = None,
    ) -> Stepped:
        """Take one step, or answer again the one that this request took before.

        `read` brings the request's gradients into the session's layout. Where several workers share the session this
        is `worker`'s part of the step, and returns when all parts are there. Raises StepMismatch, StepReused,
        NonFinite, Invalid, NotFound, Gone, Conflict, TimedOut.
        """

        async def take(session: Session) -> Stepped | Round:
            if worker is not None or "aggregate" in session.head:
                return await self._join(session, read(session.layout), step, loss, returning, worker)
            flat = read(session.layout)
            if step is not None and step <= session.step:
                return await self._again(session, step, flat, loss, returning)
            if step is not None and step > session.step + 1:
                self._check_newest(session)
                raise _mismatch(session.step)
            return await self._take(session, flat, loss, returning)

        outcome = await self._exclusively(id, take)
        if isinstance(outcome, Round):
            return _chosen(await asyncio.shield(outcome.outcome), returning)
        return outcome

    async def _join(
        self, session: Session, flat: Flat, step: int | None, loss: float | None, returning: str, worker: str | None
    ) -> Stepped | Round:
        """Add a worker's part to the round of the next step, which ends with the last part or with its time."""
        check_worker(session, worker)
        assert worker is not None
        if step is not None and step <= session.step:
            return await self._again(session, step, flat, loss, returning, worker)
        if step is not None and step > session.step + 1:
            self._check_newest(session)
            raise _mismatch(session.step)
        if session.head["non_finite"] == "reject":
            make_finite(session, flat)
        part = Part(flat, loss, log.step_digest(flat.values, flat.absent, loss, flat.rows))
        round = self._rounds.join(session, worker, part, lambda round: self._spawn(self._end_round(session.id, round)))
        if round.full:  # in a task of its own, for whoever sent the last part may hang up
            self._spawn(self._end_round(session.id, round))
        return round

    async def _end_round(self, id: str, round: Round) -> None:
        """All parts are there, or the time is up: take the step with those that came, or tell who is missing."""

        async def end(session: Session) -> None:
            if self._rounds.get(id) is not round:
                return
            if round.step != session.step + 1:
                raise moved(round.step, session.step)
            if not round.full and len(round.parts) < round.plan.quorum:
                known = await self._event(session, session.step) if session.step > begins(session.timeline) else {}
                raise round.late(known.get("parts", {}))
            flat, loss = await self._run(session.layout.size, round.combined)
            self._rounds.finish(id, await self._take(session, flat, loss, "both", round.digests()))

        try:
            await self._exclusively(id, end)
        except ThalwegError as error:
            if self._rounds.get(id) is round:
                self._rounds.fail(id, error)

    async def step_many(self, id: str, requests: Sequence[StepRequest]) -> list[Stepped | ThalwegError]:
        """Take steps of one session in their order: for each what `step` would answer or raise, one after another.

        They are written together as far as can be; when that fails, so have all that rest on it.
        """
        outcomes: list[Stepped | ThalwegError] = []
        if any(request.worker is not None for request in requests):
            return await self._step_beside(id, requests)
        try:
            while len(outcomes) < len(requests):
                outcomes += await self._exclusively(id, partial(self._take_chain, requests[len(outcomes) :]))
        except ThalwegError as error:
            outcomes += [error] * (len(requests) - len(outcomes))
        return outcomes

    async def _step_beside(self, id: str, requests: Sequence[StepRequest]) -> list[Stepped | ThalwegError]:
        """The outcomes of steps that may have to wait for one another: the parts of several workers.

        Side by side until a worker comes for the second time, which is for the step after.
        """
        rounds: list[list[StepRequest]] = []
        for request in requests:
            if not rounds or any(request.worker == other.worker for other in rounds[-1]):
                rounds.append([])
            rounds[-1].append(request)

        async def one(request: StepRequest) -> Stepped | ThalwegError:
            try:
                return await self.step(id, **request._asdict())
            except ThalwegError as error:
                return error

        return [outcome for together in rounds for outcome in await asyncio.gather(*map(one, together))]

    async def step_all(self, chains: Mapping[str, Sequence[StepRequest]]) -> dict[str, list[Stepped | ThalwegError]]:
        """`step_many` for many sessions, side by side and in one write as far as can be.

        Those that are in memory and free need no task of their own, which would cost as much as their steps.
        """
        begun = {id: chain for id, requests in chains.items() if (chain := self._begin(id, requests)) is not None}
        outcomes: dict[str, list[Stepped | ThalwegError]] = {id: [] for id in chains}
        try:
            for id, chain in begun.items():
                try:
                    outcomes[id] = await self._end(chain)
                except StoreError:  # another writer was faster, or it is gone: look again
                    self._live.drop(chain.session)
                except ThalwegError as error:
                    outcomes[id] = [error] * len(chains[id])
        finally:
            for chain in begun.values():
                chain.session.lock.release()
        left = {id: rest for id, requests in chains.items() if (rest := requests[len(outcomes[id]) :])}
        for id, more in zip(left, await asyncio.gather(*map(self.step_many, left, left.values())), strict=True):
            outcomes[id] += more
        return outcomes

    def _begin(self, id: str, requests: Sequence[StepRequest]) -> Chain | None:
        """Take the session's lock, work out the first requests, start to write them; None where that has to wait."""
        session = self._live.at_hand(id)
        if (
            session is None
            or session.optimizer.work > INLINE
            or self._live.expired(session.head, session.updated)
            or any(request.worker is not None for request in requests)
            or not claim(session.lock)
        ):
            return None
        chain = Chain(session)
        try:
            for request in requests:
                if (request.step is not None and request.step <= session.step) or self._cut(chain, request):
                    break
                try:
                    chain.outcomes.append(self._work_out(chain, request))
                except ThalwegError as error:
                    chain.outcomes.append(error)
            if chain.rows:
                chain.written = self._store.extend(id, session.number + 1, chain.rows)
        except BaseException as error:
            session.lock.release()
            if isinstance(error, StoreError):
                return None
            raise
        return chain

    async def _end(self, chain: Chain) -> list[Stepped | ThalwegError]:
        """The outcomes of a chain, once its rows are written. Raises Taken, Gap, Missing, Unavailable."""
        session = chain.session
        if chain.written is not None:
            if chain.durable > session.durable:
                await self._written(chain.written)
                session.durable = chain.step
                self._followers.tell(session.id)
            else:
                self._later(chain.written, session, chain.step, chain.bytes)
            chain.settle()
            self._snapshot_if_due(session)
        return chain.outcomes

    async def _take_chain(self, requests: Sequence[StepRequest], session: Session) -> list[Stepped | ThalwegError]:
        """The outcomes of the first requests, as many as go into one write. Raises Taken, Gap, Missing, Unavailable."""
        chain = Chain(session)
        for request in requests:
            if self._cut(chain, request):
                break
            try:
                if request.step is not None and request.step <= session.step:
                    flat = request.read(session.layout)
                    outcome = await self._again(session, request.step, flat, request.loss, request.returning)
                else:
                    outcome = await self._run(session.optimizer.work, partial(self._work_out, chain, request))
                chain.outcomes.append(outcome)
            except ThalwegError as error:
                chain.outcomes.append(error)
        if chain.rows:
            chain.written = self._store.extend(session.id, session.number + 1, chain.rows)
        return await self._end(chain)

    def _cut(self, chain: Chain, request: StepRequest) -> bool:
        """Whether a chain should be written before this request is looked at, for it may look back on the chain."""
        if not chain.rows:
            return False
        looks_back = request.step is not None and request.step <= chain.step
        return looks_back or chain.full or self._due(chain.session, chain.number, chain.bytes)

    def _work_out(self, chain: Chain, request: StepRequest) -> Stepped:
        """One more step for the chain. Raises StepMismatch, NonFinite, Invalid, and Taken or Missing."""
        session = chain.session
        if "aggregate" in session.head:
            check_worker(session, request.worker)
        flat = request.read(session.layout)
        if request.step is not None and request.step > chain.step + 1:
            if not chain.rows:
                self._check_newest(session)
            raise _mismatch(chain.step)
        end = chain.end()
        done = compute(end, flat, request.loss, self._now())
        if self._waits(end):
            chain.durable = chain.step + 1
        chain.add(done)
        return _stepped(session.layout, done, request.returning, chain.durable)

    def _check_newest(self, session: Session) -> None:
        """Raises Taken when another writer has gone further than this session knows, Missing when it is erased."""
        self._store.head(session.id)
        last = self._store.last(session.id)
        if last is not None and last.number > session.number:
            raise Taken(session.id)

    async def _take(
        self, session: Session, flat: Flat, loss: float | None, returning: str, parts: dict[str, str] | None = None
    ) -> Stepped:
        done = await self._run(session.optimizer.work, lambda: compute(session, flat, loss, self._now()))
        if parts is not None:
            done.event["parts"] = parts
            done = done._replace(handled=told(session, done.event))
        number, payload = session.number + 1, done.payload
        written = self._store.append(session.id, number, log.encode(done.event), payload)
        waits = self._waits(session)
        if waits:
            await self._written(written)
            session.durable = session.step + 1
            self._followers.tell(session.id)
        else:
            self._later(written, session, session.step + 1, len(payload))
        session.state, session.number, session.step = done.state, number, session.step + 1
        session.updated = done.event["time"]
        session.grow(1, len(payload))
        self._snapshot_if_due(session)
        return _stepped(session.layout, done, returning, session.durable)

    async def _again(
        self,
        session: Session,
        step: int,
        flat: Flat,
        loss: float | None,
        returning: str,
        worker: str | None = None,
    ) -> Stepped:
        """The answer that a step had, if this request is the one that it answered, or one of its parts."""
        if step < 1:
            raise Invalid("step counts from 1: it is the number that this step will have.", pointer="/step")
        make_finite(session, flat)  # refuses what would have been refused then
        event = await self._event(session, step)
        taken = event["digest"] if worker is None else event["parts"].get(worker)
        if taken is None:
            raise StepMismatch(
                f"Step {step} was taken without the part of {worker}; read the parameters and go on with step "
                f"{session.step + 1}.",
                current_step=session.step,
            )
        if taken != log.step_digest(flat.values, flat.absent, loss, flat.rows):
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
        handled = told(session, event)
        lengths = event["gradient_norm"], event["update_norm"]
        return Stepped(
            session.layout, step, params, updates, event["learning_rate"], *lengths, session.durable, True, handled
        )

    # Reading

    def history(self, session: Session, after: int, limit: int) -> tuple[list[dict[str, Any]], int | None]:
        """Metrics of at most `limit` steps above `after`, and the step to go on from."""
        last = min(session.step, max(after, begins(session.timeline)) + limit)
        found = [event for page in self._line(session, after + 1, last) for event in page]
        more = bool(found) and found[-1]["step"] < session.step
        return [metrics(event) for event in found], found[-1]["step"] if more else None

    def _line(self, session: Session, first: int, last: int) -> Iterator[list[dict[str, Any]]]:
        """The events of the steps `first` ... `last`, page by page; fewer where the rest are not written yet."""
        for start, end, offset in stretches(session.timeline, first, last):
            number, end = start + offset - 1, end + offset
            while number < end:
                rows = self._store.events(session.id, number, min(PAGE, end - number))
                if not rows:
                    return
                number = rows[-1].number
                yield [log.decode(row.event) for row in rows]

    async def follow(self, id: str, after: int | None = None) -> AsyncGenerator[dict[str, Any], None]:
        """Events above step `after` (the newest by default), then each new one once it is durable, without end.

        Each is `{"kind": "step", "step", "time", ...}` with a step's metrics, `{"kind": "patch", ...}`, or
        `{"kind": "rewind", "step", "time"}`, after which the steps above it are taken back and come again. Followers
        share these objects: change none.
        Raises NotFound, Gone, also when the session is deleted meanwhile. Close it (`aclose`) when done; it ends by
        itself when the engine closes.
        """
        session = await self._open(id)
        with self._followers.watch(id) as news:
            number, first = session.number, session.step + 1 if after is None else max(after, 0) + 1
            for page in self._line(session, first, session.step):
                for past in page:
                    yield followed(past)
            while not self._closing:
                news.clear()
                new = self._followers.page(id, number, self._page)
                for row, event in new:
                    number = row
                    yield event
                if not new:
                    await self._open(id)  # raises what there is to say when it is gone
                    if not news.is_set():
                        await news.wait()

    def _page(self, id: str, after: int) -> list[tuple[int, dict[str, Any]]]:
        """What followers are told of the rows above a number, with the rows' numbers."""
        return [(row.number, followed(log.decode(row.event))) for row in self._store.events(id, after, PAGE)]

    async def step_at(self, session: Session, step: int) -> tuple[dict[str, Any], Array]:
        """A step's metrics and the parameters after it. Raises NotFound, Gone."""
        if not 1 <= step <= session.step:
            raise NotFound(f"The session is at step {session.step}; ask for a step from 1 to {session.step}.")

        async def look(session: Session) -> tuple[dict[str, Any], Array]:
            return metrics(await self._event(session, step)), await self._params_at(session, step)

        return await self._reading(session, look)

    async def params_at(self, session: Session, step: int | None, view: str = "train") -> tuple[int, Array]:
        """The parameters after a step (the newest by default), as they are trained or as they are to be used.

        Raises NotFound, Gone, Invalid for a view that there is not.
        """
        if step is None or step == session.step:
            return session.step, seen(session, view)
        there = await self.session_at(session, step)
        return step, seen(there, view)

    async def session_at(self, session: Session, step: int | None) -> Session:
        """The session as it was after a step (the newest by default), to look at only. Raises NotFound, Gone."""
        if step is None or step == session.step:
            return session
        if not 0 <= step <= session.step:
            raise NotFound(f"The session is at step {session.step}; ask for a step from 0 to {session.step}.")
        return await self._reading(session, partial(self._fold_at, step=step))

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
        if session.durable < session.step and session.unwritten is not None:
            await asyncio.wait([session.unwritten])

    async def _event(self, session: Session, step: int) -> dict[str, Any]:
        """The event of a step that was taken. Raises Missing, or Gap where it was lost before it was durable."""
        first = begins(session.timeline)
        if step <= first:
            raise self._not_kept(session, first)
        await self._settle(session)
        number = row_of(session.timeline, step)
        rows = self._store.events(session.id, number - 1, 1)
        if not rows or rows[0].number != number:
            self._store.head(session.id)
            raise Gap(f"{session.id}/{number}")
        return log.decode(rows[0].event)

    async def _params_at(self, session: Session, step: int) -> Array:
        """The parameters after a step that was taken. Raises Gone where they are not kept, Missing, Gap."""
        if step == session.step:
            return session.state.params
        return (await self._fold_at(session, step)).state.params

    async def _fold_at(self, session: Session, step: int) -> Session:
        """The session as it was just before the step after this one was taken: with the patches made in between.

        Raises Gone where it is not kept, StepMismatch where it was not taken, Missing, Gap.
        """
        if step > session.step:
            self._check_newest(session)
            raise StepMismatch(
                f"The session is at step {session.step}, and step {step} was not taken.", current_step=session.step
            )
        if step < begins(session.timeline):
            raise self._not_kept(session, begins(session.timeline))
        await self._event(session, min(step + 1, session.step)) if session.step > begins(session.timeline) else None
        number = session.number if step == session.step else row_before_next(session.timeline, step)
        id, head = session.id, session.head
        loaded = await asyncio.get_running_loop().run_in_executor(self._threads, self._live.fold, id, head, number)
        if loaded is None:
            self._store.head(id)
            first = self._store.first_snapshot(id)
            raise self._not_kept(session, session.step if first is None else self._oldest(session, first))
        return loaded

    def _oldest(self, session: Session, first: int) -> int:
        """The oldest step of the living line that can be had when the oldest snapshot has this number."""
        return oldest(session.timeline, session.step, first)

    def _not_kept(self, session: Session, first: int) -> Gone:
        begun = begins(session.timeline)
        parent = session.head.get("parent")
        if begun and first == begun:
            before = f" Ask {parent['id']}, of which it is a fork." if parent else ""
            detail = f"This session began at step {begun}, so that there is nothing of the steps before.{before}"
        else:
            detail = (
                f"The gradients up to step {first} are no longer kept, so that parameters can be had from step {first} "
                "on; the metrics of all steps are kept."
            )
        return Gone(detail, code="step-not-kept", kept_from_step=first, current_step=session.step)

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
                except Missing as error:
                    self._live.drop(session)
                    raise gone(id, error.tombstone if isinstance(error, Erased) else b"") from None
            await asyncio.sleep(0.001 * attempt)
        raise Conflict("Another client is writing to this session; send the same request again.", retry_after=1)

    async def _open(self, id: str) -> Session:
        session = await self._live.get(id)
        if (
            session.head["ttl_seconds"] is not None
            and self._live.expired(session.head, session.updated)
            and not session.lock.locked()  # what is being done to it will keep it alive
            and id not in self._rounds
        ):
            self._live.drop(session)
            with contextlib.suppress(Missing):
                await self._erase(session, "expired")
            raise gone(id, tombstone(session.head, "expired", session.step, self._now()))
        return session

    async def _erase(self, session: Session, state: str) -> None:
        left = tombstone(session.head, state, session.step, self._now())
        await self._written(self._store.erase(session.id, left))
        self._live.drop(session)
        self._forgotten(session.id)

    def _forgotten(self, id: str) -> None:
        """A session was erased: those who wait for news of it are told, and it no longer counts."""
        self._rounds.fail(id, gone(id, b""))
        self._followers.tell(id)
        if self._count is not None:
            self._count -= 1

    def _busy(self, id: str) -> bool:
        """Whether something is being done to a session, so that it cannot expire."""
        held = self._live.held(id)
        return id in self._rounds or self._live.loading(id) or (held is not None and held.lock.locked())

    def _exists(self, id: str) -> bool:
        with contextlib.suppress(Missing):
            self._store.head(id)
            return True
        return False

    # Writing

    def _waits(self, session: Session) -> bool:
        """Whether the step about to be taken is answered only when it is durable."""
        durability = session.head["durability"]
        if durability == "step" or self._unwritten > self._settings.max_unwritten_bytes:
            return True
        return durability != "none" and (session.step + 1) % int(durability.removeprefix("every:")) == 0

    async def _written(self, write: asyncio.Future[None]) -> None:
        """Wait until a write is durable. Raises what the store refused, or Unavailable when the outcome is open."""
        try:
            await write
        except Full:
            raise OutOfSpace(
                "The disk is full, so that nothing was changed; make room or delete sessions, then send the same "
                "request again.",
                retry_after=5,
            ) from None
        except StoreError:
            raise
        except Exception as error:
            logger.error("the store failed to write: %s", error)
            raise Unavailable(
                "The store could not confirm the write, so that it may or may not be there; send the same request "
                "again.",
                retry_after=1,
            ) from error

    def _later(self, write: asyncio.Future[None], session: Session, step: int, size: int) -> None:
        """A write that nobody waits for: when it fails, the session is loaded again from what is there."""

        def finished(done: asyncio.Future[None]) -> None:
            self._background.discard(done)
            self._unwritten -= size
            if done.cancelled():
                return
            if done.exception() is None:
                session.durable = max(session.durable, step)
                self._followers.tell(session.id)
            elif not session.stale:
                logger.error("a step of session %s was lost before it was durable: %s", session.id, done.exception())
                self._live.drop(session)

        self._unwritten += size
        session.unwritten = write
        self._background.add(write)
        write.add_done_callback(finished)

    def _due(self, session: Session, number: int, more: int = 0) -> bool:
        """Whether the log should get a snapshot at a row, after so many bytes more than the session knows of."""
        backlog = session.backlog[1] + more
        return retention.due(self._settings, number - session.snapshot, backlog, session.bytes)

    def _snapshot_if_due(self, session: Session) -> None:
        if self._due(session, session.number) and not session.saving:
            self._snapshot(session)

    def _snapshot(self, session: Session) -> None:
        """Hand a snapshot to the store, and let it forget what is past the bound on gradients."""
        number = session.number
        keep_from = retention.kept_from(self._settings, number, *session.backlog)
        session.snapshot, session.backlog = number, (0, 0)
        if session.durable == session.step and session.bytes < LARGE:
            blob = log.pack(freeze(session), session.optimizer.slot_names)
            self._watch(self._keep(session.id, number, blob, keep_from))
            return
        session.saving = True
        self._watch(asyncio.ensure_future(self._snapshot_later(session, freeze(session), keep_from)))

    async def _snapshot_later(self, session: Session, snapshot: Snapshot, keep_from: int) -> None:
        """The same for a state that is large, or whose row is not written yet."""
        try:
            await self._settle(session)
            if session.stale:
                return
            pack = partial(log.pack, snapshot, session.optimizer.slot_names)
            blob = await asyncio.get_running_loop().run_in_executor(self._threads, pack)
            await self._keep(session.id, snapshot.number, blob, keep_from)
        finally:
            session.saving = False

    def _keep(self, id: str, number: int, blob: bytes, keep_from: int) -> asyncio.Future[None]:
        """A snapshot in place of all that is not needed for the rows from one on."""
        base = self._store.newest_snapshot(id, keep_from)
        return self._store.keep(id, number, blob, base or 0)

    def _watch(self, write: asyncio.Future[None]) -> None:
        """A snapshot only makes loading fast; the log has everything, so that a failure is no loss."""

        def finished(done: asyncio.Future[None]) -> None:
            self._background.discard(done)
            if not done.cancelled() and (error := done.exception()) and not isinstance(error, Missing):
                logger.error("a snapshot could not be written: %s", error)

        self._background.add(write)
        write.add_done_callback(finished)

    async def _packed(self, session: Session) -> bytes:
        """The bytes of the session's state."""
        return await self._run(session.layout.size, lambda: log.pack(freeze(session), session.optimizer.slot_names))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Something to be done that nobody waits for; closing does."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _run(self, size: int, work: Callable[[], T]) -> T:
        """Small work at once; large work in the engine's own threads, so that the event loop stays free."""
        if size <= INLINE:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def start(self) -> None:
        """Begin what is done without being asked: erasing expired sessions."""
        if self._settings.reap_seconds:
            self._reaping = asyncio.ensure_future(self._reaper.forever(self._settings.reap_seconds))

    async def reap(self) -> int:
        """Erase some of the sessions that have expired; how many were looked at."""
        return await self._reaper.round()

    async def close(self) -> None:
        """Wait for what is still being written, and let go of the threads."""
        self._closing = True
        self._followers.tell_all()
        self._rounds.fail_all(Unavailable("The service is stopping; send the same part again.", retry_after=1))
        if self._reaping is not None:
            self._reaping.cancel()
            await asyncio.wait([self._reaping])
        while self._background:
            await asyncio.wait(self._background)
        self._threads.shutdown()


def _title(resolved: dict[str, Any]) -> dict[str, Any]:
    """What a list shows of an optimizer."""
    return {key: resolved["optimizer"][key] for key in ("name", "dialect")}


def begins_with(head: dict[str, Any]) -> int:
    """The step with which a session began."""
    return int(head.get("parent", {}).get("step", head.get("begins", 0)))


def seen(session: Session, view: str) -> Array:
    """The parameters in a view: "train", where gradients are taken, or "eval", where the model is used."""
    if view == "train":
        return session.state.params
    return session.optimizer.view(session.state, view)


def _chosen(stepped: Stepped, returning: str) -> Stepped:
    """An outcome that has everything, as one of those who share it asked for it."""
    return stepped._replace(
        params=stepped.params if returning == "params" else None,
        updates=stepped.updates if returning == "updates" else None,
    )


def _stepped(layout: Layout, done: Computed, returning: str, durable: int) -> Stepped:
    """What is answered to a step that was just taken."""
    event = done.event
    return Stepped(
        layout,
        event["step"],
        done.state.params if returning in ("params", "both") else None,
        done.updates if returning in ("updates", "both") else None,
        event["learning_rate"],
        event["gradient_norm"],
        event["update_norm"],
        durable,
        False,
        done.handled,
    )


def _mismatch(current: int) -> StepMismatch:
    return StepMismatch(f"The session is at step {current}; send step {current + 1} next.", current_step=current)


def hyperparameters(session: Session) -> dict[str, Any]:
    """The hyperparameters of the session's next step, schedules evaluated."""
    return session.optimizer.specification.told(session.state.step)


def body_digest(body: dict[str, Any]) -> str:
    """What makes a repeated create the same: its JSON value, whatever the order of its fields."""
    return hashlib.sha256(canonical(body)).hexdigest()
