"""The short way for the request that comes most: a step as JSON, in one piece, on a connection with nothing else.

What uvicorn and the shell do for any request costs more than the step itself: a scope, a cycle with its event, a task,
messages in dictionaries, each header field checked by two expressions. Here the parser's callbacks collect the body,
the steps that came in one turn of the loop are taken together at its end, and each answer is one write. Whatever is
not plain goes the usual way, and both ways answer the same but for the order of the fields.
"""

from __future__ import annotations

import random
import re
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.shell import Order, Shell

BEFORE, AFTER = b"/v1/sessions/", b"/steps"
MAX_BODY = 1 << 16  # bytes; a longer body is worth the usual way
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}\Z")
_PLAIN = frozenset((b"host", b"user-agent", b"accept-encoding", b"origin", b"referer", b"cookie", b"accept-language"))
_JSON = frozenset((b"application/json", b"application/json; charset=utf-8"))
_ANY = frozenset((b"*/*", b"application/json", b"application/json, text/plain, */*"))


class Ticket(NamedTuple):
    """A request that may go the short way: the session that it steps, and the request's id."""

    session: str
    request_id: bytes


def ticket(url: bytes, headers: list[tuple[bytes, bytes]], max_body: int) -> Ticket | None:
    """The ticket of a POST, None where anything in its head asks for more than a plain step in JSON."""
    if not (url.startswith(BEFORE) and url.endswith(AFTER)):
        return None
    session = url[len(BEFORE) : -len(AFTER)]
    if not session or not session.replace(b"_", b"a").replace(b"-", b"a").replace(b".", b"a").isalnum():
        return None
    json = length = False
    request_id = b""
    for name, value in headers:
        if name == b"content-type":
            json = value in _JSON
        elif name == b"content-length":
            length = value.isdigit() and int(value[:20]) <= min(MAX_BODY, max_body)
        elif name == b"x-request-id":
            if not _REQUEST_ID.match(value):
                return None
            request_id = value
        elif name == b"accept":
            if value not in _ANY:
                return None
        elif name == b"connection":
            if value.lower() != b"keep-alive":
                return None
        elif name not in _PLAIN:
            return None
    if not (json and length):
        return None
    return Ticket(session.decode(), request_id or f"{random.getrandbits(64):016x}".encode())


class Cycle:
    """What uvicorn's connection looks at in the request that is under way."""

    __slots__ = ("disconnected", "keep_alive", "message_event", "response_complete")

    def __init__(self) -> None:
        self.response_complete = False
        self.keep_alive = True
        self.disconnected = False
        self.message_event = self  # set when the connection is lost; nobody waits for it here

    def set(self) -> None:
        """Nothing waits."""


def drive(coroutine: Coroutine[Any, Any, Any], loop: AbstractEventLoop, done: Callable[[Any], None]) -> None:
    """Run a coroutine without a task: at once up to its first wait, and on when that is over.

    `done` is called with its result, or with None where it was broken off. It must not ask for the current task;
    locks and futures are fine.
    """

    def resume(_: Any = None) -> None:
        try:
            waits_for: Future[Any] | None = coroutine.send(None)
        except StopIteration as stop:
            done(stop.value)
            return
        except BaseException:  # the service is going down under it
            done(None)
            raise
        if waits_for is None:
            loop.call_soon(resume)
            return
        waits_for._asyncio_future_blocking = False
        waits_for.add_done_callback(resume)

    resume()


class Turn:
    """The steps that came in one turn of the event loop, taken together at its end.

    What arrives together is read together, worked out together, and shares a write.
    """

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._orders: list[Order] = []

    def add(self, order: Order, loop: AbstractEventLoop) -> None:
        if not self._orders:
            loop.call_soon(self._take, loop)
        self._orders.append(order)

    def _take(self, loop: AbstractEventLoop) -> None:
        def alone(order: Order) -> None:
            drive(self._shell.step(order.session, order.request_id, order.body), loop, order.done)

        orders, self._orders = self._orders, []
        self._shell.take(orders, alone)


def response(
    status: int,
    fields: list[tuple[bytes, bytes]],
    body: bytes,
    default: list[tuple[bytes, bytes]],
    request_id: bytes,
    *,
    closing: bool,
) -> bytes:
    """The bytes of an answer."""
    head = [STATUS_LINE[status]]
    for name, value in default:
        head += (name, b": ", value, b"\r\n")
    for name, value in fields:
        head += (name, b": ", value, b"\r\n")
    head += (b"x-request-id: ", request_id, b"\r\n")
    if closing:
        head.append(b"connection: close\r\n")
    head += (b"\r\n", body)
    return b"".join(head)
