"""The outermost layer: every request gets an id and a bounded body, every error is problem+json.

Pure ASGI, around the whole application, so that nothing that a framework answers by itself gets out in another shape.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import HeadersTooLarge, ThalwegError, TooLarge, Unavailable
from service.settings import Settings
from service.wire.encodings import Decoder, decoder
from service.wire.json import dumps

PROBLEM = b"application/problem+json"
DRAIN_SECONDS = 2.0  # how long an oversized body is still read, so that its sender sees the answer
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}\Z")

logger = logging.getLogger("thalweg")

Fields = list[tuple[bytes, bytes]]


class Order(NamedTuple):
    """A step in JSON that came on the short way."""

    session: str
    request_id: str
    body: bytes
    done: Callable[[Answer | None], None]


class Answer(NamedTuple):
    """What is answered to it."""

    status: int
    fields: Fields
    body: bytes


class Hot(Protocol):
    """An ASGI application inside the other one that says by itself which requests are its own."""

    def takes(self, scope: Scope) -> bool: ...

    def begin(
        self, asked: Sequence[tuple[str, bytes]], answer: Callable[[int, bytes | ThalwegError | None], None]
    ) -> None: ...

    async def answer(self, session: str, body: bytes) -> bytes: ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class Shell:
    """An ASGI application around another one.

    `hot` is the route that is asked for most; it is reached without the framework's seven layers in between. So is
    `socket`, which takes the WebSockets. `stopping` is set when the service stops; what stays open ends then.
    """

    def __init__(self, app: ASGIApp, settings: Settings, hot: Hot, socket: ASGIApp, stopping: asyncio.Event) -> None:
        self.app = app
        self._stopping = stopping
        self._hot = hot
        self._socket = socket
        self._settings = settings
        self._underway = 0
        self._streams = 0

    async def stop(self, seconds: float) -> None:
        """Have the streams end; they answer what they have read first, for so long at most."""
        self._stopping.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._streams:
                    await asyncio.sleep(0.01)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._open(scope, receive, send)
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._settings.max_body_bytes)
        stays = _stays(scope)
        self._streams += stays
        self._underway += not stays
        try:
            self._admit(scope, exchange)
            app = self._hot if self._hot.takes(scope) else self.app
            receive = exchange.receive_decoded if exchange.encodings else exchange.receive
            await app(scope, receive, exchange.send)
        except ThalwegError as error:
            await exchange.fail(error)
        except Exception:
            logger.exception("request %s: %s %s failed", exchange.id, scope["method"], scope["path"])
            await exchange.fail(_unforeseen())
        finally:
            self._streams -= stays
            self._underway -= not stays

    async def step(self, session: str, request_id: str, body: bytes) -> Answer:
        """The short way to the hot route, for a step in JSON."""
        self._underway += 1
        try:
            if self._underway > self._settings.max_pending:
                raise self._too_many()
            return _answer(await self._hot.answer(session, body), request_id)
        except ThalwegError as error:
            return _answer(error, request_id)
        except Exception:
            logger.exception("request %s: a step of %s failed", request_id, session)
            return _answer(_unforeseen(), request_id)
        finally:
            self._underway -= 1

    def take(self, orders: Sequence[Order], alone: Callable[[Order], None]) -> None:
        """The same for many steps at once; those that cannot be taken so are handed to `alone`."""

        left = set(range(len(orders)))

        def answer(place: int, outcome: bytes | ThalwegError | None) -> None:
            if place not in left:  # a mistake in here was told before
                return
            left.remove(place)
            self._underway -= 1
            order = orders[place]
            if outcome is None:
                alone(order)
            else:
                order.done(_answer(outcome, order.request_id))

        if self._underway + len(orders) > self._settings.max_pending:
            for order in orders:
                alone(order)
            return
        self._underway += len(orders)
        try:
            self._hot.begin([(order.session, order.body) for order in orders], answer)
        except Exception:
            logger.exception("%d steps failed, request %s among them", len(orders), orders[0].request_id)
            for place in sorted(left):
                answer(place, _unforeseen())

    def _too_many(self) -> Unavailable:
        return Unavailable(f"{self._settings.max_pending} requests are under way; come back.", retry_after=1)

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket; what is refused before it is open is answered in HTTP."""
        exchange = _Exchange(scope, receive, send, self._settings.max_body_bytes)
        self._streams += 1
        try:
            self._admit(scope, exchange)
            await self._socket(scope, receive, send)
        except ThalwegError as error:
            start, body = problem_messages(error, exchange.id)
            start["headers"].append((b"x-request-id", exchange.id.encode()))
            if "websocket.http.response" not in scope.get("extensions", {}):
                await send({"type": "websocket.close", "code": 4000 + error.status, "reason": error.code})
                return
            for message in (start, body):
                await send({**message, "type": f"websocket.{message['type']}"})
        finally:
            self._streams -= 1

    def _admit(self, scope: Scope, exchange: _Exchange) -> None:
        """Refuse what need not be looked at. Raises Unavailable, HeadersTooLarge, TooLarge."""
        if self._underway > self._settings.max_pending:
            raise self._too_many()
        if self._streams > self._settings.max_streams and (scope["type"] == "websocket" or _stays(scope)):
            raise Unavailable(f"{self._settings.max_streams} streams are open; close one, or come back.", retry_after=5)
        if exchange.declared > self._settings.max_body_bytes:
            raise exchange.too_large()
        if exchange.header_bytes > self._settings.max_header_bytes:
            raise HeadersTooLarge(
                f"The header fields are {exchange.header_bytes} bytes; at most {self._settings.max_header_bytes} are "
                "read."
            )


class _Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limit: int) -> None:
        self.header_bytes = 0
        self.declared = 0  # what Content-Length says
        self.id = ""
        self.encodings: list[bytes] = []  # the Content-Encoding fields
        for name, value in scope["headers"]:  # once, for all that is asked of them here
            self.header_bytes += len(name) + len(value) + 4
            if name == b"content-length" and value.isdigit():
                self.declared = int(value[:20])
            elif name == b"x-request-id" and _REQUEST_ID.match(value):
                self.id = str(value, "ascii")  # the client's own, where it is a decent one
            elif name == b"content-encoding":
                self.encodings.append(value)
        self.id = self.id or f"{random.getrandbits(64):016x}"
        scope["request_id"] = self.id
        self._header = (b"x-request-id", self.id.encode())
        self._receive = receive
        self._send = send
        self._limit = limit
        self._read = 0
        self._more_body = True
        self._decoded: AsyncIterator[bytes] | None = None  # while there is something to come
        self._started = False
        self._finished = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._more_body = message.get("more_body", False)
            self._read += len(message.get("body", b""))
            if self._read > self._limit:
                raise self.too_large()
        return message

    async def receive_decoded(self) -> Message:
        """As `receive`, with the Content-Encoding undone; the bound holds for what comes out of it, too.

        Raises UnsupportedMediaType, Undecodable, TooLarge.
        """
        if self._decoded is None:
            decoding = decoder(self.encodings) if self._more_body else None
            if decoding is None:
                return await self.receive()
            self._decoded = self._decode(decoding)
        piece = await anext(self._decoded, None)
        if piece is None:
            self._decoded = None
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    async def _decode(self, decoding: Decoder) -> AsyncIterator[bytes]:
        total = 0
        while self._more_body:
            message = await self.receive()
            if message["type"] != "http.request":
                break
            for piece in decoding.feed(message.get("body", b"")):
                total += len(piece)
                if total > self._limit:
                    raise self.too_large()
                yield piece
                await asyncio.sleep(0)  # others have their turn while much comes out of little
        decoding.end()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started = True
            message = {**message, "headers": [*message.get("headers", ()), self._header]}
        else:
            self._finished = not message.get("more_body", False)
        await self._send(message)

    def too_large(self) -> TooLarge:
        return TooLarge(f"The body may have at most {self._limit} bytes; send less, or raise THALWEG_MAX_BODY_BYTES.")

    async def fail(self, error: ThalwegError) -> None:
        """Answer with a problem, if there is an answer to be given yet."""
        if self._finished:
            return
        if self._started:
            raise error  # the server breaks the connection, which is all that can be said now
        start, body = problem_messages(error, self.id)
        unread = isinstance(error, TooLarge | HeadersTooLarge)
        if unread:
            start["headers"].append((b"connection", b"close"))
        await self.send(start)
        await self._send({**body, "more_body": unread})
        if unread:
            await self._drain()
            await self._send({"type": "http.response.body", "body": b""})

    async def _drain(self) -> None:
        """Read on for a moment: a connection closed over unread data would take the answer with it."""
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._more_body:
                    message = await self._receive()
                    self._more_body = message["type"] == "http.request" and message.get("more_body", False)
        except TimeoutError:
            pass


def _answer(outcome: bytes | ThalwegError, request_id: str) -> Answer:
    if isinstance(outcome, bytes):
        return Answer(200, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(outcome))], outcome)
    start, problem = problem_messages(outcome, request_id)
    return Answer(start["status"], start["headers"], problem["body"])


def _unforeseen() -> ThalwegError:
    return ThalwegError("Something went wrong here; the request may or may not have happened. Send it again.")


def _stays(scope: Scope) -> bool:
    """Whether the answer is a stream of events, which is open for as long as its reader likes."""
    path: str = scope["path"]
    return path.endswith("/events")


def problem_messages(error: ThalwegError, request_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The two ASGI messages that answer with a problem (RFC 9457)."""
    body = dumps(error.problem(request_id))
    headers = [(b"content-type", PROBLEM), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in error.headers().items()]
    return (
        {"type": "http.response.start", "status": error.status, "headers": headers},
        {"type": "http.response.body", "body": body},
    )
