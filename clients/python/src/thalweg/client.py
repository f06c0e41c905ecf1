"""The blocking client."""

from __future__ import annotations

import os
import ssl as tls
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, SupportsFloat

import httpx

from thalweg import batch, catalogue, creation, sandbox, sessions
from thalweg import progress as showing
from thalweg.events import Event
from thalweg.files import Download
from thalweg.forms import Form
from thalweg.methods import collects, iterates, like, sends
from thalweg.requests import Call, Progress, Record
from thalweg.retries import Retries
from thalweg.sending import DEFAULT_RETRIES, DEFAULT_TIMEOUT, Sender, Timeout
from thalweg.sessions import View
from thalweg.state import REPLAY_BYTES, SessionState, SessionView
from thalweg.steps import Returning, Step
from thalweg.streaming import AHEAD, Stream
from thalweg.tensors import Tensors, TensorsLike

P = ParamSpec("P")


class Session(SessionView):
    """An optimizer and its parameters on the service. Made by `client.sessions.create` and `client.sessions.open`.

    One step at a time: the object counts the steps, and a second step while one is under way raises Misuse.
    """

    def __init__(self, sender: Sender, state: SessionState) -> None:
        super().__init__(sender.adopt(state))
        self._sender = sender

    def step(
        self,
        gradients: TensorsLike,
        loss: SupportsFloat | None = None,
        returning: Returning = "params",
        worker: str | None = None,
    ) -> Step:
        """Take one step with `gradients`, in the shapes and under the names of the parameters.

        `None` for a name means "no gradient": the parameter stays. Under `non_finite="skip"` or `"zero"`, NaN and
        infinities inside an array are sent as null; a bare number must be finite always, as null means something
        else there. `loss` is only recorded. `returning` says what the answer brings: the new parameters, what was
        added to them, or neither. `worker` is who sends this part of the step, where several share the session
        (`aggregate`); then it returns when all parts are there.

        The step is sent with its number, so that it is applied at most once, however often it is sent. When this
        raises an error whose `outcome_unknown` is true, call it again with the same gradients. Where the session's
        durability lets a crash of the service undo steps, those are sent again first, exactly as they were.

        Raises InvalidInput before sending; Invalid and NonFinite, the state unchanged; StepReused and StepMismatch
        where another program has stepped this session (see `refresh`); StepsLost where a crash undid steps that are
        no longer kept here; TimedOut where other workers did not come; Gone; ConnectionFailed; Misuse.
        """
        return self._sender.run(self._state.stepping(gradients, loss, returning, worker))

    def stream(self, ahead: int = AHEAD, *, ssl: tls.SSLContext | None = None) -> Stream:
        """Steps over a WebSocket, up to `ahead` of them on their way at once; for a `with` block.

        `ssl` is for a service behind https whose certificate is checked in a way of its own. Needs the library
        websockets (the extra `stream`); raises Misuse, at the start of the block, where it is not installed.
        """
        return Stream(self._sender, self._state, ahead, ssl)

    def refresh(self) -> Self:
        """Read the description, the step and the parameters anew, and go on from there. Raises NotFound, Gone."""
        self._sender.run(self._state.refreshing())
        return self

    def rewind(self, step: int) -> Self:
        """Take back the steps above `step`: the session stands again as it did just before the step after it.

        Raises StepMismatch where another program has stepped the session, or for a step that was not taken; Gone for
        one that is no longer kept, its `extensions["kept_from_step"]` saying which is.
        """
        self._sender.run(self._state.rewinding(step))
        return self

    def fork(
        self, step: int | None = None, *, id: str | None = None, labels: Mapping[str, str] | None = None
    ) -> Session:
        """A new session that goes on from `step` of this one (by default where it stands), which is left as it is.

        Its labels are this one's unless said otherwise. With the `id` of a fork that was made by the same call, that
        one is opened. Raises StepMismatch, Gone, Invalid.
        """
        return Session(self._sender, self._sender.run(self._state.forking(step, id, labels)))

    def save(
        self,
        path: str | os.PathLike[str],
        step: int | None = None,
        *,
        progress: Progress | bool | None = None,
    ) -> Path:
        """Write a checkpoint (parameters, the optimizer's state, its specification), of the newest step or of `step`.

        It is a safetensors file, which `client.load` makes a session of. The file appears once all of it is there.
        `progress` is told of the bytes as they come: a function of (received, total), or True for a line on standard
        error. Raises NotFound, Gone, OSError.
        """
        download = Download(path, showing.chosen(progress))
        return self._sender.fetch(sessions.checkpoint(self.id, step), download)

    def update(
        self,
        *,
        hyperparameters: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        ttl_seconds: float | None = None,
    ) -> Record:
        """Change hyperparameters (from the next step on), all labels, or the time to live (`math.inf` for no end).

        Returns the new description. Raises Invalid, NotFound, Gone.
        """
        return self._sender.send(self._state.update(hyperparameters, labels, ttl_seconds))

    patch = update  # under the name that HTTP has for it

    def delete(self) -> None:
        """Delete the session. Raises NotFound, Gone."""
        self._sender.send(sessions.delete(self.id))

    def history(self, *, after: int | None = None, page_size: int | None = None) -> Iterator[Step]:
        """The steps after number `after`, oldest first, with norms and losses and without parameters."""
        return self._sender.pages(sessions.history(self.id, after=after, page_size=page_size))

    def events(self, after: int | None = None) -> Iterator[Event]:
        """What happens to the session from now on, or after step `after`, as it becomes durable: steps, changes of
        hyperparameters, rewinds, and its end, after which the iterator ends.

        It waits for the next event, and takes a broken connection up again without a gap. Raises NotFound and Gone;
        ConnectionFailed when the service stays away.
        """
        return self._sender.events(self.id, after)

    def step_at(self, n: int) -> Step:
        """Step `n` as it was, with the parameters after it. Raises NotFound for a step that was not taken."""
        return self._sender.send(self._state.step_at(n))

    def params_at(self, step: int | None = None, view: View | None = None) -> Tensors:
        """The parameters after `step`, or the newest ones, as the service has them; `view="eval"` gives those to use
        the model with, where they are others. Raises NotFound, Gone."""
        return self._sender.send(self._state.params_at(step, view))


def opens(build: Callable[P, Call[SessionState]]) -> Callable[Concatenate[Any, P], Session]:
    """A method that returns the session that the call makes."""

    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Session:
        kwargs.setdefault("form", self._sender.form)
        return Session(self._sender, self._sender.send(build(*args, **kwargs)))

    return like(build, method)


class Part:
    """A group of methods of one client."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender


class Sessions(Part):
    """`client.sessions`: make, find and look after sessions."""

    create = opens(creation.create)
    get = sends(sessions.get)
    list = iterates(sessions.list)
    update = sends(sessions.update)
    delete = sends(sessions.delete)
    history = iterates(sessions.history)
    step_at = sends(sessions.step_at)
    params = sends(sessions.params)

    def open(self, id: str, *, worker: str | None = None, form: Form | None = None) -> Session:
        """A session that exists already, where it stands now. `worker` is the name of this program where several share
        it; `form` is as for `create`. Raises NotFound, Gone."""
        return Session(self._sender, SessionState(id, form=form or self._sender.form, worker=worker)).refresh()


class Catalogue(Part):
    """`client.catalogue`: what the service knows, and the values of its functions."""

    optimizers = collects(catalogue.optimizers)
    optimizer = sends(catalogue.optimizer)
    schedules = collects(catalogue.schedules)
    schedule = sends(catalogue.schedule)
    transforms = collects(catalogue.transforms)
    transform = sends(catalogue.transform)
    functions = collects(catalogue.functions)
    function = sends(catalogue.function)
    evaluate = sends(catalogue.evaluate)


class Sandbox(Part):
    """`client.sandbox`: whole trajectories."""

    run = sends(sandbox.run)
    picture = sends(sandbox.picture)
    csv = sends(sandbox.csv)


class Client:
    """A connection to a Thalweg service, to be used in a `with` block or closed by `close`.

    base_url    where the service is; without it the environment's THALWEG_URL, else http://127.0.0.1:8000
    timeout     seconds to wait for each connection, read and write, or an httpx.Timeout; None waits for ever
    retries     how often a request without a settled answer is sent again: a number, or a `Retries`
    transport   how requests travel, where it is not the network: an httpx.MockTransport, for instance
    headers     sent with every request
    form        how arrays travel: as "json", as "bytes", or by default as bytes where there are many numbers
    replay_bytes  how much of the steps that a crash may undo each session keeps, to send them again by itself
    sleep       waits so many seconds between two attempts

    Several threads may share one client, each with sessions of its own. Nothing is ever printed, logged or warned.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        timeout: Timeout = DEFAULT_TIMEOUT,
        retries: Retries | int = DEFAULT_RETRIES,
        transport: httpx.BaseTransport | None = None,
        headers: Mapping[str, str] | None = None,
        form: Form | None = None,
        replay_bytes: int = REPLAY_BYTES,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._sender = Sender(
            base_url,
            timeout=timeout,
            retries=retries,
            transport=transport,
            headers=headers,
            form=form,
            replay_bytes=replay_bytes,
            sleep=sleep,
        )
        self.base_url = self._sender.base_url
        self.sessions = Sessions(self._sender)
        self.catalogue = Catalogue(self._sender)
        self.sandbox = Sandbox(self._sender)

    load = opens(creation.load)

    def step_many(self, items: Iterable[batch.Item], returning: Returning = "params") -> list[batch.Outcome]:
        """Take a step of many sessions in one request: `items` are (session, gradients) or (session, gradients, loss).

        Gives for each its answer or its error, in order; an error does not stop the others. Sessions go side by side;
        one that comes more than once takes its steps in order. It is sent as JSON, a thousand steps to a request.
        What may be tried again is, as for `Session.step`. Raises InvalidInput before sending, and ConnectionFailed,
        after which the same call may be made again.
        """
        return self._sender.run(batch.step_many(items, returning))

    def livez(self) -> bool:
        """Whether the service answers at all, at this moment; raises nothing."""
        return self._sender.probe("/livez")

    def readyz(self) -> bool:
        """Whether the service can take work: its store is writable; raises nothing."""
        return self._sender.probe("/readyz")

    def close(self) -> None:
        """Close the connections. Sessions live on at the service."""
        self._sender.http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r})"
