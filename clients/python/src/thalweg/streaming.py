"""The two streams, one blocking and one awaiting, on the library websockets (the extra `stream`)."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from importlib import import_module
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self, SupportsFloat

import httpx

from thalweg import text
from thalweg.errors import InvalidInput, Misuse
from thalweg.pipeline import Act, Moves, Pause, Pipeline, Refused, Send
from thalweg.requests import Answer, Request, path
from thalweg.retries import Attempts
from thalweg.sending import AsyncSender, Preparing, Sender
from thalweg.state import STEP_AGAIN, SessionState
from thalweg.steps import Returning, Step
from thalweg.tensors import TensorsLike

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection as AsyncConnection
    from websockets.sync.client import ClientConnection

AHEAD = 32
GOODBYE = 1.0  # seconds that the other side has to answer a close
OWN = {"accept", "accept-encoding", "connection", "user-agent"}  # header fields that a handshake has of its own
REASONS = {1009: (413, "too-large"), 4404: (404, "not-found"), 4410: (410, "gone")}  # close codes that say no


def library(name: str) -> ModuleType:
    """A module of websockets. Raises Misuse where it is not installed."""
    try:
        return import_module(f"websockets.{name}")
    except ImportError as error:
        raise Misuse("Streaming needs the library websockets: pip install 'thalweg-client[stream]'") from error


class _Streaming:
    """What both streams know, and how they reach the service."""

    def __init__(self, sender: Preparing, state: SessionState, ahead: int, context: ssl.SSLContext | None) -> None:
        if ahead < 1:
            raise InvalidInput(f"ahead is at least 1, the step that is sent; found {ahead}.")
        self.ahead = ahead
        self._preparing = sender
        self._state = state
        self._context = context
        self._request = Request("GET", path("sessions", state.id, "stream"), again=STEP_AGAIN)
        self._prepared = sender.prepare(self._request)
        self._patience: float | None = self._prepared.extensions["timeout"]["read"]  # seconds that an answer may take
        self._pipeline = Pipeline(state, self._attempts)
        self._holding: AbstractContextManager[None] | None = None

    @property
    def in_flight(self) -> int:
        """How many steps have been sent and not answered."""
        return self._pipeline.in_flight

    def _attempts(self) -> Attempts:
        return self._preparing.attempts(self._request)

    def _hold(self) -> None:
        """Keep the session for this stream."""
        if self._holding is not None:
            raise Misuse("This stream is open already.")
        holding = self._state.one_at_a_time()
        holding.__enter__()
        self._holding = holding

    def _release(self) -> None:
        if self._holding is not None:
            self._holding.__exit__(None, None, None)
            self._holding = None

    def _add(
        self, gradients: TensorsLike, loss: SupportsFloat | None, returning: Returning, worker: str | None
    ) -> None:
        if self._holding is None:
            raise Misuse("This stream is not open; use it in a `with` block.")
        self._pipeline.add(gradients, loss, returning, worker)

    def _wanted(self) -> None:
        if not self._pipeline.answers and not self._pipeline.in_flight:
            raise Misuse("There is nothing to receive: every step that was sent has been answered and taken.")

    def _where(self) -> tuple[str, dict[str, Any]]:
        """The address, and how to connect to it."""
        prepared = self._prepared
        scheme = "wss" if prepared.url.scheme == "https" else "ws"
        timeouts = prepared.extensions["timeout"]
        headers = [(name, value) for name, value in prepared.headers.items() if name not in {*OWN, "host"}]
        options: dict[str, Any] = {
            "additional_headers": headers,
            "user_agent_header": prepared.headers.get("user-agent"),
            "compression": None,  # numbers hardly shrink
            "open_timeout": timeouts["connect"],
            "close_timeout": GOODBYE,
            "ping_interval": None,  # a service that is silent for as long as `timeout` says is left anyway
            "max_size": None,
            "max_queue": None,  # bounded by what is in flight; a bound here would let both sides wait for each other
            "logger": _SILENT,
        }
        if self._context is not None:
            options["ssl"] = self._context
        return str(prepared.url.copy_with(scheme=scheme)), options


_SILENT = logging.Logger("thalweg", logging.CRITICAL + 1)


def translated(error: Exception, opening: bool) -> Exception:
    """An error of the library in this package's words; the error itself where it is none."""
    exceptions = library("exceptions")
    if isinstance(error, exceptions.InvalidStatus):
        said = error.response
        return Refused(Answer(said.status_code, httpx.Headers(list(said.headers.raw_items())), bytes(said.body or b"")))
    if isinstance(error, exceptions.ConnectionClosed):
        close = error.rcvd
        if close is not None and close.code in REASONS:
            status, code = REASONS[close.code]
            content = text.write({"code": code, "detail": close.reason or "The stream was closed."})
            return Refused(Answer(status, httpx.Headers(), content))
        return httpx.ReadError(str(error))
    if isinstance(error, TimeoutError):
        return httpx.ConnectTimeout(str(error)) if opening else httpx.ReadTimeout("no answer came in time")
    if isinstance(error, OSError | exceptions.WebSocketException):
        return httpx.ConnectError(str(error)) if opening else httpx.ReadError(str(error))
    return error


class Stream(_Streaming):
    """Steps of one session over a WebSocket, of which several may be on their way. Made by `session.stream()`.

        with session.stream() as stream:
            for answer in stream.steps(gradients):
                ...

    At the end of the block the answers to all that was sent are awaited. While the stream is open no other step of
    the session can be taken through the same object.
    """

    def __init__(self, sender: Sender, state: SessionState, ahead: int, context: ssl.SSLContext | None) -> None:
        super().__init__(sender, state, ahead, context)
        self._sender = sender
        self._connecting: AbstractContextManager[ClientConnection] | None = None
        self._socket: ClientConnection | None = None

    def send(
        self,
        gradients: TensorsLike,
        loss: SupportsFloat | None = None,
        returning: Returning = "params",
        worker: str | None = None,
    ) -> None:
        """Send one step and do not wait for its answer; with `ahead` steps on their way, wait for the oldest.

        The arguments are those of `Session.step`. Raises InvalidInput before sending; what an older step was refused
        with, after which none is on its way; ConnectionFailed, after which nothing is lost: this step counts as sent,
        and the next call tries again.
        """
        self._add(gradients, loss, returning, worker)
        self._run(self._pipeline.flow(self.ahead))

    def receive(self) -> Step:
        """The answer to the oldest step whose answer was not received yet.

        Raises what the step was refused with; ConnectionFailed, after which another call tries again; Misuse where
        there is nothing to receive.
        """
        self._wanted()
        if not self._pipeline.answers:
            self._run(self._pipeline.flow(self._pipeline.in_flight - 1))
        return self._pipeline.answers.popleft()

    def steps(self, gradients: Iterable[TensorsLike], returning: Returning = "params") -> Iterator[Step]:
        """Take a step with each of `gradients`, of which up to `ahead` are on their way; yields the answers in order.

        The next gradients are asked for before the answers to those before are there. Raises as `send` and `receive`.
        """
        for one in gradients:
            if self.in_flight + len(self._pipeline.answers) >= self.ahead:
                yield self.receive()
            self.send(one, returning=returning)
        while self.in_flight or self._pipeline.answers:
            yield self.receive()

    def close(self) -> None:
        """Close the socket. What is on its way may be taken or not; the session's `refresh` reads what came of it."""
        self._close()
        self._release()

    def __enter__(self) -> Self:
        library("sync.client")
        self._hold()
        try:
            self._run(self._pipeline.flow(0))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._run(self._pipeline.flow(0))
        finally:
            self.close()

    def _run(self, moves: Moves) -> None:
        try:
            move = next(moves)
            while True:
                try:
                    came = self._do(move)
                except Exception as error:
                    move = moves.throw(translated(error, move is Act.OPEN))
                else:
                    move = moves.send(came)
        except StopIteration:
            return
        finally:
            moves.close()

    def _do(self, move: Any) -> Any:
        if isinstance(move, Send):
            assert self._socket is not None
            return self._socket.send(move.message)
        if move is Act.RECEIVE:
            assert self._socket is not None
            return self._socket.recv(self._patience)
        if move is Act.OPEN:
            address, options = self._where()
            connecting = library("sync.client").connect(address, **options)
            self._socket = connecting.__enter__()
            self._connecting = connecting
            self._socket.socket.settimeout(self._patience)  # or a send to a service that stands still never ends
            return None
        if move is Act.CLOSE:
            return self._close()
        if isinstance(move, Pause):
            return self._sender.sleep(move.seconds)
        return self._sender.send(move)

    def _close(self) -> None:
        if self._connecting is not None:
            connecting, self._connecting, self._socket = self._connecting, None, None
            connecting.__exit__(None, None, None)


class AsyncStream(_Streaming):
    """Steps of one session over a WebSocket: `Stream`, to be awaited, under asyncio.

    async with session.stream() as stream:
        async for answer in stream.steps(gradients):
            ...
    """

    def __init__(self, sender: AsyncSender, state: SessionState, ahead: int, context: ssl.SSLContext | None) -> None:
        super().__init__(sender, state, ahead, context)
        self._sender = sender
        self._connecting: AbstractAsyncContextManager[AsyncConnection] | None = None
        self._socket: AsyncConnection | None = None

    async def send(
        self,
        gradients: TensorsLike,
        loss: SupportsFloat | None = None,
        returning: Returning = "params",
        worker: str | None = None,
    ) -> None:
        """Send one step and do not wait for its answer; see `Stream.send`."""
        self._add(gradients, loss, returning, worker)
        await self._run(self._pipeline.flow(self.ahead))

    async def receive(self) -> Step:
        """The answer to the oldest step whose answer was not received yet; see `Stream.receive`."""
        self._wanted()
        if not self._pipeline.answers:
            await self._run(self._pipeline.flow(self._pipeline.in_flight - 1))
        return self._pipeline.answers.popleft()

    async def steps(
        self, gradients: Iterable[TensorsLike] | AsyncIterable[TensorsLike], returning: Returning = "params"
    ) -> AsyncIterator[Step]:
        """Take a step with each of `gradients`, which may be an asynchronous iterable; see `Stream.steps`."""
        async for one in _awaited(gradients):
            if self.in_flight + len(self._pipeline.answers) >= self.ahead:
                yield await self.receive()
            await self.send(one, returning=returning)
        while self.in_flight or self._pipeline.answers:
            yield await self.receive()

    async def close(self) -> None:
        """Close the socket; see `Stream.close`."""
        try:
            await self._close()
        finally:
            self._release()

    async def __aenter__(self) -> Self:
        library("asyncio.client")
        self._hold()
        try:
            await self._run(self._pipeline.flow(0))
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self._run(self._pipeline.flow(0))
        finally:
            await self.close()

    async def _run(self, moves: Moves) -> None:
        try:
            move = next(moves)
            while True:
                try:
                    came = await self._do(move)
                except Exception as error:
                    move = moves.throw(translated(error, move is Act.OPEN))
                else:
                    move = moves.send(came)
        except StopIteration:
            return
        finally:
            moves.close()

    async def _do(self, move: Any) -> Any:
        if isinstance(move, Send):
            assert self._socket is not None
            async with asyncio.timeout(self._patience):
                return await self._socket.send(move.message)
        if move is Act.RECEIVE:
            assert self._socket is not None
            async with asyncio.timeout(self._patience):
                return await self._socket.recv()
        if move is Act.OPEN:
            address, options = self._where()
            connecting = library("asyncio.client").connect(address, **options)
            self._socket = await connecting.__aenter__()
            self._connecting = connecting
            return None
        if move is Act.CLOSE:
            return await self._close()
        if isinstance(move, Pause):
            return await self._sender.sleep(move.seconds)
        return await self._sender.send(move)

    async def _close(self) -> None:
        if self._connecting is None or self._socket is None:
            return
        connecting, socket, self._connecting, self._socket = self._connecting, self._socket, None, None
        try:
            async with asyncio.timeout(2 * GOODBYE):  # what is stuck in front of the close is not waited for
                await connecting.__aexit__(None, None, None)
        except TimeoutError:
            socket.transport.abort()


async def _awaited(items: Iterable[TensorsLike] | AsyncIterable[TensorsLike]) -> AsyncIterator[TensorsLike]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item
