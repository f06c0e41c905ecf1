"""The outermost layer: every request gets an id and a bounded body, every error is problem+json.

Pure ASGI, around the whole application, so that nothing that a framework answers by itself gets out in another shape.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from typing import Any, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import HeadersTooLarge, ThalwegError, TooLarge, Unavailable
from service.settings import Settings
from service.wire.json import dumps

PROBLEM = b"application/problem+json"
DRAIN_SECONDS = 2.0  # how long an oversized body is still read, so that its sender sees the answer
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}\Z")

logger = logging.getLogger("thalweg")


class Hot(Protocol):
    """An ASGI application inside the other one that says by itself which requests are its own."""

    def takes(self, scope: Scope) -> bool: ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class Shell:
    """An ASGI application around another one.

    `hot` is the route that is asked for most; it is reached without the framework's seven layers in between.
    """

    def __init__(self, app: ASGIApp, settings: Settings, hot: Hot) -> None:
        self.app = app
        self._hot = hot
        self._settings = settings
        self._underway = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._settings.max_body_bytes)
        self._underway += 1
        try:
            self._admit(scope, exchange)
            app = self._hot if self._hot.takes(scope) else self.app
            await app(scope, exchange.receive, exchange.send)
        except ThalwegError as error:
            await exchange.fail(error)
        except Exception:
            logger.exception("request %s: %s %s failed", exchange.id, scope["method"], scope["path"])
            await exchange.fail(
                ThalwegError("Something went wrong here; the request may or may not have happened. Send it again.")
            )
        finally:
            self._underway -= 1

    def _admit(self, scope: Scope, exchange: _Exchange) -> None:
        """Refuse what need not be looked at. Raises Unavailable, HeadersTooLarge, TooLarge."""
        if self._underway > self._settings.max_pending:
            raise Unavailable(f"{self._settings.max_pending} requests are under way; come back.", retry_after=1)
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
        for name, value in scope["headers"]:  # once, for all that is asked of them here
            self.header_bytes += len(name) + len(value) + 4
            if name == b"content-length" and value.isdigit():
                self.declared = int(value[:20])
            elif name == b"x-request-id" and _REQUEST_ID.match(value):
                self.id = str(value, "ascii")  # the client's own, where it is a decent one
        self.id = self.id or f"{random.getrandbits(64):016x}"
        scope["request_id"] = self.id
        self._header = (b"x-request-id", self.id.encode())
        self._receive = receive
        self._send = send
        self._limit = limit
        self._read = 0
        self._more_body = True
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


def problem_messages(error: ThalwegError, request_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The two ASGI messages that answer with a problem (RFC 9457)."""
    body = dumps(error.problem(request_id))
    headers = [(b"content-type", PROBLEM), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in error.headers().items()]
    return (
        {"type": "http.response.start", "status": error.status, "headers": headers},
        {"type": "http.response.body", "body": body},
    )
