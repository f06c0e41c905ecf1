"""uvicorn, with what it lacks: a bound on the header section, and problem+json for what never reaches the app."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import random
import signal
import socket
import sys
import termios
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import HeadersTooLarge, ThalwegError
from service.express import Cycle, Ticket, Turn, response, ticket
from service.settings import Settings
from service.shell import DRAIN_SECONDS, Answer, Order, Shell, problem_messages
from service.sockets import Socket

CORK_BYTES = 1 << 14  # a larger write goes out at once
STREAMS_SECONDS = 2.0  # how long streams may take, at a stop, to answer what they have read
KEEP_ALIVE_SECONDS = 75  # above the 60 s after which common load balancers drop an idle connection


class Malformed(ThalwegError):
    """Bytes that are no HTTP request."""

    status, code, title = 400, "malformed-request", "Malformed request"


class _HeaderLimitError(Exception):
    """Raised inside the parser, so that it stops."""


class _Outbox:
    """What the connections have to send, sent together at the end of a turn of the event loop.

    uvicorn writes the head and the body of an answer apart, and each write that wakes a reader costs more than the
    rest of the answer. One after the other, at the end of a turn, most find their reader awake.
    """

    def __init__(self) -> None:
        self._waiting: list[_Corked] = []

    def add(self, corked: _Corked, loop: asyncio.AbstractEventLoop) -> None:
        if not self._waiting:
            loop.call_soon(self._send)
        self._waiting.append(corked)

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for corked in waiting:
            corked.flush()


class _Corked:
    """A transport whose small writes wait for the end of the turn."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, outbox: _Outbox) -> None:
        self._transport = transport
        self._loop = loop
        self._outbox = outbox
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if len(data) > CORK_BYTES:
            self.flush()
            self._transport.write(data)
            return
        if not self._held:
            self._outbox.add(self, self._loop)
        self._held.append(data)

    def flush(self) -> None:
        """Send what is held."""
        if self._held:
            held, self._held = self._held, []
            self._transport.write(b"".join(held))

    def write_eof(self) -> None:
        self.flush()
        self._transport.write_eof()

    def close(self) -> None:
        self.flush()
        self._transport.close()


def protocol(shell: Shell, settings: Settings) -> type[HttpToolsProtocol]:
    """The HTTP protocol for these bounds; uvicorn makes one instance a connection."""
    outbox, turn = _Outbox(), Turn(shell)
    max_header_bytes, max_body_bytes = settings.max_header_bytes, settings.max_body_bytes

    class Protocol(HttpToolsProtocol):
        """httptools keeps a header of any size; this counts what comes before the body."""

        _in_headers = True
        _header_bytes = 0  # received since the last body
        _too_large = False
        _refused = False
        _ticket: Ticket | None = None  # of a request that goes the short way
        _body = b""
        _stalled: asyncio.TimerHandle | None = None  # while the client takes nothing

        def connection_made(self, transport: Any) -> None:
            super().connection_made(_Corked(transport, self.loop, outbox))  # type: ignore[arg-type]

        def pause_writing(self) -> None:
            super().pause_writing()
            self._watch(_unsent(self.transport))

        def resume_writing(self) -> None:
            super().resume_writing()
            self._relax()

        def connection_lost(self, exc: Exception | None) -> None:
            self._relax()
            super().connection_lost(exc)

        def _relax(self) -> None:
            if self._stalled is not None:
                self._stalled.cancel()

        def _watch(self, unsent: int) -> None:
            """Look again later whether any of so many bytes was taken."""
            self._relax()
            self._stalled = self.loop.call_later(settings.stalled_seconds, self._look, unsent)

        def _look(self, before: int) -> None:
            unsent = _unsent(self.transport)
            if unsent >= before:  # what it never takes would stay in memory for ever
                self.transport.abort()
            else:
                self._watch(unsent)

        def data_received(self, data: bytes) -> None:
            if self._refused:
                return
            if self._in_headers:
                self._header_bytes += len(data)
            super().data_received(data)
            if self._in_headers and self._header_bytes > max_header_bytes and not self._refused:
                self._too_large = True
                self.send_400_response("")

        def on_headers_complete(self) -> None:
            self._in_headers = False
            received = self._header_bytes  # with what of the body came along: few requests need a closer look
            if received > max_header_bytes and sum(len(n) + len(v) + 4 for n, v in self.headers) > max_header_bytes:
                self._too_large = True
                raise _HeaderLimitError
            if self.parser.get_method() == b"POST" and (self.cycle is None or self.cycle.response_complete):
                self._ticket = ticket(self.url, self.headers, max_body_bytes)
                if self._ticket is not None and self.parser.get_http_version() == "1.1":
                    self._body = b""
                    return
                self._ticket = None
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            if self._ticket is not None:
                self._body += body
                return
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._in_headers, self._header_bytes = True, 0
            if self._ticket is not None:
                self._go(self._ticket, self._body)
                self._ticket = None
                return
            super().on_message_complete()

        def _go(self, ticket: Ticket, body: bytes) -> None:
            """Take the step, and write its answer when it is there."""
            cycle: Any = Cycle()
            self.cycle = cycle

            def done(answer: Answer | None) -> None:
                cycle.response_complete = True
                if self.transport.is_closing():
                    return
                if answer is None:
                    self.transport.close()
                    return
                default = self.server_state.default_headers
                self.transport.write(response(*answer, default, ticket.request_id, closing=not cycle.keep_alive))
                if not cycle.keep_alive:
                    self.transport.close()
                self.on_response_complete()

            turn.add(Order(ticket.session, ticket.request_id.decode(), body, done), self.loop)

        def send_400_response(self, msg: str) -> None:
            error: ThalwegError = Malformed("The bytes sent are no HTTP/1.1 request; use an HTTP client.")
            if self._too_large:
                error = HeadersTooLarge(f"The header fields are more than the {max_header_bytes} bytes that are read.")
            self._refused = True
            self.transport.write(_raw(error))
            # a connection closed over unread data would take the answer with it: read on for a moment
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self.loop.call_later(DRAIN_SECONDS, self.transport.close)

    return Protocol


def _raw(error: ThalwegError) -> bytes:
    """An answer as bytes, for where there is no application to give it."""
    request_id = f"{random.getrandbits(64):016x}"
    start, body = problem_messages(error, request_id)
    fields = [*start["headers"], (b"x-request-id", request_id.encode()), (b"connection", b"close")]
    head = f"HTTP/1.1 {error.status} {error.title}\r\n".encode()
    content: bytes = body["body"]
    return head + b"".join(name + b": " + value + b"\r\n" for name, value in fields) + b"\r\n" + content


def _unsent(transport: asyncio.Transport) -> int:
    """Bytes that the other side has not taken yet, those that wait in the system among them."""
    queued = bytes(4)
    with contextlib.suppress(OSError):  # not every system tells
        queued = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, queued)
    return transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)


class _Server(uvicorn.Server):
    """Says where it listens, once it does."""

    def __init__(self, config: uvicorn.Config, shell: Shell) -> None:
        super().__init__(config)
        self._shell = shell

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and not self.should_exit:
            port = self.servers[0].sockets[0].getsockname()[1]
            print(_greeting(self.config.host, port), file=sys.stderr, flush=True)  # noqa: T201

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the streams, which would never end by themselves, before it waits for what is under way."""
        await self._shell.stop(STREAMS_SECONDS)
        await super().shutdown(sockets)


def _greeting(host: str, port: int) -> str:
    url = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{port}"
    create = '{"optimizer":{"name":"adam","learning_rate":0.1},"params":[3,6],"id":"first"}'
    step = '{"gradients":[6,12],"step":1}'
    json = "-H content-type:application/json"
    return (
        f"Thalweg listens on {url} . Try, in another window (or open {url}/docs):\n"
        f"  curl -s {url}/v1/sessions {json} -d '{create}'\n"
        f"  curl -s {url}/v1/sessions/first/steps {json} -d '{step}'"
    )


def _settle() -> None:
    """Tune the interpreter for many small requests and one thread that writes.

    What start-up made lives for ever, so that the collector need not look at it again (a seventh of the time of a
    step otherwise); and the writing thread, back from the disk, should not wait 5 ms for the interpreter.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    sys.setswitchinterval(0.0005)


def serve(app: Shell, settings: Settings) -> bool:
    """Run until a signal comes; whether the service started at all."""
    options: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "log_level": settings.log_level if settings.log_level != "info" else "warning",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "http": protocol(app, settings),
        "ws": Socket,
        "ws_max_size": settings.max_body_bytes,
        "ws_per_message_deflate": False,  # numbers do not shrink by as much as it takes
        "lifespan": "on",
        "timeout_keep_alive": KEEP_ALIVE_SECONDS,
        "timeout_graceful_shutdown": settings.shutdown_seconds,
    }
    _settle()
    for number in (signal.SIGINT, signal.SIGTERM):
        # uvicorn stops gracefully and then raises the signal again; a stop that was asked for is no failure
        signal.signal(number, lambda *_: None)
    server = _Server(uvicorn.Config(app, **options), app)
    server.run()
    return server.started
