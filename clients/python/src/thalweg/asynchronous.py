"""The awaiting client: the same names, the same arguments, the same errors as the blocking one."""

from __future__ import annotations

import asyncio
import os
import ssl as tls
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, SupportsFloat

import httpx

from thalweg import batch, catalogue, creation, sandbox, sessions
from thalweg import progress as showing
from thalweg.events import Event
from thalweg.files import Download
from thalweg.forms import Form
from thalweg.methods import async_collects, async_iterates, awaits, like
from thalweg.requests import Call, Progress, Record
from thalweg.retries import Retries
from thalweg.sending import DEFAULT_RETRIES, DEFAULT_TIMEOUT, AsyncSender, Timeout
from thalweg.sessions import View
from thalweg.state import REPLAY_BYTES, SessionState, SessionView
from thalweg.steps import Returning, Step
from thalweg.streaming import AHEAD, AsyncStream
from thalweg.tensors import Tensors, TensorsLike

P = ParamSpec("P")


class AsyncSession(SessionView):
    """An optimizer and its parameters on the service: `Session`, to be awaited.

    One step at a time: a second step of the same session while one is under way raises Misuse. Steps of different
    sessions go side by side.
    """

    def __init__(self, sender: AsyncSender, state: SessionState) -> None:
        super().__init__(sender.adopt(state))
        self._sender = sender

    async def step(
        self,
        gradients: TensorsLike,
        loss: SupportsFloat | None = None,
        returning: Returning = "params",
        worker: str | None = None,
    ) -> Step:
        """Take one step; see `Session.step`."""
        return await self._sender.run(self._state.stepping(gradients, loss, returning, worker))

    def stream(self, ahead: int = AHEAD, *, ssl: tls.SSLContext | None = None) -> AsyncStream:
        """Steps over a WebSocket, for an `async with` block, under asyncio; see `Session.stream`."""
        return AsyncStream(self._sender, self._state, ahead, ssl)

    async def refresh(self) -> Self:
        """Read the description, the step and the parameters anew; see `Session.refresh`."""
        await self._sender.run(self._state.refreshing())
        return self

    async def rewind(self, step: int) -> Self:
        """Take back the steps above `step`; see `Session.rewind`."""
        await self._sender.run(self._state.rewinding(step))
        return self

    async def fork(
        self, step: int | None = None, *, id: str | None = None, labels: Mapping[str, str] | None = None
    ) -> AsyncSession:
        """A new session that goes on from `step` of this one; see `Session.fork`."""
        return AsyncSession(self._sender, await self._sender.run(self._state.forking(step, id, labels)))

    async def save(
        self,
        path: str | os.PathLike[str],
        step: int | None = None,
        *,
        progress: Progress | bool | None = None,
    ) -> Path:
        """Write a checkpoint; see `Session.save`."""
        download = Download(path, showing.chosen(progress))
        return await self._sender.fetch(sessions.checkpoint(self.id, step), download)

    async def update(
        self,
        *,
        hyperparameters: Mapping[str, Any] | None = None,
        labels: Mapping[str, str] | None = None,
        ttl_seconds: float | None = None,
    ) -> Record:
        """Change hyperparameters, labels or the time to live; see `Session.update`."""
        return await self._sender.send(self._state.update(hyperparameters, labels, ttl_seconds))

    patch = update  # under the name that HTTP has for it

    async def delete(self) -> None:
        """Delete the session; see `Session.delete`."""
        await self._sender.send(sessions.delete(self.id))

    def history(self, *, after: int | None = None, page_size: int | None = None) -> AsyncIterator[Step]:
        """The steps after number `after`, for `async for`; see `Session.history`."""
        return self._sender.pages(sessions.history(self.id, after=after, page_size=page_size))

    def events(self, after: int | None = None) -> AsyncIterator[Event]:
        """What happens to the session from now on, or after step `after`, for `async for`; see `Session.events`."""
        return self._sender.events(self.id, after)

    async def step_at(self, n: int) -> Step:
        """Step `n` as it was; see `Session.step_at`."""
        return await self._sender.send(self._state.step_at(n))

    async def params_at(self, step: int | None = None, view: View | None = None) -> Tensors:
        """The parameters after `step`, or the newest ones; see `Session.params_at`."""
        return await self._sender.send(self._state.params_at(step, view))


def opens(
    build: Callable[P, Call[SessionState]],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, AsyncSession]]:
    """A method that returns the session that the call makes."""

    async def method(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> AsyncSession:
        kwargs.setdefault("form", self._sender.form)
        return AsyncSession(self._sender, await self._sender.send(build(*args, **kwargs)))

    return like(build, method)


class AsyncPart:
    """A group of methods of one client."""

    def __init__(self, sender: AsyncSender) -> None:
        self._sender = sender


class AsyncSessions(AsyncPart):
    """`client.sessions`: make, find and look after sessions."""

    create = opens(creation.create)
    get = awaits(sessions.get)
    list = async_iterates(sessions.list)
    update = awaits(sessions.update)
    delete = awaits(sessions.delete)
    history = async_iterates(sessions.history)
    step_at = awaits(sessions.step_at)
    params = awaits(sessions.params)

    async def open(self, id: str, *, worker: str | None = None, form: Form | None = None) -> AsyncSession:
        """A session that exists already, where it stands now; see `Sessions.open`. Raises NotFound, Gone."""
        state = SessionState(id, form=form or self._sender.form, worker=worker)
        return await AsyncSession(self._sender, state).refresh()


class AsyncCatalogue(AsyncPart):
    """`client.catalogue`: what the service knows, and the values of its functions."""

    optimizers = async_collects(catalogue.optimizers)
    optimizer = awaits(catalogue.optimizer)
    schedules = async_collects(catalogue.schedules)
    schedule = awaits(catalogue.schedule)
    transforms = async_collects(catalogue.transforms)
    transform = awaits(catalogue.transform)
    functions = async_collects(catalogue.functions)
    function = awaits(catalogue.function)
    evaluate = awaits(catalogue.evaluate)


class AsyncSandbox(AsyncPart):
    """`client.sandbox`: whole trajectories."""

    run = awaits(sandbox.run)
    picture = awaits(sandbox.picture)
    csv = awaits(sandbox.csv)


class AsyncClient:
    """A connection to a Thalweg service, to be used in an `async with` block or closed by `aclose`.

    The arguments are those of `Client`. `transport` may be an httpx.ASGITransport, which calls an application in
    this process. `sleep` is to be awaited; under trio it is `trio.sleep`.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        timeout: Timeout = DEFAULT_TIMEOUT,
        retries: Retries | int = DEFAULT_RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
        headers: Mapping[str, str] | None = None,
        form: Form | None = None,
        replay_bytes: int = REPLAY_BYTES,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._sender = AsyncSender(
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
        self.sessions = AsyncSessions(self._sender)
        self.catalogue = AsyncCatalogue(self._sender)
        self.sandbox = AsyncSandbox(self._sender)

    load = opens(creation.load)

    async def step_many(self, items: Iterable[batch.Item], returning: Returning = "params") -> list[batch.Outcome]:
        """Take a step of many sessions in one request; see `Client.step_many`."""
        return await self._sender.run(batch.step_many(items, returning))

    async def livez(self) -> bool:
        """Whether the service answers at all, at this moment; raises nothing."""
        return await self._sender.probe("/livez")

    async def readyz(self) -> bool:
        """Whether the service can take work: its store is writable; raises nothing."""
        return await self._sender.probe("/readyz")

    async def aclose(self) -> None:
        """Close the connections. Sessions live on at the service."""
        await self._sender.http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r})"
