"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, SupportsFloat

import httpx

from thalweg import catalogue, sandbox, sessions
from thalweg.methods import collects, iterates, like, sends
from thalweg.requests import Call, Record
from thalweg.retries import Retries
from thalweg.sending import DEFAULT_RETRIES, DEFAULT_TIMEOUT, Sender, Timeout
from thalweg.sessions import SessionState, SessionView
from thalweg.steps import Returning, Step
from thalweg.tensors import Tensors, TensorsLike

P = ParamSpec("P")


class Session(SessionView):
    """An optimizer and its parameters on the service. Made by `client.sessions.create` and `client.sessions.open`.

    One step at a time: the object counts the steps, and a second step while one is under way raises Misuse.
    """

    def __init__(self, sender: Sender, state: SessionState) -> None:
        super().__init__(state)
        self._sender = sender

    def step(self, gradients: TensorsLike, loss: SupportsFloat | None = None, returning: Returning = "params") -> Step:
        """Take one step with `gradients`, in the shapes and under the names of the parameters.

        `None` for a name means "no gradient": the parameter stays. Under `non_finite="skip"` or `"zero"`, NaN and
        infinities inside an array are sent as null; a bare number must be finite always, as null means something
        else there. `loss` is only recorded. `returning` says what the answer brings: the new parameters, what was
        added to them, or neither.

        The step is sent with its number, so that it is applied at most once, however often it is sent. When this
        raises an error whose `outcome_unknown` is true, call it again with the same gradients.

        Raises InvalidInput before sending; Invalid and NonFinite, the state unchanged; StepReused and StepMismatch
        where another program has stepped this session (see `refresh`); Gone; ConnectionFailed; Misuse.
        """
        with self._state.one_at_a_time():
            return self._sender.send(self._state.step(gradients, loss, returning))

    def refresh(self) -> Self:
        """Read the description, the step and the parameters anew. Raises NotFound, Gone."""
        self._sender.send(self._state.description())
        self._sender.send(self._state.position())
        return self

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

    def delete(self) -> None:
        """Delete the session. Raises NotFound, Gone."""
        self._sender.send(sessions.delete(self.id))

    def history(self, *, after: int | None = None, page_size: int | None = None) -> Iterator[Step]:
        """The steps after number `after`, oldest first, with norms and losses and without parameters."""
        return self._sender.pages(sessions.history(self.id, after=after, page_size=page_size))

    def step_at(self, n: int) -> Step:
        """Step `n` as it was, with the parameters after it. Raises NotFound for a step that was not taken."""
        return self._sender.send(self._state.step_at(n))

    def params_at(self, step: int | None = None) -> Tensors:
        """The parameters after `step`, or the newest ones, as the service has them. Raises NotFound."""
        return self._sender.send(self._state.params_at(step))


def opens(build: Callable[P, Call[SessionState]]) -> Callable[Concatenate[Any, P], Session]:
    """A method that returns the session that the call makes."""

    def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> Session:
        return Session(self._sender, self._sender.send(build(*args, **kwargs)))

    return like(build, method)


class Part:
    """A group of methods of one client."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender


class Sessions(Part):
    """`client.sessions`: make, find and look after sessions."""

    create = opens(sessions.create)
    get = sends(sessions.get)
    list = iterates(sessions.list)
    update = sends(sessions.update)
    delete = sends(sessions.delete)
    history = iterates(sessions.history)
    step_at = sends(sessions.step_at)
    params = sends(sessions.params)

    def open(self, id: str) -> Session:
        """A session that exists already, where it stands now. Raises NotFound, Gone."""
        return Session(self._sender, SessionState(id)).refresh()


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
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._sender = Sender(
            base_url, timeout=timeout, retries=retries, transport=transport, headers=headers, sleep=sleep
        )
        self.base_url = self._sender.base_url
        self.sessions = Sessions(self._sender)
        self.catalogue = Catalogue(self._sender)
        self.sandbox = Sandbox(self._sender)

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
