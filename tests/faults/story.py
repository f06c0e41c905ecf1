"""A short life of a few sessions as their clients tell it: what was sent, what was answered, what must be there.

The engine and its store run in process, on whatever disk is plugged in. A client sends the same request again when
the outcome is open, and goes back when it is told that steps which were not promised are lost; it believes no
parameters but those of a run that nobody disturbed, bit for bit.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import apsw
import numpy as np

from service.errors import Conflict, Gone, NotFound, OutOfSpace, StepMismatch, Unavailable
from service.optim.optimizer import build
from service.sessions.engine import Creation, Engine
from service.sessions.steps import Stepped
from service.settings import Settings
from service.stores.base import Store
from service.stores.memory import MemoryStore
from service.stores.sqlite import SQLiteStore
from service.wire.trees import Flat, lay_out

STEPS = 7
PATCHED_AFTER = 3
DOOMED = "doomed"  # lives for the first steps and is deleted
DOOMED_AFTER = 4
DURABILITY = {"each": "step", "few": "every:3", "none": "none", "wide": "step", DOOMED: "step"}
SIZES = {"wide": 60}
SETTINGS = Settings(snapshot_every=2, kept_gradient_bytes=96)
LARGE = 400  # bytes; some groups are begun by the store's thread
JOURNALED = 8  # rows; the journal is emptied a few times
PIECE = 300  # bytes; the gradients of `wide` and all snapshots are in pieces
OPEN = (Conflict, OutOfSpace, Unavailable)  # send the same request again


class GaveUp(Exception):
    """The service refused too often."""


@dataclass
class Client:
    """What one client knows of its session.

    sent            the highest step whose request went out
    acknowledged    the newest step that was answered, and `durable` the newest that was promised
    created         None until it was answered; `deleted` likewise, "asked" in between
    refused         how often the outcome was left open
    lost            how many steps that were answered and not promised were gone after a restart
    """

    name: str
    expected: dict[int, bytes]
    sent: int = 0
    acknowledged: int = 0
    durable: int = 0
    created: bool = False
    deleted: str = ""
    refused: int = 0
    lost: int = 0

    async def create(self, engine: Engine) -> None:
        optimizer = {"name": "momentum", "dialect": "torch", "learning_rate": 0.1, "momentum": 0.9}
        layout, params = lay_out([1.0] * SIZES.get(self.name, 2), "float64")
        creation = Creation(
            optimizer=build(optimizer, layout, [], []),
            layout=layout,
            params=params,
            non_finite="reject",
            durability=DURABILITY[self.name],
            labels={},
            ttl_seconds=None,
            body="the same",
        )
        await engine.create(self.name, creation)
        self.created = True

    async def step(self, engine: Engine, number: int) -> Stepped:
        rng = np.random.default_rng([number, *self.name.encode()])
        values = rng.standard_normal(SIZES.get(self.name, 2))
        self.sent = max(self.sent, number)
        return await engine.step(
            self.name, lambda layout: Flat(values, ()), step=number, loss=float(number), returning="params"
        )

    async def go(self, engine: Engine, number: int, tries: int, witness: Callable[[], None]) -> None:
        """Be at step `number` at least. Raises GaveUp."""
        while self.acknowledged < number:
            try:
                stepped = await self.step(engine, self.acknowledged + 1)
            except OPEN:
                self.refused += 1
                witness()
                if not tries:
                    raise GaveUp from None
                tries -= 1
            except StepMismatch as mismatch:
                current = mismatch.extensions["current_step"]
                assert self.promised <= current < self.acknowledged, f"{self.name}: {current}, {self}"
                self.acknowledged = current
            else:
                self.hear(stepped)

    def hear(self, stepped: Stepped) -> None:
        """Take an answer in; it must be the right one."""
        assert stepped.step == self.acknowledged + 1
        assert stepped.params is not None
        self.believe(stepped.step, stepped.params.tobytes())
        self.acknowledged = stepped.step
        assert stepped.durable_step >= (stepped.step if DURABILITY[self.name] == "step" else 0)
        self.durable = max(self.durable, stepped.durable_step)

    def believe(self, step: int, params: bytes) -> None:
        known = self.expected.setdefault(step, params)
        assert known == params, f"{self.name}: step {step} has other parameters than an undisturbed run"

    @property
    def promised(self) -> int:
        """The step that nothing may take back."""
        return self.acknowledged if DURABILITY[self.name] == "step" else self.durable


@dataclass
class Story:
    """The clients, and how far they came."""

    clients: dict[str, Client]
    round: int = 0
    patched: bool = False
    tries: int = 3
    witness: Callable[[], None] = field(default=lambda: None)

    async def go_on(self, engine: Engine) -> None:
        """To the end, from wherever it is. Raises GaveUp when the service goes on refusing."""
        for client in self.clients.values():
            if not client.created:
                await self.insist(client, lambda client=client: client.create(engine))
        while self.round < STEPS:
            if self.round >= PATCHED_AFTER and not self.patched:
                await self.insist(self.clients["each"], lambda: engine.patch("each", {"learning_rate": 0.05}, {}))
                self.patched = True
            if self.round >= DOOMED_AFTER and self.clients[DOOMED].deleted != "yes":
                await self.delete(engine, self.clients[DOOMED])
            await gather(
                client.go(engine, self.round + 1, self.tries, self.witness)
                for client in self.clients.values()
                if not client.deleted
            )
            self.round += 1
            self.witness()

    async def delete(self, engine: Engine, client: Client) -> None:
        client.deleted = "asked"
        with contextlib.suppress(Gone):  # it was, and we were not told
            await self.insist(client, lambda: engine.delete(client.name))
        client.deleted = "yes"

    async def insist(self, client: Client, act: Callable[[], Any]) -> None:
        for left in range(self.tries, -1, -1):
            try:
                await act()
            except OPEN:
                client.refused += 1
                self.witness()
                if not left:
                    raise GaveUp from None
            else:
                return

    def copy(self) -> Story:
        """What is known at this moment."""
        clients = {name: replace(client) for name, client in self.clients.items()}
        return Story(clients, self.round, self.patched, self.tries)

    @property
    def refused(self) -> int:
        return sum(client.refused for client in self.clients.values())

    @property
    def lost(self) -> int:
        return sum(client.lost for client in self.clients.values())

    async def check(self, engine: Engine) -> None:
        """After a restart: what was promised is there, what was sent at most once, and nothing else."""
        for client in self.clients.values():
            try:
                session = await engine.get(client.name)
            except NotFound:
                assert not client.created, f"{client.name} is gone"
                continue
            except Gone:
                assert client.deleted, f"{client.name} was not deleted"
                continue
            assert client.deleted != "yes", f"{client.name} has come back"
            step = session.step
            assert client.promised <= step <= client.sent, f"{client.name}: at {step}, {client}"
            client.believe(step, session.state.params.tobytes())
            history, _ = engine.history(session, 0, 1000)
            assert [item["step"] for item in history] == list(range(1, len(history) + 1))
            assert session.durable <= len(history) <= step
            client.lost += max(0, client.acknowledged - step)  # not promised; to be sent again
            client.acknowledged = min(client.acknowledged, step)
            client.durable = min(client.durable, step)
            self.round = min(self.round, step)


async def gather(acts: Any) -> None:
    """All of them to their ends; then the first failure, an assertion before others."""
    outcomes = await asyncio.gather(*acts, return_exceptions=True)
    failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    for failure in sorted(failures, key=lambda failure: isinstance(failure, GaveUp)):
        raise failure


def begin(tries: int = 3) -> Story:
    """Before anything."""
    return Story({name: Client(name, EXPECTED[name]) for name in DURABILITY}, tries=tries)


@contextlib.asynccontextmanager
async def living(store: Store) -> AsyncIterator[Engine]:
    """An engine on a store; both are closed as at a stop."""
    engine = Engine(store, SETTINGS)
    try:
        yield engine
    finally:
        await engine.close()
        with contextlib.suppress(apsw.Error):  # SQLite keeps to itself what fails at the end; a VFS in Python cannot
            store.close()


async def resume(story: Story, data: Path) -> None:
    """A restart on these files, the check, and the rest of the story."""
    store = SQLiteStore(data)
    async with living(store) as engine:
        problems = [row[0] for row in store._reader().execute("PRAGMA integrity_check").fetchall()]
        assert problems == ["ok"], problems
        await story.check(engine)
        await story.go_on(engine)
        await story.check(engine)
    assert all(client.acknowledged == STEPS for client in story.clients.values() if not client.deleted)


def _undisturbed() -> dict[str, dict[int, bytes]]:
    """The parameters after each step in a run that nobody disturbs, in memory."""

    async def run() -> dict[str, dict[int, bytes]]:
        story = Story({name: Client(name, {}) for name in DURABILITY})
        async with living(MemoryStore()) as engine:
            for client in story.clients.values():
                await client.create(engine)
                client.believe(0, (await engine.get(client.name)).state.params.tobytes())
            await story.go_on(engine)
        return {name: client.expected for name, client in story.clients.items()}

    return asyncio.run(run())


EXPECTED = _undisturbed()
