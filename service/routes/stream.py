"""Steps over a WebSocket: a message is a step, a reply its answer, in the same order.

A client may send many before it reads; those that have arrived are worked out and written together, and each is
answered once it is durable. A socket that drops loses nothing: on the next one the client sends again what had no
answer, and the step's number keeps it from being taken twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import Any

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service.errors import Gone, NotFound, ThalwegError, UpgradeRequired
from service.routes.batch import Outcome, problem
from service.routes.steps import encode_answer
from service.sessions.engine import Engine
from service.sessions.steps import Stepped
from service.wire.forms import JSON, SAFETENSORS
from service.wire.json import dumps
from service.wire.steps import StepRequest, decode_step

PATH = "/v1/sessions/{id}/stream"
_BEFORE, _AFTER = PATH.split("{id}")
WAITING = 64  # messages that wait for their turn; while there are so many, the socket is not read
WAITING_BYTES = 1 << 20  # the same in bytes; one message may be larger
RESTART, INTERNAL = 1012, 1011  # close codes, RFC 6455 and its registry
GONE = {404: 4404, 410: 4410}  # the session is no more: 4000 and the status that HTTP has for it

logger = logging.getLogger("thalweg")

Sent = str | bytes


class Stream:
    """WS /v1/sessions/{id}/stream as an ASGI application; `stopping` is set when the service stops.

    Any page may open one: there are no cookies or other credentials that a browser would add by itself, so that its
    Origin says nothing of who may do what.
    """

    def __init__(self, engine: Engine, stopping: asyncio.Event) -> None:
        self._engine = engine
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises NotFound, Gone before the socket is open; afterwards errors are messages."""
        id = _session(scope["path"])
        await self._engine.get(id)
        request_id = scope.get("request_id", "")
        await receive()  # websocket.connect
        await send({"type": "websocket.accept", "headers": [(b"x-request-id", request_id.encode())]})
        inbox = _Inbox()
        async with asyncio.TaskGroup() as helpers:
            reading = helpers.create_task(_read(receive, inbox))
            stopping = helpers.create_task(self._end_at_a_stop(inbox))
            with contextlib.suppress(OSError):  # the client is gone, and its answers with it
                await self._answer(id, inbox, send, request_id)
            reading.cancel()
            stopping.cancel()

    async def _end_at_a_stop(self, inbox: _Inbox) -> None:
        await self._stopping.wait()
        inbox.close(RESTART, "The service stops; send what had no answer to the next one.")

    async def _answer(self, id: str, inbox: _Inbox, send: Send, request_id: str) -> None:
        """Answer all that arrives, until the socket closes or the session is gone.

        What arrived before its client left is taken all the same, though nobody hears the answer.
        """
        heard = True
        try:
            while given := await inbox.take():
                for message, outcome in zip(given, await self._take(id, given), strict=True):
                    if heard:
                        try:
                            await send(_reply(message, outcome, request_id))
                        except OSError:
                            heard = False
                    if isinstance(outcome, NotFound | Gone) and outcome.code in ("not-found", "gone"):
                        inbox.close(GONE[outcome.status], outcome.detail)
                        break
        except Exception:
            logger.exception("stream %s of session %s failed", request_id, id)
            inbox.close(INTERNAL, "Something went wrong here; send what had no answer again.")
        if inbox.code and heard:
            reason = inbox.reason.encode()[:123].decode("utf-8", "ignore")  # all that a close frame holds
            await send({"type": "websocket.close", "code": inbox.code, "reason": reason})

    async def _take(self, id: str, given: list[Sent]) -> list[Outcome]:
        outcomes: list[Any] = []
        requests: list[StepRequest] = []
        for message in given:
            try:
                requests.append(_decode(message))
                outcomes.append(None)
            except ThalwegError as error:
                outcomes.append(error)
        taken = iter(await self._engine.step_many(id, requests))
        return [next(taken) if outcome is None else outcome for outcome in outcomes]


class _Inbox:
    """Messages between the socket and the steps, as many as may wait.

    `code` and `reason` say how the socket is to be closed; 0 where its client has closed it.
    """

    def __init__(self) -> None:
        self.code = 0
        self.reason = ""
        self._waiting: deque[Sent] = deque()
        self._bytes = 0
        self._closed = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    async def put(self, message: Sent) -> None:
        """Add a message; return when there is room for the next."""
        self._waiting.append(message)
        self._bytes += len(message)
        self._news.set()
        if len(self._waiting) >= WAITING or self._bytes >= WAITING_BYTES:
            self._room.clear()
            await self._room.wait()

    async def take(self) -> list[Sent]:
        """All that waits, at least one message; none once the inbox is closed and empty."""
        while not self._waiting and not self._closed:
            self._news.clear()
            await self._news.wait()
        taken = list(self._waiting)
        self._waiting.clear()
        self._bytes = 0
        self._room.set()
        return taken

    def close(self, code: int = 0, reason: str = "") -> None:
        """What waits is still taken, but nothing more comes in."""
        if not self._closed:
            self._closed, self.code, self.reason = True, code, reason
            self._news.set()


async def _read(receive: Receive, inbox: _Inbox) -> None:
    """Bring what arrives into the inbox; while that is full, the server stops reading from the socket."""
    while (message := await receive())["type"] == "websocket.receive":
        text = message.get("text")
        await inbox.put(message["bytes"] if text is None else text)
    inbox.close()


class Plain:
    """What a request that opens no WebSocket is told."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise UpgradeRequired("Steps are streamed over a WebSocket: connect with ws:// and a WebSocket client.")


def route() -> Route:
    """The path as HTTP has it."""
    return Route(PATH, Plain(), methods=["GET"])


def _session(path: str) -> str:
    """The id in the path. Raises NotFound."""
    id = path[len(_BEFORE) : -len(_AFTER)]
    if not (path.startswith(_BEFORE) and path.endswith(_AFTER)) or not id or "/" in id:
        raise NotFound(f"There is no WebSocket at {path[:200]}; steps are streamed at {PATH}.")
    return id


def _decode(message: Sent) -> StepRequest:
    """The step in a message. Raises NotJson, NonFinite, Invalid."""
    return decode_step(JSON, message.encode()) if isinstance(message, str) else decode_step(SAFETENSORS, message)


def _reply(message: Sent, outcome: Outcome, request_id: str) -> dict[str, Any]:
    """The answer in the form of the message; a problem is a text."""
    if isinstance(outcome, Stepped):
        try:
            if isinstance(message, str):
                return _text(encode_answer(JSON, outcome).body)
            return {"type": "websocket.send", "bytes": encode_answer(SAFETENSORS, outcome).body}
        except ThalwegError as error:  # a name that the form cannot carry
            outcome = error
    return _text(dumps(problem(outcome, request_id)))


def _text(body: bytes) -> dict[str, Any]:
    return {"type": "websocket.send", "text": body.decode()}


def operation() -> dict[str, Any]:
    """The OpenAPI operation of opening a stream: the request that becomes a WebSocket."""
    return {
        "tags": ["steps"],
        "summary": "Stream steps over a WebSocket",
        "description": "Connect with ws://. A message is the body of a step: a text as JSON, a binary one as "
        "safetensors; the reply to each is its answer in the same form, in the same order. Send as many as you like "
        "before you read: those that have arrived are taken together, and each is answered once it is durable. A "
        "problem is a text with a `status`; the stream goes on after it. When a socket drops, open another one and "
        "send again, with the same `step`, what had no answer: nothing is taken twice. Close codes: 4404 and 4410 "
        "there is no such session any more, 1012 the service stops, 1007 a text that is not UTF-8, 1009 a message "
        "that is too large, 1002 no WebSocket frame.",
        "operationId": "streamSteps",
        "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
        "responses": {"101": {"description": "The WebSocket is open."}},
    }
