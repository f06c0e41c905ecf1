"""The steps of a session as server-sent events, as they become durable.

What is sent is read from the log, so that a follower that was away, or is slow, misses nothing and holds up nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any
from urllib.parse import parse_qs

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from service.errors import Gone, Invalid, NotFound, ThalwegError
from service.routes.sessions import timestamp
from service.sessions.engine import Engine
from service.wire.json import dumps
from service.wire.negotiation import answer_form

PATH = "/v1/sessions/{id}/events"
MEDIA_TYPE = "text/event-stream"
HEARTBEAT_SECONDS = 15.0  # below the minute after which common proxies drop a silent connection
RETRY_MILLISECONDS = 1000  # how soon a browser comes back
WAITING_BYTES = 1 << 16  # of events that are read ahead of their reader
HEADERS = (
    (b"content-type", MEDIA_TYPE.encode()),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # or nginx keeps events back
)

logger = logging.getLogger("thalweg")


class Follow:
    """GET /v1/sessions/{id}/events as an ASGI application; `stopping` is set when the service stops."""

    def __init__(self, engine: Engine, stopping: asyncio.Event) -> None:
        self._engine = engine
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises NotAcceptable, NotFound, Gone, Invalid before the stream begins."""
        answer_form(scope["headers"], (MEDIA_TYPE,))
        id = scope["path_params"]["id"]
        current = (await self._engine.get(id)).step
        after = _after(scope)
        await send({"type": "http.response.start", "status": 200, "headers": list(HEADERS)})
        feed = _Feed()
        await feed.put(_opening(after, current))
        async with asyncio.TaskGroup() as helpers:
            tasks = [
                helpers.create_task(self._read(id, current if after is None else min(after, current), feed)),
                helpers.create_task(_until_gone(receive, feed)),
                helpers.create_task(self._until_stopped(feed)),
            ]
            with contextlib.suppress(OSError):  # the client is gone
                await _send(feed, send)
            for task in tasks:
                task.cancel()

    async def _read(self, id: str, after: int, feed: _Feed) -> None:
        """Bring the session's events into the feed until it is deleted."""
        try:
            async with contextlib.aclosing(self._engine.follow(id, after)) as events:
                async for event in events:
                    await feed.put(_block(event))
        except (NotFound, Gone) as error:
            await feed.put(b"event: end\ndata: %b\n\n" % dumps({"code": error.code, "detail": error.detail}))
        except ThalwegError as error:
            logger.error("the events of session %s end: %s", id, error.detail)  # its reader comes back and resumes
        feed.close()

    async def _until_stopped(self, feed: _Feed) -> None:
        await self._stopping.wait()
        feed.close()


class _Feed:
    """Events on their way to one reader, as many as may wait."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._closed = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    async def put(self, block: bytes) -> None:
        """Add an event; return when there is room for the next."""
        self._waiting.append(block)
        self._bytes += len(block)
        self._news.set()
        if self._bytes >= WAITING_BYTES:
            self._room.clear()
            await self._room.wait()

    async def take(self) -> bytes | None:
        """All that waits, or a comment when nothing comes for a while; None once the feed is closed and empty."""
        if not self._waiting and not self._closed:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._news.wait()
        if not self._waiting:
            return None if self._closed else b": still here\n\n"
        taken, self._waiting, self._bytes = b"".join(self._waiting), [], 0
        self._room.set()
        return taken

    def close(self) -> None:
        """What waits is still taken, and nothing more comes."""
        self._closed = True
        self._news.set()


async def _send(feed: _Feed, send: Send) -> None:
    """Send what comes, at the pace at which it is read."""
    while (chunk := await feed.take()) is not None:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _until_gone(receive: Receive, feed: _Feed) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    feed.close()


def _after(scope: Scope) -> int | None:
    """The step that the reader has seen: Last-Event-ID, which a browser sends when it comes back, before ?after=."""
    last = [value for name, value in scope["headers"] if name == b"last-event-id" and value]
    asked = parse_qs(scope["query_string"].decode("latin-1")).get("after", [])
    for given, pointer in ((last, "/Last-Event-ID"), (asked, "/after")):
        if given:
            text = given[-1]
            if not text.isdigit() or len(text) > 15:
                raise Invalid("The events after a step are asked for by its number, from 0.", pointer=pointer)
            return int(text)
    return None


def _opening(after: int | None, current: int) -> bytes:
    """How a stream begins: when to come back, and the step that it goes on from.

    Whoever has seen more than there is, for steps were taken back or lost before they were durable, is told.
    """
    opening = b"retry: %d\n" % RETRY_MILLISECONDS
    if after is not None and after > current:
        return b"%bid: %d\nevent: rewind\ndata: %b\n\n" % (opening, current, dumps({"step": current}))
    return b"%bid: %d\n\n" % (opening, current if after is None else after)


def _block(event: dict[str, Any]) -> bytes:
    """One event. Steps have no name, so that a browser's `onmessage` gets them; only they and rewinds move the id."""
    kind = event["kind"]
    data = dumps({**{k: v for k, v in event.items() if k != "kind"}, "time": timestamp(event["time"])})
    if kind == "step":
        return b"id: %d\ndata: %b\n\n" % (event["step"], data)
    moved = b"id: %d\n" % event["step"] if kind == "rewind" else b""
    return b"%bevent: %b\ndata: %b\n\n" % (moved, kind.encode(), data)


def route(follow: Follow) -> Route:
    """The route; the stream is no response object, so that it can end when its reader goes."""
    return Route(PATH, follow, methods=["GET"])


def operation() -> dict[str, Any]:
    """The OpenAPI operation of following a session."""
    example = (
        "retry: 1000\nid: 41\n\n"
        'id: 42\ndata: {"step":42,"time":"2026-01-01T00:00:00.000000Z","learning_rate":0.01,"loss":0.31,'
        '"gradient_norm":1.2,"update_norm":0.01}\n\n'
    )
    integer = {"type": "integer", "minimum": 0}
    return {
        "tags": ["steps"],
        "summary": "Follow a session",
        "description": "Server-sent events: one for each step once it is durable, its id the step and its data the "
        "metrics that the history has. They begin with the next step, or after the one that Last-Event-ID or `after` "
        "names, without a gap or a repetition. Named events: `patch` (hyperparameters changed), `rewind` (the steps "
        "above `step` are taken back), `end` (the session is deleted; nothing follows). Comment lines keep the "
        "connection open. When the service stops the stream ends without `end`: come back.",
        "operationId": "followSession",
        "parameters": [
            {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}},
            {"name": "after", "in": "query", "schema": integer, "description": "Steps above this one; 0 for all."},
            {
                "name": "Last-Event-ID",
                "in": "header",
                "schema": integer,
                "description": "The same; browsers send it when they come back, and it wins.",
            },
        ],
        "responses": {
            "200": {"description": "Events, until either side goes.", "content": {MEDIA_TYPE: {"example": example}}}
        },
    }
