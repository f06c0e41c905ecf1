"""Taking steps: one, many of a session, many of many sessions, and those that several workers share.

Each is worked out, written, and only then made the session's; or answered again, where it was taken before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from service.errors import Invalid, StepMismatch, StepReused, ThalwegError
from service.optim.blocks import LARGE
from service.optim.tensors import Layout
from service.sessions import log
from service.sessions.access import Access
from service.sessions.aggregation import Part, Round, Rounds, check_worker, moved
from service.sessions.chain import Chain, advance, claim
from service.sessions.followers import Followers
from service.sessions.live import Live
from service.sessions.reading import Reader
from service.sessions.session import Session, unshared
from service.sessions.steps import (
    EVERYTHING,
    Computed,
    Stepped,
    Want,
    answered,
    chosen,
    compute,
    make_finite,
    mismatch,
    told,
)
from service.sessions.timeline import begins
from service.sessions.together import Together, in_a_row
from service.sessions.work import INLINE, Work
from service.sessions.writing import Writer, settle
from service.stores.base import Store, StoreError
from service.wire.steps import StepRequest
from service.wire.trees import Flat


class Stepper:
    """Takes steps; `now` is the time that they are given."""

    def __init__(
        self,
        store: Store,
        live: Live,
        followers: Followers,
        rounds: Rounds,
        work: Work,
        writer: Writer,
        access: Access,
        reader: Reader,
        together: Together,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._live = live
        self._followers = followers
        self._rounds = rounds
        self._work = work
        self._writer = writer
        self._access = access
        self._reader = reader
        self._together = together
        self._now = now

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
        """Take one step, or answer again the one that this request took before; a worker's part waits for all."""

        async def take(session: Session) -> Stepped | Round:
            if worker is not None or "aggregate" in session.head:
                return await self._join(session, read(session.layout), step, loss, returning, worker)
            flat = read(session.layout)
            if step is not None and step <= session.step:
                return await self._again(session, step, flat, loss, returning)
            if step is not None and step > session.step + 1:
                self._access.check_newest(session)
                raise mismatch(session.step)
            return await self._take(session, flat, loss, returning)

        outcome = await self._access.exclusively(id, take)
        if isinstance(outcome, Round):
            return chosen(await asyncio.shield(outcome.outcome), returning)
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
            self._access.check_newest(session)
            raise mismatch(session.step)
        check = session.head["non_finite"] == "reject"
        digest = await self._work.run(session.layout.size, partial(self._digest, session, flat, loss, check))
        part = Part(flat, loss, digest)
        round = self._rounds.join(
            session, worker, part, lambda round: self._work.spawn(self._end_round(session.id, round))
        )
        if round.full:  # in a task of its own, for whoever sent the last part may hang up
            self._work.spawn(self._end_round(session.id, round))
        return round

    async def _end_round(self, id: str, round: Round) -> None:
        """All parts are there, or the time is up: take the step with those that came, or tell who is missing."""

        async def end(session: Session) -> None:
            if self._rounds.get(id) is not round:
                return
            if round.step != session.step + 1:
                raise moved(round.step, session.step)
            if not round.full and len(round.parts) < round.plan.quorum:
                known = (
                    await self._reader.event(session, session.step) if session.step > begins(session.timeline) else {}
                )
                raise round.late(known.get("parts", {}))
            flat, loss = await self._work.run(session.layout.size, round.combined)
            self._rounds.finish(id, await self._take(session, flat, loss, "both", round.digests()))

        try:
            await self._access.exclusively(id, end)
        except ThalwegError as error:
            if self._rounds.get(id) is round:
                self._rounds.fail(id, error)

    async def step_many(self, id: str, requests: Sequence[StepRequest]) -> list[Stepped | ThalwegError]:
        """Take steps of one session in their order: for each what `step` would answer or raise."""
        outcomes: list[Stepped | ThalwegError] = []
        if any(request.worker is not None for request in requests):
            return await self._step_beside(id, requests)
        try:
            while len(outcomes) < len(requests):
                outcomes += await self._access.exclusively(id, partial(self._take_chain, requests[len(outcomes) :]))
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
                return await self.step(
                    id,
                    request.read,
                    step=request.step,
                    loss=request.loss,
                    returning=request.returning,
                    worker=request.worker,
                )
            except ThalwegError as error:
                return error

        return [outcome for together in rounds for outcome in await asyncio.gather(*map(one, together))]

    async def step_all(self, chains: Mapping[str, Sequence[StepRequest]]) -> dict[str, list[Stepped | ThalwegError]]:
        """`step_many` for many sessions, side by side and in one write as far as can be.

        Those that are in memory and free need no task of their own, which would cost as much as their steps.
        """
        outcomes: dict[str, list[Stepped | ThalwegError]] = {id: [] for id in chains}
        single = [(id, requests[0]) for id, requests in chains.items() if len(requests) == 1]
        group = self._together.begin(single)
        several = [(id, requests) for id, requests in chains.items() if len(requests) > 1]
        self._live.fetch(id for id, _ in several)
        begun = {id: chain for id, requests in several if (chain := self._begin(id, requests)) is not None}
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
        if group.written is not None:
            await asyncio.wait([group.written])
        for (id, _), outcome in zip(single, group.outcomes, strict=True):
            outcomes[id] = [] if outcome is None else [outcome]
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
            found = self._in_a_row(session, requests)
            for request in requests:
                if (request.step is not None and request.step <= session.step) or self._cut(chain, request):
                    break
                try:
                    chain.outcomes.append(self._work_out(chain, request, found))
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
                await self._writer.written(chain.written)
                session.durable = chain.step
                self._followers.tell(session.id)
            else:
                self._writer.later(chain.written, session, chain.step, chain.bytes)
            chain.settle()
            self._writer.snapshot_if_due(session)
        return chain.outcomes

    async def _take_chain(self, requests: Sequence[StepRequest], session: Session) -> list[Stepped | ThalwegError]:
        """The outcomes of the first requests, as many as go into one write. Raises Taken, Gap, Missing, Unavailable."""
        chain = Chain(session)
        found = self._in_a_row(session, requests) if session.optimizer.work <= INLINE else []
        for request in requests:
            if self._cut(chain, request):
                break
            try:
                if request.step is not None and request.step <= session.step:
                    flat = request.read(session.layout)
                    outcome = await self._again(session, request.step, flat, request.loss, request.returning)
                else:
                    work = partial(self._work_out, chain, request, found)
                    outcome = await self._work.run(session.optimizer.work, work)
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
        return looks_back or chain.full or self._writer.due(chain.session, chain.number, chain.bytes)

    def _in_a_row(self, session: Session, requests: Sequence[StepRequest]) -> list[Computed]:
        """The first steps of a chain, worked out at once as far as can be, up to where the log gets a snapshot."""
        return in_a_row(session, requests, self._now(), self._writer.rows_left(session))

    def _work_out(self, chain: Chain, request: StepRequest, found: Sequence[Computed] = ()) -> Stepped:
        """One more step for the chain, which may have been `found` before.

        Raises StepMismatch, NonFinite, Invalid, and Taken or Missing.
        """
        session = chain.session
        end, at = chain.end(), len(chain.rows)
        if at == len(chain.outcomes) and at < len(found):
            return self._added(chain, end, found[at], request.returning)
        if "aggregate" in session.head:
            check_worker(session, request.worker)
        flat = request.read(session.layout)
        if request.step is not None and request.step > chain.step + 1:
            if not chain.rows:
                self._access.check_newest(session)
            raise mismatch(chain.step)
        return self._added(chain, end, compute(end, flat, request.loss, self._now()), request.returning)

    def _added(self, chain: Chain, end: Session, done: Computed, returning: str) -> Stepped:
        if self._writer.waits(end):
            chain.durable = chain.step + 1
        chain.add(done)
        return answered(chain.session.layout, done, returning, chain.durable)

    async def _take(
        self, session: Session, flat: Flat, loss: float | None, returning: str, parts: dict[str, str] | None = None
    ) -> Stepped:
        over = session.layout.size >= LARGE and unshared(session)
        want = Want(returning in ("updates", "both"), over) if session.layout.size >= LARGE else EVERYTHING
        try:
            done = await self._computed(session, flat, loss, want)
            if parts is not None:
                done.event["parts"] = parts
                done = done._replace(handled=told(session, done.event))
            written = self._store.append(session.id, session.number + 1, log.encode(done.event), done.payload)
            waits = self._writer.waits(session)
            if waits:
                await self._writer.written(written)
                session.durable = session.step + 1
                self._followers.tell(session.id)
            else:
                self._writer.later(written, session, session.step + 1, len(done.payload))
        except BaseException as error:
            if session.torn and isinstance(error, Exception):
                await settle(session)
            if session.torn or (over and not isinstance(error, Exception)):  # a thread may be at it still
                self._live.drop(session)
            raise
        advance(session, done)
        self._writer.snapshot_if_due(session)
        return answered(session.layout, done, returning, session.durable)

    async def _computed(self, session: Session, flat: Flat, loss: float | None, want: Want) -> Computed:
        """The step, worked out where it belongs; a thread holds on to what it returns, so that it returns nothing."""
        if session.optimizer.work <= INLINE:
            return compute(session, flat, loss, self._now())
        found: list[Computed] = []
        await self._work.in_thread(lambda: found.append(compute(session, flat, loss, self._now(), want)))
        return found.pop()

    def _digest(self, session: Session, flat: Flat, loss: float | None, check: bool = True) -> str:
        """The digest of a step. Raises NonFinite, where it is to be checked, for what the session's policy refuses."""
        if check:
            make_finite(session, flat)
        return log.step_digest(flat.values, flat.absent, loss, flat.rows)

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
        digest = await self._work.run(session.layout.size, partial(self._digest, session, flat, loss))
        event = await self._reader.event(session, step)
        taken = event["digest"] if worker is None else event["parts"].get(worker)
        if taken is None:
            raise StepMismatch(
                f"Step {step} was taken without the part of {worker}; read the parameters and go on with step "
                f"{session.step + 1}.",
                current_step=session.step,
            )
        if taken != digest:
            raise StepReused(
                f"Step {step} was taken with another gradient or loss; the session is at step {session.step}. "
                "Read the parameters and send the next step.",
                pointer="/step",
                current_step=session.step,
            )
        params = updates = None
        if returning == "params":
            params = await self._reader.params_after(session, step)
        elif returning == "updates":
            updates = await self._reader.params_after(session, step) - await self._reader.params_after(
                session, step - 1
            )
        handled = told(session, event)
        lengths = event["gradient_norm"], event["update_norm"]
        return Stepped(
            session.layout, step, params, updates, event["learning_rate"], *lengths, session.durable, True, handled
        )
