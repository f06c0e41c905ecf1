"""Sessions against a model: any order of requests, evictions, restarts, crashes and rivals, compared bit for bit.

A crash cuts the power before some operation of the disk: what was not synchronised is gone, all of it, none of it, or
any sectors. What it takes is the same whenever the same requests are made, for a step that is written behind its
answer is waited for where that would decide what is lost.
"""

from __future__ import annotations

import asyncio
import copy
import random
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.main import open_store
from service.sessions.reaper import ROUND
from service.settings import Settings
from service.stores.base import Store
from service.stores.sqlite import SQLiteStore
from tests.conftest import Service
from tests.sessions.calls import ADAM, MOMENTUM, Adam, Momentum, pointers, problem, settle
from tests.stores.disk import Disk

MODELS: dict[str, tuple[dict[str, Any], type[Adam] | type[Momentum]]] = {
    "adam": (ADAM, Adam),
    "momentum": (MOMENTUM, Momentum),
}
ROWS_KEPT = 6
JOURNALED = 7  # rows
PIECE = 400  # bytes
KEPT = {"all": 1 << 20, "few": ROWS_KEPT * 16}

numbers = st.floats(-100, 100, allow_subnormal=False)
gradients = st.tuples(numbers, numbers).map(list)
losses = st.none() | numbers
levels = st.sampled_from(["step", "step", "every:2", "every:3", "none"])
which = st.integers(0, 1 << 16)  # picks one of what there is at that moment


@dataclass
class Modelled:
    """What a session must be.

    durable     the newest step that was said to be durable, or had to be
    """

    body: dict[str, Any]
    model: Adam | Momentum
    ttl: float | None
    updated: float
    params: list[list[float]]
    sent: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    state: str = "active"
    begins: int = 0
    states: list[Adam | Momentum] = field(default_factory=list)
    parent: str | None = None
    loaded: bool = False
    durable: int = 0

    @property
    def made(self) -> tuple[str, dict[str, Any]]:
        """The request that made it."""
        if self.parent is None:
            return "/v1/sessions", self.body
        return f"/v1/sessions/{self.parent}/fork", {"id": self.body["id"], "step": self.begins}

    @property
    def step(self) -> int:
        """The step at which it stands."""
        return self.begins + len(self.sent)

    @property
    def level(self) -> str:
        """How durable a step is when it is answered."""
        level: str = self.body.get("durability", "step")
        return level

    def waits(self, step: int) -> bool:
        """Whether a step is answered only when it is durable."""
        return self.level == "step" or (self.level != "none" and step % int(self.level.removeprefix("every:")) == 0)

    def at(self, step: int) -> list[float]:
        """The parameters after a step."""
        return self.params[step - self.begins]

    def moved(self) -> None:
        """Note the model's state as that before the next step."""
        self.states[len(self.sent) :] = [copy.deepcopy(self.model)]

    def back(self, step: int) -> None:
        """Stand again as just before the step after this one."""
        kept = step - self.begins
        del self.sent[kept:], self.answers[kept:], self.params[kept + 1 :], self.states[kept + 1 :]
        self.model = copy.deepcopy(self.states[kept])
        self.durable = step


class Image:
    """The files as a power cut leaves them that comes before the next operations, so many, of a disk."""

    def __init__(self, disk: Disk, path: Path, rng: random.Random, share: float, before: int) -> None:
        self.path = path
        self.taken = False
        self._disk, self._rng, self._share, self._left = disk, rng, share, before
        disk.fault = self._count

    def _count(self, operation: str, name: str) -> None:
        if operation != "open":
            if not self._left:
                self.take()
            self._left -= 1

    def take(self) -> None:
        """Cut the power now, if it is still there."""
        with self._disk.lock:
            if not self.taken:
                self.taken = True
                self._disk.cut(self.path, self._rng, self._share)


class Machine(RuleBasedStateMachine):
    """One service at a time on one store, and now and then a rival on the same.

    disk    what the store's files lie on, which alone knows what a power cut would leave
    """

    @initialize(
        kind=st.sampled_from(["memory", "sqlite", "sqlite"]),
        kept=st.sampled_from(list(KEPT)),
        spacing=st.integers(1, 5),
        level=st.sampled_from(["every:3", "none"]),
    )
    def start(self, kind: str, kept: str, spacing: int, level: str) -> None:
        self.runner = asyncio.Runner()
        self.directory = Path(tempfile.mkdtemp(prefix="thalweg-"))
        self.now = 1_000_000.0
        self.crashes = 0
        self.bounded = kept == "few"
        self.settings = Settings(
            store=kind,
            data=self.directory,
            kept_gradient_bytes=KEPT[kept],
            snapshot_every=spacing,
            cache_bytes=200,
            reap_seconds=0,
        )
        self.disk = Disk() if kind == "sqlite" else None
        self.store = self.open()
        self.service = self.serve()
        self.sessions: list[Modelled] = []
        self.create("adam", [1.0, 2.0], None, "step")
        self.create("momentum", [1.0, 2.0], 500, level)
        for n in range(4):
            self.take(self.sessions[n % 2], {"gradients": [1.0, -n / 2], "step": n // 2 + 1})

    def open(self) -> Store:
        """The store, with a journal that is full after a few rows, and snapshots in pieces."""
        store = open_store(self.settings)
        if isinstance(store, SQLiteStore):
            store._journal_rows, store._piece = JOURNALED, PIECE
        return store

    def settle(self) -> None:
        """Wait until nothing is being written."""
        settle(self.service)
        while isinstance(self.store, SQLiteStore) and self.store._writer._writing:
            self.runner.run(asyncio.sleep(0.0001))

    def serve(self) -> Service:
        return Service(self.runner.run, self.settings, self.store, lambda: self.now)

    def teardown(self) -> None:
        if hasattr(self, "service"):
            self.service.stop()
            self.store.close()
            self.runner.close()
            if self.disk is not None:
                self.disk.unregister()
            shutil.rmtree(self.directory)

    # What is sent

    def path(self, session: Modelled) -> str:
        return f"/v1/sessions/{session.body['id']}"

    def pick(self, which: int) -> Modelled:
        """A session; one that is gone now and then."""
        living = [session for session in self.sessions if self.lives(session)]
        some = living if living and which % 8 else self.sessions
        return some[which % len(some)]

    def lives(self, session: Modelled) -> bool:
        """Whether it does; notes an expiry, which whoever asks next will find."""
        if session.state == "active" and session.ttl is not None and self.now > session.updated + session.ttl:
            session.state = "expired"
        return session.state == "active"

    def post(self, session: Modelled, body: dict[str, Any], service: Service | None = None) -> Any:
        return (service or self.service).post(f"{self.path(session)}/steps", body)

    def take(self, session: Modelled, body: dict[str, Any], service: Service | None = None) -> None:
        """A step that must be applied."""
        self.taken(session, body, self.post(session, body, service))

    def taken(
        self, session: Modelled, body: dict[str, Any], response: Any, replayed: tuple[bool, ...] = (False,)
    ) -> None:
        """What was answered to a step that must be applied, or must have been in one of these ways."""
        if not self.lives(session):
            problem(response, 410, "gone")
            return
        assert response.status_code == 200, response.text
        session.model.step(body["gradients"])
        session.updated = self.now
        session.params.append(session.model.params.tolist())
        answer = response.json()
        number = session.begins + len(session.params) - 1
        assert answer["step"] == number
        assert answer["replayed"] in replayed
        self.check_durable(session, answer, number)
        assert answer["params"] == session.params[-1]
        assert answer["learning_rate"] == session.model.learning_rate
        session.sent.append({**body, "step": number})
        session.answers.append({**answer, "replayed": False})
        session.moved()

    def check_durable(self, session: Modelled, answer: dict[str, Any], newest: int) -> None:
        """What is said to be durable never goes back, and is what the session's level promises."""
        least = newest if session.waits(newest) else session.durable
        assert max(least, session.durable) <= answer["durable_step"] <= newest
        session.durable = answer["durable_step"]

    @precondition(lambda self: len(self.sessions) < 6)
    @rule(optimizer=st.sampled_from(list(MODELS)), params=gradients, ttl=st.none() | st.integers(50, 500), level=levels)
    def create(self, optimizer: str, params: list[float], ttl: int | None, level: str) -> None:
        specification, model = MODELS[optimizer]
        body = {"id": f"s{len(self.sessions)}", "optimizer": specification, "params": params, "durability": level}
        if ttl is not None:
            body["ttl_seconds"] = ttl
        response = self.service.post("/v1/sessions", body)
        assert response.status_code == 201, response.text
        assert response.json()["params"] == params
        session = Modelled(body, model(params), ttl, self.now, [params])
        session.moved()
        self.sessions.append(session)

    @precondition(lambda self: self.sessions)
    @rule(which=which, other=st.booleans())
    def create_again(self, which: int, other: bool) -> None:
        session = self.pick(which)
        if session.loaded:
            return
        path, body = session.made
        response = self.service.post(path, {**body, "labels": {"x": "y"}} if other else body)
        if not self.lives(session):
            problem(response, 410, "gone")
        elif other:
            assert pointers(problem(response, 422, "invalid")) == ["/id"]
        else:
            assert (response.status_code, response.json()["params"]) == (200, session.params[-1])

    @precondition(lambda self: self.sessions)
    @rule(which=which, gradients=gradients, loss=losses, patch=st.none() | st.floats(1e-6, 10.0))
    def step(self, which: int, gradients: list[float], loss: float | None, patch: float | None) -> None:
        if patch is not None:
            self.patch(which, patch)
        session = self.pick(which)
        self.take(session, {"gradients": gradients, "loss": loss, "step": session.step + 1})

    @precondition(lambda self: self.sessions)
    @rule(which=which, gradients=st.lists(gradients, min_size=2, max_size=8))
    def steps_without_numbers(self, which: int, gradients: list[list[float]]) -> None:
        for g in gradients:
            self.take(self.pick(which), {"gradients": g})

    @precondition(lambda self: self.sessions)
    @rule(which=which, at=which, returning=st.sampled_from(["params", "updates", "none"]))
    def repeat(self, which: int, at: int, returning: str) -> None:
        """Any step may be sent again; what was answered is answered, as long as it is kept."""
        session = self.pick(which)
        if not session.sent:
            return
        i = at % len(session.sent)
        response = self.post(session, {**session.sent[i], "return": returning})
        if not self.lives(session):
            problem(response, 410, "gone")
            return
        if response.status_code == 410:
            self.check_forgotten(session, response, session.begins + i + (returning == "params"))
            return
        self.check_durable(session, response.json(), session.step)
        expected = {**session.answers[i], "durable_step": session.durable, "replayed": True}
        if returning != "params":
            del expected["params"]
        if returning == "updates":
            expected["updates"] = [b - a for a, b in zip(session.params[i], session.params[i + 1], strict=True)]
        assert response.json() == expected

    @precondition(lambda self: self.sessions)
    @rule(which=which, at=which, change=st.sampled_from(["gradient", "loss"]))
    def another_body(self, which: int, at: int, change: str) -> None:
        session = self.pick(which)
        if not session.sent:
            return
        body = dict(session.sent[at % len(session.sent)])
        if change == "gradient":
            body["gradients"] = [body["gradients"][0] + 1.0, body["gradients"][1]]
        else:
            body["loss"] = 1.0 if body.get("loss") is None else body["loss"] + 1.0
        response = self.post(session, body)
        if not self.lives(session):
            problem(response, 410, "gone")
        else:
            assert problem(response, 422, "step-reused")["current_step"] == session.step

    @precondition(lambda self: self.sessions)
    @rule(which=which)
    def repeat_all(self, which: int) -> None:
        """The whole history, the newest first."""
        for at in reversed(range(len(self.pick(which).sent))):
            self.repeat(which, at, "params")

    @precondition(lambda self: self.sessions)
    @rule(which=which, ahead=st.integers(1, 100))
    def gap(self, which: int, ahead: int) -> None:
        session = self.pick(which)
        response = self.post(session, {"gradients": [0.0, 0.0], "step": session.step + 1 + ahead})
        if not self.lives(session):
            problem(response, 410, "gone")
        else:
            assert problem(response, 412, "step-mismatch")["current_step"] == session.step

    @precondition(lambda self: self.sessions)
    @rule(which=which, gradients=st.sampled_from([[1.0], [1.0, None], {"w": 1.0}, [1.0, "2"], None, [1e200, 1e308]]))
    def wrong(self, which: int, gradients: Any) -> None:
        session = self.pick(which)
        huge = gradients == [1e200, 1e308]
        if huge and session.body["optimizer"] is MOMENTUM:
            return
        response = self.post(session, {"gradients": gradients, "step": session.step + 1})
        assert response.status_code == (422 if self.lives(session) else 410)

    @precondition(lambda self: self.sessions)
    @rule(which=which, rate=st.floats(1e-6, 10.0))
    def patch(self, which: int, rate: float) -> None:
        session = self.pick(which)
        response = self.service.patch(self.path(session), {"hyperparameters": {"learning_rate": rate}})
        if not self.lives(session):
            problem(response, 410, "gone")
            return
        assert (response.status_code, response.json()["hyperparameters"]["learning_rate"]) == (200, rate)
        session.model.learning_rate = rate
        session.updated = self.now
        session.durable = session.step
        session.moved()

    @precondition(lambda self: self.sessions)
    @rule(which=which, ttl=st.none() | st.integers(50, 500), label=st.sampled_from("abc"))
    def patch_head(self, which: int, ttl: int | None, label: str) -> None:
        session = self.pick(which)
        response = self.service.patch(self.path(session), {"ttl_seconds": ttl, "labels": {"l": label}})
        if not self.lives(session):
            problem(response, 410, "gone")
            return
        assert response.status_code == 200
        session.ttl = ttl
        session.labels = {"l": label}

    # What is read

    @precondition(lambda self: self.sessions)
    @rule(which=which, at=which)
    def read_params(self, which: int, at: int) -> None:
        session = self.pick(which)
        step = at % (session.step + 2)
        response = self.service.get(f"{self.path(session)}/params?step={step}")
        if not self.lives(session):
            problem(response, 410, "gone")
        elif step > session.step:
            problem(response, 404, "not-found")
        elif response.status_code == 410:
            self.check_forgotten(session, response, step)
        else:
            assert response.json() == {"step": step, "params": session.at(step)}

    def check_forgotten(self, session: Modelled, response: Any, step: int) -> None:
        """That something is gone is only right before a fork began, or where gradients are bounded and far back."""
        gone = problem(response, 410, "step-not-kept")
        first = gone["kept_from_step"]
        assert step < first <= session.step
        assert first > 0
        if step >= session.begins:
            assert self.bounded
            assert step < session.step - 1
        kept = self.service.get(f"{self.path(session)}/params?step={first}")
        assert kept.json()["params"] == session.at(first)

    # What goes back

    @precondition(lambda self: self.sessions)
    @rule(which=which, at=which, fenced=st.booleans(), again=st.integers(0, 2))
    def rewind(self, which: int, at: int, fenced: bool, again: int) -> None:
        session = self.pick(which)
        since, step = session.step, session.begins + at % (len(session.sent) + 1)
        body = {"step": step, **({"from": since} if fenced else {})}
        response = self.service.post(f"{self.path(session)}/rewind", body)
        if not self.lives(session):
            problem(response, 410, "gone")
            return
        if response.status_code == 410:
            self.check_forgotten(session, response, step)
            return
        if step != since:
            session.updated = self.now
            session.back(step)
        for replayed in [step == since] + [True] * again:
            assert response.json()["params"] == session.params[-1]
            assert (response.json()["step"], response.json()["replayed"]) == (step, replayed)
            response = self.service.post(f"{self.path(session)}/rewind", body)

    @precondition(lambda self: self.sessions)
    @rule(which=which, ahead=st.integers(1, 9), fence=st.booleans())
    def rewind_astray(self, which: int, ahead: int, fence: bool) -> None:
        session = self.pick(which)
        body = {"step": 0, "from": session.step + ahead} if fence else {"step": session.step + ahead}
        response = self.service.post(f"{self.path(session)}/rewind", body)
        if not self.lives(session):
            problem(response, 410, "gone")
        elif response.status_code == 200:  # there was such a rewind, and its fence is known
            assert fence
            assert response.json()["replayed"] is True
            assert response.json()["step"] == session.step
        else:
            assert problem(response, 412, "step-mismatch")["current_step"] == session.step

    @precondition(lambda self: 0 < len(self.sessions) < 9)
    @rule(which=which, at=which)
    def fork(self, which: int, at: int) -> None:
        parent = self.pick(which)
        step = parent.begins + at % (len(parent.sent) + 1)
        body = {**parent.body, "id": f"s{len(self.sessions)}"}
        child = Modelled(body, parent.model, parent.ttl, self.now, [])
        child.begins, child.parent, child.labels = step, parent.body["id"], parent.labels
        child.durable = step
        path, sent = child.made
        response = self.service.post(path, sent)
        if not self.lives(parent):
            problem(response, 410, "gone")
            return
        if response.status_code == 410:
            self.check_forgotten(parent, response, step)
            return
        assert (response.status_code, response.json()["parent"]) == (201, {"id": child.parent, "step": step})
        child.model = copy.deepcopy(parent.states[step - parent.begins])
        child.params = [child.model.params.tolist()]
        child.moved()
        assert response.json()["params"] == child.params[-1]
        self.sessions.append(child)

    @precondition(lambda self: 0 < len(self.sessions) < 9)
    @rule(which=which)
    def save_and_load(self, which: int) -> None:
        """A checkpoint out and in, which goes on where it was."""
        session = self.pick(which)
        response = self.service.get(f"{self.path(session)}/state")
        if not self.lives(session):
            problem(response, 410, "gone")
            return
        id = f"s{len(self.sessions)}"
        headers = {"content-type": response.headers["content-type"]}
        made = self.service.post(f"/v1/sessions?id={id}", content=response.content, headers=headers)
        assert made.status_code == 201, made.text
        copied = Modelled(
            {**session.body, "id": id}, copy.deepcopy(session.model), None, self.now, [session.params[-1]]
        )
        copied.begins, copied.labels, copied.loaded = session.step, session.labels, True
        copied.durable = session.step
        copied.moved()
        self.sessions.append(copied)

    @precondition(lambda self: self.sessions)
    @rule(which=which, limit=st.integers(1, 5))
    def read_history(self, which: int, limit: int) -> None:
        self.settle()  # the history is of what is written
        session = self.pick(which)
        path = f"{self.path(session)}/steps?limit={limit}"
        response = self.service.get(path)
        if not self.lives(session):
            problem(response, 410, "gone")
            return
        found: list[dict[str, Any]] = response.json()["items"]
        while "next_cursor" in response.json():
            response = self.service.get(f"{path}&after={response.json()['next_cursor']}")
            found += response.json()["items"]
        for item, answer, sent in zip(found, session.answers, session.sent, strict=True):
            for key in ("step", "learning_rate", "gradient_norm", "update_norm"):
                assert item[key] == answer[key]
            assert item.get("loss") == sent.get("loss")

    @rule()
    def read_list(self) -> None:
        self.settle()
        items = self.service.get("/v1/sessions").json()["items"]
        living = [session for session in self.sessions if self.lives(session)]
        assert [(item["id"], item["step"], item["labels"]) for item in items] == [
            (session.body["id"], session.step, session.labels) for session in reversed(living)
        ]

    # What happens besides

    @precondition(lambda self: len(self.sessions) > 3)
    @rule(which=which)
    def delete(self, which: int) -> None:
        session = self.pick(which)
        response = self.service.delete(self.path(session))
        assert response.status_code == (204 if self.lives(session) else 410)
        if session.state == "active":
            session.state = "deleted"

    @rule()
    def evict(self) -> None:
        self.settle()  # what is not written yet does not leave
        live = self.service.engine._live
        for session in list(live._held.values()):
            live.drop(session)

    @rule()
    def restart(self) -> None:
        self.service.stop()
        if self.settings.store == "sqlite":
            self.store.close()
            self.store = self.open()
        self.service = self.serve()

    @precondition(lambda self: self.sessions)
    @rule(which=which, gradients=gradients, same=st.booleans())
    def rival(self, which: int, gradients: list[float], same: bool) -> None:
        """Another engine takes the step that we are about to take, with the same body or another."""
        session = self.pick(which)
        if session.level != "step":  # who does not wait for the disk does not hear of others
            return
        body = {"gradients": gradients, "step": session.step + 1}
        rival = self.serve()
        try:
            self.take(session, body, rival)
        finally:
            rival.stop()
        if session.state != "active":
            return
        if same:
            answer = self.post(session, body)
            assert answer.json() == {**session.answers[-1], "replayed": True}
        else:
            refused = self.post(session, {**body, "gradients": [gradients[0] + 1.0, gradients[1]]})
            assert problem(refused, 422, "step-reused")["current_step"] == session.step

    @precondition(lambda self: self.sessions)
    @rule(which=which, gradients=gradients, turns=st.integers(0, 12))
    def hang_up(self, which: int, gradients: list[float], turns: int) -> None:
        """A client leaves while its step is under way, wherever that is, and sends it again."""
        session = self.pick(which)
        body = {"gradients": gradients, "step": session.step + 1}

        async def leave() -> None:
            asked = asyncio.ensure_future(self.service.client.post(f"{self.path(session)}/steps", json=body))
            for _ in range(turns):
                await asyncio.sleep(0)
            asked.cancel()
            await asyncio.wait([asked])

        self.runner.run(leave())
        self.taken(session, body, self.post(session, body), (False, True))

    @precondition(lambda self: self.disk is not None and self.sessions)
    @rule(
        steps=st.lists(st.tuples(which, gradients), min_size=1, max_size=4),
        before=st.integers(0, 14),
        share=st.sampled_from([0.0, 0.5, 1.0]),
        seed=which,
        same=st.booleans(),
    )
    def crash(self, steps: list[tuple[int, list[float]]], before: int, share: float, seed: int, same: bool) -> None:
        """The power is cut before so many operations of the disk, which hangs from then on, or after all the steps.

        Nobody hears of a step that waits for a disk that hangs. The steps that are lost are sent again, or others.
        """
        assert self.disk is not None
        self.settle()
        self.crashes += 1
        for session in self.sessions:
            session.durable = session.step  # all that was written is synchronised
        since = [(session.updated, session.step) for session in self.sessions]
        image = Image(self.disk, self.directory / f"crash {self.crashes}", random.Random(seed), share, before)
        for which, gradient in steps:
            session = self.pick(which)
            if image.taken and session.waits(session.step + 1):
                break
            body = {"gradients": gradient, "step": session.step + 1}
            response, heard = self.runner.run(self.hear(session, body, image))
            durable = session.durable
            self.taken(session, body, response)
            if not heard:
                session.durable = durable
            self.settle()
            if not image.taken:
                session.durable = session.step
        image.take()
        self.rise(image)
        for session, (updated, stood) in zip(self.sessions, since, strict=True):
            self.fall_back(session, updated, stood, same)

    async def hear(self, session: Modelled, body: dict[str, Any], image: Image) -> tuple[Any, bool]:
        """The answer to a step, and whether it came before the power was cut."""
        response = await self.service.client.post(f"{self.path(session)}/steps", json=body)
        return response, not image.taken

    def rise(self, image: Image) -> None:
        """Another process on what the power cut left."""
        assert self.disk is not None
        self.service.stop()
        self.store.close()
        self.disk.unregister()
        self.disk = Disk(image.path)
        self.settings = self.settings.model_copy(update={"data": image.path})
        self.store = self.open()
        self.service = self.serve()

    def fall_back(self, session: Modelled, updated: float, stood: int, same: bool) -> None:
        """A session stands where its promises allow, says so, and goes on from there."""
        if session.state != "active":
            return
        response = self.service.get(self.path(session))
        was, lost = session.step, session.sent[:]
        if not self.lives(session):
            problem(response, 410, "gone")
            return
        step = response.json()["step"]
        assert session.durable <= step <= was
        session.back(step)
        del lost[: step - session.begins]
        if step == stood:
            session.updated = updated
        ahead = self.post(session, {"gradients": [0.0, 0.0], "step": was + 2})
        assert problem(ahead, 412, "step-mismatch")["current_step"] == step
        for body in lost:
            self.take(session, body if same else {**body, "gradients": body["gradients"][::-1]})

    @rule(seconds=st.sampled_from([1, 10, 60, 200]))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def reap(self) -> None:
        """What expired is erased although nobody asked for it."""
        while self.runner.run(self.service.engine.reap()) == ROUND:
            pass
        expired = {
            session.body["id"] for session in self.sessions if not self.lives(session) and session.state == "expired"
        }
        listed = self.service.get("/v1/sessions?state=expired").json()["items"]
        assert {item["id"] for item in listed} == expired

    @invariant()
    def every_session_is_what_it_must_be(self) -> None:
        for session in getattr(self, "sessions", ()):
            response = self.service.get(f"{self.path(session)}/params")
            if self.lives(session):
                assert response.json() == {"step": session.step, "params": session.params[-1]}
            else:
                problem(response, 410, "gone")


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=30, stateful_step_count=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
